"""``flow_policy doctor --live``: a running robot, listened to for some seconds, and what to change.

Listening is ``ros.live_look``'s, judging ``doctor_live_checks`` and ``doctor_machine``.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from flow_policy_ros.cli.doctor import Check

STREAMS = ("sensor_msgs/msg/JointState", "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage",
           "trajectory_msgs/msg/JointTrajectory")  # fmt: skip
"""What is listened to where no robot file says what there is."""


def main(robot: str | None, seconds: float, namespace: str, json: Path | None) -> int:
    """Listen, judge, print; returns 0 when there is no problem, else 1. Raises ``ValueError`` for bad input."""
    import time

    from rich.console import Console

    from flow_policy_ros import resources
    from flow_policy_ros.cli import doctor_live_checks as live
    from flow_policy_ros.cli import doctor_machine
    from flow_policy_ros.cli.doctor import show
    from flow_policy_ros.cli.outputs import require_file
    from flow_policy_ros.ros.live_look import MEETING_S, look
    from flow_policy_ros.runtime.robot import load_robot

    if not 0.5 <= seconds <= 600.0:
        raise ValueError(f"--seconds is {seconds:g}, expected 0.5 to 600.")
    require_file("--json", json)
    rows = live.expected(load_robot(resources.robot_file(robot)), namespace) if robot else []
    names = {form for row in rows for form in (row.topic, f"{row.topic}{live.COMPRESSED}")}

    def wants(topic: str, kind: str) -> bool:
        return topic in names or ("features" in topic.split("/") and kind in STREAMS) if rows else kind in STREAMS

    Console(stderr=True).print(f"listening for {MEETING_S + seconds:.0f} s", highlight=False)
    begun = time.monotonic()
    facts = look(seconds, wants, tuple({live.absolute("diagnostics", space) for space in ("", namespace)}))
    remedy = (
        "nothing can be judged. Start the robot; if it runs, this terminal has another ROS_DOMAIN_ID, middleware or discovery "
        "range."
    )
    nobody = [] if facts.nodes else [Check("nodes", False, True, "nobody is there", remedy)]
    large = doctor_machine.pictures(facts.middleware, {name: t.largest_bytes for name, t in facts.topics.items() if t.heard})
    checks = [*nobody, *live.examine(facts, rows), *large, *doctor_machine.examine(facts.middleware)]
    ok = all(check.ok for check in checks if check.required)
    heard = [figures(topic) for topic in facts.topics.values() if topic.heard]
    table(heard, facts.simulated)
    show(checks, "problem")
    if json is not None:
        import json as writer

        content = {"ok": ok, "seconds": round(time.monotonic() - begun, 3), "simulated_time": facts.simulated,
                   "nodes": list(facts.nodes), "topics": heard, "checks": [asdict(check) for check in checks]}  # fmt: skip
        json.write_text(writer.dumps(content, indent=1) + "\n")
    return 0 if ok else 1


def figures(topic: Any) -> dict[str, Any]:
    """What was measured of a topic (``TopicFacts``): rate, largest gap, age."""
    import numpy as np

    ages = topic.ages_ms()
    return {
        "name": topic.name,
        "type": topic.types[0],
        "publishers": sorted(end.node for end in topic.publishers),
        "subscribers": sorted(end.node for end in topic.subscribers),
        "count": len(topic.heard),
        "rate_hz": None if topic.rate_hz is None else round(topic.rate_hz, 2),
        "max_gap_s": round(topic.largest_gap_s, 4),
        "age_ms": {f"p{q}": round(float(np.percentile(ages, q)), 3) for q in (50, 99)} if len(ages) else None,
    }


def table(heard: list[dict[str, Any]], simulated: bool) -> None:
    """Print the topics that were heard."""
    from rich.console import Console
    from rich.table import Table

    title = "on the simulated clock" if simulated else None
    rows = Table("topic", "Hz", "largest gap ms", "age ms p50", "p99", "publishers", title=title)
    for row in sorted(heard, key=lambda row: row["name"]):
        age = row["age_ms"] or {}
        numbers = [row["rate_hz"], round(1e3 * row["max_gap_s"], 1), age.get("p50"), age.get("p99")]
        rows.add_row(row["name"], *("" if n is None else f"{n:.1f}" for n in numbers), " ".join(row["publishers"]))
    Console().print(rows)
