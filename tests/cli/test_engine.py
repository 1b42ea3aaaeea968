"""The commands ``export`` and ``bench``: what they write and print, and one clear line for bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.cli.bench import faster_layout, imported
from sparseflow.cli.export import FILES, read_state, trained
from sparseflow.cli.main import main
from sparseflow.engine.convert import sparse_layers
from sparseflow.engine.files.export import load, load_state, save
from sparseflow.formats import FORMATS
from sparseflow.networks import build_network
from sparseflow.training.digits import DigitRun
from sparseflow.training.run import train

TINY = DigitRun(dataset="mnist-5k", model="lenet5-small", steps=4, batch_size=16, method="set", update_every=2)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return train(TINY, root=tmp_path_factory.mktemp("runs")).folder


@pytest.fixture(autouse=True)
def _screen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """80 columns, and an empty folder to be in."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


def dense_lenet() -> nn.Sequential:
    return build_network("lenet5-small", generator=torch.Generator())


def masked_state() -> dict[str, Tensor]:
    model = nn.Sequential(nn.Linear(200, 50), nn.ReLU(), nn.Linear(50, 10))
    return sf.apply_masks_(model, sf.random_masks(model, 0.95, seed=0)).state_dict()


def fails(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr, after exit code 2 and nothing on stdout; no file is left in the working folder."""
    before = sorted(Path.cwd().rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (2, "")
    (line,) = told.err.strip().splitlines()
    assert sorted(path for path in Path.cwd().rglob("*") if "__pycache__" not in path.parts) == before
    return line.removeprefix("sparseflow: ")


@pytest.mark.parametrize("command", ["export", "bench"])
def test_help_fits_a_screen(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert len(text.splitlines()) <= 24
    assert "``" not in text
    assert "{None}" not in text


# -- export ----------------------------------------------------------------------------------------------------------


def test_a_run_is_exported_with_its_masks(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", str(run_folder), "--out", "small.safetensors"])
    model, masks = trained(run_folder)
    loaded = load(dense_lenet(), "small.safetensors")
    found = {name: layer.pattern.mask() for name, layer in sparse_layers(loaded).items()}
    assert found.keys() == masks.keys()
    assert all(torch.equal(found[name], mask) for name, mask in masks.items())  # grown weights that are still 0 too
    x = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(loaded(x), model(x))
    size, dense = (tmp_path / "small.safetensors").stat().st_size, 4 * 2399
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"small.safetensors: {size:,} bytes, {100 * size / dense:.1f} % of {dense:,} for the dense model"
    active = sum(int((model.get_parameter(name) != 0).sum()) for name in masks)
    assert second.startswith(
        f"{active:,} of 2,336 weights are not zero. To read it: sparseflow.engine.load(model, 'small"
    )


def test_by_default_the_file_lies_in_the_run(run_folder: Path) -> None:
    main(["export", str(run_folder)])
    expected, _ = trained(run_folder)
    state = load_state(run_folder / "model.sparse.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.state_dict().items())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_state_dict_is_exported(tmp_path: Path, suffix: str) -> None:
    state, path = masked_state(), tmp_path / f"net{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        pytest.importorskip("safetensors.torch").save_file(state, path)
    main(["export", path.name])
    found = load_state(tmp_path / "net.sparse.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    assert (tmp_path / "net.sparse.safetensors").stat().st_size < 0.1 * 4 * 10_500


def test_every_format_has_a_file() -> None:
    assert FILES.keys() == {*FORMATS, "onnx"}


def exported(format: str, source: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[Path, str]:
    """The file or folder that the command wrote, and the expression that it prints to read it."""
    main(["export", str(source), "--format", format, *options])
    first, second = capsys.readouterr().out.splitlines()
    path = Path(first.split(": ")[0])
    files = [*path.iterdir()] if path.is_dir() else [path]
    assert first.split(": ")[1].startswith(f"{sum(file.stat().st_size for file in files):,} bytes")
    return path, second.partition("To read it: ")[2]


def test_safetensors_are_dense_with_zeros(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    path, read = exported("safetensors", run_folder, capsys)
    assert (path, read) == (
        run_folder / "model.dense.safetensors",
        f"model.load_state_dict(safetensors.torch.load_file({str(path)!r}))",
    )
    expected = trained(run_folder)[0].state_dict()
    found = safetensors.load_file(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(("format", "package"), [("scipy", "scipy.sparse"), ("binsparse", "binsparse")])
def test_matrices_have_the_masks_of_the_run(
    run_folder: Path, format: str, package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The printed line is what reads the first matrix; active weights that are zero are in it."""
    module = pytest.importorskip(package, reason=f"{package} is not installed")
    path, read = exported(format, run_folder, capsys)
    assert path == run_folder / f"model.{format}"
    names = {package.split(".")[0]: sys.modules[package.split(".")[0]], package: module}
    matrix = eval(read.removesuffix(", for each weight"), names)
    _, masks = trained(run_folder)
    first = min(masks)
    count = matrix.nnz if format == "scipy" else matrix.number_of_stored_values
    assert (matrix.shape[0], count) == (len(masks[first]), int(masks[first].sum()))
    assert {file.stem for file in path.glob("*.npz")} == masks.keys()


@pytest.mark.parametrize("options", [[], ["--sparse"]])
def test_the_graph_is_written_for_other_runtimes(
    run_folder: Path, tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install sparseflow[onnx]")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    path, read = exported("onnx", run_folder, capsys, "--out", "a.onnx", *options)
    session = eval(read, {"onnxruntime": onnxruntime})
    x = torch.randn(3, 1, 28, 28)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), trained(run_folder)[0](x).detach(), atol=1e-5, rtol=1e-5)
    assert bool(pytest.importorskip("onnx").load(path).graph.sparse_initializer) == bool(options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("export nowhere", "there is no run and no file nowhere. Name the folder of a run, or a state dict."),
        ("export folder", "folder has no config.json: it is not the folder of a run."),
        ("export net.pt --out no/x.safetensors", "there is no folder no for x.safetensors. Make it first."),
        ("export net.pt --format onnx", "--format onnx needs the folder of a run: a state dict has no graph."),
        (
            "export net.pt --format safetensor",
            "format must be one of 'engine', 'safetensors', 'onnx', 'scipy', 'binsparse', got 'safetensor'. Did you "
            "mean safetensors?",
        ),
        ("export net.pt --fromat scipy", "there is no option --fromat. Did you mean --format? See sparseflow export"),
        ("export net.pt --sparse", "--sparse goes with --format onnx, got engine. Leave it out."),
        ("export dense.pt --format scipy", "nothing in the model is sparse: no weight has a mask, or a hundredth of"),
        ("export all.pt", "all.pt holds no state dict, with the keys model, step. Save it alone: torch.save("),
        ("export list.pt", "list.pt holds no state dict, but something else."),
        ("export broken.pt", "broken.pt is damaged"),
        ("export broken.safetensors", "broken.safetensors is not an intact safetensors file ("),
        ("export small.safetensors", "small.safetensors is an export already. Its dense state: sparseflow.engine."),
        ("export net.safetensors --out net.safetensors", "net.safetensors is what is read. Name another file"),
    ],
)
def test_bad_input_of_export(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    state = masked_state()
    Path("folder").mkdir()
    torch.save(state, "net.pt")
    torch.save({"model": state, "step": 3}, "all.pt")
    torch.save([1, 2], "list.pt")
    torch.save({"fc.weight": torch.ones(3, 2)}, "dense.pt")
    pytest.importorskip("safetensors.torch").save_file(state, "net.safetensors")
    save(state, "small.safetensors")
    for name in ("broken.pt", "broken.safetensors"):
        Path(name).write_bytes(Path(name.replace("broken", "net")).read_bytes()[:-100])
    assert fails(arguments, capsys).startswith(message)


def test_a_run_whose_last_checkpoint_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train(TINY, root=tmp_path).folder
    (folder / "checkpoints" / "000004.pt").unlink()
    assert "has no checkpoint of its last step, 4. Delete it and run again." in fails(f"export {folder}", capsys)


# -- bench -----------------------------------------------------------------------------------------------------------


def told(arguments: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    main(["bench", *arguments.split(), "--seconds", "0", "--threads", "1"])
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.slow
def test_a_lab_model_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = told("lenet5 --batches 2,4 --sparsity 0.9 --json speed.json", capsys)
    assert lines[0].startswith("At batch 4 the sparse model trains ")
    assert " At batch 4 the sparse model infers " in lines[0]
    assert [line.split()[:2] for line in lines[3:7]] == [
        [step, batch] for step in ("training", "inference") for batch in ("2", "4")
    ]
    head = next(number for number, line in enumerate(lines) if line.startswith("layer"))
    assert lines[head].split() == ["layer", "weight", "density", "dense", "ms", "sparse", "ms", "speed-up"]
    assert max(map(len, lines[head : head + 9])) <= 80
    assert [line.split()[:3] for line in lines[head:] if line.startswith(("conv", "fc"))] == [
        ["conv1", "6x1x5x5", "0.100"],
        ["conv2", "16x6x5x5", "0.100"],
        ["fc1", "120x256", "0.100"],
        ["fc2", "84x120", "0.100"],
        ["fc3", "10x84", "0.100"],
    ]
    assert "training, batch 4, 1 thread, float32" in lines
    assert any(line.startswith("Dense in its faster layout, c") for line in lines)
    assert lines[-1].startswith("Training it as a plan (the lab does): ")
    values = json.loads((tmp_path / "speed.json").read_text())
    assert values["model"] == "lenet5"
    assert [(row["training"], row["batch"]) for row in values["rows"]] == [
        (True, 2), (True, 4), (False, 2), (False, 4),
    ]  # fmt: skip
    assert [layer["num_active"] for layer in values["rows"][1]["choice"]["layers"]] == [15, 240, 3072, 1008, 84]
    assert values["environment"]["torch"] == torch.__version__
    assert set(values["training_step"]) == {"dense_seconds", "plan_seconds"}


def test_blocks_are_made_where_they_divide(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from sparseflow.engine.speed import benchmark as benchmarks

    taken: list[sf.Masks] = []
    subject_of = benchmarks.subject_of
    monkeypatch.setattr(
        benchmarks, "subject_of", lambda model, masks, x: (taken.append(masks), subject_of(model, masks, x))[1]
    )
    told("lenet5 --batches 1 --inference --block 4x1 --sparsity 0.9", capsys)
    in_fours = {
        name: bool((mask.flatten(1).unflatten(0, (-1, 4)).float().std(1) == 0).all()) for name, mask in taken[0].items()
        if len(mask) % 4 == 0
    }  # fmt: skip
    assert in_fours == {"conv2.weight": True, "fc1.weight": True, "fc2.weight": True}
    assert {name: float(mask.float().mean()) for name, mask in taken[0].items()} == pytest.approx(
        dict.fromkeys(taken[0], 0.1), abs=0.01
    )


def test_a_run_is_timed_with_its_own_masks(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, masks = trained(run_folder)
    lines = told(f"{run_folder} --batches 2 --inference", capsys)
    density = [line.split()[2] for line in lines if line.startswith(("conv", "fc"))]
    assert density == [f"{mask.double().mean():.3f}" for mask in masks.values()]
    assert any(line.startswith("inference, batch 2") for line in lines)
    assert not any(line.startswith("training") for line in lines)


OWN = """
import torch
from torch import nn

def dense():
    return nn.TransformerEncoderLayer(64, 2, 128, dropout=0.0, batch_first=True)

def sparse():
    layer = nn.Linear(20, 10, dtype=torch.float64)
    with torch.no_grad():
        layer.weight[1:].zero_()
    return layer

def three():
    return 3
"""


def test_a_model_of_ones_own_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own_model_a.py").write_text(OWN)
    lines = told("own_model_a:dense --input-shape 8 64 --batches 2 --inference", capsys)
    assert any("95.0 % of" in line for line in lines)  # it is made sparse
    assert any("192x64" in line for line in lines)
    lines = told("own_model_a:sparse --input-shape 20 --batches 2 --inference", capsys)
    row = next(line for line in lines if line.startswith("weight"))
    assert row.split()[:3] == ["weight", "10x20", "0.100"]
    assert any("float64" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("lenet6", "there is no folder and no model 'lenet6'. Models: lenet5, lenet5-small, mlp, mlp-small; one of"),
        ("lenet5 --sparsity 95", "sparsity must be in [0, 1), got 95.0. For 95% zeros write 0.95, not 95."),
        ("lenet5 --batches 0", "batches must be whole numbers of at least 1, such as 1,8,64, got '0'."),
        ("lenet5 --batches 8,,1", "batches must be whole numbers of at least 1, such as 1,8,64, got '8,,1'."),
        ("lenet5 --batches=-1", "batches must be whole numbers of at least 1, such as 1,8,64, got '-1'."),
        ("lenet5 --batches 1.5", "batches must be whole numbers of at least 1, such as 1,8,64, got '1.5'."),
        ("lenet5 --block 4x", "block must be outputs x inputs, such as 4x1, got '4x'."),
        ("lenet5 --block 0x1", "block must be outputs x inputs, such as 4x1, got '0x1'."),
        ("lenet5 --threads 0", "threads must be in [1, 1024], got 0."),
        ("lenet5 --json no/x.json", "there is no folder no for x.json. Make it first."),
        ("own_model_b:dense", "say what one example of your model looks like, such as --input-shape 3 32 32."),
        ("own_model_b:four --input-shape 2", "cannot import 'own_model_b:four': module 'own_model_b' has no attribute"),
        ("own_model_c:dense --input-shape 2", "cannot import 'own_model_c:dense': No module named 'own_model_c'."),
        ("own_model_b:three --input-shape 2", "'own_model_b:three' must return a torch.nn.Module, got int."),
        (":three --input-shape 2", "cannot import ':three': "),
    ],
)
def test_bad_input_of_bench(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own_model_b.py").write_text(OWN)
    assert fails(f"bench {arguments}", capsys).startswith(message)


def test_a_run_keeps_its_masks(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--sparsity 0.5", "--block 4x1"):
        line = fails(f"bench {run_folder} {option}", capsys)
        assert line == "a run has masks of its own; leave --sparsity and --block out."


def test_threads_are_given_back(capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(2)
    told("mlp-small --batches 2 --inference", capsys)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("command", ["export net.pt", "bench lenet5"])
def test_without_numba_one_line_says_what_to_install(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(masked_state(), "net.pt")
    for name in [name for name in sys.modules if name.startswith("sparseflow.engine")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    assert fails(command, capsys).startswith("the sparse engine needs Numba: pip install numba.")


def test_the_faster_layout_computes_the_same() -> None:
    model = dense_lenet()
    x = torch.randn(2, 1, 28, 28)
    best, batch, name = faster_layout(model, x, training=False, seconds=0.0)
    assert name in ("contiguous", "channels_last")
    torch.testing.assert_close(best(batch), model(x))
    assert model.conv2.weight.is_contiguous()  # the given one stays as it is


def test_what_reads_and_imports(tmp_path: Path) -> None:
    (tmp_path / "own_model_d.py").write_text(OWN)
    assert isinstance(imported("own_model_d:sparse"), nn.Linear)
    torch.save(masked_state(), "net.pt")
    assert list(read_state(Path("net.pt"))) == ["0.weight", "0.bias", "2.weight", "2.bias"]
