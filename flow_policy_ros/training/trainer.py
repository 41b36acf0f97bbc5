"""Flow matching (or another objective) on recordings: windows in, checkpoint folder with averaged weights out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from flow_policy_ros.data.windows import Batch
from flow_policy_ros.policy.checkpoint import Checkpoint, save_checkpoint
from flow_policy_ros.policy.flow_model import FlowModel
from flow_policy_ros.policy.objectives import objective_of
from flow_policy_ros.training.augment import augment
from flow_policy_ros.training.config import TrainConfig
from flow_policy_ros.training.data import TrainingData, load_training_data, samples_described
from flow_policy_ros.training.language import keep_encoder
from flow_policy_ros.training.loop import Loop, LossArguments, Share, TrainResult, keyed, refuse_overwriting
from flow_policy_ros.training.readme import checkpoint_readme
from flow_policy_ros.training.tuning import begin, merged
from flow_policy_ros.training.validation import validate


def train(config: TrainConfig, command: str = "", interrupted: Callable[[], bool] = lambda: False) -> TrainResult:
    """Train as ``config`` says; ``command`` is noted in the checkpoint's README.

    Ends early, with a usable checkpoint and state, on Ctrl-C or when ``interrupted()`` is true after a step.
    Raises ``TrainError``, ``EpisodeError`` or ``ValueError`` for bad input.
    """
    refuse_overwriting(config)
    torch.set_num_threads(config.threads)
    data = load_training_data(config)
    print(samples_described(data.summary), flush=True)
    if data.vlm is not None:
        print(data.vlm.described(config.vlm_tuning), flush=True)
    return Loop(config, FlowMatching(config, command, data)).run(interrupted)


class FlowMatching:
    """The ``Lesson`` of conditional flow matching, or another objective. All randomness is keyed by (seed, step, process)."""

    def __init__(self, config: TrainConfig, command: str, data: TrainingData) -> None:
        self.config, self.command, self.data = config, command, data
        torch.manual_seed(keyed(config.seed, 0))
        self.model = objective_of(config.objective)(
            config.network,
            config.network_sizes() | ({} if data.vlm is None else {"vlm": data.vlm.config}),
            data.codecs[0].shape,
            config.flow(),
            tuple(len(codec.contract.action_joints) for codec in data.codecs),
        )
        if data.vlm is not None:
            begin(self.model, data.vlm, config)

    def open(self, epoch: int, batch: int) -> None:
        """See ``Lesson``."""
        self._epoch, self._batch = epoch, batch
        self._batches = self.data.train.batches(self.config.seed, epoch, self.config.batch, batch)

    def position(self) -> tuple[int, int]:
        """See ``Lesson``."""
        return self._epoch, self._batch

    def loss_arguments(self, step: int, share: Share) -> LossArguments:
        """See ``Lesson``."""
        generator = np.random.default_rng([self.config.seed, step, share.rank, 4])
        parts = [
            (number, augment(batch, self.config, generator, self.data.contract(number))) for number, batch in self._next()
        ]
        batch = self.data.tensors(parts).take(share.part).to(share.device)
        torch.manual_seed(keyed(self.config.seed, step, share.rank, 5))
        return self.model.training_pairs(batch.actions, batch.observation, batch.mask)

    def validate(self, averaged: FlowModel) -> dict[str, float]:
        """See ``Lesson``."""
        return validate(averaged, self.data, self.config.seed)

    def save(self, averaged: FlowModel, steps: int, validation: dict[str, float]) -> None:
        """See ``Lesson``."""
        training = {
            "steps": steps,
            "data": self.data.summary,
            "validation": validation,
            "config": self.config.to_json(),
        }
        checkpoint = Checkpoint(merged(averaged), self.data.codecs, training)
        readme = checkpoint_readme(checkpoint, self.command)
        keep_encoder(self.config, self.config.out)
        save_checkpoint(self.config.out, checkpoint, readme, self.config.store == "fp16")

    def _next(self) -> tuple[tuple[int, Batch], ...]:
        parts = next(self._batches, None)
        if parts is None:
            self.open(self._epoch + 1, 0)
            parts = next(self._batches)
        self._batch += 1
        return parts
