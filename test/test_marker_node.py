"""The marker node over DDS: lines where the arm's tip would go, and nothing drawn of what is no motion of this robot."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_support import JOINTS, Ears, FakeRobot, Launcher, ears_fixture, launcher_fixture, values, write_robot  # noqa: F401
from urdf_support import ARM, tip, write_arm

pytest.importorskip("rclpy")
pytest.importorskip("visualization_msgs")
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import Marker, MarkerArray

from flow_policy_ros.ros.messages import chunk_to_message, from_time, plan_to_message
from flow_policy_ros.runtime.types import Chunk, Plan

DT_NS = 20_000_000
LINE = np.stack([np.linspace(0.0, 1.0, 200), np.linspace(0.5, -0.5, 200)], axis=1)


def points(marker: Marker) -> np.ndarray:
    """(N, 3) of a marker."""
    return np.array([[p.x, p.y, p.z] for p in marker.points])


def named(message: MarkerArray) -> dict[str, Marker]:
    return {marker.ns: marker for marker in message.markers}


class Markers:
    """The newest marker of each namespace, as a viewer has them."""

    def __init__(self, ears: Ears) -> None:
        self.inbox = ears.listen(MarkerArray, "policy/markers")

    def wait(self, name: str, stamp: int) -> Marker:
        """The marker of a name and stamp."""
        message = self.inbox.wait_for(
            lambda m: name in named(m) and from_time(named(m)[name].header.stamp) == stamp, what=f"no marker {name} of {stamp}"
        )
        return named(message)[name]


def test_lines_lead_where_the_tip_would_go(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    """Chunk and plan each as one line, in any order of joints, thinned out, fading; and the tip where it is now."""
    markers = Markers(ears)
    chunks, plans = ears.speak(JointTrajectory, "policy/chunk"), ears.speak(JointTrajectory, "command/plan")
    robot = FakeRobot(ears)
    robot.position.update(shoulder=0.4, elbow=-1.0)
    write_arm(tmp_path)
    launcher.node("marker_node", write_robot(tmp_path, urdf="arm.urdf"), markers__points=50)
    ears.connected(chunks)
    ears.connected(plans)
    turned = LINE[:, ::-1]  # the joints in another order are matched by name
    chunk, plan = Chunk(10**9, DT_NS, JOINTS[::-1], turned), Plan(2 * 10**9, DT_NS, JOINTS, LINE[:30] + 0.1, 10**9)

    def say() -> None:
        chunks.publish(chunk_to_message(chunk))
        plans.publish(plan_to_message(plan))

    with ears.insisting(say):
        predicted, executed = markers.wait("chunk/tip", chunk.stamp), markers.wait("plan/tip", plan.stamp)
    assert {predicted.type, executed.type} == {Marker.LINE_STRIP}
    assert {predicted.header.frame_id, executed.header.frame_id} == {"table"}
    rows = LINE[np.linspace(0, 199, 50).round().astype(int)]
    np.testing.assert_allclose(points(predicted), tip(rows), atol=1e-9)
    np.testing.assert_allclose(points(executed), tip(LINE[:30] + 0.1), atol=1e-9)
    alphas = [colour.a for colour in predicted.colors]
    assert len(alphas) == 50 and alphas[0] == pytest.approx(1.0) and alphas == sorted(alphas, reverse=True) and alphas[-1] < 0.5
    assert [(c.r, c.g, c.b) for c in predicted.colors[:1]] != [(c.r, c.g, c.b) for c in executed.colors[:1]]
    change = [Parameter("markers.width_m", value=0.02), Parameter("markers.rate_hz", value=25.0)]
    request = SetParametersAtomically.Request(parameters=[p.to_parameter_msg() for p in change])
    assert ears.call(SetParametersAtomically, "marker_node/set_parameters_atomically", request).result.successful
    with ears.insisting(say):
        markers.inbox.wait_for(lambda m: "chunk/tip" in named(m) and named(m)["chunk/tip"].scale.x == pytest.approx(0.02))
    now = markers.inbox.wait_for(lambda m: "measured" in named(m))
    np.testing.assert_allclose(points(named(now)["measured"]), tip(np.array([[0.4, -1.0]])), atol=1e-9)


def test_what_is_no_motion_of_this_robot_is_counted_and_not_drawn(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    markers, diagnostics = Markers(ears), ears.diagnostics()
    chunks, plans = ears.speak(JointTrajectory, "policy/chunk"), ears.speak(JointTrajectory, "command/plan")
    launcher.node("marker_node", write_robot(tmp_path), markers__urdf=write_arm(tmp_path), markers__rate_hz=30.0)
    ears.connected(chunks)
    holes = np.where(np.arange(400).reshape(200, 2) == 7, math.nan, 0.0)
    bad = [
        chunk_to_message(Chunk(1, DT_NS, ("shoulder", "knee"), LINE)),
        chunk_to_message(Chunk(2, DT_NS, JOINTS, holes)),
        chunk_to_message(Chunk(3, DT_NS, JOINTS, LINE[:1])),
    ]
    said = iter(range(10**9))

    def say() -> None:
        chunks.publish(bad[next(said) % 3])
        plans.publish(chunk_to_message(Chunk(4, DT_NS, JOINTS, LINE), frame_id="no stamp"))

    wanted = {f"rejections.{kind}" for kind in ("chunk_names", "chunk_not_finite", "chunk_malformed", "plan_malformed")}
    with ears.insisting(say):
        diagnostics.wait_for(lambda s: wanted <= set(values(s)), what=f"expected {wanted}")
    assert markers.inbox.messages == []  # there was no joint state either
    good = Chunk(10**9, DT_NS, JOINTS, LINE)
    with ears.insisting(lambda: chunks.publish(chunk_to_message(good))):
        markers.wait("chunk/tip", good.stamp)


def test_nothing_is_drawn_while_nobody_looks(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    diagnostics, chunks = ears.diagnostics(), ears.speak(JointTrajectory, "policy/chunk")
    launcher.node("marker_node", write_robot(tmp_path), markers__urdf=write_arm(tmp_path), markers__rate_hz=30.0)
    ears.connected(chunks)
    with ears.insisting(lambda: chunks.publish(chunk_to_message(Chunk(10**9, DT_NS, JOINTS, LINE)))):
        status = diagnostics.wait_for(lambda s: int(values(s)["chunks"]) > 5)
        assert values(status)["published"] == "0" and status.message == "nobody looks"
        markers = Markers(ears)
        markers.wait("chunk/tip", 10**9)
        diagnostics.wait_for(lambda s: int(values(s)["published"]) > 0)


def test_a_joint_of_which_nobody_speaks_is_said(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    """A hand on an arm that another controller moves: the arm's joints come from the joint state, or are missed."""
    markers, diagnostics = Markers(ears), ears.diagnostics()
    write_arm(tmp_path)
    limits = {"elbow": {"position": [-3.0, 3.0], "velocity": 2.0, "acceleration": 20.0}}
    robot_file = write_robot(tmp_path, joints=["elbow"], limits=limits)
    chunks = ears.speak(JointTrajectory, "policy/chunk")
    launcher.node("marker_node", robot_file, markers__urdf=tmp_path / "arm.urdf", markers__rate_hz=30.0)
    ears.connected(chunks)
    one = Chunk(10**9, DT_NS, ("elbow",), LINE[:50, 1:])
    with ears.insisting(lambda: chunks.publish(chunk_to_message(one))):
        markers.wait("chunk/tip", one.stamp)
        diagnostics.wait_for(lambda s: "nobody says where shoulder are" in s.message)
        robot = FakeRobot(ears)
        robot.position.update(shoulder=0.7)
        wanted = tip(np.stack([np.full(40, 0.7), LINE[np.linspace(0, 49, 40).round().astype(int), 1]], axis=1))

        def follows(message: MarkerArray) -> bool:
            found = named(message).get("chunk/tip")
            return found is not None and np.allclose(points(found), wanted, atol=1e-9)

        markers.inbox.wait_for(follows, what="the arm's measured joint is not used")


@pytest.mark.parametrize(
    ("urdf", "parameters", "words"),
    [
        (None, (), "there is no URDF to draw with"),
        (ARM.replace('type="revolute"', 'type="fixed"'), (), "no joint of the robot moves any link"),
        (ARM, ("markers.links:=tip toe",), "has no links ['toe']"),
        (ARM, ("markers.rate_hz:=1000.0",), "markers.rate_hz"),
        ("no XML", (), "is no URDF"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path: Path, urdf: str | None, parameters: tuple[str, ...], words: str) -> None:
    robot_file = write_robot(tmp_path)
    command = [sys.executable, "-m", "flow_policy_ros.nodes.marker_node", "--ros-args", "-p", f"robot_file:={robot_file}"]
    if urdf is not None:
        (tmp_path / "given.urdf").write_text(urdf)
        command += ["-p", f"markers.urdf:={tmp_path / 'given.urdf'}"]
    for parameter in parameters:
        command += ["-p", parameter]
    done: Any = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=100)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
