"""Waiting and asking, for programs that lead or command other nodes: each method spins one node until something has come.

What is asked for, and what follows from an answer, is theirs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

ANSWER_S = 20.0
"""How long a node may take to answer."""
AGAIN_S = 3.0
"""A node answers in vain while it has not discovered who asks; it is then asked again."""
TURN_S = 0.05
"""What has no event of its own (the graph) is looked at this often."""


class Refused(ValueError):
    """A node said no; the message says to what, and why."""


class Late(ValueError):
    """Nobody came, or nobody answered."""


class Caller:
    """Spins ``node`` in an executor of its own. Not for more than one thread."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self.node.destroy_node()

    def until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Spin until ``condition`` holds; whether it did within ``limit_s``."""
        deadline = time.monotonic() + limit_s
        while not condition():
            left_s = deadline - time.monotonic()
            if left_s <= 0.0:
                return False
            self._executor.spin_once(timeout_sec=min(TURN_S, left_s))
        return True

    def pause(self, seconds: float) -> None:
        """Spin for so long."""
        self.until(lambda: False, seconds)

    def ask(self, client: Any, request: Any, name: str, limit_s: float = ANSWER_S, again_s: float = AGAIN_S) -> Any:
        """The answer of the service ``name``; a request that may not be made twice has ``again_s`` inf. Raises ``Late``."""
        deadline = time.monotonic() + limit_s
        asked: list[Any] = []  # all of them: a busy node answers the first one late
        while time.monotonic() < deadline:
            asked.append(client.call_async(request))
            if self.until(lambda: any(future.done() for future in asked), min(again_s, deadline - time.monotonic())):
                return next(future for future in asked if future.done()).result()
        raise Late(f"the service {name} did not answer within {limit_s:.0f} s; look at its node's output.")


@contextmanager
def visitor(name: str, namespace: str) -> Iterator[Caller]:
    """A node of this process that only visits: it has no parameters, does not log over ROS, and leaves signals alone."""
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node(
        name, namespace=namespace, context=context, start_parameter_services=False, enable_rosout=False
    )
    caller = Caller(node)
    try:
        yield caller
    finally:
        caller.close()
        context.try_shutdown()
