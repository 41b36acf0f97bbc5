"""Windows against numbers worked out by hand: alignment, delay, padding, order of joints."""

import numpy as np
import pytest

from flow_policy_ros.data.episodes import Episode, EpisodeError
from flow_policy_ros.data.mixture import Mixture
from flow_policy_ros.data.recording import Recording, Stream
from flow_policy_ros.data.statistics import StatisticsBuilder, VectorStatistics
from flow_policy_ros.data.windows import Ages, Windows
from flow_policy_ros.runtime.buffers import ObservationAssembler, Stale, StampedBuffer
from flow_policy_ros.runtime.contract import Contract, StreamContract
from flow_policy_ros.runtime.types import Features, JointState

DT = 10
MS = 1_000_000


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


# Recordings: nothing is on a grid.


def recording(stamps, commands, values=None, *, joints=("a", "b"), streams=None, source="bag", received=None):
    """``commands`` are instants; both joints were told ``values`` (default: the instant) and measured at their stamp."""
    stamps, commands = np.array(stamps, dtype=np.int64), np.array(commands, dtype=np.int64)
    told = commands.astype(np.float64) if values is None else np.array(values, dtype=np.float64)
    return Recording(
        joints, stamps, stamps if received is None else np.array(received, dtype=np.int64),
        np.repeat(stamps[:, None].astype(np.float64), len(joints), axis=1), commands,
        np.repeat(told[:, None], len(joints), axis=1), streams or {}, robot="hand", source=source,
    )  # fmt: skip


def chunks(windows):
    samples = windows.samples(0, 0)
    batch = windows.gather(samples)
    return samples.ticks.tolist(), batch.actions[:, :, 0], batch.mask


def test_a_chunk_is_the_commands_at_its_points():
    """Commands at 0, 30, 60, 100: exact there, straight lines between them, nothing before the first or past the last."""
    told = recording([-5, 0, 15, 60, 95, 100, 101], [0, 30, 60, 100], [0.0, 1.5, 3.0, 1.0])
    ticks, actions, mask = chunks(Windows([told], [], 4, 15))
    assert ticks == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(mask, [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    np.testing.assert_allclose(actions[0], [0.0, 0.75, 1.5, 2.25])
    np.testing.assert_allclose(actions[1], [0.75, 1.5, 2.25, 3.0])
    np.testing.assert_allclose(actions[2], [3.0, 2.25, 1.5, 1.0])
    np.testing.assert_allclose(actions[3], [1.25, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(actions[4], [1.0, 1.0, 1.0, 1.0])


def test_an_angle_that_was_wrapped_is_held_and_not_run_through():
    told = recording([0], [0, 20, 40], [3.1, -3.1, -3.0])
    np.testing.assert_allclose(chunks(Windows([told], [], 5, 10))[1], [[3.1, 3.1, -3.1, -3.05, -3.0]])


def test_at_the_instant_of_a_command_a_chunk_is_that_command_exactly():
    generator = np.random.default_rng(0)
    values = generator.standard_normal(50) * 10.0 ** generator.integers(-12, 12, 50)
    stamps = np.cumsum(generator.integers(1, 9, 50)) * 4
    ticks, actions, mask = chunks(Windows([recording(stamps, stamps, values)], [], 60, 4))
    exact = np.isin(stamps[ticks][:, None] + 4 * np.arange(60), stamps) & mask
    wanted = dict(zip(stamps.tolist(), values, strict=True))
    assert exact.sum() > 200
    for row, column in np.argwhere(exact):
        assert actions[row, column] == wanted[stamps[ticks[row]] + 4 * column]


def test_a_chunk_ends_at_a_gap_of_the_commands():
    """Silence from 20 to 80: nothing is interpolated across it, nothing begins in it, and the next motion has its own end."""
    told = recording([0, 10, 20, 30, 79, 80, 90], [0, 10, 20, 80, 90])
    ticks, actions, mask = chunks(Windows([told], [], 3, 10, max_gap_s=50e-9))
    assert ticks == [0, 1, 2, 5, 6]
    np.testing.assert_array_equal(mask, [[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(actions, [[0, 10, 20], [10, 20, 20], [20, 20, 20], [80, 90, 90], [90, 90, 90]])
    assert chunks(Windows([told], [], 3, 10, max_gap_s=60e-9))[0] == list(range(7))
    _, actions, mask = chunks(Windows([told], [], 9, 10, max_gap_s=50e-9))
    assert (actions[:3][~mask[:3]] == 20).all()  # even where the next motion has begun


def test_recordings_do_not_run_into_each_other():
    both = [recording([0, 10], [0, 10]), recording([20, 30], [20, 30], joints=("b", "a")), recording([40], [])]
    ticks, actions, mask = chunks(Windows(both, [], 4, 10, joints=("b", "a")))
    assert ticks == [0, 1, 2, 3]
    np.testing.assert_array_equal(actions[1], [10, 10, 10, 10])
    np.testing.assert_array_equal(mask[2], [1, 1, 0, 0])
    with pytest.raises(EpisodeError, match="joints"):
        Windows([*both, make_episode(0, 3)], [], 4, 10)


def test_an_overtaken_joint_state_is_no_anchor_and_an_old_input_makes_no_sample():
    """Header stamps 10, 30, 20 received at 11, 31, 32: at 32 the robot would still go by 30."""
    late = recording([10, 30, 20], range(0, 200, 10), received=[11, 31, 32])
    assert Windows([late], [], 2, 10).samples(0, 0).ticks.tolist() == [0, 1]
    old = recording([10, 30, 40], range(0, 200, 10), received=[11, 50, 51])
    assert Windows([old], [], 2, 10, ages=Ages(joint_state_s=15e-9)).samples(0, 0).ticks.tolist() == [0, 2]
    assert Windows([recording([10, 90], range(0, 200, 10), received=[11, 50])], [], 2, 10,
                   ages=Ages(joint_state_s=15e-9)).samples(0, 0).ticks.tolist() == [0]  # fmt: skip
    seen = Stream(np.array([5, 8]), np.array([6, 40]), np.arange(2, dtype=np.float32).reshape(2, 1, 1))
    eye = recording([10, 20, 40, 50], range(0, 200, 10), streams={"eye": seen})
    windows = Windows([eye], ["eye"], 2, 10, ages=Ages(features_s=32e-9))
    batch = windows.gather(windows.samples(0, 0))
    assert windows.samples(0, 0).ticks.tolist() == [0, 1, 2] and batch.features["eye"].ravel().tolist() == [0.0, 0.0, 1.0]


def test_history_is_what_was_known_then_and_at_the_start_the_oldest():
    told = recording([0, 10, 20, 30, 40], range(0, 200, 10))
    batch = (windows := Windows([told], [], 2, 10, history_ns=(-25, -10))).gather(windows.samples(0, 0))
    np.testing.assert_array_equal(batch.joint_history[:, :, 0], [[0, 0], [0, 0], [0, 10], [0, 20], [10, 30]])
    later = recording([1000, 1010], range(1000, 1200, 10))
    batch = (windows := Windows([told, later], [], 2, 10, history_ns=(-25, -10))).gather(windows.samples(0, 0))
    np.testing.assert_array_equal(batch.joint_history[5:, :, 0], [[1000, 1000], [1000, 1000]])
    assert (w := Windows([told], [], 2, 10)).gather(w.samples(0, 0)).joint_history is None


# The robot's own assembler, fed with the same inputs as they came.

OFFSETS = (-90 * MS, -40 * MS)


def jittered(generator, ticks=150):
    """States at about 100 Hz and pictures of two cameras at about 20 Hz; each late by its own delay, so that some overtake others
    and some come too late."""

    def arrivals(period, count, late):
        stamps = 1_000 * MS + np.cumsum(generator.integers(period // 2, 2 * period, count)) + generator.integers(0, 200 * MS)
        received = stamps + generator.integers(0, late, count) * (generator.random(count) < 0.8)
        order = np.argsort(received, kind="stable")
        return stamps[order], received[order]

    stamps, received = arrivals(8 * MS, ticks, 30 * MS)
    streams = {}
    for name in ("eye", "ear"):
        seen, arrived = arrivals(40 * MS, ticks // 4, 160 * MS)
        streams[name] = Stream(seen, arrived, generator.standard_normal((ticks // 4, 2, 3)).astype(np.float32))
    position = generator.standard_normal((ticks, 2))
    told = np.arange(900 * MS, 5_000 * MS, 7 * MS)
    return Recording(("a", "b"), stamps, received, position, told, np.zeros((len(told), 2)), streams, robot="hand")


def observed(told, delay_ns, ages, history_ns, first):
    """{joint state: observation} that the assembler gives at its receipt, where it is the newest by then."""
    streams = tuple(StreamContract(n, 2, 3, {}, moment="first" if n in first else "newest") for n in sorted(told.streams))
    contract = Contract("hand", ("b", "a"), ("b", "a"), 20 * MS, 4, streams, history_ns)
    assembler = ObservationAssembler(contract, ages.joint_state_s, ages.features_s)
    inputs = [(t, 1, "", k) for k, t in enumerate(told.received.tolist())]
    inputs += [(t + delay_ns, 0, n, k) for n, s in told.streams.items() for k, t in enumerate(s.received.tolist())]
    found = {}
    for now, _, name, k in sorted(inputs, key=lambda entry: entry[:2]):
        if name:
            stream = told.streams[name]
            assembler.on_features(Features(int(stream.stamps[k]), name, stream.values[k]), now)
            continue
        assembler.on_joint_state(JointState(int(told.stamps[k]), told.joints, told.position[k]), now)
        observation = assembler.observe(now)
        if not isinstance(observation, Stale) and observation.stamp == told.stamps[k]:
            found[k] = observation
    return found


@pytest.mark.parametrize("first", [(), ("eye",)])
@pytest.mark.parametrize("history_ns", [(), OFFSETS])
@pytest.mark.parametrize("delay_ns", [0, 60 * MS])
def test_windows_observe_what_the_robot_would(first, history_ns, delay_ns):
    """Bit for bit, and at the same joint states, whatever comes late or out of order."""
    ages = Ages(0.02, 0.2)
    used = refused = fell_back = 0
    for seed in range(8):
        told = jittered(np.random.default_rng(seed))
        expected = observed(told, delay_ns, ages, history_ns, first)
        windows = Windows([told], ["ear", "eye"], 4, 20 * MS, (delay_ns / 1e9, delay_ns / 1e9), first,
                          history_ns=history_ns, ages=ages, joints=("b", "a"))  # fmt: skip
        samples = windows.samples(0, 0)
        batch = windows.gather(samples)
        assert samples.ticks.tolist() == sorted(expected)
        for row, tick in enumerate(samples.ticks.tolist()):
            theirs = expected[tick]
            np.testing.assert_array_equal(batch.joint_position[row], theirs.joint_position)
            for name in ("eye", "ear"):
                np.testing.assert_array_equal(batch.features[name][row], theirs.features[name])
            if history_ns:
                np.testing.assert_array_equal(batch.joint_history[row], theirs.joint_history)
                fell_back += int(told.stamps[tick] + OFFSETS[0] < told.stamps.min())
        used, refused = used + len(expected), refused + len(told.stamps) - len(expected)
    assert used > 200 and refused > 200 and (fell_back > 5 or not history_ns or delay_ns)


def test_drawn_delays_lie_between_the_bounds_and_differ():
    """What each sample sees is what the robot's buffer shows with some delay between the bounds, and not always the same one."""
    told, low, high = jittered(np.random.default_rng(1)), 10 * MS, 60 * MS
    buffer = StampedBuffer()
    for k, (stamp, received) in enumerate(zip(*told.streams["eye"][:2], strict=True)):
        buffer.put(k, int(stamp), int(received))
    windows = Windows([told], ["eye"], 4, 20 * MS, (low / 1e9, high / 1e9))
    differing = 0
    for epoch in range(3):
        samples = windows.samples(0, epoch)
        assert len(samples.ticks) > 60
        for tick, row in zip(samples.ticks.tolist(), samples.rows["eye"].tolist(), strict=True):
            now = int(told.received[tick])
            turns = [now - t for t in told.streams["eye"].received.tolist() if low <= now - t <= high]
            shown = {buffer.latest(now - delay).item for delay in (low, high, *turns) if buffer.latest(now - delay)}
            assert row in shown
            differing += int(row != buffer.latest(now - low).item)
    assert 30 < differing < 200


# Mixtures with weights.


def test_sources_have_the_shares_that_were_asked_for():
    """100 and 300 samples at 3 : 1 make 300 and 100 of 400: three times each of the first, some of the second, others next time."""
    sizes, weights = (100, 300), (3.0, 1.0)
    two = [Windows([make_episode(0, n, offset=1000.0 * k)], [], 1, DT) for k, n in enumerate(sizes)]
    mixture = Mixture(two, [0, 0], weights)
    drawn = [[], []]
    for epoch in range(2):
        parts = [part for parts in mixture.batches(3, epoch, 40) for part in parts]
        assert {number for number, _ in parts} == {0}  # the embodiment
        positions = np.concatenate([batch.joint_position[:, 0] for _, batch in parts]).astype(int)
        assert len(positions) == 400 and (positions < 1000).sum() == 300
        assert (np.bincount(positions[positions < 1000]) == 3).all()
        drawn[epoch] = positions[positions >= 1000].tolist()
        assert len(set(drawn[epoch])) == 100
    assert set(drawn[0]) != set(drawn[1])
    resumed = next(mixture.batches(3, 1, 40, start=7))
    expected = list(mixture.batches(3, 1, 40))[7]
    for (_, ours), (_, theirs) in zip(resumed, expected, strict=True):
        np.testing.assert_array_equal(ours.joint_position, theirs.joint_position)
    first = next(mixture.batches(3, 0, 400))
    assert [len(batch.mask) for _, batch in first] == [300, 100]


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.2, 5.0, 1.3), (1e-6, 1.0, 1.0)])
def test_shares_add_up_to_an_epoch(weights):
    sizes = (7, 50, 13)
    mixture = Mixture([Windows([make_episode(0, n)], [], 1, DT) for n in sizes], weights=weights)
    counts = np.zeros(3)
    for number, batch in next(mixture.batches(0, 0, sum(sizes))):
        counts[number] += len(batch.mask)
    assert counts.sum() == sum(sizes)
    np.testing.assert_allclose(counts, np.array(weights) / sum(weights) * sum(sizes), atol=1.0)


def test_statistics_of_parts_are_those_of_the_whole():
    """Exactly while all fits; beyond that mean and deviation to rounding and quantiles nearly. A dead dimension stays dead."""
    generator = np.random.default_rng(0)
    values = np.stack([generator.standard_normal(30_000) * 3 + 100, np.full(30_000, 7.0), np.arange(30_000) % 16], axis=1)
    whole = VectorStatistics.of(values)
    exact, thinned = StatisticsBuilder(), StatisticsBuilder(most_bytes=100_000)
    for part in np.array_split(values, 13):
        exact.add(part)
        thinned.add(part)
    for name in ("count", "mean", "std", "low", "high"):
        np.testing.assert_array_equal(getattr(exact.result(), name), getattr(whole, name))
    found = thinned.result()
    assert found.count == 30_000 and found.std[1] == 0 and found.low[1] == found.high[1] == 7
    np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(found.std, whole.std, rtol=1e-9)
    np.testing.assert_allclose(found.low, whole.low, atol=0.5)
    np.testing.assert_allclose(found.high, whole.high, atol=0.5)
    with pytest.raises(ValueError, match="expected"):
        StatisticsBuilder().result()
    with pytest.raises(ValueError, match="NaN or Inf"):
        StatisticsBuilder().add(np.full((2, 2), np.nan))
