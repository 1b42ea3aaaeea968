"""``sparseflow info``: versions, processor, threads, extras and caches in one block for a bug report; loads nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path

import sparseflow
from sparseflow.machine import data_folder, processor, usable_cpus, vector_instructions, version_of

_PACKAGES = ("torch", "numpy", "numba")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def facts() -> dict[str, str]:
    """Name of a fact -> what it is; the home folder is written as ``~``.

    >>> facts()["sparseflow"] == sparseflow.__version__
    True
    """
    set_threads = [f"{name}={os.environ[name]}" for name in _THREADS if name in os.environ]
    return {
        "sparseflow": sparseflow.__version__,
        "python": platform.python_version(),
        **{package: version_of(package) or "not installed" for package in _PACKAGES},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": processor(),
        "vector instructions": ", ".join(vector_instructions()) or "not known",
        "cpu_count": str(os.cpu_count()),
        "threads": f"{usable_cpus()} CPUs usable; {', '.join(set_threads) or 'no limit set'}",
        "engine": "sparse on the CPU" if version_of("numba") else "masked only; pip install numba",
        **{f"extra {name}": state for name, state in extras().items()},
        "data": _data(),
        "compiled kernels": _short(os.environ.get("NUMBA_CACHE_DIR") or f"{Path(__file__).parents[1]}/**/__pycache__"),
    }


def extras() -> dict[str, str]:
    """Extra of the package -> ``installed``, or what is missing of it.

    >>> set(extras().values()) <= {"installed"} or "missing" in str(extras())
    True
    """
    try:
        needed = importlib.metadata.requires("sparseflow") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for line in needed:
        if (extra := re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)) and (name := re.match(r"[\w.-]+", line)):
            found.setdefault(extra[1], []).append(name[0])
    missing = {extra: [name for name in names if version_of(name) is None] for extra, names in found.items()}
    return {extra: f"missing {', '.join(names)}" if names else "installed" for extra, names in missing.items()}


def _data() -> str:
    try:
        return _short(str(data_folder()))
    except ModuleNotFoundError:
        return 'SPARSEFLOW_DATA is not set, and the cache is not known: pip install "sparseflow[lab]"'


def _short(path: str) -> str:
    home = str(Path.home())
    return f"~{path.removeprefix(home)}" if home != "/" and path.startswith(f"{home}/") else path


def main() -> None:
    """Print versions, processor, threads, extras and caches, for a bug report."""
    print("\n".join(f"{name}: {value}" for name, value in facts().items()))
