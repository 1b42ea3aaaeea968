"""Where runs lie between their start and the pruning solution: paths, barriers, distances, a map (Figures 5 and 9c)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from sparseflow.analysis.distances import (
    cosine_similarity,
    distance_matrix,
    l2_distance,
    norm_matched_distance,
    parameter_vector,
)
from sparseflow.analysis.embedding import metric_mds
from sparseflow.analysis.landscape import area_under_log_loss, barrier, linear_path
from sparseflow.lab.config import RunConfig
from sparseflow.lab.measures.source import Source, Tables, network
from sparseflow.rng import stream


def path(source: Source, runs: tuple[RunConfig, ...], /, *, start: str) -> Tables:
    """Loss on the straight line from a run's start or solution to the pruning solution, over all training images.

    Args:
        source: Where runs and data are.
        runs: One run that took its masks from a pruning run.
        start: ``init`` or ``solution``.

    Reference: protocol I.2.
    """
    (config,) = runs
    begin = source.start(config) if start == "init" else source.end(config)
    target = source.end(_pruned(config))
    data = source.data(config)
    # A run on masks of its own leaves the plane of the pruned ones: the line then has the weights of both.
    either = {name: (begin[name] != 0) | (target[name] != 0) for name in source.end_masks(config)}
    batches = list(zip(data.train_images.split(5000), data.train_labels.split(5000), strict=True))
    found = linear_path(
        network(config, either),
        begin,
        target,
        batches,
        progress=lambda done, of: source.report(done / of),
    )
    points = pd.DataFrame({"alpha": found.alphas, "loss": found.losses, "accuracy": found.accuracies})
    summary = {
        "barrier": barrier(found.alphas, found.losses),
        "area": area_under_log_loss(found.alphas, found.losses),
    }
    one = {"seed": config.seed, **summary}
    return {"paths": points.assign(seed=config.seed), "barriers": pd.DataFrame([one])}


def distances(source: Source, runs: tuple[RunConfig, ...], /) -> Tables:
    """Distance of runs to the pruning solution whose masks they have, at the start and at the end.

    Beside each that of a random direction of the same norm: what the norm alone explains.

    Args:
        source: Where the runs are.
        runs: Runs on the masks of one pruning run.

    Reference: protocol I.1.
    """
    rows = []
    for config in runs:
        parent = _pruned(config)
        target = _vector(source.end(parent))
        row: dict[str, float] = {"prune_seed": parent.seed, "seed": config.seed}
        for name, state in (("init", source.start(config)), ("final", source.end(config))):
            vector = _vector(state)
            row[name] = l2_distance(vector, target)
            row[f"cosine_{name}"] = cosine_similarity(vector, target)
            generator = stream(config.seed, "norm-matched", name)
            row[f"control_{name}"] = norm_matched_distance(vector, target, generator=generator).measured
        rows.append(row)
    return {"distances": pd.DataFrame(rows)}


def embedding(source: Source, runs: tuple[RunConfig, ...], /) -> Tables:
    """Starts and ends of runs, and the pruning solution, in the plane.

    Args:
        source: Where the runs are.
        runs: Lottery tickets and static runs on the masks of one pruning run.

    Reference: protocol I.1.
    """
    points = [("prune-end", _pruned(runs[0]).seed, _vector(source.end(_pruned(runs[0]))))]
    for config in runs:
        for moment, state in (("start", source.start(config)), ("end", source.end(config))):
            points.append((f"{config.method}-{moment}", config.seed, _vector(state)))
    # Tickets start from one point, whatever their seed.
    distinct = {(kind, seed if kind != "lottery-start" else runs[0].seed): vector for kind, seed, vector in points}
    generator = stream(0, "embedding")
    found = metric_mds(distance_matrix(list(distinct.values())), generator=generator)
    rows = [
        {"kind": kind, "seed": seed, "x": float(x), "y": float(y), "stress": found.normalised_stress}
        for (kind, seed), (x, y) in zip(distinct, found.points, strict=True)
    ]
    return {"mds": pd.DataFrame(rows)}


def _vector(state: Mapping[str, Tensor]) -> Tensor:
    # Inactive weights are zero, so they add nothing to a distance.
    return torch.as_tensor(parameter_vector(state))


def _pruned(config: RunConfig) -> RunConfig:
    if config.mask_from is None:
        raise ValueError(f"{config.name} has no pruning run, so there is no solution to compare it with.")
    return config.mask_from
