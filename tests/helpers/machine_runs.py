"""Runs of the state machine: made, trained, saved and resumed, here or in another process."""

from __future__ import annotations

import io
import itertools
import multiprocessing
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.rng import stream

#: Blocks that the runs of one method have, and others have not.
BLOCKS = {"first.weight": (4, 1), "second.weight": (2, 2)}
METHODS: dict[str, Callable[[], Any]] = {
    "static": sf.Static,
    "set": lambda: sf.SET(drop_fraction=0.3, update_every=3, schedule="constant"),
    "rigl": lambda: sf.RigL(drop_fraction=0.3, update_every=2, schedule="constant"),
    "rigl_blocks": lambda: sf.RigL(drop_fraction=0.4, update_every=2, schedule="constant", block=BLOCKS),
    "snfs": lambda: sf.SNFS(drop_fraction=0.3, update_every=3, schedule="constant"),
    "gmp": lambda: sf.GMP(sparsity=0.8, begin=2, end=20, update_every=2),
}
_optim = torch.optim
OPTIMIZERS: dict[str, Callable[[Iterable[Tensor]], torch.optim.Optimizer]] = {
    "momentum": lambda p: _optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: _optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adagrad": lambda p: _optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1),
    "rprop": lambda p: _optim.Rprop(p, lr=0.01),
    "fused": lambda p: _optim.AdamW(p, lr=0.01, fused=True),
}
#: Load the model, the optimizer, attach the Sparsifier, load its state.
ORDERS = ["".join(order) for order in itertools.permutations("MOAS") if order.index("A") < order.index("S")]
#: Steps by which a resumed run is compared with the one that went on.
AHEAD = 3


class Kind(NamedTuple):
    """What a run is made of; the same objects can be made from it anywhere."""

    method: str
    optimizer: str
    dtype: str = "float32"
    has_late_group: bool = False


class Run(NamedTuple):
    model: nn.Module
    optimizer: torch.optim.Optimizer
    sparsifier: sf.Sparsifier


class Saved(NamedTuple):
    kind: Kind
    clock: int
    states: bytes
    ahead: list[Tensor]
    """Bits of the run after AHEAD further steps."""


class Net(nn.Module):
    """Two masked layers, and one that stays dense and joins the optimizer late."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.first, self.second, self.late = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(4, 4)
        for name, parameter in self.named_parameters():
            nn.init.normal_(parameter, std=0.5, generator=stream(seed, "machine", name))

    def forward(self, x: Tensor) -> Tensor:
        return self.late(self.second(torch.tanh(self.first(x))))


def first_masks(model: nn.Module, kind: Kind, *, seed: int = 0) -> dict[str, Tensor]:
    if kind.method == "gmp":
        return sf.dense_masks(model, exclude=["late*"])
    block = BLOCKS if kind.method == "rigl_blocks" else (1, 1)
    return sf.random_masks(model, 0.6, seed=seed, block=block, exclude=["late*"])


def make(kind: Kind, *, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = Net(seed).to(getattr(torch, kind.dtype))
    optimizer = OPTIMIZERS[kind.optimizer]([*model.first.parameters(), *model.second.parameters()])
    if kind.has_late_group:
        optimizer.add_param_group({"params": list(model.late.parameters()), "lr": 0.001})
    return model, optimizer


def backward(model: nn.Module, clock: int) -> None:
    dtype = next(model.parameters()).dtype
    x = torch.randn(16, 6, generator=stream(clock, "x")).to(dtype)
    y = torch.randint(4, (16,), generator=stream(clock, "y"))
    nn.functional.cross_entropy(model(x), y).backward()


def train(run: Run, clocks: Iterable[int]) -> list[Tensor]:
    for clock in clocks:
        run.model.zero_grad()
        backward(run.model, clock)
        run.optimizer.step()
    return bits(run)


def bits(run: Run) -> list[Tensor]:
    found = [parameter.detach().clone() for parameter in run.model.parameters()]
    for parameter in run.model.parameters():
        found += [v.clone() for v in run.optimizer.state.get(parameter, {}).values() if torch.is_tensor(v)]
    return found + [mask.clone() for mask in run.sparsifier.masks.values()]


def as_bytes(run: Run) -> bytes:
    file = io.BytesIO()
    torch.save([part.state_dict() for part in run], file)
    return file.getvalue()


def resume(kind: Kind, states: bytes, order: str, *, seed: int) -> Run:
    """Make everything anew and load it in an order; ``seed`` draws other weights and other first masks."""
    model_state, optimizer_state, state = torch.load(io.BytesIO(states), weights_only=True)
    model, optimizer = make(kind, seed=seed)
    sparsifier: sf.Sparsifier | None = None
    for action in order:
        if action == "M":
            model.load_state_dict(model_state)
        elif action == "O":
            optimizer.load_state_dict(optimizer_state)
        elif action == "A":
            masks = first_masks(model, kind, seed=seed)
            sparsifier = sf.Sparsifier(model, optimizer, masks, METHODS[kind.method](), seed=seed)
        else:
            assert sparsifier is not None
            sparsifier.load_state_dict(state)
    assert sparsifier is not None
    return Run(model, optimizer, sparsifier)


def continue_elsewhere(connection: Connection) -> None:
    """What the other process does: resume what it is sent, and send back the bits after some steps."""
    torch.set_num_threads(1)
    while (task := connection.recv()) is not None:
        kind, states, order, clocks = task
        file = io.BytesIO()
        torch.save(train(resume(kind, states, order, seed=9), clocks), file)
        connection.send(file.getvalue())


class Elsewhere:
    """Another process, started when first asked."""

    def __init__(self) -> None:
        self._connection: Connection | None = None

    def train(self, saved: Saved, order: str) -> list[Tensor]:
        if self._connection is None:
            self._connection, other = multiprocessing.Pipe()
            worker = multiprocessing.get_context("spawn").Process(target=continue_elsewhere, args=(other,), daemon=True)
            worker.start()
        clocks = range(saved.clock, saved.clock + AHEAD)
        self._connection.send((saved.kind, saved.states, order, clocks))
        if not self._connection.poll(120):
            raise TimeoutError("the other process did not answer within 120 s")
        return list(torch.load(io.BytesIO(self._connection.recv()), weights_only=True))


ELSEWHERE = Elsewhere()


def error_of(call: Callable[[], object], *kinds: type[Exception]) -> str:
    """The text of the error that a call raises, if it is of these kinds; nothing where it raises none."""
    try:
        call()
    except kinds as error:
        return str(error)
    return ""


def assert_equal(one: list[Tensor], other: list[Tensor]) -> None:
    assert len(one) == len(other)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
