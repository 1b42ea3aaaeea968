"""The decoder against its equations in float64, written out here; and what no prediction may see."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sparseflow.networks.decoder import Decoder, Units, top_activations


def small(share: float = 1.0) -> Decoder:
    torch.manual_seed(0)
    return Decoder(symbols=11, width=8, depth=2, heads=2, share=share).double()


def by_hand(model: Decoder, tokens: Tensor) -> Tensor:
    """One sequence, one place after the other, one head after the other."""
    p = dict(model.named_parameters())

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt() * p[f"{name}.weight"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    x = p["embedding.weight"][tokens]
    for number in range(2):
        block = f"blocks.{number}"
        q, k, v = linear(norm(x, f"{block}.attention_norm"), f"{block}.project").split(8, dim=-1)
        mixed = torch.zeros_like(x)
        for head in (slice(0, 4), slice(4, 8)):
            for t in range(len(tokens)):
                scores = (k[: t + 1, head] @ q[t, head] / math.sqrt(4)).softmax(0)
                mixed[t, head] = scores @ v[: t + 1, head]
        x = x + linear(mixed, f"{block}.out")
        h = linear(norm(x, f"{block}.mlp_norm"), f"{block}.widen")
        x = x + linear(h * (1 + torch.erf(h / math.sqrt(2))) / 2, f"{block}.narrow")
    return norm(x, "norm") @ p["head.weight"].T + p["bigram.weight"][tokens]


def test_its_equations() -> None:
    model, tokens = small(), torch.tensor([3, 1, 4, 1, 5, 9])
    assert torch.allclose(model(tokens[None])[0], by_hand(model, tokens), rtol=1e-12, atol=1e-12)


def test_a_prediction_sees_nothing_later() -> None:
    model, tokens = small(), torch.arange(7)[None]
    changed = tokens.clone()
    changed[0, 4] = 10
    before, after = model(tokens), model(changed)
    assert torch.equal(before[0, :4], after[0, :4])
    assert (before[0, 4:] != after[0, 4:]).any(-1).all()


def test_the_largest_activations_stay() -> None:
    x = torch.randn(5, 3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kept = top_activations(x, 0.25)
    for row, found in zip(x.flatten(0, 1).tolist(), kept.flatten(0, 1).tolist(), strict=True):
        third = sorted(map(abs, row))[-3]
        assert found == [value if abs(value) >= third else 0.0 for value in row]


def test_gradients_pass_what_stays() -> None:
    x = torch.tensor([3.0, -4.0, 1.0, 0.5], requires_grad=True)
    (top_activations(x, 0.5) * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 2.0, 0.0, 0.0]


def test_a_decoder_with_few_active_units() -> None:
    model = small(share=0.25)
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, Units):
            module.register_forward_hook(lambda unit, _, out, name=name: seen.update({name: (out != 0).sum(-1)}))
    model(torch.arange(7)[None])
    assert len(seen) == 16
    assert all(bool((count == (8 if name.endswith("neuron") else 2)).all()) for name, count in seen.items())


def test_heads_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="heads must divide the width, got 3 heads for 8"):
        Decoder(symbols=4, width=8, depth=1, heads=3)
