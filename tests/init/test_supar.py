"""SμPar: one setting for all widths and densities; oracles: activations over these, and the paper's own output rule."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.init.supar import Ratio, supar_groups, supar_initialize_, supar_ratios

OUTPUT = "8.weight"
RATE, STEPS = 2e-3, 8


def network(width: int) -> nn.Sequential:
    hidden = [layer for _ in range(3) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(24, width), nn.ReLU(), *hidden, nn.Linear(width, 5))


BASE = network(64)
#: He's, in the base network.
STD = {name: (2 / weight.shape[1]) ** 0.5 for name, weight in BASE.named_parameters() if name.endswith("weight")}


def hidden_activations(width: int, density: float, *, seed: int, scaled: bool) -> Tensor:
    """Mean absolute sums of each hidden layer, ``(2, 3)``: at initialisation, and after eight steps of Adam."""
    model = network(width)
    dense = ["0.weight", OUTPUT]
    masks = sf.random_masks(model, 1 - density, exclude=dense, seed=seed)
    if scaled:
        ratios = supar_ratios(model, masks, BASE, output=[OUTPUT])
        supar_initialize_(model, masks, ratios, std=STD, seed=seed)
        optimizer = torch.optim.Adam(supar_groups(model, ratios, lr=RATE))
    else:
        sf.initialize_(model, {**sf.dense_masks(model), **masks}, scheme="dense", seed=seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0)
    generator = torch.Generator().manual_seed(7)
    x, y = torch.randn(64, 24, generator=generator), torch.randint(5, (64,), generator=generator)
    found = []
    for step in range(STEPS + 1):
        out, sums = x, []
        for layer in model:
            out = layer(out)
            if isinstance(layer, nn.Linear):
                sums.append(out.detach().abs().mean())
        if step in (0, STEPS):
            found.append(torch.stack(sums[1:4]))
        optimizer.zero_grad()
        F.cross_entropy(out, y).backward()
        optimizer.step()
    return torch.stack(found)


def means(*, scaled: bool) -> Tensor:
    """Over three seeds, ``(6, 2, 3)``: widths 128 and 512 at densities 1, 1/4 and 1/16."""
    return torch.stack(
        [
            torch.stack([hidden_activations(width, density, seed=seed, scaled=scaled) for seed in range(3)]).mean(0)
            for width in (128, 512)
            for density in (1.0, 1 / 4, 1 / 16)
        ]
    )


def test_activations_are_the_same_at_every_width_and_density() -> None:
    """At initialisation and after training, in each layer, within a factor of 1.4; without the scaling 10 and more.

    The narrowest network has 8 active inputs a unit, whose number varies by a third, and with it its sums.
    """
    found, plain = (means(scaled=scaled) for scaled in (True, False))
    assert float((found.amax(0) / found.amin(0)).max()) < 1.4
    assert float((plain.amax(0) / plain.amin(0))[:, 2].min()) > 10


def test_ratios_by_hand() -> None:
    """Four times the width at an eighth of the weights: half the inputs; the first layer has those that it had."""
    wide = nn.Sequential(nn.Embedding(7, 80), nn.Linear(80, 160), nn.Linear(160, 3))
    narrow = nn.Sequential(nn.Embedding(7, 20), nn.Linear(20, 40), nn.Linear(40, 3))
    masks = {"1.weight": sf.random_masks(wide, 7 / 8, seed=0)["1.weight"]}
    assert supar_ratios(wide, masks, narrow, output="2.*") == {
        "0.weight": Ratio(1.0), "1.weight": Ratio(0.5), "2.weight": Ratio(4.0, is_output=True)
    }  # fmt: skip
    halves = sf.random_masks(narrow, 1 / 2, seed=0)
    assert supar_ratios(wide, masks, narrow, halves, output="2.*")["1.weight"].inputs == 1.0


def test_groups_hold_every_parameter_once() -> None:
    model = network(128)
    ratios = supar_ratios(model, {}, BASE, output=[OUTPUT])
    groups = supar_groups(model, ratios, lr=0.1, weight_decay=0.5)
    assert sorted((group["lr"], len(group["params"])) for group in groups) == [(0.05, 4), (0.1, 6)]
    assert all(group["weight_decay"] == 0.5 for group in groups)
    held = {id(parameter) for group in groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in model.parameters()}


def test_groups_of_stored_weights_are_those_of_the_masked_ones() -> None:
    model = network(128)
    masks = sf.random_masks(model, 0.75, exclude=["0.weight", OUTPUT], seed=0)
    ratios = supar_ratios(model, masks, BASE, output=[OUTPUT])
    sf.apply_masks_(model, masks)
    sizes = [
        sorted((group["lr"], sum(parameter.numel() for parameter in group["params"])) for group in groups)
        for groups in (
            supar_groups(sf.engine.convert(model, masks), ratios, lr=0.1),
            supar_groups(model, ratios, lr=0.1),
        )
    ]
    active = int(sum(mask.sum() for mask in masks.values()))
    assert [rate for rate, _ in sizes[0]] == [rate for rate, _ in sizes[1]] == [0.05, 0.1, 0.2]
    assert (sizes[0][2][1], sizes[1][2][1]) == (active, 3 * 128**2)


def test_scaled_output_weights_are_scaled_outputs() -> None:
    """The paper multiplies outputs by 1/m and leaves their weights and rate; under Adam without eps the same network.

    In float64, twenty steps.
    """
    ours, theirs = network(256).double(), network(256).double()
    ratios = supar_ratios(ours, {}, BASE, output=[OUTPUT])
    supar_initialize_(ours, {}, ratios, std=STD, seed=0)
    theirs.load_state_dict(ours.state_dict())
    theirs.get_parameter(OUTPUT).data.mul_(4)
    plain = {**ratios, OUTPUT: Ratio(1.0)}
    optimizers = [
        torch.optim.Adam(supar_groups(model, its, lr=RATE), eps=1e-300)
        for model, its in ((ours, ratios), (theirs, plain))
    ]
    generator = torch.Generator().manual_seed(7)
    x, y = torch.randn(64, 24, generator=generator).double(), torch.randint(5, (64,), generator=generator)
    for _ in range(20):
        hidden = theirs[:-1](x)
        outputs = ours(x), F.linear(hidden, theirs.get_parameter(OUTPUT) / 4, theirs[-1].bias)
        torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-7, atol=1e-9)
        for output, optimizer in zip(outputs, optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(output, y).backward()
            optimizer.step()


def test_what_does_not_fit_is_refused() -> None:
    model = network(128)
    with pytest.raises(ValueError, match=r"output has 'head', which matches no weight. Weights: 0.weight, 2.weight"):
        supar_ratios(model, {}, BASE, output=["head"])
    with pytest.raises(ValueError, match="base must have the layers of the model in another width; they differ in 8"):
        supar_ratios(model, {}, model[:-1], output=[OUTPUT])
    with pytest.raises(ValueError, match=r"'0.weight' has no ratio. Give what supar_ratios returns"):
        supar_initialize_(model, {}, {}, std=0.1, seed=0)
    empty = {"2.weight": torch.zeros(128, 128, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"'2.weight' has no active weight"):
        supar_ratios(model, empty, BASE, output=[OUTPUT])
    with pytest.raises(ValueError, match="lr must be positive, got 0"):
        supar_groups(model, {}, lr=0.0)


def test_sizes_that_cannot_be_are_refused_before_anything_is_drawn() -> None:
    model = network(128)
    ratios = supar_ratios(model, {}, BASE, output=[OUTPUT])
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for size, message in ((-1.0, "must be positive, got -1.0"), ("small", "must be a number, got 'small'")):
        with pytest.raises((TypeError, ValueError), match=f"std of '{OUTPUT}' {message}"):
            supar_initialize_(model, {}, ratios, std={**dict.fromkeys(ratios, 0.1), OUTPUT: size}, seed=0)
    plain = {name: ratio.inputs for name, ratio in ratios.items()}
    with pytest.raises(TypeError, match=r"ratios must be what sparseflow\.init\.supar_ratios returns, got 1\.0 in it"):
        supar_initialize_(model, {}, plain, std=0.1, seed=0)
    with pytest.raises(TypeError, match=r"ratios must be what sparseflow\.init\.supar_ratios returns"):
        supar_groups(model, plain, lr=0.1)
    assert all(map(torch.equal, model.parameters(), before))


def test_an_embedding_that_makes_the_outputs_is_refused() -> None:
    """Its rows start at the base's size however wide the network is, and as outputs they would have to be smaller."""
    models = []
    for width in (8, 16):
        models.append(nn.ModuleDict({"table": nn.Embedding(11, width), "head": nn.Linear(width, 11, bias=False)}))
        models[-1]["head"].weight = models[-1]["table"].weight
    base, model = models
    with pytest.raises(ValueError, match=r"'table\.weight' is an embedding and makes the network's outputs too"):
        supar_ratios(model, {}, base, output=["table.weight"])
