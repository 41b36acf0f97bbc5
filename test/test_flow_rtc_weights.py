"""How strongly real-time chunking holds each step to the previous chunk."""

import math

import pytest
import torch

from flow_policy_ros.flow.real_time_chunking import rtc_weights


def test_the_linear_weights_of_the_published_example():
    """delay 2, end 6 of 10."""
    expected = [1, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5, 0, 0, 0, 0]
    assert rtc_weights(10, delay=2, execute=4, schedule="linear").tolist() == pytest.approx(expected)


def test_the_exponential_weights_by_hand():
    ramp = [1, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5]
    expected = [c * (math.exp(c) - 1) / (math.e - 1) for c in ramp] + [0] * 4
    weights = rtc_weights(10, delay=2, execute=4)
    assert weights.tolist() == pytest.approx(expected) and weights.dtype == torch.float32
    assert weights[2].item() == pytest.approx(0.5705890), "0.8 (e^0.8 - 1) / (e - 1)"


@pytest.mark.parametrize("schedule", ["linear", "exponential"])
@pytest.mark.parametrize(
    ("horizon", "delay", "execute"), [(16, 8, 8), (48, 20, 20), (48, 20, 28), (16, 0, 4), (8, 0, 8), (16, 3, 5)]
)
def test_weights_hold_the_committed_steps_and_free_the_last(schedule, horizon, delay, execute):
    weights = rtc_weights(horizon, delay, execute, schedule)
    end = horizon - execute
    assert weights.shape == (horizon,)
    assert (weights[:delay] == 1).all() and (weights[end:] == 0).all()
    between = weights[delay:end]
    assert ((between > 0) & (between < 1)).all() and (between.diff() < 0).all()


@pytest.mark.parametrize(
    ("horizon", "delay", "execute", "allowed"),
    [
        (16, 9, 9, "delay of 0 to 8 is allowed"),
        (16, -1, 4, "delay of 0 to 8 is allowed"),
        (48, 20, 19, "execute of 20 to 28 is allowed"),
        (48, 20, 29, "execute of 20 to 28 is allowed"),
        (16, 0, 17, "execute of 0 to 16 is allowed"),
    ],
)
def test_delays_that_do_not_fit_are_refused_by_number(horizon, delay, execute, allowed):
    with pytest.raises(ValueError, match=f"horizon is {horizon}, delay {delay} and execute {execute} steps; .*{allowed}"):
        rtc_weights(horizon, delay, execute)


def test_every_admitted_combination_is_finite():
    """Also where nothing lies between committed and free steps."""
    for horizon in range(1, 13):
        for delay in range(horizon // 2 + 1):
            for execute in range(delay, horizon - delay + 1):
                for schedule in ("linear", "exponential"):
                    weights = rtc_weights(horizon, delay, execute, schedule)
                    assert ((weights >= 0) & (weights <= 1)).all() and weights.sum() >= delay


def test_an_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="unknown schedule 'cosine'; known: exponential, linear"):
        rtc_weights(16, 2, 4, "cosine")
