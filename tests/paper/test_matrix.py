"""The run matrix: counts by hand from the protocol, nothing twice, and every name that is asked for exists."""

from __future__ import annotations

import csv
import itertools
import re
from pathlib import Path

import pytest

import sparseflow
from sparseflow.paper.matrix.measured import TABLES
from sparseflow.paper.matrix.mnist import groups, snapshots
from sparseflow.paper.matrix.scale import Scale
from sparseflow.paper.matrix.scales import DEMO, PAPER
from sparseflow.paper.measures.measurement import Measurement
from sparseflow.paper.reproduce import Matrix
from sparseflow.training.digits import DigitRun
from sparseflow.training.sweep import Training


@pytest.fixture(scope="module", params=[PAPER, DEMO], ids=["paper", "demo"])
def matrix(request: pytest.FixtureRequest) -> Matrix:
    return Matrix.of(request.param)


def test_the_paper_s_settings() -> None:
    """Tables 3 and 4 and protocol section 0, by hand."""
    found = groups(PAPER)
    rigl = found["lenet5/rigl/sparse"][3]
    assert (rigl.steps, rigl.batch_size, rigl.learning_rate, rigl.weight_decay) == (11719, 128, 0.05, 5e-4)
    assert (rigl.update_every, rigl.drop_fraction, rigl.sparsity, rigl.init_base) == (500, 0.3, 0.95, "xavier_uniform")
    assert rigl.mask_from is not None
    assert (rigl.mask_from.seed, rigl.mask_from.method) == (3, "prune")
    assert (rigl.mask_from.prune_begin, rigl.mask_from.prune_end, rigl.mask_from.prune_every) == (3000, 7000, 100)
    assert found["lenet5/rigl/sparse/f100"][0].update_every == 100
    mlp = found["mlp/set/liu"][0]
    assert (mlp.sparsity, mlp.learning_rate, mlp.weight_decay, mlp.update_every) == (0.98, 0.2, 1e-4, 500)
    assert {config.weight_decay for name in found for config in found[name] if name.startswith("tickets")} == {0.0}
    assert len(found["lenet5/scratch/dense"]) == 20
    assert len({config.mask_from for config in found["lenet5/scratch/dense"]}) == 20
    assert len({config.mask_from for config in found["tickets/scratch"]}) == 1


def test_the_spectra_s_steps() -> None:
    """Protocol A.9: every 100 to 2000, then every 500 to 11500: 39 checkpoints; and 201 to 210 and 220.

    Beyond it, of masks that move every 100 steps, 230 to 290.
    """
    steps = set(snapshots(PAPER))
    followed = {*range(100, 2001, 100), *range(2500, 11501, 500)}
    assert len(followed) == 39
    assert steps == followed | {*range(201, 211), 220}
    assert {100 * k for k in PAPER.checkpoints} == followed
    (often,) = {config.snapshots for config in groups(PAPER)["lenet5/rigl/sparse/f100"]}
    assert set(often) == steps | {*range(230, 300, 10)}


def test_starts_that_decide() -> None:
    """By hand: 20 runs a cell at both update periods, 20 pruning runs with tickets, 100 starts of Liu and Ours."""
    found = {name: len(configs) for name, configs in groups(PAPER).items()}
    for method, init in itertools.product(("set", "rigl"), ("dense", "liu", "sparse")):
        assert found[f"lenet5/{method}/{init}"] == found[f"lenet5/{method}/{init}/f100"] == 20
    assert found["tickets/prune"] == 20
    for kind in ("lottery", "restart", "scratch", "scratch-same"):
        assert all(found[f"tickets/{kind}/mask{number}"] >= 2 for number in range(1, 20))
    for init in ("liu", "sparse"):
        cells = [f"lenet5/scratch/{init}{variant}" for variant in ("", "/more", "/again")]
        starts = {(run.seed, run.mask_from) for cell in cells for run in groups(PAPER)[cell]}
        assert len(starts) == sum(found[cell] for cell in cells) == 100
    for init in ("dense", "sparse"):
        cells = [f"lenet5/rigl/{init}/f100{variant}" for variant in ("", "/more")]
        assert len({run.mask_from for cell in cells for run in groups(PAPER)[cell]}) == 40
    assert found["lenet5/small_dense"] + found["lenet5/small_dense/more"] == 60


def test_committed_runs_keep_their_names() -> None:
    """Hashes of results/paper/runs.csv, but for two groups that keep seven snapshots more."""
    with (Path(__file__).parents[2] / "results" / "paper" / "runs.csv").open() as file:
        committed = {(row["group"], row["config"]) for row in csv.DictReader(file)}
    planned = {(name, config.hash) for name, configs in groups(PAPER).items() for config in configs}
    assert {name for name, _ in committed - planned} <= {f"lenet5/{method}/sparse/f100" for method in ("set", "rigl")}


def test_groups_differ_in_seeds_alone(matrix: Matrix) -> None:
    for name, configs in matrix.groups.items():
        assert configs, name
        assert len(set(configs)) == len(configs), name
        if name.startswith("grid"):
            continue
        alike = {
            config.with_(seed=0, mask_from=None if config.mask_from is None else config.mask_from.with_(seed=0))
            for config in configs
        }
        assert len(alike) == 1, name
        assert len({config.seed for config in configs}) == len(configs), name


def test_masks_are_pruned_and_no_ticket_sees_its_parent_s_order(matrix: Matrix) -> None:
    for name, configs in matrix.groups.items():
        for config in configs:
            if config.row.start != "dense":
                assert config.mask_from is not None, name
            if name.startswith(("tickets", "mlp-tickets")) and config.mask_from is not None:
                assert config.seed != config.mask_from.seed


def test_a_run_that_groups_share_is_one(matrix: Matrix) -> None:
    tasks = matrix.tasks(["all"])
    assert len(set(tasks)) == len(tasks)
    names = [task.name for task in tasks]
    assert len(set(names)) == len(names)
    for number, task in enumerate(tasks):
        assert all(needed in tasks[:number] for needed in task.needs)


def test_measurements_find_their_runs(matrix: Matrix) -> None:
    """Every run that a measurement reads is in the matrix, and keeps the snapshots that spectra need."""
    runs = {config for configs in matrix.groups.values() for config in configs}
    for one in matrix.measurements:
        assert set(one.runs) <= runs, one
        if one.kind == "spectrum":
            (config,) = one.runs
            step = dict(one.options)["step"]
            assert step in config.snapshots
            assert dict(one.options)["moment"] == "at" or int(step) % config.update_every == 0


def test_an_item_brings_what_it_needs() -> None:
    matrix = Matrix.of(DEMO)
    for item, methods, kinds in (
        ("lenet5/rigl/dense", {"prune", "rigl"}, set()),
        ("mds", {"prune", "lottery", "scratch"}, {"embedding"}),
        ("fig1c", set(), {"signal"}),
        ("table1", {"prune", "dense", "scratch", "set", "rigl", "lottery"}, set()),
        ("C25", {"prune", "set", "rigl"}, {"spectrum"}),
    ):
        tasks = matrix.tasks([item])
        assert {task.config.method for task in tasks if isinstance(task, Training)} >= methods, item
        assert {task.kind for task in tasks if isinstance(task, Measurement)} >= kinds, item
    assert len(matrix.tasks(["lenet5/dense", "lenet5/dense"])) == DEMO.seeds


def test_an_item_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"there is no item 'fig99' at --scale demo\. .*table1.*see sparseflow"):
        Matrix.of(DEMO).tasks(["fig99"])


def test_every_name_in_claims_and_figures_exists() -> None:
    """Group names are written in many files: each literal of that shape is a group, or a pattern that matches one."""
    found = groups(PAPER)
    tables = {table for kind in TABLES.values() for table in kind}
    paper = Path(sparseflow.__file__).parent / "paper"
    pattern = re.compile(r'"((?:lenet5|mlp|tickets|mlp-tickets)/[a-z0-9_/.-]+)"')
    seen = 0
    for path in [*paper.glob("claims/*.py"), *paper.glob("exhibits/*.py")]:
        for name in pattern.findall(path.read_text()):
            assert name in found or any(group.startswith(name) for group in found), f"{path.name}: {name}"
            seen += 1
    assert seen > 50
    assert tables


@pytest.mark.parametrize(("scale", "least", "most"), [(PAPER, 10 * 3600, 24 * 3600), (DEMO, 60, 1200)])
def test_the_cost_is_an_estimate_for_people(scale: Scale, least: float, most: float) -> None:
    matrix = Matrix.of(scale)
    assert least < matrix.seconds(matrix.tasks(["all"])) < most


def test_fewer_seeds() -> None:
    found = groups(PAPER.with_seeds(2))
    assert {len(found[name]) for name in ("lenet5/dense", "lenet5/scratch/dense", "lenet5/rigl/sparse/f100")} == {2}
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        PAPER.with_seeds(0)


def test_claims_of_the_paper_are_all_there() -> None:
    with (Path(sparseflow.__file__).parent / "paper" / "printed" / "claims.csv").open() as file:
        assert [row["id"] for row in csv.DictReader(file)] == [f"C{number:02d}" for number in range(1, 54)]


def test_measurements_are_named_by_what_they_are_of() -> None:
    one = Measurement("spectrum", (DigitRun(),), (("step", 200),), (("group", "a"),))
    others = [
        Measurement("spectrum", (DigitRun(seed=1),), one.options, one.labels),
        Measurement("path", one.runs, one.options, one.labels),
        Measurement("spectrum", one.runs, (("step", 100),), one.labels),
        Measurement("spectrum", one.runs, one.options, (("group", "b"),)),
    ]
    assert len({one.name, *(other.name for other in others)}) == 5
    moved = Measurement("spectrum", one.runs, one.options, one.labels, size=7, data_root=Path("elsewhere"))
    assert moved.name == one.name


def test_measurements_cover_every_table() -> None:
    kinds = {one.kind for one in DEMO.measurements()}
    assert kinds == set(TABLES)
