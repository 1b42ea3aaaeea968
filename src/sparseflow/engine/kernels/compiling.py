"""Compilation of the engine's kernels: once, kept on disk, and not silently."""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba

#: Sums may be taken in another order, which vectors need; NaN and infinity stay what they are.
_FASTMATH = {"reassoc", "nsz", "contract"}
#: Seconds of compilation after which it is announced.
_PATIENCE = 1.0
_SPINNER = "|/-\\"


def fingerprint(folder: Path) -> str:
    """The SHA-256 of all Python files in a folder and the folders in it."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


#: Of the whole engine: layers and plans have kernels of their own.
_FINGERPRINT = fingerprint(Path(__file__).parents[1])


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first use, without the interpreter's lock, and keep the result on disk.

    Numba keeps a compiled function as long as its own file does not change, though it contains what it calls. Here a
    change in any file of the engine compiles all kernels anew.
    """
    compiled: Callable[..., Any] = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_FASTMATH)(function)
    compiled._cache._cache_file._source_stamp = _FINGERPRINT  # type: ignore[attr-defined]
    return compiled


def part(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function as a piece of the kernels that call it."""
    compiled: Callable[..., Any] = numba.njit(nogil=True, error_model="numpy", fastmath=_FASTMATH)(function)
    return compiled


@contextmanager
def said_aloud() -> Iterator[None]:
    """Show on standard error that kernels are being compiled, if that takes longer than a second."""
    if not sys.stderr.isatty():
        yield
        return
    done = threading.Event()

    def spin() -> None:
        start = time.monotonic()
        if done.wait(_PATIENCE):
            return
        turn = 0
        while not done.wait(0.1):
            seconds = time.monotonic() - start
            print(
                f"\r{_SPINNER[turn % 4]} sparseflow compiles its kernels for this machine, once ({seconds:.0f} s)",
                end="", file=sys.stderr, flush=True,
            )  # fmt: skip
            turn += 1
        print("\r" + " " * 78 + "\r", end="", file=sys.stderr, flush=True)

    spinner = threading.Thread(target=spin, daemon=True)
    spinner.start()
    try:
        yield
    finally:
        done.set()
        spinner.join()
