"""timm's EMA, optimizers and checkpoints around a Sparsifier; runs where timm is, in the battery's environment."""

from __future__ import annotations

import runpy
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
