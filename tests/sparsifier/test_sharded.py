"""Two processes that hold half of everything (FSDP2) do what one does that holds all; oracle: each other, float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import sharded_worker
import sparseflow as sf
from processes import run_ranks

# The global ranking takes the smallest layer of this network whole, in one process as in two.
pytestmark = pytest.mark.filterwarnings("ignore::sparseflow.masks.topk.EmptiedLayerWarning")

#: Inactive weights in the second process's rows of a layer.
OFF = int((~sf.random_masks(sharded_worker.network(), 0.5, seed=0)["4.weight"][4:]).sum())
NAMES = ["/".join(case) for case in sharded_worker.CASES]


def write_images(folder: Path, number: int) -> None:
    """Three classes: a colour and noise."""
    noise = np.random.default_rng(number)
    for index in range(number):
        pixels = noise.integers(0, 120, (40, 48, 3), dtype=np.uint8)
        pixels[..., index % 3] += 100
        path = folder / "abc"[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of one process, and of both of two."""
    folder = tmp_path_factory.mktemp("sharded")
    write_images(folder / "data" / "train", 16)
    write_images(folder / "data" / "test", 5)  # in batches of two: one for the first process, two for the other
    arguments = [str(folder), str(folder / "data")]
    sharded_worker.main(*arguments)
    done = run_ranks(sharded_worker.main, *arguments)
    assert [end.returncode for end in done] == [0, 0], done
    return [torch.load(folder / name, weights_only=True) for name in ("1-0.pt", "2-0.pt", "2-1.pt")]


def assert_same(one: dict[str, Tensor], two: dict[str, Tensor], *, atol: float = 0.0) -> None:
    """Exact for masks; gradients of two halves add up in another order than those of a whole batch."""
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0.0, atol=atol, msg=name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.status("FSDP2", by="name")
def test_two_processes_take_the_steps_of_one(name: str, ends: list[dict[str, Any]]) -> None:
    one, *both = (end[name] for end in ends)
    for other in both:
        assert_same(one["masks"], other["masks"])
        assert_same(one["weights"], other["weights"], atol=1e-12)
        assert one["moved"] == other["moved"]
        assert one["sparsity"] == other["sparsity"]
        assert one["flow"] == pytest.approx(other["flow"], rel=1e-10)
        assert one["gained"] == pytest.approx(other["gained"], rel=1e-10)
        assert not any(other["off"].values())
    method = name.split("/")[0].removesuffix("_blocks")
    updates = {
        "static": 0,
        "gmp": 4,
        "gmp_global": 4,
        "rigl_replaces_step": 4,
        "mest_soft": 4,
        "acdc": 3,
        "n_of_m": 4,
        "top_kast": 4,
        "sr_ste": 4,
    }.get(method, 5)
    assert len(one["moved"]) == updates


def test_each_process_holds_its_part_of_every_mask(ends: list[dict[str, Any]]) -> None:
    """Rows are dealt out as torch.chunk does: 3 and 2 of 5, 4 and 3 of 7, 1 and 0 of 1, 2 and 1 of 3."""
    one, first, second = (end["rigl/momentum"] for end in ends)
    assert one["sharded"] == []
    assert one["bytes"] == one["total"] == 5 * 9 + 7 * 80 + 7 + 3
    assert first["sharded"] == second["sharded"] == ["0.weight", "4.weight", "6.weight", "7.weight"]
    assert first["bytes"] == 3 * 9 + 4 * 80 + 7 + 2
    assert second["bytes"] == 2 * 9 + 3 * 80 + 0 + 1


@pytest.mark.parametrize("name", ["clipped", "scaled", "given"])
def test_what_a_loop_does_around_the_step(name: str, ends: list[dict[str, Any]]) -> None:
    one, *both = (end[name] for end in ends)
    for other in both:
        assert_same(one["masks"], other["masks"])
        assert_same(one.get("weights", {}), other.get("weights", {}), atol=1e-12)
        assert other.get("norms", []) == pytest.approx(one.get("norms", []), rel=1e-10)
        assert (one.get("steps"), one.get("scale")) == (other.get("steps"), other.get("scale"))
    assert ends[0]["scaled"]["steps"] == 9


def test_hooks_see_the_weights_of_now(ends: list[dict[str, Any]]) -> None:
    one, *both = (end["watched"]["outputs"] for end in ends)
    for other in both:
        torch.testing.assert_close(other, one, rtol=0.0, atol=1e-12)
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one[2], one[3])


def test_measuring_writes_no_gradient(ends: list[dict[str, Any]]) -> None:
    assert all(end["kept gradients"]["same"] for end in ends)


def test_dense_weights_that_are_loaded_are_noticed(ends: list[dict[str, Any]]) -> None:
    """By every process: a load into parts counts at the whole, not at the part."""
    assert [end["written"]["noticed"] for end in ends] == [[True] * 4] * 3


def test_a_resumed_run_continues_bit_for_bit(ends: list[dict[str, Any]]) -> None:
    for end in ends:
        for through, *others in (end["resumed"]["weights"], end["resumed"]["masks"]):
            assert all(torch.equal(through, other) for other in others)
        through, *others = end["resumed"]["fingerprints"]
        assert through == others[0] == others[1]
    assert ends[1]["resumed"]["fingerprints"] == ends[2]["resumed"]["fingerprints"]


def test_masks_are_made_of_weights_in_parts(ends: list[dict[str, Any]]) -> None:
    for end in ends[1:]:
        expected, found = end["mask makers"]["expected"], end["mask makers"]["found"]
        for key, masks in expected.items():
            assert_same(masks, found[key])
        assert_same(expected["random"], found["applied"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", f"BrokenPromiseError: {OFF} inactive weights of '4.weight' are not zero"),
        ("measured", "ValueError: '4.weight' is not zero off its mask"),
        ("gradients", "RanksDisagreeError: the masks of rank 1 differ from those of rank 0"),
        ("seeds", "RanksDisagreeError: the random states of growth (seed=) of rank 1 differ from those of rank 0"),
        ("stored", "ValueError: fully_shard cannot cut '0.weight', which is stored as active values alone"),
        ("no image", "ValueError: 1 of 2 processes have no test image; FSDP needs one for each"),
        (
            "layout",
            "ValueError: FSDP cuts contiguous weights only, and 'conv1.weight' is not; give channels_last=False",
        ),
    ],
)
def test_every_process_gets_the_error(name: str, message: str, ends: list[dict[str, Any]]) -> None:
    for end in ends[1:]:
        assert end["errors"][name].startswith(message)
        assert end["errors"].get(f"{name} at step", "4") == "4"


@pytest.mark.parametrize("network", sharded_worker.RUNS)
def test_image_networks_train_as_on_one_process(network: str, ends: list[dict[str, Any]]) -> None:
    """In float32: losses to 1e-5."""
    one, first, second = (end[network] for end in ends)
    assert second["logged"] == []
    for (step, values), (other_step, others) in zip(one["logged"], first["logged"], strict=True):
        assert step == other_step
        assert others == pytest.approx(values, rel=1e-5)
    for other in (first, second):
        assert_same(one["masks"], other["masks"])
        assert_same(one["weights"], other["weights"], atol=1e-5)
    names = {name for _, values in one["logged"] for name in values}
    assert any(name.startswith("units/live/") for name in names)
    assert any(name.startswith("density/") for name in names)
    assert {name for name in names if not name.startswith(("units/", "density/"))} == {
        *("train/loss", "gradient/training", "flow/norm", "flow/loss", "test/accuracy", "test/loss", "sparsity"),
        *("update/before", "update/after", "update/moved"),
    }
