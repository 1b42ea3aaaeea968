"""A Sparsifier among the objects that accelerate saves and loads: bit for bit, or an error."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import sparseflow as sf

pytest.importorskip("accelerate", reason="accelerate is not installed")

from accelerate import Accelerator
from accelerate.state import AcceleratorState

import accelerate_runs as runs
from equal import same
from pages import run_page


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in the processes that are killed; accelerate's precision is of a process, and other tests choose another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(threads)


def test_a_killed_run_ends_bit_for_bit_as_one_left_alone(tmp_path: Path) -> None:
    """A real SIGKILL two steps after a checkpoint, with accumulation, bf16, dropout, clipping and RigL."""
    command = [sys.executable, str(runs.__file__), str(tmp_path)]
    killed = subprocess.run([*command, "14"], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = subprocess.run([*command, "resume"], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    (tmp_path / "alone").mkdir()
    alone = runs.train(tmp_path / "alone")
    same(torch.load(tmp_path / "end.pt", weights_only=True), alone)
    assert alone["sparsifier"]["step_count"] == runs.STEPS


def test_a_sparsifier_that_is_not_registered_yet_when_the_state_is_loaded(tmp_path: Path) -> None:
    """Accelerate refuses to load; masks of the start, made afterwards without their state, are refused at the step."""
    runs.train(tmp_path)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=runs.ACCUMULATE)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(64, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model, optimizer = accelerator.prepare(model, optimizer)
    checkpoint = shutil.copytree(tmp_path / "checkpoint", tmp_path / "other")
    with pytest.raises(RuntimeError, match="does not match the number of registered objects"):
        accelerator.load_state(str(checkpoint))
    # By then model and optimizer are loaded. Whoever goes on with the masks of the start is stopped:
    sparsifier = sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.8, seed=0), sf.Static(), seed=0)
    accelerator.backward(model(torch.randn(8, 32)).square().mean())
    accelerator.gradient_state._set_sync_gradients(True)
    with pytest.raises(sf.BrokenPromiseError, match="load"):
        optimizer.step()
    # and the state that was saved makes it right.
    sparsifier.load_state_dict(torch.load(checkpoint / "custom_checkpoint_0.pkl", weights_only=True))
    optimizer.step()
    sparsifier.check()
    assert sparsifier.step_count == runs.STEPS + 1


def test_the_page(tmp_path: Path) -> None:
    assert run_page("accelerate.md", tmp_path).strip() == "True"
