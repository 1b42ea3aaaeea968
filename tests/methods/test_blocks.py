"""Methods that move whole blocks: which leave and come by tables worked by hand, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.methods.run import UnfinishedWarning


def two_by_four(method: sf.updaters.Method, *, block: object = (2, 1)) -> tuple[nn.Linear, sf.Sparsifier]:
    """Four outputs in two rows of blocks, four inputs; two blocks of each row are active. SGD keeps the weights."""
    layer = nn.Linear(4, 4, bias=False)
    mask = torch.tensor([[True, True, False, False]] * 2 + [[False, False, True, True]] * 2)
    # Sums of magnitudes: 3 and 5 above, 4 and 2 below.
    layer.weight.data = torch.tensor([[1.0, 5.0, 0, 0], [-2.0, 0, 0, 0], [0, 0, -2.0, 1.0], [0, 0, 2.0, -1.0]])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    return layer, sf.Sparsifier(layer, optimizer, {"weight": mask}, method, seed=0)


def pull(layer: nn.Linear, sparsifier: sf.Sparsifier, gradient: Tensor) -> list[tuple[int, int]]:
    """One step with this gradient; the active blocks after it."""
    layer.weight.grad = gradient.clone()
    sparsifier.optimizers[0].step()
    mask = sparsifier.masks["weight"]
    assert torch.equal(mask[::2], mask[1::2])
    return [tuple(place) for place in mask[::2].nonzero().tolist()]


#: Sums of magnitudes of inactive blocks: 4 and 3 above, 5 and 2 below; plain sums: 0 and 3, 0 and 2.
GRADIENT = torch.tensor([[0, 0, 2.0, 3.0], [0, 0, -2.0, 0], [2.5, 1.0, 0, 0], [-2.5, 1.0, 0, 0]])


@pytest.mark.parametrize("growing", ["rigl", "rigl_inverted", "snfs"])
def test_the_smallest_sums_go_and_the_largest_sums_of_gradient_magnitudes_come(growing: str) -> None:
    kinds = {"rigl": sf.RigL, "rigl_inverted": sf.RigLInverted, "snfs": sf.SNFS}
    # Two of four blocks: those with 2 and 3 go; half of 8 weights is no other count.
    method = kinds[growing](drop_fraction=0.5, update_every=1, total_steps=100, schedule="constant", block=(2, 1))
    layer, sparsifier = two_by_four(method)
    found = pull(layer, sparsifier, GRADIENT)
    # The gradient of a dropped block is 0: it is what comes where the smallest do.
    expected = {"rigl_inverted": [(0, 0), (0, 1), (1, 2), (1, 3)]}
    assert found == expected.get(growing, [(0, 1), (0, 2), (1, 0), (1, 2)])


def test_a_count_that_is_no_whole_block_is_rounded_down() -> None:
    method = sf.RigL(drop_fraction=0.45, update_every=1, total_steps=100, schedule="constant", block=(2, 1))
    layer, sparsifier = two_by_four(method)  # 3.6 of 8 weights, 1.8 of 4 blocks
    assert pull(layer, sparsifier, GRADIENT) == [(0, 0), (0, 1), (1, 0), (1, 2)]


def test_gradual_pruning_cuts_the_smallest_sums() -> None:
    layer, sparsifier = two_by_four(sf.OneShot(sparsity=13 / 16, at=1, block=(2, 1)))
    # 3 of 16 weights are 1.5 of 8 blocks: the even neighbour is 2.
    assert pull(layer, sparsifier, GRADIENT) == [(0, 1), (1, 2)]
    layer, sparsifier = two_by_four(sf.OneShot(sparsity=7 / 8, at=1, scope="global", block=(2, 1)))
    assert pull(layer, sparsifier, GRADIENT) == [(0, 1)]


def test_pruning_says_at_once_what_blocks_cannot_reach() -> None:
    with pytest.raises(ValueError, match=r"leaves 1\.6 of 16 weights for 1 layers, .* one block, 2 weights together"):
        two_by_four(sf.OneShot(sparsity=0.9, at=1, block=(2, 1)))
    message = r"leaves 0\.8 of 16 weights of 'weight', which needs at least one block of 2\. .* there is 0\.875\."
    with pytest.raises(ValueError, match=message):
        two_by_four(sf.OneShot(sparsity={"weight": 0.95}, at=1, block=(2, 1)))


def test_set_draws_blocks_uniformly() -> None:
    """Of 8 blocks 4 are active and one goes: the five others are drawn alike, 1000 draws, chi-square 4 degrees."""
    counts = dict.fromkeys([(0, 2), (0, 3), (1, 0), (1, 1), (1, 3)], 0)
    layer, sparsifier = two_by_four(
        sf.SET(drop_fraction=0.25, update_every=1, total_steps=2000, schedule="constant", block=(2, 1))
    )
    start = {**sparsifier.state_dict(), "masks": {"weight": sparsifier.masks["weight"].clone()}}
    weights = layer.weight.detach().clone()
    for _ in range(1000):
        found = pull(layer, sparsifier, GRADIENT)
        (grown,) = set(found) - {(0, 0), (0, 1), (1, 2)}
        counts[grown] += 1
        layer.weight.data.copy_(weights)
        sparsifier.load_state_dict({**start, "generator": sparsifier.state_dict()["generator"]})
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 34  # false alarm 8e-7


class Rolled:
    """A method of one's own that knows nothing of blocks but its attribute."""

    needs_gradient, gradient_decay, replaces_step = False, 0.0, False

    def __init__(self, block: object) -> None:
        self.block = block

    def due(self, step: int) -> bool:
        return True

    def update(self, layers, *, step, generator):  # type: ignore[no-untyped-def]
        for layer in layers:
            yield layer.name, layer.mask.roll(1, 0)


def test_a_mask_that_is_not_made_of_blocks_is_refused() -> None:
    layer, sparsifier = two_by_four(Rolled((2, 1)))
    before = sparsifier.masks["weight"].clone()
    layer.weight.grad = GRADIENT.clone()
    with pytest.raises(ValueError, match=r"the mask of 'weight' is not made of blocks of 2 outputs x 1 inputs"):
        sparsifier.optimizers[0].step()
    assert torch.equal(sparsifier.masks["weight"], before)


class Swapping(Rolled):
    """Asks for single weights by the thousand; the Sparsifier moves blocks."""

    def update(self, layers, *, step, generator):  # type: ignore[no-untyped-def]
        for layer in layers:
            yield layer.name, sf.updaters.Swap(3, 3, sf.RigL().drop_score, lambda w, g, generator: -w.abs())


def test_a_swap_of_ones_own_moves_whole_blocks() -> None:
    layer, sparsifier = two_by_four(Swapping((2, 1)))
    # 3 weights are one block, the smallest: 2. All others score 0, and the first of them comes.
    assert pull(layer, sparsifier, GRADIENT) == [(0, 0), (0, 1), (0, 2), (1, 2)]


def test_masks_must_be_made_of_the_methods_blocks() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    masks = sf.random_masks(model, 0.5, seed=0, block={"0.weight": (4, 1)})
    with pytest.raises(
        ValueError,
        match=r"the mask of '1\.weight' is not made of blocks of 4 outputs x 1 inputs\. Make masks with the method's "
        r"block=: sparseflow\.random_masks\(model, 0\.95, block=\(4, 1\), seed=0\), or give the method "
        r"block=\{'1\.weight': \(1, 1\), \.\.\.\}, which moves single weights there\.",
    ):
        sf.Sparsifier(model, optimizer, masks, sf.RigL(total_steps=9, block=(4, 1)), seed=0)
    sf.Sparsifier(model, optimizer, masks, sf.RigL(total_steps=9, block={"0.weight": (4, 1)}), seed=0)


@pytest.mark.parametrize("kind", [sf.RigL, sf.SET, sf.SNFS, sf.RigLInverted])
@pytest.mark.parametrize(("block", "error"), [(4, TypeError), ((0, 1), ValueError), ({"*": (1,)}, TypeError)])
def test_blocks_are_checked_where_the_method_is_made(kind, block: object, error: type[Exception]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=r"block.* must be two whole numbers, outputs and inputs, such as \(4, 1\)"):
        kind(total_steps=9, block=block)
    with pytest.raises(error, match=r"block.* must be two whole numbers"):
        sf.OneShot(sparsity=0.5, at=1, block=block)


def test_a_layer_with_too_few_blocks_for_a_swap_is_warned_of() -> None:
    with pytest.warns(UnfinishedWarning, match="of the 8 active weights of the largest layer is less than one block"):
        two_by_four(sf.RigL(drop_fraction=0.2, update_every=1, total_steps=9, block=(2, 1)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("made", [sf.SET, sf.RigL])
def test_any_dtype_moves_whole_blocks(made, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    model = nn.Linear(40, 16, bias=False).to(dtype)
    masks = sf.random_masks(model, 0.75, seed=0, block=(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = made(update_every=1, total_steps=100, block=(4, 2))
    sparsifier = sf.Sparsifier(model, optimizer, masks, method, seed=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        model.weight.grad = torch.randn(16, 40, generator=generator).to(dtype)
        optimizer.step()
    sparsifier.check()
    blocks = sparsifier.masks["weight"].view(4, 4, 20, 2).sum((1, 3))
    assert set(blocks.flatten().tolist()) == {0, 8}
    assert int(blocks.sum()) == 160
    assert not torch.equal(sparsifier.masks["weight"], masks["weight"])


def test_grouped_convolutions_stored_alone_move_the_blocks_of_their_groups() -> None:
    """Oracle: the masked form, float64; groups of eight outputs, which blocks of four divide."""
    ends = []
    for stored in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(4, 16, 3, groups=2), nn.Flatten(), nn.Linear(64, 8)).double()
        masks = sf.random_masks(model, 0.6, seed=0, block=(4, 1))
        sf.apply_masks_(model, masks)
        model = sf.engine.convert(model, masks) if stored else model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        method = sf.RigL(update_every=2, total_steps=100, block=(4, 1))
        sparsifier = sf.Sparsifier(model, optimizer, masks, method, seed=0)
        generator = torch.Generator().manual_seed(0)
        for _ in range(9):
            optimizer.zero_grad()
            model(torch.randn(8, 4, 4, 4, generator=generator, dtype=torch.float64)).square().mean().backward()
            optimizer.step()
        sparsifier.check()
        ends.append({name: mask.clone() for name, mask in sparsifier.masks.items()})
    for name, mask in ends[0].items():
        assert torch.equal(ends[1][name], mask)
        assert not torch.equal(masks[name], mask)
        assert torch.equal(mask, mask[::4].repeat_interleave(4, 0))
