"""Signal at initialisation (Figure 1c) against the table of protocol A.1, and the skewed masks it is stressed with."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.lab.demo.signal import MASK_KINDS, SPARSITIES, signal_at_init, skewed_masks
from sparseflow.networks import build_network, lenet5
from sparseflow.rng import stream

NETWORKS = 60
#: (mask, scheme) -> logit std at sparsity 0.95 with He's base, protocol A.1; where it prints a range, the middle.
PUBLISHED = {
    ("random", "dense"): 1.7e-3,
    ("random", "liu"): 2.45,
    ("random", "sparse"): 2.5,
    ("random", "live"): 3.2,
    ("skewed", "dense"): 1.7e-3,
    ("skewed", "liu"): 2.1,
    ("skewed", "sparse"): 0.135,
    ("skewed", "live"): 1.2,
}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return signal_at_init(networks=NETWORKS, sparsities=[0.95], examples=100)


@pytest.mark.parametrize(("mask", "scheme"), PUBLISHED)
def test_level_at_95_percent(table: pd.DataFrame, mask: str, scheme: str) -> None:
    """Within a factor of 2 of the protocol.

    One network's std varies by 60 % (random masks) to 100 % (skewed) of its mean, so a mean over 60 has a standard
    error of 8 to 13 %; the protocol's own, over 40-60 networks, the same. A factor 2 is 4 joint standard errors or more
    (false alarm below 1e-4 a cell), and far below what separates the schemes.
    """
    found = table[(table["mask"] == mask) & (table["scheme"] == scheme)].logit_std
    assert len(found) == NETWORKS
    assert PUBLISHED[mask, scheme] / 2 < found.mean() < PUBLISHED[mask, scheme] * 2


def test_counting_live_inputs_keeps_ten_times_more_under_skewed_masks(table: pd.DataFrame) -> None:
    """Protocol: 1.2 against 0.10-0.17. Same masks, same base draws, so the median ratio is sharp."""
    skewed = table[table["mask"] == "skewed"].pivot(index="network", columns="scheme", values="logit_std")
    assert 5 < (skewed["live"] / skewed["sparse"]).median() < 20


def test_original_and_liu_differ_by_a_constant() -> None:
    """Closed form: Liu scales layer l by D_l^-1/2, and a ReLU net without biases is homogeneous in each layer."""
    found = signal_at_init(networks=2, sparsities=[0.8], schemes=["dense", "liu"], examples=50)
    masks = sf.random_masks(lenet5(), 0.8, seed=0)
    densities = [float(mask.double().mean()) for mask in masks.values()]
    for _, pair in found.groupby(["mask", "network"]):
        dense, liu = pair.set_index("scheme").logit_std[["dense", "liu"]]
        assert liu / dense == pytest.approx(np.prod(densities) ** -0.5, rel=1e-4)  # float32 forward passes


def test_at_sparsity_zero_all_schemes_are_one() -> None:
    """Without zeros there is nothing to correct: the std of all four is that of He's dense network, about 3.2."""
    found = signal_at_init(networks=3, sparsities=[0.0], examples=50)
    for _, point in found.groupby(["mask", "network"]):
        assert point.logit_std.nunique() == 1
        assert 1 < point.logit_std.iloc[0] < 10


def test_std_is_that_of_a_hand_made_forward_pass() -> None:
    """Masked He weights drawn by torch's own initialiser, float64."""
    (found,) = signal_at_init(networks=1, sparsities=[0.5], schemes=["dense"], examples=20, seed=3).logit_std[:1]
    model = build_network("lenet5", generator=torch.Generator())
    masks = sf.random_masks(model, 0.5, seed=3)
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=stream(3, "init", name))
        weight.data *= mask
    inputs = torch.randn(20, 1, 28, 28, generator=stream(3, "inputs"))
    logits = model.double()(inputs.double()).detach().numpy()
    assert found == pytest.approx(logits.std(), rel=1e-4)  # float32 against float64


def test_rows_and_progress() -> None:
    told: list[tuple[int, int]] = []
    found = signal_at_init(
        networks=2,
        sparsities=[0.5, 0.9],
        schemes=["dense", "sparse"],
        bases=["kaiming_normal", "xavier_uniform"],
        examples=2,
        progress=lambda done, of: told.append((done, of)),
    )
    assert list(found) == ["scheme", "base", "mask", "sparsity", "network", "logit_std"]
    assert len(found) == len(found.drop(columns="logit_std").drop_duplicates()) == 2 * 2 * 2 * 2 * 2
    assert told == [(done, 8) for done in range(1, 9)]
    assert list(SPARSITIES) == [0.0, 0.5, 0.8, 0.9, 0.95, 0.98]


def test_pure_in_its_seed() -> None:
    again = [signal_at_init(networks=1, sparsities=[0.9], examples=5, seed=seed) for seed in (0, 0, 1)]
    assert again[0].equals(again[1])
    assert not (again[0].logit_std == again[2].logit_std).any()


@pytest.mark.parametrize("kind", MASK_KINDS)
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_exact_counts_in_every_layer(kind: str, sparsity: float) -> None:
    """LeNet5's kernels by hand: 150, 2400, 30720, 10080, 840; what is kept is a whole number but for conv1."""
    masks = MASK_KINDS[kind](lenet5(), sparsity, seed=1)
    sizes = {"conv1": 150, "conv2": 2400, "fc1": 30720, "fc2": 10080, "fc3": 840}
    assert {name.removesuffix(".weight"): mask.numel() for name, mask in masks.items()} == sizes
    for name, mask in masks.items():
        assert abs(int(mask.sum()) - sizes[name.removesuffix(".weight")] * (1 - sparsity)) <= 0.5


def test_skew_of_the_masks() -> None:
    r"""Kept share of unit i in closed form: an entry of U(0, i) is above the threshold c with chance max(0, 1 - c/i).

    For 100 units at sparsity 0.9, c solves sum_i max(0, 1 - c/i) = 10, by bisection. 10,000 inputs a unit: the share
    is within 4.5 binomial standard deviations (0.0225 at most), false alarm 7e-4 over all units.
    """
    low, high = 0.0, 100.0
    units = np.arange(1, 101)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(0, 1 - middle / units).sum() > 10 else (low, middle)
    (mask,) = skewed_masks(nn.Linear(10_000, 100), 0.9, seed=0).values()
    kept = mask.double().mean(1).numpy()
    expected = np.maximum(0, 1 - low / units)
    assert np.abs(kept - expected).max() < 0.0225
    assert kept[:50].max() == 0.0


def test_skewed_masks_differ_by_layer_and_seed() -> None:
    model = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30))
    one, two, other = (
        skewed_masks(model, 0.9, seed=0),
        skewed_masks(model, 0.9, seed=0),
        skewed_masks(model, 0.9, seed=1),
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["0.weight"], one["1.weight"])
    assert not torch.equal(one["0.weight"], other["0.weight"])
