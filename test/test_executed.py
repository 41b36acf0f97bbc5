"""What is being executed: set-points that were sent, then the plan, then its end; and when that is not known."""

from __future__ import annotations

import numpy as np
import pytest

from flow_policy_ros.runtime.executed import LEFT_PLAN, ExecutedTimeline
from flow_policy_ros.runtime.joint_order import BadInput
from flow_policy_ros.runtime.types import Plan, Setpoint

MS = 1_000_000
EPOCH = 1_800_000_000_000_000_001  # ns: a float holds it to 256 ns only
LATER = EPOCH + 10_000 * MS


def at(*ms: float) -> np.ndarray:
    return np.array([EPOCH + round(m * MS) for m in ms], dtype=np.int64)


def setpoint(ms: float, *position: float, names: tuple[str, ...] = ("a", "b")) -> Setpoint:
    values = np.array(position)
    return Setpoint(EPOCH + round(ms * MS), names, values, 0 * values, 0 * values)


def plan(ms: float, rows: list[list[float]], dt_ms: int = 20, names: tuple[str, ...] = ("a", "b")) -> Plan:
    return Plan(EPOCH + round(ms * MS), dt_ms * MS, names, np.array(rows, dtype=float), EPOCH)


@pytest.fixture
def timeline() -> ExecutedTimeline:
    """A plan from 100 ms on in steps of 20 ms, 0.00, 0.02, 0.04, 0.06; nothing sent of it yet."""
    line = ExecutedTimeline(("a", "b"))
    line.on_plan(plan(100, [[0.0, 1.0], [0.02, 1.02], [0.04, 1.04], [0.06, 1.06]]), EPOCH)
    return line


def test_the_plan_is_what_will_be_sent_and_its_end_is_held(timeline: ExecutedTimeline) -> None:
    executed = timeline.positions(at(100, 110, 145, 160, 161, 500), LATER)
    assert executed is not None and executed.known == 4
    np.testing.assert_allclose(executed.positions[:, 0], [0.0, 0.01, 0.045, 0.06, 0.06, 0.06], rtol=0, atol=1e-12)
    np.testing.assert_allclose(executed.positions[:, 1] - 1.0, executed.positions[:, 0], rtol=0, atol=1e-12)


def test_instants_are_kept_to_the_nanosecond(timeline: ExecutedTimeline) -> None:
    executed = timeline.positions(np.array([EPOCH + 110 * MS + 1]), LATER)
    assert executed is not None
    assert executed.positions[0, 0] == pytest.approx(0.01 + 1e-9, abs=1e-13)


def test_what_was_sent_goes_before_what_was_planned(timeline: ExecutedTimeline) -> None:
    for ms, a in ((80, 0.5), (90, 0.4), (100, 0.03), (110, 0.04)):  # near the plan, yet not quite
        timeline.on_setpoint(setpoint(ms, a, 1.0), EPOCH)
    executed = timeline.positions(at(85, 90, 105, 110, 115, 120, 140), LATER)
    assert executed is not None and executed.known == 7
    np.testing.assert_allclose(executed.positions[:, 0], [0.45, 0.4, 0.035, 0.04, 0.03, 0.02, 0.04], rtol=0, atol=1e-12)


def test_only_what_is_known_by_now_counts(timeline: ExecutedTimeline) -> None:
    timeline.on_plan(plan(120, [[9.0, 9.0], [9.0, 9.0]]), EPOCH + 130 * MS)
    timeline.on_setpoint(setpoint(110, 0.03, 1.0), EPOCH + 130 * MS)
    before, after = (timeline.positions(at(110, 120), EPOCH + ms * MS) for ms in (129, 130))
    assert before is not None and before.positions[:, 0].tolist() == pytest.approx([0.01, 0.02])
    assert after is not None and after.positions[:, 0].tolist() == pytest.approx([0.03, 9.0])


def test_nothing_is_continued_where_nothing_is_known(timeline: ExecutedTimeline) -> None:
    empty = ExecutedTimeline(("a", "b"))
    assert empty.positions(at(100), LATER) is None
    empty.on_setpoint(setpoint(100, 0.0, 0.0), EPOCH)
    assert empty.positions(at(100), LATER) is None  # set-points without a plan: a hold
    assert timeline.positions(at(99, 120), LATER) is None  # before everything
    assert timeline.positions(at(161, 180), LATER) is None  # after everything
    timeline.clear()
    assert timeline.positions(at(110), LATER) is None


def test_a_plan_that_was_left_is_not_continued(timeline: ExecutedTimeline) -> None:
    timeline.on_setpoint(setpoint(110, 0.01, 1.01 + 0.9 * LEFT_PLAN), EPOCH)
    assert timeline.positions(at(120), LATER) is not None
    timeline.on_setpoint(setpoint(120, 0.02, 1.02 + 1.1 * LEFT_PLAN), EPOCH)
    assert timeline.positions(at(120), LATER) is None
    timeline.on_plan(plan(130, [[0.0, 1.1], [0.0, 1.1]]), EPOCH)  # the next one is followed again
    assert timeline.positions(at(130), LATER) is not None


def test_joints_are_matched_by_name() -> None:
    line = ExecutedTimeline(("b", "a"))
    line.on_plan(plan(100, [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], names=("a", "x", "b")), EPOCH)
    executed = line.positions(at(100), LATER)
    assert executed is not None and executed.positions.tolist() == [[3.0, 1.0]]


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (setpoint(0, 1.0, names=("a",)), "executed_names"),
        (setpoint(0, 1.0, np.nan), "executed_not_finite"),
        (plan(0, [[1.0], [1.0]], names=("b",)), "plan_names"),
        (plan(0, [[1.0, np.inf], [1.0, 1.0]]), "plan_not_finite"),
        (plan(0, [[1.0, 1.0], [1.0, 1.0]], dt_ms=0), "plan_dt"),
        (Plan(0, MS, ("a", "b"), np.zeros((0, 2)), 0), "plan_shape"),
        (Plan(0, MS, ("a", "b"), np.zeros(2), 0), "plan_shape"),
    ],
)
def test_bad_inputs_are_refused(timeline: ExecutedTimeline, bad: Setpoint | Plan, kind: str) -> None:
    with pytest.raises(BadInput) as refused:
        timeline.on_setpoint(bad, EPOCH) if isinstance(bad, Setpoint) else timeline.on_plan(bad, EPOCH)
    assert refused.value.kind == kind
    executed = timeline.positions(at(100), LATER)
    assert executed is not None and executed.positions[0].tolist() == [0.0, 1.0]
