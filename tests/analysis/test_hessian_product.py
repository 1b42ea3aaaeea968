"""Hessian-vector products against dense float64 autograd, for any layer and loss."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from chains import chain, data, dense_hessian
from sparseflow.analysis.layout import active_parameters
from sparseflow.analysis.products import HessianProduct, hessian_product
from sparseflow.rng import stream


def matrix(product: HessianProduct) -> Tensor:
    return torch.stack([product(unit) for unit in torch.eye(product.size, dtype=product.dtype)])


@pytest.mark.parametrize("graph_bytes", [0, 40_000, 2**30])
def test_products_are_those_of_the_dense_hessian(graph_bytes: int) -> None:
    """Three batches of which no graph is kept, some, or all."""
    model, masks = chain("lenet")
    batches = data("lenet", (3, 2, 2))
    product = hessian_product(model, batches, masks, graph_bytes=graph_bytes)
    assert len(product._kept) == {0: 0, 40_000: 1, 2**30: 3}[graph_bytes]
    expected = dense_hessian(model, batches, masks)
    assert product.size == len(expected)
    vector = torch.randn(product.size, dtype=torch.float64, generator=stream(0, "vector"))
    for _ in range(2):  # what is kept can be used again
        assert torch.allclose(product(vector), expected @ vector, rtol=0, atol=1e-13)


def test_the_gradient_is_that_of_the_active_parameters() -> None:
    model, masks = chain("lenet")
    inputs, targets = (torch.cat(parts) for parts in zip(*data("lenet"), strict=True))
    loss = F.cross_entropy(model.eval()(inputs), targets)
    expected = torch.autograd.grad(loss, list(model.parameters()))
    for graph_bytes in (0, 2**30):
        product = hessian_product(model, data("lenet", (3, 4)), masks, graph_bytes=graph_bytes)
        found = product.layout.unflatten(product.gradient)
        for (name, _), gradient in zip(model.named_parameters(), expected, strict=True):
            assert torch.allclose(found[name], gradient * masks.get(name, 1), rtol=0, atol=1e-14)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[0][:, -1])


class Attention(nn.Module):
    """Whose fused kernel has no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(1))


def models() -> dict[str, tuple[nn.Module, Tensor]]:
    generator = stream(0, "inputs")
    sequence = torch.randn(5, 3, 4, generator=generator)
    return {
        "norm": (nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.GELU(), nn.Linear(5, 3)), sequence[:, 0]),
        "attention": (Attention(), sequence),
        "recurrent": (Recurrent(), sequence[..., :3]),
        "embedding": (
            nn.Sequential(nn.Embedding(6, 4), nn.Flatten(), nn.Linear(8, 3)),
            torch.randint(6, (5, 2), generator=generator),
        ),
    }


@pytest.mark.parametrize("name", models())
def test_any_layer(name: str) -> None:
    """The Hessian of finite differences of the gradient, whose error is 1e-5 squared."""
    model, inputs = models()[name]
    masks = dict(sf.random_masks(model, 0.3, seed=0))
    sf.apply_masks_(model, masks)
    batches = [(inputs, torch.tensor([0, 2, 1, 0, 1]))]
    found = matrix(hessian_product(model, batches, masks, dtype=torch.float64))
    assert float((found - found.T).abs().max()) < 1e-15

    def moved(row: int, step: float) -> Tensor:
        there = copy.deepcopy(model).double()
        layout = active_parameters(there, masks)
        vector = layout.flatten(dict(there.named_parameters())).detach()
        vector[row] += step
        for key, tensor in layout.unflatten(vector).items():
            there.get_parameter(key).data = tensor
        return hessian_product(there, batches, masks, dtype=torch.float64).gradient

    for row in range(0, len(found), 7):
        difference = (moved(row, 1e-5) - moved(row, -1e-5)) / 2e-5
        assert torch.allclose(found[row], difference, rtol=0, atol=1e-8)


def test_training_mode_has_the_same_noise_in_every_product() -> None:
    """With fresh dropout in each, the matrix would not even be symmetric."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    evaluated = matrix(hessian_product(model, data("linear"), graph_bytes=0))
    for graph_bytes in (0, 2**30):
        product = hessian_product(model, data("linear", (4, 3)), training=True, graph_bytes=graph_bytes)
        found = matrix(product)
        assert float((found - found.T).abs().max()) < 1e-15
        assert float((found - evaluated).abs().max()) > 1e-3
    assert model.training


def test_it_is_the_hessian_of_the_weights_when_it_was_made() -> None:
    model, masks = chain("images")
    expected = matrix(hessian_product(model, data("images", (3, 4)), masks))
    product = hessian_product(model, data("images", (3, 4)), masks, graph_bytes=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(matrix(product), expected)


def test_the_dtype_is_the_models_unless_another_is_asked_for() -> None:
    model, masks = chain("images", dtype=torch.float32)
    batches = data("images", dtype=torch.float32)
    assert hessian_product(model, batches, masks).dtype == torch.float32
    product = hessian_product(model, batches, masks, dtype=torch.float64)
    assert product.dtype == torch.float64
    assert product.device == torch.device("cpu")
    assert product(torch.ones(product.size)).dtype == torch.float64  # vectors are converted
    assert torch.allclose(matrix(product), dense_hessian(model, batches, masks), rtol=0, atol=1e-13)


def test_what_cannot_be_is_refused() -> None:
    model, masks = chain("images")
    product = hessian_product(model, data("images"), masks)
    with pytest.raises(ValueError, match=r"the vector has shape \(3,\), it needs"):
        product(torch.ones(3))
    with pytest.raises(ValueError, match="batches is empty"):
        hessian_product(model, [], masks)
    with torch.no_grad():
        model[3].bias[0] = torch.inf
    with pytest.raises(ValueError, match=r"the gradient has .* entries that are NaN or infinite"):
        hessian_product(model, data("images"), masks)
    single, masks = chain("images", dtype=torch.float32)
    with pytest.raises(TypeError, match="sparse layers have first derivatives only"):
        hessian_product(sf.engine.convert(single, masks), data("images", dtype=torch.float32))
