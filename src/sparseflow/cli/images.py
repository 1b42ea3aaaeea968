"""``sparseflow train images``: the paper's ImageNet networks, on one process or on those of ``torchrun``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sparseflow.ranges import Count, WholeNumber
from sparseflow.training.config import pruning_parent
from sparseflow.training.images import PAPER, ImageRun, paper_run, rescaled

_out = Console()
_err = Console(stderr=True)

_OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]


@dataclass(frozen=True)
class TrainImages:
    """Train VGG16 or ResNet-50 as the paper does, or change its settings; torchrun shares a run among processes."""

    config: Annotated[ImageRun, tyro.conf.arg(name="")]
    out: Path = Path("runs/images")
    """Folder of all runs."""
    data: _OptionalPath = None
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

        config = self.config
        if self.short is not None:
            config = rescaled(config, steps=self.short[0], batch_size=self.short[1])
        if self.pruned_mask:
            config = config.with_(mask_from=pruning_parent(config))
        with ExitStack() as stack:
            ranks = stack.enter_context(ranks_of_torchrun())
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            bar = Progress(*columns, console=_err, disable=not ranks.is_first)
            task = bar.add_task(f"{config.method}, {config.network}", total=config.steps)

            def show(step: int, steps: int) -> None:
                if not bar.live.is_started:
                    stack.enter_context(bar)
                bar.update(task, completed=step, total=steps)

            found = train(
                config,
                root=self.out,
                data_root=self.data,
                ranks=ranks,
                sharded=self.fsdp,
                workers=self.workers,
                progress=show,
            )
        if ranks.is_first:
            for name, value in found.final.items():
                _out.print(f"{name}: {value:.4f}")
            _out.print(f"{found.seconds:.0f} s, in {found.folder}", soft_wrap=True)
            for line in found.warnings():
                _out.print(line, soft_wrap=True)


def train_images_command(arguments: Sequence[str]) -> TrainImages:
    """Parse the arguments; options default to the paper's for the chosen network.

    >>> command = train_images_command(["--network", "vgg16", "--method", "set"])
    >>> command.config == paper_run("vgg16", method="set")
    True
    """
    named = [value for flag, value in pairwise(arguments) if flag == "--network"]
    named += [argument.removeprefix("--network=") for argument in arguments if argument.startswith("--network=")]
    network = named[-1] if named and named[-1] in PAPER else "resnet50"
    return tyro.cli(
        TrainImages,
        prog="sparseflow train images",
        args=arguments,
        default=TrainImages(paper_run(network)),
        config=(tyro.conf.FlagCreatePairsOff,),
    )
