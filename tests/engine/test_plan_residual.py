"""Residual networks in plans: forks, sums, shortcuts, and how they are read; oracle: torch in float64, step by step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from plans import NORMED, check_against_torch, check_steps_against_torch, examples, masked
from sparseflow.engine.layers import threads as threads_module
from sparseflow.engine.layers.geometry import Window
from sparseflow.engine.plans.fusing import fused
from sparseflow.engine.plans.plan import plan
from sparseflow.engine.plans.reading import read_tape
from sparseflow.engine.plans.stages import MaxPool, Node, Norm, Rectify, Sum
from sparseflow.gradients import undisturbed
from sparseflow.networks.resnet import resnet14

SGD = partial(torch.optim.SGD, lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-3)


class Block(nn.Module):
    """The basic block as users write it."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.shortcut(x))  # type: ignore[no-any-return]


class PreActivation(nn.Module):
    """Norms and ReLUs before the convolutions; the sum ends the block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(torch.relu(self.bn2(out)))
        out += x
        return out  # type: ignore[no-any-return]


class Torchvision(Block):
    """The block in the words of torchvision: in-place ReLUs and sums."""

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        identity = self.shortcut(x)
        out += identity
        return F.relu(out, inplace=True)


class Odd(nn.Module):
    """Forks and sums of every kind, without norms between."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 5, padding=2)
        self.c, self.norm = nn.Conv2d(4, 4, (1, 3), padding=(0, 1)), nn.BatchNorm2d(4)
        self.d, self.fc = nn.Conv2d(2, 4, 1), nn.Linear(4 * 30, 3)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        doubled = a + a
        b = F.relu(self.b(doubled))
        c = torch.add(self.norm(b), b)
        pooled = F.max_pool2d(c.relu(), 3, stride=1, padding=1) + F.avg_pool2d(b, 3, stride=1, padding=1)
        total = F.relu(self.c(pooled) + pooled).add(self.d(x)) + a
        return self.fc(torch.flatten(total, 1) + total.flatten(1))  # type: ignore[no-any-return]


class Cifar(nn.Module):
    """The ends of a network in the words of many a repository."""

    def __init__(self, *, by_shape: bool) -> None:
        super().__init__()
        self.conv, self.block, self.fc = nn.Conv2d(3, 4, 3, padding=1), Block(4, 4), nn.Linear(4 * 3 * 2, 3)
        self.by_shape = by_shape

    def forward(self, x: Tensor) -> Tensor:
        out = F.avg_pool2d(self.block(F.relu(self.conv(x))), 2)
        out = out.reshape(x.shape[0], -1) if self.by_shape else out.view(out.size(0), -1)
        return self.fc(out)  # type: ignore[no-any-return]


class SumOfItsInput(nn.Module):
    """The input is read three times, once by a norm whose output is added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv, self.fc = nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3, padding=1), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x) + x
        x = F.relu(self.norm(x) + x)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def head(channels: int, classes: int = 3) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "identity shortcut": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), Block(4, 4), *head(4)), (3, 7, 8)),
    "shortcut of the input": (lambda: nn.Sequential(Block(4, 4), *head(4)), (4, 6, 6)),
    "strided shortcuts": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), Block(4, 8, 2), Block(8, 8), Block(8, 4, 3), *head(4)), (3, 13, 12),
    ),
    "pre-activation": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), PreActivation(4), PreActivation(4), nn.BatchNorm2d(4), nn.ReLU(), *head(4)
        ),
        (3, 7, 6),
    ),
    "in place": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Torchvision(4, 4), Torchvision(4, 6, 2), *head(6)),
        (3, 9, 8),
    ),
    "flat by size": (partial(Cifar, by_shape=False), (3, 6, 5)),
    "flat by shape": (partial(Cifar, by_shape=True), (3, 6, 5)),
    "sums of every kind": (Odd, (2, 5, 6)),
    "a norm added to its input": (SumOfItsInput, (2, 5, 6)),
    "ResNet-14 for small images": (partial(resnet14, 3, width=1 / 16, stem="cifar"), (3, 16, 15)),
    "ResNet-14 for large images": (partial(resnet14, 3, width=1 / 16, stem="imagenet"), (3, 34, 33)),
}  # fmt: skip


@pytest.mark.parametrize("batch", [3, 33])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_gradients_are_torchs_in_both_modes(name: str, batch: int) -> None:
    make, shape = NETWORKS[name]
    model = make().double()
    masks = masked(model, 0.4)
    x, y = examples(shape, batch, 3)
    model(examples(shape, 17, 3, seed=1)[0])
    for training in (True, False):
        with undisturbed(model, training=training):
            check_against_torch(model, masks, x, y, close=NORMED)


@pytest.mark.parametrize("name", NETWORKS)
def test_steps_are_torchs(name: str) -> None:
    """Norm weights as torch draws them: with those of a normal distribution the losses of deep ones explode."""
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = make().double()
    masks = sf.random_masks(model, 0.5, seed=0)
    sf.apply_masks_(model, masks)
    check_steps_against_torch(model, masks, [examples(shape, n, 3, seed=n) for n in (7, 4, 9, 7)], SGD, rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_blocks_and_single_weights_side_by_side(seed: int) -> None:
    """Which layers have 4x1 blocks is drawn; gradients of both kinds are added at the forks, padded or not."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), Block(8, 8), Block(8, 12, 2),
        PreActivation(12), *head(12, 4),
    ).double()  # fmt: skip
    masks = masked(model, 0.4, seed=seed)
    for name, mask in masks.items():
        if torch.rand(()) < 0.5:
            mask.copy_(mask[::4].repeat_interleave(4, 0))
            with torch.no_grad():
                model.get_parameter(name).mul_(mask)
    assert len({node.stage.pattern.block for node in read_tape(model, masks) if hasattr(node.stage, "pattern")}) == 2
    for batch in (3, 40):
        check_against_torch(model, masks, *examples((3, 7, 6), batch, 4, seed=seed), close=NORMED)


@pytest.mark.parametrize("density", [0.05, 0.4])
def test_threads_share_the_channels_that_blocks_read_and_change_no_bit(
    density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strides, groups, padding and single pixels; more threads than a layer has channels; rows without a block."""
    monkeypatch.setattr(threads_module, "_WORTH_IT", 1)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=2), Block(8, 12, 2),
        nn.Conv2d(12, 8, 1), *head(8, 4),
    ).double()  # fmt: skip
    masks = {
        name: mask[::4].repeat_interleave(4, 0) if len(mask) % 4 == 0 else mask
        for name, mask in masked(model, density).items()
    }
    sf.apply_masks_(model, masks)
    x, y = examples((3, 9, 8), 40, 4)
    found = []
    for threads in (1, 2, 3, 10):
        torch.set_num_threads(threads)
        loss, gradients = plan(model, masks).loss_and_gradients(x, y)
        found.append([torch.tensor(loss), *gradients.values()])
    for others in found[1:]:
        assert all(map(torch.equal, found[0], others))
    check_against_torch(model, masks, x, y, close=NORMED)


@pytest.mark.parametrize("kinds", [(1, 4), (4, 1), (4, 4)])
def test_a_padded_chain_of_blocks_and_single_weights(kinds: tuple[int, int]) -> None:
    """Blocks write the gradient of their padding into the border, where single weights look for zeros."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(), nn.Linear(80, 3)
    ).double()
    masks = masked(model, 1.0)
    generator = torch.Generator().manual_seed(0)
    for name, block in zip(("1.weight", "2.weight"), kinds, strict=True):
        mask = torch.rand(4 // block, 4, 3, 3, generator=generator) < 0.5
        masks[name].copy_(mask.repeat_interleave(block, 0))
    sf.apply_masks_(model, masks)
    check_against_torch(model, masks, *examples((1, 4, 5), 6, 3), close=NORMED)


def test_one_weight_a_layer_and_empty_layers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Block(4, 4), Block(4, 8, 2), *head(8)).double()
    masks = masked(model, 0.0)
    for name, mask in masks.items():
        mask.view(-1)[0] = "conv2" not in name
    sf.apply_masks_(model, masks)
    check_against_torch(model, masks, *examples((3, 9, 8), 5, 3), close=NORMED)


def test_adam_and_a_state_of_half_a_run() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Block(4, 8, 2), *head(8)).double()
    masks = sf.random_masks(model, 0.5, seed=0)
    sf.apply_masks_(model, masks)
    batches = [examples((3, 8, 8), 9, 3, seed=n) for n in range(5)]
    check_steps_against_torch(model, masks, batches, partial(torch.optim.Adam, lr=0.01, eps=1e-4), rtol=1e-6)


def test_what_is_computed_together() -> None:
    """By hand: the sum and its ReLU go into the norm, a ReLU before a pool into that; what is read twice stays."""
    norm = Norm("norm", 2, (2,), weight=True, bias=True)
    pool = MaxPool("pool", Window((2, 2)))
    relu, total = Rectify("relu"), Sum("sum")
    with_both = Norm("norm", 2, (2,), weight=True, bias=True, relu=True)
    with_relu = MaxPool("pool", Window((2, 2)), relu=True)
    tapes: list[tuple[list[Node], list[Node]]] = [
        ([Node(norm, (-1,)), Node(total, (0, -1)), Node(relu, (1,))], [Node(with_both, (-1, -1))]),
        ([Node(norm, (-1,)), Node(relu, (0,)), Node(pool, (1,))], [Node(norm, (-1,)), Node(with_relu, (0,))]),
        ([Node(norm, (-1,)), Node(total, (0, 0))], [Node(norm, (-1,)), Node(total, (0, 0))]),
        (
            [Node(pool, (-1,)), Node(norm, (-1,)), Node(total, (0, 1)), Node(relu, (2,)), Node(total, (3, 2))],
            [Node(pool, (-1,)), Node(norm, (-1, 0)), Node(relu, (1,)), Node(total, (2, 1))],
        ),
    ]
    for given, wanted in tapes:
        assert fused(given) == wanted


class Wrapped(nn.Module):
    """A layer and a function of its input."""

    def __init__(self, function: Callable[[nn.Module, Tensor], object], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3) if layer is None else layer
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(self.layer, x)


class OfTwo(nn.Module):
    """A model of two inputs."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


REFUSED: list[tuple[nn.Module, str]] = [
    (Wrapped(lambda layer, x: layer(x).tanh()), r"no stage for operation 'tanh', call_method of 'tanh'"),
    (Wrapped(lambda layer, x: layer(x).view(-1, x.size(0))), r"no stage for operation 'view', call_method of 'view'"),
    (Wrapped(lambda layer, x: layer(x).view(x.size(1), -1)), r"no stage for operation 'view', call_method of 'view'"),
    (Wrapped(lambda layer, x: layer(x) + x.size(0)), r"no stage for operation 'add', call_function of 'add'"),
    (Wrapped(lambda layer, x: x.size(0) + layer(x)), r"no stage for operation 'add', call_function of 'add'"),
    (
        Wrapped(lambda layer, x: layer(x), sf.engine.SparseLinear.bare(nn.Linear(2, 2), torch.eye(2) > 0)),
        "cannot compute layer 'layer', SparseLinear",
    ),
    (Wrapped(lambda layer, x: layer(x) + 1), r"no stage for operation 'add', call_function of 'add'"),
    (Wrapped(lambda layer, x: torch.add(layer(x), x, alpha=2)), "no stage for operation 'add'"),
    (Wrapped(lambda layer, x: F.conv2d(x, layer.weight)), "no stage for operation 'layer_weight', get_attr"),
    (Wrapped(lambda layer, x: layer(x) if x.sum() > 0 else x), r"torch\.fx can trace, which says: TraceError: "),
    (Wrapped(lambda layer, x: (layer(x), x)), "returns its last result, the logits, alone"),
    (Wrapped(lambda layer, x: x), "returns its last result, the logits, alone"),
    (Wrapped(lambda layer, x: (layer(x), x.relu())[1]), "nothing reads the output of 'layer'"),
    (Wrapped(lambda layer, x: layer(layer(x))), "two layers share a weight, or one is called twice"),
    (Wrapped(lambda layer, x: (y := layer(x)) + y.relu_()), "'relu_' writes in place to what another one reads too"),
    (Wrapped(lambda layer, x: layer(x) + x.flatten(1).relu_()), "'relu_' writes in place to what another one reads"),
    (OfTwo(), "gives the model one tensor, it takes 'y' too"),
]


@pytest.mark.parametrize(("model", "message"), REFUSED)
def test_what_cannot_be_read_is_named(model: nn.Module, message: str) -> None:
    if not list(model.parameters()):
        model.register_parameter("weight", nn.Parameter(torch.zeros(1)))
    with pytest.raises((TypeError, ValueError), match=message):
        plan(model, {})


def test_sums_and_pools_that_do_not_fit() -> None:
    x = torch.zeros(2, 1, 6, 6)
    with pytest.raises(ValueError, match=r"sum at 'add' needs two images of one shape, got \(1, 4, 4\) and \(1, 6, "):
        plan(Wrapped(lambda layer, x: layer(x) + x), {}).logits(x)
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.AdaptiveAvgPool2d(3))
    with pytest.raises(ValueError, match=r"layer '1' pools \(4, 4\) to \(3, 3\), which does not divide it"):
        plan(model, {}).logits(x)
