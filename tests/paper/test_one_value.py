"""What a claim and a figure or table both state is one number: the words of both are compared."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims import CLAIMS
from sparseflow.paper.matrix.scales import DEMO, PAPER
from synthetic_evidence import build, make_evidence, make_tables

#: Enough seeds that tests are made.
SCALE = DEMO.with_seeds(6)
NUMBER = r"(\d+\.\d+|\d+)"


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return make_evidence(SCALE)


@pytest.fixture(scope="module")
def spectra() -> Evidence:
    """Of the paper's scale: C26 looks at steps that a shorter one has not."""
    return Evidence({}, make_tables(PAPER), "paper")


def ours(id: str, evidence: Evidence) -> str:
    return CLAIMS[id](evidence).ours


def said(pattern: str, text: str) -> list[str]:
    """The numbers of the one place in a text that matches."""
    (found,) = re.findall(pattern, text)
    return [found] if isinstance(found, str) else list(found)


def table(name: str, evidence: Evidence, key: str = "network") -> pd.DataFrame:
    return build(name, evidence, SCALE).tables[0].data.set_index(key)


def test_factors_of_an_update_on_eigenvalues(spectra: Evidence) -> None:
    claimed = [
        said(rf"RigL, step 200 {NUMBER}", ours("C25", spectra)),
        said(rf"SET, step 200 {NUMBER}", ours("C25", spectra)),
        said(rf"after {NUMBER},", ours("C26", spectra)),
    ]
    words = " ".join(build("fig10", spectra, PAPER).shows)
    rigl, moved = (
        said(rf"{name}\+ update .*? most negative eigenvalue by {NUMBER} and the largest by {NUMBER}", words)
        for name in ("RigL", "SET")
    )
    assert [[rigl[0]], [moved[0]], [rigl[1]]] == claimed
    assert rigl[0] != moved[0]


def test_the_most_negative_eigenvalue_over_training(spectra: Evidence) -> None:
    claim, words = ours("C27", spectra), build("fig11a", spectra, PAPER).shows[0]
    for name in ("Small Dense", r"RigL\+", r"Scratch\+"):
        assert said(rf"{name} {NUMBER}[,.]? ?", claim.split("right before")[0])[:1] == said(
            rf"{name} {NUMBER}[,.] ?", words.split("Runs:")[0]
        )


def test_gradient_norms_at_the_start(evidence: Evidence) -> None:
    means = table("fig2a", evidence)
    claim = ours("C29", evidence).split("MLP")[0]
    parts = rf"lottery {NUMBER}, Scratch {NUMBER}, Scratch\+ {NUMBER}"
    first, early = (found for found in re.findall(parts, claim))
    networks = ["Lottery", "Scratch", "Scratch+"]
    assert [f"{value:.3g}" for value in means.loc[networks, "first"]] == list(first)
    assert [f"{value:.3g}" for value in means.loc[networks, "early"]] == list(early)
    at_start = said(rf"LeNet5, Ours {NUMBER}", ours("C05", evidence))
    assert at_start == [f"{means.loc['Scratch+', 'first']:.3f}"]


def test_the_gradient_norm_of_rigl_over_that_of_scratch(evidence: Evidence) -> None:
    late = table("fig2a", evidence)["late"]
    claimed = said(rf"LeNet5, off-cycle {NUMBER}", ours("C21", evidence))
    assert claimed == [f"{late['RigL+'] / late['Scratch+']:.2f}"]
    assert claimed != ["1.00"]


def test_one_group_has_one_norm_in_every_figure(evidence: Evidence) -> None:
    """Also in a figure in which no mask moves: there, too, the steps of mask updates are left out."""
    everywhere, still = table("fig2a", evidence), table("fig7c", evidence)
    numbers = ["first", "early", "late"]
    networks = ["Scratch", "Scratch+"]
    pd.testing.assert_frame_equal(still.loc[networks, numbers], everywhere.loc[networks, numbers])


def test_changes_at_mask_updates(evidence: Evidence) -> None:
    changes = table("fig3b", evidence)
    first = said(rf"LeNet5 {NUMBER} \[{NUMBER}, {NUMBER}\]", ours("C17", evidence))
    assert first == [f"{value:.3g}" for value in changes.loc["RigL+", ["first_half", "low", "high"]]]


def test_distances_to_the_pruned_network(evidence: Evidence) -> None:
    start, end = build("fig5b", evidence, SCALE).shows
    assert said(rf"ratio {NUMBER};", ours("C30", evidence)) == said(rf"scratch is {NUMBER} times", start)
    claimed = said(rf"ratio {NUMBER} \[", ours("C31", evidence))
    assert claimed == said(rf"scratch is {NUMBER} times", end)
    distances = table("fig5b", evidence, "measure").query("network == 'Lottery'")
    assert said(rf"start: lottery {NUMBER}", ours("C30", evidence)) == [
        f"{distances.loc['Start: distance', 'mean']:.2f}"
    ]


@pytest.mark.parametrize(("exhibit", "network"), [("fig5c", "LeNet5"), ("fig9c", "MLP")])
def test_barriers(exhibit: str, network: str, evidence: Evidence) -> None:
    claimed = said(rf"{network} lottery {NUMBER}±\S+ \S+ scratch {NUMBER}", ours("C34", evidence))
    words = build(exhibit, evidence, SCALE).shows[0]
    assert claimed == said(rf"{NUMBER} nats high from lottery tickets and {NUMBER} from scratch", words)


def test_disagreement_with_the_pruned_network(evidence: Evidence) -> None:
    claim = said(rf"ratio {NUMBER};", ours("C36", evidence))
    assert claim == said(rf"{NUMBER} times as many", build("table2", evidence, SCALE).shows[0])
