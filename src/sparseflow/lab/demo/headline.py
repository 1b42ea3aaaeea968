"""The main result in one sentence and a few more; opposite data give the opposite sentences."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from scipy import stats

from sparseflow.lab.page.estimates import share_interval
from sparseflow.lab.page.summary import COLLAPSE_PERCENT, accuracy_percent
from sparseflow.lab.page.table import Record, records
from sparseflow.lab.page.words import listed
from sparseflow.training.names import shown_methods
from sparseflow.training.naming import defaults_of
from sparseflow.training.runs import Run

_WRITES = ("log_every", "eval_every", "checkpoint_every")


def split_by_masks(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs that a page begins with, and those about pruned networks, which have a part of their own.

    Without sparse runs from random masks, all are the first.

    >>> from pathlib import Path
    >>> from sparseflow.training.digits import DigitRun
    >>> configs = [DigitRun(method="dense"), DigitRun(), DigitRun(mask_from=DigitRun(method="prune"))]
    >>> runs = [Run(config, Path("run"), pd.DataFrame(), {}, {}, 1.0) for config in configs]
    >>> [len(part) for part in split_by_masks(runs)], [len(part) for part in split_by_masks(runs[::2])]
    ([2, 1], [2, 0])
    """
    pruned = [run for run in runs if run.config.mask_from is not None or run.config.method == "prune"]
    others = [run for run in runs if run not in pruned]
    return (others, pruned) if any(run.config.row.start == "masked" for run in others) else (list(runs), [])


def headline(table: pd.DataFrame) -> str:
    """The one sentence on top, from the table of :func:`sparseflow.lab.page.summary.summarize`.

    >>> rows = [{"label": "Scratch, Original", "method": "scratch", "init": "dense", "n": 10, "learned": 0},
    ...         {"label": "Scratch, Ours", "method": "scratch", "init": "sparse", "n": 10, "learned": 10}]
    >>> headline(pd.DataFrame(rows))
    'With the usual initialisation 0 of 10 sparse networks learned; with the sparsity-aware one 10 of 10.'
    """
    pair = _pair(table)
    if pair is None:
        best = max(records(table), key=lambda row: (row["learned"] > 0, row["learned_median"]))
        if not best["learned"]:
            return "None of these networks learned."
        return f"{best['label']} reached the highest median accuracy of these runs: {best['learned_median']:.1f} %."
    usual, aware = pair
    return (
        f"With the usual initialisation {share(usual)} sparse networks learned; with the sparsity-aware one "
        f"{share(aware)}."
    )


def certainty(table: pd.DataFrame) -> list[str]:
    """What the counts of :func:`headline` say about chance; empty where there is no such pair.

    >>> row = {"method": "scratch", "init": "dense", "n": 10, "learned": 0}
    >>> certainty(pd.DataFrame([row, {**row, "init": "sparse", "learned": 10}]))
    ['That is more than chance: the 95 % intervals of the two shares, 0 to 31 % and 69 to 100 %, do not overlap.']
    """
    pair = _pair(table)
    if pair is None:
        return []
    ends = [share_interval(row["learned"], row["n"]) for row in pair]
    said = " and ".join(f"{100 * low:.0f} to {100 * high:.0f} %" for low, high in ends)
    (low, high), (other_low, other_high) = ends
    if high < other_low or other_high < low:
        return [f"That is more than chance: the 95 % intervals of the two shares, {said}, do not overlap."]
    return [f"That may be chance: the 95 % intervals of the two shares, {said}, overlap."]


def comparisons(table: pd.DataFrame, runs: Sequence[Run]) -> list[str]:
    """What moving connections adds, with the usual start and with the sparsity-aware one, and the distance to dense.

    Args:
        table: Of :func:`sparseflow.lab.page.summary.summarize`.
        runs: Its runs. Those of one seed share masks, base draw and order of images, so methods are compared by seed.
    """
    rows = {(row["method"], row["init"]): row for row in records(table)}
    methods = shown_methods()
    sentences = []
    moving = [method for method, row in methods.items() if row.moves == "swap"]
    usual = [rows[method, "dense"] for method in moving if (method, "dense") in rows]
    if usual:
        counted = listed([f"{methods[row['method']].label} {share(row)}" for row in usual])
        sentences.append(f"With the usual initialisation and connections that move, learned: {counted}.")
    if liu := rows.get(("scratch", "liu")):
        sentences.append(f"With Liu's, which scales a layer as a whole, and connections that stay: {share(liu)}.")
    aware = [rows[method, "sparse"] for method in ("scratch", *moving) if (method, "sparse") in rows]
    if aware := [row for row in aware if row["learned"]]:
        medians = [f"{row['learned_median']:.1f} % ({methods[row['method']].label})" for row in aware]
        dense = rows.get(("dense", ""))
        beside = f", a dense one {dense['learned_median']:.1f} %" if dense and dense["learned"] else ""
        sentences.append(
            "With the sparsity-aware one the median of the networks that learned names "
            f"{listed(medians)} of new images rightly{beside}."
        )
    static = _by_seed(runs, "scratch")
    for method in moving:
        if shared := sorted(static.keys() & (found := _by_seed(runs, method)).keys()):
            sentences.append(_sign_test(methods[method].label, [found[seed] - static[seed] for seed in shared]))
    return sentences


def _by_seed(runs: Sequence[Run], method: str) -> dict[int, float]:
    """Accuracy by seed of a method's runs that began with the sparsity-aware initialisation."""
    return {
        run.config.seed: accuracy_percent(run)
        for run in runs
        if (run.config.method, run.config.init) == (method, "sparse")
    }


def _sign_test(method: str, gains: Sequence[float]) -> str:
    """Whether a method beats Scratch from the same starts; ties count for neither.

    >>> _sign_test("SET", [1.0] * 9 + [-1.0])
    'SET ends above Scratch from 9 of 10 equal starts, more often than chance (sign test, p = 0.021).'
    """
    above, differing = sum(gain > 0 for gain in gains), sum(gain != 0 for gain in gains)
    p = stats.binomtest(above, differing).pvalue if differing else 1.0
    words = f"{'more' if 2 * above > differing else 'less'} often than chance" if p < 0.05 else "which may be chance"
    return f"{method} ends above Scratch from {above} of {len(gains)} equal starts, {words} (sign test, p = {p:.2g})."


def next_commands(runs: Sequence[Run], *, again: str) -> list[tuple[str, str]]:
    """What to type after reading: a purpose, and a command that fits these runs.

    Args:
        runs: All runs of the page; the doctor is sent to one that did not learn.
        again: The command that made the page.
    """
    rows = []
    masked = [run for run in runs if run.config.row.start == "masked"]
    failed = [run for run in masked if accuracy_percent(run) < COLLAPSE_PERCENT]
    if failed:
        rows.append(("Ask why one of them did not learn", f"sparseflow doctor {failed[0].folder}"))
    if masked:
        # What RigL does not read, and when a run writes, would only make the command long.
        defaults = defaults_of(type(masked[0].config))
        unread = {name: defaults[name] for name in defaults if name.startswith("prune_") or name in _WRITES}
        setting = masked[0].config.with_(**unread, method="rigl", init="sparse", mask_from=None)
        rows.append(("Train one yourself, with any setting changed", setting.command))
    rows.append(("Start your own network so", 'sf.initialize_(model, masks, scheme="sparse", seed=0)'))
    rows.append(("Measure the paper's first table again, on little data", "sparseflow reproduce table1"))
    rows.append(("Make this page again", again))
    return rows


def _pair(table: pd.DataFrame) -> tuple[Record, Record] | None:
    """Networks whose connections stay, from the usual and from the sparsity-aware initialisation."""
    rows = {(row["method"], row["init"]): row for row in records(table)}
    usual, aware = rows.get(("scratch", "dense")), rows.get(("scratch", "sparse"))
    return None if usual is None or aware is None else (usual, aware)


def share(row: Record) -> str:
    """The number of runs of a group that learned, of all.

    >>> share({"learned": 2, "n": 5})
    '2 of 5'
    """
    return f"{row['learned']} of {row['n']}"
