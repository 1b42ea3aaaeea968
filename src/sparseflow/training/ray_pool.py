"""Processes of a Ray cluster that compute tasks of a pool, one CPU and one thread each."""

from __future__ import annotations

import logging
import os
import socket
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import ModuleType
from typing import Any

from sparseflow.training.processes import compute, take_one_thread
from sparseflow.training.tasks import Task

#: How often Ray begins a task again whose process or machine died; it continues from its last checkpoint.
_RETRIES = 3
#: Seconds to wait for an answer from the address.
_PATIENCE = 10
#: Of 100 servers that Ray starts for clients about 7 die while they start: a fork of a process that has threads
#: (https://github.com/ray-project/ray/issues/63202). One more start is another throw of the dice.
_CONNECTIONS = 5


class RayCluster:
    """Workers on all machines of a cluster, see :class:`~sparseflow.training.tasks.Workers`.

    Args:
        address: ``"auto"``, ``"host:port"``, or ``"ray://host:port"`` from a machine that is no part of the cluster.
        root: Folder of all results, under the same path on every machine.
        jobs: Tasks at once; None for one per CPU of the cluster, which may grow and shrink.

    Raises:
        ModuleNotFoundError: if ray is not installed.
        ValueError: if the address is not of that form.
        ConnectionError: if no cluster answers there.
        RuntimeError: if one does and breaks off every connection.
        FileNotFoundError: if a machine does not see ``root``.
    """

    def __init__(self, address: str, root: Path, jobs: int | None) -> None:
        self._ray = ray = _connect(address)
        self._root = root.absolute()
        self._jobs = jobs
        with ExitStack() as undo:
            undo.callback(ray.shutdown)
            # It stays for the whole sweep, so that machines that join can be asked for it, too.
            token = undo.enter_context(NamedTemporaryFile(dir=self._root, prefix=".shared-"))
            self._token = Path(token.name)
            self._require_shared_folder()
            self._inbox = ray.remote(num_cpus=0, max_restarts=-1)(_inbox()).remote()
            self._work = ray.remote(num_cpus=1, max_retries=_RETRIES)(_work)
            self._leave = undo.pop_all()

    def _require_shared_folder(self) -> None:
        strategy = partial(self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy, soft=False)
        look = self._ray.remote(num_cpus=0)(os.path.isfile)
        nodes = [node for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        looks = [look.options(scheduling_strategy=strategy(node["NodeID"])).remote(self._token) for node in nodes]
        for node, is_seen in zip(nodes, self._ray.get(looks), strict=True):
            if not is_seen:
                raise _not_shared(self._root, machine=node["NodeManagerHostname"])

    def most(self) -> int:
        """The number asked for, or the cluster's CPUs; at least one, which then waits for a machine."""
        return self._jobs or max(1, int(self._ray.cluster_resources().get("CPU", 0)))

    def submit(self, task: Task) -> Future[None]:
        """Queue a task for a machine with a free CPU."""
        done = Future[None]()
        ref = self._work.options(name=task.name).remote(task, self._root, self._token, self._inbox)
        ref.future().add_done_callback(partial(self._pass_on, done))
        return done

    def _pass_on(self, done: Future[None], answer: Future[None]) -> None:
        error = answer.exception()
        if error is None:
            done.set_result(None)
        else:
            # The task's own error, without the other machine's traceback.
            done.set_exception(error.cause if isinstance(error, self._ray.exceptions.RayTaskError) else error)

    def progress(self) -> list[tuple[str, int]]:
        """Reports since the last call; none while the inbox moves to another machine because its own died."""
        try:
            said: dict[str, int] = self._ray.get(self._inbox.take.remote())
        except self._ray.exceptions.RayActorError:
            return []
        return list(said.items())

    def stop(self) -> None:
        """Disconnect: Ray ends the tasks of a driver that leaves or is killed."""
        self._leave.close()

    def close(self) -> None:
        """Disconnect."""
        self._leave.close()


def _inbox() -> type:
    # Made in a function, it is sent as it is: its process need not load torch.
    class Inbox:
        """Progress of each task, by name; on one of the machines."""

        def __init__(self) -> None:
            self._said: dict[str, int] = {}

        def put(self, name: str, done: int) -> None:
            self._said[name] = done

        def take(self) -> dict[str, int]:
            said, self._said = self._said, {}
            return said

    return Inbox


def _work(task: Task, root: Path, token: Path, inbox: Any) -> None:
    take_one_thread()
    if not token.is_file():  # a machine that joined later
        raise _not_shared(root, machine=socket.gethostname())
    compute(task, root, report=inbox.put.remote)


def _not_shared(root: Path, *, machine: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"the machine {machine} does not see {root} as the one with the command does. With --ray the runs go to a "
        "folder that all machines share, under the same path: name it by --out."
    )


def _connect(address: str) -> ModuleType:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('sweeps over machines need ray: pip install "sparseflow[ray]"') from error
    try:
        if address != "auto":
            _require_listener(address)
        _join(ray, address)
    except OSError as error:
        raise ConnectionError(
            f"no Ray cluster answers at {address!r} ({error}). Start one with ray start --head, let other machines "
            "join with ray start --address=HOST:PORT, and name that HOST:PORT."
        ) from error
    return ray


def _join(ray: ModuleType, address: str) -> None:
    for left in reversed(range(_CONNECTIONS)):
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
            return
        except ConnectionAbortedError as error:
            if not left:
                reason = str(error).strip().rpartition("\n")[2]  # below a traceback of Ray's
                raise RuntimeError(
                    f"the Ray cluster at {address!r} broke off {_CONNECTIONS} connections ({reason}). Run the command "
                    "on one of its machines, with --ray HOST:PORT."
                ) from error


def _require_listener(address: str) -> None:
    # Where no server answers Ray tries for two minutes, and then ends the process.
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"ray must be auto, HOST:PORT or ray://HOST:PORT, got {address!r}.")
    socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
