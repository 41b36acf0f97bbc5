"""One fuzzed scenario: a command loop, a clock, a robot and a policy that misbehave, and the record of what came of it.

Everything is drawn from (seed, index): a scenario can be played again alone. What is wrong is found by ``fuzz_checks``.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter_ns

import numpy as np

from flow_policy_ros.evaluation.fuzz_checks import Moment, Record, Violation, averaged_ticks
from flow_policy_ros.evaluation.fuzz_inputs import (
    RATES_HZ,
    Hazards,
    changed,
    drawn_parameters,
    drawn_robot,
    malformed,
    odd_positions,
    wave,
)
from flow_policy_ros.runtime.joint_limits import JointLimits
from flow_policy_ros.runtime.parameters import CommandParameters
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import Chunk, FloatArray, JointState
from flow_policy_ros.safety.command_loop import CommandLoop
from flow_policy_ros.safety.statistics import CommandStatistics

MakeLoop = Callable[[Robot, CommandParameters], CommandLoop]
CALM_SHARE = 0.15
"""Of the scenarios nothing goes wrong in, and the set-points have to be where the chunks are."""
SETTLED_NS = 1_500_000_000
"""The calm path is then joined, whatever the robot."""
KEPT_STATES = 64


@dataclass(frozen=True)
class Known:
    """A good joint state that was delivered."""

    stamp: int
    received: int
    position: FloatArray
    strong: bool


class Scenario:
    """``play`` it once. ``record`` fills, ``took_ns`` is what each tick cost; in a ``calm`` one nothing goes wrong."""

    def __init__(self, seed: int, index: int, make_loop: MakeLoop = CommandLoop) -> None:
        self._rng = rng = np.random.default_rng((seed, index))
        rate = float(rng.choice(RATES_HZ))
        self._period, self._tick_ns = 1.0 / rate, round(1e9 / rate)
        self.calm = bool(rng.random() < CALM_SHARE)
        self._hazards = Hazards() if self.calm else Hazards.drawn(rng)
        self._robot = drawn_robot(rng, self._period, self.calm)
        self._parameters = drawn_parameters(rng, rate)
        if self.calm:
            splice_s = float(rng.choice([0.0, 0.02, 0.06]))
            self._parameters = CommandParameters(rate_hz=rate, soft_start_s=0.0, splice_s=splice_s, chunk_max_age_s=60.0)
        limits = self._robot.limits
        self._asked = self._scaled()
        self._span = averaged_ticks(limits, self._period) * self._period
        self._middle, self._amplitude, self._omega = wave(rng, limits, self._span)
        self._loop = make_loop(self._robot, self._parameters)
        self.record = Record(self._period)
        self.took_ns: list[int] = []
        self._now = int(rng.choice([0, 10**9, 1_700_000_000 * 10**9]))
        self._measured = np.clip(self._middle, limits.lower, limits.upper)
        self._states: list[Known] = []  # ascending (stamp, received)
        self._chunks: list[tuple[int, int]] = []  # stamp, received of those that could be followed
        self._enabled = self._parameters.autostart
        self._halted = False
        self._emergency = self._reset = self._strong = self._away = False
        self._pressed: int | None = None
        self._pressing = True
        self._silent = 0
        self._epoch: int | None = None  # where the calm wave begins
        self._every = int(rng.integers(1, 30))
        self._state_every = int(rng.integers(1, 4))
        self._prepares, self._slip = bool(rng.random() < 0.5), float(rng.choice([0.0, 0.1, 1.0, 100.0])) * self._tick_ns
        self._slip *= not self.calm
        # A calm chunk reaches beyond the next one and what the average reads ahead, with no more points than are taken.
        reach = self._every + 2.0 * float(self._span.max()) / self._period
        apart = max(1 if self._period >= 0.005 else 5, int(np.ceil(reach / 200.0)))
        self._calm_dt_ns, self._calm_count = apart * self._tick_ns, max(12, int(np.ceil(reach / apart)) + 3)
        self._published: FloatArray | None = None
        self._before: FloatArray | None = None

    def play(self, ticks: int) -> Record:
        """Run to the end; an exception out of the loop ends it early and is a violation."""
        for k in range(ticks):
            try:
                self._interfere(k)
                self._feed(k)
                if self._prepares:
                    self._loop.prepare(self._now + int(self._slip * self._rng.normal()))
                self._tick()
            except Exception as error:
                self.record.seen.append(Violation("raised", k, f"{type(error).__name__}: {error}"))
                break
            self._advance_clock()
        return self.record

    def statistics(self) -> CommandStatistics:
        """The loop's own counts."""
        return self._loop.statistics()

    def _happens(self, name: str) -> bool:
        chance = getattr(self._hazards, name)
        return chance > 0.0 and bool(self._rng.random() < chance)

    def _interfere(self, k: int) -> None:
        """People: switches, services, parameters, the hand that moves the robot."""
        loop, now = self._loop, self._now
        if self._happens("emergency"):
            self._emergency = True
            loop.on_emergency_stop(True, now)
        elif self._emergency and self._rng.random() < 0.05:
            self._emergency = False
            loop.on_emergency_stop(False, now)
        if self._happens("switch"):
            self._pressing = not self._pressing
        if self._parameters.deadman and (k % 3 == 0 or not self._pressing):
            loop.on_deadman(self._pressing, now)
            self._pressed = now if self._pressing else None
        if not self._pressing and self._rng.random() < 0.1:
            self._pressing = True
        if self._happens("hold"):
            self._enabled = False
            loop.hold()
        elif not self._enabled and self._rng.random() < 0.1:
            self._enabled = True
            loop.enable()
        faulty = loop.state.value == "fault"
        if self._happens("reset") or (faulty and self._rng.random() < 0.03):
            self._ask_reset(k)
        if self._happens("hard_reset"):
            loop.reset()
            self._forget()
        if self._happens("drop"):
            loop.drop_chunks()
            self._chunks.clear()
        if self._happens("update"):
            wanted = changed(self._rng, self._parameters)
            try:
                loop.update(wanted)
            except ValueError:
                pass  # limits above those of the start: everything stays as it was
            else:
                self._parameters = wanted
                self._asked = self._scaled()

    def _ask_reset(self, k: int) -> None:
        moving = self._published is not None and self._before is not None and not np.array_equal(self._published, self._before)
        refusal = self._loop.request_reset()
        if refusal is None:
            if moving or self._emergency:
                self.record.seen.append(Violation("reset_granted", k, "a reset in motion or under emergency stop"))
            self._forget()
        elif not self._emergency:
            self._halted = True

    def _forget(self) -> None:
        self._states.clear()
        self._chunks.clear()
        self._published = self._before = self._epoch = None
        self._halted, self._reset = False, True
        limits = self._robot.limits
        if self._rng.random() < 0.3:  # put elsewhere by hand, a little outside perhaps
            width = np.minimum(limits.upper, 3.0) - np.maximum(limits.lower, -3.0)
            beyond = float(self._rng.choice([0.0, 0.0, 0.05, 3.0]))
            self._measured = np.maximum(limits.lower, -3.0) - beyond + (np.abs(width) + 2 * beyond) * self._rng.random(width.shape)
        else:
            self._measured = np.clip(self._measured, limits.lower, limits.upper)

    def _feed(self, k: int) -> None:
        """The robot's and the policy's messages."""
        if self._happens("silence"):
            self._silent = int(self._rng.integers(1, 100))
        self._silent -= 1
        if self._happens("far_off"):
            self._away = True
        self._away = self._away and bool(self._rng.random() < 0.95)
        if self._happens("strong"):
            self._strong = True
        self._strong = self._strong and bool(self._rng.random() < 0.97)
        if self._silent <= 0 and (k % self._state_every == 0):
            self._send_state()
        if k % self._every == 0:
            self._send_chunk()

    def _send_state(self) -> None:
        rng, names, joints = self._rng, self._robot.joints, len(self._robot.joints)
        if self._published is not None:
            self._measured = self._measured + 0.3 * (self._published - self._measured)
        position = self._measured + (5.0 * rng.normal(size=joints) if self._away else 0.0)
        stamp = self._now
        if self._happens("odd_joint_state"):
            stamp += int(rng.choice([-1, 1]) * 10.0 ** rng.uniform(6, 10))
        effort = None
        if self._strong or rng.random() < 0.5:
            healthy = np.where(np.isfinite(self._robot.limits.effort), self._robot.limits.effort, 1.0)
            effort = healthy * (10.0 if self._strong else 0.5)
        if self._happens("bad_joint_state"):
            wrong = position.copy()
            wrong[0] = np.nan
            bad = (
                JointState(stamp, names, wrong),
                JointState(stamp, names, position[:-1]),
                JointState(stamp, (*names[:-1], "stranger"), position),
                JointState(stamp, (*names, names[0]), np.append(position, 0.0)),
                JointState(stamp, (), np.empty(0)),
                JointState(stamp, names, position, effort=np.full(joints, np.inf)),
            )
            self._loop.on_joint_state(bad[int(rng.integers(len(bad)))], self._now)
            return
        order = rng.permutation(joints + 1)  # a joint that is not ours among them
        everything = np.append(position, 1e9)[order]
        efforts = None if effort is None else np.append(effort, 1e9)[order]
        shuffled = tuple((*names, "other")[j] for j in order)
        self._loop.on_joint_state(JointState(stamp, shuffled, everything, None, efforts), self._now)
        strong = self._strong and bool(np.isfinite(self._robot.limits.effort).any())
        insort(self._states, Known(stamp, self._now, position, strong), key=lambda s: (s.stamp, s.received))
        del self._states[:-KEPT_STATES]

    def _send_chunk(self) -> None:
        rng, now = self._rng, self._now
        count = int(rng.integers(8, 65))
        dt_ns = max(int(self._tick_ns * rng.choice([1.0, 1.0, 2.0, 4.0, 0.7, 3.3])), int(0.06e9 / count))
        stamp = now
        odd = self._happens("odd_chunk")
        if odd:
            if rng.random() < 0.3:
                count = int(rng.choice([1, 2, 3, 4, 64]))
            if rng.random() < 0.2:
                dt_ns = int(rng.choice([1, 1000, 10**5, 10**9, 10**11, 10**15]))
            if rng.random() < 0.4:
                stamp += int(rng.choice([-1, -1, -1, 1]) * 10.0 ** rng.uniform(5, 9.5))
            if rng.random() < 0.1 and self._chunks:
                stamp = self._chunks[-1][0]
        if self._epoch is None:
            self._epoch = now
        if self.calm:  # as delayed as a policy makes it
            stamp -= 2 * self._tick_ns
            dt_ns, count = self._calm_dt_ns, self._calm_count
        times = (stamp - self._epoch + np.arange(count, dtype=np.float64) * dt_ns) * 1e-9
        positions = self._path(times)
        if odd and rng.random() < 0.7:
            positions = odd_positions(rng, positions, self._robot.limits)
        order = rng.permutation(len(self._robot.joints))
        chunk = Chunk(stamp, dt_ns, tuple(self._robot.joints[j] for j in order), positions[:, order])
        wrong = odd and rng.random() < 0.2
        self._loop.on_chunk(malformed(rng, chunk) if wrong else chunk, now)
        if not wrong:
            self._chunks.append((stamp, now))
            del self._chunks[:-200]

    def _path(self, times: FloatArray) -> FloatArray:
        """Where the wave is (N, J) at ``times`` (N,) s after its beginning."""
        return self._middle + self._amplitude * (1.0 - np.cos(self._omega * times[:, None])) / 2.0

    def _newest_state(self) -> Known | None:
        return next((s for s in reversed(self._states) if s.received <= self._now), None)

    def _scaled(self) -> JointLimits:
        """The limits that the parameters ask for."""
        scale = np.full(len(self._robot.joints), self._parameters.limit_scale)
        for word in self._parameters.group_scale.replace(",", " ").split():
            group, _, number = word.partition("=")
            scale[[self._robot.joints.index(j) for j in self._robot.groups[group]]] *= float(number)
        limits = self._robot.limits
        return replace(
            limits, velocity=limits.velocity * scale, acceleration=limits.acceleration * scale, jerk=limits.jerk * scale
        )

    def _tick(self) -> None:
        now, parameters, limits = self._now, self._parameters, self._robot.limits
        switched = not parameters.deadman or (
            self._pressed is not None and abs(now - self._pressed) / 1e9 <= parameters.deadman_max_age_s
        )
        may_follow = self._enabled and not self._halted and switched
        if not may_follow:
            self._chunks.clear()
        newest = self._newest_state()
        fresh = newest is not None and abs(now - newest.stamp) / 1e9 <= parameters.joint_state_max_age_s
        chunk = any(r <= now and now - s <= parameters.chunk_max_age_s * 1e9 for s, r in self._chunks)
        begun = perf_counter_ns()
        done = self._loop.tick(now)
        self.took_ns.append(perf_counter_ns() - begun)
        setpoint = done.setpoint
        moments = self.record.moments
        moment = Moment(
            now,
            done.state.value,
            None if setpoint is None else setpoint.position,
            None if setpoint is None else setpoint.velocity,
            None if setpoint is None else setpoint.acceleration,
            self._loop.limiter.limits,
            self._asked,
            self._reset,
            self._emergency,
            may_follow,
            fresh,
            chunk,
            None if newest is None else np.clip(newest.position, limits.lower, limits.upper),
            newest is not None and newest.strong,
            parameters.effort_time_s,
        )
        self._reset = False
        stops = ("stopping", "holding", "fault")
        if setpoint is not None and moment.state in stops and (not moments or moments[-1].state not in stops or moment.reset):
            moment.held = self._held()
        if setpoint is not None:
            self._before, self._published = self._published, setpoint.position
        if self.calm and self._epoch is not None and now - self._epoch > SETTLED_NS:
            moment.path, moment.path_tolerance = self._expected(now)
        moments.append(moment)
        for fault in done.faults:
            if fault.name == "internal_error" or self.calm:
                self.record.seen.append(Violation(fault.name, len(moments) - 1, fault.detail))

    def _held(self) -> FloatArray:
        """Least and greatest velocity (2, J) of what goes into the average from now on."""
        held = self._loop.limiter.averaged[:, 1]
        ticks = averaged_ticks(self._robot.limits, self._period)
        inside = np.arange(len(held))[::-1, None] < ticks
        return np.stack([np.where(inside, held, np.inf).min(axis=0), np.where(inside, held, -np.inf).max(axis=0)])

    def _expected(self, now: int) -> tuple[FloatArray, FloatArray]:
        """Where the calm wave is (J,), and how near a centred average is to it: half a tick off where n is even, and damped
        by the curvature over its span; and each chunk is joined with velocities that are half a tick old."""
        assert self._epoch is not None
        half = self._amplitude / 2.0
        ticks = averaged_ticks(self._robot.limits, self._period)
        uneven = np.where(ticks % 2 == 0, 0.5 * self._period * half * self._omega, 0.0)
        damped = half * self._omega**2 * self._span**2 / 24.0
        curve = half * self._omega**4 * (self._calm_dt_ns * 1e-9) ** 4 / 100.0
        at = self._path(np.array([(now - self._epoch) * 1e-9]))[0]
        joining = half * self._omega**2 * self._period * self._parameters.splice_s
        return at, 1.1 * (uneven + damped) + curve + joining + 1e-5

    def _advance_clock(self) -> None:
        rng = self._rng
        step = self._tick_ns
        if not self.calm:
            step = int(step * rng.uniform(0.7, 1.3))
        if self._happens("missed"):
            step *= int(rng.integers(2, 4))
        if self._happens("jump"):
            step += int(rng.choice([-1, 1]) * 10.0 ** rng.uniform(6, 10.5))
        self._now = max(self._now + step, 0)
