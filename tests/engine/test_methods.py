"""Dynamic sparsity on real sparse storage: every method and optimizer, against the masked form in float64."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from allocations import Allocations
from makers import CASES, DROP_GROW, masks_of, method_of
from sparseflow.engine.layers.geometry import Window
from sparseflow.engine.layers.modules import SparseLinear
from sparseflow.methods import Swap
from sparseflow.methods.scores import gradient_magnitude, magnitude
from sparseflow.rng import stream
from sparseflow.sparsifier.stored import StoredLayer, row_parts, stored_weights
from tiny import OPTIMIZERS, SIZES, batch, masked, tiny_model

STEPS = 13
OPTIONS: dict[str, dict[str, Any]] = {
    "no regrowth": {"regrow": False},
    "in place of the step": {"replaces_step": True, "first_update": 0},
    "large": {"drop_fraction": 1.0},
}
#: Those that stored weights have a place for; the others say that they have none, which their own tests hold.
STORED = [case for case in CASES if not hasattr(method_of(case), "used")]
every_method = pytest.mark.parametrize("method", STORED)
every_optimizer = pytest.mark.parametrize("optimizer_name", OPTIMIZERS)


class Run:
    """A model on sparse storage (or masked), its optimizer and its Sparsifier, at step 0."""

    def __init__(self, method: str, optimizer_name: str, *, sparse: bool, seed: int = 0, **changed: Any) -> None:
        model = tiny_model(dtype=torch.float64)
        masks = masks_of(method, model)
        sf.apply_masks_(model, masks)
        self.model = sf.engine.convert(model, masks) if sparse else model
        self.optimizer = OPTIMIZERS[optimizer_name](self.model.parameters())
        updater = method_of(method, **changed)
        self.sparsifier = sf.Sparsifier(self.model, self.optimizer, masks, updater, seed=seed)

    def step(self, number: int, *, parts: int = 1) -> None:
        x, y = batch(number, dtype=torch.float64)
        self.optimizer.zero_grad()
        for images, labels in zip(x.chunk(parts), y.chunk(parts), strict=True):
            (F.cross_entropy(self.model(images), labels) / parts).backward()
        self.optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """Weights by name, dense, and state of the active ones."""
        found = sf.engine.dense_state_dict(self.model)
        layers = sf.engine.sparse_layers(self.model)
        for name in SIZES:
            parameter = layers[name].values if name in layers else self.model.get_parameter(name)
            for key, state in self.optimizer.state[parameter].items():
                if isinstance(state, Tensor) and state.shape == parameter.shape:
                    mask = self.sparsifier.masks[name]
                    found[f"{name} {key}"] = state if name in layers else state[mask]  # off it that of a new weight
        return {name: tensor.detach().clone() for name, tensor in found.items()}


def assert_alike(sparse: Run, dense: Run) -> None:
    for name in SIZES:
        assert torch.equal(sparse.sparsifier.masks[name], dense.sparsifier.masks[name]), name
    found, want = sparse.tensors(), dense.tensors()
    assert found.keys() == want.keys()
    for name in want:
        # Sums in another order, in float64.
        torch.testing.assert_close(found[name], want[name], rtol=1e-9, atol=1e-11)


@every_method
@every_optimizer
@pytest.mark.status("engine")
def test_sparse_storage_trains_like_masks(method: str, optimizer_name: str) -> None:
    sparse, dense = (Run(method, optimizer_name, sparse=kind) for kind in (True, False))
    start = {name: mask.clone() for name, mask in sparse.sparsifier.masks.items()}
    moved = False
    for step in range(1, STEPS + 1):
        sparse.step(step)
        dense.step(step)
        sparse.sparsifier.check()
        assert_alike(sparse, dense)
        moved |= any(not torch.equal(start[name], sparse.sparsifier.masks[name]) for name in SIZES)
    assert moved == (not method.startswith("static"))
    assert sparse.sparsifier.step_count == dense.sparsifier.step_count == STEPS


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (method, options)
        for method in ("set", "rigl", "rigl_inverted", "set in blocks", "rigl in blocks")
        for options in OPTIONS.values()
        if not method.startswith("set") or "replaces_step" not in options
    ],
)
def test_options_of_an_update(method: str, options: dict[str, Any]) -> None:
    sparse, dense = (Run(method, "momentum", sparse=kind, **options) for kind in (True, False))
    for step in range(1, STEPS + 1):
        sparse.step(step)
        dense.step(step)
        assert_alike(sparse, dense)


def test_an_ordinary_loop_in_which_the_last_loss_still_lives() -> None:
    """``loss`` of one step lives while the next one is computed, and its graph knows the number of values then."""
    sparse, dense = (Run("prune", "momentum", sparse=kind) for kind in (True, False))
    counts = set()
    for step in range(1, STEPS + 1):
        x, y = batch(step, dtype=torch.float64)
        for run in (sparse, dense):
            run.optimizer.zero_grad()
        losses = [F.cross_entropy(run.model(x), y) for run in (sparse, dense)]  # those of the last step go only now
        for run, loss in zip((sparse, dense), losses, strict=True):
            loss.backward()
            run.optimizer.step()
        assert_alike(sparse, dense)
        counts.add(sum(int(mask.sum()) for mask in sparse.sparsifier.masks.values()))
    assert len(counts) > 2


def test_a_loss_lives_while_another_pattern_is_loaded() -> None:
    model = tiny_model(dtype=torch.float64)
    few, many = (sf.engine.convert(model, sf.random_masks(model, s, seed=0)) for s in (0.9, 0.5))
    x, y = batch(1, dtype=torch.float64)
    held = F.cross_entropy(few(x), y)
    few.load_state_dict(many.state_dict())
    for each in (few, many):
        F.cross_entropy(each(x), y).backward()
    assert held.grad_fn is not None
    for found, want in zip(few.parameters(), many.parameters(), strict=True):
        assert torch.equal(found.grad, want.grad)


@pytest.mark.parametrize("method", ["rigl", "snfs", "rigl in blocks"])
def test_the_gradient_of_growth_is_accumulated(method: str) -> None:
    sparse, dense = (Run(method, "momentum", sparse=kind) for kind in (True, False))
    for step in range(1, STEPS + 1):
        sparse.step(step, parts=4)
        dense.step(step, parts=4)
        assert_alike(sparse, dense)


@pytest.mark.parametrize("to_none", [True, False])
def test_a_backward_pass_that_was_thrown_away_does_not_grow(to_none: bool) -> None:
    plain, other = Run("rigl", "momentum", sparse=True), Run("rigl", "momentum", sparse=True)
    for step in range(1, 4):
        x, y = batch(100 + step, dtype=torch.float64)
        F.cross_entropy(other.model(x), y).backward()
        other.optimizer.zero_grad(set_to_none=to_none)
        other.step(step)
        plain.step(step)
    assert all(torch.equal(other.sparsifier.masks[name], plain.sparsifier.masks[name]) for name in SIZES)


@every_method
@pytest.mark.parametrize("optimizer_name", ["momentum", "adam"])
def test_save_load_and_go_on_is_never_having_stopped(method: str, optimizer_name: str) -> None:
    through = Run(method, optimizer_name, sparse=True)
    for step in range(1, 6):
        through.step(step)
    file = io.BytesIO()
    parts = ("model", "optimizer", "sparsifier")
    torch.save({name: getattr(through, name).state_dict() for name in parts}, file)
    for step in range(6, STEPS + 1):
        through.step(step)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = Run(method, optimizer_name, sparse=True, seed=1)
    for name in parts:
        getattr(resumed, name).load_state_dict(saved[name])
    resumed.sparsifier.check()
    for step in range(6, STEPS + 1):
        resumed.step(step)
    for name, tensor in through.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name]), name


@every_method
def test_what_changed_is_told(method: str) -> None:
    told: dict[bool, list[Any]] = {True: [], False: []}
    for sparse in told:
        run = Run(method, "momentum", sparse=sparse)
        run.sparsifier.after_update.append(
            lambda step, changes, to=told[sparse]: to.append((step, copy.deepcopy(changes)))
        )
        for step in range(1, STEPS + 1):
            run.step(step)
    assert [step for step, _ in told[True]] == [step for step, _ in told[False]]
    for (_, found), (_, want) in zip(told[True], told[False], strict=True):
        for name in SIZES:
            assert all(map(torch.equal, found[name], want[name]))


@pytest.mark.parametrize("method", ["set", "rigl", "prune"])
def test_some_layers_masked_and_some_stored(method: str) -> None:
    dense = Run(method, "momentum", sparse=False)
    mixed = Run(method, "momentum", sparse=False)
    masks = {name: mask.clone() for name, mask in mixed.sparsifier.masks.items()}
    model = sf.engine.convert(mixed.model, masks, only=["3.weight"])
    mixed.model, mixed.optimizer = model, OPTIMIZERS["momentum"](model.parameters())
    mixed.sparsifier = sf.Sparsifier(model, mixed.optimizer, masks, mixed.sparsifier.method, seed=0)
    for step in range(1, STEPS + 1):
        mixed.step(step)
        dense.step(step)
        assert_alike(mixed, dense)


@pytest.mark.parametrize("shape", [(40, 300), (7, 3, 50, 20), (1, 5)])
@pytest.mark.parametrize("regrow", [True, False])
@pytest.mark.parametrize("ties", [True, False])
def test_an_exchange_in_parts_is_the_whole_one(shape: tuple[int, ...], regrow: bool, ties: bool) -> None:
    generator = stream(0, "exchange")
    mask = torch.rand(shape, generator=generator) < 0.4
    mask.view(-1)[0] = True
    weight, gradient = (torch.randn(shape, generator=generator) for _ in range(2))
    if ties:
        weight, gradient = weight.round(), gradient.round()
    weight = weight * mask
    positions = mask.flatten().nonzero().squeeze(1)
    count = min(int(mask.sum()), int((~mask).sum())) // 2
    layer = StoredLayer("w", shape, positions, weight[mask], None, lambda a, b: gradient[a:b], 1.0, len(positions))
    swap = Swap(count, count, drop_score=magnitude, grow_score=gradient_magnitude, regrow=regrow)
    found = layer.begin(swap, generator=generator, gradient_name="the gradient")
    want = sf.drop_and_grow(mask, weight.abs(), gradient.abs(), count, count, regrow=regrow).mask
    assert torch.equal(found, want.flatten().nonzero().squeeze(1))


@pytest.mark.parametrize("shape", [(1, 1), (1000, 3), (17, 5000), (3, 3, 3, 3)])
def test_parts_are_all_rows_once(shape: tuple[int, ...]) -> None:
    assert [row for part in row_parts(shape) for row in range(*part)] == list(range(shape[0]))


def test_a_gradient_that_is_not_finite_stops_the_update_before_anything_moves() -> None:
    run = Run("rigl", "momentum", sparse=True)
    for step in (1, 2):
        run.step(step)
    before = {name: mask.clone() for name, mask in run.sparsifier.masks.items()}
    x, y = batch(3, dtype=torch.float64)
    x[0] = float("nan")
    run.optimizer.zero_grad()
    F.cross_entropy(run.model(x), y).backward()
    with pytest.raises(
        ValueError, match=r"the gradient of '0\.weight' at the mask update of step 3 has \d+ of \d+ entries"
    ):
        run.optimizer.step()
    assert all(torch.equal(run.sparsifier.masks[name], before[name]) for name in SIZES)


def test_masks_of_other_positions_are_refused() -> None:
    model = tiny_model()
    masks = masked(model)
    sparse = sf.engine.convert(model, masks)
    optimizer = torch.optim.SGD(sparse.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"mask of '0\.weight' is not where the sparse layer has its weights"):
        sf.Sparsifier(sparse, optimizer, masked(model, seed=1), sf.Static(), seed=0)
    with pytest.raises(ValueError, match=r"the optimizer does not hold '0\.weight'"):
        sf.Sparsifier(sparse, torch.optim.SGD([torch.zeros(1)], lr=0.1), masks, sf.Static(), seed=0)
    with pytest.raises(ValueError, match="LBFGS remembers directions over all weights together"):
        sf.Sparsifier(sparse, torch.optim.LBFGS(sparse.parameters()), masks, sf.RigL(update_every=1), seed=0)


class Replica(nn.parallel.DistributedDataParallel):
    """As the Sparsifier sees it, without a process group."""

    def __init__(self, module: nn.Module) -> None:
        nn.Module.__init__(self)
        self.module = module


def test_masks_that_move_on_sparse_storage_are_refused_on_many_ranks() -> None:
    model = tiny_model()
    masks = masked(model)
    sparse = Replica(sf.engine.convert(model, masks))
    optimizer = torch.optim.SGD(sparse.parameters(), lr=0.1)
    sf.Sparsifier(sparse, optimizer, masks, sf.Static(), seed=0).check()
    with pytest.raises(ValueError, match="under DistributedDataParallel masks move on masked weights only"):
        sf.Sparsifier(sparse, optimizer, masks, sf.RigL(update_every=1), seed=0)


def test_values_of_another_number_break_a_promise() -> None:
    run = Run("static", "momentum", sparse=True)
    layer = stored_weights(run.model)["5.weight"]
    layer.values.data = layer.values.data[:-1]
    with pytest.raises(sf.BrokenPromiseError, match=r"'5\.weight' has 11 active weights, it must have 12"):
        run.sparsifier.check()


def test_an_update_needs_less_than_one_dense_copy_of_the_largest_layer() -> None:
    """Bytes that torch allocates at most during an update, beyond those of the gradients kept for it."""
    torch.manual_seed(0)
    size = 512
    pattern = sf.engine.Pattern.of(torch.rand(size, size, generator=stream(0, "mask")) < 0.05)
    layer = SparseLinear(pattern, torch.randn(pattern.num_active), None, Window())
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    updater = sf.RigL(drop_fraction=0.3, update_every=1, replaces_step=True, first_update=0)
    sparsifier = sf.Sparsifier(layer, optimizer, {"weight": pattern.mask()}, updater, seed=0)
    layer(torch.randn(8, size)).square().sum().backward()
    with Allocations() as allocations:
        optimizer.step()
    assert sparsifier.step_count == 0
    assert size * size / 4 < allocations.peak < 4 * size * size


class Half(nn.Module):
    """One layer without a gradient at some steps."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(20, 20), nn.Linear(20, 20)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)  # type: ignore[no-any-return]


def test_a_layer_without_a_gradient_sits_the_update_out() -> None:
    model = Half()
    masks = sf.random_masks(model, 0.5, seed=0)
    sparse = sf.engine.convert(model, masks)
    optimizer = torch.optim.SGD(sparse.parameters(), lr=0.1)
    sparsifier = sf.Sparsifier(sparse, optimizer, masks, sf.RigL(drop_fraction=0.5, update_every=1), seed=0)
    sparse(torch.randn(4, 20, generator=stream(0, "x"))).square().sum().backward()
    optimizer.step()
    assert torch.equal(sparsifier.masks["unused.weight"], masks["unused.weight"])
    assert not torch.equal(sparsifier.masks["used.weight"], masks["used.weight"])


def test_another_gradient_may_decide_what_grows() -> None:
    gradients = {name: torch.randn(tiny_model().get_parameter(name).shape, dtype=torch.float64) for name in SIZES}
    runs = [Run("static", "momentum", sparse=kind) for kind in (True, False)]
    for run in runs:
        masks = {name: mask.clone() for name, mask in run.sparsifier.masks.items()}
        run.sparsifier.remove()
        updater = sf.RigL(**DROP_GROW)
        run.sparsifier = sf.Sparsifier(run.model, run.optimizer, masks, updater, seed=0, gradient_fn=lambda: gradients)
        for step in range(1, 5):
            run.step(step)
    assert_alike(*runs)
