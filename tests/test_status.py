"""The table of docs/status.md is what one run of the tests wrote, and no test of a cell is missing or did not pass."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from status_record import StatusRecord

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is beside the package, not in it

from benchmarks.status import COUNTS, PAGE, TESTS, Found, markdown, row_of  # noqa: E402
from benchmarks.table import filled  # noqa: E402

pytest_plugins = ["pytester"]


def numbers(found: Found) -> dict[tuple[str, str], int]:
    """Column and case -> tests, whatever became of them."""
    return {(column, case): sum(outcomes.values()) for column, of in found.items() for case, outcomes in of.items()}


def test_the_page_shows_the_outcomes() -> None:
    text = PAGE.read_text()
    assert filled(text, "status", markdown(json.loads(COUNTS.read_text()))) == text, "run make status"


def test_every_test_of_a_cell_is_in_the_file_and_passed(tmp_path: Path) -> None:
    collected, written = tmp_path / "collected.json", json.loads(COUNTS.read_text())
    command = [sys.executable, "-m", "pytest", "-q", "-m", "status", "--collect-only", "--status", str(collected)]
    subprocess.run([*command, *TESTS], cwd=ROOT, check=True, capture_output=True)
    assert numbers(json.loads(collected.read_text())) == numbers(written), "run make status"
    bad = {(column, case): of for column, cases in written.items() for case, of in cases.items() if [*of] != ["passed"]}
    assert bad == {}, "run make status"


CASES = """
    import pytest

    @pytest.fixture
    def breaks_before(method):
        if method == "set":
            pytest.fail("before")

    @pytest.fixture
    def breaks_after(method):
        yield
        if method == "set":
            pytest.fail("after")

    methods = pytest.mark.parametrize("method", ["rigl", "set"])

    @methods
    @pytest.mark.status("masked")
    @pytest.mark.parametrize("number", [0, 1])
    def test_itself(method, number):
        assert (method, number) != ("set", 1)

    @methods
    @pytest.mark.status("engine")
    def test_before(method, breaks_before):
        pass

    @methods
    @pytest.mark.status("compiled")
    def test_after(method, breaks_after):
        pass

    @methods
    @pytest.mark.status("DDP")
    def test_skipped(method):
        if method == "set":
            pytest.skip("no second device")

    @pytest.mark.parametrize("name", ["rigl_blocks/adam", "set/adam"])
    @pytest.mark.status("FSDP2", by="name")
    def test_expected(name, request):
        if name.startswith("set"):
            request.applymarker(pytest.mark.xfail)
            assert False

    @methods
    @pytest.mark.status("AMP")
    def test_ends_the_run(method):
        if method == "set":
            raise KeyboardInterrupt

    def test_of_no_cell():
        assert False
"""


def test_a_cell_in_which_a_test_does_not_pass_is_crossed_out(pytester: pytest.Pytester) -> None:
    """Whether it fails itself, before or after, is skipped, expected to fail, or not reached; the oracle is by hand."""
    pytester.makeini("[pytest]\nmarkers = status(column): a cell")
    pytester.makepyfile(CASES)
    pytester.runpytest(plugins=[StatusRecord(pytester.path / "status.json")], no_reraise_ctrlc=True)
    found = json.loads((pytester.path / "status.json").read_text())
    good = {"passed": 1}
    assert found == {
        "masked": {"rigl": {"passed": 2}, "set": {"failed": 1, "passed": 1}},
        "engine": {"rigl": good, "set": {"failed": 1}},
        "compiled": {"rigl": good, "set": {"failed": 1}},
        "DDP": {"rigl": good, "set": {"skipped": 1}},
        "FSDP2": {"rigl_blocks/adam": good, "set/adam": {"skipped": 1}},
        "AMP": {"rigl": good, "set": {"not run": 1}},
    }
    rows = {line.split(" | ")[0].strip("| `"): line for line in markdown(found).splitlines()}
    assert rows["RigL"] == "| `RigL` | ✓ 2 | ✓ 1 | ✓ 1 | ✓ 1 | ✓ 1 | ✓ 1 |"
    crossed = "✗ 1 failed, 1 passed | ✗ 1 failed | ✗ 1 failed | ✗ 1 skipped | ✗ 1 skipped | ✗ 1 not run"
    assert rows["SET"] == f"| `SET` | {crossed} |"
    assert rows["Static"] == "| `Static` | – | – | – | – | – | – |"


def test_collecting_alone_shows_no_tick(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers = status(column): a cell")
    pytester.makepyfile(CASES)
    pytester.runpytest("--collect-only", plugins=[StatusRecord(pytester.path / "status.json")])
    assert "✓" not in markdown(json.loads((pytester.path / "status.json").read_text()))


def test_several_processes_are_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-n", "2", "--status", str(tmp_path / "status.json"), *TESTS]
    told = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert told.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--status counts the tests of one process. Leave -n out." in told.stderr


def test_a_case_that_the_table_does_not_know_is_an_error() -> None:
    assert row_of("rigl in blocks") == "rigl"
    with pytest.raises(ValueError, match=r"benchmarks.status shows no \[\('masked', 'newest'\)\]; add them"):
        markdown({"masked": {"newest": {"passed": 3}}})
