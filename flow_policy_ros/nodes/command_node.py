"""The command node: chunks and joint states in, safety-clamped joint commands out, at a fixed rate.

A shell around ``safety.command_loop``; nothing here decides on motion. Its process imports neither torch nor OpenCV, so
that no inference can keep it from stopping the robot.
"""

from __future__ import annotations

import gc
import sys
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.nodes.command_lockstep import CommandLockstep
from flow_policy_ros.nodes.lockstep import CHUNK, COMMAND, COMMAND_SHARE, Patience, latency_profile
from flow_policy_ros.nodes.period import PeriodMeter
from flow_policy_ros.nodes.runner import STEADY, ClosableNode, run
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.diagnostics import ERROR, OK, WARN, counts, diagnostics, latency_values, status
from flow_policy_ros.ros.messages import (
    MessageError,
    chunk_from_message,
    command_message_type,
    executed_to_message,
    from_time,
    joint_state_from_message,
    setpoint_to_message,
    to_time,
)
from flow_policy_ros.ros.parameters import NodeParameters, robot_of
from flow_policy_ros.runtime.latency_tracker import LatencyTracker
from flow_policy_ros.runtime.parameters import CommandParameters, LockstepParameters, ParameterError
from flow_policy_ros.safety.command_loop import CommandLoop, CommandTick
from flow_policy_ros.safety.guard import GuardState

MESSAGES = {
    GuardState.INACTIVE: "waiting for a fresh joint state",
    GuardState.STARTING: "started at the measured position",
    GuardState.ACTIVE: "following chunks",
    GuardState.STOPPING: "no chunk: stopping",
    GuardState.HOLDING: "no chunk: holding",
}


class CommandNode(ClosableNode):
    """Subscribes to joint states and ``policy/chunk``; publishes commands, ``command/executed`` and diagnostics.

    Service ``command/reset`` drops faults and starts anew at the measured position. A robot in motion is not reset: the
    call fails, chunks are ignored from then on, and the call is to be repeated until the robot has come to rest.
    """

    def __init__(self) -> None:
        super().__init__("command_node")
        self._robot = robot = robot_of(self)
        self._settings = NodeParameters(self, robot, ("command", "lockstep"), self._changed)
        command, lockstep = self._settings.block(CommandParameters), self._settings.block(LockstepParameters)
        if lockstep.enabled and robot.command_interface == "float64_array":
            raise ParameterError(
                f"lockstep.enabled needs commands with a stamp, but robot file {robot.path} has command_interface "
                "float64_array; use joint_trajectory or joint_state."
            )
        self._period_ns = round(1e9 / command.rate_hz)
        self._loop = CommandLoop(robot, command)
        self._meter = PeriodMeter(self._period_ns)
        self._stage = LatencyTracker()
        self._malformed: dict[str, int] = {}
        self._state = GuardState.INACTIVE
        self._state_since = 0  # stamp of the tick that changed it
        self._ignore_chunks = False
        self._lockstep: CommandLockstep | None = None

        self._commands = self.create_publisher(
            command_message_type(robot.command_interface), robot.command_topic, qos.RELIABLE
        )
        self._executed = self.create_publisher(JointStateMsg, "command/executed", qos.RECORD)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.RELIABLE)
        if lockstep.enabled:
            patience = Patience(COMMAND_SHARE * lockstep.timeout_s)
            profile = latency_profile(lockstep)
            self._lockstep = CommandLockstep(self._loop, profile, lockstep.seed, patience, self._answer)
            self._words = self.create_publisher(Header, "lockstep/command", qos.RELIABLE)
            self.create_subscription(Header, "lockstep/policy", self._on_policy, qos.RELIABLE)
            self.create_timer(0.05, self._lockstep.proceed, clock=STEADY)
        else:
            self.create_timer(self._period_ns / 1e9, self._tick, clock=STEADY)
        self.create_subscription(JointTrajectory, "policy/chunk", self._on_chunk, qos.RELIABLE)
        self.create_subscription(
            JointStateMsg, robot.joint_state_topic, self._on_joint_state, qos.reader(lockstep.enabled)
        )
        self.create_service(Trigger, "command/reset", self._reset)
        self.create_timer(1.0, self._diagnose, clock=STEADY)
        # A collection of everything takes longer than a period; what is young is collected once a second.
        gc.collect()
        gc.freeze()
        gc.disable()

    def _now(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _on_joint_state(self, message: JointStateMsg) -> None:
        try:
            state = joint_state_from_message(message)
        except MessageError as error:
            self._refuse("joint_state_malformed", error)
            return
        if self._lockstep is not None:
            self._lockstep.on_joint_state(state)
        else:
            self._loop.on_joint_state(state, self._now())

    def _on_chunk(self, message: JointTrajectory) -> None:
        try:
            chunk = chunk_from_message(message)
        except MessageError as error:
            self._refuse("chunk_malformed", error)
            return
        if self._lockstep is not None:
            self._lockstep.on_chunk(chunk)
        elif not self._ignore_chunks:
            self._loop.on_chunk(chunk, self._now())

    def _on_policy(self, word: Header) -> None:
        assert self._lockstep is not None
        self._lockstep.on_policy(from_time(word.stamp), word.frame_id == CHUNK)

    def _refuse(self, kind: str, error: Exception) -> None:
        if kind not in self._malformed:
            self.get_logger().warning(f"refused: {error}")
        self._malformed[kind] = self._malformed.get(kind, 0) + 1
        self._loop.last_rejection = str(error)

    def _tick(self) -> None:
        start = time.perf_counter_ns()
        self._meter.tick(start)
        now = self._now()
        tick = self._loop.tick(now)
        self._stage.add((time.perf_counter_ns() - start) / 1e6)
        self._publish(now, tick)

    def _answer(self, stamp: int, tick: CommandTick) -> None:
        """Lockstep: the command of the tick, then the word that this tick is done."""
        self._publish(stamp, tick)
        self._words.publish(Header(stamp=to_time(stamp), frame_id="" if tick.setpoint is None else COMMAND))

    def _publish(self, stamp: int, tick: CommandTick) -> None:
        if tick.setpoint is not None:
            self._commands.publish(setpoint_to_message(tick.setpoint, self._robot.command_interface, self._period_ns))
            self._executed.publish(executed_to_message(tick.setpoint))
        if tick.state is not self._state:
            self._state, self._state_since = tick.state, stamp
            self._diagnose()
            if tick.state is GuardState.FAULT:
                for fault in tick.faults:
                    self.get_logger().error(f"{fault.name}: {fault.detail}")
            else:
                self.get_logger().debug(f"{tick.state.value}: {MESSAGES[tick.state]}")

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._lockstep is not None:
            self._lockstep.reset()
        elif not self._loop.at_rest:
            self._ignore_chunks = True
            self._loop.drop_chunks()
            response.success = False
            response.message = "the robot moves; it is being stopped and chunks are ignored. Call again when it stands."
            return response
        else:
            self._loop.reset()
        self._ignore_chunks = False
        response.success, response.message = True, "reset; starts at the next fresh joint state"
        return response

    def _changed(self, prefix: str, block: Any) -> None:
        if prefix == "command":
            self._loop.update(block)

    def _diagnose(self) -> None:
        self._diagnostics.publish(diagnostics(self._now(), self._status()))
        gc.collect(0)

    def _status(self) -> DiagnosticStatus:
        statistics = self._loop.statistics()
        state, faults = self._loop.state, self._loop.faults
        rejections = {**statistics.rejections, **self._malformed}
        level = ERROR if faults else OK
        if not faults and state in (GuardState.INACTIVE, GuardState.STOPPING, GuardState.HOLDING):
            level = WARN
        message = "; ".join(f"{f.name}: {f.detail}" for f in faults) if faults else MESSAGES.get(state, state.value)
        if state is GuardState.INACTIVE and self._lockstep is None:
            message += f": {self._loop.start_problem(self._now()) or 'there is one'}"
        values: dict[str, object] = {
            "state": state.value,
            "state_since": self._state_since,
            "faults": " ".join(f.name for f in faults),
            "ticks": statistics.ticks,
            "ticks_active": statistics.ticks_active,
            "ticks_limited": statistics.ticks_limited,
            "joint_ticks_limited": statistics.joint_ticks_limited,
            **latency_values("period_error_ms", self._meter.errors),
            "missed_deadlines": self._meter.missed,
            **latency_values("stage_ms", self._stage),
            **counts("rejections", rejections),
            **counts("fault_count", statistics.faults),
        }
        if self._loop.last_rejection:
            values["last_rejection"] = self._loop.last_rejection
        for kind, joints in statistics.interventions.items():
            values.update(counts(f"interventions.{kind}", joints))
        return status("command", level, message, values)


def main(args: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(CommandNode, args)


if __name__ == "__main__":
    sys.exit(main())
