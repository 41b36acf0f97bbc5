"""The instruction, a text on topic ``instruction``: latched, so that who comes late still learns what is to be done.

A node that obeys instructions hears them here, from the topic and from its own parameter; the newest counts. What one means, and
whether it can be used, is for whoever it is given to.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.node import Node
from std_msgs.msg import String

from flow_policy_ros.nodes.runner import STEADY
from flow_policy_ros.ros import qos

INSTRUCTION_TOPIC = "instruction"
READ_APART_S = 0.1
"""For nodes that must not come late: reading takes its time from the thread that hears everything else."""


class InstructionTopic:
    """Gives every new instruction on the topic to ``take``, in the thread that spins the node.

    ``take`` raises ``ValueError`` for one that cannot be used: that is logged, counted, and kept as ``problem`` until a usable one
    comes. The one before then stays in force, which ``in_force`` tells; where it is not given, ``text``, the last that was taken
    here (empty: there was none yet). An instruction that comes less than ``apart_s`` after the last one was read waits so long;
    of several that wait the newest alone is read.
    """

    def __init__(
        self, node: Node, take: Callable[[str], object], in_force: Callable[[], str] | None = None, apart_s: float = 0.0
    ) -> None:
        self.text = ""
        self.problem: str | None = None
        self.refused = 0
        self._take = take
        self._in_force = in_force or (lambda: self.text)
        self._apart_s = apart_s
        self._waiting: str | None = None
        self._ready = 0.0  # when the next one may be read
        self._logger = node.get_logger()
        self._subscription = node.create_subscription(String, INSTRUCTION_TOPIC, self._on_message, qos.LATCHED)
        if apart_s > 0.0:
            node.create_timer(apart_s, self._attend, clock=STEADY)

    def give(self, instruction: str) -> None:
        """Put ``instruction`` into force, from wherever it comes. Raises ``ValueError`` where it cannot be used."""
        self._waiting = None  # what came before it does not count any more
        try:
            self._take(instruction)
        except ValueError as error:
            self.refused += 1
            kept = self._in_force()
            self.problem = f"an instruction was refused: {error}" + (f" '{kept}' stays in force." if kept else "")
            self._logger.error(self.problem)
            raise
        if instruction != self.text:
            self._logger.info(f"instruction: {instruction}")
        self.text, self.problem = instruction, None

    def offer(self, instruction: str) -> None:
        """As ``give``, without an error: what is refused is said here alone."""
        try:
            self.give(instruction)
        except ValueError:
            return

    def _on_message(self, message: String) -> None:
        self._waiting = message.data
        self._attend()

    def _attend(self) -> None:
        if self._waiting is not None and time.monotonic() >= self._ready:
            self.offer(self._waiting)
            self._ready = time.monotonic() + self._apart_s
