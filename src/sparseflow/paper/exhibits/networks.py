"""The networks of the image scales, the kinds of runs on each, and the paper's names for them."""

from __future__ import annotations

from typing import NamedTuple

from sparseflow.init.schemes import SCHEMES
from sparseflow.paper.claims import sites
from sparseflow.paper.claims.sites import Site
from sparseflow.paper.matrix import cifar, cifar_long
from sparseflow.paper.matrix.scale import Scale
from sparseflow.training.names import shown_methods


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
    "cifar-long": (
        Setting("vgg16", "VGG16, 80 % zeros", "VGG16"),
        Setting("resnet20", "ResNet-20, 90 % zeros", "ResNet50"),
    ),
    "imagenet": (
        Setting("vgg16", "VGG16, 80 % zeros", "VGG16"),
        Setting("resnet50", "ResNet-50, 80 % zeros", "ResNet50"),
    ),
}
#: Controls: a setting with more steps, or fewer.
LONGER = {
    "cifar": (
        Setting("vgg16-90-longer", f"VGG16, 90 % zeros, {cifar.LONGER} times the steps", "VGG16"),
        Setting("resnet14-longer", f"ResNet-14, 90 % zeros, {cifar.LONGER} times the steps", "ResNet50"),
    ),
    "cifar-long": (Setting(cifar_long.SHORT, f"ResNet-20, 90 % zeros, 1/{cifar_long.SHARE} of the steps", "ResNet50"),),
}
#: Runs on the masks of a pruning run: second part of a group's name -> label.
ON_PRUNED_MASKS = {
    "lottery": "Lottery, rewound late",
    "lottery-k5000": "Lottery, rewound to step 5000",
    "lottery-k0": "Lottery of step 0",
    "ticket-scratch": "Scratch on pruned masks",
    "ticket-scratch-sparse": "Scratch on pruned masks, Ours",
}


def site_of(scale: Scale) -> Site:
    """The site at which a scale's runs are judged.

    >>> from sparseflow.paper.matrix.scales import CIFAR, DEMO
    >>> site_of(DEMO).halves_of_updates, site_of(CIFAR).halves_of_updates
    (False, True)
    """
    if scale.page == "paper":
        return sites.MNIST
    return sites.CIFAR_LONG if scale.name == "cifar-long" else sites.CIFAR


def kind_labels() -> dict[str, str]:
    """Second part of a group's name -> label, in the order of tables.

    >>> list(kind_labels())[2:5]
    ['prune', 'lottery', 'lottery-k5000']
    """
    labels: dict[str, str] = {}
    for key, row in shown_methods().items():
        labels |= ON_PRUNED_MASKS if key == "lottery" else {key: row.label}
    return labels


class Row(NamedTuple):
    """One row of a table: a single group, or the groups of one kind on all masks."""

    label: str
    groups: tuple[str, ...]
    method: str
    """The paper's; "" where it has none."""
    init: str


def rows_of(setting: Setting, scale: Scale) -> list[Row]:
    """The groups of a setting in the order of tables, those that differ in the pruning run alone as one row.

    >>> from sparseflow.paper.matrix.scales import SCALES
    >>> rows = rows_of(SETTINGS["cifar"][3], SCALES["cifar"])
    >>> [row.groups for row in rows if row.label == "Lottery of step 0"]
    [('resnet14/lottery-k0/mask0', 'resnet14/lottery-k0/mask1', 'resnet14/lottery-k0/mask2')]
    """
    lines: dict[tuple[str, ...], list[str]] = {}
    for group in scale.groups:
        name, *parts = group.split("/")
        if name == setting.name:
            lines.setdefault(tuple(part for part in parts if not part.startswith("mask")), []).append(group)
    ordered = sorted(lines.items(), key=lambda line: list(kind_labels()).index(line[0][0]))
    return [_row(setting, kind, tuple(groups)) for kind, groups in ordered]


def _row(setting: Setting, kind: tuple[str, ...], groups: tuple[str, ...]) -> Row:
    name, *rest = kind
    schemes = [SCHEMES[part].label if part in SCHEMES else part for part in rest]
    method = "" if rest[1:] or name in ON_PRUNED_MASKS else shown_methods()[name].paper
    if name.startswith("lottery") and not rest:
        # VGG16's ticket was not rewound late, ResNet-50's was.
        late = setting.paper == "ResNet50"
        method = {("lottery-k0", False): "Lottery", ("lottery", True): "Lottery (late rewinding)"}.get((name, late), "")
    init = SCHEMES[rest[0]].label if rest and rest[0] in SCHEMES else ""
    return Row(", ".join([kind_labels()[name], *schemes]), groups, method, init)
