"""The main result in one sentence and a few comparisons; opposite data give the opposite sentence."""

from __future__ import annotations

import math

import pandas as pd

from sparseflow.lab.page.table import Record, records


def headline(table: pd.DataFrame) -> str:
    """The one sentence on top, from the table of :func:`sparseflow.lab.page.summary.summarize`.

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
        with_aware = f"all {aware['n']} learned" if not aware["collapsed"] else f"{share(aware)} did not"
        return (
            f"With the usual initialisation {share(usual)} static sparse networks did not learn; "
            f"with the sparsity-aware one {with_aware}."
        )
    if usual_rate < aware_rate:
        with_usual = f"all {usual['n']} learned" if not usual["collapsed"] else f"{share(usual)} did not"
        return (
            f"Here the sparsity-aware initialisation did worse: {share(aware)} static sparse networks did not learn "
            f"with it; with the usual one {with_usual}."
        )
    if usual_rate:
        return (
            f"The sparsity-aware initialisation did not help here: {share(aware)} static sparse networks did not "
            f"learn with it, and {share(usual)} with the usual one."
        )
    return (
        f"Every static sparse network learned, with either initialisation: {usual['accuracy_mean']:.2f} % test "
        f"accuracy with the usual one, {aware['accuracy_mean']:.2f} % with the sparsity-aware one."
    )


def comparisons(table: pd.DataFrame) -> list[str]:
    """The gain from moving connections under the sparsity-aware initialisation, and the distance to dense networks.

    >>> table = pd.DataFrame({"label": ["Scratch, Ours", "SET, Ours"], "method": ["scratch", "set"], "init": "sparse"})
    >>> comparisons(table.assign(n=3, accuracy_mean=[95.0, 96.0], accuracy_std=0.2)) == [
    ...     "Moving connections at random (SET) ends at 96.00 % test accuracy, leaving them in place at 95.00 %: "
    ...     "1.00 points more, which is beyond two standard errors."]
    True
    """
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


def _difference(ours: Record, theirs: Record) -> str:
    """Two means compared: different only beyond two standard errors of their difference (Welch)."""
    difference = ours["accuracy_mean"] - theirs["accuracy_mean"]
    if min(ours["n"], theirs["n"]) < 2:
        return "one run cannot tell whether that is more than chance"
    # The population variance over n - 1 is the squared standard error of a mean.
    error = math.sqrt(sum(row["accuracy_std"] ** 2 / (row["n"] - 1) for row in (ours, theirs)))
    if abs(difference) > 2 * error:
        return (
            f"{abs(difference):.2f} points {'more' if difference > 0 else 'less'}, which is beyond two standard errors"
        )
    each = f"{ours['n']} runs each" if ours["n"] == theirs["n"] else f"{ours['n']} and {theirs['n']} runs"
    return f"too close to call with {each}"


def share(row: Record) -> str:
    """The number of runs of a group that did not learn, of all.

    >>> share({"collapsed": 2, "n": 5})
    '2 of 5'
    """
    return f"{row['collapsed']} of {row['n']}"
