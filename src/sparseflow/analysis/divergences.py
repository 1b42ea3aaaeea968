"""Divergences of predicted distributions, example by example: Kullback-Leibler and Jensen-Shannon, in nats."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparseflow._checks import check_finite
from sparseflow.boundary import checked


def log_probabilities(logits: Tensor) -> Tensor:
    """Logarithm of the softmax over the last axis, in float64.

    Raises:
        ValueError: if a logit is NaN or infinite.

    >>> log_probabilities(torch.tensor([1e3, -1e3])).tolist()
    [0.0, -2000.0]
    """
    check_finite(logits, name="logits")
    return logits.double().log_softmax(-1)


@checked()
def kl_divergence(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    r"""Kullback-Leibler divergence of q from p for each example; swap the arguments for the other direction.

    .. math:: \mathrm{KL}(p \| q) = \sum_c p_c (\ln p_c - \ln q_c)
              = \sum_c p_c \left( e^{d_c} - 1 - d_c \right), \qquad d_c = \ln q_c - \ln p_c

    The second sum, in which no term is negative, is the one computed: it keeps its digits where p and q are close.

    Args:
        p_logits: ``(..., classes)``, finite; of any size, log-probabilities included.
        q_logits: The same shape.

    Returns: ``(...)``, float64, in nats, not negative; 0 where p and q are equal or differ by less than float64 holds.

    Raises:
        ValueError: if the shapes differ or a logit is NaN or infinite.

    Reference: Kullback and Leibler (1951), *On Information and Sufficiency*; protocol I.4.

    >>> p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    >>> bool(torch.isclose(kl_divergence(p, q), 0.5 * torch.tensor(4 / 3).double().log()))
    True
    """
    _check_same(p_logits, q_logits)
    return _kl(log_probabilities(p_logits), log_probabilities(q_logits))


def js_divergence(*logits: Tensor) -> Tensor:
    r"""Jensen-Shannon divergence of two or more distributions, equally weighted, for each example.

    .. math:: \mathrm{JSD}_M = H(\bar p) - \frac{1}{M} \sum_i H(p_i) = \frac{1}{M} \sum_i \mathrm{KL}(p_i \| \bar p),
              \qquad \bar p = \frac{1}{M} \sum_i p_i, \qquad 0 \le \mathrm{JSD}_M \le \ln M

    Args:
        logits: Two or more tensors ``(..., classes)`` of one shape, finite; ``js_divergence(*logits)`` for a stack
            ``(models, ..., classes)``.

    Returns: ``(...)``, float64, in nats; exactly 0 where all are equal.

    Raises:
        ValueError: if there are less than two, the shapes differ, or a logit is NaN or infinite.

    Reference: Lin (1991), *Divergence Measures Based on the Shannon Entropy*; protocol I.4.

    >>> certain, other = torch.tensor([[1e3, 0.0]]), torch.tensor([[0.0, 1e3]])
    >>> js_divergence(certain, other) == math.log(2)
    tensor([True])
    """
    if len(logits) < 2:
        raise ValueError(
            f"js_divergence compares two distributions or more, got {len(logits)}. For a stack write *logits."
        )
    _check_same(*logits)
    log_p = torch.stack([log_probabilities(each) for each in logits])
    # Relative to the largest, so that equal distributions have exactly themselves as their mean.
    largest = log_p.amax(0)
    log_mean = largest + (log_p - largest).exp().mean(0).log()
    return _kl(log_p, log_mean).mean(0).clamp_max(math.log(len(logits)))


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    ratio, p = log_q - log_p, log_p.exp()
    near = p * (ratio.expm1() - ratio)
    far = log_q.exp() - p * (1 + ratio)  # where exp(ratio) could overflow
    # exp(d) - 1 - d is not negative: what might fall below zero is the last bit of expm1.
    return torch.where(ratio <= 1, near, far).clamp_min(0).sum(-1)


def _check_same(*logits: Tensor) -> None:
    shapes = {tuple(each.shape) for each in logits}
    if len(shapes) > 1 or not logits[0].dim():
        raise ValueError(
            f"logits must have one shape (..., classes), got {' and '.join(map(str, sorted(shapes)))}. Collect them "
            "over the same examples with collect_logits()."
        )
