"""Initialisation by live fan-in: its factor worked by hand, and the signal that it keeps under skewed masks."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from sparseflow import initialize_


def test_the_live_scheme_divides_by_the_live_fan_in() -> None:
    """Three live units of five: weights into the second layer are those of "sparse" times the root of n / n_live."""
    model, plain = (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)) for _ in range(2))
    first = torch.ones(5, 4, dtype=torch.bool)
    first[:2] = False
    second = torch.tensor([[1, 1, 1, 1, 0], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    masks = {"0.weight": first, "2.weight": second}
    initialize_(model, masks, scheme="live", seed=0)
    initialize_(plain, masks, scheme="sparse", seed=0)
    assert torch.equal(model[0].weight, plain[0].weight)
    # Fan-ins 4, 3, 2; live 2, 3, 0: the last has none and keeps its own.
    factor = torch.tensor([[2.0], [1.0], [1.0]]).sqrt()
    torch.testing.assert_close(model[2].weight, plain[2].weight * factor, rtol=1e-6, atol=0)  # float32 rounding


@pytest.mark.parametrize("seed", range(3))
def test_the_live_scheme_keeps_the_signal_under_skewed_masks(seed: int) -> None:
    """An MLP whose layers lose nine of ten units: with ReLU and He's gain the second moment is kept, per live path.

    Every kept unit reads all of its inputs, live or not. "sparse" counts the dead nine tenths and loses sqrt(10) a
    layer; "live" keeps the mean square within a factor of 2 at width 20 live units of fan-in 20 (deviation of a sum of
    20 squares, sqrt(5 / 20) a layer, three layers).
    """
    widths = [200, 200, 200, 200, 200]
    layers = [nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)]
    model = nn.Sequential(*(each for layer in layers for each in (layer, nn.ReLU())))
    mask = torch.zeros(200, 200, dtype=torch.bool)
    mask[:20] = True
    masks = {f"{2 * i}.weight": mask.clone() for i in range(4)}
    x = torch.randn(500, 200, generator=torch.Generator().manual_seed(seed))

    def mean_square(scheme: str) -> float:
        initialize_(model, masks, scheme=scheme, seed=seed)
        with torch.no_grad():
            return float(model(x)[:, :20].square().mean())

    assert 0.1 < mean_square("live") < 4  # 1 in expectation
    assert mean_square("sparse") == pytest.approx(mean_square("live") / 1000, rel=1e-4)  # exactly 10 a layer, thrice
