"""The Adroit tasks as data: which environment, which camera, what is randomised. One small file each."""

from __future__ import annotations

from flow_policy_ros.sim.tasks.base import Goal, Task
from flow_policy_ros.sim.tasks.door import DOOR
from flow_policy_ros.sim.tasks.hammer import HAMMER
from flow_policy_ros.sim.tasks.pen import PEN
from flow_policy_ros.sim.tasks.relocate import RELOCATE
from flow_policy_ros.sim.tasks.relocate_goals import RELOCATE_GOALS

TASKS: dict[str, Task] = {task.name: task for task in (DOOR, HAMMER, PEN, RELOCATE, RELOCATE_GOALS)}

__all__ = ["DOOR", "HAMMER", "PEN", "RELOCATE", "RELOCATE_GOALS", "TASKS", "Goal", "Task"]
