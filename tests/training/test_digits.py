"""DigitRun: one run, one config, one name; what cannot be trained cannot be written down."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest

from sparseflow.init.fill import INITIALIZERS
from sparseflow.init.schemes import SCHEMES
from sparseflow.lab.demo.recipe import demo
from sparseflow.training.config import pruning_parent
from sparseflow.training.digits import DigitRun
from starts import starting

PARENT = DigitRun(method="prune")
#: Another valid value of every field.
OTHER = {
    "avoid_dead": True,
    "dataset": "mnist-5k",
    "model": "mlp",
    "method": "rigl",
    "init": "liu",
    "init_base": "kaiming_normal",
    "sparsity": 0.5,
    "allocation": "erk",
    "mask_from": PARENT,
    "block": "4x1",
    "seed": 1,
    "steps": 8000,
    "batch_size": 64,
    "learning_rate": 0.1,
    "momentum": 0.5,
    "weight_decay": 0.0,
    "drop_fraction": 0.1,
    "update_every": 100,
    "prune_begin": 2000,
    "prune_end": 6000,
    "prune_every": 50,
    "log_every": 100,
    "eval_every": 100,
    "checkpoint_every": 100,
    "engine": "masked",
    "rewind_step": 1000,
    "control": "signs",
    "start_noise": 0.5,
    "init_seed": 0,
    "schedule": "step",
    "snapshots": (100, 200),
    "holdout": 1000,
}


def test_every_field_is_in_the_hash() -> None:
    assert set(OTHER) == {field.name for field in fields(DigitRun)}
    configs = [DigitRun(), *(DigitRun(**{name: value}) for name, value in OTHER.items())]
    assert len({config.hash for config in configs}) == len(configs)
    assert len({config.name for config in configs}) == len(configs)


def test_hash_is_stable_over_versions_and_processes() -> None:
    """Stored names must not move. Oracle: SHA-256 of the texts '{}' and '{"seed": 3}', by sha256sum."""
    assert DigitRun().hash == "44136fa355b3"
    assert DigitRun(seed=3).name == f"scratch-sparse-lenet5-s3-{DigitRun(seed=3).hash}"
    config = DigitRun(**OTHER | {"mask_from": pruning_parent(DigitRun(**OTHER | {"mask_from": None}))})
    code = f"from sparseflow.training.digits import DigitRun; print(DigitRun.from_dict({config.to_dict()!r}).hash)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == config.hash


def test_hash_of_mask_from_differs_from_that_of_the_parent_itself() -> None:
    assert len({DigitRun(mask_from=PARENT.with_(seed=s)).hash for s in range(3)} | {PARENT.hash}) == 4


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"weight_decay": 0}, {"weight_decay": 0.0}),
        ({"sparsity": -0.0}, {"sparsity": 0.0}),
        ({"learning_rate": 1}, {"learning_rate": 1.0}),
        ({"steps": 9000.0}, {"steps": 9000}),
        ({"seed": np.int64(2), "sparsity": np.float64(0.5)}, {"seed": 2, "sparsity": 0.5}),
    ],
)
def test_equal_configs_have_one_name(one: dict[str, float], two: dict[str, float]) -> None:
    assert DigitRun(**one) == DigitRun(**two)
    assert DigitRun(**one).name == DigitRun(**two).name


@pytest.mark.parametrize("config", [DigitRun(), *demo(seeds=1)], ids=lambda config: config.name)
def test_json_round_trip(config: DigitRun) -> None:
    again = DigitRun.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.name == config.name


def test_unknown_field_is_an_error() -> None:
    with pytest.raises(ValueError, match="fields this version does not know: colour, size"):
        DigitRun.from_dict({"size": 1, "colour": 2})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsity": 95}, r"sparsity must be in \[0, 1\), got 95. For 95% zeros write 0.95, not 95"),
        ({"sparsity": 1.0}, "sparsity must be in"),
        ({"sparsity": -0.1}, "sparsity must be in"),
        ({"sparsity": float("nan")}, "sparsity must be in"),
        ({"method": "rigel"}, "method must be one of dense, prune, lottery, .*, got 'rigel'"),
        ({"init": "ours"}, "init must be one of dense, liu, sparse, live, got 'ours'"),
        ({"init_base": "he"}, "init_base must be one of kaiming_normal, .*, got 'he'"),
        ({"allocation": "ERK"}, "allocation must be one of uniform, er, erk, got 'ERK'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"update_every": 0}, "update_every must be at least 1"),
        ({"prune_every": 0}, "prune_every must be at least 1"),
        ({"log_every": -1}, "log_every must be at least 1, got -1"),
        ({"eval_every": 0}, "eval_every must be at least 1"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1"),
        ({"steps": 1.5}, "steps must be a whole number, got 1.5"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"learning_rate": float("inf")}, "learning_rate must be positive"),
        ({"weight_decay": -1e-4}, "weight_decay must be at least 0"),
        ({"weight_decay": float("nan")}, "weight_decay must be at least 0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"drop_fraction": 1.1}, r"drop_fraction must be in \[0, 1\], got 1.1"),
        ({"drop_fraction": float("nan")}, "drop_fraction must be in"),
        ({"method": "prune", "steps": 6000}, "begin 3000, end 7000, 6000 steps. Lower prune_begin and prune_end"),
        ({"method": "prune", "prune_begin": 7001}, "pruning must begin and end within the run"),
        ({"method": "prune", "prune_begin": 0, "prune_end": 0}, "pruning must begin and end within the run"),
        ({"mask_from": DigitRun()}, "mask_from must be a run of method 'prune', got 'scratch'"),
        ({"method": "dense", "mask_from": PARENT}, r"method 'dense' starts from no mask. Leave mask_from \(--pruned"),
        ({"method": "prune", "mask_from": PARENT}, "method 'prune' starts from no mask"),
        ({"model": "mlp", "mask_from": PARENT}, "a run of the same model: it has 'lenet5', this run 'mlp'"),
        ({"sparsity": 0.9, "mask_from": PARENT}, "a run of the same sparsity: it has 0.95, this run 0.9"),
    ],
)
def test_errors(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitRun(**changes)


def test_all_methods_of_a_seed_share_one_pruning_run() -> None:
    """Also with other inits, bases, allocations and update periods; another seed, model or schedule has another."""
    changes = [{}, {"init": "liu"}, {"init_base": "kaiming_normal"}, {"allocation": "erk"}, {"update_every": 7}]
    changes += [{"drop_fraction": 0.1}, {"mask_from": PARENT}]
    parents = {pruning_parent(DigitRun(method=m, **c)) for m in starting("masked") for c in changes}
    assert parents == {PARENT}
    for name in ("dataset", "model", "sparsity", "seed", "steps", "batch_size", "learning_rate", "prune_every"):
        assert pruning_parent(DigitRun(**{name: OTHER[name]})).changed() == {"method": "prune", name: OTHER[name]}


def test_name_says_what_the_run_is() -> None:
    """Method, init where there is one, model, seed, hash."""
    for config, start in (
        (DigitRun(method="rigl", init="liu", seed=4), "rigl-liu-lenet5-s4-"),
        (DigitRun(method="dense", model="lenet5-small"), "dense-lenet5-small-s0-"),
        (DigitRun(method="prune", model="mlp", seed=-1), "prune-mlp-s-1-"),
    ):
        assert config.name.startswith(start)
        assert len(config.name) == len(start) + 12


def test_every_method_and_scheme_and_base_can_be_asked_for() -> None:
    for method in starting("dense", "masked"):
        assert DigitRun(method=method).method == method
    for method in starting("ticket"):
        assert DigitRun(method=method, mask_from=PARENT).method == method
    assert {DigitRun(init=scheme).init for scheme in SCHEMES} == set(SCHEMES)
    assert {DigitRun(init_base=base).init_base for base in INITIALIZERS} == set(INITIALIZERS)


@pytest.mark.parametrize("steps", [1, 2, 3, 30, 1000])
@pytest.mark.parametrize("quick", [False, True])
def test_the_demo_is_valid_at_any_length(steps: int, quick: bool) -> None:
    configs = demo(seeds=2, steps=steps, quick=quick)
    assert len(configs) == len(set(configs)) == 30
    assert {config.steps for config in configs} == {steps if steps < 1000 or not quick else 250}
    assert {config.mask_from for config in configs} <= {None, *configs}


@pytest.mark.parametrize("changes", [{"seeds": 0}, {"steps": 0}])
def test_the_demo_needs_seeds_and_steps(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="seeds and steps must be at least 1"):
        demo(**changes)
