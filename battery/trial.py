"""The trial of one optimizer: zeros, growth, resuming, masking by hand, and what its averages make of zeros."""

from __future__ import annotations

import io
import logging
import re
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import sparseflow as sf
from battery.network import Training, difference, network
from battery.optimizers import Row
from sparseflow.types import BrokenPromiseError, Masks, MaskUpdate

Verdict = Literal["works", "caveat", "refused", "fails", "not run"]
#: Steps of the runs that are compared with each other, and of the run with RigL.
STEPS, LONG = 8, 14
#: RigL changes the masks after every so many steps; the run is saved between two changes.
EVERY, SAVED_AT = 3, 7
#: Steps after an update within which a grown weight must have moved.
PATIENCE = 2
#: Share of grown weights that may stand still, beyond the share of the others that do.
STILL_SHARE = 0.1
#: Bounds on the 0.9-quantile of the ways of grown weights over that of the others; most are between 0.1 and 3.
SHORT, LONG_WAY = 0.02, 5.0
#: Bound on the same ratio, and on that of the farthest ways, beyond which growth is broken.
LEAP = 30.0
#: Two runs that differ by less do so by rounding.
ROUNDING = 1e-4
#: The same for quantised state, of the largest number: with 4 bits a second moment is at least a sixteenth of it.
NEAR_ZERO = 0.07
#: Step on a tensor of which 3/4 are zeros over the step on its dense part; further from 1 it counts zeros.
SAME_STEP = 0.05


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the trial of one optimizer found, the same on every machine."""

    library: str
    name: str
    verdict: Verdict
    why: tuple[str, ...] = ()
    """Sentences; for ``works`` none."""
    diluted: float | None = None
    """Step on a tensor of which three quarters are zeros, over the step on its dense quarter; two digits."""
    notes: tuple[str, ...] = field(default=())
    """What sparseflow says when the Sparsifier is made: which state it takes for what."""

    def json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def trial(row: Row, stage: Callable[[str], None] = lambda name: None) -> Outcome:
    """Try one optimizer. ``stage`` is called with the name of each part before it begins.

    The parts: it trains a dense network at all, twice the same; ``Static()`` equals masking by hand; zeros after every
    step and grown weights that move under RigL; a run that is saved and continued in fresh objects ends with the same
    bits; and one tensor is stepped with three quarters of it zero and without these zeros.
    """
    outcome = Outcome(library=row.library, name=row.name, verdict="works")
    stage("dense")
    faults: list[str] = []
    caveats: list[str] = []
    notes: list[str] = []
    try:
        apart = difference(_dense(row), _dense(row))
    except Exception as error:  # noqa: BLE001 - whatever it raises on a dense network is the row's reason
        without = replace(row, flat=True)
        try:
            apart = difference(_dense(without), _dense(without))
        except Exception:  # noqa: BLE001 - as above
            return replace(outcome, verdict="not run", why=(sentence(error),))
        caveats.append(f"on a convolution the optimizer itself raises {sentence(error)}")
        row = without
    if apart:
        caveats.append("two identical dense runs differ")
    at = "static"
    try:
        stage(at)
        _same_as_by_hand(row, faults, caveats if apart else faults, notes)
        stage(at := "grow")
        saved, end = _grow(row, faults, caveats)
        stage(at := "resume")
        _resume(row, saved, end, faults, caveats)
    except Exception as error:  # noqa: BLE001 - a refusal or a fault: both are results
        if at == "static" and is_refusal(error):
            return replace(outcome, verdict="refused", why=(sentence(error),), notes=tuple(notes))
        faults.append(sentence(error))
    caveats += [note for note in notes if "could not be tried out" in note]
    stage("diluted")
    diluted = _diluted(row)
    if diluted is not None and abs(diluted - 1) > SAME_STEP:
        caveats.append(f"counts zeros: where 3/4 of a tensor are zeros its step is {diluted:g} times as long")
    verdict: Verdict = "fails" if faults else "caveat" if caveats else "works"
    return replace(outcome, verdict=verdict, why=(*faults, *caveats), diluted=diluted, notes=tuple(notes))


# -- the parts -----------------------------------------------------------------------------------------------------


def _dense(row: Row) -> dict[str, Tensor]:
    training = Training(row, network(0, flat=row.flat)[0])
    for _ in range(STEPS):
        training.step()
    return training.weights()


def _same_as_by_hand(row: Row, faults: list[str], differs: list[str], notes: list[str]) -> None:
    model, masks = network(0, flat=row.flat)
    by_hand = Training(row, model, hand=masks)
    wanted = [(by_hand.step(), by_hand.weights())[1] for _ in range(STEPS)]
    ours = Training(row, network(0, flat=row.flat)[0])
    said = Said()
    logging.getLogger("sparseflow").addHandler(said)
    sparsifier = sf.Sparsifier(ours.model, ours.made, masks, sf.Static(), seed=0)
    logging.getLogger("sparseflow").removeHandler(said)
    notes += said.lines
    for step, weights in enumerate(wanted, start=1):
        ours.step()
        if (apart := difference(ours.weights(), weights)) > ROUNDING:
            differs.append(f"Static() is not masking by hand: after step {step} weights differ by {_digit(apart)}")
            return
        _zeros(ours, sparsifier, faults)
    faults += _states_differ(ours, by_hand, fresh_states(row), masks)


def fresh_states(row: Row) -> list[dict[str, dict[str, Tensor]]]:
    """State that an optimizer gives weights of zero without a gradient: after one step, and after ``STEPS``.

    Only what is the same number for every weight: a state that is drawn at random, or NaN, says nothing.
    """
    model = network(0, flat=row.flat)[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    training = Training(row, model, objective=lambda model, step: sum_of_zeros(model))
    found = []
    for step in range(1, STEPS + 1):
        training.step()
        if step in (1, STEPS):
            found.append(
                {
                    name: {
                        key: value.clone()
                        for optimizer in training.optimizers
                        for key, value in per_weight(optimizer, parameter).items()
                        if value.numel() and bool((value == value.flatten()[0]).all())
                    }
                    for name, parameter in model.named_parameters()
                }
            )
    return found


def sum_of_zeros(model: nn.Module) -> Tensor:
    """A loss of 0 whose gradients are zeros."""
    return torch.stack([(0 * parameter.square()).sum() for parameter in model.parameters()]).sum()


def _states_differ(
    ours: Training, by_hand: Training, fresh: list[dict[str, dict[str, Tensor]]], masks: Masks
) -> list[str]:
    """States that are, off the masks, neither those of a weight without a gradient nor those of masking by hand.

    What the optimizer keeps in another basis than the weights' is the same as by hand, and no one's to reset.
    """
    found: set[str] = set()
    for optimizer, other in zip(ours.optimizers, by_hand.optimizers, strict=True):
        for name, mask in masks.items():
            kept = per_weight(other, by_hand.model.get_parameter(name))
            for key, state in per_weight(optimizer, ours.model.get_parameter(name)).items():
                allowed = [states[name][key] for states in fresh if key in states[name]]
                allowed += [kept[key]] if key in kept else []
                off = state.float().masked_fill(mask, 0.0)
                near = (NEAR_ZERO if "quantised" in key else ROUNDING) * float(state.float().abs().max())
                if not any(
                    bool(((off - value.float().masked_fill(mask, 0.0)).abs() <= near).all()) for value in allowed
                ):
                    found.add(key)
    if not found:
        return []
    keys = ", ".join(repr(key) for key in sorted(found))
    return [f"off the masks the state {keys} is not that of a weight which has had no gradient"]


def per_weight(optimizer: Any, parameter: Tensor) -> dict[str, Tensor]:
    """State tensors with one number for each weight (or several, along a first dimension), also in lists and dicts.

    Quantised ones are given as the numbers that they stand for.
    """
    found: dict[str, Tensor] = {}

    state = getattr(optimizer, "state", {}).get(parameter, {})

    def walk(key: str, value: Any) -> None:
        if isinstance(value, Tensor) and parameter.shape in (value.shape, value.shape[1:]):
            number = key.removeprefix("state")
            if f"qmap{number}" in state:  # bitsandbytes: codes in a table, and the largest number of each block
                blocks = state[f"qmap{number}"][value.int()].flatten().split(256)
                parts = [
                    block * largest for block, largest in zip(blocks, state[f"absmax{number}"].flatten(), strict=True)
                ]
                found[f"{key} (quantised)"] = torch.cat(parts).view(value.shape)
            elif type(value) in (Tensor, nn.Parameter):
                found[key] = value
            else:
                found[f"{key} (quantised)"] = value.dequantize()
        elif isinstance(value, Mapping):
            for part, inner in value.items():
                walk(f"{key}.{part}" if key else str(part), inner)
        elif isinstance(value, (list, tuple, deque)):
            for index, inner in enumerate(value):
                walk(f"{key}[{index}]", inner)

    walk("", state)
    return found


def _grow(row: Row, faults: list[str], caveats: list[str]) -> tuple[bytes, dict[str, Tensor]]:
    """Train with RigL; the state saved on the way and the weights at the end."""
    model, masks = network(0, flat=row.flat)
    training = Training(row, model)
    sparsifier = sf.Sparsifier(model, training.made, masks, _rigl(), seed=0)
    growth = Growth(model, sparsifier)
    training.after_backward = growth.see_gradients
    saved = io.BytesIO()
    for step in range(LONG):
        training.step()
        _zeros(training, sparsifier, faults)
        growth.after_step()
        if step + 1 == SAVED_AT:
            torch.save(training.state() | {"sparsifier": sparsifier.state_dict()}, saved)  # a copy, as on disk
    if sparsifier.step_count != LONG:
        faults.append(f"the Sparsifier counts {sparsifier.step_count} steps where {LONG} were taken")
    broken, to_know = judge_moves(growth.moves)
    faults += broken
    caveats += to_know
    end = training.weights()
    if training.mode("eval"):
        _zeros(training, sparsifier, faults)
        training.mode("train")
        _zeros(training, sparsifier, faults)
    return saved.getvalue(), end


def _resume(row: Row, saved: bytes, end: Mapping[str, Tensor], faults: list[str], caveats: list[str]) -> None:
    """Continue in fresh objects; where that ends elsewhere, see whether the optimizer alone resumes."""
    state = torch.load(io.BytesIO(saved), weights_only=False)
    model, masks = network(0, flat=row.flat)
    training = Training(row, model)
    sparsifier = sf.Sparsifier(model, training.made, masks, _rigl(), seed=0)
    training.load(state)
    sparsifier.load_state_dict(state["sparsifier"])
    while training.step_count < LONG:
        training.step()
    apart = difference(training.weights(), end)
    if not apart:
        return
    if reason := _dense_resume(row):
        caveats.append(reason)
    else:
        faults.append(f"a resumed run ends with other weights: they differ by {_digit(apart)}")


def _dense_resume(row: Row) -> str:
    """Why the optimizer by itself does not resume to the bit; empty where it does."""
    training = Training(row, network(0, flat=row.flat)[0])
    saved = io.BytesIO()
    for step in range(LONG):
        training.step()
        if step + 1 == SAVED_AT:
            torch.save(training.state(), saved)
    again = Training(row, network(0, flat=row.flat)[0])
    again.load(torch.load(io.BytesIO(saved.getvalue()), weights_only=False))
    while again.step_count < LONG:
        again.step()
    apart = difference(again.weights(), training.weights())
    return f"a dense run does not resume from its state_dict: weights differ by {_digit(apart)}" if apart else ""


def _diluted(row: Row) -> float | None:
    """Step on a tensor of which three quarters are zeros, over the step on its dense quarter."""
    ways = []
    for side in (64, 128):
        linear = nn.Linear(side, side, bias=False)
        start, target, curvature = (torch.zeros(side, side) for _ in range(3))
        generator = torch.Generator().manual_seed(0)
        for tensor in (start, target, curvature):
            tensor[:64, :64] = torch.randn(64, 64, generator=generator) / 8
        with torch.no_grad():
            linear.weight.copy_(start)

        def loss(model: nn.Module, step: int, slope: Tensor = target, bend: Tensor = curvature) -> Tensor:
            weight = model.get_parameter("weight")
            return (slope * weight).sum() + (bend.abs() * weight.square()).sum() / 2

        try:
            training = Training(row, linear, objective=loss)
            for _ in range(4):
                training.step()
        except Exception:  # noqa: BLE001 - one that cannot step a lone matrix has no such number
            return None
        ways.append(float((training.weights()["weight"] - start)[:64, :64].norm()))
    dense, padded = ways
    return float(f"{padded / dense:.2g}") if dense > 0 else None


class Said(logging.Handler):
    """What sparseflow says by logging."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(_plain_text(record.getMessage()))


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
        return [f"grown weights move {_digit(max(ratios))} times as far as the others"], []
    if max(farthest) > LEAP:
        return [f"a grown weight moves {_digit(max(farthest))} times as far as any other"], []
    if ratios and max(ratios) > LONG_WAY:
        way = f"in their first {PATIENCE} steps grown weights move {_digit(max(ratios))} times as far as the others"
        return [], [way]
    return [], []


def _rigl() -> sf.methods.Method:
    return sf.RigL(update_every=EVERY, update_until=LONG, schedule="constant")


def _zeros(training: Training, sparsifier: sf.Sparsifier, faults: list[str]) -> None:
    """Look at the weights without the library, then as it does."""
    for name, mask in sparsifier.masks.items():
        weight = training.model.get_parameter(name).detach()
        if count := int((weight[~mask] != 0).sum()):
            text = f"inactive weights are not zero: {count} of {name!r} after step {training.step_count}"
            raise AssertionError(text)
    sparsifier.check()


# -- words ---------------------------------------------------------------------------------------------------------


def is_refusal(error: BaseException) -> bool:
    """Whether sparseflow raised it on purpose: by a ``raise`` in one of its own files.

    >>> is_refusal(ValueError("not raised at all"))
    False
    """
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, BrokenPromiseError):
        return False
    return bool(frames) and "sparseflow" in Path(frames[-1].filename).parts and "raise" in (frames[-1].line or "")


def sentence(error: BaseException) -> str:
    """Type and first lines of an error, without what differs between machines.

    >>> sentence(KeyError("state")), sentence(ValueError("bad <object at 0x7f12ab>"))
    ("KeyError: 'state'", 'ValueError: bad <object at ...>')
    """
    return _plain_text(f"{type(error).__name__}: {error}")


def _plain_text(text: str) -> str:
    text = re.sub(r"0x[0-9a-f]+", "...", " ".join(text.split()))
    text = re.sub(r"(/[\w.+-]+){2,}/", "", text)
    return text if len(text) <= 300 else text[:299].rsplit(" ", 1)[0] + " ..."


def _digit(value: float) -> str:
    """A magnitude to its power of ten, which rounding on another machine does not change as a rule."""
    return f"about {value:.0e}"
