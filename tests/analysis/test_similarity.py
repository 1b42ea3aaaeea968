"""Divergences in closed form and their inequalities on arbitrary logits; votes and disagreements by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from sparseflow.analysis.divergences import js_divergence, kl_divergence
from sparseflow.analysis.ensembles import ENSEMBLES, collect_logits, ensemble_accuracy, ensemble_predictions
from sparseflow.analysis.similarity import (
    Spread,
    compare_functions,
    disagreement,
    disagreement_with_reference,
    pairwise_disagreement,
)
from sparseflow.rng import stream


def entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum(-1)


def kl_oracle(p: Tensor, q: Tensor) -> Tensor:
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1)


def random_logits(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(*shape, generator=stream(seed, "logits"), dtype=torch.float64)


def distribution(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


# --- divergences in closed form ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "q"), [(0.5, 0.25), (0.9, 0.1), (1e-9, 0.3), (0.2, 0.2)])
def test_bernoulli_by_hand(p: float, q: float) -> None:
    def h(x: float) -> float:
        return -x * math.log(x) - (1 - x) * math.log(1 - x)

    a, b = distribution(p, 1 - p), distribution(q, 1 - q)
    kl = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert kl_divergence(a, b).item() == pytest.approx(kl, rel=1e-12, abs=1e-15)
    assert js_divergence(a, b).item() == pytest.approx(h((p + q) / 2) - (h(p) + h(q)) / 2, rel=1e-12, abs=1e-15)


def test_one_class_against_all() -> None:
    """One-hot against uniform over C: KL is ln C; the other way it is the mean of the logits' lead less ln C."""
    certain, uniform = torch.tensor([1000.0] + [0.0] * 9), torch.zeros(10)
    assert kl_divergence(certain, uniform).item() == pytest.approx(math.log(10), rel=1e-15)
    assert kl_divergence(uniform, certain).item() == pytest.approx(900 - math.log(10), rel=1e-15)
    # The mean is 0.55 and 0.05: H = -.55 ln .55 - .45 ln .05.
    mixed = -0.55 * math.log(0.55) - 0.45 * math.log(0.05)
    assert js_divergence(certain, uniform).item() == pytest.approx(mixed - math.log(10) / 2, rel=1e-14)


@pytest.mark.parametrize("models", [2, 3, 5])
def test_models_that_are_sure_of_different_classes(models: int) -> None:
    logits = 1e3 * torch.eye(models)
    assert js_divergence(*logits).item() == pytest.approx(math.log(models), rel=1e-15)
    assert js_divergence(*logits[:2], *logits[:2]).item() == pytest.approx(math.log(2), rel=1e-15)


def test_random_distributions_against_the_definitions() -> None:
    logits = random_logits(5, 40, 10, scale=2)
    p = logits.softmax(-1)
    # rel of the oracle, whose terms cancel.
    assert torch.allclose(kl_divergence(logits[0], logits[1]), kl_oracle(p[0], p[1]), rtol=1e-11)
    expected = entropy(p.mean(0)) - entropy(p).mean(0)
    assert torch.allclose(js_divergence(*logits), expected, rtol=1e-11)
    assert kl_divergence(logits[0], logits[1]).shape == (40,)
    assert torch.allclose(kl_divergence(logits[0] + 7, logits[1] - 3), kl_divergence(logits[0], logits[1]), rtol=1e-12)


def test_close_distributions_keep_their_digits() -> None:
    """Second order: KL is half the variance of the difference under p, and JSD an eighth; here 1e-16 and less."""
    logits, change = random_logits(20, 10), random_logits(20, 10, seed=1)
    p = logits.softmax(-1)
    for size in (1e-4, 1e-6, 1e-8):
        variance = (p * change**2).sum(-1) - (p * change).sum(-1) ** 2
        expected = size**2 * variance / 2
        rtol = 10 * max(size, 1e-15 / size)  # the third order, or the rounding of the logits themselves
        assert torch.allclose(kl_divergence(logits, logits + size * change), expected, rtol=rtol, atol=0)
        assert torch.allclose(js_divergence(logits, logits + size * change), expected / 4, rtol=rtol, atol=0)


def test_float32_logits_are_compared_in_float64() -> None:
    a, b = random_logits(2, 50, 10).float()
    assert torch.equal(kl_divergence(a, b), kl_divergence(a.double(), b.double()))
    assert torch.equal(js_divergence(a, b), js_divergence(a.double(), b.double()))


# --- inequalities -----------------------------------------------------------------------------------------------------

FINITE = st.floats(-1e3, 1e3, width=64)
EXTREME = st.one_of(FINITE, st.sampled_from([-1e3, 0.0, 1e3]))


@st.composite
def logits_of_models(draw: st.DrawFn) -> Tensor:
    shape = draw(st.tuples(st.integers(2, 5), st.just(3), st.integers(2, 6)))
    return torch.from_numpy(draw(arrays(np.float64, shape, elements=EXTREME)))


#: Log-probabilities near 1e3 are rounded by 1e-13, ten classes and five models of them by less than 1e-11.
SLACK = 1e-11


@given(logits_of_models())
def test_the_inequalities_of_the_protocol(logits: Tensor) -> None:
    models = len(logits)
    kl = torch.stack([kl_divergence(p, q) for p, q in itertools.permutations(logits, 2)])
    all_of_them = js_divergence(*logits)
    assert torch.isfinite(kl).all()
    assert (kl >= 0).all()
    assert ((all_of_them >= 0) & (all_of_them <= math.log(models))).all()
    bound = (models - 1) / models * kl.mean(0)
    assert (all_of_them <= bound * (1 + SLACK) + SLACK).all()
    for p, q in itertools.combinations(logits, 2):
        both = (kl_divergence(p, q) + kl_divergence(q, p)) / 2
        pair = js_divergence(p, q)
        assert (both * (1 + SLACK) + SLACK >= 4 * pair).all()
        assert ((pair >= 0) & (pair <= math.log(2))).all()
        assert torch.allclose(pair, js_divergence(q, p), rtol=1e-14, atol=0)


@given(logits_of_models())
def test_divergences_are_zero_where_distributions_are_equal_and_only_there(logits: Tensor) -> None:
    same = logits[0]
    assert not kl_divergence(same, same).any()
    assert not js_divergence(*([same] * len(logits))).any()
    p, q = logits[0], logits[1]
    differ = ((p.softmax(-1) - q.softmax(-1)).abs() > 1e-7).any(-1)
    assert (kl_divergence(p, q) > 0)[differ].all()
    assert (js_divergence(p, q) > 0)[differ].all()


@given(logits_of_models(), st.randoms(use_true_random=False))
def test_the_order_of_models_and_classes_does_not_matter(logits: Tensor, random: object) -> None:
    models, classes = list(range(len(logits))), list(range(logits.shape[-1]))
    random.shuffle(models)  # type: ignore[attr-defined]
    random.shuffle(classes)  # type: ignore[attr-defined]
    shuffled = logits[models][..., classes]
    assert torch.allclose(js_divergence(*shuffled), js_divergence(*logits), rtol=SLACK, atol=SLACK)


# --- disagreement -----------------------------------------------------------------------------------------------------


def classes(*chosen: int, num_classes: int = 3) -> Tensor:
    """Logits of a model that predicts these classes."""
    return nn.functional.one_hot(torch.tensor(chosen), num_classes).double()


def test_disagreement_by_hand() -> None:
    models = torch.stack([classes(0, 1, 2, 0), classes(0, 1, 2, 1), classes(0, 2, 1, 1)])
    assert disagreement(models[0], models[1]) == 0.25
    assert disagreement(models[0], models[0] * 5 - 1) == 0
    pairs = pairwise_disagreement(models)
    assert pairs.values == (0.25, 0.75, 0.5)
    assert pairs.mean == 0.5
    assert pairs.std == pytest.approx(math.sqrt((0.25**2 + 0.25**2 + 0) / 3))  # ddof = 0
    assert (pairs.sum, pairs.sum_std) == (2.0, pytest.approx(4 * pairs.std))
    assert disagreement_with_reference(models, classes(0, 0, 0, 0)).values == (0.5, 0.75, 0.75)
    # Equal logits: the lowest class.
    assert disagreement(torch.zeros(1, 3), classes(0)) == 0
    assert disagreement(torch.zeros(1, 3), classes(1)) == 1


def test_spread_of_one_value() -> None:
    one = Spread((0.5,), 10)
    assert (one.mean, one.std, one.sum, one.sum_std) == (0.5, 0.0, 5.0, 0.0)


# --- ensembles --------------------------------------------------------------------------------------------------------


def test_ensembles_by_hand() -> None:
    """Columns are examples; the third is a tie of two votes that class 1 wins by its mean probability."""
    first = [[0.8, 0.1, 0.1], [0.90, 0.05, 0.05], [0.5, 0.4, 0.1]]
    second = [[0.1, 0.8, 0.1], [0.40, 0.60, 0.00], [0.1, 0.8, 0.1]]
    third = [[0.1, 0.1, 0.8], [0.40, 0.60, 0.00], [0.5, 0.4, 0.1]]
    fourth = [[0.2, 0.1, 0.7], [0.40, 0.60, 0.00], [0.2, 0.7, 0.1]]
    logits = (torch.tensor([first, second, third, fourth]) + 1e-12).log()
    # Means: .3 .275 .425; .525 .4625 .0125; .325 .575 .1.
    assert ensemble_predictions(logits).tolist() == [2, 0, 1]
    # Geometric means: fourth roots of .0016 .0008 .0056; .0576 .0108 0; .005 .0896 .0001.
    assert ensemble_predictions(logits, "logits").tolist() == [2, 0, 1]
    # Votes: 1 1 2; 1 3 0; 2 2 0.
    assert ensemble_predictions(logits, "votes").tolist() == [2, 1, 1]
    labels = torch.tensor([2, 1, 1])
    assert [ensemble_accuracy(logits, labels, how) for how in ENSEMBLES] == pytest.approx([2 / 3, 2 / 3, 1])


def test_means_of_probabilities_and_of_logits_differ() -> None:
    """Class 0 has probabilities 1, .12 and .12 and loses; its logits 30, -2 and -2 against zeros win."""
    logits = torch.tensor([[[30.0, 0.0]], [[-2.0, 0.0]], [[-2.0, 0.0]]])
    assert [ensemble_predictions(logits, how).item() for how in ENSEMBLES] == [1, 0, 1]


def test_ties_between_votes() -> None:
    # One vote each; mean probabilities .40 .35 .25 and .25 .35 .40.
    ahead = torch.tensor([[[0.6, 0.3, 0.1]], [[0.3, 0.6, 0.1]], [[0.3, 0.15, 0.55]]]).log()
    assert ensemble_predictions(ahead, "votes").item() == 0
    assert ensemble_predictions(ahead.flip(-1), "votes").item() == 2
    # A class without a vote does not win by its mean probability: .45 against .275 of those with one.
    popular = torch.tensor([[[0.45, 0.5, 0.05]], [[0.45, 0.05, 0.5]]]).log()
    assert ensemble_predictions(popular, "probabilities").item() == 0
    assert ensemble_predictions(popular, "votes").item() == 1  # and a full tie goes to the lowest class
    assert ensemble_predictions(popular.flip(0), "votes").item() == 1


@given(logits_of_models())
def test_ensembles_of_equal_models_are_that_model(logits: Tensor) -> None:
    same = logits[:1].round().expand(len(logits), -1, -1)  # apart by more than the rounding of a probability
    for how in ENSEMBLES:
        assert torch.equal(ensemble_predictions(same, how), same[0].argmax(-1))


def test_logits_are_collected_without_a_trace() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3)).train()
    data = [(torch.randn(n, 4, generator=stream(n, "data")), torch.zeros(n)) for n in (3, 1, 6)]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    found = collect_logits(model, iter(data))
    assert found.shape == (10, 3)
    assert not found.requires_grad
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert torch.equal(random, torch.get_rng_state())
    with torch.no_grad():
        assert torch.allclose(found, model.eval()(torch.cat([x for x, _ in data])), atol=1e-6)  # float32


# --- everything together ----------------------------------------------------------------------------------------------


def test_a_set_of_models_and_its_reference() -> None:
    """Each field against the definitions, over all pairs."""
    logits, reference = random_logits(4, 60, 5, scale=2), random_logits(60, 5, seed=1)
    labels = torch.randint(5, (60,), generator=stream(0, "labels"))
    found = compare_functions(logits, labels, reference)
    p, r = logits.softmax(-1), reference.softmax(-1)
    pairs, ordered = list(itertools.combinations(range(4), 2)), list(itertools.permutations(range(4), 2))

    def jsd(*several: Tensor) -> float:
        stacked = torch.stack(several)
        return float((entropy(stacked.mean(0)) - entropy(stacked).mean(0)).mean())

    expected = {
        "accuracy": [float((each.argmax(-1) == labels).double().mean()) for each in p],
        "disagreement": [float((p[i].argmax(-1) != p[j].argmax(-1)).double().mean()) for i, j in pairs],
        "kl": [float(kl_oracle(p[i], p[j]).mean()) for i, j in ordered],
        "jsd": [jsd(p[i], p[j]) for i, j in pairs],
        "jsd_of_all": [jsd(*p)],
        "disagreement_with_reference": [float((each.argmax(-1) != r.argmax(-1)).double().mean()) for each in p],
        "kl_to_reference": [float(kl_oracle(each, r).mean()) for each in p],
        "kl_from_reference": [float(kl_oracle(r, each).mean()) for each in p],
        "jsd_with_reference": [jsd(each, r) for each in p],
    }
    for name, values in expected.items():
        spread = getattr(found, name)
        assert spread.values == pytest.approx(values, rel=1e-11), name
        assert spread.mean == pytest.approx(np.mean(values), rel=1e-11)
        assert spread.std == pytest.approx(np.std(values), rel=1e-9, abs=1e-15)
        assert spread.sum == pytest.approx(60 * np.mean(values), rel=1e-11)
    assert found.num_examples == 60
    assert found.reference_accuracy == pytest.approx(float((r.argmax(-1) == labels).double().mean()))
    assert dict(found.ensemble_accuracy) == {how: ensemble_accuracy(logits, labels, how) for how in ENSEMBLES}


def test_without_a_reference_its_fields_are_none() -> None:
    found = compare_functions(random_logits(2, 7, 3), torch.zeros(7, dtype=torch.long))
    assert [name for name, value in vars(found).items() if value is None] == [
        "reference_accuracy",
        "disagreement_with_reference",
        "kl_to_reference",
        "kl_from_reference",
        "jsd_with_reference",
    ]


def test_a_set_of_copies_is_no_different_from_its_reference() -> None:
    one = random_logits(9, 4)
    found = compare_functions(one.expand(3, 9, 4), one.argmax(-1), one)
    assert found.accuracy.values == (1, 1, 1)
    for name in (
        "disagreement",
        "kl",
        "jsd",
        "jsd_of_all",
        "kl_to_reference",
        "kl_from_reference",
        "jsd_with_reference",
    ):
        assert not any(getattr(found, name).values), name


# --- errors -----------------------------------------------------------------------------------------------------------


def test_bad_input() -> None:
    good = random_logits(2, 4, 3)
    labels = torch.zeros(4, dtype=torch.long)
    bad = good.clone()
    bad[1, 0, 0] = math.nan
    for call in (
        lambda: kl_divergence(*bad),
        lambda: js_divergence(*bad),
        lambda: disagreement(*bad),
        lambda: disagreement(*bad.flip(0)),
        lambda: ensemble_predictions(bad),
        lambda: compare_functions(bad, labels),
    ):
        with pytest.raises(ValueError, match=r"logits has 1 of \d+ entries that are NaN or infinite"):
            call()
    for compare in (kl_divergence, js_divergence):
        with pytest.raises(ValueError, match=r"logits must have one shape \(..., classes\), got \(3, 3\) and \(4, 3\)"):
            compare(good[0], good[1, :3])
    with pytest.raises(ValueError, match=r"js_divergence compares two distributions or more, got 1. .* write \*logits"):
        js_divergence(good)
    with pytest.raises(
        ValueError, match=r"logits must have one shape \(examples, classes\), got \(4, 3\) and \(3, 3\)"
    ):
        disagreement(good[0], good[1, :3])
    with pytest.raises(ValueError, match=r"logits must have one shape \(examples, classes\), got \(3,\) and \(3,\)"):
        disagreement(good[0, 0], good[1, 0])
    with pytest.raises(ValueError, match=r"how must be one of 'probabilities', 'logits', 'votes', got 'mean'"):
        ensemble_predictions(good, "mean")
    with pytest.raises(ValueError, match=r"logits must be \(models, examples, classes\), got shape \(4, 3\)"):
        ensemble_predictions(good[0])
    with pytest.raises(ValueError, match=r"labels must be one class for each of 4 examples, got \(3,\)"):
        ensemble_accuracy(good, labels[:3])
    for few in (good[:1], good[0], good[:, :0]):
        with pytest.raises(ValueError, match=r"\(models, examples, classes\) with two models or more, got shape"):
            compare_functions(few, labels)
        with pytest.raises(ValueError, match=r"Write torch.stack\(\[collect_logits\(model, batches\)"):
            pairwise_disagreement(few)
    with pytest.raises(ValueError, match=r"batches is empty; give at least one \(inputs, targets\) pair"):
        collect_logits(nn.Linear(2, 2), [])
    with pytest.raises(ValueError, match=r"the model must give logits \(examples, classes\), got shape \(2, 3, 4\)"):
        collect_logits(nn.Identity(), [(torch.zeros(2, 3, 4), torch.zeros(2))])
