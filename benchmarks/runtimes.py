"""``python -m benchmarks.runtimes``: which runtime reads a sparse model, how large its file is, and how fast it is.

Each runtime computes two networks with 95 % zeros, and the same networks without zeros, on one thread, in a process of
its own; a column says what the zeros gain there. ``--only NAME`` measures some of them again. Runtimes that are not
installed are listed with the reason: ``benchmarks/runtimes-requirements.txt`` has them. ``docs/runtimes.md`` gets the
table.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

RESULT = Path(__file__).parent / "results" / "runtimes.json"
PAGE = Path(__file__).parent.parent / "docs" / "runtimes.md"
SPARSITY = 0.95
BATCHES = (1, 32)
#: Largest difference of an output, as a share of the largest output, up to which a runtime computes the same.
TOLERANCE = 1e-3

Call = Callable[[], Any]


class Loaded(NamedTuple):
    """A model in a runtime."""

    num_bytes: int
    """Of the file that was written and read."""
    call: Call
    """One batch through it; returns the outputs."""


def torch_eager(model: Any, x: Any, path: Path) -> Loaded:
    import torch

    torch.save(model.state_dict(), path)
    return Loaded(path.stat().st_size, lambda: model(x))


def torch_export(model: Any, x: Any, path: Path) -> Loaded:
    import torch

    torch.export.save(torch.export.export(model, (x,)), path := path.with_suffix(".pt2"))
    module = torch.export.load(path).module()
    return Loaded(path.stat().st_size, lambda: module(x))


def sparseflow_engine(model: Any, x: Any, path: Path) -> Loaded:
    import sparseflow as sf

    _, num_bytes = sf.engine.save(model, path)
    loaded = sf.engine.load(model, path).eval()
    return Loaded(num_bytes, lambda: loaded(x))


def onnxruntime(model: Any, x: Any, path: Path, *, sparse: bool = False) -> Loaded:
    import onnxruntime as runtime

    import sparseflow as sf

    try:
        num_bytes = sf.engine.to_onnx(model, x, path, sparse=sparse)
    except ValueError:  # without zeros nothing is smaller as a sparse initializer
        num_bytes = sf.engine.to_onnx(model, x, path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return Loaded(num_bytes, lambda: session.run(None, feed)[0])


def onnxruntime_sparse(model: Any, x: Any, path: Path) -> Loaded:
    return onnxruntime(model, x, path, sparse=True)


def openvino(model: Any, x: Any, path: Path, *, precision: str = "f32") -> Loaded:
    import openvino as runtime

    runtime.save_model(
        runtime.convert_model(model, example_input=x), path := path.with_suffix(".xml"), compress_to_fp16=False
    )
    # Without the hint it computes in bfloat16 where the CPU has it.
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = runtime.Core().compile_model(path, "CPU", settings).create_infer_request()
    num_bytes = path.stat().st_size + path.with_suffix(".bin").stat().st_size
    return Loaded(num_bytes, lambda: request.infer([x.numpy()], share_inputs=True)[0])


def litert(model: Any, x: Any, path: Path) -> Loaded:
    import litert_torch
    from ai_edge_litert.interpreter import Interpreter

    litert_torch.convert(model, (x,)).export(str(path))
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    place, out = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def call() -> Any:
        interpreter.set_tensor(place, x.numpy())
        interpreter.invoke()
        return interpreter.get_tensor(out)

    return Loaded(path.stat().st_size, call)


def executorch(model: Any, x: Any, path: Path) -> Loaded:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    portable_lib._unsafe_reset_threadpool(1)
    program = to_edge_transform_and_lower(torch.export.export(model, (x,)), partitioner=[XnnpackPartitioner()])
    path.write_bytes(program.to_executorch().buffer)
    method = Runtime.get().load_program(path).load_method("forward")
    return Loaded(path.stat().st_size, lambda: method.execute([x])[0])


class Runtime(NamedTuple):
    """A row of the table."""

    load: Callable[[Any, Any, Path], Loaded]
    label: str
    package: str
    reads: str


RUNTIMES: dict[str, Runtime] = {
    "engine": Runtime(sparseflow_engine, "sparseflow.engine", "sparseflow", "`engine.save`, active values alone"),
    "torch": Runtime(torch_eager, "torch, eager", "torch", "a state dict, dense with zeros"),
    "torch.export": Runtime(torch_export, "torch.export", "torch", "`.pt2`, dense with zeros"),
    "onnxruntime": Runtime(onnxruntime, "onnxruntime", "onnxruntime", "`engine.to_onnx`, dense with zeros"),
    "onnxruntime-sparse": Runtime(
        onnxruntime_sparse, "onnxruntime", "onnxruntime", "`engine.to_onnx(sparse=True)`; made dense when loaded"
    ),
    "openvino": Runtime(openvino, "OpenVINO", "openvino", "the torch model, dense with zeros; refuses sparse ONNX"),
    "litert": Runtime(litert, "LiteRT", "ai-edge-litert", "`.tflite` by litert-torch, dense with zeros"),
    "executorch": Runtime(executorch, "ExecuTorch, XNNPACK", "executorch", "`.pte`, dense with zeros"),
}


def mlp(size: int) -> Any:
    from torch import nn

    hidden = [layer for _ in range(3) for layer in (nn.Linear(size, size), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(size, 10))


def convnet(size: int) -> Any:
    from torch import nn

    half = size // 2
    layers = [
        nn.Conv2d(3, half, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(half, half, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
    layers += [nn.Conv2d(half, size, 3, padding=1), nn.ReLU(), nn.Conv2d(size, size, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(size * 64, 10))


class Network(NamedTuple):
    """What is run: a function of its width, the width at full size and in a smoke test, and the shape of an example."""

    build: Callable[[int], Any]
    label: str
    size: int
    smoke: int
    shape: Callable[[int], tuple[int, ...]]


NETWORKS: dict[str, Network] = {
    "mlp": Network(mlp, "MLP of 4 layers, 1024 wide", 1024, 32, lambda size: (size,)),
    "convnet": Network(convnet, "4 convolutions, 64 to 128 channels, 32 x 32 pixels", 128, 8, lambda size: (3, 32, 32)),
}


def measured(runtime: str, *, smoke: bool) -> list[dict[str, Any]]:
    """A runtime's cells: bytes, seconds with zeros and without, and how far its outputs are from torch's."""
    import torch

    import sparseflow as sf

    torch.set_num_threads(1)
    cells = []
    for network, chosen in NETWORKS.items():
        size = chosen.smoke if smoke else chosen.size
        torch.manual_seed(0)
        dense, sparse = chosen.build(size).eval(), chosen.build(size).eval()
        masks = sf.random_masks(sparse, SPARSITY, allocation="uniform", seed=0)
        sf.initialize_(sparse, masks, scheme="sparse", seed=0)
        for batch in BATCHES:
            x = torch.randn(batch, *chosen.shape(size))
            with TemporaryDirectory() as folder, torch.no_grad():
                expected = sparse(x)
                loaded = RUNTIMES[runtime].load(sparse, x, Path(folder) / "model")
                found = torch.as_tensor(loaded.call())
                # The engine's rival is torch: a network without zeros has nothing to convert.
                rival = RUNTIMES["torch" if runtime == "engine" else runtime]
                plain = rival.load(dense, x, Path(folder) / "dense")
                seconds, without = _in_turns(loaded.call, plain.call, smoke=smoke)
            error = float((found - expected).abs().max() / expected.abs().max())
            cell = {"runtime": runtime, "network": network, "batch": batch, "num_bytes": loaded.num_bytes}
            cells.append({**cell, "seconds": seconds, "seconds_without_zeros": without, "error": error})
    return cells


def _in_turns(first: Call, second: Call, *, smoke: bool) -> tuple[float, float]:
    """Median seconds of each, in turns of equal length."""
    from benchmarks.timing import stopwatch

    calls = first, second
    counts = []
    for call in calls:
        call()
        counts.append(max(1, int(0.02 / max(stopwatch(call), 1e-6))))
    times: tuple[list[float], list[float]] = ([], [])
    until = time.perf_counter() + (0.05 if smoke else 2)
    while time.perf_counter() < until or len(times[0]) < 3:
        for call, count, found in zip(calls, counts, times, strict=True):
            found += [stopwatch(call) for _ in range(count)]
    return statistics.median(times[0]), statistics.median(times[1])


def _child(runtime: str, *, smoke: bool) -> None:
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):  # converters talk
        cells = measured(runtime, smoke=smoke)
    print(json.dumps(cells))


def run(names: Iterable[str], *, smoke: bool = False, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """The rows of some runtimes, each measured in a process of its own, beside those that were measured before.

    Of a runtime that does not run the reason is kept.
    """
    from sparseflow.machine import processor

    rows, missing = (dict(before[key]) if before else {} for key in ("rows", "not_run"))
    for name in names:
        rows.pop(name, None), missing.pop(name, None)
        try:
            version = importlib.metadata.version(RUNTIMES[name].package)
        except importlib.metadata.PackageNotFoundError:
            missing[name] = f"{RUNTIMES[name].package} is not installed"
            continue
        command = [sys.executable, "-m", "benchmarks.runtimes", "--child", name, *["--smoke"] * smoke]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **_ONE})
        if done.returncode:
            missing[name] = done.stderr.strip().splitlines()[-1]
            continue
        rows[name] = {"version": version.partition("+")[0], "cells": json.loads(done.stdout.splitlines()[-1])}
    return {
        "rows": rows,
        "not_run": missing,
        "sparsity": SPARSITY,
        "hardware": {"cpu": processor(), "cores": os.cpu_count(), "threads": 1},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


#: Before any library is imported in a child.
_ONE = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}


def markdown(result: dict[str, Any]) -> str:
    """The tables of the page: one for each network, then what was not run, and where."""
    parts = []
    for network, chosen in NETWORKS.items():
        head = [
            "runtime",
            "reads",
            "MB",
            *(f"ms, batch {batch}" for batch in BATCHES),
            "times as fast as without zeros",
        ]
        lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        for name, runtime in RUNTIMES.items():
            if (row := result["rows"].get(name)) is None:
                continue
            cells = [cell for cell in row["cells"] if cell["network"] == network]
            texts = [f"{runtime.label} {row['version']}", runtime.reads, f"{cells[0]['num_bytes'] / 1e6:.2f}"]
            texts += [f"{cell['seconds'] * 1e3:.3g}" for cell in cells]
            texts.append(", ".join(f"{cell['seconds_without_zeros'] / cell['seconds']:.2g}" for cell in cells))
            if max(cell["error"] for cell in cells) > TOLERANCE:
                texts[1] += "; **its outputs differ from torch's**"
            lines.append(f"| {' | '.join(texts)} |")
        parts.append(f"{chosen.label}:\n\n" + "\n".join(lines))
    parts += [f"Not run: {RUNTIMES[name].label}, {reason}." for name, reason in result["not_run"].items()]
    hardware = result["hardware"]
    parts.append(
        f"{hardware['cpu']}, one thread, float32, {result['sparsity']:.0%} zeros, {result['date'][:10]}. The last "
        "column is the time without zeros over the time with them, at each batch; the engine's is against torch."
    )
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtimes", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, nothing written")
    parser.add_argument("--only", choices=RUNTIMES, nargs="+", metavar="NAME", help=", ".join(RUNTIMES))
    parser.add_argument("--child", choices=RUNTIMES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _child(arguments.child, smoke=arguments.smoke)
        return
    from benchmarks.table import filled
    from sparseflow.atomic import write_atomically

    before = json.loads(RESULT.read_text()) if arguments.only and RESULT.is_file() else None
    result = run(arguments.only or RUNTIMES, smoke=arguments.smoke, before=before)
    if arguments.smoke:
        print(markdown(result))
        return
    write_atomically(RESULT, f"{json.dumps(result, indent=1)}\n".encode())
    write_atomically(PAGE, filled(PAGE.read_text(), "runtimes", markdown(result)).encode())


if __name__ == "__main__":
    main()
