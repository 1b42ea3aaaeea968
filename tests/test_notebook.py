"""The notebook runs from an empty kernel, whose first cell installs the package, and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "examples" / "first_steps.ipynb"


def test_the_notebook_runs(tmp_path: Path) -> None:
    book = nbformat.read(NOTEBOOK, as_version=4)
    (install,) = (cell for cell in book.cells if "install" in cell.metadata.get("tags", []))
    assert install.source == '%pip install --quiet "sparseflow[lab]"'  # installed here already, from this tree
    assert not any(cell.get("outputs") for cell in book.cells)  # outputs are made anew by whoever runs it
    book.cells.remove(install)
    NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    accuracies = [float(number) for number in re.findall(r"([\d.]+)% (?:of the test digits )?right", printed)]
    assert len(accuracies) == 3
    assert min(accuracies) > 85
    assert "sparsity 95.0%" in printed
    assert any("image/png" in output.get("data", {}) for output in outputs)
