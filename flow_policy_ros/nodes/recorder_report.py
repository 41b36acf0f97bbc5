"""What the recorder says of itself: on ``/diagnostics``, on the terminal, in words and in a file of figures. It decides nothing."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flow_policy_ros.nodes.recorder_episode import GB, EpisodeReport
from flow_policy_ros.nodes.recorder_session import Session
from flow_policy_ros.nodes.recorder_topics import Selection
from flow_policy_ros.ros.diagnostics import ERROR, OK, WARN, counts


def state(session: Session, topics: int, received: int, lost: Mapping[str, int | None]) -> dict[str, object]:
    """The values on ``/diagnostics``: of the episode that runs, else of the last. ``lost`` by topic, None where it is not known."""
    episode, last = session.episode, session.last
    now = episode or last
    overflow = dict(now.overflow) if now else {}
    known = all(count is not None for count in lost.values())
    return {
        "state": "idle" if episode is None else "recording",
        "episode": now.path if now else "",
        "topics": topics,
        "received": received,
        "messages": now.messages if now else 0,
        "seconds": now.seconds if now else 0.0,
        "size_mb": (now.size if now else 0) / 1e6,
        "waiting_mb": (episode.waiting if episode else 0) / 1e6,
        "free_gb": _free_gb(session.folder),
        "lost": sum(count or 0 for count in lost.values()) if known else "",
        **counts("lost", {topic: count or 0 for topic, count in lost.items()}),
        **counts("overflow", overflow),
    }


def judge(
    values: Mapping[str, object], failed: str, silent: Sequence[str], missing: Sequence[str], problems: Mapping[str, str]
) -> tuple[bytes, str]:
    """Level and message. ``failed`` is why the last episode ended if nobody asked, or none begins; ``silent`` topics have no
    publisher, ``missing`` says what the episode lacks, ``problems`` why a topic is not recorded."""
    if failed:
        return ERROR, failed
    if any(key.startswith("overflow.") for key in values):
        return ERROR, "the disk is too slow: messages were dropped. Record less, compress less, or use another disk."
    if silent:
        return WARN, f"nobody publishes {', '.join(silent)}. Check that it runs and that the robot file names its topic."
    if missing:
        return WARN, "; ".join(missing)
    if problems:
        return WARN, "; ".join(f"topic {topic}: {why}" for topic, why in problems.items())
    return (WARN, "messages were lost on the way") if values["lost"] else (OK, str(values["state"]))


def _free_gb(folder: Path) -> float:
    """0 where the folder is gone."""
    try:
        return shutil.disk_usage(folder).free / GB
    except OSError:
        return 0.0


def line(values: Mapping[str, object], level: bytes, message: str) -> str:
    """For the terminal: keys and the essential figures within 80 columns, then the rest as far as there is room."""
    keys = f"[space {'stop' if values['state'] == 'recording' else 'start'}, s/f label, d delete, q quit]"
    form = "{state} {clock} {messages} msgs {size_mb:.1f} MB{lost_text} {free_gb:.1f} GB free"
    lost = f" lost {values['lost']}" if values["lost"] else ""
    figures = form.format(**values, clock=clock(float(str(values["seconds"]))), lost_text=lost)
    return f"{keys} {figures}" + ("" if level == OK else f"  {message}")


def clock(seconds: float) -> str:
    """HH:MM:SS."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"


def summary(report: EpisodeReport, missing: Sequence[str] = ()) -> str:
    """An episode in a sentence, with what it lacks."""
    lost = [count for count in report.lost.values() if count is not None]
    parts = [f"{report.path}: {report.messages} messages, {report.seconds:.1f} s, {report.size / 1e6:.1f} MB"]
    parts.append(f"{sum(lost)} lost on the way" if len(lost) == len(report.lost) else "losses on the way are not known")
    if report.overflow:
        parts.append(f"{sum(report.overflow.values())} dropped because the disk was too slow")
    return "; ".join([", ".join(parts), *(sentence.replace(" yet on ", " on ", 1) for sentence in missing)])


def heard(counts: Mapping[str, int]) -> set[str]:
    """Topics with messages."""
    return {topic for topic, count in counts.items() if count}


def figures(reports: Sequence[EpisodeReport], selection: Selection) -> dict[str, Any]:
    """What was recorded, and what is missing in it, for a file of figures."""
    return {
        "episodes": [
            {
                "path": str(report.path),
                "seconds": round(report.seconds, 3),
                "bytes": report.size,
                "messages": report.messages,
                "topics": dict(report.counts),
                "lost": {topic: count for topic, count in report.lost.items() if count != 0},
                "overflow": dict(report.overflow),
                "missing": selection.missing(heard(report.counts)),
                "problem": report.problem,
            }
            for report in reports
        ]
    }
