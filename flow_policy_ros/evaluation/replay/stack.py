"""From names to what a replay runs: robot file, checkpoint, detector and settings, checked against each other and the recording.

``setup`` loads them, as it does for ``evaluate``; here is what differs: parameters are the robot file's and those set by hand, and
what a policy observes may come from the recording.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flow_policy_ros import resources
from flow_policy_ros.data.bag_events import BadEvent, BagEvents, JointStateEvent
from flow_policy_ros.data.bags.bag import Bag
from flow_policy_ros.evaluation.closed_loop import Stack
from flow_policy_ros.evaluation.replay.presample import BatchPolicy, Presampled, require_batches
from flow_policy_ros.evaluation.setup import DETECTIONS, PRIVILEGED, Parts, load_parts
from flow_policy_ros.policy.deployed import empty_observation
from flow_policy_ros.runtime.contract import SAID, ContractError
from flow_policy_ros.runtime.inject import NO_INJECTION, Injection
from flow_policy_ros.runtime.joint_order import BadInput, JointOrder
from flow_policy_ros.runtime.robot import Robot, load_robot

AS_OPERATED: dict[str, Any] = {"command.autostart": True, "command.deadman": "", "policy.threads": 1, "perception.threads": 1}
"""A replay is enabled and its hold-to-run switch is held: no recording says otherwise. One thread for each process."""
LAST_NS = 2**31 * 1_000_000_000
"""The first instant that no message of ROS 2 can hold."""
LOOKED_AT = 200
"""So many joint states may be unusable at the beginning of a recording before it is refused."""


class ReplayError(ValueError):
    """A recording that cannot be replayed with this robot and checkpoint; the message says what it lacks and the remedy."""


@dataclass(frozen=True)
class ReplaySelection:
    """One variant: paths, parameters set by hand (flat, on top of the robot file's), delays. Travels to other processes.

    ``detector`` None: the shipped one of the robot, where the policy wants one. ``latency`` is ``none`` or a profile's path, or
    ``measured``. ``batch`` chunks are sampled together.
    """

    robot: Path
    checkpoint: Path
    detector: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    injection: Injection = NO_INJECTION
    latency: str = "none"
    batch: int = 1


@dataclass(frozen=True)
class ReplayParts:
    """What is loaded once for many recordings; ``profile`` is the latency profile's path, None for no delay."""

    parts: Parts
    selection: ReplaySelection
    profile: Path | None

    @property
    def robot(self) -> Robot:
        """The robot file."""
        return self.parts.robot

    def open(self, sources: Sources) -> tuple[Stack, Presampled | None]:
        """New loops for one recording, with what samples in batches, if anything does."""
        parts = self.parts if sources.camera else replace(self.parts, perception=None)
        ahead = None
        if self.selection.batch > 1:
            ahead = Presampled(_batch_policy(parts), self.selection.batch)
            parts = replace(parts, policy=ahead)
        return parts.stack(self.profile, self.selection.injection), ahead


@dataclass(frozen=True)
class Sources:
    """Where a policy's streams come from in one recording: ``camera`` for perception ("": none) and recorded ``features``."""

    camera: str = ""
    features: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def load_replay(selection: ReplaySelection) -> ReplayParts:
    """Load everything, and measure the latency where that is asked for. Raises ``ValueError``-derived errors with the remedy."""
    if selection.batch < 1:
        raise ReplayError(f"--batch is {selection.batch}, expected 1 or more chunks.")
    robot = load_robot(selection.robot)
    chosen = {**robot.parameters, **selection.settings, **AS_OPERATED, "policy.checkpoint": str(selection.checkpoint)}
    parts = load_parts(robot, chosen, selection.detector)
    if DETECTIONS in parts.seen and parts.detector is None:
        shipped = _shipped_detector(robot)
        parts = parts if shipped is None else parts.with_detector(shipped, chosen)
    if selection.batch > 1:
        require_batches(parts.policy_parameters)
        _batch_policy(parts).sample_batch([empty_observation(parts.policy.contract)], 1, 0)  # refuses a solver that cannot
    parts.stack(None, selection.injection)  # refuses before anything is measured
    if parts.perception is not None and robot.cameras:
        height, width = robot.cameras[0].height, robot.cameras[0].width
        parts.perception.extract(np.zeros((height, width, 3), np.uint8), 0)  # the first one is slow
    return ReplayParts(parts, selection, parts.profile(selection.latency))


def sources_of(bag: Bag, loaded: ReplayParts) -> Sources:
    """Which topics of ``bag`` give the streams that the policy observes. Raises ``ReplayError`` for one that nothing gives."""
    parts, robot = loaded.parts, loaded.robot
    there = BagEvents(bag, robot, features=parts.streams)
    camera, features, problems = "", [], []
    said = parts.policy.contract.of_kind(*SAID)
    if said and there.instruction is None and not parts.policy_parameters.instruction:
        raise ReplayError(
            f"checkpoint {parts.policy_parameters.checkpoint} does as an instruction says, and the recording {bag.path} has no "
            "topic 'instruction'. Say what the robot was to do with --set policy.instruction='...'."
        )
    for stream in parts.streams:
        if stream in {told.name for told in said}:
            continue  # the policy's own process makes it
        looked_at = robot.cameras[0].name if robot.cameras else ""  # the perception node's
        if stream == parts.perceived and parts.perception is not None and looked_at in there.cameras:
            camera = looked_at
        elif stream in there.streams:
            features.append(stream)
            if stream in parts.seen:
                problems.append(f"features/{stream} are the recorded ones: nothing tells which extractor made them.")
        else:
            raise ReplayError(
                f"checkpoint {parts.policy_parameters.checkpoint} observes the stream '{stream}', {_origin(stream, loaded)}; and "
                f"the recording {bag.path} has no topic features/{stream} either. It has "
                f"{', '.join(sorted(bag.topics)) or 'no topics'}. {_remedy(stream, loaded)}"
            )
    return Sources(camera, tuple(features), tuple(problems))


def events_of(bag: Bag, robot: Robot, sources: Sources, stamps: Literal["header", "receive"]) -> BagEvents:
    """The events of ``bag`` that matter for ``sources``: of other cameras nothing is read.

    Raises ``ReplayError`` when none of the first joint states can be used for ``robot``.
    """
    if bag.end is not None and bag.end >= LAST_NS:
        raise ReplayError(
            f"recording {bag.path} ends {bag.end / 1e9:.0f} s after 1970, and messages of ROS 2 hold instants until 2038 only; "
            "its recorder's clock was wrong."
        )
    cameras = tuple(camera for camera in robot.cameras if camera.name == sources.camera)
    events = BagEvents(bag, replace(robot, cameras=cameras), stamps=stamps, features=sources.features)
    require_joints(events, robot, bag)
    return events


def _origin(stream: str, loaded: ReplayParts) -> str:
    """What would have made ``stream``, and why it is not there."""
    if stream == PRIVILEGED:
        return "the simulator's object state, which no sensor gives"
    if stream not in loaded.parts.seen:
        return "which nothing here computes"
    if loaded.parts.perception is None:
        return "but no detector was given"
    if stream != loaded.parts.perceived:
        return f"besides '{loaded.parts.perceived}', and one extractor alone looks at the images"
    robot = loaded.robot
    if not robot.cameras:
        return f"but robot file {robot.path} has no camera"
    return f"but there are no images of the camera '{robot.cameras[0].name}' on topic {robot.cameras[0].topic}"


def _remedy(stream: str, loaded: ReplayParts) -> str:
    if stream in loaded.parts.seen and loaded.parts.perception is None:
        return "Add --detector."
    if stream == loaded.parts.perceived:
        return f"Name the recording's camera topic in robot file {loaded.robot.path}, or use a checkpoint without a camera."
    return "Use a checkpoint that observes joint positions or a camera, or a recording with these features."


def require_joints(events: BagEvents, robot: Robot, bag: Bag) -> None:
    """Raise ``ReplayError`` when none of the first joint states of ``events`` can be used for ``robot``."""
    order, reason, seen = JointOrder(robot.joints), "", 0
    for event in events if events.joint_states is not None else ():
        if isinstance(event, JointStateEvent):
            try:
                order.positions_of(event.state)
                return
            except BadInput as error:
                reason = reason or str(error)
        elif isinstance(event, BadEvent) and event.topic == events.joint_states:
            reason = reason or event.reason
        else:
            continue
        seen += 1
        if seen == LOOKED_AT:
            break
    problems = events.problems
    if events.joint_states is None:
        reason = next((problem for problem in problems if problem.startswith("robot.joint_state_topic")), "")
        reason += f" The recording has {', '.join(sorted(bag.topics)) or 'no topics'}. If one of them holds the joint states, name "
        reason += f"it in robot file {robot.path}; else record the robot's topics with flow_policy record."
    reason = reason or f"there is no message on topic {events.joint_states}; record the robot's topics with flow_policy record."
    mapped = next((problem for problem in problems if "robot.joint_state_names" in problem), "")
    said = f"recording {bag.path} has no joint state of robot '{robot.name}' that can be used: {reason} {mapped}"
    raise ReplayError(said.rstrip())


def _shipped_detector(robot: Robot) -> Path | None:
    name = f"{robot.name}_detector"
    return resources.checkpoint(name) if name in resources.names("checkpoints") else None


def _batch_policy(parts: Parts) -> BatchPolicy:
    if not isinstance(parts.policy, BatchPolicy):
        raise ContractError("--batch: this policy samples one chunk at a time; use --batch 1.")
    return parts.policy
