"""Which topics of a recording look like joint states and which like commands, where no robot file says it; and what such a file
would need.

Names are hints and no more: what is found here is printed as a proposal, and nothing ever acts on it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from flow_policy_ros.data import message_looks as looks
from flow_policy_ros.data.bag_messages import TRAJECTORY
from flow_policy_ros.data.inspection_found import Inspection, JointsFound, LayoutFound

COMMAND_WORDS = {"command", "commands", "cmd", "reference", "references", "setpoint", "target", "desired", "goal", "action", "in",
                 "controller", "leader", "wanted"}
STATE_WORDS = {"state", "states", "out", "measured", "feedback", "follower", "actual"}


@dataclass(frozen=True)
class Roles:
    """Topics with joint values, best candidate first."""

    states: tuple[JointsFound, ...]
    commands: tuple[JointsFound, ...]


def roles(inspection: Inspection) -> Roles:
    """Guessed from names, types, and whether velocities are reported."""
    types = {topic.name: topic.type for topic in inspection.topics}
    scores = [(_score(joints, types[joints.topic]), joints) for joints in inspection.joints]
    best = max((score for score, _ in scores), default=0)
    states = [(score, joints) for score, joints in scores if score > 0 or score == best >= 0]
    commands = [joints for score, joints in scores if not (score > 0 or score == best >= 0)]
    states.sort(key=lambda pair: (-pair[0], -_count(pair[1])))
    commands.sort(key=lambda joints: (-_moving(joints), -_count(joints)))
    return Roles(tuple(joints for _, joints in states), tuple(commands))


def main_layout(joints: JointsFound) -> LayoutFound | None:
    """The one that most messages have."""
    return max(joints.layouts, key=lambda layout: layout.count, default=None)


def differing(inspection: Inspection) -> tuple[LayoutFound, LayoutFound] | None:
    """A state and a command of as many joints that do not call them alike (one may have no names), if that is so."""
    found = roles(inspection)
    for state in filter(None, map(main_layout, found.states[:1])):
        for command in filter(None, map(main_layout, found.commands)):
            if len(state.joints) == len(command.joints) and set(state.names) != set(command.names):
                return state, command
    return None


def sketch(inspection: Inspection) -> list[str]:
    """Lines of a robot file's ``robot`` block that would fit this recording; comments say what has to be checked or filled in."""
    found = roles(inspection)
    state = main_layout(found.states[0]) if found.states else None
    command = main_layout(found.commands[0]) if found.commands else None
    source = state or command
    if source is None:
        return []
    joints = joint_names(state, command)
    lines = [f"joints: [{', '.join(joints)}]"]
    if state is None:
        lines.append(f"joint_state_topic: {source.topic.lstrip('/')}  # no joint states were recorded; commands stand in for them")
    else:
        lines.append(f"joint_state_topic: {state.topic.lstrip('/')}")
        others = [joints.topic for joints in found.states[1:]]
        lines += [f"# or {topic.lstrip('/')}" for topic in others]
    if not source.named:
        lines.append(f"joint_state_order: [{', '.join(joints)}]  # the messages have no names: check that this is their order")
    if command is not None:
        lines += _commands(command, joints, [joints.topic for joints in found.commands[1:]])
    for images in inspection.images:
        sizes = sorted(images.sizes, key=lambda size: -images.sizes[size])
        topic = inspection.topic(images.topic)
        if sizes and topic is not None and not images.topic.lstrip("/").startswith("features/"):
            name = images.topic.removesuffix("/compressed").strip("/").split("/")
            path, rate = "/".join(name), topic.typical_hz or topic.rate_hz or 1.0
            lines.append("cameras:") if "cameras:" not in lines else None
            lines.append(
                f"  {name[-2] if len(name) > 1 else name[-1]}: {{topic: {path}, width: {sizes[0][0]}, "
                f"height: {sizes[0][1]}, rate_hz: {rate:.1f}}}"
            )
    return [*lines, "limits: …  # range, velocity and acceleration of every joint, or urdf: FILE and fallback: {acceleration: …}"]


def joint_names(state: LayoutFound | None, command: LayoutFound | None) -> tuple[str, ...]:
    """The joints' names: those of the states, else of commands of as many joints, else made up."""
    source = state or command
    if source is None:
        return ()
    for layout in (state, command):
        if layout is not None and layout.named and len(layout.joints) == len(source.joints):
            return layout.names
    return tuple(f"joint_{k + 1}" for k in range(len(source.joints)))


def _commands(command: LayoutFound, joints: tuple[str, ...], others: list[str]) -> list[str]:
    lines = ["recorded:", f"  command_topic: {command.topic.lstrip('/')}", *(f"  # or {topic.lstrip('/')}" for topic in others)]
    if not command.named:
        lines.append(f"  command_order: [{', '.join(joints)}]  # the messages have no names: check that this is their order")
    elif set(command.names) != set(joints) and len(command.joints) == len(joints):
        pairs = ", ".join(f"{theirs}: {ours}" for theirs, ours in zip(command.names, joints, strict=True))
        lines.append(f"  command_names: {{{pairs}}}  # paired by position: check which is which")
    return lines


def _score(joints: JointsFound, type_name: str) -> int:
    if joints.part:
        return 3 if joints.part == looks.MEASURED else -3
    if type_name == TRAJECTORY:
        return -3
    words = re.split(r"[/_]", joints.topic.lower())
    return sum((word in STATE_WORDS) - (word in COMMAND_WORDS) for word in words) + joints.velocities


def _count(joints: JointsFound) -> int:
    return sum(layout.count for layout in joints.layouts)


def _moving(joints: JointsFound) -> float:
    """Sum of the ranges moved through."""
    layout = main_layout(joints)
    return 0.0 if layout is None else sum(max(0.0, joint.high - joint.low) for joint in layout.joints)
