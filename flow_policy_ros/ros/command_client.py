"""Orders to a command node that runs, through its services, and what it says of itself, for a program in a person's hand.

The emergency stop, which waits for nobody, is ``emergency``'s. What an order does to the motion is the node's affair.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from std_srvs.srv import SetBool, Trigger

from flow_policy_ros.ros.caller import AGAIN_S, Caller, Late
from flow_policy_ros.ros.emergency import NODE, absolute
from flow_policy_ros.ros.said import CommandSaid, listen

SAY_S = 2.0
"""How often it is said that the node is being waited for."""
MET_S = 0.3
"""For the node to discover who asks: its answer would be lost, and what lets a robot move is not asked for twice."""


@dataclass(frozen=True)
class Order:
    """A request to a service. What ``stops`` may be said twice; the others might undo what somebody has ordered in between."""

    service: str
    kind: type
    request: Any
    stops: bool


ORDERS: dict[str, Order] = {
    "hold": Order("command/hold", Trigger, Trigger.Request(), stops=True),
    "disable": Order("command/enable", SetBool, SetBool.Request(data=False), stops=True),
    "enable": Order("command/enable", SetBool, SetBool.Request(data=True), stops=False),
    "reset": Order("command/reset", Trigger, Trigger.Request(), stops=False),
}


@dataclass(frozen=True)
class Answer:
    """Of ``node`` (full name): whether it ``accepted``, in its words; ``found_s`` until it was found, ``seconds`` in all."""

    node: str
    accepted: bool
    message: str
    found_s: float
    seconds: float


class CommandClient:
    """Speaks with the command node of ``namespace`` ("/" for none) through ``caller``, for ``patience_s`` at most.

    ``tell`` is given a line now and then while the node is being waited for. Methods raise ``Late``.
    """

    def __init__(self, caller: Caller, namespace: str, patience_s: float, tell: Callable[[str], None]) -> None:
        self.node = absolute(namespace, NODE)
        self._caller = caller
        self._space = namespace
        self._patience_s = patience_s
        self._tell = tell

    def order(self, name: str) -> Answer:
        """Give one of ``ORDERS``."""
        order, begun = ORDERS[name], time.monotonic()
        client = self._caller.node.create_client(order.kind, order.service)
        self._await(client.service_is_ready, begun)
        found_s = time.monotonic() - begun
        self._caller.pause(MET_S)
        limit_s = max(self._patience_s, AGAIN_S)
        try:
            again_s = AGAIN_S if order.stops else math.inf
            answer = self._caller.ask(client, order.request, client.srv_name, limit_s, again_s)
        except Late as late:
            raise Late(
                f"{self.node} is there and did not answer {order.service} within {limit_s:g} s; whether it has obeyed is not "
                "known. Look with 'flow_policy command status'; if the robot has to stand, use its own emergency stop."
            ) from late
        return Answer(self.node, bool(answer.success), str(answer.message), found_s, time.monotonic() - begun)

    def status(self) -> CommandSaid:
        """The first that it says."""
        begun, heard = time.monotonic(), list[CommandSaid]()

        def take(said: CommandSaid) -> None:
            if said.namespace == self._space:
                heard.append(said)

        kept = [listen(self._caller.node, space, take) for space in dict.fromkeys(("/", self._space))]
        self._await(lambda: bool(heard), begun)
        del kept
        return heard[0]

    def _await(self, condition: Callable[[], bool], begun: float) -> None:
        deadline = begun + self._patience_s
        while not self._caller.until(condition, min(SAY_S, max(0.0, deadline - time.monotonic()))):
            waited = time.monotonic() - begun
            if waited >= self._patience_s:
                raise Late(f"waited {waited:.1f} s for {self.node}: {self._absence()}")
            self._tell(f"waiting for {self.node} since {waited:.0f} s")

    def _absence(self) -> str:
        """What there is in its place, and what to do."""
        found = sorted({space for name, space in self._caller.node.get_node_names_and_namespaces() if name == NODE})
        if any(absolute(space, NODE) == self.node for space in found):
            return (
                "it is there and says nothing. It is not configured yet (a bring-up does that; else 'ros2 lifecycle set' "
                "configure), stopped, or busy; look at its output."
            )
        if found:
            options = " or ".join(f"--namespace {space.strip('/')}" if space != "/" else "no --namespace" for space in found)
            return f"it is not there; there is {' and '.join(absolute(space, NODE) for space in found)}: give {options}."
        return (
            "no command node was found. Start it; if it runs, this terminal has another ROS_DOMAIN_ID, middleware or discovery "
            "range."
        )
