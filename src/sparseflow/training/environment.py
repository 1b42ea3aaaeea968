"""Versions and hardware that a run was computed with, as stored in its ``env.json``."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

import sparseflow
from sparseflow.machine import processor, version_of

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
        **{package: version_of(package) for package in _PACKAGES},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": processor(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }
