"""``python -m benchmarks.table``: write the tables of README, performance.md and blocks.md from committed results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import block_accuracy, performance
from benchmarks.result import bound, load, machines, shown, verdict

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PERFORMANCE, BLOCKS = (ROOT / "docs" / name for name in ("performance.md", "blocks.md"))
#: What masking costs, in the order of the table.
ORDER = ("masked_step", "masked_adamw", "mask_update", "initialise", "import_time")


def markdown(results: list[dict[str, Any]]) -> str:
    """The README's tables: what a user gains from the engine, what masking costs, and where they were measured."""
    gains = [found for name in performance.USER_LEVEL for found in results if found["name"] == name]
    costs = sorted((r for r in results if r["name"] in ORDER), key=lambda r: ORDER.index(r["name"]))
    lines = ["| what | reach | measured | verdict |", "|---|---|---|---|"]
    for result in costs:
        measured = "; ".join(f"{shown(case['ratio'], speedup=False)} ({case['label']})" for case in result["cases"])
        lines.append(f"| {result['what']} | {bound(result['reach'], speedup=False)} | {measured} | {verdict(result)} |")
    user_level = performance.user_level(gains) if gains else performance.NOTHING
    return "\n\n".join([user_level, "\n".join(lines), "\n".join(machines([*gains, *costs]))])


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
    for name, block in performance.blocks(results).items():
        text = filled(text, name, block)
    return text


def with_accuracy(text: str) -> str:
    """The page docs/blocks.md with its table filled in."""
    return filled(text, "block_accuracy", block_accuracy.markdown(pd.read_csv(block_accuracy.RESULT)))


def main() -> None:
    results = load()
    if not results:
        sys.exit("no results yet: run python -m benchmarks first.")
    README.write_text(filled(README.read_text(), "benchmarks", markdown(results)))
    PERFORMANCE.write_text(with_tables(PERFORMANCE.read_text(), results))
    BLOCKS.write_text(with_accuracy(BLOCKS.read_text()))


if __name__ == "__main__":
    main()
