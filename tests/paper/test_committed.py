"""Verdicts from the tables beside a page are those from the runs; a changed number is seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from sparseflow.cli.main import main
from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.page import as_csv
from sparseflow.paper.changed import as_planned
from sparseflow.paper.committed import committed_files, read_committed
from sparseflow.paper.exhibits.records import as_json, environment_json
from sparseflow.paper.exhibits.verdicts import claims_csv
from sparseflow.paper.matrix.scales import CIFAR, DEMO
from sparseflow.paper.reproduce import Matrix
from synthetic_evidence import make_evidence

#: Enough seeds that tests decide.
SCALE = DEMO.with_seeds(10)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What lies beside a page, without the page."""
    folder = tmp_path_factory.mktemp("kept")
    made = make_evidence(SCALE)
    # The made-up ensembles do not say which runs they are of.
    evidence = replace(made, tables={name: of for name, of in made.tables.items() if name != "function_ensembles"})
    verdicts = Matrix.of(SCALE).judge(evidence)
    (folder / "measured").mkdir()
    for name, content in {"claims.csv": as_csv(claims_csv(verdicts)), **committed_files(evidence, SCALE)}.items():
        (folder / name).write_bytes(content)
    (folder / "environment.json").write_bytes(as_json(environment_json(evidence, command="", scale=SCALE)))
    return folder


def test_every_verdict_comes_out_of_the_tables_as_it_went_in(kept: Path) -> None:
    assert Matrix.of(SCALE).rejudged(kept) == []
    decided = pd.read_csv(kept / "claims.csv")["verdict"].value_counts()
    assert decided["held"] > 5  # the tables decide something
    assert decided["failed"] > 5


def test_every_test_names_its_n_and_what_it_compares(kept: Path) -> None:
    verdicts = pd.read_csv(kept / "claims.csv")
    tested = verdicts[verdicts["p_value"].notna()]
    assert len(tested) > 20
    assert tested["n"].notna().all()
    assert tested.loc[tested["design"].isna(), "id"].to_list() == []


def test_a_changed_number_changes_what_is_said(kept: Path, tmp_path: Path) -> None:
    for path in kept.rglob("*.*"):
        (tmp_path / path.relative_to(kept)).parent.mkdir(exist_ok=True)
        (tmp_path / path.relative_to(kept)).write_bytes(path.read_bytes())
    table = pd.read_csv(tmp_path / "per_run.csv")
    table["accuracy()"] -= 5.0
    table.to_csv(tmp_path / "per_run.csv", index=False)
    assert any(" ours: " in line for line in Matrix.of(SCALE).rejudged(tmp_path))


def test_the_command_ends_with_1_where_a_verdict_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    matrix = Matrix.of(DEMO)
    environment = environment_json(Evidence({}, {}), command="", scale=DEMO)
    (tmp_path / "environment.json").write_bytes(as_json(environment))
    (tmp_path / "per_run.csv").write_text("config,seconds\n")
    verdicts = claims_csv(matrix.judge(Evidence({name: [] for name in matrix.groups}, {}, "demo")))
    (tmp_path / "claims.csv").write_bytes(as_csv(verdicts))
    main(["reproduce", "--verdicts", str(tmp_path)])
    assert "Every verdict in" in capsys.readouterr().out
    (tmp_path / "claims.csv").write_bytes(as_csv(verdicts.replace("inconclusive", "held")))
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "--verdicts", str(tmp_path)])
    assert ended.value.code == 1
    assert "C01 verdict: 'inconclusive', but the page has 'held'" in capsys.readouterr().err


def test_seeds_of_an_ensemble_of_one_come_back_as_text(tmp_path: Path) -> None:
    ensembles = pd.DataFrame({"seeds": ["100", "101"], "probabilities": [98.5, 1 / 3]})
    evidence = Evidence({}, {"function_ensembles": ensembles}, "demo")
    (tmp_path / "measured").mkdir()
    for name, content in {"per_run.csv": b"config,seconds\n", **committed_files(evidence, DEMO)}.items():
        (tmp_path / name).write_bytes(content)
    pd.testing.assert_frame_equal(read_committed(tmp_path, {}, DEMO).tables["function_ensembles"], ensembles)


def test_only_the_eigenvalues_that_a_claim_compares_are_kept() -> None:
    rows = [
        ("lenet5/rigl/sparse/f100", 2, "at", DEMO.all_examples),
        ("lenet5/small_dense", 100, "at", DEMO.all_examples),
        ("lenet5/scratch/sparse", 2, "at", DEMO.all_examples),
        ("lenet5/rigl/sparse/f100", 3, "at", DEMO.all_examples),
        ("lenet5/rigl/sparse/f100", 2, "before", DEMO.all_examples),
        ("lenet5/rigl/sparse/f100", 2, "at", 1),
    ]
    table = pd.DataFrame(
        [(group, DEMO.often * hundreds, *rest, 0.5) for group, hundreds, *rest in rows],
        columns=["group", "step", "moment", "examples", "eigenvalue"],
    )
    kept = committed_files(Evidence({}, {"eigenvalues": table}, "demo"), DEMO)["measured/eigenvalues.csv"]
    assert kept == table.iloc[:2].to_csv(index=False).encode()


def test_rows_of_runs_that_are_not_planned_are_refused(tmp_path: Path) -> None:
    (tmp_path / "per_run.csv").write_text("config,seconds\n0123456789ab,1.0\n")
    with pytest.raises(ValueError, match=r"1 of 1 runs in .*per_run.csv are in no group of --scale demo, such as 0123"):
        read_committed(tmp_path, DEMO.groups, DEMO)


def test_a_page_says_how_many_runs_were_planned(tmp_path: Path) -> None:
    """A page of fewer seeds and another sparsity is judged on its own matrix; one of before says what to type."""
    planned = as_planned(DEMO, seeds=1, set=["sparsity=0.9"])
    made = environment_json(Evidence({}, {}, "demo"), command="sparseflow reproduce all", scale=planned)
    (tmp_path / "environment.json").write_bytes(as_json(made))
    with pytest.raises(ValueError, match=r"no per_run.csv .* Write it once more: sparseflow reproduce all$"):
        Matrix.of_page(tmp_path)
    (tmp_path / "per_run.csv").write_text("config,seconds\n")
    assert Matrix.of_page(tmp_path).scale == planned


def test_notes_say_what_to_type_at_the_scale() -> None:
    first = Matrix.of(CIFAR).judge(Evidence({}, {}, "cifar"))[0]
    assert "sparseflow reproduce --scale cifar vgg16" in first.note
    assert "--scale" not in Matrix.of(DEMO).judge(Evidence({}, {}, "demo"))[0].note


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no per_run.csv.*such as results/paper"):
        read_committed(tmp_path, {}, DEMO)
