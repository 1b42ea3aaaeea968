"""Multi-head attention whose projections hold active weights only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from sparseflow.engine.layers.dense_view import DenseView
from sparseflow.engine.layers.geometry import Window
from sparseflow.engine.layers.modules import Part, SparseLayer, SparseLinear
from sparseflow.engine.layers.pattern import Pattern

#: Layers of attention -> the weights that it holds itself: one for queries, keys and values together, or three.
PROJECTIONS = {name: f"{name}_weight" for name in ("in_proj", "q_proj", "k_proj", "v_proj")}


class Projection(SparseLinear):
    """A weight that attention holds itself, such as ``in_proj_weight``; its bias stays a parameter of the attention."""

    weight_suffix: ClassVar[str] = "_weight"

    def __init__(self, pattern: Pattern, values: Tensor, bias: Tensor | None, window: Window) -> None:
        super().__init__(pattern, values, bias, window)
        self._cuts: dict[tuple[int, ...], list[Pattern]] = {}

    @classmethod
    def of_weight(cls, weight: nn.Parameter, mask: Tensor) -> Projection:
        """The active values of a weight ``(outputs, inputs)``."""
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight = weight
        return cls.of(layer, mask)

    def parts(self, sizes: tuple[int, ...], bias: Tensor | None) -> list[Part]:
        """The layer cut into ranges of this many outputs, each with its share of the bias.

        >>> layer = Projection.of_weight(nn.Parameter(torch.eye(3)), torch.eye(3).bool())
        >>> [part.pattern.shape for part in layer.parts((1, 2), None)]
        [(1, 3), (2, 3)]
        """
        if len(sizes) == 1:
            return [Part(0, self.pattern, self.values, bias)]
        if sizes not in self._cuts:
            self._cuts[sizes] = [Pattern.of(mask) for mask in self.mask().split(sizes)]
        patterns = self._cuts[sizes]
        firsts = [sum(sizes[:place]) for place in range(len(sizes))]
        values = self.values.split([pattern.num_active for pattern in patterns])
        biases = [None] * len(sizes) if bias is None else bias.split(sizes)
        return [Part(*each) for each in zip(firsts, patterns, values, biases, strict=True)]

    def move_(self, positions: Tensor) -> None:
        """As for any sparse layer."""
        super().move_(positions)
        self._cuts.clear()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[prefix + "weight"]  # the attention has it, under the dense name


class OutputProjection(SparseLinear):
    """The last layer of attention: a linear layer under a name of its own."""

    dense_kind = NonDynamicallyQuantizableLinear


def _view_of(name: str) -> property:
    def view(self: MultiheadAttention) -> Tensor | None:
        layer = self._modules.get(name)
        return DenseView.of(layer) if isinstance(layer, Projection) else self._parameters[PROJECTIONS[name]]

    return property(view, doc="The dense weight, for code that looks at it.")


class MultiheadAttention(nn.MultiheadAttention):
    """torch's attention, with a :class:`Projection` in place of some of its weights, or a sparse ``out_proj``.

    All its options are here but nested tensors. Where no weights are wanted it is
    :func:`torch.nn.functional.scaled_dot_product_attention`.
    """

    in_proj_weight = _view_of("in_proj")
    q_proj_weight = _view_of("q_proj")
    k_proj_weight = _view_of("k_proj")
    v_proj_weight = _view_of("v_proj")

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """As :class:`torch.nn.MultiheadAttention`.

        Raises:
            TypeError: if an input is nested.
            ValueError: if ``is_causal`` comes without ``attn_mask``, or a mask does not fit.
        """
        if query.is_nested or key.is_nested or value.is_nested:
            raise TypeError("sparse attention takes no nested tensors. Give padded ones and a key_padding_mask.")
        if is_causal and attn_mask is None:
            raise ValueError(
                "is_causal says that attn_mask is causal; give that too, as nn.MultiheadAttention wants it."
            )
        axis = 1 if self.batch_first and query.dim() == 3 else 0  # that of the tokens
        q, k, v = self._projected(query, key, value)
        if query.dim() == 2:  # one sequence without a batch
            q, k, v = q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)
        q, k, v = self._heads(q, axis), *(self._heads(each, axis) for each in self._extended(k, v, axis))
        is_hint = is_causal and key_padding_mask is None and not need_weights
        mask = None if is_hint else self._mask(attn_mask, key_padding_mask, (*q.shape[:3], k.shape[2]), q.dtype)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * math.sqrt(1 / self.head_dim)) @ k.transpose(-2, -1)
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            mixed = weights @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_hint)
        mixed = mixed.permute((0, 2, 1, 3) if axis == 1 else (2, 0, 1, 3)).flatten(2)
        out = self._output(mixed.view(query.shape[:-1] + mixed.shape[-1:]))
        if weights is not None:
            weights = weights.mean(dim=1) if average_attn_weights else weights
            weights = weights.squeeze(0) if query.dim() == 2 else weights
        return out, weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Queries, keys and values; those of one input are computed together where one weight holds them."""
        inputs, size, bias = [query, key, value], self.embed_dim, self.in_proj_bias
        if not self._qkv_same_embed_dim:
            biases = [None] * 3 if bias is None else bias.split(size)
            names = ("q_proj", "k_proj", "v_proj")
            return [self._project(n, [x], (size,), b)[0] for n, x, b in zip(names, inputs, biases, strict=True)]
        runs = [[query]]
        for x in inputs[1:]:
            if x is runs[-1][0]:
                runs[-1].append(x)
            else:
                runs.append([x])
        sizes = tuple(size * len(run) for run in runs)
        together = self._project("in_proj", [run[0] for run in runs], sizes, bias)
        return [each for run, y in zip(runs, together, strict=True) for each in y.chunk(len(run), dim=-1)]

    def _project(self, name: str, inputs: list[Tensor], sizes: tuple[int, ...], bias: Tensor | None) -> list[Tensor]:
        layer = self._modules.get(name)
        if isinstance(layer, Projection):
            return [layer(x, part=part).contiguous() for x, part in zip(inputs, layer.parts(sizes, bias), strict=True)]
        weight = self._parameters[PROJECTIONS[name]]
        assert weight is not None
        biases = [None] * len(sizes) if bias is None else bias.split(sizes)
        return [F.linear(*each) for each in zip(inputs, weight.split(sizes), biases, strict=True)]

    def _extended(self, k: Tensor, v: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        """Keys and values with the learned pair and the zeros that torch's options append to each sequence."""
        if self.bias_k is not None and self.bias_v is not None:
            shape = k.select(axis, 0).unsqueeze(axis).shape
            k, v = (torch.cat([x, b.expand(shape)], axis) for x, b in ((k, self.bias_k), (v, self.bias_v)))
        if self.add_zero_attn:
            zeros = k.new_zeros(k.select(axis, 0).unsqueeze(axis).shape)
            k, v = torch.cat([k, zeros], axis), torch.cat([v, zeros], axis)
        return k, v

    def _heads(self, projected: Tensor, axis: int) -> Tensor:
        """``(batch, heads, tokens, features)``."""
        split: Tensor = projected.unflatten(-1, (self.num_heads, self.head_dim))
        return split.permute((0, 2, 1, 3) if axis == 1 else (1, 2, 0, 3))

    def _mask(
        self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, size: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor | None:
        """The sum of both masks, for ``size``, (batch, heads, queries, keys) with the keys that options append."""
        batch, heads, queries, all_keys = size
        more = (self.bias_k is not None) + self.add_zero_attn
        keys, found = all_keys - more, None
        shapes = {(queries, keys): (1, 1, queries, all_keys), (batch * heads, queries, keys): size}
        paddings = dict.fromkeys([(batch, keys), (keys,)][: 1 + (batch == 1)], (batch, 1, 1, all_keys))
        for name, mask, fits in (("attn_mask", attn_mask, shapes), ("key_padding_mask", key_padding_mask, paddings)):
            if mask is None:
                continue
            if tuple(mask.shape) not in fits:
                raise ValueError(f"{name} must have shape {' or '.join(map(str, fits))}, got {tuple(mask.shape)}.")
            shape = fits[tuple(mask.shape)]
            if mask.dtype == torch.bool:
                mask = torch.zeros(mask.shape, dtype=dtype).masked_fill_(mask, -math.inf)
            added = F.pad(mask, (0, more)).view(shape)
            found = added if found is None else found + added
        return found

    def _output(self, mixed: Tensor) -> Tensor:
        layer: nn.Module = self.out_proj
        if isinstance(layer, SparseLayer):
            out: Tensor = layer(mixed)
            return out
        return F.linear(mixed, self.out_proj.weight, self.out_proj.bias)  # torch does not call it either

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        # As in a sparse layer: a dense one must not take this state and stay as it was made.
        destination.update({prefix + PROJECTIONS[name]: torch.empty(0) for name in self._projections()})
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in self._projections():
            if (weight := state_dict.pop(prefix + PROJECTIONS[name], None)) is not None:
                state_dict[f"{prefix}{name}.weight"] = weight
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _projections(self) -> list[str]:
        return [name for name in PROJECTIONS if isinstance(self._modules.get(name), Projection)]


def hold_sparse_(attention: nn.MultiheadAttention, projections: Mapping[str, Projection]) -> None:
    """Make torch's attention one that has these layers in place of its own weights, which are gone already."""
    attention.__class__ = MultiheadAttention
    attention._modules = {**projections, **attention._modules}


def hold_dense_(attention: nn.MultiheadAttention) -> None:
    """Make it torch's again; its projections are dense layers by now."""
    attention.__class__ = nn.MultiheadAttention
    for name, weight in PROJECTIONS.items():
        if (layer := attention._modules.pop(name, None)) is not None:
            attention._parameters[weight] = layer._parameters["weight"]
