"""The command about what other tools left: ``import`` reads it and writes plain files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sparseflow.ranges import Range


@dataclass(frozen=True)
class Import:
    """Read a network that another tool made sparse; write dense weights with zeros, and masks."""

    source: tyro.conf.Positional[Path]
    """Checkpoint (.safetensors, .pt, .pth, .bin, .ckpt), or a folder of Hugging Face's libraries."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """For model.safetensors and masks.safetensors; None: <source>-imported."""
    at_least: Annotated[float, Range(0, 1)] = 0.01
    """Fraction of zeros from which a weight without a mask counts as sparse."""

    def run(self) -> None:
        """Read, print what was found, write."""
        from sparseflow.formats.dense import MASKS, STATE, write_dense
        from sparseflow.formats.read import read

        found = read(self.source, at_least=self.at_least)
        out = self.out or _default_out(self.source)
        written = write_dense(found, out, source=self.source)
        print(found)
        print(f"{out}: {', '.join(path.name for path in written)}")
        print(
            f"To train on: model.load_state_dict(safetensors.torch.load_file({str(out / STATE)!r})) and "
            f"sf.load_masks({str(out / MASKS)!r})"
        )


def _default_out(source: Path) -> Path:
    whole = source.resolve()
    return whole.with_name(f"{whole.stem if whole.is_file() else whole.name}-imported")
