"""Tables over runs, against values worked by hand."""

from __future__ import annotations

import io
import math

import pandas as pd
import pytest
from rich.console import Console

from sparseflow.lab.page.figure_data import accuracy_points, training_curves, update_changes
from sparseflow.lab.page.groups import check_comparable, group_of
from sparseflow.lab.page.signal import signal_levels
from sparseflow.lab.page.summary import onset_step, summarize, summary_table, terminal_table
from sparseflow.training.digits import DigitRun
from sparseflow.training.runs import Run
from synthetic_runs import demo_runs, demo_signal, make_run


def metrics_of(name: str, values: dict[int, float]) -> pd.DataFrame:
    return pd.DataFrame({"step": list(values), "name": name, "value": list(values.values())})


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"method": "dense", "init": "sparse"}, "Dense"),
        ({"method": "dense", "model": "lenet5-small"}, "Small Dense"),
        ({"method": "dense", "model": "mlp-small"}, "Small Dense"),
        ({"method": "prune", "init": "dense"}, "Pruned"),
        ({"method": "scratch", "init": "dense"}, "Scratch, Original"),
        ({"method": "set", "init": "liu"}, "SET, Liu"),
        ({"method": "rigl", "init": "sparse"}, "RigL, Ours"),
        ({"method": "rigl_inverted", "init": "live"}, "RigL-Inverted, Live"),
        ({"method": "snfs", "init": "sparse"}, "SNFS, Ours"),
    ],
)
def test_groups_are_named_as_people_name_them(fields: dict[str, str], label: str) -> None:
    assert group_of(DigitRun(**fields)).label == label


def shown(runs: list[Run], column: str) -> str:
    """The cell under a head in the first row of the page's table."""
    table = summary_table(runs)
    return table.rows[0][table.head.index(column)].lines[0]


def test_statistics_of_the_decoded_cell_of_the_paper() -> None:
    # LeNet5 Scratch, 62.99 +- 42.16 in the paper: 2 of 5 runs stuck at 11.35 %, the rest at 97.42 %.
    accuracies = [0.1135, 0.1135, 0.9742, 0.9742, 0.9742]
    runs = [make_run(seed=seed, accuracy=value) for seed, value in enumerate(accuracies)]
    row = summarize(runs).iloc[0]
    assert row[["n", "learned"]].to_list() == [5, 3]
    assert row[["learned_lowest", "learned_median", "learned_highest"]].to_list() == pytest.approx([97.42] * 3)
    # Clopper and Pearson's limits for 3 of 5, from their tables.
    assert row[["share_low", "share_high"]].to_list() == pytest.approx([14.66, 94.73], abs=0.01)
    assert shown(runs, "95 % interval of the share, %") == "15 to 95"


def test_the_median_is_of_those_that_learned() -> None:
    accuracies = [0.10, 0.90, 0.93, 0.99]
    row = summarize([make_run(seed=seed, accuracy=value) for seed, value in enumerate(accuracies)]).iloc[0]
    assert row[["learned_lowest", "learned_median", "learned_highest"]].to_list() == pytest.approx([90, 93, 99])


def test_collapse_is_strictly_below_twelve_percent() -> None:
    runs = [make_run(seed=0, accuracy=0.1199), make_run(seed=1, accuracy=0.12), make_run(seed=2, accuracy=0.98)]
    assert summarize(runs).loc[0, "learned"] == 2


def test_one_run_says_next_to_nothing_of_the_share() -> None:
    # 1 of 1: the lower limit is 0.025 ** (1 / 1).
    assert summarize([make_run(accuracy=0.9)]).loc[0, ["share_low", "share_high"]].to_list() == pytest.approx(
        [2.5, 100]
    )


def test_where_none_learned_there_is_no_accuracy_of_those() -> None:
    runs = [make_run(seed=seed, accuracy=0.1, onset=None) for seed in range(2)]
    assert math.isnan(summarize(runs).loc[0, "learned_median"])
    assert shown(runs, "Median accuracy of those, %") == "-"
    assert shown(runs, "Lowest to highest") == "-"
    assert shown(runs, "Learned") == "0 of 2"


def test_sparsity_and_seconds_are_means() -> None:
    table = summarize([make_run(seed=0, seconds=10), make_run(seed=1, seconds=20)])
    assert (table.loc[0, "seconds"], table.loc[0, "sparsity"]) == (15, 0.95)


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ({0: 2.3, 50: 2.2, 100: 2.19, 150: 2.5}, 100.0),  # 2.2 itself is not below
        ({0: 2.3, 50: 2.25}, math.inf),
        ({0: 2.1}, 0.0),
    ],
)
def test_onset_is_the_first_step_below_the_threshold(losses: dict[int, float], step: float) -> None:
    assert onset_step(metrics_of("train/loss", losses)) == step


@pytest.mark.parametrize(
    ("onsets", "median", "censored", "text"),
    [
        ([50, 100, None], 100, 1, "100 (1 never)"),
        ([50, None, None], math.inf, 2, "> 900"),
        ([50, None], math.inf, 1, "> 900"),
        ([50, 100], 75, 0, "75"),
    ],
)
def test_median_onset_counts_runs_that_never_learned(
    onsets: list[int | None], median: float, censored: int, text: str
) -> None:
    runs = [
        make_run(seed=seed, metrics=metrics_of("train/loss", {0: 2.3} if onset is None else {0: 2.3, onset: 1.0}))
        for seed, onset in enumerate(onsets)
    ]
    table = summarize(runs)
    assert (table.loc[0, "onset_median"], table.loc[0, "onset_censored"]) == (median, censored)
    assert shown(runs, "Learning starts, step") == text


def test_order_is_fixed() -> None:
    runs = demo_runs(num_seeds=2)
    forward, backward = summarize(runs), summarize(runs[::-1])
    assert list(forward["label"]) == [
        "Dense",
        "Small Dense",
        *[f"{method}, {init}" for method in ("Scratch", "SET", "RigL") for init in ("Original", "Liu", "Ours")],
    ]
    pd.testing.assert_frame_equal(forward, backward)


def test_terminal_table_fits_eighty_columns_without_cutting_anything() -> None:
    table = summarize(demo_runs())
    screen = io.StringIO()
    Console(file=screen, width=80).print(terminal_table(table))
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in screen.getvalue()
    row = next(line for line in lines if line.startswith("RigL, Original"))
    assert "2 of 3" in row
    assert "550 (1 never)" in row


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "mnist"}, r"differ in dataset \(mnist and mnist-5k\)"),
        ({"steps": 100}, r"differ in steps \(100 and 900\)"),
        ({"model": "mlp"}, r"differ in model \(lenet5 and mlp\)"),
        ({"sparsity": 0.9}, r"differ in sparsity \(0.9 and 0.95\)"),
        ({"learning_rate": 0.1}, r"learning_rate within Scratch, Ours \(0.05 and 0.1\)"),
        ({"mask_from": DigitRun(method="prune")}, "mask_from within Scratch, Ours"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(change: dict[str, object], message: str) -> None:
    runs = [make_run(seed=0), make_run(seed=1, **change)]
    with pytest.raises(ValueError, match=message + r".*type: sparseflow report THAT_FOLDER"):
        summarize(runs)


def test_tickets_of_different_seeds_are_one_group() -> None:
    runs = [make_run(seed=seed, mask_from=DigitRun(method="prune", seed=seed)) for seed in range(2)]
    assert summarize(runs).loc[0, "n"] == 2


def test_dense_runs_do_not_set_the_sparsity() -> None:
    check_comparable([make_run(method="dense", sparsity=0.0), make_run()])


def test_no_runs_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"no finished run here.*sparseflow demo"):
        summarize([])


def test_curves_are_condensed_over_seeds() -> None:
    runs = [
        make_run(seed=seed, metrics=metrics_of("test/accuracy", {0: 0.1, 100: last}))
        for seed, last in enumerate((0.5, 0.9))
    ]
    last = training_curves(runs, "test/accuracy").iloc[-1]
    assert (last["label"], last["step"], last["n"]) == ("Scratch, Ours", 100, 2)
    assert last[["mean", "std", "min", "max"]].to_list() == pytest.approx([70.0, 20.0, 50.0, 90.0])
    assert training_curves(runs, "flow/norm").empty


def test_update_change_is_after_minus_before() -> None:
    def run(seed: int, before: float, after: float) -> pd.DataFrame:
        logged = pd.concat([metrics_of("update/before", {100: before}), metrics_of("update/after", {100: after})])
        return make_run(method="set", seed=seed, metrics=logged)

    change = update_changes([run(0, 1.0, 1.5), run(1, 1.0, 0.9)]).iloc[0]
    assert change[["mean", "min", "max", "raised"]].to_list() == pytest.approx([0.2, -0.1, 0.5, 0.5])
    assert update_changes([make_run(method="dense")]).empty


def test_accuracy_points_has_a_row_a_run() -> None:
    points = accuracy_points(demo_runs(num_seeds=2))
    assert len(points) == 2 * 11
    assert points["collapsed"].sum() == 5  # both seeds of Scratch and SET, the first of RigL


def test_signal_levels_average_networks_and_name_a_missing_column() -> None:
    levels = signal_levels(demo_signal(num_networks=2))
    assert len(levels) == 4 * 2 * 2 * 6
    assert set(levels["n"]) == {2}
    with pytest.raises(ValueError, match=r"no column logit_std.*sparseflow demo"):
        signal_levels(demo_signal().drop(columns="logit_std"))
