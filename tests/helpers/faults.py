"""A disk that fails: the n-th call below a folder fails, is short, or is the last one that its process makes.

Python's functions for the disk are patched, which is all of them: ``test_faults.py`` holds that nothing in the library
goes to the disk by another door than :mod:`sparseflow.disk`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import signal
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

#: What each patched function does to the disk.
CALLS = {
    "mkdir": "create", "open": "open", "write": "write", "fsync": "fsync", "ftruncate": "truncate", "close": "close",
    "replace": "rename", "rename": "rename", "unlink": "unlink", "rmdir": "unlink", "read": "read", "pread": "read",
    "listdir": "read", "scandir": "read", "flock": "lock",
}  # fmt: skip
#: What a full disk cannot do.
NEEDS_ROOM = ("create", "write", "fsync", "rename")
#: Fault -> what it happens to.
#:
#: * ``eio``: this one call fails.
#: * ``dead``: it and all later ones do, those that clean up too.
#: * ``full``: from here on there is no room, and half of a write has gone through.
#: * ``short``: a write takes half of its bytes.
#: * ``kill``: the process ends before the call, and none of its code reaches the disk any more.
#: * ``power``: so does the machine; of what no fsync has brought to the disk, half is lost.
#: * ``sigkill``: as ``kill``, by the signal, in a process of its own.
FAULTS = {
    "eio": set(CALLS.values()) | {"create"},
    "dead": set(CALLS.values()) | {"create"},
    "full": set(NEEDS_ROOM),
    "short": {"write"},
    "kill": set(CALLS.values()) | {"create"},
    "power": set(CALLS.values()) | {"create"},
    "sigkill": set(CALLS.values()) | {"create"},
}
#: Those that take no process of their own.
QUICK = tuple(fault for fault in FAULTS if fault != "sigkill")
_TEMPORARY = re.compile(r"^\.(.+)\.[0-9a-f]{8}\.tmp$")


class KilledError(BaseException):
    """The process has ended."""


@dataclass
class Disk:
    """A context manager in which the calls below a folder are counted, and the n-th fails.

    With no fault it only counts.
    """

    root: Path
    fault: str = ""
    number: int = 0
    calls: list[tuple[str, Path]] = field(default_factory=list)
    """Kind and path of every call so far."""
    _unsynced: dict[Path, int] = field(default_factory=dict)
    _patch: pytest.MonkeyPatch = field(default_factory=pytest.MonkeyPatch)

    def __enter__(self) -> Disk:
        self.root = self.root.resolve()
        for name in CALLS:
            module = fcntl if name == "flock" else os
            self._patch.setattr(module, name, self._watched(name, getattr(module, name)))
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            path = _path(arguments[0]) if arguments else None
            if path is None or not path.is_relative_to(self.root):
                return real(*arguments, **options)
            is_new = name == "open" and arguments[1] & os.O_CREAT and not os.path.lexists(arguments[0])
            kind = "create" if is_new else CALLS[name]
            self.calls.append((kind, path))
            now, later = len(self.calls) == self.number, len(self.calls) > self.number > 0
            if now and self.fault == "power":
                self._lose_unsynced()
            if now and self.fault == "sigkill":
                os.kill(os.getpid(), signal.SIGKILL)
            if (now or later) and self.fault in ("kill", "power"):
                if name == "close":  # which the kernel does
                    real(*arguments)
                raise KilledError
            failing = now or (later and (self.fault == "dead" or (self.fault == "full" and kind in NEEDS_ROOM)))
            if failing and self.fault == "short":
                return real(arguments[0], memoryview(arguments[1])[: max(1, len(arguments[1]) // 2)])
            if failing:
                if name == "write" and self.fault == "full":
                    real(arguments[0], memoryview(arguments[1])[: len(arguments[1]) // 2])
                if name == "close":  # the descriptor is gone all the same
                    real(*arguments)
                number = errno.ENOSPC if self.fault == "full" else errno.EIO
                raise OSError(number, os.strerror(number), *([str(path)] if name in ("open", "mkdir") else []))
            result = real(*arguments, **options)
            self._note(name, path, arguments, result)
            return result

        return call

    def _note(self, name: str, path: Path, arguments: tuple[Any, ...], result: Any) -> None:
        """Keep in mind how many bytes of each file a power cut would not lose."""
        if name == "write":
            self._unsynced.setdefault(path, path.stat().st_size - result)
        elif name == "fsync" and path.is_file():
            self._unsynced[path] = path.stat().st_size
        elif name in ("replace", "rename") and path in self._unsynced:
            self._unsynced[Path(arguments[1])] = self._unsynced.pop(path)

    def _lose_unsynced(self) -> None:
        for path, kept in self._unsynced.items():
            if path.is_file() and (size := path.stat().st_size) > kept:
                os.truncate(path, kept + (size - kept) // 2)


def _path(target: Any) -> Path | None:
    """The path that a call is about, from a descriptor too; none for what is no file."""
    if isinstance(target, int):
        try:
            target = os.readlink(f"/proc/self/fd/{target}").removesuffix(" (deleted)")
        except OSError:
            return None
    try:
        return Path(os.path.abspath(os.fsdecode(target)))
    except TypeError:
        return None


@dataclass(frozen=True)
class Scenario:
    """A command that writes files, which is interrupted and typed again."""

    name: str
    command: Callable[[Path], object]
    """Writes below a folder; the same one continues what was interrupted."""
    content: Callable[[Path], Any]
    """All that is there, read as the library reads it and less times; must work at every moment, also half-way."""
    before: Callable[[Path], object] = lambda root: None
    """Makes what is there before."""
    either: bool = True
    """Whether a fault leaves exactly the old or the new content: one file, not a series of them."""


@dataclass
class Tally:
    """What was tried of a scenario, and what came of it."""

    calls: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {"calls": self.calls, "faults": dict(self.faults), "outcomes": dict(self.outcomes),
                "violations": self.violations}  # fmt: skip


def inject(scenario: Scenario, where: Path, *, faults: tuple[str, ...] = QUICK, every: int = 1) -> Tally:
    """Let every ``every``-th call of a scenario fail in each way, and compare with a run that nothing interrupts.

    Args:
        scenario: What to interrupt.
        where: An empty folder.
        faults: Keys of :data:`FAULTS`.
        every: 1 for all calls.
    """
    with pytest.MonkeyPatch.context() as patch:
        # It takes milliseconds, and what a power cut would lose is kept in mind by the Disk.
        patch.setattr(os, "fsync", lambda descriptor: None)
        return _inject(scenario, where, faults, every)


def _inject(scenario: Scenario, where: Path, faults: tuple[str, ...], every: int) -> Tally:
    before, whole = where / "before", where / "whole"
    before.mkdir(parents=True)
    scenario.before(before)
    shutil.copytree(before, whole)
    old = scenario.content(whole)
    with Disk(whole) as disk:
        scenario.command(whole)
    new, names = scenario.content(whole), _names(whole)
    tally = Tally(calls=len(disk.calls))
    for number in range(1, len(disk.calls) + 1, every):
        kind, path = disk.calls[number - 1]
        for fault in faults:
            if kind not in FAULTS[fault]:
                continue
            root = where / f"{number}-{fault}"
            shutil.copytree(before, root)
            place = f"{fault} at call {number} of {len(disk.calls)}, {kind} {path.relative_to(whole)}"
            tally.faults[fault] += 1
            try:
                problem = _ended(scenario, root, fault, number)
                left = scenario.content(root)
                tally.outcomes["new" if left == new else "old" if left == old else "between"] += 1
                if scenario.either and left not in (old, new):
                    problem = problem or f"neither old nor new is there: {left!r}"
                scenario.command(root)
                if scenario.content(root) != new:
                    problem = problem or "the same command does not lead to the same result"
                if (found := _names(root)) != names:
                    problem = problem or f"other files: {sorted(found ^ names)}"
            except Exception:  # noqa: BLE001 - whatever it is, it is a violation
                problem = traceback.format_exc()
            if problem:
                tally.violations.append(f"{scenario.name}: {place}: {problem}")
    return tally


def _ended(scenario: Scenario, root: Path, fault: str, number: int) -> str:
    """Run the command with a fault; what is wrong with how it ended, if anything is."""
    if fault == "sigkill":
        child = os.fork()
        if child == 0:
            try:
                with Disk(root, fault, number):
                    scenario.command(root)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        return "" if os.WIFSIGNALED(status) else f"the process was not killed: {status}"
    disk = Disk(root, fault, number)
    try:
        with disk:
            scenario.command(root)
    except KilledError:
        return ""
    except OSError as error:
        text = " ".join([str(error), *getattr(error, "__notes__", [])])
        expected = errno.ENOSPC if fault == "full" else errno.EIO
        _, path = disk.calls[number - 1]
        if error.errno != expected:
            return f"the error is another one: {error!r}"
        return "" if _is_named(path, text, root=root) else f"the error does not name {path.name}: {text}"
    return "" if fault == "short" else "no error came of it"


def _is_named(path: Path, text: str, *, root: Path) -> bool:
    """Whether a text names a file, or the one that a temporary file or folder was to become."""
    final = _TEMPORARY.sub(r"\1", path.name).removesuffix(".new")
    inside = path.relative_to(root)
    staged = [part[1:-4] for part in inside.parts if part.startswith(".") and part.endswith(".new")]
    return any(name in text for name in (final, *staged))


def _names(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}
