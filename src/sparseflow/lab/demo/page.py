"""One self-contained page from finished runs: it reads, never trains, and computes every number that it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from sparseflow.atomic import write_atomically
from sparseflow.lab.demo.exhibits import sections
from sparseflow.lab.demo.headline import comparisons, headline
from sparseflow.lab.page.groups import check_comparable, group_of, grouped
from sparseflow.lab.page.summary import COLLAPSE_PERCENT, ONSET_LOSS, readable, summarize
from sparseflow.lab.page.svg import inline_svg, standalone_svg
from sparseflow.networks import NETWORKS
from sparseflow.training.runs import Config
from sparseflow.training.store import Run

#: What a data set is, for the first paragraph: (what it holds, training images, test images).
DATASETS_IN_WORDS = {
    "mnist-5k": ("real handwritten digits (5000 of MNIST's)", 4000, 1000),
    "mnist": ("real handwritten digits (MNIST)", 60000, 10000),
    "fashion-mnist": ("pictures of clothes (Fashion-MNIST)", 60000, 10000),
    "cifar10": ("small photographs (CIFAR-10)", 50000, 10000),
}
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

    The page needs no network and no other file. Every file is written whole or not at all, the page last.

    Args:
        runs: finished runs that differ in method, initialisation and seed.
        out: folder; made where it does not exist.
        signal: ``signal.csv`` of the run folder, where it exists.
        title: heading of the page.
        command: what was typed to make the runs and this page.
        unfinished: folders of runs that are not in the numbers.

    Raises:
        ValueError: without runs, with runs that cannot be compared, or with a signal table that lacks a column.
    """
    check_comparable(runs)
    table = summarize(runs)
    files = {"summary.csv": table.to_csv(index=False).encode()}
    shown: list[dict[str, Any]] = []
    for section in sections(runs, signal):
        shown.append({"section": section})
        if section.draw is None:
            continue
        (wide, data), (narrow, _) = section.draw(narrow=False), section.draw(narrow=True)
        shown[-1]["wide"] = inline_svg(wide, name=section.name, alt=section.alt)
        shown[-1]["narrow"] = inline_svg(narrow, name=f"{section.name}-narrow", alt=section.alt)
        files[f"{section.name}.svg"] = standalone_svg(shown[-1]["wide"])
        files[f"{section.name}.csv"] = data.to_csv(index=False).encode()
    page = _page(runs, table, shown, title=title, command=command, unfinished=[Path(name).name for name in unfinished])

    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
    for entry in shown:  # a figure that an earlier report left would pass for one of this report
        for name in (f"{entry['section'].name}.svg", f"{entry['section'].name}.csv"):
            if name not in files:
                (folder / name).unlink(missing_ok=True)
    index = out / "index.html"
    write_atomically(index, page.encode())
    return index


def _page(
    runs: Sequence[Run],
    table: pd.DataFrame,
    shown: list[dict[str, Any]],
    *,
    title: str,
    command: str,
    unfinished: list[str],
) -> str:
    config = runs[0].config
    contents, num_train, num_test = DATASETS_IN_WORDS.get(config.dataset, (config.dataset, None, None))
    common, differing = settings(runs)
    environment = Environment(
        loader=PackageLoader("sparseflow.lab"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A percent sign stays on the line of its number.
    environment.filters["tied"] = lambda sentence: sentence.replace(" %", "\N{NO-BREAK SPACE}%")
    return environment.get_template("report.html.j2").render(
        title=title,
        headline=headline(table),
        comparisons=comparisons(table),
        num_runs=len(runs),
        config=config,
        model=NETWORKS[config.family].words if config.family in NETWORKS else config.family,
        contents=contents,
        num_train=num_train,
        num_test=num_test,
        sparsity=max((run.config.sparsity for run in runs if run.config.method != "dense"), default=None),
        methods={group_of(run.config).method for run in runs},
        inits={group_of(run.config).init for run in runs},
        some_masked=any(group_of(run.config).init for run in runs),
        collapse_percent=COLLAPSE_PERCENT,
        onset_loss=ONSET_LOSS,
        head=list(readable(table).columns),
        rows=list(zip(table["collapsed"] > 0, readable(table).itertuples(index=False, name=None), strict=True)),
        fewest_seeds=int(table["n"].min()),
        some_collapsed=bool(table["collapsed"].any()),
        shown=shown,
        common=common,
        differing=differing,
        hardware=hardware(runs),
        command=command,
        unfinished=unfinished,
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


def _value(config: Config, name: str) -> str:
    if name == "mask_from":
        return "random masks" if config.mask_from is None else "masks of a pruning run"
    if name == "sparsity" and config.method == "dense":
        return "0"
    return str(getattr(config, name))


def hardware(runs: Sequence[Run]) -> dict[str, str]:
    """Machine and versions as stored with the runs, nested keys joined by dots; several values where runs differ.

    >>> from sparseflow.training.digits import DigitRun
    >>> env = {"torch": "2.13.0", "cpu": {"cores": 2}}
    >>> hardware([Run(DigitRun(), Path("run"), pd.DataFrame(), {}, env, 1.0)])
    {'torch': '2.13.0', 'cpu.cores': '2'}
    """
    values: dict[str, dict[str, None]] = {}
    for run in runs:
        for key, value in _flat(run.env):
            values.setdefault(key, {})[str(value)] = None
    return {key: " / ".join(distinct) for key, distinct in values.items()}


def _flat(nested: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in nested.items():
        pairs.extend(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)])
    return pairs
