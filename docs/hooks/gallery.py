"""mkdocs hook: every program of examples/, with what it prints and draws."""

from __future__ import annotations

import ast
import hashlib
import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from public import ROOT, SOURCE

EXAMPLES = ROOT / "examples"
#: Results of runs by what they depend on; ``make clean`` removes them.
KEPT = ROOT / ".cache" / "gallery"
_RUNNER = """
import json, os, runpy, sys
os.environ["MPLBACKEND"] = "agg"
runpy.run_path(sys.argv[1], run_name="__main__")
figures = []
if "matplotlib" in sys.modules:
    import io
    import matplotlib.pyplot as plt
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": sys.argv[1]})
    for number in plt.get_fignums():
        file = io.StringIO()
        plt.figure(number).savefig(file, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
        figures.append(file.getvalue())
with open(sys.argv[2], "w") as out:
    json.dump(figures, out)
"""


def digest(example: Path) -> str:
    """What the result of a program depends on: its source, and all of the library's."""
    found = hashlib.sha256(example.read_bytes())
    for path in sorted((SOURCE / "sparseflow").rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:24]


def result_of(example: Path) -> dict[str, Any]:
    """What a program prints and draws; run anew if it or the library has changed.

    Raises:
        RuntimeError: if it fails, with its last words.
    """
    kept = KEPT / f"{example.stem}-{digest(example)}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    KEPT.mkdir(parents=True, exist_ok=True)
    for old in KEPT.glob(f"{example.stem}-*.json"):
        old.unlink()
    drawn = KEPT / f"{example.stem}.figures"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _RUNNER, str(example), str(drawn)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{example.name} fails:\n{done.stdout}\n{done.stderr}")
    found = {"printed": done.stdout, "figures": json.loads(drawn.read_text())}
    drawn.unlink()
    kept.write_text(json.dumps(found))
    return found


def in_colours_of_the_page(svg: str) -> str:
    """A figure without its header, its black in the colour of the text around, on one line for each element."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = body.replace("#000000", "currentColor").replace("<text ", '<text fill="currentColor" ')
    return re.sub(r"\n\s*\n", "\n", body)


def section(example: Path) -> str:
    """The part of the page about one program."""
    tree = ast.parse(example.read_text())
    words = " ".join((ast.get_docstring(tree) or example.stem).split())
    result = result_of(example)
    figures = "".join(f'<div class="figure">{in_colours_of_the_page(svg)}</div>\n' for svg in result["figures"])
    printed = html.escape(result["printed"].rstrip())
    return (
        f"\n## {example.stem.replace('_', ' ').capitalize()}\n\n{words}\n\n"
        f'<pre class="printed"><code>{printed}</code></pre>\n\n{figures}\n'
        f'??? example "examples/{example.name}"\n\n    ```python\n'
        + "".join(f"    {line}\n" for line in example.read_text().splitlines())
        + "    ```\n"
    )


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill the gallery."""
    if page.file.src_uri != "gallery.md":
        return markdown
    return markdown + "".join(section(example) for example in sorted(EXAMPLES.glob("*.py")))
