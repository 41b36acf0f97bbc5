"""What a task is. The simulation itself lives in ``sim.robot``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One Adroit task of Gymnasium-Robotics.

    ``environment`` its Gymnasium id; ``camera`` and ``fovy_deg`` the view of the simulated camera;
    ``object_start`` where the object state begins in the environment's observation (what stands before it are robot joints);
    ``object_channels`` how long it is; ``scene`` the model fields a reset randomises, as (field, kind, element);
    ``strict_steps`` steps that success must last in the stricter published definition.
    """

    name: str
    environment: str
    camera: str
    fovy_deg: float
    object_start: int
    object_channels: int
    scene: tuple[tuple[str, str, str], ...]
    strict_steps: int = 25
