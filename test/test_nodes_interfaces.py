"""The tables of ``ros.interfaces`` and ``ros.reported`` beside the running nodes: nothing is missing in them, nothing too much."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_support import JOINTS, Ears, FakeRobot, Launcher, ears_fixture, launcher_fixture, until, values, write_robot  # noqa: F401
from urdf_support import write_arm

pytest.importorskip("rclpy")
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters
from rclpy.node import NodeNameNonExistentError
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import QoSProfile
from std_msgs.msg import Bool
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.ros import interfaces, qos
from flow_policy_ros.ros.interfaces import NODES, QOS, Interface
from flow_policy_ros.ros.messages import chunk_to_message
from flow_policy_ros.ros.reported import REPORTED, Value
from flow_policy_ros.runtime.parameters import BLOCKS
from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.runtime.types import Chunk

TOPICS_OF_ROS = {"rosout", "parameter_events"}
SERVICES_OF_ROS = {
    "describe_parameters", "get_parameter_types", "get_parameters", "list_parameters", "set_parameters",
    "set_parameters_atomically", "get_type_description", "change_state", "get_state", "get_available_states",
    "get_available_transitions", "get_transition_graph",
}  # fmt: skip
PARAMETERS_OF_ROS = {"use_sim_time", "start_type_description_service"}
ROLES: tuple[tuple[str, str], ...] = (
    ("publishes", "get_publisher_names_and_types_by_node"),
    ("subscribes", "get_subscriber_names_and_types_by_node"),
    ("serves", "get_service_names_and_types_by_node"),
)
Found = set[tuple[str, str, str]]


@dataclass(frozen=True)
class Case:
    """A node with ``parameters``, so that ``conditions`` of the table hold. The robot is the two-joint one with ``robot``."""

    node: str
    conditions: tuple[str, ...]
    parameters: Mapping[str, object] = field(default_factory=dict)
    robot: Mapping[str, object] = field(default_factory=dict)

    @property
    def lockstep(self) -> bool:
        return bool(self.parameters.get("lockstep__enabled", False))


LOCKSTEP = {"lockstep__enabled": True}
TRAJECTORY, RAW = interfaces.TRAJECTORIES[0], interfaces.RAW[0]
STEP = interfaces.LOCKSTEP[0]
SMALL = {"width": 64, "height": 48, "rate_hz": 10.0}
READING = {"perception__extractor": "vlm", "perception__language_tokens": 24}
ADROIT = "config/robots/adroit_door.yaml"
CASES = {
    "command, one point a tick, bool switch": Case(
        "command_node", (TRAJECTORY, *interfaces.DEADMAN_BOOL), {"command__deadman": "bool"}, {"joint_state_topic": "hand/states"}
    ),
    "command, arrays": Case(
        "command_node", interfaces.ARRAY, {},
        {"command_interface": "float64_array", "command_topic": "forward", "command_joints": ["elbow", "shoulder"]},
    ),
    "command, whole trajectories": Case(
        "command_node", (interfaces.TRAJECTORIES[1],), {}, {"command_interface": "joint_trajectory_chunk"}
    ),
    "command, lockstep, joint states, joy": Case(
        "command_node",
        (STEP, *interfaces.JOINT_STATE, *interfaces.DEADMAN_JOY),
        {**LOCKSTEP, "command__deadman": "joy"},
        {"command_interface": "joint_state"},
    ),
    "policy": Case("policy_node", ()),
    "policy, lockstep": Case("policy_node", (STEP,), LOCKSTEP),
    "policy that looks itself": Case("policy_node", (RAW, *interfaces.ATTENTIVE)),
    "perception": Case("perception_node", (RAW,)),
    "perception, compressed": Case(
        "perception_node",
        interfaces.COMPRESSED,
        {},
        {"cameras": {"front": {"topic": "camera/image_raw/compressed", "width": 64, "height": 48, "rate_hz": 10.0}}},
    ),
    "perception, two cameras with depth, a model that reads": Case(
        "perception_node",
        (RAW, *interfaces.POINTS, *interfaces.READS),
        {**READING, "perception__cameras": "front wrist", "perception__points": "2x2"},
        {
            "cameras": {
                "front": {**SMALL, "topic": "camera/image_raw", "depth": {"topic": "camera/depth"}},
                "wrist": {**SMALL, "topic": "wrist/image_raw", "depth": {"topic": "wrist/depth", "camera_info": "wrist/info"}},
            }
        },
    ),
    "sim, lockstep": Case("sim_node", (STEP, TRAJECTORY), LOCKSTEP),
    "player": Case("player_node", (STEP, RAW), {**LOCKSTEP, "player__features": "objects"}),
    "recorder": Case("recorder_node", ()),
    "flight recorder": Case("flight_recorder_node", ()),
    "markers": Case("marker_node", ()),
    "dashboard": Case("dashboard_node", (), {"dashboard__once": True, "dashboard__wait_s": 600}),
    "view": Case("view_node", (), {"view__port": 0}),
    "sim, real time": Case("sim_node", (TRAJECTORY,), {"sim__realtime": True}),
}


def start(case: Case, launcher: Launcher, folder: Path, root: Path) -> dict[str, list[str]]:
    """Start the node; what the places in the table's names stand for."""
    robot_file = root / ADROIT if case.node == "sim_node" else write_robot(folder, **case.robot)
    robot = load_robot(robot_file)
    parameters = dict(case.parameters)
    streams = []
    if case.node == "policy_node":
        pytest.importorskip("torch")
        from demo_support import OBJECTS, untrained_policy

        from flow_policy_ros.runtime.contract import StreamContract

        streams = ["objects", "detections"]
        detections = StreamContract("detections", 2, 5, {})
        parameters["policy__checkpoint"] = untrained_policy(folder / "policy", robot, OBJECTS, detections)
        if RAW in case.conditions:
            pytest.importorskip("transformers")
            from test_nodes_language import looking_policy

            streams, parameters["policy__checkpoint"] = [], looking_policy(folder / "looking", robot)
    elif case.node == "perception_node":
        pytest.importorskip("ultralytics")
        if parameters.get("perception__extractor") == "vlm":
            pytest.importorskip("transformers")
            from vlm_folders import tiny

            parameters["perception__model"] = tiny("smolvlm", folder / "smolvlm")
        else:
            parameters["perception__detector"] = root / "checkpoints" / "adroit_door_detector"
    elif case.node == "player_node":
        parameters["player__bag"] = root / "samples" / "adroit_door" / "seed_5000"
        streams = ["objects"]
    elif case.node == "sim_node":
        pytest.importorskip("mujoco")
    elif case.node == "recorder_node":
        parameters["recorder__out"] = folder / "bags"
    elif case.node == "flight_recorder_node":
        parameters["flight__out"] = folder / "bags"
    elif case.node == "marker_node":
        parameters["markers__urdf"] = write_arm(folder)
    launcher.node(case.node, robot_file, **parameters)
    camera = robot.cameras[0].topic
    cameras = [c for c in robot.cameras if c.name in str(case.parameters.get("perception__cameras", robot.cameras[0].name)).split()]
    endings = ["" if c == robot.cameras[0] else f"_{c.name}" for c in cameras]
    kind = case.parameters.get("perception__extractor", "detections")
    return {
        "joint_state_topic": [robot.joint_state_topic],
        "command_topic": [robot.command_topic],
        "camera": [camera],
        "camera_info": [f"{camera.rpartition('/')[0]}/camera_info"],
        "look": [camera],
        "stream": streams,
        "looked_at": [c.topic for c in cameras],
        "depth": [c.depth.topic for c in cameras if c.depth],
        "depth_info": [c.depth.camera_info for c in cameras if c.depth],
        "perceived": [f"{kind}{ending}" for ending in endings],
        "points": [f"points{ending}" for ending in endings],
        "overlay": [f"overlay{ending}" for ending in endings],
    }


def expected(case: Case, places: dict[str, list[str]]) -> dict[tuple[str, str, str], Interface]:
    """What the table says that there is: (role, absolute name, type) → its row."""
    result: dict[tuple[str, str, str], Interface] = {}
    for row in NODES[case.node].present(*case.conditions):
        place = re.search(r"{(\w+)}", row.name)
        for given in [row.name] if place is None else [row.name.replace(place[0], v) for v in places[place[1]]]:
            result[row.role, "/" + given.lstrip("/"), row.type] = row
    return result


def graph(ears: Ears, node: str) -> Found:
    """What the ROS graph knows of the node, without what every node of ROS has."""
    found: Found = set()
    for role, question in ROLES:
        try:
            answer = getattr(ears.node, question)(node, "/")
        except NodeNameNonExistentError:
            return set()
        found |= {(role, name, kind) for name, kinds in answer for kind in kinds}
    usual = {f"/{name}" for name in TOPICS_OF_ROS} | {f"/{node}/{name}" for name in {*SERVICES_OF_ROS, "transition_event"}}
    return {entry for entry in found if entry[1] not in usual}


def given(name: str, lockstep: bool) -> QoSProfile:
    """The profile of ``ros.qos`` that the table calls ``name``."""
    functions: dict[str, Callable[[bool], QoSProfile]] = {"READER": qos.reader, "IMAGE_READER": qos.image_reader}
    if name in functions:
        return functions[name](lockstep)
    profile: QoSProfile = getattr(qos, name)
    return profile


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_table_is_what_the_node_has(case: Case, launcher: Launcher, ears: Ears, tmp_path: Path, root: Path) -> None:
    diagnostics = ears.diagnostics()
    wanted = expected(case, start(case, launcher, tmp_path, root))
    report = diagnostics.wait_for() if REPORTED[case.node] else None
    until(lambda: graph(ears, case.node) >= set(wanted), f"of {case.node} there are only {sorted(graph(ears, case.node))}")
    if report is None:
        time.sleep(1.0)
    else:
        diagnostics.wait_count(len(diagnostics.messages) + 1)  # what there is too much may be discovered later
    assert graph(ears, case.node) == set(wanted)
    for (role, name, _), row in wanted.items():
        if role != "serves":
            ask = ears.node.get_publishers_info_by_topic if role == "publishes" else ears.node.get_subscriptions_info_by_topic
            (end,) = (e.qos_profile for e in ask(name) if e.node_name == case.node)
            profile = given(row.qos, case.lockstep)
            assert (end.reliability, end.durability) == (profile.reliability, profile.durability), name
    if report is not None:
        check_keys(case.node, values(report))
    check_parameters(case.node, ears)


def check_parameters(node: str, ears: Ears) -> None:
    """The node declares what the table says, and describes in the same words what is in no block."""
    table = NODES[node]
    names = set(ears.call(ListParameters, f"{node}/list_parameters", ListParameters.Request()).result.names) - PARAMETERS_OF_ROS
    blocks = {f"{block}.{f.name}" for block in table.blocks for f in fields(BLOCKS[block])}
    assert names == blocks | set(table.parameters)
    own = list(table.parameters)
    described = ears.call(DescribeParameters, f"{node}/describe_parameters", DescribeParameters.Request(names=own)).descriptors
    held = ears.call(GetParameters, f"{node}/get_parameters", GetParameters.Request(names=own)).values
    for descriptor, value in zip(described, held, strict=True):
        kind, default, text = table.parameters[descriptor.name]
        assert descriptor.description == text and descriptor.read_only
        assert type(parameter_value_to_python(value)).__name__ == kind
        assert not default or str(parameter_value_to_python(value)).lower() == default


def pattern(value: Value) -> re.Pattern[str]:
    """The keys that a row of the table stands for."""
    parts = re.split(r"(<[^>]*>)", value.key)
    return re.compile("".join(_part(part) if part.startswith("<") else re.escape(part) for part in parts))


def _part(text: str) -> str:
    return f"({'|'.join(map(re.escape, text[1:-1].split(',')))})" if "," in text else ".+"


def check_keys(node: str, reported: dict[str, str]) -> set[str]:
    """Every key is in the table, and what is always there is there. Returns the rows that were met."""
    rows = {value.key: pattern(value) for value in REPORTED[node]}
    assert [key for key in reported if not any(row.fullmatch(key) for row in rows.values())] == []
    met = {name for name, row in rows.items() if any(row.fullmatch(key) for key in reported)}
    assert {value.key for value in REPORTED[node] if value.always} <= met
    return met


def test_the_command_node_reports_every_key_of_the_table(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    """And no other, whatever happens: chunks too fast and out of range, a chunk that is refused, a fault."""
    diagnostics = ears.diagnostics()
    limits = {j: {"position": [-1.0, 1.0], "velocity": 2.0, "acceleration": 20.0, "jerk": 500.0} for j in JOINTS}
    FakeRobot(ears)
    chunks, button = ears.speak(JointTrajectory, "policy/chunk"), ears.speak(Bool, "command/emergency_stop")
    patient = {"command__joint_state_max_age_s": 8.0, "command__stall_s": 10.0, "command__first_command_max": 10.0}
    launcher.node("command_node", write_robot(tmp_path, limits=limits), **patient)
    diagnostics.wait_for(lambda s: values(s)["state"] == "holding")
    wild = np.stack([3.0 * np.sin(np.arange(100.0)), np.zeros(100)], axis=1)

    def say() -> None:
        chunks.publish(chunk_to_message(Chunk(ears.now(), 20_000_000, JOINTS, wild)))
        chunks.publish(chunk_to_message(Chunk(ears.now(), 20_000_000, JOINTS, np.full((2, 2), math.nan))))

    met: set[str] = set()

    def all_but_faults(status: Any) -> bool:
        met.update(check_keys("command_node", values(status)))
        return met >= {value.key for value in REPORTED["command_node"]} - {"fault_count.<fault>"}

    with ears.insisting(say):
        diagnostics.wait_for(all_but_faults, what=f"met: {sorted(met)}")
    with ears.insisting(lambda: button.publish(Bool(data=True))):
        last = diagnostics.wait_for(lambda s: values(s)["faults"] != "")
    assert "fault_count.<fault>" in check_keys("command_node", values(last))


def test_the_qualities_of_service_are_those_of_the_code() -> None:
    names = {name for name in vars(qos) if name.isupper() and not name.startswith("_")} | {"READER", "IMAGE_READER"}
    assert set(QOS) == names - {"IMAGE_ALL"}  # what an IMAGE_READER becomes while all publishers are reliable
    for name, row in QOS.items():
        live, lockstep = given(name, False), given(name, True)
        assert (row.reliability, row.durability, row.depth) == (
            live.reliability.name.lower(), live.durability.name.lower(), live.depth
        )  # fmt: skip
        assert (row.lockstep or (row.reliability, row.depth)) == (lockstep.reliability.name.lower(), lockstep.depth)


def test_every_row_has_a_known_quality_and_known_places() -> None:
    for node in NODES.values():
        for row in node.interfaces:
            assert (row.qos in QOS) == (row.role in ("publishes", "subscribes")), row.name
            assert set(re.findall(r"{(\w+)}", row.name)) <= set(interfaces.PLACES), row.name
