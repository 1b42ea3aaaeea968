"""Layers of model libraries: stand-ins always, the libraries' own where they are installed."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import library_layers as library
import sparseflow as sf
from sparseflow.masks.fans import Layout
from sparseflow.masks.select import LAYERS, left_out, maskable, weights

KNOWN = r"of the weights in matrices are in layers I do not know or cannot mask, and stay dense: "


def skewed(shape: torch.Size, units: int, *, seed: int = 0) -> Tensor:
    """A mask whose density grows along the axis of the units, from 0.05 to 0.6."""
    density = torch.linspace(0.05, 0.6, shape[units]).view([-1 if axis == units else 1 for axis in range(len(shape))])
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


def bands(variance: Tensor) -> Tensor:
    """Mean of the units' output variances in four bands of units, from few inputs to many."""
    return torch.stack([part.mean() for part in variance.tensor_split(4)])


# --- what they compute ------------------------------------------------------------------------------------------------


class Wide(library._Experts):
    def __init__(self) -> None:
        super().__init__(experts=3, hidden=256, inner=200)
        self.is_transposed = self.transposed


class WideTransposed(Wide):
    transposed = True


@pytest.mark.parametrize("make", [Wide, WideTransposed])
@pytest.mark.parametrize("scheme", ["sparse", "liu", "dense"])
def test_every_unit_of_every_expert_keeps_the_variance_under_a_skewed_mask(
    make: Callable[[], library._Experts], scheme: str
) -> None:
    """He's 2 with each unit's own fan, in every band; the others follow the density over the layer's, or over 1."""
    experts, units = make(), 2 if make is WideTransposed else 1
    masks = {n: skewed(p.shape, units, seed=i) for i, (n, p) in enumerate(experts.named_parameters())}
    sf.initialize_(experts, masks, scheme=scheme, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, compute in (("gate_up_proj", experts.up), ("down_proj", experts.down)):
        x = torch.randn(3, 2000, 256 if name == "gate_up_proj" else 200, generator=generator)
        density = masks[name].float().mean(3 - units)  # of each unit of each expert
        share = {"sparse": torch.ones_like(density), "liu": density / masks[name].float().mean(), "dense": density}
        for expert, variance in enumerate(compute(x).var(1).detach()):
            # 50 units or more a band, 10 inputs or more each: their variances spread by sqrt(2 / 10 / 50) = 6 %.
            torch.testing.assert_close(bands(variance), bands(2 * share[scheme][expert]), rtol=0.3, atol=0)


def test_conv1d_keeps_the_variance_under_a_skewed_mask() -> None:
    layer = library.Conv1D(200, 400)
    masks = {"weight": skewed(layer.weight.shape, 1)}
    sf.initialize_(layer, masks, seed=0)
    x = torch.randn(4000, 200, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(bands(layer(x).var(0).detach()), torch.full((4,), 2.0), rtol=0.2, atol=0)


@pytest.mark.parametrize("make", [library.MixtralExperts, library.Llama4TextExperts, library.GptOssExperts])
def test_an_experts_unit_is_what_one_output_of_it_reads(make: Callable[[], library._Experts]) -> None:
    """A unit's row of the mask cut away leaves just that output of that expert zero."""
    experts = make()
    transposed = maskable(experts)["down_proj"].layout.transposed  # type: ignore[union-attr]
    mask = torch.ones_like(experts.down_proj, dtype=torch.bool)
    mask.mT[1, 4] = False if transposed else mask.mT[1, 4]
    mask[1, 4] = mask[1, 4] if transposed else False
    sf.initialize_(experts, {"down_proj": mask}, seed=0)
    outputs = experts.down(torch.rand(3, 5, 12) + 1)
    assert (outputs == 0).all(1).nonzero().tolist() == [[1, 4]]


@pytest.mark.parametrize("allocation", ["uniform", "er", "erk"])
@pytest.mark.parametrize("make", [sf.random_masks, functools.partial(sf.magnitude_masks, seed=0)])
def test_to_an_allocation_each_expert_is_a_layer(make: Any, allocation: str) -> None:
    """The same shares as three linear layers get in its place, an override among them."""
    stack = nn.ModuleDict({"experts": library.MixtralExperts(), "head": nn.Linear(16, 40)})
    linears = nn.ModuleDict(
        {f"up{e}": nn.Linear(16, 24) for e in range(3)} | {f"down{e}": nn.Linear(12, 16) for e in range(3)}
    )
    linears["head"] = nn.Linear(16, 40)
    options = {"allocation": allocation} | ({"seed": 0} if make is sf.random_masks else {})
    for up, ups in ({}, {}), ({"experts.gate_up_proj": 0.5}, {f"up{e}.weight": 0.5 for e in range(3)}):
        found = make(stack, 0.8, overrides=up, **options)
        expected = make(linears, 0.8, overrides=ups, **options)
        for name, first in (
            ("experts.gate_up_proj", "up0.weight"),
            ("experts.down_proj", "down0.weight"),
            ("head.weight",) * 2,
        ):
            assert abs(sf.sparsity_of({name: found[name]}) - sf.sparsity_of({first: expected[first]})) < 3 / 192


def test_experts_of_which_nothing_says_the_order_are_unknown() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w1, self.w2 = nn.Parameter(torch.randn(3, 4, 4)), nn.Parameter(torch.randn(3, 4, 4))

    model = nn.Sequential(Experts(), nn.Linear(4, 4))
    with pytest.warns(UserWarning, match=rf"0.86 {KNOWN}0.w1 and 1 more \(unknown layer: Experts\)"):
        assert list(sf.random_masks(model, 0.5, seed=0)) == ["1.weight"]


def test_the_biases_of_masked_experts_become_zero_the_others_stay() -> None:
    experts = library.GptOssExperts()
    masks = sf.random_masks(experts, 0.5, seed=0, exclude=["down_proj"])
    sf.initialize_(experts, masks, seed=0)
    assert not experts.gate_up_proj_bias.any()
    assert (experts.down_proj_bias == 0.5).all()


# --- live inputs ------------------------------------------------------------------------------------------------------


class Mixture(nn.Module):
    """A linear layer, then all experts on all that it gives."""

    def __init__(self, experts: nn.Module) -> None:
        super().__init__()
        self.before, self.experts = nn.Linear(6, 16), experts

    def forward(self, x: Tensor) -> Tensor:
        return self.experts(x=self.before(x).expand(3, -1, -1)).sum(0)


@pytest.mark.parametrize("make", [library.MixtralExperts, library.Llama4TextExperts, library.GptOssExperts])
def test_live_inputs_of_experts_are_those_that_a_path_reaches(make: Callable[[], library._Experts]) -> None:
    """By the masks alone: an inner unit is live if its gate and its up are; in GPT-OSS, with up + 1, if its gate is."""
    model = Mixture(make())
    masks = {n: torch.rand(w.parameter.shape) < 0.1 for n, w in maskable(model).items()}
    masks["experts.down_proj"] = torch.ones_like(masks["experts.down_proj"])
    first, down = masks["experts.gate_up_proj"], masks["experts.down_proj"]
    if model.experts.transposed:
        first = first.mT
    reached = masks["before.weight"].any(1)  # of the experts' 16 inputs
    units = (first & reached).any(2)
    gate, up = (units[:, ::2], units[:, 1::2]) if make is library.GptOssExperts else units.chunk(2, 1)
    expected = gate if make is library.GptOssExperts else gate & up
    assert not expected.all()
    assert expected.any(1).all()
    found = sf.live_inputs(model, masks, example_inputs=torch.ones(1, 2, 6))
    assert torch.equal(
        found["experts.down_proj"].expand(down.shape).any(2 if model.experts.transposed else 1), expected
    )
    inputs = found["experts.gate_up_proj"].any(2 if model.experts.transposed else 1)
    assert not inputs[:, ~reached].any()


def test_experts_that_the_example_misses_count_every_input() -> None:
    class First(library.MixtralExperts):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[0]

    experts = First()
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in experts.named_parameters()}
    masks["gate_up_proj"][:, 0] = False
    found = sf.live_inputs(experts, masks, example_inputs=torch.ones(3, 2, 16))["down_proj"]
    assert found.squeeze(1).tolist() == [[False] + [True] * 11, [True] * 12, [True] * 12]


def test_live_inputs_of_conv1d() -> None:
    model = nn.Sequential(library.Conv1D(4, 6), nn.ReLU(), library.Conv1D(6, 3))
    masks = {"0.weight": torch.ones(4, 6, dtype=torch.bool), "2.weight": torch.ones(6, 3, dtype=torch.bool)}
    masks["0.weight"][:, 2] = False
    found = sf.live_inputs(model, masks, example_inputs=torch.ones(1, 4))["2.weight"]
    assert found.flatten().tolist() == [True, True, False, True, True, True]


@pytest.mark.parametrize("make", [library.MixtralExperts, library.GptOssExperts])
def test_the_live_scheme_scales_down_by_what_reaches_it(make: Callable[[], library._Experts]) -> None:
    """Its variance is He's over live inputs: the ratio to the sparse scheme is that of the two fans."""
    masks = {n: torch.rand(p.shape) < 0.1 for n, p in make().named_parameters() if "bias" not in n}
    masks["down_proj"] = torch.rand(masks["down_proj"].shape) < 0.5
    live, sparse = make(), make()
    sf.initialize_(live, masks, scheme="live", seed=0, example_inputs=torch.ones(3, 2, 16))
    sf.initialize_(sparse, masks, scheme="sparse", seed=0)
    reached = sf.live_inputs(sparse, masks, example_inputs=torch.ones(3, 2, 16))["down_proj"] & masks["down_proj"]
    axis = 1 if live.transposed else 2
    fans = [m.sum(axis, keepdim=True).double() for m in (masks["down_proj"], reached)]
    ratio = (fans[0] / fans[1].where(fans[1] > 0, fans[0])).sqrt()
    assert (ratio > 1).any()
    torch.testing.assert_close(
        live.down_proj.double(), sparse.down_proj.double() * ratio.nan_to_num(), rtol=1e-6, atol=0
    )


# --- what cannot be masked --------------------------------------------------------------------------------------------


def int8(layer: nn.Linear) -> nn.Linear:
    layer.weight = nn.Parameter(torch.zeros(8, 8, dtype=torch.int8), requires_grad=False)
    return layer


def float8(layer: nn.Linear) -> nn.Linear:
    layer.weight = nn.Parameter(layer.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    return layer


def in_a_buffer(layer: nn.Linear) -> nn.Linear:
    weight = layer.weight.detach()
    del layer.weight
    layer.register_buffer("weight", weight)
    return layer


def packed(layer: nn.Linear) -> nn.Module:
    """As GPTQ, AWQ and BitNet keep it: no parameter at all."""

    class PackedLinear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("qweight", torch.zeros(8, 8, dtype=torch.int32))

    return PackedLinear()


def old(function: Callable[..., nn.Module]) -> Callable[[nn.Module], nn.Module]:
    def apply(layer: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own word that there is a newer one
            return function(layer)

    return apply


class Adapted(nn.Module):
    """A frozen layer plus a low-rank one, as people write it themselves."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer, self.lora_A, self.lora_B = layer, nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)
        nn.init.zeros_(self.lora_B.weight)


BLOCKED: dict[str, tuple[Callable[[nn.Linear], nn.Module], str]] = {
    "pruned": (
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        r"the weight of Linear is pruned by torch.nn.utils.prune; sparseflow.remove_pruning_\(model\) makes",
    ),
    "weight norm": (parametrizations.weight_norm, "the weight of Linear is computed from it by WeightNorm; see torch"),
    "spectral norm": (parametrizations.spectral_norm, "the weight of Linear is computed from it by SpectralNorm"),
    "orthogonal": (parametrizations.orthogonal, "the weight of Linear is computed from it by Orthogonal"),
    "old weight norm": (old(nn.utils.weight_norm), "the weight of Linear is computed from it by WeightNorm"),
    "old spectral norm": (old(nn.utils.spectral_norm), "the weight of Linear is computed from it by SpectralNorm"),
    "int8": (int8, "quantised: stored as int8"),
    "float8": (float8, "quantised: stored as float8_e4m3fn"),
    "packed": (packed, "quantised: PackedLinear stores int32"),
    "noisy": (lambda _: library.NoisyLinear(8, 8), "NoisyLinear computes the matrix that it uses from it"),
    "binary": (lambda _: library.BinaryLinear(8, 8), "BinaryLinear computes the matrix that it uses from it"),
    "buffer": (in_a_buffer, "a buffer, not a parameter"),
    "adapter": (Adapted, r"adapters are opt-in: lora_A.*adapters are opt-in: lora_B"),
    "standardised": (lambda _: library.StdConv2d(4, 16, 1), "StdConv2d computes the matrix that it uses from it, and"),
    "depthwise": (lambda _: library.StdConv2d(8, 8, 3, groups=8), "a zero does not stay zero"),
    "centred": (lambda _: library.CentredLinear(8, 8), "CentredLinear computes the matrix that it uses from it"),
}


@pytest.mark.parametrize("name", BLOCKED)
def test_what_cannot_be_masked_is_named_with_its_reason(name: str) -> None:
    make, reason = BLOCKED[name]
    model = nn.Sequential(make(nn.Linear(8, 8)), nn.Linear(8, 8))
    with pytest.warns(UserWarning, match=rf"^0.\d\d {KNOWN}.*{reason}") as caught:
        masks = sf.random_masks(model, 0.5, seed=0)
    assert len(caught) == 1
    assert set(masks) <= {"1.weight", "0.layer.weight"}
    with pytest.warns(UserWarning, match=KNOWN) as again:
        assert sf.sparsity_of(masks, model) == sf.sparsity_of(masks) == 0.5
    assert str(again[0].message) == str(caught[0].message) == sf.sparsity_report(model, masks).left_out
    assert str(caught[0].message)[:40] in str(sf.sparsity_report(model, masks))
    assert sf.random_masks(model, 0.5, seed=0, exclude=["0*"]).keys() == {"1.weight"}  # meant, so nothing is said


def test_nothing_but_what_cannot_be_masked_is_an_error_with_the_reason() -> None:
    with pytest.raises(
        ValueError, match=rf"no prunable weight under these rules.*1.00 {KNOWN}weight_orig \(the weight of"
    ):
        sf.dense_masks(prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5))


def test_including_what_cannot_be_masked_is_an_error_with_the_reason() -> None:
    model = nn.Sequential(prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5), nn.Linear(4, 4))
    with pytest.raises(
        ValueError, match=r"'0.\*' in include= .*0.weight_orig: the weight of Linear is pruned by torch"
    ):
        sf.random_masks(model, 0.5, seed=0, include=["0.*"])


def test_a_weight_that_cannot_be_masked_in_one_place_is_masked_in_none() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), library.StdConv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    model[0].weight = model[1].weight
    with pytest.warns(UserWarning, match=r"0.50 .*0.weight \(StdConv2d computes .*, shared by 2 layers\)"):
        assert list(sf.random_masks(model, 0.5, seed=0)) == ["2.weight"]


def test_norms_of_other_libraries_are_norms_and_normalised_layers_are_not() -> None:
    class HeadsRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 8))

    class NormLinear(HeadsRMSNorm):
        pass

    assert weights(HeadsRMSNorm())[0].reason == "norms, biases and scales are never masked"
    assert weights(NormLinear())[0].reason == "unknown layer: NormLinear"


@pytest.mark.parametrize("make", [library.SameConv2d, library.EqualLinear])
def test_a_forward_of_its_own_that_keeps_zeros_is_masked(make: Any) -> None:
    layer = make(6, 8) if make is library.EqualLinear else make(6, 8, 3, groups=2, stride=2)
    assert list(sf.prunable(layer)) == ["weight"]


def test_a_forward_that_cannot_be_tried_is_taken_for_its_base() -> None:
    class Extra(nn.Linear):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x) * scale

    assert list(sf.prunable(Extra(3, 3))) == ["weight"]


def test_trying_a_layer_out_leaves_no_trace() -> None:
    class Counting(library.StdConv2d):
        def __init__(self) -> None:
            super().__init__(4, 4, 3)
            self.noise = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            torch.rand(3)
            return super().forward(self.noise(x))

    layer, calls = Counting(), []
    layer.register_forward_hook(lambda *_: calls.append(1))
    before, random = copy.deepcopy(layer.state_dict()), torch.get_rng_state()
    assert [weight.prunable for weight in weights(layer)] == [False, False]
    assert torch.equal(torch.get_rng_state(), random)
    assert layer.training
    assert not calls
    assert layer.weight.grad is None
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_adapters_are_masked_when_included() -> None:
    model = nn.Sequential(Adapted(nn.Linear(8, 8)))
    found = sf.random_masks(model, 0.5, seed=0, include=["*lora_*"])
    assert list(found) == ["0.layer.weight", "0.lora_A.weight", "0.lora_B.weight"]
    with pytest.warns(
        UserWarning, match=r"initialize_ left values that look set on purpose: 0.lora_B.weight \(all zeros\)"
    ):
        sf.initialize_(model, found, seed=0)
    assert not model[0].lora_B.weight.any()


def test_layers_of_peft_and_what_it_trains_whole() -> None:
    model = nn.ModuleList([library.LoraLinear(nn.Linear(8, 8)), library.ModulesToSaveWrapper(nn.Linear(8, 8))])
    said = r"0.base_layer.weight \(opt-in: LoraLinear of peft uses it together with an adapter\); .*lora_A.*lora_B.*; "
    copied = r"1.original_module.weight \(opt-in: the copy that ModulesToSaveWrapper of peft keeps of what is trained\)"
    with pytest.warns(UserWarning, match=said + copied):
        assert list(sf.random_masks(model, 0.5, seed=0)) == ["1.modules_to_save.default.weight"]
    assert len(sf.prunable(model, include=["*"])) == 5


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("cls_token", torch.ones(4, 8)),
        ("pos_embedding", torch.ones(30, 8)),
        ("class_token", torch.ones(1, 1, 8)),
        ("gamma", torch.ones(8, 1, 1)),
        ("relative_position_bias_table", torch.ones(30, 8)),
        ("mean", torch.ones(1, 30, 8)),
        ("A_log", torch.ones(30, 8)),
    ],
)
def test_what_is_added_or_looked_up_is_no_matrix(name: str, parameter: Tensor) -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    model[0].register_module("other", nn.ReLU())
    model[0].other.register_parameter(name, nn.Parameter(parameter))
    assert list(sf.random_masks(model, 0.5, seed=0)) == ["0.weight"]  # warnings are errors here


def test_a_small_share_is_not_worth_a_warning() -> None:
    model = nn.Sequential(nn.Linear(100, 100))
    model[0].register_module("other", nn.ReLU())
    model[0].other.register_parameter("matrix", nn.Parameter(torch.ones(9, 11)))  # 99 of 10,099
    assert left_out(weights(model)) == ""
    model[0].other.matrix = nn.Parameter(torch.ones(10, 11))  # 110 of 10,110
    assert left_out(weights(model)).startswith("0.01 of the weights in matrices are in layers I do not know")


# --- the meta device --------------------------------------------------------------------------------------------------


def test_a_model_without_values_has_masks_and_a_report() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 8), library.StdConv2d(4, 8, 1))
    with pytest.warns(UserWarning, match="StdConv2d computes the matrix"):
        masks = sf.random_masks(model, 0.5, seed=0)
    twin = nn.Linear(8, 8)
    assert torch.equal(masks["0.weight"], sf.random_masks(nn.Sequential(twin), 0.5, seed=0)["0.weight"])
    assert sf.sparsity_report(model, masks).totals.active == 32
    assert all(mask.all() for mask in sf.dense_masks(model[0]).values())
    rows = {row.name: row for row in sf.sparsity_report(model, {"0.weight": masks["0.weight"].to("meta")}).rows}
    assert rows["0.weight"].reason == "its mask has no values (meta)"


@pytest.mark.parametrize(
    "write",
    [
        lambda model, masks: sf.initialize_(model, masks, seed=0),
        lambda model, masks: sf.apply_masks_(model, masks),
        lambda model, masks: sf.magnitude_masks(model, 0.5),
    ],
)
def test_values_that_are_not_there_are_an_error(write: Callable[[nn.Module, sf.Masks], object]) -> None:
    model = nn.Linear(4, 4, device="meta")
    with pytest.raises(
        ValueError, match=r"'weight' is on the meta device and has no values. Give the model memory first"
    ):
        write(model, sf.random_masks(model, 0.5, seed=0))


# --- a row of the user's own ------------------------------------------------------------------------------------------


@pytest.fixture
def _restored_layers() -> Iterator[None]:
    saved = dict(LAYERS)
    yield
    LAYERS.clear()
    LAYERS.update(saved)


@pytest.mark.usefixtures("_restored_layers")
def test_the_row_of_the_nearest_base_class_counts() -> None:
    class Mine(nn.Linear):
        pass

    LAYERS["*.Mine"] = lambda module: {"weight": Layout(blocks=2)}
    assert maskable(Mine(4, 4))["weight"].layout == Layout(blocks=2)
    LAYERS[Mine] = lambda module: {"weight": Layout(transposed=True)}
    assert maskable(Mine(4, 4))["weight"].layout == Layout(transposed=True)


# --- the libraries' own -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformers() -> Any:
    return pytest.importorskip("transformers")


TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
#: Model -> config, and the names of what its layers are stacked in.
EXPERTS: dict[str, dict[str, Any]] = {
    "Mixtral": {"num_local_experts": 4},
    "Qwen3Moe": {"num_experts": 4, "moe_intermediate_size": 24},
    "GptOss": {"num_local_experts": 4},
    "Olmoe": {"num_experts": 4},
}


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_of_transformers(transformers: Any, name: str) -> None:
    """Every matrix but the embedding has a mask, and the inputs of its layout are as many as the model's own sizes."""
    config = getattr(transformers, f"{name}Config")(**TINY, **HEADS, **EXPERTS[name])
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    masks = sf.random_masks(model, 0.9, seed=0)
    linear = sum(p.numel() for n, p in model.named_parameters() if p.dim() > 1 and not ("embed" in n or "bias" in n))
    assert sum(mask.numel() for mask in masks.values()) == linear
    experts = next(module for module in model.modules() if type(module).__name__.endswith("Experts"))
    for own, weight in maskable(experts).items():
        assert weight.layout == Layout(stacked=True, transposed=name == "GptOss"), own
        inputs = weight.parameter.shape[1 if weight.layout.transposed else 2]
        assert inputs == (32 if own == "gate_up_proj" else experts.down_proj.numel() // 4 // 32)


def test_experts_of_transformers_train_sparse_from_a_live_start(transformers: Any) -> None:
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**TINY, **HEADS, num_local_experts=4))
    masks, tokens = sf.random_masks(model, 0.9, seed=0), torch.randint(64, (2, 8))
    with pytest.warns(UserWarning, match="MixtralForCausalLM does not run in float64"):
        sf.initialize_(model, masks, scheme="live", seed=0, example_inputs=tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sparsifier = sf.Sparsifier(model, optimizer, masks, sf.RigL(update_every=2, total_steps=8), seed=0)
    for _ in range(8):
        optimizer.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
    sparsifier.check()
    assert any(not torch.equal(mask, masks[name]) for name, mask in sparsifier.masks.items() if "experts" in name)


def test_gpt2_of_transformers(transformers: Any) -> None:
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=64, n_positions=32)
    model = transformers.GPT2LMHeadModel(config)
    masks = sf.random_masks(model, 0.9, seed=0)
    assert [name.split(".", 3)[-1] for name in masks] == [
        *("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    ]
    assert {maskable(model)[name].layout for name in masks} == {Layout(transposed=True)}


def test_mamba_of_transformers_keeps_its_step_sizes(transformers: Any) -> None:
    model = transformers.MambaForCausalLM(transformers.MambaConfig(**TINY, state_size=8))
    bias = model.backbone.layers[0].mixer.dt_proj.bias
    before = bias.clone()
    with pytest.warns(UserWarning, match=r"look set on purpose: .*dt_proj.bias.*\(biases of size 1 or more\)"):
        sf.initialize_(model, sf.random_masks(model, 0.5, seed=0), seed=0)
    assert torch.equal(bias, before)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft reads what transformers renamed
def test_an_adapter_of_peft(transformers: Any) -> None:
    peft = pytest.importorskip("peft")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY, **HEADS))
    model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], r=4))
    with pytest.warns(
        UserWarning, match=r"q_proj.base_layer.weight and 1 more \(opt-in: Linear of peft uses it together with"
    ):
        masks = sf.random_masks(model, 0.5, seed=0)
    assert not any("q_proj" in name for name in masks)


@pytest.mark.parametrize("name", ["StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame", "Conv2dSame"])
def test_convolutions_of_timm(name: str) -> None:
    layers = pytest.importorskip("timm.layers")
    layer = getattr(layers, name)(16, 32, 3)
    assert weights(layer)[0].prunable == (name == "Conv2dSame")


def test_eight_bits_of_torch_and_torchao() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    quantization = pytest.importorskip("torchao.quantization")
    quantization.quantize_(model[0], quantization.Int8WeightOnlyConfig())
    with pytest.warns(UserWarning, match=rf"0.50 {KNOWN}0.weight \((its numbers are inside a|quantised)"):
        sf.random_masks(model, 0.5, seed=0)
