"""One door for what others left: a checkpoint as a dense state with zeros, its masks, and how each was stored."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sparseflow.formats.bitmask import sparse_24_bitmask, sparse_bitmask
from sparseflow.formats.checkpoint import read_checkpoint
from sparseflow.formats.hooks import nncf, sparseml, sparsimony, torch_prune
from sparseflow.formats.stored import Stored, Taken
from sparseflow.masks.imported import masks_of_state, plain_name

#: Name of a format -> what takes its weights out of a state dict. A weight that none takes may be one with zeros.
READERS: dict[str, Callable[[Mapping[str, Tensor]], Taken]] = {
    "sparse-bitmask": sparse_bitmask,
    "sparse-24-bitmask": sparse_24_bitmask,
    "NNCF": nncf,
    "SparseML": sparseml,
    "torch.nn.utils.prune": torch_prune,
    "sparsimony": sparsimony,
}
#: How a weight is stored that has zeros and no mask.
ZEROS = "zeros"
#: Names in a state that only quantised weights have.
_QUANTISED = ".weight_packed", ".weight_scale", ".weight_zero_point", ".qweight", ".weight_quantizer"


@dataclass(frozen=True)
class Imported:
    """A network that another tool made sparse."""

    state: dict[str, Tensor]
    """Of the dense model: parameter name -> tensor, with zeros off the masks."""
    masks: dict[str, Tensor]
    """Of its sparse weights; the others are dense."""
    formats: dict[str, str]
    """How each of them was stored: a key of ``READERS``, or ``"zeros"``."""

    def __str__(self) -> str:
        """A line for each sparse weight, and one for all."""
        width = max(map(len, self.masks), default=0)
        lines = [
            f"{name:{width}}  {_shape(mask):>16}  {_sparsity([mask]):.4f}  {self.formats[name]}"
            for name, mask in self.masks.items()
        ]
        total = f"{len(self.masks)} of {len(self.state)} tensors are sparse"
        return "\n".join([*lines, f"{total}, with {_sparsity(self.masks.values()):.4f} zeros."])


def read(path: str | os.PathLike[str], *, at_least: float = 0.01) -> Imported:
    """Read a sparse network that another tool wrote: as its dense state with zeros, and its masks.

    Known are ``sparse-bitmask`` and ``sparse-24-bitmask`` of compressed-tensors (llm-compressor, SparseML), the masks
    that NNCF, SparseML, sparsimony and ``torch.nn.utils.prune`` (also by Lightning) keep beside dense weights, and
    zeros. Weights must be in floating point, and keep their dtype.

    Args:
        path: A file (``.safetensors``, or of ``torch.save``: the model's part of it), or a folder of Hugging Face's
            libraries, also in several files.
        at_least: Fraction of zeros from which a weight without a mask counts as sparse, as of
            :func:`sparseflow.masks_of`.

    Returns: what was found; load ``state`` into the model, and give ``masks`` to a :class:`sparseflow.Sparsifier`.

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: in one sentence, if a file is damaged or contradicts itself, or nothing in it is sparse.

    >>> from tempfile import TemporaryDirectory
    >>> import torch
    >>> with TemporaryDirectory() as folder:
    ...     torch.save({"fc.weight": torch.tensor([[1.0, 0.0], [0.0, 2.0]])}, f"{folder}/model.pt")
    ...     print(read(f"{folder}/model.pt"))
    fc.weight             2 x 2  0.5000  zeros
    1 of 1 tensors are sparse, with 0.5000 zeros.
    """
    state = read_checkpoint(Path(path))
    try:
        return imported(state, at_least=at_least)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def imported(state: Mapping[str, Tensor], *, at_least: float = 0.01) -> Imported:
    """What :func:`read` finds in a state dict that is in memory.

    Raises:
        ValueError: as there.
    """
    if any(name.endswith(":gaps") for name in state):
        raise ValueError("it was written by sparseflow.engine.save; read it with sparseflow.engine.load_state(path)")
    # Prefixes that wrappers put before names hide nothing but the names.
    rest = {plain_name(name): tensor.detach() for name, tensor in state.items()}
    if len(rest) < len(state):
        raise ValueError("two names are the same without the prefixes of wrappers; save the state of the plain model")
    order = list(rest)
    found: dict[str, Stored] = {}
    formats: dict[str, str] = {}
    for name, reader in READERS.items():
        taken = reader(rest)
        if twice := taken.weights.keys() & (found.keys() | taken.rest.keys()):
            raise ValueError(f"{sorted(twice)[0]!r} is there twice, as {name} and as it is; remove one")
        found |= taken.weights
        formats |= dict.fromkeys(taken.weights, name)
        rest = taken.rest
    if quantised := [name for name in rest if name.endswith(_QUANTISED)]:
        raise ValueError(
            f"{quantised[0]!r} belongs to a quantised weight, and a mask goes with weights in floating point. Load the "
            "model with the tool that wrote it, and save it dequantised."
        )
    zeros = masks_of_state(rest, at_least=at_least)
    masks = {name: each.mask for name, each in found.items()} | zeros
    if not masks:
        raise ValueError(
            f"nothing in it is sparse: no weight has a mask, or a fraction of {at_least} zeros or more. Its "
            f"{len(rest)} tensors begin with {', '.join(map(repr, list(rest)[:3])) or 'none'}.{_hint(rest)}"
        )
    dense = {name: each.weight for name, each in found.items()} | rest
    formats |= dict.fromkeys(zeros, ZEROS)
    names = _in_order(order, dense)
    return Imported(
        state={name: dense[name] for name in names},
        masks={name: masks[name] for name in names if name in masks},
        formats={name: formats[name] for name in names if name in masks},
    )


def _hint(state: Mapping[str, Tensor]) -> str:
    if not any(".parametrizations." in f".{name}" and name.endswith(".original") for name in state):
        return ""
    return " torch.ao.pruning saves no masks with a model: call its sparsifier.squash_mask() and save again."


def _in_order(stored: list[str], names: Mapping[str, Tensor]) -> list[str]:
    """Names in the order in which the first part of each was stored: biases stay beside their weights."""
    place = {name: index for index, name in reversed(list(enumerate(stored)))}

    def first(name: str) -> int:
        layer, _, own = name.rpartition(".")
        parametrized = f"{layer}.parametrizations.{own}.original".removeprefix(".")
        parts = (name, f"{name}_orig", f"{name}.compressed", f"{layer}.compressed", parametrized)
        return min((place[part] for part in parts if part in place), default=len(stored))

    return sorted(names, key=first)


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


def _sparsity(masks: Iterable[Tensor]) -> float:
    held = list(masks)
    active, total = sum(int(mask.sum()) for mask in held), sum(mask.numel() for mask in held)
    return 1 - active / max(1, total)
