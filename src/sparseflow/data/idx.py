"""The IDX file format of MNIST and its relatives, gzipped or not."""

from __future__ import annotations

import gzip
import math
import zlib

import numpy as np
from numpy.typing import NDArray

_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTES = b"\x00\x00\x08"


def parse_idx(data: bytes, *, source: str) -> NDArray[np.uint8]:
    r"""The array in an IDX file of unsigned bytes.

    Layout: ``00 00 08``, the number of dimensions (1 byte), each dimension (4 bytes, big-endian), then the values with
    the last index running fastest.

    Args:
        data: The decompressed file.
        source: What the error calls it, such as its path.

    Returns:
        uint8, of the shape that the header gives; read-only.

    Raises:
        ValueError: If ``data`` is no IDX file of bytes, or its length is not the one its header promises.

    Reference:
        LeCun, Cortes and Burges, *The MNIST database of handwritten digits*, section "File formats".

    >>> parse_idx(b"\x00\x00\x08\x02" + b"\x00\x00\x00\x02" * 2 + b"\x01\x02\x03\x04", source="here").tolist()
    [[1, 2], [3, 4]]
    """
    if data[:3] != _UNSIGNED_BYTES or len(data) < 4:
        raise ValueError(
            f"{source} is not an IDX file of bytes: it begins with {data[:4].hex(' ') or 'nothing'}, "
            "an IDX file of bytes with 00 00 08 and its number of dimensions."
        )
    num_dims = data[3]
    begin = 4 + 4 * num_dims
    shape = tuple(int(size) for size in np.frombuffer(data[4:begin].ljust(4 * num_dims, b"\0"), dtype=">u4"))
    if len(data) != begin + math.prod(shape):
        raise ValueError(
            f"{source} is truncated or damaged: it holds {len(data):,} bytes, "
            f"its header (shape {shape}) promises {begin + math.prod(shape):,}."
        )
    return np.frombuffer(data, dtype=np.uint8, offset=begin).reshape(shape)


def is_gzip(data: bytes) -> bool:
    """Whether ``data`` begins like a gzip file.

    >>> is_gzip(gzip.compress(b"digits")), is_gzip(b"digits")
    (True, False)
    """
    return data.startswith(_GZIP_MAGIC)


def decompress(data: bytes, *, source: str) -> bytes:
    """``data`` without its gzip layer; data that has none is returned as it is.

    Raises:
        ValueError: If the gzip stream is damaged or ends too early.

    >>> decompress(gzip.compress(b"digits"), source="here") == decompress(b"digits", source="here")
    True
    """
    if not is_gzip(data):
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{source} is a truncated or damaged gzip file ({error}).") from error
