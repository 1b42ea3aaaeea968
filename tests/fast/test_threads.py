"""Parts of one piece of work on several threads: torch's where they are GNU's, else Python's."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest
import torch

from sparseflow._fast import threads as module
from sparseflow._fast.threads import _on_own_threads, on_threads

ways = pytest.mark.parametrize("way", [on_threads, _on_own_threads])
Way = Callable[[int, Callable[[int], None]], None]


@ways
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_part_is_done_once(way: Way, threads: int) -> None:
    if way is _on_own_threads and threads == 1:
        pytest.skip("one thread is the caller's own")
    done: list[int] = []
    for _ in range(20):
        way(threads, done.append)
    assert sorted(done) == sorted(list(range(threads)) * 20)


@ways
def test_parts_run_at_the_same_time(way: Way) -> None:
    meeting = threading.Barrier(2, timeout=60)
    places: list[int] = []
    way(2, lambda part: places.append(meeting.wait()))
    assert sorted(places) == [0, 1]


@ways
@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_is_raised_when_all_are_done(way: Way, failing: int) -> None:
    done: list[int] = []

    def run(part: int) -> None:
        if part == failing:
            raise ValueError(f"part {part}")
        done.append(part)

    with pytest.raises(ValueError, match=f"part {failing}"):
        way(2, run)
    assert done == [1 - failing]


def test_torch_operations_work_in_every_part() -> None:
    x = torch.arange(1000.0)
    found = [0.0, 0.0]

    def run(part: int) -> None:
        found[part] = float((x * (part + 1)).sum())

    on_threads(2, run)
    assert found == [499500.0, 999000.0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    on_threads(2, lambda part: None)
    child = os.fork()
    if child == 0:
        done: list[int] = []
        on_threads(2, done.append)
        os._exit(0 if sorted(done) == [0, 1] and module._forked else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
