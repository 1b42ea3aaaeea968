"""This machine and what is installed on it, without loading any of it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

#: Environment variable with the folder of datasets.
DATA_VARIABLE = "SPARSEFLOW_DATA"
#: Vector instructions that the engine's kernels use where they are there.
_FEATURES = {"avx2": "AVX2", "fma": "FMA", "avx512f": "AVX-512", "avx512_bf16": "AVX-512 BF16", "amx_bf16": "AMX BF16"}


def processor() -> str:
    """The processor's name, as far as the system knows it.

    >>> bool(processor())
    True
    """
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def vector_instructions() -> list[str]:
    """Names of the vector instructions of this processor; empty where the system does not say.

    >>> set(vector_instructions()) <= {"AVX2", "FMA", "AVX-512", "AVX-512 BF16", "AMX BF16"}
    True
    """
    flags = set((_cpuinfo("flags") or "").split())
    return [name for flag, name in _FEATURES.items() if flag in flags]


def version_of(package: str) -> str | None:
    """The installed version of a distribution; ``None`` if it is not there. The package is not imported.

    >>> version_of("no-such-package") is None
    True
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def usable_cpus() -> int:
    """Processors that this process may use.

    >>> usable_cpus() > 0
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def data_folder() -> Path:
    """The folder of datasets: ``$SPARSEFLOW_DATA``, else the user's cache.

    Raises:
        ModuleNotFoundError: if the variable is not set and pooch, which knows the cache, is not installed.
    """
    if given := os.environ.get(DATA_VARIABLE):
        return Path(given).expanduser()
    import pooch

    # pooch.os_cache answers a Path, but is not typed.
    return Path(pooch.os_cache("sparseflow")).expanduser()


def _cpuinfo(key: str) -> str | None:
    """The first value of a key of Linux's ``/proc/cpuinfo``."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == key), None)
