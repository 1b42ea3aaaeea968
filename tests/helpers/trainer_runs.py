"""A small language model on Python's own sources, trained by Hugging Face's Trainer; as a program, to be killed.

``python trainer_runs.py FOLDER STEP`` trains and kills itself with SIGKILL after an optimizer step;
``python trainer_runs.py FOLDER resume`` goes on from the last checkpoint and writes ``FOLDER/end.pt``.
``torchrun trainer_runs.py FOLDER two`` trains by several processes, ``two-resume`` goes on; both write ``end-RANK.pt``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

import sparseflow as sf
from sparseflow.integrations.transformers import SparseTrainerMixin, SparsifierCallback


class SparseTrainer(SparseTrainerMixin, Trainer):
    pass


def data(length: int = 16, count: int = 400) -> list[dict[str, Tensor]]:
    """Rows of bytes of the standard library's json package, each its own target."""
    text = b"".join(path.read_bytes() for path in sorted(Path(json.__file__).parent.glob("*.py")))
    rows = torch.tensor(list(text[: length * count])).view(-1, length)
    return [{"input_ids": row, "labels": row} for row in rows]


def network(seed: int = 0, *, hidden: int = 32, dropout: float = 0.1) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=hidden,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        attention_dropout=dropout,
        attn_implementation="eager",
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


def arguments(folder: Path | str, **changes: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "max_steps": 20,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 5,
        "save_steps": 5,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
    }
    return TrainingArguments(str(folder), **(settings | changes))


def magnitude(model: torch.nn.Module) -> sf.Masks:
    return sf.magnitude_masks(model, 0.9)


def rigl(total_steps: int) -> sf.updaters.DropGrow:
    return sf.RigL(update_every=3, total_steps=total_steps, schedule="cosine")


def end(trainer: Trainer, callback: SparsifierCallback) -> dict[str, Any]:
    """Everything that two runs must agree on: weights, masks, optimizer state, counts, draws."""
    assert callback.sparsifier is not None
    return {
        "weights": {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()},
        "optimizer": trainer.optimizer.state_dict()["state"],
        "sparsifier": callback.sparsifier.state_dict(),
    }


class Kill(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def accumulated_bf16(folder: Path | str, *others: TrainerCallback, resume: bool = False) -> dict[str, Any]:
    """A run with gradient accumulation, bf16 and dropout."""
    callback = SparsifierCallback(magnitude, rigl)
    trainer = SparseTrainer(
        model=network(),
        args=arguments(folder, gradient_accumulation_steps=2, bf16=True, max_grad_norm=0.5),
        train_dataset=data(),
        callbacks=[callback, *others],
    )
    trainer.train(resume_from_checkpoint=resume)
    return end(trainer, callback)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, what = Path(sys.argv[1]), sys.argv[2]
    if what.startswith("two"):
        found = accumulated_bf16(folder, resume=what == "two-resume")
        torch.save(found, folder / f"end-{os.environ['RANK']}.pt")
        torch.distributed.destroy_process_group()
    elif what == "resume":
        torch.save(accumulated_bf16(folder, resume=True), folder / "end.pt")
    else:
        accumulated_bf16(folder, Kill(int(what)))
