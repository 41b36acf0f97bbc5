"""What the loop does with an instruction, whoever reads it."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from test_policy_loop import CONTRACT, MS, Recorder, feed

from flow_policy_ros.nodes.policy_worker import PolicyWorker
from flow_policy_ros.runtime.buffers import Stale
from flow_policy_ros.runtime.contract import StreamContract
from flow_policy_ros.runtime.joint_order import BadInput
from flow_policy_ros.runtime.parameters import PolicyParameters
from flow_policy_ros.runtime.policy_loop import InstructedPolicy, PolicyLoop
from flow_policy_ros.runtime.types import Chunk, Features, JointState, Observation

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
    assert [heard(loop, policy, k * 1_000 * MS) for k in (1, 4)] == [4.0, 4.0]
    loop.instruct("close it", 5_000 * MS)
    assert [heard(loop, policy, k * 1_000 * MS) for k in (5, 400)] == [8.0, 8.0]


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


def test_after_a_clock_was_set_back_the_newest_order_counts_and_is_named() -> None:
    """Also where it was set back to an instant at which another order held; of that one nothing comes back."""
    policy = Listener()
    loop = PolicyLoop(policy, PolicyParameters())
    loop.instruct("open", 0)
    assert heard(loop, policy, 0) == 4.0
    loop.instruct("close it", 10_000 * MS)
    assert heard(loop, policy, 10_000 * MS) == 8.0
    seen = []
    for now in (9_000, 9_600, 10_100, 60_000):
        if now == 9_600:
            loop.instruct("stop it now", 9_500 * MS)
        seen.append((heard(loop, policy, now * MS), loop.sampled.instruction if loop.sampled else ""))
    assert seen == [(8.0, "close it"), *[(11.0, "stop it now")] * 3]
    loop.reset()
    loop.instruct("halt", 20 * MS)
    for now in (30, 5):
        assert heard(loop, policy, now * MS) == 4.0 and loop.sampled is not None and loop.sampled.instruction == "halt"


class Signed(Listener):
    """Goes one way when told to open, the other way when told anything else."""

    contract = replace(Listener.contract, horizon=32)

    def sample(self, observation: Observation, steps: int, seed: int) -> tuple[np.ndarray, int]:
        return np.full((32, 2), 1.0 if observation.features["said"][0, 0] == 4.0 else -1.0), 1


@pytest.mark.parametrize("mode", ["receding", "ensemble"])
def test_an_order_is_followed_whole_at_the_next_chunk(mode: str) -> None:
    """Nothing of the order before is averaged in, nor of a chunk that was under way when the new one came."""
    loop = PolicyLoop(Signed(), PolicyParameters(mode=mode))
    loop.instruct("open", 0)
    for k in range(3):
        feed(loop, k * 100 * MS)
        chunk = loop.step(k * 100 * MS)
        assert isinstance(chunk, Chunk) and (chunk.positions == 1.0).all()
    feed(loop, 300 * MS)
    under_way = loop.observe(300 * MS)
    assert not isinstance(under_way, Stale)
    loop.instruct("close it", 310 * MS)
    late = loop.infer(under_way)
    assert isinstance(late, Chunk) and (loop.finish(late).positions == 1.0).all()
    for k in (4, 5):
        feed(loop, k * 100 * MS)
        chunk = loop.step(k * 100 * MS)
        assert isinstance(chunk, Chunk) and (chunk.positions == -1.0).all()


def test_what_is_too_long_is_not_read_at_all() -> None:
    asked: list[str] = []

    class Slow(Listener):
        def instruct(self, instruction: str, stamp: int) -> tuple[Features, ...]:
            asked.append(instruction)
            return super().instruct(instruction, stamp)

    loop = PolicyLoop(Slow(), PolicyParameters())
    with pytest.raises(ValueError, match="has 1000000 characters, expected at most"):
        loop.instruct("a" * 1_000_000, 0)
    assert not asked and loop.rejections == {"instruction": 1}


def test_the_worker_goes_on_listening_while_an_instruction_is_read() -> None:
    begun, go = threading.Event(), threading.Event()
    in_time: list[bool] = []

    class Slow(Listener):
        def instruct(self, instruction: str, stamp: int) -> tuple[Features, ...]:
            begun.set()
            in_time.append(go.wait(20.0))
            return super().instruct(instruction, stamp)

    loop = PolicyLoop(Slow(), PolicyParameters())
    worker = PolicyWorker(loop, lambda: 0, lambda product, ms: None)
    teller = threading.Thread(target=worker.instruct, args=("open", 0))
    try:
        teller.start()
        assert begun.wait(60.0)
        worker.on_joint_state(JointState(0, ("b", "a"), np.zeros(2)))
        go.set()
        teller.join()
        assert in_time == [True] and loop.instruction == "open"
    finally:
        go.set()
        worker.close()


def test_a_policy_that_reads_none_goes_on_as_before() -> None:
    policy = Recorder()
    loop = PolicyLoop(policy, PolicyParameters())
    loop.instruct("open", 0)
    feed(loop, 0)
    assert not loop.listens and isinstance(loop.step(0), Chunk) and not loop.rejections
    assert loop.sampled is not None and loop.sampled.instruction == ""


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
