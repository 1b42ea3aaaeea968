"""The exact Hessian of the mean loss over active weights and all other trainable parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseflow._checks import check_choice, check_finite
from sparseflow.analysis.closed_form.chain import chain_of, closed_form_refusal
from sparseflow.analysis.closed_form.compute import closed_form
from sparseflow.analysis.layout import active_parameters
from sparseflow.analysis.products import Objective, check_second_derivatives
from sparseflow.batches import each
from sparseflow.boundary import checked
from sparseflow.ranges import Range
from sparseflow.types import Batches, LossFn, Masks
from sparseflow.warn import warn


class SlowHessianWarning(UserWarning):
    """Warning that a Hessian has no closed form and takes one Hessian-vector product for each row."""


@checked(max_bytes=Range(0))
def hessian(
    model: nn.Module,
    batches: Batches,
    masks: Masks | None = None,
    *,
    loss_fn: LossFn | None = F.cross_entropy,
    method: str = "auto",
    dtype: torch.dtype = torch.float64,
    max_bytes: int = 2**32,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    r"""The exact Hessian of the mean loss, in eval mode and without side effects.

    .. math:: H = \nabla^2_{w \odot m} \frac{1}{N} \sum_n \ell(x_n)

    Chains of linear layers, 2-d convolutions and piecewise-linear functions under cross-entropy have it in closed form,
    hundreds of times faster than row by row (:func:`closed_form_refusal` gives the reason where it is missing). All
    others, and all with method ``"products"``, take one Hessian-vector product per row. Memory beside the result: about
    twice as much again.

    Args:
        model: The network, of any dtype; copies of its weights are used.
        batches: Pairs of inputs and targets, or mappings with ``labels``, see :mod:`sparseflow.batches`; a batch of
            ``n_b`` of all ``N`` examples weighs ``n_b / N``. The closed form takes pairs of tensors.
        masks: Parameter name -> mask; rows and columns are in the order of :func:`active_parameters`.
        loss_fn: Mean loss of a batch, without the L2 term; ``None`` for the one that the model returns.
        method: ``"auto"``, ``"closed_form"`` or ``"products"``.
        dtype: To compute in. float32 is twice as fast, but eigenvalues near zero then have random signs.
        max_bytes: Refuse to begin where the result is larger.
        progress: Called with the number of examples done and their total.

    Returns: float64, ``(P, P)``, symmetric bit for bit, on the model's device; ``P`` is the layout's size.

    Raises:
        TypeError: if ``"closed_form"`` is chosen where there is none; it names the layer.
        ValueError: if a mask does not fit, an inactive weight is not zero, there are no batches, the result would be
            too large or is not finite.

    Warns:
        SlowHessianWarning: if ``"auto"`` finds no closed form.

    Reference: Evci et al. (2022), section 4.2 and Figures 10, 11; protocol H.

    >>> model = nn.Linear(1, 2, bias=False)
    >>> nn.init.zeros_(model.weight)  # p = (1/2, 1/2), so H = x^2 (diag(p) - p p^T)
    Parameter containing: ...
    >>> hessian(model, [(torch.tensor([[2.0]]), torch.tensor([0]))]).round(decimals=12)
    tensor([[ 1., -1.],
            [-1.,  1.]], dtype=torch.float64)
    """
    check_choice(method, ("auto", "closed_form", "products"), name="method")
    if dtype not in (torch.float64, torch.float32):
        raise ValueError(f"dtype must be torch.float64 or torch.float32, got {dtype}.")
    check_second_derivatives(model)
    layout, examples = active_parameters(model, masks), list(each(batches))
    if (size := 8 * layout.size**2) > max_bytes:
        raise ValueError(
            f"the Hessian of {layout.size} parameters takes {size:,} bytes, more than max_bytes={max_bytes:,}. Use "
            "sparseflow.analysis.lanczos_spectrum(), which needs no matrix, or allow more bytes."
        )
    reason = None
    if method != "products":
        reason = next(
            filter(
                None, (closed_form_refusal(model, batch.inputs, batch.targets, loss_fn=loss_fn) for batch in examples)
            ),
            None,
        )
    if reason and method == "closed_form":
        raise TypeError(f"there is no closed form of this Hessian: {reason}. Use method='products', which is slow.")
    if reason:
        message = f"{reason}, so each of {layout.size} rows takes a Hessian-vector product over all examples."
        warn(message, SlowHessianWarning)
    if reason or method == "products":
        objective = Objective.of(model, examples, masks, loss_fn=loss_fn, dtype=dtype, training=False)
        found = _row_by_row(objective, progress)
    else:
        pairs = [(batch.inputs, batch.targets) for batch in examples]
        found = closed_form(chain_of(model), layout, pairs, dtype=dtype, progress=progress)
    check_finite(found, name="the Hessian")
    return found


def _row_by_row(objective: Objective, progress: Callable[[int, int], None] | None) -> Tensor:
    layout, sizes = objective.layout, [batch.size for batch in objective.batches]
    found, done = None, 0
    for number, size in enumerate(sizes):
        graph = objective.graph(number)
        gradient = graph.gradient()
        if found is None:
            found = torch.zeros(layout.size, layout.size, dtype=torch.float64, device=gradient.device)
        for row, unit in enumerate(torch.eye(layout.size, dtype=gradient.dtype, device=gradient.device)):
            found[row] += graph.product(layout.unflatten(unit))
            if progress is not None:
                progress(done + size * (row + 1) // layout.size, sum(sizes))
        done += size
    assert found is not None
    return (found + found.T) / 2
