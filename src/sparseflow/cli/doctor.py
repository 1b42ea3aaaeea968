"""``sparseflow doctor``: why the network of a run, or of a state dict, does not learn."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

import sparseflow as sf
from sparseflow.cli.bench import imported, made_by
from sparseflow.cli.export import read_state
from sparseflow.doctor import Diagnosis
from sparseflow.ranges import Count
from sparseflow.training.runs import CHECKPOINTS, CONFIG, SNAPSHOTS

_OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]
_OptionalName = Annotated[str | None, tyro.conf.arg(metavar="PACKAGE.MODULE:FUNCTION")]


@dataclass(frozen=True)
class Doctor:
    """Say why a sparse network does not learn, and what to type."""

    source: tyro.conf.Positional[Path]
    """Folder of a run, finished or not, one of its checkpoints, or a state dict with zeros (.safetensors, .pt)."""
    model: _OptionalName = None
    """Of a state dict: returns the network."""
    batches: _OptionalName = None
    """Of a state dict: returns batches, such as [(x, y)]."""
    data: _OptionalPath = None
    """Folder of datasets; None: $SPARSEFLOW_DATA, else the user's cache."""
    examples: Count = 512
    """Training images to look at; of runs."""
    json: bool = False
    """Print the findings as JSON."""

    def run(self) -> None:
        """Print the diagnosis; the exit code is 1 if there is a finding, as linters have it."""
        found = self._of_state() if self.model or self.batches else self._of_run()
        print(json.dumps(found.to_dicts(), indent=2) if self.json else found)
        if found:
            raise SystemExit(1)

    def _of_run(self) -> Diagnosis:
        from sparseflow.training.diagnosis import diagnose_run

        folder, step = self.source, None
        if folder.parent.name in (CHECKPOINTS, SNAPSHOTS) and folder.stem.isdecimal():
            folder, step = folder.parents[1], int(folder.stem)
        if not (folder / CONFIG).is_file():
            raise ValueError(
                f"{self.source} is no run, and no checkpoint of one. For the state dict of a network of your own say "
                "what makes it and its batches: --model package.module:function --batches package.module:function"
            )
        return diagnose_run(folder, step=step, data_root=self.data, examples=self.examples)

    def _of_state(self) -> Diagnosis:
        if self.model is None or self.batches is None:
            raise ValueError("--model and --batches belong together: give both, or neither.")
        model = imported(self.model)
        model.load_state_dict(read_state(self.source))
        masks = {name: weight.parameter.detach() != 0 for name, weight in sf.prunable(model).items()}
        return sf.diagnose(model, masks, made_by(self.batches))
