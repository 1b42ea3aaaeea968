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
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.engine_timing import THREAD_COUNTS, gflops, on_threads
from benchmarks.result import Case, Failure
from benchmarks.timing import Timings

ENVIRONMENT = Path(__file__).parent / ".peers-venv"
#: sparseprop's setup.py compiles C++ and calls whatever ``pip`` and ``python3`` are first on the path.
PEERS = {"sparselab": "sparselab==0.2.2", "sparseprop": "sparseprop==0.1.14"}
#: What each can compute.
KINDS = {
    "linear": ("torch CSR", "sparselab", "sparseprop"),
    "forward": ("torch CSR", "sparselab", "sparseprop"),
    "conv": ("sparseprop",),
}
BUILD = ("pybind11==2.13.6", "setuptools==80.9.0", "wheel==0.45.1")


def cases(kind: str, requests: list[dict[str, Any]], *, smoke: bool) -> Iterator[Case | Failure]:
    """Cases of the other libraries, reported beside ours and not judged.

    Args:
        kind: "linear" or "conv" for forward and backward, or "forward" for a linear layer's forward pass.
        requests: Shapes, see `peers_child.py`.
        smoke: Run once, and only the libraries that need no installation.
    """
    if smoke:
        yield from measured(sys.executable, [n for n in KINDS[kind] if n not in PEERS], kind, requests, smoke=True)
        return
    python, failures = _installed()
    names = [name for name in KINDS[kind] if name not in failures]
    yield from (Failure(label=PEERS[name], error=failures[name]) for name in KINDS[kind] if name in failures)
    yield from measured(python, names, kind, requests, smoke=smoke)


def measured(
    python: str, names: list[str], kind: str, requests: list[dict[str, Any]], *, smoke: bool
) -> Iterator[Case | Failure]:
    """As :func:`cases`, for the given peers and interpreter."""
    counts = THREAD_COUNTS[:1] if smoke else THREAD_COUNTS
    for threads in counts if names else ():
        asked = {"kind": kind, "requests": requests, "peers": names, "threads": threads, "smoke": smoke}
        for found in _ask(python, asked):
            label = f"{found['row']}, {found['peer']}, {on_threads(threads)}"
            if "error" in found:
                yield Failure(label=label, error=found["error"])
                continue
            timings = Timings(found["subject"], found["baseline"])
            configuration = {
                **found["request"], "row": f"{found['row']}, {found['peer']}", "threads": threads,
                "peer": found["peer"], "baseline": found["fastest"],
                "gflops": gflops(found["multiply_adds"], timings.subject),
            }  # fmt: skip
            yield Case(label=label, configuration=configuration, timings=timings, counts=False)


def _ask(python: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
    threads = str(asked["threads"])
    done = subprocess.run(
        [python, "-W", "ignore", "-m", "benchmarks.peers_child"],
        input=json.dumps(asked), text=True, capture_output=True, check=False, cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
    )  # fmt: skip
    if done.returncode:
        error = f"exit code {done.returncode}: {_last_line(done.stderr)}"
        return [{"row": asked["kind"], "peer": ", ".join(asked["peers"]), "error": error}]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


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
