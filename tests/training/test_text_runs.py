"""Training on text: steps against AdamW and a sorted top-k by hand in float64, hand-over, and runs that were killed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from processes import Job
from short_text import short_text
from sparseflow.networks.decoder import Decoder
from sparseflow.sealed import read_json
from sparseflow.training import text_loop
from sparseflow.training.runs import CHECKPOINTS, DONE, METRICS, load_run
from sparseflow.training.text import TextRun, small_dense
from sparseflow.training.text_loop import bits_per_byte, train_text, trained_decoder
from sparseflow.training.text_step import BETAS, TextTraining, cross_entropy
from tiny import the_same

TINY = TextRun(
    width=16, depth=2, heads=2, context=16, batch_size=4, one_in=5, steps=12, log_every=2, eval_every=6, eval_windows=4,
    checkpoint_every=4, anneal_begin=0.2, learning_rate=0.01,
)  # fmt: skip


@pytest.fixture(autouse=True)
def little_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluating all text that is not trained on takes a tiny decoder twenty seconds."""
    monkeypatch.setattr(text_loop, "load_text", short_text)


def windows(step: int, run: TextRun = TINY) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randint(256, (run.batch_size, run.context + 1), generator=generator)


# -- steps -----------------------------------------------------------------------------------------------------------


def test_steps_by_hand() -> None:
    """Six steps while entries go: gradients over their root mean square, AdamW, and the largest by a sort; float64."""
    run = TINY.with_(epsilon=0.1, anneal_begin=0.0)
    training = TextTraining(run)
    training.model.double()
    model = Decoder(**run.size).double()
    model.load_state_dict(training.model.state_dict())
    first = {name: torch.zeros_like(each) for name, each in model.named_parameters()}
    second = {name: torch.zeros_like(each) for name, each in model.named_parameters()}
    active = {name: torch.ones_like(each) for name, each in model.named_parameters()}
    for step in range(6):
        rate = run.rate(step)
        density = 1 + (1 / 5 - 1) * step / 6
        names, parameters = zip(*model.named_parameters(), strict=True)
        gradients = dict(zip(names, torch.autograd.grad(cross_entropy(model, windows(step)), parameters), strict=True))
        squares = sum(float((gradients[name] * active[name]).square().sum()) for name in names)
        scale = math.sqrt(squares / sum(float(each.sum()) for each in active.values()))
        for name, weight in zip(names, parameters, strict=True):
            g = gradients[name] / scale
            decays = weight.dim() > 1 and "bigram" not in name
            first[name] = BETAS[0] * first[name] + (1 - BETAS[0]) * g
            second[name] = BETAS[1] * second[name] + (1 - BETAS[1]) * g * g
            m, v = first[name] / (1 - BETAS[0] ** (step + 1)), second[name] / (1 - BETAS[1] ** (step + 1))
            new = weight.detach() * (1 - rate * run.weight_decay * decays) - rate * m / (v.sqrt() + 0.1)
            if density < 1 and "norm" not in name and "bigram" not in name:
                flat = new.flatten().numpy()
                order = np.lexsort((np.arange(len(flat)), -np.abs(flat)))
                kept = np.zeros(len(flat))
                kept[order[: max(1, round(len(flat) * density))]] = 1
                active[name] = torch.from_numpy(kept).view_as(new)
                new = new * active[name]
            weight.data = new
        training.step(windows(step))
        for name, weight in model.named_parameters():
            found = training.model.get_parameter(name) if step < 5 else None
            if found is not None:
                assert torch.allclose(found, weight, rtol=1e-9, atol=1e-12), (step, name)
                # A key's bias has no gradient but rounding: which of those stay is chance.
                assert torch.equal(found.abs() > 1e-9, weight.abs() > 1e-9), (step, name)


@pytest.mark.parametrize("update_every", [0, 2])
def test_what_is_left_goes_on_as_the_masked_form_does(update_every: int) -> None:
    """Both forms in float64: the same losses to rounding, and the same entries active."""
    runs = [TINY.with_(engine=engine, update_every=update_every, drop_fraction=0.3) for engine in ("sparse", "masked")]
    trainings = [TextTraining(run) for run in runs]
    for training in trainings:
        training.model.double()
    losses = [[training.step(windows(step)) for step in range(12)] for training in trainings]
    assert losses[0][:6] == losses[1][:6]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    sparse, masked = trainings
    assert all(torch.equal(sparse.masks[name], mask) for name, mask in masked.masks.items())
    for training in trainings:
        training.check()
    stored = sum(each.numel() for name, each in sparse.model.named_parameters() if name.endswith("values"))
    assert stored == sum(int(mask.sum()) for mask in masked.masks.values() if mask.dim() > 1)


def test_masks_that_are_final_stay() -> None:
    training = TextTraining(TINY.with_(engine="masked"))
    for step in range(6):
        training.step(windows(step))
    before = {name: mask.clone() for name, mask in training.masks.items()}
    assert {name: int(mask.sum()) for name, mask in before.items()} == {
        name: max(1, round(mask.numel() / 5)) for name, mask in before.items()
    }
    for step in range(6, 12):
        training.step(windows(step))
    for name, mask in before.items():
        assert torch.equal(training.masks[name], mask)
        assert not training.model.get_parameter(name)[~mask].any(), name


def test_a_sparse_start_counts_what_each_unit_reads() -> None:
    """1 in 10 active: fan-in times the variance is 1 to five standard errors, or half of it before the stream."""
    run = TextRun(width=128, depth=1, heads=4, one_in=10, start_one_in=10, anneal_begin=0.0)
    model = TextTraining(run).model
    for name, wanted in (("widen", 1.0), ("project", 1.0), ("out", 0.5), ("narrow", 0.5)):
        weight = model.get_parameter(f"blocks.0.{name}.weight").detach()
        active = weight != 0
        assert int(active.sum()) == round(weight.numel() / 10)
        scaled = (weight.square() * active.sum(1, keepdim=True))[active]
        assert float(scaled.mean()) == pytest.approx(wanted, abs=5 * wanted * math.sqrt(2 / len(scaled)))


# -- runs ------------------------------------------------------------------------------------------------------------


def outcome(root: Path, run: TextRun) -> tuple[bytes, dict[str, object], dict[str, object]]:
    folder = root / run.name
    saved = torch.load(folder / CHECKPOINTS / f"{run.steps:06d}.pt", weights_only=True)
    done = read_json(folder / DONE, cure="")
    assert saved["state"].pop("seconds") > 0
    assert done.pop("seconds") > 0
    return (folder / METRICS).read_bytes(), saved, done


class StoppedError(Exception):
    """Stands for a crash in this process."""


@pytest.mark.parametrize("run", [TINY.with_(update_every=2), TINY.with_(engine="masked"), TINY.with_(one_in=1)],
                         ids=["sparse", "masked", "dense"])  # fmt: skip
def test_a_run_that_is_stopped_and_continued(run: TextRun, tmp_path: Path) -> None:
    """Stopped in each phase, between checkpoints and at one: the same bytes as a run left alone."""
    train_text(run, root=tmp_path / "whole")

    def stop(at: int) -> None:
        def progress(step: int, steps: int) -> None:
            if step == at:
                raise StoppedError

        with pytest.raises(StoppedError):
            train_text(run, root=tmp_path / "parts", progress=progress)

    for at in (3, 5, 8, 11):
        stop(at)
    train_text(run, root=tmp_path / "parts")
    whole, parts = (outcome(tmp_path / name, run) for name in ("whole", "parts"))
    assert whole[0] == parts[0]
    assert whole[2] == parts[2]
    assert the_same(whole[1], parts[1])


def in_a_process(run: TextRun, root: Path) -> None:
    text_loop.load_text = short_text
    train_text(run, root=root)


def test_a_run_that_is_killed(tmp_path: Path) -> None:
    """SIGKILL once it has a checkpoint; the same command goes on, and ends as one left alone does."""
    run = TINY.with_(engine="masked", steps=40, checkpoint_every=2, eval_every=20)
    job = Job(in_a_process, run, tmp_path / "parts")
    while not list((tmp_path / "parts").glob("*/checkpoints/*.pt")):
        assert job.poll() is None
    job.kill()
    assert job.wait().returncode < 0
    train_text(run, root=tmp_path / "parts")
    train_text(run, root=tmp_path / "whole")
    whole, parts = (outcome(tmp_path / name, run) for name in ("whole", "parts"))
    assert whole[0] == parts[0]
    assert the_same(whole[1:], parts[1:])


def test_what_a_run_leaves(tmp_path: Path) -> None:
    run = train_text(TINY, root=tmp_path)
    assert load_run(run.folder).config == TINY
    assert train_text(TINY, root=tmp_path).seconds == run.seconds  # not trained again
    rows = [json.loads(line) for line in (run.folder / METRICS).read_text().splitlines()]
    assert [row["step"] for row in rows if row["name"] == "train/loss"] == [0, 2, 4, 6, 8, 10]
    assert [row["step"] for row in rows if row["name"] == "validation/bits_per_byte"] == [6, 12]
    model = trained_decoder(TINY, root=tmp_path)
    active = sum(int((each != 0).sum()) for name, each in model.named_parameters() if "bigram" not in name)
    assert active <= run.final["weights"] < 0.3 * sum(each.numel() for each in model.parameters() if each.dim() > 1)
    assert run.final["table"] == 256 * 256
    text = torch.arange(17)[None]
    assert 0 < bits_per_byte(model, text) < 20


def test_a_decoder_of_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is no finished run\. Type: sparseflow train text --width 16"):
        trained_decoder(TINY, root=tmp_path)


# -- configs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"package": "torch"}, "package must be one of sympy, got 'torch'"),
        ({"engine": "auto"}, "engine must be one of sparse, masked, got 'auto'"),
        ({"init": "spars"}, "init must be one of .*Did you mean sparse?"),
        ({"heads": 3}, "heads must divide the width, got 3 heads for a width of 256"),
        ({"start_one_in": 20, "one_in": 10}, "got 1 in 20 at the start and 1 in 10 at the end"),
        ({"anneal_begin": 0.6}, "anneal_begin must not be above anneal_end, got 0.6 and 0.5"),
        ({"one_in": 0}, "one_in must be at least 1, got 0"),
        ({"active_units": 0.0}, r"active_units must be in \(0, 1\], got 0.0"),
        ({"one_in": 1000, "floor": 1}, "needs 768 weights, and blocks.0.project.weight has 197"),
    ],
)
def test_a_run_that_cannot_be(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TextRun(**changes)  # type: ignore[arg-type]


def test_a_config_is_read_back() -> None:
    run = TextRun(one_in=100, width=64, floor=0)
    assert TextRun.from_dict(json.loads(json.dumps(run.to_dict()))) == run
    with pytest.raises(ValueError, match="fields this version does not know: colour"):
        TextRun.from_dict({"colour": "red"})


def test_the_small_dense_twin_has_as_many_weights() -> None:
    """Nearest of all widths: no neighbour comes closer, by the parameters of real models."""

    def size(run: TextRun) -> int:
        return sum(each.numel() for each in Decoder(**run.size).parameters())

    for one_in in (10, 100):
        sparse = TextRun(one_in=one_in)
        wanted = TextTraining(sparse.with_(start_one_in=one_in, anneal_begin=0.0)).num_active
        twin = small_dense(sparse)
        distances = [abs(size(twin.with_(width=twin.width + more)) - wanted) for more in (-4, 0, 4)]
        assert min(distances) == distances[1]
        assert twin.one_in == 1
