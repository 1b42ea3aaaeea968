"""The initialisation schemes by name: their fans, their labels and their look in figures."""

from __future__ import annotations

from typing import NamedTuple

from sparseflow.init.fill import Scaling
from sparseflow.types import Look


class Scheme(NamedTuple):
    """One way to start masked weights; every table and figure reads its names from here."""

    scaling: Scaling
    """Connections that the fans count, see :mod:`sparseflow.init.fill`; ``live`` leaves dead inputs out."""
    label: str
    """The paper's name."""
    meaning: str
    """For readers of a page, who have not read the paper."""
    suffix: str
    """Suffix of a method's name in the paper's figures: ``"+"`` in ``"RigL+"``."""
    look: Look


#: Key of ``scheme=`` and of ``--init``; the order is that of every table.
SCHEMES: dict[str, Scheme] = {
    "dense": Scheme(
        scaling="dense",
        label="Original",
        meaning="the usual initialisation: weights are drawn as for a dense network, then most are set to zero.",
        suffix="",
        look=Look("vermillion", ":", "o"),
    ),
    "liu": Scheme(
        scaling="layer",
        label="Liu",
        meaning="the remaining weights of a layer are scaled up by the sparsity of their layer.",
        suffix=" Liu",
        look=Look("sky", "--", "s"),
    ),
    "sparse": Scheme(
        scaling="unit",
        label="Ours",
        meaning="the sparsity-aware initialisation: each neuron's weights are scaled to the number of connections "
        "that it really has; a + in figures.",
        suffix="+",
        look=Look("blue", "-", "^"),
    ),
    "live": Scheme(
        scaling="unit",
        label="Live",
        meaning="as Ours, but only connections that something arrives on are counted.",
        suffix=" Live",
        look=Look("ink", "-.", "D"),
    ),
}
