"""Groups of runs that belong together: their names, their order, and the check that they may be compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from sparseflow.init.schemes import SCHEMES, Scheme
from sparseflow.training.config import RunConfig
from sparseflow.training.names import MethodRow, shown_methods
from sparseflow.training.runs import Run


class Group(NamedTuple):
    """Runs that differ in the seed alone: what one row, bar or curve stands for."""

    method: str
    """Key of :func:`~sparseflow.training.names.shown_methods`."""
    init: str
    """Key of :data:`~sparseflow.init.schemes.SCHEMES`; "" for networks without a mask at step 0."""

    @property
    def label(self) -> str:
        """Name for people.

        >>> Group("rigl", "sparse").label, Group("small_dense", "").label
        ('RigL, Ours', 'Small Dense')
        """
        method = shown_methods()[self.method].label
        return f"{method}, {SCHEMES[self.init].label}" if self.init else method

    @property
    def order(self) -> tuple[int, int]:
        """Sort key: methods and initialisations in the order of their tables."""
        return list(shown_methods()).index(self.method), ["", *SCHEMES].index(self.init)


def group_of(config: RunConfig) -> Group:
    """The group that a run belongs to.

    >>> from sparseflow.training.digits import DigitRun
    >>> group_of(DigitRun(method="dense", model="lenet5-small", init="liu"))
    Group(method='small_dense', init='')
    """
    if config.is_small_dense:
        return Group("small_dense", "")
    return Group(config.method, config.init if config.row.start == "masked" else "")


def names_of(groups: Collection[Group]) -> list[MethodRow | Scheme]:
    """The methods and initialisations of groups, in the order of tables: the names that a page has to explain.

    >>> [row.label for row in names_of({Group("set", "sparse"), Group("dense", "")})]
    ['Dense', 'SET', 'Ours']
    """
    methods, inits = ({getattr(group, field) for group in groups} for field in Group._fields)
    rows = [row for name, row in shown_methods().items() if name in methods]
    return [*rows, *(scheme for name, scheme in SCHEMES.items() if name in inits)]


def grouped(runs: Sequence[Run]) -> dict[Group, list[Run]]:
    """Runs by group, both in a fixed order that does not depend on the order of ``runs``.

    >>> from pathlib import Path
    >>> import pandas
    >>> from sparseflow.training.digits import DigitRun
    >>> configs = [DigitRun(method="set", seed=1), DigitRun(method="set"), DigitRun(method="dense")]
    >>> runs = [Run(config, Path("run"), pandas.DataFrame(), {}, {}, 1.0) for config in configs]
    >>> {group.label: [run.config.seed for run in members] for group, members in grouped(runs).items()}
    {'Dense': [0], 'SET, Ours': [0, 1]}
    """
    members: defaultdict[Group, list[Run]] = defaultdict(list)
    for run in runs:
        members[group_of(run.config)].append(run)
    return {
        group: sorted(members[group], key=lambda run: run.config.seed)
        for group in sorted(members, key=lambda group: group.order)
    }


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs that must not stand in one table.

    All runs share data set, model family, steps and batch size; all sparse ones share the sparsity; within a group only
    the seed differs.

    Raises:
        ValueError: Names the fields that differ, their values, and what to type.

    >>> from pathlib import Path
    >>> import pandas
    >>> from sparseflow.training.digits import DigitRun
    >>> runs = [Run(DigitRun(steps=steps), Path("run"), pandas.DataFrame(), {}, {}, 1.0) for steps in (100, 900)]
    >>> check_comparable(runs)
    Traceback (most recent call last):
    ValueError: these 2 runs cannot be compared; they differ in steps (100 and 900). Move the runs of one setting to a
    folder of their own, then type: sparseflow report THAT_FOLDER
    """
    if not runs:
        raise ValueError(
            "there is no finished run here. Make some: sparseflow demo, or sparseflow train --method rigl."
        )
    if classes := {run.config.num_classes for run in runs} - {10}:
        raise ValueError(
            f"the page is about ten classes, and these runs have {classes.pop()}. For those of ImageNet type: "
            "sparseflow reproduce all --scale imagenet --out THAT_FOLDER"
        )
    named: dict[str, set[str]] = {
        "dataset": {run.config.dataset for run in runs},
        "model": {run.config.family for run in runs},
        "steps": {str(run.config.steps) for run in runs},
        "batch_size": {str(run.config.batch_size) for run in runs},
        "sparsity": {str(run.config.sparsity) for run in runs if run.config.method != "dense"},
    }
    differing = [f"{name} ({' and '.join(sorted(values))})" for name, values in named.items() if len(values) > 1]
    for group, members in grouped(runs).items():
        configs = [_without_seed(run.config) for run in members]
        for name in dict.fromkeys(field.name for config in configs for field in fields(config)):
            if name in (*named, "network", "mask_from"):
                continue
            if len(values := {str(getattr(config, name, None)) for config in configs}) > 1:
                differing.append(f"{name} within {group.label} ({' and '.join(sorted(values))})")
        if len({config.mask_from for config in configs}) > 1:
            differing.append(f"mask_from within {group.label}")
    if differing:
        raise ValueError(
            f"these {len(runs)} runs cannot be compared; they differ in {', '.join(differing)}. "
            "Move the runs of one setting to a folder of their own, then type: sparseflow report THAT_FOLDER"
        )


def _without_seed(config: Any) -> Any:
    parent = config.mask_from
    return config.with_(seed=0, mask_from=None if parent is None else parent.with_(seed=0))
