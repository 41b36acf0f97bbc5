"""How the commanded motion runs, beside the recorded one at the same instants: seams of chunks, jerk, smoothness, standing still.

Ticks are worked off in blocks, so that nothing grows with the recording.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.bag_events import CommandEvent
from flow_policy_ros.evaluation.replay.comparison import RecordedTrack
from flow_policy_ros.evaluation.replay.jerk import SlowJerk, ratio
from flow_policy_ros.evaluation.replay.records import ReplayChunk, ReplayMeta, ReplayTick
from flow_policy_ros.evaluation.replay.sketch import Percentiles
from flow_policy_ros.evaluation.replay.stagnation import Stagnation
from flow_policy_ros.evaluation.seams import PERCENTILE, measure, takeover_jump
from flow_policy_ros.runtime.joint_limits import JointLimits
from flow_policy_ros.runtime.types import Chunk, FloatArray, Plan
from flow_policy_ros.safety.guard import GuardState

BLOCK = 1024
"""Ticks that are worked off together; as many may wait for recorded commands."""
CHUNKS = 64
"""Chunks that are remembered until the command stage follows them."""
SETTLE_S = 0.5
"""After a start, a reset or ticks that were left out the commands catch up with a robot that is on its way: so long nothing is
measured at them."""
BRAKE_S = 0.3
"""Neither before it stopped: where inputs end it brakes before the chunk does."""
SEAMS = ("position_seam", "position_inside", "acceleration_seam", "acceleration_inside", "takeover")


class Motion:
    """Of one replay. ``limits`` are those in force, ``span`` (J,) the command ranges that movements are shares of."""

    def __init__(self, meta: ReplayMeta, limits: JointLimits, span: FloatArray) -> None:
        n = len(meta.joints)
        self._period_s, self._limits = meta.period_ns / 1e9, limits
        self._track = RecordedTrack(meta.joints)
        self._settle, self._brake = round(SETTLE_S / self._period_s), round(BRAKE_S / self._period_s)  # ticks
        self._commands = np.empty((2 * BLOCK, n))
        self._stamps = np.empty(2 * BLOCK, dtype=np.int64)
        self._since = np.zeros(2 * BLOCK, dtype=np.int64)  # ticks that chunks were followed without a break
        self._following, self._last = 0, 0  # so many ticks, and the last one's instant
        self._count = self._old = 0  # rows there are; rows that only go before others
        self._seams: list[int] = []  # rows
        self._recorded: list[tuple[int, NDArray[np.bool_]]] = []  # stamps of the first commands, and the joints that they name
        self._stride = 0  # ticks between two rows of which differences are taken; 0: not settled yet
        self._samples = {name: Percentiles() for name in SEAMS}
        self._seam_count = 0
        self._chunks: dict[int, Chunk] = {}
        self._plan: Plan | None = None
        self._active = False
        self._jerk, self._peak, self._jerks = np.zeros((2, n)), np.zeros((2, n)), np.zeros(n)
        self._slow: SlowJerk | None = None  # as soon as the stride is settled
        self._over = self._steps = 0
        self._stagnation = Stagnation(self._period_s, span)

    def on_recorded(self, command: CommandEvent) -> None:
        """Take a recorded command."""
        row = self._track.add(command)
        if row is not None and len(self._recorded) < 200:
            self._recorded.append((command.stamp, np.isfinite(row)))

    def on_chunk(self, sampled: ReplayChunk) -> None:
        """Take a chunk."""
        if not sampled.lost:
            self._chunks[sampled.chunk.stamp] = sampled.chunk
            if len(self._chunks) > CHUNKS:
                del self._chunks[next(iter(self._chunks))]

    def on_tick(self, record: ReplayTick) -> None:
        """Take a tick."""
        tick = record.tick
        if self._count == len(self._stamps):
            self._work(False)
        row = self._count
        self._stamps[row] = record.now
        self._commands[row] = np.nan if tick.setpoint is None else tick.setpoint.position
        if tick.plan is not None:
            if self._plan is not None and self._active:
                self._seams.append(row)
                followed = self._chunks.get(tick.plan.chunk_stamp)
                if followed is not None:
                    self._samples["takeover"].add(takeover_jump(self._plan, followed, tick.plan.stamp))
            self._plan = tick.plan
        self._active = tick.state is GuardState.ACTIVE
        unbroken = self._active and not record.reset and record.now - self._last < 1.5e9 * self._period_s
        if self._following and not unbroken:
            self._since[max(0, row - self._brake) : row] = 0
        self._following = self._following + 1 if unbroken else 0
        self._since[row], self._last = self._following, record.now
        self._count += 1

    def end(self) -> None:
        """No tick comes any more."""
        self._work(True)
        self._stagnation.end()
        if self._slow is not None:
            self._slow.end()

    def seam(self) -> dict[str, Any]:
        """95th percentiles at the seams and inside chunks: ``position`` (rad or m), ``acceleration`` (share of the limit); see
        ``seams.measure``. ``takeover`` is what an executor without splicing would jump by."""
        at = {name: samples.at(PERCENTILE) for name, samples in self._samples.items()}
        return {
            "position": at["position_seam"], "position_inside": at["position_inside"],
            "acceleration": at["acceleration_seam"], "acceleration_inside": at["acceleration_inside"],
            "takeover": at["takeover"], "count": self._seam_count,
        }  # fmt: skip

    def jerk_ratio(self, motion: FloatArray, moving: NDArray[np.bool_]) -> float | None:
        """Root mean square of the commanded jerk over that of the recorded one, joints weighted by 1 / ``motion``²."""
        judged = moving & (self._jerks > 0)
        return ratio(self._jerk[:, judged] / self._jerks[judged], motion[judged])

    def slow_jerk(self, motion: FloatArray, moving: NDArray[np.bool_]) -> dict[str, float | None]:
        """See ``SlowJerk.result``."""
        return {"slow": None, "worst": None} if self._slow is None else self._slow.result(motion, moving)

    def smoothness(self, moving: NDArray[np.bool_]) -> dict[str, float | None]:
        """Log dimensionless jerk −ln(D³ / v² ∫ j² dt), mean over the moving joints, of commands and recording: the greater, the
        smoother (Hogan & Sternad 2009; Balasubramanian et al. 2012). D is the duration, so that only runs over the same recording
        compare."""
        duration = self._jerks * self._period_s
        result: dict[str, float | None] = {}
        for name, jerk, peak in zip(("commanded", "recorded"), self._jerk, self._peak, strict=True):
            judged = moving & (peak > 0.0) & (jerk > 0.0) & (duration > 0.0)
            cost = duration[judged] ** 3 / peak[judged] ** 2 * jerk[judged] * self._period_s
            result[name] = float(-np.log(cost).mean()) if judged.any() else None
        return result

    def stagnation(self) -> dict[str, Any]:
        """See ``Stagnation.result``."""
        return self._stagnation.result()

    def recorded_over_limits(self) -> float:
        """Share of the recorded joint steps that are faster than the velocity limits, or accelerate beyond theirs."""
        return self._over / self._steps if self._steps else 0.0

    def _work(self, last: bool) -> None:
        """Work off the rows whose recorded commands are known, up to a seam; all that there are when it is the ``last`` time."""
        newest, end = self._track.newest, self._count
        if not last and newest is not None:
            known = int(np.searchsorted(self._stamps[:end], newest, side="right"))
            # When the recording of commands has stopped, ticks go on.
            end = known if known > BLOCK else end
            end = max([seam for seam in self._seams if BLOCK // 2 < seam <= end], default=end)
        if end <= self._old:
            return
        if not self._stride:
            between_s = _pace_s(self._recorded) or self._period_s
            # Commands recorded less often than ticks are straight lines between: differences are taken at their pace.
            self._stride = max(1, round(between_s / self._period_s))
        if self._slow is None:
            self._slow = SlowJerk(self._period_s, self._stride, len(self._jerks))
        commands, stamps = self._commands[:end], self._stamps[:end]
        recorded = self._track.at(stamps)
        self._add_seams(commands, [seam for seam in self._seams if seam < end])
        lines, new = self._track.lines(stamps), slice(self._old, end)
        self._add_differences(commands, lines)
        self._slow.add(commands[new], lines[new], self._since[new] >= self._settle)
        self._stagnation.add(commands[self._old :], recorded[self._old :])
        kept = min(max(3, 3 * self._stride), end, BLOCK // 4)
        left = self._count - (end - kept)
        self._commands[:left] = self._commands[end - kept : self._count].copy()
        self._stamps[:left] = self._stamps[end - kept : self._count].copy()
        self._since[:left] = self._since[end - kept : self._count].copy()
        self._seams = [seam - end + kept for seam in self._seams if seam >= end]
        self._count, self._old = left, kept
        self._track.forget_before(int(self._stamps[0]))

    def _add_seams(self, commands: FloatArray, seams: list[int]) -> None:
        before = max(0, self._old - 3)  # a jump looks at three rows before it
        new = [seam - before for seam in seams if seam >= self._old]
        followed = np.where(self._since[before : len(commands), None] >= self._settle, commands[before:], np.nan)
        samples = measure(followed, new, self._period_s, self._limits.acceleration)
        self._seam_count += samples.seams
        for name in SEAMS[:-1]:
            self._samples[name].add(getattr(samples, name))

    def _add_differences(self, commands: FloatArray, recorded: FloatArray) -> None:
        m = self._stride
        step_s = m * self._period_s
        begin = max(0, self._old - 3 * m)
        both = np.stack([commands[begin:], recorded[begin:]])  # (2, n, J)
        if both.shape[1] <= 3 * m:
            return
        known: NDArray[np.bool_] = np.asarray(np.isfinite(both).all(axis=0))
        unbroken = (self._since[begin : len(commands)] >= self._settle + 3 * m)[:, None]
        velocity = (both[:, m:] - both[:, :-m]) / step_s
        jerk = (velocity[:, 2 * m :] - 2 * velocity[:, m:-m] + velocity[:, : -2 * m]) / step_s**2
        counted = unbroken[3 * m :] & known[3 * m :] & known[2 * m : -m] & known[m : -2 * m] & known[: -3 * m]
        self._jerk += np.where(counted, jerk**2, 0.0).sum(axis=1)
        self._jerks += counted.sum(axis=0)
        self._peak = np.maximum(self._peak, np.where(counted, np.abs(velocity[:, 2 * m :]), 0.0).max(axis=1))
        acceleration = np.abs(velocity[1, m:] - velocity[1, :-m]) / step_s
        fast = (np.abs(velocity[1, m:]) > self._limits.velocity) | (acceleration > self._limits.acceleration)
        there = np.isfinite(acceleration)
        self._over += int(np.count_nonzero(fast & there))
        self._steps += int(np.count_nonzero(there))


def _pace_s(recorded: list[tuple[int, NDArray[np.bool_]]]) -> float | None:
    """Median over the joints of the time between two commands that name them, s; None where no joint is named twice."""
    if not recorded:
        return None
    stamps, named = np.array([stamp for stamp, _ in recorded]), np.array([names for _, names in recorded])
    paces = [float(np.median(np.diff(stamps[of]))) for of in named.T if of.sum() > 1]
    return float(np.median(paces)) / 1e9 if paces else None
