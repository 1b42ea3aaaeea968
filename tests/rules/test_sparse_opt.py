"""SparseOpt against a table by hand, its own equation in a run, and the amplification by batch norm that it is for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.masks.fans import Layout
from tiny import active, eight, pull


def test_by_hand() -> None:
    """Densities 1, 1/4 and 0 of a layer of density 5/12."""
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]]).bool()
    want = [(1 / (5 / 12)) ** 0.5, (0.25 / (5 / 12)) ** 0.5, 0.0]
    assert sf.rules.unit_gradient_scale(mask).flatten().tolist() == pytest.approx(want, rel=1e-6)
    turned = sf.rules.unit_gradient_scale(mask.T.contiguous(), layout=Layout(transposed=True))
    assert turned.shape == (1, 3)
    assert turned.flatten().tolist() == pytest.approx(want, rel=1e-6)
    assert sf.rules.unit_gradient_scale(torch.zeros(2, 3, dtype=torch.bool)).tolist() == [[0.0], [0.0]]


def test_equally_sparse_units_are_left_alone() -> None:
    mask = torch.rand(6, 8, generator=torch.Generator().manual_seed(0)).argsort(1) < 3
    assert torch.equal(sf.rules.unit_gradient_scale(mask), torch.ones(6, 1))


def test_the_step_is_that_of_the_scaled_gradient() -> None:
    """SGD moves each weight by -lr c_i g; a layer that is left out moves by -lr g."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)).double()
    masks = sf.random_masks(model, 0.4, seed=0)
    sf.apply_masks_(model, masks)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rules = [sf.rules.SparseOpt(exclude=["1.*"])]
    sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0, rules=rules)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model(torch.randn(4, 6).double()).square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    optimizer.step()
    counts = masks["0.weight"].double().sum(1, keepdim=True)
    scale = ((counts / 6) / (counts.sum() / 30)).sqrt()
    wanted = [gradients[0] * scale * masks["0.weight"], gradients[1], gradients[2] * masks["1.weight"], gradients[3]]
    for parameter, start, gradient in zip(model.parameters(), before, wanted, strict=True):
        torch.testing.assert_close(parameter.detach(), start - 0.1 * gradient, rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", [sf.RigL, sf.SNFS])
def test_growth_sees_gradients_as_they_were(method: type) -> None:
    """A unit with one input has the largest gradient of an inactive weight, but not once gradients are scaled."""
    layer = nn.Linear(4, 2, bias=False)
    mask = torch.tensor([[True, False, False, False], [True, True, True, False]])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    updater = method(drop_fraction=0.25, update_every=1, update_until=1, regrow=False)
    sparsifier = sf.Sparsifier(layer, optimizer, {"weight": mask}, updater, seed=0, rules=[sf.rules.SparseOpt()])
    gradient = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.9]])
    scale = sf.rules.unit_gradient_scale(mask)
    assert int((gradient * scale).argmax()) == 7
    (layer.weight * gradient).sum().backward()
    optimizer.step()
    assert sparsifier.masks["weight"][0, 1]
    assert not sparsifier.masks["weight"][1, 3]


def test_scales_follow_the_masks() -> None:
    """After an update the step is that of the new counts: two units would swap theirs; here one of one."""
    updater = sf.SET(drop_fraction=0.5, update_every=1, update_until=1, schedule="constant")
    layer, optimizer, sparsifier = eight(updater, rules=[sf.rules.SparseOpt()])
    pull(layer, *[1.0] * 8)
    optimizer.step()
    layer.weight.grad = None
    pull(layer, *[1.0] * 8)
    optimizer.step()
    assert len(active(sparsifier)) == 4
    assert layer.weight.grad[sparsifier.masks["weight"]].tolist() == [1.0] * 4


def test_batch_norm_amplifies_the_gradients_of_sparse_units() -> None:
    """Units with 16 and 256 of 256 inputs, 64 of each, all weights of one variance: sqrt(16) = 4 apart, then 1.

    The mean over 64 units of squares that spread as chi-square does is off by less than a quarter, six deviations.
    """
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(128, 256, dtype=torch.bool)
    mask[:64, :16], mask[64:] = True, True
    weight = (torch.randn(128, 256, generator=generator) * mask).requires_grad_()
    norm = nn.BatchNorm1d(128)
    out = norm(torch.randn(512, 256, generator=generator) @ weight.T)
    (out * torch.randn(512, 128, generator=generator)).sum().backward()
    sums = [(weight.grad * mask * scale).square() for scale in (1, sf.rules.unit_gradient_scale(mask))]
    ratios = [float((each[:64].sum() / (64 * 16) / (each[64:].sum() / (64 * 256))).sqrt()) for each in sums]
    assert ratios == [pytest.approx(4, rel=0.25), pytest.approx(1, rel=0.25)]


def test_patterns_that_match_nothing_are_refused() -> None:
    layer = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(layer.parameters())
    with pytest.raises(ValueError, match=r"exclude has 'head', which matches no masked weight\. Masked: weight"):
        sf.Sparsifier(
            layer, optimizer, sf.random_masks(layer, 0.5, seed=0), sf.Static(), seed=0,
            rules=[sf.rules.SparseOpt(exclude=["head"])],
        )  # fmt: skip
    for given in ("head", 5, [5], None):
        with pytest.raises(TypeError, match=r"exclude takes a list of names or patterns, such as \['head.*'\], got"):
            sf.rules.SparseOpt(exclude=given)
