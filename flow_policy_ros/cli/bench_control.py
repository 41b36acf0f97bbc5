"""``flow_policy bench control``: how well the command process keeps its period, and what its safety stage costs, under load."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from flow_policy_ros.ros.processes import NodeSpec
    from flow_policy_ros.runtime.robot import Robot

START_S = 60.0
SETTLE_S = 2.0
"""Before anything is counted: discovery, caches, the motion's beginning."""
LATE_S = 3.0
STAGE_TICKS = 2000
BUSY = (
    "import os, sys, numpy\n"
    "parent, x = int(sys.argv[1]), numpy.random.default_rng(0).standard_normal((200, 200))\n"
    "while os.getppid() == parent:\n"  # nobody is left busy when the benchmark is killed
    "    for _ in range(20): numpy.tanh(x @ x)\n"
)
ORDINARY_EXECUTOR = (
    "import sys, rclpy.experimental as experimental\n"
    "vars(experimental).pop('EventsExecutor', None)\n"  # as with a distribution that has none
    "from flow_policy_ros.nodes import command_node\n"
    "sys.exit(command_node.main(sys.argv))"
)


@dataclass(frozen=True)
class Arguments:
    """Period error, missed deadlines and stage time of the command node, started as a process and fed over DDS.

    It gets joint states at the control rate and chunks of 48 points at 25 Hz. Beside it, in the same run, the same node with the
    ordinary executor and without SCHED_FIFO, and beside its limiter ruckig and a plain clamp on the same targets.
    """

    robot: str = "adroit_relocate"
    """Robot file, or the name of one that ships; Adroit for relocate has 30 joints."""
    rate: float = 500.0
    """Control rate, Hz."""
    seconds: float = 20.0
    """How long each process is measured."""
    load: bool = False
    """Keep every core busy with another process."""
    opponents: bool = True
    """Measure the others as well; three times as long."""
    priority: int = 40
    """SCHED_FIFO priority to ask for; 0 does not ask."""
    json: Path | None = None
    """Write the figures to this file as well."""


def main(argv: list[str]) -> int:
    """Returns 0, or 1 when the node latched a fault; bad input raises ``ValueError``-derived errors."""
    import tyro
    from rich.console import Console

    from flow_policy_ros.cli.outputs import print_json, require_file
    from flow_policy_ros.resources import robot_file
    from flow_policy_ros.runtime.parameters import CommandParameters, check
    from flow_policy_ros.runtime.robot import load_robot

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy bench control")
    require_file("--json", arguments.json)
    check(CommandParameters, "rate_hz", arguments.rate, "command.")
    check(CommandParameters, "realtime_priority", arguments.priority, "command.")
    check(CommandParameters, "statistics_s", arguments.seconds, "command.")
    robot = load_robot(robot_file(arguments.robot))
    figures = measure(arguments, robot)
    console = Console(stderr=True)
    for table in tables(figures):
        console.print(table)
    print_json(figures, arguments.json)
    return 1 if any(process["faults"] for process in figures["processes"]) else 0


def measure(arguments: Arguments, robot: Robot) -> dict[str, Any]:
    """The figures of the command node at the top; ``processes`` a row each, the node first; ``stage`` a row per limiter."""
    from rich.console import Console
    from rich.progress import track

    from flow_policy_ros.evaluation.stage_opponents import compare, noisy, sine

    specs = specs_of(arguments, robot)
    title, console = f"{len(robot.joints)} joints at {arguments.rate:g} Hz", Console(stderr=True)
    with load(os.cpu_count() or 1 if arguments.load else 0):
        rows = [
            run(name, spec, robot, arguments.rate, arguments.seconds) for name, spec in track(specs.items(), title, console=console)
        ]
    stage: list[dict[str, object]] = []
    if arguments.opponents:  # without load: here, unlike in the node, nothing asks for a priority
        clean = sine(robot.limits, 1.0 / arguments.rate, STAGE_TICKS)
        stage = [row for targets in (clean, noisy(clean, 0.01, 0.003, seed=0)) for row in compare(robot.limits, targets)]
    return {
        **{key: value for key, value in rows[0].items() if key != "name"},
        "load": arguments.load,
        "cores": os.cpu_count(),
        "joints": len(robot.joints),
        "seconds": arguments.seconds,
        "processes": rows,
        "stage": stage,
    }


def specs_of(arguments: Arguments, robot: Robot) -> dict[str, NodeSpec]:
    """The processes to measure, by name: ours and its opponents."""
    from flow_policy_ros.ros.processes import NodeSpec

    class OrdinaryExecutor(NodeSpec):
        def command(self) -> list[str]:
            return [sys.executable, "-c", ORDINARY_EXECUTOR, *super().command()[3:]]

    parameters: dict[str, str | int | float | bool] = {
        "robot_file": str(Path(robot.path).resolve()),
        "command.rate_hz": arguments.rate,
        "command.realtime_priority": arguments.priority,
        "command.statistics_s": arguments.seconds,
        # The traffic comes from a process without priority; that it comes late under load is not what is measured.
        "command.joint_state_max_age_s": 5.0,
    }
    specs = {"command_node": NodeSpec("command_node", parameters)}
    if arguments.opponents:
        specs["ordinary executor"] = OrdinaryExecutor("command_node", parameters)
        specs["ordinary scheduling"] = NodeSpec("command_node", {**parameters, "command.realtime_priority": 0})
    return specs


def run(name: str, spec: NodeSpec, robot: Robot, rate_hz: float, seconds: float) -> dict[str, Any]:
    """One process measured. ``outside``: intervals between the stamps of the set-points that arrived here.

    Raises ``NodeProblem`` when it does not come up, does not follow chunks, or ends.
    """
    from flow_policy_ros.resources import share
    from flow_policy_ros.ros.control_traffic import ControlTraffic
    from flow_policy_ros.ros.domain import own_domain
    from flow_policy_ros.ros.processes import NodeProblem, NodeProcesses
    from flow_policy_ros.runtime.realtime import resident_mb

    environment = own_domain(share() / "config" / "fastdds.xml")
    with NodeProcesses([spec], environment) as processes, ControlTraffic(robot, rate_hz, environment) as traffic:

        def report(seconds: float) -> dict[str, str]:
            """The first report after ``seconds``."""
            traffic.spin(seconds)
            traffic.report = {}
            if not traffic.spin(LATE_S, lambda: bool(traffic.report)):
                processes.check()
                raise NodeProblem(f"the command node is silent on /diagnostics. {processes.last_words(spec.name)}")
            return traffic.report

        def up() -> bool:
            processes.check()
            return traffic.report.get("state") == "active"

        if not traffic.spin(START_S, up):
            raise NodeProblem(f"the command node follows no chunks: {traffic.message or processes.last_words(spec.name)}")
        pid = processes.pid(spec.name)
        before, begun = report(SETTLE_S), len(traffic.stamps)
        memory, switches = [resident_mb(pid)], context_switches(pid)
        report(seconds / 2.0)
        memory.append(resident_mb(pid))
        after, ended = report(seconds / 2.0), len(traffic.stamps)
        memory.append(resident_mb(pid))
        rest = context_switches(pid)
        processes.check()
    return {
        "name": name,
        "rate_hz": rate_hz,
        "period_error_ms": {p: float(after[f"period_error_ms.{p}"]) for p in ("p50", "p99", "max")},
        "missed_deadlines": int(after["missed_deadlines"]) - int(before["missed_deadlines"]),
        "stage_us": {p: round(1e3 * float(after[f"stage_ms.{p}"]), 1) for p in ("p50", "p99", "max")},
        "ticks": int(after["ticks"]) - int(before["ticks"]),
        "rss_mb": dict(zip(("start", "half", "end"), (round(m, 2) for m in memory), strict=True)),
        "realtime": after.get("realtime", "not asked for"),
        "faults": after["faults"],
        "context_switches": {kind: rest[kind] - switches[kind] for kind in rest},
        "outside": outside(traffic.stamps[begun:ended], rate_hz),
    }


def outside(stamps: list[int], rate_hz: float) -> dict[str, float]:
    """The same from the stamps (ns) of what was executed; one that was lost on the way counts as an error here."""
    import numpy as np

    errors = np.abs(np.diff(np.array(stamps, dtype=np.int64)).astype(np.float64) / 1e6 - 1e3 / rate_hz)
    if not len(errors):
        return {"received": len(stamps)}
    p50, p99 = np.percentile(errors, (50, 99))
    return {
        "received": len(stamps), "p50": round(float(p50), 4), "p99": round(float(p99), 4), "max": round(float(errors.max()), 4),
    }  # fmt: skip


def context_switches(pid: int) -> dict[str, int]:
    """Of all threads of a process: ``voluntary`` (it waited) and ``involuntary`` (it was interrupted) switches so far."""
    found = {"voluntary": 0, "involuntary": 0}
    heads = {"voluntary_ctxt_switches": "voluntary", "nonvoluntary_ctxt_switches": "involuntary"}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            head, _, value = line.partition(":")
            if head in heads:
                found[heads[head]] += int(value)
    return found


@contextmanager
def load(processes: int) -> Iterator[list[int]]:
    """Busy processes, for a while; their ids."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", BUSY, str(os.getpid())], env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True
        )
        for _ in range(processes)
    ]
    try:
        if children:
            time.sleep(0.5)
        yield [child.pid for child in children]
    finally:
        for child in children:
            child.send_signal(signal.SIGKILL)
        for child in children:
            child.wait()


def tables(figures: dict[str, Any]) -> Iterator[Any]:
    """The figures for people, ``rich`` tables."""
    from rich.table import Table

    processes = figures["processes"]
    busy = f"{figures['cores']} busy cores" if figures["load"] else "no load of its own"
    shown = Table(
        "", *(row["name"] for row in processes), title=f"{figures['joints']} joints at {figures['rate_hz']:g} Hz, {busy}",
        title_justify="left",
    )  # fmt: skip
    for title, cell in (
        ("period error ms p50 / p99 / max", lambda row: _together(row["period_error_ms"], 3)),
        ("missed deadlines", lambda row: f"{row['missed_deadlines']} of {row['ticks']}"),
        ("stage µs p50 / p99 / max", lambda row: _together(row["stage_us"], 0)),
        ("resident MB start / half / end", lambda row: _together(row["rss_mb"], 1)),
        ("granted", lambda row: row["realtime"]),
        ("faults", lambda row: row["faults"] or "none"),
    ):
        shown.add_row(title, *map(cell, processes))
    yield shown
    if not figures["stage"]:
        return
    shown = Table(
        "limiter", "targets", "µs p50", "p99", "error mrad p50", "max", "jerk broken", "worst", "acceleration broken",
        title="per-tick limiters on the same targets", title_justify="left",
    )  # fmt: skip
    for row in figures["stage"]:
        jerk = f"{row['broken']['jerk']:.2%}", f"{row['worst']['jerk']:.2f}x"
        shown.add_row(
            row["name"], row["targets"], *(f"{row['us'][p]:.0f}" for p in ("p50", "p99")),
            *(f"{row['error_mrad'][p]:.2f}" for p in ("p50", "max")), *jerk,
            f"{row['broken']['acceleration']:.2%}",
        )  # fmt: skip
    yield shown


def _together(values: dict[str, float], digits: int) -> str:
    return " / ".join(f"{value:.{digits}f}" for value in values.values())
