"""The optimisation loop, whatever is learned: schedule, averaging, progress, resume, Ctrl-C.

What a step's loss is, how good the model is and how it is saved are a ``Lesson``'s: ``trainer`` has that of flow matching,
``distill`` that of reflow. Devices and several processes are accelerate's affair (``accelerate launch`` starts this
unchanged).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]

from flow_policy_ros.models.conditioning import Conditioning
from flow_policy_ros.policy.checkpoint import WEIGHTS
from flow_policy_ros.policy.flow_model import FlowModel
from flow_policy_ros.training.config import DivergedError, LoopConfig, TrainError
from flow_policy_ros.training.ema import Ema
from flow_policy_ros.training.progress import InterruptFlag, ProgressBar
from flow_policy_ros.training.state import Progress, has_state, load_state, save_state

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


@dataclass(frozen=True)
class Share:
    """Which part of every batch is this process's (every ``count``-th sample from ``rank`` on), and its ``device``."""

    rank: int
    count: int
    device: torch.device

    @property
    def part(self) -> slice:
        """The samples of a batch."""
        return slice(self.rank, None, self.count)


LossArguments = tuple[torch.Tensor, torch.Tensor, torch.Tensor, Conditioning, torch.Tensor]
"""Of ``FlowModel.pair_loss``: noise, chunks, times, observation, mask."""


class Lesson(Protocol):
    """What is learned. Randomness must be keyed by ``step`` and the share's rank: no generator lives across steps."""

    model: FlowModel

    def open(self, epoch: int, batch: int) -> None:
        """Go on with batch number ``batch`` of ``epoch``."""

    def position(self) -> tuple[int, int]:
        """(epoch, batch) of the next batch."""

    def loss_arguments(self, step: int, share: Share) -> LossArguments:
        """What the (wrapped) model is called with; the call returns the loss. Seeds torch for the call."""

    def validate(self, averaged: FlowModel) -> dict[str, float]:
        """Figures on held-out data; {} without any."""

    def save(self, averaged: FlowModel, steps: int, validation: dict[str, float]) -> None:
        """Write the checkpoint."""


def keyed(*key: int) -> int:
    """A 63-bit seed from a key of integers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


def learning_rate(config: LoopConfig, step: int) -> float:
    """Of optimiser step ``step`` (from 0): linear warm-up, then a cosine to zero at ``config.steps``."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def refuse_overwriting(config: LoopConfig) -> None:
    """Raise ``TrainError`` when the output holds a run that ``config`` does not continue."""
    if not config.resume and ((config.out / WEIGHTS).exists() or has_state(config.out / "training")):
        raise TrainError(f"{config.out} already holds a checkpoint. Use --resume to continue it, or another --out.")


class Loop:
    """One run of a lesson: the model, its average, the optimiser, and how far they are. Raises ``TrainError``."""

    def __init__(self, config: LoopConfig, lesson: Lesson) -> None:
        self.config, self.lesson = config, lesson
        self.accelerator = Accelerator()
        self.share = Share(
            self.accelerator.process_index, self.accelerator.num_processes, self.accelerator.device
        )
        self.model = lesson.model.to(self.accelerator.device)
        learned = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in learned if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in learned if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.99), fused=True)
        self.ema = Ema(self.model, config.ema_decay)
        self.step = 0
        progress = Progress()
        if config.resume and has_state(config.out / "training"):
            progress = load_state(config.out / "training", config, self.model, self.ema.model, optimizer)
        self.step = progress.step
        self.wrapped, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        self.raw_optimizer = optimizer
        lesson.open(progress.epoch, progress.batch)
        self.validation: dict[str, float] = {}
        self.samples = 0  # seen by all processes in this run

    def run(self, interrupted: Callable[[], bool] = lambda: False) -> TrainResult:
        """Train to the end, to ``stop_at``, or to an interruption: Ctrl-C, or ``interrupted()`` true after a step."""
        config, first, main = self.config, self.step, self.accelerator.is_main_process
        last = min(config.steps, config.stop_at or config.steps)
        writer = self._writer() if main else None
        bar = ProgressBar(last, first, shown=main)
        losses: list[torch.Tensor] = []
        begin, validating = time.perf_counter(), 0.0
        with InterruptFlag() as flag:
            while self.step < last and not (flag.raised or interrupted()):
                losses = [*losses[-LOG_EVERY + 1 :], self._step()]
                if self.step % LOG_EVERY == 0:
                    loss = float(torch.stack(losses).mean())
                    bar.update(self.step, f"loss {loss:.4f}")
                    if writer:
                        writer.add_scalar("loss/train", loss, self.step)
                        writer.add_scalar("lr", learning_rate(config, self.step), self.step)
                paused = time.perf_counter()
                if self.step % config.save_every == 0:
                    self._require_finite(losses)
                if self.step % config.validate_every == 0 and self.step < last:
                    self._validate(writer)
                if self.step % config.save_every == 0 and self.step < last:
                    self._save()
                validating += time.perf_counter() - paused
            seconds = time.perf_counter() - begin - validating
            self._require_finite(losses)
            self._validate(writer)
            self._save()
            finished = self.step >= last
        bar.update(self.step, "done")
        bar.close()
        if writer:
            writer.close()
        return TrainResult(
            steps=self.step,
            samples_per_s=self.samples / max(seconds, 1e-9),
            loss=float(torch.stack(losses).mean()) if losses else float("nan"),
            validation=self.validation,
            checkpoint=str(config.out),
            finished=finished,
        )

    def _step(self) -> torch.Tensor:
        """One optimiser step."""
        config, accelerator = self.config, self.accelerator
        arguments = self.lesson.loss_arguments(self.step, self.share)
        self.samples += len(arguments[0]) * self.share.count
        for group in self.raw_optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step)
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            loss = self.wrapped(*arguments)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(self.wrapped.parameters(), config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.ema.update(self.model, self.step)
        result: torch.Tensor = loss.detach()
        return result

    def _require_finite(self, losses: list[torch.Tensor]) -> None:
        """Raise ``DivergedError`` before anything that holds NaN is saved."""
        if losses and not torch.isfinite(torch.stack(losses)).all():
            raise DivergedError(
                f"the loss became NaN or Inf within the last {len(losses)} steps before step {self.step}; nothing was saved since "
                "the last checkpoint. Use a lower --lr (or a lower --weight-decay), or --precision fp32."
            )

    def _validate(self, writer: SummaryWriter | None) -> None:
        self.validation = self.lesson.validate(self.ema.model)
        if writer:
            for name, value in self.validation.items():
                writer.add_scalar(f"validation/{name}", value, self.step)

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        self.lesson.save(self.ema.model, self.step, self.validation)
        progress = Progress(self.step, *self.lesson.position())
        folder = self.config.out / "training"
        save_state(folder, self.config, progress, self.model, self.ema.model, self.raw_optimizer)

    def _writer(self) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        return SummaryWriter(str(self.config.out / "training" / "tensorboard"), purge_step=self.step)
