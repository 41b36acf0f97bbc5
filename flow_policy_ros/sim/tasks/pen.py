"""Turn the pen in the hand until it points as the green one does: 24 hand joints."""

from flow_policy_ros.sim.tasks.base import Task

PEN = Task(
    name="pen",
    environment="AdroitHandPen-v1",
    camera="fixed",
    fovy_deg=50.0,
    object_start=24,
    object_channels=21,
    scene=(("body_quat", "body", "target"),),
    strict_steps=20,
)
