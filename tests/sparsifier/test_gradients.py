"""Where growth finds its gradients: none, frozen, elsewhere, or of a kind that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.gradients import loss_gradient
from sparseflow.methods import DropGrow
from tiny import active, eight, loss_of, masked, pull, tiny_model, train_step

Method = Callable[..., DropGrow]


def swap_one(method: Method = sf.RigL, **options: Any) -> DropGrow:
    """One of the four active weights is exchanged: 3, the smallest, leaves unless it grows best."""
    return method(**{"drop_fraction": 0.25, "update_every": 1, "schedule": "constant", **options})


def swap_tiny(method: Method, **options: Any) -> DropGrow:
    return method(**{"drop_fraction": 0.3, "update_every": 2, "schedule": "constant", **options})


@pytest.mark.parametrize(("method", "moves"), [(sf.RigL, False), (sf.SET, True)])
def test_a_weight_without_gradient_sits_out_where_growth_needs_one(method: Method, moves: bool) -> None:
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sf.Sparsifier(model, optimizer, masked(model), swap_tiny(method, update_every=1), seed=0)
    seen: list[set[str]] = []
    sparsifier.after_update.append(lambda step, changes: seen.append(set(changes)))
    loss_of(model, 0).backward()
    model[3].weight.grad = None
    optimizer.step()
    assert seen == [{"0.weight", "5.weight"} | ({"3.weight"} if moves else set())]
    sparsifier.check()


def test_frozen_weights_keep_their_masks_and_need_no_optimizer() -> None:
    model = tiny_model()
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model[3:].parameters(), lr=0.1, weight_decay=0.1)
    masks = masked(model)
    sparsifier = sf.Sparsifier(model, optimizer, masks, swap_tiny(sf.SET), seed=0)
    frozen = model[0].weight.detach().clone()
    for step in range(4):
        train_step(model, optimizer, step)
    sparsifier.check()
    assert torch.count_nonzero(frozen) == 8  # masked from the start
    assert torch.equal(model[0].weight, frozen)
    assert torch.equal(sparsifier.masks["0.weight"], masks["0.weight"])
    assert not torch.equal(sparsifier.masks["3.weight"], masks["3.weight"])


def test_gradient_fn_is_asked_after_the_step_of_an_update_at_the_masked_weights() -> None:
    """The paper's MNIST code: growth by held-out examples at the new weights (protocol C.3)."""
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    held_out = [(torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 4)]
    asked: list[tuple[int, dict[str, Tensor]]] = []

    def gradient_fn() -> dict[str, Tensor]:
        assert torch.is_grad_enabled()
        sf.check(model, optimizer, sparsifier.masks)
        _, gradients = loss_gradient(model, nn.functional.cross_entropy, held_out)
        asked.append((sparsifier.step_count, gradients))
        return gradients

    sparsifier = sf.Sparsifier(
        model, optimizer, masked(model), swap_tiny(sf.RigL, regrow=False), seed=0, gradient_fn=gradient_fn
    )
    for step in range(4):
        old = {name: mask.clone() for name, mask in sparsifier.masks.items()}
        train_step(model, optimizer, step)
    assert [step for step, _ in asked] == [2, 4]
    for name, mask in sparsifier.masks.items():
        grown, candidates = mask & ~old[name], ~old[name]
        score = asked[-1][1][name].abs()
        assert grown.any()
        assert score[grown].min() >= score[candidates & ~grown].max()


def test_gradient_fn_leaves_out_whom_it_likes_but_not_everyone() -> None:
    layer, optimizer, sparsifier = eight(swap_one(), gradient_fn=lambda: {"module.weight": torch.ones(1, 8)})
    pull(layer, 0, 0, 0, 0, 0, 0, 0, 1)
    with pytest.raises(ValueError, match=r"gradient_fn names no masked weight. Needed: weight; got: module\.weight"):
        optimizer.step()
    assert active(sparsifier) == [0, 1, 2, 3]

    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    masks = masked(model)
    sparsifier = sf.Sparsifier(
        model,
        optimizer,
        masks,
        swap_tiny(sf.RigL, regrow=False),
        seed=0,
        gradient_fn=lambda: {"3.weight": model[3].weight.detach()},
    )
    for step in range(2):
        train_step(model, optimizer, step)
    moved = [name for name, mask in masks.items() if not torch.equal(mask, sparsifier.masks[name])]
    assert moved == ["3.weight"]


def test_sparse_gradient_tensors_are_refused() -> None:
    model = nn.Embedding(10, 4, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.5, seed=0, include=[nn.Embedding]), sf.Static(), seed=0)
    model(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(ValueError, match="'weight' has a sparse gradient tensor; make its embedding with sparse=False"):
        optimizer.step()
