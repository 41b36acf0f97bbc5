"""What has arrived by an instant, what is refused, and what is too old."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flow_policy_ros.runtime.buffers import ObservationAssembler, Stale, StampedBuffer
from flow_policy_ros.runtime.contract import Contract, ContractError, StreamContract
from flow_policy_ros.runtime.joint_order import BadInput, JointOrder
from flow_policy_ros.runtime.types import Features, JointState, Observation

MS = 1_000_000
EYE = StreamContract("eye", 2, 3, {})
CONTRACT = Contract("toy", ("wrist", "thumb", "index"), ("thumb", "wrist"), 10 * MS, 4, (EYE,))


def joint_state(stamp: int, names=("index", "wrist", "thumb"), position=(3.0, 1.0, 2.0)) -> JointState:
    return JointState(stamp, tuple(names), np.array(position, dtype=np.float64))


def features(stamp: int, values=None, stream: str = "eye") -> Features:
    return Features(stamp, stream, np.full((2, 3), stamp, dtype=np.float32) if values is None else values)


def assembler() -> ObservationAssembler:
    return ObservationAssembler(CONTRACT, joint_state_max_age_s=0.1, features_max_age_s=0.5)


def test_latest_is_the_newest_stamp_among_what_was_received() -> None:
    buffer: StampedBuffer[str] = StampedBuffer()
    buffer.put("late arrival", stamp=20, received=90)
    buffer.put("first", stamp=10, received=30)
    buffer.put("overtaken", stamp=5, received=80)
    seen = [(now, entry.item if (entry := buffer.latest(now)) else None) for now in (29, 30, 85, 90)]
    assert seen == [(29, None), (30, "first"), (85, "first"), (90, "late arrival")]
    assert [entry.item for entry in buffer.visible(85)] == ["first", "overtaken"]


def test_duplicates_are_tolerated_and_the_last_received_counts() -> None:
    buffer: StampedBuffer[dict] = StampedBuffer()  # dicts have no order: equal stamps must not compare items
    for received in (12, 11, 11):
        buffer.put({"received": received}, stamp=10, received=received)
    entry = buffer.latest(11)
    assert entry is not None and entry.received == 11
    entry = buffer.latest(12)
    assert entry is not None and entry.received == 12


def test_length_is_bounded_and_the_oldest_stamps_go_first() -> None:
    buffer: StampedBuffer[int] = StampedBuffer(length=3)
    for stamp in (5, 1, 4, 2, 3):
        buffer.put(stamp, stamp, received=0)
    assert [entry.item for entry in buffer.visible(0)] == [5, 4, 3]
    buffer.clear()
    assert buffer.latest(0) is None


def test_an_observation_is_ordered_by_the_contracts_names() -> None:
    inputs = assembler()
    inputs.on_joint_state(
        joint_state(100 * MS, ("index", "elbow", "wrist", "thumb"), (3.0, np.nan, 1.0, 2.0)), 100 * MS
    )
    inputs.on_features(features(40 * MS), 90 * MS)
    observation = inputs.observe(110 * MS)
    assert isinstance(observation, Observation)
    assert observation.stamp == 100 * MS
    assert observation.joint_position.tolist() == [1.0, 2.0, 3.0]
    assert observation.stamps == {"joint_state": 100 * MS, "eye": 40 * MS}
    assert observation.features["eye"].dtype == np.float32 and (observation.features["eye"] == 40 * MS).all()


def test_an_input_counts_from_the_instant_of_its_reception() -> None:
    inputs = assembler()
    inputs.on_features(features(0), 60 * MS)
    inputs.on_features(features(50 * MS), 120 * MS)
    stamps = []
    for now in (50 * MS, 60 * MS, 119 * MS, 120 * MS):
        inputs.on_joint_state(joint_state(now), now)
        observation = inputs.observe(now)
        stamps.append(observation.stamps["eye"] if isinstance(observation, Observation) else None)
    assert stamps == [None, 0, 0, 50 * MS]


def test_ages_are_judged_on_header_stamps() -> None:
    inputs = assembler()
    inputs.on_joint_state(joint_state(0), received=99 * MS)
    inputs.on_features(features(0), received=99 * MS)
    assert isinstance(inputs.observe(100 * MS), Observation)
    stale = inputs.observe(101 * MS)
    assert isinstance(stale, Stale)
    assert "joint state" in stale.reason and "0.101 s" in stale.reason and "0.100 s" in stale.reason
    inputs.on_joint_state(joint_state(501 * MS), 501 * MS)
    stale = inputs.observe(501 * MS)
    assert isinstance(stale, Stale) and "features 'eye'" in stale.reason and "0.501 s" in stale.reason


def test_nothing_received_and_a_stamp_in_the_future_are_named() -> None:
    inputs = assembler()
    stale = inputs.observe(0)
    assert isinstance(stale, Stale) and "joint state: nothing received" in stale.reason
    inputs.on_joint_state(joint_state(0), 0)
    stale = inputs.observe(0)
    assert isinstance(stale, Stale) and "features 'eye': nothing received" in stale.reason
    inputs.on_joint_state(joint_state(5_000 * MS), 0)
    stale = inputs.observe(0)
    assert isinstance(stale, Stale) and "future" in stale.reason and "clocks" in stale.reason


BAD_JOINT_STATES = {
    "missing": (joint_state(1, ("wrist", "thumb"), (1.0, 2.0)), "joint_state_names", "index"),
    "duplicated": (joint_state(1, ("wrist", "thumb", "index", "thumb"), (1, 2, 3, 4)), "joint_state_names", "thumb"),
    "empty": (joint_state(1, (), ()), "joint_state_names", "wrist"),
    "too short": (joint_state(1, position=(1.0, 2.0)), "joint_state_shape", "3 names"),
    "two rows": (joint_state(1, position=np.zeros((2, 3))), "joint_state_shape", "(2, 3)"),
    "nan": (joint_state(1, position=(1.0, np.nan, 2.0)), "joint_state_not_finite", "['wrist']"),
    "inf": (joint_state(1, position=(-np.inf, 1.0, 2.0)), "joint_state_not_finite", "['index']"),
}
BAD_FEATURES = {
    "stream": (features(1, stream="ear"), "features_stream", "ear"),
    "shape": (features(1, np.zeros((3, 3), np.float32)), "features_shape", "(2, 3)"),
    "nan": (features(1, np.array([[0, 0, 0], [0, np.nan, 0]], np.float32)), "features_not_finite", "token 1"),
}


@pytest.mark.parametrize(("bad", "kind", "named"), BAD_JOINT_STATES.values(), ids=BAD_JOINT_STATES.keys())
def test_a_bad_joint_state_is_named_counted_and_not_stored(bad, kind, named) -> None:
    inputs = assembler()
    with pytest.raises(BadInput) as caught:
        inputs.on_joint_state(bad, 1)
    assert caught.value.kind == kind and named in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert inputs.rejections == {kind: 1}
    stale = inputs.observe(1)
    assert isinstance(stale, Stale) and "joint state: nothing received" in stale.reason


@pytest.mark.parametrize(("bad", "kind", "named"), BAD_FEATURES.values(), ids=BAD_FEATURES.keys())
def test_bad_features_are_named_counted_and_not_stored(bad, kind, named) -> None:
    inputs = assembler()
    inputs.on_joint_state(joint_state(1), 1)
    for _ in range(2):
        with pytest.raises(BadInput) as caught:
            inputs.on_features(bad, 1)
    assert caught.value.kind == kind and named in str(caught.value)
    assert inputs.rejections == {kind: 2}
    stale = inputs.observe(1)
    assert isinstance(stale, Stale) and "features 'eye': nothing received" in stale.reason


def test_stored_inputs_are_copies() -> None:
    inputs = assembler()
    state, seen = joint_state(1), features(1)
    inputs.on_joint_state(state, 1)
    inputs.on_features(seen, 1)
    state.position[:] = 9.0
    seen.values[:] = 9.0
    observation = inputs.observe(1)
    assert isinstance(observation, Observation)
    assert observation.joint_position.tolist() == [1.0, 2.0, 3.0] and (observation.features["eye"] == 1).all()


def test_clear_forgets_inputs_and_keeps_counts() -> None:
    inputs = assembler()
    inputs.on_joint_state(joint_state(1), 1)
    with pytest.raises(BadInput):
        inputs.on_features(features(1, stream="ear"), 1)
    inputs.clear()
    assert isinstance(inputs.observe(1), Stale) and inputs.rejections == {"features_stream": 1}


def test_joint_order_follows_a_publisher_that_changes_its_order() -> None:
    order = JointOrder(("a", "b"))
    assert order.select("joint state", ("b", "a"), [2.0, 1.0]).tolist() == [1.0, 2.0]
    assert order.select("joint state", ("a", "b"), [1.0, 2.0]).tolist() == [1.0, 2.0]
    with pytest.raises(BadInput, match="missing"):
        order.select("joint state", ("a", "c"), [1.0, 2.0])
    assert order.select("joint state", ("a", "b"), [1.0, 2.0]).tolist() == [1.0, 2.0]
    assert order.select("chunk", ("b", "a"), [[2.0, 1.0], [4.0, 3.0]]).tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_of_a_first_stream_the_policy_sees_what_came_first_until_the_reset() -> None:
    contract = Contract("r", ("a",), ("a",), 10_000_000, 2, (StreamContract("s", 1, 1, {}, moment="first"),))
    assembler = ObservationAssembler(contract, 1.0, 0.1)

    def see(stamp: int, value: float) -> Observation | Stale:
        assembler.on_joint_state(JointState(stamp, ("a",), np.zeros(1)), stamp)
        assembler.on_features(Features(stamp, "s", np.full((1, 1), value, dtype=np.float32)), stamp)
        return assembler.observe(stamp)

    for stamp, value in ((0, 1.0), (50_000_000, 2.0), (100_000_000, 3.0)):
        observation = see(stamp, value)
        assert isinstance(observation, Observation)
        assert observation.features["s"].item() == 1.0 and observation.stamps["s"] == 0
    assembler.on_joint_state(JointState(300_000_000, ("a",), np.zeros(1)), 300_000_000)
    assert isinstance(assembler.observe(300_000_000), Stale)  # a silent camera still stops it
    assembler.clear()
    after = see(400_000_000, 4.0)
    assert isinstance(after, Observation) and after.features["s"].item() == 4.0


SAID = StreamContract("said", 1, 2, {"extractor": "sentence"}, moment="standing")


def told(stamp: int, value: float) -> Features:
    return Features(stamp, "said", np.full((1, 2), value, dtype=np.float32))


def spoken(now_s: float, inputs: ObservationAssembler) -> Observation | Stale:
    """What is observed at an instant at which a joint state comes."""
    now = round(now_s * 1e9)
    inputs.on_joint_state(JointState(now, ("thumb", "wrist", "index"), np.zeros(3)), now)
    return inputs.observe(now)


def test_what_is_standing_holds_until_it_is_replaced_however_old_it_is() -> None:
    inputs = ObservationAssembler(replace(CONTRACT, streams=(SAID,)), 0.1, 0.5)
    silent = spoken(1, inputs)
    assert isinstance(silent, Stale) and "no instruction has been given" in silent.reason and "policy.instruction" in silent.reason
    inputs.on_features(told(2_000 * MS, 1.0), 2_000 * MS)
    seen = [spoken(now, inputs) for now in (2, 8, 5000)]
    inputs.on_features(told(9_000 * MS, 2.0), 9_000 * MS)
    seen += [spoken(now, inputs) for now in (9, 6000)]
    observed = [one for one in seen if isinstance(one, Observation)]
    assert [one.features["said"][0, 0] for one in observed] == [1.0, 1.0, 1.0, 2.0, 2.0]
    assert [one.stamps["said"] for one in observed] == [2_000 * MS] * 3 + [9_000 * MS] * 2


def test_of_what_is_standing_the_last_received_counts_whatever_the_clock_did() -> None:
    inputs = ObservationAssembler(replace(CONTRACT, streams=(SAID,)), 0.1, 0.5)

    def said(now_s: float) -> float | None:
        inputs.clear()
        seen = spoken(now_s, inputs)
        return float(seen.features["said"][0, 0]) if isinstance(seen, Observation) else None

    inputs.on_features(told(0, 1.0), 0)
    for k in range(70):
        inputs.on_features(told(20_000 * MS + k, 2.0), 20_000 * MS + k)
    assert said(19) == 2.0  # the clock was set back behind the order
    inputs.on_features(told(10_000 * MS, 3.0), 10_000 * MS)
    assert [said(now) for now in (10, 19, 21, 5000)] == [3.0] * 4  # and those before do not come back


def test_what_belongs_together_is_taken_as_a_whole_or_not_at_all() -> None:
    inputs = ObservationAssembler(replace(CONTRACT, streams=(SAID, replace(SAID, name="again"))), 0.1, 0.5)
    one, other = told(0, 1.0), replace(told(0, 1.0), stream="again")
    inputs.on_all((one, other), 0)
    with pytest.raises(BadInput, match="NaN"):
        inputs.on_all((told(1, 2.0), replace(told(1, np.nan), stream="again")), 1)
    seen = spoken(0.01, inputs)
    assert isinstance(seen, Observation) and [v[0, 0] for v in seen.features.values()] == [1.0, 1.0]
    assert inputs.rejections == {"features_not_finite": 1}


def test_what_is_standing_outlives_a_reset_and_a_clock_set_back() -> None:
    """Also one that is stamped later than the clock after it; the next one replaces it at once, whatever its stamp."""
    inputs = ObservationAssembler(replace(CONTRACT, streams=(SAID, EYE)), 0.1, 0.5)
    inputs.on_features(told(5_000 * MS, 1.0), 5_000 * MS)
    inputs.on_features(told(7_000 * MS, 2.0), 7_000 * MS)
    inputs.on_features(features(7_000 * MS), 7_000 * MS)
    inputs.clear()
    blind = spoken(0.01, inputs)
    assert isinstance(blind, Stale) and "features 'eye'" in blind.reason  # inputs are forgotten
    inputs.on_features(features(10 * MS), 10 * MS)
    after = spoken(0.02, inputs)
    assert isinstance(after, Observation) and after.features["said"][0, 0] == 2.0
    inputs.on_features(told(30 * MS, 3.0), 30 * MS)
    replaced = spoken(0.03, inputs)
    assert isinstance(replaced, Observation) and replaced.features["said"][0, 0] == 3.0
    inputs.on_features(features(7_100 * MS), 7_100 * MS)
    later = spoken(7.1, inputs)
    assert isinstance(later, Observation) and later.features["said"][0, 0] == 3.0


def test_camera_images_stay_bytes() -> None:
    frames = StreamContract("frames", 2, 6, {"extractor": "frames", "size": [2, 2]})
    prompt = StreamContract("prompt", 3, 2, {"extractor": "prompt"}, moment="standing")
    inputs = ObservationAssembler(replace(CONTRACT, streams=(frames, prompt)), 0.1, 0.5)
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 6)
    inputs.on_features(Features(MS, "frames", pixels), MS)
    inputs.on_features(Features(MS, "prompt", np.ones((3, 2), np.float32)), MS)
    pixels += 100  # the caller's own
    seen = spoken(0.002, inputs)
    assert isinstance(seen, Observation) and seen.features["frames"].dtype == np.uint8
    assert seen.features["frames"].ravel().tolist() == list(range(12))
    with pytest.raises(BadInput, match="features 'frames' are float32, expected uint8: the camera's pixels, unscaled"):
        inputs.on_features(Features(MS, "frames", pixels.astype(np.float32) / 255), MS)
    with pytest.raises(BadInput, match=r"shape \(2, 5\), expected \(2, 6\)"):
        inputs.on_features(Features(MS, "frames", pixels[:, :5]), MS)
    assert inputs.rejections == {"features_type": 1, "features_shape": 1}


def test_streams_may_have_greatest_ages_of_their_own() -> None:
    slow = replace(EYE, name="slow")
    contract = replace(CONTRACT, streams=(EYE, slow))
    inputs = ObservationAssembler(contract, 0.1, 0.5, {"slow": 2.0, "not observed": 0.001})
    inputs.on_features(features(0), 0)
    inputs.on_features(features(0, stream="slow"), 0)
    assert isinstance(spoken(0.5, inputs), Observation)
    eye = spoken(0.6, inputs)
    assert isinstance(eye, Stale) and "features 'eye' is stale: age 0.600 s, at most 0.500 s" in eye.reason
    inputs.on_features(features(2_100 * MS), 2_100 * MS)
    both = spoken(2.1, inputs)
    assert isinstance(both, Stale) and "features 'slow' is stale: age 2.100 s, at most 2.000 s" in both.reason


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (lambda: replace(SAID, moment="newest"), "is made of the instruction, yet has the moment 'newest'; expected 'standing'"),
        (lambda: StreamContract("f", 1, 3, {"extractor": "frames", "size": [1, 1]}, moment="standing"), "'frames' has the moment"),
        (lambda: StreamContract("e", 1, 2, {"extractor": "detections"}, moment="standing"), "expected 'newest' or 'first'"),
        (lambda: replace(SAID, moment="once"), r"moment 'once', expected one of \('newest', 'first', 'standing'\)"),
        (lambda: StreamContract("p", 3, 3, {"extractor": "prompt"}, moment="standing"), "has 3 channels, expected 2"),
        (lambda: StreamContract("p", 3, 3, {"extractor": "points"}), "has 3 channels, expected 4"),
        (lambda: StreamContract("f", 2, 6, {"extractor": "frames"}), "names no size"),
        (lambda: StreamContract("f", 2, 6, {"extractor": "frames", "size": [3, 2]}), r"has the shape \(2, 6\), expected \(3, 6\)"),
        (lambda: StreamContract("f", 2, 6, {"extractor": "frames", "size": [2, 2]}, use=(0,)), "observed as a whole"),
        (lambda: StreamContract("v", 2, 6, {"mask_channel": 6}), "has its mask in channel 6, expected one of 6"),
        (lambda: replace(CONTRACT, streams=(StreamContract("f", 2, 6, {"extractor": "frames", "size": [2, 2]}),)), "one prompt"),
    ],
)
def test_contracts_of_impossible_streams_are_refused_by_name(stream, message) -> None:
    with pytest.raises(ContractError, match=message):
        stream()
