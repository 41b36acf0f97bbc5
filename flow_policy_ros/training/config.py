"""Everything that a training run can be told, with units and defaults: the command line is made from this."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


class TrainError(ValueError):
    """Training that cannot start; one paragraph with the remedy."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a vector flow policy on recorded episodes and write a checkpoint folder."""

    data: Path
    """Folder of episodes (*.npz)."""
    out: Path
    """Checkpoint folder to write; training state and logs go into its sub-folder training/."""
    streams: tuple[str, ...] = ("detections",)
    """Feature streams of the episodes to observe beside the joint positions; none for joint positions alone."""
    tokens: tuple[str, ...] = ()
    """Tokens of the detections stream to observe, by class name (from extractor.json); all without it."""
    first: tuple[str, ...] = ()
    """Streams of which the policy observes the first features of an episode (what the camera saw before the robot moved)
    instead of the newest."""
    network: str = "residual_mlp"
    """Architecture: residual_mlp or dit."""
    sizes: tuple[str, ...] = ()
    """Sizes of the network where not its defaults, as name=number, e.g. width=512 blocks=3."""
    horizon: int = 16
    """Points per chunk."""
    chunk_dt: float = 0.02
    """Spacing of chunk points in s; a multiple of the episodes' tick."""
    action_space: Literal["absolute", "relative"] = "absolute"
    """Learn joint positions as they are, or relative to the measured position at the chunk's stamp."""
    normalisation: Literal["mean_std", "quantile"] = "mean_std"
    """How observations and actions are scaled."""
    time_sampler: str = "uniform"
    """Training times: uniform or beta (more weight near noise)."""
    solver: str = "euler"
    """Solver of the deployed policy: euler or midpoint."""
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
    delay_min: float = 0.0
    """Least delay in s from a feature's stamp to the tick that first sees it."""
    delay_max: float = 0.0
    """Greatest such delay in s; drawn evenly per sample. Use the measured delay of perception."""
    joint_noise: float = 0.0
    """Standard deviation in rad or m of noise added to observed joint positions."""
    feature_noise: float = 0.0
    """Standard deviation of noise added to features, in their own unit (fraction of the image for detections)."""
    feature_dropout: float = 0.0
    """Probability that a feature token is zeroed, as if it had not been detected."""
    validation: float = 0.05
    """Fraction of the episodes held out."""
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
        for name, least in (("horizon", 1), ("steps", 1), ("batch", 1), ("validate_every", 1), ("save_every", 1),
                            ("threads", 1), ("warmup", 0), ("weight_decay", 0), ("delay_min", 0), ("joint_noise", 0),
                            ("feature_noise", 0), ("seed", 0)):  # fmt: skip
            if getattr(self, name) < least:
                raise TrainError(f"{_option(name)} is {getattr(self, name)}, expected at least {least}.")
        for name, above in (("chunk_dt", 0), ("lr", 0), ("grad_clip", 0)):
            if not getattr(self, name) > above:
                raise TrainError(f"{_option(name)} is {getattr(self, name)}, expected more than {above}.")
        for name in ("ema_decay", "validation", "feature_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise TrainError(f"{_option(name)} is {getattr(self, name)}, expected at least 0 and less than 1.")
        if self.delay_max < self.delay_min:
            raise TrainError(f"--delay-max is {self.delay_max}, expected at least --delay-min ({self.delay_min}).")
        if self.stop_at is not None and self.stop_at < 1:
            raise TrainError(f"--stop-at is {self.stop_at}, expected at least 1.")
        self.network_sizes()

    def network_sizes(self) -> dict[str, str]:
        """``sizes`` taken apart. Raises ``TrainError`` for an entry without ``=``."""
        pairs = [entry.partition("=") for entry in self.sizes]
        wrong = [name for name, equals, _ in pairs if not equals]
        if wrong:
            raise TrainError(f"--sizes has {wrong}, expected name=number, e.g. width=512.")
        return {name: value for name, _, value in pairs}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}


MAY_CHANGE = ("data", "out", "resume", "stop_at", "validate_every", "save_every", "store", "threads")
"""Options that a resumed run may give differently; all others decide what is learned."""


def check_same_run(before: dict[str, Any], now: TrainConfig) -> None:
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


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
