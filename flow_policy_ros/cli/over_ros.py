"""Episodes through the ROS nodes, for ``demo`` and ``evaluate --ros``: from a selection to node parameters, and from what
was seen on the topics to the results and records that an episode in one process gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flow_policy_ros.evaluation.closed_loop import EpisodeResult
from flow_policy_ros.evaluation.record import EpisodeRecord
from flow_policy_ros.evaluation.setup import Loaded, Selection
from flow_policy_ros.evaluation.summary import CONTROL_PERIOD
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import FloatArray
from flow_policy_ros.safety.following import SLOWED
from flow_policy_ros.safety.limiter import KINDS
from flow_policy_ros.safety.statistics import CommandStatistics
from flow_policy_ros.sim.instructions import goal_of
from flow_policy_ros.sim.tasks import TASKS

if TYPE_CHECKING:
    from flow_policy_ros.ros.collector import Seen, SimStatus
    from flow_policy_ros.ros.processes import NodeSpec

PATIENCE_S = 30.0
"""Of the nodes with each other in lockstep: long, for here somebody watches whether they live."""
REPORTED = {
    "perception": ("perception", "perception_ms"),
    "image to features": ("perception", "features_age_ms"),
    "state to chunk": ("policy", "chunk_age_ms"),
    "safety": ("command", "stage_ms"),
}
"""Latency stages of which the nodes publish percentiles and not every sample: node and key on ``/diagnostics``."""


@dataclass(frozen=True)
class RosRun:
    """Episodes over ROS: ``records`` and ``outcomes`` one each, ``reported`` percentiles by stage (see ``summarise``)."""

    records: list[EpisodeRecord]
    outcomes: list[EpisodeResult]
    reported: dict[str, dict[str, float]]


Progress = Callable[["SimStatus", str, list[EpisodeResult]], None]
"""Called now and then with the simulation's status, the guard's state and the outcomes so far."""


def run_over_ros(
    selection: Selection,
    loaded: Loaded,
    episodes: int,
    seed: int,
    control_steps: int = 200,
    realtime: bool = False,
    progress: Progress | None = None,
) -> RosRun:
    """Start the nodes, run ``episodes`` from scenes ``seed``, ``seed + 1``, …, end the nodes.

    Of a task with several goals the selection's instruction is asked for in every episode, without one what is drawn by seed.
    In lockstep (the default) the profile of ``loaded`` is injected and every set-point equals that of
    ``closed_loop.run_episode``; with ``realtime`` delays are the real ones. Raises ``NodeProblem`` when a node does not come
    up, dies or is silent.
    """
    from flow_policy_ros.resources import share
    from flow_policy_ros.ros.conductor import Conductor

    goals = TASKS[selection.task].goals
    asked = selection.instruction if goals else ""
    if asked:
        goal_of(asked, goals)  # refused before anything is started
    records: list[EpisodeRecord] = []
    outcomes: list[EpisodeResult] = []

    def tell(status: SimStatus, guard: str) -> None:
        if progress is not None:
            progress(status, guard, outcomes)

    specs = node_specs(selection, loaded, realtime)
    with Conductor(loaded.robot, specs, realtime, share() / "config" / "fastdds.xml") as conductor:
        for i in range(episodes):
            seen = conductor.run(seed + i, i, control_steps, tell, asked)
            record = record_of(seen, loaded.robot, seed + i, realtime)
            records.append(record)
            outcomes.append(outcome_of(seen, record, realtime))
        reports = conductor.final_reports(sum(len(r.stamps) for r in records))
    if outcomes and "command" in reports:
        outcomes[-1].statistics = statistics_of(reports["command"], loaded.robot)
    return RosRun(records, outcomes, reported_of(reports))


def node_specs(selection: Selection, loaded: Loaded, realtime: bool) -> list[NodeSpec]:
    """The nodes that the selection needs; the perception only when the policy wants what it sees."""
    from flow_policy_ros.ros.processes import NodeSpec

    shared: dict[str, str | int | float | bool] = {
        "robot_file": str(selection.robot.resolve()),
        "lockstep.enabled": not realtime,
        "lockstep.timeout_s": PATIENCE_S,
        "lockstep.seed": loaded.stack.latency_seed,
        "lockstep.inject": str(selection.injection),
        "lockstep.latency": "" if realtime or loaded.profile is None else str(loaded.profile.resolve()),
    }
    specs = [
        NodeSpec("sim_node", {**shared, "sim.task": selection.task, "sim.realtime": realtime}),
        NodeSpec("policy_node", {**shared, **selection.flat_policy()}),
        NodeSpec("command_node", {**shared, "command.limit_scale": selection.limit_scale}),
    ]
    if loaded.stack.perception is not None:
        specs.append(NodeSpec("perception_node", {**shared, **loaded.perceiving}))
    return specs


def record_of(seen: Seen, robot: Robot, seed: int, realtime: bool) -> EpisodeRecord:
    """Rows are the joint states; a set-point belongs to the joint state of its stamp, in real time to the next one."""
    stamps = np.array(list(seen.positions), dtype=np.int64)
    success_stamp = None
    if seen.success_step is not None and len(stamps):
        success_stamp = int(stamps[min(seen.success_step, len(stamps) - 1)])
    return EpisodeRecord(
        seed=seed,
        success=seen.status.success,
        success_steps=seen.status.success_steps,
        joints=robot.joints,
        stamps=stamps,
        position=np.array(list(seen.positions.values())).reshape(len(stamps), len(robot.joints)),
        command=_commands_at(stamps, seen.commands, len(robot.joints), realtime),
        states=states_at(stamps, seen.states),
        chunks=seen.chunks,
        frames=seen.frames,
        groups=robot.groups,
        success_stamp=success_stamp,
        instruction=seen.status.instruction,
    )


def _commands_at(stamps: np.ndarray, commands: dict[int, FloatArray], joints: int, realtime: bool) -> FloatArray:
    rows = np.full((len(stamps), joints), np.nan)
    sent = np.array(list(commands), dtype=np.int64)
    for k, stamp in enumerate(stamps):
        key = int(stamp)
        if realtime and len(sent):
            before = int(np.searchsorted(sent, key, side="right")) - 1
            key = int(sent[before]) if before >= 0 else key
        if key in commands:
            rows[k] = commands[key]
    return rows


def states_at(stamps: np.ndarray, changes: list[tuple[int, str]]) -> list[str]:
    """The guard's state at each stamp, given its changes (stamp, state); ``inactive`` before the first."""
    since = [stamp for stamp, _ in changes]
    names = ["inactive", *(state for _, state in changes)]
    return [names[int(np.searchsorted(since, stamp, side="right"))] for stamp in stamps]


def outcome_of(seen: Seen, record: EpisodeRecord, realtime: bool) -> EpisodeResult:
    """The figures of an episode. Inference durations are the policy node's own; statistics are those last reported."""
    durations = {"inference": list(seen.durations_ms.values())}
    if realtime:
        durations[CONTROL_PERIOD] = [float(ns) / 1e6 for ns in np.diff(np.array(list(seen.commands), dtype=np.int64))]
    return EpisodeResult(
        seed=record.seed,
        success=record.success,
        success_steps=record.success_steps,
        commands=record.command,
        positions=record.position,
        states=[state.upper() for state in record.states],
        chunks=len(record.chunks),
        stale=seen.stale,
        statistics=statistics_of(seen.reports.get("command", {}), None),
        durations_ms=durations,
        goal_reached=seen.status.goal_reached,
    )


def statistics_of(report: dict[str, str], robot: Robot | None) -> CommandStatistics:
    """The command node's counts from its diagnostics; joints of ``robot`` that are not in there count zero."""
    joints = robot.joints if robot is not None else ()
    tables: dict[str, dict[str, int]] = {"rejections": {}, "fault_count": {}, "clipped": {}}
    tables.update({f"slowed.{kind}": {} for kind in SLOWED})
    tables.update({f"interventions.{kind}": dict.fromkeys(joints, 0) for kind in KINDS})
    for key, value in report.items():
        table = next((name for name in tables if key.startswith(name + ".")), None)
        if table is not None:
            tables[table][key[len(table) + 1 :]] = int(value)
    return CommandStatistics(
        ticks=int(report.get("ticks", 0)),
        ticks_active=int(report.get("ticks_active", 0)),
        ticks_limited=int(report.get("ticks_limited", 0)),
        interventions={kind: tables[f"interventions.{kind}"] for kind in KINDS},
        rejections=tables["rejections"],
        faults=tables["fault_count"],
        joint_ticks_limited=int(report.get("joint_ticks_limited", 0)),
        chunks=int(report.get("chunks", 0)),
        chunks_slowed=int(report.get("chunks_slowed", 0)),
        slowed={kind: tables[f"slowed.{kind}"] for kind in SLOWED},
        clipped=tables["clipped"],
    )


def reported_of(reports: dict[str, dict[str, str]]) -> dict[str, dict[str, float]]:
    """Percentiles in ms by stage, as the nodes published them; stages without any are left out."""
    found = {}
    for stage, (node, key) in REPORTED.items():
        report = reports.get(node, {})
        if f"{key}.p50" in report:
            found[stage] = {p: float(report[f"{key}.{p}"]) for p in ("p50", "p99")}
    return found
