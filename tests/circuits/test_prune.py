"""Circuits against all subsets of units, against gates worked by hand, and against a circuit that was planted."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from sparseflow.circuits.picture import draw, edges
from sparseflow.circuits.prune import Circuit, gated, learn_gates, mean_activations, places, smallest
from sparseflow.circuits.tasks import TASKS, prompts_of
from sparseflow.data.text import load_text
from sparseflow.networks.decoder import Decoder, Units


class Sums(nn.Module):
    """Eight units, of which two alone matter, and both do."""

    def __init__(self) -> None:
        super().__init__()
        self.units, self.readout = Units(8), nn.Linear(8, 1, bias=False)
        self.readout.weight.data = torch.tensor([[0.0, 3.0, 0.1, 0.0, -0.1, 2.0, 0.05, 0.0]])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.readout(self.units(x))
        return out


@pytest.fixture
def x() -> Tensor:
    return torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) + 1


def off(model: Sums, x: Tensor) -> Tensor:
    """Mean squared distance from what the model itself says."""
    return (model(x) - x @ model.readout.weight.detach().T).square().mean()


def test_gates_by_hand(x: Tensor) -> None:
    model = Sums()
    means = mean_activations(model, [x[:32], x[32:]])
    assert torch.allclose(means["units"], x.mean(0), atol=1e-6)
    gate = torch.tensor([1.0, 0, 0, 0, 0, 1, 0, 0])
    wanted = torch.where(gate.bool(), x, x.mean(0)) @ model.readout.weight.T
    with gated(model, {"units": gate}, means):
        assert torch.allclose(model(x), wanted, atol=1e-5)
    assert torch.equal(model(x), x @ model.readout.weight.T)  # nothing is left behind


def test_the_smallest_of_all_subsets(x: Tensor) -> None:
    model = Sums()
    means = mean_activations(model, [x])
    target = 0.1

    def loss_of(units: tuple[int, ...]) -> float:
        gate = torch.zeros(8).index_fill_(0, torch.tensor(units, dtype=torch.int64), 1.0)
        with gated(model, {"units": gate}, means), torch.no_grad():
            return float(off(model, x))

    subsets = itertools.chain.from_iterable(itertools.combinations(range(8), size) for size in range(9))
    best = next(units for units in subsets if loss_of(units) <= target)
    taus = learn_gates(model, lambda: off(model, x), means, steps=300, penalty=0.5)
    found = smallest(model, lambda: off(model, x), means, taus, target=target, tries=8)
    assert tuple(found.kept["units"].nonzero().flatten().tolist()) == best == (1, 5)
    assert found.loss == pytest.approx(loss_of(best), rel=1e-6)
    assert found.size == 2
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.readout.weight.grad is None


def test_units_that_are_not_needed_are_taken_out(x: Tensor) -> None:
    """Gates in a wrong order: what the cut keeps too much goes one by one."""
    model = Sums()
    means = mean_activations(model, [x])
    taus = {"units": torch.linspace(1, -1, 8)}
    cut = smallest(model, lambda: off(model, x), means, taus, target=0.1)
    assert cut.kept["units"].tolist() == [True] * 6 + [False] * 2
    assert smallest(model, lambda: off(model, x), means, taus, target=0.1, tries=6).size == 2


def test_a_target_that_cannot_be(x: Tensor) -> None:
    model = Sums()
    means = mean_activations(model, [x])
    with pytest.raises(ValueError, match=r"all units together have a loss of 0\.0000, above the target of -1"):
        smallest(model, lambda: off(model, x), means, {"units": torch.zeros(8)}, target=-1.0)


def test_a_circuit_of_a_decoder_counts_its_weights() -> None:
    torch.manual_seed(0)
    model = Decoder(symbols=16, width=8, depth=2, heads=2)
    assert len(places(model)) == 16
    model.blocks[0].widen.weight.data[3, 5] = 0  # type: ignore[union-attr, operator, index]
    kept = {name: torch.zeros(units.count, dtype=torch.bool) for name, units in places(model).items()}
    for place, units in {"mlp_input": [2, 5], "neuron": [3, 9], "mlp_output": [1], "value": [4]}.items():
        kept[f"blocks.0.units.{place}"][units] = True
    circuit = Circuit(kept, 0.0)
    found = {(edge.source[0].rpartition(".")[2], edge.source[1], edge.target[1]) for edge in edges(model, circuit)}
    wanted = {("mlp_input", 2, 3), ("mlp_input", 2, 9), ("mlp_input", 5, 9), ("neuron", 3, 1), ("neuron", 9, 1)}
    assert found == wanted
    figure = draw(model, circuit, title="Planted")
    assert figure.axes[0].get_title(loc="left") == "Planted: 6 units, 5 weights"


@pytest.mark.parametrize("task", TASKS)
def test_prompts_end_where_their_answer_stands(task: str) -> None:
    text = load_text("sympy").validation
    found = prompts_of(text, task, context=32, most=50, generator=torch.Generator().manual_seed(0))
    assert found.answers.tolist() == [0] * 50 + [1] * 50
    data = text.numpy().tobytes()
    for window, answer in zip(found.windows.tolist(), found.answers.tolist(), strict=True):
        prompt = bytes(window)
        assert len(prompt) == 32
        assert prompt + TASKS[task][0][answer] in data
        opening = {"quote": b"'\"", "bracket": b"(["}[task][answer : answer + 1]
        assert opening in prompt


def test_a_guess_has_a_loss_of_ln_2() -> None:
    model = Decoder(symbols=256, width=4, depth=1, heads=1)
    model.head.weight.data.zero_()
    model.bigram.weight.data.zero_()
    text = load_text("sympy").validation
    prompts = prompts_of(text, "quote", context=16, most=8, generator=torch.Generator().manual_seed(0))
    assert prompts.loss(model).item() == pytest.approx(math.log(2))


def test_a_text_without_the_task() -> None:
    with pytest.raises(ValueError, match="no place for the task 'quote' with the answer"):
        prompts_of(torch.zeros(99, dtype=torch.uint8), "quote", context=8, most=2, generator=torch.Generator())
