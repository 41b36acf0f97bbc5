"""Velocity networks: what holds for every family in the registry."""

import dataclasses
import math
import os
import shutil
import sysconfig
from pathlib import Path

import pytest
import torch
from models_support import SHAPE, SIZES, asleep, awake, inputs, observed
from torch import nn

from flow_policy_ros.models.conditioning import Conditioning
from flow_policy_ros.models.embeddings import SinusoidalTime
from flow_policy_ros.models.registry import NETWORKS, make_network, network_config

COMPILER = shutil.which(os.environ.get("CXX", "g++")) and Path(sysconfig.get_path("include"), "Python.h").exists()
names = pytest.mark.parametrize("name", list(NETWORKS))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def compiler():
    """Forgets what was compiled before: after eight versions of one function torch.compile silently gives up."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def velocity(network, x, t, observation):
    """Without a cache that lasts."""
    return network.velocity(x, t, network.condition(observation))


def change(a, b):
    """The largest change of each sample."""
    return (a - b).abs().amax(dim=(1, 2))


@names
def test_starts_at_zero(name):
    v = velocity(asleep(name), *inputs(2))
    assert v.shape == (2, 4, 3) and (v == 0).all()


@names
def test_time_per_step_agrees_with_one_time_and_matters(name):
    network = awake(name)
    x, t, observation = inputs(2)
    cache = network.condition(observation)
    one = network.velocity(x, t, cache)
    torch.testing.assert_close(network.velocity(x, t[:, None].expand(2, 4), cache), one)
    for step in range(4):
        later = t[:, None].repeat(1, 4)
        later[:, step] = 1.0
        assert change(network.velocity(x, later, cache), one).min() > 1e-4


@names
def test_every_input_matters(name):
    network = awake(name)
    x, t, observation = inputs(3)
    base = velocity(network, x, t, observation)
    changed = [velocity(network, x + 0.1, t, observation), velocity(network, x, t * 0.5, observation)]
    changed.append(velocity(network, x, t, dataclasses.replace(observation, state=observation.state + 0.1)))
    for token in range(SHAPE.tokens):
        tokens, mask = observation.tokens.clone(), observation.token_mask.clone()
        tokens[:, token] += 0.1
        mask[:, token] = False
        changed.append(velocity(network, x, t, dataclasses.replace(observation, tokens=tokens)))
        changed.append(velocity(network, x, t, dataclasses.replace(observation, token_mask=mask)))
    for v in changed:
        assert change(v, base).min() > 1e-5


@names
def test_every_step_and_dimension_of_x_matters_everywhere(name):
    network = awake(name)
    x, t, observation = inputs(1)
    cache = network.condition(observation)
    jacobian = torch.autograd.functional.jacobian(lambda x: network.velocity(x, t, cache), x)[0, :, :, 0]
    assert jacobian.abs().amin() > 1e-7


@names
def test_samples_are_independent_of_their_batch(name):
    network = awake(name)
    x, t, observation = inputs(8)
    observation = dataclasses.replace(observation, embodiment=torch.arange(8) % 2)
    many = velocity(network, x, t, observation)
    for k in range(8):
        one = velocity(network, x[k : k + 1], t[k : k + 1], observation.take(slice(k, k + 1)))
        assert (one - many[k : k + 1]).abs().max() < 1e-5 * max(1.0, many[k].abs().max().item())


@names
def test_masked_tokens_do_not_matter_whatever_they_hold(name):
    network = awake(name)
    x, t, observation = inputs(3)
    mask = torch.tensor([[True, False, True], [False, False, True], [False, False, False]])
    base = velocity(network, x, t, dataclasses.replace(observation, token_mask=mask))
    assert base.isfinite().all()
    for held in (1e6, math.inf, math.nan):
        tokens = torch.where(mask[:, :, None], observation.tokens, held).requires_grad_()
        v = velocity(network, x, t, dataclasses.replace(observation, tokens=tokens, token_mask=mask))
        assert torch.equal(v, base)
        v.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in [*network.parameters(), tokens])
        network.zero_grad()


@names
@pytest.mark.parametrize("channels", [0, 2])
def test_without_tokens_the_state_is_seen(name, channels):
    shape = dataclasses.replace(SHAPE, tokens=0, channels=channels)
    network = awake(name, shape)
    x, t, observation = inputs(3, shape)
    base = velocity(network, x, t, observation)
    assert base.isfinite().all()
    assert change(velocity(network, x, t, dataclasses.replace(observation, state=observation.state + 0.1)), base).min() > 1e-5
    again = asleep(name, shape)
    again.load_state_dict(network.state_dict())
    assert torch.equal(velocity(again, x, t, observation), base)


@names
@pytest.mark.parametrize("horizon", [1, 5, 16, 48])
def test_any_horizon(name, horizon):
    shape = dataclasses.replace(SHAPE, horizon=horizon)
    network = awake(name, shape)
    x, t, observation = inputs(2, shape)
    cache = network.condition(observation)
    base = network.velocity(x, t, cache)
    assert base.shape == x.shape and base.isfinite().all()
    for step in {0, horizon // 2, horizon - 1}:
        moved = x.clone()
        moved[:, step] += 0.5
        assert (network.velocity(moved, t, cache) - base)[:, step].abs().amin() > 1e-6


@names
def test_one_cache_serves_all_steps(name):
    network = awake(name)
    x, _, observation = inputs(2)
    cache = network.condition(observation)
    cached = fresh = x
    for k in range(4):
        t = torch.full((2,), k / 4)
        cached = cached + 0.25 * network.velocity(cached, t, cache)
        fresh = fresh + 0.25 * velocity(network, fresh, t, observation)
    assert torch.equal(cached, fresh)


@names
def test_training_mode_is_evaluation_mode(name):
    network = awake(name)
    x, t, observation = inputs(2)
    trained = velocity(network.train(), x, t, observation)
    assert torch.equal(velocity(network.eval(), x, t, observation), trained)
    forbidden = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)
    assert not [m for m in network.modules() if isinstance(m, forbidden)]


@names
def test_gradient_through_the_network_is_that_of_finite_differences(name):
    """Real-time chunking takes vector-Jacobian products of x -> v."""
    network = awake(name).double()
    x, t, observation = inputs(2)
    observation = dataclasses.replace(observation, state=observation.state.double(), tokens=observation.tokens.double())
    cache = network.condition(observation)
    x, t = x.double().requires_grad_(), t.double()
    weight, direction = torch.randn_like(x), torch.randn_like(x)
    (gradient,) = torch.autograd.grad(network.velocity(x, t, cache), x, weight)
    with torch.no_grad():
        ahead, behind = (network.velocity(x + h * direction, t, cache) for h in (1e-5, -1e-5))
    torch.testing.assert_close((gradient * direction).sum(), ((ahead - behind) * weight).sum() / 2e-5, rtol=1e-6, atol=1e-8)


@names
def test_mixed_precision_stays_near(name):
    network = awake(name)
    x, t, observation = inputs(4)
    exact = velocity(network, x, t, observation)
    with torch.autocast("cpu", torch.bfloat16):
        rough = velocity(network, x, t, observation)
        rough.float().square().mean().backward()
    assert (rough - exact).norm() < 0.1 * exact.norm()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@names
def test_compiles_into_one_graph(name, compiler):
    network = awake(name).eval()
    x, t, observation = inputs(2)
    cache = network.condition(observation)
    compiled = torch.compile(network.velocity, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, t, cache), network.velocity(x, t, cache))


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="torch.compile needs a C++ compiler and Python's headers")
def test_compiled_code_agrees(compiler):
    network = awake("dit_cross").eval()
    x, t, observation = inputs(1)
    cache = network.condition(observation)
    with torch.no_grad():
        v = torch.compile(network.velocity, fullgraph=True)(x, t, cache)
        torch.testing.assert_close(v, network.velocity(x, t, cache), rtol=1e-4, atol=1e-5)


@names
def test_wrong_shapes_are_named(name):
    network = awake(name)
    good = observed(2)
    x, t, cache = torch.zeros(2, 4, 3), torch.zeros(2), network.condition(good)
    for field, bad, text in (
        ("state", torch.zeros(2, 6), r"state has shape \(2, 6\), expected \(2, 5\)"),
        ("tokens", torch.zeros(2, 2, 3), r"tokens has shape \(2, 2, 3\), expected \(2, 3, 2\)"),
        ("token_mask", torch.ones(1, 3).bool(), r"token_mask has shape \(1, 3\), expected \(2, 3\)"),
        ("token_mask", torch.ones(2, 3), r"token_mask has type torch.float32, expected torch.bool"),
        ("embodiment", torch.zeros(1).long(), r"embodiment has shape \(1,\), expected \(2,\)"),
        ("embodiment", torch.zeros(2), r"embodiment has type torch.float32, expected torch.int64"),
    ):
        with pytest.raises(ValueError, match=text):
            network.condition(dataclasses.replace(good, **{field: bad}))
    with pytest.raises(ValueError, match=r"x has shape \(2, 5, 3\), expected \(2, 4, 3\)"):
        network.velocity(torch.zeros(2, 5, 3), t, cache)
    for bad in (torch.zeros(1), torch.zeros(2, 1), torch.zeros(2, 4, 1)):
        with pytest.raises(ValueError, match=r"time has shape .*, expected \(2,\) or \(2, 4\)"):
            network.velocity(x, bad, cache)


def test_conditioning_is_a_batch():
    first, second = observed(2), observed(1)
    both = Conditioning.cat((first, second))
    assert len(both) == 3 and torch.equal(both.take(slice(2, 3)).tokens, second.tokens)
    assert both.vector.shape == (3, SHAPE.vector) and torch.equal(both.vector[:2, :5], first.state)
    alone = Conditioning.of(torch.zeros(2, 5))
    assert alone.tokens.shape == (2, 0, 0) and alone.token_mask.shape == (2, 0) and alone.embodiment.tolist() == [0, 0]
    alone.check(dataclasses.replace(SHAPE, tokens=0, channels=0))


def test_embedding_separates_times():
    embedding = SinusoidalTime(64)
    t = torch.linspace(0, 1, 101)
    e = embedding(t)
    assert e.shape == (101, 64)
    assert torch.cdist(e, e)[~torch.eye(101, dtype=torch.bool)].min() > 0.5
    assert embedding(t.view(1, 101)).shape == (1, 101, 64)
    assert not dict(embedding.named_parameters()) and not embedding.state_dict()


@names
def test_default_networks_are_small(name):
    shape = dataclasses.replace(SHAPE, state=30, horizon=16, action=28, tokens=8, channels=32)
    network = make_network(name, network_config(name, {}), shape)
    assert 1e6 < sum(p.numel() for p in network.parameters()) < 1e7


def test_registry_names_what_is_wrong():
    assert list(SIZES) == list(NETWORKS)
    with pytest.raises(ValueError, match="unknown network 'gru'; known: residual_mlp, unet1d, dit, dit_cross, embodiment_dit"):
        network_config("gru", {})
    with pytest.raises(ValueError, match=r"has no size 'heads'; its sizes and their defaults: width=512"):
        network_config("residual_mlp", {"heads": 2})
    with pytest.raises(ValueError, match="'width' of network 'dit' is 'wide', expected a number"):
        network_config("dit", {"width": "wide"})
    with pytest.raises(ValueError, match="expected at least 1"):
        network_config("dit", {"width": "0"})
    for name in ("dit", "dit_cross", "embodiment_dit"):
        with pytest.raises(ValueError, match="not a multiple of its 3 heads"):
            make_network(name, network_config(name, {"width": 32, "heads": 3}), SHAPE)
    for sizes in ({"width": 36, "heads": 8}, {"width": 12, "heads": 4}):
        with pytest.raises(ValueError, match=r"is not a multiple of its \d heads, each an even number wide"):
            make_network("deep_features", network_config("deep_features", sizes), SHAPE)
    with pytest.raises(ValueError, match="width 36 is not a multiple of its 8 groups"):
        make_network("unet1d", network_config("unet1d", {"width": 36}), SHAPE)
    with pytest.raises(ValueError, match="kernel is 4, expected an odd number"):
        make_network("unet1d", network_config("unet1d", {"kernel": 4}), SHAPE)
