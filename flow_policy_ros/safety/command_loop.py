"""From chunks and joint states to the one set-point of each control tick: the command node without ROS.

The guard knows the state, the timeline the target, the limiter the motion; here they are put together. Reads no clock,
imports no torch. ``tick`` advances the motion by one nominal period, however late it is called.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flow_policy_ros.runtime.buffers import Entry, StampedBuffer, age_problem
from flow_policy_ros.runtime.joint_order import BadInput, JointOrder
from flow_policy_ros.runtime.parameters import CommandParameters
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.timeline import ChunkTimeline
from flow_policy_ros.runtime.types import Chunk, FloatArray, JointState, Setpoint
from flow_policy_ros.safety.guard import Fault, Guard, GuardState
from flow_policy_ros.safety.limiter import KINDS, BoolArray, LimitedStep, SetpointLimiter


@dataclass(frozen=True)
class CommandTick:
    """What one tick gave: ``setpoint`` in the robot's joint order, None when nothing may be published.

    ``interventions[kind]`` (J,) bool, None when no chunk was followed in this tick.
    """

    state: GuardState
    setpoint: Setpoint | None
    faults: tuple[Fault, ...]
    interventions: dict[str, BoolArray] | None


@dataclass(frozen=True)
class CommandStatistics:
    """Counts since construction: ``interventions[kind][joint]``, ``rejections[kind]``, ``faults[name]``, ticks.

    ``ticks_limited`` counts the active ticks in which a limit changed at least one joint, ``joint_ticks_limited`` the
    changed joints of all ticks.
    """

    ticks: int
    ticks_active: int
    ticks_limited: int
    interventions: dict[str, dict[str, int]]
    rejections: dict[str, int]
    faults: dict[str, int]
    joint_ticks_limited: int = 0


class CommandLoop:
    """The safety stage of one robot. ``rejections`` counts refused inputs by kind; ``last_rejection`` says why."""

    def __init__(self, robot: Robot, parameters: CommandParameters) -> None:
        self.rejections: dict[str, int] = {}
        self.last_rejection = ""
        self._robot = robot
        self._parameters = parameters
        self._limiter = SetpointLimiter(robot.limits.scaled(parameters.limit_scale), 1.0 / parameters.rate_hz)
        self._guard = Guard()
        self._timeline = ChunkTimeline(robot.joints)
        self._order = JointOrder(robot.joints)
        self._measured: StampedBuffer[FloatArray] = StampedBuffer()
        self._last_tick: int | None = None
        self._ticks = 0
        self._ticks_active = 0
        self._ticks_limited = 0
        self._joint_ticks_limited = 0
        self._interventions = {kind: np.zeros(len(robot.joints), dtype=np.int64) for kind in KINDS}

    @property
    def state(self) -> GuardState:
        """The guard's state."""
        return self._guard.state

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Latched faults."""
        return self._guard.faults

    @property
    def at_rest(self) -> bool:
        """Whether set-points stand still (or there are none), so that a reset changes no motion."""
        return self._limiter.at_rest

    @property
    def limiter(self) -> SetpointLimiter:
        """What shapes the set-points; a copy of it goes on where the loop stands."""
        return self._limiter

    def on_joint_state(self, joint_state: JointState, received: int) -> None:
        """Take a joint state, visible from ``received`` (ns) on. A bad one is counted and latches a fault."""
        try:
            position = self._order.positions_of(joint_state)
        except BadInput as error:
            self._reject(error)
            self._guard.latch("bad_joint_state", str(error), joint_state.stamp)
            return
        self._measured.put(position, joint_state.stamp, received)

    def on_chunk(self, chunk: Chunk, received: int) -> None:
        """Take a chunk, visible from ``received`` (ns) on. A bad one is counted and changes nothing."""
        try:
            self._timeline.add(chunk, received)
        except BadInput as error:
            self._reject(error)

    def tick(self, now: int) -> CommandTick:
        """Advance by one control period; the set-point, if there is one, is for ``now`` (ns).

        An error in following the chunk, whatever it is, latches the fault ``internal_error`` and becomes a stop.
        """
        self._ticks += 1
        try:
            return self._advance(now)
        except Exception as error:  # the robot must be stopped, not left to the last command
            self._guard.latch("internal_error", f"{type(error).__name__}: {error}. This is a bug; report it.", now)
            return self._advance(now)

    def _advance(self, now: int) -> CommandTick:
        self._watch(now)
        interventions = None
        step: LimitedStep | None
        if self._guard.state is GuardState.FAULT:
            step = self._limiter.stop_step() if self._limiter.started else None
        elif self._guard.state is GuardState.INACTIVE:
            step = self._start(now)
        else:
            target = self._timeline.sample(now)
            age = self._timeline.chunk_age(now)
            if target is None or (age is not None and age > self._parameters.chunk_max_age_s * 1e9):
                step = self._limiter.stop_step()
                # After the stop the start position, too, is held.
                self._guard.move(GuardState.HOLDING if self._limiter.at_rest else GuardState.STOPPING)
            else:
                step = self._limiter.step(target)
                self._guard.move(GuardState.ACTIVE)
                self._ticks_active += 1
                interventions = step.interventions
                limited = int(np.count_nonzero(np.logical_or.reduce(list(interventions.values()))))
                self._ticks_limited += limited > 0
                self._joint_ticks_limited += limited
                for kind, acted in interventions.items():
                    self._interventions[kind] += acted
        setpoint = None
        if step is not None:
            setpoint = Setpoint(now, self._robot.joints, step.position, step.velocity, step.acceleration)
        return CommandTick(self._guard.state, setpoint, self._guard.faults, interventions)

    def reset(self) -> None:
        """Drop faults, chunks, joint state and set-point; a fresh joint state starts anew. Counts stay.

        Call it for a robot that stands still (``at_rest``) or was put elsewhere: the motion in progress is forgotten.
        """
        self._guard.reset()
        self._timeline.clear()
        self._measured.clear()
        self._limiter.forget()
        self._last_tick = None

    def drop_chunks(self) -> None:
        """Forget the chunks: a motion in progress is stopped, decelerating, until another chunk comes."""
        self._timeline.clear()

    def update(self, parameters: CommandParameters) -> None:
        """Use other live parameters from now on; rate and limits stay those of the construction."""
        self._parameters = parameters

    def start_problem(self, now: int) -> str | None:
        """Why no set-point can be started at ``now``, in a sentence with the remedy; None when one can."""
        return self._joint_state(now)[1]

    def chunk_age(self, now: int) -> int | None:
        """ns since the stamp of the newest visible chunk; None without one."""
        return self._timeline.chunk_age(now)

    def statistics(self) -> CommandStatistics:
        """Counts since construction."""
        joints = self._robot.joints
        return CommandStatistics(
            self._ticks,
            self._ticks_active,
            self._ticks_limited,
            {k: dict(zip(joints, map(int, counts), strict=True)) for k, counts in self._interventions.items()},
            dict(self.rejections),
            dict(self._guard.counts),
            self._joint_ticks_limited,
        )

    def _watch(self, now: int) -> None:
        """Latch what is wrong at this instant."""
        if self._last_tick is not None and now < self._last_tick:
            back_s = (self._last_tick - now) / 1e9
            self._guard.latch(
                "clock_jump_back",
                f"the clock went back by {back_s:.3f} s. Reset the command node after setting the clock or restarting "
                "the simulation.",
                now,
            )
        self._last_tick = now
        if self._limiter.started:
            entry, problem = self._joint_state(now)
            if problem is not None:
                self._guard.latch("stale_joint_state", problem, entry.stamp if entry else now)

    def _joint_state(self, now: int) -> tuple[Entry[FloatArray] | None, str | None]:
        entry = self._measured.latest(now)
        return entry, age_problem("joint state", entry, now, self._parameters.joint_state_max_age_s)

    def _start(self, now: int) -> LimitedStep | None:
        """The first set-point, at the measured position; None without a fresh joint state or too far out of range."""
        entry, problem = self._joint_state(now)
        if entry is None or problem is not None:
            return None
        lower, upper = self._robot.limits.lower, self._robot.limits.upper
        position = np.clip(entry.item, lower, upper)
        excess = np.abs(entry.item - position)
        worst = int(np.argmax(excess))
        if excess[worst] > self._parameters.start_tolerance:
            self._guard.latch(
                "start_outside_range",
                f"joint '{self._robot.joints[worst]}' is at {entry.item[worst]:.4f}, {excess[worst]:.4f} outside its "
                f"command range [{lower[worst]:.4f}, {upper[worst]:.4f}]; {self._parameters.start_tolerance} is "
                "allowed at start. Move it back by hand, or correct the range in the robot file; then reset.",
                entry.stamp,
            )
            return None
        self._guard.move(GuardState.STARTING)
        return self._limiter.start(position)

    def _reject(self, error: BadInput) -> None:
        self.rejections[error.kind] = self.rejections.get(error.kind, 0) + 1
        self.last_rejection = str(error)
