"""Leads another node one step: configures it, activates it once somebody else is ready, or calls services; then ends.

What a bring-up's order is made of, in launch files and ``flow_policy bringup`` alike: its exit code says whether the next step may
come. 0 done, 1 not in time, 2 refused. It stays with nothing but a simulated robot, whose episodes it begins one after the other;
the node that it leads goes on by itself.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Log
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from flow_policy_ros.nodes.recorder_topics import message_class
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.caller import AGAIN_S, ANSWER_S, Caller, Late, Refused
from flow_policy_ros.ros.processes import end_with_parent
from flow_policy_ros.ros.steps import SIM_STATUS
from flow_policy_ros.runtime.status_names import own_name

LATE, REFUSED, ENDED = 1, 2, 130
ERROR = 40
"""The level, of ``rcl_interfaces/msg/Log``, whose constants are bytes in older distributions."""
START_S = 180.0
"""How long a node may take to appear, with other work on the machine."""
REASON_S = 1.0
LISTEN_S = 3.5
"""How long another robot's command node is listened for: an announcement that got lost comes again after 3 s."""
ANOTHER = (
    "another command node is running already in the name space '{space}'. End it, or give this robot a name space of its own."
)
FORGOTTEN_S = 25.0
"""For so long the middleware may still show a process that was killed (Fast DDS: 20 s)."""
SAY_S = 10.0
"""How often it is said what is being waited for."""
STEPS = {
    "configure": ("inactive", Transition.TRANSITION_CONFIGURE, "unconfigured"),
    "activate": ("active", Transition.TRANSITION_ACTIVATE, "inactive"),
}
"""What is led to: the state, the transition to it, the state that it begins in."""


UNTIL_WELL = "a command node without a fault, before the next episode ('flow_policy command status' says more)"

ANY = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
"""A reader that every publisher suits."""


class LeadNode(Node):
    """One step; the methods block and spin the node. They raise ``Refused`` and ``Late``."""

    def __init__(self) -> None:
        super().__init__("lead_node")
        self._caller = Caller(self)
        self._errors: list[Log] = []
        self._reports: dict[str, str] = {}
        self._faults: str | None = ""  # of the command node; None while it is not known
        self.create_subscription(Log, "/rosout", self._on_log, QoSProfile(depth=100))
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, ANY)

    def close(self) -> None:
        """Leave the graph."""
        self._caller.close()

    def lead(self, name: str, step: str) -> None:
        """Lead the managed node ``name`` of this name space through ``step``; one that is there already needs no leading."""
        goal, transition, begins = STEPS[step]
        path = self.resolve_service_name(name)
        get = self.create_client(GetState, f"{name}/get_state")
        change = self.create_client(ChangeState, f"{name}/change_state")
        self._await(lambda: get.service_is_ready() and change.service_is_ready(), f"the node {path} to appear", START_S)
        if step == "configure":
            self._refuse_doubles(path)
        # What is ready may be what is left of a dead one.
        self._caller.ask(get, GetState.Request(), f"{path}/get_state", START_S)
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            state = self._caller.ask(get, GetState.Request(), f"{path}/get_state").current_state.label
            if state == goal:
                self.get_logger().info(f"{path} is {goal}")
                return
            if state.endswith("ing"):  # on its way, or asked by us before
                self._caller.pause(0.1)
                continue
            if state != begins:
                raise Refused(f"{path} cannot {step}: it is {state}, expected {begins}. Is somebody else leading it, too?")
            if step == "activate":
                self._refuse_another(path)
            future = change.call_async(ChangeState.Request(transition=Transition(id=transition)))
            # An answer may get lost: the state tells as well.
            if self._caller.until(future.done, deadline - time.monotonic()) and not future.result().success:
                raise Refused(f"{path} refused to {step}: {self._reason(path)}")
        raise Late(f"{path} did not {step} within {ANSWER_S:.0f} s; look at its output.")

    def await_topic(self, topic: str) -> None:
        """Until a message has come on ``topic``, which somebody is to publish; however long that takes."""
        name = self.resolve_topic_name(topic)
        came: list[object] = []

        def published() -> list[str]:
            return [offered.topic_type for offered in self.get_publishers_info_by_topic(name)]

        self._await(lambda: bool(published()), f"somebody to publish {name}")
        self.create_subscription(message_class(published()[0]), name, came.append, ANY, raw=True)
        self._await(lambda: bool(came), f"the first message on {name}")

    def await_service(self, service: str) -> None:
        """Until somebody serves ``service``, a ``Trigger``; however long that takes."""
        client = self.create_client(Trigger, service)
        self._await(client.service_is_ready, f"the service {self.resolve_service_name(service)}")

    def call(self, services: Sequence[str]) -> None:
        """Call ``services``, each a ``Trigger``, one after the other once all are there; again when one refuses, for a robot in
        motion is stopped first."""
        for name, client in self._triggers(services):
            self.get_logger().info(f"{name}: {self._call(client, name)}")

    def episodes(self, services: Sequence[str]) -> None:
        """Call ``services``, and again each time that the simulated robot says ``done``; never returns.

        A fault is a person's to leave: while the command node has one, no further episode begins. Who does not answer, a node that
        is being started again, is waited for.
        """
        said: list[str] = []
        self.create_subscription(DiagnosticStatus, SIM_STATUS, lambda status: said.append(status.message), qos.LATCHED)
        triggers = self._triggers(services)
        count = 0
        while True:
            said.clear()
            try:
                answers = [f"{name}: {self._call(client, name, AGAIN_S)}" for name, client in triggers]
                count += 1
                self.get_logger().info(f"episode {count} since the start" if count > 1 else "; ".join(answers))
                self._caller.until(lambda: said[-1:] == ["done"], math.inf)
            except (Late, Refused) as problem:
                self.get_logger().warning(f"the next episode does not begin yet: {problem}")
                for _, client in triggers:
                    self.destroy_client(client)
                # Clients that knew a node that was killed may never get to know the one in its place.
                triggers = [(name, self.create_client(Trigger, name)) for name, _ in triggers]
            self._faults = None  # until it reports once more
            self._await(lambda: self._faults == "", UNTIL_WELL)

    def _triggers(self, services: Sequence[str]) -> list[tuple[str, Any]]:
        """Their full names and clients, once all are there."""
        found = {service: self.create_client(Trigger, service) for service in services}
        for service, client in found.items():
            self._await(client.service_is_ready, f"the service {self.resolve_service_name(service)}", START_S)
        self._caller.pause(REASON_S)  # or they answer in vain: they have to discover us as well
        return [(self.resolve_service_name(service), found[service]) for service in services]

    def _call(self, client: Any, name: str, again_s: float = math.inf) -> str:
        """What it says when it does not refuse. One that may be called twice has ``again_s``, the wait for an answer."""
        deadline = time.monotonic() + ANSWER_S
        while True:
            answer = self._caller.ask(client, Trigger.Request(), name, again_s=again_s)
            if answer.success:
                return str(answer.message)
            if time.monotonic() > deadline:
                raise Refused(f"the service {name} refused: {answer.message}")
            self._caller.pause(REASON_S)

    def _refuse_doubles(self, path: str) -> None:
        """A second command node on the same robot would send it to two places at once."""
        space, _, name = path.rpartition("/")
        sending = self.resolve_topic_name("command/executed")
        heard: list[object] = []
        listening = self.create_subscription(JointState, sending, heard.append, ANY)

        def doubled() -> bool:
            same = [n for n, s in self.get_node_names_and_namespaces() if n == name and s.rstrip("/") == space]
            return len(same) > 1 or self.count_publishers(sending) > 0

        self._caller.until(lambda: bool(heard), LISTEN_S)
        if not heard and doubled():
            self.get_logger().warning(f"another {path} is seen; if it has died, it is forgotten within {FORGOTTEN_S:.0f} s")
        alone = self._caller.until(lambda: bool(heard) or not doubled(), FORGOTTEN_S)
        if heard or not alone:
            raise Refused(ANOTHER.format(space=space or "/"))
        self.destroy_subscription(listening)

    def _refuse_another(self, path: str) -> None:
        """One that was not discovered then, or has come since: ours does not act yet, so that what is heard is another's."""
        heard: list[object] = []
        listening = self.create_subscription(JointState, self.resolve_topic_name("command/executed"), heard.append, ANY)
        if self._caller.until(lambda: bool(heard), REASON_S):
            raise Refused(ANOTHER.format(space=path.rpartition("/")[0] or "/"))
        self.destroy_subscription(listening)

    def _reason(self, path: str) -> str:
        """What the node logged as the reason; its log comes by another way than its answer, and maybe later."""
        logger = path.strip("/").replace("/", ".")

        def said() -> list[str]:
            return [log.msg for log in self._errors if log.name == logger]

        self._caller.until(lambda: bool(said()), REASON_S)
        return said()[-1] if said() else "it did not say why; look at its output."

    def _on_log(self, log: Log) -> None:
        if log.level >= ERROR:
            self._errors = [*self._errors, log][-10:]

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        own = {own_name(status.name, self.get_namespace()): status for status in message.status}
        self._reports |= {name: status.message for name, status in own.items()}
        if "command" in own:
            self._faults = next((pair.value for pair in own["command"].values if pair.key == "faults"), "")

    def _await(self, condition: Callable[[], bool], what: str, limit_s: float = float("inf")) -> None:
        since = time.monotonic()
        while not self._caller.until(condition, min(SAY_S, max(0.0, since + limit_s - time.monotonic()))):
            waited = time.monotonic() - since
            if waited >= limit_s:
                raise Late(f"waited {waited:.0f} s for {what}.")
            reports = {name: self._reports[name] for name in ("policy", "perception") if name in self._reports}
            said = "".join(f"; the {name} says: {message}" for name, message in reports.items())
            self.get_logger().warning(f"waiting for {what} since {waited:.0f} s{said}")


def main(args: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    given = remove_ros_args(sys.argv if args is None else ["lead_node", *args])[1:]
    parser = argparse.ArgumentParser(prog="lead_node", description="Lead another node one step, then end.")
    steps = parser.add_subparsers(dest="step", required=True)
    for step in STEPS:
        one = steps.add_parser(step, help=f"{step} a managed node")
        one.add_argument("target", help="name of the node, in the same name space")
        one.add_argument("--topic", help="first wait for a message on this topic")
        one.add_argument("--service", help="first wait for this service")
    calls = steps.add_parser("call", help="call services of type std_srvs/srv/Trigger")
    calls.add_argument("targets", nargs="+", help="names of the services, one called after the other")
    calls.add_argument("--episodes", action="store_true", help="call them again each time that the simulated episode is over")
    wanted = parser.parse_args(given)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_with_parent()
    rclpy.init(args=args)
    node = LeadNode()
    try:
        if wanted.step == "call" and wanted.episodes:
            node.episodes(wanted.targets)
        if wanted.step == "call":
            node.call(wanted.targets)
            return 0
        if wanted.topic:
            node.await_topic(wanted.topic)
        if wanted.service:
            node.await_service(wanted.service)
        node.lead(wanted.target, wanted.step)
        return 0
    except (KeyboardInterrupt, ExternalShutdownException):
        return ENDED
    except (Refused, Late) as problem:
        node.get_logger().error(str(problem))
        return REFUSED if isinstance(problem, Refused) else LATE
    finally:
        node.close()
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
