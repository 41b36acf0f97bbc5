"""What the command node says of itself on ``/diagnostics``. It decides nothing."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node

from flow_policy_ros.nodes.command_inputs import CommandInputs
from flow_policy_ros.nodes.command_outputs import Output
from flow_policy_ros.nodes.period import PeriodMeter
from flow_policy_ros.ros.diagnostics import ERROR, OK, WARN, counts, latency_values, status
from flow_policy_ros.runtime.latency_tracker import LatencyTracker
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.safety.command_loop import CommandLoop
from flow_policy_ros.safety.guard import GuardState

MESSAGES = {
    GuardState.INACTIVE: "waiting",
    GuardState.STARTING: "started at the measured position",
    GuardState.ACTIVE: "following chunks",
    GuardState.STOPPING: "stopping",
    GuardState.HOLDING: "holding",
}
"""What the robot is made to do; why is the loop's ``idle_reason``."""
LEAVE = "leave a fault with 'flow_policy command reset' (service command/reset)"


class CommandReport:
    """Puts the status together from what each part counts. ``topics`` are watched for more than one publisher."""

    def __init__(
        self, node: Node, robot: Robot, loop: CommandLoop, inputs: CommandInputs, output: Output, meter: PeriodMeter, dry_run: bool
    ) -> None:
        """``meter`` is told of each tick by the node. In a ``dry_run`` nothing is sent, and every status says so."""
        self.meter = meter
        self.stage = LatencyTracker(meter.window)
        self.state_since = 0  # stamp of the tick that changed the state
        self.plan_stamp: int | None = None
        self.extra: dict[str, object] = {}
        """Further values, such as what the operating system granted."""
        self._node = node
        self._robot = robot
        self._loop = loop
        self._inputs = inputs
        self._output = output
        self._dry_run = dry_run

    def status(self, now: int, lifecycle: str, reason: str) -> DiagnosticStatus:
        """At ``now`` (ns). ``lifecycle`` is the node's state if it is not active, ``reason`` why no chunk is followed."""
        loop, faults = self._loop, self._loop.faults
        level, message = self._summary(lifecycle, reason)
        sources = self._publishers()
        crowd = [f"{count} nodes publish {topic}" for topic, (count, alone) in sources.items() if alone and count > 1]
        if crowd:
            level = max(level, WARN)
            message = f"{message}; {'; '.join(crowd)}: two sources fight over the robot. Stop all but one."
        if self._dry_run:
            level, message = max(level, WARN), f"DRY RUN, nothing is sent: {message}"
        values: dict[str, object] = {
            "state": loop.state.value,
            "state_since": self.state_since,
            "lifecycle": lifecycle or "active",
            "dry_run": self._dry_run,
            "faults": " ".join(f.name for f in faults),
            "emergency_stop": loop.emergency,
            "enabled": loop.enabled,
            **self._ages(now),
            **self._limits(),
            **self._counts(),
            **latency_values("period_error_ms", self.meter.errors),
            "missed_deadlines": self.meter.missed,
            **latency_values("stage_ms", self.stage),
            **{f"publishers.{topic}": count for topic, (count, _) in sources.items()},
            **self.extra,
        }
        return status("command", level, message, values)

    def _summary(self, lifecycle: str, reason: str) -> tuple[bytes, str]:
        state, faults = self._loop.state, self._loop.faults
        if faults:
            return ERROR, "; ".join([*(f"{f.name}: {f.detail.rstrip('.')}" for f in faults), LEAVE])
        if lifecycle:
            doing = "nothing is sent. Activate the node." if self._loop.at_rest else "being stopped"
            return WARN, f"{lifecycle}: {doing}"
        message = MESSAGES.get(state, state.value) + (f": {reason}" if reason else "")
        return (WARN if state in (GuardState.INACTIVE, GuardState.STOPPING, GuardState.HOLDING) else OK), message

    def _ages(self, now: int) -> dict[str, object]:
        age = self._loop.chunk_age(now)
        ages = {"chunk_age_ms": age, "plan_age_ms": None if self.plan_stamp is None else now - self.plan_stamp}
        return {name: ns / 1e6 for name, ns in ages.items() if ns is not None}

    def _limits(self) -> dict[str, object]:
        """The factors in force: below what the parameters say after a start, and while the motion is braked to lower limits."""
        factors = self._loop.limiter.limits.velocity / self._robot.limits.velocity
        return {"limit_scale.lowest": float(factors.min()), "limit_scale.highest": float(factors.max())}

    def _counts(self) -> dict[str, object]:
        statistics = self._loop.statistics()
        values: dict[str, object] = {
            "ticks": statistics.ticks,
            "ticks_active": statistics.ticks_active,
            "ticks_limited": statistics.ticks_limited,
            "joint_ticks_limited": statistics.joint_ticks_limited,
            "chunks": statistics.chunks,
            "chunks_slowed": statistics.chunks_slowed,
            **counts("clipped", statistics.clipped),
            **counts("rejections", {**statistics.rejections, **self._inputs.refused}),
            **counts("fault_count", statistics.faults),
        }
        for name, table in (("interventions", statistics.interventions), ("slowed", statistics.slowed)):
            for kind, joints in table.items():
                values.update(counts(f"{name}.{kind}", joints))
        if self._loop.last_rejection:
            values["last_rejection"] = self._loop.last_rejection
        return values

    def _publishers(self) -> dict[str, tuple[int, bool]]:
        """Publishers of each topic, and whether there may be but one."""
        inputs = self._inputs
        topics = dict.fromkeys((inputs.joint_states, inputs.emergency_stops), False)
        topics |= dict.fromkeys((inputs.chunks, self._output.topic), True)
        return {topic: (self._node.count_publishers(topic), alone) for topic, alone in topics.items()}
