"""The networks against the tables of the paper's protocol, and their start against Glorot's interval."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sparseflow.networks import NETWORKS, build_network, networks_for

# Name of the layer -> (weights, biases).
TABLES = {
    "lenet5": {"conv1": (150, 6), "conv2": (2400, 16), "fc1": (30720, 120), "fc2": (10080, 84), "fc3": (840, 10)},
    "lenet5-small": {"conv1": (75, 3), "conv2": (225, 3), "fc1": (1296, 27), "fc2": (540, 20), "fc3": (200, 10)},
    "mlp": {"fc1": (235200, 300), "fc2": (30000, 100), "fc3": (1000, 10)},
    "mlp-small": {"fc1": (6272, 8), "fc2": (64, 8), "fc3": (80, 10)},
}
# Total weights and biases, as the paper's text and code state them.
TOTALS = {"lenet5": (44190, 236), "lenet5-small": (2336, 63), "mlp": (266200, 410), "mlp-small": (6416, 26)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_model_has_its_table() -> None:
    assert set(networks_for(1)) == set(TABLES) == set(TOTALS)


@pytest.mark.parametrize("name", networks_for(1))
def test_counts(name: str) -> None:
    model = build_network(name, generator=generator())
    counts = {
        key: (layer.weight.numel(), layer.bias.numel())
        for key, layer in model.named_children()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    assert counts == TABLES[name]
    assert tuple(sum(column) for column in zip(*counts.values(), strict=True)) == TOTALS[name]
    assert sum(parameter.numel() for parameter in model.parameters()) == sum(TOTALS[name])


def test_lenet5_sizes_are_those_of_unpadded_convolutions() -> None:
    sizes = {}
    x = torch.zeros(1, 1, 28, 28)
    for name, layer in NETWORKS["lenet5"].build().named_children():
        x = layer(x)
        sizes[name] = tuple(x.shape[1:])
    assert sizes["conv1"] == (6, 24, 24)
    assert sizes["pool1"] == (6, 12, 12)
    assert sizes["conv2"] == (16, 8, 8)
    assert sizes["pool2"] == (16, 4, 4)
    assert sizes["flatten"] == (256,)
    assert sizes["fc3"] == (10,)


@pytest.mark.parametrize("name", networks_for(1))
def test_models_are_chains_from_images_to_logits(name: str) -> None:
    model = build_network(name, generator=generator(), num_classes=7)
    assert type(model) is nn.Sequential
    images = torch.rand(3, 1, 28, 28, generator=generator())
    logits = model(images)
    assert logits.shape == (3, 7)
    assert not isinstance(list(model)[-1], nn.ReLU)
    # One ReLU after each layer with weights but the last.
    with_weights = [layer for layer in model if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert sum(isinstance(layer, nn.ReLU) for layer in model) == len(with_weights) - 1


def test_lenet5_computes_what_is_written_out_here() -> None:
    model = build_network("lenet5", generator=generator(1))
    state = {name: value.detach() for name, value in model.state_dict().items()}
    x = images = torch.rand(2, 1, 28, 28, generator=generator(2))
    for name in ("conv1", "conv2"):
        patches = x.unfold(2, 5, 1).unfold(3, 5, 1)  # (N, in, H, W, 5, 5)
        x = torch.einsum("nihwab,oiab->nohw", patches, state[f"{name}.weight"]).clamp(min=0)
        x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5))
    x = x.reshape(2, 256)
    for name in ("fc1", "fc2"):
        x = (x @ state[f"{name}.weight"].T).clamp(min=0)
    torch.testing.assert_close(model(images).detach(), x @ state["fc3.weight"].T, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", networks_for(1))
def test_start_is_glorot_uniform_with_zero_biases(name: str) -> None:
    model = build_network(name, generator=generator())
    for layer in model:
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        area = math.prod(layer.weight.shape[2:])
        bound = math.sqrt(6 / (area * (layer.weight.shape[0] + layer.weight.shape[1])))
        weight = layer.weight.detach().double()
        assert not layer.bias.any()
        assert weight.abs().max() <= bound * (1 + 1e-6)
        # Mean and mean square of a uniform: z-scores, var(w^2) = 4/45 bound^4.
        n = weight.numel()
        assert abs(weight.mean()) < 4 * bound / math.sqrt(3 * n)
        assert abs(weight.square().mean() - bound**2 / 3) < 4 * bound**2 * math.sqrt(4 / 45 / n)


def test_start_depends_on_the_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = build_network("lenet5", generator=generator(3)).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    two = build_network("lenet5", generator=generator(3)).state_dict()
    other = build_network("lenet5", generator=generator(4)).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["fc1.weight"], other["fc1.weight"])


def test_built_models_can_be_trained() -> None:
    model = build_network("mlp-small", generator=generator())
    assert all(parameter.requires_grad and parameter.device.type == "cpu" for parameter in model.parameters())
    model(torch.rand(2, 1, 28, 28)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_unknown_model_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"name must be one of 'lenet5', 'lenet5-small', 'mlp', .* got 'lenet'"):
        build_network("lenet", generator=generator())
