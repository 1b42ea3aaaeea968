"""The order of active parameters against tables worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.analysis.layout import active_parameters


def network() -> tuple[nn.Sequential, dict[str, Tensor]]:
    """Weights 1..6 in two rows, of which 2, 4 and 6 are active; biases 7, 8; a norm 9, 10, 11, 12."""
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    mask = torch.tensor([[False, True, False], [True, False, True]])
    with torch.no_grad():
        for parameter, first in zip(model.parameters(), (1, 7, 9, 11), strict=True):
            parameter.copy_(torch.arange(first, first + parameter.numel()).view(parameter.shape))
        model[0].weight.mul_(mask)
    return model, {"0.weight": mask}


def test_the_order_is_layer_by_layer_kernel_row_by_row_then_bias() -> None:
    model, masks = network()
    layout = active_parameters(model, masks)
    assert layout.flatten(dict(model.named_parameters())).tolist() == [2, 4, 6, 7, 8, 9, 10, 11, 12]
    assert layout.names == ("0.weight", "0.bias", "1.weight", "1.bias")
    assert layout.counts == {"0.weight": 3, "0.bias": 2, "1.weight": 2, "1.bias": 2}
    assert layout.slices["1.weight"] == slice(5, 7)
    assert layout.size == 9


def test_unflatten_undoes_flatten() -> None:
    model, masks = network()
    layout = active_parameters(model, masks)
    whole = layout.unflatten(layout.flatten(dict(model.named_parameters())))
    assert list(whole) == list(layout.names)
    for name, parameter in model.named_parameters():
        assert torch.equal(whole[name], parameter)
    # Where inactive, unflatten gives zeros whatever was there.
    assert layout.unflatten(torch.ones(9))["0.weight"].tolist() == [[0, 1, 0], [1, 0, 1]]


def test_both_directions_are_differentiable() -> None:
    """<flatten(a), v> = <a, unflatten(v)>: each is the gradient of the other."""
    model, masks = network()
    layout = active_parameters(model, masks)
    vector = torch.arange(9.0, requires_grad=True)
    pulled = torch.autograd.grad(layout.flatten(dict(model.named_parameters())) @ vector.detach(), model[0].weight)[0]
    assert torch.equal(pulled, layout.unflatten(vector.detach())["0.weight"])
    other = torch.autograd.grad((layout.unflatten(vector)["0.weight"] * torch.arange(6.0).view(2, 3)).sum(), vector)[0]
    assert other.tolist() == [1, 3, 5, 0, 0, 0, 0, 0, 0]


def test_frozen_parameters_are_left_out_and_all_or_none_may_be_active() -> None:
    model, masks = network()
    assert active_parameters(model).size == 12
    model[0].weight.requires_grad_(False)
    assert active_parameters(model, masks).names == ("0.bias", "1.weight", "1.bias")
    model[0].weight.requires_grad_(True)
    with torch.no_grad():
        model[0].weight.zero_()
    nothing = active_parameters(model, {"0.weight": torch.zeros(2, 3, dtype=torch.bool)})
    assert nothing.counts["0.weight"] == 0
    assert nothing.slices["0.bias"] == slice(0, 2)


def test_names_have_no_prefix_of_a_wrapper_and_shared_weights_count_once() -> None:
    layer = nn.Linear(2, 2)
    assert active_parameters(torch.compile(layer, backend="eager")).names == ("weight", "bias")
    assert active_parameters(nn.Sequential(layer, nn.ReLU(), layer)).size == 6


@pytest.mark.parametrize("seed", range(3))
def test_the_size_is_what_the_masks_count(seed: int) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 4))
    masks = sf.random_masks(model, 0.7, seed=seed)
    sf.apply_masks_(model, masks)
    assert active_parameters(model, masks).size == sum(int(mask.sum()) for mask in masks.values()) + 7


def test_what_does_not_fit_is_refused() -> None:
    model, masks = network()
    layout = active_parameters(model, masks)
    with pytest.raises(ValueError, match=r"the vector has shape \(8,\), it needs \(9,\)"):
        layout.unflatten(torch.ones(8))
    with pytest.raises(ValueError, match=r"'0.bias' needs a tensor of shape \(2,\), got nothing"):
        layout.flatten({"0.weight": model[0].weight})
    with pytest.raises(ValueError, match=r"'0.weight' needs a tensor of shape \(2, 3\), got \(3, 2\)"):
        layout.flatten({"0.weight": model[0].weight.T})
    with pytest.raises(ValueError, match=r"'0.weight' is not zero off its mask"):
        active_parameters(model, {"0.weight": torch.zeros(2, 3, dtype=torch.bool)})
    with pytest.raises(ValueError, match="which is no weight of the model"):
        active_parameters(model, {"2.weight": masks["0.weight"]})
    with pytest.raises(ValueError, match="has no parameter that requires a gradient"):
        active_parameters(nn.ReLU())
