"""What a network made of images and prompts, kept so that each is looked at once: by the thread that samples, or ahead of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from flow_policy_ros.models.batched import Batched
from flow_policy_ros.models.prefix_inputs import PrefixInputs
from flow_policy_ros.policy.codec import Codec
from flow_policy_ros.runtime.contract import SEEN
from flow_policy_ros.runtime.types import FeatureArray

KEPT = 2
"""The newest, looked at ahead, and the one before it, which is still being sampled from."""
Key = tuple[bytes, ...]


class KeptPrefixes:
    """``see`` of the images and prompts that ``codec`` makes inputs of, on ``device``; the last ``KEPT`` are kept.

    They are known by their contents and not by their stamps, which come again when a clock is set back or an episode begins anew.
    For any number of threads: what is kept is replaced at once, and of several threads that want the same one makes it while the
    others wait. ``passes`` counts how often anything was looked at.
    """

    def __init__(self, see: Callable[[PrefixInputs], Batched], codec: Codec, device: str) -> None:
        self.passes = 0
        self._see, self._codec, self._device = see, codec, device
        self._streams = tuple(stream.name for stream in codec.contract.of_kind(*SEEN))
        self._making = threading.Lock()
        self._kept: tuple[tuple[Key, Batched], ...] = ()  # newest first; never changed, only replaced

    def seen(self, given: Sequence[Mapping[str, FeatureArray]]) -> Batched:
        """What was seen in the features of B observations, by stream; equal ones are looked at once, others together.

        Raises ``ValueError`` for features that are missing or that the model cannot read.
        """
        by_key = {self._key(features): features for features in given}
        if len(by_key) == 1:
            (one,) = by_key.items()
            seen = self._one(*one)
            return seen if len(given) == 1 else seen.take(torch.zeros(len(given), dtype=torch.int64, device=self._device))
        with self._making:
            seen = self._made(list(by_key.values()))
        place = {key: k for k, key in enumerate(by_key)}
        return seen.take(torch.tensor([place[self._key(features)] for features in given], device=self._device))

    def known(self, features: Mapping[str, FeatureArray]) -> Batched | None:
        """What was seen in the features of one observation, if it is kept; looks at nothing and waits for nobody."""
        return self._found(self._key(features))

    def forget(self) -> None:
        """Keep nothing of what was seen."""
        self._kept = ()

    def _one(self, key: Key, features: Mapping[str, FeatureArray]) -> Batched:
        seen = self._found(key)  # at once, also while another thread looks at the next images
        if seen is None:
            with self._making:
                seen = self._found(key)
                if seen is None:
                    seen = self._made([features])
                    self._kept = ((key, seen), *self._kept)[:KEPT]
        return seen

    def _found(self, key: Key) -> Batched | None:
        return next((seen for known, seen in self._kept if known == key), None)

    def _key(self, features: Mapping[str, FeatureArray]) -> Key:
        missing = [name for name in self._streams if name not in features]
        if missing:
            raise ValueError(f"features of the streams {missing} are missing; given: {sorted(features)}.")
        return tuple(features[name].tobytes() for name in self._streams)

    def _made(self, given: Sequence[Mapping[str, FeatureArray]]) -> Batched:
        # No inference tensors: autograd, with which exact real-time chunking goes through what reads them, may refuse to keep them.
        with torch.inference_mode(False), torch.no_grad():
            features = {name: torch.as_tensor(np.stack([one[name] for one in given])) for name in self._streams}
            inputs = self._codec.prefix_inputs(features)
            assert inputs is not None
            self.passes += 1
            return self._see(inputs.to(self._device))
