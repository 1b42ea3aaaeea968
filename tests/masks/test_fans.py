"""Fans of every layer type against a loop over units, and the reading of the layers against what they compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layer_table import LAYERS, MASKS, looped_fans
from sparseflow.masks.fans import Layout, dense_fans, fan_in, fan_out, unit_counts

COMPUTED = list(LAYERS)[: list(LAYERS).index("embedding")]  # those of model libraries: test_library_layers


@pytest.mark.parametrize("name", COMPUTED)
def test_the_table_reads_the_layers_as_pytorch_computes_them(name: str) -> None:
    """With one weight of 1 in an otherwise zero layer, one output channel depends on one input channel."""
    layer = LAYERS[name]
    module = layer.make()
    units, inputs = layer.unit_and_input()
    weight = dict(module.named_parameters())[layer.parameter]
    channels = module.in_features if isinstance(module, nn.Linear) else module.in_channels  # type: ignore[union-attr]
    x = torch.ones(1, channels, *[6] * (weight.dim() - 2), requires_grad=True)
    stride = max(1, weight.numel() // 60)  # 60 entries or so, spread over the weight
    for flat in range(0, weight.numel(), stride):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.zero_()
            weight.view(-1)[flat] = 1
        output = module(x)
        (gradient,) = torch.autograd.grad(output.sum(), x)
        assert output[0].flatten(1 if output.dim() > 2 else 0).reshape(output.shape[1], -1).any(
            1
        ).nonzero().tolist() == [[int(units.view(-1)[flat])]]
        assert gradient[0].reshape(channels, -1).any(1).nonzero().tolist() == [[int(inputs.view(-1)[flat])]]


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("density", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("name", LAYERS)
def test_fans_are_those_of_a_loop_over_units(name: str, kind: str, density: float) -> None:
    layer = LAYERS[name]
    units, inputs = layer.unit_and_input()
    mask = MASKS[kind](units, density, torch.Generator().manual_seed(0))
    expected_in, expected_out = looped_fans(layer, mask)
    layout = layer.layout()
    # Counts are exact; a lookup divides them by the number of rows.
    assert torch.equal(fan_in(mask, layout).expand(mask.shape), expected_in)
    assert torch.equal(fan_out(mask, layout).expand(mask.shape), expected_out)
    num_units, num_inputs = len(units.unique()), len(inputs.unique())
    assert unit_counts(mask, layout) == (
        num_units - len(units[mask].unique()),
        num_inputs - len(inputs[mask].unique()),
    )
    if density == 1:
        assert dense_fans(mask.shape, layout) == (float(expected_in.flatten()[0]), float(expected_out.flatten()[0]))
        assert expected_in.unique().numel() == expected_out.unique().numel() == 1


def test_a_count_beyond_bfloat16_is_exact() -> None:
    mask = torch.ones(2, 70_001)
    mask[1, 5] = 0
    assert fan_in(mask.bfloat16()).flatten().tolist() == [70_001.0, 70_000.0]


@pytest.mark.parametrize(("shape", "blocks"), [((4,), 1), ((), 1), ((7, 2), 3)])
def test_a_shape_that_does_not_split_is_an_error(shape: tuple[int, ...], blocks: int) -> None:
    with pytest.raises(
        ValueError, match=rf"at least two axes and a first axis that divides into {blocks} blocks, got sh"
    ):
        fan_in(torch.ones(shape), Layout(blocks=blocks))


def test_stacked_matrices_have_an_axis_of_their_own() -> None:
    with pytest.raises(
        ValueError, match=r"stacked matrices need at least three axes, \(matrices, units, inputs\), got \(4"
    ):
        fan_in(torch.ones(4, 2), Layout(stacked=True))
    with pytest.raises(ValueError, match=r"one matrix per entry of the first axis, and no blocks; got blocks=3"):
        Layout(stacked=True, blocks=3)
