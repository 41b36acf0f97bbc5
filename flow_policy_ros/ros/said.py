"""What a command node says of itself on ``/diagnostics``, for programs that read it; what it says there is its own affair."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node

from flow_policy_ros.ros import qos

LEVELS = ("ok", "warning", "error", "stale")


@dataclass(frozen=True)
class CommandSaid:
    """A status of the command node of ``namespace`` ("/" for none); ``level`` is one of ``LEVELS``, ``values`` have the keys of
    ``reported``."""

    namespace: str
    level: str
    message: str
    values: Mapping[str, str]

    @property
    def emergency(self) -> bool:
        """Whether the emergency stop is engaged."""
        return self.values.get("emergency_stop") == "True"


def said(status: DiagnosticStatus) -> CommandSaid | None:
    """None for a status of another node."""
    space, _, name = status.name.rpartition("/")
    if name != "command":
        return None
    values = {pair.key: pair.value for pair in status.values}
    return CommandSaid(f"/{space}", LEVELS[min(status.level[0], len(LEVELS) - 1)], status.message, values)


def listen(node: Node, space: str, take: Callable[[CommandSaid], None]) -> Any:
    """Hand every status on the ``diagnostics`` of a name space ("/" for none) to ``take``; the subscription."""

    def unpack(message: DiagnosticArray) -> None:
        for found in filter(None, map(said, message.status)):
            take(found)

    return node.create_subscription(DiagnosticArray, f"{space.rstrip('/')}/diagnostics", unpack, qos.reader(lockstep=False))
