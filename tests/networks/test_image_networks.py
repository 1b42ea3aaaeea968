"""The ImageNet networks against the protocol's numbers, forward passes written out, and the laws of their start."""

from __future__ import annotations

import inspect
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.analysis.closed_form.chain import closed_form_refusal
from sparseflow.masks.allocation import ALLOCATIONS, erk
from sparseflow.networks import (
    NETWORKS,
    ResidualBlock,
    build_network,
    channels,
    draw_sparse_,
    network_masks,
    networks_for,
    resnet20,
    resnet50,
    vgg16,
)

#: Kernels of VGG16 (protocol G.3) and their ERK sparsities at 0.8 (protocol F).
VGG16 = {
    "conv1_1": (1728, 0.0),
    "conv1_2": (36864, 0.0),
    "conv2_1": (73728, 0.1342),
    "conv2_2": (147456, 0.4272),
    "conv3_1": (294912, 0.5737),
    "conv3_2": (589824, 0.7169),
    "conv3_3": (589824, 0.7169),
    "conv4_1": (1179648, 0.7885),
    "conv4_2": (2359296, 0.8593),
    "conv4_3": (2359296, 0.8593),
    "conv5_1": (2359296, 0.8593),
    "conv5_2": (2359296, 0.8593),
    "conv5_3": (2359296, 0.8593),
    "fc8": (512000, 0.0467),
}
#: Group of ResNet-50 -> weights of its first block (three convolutions and the shortcut) and of each later one.
RESNET50 = {
    "group1": ((64 * 64, 9 * 64**2, 64 * 256, 64 * 256), (256 * 64, 9 * 64**2, 64 * 256), 3),
    "group2": ((256 * 128, 9 * 128**2, 128 * 512, 256 * 512), (512 * 128, 9 * 128**2, 128 * 512), 4),
    "group3": ((512 * 256, 9 * 256**2, 256 * 1024, 512 * 1024), (1024 * 256, 9 * 256**2, 256 * 1024), 6),
    "group4": ((1024 * 512, 9 * 512**2, 512 * 2048, 1024 * 2048), (2048 * 512, 9 * 512**2, 512 * 2048), 3),
}
#: Std of a unit normal cut at two of its own, by hand: sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)).
CUT = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def on_meta(name: str, **options: object) -> nn.Sequential:
    with torch.device("meta"):
        return NETWORKS[name].build(**options)  # type: ignore[arg-type]


def small(name: str, *, seed: int = 0, width: float = 0.0625, num_classes: int = 10) -> nn.Sequential:
    return build_network(name, generator=generator(seed), num_classes=num_classes, width=width, stem="cifar")


def images(*shape: int, seed: int = 9) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def kernels(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.dim() > 1}


def assert_variance(values: Tensor, variance: float | Tensor) -> None:
    """The mean square of centred normals, cut or not, by its z-score.

    var(w^2) is 2 variance^2 for a normal and less for a cut one. 5 standard errors: 6e-7 false alarms a layer, 1e-4 for
    all the layers of a test together.
    """
    ratio = values.double().square() / variance
    assert abs(float(ratio.mean()) - 1) < 5 * math.sqrt(2 / ratio.numel())


# --- counts -----------------------------------------------------------------------------------------------------------


def test_vgg16_has_the_kernels_of_the_protocol_and_nothing_else() -> None:
    model = on_meta("vgg16")
    assert {name: parameter.numel() for name, parameter in model.named_parameters()} == {
        f"{name}.weight": count for name, (count, _) in VGG16.items()
    }
    assert sum(parameter.numel() for parameter in model.parameters()) == 15_222_464
    assert not list(model.buffers())


def test_resnet50_has_the_counts_of_the_protocol() -> None:
    model = on_meta("resnet50")
    weights = {name: weight.numel() for name, weight in kernels(model).items()}
    expected = {"conv1.weight": 9408, "fc.weight": 2_048_000}
    for group, (first, later, depth) in RESNET50.items():
        for place in range(1, depth + 1):
            block = f"{group}.block{place}"
            counts = first if place == 1 else later
            expected |= {f"{block}.residual.conv{i + 1}.weight": counts[i] for i in range(3)}
            if place == 1:
                expected[f"{block}.shortcut.conv.weight"] = first[3]
    assert weights == expected
    assert (len(weights), sum(weights.values())) == (54, 25_502_912)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert sum(parameter.numel() for norm in norms for parameter in norm.parameters()) == 53_120
    assert model.get_parameter("fc.bias").numel() == 1000
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-5, 0.1)}


def test_resnet20_has_the_counts_of_a_table_by_hand() -> None:
    """Group -> filters; two kernels of 3x3 a block, and a 1x1 projection where the filters double."""
    model = on_meta("resnet20")
    expected, inputs = {"conv1.weight": 3 * 3 * 3 * 16, "fc.weight": 640}, 16
    for group, filters in enumerate((16, 32, 64), start=1):
        for place in (1, 2, 3):
            block = f"group{group}.block{place}"
            expected[f"{block}.residual.conv1.weight"] = 9 * inputs * filters
            expected[f"{block}.residual.conv2.weight"] = 9 * filters * filters
            if inputs != filters:
                expected[f"{block}.shortcut.conv.weight"] = inputs * filters
            inputs = filters
    weights = {name: weight.numel() for name, weight in kernels(model).items()}
    assert weights == expected
    assert (len(weights), sum(weights.values())) == (22, 270_896)
    # He et al. (2016), Table 6: 0.27 M. Scale and shift of 7, 6 and 6 norms, one more in the groups that project.
    norms = 2 * (7 * 16 + 7 * 32 + 7 * 64)
    assert sum(parameter.numel() for parameter in model.parameters()) == 270_896 + norms + 10 == 272_474
    strides = {name: layer.stride for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    halving = [f"group{group}.block1.{branch}" for group in (2, 3) for branch in ("residual.conv1", "shortcut.conv")]
    assert sorted(name for name, stride in strides.items() if stride == (2, 2)) == sorted(halving)


def test_resnet20_masks_leave_what_has_few_inputs_dense() -> None:
    model = on_meta("resnet20").to_empty(device="cpu")
    masks = network_masks("resnet20", model, 0.9, seed=0)
    projections = {f"group{group}.block1.shortcut.conv.weight" for group in (2, 3)}
    assert set(kernels(model)) - set(masks) == {"conv1.weight", *projections}
    for mask in masks.values():
        assert int((~mask).sum()) == mask.numel() * 9 // 10
    active = 270_896 - sum(int((~mask).sum()) for mask in masks.values())
    # 432 + 512 + 2048 dense ones, and a tenth, rounded up, of each of the others.
    layers = (5 * [2304], [2304, 4608], 5 * [9216], [18_432], 5 * [36_864], [640])
    assert active == 2992 + sum(size - size * 9 // 10 for sizes in layers for size in sizes)
    twin = kernels(resnet20(width=NETWORKS["resnet20"].small_dense["width"]))
    assert 0.95 < sum(weight.numel() for weight in twin.values()) / active <= 1
    # Of every unit of a masked layer some input is left: the rarest case is 64 * .9^64 of the last layer.
    assert all(bool(mask.flatten(1).any(1).all()) for mask in masks.values())


@pytest.mark.parametrize(
    ("name", "widths", "count"),
    [("vgg16", [28, 56, 112, 225], 3_062_313), ("resnet50", [29, 59, 119, 238], 6_013_905)],
)
def test_small_dense_twins(name: str, widths: list[int], count: int) -> None:
    width = NETWORKS[name].small_dense["width"]
    assert [channels(base, width) for base in (64, 128, 256, 512)] == widths
    weights = kernels(on_meta(name, width=width))
    assert sum(weight.numel() for weight in weights.values()) == count
    shapes = [tuple(weight.shape) for weight in weights.values()]
    assert shapes[0][:2] == (widths[0], 3)
    assert shapes[-1][0] == 1000


#: Networks that take images of 224x224 too.
LARGE = [name for name in networks_for(3) if name != "resnet20"]


@pytest.mark.parametrize("name", LARGE)
def test_the_stem_for_small_images_changes_the_first_convolution_at_most(name: str) -> None:
    large, small = (
        {key: tuple(value.shape) for key, value in kernels(on_meta(name, stem=stem)).items()}
        for stem in ("imagenet", "cifar")
    )
    changed = {key for key in large if large[key] != small[key]}
    assert changed == ({"conv1.weight"} if name.startswith("resnet") else set())
    assert small.get("conv1.weight", (64, 3, 3, 3)) == (64, 3, 3, 3)


# --- shapes and values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stem", "side", "sizes"),
    [
        ("vgg16", "imagenet", 224, {"pool1": 112, "pool2": 56, "pool3": 28, "pool4": 14, "relu5_3": 14}),
        ("vgg16", "cifar", 32, {"pool1": 16, "pool2": 8, "pool3": 4, "relu5_3": 4}),
        (
            "resnet50",
            "imagenet",
            224,
            {"conv1": 112, "pool1": 56, "group1": 56, "group2": 28, "group3": 14, "group4": 7},
        ),
        ("resnet50", "cifar", 32, {"conv1": 32, "group1": 32, "group2": 16, "group3": 8, "group4": 4}),
        ("resnet20", "cifar", 32, {"conv1": 32, "group1": 32, "group2": 16, "group3": 8}),
    ],
)
def test_sizes_of_maps(name: str, stem: str, side: int, sizes: dict[str, int]) -> None:
    x = torch.zeros(2, 3, side, side, device="meta")
    found = {}
    for key, layer in on_meta(name, num_classes=7, stem=stem).named_children():
        x = layer(x)
        found[key] = tuple(x.shape)
    assert {key: found[key][2:] for key in sizes} == {key: (size, size) for key, size in sizes.items()}
    assert [key for key in found if key.startswith("pool")] == [key for key in sizes if key.startswith("pool")]
    assert found["global_pool"] == (2, {"vgg16": 512, "resnet50": 2048, "resnet20": 64}[name], 1, 1)
    assert x.shape == (2, 7)


@pytest.mark.parametrize("side", [4, 10, 112])
def test_pooling_is_same_padding(side: int) -> None:
    """TensorFlow's SAME for a 3x3 window of stride 2 on an even size: nothing in front, one row and column behind."""
    pool = resnet50(width=1 / 64).get_submodule("pool1")
    x = images(2, 3, side, side) - 10  # all negative: a padding of zeros would win
    padded = torch.full((2, 3, side + 1, side + 1), -math.inf)
    padded[:, :, :side, :side] = x
    expected = padded.unfold(2, 3, 2).unfold(3, 3, 2).amax(dim=(4, 5))
    assert expected.shape == (2, 3, side // 2, side // 2)
    assert torch.equal(pool(x), expected)


@pytest.mark.parametrize("side", [8, 9])
@pytest.mark.parametrize(("name", "before"), [("conv1", 3), ("group2.block1.residual.conv2", 1)])
def test_strided_convolutions_pad_the_same_on_both_sides(name: str, before: int, side: int) -> None:
    convolution = resnet50(width=1 / 16, blocks=(1, 1)).double().get_submodule(name)
    assert isinstance(convolution, nn.Conv2d)
    outputs, inputs, kernel, _ = convolution.weight.shape
    x = images(2, inputs, side, side).double()
    padded = torch.zeros(2, inputs, side + kernel - 1, side + kernel - 1, dtype=x.dtype)
    padded[:, :, before : before + side, before : before + side] = x
    patches = padded.unfold(2, kernel, 2).unfold(3, kernel, 2)
    expected = torch.einsum("nihwab,oiab->nohw", patches, convolution.weight)
    assert expected.shape == (2, outputs, 4 + side % 2, 4 + side % 2)
    torch.testing.assert_close(convolution(x), expected)


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 32), ("cifar", 32)])
def test_vgg16_computes_what_is_written_out_here(stem: str, side: int) -> None:
    model = build_network("vgg16", generator=generator(), num_classes=5, width=1 / 32, stem=stem).double()
    x = first = images(2, 3, side, side).double()
    for name in list(VGG16)[:-1]:
        x = F.conv2d(F.pad(x, (1, 1, 1, 1)), model.get_parameter(f"{name}.weight")).clamp(min=0)
        if name in ("conv1_2", "conv2_2", "conv3_3") or (name == "conv4_3" and stem == "imagenet"):
            x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5))
    logits = x.mean(dim=(2, 3)) @ model.get_parameter("fc8.weight")[:, :, 0, 0].T
    torch.testing.assert_close(model(first), logits)


def with_random_state(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and statistic drawn at random: a scale of zero would hide the residual branches."""
    state = model.state_dict()
    for seed, value in enumerate(state.values()):
        if value.is_floating_point():
            value.uniform_(0.2, 1.2, generator=generator(seed)).sub_(0.7 if value.dim() > 1 else 0)
    return state


def written_norm(state: dict[str, Tensor], x: Tensor, name: str) -> Tensor:
    scale, shift, mean, variance = (
        state[f"{name}.{key}"].view(-1, 1, 1) for key in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


def written_convolution(state: dict[str, Tensor], x: Tensor, name: str, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    pad = {1: 0, 3: 1, 7: 3}[weight.shape[-1]]
    return F.conv2d(F.pad(x, (pad,) * 4), weight, stride=stride)


def test_resnet_computes_what_is_written_out_here() -> None:
    model = resnet50(5, width=1 / 16, blocks=(2, 1)).double().eval()
    state = with_random_state(model)
    norm, convolve = partial(written_norm, state), partial(written_convolution, state)
    x = first = images(2, 3, 32, 32).double()
    x = norm(convolve(x, "conv1", 2), "norm1").clamp(min=0)
    x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 3, 2)
    for block, stride in (("group1.block1", 1), ("group1.block2", 1), ("group2.block1", 2)):
        shortcut = x
        if block.endswith("block1"):
            shortcut = norm(convolve(x, f"{block}.shortcut.conv", stride), f"{block}.shortcut.norm")
        x = norm(convolve(x, f"{block}.residual.conv1"), f"{block}.residual.norm1").clamp(min=0)
        x = norm(convolve(x, f"{block}.residual.conv2", stride), f"{block}.residual.norm2").clamp(min=0)
        x = norm(convolve(x, f"{block}.residual.conv3"), f"{block}.residual.norm3")
        x = (x + shortcut).clamp(min=0)
    logits = x.mean(dim=(2, 3)) @ state["fc.weight"].T + state["fc.bias"]
    torch.testing.assert_close(model(first), logits)


def test_resnet20_computes_what_is_written_out_here() -> None:
    model = resnet20(5, width=1 / 4).double().eval()
    state = with_random_state(model)
    norm, convolve = partial(written_norm, state), partial(written_convolution, state)
    x = first = images(2, 3, 32, 32).double()
    x = norm(convolve(x, "conv1"), "norm1").clamp(min=0)
    for block in (f"group{group}.block{place}" for group in (1, 2, 3) for place in (1, 2, 3)):
        shortcut, stride = x, 1
        if block in ("group2.block1", "group3.block1"):
            stride = 2
            shortcut = norm(convolve(x, f"{block}.shortcut.conv", stride), f"{block}.shortcut.norm")
        x = norm(convolve(x, f"{block}.residual.conv1", stride), f"{block}.residual.norm1").clamp(min=0)
        x = norm(convolve(x, f"{block}.residual.conv2"), f"{block}.residual.norm2")
        x = (x + shortcut).clamp(min=0)
    logits = x.mean(dim=(2, 3)) @ state["fc.weight"].T + state["fc.bias"]
    torch.testing.assert_close(model(first), logits)


@pytest.mark.parametrize("way", ["convert", "plan"])
def test_the_engine_computes_resnet20(way: str) -> None:
    """Masks on all but three kernels, statistics of the batch, and every parameter's gradient, against torch."""
    model = small("resnet20", width=0.5).double()
    masks = network_masks("resnet20", model, 0.9, seed=0)
    draw_sparse_(model, masks, name="resnet20", scheme="sparse", seed=0)
    for block in model.modules():
        if isinstance(block, ResidualBlock):  # else the branches would get no gradient
            nn.init.constant_(block.last_norm.weight, 0.5)
    x, y = images(4, 3, 32, 32).double(), torch.tensor([0, 3, 5, 9])
    expected = F.cross_entropy(model(x), y)
    expected.backward()
    # Of masked kernels the engine has active values alone, in the order of the dense weight.
    every = {name: torch.ones_like(parameter, dtype=torch.bool) for name, parameter in model.named_parameters()}
    wanted = {name: model.get_parameter(name).grad[kept] for name, kept in (every | masks).items()}
    if way == "plan":  # in float32
        loss, gradients = sf.engine.plan(model, masks).loss_and_gradients(x, y)
        bounds = {"rtol": 1e-3, "atol": 1e-5}
    else:
        converted = sf.engine.convert(model, masks)
        (found := F.cross_entropy(converted(x), y)).backward()
        loss, bounds = float(found.detach()), {"rtol": 1e-7, "atol": 1e-9}
        names = {name.replace("weight", "values"): name for name in masks}
        gradients = {names.get(name, name): parameter.grad for name, parameter in converted.named_parameters()}
    assert loss == pytest.approx(float(expected.detach()))
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient.double().flatten(), wanted[name], **bounds)


def test_channels_last_gives_the_same_network() -> None:
    model = resnet50(5, width=1 / 8, blocks=(1, 1)).double().eval()
    x = images(2, 3, 32, 32).double()
    expected = model(x)
    model = model.to(memory_format=torch.channels_last)
    maps = model[:-3](x.to(memory_format=torch.channels_last))
    assert maps.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize(
    "model",
    [vgg16(5, width=1 / 64), resnet50(5, width=1 / 64, blocks=(2, 1)), resnet20(5, width=1 / 8)],
    ids=["vgg", "bottlenecks", "basic blocks"],
)
def test_networks_are_one_graph(model: nn.Sequential) -> None:
    model.eval()
    x = images(1, 3, 32, 32)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), model(x))


def test_vgg16_is_a_chain_for_the_engine_and_the_closed_form() -> None:
    model = small("vgg16", width=1 / 32)
    masks = network_masks("vgg16", model, 0.5, seed=0)
    draw_sparse_(model, masks, name="vgg16", scheme="sparse", seed=0)
    x = images(3, 3, 32, 32)
    assert closed_form_refusal(model, x, torch.tensor([0, 1, 2])) is None
    expected = model(x).detach()
    # float32 sums in another order.
    torch.testing.assert_close(sf.engine.plan(model, masks).logits(x), expected, rtol=1e-4, atol=1e-5)


# --- the dense start --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "scale"), [("vgg16", 2.0), ("resnet50", 1.0)])
def test_dense_network_has_the_variances_of_the_protocol(name: str, scale: float) -> None:
    model = build_network(name, generator=generator(), width=0.25)
    for key, weight in kernels(model).items():
        if key == "fc.weight":
            assert_variance(weight, 0.01**2)
            # Not cut: of 512000 normals 23300 lie beyond two std.
            assert 22_000 < int((weight.abs() > 0.02).sum()) < 25_000
            continue
        fan_in = math.prod(weight.shape[1:])
        assert_variance(weight, scale / fan_in)
        assert weight.abs().max() <= 2 * math.sqrt(scale / fan_in) / CUT * (1 + 1e-5)


def test_norms_and_biases_start_as_in_the_protocol() -> None:
    model = build_network("resnet50", generator=generator(), width=0.1, num_classes=10)
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    last = {id(block.last_norm) for block in blocks}
    assert len(last) == 16
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        assert torch.equal(norm.weight, torch.full_like(norm.weight, 0.0 if id(norm) in last else 1.0))
        assert not norm.bias.any()
        assert not norm.running_mean.any()
        assert bool((norm.running_var == 1).all())
        assert norm.num_batches_tracked == 0
    assert not model.get_parameter("fc.bias").any()
    # So each block starts as the ReLU of its shortcut.
    x = images(2, blocks[1].residual.conv1.in_channels, 4, 4)
    assert torch.equal(blocks[1](x), x.clamp(min=0))


@pytest.mark.parametrize("name", networks_for(3))
def test_start_depends_on_the_generator_alone(name: str) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = small(name, seed=3)
    masks = network_masks(name, one, 0.5, seed=1)
    draw_sparse_(one, masks, name=name, scheme="sparse", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    again, other = small(name, seed=3), small(name, seed=4)
    repeated = network_masks(name, again, 0.5, seed=1)
    draw_sparse_(again, repeated, name=name, scheme="sparse", seed=1)
    assert all(torch.equal(masks[key], repeated[key]) for key in masks)
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in one.state_dict().items())
    weights = kernels(small(name, seed=3))
    assert not any(torch.equal(weights[key], weight) for key, weight in kernels(other).items())
    assert all(parameter.requires_grad and parameter.device.type == "cpu" for parameter in one.parameters())


# --- masks ------------------------------------------------------------------------------------------------------------


def test_vgg16_masks_are_erk_on_all_kernels() -> None:
    model = on_meta("vgg16").to_empty(device="cpu")
    masks = network_masks("vgg16", model, 0.8, seed=0)
    zeros = {name: int((~mask).sum()) for name, mask in masks.items()}
    assert list(zeros) == [f"{name}.weight" for name in VGG16]
    for name, (count, sparsity) in VGG16.items():
        assert abs(zeros[f"{name}.weight"] / count - sparsity) < 5.1e-5, name  # the table has four digits
    # Of the authors' 3044506 active weights, whose factor comes from rounded sums: within one weight a kernel.
    assert abs(15_222_464 - sum(zeros.values()) - 3_044_506) < 14


def test_resnet50_masks_are_uniform_and_leave_the_first_convolution_dense() -> None:
    model = on_meta("resnet50").to_empty(device="cpu")
    masks = network_masks("resnet50", model, 0.8, seed=0)
    assert set(kernels(model)) - set(masks) == {"conv1.weight"}
    for mask in masks.values():
        assert int((~mask).sum()) == mask.numel() * 4 // 5
    active = 9408 + sum(int(mask.sum()) for mask in masks.values())
    assert active == 5_108_133
    assert round(1 - active / 25_502_912, 4) == 0.7997


def test_resnet50_kernels_give_the_erk_of_the_protocol() -> None:
    shapes = {name: weight.shape for name, weight in kernels(on_meta("resnet50")).items()}
    found = erk(shapes, 0.8)
    assert round(found["conv1.weight"], 3) == 0.143
    expected = {"group1": 0.638, "group2": 0.823, "group3": 0.913, "group4": 0.957}
    for name, sparsity in found.items():
        if name.endswith("conv2.weight"):
            assert round(sparsity, 3) == expected[name.split(".")[0]]
        elif name.startswith("group1"):
            assert sparsity == 0
    assert round(found["fc.weight"], 3) == 0.852


def test_float_noise_costs_no_zero() -> None:
    """0.29 * 12800, of the last layer, is 3711.9999999999995 in floats."""
    model = small("resnet50", num_classes=100)
    assert math.floor(0.29 * model.get_parameter("fc.weight").numel()) == 3711
    for mask in network_masks("resnet50", model, 0.29, seed=0).values():
        assert int((~mask).sum()) == mask.numel() * 29 // 100


# --- the sparse start -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["dense", "liu", "sparse", "live"])
@pytest.mark.parametrize(("name", "scale"), [("vgg16", 2.0), ("resnet50", 1.0)])
def test_sparse_start_has_the_variances_of_the_protocol(name: str, scale: float, scheme: str) -> None:
    model = small(name, width=0.125, num_classes=100)
    masks = network_masks(name, model, 0.8, seed=0)
    draw_sparse_(model, masks, name=name, scheme=scheme, seed=0)
    sf.check(model, None, masks)
    beyond = 0
    for key, mask in masks.items():
        weight = model.get_parameter(key).detach()
        per_unit = mask.flatten(1).sum(1).double()
        fan_in = {
            "dense": torch.full_like(per_unit, math.prod(mask.shape[1:])),
            "liu": torch.full_like(per_unit, float(per_unit.mean())),
        }.get(scheme, per_unit)
        variance = scale / fan_in
        if key == "fc.weight" and scheme == "dense":
            variance = torch.full_like(per_unit, 0.01**2)
        expanded = variance.view(-1, *[1] * (mask.dim() - 1)).expand(mask.shape)[mask]
        assert_variance(weight[mask], expanded)
        if key != "fc.weight":
            beyond += int((weight[mask].double().abs() > 2 / CUT * expanded.sqrt() * (1 + 1e-5)).sum())
    # Cut at two std like Keras' normals, or not: a normal has 2.3 % beyond 2 / CUT.
    assert (beyond == 0) == (scheme in ("dense", "liu"))


def test_fc_keeps_its_narrow_normal_under_the_dense_scheme_only() -> None:
    model = small("resnet50", num_classes=100)
    masks = network_masks("resnet50", model, 0.8, seed=0)
    drawn = {}
    for scheme in ("dense", "liu"):
        draw_sparse_(model, masks, name="resnet50", scheme=scheme, seed=0)
        drawn[scheme] = {key: weight.clone() for key, weight in kernels(model).items()}
    for key, mask in masks.items():
        if key != "fc.weight":
            # The same draw, divided by the root of the layer's density.
            torch.testing.assert_close(drawn["liu"][key], drawn["dense"][key] / mask.double().mean().sqrt().float())
    assert drawn["dense"]["fc.weight"].abs().max() < 0.06
    assert drawn["liu"]["fc.weight"].abs().max() > 0.1


@pytest.mark.parametrize("scheme", ["dense", "liu", "sparse", "live"])
def test_a_draw_touches_masked_kernels_and_biases_alone(scheme: str) -> None:
    model = small("resnet50")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    masks = network_masks("resnet50", model, 0.8, seed=0)
    assert draw_sparse_(model, masks, name="resnet50", scheme=scheme, seed=0) is model
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == set(masks)


def test_live_draw_counts_the_inputs_of_the_example() -> None:
    model = small("vgg16")
    masks = sf.random_masks(model, 0.5, seed=0)
    drawn = {}
    example = torch.ones(1, 3, 32, 32)
    example[:, 0] = 0
    for scheme in ("sparse", "live"):
        draw_sparse_(model, masks, name="vgg16", scheme=scheme, seed=0, example_inputs=example)
        drawn[scheme] = model.get_parameter("conv1_1.weight").detach().clone()
    mask = masks["conv1_1.weight"]
    factor = (mask.sum((1, 2, 3)) / mask[:, 1:].sum((1, 2, 3))).sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(drawn["live"], drawn["sparse"] * factor)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", networks_for(3))
def test_rigl_trains_them(name: str) -> None:
    model = small(name)
    masks = network_masks(name, model, 0.8, seed=0)
    draw_sparse_(model, masks, name=name, scheme="sparse", seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    sparsifier = sf.Sparsifier(model, optimizer, masks, sf.RigL(drop_fraction=0.3, update_every=1), seed=0)
    x, y = images(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    sparsifier.check()
    sf.check(model, optimizer, sparsifier.masks, active_counts={key: int(mask.sum()) for key, mask in masks.items()})
    assert any(not torch.equal(mask, sparsifier.masks[key]) for key, mask in masks.items())


# --- errors and documentation -----------------------------------------------------------------------------------------


def test_unknown_choices_list_the_known() -> None:
    model = small("vgg16")
    known = r"name must be one of 'lenet5', .*'vgg16', 'resnet50', 'resnet14', 'resnet20', got 'resnet18'"
    with pytest.raises(ValueError, match=known):
        build_network("resnet18", generator=generator())
    with pytest.raises(ValueError, match=known):
        network_masks("resnet18", model, 0.8, seed=0)
    with pytest.raises(ValueError, match=known):
        draw_sparse_(model, {}, name="resnet18", scheme="sparse", seed=0)
    with pytest.raises(ValueError, match=r"scheme must be one of 'dense', 'liu', 'sparse', 'live', got 'ours'"):
        draw_sparse_(model, {}, name="vgg16", scheme="ours", seed=0)


@pytest.mark.parametrize("build", [vgg16, resnet50])
def test_sizes_that_make_no_network(build: type[nn.Sequential]) -> None:
    with pytest.raises(ValueError, match=r"stem must be one of 'imagenet', 'cifar', got 'mnist'"):
        build(stem="mnist")
    with pytest.raises(ValueError, match=r"width 0.01 leaves no channel of 64. The narrowest network has width=1/64"):
        build(width=0.01)


def test_resnet20_is_for_small_images() -> None:
    with pytest.raises(ValueError, match=r"images of 32x32, got stem='imagenet'. Give stem='cifar', or take resnet50"):
        resnet20(stem="imagenet")
    with pytest.raises(ValueError, match=r"width 0.05 leaves no channel of 16. The narrowest network has width=1/16"):
        resnet20(width=0.05)


@pytest.mark.parametrize("blocks", [(), (3, 0)])
def test_groups_without_blocks(blocks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"blocks must give every group at least one block, got \(.*\(3, 4, 6, 3\)"):
        resnet50(blocks=blocks)


def test_masks_of_another_network() -> None:
    with pytest.raises(ValueError, match=r"'conv1.weight' in include= or exclude= matches no parameter"):
        network_masks("resnet50", small("vgg16"), 0.8, seed=0)
    with pytest.raises(ValueError, match=r"which is no weight of the model"):
        draw_sparse_(small("vgg16"), {"fc.weight": torch.ones(1, dtype=torch.bool)}, name="vgg16", scheme="liu", seed=0)


def test_every_network_says_where_it_comes_from() -> None:
    assert len({network.build for network in NETWORKS.values()}) == len(NETWORKS)
    for network in NETWORKS.values():
        assert "Reference:" in (inspect.getdoc(network.build) or "")
        assert network.allocation in ALLOCATIONS
