"""Shuffled batches over one or several sets of windows, each with its own joints and streams. No tensors here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from flow_policy_ros.data.episodes import EpisodeError
from flow_policy_ros.data.windows import Batch, Samples, Windows


class Mixture:
    """The samples of all ``sources`` as one set; a batch holds a part from each source that has samples in it."""

    def __init__(self, sources: Sequence[Windows]) -> None:
        self.sources = tuple(sources)

    def batches(self, seed: int, epoch: int, size: int, start: int = 0) -> Iterator[tuple[tuple[int, Batch], ...]]:
        """The shuffled samples of an epoch in batches of ``size`` (fewer only when the epoch has fewer), from batch
        ``start`` on, as (number of the source, its part); what remains at the end is left out.

        Depends on (seed, epoch) alone. Raises ``EpisodeError`` when there is no sample at all.
        """
        samples = [windows.samples(seed, epoch) for windows in self.sources]
        firsts = np.cumsum([0, *(len(part.ticks) for part in samples)])
        count = int(firsts[-1])
        if count == 0:
            raise EpisodeError(
                "no tick of any episode has features of every stream; the feature delay is longer than the episodes, "
                "or the recordings hold no images."
            )
        order = np.random.default_rng([seed, epoch, 2]).permutation(count)
        size = min(size, count)
        for k in range(start, count // size):
            chosen = order[k * size : (k + 1) * size]
            owner = np.searchsorted(firsts, chosen, side="right") - 1
            yield tuple(
                (number, self._gather(number, samples[number], chosen[owner == number] - firsts[number]))
                for number in np.unique(owner).tolist()
            )

    def _gather(self, number: int, samples: Samples, which: np.ndarray) -> Batch:
        return self.sources[number].gather(samples.take(which))
