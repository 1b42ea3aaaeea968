"""What a run measures while it trains: gradient norms and test accuracy; nothing here changes the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.analysis.flow import gradient_flow
from sparseflow.engine.stepper import Stepper
from sparseflow.gradients import undisturbed
from sparseflow.sharded import num_true
from sparseflow.training.ranks import Ranks
from sparseflow.training.step import Trainer
from sparseflow.types import MaskUpdate

Batch = tuple[Tensor, Tensor]
#: Called with the steps taken and what was measured then.
Log = Callable[[int, Mapping[str, float]], None]


class Flow:
    """Gradient norms of fixed images in plain cross-entropy over active weights, and their change at mask updates.

    Logged as ``flow/norm`` and ``flow/loss``; around an update as ``update/before``, ``update/after`` and
    ``update/moved``, the number of weights that changed places.

    Args:
        trainer: Whose model is measured.
        stepper: Measures sparse networks faster, where there is one.
        images: Of the norms, prepared.
        log: Where they go.

    Reference: protocol A.0 and A.3; ImageNet's norms in the paper are those of :func:`.training_norm`.
    """

    def __init__(self, trainer: Trainer, stepper: Stepper | None, images: Sequence[Batch], *, log: Log) -> None:
        self._trainer, self._stepper, self._images, self._log = trainer, stepper, images, log
        self._before = 0.0
        self._records: list[tuple[int, dict[str, float]]] = []
        trainer.sparsifier.before_update.append(self._before_update)
        trainer.sparsifier.after_update.append(self._after_update)

    def log(self, step: int) -> None:
        """Measure now."""
        norm, loss = self._measure()
        self._log(step, {"flow/norm": norm, "flow/loss": loss})

    def log_updates(self) -> None:
        """Log the mask updates since the last call."""
        while self._records:
            self._log(*self._records.pop(0))

    def _measure(self) -> tuple[float, float]:
        if self._stepper is not None and self._stepper.is_sparse:
            images, labels = (torch.cat(parts) for parts in zip(*self._images, strict=True))
            found = self._stepper.flow(images, labels)
        else:
            sparsifier = self._trainer.sparsifier
            found = gradient_flow(sparsifier.model, F.cross_entropy, self._images, sparsifier.masks)
        return found.norm, found.loss

    def _before_update(self, step: int) -> None:
        self._before, _ = self._measure()

    def _after_update(self, step: int, changes: Mapping[str, MaskUpdate]) -> None:
        after, _ = self._measure()
        moved = sum(max(num_true(change.grown), num_true(change.dropped)) for change in changes.values())
        self._records.append((step, {"update/before": self._before, "update/after": after, "update/moved": moved}))


def evaluate(
    trainer: Trainer, batches: Iterable[Batch], *, logits: Callable[[Tensor], Tensor] | None = None
) -> dict[str, float]:
    """Accuracy in [0, 1] and mean cross-entropy in nats over the batches of all ranks, in eval mode.

    Args:
        trainer: Whose model is evaluated.
        batches: Prepared images of this rank and their labels.
        logits: What computes them faster; default the model.
    """
    sums = torch.zeros(3, dtype=torch.float64, device=trainer.ranks.device)
    model = trainer.sparsifier.model
    together = _together(batches, trainer.ranks) if trainer.is_cut else ((*batch, True) for batch in batches)
    with torch.no_grad(), undisturbed(model, training=False):
        for images, labels, is_counted in together:
            found = (logits or model)(images).float()
            if is_counted:
                sums[0] += (found.argmax(dim=1) == labels).sum()
                sums[1] += F.cross_entropy(found, labels, reduction="sum")
                sums[2] += len(labels)
    trainer.ranks.sum_(sums)
    right, loss, count = sums.tolist()
    return {"test/accuracy": right / count, "test/loss": loss / count}


def _together(batches: Iterable[Batch], ranks: Ranks) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """As many batches on every rank as the one with the most has: its last one again, and whether one counts."""
    remaining = iter(batches)
    last = next(remaining, None)
    without = torch.tensor(int(last is None), device=ranks.device)
    ranks.sum_(without)
    if without or last is None:
        raise ValueError(f"{int(without)} of {ranks.world} processes have no test image; FSDP needs one for each.")
    batch: Batch | None = last
    while True:
        with_more = torch.tensor(int(batch is not None), device=ranks.device)
        ranks.sum_(with_more)
        if not with_more:
            return
        last = batch or last
        yield *last, batch is not None
        batch = next(remaining, None)
