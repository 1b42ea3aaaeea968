"""Masks made of blocks: which weights a block has in every kind of layer, how many are kept, and which."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.masks.blocks import Block, BlockGrid, LostBlocksWarning, block_of, grids, grids_of
from sparseflow.masks.fans import PLAIN, Layout
from sparseflow.masks.topk import EmptiedLayerWarning
from sparseflow.rng import stream

#: Layer, its weight, and what turns the weight into its matrices ``(matrices, outputs, columns)``, by hand.
LAYERS = {
    "linear": (nn.Linear(6, 8), "weight", lambda w: w[None]),
    "convolution": (nn.Conv2d(2, 8, 3), "weight", lambda w: w.reshape(1, 8, 18)),
    "grouped": (nn.Conv2d(4, 8, 3, groups=2), "weight", lambda w: w.reshape(2, 4, 18)),
    "transposed": (nn.ConvTranspose2d(2, 8, 3), "weight", lambda w: w.permute(1, 0, 2, 3).reshape(1, 8, 18)),
    "transposed, grouped": (
        nn.ConvTranspose1d(4, 8, 3, groups=2),
        "weight",
        lambda w: w.reshape(2, 2, 4, 3).permute(0, 2, 1, 3).reshape(2, 4, 6),
    ),
    "attention": (nn.MultiheadAttention(4, 1), "in_proj_weight", lambda w: w.reshape(3, 4, 4)),
    "recurrent": (nn.LSTM(2, 4), "weight_ih_l0", lambda w: w.reshape(4, 4, 2)),
    "bilinear": (nn.Bilinear(2, 3, 4), "weight", lambda w: w.reshape(1, 4, 6)),
}
BLOCKS = [(4, 1), (2, 2), (1, 2), (4, 2), (2, 1)]
every_layer = pytest.mark.parametrize("kind", LAYERS)
every_block = pytest.mark.parametrize("block", BLOCKS)


def grid_of(kind: str, block: tuple[int, int]) -> BlockGrid:
    layer, name, _ = LAYERS[kind]
    return grids_of(layer, {name: block}, [name])[name]


def slow_sums(matrix: Tensor, block: tuple[int, int]) -> Tensor:
    """Oracle: block by block."""
    (count, outputs, columns), (high, wide) = matrix.shape, block
    found = torch.zeros(count, outputs // high, columns // wide, dtype=matrix.dtype)
    for m, i, j in product(*map(range, found.shape)):
        found[m, i, j] = matrix[m, i * high : (i + 1) * high, j * wide : (j + 1) * wide].sum()
    return found


@every_layer
@every_block
def test_blocks_lie_along_the_outputs_of_each_layer(kind: str, block: tuple[int, int]) -> None:
    layer, name, matrix_of = LAYERS[kind]
    weight = getattr(layer, name).detach()
    grid = grid_of(kind, block)
    whole = torch.randint(-9, 9, weight.shape, generator=stream(0, kind)).double()  # sums without rounding
    assert torch.equal(grid.sums(whole), slow_sums(matrix_of(whole), block))
    assert torch.equal(grid.sums(whole, magnitude=True), slow_sums(matrix_of(whole.abs()), block))
    chosen = torch.rand(grid.grid_shape, generator=stream(1, kind)) < 0.5
    mask = grid.spread(chosen)
    assert mask.shape == weight.shape
    assert mask.is_contiguous()
    assert torch.equal(grid.of(mask), chosen)
    assert torch.equal(slow_sums(matrix_of(mask).double(), block), chosen.double() * grid.size)
    assert grid.fits(mask)
    mask.view(-1)[5] ^= True
    assert not grid.fits(mask)


def test_experts_and_looked_up_rows() -> None:
    # Stacked (experts, outputs, inputs); an embedding's outputs are its columns.
    stacked = BlockGrid(Block(4, 1), (2, 4, 3), Layout(stacked=True))
    assert torch.equal(stacked.sums(torch.ones(2, 4, 3)), torch.full((2, 1, 3), 4.0))
    first = BlockGrid(Block(2, 1), (2, 3, 4), Layout(stacked=True, transposed=True))
    values = torch.arange(24.0).view(2, 3, 4)
    assert torch.equal(first.sums(values), slow_sums(values.transpose(1, 2), (2, 1)))
    embedding = nn.Embedding(3, 4)
    mask = sf.random_masks(embedding, 0.5, seed=0, include=["weight"], block=(4, 1))["weight"]
    assert (mask == mask[:, :1]).all()


@every_layer
def test_channels_last_and_other_memory_is_the_same(kind: str) -> None:
    grid = grid_of(kind, (4, 1))
    values = torch.randn(grid.shape, generator=stream(0, kind))
    if values.dim() == 4:
        other = values.to(memory_format=torch.channels_last)
    else:
        other = values.transpose(0, -1).contiguous().transpose(0, -1)
    assert torch.equal(grid.sums(values), grid.sums(other))
    assert torch.equal(grid.of(values > 0), grid.of(other > 0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(dtype: torch.dtype) -> None:
    values = torch.tensor([[256.0], [1.0], [0.5], [0.25]], dtype=dtype)  # 257.75 has no place in 8 bits
    assert BlockGrid(Block(4, 1), (4, 1)).sums(values).item() == 257.75


# --- masks ------------------------------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(72, 20), nn.Linear(20, 12))


def made_of(masks: dict[str, Tensor], block: tuple[int, int]) -> bool:
    """Oracle: rows in equal groups, and columns too."""
    high, wide = block
    matrices = [mask.flatten(1) for mask in masks.values()]
    return all(
        torch.equal(m, m[::high].repeat_interleave(high, 0)) and torch.equal(m, m[:, ::wide].repeat_interleave(wide, 1))
        for m in matrices
    )


@given(st.floats(0, 0.9), st.integers(0, 99), st.sampled_from([(4, 1), (4, 2), (2, 3), (1, 4)]))
def test_random_counts_are_the_nearest_number_of_blocks(sparsity: float, seed: int, block: tuple[int, int]) -> None:
    named = {"0.weight": (4, 1) if block == (2, 3) else block, "*": (4, 4) if block == (2, 3) else block}
    named = {name: (b[0], 3 if name == "0.weight" and b[1] > 1 else b[1]) for name, b in named.items()}
    model = network()
    masks = sf.random_masks(model, sparsity, seed=seed, block=named)
    for name, n in {"0.weight": 216, "2.weight": 1440, "3.weight": 240}.items():
        size = block_of(named, name)[0] * block_of(named, name)[1]
        assert made_of({name: masks[name]}, block_of(named, name))
        count, exact = int(masks[name].sum()), n * (1 - Fraction(sparsity))
        assert count % size == 0
        assert abs(count - exact) <= Fraction(size, 2) + Fraction(1, 1000) or count == size


def test_counts_by_hand() -> None:
    # 54, 360 and 60 blocks of 4: a tenth is 5.4, 36 and 6 blocks.
    masks = sf.random_masks(network(), 0.9, seed=0, block=(4, 1))
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"0.weight": 20, "2.weight": 144, "3.weight": 24}
    # Half a block is between two: 4 weights of 8 blocks, 0.5625 of them 4.5, go to the even number.
    mask = sf.random_masks(nn.Linear(8, 4), 1 - 4.5 / 8, seed=0, block=(4, 1))["weight"]
    assert int(mask.sum()) == 16
    # ERK as without blocks: densities 0.746 (8+3+3+3 over 216 ...) only decide how many blocks.
    for allocation in ("er", "erk"):
        single = sf.random_masks(network(), 0.8, allocation=allocation, seed=0)
        blocks = sf.random_masks(network(), 0.8, allocation=allocation, seed=0, block=(4, 1))
        for name, mask in single.items():
            assert abs(int(mask.sum()) - int(blocks[name].sum())) <= 2.5
            assert int(blocks[name].sum()) % 4 == 0


def test_block_positions_are_uniform() -> None:
    """Chi-square over 60 blocks in 2000 masks of 15, false alarm 1e-6; see test_make.py for its law."""
    layer, n, k, draws = nn.Linear(10, 24), 60, 15, 2000
    hits = torch.zeros(n, dtype=torch.float64)
    for seed in range(draws):
        mask = sf.random_masks(layer, 1 - k / n, seed=seed, block=(4, 1))["weight"]
        hits += mask[::4].flatten().double()
    expected = draws * k / n
    statistic = float(((hits - expected) ** 2).sum() / expected) / ((1 - k / n) * n / (n - 1))
    assert 1e-6 / 2 < stats.chi2(n - 1).cdf(statistic) < 1 - 1e-6 / 2


def test_single_weights_draw_as_ever() -> None:
    plain = sf.random_masks(network(), 0.9, seed=0)
    for block in ((1, 1), {"*": (1, 1)}, {}):
        again = sf.random_masks(network(), 0.9, seed=0, block=block)
        assert all(torch.equal(plain[name], again[name]) for name in plain)
    mixed = sf.random_masks(network(), 0.9, seed=0, block={"2.weight": (4, 1)})
    assert torch.equal(mixed["3.weight"], plain["3.weight"])  # no layer shifts another


def test_masks_from_magnitudes_keep_the_largest_sums() -> None:
    layer = nn.Linear(2, 4, bias=False)
    # Sums of magnitudes of pairs of rows: 3, 4 and 5, 2.
    layer.weight.data = torch.tensor([[1.0, -4.0], [-2.0, 0.0], [5.0, 1.0], [0.0, -1.0]])
    mask = sf.magnitude_masks(layer, 0.5, block=(2, 1))["weight"]
    assert mask.tolist() == [[False, True], [False, True], [True, False], [True, False]]
    signed = sf.score_masks({"weight": layer.weight.detach()}, 0.5, block=(2, 1), model=layer)["weight"]
    # Sums: -1, -4 and 5, 0: the two largest are both of the last two rows.
    assert signed.tolist() == [[False, False], [False, False], [True, True], [True, True]]


def test_a_global_ranking_over_blocks() -> None:
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 4, bias=False))
    scores = {name: p.detach().abs() for name, p in model.named_parameters()}
    masks = sf.score_masks(scores, 0.75, block=(4, 1), model=model)
    sums = torch.cat([scores["0.weight"].view(2, 4, 4).sum(1).flatten(), scores["1.weight"].sum(0)])
    best = set(sums.topk(4).indices.tolist())
    found = torch.cat([masks["0.weight"][::4].flatten(), masks["1.weight"][0]]).nonzero().flatten().tolist()
    assert set(found) == best
    assert made_of(masks, (4, 1))


def test_blocks_of_different_sizes_compete_by_their_means() -> None:
    model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 3, bias=False))
    # Means of the first layer's blocks 2 and 1; single weights 3, 1.5, 0.5 and zeros.
    first = torch.tensor([[2.0, 1.0]] * 4)
    second = torch.zeros(3, 4)
    second[0, :3] = torch.tensor([3.0, 1.5, 0.5])
    scores = {"0.weight": first, "1.weight": second}
    block = {"0.weight": (4, 1)}
    # 20 weights. 6 are kept: 3, the block of 2, 1.5. Of 8 the block of 1 does not fit any more: 0.5 and a zero do.
    masks = sf.score_masks(scores, 1 - 6 / 20, block=block, model=model)
    assert masks["0.weight"].tolist() == [[True, False]] * 4
    assert masks["1.weight"].nonzero().tolist() == [[0, 0], [0, 1]]
    masks = sf.score_masks(scores, 1 - 8 / 20, block=block, model=model)
    assert masks["0.weight"].tolist() == [[True, False]] * 4
    assert int(masks["1.weight"].sum()) == 4
    assert masks["1.weight"][0, :3].all()


def test_equal_blocks_are_drawn() -> None:
    model = nn.Linear(100, 8)
    masks = [sf.score_masks({"weight": torch.ones(8, 100)}, 0.5, seed=s, block=(4, 1), model=model) for s in (0, 0, 1)]
    assert torch.equal(masks[0]["weight"], masks[1]["weight"])
    assert not torch.equal(masks[0]["weight"], masks[2]["weight"])
    # 100 of 200 blocks: in each half hypergeometric, standard deviation 3.5; 25 apart is 7 of them.
    assert abs(int(masks[0]["weight"][0].sum()) - 50) < 25


def test_a_layer_that_a_global_ranking_empties_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 4, bias=False))
    scores = {"0.weight": torch.full((4, 2), 1e-3), "1.weight": torch.ones(4, 4)}
    with pytest.warns(EmptiedLayerWarning, match=r"keeps 12 of 24 weights and none of '0\.weight'"):
        sf.score_masks(scores, 0.5, block=(4, 1), model=model)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "error", "match"),
    [
        (4, TypeError, r"block must be two whole numbers, outputs and inputs, such as \(4, 1\), got 4\."),
        ((4,), TypeError, r"block must be two whole numbers.*got \(4,\)"),
        ((4.0, 1), TypeError, r"got \(4\.0, 1\)"),
        ((True, 1), TypeError, r"got \(True, 1\)"),
        ("4x1", TypeError, "got '4x1'"),
        ((0, 1), ValueError, r"each at least 1, got \(0, 1\)\. \(1, 1\) are single weights"),
        ({"*": (4, -1)}, ValueError, r"block\['\*'\] must be .* each at least 1, got \(4, -1\)"),
        ({"*": 4}, TypeError, r"block\['\*'\] must be two whole numbers"),
        ({"fc": (4, 1)}, ValueError, r"block has 'fc', which matches no weight\. They are: 0\.weight, 2\.weight"),
        (
            (8, 1),
            ValueError,
            r"blocks of 8 outputs x 1 inputs do not divide '2\.weight' of shape \(20, 72\), which has 20 outputs x 72 "
            r"inputs \(nor 3\.weight\)\. To mask single weights there write block=\{'2\.weight': \(1, 1\), "
            r"'3\.weight': \(1, 1\), '\*': \(8, 1\)\}, to leave layers dense exclude=\['2\.weight', '3\.weight'\]\.",
        ),
        ((64, 1), ValueError, r"blocks of 64 outputs x 1 inputs do not divide '0\.weight' of shape \(8, 3, 3, 3\)"),
        ((1, 5), ValueError, r"do not divide '0\.weight'.* 8 outputs x 27 inputs"),
    ],
)
def test_blocks_that_cannot_be(block: object, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        sf.random_masks(network(), 0.9, seed=0, block=block)
    with pytest.raises(error, match=match):
        sf.magnitude_masks(network(), 0.9, block=block)


def test_groups_are_counted_in_the_error() -> None:
    with pytest.raises(ValueError, match=r"which has 3 outputs x 2 inputs in each of 4 groups"):
        grids((4, 1), {"w": (12, 2)}, {"w": Layout(blocks=4)})


def test_what_is_typed_after_an_error_works() -> None:
    masks = sf.random_masks(network(), 0.9, seed=0, block={"2.weight": (1, 1), "3.weight": (1, 1), "*": (8, 1)})
    assert made_of({"0.weight": masks["0.weight"]}, (8, 1))
    assert set(sf.random_masks(network(), 0.9, seed=0, block=(8, 1), exclude=["2.weight", "3.weight"])) == {"0.weight"}


def test_scores_need_the_model_for_blocks() -> None:
    with pytest.raises(ValueError, match=r"block= needs model=, whose layers say which axis"):
        sf.score_masks({"weight": torch.ones(4, 4)}, 0.5, block=(4, 1))
    with pytest.raises(ValueError, match=r"'a' is no weight of the model that can be masked\. They are: weight"):
        sf.score_masks({"a": torch.ones(4, 4)}, 0.5, block=(4, 1), model=nn.Linear(4, 4))


def test_each_layer_needs_a_block() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    with pytest.raises(ValueError, match=r"leaves 6\.4 of 32 weights for 2 layers, .* one block, 8 weights together"):
        sf.random_masks(model, 0.8, seed=0, block=(4, 1))


def test_the_first_pattern_counts() -> None:
    named = {"a.*": (1, 1), "*.weight": (2, 1)}
    assert [block_of(named, name) for name in ("a.weight", "b.weight", "c")] == [(1, 1), (2, 1), (1, 1)]
    found = grids(named, {"a.weight": (4, 4), "b.weight": (4, 4)}, {"a.weight": PLAIN, "b.weight": PLAIN})
    assert list(found) == ["b.weight"]


# --- where masks go ---------------------------------------------------------------------------------------------------


def test_synaptic_flow_in_blocks_is_the_authors_loop_over_sums() -> None:
    """Oracle: rounds by hand on one linear network, whose scores are products of sums of magnitudes."""
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Linear(8, 4, bias=False)).double()
    masks = sf.synflow_masks(model, 0.75, torch.ones(1, 6, dtype=torch.float64), rounds=5, block=(4, 1))
    first, second = (layer.weight.detach().abs() for layer in model)
    kept = [torch.ones(2, 6, dtype=torch.bool), torch.ones(1, 8, dtype=torch.bool)]
    for round_ in range(1, 6):
        one, other = (w * m.repeat_interleave(4, 0) for w, m in zip((first, second), kept, strict=True))
        scores = [one * other.sum(0)[:, None], other * one.sum(1)]
        sums = [s.view(-1, 4, s.shape[1]).sum(1).masked_fill(~m, -1) for s, m in zip(scores, kept, strict=True)]
        flat = torch.cat([s.flatten() for s in sums])
        left = round(20 * 0.25 ** (round_ / 5))  # 15.2, 11.5, 8.7, 6.6 and 5 of 20 blocks
        chosen = torch.zeros(20, dtype=torch.bool)
        chosen[flat.topk(left).indices] = True
        kept = [chosen[:12].view(2, 6), chosen[12:].view(1, 8)]
    for name, m in zip(("0.weight", "1.weight"), kept, strict=True):
        assert torch.equal(masks[name], m.repeat_interleave(4, 0))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_iterative_pruning_prunes_whole_blocks(scope: str) -> None:
    model = nn.Sequential(nn.Linear(10, 8), nn.Linear(8, 4), nn.Linear(4, 3))
    block = {"2.weight": (1, 1), "*": (4, 1)}
    options = {"rewind_to": sf.tickets.snapshot(model), "scope": scope, "block": block}
    rounds = list(sf.tickets.iterative_pruning(model, lambda *_: None, sparsity=0.8, rounds=4, **options))
    for before, after in pairwise(rounds):
        assert made_of({name: after.masks[name] for name in ("0.weight", "1.weight")}, (4, 1))
        assert not any((after.masks[name] & ~before.masks[name]).any() for name in after.masks)
    # 124 weights: 24.8 by a global ranking, 4 of 20, 6.4 -> 8 of 32 and 2.4 of 12 by layer.
    counts = {name: int(mask.sum()) for name, mask in rounds[-1].masks.items()}
    if scope == "layer":
        assert counts == {"0.weight": 16, "1.weight": 8, "2.weight": 2}
    else:
        assert 25 - 4 < sum(counts.values()) <= 25  # the last single weights of before may be too few to fill a gap
    with pytest.raises(ValueError, match=r"do not divide '2\.weight'"):
        sf.tickets.iterative_pruning(model, lambda *_: None, sparsity=0.8, rounds=4, rewind_to=None, block=(4, 1))


def test_shuffled_masks_stay_in_blocks() -> None:
    model = nn.Sequential(nn.Linear(30, 16), nn.Linear(16, 3))
    block = {"0.weight": (4, 1)}
    masks = sf.random_masks(model, 0.8, seed=0, block=block)
    shuffled = sf.tickets.shuffle_masks(masks, seed=0, block=block, model=model)
    assert made_of({"0.weight": shuffled["0.weight"]}, (4, 1))
    assert not torch.equal(shuffled["0.weight"], masks["0.weight"])
    assert {n: int(m.sum()) for n, m in shuffled.items()} == {n: int(m.sum()) for n, m in masks.items()}
    assert torch.equal(shuffled["1.weight"], sf.tickets.shuffle_masks(masks, seed=0)["1.weight"])
    with pytest.raises(ValueError, match=r"the mask of '0\.weight' is not made of blocks of 8 outputs x 1 inputs"):
        sf.tickets.shuffle_masks(masks, seed=0, block={"0.weight": (8, 1)}, model=model)
    with pytest.raises(ValueError, match=r"block= needs model="):
        sf.tickets.shuffle_masks(masks, seed=0, block=(4, 1))


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
def test_the_outputs_of_a_block_row_have_one_fan_in_and_one_scale(mode: str) -> None:
    """The paper's rule per unit is one number for four outputs: they share their inputs."""
    layer = nn.Linear(50, 16)
    mask = sf.random_masks(layer, 0.8, seed=0, block=(4, 1))["weight"]
    scaled = sf.init.scale_to_mask_(torch.ones(16, 50), mask, mode=mode)
    rows = scaled.view(4, 4, 50)
    assert torch.equal(rows, rows[:, :1].expand(-1, 4, -1))
    if mode == "fan_in":
        for row, own in zip(scaled, mask, strict=True):
            assert torch.allclose(row[own], torch.tensor((50 / int(own.sum())) ** 0.5))
    live = sf.live_inputs(nn.Sequential(layer), {"0.weight": mask}, example_inputs=torch.ones(1, 50))
    assert list(live) == ["0.weight"]
    # The first scheme of the paper for a whole model: deviations of the four are those of their common fan-in.
    model = nn.Sequential(nn.Linear(4000, 8))
    masks = sf.random_masks(model, 0.5, seed=0, block=(4, 1))
    sf.initialize_(model, masks, scheme="sparse", seed=0, base="kaiming_normal")
    for start in (0, 4):
        fan = int(masks["0.weight"][start].sum())
        values = model[0].weight.detach()[start : start + 4][masks["0.weight"][start : start + 4]]
        # Mean square of 4 fan normal draws of variance 2 / fan: relative deviation sqrt(2 / (4 fan)), five of them.
        assert abs(float(values.square().mean()) * fan / 2 - 1) < 5 * (2 / (4 * fan)) ** 0.5


# --- what remembers blocks --------------------------------------------------------------------------------------------


def held(block: object, **changes: object) -> tuple[nn.Sequential, sf.Sparsifier]:
    model = nn.Sequential(nn.Linear(30, 16), nn.Linear(16, 8), nn.Linear(8, 3))
    masks = sf.random_masks(model, 0.7, seed=0, block={"2.weight": (1, 1), "*": (4, 1)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, sf.Sparsifier(model, optimizer, masks, sf.RigL(total_steps=9, block=block), seed=0, **changes)


NAMED = {"2.weight": (1, 1), "*": (4, 1)}
FOUND = {"0.weight": (4, 1), "1.weight": (4, 1)}


def test_a_file_keeps_blocks(tmp_path: Path) -> None:
    _, sparsifier = held(NAMED)
    path = tmp_path / "masks.safetensors"
    for masks, block in ((sparsifier, None), (dict(sparsifier.masks), NAMED)):
        sf.save_masks(masks, path, block=block)
        assert sf.load_block(path) == FOUND
        loaded = sf.load_masks(path)
        assert list(loaded) == list(sparsifier.masks)
        assert all(torch.equal(mask, sparsifier.masks[name]) for name, mask in loaded.items())
        assert sf.RigL(total_steps=9, block=sf.load_block(path)).block == FOUND
    sf.save_masks(loaded, path)
    assert sf.load_block(path) == {}
    with pytest.raises(TypeError, match="block must be two whole numbers"):
        sf.save_masks(loaded, path, block=4)


def test_a_state_keeps_blocks() -> None:
    _, sparsifier = held(NAMED)
    state = sparsifier.state_dict()
    assert state["block"] == FOUND == sparsifier.block
    held(NAMED)[1].load_state_dict(state)
    held(NAMED, state=state)
    held(NAMED)[1].load_state_dict({key: value for key, value in state.items() if key != "block"})
    message = (
        r"saved with block \(4, 1\) of '1\.weight', and the method has \(2, 1\)\. Make the method with "
        r"block=\{'0\.weight': \(4, 1\), '1\.weight': \(4, 1\)\}"
    )
    other = {"1.weight": (2, 1), "0.weight": (4, 1)}
    with pytest.raises(ValueError, match=message):
        held(other)[1].load_state_dict(state)
    with pytest.raises(ValueError, match=message):
        held(other, state=state)
    with pytest.raises(
        ValueError, match=r"the state's block must be two whole numbers for each weight, got \{'a': 4\}"
    ):
        sparsifier.load_state_dict({**state, "block": {"a": 4}})
    moved = {**state["masks"], "1.weight": state["masks"]["1.weight"].roll(1, 0)}
    with pytest.raises(ValueError, match=r"the mask of '1\.weight' is not made of blocks of 4 outputs x 1 inputs"):
        sparsifier.load_state_dict({**state, "masks": moved})
    plain = nn.Linear(30, 16)
    masks = sf.random_masks(plain, 0.7, seed=0)
    single = sf.Sparsifier(plain, torch.optim.SGD(plain.parameters()), masks, sf.RigL(total_steps=9), seed=0)
    assert "block" not in single.state_dict()


def test_blocks_that_a_method_would_break_up_are_warned_of() -> None:
    with pytest.warns(LostBlocksWarning, match=r"the mask of '0\.weight' is made of blocks .* block=\(4, 1\)\.$"):
        held((1, 1))
    model = nn.Sequential(nn.Linear(30, 16))
    for masks in (sf.dense_masks(model), sf.random_masks(model, 0.7, seed=0)):
        sf.Sparsifier(model, torch.optim.SGD(model.parameters()), masks, sf.RigL(total_steps=9), seed=0).remove()
    masks = sf.random_masks(model, 0.7, seed=0, block=(4, 1))
    sf.Sparsifier(model, torch.optim.SGD(model.parameters()), masks, sf.Static(), seed=0)  # moves nothing


def test_a_report_names_blocks_and_what_was_reached() -> None:
    model, sparsifier = held(NAMED)
    report = sf.sparsity_report(model, sparsifier.masks, target=0.7)
    assert {row.name: row.block for row in report.rows if row.masked} == {**FOUND, "2.weight": None}
    # 120, 32 blocks and 24 weights, 0.3 of them: 36, 9.6 and 7.2.
    assert [row.active for row in report.rows if row.masked] == [144, 40, 7]
    lines = str(report).split("\n")
    assert lines[0].split()[4:6] == ["target", "block"]
    assert [line.split()[5] for line in lines if line.startswith(("0.weight", "1.weight", "2.weight"))] == [
        *("4x1", "4x1", "1x1")
    ]
    assert report.to_dict()["rows"][0]["block"] == [4, 1]
    sparsifier.remove()
    masks = dict(sparsifier.masks)
    assert "block" not in str(sf.sparsity_report(model, masks)).split("\n")[0]
    assert sf.sparsity_report(model, masks, block={"1.weight": (2, 1)}).rows[2].block == (2, 1)
    with pytest.raises(ValueError, match=r"the mask of '0\.weight' is not made of blocks of 8 outputs x 1 inputs"):
        sf.sparsity_report(model, masks, block={"0.weight": (8, 1)})


def test_keys_of_block_are_names() -> None:
    with pytest.raises(TypeError, match="keys of block must be names of weights or patterns of them, got 0"):
        sf.random_masks(nn.Linear(8, 8), 0.5, block={0: (4, 1)}, seed=0)  # type: ignore[dict-item]
