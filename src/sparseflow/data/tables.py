"""Images in parquet or Arrow files: random access that reads no more than the row group an image is in."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from sparseflow.data.optional import optional
from sparseflow.data.splits import LABEL_COLUMN, checked_labels, find_tables, image_column
from sparseflow.disk import File, make_folder, naming, remove, rename, sync_folder, undoing

#: Row groups of a parquet file that one process keeps, in bytes of images. A dataset that is smaller is read once.
CACHE_BYTES = 256 * 2**20


@dataclass(frozen=True, eq=False)
class TableImages:
    """Rows of parquet or Arrow files, in the order of the files; see :func:`parquet_source`."""

    files: tuple[Path, ...]
    column: str
    labels: Tensor
    classes: tuple[str, ...]
    groups: tuple[tuple[int, int], ...]
    """File and number in it, of each row group."""
    starts: tuple[int, ...]
    """First row of each row group, then the number of all rows."""
    file_starts: tuple[int, ...]
    """First row of each file."""
    _cache: OrderedDict[int, Any] = field(default_factory=OrderedDict, repr=False)
    _readers: dict[int, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        # Memory maps do not pickle, and a process that was spawned opens its own.
        return self.__dict__ | {"_cache": OrderedDict(), "_readers": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def encoded(self, index: int) -> bytes:
        """Content of the image file in row ``index``; empty where the row has none."""
        group = bisect_right(self.starts, index) - 1
        value: bytes | None = self._images(group)[index - self.starts[group]].as_py()
        return value or b""

    def name(self, index: int) -> str:
        """File and row, for messages."""
        file = bisect_right(self.file_starts, index) - 1
        return f"{self.files[file].name}, row {index - self.file_starts[file]}"

    def _images(self, group: int) -> Any:
        if group in self._cache:
            self._cache.move_to_end(group)
            return self._cache[group]
        file, number = self.groups[group]
        if file not in self._readers:
            self._readers[file] = _open(self.files[file])
        images = _read_group(self._readers[file], number, self.column)
        self._cache[group] = images
        while len(self._cache) > 1 and sum(kept.nbytes for kept in self._cache.values()) > CACHE_BYTES:
            self._cache.popitem(last=False)
        return images


def parquet_source(where: Path | str, split: str) -> TableImages:
    """The images of one split in parquet files as the Hugging Face hub has them, or in Arrow files of :func:`unpack`.

    One column ``image`` or ``img`` is a struct with the file's content in ``bytes``, one column ``label`` an integer.
    Class names come from the files' metadata if they have them. Reading an image reads its row group, of which each
    process keeps :data:`CACHE_BYTES`: enough for CIFAR-10 as it is. For ImageNet in random order call :func:`unpack`.

    Args:
        where: One file, which is taken whatever its name, or a folder with ``<split>.parquet``,
            ``<split>-00000-of-00014.parquet`` and so on, or ``<split>/*.parquet``, up to two folders down.
        split: ``"train"``, ``"validation"`` (or ``val``) or ``"test"``.

    Raises:
        FileNotFoundError: if the folder has no such split, or shards of it are missing.
        ValueError: if files of the split lie in two folders, are of both kinds or damaged, or lack a column or labels.
        ModuleNotFoundError: without pyarrow.
    """
    files = find_tables(Path(where), split)
    labels: list[int | None] = []
    groups: list[tuple[int, int]] = []
    starts, file_starts = [0], []
    column, classes = "", None
    for number, path in enumerate(files):
        file_starts.append(starts[-1])
        reader = _open(path)
        found = image_column(_schema(reader).names, path)
        if column and found != column:
            raise ValueError(
                f"{path} calls its images {found!r}, {files[0]} {column!r}. Put one dataset into a folder."
            )
        column, classes = found, classes or _class_names(_schema(reader))
        file_labels, sizes = _labels_and_group_sizes(reader)
        labels += file_labels
        for group, size in enumerate(sizes):
            groups.append((number, group))
            starts.append(starts[-1] + size)
    table_labels, names = checked_labels(labels, classes, where=str(where))
    return TableImages(files, column, table_labels, names, tuple(groups), tuple(starts), tuple(file_starts))


def unpack(where: Path | str, split: str, to: Path | str) -> list[Path]:
    """Copy a split from parquet to Arrow files, from whose memory maps one image is read without its neighbours.

    It takes as much disk as the parquet files, because JPEGs do not compress, and is worth it where a row group is read
    for each image: ImageNet has 100 images in a group.

    Args:
        where: As for :func:`parquet_source`; read the result with it, by the folder ``to``.
        split: Name of the split.
        to: Folder of the new files; files that are there are left alone, so an interrupted copy goes on.

    Returns: the new files.

    Raises:
        FileNotFoundError, ValueError: as :func:`parquet_source`.
    """
    arrow, ipc = optional("pyarrow"), optional("pyarrow.ipc")
    copies = []
    make_folder(Path(to))
    for path in find_tables(Path(where), split, suffixes=[".parquet"]):
        copy = Path(to) / f"{path.stem}.arrow"
        copies.append(copy)
        if copy.exists():
            continue
        reader = _open(path)
        partial = copy.with_suffix(".partial")
        with undoing(lambda partial=partial: remove(partial)), naming(copy, "write"):  # type: ignore[misc]
            with arrow.OSFile(str(partial), "wb") as sink, ipc.new_file(sink, reader.schema_arrow) as writer:
                for group in range(reader.num_row_groups):
                    writer.write_table(reader.read_row_group(group, use_threads=False))
            with File(partial, "existing", called=copy) as written:
                written.sync()
            rename(partial, copy, called=copy)
            sync_folder(copy.parent)
    return copies


def _open(path: Path) -> Any:
    arrow, ipc, parquet = optional("pyarrow"), optional("pyarrow.ipc"), optional("pyarrow.parquet")
    try:
        if path.suffix == ".arrow":
            return ipc.open_file(arrow.memory_map(str(path)))
        return parquet.ParquetFile(path, memory_map=True)
    except ValueError as error:
        raise ValueError(f"{path} is not intact: {error} Fetch or unpack it again.") from error


def _schema(reader: Any) -> Any:
    return reader.schema_arrow if hasattr(reader, "schema_arrow") else reader.schema


def _read_group(reader: Any, number: int, column: str) -> Any:
    """The files in a row group, a chunked array of bytes."""
    if hasattr(reader, "schema_arrow"):
        return reader.read_row_group(number, columns=[f"{column}.bytes"], use_threads=False).flatten().column(0)
    table = optional("pyarrow").Table.from_batches([reader.get_batch(number)])
    return table.select([column]).flatten().column(f"{column}.bytes")


def _labels_and_group_sizes(reader: Any) -> tuple[list[int | None], list[int]]:
    if hasattr(reader, "schema_arrow"):
        sizes = [reader.metadata.row_group(group).num_rows for group in range(reader.num_row_groups)]
        return reader.read(columns=[LABEL_COLUMN], use_threads=False).column(0).to_pylist(), sizes
    labels = [reader.get_batch(number).column(LABEL_COLUMN).to_pylist() for number in range(reader.num_record_batches)]
    return [label for batch in labels for label in batch], [len(batch) for batch in labels]


def _class_names(schema: Any) -> tuple[str, ...] | None:
    """The class names that the datasets library stores with a column of labels."""
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = features.get(LABEL_COLUMN, {}).get("names")
    return None if names is None else tuple(names)
