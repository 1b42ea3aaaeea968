"""Gradual N:M pruning: counts of every group at every step, the rule in float64, and what it refuses when made."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.rng import stream

STEPS = {"begin": 2, "end": 10, "update_every": 2}


def attach(model: nn.Module, method: sf.NOfM) -> tuple[torch.optim.Optimizer, sf.Sparsifier]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return optimizer, sf.Sparsifier(model, optimizer, sf.dense_masks(model), method, seed=0)


def kept(n: int, m: int, step: int) -> int:
    """The cubic in exact numbers."""
    if step < STEPS["begin"]:
        return m
    step = min(step - step % 2, STEPS["end"])
    left = Fraction(STEPS["end"] - step, STEPS["end"] - STEPS["begin"])
    return max(n, round(m * (1 - (1 - Fraction(n, m)) * (1 - left**3))))


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 8), (3, 3)])
def test_every_group_has_its_count_and_its_largest_at_every_step(n: int, m: int) -> None:
    layer = nn.Linear(24, 5).double()
    nn.init.normal_(layer.weight, generator=stream(0, "weight"))
    optimizer, sparsifier = attach(layer, sf.NOfM(pattern=(n, m), **STEPS))
    updates: list[int] = []

    def choose(step: int) -> None:
        """Before the masks change: each group's largest among those that are active."""
        updates.append(step)
        size = (layer.weight.detach().abs() * sparsifier.masks["weight"]).reshape(-1, m)
        places = [sorted(range(m), key=lambda i: -float(group[i]))[: kept(n, m, step)] for group in size]
        want["mask"] = torch.zeros(size.shape, dtype=torch.bool)
        for row, found in enumerate(places):
            want["mask"][row, found] = True

    want: dict[str, torch.Tensor] = {}
    sparsifier.before_update.append(choose)
    for step in range(1, 14):
        optimizer.zero_grad()
        inputs = torch.randn(6, 24, generator=stream(step, "x"), dtype=torch.float64)
        layer(inputs).square().sum().backward()
        optimizer.step()
        counts = sparsifier.masks["weight"].reshape(-1, m).sum(1)
        assert counts.unique().tolist() == [kept(n, m, step)]
        if want:
            assert torch.equal(sparsifier.masks["weight"].reshape(-1, m), want["mask"])
    assert updates == [2, 4, 6, 8, 10]
    assert sf.check_n_of_m(sparsifier.masks, layer, (n, m)) == layer.weight.numel() // m


def test_weights_that_no_pattern_names_stay_dense() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 3))
    optimizer, sparsifier = attach(model, sf.NOfM(pattern={"0.*": (1, 4)}, begin=1, end=1))
    model(torch.ones(1, 8)).sum().backward()
    optimizer.step()
    assert {name: int(mask.sum()) for name, mask in sparsifier.masks.items()} == {"0.weight": 12, "1.weight": 18}


def test_what_cannot_be_is_refused_when_made() -> None:
    with pytest.raises(
        ValueError, match=r"needs pattern=, such as \(2, 4\), or sparsity=, such as 0\.75, and not both"
    ):
        sf.NOfM(**STEPS)
    with pytest.raises(ValueError, match="and not both"):
        sf.NOfM(pattern=(2, 4), sparsity=0.5, **STEPS)
    with pytest.raises(ValueError, match="needs 1 <= N <= M"):
        sf.NOfM(pattern=(5, 4), **STEPS)
    with pytest.raises(ValueError, match="0 <= begin <= end"):
        sf.NOfM(pattern=(2, 4), begin=9, end=3)
    with pytest.raises(ValueError, match=r"that 4 divides; 'weight' has 10"):
        attach(nn.Linear(10, 3), sf.NOfM(pattern=(2, 4), **STEPS))
    with pytest.raises(ValueError, match=r"sparsity has no entry for weight"):
        attach(nn.Linear(8, 3), sf.NOfM(sparsity={"wieght": 0.5}, **STEPS))


def test_masks_that_are_sparser_are_refused() -> None:
    layer = nn.Linear(8, 3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    method = sf.NOfM(pattern=(2, 4), begin=1, end=1)
    with pytest.raises(ValueError, match=r"a group of 4 of weight has 0 active weights, less than 2; none comes back"):
        sf.Sparsifier(layer, optimizer, sf.random_masks(layer, 0.8, seed=0), method, seed=0)
    mask = torch.ones(3, 8, dtype=torch.bool)
    mask[0, :3] = False  # enough in all, and too few in one group
    with pytest.raises(ValueError, match=r"a group of 4 of weight has 1 active weights, less than 2; none comes back"):
        sf.Sparsifier(layer, optimizer, {"weight": mask}, method, seed=0)


def test_masks_that_are_sparse_already_go_on_from_there() -> None:
    """Two or three of four are active at the start: no group has more than two from the first update on."""
    layer = nn.Linear(8, 2)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[0, 0] = mask[1, 4] = mask[1, 5] = False
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    method = sf.NOfM(pattern=(1, 4), begin=1, end=3, update_every=1)
    sparsifier = sf.Sparsifier(layer, optimizer, {"weight": mask}, method, seed=0)
    counts = []
    for _ in range(3):
        layer(torch.ones(1, 8)).sum().backward()
        optimizer.step()
        counts.append(sparsifier.masks["weight"].reshape(-1, 4).sum(1).unique().tolist())
        assert not bool((sparsifier.masks["weight"] & ~mask).any())
    assert counts == [[2], [1], [1]]  # of 4, round(4 - 3 * 7 / 8) and 1 by the cubic


def test_a_run_that_ends_early_says_so() -> None:
    layer = nn.Linear(8, 3)
    optimizer, sparsifier = attach(layer, sf.NOfM(pattern=(2, 4), **STEPS))
    layer(torch.ones(1, 8)).sum().backward()
    optimizer.step()
    with pytest.warns(sf.updaters.run.UnfinishedWarning, match="N:M pruning has not come to its end, at step 10"):
        sparsifier.remove()
