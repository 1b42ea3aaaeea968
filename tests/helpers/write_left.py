"""Write the files of ``tests/formats/left`` with the tools that left such files, each in an environment of its own.

    python tests/helpers/write_left.py llama  # compressed-tensors 0.14.0, transformers 5.24.0
    python tests/helpers/write_left.py tensors  # compressed-tensors 0.9.4 (another layout of the package than 0.14)
    python tests/helpers/write_left.py llm_compressor  # llm-compressor 0.14.0.1, transformers 5.17.0
    python tests/helpers/write_left.py nncf  # NNCF 3.4.0
    NNCF_TORCH_LEGACY_TRACING=1 python tests/helpers/write_left.py nncf2  # NNCF 2.19.0, torch 2.13.0
    python tests/helpers/write_left.py sparseml  # SparseML 1.8.0
    python tests/helpers/write_left.py sparsimony  # sparsimony 0.1.0

Beside each is what the tool itself says the dense weights are, in ``*-dense.safetensors``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

FOLDER = Path(__file__).parent.parent / "formats" / "left"


def _save_dense(name: str, state: dict[str, Tensor]) -> None:
    save_file({key: tensor.detach().clone().contiguous() for key, tensor in state.items()}, FOLDER / name)


def _small_llama() -> Any:
    """A Llama of 3,000 weights in bfloat16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 1, "vocab_size": 24, "head_dim": 6}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads)).to(torch.bfloat16)


def llama() -> None:
    """Two folders, as llm-compressor saved a pruned model before compressed-tensors 0.15."""
    from compressed_tensors import ModelCompressor
    from compressed_tensors.config import SparsityCompressionConfig

    for kind, structure in (("sparse-bitmask", "unstructured"), ("sparse-24-bitmask", "2:4")):
        model = _small_llama()
        for name, weight in model.named_parameters():
            if "proj" in name:
                largest = weight.detach().float().abs().view(-1, 4).topk(2, 1).indices
                pairs = torch.zeros(weight.numel() // 4, 4).scatter_(1, largest, 1).view(weight.shape)
                keep = pairs if structure == "2:4" else torch.rand(weight.shape) < 0.3
                weight.data *= keep.to(weight.dtype)
        config = SparsityCompressionConfig.load_from_registry(
            kind, sparsity_structure=structure, targets=["Linear"], ignore=["lm_head"], global_sparsity=0.7
        )
        compressor = ModelCompressor(sparsity_config=config)
        folder = FOLDER / f"llama-{kind}"
        model.save_pretrained(folder, state_dict=compressor.compress(model))
        compressor.update_config(folder)
        _save_dense(f"llama-{kind}-dense.safetensors", model.state_dict())


def llm_compressor() -> None:
    """A folder that its SparseGPT leaves now: dense, with zeros."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import SparseGPTModifier
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    vocabulary = WordLevel({str(number): number for number in range(24)}, unk_token="0")
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(vocabulary), unk_token="0", pad_token="0")
    with TemporaryDirectory() as folder:
        for part in (_small_llama(), words):
            part.save_pretrained(folder)
        tokens = torch.randint(24, (8, 16), generator=torch.Generator().manual_seed(0))
        data = Dataset.from_dict({"input_ids": tokens.tolist(), "attention_mask": torch.ones_like(tokens).tolist()})
        # A plain "lm_head" in ignore= is pruned nevertheless.
        recipe = SparseGPTModifier(sparsity=0.7, ignore=["re:.*lm_head"])
        sizes = {"num_calibration_samples": 8, "max_seq_length": 16}
        model = oneshot(model=folder, processor=words, dataset=data, recipe=recipe, **sizes)
        model.save_pretrained(FOLDER / "llm-compressor")
    _save_dense("llm-compressor-dense.safetensors", model.state_dict())


def tensors() -> None:
    """Weights of one to four axes in three precisions, rows of bits that end within a byte, and one without zeros."""
    from compressed_tensors.compressors.sparse_compressors.sparse_bitmask import BitmaskCompressor

    torch.manual_seed(0)
    shapes = {"conv": (4, 3, 3, 3), "conv1d": (3, 2, 5), "fc": (5, 11), "norm": (9,), "row": (1, 8), "full": (2, 3)}
    state: dict[str, Tensor] = {}
    for index, (name, shape) in enumerate(shapes.items()):
        dtype = (torch.float32, torch.bfloat16, torch.float16)[index % 3]
        keep = torch.ones(shape) if name == "full" else torch.rand(shape) < 0.4
        state[f"{name}.weight"] = (torch.randn(shape) * keep).to(dtype)
    state["fc.weight"][2] = 0  # an empty row
    state["fc.bias"] = torch.randn(5)
    save_file(BitmaskCompressor().compress(state), FOLDER / "tensors.safetensors")
    _save_dense("tensors-dense.safetensors", state)


class Net(nn.Module):
    """A convolution, a norm, a linear layer and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.block = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6))
        self.table = nn.Embedding(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Of images of 4 x 4."""
        out: Tensor = self.block(self.conv(x)) + self.table(torch.zeros(1, dtype=torch.long))
        return out


def nncf() -> None:
    """Pruned by magnitude and by regularisation; the dense weights are those that NNCF's own strip leaves."""
    import nncf as library

    modes = library.PruneMode
    example = torch.zeros(1, 1, 4, 4)
    for name, mode in (
        ("nncf-magnitude", modes.UNSTRUCTURED_MAGNITUDE_LOCAL),
        ("nncf-regularised", modes.UNSTRUCTURED_REGULARIZATION_BASED),
    ):
        torch.manual_seed(0)
        ratio = {"ratio": 0.7} if "MAGNITUDE" in mode.name else {}
        model: Any = library.prune(Net(), mode, examples_inputs=example, **ratio)
        for key, value in model.state_dict().items():
            if key.endswith("__0.0.mask"):  # as training would leave them
                value.copy_(torch.randn(value.shape))
        torch.save(model.state_dict(), FOLDER / f"{name}.pt")
        plain = library.strip(model, strip_format=library.StripFormat.IN_PLACE, example_input=example)
        _save_dense(f"{name}-dense.safetensors", plain.state_dict())


def nncf2() -> None:
    """The same with the API of NNCF 2; the dense weights are those that its own controller leaves."""
    from nncf import NNCFConfig
    from nncf.torch import create_compressed_model

    for name, algorithm in (("nncf2-magnitude", "magnitude_sparsity"), ("nncf2-regularised", "rb_sparsity")):
        torch.manual_seed(0)
        compression = {"algorithm": algorithm, "sparsity_init": 0.7}
        config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 1, 4, 4]}, "compression": compression})
        controller, model = create_compressed_model(Net(), config)
        for key, parameter in model.named_parameters():
            if key.endswith("op._mask"):  # as training would leave them
                parameter.data.copy_(torch.randn(parameter.shape))
        torch.save(model.state_dict(), FOLDER / f"{name}.pt")
        left = controller.strip(do_copy=True).state_dict()
        _save_dense(f"{name}-dense.safetensors", {key: left[key] for key in Net().state_dict()})


def sparseml() -> None:
    """A checkpoint of its exporter, in the middle of gradual magnitude pruning."""
    from sparseml.pytorch.optim import ScheduledModifierManager
    from sparseml.pytorch.sparsification.pruning import MagnitudePruningModifier
    from sparseml.pytorch.utils import ModuleExporter

    torch.manual_seed(0)
    model = Net()
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1)
    epochs = {"start_epoch": 0.0, "end_epoch": 4.0, "update_frequency": 1.0}
    sparsities = {"init_sparsity": 0.5, "final_sparsity": 0.8}
    modifier = MagnitudePruningModifier(params="__ALL_PRUNABLE__", **epochs, **sparsities)
    manager = ScheduledModifierManager([modifier])
    optimizer = manager.modify(model, optimizer, steps_per_epoch=2)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(3, 1, 4, 4)).square().mean().backward()
        optimizer.step()
    exporter = ModuleExporter(model, str(FOLDER))
    for name, with_masks in (("sparseml", True), ("sparseml-zeros", False)):
        exporter.export_pytorch(optimizer=optimizer, name=f"{name}.pth", include_modifiers=with_masks)
        (FOLDER / "training" / f"{name}.pth").rename(FOLDER / f"{name}.pth")
        # It saves whatever it is given as float32.
        _save_dense(f"{name}-dense.safetensors", {key: tensor.float() for key, tensor in model.state_dict().items()})
    (FOLDER / "training").rmdir()


def sparsimony() -> None:
    """Before its masks are made permanent; the dense weights are those that ``squash_mask`` leaves."""
    from sparsimony.distributions.base import UniformDistribution
    from sparsimony.dst.rigl import RigL
    from sparsimony.schedulers.base import CosineDecayScheduler

    torch.manual_seed(0)
    model = Net()
    schedule = CosineDecayScheduler(t_end=75, delta_t=10, pruning_ratio=0.3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier: Any = RigL(schedule, UniformDistribution(), optimizer, sparsity=0.5)
    sparsifier.prepare(model, [{"tensor_fqn": "conv.weight"}, {"tensor_fqn": "block.3.weight"}])
    torch.save(model.state_dict(), FOLDER / "sparsimony.pt")
    sparsifier.squash_mask()
    _save_dense("sparsimony-dense.safetensors", model.state_dict())


WRITERS: dict[str, Callable[[], None]] = {
    "llama": llama,
    "tensors": tensors,
    "llm_compressor": llm_compressor,
    "nncf": nncf,
    "nncf2": nncf2,
    "sparseml": sparseml,
    "sparsimony": sparsimony,
}

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for chosen in sys.argv[1:]:
        WRITERS[chosen]()
