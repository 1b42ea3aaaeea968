"""Signal statistics against outputs and gradients computed by hand, layer type by layer type."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.analysis import LayerSignal, signal


def describe(output: Tensor, gradient: Tensor | None, units: int) -> LayerSignal:
    """Population statistics over everything; units along the given axis, one at a time."""

    def dead(values: Tensor, constant: bool) -> float:
        rows = [values.select(units, i).flatten() for i in range(values.shape[units])]
        return sum(bool((row == (row[0] if constant else 0)).all()) for row in rows) / len(rows)

    output = output.detach().double()
    values = [output.mean(), output.var(correction=0).sqrt()]
    if gradient is None:
        return LayerSignal(*map(float, values), dead(output, True), None, None, None)
    gradient = gradient.double()
    slopes = [gradient.mean(), gradient.var(correction=0).sqrt()]
    return LayerSignal(*map(float, values), dead(output, True), *map(float, slopes), dead(gradient, False))


def assert_same(found: LayerSignal, expected: LayerSignal) -> None:
    # float64 statistics of the same float32 numbers; the forward pass itself may differ in the last bits.
    for name, value in vars(expected).items():
        assert getattr(found, name) == (value if value is None else pytest.approx(value, rel=1e-5, abs=1e-9)), name


def total(output: Tensor, targets: Tensor) -> Tensor:
    return (output * targets).sum() + output.square().sum()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        output, (_, cell) = self.lstm(x)
        return output.relu_().mean(1) + cell.sum()  # in place: what is measured must not change


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x, x, x)[0].mean(1)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 3]), batch_first=True)
        return self.gru(packed)[0].data


def by_hand(model: nn.Module, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The first layer's output, and the rest of the network as a function of it."""
    if isinstance(model, Recurrent):
        output, (_, cell) = model.lstm(x)
        return output, lambda out: out.relu().mean(1) + cell.sum()
    if isinstance(model, Attention):
        output, _ = model.attend(x, x, x)
        return output, lambda out: out.mean(1)
    if isinstance(model, Packed):
        return model(x), lambda out: out
    first, *rest = model.children()
    output = first(x)
    return output, lambda out: nn.Sequential(*rest)(out.clone())


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, int]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)), (7, 3), "0", -1),
    "linear on sequences": (lambda: nn.Sequential(nn.Linear(3, 6), nn.Tanh()), (7, 5, 3), "0", -1),
    "in-place activation": (lambda: nn.Sequential(nn.Linear(3, 6), nn.ReLU(inplace=True)), (7, 3), "0", -1),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(3, 6, 2), nn.ReLU(inplace=True), nn.Flatten()), (4, 3, 5), "0", 1),
    "conv2d": (lambda: nn.Sequential(nn.Conv2d(3, 6, 2), nn.ReLU(), nn.Flatten()), (4, 3, 4, 4), "0", 1),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 6, 2), nn.ReLU()), (4, 3, 4, 4), "0", 1),
    "lstm": (Recurrent, (4, 5, 3), "lstm", -1),
    "attention": (Attention, (4, 5, 4), "attend", -1),
    "packed": (Packed, (2, 5, 3), "gru", -1),
}


@pytest.mark.parametrize("name", MODELS)
def test_statistics_by_hand(name: str) -> None:
    make, shape, layer, units = MODELS[name]
    model, x = make(), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if isinstance(model, nn.Sequential):  # unit 1 is dead both ways: constant, and behind a closed ReLU
        with torch.no_grad():
            model[0].weight.select(1 if name == "transposed" else 0, 1).zero_()
            model[0].bias[1] = -1
    targets = torch.randn(model(x).shape, generator=torch.Generator().manual_seed(1))
    output, rest = by_hand(model, x)
    (gradient,) = torch.autograd.grad(total(rest(output), targets), output)
    assert_same(signal(model, x)[layer], describe(output, None, units))
    found = signal(model, x, loss_fn=total, targets=targets)
    assert_same(found[layer], describe(output, gradient, units))
    if isinstance(model, nn.Sequential):
        assert found[layer].dead_fraction == 1 / 6


def test_every_layer_in_forward_order() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.unused, self.first = nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x))

    assert list(signal(Backwards(), torch.ones(2, 3))) == ["first", "last"]
    assert list(signal(nn.Linear(3, 2), torch.ones(2, 3))) == [""]
    assert list(signal(nn.DataParallel(Backwards()), torch.ones(2, 3))) == ["first", "last"]


def test_a_layer_used_twice_is_described_by_its_last_use() -> None:
    layer, x = nn.Linear(3, 3), torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    found = signal(nn.Sequential(layer, nn.Tanh(), layer), x)
    assert list(found) == ["0"]
    assert_same(found["0"], describe(layer(layer(x).tanh()), None, -1))


def test_dead_fractions_by_hand() -> None:
    """Unit 0 has no inputs, unit 1 is constant only by its bias, units 2 and 3 live; nothing reads unit 3."""
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    first = torch.tensor([[0, 0], [0, 0], [1, 1], [0, 1]]).bool()
    second = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 0]]).bool()
    masks = {"0.weight": first, "2.weight": second}
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[0].bias.copy_(torch.tensor([0.0, 5.0, 0.0, 0.0]))
    sf.apply_masks_(model, masks)
    x = torch.rand(9, 2, generator=torch.Generator().manual_seed(0)) + 0.1  # all positive: no ReLU is closed but at 0
    found = signal(model, x, masks=masks, loss_fn=lambda output, _: output.sum(), targets=torch.zeros(9))
    assert found["0"].dead_fraction == 2 / 4
    # The ReLU passes nothing at exactly 0 (unit 0), and no weight leads on from unit 3.
    assert found["0"].gradient_dead_fraction == 2 / 4
    assert found["2"].dead_fraction == found["2"].gradient_dead_fraction == 0
    # Only the first output has a loss: the other gets no gradient.
    half = signal(model, x, loss_fn=lambda output, _: output[:, 0].sum(), targets=torch.zeros(9))
    assert half["2"].gradient_dead_fraction == 1 / 2


def test_a_layer_that_the_loss_does_not_see_has_zero_gradient() -> None:
    class Side(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.side = nn.Linear(2, 2), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.side(x)
            return self.main(x)

    found = signal(Side(), torch.rand(4, 2), loss_fn=F.cross_entropy, targets=torch.zeros(4, dtype=torch.long))
    side = found["side"]
    assert (side.gradient_mean, side.gradient_std, side.gradient_dead_fraction) == (0.0, 0.0, 1.0)
    assert side.std > 0
    assert found["main"].gradient_std > 0  # type: ignore[operator]


def test_gradients_reach_through_and_behind_frozen_layers() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    x, targets = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(6, dtype=torch.long)
    expected = signal(model, x, loss_fn=F.cross_entropy, targets=targets)
    model[0].requires_grad_(False)
    assert signal(model, x, loss_fn=F.cross_entropy, targets=targets) == expected
    model.requires_grad_(False)
    assert signal(model, x, loss_fn=F.cross_entropy, targets=targets) == expected


def test_train_and_eval_mode() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 400))
    x = torch.ones(2, 3)
    assert signal(model, x, training=False)["2"].dead_fraction == 1  # the same example twice
    assert signal(model, x, training=True)["2"].dead_fraction < 0.5
    assert signal(model.train(), x) == signal(model.eval(), x, training=True)
    assert signal(model.eval(), x) == signal(model.train(), x, training=False)


def test_nothing_is_left_behind() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(27, 2)
    ).train()
    x, targets = torch.randn(5, 1, 4, 4), torch.zeros(5, dtype=torch.long)
    F.cross_entropy(model(x), targets).backward()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    random = torch.get_rng_state()
    signal(model, x, loss_fn=F.cross_entropy, targets=targets)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):  # halfway through the network
        signal(model, torch.ones(5, 1, 9, 9))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert all(module.training and not module._forward_hooks for module in model.modules())


def test_figure_1c_masked_dense_loses_the_signal_and_ours_keeps_it() -> None:
    """An MLP with ReLU at 95 %: density 0.05 to the half, five layers, is 5.6e-4; Ours stays within a factor 3."""
    widths = [200, 200, 200, 200, 200, 200]
    model = nn.Sequential(*(each for a, b in itertools.pairwise(widths) for each in (nn.Linear(a, b), nn.ReLU())))
    x = torch.randn(200, 200, generator=torch.Generator().manual_seed(0))
    masks = sf.random_masks(model, 0.95, seed=0)
    stds = {}
    for scheme in ("dense", "sparse"):
        sf.initialize_(model, masks, scheme=scheme, seed=0)
        stds[scheme] = signal(model, x, masks=masks)["8"].std
    assert 1 / 3 < stds["sparse"] / 2**0.5 < 3  # He's gain for a ReLU doubles the variance before it
    assert stds["dense"] / stds["sparse"] == pytest.approx(0.05**2.5, rel=0.5)


def test_bad_input() -> None:
    model, x = nn.Sequential(nn.Linear(3, 2)), torch.ones(4, 3)
    with pytest.raises(ValueError, match="loss_fn and targets belong together: give both, or neither"):
        signal(model, x, loss_fn=F.cross_entropy)
    with pytest.raises(ValueError, match="loss_fn and targets belong together"):
        signal(model, x, targets=torch.zeros(4, dtype=torch.long))
    mask = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"masks has 'weight', which is no weight of the model"):
        signal(model, x, masks={"weight": mask})
    with pytest.raises(ValueError, match=r"'0.weight' is not zero off its mask; call sparseflow.apply_masks_"):
        signal(model, x, masks={"0.weight": ~mask})
