"""`sf.record`: its numbers against those computed by hand beside a loop, and that it changes nothing."""

from __future__ import annotations

import builtins
import copy
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparseflow as sf
from pages import ROOT, run_page
from sparseflow.record import LABELS
from tiny import OPTIMIZERS, assert_same_bits, eight, loss_of, masked, pull, snapshot, tiny_model, train_step

METHODS: dict[str, Callable[[], sf.updaters.Method]] = {
    "static": sf.Static,
    "set": lambda: sf.SET(update_every=3, total_steps=20),
    "rigl": lambda: sf.RigL(update_every=3, total_steps=20),
    "rigl-replaces": lambda: sf.RigL(update_every=3, total_steps=20, replaces_step=True),
    "snfs": lambda: sf.SNFS(update_every=3, total_steps=20),
    "gmp": lambda: sf.GMP(sparsity=0.9, begin=2, end=12, update_every=3),
}


def start(method: sf.updaters.Method, optimizer: str = "momentum") -> tuple[nn.Module, Any, sf.Sparsifier]:
    model = tiny_model()
    stepped = OPTIMIZERS[optimizer](model.parameters())
    masks = sf.dense_masks(model) if isinstance(method, sf.GMP) else masked(model)
    return model, stepped, sf.Sparsifier(model, stepped, masks, method, seed=0)


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
@pytest.mark.parametrize("name", METHODS)
def test_a_recorded_run_is_the_same_to_the_last_bit(name: str, optimizer: str) -> None:
    ends = []
    for recorded in (False, True):
        model, stepped, sparsifier = start(METHODS[name](), optimizer)
        if recorded:
            sf.record(sparsifier, every=2, most_rows=4)
        for step in range(15):
            train_step(model, stepped, step)
        ends.append([*snapshot(model, stepped), *sparsifier.masks.values(), sparsifier.state_dict()["generator"]])
    assert_same_bits(*ends)


@pytest.mark.parametrize("name", METHODS)
def test_the_numbers_against_a_loop_that_measures_itself(name: str) -> None:
    """Oracle: the dense gradient in float64, masked by hand before the step; masks compared before and after."""
    model, stepped, sparsifier = start(METHODS[name]())
    record = sf.record(sparsifier)
    rows = []
    moved = 0.0
    for step in range(12):
        stepped.zero_grad()
        loss_of(model, step).backward()
        before = {key: mask.clone() for key, mask in sparsifier.masks.items()}
        squares = 0.0
        for key, parameter in model.named_parameters():
            squares += float((parameter.grad.double() * before.get(key, torch.tensor(True))).square().sum())
        count = sparsifier.step_count
        stepped.step()
        now = sparsifier.masks
        gone = sum(int((before[key] & ~now[key]).sum()) for key in now)
        moved += gone / sum(int(mask.sum()) for mask in before.values())
        if sparsifier.step_count > count:
            zeros = sum(int((~mask).sum()) for mask in now.values()) / sum(mask.numel() for mask in now.values())
            rows.append((sparsifier.step_count, math.sqrt(squares), moved, zeros))
            moved = 0.0
    assert [row["step"] for row in record.rows] == [row[0] for row in rows]
    for found, (_, norm, share, zeros) in zip(record.rows, rows, strict=True):
        assert math.isclose(found["gradient_norm"], norm, rel_tol=1e-12)
        assert math.isclose(found["swapped"], share, abs_tol=1e-12)
        assert math.isclose(found["sparsity"], zeros, rel_tol=1e-12)
    assert name == "static" or any(row["swapped"] for row in record.rows)


def test_accumulated_and_clipped_gradients_are_those_of_the_step() -> None:
    layer, optimizer, sparsifier = eight(sf.Static())
    record = sf.record(sparsifier)
    pull(layer, 3.0, 0, 0, 0, 100.0, 0, 0, 0)
    pull(layer, 0.0, 4.0, 0, 0, 0, 0, 0, 0)
    optimizer.step()
    assert record.latest == {"gradient_norm": 5.0, "swapped": 0.0, "sparsity": 0.5}
    sparsifier.mask_gradients_()
    nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    optimizer.step()
    assert math.isclose(record.latest["gradient_norm"], 1.0, rel_tol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_a_scaled_gradient_is_unscaled_and_a_skipped_step_has_no_row(fused: bool) -> None:
    layer, optimizer, sparsifier = eight(sf.Static(), make=lambda p: torch.optim.SGD(p, lr=0.0, fused=fused))
    record = sf.record(sparsifier)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for factor in (1.0, math.inf, 2.0):
        optimizer.zero_grad()
        loss = (layer.weight * torch.tensor([3.0, 4.0, 0, 0, 7, 0, 0, 0])).sum() * factor
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert [row["gradient_norm"] for row in record.rows] == [5.0, 10.0]


def test_a_closure_is_measured_by_the_gradient_that_it_left() -> None:
    layer, optimizer, sparsifier = eight(sf.RigL(update_every=2, total_steps=10))
    record = sf.record(sparsifier)

    def closure() -> float:
        optimizer.zero_grad()
        pull(layer, 3.0, 4.0, 0, 0, 9.0, 0, 0, 0)
        return 0.0

    for _ in range(2):
        optimizer.step(closure)
    assert [row["gradient_norm"] for row in record.rows] == [5.0, 5.0]
    assert [row["swapped"] for row in record.rows] == [0.0, 0.25]


def test_several_optimizers_make_one_row_and_later_gradients_do_not_count() -> None:
    """The second optimizer's backward pass adds to the first one's gradients, which have been used by then."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.0) for layer in model]
    masks = {"0.weight": torch.eye(4, dtype=torch.bool), "1.weight": torch.eye(4, dtype=torch.bool)}
    record = sf.record(sf.Sparsifier(model, optimizers, masks, sf.Static(), seed=0))
    for _ in range(2):
        model.zero_grad()
        (model[0].weight * 3).sum().backward()
        optimizers[0].step()
        (model[0].weight * 50 + model[1].weight * 4).sum().backward()
        optimizers[1].step()
    assert [row["step"] for row in record.rows] == [1, 2]
    assert all(math.isclose(row["gradient_norm"], math.sqrt(4 * 9 + 4 * 16)) for row in record.rows)


def test_gradients_of_embeddings_and_frozen_weights() -> None:
    """A sparse gradient names row 1 twice: 2 and 2 and 2 is 4 in one row, 2 in the other, of two columns each."""
    model = nn.ModuleDict({"e": nn.Embedding(3, 2, sparse=True), "l": nn.Linear(2, 1, bias=False)})
    model["l"].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    record = sf.record(sf.Sparsifier(model, optimizer, sf.dense_masks(model), sf.Static(), seed=0))
    (model["e"](torch.tensor([1, 1, 2])) * 2).sum().backward()
    optimizer.step()
    assert math.isclose(record.latest["gradient_norm"], math.sqrt(2 * 16 + 2 * 4))
    optimizer.zero_grad()
    optimizer.step()
    assert math.isnan(record.latest["gradient_norm"])


def test_weights_that_are_stored_alone_have_the_same_record() -> None:
    pytest.importorskip("numba")
    records = []
    for stored in (False, True):
        model = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4))
        for parameter in model.parameters():
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
        masks = sf.random_masks(model, 0.5, seed=0)
        sf.apply_masks_(model, masks)
        trained = sf.engine.convert(model, masks) if stored else model
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        method = sf.SET(update_every=2, total_steps=10)
        record = sf.record(sf.Sparsifier(trained, optimizer, masks, method, seed=0))
        inputs = torch.randn(6, 12, generator=torch.Generator().manual_seed(1))
        for _ in range(5):
            optimizer.zero_grad()
            trained(inputs).square().mean().backward()
            optimizer.step()
        records.append(record.rows)
    for dense, alone in zip(*records, strict=True):
        assert dense["swapped"] == alone["swapped"]
        assert dense["sparsity"] == alone["sparsity"]
        assert math.isclose(dense["gradient_norm"], alone["gradient_norm"], rel_tol=1e-4)  # float32, another order


def test_a_long_record_is_small_and_loses_no_swap() -> None:
    def rows(most: int) -> tuple[list[dict[str, float]], int]:
        model, stepped, sparsifier = start(sf.SET(update_every=3, update_until=95, schedule="constant"))
        record = sf.record(sparsifier, most_rows=most)
        for step in range(100):
            train_step(model, stepped, step)
        return record.rows, record.every

    short, every = rows(most=7)
    long, _ = rows(most=1000)
    assert every == 16
    assert [row["step"] for row in short] == [16, 32, 48, 64, 80, 96]
    for row, before in zip(short, [0, *(row["step"] for row in short)], strict=False):
        assert math.isclose(row["swapped"], sum(each["swapped"] for each in long[int(before) : int(row["step"])]))
        assert row["gradient_norm"] == long[int(row["step"]) - 1]["gradient_norm"]


def test_it_stops_at_the_end_of_its_block_and_copies_do_not_write_to_it() -> None:
    model, stepped, sparsifier = start(sf.SET(update_every=1, total_steps=40))
    with sf.record(sparsifier) as record:
        train_step(model, stepped, 0)
        copied_model, copied_optimizer, _ = copy.deepcopy((model, stepped, sparsifier))
        train_step(copied_model, copied_optimizer, 1)
        assert len(record.rows) == 1
        train_step(model, stepped, 1)
    train_step(model, stepped, 2)
    assert [row["step"] for row in record.rows] == [1, 2]
    record.stop()  # once more is nothing


def test_a_resumed_run_goes_on_at_the_same_steps() -> None:
    model, stepped, sparsifier = start(sf.Static())
    first = sf.record(sparsifier, every=4)
    for step in range(6):
        train_step(model, stepped, step)
    first.stop()
    sparsifier.load_state_dict(sparsifier.state_dict())
    second = sf.record(sparsifier, every=4)
    for step in range(6, 12):
        train_step(model, stepped, step)
    assert [[row["step"] for row in each.rows] for each in (first, second)] == [[4], [8, 12]]


# --- table and figure -------------------------------------------------------------------------------------------------


def recorded(steps: int = 12) -> Any:
    model, stepped, sparsifier = start(sf.GMP(sparsity=0.9, begin=2, end=12, update_every=3))
    record = sf.record(sparsifier)
    for step in range(steps):
        train_step(model, stepped, step)
    return record


def test_the_table_is_aligned_and_in_percent() -> None:
    record = recorded()
    lines = record.table().splitlines()
    assert len(lines) == 13
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["step", "gradient", "norm", "connections", "swapped", "(%)", "sparsity", "(%)"]
    assert lines[-1].split()[0] == "12"
    assert math.isclose(float(lines[-1].split()[-1]), record.rows[-1]["sparsity"] * 100, rel_tol=1e-3)
    short = record.table(most_rows=5).splitlines()
    assert [int(line.split()[0]) for line in short[1:]] == [3, 6, 9, 12]


def test_the_figure_shows_every_number() -> None:
    """The oracle is the artists' own data."""
    record = recorded()
    figure = record.plot()
    norms, moved, sparsity = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(LABELS.values())
    assert norms.get_yscale() == "log"
    assert norms.lines[0].get_ydata().tolist() == [row["gradient_norm"] for row in record.rows]
    assert sparsity.lines[0].get_ydata().tolist() == [100 * row["sparsity"] for row in record.rows]
    ends = [(segment[0][0], segment[1][1]) for segment in moved.collections[0].get_segments()]
    assert ends == [(row["step"], 100 * row["swapped"]) for row in record.rows if row["swapped"]]
    assert figure.get_facecolor()[3] == 0
    assert len(recorded(1).plot().axes) == 2  # nothing was swapped


def test_its_colours_are_told_apart_and_read_on_light_and_dark() -> None:
    """WCAG 2's contrast for graphics, 3 to 1, on white and on the dark page of the manual (#1e2129)."""
    from matplotlib.colors import to_rgb

    def luminance(colour: str) -> float:
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    from sparseflow.record import _COLOURS, _INK

    for colour in (*_COLOURS.values(), _INK):
        assert contrast(colour, "#ffffff") >= 3, colour
        assert contrast(colour, "#1e2129") >= 3, colour


def test_without_matplotlib_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    record, real = recorded(), builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ModuleNotFoundError, match=r"pip install matplotlib\. print\(record\.table\(\)\) needs nothing"):
        record.plot()


def test_wrong_arguments() -> None:
    model, stepped, sparsifier = start(sf.Static())
    with pytest.raises(TypeError, match=r"takes the Sparsifier of a training, got Sequential\. Write sf\.record"):
        sf.record(model)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        sf.record(sparsifier, every=0)
    with pytest.raises(ValueError, match="most_rows must be at least 2, got 1"):
        sf.record(sparsifier, most_rows=1)
    with pytest.raises(ValueError, match="most_rows must be at least 1, got 0"):
        recorded().table(most_rows=0)
    record = sf.record(sparsifier, every=10)
    train_step(model, stepped, 0)
    for show in (record.table, record.plot):
        with pytest.raises(ValueError, match=r"a row is made every 10 optimizer steps, and 1 are done\. Train longer"):
            show()


# --- what a Sparsifier says of itself ---------------------------------------------------------------------------------


def test_a_sparsifier_tells_what_it_does() -> None:
    model, stepped, sparsifier = start(sf.RigL(drop_fraction=0.2, update_every=4, total_steps=12))
    active = sum(int(mask.sum()) for mask in sparsifier.masks.values())
    lines = [
        "Sparsifier: RigL(drop_fraction=0.2, update_every=4, total_steps=12) after step 0",
        f"  sparsity {1 - active / 547:.4g}: {active} of 547 weights are active, in 3 tensors",
        "  next update after step 4, none after step 9",
    ]
    assert repr(sparsifier).splitlines() == lines
    for step in range(9):
        train_step(model, stepped, step)
    assert repr(sparsifier).splitlines()[2] == "  masks stay as they are: the last update is behind"
    sparsifier.remove()
    assert repr(sparsifier).splitlines()[2] == "  removed: nothing keeps the masks any more"


class _Own:
    """A method without options."""

    needs_gradient = replaces_step = False
    gradient_decay = 0.0

    def due(self, step: int) -> bool:
        return False

    def update(self, layers: Any, **_: Any) -> Any:
        yield from ()


def _cube(step: int, *, until: int | None, learning_rate_ratio: float) -> float:
    return 0.5


@pytest.mark.parametrize(
    ("method", "words", "update"),
    [
        (sf.Static(), "Static()", "masks stay as they are: no update in the next 10,000 steps"),
        (_Own(), "_Own", "masks stay as they are: no update in the next 10,000 steps"),
        (sf.SET(schedule=_cube), "SET(schedule=_cube)", "next update after step 100"),
        (
            sf.SNFS(decay=0.5, update_until=200),
            "SNFS(update_until=200, decay=0.5)",
            "next update after step 100, none after step 200",
        ),
        (sf.RigLInverted(regrow=False), "RigLInverted(regrow=False)", "next update after step 100"),
        (
            sf.RigL(replaces_step=True, first_update=0, update_until=500),
            "RigL(update_until=500, first_update=0, replaces_step=True)",
            "next update in place of the coming step",
        ),
        (
            sf.updaters.DropGrow(drop_score=abs, grow_score=abs, update_every=7),
            "DropGrow(update_every=7, drop_score=abs, grow_score=abs)",
            "next update after step 7",
        ),
    ],
)
def test_each_method_in_words(method: Any, words: str, update: str) -> None:
    _, _, sparsifier = eight(method)
    first, _, last = repr(sparsifier).splitlines()
    assert first == f"Sparsifier: {words} after step 0"
    assert last.strip() == update


def test_the_page_on_recording(tmp_path: Path) -> None:
    printed = run_page("recording.md", tmp_path)
    page = (ROOT / "docs" / "recording.md").read_text()
    (shown,) = re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)
    assert shown in printed
    assert (tmp_path / "record.svg").exists()
    assert (tmp_path / "record.csv").read_text().startswith("step,gradient_norm,swapped,sparsity\n5,")
