"""Attention and transformers with sparse projections, against torch's masked ones in float64."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.engine.layers.attention import MultiheadAttention
from sparseflow.rng import stream

WIDTH, HEADS = 12, 2  # an even number of heads, for torch's fast path
#: Options of attention.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False, "batch_first": True},
    "added key": {"add_bias_kv": True},
    "added zeros": {"add_zero_attn": True, "batch_first": True},
    "both added": {"add_bias_kv": True, "add_zero_attn": True},
    "other widths": {"kdim": 8, "vdim": 10, "batch_first": True},
    "other widths, no bias": {"kdim": 8, "bias": False},
    "other width, added": {"vdim": 8, "add_bias_kv": True},
}


def noise(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(*shape, generator=stream(0, name), dtype=torch.float64)


def filled(model: nn.Module) -> nn.Module:
    """Numbers that do not vanish, also in biases."""
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.5, generator=stream(0, name))
    return model.double()


def pair(
    model: nn.Module, *, sparsity: float = 0.6, only: list[str] | None = None
) -> tuple[nn.Module, nn.Module, dict[str, Tensor]]:
    """The masked model, the converted one, and the masks."""
    filled(model)
    masks = sf.random_masks(model, sparsity, seed=0)
    sf.apply_masks_(model, masks)
    assert not any(sf.engine.convertible(model, masks).values())
    return model, sf.engine.convert(model, masks, only=only), masks


def check_gradients(dense: nn.Module, sparse: nn.Module, masks: dict[str, Tensor]) -> None:
    layers = sf.engine.sparse_layers(sparse)
    assert list(layers) == list(masks)
    for name, layer in layers.items():
        want = dense.get_parameter(name).grad
        assert want is not None
        torch.testing.assert_close(layer.values.grad, want[masks[name]])
    others = dict(sparse.named_parameters())
    for name, parameter in dense.named_parameters():
        if name not in masks:
            torch.testing.assert_close(others[name].grad, parameter.grad)


def inputs(attention: nn.MultiheadAttention, kind: str) -> list[Tensor]:
    """Queries, keys and values of two examples: 5 queries, 7 keys where they differ."""
    widths = [WIDTH, attention.kdim, attention.vdim]
    tokens = [5, 5, 5] if kind == "self" else [5, 7, 7]
    tensors = [noise(n, 2, width, name=str(place)) for place, (n, width) in enumerate(zip(tokens, widths, strict=True))]
    if kind == "unbatched":
        return [tensor[:, 0].contiguous() for tensor in tensors]
    tensors = [tensor.transpose(0, 1).contiguous() if attention.batch_first else tensor for tensor in tensors]
    if len(set(widths)) == 1:
        if kind == "self":
            return [tensors[0]] * 3
        if kind == "memory":
            return [tensors[0], tensors[1], tensors[1]]
        if kind == "positions":
            return [tensors[1], tensors[1], tensors[2]]
    return tensors


def call_options(queries: int, keys: int, batch: int | None) -> Iterator[dict[str, Any]]:
    """Masks and outputs: each that torch takes."""
    causal = torch.ones(queries, keys, dtype=torch.bool).triu(1)
    each = torch.rand((batch or 1) * HEADS, queries, keys, generator=stream(0, "each")) < 0.3
    each[..., 0] = False
    padding = torch.zeros(batch or 1, keys, dtype=torch.bool)
    padding[-1, keys - 2 :] = True
    padding = padding if batch else padding[0]
    yield {}
    yield {"need_weights": False}
    yield {"average_attn_weights": False, "attn_mask": each}
    for wanted in (True, False):
        yield {"need_weights": wanted, "attn_mask": causal}
        yield {"need_weights": wanted, "attn_mask": causal, "is_causal": True}
        yield {"need_weights": wanted, "attn_mask": causal, "is_causal": True, "key_padding_mask": padding}
        yield {"need_weights": wanted, "attn_mask": each, "key_padding_mask": padding}
        yield {"need_weights": wanted, "key_padding_mask": padding}
        yield {"need_weights": wanted, "attn_mask": noise(queries, keys), "key_padding_mask": noise(*padding.shape)}


@pytest.mark.parametrize("kind", ["self", "memory", "positions", "all different", "unbatched"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_attention_is_the_masked_one(options: dict[str, Any], kind: str) -> None:
    dense, sparse, masks = pair(nn.MultiheadAttention(WIDTH, HEADS, **options))
    assert isinstance(dense, nn.MultiheadAttention)
    assert isinstance(sparse, nn.MultiheadAttention)
    q, k, v = inputs(dense, kind)
    axis = 1 if dense.batch_first and q.dim() == 3 else 0
    batch = None if q.dim() == 2 else q.shape[1 - axis]
    for call in call_options(q.shape[axis], k.shape[axis], batch):
        same = {id(tensor): [tensor.clone().requires_grad_() for _ in range(2)] for tensor in (q, k, v)}
        (want, weights), (found, ours) = (
            model(*(same[id(tensor)][place] for tensor in (q, k, v)), **call)
            for place, model in enumerate((dense, sparse))
        )
        torch.testing.assert_close(found, want)
        assert (ours is None) == (weights is None)
        loss = [want.square().sum(), found.square().sum()]
        if weights is not None and ours is not None:
            torch.testing.assert_close(ours, weights)
            loss = [loss[0] + weights.square().sum(), loss[1] + ours.square().sum()]
        for model, each in zip((dense, sparse), loss, strict=True):
            model.zero_grad()
            each.backward()
        for a, b in same.values():
            torch.testing.assert_close(b.grad, a.grad)
        check_gradients(dense, sparse, masks)
        with torch.no_grad():
            dense.eval()
            sparse.eval()
            torch.testing.assert_close(sparse(q, k, v, **call)[0], dense(q, k, v, **call)[0])
            dense.train()
            sparse.train()


@pytest.mark.parametrize("need_weights", [True, False])
def test_dropout_draws_as_torch_does(need_weights: bool) -> None:
    dense, sparse, _ = pair(nn.MultiheadAttention(WIDTH, HEADS, dropout=0.4, batch_first=True))
    x, outputs = noise(2, 5, WIDTH), []
    for model in (dense, sparse):
        torch.manual_seed(0)
        outputs.append(model(x, x, x, need_weights=need_weights))
    torch.testing.assert_close(outputs[1], outputs[0])
    sparse.eval()
    assert not torch.allclose(sparse(x, x, x)[0], outputs[1][0])


PARTS = [["in_proj_weight"], ["out_proj.weight"], ["q_proj_weight"], ["k_proj_weight", "out_proj.weight"]]


@pytest.mark.parametrize("only", PARTS, ids=" ".join)
def test_some_of_its_weights(only: list[str]) -> None:
    widths = (
        {} if "in_proj_weight" in only or (len(only) == 1 and only[0] == "out_proj.weight") else {"kdim": 8, "vdim": 8}
    )
    dense, sparse, _ = pair(nn.MultiheadAttention(WIDTH, HEADS, **widths), only=only)
    assert isinstance(dense, nn.MultiheadAttention)
    assert list(sf.engine.sparse_layers(sparse)) == only
    q, k, v = inputs(dense, "memory")
    torch.testing.assert_close(sparse(q, k, v), dense(q, k, v))
    assert list(sf.engine.to_dense(sparse).state_dict()) == list(dense.state_dict())


TRANSFORMERS: dict[str, Callable[[], nn.Module]] = {
    "layer": lambda: nn.TransformerEncoderLayer(WIDTH, 2, 20, 0.0, batch_first=True),
    "layer, gelu, norm first": lambda: nn.TransformerEncoderLayer(
        WIDTH, 2, 20, 0.0, activation="gelu", norm_first=True, batch_first=True
    ),
    "layer, sequence first, no bias": lambda: nn.TransformerEncoderLayer(WIDTH, 2, 20, 0.0, F.silu, bias=False),
    "encoder": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(WIDTH, 2, 20, 0.0, batch_first=True), 2, nn.LayerNorm(WIDTH)
    ),
    "encoder, gelu": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(WIDTH, 2, 20, 0.0, nn.GELU(), batch_first=True), 2
    ),
    "encoder, norm first": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(WIDTH, 2, 20, 0.0, batch_first=True, norm_first=True), 2, enable_nested_tensor=False
    ),
}


def padding_masks() -> Iterator[tuple[str, Tensor | None]]:
    left = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    yield "none", None
    yield "at the end", left
    yield "anywhere", torch.tensor([[False, True, False, False, True, False], [False] * 6])
    yield "numbers", torch.zeros(2, 6, dtype=torch.float64).masked_fill_(left, -torch.inf)


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("training", [True, False])
def test_encoders_are_the_masked_ones(name: str, training: bool) -> None:
    dense, sparse, masks = pair(TRANSFORMERS[name]().train(training))
    is_first = not name.startswith("layer, sequence")
    causal = nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64)
    is_encoder = isinstance(dense, nn.TransformerEncoder)
    for (what, padding), mask in itertools.product(padding_masks(), (None, causal)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's: of nested tensors, which are a prototype, and of masks' types
            named = {"src_key_padding_mask": padding, "mask" if is_encoder else "src_mask": mask}
            x = noise(2, 6, WIDTH) if is_first else noise(6, 2, WIDTH)
            if training:
                a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
                want, found = dense(a, **named), sparse(b, **named)
                torch.testing.assert_close(found, want, msg=what)
                for model, output in ((dense, want), (sparse, found)):
                    model.zero_grad()
                    output.square().sum().backward()
                torch.testing.assert_close(b.grad, a.grad)
                check_gradients(dense, sparse, masks)
            torch.testing.assert_close(sparse(x, **named), dense(x, **named), msg=what)
            with torch.no_grad():  # torch's own kernels and nested tensors
                torch.testing.assert_close(sparse(x, **named), dense(x, **named), msg=what)


def test_an_encoder_of_which_only_a_later_layer_is_sparse() -> None:
    dense = TRANSFORMERS["encoder"]().eval()
    names = [name for name in sf.random_masks(dense, 0.6, seed=0) if name.startswith("layers.1.linear")]
    dense, sparse, _ = pair(dense, only=names)
    x, padding = noise(2, 6, WIDTH), dict(padding_masks())["at the end"]
    with torch.no_grad():
        torch.testing.assert_close(sparse(x, src_key_padding_mask=padding), dense(x, src_key_padding_mask=padding))


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_a_whole_transformer_with_its_decoder(norm_first: bool, batch_first: bool, training: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Transformer(
            WIDTH, 2, 1, 2, 20, 0.0, activation="gelu", norm_first=norm_first, batch_first=batch_first
        )
        dense, sparse, masks = pair(model.train(training))
        source, target = noise(2, 6, WIDTH), noise(2, 4, WIDTH, name="target")
        if not batch_first:
            source, target = source.transpose(0, 1), target.transpose(0, 1)
        padding = dict(padding_masks())["at the end"]
        causal = nn.Transformer.generate_square_subsequent_mask(4, dtype=torch.float64)
        named = {"tgt_mask": causal, "src_key_padding_mask": padding, "memory_key_padding_mask": padding}
        want, found = dense(source, target, **named), sparse(source, target, **named)
        torch.testing.assert_close(found, want)
        want.square().sum().backward()
        found.square().sum().backward()
        check_gradients(dense, sparse, masks)


ACTIVATIONS: dict[str, Any] = {"relu": "relu", "gelu": "gelu", "ReLU": nn.ReLU(), "silu": F.silu}


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
@pytest.mark.parametrize("kind", [nn.TransformerEncoderLayer, nn.TransformerDecoderLayer])
def test_more_tokens_than_are_computed_at_a_time(kind: type[nn.Module], activation: Any) -> None:
    dense, sparse, _ = pair(kind(WIDTH, 2, 20, 0.1, activation, batch_first=True).eval())
    tokens = [noise(3, 190, WIDTH)] * (2 if kind is nn.TransformerDecoderLayer else 1)
    with torch.no_grad():
        torch.testing.assert_close(sparse(*tokens), dense(*tokens))
    torch.testing.assert_close(sparse(*tokens), dense(*tokens))


def test_an_activation_with_a_hook_is_called() -> None:
    seen: list[Tensor] = []
    model = filled(nn.TransformerEncoderLayer(WIDTH, 2, 20, 0.0, nn.ReLU(), batch_first=True)).eval()
    model.activation.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))  # type: ignore[union-attr]
    masks = sf.random_masks(model, 0.5, seed=0)
    sparse = sf.engine.convert(model, masks)
    with torch.no_grad():
        sparse(noise(3, 190, WIDTH))
    (before,) = seen
    assert before.shape == (3, 190, 20)
    assert (before < 0).any()


def test_the_states_go_both_ways() -> None:
    dense, sparse, masks = pair(TRANSFORMERS["encoder"]().eval())
    x = noise(2, 6, WIDTH)
    again = sf.engine.to_dense(sparse)
    assert repr(again) == repr(dense)
    for state in (again.state_dict(), sf.engine.dense_state_dict(sparse)):
        assert set(state) == set(dense.state_dict())
        assert all(torch.equal(tensor, state[name]) for name, tensor in dense.state_dict().items())
    assert list(again.state_dict()) == list(dense.state_dict())
    assert all(torch.equal(mask, masks[name]) for name, mask in sf.engine.masks_of(sparse).items())
    other = sf.engine.convert(TRANSFORMERS["encoder"]().double().eval(), masks)
    other.load_state_dict(dense.state_dict())
    assert torch.equal(other(x), sparse(x))
    fresh = sf.random_masks(dense, 0.3, seed=1)
    moved = sf.engine.convert(TRANSFORMERS["encoder"]().double().eval(), fresh)
    moved.load_state_dict(sparse.state_dict())
    assert torch.equal(moved(x), sparse(x))


def test_a_sparse_state_is_refused_by_the_dense_model() -> None:
    dense, sparse, _ = pair(nn.MultiheadAttention(WIDTH, HEADS))
    with pytest.raises(RuntimeError, match=r"size mismatch for in_proj_weight"):
        dense.load_state_dict(sparse.state_dict(), strict=False)
    state = dense.state_dict()
    state["in_proj_weight"] = torch.ones_like(state["in_proj_weight"])
    with pytest.raises(ValueError, match=r"in_proj\.weight is nonzero where this layer has no weights"):
        sparse.load_state_dict(state)


def test_copies_pickles_and_files(tmp_path: Any) -> None:
    dense, sparse, _ = pair(TRANSFORMERS["encoder"]().eval())
    x = noise(2, 6, WIDTH)
    file = io.BytesIO()
    torch.save(sparse, file)
    file.seek(0)
    sf.engine.save(sparse, tmp_path / "model.safetensors")
    loaded = sf.engine.load(TRANSFORMERS["encoder"]().double().eval(), tmp_path / "model.safetensors")
    for other in (
        copy.deepcopy(sparse),
        pickle.loads(pickle.dumps(sparse)),
        torch.load(file, weights_only=False),
        loaded,
    ):
        assert torch.equal(other(x), sparse(x))
        assert list(sf.engine.sparse_layers(other)) == list(sf.engine.sparse_layers(sparse))
    assert all(
        torch.equal(tensor, dense.state_dict()[name])
        for name, tensor in sf.engine.files.export.load_state(tmp_path / "model.safetensors").items()
    )


def test_the_weight_reads_as_the_dense_one() -> None:
    dense, sparse, _ = pair(nn.MultiheadAttention(WIDTH, HEADS))
    assert isinstance(sparse, MultiheadAttention)
    assert isinstance(dense, nn.MultiheadAttention)
    assert torch.equal(sparse.in_proj_weight, dense.in_proj_weight)
    assert sparse.in_proj_weight.shape == (3 * WIDTH, WIDTH)
    assert sparse.q_proj_weight is None
    assert torch.equal(sparse.in_proj_bias, dense.in_proj_bias)
    assert torch.equal(sparse.out_proj.weight, dense.out_proj.weight)
    with pytest.raises(RuntimeError, match="uniform_ would write to the weight of a sparse layer"):
        sparse._reset_parameters()


def test_hooks_come_along_and_run() -> None:
    seen: list[str] = []
    model = filled(TRANSFORMERS["layer"]())
    model.self_attn.register_forward_hook(lambda *_: seen.append("attention"))  # type: ignore[union-attr]
    model.linear1.register_forward_pre_hook(lambda *_: seen.append("linear"))  # type: ignore[union-attr]
    sparse = sf.engine.convert(model, sf.random_masks(model, 0.5, seed=0))
    sparse(noise(2, 6, WIDTH))
    assert seen == ["attention", "linear"]


@pytest.mark.parametrize("kind", ["encoder", "memory"])
def test_weights_grow_and_drop_as_in_the_masked_model(kind: str) -> None:
    def build() -> nn.Module:
        return TRANSFORMERS["encoder"]() if kind == "encoder" else nn.TransformerDecoderLayer(WIDTH, 2, 20, 0.0)

    dense, sparse, masks = pair(build())
    sparsifiers = []
    for model in (dense, sparse):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        method = sf.RigL(drop_fraction=0.3, update_every=2, total_steps=8)
        sparsifiers.append((sf.Sparsifier(model, optimizer, masks, method, seed=0), optimizer))
    for step in range(6):
        x, memory = noise(2, 6, WIDTH, name=f"x{step}"), noise(3, 6, WIDTH, name=f"m{step}")
        for model, (_, optimizer) in zip((dense, sparse), sparsifiers, strict=True):
            optimizer.zero_grad()
            (model(x) if kind == "encoder" else model(x, memory)).square().mean().backward()
            optimizer.step()
    (first, _), (second, _) = sparsifiers
    assert all(torch.equal(mask, second.masks[name]) for name, mask in first.masks.items())
    assert not all(torch.equal(mask, masks[name]) for name, mask in first.masks.items())
    state = sf.engine.dense_state_dict(sparse)
    for name, tensor in dense.state_dict().items():
        torch.testing.assert_close(state[name], tensor)
    second.check()


class Twice(nn.Module):
    """One layer called twice in a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x).relu())  # type: ignore[no-any-return]


def test_the_dense_gradient_of_a_layer_called_twice_has_both_calls() -> None:
    dense, sparse, _ = pair(Twice())
    layer = sf.engine.sparse_layers(sparse)["layer.weight"]
    layer.keep_gradients(True)
    for _ in range(2):  # the second pass replaces the first
        for model in (dense, sparse):
            model.zero_grad()
            model(noise(3, 8)).square().sum().backward()
    rows = layer.gradient_rows()
    assert rows is not None
    torch.testing.assert_close(rows(0, 8), dense.get_parameter("layer.weight").grad)


class Own(nn.MultiheadAttention):
    """A subclass, which may use its weights in its own way."""


def test_what_stays_masked_says_why() -> None:
    def reasons(model: nn.Module) -> dict[str, str | None]:
        masks = sf.random_masks(model, 0.5, seed=0)
        found = sf.engine.convertible(model, masks)
        x = noise(2, 5, 8)
        torch.testing.assert_close(sf.engine.convert(model, masks)(x, x, x), sf.apply_masks_(model, masks)(x, x, x))
        return found

    found = reasons(filled(Own(8, 2)))
    assert set(found.values()) == {"no sparse form of Own"}
    replaced = filled(nn.MultiheadAttention(8, 2))
    replaced.forward = replaced.forward  # type: ignore[method-assign]
    assert set(reasons(replaced).values()) == {"its forward was replaced by another function"}
    more = filled(nn.MultiheadAttention(8, 2))
    more.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))
    assert reasons(more)["in_proj_weight"] == "it has parameters of its own: scale"
    tied = nn.ModuleList([nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 2)])
    tied[1].in_proj_weight = tied[0].in_proj_weight
    masks = sf.random_masks(tied, 0.5, seed=0)
    assert sf.engine.convertible(tied, masks)["0.in_proj_weight"] == "its weight is shared with another layer"
    half = nn.MultiheadAttention(8, 2).half()
    assert set(sf.engine.convertible(half, sf.random_masks(half, 0.5, seed=0)).values()) == {"torch.float16 on cpu"}


def test_bad_input_is_an_error() -> None:
    _, sparse, _ = pair(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True))
    x = noise(2, 5, WIDTH)
    with pytest.raises(ValueError, match="is_causal says that attn_mask is causal; give that too"):
        sparse(x, x, x, is_causal=True)
    with pytest.raises(ValueError, match=r"attn_mask must have shape \(5, 5\) or \(4, 5, 5\), got \(4, 5\)"):
        sparse(x, x, x, attn_mask=torch.zeros(4, 5))
    with pytest.raises(ValueError, match=r"key_padding_mask must have shape \(2, 5\), got \(5,\)"):
        sparse(x, x, x, key_padding_mask=torch.zeros(5))
    nested = torch.nested.nested_tensor([x[0], x[1, :3]])
    with pytest.raises(TypeError, match="sparse attention takes no nested tensors"):
        sparse(nested, nested, nested)
    with pytest.raises(TypeError, match=r"needs an input of the same type on the CPU, got torch\.float32"):
        sparse(x.float(), x.float(), x.float())
