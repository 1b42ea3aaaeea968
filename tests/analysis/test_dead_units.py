"""Dead units against networks whose dead units are known by construction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparseflow as sf
from sparseflow.analysis import DeadUnits, dead_units

LABELS = torch.arange(32) % 3


def pixels(*shape: int) -> Tensor:
    """Positive numbers."""
    return torch.rand(32, *shape, generator=torch.Generator().manual_seed(0)) + 0.1


def network(hidden: int = 4) -> nn.Sequential:
    """Positive weights, no biases: everything fires."""
    model = nn.Sequential(nn.Linear(5, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 3))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(1)) + 0.1)
            if "bias" in name:
                parameter.zero_()
    return model


def look(
    model: nn.Module, masks: sf.Masks | None = None, x: Tensor | None = None, **options: Any
) -> dict[str, DeadUnits]:
    masks = {} if masks is None else masks
    return dead_units(model, [(pixels(5) if x is None else x, LABELS)], masks, **options)


def test_a_network_in_which_everything_fires_has_no_dead_unit() -> None:
    found = look(network())
    assert list(found) == ["0", "2", "4"]
    assert all(layer.dead == () for layer in found.values())
    assert [layer.units for layer in found.values()] == [4, 4, 3]


def test_a_filter_of_negative_weights_on_positive_pixels_never_fires() -> None:
    """The case of issue 17: biases are zero, pixels positive, all kept weights negative."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 3))
    with torch.no_grad():
        model[0].weight.abs_()[1].neg_()
    found = dead_units(model, [(pixels(1, 8, 8), LABELS)], {})
    assert found["0"] == DeadUnits(3, never_fire=(1,), no_gradient=(1,), no_path_in=(), no_path_out=())
    assert found["3"].dead == ()


def test_batch_norm_behind_a_layer_does_not_hide_its_sign() -> None:
    """A norm centres what a negative filter puts out: the same filter fires."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3))
    with torch.no_grad():
        model[0].weight.abs_()[1].neg_()
    assert dead_units(model, [(pixels(1, 8, 8), LABELS)], {})["0"].dead == ()


def test_a_shut_layer_does_not_silence_those_before_it() -> None:
    """The second layer's bias shuts its ReLU: only its units never fire, and none before it gets a gradient."""
    model = network()
    model[2].bias.data.fill_(-1e3)
    found = look(model)
    assert found["0"].never_fire == ()
    assert found["0"].no_gradient == (0, 1, 2, 3)
    assert found["2"].never_fire == found["2"].no_gradient == (0, 1, 2, 3)
    assert found["4"].never_fire == (0, 1, 2)  # its inputs are all zero
    assert found["4"].no_gradient == ()
    assert all(layer.no_path_in == layer.no_path_out == () for layer in found.values())


def test_units_without_a_path_by_a_table() -> None:
    """Unit 0 has no input, nothing reads unit 1; behind them, unit 0 of the next layer hears unit 0 alone."""
    model = network()
    masks = dict(sf.dense_masks(model))
    masks["0.weight"][0] = False
    masks["2.weight"][:, 1] = False
    masks["2.weight"][0, 1:] = False
    masks["4.weight"][:, 3] = False
    sf.apply_masks_(model, masks)
    found = look(model, masks)
    assert found["0"].no_path_in == (0,)
    assert found["0"].no_path_out == (1,)
    assert found["2"].no_path_in == (0,)
    assert found["2"].no_path_out == (3,)
    assert found["0"].never_fire == found["2"].never_fire == (0,)
    assert found["0"].no_gradient == (0, 1)  # torch's ReLU has no slope at 0


def test_a_constant_unit_with_a_bias_does_not_fire() -> None:
    model = network()
    masks = dict(sf.dense_masks(model))
    masks["0.weight"][2] = False
    sf.apply_masks_(model, masks)
    model[0].bias.data[2] = 1.0
    assert look(model, masks)["0"].never_fire == (2,)


def test_a_unit_that_fires_for_one_example_of_many_batches_is_alive() -> None:
    model = network()
    model[0].bias.data[0] = -2 * float(model[0].weight[0].detach().sum())
    rare = [(pixels(5), LABELS), (torch.full((32, 5), 3.0) + pixels(5), LABELS)]
    assert dead_units(model, rare[:1], {})["0"].never_fire == (0,)
    assert dead_units(model, rare, {})["0"].never_fire == ()


def test_detach_takes_the_gradient_and_not_the_signal() -> None:
    class Cut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach()

    model = nn.Sequential(network(), Cut(), nn.Linear(3, 3))
    found = dead_units(model, [(pixels(5), LABELS)], {})
    assert found["0.4"].no_gradient == (0, 1, 2)
    assert found["2"].no_gradient == ()
    assert found["0.0"].never_fire == found["0.2"].never_fire == found["0.4"].never_fire == ()


@pytest.mark.parametrize("training", [True, False])
def test_an_encoder(training: bool) -> None:
    """Each unit of a feed-forward layer that a bias shuts, and no other; torch's fast path is not taken."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).train(training)
    layer.linear1.bias.data[3] = -1e3
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(32, 3))
    found = dead_units(model, [(torch.randn(32, 4, 8), LABELS)], {})
    assert found["0.linear1"].never_fire == found["0.linear1"].no_gradient == (3,)
    assert found["0.self_attn"].dead == found["0.linear2"].dead == ()


class Two(nn.Module):
    """Takes two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        return self.net(u + v)


class WithLoss(nn.Module):
    """Returns its own loss, as Hugging Face's do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


FORMS: dict[str, tuple[Callable[[], nn.Module], Any, Any]] = {
    "pair": (network, (pixels(5), LABELS), F.cross_entropy),
    "two inputs": (Two, ((pixels(5), pixels(5)), LABELS), F.cross_entropy),
    "mapping and targets": (Two, ({"u": pixels(5), "v": pixels(5)}, LABELS), F.cross_entropy),
    "mapping with labels": (WithLoss, {"x": pixels(5), "labels": LABELS}, None),
}


@pytest.mark.parametrize("form", FORMS)
def test_batches_in_every_form(form: str) -> None:
    make, batch, loss_fn = FORMS[form]
    model = make()
    dict(model.named_parameters())["0.bias" if form == "pair" else "net.0.bias"].data[1] = -1e3
    found = dead_units(model, [batch], {}, loss_fn=loss_fn)
    assert found["0" if form == "pair" else "net.0"].never_fire == (1,)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_packed_sequences_read_by_their_last_state(kind: type[nn.RNNBase]) -> None:
    """Both directions of the last of two layers; nothing reads the output itself."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = kind(5, 4, num_layers=2, bidirectional=True)
            self.head = nn.Linear(8, 3)

        def forward(self, packed: nn.utils.rnn.PackedSequence) -> Tensor:
            state = self.lstm(packed)[1]
            last = state[0] if isinstance(state, tuple) else state
            return self.head(torch.cat([last[-2], last[-1]], -1))

    packed = nn.utils.rnn.pack_sequence([torch.randn(3, 5) for _ in range(32)])
    found = dead_units(Reader(), [(packed, LABELS)], {})
    assert {name: layer.dead for name, layer in found.items()} == {"lstm": (), "head": ()}


def test_the_model_stays_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.ReLU(inplace=True), nn.Linear(4, 3))
    before, draw = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    look(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), draw)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_network_that_has_diverged_is_not_called_alive() -> None:
    """The first unit outputs NaN, and through it every number behind it is NaN."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    masks = sf.dense_masks(model)
    with torch.no_grad():
        model[0].weight[0] = float("nan")
        model[0].weight[1] = 1.0
    inputs = torch.rand(8, 2, generator=torch.Generator().manual_seed(0))
    found = dead_units(model, [(inputs, torch.tensor([0, 1] * 4))], masks)
    assert (found["0"].never_fire, found["0"].no_gradient) == ((0,), (0, 1))
    assert (found["2"].never_fire, found["2"].no_gradient) == ((0, 1), (0, 1))


def test_a_model_without_values_is_refused() -> None:
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    masks = {"weight": torch.ones(2, 2, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"'weight' is on the meta device and has no values. Give the model memory"):
        dead_units(model, [(torch.ones(1, 2), torch.zeros(1, dtype=torch.long))], masks)


def test_weights_off_the_masks_are_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match=r"'0\.weight' is not zero off its mask"):
        look(model, {"0.weight": torch.zeros(4, 5, dtype=torch.bool)})
