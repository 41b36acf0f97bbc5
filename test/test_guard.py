"""The guard's states: which changes exist, and how faults latch (safety invariant 4)."""

from __future__ import annotations

from itertools import product

import pytest

from flow_policy_ros.safety.guard import FAULTS, TRANSITIONS, Guard, GuardState


def guard_in(state: GuardState) -> Guard:
    guard = Guard()
    guard.state = state
    return guard


@pytest.mark.parametrize(("before", "after"), list(product(GuardState, GuardState)))
def test_only_listed_changes_exist(before: GuardState, after: GuardState) -> None:
    guard = guard_in(before)
    if after is before or after in TRANSITIONS[before]:
        guard.move(after)
        assert guard.state is after
    else:
        with pytest.raises(RuntimeError, match=f"{before.value} to {after.value}"):
            guard.move(after)
        assert guard.state is before


def test_motion_begins_with_the_soft_start_only() -> None:
    assert [s for s in GuardState if GuardState.STARTING in TRANSITIONS[s]] == [GuardState.INACTIVE]
    assert GuardState.ACTIVE not in TRANSITIONS[GuardState.INACTIVE]


def test_nothing_but_reset_leads_out_of_a_fault() -> None:
    assert not TRANSITIONS[GuardState.FAULT]
    assert all(GuardState.FAULT in TRANSITIONS[s] for s in GuardState if s is not GuardState.FAULT)


@pytest.mark.parametrize("state", GuardState)
def test_a_fault_latches_from_every_state_until_reset(state: GuardState) -> None:
    guard = guard_in(state)
    guard.latch("stale_joint_state", "age 1 s", 17)
    assert guard.state is GuardState.FAULT
    guard.latch("stale_joint_state", "age 2 s", 18)
    guard.latch("clock_jump_back", "by 1 s", 19)
    assert [(f.name, f.detail, f.stamp) for f in guard.faults] == [
        ("stale_joint_state", "age 1 s", 17),
        ("clock_jump_back", "by 1 s", 19),
    ]
    guard.reset()
    assert guard.state is GuardState.INACTIVE and guard.faults == ()
    guard.latch("stale_joint_state", "again", 20)
    assert guard.counts == {"stale_joint_state": 2, "clock_jump_back": 1}


def test_a_fault_needs_a_known_name() -> None:
    guard = Guard()
    with pytest.raises(ValueError, match="stale_joint_state"):
        guard.latch("bad_mood", "", 0)
    assert guard.state is GuardState.INACTIVE


def test_every_fault_can_be_latched_and_says_when_it_is() -> None:
    guard = Guard()
    for stamp, (name, meaning) in enumerate(FAULTS.items()):
        guard.latch(name, f"detail {stamp}", stamp)
        assert meaning.endswith(".")
    assert [fault.name for fault in guard.faults] == list(FAULTS)
    assert guard.counts == dict.fromkeys(FAULTS, 1)
