"""What a method is tried on: a small network, its batches, and runs on it that start alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseflow.masks.blocks import BlockLike
from sparseflow.masks.make import dense_masks, random_masks
from sparseflow.methods.base import Method
from sparseflow.rng import stream
from sparseflow.sparsifier.sparsifier import Sparsifier
from sparseflow.types import Masks

#: Steps of a run; a method under trial has its updates among them.
STEPS = 13
SPARSITY = 0.7
_MOMENTUM = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A method and the circumstances that it is tried in.

    The network is a convolution and two linear layers, of 27, 480 and 40 weights with the names ``0.weight``,
    ``3.weight`` and ``5.weight``; its batches have 8 images of ``(1, 6, 6)`` in 4 classes.
    """

    make: Callable[[], Method]
    """Makes the method anew for each run, with updates among the first 13 steps."""
    optimizer: Callable[..., torch.optim.Optimizer] = _MOMENTUM
    """Makes the optimizer of parameters; default: SGD with momentum 0.9 and weight decay."""
    fresh: float = 0.0
    """What the optimizer's state is for a weight before its first step."""
    starts_dense: bool = False
    """Whether runs start from dense masks, as pruning does; else from random ones at sparsity 0.7."""
    active: Callable[[str, int, int], int] | None = None
    """Active weights of a layer by its name, size and the step; ``None``: as many as at the start."""
    masks: Callable[[nn.Module], Masks] | None = None
    """Makes the masks of the start, for methods that need some of their own."""
    moves: bool = True
    """Whether masks change at all."""
    block: BlockLike = (1, 1)
    """Blocks of the masks at the start."""

    def resets_momentum(self, step: int) -> bool:
        """Whether the method asks for momentum to be forgotten after this step, see :mod:`sparseflow.methods.run`."""
        resets = getattr(self.make(), "resets_momentum", None)
        return resets is not None and bool(resets(step))

    def start(self, model: nn.Module) -> Masks:
        """The masks that a run starts with, unless it starts dense."""
        return start(model, self.block) if self.masks is None else self.masks(model)

    @property
    def keeps_values(self) -> bool:
        """Whether the method keeps values of weights that the network does not use."""
        return hasattr(self.make(), "used")

    def run(self, *, seed: int = 0) -> Run:
        """A new run at step 0."""
        return Run(self, seed=seed)


class Run:
    """A model, its optimizer and its Sparsifier; the same for each call but for the seed of the Sparsifier."""

    def __init__(self, trial: Trial, *, seed: int) -> None:
        self.trial = trial
        self.model = network()
        masks = dense_masks(self.model) if trial.starts_dense else trial.start(self.model)
        self.optimizer = trial.optimizer(self.model.parameters())
        self.sparsifier = Sparsifier(self.model, self.optimizer, masks, trial.make(), seed=seed)
        self.weights = {name: self.model.get_parameter(name) for name in masks}

    def step(self, number: int) -> None:
        """One step of training on the batch of that number."""
        self.optimizer.zero_grad()
        loss(self.model, number).backward()
        self.optimizer.step()

    def masks(self) -> dict[str, Tensor]:
        """Copies of the masks of now."""
        return {name: mask.clone() for name, mask in self.sparsifier.masks.items()}

    def tensors(self) -> list[Tensor]:
        """Copies of every parameter, of the optimizer's state and of the masks, in a fixed order."""
        return [*snapshot(self.model, self.optimizer), *self.masks().values()]


def network() -> nn.Sequential:
    """The network of a trial, with weights drawn from a fixed seed."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 10), nn.Tanh(), nn.Linear(10, 4))
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.3, generator=stream(0, "trial", name))
    return model


def start(model: nn.Module, block: BlockLike) -> dict[str, Tensor]:
    """The masks that a run starts with."""
    return random_masks(model, SPARSITY, seed=0, block=block)


def loss(model: nn.Module, number: int) -> Tensor:
    """Cross-entropy of the batch of a number."""
    generator = stream(number, "trial batch")
    inputs = torch.randn(8, 1, 6, 6, generator=generator)
    return F.cross_entropy(model(inputs), torch.randint(4, (8,), generator=generator))


def state_of(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Iterator[Tensor]:
    """The optimizer's tensors with one value for each entry of a parameter."""
    for value in optimizer.state[parameter].values():
        if torch.is_tensor(value) and value.shape == parameter.shape:
            yield value


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Copies of every parameter and of every tensor of the optimizer's state, in a fixed order."""
    tensors = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        tensors += [value.clone() for value in optimizer.state[parameter].values() if torch.is_tensor(value)]
    return tensors
