"""The command ``import``: what it prints and writes, and that bad input is one line and no file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import sparseflow as sf
from sparseflow.cli.main import main

safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")

LEFT = Path(__file__).parent.parent / "formats" / "left"


def test_what_was_found_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["import", str(LEFT / "tensors.safetensors"), "--out", str(tmp_path / "out")])
    first, *_, total, files, _ = capsys.readouterr().out.splitlines()
    assert first.split() == ["conv.weight", "4", "x", "3", "x", "3", "x", "3", "0.5741", "sparse-bitmask"]
    assert total == "6 of 7 tensors are sparse, with 0.5787 zeros."
    assert files == f"{tmp_path / 'out'}: masks.safetensors, model.safetensors"
    state = safetensors.load_file(tmp_path / "out" / "model.safetensors")
    masks = sf.load_masks(tmp_path / "out" / "masks.safetensors")
    expected = safetensors.load_file(LEFT / "tensors-dense.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert all(torch.equal(mask, expected[name] != 0) for name, mask in masks.items())


def test_beside_the_source_by_default(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.eye(3)}, tmp_path / "net.pt")
    main(["import", str(tmp_path / "net.pt")])
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "masks.safetensors",
        "model.safetensors",
        "net-imported",
        "net.pt",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "there is no file and no folder nowhere"),
        ("broken.safetensors", "broken.safetensors is damaged ("),
        ("dense.pt", "dense.pt: nothing in it is sparse: "),
        ("cut.safetensors", "cut.safetensors: of 'fc.weight': its bitmask has 1 bits that are set, for 2 values"),
    ],
)
def test_bad_input_is_one_line_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.safetensors").write_bytes((LEFT / "tensors.safetensors").read_bytes()[:-1])
    torch.save({"fc.weight": torch.ones(3, 3)}, "dense.pt")
    parts = {"bitmask": torch.tensor([[1]], dtype=torch.uint8), "compressed": torch.ones(2)}
    parts |= {"shape": torch.tensor([1, 3]), "row_offsets": torch.tensor([0])}
    safetensors.save_file({f"fc.{part}": tensor for part, tensor in parts.items()}, "cut.safetensors")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main(["import", name])
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (2, "")
    (line,) = told.err.strip().splitlines()
    assert re.match(rf"sparseflow: {re.escape(message)}", line)
    assert sorted(tmp_path.rglob("*")) == before
