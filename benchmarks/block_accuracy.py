"""``python -m benchmarks.block_accuracy [--data FOLDER] [--cifar FOLDER]``: what blocks cost in test accuracy.

Networks are trained with unstructured masks and with masks of blocks by the same methods. Runs are paired: those of one
seed draw the same weights and see the same batches, and differ in the pattern alone. Layers whose outputs blocks do not
divide stay dense in both. Every run is one row of ``results/block_accuracy.csv``, written when it ends; what is there
is not run again. ``python -m benchmarks.table`` writes the table into docs/blocks.md.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from scipy.stats import t as student
from torch import Tensor, nn

import sparseflow as sf
from benchmarks.result import RESULTS
from sparseflow.atomic import write_atomically
from sparseflow.data import decode_all, open_images
from sparseflow.data.digits import load_dataset
from sparseflow.engine.stepper import Stepper
from sparseflow.methods.base import Method
from sparseflow.methods.run import OpenEndWarning, UnfinishedWarning
from sparseflow.networks.lenet import lenet5, mlp
from sparseflow.rng import stream

RESULT = RESULTS / "block_accuracy.csv"
SPARSITIES = (0.8, 0.9, 0.95, 0.98)
#: Name of a pattern -> what masks and methods are given for it.
PATTERNS: dict[str, dict[str, Any]] = {"unstructured": {}, "4x1": {"block": (4, 1)}}
METHODS = ("SET", "RigL", "GMP")
MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4
KEY = ["network", "method", "pattern", "sparsity", "seed"]


class Setting(NamedTuple):
    """One network, its data and how long it is trained."""

    label: str
    build: Callable[[], nn.Sequential]
    images: str
    """``"mnist"`` or ``"cifar10"``."""
    dense: tuple[str, ...]
    """Weights that blocks do not divide."""
    steps: int
    batch: int
    learning_rate: float
    seeds: int


def small_convnet() -> nn.Sequential:
    """Convolutions of 16 and 32 channels and two linear layers, for images of 32x32 in colour.

    >>> sum(weight.numel() for weight in small_convnet().parameters())
    109674
    """
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(3, 16, kernel_size=5, stride=2), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(16, 32, kernel_size=3), relu2=nn.ReLU(),
        flatten=nn.Flatten(), fc1=nn.Linear(32 * 5 * 5, 128), relu3=nn.ReLU(), fc2=nn.Linear(128, 10),
    )  # fmt: skip
    return nn.Sequential(layers)


SETTINGS = {
    "mlp": Setting("MLP 300-100 on MNIST", mlp, "mnist", ("fc3.weight",), 1000, 128, 0.05, 5),
    "lenet5": Setting("LeNet5 on MNIST", lenet5, "mnist", ("conv1.weight", "fc3.weight"), 800, 128, 0.05, 5),
    "convnet": Setting("small network on CIFAR-10", small_convnet, "cifar10", ("fc2.weight",), 1000, 64, 0.02, 3),
}


class Data(NamedTuple):
    """Images as numbers of mean 0 and standard deviation 1, and their labels, for training and for testing."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    @classmethod
    def scaled(cls, images: Tensor, labels: Tensor, test_images: Tensor, test_labels: Tensor) -> Data:
        """Scale both parts by mean and standard deviation of the training images, one pair for each channel."""
        std, mean = torch.std_mean(images, dim=(0, 2, 3), keepdim=True)
        return cls((images - mean) / std, labels, (test_images - mean) / std, test_labels)


def load(images: str, *, root: Path | None, cifar: Path | None) -> Data:
    """MNIST from the library's folder of data (or ``root``), or CIFAR-10 from a folder of its splits."""
    if images == "mnist":
        found = load_dataset("mnist", root=root)
        return Data.scaled(found.train_images, found.train_labels, found.test_images, found.test_labels)
    if cifar is None:
        raise SystemExit("give the folder with CIFAR-10's splits, --cifar FOLDER, or leave convnet out: --networks mlp")
    train, test = (decode_all(open_images(cifar, split)) for split in ("train", "test"))
    return Data.scaled(train.images / 255, train.labels, test.images / 255, test.labels)


class Run(NamedTuple):
    """One row of the table."""

    network: str
    method: str
    pattern: str
    sparsity: float
    seed: int


def runs(networks: Sequence[str]) -> Iterator[Run]:
    """All runs, seed by seed: a table that is not finished has as many of each kind."""
    for seed in range(max(SETTINGS[network].seeds for network in networks)):
        for network in networks:
            if seed < SETTINGS[network].seeds:
                for pattern, method, sparsity in itertools.product(PATTERNS, METHODS, SPARSITIES):
                    yield Run(network, method, pattern, sparsity, seed)


def method_of(run: Run, steps: int) -> Method:
    """The method with its updates in the first three quarters of the run."""
    pattern, every = PATTERNS[run.pattern], steps // 24
    if run.method == "GMP":
        end = 3 * steps // 4 // every * every
        return sf.GMP(sparsity=run.sparsity, begin=every, end=end, update_every=every, **pattern)
    return getattr(sf, run.method)(update_every=every, total_steps=steps, **pattern)  # type: ignore[no-any-return]


def train(run: Run, data: Data, *, steps: int | None = None) -> float:
    """Train one network; its accuracy on the test images after the last step."""
    setting = SETTINGS[run.network]
    steps = steps or setting.steps
    model = setting.build()
    if run.method == "GMP":
        masks = sf.dense_masks(model, exclude=setting.dense)
    else:
        masks = sf.random_masks(
            model, run.sparsity, allocation="erk", seed=run.seed, exclude=setting.dense, **PATTERNS[run.pattern]
        )
    sf.initialize_(model, masks, scheme="sparse", seed=run.seed)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=setting.learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    order = stream(run.seed, "order")
    with sf.Sparsifier(model, optimizer, masks, method_of(run, steps), seed=run.seed) as sparsifier:
        stepper = Stepper(sparsifier, "auto")
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = setting.learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
            stepper.step(data.images, data.labels, torch.randint(len(data.labels), (setting.batch,), generator=order))
        stepper.settle()
        sparsifier.check()
        right = 0
        for images, labels in zip(data.test_images.split(1000), data.test_labels.split(1000), strict=True):
            right += int((stepper.logits(images).argmax(1) == labels).sum())
    return right / len(data.test_labels)


def markdown(table: pd.DataFrame) -> str:
    """Mean accuracy of unstructured masks, and the mean paired difference of blocks with its 95 % interval.

    The interval is Student's over seeds: the mean and ``t(0.975, n - 1) s / sqrt(n)``, n of the pairs that there are.
    """
    shares = " | ".join(f"{100 * sparsity:.0f} %" for sparsity in SPARSITIES)
    lines = [
        "Test accuracy with unstructured masks, in percent, and what 4x1 blocks add to it, in points, with the 95 % "
        "interval of the paired differences: a pair has one seed, so the same draws of weights and the same batches. "
        "`python -m benchmarks.block_accuracy` trains them.",
        "",
        f"| network, method | {shares} |",
        "|---|" + "---|" * len(SPARSITIES),
    ]
    pairs = table.pivot_table(index=KEY[:2] + KEY[3:], columns="pattern", values="accuracy").dropna()
    for network, setting in SETTINGS.items():
        for method in METHODS:
            cells = []
            for sparsity in SPARSITIES:
                found = pairs[pairs.index.isin([(network, method, sparsity, s) for s in range(setting.seeds)])]
                cells.append(_cell(100 * found["unstructured"], 100 * found["4x1"]))
            lines.append(f"| {setting.label}, {method} | {' | '.join(cells)} |")
    lengths = "; ".join(
        f"{setting.label}: {setting.steps} steps of {setting.batch}, learning rate {setting.learning_rate} to 0 along "
        f"a cosine, {setting.seeds} seeds"
        for setting in SETTINGS.values()
    )
    return "\n".join([*lines, "", f"{lengths}. Every run is in `benchmarks/results/{RESULT.name}`."])


def _cell(unstructured: pd.Series, blocks: pd.Series) -> str:
    """Accuracy in percent, and the difference with its interval.

    >>> _cell(pd.Series([97.0, 98.0]), pd.Series([96.5, 97.5]))
    '97.5; −0.50 ± 0.00'
    """
    count = len(unstructured)
    if count < 2:
        return "-"
    differences = blocks - unstructured
    half = student.ppf(0.975, count - 1) * differences.std(ddof=1) / math.sqrt(count)
    sign = "−" if differences.mean() < 0 else "+"
    return f"{unstructured.mean():.1f}; {sign}{abs(differences.mean()):.2f} ± {half:.2f}"


def main() -> None:
    """Run what is not in the table yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the datasets; default the library's own")
    parser.add_argument("--cifar", type=Path, help="folder with CIFAR-10's splits, as sparseflow train images takes it")
    parser.add_argument("--networks", choices=SETTINGS, nargs="+", default=list(SETTINGS))
    parser.add_argument("--patterns", choices=PATTERNS, nargs="+", default=list(PATTERNS))
    parser.add_argument("--out", type=Path, default=RESULT, help=f"table to add to; default {RESULT}")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for expected in (OpenEndWarning, UnfinishedWarning):
        warnings.simplefilter("ignore", expected)
    table = pd.read_csv(given.out) if given.out.exists() else pd.DataFrame(columns=[*KEY, "steps", "accuracy"])
    done = set(table[KEY].itertuples(index=False, name=None))
    data: dict[str, Data] = {}
    for run in runs(given.networks):
        if run in done or run.pattern not in given.patterns:
            continue
        setting = SETTINGS[run.network]
        if setting.images not in data:
            data[setting.images] = load(setting.images, root=given.data, cifar=given.cifar)
        start = time.process_time()
        accuracy = train(run, data[setting.images])
        row = pd.DataFrame([{**run._asdict(), "steps": setting.steps, "accuracy": accuracy}])
        table = row if table.empty else pd.concat([table, row], ignore_index=True)
        write_atomically(given.out, table.to_csv(index=False).encode())
        print(f"{run} {accuracy:.4f}, {time.process_time() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
