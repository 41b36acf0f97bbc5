"""LeRobot's own DiffusionPolicy for the Adroit table: trains it, and serves its chunks to ``flow_policy bench adroit``.

``flow_policy bench adroit --rows lerobot_10 --lerobot lerobot_env/bin/python`` runs this file in an environment with lerobot 0.4.4
(``lerobot_sampling.py`` says how it is made), first ``train``, then ``serve``. LeRobot's are the class, the loss, normalisation,
optimiser, learning rates, gradient clipping, batch size and the choice of samples (its ``drop_n_last_frames``); the samples
themselves and the simulation are not. Its network is the 17 M one of ``lerobot_sampling.py``, on one core in float32.

Answers are lines of JSON on standard output, and nothing else is; whatever LeRobot prints goes to standard error. ``train`` answers
with a line for every optimiser step and a last one with how it went. ``serve`` says first what it expects, then answers each
line of standard input, and ends with it.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

ANSWERS = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes; the other one ends this one

import numpy as np  # noqa: E402
import torch  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from flow_policy_ros.vision.torchvision_ops import ensure_torchvision  # noqa: E402

ensure_torchvision()
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature  # noqa: E402
from lerobot.optim.optimizers import load_optimizer_state, save_optimizer_state  # noqa: E402
from lerobot.optim.schedulers import load_scheduler_state, save_scheduler_state  # noqa: E402
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig  # noqa: E402
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy  # noqa: E402
from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors  # noqa: E402

STATE, ENVIRONMENT, ACTION, PADDED = "observation.state", "observation.environment_state", "action", "action_is_pad"
DDIM_STEPS = 10
TIMED = 20
"""Optimiser steps, after one that does not count, by which the others are reckoned."""
LATEST = 50
"""The loss that is told is the mean over so many last steps."""
SAVE_EVERY = 250
POLICY, PROGRESS = "policy", "progress.json"


def say(**answer: Any) -> None:
    """One line of JSON."""
    ANSWERS.write(json.dumps(answer) + "\n")
    ANSWERS.flush()


def configured(samples: dict[str, torch.Tensor], down_dims: tuple[int, ...]) -> DiffusionConfig:
    """LeRobot's defaults, but for the network's size, DDIM, and the object state: LeRobot leaves one as it is, here it is scaled
    as joint positions are."""
    observations, horizon = samples[STATE].shape[1], samples[ACTION].shape[1]
    return DiffusionConfig(
        input_features={
            STATE: PolicyFeature(FeatureType.STATE, (samples[STATE].shape[2],)),
            ENVIRONMENT: PolicyFeature(FeatureType.ENV, (samples[ENVIRONMENT].shape[2],)),
        },
        output_features={ACTION: PolicyFeature(FeatureType.ACTION, (samples[ACTION].shape[2],))},
        normalization_mapping={name: NormalizationMode.MIN_MAX for name in ("STATE", "ENV", "ACTION")},
        n_obs_steps=observations,
        horizon=horizon,
        n_action_steps=horizon - observations + 1,  # all that it predicts from now on
        down_dims=down_dims,
        noise_scheduler_type="DDIM",
        num_inference_steps=DDIM_STEPS,
        device="cpu",
    )


def statistics(samples: dict[str, torch.Tensor]) -> dict[str, dict[str, list[float]]]:
    """What LeRobot's normalisation asks for."""
    return {
        name: {"min": samples[name].amin(dim=(0, 1)).tolist(), "max": samples[name].amax(dim=(0, 1)).tolist()}
        for name in (STATE, ENVIRONMENT, ACTION)
    }


def processors(config: DiffusionConfig, found: dict[str, dict[str, list[float]]]) -> tuple[Any, Any]:
    """LeRobot's, before and after the policy."""
    return make_diffusion_pre_post_processors(
        config, {name: {kind: torch.tensor(values) for kind, values in kinds.items()} for name, kinds in found.items()}
    )


class Training:
    """A policy, its optimiser and how far they are. All randomness is keyed by (seed, step), so that a training that was ended
    goes on as if it had not been."""

    def __init__(self, samples: dict[str, torch.Tensor], arguments: argparse.Namespace) -> None:
        self.config = configured(samples, tuple(arguments.down_dims))
        self.statistics = statistics(samples)
        self.before, _ = processors(self.config, self.statistics)
        # As LeRobot's sampler leaves out an episode's last frames.
        kept = ~samples[PADDED][:, self.config.n_obs_steps - 1 + self.config.drop_n_last_frames]
        self.samples = {name: values[kept] for name, values in samples.items()}
        self.count = int(kept.sum())
        self.batch, self.seed, self.noise = min(arguments.batch, self.count), arguments.seed, arguments.joint_noise
        torch.manual_seed(self.seed)
        self.policy = DiffusionPolicy(self.config).train()
        self.step, self.spent_s, self.losses = 0, 0.0, []
        self.steps = self._reckoned(60 * arguments.minutes)
        self._optimise(self.policy)

    def _optimise(self, policy: DiffusionPolicy) -> None:
        preset = self.config.get_optimizer_preset()
        self.optimiser, self.clip = preset.build(policy.get_optim_params()), preset.grad_clip_norm
        self.schedule = self.config.get_scheduler_preset().build(self.optimiser, self.steps)

    def _reckoned(self, budget_s: float) -> int:
        """How many steps the budget pays for: the schedule of learning rates has to know."""
        self.steps = TIMED + 1
        trial = copy.deepcopy(self.policy)
        self._optimise(trial)
        begin = first = time.process_time()
        for step in range(self.steps):
            self._learn(trial, step)
            if step == 0:
                first = time.process_time()
        end = time.process_time()
        self.spent_s = end - begin
        return max(1, round((budget_s - self.spent_s) / ((end - first) / TIMED)))

    def advance(self) -> float:
        """One optimiser step; its loss."""
        begin = time.process_time()
        loss = self._learn(self.policy, self.step)
        self.losses = [*self.losses[-LATEST + 1 :], loss]
        self.step += 1
        self.spent_s += time.process_time() - begin
        return loss

    def _learn(self, policy: DiffusionPolicy, step: int) -> float:
        """As ``lerobot-train`` does it."""
        torch.manual_seed(int(np.random.SeedSequence([self.seed, step]).generate_state(1, np.uint64)[0] >> 1))
        loss, _ = policy.forward(self.before(self._drawn(step)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), self.clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.schedule.step()
        return float(loss)

    def _drawn(self, step: int) -> dict[str, torch.Tensor]:
        """A batch: every sample once in an epoch, with the noise on joint positions that all learners of the task have."""
        epoch, place = divmod(step, self.count // self.batch)
        order = np.random.default_rng([self.seed, epoch, 1]).permutation(self.count)
        rows = torch.from_numpy(order[place * self.batch : (place + 1) * self.batch])
        drawn = {name: values[rows] for name, values in self.samples.items()}
        if self.noise > 0:
            drawn[STATE] = drawn[STATE] + self.noise * torch.randn(drawn[STATE].shape)
        return drawn

    def save(self, folder: Path, finished: bool) -> None:
        """Whole or not at all."""
        partial = folder / f"{POLICY}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        self.policy.save_pretrained(partial)
        if not finished:
            save_optimizer_state(self.optimiser, partial)
            save_scheduler_state(self.schedule, partial)
        (partial / PROGRESS).write_text(json.dumps({
            "step": self.step, "steps": self.steps, "spent_s": self.spent_s, "losses": self.losses, "statistics": self.statistics,
        }))  # fmt: skip
        old = folder / f"{POLICY}.old"
        shutil.rmtree(old, ignore_errors=True)
        if (folder / POLICY).exists():
            (folder / POLICY).rename(old)
        partial.rename(folder / POLICY)
        shutil.rmtree(old, ignore_errors=True)

    def resume(self, folder: Path) -> None:
        """Go on from what was saved there, if anything was."""
        kept = folder / POLICY
        if not (kept / PROGRESS).is_file():
            return
        known = json.loads((kept / PROGRESS).read_text())
        self.step, self.steps, self.spent_s, self.losses = (known[name] for name in ("step", "steps", "spent_s", "losses"))
        self.policy = DiffusionPolicy.from_pretrained(kept, config=self.config).train()
        self._optimise(self.policy)
        if self.step < self.steps:
            self.optimiser = load_optimizer_state(self.optimiser, kept)
            self.schedule = load_scheduler_state(self.schedule, kept)


def train(arguments: argparse.Namespace) -> None:
    """``state`` (M, n, J), ``environment`` (M, n, E) and ``action`` (M, H, A) of the samples, ``padded`` (M, H) where an action
    repeats the last one; observations and actions begin at the same instant and are equally spaced."""
    with np.load(arguments.samples, allow_pickle=False) as archive:
        samples = {name: torch.from_numpy(archive[key]) for name, key in (
            (STATE, "state"), (ENVIRONMENT, "environment"), (ACTION, "action"), (PADDED, "padded"),
        )}  # fmt: skip
    training = Training(samples, arguments)
    training.resume(arguments.out)
    while training.step < training.steps:
        loss = training.advance()
        if training.step % SAVE_EVERY == 0 and training.step < training.steps:
            training.save(arguments.out, finished=False)
        say(step=training.step, steps=training.steps, loss=loss)
    training.save(arguments.out, finished=True)
    say(finished={
        "steps": training.steps, "batch": training.batch, "samples": training.count, "core_minutes": training.spent_s / 60,
        "loss": float(np.mean(training.losses)), "parameters": sum(p.numel() for p in training.policy.parameters()),
    })  # fmt: skip


def serve(arguments: argparse.Namespace) -> None:
    """Observations ``state`` (n, J) and ``environment`` (n, E), ``noise`` (H, A) in; ``chunk`` (H - n + 1, A) from now on out."""
    folder = arguments.out / POLICY
    policy = DiffusionPolicy.from_pretrained(folder).eval()
    config = policy.config
    before, after = processors(config, json.loads((folder / PROGRESS).read_text())["statistics"])
    say(
        observations=config.n_obs_steps, joints=config.input_features[STATE].shape[0], horizon=config.horizon,
        environment=config.input_features[ENVIRONMENT].shape[0], steps=policy.diffusion.num_inference_steps,
    )  # fmt: skip
    for line in sys.stdin:
        given = {name: torch.tensor(values, dtype=torch.float32)[None] for name, values in json.loads(line).items()}
        with torch.inference_mode():
            observed = before({STATE: given["state"], ENVIRONMENT: given["environment"]})
            observed = {name: observed[name] for name in (STATE, ENVIRONMENT)}
            chunk = after(policy.diffusion.generate_actions(observed, noise=given["noise"]))
        say(chunk=chunk[0].tolist())


def main() -> None:
    """Train, or serve what was trained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=("train", "serve"))
    parser.add_argument("--out", type=Path, required=True, help="where the policy is kept")
    parser.add_argument("--samples", type=Path, help="train: .npz of what is learned")
    parser.add_argument("--minutes", type=float, default=10.0, help="train: time of one core")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--joint-noise", type=float, default=0.0, help="train: on observed joint positions, rad or m")
    parser.add_argument("--down-dims", type=int, nargs="+", default=[128, 256, 512])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    (train if arguments.work == "train" else serve)(arguments)


if __name__ == "__main__":
    main()
