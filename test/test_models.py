"""Velocity networks: one protocol, time per chunk or per step, and enough capacity for two modes."""

import pytest
import torch

from flow_policy_ros.models.embeddings import SinusoidalTime
from flow_policy_ros.models.network import NetworkShape
from flow_policy_ros.models.registry import NETWORKS, make_network, network_config
from flow_policy_ros.policy.vector_flow import VectorFlowModel

SHAPE = NetworkShape(observation=5, horizon=4, action=3)
SIZES = {
    "residual_mlp": {"width": 64, "blocks": 2, "expansion": 2, "time_width": 32, "observation_width": 32},
    "dit": {"width": 32, "blocks": 2, "heads": 2, "expansion": 2, "time_width": 32, "observation_width": 32},
}
names = pytest.mark.parametrize("name", list(NETWORKS))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def awake(name):
    """A network whose zero-initialised layers have random weights."""
    network = make_network(name, network_config(name, SIZES[name]), SHAPE)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.2)
    return network


@names
def test_starts_at_zero(name):
    network = make_network(name, network_config(name, SIZES[name]), SHAPE)
    v = network.velocity(torch.randn(2, 4, 3), torch.rand(2), network.condition(torch.randn(2, 5)))
    assert v.shape == (2, 4, 3) and (v == 0).all()


@names
def test_time_per_step_agrees_with_one_time_and_matters(name):
    network = awake(name)
    x, t = torch.randn(2, 4, 3), torch.rand(2)
    cache = network.condition(torch.randn(2, 5))
    one = network.velocity(x, t, cache)
    torch.testing.assert_close(network.velocity(x, t[:, None].expand(2, 4), cache), one)
    clean = t[:, None].repeat(1, 4)
    clean[:, 0] = 1.0
    assert (network.velocity(x, clean, cache) - one).abs().max() > 1e-4


@names
def test_every_input_matters_and_samples_are_independent(name):
    network = awake(name)
    x, t, observation = torch.randn(3, 4, 3), torch.rand(3), torch.randn(3, 5)

    def v(x, t, observation):
        return network.velocity(x, t, network.condition(observation))

    base = v(x, t, observation)
    for changed in (v(x + 0.1, t, observation), v(x, t * 0.5, observation), v(x, t, observation + 0.1)):
        assert (changed - base).abs().amax(dim=(1, 2)).min() > 1e-5
    torch.testing.assert_close(v(x[1:2], t[1:2], observation[1:2]), base[1:2], rtol=1e-4, atol=1e-5)


@names
def test_wrong_shapes_are_named(name):
    network = awake(name)
    x, t, cache = torch.zeros(2, 4, 3), torch.zeros(2), network.condition(torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"observation has shape \(2, 6\), expected \(2, 5\)"):
        network.condition(torch.zeros(2, 6))
    with pytest.raises(ValueError, match=r"observation has shape \(5,\), expected \(B, 5\)"):
        network.condition(torch.zeros(5))
    with pytest.raises(ValueError, match=r"x has shape \(2, 5, 3\), expected \(2, 4, 3\)"):
        network.velocity(torch.zeros(2, 5, 3), t, cache)
    with pytest.raises(ValueError, match=r"time has shape \(1,\), expected \(2,\) or \(2, 4\)"):
        network.velocity(x, torch.zeros(1), cache)


@names
def test_learns_two_modes_conditionally(name):
    """Actions are +-1 at random, scaled by the observation: the mean is 0, and only a flow covers both modes."""
    model = VectorFlowModel(name, SIZES[name], NetworkShape(1, 2, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(256, 2, dtype=torch.bool)
    for step in range(500):
        size = torch.randint(1, 3, (256, 1), generator=generator).float()
        sign = torch.randint(0, 2, (256, 1), generator=generator) * 2.0 - 1.0
        loss = model.compute_loss((sign * size)[:, :, None].expand(256, 2, 1), size, mask, generator)
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * (1 - step / 500)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        for size in (1.0, 2.0):
            chunk = model.sample(torch.full((400, 1), size), 10, generator=generator).x[:, :, 0] / size
            near = (chunk.abs() - 1).abs() < 0.35
            assert near.all(dim=1).float().mean() > 0.85, "samples lie near one of the modes"
            assert (chunk[:, 0].sign() == chunk[:, 1].sign()).float().mean() > 0.95, "a chunk keeps to its mode"
            assert 0.35 < (chunk[:, 0] > 0).float().mean() < 0.65, "both modes are covered"


def test_embedding_separates_times():
    embedding = SinusoidalTime(64)
    t = torch.linspace(0, 1, 101)
    e = embedding(t)
    assert e.shape == (101, 64)
    assert torch.cdist(e, e)[~torch.eye(101, dtype=torch.bool)].min() > 0.5
    assert embedding(t.view(1, 101)).shape == (1, 101, 64)
    assert not dict(embedding.named_parameters()) and not embedding.state_dict()


def test_registry_names_what_is_wrong():
    with pytest.raises(ValueError, match="unknown network 'gru'; known: residual_mlp, dit"):
        network_config("gru", {})
    with pytest.raises(ValueError, match=r"has no size 'heads'; its sizes and their defaults: width=512"):
        network_config("residual_mlp", {"heads": 2})
    with pytest.raises(ValueError, match="'width' of network 'dit' is 'wide', expected a number"):
        network_config("dit", {"width": "wide"})
    with pytest.raises(ValueError, match="expected at least 1"):
        network_config("dit", {"width": "0"})
    with pytest.raises(ValueError, match="not a multiple of its 3 heads"):
        make_network("dit", network_config("dit", {"width": 32, "heads": 3}), SHAPE)
