"""The active values of one weight as a module: its names, its part in states and in updates, and its dense form."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import reduce
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from sparseflow.engine.layers.dense_view import DenseView
from sparseflow.engine.layers.pattern import BLOCK, Pattern
from sparseflow.sparsifier.stored import replace_values_

_FLOATS = (torch.float32, torch.float64)
#: What a state has of a sparse layer beside ``values`` and the dense layer's own names.
PATTERN_NAMES = frozenset(["begins", "indices", "weight"])


class ActiveWeight(nn.Module):
    """What takes the place of a dense layer and has the active values of its weight alone: linear, attention, lookup.

    ``values`` are ``(nonzeros,)`` in the order of the flattened dense weight. Inactive weights do not exist: gradients
    and optimizer state have the size of the values. All other attributes of the dense layer are here too, such as
    ``in_features`` or ``stride``, and so are its hooks.

    Args:
        values: ``(nonzeros,)``, float32 or float64, on the CPU; taken over, not copied.
    """

    dense_kind: ClassVar[type[nn.Module]]
    """The layer that it replaces."""
    weight_suffix: ClassVar[str] = ".weight"
    """What follows the layer's path in the name of the dense weight."""

    def __init__(self, pattern: Pattern, values: Tensor) -> None:
        super().__init__()
        if values.dtype not in _FLOATS or values.device.type != "cpu":
            raise TypeError(
                f"the sparse engine computes float32 and float64 on the CPU, got {values.dtype} on {values.device}. "
                "Convert the model first, or keep it masked."
            )
        if values.shape != (pattern.num_active,):
            raise ValueError(
                f"values must be one number for each of {pattern.num_active} active weights, got {tuple(values.shape)}."
            )
        self.pattern = pattern
        self.values = nn.Parameter(values)
        self._passes: list[tuple[Any, ...]] | None = None
        self._task = -1

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the dense weight."""
        return self.pattern.shape

    @property
    def weight(self) -> Tensor:
        """The dense weight, for code that looks at it; see :class:`~sparseflow.engine.layers.dense_view.DenseView`."""
        return DenseView.of(self)

    def __getattr__(self, name: str) -> Any:
        """Raise an error that says why this layer has less than the dense one."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r}: it takes the place of an nn."
                f"{self.dense_kind.__name__} and has that layer's own attributes, its weight as a view and its bias. "
                "sparseflow.engine.to_dense(model) gives the dense layers back."
            ) from None

    def positions(self) -> Tensor:
        """int64 ``(nonzeros,)``, ascending: where the values are in the flattened dense weight."""
        return self.pattern.positions()

    def mask(self) -> Tensor:
        """bool, of the dense weight's shape."""
        return self.pattern.mask()

    def move_(self, positions: Tensor) -> None:
        """Take other positions; the caller must then set ``values`` to the same length.

        Raises:
            ValueError: if they are not ascending, repeat, or are outside the weight.
        """
        self.pattern = Pattern.at(positions, self.pattern.shape, groups=self.pattern.groups)

    @property
    def keeps_gradients(self) -> bool:
        """Whether backward passes keep their parts of the dense gradient."""
        return self._passes is not None

    def keep_gradients(self, keep: bool) -> None:
        """Make each backward pass keep what the dense gradient is made of; ``False`` forgets them and stops."""
        self._passes = [] if keep else None

    def gradient_rows(self) -> Callable[[int, int], Tensor] | None:
        """The dense gradient of outputs [first, last) over the backward passes kept, as a function of both."""
        passes = self._passes
        if not passes:
            return None
        return lambda first, last: reduce(torch.add, (self._gradient_rows(*kept, first, last) for kept in passes))

    def _gradient_rows(self, *arguments: Any) -> Tensor:
        """Rows of the dense gradient of one call: what :meth:`_record` was given, and the first and last row."""
        raise NotImplementedError

    def _record(self, *kept: Any) -> None:
        """Keep what one call had in a backward pass."""
        assert self._passes is not None
        # All calls of one backward pass are kept: a layer may be called several times, or in parts.
        task = torch._C._current_graph_task_id()
        if task != self._task and (self.values.grad is None or not self.values.grad.any()):
            self._passes.clear()  # gradients were set to zero since
        self._task = task
        self._passes.append(kept)

    def dense_weight(self) -> Tensor:
        """The weight with its zeros, detached."""
        return self.pattern.scatter(self.values)

    @classmethod
    def of(cls, layer: Any, mask: Tensor) -> Self:
        """The sparse form of a dense layer; weights off the mask are dropped.

        Raises:
            TypeError, ValueError: if the layer has no sparse form.
        """
        sparse = cls.bare(layer, mask)
        take_over_(sparse, layer, {})
        return sparse

    @classmethod
    def bare(cls, layer: Any, mask: Tensor) -> Self:
        """The sparse form with the layer's parameters alone, see :func:`take_over_`."""
        raise NotImplementedError

    def dense_form(self) -> nn.Module:
        """The dense layer with zeros."""
        layer = self.bare_dense()
        take_over_(layer, self, {})
        return layer

    def bare_dense(self) -> nn.Module:
        """The dense layer with this one's parameters alone, see :func:`take_over_`."""
        layer = self.dense_kind.__new__(self.dense_kind)
        nn.Module.__init__(layer)
        layer.weight = nn.Parameter(self.dense_weight(), requires_grad=self.values.requires_grad)
        return layer

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "begins"] = torch.from_numpy(self.pattern.begins)
        destination[prefix + "indices"] = torch.from_numpy(self.pattern.indices)
        # A loader that skips names it does not know would leave the dense layer as it was made. This does not fit it.
        destination[prefix + "weight"] = torch.empty(0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take a state of this layer with any pattern, or the dense ``weight`` of the layer that was converted."""
        weight, begins, indices = (state_dict.pop(prefix + name, None) for name in ("weight", "begins", "indices"))
        values, pattern = state_dict.get(prefix + "values"), self.pattern
        if begins is not None and indices is not None:
            pattern = self._pattern_at(begins, indices, prefix)
        if weight is not None and values is None:
            if weight.shape != pattern.shape:
                raise ValueError(f"{prefix}weight must have shape {pattern.shape}, got {tuple(weight.shape)}.")
            values = pattern.gather(weight)
            if int(values.count_nonzero()) != int(weight.count_nonzero()):
                raise ValueError(
                    f"{prefix}weight is nonzero where this layer has no weights. Convert the dense model with its own "
                    "masks: sparseflow.engine.convert(model, masks)."
                )
        if values is not None:
            if values.shape != (pattern.num_active,):
                raise ValueError(
                    f"{prefix}values must have {pattern.num_active} numbers, as {prefix}indices says, got "
                    f"{tuple(values.shape)}. Load a state that state_dict() of a converted model gave."
                )
            state_dict[prefix + "values"] = values
            if pattern is not self.pattern:
                self.move_(pattern.positions())
                replace_values_(self.values, values.detach().to(self.values.dtype, copy=True))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _pattern_at(self, begins: Tensor, indices: Tensor, prefix: str) -> Pattern:
        shape = self.pattern.shape
        block = 1 if len(begins) == shape[0] + 1 else BLOCK
        rows = torch.repeat_interleave(begins.long().diff())
        if len(begins) != shape[0] / block + 1 or len(rows) != len(indices):
            raise ValueError(
                f"{prefix}begins and {prefix}indices are of another layer than one of shape {shape}. Load "
                "the state into a model of the architecture that was saved."
            )
        return Pattern.at(rows * math.prod(shape[1:]) + indices, shape, groups=self.pattern.groups, block=block)

    def extra_repr(self) -> str:
        """Shape and sparsity."""
        return f"{list(self.pattern.shape)}, {self.pattern.num_active} of {math.prod(self.pattern.shape)} weights"


def take_over_(layer: nn.Module, replaced: nn.Module, memo: dict[int, Any]) -> None:
    """Give a layer copies of what the one it replaces has beside parameters: attributes, buffers, hooks, its mode.

    ``memo`` is that of the copy of the whole model, see :func:`copy.deepcopy`: a hook may belong to another module.
    """
    vars(layer).update({key: copy.deepcopy(value, memo) for key, value in vars(replaced).items() if key not in _OWN})


#: What a sparse layer does not share with the dense one.
_OWN = frozenset(["_parameters", "pattern", "window", "_passes", "_task", "_products"])
