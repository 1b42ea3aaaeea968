"""Files for other tools, read back by those tools themselves: every entry, also active zeros and empty columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import sparseflow as sf
from sparseflow.formats import FORMATS, write

safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
sparse = pytest.importorskip("scipy.sparse", reason="SciPy is not installed")


def read_scipy(path: Path) -> tuple[tuple[int, ...], np.ndarray, np.ndarray, np.ndarray]:
    matrix = sparse.load_npz(path)
    assert isinstance(matrix, sparse.csr_array)
    assert matrix.has_canonical_format
    return matrix.shape, matrix.indptr, matrix.indices, matrix.data


def read_binsparse(path: Path) -> tuple[tuple[int, ...], np.ndarray, np.ndarray, np.ndarray]:
    binsparse = pytest.importorskip("binsparse", reason="binsparse is not installed")
    matrix = binsparse.load_binsparse(path)
    assert isinstance(matrix, binsparse.CSRMatrix)
    assert matrix.number_of_stored_values == len(matrix.values)
    return matrix.shape, matrix.pointers_to_1, matrix.indices_1, matrix.values


MATRICES: dict[str, Callable[[Path], tuple[tuple[int, ...], np.ndarray, np.ndarray, np.ndarray]]] = {
    "scipy": read_scipy,
    "binsparse": read_binsparse,
}


def network(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, dict[str, Tensor]]:
    """With an active weight that is zero, and a last column and a first row without one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5)).to(dtype)
    masks = sf.random_masks(model, 0.5, seed=0)
    masks["3.weight"][:, -1] = False
    masks["3.weight"][0] = False
    masks["3.weight"][1, 2] = True
    sf.apply_masks_(model, masks)
    model.state_dict()["3.weight"][1, 2] = 0
    return model, masks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("format", MATRICES)
def test_matrices_come_back_entry_by_entry(tmp_path: Path, format: str, dtype: torch.dtype) -> None:
    model, masks = network(dtype)
    size = write(model, tmp_path / "out", format=format, masks=masks)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for name, mask in masks.items():
        shape, begins, columns, values = MATRICES[format](tmp_path / "out" / f"{name}.npz")
        flat, active = model.state_dict()[name].reshape(mask.shape[0], -1), mask.reshape(mask.shape[0], -1)
        assert tuple(shape) == flat.shape
        assert begins.dtype == columns.dtype == np.int32
        assert torch.from_numpy(np.asarray(values)).dtype == wide
        rows = np.repeat(np.arange(shape[0]), np.diff(begins))
        assert np.array_equal(np.stack([rows, columns], 1), active.nonzero().numpy())
        assert torch.equal(torch.from_numpy(np.array(values)), flat[active].to(wide))
    rest = safetensors.load_file(tmp_path / "out" / "dense.safetensors")
    expected = {name: tensor for name, tensor in model.state_dict().items() if name not in masks}
    assert rest.keys() == expected.keys()
    assert all(
        torch.equal(tensor, expected[name]) and tensor.dtype == expected[name].dtype for name, tensor in rest.items()
    )
    assert size == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())


def test_an_active_zero_is_kept_and_counts(tmp_path: Path) -> None:
    model, masks = network()
    write(model, tmp_path, format="scipy", masks=masks)
    matrix = sparse.load_npz(tmp_path / "3.weight.npz")
    assert matrix.nnz == int(masks["3.weight"].sum()) == np.count_nonzero(matrix.data) + 1
    assert matrix.shape == (5, 16)  # though column 15 has no value
    x = torch.randn(3, 16)
    assert np.allclose((matrix @ x.numpy().T).T, x @ model.state_dict()["3.weight"].T, atol=1e-6)


def held(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.sparsifier = sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0)
    return model


@pytest.mark.parametrize("form", ["held", "converted", "converted in part", "masks"])
def test_the_masks_are_those_of_the_model(tmp_path: Path, form: str) -> None:
    """Whoever has them: active zeros of the converted layer, or of the Sparsifier, are there."""
    model, masks = network()
    source: nn.Module = model
    if form == "held":
        held(model, masks)
    elif form == "converted":
        source = sf.engine.convert(model, masks)
    elif form == "converted in part":
        source = sf.engine.convert(model, masks, only=["3.weight"])
    write(source, tmp_path, format="scipy", masks=masks if form == "masks" else None)
    for name, mask in masks.items():
        assert sparse.load_npz(tmp_path / f"{name}.npz").nnz == int(mask.sum())


def test_a_state_dict_and_pruning_of_torch(tmp_path: Path) -> None:
    layer = nn.Linear(8, 4)
    state = {f"module.{name}": tensor for name, tensor in layer.state_dict().items()}
    state["module.weight"] = torch.eye(8)[:4]
    write(state, tmp_path / "state", format="scipy")
    assert np.array_equal(sparse.load_npz(tmp_path / "state" / "weight.npz").toarray(), np.eye(8)[:4])
    prune.l1_unstructured(layer, "weight", 0.5)
    write(layer, tmp_path / "pruned", format="safetensors")
    found = safetensors.load_file(tmp_path / "pruned")
    assert found.keys() == {"weight", "bias"}
    assert torch.equal(found["weight"], layer.weight)


@pytest.mark.parametrize("format", FORMATS)
def test_entries_off_the_masks_are_dropped_and_the_model_is_not_changed(tmp_path: Path, format: str) -> None:
    layer = nn.Linear(8, 4)
    before = layer.weight.detach().clone()
    mask = torch.eye(4, 8, dtype=torch.bool)
    write(layer, tmp_path / "out", format=format, masks={"weight": mask})
    assert torch.equal(layer.weight, before)
    expected = before * mask
    if format == "engine":
        assert torch.equal(sf.engine.load_state(tmp_path / "out")["weight"], expected)
    elif format == "safetensors":
        assert torch.equal(safetensors.load_file(tmp_path / "out")["weight"], expected)
    else:
        shape, _, columns, values = MATRICES[format](tmp_path / "out" / "weight.npz")
        assert (tuple(shape), columns.tolist()) == ((4, 8), [0, 1, 2, 3])
        assert values.tolist() == expected.diagonal().tolist()


def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(8, 4)
    with pytest.raises(ValueError, match=r"format must be one of 'engine', .*, 'scipy', 'binsparse', got 'csr'"):
        write(layer, tmp_path / "out", format="csr")
    with pytest.raises(ValueError, match=r"nothing in the model is sparse: .* Give masks="):
        write(layer, tmp_path / "out", format="scipy")
    with pytest.raises(ValueError, match="masks has 'fc'"):
        write(layer, tmp_path / "out", format="scipy", masks={"fc": torch.ones(1).bool()})
    monkeypatch.setattr("sparseflow.formats.csr._MOST", 31)
    with pytest.raises(ValueError, match="'weight': the weight has 32 entries, and indices of 32 bits count 31"):
        write(layer, tmp_path / "out", format="scipy", masks={"weight": torch.eye(4, 8).bool()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("package", "format"), [("scipy.sparse", "scipy"), ("binsparse", "binsparse")])
def test_without_the_package_the_error_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, format: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=f"pip install {format}"):
        write({"weight": torch.eye(3)}, tmp_path / "out", format=format)
