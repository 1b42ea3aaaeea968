"""Receptive fields: nearest columns by brute force, exact counts, and uniform draws at full randomness."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.masks.fans import Layout, matrices
from sparseflow.masks.receptive_field import receptive_field_mask


def draw(shape: tuple[int, ...], count: int, **options: object) -> torch.Tensor:
    return receptive_field_mask(shape, count, generator=torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize(("units", "columns"), [(10, 40), (40, 10), (7, 9)])
def test_without_randomness_units_see_the_nearest_columns(units: int, columns: int) -> None:
    mask = draw((units, columns), 3 * units, randomness=0.0)
    for unit in range(units):
        across = unit * columns // units
        away = [min(abs(j - across), columns - abs(j - across)) for j in range(columns)]
        seen = [j for j in range(columns) if mask[unit, j]]
        assert sorted(away[j] for j in seen) == sorted(away)[:3]


@pytest.mark.parametrize("randomness", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("degrees", ["fixed", "uniform"])
@pytest.mark.parametrize("count", [20, 47, 200])
def test_counts(randomness: float, degrees: str, count: int) -> None:
    seen = draw((20, 10), count, randomness=randomness, degrees=degrees).sum(1)
    assert int(seen.sum()) == count
    assert 1 <= int(seen.min()) <= int(seen.max()) <= 10
    if degrees == "fixed":
        assert int(seen.max() - seen.min()) <= 1


def test_more_randomness_reaches_farther() -> None:
    across = (torch.arange(100) - torch.arange(100)[:, None]).abs()
    away = torch.minimum(across, 100 - across)
    reach = [away[draw((100, 100), 500, randomness=r)].float().mean() for r in (0.0, 0.2, 0.5, 1.0)]
    assert reach == sorted(reach)
    assert abs(reach[-1] - 25) < 5 * (25**2 / 3 / 500) ** 0.5  # uniform on 0 .. 50 at full randomness, 5 sigma


def test_full_randomness_is_uniform() -> None:
    """4000 units with 3 of 10 columns: 1200 on average, std 29; ten columns at 5 sigma, 1 false alarm in 200,000."""
    assert (draw((4000, 10), 12_000, randomness=1.0).sum(0) - 1200).abs().max() < 5 * 29


@pytest.mark.parametrize(
    ("layer", "layout"),
    [
        (nn.Linear(40, 6), Layout()),
        (nn.Conv2d(4, 6, 3, groups=2), Layout(blocks=2)),
        (nn.ConvTranspose2d(4, 6, 3), Layout(transposed=True)),
    ],
)
def test_masks_of_layers(layer: nn.Module, layout: Layout) -> None:
    mask = sf.receptive_field_masks(layer, 0.7, seed=0)["weight"]
    plain = sf.random_masks(layer, 0.7, seed=0)["weight"]
    assert mask.shape == plain.shape
    assert int(mask.sum()) == int(plain.sum())
    counts = matrices(mask, layout).sum(2)
    assert int(counts.max() - counts.min()) <= 1


def test_what_cannot_be_met() -> None:
    with pytest.raises(ValueError, match=r"leaves 4 weights for the 40 units of 'weight', and each needs one"):
        sf.receptive_field_masks(nn.Linear(10, 40), 0.99, seed=0)
    with pytest.raises(ValueError, match=r"randomness must be in \[0, 1\], got 1\.5"):
        sf.receptive_field_masks(nn.Linear(10, 40), 0.5, randomness=1.5, seed=0)
    with pytest.raises(ValueError, match="degrees must be one of 'fixed', 'uniform', got 'normal'"):
        sf.receptive_field_masks(nn.Linear(10, 40), 0.5, degrees="normal", seed=0)
