"""Trials in child processes, a few at a time, so that a crash or an endless loop of one ends no other."""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.connection
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from battery.optimizers import Row
from battery.trial import Outcome, Verdict, trial

#: Seconds of processor time that a trial may take, which no other program's load changes; the slowest needs about 20.
PROCESSOR_LIMIT = 90
#: Seconds after which a trial that waits for something is ended.
LIMIT = 900.0


@dataclass
class _Child:
    row: Row
    process: Any
    pipe: Connection
    until: float
    stage: str = "dense"


def run(
    rows: Sequence[Row],
    *,
    jobs: int,
    limit: float = LIMIT,
    attempt: Callable[[Row, Callable[[str], None]], Outcome] = trial,
    each: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Try every row, each in a fork of this process, which has imported the libraries once for all.

    Args:
        rows: What to try.
        jobs: Children at the same time.
        limit: Seconds for each.
        attempt: The trial.
        each: Called with every outcome as it comes.

    Returns:
        Outcomes in the order of the rows.
    """
    gc.freeze()  # children write no counts into the pages of what the libraries made
    fork = multiprocessing.get_context("fork")
    waiting = list(reversed(list(enumerate(rows))))
    running: dict[int, _Child] = {}
    found: dict[int, Outcome] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            index, row = waiting.pop()
            ours, theirs = fork.Pipe(duplex=False)
            process = fork.Process(target=_child, args=(row, theirs, attempt))
            process.start()
            theirs.close()
            running[index] = _Child(row, process, ours, time.monotonic() + limit)
        soonest = min(child.until for child in running.values()) - time.monotonic()
        multiprocessing.connection.wait([child.pipe for child in running.values()], timeout=max(soonest, 0.0))
        for index, child in list(running.items()):
            if (outcome := _outcome(child, limit)) is not None:
                found[index] = outcome
                child.pipe.close()
                child.process.join()
                del running[index]
                each(outcome)
    return [found[index] for index in range(len(rows))]


def _child(row: Row, pipe: Connection, attempt: Callable[[Row, Callable[[str], None]], Outcome]) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_LIMIT, PROCESSOR_LIMIT + 5))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    if row.ranks:
        import torch.distributed

        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    pipe.send(attempt(row, pipe.send))


def _outcome(child: _Child, limit: float) -> Outcome | None:
    """What a child has found; ``None`` while it works."""
    try:
        while child.pipe.poll():
            got = child.pipe.recv()
            if isinstance(got, Outcome):
                return got
            child.stage = got
    except EOFError:
        child.process.join()
        return _died(child, f"the process ended with {_ending(child.process.exitcode)}")
    if time.monotonic() > child.until:
        child.process.kill()
        return _died(child, f"it took longer than {limit:g} seconds")
    return None


def _died(child: _Child, how: str) -> Outcome:
    dense = child.stage == "dense"
    why = f"{how} on a dense network" if dense else f"{how} in the part {child.stage!r}"
    verdict: Verdict = "not run" if dense else "fails"
    return Outcome(library=child.row.library, name=child.row.name, verdict=verdict, why=(why,))


def _ending(code: int) -> str:
    if code == -signal.SIGXCPU:
        return f"more than {PROCESSOR_LIMIT} seconds of processor time"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
