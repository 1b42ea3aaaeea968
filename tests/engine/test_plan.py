"""Plans against the dense masked network in float64 by torch: logits, loss, gradients, optimizer steps, exchange."""

from __future__ import annotations

import itertools
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.engine.plans.plan import Plan, plan

#: ``sparseflow.engine.plan`` is the function.
plan_module = sys.modules["sparseflow.engine.plans.plan"]
#: Sums of at most some thousand numbers near 1 in float64, in another order.
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def masked(model: nn.Module, density: float, *, seed: int = 0) -> dict[str, Tensor]:
    """Random masks with empty rows, applied to weights and biases drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
            if parameter.dim() > 1:
                mask = torch.rand(parameter.shape, generator=generator) < density
                if density < 1:
                    mask[torch.rand(len(mask), generator=generator) < 0.2] = False
                masks[name] = mask
                parameter.mul_(mask)
    return masks


def examples(shape: tuple[int, ...], batch: int, classes: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, *shape, generator=generator, dtype=torch.float64)
    return images, torch.randint(0, classes, (batch,), generator=generator)


def expected(model: nn.Module, masks: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and masked gradients by autograd."""
    loss = F.cross_entropy(model(x), y)
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    return loss.detach(), {
        name: gradient * masks[name] if name in masks else gradient
        for name, gradient in zip(parameters, gradients, strict=True)
    }


def check_against_torch(model: nn.Module, masks: Mapping[str, Tensor], x: Tensor, y: Tensor) -> None:
    fast = plan(model, masks)
    torch.testing.assert_close(fast.logits(x), model(x).detach(), **CLOSE)
    loss, gradients = expected(model, masks, x, y)
    found_loss, found = fast.loss_and_gradients(x, y, dense=True)
    assert found_loss == pytest.approx(loss.item(), rel=1e-12)
    assert list(found) == [name for name, _ in model.named_parameters()]
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")
        if name in masks:
            assert not found[name][~masks[name]].any()


# -- chains -----------------------------------------------------------------------------------------------------------


class RandomChain:
    """Draws layers that fit the size of the image so far."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        self.axes = int(self.draw.integers(1, 3))
        self.channels = 2 * self.count(1, 2)
        self.size = [self.count(5, 12) for _ in range(self.axes)]
        self.shape = (self.channels, *self.size)
        self.layers: list[nn.Module] = []

    def count(self, low: int, high: int) -> int:
        return int(self.draw.integers(low, high + 1))

    def each(self, low: int, high: int) -> tuple[int, ...]:
        return tuple(self.count(low, high) for _ in range(self.axes))

    def fits(self, layer: nn.Module) -> bool:
        """Add the layer if the image is large enough for it."""
        try:
            out = layer(torch.zeros(1, self.channels, *self.size))
        except RuntimeError:
            return False
        if 0 in out.shape:
            return False
        self.channels, self.size = out.shape[1], list(out.shape[2:])
        self.layers.append(layer)
        return True

    def convolution(self) -> None:
        groups = self.count(1, 2)
        kind = nn.Conv2d if self.axes == 2 else nn.Conv1d
        kernel = self.each(1, 4)
        self.fits(
            kind(
                self.channels,
                2 * self.count(1, 3),
                kernel,
                stride=self.each(1, 3),
                dilation=self.each(1, 2),
                padding=self.each(0, 3),
                groups=groups,
                bias=self.count(0, 3) > 0,
            )
        )

    def pool(self) -> None:
        if self.axes == 1:
            return
        kernel = self.each(1, 3)
        padding = tuple(self.count(0, size // 2) for size in kernel)
        if self.count(0, 1):
            self.fits(nn.MaxPool2d(kernel, self.each(1, 3), padding, dilation=self.each(1, 2)))
        else:
            self.fits(nn.AvgPool2d(kernel, self.each(1, 3), padding, count_include_pad=bool(self.count(0, 1))))

    def build(self) -> tuple[nn.Sequential, tuple[int, ...]]:
        for _ in range(self.count(0, 4)):
            (self.convolution, self.pool, lambda: self.layers.append(nn.ReLU()))[self.count(0, 2)]()
        self.layers.append(nn.Flatten())
        features = self.channels * int(np.prod(self.size))
        for _ in range(self.count(0, 2)):
            width = self.count(1, 40)
            self.layers += [nn.Linear(features, width, bias=self.count(0, 1) > 0), nn.ReLU()]
            features = width
        self.layers += [nn.Identity(), nn.Linear(features, self.count(2, 5))]
        half = len(self.layers) // 2
        nested = nn.Sequential(
            OrderedDict(first=nn.Sequential(*self.layers[:half]), rest=nn.Sequential(*self.layers[half:]))
        )
        return nested.double(), self.shape


@pytest.mark.parametrize("seed", range(60))
def test_random_chains_are_torchs(seed: int) -> None:
    chain = RandomChain(seed)
    model, shape = chain.build()
    masks = masked(model, (0.05, 0.3, 1.0)[seed % 3], seed=seed)
    batch = (1, 2, 7, 33, 64, 131)[seed % 6]
    last = list(model.parameters())[-1]
    check_against_torch(model, masks, *examples(shape, batch, len(last), seed=seed))


@pytest.mark.parametrize("batch", [1, 3, 16, 31, 128, 300])
def test_lenet5_at_any_batch_size_by_one_plan(batch: int) -> None:
    model = lenet5()
    check_against_torch(model, masked(model, 0.05), *examples((1, 28, 28), batch, 10))


def lenet5() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    ).double()  # fmt: skip


CHAINS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "padded convolution before Flatten": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.Flatten(), nn.Linear(27, 3)
        ),
        (1, 7, 8),
    ),
    "rectified padded convolution before Flatten": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(90, 3)
        ),
        (1, 7, 8),
    ),
    "padding='same' of an even kernel": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, (4, 3), padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(60, 3)),
        (1, 5, 6),
    ),
    "logits by a convolution": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1, stride=9), nn.Flatten()),
        (1, 6, 6),
    ),
    "logits by an average": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(6), nn.Flatten()),
        (1, 6, 6),
    ),
    "ReLU first and twice": (
        lambda: nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.ReLU(), nn.Linear(6, 2)),
        (1, 3, 4),
    ),
    "pool first, ReLU after it": (
        lambda: nn.Sequential(
            nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(1, 2, 2), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
            nn.Linear(2, 2),
        ),
        (1, 7, 6),
    ),
    "ReLU of logits": (lambda: nn.Sequential(nn.Linear(5, 3), nn.ReLU()), (5,)),
    "one layer": (lambda: nn.Sequential(nn.Linear(5, 3)), (5,)),
    "divisor_override": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(2, divisor_override=3), nn.Flatten(), nn.Linear(8, 3)),
        (1, 6, 6),
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("batch", [5, 40])
def test_chains_with_a_turn_are_torchs(name: str, batch: int) -> None:
    make, shape = CHAINS[name]
    model = make().double()
    masks = masked(model, 0.5)
    check_against_torch(model, masks, *examples(shape, batch, len(model(torch.zeros(1, *shape).double())[0])))


def test_one_nonzero_and_none_at_all() -> None:
    model = lenet5()
    masks = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_parameters() if p.dim() > 1}
    masks["0.weight"][3, 0, 2, 2] = True
    masked(model, 1.0)
    sf.apply_masks_(model, masks)
    check_against_torch(model, masks, *examples((1, 28, 28), 9, 10))


def test_a_weight_without_mask_is_dense_and_a_layer_alone_will_do() -> None:
    model = nn.Linear(5, 3).double()
    check_against_torch(model, {}, *examples((5,), 8, 3))


def test_wide_layers_are_cut_into_blocks_of_columns() -> None:
    """So many inputs that a forward and a backward table have several blocks."""
    model = nn.Sequential(nn.Linear(20_000, 3), nn.ReLU(), nn.Linear(3, 9_000), nn.ReLU(), nn.Linear(9_000, 2)).double()
    check_against_torch(model, masked(model, 0.1), *examples((20_000,), 40, 2))


def test_chosen_rows_are_the_batch() -> None:
    model = lenet5()
    masks = masked(model, 0.1)
    x, y = examples((1, 28, 28), 20, 10)
    chosen = torch.tensor([3, 3, 19, 0, 7])
    fast = plan(model, masks)
    assert torch.equal(fast.logits(x, chosen), fast.logits(x[chosen]))
    one, two = fast.loss_and_gradients(x, y, chosen), fast.loss_and_gradients(x[chosen], y[chosen])
    assert one[0] == two[0]
    assert all(torch.equal(one[1][name], two[1][name]) for name in one[1])


def test_images_that_are_not_contiguous_are_read_right() -> None:
    model = lenet5()
    masks = masked(model, 0.1)
    x, _ = examples((1, 28, 28), 20, 10)
    fast = plan(model, masks)
    assert torch.equal(fast.logits(x.transpose(2, 3)), fast.logits(x.transpose(2, 3).contiguous()))
    assert torch.equal(fast.logits(x[:1].expand(7, -1, -1, -1)), fast.logits(x[:1].repeat(7, 1, 1, 1)))


def test_nan_stays_nan() -> None:
    model = lenet5()
    fast = plan(model, masked(model, 1.0))
    x, y = examples((1, 28, 28), 4, 10)
    x[1, 0, 5, 5] = float("nan")
    logits = fast.logits(x)
    assert logits[1].isnan().any()
    assert not logits[[0, 2, 3]].isnan().any()
    assert np.isnan(fast.loss_and_gradients(x, y)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits_each_time(threads: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lenet5().to(dtype)
    masks = masked(model, 0.1)
    x, y = examples((1, 28, 28), 200, 10)
    monkeypatch.setattr(plan_module, "_WORTH_IT", 1)
    torch.set_num_threads(threads)
    runs = [plan(model, masks).loss_and_gradients(x.to(dtype), y) for _ in range(2)]
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(runs[0][1][name], runs[1][1][name]) for name in runs[0][1])


def test_threads_change_the_order_of_sums_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "_WORTH_IT", 1)
    model = lenet5()
    fast = plan(model, masked(model, 0.1))
    x, y = examples((1, 28, 28), 131, 10)
    alone = fast.loss_and_gradients(x, y)
    torch.set_num_threads(2)
    together = fast.loss_and_gradients(x, y)
    assert alone[0] == pytest.approx(together[0], rel=1e-13)
    for name, gradient in alone[1].items():
        torch.testing.assert_close(together[1][name], gradient, **CLOSE)


# -- optimizer --------------------------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]]], torch.optim.Optimizer]] = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9),
    "Nesterov": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": lambda groups: torch.optim.Adam(groups, lr=0.01, betas=(0.8, 0.99), eps=1e-6),
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.01),
}


def grouped(model: nn.Module) -> list[dict[str, Any]]:
    """Weight decay of weights and of biases apart."""
    weights = [p for p in model.parameters() if p.dim() > 1]
    biases = [p for p in model.parameters() if p.dim() == 1]
    return [{"params": weights, "weight_decay": 0.02}, {"params": biases, "weight_decay": 0.005, "lr": 0.02}]


def small(seed: int = 0) -> tuple[nn.Sequential, dict[str, Tensor]]:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 3)
    ).double()
    return model, masked(model, 0.3, seed=seed)


def states(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All state tensors, by parameter and name."""
    held = optimizer.state_dict()["state"]
    found = [held[parameter][name] for parameter in sorted(held) for name in sorted(held[parameter])]
    return [value for value in found if value is not None]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_torchs_and_exchange_at_any_step_changes_nothing(name: str) -> None:
    """Twelve steps with a schedule, against torch with masked gradients; all is exchanged in between."""
    (theirs, masks), (ours, _) = small(), small()
    optimizer = OPTIMIZERS[name](grouped(theirs))
    sf.Sparsifier(theirs, optimizer, masks, sf.Static(), seed=0)
    mine = OPTIMIZERS[name](grouped(ours))
    fast = plan(ours, masks, mine)
    for step in range(12):
        x, y = examples((1, 8, 8), 10, 3, seed=step)
        optimizer.zero_grad()
        loss = F.cross_entropy(theirs(x), y)
        loss.backward()
        optimizer.step()
        assert fast.step(x, y) == pytest.approx(loss.item(), rel=1e-9)
        for group in (*optimizer.param_groups, *mine.param_groups):
            group["lr"] *= 0.8
        if step % 4 == 3:
            fast.write()
            sf.check(ours, mine, masks)
            for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
            for a, b in zip(states(mine), states(optimizer), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11, check_dtype=False)
        if step == 7:
            loaded, _ = small(seed=1)
            loaded.load_state_dict(ours.state_dict())
            other = OPTIMIZERS[name](grouped(loaded))
            other.load_state_dict(mine.state_dict())
            ours, mine, fast = loaded, other, plan(loaded, masks, other)


def test_torch_goes_on_where_a_plan_stopped() -> None:
    """After write, one of torch's own steps is that of a run by torch alone."""
    for name in OPTIMIZERS:
        (theirs, masks), (ours, _) = small(), small()
        optimizers = [OPTIMIZERS[name](grouped(model)) for model in (theirs, ours)]
        for model, optimizer in zip((theirs, ours), optimizers, strict=True):
            sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0)
        fast = plan(ours, masks, optimizers[1])
        for step in range(4):
            x, y = examples((1, 8, 8), 10, 3, seed=step)
            for model, optimizer in zip((theirs, ours), optimizers, strict=True):
                if model is ours and step < 2:
                    fast.step(x, y)
                    fast.write()
                else:
                    optimizer.zero_grad()
                    F.cross_entropy(model(x), y).backward()
                    optimizer.step()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_schedulers_of_torch_are_followed_in_silence() -> None:
    model, masks = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=1e-30)
    fast = plan(model, masks, optimizer)
    x, y = examples((1, 8, 8), 10, 3)
    fast.step(x, y)
    schedule.step()
    assert fast.step(x, y) == fast.step(x, y)


def test_new_masks_are_taken_with_what_the_model_holds() -> None:
    model, masks = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    fast = plan(model, masks, optimizer)
    x, y = examples((1, 8, 8), 10, 3)
    fast.step(x, y)
    fast.write()
    new = masked(small(seed=5)[0], 0.4, seed=5)
    sf.apply_masks_(model, new)
    fast.read(new)
    torch.testing.assert_close(fast.logits(x), model(x).detach(), **CLOSE)
    fast.step(x, y)
    fast.write()
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in new.items())
    assert all(
        not optimizer.state[model.get_parameter(name)]["momentum_buffer"][~mask].any() for name, mask in new.items()
    )


def test_float32_stays_near_float64() -> None:
    """Ten steps; float32 rounds at 6e-8, and a step multiplies what was rounded by little."""
    (exact, masks), (single, _) = small(), small()
    single.float()
    plans = [plan(m, masks, torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9)) for m in (exact, single)]
    for step in range(10):
        x, y = examples((1, 8, 8), 40, 3, seed=step)
        assert plans[0].step(x, y) == pytest.approx(plans[1].step(x.float(), y), rel=1e-4)


def test_names_and_values_of_gradients() -> None:
    model, masks = small()
    fast = plan(model, masks)
    x, y = examples((1, 8, 8), 10, 3)
    _, active = fast.loss_and_gradients(x, y)
    _, dense = fast.loss_and_gradients(x, y, dense=True)
    for name, mask in masks.items():
        assert torch.equal(active[name], dense[name][mask])


def test_slices_that_fit_the_cache_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the cache: one slice, or many and a rest."""
    model = lenet5()
    masks = masked(model, 0.1)
    x, y = examples((1, 28, 28), 100, 10)
    found = []
    for cache in (1 << 30, 1):
        monkeypatch.setattr(plan_module, "_CACHE", cache)
        found.append(plan(model, masks).loss_and_gradients(x, y))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-13)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, **CLOSE)


# -- errors -----------------------------------------------------------------------------------------------------------

BAD_LAYERS: list[tuple[nn.Module, str]] = [
    (nn.BatchNorm1d(4), r"cannot compute layer '1', BatchNorm1d; it takes chains of Linear, .*engine\.convert"),
    (
        nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular"),
        r"layer '1', .* needs padding_mode='zeros'.*engine\.convert",
    ),
    (nn.MaxPool2d(2, ceil_mode=True), "layer '1', .* needs return_indices=False and ceil_mode=False"),
    (nn.AvgPool2d(2, ceil_mode=True), "layer '1', .* needs ceil_mode=False"),
    (nn.Flatten(2), "layer '1', .* needs start_dim=1 and end_dim=-1"),
    (nn.Linear(4, 4).requires_grad_(False), "layer '1', .* needs parameters that all require gradients"),
]


@pytest.mark.parametrize(("layer", "message"), BAD_LAYERS)
def test_an_unsupported_layer_is_named(layer: nn.Module, message: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), layer)
    with pytest.raises((TypeError, ValueError), match=message):
        plan(model, {})


def test_a_subclass_may_compute_something_else() -> None:
    class Scaled(nn.Linear):
        pass

    with pytest.raises(TypeError, match="cannot compute layer '0', Scaled"):
        plan(nn.Sequential(Scaled(2, 2)), {})


def test_networks_and_masks_that_do_not_fit() -> None:
    layer = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="two layers of the chain share a weight"):
        plan(nn.Sequential(layer, nn.ReLU(), layer), {})
    with pytest.raises(ValueError, match=r"masks has 1\.weight, which is no weight of the chain\. Weights: 0\.weight"):
        plan(nn.Sequential(layer), {"1.weight": torch.ones(4, 4, dtype=torch.bool)})
    with pytest.raises(
        ValueError, match=r"the mask of '0' must be a bool tensor of shape \(4, 4\), got torch\.float32"
    ):
        plan(nn.Sequential(layer), {"0.weight": torch.ones(4, 4)})
    with pytest.raises(TypeError, match=r"float32, or all float64, on the CPU; got torch\.float16 on cpu"):
        plan(nn.Sequential(nn.Linear(4, 4).half()), {})
    with pytest.raises(TypeError, match="got no parameters"):
        plan(nn.Sequential(nn.ReLU()), {})


def test_optimizers_that_do_not_fit() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(TypeError, match="steps like SGD, Adam or AdamW, got RMSprop"):
        plan(model, {}, torch.optim.RMSprop(model.parameters()))
    with pytest.raises(ValueError, match=r"a plan has no dampening=0\.1"):
        plan(model, {}, torch.optim.SGD(model.parameters(), momentum=0.9, dampening=0.1))
    with pytest.raises(ValueError, match="a plan has no amsgrad=True"):
        plan(model, {}, torch.optim.Adam(model.parameters(), amsgrad=True))
    with pytest.raises(
        ValueError, match=r"the optimizer does not hold '0\.bias'\. Add it with optimizer\.add_param_group"
    ):
        plan(model, {}, torch.optim.SGD([model[0].weight], lr=0.1))
    with pytest.raises(ValueError, match=r"made without an optimizer\. Write engine\.plan\(model, masks, optimizer\)"):
        plan(model, {}).step(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64))
    optimizer = torch.optim.Adam(model.parameters())
    optimizer.state[model[0].weight]["step"] = torch.tensor(3.0)
    with pytest.raises(ValueError, match=r"must have taken equally many steps, got \[0, 3\]"):
        plan(model, {}, optimizer)


def planned() -> Plan:
    return plan(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)), {})


BAD_EXAMPLES: list[tuple[Tensor, Tensor, Tensor | None, str]] = [
    (torch.zeros(3, 1, 4, 4).double(), torch.zeros(3), None, r"images must be torch\.float32 on the CPU, \(examples"),
    (torch.zeros(0, 1, 4, 4), torch.zeros(0), None, r"images must be .* got torch\.float32 \(0, 1, 4, 4\)"),
    (torch.zeros(3, 1, 4, 4), torch.zeros(3).int(), None, r"labels must be int64 of shape \(3,\), got torch\.int32"),
    (torch.zeros(3, 1, 4, 4), torch.zeros(2), None, r"labels must be int64 of shape \(3,\), got torch\.int64 \(2,\)"),
    (torch.zeros(3, 1, 4, 4), torch.tensor([0, 1, 2]), None, r"labels must be in \[0, 2\), got 0 to 2"),
    (torch.zeros(3, 1, 4, 4), torch.tensor([0, -100, 1]), None, r"labels must be in \[0, 2\), got -100 to 1"),
    (torch.zeros(3, 1, 4, 4), torch.zeros(3), torch.tensor([0, 3]), r"chosen must be in \[0, 3\), got 0 to 3"),
    (torch.zeros(3, 1, 4, 4), torch.zeros(3), torch.tensor([-1]), r"chosen must be in \[0, 3\), got -1 to -1"),
    (torch.zeros(3, 1, 4, 4), torch.zeros(3), torch.zeros(3), None),
    (torch.zeros(3, 4, 4), torch.zeros(3), None, "layer '0' needs inputs with 2 axes besides batch and channels"),
    (torch.zeros(3, 2, 4, 4), torch.zeros(3), None, "layer '0' needs 1 channels or features, got 2"),
    (torch.zeros(3, 1, 5, 4), torch.zeros(3), None, "layer '2' needs 8 channels or features, got 12"),
    (torch.zeros(3, 1, 2, 4), torch.zeros(3), None, r"layer '0' is larger than its input of \(2, 4\)"),
    (torch.zeros(3, 1, 4, 4, 4), torch.zeros(3), None, r"one example must have 1 to 3 axes, got shape \(1, 4, 4, 4\)"),
]  # fmt: skip


@pytest.mark.parametrize(("images", "labels", "chosen", "message"), BAD_EXAMPLES)
def test_examples_that_do_not_fit(images: Tensor, labels: Tensor, chosen: Tensor | None, message: str | None) -> None:
    labels = labels if labels.dtype == torch.int32 else labels.long()
    if message is None:
        assert chosen is not None
        with pytest.raises(TypeError, match=r"chosen must be int64 of shape \(batch,\), got torch\.float32 \(3,\)"):
            planned().loss_and_gradients(images, labels, chosen)
        return
    with pytest.raises((TypeError, ValueError), match=message):
        planned().loss_and_gradients(images, labels, chosen)


def test_chains_that_end_in_images_or_have_too_large_windows() -> None:
    x, y = torch.zeros(2, 1, 20, 20), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(
        ValueError, match=r"must end with logits \(batch, classes\), it ends with 2 channels of \(18, 18\)"
    ):
        plan(nn.Sequential(nn.Conv2d(1, 2, 3)), {}).loss_and_gradients(x, y)
    with pytest.raises(ValueError, match="layer '1' has windows of more than 128 pixels"):
        plan(nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(12)), {}).loss_and_gradients(x, y)


def test_every_combination_of_convolution_options() -> None:
    """Stride, padding, dilation and groups, all at once."""
    options = itertools.product((1, 2), (0, 2), (1, 2), (1, 2), (nn.Conv1d, nn.Conv2d))
    for stride, padding, dilation, groups, kind in options:
        first = kind(2, 4, 3, padding=1)
        second = kind(4, 6, 3, stride=stride, padding=padding, dilation=dilation, groups=groups)
        shape = (2, 9) if kind is nn.Conv1d else (2, 9, 8)
        features = second(first(torch.zeros(1, *shape))).numel()
        model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(features, 3)).double()
        check_against_torch(model, masked(model, 0.4), *examples(shape, 6, 3))
