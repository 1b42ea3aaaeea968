"""Prune a trained language model to 90 % with Hugging Face's Trainer, export it, and read it back."""

import copy
import email
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import sparseflow as sf
from sparseflow.integrations.transformers import SparseTrainerMixin, SparsifierCallback, save_pretrained


class SparseTrainer(SparseTrainerMixin, Trainer):
    """The Trainer, which masks gradients before it clips them."""


def trainer(model: Any, steps: int, *callbacks: SparsifierCallback) -> Any:
    """A Trainer on bytes of Python's own sources, in rows of 32; every fiftieth row is held out."""
    text = b"".join(path.read_bytes() for path in sorted(Path(email.__file__).parent.glob("*.py")))
    rows = [{"input_ids": row, "labels": row} for row in torch.tensor(list(text)).split(32)[:-1]]
    arguments = TrainingArguments(
        folder.name,
        max_steps=steps,
        learning_rate=1e-2,
        per_device_train_batch_size=16,
        logging_steps=24,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    held_out, shown = rows[::50], [row for number, row in enumerate(rows) if number % 50]
    return SparseTrainer(model, arguments, train_dataset=shown, eval_dataset=held_out, callbacks=list(callbacks))


folder = TemporaryDirectory()
torch.manual_seed(0)
size: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
model = LlamaForCausalLM(LlamaConfig(vocab_size=256, **size))
training = trainer(model, 120)
training.train()
losses = {"dense, as it was trained": training.evaluate()["eval_loss"]}

pruned = copy.deepcopy(model)
sf.apply_masks_(pruned, sf.magnitude_masks(pruned, 0.9, exclude=["lm_head"]))
losses["90 % pruned, nothing else"] = trainer(pruned, 1).evaluate()["eval_loss"]

gradual = SparsifierCallback(
    lambda model: sf.dense_masks(model, exclude=["lm_head"]),  # the last layer stays dense
    lambda total_steps: sf.GMP(sparsity=0.9, begin=1, end=total_steps // 2, update_every=5),
)
training = trainer(model, 120, gradual)
training.train()
losses["90 % pruned while it is fine-tuned"] = training.evaluate()["eval_loss"]

save_pretrained(model, Path(folder.name) / "sparse")
again = AutoModelForCausalLM.from_pretrained(Path(folder.name) / "sparse")
losses["  the same, exported and read back"] = trainer(again, 1).evaluate()["eval_loss"]

assert gradual.record is not None
print(gradual.record.table())
for name, loss in losses.items():
    print(f"{name:36} {loss:.2f} nats a byte")
dense, cut, tuned, read = losses.values()
assert abs(sf.sparsity_of(sf.masks_of(again)) - 0.9) < 0.001
assert tuned == read
assert tuned - dense < (cut - dense) / 2
folder.cleanup()
