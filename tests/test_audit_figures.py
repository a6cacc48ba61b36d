"""Figures of an audit: floors, intervals, metrics, against enumeration, closed forms and naive loops."""

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from efface.audit.floors import conditional_entropy, entropy, floors, joint_table, label_guess
from efface.audit.intervals import accuracy_interval, excess_interval, mean_interval, paired_interval, resampled_means
from efface.audit.metrics import aum, aum_ceiling, bits, efficacy, excess_leakage, psnr, ssim
from efface.errors import AuditError

people = st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 4)), min_size=1, max_size=60)


@given(people)
@settings(max_examples=60, deadline=None)
def test_floors_equal_the_best_of_all_rules(pairs):
    y, z = (np.array(values) for values in zip(*pairs, strict=True))
    # Every rule from y to z, one y at a time: rules for different y don't interact.
    best = sum(max(((y == value) & (z == guess)).sum() for guess in range(5)) for value in set(y.tolist()))
    found = floors(y, z, 5)
    assert found.label == pytest.approx(best / len(z))
    assert found.majority == pytest.approx(max((z == guess).sum() for guess in range(5)) / len(z))
    assert found.chance == 0.2
    assert found.chance <= found.majority + 1e-12 <= found.label + 2e-12
    assert (label_guess(y, z, 5) == z).mean() == pytest.approx(found.label)


def test_label_floor_of_cifar10_is_the_one_of_theory():
    z = np.repeat(np.arange(10), 10)
    assert floors((z < 6).astype(int), z, 10).label == pytest.approx(0.6 / 6 + 0.4 / 4)
    assert aum_ceiling(0.2) == pytest.approx(0.889, abs=5e-4)


def test_floors_of_nobody_are_refused():
    with pytest.raises(AuditError, match="Nobody in this split has a label"):
        floors(np.array([], int), np.array([], int), 2)


@given(people)
@settings(max_examples=40, deadline=None)
def test_entropies_obey_the_chain_rule(pairs):
    y, z = (np.array(values) for values in zip(*pairs, strict=True))
    joint = joint_table(y, z, 5)
    given_y = sum(
        (y == v).mean() * entropy(joint_table(np.zeros((y == v).sum(), int), z[y == v], 5)) for v in set(y.tolist())
    )
    assert conditional_entropy(joint) == pytest.approx(given_y, abs=1e-9)
    assert -1e-9 <= conditional_entropy(joint) <= entropy(joint) + 1e-9 <= math.log2(5) + 1e-8


@pytest.mark.parametrize(("n", "p"), [(200, 0.3), (4623, 0.81), (10_000, 0.5)])
def test_interval_agrees_with_the_binomial(n, p):
    correct = np.arange(n) < round(n * p)
    low, high = accuracy_interval(correct, 0.95, resamples=20_000)
    exact = stats.binom.ppf([0.025, 0.975], n, p) / n
    np.testing.assert_allclose([low, high], exact, atol=0.06 * math.sqrt(p * (1 - p) / n) + 1 / n)


def test_interval_covers_at_its_nominal_rate():
    generator = np.random.default_rng(0)
    draws = generator.random((600, 500)) < 0.7
    covered = [low <= 0.7 <= high for low, high in (accuracy_interval(d, 0.9, 1000) for d in draws)]
    # Three standard errors of 600 trials, and the known small undercoverage of percentiles.
    assert 0.90 - 0.045 < np.mean(covered) < 0.90 + 0.04


@pytest.mark.parametrize(("correct", "side"), [(True, 0), (False, 1)])
def test_all_right_or_all_wrong_gets_the_exact_bound(correct, side):
    interval = accuracy_interval(np.full(30, correct), 0.95)
    exact = stats.binomtest(30 * correct, 30).proportion_ci(0.95, "exact")
    assert interval == pytest.approx((exact.low, exact.high))
    assert 0 < interval[side] < 1


def test_patterns_and_people_resample_alike():
    values = (np.random.default_rng(1).random((3000, 3)) < [0.2, 0.5, 0.7]).astype(float)
    quick = resampled_means(values, 4000)
    # A tiny jitter makes every person a pattern of their own, which takes the general path.
    jittered = resampled_means(values + np.random.default_rng(2).random((3000, 3)) * 1e-9, 4000)
    np.testing.assert_allclose(quick.mean(0), jittered.mean(0), atol=5e-4)
    np.testing.assert_allclose(np.cov(quick.T), np.cov(jittered.T), atol=1e-5)


def test_two_thousand_resamples_of_ten_thousand_people_take_less_than_a_second():
    right = np.random.default_rng(0).random((10_000, 3)) < 0.7
    start = time.process_time()
    excess_interval(right[:, 0], right[:, 1], right[:, 2])
    assert time.process_time() - start < 1


def test_pairing_cancels_what_is_common():
    a = np.random.default_rng(0).random(2000) < 0.6
    b = a.copy()
    b[:20] = ~b[:20]
    columns = np.stack([a, b], 1).astype(float)
    low, high = paired_interval(columns, lambda means: means[:, 0] - means[:, 1])
    single = accuracy_interval(a)
    assert high - low < 0.5 * (single[1] - single[0])


def test_excess_interval_holds_the_excess_and_is_finite():
    generator = np.random.default_rng(3)
    shares = {"best": 0.55, "original": 0.8, "floor": 0.45}
    right = {name: generator.random(4000) < share for name, share in shares.items()}
    low, high = excess_interval(**right)
    assert low < (0.55 - 0.45) / (0.8 - 0.45) < high < 0.45
    blind = excess_interval(right["best"], right["floor"], right["floor"])
    assert np.isfinite(blind).all()


def test_mean_interval_agrees_with_the_normal():
    values = np.random.default_rng(0).normal(3, 2, 1500)
    low, high = mean_interval(values, 0.95, 3000)
    error = values.std() / math.sqrt(1500)
    np.testing.assert_allclose([low, high], values.mean() + np.array([-1.96, 1.96]) * error, atol=0.1 * error)


def test_efficacy_is_two_sided_for_binary_attributes_only():
    assert efficacy(0.02, 2) == 0.98
    assert efficacy(0.02, 3) == 0.02


@given(st.floats(0, 1), st.floats(0, 1))
def test_aum_is_the_harmonic_mean(e, f):
    value = aum(e, f)
    assert 0 <= value <= 1
    if e < 1 and f > 1e-9:
        assert value == pytest.approx(2 / (1 / (1 - e) + 1 / f))


def test_aum_of_nothing_is_zero():
    assert aum(1.0, 0.0) == 0.0


def test_excess_leakage():
    assert excess_leakage(0.7, 0.7, 0.3) == 1
    assert excess_leakage(0.1, 0.7, 0.3) == 0
    assert excess_leakage(0.5, 0.29, 0.3) is None


def test_bits_of_a_perfect_and_of_a_blind_attacker():
    labels = torch.arange(4).repeat(5)
    assert bits(torch.eye(4)[labels] * 100, labels, 2.0) == pytest.approx(2.0, abs=1e-5)
    assert bits(torch.zeros(20, 4), labels, 2.0) == pytest.approx(0.0, abs=1e-6)


def naive_ssim(x, y, size=11, sigma=1.5):
    offsets = np.arange(size) - size // 2
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * sigma**2))
    window /= window.sum()
    values = []
    for channel in range(x.shape[0]):
        for i in range(x.shape[1] - size + 1):
            for j in range(x.shape[2] - size + 1):
                a, b = x[channel, i : i + size, j : j + size], y[channel, i : i + size, j : j + size]
                ma, mb = (window * a).sum(), (window * b).sum()
                va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
                cov = (window * (a - ma) * (b - mb)).sum()
                c1, c2 = 1e-4, 9e-4
                values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return np.mean(values)


@pytest.mark.parametrize(("side", "size"), [(16, 11), (8, 7), (7, 7)])
def test_ssim_equals_the_naive_loop(side, size):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 2, side, side, generator=generator)
    y = (x + 0.3 * torch.rand(x.shape, generator=generator)).clamp(0, 1)
    expected = [naive_ssim(a, b, size) for a, b in zip(x.double().numpy(), y.double().numpy(), strict=True)]
    np.testing.assert_allclose(ssim(x, y).numpy(), expected, rtol=1e-5)


def test_psnr_equals_its_definition_and_is_capped():
    x, y = torch.rand(4, 3, 9, 9), torch.rand(4, 3, 9, 9)
    expected = [10 * math.log10(1 / float(((a - b) ** 2).mean())) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(psnr(x, y).numpy(), expected, rtol=1e-5)
    assert psnr(x, x).tolist() == [100.0] * 4
