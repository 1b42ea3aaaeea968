"""A scale with settings changed from the command line: what is typed, checked, and how the page says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from sparseflow.paper.matrix.scale import Scale
from sparseflow.suggest import did_you_mean
from sparseflow.training.sweep import Training
from sparseflow.training.tasks import Task

#: What tells the groups of a scale apart is not for changing.
_OF_GROUPS = ("method", "init", "model", "network", "seed", "rewind_step", "control", "start_noise", "holdout")


def settings_of(scale: Scale) -> dict[str, Any]:
    """The settings of a scale's runs that can be changed, with their values.

    >>> from sparseflow.paper.matrix.scales import DEMO
    >>> settings_of(DEMO)["sparsity"], "method" in settings_of(DEMO)
    (0.95, False)
    """
    values = {field.name: getattr(scale.base, field.name) for field in fields(scale.base)}
    return {
        name: value
        for name, value in values.items()
        if name not in _OF_GROUPS and isinstance(value, bool | int | float | str)
    }


def parsed_settings(typed: Sequence[str], scale: Scale) -> dict[str, Any]:
    """``NAME=VALUE`` as on the command line, each value as the setting's type.

    Raises:
        ValueError: Names what was typed, and the settings there are.

    >>> from sparseflow.paper.matrix.scales import DEMO
    >>> parsed_settings(["sparsity=0.9", "steps=500"], DEMO)
    {'sparsity': 0.9, 'steps': 500}
    """
    known = settings_of(scale)
    found: dict[str, Any] = {}
    for text in typed:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            instead = f"Type --set {name}={known[name]}" if name in known else f"Items come first: {text} --set ..."
            raise ValueError(f"--set takes NAME=VALUE, got {text!r}. {instead}")
        if name not in known:
            raise ValueError(
                f"there is no setting {name!r}. Settings are {', '.join(known)}.{did_you_mean(name, known)}"
            )
        if name in found:
            raise ValueError(f"{name} is --set twice, got {found[name]} and {value}. Leave one out.")
        kind = type(known[name])
        try:
            found[name] = {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
        except (ValueError, KeyError):
            wanted = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
            raise ValueError(f"{name} must be {wanted}, got {value!r}. Type --set {name}={known[name]}.") from None
    return found


def changed(scale: Scale, settings: Mapping[str, Any]) -> Scale:
    """The scale whose runs have these settings, except groups that are about another value of theirs.

    >>> from sparseflow.paper.matrix.scales import DEMO
    >>> runs = changed(DEMO, {"sparsity": 0.9}).groups
    >>> runs["lenet5/dense"][0].sparsity, runs["tickets/s98/prune"][0].sparsity
    (0.9, 0.98)
    """
    return replace(scale, base=scale.base.with_(**settings)) if settings else scale


def as_typed(scale: Scale, whole: Scale) -> dict[str, Any]:
    """What made a scale of a whole one, as the options of the command line: ``seeds``, None for as many, and ``set``.

    >>> from sparseflow.paper.matrix.scales import DEMO
    >>> as_typed(changed(DEMO, {"sparsity": 0.9}).with_seeds(1), DEMO), as_typed(DEMO, DEMO)
    ({'seeds': 1, 'set': ['sparsity=0.9']}, {'seeds': None, 'set': []})
    """
    settings = {name: value for name, value in settings_of(scale).items() if value != getattr(whole.base, name)}
    seeds = None if scale == replace(whole, base=scale.base) else scale.seeds
    return {"seeds": seeds, "set": [f"{name}={value}" for name, value in settings.items()]}


def as_planned(whole: Scale, *, seeds: int | None, set: Sequence[str]) -> Scale:
    """The scale that :func:`as_typed` tells of.

    >>> from sparseflow.paper.matrix.scales import DEMO
    >>> planned = as_planned(DEMO, seeds=1, set=["sparsity=0.9"])
    >>> planned.base.sparsity, planned.many
    (0.9, 1)
    """
    scale = changed(whole, parsed_settings(set, whole))
    return scale if seeds is None else scale.with_seeds(seeds)


def check_read(settings: Mapping[str, Any], tasks: Sequence[Task]) -> None:
    """Refuse a setting that no run of the items has.

    Raises:
        ValueError: Names the setting.
    """
    runs = [task.config for task in tasks if isinstance(task, Training)]
    for name, value in settings.items():
        if not any(getattr(run, name) == value for run in runs):
            raise ValueError(
                f"no run of these items takes {name} from --set: their groups have their own. Leave it out."
            )


def in_words(settings: Mapping[str, Any], scale: Scale) -> str:
    """What was changed, for the head of a page; "" for nothing.

    >>> from sparseflow.paper.matrix.scales import DEMO
    >>> in_words({"sparsity": 0.9}, DEMO)
    "Not the paper's setting: sparsity is 0.9 instead of 0.95."
    """
    if not settings:
        return ""
    parts = [f"{name} is {value} instead of {getattr(scale.base, name)}" for name, value in settings.items()]
    return f"Not the paper's setting: {', '.join(parts)}."
