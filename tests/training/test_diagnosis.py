"""The doctor on stored runs on images: names the cause of one broken on purpose, and nothing on a healthy one."""

from __future__ import annotations

from pathlib import Path

import pytest

from noise_images import noise_images
from sparseflow.cli.main import main
from sparseflow.training.diagnosis import diagnose_run
from sparseflow.training.images import ImageRun
from sparseflow.training.run import train

HEALTHY = ImageRun(
    dataset="cifar10", network="vgg16", width=1 / 16, stem="cifar", num_classes=10, image_size=32, sparsity=0.5,
    method="scratch", steps=4, batch_size=8, micro_batch=4, learning_rate=0.01, log_every=1, probe_images=6,
    eval_every=4, label_smoothing=0.0,
)  # fmt: skip
#: Cause -> the one change that brings it.
BROKEN = {
    "no_signal": {"sparsity": 0.995},
    "drop_too_large": {"method": "set", "update_every": 1, "update_until": 2},
    "update_after_the_end": {"method": "set", "update_every": 100, "update_until": 2},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise_images(tmp_path_factory.mktemp("cifar"))


def test_a_healthy_run_has_no_finding(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train(HEALTHY, root=tmp_path, data_root=data).folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found = diagnose_run(folder, data_root=data, examples=16)
    assert [each.cause for each in found] == []
    main(["doctor", str(folder), "--data", str(data), "--examples", "16"])
    assert capsys.readouterr().out.strip() == str(found)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("cause", BROKEN)
def test_a_broken_run_is_told_its_cause(
    tmp_path: Path, data: Path, cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(HEALTHY.with_(**BROKEN[cause]), root=tmp_path, data_root=data).folder
    found = diagnose_run(folder, data_root=data, examples=16)
    assert {each.cause for each in found} == {cause}
    with pytest.raises(SystemExit) as ended:
        main(["doctor", str(folder), "--data", str(data), "--examples", "16"])
    assert (ended.value.code, capsys.readouterr().out.strip()) == (1, str(found))
