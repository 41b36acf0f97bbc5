"""Every tunable of every node: one frozen dataclass per node, the single source of its ROS parameters.

A field's metadata carries unit, bounds, description and whether it may change while running. ``ros.parameters``
declares them, ``from_flat`` reads them from a robot file, the reference page is generated from them. ROS-free. Those of nodes that
only look on are in ``onlooker_parameters``, and are to be had here like the others.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from flow_policy_ros.runtime.onlooker_parameters import (
    DashboardParameters,
    FlightParameters,
    MarkerParameters,
    RecorderParameters,
    ViewParameters,
)
from flow_policy_ros.runtime.parameter_field import ParameterError, parameter

__all__ = [
    "BLOCKS", "EXTRACTORS", "CommandParameters", "DashboardParameters", "FlightParameters", "LockstepParameters",
    "MarkerParameters", "ParameterError", "PerceptionParameters", "PlayerParameters", "PolicyParameters", "RecorderParameters",
    "SimParameters", "ViewParameters", "check", "from_flat", "parameter",
]  # fmt: skip

T = TypeVar("T")

EXTRACTORS = ("detections", "object_slots", "region_features", "yolo_tokens", "backbone", "vlm")
"""What can be made of images; ``vision.extractors`` makes it."""


@dataclass(frozen=True)
class PerceptionParameters:
    """Parameters of the perception node, prefix ``perception.``"""

    extractor: str = parameter(
        "detections",
        "What is made of images: detections (the best of each class), object_slots (several of a class, keypoints), "
        "region_features (what the detector's neck shows within the boxes), yolo_tokens (the neck's maps), backbone (an ImageNet "
        "network's map), vlm (tokens of a vision or vision-language model).",
        choices=EXTRACTORS,
    )
    detector: str = parameter("", "Folder of the detector (model.safetensors + architecture YAML), or a .pt file.")
    model: str = parameter("", "Folder of the backbone; folder or hub name of the vlm. The other kinds have perception.detector.")
    cameras: str = parameter("", "The robot file's cameras that are looked at, blanks between them; empty for the first alone.")
    class_map: str = parameter(
        "",
        "Classes of object_slots and region_features in their order, with commas between them: 'cup' or, where the detector calls "
        "it otherwise, 'ball=sports ball'; empty for all of the detector's.",
    )
    slots: int = parameter(1, "Rows for each class in object_slots and region_features.", bounds=(1, 100))
    track: bool = parameter(
        False, "An object keeps its row of object_slots and region_features while it is seen; else rows are ordered by score."
    )
    grid: str = parameter("", "Cells of the map of yolo_tokens and backbone, as '5x5' (rows, columns); empty for the usual ones.")
    levels: str = parameter("", "Levels of the neck in yolo_tokens, as '0 2'; empty for all.")
    stride: int = parameter(32, "Of the backbone's map: image pixels, as the network sees them, for a cell.", bounds=(2, 64))
    language_tokens: int = parameter(48, "Rows of the vlm kept for the instruction.", bounds=(1, 4096))
    instruction: str = parameter(
        "", "What a vlm with language reads beside the image; the topic instruction replaces it.", live=True
    )
    points: str = parameter(
        "",
        "Publish where in space the image's patches lie, too: 'patches' for those of the extractor, or a grid over the whole image "
        "such as '8x8'; needs a camera with depth in the robot file. Empty for none.",
    )
    allow_pickle: bool = parameter(
        False, "Load a .pt detector, which executes code from the file. Only for files you trust."
    )
    confidence: float = parameter(0.25, "Detections below this score are dropped.", bounds=(0.0, 1.0), live=True)
    threads: int = parameter(1, "Threads of the tensor library.", bounds=(1, 64))
    overlay: bool = parameter(
        True, "Publish the image with the detections, or the strength of the tokens, drawn on it.", live=True
    )


@dataclass(frozen=True)
class PolicyParameters:
    """Parameters of the policy node, prefix ``policy.``"""

    checkpoint: str = parameter("", "Checkpoint folder (model.safetensors, config.json, contract.json).")
    rate_hz: float = parameter(12.5, "How often a new chunk is computed.", unit="Hz", bounds=(0.1, 200.0), live=True)
    steps: int = parameter(10, "Solver steps per chunk.", bounds=(1, 1000), live=True)
    solver: str = parameter(
        "", "Integrator; empty for the checkpoint's own.", choices=("", "euler", "midpoint", "heun", "rk4", "rk45"), live=True
    )
    backend: str = parameter(
        "torch",
        "What evaluates the network: torch, the graphs that flow_policy export wrote, by ONNX Runtime (onnx) or openvino, or the "
        "network compiled for this machine (compiled; the first start takes a minute, and needs g++).",
        choices=("torch", "onnx", "openvino", "compiled"),
    )
    guidance_scale: float = parameter(
        1.0,
        "Classifier-free guidance: above 1 follows the observation more; needs a checkpoint trained with condition dropout.",
        bounds=(0.0, 20.0),
        live=True,
    )
    deadline_s: float = parameter(
        0.0,
        "As many solver steps as fit this time, measured at start, and no more than policy.steps; 0 for no deadline. What a step "
        "costs is measured when the node is started with a deadline; only then can it be changed while running.",
        unit="s",
        bounds=(0.0, 10.0),
        live=True,
    )
    mode: str = parameter(
        "receding",
        "How chunks follow each other: receding (the newest replaces), ensemble (predictions for one instant are averaged), or "
        "real-time chunking, in which the newest continues what is being executed: rtc (exact), rtc_identity (without gradients), "
        "rtc_trained (for checkpoints trained with --prefix).",
        choices=("receding", "ensemble", "rtc", "rtc_identity", "rtc_trained"),
        live=True,
    )
    overlap_s: float = parameter(
        0.08,
        "In real-time chunking, the time after the committed steps over which a new chunk is still held to the old one, ever more "
        "weakly. Longer joins more smoothly and reacts less.",
        unit="s",
        bounds=(0.0, 10.0),
        live=True,
    )
    delay_quantile: float = parameter(
        0.9, "Of the delays measured lately, the share that is to be covered by committed steps.", bounds=(0.0, 1.0), live=True
    )
    seed: int = parameter(0, "Noise is drawn from (seed, stamp of the joint state).", bounds=(0, 2**31 - 1), live=True)
    threads: int = parameter(1, "Threads of the tensor library.", bounds=(1, 64))
    profile: bool = parameter(False, "Publish in /diagnostics how long each stage of a chunk takes (profile_ms.*).")
    joint_state_max_age_s: float = parameter(
        0.1, "Sampling stops when the joint state is older.", unit="s", bounds=(0.001, 10.0), live=True
    )
    features_max_age_s: float = parameter(
        0.5, "Sampling stops when the features' image is older.", unit="s", bounds=(0.001, 60.0), live=True
    )
    instruction: str = parameter(
        "",
        "What the robot is to do, in words, for checkpoints that read an instruction; the topic 'instruction' replaces it. "
        "Takes effect at the next chunk.",
        live=True,
    )


@dataclass(frozen=True)
class CommandParameters:
    """Parameters of the command node, prefix ``command.``"""

    rate_hz: float = parameter(
        100.0,
        "Control rate. It stays as it is while running: limits hold between consecutive set-points of one period, and plans, jerk "
        "filter and real-time budget are laid out for it.",
        unit="Hz",
        bounds=(1.0, 1000.0),
    )
    limit_scale: float = parameter(
        1.0,
        "Factor on every velocity, acceleration and jerk limit of the robot file, which it cannot raise. A reduction takes effect "
        "once the motion has been braked to it.",
        bounds=(0.01, 1.0),
        live=True,
    )
    group_scale: str = parameter(
        "", "Further factors, at most 1, for groups of the robot file, as 'arm=0.5 thumb=0.3'; other joints have 1.", live=True
    )
    smoothing: float = parameter(
        0.0, "Time over which a chunk's points are smoothed; 0 goes through every point.", unit="s", bounds=(0.0, 1.0), live=True
    )
    splice_s: float = parameter(
        0.06, "A new chunk takes over from the one before within this time.", unit="s", bounds=(0.0, 2.0), live=True
    )
    slow_down: bool = parameter(
        True, "Slow a chunk down along its path where it is too fast, instead of cutting its corners.", live=True
    )
    joint_state_max_age_s: float = parameter(
        0.2, "An older joint state is a fault: decelerated stop, then hold.", unit="s", bounds=(0.001, 10.0), live=True
    )
    chunk_max_age_s: float = parameter(
        1.0,
        "A chunk is followed no longer than this after its stamp, however long it is: decelerated stop, then hold.",
        unit="s",
        bounds=(0.01, 10.0),
        live=True,
    )
    start_tolerance: float = parameter(
        0.1,
        "How far the measured position may lie outside the command range at start.",
        unit="rad or m",
        bounds=(0.0, 10.0),
        live=True,
    )
    first_command_max: float = parameter(
        0.5,
        "How far the first set-point of a chunk that sets the robot in motion may lie from the measured position.",
        unit="rad or m",
        bounds=(0.001, 100.0),
        live=True,
    )
    soft_start_s: float = parameter(
        1.0, "For this long after a start from rest the limits rise to their full values.", unit="s", bounds=(0.0, 60.0), live=True
    )
    soft_start_scale: float = parameter(
        0.2, "Factor on velocity, acceleration and jerk limits at a start from rest.", bounds=(0.01, 1.0), live=True
    )
    tracking_time_s: float = parameter(
        0.1,
        "A joint farther from its set-point than the robot file's 'tracking' for longer than this is a fault.",
        unit="s",
        bounds=(0.0, 10.0),
        live=True,
    )
    effort_time_s: float = parameter(
        0.05, "A joint above the robot file's 'effort' for longer than this is a fault.", unit="s", bounds=(0.0, 10.0), live=True
    )
    stall_s: float = parameter(
        0.1,
        "A gap between two ticks longer than this, and than three periods, is a fault: the robot was not under control.",
        unit="s",
        bounds=(0.001, 10.0),
        live=True,
    )
    autostart: bool = parameter(True, "Begin enabled; otherwise the service command/enable has to be called.")
    dry_run: bool = parameter(
        False,
        "Everything runs, command/executed and command/plan say what would be sent, and nothing is: the controller's topic is not "
        "even advertised. The robot file's 'tracking' is not watched, for the robot does not follow. Not in lockstep.",
    )
    deadman: str = parameter(
        "",
        "Hold-to-run switch: 'bool' on topic command/deadman, 'joy' for a button on topic joy; empty for none.",
        choices=("", "bool", "joy"),
    )
    deadman_button: int = parameter(0, "Index of the button of 'joy'.", bounds=(0, 63))
    deadman_max_age_s: float = parameter(
        0.25, "Silence of the switch for longer than this counts as released.", unit="s", bounds=(0.01, 10.0), live=True
    )
    collision_margin: float = parameter(
        0.0,
        "Distance between links, or to the workspace's bounds, below which motion slows and at half of which it stops; 0 for no "
        "check. Needs a URDF in the robot file and the package 'pin'.",
        unit="m",
        bounds=(0.0, 1.0),
    )
    realtime_priority: int = parameter(
        40,
        "Priority under SCHED_FIFO that the node asks for outside lockstep, below that of the kernel's interrupt threads (50); 0 "
        "does not ask. Without the right to it the node runs under ordinary scheduling and says so.",
        bounds=(0, 99),
    )
    lock_memory: bool = parameter(True, "Ask, outside lockstep, that the process's memory is never swapped out.")
    wake_ahead_s: float = parameter(
        0.0005,
        "The node wakes this long before each tick, runs through the safety stage once on made-up inputs, so that the processor "
        "has it at hand, and waits for the exact instant; at most a quarter of the period, 0 for neither.",
        unit="s",
        bounds=(0.0, 0.005),
    )
    statistics_s: float = parameter(
        10.0, "Time over which period errors and stage times on /diagnostics are taken.", unit="s", bounds=(0.1, 60.0)
    )


@dataclass(frozen=True)
class SimParameters:
    """Parameters of the simulated robot, prefix ``sim.``"""

    task: str = parameter("door", "Which Adroit task.", choices=("door", "hammer", "pen", "relocate", "relocate_goals"))
    seed: int = parameter(0, "Seed of the next reset.", bounds=(0, 2**31 - 1), live=True)
    episode: int = parameter(
        0, "Index of the next episode; sets the stamp at which it begins.", bounds=(0, 10**6), live=True
    )
    steps: int = parameter(200, "Control steps per episode.", bounds=(1, 100000), live=True)
    instruction: str = parameter(
        "",
        "What the next reset asks for and publishes on topic instruction, of a task with several goals; it decides what counts as "
        "success. Empty: drawn from sim.seed.",
        live=True,
    )
    realtime: bool = parameter(False, "Run against the wall clock instead of in lockstep.")


@dataclass(frozen=True)
class PlayerParameters:
    """Parameters of the player of recordings, prefix ``player.``"""

    bag: str = parameter("", "Recording to play: a bag's folder, or a .mcap, .db3 or .bag file.")
    features: str = parameter("", "Streams of recorded features to play besides, as 'objects'; blanks between them.")
    stamps: str = parameter(
        "header",
        "Where joint states and images get their instant from: their header, or the instant of receipt for recordings whose "
        "headers are empty or of another clock.",
        choices=("header", "receive"),
    )


@dataclass(frozen=True)
class LockstepParameters:
    """Parameters of a node that may run in lockstep with the simulation, prefix ``lockstep.``"""

    enabled: bool = parameter(False, "Act on lockstep/tick instead of the node's own timer.")
    timeout_s: float = parameter(
        5.0, "Wall time to wait for a missing product before going on without it.", unit="s", bounds=(0.01, 600.0)
    )
    latency: str = parameter("", "Latency profile (JSON file) injected into simulated time; empty for none.")
    inject: str = parameter(
        "",
        "Disturbances for tests, in lockstep and in real time: 'delay=0.02..0.08,spike=0.3@0.05,drop-chunks=0.1,drop-frames=0.2' "
        "(seconds, probabilities); empty for none.",
    )
    seed: int = parameter(0, "Injected delays and losses are drawn from (seed, stage, stamp).", bounds=(0, 2**31 - 1))


BLOCKS: dict[str, type] = {
    "perception": PerceptionParameters,
    "policy": PolicyParameters,
    "command": CommandParameters,
    "sim": SimParameters,
    "player": PlayerParameters,
    "lockstep": LockstepParameters,
    "recorder": RecorderParameters,
    "flight": FlightParameters,
    "markers": MarkerParameters,
    "dashboard": DashboardParameters,
    "view": ViewParameters,
}


def check(cls: type, name: str, value: Any, prefix: str = "") -> Any:
    """Validate one value against its field; returns it in the field's type. Raises ``ParameterError``."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if name not in fields:
        raise ParameterError(f"unknown parameter {prefix}{name}; known: {', '.join(prefix + n for n in fields)}.")
    f = fields[name]
    kind = type(f.default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise ParameterError(f"parameter {prefix}{name} is {value!r}, expected {kind.__name__}.")
    bounds = f.metadata["bounds"]
    if bounds is not None and not bounds[0] <= value <= bounds[1]:
        raise ParameterError(
            f"parameter {prefix}{name} is {value} {f.metadata['unit']}".rstrip()
            + f", expected {bounds[0]} to {bounds[1]}."
        )
    choices = f.metadata["choices"]
    if choices and value not in choices:
        raise ParameterError(f"parameter {prefix}{name} is {value!r}, expected one of {', '.join(choices)}.")
    return value


def from_flat(cls: type[T], prefix: str, flat: dict[str, Any]) -> T:
    """Build a parameter block from flat names (``policy.rate_hz``); unknown names under the prefix are errors."""
    head = prefix + "."
    given = {k[len(head):]: v for k, v in flat.items() if k.startswith(head)}
    return cls(**{k: check(cls, k, v, head) for k, v in given.items()})
