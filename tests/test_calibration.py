"""Problems with known figures: each figure against what is drawn, and what each problem hides from whom."""

import importlib.util
import json
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from efface.audit.calibration import (
    PROBLEMS,
    Colour,
    GaussianMixture,
    Patch,
    Phase,
    RarestClass,
    TinyVariance,
    binary_bits,
    binary_entropy,
    build_problem,
)
from efface.errors import AuditError

SOURCE = Path(__file__).parent.parent / "benchmarks" / "calibration.py"
SPEC = importlib.util.spec_from_file_location("calibration_benchmark", SOURCE)
benchmark = sys.modules[SPEC.name] = importlib.util.module_from_spec(SPEC)  # dataclasses look their module up
SPEC.loader.exec_module(benchmark)
N = 6000


@pytest.fixture(scope="module")
def drawn():
    return {name: make().draw(N, np.random.default_rng(7)) for name, make in PROBLEMS.items()}


def near(values, wanted):
    """Whether the mean of independent values is within five standard errors of what is wanted."""
    return abs(values.mean() - wanted) <= 5 * values.std() / np.sqrt(len(values)) + 1e-9


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_figures_are_those_of_what_is_drawn(drawn, name):
    problem, sample = build_problem(name), drawn[name]
    posterior = sample.posterior
    assert sample.features.shape == (N, *problem.shape)
    assert sample.features.dtype == np.float32
    np.testing.assert_allclose(posterior.sum(1), 1)
    assert near(posterior.max(1), problem.bayes)
    told = posterior[np.arange(N), sample.labels]
    prior = np.array(problem.shares)[sample.labels]
    assert near(np.log2(told / prior), problem.bits)
    assert problem.floor <= problem.bayes <= 1


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_posterior_is_calibrated(drawn, name):
    """z occurs as often as p(z|h) says, where it says little and where it says much."""
    sample = drawn[name]
    for z in range(sample.posterior.shape[1]):
        said, is_z = sample.posterior[:, z], sample.labels == z
        for part in np.array_split(np.argsort(said), 4):
            spread = np.sqrt((said[part] * (1 - said[part])).sum()) + 1
            assert abs(is_z[part].sum() - said[part].sum()) < 5 * spread


def test_binary_bits_are_the_integral():
    for distance in (0.3, 1.0, 2.5):

        def left(x, a=distance):
            p = 1 / (1 + np.exp(-2 * a * x))
            return norm.pdf(x - a) * float(binary_entropy(np.array(p)))

        assert binary_bits(distance) == pytest.approx(1 - quad(left, -12, 14)[0], abs=1e-6)


def test_each_problem_hides_z_from_cheaper_looks(drawn):
    def correlations(values, labels):
        return [abs(np.corrcoef(column, labels)[0, 1]) for column in values.reshape(len(values), -1).T]

    noise = 5 / np.sqrt(N)
    for name in ("xor", "parity", "phase", "independent"):
        assert max(correlations(drawn[name].features, drawn[name].labels)) < noise, name
        assert max(correlations(drawn[name].features ** 2, drawn[name].labels)) < noise, name
    parity = drawn["parity"]
    pairs = np.stack([parity.features[:, i] * parity.features[:, j] for i, j in combinations(range(3), 2)], 1)
    assert max(correlations(pairs, parity.labels)) < noise
    triple = parity.features[:, :3].prod(1)
    assert abs(np.corrcoef(triple, parity.labels)[0, 1]) > 0.5
    # The sum over the map tells nothing of a patch, the product of two channels tells the phase.
    patch, phase = drawn["patch"], drawn["phase"]
    assert max(correlations(patch.features.mean((2, 3)), patch.labels)) < noise
    assert np.corrcoef((phase.features[:, 0] * phase.features[:, 1]).mean((1, 2)), phase.labels)[0, 1] < -0.5


def test_what_makes_each_problem_that_problem(drawn):
    # Unknown brightness hides a tint: one channel alone tells less than half of what all tell.
    colour = Colour()
    assert norm.cdf(colour.shift / np.sqrt(1 / 64 + colour.brightness**2)) < 0.55 < 0.9 < colour.bayes
    difference = np.diff(drawn["tiny-variance"].features[:, :2], axis=1)
    assert difference.std() < 0.01
    assert TinyVariance().bayes == pytest.approx(norm.cdf(2))
    rare = drawn["rare"]
    assert (rare.posterior.argmax(1) == 3).mean() < 0.06
    np.testing.assert_allclose(rare.posterior[:, 1] / rare.posterior[:, 0], 0.6)
    assert RarestClass().bayes - RarestClass().floor < 0.05
    assert abs(Patch().height * 2 - 4) < 1e-9  # four pixels of height 2: 4 in units of the matched filter's noise
    assert Phase().bayes == pytest.approx(1 - np.exp(-2.56) / 2)
    assert GaussianMixture().bayes == pytest.approx(norm.cdf(1.2) ** 2)


def test_the_same_generator_draws_the_same_people():
    for name in PROBLEMS:
        one, other = (build_problem(name).draw(20, np.random.default_rng(3)) for _ in range(2))
        np.testing.assert_array_equal(one.features, other.features)
        np.testing.assert_array_equal(one.labels, other.labels)


def test_unknown_problems_are_refused():
    with pytest.raises(AuditError, match=r"Unknown problem 'xr'\. Did you mean 'xor'"):
        build_problem("xr")


def test_who_knows_everything_finds_all_and_who_guesses_blindly_nothing(drawn):
    for name in PROBLEMS:
        problem, sample = build_problem(name), drawn[name]
        oracle = benchmark.measure(torch.from_numpy(sample.posterior).clamp_min(1e-300).log(), sample, problem)
        blind = benchmark.measure(torch.log(torch.tensor(problem.shares)).expand(N, -1), sample, problem)
        if name == "independent":
            assert oracle["accuracy"] == blind["accuracy"] == problem.floor
            continue
        assert oracle["share"] == 1.0
        assert oracle["bits"] == pytest.approx(problem.bits, abs=0.04)
        assert blind["share"] == pytest.approx(0, abs=0.08)
        assert blind["share_ci95"][0] <= 0.0 + 0.08
        assert blind["bits"] == pytest.approx(0, abs=0.04)


def test_the_benchmark_writes_its_table(tmp_path, monkeypatch):
    scale = benchmark.Scale((300, 150, 300), 2, ("linear", "conv", "trees", "ensemble"))
    monkeypatch.setitem(benchmark.SCALES, "smoke", scale)
    first, result = benchmark.run("smoke", 0, ["gaussian", "independent"], {})
    assert list(first["problems"]) == ["gaussian"]
    rows = result["problems"]["gaussian"]["attackers"]
    assert list(rows) == ["linear", "trees", "ensemble"]
    assert rows["linear"]["share"] > 0.8
    assert "have no neighbouring places" in result["problems"]["gaussian"]["skipped"]["conv"]
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(first))
    assert benchmark.finished(path, benchmark.about("smoke", 0)) == first["problems"]
    assert benchmark.finished(path, benchmark.about("smoke", 1)) == {}
    assert benchmark.finished(tmp_path / "none.json", benchmark.about("smoke", 0)) == {}
    text = benchmark.markdown(result)
    assert f"| `linear` | {rows['linear']['share']:.1%} |" in text
    assert "On independent the blind guess has 0.600" in text
    rows["ensemble"]["share"] = 0.5
    assert "falls short of 95% of the Bayes excess on: gaussian (50.0%; alone `linear`" in benchmark.markdown(result)
