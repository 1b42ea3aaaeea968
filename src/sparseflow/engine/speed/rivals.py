"""Other ways to compute the dense model that a user would take: bfloat16, and int8 for inference."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow.batches import map_tensors
from sparseflow.engine.speed.steps import in_mode_, model_step, outputs_of
from sparseflow.engine.speed.timing import Step
from sparseflow.gradients import undisturbed

#: Largest distance of the outputs, as a share of their norm: about 25 roundings of bfloat16, whose unit is 1/256.
CLOSE = 0.1
#: What a foreign model may raise in a precision that it was not written for.
_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Rival:
    """A step of the dense model in another precision, or why there is none."""

    step: Step | None = None
    reason: str | None = None


def bfloat16(make: Callable[[], nn.Module], inputs: Any, *, training: bool) -> Rival:
    """The dense model in bfloat16: training under autocast, inference with weights that are cast once.

    Where such weights do not run, inference is under autocast too. It counts if a step runs without an error and its
    outputs in eval mode are close to those of float32, see :data:`CLOSE`.

    Args:
        make: Makes a copy of the dense model.
        inputs: See :mod:`sparseflow.batches`.
        training: Training or inference.
    """
    model = in_mode_(make(), training=training)
    if any(p.dtype == torch.float64 for p in model.parameters()):
        return Rival(reason="the model is in float64")
    autocast = _tried(model, model, inputs, training=training, autocast=True)
    if training:
        return autocast
    cast = in_mode_(make(), training=False).to(torch.bfloat16)
    narrow = map_tensors(lambda x: x.to(torch.bfloat16) if x.is_floating_point() else x, inputs)
    found = _tried(model, cast, inputs, narrow, training=False)
    return autocast if found.step is None else found


def int8(make: Callable[[], nn.Module], inputs: Any) -> Rival:
    """The dense model with torch's dynamic int8 linear and recurrent layers, for inference.

    It counts as :func:`bfloat16` does.
    """
    model = in_mode_(make(), training=False)
    if any(p.dtype == torch.float64 for p in model.parameters()):
        return Rival(reason="the model is in float64")
    with warnings.catch_warnings():  # torch.ao announces its removal at every call
        warnings.simplefilter("ignore")
        try:
            made = torch.ao.quantization.quantize_dynamic(make().eval(), dtype=torch.qint8)
        except _FAILURES as error:
            return Rival(reason=_said(error))
        if not any(type(module).__module__.startswith("torch.ao.nn.quantized") for module in made.modules()):
            return Rival(reason="no layer that torch quantizes dynamically")
        found = _tried(model, made, inputs, training=False)
        if found.step is None and any(isinstance(module, nn.TransformerEncoderLayer) for module in made.modules()):
            # torch's fused path reads the weights of linear layers, and a quantised one has a function of that name.
            with _unfused():
                found = _tried(model, made, inputs, training=False)
            found = Rival(None if found.step is None else _unfused()(found.step), found.reason)
        return found


@contextmanager
def _unfused() -> Iterator[None]:
    """Run torch's transformer layers module by module."""
    was_on = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_on)


def _tried(
    model: nn.Module, other: nn.Module, inputs: Any, narrow: Any = None, *, training: bool, autocast: bool = False
) -> Rival:
    """The step of another form of a model, if it runs and computes about the same."""
    own = inputs if narrow is None else narrow
    step = model_step(other, own, training=training, autocast=autocast)
    try:
        with undisturbed(model, training=False), undisturbed(other, training=False):
            distance = _distance(outputs_of(model, inputs), outputs_of(other, own, autocast=autocast))
        step()
    except _FAILURES as error:
        return Rival(reason=_said(error))
    if not distance <= CLOSE:  # NaN is not
        return Rival(reason=f"its outputs are {100 * distance:.0f} % off")
    return Rival(step)


def _distance(outputs: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """The largest distance of two outputs, as a share of the norm.

    >>> _distance([torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 4.5])])
    0.1...
    """
    shares = [0.0]
    for one, other in zip(outputs, others, strict=True):
        if one.is_floating_point():
            error = (other.double() - one.double()).norm()
            shares.append(float(error / one.double().norm()) if error else 0.0)
    return float(torch.tensor(shares).max())  # NaN if one is


def _said(error: Exception) -> str:
    """The first line of an error, cut to a length that a table can show."""
    line = (str(error).splitlines() or [""])[0].strip() or type(error).__name__
    return line if len(line) <= 100 else f"{line[:97]}..."
