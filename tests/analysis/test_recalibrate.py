"""Running statistics estimated anew; oracle: sums by hand, and a network trained there."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from solutions import batches, network, state_of
from sparseflow.analysis.landscape import linear_path
from sparseflow.analysis.recalibrate import recalibrate_, running_norms


def test_running_statistics_are_those_of_each_point() -> None:
    """Oracle: mean and unbiased variance of each batch of the first layer's float64 output, weighted by its size."""
    model = network(dtype=torch.float64)
    start, end = state_of(model, 0), state_of(model, 1)
    data, training = batches(), batches((7, 4), seed=5)
    path = linear_path(model, start, end, data, recalibrate=iter(training), alphas=[0.0, 0.4, 1.0])
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    for alpha, loss in zip(path.alphas, path.losses, strict=True):
        w = {name: (1 - alpha) * start[name] + alpha * end[name] for name in start}
        hidden = [F.linear(inputs, w["0.weight"], w["0.bias"]) for inputs, _ in training]
        mean = sum(len(h) * h.mean(0) for h in hidden) / 11
        var = sum(len(h) * h.var(0) for h in hidden) / 11
        normal = F.batch_norm(F.linear(x, w["0.weight"], w["0.bias"]), mean, var, w["1.weight"], w["1.bias"])
        expected = F.cross_entropy(F.linear(normal.relu(), w["4.weight"], w["4.bias"]), y)
        assert loss == pytest.approx(float(expected), rel=1e-12)


def test_the_models_statistics_are_kept_on_demand_and_never_by_default() -> None:
    model, data = network(), batches(dtype=torch.float32)
    ends = [copy.deepcopy(model.state_dict()) for _ in range(2)]
    with pytest.raises(ValueError, match=r"'1' normalises by running statistics, .* Give recalibrate=\[\("):
        linear_path(model, *ends, data)
    kept = linear_path(model, *ends, data, recalibrate=False, alphas=[0, 1])
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    assert kept.losses[0] == pytest.approx(F.cross_entropy(model.eval()(x), y).item(), rel=1e-6)  # float32
    assert linear_path(model, *ends, data, recalibrate=data[:2], alphas=[0]).losses[0] != kept.losses[0]
    # Norms without running statistics need nothing; batches for them do no harm.
    group = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 3))
    ends = [state_of(group, seed) for seed in (0, 1)]
    a, b = (linear_path(group, *ends, data[:2], recalibrate=r, alphas=[0.5]) for r in (None, data[:2]))
    assert a == b


def test_recalibration_by_hand() -> None:
    """Batches 1, 3 and 5, 5, 5, 8: means 2 and 5.75, unbiased variances 2 and 2.25."""
    norm = nn.BatchNorm1d(1).eval()
    columns = [torch.tensor(values).view(-1, 1) for values in ([1.0, 3.0], [5.0, 5.0, 5.0, 8.0])]
    data = [(column, column) for column in columns]
    random = torch.get_rng_state()
    assert recalibrate_(norm, data) is norm
    assert norm.running_mean.item() == pytest.approx((2 * 2 + 4 * 5.75) / 6)
    assert norm.running_var.item() == pytest.approx((2 * 2 + 4 * 2.25) / 6)
    assert (norm.momentum, norm.training, int(norm.num_batches_tracked)) == (0.1, False, 2)
    assert torch.equal(torch.get_rng_state(), random)


def test_recalibration_forgets_what_was_there_and_leaves_dropout_off() -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(6, momentum=None)).train()
    model[1].running_mean.fill_(math.nan)
    data = batches((40,), dtype=torch.float32)
    recalibrate_(model, data)
    assert torch.allclose(model[1].running_mean, data[0][0].mean(0), atol=1e-6)
    assert model[1].momentum is None
    assert model[0].training
    assert list(running_norms(model)) == ["1"]


def test_recalibration_that_fails_changes_nothing() -> None:
    norm = nn.BatchNorm1d(6)
    norm(batches((4,), dtype=torch.float32)[0][0])
    before = copy.deepcopy(norm.state_dict())
    with pytest.raises(ValueError, match=r"recalibrate is empty; give at least one \(inputs, targets\) pair"):
        recalibrate_(norm, [])
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        recalibrate_(norm, batches((4, 1), dtype=torch.float32))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert norm.momentum == 0.1
