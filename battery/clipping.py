"""What Hugging Face's Trainer clips: the norm over all gradients, the inactive weights' too, before any callback."""

from __future__ import annotations

import importlib
import logging
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from battery.network import SPARSITY, batch, network

MAX_NORM = 0.1


def clipping() -> dict[str, float]:
    """Norm of the active weights' gradients over ``max_grad_norm`` after the Trainer has clipped; two digits.

    ``as_it_is`` with the callback alone; ``masked_first`` with ``SparseTrainerMixin`` too.
    """
    logging.getLogger("transformers").setLevel(logging.ERROR)
    return {"sparsity": SPARSITY, "as_it_is": _share(masked_first=False), "masked_first": _share(masked_first=True)}


class _WithLoss(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, points: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss as the Trainer wants it."""
        return {"loss": F.cross_entropy(self.model(points), labels)}


def _share(*, masked_first: bool) -> float:
    # Not before the libraries, which make torchvision importable beside a torch for CPUs; the Trainer imports it.
    transformers: Any = importlib.import_module("transformers")
    ours: Any = importlib.import_module("sparseflow.integrations.transformers")
    model, masks = network(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    callback = ours.SparsifierCallback({f"model.{name}": mask for name, mask in masks.items()})
    shares: list[float] = []

    class Watch(transformers.TrainerCallback):  # type: ignore[misc]
        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            callback.mask_gradients_()
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            shares.append(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()) / MAX_NORM)

    class SparseTrainer(ours.SparseTrainerMixin, transformers.Trainer):  # type: ignore[misc]
        pass

    points, labels = batch(0)
    data = [{"points": point, "labels": label} for point, label in zip(points, labels, strict=True)]
    with TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=str(Path(folder)),
            max_grad_norm=MAX_NORM,
            per_device_train_batch_size=16,
            max_steps=4,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            seed=0,
        )
        trainer = (SparseTrainer if masked_first else transformers.Trainer)(
            model=_WithLoss(model),
            args=arguments,
            train_dataset=data,
            optimizers=(optimizer, None),
            callbacks=[callback, Watch()],
        )
        with warnings.catch_warnings():  # the callback says itself what is measured here
            warnings.simplefilter("ignore")
            trainer.train()
    return float(f"{sum(shares) / len(shares):.2g}")
