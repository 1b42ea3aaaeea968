"""Why a weight that multiplies activations cannot be masked, or only on purpose: what the reports and warnings say.

A mask acts on stored numbers. It is worth something only if a stored zero is a zero of the matrix that is used, and if
the numbers can be set.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sparseflow.masks.layers import layouts
from sparseflow.sharded import is_sharded

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
#: What adapters call their matrices, in peft and elsewhere.
_ADAPTERS = ("lora_", "loha_", "hada_", "lokr_", "vera_", "oft_", "boft_", "ia3_")


def obstacle(module: nn.Module, name: str, parameter: Tensor) -> str | None:
    """Why this parameter of a known layer cannot be masked; ``None`` if it can.

    >>> obstacle(nn.Linear(2, 2), "weight", torch.zeros(2, 2)) is None
    True
    >>> obstacle(nn.Linear(2, 2), "weight", torch.zeros(2, 2, dtype=torch.int8))
    'quantised: stored as int8'
    """
    if _is_quantised(parameter):
        return f"quantised: stored as {_dtype(parameter)}"
    kind = type(parameter)
    if kind.__module__.startswith("bitsandbytes.") and not getattr(parameter, "has_fp16_weights", False):
        return f"quantised by bitsandbytes: {kind.__name__}"
    if kind.__torch_dispatch__ is not Tensor.__torch_dispatch__ and not is_sharded(parameter):
        return f"its numbers are inside a {kind.__name__}, not in a plain tensor"
    if name == "weight" and not _keeps_zeros(module):
        return f"{type(module).__name__} computes the matrix that it uses from it, and a zero does not stay zero"
    return None


def _is_quantised(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or tensor.dtype.itemsize == 1  # float8 too


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def unknown(module: nn.Module, name: str, path: str, owners: dict[str, nn.Module]) -> str:
    """Why a parameter that no row of the table lists is not known.

    Args:
        module: The module that has it.
        name: Its own name there.
        path: The module's name in the model.
        owners: Names of the model's modules, to find the layer that a parametrization belongs to.
    """
    parts = path.split(".") if path else []
    if "parametrizations" in parts:
        at = parts.index("parametrizations")
        layer, tensor = owners[".".join(parts[:at])], parts[at + 1]
        steps = getattr(layer, "parametrizations")[tensor]  # noqa: B009 - not an attribute that types know
        by = ", ".join(type(step).__name__.lstrip("_") for step in steps)
        kind = type(layer).__name__.removeprefix("Parametrized")
        return f"the {tensor} of {kind} is computed from it by {by}; see torch.nn.utils.parametrize"
    for used in layouts(module):
        if used not in module._parameters and name.startswith(f"{used}_"):
            if f"{used}_mask" in module._buffers:
                return (
                    f"the {used} of {type(module).__name__} is pruned by torch.nn.utils.prune; "
                    "sparseflow.remove_pruning_(model) makes it a plain weight"
                )
            hooks = (getattr(hook, "__self__", hook) for hook in module._forward_pre_hooks.values())
            by = ", ".join(type(hook).__name__ for hook in hooks if getattr(hook, "name", None) == used)
            return f"the {used} of {type(module).__name__} is computed from it" + (f" by {by}" if by else "")
    what = "unknown parameter of a known layer" if layouts(module) else "unknown layer"
    return f"{what}: {type(module).__name__}"


def not_parameters(module: nn.Module) -> dict[str, tuple[Tensor, str]]:
    """Matrices of a layer that are no parameters, by own name, each with what it is instead.

    >>> layer = nn.Linear(2, 2)
    >>> weight = layer.weight.detach()
    >>> del layer.weight
    >>> layer.register_buffer("weight", weight)
    >>> [reason for _, reason in not_parameters(layer).values()]
    ['a buffer, not a parameter']
    """
    found = {
        name: (module._buffers[name], "a buffer, not a parameter")
        for name in layouts(module)
        if module._buffers.get(name) is not None
    }
    kind = type(module)
    for name, buffer in module._buffers.items():
        if "weight" in name and buffer is not None and buffer.dim() > 1 and _is_quantised(buffer):
            found[name] = (buffer, f"quantised: {kind.__name__} stores {_dtype(buffer)}")
    if kind.__module__.startswith("torch.ao.nn.") and callable(getattr(module, "weight", None)):
        found["weight"] = (module.weight(), f"quantised: {kind.__name__} of {kind.__module__}")  # type: ignore[operator]
    return found  # type: ignore[return-value]


def of_peft(modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The modules that peft has put around others, by name: its layers, and its copies of what is trained whole."""
    kinds = {"BaseTunerLayer", "AuxiliaryTrainingWrapper"}
    return {n: m for n, m in modules.items() if kinds & {kind.__name__ for kind in type(m).__mro__}}


def adapter(name: str, wrappers: Mapping[str, nn.Module]) -> str | None:
    """What a weight is to a low-rank adapter: one of its matrices, or a matrix that is used together with it.

    Args:
        name: The parameter's.
        wrappers: What :func:`of_peft` has found; adapters of others are known by the names of their matrices.

    >>> adapter("layer.lora_A.weight", {})
    'adapters are opt-in: lora_A'
    """
    if matrix := next((part for part in name.split(".") if part.startswith(_ADAPTERS)), None):
        return f"adapters are opt-in: {matrix}"
    for prefix, wrapper in wrappers.items():
        if not prefix or name.startswith(f"{prefix}."):
            inside = name.removeprefix(f"{prefix}." if prefix else "").split(".")[0]
            kind = f"{type(wrapper).__name__} of {_library(wrapper)}"
            if inside == "base_layer":
                return f"opt-in: {kind} uses it together with an adapter"
            if inside == "original_module":
                return f"opt-in: the copy that {kind} keeps of what is trained"
            return None if inside == "modules_to_save" else f"adapters are opt-in: {inside}"
    return None


def _library(module: nn.Module) -> str:
    return type(module).__module__.split(".")[0]


def _code(kind: type[nn.Module]) -> tuple[object, object]:
    return kind.forward, getattr(kind, "_conv_forward", None)


#: Class of a layer -> options -> whether its zeros stay zeros.
_TRIED: WeakKeyDictionary[type[nn.Module], dict[frozenset[tuple[str, object]], bool]] = WeakKeyDictionary()


def _keeps_zeros(module: nn.Module) -> bool:
    """Whether a zero of a linear or convolution layer's weight is a zero of the matrix that it uses.

    True of torch's own. A subclass with a ``forward`` of its own is tried out once for each set of its switches.
    """
    kind = type(module)
    base = next((base for base in (nn.Linear, *_CONVOLUTIONS) if isinstance(module, base)), None)
    if base is None or kind.__module__.startswith("torch.nn.modules.") or _code(kind) == _code(base):
        return True
    switches = frozenset(
        (k, v) for k, v in vars(module).items() if isinstance(v, bool | str | None) and k != "training"
    )
    tried = _TRIED.setdefault(kind, {})
    if switches not in tried:
        tried[switches] = _try_zeros(module)
    return tried[switches]


def _try_zeros(module: nn.Module) -> bool:
    """Leave each unit of a copy one connection: an output of the first unit may then depend on one input only.

    A layer that cannot be tried (its ``forward`` takes something else) is taken for what its base class is.
    """
    layout, shape = layouts(module)["weight"], cast(Tensor, module.weight).shape
    units, inputs, *kernel = (shape[1], shape[0], *shape[2:]) if layout.transposed else shape
    weight = torch.zeros(units, inputs * math.prod(kernel))
    weight[:, weight.shape[1] // 2] = 1
    weight = weight.view(units, inputs, *kernel)
    weight = weight.transpose(0, 1) if layout.transposed else weight
    x = torch.ones([1, inputs] if isinstance(module, nn.Linear) else _one_example(module), requires_grad=True)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            # In training too, for layers that add noise there.
            outputs = [_copy_of_ones(module, weight).train(mode).forward(x)[0, 0].flatten() for mode in (False, True)]
            return all(
                int(torch.autograd.grad(output[at], x, retain_graph=True)[0].count_nonzero()) <= 1
                for output in outputs
                for at in range(0, len(output), max(1, len(output) // 64))
            )
    except Exception:  # noqa: BLE001 - whatever code of other people raises
        return True


def _one_example(convolution: nn.Module) -> list[int]:
    sizes = zip(convolution.kernel_size, convolution.dilation, strict=True)  # type: ignore[arg-type]
    return [1, int(convolution.in_channels), *(2 * ((size - 1) * step + 1) for size, step in sizes)]  # type: ignore[arg-type]


def _copy_of_ones(module: nn.Module, weight: Tensor) -> nn.Module:
    """A copy on the CPU with this weight, whose other parameters are ones; it shares nothing that is written."""
    copied = copy.copy(module)
    copied.__dict__ = dict(module.__dict__)
    copied._parameters = {
        n: None if p is None else nn.Parameter(torch.ones(p.shape)) for n, p in module._parameters.items()
    }
    copied._buffers = {n: None if b is None else b.detach().clone().cpu() for n, b in module._buffers.items()}
    copied._modules = {n: None if m is None else copy.deepcopy(m).cpu() for n, m in module._modules.items()}
    copied._parameters["weight"] = nn.Parameter(weight)
    return copied
