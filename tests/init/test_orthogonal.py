"""Exact orthogonal initialisation: singular values by LAPACK, counts, lengths of whole images, and what cannot be."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparseflow as sf
from sparseflow.init.orthogonal import exact_orthogonal_, exact_orthogonal_model_, sparse_orthogonal
from sparseflow.masks.fans import Layout


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 7), (12, 12), (20, 33), (33, 20), (64, 64)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.9, 1.0])
def test_singular_values_are_one_and_the_count_is_exact(rows: int, columns: int, share: float) -> None:
    """At most a rotation's worth of the active entries is zero: those that no pair of columns could fill."""
    few = min(rows, columns)
    count = few + round(share * (rows * columns - few))
    values, active = sparse_orthogonal(rows, columns, count, generator=draws())
    assert int(active.sum()) == count
    assert not bool(values[~active].any())
    torch.testing.assert_close(torch.linalg.svdvals(values), torch.ones(few).double(), rtol=0, atol=1e-12)
    assert count - int((values != 0).sum()) < few


@pytest.mark.parametrize("count", range(6, 37))
def test_every_count_of_a_small_square(count: int) -> None:
    values, active = sparse_orthogonal(6, 6, count, generator=draws(count))
    assert int(active.sum()) == count
    torch.testing.assert_close(values @ values.T, torch.eye(6).double(), rtol=0, atol=1e-12)


def test_a_square_cannot_have_one_nonzero_more_than_rows() -> None:
    """Its rows are unit vectors but for one, whose second entry no other row could be orthogonal to."""
    values, active = sparse_orthogonal(6, 6, 7, generator=draws())
    assert int(active.sum()) == 7
    assert int((values != 0).sum()) == 6


def test_most_counts_are_met_with_nonzeros() -> None:
    """Of a wide matrix, where empty columns take one entry each, all are."""
    for count in range(10, 60):
        values, _ = sparse_orthogonal(10, 30, count, generator=draws(count))
        assert int((values != 0).sum()) == count


@pytest.mark.parametrize("count", [5, 37])
def test_counts_that_cannot_be_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"needs at least 6 active entries, one in each row, .* most; got {count}"):
        sparse_orthogonal(6, 6, count, generator=draws())


def test_one_seed_one_matrix() -> None:
    one, same, other = (sparse_orthogonal(9, 9, 30, generator=draws(seed)).values for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("more_nonzeros", [False, True])
def test_a_convolution_keeps_the_length_of_images(more_nonzeros: bool) -> None:
    """Stride 1, padded by half the kernel: |conv(x)| = gain |x| where there are at least as many outputs as inputs."""
    weight = torch.empty(12, 8, 3, 3, dtype=torch.float64)
    mask = exact_orthogonal_(weight, 260, gain=1.5, more_nonzeros=more_nonzeros, generator=draws())
    assert int(mask.sum()) == 260
    assert not bool(weight[~mask].any())
    x = torch.randn(2, 8, 10, 10, dtype=torch.float64, generator=draws(1))
    assert float(F.conv2d(x, weight, padding=1).norm()) == pytest.approx(1.5 * float(x.norm()), rel=1e-12)
    density = 260 / 864
    assert int((weight != 0).sum()) == pytest.approx(96 * (density**0.5 if more_nonzeros else density), abs=8)


@pytest.mark.parametrize(("shape", "layout"), [
    ((12, 3, 3, 3), Layout(blocks=2)), ((6, 4, 3, 3), Layout(transposed=True)), ((24, 8), Layout(blocks=3)),
    ((3, 8, 5), Layout(stacked=True)),
])  # fmt: skip
def test_layouts_of_several_matrices(shape: tuple[int, ...], layout: Layout) -> None:
    """Each matrix by itself: groups, attention's three, experts; a transposed convolution by its own axes."""
    weight = torch.empty(shape, dtype=torch.float64)
    count = weight.numel() // 3 + 1
    mask = exact_orthogonal_(weight, count, generator=draws(), layout=layout)
    assert int(mask.sum()) == count
    split = weight if layout.stacked else weight.view(layout.blocks, -1, *weight.shape[1:])
    for matrix in split:
        flat = matrix.flatten(2)[..., matrix[0, 0].numel() // 2] if matrix.dim() > 2 else matrix
        torch.testing.assert_close(torch.linalg.svdvals(flat), torch.ones(min(flat.shape)).double(), rtol=0, atol=1e-12)


def test_a_deep_linear_network_neither_grows_nor_fades() -> None:
    """Fifty square layers at 90 % zeros hand on the length of their input; random ones of the same masks do not."""
    model = nn.Sequential(*(nn.Linear(48, 48) for _ in range(50))).double()
    random = sf.random_masks(model, 0.9, seed=0)
    masks = exact_orthogonal_model_(model, random, seed=0)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {n: int(m.sum()) for n, m in random.items()}
    x = torch.randn(4, 48, dtype=torch.float64, generator=draws())
    torch.testing.assert_close(model(x).norm(dim=1), x.norm(dim=1), rtol=1e-10, atol=0)
    sf.initialize_(model, random, seed=0, base="xavier_normal")
    assert not 0.1 < float((model(x).norm() / x.norm()).detach()) < 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    exact_orthogonal_model_(model, random, seed=0)
    sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0).check()


def test_a_layer_with_too_few_weights_is_named() -> None:
    model = nn.Sequential(nn.Linear(40, 20), nn.Linear(20, 10))
    with pytest.raises(ValueError, match=r"'0.weight': an orthogonal matrix of 20 x 40 needs at least 20 .* got 16"):
        exact_orthogonal_model_(model, sf.random_masks(model, 0.98, seed=0), seed=0)


def test_what_has_no_centre_or_no_values_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a kernel of even size has no centre, got \(2, 2\)"):
        exact_orthogonal_(torch.empty(4, 4, 2, 2), 20, generator=draws())
    with pytest.raises(ValueError, match="an embedding is looked up row by row"):
        exact_orthogonal_(torch.empty(4, 4), 8, generator=draws(), layout=Layout(lookup=True))
