"""Sentences that a report says about its runs, decided by the numbers: opposite data give the opposite sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from sparseflow.lab.summary import INIT_LABELS, METHOD_LABELS, ONSET_LOSS, records

Row = dict[str, Any]


def number(value: float, digits: int = 3) -> str:
    """Some significant digits, without an ``e``.

    >>> number(0.03412), number(-12.0), number(1234.5, 2), number(0.0000131)
    ('0.0341', '−12', '1200', '1.31 × 10⁻⁵')
    """
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        text = f"{float(f'{value:.{digits}g}'):f}"
        return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa} × 10{power}".replace("-", "−")


def headline(table: pd.DataFrame) -> str:
    """The one sentence on top, from the table of :func:`sparseflow.lab.summary.summarize`.

    >>> rows = [{"label": "Scratch, Original", "method": "scratch", "init": "dense", "n": 3, "collapsed": 3},
    ...         {"label": "Scratch, Ours", "method": "scratch", "init": "sparse", "n": 3, "collapsed": 0}]
    >>> headline(pd.DataFrame(rows))
    'With the usual initialisation 3 of 3 static sparse networks did not learn;
     with the sparsity-aware one all 3 learned.'
    """
    rows = {(row["method"], row["init"]): row for row in records(table)}
    usual, aware = rows.get(("scratch", "dense")), rows.get(("scratch", "sparse"))
    if usual is None or aware is None:
        best = max(rows.values(), key=lambda row: row["accuracy_mean"])
        return f"{best['label']} reached the highest mean test accuracy of these runs: {best['accuracy_mean']:.2f} %."
    usual_rate, aware_rate = (row["collapsed"] / row["n"] for row in (usual, aware))
    if usual_rate > aware_rate:
        with_aware = f"all {aware['n']} learned" if not aware["collapsed"] else f"{_share(aware)} did not"
        return (
            f"With the usual initialisation {_share(usual)} static sparse networks did not learn; "
            f"with the sparsity-aware one {with_aware}."
        )
    if usual_rate < aware_rate:
        with_usual = f"all {usual['n']} learned" if not usual["collapsed"] else f"{_share(usual)} did not"
        return (
            f"Here the sparsity-aware initialisation did worse: {_share(aware)} static sparse networks did not learn "
            f"with it; with the usual one {with_usual}."
        )
    if usual_rate:
        return (
            f"The sparsity-aware initialisation did not help here: {_share(aware)} static sparse networks did not "
            f"learn with it, and {_share(usual)} with the usual one."
        )
    return (
        f"Every static sparse network learned, with either initialisation: {usual['accuracy_mean']:.2f} % test "
        f"accuracy with the usual one, {aware['accuracy_mean']:.2f} % with the sparsity-aware one."
    )


def comparisons(table: pd.DataFrame) -> list[str]:
    """What moving connections changes under the sparsity-aware initialisation, and how far a dense network is."""
    rows = {(row["method"], row["init"]): row for row in records(table)}
    sentences = []
    static = rows.get(("scratch", "sparse"))
    for method, how in (("set", "at random (SET)"), ("rigl", "to where the gradient is large (RigL)")):
        moving = rows.get((method, "sparse"))
        if static is not None and moving is not None:
            sentences.append(
                f"Moving connections {how} ends at {moving['accuracy_mean']:.2f} % test accuracy, leaving them in "
                f"place at {static['accuracy_mean']:.2f} %: {_difference(moving, static)}."
            )
    if sparse := [row for row in rows.values() if row["init"]]:
        best = max(sparse, key=lambda row: row["accuracy_mean"])
        for dense in (rows.get(("dense", "")), rows.get(("small_dense", ""))):
            if dense is not None:
                sentences.append(
                    f"The best sparse network ({best['label']}) ends at {best['accuracy_mean']:.2f} %, "
                    f"{dense['label']} at {dense['accuracy_mean']:.2f} %: {_difference(best, dense)}."
                )
    return sentences


def _difference(ours: Row, theirs: Row) -> str:
    """Called a difference only beyond two standard errors of the difference of means (Welch)."""
    difference = ours["accuracy_mean"] - theirs["accuracy_mean"]
    if min(ours["n"], theirs["n"]) < 2:
        return "one run cannot tell whether that is more than chance"
    # The population variance over n - 1 is the squared standard error of a mean.
    error = math.sqrt(sum(row["accuracy_std"] ** 2 / (row["n"] - 1) for row in (ours, theirs)))
    if abs(difference) > 2 * error:
        return (
            f"{abs(difference):.2f} points {'more' if difference > 0 else 'less'}, which is beyond two standard errors"
        )
    return f"too close to call with {ours['n']} and {theirs['n']} runs"


def _share(row: Row) -> str:
    return f"{row['collapsed']} of {row['n']}"


def accuracy_words(table: pd.DataFrame) -> str:
    """Every group's accuracy and how many of its runs did not learn."""
    parts = []
    for row in records(table):
        failed = f" ({_share(row)} did not learn)" if row["collapsed"] else ""
        parts.append(f"{row['label']} {row['accuracy_mean']:.1f} %{failed}")
    return "; ".join(parts) + "."


def accuracy_finding(table: pd.DataFrame) -> str:
    """The best network and those of which some did not learn."""
    rows = records(table)
    best = max(rows, key=lambda row: row["accuracy_mean"])
    failed = [f"{row['label']} ({_share(row)})" for row in rows if row["collapsed"]]
    first = f"{best['label']} ends highest, at {best['accuracy_mean']:.1f} %."
    return f"{first} {f'Some or all runs did not learn: {_listed(failed)}.' if failed else 'Every run learned.'}"


def curve_words(curves: pd.DataFrame) -> str:
    """First and last mean of every curve."""
    parts = [
        f"{label} from {number(curve['mean'].iloc[0])} to {number(curve['mean'].iloc[-1])}"
        for label, curve in curves.groupby("label", sort=False)
    ]
    return f"From step {curves['step'].min()} to step {curves['step'].max()}: {'; '.join(parts)}."


def norm_finding(curves: pd.DataFrame) -> str:
    """The gradient at the first step, usual against sparsity-aware initialisation."""
    step = curves["step"].min()
    start = {(row["method"], row["init"]): row["mean"] for row in records(curves[curves["step"] == step])}
    for method, name in METHOD_LABELS.items():
        usual, aware = start.get((method, "dense"), 0.0), start.get((method, "sparse"), 0.0)
        if usual > 0 and aware > 0:
            ratio, relation = (aware / usual, "larger") if aware > usual else (usual / aware, "smaller")
            return (
                f"At step {step} the gradient norm of {name} is {number(aware)} with the sparsity-aware initialisation "
                f"and {number(usual)} with the usual one: {number(ratio, 2)} times {relation}."
            )
    return curve_words(curves)


def halfway_finding(curves: pd.DataFrame) -> str:
    """Mean test accuracy at the logged step nearest to half the training, as a range over the methods of a kind."""
    steps = curves["step"].unique()
    half = min(steps, key=lambda step: (abs(step - steps.max() / 2), step))
    parts = []
    for kind, rows in _by_kind(curves[curves["step"] == half]):
        low, high = (f"{value:.0f}" for value in (rows["mean"].min(), rows["mean"].max()))
        parts.append(f"{kind} {low} %" if low == high else f"{kind} {low} to {high} %")
    return f"Half way, at step {half}, mean accuracy is: {'; '.join(parts)}."


def onset_finding(table: pd.DataFrame) -> str:
    """When the loss first leaves the level of guessing: median over seeds, as a range over the methods of a kind."""
    parts = []
    for kind, rows in _by_kind(table):
        reached = rows.loc[rows["onset_median"] < math.inf, "onset_median"]
        low, high = (f"{value:.0f}" for value in (reached.min(), reached.max()))
        never = [METHOD_LABELS[method] for method in rows.loc[rows["onset_median"] == math.inf, "method"]]
        when = [f"step {low}" if low == high else f"steps {low} to {high}"] if len(reached) else []
        if never and rows["init"].iloc[0]:
            when.append(f"not within {rows['steps'].iloc[0]} steps for {_listed(never)}")
        elif never:
            when.append(f"not within {rows['steps'].iloc[0]} steps")
        parts.append(f"{kind}: {', '.join(when)}")
    return f"The loss first falls below {ONSET_LOSS}, in the median run, at: {'; '.join(parts)}."


def update_words(changes: pd.DataFrame) -> str:
    """How often, and by how much on average, the updates of each method raised the gradient norm."""
    sentences = []
    for method, of_method in changes.groupby("method", sort=False):
        parts = [
            f"{100 * _per_update(rows, 'raised'):.0f} % ({INIT_LABELS[str(init)]})"
            for init, rows in of_method.groupby("init", sort=False)
        ]
        mean = _per_update(of_method, "mean")
        sentences.append(
            f"{METHOD_LABELS[str(method)]} raised the gradient norm at {_listed(parts)} of its updates; "
            f"the mean change over all of them is {'+' if mean > 0 else ''}{number(mean, 2)}."
        )
    return " ".join(sentences)


def _per_update(changes: pd.DataFrame, column: str) -> float:
    """Mean over updates; a row stands for as many as it has seeds."""
    return float((changes[column] * changes["n"]).sum() / changes["n"].sum())


def signal_words(levels: pd.DataFrame) -> list[str]:
    """What is left of the dense network's logit std at the highest sparsity, a sentence a panel."""
    sentences = []
    for (mask, base), panel in levels.groupby(["mask", "base"], sort=False):
        top, bottom = panel["sparsity"].max(), panel["sparsity"].min()
        parts = []
        for scheme, label in INIT_LABELS.items():
            curve = panel[panel["scheme"] == scheme].set_index("sparsity")["mean"]
            if top in curve and bottom in curve and curve[bottom] > 0 and top > bottom:
                parts.append(f"{label} {number(100 * curve[top] / curve[bottom], 2)} %")
        if parts:
            zeros = f"{number(100 * top)} % zeros leave of the signal at {number(100 * bottom)} %"
            sentences.append(f"{panel_label(str(mask), str(base))}: {zeros}: {', '.join(parts)}.")
    return sentences


def panel_label(mask: str, base: str) -> str:
    """Name of a kind of mask and a base initialiser.

    >>> panel_label("uniform", "kaiming_normal")
    'Uniform mask, He normal'
    """
    return f"{mask.capitalize()} mask, {base.replace('xavier', 'Glorot').replace('kaiming', 'He').replace('_', ' ')}"


def _by_kind(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Rows of unmasked networks one by one, the others by initialisation."""
    unmasked = [(str(label), group) for label, group in rows[rows["init"] == ""].groupby("label", sort=False)]
    masked = [(label, rows[rows["init"] == init]) for init, label in INIT_LABELS.items() if init]
    return [*unmasked, *(pair for pair in masked if len(pair[1]))]


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
