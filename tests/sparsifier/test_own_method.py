"""A method of a user's own, for which the library has no line, on layers that are stored whole and as active values."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from own_method import OneByOne, noisy_gradient
from sparseflow.rng import stream
from tiny import SIZES, batch, masked, tiny_model

TURNED = "5.weight"


def trained(only: list[str] | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Masks and weights after four steps, with the named layers stored as active values alone."""
    model: nn.Module = tiny_model(dtype=torch.float64)
    masks = masked(model)
    sf.apply_masks_(model, masks)
    if only is not None:
        model = sf.engine.convert(model, masks, only=only)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = sf.Sparsifier(model, optimizer, masks, OneByOne(every=2, turned=TURNED), seed=0)
    for step in range(1, 5):
        images, labels = batch(step, dtype=torch.float64)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        sparsifier.check()
    weights = sf.engine.dense_state_dict(model)
    return {name: mask.clone() for name, mask in sparsifier.masks.items()}, {name: weights[name] for name in SIZES}


def test_an_update_is_drop_and_grow_in_the_order_of_the_layers() -> None:
    """Oracle: the pure function on whole tensors, drawing from the same stream."""
    model = tiny_model()
    masks = masked(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sparsifier = sf.Sparsifier(model, optimizer, masks, OneByOne(every=2, turned=TURNED), seed=3)
    sparsifier.step_count = 1
    generator = stream(3, "grow")
    expected = {}
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        weight.grad = torch.randn(mask.shape, generator=stream(0, name))
        if name == TURNED:
            expected[name] = mask.flip(-1)
        else:
            grow = noisy_gradient(weight, weight.grad, generator=generator)
            expected[name] = sf.drop_and_grow(mask, weight.detach().abs(), grow, 2, 2).mask
    optimizer.step()
    for name, mask in expected.items():
        assert torch.equal(sparsifier.masks[name], mask)


@pytest.mark.parametrize("only", [[*SIZES], ["3.weight"], [TURNED]])
def test_stored_weights_move_like_masked_ones(only: list[str]) -> None:
    (masks, weights), (expected, dense) = trained(only), trained(None)
    for name in SIZES:
        assert torch.equal(masks[name], expected[name])
        torch.testing.assert_close(weights[name], dense[name], rtol=1e-9, atol=1e-11)  # sums in another order


def test_a_gradient_that_is_not_finite_stops_it() -> None:
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sparsifier = sf.Sparsifier(model, optimizer, masked(model), OneByOne(every=2, turned=TURNED), seed=0)
    sparsifier.step_count = 1
    before = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model[3].weight.grad[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"the gradient of '3\.weight' at the mask update of step 2 has 1 of 480"):
        optimizer.step()
    assert all(map(torch.equal, sparsifier.masks.values(), before.values()))
