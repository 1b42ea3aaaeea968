"""The initialisers against torch's own at a full mask, and against the variance that each unit's fans ask for."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from layer_table import LAYERS, MASKS, looped_fans
from sparseflow.init.fill import INITIALIZERS, scale_to_mask_

SHAPES = [(30, 20), (12, 8, 5), (6, 4, 3, 3), (4, 3, 2, 3, 2)]
MODES = ("fan_in", "fan_out", "fan_avg")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def truncated(weight: Tensor, *, generator: torch.Generator, **options: Any) -> Tensor:
    """He's normal cut at two deviations by torch itself; 0.8796... is the deviation of a unit normal cut there."""
    fan = torch.nn.init._calculate_correct_fan(weight, options.get("mode", "fan_in"))
    gain = torch.nn.init.calculate_gain(options.get("nonlinearity", "leaky_relu"), options.get("a", 0))
    std = gain / math.sqrt(fan) / 0.87962566103423978
    return torch.nn.init.trunc_normal_(weight, 0.0, std, -2 * std, 2 * std, generator=generator)


TWINS: dict[str, Callable[..., Tensor]] = {
    "kaiming_normal": torch.nn.init.kaiming_normal_,
    "kaiming_uniform": torch.nn.init.kaiming_uniform_,
    "kaiming_truncated_normal": truncated,
    "xavier_normal": torch.nn.init.xavier_normal_,
    "xavier_uniform": torch.nn.init.xavier_uniform_,
}
HE_OPTIONS: list[dict[str, Any]] = [
    {},
    {"mode": "fan_out", "nonlinearity": "relu"},
    {"mode": "fan_in", "nonlinearity": "tanh"},
    {"mode": "fan_in", "a": 5**0.5},
]
OPTIONS = {name: HE_OPTIONS if "kaiming" in name else [{}, {"gain": 1.7}] for name in INITIALIZERS}


def test_every_initializer_has_its_twin() -> None:
    assert set(TWINS) == set(INITIALIZERS)


def test_the_truncated_deviation_is_the_closed_form() -> None:
    """Variance of a unit normal cut at 2: 1 - 4 phi(2) / (2 Phi(2) - 1)."""
    density, mass = math.exp(-2) / math.sqrt(2 * math.pi), math.erf(math.sqrt(2))
    assert math.sqrt(1 - 4 * density / mass) == pytest.approx(0.87962566103423978, rel=1e-12)


@pytest.mark.parametrize("scaling", ["unit", "layer", "dense"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", INITIALIZERS)
def test_a_full_mask_gives_torchs_own_bits(name: str, dtype: torch.dtype, shape: tuple[int, ...], scaling: str) -> None:
    for options in OPTIONS[name]:
        weight, full = torch.empty(shape, dtype=dtype), torch.ones(shape, dtype=torch.bool)
        assert INITIALIZERS[name](weight, full, **options, scaling=scaling, generator=generator()) is weight
        assert torch.equal(weight, TWINS[name](torch.empty(shape, dtype=dtype), **options, generator=generator()))


@pytest.mark.parametrize("name", INITIALIZERS)
def test_without_a_generator_the_global_one_is_used(name: str) -> None:
    full = torch.ones(6, 5, dtype=torch.bool)
    torch.manual_seed(7)
    found = INITIALIZERS[name](torch.empty(6, 5), full)
    assert torch.equal(found, INITIALIZERS[name](torch.empty(6, 5), full, generator=generator(7)))


@pytest.mark.parametrize("name", INITIALIZERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_schemes_are_scalings_of_one_dense_draw(name: str, shape: tuple[int, ...]) -> None:
    """Protocol B.4 and B.5: Original is the dense draw masked, Liu divides that by the root of the density."""
    mask = torch.rand(shape, generator=generator(1)) < 0.3
    twin = TWINS[name](torch.empty(shape), generator=generator()) * mask
    original = INITIALIZERS[name](torch.empty(shape), mask, scaling="dense", generator=generator())
    assert torch.equal(original, twin)
    liu = INITIALIZERS[name](torch.empty(shape), mask, scaling="layer", generator=generator())
    density = int(mask.sum()) / mask.numel()
    torch.testing.assert_close(liu, twin / math.sqrt(density), rtol=1e-6, atol=0)  # float32 rounding


# --- variance of each unit --------------------------------------------------------------------------------------------

#: Name -> (gain squared over the fan is the variance; base options; fourth moment over squared variance).
_DENSITY, _MASS = math.exp(-2) / math.sqrt(2 * math.pi), math.erf(math.sqrt(2))
_SECOND = 1 - 4 * _DENSITY / _MASS
_TRUNCATED_KURTOSIS = (3 * _SECOND - 16 * _DENSITY / _MASS) / _SECOND**2
KURTOSIS = {
    "kaiming_normal": 3.0,
    "kaiming_uniform": 1.8,
    "kaiming_truncated_normal": _TRUNCATED_KURTOSIS,
    "xavier_normal": 3.0,
    "xavier_uniform": 1.8,
}
DRAWS = 100
#: Below 1e-8 per unit: exactly for the normal (at least 100 squares each: chi-square beyond 8 deviations), and by
#: Bernstein's inequality for the other two, whose squares are bounded. Fewer than 10,000 units are looked at, so a
#: false alarm has probability 1e-4 over the choice of seeds (Bonferroni).
BOUND = 8.0


def variance_asked_for(layer: str, mask: Tensor, mode: str, gain_squared: float) -> Tensor:
    fans_in, fans_out = looped_fans(LAYERS[layer], mask)
    return gain_squared / {"fan_in": fans_in, "fan_out": fans_out, "fan_avg": (fans_in + fans_out) / 2}[mode]


def z_scores(name: str, layer: str, mask: Tensor, variance: Tensor, **options: Any) -> Tensor:
    """One per unit that has inputs: the sum of its squared weights over their variances, standardised."""
    units, _ = LAYERS[layer].unit_and_input()
    layout = LAYERS[layer].layout()
    stream, weight = generator(), torch.empty(mask.shape)
    squares = torch.zeros(mask.shape, dtype=torch.float64)
    for _ in range(DRAWS):
        INITIALIZERS[name](weight, mask, generator=stream, layout=layout, **options)
        assert not weight[~mask].any()
        squares += torch.where(mask, weight.double().square() / variance, 0)
    flat = units.flatten()
    count = DRAWS * torch.bincount(flat, mask.flatten().double())
    total = torch.bincount(flat, squares.flatten())
    alive = count > 0
    return (total - count)[alive] / (count[alive] * (KURTOSIS[name] - 1)).sqrt()


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("layer", LAYERS)
def test_each_unit_has_the_variance_of_its_own_fans(layer: str, kind: str) -> None:
    units, _ = LAYERS[layer].unit_and_input()
    mask = MASKS[kind](units, 0.1, generator(1))
    for mode in MODES:
        variance = variance_asked_for(layer, mask, mode, 2.0)
        found = z_scores("kaiming_normal", layer, mask, variance, mode=mode, nonlinearity="relu")
        assert found.abs().max() < BOUND, mode


@pytest.mark.parametrize("name", INITIALIZERS)
def test_each_distribution_has_the_variance_asked_for(name: str) -> None:
    units, _ = LAYERS["conv2d"].unit_and_input()
    mask = MASKS["skewed"](units, 0.1, generator(1))
    if "kaiming" in name:
        mode, gain, options = "fan_in", 5 / 3, {"nonlinearity": "tanh"}
    else:
        mode, gain, options = "fan_avg", 1.5, {"gain": 1.5}
    variance = variance_asked_for("conv2d", mask, mode, gain**2)
    assert z_scores(name, "conv2d", mask, variance, **options).abs().max() < BOUND


def test_the_z_scores_would_see_another_scheme() -> None:
    """The bound can fail: masked dense and Liu's weights are far outside under skewed masks."""
    units, _ = LAYERS["linear"].unit_and_input()
    mask = MASKS["skewed"](units, 0.1, generator(1))
    variance = variance_asked_for("linear", mask, "fan_in", 2.0)
    for scaling in ("dense", "layer"):
        assert z_scores("kaiming_normal", "linear", mask, variance, scaling=scaling).abs().max() > 2 * BOUND


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("mode", MODES)
def test_a_unit_without_inputs_gets_zeros_and_nothing_is_nan(layer: str, mode: str) -> None:
    units, inputs = LAYERS[layer].unit_and_input()
    mask = (units != 1) & (inputs != 2)
    found = INITIALIZERS["kaiming_normal"](
        torch.full(mask.shape, torch.nan), mask, mode=mode, layout=LAYERS[layer].layout(), generator=generator()
    )
    assert torch.isfinite(found).all()
    assert (found[mask] != 0).all()
    assert not found[~mask].any()


@pytest.mark.parametrize("scaling", ["unit", "layer", "dense"])
@pytest.mark.parametrize("name", INITIALIZERS)
def test_an_empty_mask_gives_zeros(name: str, scaling: str) -> None:
    mask = torch.zeros(4, 6, dtype=torch.bool)
    assert not INITIALIZERS[name](torch.empty(4, 6), mask, scaling=scaling).any()


# --- live inputs, by hand, and errors ---------------------------------------------------------------------------------


def test_live_inputs_by_hand() -> None:
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 0]]).bool()
    live = torch.tensor([[False, False, True, True]])
    # Dense fan 4. Unit 0: two live of four active, 4/2. Unit 1: none live, so its two active, 4/2. Unit 2: one, 4/1.
    found = scale_to_mask_(torch.ones(3, 4), mask, live_inputs=live)
    expected = torch.tensor([2.0, 2.0, 4.0])[:, None].sqrt() * mask
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)  # float32 roots
    # Average: fan-outs 2 2 2 1 of dense 3, dense average 3.5. Live inputs change the fan-in only.
    found = scale_to_mask_(torch.ones(3, 4), mask, live_inputs=live, mode="fan_avg")
    fans = (torch.tensor([2.0, 2.0, 1.0])[:, None] + torch.tensor([2.0, 2.0, 2.0, 1.0])) / 2
    torch.testing.assert_close(found, (3.5 / fans).sqrt() * mask, rtol=1e-6, atol=0)


def test_all_inputs_live_changes_nothing() -> None:
    mask = torch.rand(20, 30, generator=generator()) < 0.2
    plain, live = torch.ones(20, 30), torch.ones(20, 30)
    assert torch.equal(scale_to_mask_(plain, mask), scale_to_mask_(live, mask, live_inputs=torch.ones_like(mask)))


@pytest.mark.parametrize("name", INITIALIZERS)
def test_bad_input(name: str) -> None:
    function, weight, mask = INITIALIZERS[name], torch.zeros(3, 2), torch.ones(3, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"the mask has shape \(3, 1\), the weight \(3, 2\); they must be equal"):
        function(weight, mask[:, :1])
    with pytest.raises(ValueError, match="scaling must be one of 'unit', 'layer', 'dense', got 'liu'"):
        function(weight, mask, scaling="liu")
    if "mode" in inspect.signature(function).parameters:
        with pytest.raises(ValueError, match="mode must be one of 'fan_in', 'fan_out', 'fan_avg', got 'fan'"):
            function(weight, mask, mode="fan")
        with pytest.raises(ValueError, match=r"nonlinearity must be one that .* got .gelu."):
            function(weight, mask, nonlinearity="gelu")
    with pytest.raises(ValueError, match="at least two axes"):
        function(torch.zeros(3), torch.ones(3, dtype=torch.bool))
    assert not weight.any()  # refused before anything was written
