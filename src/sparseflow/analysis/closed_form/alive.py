"""Removal of units on which no logit depends: a sparse network is often half its size, and its Hessian a quarter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparseflow.analysis.closed_form.layers import Layer
from sparseflow.analysis.closed_form.segments import Scale
from sparseflow.analysis.closed_form.sums import forward


class AliveUnits:
    """The units, or channels, that are not zero for some example, or would not be after a small step."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers
        self.outputs = [
            torch.zeros(len(layer.weight), dtype=torch.bool, device=layer.weight.device) for layer in layers
        ]
        self.outputs[-1] |= True  # the logits
        first = layers[0]
        self.inputs = first.weight.new_zeros(first.weight.shape[1] // first.area, dtype=torch.bool)
        """bool: the inputs, or input channels, that are not zero for some example."""

    def add(self, value: Tensor) -> None:
        """Take in some examples."""
        self.inputs |= (value != 0).view(len(value), -1).any(1)
        values, segments, _ = forward(self._layers, value)
        for outputs, after, segment in zip(self.outputs[:-1], values[1:], segments[:-1], strict=True):
            moves = torch.ones_like(outputs)
            for operation in segment:
                if isinstance(operation, Scale):
                    moves &= (operation.slope != 0).view(len(outputs), -1).any(1)
            outputs |= moves | (after != 0).view(len(outputs), -1).any(1)

    @staticmethod
    def merged(several: Sequence[AliveUnits]) -> tuple[list[Tensor], Tensor]:
        """The union of several: outputs of each layer, and inputs."""
        outputs = [torch.stack(found).any(0) for found in zip(*(each.outputs for each in several), strict=True)]
        return outputs, torch.stack([each.inputs for each in several]).any(0)


def reduced(layers: Sequence[Layer], alive: Sequence[Tensor], inputs: Tensor) -> tuple[list[Layer], Tensor]:
    """The layers between units that are alive and that some logit depends on; all second derivatives stay the same.

    ``alive`` is bool, of each layer's outputs; ``inputs`` likewise, of the inputs or input channels.

    Returns: smaller layers, and the indices of the inputs or input channels that they take.
    """
    found, kept = [], torch.ones_like(alive[-1])
    for number in reversed(range(len(layers))):
        layer = layers[number]
        useful = layer.links()[kept].any(0)
        before = alive[number - 1] if number else inputs
        # Behind a convolution each channel is several inputs of a dense layer.
        each = len(useful) // len(before)
        useful = useful.view(-1, each).any(1) & before
        useful[0] |= ~useful.any()  # one at least: a layer of nothing has no shape to compute with
        taken = useful.nonzero()
        columns = (taken * each + torch.arange(each, device=taken.device)).flatten()
        found.append(layer.between(kept.nonzero().flatten(), columns))
        kept = useful
    return found[::-1], kept.nonzero().flatten()
