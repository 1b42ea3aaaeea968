"""The paper's ImageNet runs on CIFAR-10, on networks that learn: ResNet-20, and VGG16 of a quarter of the width.

20 epochs of 128 images on the paper's schedule. Names of groups are those of :mod:`~sparseflow.paper.matrix.cifar`;
``lr0.03`` and such are other learning rates. Steps are those of the sparse engine between mask updates, in float32: at
90 % zeros of ResNet-20, and at the 80 % of VGG16, it is faster than torch's bfloat16.

What decides most stands first, so that a part of the runs is worth having: the dense network and every method from
Ours, then from Original; pruning and tickets; VGG16; the other starts and controls; learning rates; what is left.

Reference: protocol 0, C.4, D.4 and G.
"""

from __future__ import annotations

from collections.abc import Iterator

from sparseflow.networks import NETWORKS
from sparseflow.paper.matrix.cells import METHODS, repeat
from sparseflow.paper.matrix.cifar import original_tickets, tickets
from sparseflow.paper.matrix.scale import Groups, Scale
from sparseflow.training.images import ImageRun, usual_run

RESNET, VGG = "resnet20", "vgg16"
RESNET_BASE = usual_run(RESNET).with_(channels_last=True)
#: The paper's sparsity, allocation (ERK), learning rate and drop fraction of VGG16.
VGG_BASE = RESNET_BASE.with_(network=VGG, width=1 / 4, sparsity=0.8, learning_rate=0.04, drop_fraction=0.1)
#: Network -> method -> the initialisations of Table 1 that it is trained from; what 16 hours of two cores allow.
TABLE = {
    RESNET: {"scratch": ("sparse", "dense", "liu"), "set": ("sparse", "dense"), "rigl": ("sparse", "dense")},
    VGG: {"scratch": ("sparse", "dense", "liu"), "rigl": ("sparse", "dense", "liu")},
}
#: The names of these groups.
CELLS = tuple(
    f"{network}/{method}/{init}" for network, row in TABLE.items() for method, inits in row.items() for init in inits
)
#: Beside 0.1, so that Original and Ours are compared at the rate that suits each; repetitions of these runs.
RATES, FEW = (0.03, 0.3), 2


def groups(scale: Scale) -> Groups:
    """Every group at a scale, the most wanted first.

    >>> from sparseflow.paper.matrix.scales import CIFAR_LONG
    >>> found = groups(CIFAR_LONG)
    >>> run = found["resnet20/rigl/sparse"][0]
    >>> list(found)[:2], run.steps * run.batch_size / 50_000
    (['resnet20/dense', 'resnet20/scratch/sparse'], 19.968)
    """
    seeds, few = scale.seeds, min(scale.seeds, FEW)
    dense, inverted = RESNET_BASE.with_(method="dense"), RESNET_BASE.with_(method="rigl_inverted")
    uniform = VGG_BASE.with_(method="scratch", allocation="uniform")
    rows = [
        (f"{RESNET}/dense", repeat(dense, few)),
        *_cells(RESNET, RESNET_BASE, METHODS, ("sparse",), seeds),
        *_cells(RESNET, RESNET_BASE, METHODS, ("dense",), seeds),
        *tickets(RESNET, RESNET_BASE, seeds),
        *_cells(VGG, VGG_BASE, ("scratch", "rigl"), ("sparse", "dense", "liu"), seeds),
        *_cells(RESNET, RESNET_BASE, ("scratch",), ("liu",), seeds),
        (f"{RESNET}/rigl_inverted/sparse", repeat(inverted, seeds)),
        (f"{RESNET}/small_dense", repeat(dense.with_(**NETWORKS[RESNET].small_dense), seeds)),
        *_rates(RESNET, RESNET_BASE, few),
        (f"{VGG}/dense", repeat(VGG_BASE.with_(method="dense"), 1)),
        *original_tickets(VGG, VGG_BASE, few),
        (f"{VGG}/scratch/sparse/uniform", repeat(uniform, seeds)),
    ]
    return dict(rows)


def _cells(
    name: str, base: ImageRun, methods: tuple[str, ...], inits: tuple[str, ...], seeds: int
) -> Iterator[tuple[str, list[ImageRun]]]:
    """Names and runs of Table 1: methods from starts, on random masks."""
    for init in inits:
        for method in methods:
            yield f"{name}/{method}/{init}", repeat(base.with_(method=method, init=init), seeds)


def _rates(name: str, base: ImageRun, seeds: int) -> Iterator[tuple[str, list[ImageRun]]]:
    """Scratch at other learning rates: with batch norm, which start is the better one at the rate that suits it?"""
    for rate in RATES:
        for init in ("dense", "sparse"):
            run = base.with_(method="scratch", init=init, learning_rate=rate)
            yield f"{name}/scratch/{init}/lr{rate:g}", repeat(run, seeds)
