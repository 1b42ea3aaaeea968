"""One RigL update can be followed in few files, and none of them speaks of how masks are stored or passes compiled."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import sparseflow as sf
import sparseflow._fast as door
from tiny import loss_of, masked, tiny_model

SOURCE = Path(sf.__file__).parent
#: What a reader opens though no line of it need run at an update: RigL as a composition, and its two scores.
COMPOSITION = {"methods/rigl.py", "methods/scores.py"}
#: Types alone: they are read where they are named.
INTERFACE = "methods/base.py"
#: Behind these doors nobody need look: what passes do is named in the docstring of ``_fast/__init__.py``, and the guard
#: notices what something else did, which is no part of an update; nor are the check of arguments and warnings.
DOORS = ("_fast/", "sparsifier/guard/", "boundary.py", "ranges.py", "warn.py")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The profiler sees the thread that it was set on."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def entered(method: sf.updaters.Method, steps: int) -> set[str]:
    """Files of the library of which code runs during the last of some optimizer steps."""
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = sf.Sparsifier(model, optimizer, masked(model), method, seed=0)
    found: set[str] = set()

    def look(frame: FrameType, event: str, argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(SOURCE):
            found.add(path.relative_to(SOURCE).as_posix())

    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        before = {name: mask.clone() for name, mask in sparsifier.masks.items()}
        sys.setprofile(look if step == steps else None)
        try:
            optimizer.step()
        finally:
            sys.setprofile(None)
    assert any(not torch.equal(before[name], mask) for name, mask in sparsifier.masks.items()), "nothing moved"
    return found


def rooms(found: set[str]) -> set[str]:
    return {path for path in found if not path.startswith(DOORS)} | COMPOSITION


@pytest.mark.parametrize("steps", [2, 4])
def test_an_update_of_rigl_is_read_in_nine_files(steps: int) -> None:
    found = rooms(entered(sf.RigL(update_every=2), steps))
    assert {"sparsifier/listener.py", "sparsifier/update.py", "methods/drop_grow.py", "masks/topk.py"} <= found
    assert len(found) <= 9, sorted(found)


def test_none_of_them_speaks_of_bits_words_packing_or_compiled_passes() -> None:
    spoken = {
        path: re.findall(r"(?i)\b(?:bits|words|packs|packed|packing|compiled|numba)\b", (SOURCE / path).read_text())
        for path in rooms(entered(sf.RigL(update_every=2), 2)) | {INTERFACE}
    }
    assert {path: found for path, found in spoken.items() if found} == {}


#: Fast pass -> the one file that calls it.
CALLERS = {
    "topk": "masks/topk.py",
    "exchange": "sparsifier/update.py",
    "stage": "sparsifier/weights.py",
    "write_": "sparsifier/weights.py",
    "clear_": "sparsifier/weights.py",
}


def test_everybody_else_comes_through_the_door_and_each_fast_pass_has_one_caller() -> None:
    callers: dict[str, list[str]] = {name: [] for name in CALLERS}
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if name.startswith("_fast/"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sparseflow._fast"):
                assert node.module == "sparseflow._fast", name
                taken = {alias.name for alias in node.names}
                assert taken <= set(door.__all__), name
                for fast in taken & set(CALLERS):
                    callers[fast].append(name)
    assert callers == {fast: [caller] for fast, caller in CALLERS.items()}
