"""Steps for a time budget: the choice is the largest that fits, and the cost is fitted as SciPy would."""

import math
import random

import pytest
from scipy.optimize import nnls

from flow_policy_ros.flow.deadline import StepChoice, StepCost, fit_cost, steps_within


def test_the_choice_by_hand():
    cost = StepCost(fixed_s=0.010, per_evaluation_s=0.004)
    assert steps_within(0.035, cost, 1, 20) == StepChoice(6, pytest.approx(0.034), True)
    assert steps_within(0.035, cost, 2, 20) == StepChoice(3, pytest.approx(0.034), True)
    assert steps_within(1.0, cost, 1, 20) == StepChoice(20, pytest.approx(0.090), True)
    assert steps_within(0.013, cost, 1, 20) == StepChoice(1, pytest.approx(0.014), False)
    assert steps_within(0.005, cost, 4, 20) == StepChoice(1, pytest.approx(0.026), False)


def test_the_choice_is_the_largest_that_fits():
    """Over random costs and budgets, against trying every count; budgets that equal a prediction exactly among them."""
    draw = random.Random(0)
    fitted = 0
    for _ in range(500):
        cost = StepCost(draw.uniform(0, 0.02), draw.choice([0.0, draw.uniform(1e-4, 0.02)]))
        evaluations, most = draw.choice([1, 2, 4, 6]), draw.randint(1, 30)
        budget = draw.choice([draw.uniform(1e-3, 0.3), cost.seconds(evaluations * draw.randint(1, most))]) or 1e-3
        within = [n for n in range(1, most + 1) if cost.fixed_s + n * evaluations * cost.per_evaluation_s <= budget]
        choice = steps_within(budget, cost, evaluations, most)
        assert choice.steps == max(within, default=1) and choice.fits == bool(within)
        assert choice.expected_s == cost.fixed_s + choice.steps * evaluations * cost.per_evaluation_s
        fitted += choice.fits
    assert 100 < fitted < 500


def test_an_exact_line_is_found_again():
    cost = fit_cost([(nfe, 0.012 + 0.0034 * nfe) for nfe in (1, 2, 4, 10, 20)])
    assert cost.fixed_s == pytest.approx(0.012) and cost.per_evaluation_s == pytest.approx(0.0034)
    assert cost.seconds(10) == pytest.approx(0.046)


def test_the_fit_is_the_non_negative_least_squares_of_scipy():
    draw = random.Random(1)
    kinds = set()
    for _ in range(300):
        slope, fixed = draw.choice([0.0, 0.003]), draw.choice([0.0, 0.02])
        measurements = [
            (nfe, max(1e-6, fixed + slope * nfe + draw.gauss(0.0, 0.004))) for nfe in (1, 1, 2, 4, 10, 10) for _ in range(2)
        ]
        cost = fit_cost(measurements)
        (fixed_s, per_evaluation_s), _ = nnls([[1.0, nfe] for nfe, _ in measurements], [s for _, s in measurements])
        assert (cost.fixed_s, cost.per_evaluation_s) == pytest.approx((fixed_s, per_evaluation_s), rel=1e-9, abs=1e-15)
        kinds.add((fixed_s > 0, per_evaluation_s > 0))
    assert kinds == {(True, True), (True, False), (False, True)}, "every case occurred"


@pytest.mark.parametrize("budget", [0.0, -0.01, math.nan, math.inf])
def test_a_budget_that_is_none_is_refused(budget):
    with pytest.raises(ValueError, match=r"budget_s is .* s, expected a positive number"):
        steps_within(budget, StepCost(0.0, 0.01), 1, 10)


def test_bad_input_is_named():
    cost = StepCost(0.0, 0.01)
    with pytest.raises(ValueError, match="evaluations_per_step is 0, expected at least 1"):
        steps_within(0.1, cost, 0, 10)
    with pytest.raises(ValueError, match="most is 0, expected at least 1"):
        steps_within(0.1, cost, 1, 0)
    for fixed, per_evaluation, field in ((-1e-3, 0.0, "fixed_s"), (0.0, math.nan, "per_evaluation_s"), (math.inf, 0.0, "fixed_s")):
        with pytest.raises(ValueError, match=f"{field} is .* s, expected a finite number"):
            StepCost(fixed, per_evaluation)
    for measurements in ([], [(1, 0.1)], [(10, 0.1), (10, 0.2)]):
        with pytest.raises(ValueError, match="different NFE, expected at least 2"):
            fit_cost(measurements)
    for bad in ((0, 0.1), (5, 0.0), (5, -0.1), (5, math.nan)):
        with pytest.raises(ValueError, match="expected an NFE of at least 1 and a positive time"):
            fit_cost([(1, 0.1), bad])
