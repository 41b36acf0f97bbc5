"""A replay gives what an episode gave, repeats bit for bit, goes on after faults, and forgets what lies behind it."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from replay_support import JOINTS, START, STREAM, TICK, joint_states, recording, replayed, run, selection

from flow_policy_ros.data.bag_events import BadEvent, CommandEvent, FeaturesEvent, ImageEvent, JointStateEvent
from flow_policy_ros.evaluation.closed_loop import run_episode
from flow_policy_ros.evaluation.replay.stack import ReplaySelection, Sources, load_replay
from flow_policy_ros.evaluation.replay.ticks import LONGEST_GAP_NS
from flow_policy_ros.evaluation.setup import load, select
from flow_policy_ros.runtime.inject import Injection, InjectionError
from flow_policy_ros.runtime.latency import LatencyProfile
from flow_policy_ros.runtime.parameters import ParameterError
from flow_policy_ros.runtime.types import EncodedImage, Features, JointState
from flow_policy_ros.safety.guard import GuardState


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "latency.json"
    LatencyProfile({"perception": (25.0, 31.0, 44.0), "inference": (18.0, 22.0, 35.0)}, "a test").save(path)
    return path


@pytest.mark.parametrize("mode", ["receding", "ensemble", "rtc_identity"])
def test_a_replayed_episode_gives_the_commands_of_the_episode(profile, mode):
    """The simulator's inputs, replayed, through the same objects in the same order: equal set-points, bit for bit."""
    from flow_policy_ros.sim.robot import AdroitRobot

    injection = Injection.parse("delay=20ms±15,drop=20%")
    chosen = replace(select("door", "state", None, None, None, policy_seed=3), mode=mode, injection=injection)
    loaded = load(chosen, str(profile))
    robot = AdroitRobot("door", loaded.robot)
    events = []

    def observe(sim, image, chunk, tick) -> None:
        events.append(JointStateEvent(sim.stamp, sim.joint_state()))
        events.append(FeaturesEvent(sim.stamp, sim.object_features()))

    episode = run_episode(robot, loaded.stack, 5000, 0, 60, observe)
    robot.close()
    settings = {"policy.mode": mode, "policy.seed": 3}
    again = ReplaySelection(chosen.robot, chosen.checkpoint, None, settings, injection, str(profile))
    kept, done = run(load_replay(again), events)
    assert kept.commands.shape == episode.commands.shape and np.isfinite(kept.commands).all()
    np.testing.assert_array_equal(kept.commands, episode.commands)
    assert len(kept.chunks) == episode.chunks > 8 and any(chunk.lost for chunk in kept.chunks)
    assert [t.tick.state.name for t in kept.ticks] == episode.states
    assert (done.start, done.end, done.ticks) == (events[0].received, events[-1].received, 60) and not done.problems


def test_it_repeats_and_the_seed_matters(tmp_path):
    chosen = selection(tmp_path, STREAM, injection=Injection.parse("delay=30ms±20"))
    loaded = load_replay(chosen)
    first, second = (run(loaded, recording(200))[0] for _ in range(2))
    assert first.sha256() == second.sha256() == replayed(chosen, recording(200)).sha256()
    other = replayed(replace(chosen, settings={"policy.seed": 1}), recording(200))
    assert other.sha256() != first.sha256()
    assert [c.ready for c in other.chunks] != [c.ready for c in first.chunks]  # delays are drawn by it too


@pytest.mark.parametrize("mode", ["receding", "ensemble"])
def test_batches_give_what_single_chunks_give(tmp_path, mode):
    chosen = selection(tmp_path, STREAM, settings={"policy.mode": mode}, injection=Injection.parse("delay=90ms,drop=20%"))
    single = replayed(chosen, recording(333))
    batched = replayed(replace(chosen, batch=7), recording(333))
    assert len(single.ticks) == len(batched.ticks) == 333 and 60 > len(single.chunks) > 20
    assert [(c.now, c.ready, c.lost) for c in single.chunks] == [(c.now, c.ready, c.lost) for c in batched.chunks]
    for one, other in zip(single.chunks, batched.chunks, strict=True):
        assert (one.chunk.nfe, one.chunk.observation_stamps) == (other.chunk.nfe, other.chunk.observation_stamps)
        np.testing.assert_allclose(one.chunk.positions, other.chunk.positions, atol=1e-5)
    np.testing.assert_allclose(single.commands, batched.commands, atol=1e-5)
    assert not np.array_equal(single.chunks[0].chunk.positions, single.chunks[5].chunk.positions)  # it is not one chunk throughout


def test_batches_are_refused_where_a_chunk_continues_what_is_commanded(tmp_path):
    chosen = selection(tmp_path, batch=4, settings={"policy.mode": "rtc", "policy.steps": 6})
    with pytest.raises(ParameterError, match=r"--batch samples chunks ahead, but policy.mode is 'rtc'"):
        load_replay(chosen)
    with pytest.raises(ValueError, match="--batch is 0"):
        load_replay(replace(chosen, batch=0, settings={}))
    with pytest.raises(ValueError, match="rk45"):
        load_replay(replace(chosen, batch=4, settings={"policy.solver": "rk45"}))


def test_what_is_received_between_two_ticks_counts_at_the_later_one(tmp_path):
    """Joint states at 3 ms, later than the tick's grid; a command before the first of them belongs to the first tick."""
    early = CommandEvent(START - 50 * TICK, START - 50 * TICK, JOINTS, np.zeros(2))
    states = [JointStateEvent(START + k * 3_000_000, JointState(START + k * 3_000_000, JOINTS, np.zeros(2))) for k in range(20)]
    kept = replayed(selection(tmp_path), [early, *states])
    assert [t.now for t in kept.ticks] == [START + k * TICK for k in range(7)]
    assert [now for now, _ in kept.states[:6]] == [START, *[START + TICK] * 3, *[START + 2 * TICK] * 2]
    assert kept.recorded == [early]
    assert kept.chunks[1].chunk.stamp == states[13].received < kept.chunks[1].now  # the newest state by then


def test_recorded_features_have_no_delay_and_none_gets_lost(tmp_path):
    chosen = selection(tmp_path, STREAM)
    ready = [f.ready for f in replayed(chosen, recording(5)).features]
    assert ready == [START + k * TICK for k in range(5)]  # recorded ones at once
    with pytest.raises(InjectionError, match="drop-frames loses camera images"):
        load_replay(replace(chosen, injection=Injection.parse("drop-frames=50%")))


def test_a_camera_is_looked_at_once_a_tick_and_bad_images_are_said(tmp_path, profile):
    class Mean:
        """An extractor of two numbers."""

        def extract(self, image, stamp):
            return Features(stamp, "touch", np.array([[image.mean() / 255, image[0, 0, 0] / 255]], dtype=np.float32))

        def identity(self):
            return {}

    loaded = load_replay(selection(tmp_path, STREAM, latency=str(profile)))
    losing = replace(loaded.selection, injection=Injection.parse("drop-frames=40%"))
    loaded = replace(loaded, parts=replace(loaded.parts, perception=Mean()), selection=losing)

    def picture(k, encoding="rgb8"):
        stamp = START + k * 4_000_000
        return ImageEvent(stamp, stamp - 1_000_000, "front", EncodedImage(encoding, 2, 2, 6, bytes([k % 250] * 12)))

    states = list(joint_states(60))
    pictures = [picture(k) for k in range(140)] + [picture(141, "rgb9")]
    foreign = replace(picture(1), camera="back")
    kept, _ = run(loaded, sorted([*states, *pictures, foreign], key=lambda e: e.received), Sources(camera="front"))
    seen = [f.features.stamp for f in kept.features]
    assert seen == [max(p.stamp for p in pictures if p.received <= t.now) for t in kept.ticks][:len(seen)] and len(seen) > 50
    assert all(0 < f.ready - t.now <= 44_000_000 for f, t in zip(kept.features, kept.ticks, strict=False))
    assert 5 < sum(f.lost for f in kept.features) < 40 and all(f.image.shape == (2, 2, 3) for f in kept.features)
    assert [e.topic for e in kept.bad] == ["camera 'front'"] and "rgb9" in kept.bad[0].reason
    visible = {f.features.stamp: f for f in kept.features}
    for chunk in kept.chunks:
        used = visible[chunk.chunk.observation_stamps["touch"]]
        assert not used.lost and used.ready <= chunk.now
    assert kept.ticks[0].stale.startswith("features 'touch': nothing received yet")


def test_after_a_fault_it_goes_on_as_an_operator_would(tmp_path):
    """A second without joint states: a fault, a stop, and a start from the measured position when they are back."""
    states = [*joint_states(100), *joint_states(100, first=200)]
    kept = replayed(selection(tmp_path), states)
    faulty = [t for t in kept.ticks if t.tick.faults]
    assert {f.name for t in faulty for f in t.tick.faults} == {"stale_joint_state"}
    resets = [t for t in kept.ticks if t.reset]
    assert [t.now for t in resets] == [START + 200 * TICK]
    assert resets[0].tick.state is GuardState.STARTING
    np.testing.assert_allclose(resets[0].tick.setpoint.position, states[100].state.position)
    assert kept.ticks[-1].tick.state is GuardState.ACTIVE and len(kept.ticks) == 300
    assert all(t.stale for t in kept.ticks[112:200:4])  # and chunks were due all the time


def test_a_gap_of_years_is_not_ticked_through(tmp_path):
    years = 10**9
    late = START + years * TICK
    first = CommandEvent(late - 30 * TICK, late - 30 * TICK, JOINTS, np.zeros(2))  # what comes first is no joint state
    kept, done = run(load_replay(selection(tmp_path)), [*joint_states(50), first, *joint_states(50, start=late)])
    assert len(kept.ticks) == pytest.approx(130 + LONGEST_GAP_NS // TICK, abs=2)
    assert sum(t.reset for t in kept.ticks) == 1 and kept.ticks[-1].tick.state is GuardState.ACTIVE
    assert {f.name for t in kept.ticks for f in t.tick.faults} == {"stale_joint_state"}
    assert all((t.now - START) % TICK == 0 for t in kept.ticks) and done.end == late + 49 * TICK


def test_bad_joint_states_are_said_and_stop_the_robot(tmp_path):
    events = list(joint_states(120))
    broken = JointState(events[60].state.stamp, ("wrist",), np.zeros(1))
    events[60] = replace(events[60], state=broken)
    events.insert(30, BadEvent(events[29].received, "/joint_states", "it cannot be decoded."))
    kept, done = run(load_replay(selection(tmp_path)), events)
    assert [e.topic for e in kept.bad] == ["/joint_states", "joint states"] and "missing ['thumb']" in kept.bad[1].reason
    assert "bad_joint_state" in {f.name for t in kept.ticks for f in t.tick.faults} and sum(t.reset for t in kept.ticks) == 1
    assert any("command stage refused 1 inputs: joint_state_names" in p for p in done.problems)


def test_states_of_another_clock_start_nothing_and_that_is_said(tmp_path):
    states = [replace(e, state=replace(e.state, stamp=e.state.stamp - 10**15)) for e in joint_states(30)]
    kept, done = run(load_replay(selection(tmp_path)), states)
    assert not kept.chunks and np.isnan(kept.commands).all()
    assert any("never started" in p and "joint state is stale" in p for p in done.problems)


def test_without_joint_states_there_is_nothing(tmp_path):
    kept, done = run(load_replay(selection(tmp_path)), [CommandEvent(START, START, JOINTS, np.zeros(2))])
    assert not kept.ticks and done.start is None and done.duration_s == 0.0 and "no joint state" in done.problems[0]


def test_a_policy_that_gives_nan_is_followed_by_nothing(tmp_path):
    loaded = load_replay(selection(tmp_path))
    sample = loaded.parts.policy.sample

    class Broken:
        contract, prefix = loaded.parts.policy.contract, 0

        def sample(self, *arguments):
            positions, nfe = sample(*arguments)
            return np.where(np.arange(2) == 1, np.nan, positions), nfe

        def refusal(self, method, steps):
            return None

    kept, _ = run(replace(loaded, parts=replace(loaded.parts, policy=Broken())), joint_states(50))
    assert not kept.chunks and "NaN or Inf for ['thumb']" in kept.ticks[0].stale
    assert np.ptp(kept.commands, axis=0).max() == 0.0  # it stays where it started


def test_memory_does_not_grow_with_the_recording(tmp_path):
    class Nothing:
        def __getattr__(self, name):
            return lambda *arguments: None

    from flow_policy_ros.evaluation.replay.engine import replay
    from flow_policy_ros.evaluation.replay.records import ReplayMeta

    loaded = load_replay(replace(selection(tmp_path, STREAM, injection=Injection.parse("delay=30ms")), batch=8))
    peaks = []
    for count in (600, 600, 2400):  # the first fills what is kept once
        stack, ahead = loaded.open(Sources(features=("touch",)))
        tracemalloc.start()
        replay(recording(count), stack, [Nothing()], ReplayMeta("made up", "hand", "c", JOINTS, TICK), "", ahead)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[1], peaks
