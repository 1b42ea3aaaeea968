"""``python -m benchmarks.same_results BEFORE AFTER``: compare the results of two checkouts digit for digit.

``BEFORE`` and ``AFTER`` are folders that ``sparseflow demo`` or ``sparseflow reproduce`` wrote (``--out``), or two
pages such as ``results/paper``. To compare this checkout with an earlier commit, with the same environment::

    git worktree add ../before COMMIT
    PYTHONPATH=../before/src .venv/bin/python -m sparseflow demo --quick --out /tmp/before
    PYTHONPATH=src .venv/bin/python -m sparseflow demo --quick --out /tmp/after
    PYTHONPATH=src .venv/bin/python -m benchmarks.same_results /tmp/before /tmp/after
    git worktree remove ../before

These must be equal: the names of the runs; their ``config.json``, ``metrics.jsonl`` and ``done.json``;
``measurements/*.json``; every ``*.csv`` file; ``claims.csv`` claim by claim; with ``--drawings`` also ``*.svg``.
Metrics and drawings are compared as bytes. Left out are digests, wall-clock times (``TIMES``), the sentence that
explains a verdict (``PROSE``), and files that are not results: ``index.html``, ``environment.json``, ``env.json``,
checkpoints and snapshots.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterable
from pathlib import Path

#: Fields of ``done.json`` and columns of ``summary.csv`` and ``runs.csv`` that are times; metrics hold none.
TIMES = frozenset({"seconds", "measuring"})
#: Fields that say what else belongs to a file: what they name is compared itself.
PROOFS = frozenset({"sha256", "run", "metrics"})
#: Columns of ``claims.csv`` that may be reworded.
PROSE = frozenset({"note"})

Contents = dict[str, dict[str, str]]
"""Kind of result -> its name -> its text, ready to compare."""


def contents(root: Path, *, drawings: bool = False) -> Contents:
    """Every result in a folder.

    Raises:
        ValueError: If there is no result, or a run or the page is not finished.
    """
    runs = [path.parent for path in sorted(root.glob("*/config.json"))]
    tables = [path for path in sorted(root.rglob("*.csv")) if path.name != "claims.csv"]
    if not tables:
        raise ValueError(f"{root} holds no table to compare. Give the --out of a sparseflow command that has ended.")
    unfinished = [run.name for run in runs if not (run / "done.json").is_file()]
    if unfinished:
        raise ValueError(f"{root} has unfinished runs: {', '.join(unfinished)}. Type the command that made it again.")
    found = {
        "runs": {run.name: _json(run / "config.json") for run in runs},
        "metrics": {run.name: _text(run / "metrics.jsonl") for run in runs},
        "final results": {run.name: _json(run / "done.json") for run in runs},
        "measurements": {path.stem: _json(path) for path in sorted(root.glob("measurements/*.json"))},
        "tables": {str(path.relative_to(root)): _table(path) for path in tables},
        "claims": {
            str(path.relative_to(root).parent / id): text
            for path in sorted(root.rglob("claims.csv"))
            for id, text in _claims(path)
        },
    }
    if drawings:
        found["drawings"] = {str(path.relative_to(root)): _text(path) for path in sorted(root.rglob("*.svg"))}
    return found


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """A line for each name that only one side has, or that has another text in each.

    >>> differences({"C01": "held", "C02": "held"}, {"C02": "failed", "C03": "held"})
    ['C01: only before', 'C02: line 1: held -> failed', 'C03: only after']
    """
    lines = [f"{name}: only before" for name in before.keys() - after.keys()]
    lines += [f"{name}: only after" for name in after.keys() - before.keys()]
    for name in before.keys() & after.keys():
        if before[name] != after[name]:
            lines.append(f"{name}: {_first_difference(before[name], after[name])}")
    return sorted(lines)


def _first_difference(before: str, after: str) -> str:
    """Number of the first line that differs, and its text around the first character that does."""
    pairs = enumerate(zip(before, after, strict=False))
    same = next((place for place, (old, new) in pairs if old != new), min(len(before), len(after)))
    start = max(before.rfind("\n", 0, same) + 1, same - 40)
    old, new = (text[start : same + 40].split("\n")[0] for text in (before, after))
    return f"line {before.count(chr(10), 0, same) + 1}: {old} -> {new}"


def _text(path: Path) -> str:
    return path.read_bytes().decode()  # read_text would change ends of lines


def _json(path: Path) -> str:
    """The file without times, proofs and empty fields, fields sorted by name: their order may change."""
    values = json.loads(path.read_text())
    kept = {name: value for name, value in values.items() if name not in TIMES | PROOFS and value != {}}
    return json.dumps(kept, indent=1, sort_keys=True)


def _table(path: Path) -> str:
    """Text of a table, without the columns of times if it has any."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    if TIMES.isdisjoint(header):
        return _text(path)
    kept = [column for column, name in enumerate(header) if name not in TIMES]
    return "\n".join(",".join(row[column] for column in kept) for row in [header, *rows])


def _claims(path: Path) -> Iterable[tuple[str, str]]:
    """Each claim's id and its other columns, one per line."""
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            yield row["id"], "\n".join(f"{name}: {value}" for name, value in row.items() if name not in PROSE)


def main() -> None:
    """Print one line for each kind and its first differences; exit with status 1 if there is any."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.same_results", description=__doc__.split("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--drawings", action="store_true", help="compare figures too, whose labels are prose")
    parser.add_argument("--show", type=int, default=5, help="differences of each kind to show; default 5")
    given = parser.parse_args()
    if given.before.resolve() == given.after.resolve():
        parser.error(f"{given.before} is compared with itself. Give two folders.")
    try:
        before, after = (contents(root, drawings=given.drawings) for root in (given.before, given.after))
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    different = False
    for kind in before:
        found = differences(before[kind], after[kind])
        different |= bool(found)
        print(f"{kind}: {len(before[kind])} before, {len(after[kind])} after, {len(found) or 'none'} different")
        for line in found[: given.show]:
            print(f"  {line}")
    if different:
        sys.exit("The results are not the same.")


if __name__ == "__main__":
    main()
