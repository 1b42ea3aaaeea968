"""Faults inside a save: the n-th call of every kind of write fails, for every n.

The oracle is the same command without a fault: what is left is the old or the new, whole; the error names the file; the
same command again ends with the same bits. ``make faults`` does so for real trainings too, and with real kills.
"""

from __future__ import annotations

import ast
import errno
import os
from pathlib import Path

import pytest

import sparseflow
from fault_scenarios import SMALL
from faults import FAULTS, Disk, KilledError, Scenario, inject
from sparseflow.disk import File

#: Scenarios of more than 60 calls are interrupted at every third, in two ways less.
LONG = {"a run's folder": 3, "a checkpoint in parts": 13}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to know which file a descriptor is")
@pytest.mark.parametrize("scenario", SMALL, ids=lambda scenario: scenario.name)
def test_every_call_of_a_save(scenario: Scenario, tmp_path: Path) -> None:
    tally = inject(scenario, tmp_path, every=LONG.get(scenario.name, 1))
    assert tally.violations == []
    assert tally.calls > 5
    assert {"eio", "dead", "full", "kill", "power"} <= set(tally.faults)
    assert tally.outcomes["new"] > 0
    assert tally.outcomes["old"] > 0


def test_the_layer_finds_what_is_wrong(tmp_path: Path) -> None:
    """A writer in the place of the library's that replaces its file in place, and one whose errors name nothing."""

    def in_place(root: Path) -> None:
        descriptor = os.open(root / "file", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.write(descriptor, b"new content")
        os.close(descriptor)

    def content(root: Path) -> bytes | None:
        return (root / "file").read_bytes() if (root / "file").exists() else None

    naive = Scenario("in place", in_place, content, before=lambda root: (root / "file").write_bytes(b"old content"))
    tally = inject(naive, tmp_path)
    text = "\n".join(tally.violations)
    for found in ("full at call 2 of 3, write", "kill at call 2", "short at call 2", "the error does not name file"):
        assert found in text
    assert tally.calls == 3
    assert set(tally.faults) == set(FAULTS) - {"sigkill"}


def test_a_power_cut_loses_what_was_not_synced(tmp_path: Path) -> None:
    with File(tmp_path / "log", "append") as file, Disk(tmp_path, "power", 4):
        file.write(b"12345678")
        file.sync()
        file.write(b"abcdefgh")
        with pytest.raises(KilledError):
            file.sync()
    assert (tmp_path / "log").read_bytes() == b"12345678abcd"


#: Calls that go to the disk without naming the file, which only the one door may make.
FORBIDDEN = {
    "os": {"open", "write", "fsync", "replace", "rename", "unlink", "remove", "mkdir", "makedirs", "rmdir", "ftruncate",
           "truncate"},
    "shutil": {"rmtree", "move", "copy", "copyfile", "copytree"},
}  # fmt: skip
METHODS = {"write_text", "write_bytes", "unlink", "mkdir", "rmdir", "touch", "symlink_to", "hardlink_to"}
DOOR = {"disk.py"}


def goes_round(source: str) -> list[str]:
    """Calls in a module that write to the disk by another door."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id == "open":
            found.append(f"line {node.lineno}: open")
        elif isinstance(called, ast.Attribute):
            owner = called.value.id if isinstance(called.value, ast.Name) else ""
            if called.attr in METHODS or called.attr in FORBIDDEN.get(owner, ()):
                found.append(f"line {node.lineno}: {owner}.{called.attr}")
    return found


def test_there_is_one_door_to_the_disk() -> None:
    package = Path(sparseflow.__file__).parent
    found = {
        path.relative_to(package).as_posix(): calls
        for path in package.rglob("*.py")
        if path.name not in DOOR and (calls := goes_round(path.read_text()))
    }
    assert found == {}
    assert goes_round("import os\nos.replace(a, b)\nopen('x')\nPath('x').mkdir()") == [
        "line 2: os.replace", "line 3: open", "line 4: .mkdir",
    ]  # fmt: skip


def test_a_failing_clean_up_is_a_note_on_the_first_error(tmp_path: Path) -> None:
    scenario = SMALL[0]
    disk = Disk(tmp_path, "dead", 5)
    with disk, pytest.raises(OSError, match=r"cannot write masks.safetensors") as caught:
        scenario.command(tmp_path)
    assert caught.value.errno == errno.EIO
    notes = caught.value.__notes__
    assert all(note.startswith("Cleaning up failed too: [Errno 5] cannot ") for note in notes)
    assert len(notes) == 2  # the temporary file is neither removed nor closed
