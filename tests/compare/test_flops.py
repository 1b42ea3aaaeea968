"""Operations of trainings, against sums by hand; steps of a budget, against those sums again."""

from __future__ import annotations

import pandas as pd
import pytest

from sparseflow.compare.budget import affordable, flops_like, num_updates
from sparseflow.compare.flops import layer_flops, training_flops
from sparseflow.compare.settings import SETTINGS, compared_methods
from sparseflow.compare.tables import mean_density
from sparseflow.paper.cost import forward_flops
from sparseflow.training.config import RunConfig
from sparseflow.training.digits import DigitRun
from sparseflow.training.images import ImageRun, usual_run

#: The MLP of 784, 300, 100 and 10 units.
FC1, FC2, FC3 = 2 * 784 * 300, 2 * 300 * 100, 2 * 100 * 10
WHOLE = FC1 + FC2 + FC3


def log(*rows: tuple[int, str, float]) -> pd.DataFrame:
    return pd.DataFrame([(step, f"density/{name}.weight", value) for step, name, value in rows],
                        columns=["step", "name", "value"])  # fmt: skip


def start(density: float, step: int = 0) -> list[tuple[int, str, float]]:
    return [(step, name, density) for name in ("fc1", "fc2", "fc3")]


def mlp(method: str, **changes: object) -> DigitRun:
    usual = DigitRun(model="mlp", method=method, steps=100, batch_size=10, prune_begin=40, prune_end=40)
    return usual.with_(**changes)


def test_lenet_by_hand() -> None:
    """Convolutions of 5x5 without padding, each weight at 24x24 and, after pooling, 8x8 positions."""
    assert layer_flops(DigitRun()) == {
        "conv1.weight": 2 * 6 * 25 * 24 * 24, "conv2.weight": 2 * 16 * 6 * 25 * 8 * 8, "fc1.weight": 2 * 256 * 120,
        "fc2.weight": 2 * 120 * 84, "fc3.weight": 2 * 84 * 10,
    }  # fmt: skip


def test_resnet_is_what_is_counted_elsewhere() -> None:
    run = usual_run("resnet20")
    whole = sum(layer_flops(run).values())
    assert whole == forward_flops("resnet20", stem="cifar", size=32, classes=10)


def test_static_masks() -> None:
    metrics = log((0, "fc1", 0.1), (0, "fc2", 0.2), (0, "fc3", 1.0))
    assert training_flops(mlp("scratch"), metrics) == pytest.approx(3 * 10 * 100 * (0.1 * FC1 + 0.2 * FC2 + FC3))
    assert mean_density(mlp("scratch"), metrics) == pytest.approx((0.1 * FC1 + 0.2 * FC2 + FC3) / WHOLE)


def test_dense_phases_count_as_long_as_they_last() -> None:
    """Dense for 40 steps, sparse for 60: AC/DC, pruning and whatever else changes its counts."""
    metrics = log(*start(1.0), *start(0.1, step=40))
    assert training_flops(mlp("prune"), metrics) == pytest.approx(3 * 10 * WHOLE * (40 + 0.1 * 60))


def test_dense_gradients_at_updates() -> None:
    """RigL on digits: a forward and backward pass on 1000 images of their own at each of three updates."""
    run = mlp("rigl", update_every=30)
    assert num_updates(run) == 3
    expected = 3 * 10 * 100 * 0.1 * WHOLE + 3 * 1000 * (2 * 0.1 + 1) * WHOLE
    assert training_flops(run, log(*start(0.1))) == pytest.approx(expected)
    assert training_flops(mlp("set", update_every=30), log(*start(0.1))) == pytest.approx(3 * 10 * 100 * 0.1 * WHOLE)


def test_dense_gradients_of_the_step_itself() -> None:
    """On images an update looks at the gradient of the step's own batch: the inactive part of it is what is added."""
    run = ImageRun(
        network="resnet20", stem="cifar", image_size=32, num_classes=10, batch_size=8, micro_batch=8, steps=10,
        update_every=5, update_until=10,
    )  # fmt: skip
    whole = sum(layer_flops(run).values())
    rows = [(0, name.removesuffix(".weight"), 0.25) for name in layer_flops(run)]
    assert num_updates(run) == 2
    assert training_flops(run, log(*rows)) == pytest.approx(3 * 8 * 10 * 0.25 * whole + 2 * 8 * 0.75 * whole)


def test_a_running_mean_needs_every_dense_gradient() -> None:
    expected = 100 * 10 * (3 * 0.1 + 0.9) * WHOLE
    assert training_flops(mlp("snfs"), log(*start(0.1))) == pytest.approx(expected)


def test_a_log_without_densities() -> None:
    with pytest.raises(ValueError, match=r"has no densities in its log\. Delete it and run again"):
        training_flops(mlp("scratch"), log())


@pytest.mark.parametrize("method", ["scratch", "set", "rigl", "snfs"])
def test_what_a_longer_training_costs_is_known_from_a_shorter_one(method: str) -> None:
    """Twice the steps, as many updates, and no images held out, so that an update looks at more of them."""
    short, long = (
        mlp(method, update_every=10, dataset="mnist-5k", holdout=1600),
        mlp(method, steps=200, update_every=20),
    )
    cost = flops_like(short, training_flops(short, log(*start(0.1))))
    assert cost(long) == pytest.approx(training_flops(long, log(*start(0.1))))


def test_an_update_on_images_is_known_too() -> None:
    def run(steps: int) -> ImageRun:
        return ImageRun(
            network="resnet20", stem="cifar", image_size=32, num_classes=10, batch_size=8, micro_batch=8, steps=steps,
            update_every=5, update_until=steps,
        )  # fmt: skip

    metrics = log(*((0, name.removesuffix(".weight"), 0.25) for name in layer_flops(run(10))))
    cost = flops_like(run(10), training_flops(run(10), metrics))
    assert cost(run(40)) == pytest.approx(training_flops(run(40), metrics))


def test_the_steps_of_a_budget() -> None:
    """A step costs 2 and each of ten updates 3: a budget of 100 has 35 steps, and one of 1 has none."""

    def make(steps: int) -> RunConfig:
        return mlp("rigl", steps=steps, update_every=max(1, steps // 10))

    def cost(run: RunConfig) -> float:
        return 2.0 * run.steps + 3.0 * num_updates(run)

    found = affordable(make, cost, 100.0, most=1000, what="RigL")
    assert cost(make(found)) <= 100 < cost(make(found + 1))
    assert affordable(make, lambda run: run.steps, 50.0, most=20, what="RigL") == 20
    with pytest.raises(
        ValueError, match=r"^the budget of RigL is below one step: it has 1, a step costs 5\. Give more"
    ):
        affordable(make, cost, 1.0, most=1000, what="RigL")


def test_weights_that_are_trained_and_not_used() -> None:
    """A method that trains 30 % and computes with 10 %: two of the three passes are of the smaller set."""

    class Trains:
        gradient_decay, needs_gradient = 0.0, False
        used = None

    class Run(DigitRun):
        def updater(self, **_: object) -> Trains:  # type: ignore[override]
            return Trains()

    run = Run(model="mlp", method="scratch", steps=100, batch_size=10, sparsity=0.9)
    assert training_flops(run, log(*start(0.3))) == pytest.approx(100 * 10 * (2 * 0.1 + 0.3) * WHOLE)


@pytest.mark.parametrize("method", compared_methods())
def test_every_method_fits_a_budget_down_to_one_step(method: str) -> None:
    """A third of what 100 steps took, of which those of RigL took most for their updates."""

    def make(steps: int) -> RunConfig:
        return SETTINGS["mlp"].run(method, 0.9, steps=steps, seed=0)

    cost = flops_like(make(100), 5e10)
    found = affordable(make, cost, 5e10 / 3, most=1000, what=method)
    assert cost(make(found)) <= 5e10 / 3 < cost(make(found + 1))
    assert cost(make(1)) > 0
