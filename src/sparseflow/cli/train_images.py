"""``sparseflow train images``: the networks for colour images, on one process or on those of ``torchrun``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from sparseflow.cli.options import OptionalPath
from sparseflow.cli.progress import show_end, shown
from sparseflow.cli.start import TypedImages, complete
from sparseflow.ranges import Count, WholeNumber
from sparseflow.training.images import ImageRun, rescaled, usual_run

_out = Console()
_err = Console(stderr=True)


@dataclass(frozen=True)
class TrainImages:
    """Train VGG16 or ResNet-50 as the paper does, or ResNet-20 on CIFAR-10; torchrun shares a run among processes."""

    config: Annotated[TypedImages, tyro.conf.arg(name="")]
    out: Path = Path("runs/images")
    """Folder of all runs."""
    data: OptionalPath = None
    """Folder of the images; None: the Hugging Face hub."""
    short: Annotated[tuple[Count, Count] | None, tyro.conf.arg(metavar="STEPS BATCH")] = None
    """The same run on fewer and smaller steps; all that is counted in steps shrinks."""
    pruned_mask: bool = False
    """Start from a pruning run's masks."""
    fsdp: bool = False
    """Each process keeps only its part of the network."""
    workers: WholeNumber = 0
    """Processes that decode images, for each rank."""

    def run(self) -> None:
        """Train with a progress bar and print where the run is and how it ended, both on rank 0."""
        from sparseflow.training.ranks import ranks_of_torchrun
        from sparseflow.training.run import train

        config = complete(self.config, ImageRun, pruned_mask=False if self.short else self.pruned_mask)
        if self.short is not None:
            config = rescaled(config, steps=self.short[0], batch_size=self.short[1])
            config = complete(config, ImageRun, pruned_mask=self.pruned_mask)
        with ranks_of_torchrun() as ranks:
            name = f"{config.method}, {config.network}"
            with shown(name, console=_err, disabled=not ranks.is_first) as bar:
                found = train(
                    config,
                    root=self.out,
                    data_root=self.data,
                    ranks=ranks,
                    sharded=self.fsdp,
                    workers=self.workers,
                    progress=bar.step,
                    watch=bar.log,
                )
        if ranks.is_first:
            show_end(found, out=_out, err=_err)

    @classmethod
    def default_for(cls, arguments: Sequence[str]) -> TrainImages:
        """The command whose settings are the usual ones of the network among the arguments.

        >>> TrainImages.default_for(["--network", "vgg16"]).config.learning_rate
        0.04
        >>> TrainImages.default_for(["--network=resnet20"]).config.dataset
        'cifar10'
        """
        named = [value for flag, value in pairwise(arguments) if flag == "--network"]
        named += [argument.removeprefix("--network=") for argument in arguments if argument.startswith("--network=")]
        run = usual_run(named[-1] if named else "resnet50")
        return cls(TypedImages(**{field.name: getattr(run, field.name) for field in fields(run)}))
