"""The scale of an experiment: the run that others are made from, repetitions, and the sizes of measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sparseflow.lab.page.summary import COLLAPSE_PERCENT
from sparseflow.paper.measures.measurement import Measurement

#: Name of a group -> its runs, which differ in seeds alone.
Groups = Mapping[str, list[Any]]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Every number that scales differ in, and the functions that make runs and measurements from them."""

    name: str
    """Key of ``--scale``."""
    in_words: str = ""
    """The data set, and how much of it is trained on, for the page about runs on images."""
    base: Any
    """The run of which every other changes some fields."""
    make: Callable[[Scale], Groups]
    """Makes :attr:`groups`."""
    measure: Callable[..., Iterable[Measurement]]
    """Makes measurements from the scale and ``data_root=``."""
    page: Literal["paper", "images"]
    """Which page is written about it: that of every exhibit of MNIST, or that of runs on images."""
    is_judged: bool = True
    """Whether claims are judged from it."""
    collapse_percent: float = COLLAPSE_PERCENT
    """A run that ends below this test accuracy did not learn; a little above guessing."""
    cost: Callable[[Any], float]
    """Seconds that a run takes on one core."""
    unit_seconds: float
    """Seconds of one core per unit of a measurement's size."""
    machine: Literal["core", "device"] = "core"
    """What the cost is counted in: time of one processor core, or of one GPU."""

    seeds: int
    """Repetitions of a cell."""
    some: int
    """Repetitions where a test of equivalence or of order needs more."""
    many: int
    """Repetitions where collapse rates are compared; on ImageNet, of what section 4.3 is about."""
    more: int = 0
    """Repetitions beyond those, with masks of their own, where failures are too rare for them."""
    networks: int = 0
    """Untrained networks for a point of Figure 1c."""

    often: int = 0
    """Steps between mask updates where the paper's figures need many: f = 100."""
    checkpoints: tuple[int, ...] = ()
    """Steps, in units of ``often``, at which spectra are computed over training."""
    spectrum_seeds: int = 0
    """Repetitions of a Hessian spectrum over training."""
    spectrum_examples: int = 0
    """Training images behind a spectrum around a mask update, of every seed."""
    all_examples: int = 0
    """Training images behind a spectrum over training, and behind those around an update of the first seed."""
    holdout: int = 0
    """Training images that the grid search selects by."""

    @cached_property
    def groups(self) -> Groups:
        """Name of a group -> its runs, the most wanted first."""
        return self.make(self)

    def measurements(self, *, data_root: Path | None = None) -> tuple[Measurement, ...]:
        """Everything that is measured, cheap things first."""
        return tuple(self.measure(self, data_root=data_root))

    def with_seeds(self, seeds: int) -> Scale:
        """The same scale with this number of repetitions of every cell; of spectra no more than before.

        Raises:
            ValueError: if ``seeds`` is less than 1.
        """
        if seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {seeds}.")
        return replace(
            self,
            seeds=seeds,
            some=seeds,
            many=seeds,
            more=seeds if self.more else 0,
            networks=seeds if self.networks else 0,
            spectrum_seeds=min(seeds, self.spectrum_seeds),
        )
