"""An exact permutation test over models: whether one model differs from all the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from sparseflow.lab.page.evidence import NotEnoughRunsError
from sparseflow.paper.claims.intervals import Values
from sparseflow.paper.claims.verdict import Part, directed

#: Choices up to which all are taken, and drawn where there are more.
DRAWS = 100_000


@dataclass(frozen=True, eq=False)
class Block:
    """Differences of some models from each other, and from one other model in the last row and column."""

    matrix: Values
    """``(models + 1, models + 1)``, symmetric, zero on the diagonal."""

    @property
    def excess(self) -> Values:
        r"""For each model, how much farther it is from the others than they are from each other.

        .. math:: s_k = \frac{1}{m} \sum_{i \ne k} d_{ik} - \binom{m}{2}^{-1} \sum_{i < j;\ i, j \ne k} d_{ij}
        """
        others = len(self.matrix) - 1
        away: Values = self.matrix.sum(axis=1)
        rest = float(self.matrix.sum()) / 2 - away
        return away / others - rest / (others * (others - 1) / 2)

    @property
    def between(self) -> float:
        """Mean difference of two of the models."""
        return self.to_other - float(self.excess[-1])

    @property
    def to_other(self) -> float:
        """Mean difference of the models and the other one."""
        return float(self.matrix[-1].sum() / (len(self.matrix) - 1))


def nearer_to_each_other(blocks: Sequence[Block], *, alpha: float) -> Part:
    r"""Whether models are nearer to each other than to the other one: permutation of which model is the other one.

    If the other one were one more model of the same kind, each of the ``m + 1`` models of a block would be the odd one
    out with the same chance, whatever the differences between pairs have in common. Blocks are independent, so with one
    choice :math:`k_b` in each

    .. math:: T = \sum_b s_{b, k_b},\qquad p = P(T \ge T_{\mathrm{other}})

    over all :math:`\prod_b (m_b + 1)` choices, or over 100,000 drawn at random where there are more. Signs of
    differences model by model may not be flipped instead, for all of them share the one other model.

    Args:
        blocks: One for each other model.
        alpha: Level of significance.

    Raises:
        NotEnoughRunsError: if no outcome could be significant.

    >>> odd = Block(np.array([[0.0, 1.0, 1.0, 3.0], [1.0, 0.0, 1.0, 3.0], [1.0, 1.0, 0.0, 3.0], [3.0, 3.0, 3.0, 0.0]]))
    >>> odd.between, odd.to_other, nearer_to_each_other([odd] * 3, alpha=0.05).p_value  # 1 of 4 * 4 * 4 choices
    (1.0, 3.0, 0.015625)
    """
    choices = math.prod(len(block.matrix) for block in blocks)
    if choices * alpha <= 1:
        raise NotEnoughRunsError(
            f"tickets of {len(blocks)} pruning runs give a permutation test {choices} outcomes, of more than "
            f"{1 / alpha:.0f} needed. Compare those of more pruning runs:\nsparseflow reproduce function_pairs"
        )
    excesses = [block.excess for block in blocks]
    observed = float(sum(excess[-1] for excess in excesses))
    if choices <= DRAWS:
        totals = np.ravel(reduce(np.add.outer, excesses))
    else:
        draw = np.random.default_rng(0)
        drawn = sum(excess[draw.integers(0, len(excess), DRAWS)] for excess in excesses)
        # The observed choice is one of them, so that no p-value is 0.
        totals = np.append(drawn, observed)
    # Sums of the same numbers in another order differ by rounding.
    rounding = 1e-12 * np.abs(totals).max()
    p = float((totals >= observed - rounding).mean())
    opposite = float((totals <= observed + rounding).mean())
    mean = observed / len(blocks)
    n = f"{len(blocks)} pruning runs, {sum(len(block.matrix) - 1 for block in blocks)} tickets"
    text = f"permutation over models, excess over pairs {mean:.3g}, p = {p:.2g}"
    return Part(directed(mean, right=mean > 0, shown=p < alpha, refuted=opposite < alpha), text, n, p)
