"""The callback and the mixin in the real Trainer: once, bit for bit, with the masks that belong to the weights."""

from __future__ import annotations

import copy
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")

from transformers import AutoModelForCausalLM, Trainer, TrainerCallback

import trainer_runs as runs
from equal import same
from pages import python_blocks
from processes import run_ranks
from sparseflow.integrations.transformers import STATE, SparsifierCallback, save_pretrained
from sparseflow.state_file import read_checkpoint


@pytest.fixture(autouse=True)
def _quiet_and_alone() -> Iterator[None]:
    """One thread, as in the processes that are killed; warnings of the Trainer's own are none of ours."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(transformers|accelerate|torch)\.")
        yield
    torch.set_num_threads(threads)


def make(folder: Path, callback: Any, *others: Any, cls: type[Trainer] = runs.SparseTrainer, **changes: Any) -> Trainer:
    settings = {"model": runs.network(), "train_dataset": runs.data()}
    for name in [*settings, "model_init", "eval_dataset", "optimizers"]:
        if name in changes:
            settings[name] = changes.pop(name)
    if "model_init" in settings:
        del settings["model"]
    return cls(args=runs.arguments(folder, **changes), callbacks=[callback, *others], **settings)


# -- the run of an own loop ------------------------------------------------------------------------------------------


def test_a_training_is_that_of_an_own_loop_with_a_sparsifier(tmp_path: Path) -> None:
    """Gradients masked, then clipped, masks moved by the dense gradient: the same weights and masks as by hand."""
    rows, model = runs.data(count=80), runs.network(dropout=0.0)
    by_hand = copy.deepcopy(model)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.5, momentum=0.9)
    method = sf.RigL(update_every=3, total_steps=10, schedule="constant")
    sparsifier = sf.Sparsifier(by_hand, optimizer, sf.magnitude_masks(by_hand, 0.9), method, seed=3)
    norms = []
    for step in range(10):
        batches = [rows[step * 8 : step * 8 + 4], rows[step * 8 + 4 : step * 8 + 8]]
        optimizer.zero_grad()
        for batch in batches:
            ids = torch.stack([row["input_ids"] for row in batch])
            (by_hand(input_ids=ids, labels=ids).loss / 2).backward()
        sparsifier.mask_gradients_()
        norms.append(torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 0.5).item())
        optimizer.step()

    theirs = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    rate = torch.optim.lr_scheduler.LambdaLR(theirs, lambda _: 1.0)
    callback = SparsifierCallback(runs.magnitude, method)
    trainer = make(
        tmp_path,
        callback,
        model=model,
        optimizers=(theirs, rate),
        train_dataset=rows,
        max_steps=10,
        gradient_accumulation_steps=2,
        max_grad_norm=0.5,
        logging_steps=1,
        train_sampling_strategy="sequential",
    )
    trainer.train()
    assert min(norms) > 0.5  # each step was clipped
    assert [row["grad_norm"] for row in trainer.state.log_history[:-1]] == pytest.approx(norms, rel=1e-4)
    for name, mask in sparsifier.masks.items():
        assert torch.equal(callback.masks[name], mask), name
        torch.testing.assert_close(model.get_parameter(name), by_hand.get_parameter(name), rtol=1e-3, atol=1e-5)
    assert not torch.equal(callback.masks["lm_head.weight"], runs.magnitude(runs.network())["lm_head.weight"])


def test_without_the_mixin_the_clipped_norm_is_that_of_a_dense_network_and_a_warning_says_so(tmp_path: Path) -> None:
    """The gap that the mixin closes, in numbers; without clipping there is nothing to warn of."""

    class ActiveNorm(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            parts = [
                weight.grad * callback.masks.get(name, torch.ones(())) for name, weight in model.named_parameters()
            ]
            norms.append(torch.stack([part.norm() for part in parts]).norm().item())

    for cls, expected in ((runs.SparseTrainer, pytest.approx([0.01] * 3, rel=1e-3)), (Trainer, None)):
        norms: list[float] = []
        callback = SparsifierCallback(runs.magnitude)
        trainer = make(tmp_path, callback, ActiveNorm(), cls=cls, max_steps=3, max_grad_norm=0.01, save_strategy="no")
        if expected is None:
            with pytest.warns(
                UserWarning, match=r"SparseTrainerMixin, Trainer\): pass, and use it; or give max_grad_norm=0"
            ):
                trainer.train()
            assert max(norms) < 0.007
        else:
            trainer.train()
            assert norms == expected
    make(
        tmp_path, SparsifierCallback(runs.magnitude), cls=Trainer, max_steps=3, max_grad_norm=0, save_strategy="no"
    ).train()


def test_steps_that_a_scaler_skips_are_not_counted(tmp_path: Path) -> None:
    """float16 with a real GradScaler: accelerate makes none on a CPU and trains in float32, so it is given one."""
    callback = SparsifierCallback(runs.magnitude, sf.RigL(update_every=2, schedule="constant", update_until=10))
    trainer = make(tmp_path, callback, fp16=True, save_strategy="no")
    assert trainer.accelerator.scaler is None
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**26)
    trainer.accelerator.native_amp = True
    trainer.train()
    skipped = 26 - math.log2(trainer.accelerator.scaler.get_scale())  # each one halves the scale
    assert skipped > 2
    assert callback.sparsifier is not None
    assert callback.sparsifier.step_count == trainer.state.global_step - skipped
    for name, mask in callback.masks.items():
        assert not trainer.model.get_parameter(name)[~mask].any(), name
        assert not torch.equal(mask, runs.magnitude(runs.network())[name]), name
    assert sf.sparsity_of(callback.masks) == pytest.approx(0.9, abs=1e-4)


# -- killed and continued --------------------------------------------------------------------------------------------


def test_a_killed_run_ends_bit_for_bit_as_one_left_alone(tmp_path: Path) -> None:
    """A real SIGKILL between two checkpoints, with accumulation, bf16, dropout and RigL."""
    command = [sys.executable, runs.__file__, str(tmp_path / "killed")]
    killed = subprocess.run([*command, "13"], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = subprocess.run([*command, "resume"], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    alone = runs.accumulated_bf16(tmp_path / "alone")
    same(torch.load(tmp_path / "killed" / "end.pt", weights_only=True), alone)
    assert alone["sparsifier"]["step_count"] == 20
    assert alone["sparsifier"]["last_update"] == 15


@pytest.mark.parametrize("cls", [runs.SparseTrainer, Trainer], ids=["mixin", "plain"])
@pytest.mark.parametrize("where", [True, "path"])
def test_resuming_by_flag_and_by_path(tmp_path: Path, cls: type[Trainer], where: Any) -> None:
    """Gradual pruning from a dense network; stopped by hand, continued by another Trainer object."""

    def gradual(total_steps: int) -> sf.GMP:
        return sf.GMP(sparsity=0.9, begin=2, end=total_steps - 5, update_every=2)

    options: dict[str, Any] = {"cls": cls, "max_grad_norm": 1.0 if cls is runs.SparseTrainer else 0.0}
    whole = SparsifierCallback(sf.dense_masks, gradual)
    alone = make(tmp_path / "alone", whole, **options)
    alone.train()
    checkpoint = tmp_path / "alone" / "checkpoint-10"
    if where == "path" and cls is runs.SparseTrainer:
        checkpoint = shutil.copytree(checkpoint, tmp_path / "elsewhere")  # type: ignore[assignment]
    elif where is True:
        for step in (15, 20):
            shutil.rmtree(tmp_path / "alone" / f"checkpoint-{step}")
    callback = SparsifierCallback(sf.dense_masks, gradual)
    trainer = make(tmp_path / "alone", callback, **options)
    trainer.train(resume_from_checkpoint=True if where is True else str(checkpoint))
    same(runs.end(trainer, callback), runs.end(alone, whole))
    assert sf.sparsity_of(callback.masks) == pytest.approx(0.9, abs=1e-4)


def test_a_checkpoint_of_another_folder_needs_the_mixin(tmp_path: Path) -> None:
    make(tmp_path / "a", SparsifierCallback(runs.magnitude), cls=Trainer, max_steps=5, max_grad_norm=0).train()
    trainer = make(tmp_path / "b", SparsifierCallback(runs.magnitude), cls=Trainer, max_grad_norm=0)
    with pytest.raises(
        FileNotFoundError, match=r"from another checkpoint than .*b/checkpoint-5, and .*SparseTrainerMixin"
    ):
        trainer.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-5"))


def test_another_run_in_the_same_place_is_not_taken_for_the_checkpoint(tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 2)):
        make(
            tmp_path / folder, SparsifierCallback(runs.magnitude), cls=Trainer, max_steps=5, max_grad_norm=0, seed=seed
        ).train()
    trainer = make(tmp_path / "b", SparsifierCallback(runs.magnitude), cls=Trainer, max_grad_norm=0)
    with pytest.raises(FileNotFoundError, match="from another checkpoint than"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-5"))


def test_a_run_that_has_ended_is_warned_of(tmp_path: Path) -> None:
    make(tmp_path, SparsifierCallback(runs.magnitude), max_steps=5).train()
    trainer = make(tmp_path, SparsifierCallback(runs.magnitude), max_steps=5)
    with pytest.warns(
        UserWarning, match=r"has ended, at step 5 of max_steps=5, .* Use what it saved, or raise max_steps"
    ):
        trainer.train(resume_from_checkpoint=True)


def test_two_processes_keep_the_same_masks_and_resume(tmp_path: Path) -> None:
    """DDP by torchrun: one of them writes, both read; stopped by hand, equal to a run left alone."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", runs.__file__]
    for folder, what in (("alone", "two"), ("alone", "two-resume")):
        if what == "two-resume":
            before = torch.load(tmp_path / folder / "end-0.pt", weights_only=True)
            for step in (15, 20):
                shutil.rmtree(tmp_path / folder / f"checkpoint-{step}")
        done = subprocess.run([*command, str(tmp_path / folder), what], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    ends = [torch.load(tmp_path / "alone" / f"end-{rank}.pt", weights_only=True) for rank in (0, 1)]
    same(ends[0], ends[1])
    same(ends[0], before)
    assert ends[0]["sparsifier"]["step_count"] == 20


def test_two_processes_that_share_the_weights_take_the_steps_of_one_and_resume(tmp_path: Path) -> None:
    """FSDP2, with whole checkpoints and with those in parts; continued, equal to the last bit to a run left alone."""
    ends = {}
    for name in ("alone", "resumed"):
        done = run_ranks(runs.sharded, tmp_path, name, name == "resumed")
        assert [end.returncode for end in done] == [0, 0], done
        ends[name] = [torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)]
        for kind in runs.KINDS:
            for step in (15, 20):
                shutil.rmtree(tmp_path / kind / f"checkpoint-{step}")
    one, callback = runs.clipped(tmp_path / "one", 8)
    one.train()
    total = sum(mask.numel() for mask in callback.masks.values())
    for kind in runs.KINDS:
        alone, other = (end[kind] for end in ends["alone"])
        assert (alone["off"], other["off"]) == (0, 0)
        assert alone["part"] + other["part"] == total
        for end in (other, *(end[kind] for end in ends["resumed"])):
            same(end["weights"], alone["weights"])
            same(end["masks"], alone["masks"])
        same(alone["masks"], dict(callback.masks))
        exported = AutoModelForCausalLM.from_pretrained(tmp_path / kind / "out")
        same(dict(exported.state_dict()), alone["weights"])
        for name, weight in one.model.named_parameters():  # gradients of two halves add up in another order
            torch.testing.assert_close(alone["weights"][name], weight.detach(), rtol=0.0, atol=1e-5, msg=name)
    assert not torch.equal(callback.masks["lm_head.weight"], runs.magnitude(runs.network())["lm_head.weight"])


# -- checkpoints -----------------------------------------------------------------------------------------------------


def test_masks_are_beside_every_checkpoint_that_is_kept(tmp_path: Path) -> None:
    callback = SparsifierCallback(runs.magnitude, runs.rigl)
    trainer = make(tmp_path, callback, save_total_limit=2)
    trainer.train()
    kept = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert kept == ["checkpoint-15", "checkpoint-20"]
    for name in kept:
        state = read_checkpoint(tmp_path / name / STATE)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert state["step_count"] == int(name.split("-")[1])
        for weight, mask in state["masks"].items():
            assert not model.get_parameter(weight)[~mask].any()
    trainer.save_model(str(tmp_path / "final"))
    same(read_checkpoint(tmp_path / "final" / STATE)["masks"], {n: m.clone() for n, m in callback.masks.items()})


def test_the_best_model_comes_back_with_its_masks(tmp_path: Path) -> None:
    """The loss rises after the first checkpoints, since the learning rate is far too high: the best is an early one."""
    callback = SparsifierCallback(runs.magnitude, lambda total_steps: sf.RigL(update_every=1, schedule="constant"))
    trainer = make(
        tmp_path,
        callback,
        eval_dataset=runs.data()[:40],
        eval_strategy="steps",
        eval_steps=5,
        load_best_model_at_end=True,
        learning_rate=3.0,
        lr_scheduler_type="constant",
        warmup_steps=0,
    )
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.name != "checkpoint-20"
    state = read_checkpoint(best / STATE)
    for name, mask in state["masks"].items():
        assert torch.equal(callback.masks[name], mask), name
        assert not trainer.model.get_parameter(name)[~mask].any()
    last = read_checkpoint(tmp_path / "checkpoint-20" / STATE)["masks"]
    assert any(not torch.equal(last[name], mask) for name, mask in state["masks"].items())


# -- attached once ---------------------------------------------------------------------------------------------------


def test_training_twice_goes_on_from_the_masks(tmp_path: Path) -> None:
    """With an evaluation in between; the second run has its own steps, and begins where the masks were left."""
    callback = SparsifierCallback(lambda model: sf.random_masks(model, 0.9, seed=0), runs.rigl)
    trainer = make(tmp_path, callback, eval_dataset=runs.data()[:20], save_strategy="no")
    trainer.train()
    first, left = callback.sparsifier, {name: mask.clone() for name, mask in callback.masks.items()}
    before = trainer.evaluate()["eval_loss"]
    started = []

    class Start(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            started.append({name: mask.clone() for name, mask in callback.masks.items()})

    trainer.add_callback(Start())
    trainer.train()
    same(started[0], left)
    assert callback.sparsifier is not first
    assert callback.sparsifier is not None
    assert callback.sparsifier.step_count == 20
    assert trainer.evaluate()["eval_loss"] < before


def test_new_models_of_a_search_get_their_own_masks(tmp_path: Path) -> None:
    """``model_init`` makes a model for each ``train()``, as a hyper-parameter search does."""
    seeds = iter([9, 1, 2])
    callback = SparsifierCallback(runs.magnitude)
    trainer = make(tmp_path, callback, model_init=lambda: runs.network(next(seeds)), save_strategy="no", max_steps=3)
    for seed in (1, 2):
        trainer.train()
        assert callback.sparsifier is not None
        assert callback.sparsifier.model is trainer.model
        same({n: m.clone() for n, m in callback.masks.items()}, runs.magnitude(runs.network(seed)))


def test_steps_are_optimizer_steps_of_the_whole_training(tmp_path: Path) -> None:
    asked: list[int] = []

    def method(total_steps: int) -> sf.Static:
        asked.append(total_steps)
        return sf.Static()

    callback = SparsifierCallback(runs.magnitude, method)
    options = {"max_steps": -1, "num_train_epochs": 2, "gradient_accumulation_steps": 4, "save_strategy": "no"}
    make(tmp_path, callback, train_dataset=runs.data(count=80), **options).train()
    assert asked == [10]  # 2 epochs x 80 rows / (4 rows x 4 batches)
    assert callback.sparsifier is not None
    assert callback.sparsifier.step_count == 10


# -- logs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [runs.SparseTrainer, Trainer], ids=["mixin", "plain"])
def test_what_is_logged(tmp_path: Path, cls: type[Trainer]) -> None:
    method = sf.RigL(update_every=3, drop_fraction=0.2, schedule="constant", update_until=20, regrow=False)
    callback = SparsifierCallback(runs.magnitude, method)
    trainer = make(tmp_path, callback, cls=cls, max_grad_norm=0, save_strategy="no")
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    for row in rows:
        assert row["sparseflow/sparsity"] == pytest.approx(0.9, abs=1e-4)
        assert row["sparseflow/swapped"] in (
            pytest.approx(0.2, abs=0.01),
            pytest.approx(0.4, abs=0.02),
        )  # updates since
        if cls is runs.SparseTrainer:  # of masked gradients; else the Trainer's own norm is of dense ones
            assert row["sparseflow/gradient_norm"] == pytest.approx(row["grad_norm"], rel=1e-5)
        else:
            assert 0 < row["sparseflow/gradient_norm"] < row["grad_norm"]
    assert callback.record is not None
    assert [row["step"] for row in callback.record.rows] == [5, 10, 15, 20]


# -- export ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_converted", [False, True], ids=["masked", "engine"])
def test_an_exported_model_is_read_by_the_dense_class(tmp_path: Path, is_converted: bool) -> None:
    """Zeros and all: the same tensors as those of the masked model, under the same names, and nothing else."""
    model = runs.network()
    masks = sf.magnitude_masks(model, 0.9)
    sf.apply_masks_(model, masks)
    save_pretrained(sf.engine.convert(model, masks) if is_converted else model, tmp_path / "out")
    found, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
    same(dict(found.state_dict()), dict(model.state_dict()))
    assert sf.masks_of(found).keys() == masks.keys()
    assert all(torch.equal(mask, masks[name]) for name, mask in sf.masks_of(found).items())


def test_of_two_processes_the_first_exports(tmp_path: Path) -> None:
    """The other must not put its empty folder in the place of the model; tied weights are in the file once."""
    done = run_ranks(runs.exported, tmp_path)
    assert [end.returncode for end in done] == [0, 0], done
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    same(dict(found.state_dict()), dict(runs.network().state_dict()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "tied"]
    save_pretrained(runs.tied(), tmp_path / "alone")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "tied" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name


def test_a_second_export_replaces_the_first_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = runs.network(1), runs.network(2)
    save_pretrained(first, tmp_path / "out")
    (tmp_path / "out" / "of the first").touch()
    with monkeypatch.context() as patch:
        patch.setattr(type(second.config), "save_pretrained", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            save_pretrained(second, tmp_path / "out")
    assert (tmp_path / "out" / "of the first").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    save_pretrained(second, tmp_path / "out")
    assert not (tmp_path / "out" / "of the first").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    same(dict(found.state_dict()), dict(second.state_dict()))


def test_a_model_that_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"Linear has no save_pretrained, as models of transformers have\. Write torch"):
        save_pretrained(nn.Linear(2, 1), tmp_path / "out")


# -- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_callback_given_twice(tmp_path: Path) -> None:
    callback = SparsifierCallback(runs.magnitude)
    with pytest.raises(ValueError, match=r"given to the Trainer twice\. Write callbacks=\[callback\]"):
        make(tmp_path, callback, callback).train()
    with pytest.raises(ValueError, match=r"kept sparse by another Sparsifier already\. Give the Trainer one"):
        make(tmp_path, SparsifierCallback(runs.magnitude), SparsifierCallback(runs.magnitude)).train()


def test_a_model_without_prunable_layers(tmp_path: Path) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(16))

        def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": (self.scale * input_ids).mean()}

    with pytest.raises(ValueError, match="Plain has no prunable weight under these rules"):
        make(tmp_path, SparsifierCallback(runs.magnitude), model=Plain()).train()


def test_masks_of_another_model(tmp_path: Path) -> None:
    masks = sf.magnitude_masks(runs.network(hidden=48), 0.9)
    with pytest.raises(ValueError, match="shape"):
        make(tmp_path, SparsifierCallback(masks)).train()


def test_a_checkpoint_without_masks(tmp_path: Path) -> None:
    runs.SparseTrainer(
        model=runs.network(), args=runs.arguments(tmp_path, max_steps=5), train_dataset=runs.data()
    ).train()
    trainer = make(tmp_path, SparsifierCallback(runs.magnitude))
    with pytest.raises(FileNotFoundError, match=r"checkpoint-5 has no sparsifier\.pt: .*resume_from_checkpoint=PATH"):
        trainer.train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("masks", "method", "message"),
    [
        (0.9, None, r"masks must be a mapping of names or a function of the model, got 0\.9\. Write Sparsifier"),
        ({}, sf.Static, "method must be a method or a function of the number of optimizer steps, got <class"),
        ({}, 100, "method must be a method or a function of the number of optimizer steps, got 100"),
    ],
)
def test_wrong_arguments(masks: Any, method: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        SparsifierCallback(masks, method)


def test_before_any_training() -> None:
    with pytest.raises(RuntimeError, match=r"Call trainer\.train\(\) first"):
        _ = SparsifierCallback({}).masks


def test_a_library_that_is_missing() -> None:
    code = "import sys; sys.modules['transformers'] = None; import sparseflow.integrations.transformers"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (
        'sparseflow.integrations.transformers needs transformers: pip install "sparseflow[integrations]"' in done.stderr
    )


# -- the manual's page -----------------------------------------------------------------------------------------------


def test_the_page_by_copying_from_it(tmp_path: Path) -> None:
    """Train, be killed after a checkpoint, type the same again, read the export in another process."""
    train, load = python_blocks("huggingface.md")
    (tmp_path / "train.py").write_text(train)
    (tmp_path / "load.py").write_text(load)
    environment = {**os.environ, "PYTHONPATH": str(Path(sf.__file__).parents[1])}
    options: dict[str, Any] = {"cwd": tmp_path, "env": environment, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "train.py"], stderr=subprocess.DEVNULL, **options) as killed:
        while not (tmp_path / "runs" / "sparse" / "checkpoint-40" / "trainer_state.json").is_file():
            assert killed.poll() is None
            time.sleep(0.01)
        killed.kill()
    assert not (tmp_path / "sparse-model").exists()
    for checkpoint in (tmp_path / "runs" / "sparse").glob("checkpoint-*"):
        if not (checkpoint / "trainer_state.json").is_file():  # it was being written
            shutil.rmtree(checkpoint)
    again = subprocess.run([sys.executable, "train.py"], stderr=subprocess.PIPE, **options)
    assert again.returncode == 0, again.stderr
    assert "Static() after step 120" in again.stdout
    assert 1 <= again.stdout.count("sparseflow/gradient_norm") <= 4  # it went on, from step 40 at least
    found = subprocess.run([sys.executable, "load.py"], stderr=subprocess.PIPE, **options)
    assert "90.0% of 14 matrices are zero" in found.stdout, found.stderr
