"""The paper's runs on ImageNet: both networks at full width, with the paper's settings.

Groups are called as in :mod:`~sparseflow.paper.matrix.cifar`. Where the paper leaves a choice open, or prints what
cannot be, the choice is that of the protocol and is said beside the run. Masks move as in the authors' ImageNet code
(``updates="authors"``). Only how numbers are stored differs: autocast to bfloat16, on a GPU.

Reference: protocol 0, C.4, D.4, E, G and J; Evci et al. (2022), Tables 1 to 4 and 6, Figures 2, 3, 5 and 8.
"""

from __future__ import annotations

from collections.abc import Iterator

from sparseflow.networks import NETWORKS
from sparseflow.paper.matrix.cells import REPEATS, repeat
from sparseflow.paper.matrix.cifar import table
from sparseflow.paper.matrix.scale import Groups, Scale
from sparseflow.training.config import pruning_parent
from sparseflow.training.images import ImageRun, paper_run

#: Steps of ResNet-50's pruning runs whose weights tickets take: section 4.3, and the footnote of Table 1 (protocol J6).
REWIND, REWIND_TABLE1 = 2000, 5000
#: The same part of VGG16's training as ``REWIND`` of ResNet-50's; the paper has no such ticket (protocol J29).
VGG_REWIND = 8000
#: The same part of VGG16's training as ResNet-50's last mask update; 25000 is printed (protocol J20).
VGG_LAST_UPDATE = 100_000


def _at_full_width(network: str) -> ImageRun:
    return paper_run(network).with_(precision="bfloat16", channels_last=True)


BASE = _at_full_width("resnet50")


def groups(scale: Scale) -> Groups:
    """Every group at a scale, the most wanted first.

    >>> from sparseflow.paper.matrix.scales import IMAGENET
    >>> found = groups(IMAGENET)
    >>> run = found["resnet50/rigl/sparse"][0]
    >>> run.steps, run.batch_size, run.learning_rate, len(found["resnet50/lottery/mask0"])
    (32000, 4096, 1.6, 5)
    """
    some, many, resnet, vgg = scale.seeds, scale.many, BASE, _at_full_width("vgg16")
    return {
        **dict(table("resnet50", resnet, some)),
        **dict(_unmasked(resnet, some)),
        **dict(_resnet_tickets(resnet, some, many)),
        # Section 4.2 prints it without the plus sign, Figure 8a is about both.
        "resnet50/rigl_inverted/dense": repeat(resnet.with_(method="rigl_inverted", init="dense"), some),
        "resnet50/rigl_inverted/sparse": repeat(resnet.with_(method="rigl_inverted"), some),
        **dict(table("vgg16", vgg, some)),
        **dict(_unmasked(vgg, some)),
        **dict(_vgg_tickets(vgg, some)),
        "vgg16/scratch/sparse/uniform": repeat(vgg.with_(method="scratch", allocation="uniform"), some),
        "vgg16/set/sparse/until100000": repeat(vgg.with_(method="set", update_until=VGG_LAST_UPDATE), some),
        "vgg16/rigl/sparse/until100000": repeat(vgg.with_(update_until=VGG_LAST_UPDATE), some),
    }


def _unmasked(base: ImageRun, seeds: int) -> Iterator[tuple[str, list[ImageRun]]]:
    """The dense network, and the one that is narrow enough to have as few parameters as the sparse one."""
    dense = base.with_(method="dense")
    yield f"{base.network}/dense", repeat(dense, seeds)
    yield f"{base.network}/small_dense", repeat(dense.with_(**NETWORKS[base.network].small_dense), seeds)


def _resnet_tickets(base: ImageRun, seeds: int, many: int) -> Iterator[tuple[str, list[ImageRun]]]:
    """Section 4.3 (Figures 5d to 5f, Tables 2 and 6) on the masks of the first pruning run, and Table 1's tickets."""
    prunes = [pruning_parent(base.with_(seed=seed)).with_(snapshots=(REWIND, REWIND_TABLE1)) for seed in range(many)]
    yield "resnet50/prune", prunes
    on_first = base.with_(mask_from=prunes[0])
    ticket = on_first.with_(method="lottery")
    yield "resnet50/lottery/mask0", repeat(ticket.with_(rewind_step=REWIND), many, first=REPEATS)
    scratch = on_first.with_(method="scratch", init="dense")
    yield "resnet50/ticket-scratch/mask0", repeat(scratch, many, first=REPEATS)
    yield "resnet50/lottery-k0/mask0", repeat(ticket, seeds, first=REPEATS)
    # One pruning run per seed, as the spread of MNIST's cell shows (protocol E).
    late = [ticket.with_(rewind_step=REWIND_TABLE1, mask_from=parent) for parent in prunes[:seeds]]
    yield "resnet50/lottery-k5000", [run.with_(seed=REPEATS + seed) for seed, run in enumerate(late)]


def _vgg_tickets(base: ImageRun, seeds: int) -> Iterator[tuple[str, list[ImageRun]]]:
    """Table 1's tickets, which end at chance: they are not rewound late; and some that are."""
    prunes = [pruning_parent(base.with_(seed=seed, rewind_step=VGG_REWIND)) for seed in range(seeds)]
    yield "vgg16/prune", prunes
    for name, step in (("lottery-k0", 0), ("lottery", VGG_REWIND)):
        tickets = [base.with_(method="lottery", rewind_step=step, mask_from=parent) for parent in prunes]
        yield f"vgg16/{name}", [run.with_(seed=REPEATS + seed) for seed, run in enumerate(tickets)]
