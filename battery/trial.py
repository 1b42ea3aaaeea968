"""The trial of one optimizer: zeros, growth, resuming, masking by hand, and what its averages make of zeros."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

import sparseflow as sf
from battery.growth import Growth, judge_moves
from battery.network import Training, difference, network
from battery.optimizers import Row
from battery.states import ROUNDING, fresh_states, states_differ
from battery.words import Said, digit, is_refusal, sentence

Verdict = Literal["works", "caveat", "refused", "fails", "not run"]
#: Steps of the runs that are compared with each other, and of the run with RigL.
STEPS, LONG = 8, 14
#: RigL changes the masks after every so many steps; the run is saved between two changes.
EVERY, SAVED_AT = 3, 7
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
            differs.append(f"Static() is not masking by hand: after step {step} weights differ by {digit(apart)}")
            return
        _zeros(ours, sparsifier, faults)
    faults += states_differ(ours, by_hand, fresh_states(row, steps=STEPS), masks)


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
        faults.append(f"a resumed run ends with other weights: they differ by {digit(apart)}")


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
    return f"a dense run does not resume from its state_dict: weights differ by {digit(apart)}" if apart else ""


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
