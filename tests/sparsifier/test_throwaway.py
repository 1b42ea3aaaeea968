"""The trial of an optimizer: what it is handed is what a loop would hand it, and settings are those of the real one."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from odd_optimizers import LateMixing, Lookahead, Odd, Unrepeatable
from optimizer_loops import backward, network, rigl
from sparseflow.sparsifier.optimizer_state import findings
from sparseflow.sparsifier.tensors import name_of
from sparseflow.sparsifier.throwaway import throwaway


class Curved(Odd):
    """As AdaHessian: it asks the graph of the gradient for the curvature, which inactive weights have, too."""

    def move(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> Tensor:
        if not state:
            state.update(momentum=torch.zeros_like(gradient), curvature=torch.zeros_like(gradient))
        with torch.enable_grad():
            curvature = torch.autograd.grad(gradient.sum(), parameter, retain_graph=True)[0]
        state["curvature"].mul_(0.9).add_(curvature, alpha=0.1)
        return state["momentum"].mul_(0.9).add_(gradient.detach(), alpha=0.1) / (state["curvature"].abs() + 0.1)


@pytest.mark.filterwarnings("ignore:Using backward")
def test_curvature_belongs_to_no_weight() -> None:
    """It is not zero where the gradient is, so it must not be made so: by hand nobody does."""
    layer = nn.Linear(16, 12, bias=False)
    found = findings(Curved(layer.parameters()), layer.weight)
    assert found.error is None
    assert {name_of(path): kept.fresh for path, kept in found.per_weight.items()} == {"momentum": 0.0}
    assert list(map(name_of, found.left_alone)) == ["curvature"]


class Referenced(Odd):
    """As TRAC: the weights of the first step, to which all later ones are relative, under one name for all of them."""

    def move(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> Tensor:
        reference = self.state["reference"].setdefault(parameter, parameter.detach().clone())  # type: ignore[index]
        return gradient + 0.1 * (parameter - reference)


def test_state_under_a_name_is_that_of_a_new_weight_where_one_is_dropped() -> None:
    """A weight that grows again must not be drawn to where it was before."""
    model = network()
    optimizer = Referenced(model.parameters())
    masks = sf.random_masks(model, 0.8, seed=0)
    sparsifier = sf.Sparsifier(model, optimizer, masks, sf.SET(update_every=2, schedule="constant"), seed=0)
    before = {name: mask.clone() for name, mask in masks.items()}
    for step in range(6):
        backward(model, step)
        optimizer.step()
        assert sparsifier.check().state_tensors == 2
    for name, mask in sparsifier.masks.items():
        reference = optimizer.state["reference"][model.get_parameter(name)]
        assert (before[name] & ~mask).any()
        assert not reference[~mask].any()
        assert reference[mask & before[name]].any()


@pytest.mark.parametrize("order", ["model first", "sparsifier first"])
def test_what_a_run_found_to_mix_weights_late_is_known_when_it_resumes(order: str) -> None:
    """Oracle: the run that never stopped; saved after the optimizer began to mix (step 8), before an update."""

    def made() -> tuple[nn.Module, torch.optim.Optimizer, sf.Sparsifier]:
        model = network()
        optimizer = LateMixing(model.parameters())
        masks = sf.random_masks(model, 0.8, seed=0)
        return model, optimizer, sf.Sparsifier(model, optimizer, masks, rigl(), seed=0)

    model, optimizer, sparsifier = made()
    saved = io.BytesIO()
    for step in range(17):
        backward(model, step)
        optimizer.step()
        if step == 9:
            torch.save([each.state_dict() for each in (model, optimizer, sparsifier)], saved)
    states = torch.load(io.BytesIO(saved.getvalue()), weights_only=True)
    assert states[2]["states_left_alone"] == {"0.weight": ["momentum"], "2.weight": ["momentum"]}
    again = made()
    pairs = list(zip(again, states, strict=True))
    for each, state in pairs if order == "model first" else reversed(pairs):
        each.load_state_dict(copy.deepcopy(state))
    for step in range(10, 17):
        backward(again[0], step)
        again[1].step()
    assert all(map(torch.equal, again[0].parameters(), model.parameters()))
    assert all(torch.equal(mask, sparsifier.masks[name]) for name, mask in again[2].masks.items())


@pytest.mark.parametrize("wrapped", [False, True])
def test_one_that_does_not_keep_its_arguments_is_copied_without_its_state(wrapped: bool) -> None:
    """A scheduler has replaced its step on the object, hooks count its steps: the copy reaches neither."""
    weights = [nn.Parameter(torch.ones(8)) for _ in range(2)]
    inside = Unrepeatable([{"params": weights[:1], "lr": 0.25}, {"params": weights[1:]}], lambda _: 0.5)
    optimizer = Lookahead(inside, k=1, alpha=0.5) if wrapped else inside
    torch.optim.lr_scheduler.LinearLR(inside, start_factor=0.1)
    steps: list[object] = []
    inside.register_step_post_hook(lambda *_: steps.append(None))
    for weight in weights:
        weight.grad = torch.ones(8)
    optimizer.step()
    before = copy.deepcopy([weights, list(inside.state.values())])
    stand_in = nn.Parameter(torch.zeros(4))
    made = throwaway(optimizer, weights[0], stand_in)
    made = made.optimizer if wrapped else made
    assert [group["params"] for group in made.param_groups] == [[stand_in]]
    assert made.param_groups[0]["lr"] == 0.25
    assert not made.state
    stand_in.grad = torch.ones(4)
    made.step()
    torch.testing.assert_close(stand_in.detach(), torch.full((4,), -0.025))
    assert len(steps) == 1
    assert str([weights, list(inside.state.values())]) == str(before)
