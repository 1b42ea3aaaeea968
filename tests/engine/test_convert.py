"""From masks to real sparsity and back: whole models, against the masked ones in float64."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.engine.forms import why_not
from sparseflow.engine.layers.pools import AvgPool2d, MaxPool2d, is_batch_innermost
from sparseflow.rng import stream


def network() -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding="same"), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, bias=False),
        nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2, padding=1, count_include_pad=False), nn.Flatten(),
        nn.Linear(72, 20), nn.ReLU(), nn.Dropout(0.0), nn.Linear(20, 5),
    )  # fmt: skip
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2, generator=stream(0, name))
    return model.double()


def masked() -> tuple[nn.Sequential, dict[str, Tensor]]:
    model = network()
    masks = sf.random_masks(model, 0.8, seed=0)
    sf.apply_masks_(model, masks)
    return model, masks


def images(batch: int = 4) -> Tensor:
    return torch.randn(batch, 1, 12, 12, generator=stream(0, "images"), dtype=torch.float64)


def test_a_converted_model_is_the_masked_one() -> None:
    model, masks = masked()
    sparse = sf.engine.convert(model, masks)
    x, z = images().requires_grad_(), images().requires_grad_()
    want, found = model(x), sparse(z)
    torch.testing.assert_close(found, want)
    want.square().sum().backward()
    found.square().sum().backward()
    torch.testing.assert_close(z.grad, x.grad)
    for name, layer in sf.engine.sparse_layers(sparse).items():
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        torch.testing.assert_close(layer.values.grad, gradient[masks[name]])


def test_the_model_given_stays_as_it_was() -> None:
    model, masks = masked()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sparse = sf.engine.convert(model, masks)
    with torch.no_grad():
        for parameter in sparse.parameters():
            parameter.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_off_the_masks_are_dropped() -> None:
    model = network()
    masks = sf.random_masks(model, 0.8, seed=0)
    sparse = sf.engine.convert(model, masks)
    sf.apply_masks_(model, masks)
    torch.testing.assert_close(sparse(images()), model(images()))


def test_back_is_the_dense_model_with_plain_names() -> None:
    model, masks = masked()
    sparse = sf.engine.convert(model, masks)
    dense = sf.engine.to_dense(sparse)
    assert repr(dense) == repr(model)
    for state in (dense.state_dict(), sf.engine.dense_state_dict(sparse)):
        assert list(state) == list(model.state_dict())
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(mask, masks[name]) for name, mask in sf.engine.masks_of(sparse).items())


def test_a_dense_state_goes_into_a_sparse_model() -> None:
    model, masks = masked()
    sparse = sf.engine.convert(network(), masks)
    sparse.load_state_dict(model.state_dict())
    torch.testing.assert_close(sparse(images()), model(images()))


def test_a_single_layer_is_a_model_too() -> None:
    layer = nn.Linear(6, 4)
    masks = sf.random_masks(layer, 0.5, seed=0)
    sparse = sf.engine.convert(layer, masks)
    assert isinstance(sparse, sf.engine.SparseLinear)
    assert isinstance(sf.engine.to_dense(sparse), nn.Linear)
    assert set(sf.engine.dense_state_dict(sparse)) == {"weight", "bias"}


class Odd(nn.Module):
    """Every layer that the engine leaves to masks."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8, bias=False)
        self.twin = nn.Linear(8, 8, bias=False)
        self.twin.weight = self.tied.weight
        self.circular = nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular")
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.recurrent = nn.GRU(8, 8, batch_first=True)
        self.transposed = nn.ConvTranspose1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twin(self.tied(self.plain(x)))
        x = self.transposed(self.circular(x.flatten(0, 1).unsqueeze(1))).view(x.shape)
        return self.recurrent(self.attention(x, x, x)[0])[0]  # type: ignore[no-any-return]


def test_what_has_no_sparse_form_stays_masked_and_says_why() -> None:
    model = Odd().double()
    masks = sf.random_masks(model, 0.5, seed=0)
    reasons = sf.engine.convertible(model, masks)
    taken = ["plain.weight", "attention.in_proj_weight", "attention.out_proj.weight"]
    assert [name for name, reason in reasons.items() if reason is None] == taken
    assert reasons["tied.weight"] == "its weight is shared with another layer"
    assert reasons["circular.weight"] == "padding_mode='circular'"
    assert reasons["recurrent.weight_ih_l0"] == "no sparse form of GRU"
    sparse = sf.engine.convert(model, masks)
    sf.apply_masks_(model, masks)
    x = torch.randn(2, 3, 8, generator=stream(0, "x"), dtype=torch.float64)
    torch.testing.assert_close(sparse(x), model(x))
    assert sparse.twin.weight is sparse.tied.weight  # type: ignore[union-attr]


def test_only_some_layers() -> None:
    model, masks = masked()
    sparse = sf.engine.convert(model, masks, only=["8.weight"])
    assert list(sf.engine.sparse_layers(sparse)) == ["8.weight"]
    torch.testing.assert_close(sparse(images()), model(images()))
    with pytest.raises(ValueError, match=r"'7\.weight' cannot be converted: it has no mask"):
        sf.engine.convert(model, masks, only=["7.weight"])


def test_half_precision_and_other_devices_stay_masked() -> None:
    model, masks = masked()
    assert set(sf.engine.convertible(model.half(), masks).values()) == {"torch.float16 on cpu"}
    parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    assert type(parametrized) is not nn.Linear
    assert str(why_not(parametrized)).startswith("no sparse form of Parametrized")


def test_requires_grad_and_training_mode_are_kept() -> None:
    model, masks = masked()
    model.eval()
    model.get_parameter("0.weight").requires_grad_(False)
    sparse = sf.engine.convert(model, masks)
    assert not any(module.training for module in sparse.modules())
    assert not sf.engine.sparse_layers(sparse)["0.weight"].values.requires_grad
    assert not sf.engine.to_dense(sparse).get_parameter("0.weight").requires_grad


POOLS = [
    (nn.MaxPool2d(2), MaxPool2d),
    (nn.MaxPool2d(3, stride=2, padding=1), MaxPool2d),
    (nn.MaxPool2d((2, 3), dilation=2), MaxPool2d),
    (nn.AvgPool2d(2), AvgPool2d),
    (nn.AvgPool2d(3, stride=2, padding=1), AvgPool2d),
    (nn.AvgPool2d(3, padding=1, count_include_pad=False, divisor_override=2), AvgPool2d),
    (nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d),
    (nn.AvgPool2d(2, ceil_mode=True), nn.AvgPool2d),
]


@pytest.mark.parametrize(("pool", "form"), POOLS, ids=repr)
@pytest.mark.parametrize("relu", [True, False])
def test_pools_behind_convolutions(pool: nn.Module, form: type[nn.Module], relu: bool) -> None:
    chain = [nn.Conv2d(2, 3, 3), nn.ReLU(), pool] if relu else [nn.Conv2d(2, 3, 3), pool]
    model = nn.Sequential(*chain).double()
    masks = sf.random_masks(model, 0.5, seed=0)
    sf.apply_masks_(model, masks)
    sparse = sf.engine.convert(model, masks)
    assert type(sparse[-1]) is form  # type: ignore[index]
    x = torch.randn(3, 2, 11, 9, generator=stream(0, "x"), dtype=torch.float64)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    want, found = model(a), sparse(b)
    torch.testing.assert_close(found, want)
    want.square().sum().backward()
    found.square().sum().backward()
    torch.testing.assert_close(b.grad, a.grad)
    if form in (MaxPool2d, AvgPool2d):
        assert is_batch_innermost(found)
        # In torch's layout the pool is torch's own.
        torch.testing.assert_close(sparse[-1](x), pool(x))  # type: ignore[index]
    assert repr(sf.engine.to_dense(sparse)) == repr(model)


def test_the_engine_is_loaded_when_it_is_used() -> None:
    code = "import sys, sparseflow as sf; a = 'numba' in sys.modules; sf.engine; print(a, 'numba' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True"]


def test_without_numba_one_line_says_how_to_get_the_engine() -> None:
    code = "import sys; sys.modules['numba'] = None; import sparseflow as sf; sf.engine"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.endswith("the sparse engine needs Numba: pip install numba. Without it everything works masked.")


def test_an_unknown_name_of_the_package_is_an_error() -> None:
    with pytest.raises(AttributeError, match="module 'sparseflow' has no attribute 'engines'"):
        sf.engines  # noqa: B018


@pytest.mark.parametrize("training", [True, False])
def test_batch_normalisation_keeps_the_layout_and_its_statistics(training: bool) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU()).double()
    sparse = sf.engine.convert(model, sf.random_masks(model, 0.0, seed=0))
    model.train(training)
    sparse.train(training)
    x = torch.randn(5, 2, 8, 7, generator=stream(0, "x"), dtype=torch.float64)
    for _ in range(2):
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        want, found = model(a), sparse(b)
        torch.testing.assert_close(found, want)
        assert is_batch_innermost(found)
        want.square().sum().backward()
        found.square().sum().backward()
        torch.testing.assert_close(b.grad, a.grad)
    state = sf.engine.dense_state_dict(sparse)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(state[name], tensor)
    torch.testing.assert_close(sparse[1](x[:, :1].repeat(1, 3, 1, 1)), model[1](x[:, :1].repeat(1, 3, 1, 1)))  # type: ignore[index]
    assert repr(sf.engine.to_dense(sparse)) == repr(model)


def test_torch_code_that_looks_at_a_weight_finds_one() -> None:
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0).double()
    masks = sf.random_masks(model, 0.8, seed=0)
    sf.apply_masks_(model, masks)
    sparse = sf.engine.convert(model, masks)
    x = torch.randn(2, 5, 16, generator=stream(0, "x"), dtype=torch.float64)
    torch.testing.assert_close(sparse(x), model(x))
    model.eval()
    sparse.eval()
    with torch.no_grad():
        torch.testing.assert_close(sparse(x), model(x))
    layer = sf.engine.sparse_layers(sparse)["linear1.weight"]
    layer.weight.sum().backward()
    assert torch.equal(layer.values.grad, torch.ones_like(layer.values))


def test_a_layer_with_two_names_has_two_in_the_dense_state() -> None:
    model = nn.Module()
    model.a = model.b = nn.Linear(6, 4)
    sparse = sf.engine.convert(model, {"a.weight": torch.eye(4, 6).bool()})
    assert set(sf.engine.dense_state_dict(sparse)) == set(model.state_dict())
