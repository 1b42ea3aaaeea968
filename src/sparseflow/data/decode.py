"""The RGB pixels in the bytes of a file, or one error that says that the file is broken."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from sparseflow.data.optional import optional


class BrokenImageError(ValueError):
    """The bytes hold no image that can be read to its end."""


def decode(encoded: bytes) -> Any:
    """The Pillow image in mode RGB that a JPEG, PNG or other file holds, decoded in full size and to the last pixel.

    Grey, CMYK and transparent images become RGB. Orientation tags are not followed, as in the authors' program.

    Args:
        encoded: Content of the file.

    Raises:
        BrokenImageError: if it is empty, truncated, damaged, or no image at all.

    >>> pixels = optional("PIL.Image").new("L", (3, 2), 7)
    >>> file = io.BytesIO()
    >>> pixels.save(file, "PNG")
    >>> decode(file.getvalue()).getpixel((0, 0))
    (7, 7, 7)
    """
    pillow = optional("PIL.Image")
    if not encoded:
        raise BrokenImageError("it is empty")
    try:
        image = pillow.open(io.BytesIO(encoded))
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    except pillow.UnidentifiedImageError as error:
        raise BrokenImageError(f"it is no image; it starts with {encoded[:8]!r}") from error
    # Pillow's readers let through what their parsers raise on damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error) as error:
        raise BrokenImageError(str(error) or type(error).__name__) from error
    except pillow.DecompressionBombError as error:
        raise BrokenImageError(str(error)) from error
