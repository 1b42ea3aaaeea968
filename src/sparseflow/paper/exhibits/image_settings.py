"""Which settings an image scale has, what the paper has in their place, and what groups of runs are called there."""

from __future__ import annotations

from typing import NamedTuple

from sparseflow.lab.page.groups import INIT_LABELS, METHOD_LABELS
from sparseflow.paper.matrix import cifar
from sparseflow.paper.matrix.image_scales import ImageScale


class Setting(NamedTuple):
    """A network at a sparsity, as group names begin with it."""

    name: str
    label: str
    paper: str
    """The paper's model, of which it is a small one."""


SETTINGS = {
    "cifar": (
        Setting("vgg16-80", "VGG16, 80 % zeros", "VGG16"),
        Setting("vgg16-90", "VGG16, 90 % zeros", "VGG16"),
        Setting("vgg16-95", "VGG16, 95 % zeros", "VGG16"),
        Setting("resnet14", "ResNet-14, 90 % zeros", "ResNet50"),
    ),
    "imagenet": (
        Setting("vgg16", "VGG16, 80 % zeros", "VGG16"),
        Setting("resnet50", "ResNet-50, 80 % zeros", "ResNet50"),
    ),
}
#: Controls: a setting with more steps.
LONGER = {
    "cifar": (
        Setting("vgg16-90-longer", f"VGG16, 90 % zeros, {cifar.LONGER} times the steps", "VGG16"),
        Setting("resnet14-longer", f"ResNet-14, 90 % zeros, {cifar.LONGER} times the steps", "ResNet50"),
    ),
}
#: Second part of a group's name -> what it is called; in the order of tables.
NAMES = {
    "dense": "Dense",
    "small_dense": "Small Dense",
    "prune": "Pruned",
    "lottery": "Lottery, rewound late",
    "lottery-k5000": "Lottery, rewound to step 5000",
    "lottery-k0": "Lottery of step 0",
    "ticket-scratch": "Scratch on pruned masks",
    "ticket-scratch-sparse": "Scratch on pruned masks, Ours",
    **{name: METHOD_LABELS[name] for name in ("scratch", "set", "rigl", "rigl_inverted")},
}
#: The paper's name of a method, by ours.
_PAPER = {
    "dense": "Baseline (dense)",
    "small_dense": "Small Dense",
    "scratch": "Scratch",
    "set": "SET",
    "rigl": "RigL",
    "rigl_inverted": "RigL-Inverted",
}


class Row(NamedTuple):
    """Groups that one line is about: one, or those on all masks."""

    label: str
    groups: tuple[str, ...]
    method: str
    """The paper's; "" where it has none."""
    init: str


def rows_of(setting: Setting, scale: ImageScale) -> list[Row]:
    """A setting's groups in the order of tables, those that differ in the pruning run as one.

    >>> from sparseflow.paper.matrix.image_scales import IMAGE_SCALES
    >>> rows = rows_of(SETTINGS["cifar"][3], IMAGE_SCALES["cifar"])
    >>> [row.groups for row in rows if row.label == "Lottery of step 0"]
    [('resnet14/lottery-k0/mask0', 'resnet14/lottery-k0/mask1', 'resnet14/lottery-k0/mask2')]
    """
    lines: dict[tuple[str, ...], list[str]] = {}
    for group in scale.groups:
        name, *parts = group.split("/")
        if name == setting.name:
            lines.setdefault(tuple(part for part in parts if not part.startswith("mask")), []).append(group)
    ordered = sorted(lines.items(), key=lambda line: list(NAMES).index(line[0][0]))
    return [_row(setting, kind, tuple(groups)) for kind, groups in ordered]


def _row(setting: Setting, kind: tuple[str, ...], groups: tuple[str, ...]) -> Row:
    name, *rest = kind
    init = INIT_LABELS.get(rest[0], "") if rest else ""
    label = ", ".join([NAMES[name], *(INIT_LABELS.get(part, part) for part in rest)])
    method = "" if rest[1:] else _PAPER.get(name, "")
    if name in ("lottery-k0", "lottery-k5000", "lottery") and not rest:
        # VGG16's ticket was not rewound late, ResNet-50's was.
        late = setting.paper == "ResNet50"
        method = {("lottery-k0", False): "Lottery", ("lottery", True): "Lottery (late rewinding)"}.get((name, late), "")
    return Row(label, groups, method, init)
