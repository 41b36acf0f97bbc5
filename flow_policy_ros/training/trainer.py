"""The training loop of the vector flow policy: windows in, checkpoint folder with averaged weights out.

Devices and several processes are accelerate's affair (``accelerate launch`` starts this unchanged).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]

from flow_policy_ros.data.windows import Batch
from flow_policy_ros.models.network import NetworkShape
from flow_policy_ros.policy.checkpoint import WEIGHTS, Checkpoint, save_checkpoint
from flow_policy_ros.policy.codec import observation_dim
from flow_policy_ros.policy.vector_flow import VectorFlowModel
from flow_policy_ros.training.augment import augment
from flow_policy_ros.training.config import TrainConfig, TrainError
from flow_policy_ros.training.data import TrainingData, load_training_data, tensors_of
from flow_policy_ros.training.ema import Ema
from flow_policy_ros.training.progress import InterruptFlag, ProgressBar
from flow_policy_ros.training.readme import checkpoint_readme
from flow_policy_ros.training.state import Progress, has_state, load_state, save_state
from flow_policy_ros.training.validation import validate

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG_EVERY = 50


@dataclass(frozen=True)
class TrainResult:
    """``steps`` done in all, ``samples_per_s`` of this run, mean ``loss`` of the last steps, ``validation`` figures.

    ``finished`` is False after Ctrl-C.
    """

    steps: int
    samples_per_s: float
    loss: float
    validation: dict[str, float]
    checkpoint: str
    finished: bool


def learning_rate(config: TrainConfig, step: int) -> float:
    """Of optimiser step ``step`` (from 0): linear warm-up, then a cosine to zero at ``config.steps``."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def train(config: TrainConfig, command: str = "", interrupted: Callable[[], bool] = lambda: False) -> TrainResult:
    """Train as ``config`` says; ``command`` is noted in the checkpoint's README.

    Ends early, with a usable checkpoint and state, on Ctrl-C or when ``interrupted()`` is true after a step.
    Raises ``TrainError``, ``EpisodeError`` or ``ValueError`` for bad input.
    """
    folder = config.out / "training"
    if not config.resume and ((config.out / WEIGHTS).exists() or has_state(folder)):
        raise TrainError(f"{config.out} already holds a checkpoint. Use --resume to continue it, or another --out.")
    torch.set_num_threads(config.threads)
    data = load_training_data(config)
    return _Run(config, command, data).run(interrupted)


def _keyed(*key: int) -> int:
    """A 63-bit seed from a key of integers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


class _Run:
    """One call of ``train``: the model, its average, the optimiser, and how far they are."""

    def __init__(self, config: TrainConfig, command: str, data: TrainingData) -> None:
        self.config, self.command, self.data = config, command, data
        self.accelerator = Accelerator()
        contract = data.codec.contract
        shape = NetworkShape(observation_dim(contract), contract.horizon, len(contract.action_joints))
        torch.manual_seed(_keyed(config.seed, 0))
        model = VectorFlowModel(config.network, config.network_sizes(), shape, config.time_sampler, config.solver)
        groups = [
            {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.99), fused=True)
        self.model = model.to(self.accelerator.device)
        self.ema = Ema(self.model, config.ema_decay)
        self.progress = Progress()
        if config.resume and has_state(config.out / "training"):
            self.progress = load_state(config.out / "training", config, self.model, self.ema.model, optimizer)
        self.wrapped, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        self.raw_optimizer = optimizer
        self._open(self.progress.epoch, self.progress.batch)
        self.validation: dict[str, float] = {}

    def run(self, interrupted: Callable[[], bool]) -> TrainResult:
        config, first, main = self.config, self.progress.step, self.accelerator.is_main_process
        last = min(config.steps, config.stop_at or config.steps)
        writer = self._writer() if main else None
        bar = ProgressBar(last, first, shown=main)
        losses: list[torch.Tensor] = []
        begin, validating = time.perf_counter(), 0.0
        with InterruptFlag() as flag:
            while self.progress.step < last and not (flag.raised or interrupted()):
                losses = [*losses[-LOG_EVERY + 1 :], self._step()]
                step = self.progress.step
                if step % LOG_EVERY == 0:
                    loss = float(torch.stack(losses).mean())
                    bar.update(step, f"loss {loss:.4f}")
                    if writer:
                        writer.add_scalar("loss/train", loss, step)
                        writer.add_scalar("lr", learning_rate(config, step), step)
                paused = time.perf_counter()
                if step % config.validate_every == 0 and step < last:
                    self._validate(writer)
                if step % config.save_every == 0 and step < last:
                    self._save()
                validating += time.perf_counter() - paused
            seconds = time.perf_counter() - begin - validating
            self._validate(writer)
            self._save()
            finished = self.progress.step >= last
        bar.update(self.progress.step, "done")
        bar.close()
        if writer:
            writer.close()
        return TrainResult(
            steps=self.progress.step,
            samples_per_s=(self.progress.step - first) * config.batch / max(seconds, 1e-9),
            loss=float(torch.stack(losses).mean()) if losses else float("nan"),
            validation=self.validation,
            checkpoint=str(config.out),
            finished=finished,
        )

    def _step(self) -> torch.Tensor:
        """One optimiser step. All its randomness is keyed by (seed, step, process)."""
        config, accelerator, step = self.config, self.accelerator, self.progress.step
        rank = accelerator.process_index
        batch = augment(self._next_batch(), config, np.random.default_rng([config.seed, step, rank, 4]))
        part = slice(rank, None, accelerator.num_processes)
        actions, observation, mask = (
            tensor[part].to(accelerator.device) for tensor in tensors_of(self.data.codec, batch)
        )
        torch.manual_seed(_keyed(config.seed, step, rank, 5))
        for group in self.raw_optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            loss = self.wrapped(actions, observation, mask)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(self.wrapped.parameters(), config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.progress = replace(self.progress, step=step + 1)
        self.ema.update(self.model, self.progress.step)
        result: torch.Tensor = loss.detach()
        return result

    def _next_batch(self) -> Batch:
        batch = next(self.batches, None)
        if batch is None:
            self._open(self.progress.epoch + 1, 0)
            batch = next(self.batches)
        self.progress = replace(self.progress, batch=self.progress.batch + 1)
        return batch

    def _open(self, epoch: int, start: int) -> None:
        self.progress = replace(self.progress, epoch=epoch, batch=start)
        self.batches = self.data.train.batches(self.config.seed, epoch, self.config.batch, start)

    def _validate(self, writer: SummaryWriter | None) -> None:
        self.validation = validate(self.ema.model, self.data, self.config.seed)
        if writer:
            for name, value in self.validation.items():
                writer.add_scalar(f"validation/{name}", value, self.progress.step)

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        config, training = self.config, {
            "steps": self.progress.step,
            "data": self.data.summary,
            "validation": self.validation,
            "config": self.config.to_json(),
        }  # fmt: skip
        checkpoint = Checkpoint(self.ema.model, self.data.codec, training)
        save_checkpoint(config.out, checkpoint, checkpoint_readme(checkpoint, self.command), config.store == "fp16")
        save_state(config.out / "training", config, self.progress, self.model, self.ema.model, self.raw_optimizer)

    def _writer(self) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        return SummaryWriter(str(self.config.out / "training" / "tensorboard"), purge_step=self.progress.step)
