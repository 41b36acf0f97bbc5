"""What is in a recording: topics, rates, stamps, joints, pictures. One pass over it, with memory that does not grow.

Only what is there is found here (``data.inspection_found``). What is wrong with it, and whether a robot or a checkpoint can use
it, is ``data.inspection_findings``'; printing is ``cli.inspect``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from flow_policy_ros.data import bag_messages as m
from flow_policy_ros.data import message_looks as looks
from flow_policy_ros.data.bags.bag import Bag, BagError, RawMessage, Topic
from flow_policy_ros.data.inspection_found import (
    ImagesFound,
    Inspection,
    JointFound,
    JointsFound,
    LayoutFound,
    StampsFound,
    TopicFound,
)
from flow_policy_ros.data.tallies import Instants, Joints, Pictures, Stamps
from flow_policy_ros.runtime.types import EncodedImage
from flow_policy_ros.runtime.yaml_bounded import load_yaml

LOOK_EVERY = 50
"""Of so many images of a topic one is decoded, the first among them."""
REPORT_EVERY = 1000
RELIABILITY = {"1": "reliable", "2": "best effort", "reliable": "reliable", "best_effort": "best effort"}
DURABILITY = {"1": "transient local", "2": "volatile", "transient_local": "transient local", "volatile": "volatile"}

Decode = Callable[[EncodedImage], NDArray[np.uint8]]
"""An image as RGB (H, W, 3); raises ``ValueError`` with the reason. It is ``vision.decode.decode``."""


def inspect_bag(bag: Bag, decode: Decode, progress: Callable[[float], None] = lambda share: None) -> Inspection:
    """Read all of ``bag`` once. ``progress`` is told the share done, now and then, where the recording's length is known."""
    watches = {name: _Watch(topic, bag, decode) for name, topic in bag.topics.items()}
    length = None if bag.start is None or bag.end is None else max(1, bag.end - bag.start)
    all_of_them = Instants()
    for number, message in enumerate(bag.messages()):
        watches[message.topic].add(message)
        all_of_them.add(message.received, len(message.data))
        if length is not None and bag.start is not None and number % REPORT_EVERY == 0:
            progress(min(1.0, (message.received - bag.start) / length))
    start = all_of_them.first
    found = [watches[name] for name in sorted(watches)]
    return Inspection(
        str(bag.path),
        bag.kind,
        compression_of(bag),
        size_of(bag),
        all_of_them.size,
        start,
        all_of_them.last,
        all_of_them.gap / 1e9,
        all_of_them.count,
        tuple(watch.topic_found(start) for watch in found),
        tuple(stamps for watch in found for stamps in watch.stamps_found()),
        tuple(joints for watch in found for joints in watch.joints_found()),
        tuple(images for watch in found for images in watch.images_found()),
        tuple(bag.problems),
    )


def size_of(bag: Bag) -> int:
    """Bytes on the disk."""
    return sum(path.stat().st_size for path in _files(bag))


def compression_of(bag: Bag) -> str:
    """``file, zstd`` where whole files are compressed, ``messages, zstd`` where metadata says so, else empty.

    Chunks that are compressed inside of MCAP and ROS 1 files are not told apart.
    """
    if any(path.suffix in (".zstd", ".zst") for path in _files(bag)):
        return "file, zstd"
    try:
        tree = load_yaml((bag.path / "metadata.yaml").read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
        form, mode = str(tree["compression_format"]), str(tree["compression_mode"]).lower()
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, RecursionError):
        return ""  # there is none, or the reader has complained about it
    return f"messages, {form}" if mode == "message" and form else ""


def _files(bag: Bag) -> list[Path]:
    return [bag.path] if bag.path.is_file() else [path for path in bag.path.iterdir() if path.is_file()]


def qos_of(text: str) -> tuple[str, ...]:
    """What publishers offered, in words, an entry per publisher; "unreadable" for what is no such list."""
    try:
        profiles = load_yaml(text) or []
        return tuple(_profile(profile) for profile in profiles)
    except (yaml.YAMLError, AttributeError, TypeError, RecursionError):
        return ("unreadable",)


def _profile(profile: dict[str, Any]) -> str:
    words = [
        RELIABILITY.get(str(profile.get("reliability")), "reliability unknown"),
        DURABILITY.get(str(profile.get("durability")), "durability unknown"),
    ]
    if str(profile.get("history")) in ("1", "keep_last"):
        words.append(f"last {profile.get('depth')}")
    return ", ".join(words)


class _Watch:
    """Everything that is counted on one topic."""

    def __init__(self, topic: Topic, bag: Bag, decode: Decode) -> None:
        self.instants = Instants()
        self._topic, self._bag, self._decode = topic, bag, decode
        self._stamps = Stamps()
        self._joints: dict[str, Joints] = {}
        self._reported: set[str] = set()  # parts that have velocities
        self._pictures = Pictures()
        self._refused, self._why = 0, ""
        self._known = False  # a message could be decoded
        self._leading = False  # its type begins with a header
        self._images = m.IMAGES.get(topic.type) if "features" not in topic.name.split("/") else None
        self._whole = topic.type in looks.JOINTS or self._images is not None or topic.encoding not in ("cdr", "ros1")

    def add(self, message: RawMessage) -> None:
        self.instants.add(message.received, len(message.data))
        if self._refused > LOOK_EVERY and not self._known:
            self._refused += 1  # nothing of this type can be decoded
            return
        if self._known and not self._whole:
            if self._leading and (stamp := looks.leading_stamp(self._topic.encoding, message.data)) is not None:
                self._stamps.add(stamp, message.received)
            return
        try:
            content = self._bag.decode(message)
            stamp = looks.header_stamp(content)
            self._look(content, stamp or message.received)
        except (BagError, AttributeError, TypeError, ValueError) as error:
            self._refused += 1
            self._why = self._why or str(error)
            return
        self._known, self._leading = True, looks.begins_with_header(content)
        if stamp is not None and (self._whole or self._leading):
            self._stamps.add(stamp, message.received)

    def _look(self, content: Any, instant: int) -> None:
        kind = self._topic.type
        if kind in looks.JOINTS:
            for row in looks.joint_rows(kind, content):
                self._joints.setdefault(row.part, Joints()).add(row.names, row.position, row.velocity, instant)
                if row.velocity is not None and len(row.velocity):
                    self._reported.add(row.part)
        elif self._images is not None:
            self._picture(self._images(content), str(getattr(content, "format", "")))

    def _picture(self, image: EncodedImage, form: str) -> None:
        sized = image.width > 0
        number = self._pictures.count
        self._pictures.add(form or image.encoding, (image.width, image.height) if sized else None, image.data)
        if number % LOOK_EVERY == 0:
            try:
                self._pictures.seen(self._decode(image), sized)
            except ValueError as error:
                self._pictures.failed(str(error))

    def topic_found(self, start: int | None) -> TopicFound:
        i, topic = self.instants, self._topic
        span = 0 if i.first is None or i.last is None else i.last - i.first
        period = i.periods.quantile(0.5)
        return TopicFound(
            name=topic.name,
            type=topic.type,
            encoding=topic.encoding,
            listed=topic.count,
            count=i.count,
            size_bytes=i.size,
            first_s=None if i.first is None or start is None else (i.first - start) / 1e9,
            rate_hz=(i.count - 1) * 1e9 / span if span > 0 else None,
            typical_hz=1e9 / period if period else None,
            max_gap_s=i.gap / 1e9 if i.count > 1 else None,
            max_gap_at_s=(i.gap_at - start) / 1e9 if i.count > 1 and start is not None and i.gap else None,
            qos=qos_of(topic.qos),
            refused=self._refused,
            why=self._why,
        )

    def stamps_found(self) -> Iterator[StampsFound]:
        s = self._stamps
        if s.count:
            some = s.delays.count > 0
            p50, p99 = (s.delays.quantile(share) for share in (0.5, 0.99))
            yield StampsFound(
                self._topic.name, s.count, s.zero, s.early, s.back, s.repeated,
                None if p50 is None else p50 / 1e6,
                None if p99 is None else p99 / 1e6,
                s.delays.low / 1e6 if some else None,
                s.delays.high / 1e6 if some else None,
            )  # fmt: skip

    def joints_found(self) -> Iterator[JointsFound]:
        for part, joints in self._joints.items():
            layouts = []
            for (names, width), motion in joints.layouts.items():
                columns = tuple(
                    JointFound(
                        names[k] if names else "", float(motion.low[k]), float(motion.high[k]), float(motion.velocity[k]),
                        float(motion.reported[k]) if np.isfinite(motion.reported[k]) else None,
                    )
                    for k in range(width)
                )  # fmt: skip
                layouts.append(LayoutFound(self._topic.name, part, bool(names), motion.count, motion.not_finite, columns))
            yield JointsFound(
                self._topic.name, part, tuple(layouts), joints.uneven, joints.empty, joints.crowded, part in self._reported
            )

    def images_found(self) -> Iterator[ImagesFound]:
        p = self._pictures
        if p.count:
            yield ImagesFound(
                self._topic.name, p.count, p.encodings, p.sizes, p.repeated, p.looked, p.plain, p.unreadable, p.why
            )
