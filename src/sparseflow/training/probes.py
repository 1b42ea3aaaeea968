"""The measurements of a run: gradient norms, test accuracy, units that are alive; nothing here changes the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.analysis.flow import GradientFlow, gradient_flow
from sparseflow.engine.stepper import Stepper
from sparseflow.masks.make import sparsity_of
from sparseflow.sharded import num_true
from sparseflow.training.clock import Clock
from sparseflow.training.config import RunConfig
from sparseflow.training.ranks import Ranks
from sparseflow.training.step import Trainer
from sparseflow.training.streams import Batch, RunData
from sparseflow.training.units import unit_counts
from sparseflow.types import MaskUpdate

#: Called with the steps taken and what was measured then.
Log = Callable[[int, Mapping[str, float]], None]


class Probes:
    """Gradient norms of fixed images in plain cross-entropy over active weights, and accuracy on test images.

    Logged as ``flow/norm`` and ``flow/loss``; around a mask update as ``update/before``, ``update/after`` and
    ``update/moved``, the number of weights that changed places; and as ``test/accuracy`` and ``test/loss``. The share
    of active weights of a layer, ``density/<weight>``, is logged at the start and where an update changes it. At the
    start and at the end the units of each layer are counted, see :func:`.unit_counts`.

    Args:
        config: Says at which steps, and whether norms are logged by parameter too.
        trainer: Its model is measured.
        stepper: Measures sparse networks faster.
        data: Images of the norms, and test images.
        log: Gets the measurements.
        clock: Counts the time of measuring.

    Reference: protocol A.0 and A.3; the norms of ImageNet in the paper are those of :func:`.training_norm`.
    """

    def __init__(
        self, config: RunConfig, trainer: Trainer, stepper: Stepper, data: RunData, *, log: Log, clock: Clock
    ) -> None:
        self._config, self._trainer, self._stepper, self._data, self._log = config, trainer, stepper, data, log
        self._clock = clock
        self._images = data.probe
        self._before = 0.0
        self._records: list[tuple[int, dict[str, float]]] = []
        trainer.sparsifier.before_update.append(self._before_update)
        trainer.sparsifier.after_update.append(self._after_update)

    def begin(self) -> None:
        """Log what is due before a run that is not continued."""
        with self._clock.measures():
            self._log_units(0)
            masks = self._trainer.sparsifier.masks
            self._log(0, {f"density/{name}": num_true(mask) / mask.numel() for name, mask in masks.items()})

    def before_step(self, step: int) -> None:
        """Log what is due before the step that follows ``step`` others."""
        with self._clock.measures():
            if step % self._config.log_every == 0:
                self._log_flow(step)
            if self._config.measures_ends and step % self._config.eval_every == 0:
                self._test(step, only="test")

    def log_updates(self) -> None:
        """Log the mask updates since the last call."""
        while self._records:
            self._log(*self._records.pop(0))

    def after_step(self, step: int) -> None:
        """Log what is due after ``step`` steps; the end has a method of its own."""
        due = step < self._config.steps and step % self._config.eval_every == 0
        if due and not self._config.measures_ends:
            with self._clock.measures():
                self._test(step, only="test")

    def end(self, step: int) -> dict[str, float]:
        """Log what is due at the end, and return the results of the run, those on held-out images among them."""
        with self._clock.measures():
            return self._end(step)

    def _end(self, step: int) -> dict[str, float]:
        self._log_units(step)
        if self._config.measures_ends:
            self._log_flow(step)
        found = self._test(step)
        sparsity = {"sparsity": sparsity_of(self._trainer.sparsifier.masks)}
        if not self._config.measures_ends:
            self._log(step, sparsity)
        return found | sparsity

    def _test(self, step: int, *, only: str = "") -> dict[str, float]:
        found: dict[str, float] = {}
        for part, batches in self._data.tests().items():
            if only in ("", part):
                values = evaluate(
                    self._stepper.logits, batches, part=part, ranks=self._trainer.ranks, together=self._trainer.is_cut
                )
                found |= values
                if part == "test":
                    self._log(step, values)
        return found

    def _log_flow(self, step: int) -> None:
        found = self._measure()
        by_name = {f"flow/norm/{name}": norm for name, norm in found.per_layer.items()}
        values = {"flow/norm": found.norm, "flow/loss": found.loss}
        self._log(step, values | (by_name if self._config.measures_ends else {}))

    def _log_units(self, step: int) -> None:
        self._stepper.settle()
        self._log(step, unit_counts(self._config, self._trainer, self._images))

    def _measure(self) -> GradientFlow:
        if self._stepper.is_sparse:
            images, labels = (torch.cat(parts) for parts in zip(*self._images, strict=True))
            return self._stepper.flow(images, labels)
        sparsifier = self._trainer.sparsifier
        return gradient_flow(sparsifier.model, F.cross_entropy, self._images, sparsifier.masks)

    def _before_update(self, step: int) -> None:
        with self._clock.measures():
            self._before = self._measure().norm

    def _after_update(self, step: int, changes: Mapping[str, MaskUpdate]) -> None:
        with self._clock.measures():
            after, moved, found = self._measure().norm, 0, dict[str, float]()
            for name, change in changes.items():
                grown, dropped = num_true(change.grown), num_true(change.dropped)
                moved += max(grown, dropped)
                if grown != dropped:
                    found[f"density/{name}"] = num_true(change.mask) / change.mask.numel()
            found |= {"update/before": self._before, "update/after": after, "update/moved": moved}
        self._records.append((step, found))


def evaluate(
    logits: Callable[[Tensor], Tensor],
    batches: Iterable[Batch],
    *,
    part: str = "test",
    ranks: Ranks | None = None,
    together: bool = False,
) -> dict[str, float]:
    """Accuracy in [0, 1] and mean cross-entropy in nats over the batches of all ranks.

    Args:
        logits: A network in eval mode: images to ``(N, classes)``.
        batches: Prepared images of this rank and their labels.
        part: Begins the names of both.
        ranks: This process among all; default alone.
        together: Whether all ranks must compute as many batches, because each holds a part of every weight.

    Returns: ``<part>/accuracy`` and ``<part>/loss``.

    >>> found = evaluate(lambda images: images, [(torch.eye(2), torch.tensor([0, 1]))])
    >>> found["test/accuracy"], round(found["test/loss"], 3)
    (1.0, 0.313)
    """
    ranks = ranks or Ranks()
    sums = torch.zeros(3, dtype=torch.float64, device=ranks.device)
    counted = _together(batches, ranks) if together else ((*batch, True) for batch in batches)
    for images, labels, is_counted in counted:
        found = logits(images).detach().float()
        if is_counted:
            sums[0] += (found.argmax(dim=1) == labels).sum()
            sums[1] += F.cross_entropy(found, labels, reduction="sum")
            sums[2] += len(labels)
    ranks.sum_(sums)
    right, loss, count = sums.tolist()
    return {f"{part}/accuracy": right / count, f"{part}/loss": loss / count}


def _together(batches: Iterable[Batch], ranks: Ranks) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """As many batches on every rank as the one with the most has, each with whether it counts; the last repeats."""
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
