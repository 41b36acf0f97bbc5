"""Messages as bytes: subscribing to them, and reading one. What it says is judged by ``ros.messages`` and ``ros.images``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription

from flow_policy_ros.ros.messages import MessageError

AT_ONCE = 100
TELLS_INFO = hasattr(Subscription, "CallbackType")
"""Whether rclpy hands a message's information to the callback (from Iron on); without it losses cannot be counted."""


def subscribe(node: Node, kind: type, topic: str, reader: QoSProfile, give: Callable[[bytes, Any], None]) -> Any:
    """Each message on ``topic`` goes to ``give``, with what the middleware tells of it (None where it tells nothing).

    Needs an executor of rclpy's own: EventsExecutor fails at callbacks that want a message's information.
    """

    def take(data: bytes, info: Any = None) -> None:
        give(data, info)
        for _ in range(AT_ONCE):  # what waits behind it costs no further turn of the executor
            with subscription.handle:
                more = subscription.handle.take_message(kind, True)
            if more is None:
                return
            give(*more)

    callback = (lambda data, info: take(data, info)) if TELLS_INFO else (lambda data: take(data))
    subscription: Any = node.create_subscription(kind, topic, callback, reader, raw=True)
    return subscription


def opened(data: bytes, kind: Any) -> Any:
    """The message of class ``kind`` in ``data``. Raises ``MessageError`` when it holds none: bytes come as somebody wrote them."""
    try:
        return deserialize_message(data, kind)
    except Exception as error:  # rmw's own, of no common kind
        raise MessageError(f"message of {len(data)} bytes is no {kind.__name__}: {error}.") from error
