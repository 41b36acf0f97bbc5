"""Windows against numbers worked out by hand: alignment, delay, padding, order of joints."""

import numpy as np
import pytest

from flow_policy_ros.data.episodes import Episode, EpisodeError
from flow_policy_ros.data.mixture import Mixture
from flow_policy_ros.data.statistics import VectorStatistics
from flow_policy_ros.data.windows import Windows

DT = 10


def make_episode(start, ticks, images=(), offset=0.0, joints=("a", "b")):
    """Ticks 10 ns apart; label of joint a = 100 + tick, of b = 200 + tick; a feature's value is its stamp."""
    stamps = start + DT * np.arange(ticks, dtype=np.int64)
    number = offset + np.arange(ticks, dtype=np.float64)
    columns = {"a": number, "b": number + 100}
    position = np.stack([columns[j] for j in joints], axis=1)
    images = np.array(images, dtype=np.int64)
    values = images.astype(np.float32)[:, None, None]
    return Episode("door", 0, True, DT, stamps, joints, position, position, position + 100, {"eye": (images, values)})


def batches(windows, *arguments, **more):
    """Of one source alone."""
    for ((number, batch),) in Mixture([windows]).batches(*arguments, **more):
        assert number == 0
        yield batch


def seen(windows, seed=0):
    """{tick number over all episodes: stamp of the image seen}"""
    samples = windows.samples(seed, 0)
    batch = windows.gather(samples)
    return dict(zip(samples.ticks.tolist(), batch.features["eye"][:, 0, 0].tolist(), strict=True))


def test_feature_is_the_newest_that_had_arrived():
    # Ticks at 1000, 1010, ..., 1050; images at 1000 and 1025.
    episode = make_episode(1000, 6, images=[1000, 1025])
    assert seen(Windows([episode], ["eye"], 2, DT)) == {0: 1000, 1: 1000, 2: 1000, 3: 1025, 4: 1025, 5: 1025}
    # 15 ns late: visible from 1015 and 1040 on, so the first two ticks saw nothing.
    late = Windows([episode], ["eye"], 2, DT, delay_s=(15e-9, 15e-9))
    assert seen(late) == {2: 1000, 3: 1000, 4: 1025, 5: 1025}


def test_features_never_come_from_another_episode():
    episodes = [make_episode(1000, 3, images=[1000]), make_episode(5000, 3, images=[5010]), make_episode(0, 2, [0, 10])]
    assert seen(Windows(episodes, ["eye"], 2, DT)) == {0: 1000, 1: 1000, 2: 1000, 4: 5010, 5: 5010, 6: 0, 7: 10}


def test_delay_is_drawn_per_sample_between_the_bounds():
    episode = make_episode(0, 400, images=range(0, 4000, 10))
    windows = Windows([episode], ["eye"], 2, DT, delay_s=(20e-9, 50e-9))
    age = np.array([tick * DT - stamp for tick, stamp in seen(windows).items()])
    assert set(age.tolist()) == {20, 30, 40, 50}
    assert seen(windows) == seen(windows) != seen(windows, seed=1)


def test_chunk_stride_and_padding():
    episodes = [make_episode(1000, 6, images=[1000]), make_episode(2000, 3, images=[2000], offset=50)]
    windows = Windows(episodes, ["eye"], horizon=3, chunk_dt_ns=2 * DT)
    batch = windows.gather(windows.samples(0, 0))
    first = batch.actions[:, :, 0] - 100  # of joint a
    np.testing.assert_array_equal(first, [[0, 2, 4], [1, 3, 5], [2, 4, 5], [3, 5, 5], [4, 5, 5], [5, 5, 5],
                                          [50, 52, 52], [51, 52, 52], [52, 52, 52]])  # fmt: skip
    np.testing.assert_array_equal(batch.mask, [[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0],
                                               [1, 1, 0], [1, 0, 0], [1, 0, 0]])  # fmt: skip
    np.testing.assert_array_equal(batch.actions[:, :, 1], batch.actions[:, :, 0] + 100)
    np.testing.assert_array_equal(batch.joint_position[:, 0], [0, 1, 2, 3, 4, 5, 50, 51, 52])
    assert batch.mask.dtype == bool and batch.actions.shape == (9, 3, 2)


def test_joints_are_matched_by_name():
    episodes = [make_episode(0, 2, [0]), make_episode(0, 2, [0], offset=7, joints=("b", "a"))]
    windows = Windows(episodes, ["eye"], 1, DT)
    batch = windows.gather(windows.samples(0, 0))
    assert windows.joints == ("a", "b")
    np.testing.assert_array_equal(batch.joint_position, [[0, 100], [1, 101], [7, 107], [8, 108]])
    np.testing.assert_array_equal(batch.actions[:, 0], batch.joint_position + 100)


def test_batches_are_a_seeded_shuffle_that_can_be_entered_anywhere():
    windows = Windows([make_episode(0, 100, [0])], ["eye"], 1, DT)
    epoch = [batch.joint_position[:, 0].tolist() for batch in batches(windows, 3, 0, 30)]
    assert [len(batch) for batch in epoch] == [30, 30, 30]
    assert len({tick for batch in epoch for tick in batch}) == 90
    assert [batch.joint_position[:, 0].tolist() for batch in batches(windows, 3, 0, 30, start=1)] == epoch[1:]
    assert next(batches(windows, 3, 1, 30)).joint_position[:, 0].tolist() != epoch[0]
    assert len(next(batches(windows, 3, 0, 1000)).mask) == 100


def test_mixture_draws_from_every_source_alike():
    """Ticks of the first episode are 0-99, of the second, whose robot has one joint, 1000-1299."""
    two = [Windows([make_episode(0, 100)], [], 1, DT), Windows([make_episode(0, 300, offset=1000.0, joints=("a",))], [], 1, DT)]
    epoch = list(Mixture(two).batches(3, 0, 40))
    assert len(epoch) == 10 and all(sum(len(batch.mask) for _, batch in parts) == 40 for parts in epoch)
    drawn = {0: [], 1: []}
    for parts in epoch:
        for number, batch in parts:
            assert batch.joint_position.shape[1] == 2 - number
            drawn[number] += batch.joint_position[:, 0].tolist()
    assert sorted(drawn[0]) == list(range(100)) and sorted(drawn[1]) == list(range(1000, 1300))
    resumed = next(Mixture(two).batches(3, 0, 40, start=7))
    for (number, batch), (expected_number, expected) in zip(resumed, epoch[7], strict=True):
        assert number == expected_number
        np.testing.assert_array_equal(batch.joint_position, expected.joint_position)


def test_no_streams_means_every_tick():
    windows = Windows([make_episode(0, 5)], [], 1, DT)
    assert len(windows.samples(0, 0).ticks) == 5 and windows.gather(windows.samples(0, 0)).features == {}


def test_what_does_not_fit_is_named():
    episode = make_episode(0, 5, [0])
    with pytest.raises(ValueError, match="15 ns apart: expected at least one point and a multiple"):
        Windows([episode], ["eye"], 2, 15)
    with pytest.raises(ValueError, match="0 points"):
        Windows([episode], ["eye"], 0, DT)
    with pytest.raises(ValueError, match="0 <= least <= greatest"):
        Windows([episode], ["eye"], 2, DT, delay_s=(2.0, 1.0))
    with pytest.raises(EpisodeError, match="no feature stream 'ear', only"):
        Windows([episode], ["ear"], 2, DT)
    with pytest.raises(EpisodeError, match="joints"):
        Windows([episode, make_episode(0, 5, [0], joints=("a", "b")[:1])], ["eye"], 2, DT)
    wide = make_episode(0, 5, [0])
    wide.streams["eye"] = (wide.streams["eye"][0], np.zeros((1, 2, 1), dtype=np.float32))
    with pytest.raises(EpisodeError, match=r"stream 'eye' .* has \(2, 1\) \(tokens, channels\), expected \(1, 1\)"):
        Windows([episode, wide], ["eye"], 2, DT)
    with pytest.raises(EpisodeError, match="no tick of any episode"):
        next(batches(Windows([episode], ["eye"], 2, DT, delay_s=(1.0, 1.0)), 0, 0, 4))


def test_statistics():
    values = np.stack([np.linspace(0, 100, 1001), np.full(1001, 3.0)], axis=1)
    statistics = VectorStatistics.of(values)
    assert statistics.count == 1001
    np.testing.assert_allclose(statistics.mean, [50, 3])
    np.testing.assert_allclose(statistics.low, [1, 3])
    np.testing.assert_allclose(statistics.high, [99, 3])
    np.testing.assert_allclose(statistics.std, [values[:, 0].std(), 0])
    with pytest.raises(ValueError, match=r"shape \(3,\), expected \(N, D\)"):
        VectorStatistics.of(np.zeros(3))
    with pytest.raises(ValueError, match="NaN or Inf"):
        VectorStatistics.of(np.full((2, 2), np.nan))


def test_of_a_first_stream_every_sample_has_its_own_episodes_first_features() -> None:
    from flow_policy_ros.data.episodes import Episode

    def episode(seed: int, ticks: int, value: float) -> Episode:
        stamps = np.arange(ticks, dtype=np.int64) * 10_000_000
        rows = np.zeros((ticks, 1))
        values = value + np.arange(3, dtype=np.float32).reshape(3, 1, 1)
        seen = np.array([-500, 0, 40], dtype=np.int64) * 1_000_000
        return Episode("door", seed, True, 10_000_000, stamps, ("a",), rows, rows, rows, {"s": (seen, values)})

    windows = Windows([episode(0, 6, 10.0), episode(1, 9, 20.0)], ["s"], 2, 10_000_000, (0.0, 0.1), ["s"])
    batch = windows.gather(windows.samples(0, 0))
    assert batch.features["s"].ravel().tolist() == [10.0] * 6 + [20.0] * 9
