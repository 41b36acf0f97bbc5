"""The controller's own joint order: read by name from files as robots have them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flow_policy_ros.runtime.controller_file import controller_joints
from flow_policy_ros.runtime.robot_yaml import RobotFileError

UR = ("shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint", "wrist_1_joint", "wrist_2_joint", "wrist_3_joint")


def test_allegro(shared) -> None:
    joints = controller_joints(shared / "controllers" / "allegro_v4_single.yaml", "allegro_hand_position_controller", {})
    assert joints == tuple(f"ah_joint{finger}{k}" for finger in range(4) for k in range(4))


@pytest.mark.parametrize("name", ["trajectory_controller", "follower/trajectory_controller", "/follower/forward_controller"])
def test_so101_lies_in_a_name_space(shared, name) -> None:
    joints = controller_joints(shared / "controllers" / "so101_legalaspro_follower.yaml", name, {})
    assert joints == ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")


def test_ur_needs_its_launch_argument(shared) -> None:
    path = shared / "controllers" / "ur_controllers.yaml"
    assert controller_joints(path, "joint_trajectory_controller", {"tf_prefix": ""}) == UR
    assert controller_joints(path, "joint_trajectory_controller", {"tf_prefix": "l_"}) == tuple("l_" + joint for joint in UR)
    with pytest.raises(RobotFileError, match=r"launch argument tf_prefix.*robot\.controller\.variables"):
        controller_joints(path, "joint_trajectory_controller", {})


def test_a_controller_without_joints_is_refused_with_those_that_have(shared) -> None:
    with pytest.raises(RobotFileError) as caught:
        controller_joints(shared / "controllers" / "so101_legalaspro_follower.yaml", "joint_state_broadcaster", {})
    assert "follower/trajectory_controller, follower/forward_controller" in str(caught.value)


def write(tmp_path: Path, tree: object) -> Path:
    path = tmp_path / "controllers.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def node(joints: object) -> dict:
    return {"ros__parameters": {"joints": joints}}


def test_two_hands_are_told_apart_by_their_name_space(tmp_path) -> None:
    path = write(tmp_path, {"left": {"hand": node(["a"])}, "/right/hand": node(["b"]), "hand": node(["c"])})
    assert controller_joints(path, "left/hand", {}) == ("a",)
    assert controller_joints(path, "/right/hand", {}) == ("b",)
    assert controller_joints(path, "hand", {}) == ("c",)
    path = write(tmp_path, {"left": {"hand": node(["a"])}, "/right/hand": node(["b"])})
    with pytest.raises(RobotFileError, match="2 controllers 'hand'"):
        controller_joints(path, "hand", {})


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"hand": node(["a", "a"])}, "each once"),
        ({"hand": node([])}, "at least one"),
        ({"hand": node([0, 1])}, "in quotes"),
        ({"hand": node("a")}, "expected a list"),
        ({"hand": {"ros__parameters": 3}}, r"\(none\)"),
        ([], r"\(none\)"),
        ({"my_hand": node(["a"])}, "has no 'hand'"),
    ],
)
def test_a_bad_controller_file_is_refused(tmp_path, tree, words) -> None:
    with pytest.raises(RobotFileError, match=words) as caught:
        controller_joints(write(tmp_path, tree), "hand", {})
    assert "controllers.yaml" in str(caught.value)


def test_a_missing_controller_file_is_refused(tmp_path) -> None:
    with pytest.raises(RobotFileError, match=r"controller file .*nowhere\.yaml cannot be read"):
        controller_joints(tmp_path / "nowhere.yaml", "hand", {})
