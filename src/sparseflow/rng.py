"""Named random streams: one more draw in one of them never shifts another."""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, *names: str | int) -> torch.Generator:
    r"""A CPU generator for one purpose, seeded by SHA-256 over ``(seed, *names)``.

    The same arguments give the same stream in every process and on every machine (Python's own ``hash`` of a string
    is salted per process).

    Args:
        seed: The run's seed, any integer.
        names: What the stream is for, such as ``"mask"`` or ``("data", epoch)``.

    >>> a, b = stream(0, "mask"), stream(0, "init")
    >>> bool((torch.rand(3, generator=a) == torch.rand(3, generator=b)).any())
    False
    """
    text = "\x1f".join([str(int(seed)), *map(str, names)])
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
