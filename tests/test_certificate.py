"""The certificate: by hand, by the naive loop, by simulation at its nominal rate, and what it refuses."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from efface.audit.certificate import (
    Certificate,
    Holdout,
    binomial_bound,
    certify,
    code_counts,
    exact_accuracy,
    mcdiarmid_bound,
)
from efface.errors import AuditError

SOURCE = Path(__file__).parent.parent / "benchmarks" / "certificate.py"
SPEC = importlib.util.spec_from_file_location("certificate_benchmark", SOURCE)
simulation = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(simulation)

pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=50)


@given(pairs)
@settings(max_examples=60, deadline=None)
def test_the_empirical_figure_is_the_best_of_all_guesses(rows):
    a, b, z = (np.array(column) for column in zip(*rows, strict=True))
    found = certify(np.stack([a, b], 1), z)
    best = sum(
        max(((a == i) & (b == j) & (z == guess)).sum() for guess in range(3)) for i in range(4) for j in range(3)
    )
    assert found.empirical == pytest.approx(best / len(z))
    assert found.n == len(z)
    assert found.n_codes == len({(i, j) for i, j, _ in rows})
    assert found.empirical <= found.tighter <= found.bound + 1e-12 <= 1 + 1e-12


def test_the_number_of_theory():
    found = certify(np.arange(5000) % 4, np.arange(5000) // 4 % 3)
    assert found.bound - found.empirical == pytest.approx(0.0173, abs=5e-5)
    assert found.bound == pytest.approx(found.empirical + math.sqrt(math.log(20) / 10_000))
    assert found.confidence == 0.95


def test_the_binomial_bound_is_that_of_scipy():
    for right, n in ((0, 7), (3, 20), (70, 100), (99, 100)):
        exact = stats.binomtest(right, n, alternative="less").proportion_ci(0.9).high
        assert binomial_bound(right / n, n, 0.9) == pytest.approx(exact)
    assert binomial_bound(1.0, 5, 0.9) == 1.0


@given(st.integers(1, 2000), st.floats(0, 1), st.floats(0.01, 0.999))
@settings(deadline=None)
def test_the_binomial_bound_is_never_above_mcdiarmids(n, share, confidence):
    empirical = round(share * n) / n
    tighter = binomial_bound(empirical, n, confidence)
    assert tighter <= mcdiarmid_bound(empirical, n, confidence) + 1e-9
    assert tighter >= empirical or confidence < 0.5


@pytest.mark.parametrize("family", simulation.FAMILIES)
def test_it_holds_at_its_nominal_rate(family):
    for name, row in simulation.held(family, 0.9, 400, seed=1).items():
        # A bound that fails more often than 1 in 10 is wrong; 99 % intervals, two bounds, ten families.
        assert row["held_ci99"][1] >= 0.9, (name, row)


def test_exactly_where_there_is_least_to_spare():
    found = simulation.worst_cases(0.9, sizes=(10, 60), steps=100)
    least = {name: min(row["least"] for row in sizes.values()) for name, sizes in found.items()}
    assert least["mcdiarmid"] >= 0.9
    # The binomial bound has no slack: its least coverage is close to nominal, never below.
    assert 0.9 <= least["binomial"] < 0.905


def test_the_simulation_can_fail():
    """The plug-in figure itself, without its margin, is no bound."""
    exact = simulation.exact_coverage(np.array([0.8]), 60, 0.9, lambda empirical, n, confidence: empirical)
    assert exact[0] < 0.6


@given(pairs, st.integers(0, 49), st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)))
@settings(max_examples=60, deadline=None)
def test_one_person_moves_the_count_by_at_most_one(rows, place, other):
    """The bounded differences of the proof."""

    def right(people):
        a, b, z = (np.array(column) for column in zip(*people, strict=True))
        return int(code_counts(np.stack([a, b], 1), z).max(1).sum())

    place %= len(rows)
    assert abs(right([*rows[:place], other, *rows[place + 1 :]]) - right(rows)) <= 1


def test_the_estimate_is_never_too_low_on_average():
    """E[Â] ≥ A*, by going through every outcome of n people; and without equality where there is a tie to win."""
    generator = np.random.default_rng(0)
    for n in (1, 2, 5):
        for joint in (*generator.dirichlet(np.ones(4), 10), np.full(4, 0.25), np.array([0.5, 0, 0, 0.5])):
            outcomes = [k for k in np.ndindex(*[n + 1] * 4) if sum(k) == n]
            chance = stats.multinomial(n, joint).pmf(outcomes)
            estimates = np.array(outcomes).reshape(-1, 2, 2).max(2).sum(1) / n
            assert chance.sum() == pytest.approx(1)
            assert chance @ estimates >= exact_accuracy(joint.reshape(2, 2)) - 1e-9
    assert chance @ estimates == pytest.approx(1), "everything is told: no bias"


@given(pairs, st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_no_rule_is_right_about_more_people_than_are_counted(rows, seed):
    """K ≤ nÂ, on which the exact bound rests: the rule need not be known."""
    a, b, z = (np.array(column) for column in zip(*rows, strict=True))
    rule = np.random.default_rng(seed).integers(0, 3, (4, 3))
    assert (rule[a, b] == z).sum() <= round(certify(np.stack([a, b], 1), z).empirical * len(z))


def test_what_the_attacker_knows_beside_the_code_goes_into_the_code():
    """c is a coin and tells nothing of z = c XOR y: with y it tells all."""
    generator = np.random.default_rng(0)
    c, y = generator.integers(0, 2, (2, 4000))
    assert certify(c, c ^ y).bound < 0.55
    assert certify(np.stack([c, y], 1), c ^ y).empirical == 1.0


def test_no_attacker_beats_the_truth_that_is_bounded():
    joint = np.random.default_rng(0).dirichlet(np.ones(12)).reshape(4, 3)
    every = [joint[np.arange(4), rule].sum() for rule in np.ndindex(3, 3, 3, 3)]
    assert exact_accuracy(joint) == pytest.approx(max(every))


def test_missing_z_is_left_out_and_names_are_classes():
    found = certify([0, 0, 1, 1], [0, -1, 1, -1])
    assert (found.n, found.empirical) == (2, 1.0)
    assert certify([0, 0, 1], ["a", "b", "b"]).empirical == pytest.approx(2 / 3)
    assert code_counts(np.array([True, False]), np.array([3, 3])).tolist() == [[1], [1]]


def test_pairs_used_in_fitting_are_refused():
    codes, z = np.zeros(6, int), np.array([0, 1, 0, 1, 0, 1])
    with pytest.raises(AuditError, match=r"2 of the people counted were used in fitting: 4, 5\."):
        certify(codes, z, people=np.arange(6), fitted=[5, 4, 77])
    with pytest.raises(AuditError, match="used in fitting: ann"):
        certify(codes[:2], z[:2], holdout=Holdout(["ann", "bob"], ["ann"]))
    found = certify(codes, z, people=np.arange(6), fitted=np.arange(6, 9))
    assert found.checked
    assert "not checked" not in found.describe()
    assert not certify(codes, z).checked
    assert not certify(codes, z, people=np.arange(6)).checked
    assert "not checked" in certify(codes, z).describe()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": np.zeros((6, 2))}, "Expected `codes` to be integers .* quantise it first"),
        ({"codes": np.zeros((2, 3, 1), int)}, "Expected `codes` to be of shape"),
        ({"codes": np.zeros(5, int)}, "Expected `z` to be one class for each of the 5 codes"),
        ({"z": np.full(6, -1)}, "the class of at least one person"),
        ({"z": np.zeros(6)}, "classes \\(integers or names\\)"),
        ({"confidence": 1.0}, "Expected `confidence` to be between 0 and 1"),
        ({"people": [1, 1, 2, 3, 4, 5], "fitted": [9]}, "1 people are counted more than once: 1"),
        ({"people": [1, 2], "fitted": [9]}, "one id for each of the 6 codes"),
        ({"people": list("abcdef"), "fitted": [9]}, "ids of the type of `people`"),
        ({"fitted": [9]}, "given without `people`"),
        ({"people": range(6), "fitted": [9], "holdout": Holdout([], [])}, "not both"),
    ],
)
def test_errors_say_what_is_wrong(changes, message):
    given = {"codes": np.zeros(6, int), "z": np.arange(6) % 2, **changes}
    with pytest.raises(AuditError, match=message):
        certify(**given)


def test_all_problems_are_told_at_once():
    with pytest.raises(AuditError, match=r"(?s)3 problems:.*quantise.*confidence.*used in fitting"):
        certify(np.zeros(3), [0, 1, 0], 2.0, people=[1, 2, 3], fitted=[3])


def test_to_dict_and_the_sentence():
    found = certify([0, 1] * 50, [0, 0, 1, 1] * 25)
    values = found.to_dict()
    assert Certificate(**{k: v for k, v in values.items() if k != "description"}) == found
    text = values["description"]
    for part in (
        "no attacker can exceed 0.587",
        "is 0.623",
        "95 % confidence",
        "drawn independently",
        "code alone",
        "100 people",
    ):
        assert part in text
    for word in ("removed", "private", "safe"):
        assert word not in text


def test_a_bound_is_rounded_up_in_print():
    assert "can exceed 0.301 with" in Certificate(0.3001, 0.29, 10, 2, 0.95).describe()
