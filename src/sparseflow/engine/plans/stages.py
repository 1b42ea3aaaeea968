"""The chains of layers that a plan can compute, read from a network and fused where that is free."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

import torch
from torch import Tensor, nn

from sparseflow.engine.layers.geometry import Window, convolution_window, pool_divisor, pool_window
from sparseflow.engine.layers.pattern import Pattern

_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Flatten, nn.Identity)


@dataclass(frozen=True)
class Weighted:
    """A linear layer or convolution, with the ReLU that follows it."""

    name: str
    pattern: Pattern
    window: Window
    spatial: int
    """Axes of an image besides batch and channels: 0 for a linear layer."""
    bias: bool
    relu: bool = False


@dataclass(frozen=True)
class MaxPool:
    """Max-pooling, with the ReLU before or after it."""

    name: str
    window: Window
    relu: bool = False


@dataclass(frozen=True)
class AveragePool:
    """Average pooling; ``divisor`` as in :func:`sparseflow.engine.kernels.pooling.average_pool`."""

    name: str
    window: Window
    divisor: int


@dataclass(frozen=True)
class Rectify:
    """A ReLU that is computed by itself."""

    name: str


@dataclass(frozen=True)
class Flatten:
    """Images become features; nothing moves in memory."""

    name: str


Stage = Weighted | MaxPool | AveragePool | Rectify | Flatten


def read_chain(model: nn.Module, masks: Mapping[str, Tensor]) -> list[Stage]:
    """The stages of a network in order: an ``nn.Sequential``, also nested, or a single layer.

    Raises:
        TypeError: if a layer is not supported.
        ValueError: if an option of a layer is not, or a mask names no weight of the chain.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    >>> [type(stage).__name__ for stage in read_chain(model, {})]
    ['Weighted', 'MaxPool', 'Flatten', 'Weighted']
    """
    modules = [(name, module) for name, module in leaves(model) if type(module) is not nn.Identity]
    weighted = [module for _, module in modules if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)]
    if len({id(parameter) for m in weighted for parameter in m.parameters()}) < sum(
        len(list(m.parameters())) for m in weighted
    ):
        raise ValueError("two layers of the chain share a weight, which a plan cannot do. Use engine.convert.")
    stages = [_stage(name, module, masks) for name, module in modules]
    names = {f"{stage.name}.weight".removeprefix(".") for stage in stages if isinstance(stage, Weighted)}
    if unknown := sorted(set(masks) - names):
        raise ValueError(
            f"masks has {', '.join(unknown)}, which is no weight of the chain. Weights: {', '.join(sorted(names))}."
        )
    return list(fused(stages))


def leaves(
    module: nn.Module, name: str = "", *, chains: tuple[type[nn.Module], ...] = (nn.Sequential,)
) -> Iterator[tuple[str, nn.Module]]:
    """Name and layer of each layer of a chain, in order.

    ``chains`` are the types that are chains in turn; a subclass may compute something else.
    """
    if type(module) in chains:
        for key, child in module._modules.items():
            if child is not None:
                yield from leaves(child, f"{name}.{key}" if name else key, chains=chains)
    else:
        yield name, module


def _stage(name: str, module: nn.Module, masks: Mapping[str, Tensor]) -> Stage:
    # A subclass may compute something else.
    if type(module) in _KINDS:
        match module:
            case nn.Linear() | nn.Conv1d() | nn.Conv2d():
                return _weighted(name, module, masks)
            case nn.MaxPool2d():
                if module.return_indices or module.ceil_mode:
                    _unsupported(name, module, "return_indices=False and ceil_mode=False")
                return MaxPool(name, pool_window(module))
            case nn.AvgPool2d():
                if module.ceil_mode:
                    _unsupported(name, module, "ceil_mode=False")
                return AveragePool(name, pool_window(module), pool_divisor(module))
            case nn.ReLU():
                return Rectify(name)
            case nn.Flatten():
                if (module.start_dim, module.end_dim) != (1, -1):
                    _unsupported(name, module, "start_dim=1 and end_dim=-1")
                return Flatten(name)
    kinds = ", ".join(kind.__name__ for kind in _KINDS)
    raise TypeError(
        f"a plan cannot compute layer {name!r}, {type(module).__name__}; it takes chains of {kinds}. "
        "Use the modules: sparseflow.engine.convert(model, masks)."
    )


def _unsupported(name: str, module: nn.Module, needed: str) -> NoReturn:
    raise ValueError(
        f"a plan cannot compute layer {name!r}, {module}: it needs {needed}. "
        "Use the modules: sparseflow.engine.convert(model, masks)."
    )


def _weighted(name: str, module: nn.Linear | nn.Conv1d | nn.Conv2d, masks: Mapping[str, Tensor]) -> Weighted:
    weight = module.weight
    if not all(parameter.requires_grad for parameter in module.parameters()):
        _unsupported(name, module, "parameters that all require gradients")
    mask = masks.get(f"{name}.weight" if name else "weight")
    if mask is None:
        mask = torch.ones_like(weight, dtype=torch.bool)
    if mask.shape != weight.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"the mask of {name!r} must be a bool tensor of shape {tuple(weight.shape)}, got {mask.dtype} of shape "
            f"{tuple(mask.shape)}."
        )
    spatial, window, groups = 0, Window(), 1
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        if module.padding_mode != "zeros":
            _unsupported(name, module, "padding_mode='zeros'")
        spatial, window, groups = weight.dim() - 2, convolution_window(module), module.groups
    return Weighted(name, Pattern.of(mask, groups=groups), window, spatial, module.bias is not None)


def fused(stages: list[Stage]) -> Iterator[Stage]:
    """Take each ReLU into the pool around it, or into the weighted layer before it.

    >>> list(fused([MaxPool("pool", Window((2, 2), (2, 2))), Rectify("relu"), Rectify("relu")]))[0].relu
    True
    """
    rest = list(stages)
    while rest:
        stage = rest.pop(0)
        kinds = [type(following) for following in itertools.islice(rest, 2)]
        if isinstance(stage, Rectify) and kinds[:1] == [MaxPool]:
            # The largest of rectified numbers is the rectified largest.
            pool = rest.pop(0)
            assert isinstance(pool, MaxPool)
            yield replace(pool, relu=True)
        elif kinds[:1] == [Rectify] and (
            isinstance(stage, MaxPool) or (isinstance(stage, Weighted) and kinds[1:] != [MaxPool])
        ):
            rest.pop(0)
            yield replace(stage, relu=True)
        else:
            yield stage
