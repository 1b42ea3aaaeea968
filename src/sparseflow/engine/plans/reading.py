"""A network's layers and operations as a tape of stages, found by torch.fx."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sparseflow.engine.layers.geometry import Window, convolution_window, pool_divisor, pool_window
from sparseflow.engine.layers.pattern import Pattern
from sparseflow.engine.plans.fusing import fused
from sparseflow.engine.plans.stages import (
    AdaptivePool,
    AveragePool,
    Flatten,
    MaxPool,
    Node,
    Norm,
    Rectify,
    Stage,
    Sum,
    Tape,
    Weighted,
    in_line,
    readers,
)

#: Axes of an image besides batch and channels that each norm takes.
_NORMS: dict[type[nn.Module], tuple[int, ...]] = {nn.BatchNorm1d: (0, 1), nn.BatchNorm2d: (2,)}
_KINDS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, *_NORMS, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten,
    nn.Identity,
)  # fmt: skip
#: Functions and methods, and the layers that compute the same from the same arguments.
_SAME_AS: dict[Any, Callable[..., nn.Module]] = {
    F.relu: nn.ReLU, torch.relu: nn.ReLU, "relu": nn.ReLU, "relu_": lambda: nn.ReLU(inplace=True),
    torch.flatten: nn.Flatten, "flatten": nn.Flatten, F.max_pool2d: nn.MaxPool2d, F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
}  # fmt: skip
_SUMS_IN_PLACE = (operator.iadd, "add_")
_SUMS = (operator.add, torch.add, "add", *_SUMS_IN_PLACE)
_USE_MODULES = "Use the modules: sparseflow.engine.convert(model, masks)."


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # What has parameters of its own is a layer, if only one that a plan does not know; so are subclasses of layers,
        # which may compute something else.
        own = next(m.parameters(recurse=False), None)
        return own is not None or isinstance(m, _KINDS) or super().is_leaf_module(m, module_qualified_name)


def read_tape(model: nn.Module, masks: Mapping[str, Tensor]) -> Tape:
    """The stages of a network, fused where that is free, and which reads which.

    Raises:
        TypeError: if torch.fx cannot follow the network, or a layer or operation is not supported.
        ValueError: if an option of a layer is not, or a mask names no weight of the network.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    >>> [type(node.stage).__name__ for node in read_tape(model, {})]
    ['Weighted', 'MaxPool', 'Flatten', 'Weighted']
    """
    if isinstance(model, _KINDS):
        stage = stage_of("", model, masks)
        tape = in_line([] if stage is None else [stage])
    else:
        tape = _tape_of(model, masks)
    names = {f"{node.stage.name}.weight".removeprefix(".") for node in tape if isinstance(node.stage, Weighted)}
    if unknown := sorted(set(masks) - names):
        raise ValueError(
            f"masks has {', '.join(unknown)}, which is no weight of the network. Weights: {', '.join(sorted(names))}."
        )
    return fused(tape)


def _tape_of(model: nn.Module, masks: Mapping[str, Tensor]) -> Tape:
    operations = _operations(model)
    _check_alone(model, operations)
    tape: Tape = []
    numbers: dict[fx.Node, int] = {}
    written: list[tuple[str, int]] = []
    """Operation that writes in place, and the node whose output it writes to."""
    for operation in operations:
        if operation.op == "placeholder":
            if numbers:
                raise TypeError(f"a plan gives the model one tensor, it takes {operation.name!r} too. {_USE_MODULES}")
            numbers[operation] = -1
        elif operation.op == "output":
            result = operation.args[0]
            if not tape or not isinstance(result, fx.Node) or numbers[result] != len(tape) - 1:
                raise TypeError(f"a plan needs a model that returns its last result, the logits, alone. {_USE_MODULES}")
        elif not _is_size(operation):
            layer, stage = _layer_and_stage(operation, model, masks)
            inputs = tuple(numbers[each] for each in operation.all_input_nodes if each in numbers)
            if isinstance(stage, Sum) and len(inputs) == 1:
                inputs *= 2
            if getattr(layer, "inplace", False) or operation.target in _SUMS_IN_PLACE:
                written.append((operation.name, inputs[0]))
            numbers[operation] = inputs[0] if stage is None else len(tape)
            if stage is not None:
                tape.append(Node(stage, inputs))
    _check_read_once(tape, written)
    return tape


def _operations(model: nn.Module) -> list[fx.Node]:
    try:
        return list(_Tracer().trace(model).nodes)
    except Exception as error:
        raise TypeError(
            f"a plan needs a model that torch.fx can trace, which says: {type(error).__name__}: {error}. {_USE_MODULES}"
        ) from error


def _layer_and_stage(
    operation: fx.Node, model: nn.Module, masks: Mapping[str, Tensor]
) -> tuple[nn.Module | None, Stage | None]:
    """The layer of an operation, or the one that does the same, and its stage; ``None`` where nothing is computed."""
    first, *others = operation.args or (None,)
    if operation.op == "call_module" and not others and not operation.kwargs and isinstance(first, fx.Node):
        name = str(operation.target)
        layer = model.get_submodule(name)
        return layer, stage_of(name, layer, masks)
    if operation.op in ("call_function", "call_method") and _is_image(first):
        if operation.target in _SUMS and len(others) == 1 and _is_image(others[0]) and not operation.kwargs:
            return None, Sum(operation.name)
        if operation.target in ("view", "reshape") and len(others) == 2 and _is_batch(others[0]) and others[1] == -1:
            return None, Flatten(operation.name)
        if operation.target in _SAME_AS and len(operation.all_input_nodes) == 1:
            layer = _SAME_AS[operation.target](*others, **operation.kwargs)
            return layer, stage_of(operation.name, layer, {})
    target = operation.target if isinstance(operation.target, str) else getattr(operation.target, "__name__", "")
    raise TypeError(
        f"a plan has no stage for operation {operation.name!r}, {operation.op} of {target!r} with {operation.args}; "
        f"it knows layers, sums of two images, relu, flatten and pools. {_USE_MODULES}"
    )


def _is_size(operation: object) -> bool:
    """Whether an operation is about the shape of an image: ``x.size(0)``, ``x.shape`` or ``x.shape[0]``."""
    if not isinstance(operation, fx.Node):
        return False
    match operation.target:
        case "size":
            return operation.op == "call_method"
        case builtins.getattr:
            return operation.args[1:] == ("shape",)
        case operator.getitem:
            return _is_size(operation.args[0])
    return False


def _is_image(operation: object) -> bool:
    return isinstance(operation, fx.Node) and not _is_size(operation)


def _is_batch(operation: object) -> bool:
    """Whether it is the number of examples."""
    return _is_size(operation) and operation.args[1:] == (0,)  # type: ignore[attr-defined]


def _check_alone(model: nn.Module, operations: Iterable[fx.Node]) -> None:
    """Whether each layer with parameters is called once, and shares none."""
    called = [model.get_submodule(str(each.target)) for each in operations if each.op == "call_module"]
    parameters = [id(parameter) for layer in called for parameter in layer.parameters()]
    if len(set(parameters)) < len(parameters):
        raise ValueError(f"two layers share a weight, or one is called twice, which a plan cannot do. {_USE_MODULES}")


def _check_read_once(tape: Tape, written: Iterable[tuple[str, int]]) -> None:
    found = readers(tape)
    for i, node in enumerate(tape[:-1]):
        if not found[i]:
            raise ValueError(f"nothing reads the output of {node.stage.name!r}, which a plan cannot do. {_USE_MODULES}")
    for name, i in written:
        while len(found[i]) == 1 and i >= 0 and isinstance(tape[i].stage, Flatten):  # a view
            (i,) = tape[i].inputs
        if len(found[i]) > 1:
            raise ValueError(
                f"operation {name!r} writes in place to what another one reads too, which a plan cannot do. "
                "Leave inplace=True out, or write a + b for a += b."
            )


def stage_of(name: str, module: nn.Module, masks: Mapping[str, Tensor]) -> Stage | None:
    """The stage of a layer; ``None`` for ``nn.Identity``.

    Raises:
        TypeError, ValueError: as :func:`read_tape`.
    """
    # A subclass may compute something else.
    if type(module) in _KINDS:
        match module:
            case nn.Linear() | nn.Conv1d() | nn.Conv2d():
                return _weighted(name, module, masks)
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                return _norm(name, module)
            case nn.MaxPool2d():
                if module.return_indices:
                    _unsupported(name, module, "return_indices=False")
                return MaxPool(name, pool_window(module), ceil=module.ceil_mode)
            case nn.AvgPool2d():
                if module.ceil_mode:
                    _unsupported(name, module, "ceil_mode=False")
                return AveragePool(name, pool_window(module), pool_divisor(module))
            case nn.AdaptiveAvgPool2d():
                size = module.output_size
                return AdaptivePool(name, (size[0], size[1]) if isinstance(size, tuple) else (size, size))
            case nn.ReLU():
                return Rectify(name)
            case nn.Flatten():
                if (module.start_dim, module.end_dim) != (1, -1):
                    _unsupported(name, module, "start_dim=1 and end_dim=-1")
                return Flatten(name)
            case nn.Identity():
                return None
    kinds = ", ".join(kind.__name__ for kind in _KINDS)
    raise TypeError(
        f"a plan cannot compute layer {name!r}, {type(module).__name__}; it takes {kinds}, and sums. {_USE_MODULES}"
    )


def _unsupported(name: str, module: nn.Module, needed: str) -> NoReturn:
    raise ValueError(f"a plan cannot compute layer {name!r}, {module}: it needs {needed}. {_USE_MODULES}")


def _check_trained(name: str, module: nn.Module) -> None:
    if not all(parameter.requires_grad for parameter in module.parameters()):
        _unsupported(name, module, "parameters that all require gradients")


def _norm(name: str, module: nn.BatchNorm1d | nn.BatchNorm2d) -> Norm:
    _check_trained(name, module)
    return Norm(name, module.num_features, _NORMS[type(module)], module.weight is not None, module.bias is not None)


def _weighted(name: str, module: nn.Linear | nn.Conv1d | nn.Conv2d, masks: Mapping[str, Tensor]) -> Weighted:
    weight = module.weight
    _check_trained(name, module)
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
