"""What travels between the parts: joint states, features, chunks, set-points.

Plain frozen data, ROS-free and torch-free. Every stamp is an ``int`` of nanoseconds, every array that
belongs to joints travels with the joints' names, every unit is SI (rad, m, s, N·m). Codecs to ROS
messages live in ``ros``; nothing here validates values, the consumers do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
FeatureArray = NDArray[Any]
"""(tokens, channels) float32; of camera images uint8."""


@dataclass(frozen=True)
class JointState:
    """Measured state of the named joints at ``stamp``.

    ``position`` (J,) rad or m; ``velocity`` (J,) and ``effort`` (J,) where the robot reports them.
    """

    stamp: int
    names: tuple[str, ...]
    position: FloatArray
    velocity: FloatArray | None = None
    effort: FloatArray | None = None


@dataclass(frozen=True)
class EncodedImage:
    """A picture as a camera driver sent it, not decoded: ``data`` in ``encoding`` (``rgb8``, ``bayer_rggb8``, ``16UC1``, …), rows
    of ``step`` bytes. ``encoding`` is ``compressed`` for a JPEG or PNG; sizes are 0 then. ``vision.decode`` decodes."""

    encoding: str
    height: int
    width: int
    step: int
    data: bytes | memoryview
    big_endian: bool = False


@dataclass(frozen=True)
class Features:
    """What one extractor saw in one image, or made of an instruction: ``values`` (tokens, channels) float32; camera images
    themselves are uint8, a row of RGB pixels each.

    ``stamp`` is the image's stamp, not the instant of computation; an instruction's is that from which it holds. ``stream`` names
    the feature stream.
    """

    stamp: int
    stream: str
    values: FeatureArray


@dataclass(frozen=True)
class Observation:
    """The newest valid inputs at ``stamp`` (the joint state's), as the checkpoint's contract orders them.

    ``joint_position`` (J,) in the contract's joint order; ``features[stream]`` (tokens, channels);
    ``stamps[stream]`` the header stamp of each input, ``"joint_state"`` among them. ``joint_history`` (n, J) are the positions
    before, one for each of the contract's ``history_ns``.
    """

    stamp: int
    joint_position: FloatArray
    features: dict[str, FeatureArray] = field(default_factory=dict)
    stamps: dict[str, int] = field(default_factory=dict)
    joint_history: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))


@dataclass(frozen=True)
class Execution:
    """How a chunk follows those before it: the ``mode`` of execution, and whether it ``continued`` what was being executed.

    If it did, its first ``delay`` steps were committed and ``execute`` steps were to lie between it and the next; ``clamped``
    names those of the two that had to be other than measured.
    """

    mode: str
    continued: bool = False
    delay: int = 0
    execute: int = 0
    clamped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chunk:
    """A timed trajectory: row k of ``positions`` (H, A) is the set-point for ``stamp + k * dt_ns``.

    ``stamp`` is the stamp of the joint state that it was computed from. ``nfe`` is the number of function
    evaluations the solver made, ``seed`` the one that drew the noise together with ``stamp``, ``execution`` how it follows
    those before it, where that is known.
    """

    stamp: int
    dt_ns: int
    names: tuple[str, ...]
    positions: FloatArray
    nfe: int = 0
    seed: int = 0
    observation_stamps: dict[str, int] = field(default_factory=dict)
    execution: Execution | None = None

    def end(self) -> int:
        """Instant of the last point, ns."""
        return self.stamp + (len(self.positions) - 1) * self.dt_ns


@dataclass(frozen=True)
class Setpoint:
    """One command: ``position`` (A,), with the ``velocity`` and ``acceleration`` it implies, for ``stamp``."""

    stamp: int
    names: tuple[str, ...]
    position: FloatArray
    velocity: FloatArray
    acceleration: FloatArray


@dataclass(frozen=True)
class Plan:
    """What the command stage will publish unless something intervenes: row k of ``positions`` (N, J) at ``stamp + k * dt_ns``.

    Made of the chunk stamped ``chunk_stamp``, shaped and spliced to what was being published; ``stamp`` is the tick at which
    it began to be followed, so ``stamp - chunk_stamp`` is the delay from observation to consumption.
    """

    stamp: int
    dt_ns: int
    names: tuple[str, ...]
    positions: FloatArray
    chunk_stamp: int


@dataclass(frozen=True)
class Continuation:
    """How a new chunk is to continue what is being executed, by ``method`` (``rtc``, ``rtc_identity`` or ``rtc_trained``).

    ``previous`` (H, A), columns as the contract's ``action_joints``, rad or m: what will be executed at the new chunk's
    instants. Its first ``delay`` steps are committed; ``execute`` steps lie between this chunk and the next.
    """

    method: str
    previous: FloatArray
    delay: int
    execute: int
