"""What a task is. The simulation itself lives in ``sim.robot``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """One of several places that an instruction can ask for.

    ``name`` is the word that tells it from the others, in an instruction as in a result; ``site`` its site in the model;
    ``rgba`` how it is drawn.
    """

    name: str
    site: str
    rgba: tuple[float, float, float, float]


@dataclass(frozen=True)
class Task:
    """One Adroit task of Gymnasium-Robotics, or one made from its models.

    ``environment`` its Gymnasium id; ``camera`` and ``fovy_deg`` the view of the simulated camera;
    ``object_start`` where the object state begins in the environment's observation (what stands before it are robot joints);
    ``object_channels`` how long it is; ``scene`` the model fields a reset randomises, as (field, kind, element);
    ``strict_steps`` steps that success must last in the stricter published definition. ``goals`` are those among which an
    instruction chooses, none where the task is always the same; ``expert`` the task whose published expert drives this one,
    its own unless said.
    """

    name: str
    environment: str
    camera: str
    fovy_deg: float
    object_start: int
    object_channels: int
    scene: tuple[tuple[str, str, str], ...]
    strict_steps: int = 25
    goals: tuple[Goal, ...] = ()
    expert: str = ""

    @property
    def expert_name(self) -> str:
        """Which published expert drives it."""
        return self.expert or self.name
