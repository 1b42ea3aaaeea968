"""The measurements on the runs of the matrix: spectra, paths, distances and comparisons, table by table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sparseflow.lab.demo.signal import SPARSITIES
from sparseflow.lab.page.evidence import Option
from sparseflow.paper.matrix.mnist import MOVES, NOISES, TICKETS, after_update, settling
from sparseflow.paper.matrix.scale import Scale
from sparseflow.paper.measures.measurement import Measurement
from sparseflow.training.digits import DigitRun
from sparseflow.training.images import ImageRun

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
#: Scale of images -> the setting of section 4.3 that is measured there, as group names begin.
SETTINGS = {"cifar": "resnet14", "cifar-long": "resnet20"}
IMAGE_KINDS = ("lottery", "lottery-k0", "ticket-scratch")
#: Options of a path on images: training images behind a loss and behind the statistics of batch norms, and points.
PATH: dict[str, Option] = {"examples": 2000, "recalibrated_by": 1000, "points": 11}


def digit_measurements(scale: Scale, *, data_root: Path | None = None) -> Iterator[Measurement]:
    """Everything that is measured on digits, cheap things first.

    >>> from sparseflow.paper.matrix.scales import DEMO
    >>> {measurement.kind for measurement in digit_measurements(DEMO)} == set(TABLES)
    True
    """
    groups = scale.groups

    def make(
        kind: str, runs: Sequence[DigitRun], size: int, labels: dict[str, Option], **options: Option
    ) -> Measurement:
        return Measurement(kind, tuple(runs), tuple(options.items()), tuple(labels.items()), size, data_root)

    def functions() -> Iterator[Measurement]:
        first, *others = groups["tickets/prune"]
        # Each run against the solution that its masks come from.
        compared = {group: first for group in COMPARED}  # noqa: C420
        for number, pruned in enumerate(others, start=1):
            compared |= {f"{group}/mask{number}": pruned for group in COMPARED if group != "tickets/prune"}
        for group, pruned in compared.items():
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

        def of(config: DigitRun, setting: str, group: str, start: str) -> Measurement:
            return make("path", (config,), size, {"setting": setting, "group": group}, start=start)

        for setting in ("tickets", "mlp-tickets"):
            for method in ("lottery", "scratch"):
                for config in groups[f"{setting}/{method}"][: scale.some]:
                    for start in ("solution", "init"):
                        yield of(config, setting, f"{setting}/{method}", start)
            for number in range(1, len(groups[f"{setting}/prune"])):
                for method in ("lottery", "scratch"):
                    group = f"{setting}/{method}/mask{number}"
                    for config in groups[group][:TICKETS]:
                        yield of(config, setting, group, "solution")
                    # Tickets of one pruning run have one start.
                    for config in groups[group][: 1 if method == "lottery" else TICKETS]:
                        yield of(config, setting, group, "init")
        for group in CONTROLS:
            for config in groups[group]:
                yield of(config, "tickets", group, "solution")

    def spectra() -> Iterator[Measurement]:
        moments = [scale.often * hundreds for hundreds in MOVES]
        wanted: dict[tuple[str, int, str, int, int], DigitRun] = {}

        def want(group: str, seeds: Sequence[int], steps: Sequence[int], moment: str, examples: int) -> None:
            for config in (groups[group][seed] for seed in seeds):
                for step in steps:
                    wanted[group, config.seed, moment, step, examples] = config

        some = range(scale.some)
        for moment in ("before", "after"):
            for group in UPDATED:
                want(group, some, moments, moment, scale.spectrum_examples)
        for group in UPDATED:
            want(group, some, (*after_update(scale), *settling(scale)), "at", scale.spectrum_examples)
        for moment in ("before", "after"):
            for group in UPDATED:
                want(group, [0], moments[:1], moment, scale.all_examples)
        steps = [scale.often * k for k in scale.checkpoints]
        for seed in range(scale.spectrum_seeds):
            for group in FOLLOWED:
                want(group, [seed], steps, "at", scale.all_examples)
            # Right before an update: what the network is like that RigL's moves have made, without the move itself.
            want(FOLLOWED[0], [seed], steps, "before", scale.all_examples)
        for (group, seed, moment, step, examples), config in wanted.items():
            labels: dict[str, Option] = {"group": group, "seed": seed}
            # Half a second for a thousand images, one for the eigenvalues.
            options: dict[str, Option] = {"step": step, "moment": moment, "examples": examples}
            yield make("spectrum", (config,), 1000 + examples // 2, labels, **options)

    for sparsity in SPARSITIES:
        yield make("signal", (), 30 * 500 * scale.networks // 20, {}, sparsity=sparsity, networks=scale.networks)
    for name in ("lenet5", "mlp"):
        for config in groups[f"{name}/prune"][: scale.some]:
            yield make("masks", (config,), 1500, {"network": name, "seed": config.seed})
    yield from distances()
    yield from paths()
    yield from functions()
    yield from spectra()


def image_measurements(scale: Scale, *, data_root: Path | None = None) -> Iterator[Measurement]:
    """Distances, paths and functions of tickets on images, cheap things first.

    Rows say ``setting``, ``group`` and ``mask``.

    >>> from sparseflow.paper.matrix.scales import CIFAR, SMOKE
    >>> sorted({measurement.kind for measurement in image_measurements(CIFAR)}), list(image_measurements(SMOKE))
    (['distances', 'embedding', 'functions', 'path'], [])
    """
    setting = SETTINGS.get(scale.name)
    if setting is None:
        return

    def make(kind: str, runs: Sequence[ImageRun], size: int, *, options: Any = (), **labels: Option) -> Measurement:
        named = tuple({"setting": setting, **labels}.items())
        return Measurement(kind, tuple(runs), tuple(dict(options).items()), named, size, data_root)

    groups = scale.groups
    prunes = groups[f"{setting}/prune"]
    on_masks = {
        (kind, number): groups[f"{setting}/{kind}/mask{number}"]
        for kind in IMAGE_KINDS
        for number in range(len(prunes))
    }
    for (kind, number), runs in on_masks.items():
        yield make("distances", runs, 10, group=f"{setting}/{kind}", mask=number)
    yield make("embedding", [run for kind in IMAGE_KINDS for run in on_masks[kind, 0]], 20, mask=0)
    for (kind, number), runs in on_masks.items():
        options = {"reference": 0, "draws": 0}
        size = 40 * (len(runs) + 1)
        yield make("functions", [*runs, prunes[number]], size, options=options, group=f"{setting}/{kind}", mask=number)
    same = {"reference": 1, "draws": 0}
    yield make("functions", [*prunes, prunes[0]], 40 * len(prunes), options=same, group=f"{setting}/prune", mask=0)
    for (kind, number), runs in on_masks.items():
        for run in runs:
            for start in ("solution", "init"):
                line = {"start": start, **PATH}
                yield make("path", [run], 150, options=line, group=f"{setting}/{kind}", mask=number)
