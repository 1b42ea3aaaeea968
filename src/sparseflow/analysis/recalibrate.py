"""Running statistics of batch norm, estimated anew for weights that were never trained there."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from sparseflow.batches import each, forward
from sparseflow.gradients import undisturbed
from sparseflow.types import Batches


def running_norms(model: nn.Module) -> dict[str, _NormBase]:
    """The norm layers that normalise by running statistics in eval mode: batch and instance norms that track them.

    >>> layers = nn.BatchNorm1d(2), nn.LayerNorm(2), nn.BatchNorm1d(2, track_running_stats=False)
    >>> list(running_norms(nn.Sequential(*layers)))
    ['0']
    """
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _NormBase)}
    return {name: norm for name, norm in norms.items() if norm.running_mean is not None}


def recalibrate_(model: nn.Module, batches: Batches) -> nn.Module:
    r"""Replace the running statistics of every norm layer by their mean over the given batches, in place.

    .. math:: \bar\mu = \frac{1}{N} \sum_b n_b \mu_b, \qquad \bar\sigma^2 = \frac{1}{N} \sum_b n_b \sigma_b^2

    with the mean and the unbiased variance of each batch, as training collects them, but without forgetting. Only norm
    layers run in train mode: dropout stays off, as in the evaluation that follows, so the result is deterministic.

    Args:
        model: Its running statistics are overwritten; weights, modes and random state stay.
        batches: Of the training data, pairs or mappings, see :mod:`sparseflow.batches`; a batch of ``n_b`` examples
            weighs ``n_b``.

    Raises:
        ValueError: if there are no batches.

    Reference: Izmailov et al. (2018), *Averaging Weights Leads to Wider Optima and Better Generalization*, section 3.2.

    >>> norm = nn.BatchNorm1d(1)
    >>> data = [(torch.tensor([[1.0], [3.0]]), torch.zeros(2)), (torch.full((4, 1), 5.0), torch.zeros(4))]
    >>> recalibrate_(norm, data).running_mean  # (2 * 2 + 4 * 5) / 6
    tensor([4.])
    """
    norms = list(running_norms(model).values())
    momenta = [norm.momentum for norm in norms]
    seen = 0
    try:
        with torch.no_grad(), undisturbed(model, training=False):  # an error halfway leaves the old statistics
            for norm in norms:
                norm.train()
                norm.reset_running_stats()
            for inputs, _, size in each(batches, name="recalibrate"):
                seen += size
                for norm in norms:
                    norm.momentum = size / seen
                forward(model, inputs)
            found = [[buffer.clone() for buffer in norm.buffers()] for norm in norms]
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    for norm, values in zip(norms, found, strict=True):
        for buffer, value in zip(norm.buffers(), values, strict=True):
            buffer.copy_(value)
    return model
