"""From names to running objects: robot file, checkpoint and detector of one run, checked against each other.

``evaluate`` and ``replay`` build their stacks here and ``demo`` takes the same ``Selection`` to start the nodes, so that all run
the same thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flow_policy_ros import resources
from flow_policy_ros.evaluation.closed_loop import InstructedPerception, Perception, Stack
from flow_policy_ros.evaluation.latency import load_profile, profile_for
from flow_policy_ros.evaluation.limit_scale import at_scale
from flow_policy_ros.policy.deployed import deploy, empty_continuation, empty_observation
from flow_policy_ros.runtime.chunk_execution import CONTINUING
from flow_policy_ros.runtime.contract import FRAMES, SAID, Contract, ContractError, StreamContract
from flow_policy_ros.runtime.inject import NO_INJECTION, Injection, InjectionError
from flow_policy_ros.runtime.parameters import (
    EXTRACTORS,
    CommandParameters,
    PerceptionParameters,
    PolicyParameters,
    from_flat,
)
from flow_policy_ros.runtime.policy_loop import ContinuingPolicy, PolicyLoop
from flow_policy_ros.runtime.robot import Camera, Robot, load_robot
from flow_policy_ros.runtime.stream_cameras import greatest_ages
from flow_policy_ros.safety.clearance import clearance_of
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
    instruction: str = ""

    def flat_policy(self) -> dict[str, str | int | float | bool]:
        """The policy's, by flat names, the same in one process and for the nodes."""
        chosen: dict[str, str | int | float | bool] = {
            "policy.checkpoint": str(self.checkpoint.resolve()),
            "policy.steps": self.steps,
            "policy.seed": self.policy_seed,
            "policy.solver": self.solver,
            "policy.guidance_scale": self.guidance_scale,
            "policy.deadline_s": self.deadline_s,
            "policy.mode": self.mode,
        }
        return chosen | ({"policy.instruction": self.instruction} if self.instruction else {})


DETECTIONS, PRIVILEGED = "detections", "objects"
"""Feature streams: of a detector, and of the simulator's object state, which no sensor gives."""
NO_CAMERA = Camera("", "", 256, 256, 1.0)
"""In place of one that the robot file lacks: what a recording holds may be all that is needed."""

SHIPPED = {("relocate_goals", "state"): "adroit_relocate_goals_deep"}
"""Checkpoints whose name does not follow from task and observation alone."""


@dataclass(frozen=True)
class Loaded:
    """The objects of a selection, and ``profile`` the latency profile's path (None: no delay is injected). ``perceiving`` are the
    flat parameters with which the perception node makes what ``stack.perception`` makes."""

    robot: Robot
    stack: Stack
    profile: Path | None
    perceiving: dict[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Parts:
    """What is loaded once and serves many runs: networks and parameters. ``stack`` makes new loops from them.

    ``detector`` is where ``perception``, None when the policy needs no camera, was loaded from (a detector, or another extractor's
    model), and ``perceived`` the stream that it makes. ``perceiving`` are the perception node's flat parameters for the same.
    """

    robot: Robot
    policy: ContinuingPolicy
    perception: Perception | None
    detector: Path | None
    policy_parameters: PolicyParameters
    command_parameters: CommandParameters
    perceived: str = ""
    perceiving: dict[str, str | int | float | bool] = field(default_factory=dict)

    @property
    def streams(self) -> tuple[str, ...]:
        """The feature streams that the policy observes."""
        return tuple(stream.name for stream in self.policy.contract.streams)

    @property
    def seen(self) -> dict[str, StreamContract]:
        """Of them those that are made of camera images, by name."""
        return {stream.name: stream for stream in seen_streams(self.policy.contract)}

    def require_detector(self) -> None:
        """Raise ``ContractError`` when nothing makes what the policy observes of camera images."""
        missing = [name for name in self.seen if name != self.perceived]
        if missing and self.perception is None:
            raise ContractError(
                f"the checkpoint {self.policy_parameters.checkpoint} needs the features '{missing[0]}', but no detector was given; "
                "add --detector."
            )
        if missing:
            raise ContractError(
                f"the checkpoint {self.policy_parameters.checkpoint} needs the features {', '.join(missing)} besides "
                f"'{self.perceived}', and here one extractor looks at the robot file's first camera. Use a checkpoint that "
                "observes that alone, or a robot with its own perception nodes."
            )

    def require_listener(self) -> None:
        """Raise ``ContractError`` when neither the policy nor its perception reads an instruction."""
        speaks = isinstance(self.perception, InstructedPerception) and self.perception.speaks
        if not speaks and not self.policy.contract.of_kind(*SAID):
            raise ContractError(
                f"an instruction is given, but the checkpoint {self.policy_parameters.checkpoint} reads none: it observes "
                f"{sorted(self.streams) or 'joint positions alone'}. Leave --instruction out, or use a checkpoint that was trained "
                "with instructions (flow_policy train --language, or a prompt by --vlm)."
            )

    def with_detector(self, detector: Path, parameters: dict[str, Any]) -> Parts:
        """The same with perception by ``detector``, or the model of another extractor, as the flat ``parameters`` say.

        Raises ``ContractError`` for one that the policy was not trained with, or for a policy that observes nothing of the first
        camera's images.
        """
        mine = [stream for stream in self.seen.values() if "camera" not in stream.extractor]
        if not mine:
            raise ContractError(
                f"checkpoint {self.policy_parameters.checkpoint} observes {sorted(self.streams) or 'joint positions alone'} and "
                f"nothing that a camera sees, expected the stream '{DETECTIONS}' or another of the first camera's images; "
                "leave --detector out (--observation state)."
            )
        camera = self.robot.cameras[0] if self.robot.cameras else NO_CAMERA
        chosen = perception_parameters(parameters, detector, mine[0].extractor)
        perception = load_perception(chosen, detector, mine[0], camera)
        usual = asdict(from_flat(PerceptionParameters, "perception", self.robot.parameters))
        perceiving = {f"perception.{name}": value for name, value in asdict(chosen).items() if value != usual[name]}
        return replace(self, perception=perception, detector=detector, perceived=mine[0].name, perceiving=perceiving)

    def with_frames(self) -> Parts:
        """The same; a policy that looks at the first camera's images itself is given them in its size."""
        camera = self.robot.cameras[0] if self.robot.cameras else NO_CAMERA
        mine = [stream for stream in self.policy.contract.of_kind(FRAMES) if stream.extractor.get("camera") == camera.name]
        if not mine:
            return self
        from flow_policy_ros.vision.frames import FrameFeatures

        height, width = mine[0].extractor["size"]
        frames = FrameFeatures((height, width), camera.name, mine[0].name, (camera.height, camera.width))
        return replace(self, perception=frames, perceived=mine[0].name)

    def profile(self, latency: str) -> Path | None:
        """The latency profile for ``latency`` (see ``profile_for``), measured with these parts if it never was."""
        parameters = self.policy_parameters
        method = parameters.mode if parameters.mode in CONTINUING else ""
        sampling = [parameters.solver, parameters.guidance_scale, parameters.deadline_s, *filter(None, [method])]
        return profile_for(
            latency,
            {
                "checkpoint": str(Path(parameters.checkpoint).resolve()),
                "detector": str(self.detector),
                "steps": parameters.steps,
                "sampling": sampling,
            },
            lambda: stages(self.robot, self.policy, self.perception, parameters.steps, method),
        )

    def stack(self, profile: Path | None, injection: Injection = NO_INJECTION) -> Stack:
        """New loops, which know nothing yet. Raises ``InjectionError`` for images that are to get lost where none is used."""
        if injection.drop_frames and self.perception is None:
            raise InjectionError(
                f"--inject {injection}: drop-frames loses camera images, but the checkpoint {self.policy_parameters.checkpoint} "
                "uses none; leave it out, or use a checkpoint that observes a camera (--observation camera)."
            )
        return Stack(
            policy=self._loop(),
            command=CommandLoop(self.robot, self.command_parameters, clearance_of(self.robot, self.command_parameters)),
            perception=self.perception,
            latency=load_profile(profile),
            latency_seed=self.policy_parameters.seed,
            privileged=PRIVILEGED in self.streams,
            injection=injection,
        )

    def _loop(self) -> PolicyLoop:
        """Of the policy, told already what the parameters say that it is to do."""
        ages = greatest_ages(self.policy.contract, self.robot)
        loop = PolicyLoop(self.policy, self.policy_parameters, self.robot.endless, ages)
        if self.policy_parameters.instruction:
            loop.instruct(self.policy_parameters.instruction, 0)
        return loop


def load(selection: Selection, latency: str) -> Loaded:
    """Load and check everything; ``latency`` is ``measured``, ``none`` or a profile's path.

    Raises ``ValueError``-derived errors that name the file and the remedy.
    """
    robot = at_scale(load_robot(selection.robot), max(selection.limit_scale, 1.0))
    chosen = {**selection.flat_policy(), "command.limit_scale": min(selection.limit_scale, 1.0)}
    parts = load_parts(robot, {**robot.parameters, **chosen}, selection.detector)
    parts.require_detector()
    if selection.instruction:
        parts.require_listener()
    parts.stack(None, selection.injection)  # refuses before anything is measured
    profile = parts.profile(latency)
    return Loaded(robot, parts.stack(profile, selection.injection), profile, parts.perceiving)


def load_parts(robot: Robot, parameters: dict[str, Any], detector: Path | None) -> Parts:
    """Load the checkpoint and the detector that the flat ``parameters`` and ``detector`` name, checked against each other.

    ``detector`` is None when the policy needs no camera, or gets what one would see from elsewhere. Raises
    ``ValueError``-derived errors that name the file and the remedy.
    """
    policy_parameters = from_flat(PolicyParameters, "policy", parameters)
    command_parameters = from_flat(CommandParameters, "command", parameters)
    torch.set_num_threads(policy_parameters.threads)
    policy = deploy(policy_parameters, robot.name)
    policy.contract.check_robot(robot)
    parts = Parts(robot, policy, None, None, policy_parameters, command_parameters).with_frames()
    return parts if detector is None else parts.with_detector(detector, parameters)


def seen_streams(contract: Contract) -> tuple[StreamContract, ...]:
    """The streams that are made of camera images, by ``vision.extractors`` or as frames; those of checkpoints from before there
    were several kinds are known by their name."""
    return tuple(s for s in contract.streams if s.extractor.get("extractor", s.name) in (*EXTRACTORS, FRAMES))


def perception_parameters(parameters: dict[str, Any], model: Path, trained_with: dict[str, Any]) -> PerceptionParameters:
    """The flat ``parameters``, changed so that ``model`` makes features such as a policy was ``trained_with``."""
    from flow_policy_ros.vision.extractors import parameters_for, with_source

    chosen = from_flat(PerceptionParameters, "perception", parameters)
    return with_source(parameters_for(trained_with, chosen), model.resolve())


def load_perception(parameters: PerceptionParameters, model: Path, stream: StreamContract, camera: Camera) -> Perception:
    """The extractor that makes ``stream`` of the images of ``camera``, refused when it or its weights are not those that the policy
    was trained with. Raises ``ContractError``, and ``DetectorError`` or ``ExtractorError`` for a model that cannot be loaded."""
    from flow_policy_ros.vision.extractors import load_extractor, of_camera
    from flow_policy_ros.vision.pretrained import ExtractorError

    try:
        extractor = load_extractor(parameters.extractor, model, camera, parameters)
    except ExtractorError as error:
        raise ContractError(
            f"the checkpoint observes '{stream.name}', features of the kind '{parameters.extractor}': {error} Give the model's "
            "folder with --detector."
        ) from error
    extractor = of_camera(extractor, camera.name, True, stream.name)
    check_extractor(stream.extractor, extractor.identity(), model)
    return extractor


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


def default_observation(task: str) -> str:
    """What policies for the task observe where nobody says otherwise: ``camera``, or ``state`` where none with a camera ships."""
    return "state" if (task, "state") in SHIPPED else "camera"


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
        checkpoint=resources.checkpoint(checkpoint or SHIPPED.get((task, observation), f"adroit_{task}_{observation}")),
        detector=resources.checkpoint(detector or f"adroit_{task}_detector") if observation == "camera" else None,
        steps=steps,
        policy_seed=policy_seed,
        limit_scale=limit_scale,
    )
