"""The Adroit tasks as data: which environment, which camera, what is randomised. One small file each."""

from __future__ import annotations

from flow_policy_ros.sim.tasks.base import Task
from flow_policy_ros.sim.tasks.door import DOOR
from flow_policy_ros.sim.tasks.hammer import HAMMER
from flow_policy_ros.sim.tasks.pen import PEN
from flow_policy_ros.sim.tasks.relocate import RELOCATE

TASKS: dict[str, Task] = {task.name: task for task in (DOOR, HAMMER, PEN, RELOCATE)}

__all__ = ["DOOR", "HAMMER", "PEN", "RELOCATE", "TASKS", "Task"]
