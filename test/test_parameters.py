"""Every parameter is described, and refuses what it cannot be."""

from __future__ import annotations

import dataclasses

import pytest

from flow_policy_ros.runtime.parameters import (
    BLOCKS,
    CommandParameters,
    ParameterError,
    PolicyParameters,
    SimParameters,
    check,
    from_flat,
)

FIELDS = [(prefix, cls, f) for prefix, cls in BLOCKS.items() for f in dataclasses.fields(cls)]


@pytest.mark.parametrize(("prefix", "cls", "field"), FIELDS, ids=[f"{p}.{f.name}" for p, _, f in FIELDS])
def test_a_parameter_is_described_bounded_and_accepts_its_default(prefix, cls, field) -> None:
    assert field.metadata["description"].endswith(".")
    if type(field.default) in (int, float):
        low, high = field.metadata["bounds"]
        assert check(cls, field.name, type(field.default)(low)) == low
        assert check(cls, field.name, type(field.default)(high)) == high
        with pytest.raises(ParameterError, match=f"{prefix}.{field.name}"):
            check(cls, field.name, type(field.default)(high + 1), prefix + ".")
    assert check(cls, field.name, field.default) == field.default


def test_flat_names_fill_a_block_and_leave_the_rest() -> None:
    block = from_flat(CommandParameters, "command", {"command.rate_hz": 250, "policy.rate_hz": 5.0})
    assert block == CommandParameters(rate_hz=250.0) and type(block.rate_hz) is float


@pytest.mark.parametrize(
    ("cls", "prefix", "flat", "words"),
    [
        (PolicyParameters, "policy", {"policy.speed": 1}, "unknown parameter policy.speed"),
        (PolicyParameters, "policy", {"policy.rate_hz": "fast"}, "policy.rate_hz is 'fast', expected float"),
        (PolicyParameters, "policy", {"policy.rate_hz": float("nan")}, "policy.rate_hz is nan Hz, expected 0.1 to 200"),
        (PolicyParameters, "policy", {"policy.rate_hz": True}, "policy.rate_hz is True"),
        (PolicyParameters, "policy", {"policy.steps": 2.0}, "policy.steps is 2.0, expected int"),
        (PolicyParameters, "policy", {"policy.steps": True}, "policy.steps is True, expected int"),
        (PolicyParameters, "policy", {"policy.steps": 0}, "policy.steps is 0, expected 1 to 1000"),
        (SimParameters, "sim", {"sim.task": "juggle"}, "expected one of door, hammer, pen, relocate, relocate_goals"),
        (SimParameters, "sim", {"sim.realtime": 1}, "sim.realtime is 1, expected bool"),
    ],
)
def test_a_bad_value_is_refused_by_name(cls, prefix, flat, words) -> None:
    with pytest.raises(ParameterError) as caught:
        from_flat(cls, prefix, flat)
    assert words in str(caught.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ParameterError, match=r"known: command\.rate_hz, command\.limit_scale"):
        check(CommandParameters, "rate", 1.0, "command.")
