"""``sparseflow data``: the datasets that are here, and where they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Column, Table

_out = Console()

_OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]


@dataclass(frozen=True)
class Data:
    """List the datasets, fetch one, or print where it is."""

    action: tyro.conf.Positional[Literal["list", "fetch", "path"]]
    """What to do."""
    name: tyro.conf.Positional[str] = "mnist"
    """mnist-5k, mnist or fashion-mnist."""
    root: _OptionalPath = None
    """Folder of datasets; None: $SPARSEFLOW_DATA, else the user's cache."""

    def run(self) -> None:
        """Print the answer."""
        from sparseflow.data.digits import data_path, dataset_status, fetch

        if self.action == "path":
            print(data_path(self.name, self.root))
        elif self.action == "fetch":
            print(fetch(self.name, self.root))
        else:
            table = Table("dataset", "here", "size", Column("where it is, or would be", overflow="fold"))
            for status in dataset_status(self.root):
                size = f"{status.num_bytes / 1e6:.1f} MB" if status.is_present else "-"
                table.add_row(status.name, "yes" if status.is_present else "no", size, str(status.path))
            _out.print(table)
