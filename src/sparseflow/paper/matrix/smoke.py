"""A few steps of every method, start and network of the ImageNet runs, in minutes.

Images are the thousand of the sample, 64 pixels wide: nothing can be learned from them, and no claim is judged.
"""

from __future__ import annotations

from collections.abc import Iterator

from sparseflow.init.schemes import SCHEMES
from sparseflow.paper.matrix import cells
from sparseflow.paper.matrix.cells import repeat
from sparseflow.paper.matrix.scale import Groups, Scale
from sparseflow.training.config import pruning_parent
from sparseflow.training.images import UPDATE_VARIANTS, ImageRun

MOVING = (*cells.MOVING, "rigl_inverted")
REWIND = 2
BASE = ImageRun(
    dataset="imagenet-sample",
    image_size=64,
    width=1 / 8,
    steps=6,
    batch_size=8,
    micro_batch=4,
    learning_rate=0.01,
    update_every=2,
    update_until=5,
    prune_begin=1,
    prune_end=4,
    log_every=1,
    probe_images=8,
    eval_every=6,
    checkpoint_every=6,
)


def groups(scale: Scale) -> Groups:
    """Every group at a scale.

    >>> from sparseflow.paper.matrix.scales import SMOKE
    >>> found = groups(SMOKE)
    >>> found["vgg16/set/liu/authors"][0].updates, len(found)
    ('authors', 68)
    """
    return {name: repeat(run, scale.seeds) for network in ("vgg16", "resnet50") for name, run in _of(network)}


def _of(network: str) -> Iterator[tuple[str, ImageRun]]:
    base = BASE.with_(network=network)
    yield f"{network}/dense", base.with_(method="dense")
    for init in SCHEMES:
        yield f"{network}/scratch/{init}", base.with_(method="scratch", init=init)
    for method in MOVING:
        for init in SCHEMES:
            for updates in UPDATE_VARIANTS:
                suffix = "" if updates == "after_step" else f"/{updates}"
                yield f"{network}/{method}/{init}{suffix}", base.with_(method=method, init=init, updates=updates)
    parent = pruning_parent(base.with_(rewind_step=REWIND))
    yield f"{network}/prune", parent
    pruned = base.with_(mask_from=parent)
    yield f"{network}/lottery", pruned.with_(method="lottery", rewind_step=REWIND)
    yield f"{network}/lottery-k0", pruned.with_(method="lottery")
    yield f"{network}/ticket-scratch", pruned.with_(method="scratch")
    yield f"{network}/restart", pruned.with_(method="restart")
