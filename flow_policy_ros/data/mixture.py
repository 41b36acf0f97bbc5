"""Shuffled batches over one or several sets of windows, each with its own joints and streams. No tensors here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from flow_policy_ros.data.arrivals import Indices
from flow_policy_ros.data.episodes import EpisodeError
from flow_policy_ros.data.windows import Batch, Samples, Windows


class Mixture:
    """The samples of all ``sources`` as one set; a batch holds a part from each source that was drawn from.

    ``embodiments`` is the number of each source's robot, its own number when not given. Without ``weights`` every sample comes
    once in an epoch; with them (one per source, above zero) the sources have shares of an epoch in these proportions: samples
    of a source that has too few come several times, as evenly as can be, of one that has too many some are left to the
    next epochs.
    """

    def __init__(self, sources: Sequence[Windows], embodiments: Sequence[int] = (), weights: Sequence[float] = ()) -> None:
        self.sources = tuple(sources)
        self.embodiments = tuple(embodiments) or tuple(range(len(sources)))
        self.weights = tuple(weights)

    def batches(self, seed: int, epoch: int, size: int, start: int = 0) -> Iterator[tuple[tuple[int, Batch], ...]]:
        """The shuffled samples of an epoch in batches of ``size`` (fewer only when the epoch has fewer), from batch
        ``start`` on, as (number of the embodiment, part of one source); what remains at the end is left out.

        Depends on (seed, epoch) alone. Raises ``EpisodeError`` when there is no sample at all.
        """
        samples = [windows.samples(seed, epoch) for windows in self.sources]
        counts = [len(part.ticks) for part in samples]
        firsts = np.cumsum([0, *counts])
        count = int(firsts[-1])
        if count == 0:
            raise EpisodeError(
                "no tick of any episode has features of every stream; the feature delay is longer than the episodes, "
                "or the recordings hold no images."
            )
        generator = np.random.default_rng([seed, epoch, 2])
        if self.weights:
            order = generator.permutation(np.concatenate([
                first + drawn for first, drawn in zip(firsts, self._weighted(seed, epoch, counts), strict=False)
            ]))  # fmt: skip
        else:
            order = generator.permutation(count)
        size = min(size, count)
        for k in range(start, count // size):
            chosen = order[k * size : (k + 1) * size]
            owner = np.searchsorted(firsts, chosen, side="right") - 1
            yield tuple(
                (self.embodiments[number], self._gather(number, samples[number], chosen[owner == number] - firsts[number]))
                for number in np.unique(owner).tolist()
            )

    def _weighted(self, seed: int, epoch: int, counts: Sequence[int]) -> list[Indices]:
        """Of each source the samples that an epoch has, as many in all as there are."""
        shares = np.array([w if count else 0.0 for w, count in zip(self.weights, counts, strict=True)])
        exact = sum(counts) * shares / shares.sum()
        wanted = np.floor(exact).astype(np.int64)
        wanted[np.argsort(wanted - exact, kind="stable")[: sum(counts) - int(wanted.sum())]] += 1  # the largest remainders
        drawn = []
        for number, (count, many) in enumerate(zip(counts, wanted.tolist(), strict=True)):
            generator = np.random.default_rng([seed, epoch, 6, number])
            rounds = [generator.permutation(count) for _ in range(-(-many // max(count, 1)))]
            drawn.append(np.concatenate([np.zeros(0, dtype=np.int64), *rounds])[:many])
        return drawn

    def _gather(self, number: int, samples: Samples, which: np.ndarray) -> Batch:
        return self.sources[number].gather(samples.take(which))
