"""The benchmarks run at tiny sizes and judge no time; the README's table is what the committed results say."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from torch import nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is beside the package, not in it

from benchmarks import block_accuracy, peers, performance  # noqa: E402
from benchmarks.contest import BF16, BLOCKS, FLOAT32, Entry, masks_of  # noqa: E402
from benchmarks.result import Benchmark, Case, Failure, load, report  # noqa: E402
from benchmarks.table import BLOCKS as BLOCKS_PAGE  # noqa: E402
from benchmarks.table import ORDER, PERFORMANCE, README, filled, numbers, with_accuracy, with_tables  # noqa: E402
from benchmarks.timing import Timings, alternate, take_turns  # noqa: E402


def every_benchmark() -> list[str]:
    return [*performance.CONTESTS, *performance.OTHERS, performance.COVER, performance.PEERS, *performance.CURVATURE]


def test_benchmarks_run(tmp_path: Path) -> None:
    """Of each kind some; those of the engine, which take a minute, are run by whoever measures."""
    names = [*ORDER, *performance.CURVATURE, performance.COVER]
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--only", *names, "--out", str(tmp_path / "results")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in names:
        assert f"{name}, " in done.stdout
    assert not (tmp_path / "results").exists()


def test_readme_says_what_the_results_say() -> None:
    results = load()
    known = {*ORDER, *every_benchmark(), *performance.IMAGES, performance.PHASES}
    assert set(ORDER) <= {result["name"] for result in results} <= known
    text = README.read_text()
    assert filled(text, "numbers", numbers(results)) == text, "run python -m benchmarks.table"


def test_performance_page_says_what_the_results_say() -> None:
    text = PERFORMANCE.read_text()
    assert with_tables(text, load()) == text, "run python -m benchmarks.table"


def test_page_of_blocks_says_what_the_results_say() -> None:
    text = BLOCKS_PAGE.read_text()
    assert with_accuracy(text) == text, "run python -m benchmarks.table"


def contest_case(sparsity: float, rival: str, seconds: float, reach: float | None, *, threads: int = 1) -> Case:
    """By hand: a rival takes eight seconds; ``reach`` is in times faster."""
    configuration = {
        "row": "batch 128", "pattern": "4x1 blocks", "sparsity": sparsity, "threads": threads, "rival": rival,
        "gflops": 40.0, "gflops_rival": 80.0,
    }  # fmt: skip
    return Case(
        label=f"{sparsity}, {rival}",
        configuration=configuration,
        timings=Timings([seconds], [8.0]),
        counts=reach is not None,
        reach=None if reach is None else 1 / reach,
    )


def contest_result(*cases: Case, failures: Sequence[Failure] = ()) -> dict[str, Any]:
    benchmark = Benchmark(name="engine_user_mlp", what="MLP", reach=None, run=lambda smoke: cases, speedup=True)
    return report(benchmark, list(cases), list(failures), command="by hand")


def test_a_form_is_a_line_with_its_sparsities_side_by_side() -> None:
    result = contest_result(
        contest_case(0.95, FLOAT32, 1.0, 6), contest_case(0.9, FLOAT32, 2.0, 5), contest_case(0.9, BF16, 4.0, None),
        contest_case(0.95, BF16, 2.0, 4), contest_case(0.95, FLOAT32, 0.5, None, threads=2),
    )  # fmt: skip
    (line,) = performance.judged([result]).splitlines()[2:]
    assert line == ("| MLP: 4x1 blocks | 90 / 95 % | **missed** | 4x / 8x; reach 5x / 6x | 2x / 4x; reach - / 4x |  |")
    *_, unjudged = performance.details([result]).splitlines()
    assert unjudged == "| batch 128 | 4x1 blocks | 95 % | 2 | 500 | 16x |  | 40 | 80 |"
    assert performance.user_level([contest_result(contest_case(0.9, FLOAT32, 2.0, 4))]).splitlines()[2:] == [
        "| MLP: 4x1 blocks | 90 % | 4x |  |"
    ]


def test_other_numbers_are_a_line_each_and_failures_are_told() -> None:
    case = Case(label="blocks", configuration={}, timings=Timings([11.0], [2.0]), reach=5.5, unit="bytes")
    benchmark = Benchmark(name="engine_bytes", what="bytes", reach=None, run=lambda smoke: [case])
    error = "does not install: error: no compiler"
    result = report(benchmark, [case], [Failure(label="sparseprop==0.1.14", error=error)], command="by hand")
    blocks = performance.blocks([result])
    assert blocks["bytes"].splitlines()[2:] == ["| bytes | blocks | <= 5.5 | 5.50 | held |"]
    assert blocks["failures"] == f"* bytes: sparseprop==0.1.14: `{error}`"
    assert blocks["memory"] == "Not measured yet: `make bench`, then `python -m benchmarks.table`."


def test_libraries_are_columns() -> None:
    cases = []
    for peer, seconds in (("torch CSR", 4.0), ("sparselab", 2.0)):
        its = {"row": "8x8", "pattern": peer, "sparsity": 0.9, "threads": 1, "rival": FLOAT32}
        timings = Timings([seconds], [8.0])
        cases.append(Case(label=peer, configuration=its, timings=timings, counts=False))
    benchmark = Benchmark(name=performance.PEERS, what="peers", reach=None, run=lambda smoke: cases, speedup=True)
    table = performance.peers([report(benchmark, cases, [], command="by hand")])
    assert table.splitlines()[0] == "| | sparsity | threads | torch CSR | sparselab |"
    assert table.splitlines()[-1] == "| 8x8 | 90 % | 1 | 2x | 4x |"


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
    request = {"kind": "linear", "peers": ["sparseprop"], "shape": (8, 16), "sparsity": 0.5, "batch": 2}
    (found,) = peers.measured(sys.executable, [request], threads=1, smoke=True)
    assert isinstance(found, dict)
    assert found["errors"] == {"sparseprop": "ModuleNotFoundError: No module named 'sparseprop'"}
    assert list(found["seconds"]) == [FLOAT32]


def test_masks_of_blocks_leave_single_weights_where_blocks_do_not_divide() -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 10))
    masks = masks_of(model, Entry(BLOCKS, 0.5, {}))
    blocks = masks["0.weight"].view(2, 4, 16)
    assert (blocks == blocks[:, :1]).all()
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"0.weight": 64, "2.weight": 40}


def test_computations_take_turns() -> None:
    """By hand: two calls of each, to see how long they take, then three turns; in the second the order is reversed."""
    calls: list[str] = []

    def takes(name: str) -> Callable[[], None]:
        return lambda: (calls.append(name), time.sleep(0.06))[1]

    seconds = take_turns({"a": takes("a"), "b": takes("b")}, least=3, most=3)
    assert "".join(calls) == "aabb" + "ab" + "ba" + "ab"
    assert {name: len(found) for name, found in seconds.items()} == {"a": 3, "b": 3}
    assert min(min(found) for found in seconds.values()) >= 0.06


def test_accuracy_of_blocks_is_compared_in_pairs() -> None:
    """By hand: differences -1 and -2 percent, mean -1.5, s = 1 / sqrt(2), t(0.975, 1) = 12.706: 12.706 / 2 = 6.35."""
    rows = [
        {"network": "mlp", "method": "SET", "pattern": pattern, "sparsity": 0.9, "seed": seed, "accuracy": accuracy}
        for seed, pair in enumerate([(0.97, 0.96), (0.98, 0.96)])
        for pattern, accuracy in zip(block_accuracy.PATTERNS, pair, strict=True)
    ]
    lone = {**rows[0], "seed": 2, "accuracy": 0.5}  # without a partner it does not count
    table = block_accuracy.markdown(pd.DataFrame([*rows, lone]))
    assert table.splitlines()[4] == "| MLP 300-100 on MNIST, SET | - | 97.5; −1.50 ± 6.35 | - | - |"


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
