"""Named streams: the same in every process, unrelated to each other."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparseflow.rng import stream


def test_the_seed_is_the_first_eight_bytes_of_sha256() -> None:
    """Oracle: the definition. A change would change every published run."""
    digest = hashlib.sha256(b"7\x1fdata\x1f3").digest()
    expected = int.from_bytes(digest[:8], "little", signed=True) % 2**64
    assert stream(7, "data", 3).initial_seed() % 2**64 == expected


def test_another_process_gets_the_same_numbers() -> None:
    draw = "torch.randperm(50, generator=stream(1, 'mask', 'a')).tolist()"
    code = f"import torch; from sparseflow.rng import stream; print(*{draw})"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "123"}
    )
    assert list(map(int, result.stdout.split())) == torch.randperm(50, generator=stream(1, "mask", "a")).tolist()


@given(st.integers(-(2**70), 2**70), st.text(max_size=5))
def test_any_integer_and_any_name_will_do(seed: int, name: str) -> None:
    a, b = (torch.rand(4, generator=stream(seed, name)) for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize("other", [(1, "mask", "a"), (0, "init", "a"), (0, "mask", "b"), (0, "mask"), (0, "maska")])
def test_streams_differ_where_seed_or_name_does(other: tuple[int, ...]) -> None:
    """Two streams of 1000 float32 numbers share one at its place with probability 1000 / 2^24, 6e-5."""
    first, second = stream(0, "mask", "a"), stream(*other)
    assert not (torch.rand(1000, generator=first) == torch.rand(1000, generator=second)).any()
