"""``sparseflow reproduce ITEM --set NAME=VALUE``: what is refused, what changes, and the page that says so."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.changed import changed, check_read, parsed_settings
from sparseflow.paper.matrix.scales import DEMO
from sparseflow.paper.page import Asked, write_paper_report
from sparseflow.paper.reproduce import Matrix
from sparseflow.training.sweep import Training


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("sparsitty=0.9", r"there is no setting 'sparsitty'\. Settings are .* Did you mean sparsity\?"),
        ("method=set", "there is no setting 'method'"),
        ("sparsity", r"--set takes NAME=VALUE, got 'sparsity'\. Type --set sparsity=0\.95$"),
        ("fig2a", r"--set takes NAME=VALUE, got 'fig2a'\. Items come first: fig2a --set \.\.\.$"),
        ("steps=0.5", "steps must be a whole number, got '0.5'. Type --set steps=1000."),
        ("sparsity=most", "sparsity must be a number, got 'most'"),
    ],
)
def test_what_cannot_be_set_is_refused(typed: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parsed_settings([typed], DEMO)


def test_a_setting_with_two_values_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sparsity is --set twice, got 0.9 and 0.8. Leave one out."):
        parsed_settings(["sparsity=0.9", "sparsity=0.8"], DEMO)


def test_a_value_out_of_range_is_refused_by_the_run() -> None:
    with pytest.raises(ValueError, match="sparsity"):
        changed(DEMO, parsed_settings(["sparsity=1.5"], DEMO))


def test_runs_their_pruning_runs_and_nothing_else_change() -> None:
    settings = parsed_settings(["sparsity=0.9"], DEMO)
    ours, theirs = (
        [task.config for task in Matrix.of(scale).tasks(["fig2a"]) if isinstance(task, Training)]
        for scale in (changed(DEMO, settings), DEMO)
    )
    assert {run.sparsity for run in ours} == {0.9}
    assert {run.mask_from.sparsity for run in ours if run.mask_from} == {0.9}
    but_sparsity = [[{**asdict(run), "sparsity": 0, "mask_from": None} for run in runs] for runs in (ours, theirs)]
    assert but_sparsity[0] == but_sparsity[1]
    assert not {run.name for run in ours} & {run.name for run in theirs}


def test_a_setting_that_no_run_takes_is_refused() -> None:
    settings = parsed_settings(["sparsity=0.9"], DEMO)
    tasks = Matrix.of(changed(DEMO, settings)).tasks(["tickets/s98/prune"])
    with pytest.raises(ValueError, match="no run of these items takes sparsity from --set"):
        check_read(settings, tasks)


def test_a_setting_of_an_item_that_trains_nothing_is_refused() -> None:
    tasks = Matrix.of(changed(DEMO, {"sparsity": 0.9})).tasks(["fig1c"])
    with pytest.raises(ValueError, match="no run of these items takes sparsity from --set"):
        check_read({"sparsity": 0.9}, tasks)


def test_a_part_is_headed_with_what_was_asked_for(tmp_path: Path) -> None:
    page = write_paper_report(
        Evidence({}, {}, "demo"),
        [],
        tmp_path,
        command="sparseflow reproduce fig3b --set sparsity=0.9",
        scale=DEMO,
        asked=Asked(("fig3b",), ("C17", "C18", "C19")),
        changes="Not the paper's setting: sparsity is 0.9 instead of 0.95.",
    ).read_text()
    box = page[page.index('<div class="headline">') :]
    assert box.split("<p>")[1].startswith("Asked for: fig3b. Of 3 claims of the paper 0 held")
    assert "sparsity is 0.9 instead of 0.95" in page[: page.index('<div class="headline">')]
