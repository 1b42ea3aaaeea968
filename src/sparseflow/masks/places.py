"""Every parameter of a model with the places where it is used, and what is known of each."""

from __future__ import annotations

import re
from typing import NamedTuple, cast

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from sparseflow.masks.fans import Layout
from sparseflow.masks.layers import layouts
from sparseflow.masks.obstacles import adapter, not_parameters, obstacle, of_peft, unknown

#: Their parameters are scales and shifts, whatever the shape.
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)

#: So are those of norms of other libraries: ``LlamaRMSNorm``, ``LayerNorm2d``; not of a ``NormLinear``.
_CALLED_NORM = re.compile(r"Norm(\d?d|Act\w*|Gated|)$")

#: Prunable only when ``include`` names them: a row is looked up, nothing is multiplied.
OPT_IN: tuple[type[nn.Module], ...] = (nn.Embedding, nn.EmbeddingBag)


class Place(NamedTuple):
    """One use of a parameter."""

    name: str
    module_name: str
    module: nn.Module
    layout: Layout | None
    """``None`` where no mask can be."""
    why: str = ""
    """Why there is no layout; nothing for norms, biases and scales."""
    opt_in: str = ""
    """Why it is only masked when included."""
    blocked: bool = False
    """The layer is known, but this one of its weights cannot be masked, wherever else it is used."""


def parameter_places(model: nn.Module) -> list[tuple[nn.Parameter, list[Place]]]:
    """Each parameter once, with every place where the model uses it, and matrices that are no parameters.

    Raises:
        ValueError: if a parameter is uninitialised (lazy).

    >>> [(place.name, place.layout is not None) for _, found in parameter_places(nn.Linear(2, 2)) for place in found]
    [('weight', True), ('bias', False)]
    """
    found: dict[nn.Parameter, list[Place]] = {}
    modules = dict(model.named_modules())
    wrappers = of_peft(modules)
    for module_name, module in modules.items():
        known = layouts(module)
        for local, parameter in module.named_parameters(recurse=False):
            name = f"{module_name}.{local}" if module_name else local
            if isinstance(parameter, UninitializedParameter):
                raise ValueError(f"{name!r} has no shape yet. Run one batch through the model before making masks.")
            place = Place(name, module_name, module, None)
            if (layout := known.get(local)) is None:
                if not _never_masked(module, local, parameter):
                    place = place._replace(why=unknown(module, local, module_name, modules))
            elif why := obstacle(module, local, parameter):
                place = place._replace(why=why, blocked=True)
            else:
                opt_in = adapter(name, wrappers) or ""
                if isinstance(module, OPT_IN):
                    opt_in = f"embeddings are opt-in: {type(module).__name__}"
                place = place._replace(layout=layout, opt_in=opt_in)
            found.setdefault(parameter, []).append(place)
        for local, (tensor, why) in not_parameters(module).items():
            name = f"{module_name}.{local}" if module_name else local
            found.setdefault(cast(nn.Parameter, tensor), []).append(Place(name, module_name, module, None, why))
    return list(found.items())


def _never_masked(module: nn.Module, local: str, parameter: Tensor) -> bool:
    """Norms, biases and scales: vectors, whatever the shape that they are kept in, and what is called so."""
    is_norm = isinstance(module, _NORMS) or _CALLED_NORM.search(type(module).__name__)
    return bool(is_norm) or "bias" in local or sum(size > 1 for size in parameter.shape) < 2


#: Parts of the names of parameters that are added, looked up or compared, not multiplied.
_NO_MATRIX = re.compile(r"embed|token|pos(_|ition|$)|table|codebook|latent|quer(y|ies)$|prompt|A_log|anchor|memory")


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether an unknown parameter probably multiplies activations: it is not one example, and not called otherwise.

    >>> from torch import ones
    >>> is_matrix("mixer", ones(4, 4)), is_matrix("position_embedding", ones(9, 4)), is_matrix("mean", ones(1, 9, 4))
    (True, False, False)
    """
    local = name.rpartition(".")[2]
    return parameter.dim() > 1 and parameter.shape[0] > 1 and ("proj" in local or not _NO_MATRIX.search(local))
