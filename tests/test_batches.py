"""Every call that takes batches takes what the model takes: the oracle is a twin of the model that takes one tensor."""

from __future__ import annotations

import copy
import re
from collections import UserDict, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow import analysis
from sparseflow.batches import each, forward, loss_of, num_examples, output_of
from sparseflow.precision import PrecisionWarning

SIZES = (5, 3, 2)  # batch norm in training needs two examples
GoogleOutput = namedtuple("GoogleOutput", ["logits", "aux"])


class OneInput(nn.Module):
    """The twin: the columns of its one input are u and v."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(3, 6)
        self.norm, self.act, self.head = nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x[:, :4], x[:, 4:])

    def compute(self, u: Tensor, v: Tensor) -> Tensor:
        return self.head(self.act(self.norm(self.a(u) + self.b(v))))


class Two(OneInput):
    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        return self.compute(u, v)


class Labelled(OneInput):
    """As a classifier of transformers: loss beside the logits where there are labels."""

    def forward(self, u: Tensor | None = None, v: Tensor | None = None, labels: Tensor | None = None) -> Any:
        assert u is not None
        assert v is not None
        logits = self.compute(u, v)
        if labels is None:
            return Output(None, logits)
        return Output(F.cross_entropy(logits, labels), logits)


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor


class AsDict(OneInput):
    def forward(self, u: Tensor, v: Tensor) -> dict[str, Tensor]:
        return {"loss": torch.tensor(7.0), "logits": self.compute(u, v)}


class AsTuple(OneInput):
    def forward(self, u: Tensor, v: Tensor) -> tuple[Tensor, str]:
        return self.compute(u, v), "the state"


class OneMapping(OneInput):
    """Its one argument is a mapping."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.compute(batch["u"], batch["v"])


class OnePair(OneInput):
    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return self.compute(*pair)


def made(kind: type[OneInput]) -> OneInput:
    torch.manual_seed(0)
    return kind().double()


def data() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 7, generator=generator, dtype=torch.float64), torch.randint(0, 3, (n,), generator=generator))
        for n in SIZES
    ]


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, :4], x[:, 4:]


def named(x: Tensor) -> dict[str, Tensor]:
    return {"u": x[:, :4], "v": x[:, 4:]}


class Encoding(UserDict[str, Any]):
    """As transformers' BatchEncoding."""


#: Form -> model, and a batch made of (x, y).
FORMS: dict[str, tuple[type[OneInput], Callable[[Tensor, Tensor], Any]]] = {
    "tuple": (Two, lambda x, y: (split(x), y)),
    "lists, as torch's loader collates": (Two, lambda x, y: [list(split(x)), y]),
    "named tuple": (Two, lambda x, y: (namedtuple("Inputs", ["u", "v"])(*split(x)), y)),
    "dict": (Two, lambda x, y: (named(x), y)),
    "dict with labels that the model does not take": (Two, lambda x, y: {**named(x), "labels": y}),
    "encoding": (Labelled, lambda x, y: (Encoding(named(x)), y)),
    "encoding with labels": (Labelled, lambda x, y: Encoding(**named(x), labels=y)),
    "dict in, dict out": (AsDict, lambda x, y: (named(x), y)),
    "tuple out": (AsTuple, lambda x, y: (split(x), y)),
    "one mapping": (OneMapping, lambda x, y: (named(x), y)),
    "one pair": (OnePair, lambda x, y: (split(x), y)),
}

LOSS = F.cross_entropy


def path(model: nn.Module, batches: Any) -> Any:
    end = {name: 2 * value for name, value in model.state_dict().items()}
    found = analysis.linear_path(
        model, model.state_dict(), end, batches, alphas=[0, 0.5, 1], recalibrate=batches, loss_fn=LOSS
    )
    return found.losses, found.accuracies


def plane(model: nn.Module, batches: Any) -> Any:
    names = list(dict(model.named_parameters()))
    points = [{name: f * value for name, value in model.state_dict().items()} for f in (1, 2)]
    other = {name: value + 1 for name, value in model.state_dict().items()}
    surface = analysis.plane(*points, other, names=names)
    return analysis.plane_losses(model, surface, [0, 1], [0.5], batches, recalibrate=False, loss_fn=LOSS).losses


def spectrum(model: nn.Module, batches: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    found = analysis.lanczos_spectrum(model, batches, loss_fn=LOSS, generator=generator, steps=10, probes=2)
    return found.extremes.values, found.rayleigh_quotient


def recalibrated(model: nn.Module, batches: Any) -> Any:
    return list(analysis.recalibrate.recalibrate_(copy.deepcopy(model), batches).buffers())


def signals(model: nn.Module, batches: Any) -> Any:
    batch = next(each(batches))
    return list(analysis.signal(model, batch.inputs, loss_fn=LOSS, targets=batch.targets).values())


#: Call -> what it measures. The model is in training mode, with batch norm.
CALLS: dict[str, Callable[[nn.Module, Any], Any]] = {
    "snip": lambda model, batches: sf.snip(model, LOSS, batches),
    "grasp": lambda model, batches: sf.grasp(model, LOSS, batches),
    "gradient_flow": lambda model, batches: sf.gradient_flow(model, LOSS, batches, training=True),
    "descent": lambda model, batches: analysis.descent(model, LOSS, batches, learning_rate=0.1),
    "signal": signals,
    "hessian": lambda model, batches: analysis.hessian(model, batches, method="products", loss_fn=LOSS),
    "hessian_product": lambda model, batches: analysis.hessian_product(model, batches)(torch.ones(87)),
    "lanczos_spectrum": spectrum,
    "collect_logits": analysis.collect_logits,
    "recalibrate": recalibrated,
    "linear_path": path,
    "plane_losses": plane,
    "synflow": lambda model, batches: sf.synflow_masks(model, 0.5, next(each(batches)).inputs, rounds=3),
    "live": lambda model, batches: sf.live_inputs(
        model, sf.random_masks(model, 0.7, seed=0), example_inputs=next(each(batches)).inputs
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("call", CALLS)
def test_a_batch_of_any_form_is_that_of_the_twin(call: str, form: str) -> None:
    kind, batch = FORMS[form]
    measured = CALLS[call]
    model, twin, pairs = made(kind), made(OneInput), data()
    # The same products of the same numbers.
    torch.testing.assert_close(
        as_tensors(measured(model, [batch(*pair) for pair in pairs])),
        as_tensors(measured(twin, pairs)),
        rtol=1e-12, atol=1e-14, equal_nan=True,
    )  # fmt: skip


def as_tensors(found: Any) -> Any:
    """Numbers in nested containers as float64 tensors."""
    if isinstance(found, Tensor):
        return found.double()
    if isinstance(found, dict):
        return {key: as_tensors(value) for key, value in found.items()}
    if hasattr(found, "__dataclass_fields__"):
        return {key: as_tensors(getattr(found, key)) for key in found.__dataclass_fields__}
    if isinstance(found, tuple | list):
        return [as_tensors(value) for value in found]
    return torch.tensor(float("nan") if found is None else found, dtype=torch.float64)


# --- what the loss is taken of ----------------------------------------------------------------------------------------


def test_the_loss_that_the_model_returns() -> None:
    """``None`` is ``output.loss``; a function of the whole output gets the whole output, as it always did."""
    model, twin, pairs = made(Labelled).eval(), made(OneInput).eval(), data()
    labelled = [{**named(x), "labels": y} for x, y in pairs]
    expected = sf.snip(twin, LOSS, pairs)
    for loss_fn in (None, lambda output, target: output.loss, lambda output, y: F.cross_entropy(output.logits, y)):
        torch.testing.assert_close(sf.snip(model, loss_fn, labelled), expected, rtol=1e-12, atol=0)
    flow = sf.gradient_flow(model, None, labelled)
    assert flow.loss == pytest.approx(sf.gradient_flow(twin, LOSS, pairs).loss, rel=1e-13)
    end = {name: 2 * value for name, value in model.state_dict().items()}
    found = analysis.linear_path(
        model, model.state_dict(), end, labelled, loss_fn=None, alphas=[0.0, 1.0], recalibrate=False
    )
    assert found.losses[0] == pytest.approx(flow.loss, rel=1e-13)
    assert all(accuracy != accuracy for accuracy in found.accuracies)  # NaN: its labels may be shifted


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (torch.tensor([1.0]), 1.0),
        (torch.tensor(1.0), 1.0),
        ({"loss": torch.tensor(9.0), "logits": torch.tensor([1.0])}, 1.0),
        (GoogleOutput(torch.tensor([1.0]), torch.tensor([2.0])), 1.0),
        ((torch.tensor(9.0), torch.tensor([1.0]), torch.tensor([2.0])), 1.0),  # transformers, return_dict=False
        ({"out": torch.tensor([1.0]), "aux": torch.tensor([2.0])}, 1.0),  # torchvision's segmentation
        ((None, torch.tensor([1.0])), 1.0),
    ],
)
def test_the_tensor_among_outputs(output: Any, expected: float) -> None:
    assert float(output_of(output)) == expected


def test_the_loss_among_outputs() -> None:
    loss, logits = torch.tensor(3.0), torch.ones(2, 2)
    for output in (loss, (loss, logits), (logits, loss), {"loss": loss}, Output(loss, logits)):
        assert loss_of(None, output, None) is loss


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (torch.zeros(3), 3),
        (torch.tensor(1.0), None),
        ({"a": torch.tensor(1.0), "b": torch.zeros(4, 2)}, 4),
        ((torch.zeros(5, 2), torch.zeros(5)), 5),  # two targets of five examples
        ([{"boxes": torch.zeros(7, 4)}, {"boxes": torch.zeros(1, 4)}], 2),  # torchvision's detection: one for each
        (["a", "b", "c"], 3),
        (nn.utils.rnn.pack_sequence([torch.zeros(3, 1), torch.zeros(2, 1)]), 2),
        (None, None),
    ],
)
def test_the_number_of_examples(value: Any, size: int | None) -> None:
    assert num_examples(value) == size


def test_a_packed_sequence_is_one_input() -> None:
    packed = nn.utils.rnn.pack_sequence([torch.zeros(3, 1), torch.zeros(2, 1)])
    layer = nn.GRU(1, 2)
    assert torch.equal(forward(layer, packed)[0].data, layer(packed)[0].data)


# --- second derivatives -----------------------------------------------------------------------------------------------


class Explicit(nn.Module):
    """``nn.TransformerEncoderLayer`` (post-norm, ReLU, no dropout) written out."""

    def __init__(self, layer: nn.TransformerEncoderLayer, head: nn.Linear) -> None:
        super().__init__()
        self.layer, self.head = layer, head

    def forward(self, x: Tensor) -> Tensor:
        attention, heads = self.layer.self_attn, self.layer.self_attn.num_heads
        q, k, v = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        share = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        x = self.layer.norm1(x + attention.out_proj((share @ v).transpose(1, 2).flatten(2)))
        x = self.layer.norm2(x + self.layer.linear2(F.relu(self.layer.linear1(x))))
        return self.head(x.flatten(1))


@pytest.mark.parametrize("training", [True, False])
def test_grasp_runs_on_attention(training: bool) -> None:
    """Against scores worked out by hand with explicit attention in float64."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    head = nn.Linear(80, 4)
    model = nn.Sequential(layer, nn.Flatten(), head).train(training)
    x, y = torch.randn(4, 5, 16), torch.randint(4, (4,))
    explicit = copy.deepcopy(Explicit(layer, head)).double()
    parameters = dict(explicit.named_parameters())
    loss = F.cross_entropy(explicit(x.double()), y)
    first = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
    inner = sum((g * g.detach()).sum() for g in first)
    second = torch.autograd.grad(inner, list(parameters.values()))
    expected = {name: p.detach() * h for (name, p), h in zip(parameters.items(), second, strict=True)}
    found = sf.grasp(model, F.cross_entropy, [(x, y)])
    names = {"0.": "layer.", "2.": "head."}
    assert found
    for name, score in found.items():
        twin = expected[names[name[:2]] + name[2:]]
        assert (score - twin).abs().max() <= 1e-4 * twin.abs().max()  # float32 against float64


class Tied(nn.Module):
    """A tied embedding, dropout, attention and a mapping: what a language model brings."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        hidden = self.embed(input_ids)
        hidden = hidden + self.attention(hidden, hidden, hidden, need_weights=False)[0]
        logits = self.head(hidden)
        output = {"logits": logits}
        if labels is not None:
            output["loss"] = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return output


def test_curvature_of_a_language_model_with_tied_weights() -> None:
    """The matrix of products against autograd's own Hessian in float64, and nothing is left behind."""
    torch.manual_seed(0)
    model = Tied().double().train()
    ids = torch.randint(7, (3, 5))
    batches = [{"input_ids": ids, "labels": ids}]
    before = copy.deepcopy(model.state_dict()), torch.get_rng_state(), model.training
    product = analysis.hessian_product(model, batches, loss_fn=None)
    found = torch.stack([product(row) for row in torch.eye(product.size)])
    names = list(dict(model.named_parameters()))
    values = [p.detach().clone() for p in model.parameters()]
    twin = copy.deepcopy(model).eval()

    def loss(*tensors: Tensor) -> Tensor:
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
            output = torch.func.functional_call(twin, dict(zip(names, tensors, strict=True)), (ids, ids))
        return output["loss"]

    blocks = torch.autograd.functional.hessian(loss, tuple(values))
    expected = torch.cat(
        [torch.cat([b.reshape(v.numel(), -1) for b in row], 1) for v, row in zip(values, blocks, strict=True)]
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    scores = sf.snip(model, None, batches)
    assert set(scores) == set(sf.dense_masks(model))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before[0].items())
    assert torch.equal(before[1], torch.get_rng_state())
    assert model.training is before[2]


def test_grasp_of_a_linear_loss_is_zero() -> None:
    scores = sf.grasp(nn.Linear(2, 1), lambda output, target: output.sum(), [(torch.ones(1, 2), torch.zeros(1))])
    assert not scores["weight"].any()


# --- models that refuse float64 ---------------------------------------------------------------------------------------


class Refuses(nn.Module):
    """As the grouped products of mixtures of experts: float32 at most."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.embed, self.inner = nn.Embedding(8, 6), inner

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens)
        if hidden.dtype == torch.float64 and not self.lenient:
            raise RuntimeError("Expected mat_a to be Float32, BFloat16 or Float16 matrix, got Double")
        return self.inner(hidden)

    lenient = False


def refusing() -> Refuses:
    torch.manual_seed(0)
    return Refuses(nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2)))


def test_live_and_synflow_where_float64_is_refused() -> None:
    model, tokens = refusing(), torch.arange(8)[None]
    masks = sf.random_masks(model, 0.8, seed=0)
    lenient = copy.deepcopy(model)
    lenient.lenient = True
    expected = sf.live_inputs(lenient, masks, example_inputs=tokens)
    assert any(not live.all() for live in expected.values())
    with pytest.warns(PrecisionWarning, match=r"Refuses does not run in float64 \(Expected mat_a .*torch.float32"):
        found = sf.live_inputs(model, masks, example_inputs=tokens)
    assert found.keys() == expected.keys()
    assert all(torch.equal(live, expected[name]) for name, live in found.items())
    with pytest.warns(PrecisionWarning):
        sf.initialize_(model, masks, scheme="live", seed=0, example_inputs={"tokens": tokens})
    with pytest.warns(PrecisionWarning):
        cut = sf.synflow_masks(model, 0.5, tokens, rounds=3)
    lenient.load_state_dict(model.state_dict())
    wanted = sf.synflow_masks(lenient, 0.5, tokens, rounds=3)
    assert all(torch.equal(mask, wanted[name]) for name, mask in cut.items())


def test_a_model_that_fails_in_every_dtype_says_its_own_error() -> None:
    model = refusing()
    with pytest.raises(RuntimeError, match="Expected tensor for argument #1 'indices'"):
        sf.live_inputs(model, sf.random_masks(model, 0.5, seed=0), example_inputs=torch.ones(1, 8))


# --- errors -----------------------------------------------------------------------------------------------------------


def generator() -> Iterator[Any]:
    yield from data()


X, Y = torch.randn(4, 7, dtype=torch.float64), torch.zeros(4, dtype=torch.long)
WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "nothing": ([], ValueError, "batches is empty; give at least one (inputs, targets) pair"),
    "a batch without examples": ([(X, Y), (X[:0], Y[:0])], ValueError, "batches[1] has no examples; leave it out"),
    "a dict without examples": ([{"x": X[:0], "labels": Y[:0]}], ValueError, "batches[0] has no examples"),
    "a pair, not a list of pairs": ((X, Y), TypeError, "batches[0] must be a pair (inputs, targets)"),
    "a tensor": (X, TypeError, "batches must be a list of batches, got one Tensor: write [batch]"),
    "no list": (None, TypeError, "batches must be a list of batches, got NoneType: write batches=[(x, y)]"),
    "a dict": ({"x": X}, TypeError, "batches must be a list of batches, got one dict: write [batch]"),
    "three parts": ([(X, X, Y)], TypeError, "got a tuple of 3 parts. Write batches=[(x, y)], or [((u, v), y)]"),
    "inputs alone": ([X], TypeError, "got a Tensor. Write batches=[(x, y)]"),
    "no targets": ([{"x": X}], TypeError, "the batch has no targets for the loss"),
    "no size": ([(None, None)], TypeError, "the number of examples in batches[0] is not known"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("call", ["snip", "grasp", "gradient_flow", "descent", "hessian", "hessian_product"])
def test_a_wrong_batch_says_what_to_type(call: str, case: str) -> None:
    batches, error, words = WRONG[case]
    with pytest.raises(error, match=re.escape(words)):
        CALLS[call](made(OneInput), batches)


def test_a_generator_that_is_used_up() -> None:
    model, batches = made(OneInput), generator()
    sf.gradient_flow(model, LOSS, batches, training=False)
    with pytest.raises(ValueError, match=r"give .* a list where you use it twice: a generator is empty after"):
        sf.gradient_flow(model, LOSS, batches, training=False)
    model.eval()
    torch.testing.assert_close(sf.grasp(model, LOSS, generator()), sf.grasp(model, LOSS, data()))  # goes through twice


@pytest.mark.parametrize(
    ("loss_fn", "error", "words"),
    [
        (
            lambda o, y: F.cross_entropy(o, y).item(),
            TypeError,
            "must return a scalar tensor, got float: leave out .item",
        ),
        (partial(F.cross_entropy, reduction="none"), ValueError, r"one number, got shape (4,): use reduction='mean'"),
        (lambda o, y: F.cross_entropy(o.detach(), y), ValueError, "the loss has no gradient: the model or loss_fn"),
        (None, TypeError, "loss_fn=None stands for the loss that the model returns, and its Tensor has no .loss"),
    ],
)
def test_a_wrong_loss_says_what_to_type(loss_fn: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        sf.snip(made(OneInput), loss_fn, [(X, Y)])


def test_keys_that_the_model_does_not_take() -> None:
    with pytest.raises(TypeError, match=r"Two does not take this batch: missing .* argument: 'v'.* has 'u', 'w'"):
        sf.snip(made(Two), LOSS, [({"u": X[:, :4], "w": X[:, 4:]}, Y)])


def test_a_model_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = OneInput()
        x, y = torch.empty(4, 7), torch.empty(4, dtype=torch.long)
    masks = {"a.weight": torch.ones(6, 4, dtype=torch.bool)}
    for measure in (
        lambda: sf.snip(model, LOSS, [(x, y)]),
        lambda: analysis.collect_logits(model, [(x, y)]),
        lambda: sf.live_inputs(model, masks, example_inputs=x),
    ):
        with pytest.raises(ValueError, match=r"the model is on the meta device.* call model.to_empty\(device='cpu'\)"):
            measure()


def test_masks_of_an_earlier_time_are_refused() -> None:
    model = made(OneInput).eval()
    masks = sf.random_masks(model, 0.5, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sf.Sparsifier(model, optimizer, masks, sf.SET(update_every=1), seed=0)
    for _ in range(3):
        optimizer.zero_grad()
        LOSS(model(X), Y).backward()
        optimizer.step()
    sf.gradient_flow(model, LOSS, [(X, Y)], sparsifier.masks)
    for measure in (
        lambda: sf.gradient_flow(model, LOSS, [(X, Y)], masks),
        lambda: analysis.signal(model, X, masks=masks),
        lambda: analysis.hessian(model, [(X, Y)], masks, method="products"),
        lambda: analysis.lanczos_spectrum(model, [(X, Y)], masks, generator=torch.Generator()),
    ):
        with pytest.raises(ValueError, match=r"sparsifier\.masks"):
            measure()
