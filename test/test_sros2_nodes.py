"""Running nodes beside their SROS 2 profiles: nothing that a node opens is outside its own."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from ros_support import Ears, Launcher, ears_fixture, launcher_fixture, until, write_robot  # noqa: F401

pytest.importorskip("rclpy")
from rclpy.node import NodeNameNonExistentError
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.ros.processes import NodeSpec
from flow_policy_ros.ros.sros2 import EVERYTHING, Profile, deployment, profiles
from flow_policy_ros.ros.steps import ACTIVATE, BEGIN, CHUNKS, CONFIGURE, PLAYER_START, READY, SIM_RESET, STEPS
from flow_policy_ros.runtime.contract import Contract
from flow_policy_ros.runtime.robot import load_robot

Right = tuple[str, str]
ASKED = {
    "publishes": "get_publisher_names_and_types_by_node",
    "subscribes": "get_subscriber_names_and_types_by_node",
    "serves": "get_service_names_and_types_by_node",
    "requests": "get_client_names_and_types_by_node",
}


def used(ears: Ears, node: str) -> set[Right]:
    """Everything that a running node has opened, its own parameter services and all."""
    try:
        return {(right, name) for right, ask in ASKED.items() for name, _ in getattr(ears.node, ask)(node, "/")}
    except NodeNameNonExistentError:
        return set()


def outside(opened: set[Right], profile: Profile) -> set[Right]:
    """What a profile does not allow."""
    return {(right, name) for right, name in opened if not {name, EVERYTHING} & getattr(profile, right)}


def profile_of(robot_file: Path, contract: Contract, node: str, **settings: object) -> Profile:
    plan = deployment(load_robot(robot_file), contract, {key.replace("__", "."): value for key, value in settings.items()})
    return profiles(plan, (node,))[0]


def empty(joints: tuple[str, ...]) -> Contract:
    return Contract("two_joints", joints, joints, 20_000_000, 16, ())


@pytest.mark.parametrize(
    ("settings", "robot"),
    [
        ({"command__deadman": "joy"}, {"command_interface": "joint_trajectory_chunk", "command_topic": "arm/trajectory"}),
        ({"command__deadman": "bool", "lockstep__enabled": True}, {"command_interface": "joint_state"}),
    ],
)
def test_the_command_node_keeps_to_its_profile(
    launcher: Launcher, ears: Ears, tmp_path: Path, settings: dict[str, object], robot: dict[str, object]
) -> None:
    robot_file = write_robot(tmp_path, **robot)
    contract = empty(load_robot(robot_file).joints)
    profile = profile_of(robot_file, contract, "command_node", **settings)
    reports = ears.diagnostics()
    launcher.node("command_node", robot_file, **settings)
    reports.wait_count(2)
    until(lambda: len(used(ears, "command_node")) > 15, "the node is not seen")
    assert outside(used(ears, "command_node"), profile) == set()
    allowed = {(right, name) for right in ASKED for name in getattr(profile, right)} - {("subscribes", "/clock")}
    spare = allowed - used(ears, "command_node")
    assert spare <= {("serves", "/command_node/get_type_description")}  # nor is anything allowed that it has no use for

    without = profile_of(robot_file, contract, "command_node", **{**settings, "command__deadman": ""})
    switch = {"joy": "/joy", "bool": "/command/deadman"}[str(settings["command__deadman"])]
    assert outside(used(ears, "command_node"), without) == {("subscribes", switch)}


@pytest.mark.parametrize(
    ("step", "arguments"),
    [
        (CONFIGURE, ("configure", "command_node")),
        (ACTIVATE, ("activate", "command_node", "--topic", CHUNKS)),
        (ACTIVATE, ("activate", "command_node", "--service", READY)),
        (BEGIN, ("call", READY, "command/reset", SIM_RESET, PLAYER_START)),
    ],
)
def test_the_steps_of_a_bring_up_keep_to_their_profiles(
    launcher: Launcher, ears: Ears, tmp_path: Path, step: str, arguments: tuple[str, ...]
) -> None:
    """From their start to their end; in the enclave that they were given."""
    robot_file = write_robot(tmp_path)
    contract, lockstep = empty(load_robot(robot_file).joints), "--service" in arguments
    profile = profile_of(robot_file, contract, step, lockstep__enabled=lockstep)
    chunks = ears.speak(JointTrajectory, "policy/chunk") if CHUNKS in arguments else None
    awaited = [name for name in arguments if name in (READY, "command/reset", SIM_RESET, PLAYER_START)]
    spec = NodeSpec("lead_node", {}, {"__node": step}, arguments, profile.enclave)
    process = launcher._start(spec.command(), step)
    opened: set[Right] = set()
    enclaves: set[str] = set()
    led = step == BEGIN
    while process.alive():
        opened |= used(ears, step)
        enclaves |= {enclave for name, _, enclave in ears.node.get_node_names_and_namespaces_with_enclaves() if name == step}
        if enclaves and not led:  # what is waited for comes when the step has been seen
            launcher.node("command_node", robot_file, managed=step == CONFIGURE)
            led = True
        if chunks is not None and ("subscribes", "/policy/chunk") in opened:
            chunks.publish(JointTrajectory())
        if awaited and ("requests", f"/{awaited[0]}") in opened:
            ears.node.create_service(Trigger, awaited.pop(0), lambda request, response: Trigger.Response(success=True))
        time.sleep(0.02)
    assert process.wait() == 0 and enclaves == {profile.enclave}
    assert outside(opened, profile) == set()
    lasting = [row for row in STEPS[step] if step == CONFIGURE or row.name in ("/rosout", "/diagnostics", *arguments)]
    assert opened >= {(row.role, f"/{row.name.lstrip('/')}") for row in lasting}  # nor is anything in the table that it never uses
    if lockstep:
        assert outside(opened, profile_of(robot_file, contract, step)) == {("requests", f"/{READY}")}


def test_the_recorder_may_hear_everything_and_say_nothing_else(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    robot_file = write_robot(tmp_path)
    profile = profile_of(robot_file, empty(("shoulder", "elbow")), "recorder_node")
    ears.speak(String, "instruction")
    reports = ears.diagnostics()
    launcher.node("recorder_node", robot_file, recorder__out=tmp_path / "bags", recorder__autostart=True)
    reports.wait_count(2)
    until(lambda: ("subscribes", "/instruction") in used(ears, "recorder_node"), "the recorder does not record")
    assert outside(used(ears, "recorder_node"), profile) == set()
    assert profile.publishes == {"/rosout", "/parameter_events", "/diagnostics"}


def test_the_policy_node_keeps_to_its_profile(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from demo_support import OBJECTS, untrained_policy

    from flow_policy_ros.cli.sros2 import read_contract
    from flow_policy_ros.runtime.contract import StreamContract

    robot_file = write_robot(tmp_path)
    robot = load_robot(robot_file)
    folder = untrained_policy(tmp_path / "policy", robot, OBJECTS, StreamContract("detections", 2, 5, {}))
    profile = profile_of(robot_file, read_contract(Path(folder), robot.name), "policy_node")
    reports = ears.diagnostics()
    launcher.node("policy_node", robot_file, policy__checkpoint=folder)
    reports.wait_count(2)
    until(lambda: ("subscribes", "/features/detections") in used(ears, "policy_node"), "the node is not seen")
    assert outside(used(ears, "policy_node"), profile) == set()
