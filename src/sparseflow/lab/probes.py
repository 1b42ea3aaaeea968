"""What a run measures while it trains; nothing here changes the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

import sparseflow as sf
from sparseflow.analysis import record_update_flow
from sparseflow.gradients import undisturbed
from sparseflow.lab.data import Dataset

Log = Callable[[int, Mapping[str, float]], None]


def evaluate(model: nn.Module, data: Dataset, *, batch_size: int = 1000) -> dict[str, float]:
    """Accuracy (a fraction) and mean cross-entropy (nats) on the test set, in eval mode."""
    correct, loss = 0, 0.0
    with torch.no_grad(), undisturbed(model, training=False):
        for images, labels in zip(data.test_images.split(batch_size), data.test_labels.split(batch_size), strict=True):
            logits = model(images)
            correct += int((logits.argmax(1) == labels).sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
    return {"test/accuracy": correct / len(data.test_labels), "test/loss": loss / len(data.test_labels)}


class Probes:
    """Gradient flow on val-1, its change at mask updates, and test accuracy, each sent to the log.

    Reference: protocol A.0 (1000 fixed training images, masked, without the L2 term) and A.3.
    """

    def __init__(self, model: nn.Module, sparsifier: sf.Sparsifier, data: Dataset, *, log: Log) -> None:
        self._model, self._sparsifier, self._data, self._log = model, sparsifier, data, log
        self._batches = [data.validation(1)]
        self._records = record_update_flow(sparsifier, model, F.cross_entropy, self._batches)

    def flow(self, step: int) -> None:
        """Log the gradient norm, whole and by parameter."""
        found = sf.gradient_flow(self._model, F.cross_entropy, self._batches, self._sparsifier.masks)
        layers = {f"flow/norm/{name}": norm for name, norm in found.per_layer.items()}
        self._log(step, {"flow/norm": found.norm, "flow/loss": found.loss, **layers})

    def updates(self) -> None:
        """Log the mask updates since the last call: the norm right before and right after, and how much moved."""
        while self._records:
            record = self._records.pop(0)
            values = {"before": record.before.norm, "after": record.after.norm, "moved": record.moved}
            self._log(record.step, {f"update/{name}": value for name, value in values.items()})

    def test(self, step: int) -> dict[str, float]:
        """Log accuracy and loss on the test set, and return them."""
        found = evaluate(self._model, self._data)
        self._log(step, found)
        return found
