"""Figure 1c: the signal that reaches the logits of a LeNet5 at initialisation, by sparsity, mask and scheme."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.init.schemes import SCHEMES
from sparseflow.masks.topk import active_count, topk_mask
from sparseflow.networks import build_network
from sparseflow.rng import stream

SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98)


def skewed_masks(model: nn.Module, sparsity: float, *, seed: int) -> dict[str, Tensor]:
    r"""Masks in which units with a small index lose nearly all inputs: the stress test of the paper's notebook.

    An entry of the ``i``-th unit (from 1) draws :math:`u \sim \mathcal{U}(0, i)`; the smallest entries of a layer go.

    Args:
        model: Its prunable weights get masks.
        sparsity: Fraction of zeros in every layer.
        seed: Seed of the draws.

    Reference: protocol A.1.

    >>> mask = skewed_masks(nn.Linear(50, 20), 0.9, seed=0)["weight"]
    >>> int(mask.sum()), bool(mask[:10].sum() < mask[10:].sum())
    (100, True)
    """
    masks = {}
    for name, weight in sf.prunable(model).items():
        shape = weight.parameter.shape
        index = torch.arange(1, shape[0] + 1).view(-1, *[1] * (len(shape) - 1))
        draw = torch.rand(shape, generator=stream(seed, "skewed", name)) * index
        masks[name] = topk_mask(draw, active_count(draw.numel(), sparsity))
    return masks


def _random_masks(model: nn.Module, sparsity: float, *, seed: int) -> dict[str, Tensor]:
    return sf.random_masks(model, sparsity, seed=seed)


#: Name of a mask kind -> what draws it.
MASK_KINDS: dict[str, Callable[..., dict[str, Tensor]]] = {"random": _random_masks, "skewed": skewed_masks}


def signal_at_init(
    *,
    networks: int = 5,
    sparsities: Sequence[float] = SPARSITIES,
    schemes: Sequence[str] = tuple(SCHEMES),
    bases: Sequence[str] = ("kaiming_normal",),
    examples: int = 500,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Standard deviation of the logits, over examples and outputs together, for inputs drawn from N(0, variance 1).

    Args:
        networks: Independently masked and initialised networks for each point (the paper: 5).
        sparsities: Fractions of zeros in every layer.
        schemes: Keys of ``sparseflow.init.schemes.SCHEMES``.
        bases: Keys of ``sparseflow.init.INITIALIZERS``.
        examples: Inputs in the batch, 28 x 28 x 1.
        seed: Seed of everything drawn; the same masks and base draws for every scheme.
        progress: Called with the number of points that are done, and of all.

    Returns: one row per network, columns scheme, base, mask, sparsity, network, logit_std.

    Reference: Evci et al. (2022), Figure 1c; protocol A.1.

    >>> found = signal_at_init(networks=1, sparsities=[0.95], schemes=["dense", "sparse"], examples=50)
    >>> dense, ours = found[found["mask"] == "random"].logit_std
    >>> bool(ours > 100 * dense)
    True
    """
    inputs = torch.randn(examples, 1, 28, 28, generator=stream(seed, "inputs"))
    rows: list[dict[str, object]] = []
    total = len(MASK_KINDS) * len(sparsities) * networks
    for kind, draw_masks in MASK_KINDS.items():
        for sparsity in sparsities:
            for network in range(networks):
                model = build_network("lenet5", generator=stream(seed, "model", network))
                masks = draw_masks(model, sparsity, seed=seed + network)
                for base in bases:
                    for scheme in schemes:
                        sf.initialize_(
                            model, masks, scheme=scheme, seed=seed + network, base=base, example_inputs=inputs
                        )
                        with torch.no_grad():
                            std = float(model(inputs).std(correction=0))
                        point = {"scheme": scheme, "base": base, "mask": kind, "sparsity": sparsity}
                        rows.append({**point, "network": network, "logit_std": std})
                if progress is not None:
                    progress(len(rows) // (len(bases) * len(schemes)), total)
    return pd.DataFrame(rows)
