"""A frozen config as a name: what differs from its defaults, and a hash of that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any


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
