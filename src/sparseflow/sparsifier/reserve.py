"""Weights that are trained, or may be, and that the network does not compute with: they lie here between steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sparseflow.sharded import full, local, num_true, shard_like
from sparseflow.sparsifier.update import WholeLayer
from sparseflow.sparsifier.weights import MaskedWeights


class Reserve:
    """One value for each masked weight that the network does not use; NaN where it uses the weight itself.

    Between steps the model has the used weights alone. Before a step the trained ones come back from here, so that the
    optimizer steps them by the gradient of a network without them; after it they go.

    Args:
        weights: Masks of what is trained. At first there is a value for every weight: the masks are dense.
        method: One with ``used(layer)``, the mask of what the network computes with, of a layer with every value and
            the mask of what is trained; and ``decay_of_unused(decay, share)``, the weight decay of the rest of these,
            of the optimizer's and of the share that is used.

    Raises:
        ValueError: naming a weight that is stored as active values alone.

    >>> import sparseflow as sf
    >>> layer = torch.nn.Linear(4, 1, bias=False)
    >>> layer.weight.data = torch.tensor([[4.0, -3.0, 2.0, 1.0]])
    >>> weights = MaskedWeights(layer, [torch.optim.SGD(layer.parameters())], sf.dense_masks(layer))
    >>> reserve = Reserve(weights, sf.TopKAST(sparsity=0.75, backward_sparsity=0.5, update_until=9))
    >>> with reserve.opened_():  # masks may change here
    ...     pass
    >>> layer.weight.data, reserve.values["weight"]
    (tensor([[4., 0., 0., 0.]]), tensor([[nan, -3.,  2.,  1.]]))
    """

    def __init__(self, weights: MaskedWeights, method: Any) -> None:
        if weights.stored:
            raise ValueError(
                f"{type(method).__name__} keeps a value for every weight, and {next(iter(weights.stored))!r} is stored "
                "as its active values alone. Keep the model masked."
            )
        self._weights, self._method = weights, method
        self.values: dict[str, Tensor] = {}
        """Parameter name -> values, in parts as the weight is."""
        self._used: dict[str, float] = {}
        self._brought: set[str] = set()

    @contextmanager
    def opened_(self) -> Iterator[None]:
        """Have every value in the model, for masks to be chosen among all; then choose what the network uses.

        Raises:
            ValueError: if a value has become NaN, naming its weight; the model stays as it was.
        """
        for name, value in self.values.items():
            if num_true(value.isnan()) != round(self._used[name] * value.numel()):
                raise ValueError(f"weights of {name!r} that are trained and not used are NaN: training has diverged.")
        values = {}
        with torch.no_grad():
            for name, parameter in self._weights.parameters.items():
                held, kept = parameter.detach(), self.values.get(name)
                values[name] = held.clone() if kept is None else torch.where(kept.isnan(), held, kept)
                held.copy_(values[name])
        self._brought |= self.values.keys()
        try:
            yield
        except BaseException:
            self.hide_(self.values)
            raise
        with torch.no_grad():
            for name, value in values.items():
                used = self._method.used(self._layer(name, value))
                local(value).masked_fill_(local(shard_like(used, value)), torch.nan)
        self.load_(values)
        self._brought |= values.keys()
        self.hide_(values)

    def load_(self, values: Mapping[str, Tensor]) -> None:
        """Take over values of these weights, NaN where the model has them."""
        self.values = dict(values)
        self._used = {name: num_true(value.isnan()) / max(1, value.numel()) for name, value in self.values.items()}
        self._brought.clear()

    @torch.no_grad()
    def bring_(self, names: Iterable[str]) -> None:
        """Write the trained weights that are not used into the model, and let them decay as the method says."""
        for name in names:
            parameter, kept = self._weights.parameters[name], local(self.values[name])
            waiting = local(self._weights.dense[name]) & ~kept.isnan()
            held = local(parameter).data
            torch.where(waiting, kept, held, out=held)
            self._brought.add(name)
            self._decay_(name, held, waiting)

    @torch.no_grad()
    def hide_(self, names: Iterable[str]) -> None:
        """Take the trained weights that are not used out of the model, as they are after the step."""
        for name in [name for name in names if name in self._brought]:
            kept, held = local(self.values[name]), local(self._weights.parameters[name]).data
            idle = ~kept.isnan()
            torch.where(idle & local(self._weights.dense[name]), held, kept, out=kept)
            held.masked_fill_(idle, 0.0)
            self._brought.discard(name)

    def _layer(self, name: str, values: Tensor) -> WholeLayer:
        weights = self._weights
        return WholeLayer(
            name=name,
            weight=full(values),
            mask=full(weights.dense[name]),
            gradient=None,
            learning_rate_ratio=1.0,
            num_active=weights.counts[name],
            budget=weights.budgets[name],
            grid=weights.grids.get(name),
            layout=weights.layouts[name],
        )

    def _decay_(self, name: str, held: Tensor, waiting: Tensor) -> None:
        """Make the weight decay of waiting weights what the method says; the optimizer adds its own."""
        parameter = self._weights.parameters[name]
        optimizer = self._weights.optimizer_of[name]
        group = next(group for group in optimizer.param_groups if any(each is parameter for each in group["params"]))
        decay, gradient = float(group.get("weight_decay", 0.0)), parameter.grad
        more = self._method.decay_of_unused(decay, self._used[name]) - decay
        if not more or gradient is None:
            return
        if group.get("decoupled_weight_decay"):
            rate = float(group["lr"])
            torch.where(waiting, held * ((1 - rate * (decay + more)) / (1 - rate * decay)), held, out=held)
            return
        scale = getattr(optimizer, "grad_scale", None)  # of a GradScaler, if the optimizer divides by it itself
        of_each = waiting.to(held.dtype) if scale is None else waiting * scale
        local(gradient).addcmul_(held, of_each.to(held.dtype), value=-more if group.get("maximize") else more)
