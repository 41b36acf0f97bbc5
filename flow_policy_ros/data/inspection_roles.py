"""Which topics of a recording look like joint states and which like commands, where no robot file says it.

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
