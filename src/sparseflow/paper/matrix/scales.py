"""How large an experiment is: the paper's own scale on all of MNIST, and a small one that takes every code path."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sparseflow.training.digits import DigitRun


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Every number that the paper's scale and the demo's differ in."""

    name: str
    base: DigitRun
    """LeNet5 of section 4.1; every other run changes some of its fields."""
    often: int
    """Steps between mask updates where the paper's figures need many: f = 100."""
    seeds: int
    """Repetitions of a cell."""
    some: int
    """Repetitions where a test of equivalence or of order needs more."""
    many: int
    """Repetitions where collapse rates are compared."""
    networks: int
    """Untrained networks for a point of Figure 1c."""
    spectrum_seeds: int
    """Repetitions of a Hessian spectrum over training."""
    checkpoints: tuple[int, ...]
    """Steps, in units of ``often``, at which spectra are computed over training."""
    spectrum_examples: int
    """Training images behind a spectrum."""
    before_after_examples: int
    """Training images behind the spectra right before and right after a mask update."""
    holdout: int
    """Training images that the grid search selects by."""

    def with_seeds(self, seeds: int) -> Scale:
        """As many repetitions of every cell, where not fewer were asked for.

        >>> PAPER.with_seeds(3).many, PAPER.with_seeds(7).some
        (3, 7)
        """
        if seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {seeds}.")
        return replace(
            self, seeds=seeds, some=seeds, many=seeds, networks=seeds, spectrum_seeds=min(seeds, self.spectrum_seeds)
        )


#: Everything as the paper has it: 11719 steps on 60,000 images (protocol A.11; 20 seeds for collapse rates, C06).
PAPER = Scale(
    name="paper",
    base=DigitRun(log_every=50, checkpoint_every=4000),
    often=100,
    seeds=5,
    some=10,
    many=20,
    networks=20,
    spectrum_seeds=5,
    checkpoints=(*range(1, 21), *range(25, 116, 5)),
    spectrum_examples=10_000,
    before_after_examples=60_000,
    holdout=10_000,
)
#: 4000 digits that a dependency ships, 1000 steps. Claims that need many seeds stay without a verdict.
DEMO = Scale(
    name="demo",
    base=DigitRun(
        dataset="mnist-5k",
        steps=1000,
        batch_size=64,
        update_every=100,
        prune_begin=250,
        prune_end=600,
        prune_every=10,
        log_every=10,
        eval_every=200,
        checkpoint_every=1000,
    ),
    often=25,
    seeds=2,
    some=2,
    many=3,
    networks=3,
    spectrum_seeds=1,
    checkpoints=(2, 4, 8, 20, 38),
    spectrum_examples=400,
    before_after_examples=400,
    holdout=500,
)
SCALES = {scale.name: scale for scale in (DEMO, PAPER)}
