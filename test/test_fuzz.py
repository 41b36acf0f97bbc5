"""The fuzz suite finds nothing in the safety stage, and finds every fault that is planted there.

The long mode is ``flow_policy fuzz --ticks 1000000``.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flow_policy_ros.cli import fuzz as command
from flow_policy_ros.evaluation.fuzz import fuzz, play
from flow_policy_ros.evaluation.fuzz_checks import Moment, Record, violations
from flow_policy_ros.evaluation.fuzz_scenarios import Scenario
from flow_policy_ros.runtime.joint_limits import JointLimits
from flow_policy_ros.safety import command_loop
from flow_policy_ros.safety.acceleration_limiter import AccelerationLimiter
from flow_policy_ros.safety.command_loop import CommandLoop
from flow_policy_ros.safety.following import Follower
from flow_policy_ros.safety.guard import GuardState
from flow_policy_ros.safety.limiter import SetpointLimiter
from flow_policy_ros.safety.watch import JointWatch

SCENARIOS = 50  # of 1000 ticks


@pytest.mark.filterwarnings("error")
def test_nothing_is_found_in_fifty_thousand_ticks() -> None:
    result = fuzz(SCENARIOS * 1000, seed=0)
    assert result.found == []
    assert result.ticks == SCENARIOS * 1000
    # It went where it is dangerous, and did not sit in a fault all the time.
    assert result.states["active"] > 0.3 * result.ticks and min(result.states[s.value] for s in GuardState) > 100
    assert len(result.faults) >= 9 and len(result.rejections) >= 8


@settings(deadline=None, derandomize=True, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**31 - 1), index=st.integers(0, 10**6))
def test_nothing_is_found_elsewhere(seed: int, index: int) -> None:
    assert play(seed, index, ticks=200).violations == []


def test_a_scenario_can_be_played_again() -> None:
    first, again, other = play(3, 5, 300), play(3, 5, 300), play(3, 6, 300)
    assert (first.states, first.faults, first.rejections) == (again.states, again.faults, again.rejections)
    assert first.states != other.states


def test_two_processes_find_the_same() -> None:
    one, two = fuzz(4000, seed=9), fuzz(4000, seed=9, jobs=2)
    assert (one.states, one.faults, one.setpoints, one.ticks) == (two.states, two.faults, two.setpoints, two.ticks)


class ForgetsJerk(SetpointLimiter):
    def __init__(self, limits, period_s):
        super().__init__(limits, period_s)
        self._weights[:] = 0.0
        self._weights[-1] = 1.0


class AveragesOneTooFew(SetpointLimiter):
    def __init__(self, limits, period_s):
        super().__init__(limits, period_s)
        ticks = np.maximum(self._ticks - 1, 1)
        self._weights = np.where(np.arange(self._length)[::-1, None] < ticks, 1.0 / ticks, 0.0)


class DoesNotWait(SetpointLimiter):
    """Lower limits are in force at once."""

    def _apply_pending(self):
        if self._pending is not None:
            self._inner._use(self._pending)
            self._limits, self._pending = self._pending, None
        return True


class NeverTakesLimits(SetpointLimiter):
    def _apply_pending(self):
        return True


class WaitsForTheInnerMotionOnly(SetpointLimiter):
    """What is still in the average is forgotten."""

    def _apply_pending(self):
        if self._pending is not None and self._inner.obeys(self._pending):
            self._inner.change(self._pending)
            self._limits, self._pending = self._pending, None
        return self._pending is None


class ReadsOneTickAhead(SetpointLimiter):
    def __init__(self, limits, period_s):
        super().__init__(limits, period_s)
        self.lead = self.lead + 1


class ReadsNothingAhead(SetpointLimiter):
    def __init__(self, limits, period_s):
        super().__init__(limits, period_s)
        self.lead = np.zeros_like(self.lead)


class StopsAtOnce(SetpointLimiter):
    def stop_step(self):
        self._inner._velocity = np.zeros_like(self._inner._velocity)
        return super().stop_step()


class StopsTooSoftly(SetpointLimiter):
    def stop_step(self):
        return self.step(self._inner.position + 0.8 * self._inner.velocity * self._period)


class StopsAfterTheNextTick(SetpointLimiter):
    """One more tick at the velocity of before: harmless for limits, but it may be one tick too many."""

    def stop_step(self):
        return self.step(self._inner.position + self._inner.velocity * self._period * 1.5)


@pytest.mark.parametrize(
    ("wrong", "checks"),
    [
        (ForgetsJerk, {"jerk"}),
        (AveragesOneTooFew, {"jerk"}),
        (DoesNotWait, {"velocity", "acceleration", "jerk"}),
        (NeverTakesLimits, {"limits_pending"}),
        (WaitsForTheInnerMotionOnly, {"velocity", "acceleration", "jerk"}),
        (ReadsOneTickAhead, {"off_the_path"}),
        (ReadsNothingAhead, {"off_the_path"}),
        (StopsAtOnce, {"acceleration", "jerk"}),
        (StopsTooSoftly, {"stop_endless"}),
        (StopsAfterTheNextTick, {"stop_endless", "stop_accelerates"}),
    ],
)
def test_a_wrong_limiter_is_found(wrong, checks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_loop, "SetpointLimiter", wrong)
    assert found(CommandLoop, checks)


def test_a_stop_before_the_range_that_comes_too_late_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = AccelerationLimiter._approach_speed
    monkeypatch.setattr(AccelerationLimiter, "_approach_speed", lambda self, distance: 1.02 * whole(self, distance))
    assert found(CommandLoop, {"position", "acceleration"})


class FollowsOnAfterReset(CommandLoop):
    """Chunks and plan of before the fault are still there."""

    def reset(self):
        timeline, self._timeline = self._timeline, type(self._timeline)(self._robot.joints)
        super().reset()
        self._timeline = timeline


class GrantsEveryReset(CommandLoop):
    """Jumps to the measured position while the robot moves."""

    def request_reset(self):
        self.reset()
        return None


class StartsWhereItWas(CommandLoop):
    last = None

    def _start(self, now):
        step = super()._start(now)
        return step if step is None or self.last is None else self._limiter.start(self.last)

    def tick(self, now):
        done = super().tick(now)
        if done.setpoint is not None:
            self.last = done.setpoint.position
        return done


class StartsAtZero(CommandLoop):
    def _start(self, now):
        step = super()._start(now)
        return None if step is None else self._limiter.start(np.clip(0.0, self._robot.limits.lower, self._robot.limits.upper))


class TrustsOldStates(CommandLoop):
    def _joint_state(self, now):
        return super()._joint_state(now)[0], None


class ForgetsTheEmergency(CommandLoop):
    def reset(self):
        self._emergency = False
        super().reset()


class IgnoresTheSwitch(CommandLoop):
    def stop_reason(self, now):
        return None if self._enabled else "not enabled"


class IgnoresHold(CommandLoop):
    def stop_reason(self, now):
        return self._switch.problem(now, self._parameters.deadman_max_age_s)


class FollowsOldChunks(CommandLoop):
    def update(self, parameters):
        super().update(replace(parameters, chunk_max_age_s=60.0))


class LosesFaults(CommandLoop):
    """A fault goes away with its reason."""

    def tick(self, now):
        if self._guard.state is GuardState.FAULT and self._limiter.started and self._limiter.at_rest:
            self._guard.reset()
            self._guard.state = GuardState.HOLDING
        return super().tick(now)


class FallsSilentInAFault(CommandLoop):
    def tick(self, now):
        done = super().tick(now)
        return replace(done, setpoint=None) if done.state is GuardState.FAULT else done


class PublishesTheTarget(CommandLoop):
    """The limiter is asked, and its answer is not used."""

    def _target(self, now):
        self.target = super()._target(now)
        return self.target

    def tick(self, now):
        self.target = None
        done = super().tick(now)
        if self.target is None or done.setpoint is None:
            return done
        return replace(done, setpoint=replace(done.setpoint, position=self.target))


class SkipsAfterAMissedTick(CommandLoop):
    """Catches up what a late tick missed."""

    before = None

    def tick(self, now):
        late = self.before is not None and self._limiter.started and now - self.before > 1.8e9 * self._limiter.period_s
        self.before = now
        done = super().tick(now)
        return super().tick(now) if late and done.setpoint is not None else done


class OverlooksEfforts(CommandLoop):
    def __init__(self, robot, parameters):
        super().__init__(robot, parameters)
        self._joint_watch = JointWatch(robot.joints, robot.limits.tracking, np.full(len(robot.joints), np.inf))


@pytest.mark.parametrize(
    ("wrong", "checks"),
    [
        (FollowsOnAfterReset, {"no_chunk"}),
        (GrantsEveryReset, {"reset_granted"}),
        (StartsWhereItWas, {"first_setpoint"}),
        (StartsAtZero, {"first_setpoint"}),
        (TrustsOldStates, {"stale"}),
        (ForgetsTheEmergency, {"emergency"}),
        (IgnoresTheSwitch, {"not_allowed"}),
        (IgnoresHold, {"not_allowed"}),
        (FollowsOldChunks, {"no_chunk"}),
        (LosesFaults, {"transition"}),
        (FallsSilentInAFault, {"silent"}),
        (PublishesTheTarget, {"velocity", "acceleration", "jerk"}),
        (SkipsAfterAMissedTick, {"velocity", "acceleration", "jerk"}),
        (OverlooksEfforts, {"effort"}),
    ],
)
def test_a_wrong_loop_is_found(wrong, checks) -> None:
    assert found(wrong, checks)


def test_a_chunk_that_reaches_the_limiter_unchecked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN out of the shaping: the limiter refuses it, the loop stops, and that counts as a bug."""
    whole = Follower.target
    count = iter(range(10**9))

    def sometimes(self, advance=1.0):
        target = whole(self, advance)
        return target if target is None or next(count) % 200 else target * np.nan

    monkeypatch.setattr(Follower, "target", sometimes)
    assert found(CommandLoop, {"internal_error"})


def found(make_loop, checks: set[str]) -> bool:
    """Whether one of ``checks`` fires in the run that is made at each change of the code."""
    indices = [index for index in range(SCENARIOS) if checks != {"off_the_path"} or Scenario(0, index).calm]
    return any(checks & {v.check for v in play(0, index, make_loop=make_loop).violations} for index in indices)


def moments(positions: np.ndarray, states: list[str], limits: JointLimits) -> Record:
    period = 0.01
    rest = np.concatenate([np.repeat(positions[:1], 2, axis=0), positions])
    velocity = np.diff(rest, axis=0)[1:] / period
    acceleration = np.diff(rest, 2, axis=0) / period**2
    return Record(period, [
        Moment(k * 10**7, state, p, v, a, limits, limits, first=positions[0])
        for k, (state, p, v, a) in enumerate(zip(states, positions, velocity, acceleration, strict=True))
    ])


@pytest.mark.parametrize(("spoiled", "check"), [(2e-8, "jerk"), (np.nan, "position"), (1.0, "position")])
def test_the_checker_sees_a_hair_and_nothing_when_there_is_nothing(spoiled: float, check: str) -> None:
    """A motion at the very limit of jerk passes; one position changed by 2e-8 rad does not."""
    one = np.ones(1)
    limits = JointLimits(("a",), -0.5 * one, 0.5 * one, 10 * one, 1000 * one, np.inf * one, 0.999999e3 * one)
    jerk = np.concatenate([[0.0], 999.999 * np.ones(8), -999.999 * np.ones(8)])
    positions = np.cumsum(np.cumsum(np.cumsum(jerk)))[:, None] * 1e-6 - 0.1
    states = ["starting", *["active"] * (len(positions) - 1)]
    assert violations(moments(positions, states, limits)) == []
    positions[7] += spoiled
    assert check in {v.check for v in violations(moments(positions, states, limits))}


def test_the_command_writes_figures_and_its_verdict(tmp_path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    file = tmp_path / "figures.json"
    assert command.main(["--ticks", "2000", "--seed", "1", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert figures["ticks"] == 2000 and figures["violations"] == [] and figures["setpoints"] > 0
    capsys.readouterr()
    monkeypatch.setattr(command_loop, "SetpointLimiter", ForgetsJerk)
    assert command.main(["--ticks", "3000", "--seed", "1"]) == 1
    [first, *_] = json.loads(capsys.readouterr().out)["violations"]
    assert command.main(["--only", str(first["scenario"]), "--seed", "1"]) == 1
    assert first in json.loads(capsys.readouterr().out)["violations"]
