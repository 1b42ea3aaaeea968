"""Masks: counts, where the active entries fall, files, and zeros that are exact whatever was there."""

from __future__ import annotations

import errno
import functools
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from sparseflow import allocation
from sparseflow.masks import (
    apply_masks_,
    dense_masks,
    load_masks,
    magnitude_masks,
    overlap,
    random_masks,
    save_masks,
    score_masks,
    sparsity_of,
    zero_inactive_,
)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(72, 20), nn.Linear(20, 5))


def counts(masks: dict[str, Tensor]) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


# --- random -----------------------------------------------------------------------------------------------------------


@given(st.floats(0, 0.98), st.integers(-(2**40), 2**40))
def test_random_counts_are_exact(sparsity: float, seed: int) -> None:
    # 216, 1440, 100 weights: active is what rounds (1 - S) n, at least 1; floats here are never within 1e-6 of a half.
    masks = random_masks(network(), sparsity, seed=seed)
    for name, n in {"0.weight": 216, "3.weight": 1440, "4.weight": 100}.items():
        assert masks[name].dtype == torch.bool
        assert abs(int(masks[name].sum()) - (1 - sparsity) * n) <= 0.5 + 1e-6 or int(masks[name].sum()) == 1


def test_random_counts_under_an_allocation_overrides_and_rules() -> None:
    # ER shares ignore kernels: 11/24, 92/1440, 25/100. Budget 0.2 * 1756 = 351.2 = eps (99 + 92 + 25), eps = 1.62593:
    # densities 0.74522, 0.10388, 0.40648, times the sizes 160.97, 149.58, 40.65.
    found = counts(random_masks(network(), 0.8, allocation="er", seed=0))
    assert found == {"0.weight": 161, "3.weight": 150, "4.weight": 41}
    own = random_masks(network(), 0.9, seed=0, overrides={"4.weight": 0.5}, first_layer_dense=True)
    assert counts(own) == {"3.weight": 144, "4.weight": 50}
    assert counts(random_masks(network(), 0.9, seed=0, exclude=[nn.Conv2d])) == {"3.weight": 144, "4.weight": 10}
    powerless = functools.partial(allocation.erk, power=0)  # all shares 1: uniform
    found = counts(random_masks(network(), 0.9, allocation=powerless, seed=0))
    assert found == {"0.weight": 22, "3.weight": 144, "4.weight": 10}


def test_a_layer_has_its_own_stream() -> None:
    """Same seed, same masks; another layer, another seed or other layers around it: bit-equal or unrelated."""
    model = nn.Sequential(nn.Linear(50, 40), nn.Linear(40, 50), nn.Linear(40, 50))
    masks = random_masks(model, 0.5, seed=3)
    assert all(torch.equal(masks[name], again) for name, again in random_masks(model, 0.5, seed=3).items())
    alone = random_masks(model, 0.5, seed=3, exclude=["0.*"], overrides={"2.weight": 0.9})
    assert torch.equal(alone["1.weight"], masks["1.weight"])
    other = random_masks(model, 0.5, seed=4)
    # Independent masks of 1000 in 2000 overlap in hypergeometric(2000, 1000, 1000): two-sided p-value above 1e-6 each,
    # five comparisons, so a false alarm of at most 5e-6 over the choice of seeds.
    pairs = [(masks[name], other[name]) for name in masks]
    pairs += [(masks["1.weight"], masks["2.weight"]), (masks["0.weight"].T, masks["1.weight"])]
    for a, b in pairs:
        both = int((a & b).sum())
        law = stats.hypergeom(2000, 1000, 1000)
        assert 2 * min(law.cdf(both), law.sf(both - 1)) > 1e-6


def test_positions_are_uniform() -> None:
    """Chi-square over the 60 positions in 2000 masks of 15: false alarm 1e-6 over the choice of seeds.

    Positions of one mask are drawn without replacement: the counts' covariance shrinks by (1 - k/n) n/(n - 1), and so
    does the statistic's law, chi-square with 59 degrees of freedom.
    """
    layer, n, k, draws = nn.Linear(10, 6), 60, 15, 2000
    hits = sum(random_masks(layer, 1 - k / n, seed=seed)["weight"].double() for seed in range(draws))
    assert isinstance(hits, Tensor)
    expected = draws * k / n
    statistic = float(((hits - expected) ** 2).sum() / expected) / ((1 - k / n) * n / (n - 1))
    assert 1e-6 / 2 < stats.chi2(n - 1).cdf(statistic) < 1 - 1e-6 / 2


def test_masks_lie_in_memory_as_their_weights() -> None:
    model = network().to(memory_format=torch.channels_last)
    mask = random_masks(model, 0.5, seed=0)["0.weight"]
    assert mask.stride() == model[0].weight.stride()
    assert torch.equal(mask, random_masks(network(), 0.5, seed=0)["0.weight"])


def test_dense_masks_are_all_ones() -> None:
    masks = dense_masks(network(), exclude=["4"])
    assert counts(masks) == {"0.weight": 216, "3.weight": 1440}
    assert sparsity_of(masks) == 0


def test_unknown_allocation() -> None:
    with pytest.raises(ValueError, match="allocation must be one of 'uniform', 'er', 'erk', got 'erdos'"):
        random_masks(network(), 0.5, allocation="erdos", seed=0)


# --- by magnitude and score -------------------------------------------------------------------------------------------


def two_layers() -> nn.Sequential:
    """|w|: 8 2 3 1 in the first layer, 7 7 7 4 in the second."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[0].weight.data = torch.tensor([[-8.0, 2.0], [3.0, -1.0]])
    model[1].weight.data = torch.tensor([[7.0, -7.0], [7.0, 4.0]])
    return model


@pytest.mark.parametrize(
    ("scope", "sparsity", "first", "second"),
    [
        ("layer", 0.5, [True, False, True, False], [True, True, False, False]),  # tie of 7s: lowest index
        ("layer", 0.75, [True, False, False, False], [True, False, False, False]),
        ("global", 0.5, [True, False, False, False], [True, True, True, False]),  # 8 7 7 7
        ("global", 0.75, [True, False, False, False], [True, False, False, False]),  # 8 and the first 7
        ("global", 0.25, [True, False, True, False], [True, True, True, True]),  # 8 7 7 7 4 3
    ],
)
def test_magnitude_by_hand(scope: str, sparsity: float, first: list[bool], second: list[bool]) -> None:
    masks = magnitude_masks(two_layers(), sparsity, scope=scope)
    assert masks["0.weight"].flatten().tolist() == first
    assert masks["1.weight"].flatten().tolist() == second


def test_a_tie_across_layers_goes_to_the_earlier_one() -> None:
    scores = {"b": torch.ones(3), "a": torch.ones(3)}
    assert counts(score_masks(scores, 0.5)) == {"b": 3, "a": 0}


def test_scores_per_layer_follow_the_allocation() -> None:
    scores = {"a": torch.arange(100.0).view(10, 10), "b": torch.arange(10_000.0).view(100, 100)}
    masks = score_masks(scores, 0.5, scope="layer", allocation="er")
    assert counts(masks) == {"a": 100, "b": 4950}  # a is dense, b has 5050 - 100
    assert masks["b"].flatten()[-4950:].all()
    assert counts(score_masks(scores, 0.5, scope="layer", overrides={"a": 0.9})) == {"a": 10, "b": 5000}


def test_bad_scores() -> None:
    scores = {"a": torch.ones(4), "b": torch.tensor([1.0, float("nan")])}
    for scope in ("global", "layer"):
        with pytest.raises(ValueError, match=r"scores has 1 of . entries that are NaN or infinite"):
            score_masks(scores, 0.5, scope=scope)
    with pytest.raises(ValueError, match="scope must be one of 'global', 'layer', got 'local'"):
        score_masks(scores, 0.5, scope="local")
    for shares in ({"overrides": {"a": 0.5}}, {"allocation": "erk"}):
        with pytest.raises(ValueError, match="overrides= and allocation= need scope='layer'"):
            score_masks(scores, 0.5, scope="global", **shares)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="overrides= and allocation= need scope='layer'"):
        magnitude_masks(network(), 0.5, scope="global", allocation="erk")


# --- statistics -------------------------------------------------------------------------------------------------------


def test_sparsity_of_counts_weights_not_layers() -> None:
    assert sparsity_of({"a": torch.zeros(30, dtype=torch.bool), "b": torch.ones(10, dtype=torch.bool)}) == 0.75
    with pytest.raises(ValueError, match=r"there are no masks; make some, for instance with sparseflow.random_masks"):
        sparsity_of({})


def test_overlap_by_hand() -> None:
    a = {"v": torch.tensor([True, True, True, False]), "w": torch.tensor([False, False])}
    b = {"v": torch.tensor([False, True, True, True]), "w": torch.tensor([True, False])}
    assert overlap(a, b) == {"v": 2 / 3, "w": 0.0}
    assert overlap(b, a) == {"v": 2 / 3, "w": 0.0}
    assert overlap(b, b) == {"v": 1.0, "w": 1.0}


def test_overlap_of_different_weights() -> None:
    mask = torch.ones(2, dtype=torch.bool)
    with pytest.raises(ValueError, match="the masks are of different weights: b, c"):
        overlap({"a": mask, "b": mask}, {"a": mask, "c": mask})
    with pytest.raises(ValueError, match="the masks are of different weights: shapes differ"):
        overlap({"a": mask}, {"a": mask.view(1, 2)})


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["layer", "global"])  # global masks share one storage
def test_what_is_loaded_is_what_was_saved(tmp_path: Path, scope: str) -> None:
    masks = magnitude_masks(network().to(memory_format=torch.channels_last), 0.8, scope=scope)
    save_masks(tmp_path / "a.safetensors", masks)
    save_masks(str(tmp_path / "a.safetensors"), masks)  # over the old file, by a string
    loaded = load_masks(tmp_path / "a.safetensors")
    assert set(loaded) == set(masks)
    assert all(torch.equal(loaded[name], mask) for name, mask in masks.items())
    assert os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "masks.safetensors"
    save_masks(path, random_masks(network(), 0.8, seed=0))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"masks.safetensors is not an intact mask file \(.*\). Save the masks again"):
        load_masks(path)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "masks.safetensors"
    path.write_bytes(b"\xff" * 500)
    with pytest.raises(ValueError, match="is not an intact mask file"):
        load_masks(path)
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"w": torch.ones(3), "m": torch.ones(3, dtype=torch.bool)}, path)
    with pytest.raises(ValueError, match=r"holds tensors that are no masks: w. Masks are bool"):
        load_masks(path)
    with pytest.raises(FileNotFoundError, match=r"none.safetensors"):
        load_masks(tmp_path / "none.safetensors")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    path = tmp_path / "masks.safetensors"
    old, new = random_masks(network(), 0.8, seed=0), random_masks(network(), 0.8, seed=1)
    save_masks(path, old)

    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"masks.safetensors in .* Free .* half-written"):
        save_masks(path, new)
    assert os.listdir(tmp_path) == [path.name]
    assert all(torch.equal(mask, old[name]) for name, mask in load_masks(path).items())


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "not allowed"), KeyboardInterrupt()])
def test_any_interruption_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def interrupted(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(type(error)):
        save_masks(tmp_path / "masks.safetensors", dense_masks(network()))
    assert os.listdir(tmp_path) == []


def test_without_safetensors_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    with pytest.raises(ModuleNotFoundError, match="mask files need safetensors: pip install safetensors"):
        save_masks(tmp_path / "masks.safetensors", dense_masks(network()))


# --- zeros ------------------------------------------------------------------------------------------------------------

DTYPES = [
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn),
    *(torch.complex64, torch.complex128, torch.uint8, torch.int16, torch.int64, torch.bool),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inactive_entries_are_positive_zero_and_active_ones_keep_their_bits(dtype: torch.dtype) -> None:
    values = torch.tensor([[1.5, -2.0, 0.0], [-0.0, 3.0, -1.0]])
    if dtype.is_floating_point or dtype.is_complex:
        values[0, 0], values[0, 1] = float("nan"), float("-inf")
    tensor = values.to(dtype)
    for pattern in range(64):
        mask = torch.tensor([bool(pattern >> i & 1) for i in range(6)]).view(2, 3)
        result = tensor.clone()
        assert zero_inactive_(result, mask) is result
        for i in range(2):
            for j in range(3):
                expected = tensor[i, j].clone() if mask[i, j] else torch.zeros((), dtype=dtype)
                # As bytes: -0.0 and NaN count.
                got = result[i, j].clone()
                assert torch.equal(got.view(1).view(torch.uint8), expected.view(1).view(torch.uint8))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), -0.0, 1e-45])
def test_nothing_survives_off_the_mask(bad: float) -> None:
    tensor = torch.full((1000,), bad)
    zero_inactive_(tensor, torch.zeros(1000, dtype=torch.bool))
    assert not tensor.view(torch.int32).any()


@pytest.mark.parametrize("tensor_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mask_format", [torch.contiguous_format, torch.channels_last])
def test_memory_formats_may_differ(tensor_format: torch.memory_format, mask_format: torch.memory_format) -> None:
    values = torch.arange(1.0, 121).view(2, 3, 4, 5)
    mask = values % 3 == 0
    tensor = values.clone(memory_format=tensor_format)
    zero_inactive_(tensor, mask.clone(memory_format=mask_format))
    assert torch.equal(tensor, values * mask)


def test_a_view_writes_to_its_base() -> None:
    base = torch.ones(4, 6)
    zero_inactive_(base.T[1:3], torch.zeros(2, 4, dtype=torch.bool))
    assert torch.equal(base, torch.tensor([1.0, 0, 0, 1, 1, 1]).expand(4, 6))


def test_apply_masks_zeroes_and_touches_nothing_else() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masks = random_masks(model, 0.9, seed=0)
    assert apply_masks_(model, masks) is model
    for name, value in model.state_dict().items():
        expected = before[name] * masks[name] if name in masks else before[name]
        assert torch.equal(value, expected)
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())


MASK = torch.ones(20, 72, dtype=torch.bool)


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        ({"9.weight": MASK}, ValueError, "masks has '9.weight', which is no weight of the model. Weights: 0.weight, 3"),
        ({"1.weight": MASK}, ValueError, "masks has '1.weight', which is no weight"),  # a norm
        ({"3.bias": MASK}, ValueError, "masks has '3.bias', which is no weight"),
        ({"3.weight": MASK.float()}, TypeError, "the mask of '3.weight' must be a bool tensor, got torch.float32"),
        ({"3.weight": MASK.tolist()}, TypeError, "the mask of '3.weight' must be a bool tensor, got list"),
        ({"3.weight": MASK.T}, ValueError, r"the mask of '3.weight' has shape \(72, 20\), its weight \(20, 72\)"),
        ({"3.weight": MASK[:, :1]}, ValueError, r"has shape \(20, 1\), its weight"),  # would broadcast
    ],
)
def test_masks_that_do_not_fit(masks: dict[str, Tensor], error: type[Exception], message: str) -> None:
    model = network()
    before = model[3].weight.clone()
    with pytest.raises(error, match=message):
        apply_masks_(model, masks)
    assert torch.equal(model[3].weight, before)
