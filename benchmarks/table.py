"""``python -m benchmarks.table``: write the README's numbers and the tables of the manual from committed results."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import block_accuracy, performance
from benchmarks.contest import BF16, FLOAT32
from benchmarks.result import bound, load, machines, shown, verdict

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PERFORMANCE, BLOCKS, RESULTS = (ROOT / "docs" / name for name in ("performance.md", "blocks.md", "results.md"))
TRIALS = ROOT / "battery" / "results.json"
#: What masking costs, in the order of the table.
ORDER = ("masked_step", "masked_adamw", "mask_update", "initialise", "import_time")


def markdown(results: list[dict[str, Any]]) -> str:
    """User-level tables: what a user gains from the engine, what masking costs, and where they were measured."""
    gains = [found for name in performance.USER_LEVEL for found in results if found["name"] == name]
    costs = sorted((r for r in results if r["name"] in ORDER), key=lambda r: ORDER.index(r["name"]))
    lines = ["| what | reach | measured | verdict |", "|---|---|---|---|"]
    for result in costs:
        measured = "; ".join(f"{shown(case['ratio'], speedup=False)} ({case['label']})" for case in result["cases"])
        lines.append(f"| {result['what']} | {bound(result['reach'], speedup=False)} | {measured} | {verdict(result)} |")
    user_level = performance.user_level(gains) if gains else performance.NOTHING
    return "\n\n".join([user_level, "\n".join(lines), "\n".join(machines([*gains, *costs]))])


def numbers(results: list[dict[str, Any]]) -> str:
    """The README's three numbers, with links: what a user gains from the engine, in accuracy, and in optimizers.

    Raises:
        ValueError: if a benchmark that they are taken from is not among the results.
    """
    found = next((result for result in results if result["name"] == performance.USER_LEVEL[0]), None)
    if found is None:
        raise ValueError(f"no result of {performance.USER_LEVEL[0]} yet: run python -m benchmarks first.")
    table = pd.read_csv(ROOT / "results" / "paper" / "tables" / "table1.csv").set_index("network")
    trials = json.loads(TRIALS.read_text())["rows"]
    verdicts, libraries = [trial["verdict"] for trial in trials], {trial["library"] for trial in trials}
    names = ("Scratch, Original", "Scratch, Ours", "RigL, Ours", "Dense")
    start, ours, rigl, dense = (table.loc[name] for name in names)
    gains = {
        (its["pattern"], its["rival"]): shown(case["ratio"], speedup=True)
        for case in found["cases"]
        if (its := case["configuration"])["sparsity"] == 0.95
    }
    single, blocks = (gains[pattern, FLOAT32] for pattern in ("unstructured", "4x1 blocks"))
    works = sum(verdict in ("works", "caveat") for verdict in verdicts)
    lines = [
        f"* **{single} as fast** as dense float32, and {gains['unstructured', BF16]} as fast as bfloat16: forward and",
        f"  backward of a 95 % sparse MLP on one CPU thread; {blocks} with [blocks](docs/blocks.md).",
        "  [All speeds](docs/performance.md), and where dense is faster.",
        f"* **{start['collapsed']:.0f} of {start['runs']} networks do not learn** from the usual initialisation,",
        f"  {ours['collapsed']:.0f} of {ours['runs']} from the sparsity-aware one: LeNet5 on MNIST, 95 % sparse.",
        f"  With RigL {rigl['mean']:.1f} % are right, dense {dense['mean']:.1f} %. [All results](docs/results.md).",
        f"* **{works} optimizers** of {len(libraries)} libraries keep every promise, each of them tried by name.",
        "  [All optimizers](docs/optimizers.md).",
    ]
    return "\n".join(lines)


def filled(text: str, name: str, block: str) -> str:
    """A document with ``block`` between the two markers of that name.

    Raises:
        ValueError: if the markers are not there.

    >>> filled("a <!-- demo:begin -->old<!-- demo:end --> b", "demo", "new").split()
    ['a', '<!--', 'demo:begin', '-->', 'new', '<!--', 'demo:end', '-->', 'b']
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the document needs one {begin} and after it one {end}; add them where the table belongs.")
    return f"{text[: text.index(begin)]}{begin}\n{block}\n{text[text.index(end) :]}"


def with_tables(text: str, results: list[dict[str, Any]]) -> str:
    """The page docs/performance.md with all its tables filled in."""
    for name, block in {"benchmarks": markdown(results), **performance.blocks(results)}.items():
        text = filled(text, name, block)
    return text


def with_accuracy(text: str) -> str:
    """The page docs/blocks.md with its table filled in."""
    return filled(text, "block_accuracy", block_accuracy.markdown(pd.read_csv(block_accuracy.RESULT)))


def main() -> None:
    results = load()
    if not results:
        sys.exit("no results yet: run python -m benchmarks first.")
    README.write_text(filled(README.read_text(), "numbers", numbers(results)))
    PERFORMANCE.write_text(with_tables(PERFORMANCE.read_text(), results))
    BLOCKS.write_text(with_accuracy(BLOCKS.read_text()))


if __name__ == "__main__":
    main()
