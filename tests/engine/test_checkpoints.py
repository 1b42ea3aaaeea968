"""States of converted models, written and read by other people's code: no layer is left as it was made."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.rng import stream


class Classifier(nn.Module):
    """A model that saves and loads as those of Hugging Face do: what a checkpoint lacks is made at random."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(x)))  # type: ignore[no-any-return]

    def save_pretrained(self, folder: Path, *, state_dict: dict[str, Tensor] | None = None) -> None:
        state = self.state_dict() if state_dict is None else state_dict
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        model = cls()
        model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
        return model


def masked(seed: int = 0, sparsity: float = 0.7) -> tuple[Classifier, dict[str, Tensor]]:
    torch.manual_seed(seed)
    model = Classifier()
    masks = sf.random_masks(model, sparsity, seed=seed)
    return sf.apply_masks_(model, masks), masks


def inputs() -> Tensor:
    return torch.randn(5, 12, generator=stream(0, "x"))


@pytest.mark.parametrize("given", [False, True], ids=["own state", "state given"])
def test_a_converted_model_saves_what_its_class_loads(tmp_path: Path, given: bool) -> None:
    model, masks = masked()
    sparse = sf.engine.convert(model, masks)
    sparse.save_pretrained(tmp_path, **({"state_dict": sparse.state_dict()} if given else {}))  # type: ignore[operator]
    torch.testing.assert_close(Classifier.from_pretrained(tmp_path)(inputs()), model(inputs()))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: reloaded(model)], ids=["copy", "pickle"])
def test_copies_save_themselves(tmp_path: Path, copied: Any) -> None:
    sparse = sf.engine.convert(*masked())
    twin = copied(sparse)
    with torch.no_grad():
        twin.head.values.zero_()
    twin.save_pretrained(tmp_path)
    assert not Classifier.from_pretrained(tmp_path).head.weight.any()


def reloaded(model: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_a_pretrained_checkpoint_goes_on_in_a_converted_model(tmp_path: Path) -> None:
    """Also where masks have moved since the conversion, and where active weights are zero: all counts are the same."""
    trained = sf.engine.convert(*masked(seed=1, sparsity=0.8))
    with torch.no_grad():
        trained.head.values[:2] = 0  # as after an update  # type: ignore[union-attr, index]
    trained.save_pretrained(tmp_path)  # type: ignore[operator]
    sparse = sf.engine.convert(*masked(seed=2))
    sparse.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    assert torch.equal(sparse(inputs()), trained(inputs()))
    for name, mask in sf.engine.masks_of(trained).items():
        assert torch.equal(sf.engine.masks_of(sparse)[name], mask)


def test_the_dense_form_saves_as_its_class_does(tmp_path: Path) -> None:
    model, masks = masked()
    sf.engine.to_dense(sf.engine.convert(model, masks)).save_pretrained(tmp_path)  # type: ignore[operator]
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())


class Hub(nn.Linear):
    def save_pretrained(self, folder: Path) -> None:
        raise AssertionError("must not be reached")


def test_a_save_pretrained_without_a_state_is_refused(tmp_path: Path) -> None:
    model = nn.Module()
    model.__class__ = type("Model", (nn.Module,), {"save_pretrained": Hub.save_pretrained})
    model.layer = nn.Linear(4, 4)
    sparse = sf.engine.convert(model, sf.random_masks(model, 0.5, seed=0))
    with pytest.raises(TypeError, match=r"of Model takes no state_dict.*to_dense\(model\)\.save_pretrained"):
        sparse.save_pretrained(tmp_path)  # type: ignore[operator]


@pytest.mark.parametrize("strict", [True, False])
def test_a_dense_layer_refuses_the_state_of_a_sparse_one(strict: bool) -> None:
    model, masks = masked()
    with pytest.raises(RuntimeError, match=r"size mismatch for head\.weight"):
        Classifier().load_state_dict(sf.engine.convert(model, masks).state_dict(), strict=strict)


@pytest.mark.parametrize("strict", [True, False])
def test_states_go_through_files(strict: bool) -> None:
    sparse, other = sf.engine.convert(*masked(seed=1)), sf.engine.convert(*masked(seed=2))
    file = io.BytesIO()
    torch.save(sparse.state_dict(), file)
    file.seek(0)
    found = other.load_state_dict(torch.load(file, weights_only=True), strict=strict)
    assert (found.missing_keys, found.unexpected_keys) == ([], [])
    assert torch.equal(other(inputs()), sparse(inputs()))


@pytest.mark.parametrize("strict", [True, False])
def test_a_dense_checkpoint_goes_into_a_converted_model_or_is_refused(strict: bool) -> None:
    model, masks = masked()
    sparse = sf.engine.convert(Classifier(), masks)
    sparse.load_state_dict(model.state_dict(), strict=strict)
    torch.testing.assert_close(sparse(inputs()), model(inputs()))
    before = {name: tensor.clone() for name, tensor in sparse.state_dict().items() if not name.startswith("norm")}
    with pytest.raises(ValueError, match=r"body\.0\.weight is nonzero where this layer has no weights"):
        sparse.load_state_dict(Classifier().state_dict(), strict=strict)
    assert all(torch.equal(sparse.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"body.0.values": torch.ones(3)},
            r"body\.0\.values must have 58 numbers, .* got \(3,\)",
        ),
        ({"body.0.begins": torch.zeros(4, dtype=torch.int32)}, r"body\.0\.begins and .* are of another layer"),
        ({"body.0.indices": torch.zeros(58, dtype=torch.int32)}, "must ascend without repetition"),
    ],
)
def test_a_state_that_does_not_fit_itself_is_refused(change: dict[str, Tensor], message: str) -> None:
    sparse = sf.engine.convert(*masked())
    assert sparse.state_dict()["body.0.values"].shape == (58,)
    before = sparse(inputs())
    with pytest.raises(ValueError, match=message):
        sparse.load_state_dict({**sparse.state_dict(), **change})
    assert torch.equal(sparse(inputs()), before)
