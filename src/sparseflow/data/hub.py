"""Images of a dataset on the Hugging Face hub, through the package ``datasets``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sparseflow.data.optional import optional
from sparseflow.data.splits import LABEL_COLUMN, checked_labels, image_column


@dataclass(frozen=True, eq=False)
class HubImages:
    """Rows of a split that ``datasets`` holds in its cache; see :func:`hub_source`."""

    dataset: Any
    title: str
    column: str
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, index: int) -> bytes:
        """Content of the image file in row ``index``; empty where the row has none."""
        row = self.dataset[index][self.column] or {}
        content: bytes | None = row.get("bytes")
        if content is None and row.get("path"):
            content = Path(row["path"]).read_bytes()
        return content or b""

    def name(self, index: int) -> str:
        """Dataset, split and row, for messages."""
        return f"{self.title}, row {index}"


def hub_source(name: str, split: str) -> HubImages:
    """The images of one split of a dataset on the Hugging Face hub.

    The first call fetches all splits into the cache of ``datasets`` (``HF_HOME``; ImageNet: about 160 GB, twice), from
    where rows are memory-mapped: random access is as fast as from a folder. ImageNet is open only to those who have
    accepted its terms.

    Args:
        name: Such as ``"ILSVRC/imagenet-1k"`` or ``"uoft-cs/cifar10"``; a folder that ``datasets`` can load will do.
        split: As the dataset names it: ``"train"``, ``"validation"``, ``"test"``.

    Raises:
        ValueError: if the dataset cannot be loaded, has no such split, or lacks columns or labels.
        ModuleNotFoundError: without the package ``datasets``.
    """
    datasets = optional("datasets")
    try:
        dataset = datasets.load_dataset(name, split=split)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot load the split {split!r} of {name!r} from the Hugging Face hub: {error} Check the name and the "
            "connection. For a gated dataset such as ILSVRC/imagenet-1k accept its terms on its page, then type: "
            "hf auth login. Or give a folder of parquet files."
        ) from error
    column = image_column(dataset.column_names, name)
    label = dataset.features[LABEL_COLUMN]
    labels, classes = checked_labels(dataset[LABEL_COLUMN][:], getattr(label, "names", None), where=f"{name} {split}")
    # Without decoding rows hold the bytes of the files, and pixels are ours to decode once.
    dataset = dataset.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    return HubImages(dataset, f"{name} {split}", column, labels, classes)
