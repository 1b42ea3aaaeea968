"""Work for compiled code on the threads that torch itself computes with."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_pools: dict[int, ThreadPoolExecutor] = {}
_forked = False


def on_threads(threads: int, run: Callable[[int], None]) -> None:
    """Call ``run(0)``, ..., ``run(threads - 1)`` at the same time.

    For work that Python divides; compiled code hands over by :func:`team`, at less than a tenth of the cost. Each
    should spend its time in compiled code that leaves the interpreter's lock alone. torch's OpenMP threads wait
    for work at full speed for a while after each operation, and would take the cores from threads of our own. So these
    are used where they are GNU's, and threads of Python elsewhere and after a fork.

    Raises:
        BaseException: the first that a part raised, when all parts are done.

    >>> found = [0, 0, 0]
    >>> on_threads(3, lambda part: found.__setitem__(part, part + 1))
    >>> found
    [1, 2, 3]
    """
    if threads == 1:
        run(0)
        return
    openmp = None if _forked else _openmp()
    if openmp is None:
        _on_own_threads(threads, run)
        return
    failures: list[BaseException] = []

    def body(_: object) -> None:
        # OpenMP may give fewer threads than asked for, as within one of its own loops.
        for part in range(openmp.omp_get_thread_num(), threads, openmp.omp_get_num_threads()):
            try:
                run(part)
            except BaseException as error:  # noqa: BLE001 - it is raised below; C code cannot pass it on
                failures.append(error)

    openmp.GOMP_parallel(_BODY(body), None, threads, 0)
    if failures:
        raise failures[0]


def team() -> int:
    """The address of the function by which compiled code hands work to the threads of :func:`on_threads`, or 0.

    It is C's ``void GOMP_parallel(void (*body)(void *), void *data, unsigned threads, unsigned flags)`` where torch's
    threads are GNU's, and this process was not forked from one that may have used them.

    >>> team() == team()
    True
    """
    return 0 if _forked else _address()


@cache
def _address() -> int:
    openmp = _openmp()
    return 0 if openmp is None else ctypes.cast(openmp.GOMP_parallel, ctypes.c_void_p).value or 0


@cache
def _openmp() -> ctypes.CDLL | None:
    """GNU's OpenMP, if torch has loaded it."""
    try:
        library = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        library.GOMP_parallel.argtypes = [_BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    except (OSError, AttributeError):
        return None
    return library


def _on_own_threads(threads: int, run: Callable[[int], None]) -> None:
    if threads not in _pools:
        _pools[threads] = ThreadPoolExecutor(threads - 1, thread_name_prefix="sparseflow")
    waiting = [_pools[threads].submit(run, part) for part in range(1, threads)]
    try:
        run(0)
    finally:
        # What the others write to must not be freed under them.
        failures = [error for done in waiting if (error := done.exception()) is not None]
    if failures:
        raise failures[0]


def _after_fork() -> None:
    # Threads do not survive a fork: a pool that seems to have them would wait for ever.
    global _forked
    _forked = True
    _pools.clear()


os.register_at_fork(after_in_child=_after_fork)
