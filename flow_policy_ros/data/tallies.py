"""What is counted while a recording streams by: instants, stamps, joints, pictures. Memory does not grow with the recording.

What the counts mean is said in ``data.inspection`` and ``data.inspection_findings``.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.types import FloatArray

KEPT = 4096
"""Values of which quantiles are taken; of more every second, fourth, … one."""
MOST_LAYOUTS = 64
"""Different name lists on one topic; more than these are counted only."""
MOST_COLUMNS = 512
BASELINE_NS = 20_000_000
"""Velocities are differences over at least this time, so that stamps which jitter by a millisecond do not make them up."""


class Sample:
    """Every n-th of many values, n a power of two, never more than ``KEPT``; and the exact extremes."""

    def __init__(self) -> None:
        self.count = 0
        self.low, self.high = np.inf, -np.inf
        self._values: list[float] = []
        self._stride = 1

    def add(self, value: float) -> None:
        """One more value."""
        if self.count % self._stride == 0:
            self._values.append(value)
            if len(self._values) >= KEPT:
                del self._values[1::2]
                self._stride *= 2
        self.count += 1
        self.low, self.high = min(self.low, value), max(self.high, value)

    def quantile(self, share: float) -> float | None:
        """None without values."""
        return float(np.quantile(self._values, share)) if self._values else None


@dataclass
class Instants:
    """When messages were received (ns): how many, from when to when, and the longest silence."""

    count: int = 0
    size: int = 0
    first: int | None = None
    last: int | None = None
    gap: int = 0
    gap_at: int = 0
    periods: Sample = field(default_factory=Sample)

    def add(self, received: int, size: int) -> None:
        """A message of ``size`` bytes."""
        if self.last is None:
            self.first = received
        else:
            period = received - self.last
            self.periods.add(period)
            if period > self.gap:
                self.gap, self.gap_at = period, self.last
        self.last = received
        self.count += 1
        self.size += size


@dataclass
class Stamps:
    """Header stamps against instants of receipt. ``delays`` are received minus stamp, ns, of those that are not zero."""

    count: int = 0
    zero: int = 0
    early: int = 0
    back: int = 0
    repeated: int = 0
    delays: Sample = field(default_factory=Sample)
    _newest: int | None = None

    def add(self, stamp: int, received: int) -> None:
        """A message's stamp; ``early`` counts those later than their receipt, ``back`` those older than one before."""
        self.count += 1
        if stamp == 0:
            self.zero += 1
            return
        self.delays.add(received - stamp)
        self.early += stamp > received
        if self._newest is not None:
            self.back += stamp < self._newest
            self.repeated += stamp == self._newest
        self._newest = stamp if self._newest is None else max(stamp, self._newest)


class Motion:
    """Joint values of one layout (one list of names, or none): ranges moved through and velocities, columns as in the message."""

    def __init__(self, width: int) -> None:
        self.count = self.not_finite = 0
        self.low = np.full(width, np.inf)
        self.high = np.full(width, -np.inf)
        self.velocity = np.zeros(width)
        self.reported = np.full(width, np.nan)
        self._last: tuple[int, FloatArray] | None = None

    def add(self, instant: int, position: FloatArray, velocity: FloatArray | None) -> None:
        """Values (J,) at ``instant`` (ns). What is not finite counts, and is left out otherwise."""
        self.count += 1
        if not np.isfinite(position).all():
            self.not_finite += 1
            return
        np.minimum(self.low, position, out=self.low)
        np.maximum(self.high, position, out=self.high)
        if velocity is not None and len(velocity) == len(position):
            np.fmax(self.reported, np.abs(velocity), out=self.reported)
        if self._last is None or instant < self._last[0]:
            self._last = (instant, position)
        elif instant - self._last[0] >= BASELINE_NS:
            np.maximum(self.velocity, np.abs(position - self._last[1]) / ((instant - self._last[0]) / 1e9), out=self.velocity)
            self._last = (instant, position)


class Joints:
    """Joint values of one topic, by layout. ``uneven`` messages have not one value per name, ``crowded`` ones a layout too many."""

    def __init__(self) -> None:
        self.layouts: dict[tuple[tuple[str, ...], int], Motion] = {}
        self.uneven = self.crowded = self.empty = 0

    def add(self, names: Sequence[str], position: FloatArray, velocity: FloatArray | None, instant: int) -> None:
        """One message's values (J,) of ``names`` (none of them: unnamed)."""
        named = tuple(names) if any(names) else ()
        if position.ndim != 1 or (named and len(named) != len(position)):
            self.uneven += 1
        elif len(position) == 0:
            self.empty += 1
        elif len(position) > MOST_COLUMNS:
            self.crowded += 1
        else:
            key = named, len(position)
            if key not in self.layouts and len(self.layouts) >= MOST_LAYOUTS:
                self.crowded += 1
                return
            self.layouts.setdefault(key, Motion(len(position))).add(instant, position, velocity)


@dataclass
class Pictures:
    """Images of one topic. ``plain`` are those looked at that show one colour, ``unreadable`` those that could not be decoded."""

    count: int = 0
    encodings: dict[str, int] = field(default_factory=dict)
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    repeated: int = 0
    looked: int = 0
    plain: int = 0
    unreadable: int = 0
    why: str = ""
    _sum: int | None = None

    def add(self, encoding: str, size: tuple[int, int] | None, data: bytes | memoryview) -> None:
        """An image of ``size`` (width, height), None where only decoding tells."""
        self.count += 1
        if encoding in self.encodings or len(self.encodings) < MOST_LAYOUTS:
            self.encodings[encoding] = self.encodings.get(encoding, 0) + 1
        if size is not None:
            self._sized(size)
        checksum = zlib.adler32(data)
        self.repeated += checksum == self._sum
        self._sum = checksum

    def seen(self, picture: NDArray[np.uint8], sized: bool) -> None:
        """One of them decoded, (H, W, 3); ``sized`` when its size was known before."""
        self.looked += 1
        self.plain += int(picture.max(initial=0)) - int(picture.min(initial=255)) < 4
        if not sized:
            self._sized((picture.shape[1], picture.shape[0]))

    def failed(self, why: str) -> None:
        """One of them could not be decoded."""
        self.looked += 1
        self.unreadable += 1
        self.why = self.why or why

    def _sized(self, size: tuple[int, int]) -> None:
        if size in self.sizes or len(self.sizes) < MOST_LAYOUTS:
            self.sizes[size] = self.sizes.get(size, 0) + 1
