"""Losses on planes through three solutions; oracle: closed forms."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from solutions import batches, network, perceptron, state_of
from sparseflow.analysis.planes import plane, plane_losses
from sparseflow.analysis.recalibrate import recalibrate_
from sparseflow.gradients import trainable
from sparseflow.rng import stream


def test_a_plane_keeps_distances_and_goes_through_its_points() -> None:
    model = perceptron(dtype=torch.float32)
    states = [state_of(model, seed) for seed in range(3)]
    found = plane(*states)
    u, v = (torch.cat([a.flatten() for a in axis.values()]) for axis in (found.x_axis, found.y_axis))
    assert (float(u @ u), float(v @ v), float(u @ v)) == pytest.approx((1, 1, 0), abs=1e-14)
    vectors = [torch.cat([value.double().flatten() for value in state.values()]) for state in states]
    # Alphabetical order of names is the model's here.
    for i in range(3):
        for j in range(3):
            apart = math.dist(found.points[i], found.points[j])
            assert apart == pytest.approx(float((vectors[i] - vectors[j]).norm()), abs=1e-13)
        at = found.at(*found.points[i])
        assert all(torch.allclose(at[name], value.double(), atol=1e-13) for name, value in states[i].items())
    assert found.points[0] == (0, 0)
    assert found.points[1][1] == 0
    assert found.points[2][1] > 0


def test_nearly_collinear_points_still_give_an_orthonormal_basis() -> None:
    o, a = torch.zeros(50).double(), torch.randn(50, generator=stream(0, "a")).double()
    b = 2 * a + 1e-9 * torch.randn(50, generator=stream(0, "b")).double()
    found = plane({"w": o}, {"w": a}, {"w": b})
    assert float((found.x_axis["w"] * found.y_axis["w"]).sum()) == pytest.approx(0, abs=1e-14)


def test_a_quadratic_loss_on_a_plane() -> None:
    """Half the squared distance to 0 in weight space; the origin of the plane is the state (1, 2, 2) at distance 3."""
    model = nn.Linear(3, 3, bias=False).double()
    matrices = [torch.zeros(3, 3).double() for _ in range(3)]
    for matrix, diagonal in zip(matrices, ([1, 2, 2], [2, 2, 2], [1, 2, 7]), strict=True):
        matrix.diagonal().copy_(torch.tensor(diagonal))
    found = plane(*({"weight": matrix} for matrix in matrices))
    assert found.points == ((0, 0), (1, 0), (0, 5))
    data = [(torch.eye(3).double(), torch.zeros(3, 3))]
    calls = []
    grid = plane_losses(
        model, found, [-1, 0, 1], [0, 0.5], data, loss_fn=lambda output, _: output.square().sum() / 2,
        evaluate=lambda model: float(model.weight[0, 0]), progress=lambda *done: calls.append(done)
    )  # fmt: skip
    expected = [[((1 + x) ** 2 + 4 + (2 + y) ** 2) / 2 for x in (-1, 0, 1)] for y in (0, 0.5)]
    assert torch.allclose(grid.losses, torch.tensor(expected).double(), rtol=1e-14)
    assert grid.accuracies.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert (grid.xs, grid.ys, calls[-1]) == ((-1, 0, 1), (0, 0.5), (6, 6))


def test_planes_of_state_dicts_with_batch_norm() -> None:
    models = [network() for _ in range(3)]
    states = [model.state_dict() for model in models]
    with pytest.raises(ValueError, match=r"'1.num_batches_tracked' is torch.int64, no parameter: .* names=list\("):
        plane(*states)
    found = plane(*states, names=list(trainable(models[0])))
    data = batches(dtype=torch.float32)
    with pytest.raises(ValueError, match=r"'1' normalises by running statistics"):
        plane_losses(models[0], found, [0], [0], data)
    corner = plane_losses(models[0], found, [found.points[2][0]], [found.points[2][1]], data, recalibrate=data[:2])
    recalibrate_(models[2].eval(), data[:2])
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    assert corner.losses.item() == pytest.approx(F.cross_entropy(models[2](x), y).item(), rel=1e-5)  # float32


def test_three_points_that_span_no_plane() -> None:
    o, a = {"w": torch.tensor([1.0, 2.0, 3.0])}, {"w": torch.tensor([1.1, 2.7, 3.3])}
    beyond = {"w": 3 * a["w"].double() - 2 * o["w"].double()}
    for b in (o, a, beyond):
        with pytest.raises(ValueError, match=r"origin, a and b lie on one line and span no plane; use linear_path"):
            plane(o, a, b)
    with pytest.raises(ValueError, match=r"origin, a and b lie on one line"):
        plane(o, o, a)
    with pytest.raises(ValueError, match=r"b has other entries or shapes than origin; give three states of one model"):
        plane(o, a, {"w": torch.ones(4)})
    with pytest.raises(ValueError, match=r"a has other entries or shapes than origin"):
        plane(o, {"v": torch.ones(3)}, a)
