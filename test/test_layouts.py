"""Layouts of Foxglove, PlotJuggler and RViz show what exists: topics of the nodes, values that are reported."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flow_policy_ros.ros.interfaces import NODES
from flow_policy_ros.ros.reported import REPORTED
from flow_policy_ros.runtime.robot import load_robot

ROOT = Path(__file__).resolve().parents[1]
FOXGLOVE = ROOT / "config" / "foxglove" / "flow_policy.json"
PLOTJUGGLER = ROOT / "config" / "plotjuggler" / "adroit_door.xml"
RVIZ = ROOT / "config" / "rviz" / "flow_policy.rviz"
STRING = "std_msgs/msg/String"
OTHERS = {"/robot_description": STRING, "/rosout": "rcl_interfaces/msg/Log"}
"""Topics that others than our nodes publish."""
FIELDS = {
    "sensor_msgs/msg/JointState": r"(position|velocity)\[\d+\]",
    "trajectory_msgs/msg/JointTrajectory": r"points\[\d+\]\.positions\[\d+\]",
    "diagnostic_msgs/msg/DiagnosticArray": r'status\[:\]\{name=="(\w+)"\}\.values\[:\]\{key=="([\w.]+)"\}\.value',
}
"""What of a message is a curve, as Foxglove's message paths."""


def topics() -> dict[str, str]:
    """Topics of all nodes with the simulated robot, by absolute name, with their types."""
    robot = load_robot(ROOT / "config" / "robots" / "adroit_door.yaml")
    camera = robot.cameras[0].topic
    places = {
        "joint_state_topic": robot.joint_state_topic, "command_topic": robot.command_topic, "camera": camera,
        "camera_info": f"{camera.rpartition('/')[0]}/camera_info", "overlay": "overlay", "perceived": "detections",
    }  # fmt: skip
    found = dict(OTHERS)
    for node in NODES.values():
        for interface in node.interfaces:
            place = re.search(r"{(\w+)}", interface.name)
            if interface.role == "publishes" and (place is None or place[1] in places):
                name = interface.name if place is None else interface.name.replace(place[0], places[place[1]])
                found.setdefault("/" + name.lstrip("/"), interface.type)
    return found


def problems_of_value(node: str, key: str) -> list[str]:
    """Why no node reports that value."""
    rows = [value.key for value in REPORTED.get(f"{node}_node", ())]
    patterns = [re.sub(r"<[^>]*>", lambda m: f"({m[0][1:-1].replace(',', '|')})" if "," in m[0] else ".+", row) for row in rows]
    return [] if any(re.fullmatch(pattern, key) for pattern in patterns) else [f"{node} does not report {key}"]


def strings(tree: Any) -> Iterator[str]:
    """Every text in a tree of JSON or YAML."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield str(key)
            yield from strings(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from strings(value)
    elif isinstance(tree, str):
        yield tree


def problems_of_foxglove(layout: dict[str, Any]) -> list[str]:
    """What is named and does not exist: topics, fields, values, panels."""
    known, found = topics(), []
    panels: dict[str, Any] = layout["configById"]
    for text in strings(panels):
        if not text.startswith("/"):
            continue
        topic, _, field = text.partition(".")
        if topic not in known:
            found.append(f"no topic {topic}")
        elif field:
            match = re.fullmatch(FIELDS.get(known[topic], "-"), field)
            found += [f"no field {field} of {topic}"] if match is None else []
            if match and topic == "/diagnostics":
                found += problems_of_value(*match.groups())
    tabs = [panel["tabs"] for name, panel in panels.items() if name.startswith("Tab!")]
    shown = {text for text in strings([layout["layout"], tabs]) if "!" in text}
    return found + [f"panel {name} is shown and not there" for name in shown - set(panels)] + [
        f"panel {name} is there and not shown" for name in set(panels) - shown
    ]


def problems_of_curve(name: str, known: dict[str, str], joints: tuple[str, ...]) -> list[str]:
    """Why PlotJuggler would find no curve of that name. (Its parser names joint states by joint, diagnostics by node and key.)"""
    topic = next((t for t in known if name.startswith(t + "/")), None)
    if topic is None:
        return [f"no topic in {name}"]
    tail = name.removeprefix(topic + "/")
    kind = known[topic]
    if kind == "diagnostic_msgs/msg/DiagnosticArray":
        return problems_of_value(*tail.split("/", 1))
    if kind == "sensor_msgs/msg/JointState":
        joint, _, what = tail.partition("/")
        return [] if joint in joints and what in ("position", "velocity") else [f"no {tail} of {topic}"]
    if kind == "trajectory_msgs/msg/JointTrajectory":
        return [] if re.fullmatch(r"points\[\d+\]/positions\[\d+\]", tail) else [f"no {tail} of {topic}"]
    return [f"nothing to draw in {topic}"]


def test_the_foxglove_layout_shows_what_there_is() -> None:
    layout = json.loads(FOXGLOVE.read_text())
    assert problems_of_foxglove(layout) == []
    kinds = {name.partition("!")[0] for name in layout["configById"]}
    assert {"Image", "3D", "Plot", "StateTransitions", "DiagnosticSummary"} <= kinds
    assert kinds.isdisjoint({"Publish", "CallService", "Teleop"})  # it looks on


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("/perception/overlay", "/perception/overlays", "no topic /perception/overlays"),
        ("chunk_age_ms", "chunk_age", "command does not report chunk_age"),
        ("/command/executed.velocity[0]", "/command/executed.speed[0]", "no field speed[0] of /command/executed"),
        ('"Plot!delays":', '"Plot!delay":', "panel Plot!delays is shown and not there"),
    ],
)
def test_a_fault_in_a_foxglove_layout_is_seen(before: str, after: str, problem: str) -> None:
    text = FOXGLOVE.read_text()
    assert before in text
    assert problem in problems_of_foxglove(json.loads(text.replace(before, after, 1)))


def test_the_plotjuggler_layout_draws_what_there_is() -> None:
    root = ET.parse(PLOTJUGGLER).getroot()
    curves = [str(curve.get("name")) for curve in root.iter("curve")]
    known, joints = topics(), load_robot(ROOT / "config" / "robots" / "adroit_door.yaml").joints
    assert len(curves) > 20 and [p for name in curves for p in problems_of_curve(name, known, joints)] == []
    assert root.tag == "root" and root.find("tabbed_widget/Tab/Container/DockSplitter/DockArea/plot/curve") is not None
    for splitter in root.iter("DockSplitter"):
        assert int(str(splitter.get("count"))) == len(splitter) == len(str(splitter.get("sizes")).split(";"))
    for wrong in ("/joint_states/FFJ9/position", "/diagnostics/command/chunk_age", "/policy/chunks/points[0]/positions[0]"):
        assert problems_of_curve(wrong, known, joints) != []


def test_the_rviz_configuration_shows_what_there_is() -> None:
    tree = yaml.safe_load(RVIZ.read_text())
    displays = tree["Visualization Manager"]["Displays"]
    shown = {d[key]["Value"]: d["Class"] for d in displays for key in ("Topic", "Description Topic") if key in d}
    known = topics()
    assert "/policy/markers" in shown and set(shown) <= set(known)
    classes = {"MarkerArray": "visualization_msgs/msg/MarkerArray", "Image": "sensor_msgs/msg/Image", "RobotModel": STRING}
    assert all(known[topic] == classes[kind.rpartition("/")[2]] for topic, kind in shown.items())
