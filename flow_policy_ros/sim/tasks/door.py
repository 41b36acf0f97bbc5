"""Undo the latch and swing the door open: 4 arm joints, 24 hand joints."""

from flow_policy_ros.sim.tasks.base import Task

DOOR = Task(
    name="door",
    environment="AdroitHandDoor-v1",
    camera="vil_camera",
    fovy_deg=30.0,
    object_start=27,
    object_channels=12,
    scene=(("body_pos", "body", "frame"),),
)
