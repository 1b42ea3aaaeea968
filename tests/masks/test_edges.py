"""Masks from edges: tables by hand, the Jacobian as the oracle of who sees whom, and edges that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import sparseflow as sf

GENES, PATHWAYS = ["TP53", "MYC", "PTEN", "EGFR"], ["cycle", "growth"]
NAMES: dict[str, Any] = {"inputs": {"0.weight": GENES}, "outputs": {"0.weight": PATHWAYS}}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 1))


EDGES = [("TP53", "cycle"), ("MYC", "cycle"), ("PTEN", "growth"), ("EGFR", "growth"), ("MYC", "growth")]


def test_a_table_by_hand() -> None:
    masks = sf.masks_from_edges(network(), {"0.weight": EDGES}, **NAMES)
    assert {name: mask.int().tolist() for name, mask in masks.items()} == {"0.weight": [[1, 1, 0, 0], [0, 1, 1, 1]]}


@pytest.mark.parametrize("form", ["pairs", "tensor", "mixed", "generator"])
def test_indices_and_names_say_the_same(form: str) -> None:
    pairs = [(GENES.index(gene), PATHWAYS.index(pathway)) for gene, pathway in EDGES]
    edges: dict[str, Any] = {
        "pairs": pairs,
        "tensor": torch.tensor(pairs),
        "mixed": [(gene, out) for (gene, _), (_, out) in zip(EDGES, pairs, strict=True)],
        "generator": iter(pairs),
    }
    names = NAMES if form == "mixed" else {}
    found = sf.masks_from_edges(network(), {"0.weight": edges[form]}, **names)
    assert torch.equal(found["0.weight"], sf.masks_from_edges(network(), {"0.weight": EDGES}, **NAMES)["0.weight"])


def test_a_network_sees_what_its_edges_say_after_training() -> None:
    """The gradient of each output with respect to each input is zero where no edge leads, and only there."""
    model = network()
    masks = sf.masks_from_edges(model, {"0.weight": EDGES}, **NAMES)
    sf.initialize_(model, masks, scheme="sparse", seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    sparsifier = sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=0)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    sparsifier.check()
    jacobian = torch.autograd.functional.jacobian(model[0], torch.randn(4))
    assert torch.equal(jacobian != 0, masks["0.weight"])


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 2, (3, 2)), nn.ConvTranspose2d(3, 2, (3, 2)), nn.Conv1d(3, 2, 3)])
def test_an_edge_of_a_convolution_is_its_whole_kernel(layer: nn.Module) -> None:
    mask = sf.masks_from_edges(layer, {"weight": [(0, 0), (1, 1), (2, 1)]})["weight"]
    assert mask.shape == layer.weight.shape
    sf.apply_masks_(layer, {"weight": mask})
    x = torch.randn(1, 3, *[6] * (mask.dim() - 2))
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x)[0].flatten(1).sum(1), x)
    seen = jacobian[:, 0].flatten(2).abs().sum(2) > 0
    assert seen.int().tolist() == [[1, 0, 0], [0, 1, 1]]
    matrix = mask.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else mask
    assert torch.equal(matrix.flatten(2).all(2), seen)
    assert torch.equal(matrix.flatten(2).any(2), seen)


def test_units_without_edges_are_reported() -> None:
    with pytest.warns(
        UserWarning, match=r"of '0.weight' 2 of 4 inputs have no edge, so nothing sees them \(PTEN, EGFR\)\."
    ):
        sf.masks_from_edges(network(), {"0.weight": [("TP53", "cycle"), ("MYC", "growth")]}, **NAMES)
    with pytest.warns(UserWarning, match=r"of '0.weight' 1 of 2 outputs have no edge, so they are their bias \(1\)\."):
        sf.masks_from_edges(network(), {"0.weight": [(index, 0) for index in range(4)]})
    many = nn.Linear(20, 1)
    with pytest.warns(UserWarning, match=r"19 of 20 inputs .* \(1, 2, 3, 4, 5, \.\.\.\)\."):
        sf.masks_from_edges(many, {"weight": [(0, 0)]})


@pytest.mark.parametrize(
    ("edges", "names", "error", "message"),
    [
        ({"0.wieght": EDGES}, {}, ValueError, r"edges has '0.wieght', which is no weight .* Did you mean 0.weight\?"),
        ({"0.bias": EDGES}, {}, ValueError, r"edges has '0.bias', .*Weights: 0.weight, 2.weight\."),
        (
            {"0.weight": [("TP35", "cycle")]},
            NAMES,
            ValueError,
            r"input 'TP35', and no input is called so. Did you mean TP53\?",
        ),
        (
            {"0.weight": [("TP53", "groth")]},
            NAMES,
            ValueError,
            r"output 'groth', and no output is called so. Did you mean growth\?",
        ),
        ({"0.weight": [("TP53", "zzz")]}, NAMES, ValueError, r"output 'zzz', and no output is called so\.$"),
        ({"0.weight": [("TP53", 0)]}, {}, ValueError, "has the input 'TP53', and inputs= does not name its inputs"),
        ({"0.weight": [(4, 0)]}, {}, ValueError, "has the input 4, and there are 4, from 0 to 3"),
        ({"0.weight": [(0, -1)]}, {}, ValueError, "has the output -1, and there are 2, from 0 to 1"),
        ({"0.weight": [(0, 1), (0, 1)]}, {}, ValueError, r"the edge \(0, 1\) of '0.weight' is there twice"),
        ({"0.weight": [("TP53", 0), (0, "cycle")]}, NAMES, ValueError, r"the edge \(0, 'cycle'\) .* is there twice"),
        ({"0.weight": []}, {}, ValueError, "'0.weight' has no edges. Leave it out"),
        ({}, {}, ValueError, "edges is empty"),
        ({"0.weight": [(0.5, 0)]}, {}, TypeError, "must be an index or a name, got 0.5"),
        ({"0.weight": [(True, 0)]}, {}, TypeError, "must be an index or a name, got True"),
        ({"0.weight": [(0, 1, 2)]}, {}, TypeError, r"must be a pair \(input, output\), got \(0, 1, 2\)"),
        ({"0.weight": ["ab"]}, {}, TypeError, r"must be a pair \(input, output\), got 'ab'"),
        (
            {"0.weight": EDGES},
            {"inputs": {"0.weight": GENES[:3]}},
            ValueError,
            "inputs has 3 names for '0.weight', which has 4",
        ),
        (
            {"0.weight": EDGES},
            {"inputs": {"0.weight": ["MYC", *GENES[:3]]}},
            ValueError,
            "inputs of '0.weight' has the name 'MYC' twice",
        ),
        (
            {"0.weight": EDGES},
            {"inputs": {"2.weight": PATHWAYS}},
            ValueError,
            "names the units of '2.weight', which has no",
        ),
        (
            {"0.weight": EDGES},
            {"outputs": {"3.weight": PATHWAYS}},
            ValueError,
            "outputs has '3.weight', which is no weight",
        ),
    ],
)
def test_edges_that_do_not_fit(edges: Any, names: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sf.masks_from_edges(network(), edges, **names)


@pytest.mark.parametrize(
    ("layer", "name"),
    [(nn.Conv2d(4, 4, 3, groups=2), "weight"), (nn.LSTM(3, 2), "weight_ih_l0"), (nn.Embedding(3, 2), "weight")],
)
def test_layers_of_several_matrices_are_refused(layer: nn.Module, name: str) -> None:
    with pytest.raises(
        ValueError, match=f"'{name}' of {type(layer).__name__} is not one matrix from inputs to outputs"
    ):
        sf.masks_from_edges(layer, {name: [(0, 0)]})
