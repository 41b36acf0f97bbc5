"""``flow_policy bench profile``: where a chunk's time goes, stage by stage, from the joint state to the plan that is followed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from flow_policy_ros.evaluation.rounds import Rounds
    from flow_policy_ros.policy.flow_policy import FlowPolicy
    from flow_policy_ros.runtime.policy_loop import PolicyLoop
    from flow_policy_ros.runtime.robot import Robot

SHAPE = "shape"
SETTLE = 5
"""Chunks before anything is counted."""


@dataclass(frozen=True)
class Arguments:
    """Time of each stage of a chunk (one process, no DDS): p50, p99, and share of the whole.

    The policy runs as in its node, the command stage as in its own; every other chunk is sampled without the profiler, which says
    what that costs.
    """

    checkpoint: str = "adroit_door_state"
    """Checkpoint: the name of a shipped one, or a folder."""
    robot: str = ""
    """Robot file: the name of a shipped one, or a path; empty for the checkpoint's first."""
    backend: str = "torch"
    """What evaluates the network, as policy.backend."""
    steps: int = 10
    """Solver steps."""
    mode: str = "receding"
    """How chunks follow each other, as policy.mode."""
    chunks: int = 200
    """Chunks with the profiler, and as many without."""
    threads: int = 1
    """Threads of the tensor library."""
    json: Path | None = None
    """Write the figures to this file as well."""


@dataclass
class Measured:
    """Of each chunk, ms: ``stages`` (name → own time; evaluations of the network are numbered), ``with_profiler`` and ``without``
    it the whole of the policy's part."""

    stages: list[dict[str, float]]
    with_profiler: list[float]
    without: list[float]


def main(argv: list[str]) -> int:
    """Returns 0; bad input raises ``ValueError``-derived errors."""
    import tyro
    from rich.console import Console

    from flow_policy_ros.cli.bench import require_positive
    from flow_policy_ros.cli.outputs import print_json, require_file

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy bench profile")
    require_file("--json", arguments.json)
    require_positive(("--chunks", arguments.chunks), ("--threads", arguments.threads), ("--steps", arguments.steps))
    figures = measure(arguments)
    Console(stderr=True).print(table(figures))
    print_json(figures, arguments.json)
    return 0


def measure(arguments: Arguments) -> dict[str, Any]:
    """``rows`` of stage, text, ms_p50, ms_p99, share; ``policy_ms`` of the policy's part with the profiler, without, and their
    ratio; and what was measured."""
    import torch

    from flow_policy_ros.evaluation.rounds import Rounds
    from flow_policy_ros.policy.deployed import DeadlinePolicy, deploy
    from flow_policy_ros.policy.flow_policy import FlowPolicy
    from flow_policy_ros.resources import checkpoint
    from flow_policy_ros.runtime.parameters import PolicyParameters, check
    from flow_policy_ros.runtime.policy_loop import PolicyLoop

    for name, value in (("backend", arguments.backend), ("mode", arguments.mode), ("threads", arguments.threads)):
        check(PolicyParameters, name, value, "policy.")
    folder = checkpoint(arguments.checkpoint)
    robot = robot_for(folder, arguments.robot)
    torch.set_num_threads(arguments.threads)
    parameters = PolicyParameters(
        checkpoint=str(folder), backend=arguments.backend, steps=arguments.steps, mode=arguments.mode, threads=arguments.threads
    )
    policy = deploy(parameters, robot.name)
    whole = policy.inner if isinstance(policy, DeadlinePolicy) else policy
    assert isinstance(whole, FlowPolicy)
    loop = PolicyLoop(policy, parameters, robot.endless)
    measured = rounds_of(Rounds(loop, policy.contract, robot), loop, whole, arguments.chunks)
    return {
        "checkpoint": folder.name,
        "robot": robot.name,
        "backend": arguments.backend,
        "steps": arguments.steps,
        "mode": arguments.mode,
        "threads": arguments.threads,
        "chunks": arguments.chunks,
        **summary(measured),
    }


def robot_for(folder: Path, name: str) -> Robot:
    """The robot file of that name or path, or the one that ships for the checkpoint's first robot. Raises ``ResourceError``."""
    from flow_policy_ros.policy.checkpoint import load_checkpoint
    from flow_policy_ros.resources import robot_file
    from flow_policy_ros.runtime.robot import load_robot

    return load_robot(robot_file(name or load_checkpoint(folder).codecs[0].contract.robot))


def rounds_of(rounds: Rounds, loop: PolicyLoop, policy: FlowPolicy, chunks: int) -> Measured:
    """``chunks`` chunks with the profiler and as many without, in turns, so that both see the same load."""
    import time

    from flow_policy_ros.policy.profile import PUBLISH, VELOCITY, Profile, wrap_policy

    send = publisher()
    sender = SimpleNamespace(send=send or (lambda chunk, ms: None))
    measured = Measured([], [], [])
    taken: dict[str, float] = defaultdict(float)

    def sink(stage: str, ms: float) -> None:
        number = sum(name.startswith(VELOCITY) for name in taken) + 1
        taken[f"{VELOCITY} {number}" if stage == VELOCITY else stage] += ms

    for k in range(2 * (SETTLE + chunks)):
        profiled = k % 2 == 0
        rounds.receive()
        profile = Profile(sink)
        if profiled:
            wrap_policy(profile, loop, policy)
            profile.wrap(rounds.command, "prepare", SHAPE)
            if send is not None:
                profile.wrap(sender, "send", PUBLISH)
        begun = time.perf_counter()
        chunk = rounds.sample()
        whole = 1e3 * (time.perf_counter() - begun)
        sender.send(chunk, whole)
        rounds.obey(chunk)
        profile.unwrap()
        if k >= 2 * SETTLE:
            (measured.with_profiler if profiled else measured.without).append(whole)
            if profiled:
                measured.stages.append(dict(taken))
        taken.clear()
    return measured


def publisher() -> Callable[[Any, float], Any] | None:
    """Makes the messages of a chunk, as the node does; None without ROS."""
    try:
        from flow_policy_ros.ros.messages import chunk_info, chunk_to_message
    except ImportError:
        return None
    return lambda chunk, ms: (chunk_to_message(chunk), chunk_info(chunk, ms))


def summary(measured: Measured) -> dict[str, Any]:
    """See ``measure``. Shares are of all stages' means: medians do not add up."""
    import numpy as np

    from flow_policy_ros.policy.profile import PUBLISH, STAGES, VELOCITY

    shaped = "command stage: the chunk within its limits, joined to the present motion"
    texts = {**STAGES, PUBLISH: "the messages made", SHAPE: shaped}
    order = list(texts)
    names = sorted({name for stages in measured.stages for name in stages}, key=lambda name: _place(name, order))
    times = {name: np.array([stages.get(name, 0.0) for stages in measured.stages]) for name in names}
    total = sum(float(ms.mean()) for ms in times.values())
    rows = []
    for name, ms in times.items():
        p50, p99 = np.percentile(ms, (50, 99))
        text = texts[VELOCITY] if name.startswith(VELOCITY) else texts[name]
        share = round(float(ms.mean()) / total, 4)
        rows.append({"stage": name, "text": text, "ms_p50": round(float(p50), 4), "ms_p99": round(float(p99), 4), "share": share})
    with_profiler, without = (float(np.median(ms)) for ms in (measured.with_profiler, measured.without))
    return {
        "rows": rows,
        "policy_ms": {
            "with_profiler": round(with_profiler, 4),
            "without": round(without, 4),
            "ratio": round(with_profiler / without, 4),
        },
    }


def _place(name: str, order: list[str]) -> tuple[int, int]:
    """Where a stage stands in the table; evaluations of the network by their number."""
    stage, _, number = name.partition(" ")
    return order.index(stage), int(number or 0)


def table(figures: dict[str, Any]) -> Any:
    """The figures for people, a ``rich`` table."""
    from rich.table import Table

    title = ", ".join(str(figures[key]) for key in ("checkpoint", "backend", "mode")) + f", {figures['steps']} steps"
    shown = Table("stage", "ms p50", "p99", "share", "what", title=title, title_justify="left")
    before = ""
    for row in figures["rows"]:
        text = row["text"] if row["text"] != before else ""
        shown.add_row(row["stage"], f"{row['ms_p50']:.3f}", f"{row['ms_p99']:.3f}", f"{row['share']:.1%}", text)
        before = row["text"]
    whole = figures["policy_ms"]
    shown.caption = f"policy's part {whole['without']:.3f} ms, with the profiler {whole['with_profiler']:.3f} ms (p50)"
    return shown
