"""One line of the log on an optimizer that nobody here knows."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from sparseflow.sparsifier.optimizer_state import findings
from sparseflow.sparsifier.optimizers import switches_of
from sparseflow.sparsifier.tensors import name_of

_log = logging.getLogger("sparseflow")


def describe(optimizer: Any, parameters: Iterable[Tensor]) -> None:
    """Say in one line, for an optimizer that is none of torch's, which of its state is taken for what.

    Raises:
        ValueError: naming an optimizer that puts dense weights in place for evaluation.

    >>> import torch
    >>> describe(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))]), [])
    """
    per_weight: dict[str, float] = {}
    left: dict[str, None] = {}
    errors: dict[str, None] = {}
    name = type(optimizer).__name__
    for parameter in parameters:
        found = findings(optimizer, parameter, switches_of(optimizer, parameter))
        if found.eval_is_dense:
            raise ValueError(
                f"{name} keeps an average of weights before masks act on them, and its eval() puts it in their place: "
                "the network would be dense then. Use another optimizer, and average weights with "
                "torch.optim.swa_utils.AveragedModel."
            )
        per_weight |= {name_of(path): kept.fresh for path, kept in found.per_weight.items()}
        left |= dict.fromkeys(map(name_of, found.left_alone))
        if found.error is not None:
            errors[found.error] = None
    if errors:
        _log.warning(
            "%s could not be tried out (%s). Weights are cleared after each of its steps; its state is left as it is, "
            "so that a weight that grows again may start with the momentum it had.", name, "; ".join(errors)
        )  # fmt: skip
    elif not type(optimizer).__module__.startswith("torch."):
        fresh = ", ".join(f"{key} ({value:g})" for key, value in per_weight.items()) or "nothing"
        _log.warning(
            "%s: state per weight, and its value for a new weight: %s. Left to the optimizer: %s. Weights are cleared "
            "after each step.", name, fresh, ", ".join(left) or "nothing"
        )  # fmt: skip
