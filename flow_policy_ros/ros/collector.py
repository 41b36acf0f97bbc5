"""What an onlooker sees of an episode on the topics, as run-time types keyed by stamps. Judges and starts nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.ros import qos
from flow_policy_ros.ros.images import image_from_message
from flow_policy_ros.ros.messages import MessageError, chunk_from_message, from_time, joint_state_from_message
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import Chunk, FloatArray, JointState

SOMETHING = ("chunk", "command")
"""Words in the ``frame_id`` of a lockstep header that announce a product which is kept here."""
STALE = "stale"
"""``frame_id`` of the policy's lockstep word when a chunk was due and an input was too old."""


@dataclass(frozen=True)
class SimStatus:
    """``sim/status``: ``state`` is idle, running or done; ``step`` of ``steps`` control steps.

    ``goal_reached`` is the first of several goals that was reached, "" for none; ``instruction`` what was asked for.
    """

    state: str
    episode: int
    seed: int
    step: int
    steps: int
    success: bool
    success_steps: int
    goal_reached: str = ""
    instruction: str = ""


@dataclass(frozen=True)
class Seen:
    """One episode. Arrays are in the robot file's joint order, rad or m; keys are stamps in ns, ascending.

    ``durations_ms`` of sampling by chunk stamp; ``stale`` one entry for each time that a chunk was due and none could be
    sampled (in real time: for each report that says so); ``success_step`` when the task was first solved; ``reports``
    the newest diagnostics (name → key → value); ``states`` (stamp, state) changes.
    """

    positions: dict[int, FloatArray]
    commands: dict[int, FloatArray]
    chunks: list[Chunk]
    durations_ms: dict[int, float]
    stale: list[str]
    frames: list[tuple[int, NDArray[np.uint8]]]
    states: list[tuple[int, str]]
    success_step: int | None
    status: SimStatus
    reports: dict[str, dict[str, str]]


class Collector:
    """Subscribes on ``node``. ``perception``: pictures are the perception's overlay, else the camera's own."""

    def __init__(self, node: Node, robot: Robot, perception: bool, lockstep: bool) -> None:
        self.reports: dict[str, dict[str, str]] = {}
        self.messages: dict[str, str] = {}  # text of the newest diagnostics
        self.features = 0  # messages in this episode
        self.begin()
        self._robot = robot
        self._lockstep = lockstep
        reliable = qos.reader(lockstep=True)  # an onlooker is not to miss anything, in real time either
        camera = robot.cameras[0].topic if robot.cameras else None
        topics: list[tuple[type, str, Callable[..., None], object]] = [
            (JointStateMsg, robot.joint_state_topic, self._on_joint_state, reliable),
            (JointStateMsg, "command/executed", self._on_executed, reliable),
            (JointTrajectory, "policy/chunk", self._on_chunk, reliable),
            (DiagnosticStatus, "policy/chunk_info", self._on_chunk_info, reliable),
            (DiagnosticStatus, "sim/status", self._on_status, qos.LATCHED),
            (DiagnosticArray, "/diagnostics", self._on_diagnostics, reliable),
        ]
        if lockstep:
            topics += [
                (Header, "lockstep/policy", self._on_policy_word, reliable),
                (Header, "lockstep/command", self._on_command_word, reliable),
            ]
        if perception:
            topics.append((Image, "features/detections", self._on_features, reliable))
        if perception or camera:
            picture = "perception/overlay" if perception else camera
            topics.append((Image, picture or "", self._on_picture, qos.image_reader(lockstep)))
        self._subscriptions: list[Subscription] = [node.create_subscription(*topic) for topic in topics]

    def unmatched(self) -> list[str]:
        """Topics that nobody publishes yet, or whose publisher is still being discovered."""
        return [s.topic_name for s in self._subscriptions if not s.get_publisher_count()]

    def begin(self) -> None:
        """Forget what was seen: an episode begins."""
        self.status: SimStatus | None = None
        self.features = 0
        self._positions: dict[int, FloatArray] = {}
        self._commands: dict[int, FloatArray] = {}
        self._chunks: dict[int, Chunk] = {}
        self._info: dict[int, dict[str, str]] = {}
        self._stale: dict[int, str] = {}  # by stamp
        self._frames: dict[int, NDArray[np.uint8]] = {}
        self._states: list[tuple[int, str]] = []
        self._policy_words: dict[int, bool] = {}
        self._command_words: dict[int, bool] = {}
        self._success_step: int | None = None

    def complete(self, steps: int) -> bool:
        """Lockstep: whether everything was seen that the ``steps`` ticks of the episode gave."""
        return (
            len(self._positions) >= steps
            and len(self._policy_words) >= steps
            and len(self._command_words) >= steps
            and all(stamp in self._commands for stamp, sent in self._command_words.items() if sent)
            and all(s in self._chunks and s in self._info for s, sent in self._policy_words.items() if sent)
        )

    def seen(self, since: int, steps: int) -> Seen:
        """What was collected of the ``steps`` joint states stamped ``since`` (ns) or later. Needs a status."""
        assert self.status is not None
        positions = dict([(s, p) for s, p in sorted(self._positions.items()) if s >= since][:steps])
        first, last = (min(positions), max(positions)) if positions else (since, since)

        def within(stamp: int) -> bool:
            return first <= stamp <= last

        chunks = [self._with_info(chunk) for stamp, chunk in sorted(self._chunks.items()) if within(stamp)]
        return Seen(
            positions=positions,
            commands={s: c for s, c in sorted(self._commands.items()) if within(s)},
            chunks=chunks,
            durations_ms={c.stamp: float(self._info[c.stamp]["duration_ms"]) for c in chunks if c.stamp in self._info},
            stale=[reason for _, reason in sorted(self._stale.items())],
            frames=[(s, f) for s, f in sorted(self._frames.items()) if within(s)],
            states=list(self._states),
            success_step=self._success_step,
            status=self.status,
            reports=dict(self.reports),
        )

    def _with_info(self, chunk: Chunk) -> Chunk:
        info = self._info.get(chunk.stamp)
        if info is None:
            return chunk
        head = "observation."
        stamps = {key[len(head) :]: int(value) for key, value in info.items() if key.startswith(head)}
        return replace(chunk, nfe=int(info["nfe"]), seed=int(info["seed"]), observation_stamps=stamps)

    def _in_order(self, state: JointState) -> FloatArray | None:
        """Positions in the robot file's order; None for a message that is not about exactly our joints."""
        if sorted(state.names) != sorted(self._robot.joints):
            return None
        row = dict(zip(state.names, state.position, strict=True))
        return np.array([row[joint] for joint in self._robot.joints])

    def _on_joint_state(self, message: JointStateMsg) -> None:
        self._keep(message, self._positions)

    def _on_executed(self, message: JointStateMsg) -> None:
        self._keep(message, self._commands)

    def _keep(self, message: JointStateMsg, where: dict[int, FloatArray]) -> None:
        try:
            state = joint_state_from_message(message)
        except MessageError:
            return  # counted and reported by the node that it is meant for
        position = self._in_order(state)
        if position is not None:
            where[state.stamp] = position

    def _on_chunk(self, message: JointTrajectory) -> None:
        try:
            chunk = chunk_from_message(message)
        except MessageError:
            return
        self._chunks[chunk.stamp] = chunk

    def _on_chunk_info(self, message: DiagnosticStatus) -> None:
        info = values(message)
        self._info[int(info["stamp"])] = info

    def _on_policy_word(self, word: Header) -> None:
        stamp = from_time(word.stamp)
        self._policy_words[stamp] = word.frame_id in SOMETHING
        if word.frame_id == STALE:
            self._stale[stamp] = self.messages.get("policy", "an input was too old")

    def _on_command_word(self, word: Header) -> None:
        self._command_words[from_time(word.stamp)] = not set(SOMETHING).isdisjoint(word.frame_id.split())

    def _on_features(self, message: Image) -> None:
        self.features += 1

    def _on_picture(self, message: Image) -> None:
        try:
            self._frames[from_time(message.header.stamp)] = image_from_message(message)
        except MessageError:
            return

    def _on_status(self, message: DiagnosticStatus) -> None:
        v = values(message)
        self.status = status = SimStatus(
            v["state"], int(v["episode"]), int(v["seed"]), int(v["step"]), int(v["steps"]),
            v["success"] == "True", int(v["success_steps"]), v.get("goal_reached", ""), v.get("instruction", ""),
        )  # fmt: skip
        if status.success and self._success_step is None:
            self._success_step = status.step

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            report = values(status)
            self.reports[status.name], self.messages[status.name] = report, status.message
            if status.name == "policy" and not self._lockstep and status.message.startswith("no chunk"):
                self._stale[from_time(message.header.stamp)] = status.message
            if status.name == "command":
                # A report between two changes of state is newer than what it says of the change.
                stamp = int(report["state_since"]) if "state_since" in report else max(self._commands, default=0)
                if not self._states or self._states[-1][1] != report["state"]:
                    self._states.append((stamp, report["state"]))


def values(status: DiagnosticStatus) -> dict[str, str]:
    """The key-values of a status."""
    return {pair.key: pair.value for pair in status.values}
