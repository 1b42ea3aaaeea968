"""Sparse layers as other people's code looks at them: like the layers that they replace."""

from __future__ import annotations

import copy
import pickle
import re
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.engine.forms import why_not
from sparseflow.engine.layers.dense_view import DenseView
from sparseflow.rng import stream

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(6, 4),
    "linear without bias": lambda: nn.Linear(6, 4, bias=False),
    "conv1d": lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2),
    "conv2d": lambda: nn.Conv2d(4, 6, (3, 1), stride=2, padding=(2, 0), groups=2),
    "conv2d, same": lambda: nn.Conv2d(4, 6, 3, padding="same"),
}


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    layer = LAYERS[name]().double()
    masks = {"weight": torch.rand(layer.weight.shape, generator=stream(0, "mask")) < 0.5}
    sf.apply_masks_(layer, masks)
    layer.is_head = True
    layer.train(False)
    return layer, sf.engine.convert(layer, masks)


@pytest.mark.parametrize("name", LAYERS)
def test_a_sparse_layer_has_the_attributes_of_the_dense_one(name: str) -> None:
    dense, sparse = pair(name)
    own = [key for key in vars(dense) if not key.startswith("_")]
    assert {"in_features", "out_features"} <= set(own) or {"stride", "padding_mode", "transposed"} <= set(own)
    assert {key: getattr(sparse, key) for key in own} == {key: getattr(dense, key) for key in own}
    assert (sparse.bias is None) == (dense.bias is None)
    again = sf.engine.to_dense(sparse)
    assert {key: getattr(again, key) for key in own} == {key: getattr(dense, key) for key in own}
    assert repr(again) == repr(dense)


@pytest.mark.parametrize("name", LAYERS)
def test_the_weight_reads_as_the_dense_one(name: str) -> None:
    dense, sparse = pair(name)
    seen, want = sparse.weight, dense.weight
    for attribute in ("shape", "dtype", "device", "ndim", "requires_grad", "layout", "is_cuda", "itemsize", "nbytes"):
        assert getattr(seen, attribute) == getattr(want, attribute), attribute
    for method in ("size", "dim", "numel", "element_size", "stride", "is_contiguous", "tolist", "is_floating_point"):
        assert getattr(seen, method)() == getattr(want, method)(), method
    assert torch.equal(seen, want)
    assert len(seen) == len(want)
    assert torch.equal(seen.flatten(1).norm(dim=1), want.flatten(1).norm(dim=1))
    assert torch.equal(seen.data, want.data)
    assert not seen.data.requires_grad
    assert type(seen * 2) is Tensor


def test_shape_and_dtype_of_a_weight_make_no_dense_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    _, sparse = pair("linear")
    monkeypatch.setattr("sparseflow.engine.layers.dense_view._scattered", lambda *_: pytest.fail("made"))
    weight = sparse.weight
    assert (weight.shape, weight.dtype, weight.device.type, weight.size(0)) == ((4, 6), torch.float64, "cpu", 4)


def test_gradients_of_the_weight_reach_the_values() -> None:
    _, sparse = pair("linear")
    assert sparse.weight.grad is None
    nn.functional.linear(torch.ones(1, 6, dtype=torch.float64), sparse.weight).sum().backward()
    assert torch.equal(sparse.values.grad, torch.ones_like(sparse.values))
    assert torch.equal(sparse.weight.grad, sparse.mask().double())


WRITES: dict[str, Callable[[Tensor], Any]] = {
    "zero_": lambda w: w.zero_(),
    "normal_": nn.init.normal_,
    "xavier_uniform_": lambda w: nn.init.xavier_uniform_(tensor=w),
    "copy_": lambda w: w.data.copy_(torch.ones(4, 6)),
    "__setitem__": lambda w: w.__setitem__(0, 1.0),
    "__iadd__": lambda w: w.data.__iadd__(1),
    "add": lambda w: torch.add(torch.ones(4, 6), 1, out=w.data),
    "data": lambda w: setattr(w, "data", torch.ones(4, 6)),
    "requires_grad": lambda w: setattr(w, "requires_grad", False),
    "_foreach_mul_": lambda w: torch._foreach_mul_([w], 2),
}


@pytest.mark.parametrize("name", WRITES)
def test_what_would_write_to_the_weight_is_refused(name: str) -> None:
    _, sparse = pair("linear")
    before = sparse.values.detach().clone()
    with (
        torch.no_grad(),
        pytest.raises(RuntimeError, match=r"would write to the weight of a sparse .*layer\.values"),
    ):
        WRITES[name](sparse.weight)
    assert torch.equal(sparse.values, before)
    assert isinstance(sparse.weight, DenseView)


def test_an_attribute_that_is_not_there_says_why() -> None:
    _, sparse = pair("linear")
    with pytest.raises(AttributeError, match=r"no attribute 'stride': it takes the place of an nn\.Linear.*to_dense"):
        sparse.stride  # noqa: B018
    assert not hasattr(sparse, "weight_orig")


class Recorder(nn.Module):
    """A model whose own method is a hook of its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Size] = []
        self.layer = nn.Linear(6, 4)
        self.layer.register_forward_hook(self.see)

    def see(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.seen.append(output.shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


def test_hooks_come_along_and_belong_to_the_copy() -> None:
    model = Recorder()
    sparse = sf.engine.convert(model, sf.random_masks(model, 0.5, seed=0))
    sparse(torch.ones(2, 6))
    assert (len(model.seen), len(sparse.seen)) == (0, 1)  # type: ignore[arg-type]
    dense = sf.engine.to_dense(sparse)
    dense(torch.ones(2, 6))
    assert (len(sparse.seen), len(dense.seen)) == (1, 2)  # type: ignore[arg-type]
    assert type(dense.layer) is nn.Linear


def pruned() -> nn.Module:
    layer = nn.Linear(6, 6)
    torch.nn.utils.prune.l1_unstructured(layer, "weight", 0.5)
    return layer


def with_forward() -> nn.Module:
    layer = nn.Linear(6, 6)
    layer.forward = types.MethodType(lambda self, x: nn.functional.linear(x, self.weight, self.bias) * 2, layer)  # type: ignore[method-assign]
    return layer


class Doubled(nn.Linear):
    """A subclass that uses its weight in its own way."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, 2 * self.weight, self.bias)


def with_more() -> nn.Module:
    layer = nn.Linear(6, 6)
    layer.register_parameter("lora", nn.Parameter(torch.ones(1)))
    return layer


def old_weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning, match="weight_norm"):
        return nn.utils.weight_norm(nn.Linear(6, 6))


KEPT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "pruned": (pruned, r"a hook makes its weight from weight_orig and weight_mask .*prune\.remove\(layer, 'weight'\)"),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)), "no sparse form of Parametrized"),
    "old weight norm": (old_weight_norm, "a hook makes its weight from weight_g and weight_v at each call$"),
    "spectral norm": (lambda: nn.utils.spectral_norm(nn.Linear(6, 6)), "a hook makes its weight from weight_orig"),
    "subclass": (lambda: Doubled(6, 6), "no sparse form of Doubled"),
    "another forward": (with_forward, "its forward was replaced by another function"),
    "more parameters": (with_more, "it has parameters of its own: lora"),
    "half": (lambda: nn.Linear(6, 6).half().float().bfloat16(), "torch.bfloat16 on cpu"),
    "meta": (lambda: nn.Linear(6, 6, device="meta"), "torch.float32 on meta"),
}


@pytest.mark.parametrize("name", KEPT)
def test_layers_that_are_not_what_they_seem_stay_as_they_are(name: str) -> None:
    make, reason = KEPT[name]
    layer = make()
    assert re.search(reason, str(why_not(layer)))
    model = nn.Sequential(nn.Linear(6, 6), layer)
    masks = {"0.weight": torch.rand(6, 6, generator=stream(0, "mask")) < 0.5}
    sf.apply_masks_(model, masks)
    sparse = sf.engine.convert(model, masks)
    assert list(sf.engine.sparse_layers(sparse)) == ["0.weight"]
    if name not in ("half", "meta"):
        x = torch.randn(3, 6, generator=stream(0, "x"))
        model.eval()
        sparse.eval()
        torch.testing.assert_close(sparse(x), model(x))
        torch.testing.assert_close(sf.engine.to_dense(sparse)(x), model(x))


@pytest.mark.parametrize("name", LAYERS)
def test_copies_and_pickles_keep_everything(name: str) -> None:
    dense, sparse = pair(name)
    x = torch.randn(2, 4, *([9] * (dense.weight.dim() - 2)) or [6], dtype=torch.float64, generator=stream(0, "x"))
    for twin in (copy.deepcopy(sparse), pickle.loads(pickle.dumps(sparse)), copy.deepcopy(copy.copy(sparse))):
        assert twin.is_head
        torch.testing.assert_close(twin(x), dense(x))
        assert torch.equal(twin.values, sparse.values)
        assert twin.values is not sparse.values


class Two(nn.Module):
    """A model of two inputs, that calls its layer by keyword and returns a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, u: Tensor, v: Tensor) -> dict[str, Tensor]:
        return {"logits": self.layer(input=u + v)}


@pytest.mark.parametrize("form", [tuple, list, lambda pair: {"u": pair[0], "v": pair[1], "labels": torch.zeros(3)}])
def test_examples_are_whatever_a_model_takes(form: Callable[[Any], Any]) -> None:
    model = Two()
    masks = sf.random_masks(model, 0.5, seed=0)
    sf.apply_masks_(model, masks)
    pair = (torch.randn(3, 6, generator=stream(0, "u")), torch.randn(3, 6, generator=stream(0, "v")))
    fast, table = sf.compile_sparse(model, form(pair), masks=masks, seconds=0.0)
    assert table.conditions.batch == 3
    assert table.last.speedup is not None
    torch.testing.assert_close(fast(*pair), model(*pair))
    torch.testing.assert_close(sf.engine.convert(model, masks)(*pair), model(*pair))
