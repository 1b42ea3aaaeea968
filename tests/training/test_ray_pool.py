"""Sweeps on a real Ray cluster of this machine alone: same bits as one by one, and every way to go wrong."""

from __future__ import annotations

import fcntl
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from sparseflow.cli.main import main
from sparseflow.training.config import pruning_parent
from sparseflow.training.digits import DigitRun
from sparseflow.training.pool import run_tasks
from sparseflow.training.run import train
from sparseflow.training.runs import METRICS, is_done
from sparseflow.training.store import LOCK
from sparseflow.training.sweep import sweep

BASE = DigitRun(
    dataset="mnist-5k",
    model="lenet5-small",
    batch_size=16,
    steps=20,
    update_every=5,
    prune_begin=5,
    prune_end=10,
    prune_every=5,
    log_every=10,
    eval_every=10,
    checkpoint_every=10,
)
LONG = BASE.with_(method="dense", steps=100_000, eval_every=100_000)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < until, f"in vain: {what}"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def dying(deaths: list[str], init: Callable[..., object]) -> Callable[..., object]:
    """Ray's ``init`` where the first servers die, each with its words."""

    def attempt(*args: object, **kwargs: object) -> object:
        if deaths:
            raise ConnectionAbortedError(deaths.pop(0))
        return init(*args, **kwargs)

    return attempt


@dataclass(frozen=True)
class Ports:
    """Where the cluster listens."""

    drivers: int
    clients: int


@pytest.fixture(scope="module")
def cluster() -> Iterator[Ports]:
    """As a user starts one, in a process group of its own; its processes find this file, too."""
    pytest.importorskip("ray", reason="sweeps over machines need the extra [ray]")
    ports = Ports(free_port(), free_port())
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, (Path(folder) / "told").open("w+") as told:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
        command += [f"--port={ports.drivers}", f"--ray-client-server-port={ports.clients}", f"--temp-dir={folder}"]
        command += ["--include-dashboard=false", f"--object-store-memory={100 * 2**20}", "--disable-usage-stats"]
        command += ["--min-worker-port=0", "--max-worker-port=0"]
        paths = os.pathsep.join([str(Path(__file__).parents[1] / "helpers"), os.environ.get("PYTHONPATH", "")])
        head = subprocess.Popen(
            command,
            stdout=told,
            stderr=subprocess.STDOUT,
            cwd=folder,
            # A busy machine takes longer than the 30 s that Ray waits for the server of a client.
            env={**os.environ, "PYTHONPATH": paths, "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "120"},
            start_new_session=True,
        )
        try:
            wait_for(lambda: "will now block" in Path(told.name).read_text(), "the cluster to start")
            yield ports
        finally:
            head.terminate()
            head.wait(30)


@pytest.fixture
def address(cluster: Ports) -> str:
    return f"127.0.0.1:{cluster.drivers}"


def test_same_bits_as_one_by_one_and_a_failure_stops_nothing_else(address: str, tmp_path: Path) -> None:
    """A pruning run, two that start from it, and one whose folder is no run's."""
    wanted = [BASE.with_(method=m, mask_from=pruning_parent(BASE)) for m in ("rigl", "set")]
    strange = BASE.with_(method="dense")
    here, there = tmp_path / "here", tmp_path / "there"
    (there / strange.name).mkdir(parents=True)
    told = quiet()
    with pytest.raises(RuntimeError, match=f"1 of 4 runs failed; .*\n  {strange.name}: ValueError: .* has no config"):
        sweep([*wanted, strange], root=there, ray=address, console=told)
    ended = [line.split()[-1] for line in told.file.getvalue().splitlines() if line]
    assert len(ended) == 4
    assert all(ended.index(pruning_parent(BASE).name) < ended.index(config.name) for config in wanted)
    for config in [pruning_parent(BASE), *wanted]:
        one = train(config, root=here)
        assert (there / config.name / METRICS).read_bytes() == (one.folder / METRICS).read_bytes()
    assert not list(there.glob(".shared-*"))


@dataclass(frozen=True)
class Scribble:
    """Writes down when it begins and ends; its process is killed in its first tries."""

    name: str
    deaths: int = 0
    size: int = 1
    needs: tuple[Scribble, ...] = ()

    def is_done(self, root: Path) -> bool:
        return (root / self.name).is_file()

    def work(self, root: Path, report: Callable[[int], None]) -> None:
        with (root / "log").open("a") as log:
            log.write(f"{self.name} begins\n")
        if (root / "log").read_text().count(f"{self.name} begins") <= self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        assert os.environ["OMP_NUM_THREADS"] == os.environ["NUMBA_NUM_THREADS"] == "1"
        time.sleep(0.2)
        with (root / "log").open("a") as log:
            log.write(f"{self.name} ends\n")
        (root / self.name).touch()


@pytest.mark.slow
def test_order_number_at_once_and_killed_workers(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time on two CPUs, with one retry: dead once is done; dead twice failed, what needs it does not begin."""
    from sparseflow.training import ray_pool

    monkeypatch.setattr(ray_pool, "_RETRIES", 1)
    first, once, twice = Scribble("first"), Scribble("once", deaths=1), Scribble("twice", deaths=2)
    tasks = [Scribble("second", needs=(first,)), first, once, Scribble("child", needs=(twice,)), Scribble("last")]
    with pytest.raises(RuntimeError, match="2 of 6 runs failed") as failed:
        run_tasks(tasks, root=tmp_path, jobs=1, ray=address, console=quiet())
    assert "\n  twice: WorkerCrashedError: " in str(failed.value)
    assert "\n  child: RuntimeError: it starts from twice, which failed" in str(failed.value)
    assert (tmp_path / "log").read_text().splitlines() == [
        *("first begins", "first ends", "second begins", "second ends"),
        *("once begins", "once begins", "once ends", "twice begins", "twice begins", "last begins", "last ends"),
    ]


def test_interrupted_it_ends_what_runs_on_the_cluster(address: str, tmp_path: Path) -> None:
    """Ctrl-C: soon nobody holds the run's folder, and the same run goes on from its checkpoint."""
    log = tmp_path / LONG.name / METRICS

    def interrupt() -> None:
        wait_for(lambda: log.is_file() and log.stat().st_size > 10_000, "the run to be under way")
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        sweep([LONG], root=tmp_path, ray=address, console=quiet())
    interrupter.join()

    class SeenError(Exception):
        pass

    def stop(step: int, steps: int) -> None:
        seen.append(step)
        raise SeenError

    def is_free() -> bool:
        with (tmp_path / LONG.name / LOCK).open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    seen: list[int] = []
    wait_for(is_free, "the worker to end")
    with pytest.raises(SeenError):
        train(LONG, root=tmp_path, progress=stop)
    assert seen[0] > 10


def test_a_folder_that_other_machines_do_not_see_is_refused(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``/proc/self/cwd`` is another folder for each process, as ``/home`` can be for each machine."""
    monkeypatch.chdir(tmp_path)
    root = Path("/proc/self/cwd")
    with pytest.raises(FileNotFoundError, match=f"the machine {socket.gethostname()} does not see {root}") as refused:
        sweep([BASE], root=root, ray=address, console=quiet())
    assert "a folder that all machines share, under the same path: name it by --out." in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_the_command_from_a_machine_outside_the_cluster(
    cluster: Ports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``ray://``, and folders are named from here; a server that dies while it starts is started once more."""
    import ray

    deaths = ["Initialization failure from server"]
    monkeypatch.setattr(ray, "init", dying(deaths, ray.init))
    monkeypatch.chdir(tmp_path)
    main(["reproduce", "mlp/small_dense", "--seeds", "1", "--ray", f"ray://127.0.0.1:{cluster.clients}"])
    told = capsys.readouterr()
    assert "on one CPU, shared by those of the cluster" in told.err
    assert "Asked for:" in told.out
    assert len(list((tmp_path / "runs" / "demo").glob("*/done.json"))) == 1
    assert not deaths


def refused(address: str, root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr, after exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "mlp/small_dense", "--seeds", "1", "--out", str(root), "--ray", address])
    assert ended.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2  # the first says what there is to do
    return lines[1]


def test_a_cluster_whose_servers_keep_dying_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = pytest.importorskip("ray", reason="sweeps over machines need the extra [ray]")
    deaths = [f"Initialization failure from server:\nTraceback ...\nserver {k} died\n" for k in range(6)]
    monkeypatch.setattr(ray, "init", dying(deaths, ray.init))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"ray://127.0.0.1:{server.getsockname()[1]}"
        line = refused(address, tmp_path, capsys)
    assert line == (
        f"sparseflow: the Ray cluster at '{address}' broke off 5 connections (server 4 died). Run the command on one "
        "of its machines, with --ray HOST:PORT."
    )


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_where_no_cluster_is_it_says_how_to_start_one(
    prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray", reason="sweeps over machines need the extra [ray]")
    address = f"{prefix}127.0.0.1:{free_port()}"
    line = refused(address, tmp_path, capsys)
    assert line.startswith(f"sparseflow: no Ray cluster answers at '{address}' (")
    assert "Start one with ray start --head, let other machines join with ray start --address=HOST:PORT" in line


def test_an_address_is_a_host_and_a_port(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray", reason="sweeps over machines need the extra [ray]")
    line = refused("cluster", tmp_path, capsys)
    assert line == "sparseflow: ray must be auto, HOST:PORT or ray://HOST:PORT, got 'cluster'."


def test_without_ray_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    line = refused("auto", tmp_path, capsys)
    assert line == 'sparseflow: sweeps over machines need ray: pip install "sparseflow[ray]"'
    assert not is_done(tmp_path, BASE)
