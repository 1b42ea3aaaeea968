"""Similarity of the functions of trained runs: pairs, the pruning solution, ensembles (Tables 2 and 6)."""

from __future__ import annotations

import itertools
import math

import pandas as pd
import torch
from torch import Tensor

from sparseflow.analysis.divergences import js_divergence, kl_divergence
from sparseflow.analysis.ensembles import collect_logits, ensemble_accuracy
from sparseflow.analysis.similarity import disagreement
from sparseflow.paper.measures.source import Source, Tables, network
from sparseflow.rng import stream
from sparseflow.training.config import RunConfig

#: Models in an ensemble, as in the paper.
MEMBERS = 5


def functions(source: Source, runs: tuple[RunConfig, ...], /, *, reference: int, draws: int) -> Tables:
    """Compare the answers of runs on the test set.

    Args:
        source: The runs and their data.
        runs: Runs of one group, and the pruning solution as the last one.
        reference: 1 if the last run is the first of the group too (pruning runs), else 0.
        draws: Ensembles of five drawn at random beside the first five, to see the spread of ensembles; a group of
            no more than five gives all that leave one out instead.

    Returns: ``function_pairs``, ``function_reference`` and ``function_ensembles``; divergences are means over examples
        in nats, accuracies percent.

    Reference: protocol I.3 and I.4.
    """
    *members, pruned = runs
    batches = list(source.test_batches(pruned))
    labels = torch.cat([targets for _, targets in batches])

    def logits(config: RunConfig) -> Tensor:
        model = network(config, source.end_masks(config))
        model.load_state_dict(source.end(config))
        return collect_logits(model, batches)

    found = []
    for number, config in enumerate(members):
        found.append(logits(config))
        source.report(0.5 * (number + 1) / len(members))
    target = logits(pruned)
    seeds = [config.seed for config in members]
    pairs = [
        {"a": seeds[i], "b": seeds[j], **_compare(found[i], found[j])}
        for i, j in itertools.combinations(range(len(seeds)), 2)
    ]
    source.report(0.8)
    others = [
        {
            "seed": config.seed,
            "accuracy": _accuracy(answers, labels),
            **_against(answers, target),
        }
        for config, answers in zip(members, found, strict=True)
        if not (reference and config == pruned)
    ]
    ensembles = [
        {"draw": draw, **_ensemble([found[i] for i in chosen], [seeds[i] for i in chosen], labels)}
        for draw, chosen in enumerate(_draws(len(members), draws))
    ]
    return {
        "function_pairs": pd.DataFrame(pairs),
        "function_reference": pd.DataFrame(others),
        "function_ensembles": pd.DataFrame(ensembles),
    }


def _draws(count: int, draws: int) -> list[list[int]]:
    """The first five; then random fives where there are more, else every choice that leaves one out."""
    generator = stream(0, "ensembles")
    first = list(range(min(MEMBERS, count)))
    if count <= MEMBERS:
        return [first, *(list(few) for few in itertools.combinations(first, count - 1) if few)]
    return [first, *(torch.randperm(count, generator=generator)[:MEMBERS].sort().values.tolist() for _ in range(draws))]


def _compare(a: Tensor, b: Tensor) -> dict[str, float]:
    return {
        "disagreement": disagreement(a, b),
        "kl_ab": float(kl_divergence(a, b).mean()),
        "kl_ba": float(kl_divergence(b, a).mean()),
        "jsd": float(js_divergence(a, b).mean()),
    }


def _against(model: Tensor, pruned: Tensor) -> dict[str, float]:
    found = _compare(model, pruned)
    return {
        "disagreement": found["disagreement"],
        "kl_from_model": found["kl_ab"],
        "kl_from_reference": found["kl_ba"],
        "jsd": found["jsd"],
    }


def _ensemble(members: list[Tensor], seeds: list[int], labels: Tensor) -> dict[str, object]:
    logits = torch.stack(members)
    pairs = list(itertools.combinations(members, 2))
    return {
        "seeds": " ".join(map(str, seeds)),
        "members": len(members),
        "member_accuracy": sum(_accuracy(one, labels) for one in members) / len(members),
        **{how: 100 * ensemble_accuracy(logits, labels, how) for how in ("probabilities", "logits", "votes")},
        "pairwise_disagreement": _mean([disagreement(a, b) for a, b in pairs]),
        "multi_jsd": float(js_divergence(*members).mean()) if pairs else math.nan,
        "pairwise_jsd": _mean([float(js_divergence(a, b).mean()) for a, b in pairs]),
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return 100 * float((logits.argmax(1) == labels).double().mean())
