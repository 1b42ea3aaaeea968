"""Allocations against the published VGG16 values, the sums they must keep, and the smallest feasible target."""

from __future__ import annotations

import functools
import math
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sparseflow.masks.allocation import ALLOCATIONS, er, erk, uniform
from sparseflow.masks.topk import active_count

Shapes = dict[str, tuple[int, ...]]

#: Protocol G.3: 13 convolutions 3x3 and a 1x1 classifier.
VGG16_CHANNELS = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
VGG16_NAMES = ["1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2", "4_3", "5_1", "5_2", "5_3"]
VGG16: Shapes = {
    f"conv{name}": (outputs, inputs, 3, 3)
    for name, inputs, outputs in zip(VGG16_NAMES, VGG16_CHANNELS[:-1], VGG16_CHANNELS[1:], strict=True)
} | {"fc8": (1000, 512, 1, 1)}
#: Protocol F: sparsity of each layer under ERK at 0.80, to four digits.
VGG16_ERK_80 = [0, 0, 0.1342, 0.4272, 0.5737, 0.7169, 0.7169, 0.7885, *[0.8593] * 5, 0.0467]

shapes_strategy = st.lists(
    st.tuples(st.integers(1, 300), st.integers(1, 300), st.sampled_from([(), (3,), (1, 1), (3, 3), (3, 3, 3)])),
    min_size=1,
    max_size=8,
).map(lambda rows: {f"layer{i}": (out, into, *kernel) for i, (out, into, kernel) in enumerate(rows)})


def num_weights(shapes: Shapes) -> dict[str, int]:
    return {name: math.prod(shape) for name, shape in shapes.items()}


def active(shapes: Shapes, sparsities: dict[str, float]) -> float:
    """The sum of density times weights over the layers."""
    return math.fsum((1 - sparsities[name]) * n for name, n in num_weights(shapes).items())


def feasible(shapes: Shapes, sparsity: float) -> bool:
    return (1 - sparsity) * sum(num_weights(shapes).values()) >= len(shapes)


def test_erk_of_vgg16_is_the_published_one() -> None:
    assert sum(num_weights(VGG16).values()) == 15_222_464
    found = erk(VGG16, 0.80)
    assert [round(value, 4) for value in found.values()] == VGG16_ERK_80
    assert list(found) == list(VGG16)
    # Protocol F prints 3044506: zeros are floored there, rounded here, at most one weight a layer apart.
    assert abs(sum(active_count(n, found[name]) for name, n in num_weights(VGG16).items()) - 3_044_506) <= len(VGG16)


def test_epsilon_of_vgg16_is_the_published_one() -> None:
    shape = VGG16["conv5_1"]
    epsilon = (1 - erk(VGG16, 0.80)["conv5_1"]) * math.prod(shape) / sum(shape)
    assert abs(epsilon - 322.384) < 0.001  # protocol F, three decimals


@pytest.mark.parametrize("name", ALLOCATIONS)
@given(shapes=shapes_strategy, sparsity=st.floats(0, 0.99))
def test_active_weights_add_up(name: str, shapes: Shapes, sparsity: float) -> None:
    assume(feasible(shapes, sparsity))
    found = ALLOCATIONS[name](shapes, sparsity)
    total = sum(num_weights(shapes).values())
    assert set(found) == set(shapes)
    assert all(0 <= value < 1 for value in found.values())
    # Relative rounding of a few float64 operations per layer.
    assert active(shapes, found) == pytest.approx((1 - sparsity) * total, rel=1e-9)


@pytest.mark.parametrize("name", ["er", "erk"])
@given(shapes=shapes_strategy, sparsity=st.floats(0.01, 0.99), power=st.sampled_from([0.25, 0.5, 1.0, 2.0]))
def test_density_is_one_multiple_of_the_raw_share_below_one(
    name: str, shapes: Shapes, sparsity: float, power: float
) -> None:
    """Protocol F: layers that are not dense have one common epsilon; a dense one could not stay below 1 with it."""
    assume(feasible(shapes, sparsity))
    found = ALLOCATIONS[name](shapes, sparsity, power=power)
    axes = 2 if name == "er" else None
    raw = {n: (sum(shape[:axes]) / math.prod(shape[:axes])) ** power for n, shape in shapes.items()}
    epsilons = [(1 - value) / raw[n] for n, value in found.items() if value > 0]
    assume(epsilons)
    # 1 - S loses digits where the density is small: at least 1e-7 here, of 1e-16 absolute.
    assert epsilons == pytest.approx([epsilons[0]] * len(epsilons), rel=1e-6)
    assert all(raw[n] * epsilons[0] >= 1 - 1e-6 for n, value in found.items() if value == 0)
    assert active(shapes, found) == pytest.approx((1 - sparsity) * sum(num_weights(shapes).values()), rel=1e-9)


@pytest.mark.parametrize("name", ALLOCATIONS)
@given(shapes=shapes_strategy, sparsities=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)))
def test_a_sparser_target_makes_no_layer_denser(name: str, shapes: Shapes, sparsities: tuple[float, float]) -> None:
    low, high = sorted(sparsities)
    assume(feasible(shapes, high))
    dense, sparse = ALLOCATIONS[name](shapes, low), ALLOCATIONS[name](shapes, high)
    assert all(sparse[n] >= dense[n] - 1e-9 for n in shapes)  # rounding, as above


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_sparsity_zero_is_dense(name: str) -> None:
    assert ALLOCATIONS[name](VGG16, 0.0) == pytest.approx(dict.fromkeys(VGG16, 0.0), abs=1e-12)


def test_power_zero_is_uniform() -> None:
    """Raw shares to the power 0 are all 1: one density for all."""
    assert erk(VGG16, 0.8, power=0) == pytest.approx(uniform(VGG16, 0.8), rel=1e-12)


def test_er_by_hand() -> None:
    # raw: a 20/100 = 1/5, b 200/10000 = 1/50; budget 0.5 * 10100 = 5050 = eps (100/5 + 10000/50) = 220 eps
    # eps = 22.95...: a would pass 1, so it is dense; 5050 - 100 = eps * 200, density of b = 4950/200/50 = 0.495.
    assert er({"a": (10, 10, 3, 3), "b": (100, 100)}, 0.0) == pytest.approx({"a": 0, "b": 0}, abs=1e-12)
    assert er({"a": (10, 10), "b": (100, 100)}, 0.5) == pytest.approx({"a": 0.0, "b": 0.505}, rel=1e-12)
    # The kernel is ignored in the share, not in the count: 900 + 10000 weights, eps (900/5 + 10000/50) = 0.1 * 10900.
    epsilon = 1090 / 380
    expected = {"a": 1 - epsilon / 5, "b": 1 - epsilon / 50}
    assert er({"a": (10, 10, 3, 3), "b": (100, 100)}, 0.9) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ALLOCATIONS)
@given(shapes=shapes_strategy, sparsity=st.floats(0, 0.99), own=st.floats(0, 0.99), which=st.integers(0, 7))
def test_overridden_layers_are_left_out_of_the_sums(
    name: str, shapes: Shapes, sparsity: float, own: float, which: int
) -> None:
    special = f"layer{which % len(shapes)}"
    rest = {n: shape for n, shape in shapes.items() if n != special}
    assume(feasible(rest, sparsity))
    found = ALLOCATIONS[name](shapes, sparsity, overrides={special: own})
    assert list(found) == list(shapes)
    assert found.pop(special) == own
    assert found == ALLOCATIONS[name](rest, sparsity)


@pytest.mark.parametrize("name", ALLOCATIONS)
@given(shapes=shapes_strategy, exponent=st.floats(0, 9))
def test_infeasible_target_names_the_largest_feasible_one(name: str, shapes: Shapes, exponent: float) -> None:
    total = sum(num_weights(shapes).values())
    sparsity = 1 - len(shapes) / total * 10**-exponent * 0.99
    assume(sparsity < 1 and round((1 - sparsity) * total, 6) < len(shapes))
    with pytest.raises(ValueError, match=r"each needs at least one. The largest feasible sparsity is") as caught:
        ALLOCATIONS[name](shapes, sparsity)
    largest = float(re.search(r"sparsity is (\S+)\.$", str(caught.value))[1])  # type: ignore[index]
    # Feasible as printed, and not a whole weight below what counting allows: one weight for each layer.
    assert active(shapes, ALLOCATIONS[name](shapes, largest)) < len(shapes) + 1
    assert largest <= 1 - len(shapes) / total


def test_the_largest_feasible_sparsity_of_a_large_network_is_not_rounded_up_to_one() -> None:
    shapes = {"a": (3000, 1000), "b": (4000, 1000)}
    with pytest.raises(ValueError, match=re.escape("leaves 0.7 of 7000000 weights for 2 layers")) as caught:
        uniform(shapes, 1 - 1e-7)
    assert str(caught.value).endswith("is 0.99999971.")  # 1 - 2/7e6 = 0.999999714...


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_bad_input(name: str) -> None:
    allocation = functools.partial(ALLOCATIONS[name], {"a": (10, 10)})
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\), got 95"):
        allocation(95)
    with pytest.raises(ValueError, match=r"overrides\['a'\] must be in \[0, 1\), got 1.5"):
        allocation(0.5, overrides={"a": 1.5})
    with pytest.raises(ValueError, match=r"overrides has 'b', which is no layer. Layers: a."):
        allocation(0.5, overrides={"b": 0.5})


@pytest.mark.parametrize("power", [float("nan"), float("inf"), 1e6])
@pytest.mark.parametrize("name", ["er", "erk"])
def test_a_power_without_shares_is_refused(name: str, power: float) -> None:
    with pytest.raises(ValueError, match="power= is too large, or no number"):
        ALLOCATIONS[name](VGG16, 0.9, power=power)
