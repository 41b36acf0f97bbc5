"""Carry the ball to the goal that the instruction names, of two that are both there: 6 arm joints, 24 hand joints.

Nothing but the instruction tells which goal is meant: not the scene, not the picture, not the observation.
"""

from flow_policy_ros.sim.tasks.base import Goal, Task

GOALS = (
    Goal("green", "goal_green", (0.1, 0.8, 0.1, 0.4)),
    Goal("red", "goal_red", (0.9, 0.1, 0.1, 0.4)),
)

RELOCATE_GOALS = Task(
    name="relocate_goals",
    environment="flow_policy_ros.sim.goal_environment:AdroitRelocateGoals-v1",
    camera="vil_camera",
    fovy_deg=36.0,
    object_start=30,
    object_channels=3 + 6 * len(GOALS),
    scene=(("body_pos", "body", "Object"), *(("site_pos", "site", goal.site) for goal in GOALS)),
    goals=GOALS,
    expert="relocate",
)
