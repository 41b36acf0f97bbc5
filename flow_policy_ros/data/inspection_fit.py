"""Whether a recording fits a robot file and a checkpoint: what is missing for a replay, and what will limit it, in sentences.

Judges what ``data.inspection`` found, so that nothing has to be read again; ``data.bag_events`` is what a replay then reads with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from flow_policy_ros.data import message_looks as looks
from flow_policy_ros.data.bag_messages import STATES
from flow_policy_ros.data.inspection_findings import label, some
from flow_policy_ros.data.inspection_found import ImagesFound, Inspection, JointsFound, LayoutFound, same
from flow_policy_ros.data.inspection_limits import beyond, overshoot, strange
from flow_policy_ros.data.inspection_roles import main_layout
from flow_policy_ros.runtime.contract import Contract, ContractError
from flow_policy_ros.runtime.joint_naming import JointNaming
from flow_policy_ros.runtime.joint_order import BadInput
from flow_policy_ros.runtime.parameters import PolicyParameters, from_flat
from flow_policy_ros.runtime.robot import Camera, Robot

EXECUTED = "command/executed"
RATE_TOLERANCE = 0.3
DETECTIONS = "detections"


@dataclass(frozen=True)
class Fit:
    """``missing`` makes a replay impossible; ``limits`` are what it will run into; ``notes`` harm nothing; ``states`` and
    ``commands`` are the topics used."""

    missing: tuple[str, ...]
    limits: tuple[str, ...]
    notes: tuple[str, ...] = ()
    states: str = ""
    commands: str = ""
    cameras: tuple[tuple[str, str], ...] = ()

    @property
    def possible(self) -> bool:
        """Whether it can be replayed."""
        return not self.missing


def fit(inspection: Inspection, robot: Robot, contract: Contract | None = None) -> Fit:
    """``contract`` is the checkpoint's for this robot; without one only the robot file counts."""
    missing: list[str] = []
    limits: list[str] = []
    notes: list[str] = []
    states = _find(inspection, robot.joint_state_topic, looks.MEASURED)
    layout = None if states is None else main_layout(states)
    if layout is None:
        missing.append(_no_states(inspection, robot))
    else:
        missing += _mismatch(layout, robot.naming, robot.joints, "robot.joint_state_names")
        limits += _gaps(inspection, robot)
    commands = _commands(inspection, robot)
    spoken = None if commands is None else main_layout(commands)
    if layout is not None and layout is not spoken:
        limits += strange(layout, robot)
        notes += overshoot(layout, robot)
    if spoken is None:
        limits.append(_no_commands(inspection, robot))
    else:
        naming = naming_of(robot, commands=True)
        limits += _mismatch(spoken, naming, robot.joints, "robot.recorded.command_names")
        limits += beyond(spoken, naming, robot)
    cameras = tuple((camera.name, images.topic) for camera in robot.cameras for images in _images(inspection, camera)[:1])
    for camera in robot.cameras:
        limits += _camera(inspection, camera)
    if contract is not None:
        missing += _contract(inspection, robot, contract)
    return Fit(
        tuple(missing),
        tuple(limits),
        tuple(notes),
        "" if states is None else label(states),
        "" if commands is None else label(commands),
        cameras,
    )


def naming_of(robot: Robot, commands: bool) -> JointNaming:
    """What the names in joint states, or in recorded commands, mean. Bare commands are in the controller's order, as
    ``data.bag_events`` takes them."""
    if not commands:
        return robot.naming
    plain = JointNaming(what="command", key="robot.recorded.command_order")
    naming = plain if robot.recorded is None else robot.recorded.naming
    if naming.order or robot.command_interface != "float64_array":
        return naming
    return replace(naming, order=robot.command_joints)


def _find(inspection: Inspection, name: str, part: str) -> JointsFound | None:
    """Joint values on topic ``name``: those that are ``part``, where the type tells apart."""
    here = [joints for joints in inspection.joints if same(joints.topic, name) and main_layout(joints) is not None]
    if part == looks.MEASURED:
        types = {topic.name: topic.type for topic in inspection.topics}
        here = [joints for joints in here if types[joints.topic] in STATES]
    return next((joints for joints in here if joints.part in (part, "")), None)


def _commands(inspection: Inspection, robot: Robot) -> JointsFound | None:
    topics = [robot.recorded.topic] if robot.recorded is not None else [EXECUTED, robot.command_topic]
    return next(filter(None, (_find(inspection, topic, looks.WANTED) for topic in topics)), None)


def _no_states(inspection: Inspection, robot: Robot) -> str:
    topic = inspection.topic(robot.joint_state_topic)
    what = f"joint states: topic {robot.joint_state_topic} of the robot file "
    if topic is None:
        return f"{what}is not in the recording; {_elsewhere(inspection)} Correct robot.joint_state_topic, or record that topic."
    if topic.count == 0:
        return f"{what}has no messages in the recording; {_elsewhere(inspection)} Record again while the robot's driver runs."
    if topic.type not in STATES:
        return f"{what}is of type {topic.type}, expected one of {', '.join(STATES)}; {_elsewhere(inspection)}"
    return f"{what}has {topic.count} messages, none of which could be used. {topic.why}"


def _no_commands(inspection: Inspection, robot: Robot) -> str:
    asked = f"{EXECUTED} and {robot.command_topic}" if robot.recorded is None else robot.recorded.topic
    return (
        f"commands: the recording has none on {asked}, so that predictions cannot be compared with what the robot was told; "
        f"{_elsewhere(inspection)} If one of these topics has the commands, give robot.recorded.command_topic."
    )


def _elsewhere(inspection: Inspection) -> str:
    topics = [label(joints) for joints in inspection.joints]
    return f"joint values are on {some(topics)}." if topics else "no topic has joint values."


def _mismatch(layout: LayoutFound, naming: JointNaming, joints: Sequence[str], key: str) -> Iterator[str]:
    where = label(layout)
    try:
        names = naming.rename(layout.names, len(layout.joints))
    except BadInput as error:
        yield f"{where}: {error}"
        return
    lacking = [joint for joint in joints if joint not in names]
    if lacking:
        said = f"joint {lacking[0]} of the robot file is" if len(lacking) == 1 else f"joints {some(lacking)} of the robot file are"
        hint = f"Give {key}, what the names in the messages mean, or correct robot.joints."
        if set(lacking) & set(layout.names):
            hint = f"{key} gives these joints to names that the messages do not have; correct it."
        yield f"{said} not in {where}; it has {some(layout.names or names)}. {hint}"
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        yield f"{where} has {some(twice)} more than once. A robot refuses such messages; correct {key} or the publisher."


def _gaps(inspection: Inspection, robot: Robot) -> Iterator[str]:
    topic = inspection.topic(robot.joint_state_topic)
    limit = from_flat(PolicyParameters, "policy", robot.parameters).joint_state_max_age_s
    if topic is not None and topic.max_gap_s is not None and topic.max_gap_s > limit:
        yield (
            f"{topic.name} pauses for up to {topic.max_gap_s:.3f} s, and policy.joint_state_max_age_s is {limit:.3f} s: the policy "
            "samples "
            "nothing at such places. Raise it if the robot's joint states come that seldom."
        )


def _images(inspection: Inspection, camera: Camera) -> list[ImagesFound]:
    wanted = (camera.topic, f"{camera.topic}/compressed", camera.topic.removesuffix("/compressed"))
    return [images for topic in wanted for images in inspection.images if same(images.topic, topic)]


def _camera(inspection: Inspection, camera: Camera) -> Iterator[str]:
    found = _images(inspection, camera)
    if not found:
        others = [images.topic for images in inspection.images]
        yield (
            f"camera {camera.name}: neither {camera.topic} nor {camera.topic.removesuffix('/compressed')}/compressed has images in "
            "the "
            f"recording; images are on {some(others) or 'no topic'}."
        )
        return
    images = found[0]
    sizes = ", ".join(f"{width} × {height}" for width, height in images.sizes)
    if set(images.sizes) - {(camera.width, camera.height)}:
        yield (
            f"camera {camera.name}: images on {images.topic} have {sizes} pixels, the robot file says {camera.width} × "
            f"{camera.height}."
        )
    topic = inspection.topic(images.topic)
    if topic is not None and topic.typical_hz and abs(topic.typical_hz / camera.rate_hz - 1) > RATE_TOLERANCE:
        yield (
            f"camera {camera.name}: images come at {topic.typical_hz:.1f} Hz, the robot file says {camera.rate_hz:.1f} Hz. Correct "
            f"robot.cameras.{camera.name}.rate_hz if the camera has that rate."
        )


def _contract(inspection: Inspection, robot: Robot, contract: Contract) -> Iterable[str]:
    try:
        contract.check_robot(robot)
    except ContractError as error:
        yield str(error)
    for stream in contract.streams:
        if any(same(topic.name, f"features/{stream.name}") and topic.count for topic in inspection.topics):
            continue
        if stream.name != DETECTIONS:
            yield (
                f"the checkpoint observes features '{stream.name}', and the recording has no messages on features/{stream.name}. "
                "They cannot be "
                "made from images; use a recording with that topic, or another checkpoint."
            )
        elif not robot.cameras:
            yield "the checkpoint needs a camera, and the robot file has none. Add it under robot.cameras."
        elif not _images(inspection, robot.cameras[0]):
            yield (
                f"the checkpoint observes what a detector sees in camera {robot.cameras[0].name}, and the recording has neither "
                "images "
                f"of it ({robot.cameras[0].topic}) nor features/{stream.name}. Correct the camera's topic, or use another "
                "recording."
            )
