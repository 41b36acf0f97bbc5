"""The figures of one replay, in plain JSON types, and what they amount to. Each is measured in a file of its own; what is good or
bad is ``verdict``'s. Nothing here grows with the recording.

``error``, ``noise`` and what else compares with the recording are open loop: see ``errors``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from flow_policy_ros.data.bag_events import BadEvent, CommandEvent
from flow_policy_ros.evaluation.replay.alignment import EARLIEST_S, LATEST_S, JointOrderFit, LagFit
from flow_policy_ros.evaluation.replay.comparison import ChunkComparison, ComparedChunk, spans
from flow_policy_ros.evaluation.replay.errors import Errors
from flow_policy_ros.evaluation.replay.inputs import Inputs, TrainedRange, stale_kind
from flow_policy_ros.evaluation.replay.motion import Motion
from flow_policy_ros.evaluation.replay.records import ReplayChunk, ReplayFeatures, ReplayMeta, ReplayTick
from flow_policy_ros.evaluation.replay.roughness import Roughness
from flow_policy_ros.evaluation.replay.sketch import Percentiles
from flow_policy_ros.evaluation.replay.thresholds import DEFAULTS, Thresholds
from flow_policy_ros.evaluation.replay.verdict import judge
from flow_policy_ros.runtime.joint_limits import JointLimits
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import FloatArray, JointState
from flow_policy_ros.safety.guard import GuardState

STILL = 0.01
"""A joint whose recorded commands stay within this share of its command range did not move: nothing can be compared with."""


class Metrics:
    """A ``ReplaySink``; see ``result``.

    ``limits`` are those in force (the robot file's unless they are scaled), ``ranges`` what the policy was trained on
    (``inputs.trained_ranges``): without them no stream of features can be judged.
    """

    def __init__(
        self,
        robot: Robot,
        ranges: Mapping[str, TrainedRange] | None = None,
        limits: JointLimits | None = None,
        thresholds: Thresholds = DEFAULTS,
    ) -> None:
        self._limits = limits or robot.limits
        self._ranges = dict(ranges or {})
        self._thresholds = thresholds

    def begin(self, meta: ReplayMeta) -> None:
        self._meta, n = meta, len(meta.joints)
        self._span = spans(self._limits)
        self._comparison = ChunkComparison(meta.joints, round(LATEST_S * 1e9), round(-EARLIEST_S * 1e9))
        self._errors, self._roughness, self._lag = Errors(), Roughness(), LagFit()
        self._order = JointOrderFit(meta.joints, self._span)
        self._motion = Motion(meta, self._limits, self._span)
        self._inputs = Inputs(self._ranges)
        self._lowest, self._highest = np.full(n, np.inf), np.full(n, -np.inf)
        self._stages: dict[str, Percentiles] = {}
        self._injected: dict[str, Percentiles] = {}
        self._first: int | None = None
        self._last = 0
        self._ticks = self._active = self._limited = self._joint_limited = self._chunks = self._late = self._resets = 0
        self._commands = self._since_first_chunk = 0
        self._interventions: dict[str, FloatArray] = {}
        self._lost = {"chunks": 0, "features": 0}
        self._stale: dict[str, int] = {}
        self._faults: dict[str, int] = {}
        self._latched: tuple[object, ...] = ()
        self._bad: dict[str, int] = {}
        self._hash = hashlib.sha256()
        self._none_sent = np.full(n, np.nan).tobytes()

    def on_joint_state(self, state: JointState, received: int) -> None:
        self._inputs.on_joint_state(state)

    def on_recorded(self, command: CommandEvent) -> None:
        self._commands += 1
        row = self._comparison.on_recorded(command)
        if row is None:
            return
        np.fmin(self._lowest, row, out=self._lowest)
        np.fmax(self._highest, row, out=self._highest)
        self._motion.on_recorded(command)

    def on_bad(self, event: BadEvent) -> None:
        self._bad[event.topic] = self._bad.get(event.topic, 0) + 1

    def on_features(self, seen: ReplayFeatures) -> None:
        self._inputs.on_features(seen)
        self._lost["features"] += seen.lost
        if seen.duration_ms > 0.0:  # recorded features cost nothing here
            self._stage("perception", seen.duration_ms)
        if seen.image is not None:
            self._add_injected("perception", seen.ready - seen.received)

    def on_chunk(self, sampled: ReplayChunk) -> None:
        self._chunks += 1
        self._lost["chunks"] += sampled.lost
        self._inputs.on_chunk(sampled.now, sampled.chunk)
        self._stage("inference", sampled.duration_ms)
        self._add_injected("inference", sampled.ready - sampled.now)
        self._comparison.on_chunk(sampled)
        self._motion.on_chunk(sampled)

    def on_tick(self, tick: ReplayTick) -> None:
        made = tick.tick
        self._first = tick.now if self._first is None else self._first
        self._last = tick.now
        self._ticks += 1
        self._since_first_chunk += self._chunks > 0
        self._resets += tick.reset
        self._stage("safety", tick.duration_ms)
        self._hash.update(self._none_sent if made.setpoint is None else made.setpoint.position.tobytes())
        if made.state is GuardState.ACTIVE:
            self._active += 1
        if made.interventions is not None:
            self._add_interventions(made.interventions)
        if made.plan is not None:
            self._stage("observation_to_command", (made.plan.stamp - made.plan.chunk_stamp) / 1e6)
        if tick.stale:
            kind = stale_kind(tick.stale)
            self._stale[kind] = self._stale.get(kind, 0) + 1
            self._late += bool(self._chunks)
        if made.faults != self._latched:
            for fault in made.faults:
                if fault not in self._latched:
                    self._faults[fault.name] = self._faults.get(fault.name, 0) + 1
            self._latched = made.faults
        self._motion.on_tick(tick)
        for compared in self._comparison.passed(tick.now):
            self._compare(compared)

    def end(self) -> None:
        for compared in self._comparison.rest():
            self._compare(compared)
        self._motion.end()

    def result(self) -> dict[str, Any]:
        """Everything, with the verdict. Lengths in rad or m, ``motion`` the span of the recorded commands by joint. ``wall_s`` and
        ``realtime_factor`` are the caller's.

        ``lag_s``: the shift that fits best; ``lag_gain`` the squared error at it over that without. ``stale_fraction``: of the
        times that a chunk was due, since the first one. ``intervened_fraction``: share of joint set-points that a limit changed,
        while chunks were followed; ``intervened_ticks`` share of such ticks with any; ``recorded_over_limits`` share of the
        recorded joint steps that break the same limits. ``latency_ms``: what was measured here, except
        ``observation_to_command``, which is the replay's own, from a chunk's stamp to the first tick that follows it.
        ``injected_ms`` is what stages were given in the recording's time (perception: from the receipt of the image).
        ``chunks_per_s``: since the first chunk, times without fresh inputs left out; ``wanted`` no more than there are ticks.
        In ``age_ms`` streams of which the policy uses the first features alone say ``first``: those age by design.
        ``jerk_slow``: of motion slower than tremor (``jerk``).
        ``commands_sha256``: of every tick's set-point, float64, NaN where there was none.
        """
        meta, joints = self._meta, self._meta.joints
        known = self._highest >= self._lowest
        motion = np.where(known, self._highest - self._lowest, 0.0)
        moving = known & (motion > STILL * self._span)
        lag = self._lag.result(motion, moving)
        order = self._order.result()
        in_place = np.array([joint not in order for joint in joints])  # what belongs to another joint is no jitter of this one
        due = self._late + self._chunks
        figures: dict[str, Any] = {
            "bag": meta.bag,
            "robot": meta.robot,
            "checkpoint": meta.checkpoint,
            "settings": dict(meta.settings),
            "duration_s": 0.0 if self._first is None else (self._last - self._first) / 1e9,
            "ticks": self._ticks,
            "active_fraction": self._active / self._ticks if self._ticks else 0.0,
            "chunks": self._chunks,
            "chunks_compared": self._errors.chunks,
            "recorded_commands": self._commands,
            "recorded_refused": self._comparison.track.refused,
            "recorded_foreign": self._comparison.track.foreign,
            "wall_s": None,
            "realtime_factor": None,
            "motion": {joint: float(motion[j]) for j, joint in enumerate(joints) if known[j]},
            "span": {joint: float(self._span[j]) for j, joint in enumerate(joints) if known[j]},
            "joints_moving": [joint for j, joint in enumerate(joints) if moving[j]],
            "joints_still": [joint for j, joint in enumerate(joints) if known[j] and not moving[j]],
            "joints_unknown": [joint for j, joint in enumerate(joints) if not known[j]],
            **self._errors.result(joints, motion, moving),
            "lag_s": None if lag is None else lag.lag_s,
            "lag_gain": None if lag is None else lag.gain,
            "joint_order": order,
            "noise": self._roughness.noise(joints, motion, moving & in_place, self._span),
            "frozen": self._roughness.frozen(motion, moving),
            "seam": self._motion.seam(),
            "jerk_ratio": self._motion.jerk_ratio(motion, moving),
            "jerk_slow": self._motion.slow_jerk(motion, moving),
            "smoothness": self._motion.smoothness(moving),
            "stagnation": self._motion.stagnation(),
            "stale_fraction": self._late / due if due else (1.0 if self._stale else 0.0),
            "stale": dict(sorted(self._stale.items())),
            "chunks_per_s": self._rate(),
            "age_ms": self._ages(),
            "features": self._inputs.features(),
            "latency_ms": {stage: times.figures(50, 99) for stage, times in sorted(self._stages.items())},
            "injected_ms": {stage: times.figures(50, 99) for stage, times in sorted(self._injected.items())},
            "interventions": {
                kind: {joint: int(n) for joint, n in zip(joints, counts, strict=True) if n}
                for kind, counts in self._interventions.items()
            },
            "intervened_fraction": self._joint_limited / (self._active * len(joints)) if self._active else 0.0,
            "intervened_ticks": self._limited / self._active if self._active else 0.0,
            "recorded_over_limits": self._motion.recorded_over_limits(),
            "faults": dict(sorted(self._faults.items())),
            "resets": self._resets,
            "lost": dict(self._lost),
            "bad": dict(sorted(self._bad.items())),
            "commands_sha256": self._hash.hexdigest(),
        }
        finite: dict[str, Any] = json_ready(figures)
        return finite | judge(finite, self._thresholds).to_json()

    def _compare(self, compared: ComparedChunk) -> None:
        self._errors.add(compared)
        self._order.add(compared)
        self._roughness.add(compared)
        self._lag.add(compared, self._comparison.track)

    def _rate(self) -> dict[str, float | None]:
        asked = self._meta.settings.get("policy.rate_hz")
        wanted = min(float(str(asked)), 1e9 / self._meta.period_ns) if asked else None
        fresh_s = self._since_first_chunk * self._meta.period_ns / 1e9 - (self._late / wanted if wanted else 0.0)
        return {"wanted": wanted, "got": self._chunks / fresh_s if self._chunks and fresh_s > 0.0 else None}

    def _ages(self) -> dict[str, Any]:
        first = {name for name, expected in self._ranges.items() if expected.first}
        return {name: ages | ({"first": True} if name in first else {}) for name, ages in self._inputs.ages().items()}

    def _add_injected(self, stage: str, delay_ns: int) -> None:
        self._injected.setdefault(stage, Percentiles()).add_one(delay_ns / 1e6)

    def _stage(self, name: str, duration_ms: float) -> None:
        if name not in self._stages:
            self._stages[name] = Percentiles()
        self._stages[name].add_one(duration_ms)

    def _add_interventions(self, interventions: Mapping[str, np.ndarray]) -> None:
        acting = [changed for changed in interventions.values() if np.count_nonzero(changed)]
        for kind, changed in interventions.items():
            if kind not in self._interventions:
                self._interventions[kind] = np.zeros(len(self._meta.joints))
            if acting:
                self._interventions[kind] += changed
        if acting:
            self._joint_limited += int(np.count_nonzero(np.logical_or.reduce(acting)))
            self._limited += 1


def json_ready(value: Any) -> Any:
    """Plain JSON types; what is not finite is None, what JSON does not know its text."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(part) for part in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, str) else str(value)
