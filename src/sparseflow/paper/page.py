"""The page about the paper: reads evidence and verdicts, never trains, and computes every number that it shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from sparseflow.atomic import write_atomically
from sparseflow.lab.demo.page import DATASETS_IN_WORDS
from sparseflow.lab.page.evidence import Evidence, NotEnoughRunsError
from sparseflow.lab.page.exhibit import Content, Drawing, Exhibit
from sparseflow.lab.page.panels import WIDE
from sparseflow.lab.page.svg import inline_svg, standalone_svg
from sparseflow.paper.claims.verdict import Verdict
from sparseflow.paper.exhibits.all import EXHIBITS
from sparseflow.paper.exhibits.contradictions import contradictions
from sparseflow.paper.exhibits.records import as_json, distinct_runs, environment_json, runs_csv
from sparseflow.paper.exhibits.verdicts import SIGNS, claims_csv, headline, judged
from sparseflow.paper.matrix.image_scales import ImageScale
from sparseflow.paper.matrix.mnist import groups
from sparseflow.paper.matrix.scales import PAPER, Scale

#: Part of the page -> (heading, what its exhibits' names begin with).
PARTS = {
    "tables": ("The paper's tables", ("table",)),
    "figures": ("The paper's figures", ("fig", "film")),
    "more": ("Behind the paper's numbers", ("masks", "grid")),
}
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_PATH = re.compile(r' d="[^"]*"')


@dataclass(frozen=True)
class Picture:
    """A drawing in both widths, ready for the page."""

    drawing: Drawing
    wide: str
    narrow: str
    share: float
    """Of the page's width that the wide one takes, so that all are drawn at one scale."""


#: Goes through exhibits and their names, telling somebody how far it is.
Watched = Callable[[Sequence[tuple[str, Exhibit]]], Iterable[tuple[str, Exhibit]]]


@dataclass(frozen=True)
class Missing:
    """What is not there, and the command that makes it."""

    text: str
    command: str


@dataclass(frozen=True)
class Shown:
    """One exhibit as it stands on the page."""

    name: str
    exhibit: Exhibit
    content: Content | None = None
    """None where nothing of it can be shown."""
    pictures: Sequence[Picture] = ()
    missing: Sequence[Missing] = field(default=())


def write_paper_report(
    evidence: Evidence, verdicts: Sequence[Verdict], out: Path, *, command: str, scale: Scale, watched: Watched = iter
) -> Path:
    """Write the page and everything behind it under ``out``; return the page's path.

    ``index.html`` needs no network and no other file. Beside it: ``tables/*.csv``, ``figures/*.svg`` and
    ``figures/*.csv``, ``claims.csv``, ``runs.csv`` and ``environment.json``. Every file is written whole or not at all,
    the page last; tables and figures of an earlier report that are not in this one are removed.

    Args:
        evidence: finished runs and measurements; what they lack is named on the page with the command that makes it.
        verdicts: at most one a claim.
        out: folder; made where it does not exist.
        command: what was typed to make it all.
        scale: what was planned.
        watched: given the exhibits, in the order in which they are drawn.

    Raises:
        ValueError: if a verdict is on no claim, or two are on the same.
    """
    found = judged(verdicts)
    shown = [show(name, exhibit, evidence, scale) for name, exhibit in watched(list(EXHIBITS.items()))]
    environment = environment_json(evidence, command=command, scale=scale)
    files = {
        "claims.csv": as_csv(claims_csv(verdicts)),
        "runs.csv": as_csv(runs_csv(evidence)),
        "environment.json": as_json(environment),
        **files_of(shown),
    }
    runs = distinct_runs(evidence)
    page = (
        template_environment()
        .get_template("paper.html.j2")
        .render(
            scale=scale,
            full=scale.name == PAPER.name,
            dataset=DATASETS_IN_WORDS[scale.base.dataset],
            num_runs=len(runs),
            mlp_sparsity=groups(scale)["mlp/dense"][0].sparsity,
            hours=sum(run.seconds for run in runs) / 3600,
            evidence=evidence,
            headline=headline(found),
            claims=found,
            verdict_of={claim.claim.id: claim for claim in found},
            signs=SIGNS,
            parts={
                part: (heading, [each for each in shown if each.name.startswith(starts)])
                for part, (heading, starts) in PARTS.items()
            },
            claims_question=EXHIBITS["claims"].question,
            contradictions=contradictions(),
            environment=environment,
            command=command,
        )
    )
    return write_files(out, files, page=page)


def write_files(out: Path, files: Mapping[str, bytes], *, page: str) -> Path:
    """Write a page and what is beside it, the page last; figures and tables of an earlier one are removed."""
    for folder in ("figures", "tables"):
        (out / folder).mkdir(parents=True, exist_ok=True)
        for old in (out / folder).iterdir():
            if f"{folder}/{old.name}" not in files and old.suffix in (".svg", ".csv"):
                old.unlink()
    for name, content in files.items():
        write_atomically(out / name, content)
    index = out / "index.html"
    write_atomically(index, page.encode())
    return index


def files_of(shown: Sequence[Shown]) -> dict[str, bytes]:
    """Figures and tables of exhibits, as files."""
    files = {}
    for each in shown:
        for picture in each.pictures:
            files[f"figures/{picture.drawing.name}.svg"] = standalone_svg(picture.wide)
            files[f"figures/{picture.drawing.name}.csv"] = as_csv(picture.drawing.data)
        for table in each.content.tables if each.content else ():
            files[f"tables/{table.name}.csv"] = as_csv(table.data)
    return files


def show(name: str, exhibit: Exhibit, evidence: Evidence, scale: Scale | ImageScale) -> Shown:
    """Build an exhibit; one that lacks everything says what to type."""
    if exhibit.build is None:
        return Shown(name, exhibit)
    try:
        content = exhibit.build(evidence, scale)
    except NotEnoughRunsError as error:
        return Shown(name, exhibit, missing=missing_of([str(error)]))
    return Shown(
        name, exhibit, content, [_picture(drawing) for drawing in content.drawings], missing_of(content.missing)
    )


def missing_of(messages: Sequence[str]) -> list[Missing]:
    r"""The texts of :class:`NotEnoughRunsError`, taken apart: a line of text, then a line to type.

    >>> missing_of(["mds was not measured. Make it:\nsparseflow reproduce mds"])
    [Missing(text='mds was not measured. Make it:', command='sparseflow reproduce mds')]
    """
    lines = [line for message in messages for line in message.splitlines()]
    pairs = zip(lines[::2], lines[1::2], strict=True)
    return list(dict.fromkeys(Missing(text, command) for text, command in pairs))


def _picture(drawing: Drawing) -> Picture:
    wide, narrow = drawing.draw(narrow=False), drawing.draw(narrow=True)
    wide_svg, narrow_svg = (
        drawing.finish(compact(inline_svg(figure, name=name, alt=drawing.alt)), figure)
        for figure, name in ((wide, drawing.name), (narrow, f"{drawing.name}-narrow"))
    )
    return Picture(drawing, wide_svg, narrow_svg, share=min(1.0, wide.get_figwidth() / WIDE))


def compact(svg: str) -> str:
    """Coordinates of paths to a hundredth of a point, which no screen shows.

    >>> compact('<path d="M 1.23456 2&#10;L -0.001 7.5" />')
    '<path d="M 1.23 2 L 0 7.5" />'
    """

    def shorter(path: re.Match[str]) -> str:
        text = re.sub(r"\s*&#10;\s*", " ", path.group())
        return _NUMBER.sub(lambda number: f"{round(float(number.group()), 2) + 0.0:g}", text)

    return _PATH.sub(shorter, svg)


def as_csv(table: pd.DataFrame) -> bytes:
    """As it is written beside the page."""
    return table.to_csv(index=False, float_format="%.7g").encode()


def template_environment() -> Environment:
    """Where templates are, and what they may call."""
    environment = Environment(
        loader=PackageLoader("sparseflow.lab"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A percent sign stays on the line of its number.
    environment.filters["tied"] = lambda sentence: sentence.replace(" %", "\N{NO-BREAK SPACE}%")
    return environment
