"""Live first filters and accuracy: which runs are compared, and the criterion on made-up runs that meet it or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.lab.page.table import records
from sparseflow.paper.claims.dead_filters import (
    VARIANTS,
    changed,
    dead_filters,
    filters,
    group_of,
    signed_rank_greater,
)
from sparseflow.paper.exhibits.all import EXHIBITS
from sparseflow.paper.matrix.scales import DEMO, PAPER
from sparseflow.training.digits import DigitRun
from sparseflow.training.run import train
from sparseflow.training.runs import Run, final_state
from sparseflow.training.units import unit_count

#: Start -> live filters of three that are active.
LIVE = [3, 3, 2, 2, 2, 1, 1, 1, 3, 2, 1, 2]


def run(config: DigitRun, live: int, accuracy: float, *, counted: bool = True) -> Run:
    values = {"all": 6, "no_path_in": 3, "live": live}
    rows = [(step, f"units/{name}/conv1", float(value)) for step in (0, config.steps) for name, value in values.items()]
    metrics = pd.DataFrame(rows if counted else [], columns=["step", "name", "value"])
    return Run(config, Path(config.name), metrics, {"test/accuracy": accuracy / 100}, {}, 1.0)


def made(*, by_filter: float, woken: float, silenced: float, counted: bool = True) -> Evidence:
    """Starts whose accuracy rises by ``by_filter`` a live filter, and what both controls make of them."""
    groups: dict[str, list[Run]] = {"drawn": [], "repaired": [], "killed": []}
    for seed, live in enumerate(LIVE):
        accuracy = 96 + by_filter * live + 0.01 * seed
        base = DigitRun(seed=seed)
        groups["drawn"].append(run(base, live, accuracy, counted=counted))
        changes = woken * (3 - live) * (1 + 0.01 * seed), -silenced * (1 + 0.01 * seed)
        groups["repaired"].append(run(base.with_(control="repaired"), 3, accuracy + changes[0], counted=counted))
        groups["killed"].append(run(base.with_(control="killed"), live - 1, accuracy + changes[1], counted=counted))
    return Evidence({group_of("scratch", "sparse", name): runs for name, runs in groups.items()}, {})


def test_only_starts_that_were_changed_are_pairs() -> None:
    """By hand: nine of twelve have a dead filter; four have one live filter, which silencing leaves with none."""
    table = filters(made(by_filter=0.5, woken=0.5, silenced=0.4))
    assert len(table) == 36
    assert (table["active"] == 3).all()
    woken = changed(table, "repaired")
    assert woken["start"].tolist() == [seed for seed, live in enumerate(LIVE) if live < 3]
    assert woken["live_before"].tolist() == [live for live in LIVE if live < 3]
    assert set(woken["live"]) == {3}
    silenced = changed(table, "killed")
    assert silenced["start"].tolist() == [seed for seed, live in enumerate(LIVE) if live > 1]
    assert np.allclose(
        silenced["accuracy_before"] - silenced["accuracy"], [0.4 * (1 + 0.01 * s) for s in silenced["start"]]
    )


@pytest.mark.parametrize(
    ("by_filter", "woken", "silenced", "outcome"),
    [
        (0.5, 0.5, 0.4, "held"),
        (0.5, 0.0, 0.4, "inconclusive"),  # a correlation alone is no cause
        (0.5, -0.5, 0.4, "failed"),
        (0.5, 0.5, -0.4, "failed"),
        (-0.5, 0.5, 0.4, "failed"),
    ],
)
def test_the_criterion(by_filter: float, woken: float, silenced: float, outcome: str) -> None:
    assert dead_filters(made(by_filter=by_filter, woken=woken, silenced=silenced)).outcome == outcome


def test_p_values_are_scipys() -> None:
    noise = np.random.default_rng(0)
    a, b = noise.normal(0.3, 1, 12), noise.normal(0, 1, 12)
    assert signed_rank_greater(a, b, alpha=0.05).p_value == stats.wilcoxon(a, b, alternative="greater").pvalue
    assert signed_rank_greater(np.arange(6) + 1.0, np.zeros(6), alpha=0.05).p_value == 2**-6
    with pytest.raises(ValueError, match="as many values of one as of the other, got 2 and 3"):
        signed_rank_greater([1.0, 2.0], [1.0, 2.0, 3.0], alpha=0.05)


def test_older_runs_do_not_count() -> None:
    with pytest.raises(NotEnoughRunsError, match="sparseflow reproduce dead-filters"):
        filters(made(by_filter=0.5, woken=0.5, silenced=0.4, counted=False))


def test_few_starts_are_not_judged() -> None:
    whole = made(by_filter=0.5, woken=0.5, silenced=0.4)
    few = Evidence({name: runs[:6] for name, runs in whole.groups.items()}, {})
    with pytest.raises(NotEnoughRunsError, match="there are 4 woken starts of at least 5 needed"):
        dead_filters(few)


def test_the_groups_are_the_matrix_s() -> None:
    """A control differs from the runs that it is paired with in what is done to the start alone."""
    for method in ("scratch", "set", "rigl"):
        drawn, killed = (PAPER.groups[group_of(method, "sparse", variant)] for variant in ("drawn", "killed"))
        by_seed = {config.seed: config for config in drawn}
        for config in killed:
            assert config.with_(control="none") == by_seed[config.seed].with_(snapshots=())


def test_real_runs(tmp_path: Path) -> None:
    """Trained for a moment: the exhibit's table has their own first filters, and every start in each variant."""
    short = {"steps": 12, "batch_size": 8, "prune_begin": 2, "prune_end": 8, "prune_every": 1, "engine": "masked"}
    groups = {}
    for variant in VARIANTS:
        name = group_of("scratch", "sparse", variant)
        groups[name] = [
            train(config.with_(**short, snapshots=(), mask_from=config.mask_from.with_(**short)), root=tmp_path)
            for config in DEMO.groups[name][:2]
        ]
    build = EXHIBITS["dead-filters"].build
    assert build is not None
    content = build(Evidence(groups, {}), DEMO)
    table = content.drawings[0].data
    assert table.groupby("variant")["start"].apply(list).to_dict() == {name: [0, 1] for name in VARIANTS}
    for row in records(table):
        (run,) = (
            one for one in groups[group_of("scratch", "sparse", row["variant"])] if one.config.seed == row["start"]
        )
        kept = final_state(run.config.mask_from, root=tmp_path)["masks"]["conv1.weight"].flatten(1)
        assert row["active"] == int(kept.any(1).sum())
        assert row["live"] <= row["active"]
        if row["variant"] == "repaired":
            assert unit_count(run, "never_fire", "conv1") == 6 - row["active"]
    (figure,) = [drawing.draw() for drawing in content.drawings]
    assert len(figure.axes) == 3
    assert content.tables[1].data["start"].tolist() == ["drawn", "avoid_dead"]
