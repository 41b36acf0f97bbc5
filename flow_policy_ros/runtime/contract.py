"""What a checkpoint expects of the robot and of the observation: names, shapes, rates. No statistics, no torch.

Written to ``contract.json`` by ``policy.checkpoint``, compared with the robot file before anything runs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from flow_policy_ros.runtime.robot import Robot


class ContractError(ValueError):
    """A checkpoint that does not fit the robot, or an observation that does not fit the checkpoint."""


MOMENTS = ("newest", "first", "standing")
SENTENCE, PROMPT, FRAMES, POINTS = "sentence", "prompt", "frames", "points"
SAID = (SENTENCE, PROMPT)
"""Kinds of streams that are made of the instruction, by the process that runs the policy."""
SEEN = (PROMPT, FRAMES, POINTS)
"""Kinds of streams that a vision-language model reads as they are: they are not tokens, and are never normalised."""
MOST_TOKENS, MOST_VALUES = 1 << 20, 1 << 27
"""Of a stream; eight thousand by four thousand pixels are fewer. A file may claim any number."""
MOST_HISTORY_NS = 2_000_000_000
"""Joint states further back than this are not kept by whoever assembles observations."""


@dataclass(frozen=True)
class StreamContract:
    """One feature stream: ``values`` (tokens, channels), as they are sent.

    ``extractor`` identifies what made it (model, weights hash, classes); its ``"extractor"`` is the ``kind``, and its
    ``"mask_channel"``, where there is one, the channel that is 1 where a token is real and 0 where it is padding. ``use`` are the
    token rows that the policy observes, ascending, empty for all; the stream itself always carries all. ``moment`` says which
    features it observes: the ``newest``, the ``first`` since the last reset (what the camera saw before the robot moved), or
    those that are ``standing``: they hold until others come, however old they are, as an instruction does and nothing else may.
    Raises ``ContractError`` for anything else.
    """

    name: str
    tokens: int
    channels: int
    extractor: dict[str, Any]
    use: tuple[int, ...] = ()
    moment: str = "newest"

    def __post_init__(self) -> None:
        given = self.tokens, self.channels
        if min(given) < 0 or self.tokens > MOST_TOKENS or self.tokens * self.channels > MOST_VALUES:
            raise ContractError(
                f"stream '{self.name}' has {self.tokens} tokens of {self.channels} channels, expected at most {MOST_TOKENS} tokens "
                f"and {MOST_VALUES} values."
            )
        if self.moment not in MOMENTS:
            raise ContractError(f"stream '{self.name}' has the moment {self.moment!r}, expected one of {MOMENTS}.")
        if list(self.use) != sorted(set(self.use) & set(range(self.tokens))):
            raise ContractError(
                f"stream '{self.name}' uses the token rows {list(self.use)}, expected ascending rows of its "
                f"{self.tokens} tokens."
            )
        self._check_kind()

    @property
    def rows(self) -> tuple[int, ...]:
        """The token rows that the policy observes."""
        return self.use or tuple(range(self.tokens))

    @cached_property
    def kind(self) -> str:
        """What its values are: ``SENTENCE``, ``PROMPT``, ``FRAMES``, ``POINTS``, or the name of an extractor of tokens."""
        return str(self.extractor.get("extractor", "objects"))

    @cached_property
    def mask_channel(self) -> int | None:
        """The channel that says which tokens are real; None where all are. What a model reads as it is has none."""
        channel = self.extractor.get("mask_channel")
        return None if channel is None or self.kind in SEEN else int(channel)

    @property
    def dtype(self) -> str:
        """The type of its values: ``uint8`` for camera images, else ``float32``."""
        return "uint8" if self.kind == FRAMES else "float32"

    def _check_kind(self) -> None:
        kind, given = self.kind, (self.tokens, self.channels)
        if kind in SAID and self.moment != "standing":
            raise ContractError(
                f"stream '{self.name}' is made of the instruction, yet has the moment '{self.moment}'; expected 'standing'."
            )
        if kind not in SAID and self.moment == "standing":
            raise ContractError(
                f"stream '{self.name}' of the kind '{kind}' has the moment 'standing', expected 'newest' or 'first': a policy must "
                "not go on with what a sensor that has failed saw last. Only what is made of the instruction stands."
            )
        if kind in SEEN and self.use:
            raise ContractError(f"stream '{self.name}' of the kind '{kind}' is observed as a whole; expected no use of some rows.")
        if kind in (PROMPT, POINTS) and self.channels != (expected := {PROMPT: 2, POINTS: 4}[kind]):
            raise ContractError(f"stream '{self.name}' of the kind '{kind}' has {self.channels} channels, expected {expected}.")
        if kind == FRAMES:
            try:
                height, width = (int(n) for n in self.extractor["size"])
            except (KeyError, TypeError, ValueError):
                raise ContractError(f"stream '{self.name}' of camera images names no size (height, width) of theirs.") from None
            if given != (height, 3 * width):
                raise ContractError(
                    f"stream '{self.name}' has the shape {given}, expected {(height, 3 * width)}: rows of RGB pixels of an image "
                    f"{height} high and {width} wide."
                )
        channel = self.extractor.get("mask_channel")
        if channel is not None and channel not in range(self.channels):
            raise ContractError(f"stream '{self.name}' has its mask in channel {channel}, expected one of {self.channels}.")


@dataclass(frozen=True)
class Contract:
    """``joints`` order of the observed positions, ``action_joints`` order of a chunk's columns, both by name.

    ``dt_ns`` spacing of chunk points; ``horizon`` points per chunk. ``history_ns`` are the offsets, below zero and ascending, of
    past joint states that are observed besides the newest. Raises ``ContractError`` for others.
    """

    robot: str
    joints: tuple[str, ...]
    action_joints: tuple[str, ...]
    dt_ns: int
    horizon: int
    streams: tuple[StreamContract, ...]
    history_ns: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.dt_ns <= 0 or self.horizon <= 0:
            raise ContractError(
                f"a chunk has {self.horizon} points, {self.dt_ns} ns apart; expected at least one, and a time above zero."
            )
        if list(self.history_ns) != sorted({offset for offset in self.history_ns if -MOST_HISTORY_NS <= offset < 0}):
            raise ContractError(
                f"the joint states observed besides the newest have the offsets {list(self.history_ns)} ns, expected ascending "
                f"ones from {-MOST_HISTORY_NS} on and below 0."
            )
        prompts, frames, points = (self.of_kind(kind) for kind in SEEN)
        if len(prompts) > 1 or bool(prompts) != bool(frames) or (points and not frames):
            raise ContractError(
                f"the contract has {len(prompts)} prompts, images of {len(frames)} cameras and {len(points)} streams of points; "
                "a vision-language model reads one prompt with at least one image, and points only beside images."
            )

    def of_kind(self, *kinds: str) -> tuple[StreamContract, ...]:
        """The streams of these kinds, in order."""
        return tuple(stream for stream in self.streams if stream.kind in kinds)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # tuples become lists
        return content

    @staticmethod
    def from_json(content: dict[str, Any]) -> Contract:
        """Inverse of ``to_json``. Raises ``ContractError`` naming the missing key."""
        try:
            return Contract(
                robot=str(content["robot"]),
                joints=tuple(content["joints"]),
                action_joints=tuple(content["action_joints"]),
                dt_ns=int(content["dt_ns"]),
                horizon=int(content["horizon"]),
                streams=tuple(
                    StreamContract(
                        name=str(s["name"]),
                        tokens=int(s["tokens"]),
                        channels=int(s["channels"]),
                        extractor=dict(s["extractor"]),
                        use=tuple(int(row) for row in s.get("use", ())),  # contracts of before observe all
                        moment=str(s.get("moment", "newest")),
                    )
                    for s in content["streams"]
                ),
                history_ns=tuple(int(offset) for offset in content.get("history_ns", ())),  # as before: none
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ContractError(f"contract.json is incomplete or malformed: {error!r}.") from error

    def check_robot(self, robot: Robot) -> None:
        """Refuse a robot whose joints are not this checkpoint's. Raises ``ContractError`` listing both sides."""
        for role, ours in (("observed", self.joints), ("commanded", self.action_joints)):
            missing = [j for j in ours if j not in robot.joints]
            extra = [j for j in robot.joints if j not in ours]
            if missing or extra:
                raise ContractError(
                    f"checkpoint for robot '{self.robot}' does not fit robot file {robot.path} ('{robot.name}'): "
                    f"{role} joints only in the checkpoint: {missing}; only in the robot file: {extra}. "
                    "Use the checkpoint trained for this robot, or the robot file that it was trained with."
                )
