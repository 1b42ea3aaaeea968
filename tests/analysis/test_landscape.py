"""Losses on lines between solutions; oracle: closed forms, and the model bit for bit as it was."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from solutions import State, batches, bits, network, perceptron, square, state_of
from sparseflow.analysis.landscape import ALPHAS, PathLosses, area_under_log_loss, barrier, linear_path
from sparseflow.analysis.planes import plane, plane_losses
from sparseflow.gradients import trainable


def test_the_grid_of_the_authors_code() -> None:
    assert len(ALPHAS) == 29
    assert (ALPHAS[0], ALPHAS[4], ALPHAS[24], ALPHAS[-1]) == (-0.2, 0.0, 1.0, 1.2)
    assert np.diff(ALPHAS) == pytest.approx(0.05)


@pytest.mark.parametrize("sizes", [(18,), (12, 5, 1)])
def test_a_quadratic_loss_is_a_parabola_on_the_line(sizes: tuple[int, ...]) -> None:
    """Linear regression with bias: the residual is linear in alpha, so its mean square has three coefficients."""
    model = nn.Linear(6, 1).double()
    data = [(x, x[:, :1].sin()) for x, _ in batches(sizes)]
    start, end = state_of(model, 0), state_of(model, 1)
    x, y = (torch.cat(parts).numpy() for parts in zip(*data, strict=True))
    r0, r1 = (x @ s["weight"].numpy().T + s["bias"].numpy() - y for s in (start, end))
    expected = [np.mean(((1 - a) * r0 + a * r1) ** 2) for a in ALPHAS]
    path = linear_path(model, start, end, data, loss_fn=square)
    assert path.alphas == ALPHAS
    assert path.losses == pytest.approx(expected, rel=1e-12)  # float64 sums in another order
    assert barrier(path.alphas, path.losses) == 0  # convex


def test_accuracy_and_cross_entropy_are_those_of_the_interpolated_network() -> None:
    model, data = perceptron(), batches()
    start, end = state_of(model, 0), state_of(model, 1)
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    path = linear_path(model, start, end, iter(data), alphas=[0.0, 0.3, 1.0])
    for alpha, loss, accuracy in zip(path.alphas, path.losses, path.accuracies, strict=True):
        weights = {name: (1 - alpha) * start[name] + alpha * end[name] for name in start}
        output = torch.func.functional_call(model, weights, (x,))
        assert loss == pytest.approx(float(F.cross_entropy(output, y)), rel=1e-12)
        assert accuracy == pytest.approx(float((output.argmax(1) == y).double().mean()))


def test_ends_are_exact_and_the_rest_is_rounded_once() -> None:
    """Also the sign of zero, subnormal numbers, and where start and end differ by ten orders of magnitude."""
    model = nn.Linear(4, 1)
    start = {"weight": torch.tensor([[-0.0, 1e-42, 0.1, 1e10]]), "bias": torch.tensor([0.3])}
    end = {"weight": torch.tensor([[0.0, -1e-42, 0.1, 1e-10]]), "bias": torch.tensor([-0.7])}
    seen: dict[float, State] = {}

    def look(model: nn.Module) -> float:
        seen[ALPHAS[len(seen)]] = copy.deepcopy(model.state_dict())
        return 0.0

    linear_path(model, start, end, [(torch.ones(1, 4), torch.zeros(1, 1))], loss_fn=square, evaluate=look)
    for name in start:
        assert bits(seen[0.0][name]) == bits(start[name])
        assert bits(seen[1.0][name]) == bits(end[name])
        for alpha, state in seen.items():
            exact = (1 - alpha) * start[name].double() + alpha * end[name].double()
            # One rounding to float32, after float64 sums in another order.
            assert torch.allclose(state[name].double(), exact, rtol=2**-24 * 1.001, atol=1e-45)
    assert all(state["weight"][0, 2] == torch.tensor(0.1) for state in seen.values())  # equal at both ends


def test_the_models_own_state_dict_may_be_an_end() -> None:
    """It is a view of the weights that the measurement moves."""
    model, data = perceptron(), batches()
    start = state_of(model, 0)
    own = copy.deepcopy(model.state_dict())
    expected = linear_path(model, start, own, data)
    assert linear_path(model, start, model.state_dict(), data) == expected
    assert linear_path(model, model.state_dict(), start, data).losses[4] == expected.losses[24]
    assert linear_path(model, model.state_dict(), model.state_dict(), data, alphas=[0, 0.5, 1.2]).losses == (
        pytest.approx([expected.losses[24]] * 3, rel=1e-12)
    )


def test_half_precision_models_are_interpolated_in_float64() -> None:
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    ends = [{"weight": torch.tensor([[w]], dtype=torch.float64)} for w in (1.0, 2.0)]
    seen = []
    linear_path(
        model,
        *ends,
        [(torch.ones(1, 1, dtype=torch.bfloat16), torch.zeros(1, 1))],
        loss_fn=square,
        alphas=[0.3],
        evaluate=lambda model: seen.append(float(model.weight)) or 0.0,  # type: ignore[func-returns-value]
    )
    assert seen == [float(torch.tensor(1.3).to(torch.bfloat16))]


def test_tied_frozen_and_recurrent_weights() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 4)
            self.lstm = nn.LSTM(4, 4, batch_first=True)
            self.frozen = nn.Linear(4, 4).requires_grad_(False)
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.frozen(self.lstm(self.embed(tokens))[0][:, -1]))

    start, end = Odd(), Odd()
    end.load_state_dict(end.state_dict() | start.frozen.state_dict(prefix="frozen."))
    data = [(torch.tensor([[1, 2], [3, 4]]), torch.tensor([0, 1]))]
    middle = copy.deepcopy(start)
    with torch.no_grad():
        for m, a, b in zip(middle.parameters(), start.parameters(), end.parameters(), strict=True):
            m.copy_(((1 - 0.25) * a.double() + 0.25 * b.double()).float())
        expected = [F.cross_entropy(each(data[0][0]), data[0][1]).item() for each in (start, middle, end)]
    model = copy.deepcopy(start)
    path = linear_path(model, start.state_dict(), end.state_dict(), data, alphas=[0, 0.25, 1])
    assert path.losses == pytest.approx(expected, rel=1e-6)  # float32
    # Frozen parameters may be missing; the model's own stand in.
    trained = [{name: p.detach() for name, p in trainable(each).items()} for each in (start, end)]
    assert "frozen.weight" not in trained[0]
    assert linear_path(model, *trained, data, alphas=[0, 0.25, 1]) == path
    with pytest.raises(ValueError, match=r"only one of start and end has 'frozen.bias': give it in both"):
        linear_path(model, trained[0], end.state_dict(), data)


def test_accuracy_of_other_data_of_pixels_and_of_no_classes() -> None:
    model, data = nn.Conv2d(1, 2, 1, bias=False), [(torch.ones(2, 1, 1, 2), torch.tensor([[[0, 0]], [[0, 1]]]))]
    start, end = ({"weight": torch.tensor(w).view(2, 1, 1, 1)} for w in ([1.0, 0.0], [0.0, 1.0]))
    assert linear_path(model, start, end, data, alphas=[0, 1]).accuracies == (0.75, 0.25)

    def rude(model: nn.Module) -> float:
        assert not model.training
        model.train()
        torch.rand(1)
        return float(model.weight[0])

    path = linear_path(model, start, end, data, alphas=[0, 0.5, 1], evaluate=rude)
    assert path.accuracies == (1.0, 0.5, 0.0)
    line, one = nn.Linear(1, 1, bias=False), torch.ones(1, 1)
    regression = linear_path(line, {"weight": one}, {"weight": one}, [(one, one)], loss_fn=square, alphas=[0])
    assert math.isnan(regression.accuracies[0])


def test_progress_counts_points() -> None:
    model, calls = perceptron(), []
    ends = state_of(model, 0), state_of(model, 1)
    linear_path(model, *ends, batches(), alphas=[0, 0.5, 1], progress=lambda *done: calls.append(done))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_lines_between_sparse_solutions_stay_on_their_mask() -> None:
    model = perceptron()
    masks = sf.random_masks(model, 0.6, seed=0)
    start, end = (
        {name: value * masks[name] if name in masks else value for name, value in state_of(model, seed).items()}
        for seed in (0, 1)
    )
    off: list[bool] = []

    def look(model: nn.Module) -> float:
        off.extend(bool((model.get_parameter(name)[~mask] == 0).all()) for name, mask in masks.items())
        return 0.0

    path = linear_path(model, start, end, batches(), masks=masks, evaluate=look)
    assert len(off) == 29 * 2
    assert all(off)
    assert linear_path(model, start, end, batches()).losses == path.losses
    dense = state_of(model, 1)
    with pytest.raises(ValueError, match=r"end\['0.weight'\] is not zero off its mask: it lives on another mask"):
        linear_path(model, start, dense, batches(), masks=masks)
    with pytest.raises(ValueError, match=r"start\['0.weight'\] is not zero off its mask"):
        linear_path(model, dense, end, batches(), masks=masks)
    with pytest.raises(ValueError, match=r"masks has 'weight', which is no weight of the model"):
        linear_path(model, start, end, batches(), masks={"weight": masks["0.weight"]})


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(fails: bool) -> None:
    model = network()
    data = batches(dtype=torch.float32)
    F.cross_entropy(model(data[0][0]), data[0][1]).backward()
    model[3].eval()  # modes of one's own
    before, gradients = copy.deepcopy(model), [p.grad.clone() for p in model.parameters()]
    random = torch.get_rng_state()
    ends = state_of(model, 0), state_of(model, 1)
    corners = plane(state_of(model, 2), *ends)

    def stop(done: int, total: int) -> None:
        if fails and done == 2:
            raise InterruptedError("enough")

    for measure in (
        lambda: linear_path(model, *ends, data, recalibrate=data[:2], progress=stop),
        lambda: plane_losses(model, corners, [0, 1], [0, 1], data, recalibrate=data[:2], progress=stop),
    ):
        if fails:
            with pytest.raises(InterruptedError, match="enough"):
                measure()
        else:
            measure()
    for (name, value), old in zip(model.state_dict().items(), before.state_dict().values(), strict=True):
        assert torch.equal(value, old), name
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert model[1].momentum == 0.1
    assert torch.equal(torch.get_rng_state(), random)


def test_barrier_between_two_wells() -> None:
    """(w^2 - 1)^2 from -1 to 1: w = 2 alpha - 1, the ends at 0, the top at 1."""
    model = nn.Linear(1, 1, bias=False).double()
    ends = [{"weight": torch.tensor([[w]]).double()} for w in (-1.0, 1.0)]
    data = [(torch.ones(1, 1).double(), torch.ones(1, 1))]
    path = linear_path(model, *ends, data, loss_fn=lambda output, one: (output**2 - one).square().mean())
    assert path.losses == pytest.approx([((2 * a - 1) ** 2 - 1) ** 2 for a in ALPHAS], abs=1e-12)
    assert barrier(path.alphas, path.losses) == pytest.approx(1, abs=1e-12)


def test_barriers_by_hand() -> None:
    # Against the chord 1.0, 1.25, 1.5, 2.0: 0, 0.75, 2.5, 0. What lies outside does not count.
    alphas, losses = [-0.2, 0.0, 0.25, 0.5, 1.0, 1.2], [99.0, 1.0, 2.0, 4.0, 2.0, 99.0]
    assert barrier(alphas, losses) == 2.5
    order = [3, 0, 5, 4, 1, 2]
    assert barrier([alphas[i] for i in order], [losses[i] for i in order]) == 2.5
    assert barrier([0, 0.5, 1], [1.0, 0.1, 2.0]) == 0
    assert barrier([0, 1], [3.0, 5.0]) == 0
    assert barrier([1e-10, 0.5, 1 - 1e-10], [1.0, 0.0, 2.0]) == 0  # the ends, rounded
    # A grid by adding steps misses 0 and 1 by rounding.
    grid = np.linspace(-0.2, 1.2, 29)
    assert 0.0 not in grid
    assert barrier(grid, 1 - (grid - 0.5) ** 2) == pytest.approx(0.25)


def test_area_under_log_loss_by_hand() -> None:
    # ln L is 2, 1, 0 at 0, 0.25, 1: 0.25 * 1.5 + 0.75 * 0.5.
    assert area_under_log_loss([0, 0.25, 1], [math.exp(2), math.e, 1]) == pytest.approx(0.75)
    assert area_under_log_loss([1, 0, 0.25, -0.2], [1, math.exp(2), math.e, 0.0]) == pytest.approx(0.75)
    # exp(-3 alpha) falls linearly in the logarithm: the trapezoid rule is exact.
    assert area_under_log_loss(ALPHAS, [math.exp(-3 * a) for a in ALPHAS]) == pytest.approx(-1.5)
    with pytest.raises(ValueError, match=r"the loss at alpha=1 is 0.0, which has no logarithm; use barrier"):
        area_under_log_loss([0, 1], [1.0, 0.0])


@pytest.mark.parametrize("measure", [barrier, area_under_log_loss])
def test_paths_that_say_nothing(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match=r"got 3 alphas and 2 losses; give one loss for each point"):
        measure([0, 0.5, 1], [1.0, 2.0])
    for alphas in ([0.1, 0.5, 1], [0, 0.5, 0.9], [-1, 2, 3]):
        with pytest.raises(ValueError, match=r"alphas must contain 0 and 1, the two ends, got .*, 0.5, |got -1, 2, 3"):
            measure(alphas, [1.0, 1.0, 1.0])
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"the loss at alpha=0.5 is (nan|inf): nothing can be said"):
            measure([0, 0.5, 1], [1.0, bad, 1.0])
        measure([-0.2, 0, 1], [bad, 1.0, 1.0])  # outside


def test_bad_input() -> None:
    model = perceptron()
    start, end = state_of(model, 0), state_of(model, 1)
    with pytest.raises(ValueError, match=r"batches is empty; give at least one \(inputs, targets\) pair"):
        linear_path(model, start, end, [])
    with pytest.raises(ValueError, match=r"end lacks '0.bias'. Give a state dict of this model"):
        linear_path(model, start, {name: value for name, value in end.items() if name != "0.bias"}, batches())
    with pytest.raises(ValueError, match=r"start has 'module.0.weight', which the model has not. .* prefix of"):
        linear_path(model, nn.ModuleDict({"module": model}).state_dict(), end, batches())
    with pytest.raises(ValueError, match=r"end\['0.bias'\] has shape \(3,\), the model's \(8,\)"):
        linear_path(model, start, end | {"0.bias": torch.zeros(3)}, batches())
    with pytest.raises(ValueError, match=r"plane.origin lacks '2.bias'"):
        plane_losses(model, plane(*(state_of(model, s) for s in range(3)), names=["0.weight", "0.bias", "2.weight"]),
                     [0], [0], batches())  # fmt: skip
    wrapped = nn.DataParallel(model)  # names are those of the model inside
    assert isinstance(linear_path(wrapped, start, end, batches(), alphas=[0.5]), PathLosses)
