"""What tests of faults share: a robot that does what it is told, a motion to be interrupted, a checker, a report of reactions.

The command node is always a process of its own. Set-points are judged by plain differences; nothing of ``safety`` is used.
A reaction is counted in set-points, one for each tick of the command node, so that a busy machine does not change it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
from ros_support import JOINTS, Child, Ears, FakeRobot, Inbox, Launcher, motion, until, values, write_robot

pytest.importorskip("rclpy")
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import JointState as JointStateMsg
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.ros.messages import chunk_to_message, from_time
from flow_policy_ros.runtime.robot import Robot, load_robot
from flow_policy_ros.runtime.types import Chunk

PERIOD_S = 0.01
LIMITS = {
    "shoulder": {"position": [-3.1, 3.1], "velocity": 2.0, "acceleration": 2.0, "jerk": 100.0},  # averages of 4 set-points
    "elbow": {"position": [-3.1, 3.1], "velocity": 1.0, "acceleration": 1.0, "jerk": 200.0},  # of one
}
CRUISE = np.array([0.3, -0.15])  # rad/s; from it a stop takes 15 ticks and those of the average
STOP_TICKS = 22
RISE_S = 0.6
AT_ONCE = 2
"""Ticks: the first one after the event may be under way already."""
BUSY = 10
"""Ticks that a message of the test may be under way on a busy machine."""
WAIT_S = 0.5
"""Greatest ages and gaps allowed; long, so that a busy machine breaks none that the test does not."""
PARAMETERS = {
    "command__joint_state_max_age_s": WAIT_S,
    "command__stall_s": WAIT_S,
    "command__deadman_max_age_s": WAIT_S,
    "command__chunk_max_age_s": 10.0,
    "command__soft_start_s": 0.2,
    "command__soft_start_scale": 0.6,
}
REPORT = "FLOW_POLICY_FAULT_REPORT"


@dataclass(frozen=True)
class Reaction:
    """What a fault led to: ``ticks`` from ``counted_from`` to the first set-point that decelerates, ``bound`` the most allowed.

    ``total`` are the ticks from the fault itself, ``stop_ticks`` those of the stop up to rest. ``used`` is the greatest share of
    each limit over all set-points so far.
    """

    fault: str
    counted_from: str
    ticks: int
    bound: int
    total: int
    stop_ticks: int
    states: tuple[str, ...]
    faults: tuple[str, ...]
    used: dict[str, float]


def record(reaction: Reaction, record_property: Callable[[str, object], None]) -> None:
    """Show it, keep it with the test's result and in the file that the environment names; then judge its ticks."""
    row = asdict(reaction)
    record_property("reaction", json.dumps(row))
    print(
        f"\n| {reaction.fault} | {reaction.ticks} (at most {reaction.bound}) from {reaction.counted_from} | "
        f"{reaction.total} in all | stop {reaction.stop_ticks} | "
        f"{' → '.join(reaction.states)} | {' '.join(reaction.faults) or '-'} | "
        + " ".join(f"{kind} {share:.3f}" for kind, share in reaction.used.items())
        + " |"
    )
    if os.environ.get(REPORT):
        path = Path(os.environ[REPORT])
        rows = {r["fault"]: r for r in (json.loads(path.read_text()) if path.exists() else [])} | {reaction.fault: row}
        path.write_text(json.dumps(list(rows.values()), indent=1) + "\n")
    assert reaction.ticks <= reaction.bound, f"{reaction.fault}: first braking after {reaction.ticks} ticks"


def within_limits(positions: np.ndarray, robot: Robot, scale: float = 1.0) -> dict[str, float]:
    """Greatest share of each limit that set-points (N, J) use, begun at rest, one period apart. Fails where it is above 1."""
    limits = robot.limits
    assert np.isfinite(positions).all()
    assert (positions >= limits.lower).all() and (positions <= limits.upper).all(), "position range"
    rest = np.concatenate([np.repeat(positions[:1], 3, axis=0), positions])
    ulp = np.spacing(np.abs(positions).max(axis=0))
    used = {}
    for order, kind, ulps in ((1, "velocity", 4), (2, "acceleration", 4), (3, "jerk", 8)):
        values = np.abs(np.diff(rest, n=order, axis=0)) / PERIOD_S**order
        excess = values - ulps * ulp / PERIOD_S**order
        share = excess / (getattr(limits, kind) * scale)
        worst = np.unravel_index(int(share.argmax()), share.shape)
        assert share[worst] <= 1.0 + 1e-9, f"{kind} of {robot.joints[worst[1]]} is {share[worst]} of its limit at row {worst[0]}"
        used[kind] = round(max(0.0, float(share[worst])), 6)
    return used


def cruise(stamp: int, start: np.ndarray, direction: float) -> Chunk:
    """10 s from rest at ``start``: a smooth rise to ``CRUISE``, which then is kept."""
    seconds = 0.04 * np.arange(250)
    x = np.minimum(seconds / RISE_S, 1.0)
    way = RISE_S * (x**3 - 0.5 * x**4) + np.maximum(seconds - RISE_S, 0.0)
    return Chunk(stamp, 40_000_000, JOINTS, start + direction * way[:, None] * CRUISE)


def stay(stamp: int, place: np.ndarray) -> JointTrajectory:
    """A chunk of 2 s that is at ``place`` (2,) from its first point on."""
    return chunk_to_message(Chunk(stamp, 100_000_000, JOINTS, np.tile(place, (20, 1))))


def start_anew(ears: Ears) -> None:
    """Reset the command node, and take back a hold, which a reset need not do."""
    for kind, service, request in (
        (Trigger, "command/reset", Trigger.Request()),
        (SetBool, "command/enable", SetBool.Request(data=True)),
    ):
        answer = ears.call(kind, service, request)
        assert answer.success, answer.message


class StampingRobot(FakeRobot):
    """``last_stamp`` is that of the newest joint state, to microseconds."""

    last_stamp = 0

    def say(self, names: list[str], position: list[float]) -> None:
        self.last_stamp = self._ears.now()
        super().say(names, position)


class Rig:
    """A command node, a robot that follows it, one who sends chunks, and everything that the node published."""

    def __init__(self, launcher: Launcher, ears: Ears, folder: Path, **parameters: object) -> None:
        """``parameters`` beside ``PARAMETERS``; the node has a life of its own from here on."""
        self.ears, self._launcher = ears, launcher
        self._parameters = {**PARAMETERS, **parameters}
        self.file = write_robot(folder, limits=LIMITS)
        self.robot = load_robot(self.file)
        self.executed: Inbox[JointStateMsg] = ears.listen(JointStateMsg, "command/executed")
        self.reports: Inbox[DiagnosticStatus] = ears.diagnostics()
        self.chunks = ears.speak(JointTrajectory, "policy/chunk")
        self.body = StampingRobot(ears)
        self.start()

    def begin(self) -> None:
        """Until the robot is held where it is."""
        self.ears.meet("command/hold", "command/reset")
        self.ears.meet("command/enable", kind=SetBool)
        until(lambda: bool(self.executed.messages) or not self.node.alive(), "no set-point")
        assert self.node.alive(), self.node.output
        self.executed.wait_count(len(self.executed.messages) + 10)

    def start(self) -> None:
        """Start a command node."""
        self.node: Child = self._launcher.node("command_node", self.file, **self._parameters)

    @property
    def positions(self) -> np.ndarray:
        """All set-points (N, 2)."""
        return motion(self.executed.messages)

    @property
    def stamps(self) -> np.ndarray:
        """Their stamps (N,)."""
        return np.array([from_time(m.header.stamp) for m in self.executed.messages])

    def stands(self, ticks: int = 20) -> None:
        """Until set-points have stood still for ``ticks``."""
        after = len(self.executed.messages)

        def still(_: JointStateMsg) -> bool:
            rows = self.executed.messages[-ticks:]
            return len(self.executed.messages) - after >= ticks and np.ptp(motion(rows), axis=0).max() == 0.0

        self.executed.wait_for(still, after, "the robot does not stand")

    def fresh(self) -> None:
        """Whatever was before: at rest without a fault, enabled."""
        self.ears.trigger("command/hold")
        self.stands()
        self.reset()
        assert self.status()["faults"] == ""

    def reset(self) -> None:
        """Ask for it, and wait until the robot is held at the measured position."""
        start_anew(self.ears)
        self.executed.wait_count(len(self.executed.messages) + 10)

    def send_cruise(self) -> None:
        """A chunk that sets the robot in motion towards the middle of its range, if it may be followed."""
        self.ears.connected(self.chunks)
        here = self.positions[-1]
        self.chunks.publish(chunk_to_message(cruise(self.ears.now(), here, -1.0 if here[0] > 0.0 else 1.0)))

    def moves(self) -> int:
        """Set it in motion and wait until it cruises; how many set-points there are then."""
        self.send_cruise()
        after = len(self.executed.messages)
        self.executed.wait_for(
            lambda m: bool((np.abs(np.abs(m.velocity) - np.abs(CRUISE)) < 1e-9).all()), after, "the robot does not cruise"
        )
        return len(self.executed.messages)

    def status(self) -> dict[str, str]:
        """What the command node says of itself from now on."""
        after = len(self.reports.messages)
        return values(self.reports.wait_for(lambda s: s.name == "command", after))

    def states(self, after: int) -> tuple[str, ...]:
        """The guard's states from report ``after`` on that came after being active: each change is reported."""
        said = [values(s)["state"] for s in self.reports.messages[after:] if s.name == "command"]
        changes = [s for i, s in enumerate(said) if i == 0 or said[i - 1] != s]
        return tuple(changes[1:] if changes[:1] == ["active"] else changes)

    def latched(self, reports: int, fault: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """States since report ``reports``, and faults. Fails unless ``fault`` is among them, keeps the robot where it is while
        chunks come, and ends with a reset, after which the robot moves again."""
        status = self.status()
        assert status["state"] == "fault" and fault in status["faults"].split(), status
        count = len(self.executed.messages)
        self.send_cruise()
        self.executed.wait_count(count + 30)
        assert np.ptp(self.positions[count:], axis=0).max() == 0.0, "moves with a fault latched"
        states = self.states(reports)
        assert states == ("fault",)
        self.reset()
        self.moves()
        return states, tuple(status["faults"].split())

    def brakes(self, after: int) -> tuple[int, int]:
        """Indices of the first set-point from ``after`` on that is slower than the cruise, and of the first at rest.

        Waits for it. Fails where the stop is no steady braking, takes too long, or is not followed by rest.
        """
        self.executed.wait_for(lambda m: not np.any(m.velocity), after, "no stop")
        self.executed.wait_count(len(self.executed.messages) + 30)
        speed = np.abs(np.diff(self.positions, axis=0, prepend=self.positions[:1])) / PERIOD_S
        first = after + int(np.argmax((speed[after:] < np.abs(CRUISE) * 0.9999).any(axis=1)))
        rest = first + int(np.argmax(~speed[first:].any(axis=1)))
        # The first ones of the stop may still hold the cruise in their average, but never more.
        assert (np.diff(speed[first - 1 :], axis=0) <= 1e-9).all(), "faster in the middle of a stop"
        assert rest - first <= STOP_TICKS, f"a stop of {rest - first} ticks"
        assert not speed[rest:].any(), "does not stay at rest"
        return first, rest

    def ticks_since(self, instant: int, first: int) -> int:
        """Set-points stamped after ``instant`` (ns), up to number ``first`` and including it."""
        return int((self.stamps[: first + 1] > instant).sum())

    def used(self) -> dict[str, float]:
        """Fails where any set-point so far breaks a limit."""
        return within_limits(self.positions, self.robot)

    def close(self) -> None:
        """The node has to have lived until here."""
        assert self.node.alive()
        assert "Traceback" not in self.node.output


@contextmanager
def rig_of(folder: Path, ears: type[Ears] = Ears, started: bool = True, **parameters: object) -> Iterator[Rig]:
    """A rig with processes and a node of the test of its own; ``started``: the robot is held already."""
    launcher, listener = Launcher(folder), ears()
    try:
        rig = Rig(launcher, listener, folder, **parameters)
        if started:
            rig.begin()
        yield rig
        rig.close()
    finally:
        launcher.end_all()
        listener.close()
