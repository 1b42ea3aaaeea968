"""timm's EMA, optimizers and checkpoints around a Sparsifier; runs where timm is, in the battery's environment."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from pages import ROOT, run_page

sys.path.insert(0, str(ROOT))  # battery/ is beside the package, not in it

from battery.optimizers import declare_missing_operators

#: As :func:`battery.optimizers.declare_missing_operators` does for this process.
DECLARE = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r})\nimport battery.optimizers as b; b.declare_missing_operators()"
)


@pytest.fixture(scope="module", autouse=True)
def _operators() -> None:
    try:
        declare_missing_operators()
    except ModuleNotFoundError:
        pytest.skip("timm lies in the battery's environment: make battery, then .venv-battery/bin/python -m pytest")


def test_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "timm_ema.py"))
    assert "the same as one left alone, to the last bit" in capsys.readouterr().out


#: A run of timm's parts that saves after each epoch, as examples/timm_ema.py does; it goes on from ``last.pth.tar``.
RUN = """
import sys
from pathlib import Path
from types import SimpleNamespace

import timm
import torch
import torch.nn.functional as F
from timm.models import load_checkpoint, resume_checkpoint
from timm.optim import create_optimizer_v2
from timm.utils import CheckpointSaver, ModelEmaV3

import sparseflow as sf

torch.set_num_threads(1)
folder = Path(sys.argv[1])
torch.manual_seed(0)
model = timm.create_model("test_resnet", in_chans=1, num_classes=10)
masks = sf.random_masks(model, 0.9, allocation="erk", seed=0)
sf.initialize_(model, masks, scheme="sparse", seed=0)
optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
method = sf.RigL(update_every=2, total_steps=18, schedule="cosine")
sparsifier = sf.Sparsifier(model, optimizer, masks, method, seed=0)
ema = ModelEmaV3(model, decay=0.9)
sparsifier.after_update.append(lambda *_: sf.apply_masks_(ema.module, sparsifier.masks))
state = SimpleNamespace(
    state_dict_key="sparsifier", state_dict=sparsifier.state_dict, load_state_dict=sparsifier.load_state_dict
)
saver = CheckpointSaver(model, optimizer, model_ema=ema, amp_scaler=state, checkpoint_dir=str(folder))
first, last = 0, folder / "last.pth.tar"
if last.exists():
    first = resume_checkpoint(model, str(last), optimizer=optimizer, loss_scaler=state)
    load_checkpoint(ema.module, str(last), use_ema=True)
print("begins at", first, flush=True)
for epoch in range(first, 6):
    noise = torch.Generator().manual_seed(epoch)
    for index in range(3):
        optimizer.zero_grad()
        images = torch.randn(8, 1, 32, 32, generator=noise)
        F.cross_entropy(model(images), torch.randint(10, (8,), generator=noise)).backward()
        optimizer.step()
        ema.update(model, step=3 * epoch + index)
    saver.save_checkpoint(epoch)
    print("saved", epoch, flush=True)
found = {f"{part} {key}": tensor for part, net in (("model", model), ("ema", ema.module))
         for key, tensor in net.state_dict().items()}
found |= {f"mask {name}": mask for name, mask in sparsifier.masks.items()}
found |= {f"{key} {index}": value for index, each in optimizer.state_dict()["state"].items()
          for key, value in each.items() if isinstance(value, torch.Tensor)}
torch.save(found, folder / "end.pt")
"""


def start(script: Path, folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(script), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_killed_and_continued_is_left_alone(tmp_path: Path) -> None:
    """SIGKILL in the middle of an epoch after two were saved; network, EMA, masks and moments, bit for bit."""
    script = tmp_path / "run.py"
    script.write_text(f"{DECLARE}\n{RUN}")
    left_alone, killed = tmp_path / "alone", tmp_path / "killed"
    alone = start(script, left_alone)
    with start(script, killed) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line == "saved 1\n":
                running.kill()
    assert running.returncode == -signal.SIGKILL
    assert not (killed / "end.pt").exists()
    out, _ = start(script, killed).communicate()
    assert 2 <= int(out.split("\n")[0].removeprefix("begins at ")) < 6
    assert alone.communicate()[0].startswith("begins at 0\n")
    one, other = (torch.load(folder / "end.pt") for folder in (left_alone, killed))
    assert one.keys() == other.keys()
    assert [name for name, tensor in one.items() if not torch.equal(tensor, other[name])] == []
    assert {name.split()[0] for name in one} >= {"model", "ema", "mask", "exp_avg", "exp_avg_sq"}


def test_the_page(tmp_path: Path) -> None:
    printed = run_page("timm.md", tmp_path, before=DECLARE)
    words = printed.split()
    assert int(words[0]) > 0
    assert " 0 of the other" in printed


@pytest.mark.parametrize("foreach", [False, True])
def test_an_ema_is_the_average_since_each_connection_grew(foreach: bool) -> None:
    """Oracle: the recurrence in float64, zero wherever a mask was zero at any update since."""
    from timm.utils import ModelEmaV3

    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    method = sf.SET(update_every=3, update_until=30, schedule="constant")
    sparsifier = sf.Sparsifier(model, optimizer, sf.random_masks(model, 0.7, seed=0), method, seed=0)
    plain, ema = (ModelEmaV3(model, decay=0.8, foreach=foreach) for _ in range(2))
    sparsifier.after_update.append(lambda *_: sf.apply_masks_(ema.module, sparsifier.masks))
    expected = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        optimizer.zero_grad()
        inputs = torch.randn(8, 12, generator=generator)
        F.cross_entropy(model(inputs), torch.randint(4, (8,), generator=generator)).backward()
        optimizer.step()
        plain.update(model)
        ema.update(model)
        for name, parameter in model.named_parameters():
            mean = expected[name].where(sparsifier.masks.get(name, torch.tensor(True)), 0.0)
            expected[name] = mean + 0.2 * (parameter.detach().double() - mean)
    for name, parameter in ema.module.named_parameters():
        torch.testing.assert_close(parameter.double(), expected[name], rtol=1e-5, atol=1e-6)  # sums in float32

    def off(network: nn.Module) -> Tensor:
        return torch.cat([network.get_parameter(name)[~mask] for name, mask in sparsifier.masks.items()])

    assert not off(ema.module).any()
    assert off(plain.module).any()
    sf.apply_masks_(plain.module, sparsifier.masks)
    assert not off(plain.module).any()
