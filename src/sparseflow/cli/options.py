"""The options of a command: its dataclass's fields, parsed, checked, and suggested where one is misspelt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, get_args, get_origin

import tyro

from sparseflow.ranges import checked_fields, hints_of
from sparseflow.suggest import did_you_mean

OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]


class Command(Protocol):
    """A dataclass that is one command."""

    def run(self) -> None:
        """Do it."""
        ...


def parsed(kind: type[Command], program: str, arguments: Sequence[str]) -> Command:
    """A command with the options that are given on the command line.

    Args:
        kind: Its dataclass; one with ``default_for(arguments)`` says itself what the defaults are.
        program: The words before the options.
        arguments: The options.

    Raises:
        ValueError: if an option is unknown, or a value cannot be.
        SystemExit: if tyro prints help, or refuses a value of another kind.
    """
    check_options(kind, arguments, program=program)
    default_for = getattr(kind, "default_for", None)
    default = {} if default_for is None else {"default": default_for(arguments)}
    made: Command = tyro.cli(kind, prog=program, args=arguments, config=(tyro.conf.FlagCreatePairsOff,), **default)
    checked_fields(made)
    return made


def check_options(kind: type, arguments: Sequence[str], *, program: str) -> None:
    """Check that every option is one of a command's.

    Raises:
        ValueError: naming the first that is not, and the one that was probably meant.
    """
    known = ["--help", *options(kind)]
    for argument in arguments:
        word = argument.partition("=")[0].replace("_", "-")
        if argument == "--":
            return
        if argument.startswith("--") and word not in known:
            raise ValueError(f"there is no option {word}.{did_you_mean(word, known)} See {program} --help.")


def options(kind: type) -> Iterator[str]:
    """The options of a dataclass; those of a dataclass inside are its own.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Inner:
    ...     learning_rate: float = 0.1
    >>> @dataclass
    ... class Outer:
    ...     source: tyro.conf.Positional[str]
    ...     inner: Inner
    ...     json: bool = False
    >>> Outer.__annotations__ = {"source": tyro.conf.Positional[str], "inner": Inner, "json": bool}
    >>> list(options(Outer))
    ['--learning-rate', '--json']
    """
    hints = hints_of(kind)
    for field in fields(kind):
        hint: Any = hints[field.name]
        inner = get_args(hint)[0] if get_origin(hint) is not None and hasattr(hint, "__metadata__") else hint
        if tyro.conf.Positional in getattr(hint, "__metadata__", ()):
            continue
        if is_dataclass(inner):
            yield from options(inner)  # type: ignore[arg-type]
        else:
            yield f"--{field.name.replace('_', '-')}"


def check_folders(*paths: Path | None) -> None:
    """Check that the folders that files are to be written to are there.

    Raises:
        ValueError: naming the first that is not.
    """
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"there is no folder {path.parent} for {path.name}. Make it first.")


@contextmanager
def one_line_if_missing() -> Iterator[None]:
    """Turn a missing package into an error of one line that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise RuntimeError(str(error)) from error
