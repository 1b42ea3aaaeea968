"""Rewinding, controls and iterative pruning: bit for bit against products and loops by hand, and against chance."""

from __future__ import annotations

import copy
import functools
import itertools
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import sparseflow as sf
from sparseflow import tickets
from sparseflow.types import BrokenPromiseError
from tiny import OPTIMIZERS, SIZES, loss_of, masked, snapshot, states, tiny_model, train_step

#: All statistical tests have fixed seeds; with others, each would fail once in a million times.
FALSE_ALARM = 1e-6


def network() -> nn.Sequential:
    """With batch norm whose every tensor is away from its default."""
    model = nn.Sequential(nn.Linear(20, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 5))
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 2.0).mul_(torch.randint(0, 2, value.shape) * 2 - 1)
    model[1].num_batches_tracked.fill_(7)
    return model


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def scramble(model: nn.Module) -> None:
    for value in model.state_dict().values():
        value.fill_(3)


# --- snapshot and rewind ----------------------------------------------------------------------------------------------


def test_a_snapshot_is_a_copy_of_parameters_and_buffers() -> None:
    model = network()
    before = values(model)
    state = tickets.snapshot(model)
    scramble(model)
    assert same(state, before)
    assert list(state) == list(model.state_dict())
    assert not any(value.requires_grad for value in state.values())


def test_a_ticket_at_step_0_is_the_start_times_the_mask() -> None:
    """Protocol K.9: bit for bit; what has no mask comes back whole, and no zero has a sign."""
    model = network()
    masks = sf.random_masks(model, 0.8, seed=0, exclude=["3.weight"])
    before = values(model)
    start = tickets.snapshot(model)
    scramble(model)
    assert tickets.rewind_(model, start, masks) is model
    assert torch.equal(model[0].weight, before["0.weight"] * masks["0.weight"])
    assert not model[0].weight[~masks["0.weight"]].signbit().any()
    for name in ("0.bias", "1.weight", "1.bias", "3.weight", "3.bias"):
        assert torch.equal(model.get_parameter(name), before[name])
    assert same(start, before)


@pytest.mark.parametrize("how", ["reset", "load"])
def test_running_statistics_start_anew_or_come_along(how: str) -> None:
    """Protocol E: gamma and beta are loaded from step K, moving statistics are not."""
    model = network()
    start, masks = tickets.snapshot(model), sf.random_masks(model, 0.5, seed=0)
    scramble(model)
    tickets.rewind_(model, start, masks, running_statistics=how)
    norm = model[1]
    assert torch.equal(norm.weight, start["1.weight"])
    if how == "load":
        assert all(torch.equal(buffer, start[f"1.{name}"]) for name, buffer in norm.named_buffers())
    else:
        assert norm.running_mean.tolist() == [0.0] * 10
        assert norm.running_var.tolist() == [1.0] * 10
        assert int(norm.num_batches_tracked) == 0


def test_other_buffers_come_from_the_state() -> None:
    """Random features that are drawn once are part of the network, not a statistic."""
    model = nn.Sequential(nn.Linear(4, 3))
    model.register_buffer("features", torch.randn(4))
    start, features = tickets.snapshot(model), model.features.clone()
    model.features.zero_()
    tickets.rewind_(model, start, {})
    assert torch.equal(model.features, features)


def test_infinite_and_missing_numbers_are_masked_too() -> None:
    model = nn.Linear(3, 1)
    state = tickets.snapshot(model) | {"weight": torch.tensor([[float("nan"), float("inf"), 2.0]])}
    tickets.rewind_(model, state, {"weight": torch.tensor([[False, False, True]])})
    assert model.weight.tolist() == [[0.0, 0.0, 2.0]]


def test_precision_format_and_tied_weights_of_the_model_stay() -> None:
    model = nn.Sequential(nn.Conv2d(4, 3, 3), nn.Linear(6, 6), nn.Linear(6, 6)).double()
    model[2].weight = model[1].weight
    start = {name: value.float() for name, value in tickets.snapshot(model).items()}
    model = model.to(memory_format=torch.channels_last)
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    masks = sf.random_masks(model, 0.5, seed=0)
    scramble(model)
    tickets.rewind_(model, start, masks)
    assert [parameter.data_ptr() for parameter in model.parameters()] == pointers
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert model[2].weight is model[1].weight
    for name, mask in masks.items():
        assert torch.equal(model.get_parameter(name), start[name].double() * mask)


@pytest.mark.parametrize("wrap", [functools.partial(torch.compile, backend="eager"), nn.DataParallel])
def test_names_have_no_prefix_of_a_wrapper(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = network()
    masks, plain = sf.random_masks(model, 0.5, seed=0), tickets.snapshot(model)
    wrapped = wrap(model)
    assert same(tickets.snapshot(wrapped), plain)
    scramble(model)
    tickets.rewind_(wrapped, plain, masks)
    assert torch.equal(model[0].weight, plain["0.weight"] * masks["0.weight"])


class WithExtraState(nn.Linear):
    def get_extra_state(self) -> object:
        return {"calls": 1}

    def set_extra_state(self, state: object) -> None:
        self.extra = state


def test_what_modules_add_to_their_state_dict_is_no_hindrance() -> None:
    model = WithExtraState(2, 1)
    start = tickets.snapshot(model)
    assert list(start) == ["weight", "bias"]
    tickets.rewind_(model, start, {})
    tickets.rewind_(model, copy.deepcopy(model.state_dict()), {})
    assert model.extra == {"calls": 1}


# --- a fresh optimizer ------------------------------------------------------------------------------------------------


def run(model: nn.Module, optimizer: torch.optim.Optimizer, masks: sf.Masks, *, first: int) -> None:
    """Four steps of a cosine that ends at 0."""
    sparsifier = sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    for step in range(first, first + 4):
        train_step(model, optimizer, step)
        schedule.step()
    sparsifier.remove()


MAKE = OPTIMIZERS | {"tensor_rate": functools.partial(torch.optim.Adam, lr=torch.tensor(0.01))}


@pytest.mark.parametrize("name", MAKE)
def test_a_rewound_optimizer_is_as_good_as_new(name: str) -> None:
    """Two runs with one optimizer, the second rewound, end as one run with a new model and a new optimizer."""
    make = (
        (lambda parameters: torch.optim.Adam(parameters, lr=torch.tensor(0.01)))
        if name == "tensor_rate"
        else MAKE[name]
    )
    model, new = tiny_model(), tiny_model()
    start, masks = tickets.snapshot(model), masked(model)
    optimizer, fresh = make(model.parameters()), make(new.parameters())
    run(model, optimizer, masked(model, seed=1), first=0)
    assert any(value.any() for p in model.parameters() for value in states(optimizer, p)) or name == "sgd"
    assert float(optimizer.param_groups[0]["lr"]) == 0
    tickets.rewind_(model, start, masks, optimizer=optimizer)
    assert all(parameter.grad is None for parameter in model.parameters())
    run(model, optimizer, masks, first=10)
    run(new, fresh, masks, first=10)
    for a, b in zip(snapshot(model, optimizer), snapshot(new, fresh), strict=True):
        assert torch.equal(a, b)


def test_without_a_reset_a_new_cosine_stays_at_zero() -> None:
    """The trap that reset_optimizer_ is there for."""
    optimizer = torch.optim.SGD(tiny_model().parameters(), lr=0.1)

    def rates() -> list[float]:
        """At the beginning, the middle and the end of a cosine of two steps."""
        schedule, found = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2), [optimizer.param_groups[0]["lr"]]
        for _ in range(2):
            optimizer.step()
            schedule.step()
            found.append(optimizer.param_groups[0]["lr"])
        return found

    cosine = pytest.approx([0.1, 0.05, 0.0], rel=1e-12)
    assert rates() == cosine
    assert rates() == [0.0, 0.0, 0.0]
    assert tickets.reset_optimizer_(optimizer) is optimizer
    assert rates() == cosine


def test_learning_rates_without_a_scheduler_stay_each_its_own() -> None:
    model = tiny_model()
    groups = [{"params": model[0].parameters(), "lr": 0.3}, {"params": model[3].parameters()}]
    optimizer = tickets.reset_optimizer_(torch.optim.SGD(groups, lr=0.1))
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.1]


def test_the_optimizer_inside_a_wrapper_is_reset() -> None:
    class Wrapper:
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train_step(model, optimizer, 0)
    tickets.rewind_(model, tickets.snapshot(model), {}, optimizer=Wrapper(optimizer))  # type: ignore[arg-type]
    assert not optimizer.state


# --- controls: each changes what it says, and only that ---------------------------------------------------------------


def test_shuffled_masks_keep_counts_and_move() -> None:
    model = tiny_model()
    masks = masked(model)
    before = {name: mask.clone() for name, mask in masks.items()}
    shuffled = tickets.shuffle_masks(masks, seed=0)
    assert same(masks, before)
    assert shuffled.keys() == masks.keys()
    for name, mask in shuffled.items():
        assert mask.dtype == torch.bool
        assert mask.shape == masks[name].shape
        assert int(mask.sum()) == int(masks[name].sum())
    # 144 of 480 positions: the chance of no move is 1 / C(480, 144) < 1e-125.
    assert not torch.equal(shuffled["3.weight"], masks["3.weight"])
    # The overlap of two random masks of density 0.3 is hypergeometric.
    overlap = int((shuffled["3.weight"] & masks["3.weight"]).sum())
    law = stats.hypergeom(480, 144, 144)
    assert law.ppf(FALSE_ALARM / 2) <= overlap <= law.ppf(1 - FALSE_ALARM / 2)


def test_shuffled_masks_are_uniform() -> None:
    """All ten masks of 2 in 5 are equally likely: chi-squared with 9 degrees of freedom over 5000 seeds."""
    mask = torch.tensor([True, True, False, False, False])
    drawn = Counter(tuple(tickets.shuffle_masks({"w": mask}, seed=s)["w"].tolist()) for s in range(5000))
    assert len(drawn) == 10
    assert stats.chisquare(list(drawn.values())).pvalue > FALSE_ALARM


def test_shuffled_masks_keep_the_memory_format() -> None:
    mask = (torch.arange(4 * 3 * 3 * 3).view(4, 3, 3, 3) % 2 == 0).to(memory_format=torch.channels_last)
    shuffled = tickets.shuffle_masks({"w": mask}, seed=0)["w"]
    assert shuffled.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(shuffled, tickets.shuffle_masks({"w": mask.contiguous()}, seed=0)["w"])


CONTROLS: dict[str, Callable[..., nn.Module]] = {
    "shuffle_weights": functools.partial(tickets.shuffle_weights_, seed=0),
    "keep_signs": tickets.keep_signs_,
    "perturb": functools.partial(tickets.perturb_, relative_std=0.5, seed=0),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_changes_active_weights_and_nothing_else(name: str) -> None:
    model = network()
    masks = sf.random_masks(model, 0.5, seed=0, exclude=["3.weight"])
    sf.apply_masks_(model, masks)
    before, state = values(model), torch.get_rng_state()
    assert CONTROLS[name](model, masks) is model
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"0.weight"}
    sf.check(model, None, masks)
    # Of 100 continuous values, a permutation leaves 20 in their place with chance below 1 / 20! < 1e-18.
    assert int((model[0].weight != before["0.weight"]).sum()) > 80
    assert torch.equal(torch.get_rng_state(), state)


def test_shuffled_weights_are_a_permutation() -> None:
    """Of 144 values: the chance that none moves is 1 / 144! < 1e-249."""
    model = tiny_model()
    masks = masked(model)
    sf.apply_masks_(model, masks)
    before = values(model)
    tickets.shuffle_weights_(model, masks, seed=0)
    for name, mask in masks.items():
        old, new = before[name][mask], model.get_parameter(name).detach()[mask]
        assert torch.equal(old.sort().values, new.sort().values)
        assert not torch.equal(old, new)


def test_shuffled_weights_are_in_every_order_equally_often() -> None:
    """The 24 orders of 4 active weights: chi-squared with 23 degrees of freedom over 2400 seeds."""
    layer, mask = nn.Linear(6, 1), torch.tensor([[True, False, True, True, False, True]])
    drawn: Counter[tuple[float, ...]] = Counter()
    for seed in range(2400):
        layer.weight.data.copy_(torch.tensor([[1.0, 0.0, 2.0, 3.0, 0.0, 4.0]]))
        tickets.shuffle_weights_(layer, {"weight": mask}, seed=seed)
        drawn[tuple(layer.weight[mask].tolist())] += 1
    assert drawn.keys() == set(itertools.permutations([1.0, 2.0, 3.0, 4.0]))
    assert stats.chisquare(list(drawn.values())).pvalue > FALSE_ALARM


def test_signs_by_hand() -> None:
    # Norm 13 over three weights; the active zero stays, and the weight off the mask is not looked at.
    layer = nn.Linear(5, 1)
    layer.weight.data.copy_(torch.tensor([[3.0, -4.0, 12.0, 0.0, 99.0]]))
    tickets.keep_signs_(layer, {"weight": torch.tensor([[True, True, True, True, False]])})
    magnitude = 13 / 3**0.5
    assert layer.weight.tolist() == [pytest.approx([magnitude, -magnitude, magnitude, 0.0, 99.0], rel=1e-6)]  # float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_signs_keep_the_norm_of_each_layer(dtype: torch.dtype) -> None:
    """Half precision would overflow in the squares of 300, and lose those of 1e-4."""
    model = tiny_model(dtype=dtype)
    model[3].weight.data *= 1000
    model[5].weight.data *= 1e-3
    masks = masked(model)
    sf.apply_masks_(model, masks)
    before = {name: model.get_parameter(name).double().norm().item() for name in masks}
    tickets.keep_signs_(model, masks)
    for name, mask in masks.items():
        weight = model.get_parameter(name).double()
        # The one magnitude is rounded to the weight's precision, 1e-3 in half precision.
        assert weight.norm().item() == pytest.approx(before[name], rel=1e-3 if dtype == torch.float16 else 1e-12)
        assert len(weight[mask].abs().unique()) == 1


def test_noise_is_normal_with_the_spread_asked_for() -> None:
    model = nn.Linear(200, 100)
    masks = sf.random_masks(model, 0.5, seed=0)
    sf.apply_masks_(model, masks)
    before = model.weight.detach()[masks["weight"]]
    moves = []
    for relative_std in (0.5, 2.0):
        noisy = tickets.perturb_(copy.deepcopy(model), masks, relative_std=relative_std, seed=0)
        moves.append((noisy.weight.detach()[masks["weight"]] - before) / (relative_std * before.std(correction=0)))
    # 10,000 draws, Kolmogorov-Smirnov against the standard normal; the same noise for both, up to float32 rounding.
    assert stats.kstest(moves[0].double().numpy(), "norm").pvalue > FALSE_ALARM
    torch.testing.assert_close(moves[0], moves[1], rtol=0, atol=1e-5)


def test_no_noise_changes_nothing() -> None:
    model = tiny_model()
    before = values(model)
    tickets.perturb_(model, masked(model), relative_std=0.0, seed=0)
    assert same(values(model), before)


@pytest.mark.parametrize("name", CONTROLS)
def test_layers_without_or_with_one_active_weight(name: str) -> None:
    """No spread, no order: an empty layer stays empty, and no NaN comes from it."""
    model = nn.Sequential(nn.Linear(3, 1), nn.Linear(3, 1))
    masks = {"0.weight": torch.zeros(1, 3, dtype=torch.bool), "1.weight": torch.tensor([[False, True, False]])}
    sf.apply_masks_(model, masks)
    before = values(model)
    CONTROLS[name](model, masks)
    torch.testing.assert_close(values(model), before, rtol=1e-6, atol=0)  # keep_signs_ takes a root of a square


def test_seeds_and_layers_have_streams_of_their_own() -> None:
    model = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30))
    ones = sf.dense_masks(model)
    half = {name: torch.arange(900).view(30, 30) < 450 for name in ones}
    first, again, other = (tickets.shuffle_masks(half, seed=seed) for seed in (0, 0, 1))
    assert same(first, again)
    assert not torch.equal(first["0.weight"], first["1.weight"])
    assert not torch.equal(first["0.weight"], other["0.weight"])
    alone = tickets.shuffle_masks({"1.weight": half["1.weight"]}, seed=0)
    assert torch.equal(alone["1.weight"], first["1.weight"])
    for control in (tickets.shuffle_weights_, functools.partial(tickets.perturb_, relative_std=1.0)):
        one, two, three = (values(control(copy.deepcopy(model), ones, seed=seed)) for seed in (0, 0, 1))
        assert same(one, two)
        assert not torch.equal(one["0.weight"], three["0.weight"])


# --- iterative pruning ------------------------------------------------------------------------------------------------


def train(model: nn.Module, masks: sf.Masks) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0)
    for step in range(3):
        train_step(model, optimizer, step)
    sparsifier.remove()


def counts(masks: sf.Masks) -> tuple[int, ...]:
    return tuple(int(mask.sum()) for mask in masks.values())


#: A fifth of what is left goes in each of four rounds.
FIFTHS = {"sparsity": 1 - 0.8**4, "rounds": 4}


def test_counts_of_each_round_are_the_closed_form() -> None:
    # 547 weights times 0.8, 0.64, 0.512, 0.4096: 437.6, 350.08, 280.06, 224.05.
    model = tiny_model()
    found = list(tickets.iterative_pruning(model, train, **FIFTHS, rewind_to=tickets.snapshot(model)))
    assert [sum(counts(each.masks)) for each in found] == [547, 438, 350, 280, 224]
    assert [each.sparsity for each in found] == [
        pytest.approx(1 - n / 547, rel=1e-12) for n in (547, 438, 350, 280, 224)
    ]


def test_counts_of_each_layer_are_the_closed_form() -> None:
    # 27: 21.6, 17.28, 13.824, 11.06. 480: 384, 307.2, 245.76, 196.6. 40: 32, 25.6, 20.48, 16.38.
    model = tiny_model()
    found = tickets.iterative_pruning(model, train, **FIFTHS, rewind_to=tickets.snapshot(model), scope="layer")
    by_hand = [tuple(SIZES.values()), (22, 384, 32), (17, 307, 26), (14, 246, 20), (11, 197, 16)]
    assert [counts(each.masks) for each in found] == by_hand


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_each_round_keeps_the_largest_of_what_is_left(scope: str) -> None:
    model = tiny_model()
    found = list(tickets.iterative_pruning(model, train, **FIFTHS, rewind_to=tickets.snapshot(model), scope=scope))
    for before, after in itertools.pairwise(found):
        kept, lost = [], []
        for name, mask in after.masks.items():
            assert not (mask & ~before.masks[name]).any()
            kept.append(before.state[name].abs()[mask])
            lost.append(before.state[name].abs()[before.masks[name] & ~mask])
        layers = [(torch.cat(kept), torch.cat(lost))] if scope == "global" else zip(kept, lost, strict=True)
        assert all(stay.min() > gone.max() for stay, gone in layers)


def test_one_round_is_the_loop_by_hand() -> None:
    model, other = tiny_model(), tiny_model()
    start = tickets.snapshot(model)
    dense, sparse = tickets.iterative_pruning(model, train, sparsity=0.7, rounds=1, rewind_to=start)
    train(other, sf.dense_masks(other))
    assert same(dense.state, values(other))
    masks = sf.magnitude_masks(other, 0.7, scope="global")
    assert same(sparse.masks, masks)
    tickets.rewind_(other, start, masks)
    train(other, masks)
    assert same(sparse.state, values(other))
    assert same(sparse.state, values(model))


class Recorder:
    """Trains, and remembers what each training started from."""

    def __init__(self) -> None:
        self.starts: list[dict[str, Tensor]] = []

    def __call__(self, model: nn.Module, masks: sf.Masks) -> None:
        self.starts.append(values(model))
        train(model, masks)


def times(state: dict[str, Tensor], masks: sf.Masks) -> dict[str, Tensor]:
    return {name: value * masks[name] if name in masks else value for name, value in state.items()}


@pytest.mark.parametrize("mode", ["weights", "late", "learning rate"])
def test_what_each_round_starts_from(mode: str) -> None:
    model, recorder = tiny_model(), Recorder()
    start, late = tickets.snapshot(model), {}

    def train_and_keep(model: nn.Module, masks: sf.Masks) -> None:
        recorder(model, masks)
        late.update({} if late else tickets.snapshot(model))  # as if step K were the last

    rewind_to = {"weights": start, "late": late, "learning rate": None}[mode]
    found = list(tickets.iterative_pruning(model, train_and_keep, **FIFTHS, rewind_to=rewind_to))
    assert same(recorder.starts[0], start)
    for before, after, began in zip(found[:-1], found[1:], recorder.starts[1:], strict=True):
        source = {"weights": start, "late": found[0].state, "learning rate": before.state}[mode]
        assert same(began, times(source, after.masks))


def test_a_training_happens_when_its_result_is_asked_for() -> None:
    model, recorder = tiny_model(), Recorder()
    rounds = tickets.iterative_pruning(model, recorder, **FIFTHS, rewind_to=None)
    assert len(recorder.starts) == 0
    next(rounds)
    assert len(recorder.starts) == 1
    next(rounds)
    assert len(recorder.starts) == 2


def test_zeros_that_are_active_stay_before_those_that_are_not() -> None:
    """A network that training sets to zero loses some of its active positions, and gets none back."""

    def kill(model: nn.Module, masks: sf.Masks) -> None:
        for name in masks:
            model.get_parameter(name).data.zero_()

    layer = nn.Linear(8, 1)
    layer.weight.data.copy_(torch.arange(8.0))

    def largest_last_then_kill(model: nn.Module, masks: sf.Masks) -> None:
        if not masks["weight"].all():
            kill(model, masks)

    found = list(tickets.iterative_pruning(layer, largest_last_then_kill, sparsity=0.75, rounds=2, rewind_to=None))
    # Half of 0..7: the last four. Then all are zero: two of the four are drawn.
    assert found[1].masks["weight"].int().tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]]
    assert int(found[2].masks["weight"].sum()) == 2
    assert not (found[2].masks["weight"] & ~found[1].masks["weight"]).any()


def test_rules_say_what_is_pruned() -> None:
    model = tiny_model()
    options = {"rewind_to": tickets.snapshot(model), "exclude": ["5.*"], "first_layer_dense": True}
    *_, last = tickets.iterative_pruning(model, train, sparsity=0.9, rounds=1, **options)
    assert counts(last.masks) == (48,)
    *_, last = tickets.iterative_pruning(model, train, sparsity=0.9, rounds=1, **options, include=["5.*"])
    assert (list(last.masks), sum(counts(last.masks))) == (["3.weight", "5.weight"], 52)


def test_a_wrapped_model_is_pruned_alike() -> None:
    plain, inner = tiny_model(), tiny_model()
    *_, expected = tickets.iterative_pruning(plain, train, **FIFTHS, rewind_to=tickets.snapshot(plain))
    *_, found = tickets.iterative_pruning(nn.DataParallel(inner), train, **FIFTHS, rewind_to=tickets.snapshot(inner))
    assert same(found.masks, expected.masks)
    assert same(found.state, expected.state)


# --- errors -----------------------------------------------------------------------------------------------------------


def test_states_and_masks_that_do_not_fit() -> None:
    model = network()
    start, masks = tickets.snapshot(model), sf.random_masks(model, 0.5, seed=0)
    scramble(model)
    before = values(model)
    rewind = functools.partial(tickets.rewind_, model)
    with pytest.raises(ValueError, match=r"the state lacks 3.bias, which the model has. Take it with sparseflow.tick"):
        rewind({name: value for name, value in start.items() if name != "3.bias"}, masks)
    with pytest.raises(ValueError, match=r"lacks 0.weight, .*, or give the model's entry of a checkpoint"):
        rewind({"model": start, "step": 3}, masks)
    with pytest.raises(ValueError, match=r"the state has 4.weight, which the model has not: it is of another model"):
        rewind(start | {"4.weight": torch.ones(3)}, masks)
    with pytest.raises(
        ValueError, match=r"the state has '3.weight' of shape \(10, 5\), the model \(5, 10\). Build the"
    ):
        rewind(start | {"3.weight": torch.ones(10, 5)}, masks)
    with pytest.raises(ValueError, match=r"the state's '0.weight' is the model's own tensor, which changes as the mod"):
        rewind(model.state_dict(), masks)
    with pytest.raises(ValueError, match=r"running_statistics must be one of 'reset', 'load', got 'keep'"):
        rewind(start, masks, running_statistics="keep")
    with pytest.raises(ValueError, match=r"masks has '1.weight', which is no weight of the model"):
        rewind(start, {"1.weight": masks["0.weight"]})
    with pytest.raises(ValueError, match=r"the mask of '0.weight' has shape \(5, 10\), its weight \(10, 20\)"):
        rewind(start, {"0.weight": masks["3.weight"]})
    with pytest.raises(TypeError, match=r"the mask of '0.weight' must be a bool tensor, got torch.float32"):
        rewind(start, {"0.weight": masks["0.weight"].float()})
    assert same(values(model), before)


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_check_every_mask_first(name: str) -> None:
    model = network()
    masks, before = sf.random_masks(model, 0.5, seed=0), values(model)
    with pytest.raises(ValueError, match=r"the mask of '3.weight' has shape \(5,\), its weight \(5, 10\)"):
        CONTROLS[name](model, masks | {"3.weight": torch.ones(5, dtype=torch.bool)})
    with pytest.raises(TypeError, match=r"the mask of '3.weight' must be a bool tensor, got torch.float32"):
        CONTROLS[name](model, masks | {"3.weight": torch.ones(5, 10)})
    with pytest.raises(TypeError, match=r"the mask of 'w' must be a bool tensor, got torch.float32"):
        tickets.shuffle_masks({"w": torch.ones(3)}, seed=0)
    assert same(values(model), before)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_noise_that_is_no_noise(value: float) -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=rf"relative_std must be (at least 0|finite), got {value}. 1 is the layer's"):
        tickets.perturb_(model, masked(model), relative_std=value, seed=0)


def test_what_cannot_be_pruned_is_known_before_training() -> None:
    model, recorder = tiny_model(), Recorder()
    prune = functools.partial(tickets.iterative_pruning, model, recorder, rewind_to=None)
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\), got 95. For 95% zeros write 0.95"):
        prune(sparsity=95, rounds=3)
    with pytest.raises(ValueError, match=r"rounds must be at least 1, got 0. One round is one-shot pruning"):
        prune(sparsity=0.5, rounds=0)
    with pytest.raises(ValueError, match=r"scope must be one of 'global', 'layer', got 'network'"):
        prune(sparsity=0.5, rounds=2, scope="network")
    with pytest.raises(ValueError, match=r"leaves 0.547 of 547 weights for 3 layers, and each needs at least one"):
        prune(sparsity=0.999, rounds=2, scope="layer")
    with pytest.raises(ValueError, match=r"'head' in include= or exclude= matches no parameter"):
        prune(sparsity=0.5, rounds=2, exclude=["head"])
    assert recorder.starts == []


def test_training_that_forgets_its_masks_is_an_error() -> None:
    model = tiny_model()

    def forgetful(model: nn.Module, masks: sf.Masks) -> None:
        loss_of(model, 0).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= parameter.grad

    rounds = tickets.iterative_pruning(model, forgetful, sparsity=0.5, rounds=1, rewind_to=tickets.snapshot(model))
    next(rounds)
    with pytest.raises(BrokenPromiseError, match=r"inactive weights of '0.weight' are not zero"):
        next(rounds)


def test_a_state_of_another_model_is_found_after_the_first_training() -> None:
    rounds = tickets.iterative_pruning(tiny_model(), train, sparsity=0.5, rounds=1, rewind_to={})
    next(rounds)
    with pytest.raises(ValueError, match=r"the state lacks 0.weight, 0.bias, 3.weight"):
        next(rounds)
