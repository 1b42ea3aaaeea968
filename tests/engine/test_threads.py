"""Ranges that compiled code hands to other threads: what a kernel of the test writes shows who did what."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sparseflow as sf
from hand_over import WAYS, hand_over_by
from sparseflow._fast import team
from sparseflow.engine.kernels.compiling import part
from sparseflow.engine.kernels.shares import share
from sparseflow.engine.layers import threads as module
from sparseflow.engine.layers.threads import evenly, halves, over_ranges


@part
def _square(x: Any, first: int, y: Any, last: int, shift: float) -> None:
    for i in range(first, last):
        if x[i] < 0:
            raise ValueError("a negative number")
        y[i] += x[i] * x[i] + shift


@part
def _squares(team: int, threads: int, bounds: Any, *arguments: Any) -> None:
    share(team, threads, bounds, _square, arguments)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    hand_over_by(request.param, monkeypatch)
    return str(request.param)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("bounds", [[0, 1000], [0, 500, 1000], [0, 0, 10, 10, 999, 1000]])
def test_every_range_is_done_once(threads: int, bounds: list[int]) -> None:
    torch.set_num_threads(threads)
    x, y = np.arange(1000.0), np.zeros(1000)
    for _ in range(20):
        over_ranges(_squares, np.array(bounds), 10**9, x, y, 0.5)
    assert np.array_equal(y, 20 * (x * x + 0.5))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("place", [3, 997])
def test_an_error_is_raised_when_all_are_done(place: int) -> None:
    torch.set_num_threads(2)
    x, y = np.ones(1000), np.zeros(1000)
    x[place] = -1
    for _ in range(3):
        with pytest.raises(ValueError, match="a negative number"):
            over_ranges(_squares, np.array([0, 500, 1000]), 10**9, x, y, 0.0)
    other = slice(500, 1000) if place < 500 else slice(0, 500)
    assert (y[other] == 3).all()
    over_ranges(_squares, np.array([0, 1000]), 10**9, abs(x), y, 0.0)  # nothing is left of it


def test_little_work_stays_with_the_caller() -> None:
    torch.set_num_threads(2)
    assert module.threads_for(module._WORTH_IT, 10) == 1
    assert module.threads_for(2 * module._WORTH_IT, 10) == 2
    assert module.threads_for(10**9, 10) == 2
    assert module.threads_for(10**9, 0) == 1


def test_bounds() -> None:
    torch.set_num_threads(3)
    assert evenly(100, 10**9).tolist() == [0, 32, 64, 100]
    assert evenly(7, 10**9).tolist() == [0, 7]
    assert evenly(100, 1).tolist() == [0, 100]
    assert halves(127, 10**9).tolist() == [0, 64, 127]
    assert halves(256, 10**9).tolist() == [0, 128, 256]
    assert halves(256, 10).tolist() == halves(256, 0).tolist() == [0, 256]
    assert halves(64, 10**9).tolist() == [0, 64]


class Layer:
    """A sparse layer of 6400 weights, an input and a gradient: torch itself computes with one thread on these sizes."""

    def __init__(self) -> None:
        model = nn.Sequential(nn.Linear(200, 160))
        masks = sf.random_masks(model, 0.8, seed=0)
        self.layer = sf.engine.convert(model, masks)[0]
        generator = torch.Generator().manual_seed(0)
        self.x, self.g = torch.randn(128, 200, generator=generator), torch.randn(128, 160, generator=generator)

    def pass_(self, threads: int = 2) -> list[torch.Tensor]:
        """The output and all gradients."""
        torch.set_num_threads(threads)
        x = self.x.clone().requires_grad_()
        y = self.layer(x)
        return [y.detach(), *torch.autograd.grad(y, [x, *self.layer.parameters()], self.g)]


def test_callers_on_several_python_threads_do_not_meet() -> None:
    layer = Layer()
    want = layer.pass_()
    found: list[bool] = []

    def call() -> None:
        for _ in range(30):
            found.append(all(map(torch.equal, layer.pass_(), want)))

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=120)
        assert not caller.is_alive()
    assert found == [True] * 90


@pytest.mark.usefixtures("way")
def test_the_number_of_threads_may_change_between_passes_and_changes_no_bit() -> None:
    layer = Layer()
    want = layer.pass_(1)
    for threads in (2, 3, 1, 2):
        assert all(map(torch.equal, layer.pass_(threads), want))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_computes_the_same() -> None:
    layer = Layer()
    want = layer.pass_()
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a process that waits for threads which are not there would wait for ever
        same = False
        try:
            same = team() == 0 and all(map(torch.equal, layer.pass_(), want))
        finally:
            os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
