"""The paper's central finding on 5000 real digits, offline.

Run: ``sparseflow demo``
Cost: under two minutes on 2 CPU cores.
Claim: at 95 % sparsity a LeNet5 with the usual initialisation gets (almost) no gradient and does not learn within the
run; with the sparsity-aware one it does. The second part of the page has the masks of pruning runs: these keep two or
three filters of the first layer, and a draw of signs that leaves them dead on pixels, which are never negative, lets no
scale help.
Measured: the table the command prints, and its page.
Differs: 4000 training images instead of 60,000, batch 64, a shorter schedule, so pruning and mask updates are scaled
to the run.
"""

from __future__ import annotations

from sparseflow.training.config import pruning_parent
from sparseflow.training.digits import DigitRun

INITS = ("dense", "liu", "sparse")
MOVING = ("set", "rigl")
#: Seeds 0, 1, ... of every cell, fixed before the first run.
SEEDS = 10


def demo(*, seeds: int = SEEDS, steps: int = 800, quick: bool = False) -> list[DigitRun]:
    """Dense, Small Dense, and {Scratch, SET, RigL} x {Original, Liu, Ours} from random masks; Pruned and its masks.

    Args:
        seeds: Independent repetitions of every cell.
        steps: Optimizer steps of each run.
        quick: A small version of the same, seconds a run, that takes every code path.

    >>> len(demo(seeds=2))
    30
    """
    if seeds < 1 or steps < 1:
        raise ValueError(f"seeds and steps must be at least 1, got {seeds} and {steps}.")
    if quick:
        steps = min(steps, 250)
    base = DigitRun(
        dataset="mnist-5k",
        steps=steps,
        batch_size=64,
        update_every=max(5, steps // 10),
        prune_begin=steps // 4,
        prune_end=max(1, 3 * steps // 5),
        prune_every=max(1, steps // 50),
        log_every=max(5, steps // 25),
        eval_every=max(5, steps // 10),
        checkpoint_every=max(1, steps // 2),
    )
    configs = []
    for seed in range(seeds):
        start = base.with_(seed=seed)
        configs += [start.with_(method="dense"), start.with_(method="dense", model="lenet5-small")]
        configs += [start.with_(method=method, init=init) for method in ("scratch", *MOVING) for init in INITS]
        configs.append(pruning_parent(start))
        configs += [start.with_(init=init, mask_from=pruning_parent(start)) for init in INITS]
    return configs
