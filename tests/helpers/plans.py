"""Masked networks, examples, and the comparison of a plan with torch in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseflow.engine.plans.plan import plan
from sparseflow.gradients import undisturbed

#: Sums of at most some thousand numbers near 1 in float64, in another order.
CLOSE = {"rtol": 1e-10, "atol": 1e-12}
#: The same behind batch norms: one of a constant channel multiplies what was rounded by 1 / sqrt(1e-5) = 316.
NORMED = {"rtol": 1e-7, "atol": 1e-8}


def masked(model: nn.Module, density: float, *, seed: int = 0) -> dict[str, Tensor]:
    """Random masks with empty rows, applied to weights and biases drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
            if parameter.dim() > 1:
                mask = torch.rand(parameter.shape, generator=generator) < density
                if density < 1:
                    mask[torch.rand(len(mask), generator=generator) < 0.2] = False
                masks[name] = mask
                parameter.mul_(mask)
    return masks


def examples(shape: tuple[int, ...], batch: int, classes: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, *shape, generator=generator, dtype=torch.float64)
    return images, torch.randint(0, classes, (batch,), generator=generator)


def expected(model: nn.Module, masks: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and masked gradients by autograd."""
    loss = F.cross_entropy(model(x), y)
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    return loss.detach(), {
        name: gradient * masks[name] if name in masks else gradient
        for name, gradient in zip(parameters, gradients, strict=True)
    }


def check_against_torch(
    model: nn.Module, masks: Mapping[str, Tensor], x: Tensor, y: Tensor, close: Mapping[str, float] = CLOSE
) -> None:
    """Logits, loss and gradients of a plan in the model's present mode."""
    fast = plan(model, masks)
    torch.testing.assert_close(fast.logits(x), model(x).detach(), **close)
    loss, gradients = expected(model, masks, x, y)
    found_loss, found = fast.loss_and_gradients(x, y, dense=True)
    assert found_loss == pytest.approx(loss.item(), rel=close["rtol"] / 100)
    assert sorted(found) == sorted(gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, **close, msg=lambda text, name=name: f"{name}: {text}")
        if name in masks:
            assert not found[name][~masks[name]].any()


def check_steps_against_torch(
    model: nn.Module, masks: Mapping[str, Tensor], batches: Sequence[tuple[Tensor, Tensor]],
    make: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer], *, rtol: float = 1e-8, atol: float = 1e-10,
) -> None:  # fmt: skip
    """Losses step by step, then weights, optimizer state, running statistics and the logits in eval mode."""
    theirs = copy.deepcopy(model)
    optimizers = [make(model.parameters()), make(theirs.parameters())]
    fast = plan(model, masks, optimizers[0])
    for x, y in batches:
        loss = F.cross_entropy(theirs(x), y)
        optimizers[1].zero_grad()
        loss.backward()
        for name, mask in masks.items():
            gradient = theirs.get_parameter(name).grad
            assert gradient is not None
            gradient.mul_(mask)
        optimizers[1].step()
        assert fast.step(x, y) == pytest.approx(loss.item(), rel=rtol, abs=atol)
    fast.write()
    wanted = theirs.state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], rtol=rtol, atol=atol, msg=lambda text, n=name: f"{n}: {text}")
    for one, two in zip(model.parameters(), theirs.parameters(), strict=True):
        for key, value in optimizers[1].state[two].items():
            torch.testing.assert_close(optimizers[0].state[one][key], value, rtol=rtol, atol=atol)
    x = batches[0][0]
    with undisturbed(model, training=False), undisturbed(theirs, training=False):
        torch.testing.assert_close(fast.logits(x), theirs(x).detach(), rtol=rtol, atol=atol)


def lenet5() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    ).double()  # fmt: skip


def small(seed: int = 0) -> tuple[nn.Sequential, dict[str, Tensor]]:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 3)
    ).double()
    return model, masked(model, 0.3, seed=seed)
