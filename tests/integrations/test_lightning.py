"""Lightning's Trainer with the callback, against an own loop that does the same, bit for bit."""

from __future__ import annotations

import copy
import csv
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

import sparseflow as sf

lightning = pytest.importorskip(
    "lightning", reason='Lightning is not installed: pip install "sparseflow[integrations]"'
)
from lightning.pytorch.callbacks import (  # noqa: E402
    Callback,
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)

import lightning_digits  # noqa: E402
from lightning_digits import Lit, loader, masks_of, trainer  # noqa: E402
from pages import run_page  # noqa: E402
from sparseflow.integrations.lightning import SparsifierCallback  # noqa: E402
from tiny import batch  # noqa: E402

# Lightning's own advice, and a name that torch has deprecated since.
pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
]
METHODS: dict[str, Callable[[], sf.updaters.Method]] = {
    "static": sf.Static,
    "set": lambda: sf.SET(update_every=3, update_until=9, schedule="constant"),
    "rigl": lambda: sf.RigL(update_every=3, update_until=9, schedule="constant"),
    "snfs": lambda: sf.SNFS(update_every=3, update_until=9, schedule="constant"),
    "gmp": lambda: sf.GMP(sparsity=0.9, begin=2, end=8, update_every=3),
}


def end_of(module: nn.Module, optimizers: list[torch.optim.Optimizer], masks: sf.Masks) -> dict[str, Tensor]:
    """Copies of weights, optimizer states and masks, by name."""
    found = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    for name, parameter in module.named_parameters():
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    found[f"{name} {key}"] = value.clone()
    return found | {f"mask {name}": mask.clone() for name, mask in masks.items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def assert_sparse(weights: dict[str, Tensor], masks: sf.Masks) -> None:
    """Exactly zero off the masks, and not all zero on them."""
    for name, mask in masks.items():
        assert not weights[name][~mask].any(), name
        assert weights[name][mask].any(), name


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (1, 0.2), (2, 0.2)])
@pytest.mark.parametrize("name", METHODS)
def test_a_fit_equals_an_own_loop(name: str, accumulate: int, clip: float | None, precision: str) -> None:
    module = Lit()
    start = copy.deepcopy(module)
    masks = sf.dense_masks(module) if name == "gmp" else masks_of(module)
    callback = SparsifierCallback(masks, METHODS[name](), seed=0)
    fit = trainer(callback, accumulate_grad_batches=accumulate, gradient_clip_val=clip, precision=precision)
    fit.fit(module, loader())

    optimizer = start.configure_optimizers()
    own = sf.Sparsifier(start, optimizer, {key: mask.clone() for key, mask in masks.items()}, METHODS[name](), seed=0)
    for _ in range(3):
        for index in range(8):
            inputs, targets = batch(index)
            if index % accumulate == 0:
                optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                loss = F.cross_entropy(start.net(inputs), targets)
            (loss / accumulate).backward()
            if index % accumulate == accumulate - 1:
                own.mask_gradients_()
                if clip:
                    nn.utils.clip_grad_norm_(start.parameters(), clip)
                optimizer.step()
    assert callback.sparsifier is not None
    assert callback.sparsifier.step_count == own.step_count == 24 // accumulate
    assert name == "static" or any(not torch.equal(own.masks[key], masks[key]) for key in masks)
    assert_equal(end_of(module, fit.optimizers, callback.masks), end_of(start, [optimizer], own.masks))


class Manual(Lit):
    """Two optimizers, one for each end of the network, stepped by hand on one backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, data: list[Tensor], index: int) -> None:
        first, second = self.optimizers()
        first.zero_grad()
        second.zero_grad()
        self.manual_backward(F.cross_entropy(self.net(data[0]), data[1]))
        first.step()
        second.step()

    def configure_optimizers(self) -> Any:
        first = torch.optim.SGD(self.net[0].parameters(), lr=0.1, momentum=0.9)
        return [first, torch.optim.AdamW(self.net[3:].parameters(), lr=0.01)]


@pytest.mark.parametrize("name", ["set", "rigl", "snfs"])
def test_manual_optimization_with_two_optimizers_equals_an_own_loop(name: str) -> None:
    module = Manual()
    start = copy.deepcopy(module)
    masks = masks_of(module)
    callback = SparsifierCallback(masks, METHODS[name](), seed=0)
    fit = trainer(callback)
    fit.fit(module, loader())

    optimizers = start.configure_optimizers()
    own = sf.Sparsifier(start, optimizers, {key: mask.clone() for key, mask in masks.items()}, METHODS[name](), seed=0)
    for step in range(24):
        inputs, targets = batch(step % 8)
        for optimizer in optimizers:
            optimizer.zero_grad()
        F.cross_entropy(start.net(inputs), targets).backward()
        for optimizer in optimizers:
            optimizer.step()
    assert callback.sparsifier is not None
    assert callback.sparsifier.step_count == own.step_count == 24
    assert_equal(end_of(module, fit.optimizers, callback.masks), end_of(start, optimizers, own.masks))


def test_an_optimizer_without_masked_weights_does_not_count() -> None:
    """The second optimizer steps half as often; its weights are dense."""

    class Alternate(Manual):
        def training_step(self, data: list[Tensor], index: int) -> None:
            first, second = self.optimizers()
            for each in (first, second) if index % 2 else (first,):
                each.zero_grad()
                self.manual_backward(F.cross_entropy(self.net(data[0]), data[1]))
                each.step()

    module = Alternate()
    masks = {"net.0.weight": masks_of(module)["net.0.weight"]}
    callback = SparsifierCallback(masks, sf.Static(), seed=0)
    trainer(callback).fit(module, loader())
    assert callback.sparsifier is not None
    assert callback.sparsifier.step_count == 24


# --- checkpoints ------------------------------------------------------------------------------------------------------


def run(folder: Path, what: str) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(sf.__file__).parent.parent), str(Path(lightning_digits.__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, lightning_digits.__file__, str(folder), what]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_run_that_was_killed_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    """A real SIGKILL in the fourth epoch, under accumulation, clipping, bf16 and an EMA; the oracle was left alone."""
    ends = {}
    for what, code in (("alone", 0), ("killed", -9), ("resumed", 0)):
        done = run(tmp_path / ("alone" if what == "alone" else "other"), what)
        assert done.returncode == code, done.stderr
    for what, folder in (("alone", "alone"), ("resumed", "other")):
        ends[what] = torch.load(tmp_path / folder / f"{what}.ckpt", weights_only=True)
    assert not (tmp_path / "other" / "killed.ckpt").exists()
    alone, resumed = ends["alone"], ends["resumed"]
    one, other = alone["callbacks"]["SparsifierCallback"], resumed["callbacks"]["SparsifierCallback"]
    assert one["step_count"] == other["step_count"] == 24
    assert_equal(one["masks"], other["masks"])
    assert torch.equal(one["generator"], other["generator"])
    assert_equal(alone["state_dict"], resumed["state_dict"])
    assert_sparse(alone["state_dict"], one["masks"])
    for key, state in alone["optimizer_states"][0]["state"].items():
        assert torch.equal(state["momentum_buffer"], resumed["optimizer_states"][0]["state"][key]["momentum_buffer"])
    first = torch.load(tmp_path / "other" / "checkpoints" / "last.ckpt", weights_only=True)
    assert first["callbacks"]["SparsifierCallback"]["step_count"] == 24  # the resumed run wrote its own


def test_two_processes_keep_the_same_masks(tmp_path: Path) -> None:
    """Oracle: one process on batches of both halves, to what sums in another order leave."""
    done = run(tmp_path, "ddp")
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["ranks"] == second["ranks"] == 2
    assert first["steps"] == 8
    assert_equal(first["masks"], second["masks"])
    assert_equal(first["weights"], second["weights"])
    assert_sparse(first["weights"], first["masks"])

    module = Lit()
    method = sf.RigL(update_every=2, update_until=6, schedule="constant")
    callback = SparsifierCallback(masks_of(module), method, seed=0)
    data = loader().dataset
    both = DataLoader(
        data, batch_size=16, sampler=DistributedSampler(data, num_replicas=1, rank=0)
    )  # as Lightning deals
    trainer(callback, max_epochs=2, gradient_clip_val=0.5).fit(module, both)
    assert_equal(dict(callback.masks), first["masks"])
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.detach(), first["weights"][name], rtol=1e-4, atol=1e-5)


def fitted(folder: Path, **options: Any) -> tuple[Lit, SparsifierCallback, Path]:
    module = Lit()
    callback = SparsifierCallback(masks_of(module), METHODS["rigl"](), seed=0)
    saved = ModelCheckpoint(folder, filename="one", enable_version_counter=False, **options)
    trainer(callback, saved).fit(module, loader())
    return module, callback, folder / "one.ckpt"


def test_a_checkpoint_is_validated_and_tested_without_a_fit(tmp_path: Path) -> None:
    module, callback, path = fitted(tmp_path)
    fresh, other = Lit(), SparsifierCallback(masks_of(Lit(), 0.5), sf.Static(), seed=1)
    with pytest.raises(RuntimeError, match=r"no masks yet: they are made when trainer\.fit\(\.\.\.\) starts"):
        _ = other.masks
    found = trainer(other).test(fresh, loader(), ckpt_path=path, verbose=False)
    assert found == trainer().validate(module, loader(), verbose=False)
    assert_equal(dict(other.masks), dict(callback.masks))
    assert_sparse(dict(fresh.named_parameters()), other.masks)
    assert_equal(sf.masks_of(Lit.load_from_checkpoint(path).net), {k[4:]: m for k, m in callback.masks.items()})


def test_a_checkpoint_without_callbacks_has_its_zeros(tmp_path: Path) -> None:
    _, callback, path = fitted(tmp_path, save_weights_only=True)
    state = torch.load(path, weights_only=True)["state_dict"]
    assert_sparse(state, callback.masks)


def test_a_second_fit_goes_on_and_another_module_starts_anew() -> None:
    module = Lit()
    masks = masks_of(module)
    callback = SparsifierCallback(masks, METHODS["rigl"](), seed=0)
    fit = trainer(callback, max_epochs=1)
    fit.fit(module, loader())
    moved = {name: mask.clone() for name, mask in callback.masks.items()}
    assert any(not torch.equal(moved[name], masks[name]) for name in masks)
    fit.fit_loop.max_epochs = 2
    fit.fit(module, loader())
    assert callback.sparsifier is not None
    assert callback.sparsifier.step_count == 16
    other = Lit()
    trainer(callback, max_epochs=0).fit(other, loader())
    assert_equal(dict(callback.masks), masks)


def test_a_fit_that_raised_can_be_called_again() -> None:
    class Fragile(Lit):
        breaks = True

        def training_step(self, data: list[Tensor], index: int) -> Tensor:
            if index == 5 and self.breaks:
                raise ArithmeticError("a broken batch")
            return super().training_step(data, index)

    module = Fragile()
    callback = SparsifierCallback(masks_of(module), METHODS["rigl"](), seed=0)
    with pytest.raises(ArithmeticError, match="a broken batch"):
        trainer(callback).fit(module, loader())
    module.breaks = False
    trainer(callback, max_epochs=1).fit(module, loader())
    assert callback.sparsifier is not None
    assert callback.sparsifier.step_count == 13
    assert_sparse(dict(module.named_parameters()), callback.masks)


# --- averages ---------------------------------------------------------------------------------------------------------

AVERAGES: dict[str, Callable[[], Callback]] = {
    "ema": lambda: EMAWeightAveraging(decay=0.9),
    "mean": WeightAveraging,
    "swa": lambda: StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1, annealing_epochs=1),
}


class Looks(Lit):
    """Counts nonzero weights at each validation."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, int]] = []

    def validation_step(self, data: list[Tensor], index: int) -> None:
        self.seen.append({name: int((parameter != 0).sum()) for name, parameter in self.named_parameters()})


@pytest.mark.parametrize("first", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", AVERAGES)
def test_averages_are_sparse_in_validation_in_checkpoints_and_at_the_end(
    name: str, first: bool, tmp_path: Path
) -> None:
    module, average = Looks(), AVERAGES[name]()
    callback = SparsifierCallback(masks_of(module), METHODS["rigl"](), seed=0)
    saved = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    callbacks = [callback, average] if first else [average, callback]
    trainer(*callbacks, saved, num_sanity_val_steps=0).fit(module, loader(), loader(1))
    counts = {key: int(mask.sum()) for key, mask in callback.masks.items()}
    assert len(module.seen) == 3
    for seen in module.seen:
        assert all(seen[key] <= count for key, count in counts.items())
    assert_sparse(dict(module.named_parameters()), callback.masks)
    assert len(list(tmp_path.glob("*.ckpt"))) == 3
    for path in tmp_path.glob("*.ckpt"):
        state = torch.load(path, weights_only=True)
        masks = state["callbacks"]["SparsifierCallback"]["masks"]
        assert_sparse(state["state_dict"], masks)
        if name == "swa":
            assert_sparse(state["callbacks"]["StochasticWeightAveraging"]["average_model_state"], masks)
        else:
            assert_sparse(state["current_model_state"], masks)


@pytest.mark.parametrize("name", ["ema", "mean"])
def test_an_average_is_that_of_the_weights_since_they_grew(name: str) -> None:
    """Oracle: the recurrence in float64, set to zero wherever the mask was zero at any step since."""
    module, average = Lit(), AVERAGES[name]()
    callback = SparsifierCallback(masks_of(module), METHODS["rigl"](), seed=0)
    path: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    class Follow(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            weights = {key: parameter.detach().double() for key, parameter in module.named_parameters()}
            path.append((weights, {key: mask.clone() for key, mask in callback.masks.items()}))

    trainer(average, callback, Follow()).fit(module, loader())
    expected: dict[str, Tensor] = {}
    for step, (weights, masks) in enumerate(path):
        share = 1 / (step + 1) if name == "mean" else 0.1
        for key, weight in weights.items():
            mean = expected.get(key, weight).where(masks.get(key, torch.tensor(True)), 0.0)
            expected[key] = mean + share * (weight - mean)
    for key, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.double(), expected[key], rtol=1e-5, atol=1e-6)  # sums in float32
    assert_sparse(dict(module.named_parameters()), callback.masks)


def test_averages_of_a_network_with_batch_norm_are_sparse_at_the_end() -> None:
    """Lightning goes over the data once more then, and steps at the end of it; see findings/."""

    class Normed(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net.insert(1, nn.BatchNorm2d(3))

    module = Normed()
    callback = SparsifierCallback(masks_of(module), METHODS["rigl"](), seed=0)
    trainer(callback, AVERAGES["swa"]()).fit(module, loader())
    assert callback.sparsifier is not None
    assert callback.sparsifier.step_count == 25
    assert_sparse(dict(module.named_parameters()), callback.masks)


def test_an_average_of_any_callback_is_cut_when_it_is_put_in_place() -> None:
    class Noise(Callback):
        """Puts dense weights in place, as an average would whose maker is unknown."""

        def on_validation_epoch_start(self, trainer: Any, module: Any) -> None:
            self.held = {key: parameter.detach().clone() for key, parameter in module.named_parameters()}
            for parameter in module.parameters():
                parameter.data.add_(1.0)

        def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
            for key, parameter in module.named_parameters():
                parameter.data.copy_(self.held[key])

        def on_train_end(self, trainer: Any, module: Any) -> None:
            for parameter in module.parameters():
                parameter.data.add_(1.0)

    module = Looks()
    callback = SparsifierCallback(masks_of(module), sf.Static(), seed=0)
    trainer(callback, Noise()).fit(module, loader(), loader(1))
    for seen in module.seen:
        assert all(seen[key] == int(mask.sum()) for key, mask in callback.masks.items())
    assert_sparse(dict(module.named_parameters()), callback.masks)


# --- logs, other ways in, errors --------------------------------------------------------------------------------------


def test_rows_are_logged_through_the_module(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    module = Lit()
    callback = SparsifierCallback(masks_of(module), METHODS["rigl"](), seed=0)
    logger = CSVLogger(tmp_path, name="", version="")
    trainer(callback, logger=logger, log_every_n_steps=4).fit(module, loader())
    assert callback.record is not None
    assert [row["step"] for row in callback.record.rows] == [4, 8, 12, 16, 20, 24]
    with (tmp_path / "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row["sparseflow/sparsity"]]
    assert [int(row["step"]) for row in logged] == [3, 7, 11, 15, 19, 23]  # Lightning counts from 0
    for row, made in zip(logged, callback.record.rows, strict=True):
        for name in ("gradient_norm", "swapped", "sparsity"):
            assert math.isclose(float(row[f"sparseflow/{name}"]), made[name], rel_tol=1e-6)  # logged in float32


def test_layers_that_are_made_late_get_masks_from_a_function() -> None:
    class Late(Lit):
        def configure_model(self) -> None:
            self.extra = nn.Linear(4, 4) if not hasattr(self, "extra") else self.extra

        def training_step(self, data: list[Tensor], index: int) -> Tensor:
            return F.cross_entropy(self.extra(self.net(data[0])), data[1])

    callback = SparsifierCallback(masks_of, sf.Static(), seed=0)
    module = Late()
    trainer(callback).fit(module, loader())
    assert "extra.weight" in callback.masks
    assert_sparse(dict(module.named_parameters()), callback.masks)


def test_a_method_is_made_of_the_number_of_steps() -> None:
    callback = SparsifierCallback(masks_of, lambda total_steps: sf.RigL(total_steps=total_steps), seed=0)
    trainer(callback, accumulate_grad_batches=2).fit(Lit(), loader())
    assert callback.sparsifier is not None
    assert callback.sparsifier.method == sf.RigL(total_steps=12)


def test_a_trainer_of_pytorch_lightning_takes_it_too() -> None:
    older = pytest.importorskip("pytorch_lightning")

    class Older(older.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Lit().net

        training_step = Lit.training_step
        configure_optimizers = Lit.configure_optimizers
        momentum = 0.9

    ends = []
    for make, module in ((lightning.Trainer, Lit()), (older.Trainer, Older())):
        callback = SparsifierCallback(masks_of(module), METHODS["rigl"](), seed=0)
        fit = make(
            callbacks=[callback], accelerator="cpu", logger=False, enable_progress_bar=False, max_epochs=2,
            enable_model_summary=False, enable_checkpointing=False, log_every_n_steps=2,
        )  # fmt: skip
        fit.fit(module, loader())
        ends.append(end_of(module, fit.optimizers, callback.masks))
    assert_equal(*ends)


def test_the_search_for_a_learning_rate_comes_before(tmp_path: Path) -> None:
    from lightning.pytorch.tuner import Tuner

    class Rated(Lit):
        lr = 0.1

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)

    module = Rated()
    callback = SparsifierCallback(masks_of(module), METHODS["rigl"](), seed=0)
    fit = trainer(callback, default_root_dir=tmp_path)
    found = Tuner(fit).lr_find(module, loader(), num_training=10)
    assert found is not None
    fit.fit(module, loader())
    assert callback.sparsifier is not None
    assert callback.sparsifier.step_count == 24
    assert_sparse(dict(module.named_parameters()), callback.masks)


def test_wrong_things_end_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"masks must be a mapping of names or a function of the model, got 0\.9\."):
        SparsifierCallback(0.9, sf.Static(), seed=0)  # type: ignore[arg-type]
    endless = SparsifierCallback(masks_of, lambda total_steps: sf.RigL(total_steps=total_steps), seed=0)
    with pytest.raises(ValueError, match=r"this fit has no end\. Give the Trainer max_steps= or max_epochs="):
        trainer(endless, max_epochs=-1).fit(Lit(), loader())

    class Without(Lit):
        def configure_optimizers(self) -> None:
            return None

    module = Without()
    with (
        pytest.raises(ValueError, match=r"configure_optimizers of Without returned no optimizer, so there is no step"),
        pytest.warns(UserWarning, match="will run with no optimizer"),
    ):
        trainer(SparsifierCallback(masks_of(module), sf.Static(), seed=0)).fit(module, loader())
    with pytest.raises(ValueError, match=r"0\.weight"):  # names of the network inside, not of the module
        trainer(SparsifierCallback(masks_of(Lit().net), sf.Static(), seed=0)).fit(Lit(), loader())
    _, _, path = fitted(tmp_path)
    module = Lit()
    only = {"net.0.weight": masks_of(module)["net.0.weight"]}
    callback = SparsifierCallback(only, sf.SET(update_every=3, block=(3, 1)), seed=0)
    with pytest.raises(ValueError, match="block"):
        trainer(callback).fit(module, loader(), ckpt_path=path)


def test_without_lightning_one_sentence() -> None:
    code = (
        "import sys\nsys.modules['lightning'] = sys.modules['pytorch_lightning'] = None\n"
        "try:\n    import sparseflow.integrations.lightning\n"
        "except ImportError as error:\n    print(error)"
    )
    path = str(Path(sf.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    needed = 'sparseflow.integrations.lightning needs lightning: pip install "sparseflow[integrations]".'
    assert done.stdout.startswith(needed)


def test_the_page_on_lightning(tmp_path: Path) -> None:
    printed = run_page("lightning.md", tmp_path, after="assert float(trainer.callback_metrics['accuracy']) > 0.5")
    assert "Sparsifier: RigL(update_every=20, total_steps=160, schedule='cosine') after step 160" in printed
    assert "1 rank(s): all hold" in printed
