"""The models that have a Hessian in closed form: chains of affine layers and piecewise-linear functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sparseflow.masks.select import unwrap

#: Zero second derivative wherever they have a first one, entry by entry.
POINTWISE: tuple[type[nn.Module], ...] = (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Hardtanh)
#: The same for eval mode: they do nothing.
NOTHING: tuple[type[nn.Module], ...] = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
POOLS: tuple[type[nn.Module], ...] = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
AFFINE: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d)


@dataclass(frozen=True, eq=False)
class Stage:
    """An affine layer with what follows it up to the next one."""

    name: str
    layer: nn.Linear | nn.Conv2d
    after: tuple[nn.Module, ...]


@dataclass(frozen=True, eq=False)
class Chain:
    """A network as convolutions, then dense layers; either part may be empty."""

    before: tuple[nn.Module, ...]
    convolutions: tuple[Stage, ...]
    dense: tuple[Stage, ...]

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All affine layers in order."""
        return self.convolutions + self.dense


def closed_form_refusal(
    model: nn.Module,
    inputs: Any = None,
    targets: Any = None,
    *,
    loss_fn: Callable[..., Tensor] | None = F.cross_entropy,
) -> str | None:
    """The reason why :func:`sparseflow.analysis.hessian` has no closed form here; ``None`` where it has one.

    It has one for every ``nn.Sequential`` (also nested) of linear layers and 2-d convolutions, ReLU, LeakyReLU, ReLU6,
    Hardtanh, dropout, max and average pooling and Flatten, under the mean cross-entropy of class labels.

    Without ``inputs`` and ``targets`` of a batch, shapes and labels are not looked at.

    >>> closed_form_refusal(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    >>> closed_form_refusal(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    "'1' is Tanh, which is not piecewise linear"
    """
    try:
        chain = chain_of(model)
    except TypeError as error:
        return str(error)
    if not _is_cross_entropy(loss_fn):
        return "the loss is not torch.nn.functional.cross_entropy"
    if not all(part is None or isinstance(part, Tensor) for part in (inputs, targets)):
        return "the batches are not pairs of tensors (inputs, targets)"
    dimensions = 4 if chain.convolutions else 2
    if inputs is not None and inputs.dim() != dimensions and not any(type(m) is nn.Flatten for m in chain.before):
        return f"{chain.stages[0].name!r} gets inputs of {inputs.dim()} dimensions, not {dimensions}"
    if targets is not None and (targets.dim() != 1 or targets.is_floating_point() or bool((targets < 0).any())):
        return "the targets are not class labels, one for each example"
    return None


def chain_of(model: nn.Module) -> Chain:
    """The layers of a model in the order of computation.

    Raises:
        TypeError: if it is no chain of layers that have a closed form; it names the layer.
    """
    before: list[nn.Module] = []
    stages: list[tuple[str, nn.Module, list[nn.Module]]] = []
    is_flat, seen = False, set()
    for name, module in _leaves(unwrap(model), ""):
        kind = type(module)
        if any(id(parameter) in seen for parameter in module.parameters()):
            raise TypeError(f"{name!r} shares its parameters with another layer")
        seen |= {id(parameter) for parameter in module.parameters()}
        if kind in AFFINE:
            _check_affine(
                name, module, is_flat=is_flat, has_convolution=any(type(m) is nn.Conv2d for _, m, _ in stages)
            )
            is_flat |= kind is nn.Linear
            stages.append((name, module, []))
            continue
        if isinstance(module, nn.Flatten):
            if (module.start_dim, module.end_dim) != (1, -1):
                raise TypeError(f"{name!r} keeps more than the first dimension")
            is_flat = True
        elif kind in POOLS:
            if is_flat:
                raise TypeError(f"{name!r} is {kind.__name__} behind a flat layer")
            if getattr(module, "return_indices", False):
                raise TypeError(f"{name!r} returns indices too")
        elif kind not in POINTWISE + NOTHING:
            raise TypeError(f"{name!r} is {kind.__name__}, which is not piecewise linear")
        if kind not in NOTHING:
            (stages[-1][2] if stages else before).append(module)
    if not stages:
        raise TypeError("the model has no linear layer and no convolution")
    if not is_flat:
        raise TypeError(f"what follows {stages[-1][0]!r} does not end in Flatten")
    found = [Stage(name, layer, tuple(after)) for name, layer, after in stages]  # type: ignore[arg-type]
    return Chain(
        tuple(before),
        tuple(stage for stage in found if type(stage.layer) is nn.Conv2d),
        tuple(stage for stage in found if type(stage.layer) is nn.Linear),
    )


def _leaves(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    if module._forward_hooks or module._forward_pre_hooks:
        raise TypeError(f"{name!r} has forward hooks, which may change what it computes")
    if type(module).forward is nn.Sequential.forward:
        for child_name, child in module._modules.items():  # named_children() leaves out repetitions
            assert child is not None
            yield from _leaves(child, f"{name}.{child_name}" if name else child_name)
    else:
        yield name, module


def _check_affine(name: str, module: nn.Module, *, is_flat: bool, has_convolution: bool) -> None:
    if isinstance(module, nn.Conv2d):
        if is_flat:
            raise TypeError(f"{name!r} is a convolution behind a flat layer")
        if module.padding_mode != "zeros":
            raise TypeError(f"{name!r} pads with {module.padding_mode!r}, not with zeros")
    elif has_convolution and not is_flat:
        raise TypeError(f"{name!r} is a linear layer behind a convolution without Flatten between them")


def _is_cross_entropy(loss_fn: Callable[..., Tensor] | None) -> bool:
    if type(loss_fn) is nn.CrossEntropyLoss:
        return loss_fn.weight is None and loss_fn.reduction == "mean" and loss_fn.label_smoothing == 0
    return loss_fn is F.cross_entropy
