"""Parameters of nodes that run, read and changed through their services, as ``ros2 param`` does.

What a node makes of a change is the node's affair; files are ``runtime.parameter_file``'s.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import rclpy
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterDescriptor, ParameterValue
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParametersAtomically
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.task import Future

SETTLED_S = 1.0
"""Nodes are looked for until no new one has come for this long."""
LATE_S = 3.5
"""The same where nobody can say which nodes there are: one whose first announcements were lost repeats them after 3 s."""
AGAIN_S = 1.5
"""A node answers in vain while it has not discovered this process; it is then asked again."""
TURN_S = 0.05
AT_START = "at start only"
LIST = "/list_parameters"
LIST_TYPE = "rcl_interfaces/srv/ListParameters"


class ParameterClientError(ValueError):
    """A node that is not there, is there twice, or does not answer; the message names it and the remedy."""


@dataclass(frozen=True)
class LiveParameter:
    """A node's parameter as it is now. ``bounds`` are inclusive; ``constraints`` are the node's words: choices, why read-only."""

    name: str
    value: Any
    description: str = ""
    read_only: bool = False
    bounds: tuple[float, float] | None = None
    constraints: str = ""


@dataclass(frozen=True)
class Change:
    """What came of a change: ``done`` are old and new values by node and name; ``refusal`` why there is none, "" if there was."""

    done: Mapping[str, Mapping[str, tuple[Any, Any]]]
    refusal: str = ""


class ParameterClient:
    """A node of this process that asks others; a context manager. Domain and discovery are the environment's.

    ``patience_s`` is how long a node may take to be found or to answer. Not for more than one thread.
    """

    def __init__(self, patience_s: float = 5.0) -> None:
        self._patience_s = patience_s
        self._clients: dict[tuple[str, str], Client[Any, Any]] = {}

    def __enter__(self) -> ParameterClient:
        self._context = Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node(
            "flow_policy_params", context=self._context, start_parameter_services=False, enable_rosout=False
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        return self

    def __exit__(self, *exception: object) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def nodes(self, enough: Callable[[tuple[str, ...]], bool] = bool, settled_s: float | None = None) -> tuple[str, ...]:
        """Full names of the nodes whose parameters can be read. Waits until they are ``enough`` and no more have come for
        ``settled_s`` (by default ``SETTLED_S``); a node that has been heard of and does not offer its parameters yet counts."""
        settled = SETTLED_S if settled_s is None else settled_s
        deadline, since = time.monotonic() + self._patience_s, time.monotonic()
        found, heard = self._alive(), self._node.get_node_names_and_namespaces()
        while time.monotonic() < deadline and not (enough(found) and time.monotonic() - since > settled):
            self._executor.spin_once(timeout_sec=TURN_S)
            now, names = self._alive(), self._node.get_node_names_and_namespaces()
            if (now, names) != (found, heard):
                found, heard, since = now, names, time.monotonic()
        return found

    def named(self, name: str) -> str:
        """The full name of the node that ``name`` means: the full name itself, or its end where that is one node's only.

        Raises ``ParameterClientError`` for none, for several, and for a name that two nodes have.
        """
        found = self.nodes(lambda alive: any(_ends_with(node, name) for node in alive))
        meant = [node for node in found if node == name] or [node for node in found if _ends_with(node, name)]
        if not meant:
            raise ParameterClientError(
                f"no node '{name}' was found within {self._patience_s:g} s; there are {', '.join(found) or 'none'}. Start it, or "
                "check ROS_DOMAIN_ID (here and where it runs) and the network."
            )
        if len(meant) > 1:
            raise ParameterClientError(f"'{name}' may be {' or '.join(meant)}; give the full name.")
        self.require_alone(meant)
        return meant[0]

    def require_alone(self, nodes: Iterable[str]) -> None:
        """Raises ``ParameterClientError`` where two nodes have the same name: each of them would answer, and be changed."""
        count = Counter(f"{space.rstrip('/')}/{name}" for name, space in self._node.get_node_names_and_namespaces())
        for node in nodes:
            if count[node] > 1:
                raise ParameterClientError(f"{count[node]} nodes are called '{node}'; end all but one, or give them name spaces.")

    def parameters(self, node: str) -> dict[str, LiveParameter]:
        """Of the node with this full name, by name in alphabetical order. Raises ``ParameterClientError`` when it is silent."""
        listed = self._call(node, "list_parameters", ListParameters, ListParameters.Request())
        names = sorted(listed.result.names)
        asked = DescribeParameters.Request(names=names)
        described = self._call(node, "describe_parameters", DescribeParameters, asked).descriptors
        values = self._call(node, "get_parameters", GetParameters, GetParameters.Request(names=names)).values
        if not len(names) == len(described) == len(values):  # one without a value, for which rclpy gives none of them
            raise ParameterClientError(f"node '{node}' does not tell its parameters; one of them may have no value yet.")
        return {
            name: _live(name, value, descriptor)
            for name, value, descriptor in zip(names, values, described, strict=True)
        }

    def set(self, node: str, values: Mapping[str, Any]) -> str:
        """Set all of ``values`` of one node, or none; why not, "" when they were. Raises ``ParameterClientError`` when it is
        silent, and ``ValueError`` for a value of no ROS type."""
        try:
            given = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        except (TypeError, AssertionError) as error:
            raise ValueError(f"ROS has no such type for a parameter's value ({error}); give a number, text or list.") from error
        request = SetParametersAtomically.Request(parameters=given)
        result = self._call(node, "set_parameters_atomically", SetParametersAtomically, request).result
        return "" if result.successful else result.reason or "the node gave no reason."

    def _alive(self) -> tuple[str, ...]:
        services = self._node.get_service_names_and_types()
        return tuple(sorted(name[: -len(LIST)] for name, types in services if name.endswith(LIST) and LIST_TYPE in types))

    def _call(self, node: str, service: str, kind: type, request: Any) -> Any:
        client = self._clients.get((node, service))
        if client is None:
            client = self._clients[node, service] = self._node.create_client(kind, f"{node}/{service}")
        deadline, again = time.monotonic() + self._patience_s, 0.0
        asked: list[Future[Any]] = []  # all of them: a busy node answers the first one late
        while time.monotonic() < deadline:
            if client.service_is_ready() and time.monotonic() >= again:
                asked.append(client.call_async(request))
                again = time.monotonic() + AGAIN_S
            self._executor.spin_once(timeout_sec=TURN_S)
            answered = next((future for future in asked if future.done()), None)
            if answered is not None:
                return answered.result()
        raise ParameterClientError(
            f"node '{node}' did not answer {service} within {self._patience_s:g} s. It may be busy or dead; look at its output, or "
            "wait longer with --wait."
        )


def change(
    client: ParameterClient, wanted: Mapping[str, Mapping[str, Any]], live: Mapping[str, Mapping[str, LiveParameter]]
) -> Change:
    """Set what is ``wanted`` of each node, all of it or nothing.

    A node takes its own all or none. When a later one refuses, those before get their ``live`` values back. Read-only parameters
    that have the value already are passed over, others refused before anything is set.
    """
    fixed = [
        f"{node}: {name} is {live[node][name].value!r} and would be {value!r}, but is set {_why(live[node][name])}"
        for node, values in wanted.items()
        for name, value in values.items()
        if live[node][name].read_only and not same(value, live[node][name].value)
    ]
    if fixed:
        return Change({}, f"{' '.join(fixed)} Restart with the value, for instance in a file given with --params-file.")
    asked = {n: {k: v for k, v in values.items() if not live[n][k].read_only} for n, values in wanted.items()}
    asked = {node: values for node, values in asked.items() if values}
    done: dict[str, dict[str, Any]] = {}
    for node, values in asked.items():
        try:
            refusal = client.set(node, values)
        except ParameterClientError as error:
            refusal = f"{error} Whether it has taken the values is not known"
        if refusal:
            taken_back = [_take_back(client, other, live[other], done[other]) for other in reversed(done)]
            return Change({}, " ".join([f"{node}: {refusal}", *filter(None, taken_back)]))
        done[node] = dict(values)
    return Change({n: {k: (live[n][k].value, v) for k, v in values.items()} for n, values in done.items()})


def _take_back(client: ParameterClient, node: str, live: Mapping[str, LiveParameter], values: Mapping[str, Any]) -> str:
    try:
        refusal = client.set(node, {name: live[name].value for name in values})
    except ParameterClientError as error:
        refusal = str(error)
    return f"{node} had taken its own and does not take the old ones back: {refusal}" if refusal else ""


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same to a node: 10 and 10.0 are, 1 and true are not."""
    return bool(one == other) and (type(one) is type(other) or {type(one), type(other)} == {int, float})


def _why(parameter: LiveParameter) -> str:
    """Our nodes say why; others' may not."""
    _, marked, why = parameter.constraints.partition(AT_START)
    return f"{AT_START}{why}" if marked else f"{AT_START}."


def _live(name: str, told: ParameterValue, descriptor: ParameterDescriptor) -> LiveParameter:
    value = Parameter.from_parameter_msg(ParameterMessage(name=name, value=told)).value
    ranges = [*descriptor.floating_point_range, *descriptor.integer_range]
    bounds = (ranges[0].from_value, ranges[0].to_value) if ranges else None
    plain = list(value) if hasattr(value, "tolist") or isinstance(value, (tuple, bytes)) else value
    return LiveParameter(name, plain, descriptor.description, descriptor.read_only, bounds, descriptor.additional_constraints)


def _ends_with(node: str, name: str) -> bool:
    return node == name or node.endswith(f"/{name.strip('/')}")
