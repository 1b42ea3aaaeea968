"""``sparseflow train``: one run on digits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from sparseflow._fast import has_numba
from sparseflow.cli.options import OptionalPath
from sparseflow.cli.progress import show_end, shown
from sparseflow.cli.start import TypedDigits, complete
from sparseflow.suggest import did_you_mean
from sparseflow.training.datasets import IMAGE_DATASETS
from sparseflow.training.digits import DigitRun

_out = Console()
_err = Console(stderr=True)


@dataclass(frozen=True)
class Train:
    """Train one run, or continue it. For images: train images. For text: train text."""

    config: Annotated[TypedDigits, tyro.conf.arg(name="")]
    out: Path = Path("runs/train")
    """Folder of all runs."""
    data: OptionalPath = None
    """Folder of datasets; None: $SPARSEFLOW_DATA, else the user's cache."""
    pruned_mask: bool = False
    """Start from a pruning run's masks."""
    tensorboard: bool = False
    """Also write TensorBoard events."""

    def run(self) -> None:
        """Train with a progress bar and print where the run is and how it ended."""
        from sparseflow.training.run import train
        from sparseflow.training.sweep import Training, prepare
        from sparseflow.training.tasks import in_order

        check_is_digits(self.config.dataset)
        config = complete(self.config, DigitRun, pruned_mask=self.pruned_mask)
        if config.engine == "auto" and not has_numba():
            _err.print("engine: masked, because Numba is not there; pip install numba computes no zeros")
        tasks = in_order([Training(config, self.data, self.tensorboard)])
        prepare([task for task in tasks if not task.is_done(self.out)], root=self.out, data_root=self.data)
        with shown(f"{config.method}, {config.model}", console=_err) as bar:
            run = train(
                config,
                root=self.out,
                data_root=self.data,
                tensorboard=self.tensorboard,
                progress=bar.step,
                watch=bar.log,
            )
        show_end(run, out=_out, err=_err)


def check_is_digits(dataset: str) -> None:
    """Lead from a dataset of colour images to the command that trains on it.

    Raises:
        ValueError: with what to type.
    """
    near = did_you_mean(dataset, IMAGE_DATASETS).removeprefix(" Did you mean ").removesuffix("?")
    name = dataset if dataset in IMAGE_DATASETS else near
    if not name or (dataset != name and name == "imagenet"):
        return
    small = " --image-size 32 --stem cifar --num-classes 10 --short 2000 128" if name == "cifar10" else ""
    raise ValueError(
        f"dataset {dataset!r} is none of digits; images are trained by another command. Type: sparseflow train images "
        f"--dataset {name}{small}"
    )
