"""Tokens that are padding: masked, zero, and of no weight; streams that are no tokens go past the normaliser."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flow_policy_ros.data.statistics import VectorStatistics
from flow_policy_ros.models.conditioning import NetworkShape
from flow_policy_ros.policy.codec import Codec, network_shape, observation_dim, raw_mask, raw_observation, vector_streams
from flow_policy_ros.policy.flow_model import FlowConfig, FlowModel
from flow_policy_ros.policy.normaliser import Normaliser
from flow_policy_ros.runtime.contract import Contract, StreamContract

PLAIN = StreamContract("boxes", 2, 3, {})
MASKED = StreamContract("seen", 4, 3, {"extractor": "vlm", "mask_channel": 1}, use=(0, 1, 3))
FRAMES = StreamContract("frames", 4, 6, {"extractor": "frames", "size": [4, 2]})
PROMPT = StreamContract("prompt", 5, 2, {"extractor": "prompt"}, moment="standing")
CONTRACT = Contract("hand", ("a", "b"), ("b", "a"), 10_000_000, 4, (PLAIN, MASKED))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def normaliser(size, seed):
    return Normaliser.fit(VectorStatistics.of(np.random.default_rng(seed).normal(0.3, 0.5, (200, size))))


def make_codec(contract=CONTRACT, shape=None):
    return Codec(contract, normaliser(observation_dim(contract), 1), normaliser(2, 2), "absolute", shape)


def make_features(batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = {s.name: torch.randn(batch, s.tokens, s.channels, generator=generator) for s in (PLAIN, MASKED)}
    features["seen"][:, :, 1] = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])[:batch]
    return features


def test_the_mask_is_no_channel_of_the_network():
    assert network_shape([CONTRACT]) == NetworkShape(state=2, horizon=4, action=2, tokens=5, channels=3)
    assert network_shape([replace(CONTRACT, streams=(MASKED,))]).channels == 2
    assert observation_dim(CONTRACT) == 2 + 2 * 3 + 3 * 2
    vector = raw_observation(CONTRACT, torch.zeros(2, 2), make_features())
    tokens = vector[:, 8:].view(2, 3, 2)
    torch.testing.assert_close(tokens, make_features()["seen"][:, [0, 1, 3]][:, :, [0, 2]].double())


def test_padding_is_masked_and_zero_whatever_it_holds():
    codec, features = make_codec(), make_features()
    wild = {name: values.clone() for name, values in features.items()}
    wild["seen"][0, 1, [0, 2]] = 1e6
    given, other = (codec.observation(torch.zeros(2, 2), values) for values in (features, wild))
    assert given.token_mask.tolist() == [[True, True, True, False, True], [True, True, False, False, True]]
    assert torch.equal(given.tokens, other.tokens) and not given.tokens[~given.token_mask].any()
    assert given.tokens[given.token_mask].any(dim=1).all()
    given.check(codec.shape)


def test_padding_counts_for_no_statistic():
    mask = raw_mask(CONTRACT, make_features())
    expected = [[True] * 8 + [True, True, False, False, True, True], [True] * 8 + [False] * 4 + [True, True]]
    assert mask.tolist() == expected
    assert raw_mask(replace(CONTRACT, streams=(PLAIN,)), make_features()) is None


def test_masks_meet_the_padding_of_a_larger_network():
    larger = NetworkShape(state=3, horizon=4, action=3, tokens=7, channels=5, embodiments=2)
    given = make_codec(shape=larger).observation(torch.zeros(2, 2), make_features())
    assert given.tokens.shape == (2, 7, 5)
    own = make_codec().observation(torch.zeros(2, 2), make_features()).token_mask
    assert torch.equal(given.token_mask[:, :5], own) and not given.token_mask[:, 5:].any()


def test_a_stream_without_a_mask_is_normalised_as_before():
    contract = replace(CONTRACT, streams=(PLAIN, replace(MASKED, extractor={})))
    codec, features = make_codec(contract), make_features()
    given = codec.observation(torch.zeros(2, 2), features)
    vector = codec.observation_normaliser.normalise(raw_observation(contract, torch.zeros(2, 2), features)).clamp(-10, 10)
    assert torch.equal(given.tokens.flatten(1), vector[:, 2:]) and given.token_mask.all()


@pytest.mark.parametrize("network", ["dit_cross", "residual_mlp"])
def test_a_chunk_does_not_depend_on_padding(network):
    codec = make_codec()
    torch.manual_seed(0)
    model = FlowModel(network, {}, codec.shape, FlowConfig(condition_dropout=0.1)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    features, noise = make_features(), torch.randn(2, 4, 2)

    def chunk(values, scale=1.0):
        with torch.inference_mode():
            return model.sample(codec.observation(torch.zeros(2, 2), values), 2, noise, guidance_scale=scale).x

    padding = {name: values.clone() for name, values in features.items()}
    padding["seen"][0, 1, 0] = 5.0
    real = {name: values.clone() for name, values in features.items()}
    real["seen"][0, 0, 0] += 5.0
    for scale in (1.0, 1.5):
        assert torch.equal(chunk(padding, scale), chunk(features, scale))
        assert (chunk(real, scale) - chunk(features, scale))[0].abs().max() > 1e-5


def test_images_and_prompts_go_past_the_normaliser():
    contract = replace(CONTRACT, streams=(FRAMES, PLAIN, PROMPT))
    assert vector_streams(contract) == (PLAIN,) and observation_dim(contract) == 8
    assert network_shape([contract]).tokens == 2
    vector = raw_observation(contract, torch.zeros(2, 2), make_features())
    assert torch.equal(vector, raw_observation(replace(contract, streams=(PLAIN,)), torch.zeros(2, 2), make_features()))
    with pytest.raises(ValueError, match="robot 'hand' has a prompt, but there is no processor that could read it"):
        make_codec(contract).observation(torch.zeros(2, 2), make_features())
    elsewhere = replace(PROMPT, extractor={**PROMPT.extractor, "size": [8, 2]})
    with pytest.raises(ValueError, match=r"'frames' have the size \[4, 2\], expected \[8, 2\], for which 'prompt' was made"):
        make_codec(replace(contract, streams=(FRAMES, elsewhere)))


def test_contracts_travel_as_json():
    contract = replace(CONTRACT, streams=(FRAMES, PLAIN, PROMPT, MASKED))
    assert Contract.from_json(contract.to_json()) == contract
    assert contract.of_kind("frames", "prompt") == (FRAMES, PROMPT) and MASKED.mask_channel == 1 and FRAMES.dtype == "uint8"
