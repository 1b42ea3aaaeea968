"""Units that never fire are negated: by hand, on every layout against the layer itself, and in whole networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sparseflow import initialize_, random_masks
from sparseflow.analysis import dead_units
from sparseflow.init import flip_silent_, silence_unit_
from sparseflow.masks.fans import Layout
from sparseflow.masks.select import maskable


def units_first(outputs: Tensor, module: nn.Module) -> Tensor:
    return (outputs if isinstance(module, nn.Linear) else outputs.movedim(1, -1)).flatten(0, -2)


def test_by_hand() -> None:
    """One input each: three weights of the first unit are negative, one of the second; the last has a bias."""
    weight = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, 2.0, -3.0], [-1.0, 0.0, 0.0]], dtype=torch.float64)
    bias = torch.tensor([0.0, 0.0, -2.0], dtype=torch.float64)
    outputs = torch.eye(3, dtype=torch.float64) @ weight.T + bias
    assert flip_silent_(weight, outputs, bias=bias).tolist() == [True, False, False]
    # The last unit gives -3, -2, -2, and negated 1 - 2 = -1 at most: it would still be silent, so it stays.
    assert weight.tolist() == [[1.0, 2.0, 3.0], [-1.0, 2.0, -3.0], [-1.0, 0.0, 0.0]]
    assert flip_silent_(weight, torch.zeros(4, 3)).tolist() == [False, False, False]  # no input reaches them


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(6, 30),
        lambda: nn.Conv1d(6, 30, 3),
        lambda: nn.Conv2d(6, 30, 2, groups=2),
        lambda: nn.ConvTranspose2d(6, 30, 2),
        lambda: nn.ConvTranspose2d(6, 30, 2, groups=2),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_the_layer_itself_fires_afterwards(make: Callable[[], nn.Module], seed: int) -> None:
    """Oracle: the layer in float64. Those that were silent fire, the others are as they were, and sizes stay."""
    module = make().double()
    (weight,) = maskable(module).values()
    generator = torch.Generator().manual_seed(seed)
    shape = (5, 6, *[7] * (weight.parameter.dim() - 2))
    inputs = torch.rand(shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        module.get_parameter("bias").zero_()
        weight.parameter.copy_(torch.randn(weight.parameter.shape, generator=generator) - 0.8)
        weight.parameter.mul_(torch.rand(weight.parameter.shape, generator=generator) < 0.6)
        before, drawn = units_first(module(inputs), module), weight.parameter.clone()
        silent = ~(before > 0).any(0)
        assert 0 < int(silent.sum()) < 30
        flipped = flip_silent_(weight.parameter, before, layout=weight.layout or Layout())
        after = units_first(module(inputs), module)
    assert flipped.tolist() == (silent & (before != 0).any(0)).tolist()
    assert (after > 0).any(0)[flipped].all()
    assert torch.equal(weight.parameter.abs(), drawn.abs())
    torch.testing.assert_close(after, torch.where(flipped, -before, before), rtol=0, atol=1e-12)  # sums of 18 numbers


def test_how_many_are_silent() -> None:
    r"""With three active weights and single inputs :math:`2^{-3}` of the units.

    Of 4000 within six standard deviations, 126: false alarm 2e-9.
    """
    weight = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    assert abs(int(flip_silent_(weight, weight.T).sum()) - 500) < 126


@pytest.mark.parametrize("outputs", [torch.ones(4), torch.ones(4, 3), torch.ones(0, 2)])
def test_outputs_of_other_units_are_refused(outputs: Tensor) -> None:
    with pytest.raises(ValueError, match=r"outputs must be .* at least one example and 2 units, got shape"):
        flip_silent_(torch.ones(2, 3), outputs)
    with pytest.raises(ValueError, match=r"bias must have one number for each of 2 units, got shape \(2, 1\)"):
        flip_silent_(torch.ones(2, 3), torch.ones(4, 2), bias=torch.zeros(2, 1))


def test_a_unit_is_silenced() -> None:
    """Each of those with a positive weight, and none else; a half each, within six deviations of 400 draws."""
    drawn = torch.tensor([[1.0, -2.0], [-1.0, -2.0], [0.0, 3.0]])
    counts = torch.zeros(3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        weight = drawn.clone()
        chosen = silence_unit_(weight, generator=generator)
        assert torch.equal(weight, torch.where(chosen[:, None], -drawn.abs(), drawn))
        counts += chosen
    assert counts.sum() == 400
    assert counts[1] == 0
    assert abs(int(counts[0]) - 200) < 60
    assert not silence_unit_(-torch.ones(2, 2), generator=generator).any()


# --- whole networks ---------------------------------------------------------------------------------------------------


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(12, 16, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(16 * 3 * 3, 40), nn.ReLU(), nn.Linear(40, 10),
    )  # fmt: skip


def linear() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 60), nn.ReLU(), nn.Linear(60, 40), nn.ReLU(), nn.Linear(40, 10))


def pixels(count: int = 100) -> Tensor:
    return torch.rand(count, 1, 12, 12, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("scheme", ["dense", "liu", "sparse", "live"])
@pytest.mark.parametrize("make", [linear, convolutional])
def test_no_unit_that_something_reaches_is_silent(make: Callable[[], nn.Sequential], scheme: str) -> None:
    """Oracle: the network layer by layer in float64, and the layers of the same draw without the option."""
    model, plain = make(), make()
    masks = random_masks(model, 0.9, seed=3)
    initialize_(plain, masks, scheme=scheme, seed=1, example_inputs=pixels())
    initialize_(model, masks, scheme=scheme, seed=1, avoid_dead=True, example_inputs=pixels())
    assert _silent(plain)
    assert not _silent(model)
    names = list(masks)
    for name in names:
        drawn, found = plain.get_parameter(name).flatten(1), model.get_parameter(name).flatten(1)
        kept, turned = (drawn == found).all(1), (drawn == -found).all(1)
        assert (kept | turned).all()
        assert kept.all() == (name == names[-1])  # what the network returns needs no positive number
    batches = [(pixels(), torch.arange(100) % 10)]
    dead = dead_units(model, batches, masks)
    assert all(set(units.never_fire) <= set(units.no_path_in) for units in list(dead.values())[:-1])


def _silent(model: nn.Sequential) -> list[tuple[int, int]]:
    """Hidden units that some example moves and none makes positive."""
    found = []
    values = pixels().double()
    layers = list(model.double())
    for number, layer in enumerate(layers):
        values = layer(values.clone())
        if isinstance(layer, nn.Linear | nn.Conv2d) and number < len(layers) - 1:
            outputs = units_first(values.detach().clone(), layer)
            silent = ~(outputs > 0).any(0) & (outputs != 0).any(0)
            found += [(number, unit) for unit in silent.nonzero().flatten().tolist()]
    model.float()
    return found


def test_what_was_not_drawn_stays() -> None:
    model = linear()
    masks = random_masks(model, 0.9, seed=3)
    first, second = (model.get_parameter(f"{number}.weight") for number in (1, 3))
    with torch.no_grad():
        first.copy_(-first.abs())
    before = first.detach() * masks["1.weight"]
    initialize_(model, masks, seed=1, keep=["1.*"], avoid_dead=True, example_inputs=pixels())
    assert torch.equal(first, before)
    assert int(torch.signbit(second[masks["3.weight"]]).sum()) > 0


def test_it_is_a_function_of_the_seed_and_the_examples() -> None:
    states: list[dict[str, Tensor]] = []
    for _ in range(2):
        torch.manual_seed(len(states))
        model = linear()
        masks = random_masks(model, 0.9, seed=3)
        states.append(initialize_(model, masks, seed=1, avoid_dead=True, example_inputs=pixels()).state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_base_of_ones_own_and_a_module_of_several_inputs() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.last = nn.Linear(5, 20), nn.Linear(5, 20), nn.Linear(20, 2)

        def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            return {"logits": self.last(torch.relu(self.left(a)) + torch.relu(self.right(b)))}

    model = Sum()
    masks = random_masks(model, 0.6, seed=0)
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.rand(30, 5, generator=generator) for _ in range(2))
    initialize_(model, masks, seed=0, base=_all_negative, avoid_dead=True, example_inputs=inputs)
    for layer in (model.left, model.right):
        assert bool((layer.weight >= 0).all())
    assert bool((model.last.weight <= 0).all())


def _all_negative(weight: Tensor, mask: Tensor, **options: object) -> Tensor:
    return weight.fill_(-1.0).mul_(mask)


def test_examples_are_asked_for() -> None:
    model = linear()
    with pytest.raises(ValueError, match=r"looks at what units do: give one batch of the data, example_inputs=x"):
        initialize_(model, random_masks(model, 0.9, seed=0), seed=0, avoid_dead=True)
    for scheme in ("sparse", "live"):
        with pytest.raises(ValueError, match=r"example_inputs has no examples: give one batch of what the model takes"):
            initialize_(
                model, random_masks(model, 0.9, seed=0), scheme=scheme, seed=0, avoid_dead=scheme == "sparse",
                example_inputs=pixels()[:0],
            )  # fmt: skip
