"""Export files: what is loaded is what was saved, the size is what the sparsity promises, damage is one clear error."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import sparseflow as sf

pytest.importorskip("safetensors")

from sparseflow.engine.convert import convert, dense_state_dict, masks_of, sparse_layers, to_dense
from sparseflow.engine.files.export import load, load_state, save
from sparseflow.engine.files.packing import pack, unpack
from sparseflow.sealed import tensor_bytes


def network(*, dtype: torch.dtype = torch.float32, groups: int = 2) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, groups=groups, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 30),
        nn.ReLU(),
        nn.Linear(30, 5),
    ).to(dtype)


def masked(model: nn.Module, *, sparsity: float = 0.9) -> dict[str, Tensor]:
    masks = sf.random_masks(model, sparsity, seed=0)
    sf.apply_masks_(model, masks)
    return masks


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


# -- places ----------------------------------------------------------------------------------------------------------


@given(st.sets(st.one_of(st.integers(0, 300), st.integers(0, 2**20), st.integers(0, 2**33))))
def test_places_come_back(places: set[int]) -> None:
    positions = np.array(sorted(places), np.int64)
    codes = pack(positions)
    assert codes.dtype in (np.uint8, np.uint16)
    assert np.array_equal(unpack(codes), positions)


@pytest.mark.parametrize("last", [254, 255, 256, 510, 65534, 65535, 65536])
def test_gaps_at_the_edges_of_the_types(last: int) -> None:
    positions = np.array([0, last], np.int64)
    assert unpack(pack(positions)).tolist() == [0, last]


@pytest.mark.parametrize(("density", "size"), [(0.5, 1.0), (0.05, 1.0), (0.01, 1.09), (0.0005, 2.0)])
def test_bytes_of_a_place(density: float, size: float) -> None:
    # In closed form: gaps are geometric, so a place takes 1 + q / (1 - q) bytes with q = (1 - density)^255, or 2.
    q = (1 - density) ** 255
    assert math.isclose(min(1 + q / (1 - q), 2.0), size, rel_tol=0.02)
    positions = np.flatnonzero(np.random.default_rng(0).random(2_000_000) < density)
    assert pack(positions).nbytes / len(positions) == pytest.approx(size, rel=0.05)


# -- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sparse_model_comes_back(path: Path, dtype: torch.dtype) -> None:
    model = network(dtype=dtype)
    model(torch.randn(16, 2, 6, 6, dtype=dtype))  # statistics of its own
    sparse = convert(model, masked(model)).eval()
    sparse_layers(sparse)["4.weight"].values.data[3] = 0.0  # an active weight that is zero, as grown ones are
    save(sparse, path)
    state, expected = load_state(path), dense_state_dict(sparse)
    assert state.keys() == expected.keys()
    assert all(
        torch.equal(state[name], tensor) and state[name].dtype == tensor.dtype for name, tensor in expected.items()
    )
    given = network(dtype=dtype).eval()
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    loaded = load(given, path)
    x = torch.randn(4, 2, 6, 6, dtype=dtype)
    assert torch.equal(loaded(x), sparse(x))
    assert all(torch.equal(mask, masks_of(sparse)[name]) for name, mask in masks_of(loaded).items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.state_dict().items())


@pytest.mark.parametrize("form", [nn.Module, dict])
def test_a_masked_model_and_its_state_give_the_same_content(path: Path, form: type) -> None:
    model = network()
    masks = masked(model)
    save(model if form is nn.Module else model.state_dict(), path)
    loaded = load(network(), path)
    assert set(sparse_layers(loaded)) == set(masks)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in dense_state_dict(loaded).items())


def test_masks_keep_active_zeros_and_drop_the_rest(path: Path) -> None:
    model = nn.Linear(5, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0, 3.0, 4.0, 5.0]]))
    save(model, path, masks={"weight": torch.tensor([[True, True, False, False, False]])})
    assert load_state(path)["weight"].tolist() == [[1.0, 0.0, 0.0, 0.0, 0.0]]
    assert masks_of(load(nn.Linear(5, 1), path))["weight"].tolist() == [[True, True, False, False, False]]


def test_only_holds_the_named_weights_sparse(path: Path) -> None:
    model = network().eval()
    masked(model)
    save(model, path)
    loaded = load(network().eval(), path, only=["4.weight"])
    assert list(sparse_layers(loaded)) == ["4.weight"]
    x = torch.randn(2, 2, 6, 6)
    torch.testing.assert_close(loaded(x), model(x))


def test_weights_without_a_sparse_form_are_small_too_and_come_back_dense(path: Path) -> None:
    model = nn.ModuleDict({"gru": nn.GRU(32, 64), "head": nn.Linear(64, 32)})
    masked(model, sparsity=0.95)
    dense, sparse = save(model, path)
    assert sparse < 0.2 * dense
    loaded = load(nn.ModuleDict({"gru": nn.GRU(32, 64), "head": nn.Linear(64, 32)}), path)
    assert set(sparse_layers(loaded)) == {"head.weight"}
    assert torch.equal(loaded["gru"].weight_ih_l0, model["gru"].weight_ih_l0)


class Tied(nn.Module):
    """Embedding and output share one weight; one layer is called under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 20)
        self.body = self.again = nn.Linear(20, 20)
        self.out = nn.Linear(20, 50)
        self.out.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.again(self.body(self.embedding(tokens))))


def test_tied_weights_are_written_once(path: Path) -> None:
    model = Tied()
    masks = {"body.weight": torch.rand(20, 20) < 0.1}
    sparse = convert(model, masks)
    dense, size = save(sparse, path)
    assert size < 4 * (50 * 20 + 20 + 50) + 5 * 60 + 2000  # the embedding once
    assert dense == 4 * 2 * (50 * 20 + 20 * 20 + 20) + 4 * 50
    loaded = load(Tied(), path)
    tokens = torch.arange(50)
    assert torch.equal(loaded(tokens), sparse(tokens))
    assert loaded.out.weight is loaded.embedding.weight


@pytest.mark.parametrize("count", [0, 1, 12])
def test_empty_full_and_single(path: Path, count: int) -> None:
    model = nn.Linear(4, 3)
    mask = torch.zeros(12, dtype=torch.bool).index_fill_(0, torch.arange(count), True).view(3, 4)
    sparse = convert(model, {"weight": mask})
    save(sparse, path)
    assert torch.equal(load_state(path)["weight"], to_dense(sparse).weight)
    assert load(nn.Linear(4, 3), path).values.shape == (count,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_stored_and_loaded_dense(path: Path, dtype: torch.dtype) -> None:
    model = nn.Linear(100, 10).to(dtype)
    masked(model)
    dense, size = save(model, path)
    assert size < dense
    assert torch.equal(load(nn.Linear(100, 10).to(dtype), path).weight, model.weight)


@pytest.mark.parametrize("sparsity", [0.9, 0.95, 0.98])
def test_the_size_is_what_the_sparsity_promises(path: Path, sparsity: float) -> None:
    model = nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 1024))
    masked(model, sparsity=sparsity)
    dense, size = save(model, path)
    assert dense == 4 * (2 * 1024 * 1024 + 2 * 1024)
    active = sum(int(weight.count_nonzero()) for weight in (model[0].weight, model[1].weight))
    rest = 4 * 2 * 1024
    assert size == path.stat().st_size
    assert 5 * active < size - rest < 5.05 * active + 1500  # 1500: names, shapes, checksum


def test_a_dense_model_stays_dense(path: Path) -> None:
    dense, size = save(nn.Linear(100, 100), path)
    assert dense < size < dense + 1000
    assert isinstance(load(nn.Linear(100, 100), path), nn.Linear)


# -- bad input -------------------------------------------------------------------------------------------------------


def test_any_flipped_bit_and_any_cut_is_refused(path: Path) -> None:
    model = nn.Linear(10, 4)
    masked(model, sparsity=0.5)
    save(model, path)
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(ValueError, match=r"another kind|version|damaged"):
            load_state(path)
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"model.safetensors is damaged \(.*\). Export the model again"):
            load_state(path)


def test_files_of_something_else_are_refused(path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load_state(path)
    safetensors.save_file({"w": torch.ones(3)}, path)
    with pytest.raises(ValueError, match=r"is another kind of safetensors file, .* sparseflow export"):
        load_state(path)
    safetensors.save_file({"w": torch.ones(3)}, path, metadata={"format": "sparseflow sparse model", "version": "7"})
    with pytest.raises(ValueError, match=r"has version 7 of the format, this sparseflow reads 1. Update it"):
        load_state(path)


def forged(gaps: Tensor, values: Tensor, *, shape: tuple[int, ...] = (2, 4)) -> bytes:
    """A file with a right checksum over wrong content."""
    tensors = {"weight:gaps": gaps, "weight:values": values}
    return sealed(tensors, {"shapes": {"weight": shape}, "groups": {}, "tied": {}})


def sealed(tensors: dict[str, Tensor], header: dict[str, object]) -> bytes:
    return tensor_bytes(tensors, format="sparseflow sparse model", version="1", header=json.dumps(header))


@pytest.mark.parametrize(
    ("gaps", "values", "message"),
    [
        (torch.tensor([1, 0], dtype=torch.uint8), torch.ones(2), "must ascend without repetition"),
        (torch.tensor([1, 9], dtype=torch.uint8), torch.ones(2), r"within \[0, 8\)"),
        (torch.tensor([1, 2], dtype=torch.uint8), torch.ones(3), "it has 3 values for 2 places"),
        (torch.tensor([1, 255], dtype=torch.uint8), torch.ones(1), "it has 1 values for 1 places"),
        (torch.tensor([1, -1], dtype=torch.int32), torch.ones(2), "gaps a row of uint8 or uint16, got .*int32"),
        (torch.tensor([1, 2], dtype=torch.uint8), torch.ones(2, dtype=torch.int64), "must be floating point .*int64"),
        (torch.tensor([[1, 2]], dtype=torch.uint8), torch.ones(2), "a row of"),
    ],
    ids=["duplicate", "outside", "too many values", "open end", "signed gaps", "whole values", "axes"],
)
def test_wrong_indices_are_refused(path: Path, gaps: Tensor, values: Tensor, message: str) -> None:
    path.write_bytes(forged(gaps, values))
    with pytest.raises(ValueError, match=rf"model.safetensors is not valid at 'weight': .*{message}"):
        load_state(path)


def blocks(path: Path) -> Tensor:
    """The file of a weight in blocks, and that weight."""
    weight = torch.tensor([[1.0, 0, 2, 0]]).repeat(4, 1) * torch.arange(1.0, 5)[:, None]
    save({"weight": weight}, path, masks={"weight": weight != 0})
    return weight


def test_a_weight_in_blocks_has_one_place_a_block(path: Path) -> None:
    weight = blocks(path)
    assert torch.equal(load_state(path)["weight"], weight)
    assert pytest.importorskip("safetensors.torch").load_file(path)["weight:gaps"].tolist() == [0, 2]


def test_a_file_with_a_place_for_each_weight_of_a_block_is_read(path: Path) -> None:
    """As files were written before there were blocks."""
    values, gaps = torch.arange(1.0, 9), torch.tensor([0, 2, 2, 2, 2, 2, 2, 2], dtype=torch.uint8)
    path.write_bytes(forged(gaps, values, shape=(4, 4)))
    loaded = load(nn.Linear(4, 4, bias=False), path)
    assert loaded.pattern.block == 4
    assert loaded.dense_weight().tolist() == [[1, 0, 2, 0], [3, 0, 4, 0], [5, 0, 6, 0], [7, 0, 8, 0]]


@pytest.mark.parametrize(
    ("shape", "block", "message"),
    [((6, 4), 4, "blocks of 4 outputs do not divide 6"), ((8, 4), 2, "are neither 1 nor 4")],
    ids=["outputs", "height"],
)
def test_blocks_that_do_not_fit_are_refused(path: Path, shape: tuple[int, int], block: int, message: str) -> None:
    tensors = {"weight:gaps": torch.tensor([0], dtype=torch.uint8), "weight:values": torch.ones(block)}
    header = {"shapes": {"weight": shape}, "groups": {}, "tied": {}, "blocks": {"weight": block}}
    path.write_bytes(sealed(tensors, header))
    with pytest.raises(ValueError, match=rf"not valid at 'weight': .*{message}"):
        load_state(path)


def test_a_weight_without_its_places_is_refused(path: Path) -> None:
    header = {"shapes": {"weight": (2, 4)}, "groups": {}, "tied": {}}
    path.write_bytes(sealed({"weight:values": torch.ones(2)}, header))
    with pytest.raises(ValueError, match="but not both of weight:values and weight:gaps"):
        load_state(path)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: network()[:5], "of another model: it lacks nothing and has '6.bias', '6.weight' beyond it"),
        (lambda: nn.Sequential(*network(), nn.Linear(5, 5)), "it lacks '7.bias', '7.weight' and has nothing beyond it"),
        (
            lambda: nn.Sequential(*network()[:6], nn.Linear(30, 6)),
            r"'6.(bias|weight)' has shape \(5,.*\) there, \(6,.*\) here",
        ),
        (lambda: network(dtype=torch.float64), r"as torch.float32, the model as torch.float64. Convert it: model.to\("),
        (
            lambda: nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), *network()[1:]),
            "'0.weight' has 2 groups there, 1 here",
        ),
        (
            lambda: convert(network(), masked(network())),
            "must be the dense architecture; give sparseflow.engine.to_dense",
        ),
    ],
    ids=["fewer", "more", "shape", "dtype", "groups", "sparse"],
)
def test_another_model_is_refused(path: Path, other: Callable[[], nn.Module], message: str) -> None:
    model = network()
    masked(model)
    save(model, path)
    with pytest.raises(ValueError, match=message):
        load(other(), path)


def test_what_cannot_be_saved(path: Path) -> None:
    with pytest.raises(TypeError, match=r"must hold tensors, got 'epoch': int. Give model.state_dict\(\)"):
        save({"weight": torch.ones(2, 2), "epoch": 3}, path)  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"masks has 'w', which is no weight"):
        save(nn.Linear(2, 2), path, masks={"w": torch.ones(2, 2).bool()})
    assert not path.exists()


def test_a_full_disk_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = nn.Linear(4, 4)
    save(old, path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="half-written"):
        save(nn.Linear(4, 4), path)
    assert os.listdir(path.parent) == [path.name]
    assert torch.equal(load_state(path)["weight"], old.weight)


def test_without_safetensors_the_error_names_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    with pytest.raises(ModuleNotFoundError, match="files of tensors need safetensors: pip install safetensors"):
        save(nn.Linear(2, 2), path)


def test_the_path_is_second(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"the model first, then the path: sparseflow\.engine\.load\(model, path\)"):
        load(tmp_path / "model.safetensors", nn.Linear(1, 1))  # type: ignore[arg-type]
