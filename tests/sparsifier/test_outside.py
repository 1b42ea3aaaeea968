"""What something else does to masks, weights and optimizers of a run, and files that give names in another order."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

import sparseflow as sf
from tiny import OPTIMIZERS, assert_same_bits, masked, snapshot, tiny_model, train_step


def made(method: Any, optimizer: str = "adam") -> tuple[nn.Module, torch.optim.Optimizer, sf.Sparsifier]:
    model = tiny_model()
    stepped = OPTIMIZERS[optimizer](model.parameters())
    return model, stepped, sf.Sparsifier(model, stepped, masked(model), method, seed=0)


def rigl() -> sf.RigL:
    return sf.RigL(drop_fraction=0.3, update_every=2, schedule="constant", update_until=100)


def trained(run: tuple[nn.Module, torch.optim.Optimizer, sf.Sparsifier], steps: range) -> list[Tensor]:
    for step in steps:
        train_step(*run[:2], step)
    return [*snapshot(*run[:2]), *(run[2].masks[name] for name in sorted(run[2].masks))]


# -- masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [sf.Static, rigl])
def test_a_mask_that_something_else_wrote_is_refused_until_it_is_taken_over(method: Callable[[], Any]) -> None:
    run = made(method())
    trained(run, range(3))
    sparsifier = run[2]
    sparsifier.masks["0.weight"][:10] = False
    with pytest.raises(sf.BrokenPromiseError, match=r"wrote to the mask of '0\.weight'.*load_state_dict"):
        train_step(*run[:2], 3)
    with pytest.raises(sf.BrokenPromiseError, match="wrote to the mask"):
        sparsifier.check()
    sparsifier.load_state_dict(sparsifier.state_dict())  # what the message says
    trained(run, range(3, 4))
    sparsifier.check()
    if method is sf.Static:
        assert not sparsifier.masks["0.weight"][:10].any()


EXCHANGES: dict[str, Callable[[sf.Sparsifier, dict[str, Tensor]], object]] = {
    "attribute": lambda sparsifier, masks: setattr(sparsifier, "masks", masks),
    "item": lambda sparsifier, masks: sparsifier.masks.__setitem__("0.weight", masks["0.weight"]),  # type: ignore[attr-defined]
    "update": lambda sparsifier, masks: sparsifier.masks.update(masks),  # type: ignore[attr-defined]
    "deleted": lambda sparsifier, masks: sparsifier.masks.__delitem__("0.weight"),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_masks_are_not_exchanged_behind_the_sparsifier(exchange: str, tmp_path: Path) -> None:
    run = made(rigl())
    trained(run, range(3))
    sparsifier, others = run[2], masked(run[0], sparsity=0.8, seed=7)
    with pytest.raises(TypeError, match=r"the method alone moves the masks.*load_state_dict"):
        EXCHANGES[exchange](sparsifier, others)
    trained(run, range(3, 5))
    sparsifier.check()
    sparsifier.load_state_dict({**sparsifier.state_dict(), "masks": others})  # what the message says
    sf.apply_masks_(run[0], sparsifier.masks)
    trained(run, range(5, 8))
    sparsifier.check()
    torch.save(sparsifier.masks, tmp_path / "masks.pt")
    for copied in (torch.load(tmp_path / "masks.pt", weights_only=True), copy.deepcopy(sparsifier.masks)):
        copied.pop("0.weight")


def test_a_callback_that_raises_after_an_update_leaves_masks_that_are_the_methods_own() -> None:
    run = made(rigl())
    run[2].after_update.append(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trained(run, range(3))
    run[2].after_update.clear()
    trained(run, range(2, 6))
    run[2].check()


@pytest.mark.parametrize("given", ["masks", "state"])
def test_the_order_of_names_changes_nothing(given: str) -> None:
    """Formats such as safetensors sort names; growth draws layer by layer. Oracle: the run that went on."""

    def method() -> sf.SET:
        return sf.SET(update_every=2, schedule="constant", update_until=100)

    run = made(method())
    trained(run, range(5))
    saved = copy.deepcopy([part.state_dict() for part in run])
    expected = trained(run, range(5, 9))
    model = tiny_model()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    masks = masked(model)
    if given == "masks":
        masks = dict(reversed(masks.items()))
    else:
        saved[2]["masks"] = dict(reversed(saved[2]["masks"].items()))
    sparsifier = sf.Sparsifier(model, optimizer, masks, method(), seed=0, state=saved[2])
    assert_same_bits(trained((model, optimizer, sparsifier), range(5, 9)), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": sf.Static}, r"method must be an object.*got the class Static\. Write sparseflow\.Static\(\.\.\.\)"),
        ({"method": "rigl"}, "method must be an object with a rule for masks, got 'rigl'"),
        ({"masks": None}, "masks must be a mapping of names"),
        ({"model": {}}, "model must be a torch.nn.Module, got dict"),
        ({"seed": None}, "seed must be a whole number, got None"),
    ],
)
def test_what_is_no_argument_is_named(change: dict[str, Any], message: str) -> None:
    model = tiny_model()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    given = {"model": model, "optimizer": optimizer, "masks": masked(model), "method": sf.Static(), "seed": 0}
    with pytest.raises(TypeError, match=message):
        sf.Sparsifier(**(given | change))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"masks": None}, TypeError, "the state's masks must be a dict of tensors by name, got NoneType"),
        ({"masks": {1: None}}, TypeError, "the state's masks must be a dict of tensors by name"),
        ({"gradient_mean": None}, TypeError, "the state's gradient_mean must be a dict"),
        ({"learning_rates": 3.0}, ValueError, "the state's learning_rates must be numbers from 0 on, got 3.0"),
    ],
)
def test_what_is_no_state_is_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    sparsifier = made(rigl())[2]
    with pytest.raises(error, match=message):
        sparsifier.load_state_dict({**sparsifier.state_dict(), **change})


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", [sf.engine.convert, sf.sparsity_report])
def test_an_earlier_checkpoint_is_not_cut_to_the_masks_of_now(use: Callable[[nn.Module, Any], Any]) -> None:
    """As "load the best model at the end" does, and an average swapped in."""
    model, _, sparsifier = run = made(rigl())
    trained(run, range(2))
    best = copy.deepcopy([part.state_dict() for part in run])
    trained(run, range(2, 12))
    model.load_state_dict(best[0])
    with pytest.raises(ValueError, match=r"is not zero off its mask: something wrote to.*apply_masks_"):
        use(model, sparsifier.masks)
    sparsifier.load_state_dict(best[2])  # what the message says
    use(model, sparsifier.masks)


def test_a_callback_that_writes_densely_is_noticed_at_the_next_step() -> None:
    model, _, sparsifier = run = made(rigl())

    @torch.no_grad()
    def fill(*_: Any) -> None:
        for parameter in model.parameters():
            parameter.add_(0.01)

    sparsifier.after_update.append(fill)
    trained(run, range(2))
    sparsifier.after_update.clear()
    with pytest.warns(UserWarning, match="had nonzero weights off the mask") as seen:
        trained(run, range(2, 3))
    assert "'0.weight'" in str(seen[0].message)
    assert "'5.weight'" in str(seen[0].message)
    sparsifier.check()


def test_a_few_zeros_do_not_make_a_dense_weight_sparse() -> None:
    """An embedding's row of padding is zero, and at a low sparsity nearly as many are active as there are."""
    model = nn.Sequential(nn.Embedding(50, 16, padding_idx=0), nn.Linear(16, 4))
    masks = sf.random_masks(model, 0.3, seed=0, include=["0.weight", "1.weight"])
    optimizer = torch.optim.Adam(model.parameters())
    sparsifier = sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0)
    model(torch.randint(50, (8,))).sum().backward()
    optimizer.step()
    sparsifier.check()


# -- optimizers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "momentum", "sgd"])
def test_weights_that_thaw_late_are_masked_by_the_optimizer_that_takes_them(optimizer: str) -> None:
    model: Any = tiny_model()
    model[3].weight.requires_grad_(False)
    stepped = OPTIMIZERS[optimizer]([parameter for parameter in model.parameters() if parameter.requires_grad])
    sparsifier = sf.Sparsifier(model, stepped, masked(model), rigl(), seed=0)
    run = model, stepped, sparsifier
    trained(run, range(3))
    before = model[3].weight.detach().clone()
    model[3].weight.requires_grad_(True)
    with pytest.raises(ValueError, match=r"does not hold '3\.weight'.*add_param_group"):
        train_step(model, stepped, 3)
    stepped.add_param_group({"params": [model[3].weight]})  # what the message says
    for step in range(3, 9):
        train_step(model, stepped, step)
        sparsifier.check()
    assert not torch.equal(model[3].weight, before)


@pytest.mark.parametrize("optimizer", ["adam", "momentum", "sgd"])
@pytest.mark.parametrize("order", ["MOAS", "ASMO", "AMOS", "ASOM", "OASM", "MAOS"])
def test_states_of_torchs_distributed_checkpoints_load_in_any_order(order: str, optimizer: str) -> None:
    """Torch makes a fresh optimizer's state by a step of zeros, which is none of ours. Oracle: the run that went on."""
    run = made(rigl(), optimizer)
    assert get_optimizer_state_dict(*run[:2])
    assert run[2].step_count == 0
    trained(run, range(5))
    saved = copy.deepcopy([run[0].state_dict(), get_optimizer_state_dict(*run[:2]), run[2].state_dict()])
    expected = trained(run, range(5, 9))
    model = tiny_model()
    stepped = OPTIMIZERS[optimizer](model.parameters())
    for action in order:
        if action == "M":
            model.load_state_dict(saved[0])
        elif action == "O":
            set_optimizer_state_dict(model, stepped, optim_state_dict=saved[1])
        elif action == "A":
            sparsifier = sf.Sparsifier(model, stepped, masked(model), rigl(), seed=0)
        else:
            sparsifier.load_state_dict(saved[2])
    assert_same_bits(trained((model, stepped, sparsifier), range(5, 9)), expected)


def test_a_state_saved_between_the_steps_of_two_optimizers_resumes() -> None:
    """Oracle: the run that went on."""

    def parts() -> Any:
        model: Any = tiny_model()
        return model, torch.optim.Adam(model[:3].parameters()), torch.optim.Adam(model[3:].parameters())

    def steps(run: Any, sparsifier: sf.Sparsifier) -> list[Tensor]:
        model, first, second = run
        second.step()
        for step in range(6, 11):
            train_step(model, first, step)
            second.step()
            model.zero_grad()
        return [*snapshot(model, first), *snapshot(model, second), *sparsifier.masks.values()]

    run = parts()
    sparsifier = sf.Sparsifier(run[0], run[1:], masked(run[0]), rigl(), seed=0)
    for step in range(5):
        train_step(*run[:2], step)
        run[2].step()
        run[0].zero_grad()
    train_step(*run[:2], 5)
    gradients = [copy.deepcopy(parameter.grad) for parameter in run[0].parameters()]
    saved = copy.deepcopy([each.state_dict() for each in (*run, sparsifier)])
    expected, count = steps(run, sparsifier), sparsifier.step_count
    again = parts()
    for part, state in zip(again, saved, strict=False):
        part.load_state_dict(state)
    resumed = sf.Sparsifier(again[0], again[1:], masked(again[0]), rigl(), seed=0, state=saved[3])
    for parameter, gradient in zip(again[0].parameters(), gradients, strict=True):
        parameter.grad = gradient
    assert_same_bits(steps(again, resumed), expected)
    assert resumed.step_count == count


def test_a_state_between_a_step_and_its_update_is_refused() -> None:
    model, optimizer, sparsifier = made(sf.RigL(update_every=2, schedule="constant"))
    sparsifier.before_update.append(lambda step: sparsifier.state_dict())
    train_step(model, optimizer, 0)
    with pytest.raises(RuntimeError, match=r"step 2 is taken and its mask update is not.*Save in after_update"):
        train_step(model, optimizer, 1)
    sparsifier.before_update.clear()
    train_step(model, optimizer, 2)
    assert sparsifier.state_dict()["step_count"] == 3


def test_it_may_be_removed_while_an_optimizer_steps() -> None:
    model, optimizer, sparsifier = made(sf.RigL(update_every=2, schedule="constant"))
    sparsifier.after_update.append(lambda step, changes: sparsifier.remove())
    for step in range(4):
        train_step(model, optimizer, step)
    assert sparsifier.step_count == 2
    sf.Sparsifier(model, optimizer, sparsifier.masks, sf.Static(), seed=0).check()


@pytest.mark.parametrize("given", [None, [], {"3.weight": None}])
def test_a_gradient_fn_that_returns_something_else(given: Any) -> None:
    model = tiny_model()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    method = sf.RigL(update_every=1, schedule="constant")
    sf.Sparsifier(model, optimizer, masked(model), method, seed=0, gradient_fn=lambda: given)
    with pytest.raises(TypeError, match="gradient_fn must return a mapping of parameter names to gradients"):
        train_step(model, optimizer, 0)


@pytest.mark.parametrize("sparsity", ["0.9", None, True])
def test_a_sparsity_that_is_no_number(sparsity: Any) -> None:
    with pytest.raises(TypeError, match=r"sparsity must be a number, got"):
        sf.GMP(sparsity=sparsity, begin=1, end=2)
