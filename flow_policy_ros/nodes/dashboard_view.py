"""What the dashboard shows, as plain data: figures of a robot at one moment, and what is to be said of them.

Draws nothing and knows no ROS: ``dashboard_page`` draws it, ``dashboard_node`` gathers it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import FloatArray

SILENT_S = 3.0
"""A node that has not reported for so long is silent: what it said last is the past."""
WINDOW_S = 2.0
"""Rates are taken over this time."""
LEVELS = ("ok", "warning", "error", "stale")
"""Names of the levels of a diagnostic status."""
TEXT = 400
"""Characters of a message or value."""
COMMAND = "command"
"""Name of the command node's status."""


def clean(text: str) -> str:
    """``text`` as a terminal may be given it: others' words may be no commands to it, and not fill the page."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text[: TEXT + 1])
    return shown if len(shown) <= TEXT else shown[:TEXT] + "…"


@dataclass(frozen=True)
class Report:
    """What a node said of itself last, ``age_s`` ago (steady clock); ``stamp`` (ns) is when it said so by its own clock."""

    level: str
    message: str
    values: Mapping[str, str]
    stamp: int
    age_s: float

    @property
    def silent(self) -> bool:
        """Whether it ought to have reported again."""
        return self.age_s > SILENT_S

    def number(self, key: str) -> float:
        """A value as a number; NaN where there is none."""
        try:
            return float(self.values[key])
        except (KeyError, ValueError):
            return math.nan

    def under(self, head: str) -> dict[str, str]:
        """Values below ``head``, without it: ``interventions`` gives ``velocity.thumb`` → ``3``."""
        return {key[len(head) + 1 :]: value for key, value in self.values.items() if key.startswith(head + ".")}


@dataclass(frozen=True)
class Rate:
    """Messages on a topic: how many, how often lately (Hz), when the last one (s ago; inf for never)."""

    topic: str
    count: int
    hz: float
    age_s: float


@dataclass(frozen=True)
class View:
    """One page. ``measured`` and ``setpoint`` (J,) in the robot file's order, NaN where not known; ``chunk_age_ms`` from the newest
    chunk's observation to the newest set-point; ``problems`` are messages that could not be used, newest of each kind."""

    robot: Robot
    reports: Mapping[str, Report]
    rates: tuple[Rate, ...]
    measured: FloatArray
    setpoint: FloatArray
    chunk_age_ms: float = math.nan
    problems: tuple[str, ...] = field(default=())

    @property
    def command(self) -> Report | None:
        """The command node's report."""
        return self.reports.get(COMMAND)

    def state(self) -> str:
        """The guard's state; ``silent`` where nobody says, for its last word is no state of now."""
        report = self.command
        return "silent" if report is None or report.silent else report.values.get("state", "unknown")

    def faults(self) -> list[str]:
        """Latched faults, by name."""
        return self.command.values.get("faults", "").split() if self.command else []

    def interventions(self) -> dict[str, dict[str, int]]:
        """Ticks in which a limit acted, by joint and kind."""
        found: dict[str, dict[str, int]] = {}
        for key, count in (self.command.under("interventions") if self.command else {}).items():
            kind, _, joint = key.partition(".")
            if count.isdecimal():
                found.setdefault(joint, {})[kind] = int(count)
        return found

    def wrong(self) -> list[str]:
        """Why this robot does not work as it should, a sentence each; empty if it does."""
        report = self.command
        found = []
        if report is None:
            found.append("The command node has not said anything; check that it runs in this domain, and where it reports.")
        elif report.silent:
            found.append(f"The command node is silent for {report.age_s:.0f} s; it ended, or the network lost it.")
        elif self.faults() or report.level == "error":
            found.append(report.message)
        found += [f"{name}: {r.message}" for name, r in self.reports.items() if name != COMMAND and r.level == "error"]
        found += [f"{rate.topic}: nothing for {_ago(rate.age_s)}." for rate in self.rates[:1] if not rate.age_s < SILENT_S]
        return found


class Meter:
    """Counts messages of one topic; ``mark`` at each page gives the rate of the last ``WINDOW_S``."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.count = 0
        self._last = -math.inf
        self._marks: deque[tuple[float, int]] = deque()

    def add(self, now: float) -> None:
        """A message came at ``now`` (s, steady clock)."""
        self.count += 1
        self._last = now

    def mark(self, now: float) -> Rate:
        """The rate at ``now``."""
        self._marks.append((now, self.count))
        while len(self._marks) > 2 and now - self._marks[1][0] >= WINDOW_S:
            self._marks.popleft()
        began, before = self._marks[0]
        hz = (self.count - before) / (now - began) if now > began else 0.0
        return Rate(self.topic, self.count, hz, now - self._last)


def figures(view: View) -> dict[str, Any]:
    """The page for programs; NaN becomes None, which JSON has."""
    return {
        "robot": view.robot.name,
        "state": view.state(),
        "faults": view.faults(),
        "wrong": view.wrong(),
        "problems": list(view.problems),
        "chunk_age_ms": _plain(view.chunk_age_ms),
        "rates": {r.topic: {"count": r.count, "hz": round(r.hz, 2), "age_s": _plain(r.age_s)} for r in view.rates},
        "joints": {
            joint: {
                "measured": _plain(m), "setpoint": _plain(s), "error": _plain(s - m),
                "interventions": view.interventions().get(joint, {}),
            }
            for joint, m, s in zip(view.robot.joints, view.measured, view.setpoint, strict=True)
        },
        "nodes": {
            name: {"level": r.level, "message": r.message, "age_s": round(r.age_s, 2), "values": dict(r.values)}
            for name, r in view.reports.items()
        },
    }


def _plain(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


def _ago(seconds: float) -> str:
    return f"{seconds:.0f} s" if math.isfinite(seconds) else "all this time"
