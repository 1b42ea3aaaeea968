"""CHTs against its link scores counted path by path, and the distributions that it samples from."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise, permutations

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.methods.topology import link_scores, relative_importance, sampled, without_dead_ends
from sparseflow.sparsifier.run_words import method_words
from sparseflow.testing import PROMISES, Trial
from tiny import masked, tiny_model, train_step


def counted(mask: Tensor, predictor: str) -> list[list[Fraction]]:
    """Each path unit, column, unit, column (or read from the other end) by itself, in exact fractions."""
    units, columns = mask.shape
    seen_by = [{j for j in range(columns) if mask[i, j]} for i in range(units)]
    sees = [{i for i in range(units) if mask[i, j]} for j in range(columns)]

    def through(ends: list[set[int]], own: int, other: int) -> Fraction:
        """What the node ``other`` adds to paths that begin at ``own``, on the same side."""
        inside = len(ends[own] & ends[other])
        if not inside:
            return Fraction(0)
        outside = max(len(ends[other]) - inside, 1) - 1
        return Fraction(1 if predictor.startswith("CH3") else inside + 1, outside + 1)

    return [
        [
            sum((through(seen_by, i, z) for z in sees[j]), Fraction(0))
            + sum((through(sees, j, z) for z in seen_by[i]), Fraction(0))
            for j in range(columns)
        ]
        for i in range(units)
    ]


@pytest.mark.parametrize("predictor", ["CH2-L3n", "CH3-L3n"])
@pytest.mark.parametrize("shape", [(6, 9), (9, 4), (1, 5)])
@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_link_scores(shape: tuple[int, int], density: float, predictor: str) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < density
    expected = torch.tensor([[float(x) for x in row] for row in counted(mask, predictor)], dtype=torch.float64)
    torch.testing.assert_close(link_scores(mask, predictor), expected, rtol=1e-12, atol=0.0)


def test_relative_importance_by_hand() -> None:
    weight = torch.tensor([[1.0, -3.0, 0.0], [1.0, 0.0, 0.0]])
    # Rows sum up to 4 and 1, columns to 2, 3 and 0.
    expected = [[1 / 2 + 1 / 4, 3 / 3 + 3 / 4, 0.0], [1 / 2 + 1 / 1, 0.0, 0.0]]
    torch.testing.assert_close(relative_importance(weight), torch.tensor(expected))


@pytest.mark.parametrize("power", [0.0, 1.0, 3.0])
def test_draws_without_replacement(power: float) -> None:
    """How often each of four is among two draws, 20,000 times; within 5 sigma, a false alarm in 150,000 runs."""
    scores, times = torch.tensor([1.0, 2.0, 3.0, 4.0]), 20_000
    shares = [float(score) ** power for score in scores]
    wanted = [0.0] * 4
    for first, second in permutations(range(4), 2):
        chance = shares[first] / sum(shares) * shares[second] / (sum(shares) - shares[first])
        wanted[first] += chance
        wanted[second] += chance
    generator = torch.Generator().manual_seed(0)
    everyone = torch.ones(4, dtype=torch.bool)
    found = sum(sampled(scores, 2, everyone, power=power, generator=generator).long() for _ in range(times))
    for count, chance in zip(torch.as_tensor(found).tolist(), wanted, strict=True):
        assert abs(count - times * chance) < 5 * (times * chance * (1 - chance)) ** 0.5


def test_candidates_without_a_score_come_last() -> None:
    scores, among = torch.tensor([0.0, 0.0, 5.0, 1e-30, 7.0]), torch.tensor([True, True, True, True, False])
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        assert sampled(scores, 2, among, generator=generator).tolist() == [False, False, True, True, False]


def test_dead_ends_by_hand() -> None:
    """Units a, b, c feed d, e, which feed f: b has no input, c and e have no output."""
    first = torch.tensor([[1, 0], [0, 0], [1, 1]]).bool()
    second = torch.tensor([[1, 1, 0], [0, 1, 0]]).bool()
    third = torch.tensor([[1, 0]]).bool()
    # Backward: e goes, then c. Forward: b goes.
    found = without_dead_ends([first, second, third])
    assert [each.int().tolist() for each in found] == [[[1, 0], [0, 0], [0, 0]], [[1, 0, 0], [0, 0, 0]], [[1, 0]]]
    assert int(first.sum()) == 3  # new masks


@pytest.mark.parametrize("seed", range(5))
def test_no_dead_end_is_left_and_nothing_else_goes(seed: int) -> None:
    """Against removal one unit at a time until none is left; the second layer sees each of six units at four places."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((6, 9), (7, 6 * 4), (5, 7), (4, 5))
    masks = [torch.rand(shape, generator=generator) < 1.5 / shape[1] for shape in shapes]
    wanted, changed = [mask.clone() for mask in masks], True
    while changed:
        changed = False
        for one, other in pairwise(wanted):
            each = other.shape[1] // len(one)
            for unit in range(len(one)):
                seen = other[:, unit * each : (unit + 1) * each]
                if bool(one[unit].any()) != bool(seen.any()):
                    one[unit], changed = False, True
                    seen.fill_(False)
    assert all(map(torch.equal, without_dead_ends(masks), wanted))
    assert sum(int(mask.sum()) for mask in wanted) < sum(int(mask.sum()) for mask in masks)


def test_a_chain_loses_units_and_keeps_its_counts() -> None:
    """A convolution, of which the linear layer sees each channel at 16 places, and the layer behind it."""
    ends = []
    for chain in ((), ("0.weight", "3.weight", "5.weight")):
        method = sf.CHTs(drop_fraction=0.5, update_every=2, update_until=6, schedule="constant", chain=chain)
        model = tiny_model()
        masks = sf.random_masks(model, 0.9, seed=0)
        _, sparsifier = run(method, masks)
        assert [int(mask.sum()) for mask in sparsifier.masks.values()] == [int(mask.sum()) for mask in masks.values()]
        ends.append([mask.clone() for mask in sparsifier.masks.values()])
    assert not all(map(torch.equal, *ends))
    alive = [int((mask.flatten(1).any(1)).sum()) for mask in ends[1]]
    assert alive[1] <= int(ends[0][1].any(1).sum())


@pytest.mark.parametrize("promise", [name for name in PROMISES if name != "counts are exact"])
def test_a_chain_keeps_every_promise(promise: str) -> None:
    options = {"update_every": 3, "update_until": 12, "schedule": "constant"}
    PROMISES[promise](Trial(make=lambda: sf.CHTs(chain=("0.weight", "3.weight", "5.weight"), **options)))


def test_a_chain_goes_on_without_a_frozen_layer() -> None:
    model = tiny_model()
    model.get_parameter("3.weight").requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = sf.CHTs(update_every=1, update_until=3, chain=("0.weight", "3.weight", "5.weight"))
    sparsifier = sf.Sparsifier(model, optimizer, masked(model), method, seed=0)
    before = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    train_step(model, optimizer, 1)
    assert [torch.equal(mask, before[name]) for name, mask in sparsifier.masks.items()] == [False, True, False]


def test_a_chain_that_is_none_is_refused() -> None:
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for chain, message in (
        (("0.weight", "4.weight"), r"chain has '4\.weight', which is no masked weight\. Masked: 0\.weight, 3\.weight"),
        (
            ("3.weight", "0.weight"),
            r"chain: the 10 units of '3\.weight' cannot be the inputs of '0\.weight', .* 9 ",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            sf.Sparsifier(model, optimizer, masked(model), sf.CHTs(total_steps=9, chain=chain), seed=0)
    for chain in ("0.weight", (0, 3), None):
        with pytest.raises(TypeError, match="chain takes a list of names of weights, in their order, got"):
            sf.CHTs(total_steps=9, chain=chain)


def run(method: sf.updaters.Method, masks: dict[str, Tensor] | None = None) -> tuple[nn.Module, sf.Sparsifier]:
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sf.Sparsifier(model, optimizer, masks or masked(model), method, seed=0)
    for step in range(1, 7):
        train_step(model, optimizer, step)
        sparsifier.check()
    return model, sparsifier


@pytest.mark.parametrize("importance", ["magnitude", "relative"])
def test_large_weights_stay(importance: str) -> None:
    """At a power of 60 sampling is a ranking: a swap of half drops the smaller half, but for what grows again."""
    model = nn.Linear(30, 20, bias=False)
    mask = torch.rand(20, 30, generator=torch.Generator().manual_seed(0)) < 0.3
    order = torch.randperm(600, generator=torch.Generator().manual_seed(1)).view(20, 30)
    with torch.no_grad():
        model.weight.copy_(1.3 ** (order / 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    options = {"drop_fraction": 0.5, "update_every": 1, "schedule": "constant", "importance": importance}
    sparsifier = sf.Sparsifier(model, optimizer, {"weight": mask}, sf.CHTs(sharpness=(60, 60), **options), seed=0)
    scores = model.weight.detach() if importance == "magnitude" else relative_importance(model.weight.detach())
    model(torch.ones(1, 30)).sum().backward()
    optimizer.step()
    half = int(mask.sum()) - int(mask.sum()) // 2
    largest = scores.masked_fill(~mask, -1).flatten().sort(descending=True).indices[: int(0.9 * half)]
    assert sparsifier.masks["weight"].flatten()[largest].all()
    assert int(sparsifier.masks["weight"].sum()) == int(mask.sum())


def test_growth_prefers_connections_that_close_paths() -> None:
    """Two groups of units and columns that share no path: within a group everything is likelier to grow."""
    mask = torch.zeros(20, 20, dtype=torch.bool)
    for low in (0, 10):
        mask[low : low + 10, low : low + 10] = (torch.arange(10)[:, None] + torch.arange(10)) % 10 < 6
    model = nn.Linear(20, 20, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = sf.CHTs(drop_fraction=0.2, update_every=1, schedule="constant", sharpness=(1, 1))
    sparsifier = sf.Sparsifier(model, optimizer, {"weight": mask}, method, seed=0)
    for _ in range(5):
        model(torch.ones(1, 20)).sum().backward()
        optimizer.step()
    found = sparsifier.masks["weight"]
    assert int(found.sum()) == 120
    assert not found[:10, 10:].any()  # scores there are exactly 0, and enough others are not
    assert not found[10:, :10].any()
    assert not torch.equal(found, mask)


def test_it_grows_where_nothing_closes_a_path() -> None:
    """One connection to a unit and a column: no path of three exists, and all are equally likely."""
    model = nn.Linear(6, 6, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = sf.CHTs(drop_fraction=0.5, update_every=1, schedule="constant", sharpness=(1, 1))
    sparsifier = sf.Sparsifier(model, optimizer, {"weight": torch.eye(6, dtype=torch.bool)}, method, seed=0)
    model(torch.ones(1, 6)).sum().backward()
    optimizer.step()
    assert int(sparsifier.masks["weight"].sum()) == 6


def test_no_gradient_decides() -> None:
    """Gradients of another sign and size leave the masks as they are, where weights do not move."""
    ends = []
    for factor in (1.0, -100.0):
        model = nn.Linear(20, 10, bias=False)
        nn.init.normal_(model.weight, generator=torch.Generator().manual_seed(0))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        masks = sf.receptive_field_masks(model, 0.7, seed=0)
        sparsifier = sf.Sparsifier(model, optimizer, masks, sf.CHTs(update_every=1, update_until=9), seed=0)
        (factor * model(torch.ones(1, 20)).sum()).backward()
        optimizer.step()
        ends.append(sparsifier.masks["weight"].clone())
        assert not torch.equal(ends[-1], masks["weight"])
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "sharpness rises until the last update: give total_steps= or update_until="),
        *(
            ({"sharpness": given, "total_steps": 9}, "sharpness must be two finite powers from 0 on, such as")
            for given in ((-1, 1), 3.0, (1, 2, 3), ("1", "3"), (1, float("nan")), None)
        ),
        ({"importance": "size", "total_steps": 9}, "importance must be one of 'magnitude', 'relative', got 'size'"),
        ({"predictor": "CH1", "total_steps": 9}, "predictor must be one of 'CH2-L3n', 'CH3-L3n', got 'CH1'"),
    ],
)
def test_options_that_cannot_be_met(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sf.CHTs(**options)


def test_a_method_says_how_it_was_made() -> None:
    assert method_words(sf.CHTs(total_steps=100)) == "CHTs(total_steps=100)"
