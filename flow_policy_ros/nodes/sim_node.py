"""The simulated robot as a ROS robot: joint states, camera, position commands, reset, instruction, success.

A shell around ``sim.robot``. In lockstep it waits for the command of each tick and simulated time is what it publishes;
in real time it steps against the wall clock, stamps with the node's clock, and renders in another thread.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from numpy.typing import NDArray
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from flow_policy_ros.nodes.lockstep import COMMAND, ROBOT_SHARE, Patience
from flow_policy_ros.nodes.period import PeriodMeter
from flow_policy_ros.nodes.runner import STEADY, ClosableNode, run
from flow_policy_ros.nodes.sim_camera import CameraWorker
from flow_policy_ros.nodes.sim_lockstep import SimLockstep
from flow_policy_ros.nodes.sim_topics import SimTopics
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.diagnostics import OK, WARN, Diagnostics, counts, latency_values, status
from flow_policy_ros.ros.messages import MessageError, command_from_message, command_message_type, from_time
from flow_policy_ros.ros.parameters import NodeParameters, robot_of
from flow_policy_ros.runtime.parameters import LockstepParameters, ParameterError, SimParameters
from flow_policy_ros.runtime.types import FloatArray
from flow_policy_ros.sim.gl import SimError
from flow_policy_ros.sim.instructions import InstructionError, draw, goal_of
from flow_policy_ros.sim.robot import CONTROL_STEP_NS, AdroitRobot

RESEND_S = 0.5
"""Lockstep: a tick that nobody answers is announced again, in case that a node was still being discovered."""


@dataclass(frozen=True)
class Outcome:
    """Of an episode so far; ``goal_reached`` is the first goal that was reached, asked for or not, empty for none."""

    step: int = 0
    success: bool = False
    success_steps: int = 0
    goal_reached: str = ""

    @staticmethod
    def of(sim: AdroitRobot) -> Outcome:
        """As the simulation stands."""
        return Outcome(sim.step_index, sim.success, sim.success_steps, sim.goal_reached or "")


class SimNode(ClosableNode):
    """Service ``sim/reset`` begins an episode of ``sim.steps`` steps from ``sim.seed`` and ``sim.episode``.

    Of a task with several goals, ``sim.instruction`` says which one counts; it is published on ``instruction`` then.
    """

    def __init__(self) -> None:
        super().__init__("sim_node")
        self._robot = robot_of(self)
        self._settings = NodeParameters(self, self._robot, ("sim", "lockstep"), judge=self._judge)
        sim, lockstep = self._settings.block(SimParameters), self._settings.block(LockstepParameters)
        if sim.realtime == lockstep.enabled:
            raise ParameterError(
                f"sim.realtime is {sim.realtime} and lockstep.enabled is {lockstep.enabled}; exactly one of them must "
                "be true: either the simulation keeps to the wall clock, or it waits for the other nodes."
            )
        self._sim = AdroitRobot(sim.task, self._robot)
        self._judge("sim", sim)
        self._state = "idle"
        self._episode = sim
        self._outcome = Outcome()
        self._command: FloatArray | None = None  # real time: the newest one, until it is used
        self._refused: dict[str, int] = {}
        self._image_stamp = 0  # of the newest image of this episode
        self._image: NDArray[np.uint8] | None = None  # that image, once somebody looks
        self._meter = PeriodMeter(CONTROL_STEP_NS)
        self._lockstep: SimLockstep | None = None
        self._camera: CameraWorker | None = None
        self._topics = SimTopics(self, self._sim)
        self._status = self.create_publisher(DiagnosticStatus, "sim/status", qos.LATCHED)
        self._diagnostics = Diagnostics(self, self._robot.name)
        if lockstep.enabled:
            self._begin_lockstep(lockstep)
        else:
            if self._sim.camera is not None:
                self._camera = CameraWorker(lambda: AdroitRobot(sim.task, self._robot), self._topics.image)
            self.create_timer(CONTROL_STEP_NS / 1e9, self._step, clock=STEADY)
        command = command_message_type(self._robot.command_interface)
        self.create_subscription(command, self._robot.command_topic, self._on_command, qos.RELIABLE)
        self.create_service(Trigger, "sim/reset", self._reset)
        self.create_timer(1.0, self._diagnose, clock=STEADY)
        self._publish_status()

    def _begin_lockstep(self, lockstep: LockstepParameters) -> None:
        if self._robot.command_interface == "float64_array":
            raise ParameterError(
                f"lockstep.enabled needs commands with a stamp, but robot file {self._robot.path} has "
                "command_interface float64_array; use joint_trajectory or joint_state."
            )
        if self._sim.camera is not None:
            self._sim.render()  # makes the graphics context, or says why it cannot
        patience = Patience(ROBOT_SHARE * lockstep.timeout_s)
        self._lockstep = SimLockstep(self._sim, patience, self._announce, self._finish)
        self._announced = 0.0
        self.create_subscription(Header, "lockstep/command", self._on_word, qos.RELIABLE)
        self.create_timer(0.05, self._wait, clock=STEADY)

    def close(self) -> None:
        """End the camera and free the graphics contexts."""
        if self._camera is not None:
            self._camera.close()
        self._sim.close()

    def _on_command(self, message: Any) -> None:
        try:
            stamp, position = command_from_message(message, self._robot.joints)
        except MessageError as error:
            if not self._refused:
                self.get_logger().warning(f"refused: {error}")
            self._refused["command_malformed"] = self._refused.get("command_malformed", 0) + 1
            return
        if self._lockstep is None:
            self._command = position
        elif stamp is not None:
            self._lockstep.on_command(stamp, position)

    def _on_word(self, word: Header) -> None:
        assert self._lockstep is not None
        self._lockstep.on_word(from_time(word.stamp), COMMAND in word.frame_id.split())

    def _judge(self, prefix: str, block: Any) -> None:
        """Refuse an instruction that asks for none of the task's goals."""
        if prefix != "sim" or not block.instruction:
            return
        task = self._sim.task
        if not task.goals:
            raise ParameterError(f"parameter sim.instruction is '{block.instruction}', but task '{task.name}' takes none.")
        try:
            goal_of(block.instruction, task.goals)
        except InstructionError as error:
            raise ParameterError(f"parameter sim.instruction: {error}") from error

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._episode = episode = self._settings.block(SimParameters)
        self._sim.reset(episode.seed, episode.episode)
        if self._sim.task.goals:
            self._sim.instruct(episode.instruction or draw(self._sim.task.goals, episode.seed))
            self._topics.instruction(self._sim.instruction)
        self._command, self._image, self._image_stamp = None, None, 0
        self._state, self._outcome = "running", Outcome()
        self._publish_status()
        if self._lockstep is not None:
            self._lockstep.begin(episode.steps)
        response.success, response.message = True, f"episode {episode.episode} with seed {episode.seed} begins"
        return response

    def _announce(self) -> None:
        """Lockstep: publish everything of the present tick, the tick itself last."""
        now = self._sim.stamp
        self._topics.clock(now)
        self._topics.state(self._sim.joint_state(), self._sim.object_features())
        if self._sim.camera_due():
            # Announced even if nobody is seen to look yet: who needs it waits, and this tick is announced again.
            if self._image_stamp != now:
                self._image, self._image_stamp = None, now
            if self._topics.image_wanted():
                if self._image is None:
                    self._image = self._sim.render()
                self._topics.image(self._image, now)
        self._topics.tick(now, self._image_stamp, self._sim.instruction)
        self._announced = time.monotonic()
        self._note_progress()

    def _wait(self) -> None:
        assert self._lockstep is not None
        self._lockstep.proceed()
        if self._lockstep.running and time.monotonic() - self._announced > RESEND_S:
            self._announce()

    def _step(self) -> None:
        """Real time: advance with the newest command, or with the last one still standing; then say where we are."""
        self._meter.tick(time.perf_counter_ns())
        self._sim.step(self._command)
        self._command = None
        now = int(self.get_clock().now().nanoseconds)
        joint_state, objects = self._sim.joint_state(), self._sim.object_features()
        self._topics.state(replace(joint_state, stamp=now), replace(objects, stamp=now))
        if self._camera is not None and self._sim.camera_due() and self._topics.image_wanted():
            self._camera.want(self._sim.get_sim_state(), now)
        if self._state == "running":
            self._note_progress()
            if self._sim.step_index >= self._episode.steps:
                self._finish()

    def _note_progress(self) -> None:
        before, self._outcome = self._outcome, Outcome.of(self._sim)
        changed = (before.success, before.goal_reached) != (self._outcome.success, self._outcome.goal_reached)
        if self._outcome.step % 10 == 0 or changed:
            self._publish_status()

    def _finish(self) -> None:
        self._outcome = Outcome.of(self._sim)
        self._state = "done"
        self._publish_status()

    def _publish_status(self) -> None:
        outcome = self._outcome
        values: dict[str, object] = {
            "state": self._state,
            "episode": self._episode.episode,
            "seed": self._episode.seed,
            "step": outcome.step,
            "steps": self._episode.steps,
            "success": outcome.success,
            "success_steps": outcome.success_steps,
            "goal_reached": outcome.goal_reached,
            "instruction": self._sim.instruction,
        }
        self._status.publish(status("sim", OK, self._state, values))

    def _diagnose(self) -> None:
        values: dict[str, object] = {
            "state": self._state,
            "step": self._outcome.step,
            **latency_values("period_error_ms", self._meter.errors),
            "missed_deadlines": self._meter.missed,
            **counts("rejections", self._refused),
        }
        level = WARN if self._refused else OK
        stamp = int(self.get_clock().now().nanoseconds)
        self._diagnostics.publish(stamp, status("sim", level, self._state, values))


def main(args: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(SimNode, args, SimError)


if __name__ == "__main__":
    sys.exit(main())
