"""Optimizers around optimizers: the whole step is followed, and nothing is written to inactive weights afterwards."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from odd_optimizers import SAM, Lookahead, Secretive, Uncopyable, Unrepeatable
from optimizer_loops import backward, network, rigl, trained
from sparseflow.sparsifier.wrappers import stepping

optim = torch.optim


def adam(parameters: Any) -> optim.Optimizer:
    return optim.Adam(parameters, lr=0.01)


class LookaheadByClass(optim.Optimizer):
    """As timm's: an optimizer by class that sets up the hooks of steps, but not the call of them."""

    def __init__(self, optimizer: optim.Optimizer) -> None:
        self._optimizer_step_pre_hooks: dict[int, Any] = OrderedDict()
        self._optimizer_step_post_hooks: dict[int, Any] = OrderedDict()
        self._optimizer = optimizer
        self._inside = Lookahead(optimizer)
        self.defaults, self.param_groups, self.state = optimizer.defaults, optimizer.param_groups, self._inside.state

    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        self._inside.step()


class ScheduleFree:
    """As schedulefree's wrapper: groups and state are those inside, which have a ``momentum`` of their own."""

    def __init__(self, base: optim.Optimizer, momentum: float = 0.9) -> None:
        self.base, self.momentum = base, momentum

    param_groups = property(lambda self: self.base.param_groups)
    state = property(lambda self: self.base.state)

    @torch.no_grad()
    def step(self) -> None:
        held = [p for group in self.param_groups for p in group["params"]]
        averages = []
        for p in held:
            slow = self.state[p].setdefault("slow", p.detach().clone())
            averages.append(p.lerp(slow, 1 - 1 / self.momentum))
            p.copy_(slow)
        self.base.step()
        for p, average in zip(held, averages, strict=True):
            self.state[p]["slow"].copy_(p)
            p.copy_(average.lerp_(p, 0.2).lerp_(p, 1 - self.momentum))


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "schedule-free": lambda p: ScheduleFree(optim.SGD(p, lr=0.1)),
    "lookahead": lambda p: Lookahead(adam(p)),
    "lookahead around one that is copied": lambda p: Lookahead(Unrepeatable(p, lambda _: 0.05)),
    "lookahead by class": lambda p: LookaheadByClass(adam(p)),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_static_equals_masking_by_hand_to_the_last_bit(name: str) -> None:
    for with_sparsifier, by_hand in zip(
        trained(WRAPPERS[name], by_hand=False), trained(WRAPPERS[name], by_hand=True), strict=True
    ):
        assert torch.equal(with_sparsifier, by_hand)


@pytest.mark.parametrize("name", WRAPPERS)
def test_slow_weights_bring_no_dropped_weight_back(name: str) -> None:
    """Masks move at each step: slow weights of a dropped one, or a late write, would show at once."""
    model = network()
    optimizer = WRAPPERS[name](model.parameters())
    sparsifier = sf.Sparsifier(
        model, optimizer, sf.random_masks(model, 0.8, seed=0), sf.SET(update_every=1, schedule="constant"), seed=0
    )
    dropped: dict[str, Tensor] = {}
    sparsifier.after_update.append(lambda step, changes: dropped.update({n: c.dropped for n, c in changes.items()}))
    for step in range(12):
        backward(model, step)
        optimizer.step()
        sparsifier.check()
        for weight, where in dropped.items():
            assert where.any()
            assert not optimizer.state[model.get_parameter(weight)]["slow"][where].any()


# -- SAM ---------------------------------------------------------------------------------------------------------------


def sam(parameters: Any) -> SAM:
    return SAM(parameters, optim.Adam, rho=0.1, lr=0.01)


def test_sam_perturbs_active_weights_only_and_equals_masking_by_hand() -> None:
    """Oracle: gradients times the mask before both phases, weights after; to the last bit, in float64."""
    ends = []
    for by_hand in (False, True):
        model = network()
        masks = sf.random_masks(model, 0.8, seed=0)
        sf.apply_masks_(model, masks)
        optimizer = sam(model.parameters())
        if not by_hand:
            sparsifier = sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0)
        for step in range(6):
            for phase in (optimizer.first_step, optimizer.second_step):
                backward(model, step)
                if by_hand:
                    for name, mask in masks.items():
                        model.get_parameter(name).grad.mul_(mask)
                phase(zero_grad=True)
                sf.check(model, None, masks)
            if not by_hand:
                assert sparsifier.step_count == step + 1
                sparsifier.check()
        ends.append([parameter.detach() for parameter in model.parameters()])
    assert all(map(torch.equal, *ends))


@pytest.mark.parametrize("with_closure", [False, True])
def test_rigl_grows_by_the_second_gradient_of_sam(with_closure: bool) -> None:
    model = network()
    optimizer = sam(model.parameters())
    masks = sf.random_masks(model, 0.8, seed=0)
    sparsifier = sf.Sparsifier(model, optimizer, masks, rigl(update_every=2), seed=0)
    grown: dict[str, Tensor] = {}
    dense: dict[str, Tensor] = {}
    sparsifier.after_update.append(lambda step, changes: grown.update({n: c.grown for n, c in changes.items()}))

    def again(step: int) -> Tensor:
        backward(model, step)
        dense.update({name: model.get_parameter(name).grad.clone() for name in masks})
        return torch.zeros(())

    for step in range(2):
        before = {name: mask.clone() for name, mask in sparsifier.masks.items()}
        backward(model, step)
        if with_closure:
            optimizer.step(lambda step=step: again(step))
        else:
            optimizer.first_step(zero_grad=True)
            again(step)
            optimizer.second_step(zero_grad=True)
        sparsifier.check()
    for name, mask in before.items():
        largest = dense[name].abs().masked_fill(mask, 0).flatten().topk(int(grown[name].sum())).indices
        assert set(largest.tolist()) == set(grown[name].flatten().nonzero().flatten().tolist())


def test_a_followed_wrapper_is_not_copied_in_silence() -> None:
    model = network()
    optimizer = Lookahead(adam(model.parameters()))
    sparsifier = sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.8, seed=0), sf.Static(), seed=0)
    with pytest.raises(TypeError, match=r"a Lookahead that a Sparsifier follows cannot be copied"):
        copy.deepcopy((model, optimizer))
    sparsifier.remove()
    copy.deepcopy((model, optimizer))


def test_remove_gives_the_methods_back() -> None:
    model = network()
    optimizer = sam(model.parameters())
    sparsifier = sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.8, seed=0), sf.Static(), seed=0)
    assert {"first_step", "second_step"} <= vars(optimizer).keys()
    sparsifier.remove()
    assert not {"first_step", "second_step"} & vars(optimizer).keys()


# -- ZeRO-1 ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def one_process() -> Any:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_state_inside_zero_redundancy_optimizer() -> None:
    """Oracle: the optimizer without the wrapper; the same weights, masks and state to the last bit."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    ends = []
    for wrapped in (False, True):
        model = network()
        make = ZeroRedundancyOptimizer if wrapped else optim.AdamW
        options = {"optimizer_class": optim.AdamW} if wrapped else {}
        optimizer = make(model.parameters(), lr=0.01, **options)
        sparsifier = sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.8, seed=0), rigl(), seed=0)
        for step in range(9):
            backward(model, step)
            optimizer.step()
            checked = sparsifier.check()
        assert checked.state_tensors == 4
        inside = optimizer.optim if wrapped else optimizer
        tensors = [inside.state[p][key] for p in model.parameters() for key in ("exp_avg", "exp_avg_sq")]
        ends.append([*(p.detach() for p in model.parameters()), *sparsifier.masks.values(), *tensors])
    assert all(map(torch.equal, *ends))


# -- refused -----------------------------------------------------------------------------------------------------------


def test_a_wrapper_that_writes_afterwards_and_shows_nothing_is_refused() -> None:
    layer = nn.Linear(8, 4)
    with pytest.raises(
        ValueError, match="Secretive writes to weights after the optimizer inside has stepped, and has no"
    ):
        stepping(Secretive(adam(layer.parameters())))


def test_a_wrapper_that_cannot_be_tried_out_is_followed_as_a_whole() -> None:
    """Whether it writes afterwards is not known; after its own step nothing is written by anyone."""
    optimizer = Lookahead(Uncopyable(nn.Linear(8, 4).parameters(), lambda _: 0.05))
    assert stepping(optimizer) is optimizer


def test_what_is_no_optimizer_is_refused() -> None:
    with pytest.raises(TypeError, match=r"optimizer must be a torch\.optim\.Optimizer .*, got Linear"):
        stepping(nn.Linear(1, 1))


def test_a_wrapper_around_several_is_refused() -> None:
    layer = nn.Linear(8, 4)

    class Both:
        def __init__(self) -> None:
            self.parts = [optim.SGD([layer.weight]), optim.SGD([layer.bias])]

    with pytest.raises(ValueError, match="Both holds 2 optimizers and runs no step hooks of its own"):
        stepping(Both())


def test_zero_that_steps_inside_the_reducer_is_refused() -> None:
    optimizer = optim.SGD(nn.Linear(2, 2).parameters())
    optimizer._overlap_with_ddp = True
    with pytest.raises(ValueError, match="Make it with overlap_with_ddp=False"):
        stepping(optimizer)
