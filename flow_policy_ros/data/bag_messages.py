"""From decoded messages of a recording to the core's data: joint states, commands, pictures, features.

The counterpart of ``ros.messages`` and ``ros.images`` where there is no ROS. Shapes are checked here, values are for
the consumers to judge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flow_policy_ros.runtime.joint_order import BadInput
from flow_policy_ros.runtime.pixels import floats
from flow_policy_ros.runtime.types import EncodedImage, Features, FloatArray, JointState

SECOND_NS = 1_000_000_000
JOINT_STATE = "sensor_msgs/msg/JointState"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
ARRAY = "std_msgs/msg/Float64MultiArray"
CONTROLLER_STATE = "control_msgs/msg/JointTrajectoryControllerState"
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
STRING = "std_msgs/msg/String"


def stamp_of(message: Any) -> int:
    """The header's stamp, ns."""
    return int(message.header.stamp.sec) * SECOND_NS + int(message.header.stamp.nanosec)


def joint_state(message: Any) -> JointState:
    """Of a ``JointState``, under the message's names. Raises ``BadInput`` for velocities or efforts that are not one per name."""
    names = tuple(message.name)
    return JointState(
        stamp_of(message),
        names,
        _doubles(message.position),
        _row("velocities", len(message.position), message.velocity),
        _row("efforts", len(message.position), message.effort),
    )


def controller_state(message: Any) -> JointState:
    """What a ROS 1 or ROS 2 trajectory controller says that it measured. Raises ``BadInput``."""
    point = _point(message, ("feedback", "actual"))
    count = len(point.positions)
    velocities, effort = _row("velocities", count, point.velocities), _row("efforts", count, point.effort)
    return JointState(stamp_of(message), tuple(message.joint_names), _doubles(point.positions), velocities, effort)


def array_state(message: Any) -> JointState:
    """Of a ``Float64MultiArray``, which has neither stamp (0 here) nor names."""
    return JointState(0, (), _doubles(message.data))


Command = tuple[int | None, tuple[str, ...], FloatArray]  # stamp in ns (None: the instant of receipt), names, position (A,)


def joint_state_command(message: Any) -> Command:
    """Of a ``JointState`` that commands."""
    return stamp_of(message), tuple(message.name), _doubles(message.position)


def trajectory_command(message: Any) -> Command:
    """Of a ``JointTrajectory`` of one point, for the instant of its header (zero: at once). Raises ``BadInput`` for more points."""
    if len(message.points) != 1:
        raise BadInput(
            "command_chunk",
            f"trajectory has {len(message.points)} points, expected one: a chunk says what was planned, not what was commanded. "
            "Give the topic of the set-points as robot.recorded.command_topic.",
        )
    return stamp_of(message) or None, tuple(message.joint_names), _doubles(message.points[0].positions)


def array_command(message: Any) -> Command:
    """Of a ``Float64MultiArray``, which has neither stamp nor names."""
    return None, (), _doubles(message.data)


def controller_command(message: Any) -> Command:
    """What a trajectory controller says that it was aiming at. Raises ``BadInput``."""
    return stamp_of(message), tuple(message.joint_names), _doubles(_point(message, ("reference", "desired")).positions)


STATES: dict[str, Callable[[Any], JointState]] = {
    JOINT_STATE: joint_state,
    CONTROLLER_STATE: controller_state,
    ARRAY: array_state,
}
COMMANDS: dict[str, Callable[[Any], Command]] = {
    JOINT_STATE: joint_state_command,
    TRAJECTORY: trajectory_command,
    ARRAY: array_command,
    CONTROLLER_STATE: controller_command,
}


def image(message: Any) -> EncodedImage:
    """Of an ``Image``."""
    return EncodedImage(
        str(message.encoding), int(message.height), int(message.width), int(message.step), memoryview(message.data),
        bool(message.is_bigendian),
    )


def compressed_image(message: Any) -> EncodedImage:
    """Of a ``CompressedImage``."""
    return EncodedImage("compressed", 0, 0, 0, memoryview(message.data))


IMAGES: dict[str, Callable[[Any], EncodedImage]] = {IMAGE: image, COMPRESSED: compressed_image}


def text(message: Any) -> str:
    """Of a ``String``."""
    return str(message.data)


TEXTS: dict[str, Callable[[Any], str]] = {STRING: text}


def features(message: Any, stream: str) -> Features:
    """Of the ``Image`` of a topic ``features/STREAM``. Raises ``ImageError``; ``BadInput`` when it is of another stream."""
    if message.header.frame_id not in ("", stream):
        raise BadInput(
            "features_stream", f"features say that they are of stream '{message.header.frame_id}', expected '{stream}'."
        )
    return Features(stamp_of(message), stream, floats(image(message), "features"))


def _doubles(values: Any) -> FloatArray:
    """A copy: what is kept of a message must not keep the message."""
    return np.array(values, dtype=np.float64)


def _row(what: str, count: int, values: Any) -> FloatArray | None:
    if not len(values):
        return None
    if len(values) != count:
        raise BadInput("joint_state_shape", f"joint state has {len(values)} {what}, expected one for each of {count} positions.")
    return _doubles(values)


def _point(message: Any, fields: tuple[str, str]) -> Any:
    """The first of ``fields`` that the message has with positions: controllers renamed them."""
    for name in fields:
        point = getattr(message, name, None)
        if point is not None and len(point.positions):
            return point
    raise BadInput("controller_state_empty", f"controller state has no positions under {' or '.join(fields)}.")
