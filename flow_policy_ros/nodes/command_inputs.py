"""What the command node listens to: joint states, chunks, hold-to-run switch, emergency stop; refused messages are counted.

What follows from them is the command loop's. Chunks are large: one takes longer to read than there may be time for before the
next tick, and then it is read after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from rclpy.node import Node
from sensor_msgs.msg import JointState as JointStateMsg
from sensor_msgs.msg import Joy
from std_msgs.msg import Bool
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.ros import qos
from flow_policy_ros.ros.messages import MessageError, chunk_from_message, joint_state_from_message
from flow_policy_ros.ros.raw import opened
from flow_policy_ros.runtime.joint_order import BadInput
from flow_policy_ros.runtime.parameters import CommandParameters
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import Chunk, JointState
from flow_policy_ros.safety.command_loop import CommandLoop

STEP_NS = 1_000_000
"""A chunk of 48 points of 30 joints is read in 0.4 ms and prepared in 0.5 ms; on a busy machine it may be twice that."""
MOST_BYTES = 1 << 20
"""Of a chunk: some 3000 points of 30 joints, sixty times a long one. A larger message would take longer to read than the node may
be silent."""
MOST_UNREAD = 16
"""Of chunks that come faster than they can be read the oldest are dropped: only the newest is followed."""


class Consumer(Protocol):
    """Who takes joint states and chunks, with the instants at which they were received."""

    def on_joint_state(self, joint_state: JointState, received: int) -> None:
        """A joint state."""

    def on_chunk(self, chunk: Chunk, received: int) -> None:
        """A chunk."""


class CommandInputs:
    """Subscriptions of ``node``. ``refused[kind]`` counts messages whose parts do not fit together.

    ``listening`` says whether joint states and chunks are wanted now; the emergency stop is always heard.
    """

    def __init__(
        self,
        node: Node,
        robot: Robot,
        parameters: CommandParameters,
        loop: CommandLoop,
        consumer: Consumer,
        listening: Callable[[], bool],
        lockstep: bool,
        ahead_ns: int,
    ) -> None:
        """Ticks are ``ahead_ns`` after the timer has fired."""
        self.refused: dict[str, int] = {}
        self._node = node
        self._naming = robot.naming
        self._loop = loop
        self._consumer = consumer
        self._listening = listening
        self._button = parameters.deadman_button
        self._next_tick: int | None = None  # steady clock, ns; None: there is always time
        self._ahead_ns = ahead_ns
        self._lockstep = lockstep
        self._unread: list[tuple[bytes, int]] = []  # chunks, with the instants at which they came
        self._untaken: list[tuple[Chunk, int]] = []
        self.joint_states = node.create_subscription(
            JointStateMsg, robot.joint_state_topic, self._on_joint_state, qos.reader(lockstep)
        ).topic_name
        self.chunks = node.create_subscription(
            JointTrajectory, "policy/chunk", self._on_chunk, qos.RELIABLE, raw=True
        ).topic_name
        # Best effort matches every publisher: an emergency stop must be heard whatever its quality of service.
        self.emergency_stops = node.create_subscription(
            Bool, "command/emergency_stop", self._on_emergency_stop, qos.reader(lockstep)
        ).topic_name
        if parameters.deadman == "bool":
            node.create_subscription(Bool, "command/deadman", self._on_deadman, qos.reader(lockstep))
        elif parameters.deadman == "joy":
            node.create_subscription(Joy, "joy", self._on_joy, qos.reader(lockstep))

    def after_tick(self, next_tick: int | None) -> None:
        """A tick is done, and the timer fires next at ``next_tick`` (ns, steady clock): go on with what waited for that."""
        self._next_tick = next_tick
        self._go_on(due=True)

    def forget(self) -> None:
        """Drop what was not read or taken yet."""
        self._unread.clear()
        self._untaken.clear()

    def _on_joint_state(self, message: JointStateMsg) -> None:
        if not self._listening():
            return
        try:
            state = self._naming.named(joint_state_from_message(message))
        except (MessageError, BadInput) as error:
            self._refuse("joint_state_malformed" if isinstance(error, MessageError) else error.kind, error)
            self._loop.on_malformed_joint_state(str(error), self._now())
            return
        self._consumer.on_joint_state(state, self._now())

    def _on_chunk(self, message: bytes) -> None:
        if not self._listening():
            return
        if len(message) > MOST_BYTES:
            self._refuse_chunk("chunk_too_large", MessageError(f"chunk has {len(message)} bytes, expected at most {MOST_BYTES}."))
            return
        self._unread.append((message, self._now()))
        if len(self._unread) > MOST_UNREAD:
            self._unread.pop(0)
            self.refused["chunk_crowded_out"] = self.refused.get("chunk_crowded_out", 0) + 1
        self._go_on(due=False)

    def _go_on(self, due: bool) -> None:
        """Read and take chunks, step by step, as long as there is time; one step at least when it is ``due``."""
        while (self._unread or self._untaken) and (due or self._time_ns() > STEP_NS):
            due = False
            if self._untaken:
                self._take(*self._untaken.pop(0))
            else:
                self._read(*self._unread.pop(0))

    def _time_ns(self) -> float:
        """Until the timer fires."""
        return float("inf") if self._next_tick is None else self._next_tick - time.monotonic_ns()

    def _read(self, message: bytes, received: int) -> None:
        try:
            trajectory = opened(message, JointTrajectory)
            chunk = chunk_from_message(trajectory)
            if self._lockstep:
                received = _tick_of(trajectory)
        except MessageError as error:
            self._refuse_chunk("chunk_malformed", error)
            return
        self._untaken.append((chunk, received))

    def _take(self, chunk: Chunk, received: int) -> None:
        self._consumer.on_chunk(chunk, received)
        if self._next_tick is not None:
            self._loop.prepare(self._now() + round(self._time_ns()) + self._ahead_ns)

    def _on_emergency_stop(self, message: Bool) -> None:
        self._loop.on_emergency_stop(message.data, self._now())

    def _on_deadman(self, message: Bool) -> None:
        self._loop.on_deadman(message.data, self._now())

    def _on_joy(self, message: Joy) -> None:
        if self._button >= len(message.buttons):
            error = MessageError(
                f"joy has {len(message.buttons)} buttons, but command.deadman_button is {self._button}; expected a lower index."
            )
            self._refuse("joy_malformed", error)
            self._loop.on_deadman(False, self._now(), str(error))
            return
        self._loop.on_deadman(message.buttons[self._button] == 1, self._now())

    def _refuse_chunk(self, kind: str, error: Exception) -> None:
        self._refuse(kind, error)
        self._loop.on_malformed_chunk(str(error))

    def _refuse(self, kind: str, error: Exception) -> None:
        if kind not in self.refused:
            self._node.get_logger().warning(f"refused: {error}")
        self.refused[kind] = self.refused.get(kind, 0) + 1
        self._loop.last_rejection = str(error)

    def _now(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)


def _tick_of(chunk: JointTrajectory) -> int:
    """Lockstep: the tick (ns) at which a chunk was sampled. Raises ``MessageError``."""
    try:
        return int(chunk.header.frame_id)
    except ValueError as error:
        raise MessageError(
            f"chunk has the frame_id '{chunk.header.frame_id}', expected in lockstep the tick's stamp (ns). Use the policy node."
        ) from error
