"""Work on several threads, handed over from compiled code, or through Python as where torch's threads are not GNU's."""

from __future__ import annotations

import pytest

from sparseflow._fast import team, threads

WAYS = ("openmp", "python")


def hand_over_by(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "python":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
        monkeypatch.setattr(threads, "_address", lambda: 0)
    elif team() == 0:
        pytest.skip("torch's threads are not GNU's here")
