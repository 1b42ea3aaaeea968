"""ONNX export: the graph computes what the model computes, by onnx's own reference evaluator."""

from __future__ import annotations

import copy
import logging
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.engine.convert import convert
from sparseflow.engine.files.onnx import to_onnx
from sparseflow.sealed import read_with_digest


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, groups=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(96, 10),
        nn.ReLU(),
        nn.Linear(10, 3),
    )


def evaluated(path: Path, *inputs: Tensor) -> list[Tensor]:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install sparseflow[onnx]")
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    names = [entry.name for entry in graph.graph.input]
    evaluator = onnx.reference.ReferenceEvaluator(graph)
    values = evaluator.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
    return [torch.from_numpy(value) for value in values]


@pytest.fixture
def _exporter() -> None:
    for name in ("onnx.reference", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install sparseflow[onnx]")


@pytest.mark.usefixtures("_exporter")
@pytest.mark.parametrize("is_sparse", [True, False])
def test_the_graph_computes_what_the_model_does(tmp_path: Path, is_sparse: bool) -> None:
    model = network()
    masks = sf.random_masks(model, 0.8, seed=0)
    sf.apply_masks_(model, masks)
    model(torch.randn(16, 2, 8, 8))  # statistics of its own
    given = convert(model, masks) if is_sparse else model
    before = copy.deepcopy(given.state_dict())
    size = to_onnx(given, torch.randn(1, 2, 8, 8), tmp_path / "model.onnx")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.onnx", "model.onnx.sha256"]
    read_with_digest(tmp_path / "model.onnx", cure="")
    assert size == (tmp_path / "model.onnx").stat().st_size
    assert given.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.state_dict().items())
    expected = model.eval()
    for batch in (1, 5):  # another batch than the example's
        x = torch.randn(batch, 2, 8, 8)
        torch.testing.assert_close(evaluated(tmp_path / "model.onnx", x), [expected(x).detach()], atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("_exporter")
def test_several_inputs_and_tokens(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.layer(x) * scale  # type: ignore[no-any-return]

    model = Scaled()
    sparse = convert(model, sf.random_masks(model, 0.5, seed=0))
    to_onnx(sparse, (torch.randn(3, 7, 6), torch.randn(3, 1, 1)), str(tmp_path / "model.onnx"))
    inputs = torch.randn(2, 7, 6), torch.randn(2, 1, 1)
    torch.testing.assert_close(evaluated(tmp_path / "model.onnx", *inputs), [sparse(*inputs).detach()])


@pytest.mark.usefixtures("_exporter")
def test_the_exporter_is_quiet_and_leaves_settings(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    level = logging.getLogger("torch.onnx").level
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_onnx(nn.Linear(3, 2), torch.randn(2, 3), tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("torch.onnx").level == level


@pytest.mark.usefixtures("_exporter")
def test_a_model_beyond_the_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparseflow.engine.files.onnx._LARGEST", 100)
    with pytest.raises(ValueError, match=r"has 484 bytes, and an ONNX file at most 100. Use sparseflow.engine.save"):
        to_onnx(nn.Linear(10, 11), torch.randn(2, 10), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_without_onnx_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    if package == "onnxscript":
        pytest.importorskip("onnx", reason="onnx is not installed")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf'needs {package}: pip install "sparseflow\[onnx\]"'):
        to_onnx(nn.Linear(3, 2), torch.randn(2, 3), tmp_path / "model.onnx")


# -- sparse initializers -----------------------------------------------------------------------------------------------


def ran(path: Path, x: Tensor) -> Tensor:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(found)


@pytest.mark.usefixtures("_exporter")
def test_sparse_initializers_compute_what_the_model_does_in_a_smaller_file(tmp_path: Path) -> None:
    """Read by onnxruntime; the number of bytes is 12 for an active weight, within what the graph itself takes."""
    onnx = pytest.importorskip("onnx")
    model = network()
    masks = sf.random_masks(model, 0.9, allocation="uniform", seed=0)
    sf.apply_masks_(model, masks)
    sparse = to_onnx(convert(model, masks), torch.randn(1, 2, 8, 8), tmp_path / "sparse.onnx", sparse=True)
    dense = to_onnx(model, torch.randn(1, 2, 8, 8), tmp_path / "dense.onnx")
    held = {s.values.name: list(s.dims) for s in onnx.load(tmp_path / "sparse.onnx").graph.sparse_initializer}
    assert held == {name: list(mask.shape) for name, mask in masks.items()}
    saved = sum(4 * mask.numel() - 12 * int(mask.sum()) for mask in masks.values())
    assert abs(dense - sparse - saved) < 100 * len(masks)
    for batch in (1, 5):
        x = torch.randn(batch, 2, 8, 8)
        found = ran(tmp_path / "sparse.onnx", x)
        assert torch.equal(found, ran(tmp_path / "dense.onnx", x))
        torch.testing.assert_close(found, model.eval()(x).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("_exporter")
def test_what_is_not_smaller_stays_dense(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 8))
    masks = {"0.weight": torch.rand(32, 64) < 0.3, "1.weight": torch.rand(8, 32) < 0.4}
    for name, mask in masks.items():
        model.state_dict()[name].mul_(mask)  # leaves negative zeros
    to_onnx(model, torch.randn(2, 64), tmp_path / "m.onnx", sparse=True)
    graph = pytest.importorskip("onnx").load(tmp_path / "m.onnx").graph
    assert [s.values.name for s in graph.sparse_initializer] == ["0.weight"]
    with pytest.raises(ValueError, match="no weight is smaller as a sparse initializer"):
        to_onnx(nn.Linear(9, 9), torch.randn(2, 9), tmp_path / "dense.onnx", sparse=True)
    assert not (tmp_path / "dense.onnx").exists()


@pytest.mark.usefixtures("_exporter")
@pytest.mark.parametrize("fault", ["dropped", "other"])
def test_a_weight_that_is_lost_or_changed_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    pytest.importorskip("onnxruntime")
    from sparseflow.engine.files import onnx_sparse

    whole = onnx_sparse.make_sparse_

    def broken(graph: object) -> object:
        moved = whole(graph)
        (weight,) = graph.sparse_initializer  # type: ignore[attr-defined]
        if fault == "dropped":
            del graph.sparse_initializer[:]  # type: ignore[attr-defined]
        else:
            weight.values.raw_data = bytes(len(weight.values.raw_data))
        return moved

    monkeypatch.setattr(onnx_sparse, "make_sparse_", broken)
    message = (
        "has the sparse weights \\[\\], not" if fault == "dropped" else "computes other outputs from sparse weights"
    )
    layer = sf.apply_masks_(nn.Linear(64, 8), {"weight": torch.rand(8, 64) < 0.1})
    with pytest.raises(RuntimeError, match=message):
        to_onnx(layer, torch.randn(2, 64), tmp_path / "m.onnx", sparse=True)
    assert list(tmp_path.iterdir()) == []
