"""How a network of the paper starts: its dense weights, its random masks, and the re-draw that suits the masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow._checks import check_choice
from sparseflow.init.fill import Scaling, kaiming_normal_, kaiming_truncated_normal_, scale_to_mask_, xavier_uniform_
from sparseflow.init.model import initialize_
from sparseflow.init.schemes import SCHEMES
from sparseflow.masks.allocation import ALLOCATIONS
from sparseflow.masks.blocks import SINGLE, BlockLike
from sparseflow.masks.fans import PLAIN, Layout
from sparseflow.masks.make import random_masks
from sparseflow.masks.select import maskable
from sparseflow.networks.registry import NETWORKS, Network
from sparseflow.networks.residual import ResidualBlock
from sparseflow.types import Masks


def build_network(
    name: str, *, generator: torch.Generator, num_classes: int | None = None, **size: Any
) -> nn.Sequential:
    r"""A dense network with the paper's default start, "Original".

    ==========  ====================================================================================================
    lenet5,     Glorot's uniform start as in Keras: :math:`w \sim \mathcal{U}(-a, a)`,
    mlp         :math:`a = \sqrt{6 / (n_{in} + n_{out})}`, variance :math:`a^2 / 3`; biases 0
    vgg16       :math:`\mathrm{variance}(w) = 2 / n_{in}`, normal cut at two standard deviations
    resnet50    :math:`\mathrm{variance}(w) = 1 / n_{in}`, cut likewise; ``fc``: variance :math:`0.01^2`, not cut;
                scales of norms 1, but 0 for the last of each block; shifts and biases 0
    ==========  ====================================================================================================

    Layers are drawn in the order of :meth:`torch.nn.Module.parameters`, and torch's global random state is left alone.

    Args:
        name: Key of :data:`NETWORKS`.
        generator: All randomness of the start; CPU.
        num_classes: Number of logits; default 10 for digits and 1000 for colour images.
        size: ``width`` and ``stem`` of :func:`~sparseflow.networks.vgg16` and :func:`~sparseflow.networks.resnet50`.

    Returns: The network on the CPU, in training mode.

    Raises:
        ValueError: if the name or stem is unknown, or the width leaves no channel.

    Reference: protocol B.1 and B.5; Glorot and Bengio (2010), *Understanding the difficulty of training deep
    feedforward neural networks*.

    >>> model = build_network("vgg16", generator=torch.Generator().manual_seed(0), width=0.25, num_classes=10)
    >>> weight = model.conv5_3.weight
    >>> bool(abs(weight.square().mean() * weight[0].numel() - 2) < 0.05)
    True
    """
    network = _network(name)
    # torch's own initialisation would draw from the global generator.
    with torch.device("meta"):
        model = network.build(**size) if num_classes is None else network.build(num_classes, **size)
    model.to_empty(device="cpu")
    for key, weight in maskable(model).items():
        dense = torch.ones_like(weight.parameter, dtype=torch.bool)
        _original(network, key)(weight.parameter, dense, generator=generator, scaling="dense")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.last_norm.weight)
    return model


def network_masks(
    name: str,
    model: nn.Module,
    sparsity: float,
    *,
    seed: int,
    allocation: str | None = None,
    block: BlockLike = SINGLE,
    make: Callable[..., Masks] = random_masks,
) -> Masks:
    r"""The paper's random masks: ERK on all 14 kernels of VGG16, uniform on all of ResNet-50 but the first.

    ResNet-50's ``conv1`` has no mask, its shortcuts and ``fc`` have. A layer of :math:`n_l` weights and sparsity
    :math:`S_l` has :math:`\lfloor S_l n_l \rfloor` zeros, as in the authors' code.

    Args:
        name: Key of :data:`NETWORKS`.
        model: That network, of any width and stem.
        sparsity: Fraction of zeros over the masked weights, in [0, 1); the paper has 0.8.
        seed: Each layer draws from ``stream(seed, "mask", name)``.
        allocation: Key of ``sparseflow.masks.allocation.ALLOCATIONS``; default the network's.
        block: Of the masks, as :func:`sparseflow.random_masks` takes it.
        make: Makes them, with arguments as that function, but for ``block`` where there are no blocks.

    Returns: Parameter name -> mask, on the model's device.

    Raises:
        ValueError: if the name is unknown, or the sparsity is outside [0, 1) or infeasible.

    Note:
        With :func:`sparseflow.random_masks` counts are rounded instead, and ResNet-50 has 5108110 active weights at 0.8
        where the authors' has 5108133. Their ERK solves for its factor with rounded sums, and gives VGG16 3044506
        active weights where these masks have 3044498: no layer differs by more than one.

    Reference: protocol F; Evci et al. (2022), section 4.1.

    >>> model = build_network("resnet50", generator=torch.Generator().manual_seed(0), width=0.1, num_classes=10)
    >>> masks = network_masks("resnet50", model, 0.8, seed=0)
    >>> len(masks), "conv1.weight" in masks, int((~masks["fc.weight"]).sum()) == int(0.8 * model.fc.weight.numel())
    (53, False, True)
    """
    network = _network(name)
    chosen = allocation or network.allocation
    # The authors' code for digits rounds the counts, as sparseflow.random_masks does.
    shares = chosen if network.nonlinearity is None else partial(_whole_zeros, chosen)
    blocks: dict[str, Any] = {} if block == SINGLE else {"block": block}
    return make(model, sparsity, allocation=shares, exclude=network.dense, seed=seed, **blocks)


def draw_sparse_(
    model: nn.Module,
    masks: Masks,
    *,
    name: str,
    scheme: str,
    seed: int,
    base: str | None = None,
    avoid_dead: bool = False,
    example_inputs: Tensor | tuple[Any, ...] | None = None,
) -> nn.Module:
    r"""Re-draw the masked weights of a network of the paper by one of its schemes, in place.

    ========  ==========================================================  ==============================================
    scheme    variance of an active weight                                distribution
    ========  ==========================================================  ==============================================
    dense     that of :func:`build_network` ("Original")                  that of :func:`build_network`
    liu       :math:`g^2 / (n_{dense}\, D_{layer})` ("Liu")               normal cut at two standard deviations
    sparse    :math:`g^2 / n_i`, active inputs of unit :math:`i` ("Ours") normal
    live      :math:`g^2 / n_i^{live}`, inputs with a path only           normal
    ========  ==========================================================  ==============================================

    with :math:`g^2 = 2` for VGG16 and 1 for ResNet-50. "Normal" is cut where the authors' code calls Keras, and is not
    where it draws unit by unit. The last layer follows the same rule as all others under liu, sparse and live: the code
    has no gain of its own for it, so ResNet-50's ``fc`` leaves its narrow normal. Only masked weights are drawn, and
    biases become zero: norms, and ``conv1`` of ResNet-50, keep what :func:`build_network` gave them, which is the start
    of every scheme.

    Args:
        model: Of :func:`build_network`, not trained yet.
        masks: Parameter name -> mask; of :func:`network_masks` or of a pruning run.
        name: Key of :data:`NETWORKS`.
        scheme: ``"dense"``, ``"liu"``, ``"sparse"`` or ``"live"``.
        seed: Each weight draws from ``stream(seed, "init", name)``.
        base: Key of ``sparseflow.init.INITIALIZERS``; default the network's.
        avoid_dead: As :func:`sparseflow.initialize_`.
        example_inputs: For ``avoid_dead``, examples of the data; for ``"live"``, see :func:`sparseflow.live_inputs`.

    Returns: ``model``.

    Raises:
        TypeError, ValueError: if the name or the scheme is unknown, or a mask does not fit.

    Note:
        The paper says nothing of ResNet-50's scale; 1 matches its dense start. Batch norm takes the factor out again,
        except behind ``fc``.

    Reference: protocol B.3 to B.7.

    >>> model = build_network("vgg16", generator=torch.Generator().manual_seed(0), width=0.25, num_classes=10)
    >>> masks = network_masks("vgg16", model, 0.8, seed=0)
    >>> weight = draw_sparse_(model, masks, name="vgg16", scheme="sparse", seed=0).conv5_3.weight
    >>> bool(abs(weight.square().flatten(1).sum(1).mean() - 2) < 0.1)  # n_i weights of variance 2 / n_i
    True
    """
    network = _network(name)
    check_choice(scheme, SCHEMES, name="scheme")
    normal = kaiming_normal_ if SCHEMES[scheme].scaling == "unit" else kaiming_truncated_normal_
    own = "xavier_uniform" if network.nonlinearity is None else partial(normal, nonlinearity=network.nonlinearity)
    initialize_(
        model, masks, scheme=scheme, seed=seed, base=base or own, avoid_dead=avoid_dead, example_inputs=example_inputs
    )
    if scheme == "dense":
        for key in network.normals.keys() & masks.keys():
            initialize_(model, {key: masks[key]}, scheme=scheme, seed=seed, base=_original(network, key))
    return model


def _network(name: str) -> Network:
    check_choice(name, NETWORKS, name="name")
    return NETWORKS[name]


def _original(network: Network, key: str) -> Callable[..., Tensor]:
    """The dense initialiser of one weight."""
    if network.nonlinearity is None:
        return xavier_uniform_
    if key in network.normals:
        return partial(_normal_, std=network.normals[key])
    return partial(kaiming_truncated_normal_, nonlinearity=network.nonlinearity)


def _normal_(
    weight: Tensor,
    mask: Tensor,
    *,
    std: float,
    generator: torch.Generator,
    scaling: Scaling,
    layout: Layout = PLAIN,
    live_inputs: Tensor | None = None,
) -> Tensor:
    with torch.no_grad():
        weight.normal_(0, std, generator=generator)
    return scale_to_mask_(weight, mask, scaling=scaling, layout=layout, live_inputs=live_inputs)


def _whole_zeros(
    allocation: str,
    shapes: Mapping[str, Sequence[int]],
    sparsity: float,
    *,
    overrides: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """The allocation's sparsities, each lowered to a whole number of zeros."""
    found = ALLOCATIONS[allocation](shapes, sparsity, overrides=overrides)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    # Rounded first, so that float noise below a whole number does not cost a zero.
    return {name: math.floor(round(found[name] * size, 6)) / size for name, size in sizes.items()}
