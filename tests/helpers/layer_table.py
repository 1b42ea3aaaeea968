"""Every layer type with, for each entry of its weight, the unit that it feeds and the input that it reads.

It is read from PyTorch's documentation, independently of the package; `test_fans` checks it against the layers'
outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import library_layers as library
from sparseflow.masks.select import prunable


@dataclass(frozen=True)
class Layer:
    make: Callable[[], nn.Module]
    parameter: str
    ends: Callable[[tuple[int, ...], tuple[int, ...]], tuple[int, int]]
    """(index of an entry, shape of the weight) -> (unit, input)."""

    def weight(self) -> Tensor:
        return dict(self.make().named_parameters())[self.parameter].detach()

    def layout(self):  # type: ignore[no-untyped-def]
        return prunable(self.make(), include=["*"])[self.parameter].layout

    def unit_and_input(self) -> tuple[Tensor, Tensor]:
        """The unit and the input of each entry, as two integer tensors of the weight's shape."""
        shape = tuple(self.weight().shape)
        pairs = [self.ends(index, shape) for index in itertools.product(*map(range, shape))]
        units, inputs = zip(*pairs, strict=True)
        return torch.tensor(units).view(shape), torch.tensor(inputs).view(shape)


def plain(index: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int]:
    return index[0], index[1]


def grouped(groups: int) -> Callable[[tuple[int, ...], tuple[int, ...]], tuple[int, int]]:
    """Ends of an entry of (out, in / groups, ...): output channels of one group share their input channels."""
    return lambda index, shape: (index[0], index[0] // (shape[0] // groups) * shape[1] + index[1])


def transposed(groups: int = 1) -> Callable[[tuple[int, ...], tuple[int, ...]], tuple[int, int]]:
    """Ends of an entry of (in, out / groups, ...)."""
    return lambda index, shape: (index[0] // (shape[0] // groups) * shape[1] + index[1], index[0])


def stacked(blocks: int) -> Callable[[tuple[int, ...], tuple[int, ...]], tuple[int, int]]:
    """Ends of an entry of stacked matrices with inputs of their own: q, k, v of attention, recurrent gates."""
    return grouped(blocks)


def stack(transposed: bool) -> Callable[[tuple[int, ...], tuple[int, ...]], tuple[int, int]]:
    """Ends of an entry of (experts, out, in) or (experts, in, out): every expert has units and inputs of its own."""
    unit, read = (2, 1) if transposed else (1, 2)
    return lambda index, shape: (index[0] * shape[unit] + index[unit], index[0] * shape[read] + index[read])


def below(index: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int]:
    """Ends of an entry of three experts' (in, out) matrices below each other."""
    return index[0] // (shape[0] // 3) * shape[1] + index[1], index[0]


def lookup(index: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int]:
    return index[1], index[0]


LAYERS = {
    "linear": Layer(lambda: nn.Linear(40, 24), "weight", plain),
    "conv1d": Layer(lambda: nn.Conv1d(12, 16, 5), "weight", plain),
    "conv2d": Layer(lambda: nn.Conv2d(8, 12, 3), "weight", plain),
    "conv3d": Layer(lambda: nn.Conv3d(6, 8, 2), "weight", plain),
    "transposed1d": Layer(lambda: nn.ConvTranspose1d(12, 16, 5), "weight", transposed()),
    "transposed2d": Layer(lambda: nn.ConvTranspose2d(8, 12, 3), "weight", transposed()),
    "transposed3d": Layer(lambda: nn.ConvTranspose3d(6, 8, 2), "weight", transposed()),
    "grouped": Layer(lambda: nn.Conv2d(16, 12, 3, groups=4), "weight", grouped(4)),
    "depthwise": Layer(lambda: nn.Conv2d(12, 24, 5, groups=12), "weight", grouped(12)),
    "grouped transposed": Layer(lambda: nn.ConvTranspose2d(16, 12, 3, groups=4), "weight", transposed(4)),
    "embedding": Layer(lambda: nn.Embedding(50, 12), "weight", lookup),
    "in_proj": Layer(lambda: nn.MultiheadAttention(16, 2), "in_proj_weight", stacked(3)),
    "lstm": Layer(lambda: nn.LSTM(20, 8), "weight_ih_l0", stacked(4)),
    "gru": Layer(lambda: nn.GRU(20, 8), "weight_hh_l0", stacked(3)),
    "rnn": Layer(lambda: nn.RNN(20, 12), "weight_ih_l0", plain),
    "conv1d of transformers": Layer(lambda: library.Conv1D(40, 24), "weight", transposed()),
    "mixtral up": Layer(library.MixtralExperts, "gate_up_proj", stack(False)),
    "mixtral down": Layer(library.MixtralExperts, "down_proj", stack(False)),
    "llama4 up": Layer(library.Llama4TextExperts, "gate_up_proj", stack(True)),
    "gpt-oss up": Layer(library.GptOssExperts, "gate_up_proj", stack(True)),
    "gpt-oss down": Layer(library.GptOssExperts, "down_proj", stack(True)),
    "nemotron up": Layer(library.NemotronHExperts, "up_proj", stack(False)),
    "dbrx up": Layer(library.DbrxExpertGLU, "v1", stacked(3)),
    "dbrx down": Layer(library.DbrxExpertGLU, "w2", below),
}


def random_mask(units: Tensor, density: float, generator: torch.Generator) -> Tensor:
    return keep_largest(torch.rand(units.shape, generator=generator), density)


def skewed_mask(units: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Protocol A.1: each entry uniform on (0, c) with c = 1, 2, ... the number of its unit; the smallest go."""
    return keep_largest(torch.rand(units.shape, generator=generator) * (units + 1), density)


def pruned_mask(units: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """A mask by magnitude, of weights with a log-normal scale for each unit, as if learned."""
    scales = torch.randn(int(units.max()) + 1, generator=generator).exp()
    return keep_largest((torch.randn(units.shape, generator=generator) * scales[units]).abs(), density)


def keep_largest(scores: Tensor, density: float) -> Tensor:
    order = scores.flatten().argsort(descending=True)
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[order[: round(scores.numel() * density)]] = True
    return mask.view(scores.shape)


MASKS = {"random": random_mask, "skewed": skewed_mask, "pruned": pruned_mask}


def looped_fans(layer: Layer, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Fan-in of its unit and fan-out of its input for every entry, counted one unit and one input at a time."""
    units, inputs = layer.unit_and_input()
    fan_in, fan_out = torch.zeros(mask.shape), torch.zeros(mask.shape)
    for unit in units.unique():
        fan_in[units == unit] = float(mask[units == unit].sum())
    for each in inputs.unique():
        fan_out[inputs == each] = float(mask[inputs == each].sum())
    if layer.ends is lookup:  # one row of all is read at a time
        fan_in /= mask.shape[0]
    return fan_in, fan_out
