"""Figures of a replay: each on motions whose figure is known, and that nothing grows with the recording."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import replay_made_up as made
from replay_made_up import DT_NS, HORIZON, JOINTS, START, TICK_NS, MadeUp, figures, play, swing

from flow_policy_ros.data.bag_events import BadEvent, CommandEvent
from flow_policy_ros.data.chunk_rows import MAX_GAP_S, ChunkTable
from flow_policy_ros.data.recording import Recording
from flow_policy_ros.data.statistics import VectorStatistics
from flow_policy_ros.evaluation import seams
from flow_policy_ros.evaluation.replay.comparison import ChunkComparison, RecordedTrack
from flow_policy_ros.evaluation.replay.inputs import Inputs, TrainedRange, stale_kind, trained_ranges
from flow_policy_ros.evaluation.replay.metrics import Metrics
from flow_policy_ros.evaluation.replay.records import ReplayChunk, ReplayFeatures, ReplayMeta, ReplayTick
from flow_policy_ros.evaluation.replay.roughness import KEPT, Thinned
from flow_policy_ros.evaluation.replay.sketch import PRECISION, Percentiles
from flow_policy_ros.evaluation.replay.traces import Traces
from flow_policy_ros.evaluation.replay.worst import APART_NS, Worst
from flow_policy_ros.policy.codec import Codec, observation_dim
from flow_policy_ros.policy.normaliser import Normaliser
from flow_policy_ros.runtime.contract import Contract, StreamContract
from flow_policy_ros.runtime.types import Chunk, Features, JointState
from flow_policy_ros.safety.guard import Fault, GuardState

CONTRACT = Contract("hand", JOINTS, JOINTS, DT_NS, HORIZON, (StreamContract("seen", 3, 2, {"classes": ["a", "b", "c"]}, (0, 2)),))


def command(stamp: int, *position: float, names: tuple[str, ...] = JOINTS) -> CommandEvent:
    return CommandEvent(stamp, stamp, names, np.array(position))


# --- recorded commands


def test_commands_are_lines_over_short_gaps_and_held_over_long_ones():
    track = RecordedTrack(JOINTS)
    for stamp, value in ((0, 0.0), (500_000_000, 1.0), (1_001_000_000, 5.0), (1_100_000_000, 5.0 + 2 * np.pi)):
        track.add(command(stamp, value, 0.0, 0.0))
    asked = np.array([-1, 0, 250_000_000, 500_000_000, 1_000_999_999, 1_001_000_000, 1_050_000_000, 1_100_000_000, 1_100_000_001])
    found = track.at(asked)[:, 0]
    np.testing.assert_allclose(found, [np.nan, 0.0, 0.5, 1.0, 1.0, 5.0, 5.0, 5.0 + 2 * np.pi, np.nan])  # an angle wraps


def test_commands_between_commands_are_those_of_training():
    generator, n = np.random.default_rng(4), 40
    stamps = np.cumsum(generator.integers(5_000_000, 400_000_000, n))
    rows = generator.uniform(-3, 3, (n, 3))
    asked = np.sort(generator.integers(stamps[0], stamps[-1], 200))
    track = RecordedTrack(JOINTS)
    for stamp, row in zip(stamps, rows, strict=True):
        track.add(command(int(stamp), *row))
    recording = Recording(JOINTS, asked, asked, np.zeros((200, 3)), stamps, rows)
    chunks, mask = ChunkTable([recording], [[0, 1, 2]], 1, DT_NS, MAX_GAP_S).gather(np.arange(200))
    assert mask.all()
    np.testing.assert_allclose(track.at(asked), chunks[:, 0], atol=1e-12)


def test_commands_of_some_joints_in_another_order_go_by_name():
    track = RecordedTrack(JOINTS)
    track.add(command(0, 3.0, 1.0, 9.0, names=("other", "slow", "stranger")))
    np.testing.assert_array_equal(track.at(np.array([0]))[0], [1.0, np.nan, 3.0])


def test_messages_of_other_joints_and_of_some_joints_spoil_no_joint():
    """Each joint's own commands are its line, also where half of them were forgotten."""
    whole, mixed = RecordedTrack(JOINTS), RecordedTrack(JOINTS)
    for k in range(400):
        row = swing(np.array(k / 100))
        whole.add(command(k * TICK_NS, *row))
        if k % 2:
            mixed.add(command(k * TICK_NS, row[1], names=("fast",)))
        else:
            mixed.add(command(k * TICK_NS, row[0], row[2], names=("slow", "other")))
        assert mixed.add(command(k * TICK_NS + 1000, 9.0, names=("stranger",))) is None
        mixed.forget_before((k - 20) * TICK_NS)
    assert (mixed.refused, mixed.foreign, mixed.newest) == (0, 400, 398 * TICK_NS)
    asked = np.arange(3_820_000_000, 3_980_000_000, 7_000_000)
    np.testing.assert_allclose(mixed.at(asked), whole.at(asked), atol=1e-3)


def test_a_joint_that_was_told_once_is_held_there():
    track = RecordedTrack(JOINTS)
    track.add(command(0, 1.0, 2.0, 3.0))
    for k in range(1, 1000):
        track.add(command(k * TICK_NS, 0.01 * k, names=("slow",)))
        track.forget_before((k - 5) * TICK_NS)
    np.testing.assert_allclose(track.at(np.array([998 * TICK_NS])), [[9.98, 2.0, 3.0]])


def test_one_command_stamped_ahead_is_refused_alone():
    for ahead_ns in (200_000_000, 3_600_000_000_000):
        track = RecordedTrack(JOINTS)
        for k in range(100):
            stamp = k * TICK_NS + (ahead_ns if k == 50 else 0)
            track.add(CommandEvent(k * TICK_NS, stamp, JOINTS, np.full(3, 0.01 * k if k != 50 else 9.0)))
        assert track.refused == 1
        asked = np.arange(0, 99 * TICK_NS, TICK_NS)
        np.testing.assert_allclose(track.at(asked)[:, 0], 0.01 * np.arange(99), atol=1e-12)


def test_a_command_whose_stamp_goes_back_is_counted_and_not_used():
    track = RecordedTrack(JOINTS)
    assert track.add(command(10, 1.0, 1.0, 1.0)) is not None
    assert track.add(command(10, 2.0, 2.0, 2.0)) is None
    assert track.refused == 1
    assert track.at(np.array([10]))[0, 0] == 1.0


def test_a_chunk_waits_until_the_recording_has_passed_its_end():
    comparison = ChunkComparison(JOINTS)
    chunk = Chunk(0, 10, JOINTS, np.arange(9.0).reshape(3, 3))
    comparison.on_chunk(ReplayChunk(0, chunk, 0, False, 1.0))
    comparison.on_recorded(command(0, 0.0, 0.0, 0.0))
    assert comparison.passed(20) == []
    comparison.on_recorded(command(20, 1.0, 2.0, 3.0))
    (compared,) = comparison.passed(20)
    np.testing.assert_allclose(compared.recorded, [[0, 0, 0], [0.5, 1, 1.5], [1, 2, 3]])
    np.testing.assert_array_equal(compared.predicted, chunk.positions)
    assert comparison.passed(30) == comparison.rest() == []


def test_a_chunk_is_let_go_of_when_no_command_comes_any_more():
    comparison = ChunkComparison(JOINTS)
    for k in range(50):
        comparison.on_chunk(ReplayChunk(k, Chunk(k, 10, JOINTS, np.zeros((3, 3))), k, False, 1.0))
    assert comparison.passed(30) == []
    assert len(comparison.passed(2_000_000_000)) == 50


def test_commands_are_forgotten_where_nothing_is_sampled():
    comparison = ChunkComparison(JOINTS, 300_000_000)
    for k in range(20_000):
        comparison.on_recorded(command(k * 1_000_000, 0.0, 0.0, 0.0))
        comparison.passed(k * 1_000_000)
    assert len(comparison.track._rows) <= 4096


# --- errors


def test_the_error_of_a_known_offset_is_that_offset():
    result = figures(MadeUp(predicted=lambda t: swing(t) + np.array([0.1, 0.0, -0.3])))
    assert [result["error"][joint] for joint in JOINTS] == pytest.approx([0.1, 0.0, 0.3], abs=1e-9)
    assert result["motion"]["fast"] == pytest.approx(2.0, rel=1e-2)
    assert result["error_share"] == pytest.approx((0.1 + 0.3) / 3 / 2.0, rel=0.02)
    assert result["error_by_step"]["ahead_s"] == pytest.approx([k * 0.02 for k in range(HORIZON)])


def test_holding_is_the_error_of_the_command_of_the_chunks_instant():
    result = figures(MadeUp(recorded=lambda t: np.asarray(t)[..., None] * np.array([0.5, 0.2, 0.1]), seconds=3.0))
    expected = 0.5 * 0.02 * np.arange(HORIZON).mean()
    assert result["error_hold"]["slow"] == pytest.approx(expected, rel=0.05)  # chunks at the end are cut off
    assert result["error"]["slow"] == pytest.approx(0.0, abs=1e-9)
    assert result["error_by_step"]["hold"][0] == pytest.approx(0.0, abs=1e-12)
    assert result["error_by_step"]["hold"][5] == pytest.approx(0.1 / 2.99, rel=0.02)  # every joint moves in proportion


def test_holding_has_a_ratio_of_one():
    def hold(t: np.ndarray) -> np.ndarray:
        return np.repeat(swing(t[:1]), len(t), axis=0)

    assert figures(MadeUp(predicted=hold))["error_total"] == pytest.approx(1.0)


# --- lag and joint order


@pytest.mark.parametrize("lag_s", [0.15, 0.1, 0.0, -0.11])
def test_a_lag_is_found(lag_s: float):
    result = figures(MadeUp(predicted=lambda t: swing(t - lag_s)))
    assert result["lag_s"] == pytest.approx(lag_s, abs=2e-3)
    assert result["joint_order"] == {}


def test_a_lag_is_found_under_noise_and_a_bias():
    result = figures(MadeUp(predicted=lambda t: swing(t - 0.15) + 0.05, jitter=0.05))
    assert result["lag_s"] == pytest.approx(0.15, abs=5e-3)
    assert result["lag_gain"] < 0.6


def test_no_shift_explains_an_error_that_is_none():
    result = figures(MadeUp(predicted=lambda t: swing(t) + 0.3))
    assert result["lag_gain"] > 0.6


def test_exchanged_joints_are_named():
    result = figures(MadeUp(predicted=lambda t: swing(t)[..., [2, 1, 0]]))
    assert result["joint_order"] == {"slow": "other", "other": "slow"}


def test_a_ring_of_joints_is_named():
    result = figures(MadeUp(predicted=lambda t: swing(t)[..., [1, 2, 0]], jitter=0.05))
    assert result["joint_order"] == {"slow": "fast", "fast": "other", "other": "slow"}


def test_joints_that_move_alike_are_not_exchanged():
    def alike(t: np.ndarray) -> np.ndarray:
        return np.repeat(swing(t)[..., :1], 3, axis=-1)

    assert figures(MadeUp(recorded=alike, jitter=0.05))["joint_order"] == {}


# --- jitter, frozen


def test_the_deviation_of_jitter_is_found():
    noise = figures(MadeUp(jitter=0.05, seconds=8.0))["noise"]
    assert noise["inside_size"] == pytest.approx(0.05, rel=0.15)
    assert noise["inside"] == pytest.approx(0.05 / 2.0, rel=0.15)
    # Two chunks in a row differ by √2 s, on the mean of |x| that is 2/√π s.
    assert noise["overlap_size"] == pytest.approx(0.05 * 2 / np.sqrt(np.pi), rel=0.15)


def test_motion_is_no_jitter():
    noise = figures(MadeUp())["noise"]
    assert noise["inside"] == pytest.approx(0.0, abs=1e-6)
    assert noise["overlap"] == pytest.approx(0.0, abs=1e-9)


def test_chunks_that_contradict_each_other_overlap_badly_and_are_smooth():
    sign = iter(np.tile([1.0, -1.0], 1000))
    noise = figures(MadeUp(predicted=lambda t: swing(t) + 0.2 * next(sign)))["noise"]
    assert noise["inside"] == pytest.approx(0.0, abs=1e-6)
    assert noise["overlap_size"] == pytest.approx(0.4, rel=0.01)


def test_frozen_is_one_for_the_recorded_motion_and_zero_for_a_repeated_chunk():
    first = swing(np.arange(HORIZON) * 0.02)
    assert figures(MadeUp())["frozen"] == pytest.approx(1.0)
    assert figures(MadeUp(predicted=lambda t: first))["frozen"] == pytest.approx(0.0, abs=1e-6)
    assert figures(MadeUp(predicted=lambda t: 0.5 * swing(t)))["frozen"] == pytest.approx(0.5)


def test_thinned_rows_stay_few_and_stand_for_all():
    thinned = Thinned()
    for k in range(5 * KEPT):
        if thinned.wanted():
            thinned.add(np.array([float(k), np.nan]))
    assert len(thinned._rows) <= KEPT
    median = thinned.median()
    assert median is not None
    assert median[0] == pytest.approx(2.5 * KEPT, rel=0.01)
    assert np.isnan(median[1])


# --- commanded motion


def test_seams_in_blocks_are_the_seams_of_the_whole():
    """Against ``seams.measure`` of all set-points at once."""
    seconds, generator = 24.0, np.random.default_rng(1)
    ticks = round(seconds * 100)
    positions = swing(np.arange(ticks) / 100) + 0.01 * np.repeat(generator.standard_normal((ticks // 4, 3)), 4, axis=0)
    rows = iter(positions)
    result = figures(MadeUp(seconds=seconds, commanded=lambda t: next(rows)))
    at = list(range(4, ticks, 4))
    whole = seams.measure(positions, at, 0.01, made.robot().limits.acceleration).figures()
    assert result["seam"]["count"] == len(at)
    for key, spread in (
        ("position", whole.position_seam), ("position_inside", whole.position_inside),
        ("acceleration", whole.acceleration_seam), ("acceleration_inside", whole.acceleration_inside),
    ):  # fmt: skip
        assert result["seam"][key] == pytest.approx(spread.p95, rel=0.03), key


def test_the_jerk_ratio_is_that_of_amplitudes():
    assert figures(MadeUp())["jerk_ratio"] == pytest.approx(1.0)
    assert figures(MadeUp(commanded=lambda t: 3.0 * swing(t)))["jerk_ratio"] == pytest.approx(3.0)
    smooth = figures(MadeUp())["smoothness"]
    assert smooth["commanded"] == pytest.approx(smooth["recorded"])
    assert figures(MadeUp(commanded=lambda t: swing(2 * t)))["smoothness"]["commanded"] < smooth["recorded"]


def test_a_recording_with_fewer_commands_than_ticks_has_no_jerk_of_corners():
    assert figures(MadeUp(recorded_every=4))["jerk_ratio"] == pytest.approx(1.0, rel=0.02)


def test_the_log_dimensionless_jerk_of_a_sine():
    """∫ j² of A sin ωt over D is A² ω⁶ D / 2 and its peak velocity A ω, so that the cost is D⁴ ω⁴ / 2; half a second after the
    start is left out."""
    omega = 2 * np.pi * 0.5
    motion = figures(MadeUp(seconds=8.0, recorded=lambda t: np.sin(omega * np.asarray(t))[..., None] * np.ones(3)))
    assert motion["smoothness"]["recorded"] == pytest.approx(-np.log((7.5 * omega) ** 4 / 2), abs=0.05)


def test_what_follows_a_start_or_a_stop_is_no_jerk_of_the_policy():
    """The commands catch up from elsewhere for 0.4 s; the same in the middle of following counts."""
    def late(begin: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda t: swing(t) + (0.5 * np.cos(np.pi * (t - begin) / 0.4) + 0.5 if 0.0 <= t - begin < 0.4 else 0.0)

    assert figures(MadeUp(commanded=late(0.0)))["jerk_ratio"] == pytest.approx(1.0)
    assert figures(MadeUp(commanded=late(3.0)))["jerk_ratio"] > 10.0


@pytest.mark.parametrize(("still_s", "fraction"), [(0.0, 0.0), (2.0, 1 / 3)])
def test_standing_still_is_measured(still_s: float, fraction: float):
    def commanded(t: np.ndarray) -> np.ndarray:
        return swing(np.where((np.asarray(t) > 2.0) & (np.asarray(t) < 2.0 + still_s), 2.0, t))

    stagnation = figures(MadeUp(commanded=commanded))["stagnation"]
    assert stagnation["fraction"] == pytest.approx(fraction, abs=0.06)
    assert stagnation["longest_s"] == pytest.approx(still_s, abs=0.26)


def test_standing_still_with_the_recorded_robot_is_no_stagnation():
    def rests(t: np.ndarray) -> np.ndarray:
        return swing(np.minimum(t, 3.0))

    assert figures(MadeUp(recorded=rests))["stagnation"]["fraction"] == 0.0


def test_limits_that_the_recording_breaks_are_counted():
    assert figures(MadeUp())["recorded_over_limits"] == 0.0
    fast = figures(MadeUp(recorded=lambda t: swing(8 * np.asarray(t))))  # up to 35 rad/s where 20 are allowed
    assert 0.1 < fast["recorded_over_limits"] < 0.9


def test_interventions_are_shares_of_joint_setpoints():
    result = figures(MadeUp(limited=(1,)))
    assert result["intervened_fraction"] == pytest.approx(1 / 3)
    assert result["intervened_ticks"] == 1.0
    assert result["interventions"] == {"velocity": {"fast": result["ticks"]}}


# --- inputs


def ranges() -> dict[str, TrainedRange]:
    generator = np.random.default_rng(0)
    n = observation_dim(CONTRACT)
    rows = generator.normal(0.5, 0.1, (5000, n))
    actions = Normaliser.fit(VectorStatistics.of(rows[:, :3]))
    return trained_ranges_of(Codec(CONTRACT, Normaliser.fit(VectorStatistics.of(rows)), actions, "absolute"))


def trained_ranges_of(codec: Codec) -> dict[str, TrainedRange]:
    class Policy:
        pass

    policy = Policy()
    policy.codec = codec
    return trained_ranges(policy)


def seen(values: np.ndarray, stamp: int = 0, lost: bool = False) -> ReplayFeatures:
    return ReplayFeatures(Features(stamp, "seen", values.astype(np.float32)), stamp, stamp, lost, 1.0)


def test_values_like_those_of_training_are_inside_and_scaled_ones_outside():
    values = np.random.default_rng(2).normal(0.5, 0.1, (200, 3, 2))
    for divisor, low, high in ((1.0, 0.0, 0.05), (255.0, 0.99, 1.0)):
        inputs = Inputs(ranges())
        for k, given in enumerate(values):
            inputs.on_features(seen(given / divisor, k))
        assert low <= inputs.features()["seen"]["outside"] <= high


def test_rows_that_the_policy_does_not_use_do_not_count_and_absent_ones_are_named():
    inputs = Inputs(ranges())
    values = np.full((3, 2), 0.5)
    values[1:] = 0.0
    inputs.on_features(seen(values))
    inputs.on_features(seen(np.full((3, 2), 0.5), lost=True))
    assert inputs.features() == {"seen": {"outside": 0.5, "empty": 0.5, "absent": {"c": 1.0}, "count": 1}}


def test_joint_states_go_by_name():
    expected = {"joint_state": TrainedRange(np.array([[0.0], [10.0]]), np.array([[1.0], [11.0]]), (0, 1), ("a", "b"))}
    inputs = Inputs(expected)
    inputs.on_joint_state(JointState(0, ("b", "x", "a"), np.array([10.5, 0.0, 3.0])))
    assert inputs.features()["joint_state"]["outside"] == 0.5


def test_a_policy_without_statistics_has_no_ranges():
    assert trained_ranges(object()) == {}
    assert Inputs({}).features() == {}


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("features 'cam0' is stale: age 0.612 s, at most 0.500 s allowed. Check its publisher.", "features 'cam0' is stale"),
        ("joint state: nothing received yet. Check that its publisher runs.", "joint state: nothing received yet"),
        ("joint state is stamped 3.2 s in the future, at most 0.1 s.", "joint state is stamped in the future"),
        ("policy output holds NaN or Inf for ['a'].", "policy output holds NaN or Inf for ['a']"),
    ],
)  # fmt: skip
def test_reasons_are_counted_by_kind(reason: str, kind: str):
    assert stale_kind(reason) == kind


# --- counts, JSON, memory


def test_counts_hash_and_latencies():
    fault = Fault("tracking_error", "away", 0)
    result = figures(MadeUp(faults=(fault,), seconds=2.0))
    assert result["faults"] == {"tracking_error": 1}  # latched in every tick, counted once
    assert result["age_ms"]["joint_state"]["p50"] == pytest.approx(5.0, rel=2 * PRECISION)
    assert result["latency_ms"]["inference"]["p99"] == pytest.approx(7.0, rel=2 * PRECISION)
    assert result["commands_sha256"] == figures(MadeUp(seconds=2.0))["commands_sha256"]
    assert result["commands_sha256"] != figures(MadeUp(seconds=2.0, commanded=lambda t: swing(t) + 1e-15))["commands_sha256"]


def test_chunks_that_never_came_are_counted_with_the_reason():
    result = figures(MadeUp(stale="joint state is stale: age 1.0 s, at most 0.1 s allowed. Check.", seconds=2.0))
    assert result["stale_fraction"] == 1.0
    assert result["stale"] == {"joint state is stale": 50}


@pytest.mark.parametrize(
    "what",
    [
        MadeUp(seconds=0.0),
        MadeUp(seconds=0.05),
        MadeUp(recorded_until=-1.0, seconds=2.0),
        MadeUp(recorded=lambda t: np.zeros((*np.shape(t), 3)), seconds=2.0),
        MadeUp(stale="nothing", seconds=2.0),
        MadeUp(commanded=lambda t: np.full(3, np.nan), seconds=2.0),
        MadeUp(recorded_names=("other",), seconds=2.0),
        MadeUp(recorded_until=1.0, seconds=4.0),
        MadeUp(state=GuardState.HOLDING, seconds=2.0),
    ],
)
def test_whatever_is_missing_figures_are_json_and_a_verdict_is_given(what: MadeUp):
    result = figures(what)
    json.dumps(result, allow_nan=False)
    assert result["verdict"] in ("good", "unjudged", "bad")
    assert result["checks"][0]["name"] == "recording"


def test_bad_messages_are_counted_by_topic():
    metrics = Metrics(made.robot())
    metrics.begin(ReplayMeta("b", "r", "c", JOINTS, TICK_NS))
    for topic in ("a", "b", "a"):
        metrics.on_bad(BadEvent(0, topic, "why"))
    metrics.end()
    assert metrics.result()["bad"] == {"a": 2, "b": 1}


def test_percentiles_are_numpys():
    values = np.random.default_rng(3).lognormal(0.0, 3.0, 20_000)
    sketch = Percentiles()
    for part in np.array_split(values, 100):
        sketch.add(part)
    sketch.add(np.nan)
    for percent in (1, 50, 95, 99):
        assert sketch.at(percent) == pytest.approx(np.percentile(values, percent), rel=2 * PRECISION)
    assert (sketch.count, sketch.max) == (20_000, values.max())
    half_zero = Percentiles()
    half_zero.add([0.0, 0.0, 0.0, 1.0])
    assert (half_zero.at(50), half_zero.at(100)) == (0.0, pytest.approx(1.0))
    assert Percentiles().at(50) is None


def test_memory_does_not_grow_with_the_recording():
    def kept(seconds: float) -> int:
        sinks = Metrics(made.robot()), Traces(64), Worst(made.robot())
        tracemalloc.start()
        play(MadeUp(seconds=seconds, jitter=0.1), *sinks)
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return size

    kept(1.0)  # what is made once
    short, long = kept(15.0), kept(45.0)
    # Figures of at most KEPT chunks are kept, three joints each, and a mean for every window of stagnation.
    assert long - short < 30 * 25 * 2 * 300
    thinned = Traces(64)
    play(MadeUp(seconds=22.0), thinned)
    data = thinned.data()
    assert 32 <= len(data.stamps) <= 64
    assert data.stride == 64


# --- traces and worst moments


def test_traces_show_each_instants_values():
    traces = Traces(1000)
    play(MadeUp(seconds=2.0, predicted=lambda t: swing(t) + 0.1, commanded=lambda t: swing(t) - 0.1), traces)
    data = traces.data()
    expected = swing(data.elapsed_s())
    assert data.stride == 1
    np.testing.assert_allclose(data.recorded, expected, atol=1e-12)
    np.testing.assert_allclose(data.predicted, expected + 0.1, atol=1e-3)  # points lie 20 ms apart
    np.testing.assert_allclose(data.commanded, expected - 0.1, atol=1e-12)
    np.testing.assert_allclose(data.measured, expected, atol=1e-12)
    assert list(data.chunk_stamps) == [START + k * 4 * TICK_NS for k in range(50)]
    assert set(data.states) == {"active"}


def test_thinned_traces_keep_what_happened_between_their_rows():
    traces = Traces(16)
    traces_of_all = Traces(1024)
    play(MadeUp(seconds=5.0), traces, traces_of_all)
    data, every = traces.data(), traces_of_all.data()
    assert len(data.stamps) <= 16
    np.testing.assert_array_equal(data.stamps, every.stamps[:: data.stride])
    np.testing.assert_allclose(data.recorded, every.recorded[:: data.stride])
    limited = Traces(16)
    play(MadeUp(seconds=5.0, limited=(1,), limited_ticks=1), limited)
    assert limited.data().limited.sum() == 1


def test_the_worst_moments_lie_apart_and_have_their_picture():
    def wrong(t: np.ndarray) -> np.ndarray:
        away = 0.5 * np.exp(-(((t[:1] - 2.0) / 0.1) ** 2)) + 0.3 * np.exp(-(((t[:1] - 4.0) / 0.1) ** 2))
        return swing(t) + away[:, None] * np.array([0.0, 1.0, 0.0])

    worst = Worst(made.robot(), keep=3)
    play(MadeUp(predicted=wrong), worst)
    first, second, *_ = worst.moments()
    assert (first.joint, second.joint) == ("fast", "fast")
    assert (first.elapsed_s, second.elapsed_s) == (pytest.approx(2.0, abs=0.03), pytest.approx(4.0, abs=0.03))
    assert first.joint_error == pytest.approx(0.5, rel=0.05)
    assert first.error == pytest.approx(0.5 / made.SPAN / 3, rel=0.05)
    stamps = [moment.stamp for moment in worst.moments()]
    assert min(abs(a - b) for k, a in enumerate(stamps) for b in stamps[:k]) >= APART_NS


def test_a_moment_shows_the_newest_picture_that_the_policy_had():
    worst = Worst(made.robot())
    worst.begin(ReplayMeta("b", "r", "c", JOINTS, TICK_NS))
    pictures = [np.full((2, 2, 3), k, dtype=np.uint8) for k in range(3)]
    for stamp, ready, lost in ((0, 5, False), (10, 100, False), (20, 25, True)):
        features = Features(stamp, "seen", np.zeros((1, 1), dtype=np.float32))
        worst.on_features(ReplayFeatures(features, stamp, ready, lost, 1.0, pictures[stamp // 10]))
    worst.on_recorded(command(30, 0.0, 0.0, 0.0))
    worst.on_chunk(ReplayChunk(30, Chunk(30, 10, JOINTS, np.ones((3, 3))), 30, False, 1.0))
    worst.on_recorded(command(60, 0.0, 0.0, 0.0))
    worst.end()
    (moment,) = worst.moments()
    assert moment.image_stamp == 0
    assert moment.image is pictures[0]


# --- chunks per second, and the delays that were injected


class Rated(Metrics):
    """Of a made-up replay that was to sample ``asked`` times a second; it does 25 times."""

    asked = 25.0

    def begin(self, meta: ReplayMeta) -> None:
        super().begin(replace(meta, settings={"policy.rate_hz": self.asked}))


@pytest.mark.parametrize(
    ("asked", "wanted", "ok"), [(25.0, 25.0, True), (50.0, 50.0, True), (60.0, 60.0, False), (500.0, 100.0, False)]
)
def test_chunks_per_second_are_counted_beside_those_asked_for(asked: float, wanted: float, ok: bool):
    metrics = Rated(made.robot())
    metrics.asked = asked
    play(MadeUp(seconds=4.0), metrics)
    result = metrics.result()
    assert result["chunks_per_s"] == {"wanted": wanted, "got": pytest.approx(25.0)}
    assert next(check["ok"] for check in result["checks"] if check["name"] == "rate") is ok


def test_times_without_fresh_inputs_do_not_count_against_the_rate():
    """Every second chunk that is due lacks its inputs: the others come at the full rate all the same."""

    class Gaps(Rated):
        due = 0

        def on_chunk(self, sampled: ReplayChunk) -> None:
            self.due += 1
            if self.due % 2:
                super().on_chunk(sampled)

        def on_tick(self, tick: ReplayTick) -> None:
            stale = (tick.now - START) // TICK_NS % 8 == 4
            super().on_tick(replace(tick, stale="joint state is stale: 1.0 s" if stale else ""))

    metrics = Gaps(made.robot())
    play(MadeUp(seconds=4.0), metrics)
    assert metrics.result()["stale_fraction"] == pytest.approx(0.5)
    assert metrics.result()["chunks_per_s"]["got"] == pytest.approx(25.0)


def test_injected_delays_are_those_of_the_replays_time():
    metrics = Metrics(made.robot())
    metrics.begin(ReplayMeta("b", "hand", "none", JOINTS, TICK_NS))
    for k, delay_ms in enumerate((20, 20, 20, 80)):
        chunk = Chunk(k * TICK_NS, DT_NS, JOINTS, np.zeros((HORIZON, 3)))
        metrics.on_chunk(ReplayChunk(k * TICK_NS, chunk, k * TICK_NS + delay_ms * 1_000_000, False, 3.0))
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    features = Features(0, "seen", np.zeros((3, 2), dtype=np.float32))
    metrics.on_features(ReplayFeatures(features, 0, 31_000_000, False, 9.0, image))
    metrics.on_features(ReplayFeatures(features, 0, 0, False, 0.0))  # a recorded one is given no delay
    injected = metrics.result()["injected_ms"]
    assert injected["inference"]["p50"] == pytest.approx(20.0, rel=0.01) and injected["inference"]["max"] == 80.0
    assert injected["perception"]["p50"] == pytest.approx(31.0, rel=0.01) == injected["perception"]["max"]


def test_streams_used_once_say_that_they_age_by_design():
    ones = np.ones((2, 2))
    always = TrainedRange(-ones, ones, (0, 2), ("a", "c"))
    ranges = {"seen": replace(always, first=True), "touch": always}
    metrics = Metrics(made.robot(), ranges)
    metrics.begin(ReplayMeta("b", "hand", "none", JOINTS, TICK_NS))
    chunk = Chunk(10**9, DT_NS, JOINTS, np.zeros((HORIZON, 3)), observation_stamps={"seen": 0, "touch": 99 * 10**7})
    metrics.on_chunk(ReplayChunk(10**9, chunk, 10**9, False, 1.0))
    ages = metrics.result()["age_ms"]
    assert ages["seen"]["first"] is True and "first" not in ages["touch"]
