"""The page about one folder of finished runs: it reads, never trains, and computes every number that it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pandas as pd

from sparseflow.lab.demo.exhibits import ALL, EXHIBITS, PRUNED
from sparseflow.lab.demo.headline import headline, next_commands, split_by_masks
from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.groups import check_comparable, group_of, grouped, names_of
from sparseflow.lab.page.page import as_csv, hardware, show_all, write_page
from sparseflow.lab.page.signal import signal_levels
from sparseflow.lab.page.summary import summary_table
from sparseflow.lab.page.words import DATASETS_IN_WORDS
from sparseflow.networks import NETWORKS
from sparseflow.training.config import RunConfig
from sparseflow.training.runs import Run

#: Setting -> how the masks of the methods that read it move; where none of those ran, it is left out of the page.
_READ_BY = {
    **dict.fromkeys(("prune_begin", "prune_end", "prune_every"), "prune"),
    **dict.fromkeys(("drop_fraction", "update_every"), "swap"),
}


def write_report(
    runs: Sequence[Run],
    out: Path,
    *,
    signal: pd.DataFrame | None = None,
    title: str,
    command: str,
    unfinished: Sequence[Path | str] = (),
) -> Path:
    """Write ``index.html``, ``figures/*.svg`` and ``figures/*.csv`` under ``out``; return the page's path.

    The page needs no network and nothing but its folder. Every file is written whole or not at all, the page last.

    Args:
        runs: Finished runs that differ in method, initialisation, seed, and where their masks are from.
        out: Folder; made where it does not exist.
        signal: ``signal.csv`` of the run folder, where it exists.
        title: Heading of the page.
        command: What was typed to make the runs and this page.
        unfinished: Folders of runs that are not in the numbers.

    Raises:
        ValueError: Without runs, with runs that cannot be compared, or with a signal table that lacks a column. Runs
            from random masks are not compared with those about pruned networks, which have a part of their own.
    """
    main, pruned = split_by_masks(runs)
    check_comparable(main)
    if signal is not None:
        signal_levels(signal)
    tables = [summary_table(main, caption="From random masks." if pruned else "")]
    if pruned:
        tables.append(summary_table(pruned, name="summary-pruned", caption="About pruned networks, and their masks."))
    data = tables[0].data
    config = runs[0].config
    contents, num_train, num_test = DATASETS_IN_WORDS.get(config.dataset, (config.dataset, None, None))
    common, differing = settings(main)
    groups = {group_of(run.config) for run in runs}
    evidence = Evidence(
        {ALL: main, **({PRUNED: pruned} if pruned else {})}, {} if signal is None else {"signal": signal}
    )
    first, *others = show_all(EXHIBITS, evidence, None)
    return write_page(
        out,
        "demo.html.j2",
        [first, *others],
        files={f"figures/{table.name}.csv": as_csv(table.data, digits=None) for table in tables},
        digits=None,
        title=title,
        headline=headline(data),
        first=first,
        others=others,
        num_runs=len(runs),
        config=config,
        model=NETWORKS[config.family].words if config.family in NETWORKS else config.family,
        contents=contents,
        num_train=num_train,
        num_test=num_test,
        sparsity=max((run.config.sparsity for run in runs if run.config.method != "dense"), default=None),
        names=names_of(groups),
        has_sparse=any(group.init for group in groups),
        tables=tables,
        fewest_seeds=int(data["n"].min()),
        common=common,
        differing=differing,
        hardware=hardware(runs),
        next_commands=next_commands(runs, again=command),
        unfinished=[Path(name).name for name in unfinished],
    )


def settings(runs: Sequence[Run]) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Hyper-parameters that all runs share, and per differing one the value of each group.

    Left out: what names the group (method, initialisation), and what no run's method reads.

    >>> from sparseflow.training.digits import DigitRun
    >>> configs = [DigitRun(method=method, seed=7) for method in ("dense", "set")]
    >>> runs = [Run(config, Path("run"), pd.DataFrame(), {}, {}, 1.0) for config in configs]
    >>> common, differing = settings(runs)
    >>> common["seed"], differing
    ('7', {'sparsity': {'Dense': '0', 'SET, Ours': '0.95'}})
    """
    groups = grouped(runs)
    moves = {run.config.row.moves for run in runs}
    common: dict[str, str] = {}
    differing: dict[str, dict[str, str]] = {}
    for field in fields(runs[0].config):
        if field.name in ("method", "init") or _READ_BY.get(field.name) not in (None, *moves):
            continue
        values = {
            group.label: ", ".join(dict.fromkeys(_value(run.config, field.name) for run in members))
            for group, members in groups.items()
        }
        if len(distinct := set(values.values())) == 1:
            common[field.name] = distinct.pop()
        else:
            differing[field.name] = values
    return common, differing


def _value(config: RunConfig, name: str) -> str:
    if name == "mask_from":
        return "random masks" if config.mask_from is None else "masks of a pruning run"
    if name == "sparsity" and config.method == "dense":
        return "0"
    return str(getattr(config, name))
