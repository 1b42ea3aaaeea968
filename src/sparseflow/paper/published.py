"""The paper's own numbers, as this package ships them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import pandas as pd

from sparseflow.lab.page.estimates import Estimate
from sparseflow.sealed import SUMS, check_sum


class Claim(NamedTuple):
    """A claim of the paper with the test that this package puts it to."""

    id: str
    section: str
    statement: str
    test: str
    criterion: str
    published: str
    caveat: str


@dataclass(frozen=True)
class Reported:
    """A number as the paper prints it; NaN where it prints none."""

    mean: float
    std: float
    """Population standard deviation (the paper's four cells that can be checked are)."""
    n: float
    note: str = ""

    def holds(self, ours: Estimate) -> bool | None:
        """Whether the printed mean lies in the 95 % interval of ours; None where one of the two is missing.

        >>> from sparseflow.lab.page.estimates import estimate
        >>> Reported(2.0, 0.1, 5).holds(estimate([1.0, 2.0, 3.0])), Reported(9.0, 0.1, 5).holds(estimate([1.0, 2.0]))
        (True, False)
        """
        if np.isnan(self.mean) or np.isnan(ours.low):
            return None
        return bool(ours.low <= self.mean <= ours.high)

    def reaches(self, ours: Estimate) -> bool | None:
        """Whether our mean lies within three printed standard deviations of the printed mean; None without a spread.

        A standard deviation that is printed as 0 is one that was rounded: it has no range.

        >>> from sparseflow.lab.page.estimates import estimate
        >>> Reported(2.0, 0.5, 5).reaches(estimate([3.0, 3.0])), Reported(2.0, 0.0, 5).reaches(estimate([2.0, 2.0]))
        (True, None)
        """
        if np.isnan(self.mean) or not self.std > 0 or np.isnan(ours.mean):
            return None
        return bool(abs(ours.mean - self.mean) <= 3 * self.std)


def claims() -> list[Claim]:
    """Every claim, in order.

    >>> len(claims()), claims()[0].id
    (53, 'C01')
    """
    table = _read("claims").fillna("")
    columns = ["id", "section", "statement", "test_mnist_scale", "pass_criterion", "published_numbers", "caveat"]
    return [Claim(*row) for row in table[columns].itertuples(index=False, name=None)]


def imagenet(name: str, *, model: str, method: str, init: str, metric: str = "test_top1_percent") -> Reported | None:
    """One number of a table about ImageNet; ``None`` where it has none.

    Args:
        name: Of the table.
        model: ``VGG16`` or ``ResNet50``.
        method, init: As the paper calls them; "" where there is no initialisation.
        metric: What is reported.

    >>> imagenet("table1", model="VGG16", method="Scratch", init="Ours").mean
    62.52
    """
    table = _about("ImageNet-2012", name)
    rows = table[table["model"] == model]
    rows = rows[(rows["method"] == method) & (rows["init"] == init) & (rows["metric"] == metric)]
    return _reported(rows) if len(rows) == 1 else None


def mnist(name: str) -> pd.DataFrame:
    """The MNIST part of a table of the paper: ``method, init, metric, mean, std, n_seeds, note`` and others.

    ``method``, ``init`` and ``note`` are text, "" where the table has none.

    >>> len(mnist("table5"))
    12
    """
    return _about("MNIST", name)


def reported(name: str, *, method: str, init: str | None = None, metric: str = "test_top1_percent") -> Reported:
    """One number of a table; ``init`` only where a method has several.

    Raises:
        KeyError: if the table has no such number, or several.

    >>> reported("table1", method="Scratch", init="Ours").mean
    97.7
    """
    table = mnist(name)
    rows = table[(table["method"] == method) & (table["metric"] == metric)]
    if init is not None:
        rows = rows[rows["init"] == init]
    if len(rows) != 1:
        raise KeyError(f"{name} has {len(rows)} rows for method={method!r}, init={init!r}, metric={metric!r}.")
    return _reported(rows)


def _about(dataset: str, name: str) -> pd.DataFrame:
    table = _read(name)
    return table[table["dataset"] == dataset].fillna({"init": "", "method": "", "note": ""})


def _reported(rows: pd.DataFrame) -> Reported:
    row = rows.iloc[0]
    return Reported(float(row["mean"]), float(row["std"]), float(row["n_seeds"]), str(row["note"]))


@cache
def _read(name: str) -> pd.DataFrame:
    folder = files("sparseflow.paper").joinpath("printed")
    data = folder.joinpath(f"{name}.csv").read_bytes()
    check_sum(f"{name}.csv", data, folder.joinpath(SUMS).read_bytes(), source=SUMS, cure="Install sparseflow again.")
    return pd.read_csv(io.BytesIO(data), dtype={"method": "str", "init": "str", "note": "str"})
