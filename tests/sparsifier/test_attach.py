"""Model, optimizer, Sparsifier and their states in any order, and what something else does between steps."""

from __future__ import annotations

import copy
import gc
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import sparseflow as sf
from tiny import OPTIMIZERS, assert_same_bits, loss_of, masked, snapshot, tiny_model, train_step

METHODS: dict[str, Callable[[], Any]] = {
    "set": lambda: sf.SET(drop_fraction=0.3, update_every=2, schedule="constant"),
    "rigl": lambda: sf.RigL(drop_fraction=0.3, update_every=2, schedule="constant"),
    "snfs": lambda: sf.SNFS(drop_fraction=0.3, update_every=2, schedule="constant"),
    "gmp": lambda: sf.GMP(sparsity=0.9, begin=2, end=12, update_every=2),
    "static": sf.Static,
}
#: What may be given at the start of a resumed run: the run's first masks, others, and none.
GIVEN: dict[str, Callable[[nn.Module], dict[str, Tensor]]] = {
    "first": masked,
    "other": lambda model: masked(model, sparsity=0.9, seed=5),
    "dense": sf.dense_masks,
}
#: Load the model's state, the optimizer's, make the Sparsifier, load its state.
ORDERS = ["".join(order) for order in itertools.permutations("MOAS") if order.index("A") < order.index("S")]


def made(method: str = "rigl", optimizer: str = "adam") -> tuple[nn.Module, torch.optim.Optimizer, sf.Sparsifier]:
    model = tiny_model()
    stepped = OPTIMIZERS[optimizer](model.parameters())
    masks = sf.dense_masks(model) if method == "gmp" else masked(model)
    return model, stepped, sf.Sparsifier(model, stepped, masks, METHODS[method](), seed=0)


def end_of(model: nn.Module, optimizer: torch.optim.Optimizer, sparsifier: sf.Sparsifier, steps: range) -> list[Tensor]:
    for step in steps:
        train_step(model, optimizer, step)
        sparsifier.check()
    return [*snapshot(model, optimizer), *sparsifier.masks.values()]


def saved_and_end(method: str, optimizer: str) -> tuple[list[dict[str, Any]], list[Tensor]]:
    run = made(method, optimizer)
    end_of(*run, range(7))
    saved = copy.deepcopy([part.state_dict() for part in run])
    return saved, end_of(*run, range(7, 13))


# -- resume ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize(("method", "optimizer"), [("rigl", "adam"), ("set", "momentum"), ("snfs", "rmsprop")])
def test_states_may_be_loaded_in_any_order(method: str, optimizer: str, given: str, order: str) -> None:
    """Oracle: the run that was not interrupted, to the bit."""
    (model_state, optimizer_state, state), expected = saved_and_end(method, optimizer)
    model = tiny_model(seed=1)
    stepped = OPTIMIZERS[optimizer](model.parameters())
    parts: dict[str, Any] = {}
    for action in order:
        if action == "M":
            model.load_state_dict(model_state)
        elif action == "O":
            stepped.load_state_dict(optimizer_state)
        elif action == "A":
            parts["sparsifier"] = sf.Sparsifier(model, stepped, GIVEN[given](model), METHODS[method](), seed=1)
        else:
            parts["sparsifier"].load_state_dict(state)
    assert_same_bits(end_of(model, stepped, parts["sparsifier"], range(7, 13)), expected)


@pytest.mark.parametrize("order", ["MOA", "AMO", "OAM", "MAO"])
@pytest.mark.parametrize("method", METHODS)
def test_a_state_may_be_given_where_the_sparsifier_is_made(method: str, order: str) -> None:
    (model_state, optimizer_state, state), expected = saved_and_end(method, "adam")
    model = tiny_model(seed=1)
    stepped = OPTIMIZERS["adam"](model.parameters())
    for action in order:
        if action == "M":
            model.load_state_dict(model_state)
        elif action == "O":
            stepped.load_state_dict(optimizer_state)
        else:
            sparsifier = sf.Sparsifier(model, stepped, masked(model), METHODS[method](), seed=1, state=state)
    assert_same_bits(end_of(model, stepped, sparsifier, range(7, 13)), expected)


def test_a_state_loads_with_weights_only(tmp_path: Any) -> None:
    run = made("snfs")
    end_of(*run, range(3))
    state = run[2].state_dict()
    torch.save(state, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert loaded.keys() == state.keys()
    for part in ("masks", "gradient_mean"):
        assert_same_bits(list(loaded[part].values()), list(state[part].values()))
    assert torch.equal(loaded["generator"], state["generator"])
    run[2].load_state_dict(loaded)


def test_trained_weights_without_their_masks_are_refused_and_stay() -> None:
    (model_state, optimizer_state, state), expected = saved_and_end("rigl", "adam")
    model = tiny_model(seed=1)
    stepped = OPTIMIZERS["adam"](model.parameters())
    model.load_state_dict(model_state)
    stepped.load_state_dict(optimizer_state)
    sparsifier = sf.Sparsifier(model, stepped, masked(model), METHODS["rigl"](), seed=1)
    with pytest.raises(sf.BrokenPromiseError, match=r"sparse, but not where its mask is.*sparsifier.load_state_dict"):
        train_step(model, stepped, 7)
    with pytest.raises(sf.BrokenPromiseError, match="sparse, but not where its mask is"):
        sparsifier.check()
    assert_same_bits(list(model.state_dict().values()), list(model_state.values()))
    sparsifier.load_state_dict(state)  # what the message says
    assert_same_bits(end_of(model, stepped, sparsifier, range(7, 13)), expected)


def test_trained_weights_are_cut_elsewhere_on_purpose() -> None:
    (model_state, _, _), _ = saved_and_end("rigl", "adam")
    model = tiny_model(seed=1)
    model.load_state_dict(model_state)
    sparsifier = sf.Sparsifier(model, o := OPTIMIZERS["adam"](model.parameters()), masked(model), sf.Static(), seed=1)
    sf.apply_masks_(model, sparsifier.masks)
    train_step(model, o, 0)
    sparsifier.check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generator": torch.zeros(3, dtype=torch.uint8)}, "generator is no state of a CPU torch.Generator"),
        ({"generator": None}, "generator is no state of a CPU torch.Generator"),
        ({"step_count": -3}, "step_count must be a number of optimizer steps, got -3"),
        ({"last_update": "x"}, "last_update must be a number of optimizer steps, got 'x'"),
        (
            {"gradient_mean": {"3.weight": torch.zeros(2)}},
            r"gradient_mean of '3\.weight' does not fit: needed \(10",
        ),
        ({"learning_rates": [float("nan")]}, "learning_rates must be numbers"),
        ({"states_left_alone": {"3.weight": "momentum"}}, "states_left_alone must be lists of names for each weight"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change: dict[str, Any], message: str) -> None:
    model, optimizer, sparsifier = made("snfs")
    end_of(model, optimizer, sparsifier, range(3))
    other = made("snfs")[2].state_dict()
    before = [*snapshot(model, optimizer), *copy.deepcopy(list(sparsifier.masks.values()))]
    with pytest.raises(ValueError, match=message):
        sparsifier.load_state_dict({**other, **change})
    assert_same_bits([*snapshot(model, optimizer), *sparsifier.masks.values()], before)
    assert sparsifier.step_count == 3


# -- writes from outside ---------------------------------------------------------------------------------------------


def dense_state() -> dict[str, Tensor]:
    return tiny_model(seed=3).state_dict()


def _average(model: nn.Module) -> None:
    average = AveragedModel(tiny_model(seed=3))
    for own, other in zip(model.parameters(), average.parameters(), strict=True):
        own.data = other.data.clone()


def _initialise(model: nn.Module) -> None:
    for parameter in model.parameters():
        nn.init.normal_(parameter)


def _copy_data(model: nn.Module) -> None:
    for own, other in zip(model.parameters(), tiny_model(seed=3).parameters(), strict=True):
        own.data.copy_(other.data)


WRITERS: dict[str, Callable[[nn.Module], object]] = {
    "load_state_dict": lambda model: model.load_state_dict(dense_state()),
    "data replaced": _average,
    "initialised": _initialise,
    "vector": lambda model: nn.utils.vector_to_parameters(torch.ones(594), model.parameters()),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("method", ["static", "rigl", "set"])
def test_dense_weights_that_something_else_wrote_are_cut_at_the_next_step(method: str, writer: str) -> None:
    model, optimizer, sparsifier = made(method)
    train_step(model, optimizer, 0)
    WRITERS[writer](model)
    with pytest.warns(UserWarning, match="had nonzero weights off the mask.*apply_masks_"):
        train_step(model, optimizer, 1)
    sparsifier.check()
    end_of(model, optimizer, sparsifier, range(2, 6))


def test_a_write_through_data_is_noticed_by_chance_at_every_step() -> None:
    """At sparsity 0.7 a step looks at one entry of each of three weights: after ten all have been missed in 0.3^30."""
    run = made("static")
    train_step(*run[:2], 0)
    _copy_data(run[0])
    with pytest.warns(UserWarning, match="had nonzero weights off the mask"):
        assert [train_step(*run[:2], step) for step in range(1, 11)]
    run[2].check()


def test_weights_of_an_earlier_step_are_refused() -> None:
    model, optimizer, sparsifier = made("rigl")
    train_step(model, optimizer, 0)
    early = copy.deepcopy(model.state_dict())
    end_of(model, optimizer, sparsifier, range(1, 9))
    model.load_state_dict(early)
    with pytest.raises(sf.BrokenPromiseError, match=r"not where its mask is: it was trained with other masks"):
        train_step(model, optimizer, 9)
    assert_same_bits(list(model.state_dict().values()), list(early.values()))


def test_an_average_swapped_in_and_out_changes_nothing() -> None:
    """Oracle: the run without the swap."""
    ends = []
    for swaps in (False, True):
        run = made("rigl")
        end_of(*run, range(5))
        if swaps:
            own = copy.deepcopy(run[0].state_dict())
            run[0].load_state_dict(dense_state())
            run[0].load_state_dict(own)
        ends.append(end_of(*run, range(5, 10)))
    assert_same_bits(*ends)


def _assign(model: Any, optimizer: torch.optim.Optimizer) -> None:
    model.load_state_dict(dense_state(), assign=True)


def _replace(model: Any, optimizer: torch.optim.Optimizer) -> None:
    model[3] = nn.Linear(48, 10)


def _move(model: Any, optimizer: torch.optim.Optimizer) -> None:
    parameters = optimizer.param_groups[0]["params"]
    optimizer.param_groups[0]["params"] = [p for p in parameters if p is not model[3].weight]
    torch.optim.SGD([model[3].weight], lr=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_assign, r"'0\.weight' of the model is not the tensor that the optimizer steps any more"),
        (_replace, r"'3\.weight' of the model is not the tensor that the optimizer steps any more"),
        (_move, r"the optimizer does not hold '3\.weight' any more"),
    ],
)
def test_tensors_that_are_not_those_of_before_are_refused(change: Callable[..., None], message: str) -> None:
    model, optimizer, sparsifier = made("rigl")
    train_step(model, optimizer, 0)
    change(model, optimizer)
    with pytest.raises(sf.BrokenPromiseError, match=message):
        train_step(model, optimizer, 1)
    with pytest.raises(sf.BrokenPromiseError, match=message):
        sparsifier.check()
    sparsifier.remove()  # what the message says
    optimizer = OPTIMIZERS["adam"](model.parameters())
    sf.apply_masks_(model, sparsifier.masks)
    again = sf.Sparsifier(model, optimizer, sparsifier.masks, METHODS["rigl"](), seed=0, state=sparsifier.state_dict())
    end_of(model, optimizer, again, range(1, 5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_may_change(dtype: torch.dtype) -> None:
    model, optimizer, sparsifier = made("snfs", "momentum")
    end_of(model, optimizer, sparsifier, range(3))
    model.to(dtype)
    for state in optimizer.state.values():
        state["momentum_buffer"] = state["momentum_buffer"].to(dtype)
    end_of(model, optimizer, sparsifier, range(3, 8))
    assert model[3].weight.dtype == dtype


def test_state_of_another_dtype_is_that_of_a_new_weight_there() -> None:
    """0.01 of float32 is not 0.01 of float64: what a new weight has is asked anew."""
    model = tiny_model()
    optimizer = torch.optim.Rprop(model.parameters(), lr=0.01)
    sparsifier = sf.Sparsifier(model, optimizer, masked(model), METHODS["rigl"](), seed=0)
    for dtype in (torch.float64, torch.float32):
        model.to(dtype)
        model.zero_grad()
        optimizer.load_state_dict(optimizer.state_dict())
        train_step(model, optimizer, 0)
        sparsifier.check()
        step_size = optimizer.state[model[3].weight]["step_size"]
        assert (step_size[~sparsifier.masks["3.weight"]] == torch.tensor(0.01, dtype=dtype)).all()


# -- a second one, copies --------------------------------------------------------------------------------------------


def test_a_second_sparsifier_on_the_same_weights_is_refused() -> None:
    model, optimizer, sparsifier = made()
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match=r"'0\.weight' is held by another Sparsifier.*Call remove\(\) on that one"):
        sf.Sparsifier(model, optimizer, masked(model, sparsity=0.9), sf.Static(), seed=1)
    assert_same_bits(snapshot(model, optimizer), before)
    sparsifier.remove()
    second = sf.Sparsifier(model, optimizer, masked(model, sparsity=0.9), sf.Static(), seed=1)
    end_of(model, optimizer, second, range(3))


def test_a_sparsifier_that_nobody_keeps_is_there_as_long_as_its_optimizer() -> None:
    model = tiny_model()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    sf.Sparsifier(model, optimizer, masked(model), sf.Static(), seed=0)
    gc.collect()
    with pytest.raises(ValueError, match="is held by another Sparsifier"):
        sf.Sparsifier(model, optimizer, masked(model), sf.Static(), seed=0)


def test_an_optimizer_that_is_gone_holds_nothing() -> None:
    model, *run = made()
    sparsifier = run.pop()
    masks = dict(sparsifier.masks)
    del sparsifier, run
    gc.disable()
    try:
        optimizer = OPTIMIZERS["adam"](model.parameters())
        again = sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=1)
        end_of(model, optimizer, again, range(2))
    finally:
        gc.enable()
    assert again.step_count == 2


def test_disjoint_weights_of_one_optimizer_may_have_two_sparsifiers() -> None:
    model = tiny_model()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    masks = masked(model)
    first = sf.Sparsifier(model, optimizer, {"0.weight": masks["0.weight"]}, METHODS["rigl"](), seed=0)
    second = sf.Sparsifier(model, optimizer, {"3.weight": masks["3.weight"]}, METHODS["set"](), seed=0)
    for step in range(5):
        train_step(model, optimizer, step)
        first.check(), second.check()
    assert [int(s.masks[name].sum()) for s, name in ((first, "0.weight"), (second, "3.weight"))] == [8, 144]
    assert all(
        not torch.equal(sparsifier.masks[name], masks[name])
        for sparsifier in (first, second)
        for name in sparsifier.masks
    )


@pytest.mark.parametrize("method", METHODS)
def test_model_optimizer_and_sparsifier_are_copied_together(method: str) -> None:
    """Oracle: the original, trained on with the same batches."""
    run = made(method)
    end_of(*run, range(3))
    twin = copy.deepcopy(run)
    assert_same_bits(end_of(*twin, range(3, 9)), end_of(*run, range(3, 9)))


def test_a_copy_of_model_and_optimizer_alone_does_not_train_densely() -> None:
    model, optimizer, sparsifier = made()
    train_step(model, optimizer, 0)
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    loss_of(twin, 1).backward()
    with pytest.raises(RuntimeError, match=r"the copy has no Sparsifier"):
        twin_optimizer.step()
    state = sparsifier.state_dict()
    own = sf.Sparsifier(twin, twin_optimizer, sparsifier.masks, METHODS["rigl"](), seed=0, state=state)
    assert_same_bits(end_of(twin, twin_optimizer, own, range(1, 6)), end_of(model, optimizer, sparsifier, range(1, 6)))


def test_after_remove_an_optimizer_is_copied_as_ever() -> None:
    model, optimizer, sparsifier = made()
    sparsifier.remove()
    assert type(optimizer.defaults) is dict
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    train_step(twin, twin_optimizer, 0)


def test_a_sparsifier_is_not_pickled() -> None:
    with pytest.raises(TypeError, match=r"cannot be pickled. Save sparsifier.state_dict\(\)"):
        copy.copy(made()[2])


# -- masks of another time -------------------------------------------------------------------------------------------


def test_check_refuses_masks_of_another_time() -> None:
    model, optimizer, sparsifier = made()
    first = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    sf.check(model, optimizer, first)
    for step in range(2):
        train_step(model, optimizer, step)
    with pytest.raises(ValueError, match=r"is not the one that its Sparsifier holds now.*sparsifier.masks"):
        sf.check(model, optimizer, first)


def test_check_says_what_it_looked_at() -> None:
    model, optimizer, sparsifier = made()
    assert sparsifier.check() == (3, 0, 1, ())
    train_step(model, optimizer, 0)
    train_step(model, optimizer, 1)
    train_step(model, optimizer, 2)
    assert str(sparsifier.check()) == "3 weights, 6 optimizer state tensors, 1 rank(s): all hold"


# -- several optimizers ----------------------------------------------------------------------------------------------


def halves(model: nn.Module, optimizer: str) -> list[torch.optim.Optimizer]:
    parameters = list(model.parameters())
    return [OPTIMIZERS[optimizer](part) for part in (parameters[:2], parameters[2:])]


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov", "adam"])
@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("method", [*METHODS, "replaces_step"])
def test_two_optimizers_equal_one(method: str, clips: bool, optimizer: str) -> None:
    """Oracle: one optimizer of the same kind over all parameters, to the bit."""
    make = METHODS.get(method, lambda: sf.RigL(update_every=2, schedule="constant", replaces_step=True))
    ends = []
    for several in (False, True):
        model = tiny_model()
        optimizers = halves(model, optimizer) if several else [OPTIMIZERS[optimizer](model.parameters())]
        masks = sf.dense_masks(model) if method == "gmp" else masked(model)
        sparsifier = sf.Sparsifier(model, optimizers if several else optimizers[0], masks, make(), seed=0)
        for step in range(8):
            model.zero_grad()
            loss_of(model, step).backward()
            if clips:
                sparsifier.mask_gradients_()
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            for each in reversed(optimizers) if step % 2 else optimizers:
                each.step()
            sparsifier.check()
        parameters = [parameter.detach() for parameter in model.parameters()]
        state = sparsifier.state_dict()
        ends.append([*parameters, *sparsifier.masks.values(), torch.tensor(state["step_count"])])
    assert_same_bits(*ends)


def test_a_step_is_counted_when_all_have_stepped_or_one_steps_again() -> None:
    model = tiny_model()
    first, second = halves(model, "momentum")
    sparsifier = sf.Sparsifier(model, [first, second], masked(model), METHODS["rigl"](), seed=0)
    counts = []
    for each in (first, second, first, first, second, second):
        loss_of(model, 0).backward()
        each.step()
        counts.append(sparsifier.step_count)
        sparsifier.check()
    assert counts == [0, 1, 1, 2, 3, 3]


def test_a_weight_of_two_optimizers_is_refused() -> None:
    model = tiny_model()
    optimizers = [OPTIMIZERS["momentum"](model.parameters()) for _ in range(2)]
    with pytest.raises(ValueError, match=r"2 of the optimizers hold '0\.weight'"):
        sf.Sparsifier(model, optimizers, masked(model), sf.Static(), seed=0)


def test_two_optimizers_resume() -> None:
    model = tiny_model()
    optimizers = halves(model, "adam")
    sparsifier = sf.Sparsifier(model, optimizers, masked(model), METHODS["set"](), seed=0)

    def train(steps: range, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> list[Tensor]:
        for step in steps:
            model.zero_grad()
            loss_of(model, step).backward()
            for each in optimizers:
                each.step()
        return [parameter.detach().clone() for parameter in model.parameters()]

    train(range(5), model, optimizers)
    saved = copy.deepcopy([part.state_dict() for part in (model, *optimizers, sparsifier)])
    expected = train(range(5, 9), model, optimizers)
    twin = tiny_model(seed=1)
    stepped = halves(twin, "adam")
    for part, state in zip((twin, *stepped), saved, strict=False):
        part.load_state_dict(state)
    own = sf.Sparsifier(twin, stepped, masked(twin), METHODS["set"](), seed=1)
    own.load_state_dict(saved[-1])
    assert_same_bits(train(range(5, 9), twin, stepped), expected)


# -- the learning rate's peak ----------------------------------------------------------------------------------------

SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=301),
    "warm-up": lambda o: torch.optim.lr_scheduler.LinearLR(o, start_factor=0.1, total_iters=100),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=300),
    "cyclic": lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=60, cycle_momentum=False),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_drop_share_follows_the_learning_rate_whatever_is_made_first(scheduler: str) -> None:
    """Oracle: 0.3 of 1000 active weights, times the rate over the largest rate so far or announced."""
    announced = 0.0 if scheduler == "cyclic" else 0.1
    moved = []
    for first in ("sparsifier", "scheduler"):
        layer = nn.Linear(100, 100)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        schedule = SCHEDULERS[scheduler](optimizer) if first == "scheduler" else None
        method = sf.SET(update_every=50, regrow=False)
        sparsifier = sf.Sparsifier(layer, optimizer, sf.random_masks(layer, 0.9, seed=0), method, seed=0)
        counts, expected, rates = [], [], [announced]
        sparsifier.after_update.append(lambda step, changes, to=counts: to.append(int(changes["weight"].dropped.sum())))
        schedule = schedule or SCHEDULERS[scheduler](optimizer)
        for step in range(1, 301):
            optimizer.zero_grad()
            layer(torch.randn(8, 100)).square().mean().backward()
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if step % 50 == 0:
                expected.append(300 * rates[-1] / max(rates))
            schedule.step()
        moved.append(counts)
        assert counts == pytest.approx(expected, abs=1)
    assert moved[0] == moved[1]


def test_a_late_group_shrinks_by_its_own_peak() -> None:
    model = nn.Sequential(nn.Linear(20, 20, bias=False), nn.Linear(20, 20, bias=False))
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    model[1].requires_grad_(False)
    method = sf.SET(drop_fraction=0.5, update_every=1, regrow=False)
    sparsifier = sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.75, seed=0), method, seed=0)
    model[1].requires_grad_(True)
    optimizer.add_param_group({"params": list(model[1].parameters()), "lr": 0.01})
    moved: list[list[int]] = []
    sparsifier.after_update.append(lambda step, changes: moved.append([int(c.dropped.sum()) for c in changes.values()]))
    for rate in (0.01, 0.005):
        optimizer.param_groups[1]["lr"] = rate
        model(torch.ones(1, 20)).sum().backward()
        optimizer.step()
        sparsifier.check()
    assert moved == [[50, 50], [50, 25]]
