"""What nodes say of themselves on ``/diagnostics`` and ``sim/status``: the guard, its faults, figures, and events worth a line."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

from flow_policy_ros.runtime.status_names import own_name
from flow_policy_ros.viewing.snapshot import Event, Guard, Kind, NodeHealth

NODES = 32
"""So many nodes are kept: on some robots everybody writes on ``/diagnostics``."""
SILENT_NS = 3_500_000_000
"""A node that reports once a second and has not for this long is silent."""
SILENT = 3
EVENTS = 64
"""Waiting for a snapshot; further ones are dropped."""
TEXT = 400
"""Characters of a message."""

FIGURES = {
    "command": (
        "ticks", "ticks_active", "ticks_limited", "period_error_ms.p99", "missed_deadlines", "stage_ms.p99", "limit_scale.lowest",
        "chunks", "chunks_slowed",
    ),
    "policy": ("inference_ms.p50", "inference_ms.p99", "chunks"),
    "perception": ("perception_ms.p50", "images", "dropped"),
}  # fmt: skip
"""Numbers that are passed on as ``NODE.KEY``; with the command node's interventions, of all kinds, as ``limited.JOINT``."""
_LEVELS: tuple[Kind, ...] = ("well", "warning", "error", "error")


class Health:
    """Given every status; ``figures`` are the newest numbers of the robot in ``namespace``, other robots' nodes keep full names."""

    def __init__(self, namespace: str = "") -> None:
        self._namespace = namespace
        self.figures: dict[str, float] = {}
        self._nodes: OrderedDict[str, NodeHealth] = OrderedDict()
        self._guard = Guard()
        self._reported = 0
        self._refused = 0
        self._events: list[Event] = []
        self._episode: dict[str, str] = {}

    def report(self, status: Any, stamp: int) -> None:
        """A ``DiagnosticStatus`` of a node, of ``stamp`` (ns)."""
        name, message = own_name(str(status.name), self._namespace)[:TEXT], str(status.message)[:TEXT]
        level = level_of(status.level)
        before = self._nodes.get(name)
        values = {str(pair.key): str(pair.value) for pair in status.values}
        if name == "command":
            self._command(values, level, message, stamp)
        elif _worth_a_line(before, level, message):
            self._say(stamp, _LEVELS[level], f"{name}: {message}")
        if before is not None or len(self._nodes) < NODES:
            self._nodes[name] = NodeHealth(name, level, message, stamp)
        for key in FIGURES.get(name, ()):
            if key in values:
                self.figures[f"{name}.{key}"] = float(values[key])

    def episode(self, status: Any, received: int) -> None:
        """A ``sim/status``."""
        values = {str(pair.key): str(pair.value) for pair in status.values}
        before, self._episode = self._episode, values
        if values.get("state") == "running" and (before.get("state"), before.get("episode")) != ("running", values.get("episode")):
            self._say(received, "episode", f"episode {values.get('episode', '?')} begins, seed {values.get('seed', '?')}")
        if values.get("success") == "True" and before.get("success") != "True":
            self._say(received, "episode", f"success, at step {values.get('step', '?')}")

    def guard(self, now: int) -> Guard:
        """As it is at ``now`` (ns): silent when nothing was heard for long."""
        g = self._guard
        if g.state and now - self._reported > SILENT_NS:
            seconds = (now - self._reported) / 1e9
            return Guard(g.state, g.since, g.faults, SILENT, f"no report for {seconds:.0f} s; last: {g.message}")
        return g

    def nodes(self, now: int) -> tuple[NodeHealth, ...]:
        """All of them, those that are silent with that level."""
        return tuple(
            n if now - n.stamp <= SILENT_NS else NodeHealth(n.name, SILENT, n.message, n.stamp) for n in self._nodes.values()
        )

    def drain(self) -> list[Event]:
        """Events since the last call."""
        events, self._events = self._events, []
        return events

    def _command(self, values: dict[str, str], level: int, message: str, stamp: int) -> None:
        before = self._guard
        state, faults = values.get("state", ""), tuple(values.get("faults", "").split())
        since = int(values.get("state_since", 0)) or (before.since if state == before.state else stamp)
        if state != before.state:
            self._say(since if before.state else stamp, "state", f"{before.state or 'first report'} → {state}")
        for fault in faults:
            if fault not in before.faults:
                self._say(since if state == "fault" else stamp, "fault", _about(fault, message))
        for fault in before.faults:
            if fault not in faults:
                self._say(stamp, "cleared", fault)
        refused = sum(int(value) for key, value in values.items() if key.startswith("rejections."))
        if refused > self._refused:
            why = values.get("last_rejection", "")[:TEXT]
            self._say(stamp, "refused", f"{refused - self._refused} inputs refused" + (f"; the last: {why}" if why else ""))
        self._refused = refused
        limited: dict[str, float] = {}
        for key, value in values.items():
            head, _, rest = key.partition(".")
            joint = rest.partition(".")[2]
            if head == "interventions" and joint:
                limited[f"limited.{joint}"] = limited.get(f"limited.{joint}", 0.0) + float(value)
        self.figures |= limited
        self._guard, self._reported = Guard(state, since, faults, level, message), stamp

    def _say(self, stamp: int, kind: Kind, text: str) -> None:
        if len(self._events) < EVENTS:
            self._events.append(Event(stamp, kind, text))


def level_of(level: Any) -> int:
    """0 to 3; the middleware gives a byte, recordings a number."""
    number = level[0] if isinstance(level, (bytes, bytearray)) and level else int(level)
    return min(max(int(number), 0), SILENT)


def _worth_a_line(before: NodeHealth | None, level: int, message: str) -> bool:
    """Whether a status tells something new that is not well, or that it is well again."""
    if before is None:
        return level > 0
    return (level > 0 or before.level > 0) and (before.level, _gist(before.message)) != (level, _gist(message))


def _gist(message: str) -> str:
    """What stays the same while the numbers in it change."""
    return re.sub(r"[\d.]+", "#", message)


def _about(fault: str, message: str) -> str:
    """The part of the command node's message that tells of ``fault``."""
    part = next((part for part in message.split("; ") if part.startswith(f"{fault}:")), "")
    return part or fault
