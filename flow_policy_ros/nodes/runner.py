"""How every node's process begins and ends: start, spin, stop on a signal, refuse bad input in one paragraph.

No node's behaviour is in here.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from flow_policy_ros.ros.processes import end_with_parent

REFUSED = 2
BUG = 70
"""Exit code when the node itself failed while it was being built."""
FINISH_S = 10.0
"""Who started the process may lose patience soon after."""
LINGER_S = 0.1
"""For what was published last, such as the end of a stop, to be delivered: it is lost with its publisher."""
STEADY = Clock(clock_type=ClockType.STEADY_TIME)
"""For timers: a period is wall time, also when the node's own clock is a simulated one or is set."""


class ClosableNode(Node):
    """What ``run`` runs. ``close`` ends what the node started: threads, graphics contexts."""

    def finished(self) -> bool:
        """Asked again and again after a signal, while the node is still being spun, for ``FINISH_S`` at most: whether the
        process may end. True by default."""
        return True

    def close(self) -> None:
        """Nothing by default."""


def run(
    build: Callable[[], ClosableNode],
    args: list[str] | None,
    *refusals: type[Exception],
    executor_for: Callable[[], Executor] | None = None,
) -> int:
    """Build the node, spin it until SIGINT or SIGTERM and until it has finished; returns the exit code. A second signal ends
    it at once.

    A ``ValueError`` or one of ``refusals`` while building is bad input: its text goes to standard error and the exit code
    is 2. After any other error the exit code is 70, and FLOW_POLICY_DEBUG=1 shows the traceback. ``executor_for`` makes another
    executor than ``make_executor``.
    """
    stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stop.append(number))
    end_with_parent()
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # rcl's error classes are not public
        return _refuse(f"the ROS arguments cannot be used: {error}")
    try:
        node = build()
    except Exception as error:
        rclpy.try_shutdown()
        if os.environ.get("FLOW_POLICY_DEBUG"):
            traceback.print_exc()
        if isinstance(error, (ValueError, ParameterException, NameValidationException, *refusals)):
            return _refuse(str(error))
        _refuse(
            f"{type(error).__name__}: {error}. The node could not be started; run it again with FLOW_POLICY_DEBUG=1 for "
            "the traceback to report."
        )
        return BUG
    executor = (executor_for or make_executor)()
    executor.add_node(node)
    try:
        while not stop and rclpy.ok():
            executor.spin_once(timeout_sec=0.2)  # returns after each event; EventsExecutor.spin() can hang
        deadline = time.monotonic() + FINISH_S
        while len(stop) == 1 and rclpy.ok() and not node.finished() and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.02)
        if time.monotonic() >= deadline:
            node.get_logger().error(f"not finished within {FINISH_S:.0f} s after the signal; ended all the same.")
        linger = time.monotonic() + LINGER_S
        while len(stop) == 1 and rclpy.ok() and time.monotonic() < linger:
            executor.spin_once(timeout_sec=0.02)
    except ExternalShutdownException:
        pass
    finally:
        node.close()
        executor.remove_node(node)
        node.destroy_node()
        executor.shutdown()
        rclpy.try_shutdown()
    return 0


def make_executor() -> Executor:
    """The executor with the lowest period error; older distributions have only the ordinary one."""
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor()
    return EventsExecutor()


def _refuse(text: str) -> int:
    print(" ".join(text.split()), file=sys.stderr)
    return REFUSED
