"""Each mode of chunk execution on checkpoints of every kind of network: what it continues, what it refuses, and that it stays
within bounds when the model is late, stalls, or the robot stops.

The command stage here is the least one that tells the truth: it follows the newest chunk as it is, and says so in plans.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_parity import ARM, HAND, as_observation, every_network, make_checkpoint, raw_inputs

from flow_policy_ros.flow.deadline import StepCost
from flow_policy_ros.policy.checkpoint import save_checkpoint
from flow_policy_ros.policy.deployed import DeadlinePolicy, deploy, empty_continuation, empty_observation, measure_cost
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.runtime.chunk_execution import CONTINUING, allowed_steps
from flow_policy_ros.runtime.contract import Contract
from flow_policy_ros.runtime.parameters import ParameterError, PolicyParameters
from flow_policy_ros.runtime.policy_loop import PLAN_PATIENCE_NS, ContinuingPolicy, PolicyLoop, SampleRequest
from flow_policy_ros.runtime.types import (
    Chunk,
    Continuation,
    Execution,
    Features,
    FloatArray,
    JointState,
    Observation,
    Plan,
    Setpoint,
)

MS = 1_000_000
TICK, DT, HORIZON, STEPS = 10 * MS, 20 * MS, 16, 6
ROBOTS = tuple(replace(contract, horizon=HORIZON) for contract in (HAND, ARM))
MODES = ("receding", "ensemble", *CONTINUING)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def make_policy(network: str = "residual_mlp", robot: str = "arm", action_space: str = "relative", **flow: object) -> FlowPolicy:
    return FlowPolicy(make_checkpoint(network, ROBOTS, action_space, **flow), robot=robot)


def observation_of(policy: FlowPolicy, stamp: int = 5) -> Observation:
    return as_observation(raw_inputs(policy.contract, 1), 0, stamp)


def something_executed(policy: FlowPolicy, method: str, delay: int = 4, execute: int = 4) -> Continuation:
    """The policy's own chunk for another noise: far from the one that is asked for, yet a chunk."""
    previous, _ = policy.sample(observation_of(policy), STEPS, 99)
    return Continuation(method, previous, delay, execute)


@every_network
@pytest.mark.parametrize("robot", ["hand", "arm"])
@pytest.mark.parametrize("method", CONTINUING)
def test_a_chunk_goes_on_from_what_is_executed(network: str, robot: str, method: str) -> None:
    """In rad or m, relative to the measured position, padded for one of the robots."""
    policy = make_policy(network, robot, prefix=6)
    seen = observation_of(policy)
    executed = something_executed(policy, method)
    free, _ = policy.sample(seen, STEPS, 1)
    chunk, nfe = policy.sample(seen, STEPS, 1, executed)
    away, free_away = (np.abs(c - executed.previous)[: executed.delay].mean() for c in (chunk, free))
    assert free_away > 0.05 and nfe == STEPS
    if method == "rtc_trained":
        np.testing.assert_allclose(chunk[: executed.delay], executed.previous[: executed.delay], rtol=0, atol=1e-5)
    else:
        assert away < 0.35 * free_away
    assert np.abs(chunk - executed.previous)[-4:].max() > 0.05  # what is far ahead is not held
    np.testing.assert_array_equal(policy.sample(seen, STEPS, 1, executed)[0], chunk)
    np.testing.assert_array_equal(policy.sample(seen, STEPS, 1)[0], free)


def test_exact_and_identity_differ_and_both_work_with_guidance_of_conditions() -> None:
    checkpoint = make_checkpoint("residual_mlp", ROBOTS, condition_dropout=0.2)
    policy = FlowPolicy(checkpoint, robot="arm", guidance_scale=2.0)
    chunks = [policy.sample(observation_of(policy), STEPS, 1, something_executed(policy, m))[0] for m in ("rtc", "rtc_identity")]
    assert np.abs(chunks[0] - chunks[1]).max() > 1e-3


def test_a_continuation_that_does_not_fit_is_refused() -> None:
    policy, trained = make_policy(), make_policy(prefix=3)
    seen = observation_of(policy)
    good = something_executed(policy, "rtc")
    for bad, words in (
        (replace(good, previous=good.previous[:-1]), r"previous has shape \(15, 2\), expected \(16, 2\)"),
        (replace(good, method="magic"), "magic.* rtc, rtc_identity, rtc_trained"),
        (replace(good, method="rtc_trained"), "trained without committed prefixes"),
        (replace(good, delay=9, execute=9), "a delay of 0 to 8"),
        (replace(good, previous=good.previous * np.nan), "NaN"),
    ):
        with pytest.raises(ValueError, match=words):
            policy.sample(seen, STEPS, 1, bad)
    with pytest.raises(ValueError, match="overshoots"):
        policy.sample(seen, 4, 1, good)
    with pytest.raises(ValueError, match="trained with up to 3"):
        trained.sample(seen, STEPS, 1, replace(good, method="rtc_trained", delay=4))


def test_modes_are_refused_by_name_at_start_and_while_running() -> None:
    plain, trained = make_policy(), make_policy(prefix=3)
    start = PolicyParameters(mode="receding", steps=STEPS)
    for policy, steps, mode, words in (
        (plain, STEPS, "rtc_trained", "trained without committed prefixes; use rtc or rtc_identity"),
        (plain, 4, "rtc", "with 4 solver steps its guidance overshoots; use 5 or more"),
        (plain, 4, "rtc_identity", "use 5 or more"),
    ):
        parameters = PolicyParameters(mode=mode, steps=steps)
        with pytest.raises(ParameterError, match=f"policy.mode is '{mode}', but .*{words}"):
            PolicyLoop(policy, parameters)
        loop = PolicyLoop(policy, start)
        with pytest.raises(ParameterError, match=words):
            loop.update(parameters)
        run = Run(loop, policy)
        run.ticks(1)
        assert run.chunks[0].execution == Execution("receding") and run.chunks[0].nfe == STEPS  # all as before
    PolicyLoop(trained, PolicyParameters(mode="rtc_trained", steps=1))  # no guidance, so nothing overshoots


def test_a_deadline_that_leaves_too_few_steps_is_refused_for_guidance() -> None:
    policy = make_policy(prefix=3)
    hurried = DeadlinePolicy(policy, 0.0075, StepCost(0.0, 0.001), StepCost(0.0, 0.002))
    assert isinstance(hurried, ContinuingPolicy) and hurried.prefix == 3
    assert hurried.refusal("rtc_identity", 10) is None and hurried.refusal("rtc_trained", 10) is None
    assert "deadline of 7.5 ms leaves 3 of 10" in (hurried.refusal("rtc", 10) or "")
    assert "with 4 solver steps" in (hurried.refusal("rtc", 4) or "")
    slack = DeadlinePolicy(policy, 0.0125, StepCost(0.0, 0.001), StepCost(0.0, 0.002))
    used = [slack.sample(observation_of(policy), 50, 1, c)[1] for c in (None, something_executed(policy, "rtc"))]
    assert used == [12, 6]


def test_deployed_policies_continue_and_their_cost_is_measured_by_method(tmp_path) -> None:
    checkpoint = make_checkpoint("residual_mlp", ROBOTS, prefix=3)
    save_checkpoint(tmp_path, checkpoint)
    for deadline in (0.0, 10.0):
        policy = deploy(PolicyParameters(checkpoint=str(tmp_path), steps=STEPS, deadline_s=deadline), "arm")
        for method in CONTINUING:
            continuation = empty_continuation(policy.contract, method)
            assert policy.sample(empty_observation(policy.contract), STEPS, 0, continuation)[1] == STEPS
    assert measure_cost(FlowPolicy.load(tmp_path, robot="arm"), "rtc").per_evaluation_s > 0


def test_steps_are_clamped_to_what_real_time_chunking_allows() -> None:
    for horizon in (2, 3, 16, 48):
        for longest in (0, 1, horizon // 2, 10 * horizon):
            for delay in range(0, 3 * horizon):
                for execute in range(0, 3 * horizon, 2):
                    steps = allowed_steps(horizon, longest, delay, execute)
                    d, s = steps.delay, steps.execute
                    assert 0 <= d <= s <= horizon - d and d <= longest
                    if delay <= min(execute, longest) and execute <= horizon - delay:
                        assert (d, s, steps.clamped) == (delay, execute, ())
                    else:
                        assert steps.clamped
    assert allowed_steps(16, 8, 3, 2).execute == 3 and allowed_steps(16, 8, 40, 2).delay == 8


class Run:
    """``loop`` on simulated time with a command stage that follows the newest visible chunk as it is.

    ``latency(k)`` ns is what sampling chunk k takes; ``obeys`` False is a stage that refuses chunks and holds.
    """

    def __init__(self, loop: PolicyLoop, policy: object, latency: Callable[[int], int] = lambda k: 0) -> None:
        self.loop, self.latency, self.obeys = loop, latency, True
        self.contract: Contract = policy.contract  # type: ignore[attr-defined]
        self.inputs = raw_inputs(self.contract, 1)
        self.now = 1_000_000 * MS
        self.chunks: list[Chunk] = []
        self.sent: dict[int, FloatArray] = {}
        self.plans: list[Plan] = []
        self._pending: list[tuple[int, Chunk]] = []
        self._followed: Chunk | None = None
        self._last = np.zeros(len(self.contract.action_joints))

    def ticks(self, count: int) -> None:
        for _ in range(count):
            self._policy()
            self._command()
            self.now += TICK

    def _policy(self) -> None:
        seen = as_observation(self.inputs, 0)
        self.loop.on_joint_state(JointState(self.now, self.contract.joints, seen.joint_position), self.now)
        for name, values in seen.features.items():
            self.loop.on_features(Features(self.now, name, values), self.now)
        if self.loop.due(self.now):
            chunk = self.loop.step(self.now)
            assert isinstance(chunk, Chunk), chunk
            done = self.now + self.latency(len(self.chunks))
            self.chunks.append(chunk)
            self._pending.append((done, chunk))
            self.loop.occupy(done)

    def _command(self) -> None:
        names = self.contract.action_joints
        visible = [chunk for done, chunk in self._pending if done <= self.now]
        self._pending = [(done, chunk) for done, chunk in self._pending if done > self.now]
        if visible and self.obeys and visible[-1].end() > self.now:
            self._followed = visible[-1]
            rows = (self._followed.end() - self.now) // DT + 1
            positions = np.stack([self._at(self.now + k * DT) for k in range(rows)])
            self.plans.append(Plan(self.now, DT, names, positions, self._followed.stamp))
            self.loop.on_plan(self.plans[-1], self.now)
        if not self.obeys:
            self._followed = None
        self._last = self._at(self.now)
        self.sent[self.now] = self._last
        self.loop.on_setpoint(Setpoint(self.now, names, self._last, 0 * self._last, 0 * self._last), self.now)

    def _at(self, instant: int) -> FloatArray:
        chunk = self._followed
        if chunk is None or instant > chunk.end():
            return self._last
        index = (instant - chunk.stamp) / chunk.dt_ns
        return np.stack([np.interp(index, np.arange(HORIZON), column) for column in chunk.positions.T])


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_runs_and_says_what_it_did(mode: str) -> None:
    policy = make_policy(prefix=4)
    loop = PolicyLoop(policy, PolicyParameters(mode=mode, steps=STEPS, rate_hz=12.5))
    run = Run(loop, policy, latency=lambda k: 35 * MS)
    run.ticks(60)
    assert [c.stamp - run.chunks[0].stamp for c in run.chunks] == [80 * MS * k for k in range(len(run.chunks))]
    first, *others = [c.execution for c in run.chunks]
    assert first == Execution(mode)
    # 40 ms of delay and 20 ms more for the joint: 3 steps; held are those and 80 ms of overlap, the 4 after them.
    steps = 2 if mode == "rtc_trained" else 3
    continued = Execution(mode, True, steps, HORIZON - steps - 4) if mode in CONTINUING else Execution(mode)
    assert set(others) == {continued} and loop.clamped == {}
    assert loop.delay == 40 * MS  # the first tick at which a chunk that takes 35 ms is there


@pytest.mark.parametrize("method", ["rtc", "rtc_identity"])
def test_seams_close_where_chunks_continue_each_other(method: str) -> None:
    """At the instant at which a chunk takes over: how far it lies from what the one before would have gone on with.

    (A network trained with prefixes has to learn that step, which is the first that is not committed; here none has learned.)
    """

    def jump(mode: str) -> float:
        policy = make_policy(prefix=4)
        run = Run(PolicyLoop(policy, PolicyParameters(mode=mode, steps=STEPS)), policy, latency=lambda k: 35 * MS)
        run.ticks(120)
        jumps = []
        for before, after in zip(run.plans, run.plans[1:], strict=False):
            row, between = divmod(after.stamp - before.stamp, DT)
            assert between == 0
            jumps.append(np.abs(after.positions[0] - before.positions[row]).max())
        return float(np.mean(jumps))

    free, continued = jump("receding"), jump(method)
    assert free > 0.2 and continued < 0.5 * free


def test_previous_is_what_the_stage_said_it_would_send() -> None:
    """Not the raw chunk: a stage that stretches chunks to half their speed is continued at half the speed."""
    policy = make_policy(prefix=4)
    asked: list[Continuation | None] = []
    real = policy.sample

    def sample(observation: Observation, steps: int, seed: int, continuation: Continuation | None = None):
        asked.append(continuation)
        return real(observation, steps, seed, continuation)

    policy.sample = sample  # type: ignore[method-assign]
    loop = PolicyLoop(policy, PolicyParameters(mode="rtc_trained", steps=STEPS, rate_hz=12.5))
    run = Run(loop, policy)
    slow_rows = np.linspace(0.0, 1.0, 40)[:, None] * np.ones(2)
    real_on_plan = loop.on_plan
    loop.on_plan = lambda plan, received: real_on_plan(replace(plan, positions=slow_rows), received)  # type: ignore[method-assign]
    loop.on_setpoint = lambda setpoint, received: None  # type: ignore[method-assign]
    run.ticks(9)
    assert len(asked) == 2 and asked[0] is None and asked[1] is not None
    np.testing.assert_allclose(asked[1].previous, slow_rows[4 : 4 + HORIZON], rtol=0, atol=1e-12)


def test_ensembling_averages_what_earlier_chunks_said() -> None:
    policy = make_policy()
    runs = [Run(PolicyLoop(policy, PolicyParameters(mode=mode, steps=STEPS, rate_hz=25.0)), policy) for mode in MODES[:2]]
    for run in runs:
        run.ticks(9)
    raw, averaged = ([c.positions for c in run.chunks] for run in runs)
    assert np.array_equal(averaged[0], raw[0])
    old, new = np.exp(-0.01 * np.arange(2)) / np.exp(-0.01 * np.arange(2)).sum()
    np.testing.assert_allclose(averaged[1][:-2], old * raw[0][2:] + new * raw[1][:-2], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(averaged[1][-2:], raw[1][-2:])


def test_modes_change_while_running() -> None:
    """Continuing at once, since what is executed was heard all along; and averaging nothing of before."""
    policy = make_policy(prefix=4)
    parameters = PolicyParameters(steps=STEPS, rate_hz=12.5)
    loop = PolicyLoop(policy, parameters)
    run = Run(loop, policy, latency=lambda k: 20 * MS)
    for mode in ("receding", "rtc_trained", "ensemble", "rtc", "receding", "rtc_identity", "ensemble"):
        loop.update(replace(parameters, mode=mode))
        run.ticks(8)
        steps = 1 if mode == "rtc_trained" else 2
        assert run.chunks[-1].execution == (
            Execution(mode, True, steps, HORIZON - steps - 4) if mode in CONTINUING else Execution(mode)
        )
    again = Run(PolicyLoop(policy, parameters), policy)
    again.now = run.chunks[-1].stamp
    again.ticks(1)
    np.testing.assert_array_equal(run.chunks[-1].positions, again.chunks[0].positions)  # the first of its ensemble


def test_a_change_while_a_chunk_is_sampled_counts_from_the_next_one() -> None:
    """The other mode may do with fewer steps than the one that the sample under way was begun in."""
    policy = make_policy()
    parameters = PolicyParameters(mode="rtc", steps=STEPS, rate_hz=12.5)
    loop = PolicyLoop(policy, parameters)
    run = Run(loop, policy)
    run.ticks(8)
    loop.on_joint_state(JointState(run.now, run.contract.joints, np.zeros(2)), run.now)
    request = loop.observe(run.now)
    assert isinstance(request, SampleRequest) and request.continuation is not None
    loop.update(replace(parameters, mode="receding", steps=1))
    chunk = loop.infer(request)
    assert isinstance(chunk, Chunk) and chunk.nfe == STEPS and loop.finish(chunk) == chunk
    run.now += 80 * MS
    run.ticks(1)
    assert run.chunks[-1].nfe == 1


@pytest.mark.parametrize("mode", CONTINUING)
def test_delays_beyond_what_was_trained_or_is_possible_are_clamped_and_counted(mode: str) -> None:
    policy = make_policy(prefix=4)
    loop = PolicyLoop(policy, PolicyParameters(mode=mode, steps=STEPS, rate_hz=12.5))
    run = Run(loop, policy, latency=lambda k: 210 * MS)  # 11 of 16 steps
    run.ticks(150)
    assert loop.delay == 210 * MS
    late = [c.execution for c in run.chunks if c.execution is not None and c.execution.continued]
    assert len(late) >= 4 and {e.delay for e in late} == {4 if mode == "rtc_trained" else 8}
    assert all("delay" in e.clamped for e in late) and loop.clamped["delay"] == len(late)
    assert all(0 <= e.delay <= e.execute <= HORIZON - e.delay for e in late)


@pytest.mark.parametrize("mode", MODES)
def test_a_model_slower_than_its_chunks_leaves_the_robot_where_it_is(mode: str) -> None:
    policy = make_policy(prefix=4)
    loop = PolicyLoop(policy, PolicyParameters(mode=mode, steps=STEPS))
    run = Run(loop, policy, latency=lambda k: 700 * MS)  # a chunk lasts 300 ms
    run.ticks(300)
    assert 4 <= len(run.chunks) <= 5  # one after the other; who continues waits a little for news
    assert run.plans == [] and loop.delay is None and {c.execution for c in run.chunks} == {Execution(mode)}
    assert all((position == 0.0).all() for position in run.sent.values())


@pytest.mark.parametrize("mode", CONTINUING)
def test_after_a_stall_it_begins_anew(mode: str) -> None:
    """One sample takes 2 s: by then the plan has ended, and a chunk is not bent to a robot that stands."""
    policy = make_policy(prefix=4)
    loop = PolicyLoop(policy, PolicyParameters(mode=mode, steps=STEPS, rate_hz=12.5))
    run = Run(loop, policy, latency=lambda k: 2_000 * MS if k == 10 else 20 * MS)
    run.ticks(360)
    continued = [c.execution.continued for c in run.chunks if c.execution is not None]
    assert continued[:13] == [False] + 10 * [True] + [False, True] and all(continued[12:])
    assert loop.delay == 20 * MS  # a share of 0.9 is covered; the chunk that came too late was never obeyed


@pytest.mark.parametrize("mode", CONTINUING)
def test_a_stage_that_stops_is_not_continued(mode: str) -> None:
    policy = make_policy(prefix=4)
    loop = PolicyLoop(policy, PolicyParameters(mode=mode, steps=STEPS, rate_hz=12.5))
    run = Run(loop, policy, latency=lambda k: 20 * MS)
    run.ticks(40)
    run.obeys = False
    run.ticks(40)
    stopped = [c for c in run.chunks if c.stamp >= 1_000_000 * MS + 480 * MS]
    assert len(stopped) >= 3 and not any(c.execution is not None and c.execution.continued for c in stopped)
    run.obeys = True
    run.ticks(20)
    assert run.chunks[-1].execution is not None and run.chunks[-1].execution.continued


def test_a_chunk_is_not_begun_before_the_fate_of_the_last_is_known() -> None:
    """A saturated policy: what it continues is the chunk that was just taken over, not the one before."""
    policy = make_policy(prefix=6)
    loop = PolicyLoop(policy, PolicyParameters(mode="rtc_trained", steps=STEPS, rate_hz=100.0))
    run = Run(loop, policy, latency=lambda k: 60 * MS)
    run.ticks(60)
    for plan, chunk in zip(run.plans, run.chunks[1:], strict=False):
        assert plan.stamp == chunk.stamp - TICK
    assert len(run.chunks) == 9
    # With a stage that says nothing, no longer than the patience.
    run.obeys = False
    before = len(run.chunks)
    run.ticks(60)
    apart = np.diff([c.stamp for c in run.chunks[before + 1 :]])
    assert len(apart) >= 3 and set(apart) == {60 * MS + PLAN_PATIENCE_NS}


def test_a_clock_set_back_forgets_what_was_executed() -> None:
    policy = make_policy(prefix=4)
    loop = PolicyLoop(policy, PolicyParameters(mode="rtc_trained", steps=STEPS, rate_hz=12.5))
    run = Run(loop, policy)
    run.ticks(20)
    run.now -= 500_000 * MS
    run._followed = None
    run.ticks(20)
    continued = [c.execution.continued for c in run.chunks if c.execution is not None]
    assert continued == [False, True, True, False, True, True]
