"""What ``flow_policy inspect`` shows of a recording: tables for people, plain JSON types for the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flow_policy_ros.data.inspection_findings import Findings, label
from flow_policy_ros.data.inspection_fit import Fit, naming_of
from flow_policy_ros.data.inspection_found import Inspection, LayoutFound
from flow_policy_ros.data.inspection_roles import main_layout, roles
from flow_policy_ros.runtime.joint_naming import JointNaming
from flow_policy_ros.runtime.joint_order import BadInput
from flow_policy_ros.runtime.robot import Robot

MOST_LAYOUTS_SHOWN = 3
EXPLAINED = (
    "velocity: the greatest, from the positions; reported: the greatest among the velocities in the messages, – without any; "
    "limit: the robot file's velocity"
)
WIDE = 200


def show_recording(
    found: Inspection, said: Findings, robot: Robot | None, fit: Fit | None, sketch: Sequence[str], written: Path | None = None
) -> dict[str, Any]:
    """Print everything, and return it for a JSON file; of a sketch that goes to the file ``written`` only that."""
    console = screen()
    compressed = f" (compressed: {found.compression})" if found.compression else ""
    size = f"{found.size_bytes / 1e6:.2f} MB on the disk, {found.content_bytes / 1e6:.2f} MB of messages"
    say(console, f"{found.path}: {found.kind}{compressed}, {found.duration_s:.3f} s, {found.messages} messages, {size}")
    console.print(_topics(found))
    for joints in found.joints:
        for layout in sorted(joints.layouts, key=lambda layout: -layout.count)[:MOST_LAYOUTS_SHOWN]:
            console.print(_joints(layout, robot, fit is not None and label(layout) == fit.commands))
    if found.joints:
        say(console, EXPLAINED)
    if found.images:
        console.print(_images(found))
    guessed = roles(found)
    states = [label(joints) for joints in guessed.states] if fit is None else [fit.states] * bool(fit.states)
    commands = [label(joints) for joints in guessed.commands] if fit is None else [fit.commands] * bool(fit.commands)
    look = " (guessed from the topics' names)" if fit is None else ""
    say(console, f"joint states{look}: {', '.join(states) or 'none'}; commands{look}: {', '.join(commands) or 'none'}")
    listing(console, "problems", said.problems)
    listing(console, "notes", [*said.notes, *(fit.notes if fit is not None else ())])
    if fit is not None and robot is not None:
        able = "can be replayed" if fit.possible else "cannot be replayed"
        say(console, f"\nwith robot file {robot.path} ('{robot.name}') this recording {able}")
        listing(console, "missing", fit.missing)
        listing(console, "what it will run into", fit.limits)
    if written is not None:
        say(console, f"\na robot file for this recording is in {written}; check every line and fill in what is marked TODO")
    elif sketch:
        say(console, "\na robot file for this recording (--write-robot FILE writes it); check every line and fill in what is TODO:")
        say(console, "\n".join(["", *sketch]))
    return _content(found, said, robot, fit, sketch, states, commands)


def screen() -> Console:
    """The terminal; into a file or a pipe lines may be long."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDE)


def say(console: Console, text: str) -> None:
    """A line that is no markup. What a recording holds may be meant for the terminal and not for the reader: it is not passed "
    "on."""
    console.print(clean(text), soft_wrap=True, markup=False, highlight=False)


def clean(text: str) -> str:
    """Without control characters, but for line ends."""
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text)


def listing(console: Console, title: str, sentences: Sequence[str]) -> None:
    """A heading and a line for each sentence; nothing when there is none."""
    if sentences:
        say(console, f"\n{title}:")
        for sentence in sentences:
            say(console, f"- {' '.join(sentence.split())}")


def plain(value: Any) -> Any:
    """For JSON: keys as text, tuples as lists, and null for what is no finite number."""
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else "x".join(map(str, key)): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def figure(value: float | None, digits: int = 3) -> str:
    """A number with at most ``digits`` behind the point, or a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def table(*columns: str) -> Table:
    """Numbers to the right, nothing cut off."""
    made = Table(title_justify="left")
    for number, column in enumerate(columns):
        made.add_column(column, overflow="fold", justify="left" if number < 2 else "right")
    return made


def _topics(found: Inspection) -> Table:
    made = table("topic", "type", "messages", "Hz", "longest gap s", "delay p50 ms", "p99 ms", "MB", "QoS")
    stamps = {entry.topic: entry for entry in found.stamps}
    for topic in found.topics:
        delay = stamps.get(topic.name)
        made.add_row(
            clean(topic.name),
            clean(topic.type),
            str(topic.count),
            figure(topic.rate_hz, 1),
            figure(topic.max_gap_s),
            figure(delay.delay_p50_ms if delay else None, 1),
            figure(delay.delay_p99_ms if delay else None, 1),
            figure(topic.size_bytes / 1e6, 2),
            clean(" | ".join(dict.fromkeys(topic.qos))) or "–",
        )
    return made


def _joints(layout: LayoutFound, robot: Robot | None, commands: bool) -> Table:
    made = table(
        "joint", "motion", "from\nrad or m", "to\nrad or m", "range\nrad or m", "velocity\nrad/s or m/s", "reported\nrad/s or m/s",
        *(["limit\nrad/s or m/s"] if robot is not None else []),
    )  # fmt: skip
    made.title = f"{clean(label(layout))}, {layout.count} messages" + ("" if layout.named else ", no names")
    names = () if robot is None else _meant(layout, naming_of(robot, commands))
    for number, joint in enumerate(layout.joints):
        row = [
            clean(joint.name) or f"column {number}",
            "still" if joint.still else "moves",
            figure(joint.low),
            figure(joint.high),
            figure(joint.high - joint.low, 4),
            figure(joint.velocity, 2),
            figure(joint.reported_velocity, 2),
        ]
        if robot is not None:
            known = names and names[number] in robot.joints
            row.append(figure(float(robot.limits.velocity[robot.joints.index(names[number])]), 2) if known else "–")
        made.add_row(*row)
    return made


def _meant(layout: LayoutFound, naming: JointNaming) -> tuple[str, ...]:
    """The robot file's names of the columns; none where it does not say."""
    try:
        return naming.rename(layout.names, len(layout.joints))
    except BadInput:
        return ()


def _images(found: Inspection) -> Table:
    made = table("images", "encoding", "size", "messages", "Hz", "repeated")
    for images in found.images:
        topic = found.topic(images.topic)
        sizes = ", ".join(f"{width} × {height}" for width, height in images.sizes)
        encodings = clean(", ".join(images.encodings))
        rate = figure(topic.rate_hz if topic else None, 1)
        made.add_row(clean(images.topic), encodings, sizes, str(images.count), rate, str(images.repeated))
    return made


def _content(
    found: Inspection,
    said: Findings,
    robot: Robot | None,
    fit: Fit | None,
    sketch: Sequence[str],
    states: Sequence[str],
    commands: Sequence[str],
) -> dict[str, Any]:
    stamps = {entry.topic: {key: value for key, value in asdict(entry).items() if key != "topic"} for entry in found.stamps}
    content: dict[str, Any] = {
        "what": "recording",
        "path": found.path,
        "kind": found.kind,
        "compression": found.compression,
        "size_bytes": found.size_bytes,
        "content_bytes": found.content_bytes,
        "silence_s": found.silence_s,
        "start_ns": found.start,
        "end_ns": found.end,
        "duration_s": found.duration_s,
        "messages": found.messages,
        "topics": [{**asdict(topic), "stamps": stamps.get(topic.name)} for topic in found.topics],
        "joints": [
            {"topic": layout.topic, "part": layout.part, "column": k, "still": joint.still, **asdict(joint)}
            for joints in found.joints
            for layout in joints.layouts
            for k, joint in enumerate(layout.joints)
        ],
        "joint_topics": [
            {
                "topic": joints.topic,
                "part": joints.part,
                "uneven": joints.uneven,
                "empty": joints.empty,
                "crowded": joints.crowded,
                "layouts": [
                    {"names": layout.names, "named": layout.named, "count": layout.count, "not_finite": layout.not_finite}
                    for layout in joints.layouts
                ],
                "main": list(main.names) if (main := main_layout(joints)) is not None else None,
            }
            for joints in found.joints
        ],
        "images": [asdict(images) for images in found.images],
        "joint_states": list(states),
        "commands": list(commands),
        "problems": list(said.problems) + ([*fit.missing, *fit.limits] if fit is not None else []),
        "notes": list(said.notes) + (list(fit.notes) if fit is not None else []),
        "sketch": list(sketch),
    }
    if fit is not None and robot is not None:
        content["robot"] = {"name": robot.name, "path": robot.path}
        content["replay"] = {"possible": fit.possible, "missing": fit.missing, "limits": fit.limits, "cameras": dict(fit.cameras)}
    return content
