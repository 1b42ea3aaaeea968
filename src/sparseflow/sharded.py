"""Weights of which each process holds a part (FSDP2): the part, the whole, and the way between them.

``torch.distributed.fsdp.fully_shard`` makes every parameter, gradient and optimizer state a ``DTensor``; masks are
``DTensor`` of the same parts. Plain tensors pass through everything here untouched, and ``DTensor``, which takes a
second to import, is asked for only where other code has imported it.
"""

from __future__ import annotations

import hashlib
import sys

import torch
from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process may hold only a part of the tensor.

    >>> is_sharded(torch.ones(2))
    False
    """
    loaded = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and isinstance(tensor, loaded.DTensor)


def local(tensor: Tensor) -> Tensor:
    """The part that this process holds; it shares memory with the tensor.

    >>> weight = torch.ones(2)
    >>> local(weight) is weight
    True
    """
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():  # with gradients it would be a node of autograd's graph
        return tensor.to_local()  # type: ignore[attr-defined, no-any-return]


def full(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered (or summed up, if it is a sum over parts); all processes must ask together.

    >>> weight = torch.ones(2)
    >>> full(weight) is weight
    True
    """
    return tensor.detach().full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def shard_like(whole: Tensor, example: Tensor) -> Tensor:
    """A tensor that every process has whole, cut into parts like an example; nothing is sent.

    Args:
        whole: Plain; copied, so that the rest of it can be freed. A ``DTensor`` of other parts is redistributed.
        example: Of the same shape.

    Returns: a ``DTensor`` where the example is one, else ``whole`` itself.

    >>> mask = torch.tensor([True, False])
    >>> shard_like(mask, torch.ones(2)) is mask
    True
    """
    if not is_sharded(example):
        return whole
    from torch.distributed.tensor import DTensor, Replicate

    mesh, placements = example.device_mesh, example.placements  # type: ignore[attr-defined]
    if not is_sharded(whole):
        whole = DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return whole.redistribute(mesh, placements)  # type: ignore[attr-defined, no-any-return]


def num_true(mask: Tensor) -> int:
    """Number of ``True`` entries of the whole mask.

    >>> num_true(torch.tensor([True, False]))
    1
    """
    return int(full(mask.sum()))


def fully_sharded(model: nn.Module) -> list[nn.Module]:
    """The modules that ``fully_shard`` was called on.

    >>> fully_sharded(nn.Linear(1, 1))
    []
    """
    loaded = sys.modules.get("torch.distributed.fsdp")
    return [] if loaded is None else [module for module in model.modules() if isinstance(module, loaded.FSDPModule)]


def reshard_(model: nn.Module) -> None:
    """Let go of whole weights that a forward pass gathered and no backward pass has let go of.

    Until then the modules' parameters are plain tensors, and what is written to the parts is not seen by the network.

    >>> reshard_(nn.Linear(1, 1))
    """
    for module in fully_sharded(model):
        module.reshard()  # type: ignore[operator]


def fingerprint(whole: Tensor) -> str:
    """A short text that is equal for equal masks only, which must be plain tensors.

    >>> one, other = torch.tensor([True, False]), torch.tensor([False, True])
    >>> fingerprint(one) == fingerprint(one.clone()), fingerprint(one) == fingerprint(other)
    (True, False)
    """
    found = hashlib.sha256(f"{tuple(whole.shape)}".encode())
    found.update(whole.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def cut(mask: Tensor, example: Tensor) -> tuple[Tensor, int, str]:
    """This process's part of a mask, and the number of active weights and the fingerprint of the whole.

    ``example``, of the same shape, has the parts that the mask, whole or in any parts, is cut into.

    >>> mask = torch.tensor([True, False])
    >>> part, count, text = cut(mask, example=mask)
    >>> part is mask, count, text == fingerprint(mask)
    (True, 1, True)
    """
    whole = full(mask)
    return local(shard_like(mask, example)), num_true(whole), fingerprint(whole)
