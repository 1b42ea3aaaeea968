"""Predictions of several models, and of all of them together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparseflow._checks import check_choice, check_finite
from sparseflow.analysis.divergences import log_probabilities
from sparseflow.batches import each, forward, output_of
from sparseflow.boundary import checked
from sparseflow.gradients import undisturbed
from sparseflow.types import Batches

#: Ways to make one prediction of several: mean probabilities, mean logits, majority vote.
ENSEMBLES = ("probabilities", "logits", "votes")


@checked()
def collect_logits(model: nn.Module, batches: Batches) -> Tensor:
    """The model's outputs for all examples in order, in eval mode and without side effects.

    Args:
        model: A classifier; ``torch.stack([collect_logits(model, batches) for model in models])`` for several.
        batches: Pairs of inputs and targets, or mappings, see :mod:`sparseflow.batches`; always in the same order: no
            shuffling loader.

    Returns: ``(examples, classes)`` in the model's dtype, on the CPU.

    Raises:
        ValueError: if there are no batches or an output is not ``(examples, classes)``.

    >>> layer = nn.Linear(2, 3)
    >>> data = [(torch.ones(4, 2), torch.zeros(4)), (torch.ones(1, 2), torch.zeros(1))]
    >>> collect_logits(layer, data).shape
    torch.Size([5, 3])
    """
    found = []
    with torch.no_grad(), undisturbed(model, training=False):
        for inputs, _, _ in each(batches):
            output = output_of(forward(model, inputs))
            if output.dim() != 2:
                raise ValueError(f"the model must give logits (examples, classes), got shape {tuple(output.shape)}.")
            found.append(output.cpu())
    return torch.cat(found)


@checked()
def ensemble_predictions(logits: Tensor, how: str = "probabilities") -> Tensor:
    r"""The class that several models choose together, for each example.

    .. math:: \arg\max_c \frac{1}{M} \sum_i p_{ic}
              \qquad\text{or}\qquad \arg\max_c \frac{1}{M} \sum_i z_{ic}
              \qquad\text{or}\qquad \arg\max_c \sum_i \left[ c = \arg\max_{c'} z_{ic'} \right]

    A tie between votes goes to the class with the higher mean probability, any other to the lowest class.

    Args:
        logits: ``(models, examples, classes)``, finite.
        how: One of :data:`ENSEMBLES`; the mean of probabilities is that of Fort et al. (2019).

    Returns: ``(examples,)``, int64.

    Raises:
        ValueError: if the shape or ``how`` is another, or a logit is NaN or infinite.

    Reference: Evci et al. (2022), Table 2; protocol I.3.

    >>> logits = torch.tensor([[[0.9, 0.1]], [[0.4, 0.6]], [[0.4, 0.6]]]).log()
    >>> [int(ensemble_predictions(logits, how)) for how in ENSEMBLES]  # one sure model against two that waver
    [0, 0, 1]
    """
    check_choice(how, ENSEMBLES, name="how")
    if logits.dim() != 3 or not logits.numel():
        raise ValueError(f"logits must be (models, examples, classes), got shape {tuple(logits.shape)}.")
    check_finite(logits, name="logits")
    if how == "logits":
        return logits.double().mean(0).argmax(-1)
    probabilities = log_probabilities(logits).exp().mean(0)
    if how == "probabilities":
        return probabilities.argmax(-1)
    votes = nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).sum(0)
    return torch.where(votes == votes.amax(-1, keepdim=True), probabilities, -1.0).argmax(-1)


@checked()
def ensemble_accuracy(logits: Tensor, labels: Tensor, how: str = "probabilities") -> float:
    """Fraction of examples that several models get right together.

    Args:
        logits: ``(models, examples, classes)``.
        labels: ``(examples,)``, classes.
        how: One of :data:`ENSEMBLES`; ties as in :func:`ensemble_predictions`.

    Raises:
        ValueError: as :func:`ensemble_predictions`, or if the number of labels differs.

    >>> ensemble_accuracy(torch.eye(2).expand(3, 2, 2), torch.tensor([0, 0]))
    0.5
    """
    chosen = ensemble_predictions(logits, how)
    if labels.shape != chosen.shape:
        raise ValueError(f"labels must be one class for each of {len(chosen)} examples, got {tuple(labels.shape)}.")
    return float((chosen == labels.to(chosen.device)).double().mean())
