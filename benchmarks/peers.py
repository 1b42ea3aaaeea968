"""Other libraries on the same shapes: sparselab, sparseprop, and torch's own CSR matrices.

They are installed in an environment of their own that sees this one's packages, so that they use the same torch. They
run in child processes, one for each number of threads, since their OpenMP reads it once. A library that does not
install or run is reported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.contest import BLOCKS, FLOAT32, UNSTRUCTURED
from benchmarks.engine_timing import THREAD_COUNTS, gflops, on_threads
from benchmarks.result import Benchmark, Case, Failure
from benchmarks.timing import Timings

ROOT = Path(__file__).parent.parent
ENVIRONMENT = Path(__file__).parent / ".peers-venv"
#: sparseprop's setup.py compiles C++ and calls whatever ``pip`` and ``python3`` are first on the path.
PEERS = {"sparselab": "sparselab==0.2.2", "sparseprop": "sparseprop==0.1.14"}
#: What each can compute.
KINDS = {
    "linear": ("torch CSR", "sparselab", "sparseprop"),
    "forward": ("torch CSR", "sparselab", "sparseprop"),
    "conv": ("sparseprop",),
}
#: Name of a row of each kind's table.
ROWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "linear": lambda request: "{}x{}, row-major".format(*request["shape"]),
    "forward": lambda request: f"batch {request['batch']}",
    "conv": lambda request: "{channels}->{channels} on {pixels}x{pixels}".format(**request),
}
BUILD = ("pybind11==2.13.6", "setuptools==80.9.0", "wheel==0.45.1")


def run(smoke: bool) -> Iterator[Case | Failure]:
    """Cases of the other libraries over dense float32; none is judged. A smoke test installs none."""
    python, missing = (sys.executable, dict.fromkeys(PEERS, "")) if smoke else _installed()
    yield from (Failure(label=PEERS[name], error=error) for name, error in missing.items() if error)
    for threads in (1,) if smoke else THREAD_COUNTS:
        requests = [
            {**request, "peers": names}
            for request in _requests(threads, smoke=smoke)
            if (names := [name for name in KINDS[request["kind"]] if name not in missing])
        ]
        for found in measured(python, requests, threads=threads, smoke=smoke):
            yield from [found] if isinstance(found, Failure) else _cases(found, threads)


def _requests(threads: int, *, smoke: bool) -> Iterator[dict[str, Any]]:
    shapes, batch, size = ([(32, 48)], 8, 64) if smoke else ([(1024, 1024), (4096, 1024)], 128, 4096)
    for shape in shapes:
        for sparsity in (0.95,) if threads == 2 else (0.9, 0.95, 0.98):
            yield {"kind": "linear", "shape": shape, "sparsity": sparsity, "batch": batch}
    if threads == 1:
        for examples in (1, 2, 4, 8):
            yield {"kind": "forward", "shape": (size, size), "sparsity": 0.95, "batch": examples}
        for sparsity in (0.9, 0.95):
            yield {"kind": "conv", "channels": 64, "pixels": 32, "batch": 32, "sparsity": sparsity}


def _cases(found: dict[str, Any], threads: int) -> Iterator[Case | Failure]:
    request, seconds = found["request"], found["seconds"]
    row = ROWS[request["kind"]](request)
    for peer in request["peers"]:
        label = f"{row}, {peer} {request['sparsity']:.0%}, {on_threads(threads)}"
        if peer in found["errors"]:
            yield Failure(label=label, error=found["errors"][peer])
            continue
        configuration = {
            **request, "row": row, "pattern": peer, "threads": threads, "rival": FLOAT32,
            "baseline": found["fastest"][FLOAT32], "gflops": gflops(found["work"], seconds[peer]),
        }  # fmt: skip
        yield Case(
            label=label,
            configuration=configuration,
            timings=Timings(seconds[peer], seconds[FLOAT32]),
            counts=False,
        )


def run_against(peer: str, smoke: bool) -> Iterator[Case | Failure]:
    """The user-level MLP: our layers against those of a peer in the same ``nn.Sequential``, in the same process.

    A smoke test, which installs nothing, compares with the dense layers.
    """
    size, batch = (32, 8) if smoke else (1024, 128)
    python, missing = (sys.executable, {}) if smoke else _installed()
    if peer in missing:
        yield Failure(label=PEERS[peer], error=missing[peer], counts=True)
        return
    rival, names = (FLOAT32, [UNSTRUCTURED, BLOCKS]) if smoke else (peer, [peer, UNSTRUCTURED, BLOCKS])
    requests = [
        {"kind": "mlp", "size": size, "batch": batch, "sparsity": sparsity, "peers": names}
        for sparsity in (0.9, 0.95, 0.98)
    ]
    for found in measured(python, requests, threads=1, smoke=smoke):
        if isinstance(found, Failure):
            yield found
            continue
        for pattern, reach in ((UNSTRUCTURED, 2.7), (BLOCKS, 4)):
            sparsity = found["request"]["sparsity"]
            label = f"batch {batch}, {pattern} {sparsity:.0%}, against {PEERS[peer]}"
            if error := found["errors"].get(rival) or found["errors"].get(pattern):
                yield Failure(label=label, error=error, counts=True)
                continue
            configuration = {
                "row": f"batch {batch}", "pattern": pattern, "sparsity": sparsity, "threads": 1, "rival": PEERS[peer],
                "batch": batch, "size": size,
            }  # fmt: skip
            timings = Timings(found["seconds"][pattern], found["seconds"][rival])
            yield Case(label=label, configuration=configuration, timings=timings, reach=1 / reach)


def measured(
    python: str, requests: list[dict[str, Any]], *, threads: int, smoke: bool
) -> Iterator[dict[str, Any] | Failure]:
    """What a child process of an interpreter answers for each request, see `peers_child.py`."""
    done = subprocess.run(
        [python, "-W", "ignore", "-m", "benchmarks.peers_child"],
        input=json.dumps({"requests": requests, "threads": threads, "smoke": smoke}),
        text=True, capture_output=True, check=False, cwd=ROOT,
        env={
            **os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads),
            # The other environment does not follow links of editable installations.
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        },
    )  # fmt: skip
    if done.returncode:
        yield Failure(label="other libraries", error=f"exit code {done.returncode}: {_last_line(done.stderr)}")
        return
    yield from (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))


@cache
def _installed() -> tuple[str, dict[str, str]]:
    """The environment's interpreter, and the reason for each library that is missing from it."""
    places = sysconfig.get_paths("venv", vars={"base": str(ENVIRONMENT)})
    python = str(Path(places["scripts"]) / "python")
    if not Path(python).exists():
        try:
            venv.EnvBuilder(with_pip=True, symlinks=True).create(ENVIRONMENT)
        except (OSError, subprocess.CalledProcessError) as error:
            return sys.executable, dict.fromkeys(PEERS, f"no environment for it: {error}")
    # What this environment has, the other has too; its own packages come first.
    Path(places["purelib"], "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"torch=={_torch()}"]
    path = os.pathsep.join([places["scripts"], os.environ.get("PATH", "")])
    failures = {}
    for peer, requirement in PEERS.items():
        for packages in ([*BUILD], ["--no-build-isolation", requirement]):
            done = subprocess.run(
                [*pip, *packages], capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
            )
            if done.returncode:
                failures[peer] = f"does not install: {_last_line(done.stderr)}"
                break
    return python, failures


def _torch() -> str:
    return version("torch").partition("+")[0]


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no message"])[-1].strip()


BENCHMARKS = (
    Benchmark(
        name="engine_sparselab",
        what=f"the same MLP, forward + backward, against {PEERS['sparselab']}'s SparseLinear in the same Sequential",
        reach=None,
        run=partial(run_against, "sparselab"),
        speedup=True,
    ),
    Benchmark(
        name="engine_peers",
        what="other libraries on the same layers, over dense float32",
        reach=None,
        run=run,
        speedup=True,
    ),
)
