"""The command node: chunks and joint states in, safety-clamped joint commands out, at a fixed rate.

A shell around ``safety.command_loop``; nothing here decides on motion. Its process imports neither torch nor OpenCV, so
that no inference can keep it from stopping the robot. Inputs, outputs, report and services are in the files beside it.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from rclpy.timer import Timer
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.nodes.command_inputs import CommandInputs
from flow_policy_ros.nodes.command_lockstep import CommandLockstep
from flow_policy_ros.nodes.command_outputs import make_output, untracked
from flow_policy_ros.nodes.command_report import MESSAGES, CommandReport
from flow_policy_ros.nodes.command_services import CommandServices
from flow_policy_ros.nodes.lockstep import CHUNK, COMMAND_SHARE, Patience, TickWord, command_word, delays
from flow_policy_ros.nodes.managed import ManagedNode
from flow_policy_ros.nodes.period import PeriodMeter
from flow_policy_ros.nodes.runner import STEADY, run
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.diagnostics import Diagnostics
from flow_policy_ros.ros.messages import executed_to_message, from_time, plan_to_message, to_time
from flow_policy_ros.ros.parameters import NodeParameters, robot_of, undeclare
from flow_policy_ros.ros.processes import never_suspended
from flow_policy_ros.runtime.parameters import CommandParameters, LockstepParameters
from flow_policy_ros.runtime.realtime import QuietCollector, request, wait_until
from flow_policy_ros.safety.clearance import clearance_of
from flow_policy_ros.safety.command_loop import CommandLoop, CommandTick
from flow_policy_ros.safety.guard import GuardState
from flow_policy_ros.safety.rehearsal import Rehearsal

BLOCKS = ("command", "lockstep")
YOUNG_S, ALL_S = 1.0, 60.0
"""How often garbage is collected after a tick: what is young, and everything."""


class CommandNode(ManagedNode):
    """Subscribes to joint states and ``policy/chunk``; publishes commands, ``command/executed``, ``command/plan``, diagnostics.

    Activated, it starts anew at the measured position, whatever was before. Deactivated, shut down or ended by a signal, it
    stops the robot, decelerating, and is silent once that stands; a fault that is latched stays latched.
    """

    def __init__(self) -> None:
        super().__init__("command_node")
        self._settings: NodeParameters | None = None
        self._lockstep: CommandLockstep | None = None
        self._active = False  # as the life cycle has it
        self._ticking = False  # until the robot stands after a deactivation
        self._report_due = False
        self.lead()

    def configure(self) -> None:
        """Read the robot file and build everything. Raises ``ValueError`` for bad input."""
        robot = robot_of(self)
        self._settings = settings = NodeParameters(self, robot, BLOCKS, self._changed)
        self._command, lockstep = settings.block(CommandParameters), settings.block(LockstepParameters)
        if self._command.dry_run:
            robot = untracked(robot)
        self._period_ns = round(1e9 / self._command.rate_hz)
        self._loop = CommandLoop(robot, self._command, clearance_of(robot, self._command))
        self._state = GuardState.INACTIVE
        self._refused: set[str] = set()  # kinds of input, as the log has it
        self._rehearsal = Rehearsal(robot, self._command)
        self._ahead_ns = min(round(1e9 * self._command.wake_ahead_s), self._period_ns // 4)
        self._collector = QuietCollector(*(max(1, round(s * self._command.rate_hz)) for s in (YOUNG_S, ALL_S)))
        self._executed = self.create_publisher(JointStateMsg, "command/executed", qos.RECORD)
        self._plans = self.create_publisher(JointTrajectory, "command/plan", qos.RELIABLE)
        self._diagnostics = Diagnostics(self, robot.name)
        self._lockstep = None
        self._timer: Timer | None = None
        if lockstep.enabled:
            patience = Patience(COMMAND_SHARE * lockstep.timeout_s)
            self._lockstep = CommandLockstep(self._loop, delays(lockstep), lockstep.seed, patience, self._answer)
            self._words = self.create_publisher(Header, "lockstep/command", qos.RELIABLE)
            self.create_subscription(Header, "lockstep/policy", self._on_policy, qos.RELIABLE)
            self.create_subscription(Header, "lockstep/tick", self._on_tick, qos.RELIABLE)
            self.create_timer(0.05, self._proceed, clock=STEADY)
        else:
            self._timer = self.create_timer(self._period_ns / 1e9, self._tick, clock=STEADY)
            self._timer.cancel()  # until it is activated
        self._output = make_output(self, robot, self._loop, lambda: self._command, lockstep.enabled)
        consumer = self._lockstep or self._loop
        self._inputs = CommandInputs(
            self, robot, self._command, self._loop, consumer, lambda: self._ticking, lockstep.enabled, self._ahead_ns
        )
        meter = PeriodMeter(self._period_ns, max(1, round(self._command.statistics_s * self._command.rate_hz)))
        dry = self._command.dry_run
        self._report = CommandReport(self, robot, self._loop, self._inputs, self._output, meter, dry)
        CommandServices(self, self._loop, self._reset, lambda: self._active)
        self.create_timer(1.0, self._report_later, clock=STEADY)

    def activate(self) -> None:
        """Start anew. Raises ``ValueError`` with a fault latched, or while the robot is still being stopped."""
        if self._loop.faults:
            faults = "; ".join(f"{fault.name}: {fault.detail}" for fault in self._loop.faults)
            raise ValueError(f"a fault is latched ({faults}). Call the service command/reset, then activate.")
        self._refuse_while_stopping("Activate")
        self._forget()
        if self._command.dry_run:
            self.get_logger().warning(
                f"DRY RUN: nothing is sent to {self._output.topic}. What would be is on {self._executed.topic_name} and "
                f"{self._plans.topic_name}."
            )
        self._active = self._ticking = True
        self._report.meter.restart()
        if self._timer is not None:
            self._report.extra["realtime"] = str(self._request_realtime())
            self._timer.reset()
        self._collector.begin()

    def deactivate(self) -> None:
        """Stop the robot; ticks go on until it stands."""
        self._active = False
        if self._ticking:
            self._loop.halt()
            self._halt_at_rest()

    def cleanup(self) -> None:
        """Give everything up. Raises ``ValueError`` while the robot is still being stopped."""
        self._refuse_while_stopping("Clean up")
        self._ticking = False
        if self._settings is not None:
            self._settings.withdraw()
        undeclare(self, BLOCKS)  # what a failure in the middle of a declaration left
        self._settings = self._lockstep = None

    def _refuse_while_stopping(self, wish: str) -> None:
        # A simulation in lockstep may have ended, and gives no tick to stop in.
        if self._ticking and self._lockstep is None:
            raise ValueError(f"the robot is still being stopped. {wish} when it stands.")

    def finished(self) -> bool:
        """After a signal: whether the robot stands. A simulation in lockstep gets no stop, since it may have ended before."""
        if self._active:
            self.deactivate()
        return not self._ticking or self._lockstep is not None

    def _tick(self) -> None:
        assert self._timer is not None
        if self._ahead_ns:
            due = time.monotonic_ns() + self._timer.time_until_next_call() - self._period_ns + self._ahead_ns
            self._rehearsal.run()
            wait_until(due)
        start = time.perf_counter_ns()
        self._report.meter.tick(start)
        for stamp in self._output.instants(self._now()):
            begun = time.perf_counter_ns()
            tick = self._loop.tick(stamp)
            self._report.stage.add((time.perf_counter_ns() - begun) / 1e6)
            self._publish(stamp, tick)
        self._output.flush()
        # From here on there is time until the next tick.
        self._inputs.after_tick(time.monotonic_ns() + self._timer.time_until_next_call())
        self._after_tick()

    def _answer(self, stamp: int, tick: CommandTick) -> None:
        """Lockstep: what is published at the tick, then the word that this tick is done."""
        self._publish(stamp, tick)
        word = command_word(tick.setpoint is not None, tick.plan is not None)
        self._words.publish(Header(stamp=to_time(stamp), frame_id=word))
        self._after_tick()

    def _publish(self, stamp: int, tick: CommandTick) -> None:
        self._output.take(stamp, tick)
        if tick.setpoint is not None:
            self._executed.publish(executed_to_message(tick.setpoint))
        if tick.plan is not None:
            self._report.plan_stamp = tick.plan.stamp
            self._plans.publish(plan_to_message(tick.plan))
        if tick.state is self._state:
            return
        self._state, self._report.state_since = tick.state, stamp
        self._report_due = True
        if tick.state is GuardState.FAULT:
            for fault in tick.faults:
                self.get_logger().error(f"{fault.name}: {fault.detail}")
        else:
            self.get_logger().debug(f"{tick.state.value}: {self._reason(stamp) or MESSAGES[tick.state]}")

    def _after_tick(self) -> None:
        if self._report_due:
            self._say()
        self._collector.after_tick()
        if not self._active:
            self._halt_at_rest()

    def _halt_at_rest(self) -> None:
        if not (self._loop.at_rest and self._output.at_rest):
            return
        self._ticking = False
        if self._timer is not None:
            self._timer.cancel()
        self._collector.end()
        self._say()

    def _on_policy(self, word: Header) -> None:
        if self._lockstep is not None and self._ticking:
            self._lockstep.on_policy(from_time(word.stamp), word.frame_id == CHUNK)

    def _on_tick(self, tick: Header) -> None:
        if self._lockstep is None or not self._ticking:
            return
        try:
            word = TickWord.parse(from_time(tick.stamp), tick.frame_id)
        except ValueError as error:
            self.get_logger().warning(f"refused: lockstep/tick: {error}")
            return
        self._lockstep.on_tick(word)

    def _proceed(self) -> None:
        if self._lockstep is not None and self._ticking:
            self._lockstep.proceed()

    def _reset(self) -> str | None:
        """The service's: drop faults and start anew; why not, in a sentence, if that is refused."""
        if self._lockstep is None:
            if self._loop.at_rest and not self._output.at_rest:
                return "the controller is still on its way to where the robot is to stand. Call again when it stands."
            refusal = self._loop.request_reset()
            if refusal is not None:
                return refusal
        self._forget()
        return None

    def _forget(self) -> None:
        """A new start follows; the robot stands, or was put elsewhere."""
        if self._lockstep is not None:
            self._lockstep.reset()
        else:
            self._loop.reset()
        self._inputs.forget()
        self._output.forget()
        self._report.plan_stamp = None

    def _changed(self, prefix: str, block: Any) -> None:
        """Raises ``ValueError`` for what the loop refuses."""
        if prefix == "command":
            self._loop.update(block)
            self._command = block

    def _request_realtime(self) -> object:
        """Ask the operating system, from the thread that ticks; the answer."""
        granted = request(self._command.realtime_priority, self._command.lock_memory)
        for refusal in granted.refusals:
            self.get_logger().warning(refusal)
        return granted

    def _report_later(self) -> None:
        """Once a second: after the next tick, when there is time for it."""
        self._report_due = True
        if not self._ticking or self._lockstep is not None:
            self._say()

    def _say(self) -> None:
        self._report_due = False
        now = self._now()
        lifecycle = "" if self._active else "inactive"
        self._diagnostics.publish(now, self._report.status(now, lifecycle, self._reason(now)))
        refused = set(self._loop.rejections)
        if refused - self._refused:  # of each kind the first one; the rest is counted on /diagnostics
            self.get_logger().warning(f"refused: {self._loop.last_rejection}")
        self._refused = refused

    def _reason(self, now: int) -> str:
        """Why no chunk is followed. In lockstep instants are those of ticks."""
        if self._lockstep is None:
            return self._loop.idle_reason(now)
        tick = self._lockstep.newest
        return "no tick has come. Begin the episode or the recording." if tick is None else self._loop.idle_reason(tick)

    def _now(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def main(args: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    never_suspended()
    return run(CommandNode, args)


if __name__ == "__main__":
    sys.exit(main())
