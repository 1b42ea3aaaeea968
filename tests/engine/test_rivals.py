"""Other precisions of the dense model: taken where they run and compute about the same, else named with the reason."""

from __future__ import annotations

import copy
import re
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from sparseflow.engine.speed.rivals import CLOSE, bfloat16, int8
from sparseflow.rng import stream


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 4))


def inputs() -> Tensor:
    return torch.randn(8, 16, generator=stream(0, "x"))


class Noting(nn.Module):
    """Notes the dtype of its weight and of what it computes."""

    notes: ClassVar[list[tuple[torch.dtype, torch.dtype]]] = []

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        self.notes.append((self.layer.weight.dtype, y.dtype))
        return y


class InFloatOnly(Noting):
    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        return super().forward(x)


@pytest.mark.parametrize(
    ("make", "training", "weight"),
    [
        (Noting, True, torch.float32),
        (Noting, False, torch.bfloat16),
        (InFloatOnly, False, torch.float32),
    ],
)
def test_training_is_under_autocast_and_inference_with_cast_weights_where_they_run(
    make: type[nn.Module], training: bool, weight: torch.dtype
) -> None:
    rival = bfloat16(make, inputs(), training=training)
    assert rival.step is not None
    Noting.notes.clear()
    rival.step()
    assert Noting.notes == [(weight, torch.bfloat16)]


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_model_changes(training: bool) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    rival = bfloat16(lambda: copy.deepcopy(model), inputs(), training=training)
    assert (rival.reason, int8(lambda: copy.deepcopy(model), inputs()).reason) == (None, None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    if not training:
        assert torch.equal(torch.get_rng_state(), state)


class Refusing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError("no such\nkernel " + 200 * "x")


class Cancelling(nn.Module):
    """The difference of two large numbers, of which bfloat16 keeps nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x) + 1000.0
        return y - 1000.0


class NotANumber(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y if self.layer(x).dtype == torch.float32 else y * float("nan")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Refusing, "no such"),
        (Cancelling, "its outputs are [0-9]+ % off"),
        (NotANumber, "its outputs are nan % off"),
        (lambda: network().double(), "the model is in float64"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_what_does_not_run_or_is_far_off_is_no_rival(make: type[nn.Module], reason: str, training: bool) -> None:
    rival = bfloat16(make, inputs(), training=training)
    assert rival.step is None
    assert rival.reason is not None
    assert re.fullmatch(reason, rival.reason)


def test_what_torch_does_not_quantise_is_named() -> None:
    assert int8(lambda: nn.Conv1d(16, 4, 1), inputs()[..., None]).reason == "no layer that torch quantizes dynamically"
    assert int8(lambda: network().double(), inputs()).reason == "the model is in float64"
    assert int8(lambda: nn.Sequential(nn.Linear(16, 4), Refusing()), inputs()).reason == "no such"


def test_int8_computes_about_the_same() -> None:
    """Weights of 8 bits, one of 255 steps for each matrix, are off by less than the bound for close results."""
    model = network().eval()
    rival = int8(lambda: copy.deepcopy(model), inputs())
    assert rival.step is not None
    rival.step()
    coarse = copy.deepcopy(model)
    with torch.no_grad():
        for layer in (coarse[0], coarse[4]):
            step = layer.weight.abs().max() / 127
            layer.weight.copy_((layer.weight / step).round() * step)
        distance = (coarse(inputs()) - model(inputs())).norm() / model(inputs()).norm()
    assert float(distance) < CLOSE / 2


def test_a_quantised_transformer_runs_without_the_fused_path() -> None:
    """Which reads weights that its quantised layers do not have; the dense model keeps it."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    rival = int8(lambda: copy.deepcopy(model), torch.randn(2, 3, 16, generator=stream(0, "tokens")))
    assert rival.reason is None
    assert rival.step is not None
    rival.step()
    rival.step()  # the switch is there for every call
    assert torch.backends.mha.get_fastpath_enabled()
