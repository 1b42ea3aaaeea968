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
    suffix: str
    """Suffix of a method's name in the paper's figures: ``"+"`` in ``"RigL+"``."""
    look: Look


#: Key of ``scheme=`` and of ``--init``; the order is that of every table.
SCHEMES: dict[str, Scheme] = {
    "dense": Scheme("dense", "Original", "", Look("vermillion", ":", "o")),
    "liu": Scheme("layer", "Liu", " Liu", Look("sky", "--", "s")),
    "sparse": Scheme("unit", "Ours", "+", Look("blue", "-", "^")),
    "live": Scheme("unit", "Live", " Live", Look("ink", "-.", "D")),
}
