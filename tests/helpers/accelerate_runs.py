"""A loop of accelerate's own kind, with accumulation, bf16 and checkpoints; as a program, to be killed.

``python accelerate_runs.py FOLDER STEP`` trains and kills itself with SIGKILL after an optimizer step;
``python accelerate_runs.py FOLDER resume`` goes on from the checkpoint and writes ``FOLDER/end.pt``.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

import sparseflow as sf

STEPS, EVERY, ACCUMULATE = 24, 6, 2


def prepared() -> tuple[Accelerator, nn.Module, Any, Any, sf.Sparsifier]:
    """Everything of a run, as at its start."""
    accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=ACCUMULATE)
    torch.manual_seed(0)
    inputs = torch.randn(STEPS * ACCUMULATE * 8, 32)
    targets = (inputs @ torch.randn(32, 4)).argmax(1)
    model: nn.Module = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    # A generator of its own: else to begin an epoch, which a resumed run does too, draws from the one of the dropout.
    rows, draws = torch.utils.data.TensorDataset(inputs, targets), torch.Generator()
    batches = torch.utils.data.DataLoader(rows, batch_size=8, generator=draws)
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    method = sf.RigL(update_every=3, total_steps=STEPS, schedule="cosine")
    sparsifier = sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.8, seed=0), method, seed=0)
    accelerator.register_for_checkpointing(sparsifier)
    return accelerator, model, optimizer, batches, sparsifier


def train(folder: Path, *, resume: bool = False, kill_at: int | None = None) -> dict[str, Any]:
    """The run from its start or its checkpoint to its end."""
    accelerator, model, optimizer, batches, sparsifier = prepared()
    if resume:
        accelerator.load_state(str(folder / "checkpoint"))
        batches = accelerator.skip_first_batches(batches, sparsifier.step_count * ACCUMULATE)
    for x, y in batches:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.cross_entropy(model(x), y))
            if accelerator.sync_gradients:
                sparsifier.mask_gradients_()
                accelerator.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
        if not accelerator.sync_gradients:
            continue
        if sparsifier.step_count % EVERY == 0:
            accelerator.save_state(str(folder / "checkpoint"))
        if sparsifier.step_count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    sparsifier.check()
    return {
        "weights": dict(accelerator.unwrap_model(model).state_dict()),
        "optimizer": optimizer.state_dict()["state"],
        "sparsifier": sparsifier.state_dict(),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, what = Path(sys.argv[1]), sys.argv[2]
    if what == "resume":
        torch.save(train(place, resume=True), place / "end.pt")
    else:
        train(place, kill_at=int(what))
