"""Robot files and contracts: what is read, what is refused, and with which words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from flow_policy_ros.runtime import parameters
from flow_policy_ros.runtime.contract import Contract, ContractError, StreamContract
from flow_policy_ros.runtime.robot import Robot, RobotFileError, load_robot

SHIPPED = sorted((Path(__file__).parents[1] / "config" / "robots").glob("*.yaml"))


def block() -> dict:
    """The ``robot`` block of a two-joint robot."""
    return {
        "name": "toy",
        "joints": ["wrist", "thumb"],
        "groups": {"arm": ["wrist"], "fingers": ["thumb"]},
        "limits": {
            "thumb": {"position": [0, 1.5], "velocity": 2, "acceleration": 20.0},
            "wrist": {"position": [-1.0, 1.0], "velocity": 3.0, "acceleration": 30.0, "effort": 5},
        },
        "cameras": {"front": {"topic": "camera/image_raw", "width": 64, "height": 48, "rate_hz": 12.5}},
        "limits_source": "data sheet",
    }


def load(tmp_path: Path, robot: dict, **blocks) -> Robot:
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": {"robot": robot, **blocks}}}))
    return load_robot(path)


def test_limits_come_in_the_order_of_the_joints(tmp_path) -> None:
    robot = load(tmp_path, block())
    assert robot.joints == robot.limits.names == ("wrist", "thumb")
    assert robot.limits.lower.tolist() == [-1.0, 0.0] and robot.limits.upper.tolist() == [1.0, 1.5]
    assert robot.limits.velocity.tolist() == [3.0, 2.0] and robot.limits.acceleration.tolist() == [30.0, 20.0]
    assert robot.limits.effort.tolist() == [5.0, np.inf]
    assert robot.groups == {"arm": ("wrist",), "fingers": ("thumb",)}
    assert (robot.cameras[0].name, robot.cameras[0].width, robot.cameras[0].rate_hz) == ("front", 64, 12.5)
    assert (robot.command_interface, robot.limits_source) == ("joint_trajectory", "data sheet")


def test_scaling_leaves_the_range_alone(tmp_path) -> None:
    limits = load(tmp_path, block()).limits
    half = limits.scaled(0.5)
    assert np.array_equal(half.velocity, limits.velocity / 2)
    assert np.array_equal(half.acceleration, limits.acceleration / 2)
    assert np.array_equal(half.lower, limits.lower) and np.array_equal(half.upper, limits.upper)


def test_node_blocks_become_flat_parameters(tmp_path) -> None:
    robot = load(tmp_path, block(), policy={"rate_hz": 5}, command={"rate_hz": 200.0})
    assert robot.parameters == {"policy.rate_hz": 5, "command.rate_hz": 200.0}
    policy = parameters.from_flat(parameters.PolicyParameters, "policy", robot.parameters)
    assert policy.rate_hz == 5.0


def with_change(*path_and_value) -> dict:
    robot = block()
    *path, last, value = path_and_value
    place = robot
    for key in path:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return robot


BAD = {
    "no name": (with_change("name", None), "'name' is missing"),
    "no joints": (with_change("joints", []), "at least one"),
    "joint twice": (with_change("joints", ["wrist", "thumb", "wrist"]), "each once"),
    "joint is a number": (with_change("joints", ["wrist", 3]), "names"),
    "no limits of a joint": (with_change("limits", "thumb", None), "no limits for ['thumb']"),
    "limits of a stranger": (with_change("limits", "toe", {}), "['toe']"),
    "limits not a block": (with_change("limits", "thumb", 3), "limits.thumb"),
    "no velocity": (with_change("limits", "thumb", "velocity", None), "'velocity' is missing"),
    "negative velocity": (with_change("limits", "thumb", "velocity", -1.0), "thumb.velocity"),
    "infinite acceleration": (with_change("limits", "thumb", "acceleration", float("inf")), "thumb.acceleration"),
    "velocity is a word": (with_change("limits", "thumb", "velocity", "fast"), "'velocity' is 'fast'"),
    "velocity is a bool": (with_change("limits", "thumb", "velocity", True), "'velocity' is True"),
    "range reversed": (with_change("limits", "thumb", "position", [1.0, 0.0]), "thumb.position"),
    "range of NaN": (with_change("limits", "thumb", "position", [float("nan"), 0.0]), "thumb.position"),
    "range without end": (with_change("limits", "thumb", "position", [0.0, float("inf")]), "thumb.position"),
    "range of one": (with_change("limits", "thumb", "position", [1.0]), "thumb.position"),
    "effort is a word": (with_change("limits", "thumb", "effort", "strong"), "'effort' is 'strong'"),
    "stranger in a group": (with_change("groups", "arm", ["elbow"]), "['elbow']"),
    "group is a word": (with_change("groups", "arm", "wrist"), "'arm' is 'wrist'"),
    "camera without topic": (with_change("cameras", "front", "topic", None), "'topic' is missing"),
    "camera without rate": (with_change("cameras", "front", "rate_hz", 0), "cameras.front"),
    "unknown interface": (with_change("command_interface", "smoke"), "'smoke'"),
}


@pytest.mark.parametrize(("robot", "words"), BAD.values(), ids=BAD.keys())
def test_a_bad_robot_file_is_refused_by_path_and_key(tmp_path, robot, words) -> None:
    with pytest.raises(RobotFileError) as caught:
        load(tmp_path, robot)
    assert words in str(caught.value) and "toy.yaml" in str(caught.value)


def test_limits_given_twice_are_refused(tmp_path) -> None:
    """Plain YAML would take the last of two limits for one joint without a word."""
    path = tmp_path / "toy.yaml"
    entry = "{position: [0, 1], velocity: 1.0, acceleration: 1.0}"
    path.write_text(
        f"/**:\n  ros__parameters:\n    robot:\n      name: toy\n      joints: [a]\n"
        f"      limits:\n        a: {entry}\n        a: {entry}\n"
    )
    with pytest.raises(RobotFileError, match=r"\['a'\] given twice"):
        load_robot(path)


@pytest.mark.parametrize("text", ["", "robot: {}", "/**: 3", "/**: {ros__parameters: }", "a: [1", "/**: [1]"])
def test_what_is_no_robot_file_is_refused(tmp_path, text) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(text)
    with pytest.raises(RobotFileError, match=r"toy\.yaml"):
        load_robot(path)


def test_a_missing_file_is_refused(tmp_path) -> None:
    with pytest.raises(RobotFileError, match=r"nowhere\.yaml cannot be read"):
        load_robot(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_robot_files_load_with_their_parameters_and_cite_their_limits(path) -> None:
    robot = load_robot(path)
    assert robot.limits_source.strip()
    assert sorted(j for members in robot.groups.values() for j in members) == sorted(robot.joints)
    known = set()
    for prefix, cls in parameters.BLOCKS.items():
        parameters.from_flat(cls, prefix, robot.parameters)
        known |= {name for name in robot.parameters if name.startswith(prefix + ".")}
    assert set(robot.parameters) == known


@pytest.mark.parametrize("path", [p for p in SHIPPED if p.stem.startswith("adroit")], ids=lambda p: p.stem)
def test_shipped_jerk_limits_allow_full_acceleration_within_a_control_step_as_the_actuators_do(path) -> None:
    """Averaging over 2 A / (J T) set-points keeps the jerk: one for the pen, whose expert flicks, two for the others."""
    limits = load_robot(path).limits
    averaged = np.ceil(2 * limits.acceleration / (limits.jerk * 0.01))
    assert set(averaged) == ({1.0} if "pen" in path.stem else {2.0})


EYE = StreamContract("eye", 2, 3, {"model": "x"})
CONTRACT = Contract("toy", ("wrist", "thumb"), ("thumb", "wrist"), 10, 4, (EYE,))


def test_a_contract_survives_json() -> None:
    assert Contract.from_json(json.loads(json.dumps(CONTRACT.to_json()))) == CONTRACT


@pytest.mark.parametrize("key", ["robot", "joints", "action_joints", "dt_ns", "horizon", "streams"])
def test_an_incomplete_contract_is_refused_by_its_key(key) -> None:
    content = CONTRACT.to_json()
    del content[key]
    with pytest.raises(ContractError, match=key):
        Contract.from_json(content)


def test_a_contract_refuses_another_robot_and_lists_both_sides(tmp_path) -> None:
    CONTRACT.check_robot(load(tmp_path, block()))
    other = block()
    other["joints"] = ["wrist", "toe"]
    other["groups"] = {}
    other["limits"]["toe"] = other["limits"].pop("thumb")
    with pytest.raises(ContractError) as caught:
        CONTRACT.check_robot(load(tmp_path, other))
    assert "['thumb']" in str(caught.value) and "['toe']" in str(caught.value) and "toy.yaml" in str(caught.value)
