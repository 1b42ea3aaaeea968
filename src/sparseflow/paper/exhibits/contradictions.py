"""Contradictions of the paper with itself or its code, as far as MNIST is concerned, and the choices made here."""

from __future__ import annotations

from typing import NamedTuple

from sparseflow.lab.page.words import DATASETS_IN_WORDS, number
from sparseflow.paper.matrix.scales import PAPER
from sparseflow.paper.published import mnist, reported


class Contradiction(NamedTuple):
    """One disagreement."""

    topic: str
    says: str
    """The two statements."""
    followed: str
    """The choice made here."""


def contradictions() -> list[Contradiction]:
    """In the order of protocol J, those that matter for MNIST; every number is read or computed.

    >>> any("25.0 epochs" in each.says for each in contradictions())
    True
    """
    table4 = mnist("table4").set_index("metric")["mean"]
    steps, batch, printed = (float(table4[name]) for name in ("total_steps", "batch_size", "epochs"))
    images = DATASETS_IN_WORDS["mnist"][1]
    period = table4["mask_update_frequency"]
    decays = [mnist(name).set_index("metric")["mean"]["weight_decay"] for name in ("table3", "table4")]
    often = f"{PAPER.base.update_every / PAPER.often:g} times as often"
    rigl = reported("table1", method="RigL", init="Ours").mean
    small = reported("table1", method="Small Dense").mean
    pairwise = [
        reported("table2", method=method, metric="pairwise_disagreement_fraction").mean
        for method in ("Scratch (same init)", "LT")
    ]
    return [
        Contradiction(
            "Gradient flow",
            "The text defines gradient flow as the squared length of the gradient; its figures show the length.",
            "The length, as in the figures.",
        ),
        Contradiction(
            "Epochs",
            f"The paper says {printed:g} epochs. Its {steps:g} steps of {batch:g} images are "
            f"{steps * batch / images:.1f} epochs of MNIST's {images} training images.",
            f"{steps:g} steps.",
        ),
        Contradiction(
            "Mask updates",
            f"Table 4 has an update every {period} steps. Figures 8b and 10 show updates at steps that are no multiple "
            f"of it, and the published code updates {often}.",
            f"LeNet5's {often}; every {period} steps in the rows of table 1 that say so. The MLP's every {period}.",
        ),
        Contradiction(
            "Weight decay",
            f"The paper has {decays[0]} for lottery tickets and {decays[1]} for the rest; the published settings prune "
            "with weight decay and train tickets without. In the code the penalty is the coefficient times the squared "
            "weights, so its gradient is twice the coefficient times the weight.",
            "The paper's values with the code's penalty.",
        ),
        Contradiction(
            "Validation images",
            "Gradient norms are said to be measured on a separate validation set. In the code these are the first "
            "training images, which stay in training; RigL looks at the next ones to choose where to grow.",
            "As in the code.",
        ),
        Contradiction(
            "When the norm is measured",
            "The code logs at steps that are multiples of the update period, right after a mask update and before any "
            "step with the new mask; its curves of methods that move connections show that moment.",
            "Both are measured; curves show the steps between updates, the moment after stands beside them.",
        ),
        Contradiction(
            "Signal at initialisation (figure 1c)",
            "The caption says five networks. The notebook has fewer, coloured inputs, a rectified output, masks that "
            "starve some neurons, and compares different base initialisations.",
            "Grey inputs, a linear output, the same base for all, even masks; the notebook's masks as a second panel.",
        ),
        Contradiction(
            "Base initialisation",
            "The appendix says uniform weights scaled by the average of inputs and outputs; the published settings of "
            "SET and RigL say normal weights scaled by inputs.",
            "The appendix.",
        ),
        Contradiction(
            "Small Dense against RigL",
            f"Section 4.2 says that RigL falls short of Small Dense. Table 1 has RigL at {rigl:.2f} % and Small Dense "
            f"at {small:.2f} % on LeNet5, and RigL ahead on both larger networks.",
            "The table; see claim C24.",
        ),
        Contradiction(
            "Scratch against tickets",
            "Section 4.3 calls the disagreement of scratch runs almost ten times that of tickets. By table 2 it is "
            f"{number(pairwise[0] / pairwise[1], 2)} times.",
            "The table's ratio; see claim C39.",
        ),
        Contradiction(
            "Table 6",
            "On MNIST, the columns of the KL with the pruned network and of the JSD of five models look interchanged.",
            "Ours stand under the heading that they are; see table 6 above.",
        ),
        Contradiction(
            "Eigenvalues",
            "The paper names a solver of double precision, the code uses one of single precision.",
            "Double precision, after making the matrix symmetric.",
        ),
    ]
