"""The optimizer battery without its libraries: the page is what the results say, and a trial finds what is planted."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # battery/ is beside the package, not in it

from battery import children, page  # noqa: E402
from battery.network import difference  # noqa: E402
from battery.optimizers import Row  # noqa: E402
from battery.trial import Outcome, trial  # noqa: E402


def row(make: Callable[[nn.Module], Any], **options: Any) -> Row:
    return Row(library="by hand", name="planted", make=make, **options)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


class Plain(torch.optim.Optimizer):
    """Gradient descent with a factor, written out."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.01})

    def factor(self, gradient: Tensor) -> float:
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= group["lr"] * self.factor(parameter.grad) * parameter.grad


class Cautious(Plain):
    """Divides by the share of nonzero entries, as cautious optimizers do."""

    def factor(self, gradient: Tensor) -> float:
        return 1 / max(float((gradient != 0).float().mean()), 1e-3)


class Forgets(Plain):
    """Steps by a counter that its state does not hold."""

    count = 0

    def factor(self, gradient: Tensor) -> float:
        self.count += 1
        return self.count / 10


class Broken(Plain):
    """Cannot step."""

    def factor(self, gradient: Tensor) -> float:
        raise RuntimeError("needs a GPU")


def test_the_page_says_what_the_results_say() -> None:
    assert page.page(page.load()) == page.PAGE.read_text(), "run make battery"


def test_every_row_has_one_of_the_verdicts_that_the_page_explains() -> None:
    rows = page.load()["rows"]
    assert {found["verdict"] for found in rows} <= page.VERDICTS.keys()
    assert len({(found["library"], found["name"]) for found in rows}) == len(rows) > 300
    assert all(bool(found["why"]) != (found["verdict"] == "works") for found in rows)


def test_an_optimizer_of_torch_works() -> None:
    outcome = trial(row(sgd))
    assert outcome == Outcome(library="by hand", name="planted", verdict="works", diluted=1.0)


def test_an_optimizer_that_counts_zeros_is_a_caveat_with_its_factor() -> None:
    """Closed form: a quarter of the entries are nonzero, so the step is four times as long."""
    outcome = trial(row(lambda model: Cautious(model.parameters())))
    assert outcome.why == ("counts zeros: where 3/4 of a tensor are zeros its step is 4 times as long",)
    assert (outcome.verdict, outcome.diluted) == ("caveat", 4.0)


def test_an_optimizer_that_does_not_resume_by_itself_is_a_caveat() -> None:
    outcome = trial(row(lambda model: Forgets(model.parameters())))
    assert outcome.verdict == "caveat"
    assert "a dense run does not resume from its state_dict" in outcome.why[0]


def test_an_optimizer_that_fails_on_a_dense_network_is_not_run() -> None:
    outcome = trial(row(lambda model: Broken(model.parameters())))
    assert (outcome.verdict, outcome.why) == ("not run", ("RuntimeError: needs a GPU",))


def test_an_optimizer_that_holds_too_little_is_refused() -> None:
    outcome = trial(row(lambda model: torch.optim.SGD(list(model.parameters())[1:], lr=0.1)))
    assert outcome.verdict == "refused"
    assert "the optimizer does not hold '0.weight'" in outcome.why[0]


def test_weights_written_after_the_step_fail() -> None:
    """A step that goes on after the hooks have run, as a wrapper's does."""

    class Wrapper:
        def __init__(self, model: nn.Module) -> None:
            self.inner = sgd(model)
            self.param_groups, self.state = self.inner.param_groups, self.inner.state
            self.register_step_pre_hook = self.inner.register_step_pre_hook
            self.register_step_post_hook = self.inner.register_step_post_hook

        def step(self) -> None:
            self.inner.step()
            with torch.no_grad():
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter += 0.01

    outcome = trial(row(Wrapper))
    assert outcome.verdict in ("fails", "refused")


def outcome_of(row: Row, stage: Callable[[str], None]) -> Outcome:
    """A trial that dies, hangs or ends, as the row's name says."""
    stage("grow" if "sparse" in row.name else "dense")
    if "dies" in row.name:
        os.kill(os.getpid(), 9)
    if "hangs" in row.name:
        time.sleep(60)
    return Outcome(library=row.library, name=row.name, verdict="works")


def test_a_crash_or_an_endless_loop_ends_no_other_trial() -> None:
    names = ["ends", "dies sparse", "hangs dense", "dies dense", "ends too"]
    rows = [replace(row(sgd), name=name) for name in names]
    seen: list[Outcome] = []
    outcomes = children.run(rows, jobs=2, limit=2.0, attempt=outcome_of, each=seen.append)
    assert [outcome.name for outcome in outcomes] == names
    assert sorted(outcome.name for outcome in seen) == sorted(names)
    assert [(outcome.verdict, *outcome.why) for outcome in outcomes] == [
        ("works",),
        ("fails", "the process ended with signal SIGKILL in the part 'grow'"),
        ("not run", "it took longer than 2 seconds on a dense network"),
        ("not run", "the process ended with signal SIGKILL on a dense network"),
        ("works",),
    ]


def test_weights_that_are_nan_in_both_are_equal() -> None:
    one: dict[str, Tensor] = {"w": torch.tensor([float("nan"), 1.0])}
    assert difference(one, {"w": one["w"].clone()}) == 0.0
    assert difference(one, {"w": torch.tensor([0.0, 1.0])}) == float("inf")


@pytest.mark.parametrize("name", ["timm.optim", "wrappers"])
def test_the_text_below_the_table_needs_its_rows(name: str) -> None:
    results = page.load()
    results["rows"] = [found for found in results["rows"] if found["library"] != name]
    if name == "timm.optim":
        with pytest.raises(KeyError, match=r"timm\.optim"):
            page.page(results)
    else:
        assert "wrappers" not in page.page(results)
