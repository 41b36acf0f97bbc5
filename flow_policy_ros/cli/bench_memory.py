"""``flow_policy bench memory``: what every node keeps resident with the shipped checkpoints, and whether chunks make it more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from flow_policy_ros.policy.flow_policy import FlowPolicy
    from flow_policy_ros.runtime.contract import StreamContract
    from flow_policy_ros.runtime.robot import Robot

START_S = 120.0
TARGETS_MB = {"policy_node": 1200.0, "perception_node": 1200.0, "command_node": 150.0}
RISE_MB = 2.0
"""What a straight line through the samples may rise by over the whole run; pages come and go."""
UNIT = "1000_chunks"
NODES = tuple(TARGETS_MB)


@dataclass(frozen=True)
class Arguments:
    """Resident memory, MB: of node processes at work, and of a policy and command loop in this process over many chunks.

    Every shipped checkpoint has a policy node, every shipped detector a perception node; they are fed over DDS.
    """

    nodes: tuple[str, ...] = NODES
    """Which nodes: policy_node, perception_node, command_node."""
    checkpoints: tuple[str, ...] = ()
    """Policies and detectors: names of shipped ones, or folders; without any: all that ship."""
    seconds: float = 20.0
    """How long each node works after its first product."""
    chunks: int = 10_000
    """Chunks in this process."""
    steps: int = 10
    """Solver steps of these chunks."""
    mode: str = "receding"
    """How these chunks follow each other, as policy.mode."""
    json: Path | None = None
    """Write the figures to this file as well."""


@dataclass(frozen=True)
class Job:
    """One node process: which, with which ``checkpoint`` ("" for none) and ``parameters``, and what it is fed."""

    node: str
    checkpoint: str
    robot: Robot
    parameters: dict[str, str | int | float | bool]
    streams: tuple[StreamContract, ...] = ()
    heard: tuple[str, ...] = ()


def main(argv: list[str]) -> int:
    """Returns 0, or 1 when a node keeps more than its target or memory grows; bad input raises ``ValueError``-derived errors."""
    import tyro
    from rich.console import Console

    from flow_policy_ros.cli.bench import require_positive
    from flow_policy_ros.cli.outputs import print_json, require_file

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy bench memory")
    require_file("--json", arguments.json)
    require_positive(("--chunks", arguments.chunks), ("--steps", arguments.steps))
    if not 0.0 < arguments.seconds < float("inf"):
        raise ValueError(f"--seconds is {arguments.seconds}, expected more than 0.")
    unknown = sorted(set(arguments.nodes) - set(NODES))
    if unknown:
        raise ValueError(f"--nodes names {', '.join(unknown)}, expected some of: {', '.join(NODES)}.")
    figures = measure(arguments)
    Console(stderr=True).print(table(figures))
    print_json(figures, arguments.json)
    return 0 if all(row["met"] for row in figures["rows"]) and not figures["growth"]["grows"] else 1


def measure(arguments: Arguments) -> dict[str, Any]:
    """``rows`` a node each, see ``at_work``; ``left_out``: checkpoint → why it could not be used; ``growth``: see ``grown``."""
    from rich.console import Console
    from rich.progress import track

    from flow_policy_ros.cli.bench_profile import robot_for
    from flow_policy_ros.policy.deployed import deploy
    from flow_policy_ros.policy.flow_policy import FlowPolicy
    from flow_policy_ros.resources import checkpoint
    from flow_policy_ros.runtime.parameters import PolicyParameters, check

    check(PolicyParameters, "mode", arguments.mode, "policy.")
    left_out: dict[str, str] = {}
    found = list(jobs(arguments, left_out))
    rows = [at_work(job, arguments.seconds) for job in track(found, "nodes", console=Console(stderr=True))]
    policies = [job for job in found if job.node == "policy_node"]
    folder = checkpoint(policies[0].checkpoint if policies else "adroit_door_state")
    parameters = PolicyParameters(checkpoint=str(folder), steps=arguments.steps, mode=arguments.mode)
    robot = robot_for(folder, "")
    policy = deploy(parameters, robot.name)
    assert isinstance(policy, FlowPolicy)
    growth = {"checkpoint": folder.name, "mode": arguments.mode, **grown(policy, parameters, robot, arguments.chunks)}
    return {"rows": rows, "left_out": left_out, "growth": growth}


def jobs(arguments: Arguments, left_out: dict[str, str]) -> Iterator[Job]:
    """The processes to start; a policy whose instruction nothing here can read goes to ``left_out``. Raises ``ResourceError``."""
    from flow_policy_ros.cli.bench_profile import robot_for
    from flow_policy_ros.policy.checkpoint import load_checkpoint
    from flow_policy_ros.policy.flow_policy import FlowPolicy
    from flow_policy_ros.resources import checkpoint, names, robot_file
    from flow_policy_ros.runtime.contract import SAID
    from flow_policy_ros.runtime.parameters import PerceptionParameters
    from flow_policy_ros.runtime.robot import load_robot
    from flow_policy_ros.vision.pretrained import ExtractorError

    folders = [checkpoint(name) for name in arguments.checkpoints or names("checkpoints")]
    policies, detectors = ([f for f in folders if (f / file).is_file()] for file in ("contract.json", "detector.json"))
    if "command_node" in arguments.nodes:
        robot = load_robot(robot_file("adroit_door"))
        yield Job("command_node", "", robot, {"robot_file": str(Path(robot.path).resolve())})
    for folder in policies if "policy_node" in arguments.nodes else []:
        robot = robot_for(folder, "")
        streams = load_checkpoint(folder).codec_of(robot.name).contract.streams
        given = {"robot_file": str(Path(robot.path).resolve()), "policy.checkpoint": str(folder)}
        if any(stream.kind in SAID for stream in streams):
            given["policy.instruction"] = "hold still"
            try:
                FlowPolicy.load(folder, robot=robot.name)
            except ExtractorError as error:
                left_out[folder.name] = str(error)
                continue
        yield Job("policy_node", str(folder), robot, dict(given), streams)
    for folder in detectors if "perception_node" in arguments.nodes else []:
        robot = load_robot(robot_file("adroit_door"))
        given = {"robot_file": str(Path(robot.path).resolve()), "perception.detector": str(folder)}
        yield Job("perception_node", str(folder), robot, dict(given), heard=(PerceptionParameters().extractor,))


def at_work(job: Job, seconds: float) -> dict[str, Any]:
    """One process, fed over DDS: ``mb_first`` when its first product was heard, ``mb_end`` after ``seconds`` more, ``mb_most`` it
    ever had, ``products`` heard, ``target_mb`` and whether ``mb_most`` meets it. Raises ``NodeProblem``."""
    from flow_policy_ros.resources import share
    from flow_policy_ros.ros.control_traffic import ControlTraffic
    from flow_policy_ros.ros.domain import own_domain
    from flow_policy_ros.ros.input_traffic import STATES_HZ, InputTraffic
    from flow_policy_ros.ros.processes import NodeProblem, NodeProcesses, NodeSpec
    from flow_policy_ros.runtime.realtime import resident_mb

    environment = own_domain(share() / "config" / "fastdds.xml")
    if job.node == "command_node":
        traffic = ControlTraffic(job.robot, STATES_HZ, environment)
        products: list[Any] = traffic.stamps
    else:
        cameras = job.robot.cameras if job.node == "perception_node" else ()
        traffic = listener = InputTraffic(job.robot, environment, job.streams, tuple(cameras), job.heard)
        products = listener.arrived
    with NodeProcesses([NodeSpec(job.node, job.parameters)], environment) as processes, traffic:

        def heard() -> bool:
            processes.check()
            return len(products) > 0

        if not traffic.spin(START_S, heard):
            raise NodeProblem(f"nothing came from {job.node} within {START_S:.0f} s. {processes.last_words(job.node)}")
        pid = processes.pid(job.node)
        first = resident_mb(pid)
        traffic.spin(seconds)
        processes.check()
        end, most = resident_mb(pid), most_resident_mb(pid)
    return {
        "node": job.node,
        "checkpoint": Path(job.checkpoint).name,
        "mb_first": round(first, 1),
        "mb_end": round(end, 1),
        "mb_most": round(most, 1),
        "products": len(products),
        "target_mb": TARGETS_MB[job.node],
        "met": most < TARGETS_MB[job.node],
    }


def most_resident_mb(pid: int) -> float:
    """The most that a process ever had resident, MB (10^6 bytes), from /proc. Raises ``OSError`` when there is no such process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024e-6 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def grown(policy: FlowPolicy, parameters: Any, robot: Robot, chunks: int) -> dict[str, Any]:
    """``chunks`` chunks in this process, from the joint state to the shaped plan: the figures of ``Resident``, ``rise_mb`` of the
    straight line over the whole run (None: too few samples), and whether it ``grows``, by more than ``RISE_MB``."""
    from flow_policy_ros.cli.bench_profile import publisher
    from flow_policy_ros.evaluation.resident import Resident
    from flow_policy_ros.evaluation.rounds import Rounds
    from flow_policy_ros.runtime.policy_loop import PolicyLoop

    rounds = Rounds(PolicyLoop(policy, parameters, robot.endless), policy.contract, robot)
    send = publisher()
    resident = Resident(chunks / 1000.0, UNIT)
    for number in range(1, chunks + 1):
        rounds.receive()
        chunk = rounds.sample()
        if send is not None:
            send(chunk, 0.0)
        rounds.obey(chunk)
        resident.at(number / chunks)
    figures = resident.result()
    slope = figures[f"mb_per_{UNIT}"]
    rise = None if slope is None else round(slope * chunks / 1000.0, 3)
    return {"chunks": chunks, **figures, "rise_mb": rise, "grows": rise is not None and rise > RISE_MB}


def table(figures: dict[str, Any]) -> Any:
    """The figures for people, a ``rich`` table."""
    from rich.table import Table

    shown = Table("node", "checkpoint", "MB first", "end", "most", "target", "products", title_justify="left")
    for row in figures["rows"]:
        cells = (f"{row[key]:.0f}" for key in ("mb_first", "mb_end", "mb_most", "target_mb"))
        shown.add_row(row["node"], row["checkpoint"], *cells, str(row["products"]))
    growth = figures["growth"]
    rise = "too few samples" if growth["rise_mb"] is None else f"{growth['rise_mb']:+.2f} MB over {growth['chunks']} chunks"
    shown.caption = f"in one process, {growth['checkpoint']}, {growth['mode']}: {growth['resident_mb_end']:.0f} MB, {rise}"
    return shown
