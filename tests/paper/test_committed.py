"""Verdicts from the tables beside a page are those from the runs; a changed number is seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from sparseflow.cli.main import main
from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.page import as_csv
from sparseflow.paper.committed import committed_files, read_committed
from sparseflow.paper.exhibits.verdicts import claims_csv
from sparseflow.paper.matrix.scales import DEMO
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
    (folder / "environment.json").write_text('{"scale": "demo"}')
    return folder


def test_every_verdict_comes_out_of_the_tables_as_it_went_in(kept: Path) -> None:
    assert Matrix.of(SCALE).rejudged(kept) == []
    decided = pd.read_csv(kept / "claims.csv")["verdict"].value_counts()
    assert decided["held"] > 5  # the tables decide something
    assert decided["failed"] > 5


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
    (tmp_path / "environment.json").write_text('{"scale": "demo"}')
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


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no per_run.csv.*such as results/paper"):
        read_committed(tmp_path, {}, DEMO)
