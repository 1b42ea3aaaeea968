"""The tables of docs/performance.md, from the engine's results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.result import bound, machines, shown, verdict

Result = dict[str, Any]

STEPS = ("engine_lenet5_plan", "engine_lenet5_modules", "engine_mlp_plan", "engine_mlp_modules")
LINEAR = ("engine_linear_90", "engine_linear_95", "engine_linear_98")
CONV = ("engine_conv_90", "engine_conv_95")
#: All of the engine's results, in the order of the table.
ORDER = (
    *STEPS, *LINEAR, *CONV, "engine_transformer", "engine_batch_1", "engine_memory", "engine_growth",
)  # fmt: skip
#: Results on curvature, likewise.
CURVATURE = ("hessian", "hessian_float32", "spectrum", "hessian_product")
#: Results on training with images, likewise; ``python -m benchmarks.vision`` measures them.
IMAGES = ("vision_ranks", "vision_compiled", "vision_input", "vision_memory", "vision_engine")
#: What masking costs under AdamW; the README has its row too.
ADAMW = "masked_adamw"
_NOTHING = "Not measured yet: `make bench`, then `python -m benchmarks.table`."


def blocks(results: Iterable[Result]) -> dict[str, str]:
    """Name of each block of docs/performance.md -> its table."""
    found = {result["name"]: result for result in results if result["name"] in (*ORDER, *CURVATURE, *IMAGES, ADAMW)}
    every = [found[name] for name in ORDER if name in found]

    def table(make: Any, names: Sequence[str]) -> str:
        chosen = [found[name] for name in names if name in found]
        return str(make(chosen)) if chosen else _NOTHING

    return {
        "summary": "\n\n".join([summary(every), "\n".join(machines(every))]) if every else _NOTHING,
        "linear": table(speedups, LINEAR),
        "conv": table(speedups, CONV),
        "batch": table(speedups, ("engine_batch_1",)),
        "limits": table(limits, (*LINEAR, *CONV, "engine_transformer", "engine_batch_1")),
        "memory": table(memory, ("engine_memory",)),
        "growth": table(growth, ("engine_growth",)),
        "adamw": table(adamw, (ADAMW,)),
        "curvature": table(summary, CURVATURE),
        "images": table(images, IMAGES),
        "images-engine": table(images_engine, ("vision_engine",)),
        "failures": failures(every) if every else _NOTHING,
    }


def summary(results: Iterable[Result]) -> str:
    """One row per number to reach: the worst judged case for each number of threads."""
    results = sorted(results, key=lambda result: (*ORDER, *CURVATURE).index(result["name"]))
    lines = ["| what | reach | 1 thread | 2 threads | verdict |", "|---|---|---|---|---|"]
    for result in results:
        worst = [_worst(result, threads) for threads in (1, 2)]
        reach = bound(result["reach"], speedup=result["speedup"])
        lines.append(f"| {result['what']} | {reach} | {' | '.join(worst)} | {verdict(result)} |")
    return "\n".join(lines)


def _worst(result: Result, threads: int) -> str:
    ratios = [c["ratio"] for c in result["cases"] if c["counts"] and c["configuration"]["threads"] == threads]
    return shown(max(ratios), speedup=result["speedup"]) if ratios else "-"


def speedups(results: Sequence[Result]) -> str:
    """Speedups, with cases (other libraries among them) as rows, and sparsity and threads as columns."""
    columns = [(result, threads) for result in results for threads in (1, 2)]
    heads = [f"{_sparsity(result)}, {threads} thread{'s' * (threads > 1)}" for result, threads in columns]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---|" * len(columns)]
    rows = dict.fromkeys(case["configuration"]["row"] for result in results for case in result["cases"])
    for row in rows:
        cells = [_cell(_case(result, row, threads), speedup=result["speedup"]) for result, threads in columns]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def limits(results: Sequence[Result]) -> str:
    """GF/s of the judged cases and of their dense baselines, and the bytes that a nonzero moves."""
    lines = [
        "| | GF/s sparse, 1 thread | 2 threads | GF/s dense, 1 thread | 2 threads | bytes a nonzero, memory | cache |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for row in dict.fromkeys(case["configuration"]["row"] for case in result["cases"] if case["counts"]):
            cases = [_case(result, row, threads) for threads in (1, 2)]
            found = [case["configuration"] if case else {} for case in cases]
            numbers = [_number(c.get(key)) for key in ("gflops", "gflops_dense") for c in found]
            moved = [str(found[0].get(f"bytes_per_nonzero_{where}", "-")) for where in ("memory", "cache")]
            lines.append(f"| {_sparsity(result)}: {row} | {' | '.join([*numbers, *moved])} |")
    return "\n".join(lines)


def memory(results: Sequence[Result]) -> str:
    """Megabytes of the sparse and the dense network, and their ratio."""
    lines = ["| threads | sparse, MB | dense, MB | ratio |", "|---|---|---|---|"]
    for case in results[0]["cases"]:
        sparse, dense = (case["median_bytes"][which] / 1e6 for which in ("subject", "baseline"))
        lines.append(f"| {case['configuration']['threads']} | {sparse:.0f} | {dense:.0f} | {case['ratio']:.3f} |")
    return "\n".join(lines)


def growth(results: Sequence[Result]) -> str:
    """Time per nonzero over that in the smallest layer, and GF/s; then the ceiling for inputs of each size."""
    cases = results[0]["cases"]
    lines = [
        "| nonzeros | threads | time per nonzero over the smallest | GF/s | GF/s of the smallest |",
        "|---|---|---|---|---|",
    ]
    for case in cases:
        found = case["configuration"]
        speeds = [_number(found[key]) for key in ("gflops", "gflops_smallest")]
        lines.append(f"| {found['nonzeros']:.0e} | {found['threads']} | {case['ratio']:.2f} | {' | '.join(speeds)} |")
    ceilings = {case["configuration"]["threads"]: case["configuration"]["gflops_ceilings"] for case in cases}
    sizes = list(next(iter(ceilings.values())))
    lines += ["", f"| inputs of the forward kernel | {' | '.join(sizes)} |", "|---|" + "---|" * len(sizes)]
    for threads, speeds_at in ceilings.items():
        cells = [_number(speeds_at[size]) for size in sizes]
        lines.append(f"| GF/s, {threads} thread{'s' * (threads > 1)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def adamw(results: Sequence[Result]) -> str:
    """Milliseconds with and without masks, and the median of their ratios."""
    lines = ["| | masked, ms | dense, ms | masked / dense | reach |", "|---|---|---|---|---|"]
    for case in results[0]["cases"]:
        masked, dense = (f"{1e3 * case['median_seconds'][which]:.3g}" for which in ("subject", "baseline"))
        reach = bound(results[0]["reach"], speedup=False) if case["counts"] else ""
        lines.append(f"| {case['label']} | {masked} | {dense} | {case['ratio']:.2f} | {reach} |")
    return "\n\n".join(["\n".join(lines), "\n".join(machines(results))])


def images(results: Sequence[Result]) -> str:
    """One row per number to reach: the engine's worst case, and every case of the others."""
    lines = ["| what | reach | measured | verdict |", "|---|---|---|---|"]
    for result in results:
        cases = result["cases"]
        if result["name"] == "vision_engine":
            cases = [max(cases, key=lambda case: float(case["ratio"]))]
        found = [f"{shown(case['ratio'], speedup=result['speedup'])} ({case['label']})" for case in cases]
        found += [failure["error"] for failure in result["failures"]]
        reach = bound(result["reach"], speedup=result["speedup"])
        lines.append(f"| {result['what']} | {reach} | {'; '.join(found)} | {verdict(result)} |")
    return "\n\n".join(["\n".join(lines), "\n".join(machines(results))])


def images_engine(results: Sequence[Result]) -> str:
    """Speedup of the engine for each sparsity and width, and the largest difference in loss over some steps."""
    (result,) = results
    lines = [
        "| sparsity, width | 1 thread | 2 threads | losses differ at most by, float64 | float32 |",
        "|---|---|---|---|---|",
    ]
    for row in dict.fromkeys(case["configuration"]["row"] for case in result["cases"]):
        cases = [case for threads in (1, 2) if (case := _case(result, row, threads))]
        cells = [_cell(case, speedup=True) for case in cases]
        apart = cases[0]["configuration"]["largest_relative_difference"]
        lines.append(f"| {row} | {' | '.join(cells)} | {apart['float64']:.0e} of themselves | {apart['float32']:.0e} |")
    return "\n".join(lines)


def failures(results: Iterable[Result]) -> str:
    """Configurations that could not be measured, each with the last line of its error."""
    found = [f"* {r['what']}: {f['label']}: `{f['error']}`" for r in results for f in r["failures"]]
    return "\n".join(found) or "Everything ran."


def _sparsity(result: Result) -> str:
    return f"{result['cases'][0]['configuration']['sparsity']:.0%}"


def _case(result: Result, row: str, threads: int) -> Result | None:
    for case in result["cases"]:
        if case["configuration"]["row"] == row and case["configuration"]["threads"] == threads:
            return dict(case)
    return None


def _cell(case: Result | None, *, speedup: bool) -> str:
    return "-" if case is None else shown(case["ratio"], speedup=speedup)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
