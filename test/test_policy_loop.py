"""When a chunk is computed, from what, and what of it is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flow_policy_ros.runtime.buffers import Stale
from flow_policy_ros.runtime.contract import Contract, StreamContract
from flow_policy_ros.runtime.joint_order import BadInput
from flow_policy_ros.runtime.parameters import ParameterError, PolicyParameters
from flow_policy_ros.runtime.policy_loop import PolicyLoop, SampleRequest
from flow_policy_ros.runtime.types import Chunk, Execution, Features, JointState, Observation, Plan, Setpoint

MS = 1_000_000
CONTRACT = Contract("toy", ("a", "b"), ("b", "a"), 10 * MS, 3, (StreamContract("eye", 1, 2, {}),))


class Recorder:
    """A policy that answers with a given array and remembers what it was asked."""

    contract = CONTRACT

    def __init__(self, answer=None) -> None:
        self.answer = np.arange(6.0).reshape(3, 2) if answer is None else answer
        self.asked: list[tuple[Observation, int, int]] = []

    def sample(self, observation: Observation, steps: int, seed: int):
        self.asked.append((observation, steps, seed))
        return self.answer, steps


class Counter(Recorder):
    """Answers otherwise each time."""

    def sample(self, observation: Observation, steps: int, seed: int):
        answer, nfe = super().sample(observation, steps, seed)
        return answer + len(self.asked), nfe


def feed(loop: PolicyLoop, now: int) -> None:
    loop.on_joint_state(JointState(now, ("b", "a"), np.array([2.0, 1.0])), now)
    loop.on_features(Features(now, "eye", np.zeros((1, 2), np.float32)), now)


def due_instants(loop: PolicyLoop, instants) -> list[int]:
    """The instants at which the loop is due and sampled, with fresh inputs."""
    taken = []
    for now in instants:
        if loop.due(now):
            feed(loop, now)
            loop.step(now)
            taken.append(now)
    return taken


def test_a_chunk_carries_what_made_it() -> None:
    policy = Recorder()
    loop = PolicyLoop(policy, PolicyParameters(steps=7, seed=5))
    feed(loop, 40 * MS)
    chunk = loop.step(50 * MS)
    assert isinstance(chunk, Chunk)
    assert (chunk.stamp, chunk.dt_ns, chunk.names, chunk.nfe, chunk.seed) == (40 * MS, 10 * MS, ("b", "a"), 7, 5)
    assert chunk.positions.dtype == np.float64 and np.array_equal(chunk.positions, policy.answer)
    assert chunk.observation_stamps == {"joint_state": 40 * MS, "eye": 40 * MS}
    observation, steps, seed = policy.asked[0]
    assert observation.joint_position.tolist() == [1.0, 2.0] and (steps, seed) == (7, 5)


def test_due_lies_on_a_grid_from_the_first_sample() -> None:
    loop = PolicyLoop(Recorder(), PolicyParameters(rate_hz=12.5))
    start = 1_000 * MS + 3
    taken = due_instants(loop, range(start, start + 500 * MS, 10 * MS))
    assert taken == [start + k * 80 * MS for k in range(7)]


def test_due_is_a_question_without_effect() -> None:
    loop = PolicyLoop(Recorder(), PolicyParameters())
    assert loop.due(5) and loop.due(5)
    loop.step(5)
    assert not loop.due(5)


def test_ticks_beside_the_grid_make_no_drift() -> None:
    """30 samples per second on 7 ms ticks: each at the first tick at or after its grid point."""
    loop = PolicyLoop(Recorder(), PolicyParameters(rate_hz=30.0))
    taken = due_instants(loop, range(0, 20_000 * MS, 7 * MS))
    grid = np.round(np.arange(600) * 1e9 / 30).astype(np.int64)
    assert taken == (-(-grid // (7 * MS)) * 7 * MS).tolist()


@pytest.mark.parametrize("rate_hz", [0.3, 7.0, 30.0, 33.3, 199.0])
def test_every_grid_point_is_taken_once_at_its_exact_instant(rate_hz: float) -> None:
    loop = PolicyLoop(Recorder(), PolicyParameters(rate_hz=rate_hz))
    origin = 1_800_000_000_000_000_123
    instants = [origin + round(k * 1e9 / rate_hz) for k in range(400)]
    around = sorted({t + d for t in instants for d in (-1, 0, 1)})[1:]
    assert due_instants(loop, around) == instants


def test_no_burst_after_a_pause() -> None:
    loop = PolicyLoop(Recorder(), PolicyParameters(rate_hz=10.0))
    before = due_instants(loop, range(0, 250 * MS, 10 * MS))
    after = due_instants(loop, range(1_030 * MS, 1_400 * MS, 10 * MS))
    assert before == [0, 100 * MS, 200 * MS]
    assert after == [1_030 * MS, 1_100 * MS, 1_200 * MS, 1_300 * MS]


def test_stale_inputs_use_up_their_grid_point_without_sampling() -> None:
    policy = Recorder()
    loop = PolicyLoop(policy, PolicyParameters(rate_hz=10.0))
    result = loop.step(0)
    assert isinstance(result, Stale) and "joint state" in result.reason
    assert policy.asked == [] and not loop.due(99 * MS) and loop.due(100 * MS)


def test_reset_forgets_inputs_and_is_due_at_once() -> None:
    loop = PolicyLoop(Recorder(), PolicyParameters())
    feed(loop, 0)
    assert isinstance(loop.step(0), Chunk)
    loop.reset()
    assert loop.due(1)
    result = loop.step(1)
    assert isinstance(result, Stale) and "nothing received" in result.reason


def test_a_clock_set_back_does_not_silence_the_policy() -> None:
    loop = PolicyLoop(Recorder(), PolicyParameters(rate_hz=10.0))
    assert due_instants(loop, (1_000 * MS, 1_050 * MS)) == [1_000 * MS]
    assert due_instants(loop, (20 * MS, 60 * MS, 120 * MS)) == [20 * MS, 120 * MS]


def test_parameters_change_while_running() -> None:
    policy = Recorder()
    loop = PolicyLoop(policy, PolicyParameters(rate_hz=10.0))
    assert due_instants(loop, range(0, 130 * MS, 10 * MS)) == [0, 100 * MS]
    loop.update(PolicyParameters(rate_hz=20.0, steps=3, seed=9, features_max_age_s=0.01))
    assert due_instants(loop, range(130 * MS, 260 * MS, 10 * MS)) == [150 * MS, 200 * MS, 250 * MS]
    assert policy.asked[-1][1:] == (3, 9)
    loop.on_joint_state(JointState(300 * MS, ("b", "a"), np.zeros(2)), 300 * MS)
    result = loop.step(300 * MS)
    assert isinstance(result, Stale) and "features 'eye'" in result.reason and "0.010 s" in result.reason


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (np.zeros((2, 2)), "(3, 2)"),
        (np.zeros(6), "(6,)"),
        (np.array([[0, 0], [0, 0], [np.nan, 0]]), "['b']"),
        (np.full((3, 2), np.inf), "['b', 'a']"),
    ],
)
def test_a_bad_sample_never_becomes_a_chunk(answer, named) -> None:
    loop = PolicyLoop(Recorder(answer), PolicyParameters())
    feed(loop, 0)
    result = loop.step(0)
    assert isinstance(result, Stale) and "policy output" in result.reason and named in result.reason


@pytest.mark.parametrize("mode", ["receding", "ensemble"])
def test_observe_infer_and_finish_are_the_parts_of_step(mode: str) -> None:
    parts, whole = (PolicyLoop(Counter(), PolicyParameters(mode=mode)) for _ in range(2))
    for now in (0, 100 * MS):
        for loop in (parts, whole):
            feed(loop, now)
        request = parts.observe(now + 5)
        assert isinstance(request, SampleRequest) and not parts.due(now + 5)
        raw, second = parts.infer(request), whole.step(now + 5)
        assert isinstance(raw, Chunk) and isinstance(second, Chunk)
        first = parts.finish(raw)
        assert np.array_equal(first.positions, second.positions)
        assert replace(first, positions=second.positions) == second


def test_a_busy_policy_is_not_due() -> None:
    loop = PolicyLoop(Recorder(), PolicyParameters(rate_hz=10.0))
    taken = []
    for now in range(0, 600 * MS, 10 * MS):
        if loop.due(now):
            feed(loop, now)
            loop.step(now)
            loop.occupy(now + (135 * MS if len(taken) < 2 else 5 * MS))
            taken.append(now // MS)
    assert taken == [0, 140, 280, 300, 400, 500]  # late, then on the old grid again
    loop.occupy(10_000 * MS)
    loop.reset()
    assert loop.due(600 * MS)


def test_a_mode_that_the_policy_cannot_do_is_refused_by_name_and_changes_nothing() -> None:
    with pytest.raises(ParameterError, match=r"policy.mode is 'rtc', but .* use receding or ensemble"):
        PolicyLoop(Recorder(), PolicyParameters(mode="rtc"))
    policy = Recorder()
    loop = PolicyLoop(policy, PolicyParameters(steps=7))
    with pytest.raises(ParameterError, match="'rtc_trained'"):
        loop.update(PolicyParameters(mode="rtc_trained", steps=8))
    feed(loop, 0)
    chunk = loop.step(0)
    assert isinstance(chunk, Chunk) and policy.asked[0][1] == 7
    assert chunk.execution == Execution("receding")


def test_bad_news_of_what_was_executed_are_raised_and_counted() -> None:
    loop = PolicyLoop(Recorder(), PolicyParameters())
    with pytest.raises(BadInput):
        loop.on_setpoint(Setpoint(0, ("a",), np.zeros(1), np.zeros(1), np.zeros(1)), 0)
    with pytest.raises(BadInput):
        loop.on_plan(Plan(0, MS, ("b", "a"), np.full((2, 2), np.nan), 0), 0)
    assert loop.rejections == {"executed_names": 1, "plan_not_finite": 1} and loop.delay is None


def test_bad_inputs_are_raised_and_counted() -> None:
    loop = PolicyLoop(Recorder(), PolicyParameters())
    with pytest.raises(BadInput):
        loop.on_joint_state(JointState(0, ("a",), np.zeros(1)), 0)
    with pytest.raises(BadInput):
        loop.on_features(Features(0, "ear", np.zeros((1, 2), np.float32)), 0)
    assert loop.rejections == {"joint_state_names": 1, "features_stream": 1}
