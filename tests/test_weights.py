"""The λ algebra: the paper's parametrisation and back, its warnings, its rules and every error message."""

import dataclasses
import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from efface.errors import ConfigError
from efface.objectives.weights import ObjectiveWeights, RemovalSignWarning

POSITIVE = st.floats(1e-3, 1e3)
UNIT = st.floats(0, 1)


def printed(alpha: float, beta: float, gamma: float) -> ObjectiveWeights:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RemovalSignWarning)
        return ObjectiveWeights.from_alpha_beta_gamma(alpha, beta, gamma)


@given(POSITIVE, UNIT, st.floats(0, 10))
def test_alpha_beta_gamma_there_and_back(alpha, beta, gamma):
    back = printed(alpha, beta, gamma).to_alpha_beta_gamma()
    assert back == pytest.approx((alpha, beta, gamma), rel=1e-9, abs=1e-9)


@given(POSITIVE, POSITIVE, st.floats(0, 1e3))
def test_weights_there_and_back(input_weight, target_weight, removal_weight):
    weights = ObjectiveWeights(input_weight, target_weight, removal_weight)
    back = printed(*weights.to_alpha_beta_gamma())
    assert dataclasses.astuple(back) == pytest.approx(dataclasses.astuple(weights), rel=1e-9, abs=1e-9)


@given(POSITIVE, UNIT, st.floats(0, 10), st.floats(0, 5), st.floats(0, 5), st.floats(0, 5))
def test_objective_is_equation_3(alpha, beta, gamma, i_x, i_y, i_z):
    equation_3 = -alpha * (1 - beta) * i_x - alpha * beta * i_y - alpha * (beta - gamma) * i_z
    assert printed(alpha, beta, gamma).objective(i_x, i_y, i_z) == pytest.approx(equation_3, abs=1e-9 * alpha * 100)


def test_objective_takes_tensors_and_keeps_their_gradients():
    informations = torch.ones(3, dtype=torch.float64, requires_grad=True)
    ObjectiveWeights(1.0, 2.0, 3.0).objective(*informations).backward()
    assert informations.grad.tolist() == [-1.0, -2.0, 3.0]


@pytest.mark.parametrize(("gamma", "effect"), [(0.2, r"raises I\(h;z\), the opposite"), (0.5, r"ignores I\(h;z\)")])
def test_gamma_not_above_beta_warns(gamma, effect):
    with pytest.warns(RemovalSignWarning, match=effect):
        weights = ObjectiveWeights.from_alpha_beta_gamma(1.0, 0.5, gamma)
    assert weights.removal_weight == pytest.approx(gamma - 0.5)
    assert not weights.drops_attribute


@given(POSITIVE, st.floats(0, 0.9), st.floats(1e-3, 5))
def test_gamma_above_beta_is_silent_and_its_phase_is_gamma_above_1(alpha, beta, excess):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights = ObjectiveWeights.from_alpha_beta_gamma(alpha, beta, beta + excess)
    if abs(beta + excess - 1) > 1e-6:
        assert weights.drops_attribute == (beta + excess > 1)


@pytest.mark.parametrize(
    ("weights", "drops", "keeps", "window"),
    [
        ((1.0, 0.5, 0.9), False, True, True),
        ((1.0, 0.5, 1.0), False, True, True),
        ((1.0, 0.5, 1.2), True, True, True),
        ((1.0, 0.5, 1.5), True, False, True),
        ((1.0, 0.0, 1.2), True, False, False),
        ((0.0, 1.0, 0.5), True, True, True),
    ],
)
def test_rules(weights, drops, keeps, window):
    built = ObjectiveWeights(*weights)
    assert built.drops_attribute is drops
    assert built.keeps_target_when_attribute_determines_it is keeps
    assert built.window_nonempty is window


def test_a_negative_removal_weight_comes_from_the_paper_alone():
    with pytest.raises(ConfigError, match=r"Expected `removal_weight` to be a finite number of at least 0, but got -1"):
        ObjectiveWeights(1.0, 1.0, -1.0)
    negative = printed(1.0, 0.5, 0.2)
    with pytest.raises(ConfigError, match="removal_weight"):
        dataclasses.replace(negative, input_weight=2.0)


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError, match=r"3 problems:\n1\. .*input_weight.*\n2\. .*target_weight.*\n3\. .*removal"):
        ObjectiveWeights(-1.0, math.nan, math.inf)
    with pytest.raises(ConfigError) as caught:
        ObjectiveWeights.from_alpha_beta_gamma(0.0, 1.5, -1.0)
    for part in (
        "3 problems",
        "Expected `alpha` to be a finite number larger than 0, but got 0.0.",
        "Expected `beta` to be a fraction from 0 to 1, but got 1.5.",
        "Expected `gamma` to be a finite number of at least 0, but got -1.0.",
    ):
        assert part in str(caught.value)


def test_beta_has_no_value_without_kept_information():
    with pytest.raises(ConfigError, match=r"Expected `input_weight \+ target_weight` to be above 0, but got 0"):
        ObjectiveWeights(0.0, 0.0, 1.0).to_alpha_beta_gamma()


def test_weights_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ObjectiveWeights(1.0, 1.0, 1.0).input_weight = 2.0
