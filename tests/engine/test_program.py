"""Chains of layers as programs: logits, loss and gradients; oracle: the dense masked network of torch in float64."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import sparseflow as sf
from plans import check_against_torch, examples, lenet5, masked
from sparseflow.engine.plans.plan import plan


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
