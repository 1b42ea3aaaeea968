"""Claims about tickets keep what they were judged by before: the former test, on the runs of one pruning run."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sparseflow.lab.page.evidence import Evidence
from sparseflow.paper.claims import CLAIMS, judge
from sparseflow.paper.claims.former import ONE_PRUNING_RUN, UNPAIRED
from sparseflow.paper.claims.verdict import Former
from sparseflow.paper.matrix.mnist import groups
from sparseflow.paper.matrix.scales import DEMO
from sparseflow.training.runs import Run
from synthetic_evidence import make_evidence
from synthetic_images import long_rows, long_verdict, returning
from synthetic_runs import runs_like, verdict_on
from synthetic_tables import Rows, distances, pairs_on_masks

FIRST = "runs on the masks of the first pruning run"


def on_masks(restart: list[float], lottery: list[float], *, others: int, gain: float) -> dict[str, list[Run]]:
    """Accuracies in percent on the masks of the first pruning run; one run each on those of others, ``gain`` apart."""
    found = {}
    for kind, first, other in (("restart", restart, 98.0 + gain), ("lottery", lottery, 98.0)):
        template = runs_like(1)[0]
        for number, values in enumerate([first, *[[other]] * others]):
            found[f"tickets/{kind}{f'/mask{number}' if number else ''}"] = [
                replace(template, config=template.config.with_(seed=100 * (number + 1) + index), statistics={},
                        final={"test/accuracy": value / 100})
                for index, value in enumerate(values)
            ]  # fmt: skip
    return found


def test_former_test_is_that_of_the_first_pruning_run_by_hand() -> None:
    """C45. First masks: 98.1 against 99.0, both with s = 0.1: error sqrt(2 * 0.01 / 3) = 0.082, t = -10 on 4.

    Pairs of pruning runs: -0.9 once and 0.5 nine times, mean 0.36, s = 0.443, t = (0.36 + 0.05) / 0.14 = 2.9 on 9.
    """
    runs = on_masks([98.0, 98.1, 98.2], [98.9, 99.0, 99.1], others=9, gain=0.5)
    found = verdict_on("C45", runs)
    assert "paired t, mean 0.36 [" in found.statistic
    assert found.verdict == "held"
    assert found.former == Former(f"Welch's t test, {FIRST}", "failed", ONE_PRUNING_RUN)


def test_former_criterion_without_its_runs_is_left_out_and_the_verdict_stays() -> None:
    """Two runs on the first masks are too few for a t test of runs, and are one pruning run of ten."""
    runs = on_masks([98.1, 98.1], [99.0, 99.0], others=9, gain=0.5)
    found = verdict_on("C45", runs)
    assert (found.verdict, found.former) == ("held", None)


def test_former_pairs_are_those_of_the_first_masks_by_hand() -> None:
    """C39. Three models on the first masks: each pair 0.03 against 0.02, 1.5 times; on the others 15 times."""
    pairs: Rows = []
    for kind, first, others in (("scratch-same", 0.03, 0.03), ("lottery", 0.02, 0.002)):
        pairs += [row for row in pairs_on_masks(f"tickets/{kind}", others, masks=9) if "/mask" in row["group"]]
        models = itertools.combinations(range(3), 2)
        pairs += [{"group": f"tickets/{kind}", "a": a, "b": b, "disagreement": first} for a, b in models]
    found = verdict_on("C39", {}, function_pairs=pd.DataFrame(pairs))
    assert found.former is not None
    assert (found.verdict, found.former.verdict) == ("held", "failed")


def test_distances_of_the_first_pruning_run_were_permuted() -> None:
    """C32. Tickets of the first pruning run end farther away than Scratch, those of the other nine far nearer."""
    table = distances(4.0, 25.6, column="final", prunes=10, spread=0.05)
    table.loc[(table["group"] == "tickets/lottery") & (table["prune_seed"] == 0), "final"] += 30.0
    found = verdict_on("C32", {}, distances=table)
    assert found.former is not None
    assert (found.verdict, found.former.verdict) == ("held", "failed")
    assert found.former.criterion == f"permutation test, {FIRST}"


def test_means_of_pruning_runs_were_not_paired_by_hand() -> None:
    """C30: every ratio is 17.5 / 13.6 = 1.29, and pruning runs differ by 30 %.

    Standard deviations are 0.3 * sqrt(0.625) of the means, 3.2 and 4.2: Welch's error is 2.4, t = 3.9 / 2.4 = 1.7.
    """
    found = verdict_on("C30", {}, distances=distances(13.6, 17.5, column="init", spread=0.3))
    assert found.former == Former("Welch's t test of means of pruning runs", "inconclusive", UNPAIRED)
    assert found.verdict == "held"


def test_images_had_several_pruning_runs_before() -> None:
    """C36, tickets at 0.05, 0.1 and 0.15, Scratch as much above each: paired without doubt.

    Welch's error is sqrt(2 * 0.05^2 / 3) = 0.041: 0.2 above is t = 4.9 on 4, p = 0.004; 0.11 above 2.7, p = 0.03.
    """
    for more, expected in ((0.2, "held"), (0.11, "inconclusive")):
        table = long_rows("disagreement", lottery=0.1, spread=0.5)
        scratch = table.assign(group="resnet20/ticket-scratch", disagreement=table["disagreement"] + more)
        both = pd.concat([table, scratch], ignore_index=True)
        found = long_verdict("C36", {}, function_reference=both, distances=returning())
        assert found.verdict == "held"
        assert found.former is not None
        assert (found.former.verdict, found.former.reason) == (expected, UNPAIRED)
        assert found.former.criterion == "Welch's t test, means of pruning runs"


def test_barriers_on_images_were_a_share_without_a_test() -> None:
    """C34: tickets at 0.02, 0.04 and 0.06 nats beside 1 of Scratch, 4 %: met on average, and not shown."""
    table = long_rows("barrier", others={"start": "solution"}, lottery=0.04, spread=0.5)
    scratch = table.assign(group="resnet20/ticket-scratch", barrier=1.0)
    both = pd.concat([table, scratch], ignore_index=True)
    found = long_verdict("C34", {}, barriers=both, distances=returning())
    assert found.former is not None
    assert (found.verdict, found.former.verdict) == ("inconclusive", "held")
    assert "5 % of that of Scratch" in found.former.criterion


# --- all claims about tickets -----------------------------------------------------------------------------------------

SCALE = DEMO.with_seeds(10)
MATRIX = groups(SCALE)
#: Claims of section 4.3 that are judged by what they always were, if over more runs.
UNCHANGED = {"C31", "C37", "C41", "C43", "C44", "C46"}
TICKETS = [id for id in CLAIMS if id == "C24" or "C29" <= id <= "C47"]
FUNCTIONS = ("function_pairs", "function_reference", "function_ensembles")
#: Mean of whatever is measured, by kind of run.
LEVELS = {"lottery": 0.004, "restart": 0.004, "scratch": 0.04, "scratch-same": 0.03, "prune": 0.02}


def on_pruned_masks() -> Iterator[tuple[str, str, str, list[Any]]]:
    """Setting, kind, group and configs, of all groups on the masks of pruning runs."""
    for group, configs in MATRIX.items():
        setting, _, rest = group.partition("/")
        kind, _, mask = rest.partition("/")
        if setting in ("tickets", "mlp-tickets") and kind in LEVELS and (not mask or mask.startswith("mask")):
            yield setting, kind, group, configs


def measured(*, first_only: bool = False) -> dict[str, pd.DataFrame]:
    """The tables of section 4.3, with the names, masks and seeds of the matrix."""
    rows: dict[str, Rows] = {name: [] for name in ("distances", "barriers", *FUNCTIONS)}
    for setting, kind, group, configs in on_pruned_masks():
        if first_only and "/mask" in group:
            continue
        noise = np.random.default_rng(zlib.crc32(group.encode()))

        def level(kind: str = kind, noise: np.random.Generator = noise) -> float:
            return float(LEVELS[kind] * (1 + 0.05 * noise.standard_normal()))

        for config in configs:
            if kind in ("lottery", "scratch"):
                columns = ("init", "final", "control_init", "cosine_init")
                own = {"setting": setting, "group": f"{setting}/{kind}", "seed": config.seed}
                rows["distances"].append(
                    {**own, "prune_seed": config.mask_from.seed, **{column: level() for column in columns}}
                )
                for start in ("init", "solution"):
                    line = {"start": start, "area": level(), "barrier": 10 * level()}
                    rows["barriers"].append({"group": group, "seed": config.seed, **line})
            columns = ("disagreement", "jsd", "kl_from_model", "kl_from_reference")
            rows["function_reference"].append(
                {"group": group, "seed": config.seed, **{column: level() for column in columns}}
            )
        for a, b in itertools.combinations([config.seed for config in configs], 2):
            columns = ("disagreement", "jsd", "kl_ab", "kl_ba")
            rows["function_pairs"].append({"group": group, "a": a, "b": b, **{column: level() for column in columns}})
        for draw in range(21):
            drawn = " ".join(str(config.seed) for config in noise.permutation(np.array(configs, dtype=object))[:5])
            own = {"group": group, "draw": draw, "members": 5, "seeds": drawn, "member_accuracy": 97.0}
            rows["function_ensembles"].append({**own, "probabilities": 97.0 + 10 * level()})
    controls = [group for group in MATRIX if group.startswith("tickets/lottery/") and "/mask" not in group]
    for group in controls:
        line = {"start": "solution", "area": 0.0, "barrier": 0.1}
        rows["barriers"] += [{"group": group, "seed": config.seed, **line} for config in MATRIX[group]]
    return {name: pd.DataFrame(found) for name, found in rows.items()}


@pytest.fixture(scope="module")
def runs() -> dict[str, Any]:
    settings = ("tickets", "mlp-tickets", "lenet5", "mlp")
    return dict(make_evidence(SCALE, only=[name for name in MATRIX if name.partition("/")[0] in settings]).groups)


def test_every_claim_about_tickets_that_moved_has_a_former_criterion(runs: dict[str, Any]) -> None:
    verdicts = judge(Evidence(runs, measured(), SCALE.name), {id: CLAIMS[id] for id in TICKETS})
    assert not [verdict.id for verdict in verdicts if not verdict.statistic]  # every one had its runs
    assert {verdict.id for verdict in verdicts if verdict.former is None} == UNCHANGED
    for verdict in verdicts:
        if verdict.former is not None:
            assert verdict.former.criterion, verdict
            assert verdict.former.reason, verdict


def test_claims_that_rest_on_one_pruning_run_alone_are_open(runs: dict[str, Any]) -> None:
    """What decided before decides nothing by itself now."""
    first = {name: found for name, found in runs.items() if "/mask" not in name}
    table = measured(first_only=True)
    table["distances"] = table["distances"][table["distances"]["prune_seed"] == 0]
    moved = [id for id in TICKETS if id not in {*UNCHANGED, "C24", "C29"}]
    for verdict in judge(Evidence(first, table, SCALE.name), {id: CLAIMS[id] for id in moved}):
        assert (verdict.verdict, verdict.p_value) == ("inconclusive", None), verdict
