"""A LightningModule that tests train; run as a program it trains, is killed, and goes on, see ``test_lightning.py``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sparseflow as sf
from sparseflow.integrations.lightning import SparsifierCallback
from tiny import batch, tiny_model


class Lit(lightning.LightningModule):
    """The tiny network, by automatic optimization."""

    def __init__(self, *, momentum: float = 0.9) -> None:
        super().__init__()
        self.net = tiny_model()
        self.momentum = momentum

    def training_step(self, data: list[Tensor], index: int) -> Tensor:
        return F.cross_entropy(self.net(data[0]), data[1])

    def validation_step(self, data: list[Tensor], index: int) -> None:
        self.log("val", F.cross_entropy(self.net(data[0]), data[1]))

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=self.momentum, weight_decay=0.01)


def loader(batches: int = 8) -> DataLoader:
    """The batches of ``tiny.batch``, always in this order."""
    inputs, targets = zip(*map(batch, range(batches)), strict=True)
    return DataLoader(TensorDataset(torch.cat(inputs), torch.cat(targets)), batch_size=8)


def masks_of(module: nn.Module, sparsity: float = 0.7) -> dict[str, Tensor]:
    return sf.random_masks(module, sparsity, seed=0)


def trainer(*callbacks: Callback, **options: Any) -> lightning.Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(each, ModelCheckpoint) for each in callbacks),
        "max_epochs": 3,
        "log_every_n_steps": 2,
    }
    return lightning.Trainer(callbacks=list(callbacks), **{**quiet, **options})


class Kill(Callback):
    """End the process where a power cut could: after a batch, with no chance to clean up."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.after:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, what: str) -> None:
    """``alone`` trains six epochs; ``killed`` dies in the fourth; ``resumed`` goes on from the last checkpoint."""
    torch.set_num_threads(1)
    module = Lit()
    callbacks: list[Callback] = [
        EMAWeightAveraging(decay=0.9),
        SparsifierCallback(masks_of(module), sf.RigL(update_every=3, update_until=20, schedule="constant"), seed=0),
        ModelCheckpoint(folder / "checkpoints", filename="last", enable_version_counter=False),
    ]
    if what == "killed":
        callbacks.append(Kill(after=14))
    where = folder / "checkpoints" / "last.ckpt" if what == "resumed" else None
    fit = trainer(*callbacks, max_epochs=6, accumulate_grad_batches=2, precision="bf16-mixed", gradient_clip_val=0.5)
    fit.fit(module, loader(), ckpt_path=where)
    fit.save_checkpoint(folder / f"{what}.ckpt")


def on_two_processes(folder: Path) -> None:
    """Two epochs by DDP; each process saves what it has at the end."""
    torch.set_num_threads(1)
    module = Lit()
    method = sf.RigL(update_every=2, update_until=6, schedule="constant")
    callback = SparsifierCallback(masks_of(module), method, seed=0)
    fit = trainer(callback, max_epochs=2, devices=2, strategy="ddp", gradient_clip_val=0.5)
    fit.fit(module, loader())
    assert callback.sparsifier is not None
    end = {
        "weights": dict(module.state_dict()),
        "masks": dict(callback.masks),
        "steps": callback.sparsifier.step_count,
        "ranks": callback.sparsifier.check().ranks,
    }
    torch.save(end, folder / f"rank{fit.global_rank}.pt")


if __name__ == "__main__":
    if sys.argv[2] == "ddp":
        on_two_processes(Path(sys.argv[1]))
    else:
        main(Path(sys.argv[1]), sys.argv[2])
