"""A small language model on Python's own sources, trained by Hugging Face's Trainer; as a program, to be killed.

``python trainer_runs.py FOLDER STEP`` trains and kills itself with SIGKILL after an optimizer step;
``python trainer_runs.py FOLDER resume`` goes on from the last checkpoint and writes ``FOLDER/end.pt``.
``torchrun trainer_runs.py FOLDER two`` trains by several processes, ``two-resume`` goes on; both write ``end-RANK.pt``.
``sharded`` and ``exported`` are for :func:`processes.run_ranks`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

import sparseflow as sf
from sparseflow.integrations.transformers import SparseTrainerMixin, SparsifierCallback, save_pretrained
from sparseflow.sharded import full, is_sharded, local


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


#: How a Trainer under FSDP2 writes weights: whole, or a part for each process.
KINDS = ("FULL_STATE_DICT", "SHARDED_STATE_DICT")


def clipped(folder: Path | str, batch_size: int, **changes: Any) -> tuple[SparseTrainer, SparsifierCallback]:
    """A run whose steps do not depend on how many processes share a batch."""
    callback = SparsifierCallback(magnitude, rigl)
    given = arguments(folder, per_device_train_batch_size=batch_size, max_grad_norm=0.5, **changes)
    if "fsdp" in changes:
        # accelerate shards on accelerators alone and takes DDP for several CPUs, without a word; so call them GPUs
        assert given.distributed_state.distributed_type == DistributedType.MULTI_CPU
        given.distributed_state.distributed_type = DistributedType.MULTI_GPU
    return SparseTrainer(network(dropout=0.0), given, train_dataset=data(), callbacks=[callback]), callback


def sharded(folder: Path, name: str, resume: bool) -> None:
    """Train in each of the kinds by FSDP2, or go on; write what all processes hold together to ``NAME-RANK.pt``."""
    ends = {}
    for kind in KINDS:
        config = {"version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"], "state_dict_type": kind}
        trainer, callback = clipped(folder / kind, 4, fsdp=True, fsdp_config=config)
        trainer.train(resume_from_checkpoint=resume)
        save_pretrained(trainer.model, folder / kind / "out")
        weights, masks = dict(trainer.model.named_parameters()), callback.masks
        assert all(map(is_sharded, [*weights.values(), *masks.values()]))
        ends[kind] = {
            "weights": {name: full(weight).clone() for name, weight in weights.items()},
            "masks": {name: full(mask).clone() for name, mask in masks.items()},
            "off": sum(int(local(weights[name])[~local(mask)].count_nonzero()) for name, mask in masks.items()),
            "part": sum(local(mask).numel() for mask in masks.values()),
        }
    torch.save(ends, folder / f"{name}-{os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()


def tied() -> LlamaForCausalLM:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=True, **sizes))


def exported(folder: Path) -> None:
    """Export a model by several processes, the first of them first, and one that they share, together."""
    torch.distributed.init_process_group("gloo")
    for rank in range(torch.distributed.get_world_size()):
        if rank == torch.distributed.get_rank():
            save_pretrained(network(), folder / "one")
        torch.distributed.barrier()
    model = tied()
    fully_shard(model, mesh=init_device_mesh("cpu", (torch.distributed.get_world_size(),)))
    save_pretrained(model, folder / "tied")
    torch.distributed.destroy_process_group()


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
