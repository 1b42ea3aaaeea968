"""The benchmark of runtimes: its page shows the committed numbers, and a runtime that is not there is listed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is beside the package, not in it

from benchmarks import runtimes  # noqa: E402
from benchmarks.table import filled  # noqa: E402


def test_the_page_shows_the_committed_numbers() -> None:
    result, text = json.loads(runtimes.RESULT.read_text()), runtimes.PAGE.read_text()
    assert filled(text, "runtimes", runtimes.markdown(result)) == text, "run python -m benchmarks.runtimes"
    assert result["rows"].keys() | result["not_run"].keys() == runtimes.RUNTIMES.keys()


@pytest.mark.parametrize("name", ["engine", "torch", "torch.export"])
def test_a_runtime_computes_the_network(name: str) -> None:
    cells = runtimes.measured(name, smoke=True)
    assert [(cell["network"], cell["batch"]) for cell in cells] == [
        (network, batch) for network in runtimes.NETWORKS for batch in runtimes.BATCHES
    ]
    assert max(cell["error"] for cell in cells) < runtimes.TOLERANCE
    assert all(cell["seconds"] > 0 and cell["num_bytes"] > 0 for cell in cells)


def test_what_is_not_installed_is_listed_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    row = runtimes.RUNTIMES["openvino"]._replace(package="no-such-package")
    monkeypatch.setitem(runtimes.RUNTIMES, "openvino", row)
    result = runtimes.run(["openvino"], smoke=True)
    assert result["not_run"] == {"openvino": "no-such-package is not installed"}
    assert "Not run: OpenVINO, no-such-package is not installed." in runtimes.markdown(result)
