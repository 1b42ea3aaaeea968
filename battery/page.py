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
#: The optimizers that ``sf.diagnose`` warns of.
CAVEATS = ROOT / "src" / "sparseflow" / "doctor" / "optimizers.json"
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


#: Heading of the table -> the package that the classes are in.
_PACKAGES = {"torch.optim": "torch", "timm.optim": "timm", "pytorch-optimizer": "pytorch_optimizer"}


def caveats(results: Mapping[str, Any]) -> str:
    """The optimizers that are not plain, as JSON with a line for each: package, class, and what is to know.

    timm makes variants of its classes by options; one that is called as another with a ``c`` in front is cautious.

    Args:
        results: The content of ``battery/results.json``.

    Raises:
        KeyError: if one is of a library whose package is not known here.
    """
    rows = results["rows"]
    timm = {row["name"] for row in rows if row["library"] == "timm.optim"}
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        if row["verdict"] not in ("caveat", "refused"):
            continue
        library, name = row["library"], row["name"]
        package, _, kind = name.rpartition(".") if library == "wrappers" else (_PACKAGES[library], "", name)
        # The note on state names the class, which timm's names do not.
        kind = next((note.partition(":")[0] for note in row["notes"]), kind)
        is_cautious = library == "timm.optim" and name[0] == "c" and name[1:] in timm
        values = {"package": package, "name": kind, "cautious": is_cautious, "step": row["diluted"], "why": []}
        kept = found.setdefault((package, kind, is_cautious), values)
        kept["why"] += [why for why in row["why"] if why not in kept["why"]]
    return "[\n" + ",\n".join(json.dumps(values, ensure_ascii=False) for values in found.values()) + "\n]\n"


def load(path: Path = RESULTS) -> dict[str, Any]:
    """The committed results."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found
