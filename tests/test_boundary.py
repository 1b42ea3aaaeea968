"""Public functions with wrong arguments: each ends in a sentence of the library, not in an error of torch or Python.

The wrong values come from the types of the right ones, in :mod:`calls`; every public function must have a right call.
"""

from __future__ import annotations

import inspect
import math
import traceback
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from calls import CALLS
from sparseflow import analysis, engine, init, tickets

PACKAGE = Path(sf.__file__).parent
#: Numbers that may be negative, or whose sign is checked by meaning.
ANY_SIGN = {"seed", "gain", "a", "floor", "threshold"}
#: What the model that is given takes is the model's to say.
MODELS_OWN = {"example_inputs", "inputs"}
#: Masks without a model: any names will do.
ANY_NAMES = {"sf.sparsity_of", "tickets.shuffle_masks"}
#: Public functions that read or write files, run for seconds, or take no plain arguments: tested where they are.
ELSEWHERE = {
    "sf": {
        "check",
        "compile_sparse",
        "load_block",
        "load_masks",
        "record",
        "remove_pruning",
        "remove_pruning_",
        "save_masks",
        "Sparsifier",
    },
    "analysis": {"js_divergence", "lanczos_spectrum", "plane_losses", "record_update_flow"},
    "engine": {"benchmark", "compile_sparse", "load", "load_state", "plan", "save", "to_onnx"},
    "init": set(),
    "tickets": {"iterative_pruning"},
}


def wrong(key: str, name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Values of other types, out of range, empty, of other shapes and unknown."""
    if isinstance(value, bool):
        yield "a number", 3
    elif isinstance(value, int | float):
        yield from (("nan", math.nan), ("infinite", math.inf), ("text", "3"), ("a list", [1]))
        if name not in ANY_SIGN:
            yield "negative", -1
        if isinstance(value, int):
            yield "half", 1.5
    elif isinstance(value, str):
        yield from (("unknown", "unknown thing"), ("a number", 3))
    elif isinstance(value, nn.Module):
        yield from (("text", "model"), ("none", None))
    elif isinstance(value, Tensor) and name not in MODELS_OWN:
        yield from (("a list", [1, 2]), ("none", None), ("more axes", value.reshape(*value.shape, 1, 1)))
        yield ("numbers", value.float()) if value.dtype == torch.bool else ("empty", value[:0])
    elif isinstance(value, torch.Generator):
        yield "a seed", 3
    elif isinstance(value, dict):
        yield "a list", [1]
        if key not in ANY_NAMES:
            yield "unknown names", {"nothing": torch.ones(2, dtype=torch.bool)}
    elif isinstance(value, list) and isinstance(value[0], tuple):
        empty = (torch.empty(0, 6), torch.empty(0, dtype=torch.long))
        yield from (("empty", []), ("a number", 3), ("an empty batch", [empty]))
    elif isinstance(value, list | tuple):
        yield from (("empty", []), ("a number", 3))
    elif callable(value):
        yield "a number", 3


CASES = [(key, name) for key, (_, make) in CALLS.items() for name in make()]
#: Where more axes are right.
MORE_AXES = {
    "sf.mask_statistics mask",
    "init.exact_orthogonal_ weight",
    "init.flip_silent_ weight",
    "init.silence_unit_ weight",
}


@pytest.mark.parametrize(("key", "name"), CASES, ids=lambda text: text)
def test_a_wrong_argument_is_named(key: str, name: str) -> None:
    function, make = CALLS[key]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function(**make())
        for label, value in wrong(key, name, make()[name]):
            if label == "more axes" and f"{key} {name}" in MORE_AXES:
                continue
            arguments = {**make(), name: value}
            before = _contents(arguments)
            with pytest.raises((TypeError, ValueError)) as caught:
                function(**arguments)
            where = traceback.extract_tb(caught.value.__traceback__)[-1].filename
            assert Path(where).is_relative_to(PACKAGE), f"{label}: {caught.value!r} comes from {where}"
            assert len(str(caught.value).split()) >= 5, f"{label}: {caught.value} is no sentence"
            assert _contents(arguments) == before, f"{label}: something was changed"


def _contents(arguments: dict[str, Any]) -> list[bytes]:
    """The bytes of models and tensors."""
    found = []
    for value in arguments.values():
        tensors = value.state_dict().values() if isinstance(value, nn.Module) else [value]
        found += [tensor.numpy().tobytes() for tensor in tensors if isinstance(tensor, Tensor)]
    return found


def test_every_public_function_has_a_call() -> None:
    """A new one is added to ``CALLS`` in tests/helpers/calls.py."""
    missing = []
    for room, module in {"sf": sf, "analysis": analysis, "engine": engine, "init": init, "tickets": tickets}.items():
        for name in module.__all__:
            found = getattr(module, name)
            is_function = isinstance(found, types.FunctionType) or (callable(found) and not inspect.isclass(found))
            known = {name for key in CALLS for name in [key.partition(".")[2]]} | ELSEWHERE[room]
            if is_function and not name[0].isupper() and name not in known:
                missing.append(f"{room}.{name}")
    assert missing == []
