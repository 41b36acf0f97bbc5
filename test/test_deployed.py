"""From parameters to the policy that runs: solver, guidance, deadline, and which robot of several."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_policy import CONTRACT, make_checkpoint, make_observation

from flow_policy_ros.flow.deadline import StepCost
from flow_policy_ros.policy.checkpoint import CheckpointError, save_checkpoint
from flow_policy_ros.policy.deployed import DeadlinePolicy, deploy, measure_cost
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.runtime.parameters import ParameterError, PolicyParameters, from_flat
from flow_policy_ros.runtime.policy_loop import PolicyLoop, SampleRequest


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def parameters(tmp_path):
    save_checkpoint(tmp_path / "c", make_checkpoint())
    return PolicyParameters(checkpoint=str(tmp_path / "c"))


def test_without_options_it_is_the_checkpoints_own_policy(parameters):
    chunk, nfe = deploy(parameters, "hand").sample(make_observation(), 3, 1)
    expected, _ = FlowPolicy.load(parameters.checkpoint).sample(make_observation(), 3, 1)
    np.testing.assert_array_equal(chunk, expected)
    assert nfe == 3


@pytest.mark.parametrize(("solver", "nfe"), [("midpoint", 6), ("heun", 6), ("rk4", 12)])
def test_solver_is_a_choice_of_the_moment(parameters, solver, nfe):
    policy = deploy(replace(parameters, solver=solver), "hand")
    chunk, used = policy.sample(make_observation(), 3, 1)
    euler, _ = deploy(parameters, "hand").sample(make_observation(), 3, 1)
    assert used == nfe and 1e-4 < np.abs(chunk - euler).max() < 0.5
    own = make_checkpoint(solver=solver)  # as a checkpoint's own solver it gives the same
    np.testing.assert_array_equal(FlowPolicy(own).sample(make_observation(), 3, 1)[0], chunk)


def test_adaptive_solver_comes_near_a_fine_grid(parameters):
    chunk, nfe = deploy(replace(parameters, solver="rk45"), "hand").sample(make_observation(), 3, 1)
    fine, _ = deploy(replace(parameters, solver="rk4"), "hand").sample(make_observation(), 600, 1)
    assert nfe > 6 and np.abs(chunk - fine).max() < 2e-3


def test_guidance_without_a_null_condition_is_refused_at_the_start(parameters):
    with pytest.raises(ValueError, match=r"guidance_scale is not 1, .* --condition-dropout above 0"):
        deploy(replace(parameters, guidance_scale=2.0), "hand")


def test_bounds_of_the_parameters():
    for flat in ({"policy.solver": "rk9"}, {"policy.guidance_scale": -1.0}, {"policy.deadline_s": -0.1}):
        with pytest.raises(ParameterError, match=next(iter(flat))):
            from_flat(PolicyParameters, "policy", flat)


def test_deadline_takes_the_steps_that_fit_and_never_more_than_asked_for(parameters):
    policy = FlowPolicy.load(parameters.checkpoint)
    cost = StepCost(fixed_s=0.002, per_evaluation_s=0.001)
    hurried = DeadlinePolicy(policy, 0.0075, cost)
    assert [hurried.sample(make_observation(), steps, 1)[1] for steps in (1, 3, 50)] == [1, 3, 5]
    np.testing.assert_array_equal(hurried.sample(make_observation(), 50, 1)[0], policy.sample(make_observation(), 5, 1)[0])
    assert DeadlinePolicy(FlowPolicy.load(parameters.checkpoint, solver="rk4"), 0.0105, cost).sample(
        make_observation(), 50, 1)[1] == 8  # two steps of four evaluations
    late = DeadlinePolicy(policy, 0.001, cost)
    assert late.sample(make_observation(), 50, 1)[1] == 1 and not late.choice(50).fits
    with pytest.raises(ValueError, match="budget"):
        DeadlinePolicy(policy, 0.0, cost)


def test_deadline_is_measured_on_the_real_policy(parameters):
    """A generous deadline leaves all steps, an impossible one leaves one, and every chunk of a run has the same number."""
    assert deploy(replace(parameters, deadline_s=10.0), "hand").sample(make_observation(), 10, 1)[1] == 10
    tight = deploy(replace(parameters, deadline_s=1e-6), "hand")
    loop = PolicyLoop(tight, replace(parameters, deadline_s=1e-6))
    assert {loop.infer(SampleRequest(make_observation(stamp=k), 10, 0)).nfe for k in range(3)} == {1}
    cost = measure_cost(FlowPolicy.load(parameters.checkpoint))
    assert cost.per_evaluation_s > 0 and cost.seconds(8) > cost.seconds(1)


def test_deadline_needs_a_solver_with_fixed_steps(parameters):
    with pytest.raises(ValueError, match="no fixed"):
        deploy(replace(parameters, solver="rk45", deadline_s=0.1), "hand")


def test_solver_and_guidance_change_from_the_next_chunk_on(tmp_path):
    save_checkpoint(tmp_path / "c", make_checkpoint(condition_dropout=0.2))
    start = PolicyParameters(checkpoint=str(tmp_path / "c"), steps=3)
    other = replace(start, solver="heun", guidance_scale=2.0)
    loop = PolicyLoop(deploy(start, "hand"), start)
    under_way = SampleRequest(make_observation(), 3, 0, policy=loop.policy)  # as ``observe`` makes it
    plain = loop.infer(under_way)
    loop.require(other)
    np.testing.assert_array_equal(loop.infer(SampleRequest(make_observation(), 3, 0)).positions, plain.positions)  # only asked
    loop.update(other)
    changed = loop.infer(SampleRequest(make_observation(), 3, 0))
    np.testing.assert_array_equal(changed.positions, deploy(other, "hand").sample(make_observation(), 3, 0)[0])
    assert changed.nfe == 6 and np.abs(changed.positions - plain.positions).max() > 1e-4
    np.testing.assert_array_equal(loop.infer(under_way).positions, plain.positions)  # a chunk that was begun before is as it was
    loop.update(start)
    np.testing.assert_array_equal(loop.infer(SampleRequest(make_observation(), 3, 0)).positions, plain.positions)


def test_what_the_checkpoint_cannot_do_is_refused_and_changes_nothing(parameters):
    loop = PolicyLoop(deploy(parameters, "hand"), parameters)
    before = loop.policy
    for other, words in (
        (replace(parameters, guidance_scale=2.0, seed=7), r"policy.guidance_scale 2.0: .* --condition-dropout above 0"),
        (replace(parameters, deadline_s=0.1), "start the node with policy.deadline_s above 0"),
    ):
        for judge in (loop.require, loop.update):
            with pytest.raises(ParameterError, match=words):
                judge(other)
        assert loop.policy is before and loop.infer(SampleRequest(make_observation(), 3, 0)).nfe == 3


def test_a_deadline_changes_with_the_cost_that_was_measured(tmp_path):
    save_checkpoint(tmp_path / "c", make_checkpoint(condition_dropout=0.2))
    start = PolicyParameters(checkpoint=str(tmp_path / "c"), steps=10, deadline_s=0.0125)
    policy = DeadlinePolicy(FlowPolicy.load(start.checkpoint), start.deadline_s, StepCost(0.0, 0.001), StepCost(0.0, 0.002))
    loop = PolicyLoop(policy, start)

    def nfe():
        return loop.infer(SampleRequest(make_observation(), 10, 0, policy=loop.policy)).nfe

    assert nfe() == 10
    loop.update(replace(start, deadline_s=0.0045))
    assert nfe() == 4
    loop.update(replace(start, deadline_s=0.0045, solver="midpoint"))
    assert nfe() == 4  # two steps of two evaluations
    for refused, words in (
        (replace(start, deadline_s=0.0045, guidance_scale=2.0), "measured without guidance"),
        (replace(start, deadline_s=0.0045, solver="rk45"), "no fixed"),
        (replace(start, deadline_s=0.0045, mode="rtc"), "leaves 2 of 10"),  # exact guidance costs twice as much
    ):
        with pytest.raises(ParameterError, match=words):
            loop.update(refused)
        assert nfe() == 4
    loop.update(replace(start, deadline_s=0.0, guidance_scale=2.0, mode="rtc"))
    assert nfe() == 10
    with pytest.raises(ParameterError, match="measured without guidance"):
        loop.update(replace(start, guidance_scale=2.0))
    loop.update(replace(start, deadline_s=0.0025))
    assert nfe() == 2


def test_a_policy_that_cannot_be_tuned_says_so(parameters):
    class Fixed:
        contract = CONTRACT

        def sample(self, observation, steps, seed):
            raise AssertionError

    loop = PolicyLoop(Fixed(), parameters)
    with pytest.raises(ParameterError, match=r"policy.solver 'heun': .* start it anew"):
        loop.update(replace(parameters, solver="heun"))


def test_a_checkpoint_of_several_robots_wants_to_know_which():
    from flow_policy_ros.policy.checkpoint import Checkpoint

    one = make_checkpoint()
    codec = one.codec_of()
    other = make_checkpoint(replace(CONTRACT, robot="claw")).codec_of()
    both = Checkpoint(one.model, (codec, other))
    assert both.codec_of("claw") is other
    with pytest.raises(CheckpointError, match=r"'foot' is none of the checkpoint's embodiments, \['hand', 'claw'\]"):
        both.codec_of("foot")
