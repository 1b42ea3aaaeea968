"""Files of the versions before this one, byte for byte as those wrote them, mean what they meant.

``tests/golden/<version>/`` is written once by ``python tests/helpers/write_golden.py`` (with ``PYTHONPATH=src``) and
never again: where a format changes, its version is counted up, and this test says what the older one is now.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

import sparseflow as sf
from formats import CONFIG, FINAL, MASKS, WEIGHTS, plain, sparsifier
from sparseflow.engine.files.export import load, load_state
from sparseflow.sealed import SUMS
from sparseflow.training.runs import final_state, load_run, load_runs, read_snapshot
from sparseflow.training.store import RunStore
from write_golden import BLOCKS, ENGINE, GOLDEN, MASK_FILE, RUNS, STATE, places, tiny_network

VERSIONS = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())
ROOT = Path(__file__).parent.parent
#: A page or a table of runs in each folder of results.
RESULTS = [path for name in ("index.html", "runs.csv") for path in (ROOT / "results").rglob(name)]


@pytest.fixture(params=VERSIONS)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy, which a run may lock and continue."""
    return Path(shutil.copytree(GOLDEN / request.param, tmp_path / "golden"))


@pytest.mark.parametrize(
    "folder",
    [
        *(f"tests/golden/{v}" for v in VERSIONS),
        *(folder.relative_to(ROOT).as_posix() for folder in sorted({path.parent for path in RESULTS})),
    ],
)
def test_committed_files_are_whole(folder: str) -> None:
    lines = (ROOT / folder / SUMS).read_text().splitlines()
    listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    files = {path.relative_to(ROOT / folder).as_posix(): path for path in (ROOT / folder).rglob("*") if path.is_file()}
    assert listed.keys() == files.keys() - {SUMS}
    assert {name: hashlib.sha256(files[name].read_bytes()).hexdigest() for name in listed} == listed


def test_masks(golden: Path) -> None:
    loaded = sf.load_masks(golden / MASK_FILE)
    assert plain(loaded) == plain(MASKS)


@pytest.mark.parametrize("name", [ENGINE, BLOCKS])
def test_engine_file(golden: Path, name: str) -> None:
    """With a place for each weight, and with one for each block; both become a network in blocks."""
    made = tiny_network()
    assert sorted(plain(load_state(golden / name))) == sorted(plain(dict(made.state_dict())))
    loaded = load(tiny_network(), golden / name)
    assert [layer.pattern.block for layer in sf.engine.sparse_layers(loaded).values()] == [4, 4]
    assert torch.allclose(loaded(WEIGHTS), made(WEIGHTS), rtol=1e-6)


def test_sparsifier_state(golden: Path) -> None:
    """It is read with weights_only, and training goes on as in a Sparsifier that never stopped."""
    saved = torch.load(golden / STATE, weights_only=True)
    after = json.loads((golden / STATE).with_suffix(".json").read_text())
    made = sparsifier(steps=0)
    made.model.load_state_dict(saved["model"])
    made.optimizers[0].load_state_dict(saved["optimizer"])
    made.load_state_dict(saved["sparsifier"])
    made.check()
    assert made.step_count == 5
    assert places(made.masks["weight"]) == after["masks at 5"]
    sparsifier(made, steps=6)
    assert places(made.masks["weight"]) == after["masks at 11"]
    assert torch.allclose(made.model.weight, torch.tensor(after["weights at 11"]), rtol=1e-6)


def test_run_folder(golden: Path) -> None:
    root = golden / RUNS
    (run,) = load_runs(root)
    assert run.config == CONFIG
    assert run.final == FINAL
    assert run.seconds == 1.5
    assert run.metrics.to_dict("list") == {
        "step": [0, 0, 10, 10],
        "name": ["train/loss", "flow/norm", "train/loss", "test/accuracy"],
        "value": [2.5, 0.125, 0.1, 0.235],
    }
    assert plain(load_run(run.folder).env["sparseflow"])
    assert plain(read_snapshot(CONFIG, 10, root=root)["masks"]) == plain({"weight": MASKS["weight"]})
    assert plain(final_state(CONFIG, root=root)["model"]) == plain({"weight": WEIGHTS * MASKS["weight"]})
    with RunStore(root, CONFIG) as store:
        found = store.latest_checkpoint()
        assert found is not None
        store.truncate_metrics(found[0])
    assert (run.folder / "metrics.jsonl").read_bytes().count(b"\n") == 4
