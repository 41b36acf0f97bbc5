"""Codecs: what goes into a message comes out of it again, exactly; what does not fit together is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy")
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.ros.images import (
    camera_info_to_message,
    encoded_from_message,
    features_from_message,
    features_to_message,
    image_from_message,
    image_to_message,
)
from flow_policy_ros.ros.messages import (
    MessageError,
    chunk_from_message,
    chunk_info,
    chunk_to_message,
    command_from_message,
    executed_to_message,
    from_time,
    joint_state_from_message,
    joint_state_to_message,
    plan_from_message,
    plan_to_message,
    setpoint_from_executed,
    setpoint_to_message,
    to_time,
)
from flow_policy_ros.runtime.executed import ExecutedTimeline
from flow_policy_ros.runtime.types import Chunk, Execution, Features, JointState, Plan, Setpoint

STAMPS = st.integers(0, (2**31 - 1) * 10**9)
NAMES = ("b", "a", "c")


def over_the_wire(message: object) -> object:
    """As DDS would carry it."""
    return deserialize_message(serialize_message(message), type(message))


@given(STAMPS)
def test_stamps_are_exact(stamp: int) -> None:
    assert from_time(to_time(stamp)) == stamp


@settings(max_examples=25, deadline=None)
@given(STAMPS, st.integers(1, 10**9), st.integers(2, 40), st.integers(0, 2**31))
def test_chunk_round_trip_is_exact(stamp: int, dt_ns: int, horizon: int, seed: int) -> None:
    positions = np.random.default_rng(seed).normal(size=(horizon, 3))
    chunk = chunk_from_message(over_the_wire(chunk_to_message(Chunk(stamp, dt_ns, NAMES, positions))))
    assert (chunk.stamp, chunk.dt_ns, chunk.names) == (stamp, dt_ns, NAMES)
    assert chunk.positions.tobytes() == positions.tobytes()


def test_malformed_chunks_are_named() -> None:
    message = chunk_to_message(Chunk(5, 10, NAMES, np.zeros((3, 3))))
    message.points[2].time_from_start.nanosec = 21
    with pytest.raises(MessageError, match="expected 0, dt"):
        chunk_from_message(message)
    message = chunk_to_message(Chunk(5, 10, NAMES, np.zeros((3, 3))))
    message.points[1].positions = [1.0]
    with pytest.raises(MessageError, match="3 names but 1 positions in point 1"):
        chunk_from_message(message)
    with pytest.raises(MessageError, match="at least 2"):
        chunk_from_message(JointTrajectory())


def test_chunk_info_names_what_the_chunk_was_made_from() -> None:
    chunk = Chunk(7, 10, NAMES, np.zeros((2, 3)), nfe=4, seed=9, observation_stamps={"joint_state": 7, "detections": 3})
    pairs = {pair.key: pair.value for pair in chunk_info(chunk, 1.5).values}
    assert pairs["stamp"] == "7" and pairs["nfe"] == "4" and pairs["seed"] == "9"
    assert pairs["observation.detections"] == "3" and float(pairs["duration_ms"]) == 1.5
    assert "mode" not in pairs
    chunk = replace(chunk, execution=Execution("rtc", True, 3, 5, ("delay",)))
    pairs = {pair.key: pair.value for pair in chunk_info(chunk, 1.5).values}
    kept = [pairs[key] for key in ("mode", "continued", "delay_steps", "execute_steps", "clamped")]
    assert kept == ["rtc", "True", "3", "5", "delay"]


@settings(max_examples=25, deadline=None)
@given(STAMPS, STAMPS, st.integers(1, 10**9), st.integers(2, 40))
def test_plan_round_trip_is_exact(stamp: int, chunk_stamp: int, dt_ns: int, rows: int) -> None:
    positions = np.random.default_rng(rows).normal(size=(rows, 3))
    plan = plan_from_message(over_the_wire(plan_to_message(Plan(stamp, dt_ns, NAMES, positions, chunk_stamp))))
    assert (plan.stamp, plan.dt_ns, plan.names, plan.chunk_stamp) == (stamp, dt_ns, NAMES, chunk_stamp)
    assert plan.positions.tobytes() == positions.tobytes()


def test_a_plan_to_stay_where_one_is_has_a_single_point() -> None:
    """What arrives at a chunk's end, or begins with its last point."""
    plan = plan_from_message(over_the_wire(plan_to_message(Plan(50, 10, NAMES, np.ones((1, 3)), 40))))
    timeline = ExecutedTimeline(NAMES)
    timeline.on_plan(plan, 50)
    there = timeline.positions(np.array([50, 60, 90]), 60)
    assert there is not None and there.known == 1
    np.testing.assert_array_equal(there.positions, np.ones((3, 3)))
    message = plan_to_message(Plan(50, 10, NAMES, np.ones((1, 3)), 40))
    message.points[0].time_from_start.nanosec = 5
    with pytest.raises(MessageError, match="expected 0, dt"):
        plan_from_message(message)


def test_malformed_plans_are_named() -> None:
    message = plan_to_message(Plan(5, 10, NAMES, np.zeros((3, 3)), 4))
    message.header.frame_id = "base_link"
    with pytest.raises(MessageError, match="frame_id 'base_link', expected the stamp of a chunk"):
        plan_from_message(message)
    with pytest.raises(MessageError, match="plan has 0 points"):
        plan_from_message(JointTrajectory())


def test_executed_round_trip() -> None:
    sent = Setpoint(42, NAMES, np.array([2.0, 1.0, 3.0]), np.array([0.1, 0.2, 0.3]), np.zeros(3))
    back = setpoint_from_executed(over_the_wire(executed_to_message(sent)))
    assert (back.stamp, back.names) == (42, NAMES) and np.isnan(back.acceleration).all()
    assert back.position.tolist() == [2.0, 1.0, 3.0] and back.velocity.tolist() == [0.1, 0.2, 0.3]
    with pytest.raises(MessageError, match="no velocities"):
        setpoint_from_executed(JointStateMsg(name=["a"], position=[0.0]))


def test_joint_state_round_trip() -> None:
    state = JointState(123, NAMES, np.array([1.0, np.pi, np.nan]), velocity=np.array([0.1, 0.2, 0.3]))
    back = joint_state_from_message(over_the_wire(joint_state_to_message(state)))
    assert (back.stamp, back.names, back.effort) == (123, NAMES, None)
    assert back.position.tobytes() == state.position.tobytes()
    assert back.velocity is not None and back.velocity.tolist() == [0.1, 0.2, 0.3]
    with pytest.raises(MessageError, match="2 velocities"):
        joint_state_from_message(JointStateMsg(name=list(NAMES), position=[0.0] * 3, velocity=[0.0] * 2))


@pytest.mark.parametrize("interface", ["joint_trajectory", "float64_array", "joint_state"])
def test_command_reaches_the_robot_by_name(interface: str) -> None:
    setpoint = Setpoint(42, NAMES, np.array([2.0, 1.0, 3.0]), np.zeros(3), np.zeros(3))
    message = over_the_wire(setpoint_to_message(setpoint, interface, 10_000_000))
    robot_order = NAMES if interface == "float64_array" else ("a", "b", "c")  # a bare array has no names
    stamp, position = command_from_message(message, robot_order)
    assert stamp == (None if interface == "float64_array" else 42)
    assert position.tolist() == ([2.0, 1.0, 3.0] if interface == "float64_array" else [1.0, 2.0, 3.0])


def test_odd_commands_are_refused() -> None:
    with pytest.raises(MessageError, match="NaN"):
        command_from_message(Float64MultiArray(data=[0.0, np.nan]), ("a", "b"))
    with pytest.raises(MessageError, match="expected each of"):
        command_from_message(JointStateMsg(name=["a", "a"], position=[0.0, 0.0]), ("a", "b"))
    with pytest.raises(MessageError, match="single one"):
        command_from_message(JointTrajectory(joint_names=["a"]), ("a",))


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_pictures_of_our_own() -> None:
    rgb = picture()
    message = over_the_wire(image_to_message(rgb, 99, "front"))
    assert from_time(message.header.stamp) == 99 and message.header.frame_id == "front"
    assert np.array_equal(image_from_message(message), rgb)
    with pytest.raises(MessageError, match="bgr8"):
        image_from_message(Image(height=5, width=7, encoding="bgr8", step=21, data=bytes(105)))
    with pytest.raises(MessageError, match="bytes"):
        image_from_message(Image(height=5, width=7, encoding="rgb8", step=21, data=bytes(100)))


def test_pictures_of_cameras_pass_as_they_are() -> None:
    sent = over_the_wire(Image(height=2, width=3, encoding="16UC1", step=8, is_bigendian=1, data=bytes(range(16))))
    image = encoded_from_message(sent)
    assert (image.encoding, image.height, image.width, image.step, image.big_endian) == ("16UC1", 2, 3, 8, True)
    assert bytes(image.data) == bytes(range(16))
    compressed = encoded_from_message(over_the_wire(CompressedImage(format="16UC1; png compressed", data=b"abc")))
    assert (compressed.encoding, bytes(compressed.data)) == ("compressed", b"abc")


def test_camera_info() -> None:
    matrix = np.array([[100.0, 0.0, 32.0], [0.0, 110.0, 24.0], [0.0, 0.0, 1.0]])
    message = over_the_wire(camera_info_to_message(matrix, 64, 48, 5, "front"))
    assert np.array_equal(np.reshape(message.k, (3, 3)), matrix) and (message.width, message.height) == (64, 48)
    assert np.array_equal(np.reshape(message.p, (3, 4))[:, :3], matrix)


@settings(max_examples=25, deadline=None)
@given(STAMPS, st.integers(1, 30), st.integers(1, 12), st.integers(0, 2**31))
def test_features_round_trip_is_exact(stamp: int, tokens: int, channels: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(tokens, channels)).astype(np.float32)
    values[0, 0] = np.nan
    back = features_from_message(over_the_wire(features_to_message(Features(stamp, "detections", values))))
    assert (back.stamp, back.stream, back.values.dtype) == (stamp, "detections", np.float32)
    assert back.values.tobytes() == values.tobytes()


def test_features_of_the_other_byte_order() -> None:
    message = features_to_message(Features(1, "s", np.array([[1.5, 2.5]], dtype=np.float32)))
    message.data = np.array([[1.5, 2.5]], dtype=">f4").tobytes()
    message.is_bigendian = 1
    assert features_from_message(message).values.tolist() == [[1.5, 2.5]]
    with pytest.raises(MessageError, match="expected 32FC1"):
        features_from_message(image_to_message(picture(), 0))
