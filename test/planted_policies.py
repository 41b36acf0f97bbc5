"""Policies with one planted fault each, around a sound one, and an extractor whose images are normalised twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.contract import Contract
from flow_policy_ros.runtime.policy_loop import ContinuingPolicy
from flow_policy_ros.runtime.types import Continuation, Features, FloatArray, Observation


class Planted:
    """A policy around ``policy``; what is wrong with its chunks is ``change``'s."""

    def __init__(self, policy: ContinuingPolicy) -> None:
        self.policy = policy
        self.contract: Contract = policy.contract
        self.prefix = policy.prefix
        self.codec = getattr(policy, "codec", None)

    def refusal(self, method: str, steps: int) -> str | None:
        return self.policy.refusal(method, steps)

    def sample(
        self, observation: Observation, steps: int, seed: int, continuation: Continuation | None = None
    ) -> tuple[FloatArray, int]:
        positions, nfe = self.policy.sample(observation, steps, seed, continuation)
        return self.change(positions, observation), nfe

    def change(self, positions: FloatArray, observation: Observation) -> FloatArray:
        return positions


class Permuted(Planted):
    """The outputs of joints are given to others: joint ``k`` gets what was meant for ``exchanged[k]``."""

    def __init__(self, policy: ContinuingPolicy, exchanged: Mapping[str, str]) -> None:
        super().__init__(policy)
        names = self.contract.action_joints
        self._source = [names.index(exchanged.get(name, name)) for name in names]

    def change(self, positions: FloatArray, observation: Observation) -> FloatArray:
        return positions[:, self._source]


class Noisy(Planted):
    """Every point of every joint is off by noise of ``deviation`` rad or m."""

    def __init__(self, policy: ContinuingPolicy, deviation: float) -> None:
        super().__init__(policy)
        self._deviation = deviation

    def change(self, positions: FloatArray, observation: Observation) -> FloatArray:
        generator = np.random.default_rng(observation.stamp)
        return positions + self._deviation * generator.standard_normal(positions.shape)


class Lagged(Planted):
    """What it says for an instant is what was right ``lag_s`` before."""

    def __init__(self, policy: ContinuingPolicy, lag_s: float) -> None:
        super().__init__(policy)
        self._lag_ns = round(lag_s * 1e9)
        self._seen: list[Observation] = []

    def sample(
        self, observation: Observation, steps: int, seed: int, continuation: Continuation | None = None
    ) -> tuple[FloatArray, int]:
        self._seen = [*[seen for seen in self._seen if seen.stamp < observation.stamp], observation]
        old = [seen for seen in self._seen if seen.stamp <= observation.stamp - self._lag_ns]
        self._seen = [seen for seen in self._seen if not old or seen.stamp >= old[-1].stamp]
        used = self._seen[0]
        positions, nfe = self.policy.sample(used, steps, seed, continuation)
        rows = np.arange(len(positions))
        asked = rows + (observation.stamp - used.stamp - self._lag_ns) / self.contract.dt_ns
        return np.stack([np.interp(asked, rows, column) for column in positions.T], axis=1), nfe


class Frozen(Planted):
    """The first chunk again and again."""

    def __init__(self, policy: ContinuingPolicy) -> None:
        super().__init__(policy)
        self._first: FloatArray | None = None

    def change(self, positions: FloatArray, observation: Observation) -> FloatArray:
        if self._first is None:
            self._first = positions
        return self._first


class ScaledFeatures(Planted):
    """A policy that divides the features once more than it was trained with."""

    def __init__(self, policy: ContinuingPolicy, divisor: float = 255.0) -> None:
        super().__init__(policy)
        self._divisor = np.float32(divisor)

    def sample(
        self, observation: Observation, steps: int, seed: int, continuation: Continuation | None = None
    ) -> tuple[FloatArray, int]:
        features = {name: values / self._divisor for name, values in observation.features.items()}
        return self.policy.sample(replace(observation, features=features), steps, seed, continuation)


class NormalisedTwice:
    """A feature extractor around ``extractor`` that is given image / 255."""

    def __init__(self, extractor: Any) -> None:
        self._extractor = extractor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._extractor, name)

    def extract(self, image: NDArray[np.uint8], stamp: int) -> Features:
        features: Features = self._extractor.extract((image / 255.0).astype(np.uint8), stamp)
        return features
