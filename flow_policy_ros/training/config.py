"""Everything that a training run can be told, with units and defaults: the command line is made from this."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flow_policy_ros.models.registry import VLM_NETWORKS
from flow_policy_ros.policy.flow_model import FlowConfig
from flow_policy_ros.runtime.contract import MOST_HISTORY_NS


class TrainError(ValueError):
    """Training that cannot start; one paragraph with the remedy."""


class DivergedError(TrainError):
    """Training that went wrong on the way; what was saved before is kept."""


def require_at_least(config: object, least: float, *names: str) -> None:
    """Raise ``TrainError`` for the first of the options that is lower, or NaN."""
    for name in names:
        if not least <= getattr(config, name) < math.inf:
            raise TrainError(f"{_option(name)} is {getattr(config, name)}, expected at least {least}, and finite.")


def require_above(config: object, bound: float, *names: str) -> None:
    """Raise ``TrainError`` for the first of the options that is not above ``bound``."""
    for name in names:
        if not bound < getattr(config, name) < math.inf:
            raise TrainError(f"{_option(name)} is {getattr(config, name)}, expected more than {bound}, and finite.")


def require_fraction(config: object, *names: str) -> None:
    """Raise ``TrainError`` for the first of the options outside [0, 1)."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise TrainError(f"{_option(name)} is {getattr(config, name)}, expected at least 0 and less than 1.")


MOST_THREADS = 256


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What every optimisation is told, whatever it learns."""

    out: Path
    """Checkpoint folder to write; training state and logs go into its sub-folder training/."""
    steps: int = 20000
    """Optimiser steps of the whole schedule."""
    stop_at: int | None = None
    """Stop after this step although the schedule goes on; --resume continues it."""
    resume: bool = False
    """Continue from the training state in the output folder; begin anew when there is none."""
    batch: int = 256
    """Samples per optimiser step, over all processes."""
    lr: float = 5e-4
    """Peak learning rate."""
    warmup: int = 500
    """Steps of linear warm-up; a cosine to zero follows."""
    weight_decay: float = 1e-3
    """AdamW weight decay on matrices."""
    grad_clip: float = 1.0
    """Greatest norm of the gradient."""
    ema_decay: float = 0.999
    """Greatest decay of the averaged weights, which are what is saved."""
    seed: int = 0
    """Seed of weights, order, delays and noise."""
    validate_every: int = 1000
    """Steps between validations."""
    save_every: int = 2000
    """Steps between checkpoints."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the training forward pass; bf16 is two to three times as fast where the CPU has it."""
    store: Literal["fp32", "fp16"] = "fp32"
    """Number format of the saved weights."""
    threads: int = 1
    """Threads of the tensor library."""

    def __post_init__(self) -> None:
        """Raises ``TrainError`` naming the first option outside its bounds."""
        require_at_least(self, 1, "steps", "batch", "validate_every", "save_every", "threads")
        require_at_least(self, 0, "warmup", "weight_decay", "seed")
        require_above(self, 0, "lr", "grad_clip")
        require_fraction(self, "ema_decay")
        if self.threads > MOST_THREADS:
            raise TrainError(f"--threads is {self.threads}, expected at most {MOST_THREADS}.")
        if self.stop_at is not None and self.stop_at < 1:
            raise TrainError(f"--stop-at is {self.stop_at}, expected at least 1.")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        content: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return content


@dataclass(frozen=True, kw_only=True)
class TrainConfig(LoopConfig):
    """Train a flow policy on recordings and write a checkpoint folder."""

    data: tuple[Path, ...]
    """What to learn from, as PATH or PATH=WEIGHT: folders of episodes (*.npz), bags, folders of bags, LeRobot folders. With weights
    (1 where none is given) they have shares of every epoch in these proportions; without any, every sample comes once. Those
    of different robots become embodiments of one policy, padded to the widest."""
    robot: tuple[Path, ...] = ()
    """Robot file that bags (and LeRobot folders) are read with; or one for each of them, in the order of --data."""
    stamps: Literal["header", "receive"] = "header"
    """What bags are dated by: header stamps, or the instants of receipt where nobody set the stamps."""
    streams: tuple[str, ...] = ("detections",)
    """Feature streams of the episodes to observe beside the joint positions; none for joint positions alone."""
    tokens: tuple[str, ...] = ()
    """Tokens of the detections stream to observe, by class name (from extractor.json); all without it."""
    first: tuple[str, ...] = ()
    """Streams of which the policy observes the first features of an episode (what the camera saw before the robot moved)
    instead of the newest."""
    language: str = ""
    """Sentence model, a folder or all-MiniLM-L6-v2: the policy observes what the robot was told as one token of it."""
    instruction: str = ""
    """What the robot was told in those of the recordings that do not say it."""
    vlm: str = ""
    """Vision-language model, a folder or a hub name that is on this machine: what the networks deep_expert, deep_causal and
    deep_mutual read --frames and the instruction with. It begins with the folder's weights, where the folder has any."""
    vlm_tuning: Literal["frozen", "lora", "full"] = "frozen"
    """What of the vision-language model is learned: nothing, additions of low rank in its decoder's attention (LoRA, which the
    checkpoint has merged into the weights), or everything."""
    lora_rank: int = 16
    """Rank of these additions."""
    frames: tuple[str, ...] = ()
    """Cameras whose images the vision-language model reads, as CAMERA, or CAMERA=HEIGHTxWIDTH in pixels (e.g. front=224x224), to
    which the pictures of bags are resized."""
    prompt_length: int = 0
    """Tokens of the prompt, images included, shorter ones padded; 0: the longest of the data and 16 more."""
    network: str = "residual_mlp"
    """Architecture: residual_mlp, unet1d, dit, dit_cross, embodiment_dit or deep_features; with --vlm deep_expert (a transformer
    beside the model's decoder), deep_causal or deep_mutual (through the decoder's own layers)."""
    sizes: tuple[str, ...] = ()
    """Sizes of the network where not its defaults, as name=number, e.g. width=512 blocks=3."""
    horizon: int = 16
    """Points per chunk."""
    chunk_dt: float = 0.02
    """Spacing of chunk points in s; a multiple of the episodes' tick. Between the commands of a bag it is interpolated."""
    history: tuple[str, ...] = ()
    """Past joint positions to observe besides the newest, in s before it, e.g. 0.08 0.04 (or 0.08,0.04)."""
    action_space: Literal["absolute", "relative"] = "absolute"
    """Learn joint positions as they are, or relative to the measured position at the chunk's stamp."""
    normalisation: Literal["mean_std", "quantile"] = "mean_std"
    """How observations and actions are scaled."""
    objective: Literal["flow", "regression", "diffusion"] = "flow"
    """What is learned: a flow, or to measure it against, plain regression (one pass, one chunk: the mean) or diffusion (noise
    predicted, sampled by DDIM). The options on the flow belong to flows only."""
    time_sampler: str = "uniform"
    """Training times: uniform, beta (pi0), groot_n1, groot_n16, logit_normal, or from_noise (mostly t = 0)."""
    predicts: str = "velocity"
    """What the network puts out: velocity, or chunk (where the path ends; learned from fewer demonstrations of one skill)."""
    coupling: str = "independent"
    """How noise and chunks are paired in a batch: independent or optimal_transport."""
    solver: str = "euler"
    """Solver of the deployed policy: euler, midpoint, heun, rk4 or rk45."""
    condition_dropout: float = 0.0
    """Probability that a sample sees the null observation; above 0, the policy can be guided (classifier-free)."""
    null: Literal["learned", "zeros"] = "learned"
    """The null observation."""
    prefix: int = 0
    """Longest committed prefix of a chunk, in points, that training shows clean (training-time real-time chunking)."""
    delay_min: float = 0.0
    """Least delay in s from a feature's stamp (its receipt, in bags) to the tick that first sees it."""
    delay_max: float = 0.0
    """Greatest such delay in s; drawn evenly per sample. Use the measured delay of perception."""
    joint_state_max_age: float | None = None
    """Samples whose joint state is older by its stamp, in s, are left out; default: the robot file's policy.joint_state_max_age_s
    for bags, none for episodes."""
    features_max_age: float | None = None
    """Samples whose features are older by their stamp, in s, are left out; default: the robot file's policy.features_max_age_s
    for bags, none for episodes."""
    max_gap: float = 0.5
    """Where commands of a bag are further apart, in s, a chunk ends."""
    joint_noise: float = 0.0
    """Standard deviation in rad or m of noise added to observed joint positions."""
    state_dropout: float = 0.0
    """Probability that a sample shows the batch's mean posture instead of its own joint positions: what is to be done must then
    follow from features and words, which late in an episode the posture tells by itself."""
    feature_noise: float = 0.0
    """Standard deviation of noise added to features, in their own unit (fraction of the image for detections)."""
    feature_dropout: float = 0.0
    """Probability that a feature token is zeroed, as if it had not been detected."""
    validation: float = 0.05
    """Fraction of the episodes held out."""

    def __post_init__(self) -> None:
        """Raises ``TrainError`` naming the first option outside its bounds."""
        super().__post_init__()
        if not self.data:
            raise TrainError("--data names no folder, expected at least one with episodes (*.npz), or a bag.")
        require_at_least(self, 1, "horizon", "lora_rank")
        require_above(self, 0, "max_gap", *(n for n in ("joint_state_max_age", "features_max_age") if getattr(self, n) is not None))
        require_at_least(self, 0, "delay_min", "delay_max", "joint_noise", "feature_noise", "prefix", "prompt_length")
        require_above(self, 0, "chunk_dt")
        require_fraction(self, "validation", "feature_dropout", "condition_dropout", "state_dropout")
        if self.delay_max < self.delay_min:
            raise TrainError(f"--delay-max is {self.delay_max}, expected at least --delay-min ({self.delay_min}).")
        self.network_sizes()
        self.history_ns()
        self.sources()
        self.cameras()
        self._check_language()

    def _check_language(self) -> None:
        """Raise ``TrainError`` for options on images and language that do not belong together."""
        deep = self.network in VLM_NETWORKS
        if deep != bool(self.vlm) or deep != bool(self.frames):
            raise TrainError(
                f"--network {self.network} with --vlm '{self.vlm}' and --frames {list(self.frames)}: the networks "
                f"{', '.join(VLM_NETWORKS)} need a vision-language model and a camera, and others take neither."
            )
        if deep and (self.language or "detections" in self.streams):
            raise TrainError(
                f"--network {self.network} reads images and the instruction by its own model, and no feature tokens: give "
                "`--streams` (no names) and no --language, or use another network."
            )
        if self.instruction and not (self.language or deep):
            raise TrainError("--instruction is given, but the policy does not observe one; add --language, or a --vlm.")

    def cameras(self) -> dict[str, tuple[int, int] | None]:
        """``frames`` taken apart: the size (height, width) of each camera's images, None where none is given. Raises
        ``TrainError``."""
        found: dict[str, tuple[int, int] | None] = {}
        for entry in self.frames:
            camera, equals, size = entry.partition("=")
            sides = size.lower().split("x")
            if not camera or camera in found or (equals and not (len(sides) == 2 and all(side.isdecimal() for side in sides))):
                raise TrainError(f"--frames has '{entry}', expected CAMERA or CAMERA=HEIGHTxWIDTH, each once, e.g. front=224x224.")
            found[camera] = (int(sides[0]), int(sides[1])) if equals else None
        return found

    def sources(self) -> tuple[tuple[Path, float | None], ...]:
        """``data`` as paths and their weights, None for one without. Raises ``TrainError`` for a weight that is no number
        above zero."""
        return tuple(_source(entry) for entry in self.data)

    def history_ns(self) -> tuple[int, ...]:
        """``history`` as offsets in ns, all below zero, the oldest first. Raises ``TrainError``."""
        try:
            offsets = sorted(-round(float(word) * 1e9) for entry in self.history for word in entry.split(",") if word)
        except (ValueError, OverflowError) as error:
            raise TrainError(f"--history is {list(self.history)}, expected seconds, e.g. 0.08 0.04.") from error
        if len(set(offsets)) < len(offsets) or any(not -MOST_HISTORY_NS <= offset < 0 for offset in offsets):
            raise TrainError(
                f"--history is {list(self.history)}, expected different numbers above 0, at most {MOST_HISTORY_NS / 1e9:g} s."
            )
        return tuple(offsets)

    def network_sizes(self) -> dict[str, str]:
        """``sizes`` taken apart. Raises ``TrainError`` for an entry without ``=``."""
        pairs = [entry.partition("=") for entry in self.sizes]
        wrong = [name for name, equals, _ in pairs if not equals]
        if wrong:
            raise TrainError(f"--sizes has {wrong}, expected name=number, e.g. width=512.")
        return {name: value for name, _, value in pairs}

    @staticmethod
    def from_json(content: dict[str, Any]) -> TrainConfig:
        """Inverse of ``to_json``; options that did not exist then have their defaults. Raises ``TrainError``."""
        known = {f.name for f in dataclasses.fields(TrainConfig)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items() if k in known}
        data = values.get("data", ())
        values["data"] = tuple(Path(folder) for folder in ((data,) if isinstance(data, str) else data))
        values["robot"] = tuple(Path(file) for file in values.get("robot", ()))
        try:
            return TrainConfig(**values | {"out": Path(values["out"])})
        except (KeyError, TypeError) as error:
            raise TrainError(f"the training options of the checkpoint are incomplete ({error}); train it again.") from error

    def flow(self) -> FlowConfig:
        """The part that the model keeps. Raises ``ValueError``."""
        return FlowConfig(
            self.time_sampler, self.coupling, self.solver, self.condition_dropout, self.null, self.prefix, self.predicts
        )


@dataclass(frozen=True, kw_only=True)
class DistillConfig(LoopConfig):
    """Distil a trained policy until one solver step is enough (reflow, Liu et al. 2023), and report how well it went.

    Pairs of noise and the teacher's chunk are made first, then a student of the teacher's architecture and weights learns
    them: --rectify steps at all times (2-rectified flow), then --steps steps mostly at the start (one-step distillation).
    """

    teacher: Path
    """Checkpoint folder of the teacher."""
    data: tuple[Path, ...] = ()
    """Folders of the episodes whose observations the pairs have; default: those that the teacher was trained with."""
    pairs: Path | None = None
    """Folder of the pairs; default: the sub-folder pairs/ of the output. Two runs with one teacher may share it."""
    count: int = 200_000
    """Pairs to make."""
    teacher_steps: int = 10
    """Solver steps of the teacher."""
    rectify: int = 10000
    """Optimiser steps of the first stage."""
    steps: int = 10000
    """Optimiser steps of the second stage."""
    lr: float = 3e-4
    """Peak learning rate of either stage."""

    def __post_init__(self) -> None:
        """Raises ``TrainError`` naming the first option outside its bounds."""
        super().__post_init__()
        require_at_least(self, 1, "count", "teacher_steps", "rectify")


MAY_CHANGE = ("data", "robot", "teacher", "pairs", "out", "resume", "stop_at", "validate_every", "save_every", "store", "threads")
"""Options that a resumed run may give differently; all others decide what is learned."""


def check_same_run(before: dict[str, Any], now: LoopConfig) -> None:
    """Raise ``TrainError`` when ``now`` would not continue the run of configuration ``before``."""
    given = now.to_json()
    # A state of before an option existed was trained as its default says.
    before = {f.name: f.default for f in dataclasses.fields(now) if f.default is not dataclasses.MISSING} | before
    differ = [
        f"{_option(k)} was {before.get(k)}, now {given[k]}"
        for k in given
        if k not in MAY_CHANGE and _plain(before.get(k)) != _plain(given[k])
    ]
    if differ:
        raise TrainError(
            f"--resume cannot continue the run in {now.out}: {'; '.join(differ)}. Give the "
            "same options, or another --out."
        )


def _source(entry: Path) -> tuple[Path, float | None]:
    name, equals, weight = str(entry).rpartition("=")
    if not equals or entry.exists():
        return entry, None
    try:
        value = float(weight)
    except ValueError:
        return entry, None
    if not 0 < value < math.inf:
        raise TrainError(f"--data {entry} has the weight {weight}, expected a finite number above 0.")
    return Path(name), value


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
