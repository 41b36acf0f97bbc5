"""The images that a policy's own vision-language model reads, of whatever data: streams of bytes named after their cameras.

Episodes have them from ``flow_policy featurize``; of bags they are made here, as the robot makes them (``vision.frames``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from flow_policy_ros.data.bag_events import ImageEvent
from flow_policy_ros.data.recording import Recording
from flow_policy_ros.runtime.contract import FRAMES
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import Features
from flow_policy_ros.training.config import TrainConfig, TrainError
from flow_policy_ros.vision.extractors import picture
from flow_policy_ros.vision.frames import FrameFeatures


def frame_streams(config: TrainConfig) -> dict[str, str]:
    """The stream of each camera of ``--frames``: ``frames`` for the first, ``frames_CAMERA`` for others."""
    return {camera: "frames" if k == 0 else f"frames_{camera}" for k, camera in enumerate(config.cameras())}


class FrameExtract:
    """For ``read_recording``: the frames of the cameras that ``config`` names, and ``robot`` with these cameras alone.

    Raises ``TrainError`` for a camera that the robot file lacks, and where no size is given.
    """

    def __init__(self, config: TrainConfig, robot: Robot) -> None:
        self.makers: dict[str, FrameFeatures] = {}
        known = {camera.name: camera for camera in robot.cameras}
        for camera, size in config.cameras().items():
            if camera not in known:
                raise TrainError(f"--frames names camera '{camera}', which robot file {robot.path} lacks; it has {list(known)}.")
            if size is None:
                raise TrainError(f"--frames {camera}: to what size are the pictures of bags to be resized? E.g. {camera}=224x224.")
            seen = known[camera].height, known[camera].width
            self.makers[camera] = FrameFeatures(size, camera, frame_streams(config)[camera], seen)
        self.robot = replace(robot, cameras=tuple(camera for camera in robot.cameras if camera.name in self.makers))

    def __call__(self, event: ImageEvent) -> Features | None:
        """The frame of a picture. Raises ``ImageError`` and ``ExtractorError`` where the robot would refuse it, too."""
        maker = self.makers.get(event.camera)
        return None if maker is None else maker.extract(picture(event.image), event.stamp)

    def extractors(self) -> dict[str, dict[str, Any]]:
        """What made the streams."""
        return {maker.stream: maker.identity() for maker in self.makers.values()}


def of_episodes(
    path: object, recordings: Sequence[Recording], extractors: dict[str, dict[str, Any]], config: TrainConfig
) -> tuple[list[Recording], dict[str, dict[str, Any]]]:
    """Recordings whose frames are there already, and what made them, by the names of ``frame_streams``. Raises ``TrainError``."""
    there = {str(e.get("camera")): name for name, e in extractors.items() if e.get("extractor") == FRAMES}
    renamed: dict[str, str] = {}
    for camera, size in config.cameras().items():
        if camera not in there:
            raise TrainError(
                f"{path} has no images of camera '{camera}' to train on, only of {sorted(there) or 'none'}. Make them with "
                f"`flow_policy featurize --extractor frames --camera {camera}`."
            )
        own = extractors[there[camera]].get("size")
        if size is not None and own != list(size):
            raise TrainError(f"--frames {camera}={size[0]}x{size[1]}: the images in {path} are of the size {own} (height, width).")
        renamed[there[camera]] = frame_streams(config)[camera]
    found = []
    for recording in recordings:
        lacking = [name for name in renamed if name not in recording.streams]
        if lacking or any(recording.streams[name].values.dtype != np.uint8 for name in renamed):
            raise TrainError(f"{recording.source} lacks the images {lacking or list(renamed)} as bytes; featurize it again.")
        streams = {renamed.get(name, name): stream for name, stream in recording.streams.items()}
        found.append(replace(recording, streams=streams))
    return found, {renamed.get(name, name): extractor for name, extractor in extractors.items()}
