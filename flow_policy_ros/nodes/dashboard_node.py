"""The dashboard node: listens to a robot and draws a page of it in the terminal, again and again or once.

An onlooker: it reads with best effort, opens only the newest message of each topic and only when it draws, publishes nothing, and
gives way to every other process of the machine.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rich.console import Console
from rich.live import Live
from sensor_msgs.msg import JointState as JointStateMsg
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.nodes.dashboard_page import page
from flow_policy_ros.nodes.dashboard_view import LEVELS, Meter, Report, View, clean, figures
from flow_policy_ros.nodes.recorder_keys import Terminal
from flow_policy_ros.nodes.runner import STEADY, ClosableNode, run
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.messages import MessageError, from_time, joint_state_from_message
from flow_policy_ros.ros.parameters import NodeParameters, robot_of
from flow_policy_ros.ros.raw import opened
from flow_policy_ros.runtime.joint_order import BadInput, JointOrder
from flow_policy_ros.runtime.parameters import DashboardParameters, ParameterError
from flow_policy_ros.runtime.status_names import of_another, own_name
from flow_policy_ros.runtime.types import FloatArray

KEYS_S = 0.05
SETTLED_S = 1.5
"""With ``dashboard.once``: after everybody has spoken, for the rates to be rates."""
NICE = 5
NODES = 32
"""Statuses that are kept, by name: on some robots everybody writes on ``/diagnostics``."""
VALUES = 1000
"""Of a status: some for each joint."""
WIDTH = 120
"""Of a page that goes into a file or pipe."""


class DashboardNode(ClosableNode):
    """Draws to ``console``; keys come from ``terminal``, None where there is none."""

    def __init__(self, console: Console, terminal: Terminal | None = None) -> None:
        super().__init__("dashboard_node")
        self._robot = robot_of(self)
        self._settings = NodeParameters(self, self._robot, ("dashboard",)).block(DashboardParameters)
        if not self._settings.once and terminal is None:
            raise ParameterError(
                "the dashboard needs a terminal, and this process has none; with dashboard.once (flow_policy dashboard --once) it "
                "prints one page and ends."
            )
        if self._settings.report and not Path(self._settings.report).parent.is_dir():
            raise ParameterError(
                f"the parameter dashboard.report is {self._settings.report}; its folder does not exist, create it."
            )
        self._console = console
        self._terminal = terminal
        self._order = JointOrder(self._robot.joints)
        self._newest: dict[str, bytes] = {}
        self._reports: dict[str, tuple[Report, float]] = {}  # with the instant of receipt (s, steady)
        self._began = time.monotonic()
        self._complete: float | None = None  # since when everybody has spoken
        self._last: View | None = None
        self._printed = False
        sources: tuple[tuple[str, type, str], ...] = (
            ("joint states", JointStateMsg, self._robot.joint_state_topic),
            ("set-points", JointStateMsg, "command/executed"),
            ("chunks", JointTrajectory, "policy/chunk"),
        )
        self._meters = {what: Meter(what) for what, _, _ in sources}
        for what, kind, topic in sources:  # as bytes: most are only counted
            self.create_subscription(kind, topic, self._keeper(what), qos.reader(lockstep=False), raw=True)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.reader(lockstep=False))
        self._live: Live | None = None
        if not self._settings.once:
            self._live = Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop")
            self._live.start()
            self.create_timer(KEYS_S, self._keys, clock=STEADY)
        self.create_timer(1.0 / self._settings.rate_hz, self._turn, clock=STEADY)

    def finish(self) -> int:
        """The exit code: 1 when the last page had something wrong in it."""
        return int(self._last is None or bool(self._last.wrong()))

    def close(self) -> None:
        """Give the terminal back."""
        if self._live is not None:
            self._live.stop()

    def _keeper(self, what: str) -> Callable[[bytes], None]:
        meter = self._meters[what]

        def keep(message: bytes) -> None:
            self._newest[what] = message
            meter.add(time.monotonic())

        return keep

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        stamp = from_time(message.header.stamp)
        for status in message.status:
            if of_another(status.name, status.hardware_id, self.get_namespace()):
                continue
            name = own_name(clean(status.name), self.get_namespace())
            if name not in self._reports and len(self._reports) >= NODES:
                continue
            level = LEVELS[min(status.level[0], len(LEVELS) - 1)]
            values = {clean(pair.key): clean(pair.value) for pair in status.values[:VALUES]}
            self._reports[name] = (Report(level, clean(status.message), values, stamp, 0.0), time.monotonic())

    def _turn(self) -> None:
        if self._printed:  # the signal below takes effect a turn later
            return
        view = self._view()
        self._last = view
        if self._live is not None:
            self._live.update(page(view, self._console.size), refresh=True)
        elif self._enough(view):
            self._printed = True
            self._print(view)
            if self._settings.report:
                Path(self._settings.report).write_text(json.dumps(figures(view), indent=1) + "\n")
            signal.raise_signal(signal.SIGTERM)

    def _print(self, view: View) -> None:
        try:
            self._console.print(page(view))
            self._console.file.flush()
        except (BrokenPipeError, SystemExit):  # the latter is how rich says it
            # Whoever reads has enough (``| head -1``); what is still buffered would be written, and fail, at the process's end.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._console.file.fileno())
            os.close(nowhere)

    def _enough(self, view: View) -> bool:
        """Whether everybody has spoken for a while, or has had the time."""
        now = time.monotonic()
        if view.command is not None and np.isfinite(view.measured).all() and np.isfinite(view.setpoint).all():
            self._complete = now if self._complete is None else self._complete
            return now - self._complete >= SETTLED_S
        return now - self._began >= self._settings.wait_s

    def _view(self) -> View:
        now = time.monotonic()
        problems: dict[str, str] = {}
        measured, _ = self._positions("joint states", problems)
        setpoint, executed = self._positions("set-points", problems)
        age = self._age("chunks", executed, problems)
        reports = {
            name: Report(r.level, r.message, r.values, r.stamp, now - received) for name, (r, received) in self._reports.items()
        }
        rates = tuple(meter.mark(now) for meter in self._meters.values())
        return View(self._robot, reports, rates, measured, setpoint, age, tuple(problems.values()))

    def _age(self, what: str, executed: int, problems: dict[str, str]) -> float:
        """Of the newest chunk at the set-point of stamp ``executed``, ms; NaN where it is not known."""
        data = self._newest.get(what)
        if data is None:
            return math.nan
        try:
            stamp = from_time(opened(data, JointTrajectory).header.stamp)
        except MessageError as error:
            problems[what] = clean(f"{what}: {error}")
            return math.nan
        return (executed - stamp) / 1e6 if executed else math.nan

    def _positions(self, what: str, problems: dict[str, str]) -> tuple[FloatArray, int]:
        """(J,) of the newest message, NaN without one that can be used; and its stamp, 0 without."""
        nothing = np.full(len(self._robot.joints), np.nan)
        data = self._newest.get(what)
        if data is None:
            return nothing, 0
        try:
            state = joint_state_from_message(opened(data, JointStateMsg))
            if what == "joint states":
                state = self._robot.naming.named(state)
            return self._order.select(what, state.names, state.position), state.stamp
        except (MessageError, BadInput) as error:
            problems[what] = clean(str(error))
            return nothing, 0

    def _keys(self) -> None:
        if self._terminal is not None and "q" in self._terminal.pressed().lower():
            signal.raise_signal(signal.SIGTERM)


def main(args: list[str] | None = None) -> int:
    """Entry point; returns the exit code, for which see ``DashboardNode.finish``."""
    os.nice(NICE)
    nodes: list[DashboardNode] = []
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    present = Terminal.present() and sys.stdout.isatty()
    with Terminal() if present else nullcontext() as terminal:

        def build() -> DashboardNode:
            nodes.append(DashboardNode(console, terminal))
            return nodes[0]

        code = run(build, args)
    for node in nodes:
        code = max(code, node.finish())
    return code


if __name__ == "__main__":
    sys.exit(main())
