"""What one episode looked like, tick by tick, for the page and the video. What it amounts to is in ``summary``.

The record of an episode over ROS is put together in ``cli.over_ros``; that of one in this process by the ``Recorder``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.evaluation.closed_loop import EpisodeResult
from flow_policy_ros.runtime.types import Chunk, Features, FloatArray
from flow_policy_ros.safety.command_loop import CommandTick
from flow_policy_ros.sim.robot import AdroitRobot


@dataclass(frozen=True)
class EpisodeRecord:
    """One episode of T ticks and J joints.

    ``stamps`` (T,) int64 ns; ``position`` (T, J) measured and ``command`` (T, J) sent, rad or m, NaN where there was
    none; ``states`` the guard's state at each tick, lower case; ``frames`` stamp in ns and RGB image (H, W, 3) uint8;
    ``groups`` joints by the robot file's groups; ``success_stamp`` when the task was first solved, as far as known; ``features``
    that were published beside the pictures, such as the simulator's ``objects``; ``instruction`` what the robot was told to do, ""
    where nobody told it.
    """

    seed: int
    success: bool
    success_steps: int
    joints: tuple[str, ...]
    stamps: NDArray[np.int64]
    position: FloatArray
    command: FloatArray
    states: list[str]
    chunks: list[Chunk]
    frames: list[tuple[int, NDArray[np.uint8]]]
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    success_stamp: int | None = None
    features: list[Features] = field(default_factory=list)
    instruction: str = ""


class Recorder:
    """An observer for ``closed_loop.run_episode`` that keeps what the result does not hold.

    A policy without a camera gets pictures all the same, when the robot has one: they are for people.
    """

    def __init__(self, robot: AdroitRobot) -> None:
        self._robot = robot.robot
        self._stamps: list[int] = []
        self._chunks: list[Chunk] = []
        self._frames: list[tuple[int, NDArray[np.uint8]]] = []
        self._features: list[Features] = []
        self._success_stamp: int | None = None
        self._instruction = ""

    def __call__(
        self, robot: AdroitRobot, image: NDArray[np.uint8] | None, chunk: Chunk | None, tick: CommandTick
    ) -> None:
        """Take one tick, before the robot's step."""
        self._stamps.append(robot.stamp)
        self._instruction = robot.instruction
        self._features.append(robot.object_features())
        if image is None and robot.camera_due():
            image = robot.render()
        if image is not None:
            self._frames.append((robot.stamp, image))
        if chunk is not None:
            self._chunks.append(chunk)
        if robot.success and self._success_stamp is None:
            self._success_stamp = robot.stamp

    def record(self, result: EpisodeResult) -> EpisodeRecord:
        """The record of the episode that was observed and gave ``result``."""
        return EpisodeRecord(
            seed=result.seed,
            success=result.success,
            success_steps=result.success_steps,
            joints=self._robot.joints,
            stamps=np.array(self._stamps, dtype=np.int64),
            position=result.positions,
            command=result.commands,
            states=[state.lower() for state in result.states],
            chunks=self._chunks,
            frames=self._frames,
            groups=self._robot.groups,
            success_stamp=self._success_stamp,
            features=self._features,
            instruction=self._instruction,
        )
