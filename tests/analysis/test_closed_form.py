"""The closed form against dense float64 autograd, its parts against what they are transposes or factors of."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from chains import CHAINS, chain, data, dense_hessian
from sparseflow.analysis.closed_form import compute, convolutions, layers, sums
from sparseflow.analysis.closed_form.alive import reduced
from sparseflow.analysis.closed_form.chain import chain_of, closed_form_refusal
from sparseflow.analysis.closed_form.gauss_newton import softmax_rows
from sparseflow.analysis.closed_form.geometry import Geometry
from sparseflow.analysis.closed_form.layers import layer_of
from sparseflow.analysis.closed_form.segments import linearise
from sparseflow.analysis.layout import active_parameters

Masks = dict[str, Tensor]


def closed(model: nn.Module, batches: list[tuple[Tensor, Tensor]], masks: Masks | None) -> Tensor:
    layout = active_parameters(model, masks)
    return compute.closed_form(chain_of(model), layout, batches, dtype=torch.float64)


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Sums of some hundred terms of size 1 in float64, in another order."""
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) < 1e-13
    assert torch.equal(found, found.T)


# --- the matrix -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.0, 0.4, 0.8])
@pytest.mark.parametrize("name", CHAINS)
def test_it_is_the_hessian_of_autograd(name: str, sparsity: float) -> None:
    model, masks = chain(name, sparsity=sparsity)
    assert_same(closed(model, data(name), masks), dense_hessian(model, data(name), masks))


def test_softmax_regression_by_hand() -> None:
    """Logits W x: H = sum_n (diag(p) - p p') kron x x' / N, whatever the labels."""
    model, _ = chain("linear", sparsity=0.0)
    assert isinstance(model, nn.Linear)
    nn.init.zeros_(model.bias)
    ((inputs, targets),) = data("linear")
    p = (inputs @ model.weight.detach().T).softmax(1)
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    extended = torch.cat([inputs, torch.ones(7, 1, dtype=torch.float64)], 1)
    expected = torch.einsum("nab,ni,nj->aibj", curvature, extended, extended) / 7
    order = torch.tensor([*(5 * unit + i for unit in range(3) for i in range(4)), 4, 9, 14])  # kernel, then bias
    found = closed(model, [(inputs, targets)], None)
    assert_same(found, expected.reshape(15, 15)[order][:, order])
    assert torch.equal(found, closed(model, [(inputs, targets.flip(0))], None))


@pytest.mark.parametrize("name", ["deep", "lenet", "convolutions"])
def test_chunks_blocks_and_batches_do_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, masks = chain(name)
    expected = closed(model, data(name), masks)
    assert_same(closed(model, data(name, (1, 4, 2)), masks), expected)
    monkeypatch.setattr(sums, "CHUNK", 3)
    assert_same(closed(model, data(name), masks), expected)
    monkeypatch.setattr(sums, "CHUNK_BYTES", 1)
    monkeypatch.setattr(sums, "PANEL", 5)
    monkeypatch.setattr(convolutions, "BLOCK_BYTES", 1)
    monkeypatch.setattr(layers, "SPARSE", 2.0)  # even dense kernels weight by weight
    assert_same(closed(model, data(name, (5, 2)), masks), expected)


@pytest.mark.parametrize("sums_bytes", [0, 2**30])
@pytest.mark.parametrize("name", ["deep", "lenet"])
def test_threads_do_not_matter(name: str, sums_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with its own examples, or all with the same."""
    model, masks = chain(name)
    expected = closed(model, data(name), masks)
    monkeypatch.setattr(sums, "CHUNK", 2)
    monkeypatch.setattr(compute, "SUMS_BYTES", sums_bytes)
    torch.set_num_threads(3)  # the fixture of every test sets it back
    calls: list[tuple[int, int]] = []
    found = compute.closed_form(
        chain_of(model),
        active_parameters(model, masks),
        data(name, (5, 2)),
        dtype=torch.float64,
        progress=lambda done, of: calls.append((done, of)),
    )
    assert_same(found, expected)
    assert calls == sorted(calls)
    assert calls[-1] == (7, 7)


# --- what sparse networks are like ------------------------------------------------------------------------------------


def test_a_layer_without_active_weights() -> None:
    model, masks = chain("lenet")
    for name in ("3.weight", "9.weight"):
        masks[name] = torch.zeros_like(masks[name])
        sf.apply_masks_(model, masks)
        assert_same(closed(model, data("lenet"), masks), dense_hessian(model, data("lenet"), masks))


@pytest.mark.parametrize("name", ["images", "lenet"])
def test_dead_units_have_rows_of_zeros(name: str) -> None:
    """Channel and units that are never above zero, or that nothing reads; then a layer of dead units only."""
    model, masks = chain(name)
    last = list(masks)[-1]
    masks[last][:, 1] = False  # nothing reads unit 1
    sf.apply_masks_(model, masks)
    first = next(module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d))
    with torch.no_grad():
        first.bias[2] = -100
    found = closed(model, data(name), masks)
    assert_same(found, dense_hessian(model, data(name), masks))
    assert (found == 0).all(1).any()
    with torch.no_grad():
        first.bias.fill_(-100)
    assert_same(closed(model, data(name), masks), dense_hessian(model, data(name), masks))


def test_inputs_that_are_always_zero_and_weights_that_just_grew() -> None:
    """A grown weight is active and zero: no logit moves with what is behind it, but its own row is not zero."""
    model, masks = chain("images", sparsity=0.0)
    with torch.no_grad():
        model[3].weight[:, 1] = 0
    batches = [(inputs * (torch.arange(8).view(2, 2, 2) != 5), targets) for inputs, targets in data("images")]
    assert_same(closed(model, batches, masks), dense_hessian(model, batches, masks))


def test_frozen_parameters_stay_in_the_network_but_have_no_row() -> None:
    model, masks = chain("lenet")
    model[0].bias.requires_grad_(False)
    model[3].requires_grad_(False)
    model[7].weight.requires_grad_(False)
    assert_same(closed(model, data("lenet"), masks), dense_hessian(model, data("lenet"), masks))


def test_certain_predictions_stay_finite() -> None:
    """Logits of 1e5: probabilities are 0 and 1 and the Hessian vanishes but for the mixed terms of wrong labels."""
    model, masks = chain("images")
    with torch.no_grad():
        model[3].weight.mul_(1e5)
    assert_same(closed(model, data("images"), masks) / 1e5, dense_hessian(model, data("images"), masks) / 1e5)


# --- its parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "probabilities",
    [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1e-300, 1.0, 1e-320], [0.5, 0.5]],
)
def test_softmax_rows_are_a_root_of_the_softmax_hessian(probabilities: list[float]) -> None:
    p = torch.tensor(probabilities, dtype=torch.float64)
    rows = softmax_rows(p[:, None])[..., 0]
    assert rows.shape == (len(p) - 1, len(p))
    assert torch.allclose(rows.T @ rows, torch.diag(p) - p[:, None] * p, rtol=0, atol=1e-15)


GEOMETRIES = [
    nn.Conv2d(2, 3, 3),
    nn.Conv2d(2, 3, (2, 3), stride=(2, 1), padding=(0, 2), dilation=(1, 2)),
    nn.Conv2d(2, 3, (2, 3), padding="same", dilation=2),
    nn.Conv2d(2, 4, 2, padding="valid", groups=2),
]


@pytest.mark.parametrize("convolution", GEOMETRIES)
def test_geometry_is_that_of_torch(convolution: nn.Conv2d) -> None:
    convolution.double()
    value, geometry = torch.randn(2, 6, 7, 5, dtype=torch.float64), Geometry.of(convolution)
    expected = convolution(value.movedim(-1, 0)).movedim(0, -1)
    windows = geometry.windows(value[None])[0]
    assert tuple(windows.shape[1:3]) == geometry.positions((6, 7)) == tuple(expected.shape[1:3])
    model = nn.Sequential(convolution, nn.Flatten())
    layer = layer_of(chain_of(model).stages[0], active_parameters(model), torch.float64)
    assert torch.allclose(layer(value), expected)
    # The transpose, by its definition.
    other = torch.randn_like(windows)
    assert torch.allclose((windows * other).sum(), (value * geometry.from_windows(other, (6, 7))).sum())
    # Where the first weight of each window is, and how far the others are.
    places = geometry.corners((6, 7), value.device) + geometry.offsets(torch.arange(len(windows)), (6, 7))[:, None]
    flat = geometry.padded(value).flatten(0, 2)
    assert torch.equal(flat[places].view(windows.shape), windows)


SEGMENTS = [
    [nn.ReLU(), nn.MaxPool2d(2)],
    [nn.LeakyReLU(-0.5), nn.MaxPool2d(3, stride=1, padding=1), nn.Hardtanh(-0.5, 0.5)],
    [nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), nn.ReLU6(), nn.Flatten()],
    [nn.MaxPool2d(2, ceil_mode=True), nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten(), nn.ReLU(inplace=True)],
]


@pytest.mark.parametrize("modules", SEGMENTS)
def test_segments_are_linearised_as_autograd_does(modules: list[nn.Module]) -> None:
    value = torch.randn(3, 5, 7, 4, dtype=torch.float64)

    def plain(value: Tensor) -> Tensor:
        return nn.Sequential(*modules)(value.movedim(-1, 0).clone()).movedim(0, -1)

    output, operations = linearise(modules, value)
    expected, transpose = torch.func.vjp(plain, value)
    assert torch.allclose(output, expected)
    cotangent = torch.randn_like(output)
    pulled = cotangent
    for operation in reversed(operations):
        pulled = operation.pull(pulled)
    assert torch.allclose(pulled, transpose(cotangent)[0])
    # Pushing is the transpose of pulling, for full tangents and for those of one channel.
    tangent, channel = torch.randn(2, 3, 5, 7, 4, dtype=torch.float64), torch.tensor([2, 0])
    own = torch.zeros_like(tangent)
    own[[0, 1], channel] = tangent[:, 0]
    for full, pushed, channels in ((tangent, tangent, None), (own, tangent[:, 0], channel)):
        for operation in operations:
            pushed = operation.push(pushed, channels)
        target = cotangent.expand(2, *cotangent.shape)
        if channels is not None:
            target = target.view(2, 3, *pushed.shape[1:])[[0, 1], channels]
        assert torch.allclose((target * pushed).flatten(1).sum(1), (full * pulled).flatten(1).sum(1))


def test_what_no_logit_depends_on_is_left_out() -> None:
    """By hand: of 3 - 4 - 2, unit 0 is dead, unit 1 is not read, unit 2 reads a zero input; so 2 - 2 - 2 remains."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    masks = {"0.weight": torch.ones(4, 3, dtype=torch.bool), "2.weight": torch.ones(2, 4, dtype=torch.bool)}
    masks["0.weight"][2:, 0] = False
    masks["2.weight"][:, 1] = False
    sf.apply_masks_(model, masks)
    whole = [layer_of(stage, active_parameters(model, masks), torch.float64) for stage in chain_of(model).stages]
    alive = [torch.tensor([False, True, True, True]), torch.tensor([True, True])]
    small, kept = reduced(whole, alive, torch.tensor([True, True, True]))
    assert kept.tolist() == [1, 2]
    assert [tuple(layer.weight.shape) for layer in small] == [(2, 2), (2, 2)]
    assert torch.equal(small[0].weight, model[0].weight[2:, 1:])
    # Active weights of the first layer are counted row by row: 6 of units 0 and 1, then 2 + 2; biases follow.
    assert small[0].place.tolist() == [6, 7, 12, 8, 9, 13]


# --- refusals ---------------------------------------------------------------------------------------------------------


def tied() -> nn.Module:
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.ReLU(), layer)


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3))
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return model


class Forward(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).tanh()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Linear(3, 3), nn.Tanh()), "'1' is Tanh, which is not piecewise linear"),
        (nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))), "'0.1' is BatchNorm1d"),
        (nn.Sequential(nn.Linear(3, 3), nn.PReLU()), "'1' is PReLU"),
        (Forward(nn.Linear(3, 3)), "'' is Forward"),
        (tied(), "'2' shares its parameters"),
        (hooked(), "'0' has forward hooks"),
        (nn.ReLU(), "the model has no linear layer"),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), "what follows '0' does not end in Flatten"),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.Linear(3, 3)), "'1' is a linear layer behind a convolution"),
        (nn.Sequential(nn.Linear(3, 3), nn.Conv2d(1, 1, 1)), "'1' is a convolution behind a flat layer"),
        (
            nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), nn.Flatten()),
            "'0' pads with 'circular'",
        ),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(2)), "'1' keeps more than the first dimension"),
        (nn.Sequential(nn.Flatten(), nn.MaxPool2d(2), nn.Linear(3, 3)), "'1' is MaxPool2d behind a flat layer"),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(2, return_indices=True)), "'1' returns indices too"),
        (nn.Conv1d(1, 1, 1), "'' is Conv1d, which is not piecewise linear"),
    ],
)
def test_what_has_no_closed_form_says_why(model: nn.Module, reason: str) -> None:
    found = closed_form_refusal(model)
    assert found is not None
    assert found.startswith(reason)
    with pytest.raises(TypeError, match=reason.replace("(", r"\(")):
        chain_of(model)


def test_losses_inputs_and_targets_are_looked_at_too() -> None:
    model, inputs, targets = nn.Linear(3, 2), torch.randn(2, 3), torch.tensor([0, 1])
    assert closed_form_refusal(model, inputs, targets) is None
    assert closed_form_refusal(model, inputs, targets, loss_fn=nn.CrossEntropyLoss()) is None
    for loss_fn in (F.mse_loss, nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss(reduction="sum")):
        assert closed_form_refusal(model, loss_fn=loss_fn) == "the loss is not torch.nn.functional.cross_entropy"
    assert closed_form_refusal(model, inputs[None]) == "'' gets inputs of 3 dimensions, not 2"
    for odd in (torch.eye(2), torch.tensor([-100, 1]), targets[:, None]):
        assert closed_form_refusal(model, inputs, odd) == "the targets are not class labels, one for each example"
    assert closed_form_refusal(nn.Sequential(nn.Flatten(), model), inputs[None]) is None
