"""Networks that have a Hessian in closed form, data for them, and the dense Hessian by autograd alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.analysis.layout import active_parameters
from sparseflow.rng import stream

Batch = tuple[Tensor, Tensor]
#: Name -> network and shape of one input; the logits are the last layer's outputs.
CHAINS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), (4,)),
    "images": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), (2, 2, 2)),
    "deep": (
        lambda: nn.Sequential(
            nn.Linear(5, 6),
            nn.LeakyReLU(0.2),
            nn.Linear(6, 7, bias=False),
            nn.ReLU6(),
            nn.Sequential(nn.Linear(7, 5), nn.Dropout(0.5), nn.Hardtanh(-3, 3), nn.ReLU(inplace=True)),
            nn.Linear(5, 6),
            nn.Identity(),
            nn.Linear(6, 4),
            nn.LeakyReLU(-0.3),
        ),
        (5,),
    ),
    "lenet": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(3, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 6),
            nn.ReLU(),
            nn.Linear(6, 5),
            nn.ReLU(),
            nn.Linear(5, 3),
        ),
        (1, 12, 12),
    ),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Sequential(
                nn.Conv2d(2, 4, 3, padding=1, stride=2),
                nn.LeakyReLU(-0.2),
                nn.MaxPool2d(2, stride=1),
                nn.Conv2d(4, 4, (3, 2), dilation=(1, 2), padding="same", groups=2),
            ),
            nn.AvgPool2d(2, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 6, 2, bias=False, padding=(1, 0)),
            nn.MaxPool2d(3, stride=1, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 3, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ),
        (2, 9, 8),
    ),
    "pooled": (
        lambda: nn.Sequential(
            nn.AvgPool2d(2),
            nn.Conv2d(1, 3, 3),
            nn.Conv2d(3, 2, 2, padding="valid"),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(18, 4),
        ),
        (1, 13, 12),
    ),
}


def chain(
    name: str, *, sparsity: float = 0.4, dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, dict[str, Tensor]]:
    """One of the networks and its masks; weights are so large that every kink has examples on both sides."""
    model = CHAINS[name][0]().to(dtype)
    for key, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.5, generator=stream(0, name, key))
    masks = sf.random_masks(model, sparsity, seed=1)
    return sf.apply_masks_(model, masks), dict(masks)


def data(name: str, sizes: tuple[int, ...] = (7,), *, dtype: torch.dtype = torch.float64) -> list[Batch]:
    """Batches of the same examples, whatever the batch size."""
    generator = stream(0, "data", name)
    classes = 4 if name in ("deep", "pooled") else 3
    inputs = torch.randn(sum(sizes), *CHAINS[name][1], generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(classes, (sum(sizes),), generator=generator)
    return list(zip(inputs.split(sizes), targets.split(sizes), strict=True))


def dense_hessian(
    model: nn.Module,
    batches: list[Batch],
    masks: Mapping[str, Tensor] | None,
    loss_fn: Callable[..., Tensor] = F.cross_entropy,
) -> Tensor:
    """The Hessian over active parameters, by differentiating twice through one float64 batch of all examples."""
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    layout = active_parameters(model, masks)
    whole = {name: tensor.detach().double() for name, tensor in model.named_parameters()}

    def loss(vector: Tensor) -> Tensor:
        return loss_fn(torch.func.functional_call(model, whole | layout.unflatten(vector), (inputs.double(),)), targets)

    modes = [module.training for module in model.modules()]
    model.eval()
    # Reverse over reverse: torch.func.hessian goes forward over reverse, whose rules warn when they are compiled.
    found: Tensor = torch.func.jacrev(torch.func.jacrev(loss))(layout.flatten(whole))
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    return found
