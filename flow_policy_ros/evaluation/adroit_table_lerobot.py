"""LeRobot's DiffusionPolicy as the policy loop sees it, and the samples that it learns from: those that our policies have.

It observes the last few instants, one chunk point apart, and predicts from the first of them on; samples and observations are put
together of what ``data.windows`` and the loop's inputs give for single instants. The process in which LeRobot runs is
``adroit_table_pipe``'s, what it does there benchmarks/lerobot_table.py's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.episodes import Episode, EpisodeError
from flow_policy_ros.data.windows import Windows
from flow_policy_ros.evaluation.adroit_table_pipe import Child
from flow_policy_ros.evaluation.closed_loop import Stack
from flow_policy_ros.evaluation.latency import load_profile
from flow_policy_ros.evaluation.setup import PRIVILEGED
from flow_policy_ros.policy.flow_policy import keyed_noise
from flow_policy_ros.runtime.buffers import StampedBuffer
from flow_policy_ros.runtime.contract import Contract, StreamContract
from flow_policy_ros.runtime.parameters import CommandParameters, PolicyParameters, from_flat
from flow_policy_ros.runtime.policy_loop import PolicyLoop
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import FeatureArray, Features, FloatArray, Observation
from flow_policy_ros.safety.clearance import clearance_of
from flow_policy_ros.safety.command_loop import CommandLoop


def contract_of(episode: Episode, streams: Sequence[str], dt_ns: int, horizon: int, observations: int) -> Contract:
    """What is observed and commanded of the ``horizon`` points that are predicted: those from now on, spaced ``dt_ns``."""
    shapes = {name: episode.streams[name][1].shape[1:] for name in streams}
    return Contract(
        robot=episode.robot,
        joints=episode.joints,
        action_joints=episode.joints,
        dt_ns=dt_ns,
        horizon=horizon - observations + 1,
        streams=tuple(StreamContract(name, tokens, channels, {}) for name, (tokens, channels) in shapes.items()),
        history_ns=tuple(-k * dt_ns for k in range(observations - 1, 0, -1)),
    )


def samples_of(episodes: Sequence[Episode], contract: Contract) -> dict[str, NDArray[np.generic]]:
    """A sample for every control tick: ``state`` (M, n, J), ``environment`` (M, n, E) of all streams and ``action`` (M, H, A),
    float32, and ``padded`` (M, H) where an action is from before the episode or after it.

    Observations and actions begin at the same instant; before an episode's beginning its first stands for them.
    Raises ``EpisodeError`` for episodes in which not every tick can be learned from.
    """
    parts = [_samples(episode, contract) for episode in episodes]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _samples(episode: Episode, contract: Contract) -> dict[str, NDArray[np.generic]]:
    windows = Windows([episode], [s.name for s in contract.streams], contract.horizon, contract.dt_ns, joints=contract.joints)
    found = windows.samples(0, 0)
    ticks = np.arange(len(episode.stamps))
    if not np.array_equal(found.ticks, ticks):
        raise EpisodeError(
            f"episode {episode.seed} has {len(ticks)} control ticks, of which {len(found.ticks)} can be learned from; expected "
            "all, as in a recording of the simulator. Record it again."
        )
    batch = windows.gather(found)
    before = [ticks + offset // episode.dt_ns for offset in contract.history_ns]
    past = [np.maximum(rows, 0) for rows in before]
    observed = np.concatenate([values.reshape(len(ticks), -1) for values in batch.features.values()], axis=1)
    return {
        "state": np.stack([batch.joint_position[rows] for rows in (*past, ticks)], axis=1).astype(np.float32),
        "environment": np.stack([observed[rows] for rows in (*past, ticks)], axis=1).astype(np.float32),
        "action": np.concatenate([*(batch.actions[rows, :1] for rows in past), batch.actions], axis=1).astype(np.float32),
        "padded": np.concatenate([*(rows[:, None] < 0 for rows in before), ~batch.mask], axis=1),
    }


class LeRobotPolicy:
    """Implements ``runtime.policy_loop.ChunkPolicy`` by asking ``child``, which has just been started to serve.

    The loop that samples it tells it of all features (``see``), since an observation holds the newest alone. Raises ``ChildError``
    for a child that serves another policy than one of ``contract`` in ``steps`` steps, or none.
    """

    def __init__(self, child: Child, contract: Contract, steps: int) -> None:
        self.contract = contract
        self._child, self._steps = child, steps
        self._instants = len(contract.history_ns) + 1
        self._predicted = (contract.horizon + self._instants - 1, len(contract.action_joints))
        expected = {
            "observations": self._instants, "joints": len(contract.joints), "horizon": self._predicted[0],
            "environment": sum(stream.tokens * stream.channels for stream in contract.streams), "steps": steps,
        }  # fmt: skip
        if (served := child.answer()) != expected:
            raise child.wrong(f"serves {served}, expected {expected}")
        self.forget()

    def see(self, features: Features, received: int) -> None:
        """Remember features, visible from ``received`` (ns) on, for observations to come."""
        self._seen[features.stream].put(features.values, features.stamp, received)

    def forget(self) -> None:
        """Forget the features seen."""
        self._seen: dict[str, StampedBuffer[FeatureArray]] = {stream.name: StampedBuffer() for stream in self.contract.streams}

    def sample(self, observation: Observation, steps: int, seed: int) -> tuple[FloatArray, int]:
        """See ``ChunkPolicy``. Raises ``ChildError``, and ``ValueError`` for other steps than it was made for."""
        if steps != self._steps:
            raise ValueError(f"LeRobot's policy is served in {self._steps} steps, asked for were {steps}.")
        answer = self._child.ask({
            "state": [*observation.joint_history.tolist(), observation.joint_position.tolist()],
            "environment": [
                *(self._at(observation.stamp, offset) for offset in self.contract.history_ns), _row(observation.features.values())
            ],
            "noise": keyed_noise(seed, observation.stamp, self._predicted).tolist(),
        })  # fmt: skip
        expected = (self.contract.horizon, len(self.contract.action_joints))
        try:
            chunk = np.array(answer["chunk"], dtype=np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise self._child.wrong(f"said {sorted(answer)}, expected a chunk of numbers {expected}") from error
        if chunk.shape != expected:
            raise self._child.wrong(f"made a chunk of shape {chunk.shape}, expected {expected} (points, joints)")
        return chunk, steps

    def _at(self, now: int, offset: int) -> list[float]:
        """What had been seen by ``now + offset``, found as the loop finds past joint states."""
        found = [self._seen[stream.name].latest_stamped(now, now + offset) for stream in self.contract.streams]
        return _row(entry.item for entry in found if entry is not None)


def _row(values: Iterable[FeatureArray]) -> list[float]:
    return [float(number) for one in values for number in np.ravel(one)]


class RememberingLoop(PolicyLoop):
    """A ``PolicyLoop`` whose policy is told of all features, so that it can observe past ones."""

    def __init__(self, policy: LeRobotPolicy, parameters: PolicyParameters, endless: Sequence[str] = ()) -> None:
        super().__init__(policy, parameters, endless)
        self._remembering = policy

    def on_features(self, features: Features, received: int) -> None:
        """See ``PolicyLoop``."""
        super().on_features(features, received)
        self._remembering.see(features, received)

    def reset(self) -> None:
        """See ``PolicyLoop``."""
        super().reset()
        self._remembering.forget()


def lerobot_stack(robot: Robot, policy: LeRobotPolicy, steps: int, seed: int) -> Stack:
    """What drives ``robot``, as ``evaluation.setup`` makes it for a checkpoint, without delays. Raises ``ContractError``."""
    policy.contract.check_robot(robot)
    flat = {**robot.parameters, "policy.steps": steps, "policy.seed": seed}
    command = from_flat(CommandParameters, "command", flat)
    return Stack(
        policy=RememberingLoop(policy, from_flat(PolicyParameters, "policy", flat), robot.endless),
        command=CommandLoop(robot, command, clearance_of(robot, command)),
        perception=None,
        latency=load_profile(None),
        latency_seed=seed,
        privileged=any(stream.name == PRIVILEGED for stream in policy.contract.streams),
    )
