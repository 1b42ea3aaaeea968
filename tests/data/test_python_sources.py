"""The text against its files: which they are, which part each is in, and windows against slices by hand."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections import Counter
from pathlib import Path

import pytest
import torch

from sparseflow.data import text as module
from sparseflow.data.text import BYTES, FILE_BEGINS, SOURCES, drawn_windows, every_window, load_text, part_of

TEXT = load_text("sympy")


def test_every_file_is_in_one_part_whole() -> None:
    (folder,) = importlib.util.find_spec("sympy").submodule_search_locations  # type: ignore[union-attr, misc]
    parts = {name: part.numpy().tobytes() for name, part in vars(TEXT).items()}
    for name, wanted in {"core/add.py": "training", "core/logic.py": "validation", "core/sympify.py": "test"}.items():
        assert part_of(f"sympy/{name}") == wanted
        data = bytes([FILE_BEGINS]) + (Path(folder) / name).read_bytes() + bytes([FILE_BEGINS])
        assert {part: text.count(data) for part, text in parts.items()} == dict.fromkeys(parts, 0) | {wanted: 1}
    assert int(TEXT.training.max()) < BYTES


def test_the_parts_are_pinned() -> None:
    """Files and bytes of each, and the digest of its text: what a number on test text is about does not move."""
    files = dict(module._files("sympy", SOURCES["sympy"]))
    assert Counter(map(part_of, files)) == {"training": 744, "validation": 31, "test": 43}
    found = {name: hashlib.sha256(part.numpy().tobytes()).hexdigest()[:12] for name, part in vars(TEXT).items()}
    assert found == {"training": "8cf726c09d48", "validation": "363877df8586", "test": "16beed1f1356"}


def test_the_byte_between_files_is_in_none() -> None:
    files = dict(module._files("sympy", SOURCES["sympy"]))
    assert not any(FILE_BEGINS in data for data in files.values())
    assert sum(int((part == FILE_BEGINS).sum()) for part in vars(TEXT).values()) == len(files)


def test_windows_are_slices() -> None:
    text = torch.arange(100, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(3)
    found = drawn_windows(text, size=10, count=200, generator=generator)
    assert found.dtype == torch.int64
    assert all(torch.equal(row, torch.arange(row[0], row[0] + 10)) for row in found)
    # 91 places: each of the first and last is missed by 200 draws with probability 0.11; all of ten at each end never.
    assert set(found[:, 0].tolist()) <= set(range(91))
    assert found[:, 0].max() > 80
    assert found[:, 0].min() < 10


def test_every_byte_is_predicted_once() -> None:
    text = torch.arange(101, dtype=torch.uint8)
    assert every_window(text, context=10)[:, 1:].flatten().tolist() == list(range(1, 101))
    some = every_window(text, context=10, most=3)
    assert some[:, 0].tolist() == [0, 30, 60]
    assert torch.equal(every_window(text, context=10, most=99), every_window(text, context=10))


@pytest.mark.parametrize("cut", [lambda text: drawn_windows(text, size=4, count=1, generator=torch.Generator()),
                                 lambda text: every_window(text, context=3)])  # fmt: skip
def test_a_window_that_does_not_fit(cut) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"a window of 4 bytes is longer than the text, 3.*Lower the context"):
        cut(torch.zeros(3, dtype=torch.uint8))


def test_another_package() -> None:
    with pytest.raises(ValueError, match=r"package must be one of sympy, got 'simpy'\. Did you mean sympy\?"):
        load_text("simpy")


@pytest.mark.parametrize("version", ["1.13.0", None])
def test_another_version(version: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    with pytest.raises(ModuleNotFoundError, match=rf"here is {version or 'none'}\. Type: pip install sympy==1\.14\.0"):
        load_text("sympy")


def test_a_file_that_was_edited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "read_bytes", lambda path: path.read_bytes() + b"#" * (path.name == "add.py"))
    with pytest.raises(ValueError, match=r"sympy/core/add\.py was changed after sympy 1\.14\.0 was installed"):
        load_text("sympy")


def test_a_release_of_other_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without digests, as of a linked folder, is seen by the digest of all."""
    monkeypatch.setitem(SOURCES, "sympy", module.Sources("1.14.0", "0" * 64, ("/tests/",)))
    with pytest.raises(ValueError, match=r"others than those of its release\. Type: pip install --force-reinstall"):
        load_text("sympy")
