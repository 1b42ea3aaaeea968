"""The sites at which claims are judged, MNIST, CIFAR-10 and ImageNet, and the differences of their criteria.

There are two on CIFAR-10. The networks of :mod:`sparseflow.paper.matrix.cifar` are VGG16 at three sparsities, and
ResNet-14, which is ResNet-50 with one block per group; both have 1/8 of their channels and train for an epoch or two.
Verdicts call them narrow, and most of them are :mod:`withdrawn <.withdrawn>`. Those of
:mod:`sparseflow.paper.matrix.cifar_long` learn: ResNet-20, and VGG16 of a quarter of the width. Where a criterion
counts steps of ImageNet, the same share of training is meant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sparseflow.init.schemes import SCHEMES
from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims.run_statistics import at_share
from sparseflow.paper.matrix import cells, cifar_long
from sparseflow.paper.matrix.cells import MOVING
from sparseflow.paper.matrix.cifar import RESNET, VGG
from sparseflow.training import names
from sparseflow.training.optimizer import DROPS, StepSchedule
from sparseflow.training.runs import Run

#: The paper's label of a method or an initialisation -> its key in names of groups.
METHODS = {names.METHODS[key].paper: key for key in cells.METHODS}
INITS = {SCHEMES[key].label: key for key in cells.INITS}
#: Why LeNet5's masks move every 100 steps where claims are judged.
OFTEN = (
    "LeNet5's masks move every 100 steps now, as in the authors' configs and Figures 8b and 10: at 500, which Table 4 "
    "prints, SET and RigL end farther from the paper's Table 1."
)


@dataclass(frozen=True)
class Networks:
    """The networks that a claim is about."""

    groups: Mapping[str, str]
    """Label -> beginning of the names of the network's groups."""
    phrase: str = ""
    """Beginning of a sentence about them: data set and networks; "" where the sentence needs neither."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """The networks, numbers of runs and thresholds of one data set; a claim is one function of a site."""

    networks: Networks
    """Networks trained by every method from every initialisation (C08, C23)."""
    plain: Networks
    """Networks without batch norm, whose training may not start (C04, C07, C22)."""
    starting: Networks
    """Networks whose first gradients are judged (C05)."""
    moving: Networks
    """Networks whose mask updates are judged, also those of RigL-Inverted (C17 to C20)."""
    flowing: Networks
    """Networks whose gradients under RigL and Scratch are compared (C21)."""
    residual: Networks
    """The network with batch norm and skip connections (C09, C10, C13); none on MNIST."""
    cells: frozenset[str] | None = None
    """The cells of Table 1 that are trained, as :meth:`cell` names them; ``None``: every method from every start."""
    tickets: Networks
    """Settings of section 4.3; the first is that of the paper's figures (C30 to C36)."""
    ticket_kinds: Mapping[str, str]
    """The paper's name of runs on pruned masks -> end of their groups' names (C29)."""
    random_kind: str
    """End of the names of groups of Scratch on pruned masks (C30 to C36)."""
    one_pruning_run: bool = False
    """Whether tickets were judged before on the masks of one pruning run alone (C32 to C47)."""
    ticket_flow: Networks
    """Networks whose tickets' gradients are judged (C29)."""
    returns: bool = False
    """Whether tickets must end nearer to the pruning solution than they start for claims about their ends to be judged
    (C31, C32, C34, C36)."""
    plain_tickets: Networks = Networks({})
    """Networks without batch norm whose tickets are reported (C44)."""
    dropping: str
    """The group whose learning rate drops in steps (C11)."""
    dropping_phrase: str
    """Beginning of a sentence about this group."""
    drops: Callable[[Any], Mapping[str, int]]
    """From a run's config: name -> first step with the lower rate, for each drop (C11)."""

    many: int
    """Fewest seeds where collapse and onset are judged (C04, C07, C22)."""
    some: int
    """Fewest seeds where equivalence or order is (C08, C20)."""
    few: int
    """Fewest seeds where changes at mask updates are (C17 to C19)."""

    often: str = ""
    """End of the names of groups of networks without batch norm whose masks move every 100 steps."""
    periods: Mapping[str, str]
    """Name -> end of the groups' names, for each update period that is judged (C20)."""
    order: tuple[str, ...]
    """Methods whose accuracies fall in this order (C23)."""
    order_caveat: str = ""
    """Addition to the sentence about this order."""
    flat_steps: float | None = None
    """Least length of the flat region, in the paper's steps; ``None``: no bound (C04)."""
    is_short: bool = False
    """Whether training may be too short to start: parts that this leaves unknown are then open (C04, C22)."""
    first_steps: float
    """End of the start of training, in the paper's steps (C05)."""
    very_start: float = 100
    """End of the very start, in steps of the paper's ResNet-50 (C10)."""
    drop_window: float
    """Window on either side of a drop, in the paper's steps (C11)."""
    halves_of_updates: bool
    """Whether the two halves compared are those of the time in which masks move, or of all training (C17 to C19)."""
    farther: int
    """Factor by which Scratch must end farther from the pruning solution than tickets (C31)."""
    untested: str = ""
    """The data set that was not tested where a criterion has a part of its own for it (C31, C34)."""

    def cell(self, network: str, method: str, init: str) -> str:
        """The group of a cell of Table 1, at the update period that it is judged at.

        LeNet5's is 100, as in the authors' configs and Figures 8b and 10. At 500, which Table 4 prints, SET ends below
        the paper's table, at 100 it does not.

        >>> MNIST.cell("lenet5", "rigl", "sparse"), MNIST.cell("mlp", "rigl", "sparse")
        ('lenet5/rigl/sparse/f100', 'mlp/rigl/sparse')
        """
        often = self.often if method in MOVING and network in self.plain.groups.values() else ""
        return f"{network}/{method}/{init}{often}"

    def methods(self, network: str, *inits: str) -> dict[str, str]:
        """The paper's label -> key of the methods that train a network from all of these initialisations.

        >>> CIFAR_LONG.methods("vgg16", "liu", "sparse"), list(MNIST.methods("lenet5", "liu"))
        ({'Scratch': 'scratch', 'RigL': 'rigl'}, ['Scratch', 'SET', 'RigL'])
        """
        cells = self.cells
        return {
            label: key
            for label, key in METHODS.items()
            if cells is None or all(self.cell(network, key, init) in cells for init in inits)
        }

    def inits(self, network: str, method: str) -> list[str]:
        """The initialisations that a method trains a network from.

        >>> CIFAR_LONG.inits("resnet20", "set"), MNIST.inits("lenet5", "set")
        (['dense', 'sparse'], ['dense', 'liu', 'sparse'])
        """
        return [key for key in INITS.values() if self.cells is None or self.cell(network, method, key) in self.cells]

    @property
    def main_tickets(self) -> str:
        """The setting that the paper's figures of tickets are about."""
        return next(iter(self.tickets.groups.values()))


def _digits_drops(config: Any) -> dict[str, int]:
    # The first step with the lower rate.
    return {f"{100 * share:.0f} %": math.ceil(share * config.steps) for share in DROPS}


def _image_drops(config: Any) -> dict[str, int]:
    schedule = StepSchedule.of_paper(peak=config.learning_rate, steps=config.steps)
    return {f"step {drop}": drop for drop in schedule.drop_steps}


_LENET5 = {"LeNet5": "lenet5"}
_DIGITS = Networks({**_LENET5, "MLP": "mlp"})
#: Numbers of seeds are those of the criteria.
MNIST = Site(
    networks=_DIGITS,
    plain=Networks(_LENET5, "On LeNet5"),
    starting=_DIGITS,
    moving=Networks(_LENET5),
    flowing=Networks(_LENET5),
    residual=Networks({}),
    tickets=Networks({"LeNet5": "tickets", "MLP": "mlp-tickets"}),
    ticket_kinds={"lottery": "lottery", "Scratch": "scratch/dense", "Scratch+": "scratch/sparse"},
    random_kind="scratch",
    one_pruning_run=True,
    ticket_flow=_DIGITS,
    dropping="lenet5/scratch/sparse/step",
    dropping_phrase="On LeNet5, as ResNet-50 was not trained",
    drops=_digits_drops,
    many=20,
    some=10,
    few=5,
    often="/f100",
    periods={"every 500 steps": "", "every 100 steps": "/f100"},
    order=("RigL", "Scratch"),
    order_caveat="; the full order needs ImageNet and was not tested",
    flat_steps=500,
    first_steps=1000,
    drop_window=500,
    halves_of_updates=False,
    farther=2,
    untested="ImageNet",
)

_VGGS = {f"VGG16, {100 * sparsity:.0f} % zeros": setting for setting, sparsity in VGG.items()}
_RESNET = Networks({"ResNet-14": RESNET}, "On CIFAR-10, with a narrow ResNet-14")
_VGG = Networks(_VGGS, "On CIFAR-10, with a narrow VGG16 without batch norm")
_IMAGES = Networks({**_VGGS, **_RESNET.groups}, "On CIFAR-10, with narrow VGG16s and a ResNet-14")
CIFAR = Site(
    networks=_IMAGES,
    plain=_VGG,
    starting=_VGG,
    moving=Networks({"VGG16": "vgg16-90", **_RESNET.groups}, "On CIFAR-10, with a narrow VGG16 and a narrow ResNet-14"),
    flowing=_IMAGES,
    residual=_RESNET,
    tickets=_RESNET,
    ticket_kinds={"lottery": "lottery", "Scratch": "ticket-scratch", "Scratch+": "ticket-scratch-sparse"},
    random_kind="ticket-scratch",
    ticket_flow=_RESNET,
    dropping=f"{RESNET}/scratch/sparse",
    dropping_phrase=_RESNET.phrase,
    drops=_image_drops,
    many=3,
    some=3,
    few=3,
    periods={"": ""},
    order=("RigL", "SET", "Scratch"),
    is_short=True,
    # What the paper's first 5000 steps are of VGG16's 128000.
    first_steps=at_share(5000 / 128_000),
    # Two logged steps: the criterion's 500 of 32000 would hold one.
    drop_window=at_share(40 / 600),
    halves_of_updates=True,
    farther=3,
    plain_tickets=Networks({"VGG16 at 90 %": "vgg16-90"}),
)

_RESNET20 = Networks({"ResNet-20": cifar_long.RESNET}, "On CIFAR-10, with a ResNet-20")
_LONG_VGG = Networks({"VGG16": cifar_long.VGG}, "On CIFAR-10, with a VGG16 of a quarter of the width")
_LEARNING = Networks({**_RESNET20.groups, **_LONG_VGG.groups}, "On CIFAR-10, with a ResNet-20 and a VGG16")
#: Networks that learn; three seeds of a cell. What 16 hours of two cores leave out is not judged, see ``cells``.
CIFAR_LONG = replace(
    CIFAR,
    networks=_LEARNING,
    plain=_LONG_VGG,
    starting=_LONG_VGG,
    moving=_RESNET20,
    flowing=_LEARNING,
    residual=_RESNET20,
    cells=frozenset(cifar_long.CELLS),
    tickets=_RESNET20,
    ticket_flow=_RESNET20,
    returns=True,
    order_caveat="; of VGG16 only RigL and Scratch were compared",
    plain_tickets=_LONG_VGG,
    dropping=f"{cifar_long.RESNET}/scratch/sparse",
    dropping_phrase=_RESNET20.phrase,
    # The span that the claim is measured over: of the first 100 steps step 0 alone is logged, and residual branches,
    # whose last scales start at zero, are silent then, so that no masked kernel in them has a gradient.
    very_start=500,
    # The criterion's own window, in which two or three norms are logged.
    drop_window=at_share(500 / 32_000),
)
#: The site of the claims that read groups of the paper's own networks.
IMAGENET = replace(MNIST, residual=Networks({"ResNet-50": "resnet50"}))


def pooled(
    evidence: Evidence, site: Site, group: str, *, often: bool = False, at_least: int | None = None
) -> list[Run]:
    """The runs of a group such as ``scratch/dense``, of all networks without batch norm together.

    Args:
        evidence: The runs.
        site: Its networks.
        group: Method and initialisation.
        often: Whether masks move as often as the paper's figures need.
        at_least: Of each network; default the site's ``many``.
    """
    suffix, fewest = site.often if often else "", site.many if at_least is None else at_least
    return [
        run
        for network in site.plain.groups.values()
        for run in evidence.runs(f"{network}/{group}{suffix}", at_least=fewest)
    ]
