"""The reference page of the nodes as Markdown, made of the data that the nodes themselves are made of. ``params`` writes it.

Nothing is explained here that the code does not say; how things work is on pages of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from flow_policy_ros.ros.interfaces import NODES, PLACES, QOS, Interface, NodeInterfaces
from flow_policy_ros.ros.reported import REPORTED
from flow_policy_ros.runtime.parameters import BLOCKS
from flow_policy_ros.safety.guard import FAULTS, STATES, TRANSITIONS
from flow_policy_ros.safety.limiter import KINDS

COMMAND_LINE = "flow_policy params --out docs/reference.md"
ROLES = {"subscribes": "in", "publishes": "out", "serves": "service", "calls": "action"}
INTERVENTIONS = {
    "position": "The range, or that the joint has to stop before its end.",
    "velocity": "The velocity limit.",
    "acceleration": "The acceleration limit.",
    "jerk": "The average over the last set-points, which keeps the jerk limit, changed what would have had more.",
}
"""What kept a set-point from its target, by kind of ``KINDS``."""
SHARED = "lockstep"
"""The block of several nodes, which has a section of its own."""


def page() -> str:
    """The whole page, ending in a line break."""
    lines = [
        "# Reference of the nodes",
        "",
        f"Made from the code by `{COMMAND_LINE}`; do not edit. What the safety stage does is in [safety.md](safety.md), how chunks",
        "follow each other in [chunk_execution.md](chunk_execution.md), how commands reach a controller in",
        "[command_interfaces.md](command_interfaces.md), what a robot file holds in [robot_file.md](robot_file.md).",
        "",
        "Names are relative: they follow a node's name space and remappings. On `/diagnostics` the name of a status and its",
        "`hardware_id`, the robot's name, begin with the name space: `left/command`. Names in braces come from elsewhere:",
        "",
        *table(("name", "where it comes from"), [(f"`{{{name}}}`", text) for name, text in PLACES.items()]),
    ]
    for name, node in NODES.items():
        lines += ["", f"## {name}", "", node.text, "", "### Topics and services", "", *_interfaces(node.interfaces)]
        lines += ["", "### Parameters", "", *_parameters(node)]
        if SHARED in node.blocks:
            lines += ["", f"Also those of [{SHARED}](#parameters-of-{SHARED})."]
        if name == "command_node":
            lines += _guard()
        rows = [(f"`{value.key}`", "always" if value.always else "when there is one", value.text) for value in REPORTED[name]]
        values = table(("key", "there", "meaning"), rows) if rows else ["None: it only listens."]
        lines += ["", "### Values on `/diagnostics`", "", *values]
    lines += ["", f"## Parameters of {SHARED}", "", "Declared by every node.", "", *table(HEAD, _block(SHARED))]
    lines += ["", "## Quality of service", "", *_qos()]
    return "\n".join(lines) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    cells = [head, ["---"] * len(head), *rows]
    return ["|" + "|".join(" " + cell.replace("|", r"\|") + " " if cell else " " for cell in row) + "|" for row in cells]


def _interfaces(interfaces: tuple[Interface, ...]) -> list[str]:
    def row(i: Interface) -> tuple[str, ...]:
        when = f" Only with {' or '.join(i.when)}." if i.when else ""
        return ROLES[i.role], f"`{i.name}`", f"`{i.type}`", i.qos, i.text + when

    return table(("", "name", "type", "quality", "what"), map(row, interfaces))


HEAD = ("parameter", "type", "default", "unit", "values", "changes", "what")


def _parameters(node: NodeInterfaces) -> list[str]:
    own = [
        (f"`{name}`", kind, f"`{default}`" if default else "empty", "", "", "at start", text)
        for name, (kind, default, text) in node.parameters.items()
    ]
    return table(HEAD, [*own, *(row for block in node.blocks if block != SHARED for row in _block(block))])


def _block(prefix: str) -> list[tuple[str, ...]]:
    """A row for each parameter of a block."""
    rows: list[tuple[str, ...]] = []
    for field in dataclasses.fields(BLOCKS[prefix]):
        unit, bounds, choices = field.metadata["unit"], field.metadata["bounds"], field.metadata["choices"]
        values = f"{_text(bounds[0])} to {_text(bounds[1])}" if bounds else ", ".join(_text(choice) for choice in choices)
        changes = "live" if field.metadata["live"] else "at start"
        kind = type(field.default).__name__
        rows.append((f"`{prefix}.{field.name}`", kind, _text(field.default), unit, values, changes, field.metadata["description"]))
    return rows


def _text(value: Any) -> str:
    """A value as in YAML."""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        return f"`{value:g}`" if value != int(value) else f"`{value:.1f}`"
    return f"`{value}`" if value != "" else "empty"


def _guard() -> list[str]:
    """States, their changes, faults and interventions of the command node."""
    states = [
        (f"`{state.value}`", text, ", ".join(f"`{after.value}`" for after in STATES if after in TRANSITIONS[state]))
        for state, text in STATES.items()
    ]
    return [
        "",
        "### States",
        "",
        "A reset leads from every state to `inactive`, and is the only way out of `fault`.",
        "",
        *table(("state", "meaning", "leads to"), states),
        "",
        "### Faults",
        "",
        "Each is latched: a decelerated stop, then a hold until `command/reset`.",
        "",
        *table(("fault", "when"), [(f"`{name}`", text) for name, text in FAULTS.items()]),
        "",
        "### Interventions",
        "",
        "Counted per kind and joint, in the ticks in which a chunk is followed.",
        "",
        *table(("kind", "what kept a set-point from its target"), [(f"`{kind}`", INTERVENTIONS[kind]) for kind in KINDS]),
    ]


def _qos() -> list[str]:
    rows = []
    for name, profile in QOS.items():
        reliability, kept = profile.reliability, str(profile.depth)
        if profile.lockstep is not None:
            reliability, kept = f"{reliability}; in lockstep {profile.lockstep[0]}", f"{kept}; in lockstep {profile.lockstep[1]}"
        rows.append((name, reliability.replace("_", " "), profile.durability.replace("_", " "), kept, profile.text))
    return table(("name", "reliability", "durability", "messages kept", "for"), rows)
