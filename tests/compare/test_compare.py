"""`sparseflow compare` from its command line: what it trains, what its tables say, what it refuses, how it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sparseflow.cli.main import main
from sparseflow.compare import comparison as comparisons
from sparseflow.compare.comparison import Candidate, Cell, Comparison, chosen, comparison
from sparseflow.compare.exhibits import EXHIBITS, leaders
from sparseflow.compare.page import evidence_of
from sparseflow.compare.result import Result, result_of
from sparseflow.compare.settings import SETTINGS
from sparseflow.compare.statistics import outcomes
from sparseflow.compare.tables import RUN_COLUMNS, SEARCH_COLUMNS, read_tables, search_table
from sparseflow.methods import Static
from sparseflow.training import pool
from sparseflow.training.digits import DigitRun
from sparseflow.training.images import usual_run
from sparseflow.training.names import METHODS
from sparseflow.training.runs import Run
from sparseflow.training.sweep import Training
from sparseflow.training.tasks import Task
from sparseflow.training.trial import Trial

ASKED = [
    "compare", "--networks", "mlp", "--methods", "scratch,rigl", "--sparsity", "0.5", "--seeds", "2", "--steps", "60",
    "--dataset", "mnist-5k", "--budget", "steps,flops", "--jobs", "1", "--out", "runs",
]  # fmt: skip


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A network of a few units, which needs no engine, in a folder of its own."""
    usual = DigitRun(model="mlp-small", engine="masked")
    monkeypatch.setattr(comparisons, "SETTINGS", {**SETTINGS, "mlp": replace(SETTINGS["mlp"], usual=usual)})
    monkeypatch.setattr(pool, "run_tasks", in_this_process)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def in_this_process(tasks: Sequence[Task], *, root: Path, jobs: int, console: object) -> None:
    """As the pool, without its processes."""
    for task in tasks:
        task.work(root, lambda steps: None)


def test_a_comparison_from_the_search_to_the_page(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """18 runs of the search; on steps 4; on operations 2 of RigL more, fewer steps each. Stopped, it goes on."""
    main(ASKED)
    told = capsys.readouterr()
    assert "search: runs 18, to do 18" in told.err
    assert "comparison: runs 6, to do 6" in told.err
    report = small / "runs" / "report"
    runs, search = read_tables(report)
    assert (list(runs.columns), list(search.columns)) == (RUN_COLUMNS, SEARCH_COLUMNS)
    assert (len(runs), len(search)) == (8, 18)
    assert search.groupby("method")["chosen"].sum().tolist() == [1, 1]
    best = search.groupby("method")["accuracy"].max()
    assert search[search["chosen"]].set_index("method")["accuracy"].to_dict() == best.to_dict()
    of: Any = outcomes(runs).set_index(["budget", "method"])
    allowed = of.loc[("flops", "scratch"), "flops"]
    assert of.loc[("steps", "rigl"), "flops"] > allowed >= of.loc[("flops", "rigl"), "flops"] > 0.8 * allowed
    assert of.loc[("flops", "rigl"), "steps"] < 60 == of.loc[("steps", "rigl"), "steps"]
    assert (runs["seconds"] > 0).all()
    page = (report / "index.html").read_text()
    assert all(f'id="{name}"' in page for name in EXHIBITS)
    assert "http://" not in page

    shutil.rmtree(report)
    lost = next(folder for folder in (small / "runs").glob("rigl-*-s1-*"))
    shutil.rmtree(lost)
    main(ASKED)
    told = capsys.readouterr()
    assert "search: runs 18, to do 0" in told.err
    assert "comparison: runs 6, to do 1" in told.err
    again = read_tables(report)[0]
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), runs.drop(columns="seconds"))


def test_the_list_says_what_it_costs_and_trains_nothing(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*ASKED, "--list"])
    told = capsys.readouterr().out
    assert "RigL" not in told.replace("rigl", "")
    assert "26" in told  # 18 of the search, 2 seeds on 2 budgets of 2 methods
    assert list(small.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--methods", "rigle"], "there is no method 'rigle' to compare. Known: all, dense, prune, "),
        (["--methods", "lottery"], "there is no method 'lottery' to compare. "),
        (["--methods", ","], "no method is named. "),
        (["--networks", "vgg16"], "there is no network 'vgg16' to compare. Known: all, lenet5, mlp, resnet20."),
        (["--budget", "step"], "there is no budget 'step' to compare. Known: all, steps, flops, seconds. Did you mean"),
        (["--sparsity", "95"], "sparsity must be in [0, 1), got 95.0. For 95% zeros write 0.95, not 95."),
        (["--sparsity", "a half"], "--sparsity takes numbers with commas between, such as 0.9,0.95, got 'a half'."),
        (["--dataset", "mnist5k"], "there is no dataset 'mnist5k'. Known: mnist-5k, "),
        (["--methods", "scratch,dense", "--sparsity", "0.98", "--steps", "20"],
         "the budget of Dense on mlp at sparsity 0.98 is below one step: static masks take "),
        (["--steps", "2"], "the budget of RigL on mlp at sparsity 0.5 is below one step: static masks take "),
        (["--report", "a file"], "[Errno 17] cannot make a file in .: File exists"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_before_anything_is_trained(
    given: list[str], said: str, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a file").touch()
    with pytest.raises(SystemExit) as ended:
        main([*ASKED, *given])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"sparseflow: {said}")
    assert told.count("\n") == 1
    assert not (small / "runs").exists()


def refusing(**settings: Any) -> Static:
    raise ValueError("fc3.weight has 100 columns, which groups of 7 do not divide.")


def test_a_method_that_cannot_be_met(
    small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for by name it is an error; among all it is left out, and the list says why."""
    row = replace(METHODS["scratch"], updater=refusing, label="Sevens")
    monkeypatch.setitem(METHODS, "sevens", row)
    with pytest.raises(SystemExit):
        main([*ASKED, "--methods", "sevens"])
    told = capsys.readouterr().err
    assert told == (
        "sparseflow: Sevens on mlp at sparsity 0.5 cannot be compared: fc3.weight has 100 columns, which groups of 7 "
        "do not divide.\n"
    )
    main([*ASKED, "--methods", "all", "--list"])
    assert "left out: sevens on mlp at 0.5: fc3.weight has 100 columns" in capsys.readouterr().err


def test_a_run_that_diverges_is_noted_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On images the loss ends the run; on digits it is in the results. Either counts as a guess among ten classes."""

    def diverge(self: Training, root: Path, report: Callable[[int], None]) -> None:
        raise FloatingPointError("the loss of step 7 is nan.")

    monkeypatch.setattr(Training, "work", diverge)
    config = usual_run("resnet20").with_(num_classes=10)
    trial = Trial(config)
    assert not trial.is_done(tmp_path)
    trial.work(tmp_path, lambda steps: None)
    assert trial.is_done(tmp_path)
    found = result_of(tmp_path, config)
    assert (found.diverged, found.percent(), found.run) == (True, 10.0, None)

    nan = {"test/accuracy": 0.098, "test/loss": float("nan"), "holdout/accuracy": 0.1, "holdout/loss": float("nan")}
    on_digits = Result(DigitRun(), Run(DigitRun(), tmp_path, pd.DataFrame(), nan, {}, 1.0))
    assert (on_digits.diverged, on_digits.percent()) == (True, 10.0)

    learned = Result(DigitRun(), Run(DigitRun(), tmp_path, log(), {
        "test/accuracy": 0.9, "test/loss": 0.1, "holdout/accuracy": 0.8, "holdout/loss": 0.2}, {}, 1.0))  # fmt: skip
    candidates = [Candidate({"learning_rate": 2.5}, found), Candidate({"learning_rate": 1.0}, learned)]
    assert chosen(candidates) is candidates[1]
    worse = {**learned.run.final, "holdout/accuracy": 0.098}  # type: ignore[union-attr]
    below_guess = Candidate({}, Result(DigitRun(), replace(learned.run, final=worse)))  # type: ignore[arg-type]
    assert chosen([candidates[0], below_guess]) is below_guess
    table = search_table({Cell("lenet5", 0.9, "scratch"): candidates})
    assert table["diverged"].tolist() == [True, False]
    assert table["chosen"].tolist() == [False, True]


def log() -> pd.DataFrame:
    names = [f"density/{name}.weight" for name in ("conv1", "conv2", "fc1", "fc2", "fc3")]
    return pd.DataFrame({"step": 0, "name": names, "value": 0.1})


def test_a_budget_of_a_method_that_only_diverged() -> None:
    """Its steps cost nobody knows what: it has as many as static masks, and stays among the others."""
    plan = Comparison(networks=("lenet5",), methods=("rigl",), sparsities=(0.9,), budgets=("flops",), seeds=1)
    rigl, static = Cell("lenet5", 0.9, "rigl"), Cell("lenet5", 0.9, "scratch")
    lost = Candidate({}, Result(DigitRun(), None))
    learned = Candidate({}, Result(DigitRun(), Run(DigitRun(), Path(), log(), {"test/loss": 0.1}, {}, 1.0)))
    (run,) = plan.compared({rigl: [lost], static: [learned]})["flops"][rigl]
    assert run.steps == SETTINGS["lenet5"].steps
    with pytest.raises(ValueError, match=r"every run of the search for Scratch on lenet5 at sparsity 0\.9 diverged"):
        plan.compared({rigl: [learned], static: [lost]})


def test_runs_of_one_seed_have_the_same_images_and_one_dense_network_stands_beside_all() -> None:
    plan = comparison(networks="lenet5", methods="all", sparsity="0.8,0.98", budget="steps", seeds=3)
    searched = {
        cell: [Candidate(levels, Result(config, None)) for levels, config in found]
        for cell, found in plan.search().items()
    }
    cells = plan.compared(searched)["steps"]
    for configs in cells.values():
        assert [config.seed for config in configs] == [0, 1, 2]
        shared = {(config.dataset, config.batch_size, config.steps, config.to_dict()["holdout"]) for config in configs}
        assert shared == {("mnist", 128, 2000, 0)}
    dense = [[config.name for config in cells["lenet5", sparsity, "dense"]] for sparsity in (0.8, 0.98)]  # type: ignore[index]
    assert dense[0] == dense[1]


def test_the_page_names_what_did_not_learn() -> None:
    """Every question is answered from the two tables alone, here of one seed of one method with a lost run."""
    rows = [
        {"network": "mlp", "sparsity": 0.9, "method": method, "budget": "steps", "seed": 0, "accuracy": accuracy,
         "loss": 1.0, "learned": accuracy > 12, "diverged": accuracy < 12, "steps": 100, "flops": 1e9, "seconds": 1.0,
         "density": 0.1, "sparsity_at_end": 0.9, "learning_rate": 1.0, "init": "sparse", "config": "0"}
        for method, accuracy in (("scratch", 90.0), ("set", 10.0))
    ]  # fmt: skip
    runs = pd.DataFrame(rows, columns=RUN_COLUMNS)
    search = pd.DataFrame([{**row, "candidate": 0, "chosen": True} for row in rows], columns=SEARCH_COLUMNS)
    evidence = evidence_of(runs, search)
    contents = {name: exhibit.build(evidence, {"mlp": "MLP"}) for name, exhibit in EXHIBITS.items() if exhibit.build}
    assert (
        contents["failures"]
        .shows[0]
        .startswith("1 of 2 runs did not learn, 1 of these because the loss did not stay finite.")
    )
    assert contents["failures"].tables[0].data["method"].tolist() == ["set"]
    assert [drawing.name for drawing in contents["differences"].drawings] == ["difference-mlp-steps"]
    assert contents["differences"].shows == [
        "MLP, budget of steps: one seed has no intervals, so no difference to static masks is clear."
    ]
    assert leaders(evidence.table("outcomes"), {"mlp": "MLP"}) == [
        "MLP, budget of steps: the most accurate is Scratch at 90 % zeros (90.00 %, of one seed)."
    ]
    alone = evidence_of(runs[runs["method"] == "set"], search)
    assert EXHIBITS["differences"].build(alone, {"mlp": "MLP"}).shows == [  # type: ignore[misc]
        "MLP, budget of steps: differences need Scratch and another method."
    ]
    for content in contents.values():
        for drawing in content.drawings:
            for narrow in (False, True):
                drawing.draw(narrow=narrow)


@pytest.mark.parametrize("method", ["rigl", "mest", "granet", "prune"])
def test_a_loss_that_is_lost_before_a_mask_update(method: str, tmp_path: Path) -> None:
    """Weights beyond all numbers cannot be ranked: the run has diverged, and ends no comparison."""
    run = (
        SETTINGS["mlp"]
        .run(method, 0.9, steps=40, seed=0)
        .with_(model="mlp-small", dataset="mnist-5k", engine="masked", learning_rate=1e9)
    )
    trial = Trial(run)
    trial.work(tmp_path, lambda steps: None)
    assert trial.is_done(tmp_path)
    assert result_of(tmp_path, run).diverged
