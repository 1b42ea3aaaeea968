"""Image folders, parquet files and the hub: the same bytes give the same images, a wrong dataset one clear error."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from sparseflow.data import (
    CIFAR10,
    decode_all,
    folder_source,
    global_batch,
    hub_source,
    normalise,
    open_images,
    parquet_source,
    tables,
    unpack,
)

REPOSITORY = Path(__file__).parents[2]
REAL_DATA = Path(os.environ.get("SPARSEFLOW_TEST_DATA") or REPOSITORY.parent / "shared" / "data")


def jpeg(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


FILES = [jpeg(number) for number in range(12)]
LABELS = [number // 4 for number in range(12)]  # 4 of each of 3 classes
NAMES = ("ant", "bee", "cat")


def write_folder(root: Path, split: str = "train", classes: Sequence[str] = NAMES) -> Path:
    for number, (content, label) in enumerate(zip(FILES, LABELS, strict=True)):
        folder = root / split / classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02d}.JPEG").write_bytes(content)
    return root


def write_parquet(
    path: Path,
    rows: slice = slice(None),
    *,
    column: str = "image",
    labels: Sequence[int | None] = LABELS,
    names: Sequence[str] | None = None,
    group: int = 3,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": content, "path": f"{number}.jpg"} for number, content in enumerate(FILES)][rows]
    table = pa.table({column: images, "label": pa.array(labels[rows], pa.int64())})
    if names:
        features = {"label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=group)
    return path


def test_folder_parquet_and_arrow_hold_the_same(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder")
    for shard, rows in enumerate((slice(0, 5), slice(5, 12))):
        write_parquet(tmp_path / f"parquet/data/train-0000{shard}-of-00002.parquet", rows, column="img", names=NAMES)
    copies = unpack(tmp_path / "parquet", "train", tmp_path / "arrow")
    assert [copy.name for copy in copies] == [f"train-0000{shard}-of-00002.arrow" for shard in range(2)]
    sources = [open_images(tmp_path / kind, "train", num_classes=3) for kind in ("folder", "parquet", "arrow")]
    for source in sources:
        assert len(source) == 12
        assert source.classes == NAMES
        assert source.labels.tolist() == LABELS
        assert [source.encoded(index) for index in range(12)] == FILES
        again = pickle.loads(pickle.dumps(source))
        assert (again.encoded(11), again.name(11)) == (FILES[11], source.name(11))
    assert [source.name(6) for source in sources] == [
        "train/bee/06.JPEG",
        "train-00001-of-00002.parquet, row 1",
        "train-00001-of-00002.arrow, row 1",
    ]


def test_random_access_keeps_few_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = parquet_source(write_parquet(tmp_path / "train.parquet"), "train")
    monkeypatch.setattr(tables, "CACHE_BYTES", 1)
    for index in (11, 0, 5, 5, 3, 10):
        assert source.encoded(index) == FILES[index]
        assert len(source._cache) == 1
    monkeypatch.undo()
    assert [source.encoded(index) for index in range(12)] == FILES
    assert len(source._cache) == 4


def test_an_interrupted_unpacking_goes_on(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet")
    (copy,) = unpack(tmp_path, "train", tmp_path / "to")
    before = copy.stat().st_mtime_ns
    (tmp_path / "to" / "train.partial").write_bytes(b"cut")
    assert unpack(tmp_path, "train", tmp_path / "to") == [copy]
    assert copy.stat().st_mtime_ns == before
    expect(ValueError, r"is in .*/\*.parquet and in .*/to/\*.arrow. Give a folder that has it once", tmp_path, "train")
    copy.write_bytes(copy.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"train.arrow is not intact: .* Fetch or unpack it again"):
        open_images(tmp_path / "to", "train")


def test_a_row_without_bytes_is_an_empty_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [{"bytes": b"x"}, {"bytes": None}], "label": [0, 1]}), tmp_path / "train.parquet")
    assert open_images(tmp_path, "train").encoded(1) == b""


@pytest.mark.parametrize(
    "name",
    ["train.parquet", "train-00000-of-00001.parquet", "plain_text/train-00000-of-00001.parquet", "train/0000.parquet",
     "default/train/0000.parquet"],
)  # fmt: skip
def test_names_of_parquet_files(tmp_path: Path, name: str) -> None:
    write_parquet(tmp_path / name)
    write_parquet(tmp_path / name.replace("train", "test"), slice(0, 4))
    assert len(open_images(tmp_path, "train")) == 12
    assert len(open_images(tmp_path, "test")) == 4


def test_validation_may_be_called_val(tmp_path: Path) -> None:
    write_folder(tmp_path, "val")
    write_parquet(tmp_path / "tables/val.parquet")
    assert len(open_images(tmp_path, "validation")) == len(open_images(tmp_path / "tables", "validation")) == 12


def expect(error: type[Exception], message: str, where: Path | str, split: str, **options: int) -> None:
    with pytest.raises(error, match=message):
        open_images(where, split, **options)


def test_wrong_places(tmp_path: Path) -> None:
    expect(
        FileNotFoundError, r"no file or folder .*nowhere.*owner/name.*Give the folder", tmp_path / "nowhere", "train"
    )
    (tmp_path / "n01440764").mkdir()
    (tmp_path / "notes.txt").touch()
    expect(
        FileNotFoundError,
        r"has no split 'train': needed train.parquet, .* images in train/<class>/. Found: n01440764/, notes.txt. Give",
        tmp_path,
        "train",
    )
    with pytest.raises(FileNotFoundError, match=r"no class folders for the split 'train': needed train/<class>/\*.jpg"):
        folder_source(tmp_path, "train")
    for number in range(8):
        (tmp_path / f"z{number}").mkdir()
    expect(FileNotFoundError, "z2/, z3/ and 4 more", tmp_path, "train")


def test_wrong_image_folders(tmp_path: Path) -> None:
    write_folder(tmp_path)
    expect(FileNotFoundError, "has no split 'validation'.*Found: train/", tmp_path, "validation")
    write_folder(tmp_path, "validation", ("ant", "bee", "dog"))
    expect(ValueError, r"validation has 3 classes, .*train 3: 'cat', 'dog' are in one only", tmp_path, "validation")
    expect(ValueError, "'train' of .* has 3 classes, needed 1000", tmp_path, "train", num_classes=1000)
    (tmp_path / "train" / "eel").mkdir()
    expect(FileNotFoundError, r"train/eel has no images \(.jpg, .*Complete or delete it", tmp_path, "train")


def test_wrong_tables(tmp_path: Path) -> None:
    write_parquet(tmp_path / "shards/train-00000-of-00003.parquet")
    expect(
        FileNotFoundError,
        r"/\*.parquet are 1 files of the split 'train', but their names count 3",
        tmp_path / "shards",
        "train",
    )
    write_parquet(tmp_path / "two/a/train.parquet")
    write_parquet(tmp_path / "two/b/train.parquet")
    expect(ValueError, r"'train' is in .*two/a/\*.parquet and in .*two/b/\*.parquet. Give a", tmp_path / "two", "train")
    column = write_parquet(tmp_path / "column.parquet", column="picture")
    expect(ValueError, r"has the columns picture, label; needed image \(or img\) and label", column, "train")
    write_parquet(tmp_path / "mixed/train-0.parquet")
    write_parquet(tmp_path / "mixed/train-1.parquet", column="img")
    expect(ValueError, "train-1.parquet calls its images 'img', .*train-0.parquet 'image'", tmp_path / "mixed", "train")
    secret = write_parquet(tmp_path / "secret.parquet", labels=[-1] * 10 + [None, 3])
    expect(ValueError, "has 11 of 12 images without a label", secret, "test")
    beyond = write_parquet(tmp_path / "beyond.parquet", names=["ant", "bee"])
    expect(ValueError, "has the label 2, but names 2 classes", beyond, "train")
    expect(ValueError, "has no rows", write_parquet(tmp_path / "empty.parquet", slice(0, 0)), "train")
    (tmp_path / "damaged.parquet").write_bytes(beyond.read_bytes()[:-20])
    expect(ValueError, "damaged.parquet is not intact: .* Fetch", tmp_path / "damaged.parquet", "train")


# The hub, without a network


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    module = pytest.importorskip("datasets")
    monkeypatch.setattr(module.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    module.disable_progress_bars()
    return module


def test_a_dataset_loaded_by_datasets_holds_the_same(tmp_path: Path, datasets) -> None:  # type: ignore[no-untyped-def]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
    rows = {"img": [{"bytes": content, "path": None} for content in FILES], "label": LABELS}
    (tmp_path / "local").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "local" / "train.parquet")
    source = hub_source(str(tmp_path / "local"), "train")
    assert source.classes == NAMES
    assert source.labels.tolist() == LABELS
    assert [source.encoded(index) for index in range(12)] == FILES
    again = pickle.loads(pickle.dumps(source))
    assert again.encoded(7) == FILES[7]
    assert again.name(7).endswith("local train, row 7")
    with pytest.raises(ValueError, match=r"cannot load the split 'validation' of .*Unknown split.*hf auth login"):
        hub_source(str(tmp_path / "local"), "validation")


def test_a_dataset_of_paths_reads_the_files(tmp_path: Path, datasets, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    write_folder(tmp_path / "root")
    paths = sorted(str(path) for path in (tmp_path / "root").rglob("*.JPEG"))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    local = datasets.Dataset.from_dict({"image": paths, "label": LABELS}, features=features)
    asked: list[tuple[str, str]] = []

    def load_dataset(name: str, *, split: str) -> object:
        asked.append((name, split))
        return local

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = open_images("owner/animals", "train", num_classes=3)
    assert asked == [("owner/animals", "train")]
    assert source.classes == ("0", "1", "2")
    assert sorted(source.encoded(index) for index in range(12)) == sorted(FILES)


def test_no_hub_is_one_error(datasets, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def load_dataset(name: str, *, split: str) -> object:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    expect(ValueError, "cannot load the split 'train' of 'a/b' .*Couldn't reach the Hub Check the name", "a/b", "train")


# Real data


@pytest.mark.skipif(
    not (REAL_DATA / "imagenet-sample").exists(),
    reason="no ImageNet sample: set SPARSEFLOW_TEST_DATA to the folder that holds imagenet-sample/",
)
def test_real_imagenet_sample() -> None:
    source = open_images(REAL_DATA / "imagenet-sample", "validation", num_classes=1000)
    assert source.labels.sort().values.tolist() == list(range(1000))  # one image a class
    with Image.open(io.BytesIO(source.encoded(999))) as image:
        assert min(image.size) == 160
    expect(FileNotFoundError, "has no split 'train'.*Found: validation.parquet", REAL_DATA / "imagenet-sample", "train")


@pytest.mark.skipif(
    not (REAL_DATA / "cifar10-jpeg").exists(),
    reason="no CIFAR-10: set SPARSEFLOW_TEST_DATA to the folder that holds cifar10-jpeg/",
)
def test_real_cifar() -> None:
    train = open_images(REAL_DATA / "cifar10-jpeg", "train", num_classes=10)
    assert train.labels.bincount().tolist() == [5000] * 10
    test = open_images(REAL_DATA / "cifar10-jpeg", "test", num_classes=10)
    assert test.labels.bincount().tolist() == [1000] * 10
    decoded = decode_all(test)
    assert decoded.broken == {}
    assert torch.equal(decoded.labels, test.labels)
    pixels = normalise(decoded.images, CIFAR10)
    # Test and training images have the same mean and std to about 1 %; JPEG changes less.
    assert pixels.mean(dim=(0, 2, 3)).abs().max() < 0.03
    assert (pixels.std(dim=(0, 2, 3)) - 1).abs().max() < 0.03
    assert len(global_batch(0, size=len(train), batch_size=128, seed=0).indices) == 128
