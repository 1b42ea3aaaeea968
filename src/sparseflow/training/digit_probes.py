"""What a run measures while it trains; nothing here changes the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor

import sparseflow as sf
from sparseflow.analysis import GradientFlow
from sparseflow.data.digits import Dataset
from sparseflow.engine.stepper import Stepper

Log = Callable[[int, Mapping[str, float]], None]


def evaluate(
    logits: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, *, part: str = "test", batch_size: int = 1000
) -> dict[str, float]:
    """Accuracy (a fraction) and mean cross-entropy (nats) of what gives the logits of a batch, named after the part."""
    correct, loss = 0, 0.0
    for some, wanted in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        found = logits(some).detach()
        correct += int((found.argmax(1) == wanted).sum())
        loss += float(F.cross_entropy(found, wanted, reduction="sum"))
    return {f"{part}/accuracy": correct / len(labels), f"{part}/loss": loss / len(labels)}


class Probes:
    """Gradient flow on val-1, its change at mask updates, and test accuracy, each sent to the log.

    Reference: protocol A.0 (1000 fixed training images, masked, without the L2 term) and A.3.
    """

    def __init__(self, engine: Stepper, sparsifier: sf.Sparsifier, data: Dataset, *, log: Log) -> None:
        self._engine, self._data, self._log = engine, data, log
        self._validation = data.validation(1)
        self._before: GradientFlow | None = None
        self._records: list[tuple[int, dict[str, float]]] = []
        sparsifier.before_update.append(self._before_update)
        sparsifier.after_update.append(self._after_update)

    def flow(self, step: int) -> None:
        """Log the gradient norm, whole and by parameter."""
        found = self._engine.flow(*self._validation)
        layers = {f"flow/norm/{name}": norm for name, norm in found.per_layer.items()}
        self._log(step, {"flow/norm": found.norm, "flow/loss": found.loss, **layers})

    def updates(self) -> None:
        """Log the mask updates since the last call: the norm right before and right after, and how much moved."""
        while self._records:
            self._log(*self._records.pop(0))

    def test(self, step: int) -> dict[str, float]:
        """Log accuracy and loss on the test set, and return them."""
        found = evaluate(self._engine.logits, self._data.test_images, self._data.test_labels)
        self._log(step, found)
        return found

    def end(self, step: int) -> dict[str, float]:
        """As :meth:`test`, and on the images that were held out of training, if any."""
        found = self.test(step)
        if (kept := self._data.holdout) is not None:
            found |= evaluate(self._engine.logits, *kept, part="holdout")
        return found

    def _before_update(self, step: int) -> None:
        self._before = self._engine.flow(*self._validation)

    def _after_update(self, step: int, changes: Mapping[str, sf.MaskUpdate]) -> None:
        assert self._before is not None
        after = self._engine.flow(*self._validation)
        moved = sum(max(int(change.grown.sum()), int(change.dropped.sum())) for change in changes.values())
        values = {"before": self._before.norm, "after": after.norm, "moved": moved}
        self._records.append((step, {f"update/{name}": value for name, value in values.items()}))
