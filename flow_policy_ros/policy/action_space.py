"""What a chunk is relative to. A transform is used alike in training (``encode``) and on the robot (``decode``)."""

from __future__ import annotations

from typing import Protocol

import torch

from flow_policy_ros.runtime.contract import Contract


class ActionSpace(Protocol):
    """Joint positions (B, H, A) to what the network learns, and back; ``joint_position`` (B, J) is measured."""

    def encode(self, actions: torch.Tensor, joint_position: torch.Tensor) -> torch.Tensor:
        """Positions (B, H, A) to network actions (B, H, A)."""

    def decode(self, actions: torch.Tensor, joint_position: torch.Tensor) -> torch.Tensor:
        """Network actions (B, H, A) to positions (B, H, A)."""


class AbsoluteActions:
    """The positions themselves."""

    def __init__(self, contract: Contract) -> None:
        pass

    def encode(self, actions: torch.Tensor, joint_position: torch.Tensor) -> torch.Tensor:
        """See ``ActionSpace``."""
        return actions

    def decode(self, actions: torch.Tensor, joint_position: torch.Tensor) -> torch.Tensor:
        """See ``ActionSpace``."""
        return actions


class RelativeActions:
    """Positions minus the measured position of the same joint, by name, at the chunk's stamp."""

    def __init__(self, contract: Contract) -> None:
        unmeasured = [joint for joint in contract.action_joints if joint not in contract.joints]
        if unmeasured:
            raise ValueError(
                f"relative actions need a measured position of every commanded joint; {unmeasured} have none. Use "
                "absolute actions."
            )
        self._columns = [contract.joints.index(joint) for joint in contract.action_joints]

    def encode(self, actions: torch.Tensor, joint_position: torch.Tensor) -> torch.Tensor:
        """See ``ActionSpace``."""
        return actions - joint_position[:, None, self._columns]

    def decode(self, actions: torch.Tensor, joint_position: torch.Tensor) -> torch.Tensor:
        """See ``ActionSpace``."""
        return actions + joint_position[:, None, self._columns]


ACTION_SPACES: dict[str, type[AbsoluteActions] | type[RelativeActions]] = {
    "absolute": AbsoluteActions,
    "relative": RelativeActions,
}


def make_action_space(name: str, contract: Contract) -> ActionSpace:
    """The action space of this name. Raises ``ValueError`` listing the known ones."""
    if name not in ACTION_SPACES:
        raise ValueError(f"unknown action space {name!r}; known: {', '.join(ACTION_SPACES)}.")
    return ACTION_SPACES[name](contract)
