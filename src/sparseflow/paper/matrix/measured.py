"""What is measured on the runs of the matrix: which spectra, paths, distances and comparisons, table by table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sparseflow.lab.demo.signal import SPARSITIES
from sparseflow.lab.page.evidence import Option
from sparseflow.paper.matrix.mnist import NOISES, Groups, after_update
from sparseflow.paper.matrix.scales import Scale
from sparseflow.paper.measures.measurement import Measurement
from sparseflow.training.digits import DigitRun

#: Kind of measurement -> the tables it fills.
TABLES = {
    "signal": ("signal",),
    "masks": ("mask_uniformity", "pruned_signal"),
    "spectrum": ("spectra", "eigenvalues"),
    "path": ("paths", "barriers"),
    "distances": ("distances",),
    "embedding": ("mds",),
    "functions": ("function_pairs", "function_reference", "function_ensembles"),
}
#: Groups whose spectra are followed over training (Figure 11), and around mask updates (Figure 10).
FOLLOWED = ("lenet5/rigl/sparse/f100", "lenet5/scratch/sparse", "lenet5/small_dense")
UPDATED = ("lenet5/set/sparse/f100", "lenet5/rigl/sparse/f100")
#: Groups whose functions are compared (Tables 2 and 6).
COMPARED = ("tickets/lottery", "tickets/scratch", "tickets/scratch-same", "tickets/restart", "tickets/prune")
CONTROLS = (
    *(f"tickets/lottery/noise-{noise:g}" for noise in NOISES),
    *(f"tickets/lottery/{name}" for name in ("signs", "shuffled_weights", "shuffled_masks")),
)


def measurements(scale: Scale, groups: Groups, *, data_root: Path | None = None) -> list[Measurement]:
    """Everything that is measured at a scale, cheap things first.

    >>> from sparseflow.paper.matrix.mnist import groups
    >>> from sparseflow.paper.matrix.scales import DEMO
    >>> found = measurements(DEMO, groups(DEMO))
    >>> {measurement.kind for measurement in found} == set(TABLES)
    True
    """

    def make(
        kind: str, runs: Sequence[DigitRun], size: int, labels: dict[str, Option], **options: Option
    ) -> Measurement:
        return Measurement(kind, tuple(runs), tuple(options.items()), tuple(labels.items()), size, data_root)

    def all_of_them() -> Iterator[Measurement]:
        for sparsity in SPARSITIES:
            yield make("signal", (), 30 * 500 * scale.networks // 20, {}, sparsity=sparsity, networks=scale.networks)
        for name in ("lenet5", "mlp"):
            for config in groups[f"{name}/prune"][: scale.some]:
                yield make("masks", (config,), 1500, {"network": name, "seed": config.seed})
        yield from distances()
        yield from paths()
        yield from functions()
        yield from spectra()

    def functions() -> Iterator[Measurement]:
        prunes = groups["tickets/prune"]
        # Each ticket against the solution that its masks come from.
        others = {f"tickets/lottery/mask{number}": prunes[number] for number in range(1, len(prunes))}
        for group, pruned in {**dict.fromkeys(COMPARED, prunes[0]), **others}.items():
            runs = groups[group]
            size = 500 * len(runs) + 20 * len(runs) ** 2
            options = {"reference": int(group == "tickets/prune"), "draws": 200 if len(runs) > 5 else 0}
            yield make("functions", (*runs, pruned), size, {"group": group}, **options)

    def distances() -> Iterator[Measurement]:
        for setting in ("tickets", "mlp-tickets"):
            pair = []
            for method in ("lottery", "scratch"):
                masks = [name for name in groups if name.startswith(f"{setting}/{method}/mask")]
                for group in (f"{setting}/{method}", *masks):
                    runs = groups[group][: scale.seeds]
                    labels: dict[str, Option] = {"setting": setting, "group": f"{setting}/{method}"}
                    yield make("distances", runs, 100, labels)
                pair += groups[f"{setting}/{method}"][: scale.seeds]
            yield make("embedding", pair, 1000, {"setting": setting})

    def paths() -> Iterator[Measurement]:
        size = 8000 if scale.name == "paper" else 500
        for setting in ("tickets", "mlp-tickets"):
            for method in ("lottery", "scratch"):
                group = f"{setting}/{method}"
                for config in groups[group][: scale.some]:
                    for start in ("solution", "init"):
                        yield make("path", (config,), size, {"setting": setting, "group": group}, start=start)
        for group in CONTROLS:
            for config in groups[group]:
                yield make("path", (config,), size, {"setting": "tickets", "group": group}, start="solution")

    def spectra() -> Iterator[Measurement]:
        moments = (2 * scale.often, 5 * scale.often, 10 * scale.often)
        wanted: dict[tuple[str, int, str, int, int], DigitRun] = {}

        def want(group: str, seeds: int, steps: Sequence[int], moment: str, examples: int) -> None:
            for config in groups[group][:seeds]:
                for step in steps:
                    wanted[group, config.seed, moment, step, examples] = config

        for moment in ("before", "after"):
            for group in UPDATED:
                want(group, 1, moments[:1], moment, scale.before_after_examples)
        for moment in ("before", "after"):
            for group in UPDATED:
                want(group, scale.some, moments, moment, scale.spectrum_examples)
        for group in UPDATED:
            want(group, scale.some, after_update(scale), "at", scale.spectrum_examples)
        steps = [scale.often * k for k in scale.checkpoints]
        for seed in range(scale.spectrum_seeds):
            for group in FOLLOWED:
                want(group, seed + 1, steps, "at", scale.spectrum_examples)
        for (group, seed, moment, step, examples), config in wanted.items():
            labels: dict[str, Option] = {"group": group, "seed": seed}
            yield make("spectrum", (config,), 2 * examples, labels, step=step, moment=moment, examples=examples)

    return list(all_of_them())
