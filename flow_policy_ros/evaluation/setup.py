"""From names to running objects: robot file, checkpoint and detector of one run, checked against each other.

``evaluate`` builds its stack here and ``demo`` takes the same ``Selection`` to start the nodes, so that both run the same thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flow_policy_ros import resources
from flow_policy_ros.evaluation.closed_loop import Perception, Stack
from flow_policy_ros.evaluation.latency import load_profile, profile_for
from flow_policy_ros.policy.deployed import deploy, empty_continuation, empty_observation
from flow_policy_ros.runtime.chunk_execution import CONTINUING
from flow_policy_ros.runtime.contract import ContractError
from flow_policy_ros.runtime.inject import NO_INJECTION, Injection, InjectionError
from flow_policy_ros.runtime.parameters import CommandParameters, PerceptionParameters, PolicyParameters, from_flat
from flow_policy_ros.runtime.policy_loop import ContinuingPolicy, PolicyLoop
from flow_policy_ros.runtime.robot import Robot, load_robot
from flow_policy_ros.safety.command_loop import CommandLoop


@dataclass(frozen=True)
class Selection:
    """What a run uses: paths of robot file, checkpoint and detector (None when the policy needs no camera), and settings."""

    task: str
    robot: Path
    checkpoint: Path
    detector: Path | None
    steps: int = 10
    policy_seed: int = 0
    limit_scale: float = 1.0
    solver: str = ""
    guidance_scale: float = 1.0
    deadline_s: float = 0.0
    mode: str = "receding"
    injection: Injection = NO_INJECTION


@dataclass(frozen=True)
class Loaded:
    """The objects of a selection, and ``profile`` the latency profile's path (None: no delay is injected)."""

    robot: Robot
    stack: Stack
    profile: Path | None


def load(selection: Selection, latency: str) -> Loaded:
    """Load and check everything; ``latency`` is ``measured``, ``none`` or a profile's path.

    Raises ``ValueError``-derived errors that name the file and the remedy.
    """
    robot = load_robot(selection.robot)
    chosen = {
        "policy.checkpoint": str(selection.checkpoint),
        "policy.steps": selection.steps,
        "policy.seed": selection.policy_seed,
        "policy.solver": selection.solver,
        "policy.guidance_scale": selection.guidance_scale,
        "policy.deadline_s": selection.deadline_s,
        "policy.mode": selection.mode,
        "command.limit_scale": selection.limit_scale,
    }
    policy_parameters = from_flat(PolicyParameters, "policy", {**robot.parameters, **chosen})
    command_parameters = from_flat(CommandParameters, "command", {**robot.parameters, **chosen})
    torch.set_num_threads(policy_parameters.threads)
    policy = deploy(policy_parameters, robot.name)
    policy.contract.check_robot(robot)
    loop = PolicyLoop(policy, policy_parameters, robot.endless)
    method = selection.mode if selection.mode in CONTINUING else ""
    streams = {stream.name: stream for stream in policy.contract.streams}
    perception: Perception | None = None
    if selection.detector is not None and "detections" not in streams:
        raise ContractError(
            f"checkpoint {selection.checkpoint} observes {sorted(streams) or 'joint positions alone'} and nothing that a camera "
            "sees, expected the stream 'detections'; use --observation state."
        )
    if "detections" in streams:
        perception = load_perception(robot, selection, streams["detections"].extractor)
    if selection.injection.drop_frames and perception is None:
        raise InjectionError(
            f"--inject {selection.injection}: drop-frames loses camera images, but the checkpoint {selection.checkpoint} uses "
            "none; leave it out, or use --observation camera."
        )
    profile = profile_for(
        latency,
        {
            "checkpoint": str(selection.checkpoint.resolve()),
            "detector": str(selection.detector),
            "steps": selection.steps,
            "sampling": [selection.solver, selection.guidance_scale, selection.deadline_s, *filter(None, [method])],
        },
        lambda: stages(robot, policy, perception, selection.steps, method),
    )
    stack = Stack(
        policy=loop,
        command=CommandLoop(robot, command_parameters),
        perception=perception,
        latency=load_profile(profile),
        latency_seed=selection.policy_seed,
        privileged="objects" in streams,
        injection=selection.injection,
    )
    return Loaded(robot, stack, profile)


def load_perception(robot: Robot, selection: Selection, trained_with: dict[str, Any]) -> Perception:
    """The detector as a feature extractor, refused when its weights are not those that the policy was trained with."""
    from flow_policy_ros.vision.detector import load_detector
    from flow_policy_ros.vision.features import DetectionFeatures

    if selection.detector is None:
        raise ContractError("the checkpoint needs the features 'detections', but no detector was given; add --detector.")
    parameters = from_flat(PerceptionParameters, "perception", robot.parameters)
    features = DetectionFeatures(
        load_detector(selection.detector, parameters.allow_pickle, parameters.confidence, parameters.threads)
    )
    check_extractor(trained_with, features.identity(), selection.detector)
    return features


def check_extractor(trained_with: dict[str, Any], given: dict[str, Any], path: Path) -> None:
    """Raises ``ContractError`` when the features would not be the ones that the policy was trained with."""
    different = [k for k in trained_with if trained_with[k] != given.get(k)]
    if different:
        raise ContractError(
            f"the detector at {path} is not the one that the checkpoint was trained with: {', '.join(different)} differ "
            f"(trained with {({k: trained_with[k] for k in different})}, given {({k: given.get(k) for k in different})}). "
            "Give the detector that belongs to the checkpoint, or train the policy on this detector's features."
        )


def stages(
    robot: Robot, policy: ContinuingPolicy, perception: Perception | None, steps: int, method: str = ""
) -> dict[str, Callable[[int], object]]:
    """What to time for a latency profile: the extractor on an image of the robot's size, the policy on an empty observation,
    continued by ``method`` if there is one."""
    observation = empty_observation(policy.contract)
    continuation = empty_continuation(policy.contract, method) if method else None
    timed: dict[str, Callable[[int], object]] = {
        "inference": lambda k: policy.sample(replace(observation, stamp=k), steps, 0, continuation)
    }
    if perception is not None:
        camera = robot.cameras[0]
        image = np.random.default_rng(0).integers(0, 255, (camera.height, camera.width, 3), dtype=np.uint8)
        timed["perception"] = lambda k: perception.extract(image, k)
    return timed


def select(
    task: str,
    observation: str,
    checkpoint: Path | None,
    detector: Path | None,
    robot: Path | None,
    steps: int = 10,
    policy_seed: int = 0,
    limit_scale: float = 1.0,
) -> Selection:
    """Paths or names of shipped files, and the shipped ones for what was not given.

    Raises ``ResourceError`` for what does not exist, ``ValueError`` for a detector that nothing would use.
    """
    if detector is not None and observation != "camera":
        raise ValueError("--detector is given, but --observation state uses no camera; leave one of the two out.")
    return Selection(
        task=task,
        robot=resources.robot_file(robot or f"adroit_{task}"),
        checkpoint=resources.checkpoint(checkpoint or f"adroit_{task}_{observation}"),
        detector=resources.checkpoint(detector or f"adroit_{task}_detector") if observation == "camera" else None,
        steps=steps,
        policy_seed=policy_seed,
        limit_scale=limit_scale,
    )
