"""Tables 2 and 6: do tickets, scratch runs and pruned networks compute the same function?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import pandas as pd

from sparseflow.lab.page.estimates import Estimate, estimate, interval_margin
from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.lab.page.exhibit import Content
from sparseflow.lab.page.summary import accuracy_percent
from sparseflow.lab.page.table import Cell, Column, Record, Table, cell, records
from sparseflow.lab.page.words import count, fixed, interval, plus_minus, times, yes_no
from sparseflow.paper.claims.contrasts import pair_spread
from sparseflow.paper.claims.pruning_runs import of_tickets
from sparseflow.paper.claims.sites import MNIST
from sparseflow.paper.claims.tables import rows
from sparseflow.paper.exhibits.networks import kind_labels
from sparseflow.paper.exhibits.shortfalls import shortfalls
from sparseflow.paper.matrix.scale import Scale
from sparseflow.paper.published import Reported, reported


class Row(NamedTuple):
    """One row: a group of ours, and its names in Tables 2 and 6."""

    label: str
    group: str
    table2: str
    table6: str


ROWS = (
    Row("Lottery", "tickets/lottery", "LT", "LT"),
    Row("Scratch, one start for all", "tickets/scratch-same", "Scratch (same init)", "Scratch (same init)"),
    Row("Scratch, a start each", "tickets/scratch", "Scratch (Diff. Init.)", "Scratch (Diff. Init.)"),
    Row("Prune Restart", "tickets/restart", "Prune Restart", "Prune Restart"),
    Row("The pruned network", "tickets/prune", "Pruned Soln.", "Pruned Soln."),
    Row("Pruned, one mask each", "tickets/prune", "5 Diff. Pruned", "Pruned w/ Diff. Init."),
)
GROUPS = tuple(dict.fromkeys(row.group for row in ROWS))
FUNCTION_TABLES = ("function_pairs", "function_reference", "function_ensembles")
#: Models in the paper's ensembles and its multi-model JSD.
MEMBERS = 5
#: The row that is one network: it has an accuracy and nothing to be compared with.
SINGLE = "Pruned Soln."
#: The two columns of Table 6 whose MNIST part looks interchanged (protocol I.4).
INTERCHANGED = {"KL_with_pruned": "five_model_JSD", "five_model_JSD": "KL_with_pruned"}


def _accuracy(evidence: Evidence, row: Row) -> Estimate:
    runs = evidence.runs(row.group)
    return estimate([accuracy_percent(run) for run in (runs[:1] if row.table2 == SINGLE else runs)])


def _ensembles(column: str) -> Callable[[Evidence, Row], Estimate]:
    def measure(evidence: Evidence, row: Row) -> Estimate:
        draws = rows(evidence, "function_ensembles", group=row.group)
        # Smaller ensembles are there for the claims' jackknife.
        again = (draws["draw"] > 0) & (draws["members"] == MEMBERS)
        resampled = draws.loc[again, column].to_numpy(dtype=float)
        if len(resampled) < 2:
            return Estimate(1, float(draws[column].iloc[0]), np.nan, np.nan, np.nan)
        low, high = np.quantile(resampled, [0.025, 0.975])
        return Estimate(len(resampled), float(resampled.mean()), float(resampled.std()), float(low), float(high))

    return measure


def pair_estimate(pairs: pd.DataFrame) -> Estimate:
    """Mean over pairs of models, with the interval of :func:`.pair_spread`, which knows that pairs share models.

    Args:
        pairs: columns ``a``, ``b`` (models) and ``value``.

    Returns:
        ``n`` counts models; ``std`` is over pairs, as in the paper.

    >>> pairs = pd.DataFrame({"a": [0, 0, 1], "b": [1, 2, 2], "value": [1.0, 2.0, 3.0]})
    >>> pair_estimate(pairs).mean, pair_estimate(pairs).n
    (2.0, 3)
    """
    n, values = len({*pairs["a"], *pairs["b"]}), pairs["value"].to_numpy(dtype=float)
    if not n:
        return estimate([])
    margin = interval_margin(pair_spread(pairs, "value").error, n) if n > 2 else np.nan
    mean = float(values.mean())
    return Estimate(n, mean, float(values.std()), mean - margin, mean + margin)


def _pairs(*columns: str) -> Callable[[Evidence, Row], Estimate]:
    def measure(evidence: Evidence, row: Row) -> Estimate:
        pairs = rows(evidence, "function_pairs", group=row.group)
        return pair_estimate(pairs.assign(value=pairs[list(columns)].mean(axis=1)))

    return measure


def _with_pruned(column: str) -> Callable[[Evidence, Row], Estimate]:
    return lambda evidence, row: estimate(
        rows(evidence, "function_reference", group=row.group)[column].to_numpy(dtype=float)
    )


class Metric(NamedTuple):
    """One column."""

    head: str
    digits: int
    measure: Callable[[Evidence, Row], Estimate]


#: The paper's name of a column -> ours.
METRICS = {
    "test_top1_percent": Metric("Test accuracy, %", 2, _accuracy),
    "ensemble_test_top1_percent": Metric("Ensemble accuracy, %", 2, _ensembles("probabilities")),
    "pairwise_disagreement_fraction": Metric("Disagreement of two", 4, _pairs("disagreement")),
    "disagreement_with_pruned_fraction": Metric("Disagreement with pruned", 4, _with_pruned("disagreement")),
    "pairwise_KL": Metric("KL of two, nats", 4, _pairs("kl_ab", "kl_ba")),
    "KL_with_pruned": Metric("KL with pruned, nats", 4, _with_pruned("kl_from_model")),
    "five_model_JSD": Metric("JSD of five, nats", 4, _ensembles("multi_jsd")),
    "JSD_with_pruned": Metric("JSD with pruned, nats", 4, _with_pruned("jsd")),
}
TABLE2 = tuple(METRICS)[:4]
TABLE6 = tuple(METRICS)[4:]
_NOTE = (
    "A second line in a row of ours is a 95 % interval: of the mean over models; for pairs by leaving out one model at "
    "a time, because pairs share models; for ensembles the middle 95 % of ensembles of five drawn from all runs, where "
    "there are more than five. In a row of the paper it says whether the paper's number lies in that interval, and "
    "whether our mean lies within three of the paper's standard deviations."
)


def similarity_table(name: str, metrics: Sequence[str], evidence: Evidence, scale: Scale) -> Content:
    """Two rows per kind of network, ours and the paper's; one column per metric.

    Args:
        name: ``table2`` or ``table6``.
        metrics: keys of ``METRICS``.
        evidence: runs and the ``function_*`` tables.
        scale: how many runs are planned.
    """
    records: list[dict[str, object]] = []
    cells: list[list[Cell]] = []
    missing: dict[str, None] = {}
    for row in ROWS:
        lines = [cell(row.label, "ours"), *(cell("-") for _ in metrics)], [cell("paper", tone="soft")]
        for place, metric in enumerate(metrics, start=1):
            paper = _paper(name, row, metric)
            if row.table2 == SINGLE and metric != "test_top1_percent":
                lines[1].append(cell("-", tone="soft"))
                continue
            try:
                ours = METRICS[metric].measure(evidence, row)
            except NotEnoughRunsError as error:
                missing[str(error)] = None
                ours = estimate([])
            digits = METRICS[metric].digits
            lines[0][place] = cell(plus_minus(ours.mean, ours.std, digits), interval(ours.low, ours.high, digits))
            other = _paper(name, row, INTERCHANGED[metric]) if metric in INTERCHANGED else None
            lines[1].append(_paper_cell(ours, paper, other, digits))
            records.append(_record(row, metric, ours, paper, other))
        cells += lines
    data = pd.DataFrame(records)
    if data["mean"].isna().all():
        raise NotEnoughRunsError("\n".join(missing))
    table = Table(
        name=name,
        caption="Mean ± population standard deviation.",
        head=["Network", *(METRICS[metric].head for metric in metrics)],
        rows=cells,
        data=data,
        note=_NOTE,
        paired=True,
    )
    findings = [*_over_pruning_runs(evidence), *_functions(data)] if name == "table2" else _divergences(data)
    return Content(shows=findings, tables=[table], missing=[*missing, *shortfalls(evidence, scale, GROUPS)])


def _paper(name: str, row: Row, metric: str) -> Reported:
    try:
        return reported(name, method=row.table2 if name == "table2" else row.table6, metric=metric)
    except KeyError:
        return Reported(np.nan, np.nan, np.nan)


def _paper_cell(ours: Estimate, paper: Reported, other: Reported | None, digits: int) -> Cell:
    lines = [plus_minus(paper.mean, paper.std, digits)]
    if other is not None and not np.isnan(other.mean):
        lines.append(f"interchanged: {plus_minus(other.mean, other.std, digits)}")
        paper = other
    inside, near = paper.holds(ours), paper.reaches(ours)
    answers = {"in interval": inside, "within 3 std": near}
    lines += [f"{question}: {yes_no(answer)}" for question, answer in answers.items() if answer is not None]
    return cell(*lines, tone="soft")


def _record(row: Row, metric: str, ours: Estimate, paper: Reported, other: Reported | None) -> dict[str, object]:
    compared = paper if other is None or np.isnan(other.mean) else other
    return {
        "network": row.label,
        "group": row.group,
        "metric": metric,
        **asdict(ours),
        "paper_mean": paper.mean,
        "paper_std": paper.std,
        "paper_n": paper.n,
        "paper_mean_if_interchanged": np.nan if other is None else other.mean,
        "paper_in_interval": compared.holds(ours),
        "ours_within_3_std": compared.reaches(ours),
    }


def _over_pruning_runs(evidence: Evidence) -> list[str]:
    """Disagreement with the pruned network as C36 has it; none where there are too few pruning runs."""
    try:
        found = of_tickets(evidence, MNIST, MNIST.main_tickets, "function_reference", "disagreement")
    except NotEnoughRunsError:
        return []
    return [
        f"Over {len(found.lottery)} pruning runs, each the mean of its runs, lottery tickets name "
        f"{100 * found.lottery.mean():.2f} % of the test images differently from the pruned network that they come "
        f"from, scratch runs {100 * found.scratch.mean():.2f} %: {found.ratio:.1f} times as many."
    ]


def _functions(data: pd.DataFrame) -> list[str]:
    values = data.set_index(["network", "metric"])["mean"]
    sentences = []
    ticket, scratch = (
        values.get((name, "disagreement_with_pruned_fraction")) for name in (ROWS[0].label, ROWS[2].label)
    )
    if ticket and scratch and not np.isnan(ticket + scratch):
        sentences.append(
            f"On the masks of the first pruning run lottery tickets name {100 * ticket:.2f} % of them differently, "
            f"scratch runs {100 * scratch:.2f} %: {times(scratch / ticket)} as many."
        )
    if reference := _above_pruned(data):
        sentences.append(reference)
    gains = []
    for row in ROWS:
        gain = values.get((row.label, "ensemble_test_top1_percent"), np.nan) - values.get(
            (row.label, "test_top1_percent"), np.nan
        )
        if not np.isnan(gain):
            gains.append(f"{row.label} {gain:+.2f}".replace("-", "−"))
    if gains:
        sentences.append(f"Points that an ensemble of five adds to its members: {'; '.join(gains)}.")
    return sentences or [_judged(data)]


def _above_pruned(data: pd.DataFrame) -> str:
    """Accuracies relative to the network that masks come from, which one pruning run decides, ours and the paper's."""
    metric = "test_top1_percent"
    accuracy = data[data["metric"] == metric].set_index("network")[["mean", "paper_mean"]]
    pruned = next(row.label for row in ROWS if row.table2 == SINGLE)
    above = (accuracy - accuracy.loc[pruned]).drop(pruned).dropna() if pruned in accuracy.index else accuracy.iloc[:0]
    if above.empty:
        return ""
    parts = [
        f"{network} {fixed(row['mean'], 2)} (paper {fixed(row['paper_mean'], 2)})"
        for network, row in zip(above.index, records(above), strict=True)
    ]
    return (
        f"All but the last row hang on one pruning run: ours ends at {_mean(data, pruned, metric):.2f} %, the paper's "
        f"at {_mean(data, pruned, metric, column='paper_mean'):.2f} %. Points above it: {'; '.join(parts)}."
    )


def _divergences(data: pd.DataFrame) -> list[str]:
    bound = (MEMBERS - 1) / MEMBERS
    printed = [{metric: _paper("table6", row, metric).mean for metric in TABLE6} for row in ROWS]
    above = sum(row["five_model_JSD"] > bound * row["pairwise_KL"] for row in printed)
    below = sum(row["KL_with_pruned"] < 4 * row["JSD_with_pruned"] for row in printed)
    order = [(row.label, value) for row in ROWS if not np.isnan(value := _mean(data, row.label, "JSD_with_pruned"))]
    sentences = []
    if order:
        ranked = sorted(order, key=lambda pair: pair[1])
        sentences.append(
            "From most to least like the pruned network, by JSD: "
            + ", ".join(f"{label} ({value:.4f})" for label, value in ranked)
            + "."
        )
    sentences.append(
        "In the paper two of these columns, the KL with the pruned network and the JSD of five, look interchanged. The "
        f"JSD of five models cannot exceed {bound:g} times the mean KL over their pairs; as printed it does in "
        f"{count(above, 'row')}. The KL of two networks, averaged over its directions, is at least four times their "
        f"JSD; as printed the KL with the pruned network is less in {count(below, 'row')}. Our numbers stand under the "
        "heading that they are; they are compared with the paper's after interchanging its two columns."
    )
    return sentences


def _mean(data: pd.DataFrame, label: str, metric: str, *, column: str = "mean") -> float:
    found = data.loc[(data["network"] == label) & (data["metric"] == metric), column]
    return float(found.iloc[0]) if len(found) else np.nan


def _judged(data: pd.DataFrame) -> str:
    judged = data["ours_within_3_std"].dropna()
    return f"{int(judged.sum())} of {len(judged)} of our means lie within three of the paper's standard deviations."


# --- images -----------------------------------------------------------------------------------------------------------


class Functions(NamedTuple):
    """The answers of one kind of network on images to the test images."""

    label: str
    reference: pd.DataFrame
    """Each network against the pruned network whose masks it has."""
    pairs: Estimate
    """Disagreement of two networks on the masks of the first pruning run."""
    ensemble: pd.Series
    """All of them together."""

    @property
    def with_pruned(self) -> Estimate:
        """Disagreement with the pruned network."""
        return estimate(self.reference["disagreement"].to_list())


def _percents(name: str) -> Callable[[Record], str]:
    return lambda row: plus_minus(100 * row[name], 100 * row[f"{name}_std"], 2)


def _gain(row: Record) -> str:
    return fixed(row["ensemble"] - row["member_accuracy"], 2)


COLUMNS = (
    Column("network", lambda of: of.label, "Network"),
    Column("runs", lambda of: len(of.reference), "Runs"),
    Column("accuracy", lambda of: of.reference["accuracy"].mean(), "Accuracy, %", ".2f"),
    Column("with_pruned", lambda of: of.with_pruned.mean, "Differs from pruned, %", _percents("with_pruned")),
    Column("with_pruned_std", lambda of: of.with_pruned.std),
    Column("jsd_with_pruned", lambda of: of.reference["jsd"].mean(), "JSD to pruned, nats", ".4f"),
    Column("pairwise", lambda of: of.pairs.mean, "Differs pairwise, %", _percents("pairwise")),
    Column("pairwise_std", lambda of: of.pairs.std),
    Column("members", lambda of: int(of.ensemble["members"]), "Ensemble of"),
    Column("member_accuracy", lambda of: of.ensemble["member_accuracy"]),
    Column("ensemble", lambda of: of.ensemble["probabilities"], "gains, points", _gain),
)


def function_exhibit(setting: str, evidence: Evidence, scale: Scale) -> Content:
    """Disagreement of networks on images, with each other and with the pruned network, and gains of ensembles."""
    pairs, others, ensembles = (evidence.table(f"function_{name}") for name in ("pairs", "reference", "ensembles"))
    found = []
    for group, of_group in others.groupby("group", sort=False):
        of_pairs = pairs[(pairs["group"] == group) & (pairs["mask"] == 0)]
        together = ensembles[(ensembles["group"] == group) & (ensembles["mask"] == 0) & (ensembles["draw"] == 0)]
        mutual = pair_estimate(of_pairs.rename(columns={"disagreement": "value"})[["a", "b", "value"]])
        label = kind_labels()[str(group).removeprefix(f"{setting}/")]
        found.append(Functions(label, of_group, mutual, together.iloc[0]))
    table = Table.of(
        COLUMNS,
        found,
        name="functions",
        caption="Answers to the test images.",
        note="Against the pruned network: runs on the masks of all pruning runs, each against its own; pruned networks "
        "against the first of them. Pairs and ensembles: runs on the masks of the first. In the paper, ResNet-50 on "
        "ImageNet, tickets differ from the pruned network on 9.4 % of the images and scratch on 20.3 %.",
    )
    spoken = "; ".join(f"{row['network']} {100 * row['with_pruned']:.1f} %" for row in records(table.data))
    return Content(
        shows=[f"Test images that a network names unlike the pruned network whose masks it has: {spoken}."],
        tables=[table],
    )
