"""What the action tokens look at: each share against a softmax spelled out for single tokens."""

import cmath
import dataclasses
import math

import pytest
import torch
from models_support import SHAPE, awake, inputs, observed

from flow_policy_ros.models.attention_maps import attention_at, attention_map, heat_maps
from flow_policy_ros.models.registry import NETWORKS

FORMS = ("deep_expert", "deep_causal", "deep_mutual")
MASK = torch.tensor([[True, False, True], [False, True, True]])


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def softmax(scores):
    """Of a list of numbers."""
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def dot(a, b):
    return sum(p * q for p, q in zip(a.tolist(), b.tolist(), strict=True))


def turned(vector, position):
    """A vector of a head turned by its position, as complex numbers of first and second half (Su et al. 2021)."""
    half = len(vector) // 2
    numbers = [complex(*pair) * cmath.exp(1j * position * 10000.0 ** (-i / half))
               for i, pair in enumerate(zip(vector[:half].tolist(), vector[half:].tolist(), strict=True))]  # fmt: skip
    return torch.tensor([z.real for z in numbers] + [z.imag for z in numbers])


def noted(module, record):
    """Appends the outputs of a module's calls to a list."""
    module.register_forward_hook(lambda _, __, output: record.append(output.detach()))


def test_of_cross_attention():
    network = awake("dit_cross")
    x, t, observation = inputs(2)
    observation = dataclasses.replace(observation, token_mask=MASK)
    queries = []
    for block in network.blocks:
        noted(block.query, queries)
    cache = network.condition(observation)
    network.velocity(x, t, cache)
    given = attention_map(network, x, t, cache).layers
    assert given.shape == (2, 2, 4, 3)
    for sample in range(2):
        visible = MASK[sample].nonzero().flatten().tolist()
        for block in range(2):
            for action in range(4):
                expected = torch.zeros(3)
                for head in range(2):
                    query = queries[block][sample, action].view(2, 16)[head]
                    keys = cache[1].keys_values[block, 0, sample, head]
                    shares = softmax([dot(query, keys[token]) / 4.0 for token in visible])
                    expected[visible] += torch.tensor(shares) / 2
                torch.testing.assert_close(given[sample, block, action], expected, rtol=1e-4, atol=1e-6)


def test_of_deep_fusion_over_features():
    network = awake("deep_features")
    x, t, observation = inputs(2)
    observation = dataclasses.replace(observation, token_mask=MASK)
    projected = []
    for layer in network.layers:
        noted(layer.qkv.project, projected)
    cache = network.condition(observation)
    network.velocity(x, t, cache)
    given = attention_map(network, x, t, cache).layers
    sample, visible = 1, [1, 2]
    for block in range(2):
        for action in (0, 3):
            expected = torch.zeros(3)
            for head in range(2):
                own = projected[block][sample].view(5, 3, 2, 16)[:, :, head]  # state and four actions; query, key, value
                keys = [cache.keys_values[block, 0, sample, head, token] for token in visible]
                keys += [turned(own[k, 1], 3 + k) for k in range(5)]
                query = turned(own[1 + action, 0], 3 + 1 + action)
                shares = softmax([dot(query, key) / 4.0 for key in keys])
                expected[visible] += torch.tensor(shares[:2]) / 2
            torch.testing.assert_close(given[sample, block, action], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_of_deep_fusion_with_a_vision_language_model(form):
    """Llama's attention with fewer keys than queries, over padding, in the first layer and the last."""
    pytest.importorskip("transformers")
    from vlm_support import fused, noisy, sentence
    from vlm_support import observed as seeing

    network = fused(form, "smolvlm")
    prefix = sentence("smolvlm", [3, 4, 6], left=2, right=1)
    observation, (x, t) = seeing(prefix), noisy(1)
    with torch.no_grad():
        cache = network.condition(observation)
        queries, keys = [], []
        decoder = network.expert if form == "deep_expert" else network.prefix.text
        for layer in decoder.layers:
            noted(layer.self_attn.q_proj, queries)
            noted(layer.self_attn.k_proj, keys)
        network.velocity(x, t, cache)
        given = attention_map(network, x, t, cache)
    real = prefix.mask[0].nonzero().flatten().tolist()
    length, own, action = prefix.mask.shape[1], 6, 2
    assert given.layers.shape == (1, 3, 5, length) and given.mean.shape == (1, 5, length)
    assert (given.layers[:, :, :, ~prefix.mask[0]] == 0).all()
    for layer in (0, 2):
        expected = torch.zeros(length)
        for head in range(4):
            query = turned(queries[layer][0, -5 + action].view(4, 8)[head], len(real) + 1 + action)
            mine = keys[layer][0].view(-1, 2, 8)[:, head // 2]
            if form == "deep_mutual":
                seen = [turned(mine[token], place) for place, token in enumerate(real)]
            else:
                seen = [cache.seen.keys_values[0, layer, 0, head // 2, token] for token in real]
            seen += [turned(key, len(real) + k) for k, key in enumerate(mine[-own:])]
            shares = softmax([dot(query, key) / math.sqrt(8) for key in seen])
            expected[real] += torch.tensor(shares[: len(real)]) / 4
        torch.testing.assert_close(given.layers[0, layer, action], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("vlm", ["paligemma", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("form", FORMS)
def test_other_decoders_tell_theirs_too(form, vlm):
    pytest.importorskip("transformers")
    from vlm_support import fused, noisy, sentence
    from vlm_support import observed as seeing

    network = fused(form, vlm)
    observation, (x, t) = seeing(sentence(vlm, [3, 4, 6], left=1)), noisy(1)
    shares = attention_map(network, x, t, network.condition(observation)).layers
    total = shares.sum(dim=3)
    assert shares.shape[:3] == (1, 3, 5) and (total > 0.01).all() and (total < 1.0).all()


@pytest.mark.parametrize("name", ["dit_cross", "embodiment_dit", "deep_features"])
def test_a_network_that_others_run_is_not_touched(name):
    network = awake(name)
    x, t, observation = inputs(2)
    cache = network.condition(observation)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()]
    before = network.velocity(x, t, cache)
    shares = attention_map(network, x, t, cache).layers
    assert torch.equal(network.velocity(x, t, cache), before) and not shares.requires_grad
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()]
    total = shares.sum(dim=3)
    if name == "deep_features":
        assert (total > 0).all() and (total < 1).all()
    else:
        torch.testing.assert_close(total, torch.ones_like(total))


def test_a_vision_language_model_that_others_run_is_not_touched():
    pytest.importorskip("transformers")
    from vlm_support import fused, noisy, sentence
    from vlm_support import observed as seeing

    network = fused("deep_causal", "smolvlm")
    observation, (x, t) = seeing(sentence("smolvlm", [3, 4, 6])), noisy(1)
    cache = network.condition(observation)
    before = network.velocity(x, t, cache)
    weights = {name: weight.data_ptr() for name, weight in network.named_parameters()}
    attention_map(network, x, t, cache)
    assert network.prefix.text.config._attn_implementation == "sdpa"
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.equal(network.velocity(x, t, cache), before)
    assert weights == {name: weight.data_ptr() for name, weight in network.named_parameters()}


def test_at_a_solver_time_on_the_way_from_noise_to_chunk():
    network = awake("deep_features")
    noise, _, observation = inputs(2)
    cache = network.condition(observation)
    x = noise
    for k in range(3):
        x = x + 0.1 * network.velocity(x, torch.full((2,), 0.1 * k), cache)
    expected = attention_map(network, x, torch.full((2,), 0.3), cache).layers
    torch.testing.assert_close(attention_at(network, observation, noise, 0.3, 10).layers, expected)
    torch.testing.assert_close(attention_at(network, observation, noise, 0.34, 10).layers, expected)
    at_first = attention_at(network, observation, noise, 0.0, 10).layers
    assert torch.equal(at_first, attention_map(network, noise, torch.zeros(2), cache).layers)
    assert not torch.allclose(at_first, expected, atol=1e-3)
    for time in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"solver time is .*, expected at least 0 \(noise\) and less than 1"):
            attention_at(network, observation, noise, time, 10)


def test_networks_without_attention_to_tokens_say_so():
    for name in ("residual_mlp", "unet1d", "dit"):
        network = awake(name)
        x, t, observation = inputs(1)
        with pytest.raises(ValueError, match="attends to none of its tokens; use dit_cross"):
            attention_map(network, x, t, network.condition(observation))
    assert set(NETWORKS) == {"residual_mlp", "unet1d", "dit", "dit_cross", "embodiment_dit", "deep_features"}


def test_a_sample_without_a_real_token_gives_none_a_share():
    for name in ("dit_cross", "deep_features"):
        network = awake(name)
        x, t, _ = inputs(2)
        observation = dataclasses.replace(observed(2), token_mask=torch.tensor([[False] * 3, [True] * 3]))
        shares = attention_map(network, x, t, network.condition(observation)).layers
        assert (shares[0] == 0).all() and (shares[1] > 0).all()


def test_heat_maps_have_the_shape_of_the_image():
    attention = torch.rand(2, 4, 14)
    mean = attention.mean(dim=1)
    maps = heat_maps(attention, slice(1, 13), (2, 3), images=2)
    assert maps.shape == (2, 2, 2, 3)
    assert maps[1, 1, 1, 2] == mean[1, 12] and maps[0, 0, 1, 0] == mean[0, 4]
    rows = torch.zeros(2, 14, dtype=torch.bool)
    rows[0, 2:8], rows[1, [0, 3, 4, 5, 9, 13]] = True, True
    maps = heat_maps(attention, rows, (3, 2))
    assert maps[1].flatten().tolist() == mean[1, [0, 3, 4, 5, 9, 13]].tolist() and maps[0, 0, 0, 1] == mean[0, 3]
    with pytest.raises(ValueError, match=r"\[12\] tokens are images', expected 6: 1 of 2 rows and 3 columns"):
        heat_maps(attention, slice(1, 13), (2, 3))
    rows[0, 9] = True
    with pytest.raises(ValueError, match=r"\[6, 7\] tokens are images'"):
        heat_maps(attention, rows, (3, 2))


def test_shapes_are_checked():
    network = awake("dit_cross")
    cache = network.condition(observed(1, SHAPE))
    with pytest.raises(ValueError, match=r"x has shape \(1, 5, 3\), expected \(1, 4, 3\)"):
        attention_map(network, torch.zeros(1, 5, 3), torch.zeros(1), cache)
