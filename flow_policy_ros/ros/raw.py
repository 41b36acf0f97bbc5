"""Reading a message that came as bytes. What it says is judged by ``ros.messages`` and ``ros.images``."""

from __future__ import annotations

from typing import Any

from rclpy.serialization import deserialize_message

from flow_policy_ros.ros.messages import MessageError


def opened(data: bytes, kind: Any) -> Any:
    """The message of class ``kind`` in ``data``. Raises ``MessageError`` when it holds none: bytes come as somebody wrote them."""
    try:
        return deserialize_message(data, kind)
    except Exception as error:  # rmw's own, of no common kind
        raise MessageError(f"message of {len(data)} bytes is no {kind.__name__}: {error}.") from error
