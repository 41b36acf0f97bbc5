"""Bytes that are no message: each onlooker passes them over, counts them, and goes on. Its callbacks are called without DDS."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_support import JOINTS, write_robot
from urdf_support import write_arm

pytest.importorskip("rclpy")
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.serialization import serialize_message
from rich.console import Console
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.cli.doctor_live_checks import unread
from flow_policy_ros.nodes.dashboard_node import DashboardNode
from flow_policy_ros.nodes.flight_recorder_node import FlightRecorderNode
from flow_policy_ros.ros.diagnostics import OK, diagnostics, status
from flow_policy_ros.ros.domain import free_domain
from flow_policy_ros.ros.live_facts import LiveFacts
from flow_policy_ros.ros.live_look import CLOCK, _Looker
from flow_policy_ros.ros.messages import MessageError, chunk_to_message
from flow_policy_ros.ros.raw import opened
from flow_policy_ros.runtime.types import Chunk

WILD = b"\0\1\0\0" + b"\xff" * 40


def half(message: Any) -> bytes:
    data = bytes(serialize_message(message))
    return data[: len(data) // 2]


def some_chunk() -> JointTrajectory:
    return chunk_to_message(Chunk(10**9, 20_000_000, JOINTS, np.zeros((16, 2))))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Begins rclpy with ``--ros-args`` of a robot file and parameters, in a domain of its own."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(free_domain()))

    def start(robot: Path, **parameters: object) -> None:
        given = [part for name, value in parameters.items() for part in ("-p", f"{name.replace('__', '.')}:={value}")]
        rclpy.init(args=["--ros-args", "-p", f"robot_file:={robot}", *given])

    yield start
    rclpy.try_shutdown()


@pytest.mark.parametrize("data", [WILD, half(some_chunk()), b""], ids=["wild", "half", "empty"])
def test_what_is_no_message_is_said_in_words(data: bytes) -> None:
    with pytest.raises(MessageError, match=f"message of {len(data)} bytes is no JointTrajectory"):
        opened(data, JointTrajectory)
    assert opened(bytes(serialize_message(some_chunk())), JointTrajectory) == some_chunk()


def test_markers_count_it_and_draw_the_next(started: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("visualization_msgs")
    from flow_policy_ros.nodes.marker_node import MarkerNode

    started(write_robot(tmp_path), markers__urdf=write_arm(tmp_path))
    node = MarkerNode()
    monkeypatch.setattr(node._markers, "get_subscription_count", lambda: 1)
    for _ in range(2):
        node._keeper("chunk")(half(some_chunk()))
        node._keeper("plan")(WILD)
        node._keeper("measured")(WILD)
        node._draw()
    assert node._refused == {"chunk_malformed": 2, "plan_malformed": 2, "measured_malformed": 2} and node._published == 0
    node._keeper("chunk")(bytes(serialize_message(some_chunk())))
    node._draw()
    assert node._published == 1
    node.destroy_node()


def test_the_dashboard_says_so_on_its_page(started: Any, tmp_path: Path) -> None:
    started(write_robot(tmp_path), dashboard__once="true")
    node = DashboardNode(Console())
    for what in ("joint states", "set-points"):
        node._keeper(what)(WILD)
    node._keeper("chunks")(half(some_chunk()))
    view = node._view()
    assert len(view.problems) == 3 and math.isnan(view.chunk_age_ms)
    assert sum("is no JointState" in text for text in view.problems) == 2, view.problems
    node.destroy_node()


def test_the_flight_recorder_goes_on_after_bytes_and_numbers_that_are_none(started: Any, tmp_path: Path) -> None:
    started(write_robot(tmp_path), flight__out=tmp_path / "bags", flight__min_free_gb=0.0, flight__after_s=0.1)
    node = FlightRecorderNode()

    def say(**values: str) -> None:
        said = status("command", OK, "", {key.replace("__", "."): value for key, value in values.items()})
        node._hear(bytes(serialize_message(diagnostics(10**9, said))))

    node._hear(WILD)
    node._hear(half(DiagnosticArray(status=[status("command", OK, "", {"faults": ""})])))
    say(faults="x", fault_count__x="many")
    say(faults="x", fault_count__x="1", state_since="yesterday")
    assert node._refused == {"diagnostics_malformed": 2, "status_malformed": 2} and node._bag is None
    say(faults="", lifecycle="active")
    say(faults="tracking_error", fault_count__tracking_error="1", lifecycle="active")
    node.close()
    assert node._last is not None and node._last.path.name.endswith("_tracking_error")
    node.destroy_node()


def test_the_live_check_counts_it_by_topic(started: Any, tmp_path: Path) -> None:
    started(write_robot(tmp_path))
    looker = _Looker(rclpy.get_default_context(), lambda topic, kind: False, ("/diagnostics",))
    for topic, data in ((CLOCK, WILD[:6]), ("/diagnostics", WILD), ("/diagnostics", b"")):
        looker._note(topic, data, None, False)
    looker._note("/joint_states", half(JointState(name=["a"])), None, True)
    looker.node.destroy_node()
    assert looker._unread == {CLOCK: 1, "/diagnostics": 2}
    (check,) = unread(LiveFacts(1.0, (), {}, unread={"/diagnostics": 2}))
    assert check.name == "/diagnostics" and "2 messages" in check.found and not check.ok and not check.required
