"""Gradient flow against a dense float64 computation, and the promise to leave no trace."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.analysis import GradientFlow, descent, gradient_flow, record_update_flow
from sparseflow.gradients import loss_gradient, trainable

Batch = tuple[Tensor, Tensor]


def network(*, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    layers = (nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    return nn.Sequential(*layers).to(dtype)


def batches(sizes: tuple[int, ...] = (12, 5, 1), *, dtype: torch.dtype = torch.float64) -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randn(n, 6, generator=generator).to(dtype), torch.randint(0, 3, (n,), generator=generator))
        for n in sizes
    ]


def sparse_network(sparsity: float = 0.6) -> tuple[nn.Sequential, dict[str, Tensor]]:
    model = network()
    masks = sf.random_masks(model, sparsity, seed=0)
    sf.apply_masks_(model, masks)
    return model, masks


def oracle(model: nn.Module, masks: dict[str, Tensor], data: list[Batch]) -> tuple[float, dict[str, Tensor]]:
    """Autograd through ``w * m`` itself, over one float64 batch of all examples in eval mode."""
    leaves = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}
    weights = {name: leaf * masks[name] if name in masks else leaf for name, leaf in leaves.items()}
    double = copy.deepcopy(model).double().eval()
    inputs, targets = (torch.cat(parts) for parts in zip(*data, strict=True))
    loss = F.cross_entropy(torch.func.functional_call(double, weights, (inputs.double(),)), targets)
    found = torch.autograd.grad(loss, list(leaves.values()))
    return float(loss.detach()), dict(zip(leaves, found, strict=True))


# --- what is measured -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(18,), (12, 5, 1), (1,) * 18])
def test_flow_is_that_of_the_dense_float64_computation(sizes: tuple[int, ...]) -> None:
    """However the 18 examples are cut into batches: each counts once."""
    model, masks = sparse_network()
    loss, gradient = oracle(model, masks, data := batches(sizes))
    flow = gradient_flow(model, F.cross_entropy, data, masks, training=False)
    # float64 sums in another order.
    assert flow.loss == pytest.approx(loss, rel=1e-12)
    assert list(flow.per_layer) == [name for name, _ in model.named_parameters()]
    assert dict(flow.per_layer) == pytest.approx({n: float(g.norm()) for n, g in gradient.items()}, rel=1e-10)
    squared = sum(float(g.square().sum()) for g in gradient.values())
    assert flow.squared_norm == pytest.approx(squared, rel=1e-10)
    assert flow.norm == pytest.approx(math.sqrt(squared), rel=1e-10)


def test_without_masks_every_weight_counts() -> None:
    model, masks = sparse_network()
    dense = gradient_flow(model, F.cross_entropy, batches(), training=False)
    sparse = gradient_flow(model, F.cross_entropy, batches(), masks, training=False)
    _, gradient = oracle(model, {}, batches())
    assert dense.squared_norm == pytest.approx(sum(float(g.square().sum()) for g in gradient.values()), rel=1e-10)
    assert sparse.squared_norm < dense.squared_norm
    for name, norm in sparse.per_layer.items():
        assert (norm < dense.per_layer[name]) if name in masks else (norm == dense.per_layer[name])


def test_small_gradients_do_not_underflow() -> None:
    """1e-25 squared is below the smallest float32."""
    layer = nn.Linear(2, 1, bias=False)
    data = [(torch.tensor([[3e-25, 4e-25]]), torch.zeros(1))]
    flow = gradient_flow(layer, lambda output, target: output.sum(), data)
    assert flow.norm == pytest.approx(5e-25, rel=1e-6)  # float32 inputs


def test_squares_and_norms_by_hand() -> None:
    flow = GradientFlow(0.5, {"a": 3.0, "b": 4.0})
    assert (flow.squared_norm, flow.norm) == (25.0, 5.0)


def test_training_mode_uses_the_statistics_of_the_batch() -> None:
    model, masks = sparse_network()
    model[3].p = 0.0
    data = batches((18,))
    by_flag = gradient_flow(model.eval(), F.cross_entropy, data, masks, training=True)
    assert by_flag == gradient_flow(model.train(), F.cross_entropy, data, masks)  # None keeps the model's
    assert gradient_flow(model.train(), F.cross_entropy, data, masks, training=False) != by_flag
    # Batch norm in train mode: a shift of the inputs of the first layer's output changes nothing, in eval mode it does.
    shifted = copy.deepcopy(model)
    with torch.no_grad():
        shifted[0].bias += 1
    again = gradient_flow(shifted, F.cross_entropy, data, masks, training=True)
    assert again.norm == pytest.approx(by_flag.norm, rel=1e-6)  # float64, times 300 where a unit is constant


def test_dropout_is_the_same_every_time() -> None:
    model, masks = sparse_network()
    model.train()
    first = gradient_flow(model, F.cross_entropy, batches((12, 6)), masks)
    torch.rand(1)  # another random state does show
    assert gradient_flow(model, F.cross_entropy, batches((12, 6)), masks) != first
    torch.manual_seed(0)
    assert gradient_flow(model, F.cross_entropy, batches((12, 6)), masks) == gradient_flow(
        model, F.cross_entropy, batches((12, 6)), masks
    )


def test_frozen_unused_and_sparse_gradients() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 4, sparse=True)
            self.frozen = nn.Linear(4, 4).requires_grad_(False)
            self.unused = nn.Linear(4, 4)
            self.head = nn.Linear(4, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.frozen(self.embed(tokens)))

    model, data = Odd(), [(torch.tensor([1, 1, 3]), torch.tensor([0, 1, 1]))]
    mask = torch.ones(5, 4, dtype=torch.bool)
    mask[1] = False
    sf.apply_masks_(model, {"embed.weight": mask})
    flow = gradient_flow(model, F.cross_entropy, data, {"embed.weight": mask})
    assert set(flow.per_layer) == {"embed.weight", "unused.weight", "unused.bias", "head.weight", "head.bias"}
    assert flow.per_layer["unused.weight"] == 0
    model.embed.sparse = False
    _, dense = loss_gradient(model, F.cross_entropy, data)
    assert flow.per_layer["embed.weight"] == pytest.approx(float(dense["embed.weight"][3].norm()), rel=1e-6)


def test_names_have_no_prefix_of_a_wrapper() -> None:
    model, masks = sparse_network()
    plain = gradient_flow(model, F.cross_entropy, batches(), masks, training=False)
    wrapped = torch.compile(model, backend="eager")
    assert gradient_flow(wrapped, F.cross_entropy, batches(), masks, training=False) == plain  # type: ignore[arg-type]
    assert list(trainable(wrapped)) == list(plain.per_layer)  # type: ignore[arg-type]


# --- no side effects --------------------------------------------------------------------------------------------------


class Rebinding(nn.Module):
    """Counts its calls in a buffer that it replaces, as some modules do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return x


def everything(model: nn.Module) -> dict[str, Tensor | bool | None]:
    found: dict[str, Tensor | bool | None] = {name: value.clone() for name, value in model.state_dict().items()}
    found |= {f"{name}.grad": p.grad if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    found |= {f"{name}.training": module.training for name, module in model.named_modules()}
    return found | {"random state": torch.get_rng_state()}


def same(a: dict[str, Tensor | bool | None], b: dict[str, Tensor | bool | None]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(x, b[key]) if isinstance(x, Tensor) else x is b[key]  # type: ignore[arg-type]
        for key, x in a.items()
    )


@pytest.mark.parametrize("training", [None, True, False])
@pytest.mark.parametrize("what", ["flow", "descent"])
def test_nothing_is_left_behind(what: str, training: bool | None) -> None:
    model, masks = sparse_network()
    model.append(Rebinding())
    model.train()
    model[1].eval()  # flags differ from module to module
    data = batches((12, 6))
    F.cross_entropy(model(data[0][0]), data[0][1]).backward()
    model[4].bias.grad = None
    before, buffer = everything(model), model[5].calls
    with torch.no_grad():  # also under the caller's no_grad
        if what == "flow":
            gradient_flow(model, F.cross_entropy, data, masks, training=training)
        else:
            descent(model, F.cross_entropy, data, masks, learning_rate=0.1, training=training)
    assert same(before, everything(model))
    assert model[5].calls is buffer


def test_an_error_leaves_nothing_behind_either() -> None:
    model, masks = sparse_network()
    data, before = batches((12, 6)), everything(model)

    calls = 0

    def loss_fn(output: Tensor, target: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:  # the first batch after the weights have moved
            raise RuntimeError("no more")
        return F.cross_entropy(output, target)

    with pytest.raises(RuntimeError, match="no more"):
        descent(model, loss_fn, data, masks, learning_rate=0.1)
    assert same(before, everything(model))


# --- descent and updates ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_descent_on_a_quadratic_is_the_closed_form(rate: float) -> None:
    """L(w) = |w - b|^2 / 2 over active weights: g = w - b, so L falls by (rate - rate^2 / 2) |g|^2."""
    layer = nn.Linear(3, 1, bias=False).double()
    mask = torch.tensor([[True, True, False]])
    sf.apply_masks_(layer, {"weight": mask})
    goal = torch.tensor([[1.0, -2.0, 5.0]], dtype=torch.float64)
    weight = layer.weight.detach().clone()
    # The identity as inputs makes the outputs the weights; the mean over 3 examples is undone by 3 / 2.
    data = [(torch.eye(3, dtype=torch.float64), goal.T)]
    gain = descent(
        layer, lambda out, target: 1.5 * (out - target).square().mean(), data, {"weight": mask}, learning_rate=rate
    )
    squared = float(((weight - goal)[mask]).square().sum())
    assert gain.predicted == pytest.approx(rate * squared, rel=1e-12)
    assert gain.measured == pytest.approx((rate - rate**2 / 2) * squared, rel=1e-12)
    assert torch.equal(layer.weight, weight)


def test_descent_weighs_batches_by_their_examples() -> None:
    model, masks = sparse_network()
    whole = [tuple(torch.cat(parts) for parts in zip(*batches((12, 5, 1)), strict=True))]
    a = descent(model, F.cross_entropy, batches((12, 5, 1)), masks, learning_rate=0.1, training=False)
    b = descent(model, F.cross_entropy, whole, masks, learning_rate=0.1, training=False)  # type: ignore[arg-type]
    assert a == pytest.approx(b, rel=1e-10)
    assert 0 < a.measured < a.predicted * 1.5


def test_update_flow_brackets_every_update_at_the_same_weights() -> None:
    model, masks = sparse_network(0.5)
    model.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = sf.Sparsifier(model, optimizer, masks, sf.SET(drop_fraction=0.3, update_every=3), seed=0)
    records = record_update_flow(sparsifier, model, F.cross_entropy, (batch for batch in batches()))
    expected = []
    for step in range(1, 8):
        old = {name: mask.clone() for name, mask in sparsifier.masks.items()}
        optimizer.zero_grad()
        F.cross_entropy(model(batches()[0][0]), batches()[0][1]).backward()
        optimizer.step()
        if step % 3 == 0:
            moved = sum(int((mask & ~old[name]).sum()) for name, mask in sparsifier.masks.items())
            expected.append((step, gradient_flow(model, F.cross_entropy, batches(), sparsifier.masks), moved))
    assert [(record.step, record.after, record.moved) for record in records] == expected
    assert len(records) == 2
    assert all(record.moved > 0 and record.before != record.after for record in records)


# --- errors -----------------------------------------------------------------------------------------------------------


def test_bad_input() -> None:
    model, masks = sparse_network()
    with pytest.raises(ValueError, match=r"batches is empty; give at least one \(inputs, targets\) pair"):
        gradient_flow(model, F.cross_entropy, [], masks)
    with pytest.raises(ValueError, match=r"masks has '1.weight', which is no weight of the model"):
        gradient_flow(model, F.cross_entropy, batches(), {"1.weight": masks["0.weight"]})
    with pytest.raises(ValueError, match=r"Linear has no parameter that requires a gradient"):
        gradient_flow(nn.Linear(6, 3).requires_grad_(False), F.cross_entropy, batches(dtype=torch.float32))
    with torch.no_grad():
        model[0].weight += 1
    with pytest.raises(ValueError, match=r"'0.weight' is not zero off its mask; call sparseflow.apply_masks_"):
        gradient_flow(model, F.cross_entropy, batches(), masks)
