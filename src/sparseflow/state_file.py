"""A state on disk: tensors and plain Python values, written atomically, with a SHA-256 that is compared when read."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparseflow.atomic import write_atomically
from sparseflow.sealed import DamagedError, read_archive, seal_archive_

_PLAIN = (bool, int, float, str, bytes, type(None))


#: What a file says of itself: the run, the step.
_OF = "of"


def write_checkpoint(path: Path, state: dict[str, Any], *, of: Mapping[str, Any] | None = None) -> None:
    """Write a state that :func:`read_checkpoint` gives back equal.

    Args:
        path: In a folder that exists; replaced atomically.
        state: Tensors and plain Python values, nested in dicts, lists and tuples. A generator goes in as its
            ``get_state()``.
        of: Plain values that say whose it is, so that under another name it is not taken for another one.

    Raises:
        TypeError: If the state holds anything else: it could not be loaded safely.
        OSError: If the disk is full; ``path`` is then as it was.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_checkpoint(Path(folder) / "000100.pt", {"step": 100, "weight": torch.ones(3)})
    ...     state = read_checkpoint(Path(folder) / "000100.pt")
    >>> state["step"] == 100, torch.equal(state["weight"], torch.ones(3))
    (True, True)
    """
    _require_plain(state, "state")
    buffer = io.BytesIO()
    torch.save(state if of is None else {**state, _OF: dict(of)}, buffer)
    seal_archive_(buffer)
    write_atomically(path, buffer.getbuffer())


def read_checkpoint(
    path: Path, *, of: Mapping[str, Any] | None = None, cure: str = "Delete the folder of its run and run again."
) -> dict[str, Any]:
    """The state that :func:`write_checkpoint` wrote, on the CPU.

    Args:
        path: Of the file.
        of: What it must say of itself, if it was written with that.
        cure: Ends the text of an error: what to type.

    Raises:
        OSError: If it cannot be read.
        ValueError: If the file is damaged, be it by one bit, or is that of another step or run.
    """
    data = io.BytesIO(read_archive(path, cure=cure))
    try:
        state: dict[str, Any] = torch.load(data, map_location="cpu", weights_only=True)
    except Exception as error:  # whole, and of another program
        raise DamagedError(path, str(error).splitlines()[0], cure=cure) from error
    if of is not None and (held := state.pop(_OF, of)) != of:
        other = {name: value for name, value in of.items() if held.get(name) != value}
        said = ", ".join(f"{name} {held.get(name)!r}, not {value!r}" for name, value in other.items())
        raise ValueError(f"checkpoint {path} is under a name that is not its own: it is of {said}. {cure}")
    return state


def _require_plain(value: object, where: str) -> None:
    # Exact types: numpy.float64 is a float to isinstance, and not to a weights-only load.
    if isinstance(value, Tensor) or type(value) in _PLAIN:
        return
    if type(value) in (dict, OrderedDict):
        assert isinstance(value, dict)
        for key, item in value.items():
            _require_plain(key, f"a key of {where}")
            _require_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        assert isinstance(value, list | tuple)
        for index, item in enumerate(value):
            _require_plain(item, f"{where}[{index}]")
    else:
        raise TypeError(
            f"a checkpoint holds tensors and plain Python values, but {where} is a {type(value).__name__}. "
            "Convert it: float(x), x.tolist(), generator.get_state()."
        )
