"""The page docs/optimizers.md: what the trials found, by name, and what no library can mend."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from battery.growth import LONG_WAY, PATIENCE, SHORT

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "optimizers.md"
RESULTS = Path(__file__).parent / "results.json"
TEMPLATE = Path(__file__).parent / "page.md.jinja"
#: Verdict -> what it means, in the order of the page.
VERDICTS = {
    "works": "nothing to say",
    "caveat": "it keeps every promise, and something else is to know",
    "refused": "the Sparsifier does not take it, and says why",
    "fails": "a promise is broken: a fault of sparseflow",
    "not run": "it does not train the dense network here either, for the reason given",
}


def page(results: Mapping[str, Any]) -> str:
    """The page's text.

    Args:
        results: The content of ``battery/results.json``.

    Raises:
        KeyError: if the results lack an optimizer whose number the text names.
    """
    rows: Sequence[Mapping[str, Any]] = results["rows"]
    diluted = {(row["library"], row["name"]): row["diluted"] for row in rows}
    libraries: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        libraries.setdefault(row["library"], []).append(row)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(TEMPLATE.read_text()).render(
        versions=", ".join(f"{name} {version}" for name, version in sorted(results["versions"].items())),
        libraries=libraries,
        verdicts=VERDICTS,
        counts=Counter(row["verdict"] for row in rows),
        clipping=results["clipping"],
        sparsity=results["clipping"]["sparsity"],
        patience=PATIENCE,
        short=f"{SHORT:g}",
        long=f"{LONG_WAY:g}",
        times=lambda library, name: f"{diluted[library, name]:g}",
        percent=lambda share: f"{100 * share:.3g} %",
        root=lambda share: f"{math.sqrt(share):.2g}",
        shown=lambda verdict: "**fails**" if verdict == "fails" else verdict,
        cell=cell,
    )


def cell(row: Mapping[str, Any]) -> str:
    r"""The last column of a row.

    >>> cell({"why": ["ValueError: a | b"]})
    'ValueError: a \\| b'
    """
    return "; ".join(row["why"]).replace("|", "\\|").replace("<", "&lt;")


def dumped(results: Mapping[str, Any]) -> str:
    """Results as JSON with a line for each optimizer.

    >>> print(dumped({"date": "2026-11-30", "rows": [{"name": "SGD"}, {"name": "Adam"}]}), end="")
    {"date": "2026-11-30", "rows": [
    {"name": "SGD"},
    {"name": "Adam"}
    ]}
    """
    head = json.dumps({**results, "rows": []}, ensure_ascii=False).removesuffix("]}")
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in results["rows"])
    return f"{head}\n{rows}\n]}}\n"


def load(path: Path = RESULTS) -> dict[str, Any]:
    """The committed results."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found
