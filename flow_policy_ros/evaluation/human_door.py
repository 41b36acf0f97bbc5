"""The 25 human door demonstrations of hand_dapg (Rajeswaran et al. 2018) as episodes.

The file holds, for each demonstration NN, the environment's observations ``obs_NN`` (T, 39) and actions ``act_NN`` (T, 28) of a
control step of 10 ms each, and where the door stood (``init_door_body_pos_NN``). An observation has every joint but the first,
the slide of the arm (ARTz): it is found from the observed place of the palm, which it moves along a line, to 0.03 mm (median; at
most 2 mm, where a contact changes the speed within a step). The episodes' commands are what people sent, cut to the range that
the robot file allows: unlike the expert's they were not shaped by its limits, since what was recorded answered to the unshaped
ones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.episodes import Episode, EpisodeError, read_npz
from flow_policy_ros.runtime.types import FloatArray
from flow_policy_ros.sim.robot import CONTROL_STEP_NS, FIRST_STAMP_NS, AdroitRobot

JOINTS = slice(0, 27)
LATCH, HINGE = 27, 28
PALM = slice(29, 32)
WIDTHS = (39, 28)
"""Columns of observations and actions."""
OPEN_RAD = 1.35
"""Door angle from which on the environment calls it a success."""
SUBSTEP = 0.2
"""Share of a control step by which the palm's observed place lies behind the joints: MuJoCo's bodies are those of before the last
of five substeps."""
GREATEST_MISS_M = 2e-3
"""Distance of the observed palm from the line that the slide moves it on; more means that this is another robot's data."""


def human_episodes(path: Path, robot: AdroitRobot) -> list[Episode]:
    """Every demonstration of the file at ``path``, for ``robot``, which must be the door's.

    Raises ``EpisodeError`` naming the file, the array and what is wrong with it.
    """
    content = read_npz(path)
    numbers = sorted(name.removeprefix("obs_") for name in content if name.startswith("obs_"))
    if not numbers:
        raise EpisodeError(f"{path} holds no arrays obs_NN, expected the human door demonstrations (door_human_demos.npz).")
    try:
        return [
            _episode(f"{path}, demonstration {number}", int(number), robot,
                     content[f"obs_{number}"].astype(np.float64), content[f"act_{number}"].astype(np.float64),
                     content[f"init_door_body_pos_{number}"])
            for number in numbers
        ]  # fmt: skip
    except KeyError as error:
        raise EpisodeError(f"{path} lacks the array {error}, expected the human door demonstrations.") from error


def _episode(
    source: str, number: int, robot: AdroitRobot, observed: FloatArray, actions: FloatArray, door: NDArray[np.float64]
) -> Episode:
    shapes = (observed.shape, actions.shape)
    if len(observed) < 2 or shapes != tuple((len(observed), width) for width in WIDTHS) or np.shape(door) != (3,):
        raise EpisodeError(
            f"{source}: shapes {shapes} and a door's place of {np.shape(door)}, expected (T, {WIDTHS[0]}), (T, {WIDTHS[1]}) with "
            "at least two steps, and (3,)."
        )
    qpos = _joint_positions(source, robot, observed, door)
    limits = robot.robot.limits
    commands = np.array([np.clip(robot.action_to_position(action), limits.lower, limits.upper) for action in actions])
    stamps = FIRST_STAMP_NS + CONTROL_STEP_NS * np.arange(len(observed), dtype=np.int64)
    objects = observed[:, robot.task.object_start :][:, : robot.task.object_channels]
    return Episode(
        task=robot.task.name,
        robot=robot.robot.name,
        seed=number,
        success=bool((observed[:, HINGE] >= OPEN_RAD).any()),
        dt_ns=CONTROL_STEP_NS,
        stamps=stamps,
        joints=robot.robot.joints,
        position=np.array([_joints(robot, q, door) for q in qpos]),
        commands=commands,
        label=commands,
        streams={"objects": (stamps, objects.astype(np.float32)[:, None, :])},
        sim_state={"qpos": qpos, "body_pos:frame": np.tile(door, (len(qpos), 1))},
    )


def _joints(robot: AdroitRobot, qpos: FloatArray, door: FloatArray) -> FloatArray:
    robot.set_sim_state({"qpos": qpos, "body_pos:frame": door})
    return robot.joint_state().position


def _palm(robot: AdroitRobot, qpos: FloatArray, door: FloatArray) -> FloatArray:
    robot.set_sim_state({"qpos": qpos, "body_pos:frame": door})
    return robot.environment_observation[PALM]


def _joint_positions(source: str, robot: AdroitRobot, observed: FloatArray, door: FloatArray) -> FloatArray:
    """``qpos`` (T, 30) of the model: slide, the other 27 joints, door hinge, latch."""
    qpos = np.column_stack([np.zeros(len(observed)), observed[:, JOINTS], observed[:, HINGE], observed[:, LATCH]])
    behind = qpos.copy()
    behind[1:] -= SUBSTEP * np.diff(qpos, axis=0)
    moved = behind[0].copy()
    moved[0] = 1.0
    along = _palm(robot, moved, door) - _palm(robot, behind[0], door)  # of length 1: the slide moves the whole arm
    away = observed[:, PALM] - np.array([_palm(robot, q, door) for q in behind])
    slide = away @ along
    miss = float(np.linalg.norm(away - slide[:, None] * along, axis=1).max())
    if miss > GREATEST_MISS_M:
        raise EpisodeError(
            f"{source}: the palm lies up to {1e3 * miss:.1f} mm from where the joints put it, expected at most "
            f"{1e3 * GREATEST_MISS_M:g} mm; these are not demonstrations of this robot."
        )
    onward = np.diff(slide)
    qpos[:, 0] = slide + SUBSTEP * np.append(onward, onward[-1])
    return qpos
