"""Layers that are nearly dense, computed by blocks that hold their weights, against dense layers in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow import engine
from sparseflow.engine.layers import cover as covers
from sparseflow.engine.layers.cover import Covers, cover_if_faster, cover_of
from sparseflow.engine.layers.modules import SparseConv1d, SparseConv2d, SparseLayer, SparseLinear
from sparseflow.engine.layers.pattern import Pattern
from sparseflow.rng import stream

FORMS = {nn.Linear: SparseLinear, nn.Conv1d: SparseConv1d, nn.Conv2d: SparseConv2d}
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(30, 24), (30,)),
    "no bias": (lambda: nn.Linear(17, 8, bias=False), (17,)),
    "convolution": (lambda: nn.Conv2d(5, 8, 3, padding=1), (5, 7, 6)),
    "strided": (lambda: nn.Conv2d(4, 12, 3, stride=2, padding=2), (4, 9, 8)),
    "dilated": (lambda: nn.Conv2d(3, 4, (3, 2), dilation=(2, 1), padding=(1, 0)), (3, 9, 5)),
    "groups": (lambda: nn.Conv2d(6, 16, 3, padding=1, groups=2), (6, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(3, 12, 3, groups=3), (3, 6, 6)),
    "one axis": (lambda: nn.Conv1d(4, 8, 5, padding=2), (4, 11)),
}


def mask_of(weight: Tensor, density: float, seed: int = 0) -> Tensor:
    """Random, with an output that has no weights."""
    mask = torch.rand(weight.shape, generator=stream(seed, "cover")) < density
    mask[1] = False
    return mask


def masked(layer: nn.Module, density: float) -> tuple[nn.Module, Tensor]:
    layer = layer.double()
    assert isinstance(layer.weight, Tensor)
    mask = mask_of(layer.weight, density)
    with torch.no_grad():
        layer.weight *= mask
    return layer, mask


def is_covered(layer: SparseLayer) -> list[bool]:
    """Whether each product of a layer computes with a cover."""
    return [product.cover is not None for product in layer._products.values()]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cover there is counts as faster."""
    for name, value in {"LONG": 0, "_MOST": 4.0, "_MOST_NARROW": 4.0, "_LEAST": 0.0}.items():
        monkeypatch.setattr(covers, name, value)


def assert_same(layer: nn.Module, mask: Tensor, sparse: SparseLayer, x: Tensor) -> None:
    results = []
    for module in (layer, sparse):
        given = x.clone().requires_grad_()
        y = module(given)
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
        results.append((y, given.grad))
    assert isinstance(layer.weight, Tensor)
    assert layer.weight.grad is not None
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(sparse.values.grad, layer.weight.grad[mask])
    if sparse.bias is not None:
        assert isinstance(layer.bias, Tensor)
        torch.testing.assert_close(sparse.bias.grad, layer.bias.grad)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("batch", [1, 3, 37, 128])
@pytest.mark.parametrize("density", [0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("name", LAYERS)
def test_a_covered_layer_is_the_dense_one(name: str, density: float, batch: int) -> None:
    make, size = LAYERS[name]
    layer, mask = masked(make(), density)
    sparse = FORMS[type(layer)].of(layer, mask)
    x = torch.randn(batch, *size, dtype=torch.float64, generator=stream(1, "x"))
    assert_same(layer, mask, sparse, x)
    assert is_covered(sparse) == [True]


@pytest.mark.usefixtures("always")
def test_inputs_with_the_batch_innermost_and_without_a_gradient() -> None:
    layer, mask = masked(nn.Linear(30, 24), 0.7)
    sparse = SparseLinear.of(layer, mask)
    x = torch.randn(30, 40, dtype=torch.float64).t()
    assert_same(layer, mask, sparse, x)
    wanted, found = layer(x), sparse(x)
    layer.zero_grad()
    sparse.zero_grad()
    for y in (wanted, found):
        y.square().sum().backward()
    assert isinstance(layer.weight, Tensor)
    assert layer.weight.grad is not None
    torch.testing.assert_close(sparse.values.grad, layer.weight.grad[mask])
    with torch.no_grad():
        torch.testing.assert_close(sparse(x), wanted)


def test_the_cover_is_every_block_with_a_weight() -> None:
    mask = mask_of(torch.empty(16, 3, 2, 2), 0.6)
    found = cover_of(Pattern.of(mask, groups=2))
    wanted = mask.view(4, 4, -1).any(1, keepdim=True).expand(4, 4, -1).reshape(mask.shape)
    assert torch.equal(found.pattern.mask(), wanted)
    assert found.pattern.groups == 2
    values = torch.randn(int(mask.sum()), generator=stream(0, "values"))
    spread = found.spread(values)
    # The plain twin: the dense weight with its zeros, and the entries of the blocks in their order.
    dense = torch.zeros(mask.shape).masked_scatter(mask, values)
    assert torch.equal(spread, found.pattern.gather(dense))
    assert torch.equal(found.gathered(spread), values)


def test_several_parameters_are_one_vector() -> None:
    cover = cover_of(Pattern.of(torch.tensor([[True, False]] * 3 + [[True, True]])))
    both = Covers.of([None, cover], [2, 5])
    assert (both.sizes, both.begins) == ((2, 8), [0, 2, 10])
    parameters = [torch.tensor([7.0, 8.0]), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])]
    vector = both.spread(parameters)
    assert vector.tolist() == [7, 8, 1, 0, 2, 0, 3, 0, 4, 5]
    for found, parameter in zip(both.gathered(vector), parameters, strict=True):
        assert torch.equal(found, parameter)


@pytest.mark.parametrize(
    ("outputs", "density", "length", "wanted"),
    [
        (64, 0.82, 256, True),
        (64, 0.5, 256, False),  # a cover of 15 in 16 weights
        (64, 0.9, 128, False),  # the widest tile of single weights
        (64, 0.9, 15, False),  # one vector of float32
        (64, 0.5, 64, False),  # few weights stay in the cache in any order
        (512, 0.5, 64, True),
        (512, 0.4, 64, False),
        (62, 0.9, 256, False),
        (64, 1.0, 256, False),  # is in blocks already
    ],
)
def test_a_cover_is_taken_where_it_is_faster(outputs: int, density: float, length: int, wanted: bool) -> None:
    pattern = Pattern.of(torch.rand(outputs, 512, generator=stream(0, "mask")) < density)
    found = cover_if_faster(pattern, length, 4)
    assert (found is not None) == wanted
    assert cover_if_faster(pattern, length, 4) is found


def test_outputs_of_a_group_that_four_do_not_divide() -> None:
    layer, mask = masked(nn.Conv2d(4, 12, 3, groups=2), 0.9)
    sparse = SparseConv2d.of(layer, mask)
    assert_same(layer, mask, sparse, torch.randn(16, 4, 6, 6, dtype=torch.float64))
    assert is_covered(sparse) == [False]


@pytest.mark.usefixtures("always")
def test_what_is_stored_knows_no_cover() -> None:
    layer, mask = masked(nn.Linear(64, 32), 0.9)
    sparse, other = SparseLinear.of(layer, mask), SparseLinear.of(layer, torch.rand(32, 64) < 0.5)
    x = torch.randn(64, 64, dtype=torch.float64)
    sparse(x).sum().backward()
    assert is_covered(sparse) == [True]
    assert sparse.pattern.block == 1
    assert sparse.values.shape == sparse.values.grad.shape == (int(mask.sum()),)
    state = sparse.state_dict()
    assert torch.equal(state["indices"], torch.from_numpy(Pattern.of(mask).indices))
    other(x)
    other.load_state_dict(state)
    assert torch.equal(other(x), sparse(x))
    twin = copy.deepcopy(sparse)
    assert torch.equal(twin(x), sparse(x))


@pytest.mark.usefixtures("always")
def test_a_layer_that_moves_gets_another_cover() -> None:
    layer, mask = masked(nn.Linear(64, 32), 0.9)
    sparse = SparseLinear.of(layer, mask)
    x = torch.randn(64, 64, dtype=torch.float64)
    sparse(x)
    moved = mask_of(mask, 0.9, seed=5)
    sparse.move_(moved.flatten().nonzero()[:, 0])
    values = torch.randn(int(moved.sum()), dtype=torch.float64)
    sparse.values.data = values
    assert isinstance(layer.weight, Tensor)
    layer.weight.data = torch.zeros_like(layer.weight).masked_scatter(moved, values)
    assert_same(layer, moved, sparse, x)
    assert is_covered(sparse) == [True]


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32, 20), nn.ReLU(), nn.Linear(20, 10),
    ).double()  # fmt: skip


def linears() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(3 * 8 * 8, 64), nn.ReLU(), nn.Linear(64, 32, bias=False), nn.ReLU(), nn.Linear(32, 10)
    ).double()


def masks_of(model: nn.Module, density: float) -> dict[str, Tensor]:
    return {name: mask_of(p, density) for name, p in model.named_parameters() if p.dim() > 1}


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("batch", [5, 64, 128, 200])
@pytest.mark.parametrize("make", [network, linears])
def test_a_chain_of_covered_layers_is_the_masked_network(make: Callable[[], nn.Sequential], batch: int) -> None:
    model = make()
    masks = masks_of(model, 0.8)
    sf.apply_masks_(model, masks)
    sparse = engine.convert(model, masks)
    shape = (3, 8, 8) if make is network else (3 * 8 * 8,)
    x = torch.randn(batch, *shape, dtype=torch.float64, generator=stream(0, "x"))
    given = [x.clone().requires_grad_() for _ in range(2)]
    for one, each in zip((model, sparse), given, strict=True):
        one(each).square().sum().backward()
    torch.testing.assert_close(sparse(x), model(x))
    torch.testing.assert_close(given[1].grad, given[0].grad)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    for name, p in sparse.named_parameters():
        path = name.removesuffix(".values")
        wanted = gradients[name] if path == name else gradients[f"{path}.weight"][masks[f"{path}.weight"]]
        torch.testing.assert_close(p.grad, wanted)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("make", [network, linears])
def test_a_plan_with_covers_trains_like_the_masked_network(make: Callable[[], nn.Sequential]) -> None:
    model, twin = make(), make()
    twin.load_state_dict(model.state_dict())
    masks = masks_of(model, 0.8)
    optimizers = [torch.optim.SGD(each.parameters(), 0.1, momentum=0.9) for each in (model, twin)]
    for each in (model, twin):
        sf.apply_masks_(each, masks)
    plan = engine.plan(model, masks, optimizers[0])
    assert plan._covers.any
    shape = (3, 8, 8) if make is network else (3 * 8 * 8,)
    x = torch.randn(96, *shape, dtype=torch.float64, generator=stream(0, "x"))
    labels = torch.randint(0, 10, (96,), generator=stream(1, "labels"))
    torch.testing.assert_close(plan.logits(x), twin(x))
    for _ in range(3):
        loss = nn.functional.cross_entropy(twin(x), labels)
        assert plan.step(x, labels) == pytest.approx(loss.item(), rel=1e-9)
        optimizers[1].zero_grad()
        loss.backward()
        for name, p in twin.named_parameters():
            if name in masks:
                p.grad *= masks[name]
        optimizers[1].step()
    plan.write()
    torch.testing.assert_close(dict(model.state_dict()), dict(twin.state_dict()))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("make", [network, linears])
def test_threads_change_no_bit(make: Callable[[], nn.Sequential], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparseflow.engine.layers.threads._WORTH_IT", 1)
    model = make().float()
    masks = masks_of(model, 0.8)
    shape = (3, 8, 8) if make is network else (3 * 8 * 8,)
    x = torch.randn(128, *shape, generator=stream(0, "x"))

    def everything(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        found = []
        for sparse in (engine.convert(model, masks), nn.ModuleList(engine.convert(model, masks))):
            given = x.clone().requires_grad_()
            y = given
            for layer in [sparse] if isinstance(sparse, nn.Sequential) else sparse:
                y = layer(y)
            y.square().sum().backward()
            found += [y.detach(), given.grad, *(p.grad for p in sparse.parameters())]
        return found

    assert all(torch.equal(a, b) for a, b in zip(everything(1), everything(2), strict=True))


@pytest.mark.usefixtures("always")
def test_rigl_moves_a_covered_layer_like_a_masked_one() -> None:
    """Ten steps with two updates in float64: sums in another order differ by less than 1e-10."""
    model = linears()
    masks = sf.random_masks(model, 0.1, seed=0)
    sf.initialize_(model, masks, seed=0)
    sparse = engine.convert(model, masks)
    optimizers = [torch.optim.SGD(each.parameters(), 0.05, momentum=0.9) for each in (model, sparse)]
    holders = [
        sf.Sparsifier(each, optimizer, masks, sf.RigL(total_steps=100, update_every=4), seed=0)
        for each, optimizer in zip((model, sparse), optimizers, strict=True)
    ]
    for step in range(10):
        x = torch.randn(64, 3 * 8 * 8, dtype=torch.float64, generator=stream(step, "x"))
        labels = torch.randint(10, (64,), generator=stream(step, "labels"))
        for each, optimizer in zip((model, sparse), optimizers, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(each(x), labels).backward()
            optimizer.step()
    for name, mask in holders[0].masks.items():
        assert torch.equal(holders[1].masks[name], mask)
        assert not torch.equal(mask, masks[name])
    for name, tensor in engine.dense_state_dict(sparse).items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-10, atol=1e-10)
