"""SRigL against its rule worked unit by unit in Python, and tables by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.masks.fans import Layout, matrices
from sparseflow.methods.srigl import constant_fan_in_update
from sparseflow.sparsifier.run_words import method_words
from sparseflow.testing import PROMISES, Trial
from tiny import OPTIMIZERS, batch, tiny_model


def by_hand(
    weight: Tensor, gradient: Tensor, mask: Tensor, *, budget: int, num_drop: int, salient_share: float
) -> list[list[bool]]:
    """Steps 1 to 7 of section 3.1 with lists; sorts are stable, so ties go to the lower index."""
    units, columns = mask.shape
    w, g = weight.abs().tolist(), gradient.abs().tolist()
    places = [(i, j) for i in range(units) for j in range(columns)]
    active = [place for place in places if mask[place]]
    free = [place for place in places if not mask[place]]
    survivors = sorted(active, key=lambda p: -w[p[0]][p[1]])[: len(active) - num_drop]
    promising = sorted(free, key=lambda p: -g[p[0]][p[1]])[:num_drop]
    salient = [sum(p[0] == i for p in survivors + promising) for i in range(units)]
    least = max(1, int(round(salient_share * (budget // units), 6))) if salient_share else 0
    most = [*sorted(salient, reverse=True), 0]
    least = min(least, most[budget // columns])  # one unit more than the budget fills whole
    staying = [i for i in range(units) if salient[i] >= least]
    fan_in = min(columns, budget // len(staying))
    rows = []
    for i in range(units):
        kept = sorted((j for a, j in survivors if a == i), key=lambda j: -w[i][j])[:fan_in] if i in staying else []
        others = sorted((j for j in range(columns) if j not in kept), key=lambda j: -g[i][j])
        grown = others[: fan_in - len(kept)] if i in staying else []
        rows.append([j in kept or j in grown for j in range(columns)])
    return rows


@pytest.mark.parametrize("salient_share", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("drop_fraction", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("ties", [False, True])
def test_the_rule(salient_share: float, drop_fraction: float, ties: bool) -> None:
    """Twelve units of eight columns, where some have large weights and others small ones; float64."""
    ablated = 0
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        scale = torch.rand(12, 1, generator=generator, dtype=torch.float64) ** 3
        weight, gradient = (torch.randn(12, 8, generator=generator, dtype=torch.float64) * scale for _ in range(2))
        if ties:
            weight, gradient = (4 * weight).round(), (4 * gradient).round()
        mask = torch.rand(12, 8, generator=generator).argsort(1) < 3
        options = {"budget": 36, "num_drop": int(36 * drop_fraction), "salient_share": salient_share}
        found = constant_fan_in_update(weight * mask, gradient, mask, **options)
        assert found.tolist() == by_hand(weight * mask, gradient, mask, **options)
        counts = found.sum(1)
        assert len(counts[counts > 0].unique()) == 1
        ablated += int((counts == 0).sum())
    assert (ablated > 0) == (salient_share > 0 and drop_fraction > 0)


def test_a_unit_leaves_and_its_budget_goes_to_the_others() -> None:
    """By hand: the survivors are 9, 8, 7, 6 and the inactive gradients 5, 4 are salient: three, three and none."""
    weight = torch.tensor([[9.0, 8.0, 0, 0], [7.0, 6.0, 0, 0], [0.2, 0.1, 0, 0]])
    gradient = torch.tensor([[0.0, 0, 5, 1], [0, 0, 2, 4], [3, 3, 3, 3]])
    found = constant_fan_in_update(weight, gradient, weight != 0, budget=6, num_drop=2, salient_share=0.5)
    # Two units stay, with three weights each: what survives, and the largest gradients.
    assert found.int().tolist() == [[1, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0]]


def test_enough_units_stay_for_the_budget() -> None:
    """All salient weights are in one unit of two columns; a budget of three needs two units."""
    weight = torch.tensor([[9.0, 8.0], [0.1, 0.0], [0.2, 0.0]])
    gradient = torch.zeros(3, 2)
    found = constant_fan_in_update(weight, gradient, weight != 0, budget=4, num_drop=2, salient_share=1.0)
    assert int(found.any(1).sum()) == 3  # the second best has none, as has the third: a tie, and both stay
    assert found.sum(1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("salient_share", [0.0, 1.0])
def test_no_more_units_stay_than_there_are_weights(salient_share: float) -> None:
    """By hand: three weights cannot fill four units; each of the three most salient units has one."""
    weight = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0]))
    found = constant_fan_in_update(
        weight, torch.zeros(4, 4), weight != 0, budget=3, num_drop=0, salient_share=salient_share
    )
    assert torch.equal(found, weight != 0)
    # Two units of two columns are full; of the six others none is salient, and four weights cannot fill eight units.
    wide = torch.zeros(8, 2)
    wide[2:4] = 1.0
    found = constant_fan_in_update(wide, torch.zeros(8, 2), wide != 0, budget=4, num_drop=0, salient_share=1.0)
    assert int(found.sum()) == 4
    assert found.sum(1)[2:4].tolist() == [1, 1]


class Run:
    def __init__(self, *, stored: bool) -> None:
        model = tiny_model(dtype=torch.float64)
        masks = sf.constant_fan_in_masks(model, 0.7, seed=0)
        sf.apply_masks_(model, masks)
        self.model = sf.engine.convert(model, masks) if stored else model
        self.optimizer = OPTIMIZERS["momentum"](self.model.parameters())
        method = sf.SRigL(salient_share=1.0, drop_fraction=0.5, update_every=3)
        self.sparsifier = sf.Sparsifier(self.model, self.optimizer, masks, method, seed=0)

    def step(self, number: int) -> None:
        x, y = batch(number, dtype=torch.float64)
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(x), y).backward()
        self.optimizer.step()


def test_units_that_leave_on_stored_weights_are_those_of_masks() -> None:
    runs = [Run(stored=stored) for stored in (True, False)]
    gone = set()
    for step in range(1, 14):
        for run in runs:
            run.step(step)
            run.sparsifier.check()
        for name, mask in runs[0].sparsifier.masks.items():
            assert torch.equal(mask, runs[1].sparsifier.masks[name]), (step, name)
            counts = mask.flatten(1).sum(1)
            assert len(counts[counts > 0].unique()) == 1
            if (counts == 0).any():
                gone.add(name)
    assert gone
    assert "5.weight" not in gone  # the last layer keeps its units


@pytest.mark.parametrize("promise", [name for name in PROMISES if name != "counts are exact"])
def test_promises_where_units_leave(promise: str) -> None:
    def masks(model: nn.Module) -> dict[str, Tensor]:
        return sf.constant_fan_in_masks(model, 0.7, seed=0)

    method = {"salient_share": 1.0, "drop_fraction": 0.5, "update_every": 3}
    PROMISES[promise](Trial(make=lambda: sf.SRigL(**method), masks=masks))


@pytest.mark.parametrize(
    ("layer", "layout"),
    [
        (nn.Linear(40, 6), Layout()),
        (nn.Conv2d(4, 6, 3, groups=2), Layout(blocks=2)),
        (nn.ConvTranspose2d(4, 6, 3), Layout(transposed=True)),
    ],
)
def test_masks_of_one_fan_in(layer: nn.Module, layout: Layout) -> None:
    mask = sf.constant_fan_in_masks(layer, 0.7, seed=0)["weight"]
    counts = matrices(mask, layout).sum(2)
    columns = matrices(mask, layout).shape[2]
    assert counts.unique().tolist() == [round(0.3 * columns)]
    assert torch.equal(mask, sf.constant_fan_in_masks(layer, 0.7, seed=0)["weight"])
    assert not torch.equal(mask, sf.constant_fan_in_masks(layer, 0.7, seed=1)["weight"])


def test_columns_are_drawn_uniformly() -> None:
    """Of 4000 units with 3 of 10 columns each column has 1200 on average, std sqrt(4000 * 0.3 * 0.7) = 29.

    Ten columns at 5 sigma: a false alarm in 200,000 seeds.
    """
    mask = sf.constant_fan_in_masks(nn.Linear(10, 4000), 0.7, seed=0)["weight"]
    assert (mask.sum(0) - 1200).abs().max() < 5 * 29


def test_what_cannot_be_met() -> None:
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"SRigL needs one fan-in for all units of a layer, and those of '0\.weight'"):
        sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.7, seed=0), sf.SRigL(update_every=3), seed=0)
    with pytest.raises(ValueError, match=r"leaves 0\.1 of 10 weights for each unit of '5\.weight', and a constant"):
        sf.constant_fan_in_masks(model, 0.8, overrides={"5.weight": 0.99}, seed=0)
    with pytest.raises(ValueError, match=r"salient_share must be in \[0, 1\], got 1\.5"):
        sf.SRigL(salient_share=1.5)
    with pytest.raises(TypeError, match=r"salient_share must be a number, got 'all'"):
        sf.SRigL(salient_share="all")
    for option in ("block", "regrow"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'"):
            sf.SRigL(**{option: True})


def test_a_method_says_how_it_was_made() -> None:
    assert method_words(sf.SRigL(total_steps=100)) == "SRigL(total_steps=100)"
    assert method_words(sf.SRigL(salient_share=0.9, drop_fraction=0.1)) == "SRigL(drop_fraction=0.1, salient_share=0.9)"
