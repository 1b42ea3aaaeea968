"""One optimizer step of a global batch: micro-batches shared by processes, reduced gradients, equal masks."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseflow.networks.residual import ResidualBlock
from sparseflow.sharded import full, fully_sharded, shard_like
from sparseflow.sparsifier.sparsifier import Sparsifier
from sparseflow.training.optimizer import LearningRates
from sparseflow.training.ranks import Ranks
from sparseflow.training.statistics import StepStatistics
from sparseflow.types import Masks

#: Name -> what forward and backward compute in; weights, gradients and masks stay float32.
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Trainer:
    r"""The model, optimizer and method of a run on this process, which take its steps.

    A step's batch is cut into ``micro_batches`` parts of equal size. A process takes a contiguous share of them, and
    the gradient is the mean over all,

    .. math:: g = \frac{1}{B} \sum_{b=1}^{B} \nabla L_b,

    so that one process and several take the same steps up to rounding, and to the last bit where no process adds more
    than two parts. Masks change by these reduced gradients; after each update all processes compare theirs.
    """

    model: nn.Module
    """In train mode; where there are several processes, inside ``DistributedDataParallel`` or cut by :func:`cut_`."""
    optimizer: torch.optim.Optimizer
    sparsifier: Sparsifier
    """Of this model and optimizer."""
    schedule: LearningRates
    micro_batches: int
    """In a step, on all processes together."""
    statistics: StepStatistics
    ranks: Ranks = field(default_factory=Ranks)
    label_smoothing: float = 0.1
    """The paper's code has 0.1 on ImageNet (protocol 0)."""
    precision: str = "float32"
    """Key of ``PRECISIONS``."""
    stops_at_nan: bool = True
    """Whether a loss that is not finite is an error."""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}.")
        check_shares(self.micro_batches, self.ranks)
        reduces = isinstance(self.model, nn.parallel.DistributedDataParallel) or self.is_cut
        if self.ranks.world > 1 and not reduces:
            raise TypeError(
                f"{self.ranks.world} processes need a model whose gradients are reduced; wrap it in "
                "sparseflow.training.step.distributed(model, ranks), or cut it with cut_(model, ranks)."
            )

    @property
    def is_cut(self) -> bool:
        """Whether each process holds a part of every weight, so that all must compute together."""
        return bool(fully_sharded(self.sparsifier.model))

    def step(self, number: int, local: Sequence[tuple[Tensor, Tensor]]) -> float:
        """Take a step: :meth:`backward` and :meth:`update`; the loss before it.

        Args:
            number, local: See :meth:`backward`.
        """
        loss = self.backward(number, local)
        self.update()
        return loss

    def backward(self, number: int, local: Sequence[tuple[Tensor, Tensor]]) -> float:
        """Compute the gradients of a step, reduced over all processes.

        Args:
            number: Steps taken before; sets the learning rate.
            local: This process's micro-batches, ``(images, labels)``.

        Returns: the mean loss of the whole batch before the step, smoothed labels included, without L2.

        Raises:
            ValueError: if the number of micro-batches is not this process's share.
            FloatingPointError: if the loss is not finite and that is an error; nothing has moved then.
        """
        if len(local) != (share := self.micro_batches // self.ranks.world):
            raise ValueError(f"this process takes {share} micro-batches of a step, got {len(local)}.")
        self.schedule.set_(self.optimizer, number)
        self.optimizer.zero_grad()
        total = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        for index, (images, labels) in enumerate(local):
            with self._reduced(is_last=index == len(local) - 1), self.statistics.micro_batch():
                loss = self.loss(images, labels)
                (loss / len(local)).backward()
            total += loss.detach()
        self.ranks.sum_(total)
        mean = float(total) / self.micro_batches
        if self.stops_at_nan and not math.isfinite(mean):
            raise FloatingPointError(
                f"the loss of step {number} is {mean}. Lower the learning rate, or warm up for more steps."
            )
        return mean

    def update(self) -> None:
        """Move weights, masks where they are due, and running statistics."""
        self.optimizer.step()
        self.statistics.step(self.ranks)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Mean smoothed cross-entropy in nats, in float32 where the network computes in less.

        Args:
            images: Prepared, of one micro-batch.
            labels: int64.
        """
        dtype = PRECISIONS[self.precision]
        context: AbstractContextManager[object] = (
            torch.autocast(images.device.type, dtype=dtype) if dtype else nullcontext()
        )
        with context:
            logits = self.model(images)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def _reduced(self, *, is_last: bool) -> AbstractContextManager[object]:
        """A context that exchanges gradients with the last micro-batch only; those of cut weights with each."""
        if isinstance(self.model, nn.parallel.DistributedDataParallel) and not is_last:
            return self.model.no_sync()
        return nullcontext()


def check_shares(micro_batches: int, ranks: Ranks) -> None:
    """Raise ``ValueError`` if a step's micro-batches cannot be shared evenly.

    Args:
        micro_batches: In a step.
        ranks: The processes.
    """
    if micro_batches % ranks.world:
        raise ValueError(
            f"a step of {micro_batches} micro-batches cannot be shared by {ranks.world} processes. Take a number of "
            f"processes that divides {micro_batches}, or another micro-batch size."
        )


def distributed(model: nn.Module, ranks: Ranks) -> nn.Module:
    """The model with gradients that are means over all processes; unchanged on a single process.

    Args:
        model: On the device of this process.
        ranks: This process among all.

    Every process starts with rank 0's weights. Buffers stay its own: :class:`.StepStatistics` keeps them equal.
    """
    if ranks.world == 1:
        return model
    devices = [ranks.device.index] if ranks.device.type == "cuda" else None
    wrap = nn.parallel.DistributedDataParallel
    # torch 2.13 calls it so, and warns of the old name.
    new, old = "forward_sync_buffers", "broadcast_buffers"
    keep_own_buffers = {new if new in inspect.signature(wrap).parameters else old: False}
    return wrap(model, device_ids=devices, **keep_own_buffers)  # type: ignore[arg-type]


def cut_(model: nn.Module, ranks: Ranks) -> nn.Module:
    """Leave each process its part of every weight (FSDP2), for networks that do not fit; alone it keeps all.

    Args:
        model: The same on all processes.
        ranks: This process among all.

    A block, or a layer outside of blocks, is gathered while it computes. All processes must hold the same weights.

    Raises:
        ValueError: if a weight is in another memory format than torch's default.
    """
    if ranks.world == 1:
        return model
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if odd := [name for name, parameter in model.named_parameters() if not parameter.is_contiguous()]:
        raise ValueError(f"FSDP cuts contiguous weights only, and {odd[0]!r} is not; give channels_last=False.")
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    for unit in _units(model):
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _units(model: nn.Module) -> Iterator[nn.Module]:
    for child in model.children():
        if isinstance(child, ResidualBlock | nn.Conv2d | nn.Linear):
            yield child
        else:
            yield from _units(child)


def training_norm(optimizer: torch.optim.Optimizer, *, names: Mapping[nn.Parameter, str], masks: Masks) -> float:
    r"""Norm of the gradient of the total loss, as the authors' ImageNet code logs it: of the training batch, with L2.

    .. math:: \| g + \lambda w \|_2

    over all trainable parameters, inactive weights left out (the authors' code has them in the L2 part; ours are zero).
    Call it after the backward pass and before the optimizer's step. Beside it log :func:`sparseflow.gradient_flow` on
    fixed images, which is free of L2, smoothing and chance.

    Args:
        optimizer: Its parameters' ``.grad``, and their groups' ``weight_decay``.
        names: Parameter -> name, to find its mask.
        masks: Name -> mask.

    Reference: protocol A.0.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[10.0, 0.0]]))
    >>> layer.weight.grad = torch.tensor([[2.0, 7.0]])
    >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=0.1)
    >>> masks = {"weight": torch.tensor([[True, False]])}
    >>> training_norm(optimizer, names={layer.weight: "weight"}, masks=masks)  # 2 + 0.1 * 10
    3.0
    """
    squares = 0.0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            total = parameter.grad.double() + group["weight_decay"] * parameter.detach().double()
            mask = masks.get(names.get(parameter, ""))
            active = total if mask is None else total * shard_like(mask, total)
            squares += float(full(active.square().sum()))
    return math.sqrt(squares)
