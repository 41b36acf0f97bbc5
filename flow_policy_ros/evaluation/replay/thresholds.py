"""The limits of the verdict, each with the check that uses it and its reason, which the report shows to whoever asks."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


def _limit(check: str, value: float, reason: str) -> Any:
    return field(default=value, metadata={"check": check, "reason": reason})


@dataclass(frozen=True)
class Thresholds:
    """Above (``frozen``, ``rate``, and those of ``recording``: below) which a figure is bad. All but the times are ratios to the
    recording or to the limits."""

    lag_s: float = _limit("lag", 0.06, "A point is 20 to 100 ms from the next; commands that were shaped come up to 40 ms after "
                          "the chunks that they came of.")  # fmt: skip
    lag_gain: float = _limit("lag", 0.6, "A shift is believed only where it leaves no more than this share of the squared error: "
                             "one flat in time fits anywhere.")  # fmt: skip
    noise_inside: float = _limit("noise", 0.14, "White jitter of the worst joint as a share of its motion. Sound policies show 1% "
                                 "or, taught by noisy experts, up to 11%; a joint whose points jitter by a seventh of all its "
                                 "motion does not follow that motion.")  # fmt: skip
    noise_overlap: float = _limit("noise", 0.3, "Two chunks in a row that differ by so much of the motion do not follow one "
                                  "intention.")  # fmt: skip
    frozen: float = _limit("frozen", 0.2, "Chunks that vary less than this share of what the recording does say the same whatever "
                           "they are shown.")  # fmt: skip
    features_outside: float = _limit("features", 0.5, "In training 2% of the values were outside the range; of a joint state far "
                                     "more may be, where the task begins elsewhere.")  # fmt: skip
    error_total: float = _limit("error", 2.0, "Error over that of holding still. A different, sound way of doing the task may well "
                                "exceed 1.")  # fmt: skip
    error_share: float = _limit("error", 0.15, "And the mean error must be this share of the motion: where the recording hardly "
                                "moves, holding still is hard to beat.")  # fmt: skip
    error_start: float = _limit("error", 0.085, "Chunks whose first points are this share of the motion away from what the robot "
                                "was told do not go on from where it was …")  # fmt: skip
    worst_share: float = _limit("worst_second", 0.25, "Mean error of the joints' worst seconds, as share of their motion. Means "
                                "over a minute hide a second in which the hand goes astray; a sound policy shows 9%.")  # fmt: skip
    worst_total: float = _limit("worst_second", 2.0, "And it must be so much of that of holding still in the worst second: where "
                                "the recording moves fast every error is large.")  # fmt: skip
    worst_joint: float = _limit("worst_second", 1.0, "Or one joint is off for a second by more than all its motion: that is beyond "
                                "where the recording ever was, not another moment to close a gripper.")  # fmt: skip
    still_share: float = _limit("still_joints", 0.1, "A joint that stood still in the recording is driven from there by this "
                                "share of its command range: nothing in it says that it may.")  # fmt: skip
    still_away: float = _limit("still_joints", 0.2, "Or by so much, rad or m, where the range is wide.")
    error_astray: float = _limit("error", 1.0, "… and those need not be worse than holding still by more than this, where nothing "
                                 "else explains it.")  # fmt: skip
    seam_ratio: float = _limit("seam", 6.0, "Acceleration at the seams over that inside chunks, at the 95th percentile …")
    seam_share: float = _limit("seam", 0.5, "… where it is also this share of the joint's limit: small steps between calm chunks "
                               "hurt nobody.")  # fmt: skip
    jerk_ratio: float = _limit("jerk", 5.0, "Commanded over recorded jerk. Chunks joined 25 times a second are rougher than an "
                               "expert; five times is oscillation.")  # fmt: skip
    jerk_slow: float = _limit("jerk", 5.0, "The same of means over a tenth of a second, which tremor of the recording does not "
                              "hide, and of the worst second.")  # fmt: skip
    intervened: float = _limit("limits", 0.1, "Share of joint set-points that limits changed, on top of twice the share in which "
                               "the recording breaks the same limits.")  # fmt: skip
    stale: float = _limit("stale", 0.2, "Every fifth chunk missing is what a chunk of half a second still covers.")
    rate: float = _limit("rate", 0.5, "Chunks per second over those asked for. What was tuned at one rate says little of half of "
                         "it; one period more for inference than there is gives just half.")  # fmt: skip
    stagnation: float = _limit("stagnation", 0.25, "Share of the time in which the recorded robot moves and the commands stand "
                               "still.")  # fmt: skip
    stagnation_s: float = _limit("stagnation", 2.0, "Or such time in a row, s: a long recording hides a minute of it in a share.")
    windows: int = _limit("stagnation", 8, "Stagnation is looked for in quarters of a second; fewer than this in which the "
                          "recording moves say nothing of standing still: a recorded command that jumps moves in one of "
                          "them, and a delay of half a second is two.")  # fmt: skip
    chunks: int = _limit("recording", 10, "Fewer chunks than this, compared with the recording, say nothing.")
    duration_s: float = _limit("recording", 1.0, "Neither does a recording that is shorter.")
    refused: float = _limit("recording", 0.05, "More commands than this whose stamps go back, or are no instants, are no outliers.")
    active: float = _limit("recording", 0.5, "A policy must have been followed for this share of the ticks.")


DEFAULTS = Thresholds()


def limits_of(check: str) -> list[tuple[str, float, str]]:
    """Name, value and reason of every default limit that the check uses, the first one first."""
    return [
        (one.name, getattr(DEFAULTS, one.name), one.metadata["reason"])
        for one in fields(Thresholds) if one.metadata["check"] == check
    ]  # fmt: skip
