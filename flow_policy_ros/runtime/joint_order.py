"""Joint arrays matched by name, and the error of an input that does not match.

Used by everything that receives joint values: the observation, the chunk timeline, the command loop. What is done
about a bad input (raise, count, fault) is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flow_policy_ros.runtime.types import FloatArray, JointState


class BadInput(ValueError):
    """An input that is refused and never stored. ``kind`` is a short name to count by (``joint_state_names``)."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class JointOrder:
    """Reorders arrays of named joints into the fixed order ``joints``."""

    def __init__(self, joints: Sequence[str]) -> None:
        self.joints = tuple(joints)
        self._names: tuple[str, ...] = ()  # of the last message: publishers seldom change theirs
        self._columns: NDArray[np.intp] = np.zeros(0, dtype=np.intp)

    def select(self, what: str, names: Sequence[str], values: ArrayLike) -> FloatArray:
        """``values`` (..., len(names)) as a new array (..., J) in our order; joints that are not ours are left out.

        ``what`` ("joint state", "chunk") opens the messages. Raises ``BadInput`` of kind ``*_names`` for a missing or
        duplicated joint, ``*_shape`` for another last axis, ``*_not_finite`` for NaN or Inf in one of our joints.
        """
        kind = what.replace(" ", "_")
        names = tuple(names)
        if not names or names != self._names:
            self._columns = self._find(what, kind, names)
            self._names = names
        given = np.asarray(values, dtype=np.float64)
        if given.ndim == 0 or given.shape[-1] != len(names):
            raise BadInput(
                f"{kind}_shape",
                f"{what} has {len(names)} names but positions of shape {given.shape}; expected one position per name. "
                "Correct its publisher.",
            )
        ordered = given[..., self._columns]
        if not np.isfinite(ordered).all():
            columns = ordered.reshape(-1, len(self.joints)).T
            named = [joint for joint, column in zip(self.joints, columns, strict=True) if not np.isfinite(column).all()]
            raise BadInput(
                f"{kind}_not_finite",
                f"{what} holds NaN or Inf for {named}; expected finite positions in rad or m. Correct its publisher.",
            )
        return ordered

    def positions_of(self, joint_state: JointState) -> FloatArray:
        """The measured positions (J,) in our order. Raises ``BadInput`` of kind ``joint_state_*``."""
        position = self.select("joint state", joint_state.names, joint_state.position)
        if position.ndim != 1:
            raise BadInput("joint_state_shape", f"joint state has positions of shape {position.shape}, expected (J,).")
        return position

    def _find(self, what: str, kind: str, names: tuple[str, ...]) -> NDArray[np.intp]:
        missing = [joint for joint in self.joints if joint not in names]
        duplicated = sorted({name for name in names if names.count(name) > 1})
        if missing or duplicated:
            strangers = [name for name in names if name not in self.joints]
            raise BadInput(
                f"{kind}_names",
                f"{what} does not match the expected joints by name: missing {missing}, duplicated {duplicated}, "
                f"not expected {strangers}. Publish every joint of the robot file exactly once, under its name there.",
            )
        return np.array([names.index(joint) for joint in self.joints], dtype=np.intp)
