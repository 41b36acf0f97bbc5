"""The instruction, a text on topic ``instruction``: latched, so that who comes late still learns what is to be done.

A node that obeys instructions hears them here, from the topic and from its own parameter; the newest counts. What one means, and
whether it can be used, is for whoever it is given to.
"""

from __future__ import annotations

from collections.abc import Callable

from rclpy.node import Node
from std_msgs.msg import String

from flow_policy_ros.ros import qos
from flow_policy_ros.runtime.contract import SAID, Contract
from flow_policy_ros.runtime.policy_loop import PolicyLoop
from flow_policy_ros.runtime.types import Chunk

INSTRUCTION_TOPIC = "instruction"
KEPT = 16
"""So many instructions are remembered by the stamp from which they held; a chunk takes less long than as many to be sampled."""


class InstructionTopic:
    """Gives every new instruction on the topic to ``take``, in the thread that spins the node.

    ``take`` raises ``ValueError`` for one that cannot be used: that is logged, counted, and kept as ``problem`` until a usable one
    comes. The one before then stays in force, which is ``text`` (empty: there was none yet).
    """

    def __init__(self, node: Node, take: Callable[[str], object]) -> None:
        self.text = ""
        self.problem: str | None = None
        self.refused = 0
        self._take = take
        self._logger = node.get_logger()
        self._subscription = node.create_subscription(String, INSTRUCTION_TOPIC, self._on_message, qos.LATCHED)

    def give(self, instruction: str) -> None:
        """Put ``instruction`` into force, from wherever it comes. Raises ``ValueError`` where it cannot be used."""
        if instruction and instruction == self.text:
            self.problem = None
            return
        try:
            self._take(instruction)
        except ValueError as error:
            self.refused += 1
            self.problem = f"an instruction was refused: {error}" + (f" '{self.text}' stays in force." if self.text else "")
            self._logger.error(self.problem)
            raise
        self.text, self.problem = instruction, None
        self._logger.info(f"instruction: {instruction}")

    def offer(self, instruction: str) -> None:
        """As ``give``, without an error: what is refused is said here alone."""
        try:
            self.give(instruction)
        except ValueError:
            return

    def _on_message(self, message: String) -> None:
        self.offer(message.data)


class Instructions:
    """Which instruction a chunk of ``loop`` was made for: a chunk carries the stamps of what was observed, not the words."""

    def __init__(self, contract: Contract, loop: PolicyLoop) -> None:
        self._loop = loop
        self._stream = next((stream.name for stream in contract.of_kind(*SAID)), "")
        self._noted: dict[int, str] = {}

    def note(self, stamp: int) -> None:
        """The loop's instruction holds from ``stamp`` (ns) on."""
        self._noted[stamp] = self._loop.instruction
        while len(self._noted) > KEPT:
            del self._noted[next(iter(self._noted))]

    def of(self, chunk: Chunk) -> str:
        """The words; empty for a policy that reads none."""
        if not self._stream:
            return ""
        return self._noted.get(chunk.observation_stamps.get(self._stream, 0), self._loop.instruction)
