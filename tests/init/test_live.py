"""Live inputs against reachability worked out unit by unit with plain loops, on architectures of every kind."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sparseflow import initialize_, live_inputs, random_masks
from sparseflow.init.fill import kaiming_normal_
from sparseflow.masks.fans import Layout
from sparseflow.rng import stream

Masks = dict[str, Tensor]


def reach(mask: Tensor, live: list[bool]) -> list[bool]:
    """A unit lives if one active weight of it (any kernel position) reads a live input."""
    rows = mask.reshape(mask.shape[0], mask.shape[1], -1).tolist()
    return [any(alive and any(taps) for alive, taps in zip(live, row, strict=True)) for row in rows]


def live_channels(found: Tensor, mask: Tensor) -> list[bool]:
    """The inputs marked as live, which must be the same for every unit and kernel position."""
    full = found.expand(mask.shape).reshape(mask.shape[0], mask.shape[1], -1)
    assert (full == full[:1, :, :1]).all()
    return [bool(value) for value in full[0, :, 0]]


@st.composite
def widths_and_density(draw: st.DrawFn) -> tuple[list[int], float, int]:
    widths = draw(st.lists(st.integers(1, 9), min_size=2, max_size=6))
    return widths, draw(st.floats(0.05, 0.9)), draw(st.integers(0, 2**16))


@given(widths_and_density())
def test_mlps_against_reachability(case: tuple[list[int], float, int]) -> None:
    widths, density, seed = case
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    model = nn.Sequential(*(each for layer in layers for each in (layer, nn.ReLU())))
    generator = torch.Generator().manual_seed(seed)
    masks = {
        f"{2 * i}.weight": torch.rand(layer.weight.shape, generator=generator) < density
        for i, layer in enumerate(layers)
    }
    found = live_inputs(model, masks)
    live = [True] * widths[0]
    for name, mask in masks.items():
        assert live_channels(found[name], mask) == live
        live = reach(mask, live)


@pytest.mark.parametrize("seed", range(20))
def test_a_convolutional_net_against_reachability(seed: int) -> None:
    """Valid convolutions: every position sees every kernel tap, so channels live or die whole; then a flatten."""
    model = nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.ConvTranspose2d(8, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 2 * 2, 10), nn.GELU(), nn.Linear(10, 3)),
    )  # 8x8 -> 6x6 -> 3x3 (pool) -> 1x1 -> 2x2
    generator = torch.Generator().manual_seed(seed)
    masks = {
        name: torch.rand(parameter.shape, generator=generator) < density
        for (name, parameter), density in zip(
            ((n, p) for n, p in model.named_parameters() if n.endswith("weight") and n != "4.weight"),
            (0.06, 0.06, 0.1, 0.08, 0.3),
            strict=True,
        )
    }
    found = live_inputs(model, masks)
    assert live_channels(found["0.weight"], masks["0.weight"]) == [True, True]
    conv1 = reach(masks["0.weight"], [True, True])
    # Two groups: outputs 0-3 read inputs 0-2, outputs 4-7 inputs 3-5.
    grouped = found["3.weight"].expand(8, 3, 3, 3)
    assert (grouped == grouped[:, :, :1, :1]).all()
    assert grouped[:, :, 0, 0].tolist() == [conv1[:3]] * 4 + [conv1[3:]] * 4
    conv2 = reach(masks["3.weight"][:4], conv1[:3]) + reach(masks["3.weight"][4:], conv1[3:])
    # Transposed: inputs first; each of the 2x2 positions of an output sees one tap of the 1x1 input.
    transposed = found["6.weight"].expand(8, 4, 2, 2)
    assert transposed.tolist() == [[[[alive] * 2] * 2] * 4 for alive in conv2]
    taps = masks["6.weight"].tolist()
    flat = [
        any(conv2[i] and taps[i][unit][row][column] for i in range(8))
        for unit in range(4)
        for row in range(2)
        for column in range(2)
    ]
    assert live_channels(found["9.weight"], masks["9.weight"]) == flat
    assert live_channels(found["11.weight"], masks["11.weight"]) == reach(masks["9.weight"], flat)


def test_a_corner_tap_over_a_single_pixel_sees_padding_only() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 1))
    corner = torch.zeros(2, 1, 3, 3, dtype=torch.bool)
    corner[0, 0, 0, 0] = corner[1, 0, 1, 1] = True  # the second sees the centre
    masks = {"0.weight": corner, "2.weight": torch.ones(1, 2, 1, 1, dtype=torch.bool)}
    found = live_inputs(model, masks, example_inputs=torch.ones(1, 1, 1, 1))
    assert found["2.weight"].flatten().tolist() == [False, True]
    assert live_inputs(model, masks)["2.weight"].all()  # a larger image reaches the corner
    unbatched = live_inputs(model, masks, example_inputs=torch.ones(1, 1, 1))
    assert torch.equal(unbatched["2.weight"], found["2.weight"])


def test_what_a_failed_guess_saw_is_forgotten() -> None:
    """224 and others run into the linear layer and fail; at 1x1, which works, the corner tap sees padding only."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(2, 2))
    corner = torch.zeros(2, 1, 3, 3, dtype=torch.bool)
    corner[0, 0, 0, 0] = corner[1, 0, 1, 1] = True
    masks = {"0.weight": corner, "1.weight": torch.ones(2, 2, 1, 1, dtype=torch.bool)}
    assert live_inputs(model, masks)["1.weight"][0].flatten().tolist() == [False, True]


# --- norms, residuals, ties, several inputs ---------------------------------------------------------------------------

#: Unit 0 of the first layer is dead, units 1 and 2 are live.
FIRST = torch.tensor([[False, False], [True, False], [True, True]])
NORMS: dict[str, tuple[Callable[[], nn.Module], list[bool]]] = {
    "batch norm": (lambda: nn.BatchNorm1d(3), [False, True, True]),
    "batch norm without running statistics": (
        lambda: nn.BatchNorm1d(3, track_running_stats=False),
        [False, True, True],
    ),
    "rms norm": (lambda: nn.RMSNorm(3), [False, True, True]),
    "layer norm": (lambda: nn.LayerNorm(3), [True, True, True]),  # subtracts the mean over units
    "group norm": (lambda: nn.GroupNorm(1, 3), [True, True, True]),
    "dropout": (lambda: nn.Dropout(0.9), [False, True, True]),
    "prelu": (lambda: nn.PReLU(3), [False, True, True]),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_between_layers(name: str) -> None:
    make, expected = NORMS[name]
    norm = make()
    for parameter in norm.parameters():
        nn.init.zeros_(parameter)  # a gamma of 0 must not pass for a dead unit
    for buffer in norm.buffers():
        buffer.fill_(3)  # nor running statistics
    model = nn.Sequential(nn.Linear(2, 3), norm, nn.Linear(3, 1))
    masks = {"0.weight": FIRST, "2.weight": torch.ones(1, 3, dtype=torch.bool)}
    assert live_inputs(model, masks)["2.weight"].tolist() == [expected]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    live_inputs(model, masks)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_instance_norm_keeps_dead_channels_dead() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.InstanceNorm2d(3, affine=True), nn.Conv2d(3, 1, 1))
    masks = {"0.weight": FIRST[:, :, None, None], "2.weight": torch.ones(1, 3, 1, 1, dtype=torch.bool)}
    assert live_inputs(model, masks)["2.weight"].flatten().tolist() == [False, True, True]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 1, bias=False)
        self.conv1 = nn.Conv2d(4, 4, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)
        nn.init.zeros_(self.norm2.weight)  # as ResNets start

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        branch = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return self.head(torch.relu(x + branch).mean((2, 3)))


@pytest.mark.parametrize("seed", range(20))
def test_a_residual_net_against_reachability(seed: int) -> None:
    model, generator = Residual(), torch.Generator().manual_seed(seed)
    masks = {
        f"{name}.weight": torch.rand(model.get_submodule(name).weight.shape, generator=generator) < 0.3
        for name in ("stem", "conv1", "conv2", "head")
    }
    found = live_inputs(model, masks)
    stem = reach(masks["stem.weight"], [True])
    branch1 = reach(masks["conv1.weight"], stem)
    branch2 = reach(masks["conv2.weight"], branch1)
    assert live_channels(found["conv1.weight"], masks["conv1.weight"]) == stem
    assert live_channels(found["conv2.weight"], masks["conv2.weight"]) == branch1
    joined = [a or b for a, b in zip(stem, branch2, strict=True)]
    assert live_channels(found["head.weight"], masks["head.weight"]) == joined


def test_the_first_layer_may_be_dense() -> None:
    """The guess starts from the model's first layer, masked or not."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3), nn.Conv2d(3, 1, 3))
    masks = random_masks(model, 0.5, seed=0, first_layer_dense=True)
    masks["1.weight"][0] = False
    found = live_inputs(model, masks)
    assert set(found) == {"1.weight", "2.weight"}
    assert found["1.weight"].all()
    assert live_channels(found["2.weight"], masks["2.weight"]) == reach(masks["1.weight"], [True] * 3)


def test_a_tied_weight_is_fed_by_all_its_layers() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[2].weight = model[1].weight
    # Layer 0 feeds unit 0 alone; layer 1 moves it to unit 1; layer 2, the same weight, reads units 1.
    one = torch.tensor([[1, 1, 1], [0, 0, 0], [0, 0, 0]]).bool()
    move = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 1]]).bool()
    found = live_inputs(model, {"0.weight": one, "1.weight": move})
    assert live_channels(found["1.weight"], move) == [True, True, False]


def test_examples_count_features_that_are_never_zero_as_live() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 2)
            self.mix = nn.Linear(4, 3)

        def forward(self, tokens: Tensor, features: Tensor, scale: float) -> Tensor:
            return self.mix(torch.cat([self.embed(tokens), features], -1)) * scale

    model, mask = Two(), torch.ones(3, 4, dtype=torch.bool)
    features = torch.tensor([[0.0, -1.0], [0.0, 0.0]])  # the first is zero in the whole batch
    found = live_inputs(model, {"mix.weight": mask}, example_inputs=(torch.tensor([1, 2]), features, 2.0))
    assert live_channels(found["mix.weight"], mask) == [True, True, False, True]
    with pytest.raises(ValueError, match=r"no input could be guessed for Two: give one batch, example_inputs=x"):
        live_inputs(model, {"mix.weight": mask})


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_inputs_of_one_to_three_axes_are_guessed(axes: int) -> None:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    model = nn.Sequential(kind(1, 2, 3), nn.Flatten(), nn.Linear(2 * 6**axes, 2))
    found = live_inputs(model, {"2.weight": torch.ones(2, 2 * 6**axes, dtype=torch.bool)})
    assert found["2.weight"].all()


def test_layers_that_count_every_input_are_left_out() -> None:
    model = nn.TransformerEncoderLayer(8, 2, dim_feedforward=6, batch_first=True)
    masks = random_masks(model, 0.5, seed=0)
    found = live_inputs(model, masks, example_inputs=torch.ones(1, 3, 8))
    assert "self_attn.in_proj_weight" not in found
    initialize_(model, masks, scheme="live", seed=0, example_inputs=torch.ones(1, 3, 8))
    expected = kaiming_normal_(
        torch.empty(24, 8), masks["self_attn.in_proj_weight"], layout=Layout(blocks=3),
        generator=stream(0, "init", "self_attn.in_proj_weight"),
    )  # fmt: skip
    assert torch.equal(model.self_attn.in_proj_weight, expected)


def test_bad_input() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    with pytest.raises(ValueError, match=r"masks has '5.weight', which is no weight of the model"):
        live_inputs(model, {"5.weight": FIRST})
    with pytest.raises(ValueError, match=r"the mask of '0.weight' has shape \(2, 3\), its weight \(3, 2\)"):
        live_inputs(model, {"0.weight": FIRST.T})
    assert live_inputs(model, {}) == {}
    # A model whose first layer is not fed by the input cannot be guessed either.
    wrong = nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Linear(4, 1))
    with pytest.raises(ValueError, match=r"no input could be guessed for Sequential"):
        live_inputs(wrong, {"1.weight": torch.ones(1, 4, dtype=torch.bool)})


def test_the_random_state_and_the_model_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.Linear(3, 1)).train()
    state, weights = torch.get_rng_state(), [p.clone() for p in model.parameters()]
    live_inputs(model, {"0.weight": FIRST})
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert all(
        module.training and not module._forward_hooks and not module._forward_pre_hooks for module in model.modules()
    )


def test_an_in_place_activation_and_a_compiled_model() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(inplace=True), nn.Linear(3, 1))
    masks = {"0.weight": FIRST, "2.weight": torch.ones(1, 3, dtype=torch.bool)}
    for wrap in (nn.DataParallel, functools.partial(torch.compile, backend="eager")):
        assert live_inputs(wrap(model), masks)["2.weight"].tolist() == [[False, True, True]]
