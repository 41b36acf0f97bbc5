"""Disturbances: the text, the draws, and what they do to a latency profile."""

from __future__ import annotations

import numpy as np
import pytest

from flow_policy_ros.runtime.inject import Disturbed, Injection, InjectionError
from flow_policy_ros.runtime.latency import NO_LATENCY, LatencyProfile

STAMPS = range(10_000_000, 40_000_000_000, 10_000_000)


@pytest.mark.parametrize(
    ("text", "injection"),
    [
        ("", Injection()),
        ("delay=0.2", Injection(delay=(0.2, 0.2))),
        ("delay=0.02..0.08", Injection(delay=(0.02, 0.08))),
        ("delay=0.0..0.08", Injection(delay=(0.0, 0.08))),
        ("spike=0.3@0.05", Injection(spike=(0.3, 0.05))),
        ("drop-chunks=0.1,drop-frames=0.2", Injection(drop_chunks=0.1, drop_frames=0.2)),
        ("delay=1e-05,spike=10.0@1.0,drop-chunks=1.0,drop-frames=1.0",
         Injection((1e-5, 1e-5), (10.0, 1.0), 1.0, 1.0)),
    ],
)  # fmt: skip
def test_text_and_injection_are_one(text, injection) -> None:
    assert Injection.parse(text) == injection
    assert str(injection) == text
    assert bool(injection) == bool(text)


def test_blanks_and_order_do_not_matter() -> None:
    assert Injection.parse(" drop-frames=0.2 , delay=1 ,") == Injection(delay=(1.0, 1.0), drop_frames=0.2)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("delay=120ms±40,drop=2%", "delay=0.08..0.16,drop-chunks=0.02"),
        ("delay=120ms±40ms", "delay=0.08..0.16"),
        ("delay=0.12+-0.04", "delay=0.08..0.16"),
        ("delay=20ms..0.08s", "delay=0.02..0.08"),
        ("delay=50us", "delay=5e-05"),
        ("spike=300ms@5%,drop-frames=10%", "spike=0.3@0.05,drop-frames=0.1"),
    ],
)
def test_units_percent_and_plus_minus(text, written) -> None:
    injection = Injection.parse(text)
    assert str(injection) == written
    assert Injection.parse(written) == injection


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("delay=20ms±40", "'delay': -0.02 s is given, expected 0 to 10"),
        ("delay=120±40ms", "'delay': 119.96 s is given, expected 0 to 10"),
        ("delay=20ms±-4", "'-4' after ± is given, expected zero or more"),
        ("delay=inf±inf", "inf is given"),
        ("delay=2%", "'2%' is no number"),
        ("delay=ms", "'ms' is no number"),
        ("drop=3ms", "'3ms' is no number"),
        ("drop=120%", "'drop-chunks': 1.2 as a probability is given"),
        ("drop=0.1,drop-chunks=0.2", "drop-chunks is given twice"),
        ("0.2", "'0.2' is unknown, expected delay=SECONDS"),
        ("delay=0.2,dealy=0.1", "'dealy=0.1' is unknown"),
        ("drop_chunks=0.1", "'drop_chunks=0.1' is unknown"),
        ("delay", "'delay': '' is no number"),
        ("delay=fast", "'delay=fast': 'fast' is no number"),
        ("delay=0.1..", "'delay=0.1..': '' is no number"),
        ("delay=0.1,delay=0.2", "delay is given twice"),
        ("delay=0.3..0.1", "least exceeds the most"),
        ("delay=-1", "'delay': -1.0 s is given, expected 0 to 10"),
        ("delay=200", "'delay': 200.0 s is given, expected 0 to 10"),
        ("delay=nan", "'delay': nan s is given"),
        ("spike=0.3", "'spike=0.3': '' is no number"),
        ("spike=0.3@5", "'spike': 5.0 as its probability is given, expected 0 to 1"),
        ("drop-chunks=10", "'drop-chunks': 10.0 as a probability is given, expected 0 to 1"),
        ("drop-frames=inf", "'drop-frames': inf"),
    ],
)
def test_a_bad_text_is_refused_by_its_part(text, words) -> None:
    with pytest.raises(InjectionError) as error:
        Injection.parse(text)
    assert words in str(error.value)


def test_draws_depend_on_seed_kind_and_stamp_alone() -> None:
    disturbed = Disturbed(NO_LATENCY, Injection.parse("delay=0.02..0.08,drop-chunks=0.5,drop-frames=0.5"))
    forward = [disturbed.delay("inference", s) for s in STAMPS]
    assert forward == [disturbed.delay("inference", s) for s in reversed(STAMPS)][::-1]
    assert forward != [disturbed.delay("inference", s, 1) for s in STAMPS]
    lost = {stage: [disturbed.dropped(stage, s) for s in STAMPS] for stage in ("perception", "inference")}
    assert np.mean(np.equal(lost["perception"], lost["inference"])) == pytest.approx(0.5, abs=0.05)  # independent


def test_draws_are_as_often_and_as_long_as_written() -> None:
    disturbed = Disturbed(NO_LATENCY, Injection.parse("delay=0.02..0.08,spike=0.3@0.05,drop-chunks=0.1,drop-frames=0.2"))
    delays = np.array([disturbed.delay("inference", s) for s in STAMPS])
    spiked = delays > 200_000_000
    assert np.mean(spiked) == pytest.approx(0.05, abs=0.015)
    jitter = delays - 300_000_000 * spiked
    assert jitter.min() >= 20_000_000 and jitter.max() <= 80_000_000
    assert np.percentile(jitter, (10, 50, 90)) == pytest.approx((26e6, 50e6, 74e6), abs=2e6)
    assert np.mean([disturbed.dropped("inference", s) for s in STAMPS]) == pytest.approx(0.1, abs=0.02)
    assert np.mean([disturbed.dropped("perception", s) for s in STAMPS]) == pytest.approx(0.2, abs=0.025)


def test_an_injection_adds_to_the_profile_and_leaves_perception_its_time() -> None:
    profile = LatencyProfile({"perception": (30.0, 40.0), "inference": (3.0, 5.0)})
    disturbed = Disturbed(profile, Injection.parse("delay=0.2,drop-chunks=1"))
    for stamp in STAMPS[:20]:
        assert disturbed.delay("inference", stamp, 7) == profile.delay("inference", stamp, 7) + 200_000_000
        assert disturbed.delay("perception", stamp, 7) == profile.delay("perception", stamp, 7)
        assert disturbed.dropped("inference", stamp) and not disturbed.dropped("perception", stamp)
    assert not any(profile.dropped("inference", stamp) for stamp in STAMPS)
