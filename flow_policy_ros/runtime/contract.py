"""What a checkpoint expects of the robot and of the observation: names, shapes, rates. No statistics, no torch.

Written to ``contract.json`` by ``policy.checkpoint``, compared with the robot file before anything runs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from flow_policy_ros.runtime.robot import Robot


class ContractError(ValueError):
    """A checkpoint that does not fit the robot, or an observation that does not fit the checkpoint."""


MOMENTS = ("newest", "first")
MOST_HISTORY_NS = 2_000_000_000
"""Joint states further back than this are not kept by whoever assembles observations."""


@dataclass(frozen=True)
class StreamContract:
    """One feature stream: ``values`` (tokens, channels).

    ``extractor`` identifies what made it (model, weights hash, classes). ``use`` are the token rows that the policy
    observes, ascending, empty for all; the stream itself always carries all. ``moment`` says which features it observes:
    the ``newest``, or the ``first`` since the last reset (what the camera saw before the robot moved). Raises
    ``ContractError`` for anything else.
    """

    name: str
    tokens: int
    channels: int
    extractor: dict[str, Any]
    use: tuple[int, ...] = ()
    moment: str = "newest"

    def __post_init__(self) -> None:
        if self.moment not in MOMENTS:
            raise ContractError(f"stream '{self.name}' has the moment {self.moment!r}, expected one of {MOMENTS}.")
        if list(self.use) != sorted(set(self.use) & set(range(self.tokens))):
            raise ContractError(
                f"stream '{self.name}' uses the token rows {list(self.use)}, expected ascending rows of its "
                f"{self.tokens} tokens."
            )

    @property
    def rows(self) -> tuple[int, ...]:
        """The token rows that the policy observes."""
        return self.use or tuple(range(self.tokens))


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
        if list(self.history_ns) != sorted({offset for offset in self.history_ns if -MOST_HISTORY_NS <= offset < 0}):
            raise ContractError(
                f"the joint states observed besides the newest have the offsets {list(self.history_ns)} ns, expected ascending "
                f"ones from {-MOST_HISTORY_NS} on and below 0."
            )

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
