"""Distances by hand, and embeddings against exact recovery and scikit-learn."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.analysis.distances import (
    cosine_similarity,
    distance_matrix,
    l2_distance,
    norm_matched_distance,
    parameter_vector,
)
from sparseflow.analysis.embedding import classical_scaling, metric_mds
from sparseflow.gradients import trainable
from sparseflow.rng import stream


def cloud(n: int, dimensions: int, *, seed: int = 0) -> Tensor:
    return torch.randn(n, dimensions, generator=stream(seed, "cloud"), dtype=torch.float64)


# --- vectors ----------------------------------------------------------------------------------------------------------


def test_active_weights_and_biases_in_alphabetical_order() -> None:
    state = {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "a": torch.tensor([5.0, 6.0])}
    masks = {"w": torch.tensor([[True, False], [False, True]])}
    assert parameter_vector(state, masks).tolist() == [5, 6, 1, 4]
    assert parameter_vector(dict(reversed(state.items())), masks).tolist() == [5, 6, 1, 4]
    assert parameter_vector(state).tolist() == [5, 6, 1, 2, 3, 4]
    assert parameter_vector(state, masks, names=["w"]).tolist() == [1, 4]
    assert parameter_vector(state, masks, names=["a"]).tolist() == [5, 6]
    assert parameter_vector(state).dtype == torch.float64
    assert not parameter_vector({"w": nn.Parameter(torch.ones(2))}).requires_grad


def test_what_stands_at_inactive_positions_does_not_count() -> None:
    """The authors' TF1 code keeps old values there."""
    model = nn.Sequential(nn.Linear(20, 10), nn.Linear(10, 3))
    masks = sf.random_masks(model, 0.8, seed=0)
    dirty = {name: value.clone() for name, value in model.state_dict().items()}
    sf.apply_masks_(model, masks)
    clean = model.state_dict()
    assert l2_distance(parameter_vector(dirty, masks), parameter_vector(clean, masks)) == 0
    assert len(parameter_vector(clean, masks)) == sum(int(mask.sum()) for mask in masks.values()) + 13
    # Zeros add nothing to a norm.
    assert float(parameter_vector(clean, masks).norm()) == pytest.approx(
        float(parameter_vector(clean).norm()), rel=1e-14
    )


def test_state_dicts_with_batch_norm_need_names() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match=r"'1.num_batches_tracked' is torch.int64, no parameter: .* Give names=list\("):
        parameter_vector(model.state_dict())
    assert len(parameter_vector(model.state_dict(), names=trainable(model))) == 9 + 6
    assert len(parameter_vector(model.state_dict(), names=["0.weight", "0.bias"])) == 9


def test_distance_and_cosine_by_hand() -> None:
    a, b = torch.tensor([1.0, 2.0, 2.0]), torch.tensor([4.0, 2.0, -2.0])
    assert l2_distance(a, b) == 5
    assert cosine_similarity(a, b) == pytest.approx(4 / (3 * math.sqrt(24)), rel=1e-15)
    assert l2_distance(a, a) == 0
    third = torch.full((3,), 1 / 3)
    assert cosine_similarity(third, 7 * third) <= 1
    assert cosine_similarity(third, -7 * third) >= -1


def test_distances_are_taken_in_float64() -> None:
    """Differences of 1e-6 near 1 vanish in a float32 sum of squares next to one of 1."""
    a = torch.ones(10_001, dtype=torch.float64)
    b = a + 1e-6
    b[0] = 2
    assert l2_distance(a, b) == pytest.approx(math.sqrt(1 + 1e4 * 1e-12), rel=1e-13)
    assert distance_matrix([a, b])[0, 1] == pytest.approx(l2_distance(a, b), rel=1e-13)


def test_a_random_direction_of_the_same_norm_is_orthogonal_almost() -> None:
    """For 2000 entries the squared distance is |a|^2 + |b|^2 - 2 |a| |b| cos with a cosine of std 1 / sqrt(2000)."""
    a, b = 3 * cloud(2000, 1).flatten(), cloud(2000, 1, seed=1).flatten()
    norms = float(a.norm()), float(b.norm())
    draws = [norm_matched_distance(a, b, generator=stream(seed, "control")) for seed in range(50)]
    assert {draw.expected for draw in draws} == {math.hypot(*norms)}
    cosines = [(draw.expected**2 - draw.measured**2) / (2 * math.prod(norms)) for draw in draws]
    # Mean within 5 of its standard errors (false alarm 6e-7); the root mean square within 6 of its own.
    assert abs(sum(cosines) / 50) < 5 / math.sqrt(2000 * 50)
    assert math.sqrt(sum(c**2 for c in cosines) / 50 * 2000) == pytest.approx(1, abs=6 * math.sqrt(1 / 100))


def test_the_control_tells_direction_from_norm() -> None:
    end = cloud(1000, 1).flatten()
    start = 0.8 * end
    control = norm_matched_distance(start, end, generator=stream(0, "control"))
    assert l2_distance(start, end) == pytest.approx(0.2 * float(end.norm()))
    assert control.measured > 5 * l2_distance(start, end)
    again = norm_matched_distance(start, end, generator=stream(0, "control"))
    assert again == control


def test_bad_vectors() -> None:
    a, generator = torch.ones(3), stream(0)
    for compare in (l2_distance, cosine_similarity, lambda a, b: norm_matched_distance(a, b, generator=generator)):
        with pytest.raises(ValueError, match=r"vectors must be of one length, got shapes \(3,\) and \(4,\). Make both"):
            compare(a, torch.ones(4))
        with pytest.raises(ValueError, match=r"vectors must be of one length, got shapes \(1, 3\)"):
            compare(a[None], a[None])
    with pytest.raises(ValueError, match=r"the cosine of a zero vector is not defined; compare l2_distance"):
        cosine_similarity(a, torch.zeros(3))
    with pytest.raises(ValueError, match=r"vectors must be of one length"):
        distance_matrix([a, torch.ones(4)])
    with pytest.raises(ValueError, match=r"vectors is empty; give at least one, from parameter_vector"):
        distance_matrix([])
    with pytest.raises(ValueError, match=r"names has 'b', which the state has not. Entries: w"):
        parameter_vector({"w": a}, names=["b"])
    with pytest.raises(ValueError, match=r"there is no parameter to take"):
        parameter_vector({})
    with pytest.raises(ValueError, match=r"masks has 'v', which is no weight of the model"):
        parameter_vector({"w": a}, {"v": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(TypeError, match=r"the mask of 'w' must be a bool tensor"):
        parameter_vector({"w": a}, {"w": torch.ones(3)})


# --- embeddings -------------------------------------------------------------------------------------------------------


def test_distances_of_many_vectors() -> None:
    points = cloud(40, 3)
    table = distance_matrix(list(points))
    expected = [[l2_distance(a, b) for b in points] for a in points]
    assert torch.allclose(table, torch.tensor(expected, dtype=torch.float64), rtol=1e-14)
    assert not table.diagonal().any()


@pytest.mark.parametrize("n", [2, 3, 17, 40])
def test_points_of_the_plane_are_recovered(n: int) -> None:
    """Procrustes: after the best rotation or reflection nothing is left."""
    points = cloud(n, 2) * torch.tensor([3.0, 1.0])
    found = metric_mds(distance_matrix(list(points)), generator=stream(0, "mds"))
    centred = points - points.mean(0)
    u, _, vh = torch.linalg.svd(found.points.T @ centred)
    assert torch.allclose(found.points @ (u @ vh), centred, atol=1e-7)
    assert found.stress < 1e-14
    assert found.normalised_stress < 1e-7


def test_stress_of_a_simplex_by_hand() -> None:
    """Three points at distance 1 on a line: at 0, x, 2x the stress 2 (x - 1)^2 + (2x - 1)^2 is least at x = 2/3."""
    triangle = 1 - torch.eye(3)
    found = metric_mds(triangle, dimensions=1, generator=stream(0, "mds"))
    assert found.stress == pytest.approx(1 / 3, abs=1e-9)
    assert found.normalised_stress == pytest.approx(math.sqrt((1 / 3) / (4 / 9 + 4 / 9 + 16 / 9)), abs=1e-9)
    assert sorted(found.points.flatten().tolist()) == pytest.approx([-2 / 3, 0, 2 / 3], abs=1e-5)


def sklearn_stress(wanted: Tensor, **options: object) -> float:
    smacof = pytest.importorskip("sklearn.manifold").smacof
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        options = {"max_iter": 10_000, "eps": 1e-13, "n_components": 2, "normalized_stress": False} | options
        return float(smacof(wanted.numpy(), **options)[1])


@pytest.mark.parametrize("seed", range(3))
def test_stress_is_that_of_scikit_learn_from_the_same_start(seed: int) -> None:
    """17 points of 30 dimensions in two clusters, which no plane can hold."""
    points = cloud(17, 30, seed=seed)
    points[:6] = 0.3 * points[:6] + 2
    wanted = distance_matrix(list(points))
    found = metric_mds(wanted, restarts=0, generator=stream(0, "mds"))
    assert found.normalised_stress > 0.1
    # Both stop within a tolerance of 1e-12 a step.
    reference = sklearn_stress(wanted, init=classical_scaling(wanted).numpy(), n_init=1)
    assert found.stress == pytest.approx(reference, rel=1e-6)
    apart = torch.cdist(found.points, found.points)
    assert found.stress == pytest.approx(float((apart - wanted).square().sum() / 2), rel=1e-10)
    scale = float(apart.square().sum() / 2)
    assert found.normalised_stress == pytest.approx(math.sqrt(found.stress / scale), rel=1e-10)


def test_the_best_of_many_starts_is_that_of_scikit_learn() -> None:
    """17 points near a plane: of 20 random starts each, some find the lowest stress, others stop above it."""
    points = cloud(17, 30) * torch.tensor([5.0, 3.0, *[0.5] * 28])
    wanted = distance_matrix(list(points))
    found = metric_mds(wanted, generator=stream(0, "mds"))
    assert found.stress == pytest.approx(sklearn_stress(wanted, n_init=20, random_state=0), rel=1e-6)
    single = [sklearn_stress(wanted, n_init=1, random_state=seed) for seed in range(10)]
    assert max(single) > found.stress * 1.01


def test_the_embedding_is_stationary_and_no_worse_than_any_start_alone() -> None:
    points = cloud(12, 8)
    wanted = distance_matrix(list(points))
    found = metric_mds(wanted, generator=stream(0, "mds"))
    leaf = found.points.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((torch.pdist(leaf) - torch.pdist(points)).square().sum(), leaf)
    # Steps that gain less than 1e-12 of the scale leave a slope of about its root.
    assert float(gradient.norm()) < 1e-4 * float(wanted.norm())
    alone = metric_mds(wanted, restarts=0, generator=stream(0, "mds"))
    start = classical_scaling(wanted)
    assert found.stress <= alone.stress * (1 + 1e-9)
    assert alone.stress < float((torch.pdist(start) - torch.pdist(points)).square().sum())


def test_orientation_is_reproducible() -> None:
    points = cloud(17, 6) * torch.tensor([9.0, 4.0, 1.0, 1.0, 1.0, 1.0])
    found = [metric_mds(distance_matrix(list(points)), generator=stream(seed, "mds")) for seed in (0, 1)]
    # Two runs of the same start stop within its tolerance.
    assert torch.allclose(found[0].points, found[1].points, atol=1e-4)
    assert torch.equal(found[0].points, metric_mds(distance_matrix(list(points)), generator=stream(0, "mds")).points)
    # Of three equivalent lines through a triangle it is always the one of the first start.
    triangle = 1 - torch.eye(3)
    lines = [metric_mds(triangle, dimensions=1, generator=stream(seed, "mds")).points for seed in range(10)]
    assert len({int(line.abs().argmin()) for line in lines}) == 1
    embedded = found[0].points
    assert embedded.mean(0).abs().max() < 1e-12
    assert float((embedded[:, 0] @ embedded[:, 1]).abs()) < 1e-9
    assert float(embedded[:, 0].norm()) > float(embedded[:, 1].norm())
    assert all(column[column.abs().argmax()] > 0 for column in embedded.T)


def test_points_that_coincide_and_more_dimensions_than_needed() -> None:
    zeros = metric_mds(torch.zeros(3, 3), generator=stream(0, "mds"))
    assert (zeros.stress, zeros.normalised_stress) == (0, 0)
    assert not zeros.points.any()
    pair = metric_mds(torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 2.0], [2.0, 2.0, 0.0]]), generator=stream(0, "mds"))
    assert pair.stress < 1e-12
    assert torch.allclose(pair.points[0], pair.points[1], atol=1e-6)
    roomy = metric_mds(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), dimensions=4, generator=stream(0, "mds"))
    assert roomy.points.shape == (2, 4)
    assert roomy.stress < 1e-12


def test_bad_distances() -> None:
    generator = stream(0, "mds")
    for shape in ((2, 3), (1, 1), (4,)):
        with pytest.raises(ValueError, match=r"distances must be \(n, n\) with n of at least 2, got"):
            metric_mds(torch.zeros(shape), generator=generator)
    with pytest.raises(ValueError, match=r"distances has 1 of 4 entries that are NaN or infinite"):
        metric_mds(torch.tensor([[0.0, math.nan], [0.0, 0.0]]), generator=generator)
    for bad in ([[0.0, 1.0], [2.0, 0.0]], [[0.0, -1.0], [-1.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]):
        with pytest.raises(ValueError, match=r"distances must be symmetric and not negative, with a zero diagonal"):
            metric_mds(torch.tensor(bad), generator=generator)
    for dimensions, restarts in ((0, 20), (2, -1)):
        with pytest.raises(ValueError, match=rf"dimensions must be at least 1 .*, got {dimensions} and {restarts}"):
            metric_mds(torch.zeros(3, 3), dimensions=dimensions, restarts=restarts, generator=generator)
