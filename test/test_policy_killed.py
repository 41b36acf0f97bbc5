"""The policy process is killed in mid-episode, in lockstep, while the arm moves: set-points decelerate, then hold.

The real nodes with the shipped policy. Nothing else dies, and a policy that is started anew is followed again. Against the wall
clock that is among the faults of ``test_faults_policy``.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_support import UNHURRIED, Child, Ears, Inbox, Launcher, ears_fixture, launcher_fixture, motion, values  # noqa: F401

pytest.importorskip("rclpy")
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import JointState as JointStateMsg

from flow_policy_ros.ros import qos
from flow_policy_ros.ros.messages import from_time
from flow_policy_ros.runtime.robot import Robot, load_robot
from flow_policy_ros.sim.robot import CONTROL_STEP_NS

PERIOD_S = CONTROL_STEP_NS * 1e-9  # set-points are one nominal period apart, however late the tick was
ROBOT = "config/robots/adroit_door.yaml"
SPEED = 0.2  # m/s and rad/s; what counts as an arm in motion
TIMEOUT_S = 3.0  # in lockstep; each waits a tenth of it longer than the one it waits for
SCALE = 0.1  # of velocity and acceleration limits in lockstep: the shipped ones are so high that few stops take two ticks


class Scene:
    """The simulated robot in an episode, the command node, and the shipped policy that knows the object's state."""

    def __init__(self, launcher: Launcher, ears: Ears, root: Path, scale: float, **mode: object) -> None:
        self.robot: Robot = load_robot(root / ROBOT)
        self._limits = self.robot.limits.scaled(scale)
        arm = set(self.robot.groups["arm_slide"] + self.robot.groups["arm_rotation"])
        self._arm = [i for i, joint in enumerate(self.robot.joints) if joint in arm]
        self._launcher = launcher
        checkpoint = {"policy__checkpoint": root / "checkpoints/adroit_door_state", "policy__joint_state_max_age_s": 8.0}
        self._policy = {**checkpoint, **mode}
        self.executed: Inbox[Any] = ears.listen(JointStateMsg, "command/executed")
        self.progress = ears.listen(DiagnosticStatus, "sim/status", qos.LATCHED)
        self._diagnostics = ears.diagnostics()
        episode = {"sim__task": "door", "sim__seed": 5000, "sim__steps": 100_000}
        self.sim = launcher.node("sim_node", root / ROBOT, **episode, **mode)
        self.command = launcher.node("command_node", root / ROBOT, command__limit_scale=scale, **UNHURRIED, **mode)
        assert ears.trigger("command/reset").success
        ears.begin_episode()
        self.policy = self.start_policy()

    def start_policy(self) -> Child:
        return self._launcher.node("policy_node", Path(self.robot.path), **self._policy)

    def kill_policy_in_motion(self) -> None:
        """As soon as the arm moves, which it does under the policy only."""
        self.executed.wait_for(self._moves, what="the policy did not move the arm")
        self.policy.send(signal.SIGKILL)
        assert self.policy.wait() == -signal.SIGKILL

    def _moves(self, message: JointStateMsg) -> bool:
        return bool(np.abs(np.array(message.velocity)[self._arm]).max() > SPEED)

    def _wait_for_guard(self, state: str) -> DiagnosticStatus:
        """The guard's next word that says ``state``."""
        after = len(self._diagnostics.messages)
        return self._diagnostics.wait_for(lambda s: s.name == "command" and values(s)["state"] == state, after, state)

    def holds(self) -> list[JointStateMsg]:
        """The guard says so and knows no fault, the other two live, the episode goes on. All set-points up to then."""
        status = self._wait_for_guard("holding")
        assert values(status)["faults"] == "" and "holding" in status.message
        self.executed.wait_count(len(self.executed.messages) + 50)
        assert self.sim.alive() and self.command.alive()
        assert values(self.progress.messages[-1])["state"] == "running"
        return list(self.executed.messages)

    def judge(self, messages: list[JointStateMsg]) -> None:
        """Set-points up to the hold: within the limits, and from the end of the last chunk on only braking, then rest."""
        positions = motion(messages)
        assert np.isfinite(positions).all()
        assert (positions >= self._limits.lower).all() and (positions <= self._limits.upper).all()
        velocity = np.diff(positions, axis=0, prepend=positions[:1]) / PERIOD_S
        assert (np.abs(velocity) <= self._limits.velocity * (1 + 1e-6)).all()
        assert (np.abs(np.diff(velocity, axis=0)) / PERIOD_S <= self._limits.acceleration * (1 + 1e-6)).all()

        stamps = [from_time(message.header.stamp) for message in messages]
        # Set-points are averages: the first of a stop still hold what was before it.
        ticks = np.ceil(2.0 * self._limits.acceleration / self._limits.jerk / PERIOD_S - 1e-9).max()
        speed = np.abs(velocity[stamps.index(self._stop_began(stamps)) + int(ticks) - 2 :])
        assert speed[0].max() > 0.0  # there was a motion to be ended
        assert (np.diff(speed, axis=0) <= 1e-9).all()
        assert speed[-30:].max() == 0.0

    def _stop_began(self, stamps: list[int]) -> int:
        """Stamp of the first set-point of the last stop: the guard reports every change of state."""
        states = [values(s) for s in self._diagnostics.messages if s.name == "command"]
        states = [s for s in states if int(s["state_since"]) <= stamps[-1]]
        active = max(i for i, s in enumerate(states) if s["state"] == "active")
        return int(states[active + 1]["state_since"])

    def follows_again(self) -> None:
        """A policy that is started anew is followed."""
        again = self.start_policy()
        self._wait_for_guard("active")
        self.executed.wait_for(self._moves, len(self.executed.messages), "no motion under the new policy")
        assert again.alive() and self.sim.alive() and self.command.alive()
        assert "Traceback" not in self.sim.output + self.command.output + again.output


def once_per_stamp(messages: list[JointStateMsg]) -> list[JointStateMsg]:
    """A tick that waits for long is announced again, and must be answered with the same set-point again."""
    first: dict[int, JointStateMsg] = {}
    for message in messages:
        assert first.setdefault(from_time(message.header.stamp), message) == message
    return list(first.values())


def test_in_lockstep(launcher: Launcher, ears: Ears, root: Path) -> None:
    """The simulation waits for the policy once, for ``lockstep.timeout_s``, then ticks on with the command node alone."""
    scene = Scene(launcher, ears, root, SCALE, lockstep__enabled=True, lockstep__timeout_s=TIMEOUT_S)
    scene.kill_policy_in_motion()
    messages = once_per_stamp(scene.holds())
    scene.judge(messages)
    assert set(np.diff([from_time(m.header.stamp) for m in messages])) == {CONTROL_STEP_NS}  # a set-point in every tick
    step = int(values(scene.progress.messages[-1])["step"])
    scene.progress.wait_for(lambda s: int(values(s)["step"]) >= step + 100, what="the simulation stands still")
    scene.follows_again()
