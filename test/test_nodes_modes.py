"""Policy and command node as real processes, live: the mode is changed while they run, and what the robot does is heard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ros_support import UNHURRIED, Ears, FakeRobot, Launcher, ears_fixture, launcher_fixture, values, write_robot  # noqa: F401

pytest.importorskip("rclpy")
pytest.importorskip("ultralytics")
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from test_nodes_dds_lockstep import CLASSES, untrained_policy
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.ros.images import features_to_message
from flow_policy_ros.ros.messages import plan_from_message
from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.runtime.types import Features


def test_the_mode_changes_while_running_and_an_impossible_one_is_refused(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    robot_file = write_robot(tmp_path)
    checkpoint = untrained_policy(tmp_path / "policy", load_robot(robot_file), {})
    diagnostics, info = ears.diagnostics(), ears.listen(DiagnosticStatus, "policy/chunk_info")
    plans = ears.listen(JointTrajectory, "command/plan")
    robot = FakeRobot(ears)
    detections, objects = ears.speak(Image, "features/detections"), ears.speak(Image, "features/objects")
    patient = {"policy__joint_state_max_age_s": 8.0, "policy__features_max_age_s": 8.0}
    policy = launcher.node("policy_node", robot_file, policy__checkpoint=checkpoint, policy__steps=5, **patient)
    command = launcher.node("command_node", robot_file, command__first_command_max=100.0, **UNHURRIED)

    def see() -> None:
        boxes = np.full((len(CLASSES), 5), 0.5, dtype=np.float32)
        detections.publish(features_to_message(Features(ears.now(), "detections", boxes)))
        objects.publish(features_to_message(Features(ears.now(), "objects", np.ones((1, 12), np.float32))))

    def change(**parameters: object) -> tuple[bool, str]:
        request = SetParametersAtomically.Request()
        request.parameters = [Parameter(f"policy.{k}", value=v).to_parameter_msg() for k, v in parameters.items()]
        result = ears.call(SetParametersAtomically, "policy_node/set_parameters_atomically", request).result
        return result.successful, result.reason

    with ears.insisting(see):
        first = values(info.wait_for())
        assert (first["mode"], first["continued"]) == ("receding", "False")
        plan = plan_from_message(plans.wait_for())
        assert plan.stamp > plan.chunk_stamp and set(plan.names) == set(robot.position)
        diagnostics.wait_for(lambda s: s.name == "policy" and float(values(s).get("delay_ms") or 0) > 0)

        done, reason = change(mode="rtc_trained", steps=7)
        assert not done and "'rtc_trained'" in reason and "use rtc or rtc_identity" in reason
        done, reason = change(mode="rtc", steps=4)
        assert not done and "with 4 solver steps its guidance overshoots" in reason
        since = len(info.messages)
        assert values(info.wait_for(after=since + 1))["mode"] == "receding"

        for mode in ("rtc", "ensemble", "rtc_identity"):
            assert change(mode=mode) == (True, "")
            since, continues = len(info.messages), str(mode != "ensemble")
            info.wait_for(
                lambda i, m=mode, c=continues: (values(i)["mode"], values(i)["continued"], values(i)["nfe"]) == (m, c, "5"), since
            )
    assert policy.alive() and command.alive() and "Traceback" not in policy.output + command.output
