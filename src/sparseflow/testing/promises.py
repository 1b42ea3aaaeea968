"""The promises that every method keeps, each a function of a :class:`sparseflow.testing.Trial`."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from sparseflow.masks.blocks import grids_of
from sparseflow.masks.make import dense_masks
from sparseflow.methods.base import Swap
from sparseflow.methods.drop_grow import drop_and_grow
from sparseflow.rng import stream
from sparseflow.sparsifier.optimizers import reset_momentum_
from sparseflow.sparsifier.update import WholeLayer
from sparseflow.testing.trial import STEPS, Trial, loss, network, snapshot, state_of
from sparseflow.types import BrokenPromiseError, MaskUpdate

Promise = Callable[[Trial], None]


def need(kept: bool, words: str) -> None:
    """Raise :class:`sparseflow.BrokenPromiseError` unless something holds."""
    if not kept:
        raise BrokenPromiseError(words)


def _same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def counts_are_exact(trial: Trial) -> None:
    """Each layer has as many active weights as it should have, after every step."""
    run = trial.run()
    begin = {name: int(mask.sum()) for name, mask in run.masks().items()}
    for step in range(1, STEPS + 1):
        run.step(step)
        for name, mask in run.sparsifier.masks.items():
            wanted = begin[name] if trial.active is None else trial.active(name, mask.numel(), step)
            found = int(mask.sum())
            need(found == wanted, f"{name!r} has {found} active weights after step {step}; it should have {wanted}.")


def zeros_are_exact(trial: Trial) -> None:
    """Inactive weights are exactly 0 and their optimizer state is fresh, after every step; active ones are trained."""
    run = trial.run()
    for step in range(1, STEPS + 1):
        run.step(step)
        run.sparsifier.check()
        for name, mask in run.sparsifier.masks.items():
            weight = run.weights[name]
            for tensor, value in ((weight, 0.0), *((state, trial.fresh) for state in state_of(run.optimizer, weight))):
                need(bool((tensor[~mask] == value).all()), f"{name!r} is not {value} off its mask after step {step}.")
                if tensor is weight or not trial.resets_momentum(step):
                    need(bool((tensor[mask] != value).any()), f"{name!r} is {value} everywhere after step {step}.")


def masks_stay_in_their_places(trial: Trial) -> None:
    """The masks are those of the same weights, bool and of their shape; biases and whatever has no mask stay dense."""
    run = trial.run()
    shapes = {name: mask.shape for name, mask in run.masks().items()}
    for step in range(1, STEPS + 1):
        run.step(step)
    found = {name: mask.shape for name, mask in run.sparsifier.masks.items()}
    need(found == shapes, f"masks {sorted(found)} are not those of the start, {sorted(shapes)}.")
    for name, mask in run.sparsifier.masks.items():
        need(mask.dtype == torch.bool, f"the mask of {name!r} is {mask.dtype}; it should be torch.bool.")
    for name, parameter in run.model.named_parameters():
        need(name in shapes or bool((parameter != 0).all()), f"{name!r} has no mask, but zeros.")


def updates_are_told(trial: Trial) -> None:
    """An update is its dropped and its grown weights; what grows starts at 0, what stays keeps value and state."""
    run = trial.run()
    before: dict[str, Tensor] = {}
    moved = 0

    def after(step: int, changes: Mapping[str, MaskUpdate]) -> None:
        nonlocal moved
        for name, change in changes.items():
            old, new, weight = before[name], run.sparsifier.masks[name], run.weights[name]
            need(torch.equal(change.mask, new), f"the mask of {name!r} is not the one that was told at step {step}.")
            need(torch.equal(new, (old | change.grown) & ~change.dropped), f"{name!r} changed otherwise than told.")
            need(not bool((change.grown & old).any()), f"{name!r} grew weights that were active.")
            need(not bool((change.dropped & ~old).any()), f"{name!r} dropped weights that were not active.")
            for tensor, value in ((weight, 0.0), *((state, trial.fresh) for state in state_of(run.optimizer, weight))):
                if tensor is not weight or not trial.keeps_values:
                    need(bool((tensor[change.grown] == value).all()), f"weights of {name!r} grew from another value.")
                stayed = tensor[old & new]
                if stayed.numel() and (tensor is weight or not trial.resets_momentum(step)):
                    need(bool((stayed != value).any()), f"what stayed in {name!r} lost its values.")
            moved += int(change.grown.sum()) + int(change.dropped.sum())

    run.sparsifier.before_update.append(lambda step: before.update(run.masks()))
    run.sparsifier.after_update.append(after)
    for step in range(1, STEPS + 1):
        run.step(step)
    if trial.moves:
        need(moved > 0, f"no mask changed in {STEPS} steps: make the method with a short period, such as 3 steps.")
    else:
        need(moved == 0, f"{moved} weights moved, and none should.")


def inputs_stay_unchanged(trial: Trial) -> None:
    """``update`` writes to no weight, mask or gradient, and the masks that it yields are new tensors."""
    method, model = trial.make(), network()
    masks = dense_masks(model) if trial.starts_dense else trial.start(model)
    grids = grids_of(model, trial.block, masks)
    layers, before = [], []
    for name, mask in masks.items():
        gradient = torch.randn(mask.shape, generator=stream(0, "gradient", name))
        weight = model.get_parameter(name).detach() * mask
        count = int(mask.sum())
        layers.append(WholeLayer(name, weight, mask, gradient, 1.0, count, count, grids.get(name)))
        before.append((weight.clone(), mask.clone(), gradient.clone()))
    generator = stream(0, "grow")
    requests = list(method.update(layers, step=10, generator=generator))
    told, names = [name for name, _ in requests], list(masks)
    need(told == names, f"update told of {told}; it should yield each layer in turn, {names}.")
    for layer, copies, (name, request) in zip(layers, before, requests, strict=True):
        mask = _carried_out(request, layer, generator) if isinstance(request, Swap) else request
        need(
            _same([layer.weight, layer.mask, _given(layer.gradient)], copies),
            f"update wrote to its inputs of {name!r}.",
        )
        need(mask.shape == layer.mask.shape, f"the mask of {name!r} has shape {tuple(mask.shape)}.")
        mask.logical_not_()  # the answer is the caller's
        need(torch.equal(layer.mask, copies[1]), f"the new mask of {name!r} shares memory with the old one.")


def _given(gradient: Tensor | None) -> Tensor:
    assert gradient is not None  # of the layers that are made here
    return gradient


def _carried_out(swap: Swap, layer: WholeLayer, generator: torch.Generator) -> Tensor:
    """The mask after a swap, by the definition of an exchange."""
    gradient = layer.gradient
    scores = [score(layer.weight, gradient, generator=generator) for score in (swap.drop_score, swap.grow_score)]
    of, size = layer.mask, 1
    if layer.grid is not None:
        of, scores, size = layer.grid.of(of), [layer.grid.sums(score) for score in scores], layer.grid.size
    mask = drop_and_grow(
        of, scores[0], scores[1], swap.num_drop // size, swap.num_grow // size, regrow=swap.regrow
    ).mask
    return mask if layer.grid is None else layer.grid.spread(mask)


def same_seed_same_masks(trial: Trial) -> None:
    """Two runs from one seed end with the same bits: what is drawn comes from the ``generator`` that is given."""
    one, other = trial.run(), trial.run()
    for run in (one, other):
        for step in range(1, STEPS + 1):
            run.step(step)
    need(_same(one.tensors(), other.tensors()), "two runs from one seed differ: draw from the generator given.")


def state_round_trip(trial: Trial) -> None:
    """A run that is saved at any step and continued in fresh objects ends with the bits of one left alone."""
    for stop in (5, STEPS - 1):  # past updates that moved masks; and late
        through = trial.run()
        for step in range(1, stop + 1):
            through.step(step)
        file = io.BytesIO()
        torch.save({name: getattr(through, name).state_dict() for name in _PARTS}, file)
        for step in range(stop + 1, STEPS + 1):
            through.step(step)
        file.seek(0)
        saved, resumed = torch.load(file, weights_only=True), trial.run(seed=1)
        for name in _PARTS:
            getattr(resumed, name).load_state_dict(saved[name])
        for step in range(stop + 1, STEPS + 1):
            resumed.step(step)
        words = f"a run saved after step {stop} and continued differs from one left alone: what a method remembers "
        need(_same(through.tensors(), resumed.tensors()), f"{words}between updates is not saved.")


_PARTS = ("model", "optimizer", "sparsifier")


def a_step_is_a_masked_step(trial: Trial) -> None:
    """Nothing happens but: gradients masked, the optimizer's step, weights and state masked. Bit for bit.

    A method may ask for momentum to be forgotten, too. One that trains weights which the network does not use
    (:class:`sparseflow.TopKAST`) takes other steps, as its paper says.
    """
    if trial.keeps_values:
        return
    run, plain = trial.run(), network()
    optimizer = trial.optimizer(plain.parameters())
    weights = {name: plain.get_parameter(name) for name in run.weights}
    masks = run.masks()

    def mask_all() -> None:
        for name, mask in masks.items():
            weights[name].data.mul_(mask)
            for state in state_of(optimizer, weights[name]):
                state[~mask] = trial.fresh

    mask_all()
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        loss(plain, step).backward()
        for name, mask in masks.items():
            gradient = weights[name].grad
            assert gradient is not None
            gradient.mul_(mask)
        optimizer.step()
        run.step(step)
        mask_all()
        masks = run.masks()
        mask_all()
        if trial.resets_momentum(step):
            reset_momentum_(optimizer)
        same = _same(snapshot(run.model, run.optimizer), snapshot(plain, optimizer))
        need(same, f"step {step} does something else than a masked step.")


def blocks_are_kept(trial: Trial) -> None:
    """Masks that are made of the method's blocks stay so."""
    run = trial.run()
    for step in range(1, STEPS + 1):
        run.step(step)
        for name, grid in grids_of(run.model, trial.block, run.weights).items():
            mask = run.sparsifier.masks[name]
            need(torch.equal(grid.spread(grid.of(mask)), mask), f"step {step} broke the blocks of {name!r} up.")


#: Name -> promise. With pytest: ``@pytest.mark.parametrize("promise", PROMISES.values())``.
PROMISES: dict[str, Promise] = {
    "counts are exact": counts_are_exact,
    "zeros are exact": zeros_are_exact,
    "masks stay in their places": masks_stay_in_their_places,
    "updates are told": updates_are_told,
    "inputs stay unchanged": inputs_stay_unchanged,
    "same seed, same masks": same_seed_same_masks,
    "saved and continued is never having stopped": state_round_trip,
    "a step is a masked step": a_step_is_a_masked_step,
    "blocks are kept": blocks_are_kept,
}
