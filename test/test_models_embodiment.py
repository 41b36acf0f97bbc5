"""One set of weights per embodiment, padding to common sizes, and discretised time."""

import dataclasses

import pytest
import torch
from models_support import SHAPE, asleep, awake, inputs, observed

from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.models.embeddings import discretised
from flow_policy_ros.models.embodiment import ActionEncoder, CategoryLinear, CategoryMLP


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def test_each_sample_meets_the_weights_of_its_embodiment():
    layer = CategoryLinear(3, 4, 5)
    with torch.no_grad():
        layer.bias.normal_()
    x, embodiment = torch.randn(6, 2, 4), torch.tensor([2, 0, 1, 1, 2, 0])
    y = layer(x, embodiment)
    for k, e in enumerate(embodiment):
        torch.testing.assert_close(y[k], x[k] @ layer.weight[e] + layer.bias[e])


def test_mlp_and_action_encoder_are_their_formulas():
    mlp, encoder = CategoryMLP(2, 4, 6, 3), ActionEncoder(2, 4, 5, 6)
    x, time, e = torch.randn(1, 7, 4), torch.randn(1, 7, 5), torch.tensor([1])
    torch.testing.assert_close(mlp.select(e)(x), mlp.second(mlp.first(x, e).clamp(min=0), e))
    joined = encoder.w2(torch.cat((encoder.w1(x, e), time), dim=2), e)
    torch.testing.assert_close(encoder.select(e)(x, time), encoder.w3(joined * joined.sigmoid(), e))


@pytest.mark.parametrize("unknown", [-1, 2, 7])
def test_unknown_embodiments_are_refused(unknown):
    network = awake("embodiment_dit")
    with pytest.raises(ValueError, match=rf"embodiment is .*{unknown}.*, expected numbers from 0 to 1: the network has 2"):
        network.condition(dataclasses.replace(observed(2), embodiment=torch.tensor([0, unknown])))
    with pytest.raises(ValueError, match="expected numbers from 0 to 2"):
        CategoryLinear(3, 1, 1)(torch.zeros(1, 1, 1), torch.tensor([3]))


def test_the_embodiment_matters():
    network = awake("embodiment_dit")
    x, t, observation = inputs(2)
    zero, one = (
        network.velocity(x, t, network.condition(dataclasses.replace(observation, embodiment=torch.full((2,), e))))
        for e in (0, 1)
    )
    assert (zero - one).abs().amax(dim=(1, 2)).min() > 1e-2


def test_weights_of_other_embodiments_get_no_gradient():
    network = awake("embodiment_dit")
    x, t, observation = inputs(4)
    network.velocity(x, t, network.condition(observation)).square().sum().backward()
    layers = [m for m in network.modules() if isinstance(m, CategoryLinear)]
    assert len(layers) == 7
    for layer in layers:
        for parameter in (layer.weight, layer.bias):
            assert parameter.grad[0].abs().max() > 0 and (parameter.grad[1] == 0).all()


def test_padding_changes_nothing():
    """A network of the padded sizes, of which a smaller one is cut, agrees with it on the real dimensions."""
    wide = NetworkShape(state=32, horizon=4, action=32, tokens=3, channels=2, embodiments=2)
    narrow = dataclasses.replace(wide, state=7, action=5)
    padded, cut = awake("embodiment_dit", wide), asleep("embodiment_dit", narrow)
    weights = padded.state_dict()
    weights["state_encoder.first.weight"] = weights["state_encoder.first.weight"][:, :7]
    weights["action_encoder.w1.weight"] = weights["action_encoder.w1.weight"][:, :5]
    weights["action_decoder.second.weight"] = weights["action_decoder.second.weight"][:, :, :5]
    weights["action_decoder.second.bias"] = weights["action_decoder.second.bias"][:, :5]
    cut.load_state_dict(weights)
    x, t, observation = inputs(3, narrow)
    filled = dataclasses.replace(observation, state=torch.nn.functional.pad(observation.state, (0, 25)))
    v = cut.velocity(x, t, cut.condition(observation))
    full = padded.velocity(torch.nn.functional.pad(x, (0, 27)), t, padded.condition(filled))
    torch.testing.assert_close(full[:, :, :5], v, rtol=1e-5, atol=1e-5)
    full[:, :, :5].square().sum().backward()
    for layer, real in ((padded.state_encoder.first, 7), (padded.action_encoder.w1, 5)):
        assert (layer.weight.grad[:, real:] == 0).all() and layer.weight.grad[0, :real].abs().amax(dim=1).min() > 0


def test_time_is_discretised_to_a_thousandth():
    assert discretised(torch.tensor([0.0, 0.0005, 0.001, 0.5004, 0.9999, 1.0])).tolist() == pytest.approx(
        [0.0, 0.0, 0.001, 0.5, 0.999, 1.0]
    )
    for steps in range(1, 51):
        for k in range(steps):
            assert round(1000 * discretised(torch.full((1,), k / steps)).item()) == 1000 * k // steps
    network = awake("embodiment_dit")
    x, _, observation = inputs(2)
    cache = network.condition(observation)
    for shape in ((2,), (2, SHAPE.horizon)):
        low, high, next_one = (network.velocity(x, torch.full(shape, t), cache) for t in (0.4321, 0.4328, 0.4331))
        assert torch.equal(low, high) and (low - next_one).abs().max() > 1e-4


def test_state_and_future_tokens_have_the_earliest_time():
    network = awake("embodiment_dit")
    seen = []
    network.sinusoid.register_forward_hook(lambda _, t, __: seen.append(t[0]))
    t = torch.tensor([[0.75, 0.25, 0.5, 1.0]])
    network.velocity(torch.randn(1, 4, 3), t, network.condition(observed(1)))
    assert seen[0].tolist() == [[0.25, 0.25, 0.25, 0.75, 0.25, 0.5, 1.0]]


def test_future_tokens_take_part():
    network = awake("embodiment_dit")
    x, t, observation = inputs(2)
    before = network.velocity(x, t, network.condition(observation))
    with torch.no_grad():
        network.future.normal_()
    assert (network.velocity(x, t, network.condition(observation)) - before).abs().max() > 1e-3


def test_state_is_encoded_and_weights_are_chosen_once_per_chunk():
    network = awake("embodiment_dit")
    x, t, observation = inputs(2)
    cache = network.condition(observation)
    with torch.no_grad():
        for module in (network.state_encoder, network.action_encoder, network.action_decoder, network.memory):
            for parameter in module.parameters():
                parameter.fill_(torch.nan)
    assert network.velocity(x, t, cache).isfinite().all()


def test_embodiments_share_a_batch():
    network = awake("embodiment_dit")
    x, t = torch.randn(4, 4, 3), torch.rand(4)
    parts = [dataclasses.replace(observed(2), embodiment=torch.full((2,), e)) for e in (1, 0)]
    together = network.velocity(x, t, network.condition(Conditioning.cat(parts)))
    for k, part in enumerate(parts):
        rows = slice(2 * k, 2 * k + 2)
        torch.testing.assert_close(network.velocity(x[rows], t[rows], network.condition(part)), together[rows])
