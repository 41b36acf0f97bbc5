"""Codecs between the core's joint data and standard ROS messages: stamps, joint states, chunks, set-points.

Shapes are checked here, since a message may hold anything; values (NaN, names, ranges) are for the consumers to judge.
Images and features are in ``ros.images``.
"""

from __future__ import annotations

import array
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from numpy.typing import NDArray
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from flow_policy_ros.runtime.types import Chunk, FloatArray, JointState, Plan, Setpoint

SECOND_NS = 1_000_000_000


class MessageError(ValueError):
    """A message whose parts do not fit together; the text says which and what was expected."""


def to_time(stamp: int) -> Time:
    """``stamp`` in ns (≥ 0) as a message."""
    return Time(sec=stamp // SECOND_NS, nanosec=stamp % SECOND_NS)


def from_time(time: Time | Duration) -> int:
    """Time or duration message in ns."""
    return time.sec * SECOND_NS + time.nanosec


def to_duration(duration_ns: int) -> Duration:
    """``duration_ns`` as a message."""
    return Duration(sec=duration_ns // SECOND_NS, nanosec=duration_ns % SECOND_NS)


def doubles(values: FloatArray) -> array.array[float]:
    """What a ``float64[]`` field takes without converting element by element."""
    return array.array("d", np.ascontiguousarray(values, dtype=np.float64).tobytes())


def joint_state_to_message(state: JointState) -> JointStateMsg:
    """Absent velocity or effort becomes an empty field, as ``sensor_msgs`` prescribes."""
    message = JointStateMsg()
    message.header.stamp = to_time(state.stamp)
    message.name = list(state.names)
    message.position = doubles(state.position)
    if state.velocity is not None:
        message.velocity = doubles(state.velocity)
    if state.effort is not None:
        message.effort = doubles(state.effort)
    return message


def joint_state_from_message(message: JointStateMsg) -> JointState:
    """Positions are taken as they are, for the core to judge (a bad joint state is a fault there).

    Raises ``MessageError`` when velocities or efforts are there but not one per name (per position, where there are no names).
    """
    names, position = tuple(message.name), np.array(message.position, dtype=np.float64)
    columns = names or ("",) * len(position)  # only the robot file may know the names
    return JointState(
        from_time(message.header.stamp),
        names,
        position,
        _row("joint state", "velocities", columns, message.velocity) if len(message.velocity) else None,
        _row("joint state", "efforts", columns, message.effort) if len(message.effort) else None,
    )


def chunk_to_message(chunk: Chunk, frame_id: str = "") -> JointTrajectory:
    """``header.stamp`` is the chunk's, point k lies ``k · dt_ns`` after it. Round trip exact. In lockstep ``frame_id`` is the stamp
    of the tick at which it was sampled."""
    message = JointTrajectory(joint_names=list(chunk.names))
    message.header.frame_id = frame_id
    message.header.stamp = to_time(chunk.stamp)
    message.points = _points(chunk.positions, chunk.dt_ns)
    return message


def chunk_from_message(message: JointTrajectory) -> Chunk:
    """Raises ``MessageError`` for fewer than two points, uneven times, or rows unlike the names.

    ``nfe``, ``seed`` and ``observation_stamps`` do not travel in it (see ``chunk_info``).
    """
    dt, rows = _rows("chunk", message)
    return Chunk(from_time(message.header.stamp), dt, tuple(message.joint_names), rows)


def plan_to_message(plan: Plan) -> JointTrajectory:
    """``header.stamp`` is the plan's, ``header.frame_id`` the stamp in ns of the chunk that it was made of. Round trip exact, but
    for the spacing of a single row."""
    message = JointTrajectory(joint_names=list(plan.names))
    message.header.stamp = to_time(plan.stamp)
    message.header.frame_id = str(plan.chunk_stamp)
    message.points = _points(plan.positions, plan.dt_ns)
    return message


def plan_from_message(message: JointTrajectory) -> Plan:
    """Raises ``MessageError`` for uneven times, rows unlike the names, or no chunk's stamp.

    A single point is the plan to stay there: of what arrives at a chunk's end. Its spacing is nobody's, and becomes 1 ns.
    """
    dt, rows = _rows("plan", message, least=1)
    try:
        chunk_stamp = int(message.header.frame_id)
    except ValueError as error:
        raise MessageError(f"plan has the frame_id '{message.header.frame_id}', expected the stamp of a chunk in ns.") from error
    return Plan(from_time(message.header.stamp), dt, tuple(message.joint_names), rows, chunk_stamp)


def chunk_info(chunk: Chunk, duration_ms: float, instruction: str = "") -> DiagnosticStatus:
    """What a trajectory cannot carry, keyed by the chunk's stamp. ``duration_ms`` is how long sampling took, ``instruction`` what
    the policy was told, where it reads that."""
    values: dict[str, object] = {
        "stamp": chunk.stamp,
        "nfe": chunk.nfe,
        "seed": chunk.seed,
        "horizon": len(chunk.positions),
        "dt_ns": chunk.dt_ns,
        "duration_ms": f"{duration_ms:.3f}",
        **{f"observation.{stream}": stamp for stream, stamp in chunk.observation_stamps.items()},
    }
    if instruction:
        values["instruction"] = instruction
    if chunk.execution is not None:
        execution = chunk.execution
        values["mode"] = execution.mode
        values["continued"] = execution.continued
        values["delay_steps"], values["execute_steps"] = execution.delay, execution.execute
        values["clamped"] = " ".join(execution.clamped)
    return DiagnosticStatus(
        level=DiagnosticStatus.OK, name="chunk", values=[KeyValue(key=k, value=str(v)) for k, v in values.items()]
    )


def setpoint_to_message(
    setpoint: Setpoint, interface: str, period_ns: int
) -> JointTrajectory | Float64MultiArray | JointStateMsg:
    """One command in the form of ``Robot.command_interface``: a single-point trajectory, array or joint state.

    The point of a trajectory lies ``period_ns`` after the stamp, since trajectory controllers refuse one that has ended, and has a
    position alone: by default they refuse one that ends with a velocity.
    """
    if interface == "float64_array":
        return Float64MultiArray(data=doubles(setpoint.position))
    if interface == "joint_state":
        return executed_to_message(setpoint)
    point = JointTrajectoryPoint(
        positions=doubles(setpoint.position), time_from_start=to_duration(period_ns)
    )
    message = JointTrajectory(joint_names=list(setpoint.names), points=[point])
    message.header.stamp = to_time(setpoint.stamp)
    return message


def trajectory_to_message(
    stamp: int,
    times_ns: Sequence[int],
    names: tuple[str, ...],
    position: FloatArray,
    velocity: FloatArray,
    acceleration: FloatArray,
) -> JointTrajectory:
    """A trajectory for a controller: rows (N, C) of position, velocity, acceleration, row k at ``stamp + times_ns[k]``."""
    message = JointTrajectory(joint_names=list(names))
    message.header.stamp = to_time(stamp)
    message.points = [
        JointTrajectoryPoint(
            positions=doubles(p), velocities=doubles(v), accelerations=doubles(a), time_from_start=to_duration(time)
        )
        for time, p, v, a in zip(times_ns, position, velocity, acceleration, strict=True)
    ]
    return message


def executed_to_message(setpoint: Setpoint) -> JointStateMsg:
    """The stamped record of a set-point that was sent: positions and the velocities that they imply."""
    return joint_state_to_message(JointState(setpoint.stamp, setpoint.names, setpoint.position, setpoint.velocity))


def setpoint_from_executed(message: JointStateMsg) -> Setpoint:
    """The set-point of such a record; its acceleration, which is not in there, is NaN. Raises ``MessageError``."""
    state = joint_state_from_message(message)
    if state.velocity is None:
        raise MessageError("executed set-point has no velocities, expected one per name.")
    return Setpoint(state.stamp, state.names, state.position, state.velocity, np.full_like(state.position, np.nan))


def command_message_type(interface: str) -> type:
    """Message class of a ``Robot.command_interface``; of ``follow_joint_trajectory`` what its goals hold."""
    types = {"float64_array": Float64MultiArray, "joint_state": JointStateMsg}
    return types.get(interface, JointTrajectory)


def command_from_message(
    message: JointTrajectory | Float64MultiArray | JointStateMsg, joints: tuple[str, ...]
) -> tuple[int | None, FloatArray]:
    """Stamp (None for a bare array) and position (A,) in the order of ``joints``. Raises ``MessageError``.

    What a robot that obeys commands does with them: every joint must be there, by name, and finite.
    """
    if isinstance(message, Float64MultiArray):
        stamp, position = None, _row("command", "values", joints, message.data)
    else:
        if isinstance(message, JointTrajectory):
            names = tuple(message.joint_names)
            if len(message.points) != 1:
                raise MessageError(f"command has {len(message.points)} points, expected a single one.")
            values = message.points[0].positions
        else:
            names, values = tuple(message.name), message.position
        if sorted(names) != sorted(joints):
            raise MessageError(f"command names joints {names}, expected each of {joints} once.")
        row = dict(zip(names, _row("command", "positions", names, values), strict=True))
        stamp, position = from_time(message.header.stamp), np.array([row[joint] for joint in joints])
    if not np.isfinite(position).all():
        raise MessageError("command holds NaN or Inf; expected finite positions in rad or m.")
    return stamp, position


def _row(what: str, field: str, names: tuple[str, ...], values: Sequence[float] | NDArray[np.float64]) -> FloatArray:
    if len(values) != len(names):
        raise MessageError(f"{what} has {len(names)} names but {len(values)} {field}; expected one per name.")
    return np.array(values, dtype=np.float64)


def _points(positions: FloatArray, dt_ns: int) -> list[JointTrajectoryPoint]:
    return [
        JointTrajectoryPoint(positions=doubles(row), time_from_start=to_duration(k * dt_ns)) for k, row in enumerate(positions)
    ]


def _rows(what: str, message: JointTrajectory, least: int = 2) -> tuple[int, FloatArray]:
    """Spacing in ns and positions (N, A) of an evenly timed trajectory that begins at its stamp."""
    names = tuple(message.joint_names)
    if len(message.points) < least:
        raise MessageError(f"{what} has {len(message.points)} points, expected at least {least}.")
    times = [from_time(point.time_from_start) for point in message.points]
    dt = times[1] if len(times) > 1 else 1
    if dt <= 0 or any(time != k * dt for k, time in enumerate(times)):
        raise MessageError(f"{what} points lie at {times[:4]}… ns, expected 0, dt, 2·dt, … with dt above zero.")
    rows = [_row(what, f"positions in point {k}", names, point.positions) for k, point in enumerate(message.points)]
    return dt, np.stack(rows)
