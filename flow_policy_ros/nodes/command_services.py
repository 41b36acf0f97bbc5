"""What people and programs may ask of the command node: reset, hold, enable. What they do to the motion is the loop's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

from flow_policy_ros.safety.command_loop import CommandLoop


class CommandServices:
    """``command/reset`` drops faults and starts anew at the measured position; a robot in motion is stopped first, and the call
    is to be repeated. ``command/hold`` stops the robot and holds it; ``command/enable`` with true lets it follow the chunks that
    come from then on, with false it is ``command/hold``.
    """

    def __init__(self, node: Node, loop: CommandLoop, reset: Callable[[], str | None], active: Callable[[], bool]) -> None:
        """``reset`` gives the reason for a refusal, ``active`` whether the node is."""
        self._logger = node.get_logger()
        self._loop = loop
        self._reset = reset
        self._active = active
        self._waiting = False
        node.create_service(Trigger, "command/reset", self._on_reset)
        node.create_service(Trigger, "command/hold", self._on_hold)
        node.create_service(SetBool, "command/enable", self._on_enable)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        refusal = self._reset()
        waited, self._waiting = self._waiting, refusal is not None and not self._loop.emergency
        if self._waiting:  # for the robot to stand, as whoever begins an episode does: no alarm, and said once
            if not waited:
                self._logger.info(f"command/reset: not yet: {refusal}")
            response.success, response.message = False, refusal
            return response
        done = "reset; starts at the next fresh joint state"
        if not self._loop.enabled:
            done = "reset; the hold stays: call command/enable to start at the next fresh joint state"
        response.success, response.message = refusal is None, refusal or done
        return self._logged("command/reset", response)

    def _on_hold(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._loop.hold()
        response.success, response.message = True, "stops and holds, until command/enable"
        return self._logged("command/hold", response)

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        faults = ", ".join(fault.name for fault in self._loop.faults)
        if not request.data:
            self._loop.hold()
            response.success, response.message = True, "stops and holds, until it is enabled"
        elif not self._active():
            response.success, response.message = False, "the node is not active; activate it first."
        elif faults:
            response.success, response.message = False, f"a fault is latched: {faults}. Call command/reset first."
        else:
            self._loop.enable()
            response.success, response.message = True, "follows the chunks that come from now on"
        return self._logged("command/enable", response)

    def _logged(self, service: str, response: Any) -> Any:
        """The answer, after a line in the log: who looks for why a robot moved, or did not, finds what it was told."""
        if response.success:  # two calls: rclpy raises when one place in the code logs at two levels
            self._logger.info(f"{service}: {response.message}")
        else:
            self._logger.warning(f"{service}: refused: {response.message}")
        return response
