"""The action expert against an independent implementation of pi0: ``transformers``' own, same weights, same noise."""

import copy

import pytest
import torch
from vlm_support import VLMS, randomised

from flow_policy_ros.flow.conventions import reversed_velocity
from flow_policy_ros.flow.solvers import make_solver
from flow_policy_ros.models.conditioning import Conditioning
from flow_policy_ros.models.pi0 import from_pi0
from flow_policy_ros.models.prefix_inputs import PrefixInputs
from flow_policy_ros.vision.pretrained import import_transformers

HORIZON, ACTION, STATE, IMAGE = 5, 3, 4, 49


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def make_pi0(**changed):
    transformers = import_transformers()
    dit = {"model_type": "gemma", "hidden_size": 16, "num_hidden_layers": 3, "intermediate_size": 40, "num_attention_heads": 4,
           "num_key_value_heads": 2, "head_dim": 8}  # fmt: skip
    sizes = {"chunk_size": HORIZON, "max_state_dim": STATE, "max_action_dim": ACTION}
    config = transformers.PI0Config(
        vlm_config={"model_type": "paligemma", **copy.deepcopy(VLMS["paligemma"])}, dit_config=dit | changed, **sizes
    )
    return randomised(transformers.PI0ForConditionalGeneration(config), std=0.15)


def observed():
    """Two cameras; two instructions of different lengths, the shorter one padded on the right."""
    images = [IMAGE] * 8
    inputs = {
        "input_ids": torch.tensor([[*images, 3, 4, 5, 6], [*images, 7, 8, 0, 0]]),
        "attention_mask": torch.tensor([[1] * 12, [1] * 10 + [0] * 2]),
        "pixel_values": torch.randn(2, 2, 3, 8, 8),
    }
    return inputs, torch.randn(2, STATE)


def test_each_velocity_is_pi0s():
    pi0 = make_pi0()
    network = from_pi0(pi0)
    inputs, state = observed()
    prefix = PrefixInputs.of(inputs)
    cameras = {"pixel_attention_mask": torch.ones(2, 2, dtype=torch.bool)}
    cache = network.condition(Conditioning.of(state, prefix=prefix))
    reference = reversed_velocity(lambda x, t: pi0(state=state, noise=x, timestep=t, **inputs, **cameras).logits)
    with torch.no_grad():
        for t in (torch.zeros(2), torch.rand(2), torch.ones(2)):
            x = torch.randn(2, HORIZON, ACTION)
            expected = reference(x, t)
            assert expected.abs().mean() > 0.3
            torch.testing.assert_close(network.velocity(x, t, cache), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_each_chunk_is_pi0s(steps):
    pi0 = make_pi0()
    network = from_pi0(pi0)
    inputs, state = observed()
    noise = torch.randn(2, HORIZON, ACTION)
    cameras = {"pixel_attention_mask": torch.ones(2, 2, dtype=torch.bool)}
    expected = pi0.sample_actions(state=state, noise=noise, num_steps=steps, **inputs, **cameras)
    with torch.no_grad():
        cache = network.condition(Conditioning.of(state, prefix=PrefixInputs.of(inputs)))
        chunk = make_solver("euler").solve(lambda x, t: network.velocity(x, t, cache), noise, steps).x
    assert (expected - noise).abs().mean() > 0.3
    torch.testing.assert_close(chunk, expected, rtol=0, atol=1e-5)


def test_instruction_image_and_state_all_matter_to_it():
    network = from_pi0(make_pi0())
    inputs, state = observed()
    x, t = torch.randn(2, HORIZON, ACTION), torch.rand(2)

    def velocity(state=state, **changed):
        with torch.no_grad():
            return network.velocity(x, t, network.condition(Conditioning.of(state, prefix=PrefixInputs.of(inputs | changed))))

    other_words = inputs["input_ids"].clone()
    other_words[:, 9] = 12
    swapped = inputs["pixel_values"].flip(1)
    for other in (velocity(input_ids=other_words), velocity(pixel_values=swapped), velocity(state=state + 1)):
        assert (other - velocity()).abs().amin(dim=(1, 2)).max() > 1e-4


def test_an_expert_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"num_key_value_heads of the expert is 4, of the language model 2"):
        from_pi0(make_pi0(num_key_value_heads=4))
