"""Quick roots: steps are those of torch's own roots to the last bit, and state is left as plain tensors."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.sparsifier import roots
from sparseflow.sparsifier.roots import ROOTS, is_lost, quick_root

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "AdamW, amsgrad": partial(torch.optim.AdamW, amsgrad=True),
    "RAdam": torch.optim.RAdam,
    "RMSprop": torch.optim.RMSprop,
    "RMSprop, centered": partial(torch.optim.RMSprop, centered=True),
    "Adagrad": torch.optim.Adagrad,
    "AdamW, fused": partial(torch.optim.AdamW, fused=True),
    "AdamW, foreach": partial(torch.optim.AdamW, foreach=True),
    "AdamW, tiny eps": partial(torch.optim.AdamW, eps=1e-18),
    "NAdam": torch.optim.NAdam,
}


def trained(make: Callable[..., torch.optim.Optimizer], dtype: torch.dtype) -> tuple[list[Tensor], set[str]]:
    """Weights and state after some steps of a method that moves masks, and the names of the roots that were quick."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 80), nn.ReLU(), nn.Linear(80, 64)).to(dtype)
    optimizer = make(model.parameters(), lr=1e-2, weight_decay=0.01)
    masks = sf.random_masks(model, 0.9, seed=0)
    sparsifier = sf.Sparsifier(model, optimizer, masks, sf.RigL(update_every=4), seed=0)
    used: set[str] = set()
    x, y = torch.randn(32, 64, dtype=dtype), torch.randn(32, 64, dtype=dtype)
    for _ in range(12):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        assert not any(vars(tensor) for tensor in tensors_of(optimizer))
    handle = optimizer.register_step_pre_hook(lambda each, *_: used.update(quick_names(each)))
    optimizer.step()
    handle.remove()
    sparsifier.check()
    return [*model.parameters(), *tensors_of(optimizer)], used


def tensors_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]


def quick_names(optimizer: torch.optim.Optimizer) -> set[str]:
    return {n for s in optimizer.state.values() for n, t in s.items() if isinstance(t, Tensor) and "sqrt" in vars(t)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_torch_to_the_last_bit(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, used = trained(OPTIMIZERS[name], dtype)
    monkeypatch.setattr(roots, "SMALLEST", 2**31)
    plain, unused = trained(OPTIMIZERS[name], dtype)
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))
    assert not unused
    kind = type(OPTIMIZERS[name]([nn.Parameter(torch.ones(1))]))
    if kind not in ROOTS or "fused" in name or "foreach" in name or ("tiny" in name and dtype == torch.float32):
        assert not used
    else:
        assert used <= set(ROOTS[kind])
        assert used


def test_nothing_is_left_of_a_root_below_the_limit() -> None:
    """All that the optimizer computes with it: ``sqrt(v) / correction + eps`` is ``eps``, for zeros and denormals."""
    for dtype in (torch.float32, torch.float64):
        tiny = torch.finfo(dtype).tiny
        small = torch.tensor([0.0, tiny / 2, tiny], dtype=dtype)
        for eps in (1e-7, 1e-8, 1e-9, 1e-10, 1e-12, 1e-30, 1e-60, 0.0):
            for beta in (0.9, 0.999, 0.99999):
                group = {"eps": eps, "betas": (0.9, beta)}
                if is_lost(group, dtype):
                    divided = quick_root(small) / (1 - beta) ** 0.5
                    assert torch.equal(divided.add_(eps), torch.full_like(small, eps)), (dtype, eps, beta)
    assert is_lost({"eps": 1e-8, "betas": (0.9, 0.999)}, torch.float32)  # the defaults of Adam and of Adagrad
    assert is_lost({"eps": 1e-10}, torch.float32)
    assert not is_lost({"eps": 0.0}, torch.float64)


def test_normal_numbers_have_torchs_own_roots_and_what_is_not_finite_stays() -> None:
    values = torch.rand(10_000, generator=torch.Generator().manual_seed(0)).square()
    values[::3] = 0
    values[1], values[2] = torch.nan, torch.inf
    found, expected = quick_root(values), values.sqrt()
    at = values != 0
    assert torch.equal(found[at].view(torch.int32), expected[at].view(torch.int32))
    assert found.stride() == expected.stride()
    kernel = torch.rand(8, 8, 3, 3).contiguous(memory_format=torch.channels_last)
    assert quick_root(kernel).stride() == kernel.sqrt().stride()


def test_a_step_that_raised_leaves_state_that_can_be_saved() -> None:
    model = nn.Linear(64, 64)
    optimizer = torch.optim.AdamW(model.parameters())
    sparsifier = sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.9, seed=0), sf.Static(), seed=0)

    def step(closure: Any = None) -> None:
        optimizer.zero_grad()
        model(torch.ones(1, 64)).sum().backward()
        optimizer.step(closure)

    def fails() -> float:
        raise RuntimeError("out of memory")

    step()
    with pytest.raises(RuntimeError, match="out of memory"):
        step(fails)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    torch.load(buffer, weights_only=True)
    sparsifier.remove()
    step()
    assert not any(vars(tensor) for tensor in tensors_of(optimizer))
