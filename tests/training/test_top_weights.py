"""Which weights stay, against sorted lists in float64; how many, against a table by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparseflow.masks.topk import active_count
from sparseflow.networks.decoder import Decoder
from sparseflow.training.top_weights import Annealing, annealed, counts, keep_, top_mask, top_masks


def by_hand(weight: Tensor, count: int, floor: int, axis: int) -> set[tuple[int, int]]:
    """Places in the order of size, ties by place: the floor of each unit first, then the rest of the largest."""
    w = weight.double().numpy()
    order = sorted(np.ndindex(*w.shape), key=lambda at: (-abs(w[at]), at))
    kept: set[tuple[int, int]] = set()
    for unit in range(w.shape[axis]):
        kept |= set([at for at in order if at[axis] == unit][:floor])
    left = [at for at in order if at not in kept]
    return kept | set(left[: count - len(kept)])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("floor", [0, 1, 3])
@pytest.mark.parametrize("count", [33, 60, 11 * 9])
@pytest.mark.parametrize("ties", [False, True])
def test_the_largest_stay(axis: int, floor: int, count: int, ties: bool) -> None:
    weight = torch.randn(11, 9, generator=torch.Generator().manual_seed(count))
    if ties:
        weight = (weight * 2).round()
    mask = top_mask(weight, count, floor=floor, axis=axis)
    assert {tuple(at) for at in mask.nonzero().tolist()} == by_hand(weight, count, floor, axis)
    assert int(mask.sum()) == count
    assert int(mask.sum(1 - axis).min()) >= floor


@pytest.mark.parametrize(
    ("count", "floor", "axis", "said"),
    [(10, 1, 0, "1 weights for each of 11 units of 9 needs 11"), (99, 10, 0, "10 weights for each of 11 units of 9")],
)
def test_a_floor_that_cannot_be(count: int, floor: int, axis: int, said: str) -> None:
    with pytest.raises(ValueError, match=f"a floor of {said}.*Lower the floor, or keep more weights"):
        top_mask(torch.ones(11, 9), count, floor=floor, axis=axis)


def test_how_many_stay_at_a_step() -> None:
    """A line from 1 at step 100 to 1/100 at step 500: a quarter of the way 1 - 0.99 / 4."""
    annealing = Annealing(start=1.0, end=0.01, begin=100, settled=500)
    table = {0: 1.0, 100: 1.0, 200: 0.7525, 300: 0.505, 499: 0.012475, 500: 0.01, 10_000: 0.01}
    assert {step: pytest.approx(annealing.density(step), abs=1e-12) for step in table} == table


def test_an_annealing_of_no_steps() -> None:
    assert Annealing(start=0.5, end=0.5, begin=0, settled=0).density(0) == 0.5


def test_every_matrix_bias_and_embedding_is_annealed() -> None:
    model = Decoder(symbols=16, width=8, depth=2, heads=2)
    names = set(annealed(model))
    left = {name for name, _ in model.named_parameters()} - names
    assert left == {"bigram.weight", "norm.weight"} | {
        f"blocks.{number}.{norm}.weight" for number in (0, 1) for norm in ("attention_norm", "mlp_norm")
    }
    masks = top_masks(model, 0.25, floor=1)
    assert set(masks) == names
    assert counts(model, 0.25) == {name: active_count(mask.numel(), 0.75) for name, mask in masks.items()}
    assert {name: int(mask.sum()) for name, mask in masks.items()} == counts(model, 0.25)
    for number in (0, 1):  # what a channel or neuron reads, and what it writes
        assert masks[f"blocks.{number}.project.weight"].any(1).all()
        assert masks[f"blocks.{number}.widen.weight"].any(1).all()
        assert masks[f"blocks.{number}.out.weight"].any(0).all()
        assert masks[f"blocks.{number}.narrow.weight"].any(0).all()


def test_what_goes_may_come_back() -> None:
    """Adam's moments of a weight that is off stay, so that it grows again where its gradient insists."""
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[0.5, 0.4]])
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.3, weight_decay=0.0)
    seen = []
    for _ in range(3):
        optimizer.zero_grad()
        layer.weight.grad = torch.tensor([[1.0, -1.0]])  # the first falls, the second grows
        optimizer.step()
        keep_(layer, {"weight": top_mask(layer.weight, 1)})
        seen.append((layer.weight != 0).int().flatten().tolist())
    assert seen == [[0, 1], [0, 1], [0, 1]]
    layer.weight.grad = torch.tensor([[-50.0, 50.0]])
    for _ in range(9):
        optimizer.step()
        keep_(layer, {"weight": top_mask(layer.weight, 1)})
    assert (layer.weight != 0).int().flatten().tolist() == [1, 0]
