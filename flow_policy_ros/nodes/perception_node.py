"""The perception node: camera images in, features stamped with the image's instant out, and a picture for people.

Which cameras and which features is by parameter; ``vision.extractors`` makes them, ``perception_camera`` looks at each camera. Here
is what they share: parameters, the instruction, diagnostics.
"""

from __future__ import annotations

import sys
from typing import Any

from diagnostic_msgs.msg import KeyValue

from flow_policy_ros.nodes.instruction_topic import InstructionTopic
from flow_policy_ros.nodes.lockstep import delays
from flow_policy_ros.nodes.perception_camera import Conditions, PerceivedCamera
from flow_policy_ros.nodes.runner import STEADY, ClosableNode, run
from flow_policy_ros.ros.diagnostics import OK, WARN, Diagnostics
from flow_policy_ros.ros.parameters import NodeParameters, robot_of
from flow_policy_ros.runtime.parameters import LockstepParameters, ParameterError, PerceptionParameters
from flow_policy_ros.runtime.robot import Camera, Robot, RobotFileError
from flow_policy_ros.vision.detector import DetectorError
from flow_policy_ros.vision.extractors import Instructed, inner, load_extractor, of_camera, source_of


class PerceptionNode(ClosableNode):
    """Subscribes to cameras of the robot file; publishes ``features/STREAM`` and ``perception/overlay`` of the first one, and
    ``features/STREAM_CAMERA`` and ``perception/overlay_CAMERA`` of others."""

    def __init__(self) -> None:
        super().__init__("perception_node")
        robot = robot_of(self)
        orders = {"perception.instruction": self._order}
        self._settings = NodeParameters(self, robot, ("perception", "lockstep"), self._changed, orders=orders)
        self._cameras: list[PerceivedCamera] = []
        parameters, lockstep = self._settings.block(PerceptionParameters), self._settings.block(LockstepParameters)
        cameras = chosen_cameras(robot, parameters.cameras)
        source = source_of(parameters)
        conditions = Conditions(not lockstep.enabled, delays(lockstep), lockstep.seed)
        if lockstep.inject:
            self.get_logger().warning(f"disturbances are injected: {lockstep.inject}")
        extractors = [load_extractor(parameters.extractor, source, camera, parameters) for camera in cameras]
        for camera, extractor in zip(cameras, extractors, strict=True):
            first = camera == robot.cameras[0]
            named = of_camera(extractor, camera.name, first)
            self._cameras.append(PerceivedCamera(self, camera, named, first, conditions, parameters))
        self._instruction: InstructionTopic | None = None
        if all(extractor.speaks for extractor in self._readers()) and self._readers():
            self._instruction = InstructionTopic(self, self._instruct)
            self._instruction.give(parameters.instruction)
        self._diagnostics = Diagnostics(self, robot.name)
        self.create_timer(1.0, self._diagnose, clock=STEADY)

    def close(self) -> None:
        """End the workers, each after the image that it is looking at."""
        for camera in self._cameras:
            camera.end()
        for camera in self._cameras:
            camera.join()

    def _readers(self) -> list[Instructed]:
        whole = [inner(camera.extractor) for camera in self._cameras]
        return [extractor for extractor in whole if isinstance(extractor, Instructed)]

    def _instruct(self, instruction: str) -> None:
        """Every camera's next image is looked at with this in mind, or none's. Raises ``ExtractorError``."""
        told: list[tuple[Instructed, str]] = []
        try:
            for reader in self._readers():
                before = reader.instruction
                reader.instruct(instruction)
                told.append((reader, before))
        except ValueError:
            for reader, before in told:
                reader.instruct(before)
            raise

    def _changed(self, prefix: str, block: Any) -> None:
        if prefix == "perception":
            for camera in self._cameras:
                camera.tune(block)

    def _order(self, instruction: str) -> None:
        """By parameter. Raises ``ValueError`` for one that no extractor here can read."""
        if self._instruction is not None:
            self._instruction.give(instruction)
        elif instruction:
            raise ParameterError(
                f"the parameter perception.instruction is given, but the extractor "
                f"'{self._settings.block(PerceptionParameters).extractor}' reads none; a policy that obeys instructions has "
                "policy.instruction."
            )

    def _diagnose(self) -> None:
        said = [camera.diagnose() for camera in self._cameras]
        instruction = self._instruction
        if instruction is not None:
            said[0].values = [*said[0].values, KeyValue(key="instruction", value=instruction.text)]
            if instruction.problem is not None and said[0].level == OK:
                said[0].level, said[0].message = WARN, instruction.problem
        self._diagnostics.publish(self.get_clock().now().nanoseconds, *said)


def chosen_cameras(robot: Robot, names: str) -> list[Camera]:
    """The robot file's cameras of these ``names``, with blanks between them; the first one where there are none.

    Raises ``RobotFileError`` for a robot without cameras, ``ParameterError`` for a name that is not there or is given twice.
    """
    if not robot.cameras:
        raise RobotFileError(f"robot file {robot.path} has no camera; add one under robot.cameras.")
    asked = names.replace(",", " ").split() or [robot.cameras[0].name]
    there = {camera.name: camera for camera in robot.cameras}
    strangers = sorted({name for name in asked if name not in there or asked.count(name) > 1})
    if strangers:
        raise ParameterError(
            f"the parameter perception.cameras names {', '.join(strangers)}, expected some of {', '.join(there)}, each once; these "
            f"are the cameras of robot file {robot.path}."
        )
    return [there[name] for name in asked]


def main(args: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(PerceptionNode, args, DetectorError)


if __name__ == "__main__":
    sys.exit(main())
