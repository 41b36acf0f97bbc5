"""A node with ROS 2's managed life cycle, which can also lead itself: refusals in words, entities of a configuration released.

What is configured and activated is up to the node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.action import ActionClient
from rclpy.lifecycle.node import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn

from flow_policy_ros.nodes.runner import ClosableNode

DONE, REFUSED, FAILED = (
    TransitionCallbackReturn.SUCCESS,
    TransitionCallbackReturn.FAILURE,
    TransitionCallbackReturn.ERROR,
)


class ManagedNode(LifecycleNodeMixin, ClosableNode):
    """Transitions call ``configure``, ``activate``, ``deactivate`` and ``cleanup``, in which a ``ValueError`` is a refusal.

    With the parameter ``managed`` (default false) the node waits for a lifecycle manager; else ``lead`` configures and
    activates it. A refused transition leaves the state as it was; after any other error the node is unconfigured.
    """

    def __init__(self, name: str) -> None:
        ClosableNode.__init__(self, name)  # type: ignore[call-arg]  # mypy does not read rclpy
        LifecycleNodeMixin.__init__(self)
        text = "Wait for a lifecycle manager (or 'ros2 lifecycle set') instead of configuring and activating at start."
        descriptor = ParameterDescriptor(description=text, read_only=True)
        self._managed = bool(self.declare_parameter("managed", False, descriptor).value)
        self._problem: Exception | None = None
        self._permanent = self._entities()

    def lead(self) -> None:
        """Configure and activate, unless somebody else is to. Raises what stood against it."""
        if self._managed:
            return
        for transition in (self.trigger_configure, self.trigger_activate):
            if transition() != DONE:
                assert self._problem is not None
                raise self._problem

    def configure(self) -> None:
        """Read files and build everything; nothing is sent yet. What a failure leaves half built is released."""
        raise NotImplementedError

    def activate(self) -> None:
        """Begin to act."""
        raise NotImplementedError

    def deactivate(self) -> None:
        """Cease to act, also after a failure."""
        raise NotImplementedError

    def cleanup(self) -> None:
        """Give up what ``configure`` built other than ROS entities, also after a failure in it."""
        raise NotImplementedError

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Transition to inactive."""
        result = self._attempt("configured", self.configure)
        if result != DONE:
            self._release()
        return result

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Transition to active."""
        return self._attempt("activated", self.activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Transition to inactive."""
        return self._attempt("deactivated", self.deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Transition to unconfigured."""
        return self._attempt("cleaned up", self._release)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Transition to finalized. What has to be brought to an end goes on; the process ends with a signal."""
        return self._attempt("shut down", self.deactivate)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After an error in a transition: to unconfigured, or to finalized with a robot that is still being stopped."""
        self._attempt("stopped", self.deactivate)
        return self._attempt("released", self._release)

    def _attempt(self, what: str, step: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            step()
        except ValueError as error:
            self._problem = error
            if self._managed:
                self.get_logger().error(f"not {what}: {error}")
            return REFUSED
        except Exception as error:  # rclpy would drop it without a word
            self._problem = error
            self.get_logger().error(f"not {what}: {type(error).__name__}: {error}")
            return FAILED
        self._problem = None
        self.get_logger().info(what)
        return DONE

    def _release(self) -> None:
        self.cleanup()
        kinds = {
            "publishers": self.destroy_publisher,
            "subscriptions": self.destroy_subscription,
            "services": self.destroy_service,
            "clients": self.destroy_client,
            "timers": self.destroy_timer,
        }
        for kind, destroy in kinds.items():
            for entity in [e for e in getattr(self, kind) if id(e) not in self._permanent]:
                destroy(entity)
        for client in [w for w in self.waitables if isinstance(w, ActionClient)]:
            client.destroy()

    def _entities(self) -> set[int]:
        lists: tuple[Any, ...] = (self.publishers, self.subscriptions, self.services, self.clients, self.timers)
        return {id(entity) for entities in lists for entity in entities}
