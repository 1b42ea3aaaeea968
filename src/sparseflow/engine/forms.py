"""Which weights the engine takes, in which form, and why it leaves the others masked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from sparseflow._checks import check_masks
from sparseflow.boundary import checked
from sparseflow.engine.layers.attention import PROJECTIONS, OutputProjection
from sparseflow.engine.layers.embedding import SparseEmbedding
from sparseflow.engine.layers.modules import SparseConv1d, SparseConv2d, SparseLinear
from sparseflow.masks.select import maskable, unwrap
from sparseflow.types import Masks

#: Dense layer -> its sparse form. Exact types: a subclass may use its weight in its own way.
SPARSE_FORMS: dict[type[nn.Module], Any] = {
    nn.Linear: SparseLinear,
    nn.Conv1d: SparseConv1d,
    nn.Conv2d: SparseConv2d,
    NonDynamicallyQuantizableLinear: OutputProjection,
    nn.Embedding: SparseEmbedding,
}
#: Parameters that a layer has beside its weight.
_OTHERS = frozenset(["bias"])
_OTHERS_OF_ATTENTION = frozenset([*PROJECTIONS.values(), "in_proj_bias", "bias_k", "bias_v"])


def why_not(
    module: nn.Module, attribute: str = "weight", *, holder: nn.Module | None = None, shared: bool = False
) -> str | None:
    """The reason why the engine leaves a weight of a layer masked, or ``None`` if it can take it.

    ``holder`` is the module that holds the layer; ``shared`` says whether another layer uses the same weight.

    >>> why_not(nn.Linear(2, 2)), why_not(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"))
    (None, "padding_mode='circular'")
    >>> why_not(nn.MultiheadAttention(2, 1), "in_proj_weight"), why_not(nn.GRU(2, 1), "weight_ih_l0")
    (None, 'no sparse form of GRU')
    """
    kind = type(module)
    if kind is NonDynamicallyQuantizableLinear:
        # Attention reads its weight and does not call it, so it depends on the attention.
        reason = "it is in no attention" if holder is None else _why_not_kind(holder, (nn.MultiheadAttention,))
    else:
        reason = _why_not_kind(module, (*SPARSE_FORMS, nn.MultiheadAttention))
    if reason is not None:
        return reason
    own = {name: parameter for name, parameter in module._parameters.items() if parameter is not None}
    weight, is_attention = own.get(attribute), kind is nn.MultiheadAttention
    if attribute not in (PROJECTIONS.values() if is_attention else ("weight",)):
        return f"no sparse form of {attribute}"
    if weight is None:
        sources = " and ".join(name for name in (*own, *module._buffers) if name.startswith(attribute))
        removed = f"torch.nn.utils.prune.remove(layer, {attribute!r})"
        mend = f": call {removed} first" if hasattr(module, f"{attribute}_mask") else ""
        return f"a hook makes its weight from {sources} at each call{mend}"
    if more := sorted(own.keys() - {attribute} - (_OTHERS_OF_ATTENTION if is_attention else _OTHERS)):
        return f"it has parameters of its own: {', '.join(more)}"
    if shared:
        return "its weight is shared with another layer"
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return f"padding_mode={module.padding_mode!r}"
    if getattr(module, "max_norm", None) is not None:
        return f"max_norm={module.max_norm!r} writes to the weight at each call"
    if getattr(module, "sparse", False):
        return "sparse=True: it has gradients of a kind that active values cannot have"
    if type(weight) is not nn.Parameter or type(weight.data) is not Tensor:
        return f"its weight is a {type(weight.data).__name__}"
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64):
        return f"{weight.dtype} on {weight.device}"
    return None


def _why_not_kind(module: nn.Module, known: Collection[type[nn.Module]]) -> str | None:
    kind = type(module)
    if kind not in known:
        namesake = any(kind.__name__ == each.__name__ for each in known)
        return f"no sparse form of {f'{kind.__module__}.' if namesake else ''}{kind.__name__}"
    return "its forward was replaced by another function" if "forward" in vars(module) else None


@checked()
def convertible(model: nn.Module, masks: Masks) -> dict[str, str | None]:
    """Masked weight -> the reason why the engine leaves it masked, or ``None`` if it can take it.

    Arguments as :func:`sparseflow.engine.convert`.

    Raises:
        TypeError, ValueError: if a mask does not fit.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.Conv3d(1, 1, 1))
    >>> convertible(model, {"0.weight": torch.ones(4, 4).bool(), "1.weight": torch.ones(1, 1, 1, 1, 1).bool()})
    {'0.weight': None, '1.weight': 'no sparse form of Conv3d'}
    """
    model = unwrap(model)
    check_masks(masks, {name: weight.parameter for name, weight in maskable(model).items()})
    uses = Counter(id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False))
    found = {}
    for name in masks:
        path, _, attribute = name.rpartition(".")
        holder = model.get_submodule(path.rpartition(".")[0]) if path else None
        is_shared = uses[id(model.get_parameter(name))] > 1
        found[name] = why_not(model.get_submodule(path), attribute, holder=holder, shared=is_shared)
    return found
