"""Stored runs, read only: the files of a run's folder, and finished runs as values."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from sparseflow.disk import read_bytes
from sparseflow.sealed import DamagedError, read_json
from sparseflow.state_file import read_checkpoint
from sparseflow.training.config import RunConfig
from sparseflow.training.digits import DigitRun
from sparseflow.training.images import ImageRun
from sparseflow.training.naming import defaults_of
from sparseflow.training.text import TextRun

#: What a folder of runs holds.
AnyRun = RunConfig | TextRun
CONFIG = "config.json"
ENVIRONMENT = "env.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
SNAPSHOTS = "snapshots"
DONE = "done.json"


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run, read only."""

    config: Any
    """A ``DigitRun``, ``ImageRun`` or ``TextRun``."""
    folder: Path
    metrics: pd.DataFrame
    """Columns step (int), name (str), value (float), in the order of logging."""
    final: dict[str, float]
    """Results at the end, by metric name."""
    env: dict[str, Any]
    """Versions and hardware, see :func:`~sparseflow.training.environment.describe_environment`."""
    seconds: float
    unreadable: dict[str, dict[str, str]] = field(default_factory=dict)
    """Split -> name -> what is wrong, of each image that could not be read."""
    statistics: dict[str, float] = field(default_factory=dict)
    """Numbers that were computed from it, by name: all that is left of a run in a table."""
    measuring: float = math.nan
    """Seconds of these in which it was measured rather than trained; NaN of a run that is older than the count."""

    def warnings(self) -> list[str]:
        """A sentence for each split with images that could not be read; evaluation leaves such out.

        >>> run = Run(None, Path(), pd.DataFrame(), {}, {}, 1.0, {"test": {"test/cat/3.png": "it is empty"}})
        >>> run.warnings()
        ['1 test image cannot be read and is in no accuracy or loss: test/cat/3.png (it is empty).']
        """
        fates = {"training": "was replaced by the next one, with its label", "test": "is in no accuracy or loss"}
        lines = []
        for split, broken in self.unreadable.items():
            if broken:
                names = ", ".join(f"{name} ({reason})" for name, reason in broken.items())
                one = len(broken) == 1
                fate = fates[split] if one else fates[split].replace("was", "were", 1).replace("is", "are", 1)
                lines.append(f"{len(broken)} {split} image{'' if one else 's'} cannot be read and {fate}: {names}.")
        return lines


def load_run(folder: Path) -> Run:
    """A finished run from its folder.

    Raises:
        FileNotFoundError: If the folder holds no run, or one that is not finished.
        ValueError: If one of its files is damaged.
    """
    for name, reason in ((CONFIG, "it is not the folder of a run"), (DONE, "the run is not finished; run it again")):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}: {reason}.")
    done = _read_json(folder / DONE)
    config = read_config(folder)
    if done["run"] != config.name:
        raise ValueError(f"{folder / DONE} is of another run, {done['run']}. {_again(folder)}")
    return Run(
        config=config,
        folder=folder,
        metrics=_read_metrics(folder / METRICS, **done["metrics"]),
        final=done["final"],
        env=_read_json(folder / ENVIRONMENT),
        seconds=done["seconds"],
        unreadable=done["unreadable"],
        measuring=done.get("measuring", math.nan),
    )


def stamp(config: AnyRun, step: int, *, before_update: bool = False) -> dict[str, Any]:
    """What a checkpoint or snapshot says of itself, so that a renamed or copied one is not taken for another.

    Args:
        config: The run.
        step: Optimizer steps taken.
        before_update: As the weights were before that step's mask update.
    """
    return {"run": config.name, "step": step, "before_update": before_update}


def snapshot_name(step: int, *, before_update: bool = False) -> str:
    """File name of a snapshot.

    Args:
        step: Optimizer steps taken.
        before_update: As the weights were before that step's mask update.

    >>> snapshot_name(200, before_update=True)
    '000200-before.pt'
    """
    return f"{step:06d}{'-before' if before_update else ''}.pt"


def final_state(config: RunConfig, *, root: Path) -> dict[str, Any]:
    """Weights (``model``) and ``masks`` at the end of a finished run.

    Args:
        config: The run.
        root: Folder of all runs.

    Raises:
        FileNotFoundError: If it is not finished, or its last state was removed.
    """
    state = end_of(root / config.name, config.steps) if is_done(root, config) else None
    if state is None:
        raise FileNotFoundError(
            f"{root / config.name} is no finished run, and another one starts from its masks. Train it first: a sweep "
            "and `sparseflow train` do so by themselves."
        )
    return state


def end_of(folder: Path, step: int) -> dict[str, Any] | None:
    """Weights (``model``) and ``masks`` of a run's last step; None if they were removed.

    Args:
        folder: Of the run.
        step: The last.

    A run on images keeps them as a snapshot, a run on digits in its last checkpoint.
    """
    of = stamp(read_config(folder), step)
    if (kept := folder / SNAPSHOTS / snapshot_name(step)).is_file():
        return read_checkpoint(kept, of=of)
    if (last := folder / CHECKPOINTS / snapshot_name(step)).is_file():
        state = read_checkpoint(last, of=of)["state"]
        return {"model": state["model"], "masks": state["sparsifier"]["masks"]}
    return None


def read_snapshot(config: RunConfig, step: int, *, root: Path, before_update: bool = False) -> dict[str, Any]:
    """Weights (``model``) and ``masks`` that a run kept at a step.

    Args:
        config: The run.
        step: One of its ``snapshots``.
        root: Folder of all runs.
        before_update: As they were after that step's optimizer step and before its mask update.

    Raises:
        FileNotFoundError: If there is no such snapshot.
    """
    path = root / config.name / SNAPSHOTS / snapshot_name(step, before_update=before_update)
    if not path.is_file():
        kept = sorted(found.stem for found in path.parent.glob("*.pt")) or "none"
        raise FileNotFoundError(f"{root / config.name} has no snapshot {path.stem}; it has {kept}.")
    return read_checkpoint(path, of=stamp(config, step, before_update=before_update))


def load_runs(root: Path) -> list[Run]:
    """The finished runs in ``root``, by name.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    return [load_run(folder) for folder in _run_folders(root) if (folder / DONE).is_file()]


def unfinished_runs(root: Path) -> list[Path]:
    """The folders in ``root`` of runs that were begun and not finished, by name."""
    return [folder for folder in _run_folders(root) if not (folder / DONE).is_file()]


def is_done(root: Path, config: AnyRun) -> bool:
    """Whether ``root`` has this run, finished.

    Args:
        root: Folder of all runs.
        config: The run.

    Raises:
        ValueError: If the folder of that name is of another config.
    """
    folder = root / config.name
    if not (folder / DONE).is_file():
        return False
    require_config(folder, config)
    return True


def require_config(folder: Path, config: AnyRun) -> None:
    """Raise if a folder holds a run of another config, or no run.

    Args:
        folder: Of a run.
        config: The run that it must hold.

    Raises:
        ValueError: Says whose folder it is and what to do.
    """
    if read_config(folder) != config:
        raise ValueError(
            f"{folder} holds a run of another config (see its {CONFIG}). Move or delete it, or choose another folder."
        )


def read_config(folder: Path) -> Any:
    """The config of a run, finished or not.

    Raises:
        ValueError: If the folder holds no run, or one of another version.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} has no {CONFIG}: it is not the folder of a run. Move it away.")
    try:
        values = _read_json(path)
        fitting = [kind for kind in (DigitRun, ImageRun, TextRun) if set(values) <= set(defaults_of(kind))]
        return (fitting or [DigitRun])[0].from_dict(values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not the config of a run of this version: {error}") from error


def _read_metrics(path: Path, *, bytes: int, sha256: str) -> pd.DataFrame:
    data = read_bytes(path) if path.is_file() else b""
    if len(data) != bytes or hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedError(path, f"it is not the {bytes:,} bytes that {DONE} names", cure=_again(path.parent))
    # Twice as fast as line by line.
    rows = json.loads(f"[{','.join(data.decode().splitlines())}]")
    return pd.DataFrame({name: pd.Series([row[name] for row in rows], dtype=dtype) for name, dtype in _COLUMNS.items()})


_COLUMNS = {"step": "int64", "name": "str", "value": "float64"}


def _run_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}. Name the folder that the runs were written to.")
    return sorted(path.parent for path in root.glob(f"*/{CONFIG}") if not path.parent.name.startswith("."))


def _read_json(path: Path) -> dict[str, Any]:
    return read_json(path, cure=_again(path.parent))


def _again(folder: Path) -> str:
    return f"Delete {folder} and run again."
