"""Temporal ensembling: the online update equals the average over all predictions at once, on any grid."""

from __future__ import annotations

import numpy as np
import pytest

from flow_policy_ros.runtime.ensemble import TemporalEnsemble

DT, HORIZON, JOINTS, DECAY = 20, 8, 3, 0.3


def random_chunks(stamps: list[int], seed: int = 0) -> list[tuple[int, np.ndarray]]:
    generator = np.random.default_rng(seed)
    return [(stamp, generator.normal(size=(HORIZON, JOINTS))) for stamp in stamps]


def offline(chunks: list[tuple[int, np.ndarray]], instant: int) -> np.ndarray:
    """Everything predicted for ``instant``, the oldest first, averaged with exp(-m i)."""
    predictions = []
    for stamp, rows in chunks:
        at = (instant - stamp) / DT
        if 0 <= at <= len(rows) - 1:
            low = min(int(at), len(rows) - 2)
            predictions.append(rows[low] + (at - low) * (rows[low + 1] - rows[low]))
    weights = np.exp(-DECAY * np.arange(len(predictions)))
    return (weights[:, None] * np.array(predictions)).sum(axis=0) / weights.sum()


@pytest.mark.parametrize("stamps", [list(range(0, 400, 20)), list(range(0, 900, 60)), [0, 7, 55, 61, 150, 290, 291, 303]])
def test_online_equals_offline(stamps: list[int]) -> None:
    chunks, ensemble = random_chunks(stamps), TemporalEnsemble(DECAY)
    for k, (stamp, rows) in enumerate(chunks):
        published = ensemble.update(stamp, DT, rows)
        expected = [offline(chunks[: k + 1], stamp + i * DT) for i in range(HORIZON)]
        np.testing.assert_allclose(published, expected, rtol=0, atol=1e-12)


def test_it_is_the_recurrence_of_act() -> None:
    """One chunk per step: the running average a <- (a W + w_n y) / (W + w_n) of ACT, instant by instant."""
    chunks, ensemble = random_chunks(list(range(0, 20 * DT, DT)), seed=3), TemporalEnsemble(DECAY)
    average: dict[int, np.ndarray] = {}
    weight: dict[int, float] = {}
    count: dict[int, int] = {}
    for stamp, rows in chunks:
        for i, row in enumerate(rows):
            instant = stamp + i * DT
            n = count.get(instant, 0)
            w = np.exp(-DECAY * n)
            total = weight.get(instant, 0.0)
            average[instant] = (average.get(instant, np.zeros(JOINTS)) * total + w * row) / (total + w)
            weight[instant], count[instant] = total + w, n + 1
        published = ensemble.update(stamp, DT, rows)
        np.testing.assert_allclose(published, [average[stamp + i * DT] for i in range(HORIZON)], rtol=0, atol=1e-12)


def test_the_first_chunk_is_published_as_it_is() -> None:
    (_, rows), _ = random_chunks([0, 20])
    np.testing.assert_array_equal(TemporalEnsemble().update(5, DT, rows), rows)


def test_the_oldest_counts_most() -> None:
    ensemble = TemporalEnsemble(decay=5.0)
    ensemble.update(0, DT, np.zeros((HORIZON, 1)))
    published = ensemble.update(2 * DT, DT, np.ones((HORIZON, 1)))
    assert published[0, 0] == pytest.approx(np.exp(-5) / (1 + np.exp(-5))) and (published[-2:] == 1.0).all()


def test_forgetting() -> None:
    chunks, ensemble = random_chunks([100, 120, 50, 70]), TemporalEnsemble(DECAY)
    ensemble.update(*_arguments(chunks[0]))
    ensemble.update(*_arguments(chunks[1]))
    np.testing.assert_array_equal(ensemble.update(*_arguments(chunks[2])), chunks[2][1])  # the clock was set back
    ensemble.clear()
    np.testing.assert_array_equal(ensemble.update(*_arguments(chunks[3])), chunks[3][1])


def test_what_is_kept_is_bounded() -> None:
    """Chunks as fast as can be: the last ``length`` are averaged, no more."""
    ensemble = TemporalEnsemble(decay=0.0, length=4)
    for k in range(40):
        published = ensemble.update(k, DT, np.full((HORIZON, 1), float(k)))
    assert published[0, 0] == pytest.approx(np.mean([36, 37, 38, 39]))


def test_a_decay_that_is_no_decay_is_refused() -> None:
    for decay in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="decay"):
            TemporalEnsemble(decay)


def _arguments(chunk: tuple[int, np.ndarray]) -> tuple[int, int, np.ndarray]:
    return chunk[0], DT, chunk[1]
