"""Places of runs beside the pruning solution: paths, barriers, distances, a map (Figures 5 and 9c)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from torch import Tensor

from sparseflow.analysis.distances import (
    cosine_similarity,
    distance_matrix,
    l2_distance,
    norm_matched_distance,
    parameter_vector,
)
from sparseflow.analysis.embedding import metric_mds
from sparseflow.analysis.landscape import ALPHAS, area_under_log_loss, barrier, linear_path
from sparseflow.analysis.recalibrate import running_norms
from sparseflow.paper.measures.source import Source, Tables, network, weight_names
from sparseflow.rng import stream
from sparseflow.training.config import RunConfig


def path(
    source: Source,
    runs: tuple[RunConfig, ...],
    /,
    *,
    start: str,
    examples: int | None = None,
    recalibrated_by: int | None = None,
    points: int | None = None,
) -> Tables:
    """Loss on the straight line from a run's start or solution to the pruning solution, over training images.

    Running statistics of batch norms, where there are any, are estimated anew at every point.

    Args:
        source: The runs and their data.
        runs: One run that took its masks from a pruning run.
        start: ``init`` or ``solution``.
        examples: Training images behind each loss; default all.
        recalibrated_by: Training images behind the running statistics; default ``examples``.
        points: From one end to the other, both included; default the authors' 29, which go beyond.

    Reference: protocol I.2.
    """
    (config,) = runs
    begin = source.start(config) if start == "init" else source.end(config)
    target = source.end(_pruned(config))
    # A run on masks of its own leaves the plane of the pruned ones: the line then has the weights of both.
    either = {name: (begin[name] != 0) | (target[name] != 0) for name in source.end_masks(config)}
    batches = source.training_batches(config, examples)
    model = network(config, either)
    norms = running_norms(model)
    statistics = batches if recalibrated_by is None else source.training_batches(config, recalibrated_by)
    found = linear_path(
        model,
        begin,
        target,
        batches,
        alphas=ALPHAS if points is None else [number / (points - 1) for number in range(points)],
        recalibrate=statistics if norms else None,
        progress=lambda done, of: source.report(done / of),
    )
    line = pd.DataFrame({"alpha": found.alphas, "loss": found.losses, "accuracy": found.accuracies})
    summary = {
        "barrier": barrier(found.alphas, found.losses),
        "area": area_under_log_loss(found.alphas, found.losses),
    }
    one = {"seed": config.seed, **summary}
    return {"paths": line.assign(seed=config.seed), "barriers": pd.DataFrame([one])}


def distances(source: Source, runs: tuple[RunConfig, ...], /) -> Tables:
    """Distance of runs to the pruning solution whose masks they have, at the start and at the end.

    Weights and biases count, batch norms' parameters do not. Beside each distance stands that of a random direction of
    the same norm, which the norm alone explains.

    Args:
        source: The runs.
        runs: Runs on the masks of one pruning run.

    Reference: protocol I.1.
    """
    rows = []
    for config in runs:
        parent = _pruned(config)
        target = _vector(parent, source.end(parent))
        row: dict[str, float] = {"prune_seed": parent.seed, "seed": config.seed}
        for name, state in (("init", source.start(config)), ("final", source.end(config))):
            vector = _vector(config, state)
            row[name] = l2_distance(vector, target)
            row[f"cosine_{name}"] = cosine_similarity(vector, target)
            generator = stream(config.seed, "norm-matched", name)
            row[f"control_{name}"] = norm_matched_distance(vector, target, generator=generator).measured
        rows.append(row)
    return {"distances": pd.DataFrame(rows)}


def embedding(source: Source, runs: tuple[RunConfig, ...], /) -> Tables:
    """Starts and ends of runs, and the pruning solution, in the plane.

    Args:
        source: The runs.
        runs: Lottery tickets and static runs on the masks of one pruning run; where only some tickets are rewound to a
            later step, the others are called ``lottery-k0``.

    Reference: protocol I.1.
    """
    pruned = _pruned(runs[0])
    points = [("prune-end", pruned.seed, _vector(pruned, source.end(pruned)))]
    rewound = {config.rewind_step for config in runs if config.method == "lottery"}
    for config in runs:
        for moment, state in (("start", source.start(config)), ("end", source.end(config))):
            early = config.method == "lottery" and len(rewound) > 1 and not config.rewind_step
            kind = f"{config.method}{'-k0' if early else ''}-{moment}"
            points.append((kind, config.seed, _vector(config, state)))
    # Tickets start from one point, whatever their seed.
    common = ("lottery-start", "lottery-k0-start")
    distinct = {(kind, seed if kind not in common else runs[0].seed): vector for kind, seed, vector in points}
    generator = stream(0, "embedding")
    found = metric_mds(distance_matrix(list(distinct.values())), generator=generator)
    rows = [
        {"kind": kind, "seed": seed, "x": float(x), "y": float(y), "stress": found.normalised_stress}
        for (kind, seed), (x, y) in zip(distinct, found.points, strict=True)
    ]
    return {"mds": pd.DataFrame(rows)}


def _vector(config: RunConfig, state: Mapping[str, Tensor]) -> Tensor:
    # Inactive weights are zero, so they add nothing to a distance.
    return parameter_vector(state, names=weight_names(config))


def _pruned(config: RunConfig) -> RunConfig:
    parent: RunConfig | None = config.mask_from
    if parent is None:
        raise ValueError(f"{config.name} has no pruning run, so there is no solution to compare it with.")
    return parent
