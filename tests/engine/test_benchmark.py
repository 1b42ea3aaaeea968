"""engine.benchmark: what is timed, on which batches, and a table that is true; the measured times are replaced."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import re
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.engine.speed import auto, layers
from sparseflow.engine.speed import benchmark as benchmarks
from sparseflow.engine.speed.auto import compile_sparse
from sparseflow.engine.speed.benchmark import benchmark
from sparseflow.engine.speed.comparison import BatchSpeed, Comparison
from sparseflow.engine.speed.example import resized
from sparseflow.engine.speed.progress import Progress
from sparseflow.engine.speed.table import Conditions, LastComparison, LayerSpeed, SpeedTable
from sparseflow.engine.speed.timing import Ratio
from sparseflow.rng import stream

README = Path(__file__).parents[2] / "README.md"


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 4))


def masked() -> nn.Module:
    model = network()
    return sf.apply_masks_(model, sf.random_masks(model, 0.75, seed=0))


def example(size: int = 5) -> Tensor:
    return torch.randn(size, 12, generator=stream(0, "x"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set what is measured: (dense, sparse) seconds of each layer, and seconds of a row's steps in their order."""

    def set_to(each: tuple[float, float], row: Sequence[float]) -> None:
        def of_a_row(steps: Sequence[Callable[[], object]], *, seconds: float) -> list[list[float]]:
            for step in steps:
                step()
            return [[time] * 6 for time in row[: len(steps)]]

        monkeypatch.setattr(layers, "medians", lambda steps, *, seconds: [*each] * (len(steps) // 2))
        monkeypatch.setattr(auto, "medians", lambda steps, *, seconds: [*each])
        monkeypatch.setattr(auto, "turns", lambda steps, *, seconds: [[each[1]] * 6, [each[0]] * 6, [each[0]] * 6])
        monkeypatch.setattr(benchmarks, "turns", of_a_row)

    return set_to


# -- what is timed ---------------------------------------------------------------------------------------------------


def test_a_row_for_each_mode_and_batch(clock: Callable[..., None]) -> None:
    clock((2.0, 1.0), (8.0, 4.0, 2.0, 1.0))
    found = benchmark(masked(), example(), (1, 8), seconds=0.0)
    assert [(row.training, row.batch) for row in found.rows] == [(True, 1), (True, 8), (False, 1), (False, 8)]
    training, inference = found.rows[0], found.rows[-1]
    assert training.seconds == {"float32": 8.0, "bfloat16": 4.0, "sparse": 2.0}
    assert {name: ratio.median for name, ratio in training.speedups.items()} == {"float32": 4.0, "bfloat16": 2.0}
    assert inference.seconds == {"float32": 8.0, "bfloat16": 4.0, "int8": 2.0, "sparse": 1.0}
    assert {name: ratio.median for name, ratio in inference.speedups.items()} == {
        "float32": 8.0, "bfloat16": 4.0, "int8": 2.0,
    }  # fmt: skip
    assert found.headline() == (
        "At batch 8 the sparse model trains 4.00 times as fast as dense float32 and 2.00 times as fast as bfloat16. "
        "At batch 8 the sparse model infers 8.00 times as fast as dense float32, 4.00 times as fast as bfloat16 and "
        "2.00 times as fast as int8."
    )


@pytest.mark.parametrize("training", [True, False])
def test_one_mode_alone(clock: Callable[..., None], training: bool) -> None:
    clock((2.0, 1.0), (8.0, 4.0, 2.0, 1.0))
    found = benchmark(masked(), example(), [3], training=training, seconds=0.0)
    assert [(row.training, row.batch) for row in found.rows] == [(training, 3)]


def test_the_mix_is_timed_where_it_is_another(clock: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    clock((2.0, 1.0), (8.0, 4.0, 2.0, 1.0))
    monkeypatch.setattr(auto, "best_mix", lambda *_: (["3"], (2.0, 1.0)))
    found = benchmark(masked(), example(), (1,), training=True, seconds=0.0)
    (row,) = found.rows
    assert row.seconds == {"float32": 8.0, "bfloat16": 4.0, "sparse": 2.0, "chosen": 1.0}
    assert row.speedups["float32"].median == 8.0  # of the mix
    assert row.choice is not None
    assert row.choice.chosen == ["3.weight"]


def test_where_all_stays_dense_the_converted_model_is_shown(clock: Callable[..., None]) -> None:
    clock((1.0, 2.0), (1.0, 0.5, 4.0))
    found = benchmark(masked(), example(), (1,), training=True, seconds=0.0)
    assert found.rows[0].seconds == {"float32": 1.0, "bfloat16": 0.5, "sparse": 4.0}
    assert [cells[5] for cells in found.cells()] == ["chosen ms", "dense"]
    assert found.headline() == (
        "At batch 1 the sparse model trains slower than dense: dense float32 is 4.00 times as fast and bfloat16 is "
        "8.00 times as fast. compile_sparse stays dense."
    )


def test_a_step_that_does_not_run_at_a_batch_is_named(clock: Callable[..., None]) -> None:
    clock((2.0, 1.0), (8.0, 4.0, 2.0, 1.0))
    model = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Linear(16, 4))
    found = benchmark(model, example(), (1, 2), masks=sf.random_masks(model, 0.5, seed=0), seconds=0.0)
    assert [bool(row.seconds) for row in found.rows] == [False, True, True, True]
    assert any(
        note.startswith("No times (Expected more than 1 value per channel when training, got input size")
        and note.endswith("): training at batch 1.")
        for note in found.notes()
    )
    assert "At batch 2 the sparse model trains 4.00 times" in str(found)


# -- what is given ---------------------------------------------------------------------------------------------------


def held() -> tuple[nn.Module, sf.Sparsifier]:
    model = masked()
    masks = sf.masks_of(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, sf.Sparsifier(model, optimizer, masks, sf.SET(update_every=1, total_steps=9), seed=0)


def test_masked_converted_and_held_models_are_the_same(clock: Callable[..., None]) -> None:
    clock((2.0, 1.0), (8.0, 4.0, 2.0, 1.0))
    model = masked()
    masks = sf.masks_of(model)
    want = benchmark(model, example(), (2,), seconds=0.0).to_dict()
    assert (want["num_active"], want["num_weights"], want["num_convertible"]) == (64, 256, 2)
    assert benchmark(sf.engine.convert(model, masks), example(), (2,), seconds=0.0).to_dict() == want
    assert benchmark(network(), example(), (2,), masks=masks, seconds=0.0).to_dict() == want
    held_model, sparsifier = held()
    assert benchmark(held_model, example(), (2,), seconds=0.0).to_dict() == want
    for _ in range(3):  # masks move
        held_model(example()).sum().backward()
        sparsifier.optimizers[0].step()
    assert any(not torch.equal(mask, masks[name]) for name, mask in sparsifier.masks.items())
    assert benchmark(held_model, example(), (2,), seconds=0.0).to_dict() == want
    sparsifier.check()


def test_nothing_of_the_model_changes() -> None:
    model, sparsifier = held()
    model.train()
    model(example()).sum().backward()
    before = copy.deepcopy((model.state_dict(), [p.grad for p in model.parameters()]))
    x, state = example(), torch.get_rng_state()
    kept = x.clone()
    benchmark(model, x, (1, 7), seconds=0.0)
    assert all(torch.equal(value, before[0][name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before[1], strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, kept)
    assert all(module.training for module in model.modules())
    sparsifier.check()


class Two(nn.Module):
    """A model of two inputs that returns a mapping, with a loss if it is given labels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 12)

    def forward(self, u: Tensor, v: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.layer(input=u + v)
        loss = {} if labels is None else {"loss": (logits[:, 0] - labels).square().mean()}
        return {**loss, "logits": logits}


@pytest.mark.parametrize(
    "form", [tuple, list, lambda pair: {"u": pair[0], "v": pair[1], "labels": torch.zeros(len(pair[0]))}]
)
def test_examples_are_whatever_a_model_takes(form: Callable[[Any], Any], clock: Callable[..., None]) -> None:
    clock((2.0, 1.0), (8.0, 4.0, 2.0, 1.0))
    model, given = Two(), form((example(), example()))
    found = benchmark(model, given, (1, 8), masks=sf.random_masks(model, 0.5, seed=0), seconds=0.0)
    assert [len(row.seconds) for row in found.rows] == [3, 3, 3, 3]
    # torch's quantised layer has another name for its input.
    assert "unexpected keyword argument 'input'" in found.rows[-1].reasons["int8"]


def test_the_example_is_made_to_each_size() -> None:
    x = torch.arange(3.0)
    assert resized(x, 2).tolist() == [0, 1]
    assert resized(x, 7).tolist() == [0, 1, 2, 0, 1, 2, 0]
    pair = resized({"x": x, "for all": torch.ones(4, 4), "scale": torch.tensor(2.0), "name": "a"}, 5)
    assert [pair["x"].shape, pair["for all"].shape, pair["scale"].shape, pair["name"]] == [(5,), (4, 4), (), "a"]
    image = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert resized(image, 5).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(resized(image, 5)[2:4], image)
    assert resized(x, 3) is not x


@pytest.mark.slow
def test_the_example_of_the_readme_can_be_measured(tmp_path: Path) -> None:
    """As a newcomer types it behind the loop: the model is held by a Sparsifier whose masks have moved."""
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    script = tmp_path / "loop.py"
    script.write_text(block)
    names = runpy.run_path(str(script))
    found = sf.engine.benchmark(names["model"], names["x"], batches=(1, 8), seconds=0.0)
    assert [(row.step, row.batch) for row in found.rows] == [
        ("training", 1), ("training", 8), ("inference", 1), ("inference", 8),
    ]  # fmt: skip
    assert all({"float32", "sparse"} <= row.seconds.keys() for row in found.rows)
    assert "95.0 % of 203264 masked weights are zero" in str(found)
    fast, table = sf.compile_sparse(names["model"], names["x"], seconds=0.0)
    torch.testing.assert_close(fast(names["x"]), names["model"](names["x"]), atol=1e-5, rtol=1e-4)
    assert table.conditions.batch == 32


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ((0,), ValueError, r"each of batches must be at least 1, got 0\."),
        ((1, -1), ValueError, r"each of batches must be at least 1, got -1\."),
        ((1.5,), TypeError, r"batches must be whole numbers, such as \(1, 8, 64\), got 1\.5\."),
        ((8.0,), TypeError, r"batches must be whole numbers, such as \(1, 8, 64\), got 8\.0\."),
        ((True,), TypeError, r"each of batches must be a whole number, got True \(bool\)\."),
        (("8",), TypeError, r"each of batches must be a whole number, got '8' \(str\)\."),
        ((), ValueError, r"batches is empty; give at least one number of examples, such as \(1, 8, 64\)\."),
        (8, TypeError, r"batches must be a sequence of whole numbers, such as \(1, 8, 64\), got 8\."),
    ],
)
def test_batches_that_are_no_positive_whole_numbers(batches: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        benchmark(masked(), example(), batches)


@pytest.mark.parametrize("wrong", [None, 3.0, (), ("tokens",), torch.tensor(1.0), torch.zeros(0, 12)])
def test_an_example_without_a_batch_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="the example must be a batch of inputs or a tuple with one, got "):
        benchmark(masked(), wrong)


def test_a_single_example_is_refused_with_what_to_type() -> None:
    with pytest.raises(ValueError, match=r"the model does not take the example with 1 rows .* write x\[None\]\."):
        benchmark(masked(), example()[0])
    image = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match=r"the model does not take the example with 1 rows .* write x\[None\]\."):
        benchmark(image, torch.zeros(3, 8, 8), masks=sf.random_masks(image, 0.5, seed=0))


def test_other_devices_and_half_precision_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"the model is on meta, and the sparse engine computes on the CPU: pass model"
    ):
        benchmark(network().to("meta"), example(), masks=sf.random_masks(network(), 0.5, seed=0))
    with pytest.raises(
        ValueError, match=r"the example is on meta, and the sparse engine computes on the CPU: use \.cpu"
    ):
        benchmark(masked(), example().to("meta"))
    with pytest.raises(ValueError, match=r"the model is in bfloat16, and .* in float32 and float64: pass model\.float"):
        benchmark(masked().bfloat16(), example())
    with pytest.raises(ValueError, match=r"the example is in float16, and .* in float32 and float64: use \.float"):
        benchmark(masked(), example().half())


def test_a_model_in_which_nothing_can_be_sparse_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"no layer of the model can be sparse: 0\.weight \(no zeros\), 3\.weight \(no"
    ):
        benchmark(network(), example())
    cubes = nn.Sequential(nn.Conv3d(1, 1, 2))
    with pytest.raises(ValueError, match=r"no layer .*: 0\.weight \(no sparse form of Conv3d\)\. Give masks, such as"):
        benchmark(cubes, torch.zeros(1, 1, 2, 2, 2), masks=sf.random_masks(cubes, 0.5, seed=0))
    with pytest.raises(ValueError, match="masks has 'x', which is no weight"):
        benchmark(network(), example(), masks={"x": torch.ones(1).bool()})
    with pytest.raises(ValueError, match=r"seconds must be at least 0, got -1"):
        benchmark(masked(), example(), seconds=-1.0)


# -- the table -------------------------------------------------------------------------------------------------------


def choice(*is_sparse: bool) -> SpeedTable:
    return SpeedTable(
        layers=tuple(
            LayerSpeed(name=f"{number}.weight", shape=(2, 2), num_active=1, is_sparse=each)
            for number, each in enumerate(is_sparse)
        ),
        last=LastComparison(),
        bfloat16_counts=False,
        conditions=Conditions(batch=1, threads=1, training=True, dtype="float32"),
    )


def same(ratio: float) -> Ratio:
    return Ratio(ratio, ratio, ratio)


TABLE = Comparison(
    rows=(
        BatchSpeed(batch=1, training=True, seconds={}, speedups={}, reasons={"times": "too few"}, choice=None),
        BatchSpeed(
            batch=64,
            training=True,
            seconds={"float32": 8e-3, "bfloat16": 4e-3, "sparse": 2.5e-3, "chosen": 2e-3},
            speedups={"float32": same(4.0), "bfloat16": same(2.0)},
            reasons={},
            choice=choice(True, False),
        ),
        BatchSpeed(
            batch=1,
            training=False,
            seconds={"float32": 80e-6, "bfloat16": 60e-6, "int8": 20e-6, "sparse": 40e-6},
            speedups={"float32": same(2.0), "bfloat16": same(1.5), "int8": same(0.5)},
            reasons={},
            choice=choice(True, True),
        ),
        BatchSpeed(
            batch=64,
            training=False,
            seconds={"float32": 3e-3, "int8": 1e-3, "sparse": 4e-3},
            speedups={"float32": same(0.75), "int8": same(0.25)},
            reasons={"bfloat16": "its outputs are 12 % off"},
            choice=choice(False, False),
        ),
    ),
    num_convertible=2,
    num_active=400,
    num_weights=8000,
    threads=1,
    dtype="float32",
)


ROWS = """\
step       batch  float32 ms  bfloat16 ms  int8 ms  sparse ms  chosen ms  over float32  over bfloat16  over int8
training       1           -            -        -          -          -             -              -          -
training      64        8.00         4.00        -       2.50       2.00         4.00x          2.00x          -
inference      1      0.0800       0.0600   0.0200     0.0400     sparse         2.00x          1.50x      0.50x
inference     64        3.00            -     1.00       4.00      dense         0.75x              -      0.25x"""


def test_the_table_as_people_read_it() -> None:
    assert str(TABLE).splitlines() == [
        "At batch 64 the sparse model trains 4.00 times as fast as dense float32 and 2.00 times as fast as bfloat16. "
        "At batch 64 the sparse model infers slower than dense: dense float32 is 1.33 times as fast and int8 is 4.00 "
        "times as fast. compile_sparse stays dense.",
        "",
        *ROWS.splitlines(),
        "",
        "95.0 % of 8000 masked weights are zero; 1 thread, float32",
        "sparse: all 2 weights that can be, by engine.convert; chosen: by compile_sparse.",
        "No times (too few): training at batch 1.",
        "No bfloat16 (its outputs are 12 % off): inference at batch 64.",
    ]
    assert TABLE.rows[2].sentence() == (
        "At batch 1 the sparse model infers 2.00 times as fast as dense float32 and 1.50 times as fast as bfloat16; "
        "int8 is 2.00 times as fast as it."
    )


def test_a_sparse_model_slower_than_dense_is_not_praised_first() -> None:
    row = dataclasses.replace(TABLE.rows[1], speedups={"float32": same(0.5), "bfloat16": same(2.0)})
    assert row.sentence() == (
        "At batch 64 the sparse model trains slower than dense: dense float32 is 2.00 times as fast; it is 2.00 times "
        "as fast as bfloat16."
    )


def test_the_table_as_programs_read_it() -> None:
    values = json.loads(json.dumps(TABLE.to_dict()))
    assert values["rows"][1]["speedups"]["bfloat16"] == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert values["rows"][1]["choice"]["layers"][0]["is_sparse"]
    assert values["rows"][0]["reasons"] == {"times": "too few"}


# -- progress --------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_time_left_is_told_after_two_seconds() -> None:
    out, now = Terminal(), iter([0.0, 0.0, 1.0, 3.0])
    progress = Progress(6, out=out, clock=lambda: next(now))
    progress.next("choosing layers for training at batch 1")
    progress.next("timing training at batch 1")
    assert out.getvalue() == ""
    progress.next("choosing layers for training at batch 8")
    line = "sparseflow measures: choosing layers for training at batch 8, 2 of 6 done, about 6 s left"
    assert out.getvalue().strip() == line
    progress.close()
    assert out.getvalue() == f"\r{line:100}\r{'':100}\r"


@pytest.mark.parametrize("out", [io.StringIO(), Terminal()])
def test_nothing_is_told_where_nobody_looks_or_waits(out: io.StringIO) -> None:
    seconds = 1.0 if out.isatty() else 100.0
    now = iter([0.0, 0.0, seconds])
    progress = Progress(2, out=out, clock=lambda: next(now))
    progress.next("a part")
    progress.next("another")
    progress.close()
    assert out.getvalue() == ""


def test_each_part_of_a_row_is_told(clock: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    clock((2.0, 1.0), (8.0, 4.0, 2.0, 1.0))
    told: list[str] = []
    monkeypatch.setattr(Progress, "next", lambda self, what: told.append(what))
    benchmark(masked(), example(), (1, 2), training=False, seconds=0.0)
    assert told == [f"{part} inference at batch {n}" for n in (1, 2) for part in ("choosing layers for", "timing")]


def test_both_are_public() -> None:
    assert sf.engine.benchmark is benchmark
    assert sf.engine.compile_sparse is compile_sparse
