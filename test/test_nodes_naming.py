"""Joint states with other names, or with none, live: the nodes do with them what the offline tools do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from ros_support import (  # noqa: F401
    Ears,
    FakeRobot,
    Launcher,
    ears_fixture,
    launcher_fixture,
    values,
    write_robot,
)

pytest.importorskip("rclpy")
from sensor_msgs.msg import Image
from sensor_msgs.msg import JointState as JointStateMsg
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros import resources
from flow_policy_ros.policy.deployed import deploy
from flow_policy_ros.ros.images import features_to_message
from flow_policy_ros.ros.messages import chunk_from_message, joint_state_to_message
from flow_policy_ros.runtime.parameters import PolicyParameters
from flow_policy_ros.runtime.policy_loop import PolicyLoop
from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.runtime.types import Features, JointState


@pytest.mark.parametrize("unnamed", [False, True])
def test_the_command_node_takes_renamed_and_unnamed_states(launcher: Launcher, ears: Ears, tmp_path: Path, unnamed: bool) -> None:
    executed, diagnostics = ears.listen(JointStateMsg, "command/executed"), ears.diagnostics()
    robot = FakeRobot(ears)
    robot.paused = True
    keys = {"joint_state_names": {"q0": "shoulder", "q1": "elbow"}, "joint_state_order": ["elbow", "shoulder"]}
    launcher.node("command_node", write_robot(tmp_path, **keys))
    ears.connected(robot.publisher)
    with ears.insisting(lambda: robot.say([] if unnamed else ["q1", "q0"], [-0.25, 0.5])):
        first = executed.wait_for()
    assert dict(zip(first.name, first.position, strict=True)) == {"shoulder": 0.5, "elbow": -0.25}
    with ears.insisting(lambda: robot.say([], [0.0, 0.0, 0.0])):
        fault = diagnostics.wait_for(lambda s: s.name == "command" and "bad_joint_state" in values(s).get("faults", ""))
    assert int(values(fault)["rejections.joint_state_unnamed"]) > 0
    assert "robot.joint_state_order has 2 joints" in fault.message


def test_the_policy_node_samples_from_unnamed_states_what_the_loop_does_offline(
    launcher: Launcher, ears: Ears, tmp_path: Path
) -> None:
    source = resources.robot_file("adroit_door")
    tree = yaml.safe_load(source.read_text())
    block = tree["/**"]["ros__parameters"]["robot"]
    order = list(reversed(block["joints"]))
    block["joint_state_order"] = order
    path = tmp_path / "unnamed.yaml"
    path.write_text(yaml.safe_dump(tree))
    robot, checkpoint = load_robot(path), str(resources.checkpoint("adroit_door_state"))

    ages = {"joint_state_max_age_s": 9.0, "features_max_age_s": 9.0}
    parameters = PolicyParameters(checkpoint=checkpoint, **ages)
    policy = deploy(parameters, robot.name)
    stream = policy.contract.streams[0]
    seen = np.linspace(-1.0, 1.0, stream.tokens * stream.channels, dtype=np.float32).reshape(stream.tokens, stream.channels)

    chunks = ears.listen(JointTrajectory, "policy/chunk")
    states, features = ears.speak(JointStateMsg, "joint_states"), ears.speak(Image, f"features/{stream.name}")
    position = np.linspace(-0.3, 0.3, len(order))
    launcher.node("policy_node", path, policy__checkpoint=checkpoint, **{f"policy__{key}": age for key, age in ages.items()})
    ears.connected(states)
    ears.connected(features)

    def say() -> None:
        features.publish(features_to_message(Features(ears.now(), stream.name, seen)))
        states.publish(joint_state_to_message(JointState(ears.now(), (), position, np.zeros(len(order)))))

    with ears.insisting(say):
        live = chunk_from_message(chunks.wait_for())

    def offline(names: tuple[str, ...]) -> np.ndarray:
        loop = PolicyLoop(policy, parameters, robot.endless)
        loop.on_features(Features(live.stamp, stream.name, seen), live.stamp)
        loop.on_joint_state(robot.naming.named(JointState(live.stamp, names, position)), live.stamp)
        return loop.step(live.stamp).positions

    assert np.array_equal(offline(()), live.positions)
    assert not np.array_equal(offline(robot.joints), live.positions)  # had the values been taken in the robot's own order
