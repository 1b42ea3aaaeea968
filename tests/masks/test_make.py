"""Masks: how many entries are active, which ones, and how masks compare."""

from __future__ import annotations

import functools
import warnings
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from sparseflow.masks import allocation
from sparseflow.masks.make import (
    dense_masks,
    magnitude_masks,
    overlap,
    random_masks,
    score_masks,
    sparsity_of,
)
from sparseflow.masks.topk import EmptiedLayerWarning, topk_mask


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(72, 20), nn.Linear(20, 5))


def counts(masks: dict[str, Tensor]) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


# --- random -----------------------------------------------------------------------------------------------------------


@given(st.floats(0, 0.98), st.integers(-(2**40), 2**40))
def test_random_counts_are_exact(sparsity: float, seed: int) -> None:
    # 216, 1440, 100 weights: active is what rounds (1 - S) n, at least 1; floats here are never within 1e-6 of a half.
    masks = random_masks(network(), sparsity, seed=seed)
    for name, n in {"0.weight": 216, "3.weight": 1440, "4.weight": 100}.items():
        assert masks[name].dtype == torch.bool
        assert abs(int(masks[name].sum()) - (1 - sparsity) * n) <= 0.5 + 1e-6 or int(masks[name].sum()) == 1


def test_random_counts_under_an_allocation_overrides_and_rules() -> None:
    # ER shares ignore kernels: 11/24, 92/1440, 25/100. Budget 0.2 * 1756 = 351.2 = eps (99 + 92 + 25), eps = 1.62593:
    # densities 0.74522, 0.10388, 0.40648, times the sizes 160.97, 149.58, 40.65.
    found = counts(random_masks(network(), 0.8, allocation="er", seed=0))
    assert found == {"0.weight": 161, "3.weight": 150, "4.weight": 41}
    own = random_masks(network(), 0.9, seed=0, overrides={"4.weight": 0.5}, first_layer_dense=True)
    assert counts(own) == {"3.weight": 144, "4.weight": 50}
    assert counts(random_masks(network(), 0.9, seed=0, exclude=[nn.Conv2d])) == {"3.weight": 144, "4.weight": 10}
    powerless = functools.partial(allocation.erk, power=0)  # all shares 1: uniform
    found = counts(random_masks(network(), 0.9, allocation=powerless, seed=0))
    assert found == {"0.weight": 22, "3.weight": 144, "4.weight": 10}


def test_a_layer_has_its_own_stream() -> None:
    """Same seed, same masks; another layer, another seed or other layers around it: bit-equal or unrelated."""
    model = nn.Sequential(nn.Linear(50, 40), nn.Linear(40, 50), nn.Linear(40, 50))
    masks = random_masks(model, 0.5, seed=3)
    assert all(torch.equal(masks[name], again) for name, again in random_masks(model, 0.5, seed=3).items())
    alone = random_masks(model, 0.5, seed=3, exclude=["0.*"], overrides={"2.weight": 0.9})
    assert torch.equal(alone["1.weight"], masks["1.weight"])
    other = random_masks(model, 0.5, seed=4)
    # Independent masks of 1000 in 2000 overlap in hypergeometric(2000, 1000, 1000): two-sided p-value above 1e-6 each,
    # five comparisons, so a false alarm of at most 5e-6 over the choice of seeds.
    pairs = [(masks[name], other[name]) for name in masks]
    pairs += [(masks["1.weight"], masks["2.weight"]), (masks["0.weight"].T, masks["1.weight"])]
    for a, b in pairs:
        both = int((a & b).sum())
        law = stats.hypergeom(2000, 1000, 1000)
        assert 2 * min(law.cdf(both), law.sf(both - 1)) > 1e-6


def test_positions_are_uniform() -> None:
    """Chi-square over the 60 positions in 2000 masks of 15: false alarm 1e-6 over the choice of seeds.

    Positions of one mask are drawn without replacement: the counts' covariance shrinks by (1 - k/n) n/(n - 1), and so
    does the statistic's law, chi-square with 59 degrees of freedom.
    """
    layer, n, k, draws = nn.Linear(10, 6), 60, 15, 2000
    hits = sum(random_masks(layer, 1 - k / n, seed=seed)["weight"].double() for seed in range(draws))
    assert isinstance(hits, Tensor)
    expected = draws * k / n
    statistic = float(((hits - expected) ** 2).sum() / expected) / ((1 - k / n) * n / (n - 1))
    assert 1e-6 / 2 < stats.chi2(n - 1).cdf(statistic) < 1 - 1e-6 / 2


def test_masks_lie_in_memory_as_their_weights() -> None:
    model = network().to(memory_format=torch.channels_last)
    mask = random_masks(model, 0.5, seed=0)["0.weight"]
    assert mask.stride() == model[0].weight.stride()
    assert torch.equal(mask, random_masks(network(), 0.5, seed=0)["0.weight"])


def test_dense_masks_are_all_ones() -> None:
    masks = dense_masks(network(), exclude=["4"])
    assert counts(masks) == {"0.weight": 216, "3.weight": 1440}
    assert sparsity_of(masks) == 0


def test_unknown_allocation() -> None:
    with pytest.raises(ValueError, match="allocation must be one of 'uniform', 'er', 'erk', got 'erdos'"):
        random_masks(network(), 0.5, allocation="erdos", seed=0)


# --- by magnitude and score -------------------------------------------------------------------------------------------


def two_layers() -> nn.Sequential:
    """|w|: 8 2 3 1 in the first layer, 7 7 7 4 in the second."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[0].weight.data = torch.tensor([[-8.0, 2.0], [3.0, -1.0]])
    model[1].weight.data = torch.tensor([[7.0, -7.0], [7.0, 4.0]])
    return model


@pytest.mark.parametrize(
    ("scope", "sparsity", "first", "second"),
    [
        ("layer", 0.25, [True, True, True, False], [True, True, True, False]),
        ("global", 0.5, [True, False, False, False], [True, True, True, False]),  # 8 7 7 7
        ("global", 0.25, [True, False, True, False], [True, True, True, True]),  # 8 7 7 7 4 3
    ],
)
def test_magnitude_by_hand(scope: str, sparsity: float, first: list[bool], second: list[bool]) -> None:
    masks = magnitude_masks(two_layers(), sparsity, scope=scope)
    assert masks["0.weight"].flatten().tolist() == first
    assert masks["1.weight"].flatten().tolist() == second


def test_which_of_equal_magnitudes_stay_is_drawn() -> None:
    """Two of three 7s stay: each of the three pairs under one seed in three; 8 stays under all of them."""
    found = [magnitude_masks(two_layers(), 0.5, seed=seed) for seed in range(300)]
    again = magnitude_masks(two_layers(), 0.5, seed=7)
    assert all(torch.equal(again[name], mask) for name, mask in found[7].items())
    assert all(masks["0.weight"].flatten().tolist() == [True, False, True, False] for masks in found)
    pairs = Counter(tuple(masks["1.weight"].flatten().nonzero().flatten().tolist()) for masks in found)
    assert set(pairs) == {(0, 1), (0, 2), (1, 2)}
    assert stats.chisquare(list(pairs.values())).pvalue > 1e-6  # a false alarm of 1e-6 over the choice of seeds


@pytest.mark.parametrize("levels", [1, 2, 8])
def test_ties_are_spread_over_layers_and_units(levels: int) -> None:
    """Signed-constant, ternary and 4-bit networks keep equal shares everywhere.

    Half of 10,000 of equal law stay in each layer, of 100 in each unit: counts are hypergeometric or binomial, within
    6 standard deviations (of at most 50 and 5) but for a false alarm of 202 * 2e-9.
    """
    model = nn.Sequential(*(nn.Linear(100, 100, bias=False) for _ in range(2)))
    generator = torch.Generator().manual_seed(levels)
    for parameter in model.parameters():
        drawn = torch.randint(0 if levels == 2 else 1, levels + 1, parameter.shape, generator=generator)
        parameter.data.copy_(drawn * torch.randn(parameter.shape, generator=generator).sign())
    for scope in ("layer", "global"):
        masks = magnitude_masks(model, 0.5, scope=scope)
        assert sum(counts(masks).values()) == 10_000
        for mask in masks.values():
            assert abs(int(mask.sum()) - 5000) < 300
            for axis in (0, 1):
                assert (mask.sum(axis) - 50).abs().max() < 30


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_without_ties_nothing_is_drawn(scope: str) -> None:
    torch.manual_seed(0)
    model = network()
    reference = magnitude_masks(model, 0.9, scope=scope, seed=0)
    for name, mask in magnitude_masks(model, 0.9, scope=scope, seed=1).items():
        assert torch.equal(mask, reference[name])
        if scope == "layer":
            assert torch.equal(mask, topk_mask(model.get_parameter(name), int(mask.sum()), magnitude=True))


def test_a_global_ranking_that_empties_a_layer_names_it() -> None:
    scores = {"small": torch.arange(4.0), "large": torch.arange(10.0, 20.0)}
    with pytest.warns(
        EmptiedLayerWarning, match=r"keeps 7 of 14 weights and none of 'small': .* scope='layer'"
    ) as seen:
        masks = score_masks(scores, 0.5)
    assert counts(masks) == {"small": 0, "large": 7}
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert counts(score_masks(scores, 0.2)) == {"small": 1, "large": 10}
        assert counts(score_masks({**scores, "none": torch.zeros(0)}, 0.2)) == {"small": 1, "large": 10, "none": 0}


def test_an_allocation_of_the_users_own_names_every_layer() -> None:
    masks = score_masks({"a": torch.arange(10.0)}, 0.5, scope="layer", allocation=lambda shapes, s, overrides: {"a": s})
    assert counts(masks) == {"a": 5}
    for shares, message in (
        ({"0.weight": 0.5, "3.weight": 0.5}, "allocation= returned has no entry for 4.weight; it needs one entry per"),
        ({"0.weight": 0.5, "3.weight": 0.5, "4.wieght": 0.5}, "4.weight and has '4.wieght', which is no masked weight"),
        (
            {"0.weight": 0.5, "3.weight": 0.5, "4.weight": 95},
            r"allocation= gives '4.weight' must be in \[0, 1\), got 95",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            random_masks(network(), 0.5, seed=0, allocation=lambda shapes, s, overrides, given=shares: given)


def test_scores_per_layer_follow_the_allocation() -> None:
    scores = {"a": torch.arange(100.0).view(10, 10), "b": torch.arange(10_000.0).view(100, 100)}
    masks = score_masks(scores, 0.5, scope="layer", allocation="er")
    assert counts(masks) == {"a": 100, "b": 4950}  # a is dense, b has 5050 - 100
    assert masks["b"].flatten()[-4950:].all()
    assert counts(score_masks(scores, 0.5, scope="layer", overrides={"a": 0.9})) == {"a": 10, "b": 5000}


def test_bad_scores() -> None:
    scores = {"a": torch.ones(4), "b": torch.tensor([1.0, float("nan")])}
    for scope in ("global", "layer"):
        with pytest.raises(ValueError, match=r"scores has 1 of . entries that are NaN or infinite"):
            score_masks(scores, 0.5, scope=scope)
    with pytest.raises(ValueError, match="scope must be one of 'global', 'layer', got 'local'"):
        score_masks(scores, 0.5, scope="local")
    for shares in ({"overrides": {"a": 0.5}}, {"allocation": "erk"}):
        with pytest.raises(ValueError, match="overrides= and allocation= need scope='layer'"):
            score_masks(scores, 0.5, scope="global", **shares)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="overrides= and allocation= need scope='layer'"):
        magnitude_masks(network(), 0.5, scope="global", allocation="erk")


# --- statistics -------------------------------------------------------------------------------------------------------


def test_sparsity_of_counts_weights_not_layers() -> None:
    assert sparsity_of({"a": torch.zeros(30, dtype=torch.bool), "b": torch.ones(10, dtype=torch.bool)}) == 0.75
    with pytest.raises(ValueError, match=r"there are no masks; make some, for instance with sparseflow.random_masks"):
        sparsity_of({})


def test_overlap_by_hand() -> None:
    a = {"v": torch.tensor([True, True, True, False]), "w": torch.tensor([False, False])}
    b = {"v": torch.tensor([False, True, True, True]), "w": torch.tensor([True, False])}
    assert overlap(a, b) == {"v": 2 / 3, "w": 0.0}
    assert overlap(b, a) == {"v": 2 / 3, "w": 0.0}
    assert overlap(b, b) == {"v": 1.0, "w": 1.0}


def test_overlap_of_different_weights() -> None:
    mask = torch.ones(2, dtype=torch.bool)
    with pytest.raises(ValueError, match="the masks are of different weights: b, c"):
        overlap({"a": mask, "b": mask}, {"a": mask, "c": mask})
    with pytest.raises(ValueError, match="the masks are of different weights: shapes differ"):
        overlap({"a": mask}, {"a": mask.view(1, 2)})
