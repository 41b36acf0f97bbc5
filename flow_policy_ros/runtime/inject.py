"""Disturbances on demand: inference that takes longer, chunks and frames that get lost, written as ``delay=120ms±40,drop=2%``.

Every draw is keyed by (seed, kind, stamp), as that of a latency profile, so that a run can be repeated and lockstep over DDS
meets what one process meets. Nothing here waits: whoever holds the chunk or the frame makes it late or drops it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, DecimalException

from flow_policy_ros.runtime.latency import LatencyProfile, keyed_uniform

MAX_DELAY_S = 10.0
GRAMMAR = (
    "delay=SECONDS, delay=LEAST..MOST (s), delay=MIDDLE±HALF (s), spike=SECONDS@PROBABILITY, drop-chunks=PROBABILITY (or drop), "
    "drop-frames=PROBABILITY, separated by commas; times also with their unit (120ms, 50us), probabilities also as 2%"
)
UNITS = {"ms": Decimal("1e-3"), "us": Decimal("1e-6"), "s": Decimal(1), "%": Decimal("1e-2")}
"""In the order in which they are looked for; the last is for probabilities."""
NAMES = {"delay": "delay", "spike": "spike", "drop-chunks": "drop_chunks", "drop": "drop_chunks", "drop-frames": "drop_frames"}
"""As written → field of ``Injection``. What gets lost is chunks, unless frames are named."""


class InjectionError(ValueError):
    """A text that is no injection; the message names the part and what was expected."""


def _number(part: str, text: str, units: tuple[str, ...], unit: str = "") -> Decimal:
    """``text`` as a number of seconds or a probability; one without a unit has ``unit``. Decimal: 0.12 - 0.04 is no 0.08."""
    given = next((u for u in units if text.strip().endswith(u)), "")
    try:
        number = Decimal(text.strip().removesuffix(given))
        float(number)  # a signalling NaN is none
        return number * UNITS.get(given or unit, Decimal(1))
    except (DecimalException, ValueError) as error:
        raise InjectionError(f"injection '{part}': '{text}' is no number, expected {GRAMMAR}.") from error


def _time(part: str, text: str, unit: str = "") -> Decimal:
    return _number(part, text, ("ms", "us", "s"), unit)


def _probability(part: str, text: str) -> float:
    return float(_number(part, text, ("%",)))


def _delay(part: str, text: str) -> tuple[float, float]:
    """``A``, ``A..B`` or ``A±B`` (also ``A+-B``; B has A's unit if it has none), s."""
    middle, sign, half = text.replace("+-", "±").partition("±")
    if sign:
        unit = next((u for u in ("ms", "us", "s") if middle.strip().endswith(u)), "")
        about, away = _time(part, middle), _time(part, half, unit)
        if away.is_nan() or away < 0:
            raise InjectionError(f"injection '{part}': '{half}' after ± is given, expected zero or more.")
        if about.is_infinite() or away.is_infinite():
            raise InjectionError(f"injection '{part}': inf is given, expected 0 to {MAX_DELAY_S:g} s.")
        return float(about - away), float(about + away)
    least, dots, most = text.partition("..")
    number = float(_time(part, least))
    return number, float(_time(part, most)) if dots else number


def _require(name: str, value: float, most: float, unit: str) -> None:
    if not (math.isfinite(value) and 0.0 <= value <= most):
        raise InjectionError(f"injection '{name}': {value} {unit} is given, expected 0 to {most:g}.")


@dataclass(frozen=True)
class Injection:
    """What is done to inference and camera on top of the latency that there is anyway.

    ``delay`` s, least and most: every inference takes so much longer, evenly distributed (equal ends: always the same).
    ``spike`` s and probability: some take this much longer still. ``drop_chunks``, ``drop_frames``: the probability that a
    chunk never reaches the command stage, or features of an image never reach the policy.
    """

    delay: tuple[float, float] = (0.0, 0.0)
    spike: tuple[float, float] = (0.0, 0.0)
    drop_chunks: float = 0.0
    drop_frames: float = 0.0

    def __post_init__(self) -> None:
        least, most = self.delay
        _require("delay", least, MAX_DELAY_S, "s")
        _require("delay", most, MAX_DELAY_S, "s")
        if least > most:
            raise InjectionError(f"injection 'delay={least!r}..{most!r}': the least exceeds the most; exchange them.")
        _require("spike", self.spike[0], MAX_DELAY_S, "s")
        _require("spike", self.spike[1], 1.0, "as its probability")
        _require("drop-chunks", self.drop_chunks, 1.0, "as a probability")
        _require("drop-frames", self.drop_frames, 1.0, "as a probability")

    def __bool__(self) -> bool:
        """Whether anything is disturbed."""
        return self != NO_INJECTION

    @staticmethod
    def parse(text: str) -> Injection:
        """Read what ``str`` writes, and ``GRAMMAR``; empty for no disturbance. Raises ``InjectionError`` naming the part."""
        given: dict[str, tuple[float, float] | float] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, _, value = part.partition("=")
            key = NAMES.get(name.strip())
            if key is None:
                raise InjectionError(f"injection '{part}' is unknown, expected {GRAMMAR}.")
            if key in given:
                raise InjectionError(f"injection '{part}': {name} is given twice; leave one out.")
            if key == "delay":
                given[key] = _delay(part, value)
            elif key == "spike":
                length, _, probability = value.partition("@")
                given[key] = (float(_time(part, length)), _probability(part, probability))
            else:
                given[key] = _probability(part, value)
        return Injection(**given)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """The text that ``parse`` reads as this injection; empty without any."""
        least, most = self.delay
        parts = [
            (f"delay={least!r}" if least == most else f"delay={least!r}..{most!r}", most > 0),
            (f"spike={self.spike[0]!r}@{self.spike[1]!r}", self.spike != (0.0, 0.0)),
            (f"drop-chunks={self.drop_chunks!r}", self.drop_chunks > 0),
            (f"drop-frames={self.drop_frames!r}", self.drop_frames > 0),
        ]
        return ",".join(text for text, wanted in parts if wanted)

    def inference_delay(self, stamp: int, seed: int) -> int:
        """ns by which inference on the observation of ``stamp`` takes longer."""
        least, most = self.delay
        seconds = least
        if most > least:
            seconds += (most - least) * keyed_uniform(seed, "inject.delay", stamp)
        length, probability = self.spike
        if keyed_uniform(seed, "inject.spike", stamp) < probability:
            seconds += length
        return round(seconds * 1e9)

    def dropped(self, stage: str, stamp: int, seed: int) -> bool:
        """Whether the product of ``stage`` (``perception``, ``inference``) with this ``stamp`` gets lost."""
        probability = {"perception": self.drop_frames, "inference": self.drop_chunks}.get(stage, 0.0)
        return keyed_uniform(seed, f"inject.drop.{stage}", stamp) < probability


NO_INJECTION = Injection()


@dataclass(frozen=True)
class Disturbed:
    """A latency profile with an injection on top; what ``runtime.latency.Delays`` asks for."""

    profile: LatencyProfile
    injection: Injection

    def delay(self, stage: str, stamp: int, seed: int = 0) -> int:
        """ns that ``stage`` takes for the product with this ``stamp``, also for one that gets lost."""
        extra = self.injection.inference_delay(stamp, seed) if stage == "inference" else 0
        return self.profile.delay(stage, stamp, seed) + extra

    def dropped(self, stage: str, stamp: int, seed: int = 0) -> bool:
        """Whether that product gets lost."""
        return self.injection.dropped(stage, stamp, seed)
