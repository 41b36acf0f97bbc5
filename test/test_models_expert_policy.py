"""Deep fusion inside a flow model and a checkpoint: the parts around the network need know nothing of it."""

import dataclasses

import pytest
import torch
from test_policy import CONTRACT, make_observation, normaliser
from vlm_support import FORMS, SHAPE, observed, sentence, vlm_json

from flow_policy_ros.models.conditioning import Conditioning
from flow_policy_ros.policy.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from flow_policy_ros.policy.codec import Codec, network_shape, observation_dim
from flow_policy_ros.policy.flow_model import FlowConfig, FlowModel
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.runtime.contract import ContractError


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def test_a_flow_model_learns_what_the_instruction_says():
    """Same image and state; the word alone decides between two chunks. Guidance needs nothing more than condition dropout."""
    sizes = {"vlm": vlm_json("smolvlm"), "width": 32, "hidden": 64}
    model = FlowModel("deep_expert", sizes, SHAPE, FlowConfig(condition_dropout=0.1, prefix=1))
    inputs = sentence("smolvlm", [3])
    both = type(inputs).cat([inputs, inputs])
    both.input_ids[1, -1] = 12
    observation = Conditioning.of(torch.zeros(2, SHAPE.state), prefix=both)
    chunks = torch.stack((torch.ones(5, 3), -torch.ones(5, 3)))
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    generator = torch.Generator().manual_seed(0)
    batch = observation.take(torch.arange(2).repeat(4))
    for _ in range(80):
        optimiser.zero_grad()
        model.compute_loss(chunks.repeat(4, 1, 1), batch, torch.ones(8, 5, dtype=torch.bool), generator).backward()
        optimiser.step()
    model.eval()
    with torch.inference_mode():
        for scale in (1.0, 1.5):
            given = model.sample(observation, 5, generator=generator, guidance_scale=scale).x
            assert (given * chunks).mean(dim=(1, 2)).min() > 0.5


def test_the_null_observation_shows_neither_images_nor_instruction():
    model = make_checkpoint("deep_expert").model
    first, second = (observed(sentence("qwen3_vl", words), model.shape) for words in ([3, 4], [12, 7]))
    x, t = torch.randn(1, 4, 2), torch.rand(1)
    with torch.no_grad():
        null = [model.velocity(x, t, model.condition(model.null(observation))) for observation in (first, second)]
        own = [model.velocity(x, t, model.condition(observation)) for observation in (first, second)]
    assert torch.equal(*null) and not torch.allclose(*own)
    batch = Conditioning.cat([first, second] * 20)
    dropped = model.training_pairs(torch.zeros(40, 4, 2), batch, torch.ones(40, 4, dtype=torch.bool))[3]
    hidden = (dropped.state == model.null_state).all(dim=1)
    assert 0 < hidden.sum() < 20 and torch.equal(dropped.prefix.shown, ~hidden)


def make_checkpoint(form):
    """Of a robot without feature streams."""
    contract = dataclasses.replace(CONTRACT, streams=())
    model = FlowModel(form, {"vlm": vlm_json("qwen3_vl")}, network_shape([contract]), FlowConfig(condition_dropout=0.1))
    torch.nn.init.normal_(model.network.tokens.out.weight)
    codec = Codec(contract, normaliser(observation_dim(contract), 1), normaliser(2, 2), "absolute")
    return Checkpoint(model.eval(), (codec,))


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_needs_nothing_besides_its_folder(tmp_path, form):
    """The vision-language model's configuration and weights are in it; no name to look up, no file elsewhere."""
    checkpoint = make_checkpoint(form)
    save_checkpoint(tmp_path, checkpoint)
    again = load_checkpoint(tmp_path)
    observation = observed(sentence("qwen3_vl", [3, 4]), checkpoint.model.shape)
    noise = torch.randn(1, 4, 2)
    with torch.inference_mode():
        expected, given = (model.sample(observation, 3, noise, guidance_scale=1.3).x for model in (checkpoint.model, again.model))
    assert torch.equal(given, expected) and not torch.equal(given, noise)


def test_a_policy_without_images_says_so():
    """Observations carry none yet."""
    policy = FlowPolicy(make_checkpoint("deep_expert"))
    with pytest.raises((ValueError, ContractError), match="neither images nor an instruction, which DeepFusionExpert needs"):
        policy.sample(make_observation(), 2, 0)
