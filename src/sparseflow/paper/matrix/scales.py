"""The scales by name: the paper's own on MNIST and ImageNet, and small ones that take every code path."""

from __future__ import annotations

from dataclasses import replace

from sparseflow.paper.cost import core_seconds, digit_seconds
from sparseflow.paper.matrix import cifar, cifar_long, imagenet, mnist, smoke
from sparseflow.paper.matrix.measured import digit_measurements, image_measurements
from sparseflow.paper.matrix.scale import Scale
from sparseflow.training.digits import DigitRun

#: Everything as the paper has it: 11719 steps on 60,000 images (protocol A.11; 20 seeds for collapse rates, C06).
PAPER = Scale(
    name="paper",
    base=DigitRun(log_every=50, checkpoint_every=4000),
    make=mnist.groups,
    measure=digit_measurements,
    page="paper",
    cost=digit_seconds,
    unit_seconds=1e-3,
    seeds=5,
    some=10,
    many=20,
    more=20,
    networks=20,
    often=100,
    checkpoints=(*range(1, 21), *range(25, 116, 5)),
    spectrum_seeds=5,
    spectrum_examples=10_000,
    all_examples=60_000,
    holdout=10_000,
)
#: 4000 digits that a dependency ships, 1000 steps. Claims that need many seeds stay without a verdict.
DEMO = replace(
    PAPER,
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
    seeds=2,
    some=2,
    many=3,
    more=1,
    networks=3,
    often=25,
    checkpoints=(2, 4, 8, 20, 38),
    spectrum_seeds=1,
    spectrum_examples=400,
    all_examples=400,
    holdout=500,
)
#: The paper's ImageNet half on narrow networks, for an epoch or two.
CIFAR = Scale(
    name="cifar",
    in_words="CIFAR-10, 50,000 training and 10,000 test images",
    base=cifar.BASE,
    make=cifar.groups,
    measure=image_measurements,
    page="images",
    collapse_percent=12.0,
    cost=core_seconds,
    unit_seconds=0.1,
    seeds=3,
    some=3,
    many=3,
)
#: The same on networks that learn; of pruning runs, which tickets are counted by, there are four.
CIFAR_LONG = replace(CIFAR, name="cifar-long", base=cifar_long.RESNET_BASE, make=cifar_long.groups, many=4)
#: A few steps, from which nothing can be learned.
SMOKE = replace(
    CIFAR,
    name="smoke",
    in_words="a thousand images of ImageNet, 64 pixels wide",
    base=smoke.BASE,
    make=smoke.groups,
    is_judged=False,
    collapse_percent=0.0,
    seeds=1,
    some=1,
    many=1,
)
#: The paper has three seeds, and five of what section 4.3 is about (protocol 0).
IMAGENET = replace(
    CIFAR,
    name="imagenet",
    in_words="ImageNet, 1.28 million training and 50,000 validation images",
    base=imagenet.BASE,
    make=imagenet.groups,
    collapse_percent=1.0,
    machine="device",
    many=5,
)
SCALES = {scale.name: scale for scale in (DEMO, PAPER, SMOKE, CIFAR, CIFAR_LONG, IMAGENET)}
