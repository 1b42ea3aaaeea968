"""The kernels as a machine without AVX-512 compiles them: eight numbers a vector, sixteen registers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

AVX2 = "+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+bmi,+bmi2,+f16c,+lzcnt"
HERE = Path(__file__).parent


@pytest.mark.slow
def test_kernels_without_avx512_are_right(tmp_path: Path) -> None:
    if sys.platform != "linux" or "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("needs an x86 machine that runs AVX2, and Linux to ask it")
    environment = os.environ | {
        "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": AVX2, "NUMBA_CACHE_DIR": str(tmp_path)
    }  # fmt: skip
    seen = "from sparseflow.engine.kernels.vectors import REGISTERS, WIDTH; print(WIDTH, REGISTERS)"
    width = subprocess.run([sys.executable, "-c", seen], env=environment, capture_output=True, text=True, check=True)
    assert width.stdout.split() == ["8", "16"]
    files = [str(HERE / f"test_kernels_{name}.py") for name in ("transpose", "gradients", "blocks")]
    tests = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        *files,
        "-k",
        "not float64",
    ]
    found = subprocess.run(tests, env=environment, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
