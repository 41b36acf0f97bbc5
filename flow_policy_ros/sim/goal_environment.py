"""Gymnasium-Robotics' relocate environment with several coloured goals in one scene, registered as ``AdroitRelocateGoals-v1``.

The model is edited in memory. Physics, actuators and rewards are those of the original. Import ``sim.gl`` and choose a
backend first: this module imports MuJoCo.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium_robotics.envs.adroit_hand.adroit_relocate import AdroitHandRelocateEnv

from flow_policy_ros.runtime.types import FloatArray
from flow_policy_ros.sim.tasks.relocate_goals import GOALS

GOAL_SIZE_M = 0.07
REACH_M = 0.1
"""The environment's own measure: the ball is at a goal when its centre is no further from the goal's."""

# In view of the camera from the start, beside the hand; goals stand so far apart that a ball is at one of them at most,
# and so high that it is at none before it is lifted.
BALL_X, BALL_Y = (-0.02, 0.02), (0.13, 0.17)
SIDE_X, GOAL_Y, GOAL_Z = (0.15, 0.2), (-0.05, 0.1), (0.2, 0.28)


class RelocateGoals(AdroitHandRelocateEnv):
    """One ball, one goal to the left and one to the right; which colour is where is drawn at reset.

    The observation (30 + 3 + 6 G,) holds the joints, palm − ball, and for each of the G goals palm − goal and ball − goal. It
    does not depend on which goal is asked for, nor does the scene.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._sites = {goal.name: self.model.site(goal.site).id for goal in GOALS}
        self.ask(GOALS[0].name)

    def ask(self, goal: str) -> None:
        """From now on success, reward and ``expert_observation`` are about ``goal``."""
        self.target_obj_site_id = self._sites[goal]

    def expert_observation(self) -> FloatArray:
        """What the original environment would show if the goal asked for were the only one (39,)."""
        return np.asarray(super()._get_obs(), dtype=np.float64)

    def at_goals(self) -> dict[str, bool]:
        """Whether the ball is at each of the goals."""
        ball = self.data.xpos[self.obj_body_id]
        return {name: bool(np.linalg.norm(ball - self.data.site_xpos[site]) < REACH_M) for name, site in self._sites.items()}

    def _initialize_simulation(self) -> tuple[Any, Any]:
        spec = mujoco.MjSpec.from_file(self.fullpath)
        spec.site("target").rgba = [0.0, 0.0, 0.0, 0.0]  # the original's goal: looked up by name, never shown
        for goal in GOALS:  # a site compiled at the origin would stay there: MuJoCo then takes its body's frame for it
            spec.worldbody.add_site(name=goal.site, pos=[0.0, 0.0, GOAL_Z[0]], size=[GOAL_SIZE_M] * 3, rgba=list(goal.rgba))
        model = spec.compile()
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, self.height)
        return model, mujoco.MjData(model)

    def reset_model(self) -> FloatArray:
        draw = self.np_random.uniform
        self.model.body_pos[self.obj_body_id, :2] = draw(*BALL_X), draw(*BALL_Y)
        sides = self.np_random.permutation([-1.0, 1.0])
        for site, side in zip(self._sites.values(), sides, strict=True):
            self.model.site_pos[site] = side * draw(*SIDE_X), draw(*GOAL_Y), draw(*GOAL_Z)
        self.set_state(self.init_qpos, self.init_qvel)
        return self._get_obs()

    def _get_obs(self) -> FloatArray:
        palm = self.data.site_xpos[self.S_grasp_site_id]
        ball = self.data.xpos[self.obj_body_id]
        places = [self.data.site_xpos[site] for site in self._sites.values()]
        return np.concatenate(
            [self.data.qpos[:-6], palm - ball, *(part for place in places for part in (palm - place, ball - place))]
        )


gymnasium.register(id="AdroitRelocateGoals-v1", entry_point=RelocateGoals)
