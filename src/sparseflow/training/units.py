"""The units of a run's network that are alive, and those that are not, counted at the start and at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from sparseflow.analysis.dead_units import DeadUnits, dead_units
from sparseflow.sharded import full
from sparseflow.training.config import RunConfig
from sparseflow.training.runs import Run
from sparseflow.training.setup import dense_network
from sparseflow.training.step import Trainer
from sparseflow.training.streams import Batch, first_images

#: The images that are looked at: at most so many, with so many numbers in all and in a batch, which bounds time and
#: memory for large ones. A unit that fires for 2 % of the images is missed by 256 with probability 0.6 %.
_IMAGES, _NUMBERS, _NUMBERS_OF_BATCH = 256, 2**22, 2**20


def unit_counts(config: RunConfig, trainer: Trainer, images: Iterable[Batch]) -> dict[str, float]:
    """Count the units of each layer, on fixed training images and a copy of the network.

    Args:
        config: The run.
        trainer: Between two steps; left as it is. All processes call it.
        images: Fixed training images; the first ones are looked at.

    Returns: of :func:`counts_by_layer`; empty on all ranks but the first.
    """
    sparsifier = trainer.sparsifier
    # All ranks gather the parts of sharded weights; a copy leaves the hooks of the trained network out.
    state = {name: full(tensor) for name, tensor in sparsifier.model.state_dict().items()}
    masks = {name: full(mask) for name, mask in sparsifier.masks.items()}
    if not trainer.ranks.is_first:
        return {}
    model = dense_network(config)
    model.load_state_dict(state)
    model = model.to(trainer.ranks.device).train()
    return counts_by_layer(dead_units(model, list(_first(images)), masks))


def counts_by_layer(found: Mapping[str, DeadUnits]) -> dict[str, float]:
    """Numbers of units by ``units/<which>/<layer>``: ``all``, ``live`` (in no list) and the four lists' lengths.

    Args:
        found: Of :func:`sparseflow.analysis.dead_units`.

    >>> counts_by_layer({"conv1": DeadUnits(6, (1, 2), (2,), (1,), ())})
    {'units/all/conv1': 6, 'units/live/conv1': 4, 'units/never_fire/conv1': 2, 'units/no_gradient/conv1': 1,
     'units/no_path_in/conv1': 1, 'units/no_path_out/conv1': 0}
    """
    return {
        f"units/{which}/{layer}": number
        for layer, units in found.items()
        for which, number in {
            "all": units.units,
            "live": units.units - len(units.dead),
            "never_fire": len(units.never_fire),
            "no_gradient": len(units.no_gradient),
            "no_path_in": len(units.no_path_in),
            "no_path_out": len(units.no_path_out),
        }.items()
    }


def _first(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The first images, in batches that are small enough."""
    found = list(batches)
    numbers = found[0][0][0].numel()
    for images, labels in first_images(found, max(1, min(_IMAGES, _NUMBERS // numbers))):
        size = max(1, _NUMBERS_OF_BATCH // numbers)
        yield from zip(images.split(size), labels.split(size), strict=True)


def unit_count(run: Run, which: str, layer: str, *, at_end: bool = False) -> float:
    """A number that :func:`counts_by_layer` names, at the start or the end of a run; NaN if the run is older than it.

    Args:
        run: A finished run.
        which: Of the units: ``all``, ``live``, ``never_fire``, ``no_gradient``, ``no_path_in`` or ``no_path_out``.
        layer: Module name.
        at_end: After the last step rather than before the first.
    """
    rows = run.metrics
    chosen = (rows["name"] == f"units/{which}/{layer}") & (rows["step"] == (run.config.steps if at_end else 0))
    return float(rows.loc[chosen, "value"].iloc[0]) if chosen.any() else math.nan


def first_layer(run: Run) -> str | None:
    """Module name of the first layer whose units a run counted; ``None`` if it counted none."""
    names = run.metrics["name"]
    found = names[names.str.startswith("units/all/")]
    return None if found.empty else str(found.iloc[0]).removeprefix("units/all/")
