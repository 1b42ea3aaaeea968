"""Where Numba is not installed, large layers go the plain ways, with the same results."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import sparseflow as sf
from makers import MAKERS
from sparseflow._fast.memory import is_compiled
from sparseflow.masks.topk import topk_mask

HERE = Path(__file__).parent
#: Above the size from which choices are compiled in any process.
LARGE = (1 << 16) + 4321


def digest(method: str) -> str:
    """Of what the core chooses, exchanges, trains and prunes."""
    torch.set_num_threads(1)
    scores = torch.randn(LARGE, generator=torch.Generator().manual_seed(0))
    mask = topk_mask(scores, LARGE // 5)
    model = nn.Sequential(nn.Linear(320, 256), nn.Linear(256, 10))
    block = {"1.weight": (2, 1), "*": (4, 1)} if method.endswith("in blocks") else (1, 1)
    masks = sf.random_masks(model, 0.8, seed=0, block=block)
    sf.initialize_(model, masks, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    updater = MAKERS[method.removesuffix(" in blocks")](update_every=1, update_until=2, block=block)
    sparsifier = sf.Sparsifier(model, optimizer, masks, updater, seed=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    sparsifier.check()
    weights = [sparsifier.model.get_parameter(name).detach() for name in masks]
    pruned = sf.magnitude_masks(model, 0.95, scope="global", block=block)
    tensors = [
        *(mask, *sf.updaters.drop_and_grow(mask, scores.roll(7), scores.roll(9), 1000, 1000)),
        *(*sparsifier.masks.values(), *weights, *pruned.values()),
    ]
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


@pytest.mark.parametrize("method", ["rigl", "set", "rigl in blocks"])
def test_results_do_not_need_numba(method: str) -> None:
    assert is_compiled(torch.ones(LARGE))
    code = f"""
import sys
sys.modules["numba"] = None  # importing it fails, as if it were not installed
sys.path[:0] = {[str(HERE), str(HERE.parent / "helpers")]!r}
import test_without_numba
print(test_without_numba.digest({method!r}))
assert not any(name in sys.modules for name in ("sparseflow._fast.choose", "sparseflow._fast.blocks"))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == digest(method)
    assert {"sparseflow._fast.choose", "sparseflow._fast.clear"} <= sys.modules.keys()


def test_a_numba_that_cannot_be_imported_counts_as_none(tmp_path: Path) -> None:
    """As one made for another NumPy: it is there, and raises."""
    (tmp_path / "numba.py").write_text('raise ImportError("Numba needs NumPy 2.3 or less")')
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import torch
import sparseflow as sf
print(sum(int(mask.sum()) for mask in sf.magnitude_masks(torch.nn.Linear(400, 400), 0.9).values()))
sf.engine
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.stdout == "16000\n"
    assert "the sparse engine needs Numba: pip install numba." in done.stderr
    assert "(Numba needs NumPy 2.3 or less)" in done.stderr
