"""The finding of each figure, in words and numbers computed from the table behind it."""

from __future__ import annotations

import math

import pandas as pd

from sparseflow.init.schemes import SCHEMES
from sparseflow.lab.demo.headline import share
from sparseflow.lab.page.summary import ONSET_LOSS
from sparseflow.lab.page.table import records
from sparseflow.lab.page.words import listed, number, signed
from sparseflow.training.names import shown_methods


def accuracy_words(table: pd.DataFrame) -> str:
    """How many runs of every group learned, and their median accuracy.

    >>> accuracy_words(pd.DataFrame([{"label": "SET, Liu", "learned": 1, "n": 2, "learned_median": 94.25}]))
    'SET, Liu: 1 of 2 learned, median 94.2 %.'
    """
    parts = []
    for row in records(table):
        median = f", median {row['learned_median']:.1f} %" if row["learned"] else ""
        parts.append(f"{row['label']}: {share(row)} learned{median}")
    return "; ".join(parts) + "."


def curve_words(curves: pd.DataFrame) -> str:
    """First and last mean of every curve.

    >>> curve_words(pd.DataFrame({"label": "Dense", "step": [0, 50, 900], "mean": [2.3, 1.0, 0.125]}))
    'From step 0 to step 900: Dense from 2.3 to 0.125.'
    """
    parts = [
        f"{label} from {number(curve['mean'].iloc[0])} to {number(curve['mean'].iloc[-1])}"
        for label, curve in curves.groupby("label", sort=False)
    ]
    return f"From step {curves['step'].min()} to step {curves['step'].max()}: {'; '.join(parts)}."


def norm_finding(curves: pd.DataFrame) -> str:
    """The gradient at the first step, usual against sparsity-aware initialisation.

    >>> norm_finding(pd.DataFrame({"method": "set", "init": ["dense", "sparse"], "step": 0, "mean": [0.25, 1.0]}))
    'At step 0 the gradient norm of SET is 1 with the sparsity-aware initialisation and 0.25 with the usual one:
     4 times larger.'
    """
    step = curves["step"].min()
    start = {(row["method"], row["init"]): row["mean"] for row in records(curves[curves["step"] == step])}
    for method, shown in shown_methods().items():
        usual, aware = start.get((method, "dense"), 0.0), start.get((method, "sparse"), 0.0)
        if usual > 0 and aware > 0:
            ratio, relation = (aware / usual, "larger") if aware > usual else (usual / aware, "smaller")
            return (
                f"At step {step} the gradient norm of {shown.label} is {number(aware)} with the sparsity-aware "
                f"initialisation and {number(usual)} with the usual one: {number(ratio, 2)} times {relation}."
            )
    return curve_words(curves)


def halfway_finding(curves: pd.DataFrame) -> str:
    """Mean test accuracy at the logged step nearest to half the training, as a range over the methods of a kind.

    >>> curves = pd.DataFrame({"label": ["SET, Liu", "RigL, Liu"] * 2, "init": "liu", "step": [50, 50, 90, 90]})
    >>> halfway_finding(curves.assign(mean=[80.0, 90.0, 97.0, 98.0]))
    'Half way, at step 50, mean accuracy is: Liu 80 to 90 %.'
    """
    steps = curves["step"].unique()
    half = min(steps, key=lambda step: (abs(step - steps.max() / 2), step))
    parts = []
    for kind, rows in _by_kind(curves[curves["step"] == half]):
        low, high = (f"{value:.0f}" for value in (rows["mean"].min(), rows["mean"].max()))
        parts.append(f"{kind} {low} %" if low == high else f"{kind} {low} to {high} %")
    return f"Half way, at step {half}, mean accuracy is: {'; '.join(parts)}."


def onset_finding(table: pd.DataFrame) -> str:
    """The step at which the loss leaves the level of guessing: median over seeds, as a range over methods of a kind.

    >>> table = pd.DataFrame({"method": ["set", "rigl"], "init": "liu", "steps": 900, "onset_median": [math.inf, 50.0]})
    >>> onset_finding(table.assign(label=["SET, Liu", "RigL, Liu"]))
    'The loss of the median run first falls below 2.2: Liu at step 50, but not within 900 steps for SET.'
    """
    parts = []
    for kind, rows in _by_kind(table):
        reached = rows.loc[rows["onset_median"] < math.inf, "onset_median"]
        low, high = (f"{value:.0f}" for value in (reached.min(), reached.max()))
        never = [shown_methods()[method].label for method in rows.loc[rows["onset_median"] == math.inf, "method"]]
        when = [f"at step {low}" if low == high else f"at steps {low} to {high}"] if len(reached) else []
        if never and rows["init"].iloc[0]:
            when.append(f"not within {rows['steps'].iloc[0]} steps for {listed(never)}")
        elif never:
            when.append(f"not within {rows['steps'].iloc[0]} steps")
        parts.append(f"{kind} {', but '.join(when)}")
    return f"The loss of the median run first falls below {ONSET_LOSS}: {'; '.join(parts)}."


def update_words(changes: pd.DataFrame) -> str:
    """The share of updates that raised the gradient norm, and the mean change, by method.

    >>> update_words(pd.DataFrame({"method": "set", "init": "liu", "n": 2, "raised": [0.5, 0.0], "mean": [0.1, -0.3]}))
    'SET raised the gradient norm at 25 % (Liu) of its updates; the mean change over all of them is −0.1.'
    >>> update_words(pd.DataFrame({"method": "prune", "init": "", "n": 2, "raised": [0.5, 0.0], "mean": [0.1, -0.3]}))
    'Pruned raised the gradient norm at 25 % of its updates; the mean change over all of them is −0.1.'
    """
    sentences = []
    for method, of_method in changes.groupby("method", sort=False):
        parts = [
            f"{100 * _per_update(rows, 'raised'):.0f} %" + (f" ({SCHEMES[str(init)].label})" if init else "")
            for init, rows in of_method.groupby("init", sort=False)
        ]
        mean = _per_update(of_method, "mean")
        sentences.append(
            f"{shown_methods()[str(method)].label} raised the gradient norm at {listed(parts)} of its updates; "
            f"the mean change over all of them is {signed(mean)}."
        )
    return " ".join(sentences)


def _per_update(changes: pd.DataFrame, column: str) -> float:
    """Mean over updates, of which each row has one per seed."""
    return float((changes[column] * changes["n"]).sum() / changes["n"].sum())


def _by_kind(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Rows of unmasked networks one by one, the others by initialisation."""
    unmasked = [(str(label), group) for label, group in rows[rows["init"] == ""].groupby("label", sort=False)]
    masked = [(scheme.label, rows[rows["init"] == init]) for init, scheme in SCHEMES.items()]
    return [*unmasked, *(pair for pair in masked if len(pair[1]))]
