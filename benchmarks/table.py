"""``python -m benchmarks.table``: write the README's benchmark table from the committed results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.result import is_held, load

README = Path(__file__).parent.parent / "README.md"
#: The order of the table; results of other names follow.
ORDER = ("masked_step", "mask_update", "initialise", "import_time")


def markdown(results: list[dict[str, Any]]) -> str:
    """The table and one line for each machine that its numbers come from."""
    results = sorted(results, key=lambda r: (ORDER.index(r["name"]) if r["name"] in ORDER else len(ORDER), r["name"]))
    lines = ["| what | reach | measured | verdict |", "|---|---|---|---|"]
    for result in results:
        cases = [f"{case['ratio']:.2f} ({case['label']})" for case in result["cases"]]
        verdict = "held" if is_held(result) else "**missed**"
        lines.append(f"| {result['what']} | <= {result['reach']:g} | {'; '.join(cases)} | {verdict} |")
    machines = {
        f"{r['hardware']['cpu']}, {r['hardware']['cores']} cores, {r['hardware']['threads']} threads, "
        f"Python {r['versions']['python']}, torch {r['versions']['torch']}, {r['date'][:10]}"
        for r in results
    }
    lines += ["", *(f"Medians of the ratios of alternating runs on {machine}." for machine in sorted(machines))]
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


def main() -> None:
    results = load()
    if not results:
        sys.exit("no results yet: run python -m benchmarks first.")
    README.write_text(filled(README.read_text(), "benchmarks", markdown(results)))


if __name__ == "__main__":
    main()
