"""What must not go on: joints away from their set-points, efforts, a switch let go, a loop that stalled. No motion here.

Each watch is told what is, and answers in words when it is wrong; what follows from that is the command loop's.
"""

from __future__ import annotations

import numpy as np

from flow_policy_ros.runtime.types import FloatArray


class Sustained:
    """``values`` above ``limits`` (J,) for longer than a time: the first joint for which that is so."""

    def __init__(self, names: tuple[str, ...], limits: FloatArray) -> None:
        self._names = names
        self._limits = limits
        self.active = bool(np.isfinite(limits).any())
        """Whether there is anything to watch."""
        self._since: dict[int, int] = {}  # joint → instant at which it was first above

    def check(self, values: FloatArray, now: int, allowed_s: float) -> tuple[str, float, float, float] | None:
        """Joint, value, limit and seconds; None while no joint is above its limit for longer than ``allowed_s``."""
        if not self.active:
            return None
        above = values > self._limits
        if not above.any():
            self._since.clear()
            return None
        over = np.flatnonzero(above).tolist()
        self._since = {j: self._since.get(j, now) for j in over}
        for j, since in self._since.items():
            if (now - since) / 1e9 > allowed_s or allowed_s == 0.0:
                return self._names[j], float(values[j]), float(self._limits[j]), (now - since) / 1e9
        return None

    def clear(self) -> None:
        """Begin anew."""
        self._since.clear()


class HoldToRun:
    """A switch that has to be held: pressed, and said so lately. Without a switch (``needed`` false) it is always held."""

    def __init__(self, needed: bool) -> None:
        self._needed = needed
        self._pressed_at: int | None = None

    def put(self, pressed: bool, received: int) -> None:
        """The switch's word, received at ``received`` (ns)."""
        self._pressed_at = received if pressed else None

    def problem(self, now: int, max_age_s: float) -> str | None:
        """Why the robot may not run at ``now``; None when it may."""
        if not self._needed:
            return None
        if self._pressed_at is None:
            return "the hold-to-run switch is not pressed"
        age_s = (now - self._pressed_at) / 1e9
        if not 0.0 <= age_s <= max_age_s:
            return f"the hold-to-run switch was last heard {age_s:.3f} s ago, at most {max_age_s:.3f} s allowed"
        return None
