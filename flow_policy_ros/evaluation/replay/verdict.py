"""Whether the figures of a replay say that a policy may run: a pure function of the metrics and of ``thresholds``.

A replay is open loop. It finds what is broken (wired wrongly, late, noisy, frozen, fed wrongly, beyond the limits) and cannot find
that a policy solves its task. A good policy is not the expert, so that an error condemns only where it is both large beside the
motion and far worse than holding still, or worse than that at all with chunks that do not begin where the robot was: whatever a
sound policy goes on to do, it begins there. What a recording cannot tell is said by the check ``recording``, and where that is all
there is to say the verdict is ``unjudged``; a check whose figure is missing says that it judges nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flow_policy_ros.evaluation.replay.thresholds import DEFAULTS, Thresholds

RECORDING_FAULTS = (
    "stale_joint_state", "bad_joint_state", "clock_jump_back", "control_loop_stalled", "start_outside_range", "tracking_error",
    "effort",
)  # fmt: skip
"""Faults that a recording brings about, not a policy: it has gaps, begins outside the range, pressed against something, or does not
obey (open loop)."""
RECORDING = "recording"
"""The check of whether there is anything to judge by."""


LARGE_DELAY_MS = 200.0
"""Injected delay that shows in windows of a quarter of a second."""


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
    """``good`` when every check is ok, ``unjudged`` when the recording alone is not, else ``bad``. The reasons are the sentences of
    the checks that are not ok, the most telling first."""

    checks: tuple[Check, ...]

    @property
    def word(self) -> str:
        """``good``, ``unjudged`` or ``bad``."""
        failed = [check.name for check in self.checks if not check.ok]
        return "good" if not failed else "unjudged" if failed == [RECORDING] else "bad"

    @property
    def reasons(self) -> tuple[str, ...]:
        """``NAME: sentence`` of every check that failed."""
        return tuple(f"{check.name}: {check.sentence}" for check in self.checks if not check.ok)

    def to_json(self) -> dict[str, Any]:
        """Keys ``verdict``, ``reasons``, ``checks``."""
        return {
            "verdict": self.word,
            "reasons": list(self.reasons),
            "checks": [
                {"name": c.name, "value": c.value, "limit": c.limit, "ok": c.ok, "sentence": c.sentence} for c in self.checks
            ],
        }


def judge(metrics: Mapping[str, Any], thresholds: Thresholds = DEFAULTS) -> Verdict:
    """Of ``metrics`` as ``Metrics.result`` gives them."""
    checks = (
        _recording, _joint_order, _lag, _frozen, _features, _noise, _error, _worst_second, _still_joints, _faults, _limits, _stale,
        _rate, _stagnation, _seam, _jerk,
    )  # fmt: skip
    return Verdict(tuple(check(metrics, thresholds) for check in checks))


def _recording(metrics: Mapping[str, Any], limits: Thresholds) -> Check:
    moving, still, unknown = metrics["joints_moving"], metrics["joints_still"], metrics["joints_unknown"]
    missing: list[tuple[str, float, float]] = []  # what, the figure that says so, and the least that it would have to be
    if not metrics["recorded_commands"]:
        what = "it holds no commands, so that nothing can be compared; name their topic in the robot file (robot.recorded)"
        missing.append((what, 0.0, 1.0))
    elif not moving and not still:
        what = "none of its commands is for a joint of the robot; say in the robot file which they are (robot.recorded)"
        missing.append((what, 0.0, 1.0))
    elif not moving:
        what = f"none of its {len(still) + len(unknown)} commanded joints moves, so that nothing can be compared"
        missing.append((what, 0.0, 1.0))
    compared, duration_s, active = metrics["chunks_compared"], metrics["duration_s"], metrics["active_fraction"]
    if duration_s < limits.duration_s:
        what = f"it lasts {duration_s:.2f} s, at least {limits.duration_s:g} s are needed"
        missing.append((what, duration_s, limits.duration_s))
    elif metrics["recorded_commands"] and compared < limits.chunks:
        what = f"only {compared} chunks meet recorded commands, at least {limits.chunks} are needed"
        missing.append((what, float(compared), float(limits.chunks)))
    if active < limits.active:
        what = f"the policy was followed in {active:.0%} of the ticks, at least {limits.active:.0%} are needed"
        missing.append((what, active, limits.active))
    refused = metrics["recorded_refused"] / max(1, metrics["recorded_commands"] - metrics["recorded_foreign"])
    if refused > limits.refused:
        what = f"{refused:.0%} of its commands have stamps that go back or lie over a second from their receipt, at most "
        missing.append((f"{what}{limits.refused:.0%} may; try --stamps receive", refused, limits.refused))
    unmeasured = [name for name, key in (("lag", "lag_s"), ("jerk", "jerk_ratio")) if metrics[key] is None]
    if moving and unmeasured and not missing:
        missing.append((f"joints move, but {' and '.join(unmeasured)} could not be measured", 0.0, 1.0))
    gaps = {name: count for name, count in metrics["faults"].items() if name in RECORDING_FAULTS}
    notes = []
    if still and moving:
        notes.append(f"not judged, since they stand still in it: {', '.join(still)}")
    if unknown and metrics["recorded_commands"]:
        notes.append(f"not judged, since it has no commands for them: {', '.join(unknown)}")
    if gaps:
        notes.append(f"it made the command stage stop ({_counts(gaps)})")
    if missing:
        whats, values, least = zip(*missing, strict=True)
        return Check(RECORDING, values[0], least[0], False, f"cannot be judged: {'; '.join([*whats, *notes])}.")
    said = f"{compared} chunks compared over {duration_s:.1f} s, {len(moving)} joints move"
    return Check(RECORDING, float(compared), float(limits.chunks), True, "; ".join([said, *notes]) + ".")


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
    word = "late" if lag > 0 else "early"
    if abs(lag) <= limits.lag_s:
        return Check("lag", lag, limits.lag_s, True, f"chunks fit the recording best {abs(lag) * 1e3:.0f} ms {word}.")
    if gain > limits.lag_gain:
        best = f"best: {abs(lag) * 1e3:.0f} ms {word}, which leaves {gain:.0%} of the squared error"
        return Check("lag", None, limits.lag_s, True, f"no shift fits clearly better ({best}).")
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
    sentence = f"{what} {size:.2g} rad (m) at {joint}, {value:.0%} of its motion in the recording"
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
        worse = ": passed, worse than holding still" if total > 1.0 else ""
        return Check("error", total, limits.error_total, True, f"{sentence}{worse}.")
    return Check("error", total, limits.error_total, False, f"{sentence}: what it says has little to do with what was done.")


def _worst_second(metrics: Mapping[str, Any], limits: Thresholds) -> Check:
    worst = metrics["error_worst"]
    share, hold, joints = worst["share"], worst["hold_share"], worst["by_joint"]
    if share is None or hold is None:
        return Check("worst_second", None, limits.worst_share, True, "not judged: there is no motion to compare with.")
    if any(not check(metrics, limits).ok for check in (_joint_order, _lag, _frozen, _features, _noise, _error)):
        return Check("worst_second", share, limits.worst_share, True, "not judged: the chunks are wrong all the time.")
    # What is within the reach of a joint that stands still is no going astray of one that hardly moves either.
    away = {joint: error / max(metrics["motion"][joint], _stray(metrics, joint, limits)) for joint, error in joints.items()}
    joint = max(away, key=lambda name: away[name])
    if away[joint] > limits.worst_joint:
        sentence = f"{joint} is off by {joints[joint]:.2g} rad (m) for a second, {away[joint]:.0%} of all its motion"
        return Check("worst_second", away[joint], limits.worst_joint, False, f"{sentence}.")
    sentence = f"in their worst second joints are off by {share:.1%} of their motion, in that of holding still by {hold:.1%}"
    ok = share <= limits.worst_share or share <= limits.worst_total * hold
    sentence += "" if ok else ": the policy goes astray for a while"
    return Check("worst_second", share, limits.worst_share, ok, f"{sentence}.")


def _still_joints(metrics: Mapping[str, Any], limits: Thresholds) -> Check:
    away = metrics["away"]
    if not away:
        return Check("still_joints", None, limits.still_share, True, "not judged: no joint stands still in the recording.")
    shares = {joint: distance / _stray(metrics, joint, limits) * limits.still_share for joint, distance in away.items()}
    joint = max(shares, key=lambda name: shares[name])
    sentence = f"{joint}, which stands still in the recording, is driven {away[joint]:.2g} rad (m) from where it stood"
    ok = shares[joint] <= limits.still_share
    sentence += "" if ok else f"; {_stray(metrics, joint, limits):.2g} are allowed"
    return Check("still_joints", shares[joint], limits.still_share, ok, f"{sentence}.")


def _stray(metrics: Mapping[str, Any], joint: str, limits: Thresholds) -> float:
    """How far (rad or m) a joint that stands still may be driven from there."""
    return float(min(limits.still_share * metrics["span"][joint], limits.still_away))


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


def _rate(metrics: Mapping[str, Any], limits: Thresholds) -> Check:
    wanted, got = metrics["chunks_per_s"]["wanted"], metrics["chunks_per_s"]["got"]
    if not wanted or got is None:
        return Check("rate", None, limits.rate, True, "not judged: no chunk was sampled, or nothing says how many were asked for.")
    sentence = f"{got:.3g} chunks per second were sampled while the inputs were fresh, {wanted:.3g} were asked for"
    delay, settings = metrics["injected_ms"].get("inference"), metrics["settings"]
    if delay is not None:
        sentence += f"; inference was given {delay['p50']:.0f} ms, at most {delay['p99']:.0f} ms in 99% of the cases"
        sentence += f" ({delay_source(settings)})"
    if got < limits.rate * wanted and settings.get("inject", "").startswith(("delay", "spike")):
        return Check("rate", None, limits.rate, True, f"{sentence}. Not judged: inference was slowed on purpose.")
    return Check("rate", got / wanted, limits.rate, got >= limits.rate * wanted, f"{sentence}.")


def delay_source(settings: Mapping[str, Any]) -> str:
    """Where the delays of a replay with these ``settings`` came from, in words."""
    profile, inject = settings.get("latency") or "none", settings.get("inject")
    said = [] if profile == "none" else [
        f"latency profile {profile}, measured on {settings.get('latency_measured_on') or 'an unknown machine'}"
    ]  # fmt: skip
    return " and ".join([*said, *([f"--inject {inject}"] if inject else [])]) or "no delay was asked for"


def _stagnation(metrics: Mapping[str, Any], limits: Thresholds) -> Check:
    stagnation = metrics["stagnation"]
    value = stagnation["fraction"]
    if value is None:
        return Check("stagnation", None, limits.stagnation, True, "not judged: the recorded robot does not move.")
    if stagnation["windows"] < limits.windows:
        sentence = f"not judged: the recorded commands move in {stagnation['windows']} quarters of a second only, in jumps."
        return Check("stagnation", None, limits.stagnation, True, sentence)
    missed = stagnation["missed_s"]
    sentence = (
        f"commands stand still in {value:.0%} of the time in which the recorded robot moves, for {stagnation['longest_s']:.2f} s "
        "at most"
    )
    delay = metrics["injected_ms"].get("inference")
    if delay is not None and delay["p50"] > LARGE_DELAY_MS:
        sentence += f"; inference was given {delay['p50']:.0f} ms, for which they stand still after a start"
    if value <= limits.stagnation and missed > limits.stagnation_s:
        sentence += f", {missed:.2f} s of it while the recorded robot moves"
        return Check("stagnation", missed, limits.stagnation_s, False, f"{sentence}.")
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
    value, slow = metrics["jerk_ratio"], metrics["jerk_slow"]
    if value is None:
        return Check("jerk", None, limits.jerk_ratio, True, "not judged: there is no motion to compare with.")
    sentence = f"commands have {value:.2f} times the recorded jerk"
    found = [(value, limits.jerk_ratio)]
    for name, where in (("slow", "without tremor"), ("worst", "in its worst second")):
        if slow[name] is not None:
            found.append((slow[name], limits.jerk_slow))
            sentence += f", {slow[name]:.2f} times {where}"
    worst, limit = max(found, key=lambda one: one[0] / one[1])
    return Check("jerk", worst, limit, worst <= limit, f"{sentence}.")


def _counts(table: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count} times)" for name, count in table.items())
