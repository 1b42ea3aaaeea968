"""The table of layers: which parameters of a layer multiply activations, and which of their axes are units and inputs.

A row is a class, or for a library that need not be installed the pattern of a class's full name, and a function that
gives the layer's weights by name with their layouts. The row of the nearest base class counts.
"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable

from torch import nn

from sparseflow.masks.fans import PLAIN, Layout

#: What a row gives: a layer's own parameter name -> layout.
Layouts = dict[str, Layout]


def _weight(layout: Layout = PLAIN) -> Callable[[nn.Module], Layouts]:
    return lambda module: {"weight": layout}


def _grouped(*, transposed: bool) -> Callable[[nn.Module], Layouts]:
    return lambda module: {"weight": Layout(transposed=transposed, blocks=int(module.groups))}  # type: ignore[arg-type]


def _attention(module: nn.Module) -> Layouts:
    separate = {f"{letter}_proj_weight": PLAIN for letter in "qkv"}
    return {"in_proj_weight": Layout(blocks=3), **separate}


def _recurrent(gates: int) -> Callable[[nn.Module], Layouts]:
    def layouts(module: nn.Module) -> Layouts:
        every: list[str] = getattr(module, "_flat_weights_names", ["weight_ih", "weight_hh"])  # cells have just these
        names = [name for name in every if name.startswith("weight_")]
        return {name: PLAIN if name.startswith("weight_hr") else Layout(blocks=gates) for name in names}

    return layouts


def _experts(module: nn.Module) -> Layouts:
    """Experts as parameters of three axes, first the expert; gate and up may share one, as two halves or interleaved.

    Whatever way gate and up are put together, each is a row (or column) of its own with the same inputs. Which of the
    axes are units is read from ``is_transposed``, which transformers sets since version 5, or from the shapes: down
    has as many inputs as up has units, half those of gate and up together. Where neither says it, nothing is known.
    """
    every = module.named_parameters(recurse=False)
    own = {name.removesuffix("_orig"): p for name, p in every if p.dim() == 3 and "bias" not in name}
    if isinstance(transposed := getattr(module, "is_transposed", None), bool):
        return dict.fromkeys(own, Layout(stacked=True, transposed=transposed))
    if not {"gate_up_proj", "down_proj"} <= own.keys():
        return {}
    (_, *first), (_, *last) = own["gate_up_proj"].shape, own["down_proj"].shape
    for transposed in (False, True):
        (units, _), (_, inputs) = (first[::-1], last[::-1]) if transposed else (first, last)
        if units == 2 * inputs:
            return dict.fromkeys(own, Layout(stacked=True, transposed=transposed))
    return {}


def _stacked(*names: str, transposed: bool = False) -> Callable[[nn.Module], Layouts]:
    return lambda module: dict.fromkeys(names, Layout(stacked=True, transposed=transposed))


def _dbrx(module: nn.Module) -> Layouts:
    """Experts below each other in two axes; the third matrix is stored with inputs first."""
    blocks = int(module.moe_num_experts)  # type: ignore[arg-type]
    return {
        "w1": Layout(blocks=blocks),
        "v1": Layout(blocks=blocks),
        "w2": Layout(blocks=blocks, transposed=True),
    }


#: Module class, or pattern of its full name -> the weights of it that multiply activations, with their layouts.
LAYERS: dict[type[nn.Module] | str, Callable[[nn.Module], Layouts]] = {
    nn.Linear: _weight(),
    nn.Bilinear: _weight(),
    nn.Conv1d: _grouped(transposed=False),
    nn.Conv2d: _grouped(transposed=False),
    nn.Conv3d: _grouped(transposed=False),
    nn.ConvTranspose1d: _grouped(transposed=True),
    nn.ConvTranspose2d: _grouped(transposed=True),
    nn.ConvTranspose3d: _grouped(transposed=True),
    nn.MultiheadAttention: _attention,
    nn.RNN: _recurrent(1),
    nn.LSTM: _recurrent(4),
    nn.GRU: _recurrent(3),
    nn.RNNCell: _recurrent(1),
    nn.LSTMCell: _recurrent(4),
    nn.GRUCell: _recurrent(3),
    nn.Embedding: _weight(Layout(lookup=True)),
    nn.EmbeddingBag: _weight(Layout(lookup=True)),
    "transformers.*.Conv1D": _weight(Layout(transposed=True)),
    "transformers.*GroupedLinear": lambda module: {"weight": Layout(blocks=int(module.n_groups))},  # type: ignore[arg-type]
    "transformers.*Router": _weight(),
    "transformers.*ParallelExperts": _stacked("weight"),
    "transformers.*.InklingSharedExperts": _stacked("gate_proj", "up_proj", "down_proj"),
    "transformers.*.DbrxExpertGLU": _dbrx,
    "transformers.*FlexibleLinear": _stacked("weight"),
    "transformers.*.CsmCodebooksHead": _stacked("weight", transposed=True),
    "transformers.*.GroupedLinearLayer": _stacked("weight", transposed=True),
    "torchvision.ops.*.DeformConv2d": _grouped(transposed=False),
    "*Experts": _experts,
}


def row(module: nn.Module) -> type[nn.Module] | str | None:
    """The key of the row of :data:`LAYERS` that a module falls under: of its class, else of the nearest base class.

    >>> row(nn.Linear(2, 2)), row(nn.ReLU())
    (<class 'torch.nn.modules.linear.Linear'>, None)
    """
    patterns = tuple(key for key in LAYERS if isinstance(key, str))
    for kind in type(module).__mro__:
        if kind in LAYERS:
            return kind
        if found := _pattern(f"{kind.__module__}.{kind.__qualname__}", patterns):
            return found
    return None


@functools.lru_cache(maxsize=4096)  # a model has the same few classes many times
def _pattern(name: str, patterns: tuple[str, ...]) -> str | None:
    return next((pattern for pattern in patterns if fnmatch.fnmatchcase(name, pattern)), None)


def layouts(module: nn.Module) -> Layouts:
    """The weights of a module that multiply activations, by its own names for them; those that it has not included.

    >>> layouts(nn.Conv2d(4, 4, 3, groups=2))
    {'weight': Layout(transposed=False, blocks=2, lookup=False, stacked=False)}
    """
    key = row(module)
    return {} if key is None else LAYERS[key](module)


def row_name(key: type[nn.Module] | str) -> str:
    """A key of the table in an error."""
    return key if isinstance(key, str) else key.__name__
