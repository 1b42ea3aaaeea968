"""The paper's ImageNet runs on CIFAR-10, on networks that learn: ResNet-20, and VGG16 of a quarter of the width.

20 epochs of 128 images on the paper's schedule. Names of groups are those of :mod:`~sparseflow.paper.matrix.cifar`;
``resnet20-short`` has three learning rates. Steps are those of the sparse engine between mask updates, in float32: at
90 % zeros of ResNet-20, and at the 80 % of VGG16, it is faster than torch's bfloat16.

All of it fits 16 hours of two cores, and a part is worth having: one run of everything is trained before the second of
anything, what decides most verdicts first. Claims are judged with three.

Reference: protocol 0, C.4, D.4 and G.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sparseflow.networks import NETWORKS
from sparseflow.paper.matrix.cells import repeat
from sparseflow.paper.matrix.cifar import original_tickets, tickets
from sparseflow.paper.matrix.scale import Groups, Scale
from sparseflow.training.images import ImageRun, rescaled, usual_run

RESNET, VGG, SHORT = "resnet20", "vgg16", "resnet20-short"
#: Evaluated three times: each takes as long as 28 steps.
RESNET_BASE = usual_run(RESNET).with_(channels_last=True, eval_every=2600)
#: The paper's sparsity, allocation (ERK), learning rate and drop fraction of VGG16.
VGG_BASE = RESNET_BASE.with_(network=VGG, width=1 / 4, sparsity=0.8, learning_rate=0.04, drop_fraction=0.1)
#: Network -> method -> the initialisations of Table 1 that it is trained from.
TABLE: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    RESNET: {"scratch": ("sparse", "dense", "liu"), "rigl": ("sparse", "dense"), "set": ("sparse", "dense")},
    VGG: {"scratch": ("sparse", "dense", "liu"), "rigl": ("sparse", "dense", "liu")},
}
#: The names of these groups.
CELLS = tuple(
    f"{network}/{method}/{init}" for network, row in TABLE.items() for method, inits in row.items() for init in inits
)
#: Learning rates and starts of the short runs, which a quarter of the steps and held-out images choose between.
RATES, STARTS = (0.03, 0.1, 0.3), ("dense", "sparse")
SHARE, HOLDOUT = 4, 5000
#: Runs of groups that no verdict is about.
FEW = 2


def groups(scale: Scale) -> Groups:
    """Every group at a scale, the most wanted first.

    >>> from sparseflow.paper.matrix.scales import CIFAR_LONG
    >>> found = groups(CIFAR_LONG)
    >>> run = found["resnet20/rigl/sparse"][0]
    >>> list(found)[:2], run.steps * run.batch_size / 50_000
    (['resnet20/scratch/sparse', 'resnet20/rigl/sparse'], 19.968)
    """
    seeds, few = scale.seeds, min(scale.seeds, FEW)
    dense, inverted = RESNET_BASE.with_(method="dense"), RESNET_BASE.with_(method="rigl_inverted")
    uniform = VGG_BASE.with_(method="scratch", allocation="uniform")
    # Several on one mask, whose functions are compared; the claims' values are means of pruning runs.
    kinds = {"lottery": few, "ticket-scratch": few, "lottery-k0": 1, "ticket-scratch-sparse": 1}
    rows = [
        *_cells(RESNET, RESNET_BASE, "sparse", seeds),
        (f"{RESNET}/rigl_inverted/sparse", repeat(inverted, seeds)),
        *_cells(RESNET, RESNET_BASE, "dense", seeds),
        *tickets(RESNET, RESNET_BASE, scale.many, on_first=kinds),
        *(row for init in ("sparse", "dense") for row in _cells(VGG, VGG_BASE, init, seeds)),
        (f"{RESNET}/small_dense", repeat(dense.with_(**NETWORKS[RESNET].small_dense), seeds)),
        *(row for name, base in ((RESNET, RESNET_BASE), (VGG, VGG_BASE)) for row in _cells(name, base, "liu", seeds)),
        *_rates(seeds),
        (f"{VGG}/scratch/sparse/uniform", repeat(uniform, seeds)),
        (f"{RESNET}/dense", repeat(dense, few)),
        *original_tickets(VGG, VGG_BASE, 1),
    ]
    return dict(rows)


def _cells(name: str, base: ImageRun, init: str, seeds: int) -> Iterator[tuple[str, list[ImageRun]]]:
    """Names and runs of a network's row of Table 1 from one start, on random masks."""
    for method, inits in TABLE[name].items():
        if init in inits:
            yield f"{name}/{method}/{init}", repeat(base.with_(method=method, init=init), seeds)


def _rates(seeds: int) -> Iterator[tuple[str, list[ImageRun]]]:
    """Scratch for a quarter of the steps: with batch norm, which start is the better one at the rate that suits it?"""
    base = rescaled(RESNET_BASE, steps=RESNET_BASE.steps // SHARE, batch_size=RESNET_BASE.batch_size)
    for rate in RATES:
        for init in STARTS:
            run = base.with_(method="scratch", init=init, learning_rate=rate, holdout=HOLDOUT, eval_every=base.steps)
            yield f"{SHORT}/scratch/{init}/lr{rate:g}", repeat(run, seeds)
