"""The report against masks counted by hand, and its table as text."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.masks.fans import Layout
from sparseflow.masks.report import MaskStatistics, ReportTotals, mask_statistics, sparsity_report


def network() -> nn.Sequential:
    return nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2, bias=False))


def masks() -> dict[str, Tensor]:
    """Fan-ins 2, 0, 1 of four inputs, the last two unused; fan-ins 3, 3 of three."""
    first = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]).bool()
    return {"1.weight": first, "3.weight": torch.ones(2, 3, dtype=torch.bool)}


def test_rows_by_hand() -> None:
    report = sparsity_report(network(), masks(), target={"1.weight": 0.8})
    rows = {row.name: row for row in report.rows}
    assert list(rows) == [name for name, _ in network().named_parameters()]
    first = rows["1.weight"]
    assert (first.shape, first.masked, first.reason) == ((3, 4), True, "Linear")
    assert (first.num_weights, first.active, first.target, first.sparsity) == (12, 3, 0.8, 0.75)
    # Fan-ins 2 0 1: mean 1, population variance 2/3.
    assert first.statistics == MaskStatistics(1, 2, 1.0, pytest.approx((2 / 3) ** 0.5, rel=1e-12))
    last = rows["3.weight"]
    assert (last.active, last.target, last.sparsity, last.statistics) == (6, None, 0.0, MaskStatistics(0, 0, 3.0, 0.0))
    unmasked = {name: row.reason for name, row in rows.items() if not row.masked}
    never = "norms, biases and scales are never masked"
    embedding = "embeddings are opt-in: Embedding"
    assert unmasked == {"0.weight": embedding, "1.bias": never, "2.weight": never, "2.bias": never}
    assert all(
        (row.active, row.sparsity, row.target, row.statistics) == (row.num_weights, 0.0, None, None)
        for row in rows.values()
        if not row.masked
    )


def test_totals_by_hand() -> None:
    # 12 + 6 masked weights, 3 + 6 active; 28 of the embedding, 3 biases, 3 + 3 of the norm beside them.
    expected = ReportTotals(
        num_parameters=55,
        active_parameters=46,
        num_masked=18,
        active=9,
        target=None,
        sparsity=0.5,
        units_without_inputs=1,
        inputs_without_outputs=2,
    )
    assert sparsity_report(network(), masks(), target={"1.weight": 0.8}).totals == expected
    each = sparsity_report(network(), masks(), target={"1.weight": 0.75, "3.weight": 0.0})
    assert each.totals.target == 0.5  # 9 zeros of 18
    assert sparsity_report(network(), masks(), target=0.4).totals.target == pytest.approx(0.4, rel=1e-12)
    assert each.totals.sparsity == sf.sparsity_of(masks())


def test_reasons_tell_masks_from_rules() -> None:
    def reasons(given: dict[str, Tensor], **rules: object) -> dict[str, str]:
        return {row.name: row.reason for row in sparsity_report(network(), given, **rules).rows}  # type: ignore[arg-type]

    only_last = {"3.weight": masks()["3.weight"]}
    assert reasons(only_last)["1.weight"] == "no mask was given for it: Linear"
    assert reasons(only_last, exclude=["1"])["1.weight"] == "excluded by '1'"
    assert reasons(only_last, first_layer_dense=True)["1.weight"] == "first layer"
    assert reasons(masks(), exclude=["1"])["1.weight"] == "masked in spite of: excluded by '1'"
    embedded = {"0.weight": torch.ones(7, 4, dtype=torch.bool)}
    assert reasons(embedded, include=[nn.Embedding])["0.weight"] == "included by Embedding"


@pytest.mark.parametrize(
    ("shape", "layout", "dead_unit", "dead_input"),
    [
        ((6, 5, 3, 3), Layout(), (slice(2, 3),), (slice(None), slice(4, 5))),
        ((5, 6, 3), Layout(transposed=True), (slice(None), slice(2, 3)), (slice(4, 5),)),
        # Second group, unit 1 of its 3, input 0 of its 2.
        ((6, 2, 3), Layout(blocks=2), (slice(4, 5),), (slice(3, 6), slice(0, 1))),
        ((4, 3, 2), Layout(transposed=True, blocks=2), (slice(2, 4), slice(1, 2)), (slice(2, 3),)),
        ((12, 4), Layout(blocks=3), (slice(7, 8),), (slice(4, 8), slice(0, 1))),
        ((9, 4), Layout(lookup=True), (slice(None), slice(1, 2)), (slice(3, 4),)),
    ],
)
def test_cut_units_and_inputs_of_every_layout(
    shape: tuple[int, ...], layout: Layout, dead_unit: tuple[slice, ...], dead_input: tuple[slice, ...]
) -> None:
    mask = torch.ones(shape, dtype=torch.bool)
    assert mask_statistics(mask, layout).fan_in_cv == 0
    mask[dead_unit] = False
    found = mask_statistics(mask, layout)
    assert (found.units_without_inputs, found.inputs_without_outputs) == (1, 0)
    mask[dead_input] = False
    found = mask_statistics(mask, layout)
    assert (found.units_without_inputs, found.inputs_without_outputs) == (1, 1)


def test_an_empty_mask_has_no_spread() -> None:
    assert mask_statistics(torch.zeros(3, 2, dtype=torch.bool)) == MaskStatistics(3, 2, 0.0, 0.0)


def test_the_dict_survives_json() -> None:
    report = sparsity_report(network(), masks(), target=0.5)
    found = report.to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [row["name"] for row in found["rows"]] == [row.name for row in report.rows]
    assert found["rows"][1]["statistics"]["units_without_inputs"] == 1
    assert found["totals"]["active"] == 9


def test_the_table_is_aligned_and_ends_with_the_totals() -> None:
    text = str(sparsity_report(network(), masks(), target=0.5))
    lines = text.split("\n")
    assert " ".join(lines[0].split()) == "weight shape weights active target sparsity no in no out why"
    assert lines[-3].split() == ["masked", "18", "9", "0.5000", "0.5000", "1", "2"]
    assert lines[-2].split() == ["all", "parameters", "55", "46"]
    full = [lines[0], *(line for line in lines if line.startswith(("1.weight", "3.weight")))]
    ends = [[cell.end() for cell in re.finditer(r"\S+", line)][1:6] for line in full]  # shape to sparsity
    assert ends[0] == ends[1] == ends[2]
    assert "target" not in str(sparsity_report(network(), masks()))


def test_a_deep_model_fits_in_a_hundred_columns() -> None:
    layer = nn.TransformerEncoderLayer(64, 4, 2048, batch_first=True)
    model = nn.ModuleDict({"encoder_of_the_text": nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)})
    lines = str(sparsity_report(model, sf.random_masks(model, 0.9, seed=0), target=0.9)).split("\n")
    assert max(map(len, lines)) <= 100
    assert len(lines) == len(list(model.parameters())) + 6
    assert any(line.startswith("…") and ".in_proj_weight" in line for line in lines)  # a name keeps its end


def test_zeros_of_the_weights_are_counted_beside_the_masks() -> None:
    """After gradual pruning the masks that it began with are all ones; the weights say what became of them."""
    model = network()
    with torch.no_grad():
        model[1].weight.view(-1)[:9] = 0
    report = sparsity_report(model, sf.dense_masks(model))
    assert {row.name: row.zeros for row in report.rows if row.masked} == {"1.weight": 9, "3.weight": 0}
    assert str(report).endswith("The weights have more zeros than the masks: 0.5000 of the masked weights are zero.")
    assert "more zeros" not in str(sparsity_report(network(), masks()))
    assert "more zeros" not in str(sparsity_report(sf.apply_masks_(network(), masks()), masks()))


def test_masks_of_another_time_are_refused() -> None:
    model = network()
    sf.apply_masks_(model, masks())
    other = {"1.weight": torch.zeros(3, 4, dtype=torch.bool), "3.weight": masks()["3.weight"]}
    other["1.weight"][1] = True
    with pytest.raises(ValueError, match=r"the mask of '1.weight' is not where the weight is.*sparsifier.masks"):
        sparsity_report(model, other)


def test_masks_that_have_moved_since_are_refused() -> None:
    model = nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 4))
    optimizer, given = torch.optim.SGD(model.parameters(), lr=0.1), sf.dense_masks(model)
    sparsifier = sf.Sparsifier(model, optimizer, given, sf.GMP(sparsity=0.5, begin=1, end=2, update_every=1), seed=0)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 20)).square().mean().backward()
        optimizer.step()
    with pytest.raises(ValueError, match=r"not the one that its Sparsifier holds now.*Pass sparsifier.masks"):
        sparsity_report(model, given)
    assert sparsity_report(model, sparsifier.masks).totals.sparsity == 0.5


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"masks has '9.weight', which is no weight of the model"):
        sparsity_report(network(), {"9.weight": torch.ones(1, dtype=torch.bool)})
    with pytest.raises(ValueError, match="there are no masks to report; make some"):
        sparsity_report(network(), {})
    with pytest.raises(ValueError, match=r"target has '0.weight', which has no mask. Masked: 1.weight, 3.weight"):
        sparsity_report(network(), masks(), target={"0.weight": 0.5})
    with pytest.raises(ValueError, match=r"target must be in \[0, 1\), got 50"):
        sparsity_report(network(), masks(), target=50)
    with pytest.raises(ValueError, match=r"target\['1.weight'\] must be in \[0, 1\), got 1.0"):
        sparsity_report(network(), masks(), target={"1.weight": 1.0})
