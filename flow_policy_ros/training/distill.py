"""Reflow: a student learns the teacher's own pairs of noise and chunk until one solver step is enough.

Liu et al. 2023 (rectified flow; sections 2.2 and 3.2 for reflow and distillation), Liu et al. 2024 (InstaFlow). The pairs are
``pairs``', the parity gates ``gates``', the figures afterwards ``distill_report``'s.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flow_policy_ros.flow.time_samplers import make_time_sampler
from flow_policy_ros.models.conditioning import Conditioning
from flow_policy_ros.models.registry import VLM_NETWORKS
from flow_policy_ros.policy.checkpoint import WEIGHTS, Checkpoint, file_sha256, load_checkpoint, save_checkpoint
from flow_policy_ros.policy.flow_model import FlowModel
from flow_policy_ros.policy.instruction import SENTENCES
from flow_policy_ros.training.augment import augment
from flow_policy_ros.training.config import DistillConfig, LoopConfig, TrainConfig, TrainError, check_same_run
from flow_policy_ros.training.data import TrainingData, load_training_data
from flow_policy_ros.training.gates import Gate, check_pairs, check_times, require
from flow_policy_ros.training.language import keep_encoder
from flow_policy_ros.training.loop import Loop, LossArguments, Share, TrainResult, keyed, refuse_overwriting
from flow_policy_ros.training.pairs import (
    BLOCK,
    SHARD,
    PairInfo,
    Pairs,
    make_pairs,
    read_info,
    read_pairs,
    read_shard,
    sample_pairs,
)
from flow_policy_ros.training.paths import check_deployment, normaliser_sha256, raw_batch
from flow_policy_ros.training.progress import InterruptFlag, ProgressBar
from flow_policy_ros.training.readme import student_readme
from flow_policy_ros.training.state import STATE_INFO, has_state

DEPLOYED_STEPS = (1, 2, 4, 10)
"""Solver steps that a student is meant to be used with; its training times cover them."""
RECTIFIED = "rectified"
"""Sub-folder of the first stage's checkpoint."""
HELD_OUT = 2048
CHECKED_SHARDS = 16


@dataclass(frozen=True)
class Distilled:
    """Whose student; ``result`` of the last stage; ``gates`` passed; ``finished`` False when interrupted, or stopped, in any
    stage."""

    teacher: Teacher
    result: TrainResult | None
    gates: tuple[Gate, ...]
    finished: bool


@dataclass(frozen=True)
class Teacher:
    """A teacher with the data that it was trained on."""

    folder: Path
    checkpoint: Checkpoint
    config: TrainConfig
    data: TrainingData

    @staticmethod
    def load(folder: Path, data: tuple[Path, ...] = ()) -> Teacher:
        """Raises ``CheckpointError``, ``EpisodeError`` or ``TrainError``."""
        checkpoint = load_checkpoint(folder)
        training = checkpoint.training
        while "teacher" in training:  # itself a student: its observations are those of the first teacher
            training = training["teacher"]["training"]
        if checkpoint.model.objective != FlowModel.objective:
            raise TrainError(
                f"teacher {folder} is a {checkpoint.model.objective} policy, expected a flow: reflow straightens the paths of "
                "one, and there are none. Train it with --objective flow."
            )
        if checkpoint.model.network_name in VLM_NETWORKS:
            raise TrainError(
                f"teacher {folder} reads images by a vision-language model ({checkpoint.model.network_name}): pairs would hold "
                "every image anew, and are not made. Use it with fewer solver steps, or with a deadline (policy.deadline_s)."
            )
        if not training.get("config"):
            raise TrainError(f"teacher {folder} does not say how it was trained (training.config in config.json).")
        config = TrainConfig.from_json(training["config"])
        kept = folder / SENTENCES  # the teacher's sentence model, if it had one without a name
        config = replace(config, data=data or config.data, language=str(kept) if kept.is_dir() else config.language)
        return Teacher(folder, checkpoint, config, load_training_data(config, checkpoint.codecs))

    def observations(self, seed: int) -> Iterator[Conditioning]:
        """Batches of ``SHARD`` training observations, disturbed as in the teacher's training, without end."""
        number = 0
        for epoch in itertools.count():
            for parts in self.data.train.batches(seed, epoch, SHARD):
                generator = np.random.default_rng([seed, number, 8])
                disturbed = [(k, augment(batch, self.config, generator, self.data.contract(k))) for k, batch in parts]
                batch = self.data.tensors(disturbed).observation
                number += 1
                # A batch comes robot by robot, but any part of a shard must hold all of them. Where the episodes have fewer
                # samples than a shard, an epoch's only batch is filled up with itself.
                yield batch.take(torch.from_numpy(generator.permutation(len(batch)))[torch.arange(SHARD) % len(batch)])

    def pair_info(self, config: DistillConfig) -> PairInfo:
        """What pairs of this teacher say of themselves."""
        return PairInfo(
            weights_sha256=file_sha256(self.folder / WEIGHTS),
            normaliser_sha256=tuple(normaliser_sha256(codec) for codec in self.checkpoint.codecs),
            solver=self.checkpoint.model.flow.solver,
            steps=config.teacher_steps,
            seed=config.seed,
            count=config.count,
        )


def distill(
    config: DistillConfig, command: str = "", interrupted: Callable[[], bool] = lambda: False
) -> Distilled:
    """Make the pairs, pass the gates, train both stages, pass the gates again.

    Ends early on Ctrl-C, and in a stage that reaches ``stop_at`` before its end; ``--resume`` goes on there. Raises
    ``GateError`` when a parity gate fails, ``TrainError``, ``CheckpointError``, ``EpisodeError`` or ``ValueError`` for bad
    input.
    """
    stages = (
        ("uniform", replace(config, out=config.out / RECTIFIED, steps=config.rectify)),
        ("from_noise", config),
    )
    for _, stage in stages:
        refuse_overwriting(stage)
        refuse_other_options(stage)
    torch.set_num_threads(config.threads)
    teacher = Teacher.load(config.teacher, config.data)
    solver = teacher.checkpoint.model.solver
    gates = [gate for sampler, _ in stages for gate in check_times(make_time_sampler(sampler), solver, DEPLOYED_STEPS)]
    batch = raw_batch(teacher.data)
    gates += check_deployment(teacher.checkpoint.model, teacher.checkpoint.codecs, config.teacher, batch, "teacher")
    require(gates)

    info, folder = teacher.pair_info(config), config.pairs or config.out / "pairs"
    for _, stage in stages:
        refuse_other_teacher(stage, info)
    if not _make(teacher, folder, info, interrupted):
        return Distilled(teacher, None, tuple(gates), False)
    gates += check_stored(teacher, folder, info)
    require(gates)
    pairs = read_pairs(folder, info)

    student, source, result = teacher.checkpoint.model, config.teacher, None
    for sampler, stage in stages:
        lesson = Reflow(stage, sampler, student, teacher, pairs, command)
        if not (stage.resume and has_state(stage.out / "training")):
            # In the mode in which it trains, the student starts as the equal of what it starts from.
            gates += check_deployment(lesson.model, teacher.checkpoint.codecs, source, batch, f"{sampler} student before")
            require(gates)
        loop = Loop(stage, lesson)
        result = loop.run(interrupted)
        if result.steps < stage.steps:
            return Distilled(teacher, result, tuple(gates), False)
        averaged = as_stored(loop.ema.model, stage.store)
        gates += check_deployment(averaged, teacher.checkpoint.codecs, stage.out, batch, f"{sampler} student")
        require(gates)
        student, source = load_checkpoint(stage.out).model, stage.out
    return Distilled(teacher, result, tuple(gates), True)


def refuse_other_options(stage: LoopConfig) -> None:
    """Raise ``TrainError`` when ``stage`` resumes a run of other options: before its pairs are made, which it would change."""
    if not (stage.resume and has_state(stage.out / "training")):
        return
    try:
        before = json.loads((stage.out / "training" / STATE_INFO).read_text())["config"]
    except (ValueError, KeyError, TypeError):
        return  # damaged: the loop says so, with the remedy
    check_same_run(before, stage)


def refuse_other_teacher(stage: LoopConfig, info: PairInfo) -> None:
    """Raise ``TrainError`` when ``stage`` resumes a student of another teacher, with pairs of this one in another folder."""
    if not (stage.resume and has_state(stage.out / "training") and (stage.out / WEIGHTS).is_file()):
        return
    before = load_checkpoint(stage.out).training.get("teacher", {}).get("weights_sha256")
    if before != info.weights_sha256:
        raise TrainError(
            f"--resume cannot continue the run in {stage.out}: its teacher's weights were {str(before)[:12]}, those of --teacher "
            f"are {info.weights_sha256[:12]}. Give the same teacher, or another --out."
        )


class Reflow:
    """The ``Lesson`` of reflow: the teacher's pairs on the straight path, at times of ``sampler``."""

    def __init__(
        self, config: DistillConfig, sampler: str, start: FlowModel, teacher: Teacher, pairs: Pairs, command: str
    ) -> None:
        self.config, self.teacher, self.command = config, teacher, command
        held_out = min(HELD_OUT, len(pairs.noise) // 10)
        self._held_out, self._pairs = pairs.take(slice(held_out)), pairs.take(slice(held_out, None))
        self.model = student_of(start, sampler)

    def open(self, epoch: int, batch: int) -> None:
        """See ``Lesson``."""
        self._epoch, self._batch = epoch, batch
        self._order = torch.from_numpy(np.random.default_rng([self.config.seed, epoch, 9]).permutation(len(self._pairs.noise)))

    def position(self) -> tuple[int, int]:
        """See ``Lesson``."""
        return self._epoch, self._batch

    def loss_arguments(self, step: int, share: Share) -> LossArguments:
        """See ``Lesson``."""
        size = min(self.config.batch, len(self._order))
        if (self._batch + 1) * size > len(self._order):
            self.open(self._epoch + 1, 0)
        chosen = self._order[self._batch * size : (self._batch + 1) * size][share.part]
        self._batch += 1
        pairs, device = self._pairs.take(chosen), share.device
        generator = torch.Generator().manual_seed(keyed(self.config.seed, step, share.rank, 10))
        t = self.model.draw_times(len(chosen), generator).to(device)
        observation = pairs.observation.to(device)
        return pairs.noise.to(device), pairs.chunk.to(device), t, observation, everywhere(self.model, observation)

    @torch.inference_mode()
    def validate(self, averaged: FlowModel) -> dict[str, float]:
        """Root mean square distance from the teacher's chunk, normalised, per number of steps, on pairs held out."""
        if len(self._held_out.noise) == 0:
            return {}
        device = next(averaged.parameters()).device
        observation = self._held_out.observation.to(device)
        real = everywhere(averaged, observation)
        figures = {}
        for steps in DEPLOYED_STEPS:
            error = averaged.sample(observation, steps, self._held_out.noise.to(device)).x - self._held_out.chunk.to(device)
            figures[f"chunk_error_{steps}"] = float(error[real].square().mean().sqrt())
        return figures

    def save(self, averaged: FlowModel, steps: int, validation: dict[str, float]) -> None:
        """See ``Lesson``."""
        training: dict[str, Any] = {
            "steps": steps,
            "data": self.teacher.data.summary,
            "validation": validation,
            "config": self.config.to_json(),
            "teacher": {**dataclasses.asdict(self.teacher.pair_info(self.config)), "training": self.teacher.checkpoint.training},
        }
        checkpoint = Checkpoint(averaged, self.teacher.checkpoint.codecs, training)
        keep_encoder(self.teacher.config, self.config.out)
        save_checkpoint(self.config.out, checkpoint, student_readme(checkpoint, self.command), self.config.store == "fp16")


def student_of(teacher: FlowModel, sampler: str) -> FlowModel:
    """A model of the teacher's architecture and weights that draws its training times by ``sampler``."""
    flow = replace(teacher.flow, time_sampler=sampler, coupling="independent", condition_dropout=0.0, prefix=0)
    sizes = dataclasses.asdict(teacher.network_config)
    student = FlowModel(teacher.network_name, sizes, teacher.shape, flow, teacher.action_dims)
    student.network.load_state_dict(teacher.network.state_dict())
    return student


def everywhere(model: FlowModel, observation: Conditioning) -> torch.Tensor:
    """Mask (B, H, A): every step of the real dimensions."""
    steps = torch.ones(len(observation), model.shape.horizon, dtype=torch.bool, device=observation.state.device)
    return model.real_mask(steps, observation)


def as_stored(averaged: FlowModel, store: str) -> FlowModel:
    """A copy on the CPU, its weights rounded as the checkpoint rounds them."""
    model = copy.deepcopy(averaged).to("cpu")
    if store == "fp16":
        model.load_state_dict({name: weights.half().float() for name, weights in model.state_dict().items()})
    return model


def check_stored(teacher: Teacher, folder: Path, expected: PairInfo) -> list[Gate]:
    """The gates on the first pairs of ``CHECKED_SHARDS`` stored shards, evenly chosen, made again from their seeds."""
    stored, again = [], []
    for shard in range(0, expected.shards, -(-expected.shards // CHECKED_SHARDS)):
        pairs = read_shard(folder, shard)
        stored.append(pairs.take(slice(BLOCK)))
        again.append(sample_pairs(teacher.checkpoint.model, expected, pairs.observation, shard, slice(BLOCK)))
    return check_pairs(read_info(folder), expected, Pairs.cat(stored), Pairs.cat(again))


def _make(teacher: Teacher, folder: Path, info: PairInfo, interrupted: Callable[[], bool]) -> bool:
    bar = ProgressBar(info.shards, 0, unit="shards", title="pairs")
    with InterruptFlag() as flag:
        done = make_pairs(
            folder,
            info,
            teacher.checkpoint.model,
            teacher.observations(info.seed),
            lambda made, _: bar.update(made, f"of {SHARD} pairs"),
            lambda: flag.raised or interrupted(),
        )
    bar.close()
    return done
