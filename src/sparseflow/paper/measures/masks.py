"""Signal at initialisation, on random masks (Figure 1c) and on those that pruning found (claim C16)."""

from __future__ import annotations

import pandas as pd
import torch

import sparseflow as sf
from sparseflow.init.schemes import SCHEMES
from sparseflow.lab.demo.signal import signal_at_init
from sparseflow.masks.report import mask_statistics
from sparseflow.paper.measures.source import Source, Tables
from sparseflow.rng import stream
from sparseflow.training.digits import DigitRun
from sparseflow.training.setup import dense_network

BASES = ("kaiming_normal", "xavier_uniform")
#: Inputs behind a signal.
IMAGES = 500


def signal(source: Source, runs: tuple[DigitRun, ...], /, *, sparsity: float, networks: int) -> Tables:
    """Standard deviation of the logits of untrained LeNet5s on noise, see :func:`.signal_at_init`.

    Args:
        source: Takes the progress.
        runs: None.
        sparsity: Fraction of zeros in every layer.
        networks: Independently masked and drawn.
    """
    del runs
    found = signal_at_init(
        networks=networks,
        sparsities=[sparsity],
        schemes=list(SCHEMES),
        bases=BASES,
        progress=lambda done, of: source.report(done / of),
    )
    return {"signal": found}


def masks(source: Source, runs: tuple[DigitRun, ...], /) -> Tables:
    """Spread of a pruning run's weights over units, and the signal of 500 inputs that its masks let through.

    Inputs are noise, as in Figure 1c, and training images, as the network sees them.

    Beside it the same for random masks with as many weights in every layer.

    Args:
        source: The run.
        runs: One pruning run.

    Reference: protocol A.1; claim C16.
    """
    (config,) = runs
    model = dense_network(config)
    kinds = {
        "pruned": source.end_masks(config),
        "random": sf.random_masks(model, config.sparsity, seed=config.seed),
    }
    inputs = {
        "noise": torch.randn(IMAGES, 1, 28, 28, generator=stream(config.seed, "inputs")),
        "images": torch.cat([images for images, _ in source.training_batches(config, IMAGES)]),
    }
    spread, levels = [], []
    for kind, found in kinds.items():
        for name, mask in found.items():
            statistics = mask_statistics(mask)
            spread.append({
                "masks": kind, "layer": name.removesuffix(".weight"), "fan_in_cv": statistics.fan_in_cv,
                "dead_units": statistics.units_without_inputs, "units": len(mask),
            })  # fmt: skip
        for base in BASES:
            for scheme in SCHEMES:
                for name, shown in inputs.items():
                    sf.initialize_(model, found, scheme=scheme, seed=config.seed, base=base, example_inputs=shown)
                    with torch.no_grad():
                        std = float(model(shown).std(correction=0))
                    levels.append({"masks": kind, "scheme": scheme, "base": base, "inputs": name, "logit_std": std})
    return {"mask_uniformity": pd.DataFrame(spread), "pruned_signal": pd.DataFrame(levels)}
