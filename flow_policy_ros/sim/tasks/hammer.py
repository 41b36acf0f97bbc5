"""Pick up the hammer and drive the nail in: 2 arm joints, 24 hand joints."""

from flow_policy_ros.sim.tasks.base import Task

HAMMER = Task(
    name="hammer",
    environment="AdroitHandHammer-v1",
    camera="fixed",
    fovy_deg=40.0,
    object_start=26,
    object_channels=20,
    scene=(("body_pos", "body", "nail_board"),),
)
