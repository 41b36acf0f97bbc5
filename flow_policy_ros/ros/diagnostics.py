"""What nodes report about themselves, as ``diagnostic_msgs``. What to report is up to each node."""

from __future__ import annotations

from collections.abc import Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from flow_policy_ros.ros import qos
from flow_policy_ros.ros.messages import to_time
from flow_policy_ros.runtime.latency_tracker import LatencyTracker
from flow_policy_ros.runtime.status_names import full_name

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def status(name: str, level: bytes, message: str, values: Mapping[str, object]) -> DiagnosticStatus:
    """One status; values become text, floats with four significant digits behind the point."""
    pairs = [KeyValue(key=key, value=f"{v:.4f}" if isinstance(v, float) else str(v)) for key, v in values.items()]
    return DiagnosticStatus(level=level, name=name, message=message, values=pairs)


class Diagnostics:
    """What a node says on ``/diagnostics``. The names of its statuses, and of the ``robot`` as their hardware, begin with its name
    space, so that any tool can tell two robots in one graph apart."""

    def __init__(self, node: Node, robot: str) -> None:
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", qos.RELIABLE)
        self._space, self._robot = node.get_namespace(), robot

    def publish(self, stamp: int, *statuses: DiagnosticStatus) -> None:
        """As of ``stamp`` (ns)."""
        for said in statuses:
            said.name, said.hardware_id = full_name(said.name, self._space), full_name(self._robot, self._space)
        self._publisher.publish(diagnostics(stamp, *statuses))


def diagnostics(stamp: int, *statuses: DiagnosticStatus) -> DiagnosticArray:
    """What goes to ``/diagnostics``."""
    message = DiagnosticArray(status=list(statuses))
    message.header.stamp = to_time(stamp)
    return message


def latency_values(name: str, tracker: LatencyTracker) -> dict[str, float]:
    """``{name}.p50``, ``.p99`` and ``.max`` of what was tracked lately, in ms; empty when nothing was."""
    summary = tracker.summary()
    if summary is None:
        return {}
    return {f"{name}.p50": summary.p50_ms, f"{name}.p99": summary.p99_ms, f"{name}.max": summary.max_ms}


def counts(name: str, table: Mapping[str, int]) -> dict[str, int]:
    """``{name}.{kind}`` for what was counted; zeros are left out."""
    return {f"{name}.{kind}": count for kind, count in table.items() if count}
