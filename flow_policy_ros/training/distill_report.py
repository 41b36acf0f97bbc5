"""What a distillation achieved: how near the student's chunks are, how straight its flow, whether it keeps the modes.

Task success needs a simulator and is measured by the command line.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from flow_policy_ros.flow.reflow import straightness
from flow_policy_ros.models.conditioning import Conditioning
from flow_policy_ros.policy.deployed import empty_observation
from flow_policy_ros.policy.flow_model import FlowModel
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.training.distill import DEPLOYED_STEPS, Teacher, everywhere

OBSERVATIONS = 1024
MODE_OBSERVATIONS = 48
MODE_SAMPLES = 128
NEIGHBOUR = 5
REPEATS = 60


@torch.inference_mode()
def report(teacher: Teacher, student: FlowModel, teacher_steps: int) -> dict[str, Any]:
    """Figures on episodes that the teacher did not train on (on those it did where none were held out).

    ``chunk_error.{steps}``: root mean square distance in rad or m of the student's chunk from the teacher's, same noise.
    ``straightness``: of either flow, 0 is straight. ``coverage.{steps}``: see ``coverage``, with the teacher against itself
    as the figure to compare with.
    """
    mixture = teacher.data.held_out or teacher.data.train
    parts = next(mixture.batches(0, 0, OBSERVATIONS))
    observation = teacher.data.tensors(parts).observation
    master = teacher.checkpoint.model
    noise = master.draw_noise(observation, torch.Generator().manual_seed(0))
    expected = master.sample(observation, teacher_steps, noise).x
    scale = _scales(teacher, observation)
    real = everywhere(master, observation)
    # Spread over the batch, which comes robot by robot.
    some = torch.linspace(0, len(observation) - 1, min(MODE_OBSERVATIONS, len(observation))).long()
    errors = {}
    for steps in DEPLOYED_STEPS:
        error = (student.sample(observation, steps, noise).x - expected) * scale
        errors[str(steps)] = float(error[real].square().mean().sqrt())
    return {
        "observations": len(observation),
        "chunk_error": errors,
        "straightness": {
            name: float(straightness(_velocity(model, observation), noise, 20).median())
            for name, model in (("teacher", master), ("student", student))
        },
        "coverage": _coverages(master, student, observation.take(some), teacher_steps),
    }


def coverage(real: torch.Tensor, other: torch.Tensor, neighbour: int = NEIGHBOUR) -> float:
    """Share of the ``real`` samples (N, D) that have one of ``other`` (M, D) nearer than their own k-th neighbour.

    Coverage of Naeem et al. 2020, equation 8: 1 - 2^-k or more for two sets of one distribution and size, the share of the
    modes that are kept otherwise.
    """
    # Not by inner products, which lose the small distances of a narrow mode.
    exact = "donot_use_mm_for_euclid_dist"
    own = torch.cdist(real, real, compute_mode=exact)
    own.fill_diagonal_(float("inf"))
    radius = own.kthvalue(neighbour, dim=1).values
    return float((torch.cdist(real, other, compute_mode=exact).amin(dim=1) <= radius).float().mean())


def chunk_latency_ms(policies: Sequence[tuple[FlowPolicy, int]]) -> list[float]:
    """Median time of a whole chunk (observation to joint positions) of each (policy, steps), in turns so that all see the
    same load; ms."""
    taken: list[list[float]] = [[] for _ in policies]
    for k in range(REPEATS):
        for (policy, steps), times in zip(policies, taken, strict=True):
            observation = empty_observation(policy.contract)
            begin = time.perf_counter()
            policy.sample(observation, steps, k)
            times.append((time.perf_counter() - begin) * 1e3)
    return [statistics.median(times[REPEATS // 10 :]) for times in taken]


def _coverages(master: FlowModel, student: FlowModel, observation: Conditioning, teacher_steps: int) -> dict[str, float]:
    """Of the teacher's samples per observation, by the student and by the teacher itself with other noise; means."""
    found: dict[str, list[float]] = {}
    for k in range(len(observation)):
        same = observation.take(torch.full((MODE_SAMPLES,), k))
        noises = [master.draw_noise(same, torch.Generator().manual_seed(2 * k + i)) for i in range(2)]
        real = master.sample(same, teacher_steps, noises[0]).x.flatten(1)
        others = {"teacher": master.sample(same, teacher_steps, noises[1]).x}
        others |= {str(steps): student.sample(same, steps, noises[1]).x for steps in DEPLOYED_STEPS}
        for name, samples in others.items():
            found.setdefault(name, []).append(coverage(real, samples.flatten(1)))
    return {name: statistics.fmean(values) for name, values in found.items()}


def _velocity(model: FlowModel, observation: Conditioning) -> Any:
    cache = model.condition(observation)
    return lambda x, t: model.velocity(x, t, cache)


def _scales(teacher: Teacher, observation: Conditioning) -> torch.Tensor:
    """(B, 1, A): what one unit of a normalised action is in rad or m."""
    rows = torch.zeros(len(teacher.checkpoint.codecs), teacher.checkpoint.model.shape.action)
    for number, codec in enumerate(teacher.checkpoint.codecs):
        scale = torch.from_numpy(codec.action_normaliser.scale).float()
        rows[number, : len(scale)] = scale
    return rows[observation.embodiment][:, None, :]
