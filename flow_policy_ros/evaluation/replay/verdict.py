"""Whether the figures of a replay say that a policy may run: a pure function of the metrics and of thresholds with their reasons.

A replay is open loop. It finds what is broken (wired wrongly, late, noisy, frozen, fed wrongly, beyond the limits) and cannot find
that a policy solves its task. A good policy is not the expert, so that an error condemns only where it is both large beside the
motion and far worse than holding still, or worse than that at all with chunks that do not begin where the robot was: whatever a
sound policy goes on to do, it begins there. What a recording cannot tell is said by the check ``recording``; a check whose figure
is missing says that it judges nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RECORDING_FAULTS = ("stale_joint_state", "bad_joint_state", "clock_jump_back", "control_loop_stalled", "start_outside_range")
"""Faults that a recording brings about, not a policy: it has gaps, or begins outside the range. Chunks cannot cause these."""


@dataclass(frozen=True)
class Thresholds:
    """Above (``frozen``: below) which a figure is bad. All but the times are ratios to the recording or to the limits."""

    lag_s: float = 0.06
    """A point is 20 to 100 ms from the next; commands that were shaped come up to 40 ms after the chunks that they came of."""
    lag_gain: float = 0.6
    """A shift is believed only where it removes this much of the squared error: one flat in time fits anywhere."""
    noise_inside: float = 0.14
    """White jitter of the worst joint as a share of its motion. Sound policies show 1% or, taught by noisy experts, up to 11%; a
    joint whose points jitter by a seventh of all its motion does not follow that motion."""
    noise_overlap: float = 0.3
    """Two chunks in a row that differ by so much of the motion do not follow one intention."""
    frozen: float = 0.2
    """Chunks that vary less than this share of what the recording does say the same whatever they are shown."""
    features_outside: float = 0.5
    """In training 2% of the values were outside the range; of a joint state far more may be, where the task begins elsewhere."""
    error_total: float = 2.0
    """Error over that of holding still. A different, sound way of doing the task may well exceed 1."""
    error_share: float = 0.15
    """And the mean error must be this share of the motion: where the recording hardly moves, holding still is hard to beat."""
    error_start: float = 0.085
    """Chunks whose first points are this share of the motion away from what the robot was told do not go on from where it was …"""
    error_astray: float = 1.0
    """… and those need not be worse than holding still by more than this, where nothing else explains it."""
    seam_ratio: float = 6.0
    """Acceleration at the seams over that inside chunks, at the 95th percentile …"""
    seam_share: float = 0.5
    """… where it is also this share of the joint's limit: small steps between calm chunks hurt nobody."""
    jerk_ratio: float = 5.0
    """Commanded over recorded jerk. Chunks joined 25 times a second are rougher than an expert; five times is oscillation."""
    intervened: float = 0.1
    """Share of joint set-points that limits changed, on top of twice the share in which the recording breaks the same limits."""
    stale: float = 0.2
    """Every fifth chunk missing is what a chunk of half a second still covers."""
    stagnation: float = 0.25
    """Share of the time in which the recorded robot moves and the commands stand still."""
    windows: int = 4
    """Stagnation is looked for in quarters of a second; fewer than this in which the recording moves say nothing of standing
    still: a recorded command that jumps moves in one of them."""
    chunks: int = 10
    """Fewer chunks than this, compared with the recording, say nothing."""
    duration_s: float = 1.0
    """Neither does a recording that is shorter."""
    active: float = 0.5
    """A policy must have been followed for this share of the ticks."""


DEFAULTS = Thresholds()


@dataclass(frozen=True)
class Check:
    """``value`` beside its ``limit`` (None: could not be measured), whether it is ``ok``, and a ``sentence`` with joints and
    figures."""

    name: str
    value: float | None
    limit: float | None
    ok: bool
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """``bad`` when a check is not ok; the reasons are those checks' sentences, the most telling first."""

    checks: tuple[Check, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """``NAME: sentence`` of every check that failed."""
        return tuple(f"{check.name}: {check.sentence}" for check in self.checks if not check.ok)

    def to_json(self) -> dict[str, Any]:
        """Keys ``verdict``, ``reasons``, ``checks``."""
        return {
            "verdict": "bad" if self.reasons else "good",
            "reasons": list(self.reasons),
            "checks": [
                {"name": c.name, "value": c.value, "limit": c.limit, "ok": c.ok, "sentence": c.sentence} for c in self.checks
            ],
        }


def judge(metrics: Mapping[str, Any], thresholds: Thresholds = DEFAULTS) -> Verdict:
    """Of ``metrics`` as ``Metrics.result`` gives them."""
    checks = (
        _recording, _joint_order, _lag, _frozen, _features, _noise, _error, _faults, _limits, _stale, _stagnation, _seam, _jerk,
    )  # fmt: skip
    return Verdict(tuple(check(metrics, thresholds) for check in checks))


def _recording(metrics: Mapping[str, Any], limits: Thresholds) -> Check:
    moving, still, unknown = metrics["joints_moving"], metrics["joints_still"], metrics["joints_unknown"]
    missing = []
    if not metrics["recorded_commands"]:
        missing.append(
            "it holds no commands, so that nothing can be compared; name their topic in the robot file (robot.recorded)"
        )
    elif not moving and not still:
        missing.append("none of its commands is for a joint of the robot; say in the robot file which they are (robot.recorded)")
    elif not moving:
        missing.append(f"none of its {len(still) + len(unknown)} commanded joints moves, so that nothing can be compared")
    if metrics["duration_s"] < limits.duration_s:
        missing.append(f"it lasts {metrics['duration_s']:.2f} s, at least {limits.duration_s:g} s are needed")
    elif metrics["recorded_commands"] and metrics["chunks_compared"] < limits.chunks:
        missing.append(f"only {metrics['chunks_compared']} chunks meet recorded commands, at least {limits.chunks} are needed")
    active = metrics["active_fraction"]
    if active < limits.active:
        missing.append(f"the policy was followed in {active:.0%} of the ticks, at least {limits.active:.0%} are needed")
    gaps = {name: count for name, count in metrics["faults"].items() if name in RECORDING_FAULTS}
    notes = []
    if still and moving:
        notes.append(f"not judged, since they stand still in it: {', '.join(still)}")
    if unknown and metrics["recorded_commands"]:
        notes.append(f"not judged, since it has no commands for them: {', '.join(unknown)}")
    if gaps:
        notes.append(f"it made the command stage stop ({_counts(gaps)})")
    value = float(metrics["chunks_compared"])
    if missing:
        return Check("recording", value, float(limits.chunks), False, f"cannot be judged: {'; '.join([*missing, *notes])}.")
    said = f"{metrics['chunks_compared']} chunks compared over {metrics['duration_s']:.1f} s, {len(moving)} joints move"
    return Check("recording", value, float(limits.chunks), True, "; ".join([said, *notes]) + ".")


def _joint_order(metrics: Mapping[str, Any], limits: Thresholds) -> Check:
    order = metrics["joint_order"]
    if not metrics["joints_moving"]:
        return Check("joint_order", None, 0.0, True, "not judged: no joint moves in the recording.")
    if not order:
        return Check("joint_order", 0.0, 0.0, True, "every joint's chunks fit its own recording best.")
    fits = ", ".join(f"{joint}'s chunk fits the recording of {other}" for joint, other in order.items())
    sentence = f"{fits}. The order of the joints differs between checkpoint and robot: match them by name."
    return Check("joint_order", float(len(order)), 0.0, False, sentence)


def _lag(metrics: Mapping[str, Any], limits: Thresholds) -> Check:
    lag, gain = metrics["lag_s"], metrics["lag_gain"]
    if lag is None or gain is None:
        return Check("lag", None, limits.lag_s, True, "not judged: no chunk lies far enough from the end, or nothing moves.")
    ok = abs(lag) <= limits.lag_s or gain > limits.lag_gain
    word = "late" if lag > 0 else "early"
    if ok:
        return Check("lag", lag, limits.lag_s, True, f"chunks fit the recording best {abs(lag) * 1e3:.0f} ms {word}.")
    sentence = (
        f"chunks are {abs(lag) * 1e3:.0f} ms {word}: shifted by as much their squared error is {gain:.0%} of what it is. Check "
        "which stamps the policy was trained with, and the clocks of joint states and commands."
    )
    return Check("lag", lag, limits.lag_s, False, sentence)


def _frozen(metrics: Mapping[str, Any], limits: Thresholds) -> Check:
    value = metrics["frozen"]
    if value is None:
        return Check("frozen", None, limits.frozen, True, "not judged: too few chunks, or nothing moves in the recording.")
    sentence = f"chunks vary over time {value:.2f} times as much as the recording"
    if value >= limits.frozen:
        return Check("frozen", value, limits.frozen, True, f"{sentence}.")
    return Check("frozen", value, limits.frozen, False, f"{sentence}: the policy says the same whatever it is shown.")


def _features(metrics: Mapping[str, Any], limits: Thresholds) -> Check:
    known = {name: figures for name, figures in metrics["features"].items() if figures["outside"] is not None}
    if not known:
        return Check("features", None, limits.features_outside, True, "not judged: no range of what it observes is known.")
    worst = max(known, key=lambda name: known[name]["outside"])
    value, absent = known[worst]["outside"], known[worst]["absent"]
    sentence = f"{value:.0%} of the values of {worst} lie outside what the policy was trained on"
    gone = [name for name, share in absent.items() if share > limits.features_outside]
    if gone:
        sentence += f"; mostly not found: {', '.join(gone)}"
    if value <= limits.features_outside:
        return Check("features", value, limits.features_outside, True, f"{sentence}.")
    remedy = "images may be normalised twice, have their colours exchanged, or show something else"
    if worst == "joint_state":
        remedy = "joints may be named or scaled wrongly, or the recording is of another task"
    return Check("features", value, limits.features_outside, False, f"{sentence}; {remedy}.")


def _noise(metrics: Mapping[str, Any], limits: Thresholds) -> Check:
    noise = metrics["noise"]
    inside, overlap = noise["inside"], noise["overlap"]
    if inside is None and overlap is None:
        return Check("noise", None, limits.noise_inside, True, "not judged: no joint in its place moves enough in the recording.")
    if not _frozen(metrics, limits).ok:
        return Check("noise", None, limits.noise_inside, True, "not judged: the points are always the same.")
    if overlap is not None and overlap / limits.noise_overlap > (inside or 0.0) / limits.noise_inside:
        name, value, limit = "overlap", overlap, limits.noise_overlap
        what = "one chunk and the next differ by"
    else:
        name, value, limit = "inside", inside, limits.noise_inside
        what = "points inside chunks jitter by"
    size, joint = noise[f"{name}_size"], noise[f"{name}_joint"]
    sentence = f"{what} {size:.2g} at {joint}, {value:.0%} of its motion in the recording"
    return Check("noise", value, limit, value <= limit, f"{sentence}.")


def _error(metrics: Mapping[str, Any], limits: Thresholds) -> Check:
    total, share = metrics["error_total"], metrics["error_share"]
    if total is None or share is None:
        return Check("error", None, limits.error_total, True, "not judged: there is no motion to compare with.")
    sentence = f"the mean error is {total:.2f} times that of holding still, {share:.1%} of the motion"
    start = metrics["error_start"] or 0.0
    explained = any(not check(metrics, limits).ok for check in (_joint_order, _lag, _frozen, _features, _noise))
    if start > limits.error_start and not explained:
        ok = total <= limits.error_astray
        sentence += f", and chunks begin {start:.1%} of it away from what the robot was told"
        remedy = "" if ok else ": the policy may be fed wrongly inside (normalised twice), or not be made for this"
        return Check("error", total, limits.error_astray, ok, f"{sentence}{remedy}.")
    if total <= limits.error_total or share <= limits.error_share:
        return Check("error", total, limits.error_total, True, f"{sentence}.")
    return Check("error", total, limits.error_total, False, f"{sentence}: what it says has little to do with what was done.")


def _faults(metrics: Mapping[str, Any], limits: Thresholds) -> Check:
    own = {name: count for name, count in metrics["faults"].items() if name not in RECORDING_FAULTS}
    count = float(sum(own.values()))
    if not own:
        return Check("faults", 0.0, 0.0, True, "following the chunks raised no fault.")
    return Check("faults", count, 0.0, False, f"the command stage stopped the robot: {_counts(own)}.")


def _limits(metrics: Mapping[str, Any], limits: Thresholds) -> Check:
    value = metrics["intervened_fraction"]
    limit = limits.intervened + 2.0 * metrics["recorded_over_limits"]
    sentence = f"limits changed {value:.1%} of the joint set-points"
    counts = {
        (kind, joint): count for kind, joints in metrics["interventions"].items() for joint, count in joints.items()
    }
    if counts:
        kind, joint = max(counts, key=lambda key: counts[key])
        sentence += f", most often {kind} of {joint} ({counts[kind, joint]} ticks)"
    sentence += f"; the recording itself breaks them in {metrics['recorded_over_limits']:.1%}"
    return Check("limits", value, limit, value <= limit, f"{sentence}.")


def _stale(metrics: Mapping[str, Any], limits: Thresholds) -> Check:
    value, kinds = metrics["stale_fraction"], metrics["stale"]
    if not metrics["chunks"]:
        why = f": {_counts(kinds)}" if kinds else ""
        return Check("stale", 1.0, limits.stale, False, f"no chunk was ever sampled{why}.")
    sentence = f"{value:.1%} of the chunks that were due could not be sampled"
    if kinds and value > limits.stale:
        sentence += f": {_counts(kinds)}"
    return Check("stale", value, limits.stale, value <= limits.stale, f"{sentence}.")


def _stagnation(metrics: Mapping[str, Any], limits: Thresholds) -> Check:
    stagnation = metrics["stagnation"]
    value = stagnation["fraction"]
    if value is None:
        return Check("stagnation", None, limits.stagnation, True, "not judged: the recorded robot does not move.")
    if stagnation["windows"] < limits.windows:
        sentence = f"not judged: the recorded commands move in {stagnation['windows']} quarters of a second only, in jumps."
        return Check("stagnation", None, limits.stagnation, True, sentence)
    sentence = (
        f"commands stand still in {value:.0%} of the time in which the recorded robot moves, for {stagnation['longest_s']:.2f} s "
        "at most"
    )
    return Check("stagnation", value, limits.stagnation, value <= limits.stagnation, f"{sentence}.")


def _seam(metrics: Mapping[str, Any], limits: Thresholds) -> Check:
    seam = metrics["seam"]
    at, inside = seam["acceleration"], seam["acceleration_inside"]
    if at is None or not inside:
        return Check("seam", None, limits.seam_ratio, True, "not judged: no chunk takes over from another.")
    ratio = at / inside
    sentence = f"where a chunk takes over, acceleration is {ratio:.2f} times that inside chunks, {at:.0%} of the limit"
    return Check("seam", ratio, limits.seam_ratio, ratio <= limits.seam_ratio or at <= limits.seam_share, f"{sentence}.")


def _jerk(metrics: Mapping[str, Any], limits: Thresholds) -> Check:
    value = metrics["jerk_ratio"]
    if value is None:
        return Check("jerk", None, limits.jerk_ratio, True, "not judged: there is no motion to compare with.")
    sentence = f"commands have {value:.2f} times the recorded jerk."
    return Check("jerk", value, limits.jerk_ratio, value <= limits.jerk_ratio, sentence)


def _counts(table: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count} times)" for name, count in table.items())
