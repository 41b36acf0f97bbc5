"""A short recording in which everything happens that the view shows, and a client for its page."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from flow_policy_ros.data.bags import messages as m
from flow_policy_ros.data.bags.mcap_writer import McapWriter
from flow_policy_ros.runtime.status_names import full_name
from flow_policy_ros.runtime.types import Chunk, Features, Plan

START = 1_700_000_000_000_000_000
MS = 1_000_000
JOINTS = ("shoulder", "elbow", "<b>wrist</b>")  # names are text, whatever they hold
SECONDS = 3.0
FAULT_AT, INSTRUCTION = START + 2000 * MS, "open <i>the</i> door"
LABEL = "<i>handle</i>"
BOX = (0.5, 0.4, 0.2, 0.3, 0.9)


def position(stamp: int) -> np.ndarray:
    t = (stamp - START) / 1e9
    return np.array([np.sin(2 * t), 0.3 * np.cos(3 * t), 0.1 * t])


def picture(number: int) -> np.ndarray:
    image = np.zeros((48, 64, 3), dtype=np.uint8)
    image[..., 0] = 5 * number % 256
    done, data = cv2.imencode(".jpg", image)
    assert done
    return data.ravel()


def write_view_bag(path: Path, seconds: float = SECONDS, space: str = "", camera: str = "camera/image_raw") -> Path:
    """100 Hz of joint states and set-points, 12.5 Hz of pictures, features, chunks, plans, 1 Hz of diagnostics; a fault at 2 s."""
    with McapWriter(path, "none") as bag:
        bag.put(f"{space}/features/detections/info", m.STRING, START, m.text(json.dumps({"classes": ["door", LABEL]})))
        bag.put(f"{space}/instruction", m.STRING, START, m.text(INSTRUCTION))
        for k in range(round(100 * seconds)):
            stamp = START + 10 * k * MS
            bag.put(f"{space}/joint_states", m.JOINT_STATE, stamp + MS, m.joint_state(stamp, JOINTS, position(stamp)))
            sent = m.joint_state(stamp, JOINTS, position(stamp) + 0.01)
            bag.put(f"{space}/command/executed", m.JOINT_STATE, stamp + 2 * MS, sent)
            if k % 8 == 0:
                image = m.compressed_image(stamp, "front", picture(k // 8))
                bag.put(f"{space}/{camera}/compressed", m.COMPRESSED_IMAGE, stamp + 3 * MS, image)
                values = np.array([[0, 0, 0, 0, 0], BOX], dtype=np.float32)
                seen = m.features(Features(stamp - 80 * MS, "detections", values))
                bag.put(f"{space}/features/detections", m.IMAGE, stamp + 4 * MS, seen)
                chunk = Chunk(stamp, 20 * MS, JOINTS, np.stack([position(stamp + 20 * i * MS) for i in range(50)]))
                bag.put(f"{space}/policy/chunk", m.TRAJECTORY, stamp + 40 * MS, m.chunk(chunk))
                info = {"stamp": stamp, "duration_ms": "31.5", "observation.joint_state": stamp,
                        "observation.detections": stamp - 90 * MS, "observation.prompt": START - 10**15}  # fmt: skip
                bag.put(f"{space}/policy/chunk_info", m.STATUS, stamp + 41 * MS, m.lone_status("chunk", 0, "", info))
                plan = Plan(stamp + 50 * MS, 10 * MS, JOINTS, chunk.positions, stamp)
                bag.put(f"{space}/command/plan", m.TRAJECTORY, stamp + 51 * MS, m.plan(plan))
            if k % 100 == 50 or k == 203:  # the fault is told of 30 ms after it was latched
                bag.put("/diagnostics", m.DIAGNOSTICS, stamp, m.diagnostics(stamp, statuses(stamp, space)))
    return path


def statuses(stamp: int, space: str = "") -> list[Any]:
    fault = stamp >= FAULT_AT
    values = {
        "state": "fault" if fault else "active", "state_since": FAULT_AT if fault else START, "enabled": True,
        "faults": "tracking_error" if fault else "", "ticks_active": 80, "ticks_limited": 8, "period_error_ms.p99": 0.25,
        "interventions.velocity.elbow": 5, "interventions.jerk.elbow": 2, "rejections.chunk_late": 1 if fault else 0,
        "last_rejection": "chunk was received 20.0 ms after its last point.",
    }  # fmt: skip
    message = "tracking_error: elbow lies 0.3 rad from its set-point. Look at the hand." if fault else "following chunks"
    said = "no chunk: the joint state is too old" if fault else "sampling"
    policy = m.status(full_name("policy", space), 1 if fault else 0, said, {})
    return [m.status(full_name("command", space), 2 if fault else 0, message, values), policy]


def get(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Code, headers and body of a page."""
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def events(url: str, last: str = "") -> Iterator[tuple[str, str, Any]]:
    """(id, event, content) of a page's events, as they come; ends with the stream."""
    request = urllib.request.Request(f"{url}events", headers={"Last-Event-ID": last} if last else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        fields: dict[str, str] = {}
        for raw in answer:
            line = raw.decode().rstrip("\n")
            if line:
                name, _, text = line.partition(": ")
                fields[name] = text
            elif "data" in fields:
                yield fields.get("id", ""), fields.get("event", ""), json.loads(fields["data"])
                fields = {}
