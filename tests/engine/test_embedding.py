"""Embeddings with active values only, against torch's masked ones in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.engine.layers.embedding import SparseEmbedding
from sparseflow.rng import stream

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "padding": {"padding_idx": 3},
    "scaled": {"scale_grad_by_freq": True},
    "padding, scaled": {"padding_idx": -1, "scale_grad_by_freq": True},
}


def pair(model: nn.Module, *, density: float = 0.4) -> tuple[nn.Module, nn.Module, dict[str, Tensor]]:
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, generator=stream(0, name))
    model.double()
    masks = {
        name: torch.rand(parameter.shape, generator=stream(1, name)) < density
        for name, parameter in model.named_parameters()
        if parameter.dim() == 2
    }
    sf.apply_masks_(model, masks)
    return model, sf.engine.convert(model, masks), masks


def numbers(*shape: int, high: int = 11) -> Tensor:
    return torch.randint(high, shape, generator=stream(0, "rows"))


@pytest.mark.parametrize("density", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_lookups_are_the_masked_ones(options: dict[str, Any], density: float) -> None:
    dense, sparse, masks = pair(nn.Embedding(11, 6, **options), density=density)
    assert isinstance(sparse, SparseEmbedding)
    assert (sparse.num_embeddings, sparse.embedding_dim, sparse.padding_idx) == (11, 6, dense.padding_idx)
    for rows in (numbers(4, 9), numbers(5).int(), torch.tensor(2), numbers(0, 3), numbers(8, 3)[::2, 1:]):
        want, found = dense(rows), sparse(rows)
        assert torch.equal(found, want)
        for model, output in ((dense, want), (sparse, found)):
            model.zero_grad()
            (output.square().sum() + output.sum()).backward()
        torch.testing.assert_close(sparse.values.grad, dense.weight.grad[masks["weight"]])
        with torch.no_grad():
            assert torch.equal(sparse(rows), dense(rows))


def test_blocks_of_four_rows() -> None:
    embedding = nn.Embedding(8, 5).double()
    mask = (torch.rand(2, 5, generator=stream(0, "mask")) < 0.5).repeat_interleave(4, 0)
    sf.apply_masks_(embedding, {"weight": mask})
    sparse = sf.engine.convert(embedding, {"weight": mask})
    assert sparse.pattern.block == 4
    rows = numbers(3, 7, high=8)
    assert torch.equal(sparse(rows), embedding(rows))
    for model in (embedding, sparse):
        model(rows).square().sum().backward()
    torch.testing.assert_close(sparse.values.grad, embedding.weight.grad[mask])


class Language(nn.Module):
    """Lookups, and a layer behind them; rows are looked up twice in a step."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 6, padding_idx=0)
        self.head = nn.Linear(6, 11)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.words(rows).mean(1) + self.words(rows[:, 0]))  # type: ignore[no-any-return]


def test_states_go_both_ways() -> None:
    dense, sparse, masks = pair(Language())
    rows = numbers(4, 5)
    again = sf.engine.to_dense(sparse)
    assert repr(again) == repr(dense)
    for state in (again.state_dict(), sf.engine.dense_state_dict(sparse)):
        assert list(state) == list(dense.state_dict())
        assert all(torch.equal(tensor, state[name]) for name, tensor in dense.state_dict().items())
    assert all(torch.equal(mask, masks[name]) for name, mask in sf.engine.masks_of(sparse).items())
    other = sf.engine.convert(Language().double(), masks)
    other.load_state_dict(dense.state_dict())
    assert torch.equal(other(rows), sparse(rows))


@pytest.mark.parametrize("method", ["rigl", "set"])
def test_weights_grow_and_drop_as_in_the_masked_model(method: str) -> None:
    dense, sparse, masks = pair(Language())
    sparsifiers, optimizers = [], []
    kinds = {"rigl": sf.RigL, "set": sf.SET}
    for model in (dense, sparse):
        optimizers.append(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        chosen = kinds[method](drop_fraction=0.3, update_every=2, total_steps=8)
        sparsifiers.append(sf.Sparsifier(model, optimizers[-1], masks, chosen, seed=0))
    for step in range(6):
        rows = torch.randint(11, (4, 5), generator=stream(step, "rows"))
        for model, optimizer in zip((dense, sparse), optimizers, strict=True):
            optimizer.zero_grad()
            model(rows).square().mean().backward()
            optimizer.step()
    first, second = sparsifiers
    assert all(torch.equal(mask, second.masks[name]) for name, mask in first.masks.items())
    assert not torch.equal(first.masks["words.weight"], masks["words.weight"])
    state = sf.engine.dense_state_dict(sparse)
    for name, tensor in dense.state_dict().items():
        torch.testing.assert_close(state[name], tensor)


def test_a_chain_with_an_embedding_runs_layer_by_layer() -> None:
    dense, sparse, _ = pair(nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    rows = numbers(4, 5)
    torch.testing.assert_close(sparse(rows), dense(rows))


def test_what_stays_masked_says_why() -> None:
    for options, reason in (
        ({"max_norm": 1.0}, "max_norm=1.0 writes to the weight at each call"),
        ({"sparse": True}, "sparse=True: it has gradients of a kind that active values cannot have"),
    ):
        embedding = nn.Embedding(11, 6, **options)
        masks = {"weight": torch.rand(11, 6, generator=stream(0, "mask")) < 0.5}
        assert sf.engine.convertible(embedding, masks) == {"weight": reason}
    bag = nn.EmbeddingBag(11, 6)
    masks = {"weight": torch.ones(11, 6).bool()}
    assert sf.engine.convertible(bag, masks) == {"weight": "no sparse form of EmbeddingBag"}
    tied = Language()
    tied.head.weight = tied.words.weight
    assert set(sf.engine.convertible(tied, {"words.weight": torch.ones(11, 6).bool()}).values()) == {
        "its weight is shared with another layer"
    }


def test_bad_input_is_an_error() -> None:
    _, sparse, _ = pair(nn.Embedding(11, 6))
    with pytest.raises(IndexError, match="this embedding has rows 0 to 10, got 3 to 11"):
        sparse(torch.tensor([3, 11]))
    with pytest.raises(IndexError, match="got -1 to 2"):
        sparse(torch.tensor([-1, 2]))
    with pytest.raises(TypeError, match=r"takes int64 or int32 on the CPU, got torch\.float32 on cpu"):
        sparse(torch.ones(2))
