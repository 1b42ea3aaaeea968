"""Claims about weight decay and the paper's summary: each can hold, fail, and stay open."""

from __future__ import annotations

import re

import numpy as np
import pytest

from sparseflow.paper.claims import CLAIMS
from sparseflow.training.digits import DigitRun
from sparseflow.training.runs import Run
from synthetic_runs import runs_like, verdict_on

Groups = dict[str, list[Run]]


def c51(*, decayed: float = 99.2, count: int = 5, std: float = 0.05) -> Groups:
    return {
        "lenet5/dense": runs_like(count, accuracy=decayed, std=std, method="dense"),
        "lenet5/dense/wd0": runs_like(count, accuracy=99.0, std=0.05, method="dense", weight_decay=0.0),
    }


def c53(*, slope: float = 1.0, runs: int = 24, stuck: int = 0, mlp: float | None = None, disorder: int = 0) -> Groups:
    """Final accuracies that rise with the norm, in groups of one run; ``disorder`` of them are somewhere."""
    found = {}
    for network, rise in (("lenet5", slope), ("mlp", slope if mlp is None else mlp)):
        places = np.linspace(0, 1, runs)
        order = np.concatenate([np.random.default_rng(0).permutation(disorder), np.arange(disorder, runs)])
        for number, place in enumerate(places):
            accuracy = 97 + rise * places[order[number]]
            options = {
                "norm": float(np.exp(place)),
                "model": network,
                "learning_rate": 0.01 + 0.001 * number,
                "mask_from": DigitRun(method="prune", seed=number, model=network),
            }
            (run,) = runs_like(1, accuracy=accuracy, stuck=int(number < stuck), **options)  # type: ignore[arg-type]
            found[f"{network}/variant{number}"] = [run]
    return found


@pytest.mark.parametrize(
    ("claim", "groups", "expected"),
    [
        ("C51", c51(), "held"),
        ("C51", c51(decayed=98.9), "failed"),
        ("C51", c51(decayed=99.01, std=0.1), "inconclusive"),
        ("C53", c53(), "held"),
        ("C53", c53(slope=-1.0), "failed"),
        ("C53", c53(mlp=-1.0), "failed"),
        ("C53", c53(slope=0.0), "inconclusive"),  # accuracies that do not differ have no rank
        ("C53", c53(disorder=24), "failed"),
    ],
)
def test_overall(claim: str, groups: Groups, expected: str) -> None:
    found = verdict_on(claim, groups)
    assert found.verdict == expected, found


@pytest.mark.parametrize(
    ("claim", "groups", "missing"),
    [
        ("C51", c51(count=2), "lenet5/dense has 2 finished runs of at least 3 needed"),
        ("C53", c53(runs=19), "there are 19 sparse LeNet5 runs that learned of at least 20 needed"),
        ("C53", c53(stuck=5), "there are 19 sparse LeNet5 runs that learned of at least 20 needed"),
        ("C53", {}, "there are 0 sparse LeNet5 runs that learned of at least 20 needed"),
    ],
)
def test_too_few_runs(claim: str, groups: Groups, missing: str) -> None:
    found = verdict_on(claim, groups)
    assert (found.verdict, found.p_value) == ("inconclusive", None)
    assert missing in found.note


def test_vgg16_is_not_judged() -> None:
    found = verdict_on("C52", {})
    assert (found.verdict, found.p_value) == ("inconclusive", None)
    assert "VGG16" in found.note


def test_runs_that_did_not_learn_are_reported_and_not_judged() -> None:
    """Four runs with the smallest norms fall to guessing: no rank changes where accuracy rises with the norm."""
    found = verdict_on("C53", c53(slope=-1.0, stuck=4))
    learned, every = re.findall(r"LeNet5 (\S+) \((\S+) with all\)", found.ours)[0]
    assert learned == "-1.00"
    assert float(every) > -0.9


def test_a_run_in_two_groups_counts_once() -> None:
    groups = c53()
    twice = {**groups, "lenet5/again": [runs[0] for name, runs in groups.items() if name.startswith("lenet5/")]}
    assert verdict_on("C53", twice) == verdict_on("C53", groups)


def test_networks_that_are_dense_at_first_do_not_count() -> None:
    groups = c53()
    dense = {
        f"lenet5/{method}": runs_like(9, accuracy=99.9, norm=0.001, method=method) for method in ("dense", "prune")
    }
    assert verdict_on("C53", {**groups, **dense}) == verdict_on("C53", groups)


def test_networks_are_not_pooled() -> None:
    """Within each network accuracy falls with the norm; over both it rises, since the MLP has less of both."""
    groups = c53(slope=-0.1)
    for name in [name for name in groups if name.startswith("mlp/")]:
        (run,) = groups[name]
        run.metrics.loc[run.metrics["name"] == "flow/norm", "value"] *= 0.01
        run.final["test/accuracy"] -= 0.02
    found = verdict_on("C53", groups)
    assert found.verdict == "failed"
    assert float(found.ours.split("both networks pooled ")[1]) > 0.3


def test_every_claim_has_a_judge() -> None:
    assert list(CLAIMS) == [f"C{number:02d}" for number in range(1, 54)]
