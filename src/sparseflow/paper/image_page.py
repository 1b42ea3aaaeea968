"""The page about image runs: reads evidence and verdicts, never trains; drawn at any moment, with whatever is there."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pandas as pd

from sparseflow.lab.page.evidence import Evidence
from sparseflow.lab.page.summary import accuracy_percent
from sparseflow.lab.page.words import count
from sparseflow.paper.claims.verdict import Verdict
from sparseflow.paper.exhibits.image_exhibits import image_exhibits
from sparseflow.paper.exhibits.records import as_json, distinct_runs, environment_json
from sparseflow.paper.exhibits.verdicts import claims_csv, headline, judged
from sparseflow.paper.matrix.image_scales import ImageScale
from sparseflow.paper.page import Missing, Shown, Watched, as_csv, files_of, show, template_environment, write_files
from sparseflow.training.images import ImageRun

#: Missing groups that are called by name.
NAMED = 8
RUN_COLUMNS = (
    "group", "network", "width", "method", "init", "sparsity", "seed", "accuracy", "loss", "seconds", "config"
)  # fmt: skip


def write_image_report(
    evidence: Evidence,
    verdicts: Sequence[Verdict],
    out: Path,
    *,
    command: str,
    scale: ImageScale,
    watched: Watched = iter,
) -> Path:
    """Write the page and everything behind it under ``out``; return the page's path.

    As :func:`~sparseflow.paper.page.write_paper_report`: ``index.html`` needs no network and no other file.

    Args:
        evidence: Finished runs and measurements; what they lack is named on the page with the command that makes it.
        verdicts: At most one a claim; may be none.
        out: Folder; made where it does not exist.
        command: What was typed to make it all.
        scale: What was planned.
        watched: Given the exhibits, in the order in which they are drawn.
    """
    spoken = [_at_scale(verdict, scale) for verdict in verdicts]
    found = [claim for claim in judged(spoken) if claim.verdict != "not judged"]
    known = {claim.claim.id for claim in found}
    shown = [
        _said_at_scale(show(name, replace(exhibit, claims=tuple(id for id in exhibit.claims if id in known)), evidence,
                            scale), scale)
        for name, exhibit in watched(list(image_exhibits(scale).items()))
    ]  # fmt: skip
    runs = distinct_runs(evidence)
    environment = environment_json(evidence, command=command, scale=scale)
    page = (
        template_environment()
        .get_template("images.html.j2")
        .render(
            scale=scale,
            networks=networks_in_words(scale),
            num_runs=len(runs),
            planned=len({run for group in scale.groups.values() for run in group}),
            hours=sum(run.seconds for run in runs) / 3600,
            headline=headline(found) if found else "",
            claims=found,
            verdict_of={claim.claim.id: claim for claim in found},
            shown=shown,
            environment=environment,
            command=command,
        )
    )
    files = {
        "claims.csv": as_csv(claims_csv(spoken)),
        "runs.csv": as_csv(image_runs_csv(evidence)),
        "environment.json": as_json(environment),
        **files_of(shown),
    }
    return write_files(out, files, page=page)


def _at_scale(verdict: Verdict, scale: ImageScale) -> Verdict:
    return replace(verdict, note=_typed(verdict.note, scale))


def _said_at_scale(shown: Shown, scale: ImageScale) -> Shown:
    """What is missing, with groups of runs as one: there may be dozens while runs are being made."""
    prefix = "sparseflow reproduce "
    groups = [name for one in shown.missing if (name := one.command.removeprefix(prefix)) in scale.groups]
    missing = [
        Missing(one.text, _typed(one.command, scale))
        for one in shown.missing
        if one.command.removeprefix(prefix) not in scale.groups
    ]
    if groups:
        settings = dict.fromkeys(f"{name.split('/')[0]}/*" for name in groups)
        more = f" and {count(len(groups) - NAMED, 'other')}" if len(groups) > NAMED else ""
        text = f"Not there, or not as often as planned: {', '.join(groups[:NAMED])}{more}. Make them:"
        missing = [Missing(text, _typed(prefix + shlex.join(settings), scale)), *missing]
    return replace(shown, missing=missing)


def _typed(text: str, scale: ImageScale) -> str:
    """Commands in a text, for these runs.

    >>> from sparseflow.paper.matrix.image_scales import IMAGE_SCALES
    >>> _typed("sparseflow reproduce paths", IMAGE_SCALES["cifar"])
    'sparseflow reproduce --scale cifar paths'
    """
    return text.replace("sparseflow reproduce ", f"sparseflow reproduce --scale {scale.name} ")


def networks_in_words(scale: ImageScale) -> str:
    """Width and length of training of each network of a scale.

    >>> from sparseflow.paper.matrix.image_scales import IMAGE_SCALES
    >>> networks_in_words(IMAGE_SCALES["smoke"])
    'vgg16 has 1/8 of its channels and takes 6 steps of 8 images; resnet50 has 1/8 of its channels and takes 6 steps of
    8 images'
    """
    bases: dict[str, ImageRun] = {}
    for run in (run for group in scale.groups.values() for run in group if run.method == "scratch"):
        bases.setdefault(run.network, run)
    return "; ".join(
        f"{network} has {Fraction(run.width).limit_denominator(64)} of its channels and takes {run.steps} steps of "
        f"{run.batch_size} images"
        for network, run in bases.items()
    )


def image_runs_csv(evidence: Evidence) -> pd.DataFrame:
    """One row a run and group, columns ``RUN_COLUMNS``; ``accuracy`` is percent."""
    rows = [
        (
            name, run.config.network, run.config.width, run.config.method, run.config.init, run.final["sparsity"],
            run.config.seed, accuracy_percent(run), run.final["test/loss"], run.seconds, run.config.hash,
        )
        for name, runs in evidence.groups.items()
        for run in runs
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(RUN_COLUMNS))
