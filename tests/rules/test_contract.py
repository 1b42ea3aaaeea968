"""Every rule, and all together, on every path that a Sparsifier has; oracles: the plain path, and a run not stopped."""

from __future__ import annotations

import copy
import io
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rules_worker
import sparseflow as sf
from makers import SETTINGS, method_of
from processes import run_ranks
from rule_cases import RULES, TOGETHER, RuleRun, made
from tiny import FRESH, OPTIMIZERS, assert_same_bits, states, tiny_model

STEPS = 13
every_rule = pytest.mark.parametrize("case", TOGETHER)


@every_rule
@pytest.mark.parametrize("method", [name for name in SETTINGS if not hasattr(method_of(name), "used")])
def test_every_method_keeps_its_promises(case: str, method: str) -> None:
    """Counts as without the rule, zeros exact, state fresh off the mask, and masks move as often."""
    run, plain = (RuleRun(name, method, "adamw") for name in (case, "none"))
    for step in range(1, STEPS + 1):
        run.step(step)
        plain.step(step)
        run.sparsifier.check()
        assert sum(int(mask.sum()) for mask in run.masks()) == sum(int(mask.sum()) for mask in plain.masks())
        for name, mask in run.sparsifier.masks.items():
            weight = run.model.get_parameter(name).detach()
            assert not (weight[~mask] != 0).any()
            assert not weight[~mask].signbit().any()  # -0.0 would count as written
    # SMET acts on grown weights alone, SparseOpt where units differ in their inputs.
    if (case, method) not in {("sparse_opt", "srigl"), ("sparse_opt", "n_of_m")} and (
        case != "smet" or method.startswith(("set", "rigl", "snfs"))
    ):
        assert any(not torch.equal(a, b) for a, b in zip(run.tensors(), plain.tensors(), strict=True))


@every_rule
@pytest.mark.parametrize("optimizer", sorted(set(OPTIMIZERS) - {"nadam"}))
def test_a_resumed_run_ends_with_the_same_bits(case: str, optimizer: str) -> None:
    """Saved past two updates, in the middle of what rules remember; parts are loaded in two orders."""
    for order in (("model", "optimizer", "sparsifier"), ("sparsifier", "optimizer", "model")):
        through, resumed = RuleRun(case, "set", optimizer), RuleRun(case, "set", optimizer, seed=1)
        for step in range(1, 9):
            through.step(step)
        file = io.BytesIO()
        torch.save({name: getattr(through, name).state_dict() for name in order}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        for name in order:
            getattr(resumed, name).load_state_dict(saved[name])
        for step in range(9, STEPS + 1):
            through.step(step)
            resumed.step(step)
        assert_same_bits(through.tensors(), resumed.tensors())
        for name in through.sparsifier.masks:
            for one, other in zip(
                states(through.optimizer, through.model.get_parameter(name)),
                states(resumed.optimizer, resumed.model.get_parameter(name)),
                strict=True,
            ):
                assert torch.equal(one, other)
                assert (one[~through.sparsifier.masks[name]] == FRESH.get(optimizer, 0.0)).all()


@every_rule
def test_a_deep_copy_goes_on_alike(case: str) -> None:
    run = RuleRun(case, "set", "adamw")
    for step in range(1, 6):
        run.step(step)
    other = copy.copy(run)
    other.model, other.optimizer, other.sparsifier = copy.deepcopy((run.model, run.optimizer, run.sparsifier))
    other.network = other.model
    for step in range(6, STEPS + 1):
        run.step(step)
        other.step(step)
    assert_same_bits(run.tensors(), other.tensors())


@every_rule
@pytest.mark.parametrize("method", ["set", "rigl", "prune"])
@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_stored_weights_train_like_masked_ones(case: str, method: str, optimizer: str) -> None:
    """In float64; sums are in another order."""
    stored, plain = (RuleRun(case, method, optimizer, dtype=torch.float64, stored=kind) for kind in (True, False))
    for step in range(1, STEPS + 1):
        stored.step(step)
        plain.step(step)
        stored.sparsifier.check()
        for one, other in zip(stored.tensors(), plain.tensors(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@every_rule
def test_a_resumed_run_on_stored_weights_ends_with_the_same_bits(case: str) -> None:
    through, resumed = (RuleRun(case, "set", "adamw", stored=True, seed=seed) for seed in (0, 1))
    for step in range(1, 9):
        through.step(step)
    state = through.sparsifier.state_dict()
    resumed.model.load_state_dict(through.model.state_dict())
    resumed.optimizer.load_state_dict(copy.deepcopy(through.optimizer.state_dict()))
    resumed.sparsifier.load_state_dict(state)
    for step in range(9, STEPS + 1):
        through.step(step)
        resumed.step(step)
    assert_same_bits(through.tensors(), resumed.tensors())


@every_rule
@pytest.mark.parametrize("stored", [False, True])
def test_a_state_goes_to_weights_that_are_held_otherwise(case: str, stored: bool) -> None:
    """Masked weights go on as stored ones and back, with the optimizer's momentum moved by hand; in float64."""
    through = RuleRun(case, "set", "momentum", dtype=torch.float64, stored=not stored)
    for step in range(1, 9):
        through.step(step)
    masks, dense = dict(through.sparsifier.masks), sf.engine.dense_state_dict(through.model)
    other = copy.copy(through)
    plain = tiny_model(dtype=torch.float64)
    plain.load_state_dict(dense)
    other.model = other.network = sf.engine.convert(plain, masks) if stored else plain
    other.optimizer = OPTIMIZERS["momentum"](other.model.parameters())
    other.optimizer.load_state_dict(copy.deepcopy(through.optimizer.state_dict()))
    for name, parameter in zip(dense, other.model.parameters(), strict=True):
        if (mask := masks.get(name)) is not None:
            held = other.optimizer.state[parameter]["momentum_buffer"]
            whole = torch.zeros(mask.shape, dtype=held.dtype)
            other.optimizer.state[parameter]["momentum_buffer"] = (
                held[mask] if stored else whole.masked_scatter_(mask, held)
            )
    state = through.sparsifier.state_dict()
    other.sparsifier = sf.Sparsifier(
        other.model, other.optimizer, masks, through.sparsifier.method, seed=1, rules=made(case), state=state
    )
    for step in range(9, STEPS + 1):
        through.step(step)
        other.step(step)
    for one, two in zip(through.tensors(), other.tensors(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11)


@every_rule
def test_a_compiled_network_has_the_same_bits(case: str) -> None:
    torch._dynamo.reset()
    compiled, plain = (RuleRun(case, "rigl", "adamw", compiled=kind) for kind in (True, False))
    for step in range(1, STEPS + 1):
        compiled.step(step)
        plain.step(step)
    assert_same_bits(compiled.tensors(), plain.tensors())


@every_rule
def test_a_gradient_scaler_changes_nothing(case: str) -> None:
    """Fused AdamW divides by the scale itself, and skips a step of infinite gradients within its kernel."""
    make = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, fused=True)
    scaled, plain = (RuleRun(case, "set", make=make) for _ in range(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # a power of two: exact
    for step in range(1, STEPS + 1):
        plain.step(step)
        for overflows in (True, False) if step in (3, 5) else (False,):
            scaled.optimizer.zero_grad()
            scaler.scale(scaled.loss(step)).backward()
            if overflows:
                next(scaled.model.parameters()).grad.view(-1)[0] = torch.inf
            scaler.step(scaled.optimizer)
            scaler.update()
    assert_same_bits(scaled.tensors(), plain.tensors())


@every_rule
def test_a_closure_changes_nothing(case: str) -> None:
    closed, plain = (RuleRun(case, "rigl", "adamw") for _ in range(2))
    for step in range(1, STEPS + 1):

        def closure(number: int = step) -> Any:
            closed.optimizer.zero_grad()
            loss = closed.loss(number)
            loss.backward()
            return loss

        closed.optimizer.step(closure)
        plain.step(step)
    assert_same_bits(closed.tensors(), plain.tensors())


@every_rule
@pytest.mark.parametrize("options", [{"momentum": 0.9, "nesterov": True}, {"momentum": 0.9}], ids=["nesterov", "plain"])
def test_implementations_for_many_tensors_change_nothing(case: str, options: dict[str, Any]) -> None:
    """The foreach version of Nesterov's momentum adds it to the gradients themselves."""
    many, one = (RuleRun(case, make=partial(torch.optim.SGD, lr=0.1, foreach=kind, **options)) for kind in (1, 0))
    for step in range(1, STEPS + 1):
        many.step(step)
        one.step(step)
    for a, b in zip(many.tensors(), one.tensors(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@every_rule
def test_two_optimizers_step_like_one(case: str) -> None:
    one = RuleRun(case, "set", "momentum")
    two = RuleRun(case, "set", "momentum")
    two.sparsifier.remove()
    parameters = list(two.model.parameters())
    optimizers = [OPTIMIZERS["momentum"](parameters[:3]), OPTIMIZERS["momentum"](parameters[3:])]
    masks = two.sparsifier.masks
    two.sparsifier = sf.Sparsifier(two.model, optimizers, masks, one.sparsifier.method, seed=0, rules=made(case))
    for step in range(1, STEPS + 1):
        one.step(step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        two.loss(step).backward()
        for optimizer in optimizers:
            optimizer.step()
    assert_same_bits(one.tensors(), two.tensors())


@every_rule
def test_an_update_in_place_of_a_step(case: str) -> None:
    run = RuleRun(case, "rigl", "adamw", replaces_step=True, first_update=0)
    for step in range(1, STEPS + 1):
        before = run.tensors() if step == 1 else []
        run.step(step)
        if step == 1:  # masks move, and what stays keeps its value
            for (name, mask), weight in zip(run.sparsifier.masks.items(), before[0:6:2], strict=True):
                assert torch.equal(run.model.get_parameter(name)[mask], (weight * mask)[mask])
        run.sparsifier.check()
    assert run.sparsifier.step_count < STEPS


def test_sharded_weights_train_like_whole_ones(tmp_path: Path) -> None:
    """Two processes that hold half of every weight (FSDP2), in float64."""
    rules_worker.main(str(tmp_path))
    done = run_ranks(rules_worker.main, str(tmp_path))
    assert [end.returncode for end in done] == [0, 0], done
    one, *both = (torch.load(tmp_path / name, weights_only=True) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    for case in rules_worker.NAMES:
        for other in both:
            for name, value in one[case].items():
                torch.testing.assert_close(other[case][name], value, rtol=0, atol=1e-11, msg=f"{case} {name}")


def test_a_state_of_other_rules_is_refused() -> None:
    run, plain = RuleRun("ham"), RuleRun("none")
    with pytest.raises(ValueError, match=r"saved with the rules \['HAM'\], and this Sparsifier has \[\]. Make it with"):
        plain.sparsifier.load_state_dict(run.sparsifier.state_dict())
    assert "rules" not in plain.sparsifier.state_dict()


def test_what_is_no_rule_is_refused() -> None:
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters())
    for rules, words in (
        ([sf.rules.HAM], r"got <class .*HAM'> in it. Write sparseflow.rules.HAM\(...\)."),
        ([sf.rules.HAM(), sf.rules.HAM()], "must be of different kinds, got HAM, HAM"),
        ([sf.rules.SMET(), sf.rules.HAM()], "SMET puts steps of its own in .* got rules SMET, HAM. Give it last"),
        ([sf.rules.SMET(), sf.rules.SignIn(reset_every=9)], "SMET puts steps .* Give it last, and no other such rule"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            sf.Sparsifier(layer, optimizer, sf.random_masks(layer, 0.5, seed=0), sf.Static(), seed=0, rules=rules)


@pytest.mark.parametrize("name", RULES)
def test_a_line_search_is_refused(name: str) -> None:
    layer = nn.Linear(4, 2)
    optimizer = torch.optim.LBFGS(layer.parameters(), lr=0.1)
    words = r"LBFGS (.*closure more than once|steps by another rule)|LBFGS, which it can .*closure more than once"
    with pytest.raises(ValueError, match=words):  # noqa: PT012 - some are refused when made
        sf.Sparsifier(layer, optimizer, sf.random_masks(layer, 0.5, seed=0), sf.Static(), seed=0, rules=[RULES[name]()])

        def closure() -> Any:
            optimizer.zero_grad()
            loss = layer(torch.ones(3, 4)).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)
