"""Mask files: what is loaded is what was saved, or one clear error; never half a file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from sparseflow.masks.files import load_masks, save_masks
from sparseflow.masks.make import dense_masks, magnitude_masks, random_masks
from sparseflow.methods import SET, Static
from sparseflow.sealed import tensor_bytes
from sparseflow.sparsifier.sparsifier import Sparsifier


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(72, 20), nn.Linear(20, 5))


@pytest.mark.parametrize("scope", ["layer", "global"])  # global masks share one storage
def test_what_is_loaded_is_what_was_saved(tmp_path: Path, scope: str) -> None:
    masks = magnitude_masks(network().to(memory_format=torch.channels_last), 0.8, scope=scope)
    save_masks(masks, tmp_path / "a.safetensors")
    save_masks(masks, str(tmp_path / "a.safetensors"))  # over the old file, by a string
    loaded = load_masks(tmp_path / "a.safetensors")
    assert list(loaded) == list(masks)
    assert all(torch.equal(loaded[name], mask) for name, mask in masks.items())
    assert os.listdir(tmp_path) == ["a.safetensors"]
    written = (tmp_path / "a.safetensors").read_bytes()
    for _ in range(5):
        save_masks(masks, tmp_path / "a.safetensors")
        assert (tmp_path / "a.safetensors").read_bytes() == written


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "masks.safetensors"
    save_masks(random_masks(network(), 0.8, seed=0), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"masks.safetensors is damaged \(.*\). Save the masks again"):
        load_masks(path)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "masks.safetensors"
    path.write_bytes(b"\xff" * 500)
    with pytest.raises(ValueError, match=r"masks.safetensors is damaged \(.*\). Save the masks again"):
        load_masks(path)
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"w": torch.ones(3), "m": torch.ones(3, dtype=torch.bool)}, path)
    with pytest.raises(ValueError, match=r"is another kind of safetensors file, not .sparseflow masks."):
        load_masks(path)
    with pytest.raises(FileNotFoundError, match=r"none.safetensors"):
        load_masks(tmp_path / "none.safetensors")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    path = tmp_path / "masks.safetensors"
    old, new = random_masks(network(), 0.8, seed=0), random_masks(network(), 0.8, seed=1)
    save_masks(old, path)

    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"masks.safetensors in .* Free .* half-written"):
        save_masks(new, path)
    assert os.listdir(tmp_path) == [path.name]
    assert all(torch.equal(mask, old[name]) for name, mask in load_masks(path).items())


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "not allowed"), KeyboardInterrupt()])
def test_any_interruption_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def interrupted(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(type(error)):
        save_masks(dense_masks(network()), tmp_path / "masks.safetensors")
    assert os.listdir(tmp_path) == []


def test_without_safetensors_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    with pytest.raises(ModuleNotFoundError, match="files of tensors need safetensors: pip install safetensors"):
        save_masks(dense_masks(network()), tmp_path / "masks.safetensors")


def test_masks_of_now_are_written_from_a_sparsifier(tmp_path: Path) -> None:
    model = nn.Linear(64, 64)
    made = random_masks(model, 0.9, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = Sparsifier(model, optimizer, made, SET(update_every=1, regrow=False), seed=0)
    for _ in range(3):
        model(torch.randn(8, 64)).square().mean().backward()
        optimizer.step()
    save_masks(sparsifier, tmp_path / "masks.safetensors")
    loaded = load_masks(tmp_path / "masks.safetensors")
    assert torch.equal(loaded["weight"], sparsifier.masks["weight"])
    assert not torch.equal(loaded["weight"], made["weight"])


def test_masks_of_an_earlier_time_are_not_written(tmp_path: Path) -> None:
    """The variable that a user made the Sparsifier from; clones say that the start is meant."""
    path, model = tmp_path / "masks.safetensors", nn.Linear(64, 64)
    made = random_masks(model, 0.9, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = Sparsifier(model, optimizer, made, SET(update_every=2, regrow=False), seed=0)

    def step() -> None:
        model(torch.randn(8, 64)).square().mean().backward()
        optimizer.step()

    step()
    save_masks(made, path)  # nothing has moved yet
    step()
    with pytest.raises(ValueError, match=r"mask of 'weight' is one that a Sparsifier was made from.*Pass the Sparsifi"):
        save_masks(made, path)
    save_masks(sparsifier.masks, path)
    save_masks({name: mask.clone() for name, mask in made.items()}, path)
    assert torch.equal(load_masks(path)["weight"], made["weight"])
    sparsifier.remove()
    save_masks(made, path)  # nothing holds the weights any more


def test_bytes_other_than_0_and_1_are_no_masks(tmp_path: Path) -> None:
    """PyTorch keeps them, counts them by their value and multiplies with them."""
    path, model = tmp_path / "masks.safetensors", nn.Linear(2, 2)
    wrong = {"weight": torch.tensor([[1, 0], [0, 129]], dtype=torch.uint8).view(torch.bool)}
    with pytest.raises(ValueError, match=r"the mask of 'weight' has bytes that are neither 0 nor 1"):
        save_masks(wrong, path)
    path.write_bytes(tensor_bytes(wrong, format="sparseflow masks", version="1"))
    with pytest.raises(ValueError, match=r"masks.safetensors is damaged \(weight is no mask: .* of bytes 0 and 1"):
        load_masks(path)
    with pytest.raises(ValueError, match=r"the mask of 'weight' has bytes that are neither 0 nor 1"):
        Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), wrong, Static(), seed=0)
    with pytest.raises(TypeError, match=r"the mask of 'weight' must be a bool tensor, got torch.float32"):
        save_masks({"weight": torch.ones(2, 2)}, path)


def test_a_file_of_an_earlier_version_is_told_apart(tmp_path: Path) -> None:
    path, mask = tmp_path / "masks.safetensors", torch.ones(2, dtype=torch.bool)
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"w": mask}, path, metadata={"format": "sparseflow masks"})
    with pytest.raises(ValueError, match=r"it carries no SHA-256, as files of earlier versions do.*Save the masks aga"):
        load_masks(path)


def test_masks_that_are_not_made_of_the_block_are_not_written(tmp_path: Path) -> None:
    mask = torch.zeros(32, 16, dtype=torch.bool)
    mask[:4, :3] = True
    with pytest.raises(ValueError, match="'weight' is not made of blocks of 8 x 1: it has 12 active weights"):
        save_masks({"weight": mask}, tmp_path / "masks.safetensors", block=(8, 1))
    assert not list(tmp_path.iterdir())


def test_the_path_is_second(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"the masks first, then the path: sparseflow\.save_masks\(masks, path\)"):
        save_masks(tmp_path / "masks.safetensors", {})  # type: ignore[arg-type]
