"""The sparse engine and the masked one train the same run: equal masks, losses within rounding."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparseflow.data.digits import load_dataset
from sparseflow.engine.stepper import Stepper
from sparseflow.training import run as train_module
from sparseflow.training.digits import DigitRun
from sparseflow.training.run import train
from sparseflow.training.runs import Run
from sparseflow.training.setup import set_up
from sparseflow.training.step import Trainer
from starts import at_start

BASE = DigitRun(
    dataset="mnist-5k",
    model="lenet5",
    batch_size=32,
    steps=200,
    learning_rate=0.02,
    update_every=40,
    prune_begin=20,
    prune_end=120,
    prune_every=20,
    log_every=10,
    eval_every=100,
    checkpoint_every=200,
)


def trained(config: DigitRun, root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, list[dict[str, Tensor]]]:
    """The run, and the masks after each update."""
    masks: list[dict[str, Tensor]] = []

    def watched(*arguments: object, **options: object) -> Trainer:
        setup = set_up(*arguments, **options)  # type: ignore[arg-type]
        sparsifier = setup.sparsifier
        sparsifier.after_update.append(
            lambda step, changes: masks.append({name: mask.clone() for name, mask in sparsifier.masks.items()})
        )
        return setup

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "set_up", watched)
        return train(config, root=root), masks


def values(run: Run, name: str) -> Tensor:
    return torch.tensor(run.metrics[run.metrics["name"] == name]["value"].tolist(), dtype=torch.float64)


@pytest.mark.parametrize(("method", "updates"), [("scratch", 0), ("set", 5), ("rigl", 5), ("prune", 6)])
def test_both_engines_take_the_same_way(
    method: str, updates: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal masks at every update, losses near each other over 200 steps.

    Both round in float32, 6e-8 of each number, in other orders. Training carries the difference on and lets it grow: a
    maximum or ReLU that flips moves one activation by no more than what was rounded. 1e-4 of the loss, a thousand times
    the rounding, is still far below what another mask or example does, which is a few per cent.
    """
    config = BASE.with_(method=method)
    sparse, sparse_masks = trained(config.with_(engine="sparse"), tmp_path, monkeypatch)
    masked, masked_masks = trained(config.with_(engine="masked"), tmp_path, monkeypatch)
    assert len(sparse_masks) == len(masked_masks) == updates
    for ours, theirs in zip(sparse_masks, masked_masks, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for name in ("train/loss", "flow/loss", "test/loss"):
        assert len(values(sparse, name)) >= 3
        torch.testing.assert_close(values(sparse, name), values(masked, name), rtol=1e-4, atol=0)
    assert values(sparse, "train/is_sparse").all()
    assert not values(masked, "train/is_sparse").any()


def test_pruning_starts_masked_and_goes_on_sparse(tmp_path: Path) -> None:
    """An MLP changes its engine at the first update that leaves 60 % of the weights or fewer; density is the oracle."""
    config = BASE.with_(method="prune", model="mlp", steps=130, log_every=1, eval_every=130, checkpoint_every=130)
    is_sparse = values(train(config, root=tmp_path), "train/is_sparse")
    cubic = [0.95 * (1 - (1 - k / 5) ** 3) for k in range(6)]  # after the update at step 20 + 20 k
    first = next(20 + 20 * k for k, sparsity in enumerate(cubic) if sparsity >= 0.4)
    assert is_sparse.tolist() == [0.0] * first + [1.0] * (130 - first)


def test_a_dense_lenet5_is_trained_by_the_engine(tmp_path: Path) -> None:
    """Its convolutions are so small that the engine's kernels win at any density."""
    config = BASE.with_(method="dense", steps=20, checkpoint_every=20)
    assert values(train(config, root=tmp_path), "train/is_sparse").all()


@pytest.mark.parametrize(
    ("changes", "is_sparse"),
    [
        ({}, True),
        ({"sparsity": 0.5}, False),
        ({"sparsity": 0.5, "engine": "sparse"}, True),
        ({"engine": "masked"}, False),
        ({"method": "dense"}, False),
        ({"method": "snfs"}, False),
    ],
)
def test_auto_is_sparse_where_few_weights_are_active(
    changes: dict[str, str | float], is_sparse: bool, tmp_path: Path
) -> None:
    config = BASE.with_(**changes)
    engine = Stepper(at_start(config, load_dataset("mnist-5k"), root=tmp_path).sparsifier, config.engine)
    assert engine.is_sparse == is_sparse


def test_without_numba_auto_is_masked_and_sparse_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("sparseflow.engine")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    setup = at_start(BASE, load_dataset("mnist-5k"), root=tmp_path)
    assert not Stepper(setup.sparsifier, "auto").is_sparse
    with pytest.raises(ModuleNotFoundError, match="pip install numba"):
        Stepper(setup.sparsifier, "sparse")


def test_snfs_needs_dense_gradients() -> None:
    with pytest.raises(ValueError, match=r"snfs looks at the dense gradient of every step.*write engine='masked'"):
        BASE.with_(method="snfs", engine="sparse")


def test_the_default_engine_leaves_names_of_runs_as_they_were() -> None:
    assert DigitRun(engine="auto").changed() == {}
    assert DigitRun(engine="masked").name != DigitRun().name
