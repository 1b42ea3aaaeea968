"""Growth in the trial of an optimizer: grown weights must move, and no farther than those beside them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

import sparseflow as sf
from battery.words import digit
from sparseflow.types import MaskUpdate

#: Steps after an update within which a grown weight must have moved.
PATIENCE = 2
#: Share of grown weights that may stand still, beyond the share of the others that do.
STILL_SHARE = 0.1
#: Bounds on the 0.9-quantile of the ways of grown weights over that of the others; most are between 0.1 and 3.
SHORT, LONG_WAY = 0.02, 5.0
#: Bound on the same ratio, and on that of the farthest ways, beyond which growth is broken.
LEAP = 30.0


class Growth:
    """Whether the weights that RigL grows move, and no more than those beside them."""

    def __init__(self, model: nn.Module, sparsifier: sf.Sparsifier) -> None:
        self._parameters = dict(model.named_parameters())
        self._sparsifier = sparsifier
        self._left = 0
        self._grown: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        self._asked: dict[str, Tensor] = {}
        self.moves: list[tuple[Tensor, Tensor]] = []
        """For each update how far grown weights came, and how far the others did in the same steps."""
        sparsifier.after_update.append(self._updated)

    def see_gradients(self) -> None:
        """Remember which weights the loss asks to move."""
        for name, asked in self._asked.items():
            if (gradient := self._parameters[name].grad) is not None:
                asked |= gradient != 0

    def after_step(self) -> None:
        """Look how far weights came, once it is time."""
        self._left -= 1
        if self._left or not self._grown:
            return
        ways: dict[bool, list[Tensor]] = {True: [], False: []}
        for name, grown in self._grown.items():
            way = (self._parameters[name].detach() - self._before[name]).abs()
            there = self._asked[name] & self._sparsifier.masks[name]
            ways[True].append(way[there & grown])
            ways[False].append(way[there & ~grown])
        self.moves.append((torch.cat(ways[True]), torch.cat(ways[False])))
        self._grown, self._asked = {}, {}

    def _updated(self, step: int, changes: Mapping[str, MaskUpdate]) -> None:
        self._left = PATIENCE + 1  # the step that updated calls after_step, too
        self._grown = {name: change.grown.clone() for name, change in changes.items()}
        self._before = {name: self._parameters[name].detach().clone() for name in self._grown}
        self._asked = {name: torch.zeros_like(grown) for name, grown in self._grown.items()}


def judge_moves(moves: list[tuple[Tensor, Tensor]]) -> tuple[list[str], list[str]]:
    """Faults and caveats of the ways of grown weights, beside those of the others in the same steps; updates apart.

    Updates after which no weight moves at all (a warm-up) are left out.

    >>> moved, still = torch.tensor([0.1, 0.2]), torch.zeros(2)
    >>> judge_moves([(moved, moved), (still, still)])
    ([], [])
    >>> judge_moves([(still, moved)])
    (['2 of 2 grown weights did not move in 2 steps'], [])
    >>> judge_moves([(1000 * moved, moved)])
    (['grown weights move about 1e+03 times as far as the others'], [])
    >>> judge_moves([(10 * moved, moved)])
    ([], ['in their first 2 steps grown weights move about 1e+01 times as far as the others'])
    """
    awake = [(grown, others) for grown, others in moves if len(grown) and len(others) and bool(others.any())]
    if not awake:
        return ["no weight moved after an update, so nothing was tried"], []
    still = sum(int((grown == 0).sum()) for grown, _ in awake)
    of = sum(len(grown) for grown, _ in awake)
    usual = max(float((others == 0).float().mean()) for _, others in awake)
    if still == of or still / of > usual + STILL_SHARE:
        return [f"{still} of {of} grown weights did not move in {PATIENCE} steps"], []
    ratios = [float(grown.quantile(0.9) / others.quantile(0.9)) for grown, others in awake if others.quantile(0.9) > 0]
    farthest = [float(grown.max() / others.max()) for grown, others in awake]
    if ratios and (max(ratios) < SHORT or max(ratios) > LEAP):
        return [f"grown weights move {digit(max(ratios))} times as far as the others"], []
    if max(farthest) > LEAP:
        return [f"a grown weight moves {digit(max(farthest))} times as far as any other"], []
    if ratios and max(ratios) > LONG_WAY:
        way = f"in their first {PATIENCE} steps grown weights move {digit(max(ratios))} times as far as the others"
        return [], [way]
    return [], []
