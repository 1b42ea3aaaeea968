"""What other tools left, read: against what each tool itself says its dense weights are; and files that are broken.

The files in ``left`` were written by the tools: see ``tests/helpers/write_left.py``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import sparseflow as sf
from sparseflow.formats import imported, read
from sparseflow.formats.dense import write_dense

safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")

LEFT = Path(__file__).parent / "left"
FILES = {
    "llama-sparse-bitmask": "sparse-bitmask",
    "llama-sparse-24-bitmask": "sparse-24-bitmask",
    "tensors.safetensors": "sparse-bitmask",
    "llm-compressor": "zeros",
    "nncf-magnitude.pt": "NNCF",
    "nncf2-magnitude.pt": "NNCF",
    "nncf2-regularised.pt": "NNCF",
    "nncf-regularised.pt": "NNCF",
    "sparseml.pth": "SparseML",
    "sparseml-zeros.pth": "zeros",
    "sparsimony.pt": "sparsimony",
}


def dense_of(name: str) -> dict[str, Tensor]:
    return safetensors.load_file(LEFT / f"{Path(name).stem}-dense.safetensors")  # type: ignore[no-any-return]


@pytest.mark.parametrize(("name", "kind"), FILES.items())
def test_the_weights_are_those_of_the_tool_bit_for_bit(name: str, kind: str) -> None:
    found, expected = read(LEFT / name), dense_of(name)
    assert found.state.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found.state[key].dtype == tensor.dtype
        assert torch.equal(found.state[key], tensor), key
    assert found.masks
    assert set(found.formats.values()) == {kind}
    assert list(found.masks) == list(found.formats)
    for key, mask in found.masks.items():
        assert not found.state[key][~mask].any()
        if kind != "sparse-24-bitmask":  # which keeps two of four, zero or not
            assert torch.equal(mask, expected[key] != 0)


def test_two_of_four_stay_active_where_they_are_zero(tmp_path: Path) -> None:
    bits = torch.tensor([[0b00110101]], dtype=torch.uint8)
    parts = {
        "fc.compressed": torch.tensor([[1.0, 0.0, 2.0, 0.0]]),
        "fc.bitmask": bits,
        "fc.shape": torch.tensor([[1], [8]]),
    }
    found = imported(parts)
    assert found.masks["fc.weight"].int().tolist() == [[1, 0, 1, 0, 1, 1, 0, 0]]
    assert found.state["fc.weight"].tolist() == [[1, 0, 0, 0, 2, 0, 0, 0]]


def test_a_model_imported_computes_what_the_tool_s_model_did(tmp_path: Path) -> None:
    """The class of transformers loads the folder that is written, and is trained on its masks."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed")
    source = LEFT / "llama-sparse-bitmask"
    write_dense(read(source), tmp_path / "out", source=source)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    expected = dense_of("llama-sparse-bitmask")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    masks = sf.load_masks(tmp_path / "out" / "masks.safetensors")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0)
    tokens = torch.arange(8)[None] + 3
    model(tokens, labels=tokens).loss.backward()
    optimizer.step()
    sparsifier.check()


# --- what torch itself leaves -----------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(16, 6)


def pruned() -> Net:
    torch.manual_seed(0)
    net = Net()
    prune.l1_unstructured(net.conv, "weight", 0.5)
    prune.random_unstructured(net.fc, "weight", 0.25)
    return net


def plain(net: nn.Module) -> dict[str, Tensor]:
    return dict(sf.remove_pruning_(net).state_dict())


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(tensor, expected[key]) for key, tensor in found.items())


@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state_dict"])
def test_pruning_of_torch_in_a_checkpoint_of_training(tmp_path: Path, key: str | None) -> None:
    net = pruned()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    state = net.state_dict()
    torch.save({key: state, "optimizer": optimizer.state_dict(), "epoch": 3} if key else state, tmp_path / "model.ckpt")
    found = read(tmp_path / "model.ckpt")
    assert same(found.masks, sf.masks_of(net))
    assert same(found.state, plain(net))
    assert set(found.formats.values()) == {"torch.nn.utils.prune"}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_pruning_of_torch_ao_is_read_once_it_is_permanent(tmp_path: Path) -> None:
    """Before that its state dict has no masks, which the error says."""
    from torch.ao.pruning import WeightNormSparsifier

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 8))
    sparsifier = WeightNormSparsifier(sparsity_level=0.5, sparse_block_shape=(1, 1), zeros_per_block=1)
    sparsifier.prepare(net, None)
    sparsifier.step()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"torch.ao.pruning saves no masks with a model: call its .*squash_mask"):
        read(tmp_path / "net.pt")
    sparsifier.squash_mask()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    assert read(tmp_path / "net.pt").formats == {"2.weight": "zeros", "3.weight": "zeros"}
    with pytest.raises(ValueError, match=r"is the mask of 'parametrizations.weight.original', which is not there"):
        imported({"parametrizations.weight.0.mask": torch.ones(2, 2)})


def test_zeros_behind_prefixes_of_wrappers(tmp_path: Path) -> None:
    net = sf.remove_pruning_(pruned())
    safetensors.save_file({f"module._orig_mod.{k}": v for k, v in net.state_dict().items()}, tmp_path / "m.safetensors")
    found = read(tmp_path / "m.safetensors")
    assert same(found.state, dict(net.state_dict()))
    assert found.formats == {"conv.weight": "zeros", "fc.weight": "zeros"}
    assert same(found.masks, sf.masks_of(net))
    assert str(found).splitlines()[-1] == "2 of 4 tensors are sparse, with 0.3182 zeros."  # 42 of 132


def test_several_files_with_an_index(tmp_path: Path) -> None:
    state = plain(pruned())
    parts = [dict(list(state.items())[:2]), dict(list(state.items())[2:])]
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name, part in zip(names, parts, strict=True):
        safetensors.save_file(part, tmp_path / name)
    weight_map = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    safetensors.save_file({"other": torch.ones(1)}, tmp_path / "training.safetensors")  # not in the index
    assert same(read(tmp_path).state, state)
    (tmp_path / names[1]).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"lacks model-00002-of-00002.safetensors, which model.safetensors.index"
    ):
        read(tmp_path)
    index.write_text(json.dumps({"weight_map": {"fc.weight": "../secret.safetensors"}}))
    with pytest.raises(ValueError, match="names files outside its folder"):
        read(tmp_path)


def test_nncf_2_and_a_weight_pruned_twice() -> None:
    """Names as NNCF 2.14 writes them, from its source (``nncf/torch/sparsity/layers.py``)."""
    weight = torch.tensor([[1.0, 2.0, 3.0]])
    state = {
        "nncf_module.fc.weight": weight,
        "nncf_module.fc.bias": torch.zeros(1),
        "nncf_module.fc.pre_ops.0.op._binary_mask": torch.tensor([[1.0, 0.0, 1.0]]),
        "nncf_module.fc.pre_ops.0.op._mask": torch.tensor([[4.0, -4.0, 4.0]]),
        "nncf_module.fc.pre_ops.0.op.uniform": torch.zeros(1, 3),
    }
    found = imported(state)
    assert found.state["fc.weight"].tolist() == [[1.0, 0.0, 3.0]]
    assert list(found.state) == ["fc.weight", "fc.bias"]
    hook = "__nncf_hooks.post_hooks.fc:weight__0.{}.binary_mask"
    twice = {"fc.weight": weight}
    for index, mask in enumerate(([[True, True, False]], [[False, True, True]])):
        twice[hook.format(index)] = torch.tensor(mask)
    found = imported(twice)
    assert found.state["fc.weight"].tolist() == [[0.0, 2.0, 0.0]]
    assert found.masks["fc.weight"].tolist() == [[False, True, False]]


# --- broken -----------------------------------------------------------------------------------------------------------


def bitmask_parts() -> dict[str, Tensor]:
    return {
        "fc.compressed": torch.tensor([1.0, 2.0, 3.0]),
        "fc.bitmask": torch.tensor([[0b101], [0b010]], dtype=torch.uint8),
        "fc.shape": torch.tensor([2, 3]),
        "fc.row_offsets": torch.tensor([0, 2]),
    }


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "too few values": ({"fc.compressed": torch.ones(2)}, "bitmask has 3 bits that are set, for 2 values"),
    "too many values": ({"fc.compressed": torch.ones(4)}, "bitmask has 3 bits that are set, for 4 values"),
    "a bit flipped": ({"fc.bitmask": torch.tensor([[7], [2]], dtype=torch.uint8)}, "has 4 bits that are set, for 3"),
    "padding": ({"fc.bitmask": torch.tensor([[0b1101], [2]], dtype=torch.uint8)}, "bits beyond the 3 entries of a row"),
    "transposed": ({"fc.shape": torch.tensor([3, 2])}, r"uint8 of shape \(2, 1\), and a weight of shape \(3, 2\)"),
    "another type": ({"fc.bitmask": torch.tensor([[5], [2]])}, r"bitmask is int64 of shape \(2, 1\)"),
    "offsets": ({"fc.row_offsets": torch.tensor([2, 0])}, "row offsets are not those of its bitmask"),
    "offsets short": ({"fc.row_offsets": torch.tensor([0])}, "row offsets are not those of its bitmask"),
    "offsets in floats": ({"fc.row_offsets": torch.tensor([0.0, 2.5])}, "row offsets are torch.float32"),
    "a negative shape": ({"fc.shape": torch.tensor([-2, 3])}, r"says \[-2, 3\], which is no shape of a weight"),
    "an absurd shape": ({"fc.shape": torch.tensor([2**40, 2**40])}, "which is no shape of a weight"),
    "no axes": ({"fc.shape": torch.empty(0, dtype=torch.int64)}, r"says \[\], which is no shape of a weight"),
    "a shape in floats": ({"fc.shape": torch.tensor([2.0, 3.0])}, "is torch.float32, and a shape is int64"),
    "no shape": ({"fc.shape": None}, "'fc' has no shape beside its bitmask"),
    "quantised": ({"fc.compressed": torch.ones(3, dtype=torch.int8)}, "torch.int8, so the weights are quantised"),
    "fp8": ({"fc.compressed": torch.ones(3).to(torch.float8_e4m3fn)}, "float8_e4m3fn, so the weights are quantised"),
    "twice": ({"fc.weight": torch.zeros(2, 3)}, "'fc.weight' is there twice, as sparse-bitmask and as it is"),
    "packed": ({"o.weight_packed": torch.ones(3)}, "'o.weight_packed' belongs to a quantised weight"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_parts_that_contradict_each_other_are_one_sentence_and_nothing_is_written(tmp_path: Path, case: str) -> None:
    change, message = BROKEN[case]
    state = {name: tensor for name, tensor in (bitmask_parts() | change).items() if tensor is not None}
    file = tmp_path / "model.safetensors"
    safetensors.save_file(state, file)
    with pytest.raises(ValueError, match=message) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_of_a_matrix_of_two_of_four() -> None:
    parts = {"fc.compressed": torch.ones(3), "fc.bitmask": torch.tensor([[0b111]], dtype=torch.uint8)}
    with pytest.raises(ValueError, match="it has 3 values of 8, which are not two of every four"):
        imported({**parts, "fc.shape": torch.tensor([1, 8])})


def test_a_mask_without_its_weight_or_of_another_shape() -> None:
    hook = "__nncf_hooks.post_hooks.fc:weight__0.0.binary_mask"
    for name in (hook, "fc.weight.sparsity_mask"):
        with pytest.raises(ValueError, match=f"{name!r} is the mask of 'fc.weight', which is not there"):
            imported({name: torch.ones(2, 2)})
        with pytest.raises(ValueError, match=r"mask of 'fc.weight' has shape \(2, 2\), its weight \(3,\)"):
            imported({name: torch.ones(2, 2), "fc.weight": torch.ones(3)})
        with pytest.raises(ValueError, match=r"mask of 'fc.weight' has entries that are neither 0 nor 1"):
            imported({name: torch.full((3,), 0.5), "fc.weight": torch.ones(3)})
    with pytest.raises(ValueError, match=r"fc:weight__0.0.scale' is no mask: of NNCF models that are quantised too"):
        imported({hook.replace("binary_mask", "scale"): torch.ones(1), "fc.weight": torch.ones(3, 3)})


def test_a_dense_network_says_so() -> None:
    with pytest.raises(ValueError, match=r"nothing in it is sparse: .* Its 1 tensors begin with 'fc.weight'"):
        imported({"fc.weight": torch.ones(2, 2)})


@pytest.mark.parametrize("name", [name for name in FILES if (LEFT / name).is_file()])
def test_truncated_files(tmp_path: Path, name: str) -> None:
    """Cut at every tenth of its length."""
    data = (LEFT / name).read_bytes()
    for tenth in range(10):
        file = tmp_path / name
        file.write_bytes(data[: len(data) * tenth // 10])
        with pytest.raises(ValueError, match=rf"{name}.* is damaged \(.*\)\. Save") as caught:
            read(file)
        assert "\n" not in str(caught.value)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file and no folder .*none.pt. Name a checkpoint"):
        read(tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError, match=r"holds no weights: none of \*.safetensors"):
        read(tmp_path)
    (tmp_path / "model.h5").write_bytes(b"")
    with pytest.raises(ValueError, match=r"model.h5 is none of .safetensors, .bin, .pt, .pth, .ckpt"):
        read(tmp_path / "model.h5")
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    with pytest.raises(ValueError, match=r"holds no state dict, with the keys epoch. Save it alone"):
        read(tmp_path / "epoch.pt")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds no state dict, but something else"):
        read(tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"written by sparseflow.engine.save; read it with sparseflow.engine"):
        imported({"fc.weight:gaps": torch.ones(1)})
    with pytest.raises(ValueError, match="two names are the same without the prefixes of wrappers"):
        imported({"fc.weight": torch.ones(1), "module.fc.weight": torch.ones(1)})


def test_a_checkpoint_with_code_in_it_runs_none(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model.pt is damaged|holds other things") as caught:
        read(tmp_path / "model.pt")
    assert "\n" not in str(caught.value)


def test_the_same_name_in_two_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        safetensors.save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=r"b.safetensors has 'fc.weight', which another file of"):
        read(tmp_path)


# --- written ----------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_by_safetensors_and_by_us(tmp_path: Path) -> None:
    found = read(LEFT / "tensors.safetensors")
    written = write_dense(found, tmp_path / "new" / "folder")
    assert [path.name for path in written] == ["masks.safetensors", "model.safetensors"]
    assert same(safetensors.load_file(written[1]), found.state)
    assert same(sf.load_masks(written[0]), found.masks)
    first = written[1].read_bytes()
    write_dense(found, tmp_path / "new" / "folder")
    assert written[1].read_bytes() == first


def test_the_folder_that_is_read_is_not_written_to(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(LEFT / "llama-sparse-bitmask", source)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    with pytest.raises(ValueError, match=r"is what is read. Name another folder with --out"):
        write_dense(read(source), source, source=source)
    (source / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config.json is damaged \(it holds no object\)"):
        write_dense(read(source), tmp_path / "out", source=source)
    assert not (tmp_path / "out").exists()
    before["config.json"] = b"[]"
    assert before == {path.name: path.read_bytes() for path in source.iterdir()}
