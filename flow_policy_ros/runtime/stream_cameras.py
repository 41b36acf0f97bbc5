"""Which camera each of a policy's streams is made of, and how old its features may be."""

from __future__ import annotations

from collections.abc import Sequence

from flow_policy_ros.runtime.contract import SAID, Contract, StreamContract
from flow_policy_ros.runtime.robot import Camera, Robot


def cameras_of(contract: Contract, robot: Robot) -> dict[str, Camera]:
    """The camera whose images a stream is made of, by stream; the robot file's first where its identity names none. The
    instruction comes from no camera, nor does what a simulation tells."""
    return _cameras_of(contract.streams, robot)


def greatest_ages(contract: Contract, robot: Robot) -> dict[str, float]:
    """In s, of the streams whose camera has a limit of its own in the robot file."""
    return greatest_ages_of(contract.streams, robot)


def greatest_ages_of(streams: Sequence[StreamContract], robot: Robot) -> dict[str, float]:
    """As ``greatest_ages``, of streams that belong to no contract yet."""
    cameras = _cameras_of(streams, robot)
    return {stream: camera.max_age_s for stream, camera in cameras.items() if camera.max_age_s is not None}


def _cameras_of(streams: Sequence[StreamContract], robot: Robot) -> dict[str, Camera]:
    cameras = {camera.name: camera for camera in robot.cameras}
    first = robot.cameras[0].name if robot.cameras else ""
    seen = [stream for stream in streams if stream.kind not in (*SAID, "objects")]
    named = {stream.name: str(stream.extractor.get("camera", first)) for stream in seen}
    return {stream: cameras[name] for stream, name in named.items() if name in cameras}
