"""The command ``export``: a trained model as a file of one format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from torch import Tensor, nn

from sparseflow._checks import check_choice
from sparseflow.cli.options import OptionalPath, check_folders, one_line_if_missing
from sparseflow.formats.checkpoint import read_saved
from sparseflow.formats.write import write
from sparseflow.training.runs import end_of, load_run
from sparseflow.training.setup import dense_network


class _File(NamedTuple):
    """How a format's file is named, and what a user types to read it."""

    ending: str
    read: str
    """With ``{path}``, and ``{weight}`` for the file name of one sparse weight."""


#: ONNX, which needs a graph, and the formats of numbers and names of :data:`sparseflow.formats.write.FORMATS`.
FILES: dict[str, _File] = {
    "engine": _File(".sparse.safetensors", "sparseflow.engine.load(model, {path!r})"),
    "safetensors": _File(".dense.safetensors", "model.load_state_dict(safetensors.torch.load_file({path!r}))"),
    "onnx": _File(".onnx", "onnxruntime.InferenceSession({path!r})"),
    "scipy": _File(".scipy", "scipy.sparse.load_npz({weight!r}), for each weight"),
    "binsparse": _File(".binsparse", "binsparse.load_binsparse({weight!r}), for each weight"),
}


@dataclass(frozen=True)
class Export:
    """Write a trained model: its active weights alone, or for other tools."""

    source: tyro.conf.Positional[Path]
    """Folder of a finished run, or a dense state dict (.safetensors, .pt) with zeros."""
    format: str = "engine"
    """engine: active weights, 5 bytes each; safetensors, onnx: dense with zeros; scipy, binsparse: folders of CSR."""
    out: OptionalPath = None
    """None: <run>/model.<format>, or beside <file>."""
    sparse: bool = False
    """Sparse weights in ONNX, for onnxruntime alone."""

    def run(self) -> None:
        """Write, and print the size and how to read it."""
        check_choice(self.format, FILES, name="format")
        if self.sparse and self.format != "onnx":
            raise ValueError(f"--sparse goes with --format onnx, got {self.format}. Leave it out.")
        model, masks = self._model()
        state = model.state_dict() if isinstance(model, nn.Module) else model
        out = self.out or default_out(self.source, FILES[self.format].ending)
        check_folders(out)
        if out.exists() and self.source.is_file() and out.samefile(self.source):
            raise ValueError(f"{out} is what is read. Name another file with --out.")
        with one_line_if_missing():
            size = (
                self._onnx(model, out) if self.format == "onnx" else write(model, out, format=self.format, masks=masks)
            )
        weights = [tensor for tensor in state.values() if tensor.dim() > 1]
        active, total = sum(int(w.count_nonzero()) for w in weights), sum(w.numel() for w in weights)
        dense = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        matrix = next(iter(sorted(out.glob("*.npz"))), None)
        print(f"{out}: {size:,} bytes, {100 * size / dense:.1f} % of {dense:,} for the dense model")
        print(
            f"{active:,} of {total:,} weights are not zero. "
            f"To read it: {FILES[self.format].read.format(path=str(out), weight=str(matrix))}"
        )

    def _model(self) -> tuple[nn.Module | Mapping[str, Tensor], dict[str, Tensor] | None]:
        """What is written, and its masks; those of a state dict are its zeros."""
        if self.source.is_dir():
            return trained(self.source)
        if self.format == "onnx":
            raise ValueError(
                "--format onnx needs the folder of a run: a state dict has no graph. In Python: "
                "sparseflow.engine.to_onnx(model, example, path)"
            )
        return read_state(self.source), None

    def _onnx(self, model: nn.Module | Mapping[str, Tensor], out: Path) -> int:
        from sparseflow.engine.files.onnx import to_onnx

        assert isinstance(model, nn.Module)
        example = torch.zeros(1, *load_run(self.source).config.image_shape)
        return to_onnx(model, example, out, sparse=self.sparse)


def default_out(source: Path, ending: str) -> Path:
    """The file in a run's folder, or beside a file, that a format is written to.

    >>> print(default_out(Path("nets/best.pt"), ".onnx"))
    nets/best.onnx
    """
    return source / f"model{ending}" if source.is_dir() else source.with_suffix(ending)


def trained(folder: Path) -> tuple[nn.Sequential, dict[str, Tensor]]:
    """Network and masks at the end of a finished run.

    Raises:
        FileNotFoundError: if the folder holds no finished run, or its last checkpoint was removed.
        ValueError: if a file is damaged.
    """
    config = load_run(folder).config
    state = end_of(folder, config.steps)
    if state is None:
        raise FileNotFoundError(
            f"{folder} has no checkpoint of its last step, {config.steps}. Delete it and run again."
        )
    model = dense_network(config)
    model.load_state_dict(state["model"])
    return model, state["masks"]


def read_state(path: Path) -> dict[str, Tensor]:
    """A dense state dict from a safetensors file or from what ``torch.save`` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no run and no file {path}. Name the folder of a run, or a state dict.")
    if path.suffix != ".safetensors":
        state = read_saved(path)
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            held = f"with the keys {', '.join(map(str, state))}" if isinstance(state, dict) else "but something else"
            raise ValueError(f"{path} holds no state dict, {held}. Save it alone: torch.save(model.state_dict(), path)")
        return state
    import safetensors
    import safetensors.torch

    try:
        state = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not an intact safetensors file ({error}).") from error
    if any(name.endswith(":gaps") for name in state):
        raise ValueError(f"{path} is an export already. Its dense state: sparseflow.engine.load_state({str(path)!r})")
    return state
