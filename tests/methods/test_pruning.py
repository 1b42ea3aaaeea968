"""Gradual and one-shot pruning against the paper's published counts, and global ranking by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sparseflow as sf
from sparseflow.masks.topk import EmptiedLayerWarning
from sparseflow.methods.pruning import cubic_sparsity
from sparseflow.rng import stream
from sparseflow.sparsifier.update import WholeLayer

LENET5 = {"conv1": (6, 1, 5, 5), "conv2": (16, 6, 5, 5), "fc1": (120, 256), "fc2": (84, 120), "fc3": (10, 84)}
MLP = {"fc1": (300, 784), "fc2": (100, 300), "fc3": (10, 100)}


def prune(updater: sf.GMP, weights: dict[str, Tensor], masks: dict[str, Tensor], step: int) -> dict[str, Tensor]:
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    layers = [
        WholeLayer(name, weights[name] * mask, mask, None, 1.0, counts[name], counts[name])
        for name, mask in masks.items()
    ]
    pruned = dict(updater.update(layers, step=step, generator=stream(0, "grow")))
    for name, mask in pruned.items():
        assert not (mask & ~masks[name]).any()
    return pruned


def ones(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def random_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {name: torch.randn(shape, generator=stream(0, name)) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("shapes", "sparsity", "published"),
    [
        (LENET5, 0.95, {3000: (150, 2400, 30720, 10080, 840), 5000: (25, 405, 5184, 1701, 142)}),
        (LENET5, 0.95, {7000: (8, 120, 1536, 504, 42)}),
        (MLP, 0.98, {3000: (235_200, 30_000, 1000), 7000: (4704, 600, 20)}),
    ],
)
def test_published_counts(
    shapes: dict[str, tuple[int, ...]], sparsity: float, published: dict[int, tuple[int, ...]]
) -> None:
    """Protocol K.5, D.3; kept are the largest of all, since each cut keeps the largest of what is left."""
    weights = random_weights(shapes)
    masks = ones(weights)
    updater = sf.GMP(sparsity=sparsity, begin=3000, end=7000, update_every=1000)
    for step in range(3000, 7001, 1000):
        assert updater.due(step)
        masks = prune(updater, weights, masks, step)
        if step in published:
            assert tuple(int(mask.sum()) for mask in masks.values()) == published[step]
    for name, mask in masks.items():
        assert weights[name][mask].abs().min() > weights[name][~mask].abs().max()


def test_cubic_schedule_at_published_points_and_both_ends() -> None:
    paper = {"initial": 0.0, "final": 0.95, "begin": 3000, "end": 7000}
    published = {3500: 0.314, 4000: 0.549, 5000: 0.831, 6000: 0.935}  # protocol D.3
    assert {step: round(cubic_sparsity(step, **paper), 3) for step in published} == published
    assert [cubic_sparsity(step, **paper) for step in (0, 3000, 7000, 99_999)] == [0.0, 0.0, 0.95, 0.95]
    # Closed form from a half-pruned start: 0.9 - 0.4 * (1 - 1/4)^3 = 0.73125, all binary fractions but 0.9 and 0.4.
    assert cubic_sparsity(25, initial=0.5, final=0.9, begin=0, end=100) == pytest.approx(0.73125, rel=1e-15)
    assert cubic_sparsity(5, initial=0.1, final=0.9, begin=5, end=5) == 0.9


def test_the_last_update_is_forced_whatever_the_period() -> None:
    # Protocol D.4: 5000 / 8000 / 2000 as printed would stop at step 7000 with sparsity 0.770.
    updater = sf.GMP(sparsity=0.8, begin=5000, end=8000, update_every=2000)
    assert [step for step in range(20_000) if updater.due(step)] == [5000, 7000, 8000]
    weights = {"w": torch.arange(1.0, 1001.0)}
    assert int(prune(updater, weights, ones(weights), 7000)["w"].sum()) == 230  # 0.8 - 0.8 / 27 = 0.77037
    assert int(prune(updater, weights, ones(weights), 8000)["w"].sum()) == 200


def test_one_shot() -> None:
    updater = sf.OneShot(sparsity=0.75, at=3)
    assert [step for step in range(10) if updater.due(step)] == [3]
    weights = {"w": torch.tensor([1.0, -4.0, 3.0, -2.0])}
    assert prune(updater, weights, ones(weights), 3)["w"].tolist() == [False, True, False, False]


def test_pruned_weights_never_come_back() -> None:
    # Weight 0 is off already; the three largest of the rest would be 1, 2, 3, but 75 % of 4 leaves one: 1.
    mask = {"w": torch.tensor([False, True, True, False])}
    weights = {"w": torch.tensor([9.0, 5.0, 4.0, 8.0])}
    assert prune(sf.OneShot(sparsity=0.75, at=1), weights, mask, 1)["w"].tolist() == [False, True, False, False]
    # A target above what is left changes nothing.
    assert torch.equal(prune(sf.OneShot(sparsity=0.25, at=1), weights, mask, 1)["w"], mask["w"])


def test_a_sparsity_for_each_layer() -> None:
    weights = {"a": torch.arange(8.0), "b": torch.arange(8.0)}
    masks = prune(sf.OneShot(sparsity={"a": 0.5, "b": 0.25}, at=1), weights, ones(weights), 1)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"a": 4, "b": 6}
    with pytest.raises(ValueError, match="sparsity has no entry for b; it needs one per masked weight"):
        prune(sf.OneShot(sparsity={"a": 0.5}, at=1), weights, ones(weights), 1)


def test_global_scope_ranks_all_layers_together() -> None:
    # 8 weights, half go. Magnitudes 7, 6, 5, 5 and 5, 2, 1, 0: 7, 6 and then the first two of the three fives, those
    # of the earlier layer, stay.
    weights = {"a": torch.tensor([[7.0, -6.0], [5.0, -5.0]]), "b": torch.tensor([5.0, -2.0, 1.0, 0.0])}
    method = sf.GMP(sparsity=0.5, begin=0, end=1, scope="global")
    with pytest.warns(EmptiedLayerWarning, match="keeps 4 of 8 weights and none of 'b': .* scope='layer'"):
        masks = prune(method, weights, ones(weights), 1)
    assert masks["a"].tolist() == [[True, True], [True, True]]
    assert not masks["b"].any()
    assert prune(method, weights, masks, 1)["b"].tolist() == [False] * 4  # warned of once: it had none before


def test_at_least_one_weight_stays_in_each_layer() -> None:
    weights = random_weights({"tiny": (3, 2), "large": (100, 10)})
    masks = prune(sf.OneShot(sparsity=0.99, at=1), weights, ones(weights), 1)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"tiny": 1, "large": 10}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 95}, r"sparsity must be in \[0, 1\), got 95"),
        ({"sparsity": {"a": 1.0}}, r"sparsity must be in \[0, 1\), got 1.0"),
        ({"initial_sparsity": -0.1}, r"initial_sparsity must be in \[0, 1\), got -0.1"),
        (
            {"initial_sparsity": 0.6},
            r"initial_sparsity=0.6 is above the final sparsity, and no weight",
        ),
        ({"scope": "all"}, "scope must be one of 'layer', 'global', got 'all'"),
        ({"sparsity": {"a": 0.5}, "scope": "global"}, "scope='global' ranks all layers together: give one sparsity"),
        ({"begin": 5, "end": 4}, "pruning needs 0 <= begin <= end, in optimizer steps, got 5 and 4"),
        ({"begin": -1}, "begin must be at least 0, got -1. It counts optimizer steps"),
        ({"begin": 0, "end": 0}, "at step 0 use sparseflow.magnitude_masks"),
        ({"update_every": 0}, "update_every must be at least 1, got 0"),
        ({"end": 9.5}, "end must be a whole number, got 9.5"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sf.GMP(**{"sparsity": 0.5, "begin": 1, "end": 10, **arguments})


@pytest.mark.parametrize("name", ["begin", "end", "update_every"])
def test_what_is_no_number_is_named(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a whole number, got '9' "):
        sf.GMP(**{"sparsity": 0.5, "begin": 1, "end": 10, name: "9"})


def test_one_shot_cannot_precede_the_first_step() -> None:
    with pytest.raises(ValueError, match=r"at step 0 use sparseflow\.magnitude_masks"):
        sf.OneShot(sparsity=0.5, at=0)
