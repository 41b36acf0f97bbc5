"""Attention to the observation's tokens: against torch's own, and what is computed once per chunk."""

import dataclasses

import pytest
import torch
from models_support import SHAPE, awake, inputs, observed
from torch import nn

from flow_policy_ros.models.attention import CrossAttentionBlock, TokenMemory, modulated, open_gates, self_attention
from flow_policy_ros.models.network import zero_init

WIDTH, HEADS, BLOCKS = 16, 4, 2


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def test_self_attention_is_that_of_torch():
    reference = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    h = torch.randn(3, 5, WIDTH)
    qkv = nn.functional.linear(h, reference.in_proj_weight, reference.in_proj_bias)
    torch.testing.assert_close(reference.out_proj(self_attention(qkv, HEADS)), reference(h, h, h)[0])


@pytest.mark.parametrize("block", range(BLOCKS))
def test_cross_attention_is_that_of_torch(block):
    memory = TokenMemory(SHAPE, WIDTH, HEADS, BLOCKS)
    observation = dataclasses.replace(observed(2), token_mask=torch.tensor([[True, False, True], [False, True, False]]))
    reference = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    rows = slice(2 * block * WIDTH, 2 * (block + 1) * WIDTH)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat((torch.eye(WIDTH), memory.keys_values.weight[rows])))
        reference.in_proj_bias.copy_(torch.cat((torch.zeros(WIDTH), memory.keys_values.bias[rows])))
        reference.out_proj.weight.copy_(torch.eye(WIDTH))
        reference.out_proj.bias.zero_()
    tokens = observation.tokens @ memory.project + memory.place
    queries = torch.randn(2, 5, WIDTH)
    expected = reference(queries, tokens, tokens, key_padding_mask=~observation.token_mask)[0]
    torch.testing.assert_close(memory(observation).attended(queries, block), expected)


def test_the_learned_token_serves_only_samples_without_real_ones():
    memory = TokenMemory(SHAPE, WIDTH, HEADS, BLOCKS)
    observation = dataclasses.replace(observed(2), token_mask=torch.tensor([[False, False, True], [False, False, False]]))
    queries = torch.randn(2, 5, WIDTH)
    before = memory(observation).attended(queries, 0)
    with torch.no_grad():
        memory.nothing += 1.0
    after = memory(observation).attended(queries, 0)
    assert torch.equal(after[0], before[0]) and (after[1] - before[1]).abs().amin(dim=0).max() > 1e-3
    tokenless = dataclasses.replace(observation, tokens=torch.randn(2, 3, 2))
    assert torch.equal(memory(tokenless).attended(queries, 0)[1], after[1])


def test_tokens_know_their_place():
    memory = TokenMemory(SHAPE, WIDTH, HEADS, BLOCKS)
    with torch.no_grad():
        memory.place.normal_()
    observation = observed(1)
    swapped = dataclasses.replace(observation, tokens=observation.tokens[:, [1, 0, 2]])
    queries = torch.randn(1, 5, WIDTH)
    assert (memory(swapped).attended(queries, 0) - memory(observation).attended(queries, 0)).abs().max() > 1e-3


def test_a_block_with_closed_gates_does_nothing():
    memory = TokenMemory(SHAPE, WIDTH, HEADS, BLOCKS)(observed(2))
    block = CrossAttentionBlock(WIDTH, 2, 1)
    h, zero = torch.randn(2, 5, WIDTH), torch.zeros(2, 1, WIDTH)
    assert torch.equal(block(h, (zero,) * 6, memory), h)
    assert not torch.allclose(block(h, (zero, zero, zero + 1) * 2, memory), h)


def test_gates_start_open_and_nothing_else():
    layer = open_gates(zero_init(nn.Linear(3, 8 * WIDTH)), WIDTH)
    factors = layer(torch.randn(1, 3)).view(8, WIDTH)
    assert (factors[[2, 5]] == 1).all() and (factors[[0, 1, 3, 4, 6, 7]] == 0).all()


def test_modulation_is_layer_norm_scaled_and_shifted():
    h, scale, shift = torch.randn(2, 5, WIDTH), torch.randn(2, 1, WIDTH), torch.randn(2, 5, WIDTH)
    torch.testing.assert_close(modulated(h, scale, shift), nn.LayerNorm(WIDTH)(h) * (1 + scale) + shift)


@pytest.mark.parametrize("name", ["dit_cross", "embodiment_dit"])
def test_keys_and_values_are_computed_once_per_chunk(name):
    network = awake(name)
    calls = []
    network.memory.keys_values.register_forward_hook(lambda *_: calls.append(1))
    x, t, observation = inputs(2)
    for chunk in (1, 2):
        cache = network.condition(observation)
        for _ in range(4):
            x = x + network.velocity(x, t, cache)
        assert len(calls) == chunk
