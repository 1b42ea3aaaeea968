"""What the protocol says of LeNet5 before training: kernel norms, the lost signal, the floor of the gradient."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparseflow as sf
from sparseflow import gradient_flow, initialize_, random_masks
from sparseflow.init.fill import kaiming_normal_


def lenet5() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


@pytest.mark.parametrize(
    ("scheme", "base", "published"),
    [
        ("dense", "xavier_uniform", 3.81),
        ("liu", "xavier_uniform", 16.96),
        ("sparse", "xavier_uniform", 16.41),
        ("sparse", functools.partial(kaiming_normal_, nonlinearity="relu"), 21.7),
    ],
)
def test_kernel_norms_of_lenet5(scheme: str, base: str, published: float) -> None:
    """Protocol K.2, 95 % random masks. Over 20 seeds the mean's deviation is below 0.5 %; the bound is 2 %."""
    norms = []
    for seed in range(20):
        model = lenet5()
        masks = random_masks(model, 0.95, seed=seed)
        initialize_(model, masks, scheme=scheme, base=base, seed=seed)
        norms.append(sum(float(model.get_parameter(name).detach().square().sum()) for name in masks) ** 0.5)
    assert sum(norms) / len(norms) == pytest.approx(published, rel=0.02)


def logit_std(sparsity: float, scheme: str, seed: int) -> float:
    model = lenet5()
    initialize_(model, random_masks(model, sparsity, seed=seed), scheme=scheme, base="xavier_uniform", seed=seed)
    inputs = torch.randn(64, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return float(model(inputs).std(correction=0))


def test_the_dense_scheme_loses_half_an_order_of_the_density_per_layer() -> None:
    """Protocol K.2: std(S) = std(0) (1 - S)^(L/2), L = 5, within 20 % up to S = 0.95; mean of 60 networks each."""
    full = sum(logit_std(0.0, "dense", seed) for seed in range(20)) / 20
    for sparsity in (0.5, 0.8, 0.9, 0.95):
        found = sum(logit_std(sparsity, "dense", seed) for seed in range(60)) / 60
        assert found / full == pytest.approx((1 - sparsity) ** 2.5, rel=0.2), sparsity


@pytest.mark.parametrize("seed", range(3))
def test_the_original_start_has_the_floor_of_the_last_bias_and_ours_is_above(seed: int) -> None:
    """With logits near 0 the last bias has the gradient uniform - class frequencies; these labels have them exactly.

    All the rest, mostly the bias before it, adds up to 15 % of the squared norm over these seeds.
    """
    generator = torch.Generator().manual_seed(seed)
    frequencies = torch.tensor([110, 90, 112, 88, 107, 93, 102, 98, 104, 96])
    labels = torch.repeat_interleave(torch.arange(10), frequencies)
    floor = float((frequencies / 1000 - 0.1).norm())
    assert 0.02 < floor < 0.04  # about 0.03, as for a thousand random images
    data = [(torch.rand(1000, 1, 28, 28, generator=generator), labels)]
    flows = {}
    for scheme in ("dense", "sparse"):
        model = lenet5()
        masks = sf.random_masks(model, 0.95, seed=seed)
        sf.initialize_(model, masks, scheme=scheme, base="xavier_uniform", seed=seed)
        flows[scheme] = gradient_flow(model, F.cross_entropy, data, masks)
    original, ours = flows["dense"], flows["sparse"]
    assert original.per_layer["11.bias"] == pytest.approx(floor, rel=0.01)  # logits of 1e-3 move the softmax a little
    assert original.per_layer["11.bias"] ** 2 > 0.8 * original.squared_norm
    assert sum(norm**2 for name, norm in original.per_layer.items() if name in masks) < 0.01 * original.squared_norm
    assert ours.norm > 2 * original.norm
