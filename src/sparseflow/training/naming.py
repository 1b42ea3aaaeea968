"""A frozen config as a name and as a command: the fields that differ from their defaults, and their hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

import tyro


def defaults_of(config: type) -> dict[str, Any]:
    """Field -> default of a dataclass.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Run:
    ...     seed: int = 0
    >>> defaults_of(Run)
    {'seed': 0}
    """
    return {field.name: field.default for field in fields(config)}


def changed(config: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults; a config inside is treated likewise.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Run:
    ...     seed: int = 0
    ...     parent: object = None
    >>> changed(Run(parent=Run(seed=3)))
    {'parent': {'seed': 3}}
    """
    values: dict[str, Any] = {}
    for name, default in defaults_of(type(config)).items():
        if (value := getattr(config, name)) != default:
            values[name] = changed(value) if isinstance(value, type(config)) else value
    return values


def hash_of(values: Mapping[str, Any]) -> str:
    """First 12 hex digits of SHA-256 over values as JSON with sorted keys.

    >>> hash_of({"a": 1, "b": 2}) == hash_of({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def one_of(rows: Mapping[str, Any], *, labels: bool = False) -> Any:
    """The help of a field whose value is a key of a table: its keys.

    Args:
        rows: The table.
        labels: Whether to add the labels of rows, where they are other words.

    >>> from sparseflow.init.schemes import SCHEMES
    >>> one_of(SCHEMES, labels=True).help
    'dense (Original), liu, sparse (Ours) or live.'
    """

    def shown(name: str) -> str:
        return name if not labels or rows[name].label.lower() == name else f"{name} ({rows[name].label})"

    *most, last = map(shown, rows)
    return tyro.conf.arg(help=f"{', '.join(most)} or {last}.")


def command(program: str, config: Any, defaults: Any, *, always: Collection[str] = ()) -> str:
    """The command line that gives a config, from a program whose defaults are another; a config inside is left out.

    Args:
        program: First words.
        config: A dataclass.
        defaults: Of the same type; its fields are the defaults of the command's flags.
        always: Fields that are named even where they are the defaults.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Run:
    ...     seed: int = 0
    ...     channels_last: bool = False
    >>> command("train", Run(seed=3, channels_last=True), Run())
    'train --seed 3 --channels-last'
    """
    words = [program]
    for name in defaults_of(type(config)):
        value, default = getattr(config, name), getattr(defaults, name)
        if isinstance(value, type(config)) or (value == default and name not in always):
            continue
        flag = f"--{name.replace('_', '-')}"
        words.append(flag if isinstance(value, bool) else f"{flag} {value}")
    return " ".join(words)
