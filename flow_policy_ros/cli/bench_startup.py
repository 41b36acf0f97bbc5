"""``flow_policy bench startup``: how long after it is started a node can publish, and what takes the time.

The processes are the nodes themselves, started by a few lines that time imports and wrap what comes after. Nothing else is changed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from flow_policy_ros.ros.control_traffic import ControlTraffic
    from flow_policy_ros.runtime.contract import Contract
    from flow_policy_ros.runtime.robot import Robot

START_S = 120.0
SETTLE_S = 2.0
"""For what the node is to hear to be there before: two that start at once may find each other 3 s later only."""
TARGETS_S = {"command_node": 1.5, "policy_node": 6.0}
STAGES: dict[str, str] = {
    "interpreter": "Python itself",
    "torch": "its import",
    "rclpy": "its import",
    "package": "every other import",
    "init": "rclpy.init",
    "participant": "the ROS node and its DDS participant",
    "checkpoint": "weights and contract read",
    "warm-up": "the first samples, freely and continued",
    "build": "of the node's construction, the rest: robot file, parameters, publishers, subscriptions",
    "rest": "what is in none of the others",
}
STAGED = """
import time
first = time.monotonic()
import importlib, json, os, sys
name, begun, file = sys.argv[1], float(sys.argv[2]), sys.argv[3]
del sys.argv[1:4]
spent = {"interpreter": first - begun}
def bring(module, stage):
    start = time.monotonic()
    found = importlib.import_module(module)
    spent[stage] = spent.get(stage, 0.0) + time.monotonic() - start
    return found
if name == "policy_node":
    bring("torch", "torch")
bring("rclpy", "rclpy")
Node = bring("rclpy.node", "rclpy").Node
node = bring("flow_policy_ros.nodes." + name, "package")
runner = bring("flow_policy_ros.nodes.runner", "package")
Profile = bring("flow_policy_ros.policy.profile", "package").Profile
def sink(stage, ms):
    spent[stage] = spent.get(stage, 0.0) + ms / 1e3
profile = Profile(sink, time.monotonic)
profile.wrap(runner.rclpy, "init", "init")
profile.wrap(Node, "__init__", "participant")
if name == "policy_node":
    profile.wrap(node, "deploy", "warm-up")
    profile.wrap(sys.modules["flow_policy_ros.policy.flow_policy"].FlowPolicy, "load", "checkpoint")
profile.wrap(node, {"command_node": "CommandNode", "policy_node": "PolicyNode"}[name], "build")
make = runner.make_executor
def ready():
    executor = make()
    profile.unwrap()
    total = time.monotonic() - begun
    with open(file + ".part", "w") as out:
        json.dump({"ready": total, "cpu": time.process_time(), "stages": spent}, out)
    os.rename(file + ".part", file)
    return executor
runner.make_executor = ready
sys.exit(node.main(sys.argv))
"""


@dataclass(frozen=True)
class Arguments:
    """Seconds from starting a node's process until it can publish (ready), and until the first command or chunk is heard.

    Medians of several starts, each with another process that gives it joint states, and features or chunks. The first start of all,
    whose files may have to come from the disk, is left out. Targets: command node 1.5 s, policy node 6 s.
    """

    checkpoint: str = "adroit_door_state"
    """Checkpoint of the policy node: the name of a shipped one, or a folder."""
    robot: str = ""
    """Robot file: the name of a shipped one, or a path; empty for the checkpoint's first."""
    nodes: tuple[str, ...] = tuple(TARGETS_S)
    """Which nodes: command_node, policy_node."""
    starts: int = 7
    """Starts of each."""
    json: Path | None = None
    """Write the figures to this file as well."""


@dataclass(frozen=True)
class Start:
    """One start, s from the moment the process was asked for: ``ready`` when the node spins, ``heard`` when its first product
    was; ``cpu`` the processor time of all its threads until ready, ``stages`` s each."""

    ready: float
    heard: float
    cpu: float
    stages: dict[str, float]


def main(argv: list[str]) -> int:
    """Returns 0; bad input raises ``ValueError``-derived errors."""
    import tyro
    from rich.console import Console

    from flow_policy_ros.cli.bench import require_positive
    from flow_policy_ros.cli.outputs import print_json, require_file

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy bench startup")
    require_file("--json", arguments.json)
    require_positive(("--starts", arguments.starts))
    unknown = sorted(set(arguments.nodes) - set(TARGETS_S))
    if unknown:
        raise ValueError(f"--nodes names {', '.join(unknown)}, expected some of: {', '.join(TARGETS_S)}.")
    figures = measure(arguments)
    Console(stderr=True).print(table(figures))
    print_json(figures, arguments.json)
    return 0


def measure(arguments: Arguments) -> dict[str, Any]:
    """``rows``, one per node, see ``row``. Raises ``NodeProblem`` when a node does not come up."""
    from rich.console import Console
    from rich.progress import track

    from flow_policy_ros.cli.bench_profile import robot_for
    from flow_policy_ros.policy.checkpoint import load_checkpoint
    from flow_policy_ros.resources import checkpoint

    folder = checkpoint(arguments.checkpoint)
    robot = robot_for(folder, arguments.robot)
    contract = load_checkpoint(folder).codec_of(robot.name).contract
    contract.check_robot(robot)
    rows = []
    for node in arguments.nodes:
        turns = track(range(arguments.starts + 1), f"starts of {node}", console=Console(stderr=True))
        rows.append(row(node, [start(node, robot, contract, folder) for _ in turns][1:]))
    return {"checkpoint": folder.name, "robot": robot.name, "starts": arguments.starts, "rows": rows}


def start(node: str, robot: Robot, contract: Contract, checkpoint: Path) -> Start:
    """One process, started, heard and ended. Raises ``NodeProblem``."""
    from flow_policy_ros.resources import share
    from flow_policy_ros.ros.control_traffic import ControlTraffic
    from flow_policy_ros.ros.domain import own_domain
    from flow_policy_ros.ros.input_traffic import STATES_HZ, InputTraffic
    from flow_policy_ros.ros.processes import NodeProblem, NodeProcesses, NodeSpec

    begun: list[float] = []
    environment = own_domain(share() / "config" / "fastdds.xml")
    parameters: dict[str, str | int | float | bool] = {"robot_file": str(Path(robot.path).resolve())}
    if node == "policy_node":
        parameters["policy.checkpoint"] = str(checkpoint)
        listener = InputTraffic(robot, environment, contract.streams)
        products: Sequence[float] = listener.arrived
        traffic: ControlTraffic = listener
    else:
        traffic = ControlTraffic(robot, STATES_HZ, environment)
        products = traffic.stamps
    with tempfile.TemporaryDirectory() as scratch, traffic:
        file = Path(scratch) / "stages.json"

        class Staged(NodeSpec):
            def command(self) -> list[str]:
                begun.append(time.monotonic())  # the clock is the same in every process
                return [sys.executable, "-c", STAGED, node, repr(begun[0]), str(file), *super().command()[3:]]

        traffic.spin(SETTLE_S)
        with NodeProcesses([Staged(node, parameters)], environment) as processes:

            def heard() -> bool:
                processes.check()
                return len(products) > 0

            if not traffic.spin(START_S, heard):
                raise NodeProblem(f"nothing came from {node} within {START_S:.0f} s. {processes.last_words(node)}")
            arrived = time.monotonic()
        told = json.loads(file.read_text())  # written before the first product
    stages = {stage: float(s) for stage, s in told["stages"].items()}
    return Start(float(told["ready"]), arrived - begun[0], float(told["cpu"]), stages)


def row(node: str, starts: list[Start]) -> dict[str, Any]:
    """``ready_s``, ``heard_s`` and ``cpu_s`` (median, least, most), ``stages_s`` (medians), ``target_s``, and whether the median of
    ``ready_s`` has ``met`` it."""
    import numpy as np

    def spread(values: list[float]) -> dict[str, float]:
        return {"median": round(float(np.median(values)), 3), "min": round(min(values), 3), "max": round(max(values), 3)}

    stages = {}
    for stage in STAGES:
        spent = [one.ready - sum(one.stages.values()) if stage == "rest" else one.stages.get(stage, 0.0) for one in starts]
        if any(spent):
            stages[stage] = round(float(np.median(spent)), 3)
    ready = spread([one.ready for one in starts])
    return {
        "node": node,
        "ready_s": ready,
        "heard_s": spread([one.heard for one in starts]),
        "cpu_s": spread([one.cpu for one in starts]),
        "stages_s": stages,
        "target_s": TARGETS_S[node],
        "met": ready["median"] < TARGETS_S[node],
    }


def table(figures: dict[str, Any]) -> Any:
    """The figures for people, a ``rich`` table."""
    from rich.table import Table

    rows = figures["rows"]
    shown = Table("s (median)", *(one["node"] for one in rows), "what", title=f"{figures['starts']} starts", title_justify="left")
    for stage, text in STAGES.items():
        shown.add_row(stage, *(f"{one['stages_s'][stage]:.3f}" if stage in one["stages_s"] else "" for one in rows), text)
    for key, text in (
        ("cpu_s", "processor time until ready, of all threads"),
        ("ready_s", "since the process was asked for"),
        ("heard_s", "until the first command or chunk was heard"),
    ):
        shown.add_row(key.removesuffix("_s"), *(f"{one[key]['median']:.3f} (to {one[key]['max']:.3f})" for one in rows), text)
    shown.add_row("target", *(f"{one['target_s']:.1f}" for one in rows), "of ready")
    return shown
