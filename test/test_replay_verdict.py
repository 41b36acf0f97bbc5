"""The verdict: a pure function of figures; and on the sample recording bad, for the right reason, for five planted policies."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replay_made_up as made
from planted_policies import Frozen, Lagged, Noisy, NormalisedTwice, Permuted, ScaledFeatures
from replay_made_up import HORIZON, MadeUp, figures, play, swing

from flow_policy_ros import resources
from flow_policy_ros.evaluation.replay.metrics import Metrics
from flow_policy_ros.evaluation.replay.verdict import DEFAULTS, judge
from flow_policy_ros.policy.normaliser import Normaliser
from flow_policy_ros.safety.guard import Fault, GuardState

NAMES = [
    "recording", "joint_order", "lag", "frozen", "features", "noise", "error", "faults", "limits", "stale", "stagnation", "seam",
    "jerk",
]  # fmt: skip


def failed(result: dict[str, Any]) -> list[str]:
    """Names of the checks that a verdict gives as its reasons."""
    return [reason.partition(":")[0] for reason in result["reasons"]]


def sentence(result: dict[str, Any], name: str) -> str:
    return next(check["sentence"] for check in result["checks"] if check["name"] == name)


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
    assert "one chunk and the next differ by 0.8" in sentence(result, "noise")


def test_a_policy_that_never_samples_is_bad_for_its_inputs():
    result = figures(MadeUp(stale="joint state is stale: age 1.0 s, at most 0.1 s allowed. Check."))
    assert {"recording", "stale"} <= set(failed(result))
    assert "joint state is stale (150 times)" in sentence(result, "stale")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (MadeUp(recorded_until=-1.0), "it holds no commands"),
        (MadeUp(recorded=lambda t: np.zeros((*np.shape(t), 3))), "none of its 3 commanded joints moves"),
        (MadeUp(seconds=0.5), "it lasts 0.49 s"),
        (MadeUp(recorded_until=0.1), "only 3 chunks meet recorded commands"),
        (MadeUp(state=GuardState.HOLDING), "followed in 0% of the ticks"),
    ],
)
def test_a_recording_that_tells_nothing_is_not_silently_good(what: MadeUp, words: str):
    result = figures(what)
    assert "recording" in failed(result)
    assert words in sentence(result, "recording")


def test_joints_that_stand_still_or_have_no_commands_are_said_not_to_be_judged():
    def partly(t: np.ndarray) -> np.ndarray:
        return swing(t) * np.array([1.0, 0.0, 1.0])

    still = figures(MadeUp(recorded=partly))
    assert still["verdict"] == "good"
    assert "not judged, since they stand still in it: fast" in sentence(still, "recording")
    unknown = figures(MadeUp(recorded_names=("other", "slow")))
    assert unknown["verdict"] == "good"
    assert "no commands for them: fast" in sentence(unknown, "recording")


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
