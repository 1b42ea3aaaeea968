"""What the page's figures draw: which measurements, condensed how, and that curves are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sparseflow.analysis.smoothing import spectral_density
from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.lab.page.panels import Curve, thinned
from sparseflow.paper.exhibits import (
    accuracy_plot,
    film,
    flow,
    interpolation,
    landscape,
    signal,
    spectra,
    update_spectra,
    updates,
)
from sparseflow.paper.exhibits.all import EXHIBITS
from sparseflow.paper.exhibits.curves import curve_of, geometric_mean, off_cycle, over_seeds
from sparseflow.paper.exhibits.densities import GRID, Moment, drawn_density, stored_spectra
from sparseflow.paper.matrix.measured import TABLES
from sparseflow.paper.matrix.mnist import groups
from sparseflow.paper.matrix.scales import DEMO, PAPER
from sparseflow.paper.published import claims
from sparseflow.training.runs import Run
from synthetic_evidence import build, make_evidence


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return make_evidence(DEMO)


def flow_run(norms: dict[int, float], *, seed: int = 0, updates: dict[int, tuple[float, float]] | None = None) -> Run:
    """A RigL run with these gradient norms, and norms before and after updates every 100 steps."""
    rows = [(step, "flow/norm", value) for step, value in norms.items()]
    for step, (before, after) in (updates or {}).items():
        rows += [(step, "update/before", before), (step, "update/after", after)]
    config = PAPER.base.with_(method="rigl", seed=seed, update_every=100, steps=400)
    return Run(config, Path("run"), pd.DataFrame(rows, columns=["step", "name", "value"]), {}, {}, 1.0)


# --- exhibits ---------------------------------------------------------------------------------------------------------


def test_what_exhibits_say_they_need_is_there() -> None:
    names, ids = groups(PAPER), {claim.id for claim in claims()}
    for name, exhibit in EXHIBITS.items():
        for pattern in exhibit.groups:
            assert any(fnmatchcase(group, pattern) for group in names), (name, pattern)
        assert set(exhibit.tables) <= {table for tables in TABLES.values() for table in tables}
        assert set(exhibit.claims) <= ids, name
        assert exhibit.build is None or exhibit.groups or exhibit.tables, name


@pytest.mark.parametrize("name", [name for name, exhibit in EXHIBITS.items() if exhibit.build is not None])
def test_an_exhibit_needs_what_it_says_and_no_more(name: str, evidence: Evidence) -> None:
    exhibit = EXHIBITS[name]
    assert exhibit.build is not None
    own = Evidence(
        {group: evidence.groups[group] for group in exhibit.groups},
        {table: evidence.tables[table] for table in exhibit.tables},
        evidence.scale,
    )
    content = exhibit.build(own, DEMO)
    assert not content.missing
    assert content.shows
    assert all("nan" not in sentence for sentence in content.shows)
    assert content.shows == exhibit.build(evidence, DEMO).shows


@pytest.mark.parametrize("name", [name for name, exhibit in EXHIBITS.items() if exhibit.build is not None])
def test_an_exhibit_without_anything_says_what_to_type(name: str) -> None:
    build = EXHIBITS[name].build
    assert build is not None
    with pytest.raises(NotEnoughRunsError, match="sparseflow reproduce "):
        build(Evidence({}, {}), DEMO)


@pytest.mark.parametrize(
    "curves",
    [
        flow.FIG2A,
        flow.FIG7A,
        flow.FIG7B,
        flow.FIG7C,
        flow.FIG9A,
        *updates.FIG3B.values(),
        *updates.FIG8B.values(),
        *updates.FIG9B.values(),
        [curve._replace(look=curve.look._replace(marker="")) for curve in spectra.TRAINED.values()],
        [Curve("", "", look) for look in update_spectra.MOMENTS.values()],
        [Curve("", "", look) for look in interpolation.LINES.values()],
    ],
)  # fmt: skip
def test_curves_are_told_apart_without_colour(curves: Sequence[Curve]) -> None:
    looks = [(curve.look.line, curve.look.marker) for curve in curves]
    assert len(set(looks)) == len(looks)


def test_points_of_the_map_are_told_apart_without_colour() -> None:
    markers = [marker for _, marker, _ in landscape.POINTS.values()]
    assert len(set(markers)) == len(markers)


# --- gradient norms ---------------------------------------------------------------------------------------------------


def test_norms_right_after_updates_are_kept_apart() -> None:
    run = flow_run({0: 1.0, 50: 2.0, 100: 9.0, 150: 3.0, 200: 9.0}, updates={100: (4.0, 9.0), 200: (4.0, 9.0)})
    assert off_cycle(run)["step"].to_list() == [0, 50, 150]
    group = "lenet5/rigl/sparse/f100"
    content = flow.flow_exhibit("fig2a", [curve_of(group)], Evidence({group: [run]}, {}), PAPER)
    means = content.tables[0].data.iloc[0]
    assert means["first"] == pytest.approx(1.0)
    assert means["early"] == pytest.approx(1.0)  # of 400 steps 34 are what 1000 of the paper's 11719 are
    assert means["late"] == pytest.approx(6**0.5)  # of 2, 3
    # Between updates the norm is 2.5 at step 100 (between 2 and 3) and 3 at 200 (the last one that is known).
    assert means["after_over_between"] == pytest.approx(9 / np.sqrt(2.5 * 3))
    phases = content.drawings[0].data.groupby("phase")["step"].apply(list).to_dict()
    assert phases == {"between updates": [0, 50, 150], "right after an update": [100, 200]}


def test_bands_are_population_standard_deviations() -> None:
    pairs = [(curve_of("lenet5/rigl/sparse"), [flow_run({0: 1.0}), flow_run({0: 3.0}, seed=1)])]
    table = over_seeds(pairs, off_cycle, phase="x")
    assert table[["n", "mean", "std"]].iloc[0].to_list() == [2, 2.0, 1.0]


def test_updates_by_halves() -> None:
    runs = [
        flow_run({0: 1.0}, updates={100: (1.0, 2.0), 200: (1.0, 4.0), 300: (1.0, 0.5), 400: (1.0, 1.0)}),
        flow_run({0: 1.0}, seed=1, updates={100: (1.0, 1.0), 300: (1.0, 2.0)}),
    ]
    _, _, first, second, raised = updates.changes_of(curve_of("lenet5/rigl/sparse"), runs, PAPER)
    assert first.mean == pytest.approx((2.0 + 0.0) / 2)
    assert second.mean == pytest.approx((-0.25 + 1.0) / 2)
    assert raised == pytest.approx((0.5 + 0.5) / 2)


def test_thin_curves_keep_their_ends() -> None:
    kept = thinned(pd.DataFrame({"step": np.arange(10_000)}))["step"]
    assert len(kept) == 250
    assert (kept.iloc[0], kept.iloc[-1]) == (0, 9999)
    assert np.isnan(geometric_mean(pd.DataFrame({"mean": []})))


# --- spectra ----------------------------------------------------------------------------------------------------------


def test_drawn_density_loses_no_peak() -> None:
    values = np.sort(np.random.default_rng(0).exponential(size=300))
    low, high = -1.0, float(values[-1]) + 1
    at, density = drawn_density(values, low, high)
    whole = spectral_density(
        torch.from_numpy(values), grid=torch.linspace(low, high, GRID, dtype=torch.float64)
    ).density.numpy()
    assert density.max() == whole.max()
    assert (np.diff(at) > 0).all()
    # Between two points that are kept there is none higher than the higher one of a whole stretch.
    assert np.interp(values, at, density).min() > 0.2 / (
        len(values) * (2 * np.pi * 1e-5 * (values[-1] - values[0])) ** 0.5
    )


def test_spectra_are_those_from_the_most_images() -> None:
    rows = [("a", 0, 5, "after", examples, value) for examples, value in ((60, 3.0), (10, 1.0), (60, 2.0))]
    table = pd.DataFrame(rows, columns=["group", "seed", "step", "moment", "examples", "eigenvalue"])
    found = stored_spectra(Evidence({}, {"eigenvalues": table}), ["a"], ["after"])
    assert {key: values.tolist() for key, values in found.items()} == {Moment("a", 0, 5, "after"): [2.0, 3.0]}
    with pytest.raises(NotEnoughRunsError, match="eigenvalues has nothing of b"):
        stored_spectra(Evidence({}, {"eigenvalues": table}), ["b"], ["after"])


def test_change_of_extreme_eigenvalues_is_over_seeds(evidence: Evidence) -> None:
    content = update_spectra.fig10(evidence, DEMO)
    rows = evidence.tables["spectra"].query("group == 'lenet5/rigl/sparse/f100' and step == 50 and moment != 'at'")
    before, after = (rows[rows["moment"] == moment].set_index("seed") for moment in ("before", "after"))
    ratio = np.exp(np.log(after["smallest"] / before["smallest"]).mean())
    assert f"RigL+ update at step 50 multiplies the most negative eigenvalue by {ratio:.2f}" in content.shows[1]
    after_update = content.drawings[1].data
    assert after_update["place"].min() == -0.5
    assert after_update["place"].max() == 20


def test_most_negative_eigenvalue_only_at_checkpoints(evidence: Evidence) -> None:
    data = spectra.fig11a(evidence, DEMO).drawings[0].data
    assert sorted(data["step"].unique()) == sorted(DEMO.often * k for k in DEMO.checkpoints)
    assert (data["mean"] > 0).all()


def test_mean_over_training_is_the_claims_and_curvature_along_the_gradient_is_shown(evidence: Evidence) -> None:
    """Of |smallest| 1 and 4, and 2 and 8, in two runs: sqrt(sqrt(1 * 4) * sqrt(2 * 8)) = 2.83; means of 1, 3 are 2."""
    scale = replace(DEMO, checkpoints=DEMO.checkpoints[:2])
    first, second = (scale.often * k for k in scale.checkpoints)
    rows = pd.DataFrame([
        {"group": "lenet5/rigl/sparse/f100", "seed": seed, "step": step, "moment": "at",
         "examples": scale.all_examples,
         "smallest": -value, "rayleigh": quotient, "negative_sum": -5.0}
        for seed, step, value, quotient in (
            (0, first, 1.0, 1.0), (0, second, 4.0, 6.0), (1, first, 2.0, 3.0), (1, second, 8.0, 6.0),
        )
    ])  # fmt: skip
    content = spectra.fig11a(Evidence({}, {"spectra": rows}), scale)
    assert "RigL+ 2.83" in content.shows[0]
    (table,) = content.tables
    assert table.data["rayleigh"].tolist() == [2.0, 6.0]


def test_stills_are_spread_over_the_film(evidence: Evidence) -> None:
    content = film.film(evidence, DEMO)
    moving, still = content.drawings
    assert moving.animated
    assert not still.animated
    assert set(still.data["step"]) <= set(moving.data["step"])
    assert {DEMO.often * DEMO.checkpoints[0], DEMO.often * DEMO.checkpoints[-1]} <= set(still.data["step"])


# --- landscape --------------------------------------------------------------------------------------------------------


def line(kind: str, start: str, losses: Sequence[float], seed: int = 0) -> pd.DataFrame:
    alpha = np.linspace(0, 1, len(losses))
    return pd.DataFrame(
        {"setting": "tickets", "group": f"tickets/{kind}", "start": start, "seed": seed, "alpha": alpha, "loss": losses}
    )


def test_barriers_by_hand_and_bands_of_eighty_percent() -> None:
    paths = pd.concat(
        [
            line("scratch", "solution", [1.0, 5.0, 1.0]),
            line("scratch", "solution", [1.0, 3.0, 1.0], seed=1),
            line("lottery", "solution", [1.0, 1.0, 1.0]),
        ]
    )
    content = build("fig5c", Evidence({}, {"paths": paths}), PAPER)
    assert "of the first pruning run the barrier from the end of lottery training is 0.000 nats" in content.shows[0]
    assert content.shows[0].endswith("no barrier.")
    assert "training is 3.000 nats high (mean of 2 runs" in content.shows[1]
    middle = content.drawings[0].data.query("alpha == 0.5 and label == 'Scratch, end'").iloc[0]
    # Two values 5 and 3: standard error 1; t(0.9, 1) = 3.078.
    assert middle[["mean", "low", "high"]].to_list() == pytest.approx([4.0, 4 - 3.0777, 4 + 3.0777], abs=1e-3)


def test_distances_are_means_of_pruning_runs() -> None:
    """Start: the ratio of means; end: the geometric mean of the ratios 3 and 4."""
    rows = [
        ("tickets", f"tickets/{kind}", prune_seed, 0, start, end, 0.5, 0.5, 17.0, 26.0)
        for kind, prune_seed, start, end in (
            ("lottery", 0, 10.0, 8.0),
            ("scratch", 0, 15.0, 24.0),
            ("lottery", 1, 10.0, 5.0),
            ("scratch", 1, 17.0, 20.0),
        )
    ]
    columns = [
        "setting", "group", "prune_seed", "seed", "init", "final", "cosine_init", "cosine_final", "control_init",
        "control_final",
    ]  # fmt: skip
    content = landscape.fig5b(Evidence({}, {"distances": pd.DataFrame(rows, columns=columns)}), PAPER)
    # The paper: 17.46 / 13.61 = 1.28 and 25.64 / 8.03 = 3.19.
    assert content.shows == [
        "At the start, scratch is 1.60 times as far from the pruned network as a lottery ticket (in the paper 1.3 "
        "times).",
        "At the end, scratch is 3.46 times as far from the pruned network as a lottery ticket (in the paper 3.2 "
        "times); on the masks of 2 pruning runs it is between 3 and 4.",
    ]


def test_map_says_how_far_each_kind_is() -> None:
    rows = pd.DataFrame(
        [("tickets", "prune-end", 0, 1.0, 1.0, 0.1), ("tickets", "lottery-end", 0, 4.0, 5.0, 0.1)],
        columns=["setting", "kind", "seed", "x", "y", "stress"],
    )
    content = build("fig5a", Evidence({}, {"mds": rows}), PAPER)
    assert content.shows == ["Mean distance to the pruned network on the map: Lottery, end 5. Stress 0.1."]
    with pytest.raises(NotEnoughRunsError, match="there are 0 rows of mds, setting tickets"):
        build("fig5a", Evidence({}, {"mds": rows.assign(setting="mlp-tickets")}), PAPER)


# --- signal and accuracy ----------------------------------------------------------------------------------------------


def test_slope_of_the_signal_is_fitted() -> None:
    rows = [("dense", "xavier_uniform", "random", s, 0, 2 * (1 - s) ** 1.5) for s in (0.0, 0.5, 0.9)]
    measured = pd.DataFrame(rows, columns=["scheme", "base", "mask", "sparsity", "network", "logit_std"])
    content = signal.fig1c(Evidence({}, {"signal": measured}), PAPER)
    assert "theory says 2.5, fitted: Random mask, Glorot uniform 1.5." in content.shows[-1]


def test_accuracy_picture_has_every_run(evidence: Evidence) -> None:
    content = EXHIBITS["table1"].build(evidence, DEMO) if EXHIBITS["table1"].build else None
    assert content is not None
    (drawing,) = content.drawings
    assert len(drawing.data) == sum(len(evidence.groups[group]) for group in EXHIBITS["table1"].groups)
    stuck = drawing.data[~drawing.data["learned"]]
    assert (stuck["accuracy"] < evidence.collapse_percent).all()
    assert accuracy_plot.MARGIN > 0
