"""The loop of a decoder on text: windows in, steps taken, bits per byte out; killed and continued bit for bit."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.data.text import Text, bits, drawn_windows, every_window, load_text
from sparseflow.networks.decoder import Decoder
from sparseflow.rng import stream
from sparseflow.state_file import read_checkpoint
from sparseflow.training.probes import Log
from sparseflow.training.run import Progress, one_thread
from sparseflow.training.runs import CHECKPOINTS, Run, is_done, load_run, snapshot_name, stamp
from sparseflow.training.store import RunStore
from sparseflow.training.text import TextRun
from sparseflow.training.text_step import TextTraining, cross_entropy

#: Windows of an evaluation that are computed together.
_AT_ONCE = 16


def train_text(run: TextRun, *, root: Path, progress: Progress | None = None, watch: Log | None = None) -> Run:
    """Train the run that a config describes, or continue it from its last checkpoint, or return it if it is done.

    It computes on one thread, so that the same config gives the same bits. Logged every ``log_every`` steps, before the
    step: ``train/loss`` in nats and ``train/density``, the share of entries that are active; every ``eval_every`` steps
    ``validation/bits_per_byte``, at the end that of all validation text.

    Results at its end: that, to choose settings by; ``test/bits_per_byte``, of all test text; ``weights``, the active
    entries, and ``table``, those of the bigram table, which are not among them.

    Args:
        run: The run.
        root: Folder of all runs.
        progress: Called after every step with the steps taken and all.
        watch: Gets what is logged, beside the run's folder.

    Raises:
        ValueError, OSError, RuntimeError: as the store and the text say.
        FloatingPointError: if the loss is not finite.
    """
    if is_done(root, run):
        return load_run(root / run.name)
    with one_thread():
        text = load_text(run.package)
        training = TextTraining(run)
        with RunStore(root, run) as store:
            _continue(training, text, store, progress=progress, watch=watch)
    return load_run(root / run.name)


def _continue(
    training: TextTraining, text: Text, store: RunStore, *, progress: Progress | None, watch: Log | None
) -> None:
    run, before, began = training.run, 0.0, time.perf_counter()
    if (found := store.latest_checkpoint()) is not None:
        training.load_state_dict(found[1])
        before = found[1]["seconds"]
    store.truncate_metrics(training.step_count)

    def log(values: dict[str, float]) -> None:
        store.log(training.step_count, values)
        if watch is not None:
            watch(training.step_count, values)

    def seconds() -> float:
        return before + time.perf_counter() - began

    evaluated = every_window(text.validation, context=run.context, most=run.eval_windows)
    while (step := training.step_count) < run.steps:
        windows = drawn_windows(
            text.training, size=run.context + 1, count=run.batch_size, generator=stream(run.seed, "text", step)
        )
        loss = training.step(windows, log=log if step % run.log_every == 0 else None)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss of step {step} is {loss}. Lower the learning rate.")
        if (taken := training.step_count) % run.eval_every == 0 and taken < run.steps:
            log({"validation/bits_per_byte": bits_per_byte(training.model, evaluated)})
        if taken % run.checkpoint_every == 0 or taken == run.steps:
            store.save_checkpoint(taken, training.state_dict() | {"seconds": seconds()})
        if progress is not None:
            progress(taken, run.steps)
    training.check()
    final = {
        f"{part}/bits_per_byte": bits_per_byte(training.model, every_window(each, context=run.context))
        for part, each in {"validation": text.validation, "test": text.test}.items()
    }
    log(final)
    final |= {
        "weights": float(training.num_active - training.num_in_table),
        "table": float(training.num_in_table),
    }
    store.finish(final, seconds())


@torch.no_grad()
def bits_per_byte(model: nn.Module, windows: Tensor) -> float:
    """Mean cross-entropy in bits of every byte of the windows but the first of each.

    Args:
        model: A decoder.
        windows: ``(windows, context + 1)``, see :func:`sparseflow.data.text.every_window`.

    >>> model = Decoder(symbols=256, width=4, depth=1, heads=1)
    >>> _ = model.head.weight.data.zero_(), model.bigram.weight.data.zero_()
    >>> round(bits_per_byte(model, torch.zeros(3, 5, dtype=torch.int64)), 4)  # all bytes are as likely
    8.0
    """
    total = sum(float(cross_entropy(model, part)) * len(part) for part in windows.split(_AT_ONCE))
    return bits(total / len(windows))


def trained_decoder(run: TextRun, *, root: Path) -> Decoder:
    """The decoder at the end of a finished run, dense, with zeros where nothing is active.

    Args:
        run: The run.
        root: Folder of all runs.

    Raises:
        FileNotFoundError: if it is not finished.
    """
    if not is_done(root, run):
        raise FileNotFoundError(f"{root / run.name} is no finished run. Type: {run.command} --out {root}")
    path = root / run.name / CHECKPOINTS / snapshot_name(run.steps)
    training = TextTraining(run)
    training.load_state_dict(read_checkpoint(path, of=stamp(run, run.steps))["state"])
    model = Decoder(**run.size)
    model.load_state_dict(sf.engine.dense_state_dict(training.model))
    return model
