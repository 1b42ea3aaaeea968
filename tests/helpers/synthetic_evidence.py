"""Made-up evidence with the shapes and names of the real one, for tests of claims and pages."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.exhibit import Content
from sparseflow.paper.exhibits.all import EXHIBITS
from sparseflow.paper.matrix.mnist import after_update, groups, settling
from sparseflow.paper.matrix.scale import Scale
from sparseflow.training.digits import DigitRun
from sparseflow.training.runs import Run
from synthetic_runs import ENV, demo_signal

#: Gradient norm at step 0 and step at which half of learning is done, by initialisation; networks without one: "".
STARTS = {"dense": (0.035, 0.09), "liu": (1.3, 0.004), "sparse": (1.1, 0.004), "": (0.4, 0.006)}
GAINS = {"rigl": 0.5, "set": 0.05, "rigl_inverted": -0.02}
#: Of 200 eigenvalues: largest, smallest.
EXTREMES = {
    "lenet5/rigl/sparse/f100": (26.0, -0.9),
    "lenet5/set/sparse/f100": (24.0, -0.5),
    "lenet5/scratch/sparse": (22.0, -0.45),
    "lenet5/small_dense": (12.0, -2.2),
}


def make_evidence(scale: Scale, *, only: Iterable[str] | None = None) -> Evidence:
    """Evidence with all runs of the matrix, or of some groups only, and all tables."""
    matrix = groups(scale)
    names = matrix if only is None else only
    runs = {name: [paper_run(config) for config in matrix[name]] for name in names}
    return Evidence(runs, make_tables(scale), scale.name)


def paper_run(config: DigitRun, *, accuracy: float | None = None) -> Run:
    """A run that learns, except that some with the usual initialisation get stuck."""
    noise = np.random.default_rng(zlib.crc32(config.name.encode()))
    masked = config.method in ("scratch", "set", "rigl", "rigl_inverted")
    init = config.init if masked else ""
    stuck = init == "dense" and config.weight_decay > 0 and config.model == "lenet5" and config.seed % 4 == 1
    if accuracy is None:
        level = {"dense": 0.99, "scratch": 0.972, "restart": 0.986}.get(config.method, 0.982)
        level -= 0.03 * (config.model != "lenet5") + 0.004 * (init == "dense")
        accuracy = 0.1135 if stuck else level + 0.0015 * noise.standard_normal()
        accuracy += {"repaired": 0.003, "killed": -0.004}.get(config.control, 0.0) * (not stuck)
    final = {
        "test/accuracy": accuracy,
        "test/loss": 0.08,
        "sparsity": 0.0 if config.method == "dense" else config.sparsity,
    }
    if config.holdout:
        best = -abs(math.log(config.learning_rate / 0.05)) - 0.3 * abs(math.log(config.weight_decay / 5e-4))
        final["holdout/accuracy"] = 0.98 + 0.003 * best + 0.0005 * noise.standard_normal()
        final["test/accuracy"] = 0.981 + 0.003 * best + 0.0005 * noise.standard_normal()
    return Run(config, Path(config.name), _metrics(config, init, stuck, noise), final, ENV, 15.0)


def _metrics(config: DigitRun, init: str, stuck: bool, noise: np.random.Generator) -> pd.DataFrame:
    start, half = STARTS[init]
    if config.method == "lottery":
        start, half = 0.06, 0.03
    onset = math.inf if stuck else half * config.steps * (1 + 0.2 * abs(noise.standard_normal()))

    def norms(steps: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        age = np.full(len(steps), -50.0) if stuck else np.clip((steps - onset) / (0.01 * config.steps), -50, 50)
        learned = 1 / (1 + np.exp(-age))
        late = 0.9 * np.exp(-3 * steps / config.steps) + 0.05
        jitter = np.exp(0.15 * noise.standard_normal(len(steps)))
        return (start * (1 - learned) + late * learned) * jitter

    steps = np.unique(np.append(np.arange(0, config.steps, config.log_every), config.steps)).astype(float)
    values = norms(steps)
    gain = GAINS.get(config.method, 0.0)
    moved = np.arange(config.update_every, config.steps + 1, config.update_every).astype(float)
    before = norms(moved)
    after = before * (
        1 + (0.0 if stuck else gain) * (1 - moved / config.steps) + 0.01 * noise.standard_normal(len(moved))
    )
    series = [("train/loss", steps, np.where(steps < onset, 2.302, 0.1))]
    if gain:
        at = np.isin(steps, moved)
        values[at] = after[np.isin(moved, steps)]
        series += [("update/before", moved, before), ("update/after", moved, after)]
    series.insert(0, ("flow/norm", steps, values))
    ends = np.array([0.0, config.steps])
    series += [(name, ends, np.full(2, value)) for name, value in _units(config).items()]
    return pd.concat(
        [pd.DataFrame({"step": at.astype(int), "name": name, "value": value}) for name, at, value in series],
        ignore_index=True,
    )


def _units(config: DigitRun) -> dict[str, float]:
    """Filters of the first layer: two to five of six are active, and in every second start one of them is dead."""
    active = 2 + config.seed % 4
    live = active - config.seed % 2 - (config.control == "killed")
    if config.control == "repaired" or config.avoid_dead:
        live = active
    layer = "conv1" if config.model.startswith("lenet5") else "fc1"
    return {f"units/all/{layer}": 6, f"units/no_path_in/{layer}": 6 - active, f"units/live/{layer}": live}


def make_tables(scale: Scale) -> dict[str, pd.DataFrame]:
    """Every table that the page reads."""
    spectra, eigenvalues = _spectra(scale)
    return {
        "signal": demo_signal().replace({"mask": {"uniform": "random"}}),
        "mds": _mds(),
        "distances": _distances(scale),
        "paths": pd.concat([_paths("tickets", scale), _paths("mlp-tickets", scale)], ignore_index=True),
        "barriers": _barriers(scale),
        "spectra": spectra,
        "eigenvalues": eigenvalues,
        **_functions(scale),
    }


def _mds() -> pd.DataFrame:
    noise = np.random.default_rng(0)
    places = {"prune-end": (1, 0, 0, 0), "lottery-start": (1, 12, 3, 0.1), "lottery-end": (5, 3, 1, 1.5),
              "scratch-start": (5, 10, -10, 2), "scratch-end": (5, -16, 6, 9)}  # fmt: skip
    rows = [
        ("tickets", kind, seed, x + spread * noise.standard_normal(), y + spread * noise.standard_normal(), 0.04)
        for kind, (number, x, y, spread) in places.items()
        for seed in range(number)
    ]
    return pd.DataFrame(rows, columns=["setting", "kind", "seed", "x", "y", "stress"])


def _distances(scale: Scale) -> pd.DataFrame:
    noise = np.random.default_rng(1)
    rows = []
    for prune_seed, seed, (kind, start, end) in itertools.product(
        range(scale.many), range(scale.seeds), (("lottery", 13.6, 8.0), ("scratch", 17.5, 25.6))
    ):
        jitter = 1 + 0.02 * noise.standard_normal()
        rows.append(
            {"setting": "tickets", "group": f"tickets/{kind}", "prune_seed": prune_seed, "seed": seed,
             "init": start * jitter, "final": end * jitter, "cosine_init": 0.4, "cosine_final": 0.8,
             "control_init": 17.6, "control_final": 26.0}
        )  # fmt: skip
    return pd.DataFrame(rows)


def _paths(setting: str, scale: Scale) -> pd.DataFrame:
    noise = np.random.default_rng(2)
    alpha = np.round(np.arange(-0.2, 1.2001, 0.05), 2)
    humps = {("lottery", "init"): (2.3, 0.0), ("lottery", "solution"): (0.011, 0.0), ("scratch", "init"): (2.302, 0.3),
             ("scratch", "solution"): (0.07, 1.8)}  # fmt: skip
    tables = []
    for (kind, start), (first, hump) in humps.items():
        for seed in range(scale.seeds):
            size = 1 + 0.1 * noise.standard_normal()
            inside = np.clip(alpha, 0, 1)
            outside = 0.3 * (np.abs(alpha - inside) / 0.2) ** 2
            loss = first * (1 - inside) ** 3 + 0.01 + size * hump * np.sin(np.pi * inside) ** 2 + outside
            tables.append(
                pd.DataFrame({"setting": setting, "group": f"{setting}/{kind}", "seed": seed, "start": start,
                              "alpha": alpha, "loss": loss, "accuracy": 90.0})
            )  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def _barriers(scale: Scale) -> pd.DataFrame:
    """Of a ticket and of a scratch run on the masks of every pruning run."""
    noise = np.random.default_rng(4)
    rows = []
    for setting, number, (kind, height) in itertools.product(
        ("tickets", "mlp-tickets"), range(scale.many), (("lottery", 0.004), ("scratch", 1.8))
    ):
        group = f"{setting}/{kind}" + (f"/mask{number}" if number else "")
        of = {"setting": setting, "group": group, "seed": 100 * (number + 1)}
        size = 1 + 0.1 * noise.standard_normal()
        rows.append({**of, "start": "solution", "barrier": height * size, "area": 1.0})
        rows.append({**of, "start": "init", "barrier": 0.1, "area": (2.0 + height) * size})
    return pd.DataFrame(rows)


def _spectra(scale: Scale) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows, values = [], []
    moment = 2 * scale.often
    wanted = [
        (group, seed, step, "at", scale.all_examples)
        for group in EXTREMES
        for seed in range(scale.spectrum_seeds)
        for step in sorted(scale.often * k for k in scale.checkpoints)
        if group != "lenet5/set/sparse/f100"
    ]
    for group in ("lenet5/set/sparse/f100", "lenet5/rigl/sparse/f100"):
        for seed in range(scale.seeds):
            wanted += [(group, seed, moment, around, scale.spectrum_examples) for around in ("before", "after")]
            later = sorted({*after_update(scale), *settling(scale), moment + scale.often // 2})
            wanted += [(group, seed, step, "at", scale.spectrum_examples) for step in later]
    for group, seed, step, around, examples in wanted:
        noise = np.random.default_rng(zlib.crc32(f"{group}{seed}{step}{around}{examples}".encode()))
        largest, smallest = EXTREMES[group]
        scale_now = math.exp(-3 * step / scale.base.steps) * (1 + 0.1 * noise.standard_normal())
        rigl = "rigl" in group
        recent = 0.5 ** (step - moment) if around == "at" and moment < step <= moment + 20 else float(around == "after")
        largest *= scale_now * (1 + (1.5 if rigl else 0.05) * recent)
        smallest *= scale_now * (1 + (3 if rigl else 0.1) * recent)
        found = np.sort(
            np.concatenate(
                [largest * noise.random(9), smallest * noise.random(20), 0.02 * noise.exponential(size=169),
                 [largest, smallest]]
            )
        )  # fmt: skip
        key = {"group": group, "seed": seed, "step": step, "moment": around, "examples": examples}
        rows.append(
            {**key, "parameters": len(found), "largest": largest, "smallest": smallest,
             "negative_sum": found[found < 0].sum(), "num_negative": int((found < -1e-3 * largest).sum()),
             "trace": found.sum(), "rayleigh": 1.0}
        )  # fmt: skip
        values.append(pd.DataFrame({"eigenvalue": found}).assign(**key))
    return pd.DataFrame(rows), pd.concat(values, ignore_index=True)


def _functions(scale: Scale) -> dict[str, pd.DataFrame]:
    noise = np.random.default_rng(3)
    pairs, references, ensembles = [], [], []
    matrix = groups(scale)
    levels = {
        "tickets/lottery": 0.004,
        "tickets/scratch": 0.035,
        "tickets/scratch-same": 0.03,
        "tickets/restart": 0.003,
        "tickets/prune": 0.021,
    }
    for group, level in levels.items():
        seeds = [config.seed for config in matrix[group]]
        for a, b in itertools.combinations(seeds, 2):
            size = level * (1 + 0.1 * noise.standard_normal())
            divergences = {"kl_ab": 2 * size, "kl_ba": 2.2 * size, "jsd": 0.4 * size}
            pairs.append({"group": group, "a": a, "b": b, "disagreement": size, **divergences})
        for seed in seeds[group == "tickets/prune" :]:
            size = 1.3 * level * (1 + 0.1 * noise.standard_normal())
            divergences = {"kl_from_model": 2.3 * size, "kl_from_reference": 2.1 * size, "jsd": 0.45 * size}
            references.append({"group": group, "seed": seed, "accuracy": 98.0, "disagreement": size, **divergences})
        if group != "tickets/prune":
            references += [
                {**references[-1], "group": f"{group}/mask{number}", "seed": 100 * (number + 1),
                 "disagreement": 1.3 * level * (1 + 0.1 * noise.standard_normal())}
                for number in range(1, scale.many)
            ]  # fmt: skip
        for draw in range(21 if len(seeds) > 5 else 1):
            accuracy = 98.2 + 25 * level + 0.05 * noise.standard_normal()
            accuracies = {"member_accuracy": 98.2, "probabilities": accuracy, "logits": 98.3, "votes": 98.3}
            alike = {"pairwise_disagreement": level, "multi_jsd": 0.8 * level, "pairwise_jsd": 0.4 * level}
            ensembles.append({"group": group, "draw": draw, "members": 5, **accuracies, **alike})
    return {
        "function_pairs": pd.DataFrame(pairs),
        "function_reference": pd.DataFrame(references),
        "function_ensembles": pd.DataFrame(ensembles),
    }


def build(name: str, evidence: Evidence, scale: Scale) -> Content:
    """An exhibit of the page on MNIST, by name."""
    made = EXHIBITS[name].build
    assert made is not None
    return made(evidence, scale)
