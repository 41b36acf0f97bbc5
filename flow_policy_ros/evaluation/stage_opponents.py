"""The per-tick limiter beside others on the same targets: time per tick, tracking error, and the limits that each breaks.

Ruckig as a tracker, and a clamp as jogging controllers have it. For benchmarks only; no node can be started with them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flow_policy_ros.runtime.robot import JointLimits
from flow_policy_ros.runtime.types import FloatArray
from flow_policy_ros.safety.limiter import SetpointLimiter

TOLERANCE = 1e-6
"""Relative: a limit exceeded by less is not counted as broken."""
Tracker = Callable[[int], FloatArray]
"""The set-point (J,) of tick k."""


@dataclass(frozen=True)
class Targets:
    """What is to be tracked at ticks ``period_s`` apart: ``position``, ``velocity``, ``acceleration`` (N, J)."""

    name: str
    period_s: float
    position: FloatArray
    velocity: FloatArray
    acceleration: FloatArray


def sine(limits: JointLimits, period_s: float, ticks: int, share: float = 0.5, frequency_hz: float = 1.0) -> Targets:
    """A motion that uses at most ``share`` of every limit, so that it can be tracked exactly."""
    turn = 2.0 * np.pi * frequency_hz
    lower, upper = _bounded(limits)
    amplitude = share * np.minimum.reduce(
        [(upper - lower) / 2.0, limits.velocity / turn, limits.acceleration / turn**2, limits.jerk / turn**3]
    )
    phase = turn * period_s * np.arange(ticks)[:, None] + np.arange(len(amplitude))
    position = (lower + upper) / 2.0 + amplitude * np.sin(phase)
    return Targets("sine", period_s, position, turn * amplitude * np.cos(phase), -(turn**2) * amplitude * np.sin(phase))


def noisy(clean: Targets, dt: float, sigma: float, seed: int) -> Targets:
    """``clean`` as a policy would say it: points ``dt`` s apart, each off by ``sigma`` rad, straight lines between them.

    Velocity and acceleration are central differences of the points, as one would get them from a chunk.
    """
    count = len(clean.position)
    instants = clean.period_s * np.arange(count)
    knots = np.arange(0.0, instants[-1] + 2.0 * dt, dt)
    generator = np.random.default_rng(seed)
    columns = []
    for joint in clean.position.T:
        points = np.interp(knots, instants, joint) + sigma * generator.standard_normal(len(knots))
        speeds = np.gradient(points, dt)
        columns.append([np.interp(instants, knots, values) for values in (points, speeds, np.gradient(speeds, dt))])
    position, velocity, acceleration = np.moveaxis(np.array(columns), 0, -1)
    return Targets(f"sine, {1e3 * sigma:g} mrad noise", clean.period_s, position, velocity, acceleration)


def ours(limits: JointLimits, targets: Targets) -> Tracker:
    """The limiter, which reads the targets ``lead`` ticks ahead."""
    limiter = SetpointLimiter(limits, targets.period_s)
    limiter.start(_start(limits, targets))
    joints, last = np.arange(len(limits.names)), len(targets.position) - 1
    ahead = targets.position[np.minimum(np.arange(last + 1)[:, None] + limiter.lead.astype(np.intp), last), joints]
    return lambda k: limiter.step(ahead[k]).position


def ruckig(limits: JointLimits, targets: Targets) -> Tracker:
    """Ruckig towards the target's position, velocity and acceleration, anew at each tick.

    Targets are clipped to its limits, since it throws for others; where it still refuses one, the set-point stays.
    """
    import ruckig as library

    joints = len(limits.names)
    generator = library.Ruckig(joints, targets.period_s)
    wish, result = library.InputParameter(joints), library.OutputParameter(joints)
    lower, upper = _bounded(limits)
    wish.max_velocity, wish.max_acceleration = limits.velocity.tolist(), limits.acceleration.tolist()
    wish.max_jerk = np.where(np.isfinite(limits.jerk), limits.jerk, 1e12).tolist()
    wish.current_position = _start(limits, targets).tolist()
    wish.current_velocity = wish.current_acceleration = [0.0] * joints
    velocity = np.clip(targets.velocity, -0.9 * limits.velocity, 0.9 * limits.velocity)
    # A target acceleration from which the target velocity cannot be left within limits is refused.
    most = np.minimum(limits.acceleration, np.sqrt(0.19 * limits.jerk * limits.velocity))
    acceleration = np.clip(targets.acceleration, -most, most)
    position = np.clip(targets.position, lower, upper)

    def step(k: int) -> FloatArray:
        wish.target_position, wish.target_velocity = position[k].tolist(), velocity[k].tolist()
        wish.target_acceleration = acceleration[k].tolist()
        try:
            generator.update(wish, result)
        except library.RuckigError:
            return np.array(wish.current_position)
        result.pass_to_input(wish)
        return np.array(result.new_position)

    return step


def clamp(limits: JointLimits, targets: Targets) -> Tracker:
    """Velocities scaled together so that none is above its limit, positions clipped; acceleration and jerk are nobody's affair."""
    lower, upper = _bounded(limits)
    reach = limits.velocity * targets.period_s
    now = _start(limits, targets)

    def step(k: int) -> FloatArray:
        nonlocal now
        way = targets.position[k] - now
        now = np.clip(now + way / max(1.0, float((np.abs(way) / reach).max())), lower, upper)
        return now

    return step


OPPONENTS: dict[str, Callable[[JointLimits, Targets], Tracker]] = {"ours": ours, "ruckig": ruckig, "clamp": clamp}


def compare(limits: JointLimits, targets: Targets, settle_s: float = 0.5) -> list[dict[str, object]]:
    """A row per tracker: µs per tick, error against ``targets`` after ``settle_s`` (mrad, p50 and max), breaches of limits.

    They take turns tick by tick, so that all see the same machine. ``broken.{kind}`` is the share of joint ticks beyond the
    limit, ``worst.{kind}`` the greatest excess as a multiple of it.
    """
    trackers = {name: build(limits, targets) for name, build in OPPONENTS.items() if _present(name)}
    times: dict[str, list[float]] = {name: [] for name in trackers}
    motion: dict[str, list[FloatArray]] = {name: [] for name in trackers}
    for k in range(len(targets.position)):
        for name, step in trackers.items():
            begin = time.perf_counter_ns()
            motion[name].append(step(k))
            times[name].append((time.perf_counter_ns() - begin) / 1e3)
    settled = round(settle_s / targets.period_s)
    rows: list[dict[str, object]] = []
    for name in trackers:
        path = np.array(motion[name])
        error = 1e3 * np.abs(path - targets.position)[settled:]
        p50, p99 = np.percentile(times[name], (50, 99))
        row: dict[str, object] = {
            "name": name,
            "targets": targets.name,
            "us": {"p50": round(float(p50), 1), "p99": round(float(p99), 1)},
            "error_mrad": {"p50": round(float(np.median(error)), 3), "max": round(float(error.max()), 3)},
        }
        rows.append(row | breaches(np.concatenate([_start(limits, targets)[None], path]), limits, targets.period_s))
    return rows


def breaches(path: FloatArray, limits: JointLimits, period_s: float) -> dict[str, dict[str, float]]:
    """``broken`` and ``worst`` by kind of the set-points ``path`` (N, J), which stand still up to the first."""
    path = np.concatenate([np.repeat(path[:1], 3, axis=0), path])
    broken, worst = {}, {}
    for order, (kind, limit) in enumerate(
        [("velocity", limits.velocity), ("acceleration", limits.acceleration), ("jerk", limits.jerk)], start=1
    ):
        used = np.abs(np.diff(path, order, axis=0)) / period_s**order
        resolution = 8.0 * np.spacing(np.abs(path).max()) / period_s**order
        broken[kind] = float(np.mean(used > limit * (1.0 + TOLERANCE) + resolution))
        worst[kind] = float(np.max(used / limit))
    return {"broken": broken, "worst": worst}


def _present(name: str) -> bool:
    from importlib.util import find_spec

    return name != "ruckig" or find_spec("ruckig") is not None


def _start(limits: JointLimits, targets: Targets) -> FloatArray:
    """Where every tracker stands before the first tick."""
    return np.clip(targets.position[0], *_bounded(limits))


def _bounded(limits: JointLimits) -> tuple[FloatArray, FloatArray]:
    """The range; one radian either way for joints without stops."""
    endless = ~np.isfinite(limits.upper - limits.lower)
    return np.where(endless, -1.0, limits.lower), np.where(endless, 1.0, limits.upper)
