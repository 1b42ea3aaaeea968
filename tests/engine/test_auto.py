"""compile_sparse: the same function, no side effects, the cheapest mix by brute force, and a table that is true.

No test depends on which form is faster on the machine: where that matters, the measured times are replaced.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.engine.convert import convert, sparse_layers
from sparseflow.engine.speed import auto, timing
from sparseflow.engine.speed.auto import best_mix, compile_sparse
from sparseflow.engine.speed.table import LayerSpeed, SpeedTable
from sparseflow.engine.speed.timing import Costs, cheapest, settled, watch


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(32, 20),
        nn.ReLU(),
        nn.Linear(20, 5),
    )


WEIGHTS = ["0.weight", "4.weight", "8.weight", "10.weight"]


def masked(model: nn.Module, *, sparsity: float = 0.8) -> nn.Module:
    return sf.apply_masks_(model, sf.random_masks(model, sparsity, seed=0))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[tuple[float, float]], tuple[float, float]], None]:
    """Set what is measured: (dense, sparse) seconds of each layer in turn, and of the whole model."""

    def set_to(layers: Sequence[tuple[float, float]], whole: tuple[float, float]) -> None:
        turns = iter(layers)

        def fixed(steps: Sequence[Callable[[], object]], *, seconds: float) -> list[float]:
            for step in steps:
                step()
            return [*next(turns)] * (len(steps) // 2)

        monkeypatch.setattr(timing, "medians", fixed)
        monkeypatch.setattr(auto, "medians", lambda steps, *, seconds: [*whole])

    return set_to


# -- the choice ------------------------------------------------------------------------------------------------------

seconds = st.floats(0, 10)
costs = st.lists(st.tuples(st.tuples(seconds, seconds), st.tuples(seconds, seconds)), max_size=6)


@given(costs)
def test_the_mix_is_the_cheapest_of_all(chain: list[Costs]) -> None:
    def total(mix: Sequence[bool]) -> float:
        return sum(cost[before][own] for cost, before, own in zip(chain, [False, *mix], mix, strict=False))

    chosen = cheapest(chain)
    assert len(chosen) == len(chain)
    assert total(chosen) == pytest.approx(
        min(total(mix) for mix in itertools.product([False, True], repeat=len(chain)))
    )


def test_the_table_has_the_times_of_the_chosen_mix() -> None:
    chain: list[Costs] = [((3.0, 1.0), (30.0, 10.0)), ((5.0, 7.0), (6.0, 2.0)), ((1.0, 3.0), (2.0, 4.0))]
    assert cheapest(chain) == [True, True, False]
    assert settled(chain, [True, True, False]) == [(3.0, 1.0), (5.0, 2.0), (1.0, 4.0)]


def alone(dense: float, sparse: float) -> Costs:
    return (dense, sparse), (dense, sparse)


def test_layers_that_do_not_pay_their_toll_leave() -> None:
    # Promised: 8 + 1 + 4 = 13. Kept: 20 - 19 = 1, so the toll is 12 / 3 = 4, and only "a" saves more.
    costs = {"a": alone(9.0, 1.0), "b": alone(3.0, 2.0), "c": alone(5.0, 1.0), "d": alone(1.0, 2.0)}
    measured: list[list[str]] = []

    def measure(names: list[str]) -> tuple[float, float]:
        measured.append(names)
        return 20.0, {4: 20.5, 3: 19.0, 1: 16.0}[len(names)]

    assert best_mix(costs, measure) == (["a"], (20.0, 16.0))
    assert measured == [["a", "b", "c"], ["a"], ["a", "b", "c", "d"]]


def test_all_layers_together_are_tried() -> None:
    costs = {"a": alone(9.0, 1.0), "b": alone(1.0, 2.0)}
    assert best_mix(costs, lambda names: (20.0, 12.0 / len(names))) == (["a", "b"], (20.0, 6.0))


@pytest.mark.parametrize("kept", [13.0, 11.0])
def test_a_mix_that_keeps_its_promise_stays(kept: float) -> None:
    costs = {"a": alone(9.0, 1.0), "b": alone(3.0, 2.0), "c": alone(5.0, 1.0)}
    assert best_mix(costs, lambda names: (20.0, 20.0 - kept)) == (["a", "b", "c"], (20.0, 20.0 - kept))


@given(costs, st.data())
def test_a_search_ends_with_the_best_that_it_saw(chain: list[Costs], data: st.DataObject) -> None:
    seen = {}

    def measure(names: list[str]) -> tuple[float, float]:
        assert tuple(names) not in seen
        seen[tuple(names)] = 1.0, data.draw(st.floats(0.1, 10))
        return seen[tuple(names)]

    mix, whole = best_mix({str(number): cost for number, cost in enumerate(chain)}, measure)
    assert bool(chain) == bool(mix) == (whole is not None)
    assert whole is None or whole[1] == min(sparse for _, sparse in seen.values())


# -- the measuring ---------------------------------------------------------------------------------------------------


def test_layers_are_watched_with_the_strides_that_they_meet() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    sparse = convert(model, {name: torch.ones_like(p).bool() for name, p in model.named_parameters() if p.dim() > 1})
    layers = sparse_layers(sparse)
    calls = watch(timing.model_step(sparse, (torch.zeros(5, 4),), backward=True), layers)
    assert list(calls) == ["0.weight", "2.weight"]
    assert calls["0.weight"].x.stride() == (4, 1)
    assert calls["2.weight"].x.stride() == (6, 1)  # rows, as the layer before was given them
    assert [calls[name].needs_gradient for name in calls] == [False, True]
    last = calls["2.weight"].gradient
    assert last is not None
    assert last.tolist() == [[1.0] * 3] * 5
    assert all(not layer._forward_hooks for layer in layers.values())


def test_a_layer_called_twice_counts_twice(clock: Callable[..., None]) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.tanh(self.layer(x)))  # type: ignore[no-any-return]

    clock([(3.0, 1.0)], (6.0, 3.0))
    _, table = compile_sparse(masked(Twice()), torch.zeros(2, 6))
    assert (table.layers[0].dense_seconds, table.layers[0].sparse_seconds) == (6.0, 2.0)


@pytest.mark.parametrize("backward", [True, False])
def test_the_steps_do_what_is_timed(backward: bool) -> None:
    model = network()
    seen: list[bool] = []
    model[8].register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    timing.model_step(model, (torch.randn(4, 1, 8, 8),), backward=backward)()
    assert seen == [backward]
    assert all(parameter.grad is None for parameter in model.parameters())


# -- the whole -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("faster", list(itertools.product([False, True], repeat=4)))
def test_any_mix_is_the_same_function(clock: Callable[..., None], faster: tuple[bool, ...], backward: bool) -> None:
    model = masked(network()).double().eval()
    clock([(2.0, 1.0) if wins else (1.0, 2.0) for wins in faster], (2.0, 1.0))
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    mixed, table = compile_sparse(model, x, backward=backward)
    # Where no layer is faster alone, all are tried together.
    chosen = faster if any(faster) else (True,) * 4
    assert list(sparse_layers(mixed)) == [name for name, wins in zip(WEIGHTS, chosen, strict=True) if wins]
    assert [layer.is_sparse for layer in table.layers] == list(chosen)
    torch.testing.assert_close(mixed(x), model(x))
    assert table.dtype == "float64"


@pytest.mark.parametrize("backward", [True, False])
def test_nothing_of_the_given_model_changes(backward: bool) -> None:
    model = masked(network()).train()
    model(torch.randn(4, 1, 8, 8)).sum().backward()
    before = copy.deepcopy(model.state_dict())
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    x = torch.randn(4, 1, 8, 8)
    kept, random_state, threads = x.clone(), torch.get_rng_state(), torch.get_num_threads()
    fast, _ = compile_sparse(model, x, backward=backward, seconds=0.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(x, kept)
    assert x.grad is None
    assert torch.get_num_threads() == threads
    assert model.training
    assert fast.training
    # The result too begins where the model was, not where measuring ended.
    assert torch.equal(fast[1].running_mean, model[1].running_mean)
    assert all(parameter.grad is None for parameter in fast.parameters())
    assert not any(module._forward_hooks for module in (*model.modules(), *fast.modules()))


def test_a_slower_whole_stays_dense_and_says_so(clock: Callable[..., None]) -> None:
    clock([(2.0, 1.0)] * 4, (3.0, 3.5))
    fast, table = compile_sparse(masked(network()), torch.randn(4, 1, 8, 8))
    assert not sparse_layers(fast)
    assert not any(layer.is_sparse for layer in table.layers)
    assert (table.dense_seconds, table.sparse_seconds, table.speedup) == (3.0, 3.5, pytest.approx(3 / 3.5))
    assert table.verdict() == ("Some layers are faster sparse, but not the model with them as a whole; it stays dense.")
    assert all(cells[-1] == "dense" for cells in table.cells()[1:-1])


def test_where_dense_wins_everywhere_nothing_is_converted(clock: Callable[..., None]) -> None:
    clock([(1.0, 2.0)] * 4, (4.0, 8.0))
    fast, table = compile_sparse(masked(network()), torch.randn(4, 1, 8, 8))
    assert not sparse_layers(fast)
    assert table.speedup == 0.5
    assert table.verdict() == "Dense is faster in every layer; the model stays dense."


def test_layers_that_cannot_be_sparse_are_named_with_the_reason(clock: Callable[..., None]) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused, self.full = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
            self.cubes = nn.Conv3d(1, 1, 2, bias=False)

        def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
            y = self.used(x)
            return {"out": [self.full(y), self.cubes(y.view(-1, 1, 2, 2, 2))]}

    model = Branches()
    masks = {**sf.random_masks(model, 0.5, seed=0), "full.weight": torch.ones(2, 8).bool()}
    clock([(2.0, 1.0)], (2.0, 1.0))
    fast, table = compile_sparse(model, torch.randn(4, 8), masks=masks)
    assert list(sparse_layers(fast)) == ["used.weight"]
    assert {layer.name: layer.reason for layer in table.layers} == {
        "used.weight": None,
        "unused.weight": "the example does not reach it",
        "full.weight": "it has no zeros",
        "cubes.weight": "no sparse form of Conv3d",
    }


def test_a_model_without_zeros_stays_as_it_is() -> None:
    model = network()
    fast, table = compile_sparse(model, torch.randn(4, 1, 8, 8))
    assert not sparse_layers(fast)
    assert table.verdict() == "No layer can be sparse here; the model stays dense."
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in fast.state_dict().items())


def test_a_sparse_model_is_measured_anew(clock: Callable[..., None]) -> None:
    model = masked(network()).eval()
    sparse = convert(model, {name: model.get_parameter(name) != 0 for name in WEIGHTS})
    clock([(1.0, 2.0), (2.0, 1.0), (2.0, 1.0), (1.0, 2.0)], (2.0, 1.0))
    x = torch.randn(4, 1, 8, 8)
    mixed, table = compile_sparse(sparse, (x,))
    assert list(sparse_layers(mixed)) == ["4.weight", "8.weight"]
    assert [layer.name for layer in table.layers] == WEIGHTS
    torch.testing.assert_close(mixed(x), model(x))


def test_an_input_that_the_model_writes_into_is_kept() -> None:
    x = torch.full((4, 6), -1.0)
    compile_sparse(masked(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 2))), x, seconds=0.0)
    assert torch.equal(x, torch.full((4, 6), -1.0))


def test_frozen_weights_and_models_without_gradients() -> None:
    model = masked(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2)))
    model[0].requires_grad_(False)
    x = torch.randn(4, 16)
    fast, _ = compile_sparse(model, x, seconds=0.0)
    torch.testing.assert_close(fast(x), model(x))
    assert sum(p.requires_grad for p in fast.parameters()) == 2
    model.requires_grad_(False)
    fast, _ = compile_sparse(model, x, seconds=0.0)
    torch.testing.assert_close(fast(x), model(x))


@pytest.mark.parametrize("example", [None, 3.0, (), ("tokens",), torch.tensor(1.0)])
def test_an_example_without_a_batch_is_refused(example: Any) -> None:
    with pytest.raises(ValueError, match="the example must be a batch of inputs or a tuple with one, got "):
        compile_sparse(masked(network()), example)


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="masks has 'x', which is no weight"):
        compile_sparse(network(), torch.randn(4, 1, 8, 8), masks={"x": torch.ones(1).bool()})
    with pytest.raises(ValueError, match="has no prunable weight"):
        compile_sparse(nn.ReLU(), torch.randn(4, 1))


# -- the table -------------------------------------------------------------------------------------------------------


def layer(name: str, shape: tuple[int, ...], num_active: int, *times: float, **rest: Any) -> LayerSpeed:
    both = dict(zip(("dense_seconds", "sparse_seconds"), times, strict=True)) if times else {}
    return LayerSpeed(name=name, shape=shape, num_active=num_active, **both, **rest)


TABLE = SpeedTable(
    layers=(
        layer("conv1.weight", (6, 1, 5, 5), 8, 2.86e-3, 1.43e-3, is_sparse=True),
        layer("fc1.weight", (120, 256), 1536, 31.4e-6, 62.8e-6),
        layer("fc2.weight", (84, 120), 504, 2e-6, 1e-6),
        layer("attention.in_proj_weight", (30, 10), 15, reason="no sparse form of in_proj_weight"),
    ),
    dense_seconds=13.1e-3,
    sparse_seconds=1.31e-3,
    batch=128,
    threads=1,
    backward=True,
    dtype="float32",
)  # fmt: skip


def test_the_table_as_people_read_it() -> None:
    assert str(TABLE).splitlines() == [
        "layer                     weight   active  density  dense ms  sparse ms  speed-up",
        "conv1                     6x1x5x5       8    0.053      2.86       1.43     2.00x  sparse",
        "fc1                       120x256    1536    0.050    0.0314     0.0628     0.50x  dense",
        "fc2                       84x120      504    0.050    0.0020     0.0010     2.00x  dense*",
        "attention.in_proj_weight  30x10        15    0.050         -          -         -  dense",
        "whole model                          2063    0.050      13.1       1.31     10.0x",
        "",
        "forward + backward, batch 128, 1 thread, float32",
        "Sparse is 10.0 times as fast as dense, over the whole model. Faster dense, and left so: fc1.",
        "* Against its own times: in the other form, the layers around it would lose more.",
        "Not timed, dense: attention.in_proj_weight (no sparse form of in_proj_weight).",
    ]


def test_the_table_as_programs_read_it() -> None:
    values = json.loads(json.dumps(TABLE.to_dict()))
    assert values["speedup"] == pytest.approx(10.0)
    assert values["layers"][0]["shape"] == [6, 1, 5, 5]
    assert values["layers"][3]["dense_seconds"] is None
    assert values["threads"] == 1
