"""The paper's ImageNet runs on CIFAR-10, narrow and short: VGG16 without batch norm, and a ResNet with it.

Networks of real width that are trained until they have learned are in :mod:`~sparseflow.paper.matrix.cifar_long`.

A group is a list of runs that differ in seeds alone; names are ``setting/method/init`` as in
:mod:`sparseflow.paper.matrix.mnist`. Settings are VGG16 at three sparsities and ResNet-14, which is ResNet-50 with one
block per group.

Reference: protocol 0, C.4, D.4 and G.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sparseflow.paper.matrix.cells import INITS, METHODS, REPEATS, repeat
from sparseflow.paper.matrix.scale import Groups, Scale
from sparseflow.training.config import pruning_parent
from sparseflow.training.images import ImageRun, rescaled

#: Name of a setting -> its sparsity; ERK.
VGG = {"vgg16-80": 0.8, "vgg16-90": 0.9, "vgg16-95": 0.95}
RESNET = "resnet14"
#: The ResNet's sparsity; the paper's ResNet-50 has 0.8, of a hundred times the weights.
RESNET_SPARSITY = 0.9
#: Width of the dense twin with as many weights as the sparse ResNet at its own width.
SMALL_DENSE = 0.34
#: Share of training after which a ticket takes the weights: 2000 of ResNet-50's 32000 steps.
REWIND = 2000 / 32_000
#: Kind of runs on pruned masks -> its settings; ``lottery`` is rewound late.
TICKETS: dict[str, dict[str, Any]] = {
    "lottery": {"method": "lottery"},
    "lottery-k0": {"method": "lottery"},
    "ticket-scratch": {"method": "scratch", "init": "dense"},
    "ticket-scratch-sparse": {"method": "scratch", "init": "sparse"},
}
#: Factor on the number of steps, to see whether an order of methods is one of short training.
LONGER = 4

BASE = ImageRun(
    dataset="cifar10",
    stem="cifar",
    image_size=32,
    num_classes=10,
    batch_size=64,
    micro_batch=64,
    label_smoothing=0.0,
    checkpoint_every=500,
)
#: 1500 steps of 64 images are two epochs: a minute a run on one core.
VGG_BASE = BASE.with_(
    network="vgg16",
    width=1 / 8,
    learning_rate=0.04,
    drop_fraction=0.1,
    steps=1500,
    update_every=40,
    update_until=1170,
    prune_begin=240,
    prune_end=720,
    log_every=20,
    probe_images=128,
    eval_every=1500,
    engine="auto",
)
#: 600 steps are 0.8 epochs; batch norm needs fewer.
RESNET_BASE = BASE.with_(
    network="resnet14",
    width=1 / 8,
    learning_rate=0.1,
    sparsity=RESNET_SPARSITY,
    steps=600,
    update_every=20,
    update_until=468,
    prune_begin=96,
    prune_end=288,
    log_every=10,
    probe_images=64,
    eval_every=600,
    channels_last=True,
)


def groups(scale: Scale) -> Groups:
    """Every group at a scale, the most wanted first.

    >>> from sparseflow.paper.matrix.scales import CIFAR
    >>> found = groups(CIFAR)
    >>> len(found["vgg16-95/rigl/sparse"]), found["vgg16-95/rigl/sparse"][0].sparsity
    (3, 0.95)
    """
    seeds = scale.seeds
    settings = {name: VGG_BASE.with_(sparsity=sparsity) for name, sparsity in VGG.items()}
    middle = "vgg16-90"
    return {
        **dict(table(middle, settings[middle], seeds)),
        **dict(table(RESNET, RESNET_BASE, seeds)),
        **dict(tickets(RESNET, RESNET_BASE, seeds, on_first=dict.fromkeys(TICKETS, seeds))),
        **dict(table("vgg16-95", settings["vgg16-95"], seeds)),
        **dict(table("vgg16-80", settings["vgg16-80"], seeds)),
        **dict(_controls(middle, settings[middle], seeds)),
        **dict(_controls(RESNET, RESNET_BASE, seeds)),
        f"{RESNET}/small_dense": repeat(RESNET_BASE.with_(method="dense", width=SMALL_DENSE / 8), seeds),
        **dict(original_tickets(middle, settings[middle], seeds)),
        **dict(_longer(middle, settings[middle], seeds)),
        **dict(_longer(RESNET, RESNET_BASE, seeds)),
    }


def rewind_step(run: ImageRun) -> int:
    """The step of a pruning run whose weights its late tickets take.

    >>> rewind_step(RESNET_BASE)
    38
    """
    return round(REWIND * run.steps)


def table(name: str, base: ImageRun, seeds: int) -> Iterator[tuple[str, list[ImageRun]]]:
    """Names and runs of Table 1 and Figures 2b and 2c: every method from every start, on random masks."""
    for method in METHODS:
        for init in INITS:
            yield f"{name}/{method}/{init}", repeat(base.with_(method=method, init=init), seeds)


def _controls(name: str, base: ImageRun, seeds: int) -> Iterator[tuple[str, list[ImageRun]]]:
    """Claims C19 and C20, and the dense network."""
    yield f"{name}/rigl_inverted/sparse", repeat(base.with_(method="rigl_inverted"), seeds)
    yield f"{name}/dense", repeat(base.with_(method="dense", engine="masked"), seeds)


def _longer(name: str, base: ImageRun, seeds: int) -> Iterator[tuple[str, list[ImageRun]]]:
    """Every method again, from Ours, with as many mask updates in more steps."""
    longer = rescaled(base, steps=LONGER * base.steps, batch_size=base.batch_size)
    longer = longer.with_(init="sparse", eval_every=longer.steps)
    for method in METHODS:
        yield f"{name}-longer/{method}/sparse", repeat(longer.with_(method=method), seeds)


def tickets(
    name: str, base: ImageRun, prunes: int, *, on_first: Mapping[str, int]
) -> Iterator[tuple[str, list[ImageRun]]]:
    """Section 4.3: tickets, rewound late and not at all, and scratch on the masks of pruning runs (C29 to C36, C44).

    Args:
        name: Begins the names of groups.
        base: Of which all runs change some fields.
        prunes: Number of pruning runs.
        on_first: Kind in :data:`TICKETS` -> runs on the masks of the first pruning run; on those of others there is
            one each. Kinds come in this order.
    """
    parents = [pruning_parent(base.with_(rewind_step=rewind_step(base), seed=seed)) for seed in range(prunes)]
    yield f"{name}/prune", parents
    for kind, count in on_first.items():
        rewound = {"rewind_step": rewind_step(base)} if kind == "lottery" else {}
        for number, parent in enumerate(parents):
            run = base.with_(mask_from=parent, **TICKETS[kind], **rewound)
            yield f"{name}/{kind}/mask{number}", repeat(run, 1 if number else count, first=REPEATS * (number + 1))


def original_tickets(name: str, base: ImageRun, seeds: int) -> Iterator[tuple[str, list[ImageRun]]]:
    """Claim C44: the ticket of VGG16 that is not rewound late ends at chance in the paper."""
    parent = pruning_parent(base.with_(rewind_step=rewind_step(base)))
    yield f"{name}/prune", [parent]
    for kind, step in (("lottery", rewind_step(base)), ("lottery-k0", 0)):
        ticket = base.with_(method="lottery", rewind_step=step, mask_from=parent)
        yield f"{name}/{kind}/mask0", repeat(ticket, seeds, first=REPEATS)
