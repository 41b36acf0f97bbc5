"""Statistics of what streams past: mean, deviation, range and quantiles, in memory that does not grow, and that can be merged.

LeRobot's words for them (``q01`` … ``q99``). Of vectors the quantiles come from a sketch of compacting levels (as in Munro and
Paterson, Selection and sorting with limited storage, 1980; exact up to 4,096 rows; of a million within 0.03% in rank); of
8-bit images from a histogram, exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
SKETCH_ROWS = 2048
SKETCH_VALUES = 1 << 20
"""A level of the sketch holds at most so many values, however wide the vectors are."""


class VectorStatistics:
    """Statistics of rows (n, D). ``frames`` counts frames, of which each may have several rows."""

    def __init__(self, width: int) -> None:
        self.width, self.frames, self.rows = width, 0, 0
        self._mean, self._squares = np.zeros(width), np.zeros(width)  # of the differences to the mean
        self._low: NDArray[Any] | None = None
        self._high: NDArray[Any] | None = None
        self._half = max(64, min(SKETCH_ROWS, SKETCH_VALUES // max(width, 1)))
        self._levels: list[list[NDArray[Any]]] = []
        self._compacted = 0

    def update(self, values: NDArray[Any]) -> None:
        """Add frames (N, D) or (N, ..., D)."""
        rows = np.reshape(values, (-1, self.width))
        if not len(rows):
            return
        self.frames += len(values)
        wide = rows.astype(np.float64)
        mean = wide.mean(axis=0)
        self._join(len(rows), mean, ((wide - mean) ** 2).sum(axis=0), rows.min(axis=0), rows.max(axis=0))
        self._put(0, np.array(rows))

    def merge(self, other: VectorStatistics) -> None:
        """Add what ``other`` has seen."""
        if other._low is None or other._high is None:
            return
        self.frames += other.frames
        self._join(other.rows, other._mean, other._squares, other._low, other._high)
        for level, parts in enumerate(other._levels):
            for part in parts:
                self._put(level, part)

    def result(self) -> dict[str, NDArray[Any]]:
        """``min``, ``max``, ``mean``, ``std`` (population), the quantiles, (D,) each; ``count`` (1,) of frames."""
        if self._low is None or self._high is None:
            raise ValueError("statistics of no rows at all.")
        table = {"min": self._low, "max": self._high, "mean": self._mean.copy(), "std": np.sqrt(self._squares / self.rows)}
        values = np.concatenate([part for parts in self._levels for part in parts]).astype(np.float64)
        weights = np.concatenate([np.full(len(part), 1 << level) for level, parts in enumerate(self._levels) for part in parts])
        order = np.argsort(values, axis=0, kind="stable")
        ranked, weight = np.take_along_axis(values, order, axis=0), weights[order]
        centre = np.cumsum(weight, axis=0) - (weight + 1) / 2  # of the ranks that a row stands for
        for name, fraction in QUANTILES.items():
            wanted = fraction * (weights.sum() - 1)
            table[name] = np.array([np.interp(wanted, centre[:, k], ranked[:, k]) for k in range(self.width)])
            table[name] = np.clip(table[name], self._low, self._high)
        return table | {"count": np.array([self.frames])}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """For ``of_arrays``."""
        sketch = {f"level{k}": np.concatenate(parts) for k, parts in enumerate(self._levels) if parts}
        seen = {} if self._low is None or self._high is None else {"low": self._low, "high": self._high}
        counts = np.array([self.width, self.frames, self.rows], dtype=np.int64)
        return {"counts": counts, "mean": self._mean, "squares": self._squares, **seen, **sketch}

    @staticmethod
    def of_arrays(arrays: dict[str, NDArray[Any]]) -> VectorStatistics:
        """The inverse of ``arrays``."""
        made = VectorStatistics(int(arrays["counts"][0]))
        made.frames, made.rows = int(arrays["counts"][1]), int(arrays["counts"][2])
        made._mean, made._squares = arrays["mean"], arrays["squares"]
        made._low, made._high = arrays.get("low"), arrays.get("high")
        for name in sorted(name for name in arrays if name.startswith("level")):
            made._put(int(name.removeprefix("level")), arrays[name])
        return made

    def _join(self, rows: int, mean: NDArray[Any], squares: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> None:
        """Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979."""
        total, apart = self.rows + rows, mean - self._mean
        self._squares = self._squares + squares + apart**2 * (self.rows * rows / total)
        self._mean = self._mean + apart * (rows / total)
        self.rows = total
        self._low = low if self._low is None else np.minimum(self._low, low)
        self._high = high if self._high is None else np.maximum(self._high, high)

    def _put(self, level: int, rows: NDArray[Any]) -> None:
        """Rows that stand for 2**level each; two full halves become one of the next level."""
        while len(self._levels) <= level:
            self._levels.append([])
        self._levels[level].append(rows)
        if sum(map(len, self._levels[level])) < 2 * self._half:
            return
        held = np.concatenate(self._levels[level])
        while len(held) >= 2 * self._half:
            sorted_rows = np.sort(held[: 2 * self._half], axis=0)
            held = held[2 * self._half :]
            self._put(level + 1, sorted_rows[self._compacted % 2 :: 2])  # odd and even in turn, so that no error adds up
            self._compacted += 1
        self._levels[level] = [held] if len(held) else []


class ImageStatistics:
    """Statistics per channel of 8-bit RGB images, over every frame and, of large images, every few pixels, as LeRobot does."""

    def __init__(self) -> None:
        self.frames = 0
        self._histogram = np.zeros((3, 256), dtype=np.int64)

    def update(self, image: NDArray[np.uint8]) -> None:
        """Add an image (H, W, 3)."""
        height, width, _ = image.shape
        step = max(1, max(height, width) // 150) if max(height, width) >= 300 else 1
        small = image[::step, ::step].reshape(-1, 3)
        for channel in range(3):
            self._histogram[channel] += np.bincount(small[:, channel], minlength=256)
        self.frames += 1

    def merge(self, other: ImageStatistics) -> None:
        """Add what ``other`` has seen."""
        self.frames += other.frames
        self._histogram += other._histogram

    def result(self) -> dict[str, NDArray[Any]]:
        """As of vectors, in 0 … 1 and of shape (3, 1, 1)."""
        level = np.arange(256) / 255.0
        pixels = self._histogram.sum(axis=1)
        mean = self._histogram @ level / pixels
        std = np.sqrt((self._histogram * (level - mean[:, None]) ** 2).sum(axis=1) / pixels)
        running = np.cumsum(self._histogram, axis=1)
        table = {
            "min": level[np.argmax(self._histogram > 0, axis=1)],
            "max": level[255 - np.argmax(self._histogram[:, ::-1] > 0, axis=1)],
            "mean": mean,
            "std": std,
        }
        for name, fraction in QUANTILES.items():
            table[name] = level[np.argmax(running >= np.maximum(fraction * pixels, 1)[:, None], axis=1)]
        return {name: row.reshape(3, 1, 1) for name, row in table.items()} | {"count": np.array([self.frames])}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """For ``of_arrays``."""
        return {"frames": np.array([self.frames]), "histogram": self._histogram}

    @staticmethod
    def of_arrays(arrays: dict[str, NDArray[Any]]) -> ImageStatistics:
        """The inverse of ``arrays``."""
        made = ImageStatistics()
        made.frames, made._histogram = int(arrays["frames"][0]), arrays["histogram"]
        return made


Statistics = VectorStatistics | ImageStatistics


def restored(arrays: dict[str, NDArray[Any]]) -> Statistics:
    """Statistics of either kind from their ``arrays``."""
    return ImageStatistics.of_arrays(arrays) if "histogram" in arrays else VectorStatistics.of_arrays(arrays)


def lists(result: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """A result as JSON and Arrow take it."""
    return {name: values.tolist() for name, values in result.items()}
