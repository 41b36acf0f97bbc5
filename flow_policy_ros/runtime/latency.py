"""Delay as data: how long each stage took when measured, and the delay injected for a given stamp.

A profile holds measured durations of a stage; a draw picks one of them by (seed, stage, stamp), so the same run
injects the same delays whatever the order of calls. Measuring is done by the callers.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

STAGES = ("perception", "inference")
REMEDY = "give one that 'flow_policy evaluate' measured (kept in ~/.cache/flow_policy_ros), or use --latency measured."


class Delays(Protocol):
    """How long the product of a stage takes, and whether it gets lost on the way: a profile, or one with disturbances."""

    def delay(self, stage: str, stamp: int, seed: int = 0) -> int:
        """ns that ``stage`` takes for the product with this ``stamp``, also for one that gets lost."""

    def dropped(self, stage: str, stamp: int, seed: int = 0) -> bool:
        """Whether that product gets lost."""


def keyed_integer(seed: int, kind: str, stamp: int) -> int:
    """64 random bits that depend on (``seed``, ``kind``, ``stamp``) alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{kind}:{stamp}".encode()).digest()[:8], "big")


def keyed_uniform(seed: int, kind: str, stamp: int) -> float:
    """A number drawn evenly from [0, 1), keyed as ``keyed_integer``."""
    return (keyed_integer(seed, kind, stamp) >> 11) * 2.0**-53


@dataclass(frozen=True)
class LatencyProfile:
    """Measured durations in ms per stage (``perception``, ``inference``); an absent stage costs nothing.

    ``measured_on`` says machine and date in words, ``busy`` why the machine was too busy for durations of its own; empty where it
    was not.
    """

    samples_ms: dict[str, tuple[float, ...]]
    measured_on: str = ""
    busy: str = ""

    def delay(self, stage: str, stamp: int, seed: int = 0) -> int:
        """Delay in ns of ``stage`` for the product with this ``stamp``."""
        samples = self.samples_ms.get(stage, ())
        if not samples:
            return 0
        return int(samples[keyed_integer(seed, stage, stamp) % len(samples)] * 1e6)

    def dropped(self, stage: str, stamp: int, seed: int = 0) -> bool:
        """Never: a profile loses nothing."""
        return False

    def sha256(self) -> str:
        """Hash of the samples, for the records of a run."""
        return hashlib.sha256(json.dumps(self.samples_ms, sort_keys=True).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write as JSON."""
        content = {"measured_on": self.measured_on, "busy": self.busy, "samples_ms": self.samples_ms}
        Path(path).write_text(json.dumps(content, indent=1) + "\n")

    @staticmethod
    def load(path: str | Path) -> LatencyProfile:
        """Read a JSON profile. Raises ``ValueError`` naming file and remedy."""
        try:
            content = json.loads(Path(path).read_text())
            samples = {stage: tuple(map(float, durations)) for stage, durations in content["samples_ms"].items()}
        except OSError as error:
            raise ValueError(f"latency profile {path} cannot be read ({error.strerror}); {REMEDY}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"latency profile {path} is not text; {REMEDY}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f'latency profile {path} is not JSON of the form {{"samples_ms": {{"inference": [21.5, …]}}}} ({error}); '
                f"{REMEDY}"
            ) from error
        unknown = sorted(set(samples) - set(STAGES))
        if unknown or any(not 0 <= x < 60_000 for xs in samples.values() for x in xs):
            raise ValueError(
                f"latency profile {path}: stages {unknown} unknown or a duration outside 0…60 s; stages are {STAGES}."
            )
        return LatencyProfile(samples, str(content.get("measured_on", "")), str(content.get("busy", "")))


NO_LATENCY = LatencyProfile({})
