"""Tables 3 and 4: the hyper-parameters that the paper prints, and those of the runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.exhibit import Content, available
from sparseflow.lab.page.table import Column, Table, cell
from sparseflow.lab.page.words import DATASETS_IN_WORDS, count, listed
from sparseflow.paper.matrix.scale import Scale
from sparseflow.paper.published import mnist
from sparseflow.training.digits import DigitRun

#: Groups whose configs are compared.
TABLE3 = ("tickets/prune", "tickets/lottery", "tickets/scratch")
TABLE4 = ("lenet5/set/sparse", "lenet5/rigl/sparse", "lenet5/set/sparse/f100", "lenet5/rigl/sparse/f100")


def epochs(config: DigitRun) -> float:
    """Passes of training over all images.

    >>> round(epochs(DigitRun()), 1)  # 11719 steps of 128 out of 60000
    25.0
    """
    images = DATASETS_IN_WORDS[config.dataset][1] - config.holdout
    return config.steps * config.batch_size / images


def _of_pruning(name: str) -> Callable[[DigitRun], object]:
    return lambda config: getattr(config if config.mask_from is None else config.mask_from, name)


#: Name of a setting in the paper's tables -> (name for people, its value in a config).
SETTINGS: dict[str, tuple[str, Callable[[DigitRun], object]]] = {
    "total_steps": ("Optimizer steps", lambda config: config.steps),
    "epochs": ("Epochs", lambda config: round(epochs(config), 1)),
    "batch_size": ("Batch size, images", lambda config: config.batch_size),
    "learning_rate": ("Learning rate at the start", lambda config: config.learning_rate),
    "lr_schedule": ("Learning-rate schedule", lambda config: config.schedule),
    "momentum": ("Momentum", lambda config: config.momentum),
    "weight_decay": ("Weight decay", lambda config: config.weight_decay),
    "final_sparsity": ("Sparsity", lambda config: config.sparsity),
    "sparsity": ("Sparsity", lambda config: config.sparsity),
    "prune_start_step": ("First pruning, step", _of_pruning("prune_begin")),
    "prune_end_step": ("Last pruning, step", _of_pruning("prune_end")),
    "prune_frequency": ("Steps between prunings", _of_pruning("prune_every")),
    "initial_drop_fraction": ("Drop fraction at the start", lambda config: config.drop_fraction),
    "mask_update_frequency": ("Steps between mask updates", lambda config: config.update_every),
    "mask_update_end_step": ("Last step of mask updates", lambda config: config.steps),
}


_TONES = {"yes": "good", "both": "", "no": "bad"}
COLUMNS = (
    Column("setting", lambda line: line.name, "Setting", lambda row: SETTINGS[row["setting"]][0]),
    Column("paper", lambda line: line.printed, "Paper"),
    Column("ours", lambda line: " / ".join(line.used), "Ours", lambda row: listed(row["ours"].split(" / "))),
    Column("same", lambda line: line.answer, "Same", lambda row: cell(row["same"], tone=_TONES[row["same"]])),
    Column("", lambda line: line.remark, "Remark", lambda row: cell(row["Remark"], tone="remark")),
)


class Line(NamedTuple):
    """One setting: as printed, and as it was in the runs."""

    name: str
    """Key of ``SETTINGS``."""
    printed: str
    used: list[str]
    remark: str

    @property
    def answer(self) -> str:
        """Whether the runs have the printed value: yes, no, or both where some do."""
        if self.used == [self.printed]:
            return "yes"
        return "both" if self.printed in self.used else "no"


def settings_table(name: str, names: Sequence[str], evidence: Evidence, _: Scale) -> Content:
    """One row per setting: the printed value, the value of the runs, and whether they are the same."""
    found, missing = available(evidence, names)
    configs = [run.config for runs in found.values() for run in runs]
    lines = [
        Line(setting, _text(printed), list(dict.fromkeys(_text(SETTINGS[setting][1](one)) for one in configs)), remark)
        for setting, printed, remark in mnist(name)[["metric", "mean", "note"]].itertuples(index=False, name=None)
    ]
    table = Table.of(
        COLUMNS,
        lines,
        name=name,
        caption=f"Settings of {listed(list(found))}.",
        note='"Both" says that some of our runs use the printed value and some another, which the remark is about.',
    )
    differing = [SETTINGS[line.name][0] for line in lines if line.answer != "yes"]
    sentence = f"{len(lines) - len(differing)} of {count(len(lines), 'setting')} are as printed"
    shows = [sentence + (f"; not, or not everywhere: {listed(differing)}." if differing else ".")]
    return Content(shows=shows, tables=[table], missing=missing)


def _text(value: object) -> str:
    try:
        return f"{float(str(value)):g}" if not isinstance(value, bool) else str(value)
    except ValueError:
        return str(value)
