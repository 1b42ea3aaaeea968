"""Every group of runs that the paper's MNIST experiments need, by name.

A group is a list of configs that differ in seeds alone. Names are ``network/method/init/variant``; ``tickets`` are the
runs of section 4.3. A run that two groups share is trained once.

Reference: protocol A.11, sections D and E.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sparseflow.paper.matrix.cells import INITS, METHODS, MOVING, REPEATS, repeat
from sparseflow.paper.matrix.scale import Groups, Scale
from sparseflow.training.config import pruning_parent
from sparseflow.training.digits import DigitRun

#: Standard deviations of noise on a ticket's start, in units of its own (claim C46).
NOISES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
#: Sparsities beside 0.95 at which tickets are compared with scratch (claim C47).
SPARSITIES = (0.8, 0.9, 0.98)


def groups(scale: Scale) -> Groups:
    """Every group at a scale, the most wanted first.

    >>> from sparseflow.paper.matrix.scales import PAPER
    >>> found = groups(PAPER)
    >>> len(found["lenet5/rigl/dense"]), found["lenet5/rigl/dense/f100"][0].update_every
    (20, 100)
    """
    lenet5 = scale.base
    mlp = lenet5.with_(model="mlp", sparsity=0.98, learning_rate=0.2, weight_decay=1e-4)
    return {
        **dict(_table("lenet5", lenet5, scale, moving=scale.many)),
        **dict(_tickets("tickets", lenet5.with_(weight_decay=0.0), scale)),
        **dict(_often(lenet5, scale)),
        **dict(_table("mlp", mlp, scale, moving=scale.some)),
        **dict(_mlp_tickets(mlp, scale)),
        **dict(_variants(lenet5, scale)),
        **dict(_ticket_controls(lenet5.with_(weight_decay=0.0), scale)),
        **dict(_sparsities(lenet5.with_(weight_decay=0.0), scale)),
        **dict(_grid(lenet5, scale)),
    }


def _pruned(
    base: DigitRun, seeds: int, *, mask: DigitRun | None = None, first: int = 0, **changes: Any
) -> list[DigitRun]:
    """Seeds that all start from the masks of one pruning run, or each from those of ``base``'s own.

    Args:
        base: The setting; of the pruning runs too.
        seeds: The number of seeds.
        mask: The one pruning run.
        first: The first seed.
        changes: Fields that differ from ``base`` in these runs, and not in the pruning runs.
    """
    return [one.with_(mask_from=mask or pruning_parent(one), **changes) for one in repeat(base, seeds, first=first)]


def _table(name: str, base: DigitRun, scale: Scale, *, moving: int) -> Iterator[tuple[str, list[DigitRun]]]:
    """Tables 1 and 5: sections 4.1 and 4.2.

    ``moving`` is the number of repetitions of SET and RigL; collapse is counted over ``scale.many`` static runs.
    """
    prunes = repeat(pruning_parent(base), scale.many)
    yield f"{name}/prune", prunes
    yield f"{name}/dense", repeat(base.with_(method="dense"), scale.seeds)
    small = base.with_(method="dense", model=f"{base.model}-small", snapshots=snapshots(scale))
    yield f"{name}/small_dense", repeat(small, scale.some)
    yield f"{name}/lottery", _pruned(base, scale.some, method="lottery")
    for method in METHODS:
        for init in INITS:
            count = scale.many if method == "scratch" else moving
            kept = snapshots(scale) if (method, init, base.model) == ("scratch", "sparse", "lenet5") else ()
            yield f"{name}/{method}/{init}", _pruned(base, count, method=method, init=init, snapshots=kept)


def _often(base: DigitRun, scale: Scale) -> Iterator[tuple[str, list[DigitRun]]]:
    """Figures 3b, 8b, 10 and 11: mask updates every 100 steps; and RigL-Inverted."""
    often = base.with_(update_every=scale.often)
    counts = {"sparse": scale.some, "dense": scale.many, "liu": scale.seeds}
    for init, count in counts.items():
        for method in MOVING:
            kept = snapshots(scale) if init == "sparse" else ()
            yield f"lenet5/{method}/{init}/f100", _pruned(often, count, method=method, init=init, snapshots=kept)
    yield "lenet5/rigl_inverted/sparse/f100", _pruned(often, scale.some, method="rigl_inverted")
    yield "lenet5/rigl_inverted/sparse", _pruned(base, scale.some, method="rigl_inverted")


def snapshots(scale: Scale) -> tuple[int, ...]:
    """Steps at whose weights the Hessian is computed: over training, and around the update at step 200.

    Reference: protocol A.8 and A.9.
    """
    return tuple(sorted({scale.often * k for k in (*scale.checkpoints, 2, 5, 10)} | {*after_update(scale)}))


def after_update(scale: Scale) -> tuple[int, ...]:
    """Steps that show the fate of an update's new eigenvalues: 201 to 210, and 220."""
    moment = 2 * scale.often
    return (*range(moment + 1, moment + 11), moment + 20)


def _tickets(name: str, base: DigitRun, scale: Scale) -> Iterator[tuple[str, list[DigitRun]]]:
    """Section 4.3: all start from the masks of the first pruning run; ``mask1`` and on from those of the others."""
    prunes = repeat(pruning_parent(base), scale.seeds)
    yield f"{name}/prune", prunes
    for number, parent in enumerate(prunes):
        variant = f"/mask{number}" if number else ""
        same: dict[str, Any] = {"mask": parent, "first": REPEATS * (number + 1)}
        yield f"{name}/lottery{variant}", _pruned(base, scale.seeds, method="lottery", **same)
        count = scale.seeds if number else scale.many
        yield f"{name}/scratch{variant}", _pruned(base, count, init="dense", **same)
        if number == 0:
            yield f"{name}/scratch-same", _pruned(base, count, init="dense", init_seed=REPEATS, **same)
            yield f"{name}/restart", _pruned(base, scale.seeds, method="restart", **same)


def _mlp_tickets(base: DigitRun, scale: Scale) -> Iterator[tuple[str, list[DigitRun]]]:
    """Figure 9c: tickets and scratch on the masks of one pruning run of the MLP."""
    same: dict[str, Any] = {"mask": pruning_parent(base), "first": REPEATS}
    yield "mlp-tickets/prune", [pruning_parent(base)]
    yield "mlp-tickets/lottery", _pruned(base, scale.some, method="lottery", **same)
    yield "mlp-tickets/scratch", _pruned(base, scale.some, init="dense", **same)


def _variants(base: DigitRun, scale: Scale) -> Iterator[tuple[str, list[DigitRun]]]:
    """Other bases (Figure 7c), weight decays (C07, C51), one mask for all seeds, a step schedule (C11)."""
    for init, count in (("dense", scale.some), ("sparse", scale.some), ("liu", scale.seeds)):
        yield f"lenet5/scratch/{init}/he", _pruned(base, count, init=init, init_base="kaiming_normal")
    for method, count in (("scratch", scale.many), ("set", scale.some), ("rigl", scale.some)):
        yield f"lenet5/{method}/dense/wd0", _pruned(base, count, method=method, init="dense", weight_decay=0.0)
    yield "lenet5/rigl/sparse/wd0", _pruned(base, scale.some, method="rigl", weight_decay=0.0)
    yield "lenet5/dense/wd0", repeat(base.with_(method="dense", weight_decay=0.0), scale.seeds)
    yield "lenet5/scratch/dense/wd1e-4", _pruned(base, scale.some, init="dense", weight_decay=1e-4)
    for init in INITS:
        # Seed s starts from the mask of pruning run s once more, with other weights and another order of the data.
        again = [
            config.with_(seed=REPEATS + config.seed, mask_from=pruning_parent(config), init=init)
            for config in repeat(base, scale.many)
        ]
        yield f"lenet5/scratch/{init}/again", again
    one = pruning_parent(base)
    yield "lenet5/scratch/sparse/one-mask", _pruned(base, scale.seeds, mask=one, first=REPEATS)
    yield "lenet5/scratch/sparse/step", _pruned(base, scale.some, schedule="step")


def _ticket_controls(base: DigitRun, scale: Scale) -> Iterator[tuple[str, list[DigitRun]]]:
    """Claim C46: perturbed tickets, in and out of the basin of the pruned solution."""
    count = min(3, scale.seeds)
    same: dict[str, Any] = {"method": "lottery", "mask": pruning_parent(base), "first": REPEATS}
    for noise in NOISES:
        yield f"tickets/lottery/noise-{noise:g}", _pruned(base, count, start_noise=noise, **same)
    for control in ("signs", "shuffled_weights", "shuffled_masks"):
        yield f"tickets/lottery/{control}", _pruned(base, count, control=control, **same)


def _sparsities(base: DigitRun, scale: Scale) -> Iterator[tuple[str, list[DigitRun]]]:
    """Claim C47: where tickets and scratch begin to differ."""
    for sparsity in SPARSITIES:
        at = base.with_(sparsity=sparsity)
        same: dict[str, Any] = {"mask": pruning_parent(at), "first": REPEATS}
        name = f"tickets/s{100 * sparsity:.0f}"
        yield f"{name}/prune", [pruning_parent(at)]
        yield f"{name}/lottery", _pruned(at, scale.seeds, method="lottery", **same)
        yield f"{name}/scratch", _pruned(at, scale.seeds, init="dense", **same)


#: The authors' grid (protocol A.10).
LEARNING_RATES = (0.2, 0.1, 0.05, 0.02, 0.01)
WEIGHT_DECAYS = (1e-3, 5e-4, 1e-4, 5e-5, 1e-5)
#: Periods of mask updates, in units of half of ``often``: 50, 100 and 500 steps.
PERIODS = (1, 2, 10)
DROPS = (0.01, 0.1, 0.3)


def _grid(base: DigitRun, scale: Scale) -> Iterator[tuple[str, list[DigitRun]]]:
    """The authors' search in two stages for RigL: one seed per point, a sixth of the training images held out.

    Learning rate and weight decay at the published update period and drop fraction, then these two at the published
    learning rate and weight decay.
    """
    base = base.with_(holdout=scale.holdout)
    same: dict[str, Any] = {"method": "rigl", "first": REPEATS, "mask": pruning_parent(base)}
    points = [
        point
        for rate in LEARNING_RATES
        for decay in WEIGHT_DECAYS
        for point in _pruned(base, 1, learning_rate=rate, weight_decay=decay, **same)
    ]
    points += [
        point
        for period in PERIODS
        for drop in DROPS
        for point in _pruned(base, 1, update_every=scale.often * period // 2, drop_fraction=drop, **same)
    ]
    yield "grid", list(dict.fromkeys(points))
