"""Adroit as a robot: named joints in rad and m, a camera, position commands, reset and success.

The environments of Gymnasium-Robotics do the physics; this module turns their actions into true joint positions and
their state into what a robot's topics carry. No ROS here, no clock: simulated time advances by one control step a call.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.robot import Camera, Robot
from flow_policy_ros.runtime.types import Features, FloatArray, JointState
from flow_policy_ros.sim.gl import INSTALL, SimError, choose_backend
from flow_policy_ros.sim.goals import GoalWatch
from flow_policy_ros.sim.instructions import InstructionError, goal_of, phrasings
from flow_policy_ros.sim.tasks import TASKS, Goal, Task

CONTROL_STEP_NS = 10_000_000
EPISODE_SPACING_NS = 60_000_000_000
FIRST_STAMP_NS = 1_000_000_000
STILL_STEPS = 1
"""For so many control steps after a reset the scene stands still. The safety stage begins at the measured position and follows a
chunk from the step after; a pen that lies loose in the hand does not wait for that (of the expert's own 100 episodes 71 instead of
89 succeed when it begins one step late)."""


def _make_environment(task: Task) -> Any:
    choose_backend()
    # The import prints a notice about rewards, which nothing here uses.
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        import gymnasium
        import gymnasium_robotics

        gymnasium.register_envs(gymnasium_robotics)
        return gymnasium.make(task.environment).unwrapped


class AdroitRobot:
    """One simulated hand and arm with its task.

    Joint order is the robot file's; commands are joint positions at which the position servos come to rest
    (``control · gain / −bias`` of each actuator). Episode ``e`` begins at stamp ``(1 + 60 e)`` s, so that what is keyed by
    stamps does not depend on which episodes ran before.

    ``instruction`` is what it was last told with ``instruct``, "" where the task has no goals to choose from; ``goal`` the
    goal that this asks for.
    """

    def __init__(self, task_name: str, robot: Robot) -> None:
        """Raises ``SimError`` for an unknown task, joints that are not the task's, or missing GL libraries."""
        if task_name not in TASKS:
            raise SimError(f"unknown task '{task_name}', expected one of {', '.join(TASKS)}.")
        self.task = TASKS[task_name]
        self.robot = robot
        self._env = _make_environment(self.task)
        self.model = self._env.model
        self.data = self._env.data
        self._map_actuators()
        self.camera: Camera | None = robot.cameras[0] if robot.cameras else None
        self.camera_id = self.model.camera(self.task.camera).id
        self.model.cam_fovy[self.camera_id] = self.task.fovy_deg
        self._renderer: Any = None
        self.instruction = ""
        self.goal: Goal | None = None
        self.reset(seed=0, episode=0)
        if self.task.goals:
            self.instruct(phrasings(self.task.goals[0])[0])

    def instruct(self, instruction: str) -> None:
        """Ask for one of the task's goals, from now on and through resets; the scene does not change.

        Before the episode's first step or in its midst: success then counts from here. Raises ``InstructionError`` for a task
        that has no goals to choose from, and for an instruction that does not name exactly one.
        """
        if not self.task.goals:
            raise InstructionError(f"task '{self.task.name}' takes no instruction, it has nothing to choose from.")
        self.goal = goal_of(instruction, self.task.goals)
        self.instruction = instruction
        self._env.ask(self.goal.name)
        self._begin_score()

    @property
    def goal_reached(self) -> str | None:
        """Name of the goal reached first since the reset or the last instruction, asked for or not; None when none was."""
        return self._watch.reached

    def _map_actuators(self) -> None:
        model = self.model
        actuated = [model.joint(model.actuator_trnid[i, 0]).name for i in range(model.nu)]
        missing = [j for j in self.robot.joints if j not in actuated]
        extra = [j for j in actuated if j not in self.robot.joints]
        if missing or extra:
            raise SimError(
                f"robot file {self.robot.path} does not fit task '{self.task.name}': joints only in the robot file: {missing}; "
                f"only in the simulated robot: {extra}. Use config/robots/adroit_{self.task.name}.yaml."
            )
        index = np.array([self.robot.joints.index(j) for j in actuated])
        self._command_index = index
        self._rest_per_control = -model.actuator_gainprm[:, 0] / model.actuator_biasprm[:, 1]
        self._qpos_index = np.array([model.joint(j).qposadr[0] for j in self.robot.joints])
        self._qvel_index = np.array([model.joint(j).dofadr[0] for j in self.robot.joints])

    def command_range(self) -> tuple[FloatArray, FloatArray]:
        """Joint positions (A,) that the actuators' control range can ask for, in robot-file order."""
        rest = self.model.actuator_ctrlrange * self._rest_per_control[:, None]
        lower, upper = np.empty(len(rest)), np.empty(len(rest))
        lower[self._command_index], upper[self._command_index] = rest[:, 0], rest[:, 1]
        return lower, upper

    def reset(self, seed: int, episode: int) -> None:
        """Start an episode: the scene of ``seed``, time at the episode's first stamp."""
        self._observation, _ = self._env.reset(seed=int(seed))
        self.step_index = 0
        self._begin_score()
        self._first_stamp = FIRST_STAMP_NS + int(episode) * EPISODE_SPACING_NS

    def _begin_score(self) -> None:
        self.success = False
        self.success_steps = 0
        self._watch = GoalWatch(goal.name for goal in self.task.goals)

    @property
    def stamp(self) -> int:
        """Simulated instant, ns."""
        return self._first_stamp + self.step_index * CONTROL_STEP_NS

    @property
    def environment_observation(self) -> FloatArray:
        """The environment's own observation. It does not depend on the instruction."""
        return np.asarray(self._observation, dtype=np.float64)

    @property
    def expert_observation(self) -> FloatArray:
        """What the published expert of the task sees: the environment's observation, of several goals only that asked for."""
        if not self.task.goals:
            return self.environment_observation
        return np.asarray(self._env.expert_observation(), dtype=np.float64)

    def joint_state(self) -> JointState:
        """Measured positions, velocities and actuator efforts (N·m, N for slides) by name."""
        return JointState(
            stamp=self.stamp,
            names=self.robot.joints,
            position=self.data.qpos[self._qpos_index].astype(np.float64),
            velocity=self.data.qvel[self._qvel_index].astype(np.float64),
            effort=self.data.qfrc_actuator[self._qvel_index].astype(np.float64),
        )

    def object_features(self) -> Features:
        """The task's object state (1, channels) as stream ``objects``: what the camera has to do without."""
        start = self.task.object_start
        values = self.environment_observation[start : start + self.task.object_channels]
        return Features(self.stamp, "objects", values.astype(np.float32)[None, :])

    def camera_due(self) -> bool:
        """Whether the camera takes a picture at this control step."""
        if self.camera is None:
            return False
        every = max(1, round(1e9 / (self.camera.rate_hz * CONTROL_STEP_NS)))
        return self.step_index % every == 0

    def render(self) -> NDArray[np.uint8]:
        """Camera image (H, W, 3) RGB. Shadows and reflections are off: they cost two thirds of the time."""
        import mujoco

        if self.camera is None:
            raise SimError(f"robot file {self.robot.path} has no camera; add one under robot.cameras.")
        if self._renderer is None:
            try:
                self._renderer = mujoco.Renderer(self.model, self.camera.height, self.camera.width)
            except Exception as error:  # the GL binding raises whatever its backend raises
                raise SimError(
                    f"the camera cannot render ({type(error).__name__}: {error}). Unset MUJOCO_GL and PYOPENGL_PLATFORM "
                    f"if they are set, and install the GL libraries: {INSTALL}"
                ) from error
            self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        # A physics step leaves body poses one substep behind the joints; the picture is to show the joints' instant.
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        self._renderer.update_scene(self.data, self.camera_id)
        return np.asarray(self._renderer.render()).copy()

    def camera_matrix(self) -> FloatArray:
        """Pinhole matrix K (3, 3) in pixels."""
        assert self.camera is not None
        focal = 0.5 * self.camera.height / np.tan(0.5 * np.deg2rad(self.task.fovy_deg))
        return np.array([[focal, 0.0, self.camera.width / 2], [0.0, focal, self.camera.height / 2], [0.0, 0.0, 1.0]])

    def step(self, position: FloatArray | None) -> None:
        """Advance one control step holding ``position`` (A,), rad or m, robot-file order; None lets the last command stand."""
        if position is not None:
            control = np.asarray(position, dtype=np.float64)[self._command_index] / self._rest_per_control
            self._action = (control - self._env.act_mean) / self._env.act_rng
        elif self.step_index == 0:
            self._action = np.zeros(self.model.nu)
        self.step_index += 1
        if self.step_index <= STILL_STEPS:
            return
        self._observation, _, _, _, info = self._env.step(self._action)
        achieved = bool(info["success"])
        self.success_steps += achieved
        if self.goal is None:
            self.success = self.success or achieved
        else:
            self._watch.update(self._env.at_goals())
            self.success = self._watch.reached == self.goal.name

    def action_to_position(self, action: FloatArray) -> FloatArray:
        """Rest positions (A,) of an environment action (A,) in [−1, 1]: how expert actions become joint commands."""
        control = self._env.act_mean + np.clip(action, -1.0, 1.0) * self._env.act_rng
        position = np.empty(len(control))
        position[self._command_index] = control * self._rest_per_control
        return position

    def get_sim_state(self) -> dict[str, FloatArray]:
        """What re-rendering this instant needs: ``qpos`` and the randomised model fields."""
        state = {"qpos": self.data.qpos.copy()}
        for field, kind, element in self.task.scene:
            state[f"{field}:{element}"] = getattr(self.model, field)[getattr(self.model, kind)(element).id].copy()
        return state

    def set_sim_state(self, state: dict[str, FloatArray]) -> None:
        """Put the scene into a recorded state (positions only, velocities zero)."""
        for field, kind, element in self.task.scene:
            getattr(self.model, field)[getattr(self.model, kind)(element).id] = state[f"{field}:{element}"]
        self._env.set_state(np.asarray(state["qpos"]), np.zeros(self.model.nv))
        self._observation = self._env._get_obs()

    def close(self) -> None:
        """Free the GL context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
