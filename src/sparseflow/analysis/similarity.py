"""Similarity of the functions of several models: disagreement and divergence of their predictions."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from sparseflow._checks import check_finite
from sparseflow.analysis.divergences import js_divergence, kl_divergence
from sparseflow.analysis.ensembles import ENSEMBLES, ensemble_accuracy
from sparseflow.boundary import checked


@dataclass(frozen=True)
class Spread:
    """One number for each model or pair of models, each a mean over the same examples."""

    values: tuple[float, ...]
    num_examples: int

    @property
    def mean(self) -> float:
        """Mean over models or pairs."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float:
        """Population standard deviation over models or pairs, as in the paper's tables."""
        return statistics.pstdev(self.values)

    @property
    def sum(self) -> float:
        """Mean over models or pairs of the sum over examples, as in the paper's Table 6 for ImageNet."""
        return self.mean * self.num_examples

    @property
    def sum_std(self) -> float:
        """Population standard deviation of that sum."""
        return self.std * self.num_examples


@dataclass(frozen=True)
class Similarity:
    """Similarity within a set of models, and to one reference; divergences in nats.

    Fields that need a reference are ``None`` without one.
    """

    num_examples: int
    accuracy: Spread
    """Accuracy of each model."""
    ensemble_accuracy: Mapping[str, float]
    """Key of :data:`~sparseflow.analysis.ensembles.ENSEMBLES` -> accuracy of all models together."""
    disagreement: Spread
    """Disagreement of each unordered pair."""
    kl: Spread
    """Kullback-Leibler divergence of each ordered pair."""
    jsd: Spread
    """Jensen-Shannon divergence of each unordered pair."""
    jsd_of_all: Spread
    """Jensen-Shannon divergence of all models at once: one value, at most ln M."""
    reference_accuracy: float | None = None
    disagreement_with_reference: Spread | None = None
    kl_to_reference: Spread | None = None
    """KL(model || reference)."""
    kl_from_reference: Spread | None = None
    """KL(reference || model)."""
    jsd_with_reference: Spread | None = None


@checked()
def disagreement(a: Tensor, b: Tensor) -> float:
    r"""Fraction of examples on which two models predict different classes.

    .. math:: \frac{1}{N} \sum_n \left[ \arg\max_c a_{nc} \ne \arg\max_c b_{nc} \right]

    Args:
        a: ``(examples, classes)``, finite; of equal logits the lowest class is the prediction.
        b: The same shape.

    Raises:
        ValueError: if the shapes differ or a logit is NaN or infinite.

    Reference: Fort et al. (2019), *Deep Ensembles: A Loss Landscape Perspective*; Evci et al. (2022), Table 2.

    >>> import torch
    >>> disagreement(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([[5.0, 1.0], [1.0, 0.0]]))
    0.5
    """
    if a.dim() != 2 or a.shape != b.shape or not a.numel():
        raise ValueError(
            f"logits must have one shape (examples, classes), got {tuple(a.shape)} and {tuple(b.shape)}. Collect them "
            "over the same examples with collect_logits()."
        )
    check_finite(a, name="logits")
    check_finite(b, name="logits")
    return float((a.argmax(-1) != b.argmax(-1)).double().mean())


@checked()
def pairwise_disagreement(logits: Tensor) -> Spread:
    """Disagreement of every unordered pair of models, pairs in the order (0, 1), (0, 2), ..., (1, 2), ...

    Args:
        logits: ``(models, examples, classes)``, two models or more.

    Raises:
        ValueError: if the shape is another.

    Reference: Evci et al. (2022), Table 2, "pairwise"; protocol I.3.

    >>> import torch
    >>> pairwise_disagreement(torch.eye(2)[[0, 0, 1]][:, None]).values
    (0.0, 1.0, 1.0)
    """
    _check_models(logits)
    return Spread(tuple(disagreement(a, b) for a, b in itertools.combinations(logits, 2)), logits.shape[1])


@checked()
def disagreement_with_reference(logits: Tensor, reference: Tensor) -> Spread:
    """Disagreement of every model with one other, such as the pruning solution.

    Args:
        logits: ``(models, examples, classes)``.
        reference: ``(examples, classes)``.

    Raises:
        ValueError: if the shapes do not fit.

    Reference: Evci et al. (2022), Table 2, "with pruned"; protocol I.3.

    >>> import torch
    >>> disagreement_with_reference(torch.eye(2)[[0, 0, 1]][:, None], torch.tensor([[0.0, 1.0]])).mean
    0.666...
    """
    if logits.dim() != 3 or not len(logits):
        raise ValueError(f"logits must be (models, examples, classes) of one model or more, got {tuple(logits.shape)}.")
    return Spread(tuple(disagreement(each, reference) for each in logits), reference.shape[0])


@checked()
def compare_functions(logits: Tensor, labels: Tensor, reference: Tensor | None = None) -> Similarity:
    r"""All numbers of the paper's tables on the functions of a set of models, on the same test examples.

    For all :math:`p_i`: the mean of both KL directions is at least :math:`4\,\mathrm{JSD}_2`, and
    :math:`\mathrm{JSD}_M \le \frac{M - 1}{M}` times the mean KL over ordered pairs.

    Args:
        logits: ``(models, examples, classes)``, two models or more; see :func:`~.ensembles.collect_logits`.
        labels: ``(examples,)``, classes.
        reference: ``(examples, classes)``, the pruning solution for instance; it is no member of the set.

    Raises:
        ValueError: if a shape does not fit, or a logit is NaN or infinite.

    Reference: Evci et al. (2022), Tables 2 and 6; protocol I.3 and I.4.

    >>> import torch
    >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[3.0, 0.0], [1.0, 0.0]]])
    >>> found = compare_functions(logits, torch.tensor([0, 1]), reference=logits[0])
    >>> found.accuracy.values, found.disagreement.mean, found.disagreement_with_reference.values
    ((1.0, 0.5), 0.5, (0.0, 0.5))
    """
    _check_models(logits)
    num_examples = logits.shape[1]

    def over(divergences: Iterable[Tensor]) -> Spread:
        return Spread(tuple(float(each.mean()) for each in divergences), num_examples)

    unordered, ordered = list(itertools.combinations(logits, 2)), itertools.permutations(logits, 2)
    inside = Similarity(
        num_examples=num_examples,
        accuracy=Spread(tuple(ensemble_accuracy(each[None], labels, "logits") for each in logits), num_examples),
        ensemble_accuracy={how: ensemble_accuracy(logits, labels, how) for how in ENSEMBLES},
        disagreement=pairwise_disagreement(logits),
        kl=over(kl_divergence(p, q) for p, q in ordered),
        jsd=over(js_divergence(p, q) for p, q in unordered),
        jsd_of_all=over([js_divergence(*logits)]),
    )
    if reference is None:
        return inside
    return dataclasses.replace(
        inside,
        disagreement_with_reference=disagreement_with_reference(logits, reference),
        reference_accuracy=ensemble_accuracy(reference[None], labels, "logits"),
        kl_to_reference=over(kl_divergence(each, reference) for each in logits),
        kl_from_reference=over(kl_divergence(reference, each) for each in logits),
        jsd_with_reference=over(js_divergence(each, reference) for each in logits),
    )


def _check_models(logits: Tensor) -> None:
    if logits.dim() != 3 or len(logits) < 2 or not logits.numel():
        raise ValueError(
            f"logits must be (models, examples, classes) with two models or more, got shape {tuple(logits.shape)}. "
            "Write torch.stack([collect_logits(model, batches) for model in models])."
        )
