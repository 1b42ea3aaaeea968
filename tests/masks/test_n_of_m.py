"""N:M masks against groups that are counted in plain Python, on every kind of layer, and what they refuse."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.masks.fans import PLAIN, Layout
from sparseflow.masks.n_of_m import best_in_groups, in_groups, pattern_at
from sparseflow.rng import stream

#: A weight, its axes, and for each of its units the places of its entries in the order in which groups are cut.
SHAPES = {
    "linear": ((3, 8), PLAIN),
    "conv": ((3, 4, 2, 2), PLAIN),
    "grouped": ((4, 4, 1, 2), Layout(blocks=2)),
    "transposed": ((4, 3, 2, 1), Layout(transposed=True)),
    "experts": ((2, 3, 8), Layout(stacked=True)),
}


def columns_by_hand(name: str) -> list[list[tuple[int, ...]]]:
    """Each unit's places, written out: kernel positions one after the other, at each all inputs."""
    if name == "linear":
        return [[(unit, i) for i in range(8)] for unit in range(3)]
    if name == "conv":
        return [[(unit, i, y, x) for y in range(2) for x in range(2) for i in range(4)] for unit in range(3)]
    if name == "grouped":
        return [[(unit, i, 0, x) for x in range(2) for i in range(4)] for unit in range(4)]
    if name == "transposed":
        return [[(i, unit, y, 0) for y in range(2) for i in range(4)] for unit in range(3)]
    return [[(expert, unit, i) for i in range(8)] for expert in range(2) for unit in range(3)]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (4, 4), (3, 8)])
def test_the_largest_of_each_group_by_hand(name: str, n: int, m: int) -> None:
    shape, layout = SHAPES[name]
    scores = torch.randn(shape, generator=stream(0, name)).round(decimals=1)  # with ties
    mask = best_in_groups(scores, n, m, layout)
    want = torch.zeros(shape, dtype=torch.bool)
    for places in columns_by_hand(name):
        assert len(places) % m == 0
        for begin in range(0, len(places), m):
            group = places[begin : begin + m]
            for place in sorted(group, key=lambda place: -float(scores[place]))[:n]:  # stable: the first of equals
                want[place] = True
    assert torch.equal(mask, want)
    assert in_groups(mask, m, layout).sum(-1).unique().tolist() == [n]


def test_only_candidates_are_kept() -> None:
    among = torch.tensor([[True, False, True, True]])
    assert best_in_groups(torch.tensor([[1.0, 9.0, 2.0, 3.0]]), 2, 4, among=among).tolist() == [
        [False, False, True, True]
    ]


@pytest.mark.parametrize(
    ("sparsity", "columns", "pattern"),
    [
        (0.5, 10, (1, 2)),
        (0.75, 784, (1, 4)),
        (0.9, 100, (1, 10)),
        (0.95, 300, (1, 20)),
        (0.98, 300, (1, 50)),
        (0.9, 784, (78, 784)),
        (0.9, 25, (2, 25)),
        (0.95, 1, (1, 1)),
        (0.0, 7, (1, 1)),
        (0.8734, 150, (19, 150)),
    ],
)
def test_patterns_of_sparsities(sparsity: float, columns: int, pattern: tuple[int, int]) -> None:
    """Lowest terms where they divide the columns; else the nearest number of all columns, halves to the even one."""
    assert pattern_at((5, columns), sparsity=sparsity) == pattern


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(24, 10), nn.Linear(10, 4))
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, generator=stream(0, name))
    return model


def test_masks_of_a_network_are_exact_and_checked() -> None:
    model = network()
    pattern = {"3.weight": (1, 2), "*": (2, 4)}
    masks = sf.n_of_m_masks(model, pattern)
    assert sf.check_n_of_m(masks, model, pattern) == 6 * 9 + 10 * 6 + 4 * 5
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"0.weight": 108, "2.weight": 120, "3.weight": 20}
    masks["2.weight"][0, :4] = torch.tensor([True, True, True, False])
    with pytest.raises(
        sf.BrokenPromiseError, match=r"1 of 60 groups of 4 in the mask of '2\.weight' have other than 2"
    ):
        sf.check_n_of_m(masks, model, pattern)


def test_other_magnitudes_are_not_larger() -> None:
    """Exhaustively: of all masks of two of four, the kept magnitudes add up to the most."""
    layer = nn.Linear(4, 3)
    mask = sf.n_of_m_masks(layer, (2, 4))["weight"]
    for unit in range(3):
        sizes = layer.weight.detach()[unit].abs()
        most = max(float(sizes[list(pair)].sum()) for pair in itertools.combinations(range(4), 2))
        assert float(sizes[mask[unit]].sum()) == pytest.approx(most)


def test_a_layer_that_cannot_is_named() -> None:
    model = network()
    with pytest.raises(ValueError, match=r"2:4 needs columns .* that 4 divides; '3\.weight' has 10\. Leave it out"):
        sf.n_of_m_masks(model, (2, 4))
    with pytest.raises(ValueError, match=r"have .head., which matches no weight"):
        sf.n_of_m_masks(model, {"head": (2, 4)})
    with pytest.raises(ValueError, match=r"needs 1 <= N <= M, such as \(2, 4\), got \(0, 4\)"):
        sf.n_of_m_masks(model, (0, 4))
    with pytest.raises(TypeError, match=r"two whole numbers, such as \(2, 4\), got \(2, 4, 6\)"):
        sf.n_of_m_masks(model, (2, 4, 6))  # type: ignore[arg-type]
    assert set(sf.n_of_m_masks(model, (2, 4), exclude=["3.weight"])) == {"0.weight", "2.weight"}


def test_scores_that_are_not_numbers_are_refused() -> None:
    scores: Tensor = torch.tensor([[1.0, float("nan"), 2.0, 3.0]])
    with pytest.raises(ValueError, match="scores"):
        best_in_groups(scores, 2, 4)
