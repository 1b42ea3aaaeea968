"""Initialising whole models: what is drawn, and what is left alone."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from layer_table import LAYERS
from sparseflow import initialize_, random_masks
from sparseflow.init.fill import INITIALIZERS, kaiming_normal_
from sparseflow.init.schemes import SCHEMES
from sparseflow.masks.select import prunable
from sparseflow.rng import stream


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(24, 8), nn.Linear(8, 3))


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


# --- what is drawn ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", INITIALIZERS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_weight_is_the_function_under_its_own_stream(scheme: str, base: str) -> None:
    model = network()
    masks = random_masks(model, 0.6, seed=0)
    assert initialize_(model, masks, scheme=scheme, seed=3, base=base) is model
    for name, weight in prunable(model).items():
        expected = INITIALIZERS[base](
            torch.empty(masks[name].shape),
            masks[name],
            scaling=SCHEMES[scheme].scaling,
            generator=stream(3, "init", name),
        )
        if scheme != "live":
            assert torch.equal(weight.parameter, expected)
        assert torch.equal(weight.parameter != 0, masks[name])


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_type_gets_its_layout(layer: str) -> None:
    row = LAYERS[layer]
    model = row.make()
    masks = random_masks(model, 0.7, seed=0, include=["*"])
    initialize_(model, masks, seed=0)
    name = row.parameter
    expected = kaiming_normal_(
        torch.empty(masks[name].shape), masks[name], layout=row.layout(), generator=stream(0, "init", name)
    )
    assert torch.equal(dict(model.named_parameters())[name], expected)


def test_the_base_draw_is_the_same_under_every_scheme_and_mask() -> None:
    """Where two masks are both active, two schemes differ by a positive factor only: signs and zeros agree."""
    sparse, dense = network(), network()
    masks, more = random_masks(sparse, 0.6, seed=0), random_masks(dense, 0.2, seed=1)
    initialize_(sparse, masks, scheme="sparse", seed=5)
    initialize_(dense, more, scheme="dense", seed=5)
    for name, mask in masks.items():
        both = mask & more[name]
        a, b = sparse.get_parameter(name)[both], dense.get_parameter(name)[both]
        assert both.any()
        assert torch.equal(a.sign(), b.sign())


def test_seeds() -> None:
    first, again, other = network(), network(), network()
    masks = random_masks(first, 0.5, seed=0)
    for model, seed in ((first, 0), (again, 0), (other, 1)):
        initialize_(model, masks, seed=seed)
    for name, mask in masks.items():
        assert torch.equal(first.get_parameter(name), again.get_parameter(name))
        assert not (first.get_parameter(name) == other.get_parameter(name))[mask].any()


def test_the_global_random_state_is_left_alone() -> None:
    model = network()
    masks = random_masks(model, 0.5, seed=0)
    state = torch.get_rng_state()
    for scheme in SCHEMES:
        initialize_(model, masks, scheme=scheme, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_options_of_the_base_are_bound_with_partial() -> None:
    model, twin = nn.Linear(30, 20), torch.empty(20, 30)
    masks = random_masks(model, 0.5, seed=0)
    base = functools.partial(kaiming_normal_, mode="fan_out", nonlinearity="tanh")
    initialize_(model, masks, seed=0, base=base)
    kaiming_normal_(twin, masks["weight"], mode="fan_out", nonlinearity="tanh", generator=stream(0, "init", "weight"))
    assert torch.equal(model.weight, twin)


@pytest.mark.parametrize("move", [lambda m: m.to(memory_format=torch.channels_last), torch.compile, nn.DataParallel])
def test_format_and_wrappers_do_not_change_the_draw(move: Callable[[nn.Module], nn.Module]) -> None:
    plain, moved = network(), network()
    masks = random_masks(plain, 0.5, seed=0)
    initialize_(plain, masks, seed=0)
    initialize_(
        functools.partial(move, backend="eager")(moved) if move is torch.compile else move(moved), masks, seed=0
    )
    for name in masks:
        assert torch.equal(plain.get_parameter(name), moved.get_parameter(name))


# --- what is left alone -----------------------------------------------------------------------------------------------


def test_weights_without_a_mask_and_their_biases_stay() -> None:
    model = network()
    masks = random_masks(model, 0.5, seed=0, exclude=["3"])
    before = values(model)
    initialize_(model, masks, seed=0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"0.weight", "0.bias", "4.weight", "4.bias"}
    assert not model[0].bias.any()
    assert not model[4].bias.any()


def test_biases_stay_when_asked() -> None:
    model = network()
    before = values(model)
    initialize_(model, random_masks(model, 0.5, seed=0), seed=0, zero_biases=False)
    assert all(torch.equal(model.get_parameter(n), before[n]) for n in ("0.bias", "3.bias", "4.bias"))


@pytest.mark.parametrize(("keep", "kept"), [(["3.weight"], {"3"}), (["[03]*"], {"0", "3"}), (["*"], {"0", "3", "4"})])
def test_kept_weights_are_only_masked(keep: list[str], kept: set[str]) -> None:
    model = network()
    masks, before = random_masks(model, 0.5, seed=0), values(model)
    initialize_(model, masks, seed=0, keep=keep)
    for index in ("0", "3", "4"):
        name = f"{index}.weight"
        same = torch.equal(model.get_parameter(name), before[name] * masks[name])
        assert same == (index in kept)
        assert torch.equal(model.get_parameter(f"{index}.bias"), before[f"{index}.bias"]) == (index in kept)


def test_biases_of_attention_and_recurrent_layers_become_zero_norms_stay() -> None:
    model = nn.ModuleList([nn.MultiheadAttention(8, 2), nn.LSTM(4, 3), nn.LayerNorm(8)])
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)
    initialize_(model, random_masks(model, 0.5, seed=0), seed=0)
    for name, parameter in model.named_parameters():
        if name.startswith("2."):
            assert (parameter == 0.5).all()
        elif "bias" in name:
            assert not parameter.any()


def test_gradients_and_flags_stay() -> None:
    model = network().eval()
    model[3].weight.requires_grad_(False)
    model(torch.ones(2, 2, 4, 4)).sum().backward()
    gradient = model[0].weight.grad.clone()
    initialize_(model, random_masks(model, 0.5, seed=0), scheme="live", seed=0)
    assert torch.equal(model[0].weight.grad, gradient)
    assert [p.requires_grad for p in (model[0].weight, model[3].weight)] == [True, False]
    assert not model.training
    assert int(model[1].num_batches_tracked) == 0


# --- what looks set on purpose ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1.0, -4.6, 23.5])  # a forget gate, a rare class's prior, the mean of a target
def test_a_bias_that_no_layer_is_born_with_stays(value: float) -> None:
    model = network()
    with torch.no_grad():
        model[4].bias[1] = value
    before = values(model)
    masks = random_masks(model, 0.5, seed=0)
    with pytest.warns(UserWarning, match=r"set on purpose: 4.bias \(biases of size 1 or more\). To draw over them, or"):
        initialize_(model, masks, seed=0)
    assert torch.equal(model[4].bias, before["4.bias"])
    assert not model[3].bias.any()
    initialize_(model, masks, seed=0, zero_biases=False)
    initialize_(model, masks, seed=0, keep=["4.weight"])
    assert torch.equal(model[4].bias, before["4.bias"])
    initialize_(model, masks, seed=0, overwrite=["*.bias"])
    assert not model[4].bias.any()


@pytest.mark.parametrize(
    "layer", [nn.Linear(1, 50), nn.Conv2d(1, 9, 1), nn.LSTM(1, 1), nn.GRUCell(1, 1), nn.Bilinear(1, 1, 9)]
)
def test_no_layer_is_born_with_such_a_bias(layer: nn.Module) -> None:
    """Those with the fewest inputs have the largest."""
    initialize_(layer, random_masks(layer, 0.0, seed=0), seed=0)
    assert not any(p.any() for name, p in layer.named_parameters() if "bias" in name)


def test_a_matrix_of_zeros_stays() -> None:
    model = network()
    nn.init.zeros_(model[4].weight)
    masks = random_masks(model, 0.5, seed=0)
    with pytest.warns(UserWarning, match=r"set on purpose: 4.weight \(all zeros\)"):
        initialize_(model, masks, seed=0)
    assert not model[4].weight.any()
    initialize_(model, masks, seed=0, keep=["4.*"])
    assert not model[4].weight.any()
    initialize_(model, masks, seed=0, overwrite=["4.weight"])
    assert torch.equal(model[4].weight != 0, masks["4.weight"])


def test_an_embedding_that_another_layer_shares_is_only_masked() -> None:
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False))
    model[2].weight = model[0].weight
    before = model[0].weight.detach().clone()
    masks = random_masks(model, 0.5, seed=0, include=["*"])
    with pytest.warns(UserWarning, match=r"set on purpose: 0.weight \(an embedding that is also 2.weight\)"):
        initialize_(model, masks, seed=0)
    assert torch.equal(model[0].weight, before * masks["0.weight"])
    initialize_(model, masks, seed=0, overwrite=["0.weight"])
    assert not torch.equal(model[0].weight, before * masks["0.weight"])


def test_biases_of_weights_without_a_mask_stay_in_the_same_layer() -> None:
    model = nn.LSTM(4, 3)
    before = values(model)
    initialize_(model, random_masks(model, 0.5, seed=0, exclude=["*_hh_*"]), seed=0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"weight_ih_l0", "bias_ih_l0"}


# --- errors -----------------------------------------------------------------------------------------------------------


def test_bad_input() -> None:
    model = network()
    masks, before = random_masks(model, 0.5, seed=0), values(model)
    with pytest.raises(ValueError, match="scheme must be one of 'dense', 'liu', 'sparse', 'live', got 'ours'"):
        initialize_(model, masks, scheme="ours", seed=0)
    with pytest.raises(ValueError, match=r"base must be one of 'kaiming_normal', .*, got 'he'"):
        initialize_(model, masks, base="he", seed=0)
    with pytest.raises(ValueError, match=r"keep has 'head', which matches no masked weight. Masked: 0.weight, 3"):
        initialize_(model, masks, keep=["head"], seed=0)
    with pytest.raises(ValueError, match=r"overwrite has 'head', which matches no parameter. Parameters: 0.weight, 0"):
        initialize_(model, masks, overwrite=["head"], seed=0)
    with pytest.raises(TypeError, match=r"the mask of '0.weight' must be a bool tensor, got torch.float32"):
        initialize_(model, {"0.weight": masks["0.weight"].float()}, seed=0)
    with pytest.raises(ValueError, match=r"masks has '1.weight', which is no weight of the model"):
        initialize_(model, {"1.weight": torch.ones(6, dtype=torch.bool)}, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
