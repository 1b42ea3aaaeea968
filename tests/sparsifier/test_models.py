"""The Sparsifier around any model: compiled, copied, averaged, tied, in other formats and precisions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import sparseflow as sf
from makers import SETTINGS, masks_of, method_of
from sparseflow.methods import DropGrow
from tiny import OPTIMIZERS, assert_same_bits, loss_of, masked, snapshot, tiny_model, train_step


def rigl(**options: Any) -> DropGrow:
    return sf.RigL(**{"drop_fraction": 0.3, "update_every": 2, "schedule": "constant", **options})


def attach(model: nn.Module, updater: Any = None, *, optimizer_name: str = "momentum") -> tuple[Any, sf.Sparsifier]:
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    return optimizer, sf.Sparsifier(model, optimizer, masked(model), updater or rigl(), seed=0)


def attach_method(model: Any, method: str) -> tuple[Any, sf.Sparsifier]:
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    masks = masks_of(method, model)
    return optimizer, sf.Sparsifier(model, optimizer, masks, method_of(method), seed=0)


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.status("compiled")
def test_a_compiled_model_stays_one_graph_and_trains_alike(method: str) -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    ends = []
    for compiled in (False, True):
        model = tiny_model()
        forward = torch.compile(model, backend=counter, fullgraph=True) if compiled else model
        optimizer, sparsifier = attach_method(forward, method)
        updates: list[int] = []
        sparsifier.after_update.append(lambda step, changes, seen=updates: seen.append(step))
        for step in range(7):
            train_step(forward, optimizer, step)
        assert updates == {
            "static": [],
            "prune": [2, 5],
            "one_shot": [4],
            "n_of_m": [2, 5],
            "top_kast": [3, 6],
            "sr_ste": [1, 2, 3, 4, 5, 6, 7],
            "acdc": [2, 4, 6],
            "granet": [2, 5],
        }.get(method, [3, 6])
        assert list(sparsifier.masks) == ["0.weight", "3.weight", "5.weight"]
        ends.append(snapshot(model, optimizer) + list(sparsifier.masks.values()))
    assert counter.frame_count == 1
    assert_same_bits(*ends)


def test_nothing_is_renamed_wrapped_or_added() -> None:
    model = tiny_model()
    keys, classes = list(model.state_dict()), [type(module) for module in model.modules()]
    attributes = [set(vars(module)) for module in model.modules()]
    identities = [id(parameter) for parameter in model.parameters()]
    optimizer, _ = attach(model)
    optimizer_keys = set(optimizer.state_dict())
    for step in range(3):
        train_step(model, optimizer, step)
    assert list(model.state_dict()) == keys
    assert [type(module) for module in model.modules()] == classes
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert [id(parameter) for parameter in model.parameters()] == identities
    assert set(optimizer.state_dict()) == optimizer_keys == {"state", "param_groups"}


def test_a_deep_copy_is_sparse_and_independent() -> None:
    model = tiny_model()
    optimizer, sparsifier = attach(model)
    train_step(model, optimizer, 0)
    twin, twin_optimizer = copy.deepcopy(model), copy.deepcopy(optimizer)
    masks = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    before = snapshot(twin, optimizer)[: len(list(twin.parameters()))]
    train_step(model, optimizer, 1)  # an update
    sf.check(twin, None, masks)
    assert_same_bits(before, [parameter.detach() for parameter in twin.parameters()])
    count = sparsifier.step_count
    with pytest.raises(RuntimeError, match=r"the copy has no Sparsifier, .* copy.deepcopy\(\(model, optimizer, spar"):
        twin_optimizer.step()
    assert sparsifier.step_count == count


def test_an_average_follows_the_masks_when_told() -> None:
    model = tiny_model()
    optimizer, sparsifier = attach(model)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    for step in range(4):
        train_step(model, optimizer, step)
        average.update_parameters(model)
    with pytest.raises(sf.BrokenPromiseError, match=r"inactive weights of '0\.weight' are not zero"):
        sf.check(average, None, sparsifier.masks)
    kept = {name: average.module.get_parameter(name) * mask for name, mask in sparsifier.masks.items()}
    sf.apply_masks_(average, sparsifier.masks)
    sf.check(average, None, sparsifier.masks)
    assert all(torch.equal(average.module.get_parameter(name), value) for name, value in kept.items())
    sparsifier.check()  # the model itself never was touched


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(12, 12, bias=False)
        self.decode = nn.Linear(12, 12)
        self.decode.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(torch.tanh(self.encode(x)))


def test_tied_weights_have_one_mask_under_their_first_name() -> None:
    model = Tied()
    optimizer, sparsifier = attach(model)
    assert list(sparsifier.masks) == ["encode.weight"]
    for _ in range(4):
        optimizer.zero_grad()
        x = torch.randn(16, 12)
        (model(x) - x).square().mean().backward()
        optimizer.step()
        sparsifier.check()
    assert model.decode.weight is model.encode.weight
    assert torch.count_nonzero(model.decode.weight) <= 43  # 144 * 0.3
    with pytest.raises(ValueError, match=r"masks has 'decode.weight', which is no weight of the model"):
        sf.Sparsifier(model, optimizer, {"decode.weight": torch.ones(12, 12).bool()}, sf.Static(), seed=0)


def channels_last() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(16, 4))


@pytest.mark.parametrize("when", ["before", "after"])
def test_channels_last_weights_get_the_same_masks(when: str) -> None:
    """The tie rule and SET's draws follow logical order, not memory: same masks, whenever the model was converted.

    In float64, so that the other order of summation of the convolution cannot turn a comparison of scores.
    """
    torch.manual_seed(0)
    start = channels_last().double()
    images = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    ends = []
    for convert in (None, when):
        model = copy.deepcopy(start)
        if convert == "before":
            model = model.to(memory_format=torch.channels_last)
        optimizer, sparsifier = attach(model)
        if convert == "after":
            model = model.to(memory_format=torch.channels_last)
        x = images.to(memory_format=torch.channels_last) if convert else images
        for _ in range(5):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            sparsifier.check()
        weight = model[0].weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == (convert is not None)
        assert sparsifier.masks["0.weight"].stride() == weight.stride()
        ends.append((sparsifier.masks, weight.detach()))
    assert all(torch.equal(ends[0][0][name], mask) for name, mask in ends[1][0].items())
    torch.testing.assert_close(ends[0][1], ends[1][1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "updater", [sf.SET(update_every=2), rigl(), sf.SNFS(update_every=2), sf.OneShot(sparsity=0.9, at=2)]
)
def test_other_precisions(updater: Any, dtype: torch.dtype) -> None:
    model = tiny_model(dtype=dtype)
    optimizer, sparsifier = attach(model, updater, optimizer_name="adam")
    counts = {name: int(mask.sum()) for name, mask in sparsifier.masks.items()}
    start = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    for step in range(4):
        train_step(model, optimizer, step)
        sparsifier.check()
    assert model[0].weight.dtype == dtype
    assert all(not torch.equal(mask, start[name]) for name, mask in sparsifier.masks.items())
    after = {name: int(mask.sum()) for name, mask in sparsifier.masks.items()}
    assert after == (counts if isinstance(updater, DropGrow) else {"0.weight": 3, "3.weight": 48, "5.weight": 4})


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.status("AMP")
def test_autocast(method: str) -> None:
    model = tiny_model()
    optimizer, sparsifier = attach_method(model, method)
    for step in range(7):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, step)
        loss.backward()
        optimizer.step()
        sparsifier.check()
    assert model[0].weight.dtype == torch.float32


def test_the_callers_masks_are_copied() -> None:
    model = tiny_model()
    masks = masked(model)
    before = {name: mask.clone() for name, mask in masks.items()}
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    sf.Sparsifier(model, optimizer, masks, rigl(update_every=1), seed=0)
    train_step(model, optimizer, 0)
    assert_same_bits(list(masks.values()), list(before.values()))


def test_remove_stops_listening() -> None:
    model = tiny_model()
    optimizer, sparsifier = attach(model)
    train_step(model, optimizer, 0)
    sparsifier.remove()
    sparsifier.remove()  # twice is no harm
    sparsifier.check()
    train_step(model, optimizer, 1)
    assert sparsifier.step_count == 1
    with pytest.raises(sf.BrokenPromiseError, match=r"inactive weights of '0\.weight' are not zero"):
        sparsifier.check()
