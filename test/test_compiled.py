"""A compiled network gives the network's velocities, answers everything else by the network, and is never silently another."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.models.network import VelocityNetwork
from flow_policy_ros.models.registry import make_network, network_config
from flow_policy_ros.policy import compiled as module
from flow_policy_ros.policy.checkpoint import load_checkpoint
from flow_policy_ros.policy.compiled import CompiledNetwork, CompileError, Seen, compiled, compiled_or_eager, kept_folder, parity
from flow_policy_ros.policy.deployed import deploy, empty_observation
from flow_policy_ros.policy.exported import BACKENDS
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.policy.graphs import ConditionModule, VelocityModule, example
from flow_policy_ros.runtime.parameters import ParameterError, PolicyParameters, from_flat
from flow_policy_ros.runtime.types import Continuation

SLOW = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # compilers
    pytest.mark.skipif("FLOW_POLICY_SLOW" not in os.environ, reason="FLOW_POLICY_SLOW=1 runs it"),
]
SHAPE = NetworkShape(state=5, horizon=8, action=3, tokens=2, channels=4, embodiments=2)


@pytest.fixture(autouse=True)
def one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def network(name: str = "dit_cross", sizes: tuple[tuple[str, int], ...] = (("width", 32), ("blocks", 1))) -> VelocityNetwork:
    torch.manual_seed(0)
    made = make_network(name, network_config(name, dict(sizes)), SHAPE).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made


def as_programs(of: VelocityNetwork) -> tuple[ConditionModule, VelocityModule]:
    """What is compiled, uncompiled."""
    with torch.no_grad():
        return ConditionModule(of), VelocityModule(of, of.condition(example(of.shape)))


def observation(batch: int) -> Conditioning:
    mask = torch.ones(batch, 2, dtype=torch.bool)
    mask[0, 1] = False
    return Conditioning.of(torch.randn(batch, 5), torch.randn(batch, 2, 4), mask)


def test_one_sample_goes_through_the_programs_and_the_rest_through_the_network() -> None:
    """With programs of other weights, so that it can be told who answered."""
    own, other = network(), network()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    made = CompiledNetwork(own, *as_programs(other))
    torch.manual_seed(1)
    one, two, x, t = observation(1), observation(2), torch.randn(1, 8, 3), torch.rand(1)
    with torch.no_grad():
        seen = made.condition(one)
        assert isinstance(seen, Seen)
        answered = made.velocity(x, t, seen)
        assert torch.allclose(answered, other.velocity(x, t, other.condition(one)), atol=1e-6)
        assert not torch.allclose(answered, own.velocity(x, t, own.condition(one)), atol=1e-3)
        pair, times = x.expand(2, -1, -1), t.expand(2)
        assert torch.equal(made.velocity(pair, times, made.condition(two)), own.velocity(pair, times, own.condition(two)))
    # From one sample's cache: a time per step, and gradients.
    right = CompiledNetwork(own, *as_programs(own))
    seen = right.condition(one)
    per_step = torch.rand(1, 8)
    torch.testing.assert_close(right.velocity(x, per_step, seen), own.velocity(x, per_step, own.condition(one)))
    x.requires_grad_()
    slope = torch.autograd.grad(right.velocity(x, t, seen).sum(), x)[0]
    torch.testing.assert_close(slope, torch.autograd.grad(own.velocity(x, t, own.condition(one)).sum(), x)[0])
    assert slope.abs().max() > 1e-3


def test_parity_sees_a_program_of_other_weights() -> None:
    own, other = network(), network()
    assert parity(own, CompiledNetwork(own, *as_programs(other))) < 1e-6
    with torch.no_grad():
        next(other.parameters()).view(-1)[0].add_(0.5)
    assert parity(own, CompiledNetwork(own, *as_programs(other))) > 1e-4
    with torch.no_grad():
        next(other.parameters()).fill_(float("nan"))
    assert not parity(own, CompiledNetwork(own, *as_programs(other))) <= 1e-4


def test_without_a_compiler_the_network_itself_runs_and_one_warning_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    own = network()
    with pytest.warns(RuntimeWarning, match=r"no C\+\+ compiler \(no-such-compiler\); install g\+\+") as told:
        assert compiled_or_eager(own) is own
    assert len(told) == 1 and not list(kept_folder().glob("*"))


def test_a_kept_program_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    own = network()
    folder = tmp_path / module._key(own)
    folder.mkdir()
    for name in module.PROGRAMS:
        (folder / f"{name}.pt2").write_bytes(b"not a program")
    with pytest.raises(CompileError, match="cannot be compiled"):
        compiled(own, tmp_path)


def test_programs_are_kept_for_weights_and_threads() -> None:
    own, other = network(), network()
    assert module._key(own) == module._key(other)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0].add_(1e-6)
    assert module._key(own) != module._key(other)
    key = module._key(own)
    torch.set_num_threads(2)
    assert module._key(own) != key


def test_the_parameter_knows_every_backend() -> None:
    assert [from_flat(PolicyParameters, "policy", {"policy.backend": name}).backend for name in BACKENDS] == list(BACKENDS)
    with pytest.raises(ParameterError, match=r"policy\.backend"):
        from_flat(PolicyParameters, "policy", {"policy.backend": "faster"})


def test_a_policy_without_a_compiler_is_deployed_all_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    given = {"checkpoint": str(root / "checkpoints" / "adroit_door_state"), "steps": 2}
    with pytest.warns(RuntimeWarning, match="runs uncompiled"):
        policy = deploy(PolicyParameters(**given, backend="compiled"), "adroit_door")
    expected = deploy(PolicyParameters(**given), "adroit_door").sample(empty_observation(policy.contract), 2, 0)[0]
    np.testing.assert_array_equal(policy.sample(empty_observation(policy.contract), 2, 0)[0], expected)


@pytest.mark.parametrize("name", [pytest.param("dit_cross", marks=SLOW), pytest.param("residual_mlp", marks=SLOW)])
def test_compiled_velocities_are_the_networks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the memory layout of what is given; and a second time without a compiler."""
    own = network(name, (("width", 32), ("blocks", 1)))
    made = compiled(own, tmp_path)
    torch.manual_seed(2)
    one, t = observation(1), torch.rand(1)
    x = torch.randn(1, 3, 8).transpose(1, 2)
    assert not x.is_contiguous()
    with torch.inference_mode():
        seen = made.condition(one)
        assert isinstance(seen, Seen)
        torch.testing.assert_close(made.velocity(x, t, seen), own.velocity(x, t, own.condition(one)), atol=1e-5, rtol=0)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert parity(own, compiled(own, tmp_path)) < 1e-5


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif("FLOW_POLICY_SLOW" not in os.environ, reason="FLOW_POLICY_SLOW=1 runs it")
def test_a_compiled_policy_samples_the_same_chunks_and_continues_them(root: Path) -> None:
    folder = root / "checkpoints" / "adroit_door_pen_state"
    robot = load_checkpoint(folder).codecs[0].contract.robot
    policy = deploy(PolicyParameters(checkpoint=str(folder), steps=5, backend="compiled"), robot)
    ours = FlowPolicy.load(folder, robot=robot)
    given = empty_observation(policy.contract)
    chunk = ours.sample(given, 5, 3)[0]
    np.testing.assert_allclose(policy.sample(given, 5, 3)[0], chunk, atol=1e-4)
    for method in ("rtc", "rtc_identity"):
        go_on = Continuation(method, chunk, 2, 4)
        np.testing.assert_allclose(policy.sample(given, 5, 4, go_on)[0], ours.sample(given, 5, 4, go_on)[0], atol=1e-4)
