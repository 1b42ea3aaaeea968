"""Kernels are compiled once, kept on disk until the engine changes, and the wait is announced."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from numba import types
from torch import nn

import sparseflow as sf
import sparseflow.engine
from sparseflow.engine.kernels import compiling
from sparseflow.engine.kernels.sums import row_sums, sampled_dots, weighted_sums
from sparseflow.engine.layers.pattern import _take
from sparseflow.engine.plans.slices import run_slices

#: Uses one kernel and says how often its code was found on disk, and how often it had to be compiled.
USE = """
import numpy as np
from sparseflow.engine.kernels.sums import row_sums
row_sums(np.ones(4, np.float32), 0, 2, np.zeros(2, np.float32), 0, 2, 1, 0, 1, 0, 2)
print(sum(row_sums.stats.cache_hits.values()), sum(row_sums.stats.cache_misses.values()))
"""


def test_the_second_process_compiles_nothing(tmp_path: Path) -> None:
    counts = []
    for _ in range(2):
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
        result = subprocess.run(
            [sys.executable, "-c", USE], capture_output=True, text=True, check=True, env=environment
        )
        counts.append(result.stdout.split())
    assert counts == [["0", "1"], ["1", "0"]]


def test_all_kernels_are_as_old_as_the_newest_file_of_the_engine() -> None:
    stamps = {function._cache._cache_file._source_stamp for function in (row_sums, weighted_sums, _take, run_slices)}
    assert stamps == {compiling.fingerprint(Path(sparseflow.engine.__file__).parent)}


def test_a_change_in_any_file_makes_a_new_fingerprint(tmp_path: Path) -> None:
    deeper = tmp_path / "plans" / "b.py"
    deeper.parent.mkdir()
    (tmp_path / "a.py").write_text("x = 1")
    deeper.write_text("y = 1")
    before = compiling.fingerprint(tmp_path)
    assert compiling.fingerprint(tmp_path) == before
    deeper.write_text("y = 2")
    assert compiling.fingerprint(tmp_path) != before


def test_kernels_are_compiled_for_no_constant_and_no_stride() -> None:
    """The gradient of a sum is one number with stride 0; the interpreter begins at output 0."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5))
    masks = sf.random_masks(model, 0.5, seed=0)
    sparse = sf.engine.convert(sf.apply_masks_(model, masks), masks)
    x = torch.ones(3, 4)
    expected = torch.autograd.grad(model(x).sum(), model[0].bias)[0]
    torch.testing.assert_close(torch.autograd.grad(sparse(x).sum(), sparse[0].bias)[0], expected)
    kinds = [
        kind
        for kernel in (run_slices, weighted_sums, sampled_dots, row_sums)
        for each in kernel.signatures
        for kind in each
    ]
    assert kinds
    assert not [kind for kind in kinds if isinstance(kind, types.Literal) or getattr(kind, "layout", "C") != "C"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_long_wait_is_announced_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_PATIENCE", 0.01)
    for stream, speaks in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with compiling.said_aloud():
            time.sleep(0.3)
        assert ("compiles its kernels for this machine, once" in stream.getvalue()) == speaks
        if speaks:
            assert stream.getvalue().endswith("\r")  # the line is cleared


def test_a_short_wait_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with compiling.said_aloud():
        pass
    assert terminal.getvalue() == ""
