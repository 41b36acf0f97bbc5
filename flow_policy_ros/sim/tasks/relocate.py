"""Carry the ball to the green sphere: 6 arm joints, 24 hand joints."""

from flow_policy_ros.sim.tasks.base import Task

RELOCATE = Task(
    name="relocate",
    environment="AdroitHandRelocate-v1",
    camera="vil_camera",
    fovy_deg=36.0,
    object_start=30,
    object_channels=9,
    scene=(("body_pos", "body", "Object"), ("site_pos", "site", "target")),
)
