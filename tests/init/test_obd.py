"""OBD's scores against exact Hessians, gradients one example at a time, and the loss after a weight is cut."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.init.obd import fisher_diagonal, hutchinson_diagonal


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 2, (12,), generator=generator)
    return [(x[:8], y[:8]), (x[8:], y[8:])]


def exact_hessian(model: nn.Module) -> Tensor:
    """Of the mean loss, over all parameters together, by torch.func."""
    names = [name for name, _ in model.named_parameters()]
    values = tuple(parameter.detach() for parameter in model.parameters())
    x, y = (torch.cat(parts) for parts in zip(*batches(), strict=True))

    def loss(*parameters: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x,)), y)

    sizes = [value.numel() for value in values]
    blocks = torch.autograd.functional.hessian(loss, values)
    return torch.cat(
        [
            torch.cat([b.reshape(n, m) for b, m in zip(row, sizes, strict=True)], 1)
            for row, n in zip(blocks, sizes, strict=True)
        ]
    )


def flat(found: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in found.values()])


def test_hutchinsons_estimate_is_unbiased() -> None:
    """Of one batch, by 4000 samples: within five standard deviations, sum of H_ij^2 over S, of the exact diagonal.

    By chance one of 23 entries is out in 1 of 75,000 seeds.
    """
    model, samples = network(), 4000
    whole = [tuple(torch.cat(parts) for parts in zip(*batches(), strict=True))]
    estimate = flat(hutchinson_diagonal(model, F.cross_entropy, whole, samples=samples, seed=0))
    hessian = exact_hessian(model)
    deviation = ((hessian.square().sum(1) - hessian.diag().square()) / samples).sqrt()
    assert len(estimate) == 23
    assert bool(((estimate - hessian.diag()).abs() <= 5 * deviation).all())
    assert float(deviation.max()) < 0.2 * float(hessian.diag().abs().max())  # the bound means something


def test_batches_add_up_by_their_sizes() -> None:
    """Two batches of 8 and 4: the mean over many samples of both is that of the mean loss."""
    model = network()
    estimate = flat(hutchinson_diagonal(model, F.cross_entropy, batches(), samples=4000, seed=1))
    torch.testing.assert_close(estimate, exact_hessian(model).diag(), rtol=0.1, atol=5e-3)


def test_a_diagonal_hessian_is_exact_by_one_sample() -> None:
    """Half a square of one input at a time: H = diag(mean x^2)."""
    layer = nn.Linear(3, 1, bias=False).double()
    x = torch.diag(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    found = hutchinson_diagonal(layer, lambda out, _: (out**2).sum() / 2, [(x, torch.zeros(3))], samples=1, seed=0)
    assert found["weight"].tolist() == [[1.0, 4.0, 9.0]]


def test_the_fisher_is_the_mean_of_squared_gradients_of_examples() -> None:
    model = network()
    squares = []
    for x, y in batches():
        for number in range(len(x)):
            loss = F.cross_entropy(model(x[number : number + 1]), y[number : number + 1])
            squares.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]) ** 2)
    torch.testing.assert_close(flat(fisher_diagonal(model, F.cross_entropy, batches())), torch.stack(squares).mean(0))


def test_the_fisher_is_the_expected_hessian_of_labels_that_the_network_draws() -> None:
    """Of a linear classifier's log-likelihood the two are equal in expectation: weighted by its own probabilities."""
    torch.manual_seed(1)
    layer = nn.Linear(3, 4, bias=False).double()
    x = torch.randn(1, 3, dtype=torch.float64)
    probabilities = layer(x).softmax(1).detach()[0]
    found = sum(
        p * fisher_diagonal(layer, F.cross_entropy, [(x, torch.tensor([label]))])["weight"]
        for label, p in enumerate(probabilities)
    )
    torch.testing.assert_close(found, (probabilities * (1 - probabilities))[:, None] * x**2)


def test_scores_are_the_damage_of_cutting_a_weight() -> None:
    """At the minimum of a quadratic loss with a diagonal Hessian, the loss after a cut, exactly."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 1, bias=False).double()
    x = torch.diag(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    y = layer(x).detach()

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().sum() / 2

    scores = sf.hutchinson_obd(layer, loss, [(x, y)], samples=1, seed=0)["weight"]
    for place in range(3):
        cut = copy.deepcopy(layer)
        cut.weight.data[0, place] = 0
        assert float(scores[0, place]) == pytest.approx(float(loss(cut(x), y).detach()), rel=1e-12)


def test_scores_are_half_the_diagonal_times_the_squared_weight() -> None:
    model = network()
    for scores, diagonal in (
        (sf.fisher_obd(model, F.cross_entropy, batches()), fisher_diagonal(model, F.cross_entropy, batches())),
        (
            sf.hutchinson_obd(model, F.cross_entropy, batches(), seed=3),
            hutchinson_diagonal(model, F.cross_entropy, batches(), seed=3),
        ),
    ):
        assert list(scores) == ["0.weight", "2.weight"]
        for name, score in scores.items():
            assert torch.equal(score, diagonal[name] * model.get_parameter(name).detach() ** 2 / 2)
        masks = sf.score_masks(scores, 0.5, scope="global")
        assert sum(int(mask.sum()) for mask in masks.values()) == 9


def test_a_model_with_batch_norm_is_left_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sf.fisher_obd(model, F.cross_entropy, batches())
    sf.hutchinson_obd(model, F.cross_entropy, batches(), seed=0)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_linear_loss_has_no_curvature() -> None:
    layer = nn.Linear(2, 1, bias=False)
    found = hutchinson_diagonal(layer, lambda out, _: out.sum(), [(torch.ones(1, 2), torch.zeros(1))], seed=0)
    assert found["weight"].tolist() == [[0.0, 0.0]]


def test_no_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        sf.hutchinson_obd(network(), F.cross_entropy, batches(), samples=0, seed=0)
