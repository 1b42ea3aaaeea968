"""The tables of docs/performance.md and the README's rows of the engine, from the results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.contest import BF16, FLOAT32, INT8
from benchmarks.result import bound, machines, shown, verdict

Result = dict[str, Any]
Case = dict[str, Any]

#: Sparse forms against dense rivals: what is shown of them in the README, and all in the order of the page.
USER_LEVEL = ("engine_user_mlp", "engine_transformer")
CONTESTS = (
    "engine_user_mlp", "engine_mlp_inference", "engine_linear", "engine_two_threads", "engine_lenet5_modules",
    "engine_lenet5_plan", "engine_mlp_modules", "engine_mlp_plan", "engine_transformer", "engine_encoder",
    "engine_conv", "engine_vgg16", "engine_resnet14", "engine_resnet14_plan", "engine_batch_1",
)  # fmt: skip
#: The engine against other libraries, against itself, and what it needs.
OTHERS = (
    "engine_sparselab", "engine_before", "engine_bytes", "engine_memory", "engine_growth", "hand_over", "mask_update",
)  # fmt: skip
#: Nearly dense layers, of which many cases are judged: in a table of their own.
COVER = "engine_cover"
#: Reported beside them, without a number to reach.
PEERS = "engine_peers"
#: Results on curvature, in the order of the table.
CURVATURE = ("hessian", "hessian_float32", "spectrum", "hessian_product")
#: Results on training with images, likewise; ``python -m benchmarks.vision`` measures them.
IMAGES = ("vision_ranks", "vision_compiled", "vision_input", "vision_memory")
#: What masking costs under AdamW; the README has its row too.
ADAMW = "masked_adamw"
#: A decoder's step in each phase of its annealing.
PHASES = "text_phases"
RIVALS = (FLOAT32, BF16, INT8)
NOTHING = "Not measured yet: `make bench`, then `python -m benchmarks.table`."


def blocks(results: Iterable[Result]) -> dict[str, str]:
    """Name of each block of docs/performance.md -> its table."""
    known = (*CONTESTS, *OTHERS, COVER, PEERS, *CURVATURE, *IMAGES, ADAMW, PHASES)
    found = {result["name"]: result for result in results if result["name"] in known}

    def table(make: Any, *names: str) -> str:
        chosen = [found[name] for name in names if name in found]
        return str(make(chosen)) if chosen else NOTHING

    every = (*CONTESTS, *OTHERS, PEERS)
    return {
        "summary": table(summary, *CONTESTS, *OTHERS),
        "mlp": table(details, "engine_user_mlp"),
        "sparselab": table(others, "engine_sparselab", "engine_before"),
        "inference": table(details, "engine_mlp_inference", "engine_encoder"),
        "linear": table(details, "engine_linear", "engine_two_threads"),
        "peers": table(peers, PEERS),
        "cover": table(others, COVER),
        "networks": table(
            details, "engine_lenet5_modules", "engine_lenet5_plan", "engine_mlp_modules", "engine_mlp_plan"
        ),
        "transformer": table(details, "engine_transformer"),
        "phases": table(phases, PHASES),
        "conv": table(details, "engine_conv", "engine_vgg16", "engine_resnet14", "engine_resnet14_plan"),
        "batch": table(details, "engine_batch_1"),
        "bytes": table(others, "engine_bytes"),
        "memory": table(memory, "engine_memory"),
        "growth": table(growth, "engine_growth"),
        "adamw": table(adamw, ADAMW),
        "curvature": table(curvature, *CURVATURE),
        "images": table(images, *IMAGES),
        "failures": table(failures, *every),
    }


def summary(results: Sequence[Result]) -> str:
    """All numbers to reach: sparse forms over their rivals, then the others, then where they were measured."""
    groups = [[r for r in results if (r["name"] in CONTESTS) is among] for among in (True, False)]
    parts = [make(chosen) for make, chosen in zip((judged, others), groups, strict=True) if chosen]
    return "\n\n".join([*parts, "\n".join(machines(results))])


def judged(results: Iterable[Result]) -> str:
    """A line for each sparse form with a number to reach; its sparsities side by side."""
    heads = [f"over {rival}" for rival in RIVALS]
    lines = [f"| what | sparsity | verdict | {' | '.join(heads)} |", "|---|---|---|" + "---|" * len(heads)]
    for result in results:
        forms = _forms(result)
        several = len({row for row, _, _ in forms}) > 1
        for (row, pattern, threads), cases in forms.items():
            if not any(case["counts"] for case in cases):
                continue
            sparsities = sorted({case["configuration"]["sparsity"] for case in cases})
            cells = []
            for rival in RIVALS:
                each = [_case(cases, sparsity, rival) for sparsity in sparsities]
                reach = _side_by_side(each, "reach")
                cells.append(_side_by_side(each, "ratio") + (f"; reach {reach}" if reach else ""))
            held = all(case["ratio"] <= case["reach"] for case in cases if case["counts"])
            what = f"{result['what']}{f'; {row}' if several else ''}: {pattern}" + (
                ", 2 threads" if threads == 2 else ""
            )
            shares = " / ".join(f"{100 * sparsity:.0f}" for sparsity in sparsities)
            lines.append(f"| {what} | {shares} % | {'held' if held else '**missed**'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _forms(result: Result) -> dict[tuple[str, str, int], list[Case]]:
    """Row, pattern and threads -> the cases of a contest."""
    found: dict[tuple[str, str, int], list[Case]] = {}
    for case in result["cases"]:
        its = case["configuration"]
        found.setdefault((its["row"], its["pattern"], its["threads"]), []).append(case)
    return found


def _case(cases: Iterable[Case], sparsity: float, rival: str) -> Case | None:
    for case in cases:
        its = case["configuration"]
        if its["sparsity"] == sparsity and its["rival"] == rival:
            return case
    return None


def _side_by_side(cases: Sequence[Case | None], key: str) -> str:
    """Speedups as ``4.5x / 8x / -``; nothing where no case has one."""
    numbers = ["-" if case is None or case[key] is None else f"{1 / case[key]:.3g}x" for case in cases]
    return " / ".join(numbers) if set(numbers) != {"-"} else ""


def phases(results: Sequence[Result]) -> str:
    """A line for each share of active weights: the steps there, and what of the sparse one stays dense."""
    lines = [
        "| active | ms, active weights alone | ms, dense with masks | times as fast | reach | "
        "of it attention, GELU, norms, sums | ms, a step that keeps the largest |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        rows: dict[int, dict[str, Case]] = {}
        for case in result["cases"]:
            its = case["configuration"]
            rows.setdefault(its["one_in"], {})[its["row"]] = case
        for one_in, row in rows.items():
            stored, annealed, dense = row["stored"], row["annealed"], row["dense parts"]
            times = {name: 1000 * seconds for name, seconds in stored["median_seconds"].items()}
            reach = "" if stored["reach"] is None else f"{1 / stored['reach']:g}x"
            lines.append(
                f"| 1 in {one_in} | {times['subject']:.3g} | {times['baseline']:.3g} | "
                f"{shown(stored['ratio'], speedup=True)} | {reach} | {dense['ratio']:.0%} | "
                f"{1000 * annealed['median_seconds']['subject']:.3g} |"
            )
    return "\n".join(lines)


def user_level(results: Iterable[Result]) -> str:
    """The README's rows: what a user gets through the public API."""
    lines = ["| one thread | sparsity | times as fast as dense float32 | as bf16 autocast |", "|---|---|---|---|"]
    for result in results:
        for (_, pattern, _), cases in _forms(result).items():
            sparsities = sorted({case["configuration"]["sparsity"] for case in cases})
            over = [_side_by_side([_case(cases, s, rival) for s in sparsities], "ratio") for rival in (FLOAT32, BF16)]
            shares = " / ".join(f"{100 * sparsity:.0f}" for sparsity in sparsities)
            lines.append(f"| {result['what']}: {pattern} | {shares} % | {' | '.join(over)} |")
    return "\n".join(lines)


def details(results: Sequence[Result]) -> str:
    """Every sparse form: milliseconds, how many times faster than each rival, GF/s of its products."""
    met = {case["configuration"]["rival"] for result in results for case in result["cases"]}
    rivals, several = [rival for rival in RIVALS if rival in met], len(results) > 1
    over_rivals = [f"over {rival}" for rival in rivals]
    heads = ["what", "pattern", "sparsity", "threads", "ms", *over_rivals, "GF/s", "GF/s float32"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for result in results:
        for (row, pattern, threads), cases in _forms(result).items():
            for sparsity in sorted({case["configuration"]["sparsity"] for case in cases}):
                its = [_case(cases, sparsity, rival) for rival in rivals]
                first = next(case for case in its if case is not None)
                over = ["" if case is None else shown(case["ratio"], speedup=True) for case in its]
                speeds = [_number(first["configuration"].get(key)) for key in ("gflops", "gflops_rival")]
                name = f"{result['what']}; {row}" if several else row
                cells = [name, pattern, f"{100 * sparsity:.0f} %", str(threads), _milliseconds(first), *over, *speeds]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _milliseconds(case: Case) -> str:
    return f"{1e3 * case['median_seconds']['subject']:.3g}"


def others(results: Iterable[Result]) -> str:
    """Each judged case of the other results."""
    lines = ["| what | case | reach | measured | verdict |", "|---|---|---|---|---|"]
    for result in results:
        speedup = result["speedup"]
        for case in result["cases"]:
            if case["counts"]:
                held = "held" if case["ratio"] <= case["reach"] else "**missed**"
                cells = [bound(case["reach"], speedup=speedup), shown(case["ratio"], speedup=speedup), held]
                lines.append(f"| {result['what']} | {case['label']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def peers(results: Sequence[Result]) -> str:
    """Other libraries over dense float32, with libraries as columns."""
    (result,) = results
    cases = result["cases"]
    names = list(dict.fromkeys(case["configuration"]["pattern"] for case in cases))
    lines = [f"| | sparsity | threads | {' | '.join(names)} |", "|---|---|---|" + "---|" * len(names)]
    rows: dict[tuple[str, float, int], dict[str, str]] = {}
    for case in cases:
        its = case["configuration"]
        cells = rows.setdefault((its["row"], its["sparsity"], its["threads"]), {})
        cells[its["pattern"]] = shown(case["ratio"], speedup=True)
    for (row, sparsity, threads), cells in rows.items():
        found = " | ".join(cells.get(name, "") for name in names)
        lines.append(f"| {row} | {100 * sparsity:.0f} % | {threads} | {found} |")
    return "\n".join(lines)


def curvature(results: Iterable[Result]) -> str:
    """One row per number to reach: the worst judged case for each number of threads."""
    lines = ["| what | reach | 1 thread | 2 threads | verdict |", "|---|---|---|---|---|"]
    for result in results:
        worst = [_worst(result, threads) for threads in (1, 2)]
        reach = bound(result["reach"], speedup=result["speedup"])
        lines.append(f"| {result['what']} | {reach} | {' | '.join(worst)} | {verdict(result)} |")
    return "\n".join(lines)


def _worst(result: Result, threads: int) -> str:
    ratios = [c["ratio"] for c in result["cases"] if c["counts"] and c["configuration"]["threads"] == threads]
    return shown(max(ratios), speedup=result["speedup"]) if ratios else "-"


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
        found = [f"{shown(case['ratio'], speedup=result['speedup'])} ({case['label']})" for case in cases]
        found += [failure["error"] for failure in result["failures"]]
        reach = bound(result["reach"], speedup=result["speedup"])
        lines.append(f"| {result['what']} | {reach} | {'; '.join(found)} | {verdict(result)} |")
    return "\n\n".join(["\n".join(lines), "\n".join(machines(results))])


def failures(results: Iterable[Result]) -> str:
    """Configurations that could not be measured, each with the last line of its error."""
    found = [f"* {r['what']}: {f['label']}: `{f['error']}`" for r in results for f in r["failures"]]
    return "\n".join(found) or "Everything ran."


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
