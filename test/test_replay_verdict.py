"""The verdict: a pure function of figures; and on the sample recording bad, for the right reason, for five planted policies."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replay_made_up as made
from planted_policies import Frozen, Lagged, Noisy, NormalisedTwice, Permuted, ScaledFeatures
from replay_made_up import HORIZON, MadeUp, figures, play, swing

from flow_policy_ros import resources
from flow_policy_ros.evaluation.replay.metrics import Metrics
from flow_policy_ros.evaluation.replay.thresholds import DEFAULTS, Thresholds, limits_of
from flow_policy_ros.evaluation.replay.verdict import judge
from flow_policy_ros.policy.normaliser import Normaliser
from flow_policy_ros.safety.guard import Fault, GuardState

NAMES = [
    "recording", "joint_order", "lag", "frozen", "features", "noise", "error", "worst_second", "still_joints", "faults", "limits",
    "stale", "rate", "stagnation", "seam", "jerk",
]  # fmt: skip


def failed(result: dict[str, Any]) -> list[str]:
    """Names of the checks that a verdict gives as its reasons."""
    return [reason.partition(":")[0] for reason in result["reasons"]]


def sentence(result: dict[str, Any], name: str) -> str:
    return str(checked(result, name)["sentence"])


def checked(result: dict[str, Any], name: str) -> dict[str, Any]:
    return next(check for check in result["checks"] if check["name"] == name)


# --- on motions made up


def test_the_recorded_motion_is_good():
    result = figures(MadeUp())
    assert (result["verdict"], result["reasons"]) == ("good", [])
    assert [check["name"] for check in result["checks"]] == NAMES
    assert all(check["ok"] for check in result["checks"])


def first_chunk(t: np.ndarray) -> np.ndarray:
    return swing(np.arange(HORIZON) * 0.02)


@pytest.mark.parametrize(
    ("what", "reasons", "words"),
    [
        (MadeUp(predicted=lambda t: swing(t)[..., [2, 1, 0]]), ["joint_order"], "slow's chunk fits the recording of other"),
        (MadeUp(predicted=lambda t: swing(t - 0.15)), ["lag"], "chunks are 150 ms late"),
        (MadeUp(predicted=lambda t: swing(t + 0.1)), ["lag"], "chunks are 100 ms early"),
        (MadeUp(jitter=0.4), ["noise"], "points inside chunks jitter by "),
        (MadeUp(limited=(1,)), ["limits"], "most often velocity of fast (600 ticks)"),
        (MadeUp(faults=(Fault("first_command", "away", 0),)), ["faults"], "first_command (1 times)"),
        (MadeUp(commanded=lambda t: 6 * swing(t)), ["jerk"], "6.00 times the recorded jerk"),
        (MadeUp(commanded=lambda t: swing(-np.log(np.exp(-5 * t) + np.exp(-15)) / 5)), ["stagnation"], "stand still in 4"),
    ],
)
def test_a_fault_is_named(what: MadeUp, reasons: list[str], words: str):
    result = figures(what)
    assert (result["verdict"], failed(result)) == ("bad", reasons)
    assert words in sentence(result, reasons[0])


def test_a_frozen_policy_is_named_first():
    result = figures(MadeUp(predicted=first_chunk))
    assert failed(result)[0] == "frozen"
    assert set(failed(result)) <= {"frozen", "error"}


def test_chunks_that_contradict_each_other_are_noise():
    sign = iter(np.tile([1.0, -1.0], 1000))
    result = figures(MadeUp(predicted=lambda t: swing(t) + 0.4 * next(sign)))
    assert failed(result) == ["noise"]
    assert "one chunk and the next differ by 0.8" in sentence(result, "noise") and " rad (m) at " in sentence(result, "noise")


def test_a_policy_that_never_samples_is_bad_for_its_inputs():
    result = figures(MadeUp(stale="joint state is stale: age 1.0 s, at most 0.1 s allowed. Check."))
    assert {"recording", "stale"} <= set(failed(result))
    assert "joint state is stale (150 times)" in sentence(result, "stale")


@pytest.mark.parametrize(
    ("what", "words", "figures_of"),
    [
        (MadeUp(recorded_until=-1.0), "it holds no commands", (0.0, 1.0)),
        (MadeUp(recorded=lambda t: np.zeros((*np.shape(t), 3))), "none of its 3 commanded joints moves", (0.0, 1.0)),
        (MadeUp(seconds=0.5), "it lasts 0.49 s", (0.49, 1.0)),
        (MadeUp(recorded_until=0.1), "only 3 chunks meet recorded commands", (3.0, 10.0)),
        (MadeUp(state=GuardState.HOLDING), "followed in 0% of the ticks", (0.0, 0.5)),
    ],
)
def test_a_recording_that_tells_nothing_is_not_silently_good(what: MadeUp, words: str, figures_of: tuple[float, float]):
    result = figures(what)
    assert (result["verdict"], failed(result)) == ("unjudged", ["recording"])
    assert words in sentence(result, "recording") and "cannot be judged: " in result["reasons"][0]
    check = checked(result, "recording")
    assert check["value"] < check["limit"] and (check["value"], check["limit"]) == figures_of


def test_a_fault_beside_a_recording_that_tells_nothing_is_bad():
    silent = figures(MadeUp(recorded_until=-1.0, limited=(1,)))
    assert (silent["verdict"], failed(silent)) == ("bad", ["recording", "limits"])


def test_joints_that_stand_still_or_have_no_commands_are_said_not_to_be_judged():
    def partly(t: np.ndarray) -> np.ndarray:
        return swing(t) * np.array([1.0, 0.0, 1.0])

    still = figures(MadeUp(recorded=partly))
    assert still["verdict"] == "good"
    assert "not judged, since they stand still in it: fast" in sentence(still, "recording")
    unknown = figures(MadeUp(recorded_names=("other", "slow")))
    assert unknown["verdict"] == "good"
    assert "no commands for them: fast" in sentence(unknown, "recording")


def test_a_still_joint_that_is_driven_is_bad():
    def partly(t: np.ndarray) -> np.ndarray:
        return swing(t) * np.array([1.0, 0.0, 1.0])

    for away, bad in ((0.15, []), (0.25, ["still_joints"]), (1.5, ["still_joints"])):
        result = figures(MadeUp(recorded=partly, predicted=lambda t, away=away: partly(t) + away * np.array([0.0, 1.0, 0.0])))
        assert failed(result) == bad
    assert "fast, which stands still in the recording, is driven 1.5 rad" in sentence(result, "still_joints")


def after(t: np.ndarray, begin: float, end: float) -> np.ndarray:
    return ((np.asarray(t) > begin) & (np.asarray(t) < end))[..., None] * 1.0


def test_a_short_failure_in_a_long_recording_is_bad():
    """Three seconds of 30: means over all hide them."""
    astray = figures(MadeUp(seconds=30.0, predicted=lambda t: swing(t) + 1.2 * after(t, 20.0, 23.0)))
    assert (failed(astray), astray["error_share"] < DEFAULTS.error_share) == (["worst_second"], True)
    one = figures(MadeUp(seconds=30.0, predicted=lambda t: swing(t) + 2.5 * after(t, 20.0, 23.0) * np.array([0.0, 1.0, 0.0])))
    assert failed(one) == ["worst_second"]
    assert "fast is off by 2." in sentence(one, "worst_second")
    still = figures(MadeUp(seconds=30.0, commanded=lambda t: swing(np.where((t > 20.0) & (t < 23.0), 20.0, t))))
    assert "stagnation" in failed(still)
    assert still["stagnation"]["fraction"] < DEFAULTS.stagnation
    assert "s of it while the recorded robot moves" in sentence(still, "stagnation")


def test_tremor_of_the_recording_does_not_hide_swings_of_the_policy():
    generator = np.random.default_rng(5)

    def shaky(t: np.ndarray) -> np.ndarray:
        return swing(t) + 0.003 * generator.standard_normal((*np.shape(t), 3))

    def swung(t: np.ndarray) -> np.ndarray:
        return swing(t) + after(t, 10.0, 12.0) * np.sin(2 * np.pi * 2.0 * np.asarray(t))[..., None]

    assert figures(MadeUp(seconds=15.0, recorded=shaky, predicted=swing, commanded=swing))["verdict"] == "good"
    result = figures(MadeUp(seconds=15.0, recorded=shaky, predicted=swing, commanded=swung))
    assert failed(result) == ["jerk"]
    assert result["jerk_ratio"] < 1.0 < DEFAULTS.jerk_slow < result["jerk_slow"]["worst"]


def test_what_could_not_be_measured_or_was_refused_is_not_good():
    result = figures(MadeUp())
    for given, words in (
        ({"lag_s": None}, "joints move, but lag could not be measured"),
        ({"jerk_ratio": None}, "joints move, but jerk could not be measured"),
        ({"recorded_refused": 60}, "10% of its commands have stamps that go back"),
    ):
        verdict = judge({**result, **given})
        assert verdict.word == "unjudged"
        assert words in verdict.reasons[0]
    assert judge({**result, "recorded_refused": 6}).word == "good"


def test_a_short_recording_is_not_judged_for_stagnation_and_a_large_delay_is_named():
    result = figures(MadeUp())
    stagnation = {"fraction": 0.5, "longest_s": 0.5, "missed_s": 0.5, "windows": DEFAULTS.windows - 1}
    assert judge({**result, "stagnation": stagnation}).word == "good"
    slow = {**result, "stagnation": {**stagnation, "windows": 8}, "injected_ms": {"inference": {"p50": 500.0, "p99": 510.0}}}
    (reason,) = judge(slow).reasons
    assert "inference was given 500 ms" in reason


def test_a_gap_of_the_recording_is_its_own_fault():
    result = figures(MadeUp(faults=(Fault("stale_joint_state", "gap", 0),)))
    assert result["verdict"] == "good"
    assert "stale_joint_state (1 times)" in sentence(result, "recording")


def test_an_error_alone_condemns_only_where_it_is_large_and_worse_than_holding():
    result = figures(MadeUp())
    for total, share, bad in ((5.0, 0.01, False), (1.5, 0.9, False), (2.5, 0.3, True)):
        checks = judge({**result, "error_total": total, "error_share": share})
        assert (checks.reasons != ()) is bad


def test_chunks_that_begin_elsewhere_and_are_no_better_than_holding_are_bad_where_nothing_else_is():
    result = figures(MadeUp())
    for total, start, order, bad in (
        (1.1, 0.1, {}, ["error"]), (0.9, 0.1, {}, []), (1.1, 0.05, {}, []), (1.1, 0.1, {"slow": "fast"}, ["joint_order"])
    ):  # fmt: skip
        given = {**result, "error_total": total, "error_start": start, "error_share": 0.13, "joint_order": order}
        assert [reason.partition(":")[0] for reason in judge(given).reasons] == bad


def test_an_error_above_that_of_holding_still_passes_and_says_so():
    result = figures(MadeUp())
    for total, share, said in ((0.9, 0.3, False), (1.5, 0.9, True), (5.0, 0.01, True)):
        judged = judge({**result, "error_total": total, "error_share": share}).to_json()
        assert judged["verdict"] == "good"
        assert ("passed, worse than holding still" in sentence(judged, "error")) is said


def test_a_lag_that_no_shift_explains_is_not_called_one():
    result = figures(MadeUp())
    for lag, gain, value, words in (
        (0.5, 0.97, None, "no shift fits clearly better (best: 500 ms late, which leaves 97% of the squared error)"),
        (-0.3, 0.61, None, "best: 300 ms early"), (0.03, 0.97, 0.03, "best 30 ms late"), (0.5, 0.5, 0.5, "chunks are 500 ms late"),
    ):  # fmt: skip
        judged = judge({**result, "lag_s": lag, "lag_gain": gain}).to_json()
        assert checked(judged, "lag")["value"] == value and words in sentence(judged, "lag")
        assert checked(judged, "lag")["ok"] is (gain > 0.6 or abs(lag) < 0.06)


def test_too_few_chunks_per_second_are_bad_unless_inference_was_slowed_on_purpose():
    result = figures(MadeUp())
    assert "not judged" in sentence(result, "rate")  # nothing says how many were asked for
    settings = {"latency": "busy.json", "latency_measured_on": "a laptop", "inject": "drop-chunks=0.1"}
    slow = {
        **result, "chunks_per_s": {"wanted": 25.0, "got": 8.0}, "settings": settings,
        "injected_ms": {"inference": {"p50": 112.0, "p99": 420.0, "max": 500.0}},
    }  # fmt: skip
    judged = judge(slow).to_json()
    assert (judged["verdict"], failed(judged)) == ("bad", ["rate"])
    assert (checked(judged, "rate")["value"], checked(judged, "rate")["limit"]) == (8 / 25, 0.5)
    for word in ("8 chunks per second", "25 were asked for", "112 ms", "420 ms", "busy.json", "a laptop", "--inject drop"):
        assert word in sentence(judged, "rate")
    assert judge({**slow, "chunks_per_s": {"wanted": 25.0, "got": 12.5}}).reasons == ()
    slowed = judge({**slow, "settings": {**settings, "inject": "delay=0.12,drop-chunks=0.1"}}).to_json()
    assert slowed["verdict"] == "good" and "slowed on purpose" in sentence(slowed, "rate")


def test_every_limit_has_a_reason_and_a_check():
    named = [name for check in NAMES for name, _, reason in limits_of(check) if len(reason) > 30]
    assert sorted(named) == sorted(one.name for one in fields(Thresholds))
    assert limits_of("frozen")[0][:2] == ("frozen", DEFAULTS.frozen)


def test_limits_are_judged_beside_what_the_recording_breaks():
    result = figures(MadeUp())
    assert judge({**result, "intervened_fraction": 0.2}).reasons
    assert not judge({**result, "intervened_fraction": 0.2, "recorded_over_limits": 0.06}).reasons


def test_seams_are_bad_where_they_are_rough_and_strong():
    result = figures(MadeUp())
    for at, inside, bad in ((0.9, 0.1, True), (0.09, 0.01, False), (0.9, 0.5, False)):
        seam = {**result["seam"], "acceleration": at, "acceleration_inside": inside}
        assert bool(judge({**result, "seam": seam}).reasons) is bad


def test_thresholds_can_be_set():
    result = figures(MadeUp(predicted=lambda t: swing(t - 0.15)))
    assert judge(result, replace(DEFAULTS, lag_s=0.2, error_astray=1.5)).reasons == ()
    patient = Metrics(made.robot(), thresholds=replace(DEFAULTS, duration_s=10.0))
    play(MadeUp(), patient)
    assert failed(patient.result()) == ["recording"]


# --- on the sample recording, through the loops that run on the robot

SAMPLE = Path("samples/adroit_door/seed_5000")


@dataclass(frozen=True)
class Case:
    """A fault: what is done to the policy and to perception."""

    policy: Callable[[Any], Any] = lambda policy: policy
    perception: Callable[[Any], Any] = lambda perception: perception
    settings: tuple[tuple[str, object], ...] = ()
    inject: str = ""


def exchanged(**joints: str) -> Callable[[Any], Any]:
    return lambda policy: Permuted(policy, joints)


@functools.cache
def sound(settings: tuple[tuple[str, object], ...], inject: str) -> Any:
    """Everything loaded, for many replays."""
    from flow_policy_ros.evaluation.replay.stack import ReplaySelection, load_replay
    from flow_policy_ros.runtime.inject import Injection

    selection = ReplaySelection(
        resources.robot_file("adroit_door"), resources.checkpoint("adroit_door_camera"),
        settings={"policy.steps": 5, **dict(settings)}, injection=Injection.parse(inject),
    )  # fmt: skip
    return load_replay(selection)


def replayed(case: Case) -> dict[str, Any]:
    from flow_policy_ros.data.bags.open import open_bag
    from flow_policy_ros.evaluation.replay.engine import replay
    from flow_policy_ros.evaluation.replay.inputs import trained_ranges
    from flow_policy_ros.evaluation.replay.records import ReplayMeta
    from flow_policy_ros.evaluation.replay.stack import events_of, sources_of
    from flow_policy_ros.safety.command_loop import limits_in_force

    loaded = sound(case.settings, case.inject)
    parts = loaded.parts
    ranges = trained_ranges(parts.policy)
    planted = replace(loaded, parts=replace(parts, policy=case.policy(parts.policy), perception=case.perception(parts.perception)))
    bag = open_bag(SAMPLE)
    try:
        sources = sources_of(bag, planted)
        stack, ahead = planted.open(sources)
        metrics = Metrics(loaded.robot, ranges, limits_in_force(loaded.robot, parts.command_parameters))
        period_ns = round(1e9 / parts.command_parameters.rate_hz)
        meta = ReplayMeta(str(SAMPLE), loaded.robot.name, "camera", loaded.robot.joints, period_ns)
        replay(events_of(bag, loaded.robot, sources, "header"), stack, [metrics], meta, sources.camera, ahead)
    finally:
        bag.close()
    return metrics.result()


@pytest.mark.parametrize(
    "case",
    [
        Case(),
        Case(inject="delay=0.12"),
        Case(settings=(("policy.mode", "rtc"),)),
        Case(settings=(("policy.mode", "ensemble"),)),
        Case(settings=(("command.limit_scale", 0.5),)),
    ],
    ids=["plain", "delay", "rtc", "ensemble", "half_limits"],
)
def test_the_sound_policy_is_good_however_it_runs(case: Case):
    result = replayed(case)
    assert (result["verdict"], result["reasons"]) == ("good", [])
    assert len(result["joints_moving"]) == 28


@pytest.mark.parametrize(
    ("case", "reason", "words", "beside"),
    [
        (Case(exchanged(FFJ1="FFJ2", FFJ2="FFJ1")), "joint_order", "FFJ1's chunk fits the recording of FFJ2", ()),
        (Case(exchanged(ARRx="THJ0", THJ0="WRJ0", WRJ0="ARRx")), "joint_order", "ARRx's chunk fits the recording of THJ0", ()),
        (Case(lambda p: Noisy(p, 0.02)), "noise", "jitter by 0.0", ()),
        (Case(lambda p: Noisy(p, 0.05)), "noise", "jitter by 0.0", ()),
        (Case(lambda p: Lagged(p, 0.15)), "lag", " ms late", ()),
        (Case(Frozen), "frozen", "says the same whatever it is shown", ("error", "stagnation")),
        (Case(ScaledFeatures), "error", "fed wrongly inside (normalised twice)", ()),
        (Case(perception=NormalisedTwice), "features", "mostly not found: latch, door_panel; images may be normalised twice", ()),
    ],
    ids=["exchanged", "ring", "noise_20_mrad", "noise_50_mrad", "lag", "frozen", "scaled_inside", "normalised_twice"],
)  # fmt: skip
def test_a_planted_fault_is_bad_for_the_right_reason(case: Case, reason: str, words: str, beside: tuple[str, ...]):
    result = replayed(case)
    assert result["verdict"] == "bad"
    assert failed(result)[0] == reason
    assert set(failed(result)) <= {reason, *beside}
    assert words in sentence(result, reason)
    if reason == "lag":
        # The recorded commands were shaped, and by as much later than the chunks that they came of.
        assert result["lag_s"] - replayed(Case())["lag_s"] == pytest.approx(0.15, abs=0.015)


def normalise_twice(policy: Any) -> None:
    """Make the statistics of the features those of one that normalises what is normalised already."""
    own = policy.codec.observation_normaliser
    offset, scale, n = own.offset.copy(), own.scale.copy(), len(policy.contract.joints)
    offset[n:], scale[n:] = own.offset[n:] * (1 + own.scale[n:]), own.scale[n:] ** 2
    policy.codec.observation_normaliser = Normaliser(own.method, offset, scale, own.dead)


def test_statistics_that_do_not_belong_to_the_features_are_named():
    """The replay needs no run to see it: what the policy is shown lies outside what its checkpoint says it was trained on."""
    from flow_policy_ros.evaluation.replay.inputs import Inputs, trained_ranges
    from flow_policy_ros.evaluation.replay.records import ReplayFeatures
    from flow_policy_ros.policy.flow_policy import FlowPolicy
    from flow_policy_ros.runtime.types import Features

    policy = FlowPolicy.load(resources.checkpoint("adroit_door_camera"))
    trained = trained_ranges(policy)["detections"]
    values = np.zeros((8, 5), dtype=np.float32)
    values[list(trained.rows)] = (trained.low + trained.high) / 2
    normalise_twice(policy)
    for ranges, outside in ((trained, 0.0), (trained_ranges(policy)["detections"], 1.0)):
        inputs = Inputs({"detections": ranges})
        inputs.on_features(ReplayFeatures(Features(0, "detections", values), 0, 0, False, 1.0))
        assert inputs.features()["detections"]["outside"] == outside
