"""The paper's pages: they read evidence and verdicts, never train, and compute every number that they show."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.groups import group_of, names_of
from sparseflow.lab.page.page import Missing, Shown, Watched, as_csv, show_all, write_page
from sparseflow.lab.page.table import Column
from sparseflow.lab.page.words import DATASETS_IN_WORDS, count
from sparseflow.paper.claims.verdict import Verdict
from sparseflow.paper.committed import committed_files
from sparseflow.paper.exhibits.all import EXHIBITS, image_exhibits
from sparseflow.paper.exhibits.contradictions import contradictions
from sparseflow.paper.exhibits.records import (
    IMAGE_RUN_COLUMNS,
    RUN_COLUMNS,
    as_json,
    distinct_runs,
    environment_json,
    runs_csv,
)
from sparseflow.paper.exhibits.topics import HEADS, on_how_many, other_pages, topics, waiting
from sparseflow.paper.exhibits.verdicts import SIGNS, Judged, claims_csv, headline, judged
from sparseflow.paper.matrix.mnist import groups
from sparseflow.paper.matrix.scale import Scale
from sparseflow.paper.matrix.scales import DEMO, PAPER
from sparseflow.training.images import ImageRun

#: Part of the page on MNIST -> its heading.
PARTS = {
    "tables": "The paper's tables",
    "figures": "The paper's figures",
    "more": "Behind the paper's numbers",
}
#: Missing groups of runs on images that are called by name.
NAMED = 8
REPRODUCE = "sparseflow reproduce "


class Asked(NamedTuple):
    """What a part of the paper was reproduced for."""

    items: tuple[str, ...]
    """As typed."""
    claims: tuple[str, ...]
    """Ids of the claims that the items are about."""


def write_paper_report(
    evidence: Evidence,
    verdicts: Sequence[Verdict],
    out: Path,
    *,
    command: str,
    scale: Scale,
    asked: Asked | None = None,
    changes: str = "",
    watched: Watched = iter,
) -> Path:
    """Write the page about MNIST and everything behind it under ``out``; return the page's path.

    Files are written as by :func:`.write_page`; beside tables and figures ``claims.csv``, ``runs.csv`` and
    ``environment.json``.

    Args:
        evidence: Finished runs and measurements; what they lack is named on the page with the command that makes it.
        verdicts: At most one per claim.
        out: Folder; made where it does not exist.
        command: What was typed to make it all.
        scale: The runs that were planned.
        asked: What the page begins with; None for everything.
        changes: How the runs differ from the scale's, in words.
        watched: Iterates over the exhibits, in the order in which they are drawn.

    Raises:
        ValueError: If a verdict is on no claim, or two are on the same.
    """
    found = judged(verdicts)
    shown = [_at_scale(each, scale) for each in show_all(EXHIBITS, evidence, scale, watched=watched)]
    return _write(
        out,
        "paper.html.j2",
        shown,
        evidence,
        verdicts,
        found,
        command=command,
        scale=scale,
        asked=asked,
        changes=changes,
        columns=RUN_COLUMNS,
        headline=headline(found),
        full=scale.name == PAPER.name,
        dataset=DATASETS_IN_WORDS[scale.base.dataset],
        mlp_sparsity=groups(scale)["mlp/dense"][0].sparsity,
        collapse_percent=evidence.collapse_percent,
        parts={
            part: (heading, [each for each in shown if each.exhibit.build is not None and part_of(each.name) == part])
            for part, heading in PARTS.items()
        },
        claims_question=EXHIBITS["claims"].question,
        make={each.name: at_scale(REPRODUCE + each.name, scale) for each in shown},
        contradictions=contradictions(),
    )


def part_of(name: str) -> str:
    """The part of the page on MNIST that an exhibit stands in; exhibits that are not the paper's stand last.

    >>> part_of("table1"), part_of("fig2a"), part_of("grid")
    ('tables', 'figures', 'more')
    """
    if name.startswith("table"):
        return "tables"
    return "figures" if name.startswith(("fig", "film")) else "more"


def write_image_report(
    evidence: Evidence,
    verdicts: Sequence[Verdict],
    out: Path,
    *,
    command: str,
    scale: Scale,
    asked: Asked | None = None,
    changes: str = "",
    watched: Watched = iter,
) -> Path:
    """Write the page about runs on images, as :func:`write_paper_report` does: at any time, with whatever is there."""
    found = [claim for claim in judged(verdicts) if claim.verdict != "not judged"]
    known = {claim.claim.id for claim in found}
    exhibits = {
        name: replace(exhibit, claims=tuple(id for id in exhibit.claims if id in known))
        for name, exhibit in image_exhibits(scale).items()
    }
    shown = [_with_groups_as_one(each, scale) for each in show_all(exhibits, evidence, scale, watched=watched)]
    return _write(
        out,
        "images.html.j2",
        shown,
        evidence,
        verdicts,
        found,
        command=command,
        scale=scale,
        asked=asked,
        changes=changes,
        columns=IMAGE_RUN_COLUMNS,
        headline=headline(found) if found else "",
        networks=networks_in_words(scale),
    )


def _write(
    out: Path,
    template: str,
    shown: Sequence[Shown],
    evidence: Evidence,
    verdicts: Sequence[Verdict],
    claims: Sequence[Judged],
    *,
    command: str,
    scale: Scale,
    asked: Asked | None,
    changes: str,
    columns: tuple[Column, ...],
    **values: Any,
) -> Path:
    runs = distinct_runs(evidence)
    about = [claim for claim in claims if asked is None or claim.claim.id in asked.claims]
    environment = environment_json(evidence, command=command, scale=scale)
    files = {
        "claims.csv": as_csv(claims_csv(verdicts)),
        "runs.csv": as_csv(runs_csv(evidence, columns)),
        "environment.json": as_json(environment),
        **(committed_files(evidence, scale) if verdicts else {}),
    }
    return write_page(
        out,
        template,
        shown,
        files=files,
        scale=scale,
        num_runs=len(runs),
        names=names_of({group_of(run.config) for run in runs}),
        hours=sum(run.seconds for run in runs) / 3600,
        claims=claims,
        changes=changes,
        has_tables=bool(verdicts and runs),
        planned=len({run for group in scale.groups.values() for run in group}),
        whole=at_scale(f"{REPRODUCE}all", scale),
        topics=topics(about),
        head=HEADS.get(scale.name, scale.name),
        others=other_pages(out, scale.name),
        waiting=waiting(about),
        judged_so_far=on_how_many(about),
        signs=SIGNS,
        opening=opening(claims, asked),
        verdict_of={claim.claim.id: claim for claim in claims},
        environment=environment,
        command=command,
        **values,
    )


def _at_scale(shown: Shown, scale: Scale) -> Shown:
    """An exhibit whose commands are at the scale."""
    return replace(shown, missing=[Missing(one.text, at_scale(one.command, scale)) for one in shown.missing])


def _with_groups_as_one(shown: Shown, scale: Scale) -> Shown:
    """An exhibit whose missing groups are named in one sentence: there may be dozens while runs are being made."""
    groups = [name for one in shown.missing if (name := one.command.removeprefix(REPRODUCE)) in scale.groups]
    missing = [
        Missing(one.text, at_scale(one.command, scale))
        for one in shown.missing
        if one.command.removeprefix(REPRODUCE) not in scale.groups
    ]
    if groups:
        settings = dict.fromkeys(f"{name.split('/')[0]}/*" for name in groups)
        more = f" and {count(len(groups) - NAMED, 'other')}" if len(groups) > NAMED else ""
        text = f"Not there, or not as often as planned: {', '.join(groups[:NAMED])}{more}. Make them:"
        missing = [Missing(text, at_scale(REPRODUCE + shlex.join(settings), scale)), *missing]
    return replace(shown, missing=missing)


def at_scale(text: str, scale: Scale) -> str:
    """The commands in a text with their scale, where that is not what the command takes by itself.

    >>> from sparseflow.paper.matrix.scales import SCALES
    >>> at_scale("sparseflow reproduce paths", SCALES["cifar"]), at_scale("sparseflow reproduce paths", DEMO)
    ('sparseflow reproduce --scale cifar paths', 'sparseflow reproduce paths')
    """
    return text if scale.name == DEMO.name else text.replace(REPRODUCE, f"{REPRODUCE}--scale {scale.name} ")


def opening(claims: Sequence[Judged], asked: Asked | None) -> str:
    """What a page begins with: how many claims held, of those that were asked for.

    >>> opening([], Asked(("fig2a",), ()))
    'Asked for: fig2a. No claim is about that alone.'
    """
    if asked is None:
        return headline(claims) if claims else ""
    about = [claim for claim in claims if claim.claim.id in asked.claims]
    return f"Asked for: {', '.join(asked.items)}. {headline(about) if about else 'No claim is about that alone.'}"


def networks_in_words(scale: Scale) -> str:
    """Width and length of training of each network of a scale.

    >>> from sparseflow.paper.matrix.scales import SCALES
    >>> networks_in_words(SCALES["smoke"])
    'vgg16 has 1/8 of its channels and takes 6 steps of 8 images; resnet50 has 1/8 of its channels and takes 6 steps of
    8 images'
    """
    bases: dict[str, ImageRun] = {}
    for run in (run for group in scale.groups.values() for run in group if run.method == "scratch"):
        bases.setdefault(run.network, run)
    shares = {name: Fraction(run.width).limit_denominator(64) for name, run in bases.items()}
    return "; ".join(
        f"{network} has {'all' if shares[network] == 1 else f'{shares[network]} of'} its channels and takes "
        f"{run.steps} steps of {run.batch_size} images"
        for network, run in bases.items()
    )
