"""The simulated robot against the physics that it wraps: units, names, stamps, success, determinism."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.sim.gl import SimError
from flow_policy_ros.sim.robot import CONTROL_STEP_NS, AdroitRobot
from flow_policy_ros.sim.tasks import TASKS

ROBOTS = Path(__file__).parent.parent / "config" / "robots"


@pytest.fixture(scope="module", params=sorted(TASKS))
def simulated(request):
    robot = AdroitRobot(request.param, load_robot(ROBOTS / f"adroit_{request.param}.yaml"))
    yield robot
    robot.close()


def test_commands_are_true_joint_positions(simulated):
    """A command in the middle of a free joint's range is where the joint comes to rest (fingers carry little weight)."""
    simulated.reset(seed=3, episode=0)
    names = simulated.robot.joints
    target = simulated.joint_state().position.copy()
    finger = names.index("LFJ2")
    target[finger] = 0.5
    for _ in range(150):
        simulated.step(target)
    assert abs(simulated.joint_state().position[finger] - 0.5) < 0.1


def test_command_range_is_the_robot_files(simulated):
    lower, upper = simulated.command_range()
    np.testing.assert_allclose(lower, simulated.robot.limits.lower, atol=1e-4)
    np.testing.assert_allclose(upper, simulated.robot.limits.upper, atol=1e-4)


def test_actions_and_positions_are_inverse(simulated):
    action = np.linspace(-0.9, 0.9, len(simulated.robot.joints))
    position = simulated.action_to_position(action)
    simulated.reset(seed=0, episode=0)
    simulated.step(position)
    np.testing.assert_allclose(simulated._action, action, atol=1e-12)


def test_stamps_follow_episode_and_step(simulated):
    simulated.reset(seed=1, episode=2)
    assert simulated.stamp == 121_000_000_000
    simulated.step(None)
    assert simulated.stamp == 121_000_000_000 + CONTROL_STEP_NS == simulated.joint_state().stamp


def test_the_scene_waits_for_the_controller(simulated):
    """In the first step nothing moves, whatever is commanded; from the second on the command acts."""
    simulated.reset(seed=1, episode=0)
    before, far = simulated.data.qpos.copy(), simulated.joint_state().position + 0.1
    simulated.step(far)
    assert np.array_equal(simulated.data.qpos, before)
    simulated.step(far)
    assert not np.array_equal(simulated.data.qpos, before)


def test_effort_is_what_the_joints_own_actuator_exerts(simulated):
    simulated.reset(seed=2, episode=0)
    for _ in range(5):
        simulated.step(simulated.robot.limits.upper)
    data, effort = simulated.data, simulated.joint_state().effort
    for actuator, name in enumerate(simulated.model.joint(j).name for j in simulated.model.actuator_trnid[:, 0]):
        exerted = data.actuator_force[actuator] * simulated.model.actuator_gear[actuator, 0]
        assert effort[simulated.robot.joints.index(name)] == pytest.approx(exerted, abs=1e-12)
    assert np.abs(effort).max() > 0.1


def test_same_seed_same_trajectory(simulated):
    def run() -> np.ndarray:
        simulated.reset(seed=7, episode=0)
        for k in range(20):
            simulated.step(simulated.action_to_position(0.3 * np.sin(0.2 * k + np.arange(len(simulated.robot.joints)))))
        return simulated.environment_observation

    np.testing.assert_array_equal(run(), run())


def test_seeds_change_the_scene(simulated):
    simulated.reset(seed=1, episode=0)
    first = simulated.object_features().values
    simulated.reset(seed=2, episode=0)
    assert not np.array_equal(first, simulated.object_features().values)


def test_object_state_holds_everything_but_the_joints(simulated):
    """What the environment's observation says beyond robot joints is in the stream, and nothing twice."""
    task = simulated.task
    assert task.object_start + task.object_channels == len(simulated.environment_observation)
    joints = simulated.joint_state().position[-task.object_start:] if task.name == "door" else simulated.joint_state().position
    np.testing.assert_array_equal(simulated.environment_observation[: task.object_start], joints[: task.object_start])


def test_camera_sees_the_scene_and_replays_it(simulated):
    simulated.reset(seed=5, episode=0)
    for _ in range(10):
        simulated.step(None)
    image, state = simulated.render(), simulated.get_sim_state()
    assert image.shape == (256, 256, 3) and image.dtype == np.uint8 and image.std() > 20
    simulated.reset(seed=6, episode=0)
    assert np.abs(simulated.render().astype(int) - image).mean() > 0.2
    simulated.set_sim_state(state)
    assert np.abs(simulated.render().astype(int) - image).mean() < 0.05


def test_camera_rate(simulated):
    simulated.reset(seed=0, episode=0)
    due = []
    for k in range(17):
        if simulated.camera_due():
            due.append(k)
        simulated.step(None)
    assert due == [0, 8, 16]


def test_wrong_robot_file_is_named():
    with pytest.raises(SimError, match=r"only in the robot file.*ARTz"):
        AdroitRobot("pen", load_robot(ROBOTS / "adroit_door.yaml"))


def test_unknown_task_is_named():
    with pytest.raises(SimError, match="unknown task 'drawer'"):
        AdroitRobot("drawer", load_robot(ROBOTS / "adroit_door.yaml"))


def test_missing_gl_names_the_package(monkeypatch):
    from flow_policy_ros.sim import gl

    monkeypatch.setattr(gl.ctypes.util, "find_library", lambda name: None)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(SimError, match="apt-get install libegl1"):
        gl.choose_backend()


def test_looking_changes_nothing(simulated):
    """An episode with pictures and one without end in the same state, bit for bit."""

    def run(look: bool) -> np.ndarray:
        simulated.reset(seed=9, episode=0)
        for k in range(24):
            if look and simulated.camera_due():
                simulated.render()
            simulated.step(simulated.action_to_position(0.5 * np.sin(0.3 * k + np.arange(len(simulated.robot.joints)))))
        return simulated.environment_observation

    np.testing.assert_array_equal(run(True), run(False))
