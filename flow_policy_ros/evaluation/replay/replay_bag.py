"""A replay as a recording of its own (``replay.mcap``), for Foxglove and PlotJuggler: what was recorded beside what would have been
commanded, on the recording's timeline, under the names of the topics that the nodes use.

Every message lies at the instant at which it would have been received. Figures about it all are in ``metrics``.
"""

from __future__ import annotations

import heapq
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.bag_events import BadEvent, CommandEvent
from flow_policy_ros.data.bag_writer import jpeg
from flow_policy_ros.data.bags import messages
from flow_policy_ros.data.bags.mcap_writer import McapWriter
from flow_policy_ros.evaluation.replay.records import ReplayChunk, ReplayFeatures, ReplayMeta, ReplayTick
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import JointState, Setpoint
from flow_policy_ros.safety.guard import GuardState
from flow_policy_ros.safety.limiter import KINDS

RECORDED, PICTURE, BAD, INTERVENTIONS = "/replay/recorded", "/perception/overlay/compressed", "/replay/bad", "/replay/interventions"
PICTURE_WIDTH, QUALITY = 320, 85
"""Pictures are enlarged to about this many pixels, for names to be read."""
REPORT_NS = 1_000_000_000
_OK, _WARN, _ERROR = 0, 1, 2
_QUIET = (GuardState.INACTIVE, GuardState.STOPPING, GuardState.HOLDING)


class ReplayBag:
    """A ``ReplaySink`` that writes the MCAP file ``path``; one that is there is written anew. Memory does not grow.

    ``joint states`` at the robot file's topic, ``/replay/recorded`` (JointState) what the recorded robot was told,
    ``/command/executed``, the robot file's command topic, ``/command/plan``, ``/policy/chunk`` and ``chunk_info``,
    ``/features/STREAM``, ``/perception/overlay/compressed``, ``/diagnostics`` as the command node's, each second and whenever its
    state changes, ``/replay/interventions/KIND`` (JointState, position 1 while that limit acts on that joint, when it changes),
    ``/replay/bad`` (DiagnosticStatus) inputs that could not be used.
    """

    def __init__(self, path: str | Path, robot: Robot, compression: str = "zstd") -> None:
        self._path = Path(path)
        self._robot = robot
        self._compression = compression
        self._file: McapWriter | None = None
        self._waiting: list[tuple[int, int, str, str, bytes]] = []  # (instant, number, topic, type, message)
        self._number = 0
        self._period_ns = 0
        self._joints: tuple[str, ...] = ()
        self._states = _absolute(robot.joint_state_topic)
        self._commands = _absolute(robot.command_topic)
        self._acting: dict[str, bytes] = {}
        self._nothing = np.zeros(0, dtype=np.bool_)
        self._counts: dict[str, int] = {}
        self._limited: dict[str, NDArray[np.int64]] = {}
        self._said: tuple[object, ...] = ()
        self._said_at = 0
        self._last: ReplayTick | None = None

    def begin(self, meta: ReplayMeta) -> None:
        """Open the file; what is replayed goes to its metadata. Raises ``ValueError`` when it cannot be written."""
        self._path.unlink(missing_ok=True)
        self._file = McapWriter(self._path, self._compression)
        texts = {"bag": meta.bag, "robot": meta.robot, "checkpoint": meta.checkpoint}
        self._file.add_metadata("replay", {**texts, **{key: str(value) for key, value in meta.settings.items()}})
        self._period_ns, self._joints = meta.period_ns, meta.joints
        self._nothing = np.zeros(len(meta.joints), dtype=np.bool_)
        self._offset = self._robot.command_positions(np.zeros(len(meta.joints)))
        self._limited = {kind: np.zeros(len(meta.joints), dtype=np.int64) for kind in KINDS}

    def on_joint_state(self, state: JointState, received: int) -> None:
        """As recorded."""
        data = messages.joint_state(state.stamp, state.names, state.position, state.velocity, state.effort)
        self._put(received, self._states, messages.JOINT_STATE, data)

    def on_recorded(self, command: CommandEvent) -> None:
        """Under the robot file's names, whatever its form was."""
        data = messages.joint_state(command.stamp, command.names, command.position)
        self._put(command.received, RECORDED, messages.JOINT_STATE, data)

    def on_bad(self, event: BadEvent) -> None:
        """The sentence."""
        self._count("bad_inputs")
        self._put(event.received, BAD, messages.STATUS, messages.lone_status(event.topic, _ERROR, event.reason, {}))

    def on_features(self, seen: ReplayFeatures) -> None:
        """When the policy sees them, if it does; the picture when it was received."""
        if seen.lost:
            self._count("features_lost")
        else:
            self._put(seen.ready, f"/features/{seen.features.stream}", messages.IMAGE, messages.features(seen.features))
        if seen.image is not None:
            picture = jpeg(_drawn(seen.image, seen.boxes, seen.labels), QUALITY)
            data = messages.compressed_image(seen.features.stamp, seen.features.stream, picture)
            self._put(seen.received, PICTURE, messages.COMPRESSED_IMAGE, data)

    def on_chunk(self, sampled: ReplayChunk) -> None:
        """When it reaches the command stage, if it does."""
        self._count("chunks_lost" if sampled.lost else "chunks")
        if sampled.lost:
            return
        chunk = sampled.chunk
        values: dict[str, object] = {
            "stamp": chunk.stamp, "nfe": chunk.nfe, "seed": chunk.seed, "horizon": len(chunk.positions), "dt_ns": chunk.dt_ns,
            "duration_ms": f"{sampled.duration_ms:.3f}",
            **{f"observation.{stream}": stamp for stream, stamp in chunk.observation_stamps.items()},
        }  # fmt: skip
        if (how := chunk.execution) is not None:
            values |= {"mode": how.mode, "continued": how.continued, "delay_steps": how.delay, "execute_steps": how.execute,
                       "clamped": " ".join(how.clamped)}  # fmt: skip
        self._put(sampled.ready, "/policy/chunk", messages.TRAJECTORY, messages.chunk(chunk))
        self._put(sampled.ready, "/policy/chunk_info", messages.STATUS, messages.lone_status("chunk", _OK, "", values))

    def on_tick(self, tick: ReplayTick) -> None:
        """What was sent, planned and changed; then everything up to this instant goes to the file."""
        given, now = tick.tick, tick.now
        self._count("ticks")
        if given.setpoint is not None:
            self._sent(given.setpoint)
        if given.plan is not None:
            self._put(now, "/command/plan", messages.TRAJECTORY, messages.plan(given.plan))
        self._intervened(tick)
        if tick.stale:
            self._count("stale")
        if tick.reset:
            self._count("resets")
        said = (given.state, given.faults, tick.stale)
        if tick.reset or said != self._said or now - self._said_at >= REPORT_NS:
            self._said, self._said_at = said, now
            self._report(tick)
        self._last = tick
        self._write(now)

    def end(self) -> None:
        """Write what is left, the counts of it all, and the index."""
        if self._file is None:
            return
        if self._last is not None and self._said_at < self._last.now:
            self._report(self._last)
        self._write(None)
        self._file.close()

    def _sent(self, setpoint: Setpoint) -> None:
        robot, now = self._robot, setpoint.stamp
        data = messages.joint_state(now, setpoint.names, setpoint.position, setpoint.velocity)
        self._put(now, "/command/executed", messages.JOINT_STATE, data)
        position = robot.command_positions(setpoint.position)
        velocity = None
        if robot.command_interface == "joint_state":  # no other form has one
            velocity = robot.command_positions(setpoint.velocity) - self._offset
        kind, data = messages.command(now, robot.command_joints, position, velocity, robot.command_interface, self._period_ns)
        self._put(now, self._commands, kind, data)

    def _intervened(self, tick: ReplayTick) -> None:
        """Each kind of limit as 0 and 1 by joint; only changes, which are few."""
        given = tick.tick.interventions or {}
        for kind in KINDS:
            acting = given.get(kind, self._nothing)
            pattern = acting.tobytes()
            if np.count_nonzero(acting):
                self._limited[kind] += acting
            if pattern != self._acting.get(kind):
                self._acting[kind] = pattern
                data = messages.joint_state(tick.now, self._joints, acting.astype(np.float64))
                self._put(tick.now, f"{INTERVENTIONS}/{kind}", messages.JOINT_STATE, data)

    def _report(self, tick: ReplayTick) -> None:
        state, faults = tick.tick.state, tick.tick.faults
        values: dict[str, object] = {
            "state": state.value, "faults": " ".join(fault.name for fault in faults), "stale": tick.stale, "reset": tick.reset,
            "stage_ms": tick.duration_ms, **{f"count.{name}": count for name, count in self._counts.items()},
        }  # fmt: skip
        for kind, limited in self._limited.items():
            rows = zip(self._joints, limited.tolist(), strict=True)
            values |= {f"interventions.{kind}.{joint}": count for joint, count in rows if count}
        text = "; ".join(f"{fault.name}: {fault.detail}" for fault in faults)
        level = _ERROR if faults else _WARN if state in _QUIET or tick.stale else _OK
        status = messages.status("command", level, text or tick.stale or state.value, values)
        self._put(tick.now, "/diagnostics", messages.DIAGNOSTICS, messages.diagnostics(tick.now, [status]))

    def _count(self, name: str) -> None:
        self._counts[name] = self._counts.get(name, 0) + 1

    def _put(self, instant: int, topic: str, kind: str, data: bytes) -> None:
        self._number += 1
        heapq.heappush(self._waiting, (instant, self._number, topic, kind, data))

    def _write(self, until: int | None) -> None:
        """What waits up to ``until`` (ns; None: all), in the order of instants: a file is read from its beginning as well."""
        assert self._file is not None, "begin comes first"
        while self._waiting and (until is None or self._waiting[0][0] <= until):
            instant, _, topic, kind, data = heapq.heappop(self._waiting)
            self._file.put(topic, kind, instant, data)


def _drawn(image: NDArray[np.uint8], boxes: NDArray[np.float32] | None, labels: tuple[str, ...]) -> NDArray[np.uint8]:
    """A copy of the RGB image (H, W, 3), enlarged if it is small, with ``boxes`` (N, 4) and their names."""
    scale = max(1, PICTURE_WIDTH // image.shape[1])
    canvas = np.ascontiguousarray(np.repeat(np.repeat(image, scale, axis=0), scale, axis=1))
    for k, box in enumerate(() if boxes is None else boxes):
        if not np.isfinite(box).all():
            continue
        x0, y0, x1, y1 = (round(float(v) * scale) for v in np.clip(box, -9999, 9999))
        cv2.rectangle(canvas, (x0, y0), (x1, y1), (255, 235, 59), 1)
        text = labels[k] if k < len(labels) else ""
        cv2.putText(canvas, text, (x0, max(10, y0 - 3)), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 235, 59), 1, cv2.LINE_AA)
    return canvas


def _absolute(topic: str) -> str:
    """Recordings hold absolute names."""
    return "/" + topic.removeprefix("~").lstrip("/")
