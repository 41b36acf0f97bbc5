"""From chunks and joint states to the one set-point of each control tick: the command node without ROS.

The guard knows the state, the follower the target, the limiter the motion, the watches what must not be; here they are put
together. Reads no clock, imports no torch. ``tick`` advances the motion by one nominal period, however late it is called.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np

from flow_policy_ros.runtime.buffers import Entry, StampedBuffer, age_problem
from flow_policy_ros.runtime.joint_order import BadInput, JointOrder
from flow_policy_ros.runtime.parameters import CommandParameters
from flow_policy_ros.runtime.robot import JointLimits, Robot
from flow_policy_ros.runtime.timeline import ChunkTimeline
from flow_policy_ros.runtime.types import Chunk, FloatArray, JointState, Plan, Setpoint
from flow_policy_ros.safety.acceleration_limiter import BoolArray
from flow_policy_ros.safety.clearance import Clearance
from flow_policy_ros.safety.following import Follower
from flow_policy_ros.safety.guard import Fault, Guard, GuardState
from flow_policy_ros.safety.limiter import LimitedStep, SetpointLimiter
from flow_policy_ros.safety.shaper import ChunkShaper
from flow_policy_ros.safety.soft_start import SoftStart
from flow_policy_ros.safety.statistics import CommandStatistics, TickCounts
from flow_policy_ros.safety.watch import SWITCHES, HoldToRun, JointWatch, Problem, clock_problem, stall_problem

ENGAGED = "the emergency stop is engaged. Release it, then reset."


@dataclass(frozen=True)
class CommandTick:
    """What one tick gave: ``setpoint`` in the robot's joint order, None when nothing may be published.

    ``interventions[kind]`` (J,) bool, None when no chunk was followed in this tick. ``plan`` when a chunk began to be followed.
    """

    state: GuardState
    setpoint: Setpoint | None
    faults: tuple[Fault, ...]
    interventions: dict[str, BoolArray] | None
    plan: Plan | None = None


@dataclass(frozen=True)
class Measured:
    """A joint state in the robot's order: ``position`` (J,), ``effort`` (J,) where it is reported."""

    position: FloatArray
    effort: FloatArray | None


class CommandLoop:
    """The safety stage of one robot. ``rejections`` counts refused inputs by kind; ``last_rejection`` says why."""

    def __init__(self, robot: Robot, parameters: CommandParameters, clearance: Clearance | None = None) -> None:
        """Raises ``ValueError`` naming joints or groups whose limits cannot be used."""
        self.rejections: dict[str, int] = {}
        self.last_rejection = ""
        self._robot = robot
        self._parameters = parameters
        self._clearance = clearance
        self._braking: JointLimits | None = None  # limits that the clearance reckons with
        self._limiter = SetpointLimiter(limits_in_force(robot, parameters), 1.0 / parameters.rate_hz)
        self._follower = Follower(self._limiter, _shaper(parameters))
        self._guard = Guard()
        self._timeline = ChunkTimeline(robot.joints)
        self._order = JointOrder(robot.joints)
        self._efforts = JointOrder(robot.joints)
        self._measured: StampedBuffer[Measured] = StampedBuffer()
        self._joint_watch = JointWatch(robot.joints, robot.limits.tracking, robot.limits.effort)
        self._switch = HoldToRun(SWITCHES[parameters.deadman])
        self._enabled = parameters.autostart
        self._halted = False  # until the reset
        self._emergency = False
        self._chunk_refusal = ""  # why the last chunk was refused
        self._last_tick: int | None = None
        self._rest_since: int | None = None  # instant since which set-points stand still
        self._soft = SoftStart()
        self._counts = TickCounts(robot.joints)

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

    @property
    def enabled(self) -> bool:
        """Whether chunks may be followed, as far as ``enable`` and ``hold`` decide it."""
        return self._enabled

    @property
    def emergency(self) -> bool:
        """Whether the emergency stop is engaged; its fault stays when it is released."""
        return self._emergency

    def on_joint_state(self, joint_state: JointState, received: int) -> None:
        """Take a joint state, visible from ``received`` (ns) on. A bad one is counted and latches a fault."""
        try:
            position = self._order.positions_of(joint_state)
            effort = None
            if joint_state.effort is not None:
                reported = np.asarray(joint_state.effort, dtype=np.float64)
                # Drivers write NaN for an effort that they do not measure.
                effort = self._efforts.select("joint state effort", joint_state.names, np.where(np.isnan(reported), 0.0, reported))
        except BadInput as error:
            self._reject(error)
            self._guard.latch("bad_joint_state", str(error), joint_state.stamp)
            return
        self._measured.put(Measured(position, effort), joint_state.stamp, received)

    def on_malformed_joint_state(self, why: str, received: int) -> None:
        """A joint state came whose parts do not fit together (counted by who read it): a fault as any other bad one."""
        self._guard.latch("bad_joint_state", why, received)

    def on_chunk(self, chunk: Chunk, received: int) -> None:
        """Take a chunk, visible from ``received`` (ns) on. A bad one is counted and changes nothing."""
        try:
            self._timeline.add(chunk, received)
        except BadInput as error:
            self._reject(error)
            self._chunk_refusal = str(error)
        else:
            self._chunk_refusal = ""

    def on_malformed_chunk(self, why: str) -> None:
        """A chunk came that could not be read (counted by who tried): it changes nothing."""
        self._chunk_refusal = why

    def on_deadman(self, pressed: bool, received: int, unread: str = "") -> None:
        """The word of the hold-to-run switch, received at ``received`` (ns); ``unread`` says why it could not be read."""
        self._switch.put(pressed, received, unread)

    def on_emergency_stop(self, engaged: bool, received: int) -> None:
        """The emergency stop was engaged (a fault at once) or released (the fault stays until reset)."""
        self._emergency = engaged
        if engaged:
            self._guard.latch("emergency_stop", ENGAGED, received)
        self._guard.amend("emergency_stop", ENGAGED if engaged else "the emergency stop was engaged, and is released. Reset.")

    def enable(self) -> None:
        """Chunks may be followed, from the next one that arrives on."""
        self._enabled = True

    def hold(self) -> None:
        """Stop, decelerating, and hold until ``enable``."""
        self._enabled = False
        self.drop_chunks()  # also when ``enable`` follows before the next tick

    def halt(self) -> None:
        """Stop, decelerating, and hold until ``reset``."""
        self._halted = True
        self.drop_chunks()

    def tick(self, now: int) -> CommandTick:
        """Advance by one control period; the set-point, if there is one, is for ``now`` (ns).

        An error in following the chunk, whatever it is, latches the fault ``internal_error`` and becomes a stop.
        """
        self._counts.ticks += 1
        try:
            return self._advance(now)
        except Exception as error:  # the robot must be stopped, not left to the last command
            self._guard.latch("internal_error", f"{type(error).__name__}: {error}. This is a bug; report it.", now)
            return self._advance(now)

    def prepare(self, next_tick: int) -> None:
        """Shape a chunk that came since the last tick, for the tick that will be made at about ``next_tick`` (ns), in the time
        between two ticks. It changes no motion, and no tick needs it: without it the tick shapes the chunk itself.
        """
        chunk = self._timeline.newest(next_tick)
        if chunk is None or chunk.stamp == self._follower.chunk_stamp or not self._limiter.started:
            return
        if self._guard.state is GuardState.FAULT or self.stop_reason(next_tick) is not None:
            return  # nothing will be followed
        since = self._since(chunk, next_tick)
        if since > chunk.end() - chunk.stamp:
            return
        try:
            self._follower.prepare(chunk, since)
        except Exception:  # the tick will meet it as well, and knows what to do
            return

    def _advance(self, now: int) -> CommandTick:
        self._watch(now)
        interventions: dict[str, BoolArray] | None = None
        plan: Plan | None = None
        step: LimitedStep | None
        if self._guard.state is GuardState.FAULT:
            step = self._stop_step() if self._limiter.started else None
        elif self.stop_reason(now) is not None:
            self._timeline.clear()  # chunks of before are not followed afterwards
            step = self._hold_back() if self._limiter.started else None
        elif self._guard.state is GuardState.INACTIVE:
            step = self._start(now)
        else:
            plan = self._newest(now)
            target = None if self._guard.faults else self._target(now)
            if target is None:
                step = self._stop_step() if self._guard.faults else self._hold_back()
            else:
                step = self._limiter.step(target)
                self._guard.move(GuardState.ACTIVE)
                interventions = step.interventions
                self._counts.add(interventions)
        if not self._limiter.at_rest:
            self._rest_since = None
        elif self._rest_since is None:
            self._rest_since = now
        setpoint = None
        if step is not None:
            setpoint = Setpoint(now, self._robot.joints, step.position, step.velocity, step.acceleration)
        return CommandTick(self._guard.state, setpoint, self._guard.faults, interventions, plan)

    def reset(self) -> None:
        """Drop faults, chunks, joint state and set-point; a fresh joint state starts anew. Counts stay, and so does a hold.

        Call it for a robot that stands still (``at_rest``) or was put elsewhere: the motion in progress is forgotten.
        ``request_reset`` asks first.
        """
        self._guard.reset()
        self._timeline.clear()
        self._follower.forget()
        self._measured.clear()
        self._limiter.forget()
        self._limiter.change(limits_in_force(self._robot, self._parameters))
        self._joint_watch.clear()
        self._soft.forget()
        self._halted = False
        self._last_tick = self._rest_since = None
        if self._emergency:
            self._guard.latch("emergency_stop", ENGAGED, 0)

    def request_reset(self) -> str | None:
        """Reset if that is safe; else why not, in a sentence. A robot in motion is stopped, for a later call."""
        if self._emergency:
            return "the emergency stop is engaged; release it first, then reset."
        if not self.at_rest:
            self.halt()
            return "the robot moves; it is being stopped and chunks are ignored. Call again when it stands."
        self.reset()
        return None

    @property
    def follower(self) -> Follower:
        """What gives the targets; for rehearsals."""
        return self._follower

    def drop_chunks(self) -> None:
        """Forget the chunks: a motion in progress is stopped, decelerating, until another chunk comes."""
        self._timeline.clear()
        self._follower.forget()

    def update(self, parameters: CommandParameters) -> None:
        """Use other live parameters from now on. Lower limits are in force once the motion has been braked to them.

        Raises ``ValueError`` for an unknown group, and for limits above those of the robot file; and then changes nothing.
        """
        limits_in_force(self._robot, parameters)  # refuses before anything is changed
        self._parameters = parameters
        self._follower.shaper = _shaper(parameters)
        self._limiter.change(self._wanted_limits())

    def start_problem(self, now: int) -> str | None:
        """Why no set-point can be started at ``now``, in a sentence with the remedy; None when one can."""
        return self.stop_reason(now) or self._joint_state(now)[1]

    def stop_reason(self, now: int) -> str | None:
        """Why no chunk may be followed at ``now``: not enabled, or the switch is let go; None when one may."""
        if self._halted:
            return "stopped for a reset asked for in motion. Ask again: 'flow_policy command reset' (service command/reset)."
        if not self._enabled:
            return "not enabled. Call 'flow_policy command enable' (service command/enable)."
        return self._switch.problem(now, self._parameters.deadman_max_age_s)

    def idle_reason(self, now: int) -> str:
        """Why no chunk is followed at ``now``, in a sentence with the remedy; empty while one is, or nothing stands against it."""
        state = self._guard.state
        if state is GuardState.INACTIVE:
            return self.start_problem(now) or ""
        if state in (GuardState.STOPPING, GuardState.HOLDING):
            return self.stop_reason(now) or self._chunk_problem(now)
        return ""

    def chunk_age(self, now: int) -> int | None:
        """ns since the stamp of the newest visible chunk; None without one."""
        return self._timeline.chunk_age(now)

    def rollout(self) -> FloatArray:
        """Position, velocity and acceleration (N, 3, J) of the set-points of the ticks to come, if nothing more happens: the
        rest of the plan, then the stop, up to rest. Changes nothing."""
        limiter = copy.deepcopy(self._limiter)
        targets = self._follower.remaining()
        if self._last_tick is not None and self._follower.chunk_stamp is not None:
            left_s = self._parameters.chunk_max_age_s - (self._last_tick - self._follower.chunk_stamp) / 1e9
            targets = targets[: max(0, int(left_s / limiter.period_s + 1e-9))]
        steps = [limiter.step(target) for target in targets]
        while not limiter.at_rest:
            steps.append(limiter.stop_step())
        rows = [np.stack([step.position, step.velocity, step.acceleration]) for step in steps]
        return np.array(rows).reshape(len(rows), 3, len(self._robot.joints))

    def statistics(self) -> CommandStatistics:
        """Counts since construction."""
        counts, shaping = self._counts, self._follower.counts
        return CommandStatistics(
            counts.ticks,
            counts.ticks_active,
            counts.ticks_limited,
            counts.interventions(),
            dict(self.rejections),
            dict(self._guard.counts),
            counts.joint_ticks_limited,
            shaping.chunks,
            shaping.chunks_slowed,
            {kind: dict(joints) for kind, joints in shaping.slowed.items()},
            dict(shaping.clipped),
        )

    def _watch(self, now: int) -> None:
        """Latch what is wrong at this instant."""
        parameters, (last, self._last_tick) = self._parameters, (self._last_tick, now)
        self._latch(clock_problem(last, now))
        if not self._limiter.started:
            return
        self._latch(stall_problem(last, now, self._limiter.period_s, parameters.stall_s))
        entry, problem = self._joint_state(now)
        if entry is None or problem is not None:
            self._latch(Problem("stale_joint_state", problem or "", entry.stamp if entry else now))
            return
        away = self._follower.difference(self._limiter.position, entry.item.position)
        for found in self._joint_watch.problems(
            away, entry.item.effort, now, entry.stamp, parameters.tracking_time_s, parameters.effort_time_s
        ):
            self._latch(found)

    def _latch(self, problem: Problem | None) -> None:
        if problem is not None:
            self._guard.latch(problem.fault, problem.detail, problem.stamp)

    def _joint_state(self, now: int) -> tuple[Entry[Measured] | None, str | None]:
        entry = self._measured.latest(now)
        return entry, age_problem("joint state", entry, now, self._parameters.joint_state_max_age_s)

    def _chunk_problem(self, now: int) -> str:
        age = self.chunk_age(now)
        if self._chunk_refusal:
            return f"the last chunk was refused: {self._chunk_refusal}"
        what = "no chunk has come" if age is None else f"no chunk has come for {age / 1e9:.1f} s"
        return f"{what}. Look at what the policy says of itself on /diagnostics, and whether it runs."

    def _start(self, now: int) -> LimitedStep | None:
        """The first set-point, at the measured position; None without a fresh joint state or too far out of range."""
        entry, problem = self._joint_state(now)
        if entry is None or problem is not None:
            return None
        measured, (lower, upper) = entry.item.position, (self._robot.limits.lower, self._robot.limits.upper)
        position = np.clip(measured, lower, upper)
        excess = np.abs(measured - position)
        worst = int(np.argmax(excess))
        if excess[worst] > self._parameters.start_tolerance:
            self._guard.latch(
                "start_outside_range",
                f"joint '{self._robot.joints[worst]}' is at {measured[worst]:.4f}, {excess[worst]:.4f} outside its "
                f"command range [{lower[worst]:.4f}, {upper[worst]:.4f}]; {self._parameters.start_tolerance} is "
                "allowed at start. Move it back by hand, or correct the range in the robot file; then reset.",
                entry.stamp,
            )
            return None
        self._guard.move(GuardState.STARTING)
        return self._limiter.start(position)

    def _newest(self, now: int) -> Plan | None:
        """Begin to follow the newest chunk if it is new."""
        chunk = self._timeline.newest(now)
        if chunk is None or chunk.stamp == self._follower.chunk_stamp:
            return None
        at_rest = self._limiter.at_rest and self._rest_since is not None
        since = self._since(chunk, now)
        if since > chunk.end() - chunk.stamp:
            return None
        if at_rest and not self._may_begin(chunk, since, now):
            return None
        return self._follower.begin(chunk, since, now)

    def _since(self, chunk: Chunk, now: int) -> int:
        """ns after its stamp from which ``chunk`` is to be followed at ``now``."""
        # What was observed while the robot stood still, and has stood still since, is played from its beginning.
        rested = self._limiter.at_rest and self._rest_since is not None and self._rest_since <= chunk.stamp
        return 0 if rested else now - chunk.stamp

    def _may_begin(self, chunk: Chunk, since: int, now: int) -> bool:
        """The gate for the first set-point of a motion, and its soft start."""
        entry, problem = self._joint_state(now)
        if entry is None or problem is not None:
            return False
        measured = entry.item.position
        away = self._follower.entry_distance(chunk, since, measured)
        # A hand that was moved while it was held: the motion would begin at the set-point, not where the hand is.
        away = np.maximum(away, np.abs(self._follower.difference(self._limiter.position, measured)))
        worst = int(np.argmax(away))
        if away[worst] > self._parameters.first_command_max:
            self._guard.latch(
                "first_command",
                f"the first set-point of joint '{self._robot.joints[worst]}' is {away[worst]:.4f} from its measured position, at "
                f"most {self._parameters.first_command_max} allowed (command.first_command_max). Reset, to start at the measured "
                "position; if it happens again, bring the robot near to where the policy begins, or check that policy and robot "
                "file belong together.",
                chunk.stamp,
            )
            return False
        if self._parameters.soft_start_s > 0.0:
            self._soft.begin(now)
            self._limiter.change(self._wanted_limits())
        return True

    def _wanted_limits(self) -> JointLimits:
        """The limits that the parameters and the time since the start ask for."""
        return limits_in_force(self._robot, self._parameters).scaled(self._soft.factor(self._parameters.soft_start_scale))

    def _target(self, now: int) -> FloatArray | None:
        """The target of this tick; None when the chunk is at its end or too old."""
        if self._follower.chunk_stamp is None:
            return None
        if now - self._follower.chunk_stamp > self._parameters.chunk_max_age_s * 1e9:
            return None
        if self._soft.rise(now, self._parameters.soft_start_s):
            self._limiter.change(self._wanted_limits())
        if self._clearance is None:
            return self._follower.target()
        ahead = self._follower.remaining()
        if len(ahead) == 0:
            return None
        position, velocity, _ = self._limiter.averaged[-1]
        if self._limiter.limits is not self._braking:
            self._braking = self._limiter.limits
            self._clearance.change(self._braking.acceleration)
        allowed = self._clearance.advance(position, ahead[0], velocity)
        if allowed <= 0.0 and self._clearance.problem is not None:
            self._guard.latch("collision", self._clearance.problem, now)
            return None
        return self._follower.target(allowed)

    def _stop_step(self) -> LimitedStep:
        self._follower.drop()
        return self._limiter.stop_step()

    def _hold_back(self) -> LimitedStep:
        step = self._stop_step()
        # After the stop the start position, too, is held.
        self._guard.move(GuardState.HOLDING if self._limiter.at_rest else GuardState.STOPPING)
        return step

    def _reject(self, error: BadInput) -> None:
        self.rejections[error.kind] = self.rejections.get(error.kind, 0) + 1
        self.last_rejection = str(error)


def limits_in_force(robot: Robot, parameters: CommandParameters) -> JointLimits:
    """The robot file's limits as the parameters scale them, without a soft start; never greater, which is a ``ValueError``."""
    return robot.limits.scaled(_factors(robot, parameters))


def _factors(robot: Robot, parameters: CommandParameters) -> FloatArray:
    """The factors (J,) on the robot file's limits."""
    groups = robot.group_scales(parameters.group_scale) if parameters.group_scale else np.ones(len(robot.joints))
    if not 0.0 < parameters.limit_scale <= 1.0:
        raise ValueError(
            f"command.limit_scale is {parameters.limit_scale:g}, expected a number above 0 and at most 1. Greater limits than "
            f"those of the robot file go into {robot.path}, with where they come from."
        )
    return parameters.limit_scale * groups


def _shaper(parameters: CommandParameters) -> ChunkShaper:
    return ChunkShaper(parameters.smoothing, parameters.splice_s, parameters.slow_down, parameters.chunk_max_age_s)
