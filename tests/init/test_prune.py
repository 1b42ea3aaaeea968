"""SNIP, GraSP and SynFlow against finite differences, a dense Hessian and the conservation law."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf


def network(*, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def batches(*, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (12,), generator=generator)
    return [(x[:8], y[:8]), (x[8:], y[8:])]


def mean_loss(model: nn.Module) -> float:
    x, y = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    with torch.no_grad():
        return float(F.cross_entropy(model(x), y))


def test_snip_is_the_first_order_change_of_the_loss_when_a_weight_is_cut() -> None:
    """Oracle: central finite difference of the loss along w -> (1 +- e) w, one weight at a time, float64."""
    model = network()
    scores = sf.snip(model, F.cross_entropy, batches())
    for name in ("0.weight", "2.weight"):
        for index in ((0, 0), (2, 4)):
            epsilon, losses = 1e-5, []
            for sign in (1, -1):
                changed = copy.deepcopy(model)
                with torch.no_grad():
                    changed.get_parameter(name)[index] *= 1 + sign * epsilon
                losses.append(mean_loss(changed))
            slope = abs(losses[0] - losses[1]) / (2 * epsilon)
            assert float(scores[name][index]) == pytest.approx(slope, abs=1e-9)


def test_grasp_is_w_times_the_dense_hessian_times_the_gradient() -> None:
    model = network()
    names = [name for name, _ in model.named_parameters()]
    values = tuple(parameter.detach() for parameter in model.parameters())
    x, y = (torch.cat(parts) for parts in zip(*batches(), strict=True))

    def loss(*parameters: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x,)), y)

    sizes = [value.numel() for value in values]
    blocks = torch.autograd.functional.hessian(loss, values)
    hessian = torch.cat(
        [
            torch.cat([b.reshape(m, n) for b, n in zip(row, sizes, strict=True)], 1)
            for row, m in zip(blocks, sizes, strict=True)
        ]
    )
    gradient = torch.cat([g.flatten() for g in torch.autograd.functional.jacobian(loss, values)])
    product = dict(zip(names, torch.split(hessian @ gradient, sizes), strict=True))
    scores = sf.grasp(model, F.cross_entropy, batches())
    for name, score in scores.items():
        expected = model.get_parameter(name).detach() * product[name].view_as(score)
        torch.testing.assert_close(score, expected, atol=1e-12, rtol=1e-9)


def test_synflow_counts_are_exact_and_no_layer_collapses() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(*[layer for _ in range(6) for layer in (nn.Linear(20, 20), nn.ReLU())], nn.Linear(20, 4))
    before = copy.deepcopy(model.state_dict())
    masks = sf.synflow_masks(model, 0.97, torch.ones(1, 20))
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == round(total * 0.03)
    assert min(int(mask.sum()) for mask in masks.values()) >= 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_synflow_conserves_flow_through_a_hidden_unit() -> None:
    """Theorem 1 of Tanaka et al.: without biases, scores into a hidden unit sum to those out of it.

    One round keeps the top of the very first scores, so at two units the kept weights are worked out by hand:
    |W1| = [[1], [3]], |W2| = [[2, 1]]; scores into units 2 and 3, out of them 2 and 3.
    """
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[-1.0], [3.0]]))
        model[1].weight.copy_(torch.tensor([[2.0, -1.0]]))
    masks = sf.synflow_masks(model, 0.5, torch.ones(1, 1), rounds=1)
    assert masks["0.weight"].tolist() == [[False], [True]]
    assert masks["1.weight"].tolist() == [[False, True]]


def test_scores_become_masks_and_bad_input_is_refused() -> None:
    model = network()
    masks = sf.score_masks(sf.snip(model, F.cross_entropy, batches(), exclude=["2.*"]), 0.8)
    assert list(masks) == ["0.weight"]
    assert int(masks["0.weight"].sum()) == 7
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        sf.synflow_masks(model, 0.5, torch.ones(1, 5), rounds=0)
    with pytest.raises(ValueError, match="For 95% zeros write"):
        sf.synflow_masks(model, 95, torch.ones(1, 5))
    with pytest.raises(ValueError, match="batches is empty"):
        sf.snip(model, F.cross_entropy, [])


@pytest.mark.parametrize("score", [sf.snip, sf.grasp, sf.fisher_obd, partial(sf.hutchinson_obd, samples=1, seed=0)])
def test_a_frozen_weight_is_named_or_left_out(score: Callable[..., dict[str, Tensor]]) -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"'0\.weight' is frozen.*leave it out with exclude=\['0\.weight'\]"):
        score(model, F.cross_entropy, batches())
    assert list(score(model, F.cross_entropy, batches(), exclude=["0.weight"])) == ["2.weight"]


def test_synaptic_flow_goes_through_frozen_weights_too() -> None:
    model, frozen = network(), network().requires_grad_(False)
    masks, same = (sf.synflow_masks(each, 0.8, torch.ones(1, 5), rounds=3) for each in (model, frozen))
    assert all(torch.equal(masks[name], same[name]) for name in masks)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
