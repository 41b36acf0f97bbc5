"""What must not go on: joints away from their set-points, efforts, a switch let go, a loop that stalled. No motion here.

Each watch is told what is, and answers in words when it is wrong; what follows from that is the command loop's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flow_policy_ros.runtime.types import FloatArray


@dataclass(frozen=True)
class Problem:
    """What is wrong: the ``fault`` that it is, in words with the remedy, and the ``stamp`` (ns) of what showed it."""

    fault: str
    detail: str
    stamp: int


def clock_problem(last: int | None, now: int) -> Problem | None:
    """Whether the clock has gone back since the ``last`` tick, ns."""
    if last is None or now >= last:
        return None
    return Problem(
        "clock_jump_back",
        f"the clock went back by {(last - now) / 1e9:.3f} s. Reset the command node after setting the clock or restarting the "
        "simulation.",
        now,
    )


def stall_problem(last: int | None, now: int, period_s: float, allowed_s: float) -> Problem | None:
    """Whether more than ``allowed_s``, and more than three periods, passed since the ``last`` tick, ns."""
    gap_s = 0.0 if last is None else (now - last) / 1e9
    if gap_s <= max(allowed_s, 3.0 * period_s):
        return None
    return Problem(
        "control_loop_stalled",
        f"{gap_s:.3f} s passed between two ticks, at most {allowed_s} s allowed (command.stall_s): the process was stopped, or the "
        "machine is overloaded. See 'flow_policy doctor'; then reset.",
        now,
    )


class JointWatch:
    """Joints that stay away from their set-points, or push harder than they may. ``tracking`` and ``effort`` limits (J,)."""

    def __init__(self, names: tuple[str, ...], tracking: FloatArray, effort: FloatArray) -> None:
        self._tracking = Sustained(names, tracking)
        self._effort = Sustained(names, effort)

    def problems(
        self, away: FloatArray, effort: FloatArray | None, now: int, stamp: int, away_s: float, effort_s: float
    ) -> list[Problem]:
        """Of set-points minus positions ``away`` (J,) and the measured ``effort`` (J,), if any, both of ``stamp`` (ns)."""
        found = []
        late = self._tracking.check(np.abs(away), now, away_s) if self._tracking.active else None
        if late is not None:
            found.append(Problem("tracking_error", f"joint {late.text('from its set-point')}. Check for an obstacle or a drive "
                                 "that is off; then reset.", stamp))  # fmt: skip
        strong = self._effort.check(np.abs(effort), now, effort_s) if effort is not None and self._effort.active else None
        if strong is not None:
            found.append(Problem("effort", f"joint {strong.text('of effort')}. Free the hand, or correct the limit in the robot "
                                 "file; then reset.", stamp))  # fmt: skip
        return found

    def clear(self) -> None:
        """Begin anew."""
        self._tracking.clear()
        self._effort.clear()


@dataclass(frozen=True)
class Excess:
    """``joint`` has had a ``value`` above its ``limit`` for ``seconds``."""

    joint: str
    value: float
    limit: float
    seconds: float

    def text(self, what: str) -> str:
        """In words; ``what`` the value is."""
        return f"'{self.joint}' is at {self.value:.4f} {what}, above {self.limit:.4f} for {self.seconds:.3f} s"


class Sustained:
    """``values`` above ``limits`` (J,) for longer than a time: the first joint for which that is so."""

    def __init__(self, names: tuple[str, ...], limits: FloatArray) -> None:
        self._names = names
        self._limits = limits
        self.active = bool(np.isfinite(limits).any())
        """Whether there is anything to watch."""
        self._since: dict[int, int] = {}  # joint → instant at which it was first above

    def check(self, values: FloatArray, now: int, allowed_s: float) -> Excess | None:
        """The excess; None while no joint is above its limit for longer than ``allowed_s``."""
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
                return Excess(self._names[j], float(values[j]), float(self._limits[j]), (now - since) / 1e9)
        return None

    def clear(self) -> None:
        """Begin anew."""
        self._since.clear()


SWITCHES = {"": "", "bool": "command/deadman", "joy": "joy"}
"""Topics of the hold-to-run switch, by ``command.deadman``."""


class HoldToRun:
    """A switch that has to be held: pressed, and said so lately on ``topic``. Without a topic it is always held."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._pressed = False
        self._unread = ""  # why its last word could not be read
        self._heard_at: int | None = None

    def put(self, pressed: bool, received: int, unread: str = "") -> None:
        """The switch's word, received at ``received`` (ns); ``unread`` says why it could not be read, which is no press."""
        self._pressed, self._heard_at, self._unread = pressed and not unread, received, unread

    def problem(self, now: int, max_age_s: float) -> str | None:
        """Why the robot may not run at ``now``, in a sentence with the remedy; None when it may."""
        if not self._topic:
            return None
        if self._heard_at is None:
            return (
                f"the hold-to-run switch was never heard: nothing has come on {self._topic}. Start what publishes it; if it runs, "
                "compare names and name spaces."
            )
        age_s = (now - self._heard_at) / 1e9
        if age_s > max_age_s:
            return (
                f"the hold-to-run switch is silent: {self._topic} was last heard {age_s:.3f} s ago, at most {max_age_s:.3f} s "
                "allowed. Look at its publisher, which has to repeat its word, and at the network."
            )
        if age_s < -max_age_s:  # a tick that is made up lies before the word
            return f"the hold-to-run switch was heard {-age_s:.3f} s ahead of the clock, which went back. Its next word counts."
        if self._unread:
            return f"the hold-to-run switch cannot be read: {self._unread}"
        return None if self._pressed else "the hold-to-run switch is not pressed. Hold it."
