"""Delay as data: how long each stage took when measured, and the delay injected for a given stamp.

A profile holds measured durations of a stage; a draw picks one of them by (seed, stage, stamp), so the same run
injects the same delays whatever the order of calls. Measuring is done by the callers.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

STAGES = ("perception", "inference")
REMEDY = "give one that 'flow_policy evaluate' measured (kept in ~/.cache/flow_policy_ros), or use --latency measured."


@dataclass(frozen=True)
class LatencyProfile:
    """Measured durations in ms per stage (``perception``, ``inference``); an absent stage costs nothing.

    ``measured_on`` says machine and date in words.
    """

    samples_ms: dict[str, tuple[float, ...]]
    measured_on: str = ""

    def delay(self, stage: str, stamp: int, seed: int = 0) -> int:
        """Delay in ns of ``stage`` for the product with this ``stamp``."""
        samples = self.samples_ms.get(stage, ())
        if not samples:
            return 0
        digest = hashlib.sha256(f"{seed}:{stage}:{stamp}".encode()).digest()
        return int(samples[int.from_bytes(digest[:8], "big") % len(samples)] * 1e6)

    def sha256(self) -> str:
        """Hash of the samples, for the records of a run."""
        return hashlib.sha256(json.dumps(self.samples_ms, sort_keys=True).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write as JSON."""
        content = {"measured_on": self.measured_on, "samples_ms": self.samples_ms}
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
        return LatencyProfile(samples, str(content.get("measured_on", "")))


NO_LATENCY = LatencyProfile({})
