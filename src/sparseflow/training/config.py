"""The config of a run: frozen, checked once, stored as plain values and named by its hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Self, TypeVar

from torch import nn

from sparseflow.masks.blocks import block_sizes
from sparseflow.methods.base import Method
from sparseflow.ranges import checked_fields
from sparseflow.training.naming import changed, defaults_of, hash_of
from sparseflow.training.run_checks import check_settings, check_start
from sparseflow.training.run_method import blocks_of, updater_of
from sparseflow.training.run_settings import RunSettings

Kind = TypeVar("Kind", bound="RunConfig")


class RunConfig(RunSettings):
    """One training run, complete; digits and images each have a frozen dataclass of their own.

    Two configs that are equal name the same run, so a finished run is never trained twice.
    """

    def __post_init__(self) -> None:
        # 0 and 0.0 are equal and print differently: without this, equal configs could have two names.
        for name, value in checked_fields(self).items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "snapshots", tuple(sorted(set(self.snapshots))))
        object.__setattr__(self, "block", "x".join(map(str, block_sizes(self.block))))
        check_settings(self)
        self._check_start()

    def _check_start(self) -> None:
        """A run that is still being typed has no start to check, see :mod:`sparseflow.cli.start`."""
        check_start(self)

    def blocks(self, model: nn.Module) -> dict[str, tuple[int, int]]:
        """See :func:`sparseflow.training.run_method.blocks_of`."""
        return blocks_of(self, model)

    def updater(
        self,
        *,
        sparsity: float | Mapping[str, float] | None = None,
        blocks: Mapping[str, tuple[int, int]] | None = None,
    ) -> Method:
        """See :func:`sparseflow.training.run_method.updater_of`."""
        return updater_of(self, sparsity=sparsity, blocks=blocks)

    @property
    def num_batches(self) -> int:
        """Global batches that the run uses: one a step, and one for each update that replaces a step.

        >>> from sparseflow.training.images import ImageRun
        >>> run = ImageRun(steps=1000, update_every=100, update_until=700)
        >>> run.num_batches, run.with_(updates="authors").num_batches
        (1000, 1008)
        """
        if not self.replaces_steps:
            return self.steps
        updater = self.updater()
        return self.steps + sum(updater.due(step) for step in range(self.steps))

    @property
    def hash(self) -> str:
        """First 12 hex digits of SHA-256 over the fields that differ from their defaults.

        A field added later with a default that keeps the old behaviour leaves the names of old runs as they were.
        """
        return hash_of(self.changed())

    @property
    def name(self) -> str:
        """Folder name of the run: readable first, unique by its hash."""
        init = f"-{self.init}" if self.row.start == "masked" else ""
        return f"{self.method}{init}-{self.architecture}-s{self.seed}-{self.hash}"

    def changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults, nested for ``mask_from``."""
        return changed(self)

    def with_(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[type-var]

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, as stored in ``config.json``."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of :meth:`to_dict`.

        Raises:
            ValueError: if a field is unknown, or a value cannot be.
        """
        if unknown := sorted(set(values) - set(defaults_of(cls))):
            raise ValueError(f"the config has fields this version does not know: {', '.join(unknown)}.")
        parent = values.get("mask_from")
        nested = {
            "mask_from": None if parent is None else cls.from_dict(parent),
            "snapshots": tuple(values.get("snapshots", ())),
        }
        return cls(**{**values, **nested})


def pruning_parent(config: Kind) -> Kind:
    """The pruning run of the same seed and schedule, whose final masks a sparse run can start from.

    What a pruning run does not look at stays at its default, so that all methods share one pruning run.

    >>> from sparseflow.training.digits import DigitRun
    >>> pruning_parent(DigitRun(method="rigl", init="liu", seed=3)).changed()
    {'method': 'prune', 'seed': 3}
    """
    defaults = defaults_of(type(config))
    kept = (config.rewind_step,) if config.rewind_step else ()
    unused = {name: defaults[name] for name in (*config.unused_by_pruning, "init", "mask_from", "rewind_step")}
    return config.with_(**unused, method="prune", snapshots=kept)
