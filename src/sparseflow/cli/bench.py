"""The command ``bench``: active weights alone against dense, timed here."""

from __future__ import annotations

import copy
import importlib
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.atomic import write_atomically
from sparseflow.cli.export import trained
from sparseflow.cli.options import OptionalPath, check_folders, one_line_if_missing
from sparseflow.masks.blocks import block_sizes, fitting
from sparseflow.networks import build_network, networks_for
from sparseflow.ranges import Count, Range, Sparsity
from sparseflow.rng import stream
from sparseflow.sealed import to_json
from sparseflow.suggest import did_you_mean
from sparseflow.training.digits import DigitRun
from sparseflow.training.environment import describe_environment
from sparseflow.training.runs import load_run

if TYPE_CHECKING:
    from sparseflow.engine.speed.table import SpeedTable

_out = Console()

#: More than torch can start end the process.
Threads = Annotated[int, Range(1, 1024)]

#: Share of zeros that a dense model may have by chance: random numbers are sometimes 0.
_BY_CHANCE = 0.01


@dataclass(frozen=True)
class Bench:
    """Time dense against sparse here, at several batch sizes and for each layer."""

    model: tyro.conf.Positional[str]
    """Folder of a run, lenet5[-small], mlp[-small], or package.module:function."""
    sparsity: Annotated[Sparsity | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Zero fraction, at random places; None: the zeros that are there, else 0.95."""
    block: Annotated[str, tyro.conf.arg(metavar="RxC")] = "1x1"
    """Outputs x inputs of a block, in layers that it divides; 4 is 4x1."""
    batches: Annotated[str, tyro.conf.arg(metavar="INT,INT...")] = "1,8,64"
    """Examples in a step."""
    inference: bool = False
    """Inference only; else training too."""
    threads: Annotated[Threads | None, tyro.conf.arg(metavar="INT")] = None
    """None: as many as torch takes."""
    input_shape: Annotated[tuple[Count, ...] | None, tyro.conf.arg(metavar="INT...")] = None
    """Of one example, such as 3 32 32; for a model of your own."""
    seconds: Annotated[float, Range(0)] = 0.5
    """To spend on each row of the table."""
    json: OptionalPath = None
    """Also write the numbers there."""

    def run(self) -> None:
        """Measure, and print the result, the table, and the layers at the largest batch."""
        check_folders(self.json)
        sizes, block = batch_sizes(self.batches), block_sizes(self.block)
        with one_line_if_missing(), _threads(self.threads):
            from sparseflow.engine.speed.benchmark import benchmark

            model, masks, shape = self._model(block)
            x = torch.randn(max(sizes), *shape, generator=stream(0, "bench"))
            x = x.to(next(model.parameters()).dtype)
            training = not self.inference
            best, batch, layout = faster_layout(model, x, training=training, seconds=self.seconds)
            found = benchmark(
                best, batch, sizes, masks=masks, training=None if training else False, seconds=self.seconds
            )
            plan = time_plan(best, masks, x, batch, seconds=self.seconds) if training else None
        print(found, f"Dense in its faster layout, {layout}.", sep="\n")
        rows = [row for row in found.rows if row.training == training and row.choice is not None]
        if rows and (choice := max(rows, key=lambda row: row.batch).choice) is not None:
            print()
            _out.print(terminal_table(choice))
            print("", *choice.notes(), sep="\n")
        if plan is not None:
            dense, sparse = plan
            print(
                f"Training it as a plan (the lab does): {sparse * 1e3:.2f} ms a step with loss and SGD, dense "
                f"{dense * 1e3:.2f} ms: {dense / sparse:.1f} times as fast."
            )
        if self.json is not None:
            step = None if plan is None else {"dense_seconds": plan[0], "plan_seconds": plan[1]}
            values = {"model": self.model, **found.to_dict(), "layout": layout, "training_step": step}
            write_atomically(self.json, to_json({**values, "environment": describe_environment()}, indent=2))

    def _model(self, block: tuple[int, int]) -> tuple[nn.Module, sf.types.Masks, tuple[int, ...]]:
        """The network, its masks and the shape of one example."""
        if Path(self.model).is_dir():
            if self.sparsity is not None or math.prod(block) > 1:
                raise ValueError("a run has masks of its own; leave --sparsity and --block out.")
            return *trained(Path(self.model)), self.input_shape or load_run(Path(self.model)).config.image_shape
        if self.model in networks_for(1):
            model: nn.Module = build_network(self.model, generator=stream(0, "model"))
        elif ":" in self.model:
            if self.input_shape is None:
                raise ValueError("say what one example of your model looks like, such as --input-shape 3 32 32.")
            model = imported(self.model)
        else:
            raise ValueError(
                f"there is no folder and no model {self.model!r}. Models: {', '.join(networks_for(1))}; one of your "
                f"own is package.module:function.{did_you_mean(self.model, networks_for(1))}"
            )
        masks: Mapping[str, Tensor] = {name: w.parameter.detach() != 0 for name, w in sf.prunable(model).items()}
        if self.sparsity is not None or sf.sparsity_of(masks) < _BY_CHANCE:
            sparsity = 0.95 if self.sparsity is None else self.sparsity
            masks = sf.random_masks(model, sparsity, allocation="uniform", seed=0, block=fitting(block, model))
        return sf.apply_masks_(model, masks), masks, self.input_shape or DigitRun().image_shape


def imported(name: str) -> nn.Module:
    """The module that ``package.module:function`` returns, looked for in the working folder too.

    Raises:
        ValueError: if it cannot be imported or is no ``torch.nn.Module``.
    """
    model = made_by(name)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name!r} must return a torch.nn.Module, got {type(model).__name__}.")
    return model


def made_by(name: str) -> Any:
    """What ``package.module:function`` returns, looked for in the working folder too.

    Raises:
        ValueError: if it cannot be imported.
    """
    module_name, _, function = name.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        make = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"cannot import {name!r}: {error}.") from error
    return make()


def batch_sizes(text: str) -> tuple[int, ...]:
    """Numbers of examples.

    Raises:
        ValueError: if they are no positive whole numbers between commas.

    >>> batch_sizes("1,8,64")
    (1, 8, 64)
    """
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"batches must be whole numbers of at least 1, such as 1,8,64, got {text!r}.")
    return tuple(map(int, parts))


def faster_layout(model: nn.Module, x: Tensor, *, training: bool, seconds: float) -> tuple[nn.Module, Tensor, str]:
    """The dense model and its input in the memory format in which it is faster, and the format's name.

    Args:
        model: Dense.
        x: A batch.
        training: Whether to time training steps, or inference.
        seconds: To spend.
    """
    if x.dim() != 4 or not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return model, x, "contiguous"
    from sparseflow.engine.speed.steps import in_mode_, model_step
    from sparseflow.engine.speed.timing import medians

    last = copy.deepcopy(model)
    last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = x.to(memory_format=torch.channels_last)
    steps = [
        model_step(in_mode_(copy.deepcopy(form), training=training), (batch,), training=training)
        for form, batch in ((model, x), (last, image))
    ]
    first_seconds, last_seconds = medians(steps, seconds=seconds)
    return (model, x, "contiguous") if first_seconds <= last_seconds else (last, image, "channels_last")


def time_plan(
    model: nn.Module, masks: sf.types.Masks, x: Tensor, dense_x: Tensor, *, seconds: float
) -> tuple[float, float] | None:
    """Seconds of a training step with loss and SGD, dense and as a plan; ``None`` if the model is no chain.

    Args:
        model: Dense with zeros.
        masks: Its active weights.
        x: A batch for the plan.
        dense_x: The same batch in the dense model's memory format.
        seconds: To spend.
    """
    from sparseflow.engine.plans.plan import plan
    from sparseflow.engine.speed.timing import medians

    model, twin = copy.deepcopy(model), copy.deepcopy(model)
    optimizer, twin_optimizer = (torch.optim.SGD(m.parameters(), lr=1e-4, momentum=0.9) for m in (model, twin))
    try:
        made = plan(model, masks, optimizer)
        classes = made.logits(x[:1]).shape[-1]
        labels = torch.randint(classes, (len(x),), generator=stream(0, "labels"))
        made.step(x, labels)
    except (TypeError, ValueError):
        return None

    def dense_step() -> None:
        twin_optimizer.zero_grad()
        F.cross_entropy(twin(dense_x), labels).backward()
        twin_optimizer.step()

    dense, sparse = medians([dense_step, lambda: made.step(x, labels)], seconds=seconds)
    return dense, sparse


def terminal_table(table: SpeedTable) -> Table:
    """The table for a terminal: layers that are computed sparse in green."""
    head, *rows, whole = table.cells()
    rendered = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, show_footer=False)
    for index, texts in enumerate(zip(*table.cells(), strict=True)):
        is_text, is_free = index in (0, 1, len(head) - 1), index in (0, len(head) - 1)
        width = None if is_free else max(map(len, texts))
        rendered.add_column(
            head[index], justify="left" if is_text else "right", no_wrap=not is_free, overflow="fold", min_width=width
        )
    for layer, row in zip(table.layers, rows, strict=True):
        rendered.add_row(*row, style="green" if layer.is_sparse else None)
    rendered.add_section()
    rendered.add_row(*whole, style="bold")
    return rendered


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(before if number is None else number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
