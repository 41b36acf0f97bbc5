"""Deep fusion over feature tokens: against the decoders of ``transformers``, and what is computed once per observation."""

import dataclasses

import pytest
import torch
from models_support import SHAPE, SIZES, asleep, awake, inputs, observed

from flow_policy_ros.flow.solvers import make_solver
from flow_policy_ros.models.decoder import turns

WIDTHS = SIZES["deep_features"]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def llama(width, hidden, layers):
    """A decoder of ``transformers`` with random weights."""
    pytest.importorskip("transformers")
    from vlm_support import randomised

    from flow_policy_ros.vision.pretrained import import_transformers

    transformers = import_transformers()
    heads = WIDTHS["heads"]
    config = transformers.LlamaConfig(
        hidden_size=width, intermediate_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, vocab_size=1,
        num_key_value_heads=heads, head_dim=WIDTHS["width"] // heads, attn_implementation="eager",
    )  # fmt: skip
    return randomised(transformers.LlamaModel(config))


def take_over(layer, theirs):
    """Give a layer the weights of one of ``transformers``'."""
    attention, mlp = theirs.self_attn, theirs.mlp
    layer.qkv.norm.load_state_dict(theirs.input_layernorm.state_dict())
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    layer.qkv.project.weight.data = torch.cat([part.weight.data for part in parts])
    layer.attended.load_state_dict(attention.o_proj.state_dict())
    layer.norm.load_state_dict(theirs.post_attention_layernorm.state_dict())
    layer.gate_up.weight.data = torch.cat((mlp.gate_proj.weight.data, mlp.up_proj.weight.data))
    layer.down.load_state_dict(mlp.down_proj.state_dict())


@pytest.mark.parametrize("state", [5, 0])
def test_each_velocity_is_that_of_an_expert_of_transformers_on_a_decoder_of_transformers(state):
    """Keys and values by way of its cache, masks and positions as the deep fusion of a vision-language model has them."""
    shape = dataclasses.replace(SHAPE, state=state)
    layers = WIDTHS["layers"]
    reads, acts = (llama(WIDTHS[width], WIDTHS[hidden], layers) for width, hidden in
                   (("prefix_width", "prefix_hidden"), ("width", "hidden")))  # fmt: skip
    from flow_policy_ros.models.expert import suffix_cache, through_layers
    from flow_policy_ros.models.prefix import Prefix
    from flow_policy_ros.models.suffix import added

    network = awake("deep_features", shape)
    for ours, theirs in zip(network.prefix.layers, reads.layers, strict=False):
        take_over(ours, theirs)
    network.prefix.last.norm.load_state_dict(reads.layers[-1].input_layernorm.state_dict())
    last = reads.layers[-1].self_attn
    network.prefix.last.project.weight.data = torch.cat((last.k_proj.weight.data, last.v_proj.weight.data))
    for ours, theirs in zip(network.layers, acts.layers, strict=True):
        take_over(ours, theirs)
    network.norm.load_state_dict(acts.norm.state_dict())

    mask = torch.tensor([[True, True, True], [True, False, True], [False, False, False]])
    x, t, observation = inputs(3, shape)
    observation = dataclasses.replace(observation, token_mask=mask)
    with torch.no_grad():
        tokens = observation.visible_tokens @ network.prefix.project + network.prefix.row
        sees = (mask[:, None] | torch.eye(3, dtype=torch.bool))[:, None]
        read = reads(inputs_embeds=tokens, attention_mask=added(sees, torch.float32), use_cache=True).past_key_values
        keys_values = torch.stack([torch.stack((layer.keys, layer.values), dim=1) for layer in read.layers], dim=1)
        seen = Prefix(keys_values, mask, torch.full((3,), 3), torch.zeros_like(mask))
        cache = suffix_cache(seen, network.tokens.state(observation.state), shape.horizon, torch.float32)
        suffix = torch.cat((cache.state, network.tokens.actions(x, t)), dim=1)
        expected = network.tokens.velocity(through_layers(acts, suffix, cache)[:, -shape.horizon :])
        torch.testing.assert_close(network.velocity(x, t, network.condition(observation)), expected, rtol=1e-5, atol=1e-5)
    assert expected.abs().mean() > 0.1


def test_features_are_read_once_per_observation():
    network = awake("deep_features")
    calls = []
    for layer in (*network.prefix.layers, network.prefix.last):
        layer.register_forward_hook(lambda *_: calls.append(1))
    noise, _, observation = inputs(2)
    with torch.no_grad():
        cache = network.condition(observation)
        once = make_solver("euler").solve(lambda x, t: network.velocity(x, t, cache), noise, 10).x
        assert len(calls) == WIDTHS["layers"]
        anew = make_solver("euler").solve(lambda x, t: network.velocity(x, t, network.condition(observation)), noise, 10).x
    assert len(calls) == 11 * WIDTHS["layers"]
    assert torch.equal(once, anew)


def test_keys_and_values_of_features_do_not_depend_on_the_state():
    network = awake("deep_features")
    observation = observed(2)
    other = dataclasses.replace(observation, state=observation.state + 1.0)
    assert torch.equal(network.condition(observation).keys_values, network.condition(other).keys_values)


def test_the_state_sees_no_action_and_actions_see_all():
    network = awake("deep_features")
    observation = dataclasses.replace(observed(1), token_mask=torch.tensor([[True, False, True]]))
    mask = network.condition(observation).mask[0, 0].int().tolist()
    assert mask == [[1, 0, 1, 1, 0, 0, 0, 0]] + [[1, 0, 1, 1, 1, 1, 1, 1]] * 4


def test_every_weight_learns():
    network = awake("deep_features")
    x, t, observation = inputs(3)
    network.velocity(x, t, network.condition(observation)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_equal_features_in_other_rows_mean_something_else():
    """By the row's embedding: positions alone, which turn keys and queries, would not tell one row from the next by itself."""
    network = awake("deep_features")
    x, t, observation = inputs(2)
    alone = [dataclasses.replace(observation, tokens=observation.tokens[:, :1].expand(-1, 3, -1),
                                 token_mask=torch.arange(3).expand(2, 3) == row) for row in (0, 2)]  # fmt: skip
    first, last = (network.velocity(x, t, network.condition(o)) for o in alone)
    assert (first - last).abs().amax(dim=(1, 2)).min() > 1e-3
    with torch.no_grad():
        network.turns.copy_(turns(1, network.turns.shape[2]).expand_as(network.turns))
        told = [network.velocity(x, t, network.condition(o)) for o in alone]
        network.prefix.row.zero_()
        same = [network.velocity(x, t, network.condition(o)) for o in alone]
    assert (told[0] - told[1]).abs().max() > 1e-3
    torch.testing.assert_close(same[0], same[1], rtol=1e-5, atol=1e-5)


def test_without_features_there_is_no_decoder_for_them():
    shape = dataclasses.replace(SHAPE, tokens=0, channels=0)
    network = awake("deep_features", shape)
    assert network.prefix is None and not [name for name in network.state_dict() if name.startswith("prefix")]
    x, t, observation = inputs(2, shape)
    assert network.condition(observation).keys_values.shape[4] == 0
    assert network.velocity(x, t, network.condition(observation)).isfinite().all()


def test_one_layer_is_enough():
    from flow_policy_ros.models.registry import make_network, network_config

    network = make_network("deep_features", network_config("deep_features", WIDTHS | {"layers": 1}), SHAPE)
    torch.nn.init.normal_(network.tokens.out.weight)
    x, t, observation = inputs(2)
    other = dataclasses.replace(observation, tokens=observation.tokens + 1.0)
    assert not torch.allclose(*(network.velocity(x, t, network.condition(o)) for o in (observation, other)))


def test_turns_are_kept_out_of_the_weights():
    assert "turns" not in asleep("deep_features").state_dict()
    with pytest.raises(ValueError, match="heads are 3 wide, expected an even number"):
        turns(4, 3)
