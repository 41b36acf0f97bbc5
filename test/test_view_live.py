"""``flow_policy view`` beside a robot at work: what comes over DDS is on the page, and the robot does not notice."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_support import (  # noqa: F401
    JOINTS,
    UNHURRIED,
    Ears,
    FakeRobot,
    Launcher,
    ears_fixture,
    launcher_fixture,
    until,
    write_robot,
)
from view_support import events, get

pytest.importorskip("rclpy")
from std_msgs.msg import Bool, String
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.ros import qos
from flow_policy_ros.ros.images import features_to_message, image_to_message
from flow_policy_ros.ros.messages import chunk_info, chunk_to_message
from flow_policy_ros.runtime.types import Chunk, Features

ROOT = Path(__file__).resolve().parents[1]


class Live:
    """``flow_policy view`` of a live robot, and what its page is told, in a thread."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "flow_policy_ros", "view", "--port", "0", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        found = re.match(r"(http://127\.0\.0\.1:\d+/)", line)
        assert found, line + self.process.stderr.read()
        self.url = found[1]
        self.scene: dict[str, Any] = {}
        self.shots: list[dict[str, Any]] = []
        self.times: list[float] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def look(self) -> None:
        """Open the page."""
        self._thread.start()

    def _listen(self) -> None:
        try:
            for _, event, content in events(self.url):
                if event == "scene":
                    self.scene = content
                elif event == "snapshot":
                    self.times.append(time.monotonic())
                    self.shots.append(content)
        except OSError:
            return  # it was ended

    def wait(self, what: str, *keys: str) -> Any:
        """The newest value under ``keys`` once there is one."""

        def value() -> Any:
            for shot in reversed(self.shots[-20:]):
                found: Any = shot
                for key in keys:
                    found = found.get(key) if isinstance(found, dict) else None
                if found not in (None, [], {}):
                    return found
            return None

        until(lambda: value() is not None, what)
        return value()

    def reach(self, name: str) -> float:
        """How far the first joint went, in the rows ``name``."""
        went = [row[1] for shot in self.shots for row in shot.get(name, []) if row[1] is not None]
        return max(went, default=0.0) - min(went, default=0.0)

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()


@pytest.fixture(name="live")
def live_fixture(tmp_path: Path) -> Iterator[Live]:
    one = Live("--robot", write_robot(tmp_path))
    yield one
    assert one.end() == 0


def test_a_robot_at_work_is_on_the_page(live: Live, launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    """A real command node, chunks, pictures and detections as the other nodes publish them; then the emergency stop."""
    FakeRobot(ears)
    launcher.node("command_node", write_robot(tmp_path), **UNHURRIED)
    from diagnostic_msgs.msg import DiagnosticStatus
    from sensor_msgs.msg import Image

    chunks, infos = ears.speak(JointTrajectory, "policy/chunk"), ears.speak(DiagnosticStatus, "policy/chunk_info")
    camera, seen = ears.speak(Image, "camera/image_raw", qos.IMAGE), ears.speak(Image, "features/detections")
    ears.speak(String, "features/detections/info", qos.LATCHED).publish(String(data=json.dumps({"classes": ["cup"]})))
    ears.speak(String, "instruction", qos.LATCHED).publish(String(data="lift the cup"))
    button = ears.speak(Bool, "command/emergency_stop")
    box = np.array([[0.5, 0.5, 0.2, 0.4, 0.8]], dtype=np.float32)

    def say() -> None:
        stamp = ears.now()
        seconds = (stamp % 10**12) / 1e9 + 0.08 * np.arange(100)  # however late it comes, the motion goes on
        chunk = Chunk(stamp, 80_000_000, JOINTS, np.stack([0.3 * np.sin(seconds), np.zeros(100)], axis=1))
        chunks.publish(chunk_to_message(chunk))
        infos.publish(chunk_info(chunk, 12.5))
        camera.publish(image_to_message(np.full((48, 64, 3), 90, dtype=np.uint8), stamp))
        seen.publish(features_to_message(Features(stamp, "detections", box)))

    assert camera.get_subscription_count() == 0  # nobody looks: no picture is asked for
    live.look()
    with ears.insisting(say):
        ears.connected(camera)
        until(lambda: live.wait("no guard", "guard", "state") == "active", "the guard's state is not on the page")
        assert live.scene["joints"] == list(JOINTS) and live.scene["live"]
        executed = live.wait("no set-points", "executed")
        assert all(len(row) == 1 + len(JOINTS) for row in executed)
        assert live.wait("no chunk", "chunk", "rows")
        assert live.wait("no inference time", "delays", "inference") == 12.5
        assert live.wait("no age", "delays", "joint_state") is not None
        assert live.wait("no instruction", "instruction") == "lift the cup"
        assert live.wait("no rates", "rates", "executed") > 0
        live.wait("no detections", "picture", "boxes")
        until(lambda: live.wait("no boxes", "picture", "boxes")[0]["label"] == "cup", "the classes' names are not on the page")
        found = live.wait("no detections", "picture", "boxes")
        assert found[0]["box"] == [0.5, 0.5, 0.2, 0.4]
        number = live.wait("no picture", "picture", "number")
        code, _, data = get(f"{live.url}picture/{live.scene['run']}/{number}.jpg")
        assert code == 200 and data.startswith(b"\xff\xd8")
        for name in ("measured", "executed"):
            until(lambda name=name: live.reach(name) > 0.01, f"{name} does not move")
    with ears.insisting(lambda: button.publish(Bool(data=True))):
        until(lambda: live.shots[-1].get("guard", {}).get("state") == "fault", "no fault on the page")
    told = [event for shot in live.shots for event in shot.get("events", [])]
    assert any(event["kind"] == "fault" and event["text"].startswith("emergency_stop") for event in told)
    assert any(event["kind"] == "instruction" for event in told)


def test_the_page_is_renewed_no_oftener_than_it_says_and_looks_at_few(ears: Ears, tmp_path: Path) -> None:
    """Joint states at 100 Hz, pages at 5 Hz at most, whatever happens."""
    FakeRobot(ears)
    one = Live("--robot", write_robot(tmp_path), "--rate-hz", "5")
    try:
        one.look()
        one.wait("no joint states", "measured")
        start = len(one.shots)
        until(lambda: len(one.shots) >= start + 10, "no more snapshots")
        shots = one.shots[start : start + 10]
        assert shots[-1]["t"] - shots[0]["t"] >= 9 * 0.2 * 0.7
        assert all(len(shot.get("measured", [])) <= 4 for shot in shots)
    finally:
        assert one.end() == 0


def test_without_a_robot_file_and_in_a_name_space_the_usual_topics_are_found(ears: Ears) -> None:
    from sensor_msgs.msg import JointState

    publisher = ears.speak(JointState, "/left/joint_states")
    one = Live("--namespace", "left")
    try:
        one.look()

        def say() -> None:
            message = JointState(name=["a", "b"], position=[0.1, 0.2])
            message.header.stamp = ears.node.get_clock().now().to_msg()
            publisher.publish(message)

        with ears.insisting(say):
            rows = one.wait("no joint states", "measured")
        assert one.scene["joints"] == ["a", "b"] and rows[-1][1:] == [0.1, 0.2] and "left" in one.scene["title"]
    finally:
        assert one.end() == 0


def test_it_publishes_nothing_and_its_readers_ask_for_no_repeats(live: Live, ears: Ears) -> None:
    """A reader that asks for what it missed could hold a publisher up; only what is said once is asked for."""
    until(lambda: "view_node" in ears.node.get_node_names(), "the node does not appear")
    name = "view_node"
    until(lambda: len(ears.node.get_subscriber_names_and_types_by_node(name, "/")) > 6, "it listens to nothing")
    said = {topic for topic, _ in ears.node.get_publisher_names_and_types_by_node(name, "/")}
    assert said <= {"/rosout", "/parameter_events"}
    reliable = set()
    for topic, _ in ears.node.get_subscriber_names_and_types_by_node(name, "/"):
        for end in ears.node.get_subscriptions_info_by_topic(topic):
            if end.node_name == name and end.qos_profile.reliability.name == "RELIABLE":
                reliable.add(topic)
    assert reliable - {"/parameter_events", "/clock"} == {"/instruction"}


def test_what_the_node_refuses_is_said_in_words(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flow_policy_ros", "view", "--robot", str(tmp_path / "none.yaml")],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2 and "none.yaml" in done.stderr and "Traceback" not in done.stderr
