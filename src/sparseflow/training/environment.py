"""Versions and hardware that a run was computed with, as stored in its ``env.json``."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

import sparseflow

_PACKAGES = ("torch", "numpy", "numba")


def describe_environment() -> dict[str, Any]:
    """Versions, platform and threads; nothing that names the machine or its user.

    Returns:
        Plain values, ready for JSON; the version of a package that is not installed is None.

    >>> describe_environment()["torch"] == str(torch.__version__)
    True
    """
    return {
        "sparseflow": sparseflow.__version__,
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": processor(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }


def processor() -> str:
    """The processor's name, as far as the system knows it.

    >>> bool(processor())
    True
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str | None:
    # The installed version is read, not the module's, because importing numba takes a second.
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
