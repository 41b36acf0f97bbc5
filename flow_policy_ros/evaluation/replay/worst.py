"""The moments at which the policy differed most from the recording, each with what the camera showed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.bag_events import BadEvent, CommandEvent
from flow_policy_ros.evaluation.replay.comparison import ChunkComparison, ComparedChunk, spans
from flow_policy_ros.evaluation.replay.records import ReplayChunk, ReplayFeatures, ReplayMeta, ReplayTick
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import FloatArray, JointState

APART_NS = 500_000_000
"""Moments are at least this far apart: neighbouring chunks err alike."""


@dataclass(frozen=True)
class Moment:
    """One chunk beside the recording, in the robot's order of ``joints``.

    ``stamp`` of the chunk (ns) and ``elapsed_s`` since the replay's first joint state; ``error`` the mean of |predicted −
    recorded| over points and joints as a share of each joint's command range; ``joint`` the one that erred most, by ``joint_error``
    (rad or m, mean over points). ``ahead_s`` (H,) of the points from the chunk's stamp; ``predicted`` and ``recorded`` (H, J) rad
    or m, NaN where unknown. ``image`` RGB (h, w, 3) uint8 is the newest that the policy had then, from ``image_stamp`` (ns), with
    ``boxes`` (N, 4) pixels x0 y0 x1 y1 and their ``labels``; None without a camera.
    """

    stamp: int
    elapsed_s: float
    error: float
    joint: str
    joint_error: float
    joints: tuple[str, ...]
    ahead_s: FloatArray
    predicted: FloatArray
    recorded: FloatArray
    image: NDArray[np.uint8] | None = None
    image_stamp: int | None = None
    boxes: NDArray[np.float32] | None = None
    labels: tuple[str, ...] = ()


class Worst:
    """A ``ReplaySink`` that keeps the ``keep`` moments with the largest error, ``APART_NS`` apart; see ``moments``."""

    def __init__(self, robot: Robot, keep: int = 6) -> None:
        self._span = spans(robot.limits)
        self._keep = keep
        self._moments: list[Moment] = []

    def begin(self, meta: ReplayMeta) -> None:
        self._joints = meta.joints
        self._comparison = ChunkComparison(meta.joints)
        self._moments = []
        self._origin: int | None = None
        self._coming: list[ReplayFeatures] = []
        self._seen: ReplayFeatures | None = None
        self._seen_by: dict[int, ReplayFeatures | None] = {}  # by the stamp of the chunk

    def on_joint_state(self, state: JointState, received: int) -> None:
        if self._origin is None:
            self._origin = received

    def on_recorded(self, command: CommandEvent) -> None:
        self._comparison.on_recorded(command)

    def on_bad(self, event: BadEvent) -> None:
        pass

    def on_features(self, seen: ReplayFeatures) -> None:
        if seen.image is not None and not seen.lost:
            self._coming.append(seen)

    def on_chunk(self, sampled: ReplayChunk) -> None:
        self._look(sampled.now)
        self._seen_by[sampled.chunk.stamp] = self._seen
        self._comparison.on_chunk(sampled)

    def on_tick(self, tick: ReplayTick) -> None:
        self._look(tick.now)
        for compared in self._comparison.passed(tick.now):
            self._take(compared)

    def end(self) -> None:
        for compared in self._comparison.rest():
            self._take(compared)

    def moments(self) -> Sequence[Moment]:
        """The largest error first."""
        return tuple(sorted(self._moments, key=lambda moment: -moment.error))

    def _look(self, now: int) -> None:
        """The newest image that the policy has at ``now``."""
        arrived = [seen for seen in self._coming if seen.ready <= now]
        if arrived:
            self._seen = max([*arrived, *filter(None, [self._seen])], key=lambda seen: seen.features.stamp)
            self._coming = [seen for seen in self._coming if seen.ready > now]

    def _take(self, compared: ComparedChunk) -> None:
        chunk = compared.sampled.chunk
        seen = self._seen_by.pop(chunk.stamp, None)
        difference = np.abs(compared.predicted - compared.recorded)
        known = np.isfinite(difference)
        if not known.any():
            return
        share = np.where(known, difference, 0.0) / self._span
        error = float(share.sum() / known.sum())
        least = min((moment.error for moment in self._moments), default=0.0)
        if len(self._moments) >= self._keep and error <= least:
            return
        by_joint = np.where(known, difference, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        joint = int(np.argmax(by_joint / self._span))
        moment = Moment(
            stamp=chunk.stamp,
            elapsed_s=(chunk.stamp - (self._origin if self._origin is not None else chunk.stamp)) / 1e9,
            error=error,
            joint=self._joints[joint],
            joint_error=float(by_joint[joint]),
            joints=self._joints,
            ahead_s=(compared.stamps - chunk.stamp) / 1e9,
            predicted=compared.predicted,
            recorded=compared.recorded,
            image=seen.image if seen else None,
            image_stamp=seen.features.stamp if seen else None,
            boxes=seen.boxes if seen else None,
            labels=seen.labels if seen else (),
        )
        near = [other for other in self._moments if abs(other.stamp - moment.stamp) < APART_NS]
        if any(other.error >= error for other in near):
            return
        kept = [other for other in self._moments if all(other is not close for close in near)] + [moment]
        self._moments = sorted(kept, key=lambda other: -other.error)[: self._keep]
