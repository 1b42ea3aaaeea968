"""What is timed: the dense model and the masks behind whatever a user gives, and copies of it with layers sparse."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparseflow.attached import holder_of
from sparseflow.engine.convert import convert, convertible, masks_of, sparse_layers, to_dense
from sparseflow.engine.speed.example import check_place, resized
from sparseflow.engine.speed.steps import in_mode_, outputs_of
from sparseflow.gradients import undisturbed
from sparseflow.masks.select import prunable, unwrap
from sparseflow.types import Masks


@dataclass(frozen=True)
class Subject:
    """A dense model, its masks, and which of its layers can be sparse."""

    model: nn.Module
    masks: Masks
    reasons: dict[str, str | None]
    """Masked weight -> why it stays dense, or ``None``."""

    @property
    def candidates(self) -> list[str]:
        """The weights that can be sparse."""
        return [name for name, reason in self.reasons.items() if reason is None]

    def units(self) -> dict[str, list[str]]:
        """The path of a module that is called -> its weights that can be sparse.

        Attention reads the weight of its last layer and does not call it, so it is one unit with that.
        """
        found: dict[str, list[str]] = {}
        for name in self.candidates:
            path = name.rpartition(".")[0]
            parent = path.rpartition(".")[0]
            is_inside = path and isinstance(self.model.get_submodule(parent), nn.MultiheadAttention)
            found.setdefault(parent if is_inside else path, []).append(name)
        return found

    @property
    def dtype(self) -> str:
        """Of the first masked weight."""
        return str(self.model.get_parameter(next(iter(self.masks))).dtype).removeprefix("torch.")

    def form(self, names: Collection[str], *, training: bool) -> nn.Module:
        """A copy with these layers sparse, to be timed in train or eval mode."""
        return in_mode_(convert(self.model, self.masks, only=names), training=training)


def subject_of(model: nn.Module, masks: Masks | None, example: Any) -> Subject:
    """The dense model and the masks of a masked or converted model, which a Sparsifier may hold.

    Args:
        model: Not changed.
        masks: Default: of a converted model its own; else those of the Sparsifier that holds the weights, or the
            nonzero pattern of every prunable weight.
        example: A batch of inputs.

    Raises:
        TypeError, ValueError: if a mask does not fit, or the engine cannot take the model or the example.
    """
    model = unwrap(model)
    if sparse_layers(model):
        masks = masks_of(model) if masks is None else masks
        model = to_dense(model)
    if masks is None:
        masks = {name: _present_mask(weight.parameter) for name, weight in prunable(model).items()}
    reasons = {name: reason or _no_zeros(masks[name]) for name, reason in convertible(model, masks).items()}
    check_place(model, masks, example)
    return Subject(model, masks, reasons)


def _present_mask(weight: Tensor) -> Tensor:
    holder = holder_of(weight)
    name = None if holder is None else holder.name_of(weight)
    return weight.detach() != 0 if holder is None or name is None else holder.masks[name]


def _no_zeros(mask: Tensor) -> str | None:
    return "no zeros" if bool(mask.all()) else None


def check_that_it_runs(subject: Subject, example: Any, sizes: Iterable[int]) -> None:
    """Check that the model takes batches of these sizes.

    Raises:
        ValueError: if it does not.
    """
    model = subject.form((), training=False)
    for size in sizes:
        try:
            with undisturbed(model):
                outputs_of(model, resized(example, size))
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"the model does not take the example with {size} rows in its first axis, which must run over "
                f"examples ({str(error).splitlines()[0]}). For a single example write x[None]."
            ) from error
