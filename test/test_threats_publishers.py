"""Hostile publishers in the same domain: floods, giants, the past and the future, orders out of bounds.

The robot moves on or stops, within its limits."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fault_support import CRUISE, PERIOD_S, Rig, rig_of, stay
from ros_support import JOINTS, values

pytest.importorskip("rclpy")
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.serialization import serialize_message
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from flow_policy_ros.nodes.command_inputs import MOST_BYTES
from flow_policy_ros.ros.messages import to_time

ROOT = Path(__file__).resolve().parents[1]
HOUR_NS = 3_600_000_000_000
FLOOD = 400


@pytest.fixture(scope="module", name="giant")
def giant_fixture() -> bytes:
    """A chunk of more than a megabyte, made before anything runs: it would hold up the robot of these tests, too."""
    return bytes(serialize_message(points(1, 20_000)))


@pytest.fixture(scope="module", name="shared_rig")
def shared_rig_fixture(giant: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig_of(Path(tmp_path_factory.mktemp("rig"))) as rig:
        yield rig


def points(stamp: int, count: int, names: tuple[str, ...] = JOINTS, value: float = 1.0) -> JointTrajectory:
    """A chunk of ``count`` points, a hundredth of a second apart."""
    message = JointTrajectory(joint_names=list(names))
    message.header.stamp = to_time(stamp)
    for k in range(count):
        point = JointTrajectoryPoint(positions=[value] * len(message.joint_names))
        point.time_from_start.sec, point.time_from_start.nanosec = divmod(k * 10_000_000, 1_000_000_000)
        message.points.append(point)
    return message


def hostile(rig: Rig) -> dict[str, Callable[[], JointTrajectory]]:
    """What may be sent, each refused by the count of its name."""
    here = rig.positions[-1]
    return {
        "chunk_order": lambda: stay(rig.ears.now() - HOUR_NS, here + 1.0),
        "chunk_stamp": lambda: stay(rig.ears.now() + HOUR_NS, here + 1.0),
        "chunk_malformed": lambda: points(rig.ears.now(), 1),
        "names": lambda: points(rig.ears.now(), 3, ("shoulder", "elbow", "knee")),
        "values": lambda: points(rig.ears.now(), 3, value=math.nan),
    }


def steady(rig: Rig, count: int) -> None:
    """Since set-point ``count`` the robot has moved on at the speed that it had."""
    velocity = np.diff(rig.positions[count - 1 :], axis=0) / PERIOD_S
    assert np.abs(np.abs(velocity) - np.abs(CRUISE)).max() < 1e-6


def rejections(rig: Rig) -> int:
    return sum(int(value) for key, value in rig.status().items() if key.startswith("rejections."))


@pytest.mark.parametrize("kind", ["chunk_order", "chunk_stamp", "chunk_malformed", "names", "values"])
def test_chunks_of_the_past_the_future_and_of_nonsense_change_nothing(shared_rig: Rig, kind: str) -> None:
    rig = shared_rig
    rig.fresh()
    rig.ears.connected(rig.chunks)
    before, count = rejections(rig), rig.moves()
    say = hostile(rig)[kind]
    with rig.ears.insisting(lambda: rig.chunks.publish(say())):
        rig.reports.wait_for(
            lambda s: s.name == "command"
            and (kind == "chunk_stamp" or sum(int(v) for k, v in values(s).items() if k.startswith("rejections.")) >= before + 3),
            len(rig.reports.messages) + 1,
            f"{kind}: nothing is refused",
        )
    rig.executed.wait_count(count + 50)
    steady(rig, count)
    assert rig.status()["faults"] == ""
    rig.used()


@pytest.mark.parametrize("broken", ["half", "garbage"])
def test_bytes_that_are_no_chunk_change_nothing(shared_rig: Rig, broken: str) -> None:
    """A cut message, or another definition's: the middleware hands raw bytes on as they are."""
    rig = shared_rig
    rig.fresh()
    rig.ears.connected(rig.chunks)
    whole = bytes(serialize_message(points(rig.ears.now(), 8)))
    sent = whole[: len(whole) // 2] if broken == "half" else b"\0\1\0\0" + b"\xff" * 40
    before, count = rejections(rig), rig.moves()
    with rig.ears.insisting(lambda: rig.chunks.publish(sent)):
        rig.reports.wait_for(
            lambda s: s.name == "command"
            and sum(int(v) for k, v in values(s).items() if k.startswith("rejections.")) >= before + 3,
            len(rig.reports.messages),
            f"{broken}: nothing is refused",
        )
    rig.executed.wait_count(count + 30)
    steady(rig, count)
    assert rig.node.alive()
    rig.used()


def test_a_giant_chunk_is_not_even_read(shared_rig: Rig, giant: bytes) -> None:
    rig = shared_rig
    rig.fresh()
    rig.ears.connected(rig.chunks)
    assert len(giant) > MOST_BYTES
    count = rig.moves()
    rig.chunks.publish(giant)
    said = rig.reports.wait_for(lambda s: s.name == "command" and "rejections.chunk_too_large" in values(s), count)
    assert "bytes, expected at most" in values(said)["last_rejection"]
    rig.executed.wait_count(count + 30)
    steady(rig, count)
    rig.used()


FLOODER = """
import sys
import numpy as np
import rclpy
from trajectory_msgs.msg import JointTrajectory
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.messages import chunk_to_message
from flow_policy_ros.runtime.types import Chunk

rclpy.init()
node = rclpy.create_node("flooder")
publisher = node.create_publisher(JointTrajectory, "policy/chunk", qos.RELIABLE)
names, count = tuple(sys.argv[2:]), int(sys.argv[1])
while not publisher.get_subscription_count():
    rclpy.spin_once(node, timeout_sec=0.05)
for k in range(count):
    stamp = node.get_clock().now().nanoseconds
    for ahead, value in ((-3600e9, 1.0), (3600e9, 1.0), (0.0, np.nan), (0.0, 3.0 if k % 2 else -3.0)):
        chunk = Chunk(stamp + int(ahead), 100_000_000, names, np.full((20, len(names)), value))
        publisher.publish(chunk_to_message(chunk))
print("sent", 4 * count)
"""


def test_a_flood_of_chunks_leaves_the_robot_within_its_limits(shared_rig: Rig) -> None:
    """As many as another process can send, sound and unsound, here and there: no set-point is further from the one before than its
    velocity allows."""
    rig = shared_rig
    rig.fresh()
    count = rig.moves()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", FLOODER, str(FLOOD), *rig.robot.joints], env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.stdout.split() == ["sent", str(4 * FLOOD)], done.stderr
    rig.executed.wait_count(count + 100)
    rig.stands()
    positions, stamps = rig.positions[count:], rig.stamps[count:]
    both = min(len(positions), len(stamps))  # another may come between the two
    steps, waits = np.abs(np.diff(positions[:both], axis=0)), np.diff(stamps[:both]) / 1e9
    assert (steps <= rig.robot.limits.velocity * (waits[:, None] + 2 * PERIOD_S)).all()  # where some were missed here, too
    assert rejections(rig) > 0 and rig.node.alive()
    rig.fresh()
    rig.moves()  # and afterwards it obeys again


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("command.limit_scale", 1e9),
        ("command.limit_scale", math.nan),
        ("command.stall_s", math.inf),
        ("command.joint_state_max_age_s", 1e6),
        ("command.rate_hz", 500.0),
        ("command.deadman", "no"),
        ("robot_file", "/tmp/other.yaml"),
    ],
)
def test_parameters_cannot_loosen_the_guard(shared_rig: Rig, name: str, value: float | str) -> None:
    kind = ParameterType.PARAMETER_STRING if isinstance(value, str) else ParameterType.PARAMETER_DOUBLE
    held = {"string_value": value} if isinstance(value, str) else {"double_value": value}
    request = SetParametersAtomically.Request(parameters=[Parameter(name=name, value=ParameterValue(type=kind, **held))])
    answer = shared_rig.ears.call(SetParametersAtomically, "command_node/set_parameters_atomically", request).result
    assert not answer.successful and answer.reason
