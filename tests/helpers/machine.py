"""A state machine of what a user may do to a sparse run, in any order, and what must hold after each of it."""

from __future__ import annotations

import copy
import io
import itertools
import multiprocessing
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, ClassVar, NamedTuple

import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.rng import stream

METHODS: dict[str, Callable[[], Any]] = {
    "static": sf.Static,
    "set": lambda: sf.SET(drop_fraction=0.3, update_every=3, schedule="constant"),
    "rigl": lambda: sf.RigL(drop_fraction=0.3, update_every=2, schedule="constant"),
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
    return sf.random_masks(model, 0.6, seed=seed, exclude=["late*"])


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


class Machine(RuleBasedStateMachine):
    """After everything: zeros and counts exact, grown weights learn, resumed runs equal; or an error with a name."""

    #: Rule -> how often it was run, in all machines of this process.
    counts: ClassVar[Counter[str]] = Counter()

    # -- beginning -----------------------------------------------------------------------------------------------

    @initialize(method=st.sampled_from(sorted(METHODS)), optimizer=st.sampled_from(sorted(OPTIMIZERS)))
    def attach(self, method: str, optimizer: str) -> None:
        self.counts["attach"] += 1
        self.kind = Kind(method, optimizer)
        self.clock = 0
        self.saved: list[Saved] = []
        model, stepped = make(self.kind, seed=0)
        masks = first_masks(model, self.kind)
        self.old_masks = {name: mask.clone() for name, mask in masks.items()}
        self._take(Run(model, stepped, sf.Sparsifier(model, stepped, masks, METHODS[method](), seed=0)))
        self.active = {name: int(mask.sum()) for name, mask in masks.items()}
        self.holds()

    def _take(self, run: Run) -> None:
        self.run = run
        self.grown: dict[str, Tensor] = {}
        run.sparsifier.after_update.append(
            lambda step, changes: self.grown.update({name: change.grown for name, change in changes.items()})
        )

    def _step(self) -> None:
        """Take a step; weights that grew before it and have a gradient leave zero, unless they are dropped again."""
        weights = dict(self.run.model.named_parameters())
        learning = {}
        for name, grown in self.grown.items():
            gradient = weights[name].grad
            learning[name] = grown & (gradient != 0) if gradient is not None else grown & False
        self.grown.clear()
        self.run.optimizer.step()
        self.clock += 1
        for name, moved in learning.items():
            still = moved & self.run.sparsifier.masks[name]
            still &= ~self.grown.get(name, torch.zeros_like(still))
            assert torch.count_nonzero(weights[name][still]) == int(still.sum()), f"{name} grew and does not learn"

    def holds(self) -> None:
        """Exact zeros and counts, found without the library, and its own check."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sf.methods.run.UnfinishedWarning)
            self.run.sparsifier.check()
        for name, mask in self.run.sparsifier.masks.items():
            assert torch.count_nonzero(self.run.model.get_parameter(name)[~mask]) == 0
            count = int(mask.sum())
            assert count <= self.active[name] if self.kind.method == "gmp" else count == self.active[name]
            self.active[name] = count

    # -- loops ---------------------------------------------------------------------------------------------------

    @rule(times=st.integers(1, 3))
    def step(self, times: int) -> None:
        self.counts["step"] += 1
        for _ in range(times):
            self.run.model.zero_grad()
            backward(self.run.model, self.clock)
            self._step()
            self.holds()

    @rule(clips=st.booleans())
    def accumulate(self, clips: bool) -> None:
        self.counts["accumulate"] += 1
        self.run.model.zero_grad()
        backward(self.run.model, self.clock)
        backward(self.run.model, self.clock + 1000)
        if clips:
            self.run.sparsifier.mask_gradients_()
            nn.utils.clip_grad_norm_(self.run.model.parameters(), 0.5)
        self._step()
        self.holds()

    @rule()
    def skip(self) -> None:
        self.counts["skip"] += 1
        self.run.model.zero_grad()
        backward(self.run.model, self.clock)
        self.run.model.zero_grad()
        self.holds()

    # -- save and resume -----------------------------------------------------------------------------------------

    @rule()
    def save(self) -> None:
        self.counts["save"] += 1
        states = as_bytes(self.run)
        ahead = train(Run(*copy.deepcopy(tuple(self.run))), range(self.clock, self.clock + AHEAD))
        self.saved = [*self.saved[-2:], Saved(self.kind, self.clock, states, ahead)]
        self.holds()

    @precondition(lambda self: self.saved)
    @rule(order=st.sampled_from(ORDERS), seed=st.integers(1, 3), which=st.integers(0, 2))
    def resume(self, order: str, seed: int, which: int) -> None:
        self.counts["resume"] += 1
        saved = self.saved[which % len(self.saved)]
        made = resume(saved.kind, saved.states, order, seed=seed)
        self._follow(saved, made)
        assert_equal(train(made, range(saved.clock, saved.clock + AHEAD)), saved.ahead)
        self.clock += AHEAD
        self.active = {name: int(mask.sum()) for name, mask in made.sparsifier.masks.items()}
        self.holds()

    @precondition(lambda self: self.saved)
    @rule(order=st.sampled_from(ORDERS))
    def resume_in_another_process(self, order: str) -> None:
        self.counts["resume_in_another_process"] += 1
        assert_equal(ELSEWHERE.train(self.saved[-1], order), self.saved[-1].ahead)

    def _follow(self, saved: Saved, run: Run) -> None:
        self.kind, self.clock = saved.kind, saved.clock
        self.run.sparsifier.remove()
        self._take(run)
        self.active = {name: int(mask.sum()) for name, mask in run.sparsifier.masks.items()}

    # -- what something else does --------------------------------------------------------------------------------

    @rule(how=st.sampled_from(["in place", "load_state_dict", "data replaced", "average"]))
    def write_dense(self, how: str) -> None:
        self.counts["write_dense"] += 1
        model, dense = self.run.model, Net(7).to(getattr(torch, self.kind.dtype))
        if how == "load_state_dict":
            model.load_state_dict(dense.state_dict())
        for own, other in zip(model.parameters(), dense.parameters(), strict=True):
            with torch.no_grad():
                if how == "in place":
                    own.copy_(other)
                elif how == "data replaced":
                    own.data = other.data.clone()
                elif how == "average":
                    own.lerp_(other, 0.5)
        self._step_after_write()

    def _step_after_write(self) -> None:
        self.run.model.zero_grad()
        self.grown.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            backward(self.run.model, self.clock)
            self._step()
        self.holds()

    @precondition(lambda self: self.saved)
    @rule(which=st.integers(0, 2), what=st.sampled_from("MO"))
    def load_one_state(self, which: int, what: str) -> None:
        """An old state of the model or the optimizer alone: cut to the masks, or refused as it is."""
        self.counts["load_one_state"] += 1
        saved = self.saved[which % len(self.saved)]
        if saved.kind != self.kind:
            return
        states = torch.load(io.BytesIO(saved.states), weights_only=True)
        if what == "O":
            self.run.optimizer.load_state_dict(states[1])
            self._step_after_write()
            return
        self.run.model.load_state_dict(states[0])
        before = bits(self.run)
        if said := error_of(self._step_after_write, sf.BrokenPromiseError):
            assert "not where its mask is" in said
            assert_equal(bits(self.run), before)
            self.run.optimizer.load_state_dict(states[1])
            self.run.sparsifier.load_state_dict(states[2])
            self._follow_here(saved)

    def _follow_here(self, saved: Saved) -> None:
        self.clock = saved.clock
        self.active = {name: int(mask.sum()) for name, mask in self.run.sparsifier.masks.items()}
        assert_equal(train(self.run, range(saved.clock, saved.clock + AHEAD)), saved.ahead)
        self.clock += AHEAD
        self.active = {name: int(mask.sum()) for name, mask in self.run.sparsifier.masks.items()}
        self.grown.clear()
        self.holds()

    @rule(how=st.sampled_from(["layer", "assign", "group"]))
    def replace(self, how: str) -> None:
        """Another tensor than before, or one that nothing steps: refused, then mended as the error says."""
        self.counts["replace"] += 1
        model, optimizer, sparsifier = self.run
        if how == "layer":
            model.second = copy.deepcopy(model.second)
        elif how == "assign":
            model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
        else:
            group = optimizer.param_groups[0]
            group["params"] = [parameter for parameter in group["params"] if parameter is not model.first.weight]
        backward(model, self.clock)
        with_name = "of the model is not the tensor" if how != "group" else "does not hold 'first.weight' any more"
        assert with_name in error_of(optimizer.step, sf.BrokenPromiseError), "a replaced tensor was trained in silence"
        sparsifier.remove()
        parameters = [*model.first.parameters(), *model.second.parameters()]
        fresh = OPTIMIZERS[self.kind.optimizer](parameters)
        if self.kind.has_late_group:
            fresh.add_param_group({"params": list(model.late.parameters()), "lr": 0.001})
        state, method = sparsifier.state_dict(), METHODS[self.kind.method]()
        self._take(Run(model, fresh, sf.Sparsifier(model, fresh, sparsifier.masks, method, seed=3, state=state)))
        self.holds()

    @rule(dtype=st.sampled_from(["float32", "float64"]))
    def change_dtype(self, dtype: str) -> None:
        self.counts["change_dtype"] += 1
        self.kind = self.kind._replace(dtype=dtype)
        self.run.model.to(getattr(torch, dtype))
        # As torch wants it: a state that is loaded takes the dtype of its parameter.
        self.run.model.zero_grad()
        self.run.optimizer.load_state_dict(self.run.optimizer.state_dict())
        self._step_after_write()

    @precondition(lambda self: not self.kind.has_late_group)
    @rule()
    def add_group(self) -> None:
        self.counts["add_group"] += 1
        self.kind = self.kind._replace(has_late_group=True)
        self.run.optimizer.add_param_group({"params": list(self.run.model.late.parameters()), "lr": 0.001})
        self.holds()

    # -- copies, second ones, masks of another time --------------------------------------------------------------

    @rule()
    def copy_together(self) -> None:
        self.counts["copy_together"] += 1
        twin = Run(*copy.deepcopy(tuple(self.run)))
        self.run.sparsifier.remove()
        grown = self.grown
        self._take(twin)
        self.grown.update(grown)
        self.holds()

    @rule()
    def copy_without_the_sparsifier(self) -> None:
        self.counts["copy_without_the_sparsifier"] += 1
        model, optimizer = copy.deepcopy((self.run.model, self.run.optimizer))
        backward(model, self.clock)
        assert "the copy has no Sparsifier" in error_of(optimizer.step, RuntimeError)

    @rule()
    def attach_a_second(self) -> None:
        self.counts["attach_a_second"] += 1
        second = partial(sf.Sparsifier, self.run.model, self.run.optimizer, self.old_masks, sf.Static(), seed=0)
        assert "is held by another Sparsifier" in error_of(second, ValueError)
        self.holds()

    @rule(now=st.booleans())
    def convert_and_back(self, now: bool) -> None:
        """With the masks of now the same network; with those of the beginning, where they differ, an error."""
        self.counts["convert_and_back"] += 1
        masks = dict(self.run.sparsifier.masks) if now else self.old_masks
        are_old = any(not torch.equal(mask, self.run.sparsifier.masks[name]) for name, mask in masks.items())
        said = error_of(partial(sf.engine.convert, self.run.model, masks), ValueError)
        assert bool(said) == are_old
        assert not said or "sparsifier.masks" in said
        if not said:
            back = sf.engine.to_dense(sf.engine.convert(self.run.model, masks))
            assert_equal(list(back.state_dict().values()), list(self.run.model.state_dict().values()))
        self.holds()

    def teardown(self) -> None:
        if hasattr(self, "run"):
            self.run.sparsifier.remove()
