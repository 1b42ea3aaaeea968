"""The command line: what needs no torch is answered before it is loaded; bad input ends in one line and exit code 2."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sparseflow.suggest import did_you_mean

if TYPE_CHECKING:
    from sparseflow.cli.options import Command

_DESCRIPTION = "Train sparse neural networks, and see why they learn or do not."


class Row(NamedTuple):
    """One command: where it is, and what it does."""

    place: str
    """Module of this folder, and the dataclass or function in it."""
    help: str
    """The docstring of what is there."""


#: Word on the command line -> its row. Modules are imported when their command is asked for.
COMMANDS: dict[str, Row] = {
    "demo": Row("lab:Demo", "Train 95 %-sparse networks on real digits (offline, minutes), and write a page."),
    "train": Row("train:Train", "Train one run, or continue it. For images: train images. For text: train text."),
    "doctor": Row("doctor:Doctor", "Say why a sparse network does not learn, and what to type."),
    "compare": Row("compare:Compare", "Compare methods on one budget, paired by seed, and write a page."),
    "reproduce": Row("reproduce:Reproduce", "Re-measure the paper, and write a page about its claims."),
    "report": Row("lab:Report", "Write the page about a folder of finished runs; trains nothing."),
    "export": Row("export:Export", "Write a trained model: its active weights alone, or for other tools."),
    "import": Row(
        "importing:Import", "Read a network that another tool made sparse; write dense weights with zeros, and masks."
    ),
    "bench": Row("bench:Bench", "Time dense against sparse here, at several batch sizes and for each layer."),
    "data": Row("data:Data", "List the datasets, fetch one, or print where it is."),
    "info": Row("info:main", "Print versions, processor, threads, extras and caches, for a bug report."),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, and turn errors that a user can mend into one line on stderr and exit code 2.

    ``SPARSEFLOW_TRACEBACK=1`` shows where an error came from instead.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _run(given)
    except KeyboardInterrupt:
        print("sparseflow: stopped; the same command continues where it was.", file=sys.stderr)
        raise SystemExit(130) from None
    except (ValueError, OSError, RuntimeError, FloatingPointError, ModuleNotFoundError) as error:
        # A missing package without a name is one whose text says what to type.
        is_bare = isinstance(error, ModuleNotFoundError) and error.name is not None
        if is_bare or os.environ.get("SPARSEFLOW_TRACEBACK"):
            raise
        _tell(error)
        raise SystemExit(2) from None


def _run(given: list[str]) -> None:
    word, rest = (given[0], given[1:]) if given else ("", [])
    if word in ("-h", "--help"):
        print(_help())
        raise SystemExit(0)
    if word in ("-V", "--version"):
        import sparseflow

        print(f"sparseflow {sparseflow.__version__}")
    elif word not in COMMANDS:
        said = f"there is no command {word!r}" if word else "a command is missing"
        raise ValueError(
            f"{said}. Commands: {', '.join(COMMANDS)}.{did_you_mean(word, COMMANDS)} See sparseflow --help."
        )
    elif word == "info":
        _info(rest)
    else:
        _command(word, rest).run()


def _command(word: str, rest: list[str]) -> Command:
    """The command with its options, checked."""
    from sparseflow.cli.options import parsed

    if word == "train" and rest[:1] == ["text"]:
        return parsed(_load("train_text:TrainText"), "sparseflow train text", rest[1:])
    says_images = rest[:1] == ["images"]
    # Digits have a --model; only images have a --network.
    if word == "train" and (says_images or any(one.partition("=")[0] == "--network" for one in rest)):
        return parsed(_load("train_images:TrainImages"), "sparseflow train images", rest[says_images:])
    return parsed(_load(COMMANDS[word].place), f"sparseflow {word}", rest)


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"sparseflow.cli.{module}"), name)


def _info(rest: list[str]) -> None:
    if rest[:1] in (["-h"], ["--help"]):
        print(f"usage: sparseflow info [-h]\n\n{COMMANDS['info'].help}")
        raise SystemExit(0)
    if rest:
        raise ValueError(f"sparseflow info takes no {rest[0]!r}. Leave it out.")
    _load("info:main")()


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {word.ljust(width)}  {row.help}" for word, row in COMMANDS.items()]
    usage = "usage: sparseflow [-h] [--version] COMMAND ..."
    return "\n".join([usage, "", _DESCRIPTION, "", *lines, "", "sparseflow COMMAND --help shows a command's options."])


def _tell(error: Exception) -> None:
    """Print an error as one line on stderr; once if all processes of ``torchrun`` raise it together."""
    rank = os.environ.get("RANK", "0")
    if rank != "0":
        from sparseflow.types import OnEveryRankError

        if isinstance(error, OnEveryRankError | FloatingPointError):
            return
    said = " ".join([str(error), *getattr(error, "__notes__", [])])
    print(f"sparseflow: {'' if rank == '0' else f'rank {rank}: '}{said}", file=sys.stderr)
