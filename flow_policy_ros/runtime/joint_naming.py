"""From the names that a message gives its joints to the joints of the robot file, for messages that do not agree with it.

Drivers call a joint by another name, or publish values without any. The robot file says what they mean
(``joint_state_names``, ``joint_state_order``, ``recorded``); nothing is ever guessed from the number of values. Matching the names
that come out against the joints wanted is ``runtime.joint_order``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from flow_policy_ros.runtime.joint_order import BadInput
from flow_policy_ros.runtime.types import FloatArray, JointState


@dataclass(frozen=True)
class JointNaming:
    """What joint names in messages of one kind mean; by default just what they say.

    ``names`` maps names in messages to joints of the robot; names that it does not map stay. ``order`` are the joints of a
    message that has no names. ``what`` ("joint state") opens the errors, ``key`` is the robot file's key of the order.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    what: str = "joint state"
    key: str = "robot.joint_state_order"

    def named(self, state: JointState) -> JointState:
        """``state`` under the robot file's names, columns as they were. Raises ``BadInput`` as ``rename`` does."""
        names = self.rename(state.names, len(state.position))
        return state if names == state.names else replace(state, names=names)

    def rename(self, names: Sequence[str], count: int) -> tuple[str, ...]:
        """The robot file's names of a message's ``count`` positions, which the message calls ``names``.

        Unnamed (no names, or only empty ones) is taken as ``order``. Raises ``BadInput`` of kind ``*_unnamed`` for unnamed
        positions without an order, or not as many as the order.
        """
        if any(names):
            return tuple([self._meanings.get(name, name) for name in names]) if self.names else tuple(names)
        kind = self.what.replace(" ", "_")
        if not self.order:
            raise BadInput(
                f"{kind}_unnamed",
                f"{self.what} has {count} positions and no names, and the robot file does not say which joints they are. "
                f"Give {self.key}, the joints in the order of the message, or publish names.",
            )
        if count != len(self.order):
            raise BadInput(
                f"{kind}_unnamed",
                f"{self.what} has {count} positions and no names, and {self.key} has {len(self.order)} joints; expected as many. "
                "Correct the order in the robot file, or the publisher.",
            )
        return self.order

    def spoken(self, names: Sequence[str]) -> tuple[str, ...]:
        """The names in messages of the robot file's ``names``: what ``rename`` makes those of."""
        words = {joint: name for name, joint in self.names.items()}
        return tuple([words.get(name, name) for name in names])

    @cached_property
    def _meanings(self) -> dict[str, str]:
        """With the joints that other names stand for: under its own name such a joint is something else, which has no meaning."""
        return {joint: f"{joint} (not mapped)" for joint in self.names.values()} | dict(self.names)


@dataclass(frozen=True)
class RecordedCommands:
    """What commands a recording of the robot has: on which ``topic``, and what its names mean."""

    topic: str
    naming: JointNaming

    def named(self, names: Sequence[str], position: FloatArray) -> tuple[tuple[str, ...], FloatArray]:
        """A command's names as the robot file's, and its ``position`` (A,) as it was. Raises ``BadInput`` of kind ``command_*``."""
        return self.naming.rename(names, len(position)), position
