"""`sparseflow reproduce`: what it lists, what it trains, and what it says where something is missing."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from sparseflow.cli.main import main
from sparseflow.paper.claims import CLAIMS
from sparseflow.paper.claims.verdict import Outcome, undecided
from sparseflow.paper.exhibits.all import EXHIBITS
from sparseflow.paper.exhibits.verdicts import COLUMNS, FORMER
from sparseflow.paper.matrix.scales import DEMO, PAPER
from sparseflow.paper.measures.measurement import Measurement
from sparseflow.paper.reproduce import Matrix


def test_the_list_has_every_item_and_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for scale in ("demo", "paper"):
        main(["reproduce", "--list", "--scale", scale])
        told = capsys.readouterr().out
        for name, exhibit in EXHIBITS.items():
            if exhibit.groups or exhibit.tables:
                assert re.search(rf"^\W*{name} ", told, flags=re.MULTILINE), name
    assert not list(tmp_path.iterdir())


def test_one_group_makes_its_runs_and_a_page_that_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One network of one group: 53 open claims, none with a p-value; the second call trains nothing."""
    monkeypatch.chdir(tmp_path)
    arguments = ["reproduce", "mlp/small_dense", "--seeds", "1", "--jobs", "1"]
    main(arguments)
    told = capsys.readouterr()
    assert "Asked for: mlp/small_dense. No claim is about that alone." in told.out
    assert "runs 1, measurements 0; to do: 1, about" in told.err
    report = tmp_path / "runs" / "demo" / "report"
    claims = pd.read_csv(report / "claims.csv")
    assert list(claims.columns) == [*COLUMNS, *FORMER]
    assert len(claims) == 53
    assert (claims["verdict"] == "inconclusive").all()
    assert claims["p_value"].isna().all()
    page = (report / "index.html").read_text()
    assert "sparseflow reproduce table1" in page
    assert len(pd.read_csv(report / "runs.csv")) == 1
    main(arguments)
    assert "runs 1, measurements 0; to do: 0, about" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (["all"], "Of 53 claims of the paper 2 held, 1 failed and 50 are inconclusive."),
        (["fig3b", "table1"], "Asked for: fig3b, table1. Of 10 claims of the paper 1 held, 1 failed and 8 are"),
    ],
)
def test_what_is_said_in_the_end_is_about_what_was_asked_for(items: list[str], said: str) -> None:
    """By hand: C17 is fig3b's, C20 both's or Table 1's, C30 of neither; fig3b has three claims and Table 1 seven."""
    outcome: dict[str, Outcome] = {"C17": "held", "C20": "failed", "C30": "held"}
    verdicts = [replace(undecided(id, "open"), verdict=outcome.get(id, "inconclusive")) for id in CLAIMS]
    matrix = Matrix.of(DEMO)
    assert matrix.opening(verdicts, matrix.asked(items)).startswith(said)


def test_a_figure_of_spectra_makes_its_own_spectra_only() -> None:
    """Counted by hand: 2 methods around 3 updates and 18 steps after the first; 3 networks over training."""

    def steps(item: str) -> Counter[tuple[str, int]]:
        tasks = Matrix.of(PAPER).tasks([item])
        told = [dict(task.options) for task in tasks if isinstance(task, Measurement)]
        return Counter((str(one["moment"]), int(one["step"])) for one in told)

    seeds, followed = PAPER.some, 3 * PAPER.spectrum_seeds
    around = steps("fig10")
    # Step 200 once more, with all images, for one seed; and before RigL's updates for the seeds that are followed.
    assert around["after", 200] == 2 * seeds + 2
    assert around["before", 200] == 2 * seeds + 2 + PAPER.spectrum_seeds - 1
    assert around["before", 500] == around["before", 1000] == 2 * seeds + PAPER.spectrum_seeds
    assert around["after", 500] == around["after", 1000] == 2 * seeds
    assert around["at", 201] == around["at", 220] == around["at", 290] == 2 * seeds
    assert sum(around.values()) == (6 + 18) * 2 * seeds + 2 + 2 + 3 * PAPER.spectrum_seeds - 1
    assert steps("fig11b") == {("at", step): followed for step in (200, 500, 2000, 10000)}
    assert sum(steps("film").values()) == len(PAPER.checkpoints) * followed


def test_a_claim_in_small_letters_is_suggested() -> None:
    with pytest.raises(ValueError, match=r"there is no item 'c06' at --scale demo.* Did you mean C06\?"):
        Matrix.of(DEMO).tasks(["c06"])


def test_evidence_is_what_is_finished(tmp_path: Path) -> None:
    found = Matrix.of(DEMO).evidence(tmp_path)
    assert found.scale == "demo"
    assert not any(found.groups.values())
    assert not found.tables


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("fig99", "there is no item 'fig99' at --scale demo. Items are all, groups of runs such as"),
        ("table1 --seeds 0", "seeds must be at least 1, got 0"),
        ("lenet5/dense --jobs 0", "jobs must be at least 1, got 0"),
        ("table1 --verdicts page", "--verdicts judges a page as it was made and takes no items and no other option."),
        ("--verdicts page --set sparsity=0.9", "--verdicts judges a page as it was made and takes no items"),
    ],
)
def test_bad_input_ends_with_one_line(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", *arguments.split()])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"sparseflow: {message}")
    assert not list(tmp_path.iterdir())
