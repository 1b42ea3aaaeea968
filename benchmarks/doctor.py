"""``python -m benchmarks.doctor``: the numbers that the doctor looks at, on networks that learn and that do not.

Four kinds of networks on real digits, at three sparsities, from three starts each, are measured before and after
training; a second table has the accuracy of RigL and SET by drop fraction and period.
"""

from __future__ import annotations

import argparse
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
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
from sparseflow.analysis.dead_units import dead_units
from sparseflow.atomic import write_atomically
from sparseflow.batches import Batch
from sparseflow.data.digits import Dataset, load_dataset
from sparseflow.doctor.causes import CAUSES
from sparseflow.doctor.start import scales
from sparseflow.doctor.units import share_dead, share_without_inputs
from sparseflow.networks.lenet import lenet5, mlp
from sparseflow.rng import stream
from sparseflow.types import Masks

PAGE = Path(__file__).parent.parent / "docs" / "doctor.md"
STARTS, TURNOVER = RESULTS / "doctor_starts.csv", RESULTS / "doctor_turnover.csv"
SPARSITIES = (0.8, 0.9, 0.95)
SEEDS, STEPS, BATCH, EXAMPLES = 2, 300, 64, 256
#: Points of accuracy that a start must cost to count as too weak.
COSTLY = 0.05
#: Name of a start -> scheme of ``initialize_``; ``None`` masks what the layers were born with.
SCHEMES: dict[str, str | None] = {"Ours": "sparse", "Original": "dense", "torch's own": None}
PERIODS = (1, 5, 25, 100)
FRACTIONS = (0.1, 0.3, 0.5)
METHODS: dict[str, Callable[..., Any]] = {"RigL": sf.RigL, "SET": sf.SET}


class Rows(nn.Module):
    """An image as a sequence of its rows."""

    def forward(self, images: Tensor) -> Tensor:
        """``(N, 1, H, W)`` to ``(N, H, W)``."""
        return images.flatten(1, 2)


class Mean(nn.Module):
    """The mean over the sequence."""

    def forward(self, tokens: Tensor) -> Tensor:
        """``(N, L, E)`` to ``(N, E)``."""
        return tokens.mean(1)


def small_cnn() -> nn.Sequential:
    """Two convolutions with batch norm and a linear layer."""
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(1, 16, 3, stride=2), norm1=nn.BatchNorm2d(16), relu1=nn.ReLU(),
            conv2=nn.Conv2d(16, 32, 3, stride=2), norm2=nn.BatchNorm2d(32), relu2=nn.ReLU(),
            flatten=nn.Flatten(), fc=nn.Linear(32 * 36, 10),
        )
    )  # fmt: skip


def encoder() -> nn.Sequential:
    """A transformer encoder that reads an image row by row."""
    layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
    layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            rows=Rows(), embed=nn.Linear(28, 32), encoder=layers, mean=Mean(), head=nn.Linear(32, 10)
        )
    )


Make = Callable[[], nn.Module]
NETWORKS: dict[str, Make] = {"mlp": mlp, "lenet5": lenet5, "small_cnn": small_cnn, "encoder": encoder}


class Sparse(NamedTuple):
    """A sparse network at its start."""

    model: nn.Module
    masks: Masks


def make(network: str, *, sparsity: float, scheme: str | None, seed: int) -> Sparse:
    """A network with random masks.

    Args:
        network: Key of ``NETWORKS``.
        sparsity: Share of zeros, ERK over layers.
        scheme: Of ``initialize_``; ``None`` masks what the layers were born with.
        seed: Of everything random.
    """
    torch.manual_seed(seed)
    model = NETWORKS[network]()
    masks = sf.random_masks(model, sparsity, allocation="erk", seed=seed)
    sf.apply_masks_(model, masks)
    if scheme is not None:
        sf.initialize_(model, masks, scheme=scheme, seed=seed)
    return Sparse(model, masks)


def train(sparse: Sparse, data: Dataset, *, seed: int, steps: int = STEPS, method: Any = None) -> sf.Sparsifier:
    """A short training on digits, whose Sparsifier still holds the network at the end.

    By SGD as in the paper, since Adam's steps hide a start that is too weak; an encoder needs Adam.
    """
    model, masks = sparse
    has_attention = any(isinstance(module, nn.MultiheadAttention) for module in model.modules())
    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(model.parameters(), lr=2e-3)
        if has_attention
        else torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    )
    sparsifier = sf.Sparsifier(model, optimizer, masks, method or sf.Static(), seed=seed)
    order = stream(seed, "data")
    for _ in range(steps):
        batch = torch.randint(len(data.train_labels), (BATCH,), generator=order)
        optimizer.zero_grad()
        cross_entropy(model(data.train_images[batch]), data.train_labels[batch]).backward()
        optimizer.step()
    return sparsifier


def some(data: Dataset) -> list[Batch]:
    """The examples that numbers are taken of."""
    return [Batch(data.train_images[:EXAMPLES], data.train_labels[:EXAMPLES], EXAMPLES)]


@torch.no_grad()
def accuracy(model: nn.Module, data: Dataset) -> float:
    """Share of the test images that are recognised."""
    was = model.training
    found = float((model.eval()(data.test_images).argmax(1) == data.test_labels).double().mean())
    model.train(was)
    return found


def numbers(sparse: Sparse, data: Dataset) -> dict[str, float]:
    """The largest share of units without inputs and of dead units in a layer, and the spread of the output."""
    units = dead_units(sparse.model, some(data), sparse.masks)
    return {
        "units_without_inputs": max(share_without_inputs(sparse.model, sparse.masks).values()),
        "dead_units": max(share_dead(sparse.model, sparse.masks, units).values()),
        "weak_start": scales(sparse.model, sparse.masks, some(data), training=None)[0],
    }


def starts(data: Dataset) -> Iterator[dict[str, object]]:
    """One row per network, sparsity, start and seed: its numbers before and after training, and its accuracy."""
    cases = [(seed, n, s, scheme) for seed in range(SEEDS) for n in NETWORKS for s in SPARSITIES for scheme in SCHEMES]
    for seed, network, sparsity, scheme in track(cases):
        sparse = make(network, sparsity=sparsity, scheme=SCHEMES[scheme], seed=seed)
        before = numbers(sparse, data)
        train(sparse, data, seed=seed).remove()
        after = numbers(sparse, data)
        yield {
            "network": network, "sparsity": sparsity, "start": scheme, "seed": seed,
            **{f"{name}_before": value for name, value in before.items()},
            **{f"{name}_after": value for name, value in after.items()},
            "accuracy": accuracy(sparse.model, data),
        }  # fmt: skip


def turnovers(data: Dataset) -> Iterator[dict[str, object]]:
    """One row per method, drop fraction, period and seed, with constant fractions; Static is a fraction of 0."""
    cases = [(m, p, f, seed) for seed in range(SEEDS) for m in METHODS for p in PERIODS for f in FRACTIONS]
    cases += [("Static", 0, 0.0, seed) for seed in range(SEEDS)]
    for name, period, fraction, seed in track(cases):
        sparse = make("mlp", sparsity=0.95, scheme="sparse", seed=seed)
        method = METHODS[name](
            drop_fraction=fraction, update_every=period, update_until=STEPS * 3 // 4, schedule="constant"
        ) if fraction else sf.Static()  # fmt: skip
        train(sparse, data, seed=seed, method=method).remove()
        yield {
            "method": name, "update_every": period, "drop_fraction": fraction, "seed": seed,
            "accuracy": accuracy(sparse.model, data),
        }  # fmt: skip


def false_alarms(table: pd.DataFrame, cause: str) -> tuple[int, int]:
    """Networks, before and after training, that a cause of units would be found in, and how many there are."""
    found = pd.concat([table[f"{cause}_before"], table[f"{cause}_after"]])
    limit = CAUSES[cause].threshold
    return int((found > limit if cause == "units_without_inputs" else found >= limit).sum()), len(found)


def weak_starts(table: pd.DataFrame) -> tuple[tuple[int, int], tuple[int, int]]:
    """Starts below the threshold, and those above: how many cost 5 points or more beside Ours on the same mask, of all.

    Encoders are left out: 300 steps are too few for them, whatever the start.
    """
    table = table[table["network"] != "encoder"]
    key = ["network", "sparsity", "seed"]
    ours = table[table["start"] == "Ours"].set_index(key)["accuracy"].rename("ours")
    joined = table[table["start"] != "Ours"].join(ours, on=key)
    costly = joined["ours"] - joined["accuracy"] >= COSTLY
    weak = joined["weak_start_before"] < CAUSES["weak_start"].threshold
    return (int((costly & weak).sum()), int(weak.sum())), (int((costly & ~weak).sum()), int((~weak).sum()))


def large_turnovers(table: pd.DataFrame) -> tuple[int, int]:
    """Settings from the threshold on, and how many of them end below static masks or their method every 100 steps."""
    means = table.groupby(["method", "update_every", "drop_fraction"])["accuracy"].mean()
    static = means["Static"].iloc[0]
    large = [key for key in means.index if key[1] and key[2] / key[1] >= CAUSES["drop_too_large"].threshold]
    below = [key for key in large if means[key] < max(static, means[key[0], max(PERIODS), key[2]])]
    return len(below), len(large)


def markdown(starts: pd.DataFrame, turnover: pd.DataFrame) -> str:
    """What the thresholds of measured causes say of the networks here."""
    found = {}
    for cause in ("units_without_inputs", "dead_units"):
        alarms, networks = false_alarms(starts, cause)
        most = max(starts[f"{cause}_before"].max(), starts[f"{cause}_after"].max())
        found[cause] = f"{alarms} of {networks} have it; the largest share is {most:.2f}"
    (weak, weak_of), (others, others_of) = weak_starts(starts)
    found["weak_start"] = (
        f"{weak} of {weak_of} starts below it cost {COSTLY * 100:.0f} points of accuracy or more beside Ours on the "
        f"same mask; {others} of {others_of} above it"
    )
    below, large = large_turnovers(turnover)
    found["drop_too_large"] = (
        f"{below} of {large} settings from it on end below static masks, or below the same method and fraction every "
        f"{max(PERIODS)} steps"
    )
    lines = ["| cause | threshold | on the networks measured here |", "|---|---|---|"]
    lines += [f"| `{cause}` | {CAUSES[cause].threshold:g} | {text} |" for cause, text in found.items()]
    return "\n".join(lines)


TABLES: dict[str, tuple[Path, Callable[[Dataset], Iterator[dict[str, object]]]]] = {
    "starts": (STARTS, starts),
    "turnover": (TURNOVER, turnovers),
}


def main() -> None:
    """Measure the tables that are asked for, and write each row when it is there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.doctor", description=__doc__)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="default: both")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    data = load_dataset("mnist-5k")
    for name in parser.parse_args().tables or TABLES:
        path, rows = TABLES[name]
        done: list[dict[str, object]] = []
        for row in rows(data):
            done.append(row)
            write_atomically(path, pd.DataFrame(done).to_csv(index=False).encode())
    PAGE.write_text(filled(PAGE.read_text(), "doctor", markdown(pd.read_csv(STARTS), pd.read_csv(TURNOVER))))


if __name__ == "__main__":
    main()
