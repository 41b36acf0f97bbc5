"""The delay that is reckoned with: a quantile of those measured lately."""

from __future__ import annotations

import numpy as np
import pytest

from flow_policy_ros.runtime.delay import DelayEstimator


def test_nothing_is_known_before_the_first_delay() -> None:
    delays = DelayEstimator()
    assert delays.quantile(0.9) is None
    delays.add(7)
    assert [delays.quantile(share) for share in (0.0, 0.5, 1.0)] == [7, 7, 7]
    delays.clear()
    assert delays.quantile(0.9) is None


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.7, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("count", [1, 2, 10, 33])
def test_the_share_is_covered_and_by_no_more_than_needed(share: float, count: int) -> None:
    measured = np.random.default_rng(count).permutation(count) * 5
    delays = DelayEstimator(window=count)
    for delay in measured:
        delays.add(int(delay))
    answer = delays.quantile(share)
    assert answer in measured
    assert np.mean(measured <= answer) >= share - 1e-12
    assert answer == measured.min() or np.mean(measured < answer) < share


def test_what_is_long_past_does_not_count() -> None:
    delays = DelayEstimator(window=4)
    for delay in (900, 1, 2, 3, 4):
        delays.add(delay)
    assert delays.quantile(1.0) == 4


def test_one_outlier_is_not_covered_by_a_quantile_below_one() -> None:
    delays = DelayEstimator(window=20)
    for delay in (*[10] * 19, 5000):
        delays.add(delay)
    assert delays.quantile(0.9) == 10 and delays.quantile(1.0) == 5000


def test_clocks_that_disagree_give_no_delay_below_zero() -> None:
    delays = DelayEstimator()
    delays.add(-5)
    assert delays.quantile(1.0) == 0


def test_bounds() -> None:
    with pytest.raises(ValueError, match="window is 0"):
        DelayEstimator(0)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="expected 0 to 1"):
            DelayEstimator().quantile(share)
