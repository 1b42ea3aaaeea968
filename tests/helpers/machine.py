"""A state machine of what a user may do to a sparse run, in any order, and what must hold after each of it."""

from __future__ import annotations

import copy
import io
import warnings
from collections import Counter
from functools import partial
from typing import ClassVar

import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from torch import Tensor, nn

import sparseflow as sf
from machine_runs import (
    AHEAD,
    BLOCKS,
    ELSEWHERE,
    METHODS,
    OPTIMIZERS,
    ORDERS,
    Kind,
    Net,
    Run,
    Saved,
    as_bytes,
    assert_equal,
    backward,
    bits,
    error_of,
    first_masks,
    make,
    resume,
    train,
)


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
            if self.kind.method == "rigl_blocks":
                high, wide = BLOCKS[name]
                tiles = mask.view(len(mask) // high, high, -1, wide).sum((1, 3))
                assert ((tiles == 0) | (tiles == high * wide)).all(), f"{name} is not made of blocks any more"
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
