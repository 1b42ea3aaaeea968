"""The Hessian that users ask for: both ways to it against dense float64 autograd, and the promise to leave no trace."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from chains import CHAINS, Batch, chain, data, dense_hessian
from sparseflow.analysis.hessian import SlowHessianWarning, hessian


def smooth() -> tuple[nn.Sequential, dict[str, Tensor], list[Batch]]:
    """No closed form, and buffers: batch norm, dropout, tanh; float32."""
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3))
    masks = dict(sf.random_masks(model, 0.5, seed=0))
    return sf.apply_masks_(model, masks), masks, data("linear", (4, 3), dtype=torch.float32)


# --- what it is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHAINS)
def test_both_methods_are_the_hessian_of_autograd(name: str) -> None:
    model, masks = chain(name)
    expected = dense_hessian(model, data(name), masks)
    for method in ("auto", "closed_form", "products"):
        found = hessian(model, data(name, (3, 4)), masks, method=method)
        assert float((found - expected).abs().max()) < 1e-13  # float64, terms of size 1
        assert torch.equal(found, found.T)


def test_without_masks_every_weight_counts() -> None:
    model, _ = chain("lenet")
    found = hessian(model, data("lenet"))
    assert len(found) == sum(parameter.numel() for parameter in model.parameters())
    assert float((found - dense_hessian(model, data("lenet"), None)).abs().max()) < 1e-13


@pytest.mark.parametrize("method", ["closed_form", "products"])
def test_a_float32_model_is_computed_in_float64(method: str) -> None:
    model, masks = chain("lenet", dtype=torch.float32)
    batches = data("lenet", (3, 4), dtype=torch.float32)
    expected = dense_hessian(model, batches, masks)
    found = hessian(model, batches, masks, method=method)
    assert found.dtype == torch.float64
    assert float((found - expected).abs().max()) < 1e-13
    low = hessian(model, batches, masks, method=method, dtype=torch.float32)
    assert low.dtype == torch.float64
    assert (
        0 < float((low - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    )  # some hundred float32 roundings


def test_a_model_without_a_closed_form_says_that_it_will_take_long() -> None:
    model, masks, batches = smooth()
    with pytest.warns(SlowHessianWarning, match=r"'1' is BatchNorm1d, .* so each of 36 rows takes a Hessian-vector"):
        found = hessian(model, batches, masks)
    expected = dense_hessian(model.double(), batches, masks)
    assert float((found - expected).abs().max()) < 1e-13
    assert torch.equal(found, found.T)
    with pytest.raises(TypeError, match="no closed form of this Hessian: '1' is BatchNorm1d"):
        hessian(model, batches, masks, method="closed_form")


def test_other_losses() -> None:
    """Mean squared error of a linear layer, by hand: each unit has 2 x x' / 3, the mean over examples and 3 outputs."""
    model, _ = chain("linear", sparsity=0.0)
    ((inputs, _),) = data("linear")
    targets = torch.zeros(7, 3, dtype=torch.float64)
    with pytest.warns(SlowHessianWarning, match="the loss is not"):
        found = hessian(model, [(inputs, targets)], loss_fn=F.mse_loss)
    assert torch.allclose(found[:4, :4], 2 * inputs.T @ inputs / 21)
    assert found[:4, 4:12].abs().max() == 0


def test_a_linear_loss_has_none() -> None:
    model, _ = chain("linear")
    found = hessian(model, data("linear"), loss_fn=lambda output, target: output.mean(), method="products")
    assert found.shape == (15, 15)
    assert not found.any()


def test_a_compiled_model_and_batches_from_a_generator() -> None:
    model, masks = chain("images")
    wrapped = torch.compile(model, backend="eager")
    assert torch.equal(hessian(wrapped, iter(data("images")), masks), hessian(model, data("images"), masks))


@pytest.mark.parametrize("method", ["closed_form", "products"])
def test_progress_goes_up_to_the_number_of_examples(method: str) -> None:
    model, masks = chain("images")
    calls: list[tuple[int, int]] = []
    hessian(model, data("images", (3, 4)), masks, method=method, progress=lambda done, of: calls.append((done, of)))
    assert calls == sorted(calls)
    assert calls[-1] == (7, 7)


# --- no side effects --------------------------------------------------------------------------------------------------


def everything(model: nn.Module) -> list[Tensor]:
    found = [tensor.clone() for tensor in model.state_dict(keep_vars=True).values()]
    found += [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    found += [torch.tensor([part.training for part in model.modules()]), torch.get_rng_state()]
    return found


@pytest.mark.parametrize("method", ["closed_form", "products"])
def test_nothing_is_left_behind(method: str) -> None:
    if method == "products":
        model, masks, batches = smooth()
    else:
        (model, masks), batches = chain("deep"), data("deep", (3, 4))
    model.train()
    model[-1].eval()
    F.cross_entropy(model(batches[0][0]), batches[0][1]).backward()
    next(model.parameters()).grad = None
    before, kept = everything(model), [tensor.clone() for batch in batches for tensor in batch]
    with torch.no_grad():
        hessian(model, batches, masks, method=method)
    after = everything(model)
    assert len(before) == len(after)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(kept, [t for batch in batches for t in batch], strict=True))
    assert all(parameter.requires_grad for parameter in model.parameters())


# --- errors -----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused() -> None:
    model, masks = chain("images")
    batches = data("images")
    with pytest.raises(ValueError, match="batches is empty"):
        hessian(model, [], masks)
    with pytest.raises(ValueError, match=r"batches\[0\] has no examples; leave it out"):
        hessian(model, [(batches[0][0][:0], batches[0][1][:0])], masks)
    with pytest.raises(ValueError, match="method must be one of 'auto', 'closed_form', 'products'"):
        hessian(model, batches, masks, method="exact")
    with pytest.raises(ValueError, match=r"dtype must be torch.float64 or torch.float32"):
        hessian(model, batches, masks, dtype=torch.bfloat16)
    with pytest.raises(
        ValueError, match=r"the Hessian of 49 parameters takes 19,208 bytes, more than max_bytes=10,000"
    ):
        hessian(model, batches, masks, max_bytes=10_000)
    with pytest.raises(ValueError, match="has shape"):
        hessian(model, batches, {"1.weight": masks["3.weight"]})
    with torch.no_grad():
        model[1].weight.fill_(1)
    with pytest.raises(ValueError, match=r"'1\.weight' is not zero off its mask"):
        hessian(model, batches, masks)


@pytest.mark.parametrize("method", ["closed_form", "products"])
def test_a_hessian_that_is_not_finite_is_refused(method: str) -> None:
    model, masks = chain("images")
    with torch.no_grad():
        model[1].bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"the Hessian has .* entries that are NaN or infinite"):
        hessian(model, data("images"), masks, method=method)


def test_sparse_layers_of_the_engine_are_refused() -> None:
    model, masks = chain("images", dtype=torch.float32)
    sparse = sf.engine.convert(model, masks)
    with pytest.raises(TypeError, match=r"1\.weight, 3\.weight: sparse layers have first derivatives only"):
        hessian(sparse, data("images", dtype=torch.float32), masks)


def test_the_default_limit_is_four_gibibytes() -> None:
    model = nn.Linear(23_170, 1)
    with pytest.raises(ValueError, match="takes 4,295,161,928 bytes"):
        hessian(model, [(torch.ones(1, 23_170), torch.zeros(1, dtype=torch.int64))])
