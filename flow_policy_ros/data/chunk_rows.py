"""Chunks cut from recorded commands: what was commanded at ``stamp + k * dt``, whatever the instants of the commands.

Between two commands the set-point is interpolated linearly. Holding the earlier one would delay every point by up to a period,
by another amount in each sample, and lay steps into chunks where the robot's motion had none; at the instant of a command
both are that command exactly. Commands further apart than a gap belong to different motions: a chunk ends at a gap as it ends
at the end of the recording, and nothing is interpolated across it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.arrivals import Indices
from flow_policy_ros.data.recording import Recording
from flow_policy_ros.runtime.types import FloatArray

MAX_GAP_S = 0.5
"""Commands come at the control rate. So long a silence is a pause, or a part that was lost."""

WRAPPED = np.pi
"""No joint goes as far between two commands (rad or m): it is an angle that was written a full turn lower. The earlier is held."""


class ChunkTable:
    """For every joint state of ``recordings`` the chunk of ``horizon`` points ``dt_ns`` apart from its stamp on.

    ``columns`` of each recording's commands are taken. ``commanded`` (N,) bool: there was a command in force at the stamp.
    """

    def __init__(
        self, recordings: Sequence[Recording], columns: Sequence[list[int]], horizon: int, dt_ns: int, max_gap_s: float
    ) -> None:
        self._offsets = np.arange(horizon, dtype=np.int64) * dt_ns
        self._stamps = np.concatenate([r.stamps for r in recordings])
        self._command_stamps = np.concatenate([r.command_stamps for r in recordings])
        self._commands = np.concatenate([r.commands[:, c] for r, c in zip(recordings, columns, strict=True)])
        rows, last, commanded, start = [], [], [], 0
        for recording in recordings:
            row, end, in_force = _rows(recording, self._offsets, max_gap_s)
            rows.append(row + start)
            last.append(end + start)
            commanded.append(in_force)
            start += len(recording.command_stamps)
        self.commanded = np.concatenate(commanded)
        self._last = np.concatenate(last)
        # The command before each point is searched for once, for all epochs: 4 bytes a point are less than the states need.
        self._rows = np.concatenate(rows).astype(np.int32 if start < 2**31 else np.int64)

    def gather(self, ticks: Indices) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Chunks (B, H, A) in rad or m and their mask (B, H), of joint states that are ``commanded``."""
        last = self._last[ticks][:, None]
        wanted = self._stamps[ticks][:, None] + self._offsets
        mask = wanted <= self._command_stamps[last]
        rows = self._rows[ticks]
        chunk = self._commands[rows]
        past = wanted - self._command_stamps[rows]
        between = (past > 0) & mask
        if between.any():
            row, after = rows[between], rows[between] + 1
            share = past[between] / (self._command_stamps[after] - self._command_stamps[row])
            chunk[between] = on_line(self._commands[row], self._commands[after], share)
        return chunk, mask


def on_line(before: FloatArray, after: FloatArray, share: FloatArray) -> FloatArray:
    """What is in force (N, A) at the ``share`` (N,) of the way from the commands ``before`` to those ``after`` (N, A)."""
    step = after - before
    return np.asarray(before + share[:, None] * np.where(np.abs(step) > WRAPPED, 0.0, step))


def _rows(recording: Recording, offsets: Indices, max_gap_s: float) -> tuple[Indices, Indices, NDArray[np.bool_]]:
    """(N, H) row of the command in force at each point, (N,) the last row before the next gap, and whether any is in force at
    the stamp itself: otherwise the rows may be anything."""
    commands = recording.command_stamps
    if not len(commands):
        nothing = np.zeros((len(recording.stamps), len(offsets)), dtype=np.int64)
        return nothing, nothing[:, 0], np.zeros(len(nothing), dtype=bool)
    gaps = np.flatnonzero(np.diff(commands) > max(round(max_gap_s * 1e9), recording.tick_ns))
    ends = np.append(gaps, len(commands) - 1)
    row = np.searchsorted(commands, recording.stamps, side="right") - 1
    last = ends[np.searchsorted(ends, np.maximum(row, 0))]
    rows = np.searchsorted(commands, recording.stamps[:, None] + offsets, side="right") - 1
    return np.clip(rows, 0, last[:, None]), last, (row >= 0) & (recording.stamps <= commands[last])
