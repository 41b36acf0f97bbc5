"""Parity gates: what has to be equal between the path that trains and the path that is deployed, each by its name.

A distilled student can look trained and move at random on the robot because the two paths differ in something that no loss
shows. A ``Path`` is one of the two as plain functions; ``check_paths`` compares two of them on the same raw batch, and
``check_pairs`` compares stored pairs with the teacher that is said to have made them. Making pairs and training are elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from flow_policy_ros.flow.solvers import Solver
from flow_policy_ros.flow.time_samplers import TimeSampler
from flow_policy_ros.models.conditioning import Conditioning
from flow_policy_ros.models.prefix import TokenBatch
from flow_policy_ros.training.pairs import DIRECTION, PairInfo, Pairs

TOLERANCE = 1e-4
"""Greatest difference of normalised velocities and chunks between paths that should be equal: float32 with other kernels."""


class GateError(ValueError):
    """A parity gate that failed; the message names every one that did."""


@dataclass(frozen=True)
class Gate:
    """``name`` of what was compared, whether it ``passed``, and in words what was found."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True)
class Batch:
    """Raw inputs of one robot: ``joint_position`` (B, J), ``features`` (B, tokens, channels) per stream, ``actions`` (B, H, a)
    in rad or m; ``history`` (B, n, J), the joint positions before, where the contract has one."""

    joint_position: torch.Tensor
    features: dict[str, torch.Tensor]
    actions: torch.Tensor
    history: torch.Tensor | None = None

    def observed(self) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor | None]:
        """What a path's ``observation`` takes."""
        return self.joint_position, self.features, self.history


@dataclass(frozen=True)
class Path:
    """One way through the policy, from raw inputs to velocities.

    ``module``: the network as this path runs it. ``observation(joint_position, features, history)``; ``encode(actions,
    joint_position)`` and ``decode`` between rad or m and network actions; ``noise(observation)`` as this path draws it;
    ``velocity(x, t, observation)``; ``real`` (A,) bool, the dimensions that are not padding; ``normaliser_sha256``.
    """

    name: str
    module: nn.Module
    observation: Callable[[torch.Tensor, dict[str, torch.Tensor], torch.Tensor | None], Conditioning]
    encode: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    decode: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    noise: Callable[[Conditioning], torch.Tensor]
    velocity: Callable[[torch.Tensor, torch.Tensor, Conditioning], torch.Tensor]
    real: torch.Tensor
    normaliser_sha256: str


def require(gates: Sequence[Gate]) -> None:
    """Raise ``GateError`` listing the gates that failed and what was found."""
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        found = "; ".join(f"'{gate.name}': {gate.found}" for gate in failed)
        raise GateError(f"{len(failed)} of {len(gates)} parity gates failed, nothing was trained or written after them: {found}.")


def check_paths(training: Path, deployed: Path, batch: Batch) -> list[Gate]:
    """Every gate between a training and a deployed path, on the same raw ``batch``."""
    return [
        _mode(training),
        replace(_mode(deployed), name="mode_deployed"),
        *_noise(training, deployed, batch),
        _normaliser(training, deployed),
        _observation(training, deployed, batch),
        _action_transform(training, deployed, batch),
        _velocity(training, deployed, batch),
    ]


def check_times(sampler: TimeSampler, solver: Solver, steps: Sequence[int], draws: int = 20_000) -> list[Gate]:
    """Whether training draws the times at which the deployed solver asks, for every number of ``steps`` to be deployed.

    A grid time must lie in the sampler's support, and at least a tenth of what uniform sampling puts around it must fall
    within a quarter of a step.
    """
    drawn = sampler.sample(draws, torch.Generator().manual_seed(0))
    low, high = sampler.support
    rare = []
    for count in steps:
        for t in solver.times(count):
            near = 0.25 / count
            width = min(1.0, t + near) - max(0.0, t - near)
            share = ((drawn - t).abs() <= near).float().mean().item()
            if not low <= t <= high or share < 0.1 * width:
                rare.append(f"t = {t:.3g} of {count} steps ({share:.2%} of the draws near it)")
    found = f"training draws times from {low:.3g} to {high:.3g} and hardly ever {', '.join(rare[:4])}"
    return [Gate("time_grid", not rare, found if rare else "every time that the solver asks for is trained")]


def check_pairs(info: PairInfo, expected: PairInfo, pairs: Pairs, again: Pairs) -> list[Gate]:
    """Stored ``pairs`` against those made ``again`` from the same seed, and what ``info`` says against ``expected``."""
    same_noise, same_chunk = _same(pairs.noise, again.noise), _same(pairs.chunk, again.chunk)
    swapped = not same_noise and _same(pairs.chunk, again.noise)
    ours, theirs = pairs.chunk - pairs.noise, again.chunk - again.noise
    along = float((ours * theirs).sum() / (ours.norm() * theirs.norm()).clamp(min=1e-9))
    made = (info.steps, info.solver), (expected.steps, expected.solver)
    other = _distance(pairs.noise, again.noise), _distance(pairs.chunk, again.chunk)
    return [
        Gate(
            "teacher",
            info.weights_sha256 == expected.weights_sha256,
            f"pairs of weights {info.weights_sha256[:12]}, the teacher has {expected.weights_sha256[:12]}",
        ),
        Gate(
            "normaliser_pairs",
            info.normaliser_sha256 == expected.normaliser_sha256,
            f"pairs with statistics {info.normaliser_sha256}, the teacher has {expected.normaliser_sha256}",
        ),
        Gate("step_count", made[0] == made[1], f"pairs by {made[0]}, the teacher is deployed with {made[1]}"),
        Gate(
            "direction",
            info.direction == DIRECTION and (along > 0 or swapped),
            f"pairs run '{info.direction}', expected '{DIRECTION}'; cosine with the teacher's own {along:.2f}",
        ),
        Gate("swapped_pairs", not swapped, "noise and chunk have changed places" if swapped else "noise is noise"),
        Gate("pair_noise", same_noise or swapped, f"stored noise is not the seed's, up to {other[0]:.2g} away"),
        Gate("regenerate", same_chunk or swapped, f"the teacher makes other chunks of the same noise, up to {other[1]:.2g} away"),
    ]


def _mode(path: Path) -> Gate:
    """Dropout that drops and batch statistics that move make a velocity depend on who asks."""
    noisy = [
        f"{name} ({type(module).__name__})"
        for name, module in path.module.named_modules()
        if module.training
        and (
            (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0)
            or isinstance(module, nn.modules.batchnorm._BatchNorm)
        )
    ]
    found = f"the {path.name} path runs {', '.join(noisy)} in train mode" if noisy else f"{path.name} path deterministic"
    return Gate("mode", not noisy, found)


def _noise(training: Path, deployed: Path, batch: Batch) -> list[Gate]:
    drawn = {path.name: path.noise(path.observation(*batch.observed())) for path in (training, deployed)}
    real = training.real
    dtypes, coarse, padded, moments = [], [], [], []
    for name, noise in drawn.items():
        if noise.dtype != torch.float32:
            dtypes.append(f"{name} draws {noise.dtype}")
        elif (noise == noise.bfloat16().float()).all() or (noise == noise.half().float()).all():
            coarse.append(f"{name} draws values of half precision")
        if not (noise[..., ~real] == 0).all():
            padded.append(f"{name} puts noise of deviation {noise[..., ~real].std():.2g} on padded dimensions, expected 0")
        values = noise[..., real].float()
        # Asked this way round, NaN is no standard normal either.
        if not (abs(values.mean()) <= 6 / values.numel() ** 0.5 and abs(values.std() - 1) <= 6 / (2 * values.numel()) ** 0.5):
            moments.append(f"{name} has mean {values.mean():.2g} and deviation {values.std():.3g}, expected 0 and 1")
        elif values.mean(dim=0).abs().max() > 6 / len(values) ** 0.5:
            moments.append(f"{name} draws much the same for every sample, expected other noise for each")
    return [
        Gate("noise_dtype", not (dtypes or coarse), ", ".join(dtypes + coarse) or "float32 on both paths"),
        Gate("noise_padding", not padded, ", ".join(padded) or "zero on padded dimensions of both paths"),
        Gate("noise_distribution", not moments, ", ".join(moments) or "standard normal on both paths"),
    ]


def _normaliser(training: Path, deployed: Path) -> Gate:
    ours, theirs = training.normaliser_sha256, deployed.normaliser_sha256
    return Gate("normaliser", ours == theirs, f"{training.name} {ours[:12]}, {deployed.name} {theirs[:12]}")


def _observation(training: Path, deployed: Path, batch: Batch) -> Gate:
    ours, theirs = (_tensors(path.observation(*batch.observed())) for path in (training, deployed))
    far = {name: _distance(values, theirs[name]) if name in theirs else math.inf for name, values in ours.items()}
    far |= {name: math.inf for name in theirs if name not in ours}
    worst = max(far, key=lambda name: far[name])
    return Gate("observation_transform", far[worst] <= TOLERANCE, f"{worst} differs by {far[worst]:.2g} between the paths")


def _tensors(observation: Conditioning) -> dict[str, torch.Tensor]:
    """All that an observation holds, float; what a vision-language model saw included, of tokens that may be seen."""
    found = {name: value for name, value in vars(observation).items() if name != "prefix"}
    seen = observation.prefix
    if seen is not None:
        parts = {name: getattr(seen, name) for name in seen.names()}
        for name, axis in seen.along.items() if isinstance(seen, TokenBatch) else ():
            shape = [1] * parts[name].ndim
            shape[0], shape[axis] = seen.mask.shape
            parts[name] = torch.where(seen.mask.view(shape), parts[name], 0)  # others hold anything
        found |= {f"prefix.{name}": value for name, value in parts.items()}
    return {name: value.float() for name, value in found.items()}


def _action_transform(training: Path, deployed: Path, batch: Batch) -> Gate:
    """Encoded by one path and decoded by the other, actions are what they were."""
    back = deployed.decode(training.encode(batch.actions, batch.joint_position), batch.joint_position)
    far = _distance(back.float(), batch.actions.float())
    found = f"encoded for training and decoded as deployed, actions move by {far:.2g} rad or m"
    return Gate("action_transform", far <= TOLERANCE, found)


def _velocity(training: Path, deployed: Path, batch: Batch) -> Gate:
    """The main gate: the same noise and the same observation give the same velocity on both paths."""
    worst = 0.0
    with torch.no_grad():
        observations = [path.observation(*batch.observed()) for path in (training, deployed)]
        noise = training.noise(observations[0]).float() * training.real
        for t in (0.0, 0.5, 0.9):
            times = torch.full((len(noise),), t)
            ours, theirs = (
                path.velocity(noise, times, seen) for path, seen in zip((training, deployed), observations, strict=True)
            )
            worst = max(worst, _distance(ours, theirs))
    return Gate("velocity", worst <= TOLERANCE, f"velocities differ by {worst:.2g}, tolerance {TOLERANCE:g}")


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Greatest difference; infinite for other shapes and for NaN, which no comparison would notice."""
    if a.shape != b.shape:
        return math.inf
    far = float((a - b).abs().max()) if a.numel() else 0.0
    return math.inf if math.isnan(far) else far


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return _distance(a, b) <= TOLERANCE
