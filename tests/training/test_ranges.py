"""Every number of every config and every option of every command has its range, found by introspection.

A field added without one fails here, as does one whose range is not held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Annotated, Any, get_args, get_origin

import pytest

from sparseflow.cli.main import COMMANDS as ROWS
from sparseflow.cli.main import _load, main
from sparseflow.cli.train_images import TrainImages
from sparseflow.ranges import Range, checked_fields, hints_of, range_of
from sparseflow.training.config import RunConfig
from sparseflow.training.digits import DigitRun
from sparseflow.training.images import ImageRun

CONFIGS = (DigitRun, ImageRun)
#: Words of a command -> its class.
COMMANDS: dict[str, type] = {word: _load(row.place) for word, row in ROWS.items() if word != "info"}
COMMANDS["train images"] = TrainImages
#: What else a command needs to be one.
NEEDED = {
    "bench": ["lenet5"],
    "data": ["list"],
    "doctor": ["runs"],
    "export": ["runs"],
    "import": ["folder"],
    "report": ["runs"],
}


def numbers(kind: type) -> Iterator[tuple[str, type, Range | None, bool]]:
    """Name, kind and range of every number, and whether it is a tuple of them."""
    for each in fields(kind):
        number, found = range_of(hints_of(kind)[each.name])
        if number is not None:
            yield each.name, number, found, _is_tuple(hints_of(kind)[each.name])


def _is_tuple(annotation: Any) -> bool:
    return get_origin(annotation) is tuple or any(_is_tuple(part) for part in get_args(annotation))


def wrong(number: type, allowed: Range) -> list[Any]:
    """Values just out of a range, and those that are in none."""
    step = 1 if number is int else 0.001
    below = allowed.low - step if allowed.with_low else allowed.low
    above = allowed.high + step if allowed.with_high else allowed.high
    found = [number(value) for value in (below, above) if math.isfinite(value)]
    return [*found, math.nan, math.inf, -math.inf]


def options() -> list[Any]:
    """Command, option, and whether it is one of a config."""
    found = []
    for words, kind in COMMANDS.items():
        found += [pytest.param(words, row, id=f"{words} {row[0]}") for row in numbers(kind)]
        for each in fields(kind):
            annotation = hints_of(kind)[each.name]
            inner = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
            if isinstance(inner, type) and issubclass(inner, RunConfig):
                shown = [row for row in numbers(inner) if "Suppress" not in str(hints_of(inner)[row[0]])]
                found += [pytest.param(words, row, id=f"{words} {row[0]}") for row in shown]
    return found


@pytest.mark.parametrize("kind", [*CONFIGS, *COMMANDS.values()], ids=lambda kind: kind.__name__)
def test_every_number_has_a_range(kind: type) -> None:
    assert [name for name, _, found, _ in numbers(kind) if found is None or str(found) == "finite"] == []


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_number_of_a_config_is_held_to_its_range(kind: type[RunConfig]) -> None:
    for name, number, allowed, is_tuple in numbers(kind):
        assert allowed is not None
        for value in wrong(number, allowed):
            with pytest.raises(ValueError, match=rf"^{name} must be {allowed_text(allowed)}, got .*{value!r}"):
                kind(**{name: (value,) if is_tuple else value})
        for value in (True, "3", [1], None, 1 + 0j):
            if value is None and type(None) in get_args(_bare(hints_of(kind)[name])):
                continue
            with pytest.raises(TypeError, match=rf"^{name} must be a"):
                kind(**{name: ((value,) if value != [1] else ("1",)) if is_tuple else value})
        if number is int:
            with pytest.raises(ValueError, match=rf"^{name} must be a whole number"):
                kind(**{name: (7.5,) if is_tuple else 7.5})


def _bare(annotation: Any) -> Any:
    return _bare(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation


def allowed_text(allowed: Range) -> str:
    return str(allowed).replace("[", r"\[").replace("(", r"\(").replace(")", r"\)").replace("+", r"\+")


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_is_no_number_has_its_type(kind: type[RunConfig]) -> None:
    for each in fields(kind):
        bare = _bare(hints_of(kind)[each.name])
        if bare is bool:
            with pytest.raises(TypeError, match=f"{each.name} must be True or False, got 1"):
                kind(**{each.name: 1})
        elif bare is str:
            with pytest.raises((TypeError, ValueError), match=f"{each.name} must be"):
                kind(**{each.name: 3})
    with pytest.raises(TypeError, match="mask_from must be a"):
        kind(mask_from="a run")  # type: ignore[call-arg]


@pytest.mark.parametrize(("words", "row"), options())
def test_an_option_out_of_its_range_is_one_line(
    words: str, row: tuple[str, type, Range, bool], capsys: pytest.CaptureFixture[str]
) -> None:
    name, number, allowed, _ = row
    flag = f"--{name.replace('_', '-')}"
    more = ["1"] if name == "short" else []
    for value in wrong(number, allowed):
        if number is int and not math.isfinite(value):
            continue  # no integer, which the parser says
        with pytest.raises(SystemExit) as ended:
            main([*words.split(), *NEEDED.get(words, []), f"{flag}={value}" if not more else flag,
                  *([str(value), *more] if more else [])])  # fmt: skip
        told = capsys.readouterr()
        assert ended.value.code == 2
        assert told.err.startswith(f"sparseflow: {name} must be {allowed}, got ")
        assert told.err.count("\n") == 1


def test_numbers_of_other_types_are_taken() -> None:
    import numpy as np

    config = DigitRun(steps=np.int64(700), learning_rate=np.float32(0.5), sparsity=0)  # type: ignore[arg-type]
    assert (config.steps, config.learning_rate, config.sparsity) == (700, 0.5, 0.0)
    assert [type(value) for value in (config.steps, config.learning_rate, config.sparsity)] == [int, float, float]
    assert checked_fields(config)["steps"] == 700
