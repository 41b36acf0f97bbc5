"""What each node may say and hear under SROS 2, made of the same table as the reference page, and of that of a bring-up's steps;
as the policy file that ``ros2 security`` reads.

Data alone: nothing of ROS is imported, keys and signatures are ``ros2 security``'s. Names are absolute, so that a profile does not
depend on where it is used. What of the table cannot be told from robot file, checkpoint and parameters counts as present: a
profile may allow a topic that is not used, and never lacks one that is.

Source of the format: the schema ``policy.xsd`` (version 0.2.0) and the templates of https://github.com/ros2/sros2.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from flow_policy_ros.ros import interfaces
from flow_policy_ros.ros.enclaves import PREFIX, enclave_of
from flow_policy_ros.ros.interfaces import NODES, Interface
from flow_policy_ros.ros.steps import BEGIN, STEPS
from flow_policy_ros.runtime.contract import FRAMES, SAID, Contract
from flow_policy_ros.runtime.parameters import BLOCKS, from_flat
from flow_policy_ros.runtime.robot import Camera, Robot
from flow_policy_ros.runtime.stream_cameras import cameras_of

VERSION = "0.2.0"
"""Of the policy file's format."""
SIMULATED = ("sim_node", "player_node", BEGIN)
"""Nodes that have no place beside a real robot: those that take the place of one, and the step that begins their episode."""
OPERATOR, VIEWER = "operator", "viewer"
"""Profiles of no node: for whoever gives orders (services, parameters, emergency stop), and for whoever only looks."""
BY_HAND = ("command/emergency_stop", "command/deadman", "instruction")
"""Topics on which people, or their switches, speak to the nodes."""
LISTENERS = ("recorder_node", "flight_recorder_node")
"""Nodes that hear every topic that is asked of them."""
EVERYTHING = "/*"
DIAGNOSTICS = "/diagnostics"

_PARAMETERS = ("describe_parameters", "get_parameter_types", "get_parameters", "list_parameters")
_SETTING = ("set_parameters", "set_parameters_atomically")
_LIFECYCLE = ("get_state", "get_available_states", "get_available_transitions", "get_transition_graph")
_LEADING = ("change_state",)
_ALL = ("get_type_description",)  # since Jazzy
_PLACE = re.compile(r"{(\w+)}")


@dataclass(frozen=True)
class Deployment:
    """What is to run: ``blocks`` are the nodes' parameters by prefix, ``namespace`` begins with a slash and is "/" for none."""

    robot: Robot
    contract: Contract
    blocks: Mapping[str, Any]
    namespace: str = "/"


@dataclass(frozen=True)
class Profile:
    """Absolute names that a node may use: topics, services that it ``serves`` and ``requests``, actions that it ``calls``."""

    node: str
    namespace: str
    publishes: frozenset[str] = frozenset()
    subscribes: frozenset[str] = frozenset()
    serves: frozenset[str] = frozenset()
    requests: frozenset[str] = frozenset()
    calls: frozenset[str] = frozenset()

    @property
    def enclave(self) -> str:
        """Path of the enclave that holds it alone."""
        return enclave_of(PREFIX, self.namespace, self.node)


def deployment(robot: Robot, contract: Contract, settings: Mapping[str, Any] | None = None, namespace: str = "/") -> Deployment:
    """With the robot file's parameters, and flat ``settings`` (``command.deadman``) before them.

    Raises ``ParameterError`` for a setting that no node takes, ``ValueError`` for a name space that is none.
    """
    if not re.fullmatch(r"/|(/[A-Za-z_]\w*)+", namespace):
        raise ValueError(f"the name space is '{namespace}', expected a name such as /left; leave it out for none.")
    flat = {**robot.parameters, **(settings or {})}
    return Deployment(robot, contract, {name: from_flat(cls, name, flat) for name, cls in BLOCKS.items()}, namespace)


def profiles(plan: Deployment, nodes: Iterable[str] | None = None) -> tuple[Profile, ...]:
    """One for each of ``nodes`` and steps (by default all that have a place beside a real robot), the operator's and the viewer's.

    Raises ``ValueError`` for a node that there is not.
    """
    chosen = tuple(nodes) if nodes is not None else default_nodes(plan)
    strangers = [name for name in chosen if name not in (*NODES, *STEPS)]
    if strangers:
        raise ValueError(f"there is no node {', '.join(strangers)}; the nodes are {', '.join((*NODES, *STEPS))}.")
    made = tuple(_profile(plan, name) for name in chosen)
    return (*made, _operator(plan, made), _viewer(plan, made))


def default_nodes(plan: Deployment) -> tuple[str, ...]:
    """All but those that stand for a robot, and without a camera all but those that look."""
    blind = () if plan.robot.cameras else ("perception_node",)
    return tuple(name for name in (*NODES, *STEPS) if name not in (*SIMULATED, *blind))


def others(plan: Deployment, made: Iterable[Profile]) -> dict[str, set[str]]:
    """What the robot's own nodes (controllers, drivers) must be allowed besides: ``publish``, ``subscribe``, ``execute``."""
    made = tuple(made)
    said = set().union(*(profile.publishes for profile in made))
    heard = set().union(*(profile.subscribes for profile in made)) - {EVERYTHING, "/clock"}
    called = set().union(*(profile.calls for profile in made))
    if plan.blocks["command"].dry_run:  # what the command node does not say there is nobody else's to say
        heard -= {absolute(plan.robot.command_topic, plan.namespace)}
    return {
        "publish": heard - said,
        "subscribe": {absolute(plan.robot.command_topic, plan.namespace)} & said,
        "execute": called,
    }


def policy_xml(made: Iterable[Profile], comment: str) -> str:
    """The policy file, an enclave for each profile. ``comment`` stands at its head; two dashes cannot be in it."""
    root = ElementTree.Element("policy", version=VERSION)
    root.append(ElementTree.Comment(f" {comment.replace('--', '- ')} "))
    enclaves = ElementTree.SubElement(root, "enclaves")
    for one in made:
        inner = ElementTree.SubElement(ElementTree.SubElement(enclaves, "enclave", path=one.enclave), "profiles")
        profile = ElementTree.SubElement(inner, "profile", ns=one.namespace, node=one.node)
        for kind, right, names in (
            ("topic", "publish", one.publishes),
            ("topic", "subscribe", one.subscribes),
            ("service", "reply", one.serves),
            ("service", "request", one.requests),
            ("action", "call", one.calls),
        ):
            if names:
                group = ElementTree.SubElement(profile, f"{kind}s", {right: "ALLOW"})
                for name in sorted(names):
                    ElementTree.SubElement(group, kind).text = name
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def places(plan: Deployment) -> dict[str, tuple[str, ...]]:
    """What the names in braces of the table stand for, relative as in robot file and checkpoint: a name for each key of
    ``interfaces.PLACES``."""
    robot, perception, player = plan.robot, plan.blocks["perception"], plan.blocks["player"]
    first = robot.cameras[0].name if robot.cameras else ""
    named = perception.cameras.replace(",", " ").split() or [first]
    looked_at = [camera for camera in robot.cameras if camera.name in named]
    endings = ["" if camera.name == first else f"_{camera.name}" for camera in looked_at]
    seen = cameras_of(plan.contract, robot)  # also those under which attention is drawn
    features = [stream.name for stream in plan.contract.streams if stream.kind not in (*SAID, FRAMES)]
    depths = [camera.depth for camera in looked_at if camera.depth is not None]
    return {
        "joint_state_topic": (robot.joint_state_topic,),
        "command_topic": (robot.command_topic,),
        "camera": tuple(camera.topic for camera in robot.cameras[:1]),
        "camera_info": tuple(_beside(camera) for camera in robot.cameras[:1]),
        "look": tuple(dict.fromkeys(camera.topic for camera in seen.values())),
        "stream": tuple(dict.fromkeys([*features, *player.features.split()])),
        "looked_at": tuple(camera.topic for camera in looked_at),
        "depth": tuple(depth.topic for depth in depths),
        "depth_info": tuple(depth.camera_info for depth in depths),
        "perceived": tuple(f"{perception.extractor}{ending}" for ending in endings),
        "points": tuple(f"points{ending}" for ending in endings),
        "overlay": tuple(f"overlay{ending}" for ending in endings),
    }


def present(plan: Deployment, row: Interface) -> bool:
    """Whether the node has this row of the table here; also where that cannot be told. What commands the robot is not there in a
    dry run, so that security enforces it."""
    if row.name == "{command_topic}" and row.role != "subscribes" and plan.blocks["command"].dry_run:
        return False
    return not row.when or any(_holds(plan, condition) for condition in row.when)


def absolute(name: str, namespace: str) -> str:
    """A topic's or service's name in a name space."""
    return name if name.startswith("/") else f"{namespace.rstrip('/')}/{name}"


def _profile(plan: Deployment, node: str) -> Profile:
    where, managed = places(plan), node in NODES and "managed" in NODES[node].parameters
    rights: dict[str, set[str]] = {role: set() for role in ("publishes", "subscribes", "serves", "requests", "calls")}
    for row in NODES[node].interfaces if node in NODES else STEPS[node]:
        if not present(plan, row):
            continue
        place = _PLACE.search(row.name)
        names = [row.name] if place is None else [row.name.replace(place[0], value) for value in where[place[1]]]
        rights[row.role] |= {absolute(name, plan.namespace) for name in names}
        if "policy/attention" in names:  # one more for each further stream that is drawn on
            rights["publishes"] |= {absolute(f"{row.name}_{s.name}", plan.namespace) for s in plan.contract.streams}
    for right in ("publishes", "subscribes"):
        if DIAGNOSTICS in rights[right]:  # a bring-up of two robots keeps them apart
            rights[right].add(absolute(DIAGNOSTICS.lstrip("/"), plan.namespace))
    rights["publishes"] |= {"/rosout", "/parameter_events"}
    rights["subscribes"] |= {"/clock", *({EVERYTHING} if node in LISTENERS else ())}
    own = [*_PARAMETERS, *_SETTING, *_ALL]
    if managed:
        own += [*_LIFECYCLE, *_LEADING]
        rights["publishes"] |= _own_topics(node, plan.namespace)
    rights["serves"] |= {absolute(f"{node}/{name}", plan.namespace) for name in own}
    return Profile(node, plan.namespace, **{role: frozenset(names) for role, names in rights.items()})


def _own_topics(node: str, namespace: str) -> set[str]:
    return {absolute(f"{node}/transition_event", namespace), "/rosout", "/parameter_events"}


def _operator(plan: Deployment, made: tuple[Profile, ...]) -> Profile:
    said = frozenset({"/rosout", "/parameter_events", *(absolute(name, plan.namespace) for name in BY_HAND)})
    served = frozenset().union(*(profile.serves for profile in made))
    own = _served_by(OPERATOR, plan.namespace)
    return Profile(OPERATOR, plan.namespace, said, _heard(made), own, served)


def _viewer(plan: Deployment, made: tuple[Profile, ...]) -> Profile:
    asked = (*_PARAMETERS, *_LIFECYCLE, *_ALL)
    served = {name for profile in made for name in profile.serves if name.rpartition("/")[2] in asked}
    own = _served_by(VIEWER, plan.namespace)
    return Profile(VIEWER, plan.namespace, frozenset({"/rosout", "/parameter_events"}), _heard(made), own, frozenset(served))


def _served_by(node: str, namespace: str) -> frozenset[str]:
    """The services that a node of ROS has by itself."""
    return frozenset(absolute(f"{node}/{name}", namespace) for name in (*_PARAMETERS, *_SETTING, *_ALL))


def _heard(made: tuple[Profile, ...]) -> frozenset[str]:
    """Everything that the nodes say or hear."""
    names = {name for profile in made for name in (*profile.publishes, *profile.subscribes)}
    return frozenset(names - {EVERYTHING})


def _holds(plan: Deployment, condition: str) -> bool:
    command, perception, interface = plan.blocks["command"], plan.blocks["perception"], plan.robot.command_interface
    answers = {
        interfaces.LOCKSTEP[0]: plan.blocks["lockstep"].enabled,
        interfaces.DEADMAN_BOOL[0]: command.deadman == "bool",
        interfaces.DEADMAN_JOY[0]: command.deadman == "joy",
        interfaces.TRAJECTORIES[0]: interface == "joint_trajectory",
        interfaces.TRAJECTORIES[1]: interface == "joint_trajectory_chunk",
        interfaces.ACTION[0]: interface == "follow_joint_trajectory",
        interfaces.ARRAY[0]: interface == "float64_array",
        interfaces.JOINT_STATE[0]: interface == "joint_state",
        interfaces.POINTS[0]: bool(perception.points),
        interfaces.READS[0]: perception.extractor == "vlm",
    }
    return bool(answers.get(condition, True))


def _beside(camera: Camera) -> str:
    return "/".join([*camera.topic.split("/")[:-1], "camera_info"])


def as_json(made: Iterable[Profile]) -> list[dict[str, Any]]:
    """Plain JSON types, a profile each."""
    return [
        {"enclave": one.enclave}
        | {name: sorted(value) if isinstance(value, frozenset) else value for name, value in dataclasses.asdict(one).items()}
        for one in made
    ]
