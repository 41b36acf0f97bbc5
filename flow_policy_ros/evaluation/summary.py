"""What a run of episodes amounts to: one dictionary of figures for ``evaluate`` and ``demo``, and its table.

Nothing is measured here and nothing assumed: a figure for which there is no data is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from flow_policy_ros.evaluation.closed_loop import EpisodeResult
from flow_policy_ros.evaluation.latency import doubts
from flow_policy_ros.evaluation.setup import Loaded
from flow_policy_ros.sim.robot import CONTROL_STEP_NS

CONTROL_PERIOD = "control_period"
"""Stage of ``EpisodeResult.durations_ms`` that holds intervals between commands, not a latency."""


def summarise(
    outcomes: Sequence[EpisodeResult],
    loaded: Loaded,
    wall_s: float,
    seed: int,
    realtime: bool = False,
    reported: Mapping[str, Mapping[str, float]] | None = None,
    strict_steps: int = 25,
) -> dict[str, Any]:
    """Figures of the ``outcomes`` (in the order in which one stack ran them), in plain JSON types.

    ``seed`` of the first episode; ``wall_s`` what the run took, s. ``realtime``: against the wall clock, so that no delay
    was injected. ``reported``: ``p50`` and ``p99`` in ms of stages that others measured. A strict success holds the goal for more
    than ``strict_steps`` control steps (the task's, as the published Adroit evaluations ask). Raises ``ValueError`` without
    outcomes.
    """
    if not outcomes:
        raise ValueError("a summary needs at least one episode; none was run.")
    ticks = sum(len(o.states) for o in outcomes)
    counts = outcomes[-1].statistics  # a stack counts through all its episodes
    stages: dict[str, list[float]] = {}
    for outcome in outcomes:
        for stage, durations in outcome.durations_ms.items():
            stages.setdefault(stage, []).extend(durations)
    periods = stages.pop(CONTROL_PERIOD, [])
    strict = sum(o.success_steps > strict_steps for o in outcomes)
    successes = sum(o.success for o in outcomes)
    summary: dict[str, Any] = {
        "success_rate": successes / len(outcomes),
        "successes": successes,
        "episodes": len(outcomes),
        "strict_success_rate": strict / len(outcomes),
        "strict_successes": strict,
        "strict_steps": strict_steps,
        "seed": seed,
        "wall_s": round(wall_s, 3),
        "realtime_factor": round(ticks * CONTROL_STEP_NS / 1e9 / wall_s, 4) if wall_s > 0 else None,
        "latency_ms": {stage: _without_max(percentiles(ms)) for stage, ms in stages.items() if ms} | {**(reported or {})},
        "latency_profile": latency_of(loaded, realtime),
        "interventions": {
            kind: {joint: n for joint, n in joints.items() if n} for kind, joints in counts.interventions.items()
        },
        "intervention_rate": counts.ticks_limited / counts.ticks_active if counts.ticks_active else 0.0,
        "joint_intervention_rate": counts.joint_ticks_limited / max(1, counts.ticks_active * len(loaded.robot.joints)),
        "chunks_followed": counts.chunks,
        "chunks_slowed": counts.chunks_slowed,
        "slowed": counts.slowed,
        "clipped": counts.clipped,
        "ticks": counts.ticks,
        "ticks_active": counts.ticks_active,
        "chunks": sum(o.chunks for o in outcomes),
        "stale": sum(len(o.stale) for o in outcomes),
        "faults": dict(counts.faults),
        "rejections": dict(counts.rejections),
        "trajectory_sha256": trajectory_sha256(outcomes),
        "per_episode": [
            {"seed": o.seed, "success": o.success, "success_steps": o.success_steps, "sha256": o.sha256()}
            for o in outcomes
        ],
    }
    if periods:
        summary["control_period_ms"] = percentiles(periods)
        summary["control_period_error_ms"] = percentiles([abs(p - CONTROL_STEP_NS / 1e6) for p in periods])
    return summary


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """``p50``, ``p99`` and ``max``, rounded to a thousandth."""
    p50, p99 = np.percentile(values, (50, 99))
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "max": round(float(max(values)), 3)}


def _without_max(figures: dict[str, float]) -> dict[str, float]:
    return {"p50": figures["p50"], "p99": figures["p99"]}


def trajectory_sha256(outcomes: Sequence[EpisodeResult]) -> str:
    """Hash of every episode's set-points and measured positions, in order."""
    return hashlib.sha256("".join(outcome.sha256() for outcome in outcomes).encode()).hexdigest()


def latency_of(loaded: Loaded, realtime: bool) -> dict[str, Any]:
    """Which delays applied: ``mode`` is ``real`` (against the wall clock), ``none``, or ``injected`` from a profile."""
    if realtime:
        return {"mode": "real"}
    if loaded.profile is None:
        return {"mode": "none"}
    profile = loaded.stack.latency
    return {
        "mode": "injected",
        "file": loaded.profile.name,
        "sha256": profile.sha256(),
        "measured_on": profile.measured_on,
        "doubts": doubts(profile),
        "ms": {stage: _without_max(percentiles(samples)) for stage, samples in profile.samples_ms.items() if samples},
    }


def print_summary(console: Console, summary: dict[str, Any]) -> None:
    """The figures as a table for people."""
    table = Table(show_header=False, title=title(summary), title_justify="left", padding=(0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in rows(summary):
        table.add_row(name, text)
    console.print(table)


def title(summary: dict[str, Any]) -> str:
    """Task and observation, as far as the summary says."""
    return ", ".join(str(summary[key]) for key in ("task", "observation") if key in summary) or "episodes"


def rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and text of each line of the table."""
    n = summary["episodes"]
    lines = [
        ("success", f"{summary['successes']} of {n} ({summary['success_rate']:.0%}); held for more than {summary['strict_steps']} "
                    f"steps: {summary['strict_successes']} of {n}"),
        ("time", f"{summary['wall_s']:.1f} s, {summary['realtime_factor'] or 0:.2f} × real time; first seed "
                 f"{summary['seed']}"),
        ("delays", delays_text(summary["latency_profile"])),
    ]  # fmt: skip
    if summary.get("inject"):
        lines.append(("disturbances", f"{summary['inject']} (s, probabilities)"))
    for stage, figures in summary["latency_ms"].items():
        lines.append((f"{stage} latency", f"p50 {figures['p50']:.2f} ms, p99 {figures['p99']:.2f} ms"))
    if "control_period_ms" in summary:
        period, error = summary["control_period_ms"], summary["control_period_error_ms"]
        text = f"p50 {period['p50']:.3f} ms; error p50 {error['p50']:.3f}, p99 {error['p99']:.3f}, max {error['max']:.3f} ms"
        lines.append(("control period", text))
    lines.append(("limits acted", interventions_text(summary)))
    slowed = f"{summary['chunks_slowed']} slowed down along their path" if summary["chunks_slowed"] else "none slowed down"
    lines.append(("chunks", f"{summary['chunks']}, {slowed}; {summary['stale']} times an input was too old to sample"))
    lines.append(("faults", counts_text(summary["faults"])))
    if summary["rejections"]:
        lines.append(("rejected", counts_text(summary["rejections"])))
    lines.append(("trajectory", f"sha256 {summary['trajectory_sha256'][:16]}…"))
    return lines


def delays_text(profile: dict[str, Any]) -> str:
    """Which perception and inference delays applied, in words."""
    if profile["mode"] == "real":
        return "the real ones, against the wall clock"
    if profile["mode"] == "none":
        return "none injected"
    stages = ", ".join(f"{stage} {ms['p50']:.1f} ms" for stage, ms in profile["ms"].items())
    return "; ".join(filter(None, [f"measured ones injected: {stages} (p50)", profile.get("doubts")]))


def interventions_text(summary: dict[str, Any]) -> str:
    """Share of ticks, then counts by kind with the joint that was changed most."""
    parts = []
    for kind, joints in summary["interventions"].items():
        if joints:
            worst = max(joints, key=lambda joint: joints[joint])
            parts.append(f"{kind} {sum(joints.values())} (most: {worst} {joints[worst]})")
    share = (
        f"on {summary['joint_intervention_rate']:.1%} of all joint set-points, in {summary['intervention_rate']:.1%} of "
        f"{summary['ticks_active']} active ticks"
    )
    return ": ".join([share, ", ".join(parts)] if parts else [share])


def counts_text(table: dict[str, int]) -> str:
    """``name n, …``, or none."""
    return ", ".join(f"{name} {count}" for name, count in table.items()) or "none"
