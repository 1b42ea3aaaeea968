"""Made-up finished runs with the shapes of real ones, for tests of claims and pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims import CLAIMS, judge
from sparseflow.paper.claims.verdict import Verdict
from sparseflow.training.digits import DigitRun
from sparseflow.training.runs import Run

STEPS = 900
ENV = {"python": "3.11.9", "torch": "2.13.0", "cpu": "two cores", "threads": 1}


def make_run(
    *,
    method: str = "scratch",
    init: str = "sparse",
    seed: int = 0,
    accuracy: float = 0.97,
    onset: int | None = 100,
    start_norm: float = 1.0,
    metrics: pd.DataFrame | None = None,
    seconds: float = 10.0,
    **changes: object,
) -> Run:
    """A run of 900 steps that learns from step ``onset`` on, or never (None), and ends at ``accuracy``."""
    config = DigitRun(
        method=method,
        init=init,
        seed=seed,
        **{"dataset": "mnist-5k", "steps": STEPS, "update_every": 100, "log_every": 50, "eval_every": 100, **changes},
    )
    if metrics is None:
        metrics = _metrics(config, accuracy=accuracy, onset=onset, start_norm=start_norm)
    sparsity = 0.0 if method == "dense" else config.sparsity
    final = {"test/accuracy": accuracy, "test/loss": 0.1, "sparsity": sparsity}
    return Run(config=config, folder=Path(config.name), metrics=metrics, final=final, env=ENV, seconds=seconds)


def _metrics(config: DigitRun, *, accuracy: float, onset: int | None, start_norm: float) -> pd.DataFrame:
    noise = np.random.default_rng(config.seed)
    rows: list[tuple[int, str, float]] = []
    for step in range(0, config.steps + 1, config.log_every):
        age = -math.inf if onset is None else (step - onset) / 20
        learned = 1 / (1 + math.exp(-age)) if age > -700 else 0.0
        jitter = 1 + 0.05 * noise.standard_normal()
        norm = (
            start_norm * jitter
            if onset is None
            else start_norm * (1 - learned) + 0.5 * learned * jitter * (1.2 - step / 1200)
        )
        rows.append((step, "train/loss", 2.302 * (1 - learned) + 0.12 * learned * jitter))
        rows.append((step, "flow/norm", norm))
        if step % config.eval_every == 0:
            rows.append(
                (step, "test/accuracy", 0.1135 + (accuracy - 0.1135) * learned * (0.99 if step < config.steps else 1))
            )
        if config.method in ("set", "rigl") and step and step % config.update_every == 0:
            change = (0.08 if config.method == "rigl" else -0.02) * learned * (1 - step / 1000) * jitter
            rows += [(step, "update/before", norm), (step, "update/after", norm + change), (step, "update/moved", 40.0)]
    return pd.DataFrame(rows, columns=["step", "name", "value"])


def runs_like(
    count: int,
    *,
    accuracy: float = 97.0,
    std: float = 0.1,
    stuck: int = 0,
    onset: int = 20,
    norm: float | Callable[[float], float] = 0.5,
    spread: float = 0.05,
    change: tuple[float, float] = (0.0, 0.0),
    method: str = "scratch",
    **changes: object,
) -> list[Run]:
    """``count`` runs of 1000 steps with numbers spaced evenly around the given means: no chance, exact means.

    Args:
        count: Number of runs, with seeds 0, 1, ...
        accuracy: Mean, in percent.
        std: Half the range of accuracies.
        stuck: Number of runs, from the first, that never learn.
        onset: First step with a low loss, a multiple of 10.
        norm: The gradient norm, or a function of the share of training.
        spread: Half the range over seeds of the log norms, and of the changes relative to their mean.
        change: Change of the norm at a mask update, in the first and in the second half.
        method: Method in the config; ``changes`` are its other fields.
    """
    level = norm if callable(norm) else lambda share: norm
    runs = []
    for seed in range(count):
        place = 2 * seed / (count - 1) - 1 if count > 1 else 0.0
        config = DigitRun(
            method=method, seed=seed, **{"steps": 1000, "log_every": 10, "update_every": 100, "prune_begin": 250}
            | {"prune_end": 600, **changes},
        )  # fmt: skip
        learns = seed >= stuck
        rows: list[tuple[int, str, float]] = []
        for step in range(0, config.steps + 1, config.log_every):
            now = level(step / config.steps) * math.exp(spread * place)
            rows.append((step, "train/loss", 0.1 if learns and step >= onset else 2.3))
            moves = method in ("set", "rigl", "rigl_inverted") and step and step % config.update_every == 0
            delta = change[step > config.steps / 2] * (1 + spread * place) if moves else 0.0
            if moves:
                rows += [(step, "update/before", now), (step, "update/after", now + delta)]
            rows.append((step, "flow/norm", now + delta))
        final = {"test/accuracy": (accuracy + std * place) / 100 if learns else 0.1135}
        metrics = pd.DataFrame(rows, columns=["step", "name", "value"])
        runs.append(Run(config, Path(config.name), metrics, final, ENV, 1.0))
    return runs


def verdict_on(claim: str, groups: Mapping[str, Sequence[Run]], **tables: pd.DataFrame) -> Verdict:
    """Verdict on a claim if these are the only runs."""
    (verdict,) = judge(Evidence(groups, tables), {claim: CLAIMS[claim]})
    return verdict


def demo_runs(*, num_seeds: int = 3) -> list[Run]:
    """Runs like the demo's: Original does not learn, Liu and Ours do, the dense networks do best."""
    runs = []
    for seed in range(num_seeds):
        runs.append(
            make_run(method="dense", init="dense", seed=seed, accuracy=0.978 + 0.001 * seed, onset=30, start_norm=0.6)
        )
        runs.append(
            make_run(
                method="dense", init="dense", model="lenet5-small", seed=seed, accuracy=0.962 + 0.002 * seed, onset=80
            )
        )
        for index, method in enumerate(("scratch", "set", "rigl")):
            stuck = method != "rigl" or seed == 0
            runs += [
                make_run(
                    method=method,
                    init="dense",
                    seed=seed,
                    accuracy=0.1135 if stuck else 0.93,
                    onset=None if stuck else 600,
                    start_norm=0.034,
                ),
                make_run(method=method, init="liu", seed=seed, accuracy=0.95 + 0.004 * index + 0.003 * seed, onset=150),
                make_run(
                    method=method,
                    init="sparse",
                    seed=seed,
                    accuracy=0.955 + 0.005 * index + 0.002 * seed,
                    onset=110,
                    start_norm=1.2,
                ),
            ]
    return runs


def demo_signal(*, num_networks: int = 3) -> pd.DataFrame:
    """Logit std by protocol A.1: masked dense falls as (1 - S)^(5/2), the others hardly."""
    noise = np.random.default_rng(0)
    rows = [
        (scheme, base, mask, sparsity, network, level * fall(1 - sparsity) * math.exp(0.2 * noise.standard_normal()))
        for mask in ("uniform", "skewed")
        for base, level in (("xavier_uniform", 0.38), ("kaiming_normal", 3.2))
        for scheme, fall in {
            "dense": lambda density: density**2.5,
            "liu": lambda density: density**0.1,
            "sparse": lambda density, mask=mask: density ** (0.15 if mask == "uniform" else 1.2),
            "live": lambda density: density**0.12,
        }.items()
        for sparsity in (0.0, 0.5, 0.8, 0.9, 0.95, 0.98)
        for network in range(num_networks)
    ]
    return pd.DataFrame(rows, columns=["scheme", "base", "mask", "sparsity", "network", "logit_std"])
