"""What the loop does with an instruction, whoever reads it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_policy_loop import CONTRACT, MS, Recorder, feed

from flow_policy_ros.runtime.buffers import Stale
from flow_policy_ros.runtime.contract import StreamContract
from flow_policy_ros.runtime.joint_order import BadInput
from flow_policy_ros.runtime.parameters import PolicyParameters
from flow_policy_ros.runtime.policy_loop import InstructedPolicy, PolicyLoop
from flow_policy_ros.runtime.types import Chunk, Features, Observation

SAID = StreamContract("said", 1, 1, {"extractor": "sentence"}, moment="standing")


class Listener(Recorder):
    """Reads an instruction as its length; refuses an empty one."""

    contract = replace(CONTRACT, streams=(*CONTRACT.streams, SAID))

    def instruct(self, instruction: str, stamp: int) -> tuple[Features, ...]:
        if not instruction:
            raise ValueError("the instruction is empty.")
        return (Features(stamp, "said", np.full((1, 1), len(instruction), np.float32)),)


def heard(loop: PolicyLoop, policy: Recorder, now: int) -> float | str:
    """What the policy observes at an instant, or why there is no chunk."""
    feed(loop, now)
    product = loop.step(now)
    if isinstance(product, Stale):
        return product.reason
    observation: Observation = policy.asked[-1][0]
    return float(observation.features["said"][0, 0])


def test_an_instruction_is_part_of_every_observation_from_its_receipt_on() -> None:
    policy = Listener()
    assert isinstance(policy, InstructedPolicy) and not isinstance(Recorder(), InstructedPolicy)
    loop = PolicyLoop(policy, PolicyParameters())
    assert loop.listens and loop.instruction == ""
    assert "no instruction has been given" in str(heard(loop, policy, 0))
    loop.instruct("open", 150 * MS)
    assert "no instruction" in str(heard(loop, policy, 140 * MS))
    assert heard(loop, policy, 200 * MS) == 4.0
    loop.instruct("close it", 5_000 * MS)  # heard by then
    assert [heard(loop, policy, k * 1_000 * MS) for k in (1, 4, 5, 400)] == [4.0, 4.0, 8.0, 8.0]


def test_an_instruction_that_cannot_be_read_changes_nothing_and_is_counted() -> None:
    policy = Listener()
    loop = PolicyLoop(policy, PolicyParameters())
    loop.instruct("open", 0)
    with pytest.raises(ValueError, match="the instruction is empty"):
        loop.instruct("", 10 * MS)
    assert (loop.instruction, loop.rejections, heard(loop, policy, 20 * MS)) == ("open", {"instruction": 1}, 4.0)


def test_a_reset_keeps_the_order_given() -> None:
    policy = Listener()
    loop = PolicyLoop(policy, PolicyParameters())
    loop.instruct("open", 1_000 * MS)
    loop.instruct("close it", 2_000 * MS)
    assert heard(loop, policy, 2_000 * MS) == 8.0
    loop.reset()
    reset = loop.step(3_000 * MS)
    assert isinstance(reset, Stale) and "joint state: nothing received yet" in reset.reason
    assert loop.instruction == "close it" and heard(loop, policy, 10 * MS) == 8.0  # the clock begins anew
    loop.instruct("stop", 30 * MS)
    assert heard(loop, policy, 100 * MS) == 4.0 and heard(loop, policy, 2_500 * MS) == 4.0


def test_a_clock_set_back_keeps_the_order_given() -> None:
    policy = Listener()
    loop = PolicyLoop(policy, PolicyParameters())
    loop.instruct("open", 1_000 * MS)
    assert heard(loop, policy, 1_000 * MS) == 4.0
    assert loop.due(20 * MS) and heard(loop, policy, 20 * MS) == 4.0


def test_a_policy_that_reads_none_goes_on_as_before() -> None:
    policy = Recorder()
    loop = PolicyLoop(policy, PolicyParameters())
    loop.instruct("open", 0)
    feed(loop, 0)
    assert not loop.listens and isinstance(loop.step(0), Chunk) and not loop.rejections


def test_what_a_policy_makes_of_it_is_checked_like_any_input() -> None:
    class Muddled(Listener):
        def instruct(self, instruction: str, stamp: int) -> tuple[Features, ...]:
            return (Features(stamp, "said", np.full((1, 1), np.nan, np.float32)),)

    loop = PolicyLoop(Muddled(), PolicyParameters())
    with pytest.raises(BadInput, match="features 'said' hold NaN or Inf"):
        loop.instruct("open", 0)
    assert loop.instruction == ""


def test_a_camera_may_be_slower_than_others() -> None:
    patient = PolicyLoop(Recorder(), PolicyParameters(joint_state_max_age_s=9.0), stream_max_age_s={"eye": 3.0})
    plain = PolicyLoop(Recorder(), PolicyParameters(joint_state_max_age_s=9.0))
    for loop in (patient, plain):
        feed(loop, 0)
    assert isinstance(patient.step(2_900 * MS), Chunk) and isinstance(plain.step(2_900 * MS), Stale)
    patient.update(PolicyParameters(joint_state_max_age_s=9.0, features_max_age_s=0.1))
    assert isinstance(patient.step(3_000 * MS), Chunk) and isinstance(patient.step(3_001 * MS), Stale)
