"""``python -m benchmarks.last_update``: what a run's last mask update costs, by its design, for docs/methods.md."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparseflow as sf
from benchmarks.result import RESULTS
from benchmarks.table import filled
from sparseflow.atomic import write_atomically
from sparseflow.data.digits import Dataset, load_dataset
from sparseflow.methods.base import Method
from sparseflow.methods.run import OpenEndWarning, UnfinishedWarning
from sparseflow.rng import stream
from sparseflow.types import MaskUpdate

STEPS, EVERY, BATCH, SEEDS = 600, 100, 64, 5
SPARSITIES = (0.9, 0.95)
METHODS = {"RigL": sf.RigL, "SET": sf.SET}
#: Design -> options of the method; in all of them updates come every 100 of 600 steps.
DESIGNS: dict[str, dict[str, Any]] = {
    "never stops": {},
    "stops one period before the end": {"update_until": STEPS - EVERY},
    "`total_steps=600`": {"total_steps": STEPS},
    "cosine to the end": {"update_until": STEPS, "schedule": "cosine"},
    "`total_steps=600`, cosine": {"total_steps": STEPS, "schedule": "cosine"},
}
PAGE = Path(__file__).parent.parent / "docs" / "methods.md"
RESULT = RESULTS / "last_update.csv"


class End(NamedTuple):
    """How a run ended."""

    before: float
    """Test accuracy just before the last update."""
    after: float
    """Just after it."""
    final: float
    """At the end of the run."""
    untrained: int
    """Active weights that no optimizer step has moved since they grew."""
    active: int


def train(data: Dataset, method: Method, *, sparsity: float, seed: int) -> End:
    """The loop of the README on real digits: AdamW without a schedule of the learning rate."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
    masks = sf.random_masks(model, sparsity, allocation="erk", seed=seed)
    sf.initialize_(model, masks, scheme="sparse", seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sparsifier = sf.Sparsifier(model, optimizer, masks, method, seed=seed)
    seen: dict[str, float] = {}
    grown: dict[str, Tensor] = {}

    def after(step: int, changes: Mapping[str, MaskUpdate]) -> None:
        seen["after"] = accuracy(model, data)
        grown.update({name: change.grown for name, change in changes.items()})

    sparsifier.before_update.append(lambda step: seen.update(before=accuracy(model, data)))
    sparsifier.after_update.append(after)
    order = stream(seed, "data")
    for _ in range(STEPS):
        grown.clear()
        batch = torch.randint(len(data.train_labels), (BATCH,), generator=order)
        optimizer.zero_grad()
        cross_entropy(model(data.train_images[batch]), data.train_labels[batch]).backward()
        optimizer.step()
    sparsifier.check()
    active = sum(int(mask.sum()) for mask in sparsifier.masks.values())
    untrained = sum(int(mask.sum()) for mask in grown.values())
    return End(seen["before"], seen["after"], accuracy(model, data), untrained, active)


@torch.no_grad()
def accuracy(model: nn.Module, data: Dataset) -> float:
    """Share of the test images that are recognised."""
    return float((model(data.test_images).argmax(1) == data.test_labels).double().mean())


def ends() -> Iterator[dict[str, object]]:
    """One row per method, sparsity, design and seed."""
    data = load_dataset("mnist-5k")
    cases = [(m, s, d, seed) for m in METHODS for s in SPARSITIES for d in DESIGNS for seed in range(SEEDS)]
    for name, sparsity, design, seed in track(cases):
        end = train(data, METHODS[name](update_every=EVERY, **DESIGNS[design]), sparsity=sparsity, seed=seed)
        yield {"method": name, "sparsity": sparsity, "design": design, "seed": seed, **end._asdict()}


def markdown(table: pd.DataFrame) -> str:
    """One row per design, one column for each method and sparsity: final accuracy, and what the last update took."""
    points = [(name, sparsity) for name in METHODS for sparsity in SPARSITIES]
    lines = [
        f"| design | {' | '.join(f'{name}, {sparsity:.0%}' for name, sparsity in points)} | untrained at the end |"
    ]
    lines.append("|---|" + "---|" * (len(points) + 1))
    for design in DESIGNS:
        rows = table[table["design"] == design]
        cells = []
        for name, sparsity in points:
            part = rows[(rows["method"] == name) & (rows["sparsity"] == sparsity)]
            lost = 100 * (part["before"] - part["after"])
            cells.append(f"{100 * part['final'].mean():.1f} (−{lost.mean():.1f}, at most {lost.max():.1f})")
        share = (rows["untrained"] / rows["active"]).mean()
        lines.append(f"| {design} | {' | '.join(cells)} | {share:.0%} |")
    lines += ["", f"n = {SEEDS} seeds; every run is in `benchmarks/results/{RESULT.name}`."]
    return "\n".join(lines)


def main() -> None:
    """Train, store the table, and write it into the page."""
    torch.set_num_threads(1)
    for expected in (OpenEndWarning, UnfinishedWarning):  # of the first design, which is what is measured
        warnings.simplefilter("ignore", expected)
    table = pd.DataFrame(list(ends()))
    RESULTS.mkdir(exist_ok=True)
    write_atomically(RESULT, table.to_csv(index=False).encode())
    PAGE.write_text(filled(PAGE.read_text(), "last_update", markdown(table)))


if __name__ == "__main__":
    main()
