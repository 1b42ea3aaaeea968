"""``python -m benchmarks.text_circuits --runs FOLDER --out FOLDER``: the smallest circuits of finished decoders.

For each finished run of ``sparseflow train text`` and each task: how well the decoder does it, the fewest units that
keep the loss at ``TARGET``, and the weights between them; a row of ``circuits.csv`` and a picture. Gates are learned on
prompts of the training text, units are cut on those of the validation text, and how good it is says the test text. A
decoder whose loss on the validation text is above ``TARGET`` has no circuit, and the row says so.
Rows that are there already are not computed again, so that the same command goes on after a stop.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console

from sparseflow.atomic import write_atomically
from sparseflow.circuits.picture import draw, edges
from sparseflow.circuits.prune import gated, learn_gates, mean_activations, places, smallest
from sparseflow.circuits.tasks import TASKS, prompts_of
from sparseflow.cli.progress import shown
from sparseflow.data.text import Text, drawn_windows, load_text
from sparseflow.rng import stream
from sparseflow.training.runs import load_runs
from sparseflow.training.text import TextRun
from sparseflow.training.text_loop import trained_decoder

#: Nats of a task that a circuit may have at most: the paper's.
TARGET = 0.15
#: Prompts of each answer, Adam's steps, and prompts in one.
PROMPTS, STEPS, BATCH = 200, 400, 32
#: Units that are taken out one by one, and bytes before an answer.
TRIES, CONTEXT = 100, 64
#: In nats: so much more loss is worth all units.
PENALTY = 1.0
#: Columns that are empty where there is no circuit: its size, and the task with its units alone.
CIRCUIT = (
    "circuit_units", "circuit_weights", "circuit_validation_loss", "circuit_test_loss", "circuit_test_accuracy",
)  # fmt: skip


def circuit_of(run: TextRun, task: str, text: Text, *, root: Path, out: Path, console: Console) -> dict[str, Any]:
    """The row of a run and a task; draws its picture."""
    model = trained_decoder(run, root=root)
    parts = {"training": 10 * PROMPTS, "validation": PROMPTS, "test": PROMPTS}
    seeds = {name: stream(run.seed, "circuit", task, name) for name in (*parts, "mean", "batch")}
    train, validation, test = (
        prompts_of(getattr(text, part), task, context=CONTEXT, most=most, generator=seeds[part])
        for part, most in parts.items()
    )
    with torch.no_grad():
        whole = {part: of.loss(model).item() for part, of in (("validation", validation), ("test", test))}
    total = sum(units.count for units in places(model).values())
    row: dict[str, Any] = {
        "run": run.name, "one_in": run.one_in, "width": run.width, "task": task,
        "validation_loss": whole["validation"], "test_loss": whole["test"], "test_accuracy": test.accuracy(model),
        "units": total, "target": TARGET,
    }  # fmt: skip
    if whole["validation"] > TARGET:
        return row | dict.fromkeys(CIRCUIT)
    batches = [drawn_windows(text.training, size=CONTEXT, count=32, generator=seeds["mean"]) for _ in range(16)]
    means = mean_activations(model, batches)
    with shown(f"{run.name}, {task}", console=console) as bar:

        def progress(step: int, loss: float, kept: int) -> None:
            bar.log(step, {"train/loss": loss})
            bar.step(step, STEPS)

        taus = learn_gates(
            model, lambda: train.drawn(BATCH, seeds["batch"]).loss(model), means, steps=STEPS, penalty=PENALTY,
            progress=progress,
        )  # fmt: skip
    found = smallest(model, lambda: validation.loss(model), means, taus, target=TARGET, tries=TRIES)
    between = edges(model, found)
    picture = io.BytesIO()
    name = "dense" if run.one_in == 1 else f"1 in {run.one_in}"
    figure = draw(model, found, title=f"{name}, width {run.width}, {task}")
    figure.savefig(picture, format="svg", metadata={"Date": None})
    write_atomically(out / f"{run.name}-{task}.svg", picture.getvalue())
    with torch.no_grad(), gated(model, {name: kept.float() for name, kept in found.kept.items()}, means):
        values = (found.size, len(between), found.loss, test.loss(model).item(), test.accuracy(model))
    return row | dict(zip(CIRCUIT, values, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text_circuits", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/text"), help="folder of finished runs")
    parser.add_argument("--out", type=Path, required=True, help="folder of circuits.csv and the pictures")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    arguments = parser.parse_args()
    console = Console(stderr=True)
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = arguments.out / "circuits.csv"
    rows: list[dict[Any, Any]] = pd.read_csv(table).to_dict("records") if table.is_file() else []
    done = {(row["run"], row["task"]) for row in rows}
    for found in load_runs(arguments.runs):
        for task in arguments.tasks:
            if isinstance(found.config, TextRun) and (found.config.name, task) not in done:
                text = load_text(found.config.package)
                rows.append(
                    circuit_of(found.config, task, text, root=arguments.runs, out=arguments.out, console=console)
                )
                write_atomically(table, pd.DataFrame(rows).to_csv(index=False).encode())
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
