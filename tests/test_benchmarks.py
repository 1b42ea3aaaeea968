"""The benchmarks run at tiny sizes and judge no time; the README's table is what the committed results say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is beside the package, not in it

from benchmarks import peers, performance  # noqa: E402
from benchmarks.result import Benchmark, Case, Failure, load, report  # noqa: E402
from benchmarks.table import ORDER, PERFORMANCE, README, filled, markdown, with_tables  # noqa: E402
from benchmarks.timing import Timings, alternate  # noqa: E402


def test_every_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--out", str(tmp_path / "results")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in [*ORDER, *performance.ORDER, *performance.CURVATURE]:
        assert f"{name}, " in done.stdout
    assert not (tmp_path / "results").exists()


def test_resnet50_has_the_known_size() -> None:
    from benchmarks.resnet50 import resnet50

    assert sum(parameter.numel() for parameter in resnet50().parameters()) == 25_557_032  # torchvision's resnet50


def test_readme_says_what_the_results_say() -> None:
    results = load()
    known = {*ORDER, *performance.ORDER, *performance.CURVATURE, *performance.IMAGES}
    assert set(ORDER) <= {result["name"] for result in results} <= known
    text = README.read_text()
    assert filled(text, "benchmarks", markdown(results)) == text, "run python -m benchmarks.table"


def test_performance_page_says_what_the_results_say() -> None:
    text = PERFORMANCE.read_text()
    assert with_tables(text, load()) == text, "run python -m benchmarks.table"


def engine_result(*, failures: list[Failure]) -> dict[str, object]:
    """By hand: 8 times faster at one thread, 4 times at two, and a peer that is twice as fast as dense."""

    def case(row: str, threads: int, seconds: float, *, counts: bool) -> Case:
        configuration = {"row": row, "threads": threads, "sparsity": 0.9, "gflops": 40.0, "gflops_dense": 80.0}
        timings = Timings([seconds], [8.0])
        return Case(label=f"{row}, {threads}", configuration=configuration, timings=timings, counts=counts)

    cases = [case("ours", 1, 1.0, counts=True), case("ours", 2, 2.0, counts=True), case("peer", 1, 4.0, counts=False)]
    benchmark = Benchmark(
        name="engine_linear_90", what="linear layer", reach=1 / 5, run=lambda smoke: cases, speedup=True
    )
    return report(benchmark, cases, failures, command="by hand")


def test_a_row_of_the_summary_is_the_worst_case_of_each_number_of_threads() -> None:
    summary = performance.summary([engine_result(failures=[])])
    assert summary.splitlines()[-1] == "| linear layer | >= 5x | 8x | 4x | **missed** |"


def test_peers_stand_beside_and_what_failed_is_told() -> None:
    error = "does not install: error: no compiler"
    blocks = performance.blocks([engine_result(failures=[Failure(label="sparseprop==0.1.14", error=error)])])
    assert blocks["linear"].splitlines()[-2:] == ["| ours | 8x | 4x |", "| peer | 2x | - |"]
    assert blocks["limits"].splitlines()[-1] == "| 90%: ours | 40 | 40 | 80 | 80 | - | - |"
    assert blocks["failures"] == f"* linear layer: sparseprop==0.1.14: `{error}`"
    assert blocks["memory"] == "Not measured yet: `make bench`, then `python -m benchmarks.table`."


def test_a_failure_that_counts_misses_a_number_that_was_reached() -> None:
    case = Case(label="both", configuration={}, timings=Timings([0.5], [1.0]))
    verdicts = {}
    for counts in (False, True):
        failures = [Failure(label="both", error="masks differ", counts=counts)]
        benchmark = Benchmark(name="vision_ranks", what="losses", reach=1.0, run=lambda smoke: [case])
        table = performance.images([report(benchmark, [case], failures, command="by hand")])
        verdicts[counts] = table.splitlines()[2]
    assert verdicts[False] == "| losses | <= 1 | 0.50 (both); masks differ | held |"
    assert verdicts[True] == "| losses | <= 1 | 0.50 (both); masks differ | **missed** |"


def test_a_peer_that_fails_is_a_result() -> None:
    """In this environment the peers are not installed: their import fails in the child, and the child says so."""
    request = {"shape": (8, 16), "sparsity": 0.5, "batch": 2}
    (found,) = peers.measured(sys.executable, ["sparseprop"], "linear", [request], smoke=True)
    assert found == Failure(
        label="8x16, sparseprop, 1 thread", error="ModuleNotFoundError: No module named 'sparseprop'"
    )


def test_a_layer_for_the_growth_has_equally_many_nonzeros_in_each_row() -> None:
    """Closed form: a side of sqrt(n / density), a row of side * density, columns ascending without repetition."""
    from benchmarks.engine_growth import square

    pattern = square(2000, seed=0).pattern
    assert pattern.shape == (200, 200)
    assert (pattern.mask().sum(1) == 10).all()
    assert pattern.positions().diff().min() > 0


def test_the_table_of_adamw() -> None:
    """By hand: 1.02 of the dense step where it is judged, 1.3 where it is not."""
    cases = [
        Case(label="ours", configuration={}, timings=Timings([0.51], [0.5])),
        Case(label="theirs", configuration={}, timings=Timings([0.65], [0.5]), counts=False),
    ]
    benchmark = Benchmark(name=performance.ADAMW, what="a step", reach=1.05, run=lambda smoke: cases)
    lines = performance.adamw([report(benchmark, cases, [], command="by hand")]).splitlines()
    assert lines[2:4] == ["| ours | 510 | 500 | 1.02 | <= 1.05 |", "| theirs | 650 | 500 | 1.30 |  |"]


def test_a_document_without_markers_is_refused() -> None:
    begin, end = "<!-- table:begin -->", "<!-- table:end -->"
    for text in ("", begin, end + begin, begin + end + end):
        with pytest.raises(ValueError, match="the document needs one <!-- table:begin --> and after it one"):
            filled(text, "table", "rows")


def test_turns_alternate_and_stop_when_the_ratio_is_stable() -> None:
    """By hand: warm-up 1 and two repeats, all ratios 2, so nothing beyond the least is measured."""
    calls: list[str] = []

    def takes(name: str, seconds: float) -> float:
        calls.append(name)
        return seconds

    timings = alternate(lambda: takes("a", 2.0), lambda: takes("b", 1.0), repeats=2, warmup=1)
    assert "".join(calls) == "ab" + "ba" + "ab"
    assert timings == Timings([2.0, 2.0], [1.0, 1.0])
    assert timings.ratio == 2.0
    assert timings.quartiles == (2.0, 2.0)


def test_an_unstable_ratio_is_measured_four_times_as_long() -> None:
    """Even repeats give 1, odd ones 3: never within 2 %."""
    seconds = iter([1.0, 3.0] * 100)
    timings = alternate(lambda: next(seconds), lambda: 1.0, repeats=3, warmup=0)
    assert len(timings.subject) == len(timings.baseline) == 12
