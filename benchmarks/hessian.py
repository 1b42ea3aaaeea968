"""The exact Hessian of LeNet5 over row-by-row autograd, and a Hessian-vector product over its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from benchmarks.engine_timing import THREAD_COUNTS, on_threads, torch_threads
from benchmarks.result import Benchmark, Case
from benchmarks.timing import alternate, stopwatch
from sparseflow.analysis.hessian import hessian
from sparseflow.analysis.layout import ActiveLayout, active_parameters
from sparseflow.analysis.products import hessian_product
from sparseflow.analysis.spectrum import eigenvalues
from sparseflow.gradients import loss_gradient
from sparseflow.networks import build_network

EXAMPLES = 1000
#: Rows that are timed; all take the same time.
ROWS = 2
BATCH = 128
Masks = dict[str, Tensor]


def lenet5(*, steps: int) -> tuple[nn.Sequential, Masks]:
    """A 95 % sparse LeNet5 after some steps of SGD, and its masks."""
    model = build_network("lenet5", generator=torch.Generator().manual_seed(0))
    masks = dict(sf.random_masks(model, 0.95, seed=0))
    sf.initialize_(model, masks, scheme="sparse", seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0)
    for step in range(steps):
        inputs, targets = images(128, seed=step + 1)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return model, masks


def images(count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images with a bright blot in a place of its own for each class, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 10, (count,), generator=generator)
    inputs = torch.rand(count, 1, 28, 28, generator=generator) * 0.5
    rows, columns = 3 + targets // 5 * 12, 2 + targets % 5 * 5
    for image, row, column in zip(inputs, rows.tolist(), columns.tolist(), strict=True):
        image[0, row : row + 8, column : column + 5] += 0.5
    return inputs, targets


def row_by_row(
    model: nn.Sequential, layout: ActiveLayout, batch: tuple[Tensor, Tensor], dtype: torch.dtype
) -> Callable[[int], Tensor]:
    """Rows of the Hessian as in the authors' code: differentiate the gradient one component after another."""
    twin = build_network("lenet5", generator=torch.Generator()).to(dtype)
    twin.load_state_dict(model.state_dict())
    parameters = dict(twin.named_parameters())
    loss = F.cross_entropy(twin(batch[0].to(dtype)), batch[1])
    gradient = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
    flat = layout.flatten(dict(zip(parameters, gradient, strict=True)))

    def row(number: int) -> Tensor:
        found = torch.autograd.grad(flat[number], list(parameters.values()), retain_graph=True)
        return layout.flatten(dict(zip(parameters, found, strict=True)))

    return row


def run_hessian(dtype: torch.dtype, smoke: bool) -> Iterator[Case]:
    for steps in (0,) if smoke else (0, 300):
        model, masks = lenet5(steps=steps)
        layout, batch = active_parameters(model, masks), images(8 if smoke else EXAMPLES)
        row = row_by_row(model, layout, batch, dtype)
        found = hessian(model, [batch], masks, dtype=dtype)
        error = max(float((found[i] - row(i).double()).abs().max()) for i in range(0, layout.size, layout.size // 5))
        for threads in (1,) if smoke else THREAD_COUNTS:
            with torch_threads(threads):
                timings = alternate(
                    lambda: stopwatch(partial(hessian, model, [batch], masks, dtype=dtype)),  # noqa: B023
                    lambda: stopwatch(lambda: [row(i) for i in range(ROWS)]) * layout.size / ROWS,  # noqa: B023
                    repeats=1 if smoke else 5,
                    warmup=0 if smoke else 1,
                    tolerance=0.1,  # the ratio is in the thousands
                )
            yield Case(
                label=f"after {steps} steps, {on_threads(threads)}",
                configuration={
                    "model": "lenet5",
                    "sparsity": 0.95,
                    "parameters": layout.size,
                    "examples": len(batch[1]),
                    "dtype": str(dtype),
                    "steps": steps,
                    "threads": threads,
                    "rows_timed": ROWS,
                    "largest_error_of_six_rows": error,
                },
                timings=timings,
            )


def run_spectrum(smoke: bool) -> Iterator[Case]:
    """Time all eigenvalues over the whole training set against the row-by-row Hessian of as many examples."""
    model, masks = lenet5(steps=0 if smoke else 300)
    layout = active_parameters(model, masks)
    chunk, chunks = (8, 2) if smoke else (EXAMPLES, 60)
    batches = [images(chunk, seed=number) for number in range(chunks)]
    row = row_by_row(model, layout, batches[0], torch.float64)
    for threads in (1,) if smoke else THREAD_COUNTS:
        with torch_threads(threads):
            hessian(model, batches[:threads], masks)  # warm: minutes each, so they are timed once
            timings = alternate(
                lambda: stopwatch(lambda: eigenvalues(hessian(model, batches, masks))),
                lambda: stopwatch(lambda: [row(i) for i in range(ROWS)]) * layout.size / ROWS * chunks,
                repeats=1,
                warmup=0,
            )
        configuration = {
            "model": "lenet5",
            "sparsity": 0.95,
            "parameters": layout.size,
            "examples": chunk * chunks,
            "dtype": "torch.float64",
            "threads": threads,
            "rows_timed": ROWS,
        }
        yield Case(label=on_threads(threads), configuration=configuration, timings=timings)


def large_networks(smoke: bool) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Name, network and inputs of two networks of 37 and 34 million weights."""
    width = 16 if smoke else 4096
    size = 4 if smoke else BATCH
    generator = torch.Generator().manual_seed(0)
    yield (
        "MLP",
        nn.Sequential(
            *(nn.Linear(784, width), nn.ReLU()),
            *(nn.Linear(width, width), nn.ReLU()),
            *(nn.Linear(width, width), nn.ReLU()),
            nn.Linear(width, 10),
        ),
        torch.rand(size, 784, generator=generator),
    )
    channels = 4 if smoke else 64
    yield (
        "convolutions",
        nn.Sequential(
            *(nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(2 * channels, 4 * channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(64 * channels, 2 * width), nn.ReLU(), nn.Linear(2 * width, 10)),
        ),
        torch.rand(max(1, size // 4), 3, 32, 32, generator=generator),
    )


def run_product(smoke: bool) -> Iterator[Case]:
    for name, model, inputs in large_networks(smoke):
        masks = dict(sf.random_masks(model, 0.9, seed=0))
        sf.apply_masks_(model, masks)
        batch = (inputs, torch.arange(len(inputs)) % 10)
        product = hessian_product(model, [batch], masks)
        vector = torch.randn(product.size, generator=torch.Generator().manual_seed(0))
        for threads in (1,) if smoke else THREAD_COUNTS:
            with torch_threads(threads):
                timings = alternate(
                    lambda: stopwatch(lambda: product(vector)),  # noqa: B023
                    lambda: stopwatch(lambda: loss_gradient(model, F.cross_entropy, [batch])),  # noqa: B023
                    repeats=1 if smoke else 7,
                    warmup=0 if smoke else 1,
                )
            configuration = {
                "model": name,
                "sparsity": 0.9,
                "weights": sum(parameter.numel() for parameter in model.parameters()),
                "active": product.size,
                "batch": len(inputs),
                "threads": threads,
            }
            yield Case(label=f"{name}, {on_threads(threads)}", configuration=configuration, timings=timings)


BENCHMARKS = (
    *(
        Benchmark(
            name=name,
            what=f"exact Hessian of a 95 % sparse LeNet5, {EXAMPLES} examples, {called} / row by row",
            reach=1 / reach,
            run=partial(run_hessian, dtype),
            speedup=True,
        )
        for name, called, dtype, reach in (
            ("hessian", "float64", torch.float64, 600),
            ("hessian_float32", "float32", torch.float32, 200),
        )
    ),
    Benchmark(
        name="spectrum",
        what="exact spectrum of a 95 % sparse LeNet5, 60,000 examples, float64 / its Hessian row by row",
        reach=3 / (4.8 * 60),
        run=run_spectrum,
        speedup=True,
    ),
    Benchmark(
        name="hessian_product",
        what="Hessian-vector product of a large masked network / its gradient",
        reach=3.0,
        run=run_product,
    ),
)
