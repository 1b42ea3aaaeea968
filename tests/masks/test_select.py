"""Which weights may be sparse: a table by hand for every layer type, and every rule of the selection."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from sparseflow.masks.fans import PLAIN, Layout
from sparseflow.masks.select import LAYERS, maskable, prunable, unwrap, weights

#: Layer -> the weights of it that multiply activations, with the layout of each.
PRUNABLE: dict[str, tuple[nn.Module, dict[str, Layout]]] = {
    "linear": (nn.Linear(4, 3), {"weight": PLAIN}),
    "bilinear": (nn.Bilinear(4, 3, 2), {"weight": PLAIN}),
    "conv1d": (nn.Conv1d(4, 3, 2), {"weight": PLAIN}),
    "conv2d": (nn.Conv2d(4, 3, 2), {"weight": PLAIN}),
    "conv3d": (nn.Conv3d(4, 3, 2), {"weight": PLAIN}),
    "transposed1d": (nn.ConvTranspose1d(4, 3, 2), {"weight": Layout(transposed=True)}),
    "transposed2d": (nn.ConvTranspose2d(4, 3, 2), {"weight": Layout(transposed=True)}),
    "transposed3d": (nn.ConvTranspose3d(4, 3, 2), {"weight": Layout(transposed=True)}),
    "grouped": (nn.Conv2d(4, 6, 2, groups=2), {"weight": Layout(blocks=2)}),
    "depthwise": (nn.Conv1d(4, 8, 2, groups=4), {"weight": Layout(blocks=4)}),
    "grouped transposed": (nn.ConvTranspose2d(4, 6, 2, groups=2), {"weight": Layout(transposed=True, blocks=2)}),
    "attention": (nn.MultiheadAttention(4, 2), {"in_proj_weight": Layout(blocks=3), "out_proj.weight": PLAIN}),
    "attention with own sizes": (
        nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True),
        {"q_proj_weight": PLAIN, "k_proj_weight": PLAIN, "v_proj_weight": PLAIN, "out_proj.weight": PLAIN},
    ),
    "rnn": (nn.RNN(4, 3), {"weight_ih_l0": PLAIN, "weight_hh_l0": PLAIN}),
    "lstm": (
        nn.LSTM(4, 3, num_layers=2),
        {f"weight_{kind}_l{i}": Layout(blocks=4) for i in (0, 1) for kind in ("ih", "hh")},
    ),
    "bidirectional gru": (
        nn.GRU(4, 3, bidirectional=True),
        {f"weight_{kind}_l0{way}": Layout(blocks=3) for way in ("", "_reverse") for kind in ("ih", "hh")},
    ),
    "lstm with projection": (
        nn.LSTM(4, 3, proj_size=2, bidirectional=True),
        {
            f"weight_{kind}_l0{way}": PLAIN if kind == "hr" else Layout(blocks=4)
            for way in ("", "_reverse")
            for kind in ("ih", "hh", "hr")
        },
    ),
    "rnn cell": (nn.RNNCell(4, 3), {"weight_ih": PLAIN, "weight_hh": PLAIN}),
    "lstm cell": (nn.LSTMCell(4, 3), {"weight_ih": Layout(blocks=4), "weight_hh": Layout(blocks=4)}),
    "gru cell": (nn.GRUCell(4, 3), {"weight_ih": Layout(blocks=3), "weight_hh": Layout(blocks=3)}),
    "encoder layer": (
        nn.TransformerEncoderLayer(4, 2, dim_feedforward=3),
        {
            "self_attn.in_proj_weight": Layout(blocks=3),
            "self_attn.out_proj.weight": PLAIN,
            "linear1.weight": PLAIN,
            "linear2.weight": PLAIN,
        },
    ),
}


@pytest.mark.parametrize("name", PRUNABLE)
def test_prunable_is_what_multiplies_activations(name: str) -> None:
    model, expected = PRUNABLE[name]
    found = prunable(model)
    assert {n: weight.layout for n, weight in found.items()} == expected
    parameters = dict(model.named_parameters())
    for n, weight in found.items():
        assert weight.parameter is parameters[n]
        assert weight.parameter is dict(weight.module.named_parameters(recurse=False))[n.split(".")[-1]]


@pytest.mark.parametrize("name", PRUNABLE)
def test_every_parameter_is_listed_once_in_order_with_a_reason(name: str) -> None:
    model, expected = PRUNABLE[name]
    found = weights(model)
    assert [weight.name for weight in found] == [n for n, _ in model.named_parameters()]
    for weight in found:
        if weight.name in expected:
            assert weight.prunable
            assert weight.reason == type(weight.module).__name__
        else:  # the biases, bias_k and bias_v (three axes) and norms of the models above
            assert (weight.prunable, weight.layout) == (False, None)
            assert weight.reason == "norms, biases and scales are never masked"


NORMS = [
    nn.BatchNorm1d(4),
    nn.BatchNorm2d(4),
    nn.SyncBatchNorm(4),
    nn.LayerNorm(4),
    nn.LayerNorm((4, 4)),
    nn.RMSNorm((4, 4)),
    nn.GroupNorm(2, 4),
    nn.InstanceNorm2d(4, affine=True),
    nn.PReLU(4),
]


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: str(norm).split("(")[0])
def test_norms_are_never_prunable(norm: nn.Module) -> None:
    assert {weight.reason for weight in weights(norm)} == {"norms, biases and scales are never masked"}
    with pytest.raises(ValueError, match=f"{type(norm).__name__} has no prunable weight under these rules. Known lay"):
        prunable(norm)


def test_an_unknown_layer_says_so_and_cannot_be_included() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.ones(2, 2))

    model = nn.Sequential(Scale(), nn.Linear(2, 2))
    assert next(weight.reason for weight in weights(model)) == "unknown layer: Scale"
    assert list(maskable(model)) == ["1.weight"]
    with pytest.raises(ValueError, match=r"'0.matrix' in include= or exclude= matches no parameter, or includes none"):
        prunable(model, include=["0.matrix"])
    with pytest.raises(ValueError, match="LayerNorm in include= or exclude= matches no parameter"):
        prunable(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), include=[nn.LayerNorm])


# --- rules ------------------------------------------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Conv1d(1, 2, 3))
        self.norm = nn.LayerNorm(2)
        self.head = nn.Linear(2, 3)


def reason(model: nn.Module, name: str, **rules: object) -> str:
    return {weight.name: weight.reason for weight in weights(model, **rules)}[name]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, ["body.0.weight", "body.2.weight", "head.weight"]),
        ({"exclude": ["head"]}, ["body.0.weight", "body.2.weight"]),
        ({"exclude": ["head.weight"]}, ["body.0.weight", "body.2.weight"]),
        ({"exclude": ["body.*"]}, ["head.weight"]),
        ({"exclude": [nn.Linear]}, ["body.2.weight"]),
        ({"exclude": [nn.Linear, "body.2"], "include": ["body.0"]}, ["body.0.weight"]),  # include wins
        ({"include": [nn.Embedding]}, ["embed.weight", "body.0.weight", "body.2.weight", "head.weight"]),
        ({"include": ["embed*"], "exclude": ["*.?.weight"]}, ["embed.weight", "head.weight"]),
        ({"first_layer_dense": True}, ["body.2.weight", "head.weight"]),
        ({"first_layer_dense": True, "exclude": ["body.0"]}, ["head.weight"]),
    ],
)
def test_rules(rules: dict[str, object], expected: list[str]) -> None:
    assert list(prunable(Small(), **rules)) == expected  # type: ignore[arg-type]


def test_reasons() -> None:
    model = Small()
    assert reason(model, "embed.weight") == "embeddings are opt-in: Embedding"
    assert reason(model, "embed.weight", include=[nn.Embedding]) == "included by Embedding"
    assert reason(model, "head.weight", exclude=["he*"]) == "excluded by 'he*'"
    assert reason(model, "body.0.weight", first_layer_dense=True) == "first layer"


@pytest.mark.parametrize("rules", [{"exclude": ["tail"]}, {"include": ["tail.*"]}, {"exclude": [nn.LSTM]}])
def test_a_rule_that_matches_nothing_is_an_error(rules: dict[str, list[object]]) -> None:
    with pytest.raises(ValueError, match=r"in include= or exclude= matches no parameter.* Names: embed.weight, body.0"):
        weights(Small(), **rules)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["*", nn.Linear])
@pytest.mark.parametrize("name", ["include", "exclude"])
def test_a_rule_without_its_list_is_an_error(name: str, rule: object) -> None:
    with pytest.raises(TypeError, match=rf"{name}= takes a list of rules, got .* alone. Write {name}=\[...\] around"):
        weights(Small(), **{name: rule})  # type: ignore[arg-type]


def test_no_rule_may_leave_nothing() -> None:
    with pytest.raises(ValueError, match=r"Sequential has no prunable weight under these rules. Known layers: Linear"):
        prunable(nn.Sequential(nn.Linear(2, 2)), exclude=["*"])


# --- tied weights, lazy modules, wrappers -----------------------------------------------------------------------------


def test_a_tied_weight_counts_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    found = prunable(model)
    assert list(found) == ["0.weight"]
    assert found["0.weight"].reason == "Linear, shared by 2 layers"
    assert prunable(model, include=["2.weight"])["0.weight"].reason == "included by '2.weight'"  # by either name
    with pytest.raises(ValueError, match="no prunable weight"):
        prunable(model, exclude=["2.*"])


@pytest.mark.parametrize("embedding_first", [True, False])
def test_a_weight_tied_to_an_embedding_is_dense_unless_included(embedding_first: bool) -> None:
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7))
    if not embedding_first:
        model = nn.Sequential(model[2], model[1], model[0])
    model[2].weight = model[0].weight
    assert list(prunable(model)) == ["1.weight"]
    assert reason(model, "0.weight") == "embeddings are opt-in: Embedding, shared by 2 layers"
    assert list(prunable(model, include=[nn.Embedding])) == ["0.weight", "1.weight"]


def test_a_module_used_twice_counts_once() -> None:
    layer = nn.Linear(4, 4)
    assert list(prunable(nn.Sequential(layer, nn.ReLU(), layer))) == ["0.weight"]


def test_a_lazy_module_is_an_error() -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(ValueError, match=r"'0.weight' has no shape yet. Run one batch through the model before making"):
        weights(model)
    model(torch.zeros(1, 2))
    assert list(prunable(model)) == ["0.weight"]


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


@pytest.mark.parametrize(
    "wrap",
    [
        compiled,
        nn.DataParallel,
        lambda model: compiled(nn.DataParallel(model)),
        lambda model: nn.DataParallel(compiled(model)),
    ],
    ids=["compiled", "parallel", "both", "both, the other way"],
)
def test_names_have_no_prefix_of_a_wrapper(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = wrap(Small())
    assert isinstance(unwrap(model), Small)
    assert list(prunable(model)) == ["body.0.weight", "body.2.weight", "head.weight"]
    assert list(prunable(model, exclude=["head"])) == ["body.0.weight", "body.2.weight"]


def test_a_parametrized_weight_is_left_alone() -> None:
    """Its parameter is an argument of a function, not what multiplies activations."""
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), nn.Linear(3, 3))
    with pytest.warns(UserWarning, match=r"0.50 of the weights in matrices are in layers I do not know or cannot mask"):
        assert list(prunable(model)) == ["1.weight"]


# --- a layer class of the user ----------------------------------------------------------------------------------------


@pytest.fixture
def _restored_layers() -> Iterator[None]:
    saved = dict(LAYERS)
    yield
    LAYERS.clear()
    LAYERS.update(saved)


class Mixer(nn.Module):
    """Two stacked matrices under a name of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.ones(4, 3))
        self.shift = nn.Parameter(torch.zeros(4))


class Wider(Mixer):
    pass


@pytest.mark.usefixtures("_restored_layers")
def test_a_registered_layer_and_its_subclasses_are_prunable() -> None:
    layout = Layout(blocks=2)
    LAYERS[Mixer] = lambda module: {"mix": layout}
    model = nn.Sequential(Mixer(), Wider())
    found = prunable(model)
    assert {name: weight.layout for name, weight in found.items()} == {"0.mix": layout, "1.mix": layout}


def test_a_subclass_of_a_known_layer_is_known() -> None:
    class MyLinear(nn.Linear):
        pass

    assert list(prunable(MyLinear(2, 2))) == ["weight"]
