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
#: Mask updates whose spectra are compared with those right before, in units of ``often`` (Figure 10).
MOVES = (2, 5, 10)
#: Tickets and restarts of every pruning run after the first, which has as many as a cell: two have a disagreement.
TICKETS = 2


def groups(scale: Scale) -> Groups:
    """Every group at a scale, what decides most verdicts first.

    LeNet5's masks move every 100 steps (``/f100``), as in the authors' published configs and Figures 8b and 10, and
    every 500, as Table 4 prints: Table 1's numbers are those of 100.

    >>> from sparseflow.paper.matrix.scales import PAPER
    >>> found = groups(PAPER)
    >>> len(found["lenet5/rigl/dense"]), found["lenet5/rigl/dense/f100"][0].update_every
    (20, 100)
    """
    lenet5 = scale.base
    undecayed = lenet5.with_(weight_decay=0.0)
    mlp = lenet5.with_(model="mlp", sparsity=0.98, learning_rate=0.2, weight_decay=1e-4)
    return {
        **dict(_still("lenet5", lenet5, scale)),
        **dict(_often(lenet5, scale)),
        **dict(_tickets("tickets", undecayed, scale)),
        **dict(_more_starts(lenet5, scale)),
        **dict(_still("mlp", mlp, scale)),
        **dict(_moving("mlp", mlp, scale.some)),
        **dict(_mlp_tickets(mlp, scale)),
        **dict(_moving("lenet5", lenet5, scale.many)),
        **dict(_variants(lenet5, scale)),
        **dict(_dead_filters(lenet5, scale)),
        **dict(_ticket_controls(undecayed, scale)),
        **dict(_sparsities(undecayed, scale)),
        **dict(_grids(lenet5, mlp, scale)),
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


def _still(name: str, base: DigitRun, scale: Scale) -> Iterator[tuple[str, list[DigitRun]]]:
    """Tables 1 and 5 (sections 4.1 and 4.2): the pruning runs, and all whose masks stay."""
    yield f"{name}/prune", repeat(pruning_parent(base), scale.many)
    for init in INITS:
        kept = snapshots(scale) if (init, base.model) == ("sparse", "lenet5") else ()
        yield f"{name}/scratch/{init}", _pruned(base, scale.many, init=init, snapshots=kept)
    yield f"{name}/lottery", _pruned(base, scale.many if name == "lenet5" else scale.some, method="lottery")
    small = base.with_(method="dense", model=f"{base.model}-small", snapshots=snapshots(scale))
    yield f"{name}/small_dense", repeat(small, scale.some)
    yield f"{name}/dense", repeat(base.with_(method="dense"), scale.seeds)


def _moving(name: str, base: DigitRun, count: int) -> Iterator[tuple[str, list[DigitRun]]]:
    """Tables 1 and 5: SET and RigL at the printed update period."""
    for method in MOVING:
        for init in INITS:
            yield f"{name}/{method}/{init}", _pruned(base, count, method=method, init=init)


def _often(base: DigitRun, scale: Scale) -> Iterator[tuple[str, list[DigitRun]]]:
    """Table 1 and Figures 3b, 8b, 10 and 11: mask updates every 100 steps; and RigL-Inverted."""
    often = base.with_(update_every=scale.often)
    for method in MOVING:
        for init in INITS:
            kept = (*snapshots(scale), *settling(scale)) if init == "sparse" else ()
            runs = _pruned(often, scale.many, method=method, init=init, snapshots=tuple(sorted(set(kept))))
            yield f"lenet5/{method}/{init}/f100", runs
    yield "lenet5/rigl_inverted/sparse/f100", _pruned(often, scale.some, method="rigl_inverted")


def _more_starts(base: DigitRun, scale: Scale) -> Iterator[tuple[str, list[DigitRun]]]:
    """Starts beyond those of Table 1, for rare failures (C06, C07) and small differences (C12).

    ``more`` has masks of its own; ``again`` starts from the masks of Table 1 with other weights and another order of
    the data, once for Original and three times where failures are rarer. Small Dense has no masks: 60 runs in all.
    """
    yield "lenet5/prune/more", repeat(pruning_parent(base), scale.more, first=scale.many)
    often = base.with_(update_every=scale.often)
    for init in ("dense", "sparse"):
        yield f"lenet5/rigl/{init}/f100/more", _pruned(often, scale.more, first=scale.many, method="rigl", init=init)
    for init in INITS:
        yield f"lenet5/scratch/{init}/more", _pruned(base, scale.more, first=scale.many, init=init)
    for init in INITS:
        again = [
            config.with_(seed=REPEATS * number + config.seed, mask_from=pruning_parent(config), init=init)
            for number in range(1, 2 if init == "dense" else 4)
            for config in repeat(base, scale.many)
        ]
        yield f"lenet5/scratch/{init}/again", again
    small = base.with_(method="dense", model=f"{base.model}-small")
    yield "lenet5/small_dense/more", repeat(small, 3 * scale.many - scale.some, first=scale.some)


def snapshots(scale: Scale) -> tuple[int, ...]:
    """Steps at whose weights the Hessian is computed: over training, and around the update at step 200.

    Reference: protocol A.8 and A.9.
    """
    return tuple(sorted({scale.often * k for k in (*scale.checkpoints, *MOVES)} | {*after_update(scale)}))


def after_update(scale: Scale) -> tuple[int, ...]:
    """Steps that show the fate of an update's new eigenvalues: 201 to 210, and 220."""
    moment = 2 * scale.often
    return (*range(moment + 1, moment + 11), moment + 20)


def settling(scale: Scale) -> tuple[int, ...]:
    """Steps from there to the next update, at which they may be gone (C26): 230 to 290."""
    moment = 2 * scale.often
    return tuple(range(moment + 30, moment + scale.often, 10))


def _tickets(name: str, base: DigitRun, scale: Scale) -> Iterator[tuple[str, list[DigitRun]]]:
    """Section 4.3 on the masks of every pruning run, each with groups of its own: ``mask1`` and on.

    The first has the numbers of runs of the paper's figures.
    """
    prunes = repeat(pruning_parent(base), scale.many)
    yield f"{name}/prune", prunes
    for number, parent in enumerate(prunes):
        variant = f"/mask{number}" if number else ""
        same: dict[str, Any] = {"mask": parent, "first": REPEATS * (number + 1)}
        tickets = scale.seeds if number < scale.seeds else TICKETS
        yield f"{name}/lottery{variant}", _pruned(base, tickets, method="lottery", **same)
        restarts = TICKETS if number else scale.seeds
        yield f"{name}/restart{variant}", _pruned(base, restarts, method="restart", **same)
        count = scale.seeds if number else scale.many
        yield f"{name}/scratch{variant}", _pruned(base, count, init="dense", **same)
        start = REPEATS * (number + 1)
        yield f"{name}/scratch-same{variant}", _pruned(base, count, init="dense", init_seed=start, **same)


def _tickets_and_scratch(
    name: str, base: DigitRun, prunes: list[DigitRun], *, on_first: int
) -> Iterator[tuple[str, list[DigitRun]]]:
    """On the masks of each pruning run: ``on_first`` of both on those of the first, fewer on those of the others."""
    for number, parent in enumerate(prunes):
        variant = f"/mask{number}" if number else ""
        same: dict[str, Any] = {"mask": parent, "first": REPEATS * (number + 1)}
        count = TICKETS if number else on_first
        yield f"{name}/lottery{variant}", _pruned(base, count, method="lottery", **same)
        yield f"{name}/scratch{variant}", _pruned(base, count, init="dense", **same)


def _mlp_tickets(base: DigitRun, scale: Scale) -> Iterator[tuple[str, list[DigitRun]]]:
    """Figure 9c: tickets and scratch on the masks of a pruning run of the MLP, and two each on those of the others."""
    prunes = repeat(pruning_parent(base), scale.many)
    yield "mlp-tickets/prune", prunes
    yield from _tickets_and_scratch("mlp-tickets", base, prunes, on_first=scale.some)


def _variants(base: DigitRun, scale: Scale) -> Iterator[tuple[str, list[DigitRun]]]:
    """Other bases (Figure 7c), RigL-Inverted, weight decays (C07, C51), one mask for all seeds, a step schedule."""
    for init, count in (("dense", scale.many), ("sparse", scale.many), ("liu", scale.seeds)):
        yield f"lenet5/scratch/{init}/he", _pruned(base, count, init=init, init_base="kaiming_normal")
    for method, count in (("scratch", scale.many), ("set", scale.some), ("rigl", scale.some)):
        yield f"lenet5/{method}/dense/wd0", _pruned(base, count, method=method, init="dense", weight_decay=0.0)
    yield "lenet5/rigl_inverted/sparse", _pruned(base, scale.some, method="rigl_inverted")
    yield "lenet5/rigl/sparse/wd0", _pruned(base, scale.some, method="rigl", weight_decay=0.0)
    yield "lenet5/dense/wd0", repeat(base.with_(method="dense", weight_decay=0.0), scale.seeds)
    yield "lenet5/scratch/dense/wd1e-4", _pruned(base, scale.some, init="dense", weight_decay=1e-4)
    one = pruning_parent(base)
    yield "lenet5/scratch/sparse/one-mask", _pruned(base, scale.seeds, mask=one, first=REPEATS)
    yield "lenet5/scratch/sparse/step", _pruned(base, scale.some, schedule="step")


def _dead_filters(base: DigitRun, scale: Scale) -> Iterator[tuple[str, list[DigitRun]]]:
    """Table 1's cells once more, from starts whose first filters without a positive weight are woken, or with one more.

    ``repaired`` negates such filters, ``killed`` makes the weights of another one negative, ``avoid_dead`` negates the
    units of all layers that fire for no training image. Masks move every ``often`` steps.
    """
    for method in METHODS:
        moves = method != "scratch"
        count = scale.some if moves else scale.many
        of = base.with_(update_every=scale.often) if moves else base
        for init in INITS:
            yield f"lenet5/{method}/{init}/repaired", _pruned(of, count, method=method, init=init, control="repaired")
            if not moves:
                yield f"lenet5/{method}/{init}/avoid_dead", _pruned(of, count, init=init, avoid_dead=True)
        yield f"lenet5/{method}/sparse/killed", _pruned(of, count, method=method, control="killed")


def _ticket_controls(base: DigitRun, scale: Scale) -> Iterator[tuple[str, list[DigitRun]]]:
    """Claim C46: perturbed tickets, in and out of the basin of the pruned solution."""
    count = min(3, scale.seeds)
    same: dict[str, Any] = {"method": "lottery", "mask": pruning_parent(base), "first": REPEATS}
    for noise in NOISES:
        yield f"tickets/lottery/noise-{noise:g}", _pruned(base, count, start_noise=noise, **same)
    for control in ("signs", "shuffled_weights", "shuffled_masks"):
        yield f"tickets/lottery/{control}", _pruned(base, count, control=control, **same)


def _sparsities(base: DigitRun, scale: Scale) -> Iterator[tuple[str, list[DigitRun]]]:
    """Claim C47: where tickets and scratch begin to differ, on the masks of several pruning runs."""
    for sparsity in SPARSITIES:
        at = base.with_(sparsity=sparsity)
        prunes = repeat(pruning_parent(at), scale.seeds)
        name = f"tickets/s{100 * sparsity:.0f}"
        yield f"{name}/prune", prunes
        yield from _tickets_and_scratch(name, at, prunes, on_first=scale.seeds)


#: The authors' grid (protocol A.10).
LEARNING_RATES = (0.2, 0.1, 0.05, 0.02, 0.01)
WEIGHT_DECAYS = (1e-3, 5e-4, 1e-4, 5e-5, 1e-5)
#: Periods of mask updates, in units of half of ``often``: 50, 100 and 500 steps.
PERIODS = (1, 2, 10)
DROPS = (0.01, 0.1, 0.3)


def _grids(lenet5: DigitRun, mlp: DigitRun, scale: Scale) -> Iterator[tuple[str, list[DigitRun]]]:
    """The search for every method that starts sparse, on both networks: ``grid`` is that of RigL on LeNet5."""
    yield "grid", _grid(lenet5, scale, method="rigl")
    for name, base in (("lenet5", lenet5), ("mlp", mlp)):
        for method in METHODS:
            if (name, method) != ("lenet5", "rigl"):
                yield f"grid/{name}/{method}", _grid(base, scale, method=method)


def _grid(base: DigitRun, scale: Scale, *, method: str) -> list[DigitRun]:
    """The authors' search in two stages: one seed per point, a sixth of the training images held out.

    Learning rate and weight decay at the published update period and drop fraction, then these two, of masks that move,
    at the published learning rate and weight decay.
    """
    base = base.with_(holdout=scale.holdout)
    same: dict[str, Any] = {"method": method, "first": REPEATS, "mask": pruning_parent(base)}
    points = [
        point
        for rate in LEARNING_RATES
        for decay in WEIGHT_DECAYS
        for point in _pruned(base, 1, learning_rate=rate, weight_decay=decay, **same)
    ]
    if method in MOVING:
        points += [
            point
            for period in PERIODS
            for drop in DROPS
            for point in _pruned(base, 1, update_every=scale.often * period // 2, drop_fraction=drop, **same)
        ]
    return list(dict.fromkeys(points))
