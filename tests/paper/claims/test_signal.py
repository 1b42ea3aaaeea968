"""Claims about the signal at initialisation: each can hold, fail, and stay open."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from synthetic_runs import verdict_on

BASES = ("xavier_uniform", "kaiming_normal")
SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98)


def signal(
    *, networks: int = 20, dense: float = 2.5, liu: float = 0.1, ours: float = 0.1, spread: float = 0.1
) -> pd.DataFrame:
    """Logit stds that fall as powers of the density, spread over networks by a factor e^spread, Liu's the other way."""
    rows = [
        (scheme, base, mask, sparsity, network, (1 - sparsity) ** power * np.exp(way * spread * place))
        for scheme, power, way in (("dense", dense, 1), ("liu", liu, -1), ("sparse", ours, 1))
        for base in BASES
        for mask in ("random", "skewed")
        for sparsity in SPARSITIES
        for network, place in enumerate(np.linspace(-1, 1, networks))
    ]
    return pd.DataFrame(rows, columns=["scheme", "base", "mask", "sparsity", "network", "logit_std"])


def pruned(*, seeds: int = 5, ratio: float = 1.2, spread: float = 0.1) -> dict[str, pd.DataFrame]:
    """Signals on pruned masks; Liu's is ``ratio`` times Ours."""
    rows = [
        (network, masks, inputs, seed, scheme, base, level * np.exp((1 if scheme == "liu" else -1) * spread * place))
        for network in ("lenet5", "mlp")
        for masks in ("pruned", "random")
        for seed, place in enumerate(np.linspace(-1, 1, seeds))
        for scheme, level in (("liu", ratio if masks == "pruned" else 1.0), ("sparse", 1.0), ("live", 1.0))
        for base in BASES
        for inputs in ("noise", "images")
    ]
    uniformity = [
        (network, masks, 0, "conv1", 0.5, 2, 10) for network in ("lenet5", "mlp") for masks in ("pruned", "random")
    ]
    columns = ["network", "masks", "seed", "layer", "fan_in_cv", "dead_units", "units"]
    return {
        "pruned_signal": pd.DataFrame(
            rows, columns=["network", "masks", "inputs", "seed", "scheme", "base", "logit_std"]
        ),
        "mask_uniformity": pd.DataFrame(uniformity, columns=columns),
    }


@pytest.mark.parametrize(
    ("claim", "settings", "expected"),
    [
        ("C01", {}, "held"),
        ("C01", {"dense": 1.0}, "failed"),  # another law, and 5 % left
        ("C01", {"dense": 2.0}, "failed"),  # 0.25 % left, but not by the law
        ("C01", {"networks": 19}, "inconclusive"),
        ("C02", {}, "held"),
        ("C02", {"ours": 1.0}, "failed"),  # 5 % left
        ("C02", {"ours": 0.23, "spread": 1.0}, "inconclusive"),  # 50.2 % left, of which nobody is certain
        ("C02", {"networks": 19}, "inconclusive"),
        ("C03", {}, "held"),
        ("C03", {"liu": 1.0}, "failed"),
        ("C03", {"liu": 0.332}, "inconclusive"),  # half of Ours at 0.95, give or take
        ("C03", {"networks": 19}, "inconclusive"),
    ],
)
def test_signal(claim: str, settings: dict[str, float], expected: str) -> None:
    verdict = verdict_on(claim, {}, signal=signal(**settings))  # type: ignore[arg-type]
    assert verdict.verdict == expected, verdict


def test_the_slope_is_that_of_the_law_the_signals_were_made_by() -> None:
    verdict = verdict_on("C01", {}, signal=signal(dense=2.4))
    assert "He, slope: slope 2.4, at least" in verdict.statistic
    assert verdict.ours.endswith(f"He: slope 2.40, {0.05**2.4:.1e} left at 0.95")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "held"),
        ({"ratio": 5.0}, "failed"),
        ({"ratio": 0.2}, "failed"),
        ({"ratio": 2.5, "spread": 1.0}, "inconclusive"),
        ({"seeds": 4}, "inconclusive"),
    ],
)
def test_c16(settings: dict[str, float], expected: str) -> None:
    verdict = verdict_on("C16", {}, **pruned(**settings))  # type: ignore[arg-type]
    assert verdict.verdict == expected, verdict


@pytest.mark.parametrize(
    ("claim", "tables", "missing"),
    [
        ("C01", {"signal": signal(networks=19)}, "there are 19 networks .* of at least 20 needed"),
        ("C01", {}, "signal was not measured. Make it: sparseflow reproduce signal"),
        ("C16", pruned(seeds=4), "there are 4 pruned masks of lenet5 on images of at least 5 needed"),
    ],
)
def test_too_few_networks_say_so_and_give_no_p_value(claim: str, tables: dict[str, pd.DataFrame], missing: str) -> None:
    verdict = verdict_on(claim, {}, **tables)
    assert (verdict.verdict, verdict.p_value) == ("inconclusive", None)
    assert pd.Series([verdict.note]).str.contains(missing).all()
