"""What tests with real nodes share: processes that are started and ended, and a node that listens and speaks for the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState as JointStateMsg
from std_srvs.srv import Trigger

from flow_policy_ros.ros import qos
from flow_policy_ros.ros.messages import joint_state_to_message
from flow_policy_ros.runtime.types import Chunk, JointState

T = TypeVar("T")
PATIENCE_S = 100.0  # a machine with other work on it; nothing is asserted about how long something took
UNHURRIED = {
    "command__joint_state_max_age_s": 8.0,
    "command__chunk_max_age_s": 10.0,
    "command__stall_s": 10.0,
    "command__soft_start_s": 0.0,
}
"""For tests that are not about stale inputs: a busy machine must not make them fail. A chunk that begins a motion is shaped for
the limits of a soft start, which would slow the whole of these tests' long chunks."""
EVERY = QoSProfile(depth=1000)
"""Reliable. A test that is slow on a busy machine misses nothing: differences are taken between consecutive set-points."""
JOINTS = ("shoulder", "elbow")
VELOCITY, ACCELERATION = 2.0, 20.0


def write_robot(folder: Path, **robot: Any) -> Path:
    """Robot file of a two-joint robot with a camera; ``robot`` replaces entries of its robot block."""
    limits = {j: {"position": [-3.0, 3.0], "velocity": VELOCITY, "acceleration": ACCELERATION} for j in JOINTS}
    camera = {"front": {"topic": "camera/image_raw", "width": 64, "height": 48, "rate_hz": 10.0}}
    block = {"name": "two_joints", "joints": list(JOINTS), "limits": limits, "cameras": camera, **robot}
    path = folder / "two_joints.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": {"robot": block, "command": {"rate_hz": 100}}}}))
    return path


class Child:
    """A process under test. Its output goes to a file, which is shown when the test fails."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.name = log.stem
        self._log = log
        source = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        with log.open("w") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": source}
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return self._log.read_text()

    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Exit code. Fails the test when the process does not end."""
        return self._process.wait(timeout=PATIENCE_S)

    def end(self) -> None:
        """Make it end, if it does not by itself."""
        if self.alive():
            try:
                self._process.wait(timeout=5.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class Launcher:
    """Starts processes and ends those that it started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: list[Child] = []

    def node(self, name: str, robot_file: Path, **parameters: object) -> Child:
        """A node of the package; ``command__rate_hz=50.0`` sets ``command.rate_hz``."""
        command = [sys.executable, "-m", f"flow_policy_ros.nodes.{name}", "--ros-args", "-p", f"robot_file:={robot_file}"]
        for key, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ["-p", f"{key.replace('__', '.')}:={text}"]
        return self._start(command, name)

    def _start(self, command: list[str], name: str) -> Child:
        child = Child(command, self._folder / f"{len(self._children)}_{name}.log")
        self._children.append(child)
        return child

    def end_all(self) -> None:
        for child in self._children:
            child.send(signal.SIGTERM)
        for child in self._children:
            child.end()
            print(f"--- output of {child.name}, exit code {child.wait()}:\n{child.output}")


class Inbox(Generic[T]):
    """Everything received on one topic."""

    def __init__(self) -> None:
        self.messages: list[T] = []
        self._arrived = threading.Condition()

    def put(self, message: T) -> None:
        with self._arrived:
            self.messages.append(message)
            self._arrived.notify_all()

    def wait_for(self, accept: Callable[[T], bool] = lambda message: True, after: int = 0, what: str = "") -> T:
        """The first message from index ``after`` on that ``accept`` takes. Fails the test when none comes."""
        deadline = time.monotonic() + PATIENCE_S
        with self._arrived:
            while True:
                for i in range(after, len(self.messages)):
                    if accept(self.messages[i]):
                        return self.messages[i]
                after = len(self.messages)
                if not self._arrived.wait(timeout=deadline - time.monotonic()):
                    pytest.fail(f"nothing suitable among {len(self.messages)} messages. {what}")

    def wait_count(self, count: int) -> None:
        """Until ``count`` messages have come."""
        self.wait_for(lambda _: len(self.messages) >= count)


class Ears:
    """A node of the test, spun in a thread of its own."""

    def __init__(self) -> None:
        self._context = rclpy.Context()
        self._context.init()
        self.node = Node("test", context=self._context)
        self._clients: dict[str, Any] = {}
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def now(self) -> int:
        return int(self.node.get_clock().now().nanoseconds)

    def listen(self, kind: type, topic: str, profile: QoSProfile = EVERY) -> Inbox[Any]:
        inbox: Inbox[Any] = Inbox()
        self.node.create_subscription(kind, topic, inbox.put, profile)
        return inbox

    def diagnostics(self) -> Inbox[DiagnosticStatus]:
        """The statuses on ``/diagnostics``, one by one."""
        inbox: Inbox[DiagnosticStatus] = Inbox()

        def unpack(message: DiagnosticArray) -> None:
            for status in message.status:
                inbox.put(status)

        self.node.create_subscription(DiagnosticArray, "/diagnostics", unpack, EVERY)
        return inbox

    def speak(self, kind: type, topic: str, profile: QoSProfile = qos.RELIABLE) -> Any:
        return self.node.create_publisher(kind, topic, profile)

    @contextmanager
    def insisting(self, say: Callable[[], None]) -> Iterator[None]:
        """Call ``say`` again and again: who reads with best effort may miss what is said once."""
        timer = self.node.create_timer(0.1, say)
        try:
            yield
        finally:
            self.node.destroy_timer(timer)

    def connected(self, publisher: Any) -> None:
        """Until somebody listens to ``publisher``."""
        until(lambda: publisher.get_subscription_count() > 0, f"nobody listens on {publisher.topic_name}")

    def meet(self, *services: str, kind: type = Trigger) -> None:
        """Get to know services that are triggered later: an answer to who is not known yet is lost, and asked for again."""
        for service in services:
            self._client(kind, service)

    def trigger(self, service: str) -> Trigger.Response:
        return self.call(Trigger, service, Trigger.Request())

    def call(self, kind: type, service: str, request: Any) -> Any:
        """The answer. Asked again when there is none: a node answers in vain while it has not discovered the client."""
        client = self._client(kind, service)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            answered = threading.Event()
            future = client.call_async(request)
            future.add_done_callback(lambda _, answered=answered: answered.set())
            if answered.wait(5.0):
                return future.result()
        pytest.fail(f"service {service} did not answer")

    def begin_episode(self) -> None:
        """Service ``sim/reset``, once. The answer may get lost, but not what the simulation says of itself."""
        status = self.listen(DiagnosticStatus, "sim/status", qos.LATCHED)
        self._client(Trigger, "sim/reset").call_async(Trigger.Request())
        status.wait_for(lambda s: values(s)["state"] == "running", what="the episode did not begin")

    def _client(self, kind: type, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = self.node.create_client(kind, service)
        if not self._clients[service].wait_for_service(timeout_sec=PATIENCE_S):
            pytest.fail(f"service {service} did not appear")
        return self._clients[service]

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(timeout=5.0)
        self.node.destroy_node()
        self._context.try_shutdown()


class FakeRobot:
    """Publishes joint states at 100 Hz that follow ``command/executed`` at once. ``paused`` keeps it silent."""

    def __init__(self, ears: Ears, joints: tuple[str, ...] = JOINTS) -> None:
        self.position = dict.fromkeys(joints, 0.0)
        self.paused = False
        self._ears = ears
        self.publisher = ears.speak(JointStateMsg, "joint_states")
        ears.node.create_subscription(JointStateMsg, "command/executed", self._obey, EVERY)
        ears.node.create_timer(0.01, self._publish)

    def _obey(self, message: JointStateMsg) -> None:
        self.position.update(zip(message.name, message.position, strict=True))

    def _publish(self) -> None:
        if not self.paused:
            self.say(list(self.position), list(self.position.values()))

    def say(self, names: list[str], position: list[float]) -> None:
        """Publish one joint state, sound or not."""
        self.publisher.publish(joint_state_to_message(JointState(self._ears.now(), tuple(names), np.array(position))))


def until(condition: Callable[[], bool], what: str) -> None:
    """Poll what has no event of its own (the ROS graph)."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(what)
        time.sleep(0.01)


def to_and_fro(stamp: int, centre: float = 0.0) -> Chunk:
    """20 s of motion of the first joint, 1 rad/s in the middle: a delay on the way leaves no gap in it."""
    seconds = 0.08 * np.arange(250)
    positions = np.stack([centre + 0.5 * np.sin(2.0 * seconds), np.zeros(250)], axis=1)
    return Chunk(stamp, 80_000_000, JOINTS, positions)


def values(status: DiagnosticStatus) -> dict[str, str]:
    """Key-values of a status."""
    return {pair.key: pair.value for pair in status.values}


def motion(executed: list[JointStateMsg]) -> np.ndarray:
    """Positions (N, J) of executed set-points."""
    return np.array([message.position for message in executed])


@pytest.fixture(name="launcher")
def launcher_fixture(tmp_path: Path) -> Iterator[Launcher]:
    """Starts processes; ends them after the test."""
    result = Launcher(tmp_path)
    try:
        yield result
    finally:
        result.end_all()


@pytest.fixture(name="ears")
def ears_fixture() -> Iterator[Ears]:
    """The test's own node."""
    result = Ears()
    try:
        yield result
    finally:
        result.close()
