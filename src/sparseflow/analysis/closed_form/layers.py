"""The affine layers of a chain in the form for the closed form: plain weights and places of active parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from sparseflow.analysis.closed_form.chain import Stage
from sparseflow.analysis.closed_form.geometry import Geometry
from sparseflow.analysis.closed_form.segments import Operation, Take
from sparseflow.analysis.layout import ActiveLayout

#: Below this density it is faster to add up inputs weight by weight than to multiply matrices; measured on LeNet5.
SPARSE = 0.2


@dataclass(frozen=True, eq=False)
class Layer:
    """The map ``weight @ inputs + bias``, for a convolution at every position.

    Its *parameters*, ``Q`` of them, are those that the Hessian has: unit by unit (for a convolution: output channel by
    output channel), in each the weights and then the bias.
    """

    weight: Tensor
    """``(out, in)``, for a convolution ``(out, in * area)``."""
    bias: Tensor | None
    places: Tensor
    """int64, ``(out, in + 1)``: the row of each weight in the Hessian and, last, that of the bias; -1 for none."""
    after: tuple[nn.Module, ...]
    geometry: Geometry | None

    @cached_property
    def area(self) -> int:
        """Number of weights between one input and one output; more than 1 for a convolution."""
        return self.geometry.area if self.geometry else 1

    @cached_property
    def unit(self) -> Tensor:
        """``(Q,)``: the output of each parameter, ascending."""
        return (self.places >= 0).nonzero()[:, 0]

    @cached_property
    def source(self) -> Tensor:
        """``(Q,)``: the column of each parameter in ``weight``; biases use the column after the last."""
        return (self.places >= 0).nonzero()[:, 1]

    @cached_property
    def place(self) -> Tensor:
        """``(Q,)``: the row of each parameter in the Hessian."""
        return self.places[self.unit, self.source]

    @cached_property
    def weights(self) -> Tensor:
        """Indices of the parameters that are weights, sorted by source: they multiply inputs."""
        found = (self.source < self.weight.shape[1]).nonzero().flatten()
        return found[self.source[found].argsort(stable=True)]

    @cached_property
    def _nonzero(self) -> list[tuple[int, int, float]]:
        """Output, source and value of each weight that is not zero."""
        rows, columns = self.weight.nonzero(as_tuple=True)
        return list(zip(rows.tolist(), columns.tolist(), self.weight[rows, columns].tolist(), strict=True))

    def links(self) -> Tensor:
        """bool, ``(out, inputs or input channels)``: whether an output can depend on an input."""
        linked = (self.places[:, :-1] >= 0) | (self.weight != 0)
        return linked.view(len(linked), -1, self.area).any(-1)

    def between(self, units: Tensor, inputs: Tensor) -> Layer:
        """The layer with only these outputs and these inputs or input channels, given by their indices."""
        columns = (inputs[:, None] * self.area + torch.arange(self.area, device=inputs.device)).flatten()
        last = columns.new_tensor([self.weight.shape[1]])
        return replace(
            self,
            weight=self.weight[units][:, columns],
            bias=None if self.bias is None else self.bias[units],
            places=self.places[units][:, torch.cat([columns, last])],
        )

    def __call__(self, value: Tensor) -> Tensor:
        """The outputs for ``(D, B)``, or for ``(C, H, W, B)`` of a convolution."""
        if self.geometry is None:
            output = self.weight @ value
        elif len(self._nonzero) < SPARSE * self.weight.numel():
            output = self.geometry.sparse_convolution(value, self._nonzero, len(self.weight))
        else:
            windows = self.geometry.windows(value[None])[0]
            output = (self.weight @ windows.flatten(1)).view(-1, *windows.shape[1:])
        return output if self.bias is None else output.add_(self.bias.view(-1, *[1] * (output.dim() - 1)))


def layer_of(stage: Stage, layout: ActiveLayout, dtype: torch.dtype) -> Layer:
    """A layer of the model; a grouped convolution becomes one with zeros between the groups."""
    module, prefix = stage.layer, f"{stage.name}." if stage.name else ""
    weight, places = module.weight.detach().to(dtype), _places(module.weight, f"{prefix}weight", layout)
    bias, bias_places = None, places.new_full((len(weight), 1), -1)
    if module.bias is not None:
        bias, bias_places = module.bias.detach().to(dtype), _places(module.bias, f"{prefix}bias", layout)[:, None]
    geometry = None
    if isinstance(module, nn.Conv2d):
        geometry = Geometry.of(module)
        weight, places = _ungrouped(weight, module.groups, fill=0), _ungrouped(places, module.groups, fill=-1)
    return Layer(weight, bias, torch.cat([places, bias_places], 1), stage.after, geometry)


def own_tangents(layer: Layer, value: Tensor, operations: Sequence[Operation], part: slice) -> Tensor:
    """Tangents of ``part`` of a convolution's parameters behind its segment, each in its own channel.

    Returns: ``(Q, H', W', B)``, or ``(Q, H' W', B)`` once flat.
    """
    assert layer.geometry is not None
    before = (value.shape[1], value.shape[2])
    channels, source = layer.unit[part], layer.source[part]
    # One more row, of ones, behind the values: a bias meets it.
    values = torch.cat([layer.geometry.padded(value).flatten(0, 2), value.new_ones(1, value.shape[-1])])
    is_weight = source < layer.weight.shape[1]
    offsets = torch.where(is_weight, layer.geometry.offsets(source, before), len(values) - 1)
    corners, rest = layer.geometry.corners(before, value.device), list(operations)
    if rest and isinstance(rest[0], Take):
        take = rest.pop(0)
        assert isinstance(take, Take)
        places = corners[take.index][channels] * is_weight[:, None, None] + offsets[:, None, None]
        tangents = values.gather(0, places.flatten(0, 1)).view(len(places), *take.after, -1)
    else:
        places = corners * is_weight[:, None] + offsets[:, None]
        tangents = values[places].view(len(places), *layer.geometry.positions(before), -1)
    for operation in rest:
        tangents = operation.push(tangents, channels)
    return tangents


def _places(parameter: Tensor, name: str, layout: ActiveLayout) -> Tensor:
    """The place of each entry in the layout's vector, in two dimensions for a weight; -1 for none."""
    found = torch.full((parameter.numel(),), -1, device=parameter.device)
    if name in layout.shapes:
        part, positions = layout.slices[name], layout.positions[name]
        order = torch.arange(part.start, part.stop, device=parameter.device)
        found[slice(None) if positions is None else positions] = order
    return found.view(parameter.shape)


def _ungrouped(kernels: Tensor, groups: int, *, fill: int) -> Tensor:
    """Kernels ``(out, in / groups, ...)`` as a matrix ``(out, in * area)``."""
    blocks = kernels.flatten(1).chunk(groups)
    whole = kernels.new_full((len(kernels), groups * blocks[0].shape[1]), fill)
    for number, (rows, block) in enumerate(zip(whole.chunk(groups), blocks, strict=True)):
        rows.chunk(groups, 1)[number].copy_(block)
    return whole
