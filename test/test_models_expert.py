"""Deep fusion: what its tokens see in every layer, what is computed once, and how gradients pass."""

import dataclasses

import pytest
import torch
from torch import nn
from vlm_support import FORMS, SHAPE, VLMS, fused, noisy, observed, randomised, sentence, vlm_json

from flow_policy_ros.flow.real_time_chunking import RealTimeGuidance, rtc_weights
from flow_policy_ros.flow.solvers import make_solver
from flow_policy_ros.models.conditioning import NetworkShape
from flow_policy_ros.models.registry import make_network, network_config

every_vlm = pytest.mark.parametrize("vlm", list(VLMS))
every_form = pytest.mark.parametrize("form", FORMS)
WORDS = [3, 4, 6]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def counted(module):
    """A list that grows with each call of a module."""
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


@every_vlm
@every_form
def test_a_prefix_serves_all_steps_as_if_computed_anew(form, vlm):
    network = fused(form, vlm)
    observation = observed(sentence(vlm, WORDS))
    noise, _ = noisy(1)
    tower = network.prefix.vlm.visual if vlm.startswith("qwen") else getattr(network.prefix.vlm, "vision_model", None)
    tower = tower or network.prefix.vlm.vision_tower
    decoder = network.expert if form == "deep_expert" else network.prefix.text
    images, passes, prefixes = counted(tower), counted(decoder), counted(network.prefix.text)
    with torch.no_grad():
        cache = network.condition(observation)
        before = [part.clone() for part in cache.seen._parts()]
        once = make_solver("euler").solve(lambda x, t: network.velocity(x, t, cache), noise, 4).x
        assert (len(images), len(prefixes) if form == "deep_expert" else 1) == (1, 1)
        # Mutual: no prefix pass, all of it in every step. Causal: prefix pass and steps go through the same decoder.
        assert len(passes) == {"deep_expert": 4, "deep_causal": 5, "deep_mutual": 4}[form]
        anew = make_solver("euler").solve(lambda x, t: network.velocity(x, t, network.condition(observation)), noise, 4).x
    assert (once - noise).abs().mean() > 1e-2
    torch.testing.assert_close(once, anew, rtol=0, atol=1e-6)
    assert all(torch.equal(part, was) for part, was in zip(cache.seen._parts(), before, strict=True))


def block_mask(vlm, inputs):
    """What each token of prefix, state and actions sees, (T + n, T + n), spelled out."""
    length, own = inputs.mask.shape[1], 1 + SHAPE.horizon
    sees = torch.zeros(length + own, length + own, dtype=torch.bool)
    real = inputs.mask[0]
    within = torch.ones(length, length) if vlm == "paligemma" else torch.ones(length, length).tril()
    sees[:length, :length] = within.bool() & real
    sees[length:, :length] = real
    sees[length, length] = True  # the state
    sees[length + 1 :, length:] = True
    return sees | torch.eye(length + own, dtype=torch.bool)  # padding needs something to see


def scores(sees):
    """A mask (queries, keys) as what is added to scores."""
    return torch.where(sees, 0.0, torch.finfo(torch.float32).min)[None, None]


@every_vlm
def test_causal_blocks_are_one_pass_over_prefix_and_suffix_with_a_block_mask(vlm):
    """What the cache stands for, computed without any: the whole sequence at once."""
    network = fused("deep_causal", vlm)
    inputs = sentence(vlm, WORDS, left=2, right=1)
    observation = observed(inputs)
    x, t = noisy(1)
    with torch.no_grad():
        cache = network.condition(observation)
        embedded = network.prefix.embed(inputs)
        suffix = torch.cat((cache.state, network.tokens.actions(x, t)), dim=1)
        sees, own = block_mask(vlm, inputs), suffix.shape[1]
        positions = torch.cat((embedded.positions, cache.positions[:, None].expand(-1, embedded.positions.shape[1], -1)), dim=2)
        more = {}
        if vlm == "qwen3_vl":
            image = torch.nn.functional.pad(embedded.image, (0, own))
            more = {"visual_pos_masks": image, "deepstack_visual_embeds": [k[embedded.image] for k in embedded.deepstack.unbind(1)]}
        hidden = network.prefix.text(
            inputs_embeds=torch.cat((embedded.tokens, suffix), dim=1),
            attention_mask=scores(sees),
            position_ids=positions[:, 0] if positions.shape[1] == 1 else positions.transpose(0, 1),
            **more,
        ).last_hidden_state
        expected = network.tokens.velocity(hidden[:, -SHAPE.horizon :])
        torch.testing.assert_close(network.velocity(x, t, cache), expected, rtol=0, atol=3e-6)


@every_vlm
def test_mutual_with_the_mask_of_causal_blocks_is_causal_blocks(vlm):
    """The two differ in who sees whom, and in nothing else."""
    mutual, causal = fused("deep_mutual", vlm), fused("deep_causal", vlm)
    causal.load_state_dict(mutual.state_dict())
    inputs = sentence(vlm, WORDS, left=2, right=1, images=2)
    observation, (x, t) = observed(inputs), noisy(1)
    with torch.no_grad():
        cache = mutual.condition(observation)
        free = mutual.velocity(x, t, cache)
        blocked = mutual.velocity(x, t, dataclasses.replace(cache, mask=scores(block_mask(vlm, inputs))))
        expected = causal.velocity(x, t, causal.condition(observation))
    torch.testing.assert_close(blocked, expected, rtol=0, atol=3e-6)
    assert (free - expected).abs().max() > 1e-3


@every_vlm
@every_form
def test_the_prefix_sees_the_suffix_only_where_they_see_each_other(form, vlm):
    network = fused(form, vlm)
    inputs = sentence(vlm, WORDS)
    observation = observed(inputs)
    before = []  # hidden states of the prefix after the first layer, where the decoder runs over it
    layer = network.prefix.text.layers[0]

    def note(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.shape[1] >= inputs.mask.shape[1]:
            before.append(hidden[:, : inputs.mask.shape[1]].detach())

    layer.register_forward_hook(note)
    with torch.no_grad():
        for x in (torch.zeros(1, 5, 3), torch.ones(1, 5, 3)):
            network.velocity(x, torch.zeros(1), network.condition(observation))
    assert len(before) == 2
    assert torch.equal(*before) == (form != "deep_mutual")
    if form == "deep_mutual":
        assert ((before[0] - before[1]).abs().amax(dim=2) > 0).all()  # every token of it


@every_form
def test_actions_see_each_other_and_the_state_and_the_state_sees_no_action(form):
    network = fused(form, "smolvlm")
    observation = observed(sentence("smolvlm", WORDS))
    x, t = noisy(1)
    cache = network.condition(observation)
    x.requires_grad_()
    state = cache.state.detach().requires_grad_()
    cache = dataclasses.replace(cache, state=state)
    hidden = network._hidden(torch.cat((state, network.tokens.actions(x, t)), dim=1), cache)
    for i in range(SHAPE.horizon):
        by_x, by_state = torch.autograd.grad(hidden[0, 1 + i].square().sum(), (x, state), retain_graph=True)
        assert (by_x.abs().sum(dim=2) > 0).all() and by_state.abs().sum() > 0
    (of_state,) = torch.autograd.grad(hidden[0, 0].square().sum(), x)
    assert (of_state == 0).all() == (form != "deep_mutual")


@every_form
def test_time_may_differ_per_step(form):
    network = fused(form, "paligemma")
    cache = network.condition(observed(sentence("paligemma", WORDS)))
    x, t = noisy(1)
    with torch.no_grad():
        same = network.velocity(x, t, cache)
        torch.testing.assert_close(network.velocity(x, t[:, None].expand(1, 5), cache), same, rtol=0, atol=0)
        clean = t[:, None].repeat(1, 5)
        clean[:, :2] = 1.0
        assert ((network.velocity(x, clean, cache) - same).abs().amax(dim=2) > 1e-5).all()


@every_vlm
@every_form
def test_the_vision_language_model_may_be_bfloat16(form, vlm):
    network = fused(form, vlm)
    observation, (x, t) = observed(sentence(vlm, WORDS, left=2)), noisy(1)
    with torch.no_grad():
        expected = network.velocity(x, t, network.condition(observation))
        network.prefix.to(torch.bfloat16)
        given = network.velocity(x, t, network.condition(observation))
    assert given.dtype == torch.float32
    assert 0 < (given - expected).norm() < 0.1 * expected.norm()


@every_form
def test_the_state_is_optional(form):
    shape = NetworkShape(state=0, horizon=4, action=2)
    network = fused(form, "smolvlm", shape)
    x, t = noisy(2, shape)
    inputs = sentence("smolvlm", WORDS)
    cache = network.condition(observed(type(inputs).cat([inputs, inputs]), shape))
    assert cache.state.shape[1] == 0
    assert network.velocity(x, t, cache).shape == (2, 4, 2)


@every_form
def test_what_was_seen_before_serves_another_state(form):
    network = fused(form, "smolvlm")
    inputs = sentence("smolvlm", WORDS)
    x, t = noisy(1)
    seen = network.see(inputs)
    for _ in range(2):
        observation = observed(inputs)
        ahead = network.condition(dataclasses.replace(observation, prefix=seen))
        assert torch.equal(network.velocity(x, t, ahead), network.velocity(x, t, network.condition(observation)))


@every_form
def test_shapes_are_checked_and_never_broadcast(form):
    network = fused(form, "smolvlm")
    inputs = sentence("smolvlm", WORDS)
    observation = observed(inputs)
    cache = network.condition(observation)
    for x, t, says in (
        (torch.randn(1, 4, 3), torch.rand(1), r"x has shape \(1, 4, 3\), expected \(1, 5, 3\)"),
        (torch.randn(1, 5, 1), torch.rand(1), r"x has shape \(1, 5, 1\), expected \(1, 5, 3\)"),
        (torch.randn(1, 5, 3), torch.rand(5), r"time has shape \(5,\)"),
        (torch.randn(2, 5, 3), torch.rand(2), r"x has 2 samples, expected 1"),
    ):
        with pytest.raises(ValueError, match=says):
            network.velocity(x, t, cache)
    other = fused("deep_mutual" if form != "deep_mutual" else "deep_expert", "smolvlm").see(inputs)
    for prefix, says in (
        (None, "neither images nor an instruction"),
        (type(inputs).cat([inputs, inputs]), "prefix has 2 samples, expected 1"),
        (other, f"prefix is of type {type(other).__name__}, expected"),
    ):
        with pytest.raises(ValueError, match=says):
            network.condition(dataclasses.replace(observation, prefix=prefix))
    with pytest.raises(ValueError, match="no feature tokens, of which the data has 3"):
        fused(form, "smolvlm", dataclasses.replace(SHAPE, tokens=3, channels=2))


def test_a_sliding_window_must_hold_prefix_and_chunk():
    network = fused("deep_expert", "smolvlm")
    text = network.prefix.config.text_config
    text.layer_types, text.sliding_window = ["sliding_attention"] * 3, 14
    with pytest.raises(ValueError, match="have 15 tokens, layers of smolvlm attend to the last 14 only"):
        network.condition(observed(sentence("smolvlm", WORDS)))
    text.sliding_window = 15
    network.condition(observed(sentence("smolvlm", WORDS)))


@every_form
def test_which_weights_learn(form):
    network = fused(form, "smolvlm")
    observation, (x, t) = observed(sentence("smolvlm", WORDS)), noisy(1)

    def learning():
        network.zero_grad()
        network.velocity(x, t, network.condition(observation)).square().sum().backward()
        return {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}

    own = {"tokens"} | ({"expert"} if form == "deep_expert" else set())
    assert learning() == {"prefix"} | own
    assert network.prefix.vlm.vision_model.embeddings.patch_embedding.weight.grad.abs().sum() > 0  # down to the first layer
    network.prefix.requires_grad_(False)
    assert learning() == own
    network.train()
    assert network.tokens.training and not network.prefix.vlm.training


class LowRank(nn.Module):
    """What an adapter of low rank puts in the place of a linear layer (Hu et al. 2022)."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


@every_form
def test_adapters_in_a_frozen_model_learn_through_the_cached_prefix(form):
    network = fused(form, "qwen2_5_vl")
    network.prefix.requires_grad_(False)
    adapters = []
    for layer in network.prefix.text.layers:
        layer.self_attn.v_proj = randomised(LowRank(layer.self_attn.v_proj))
        adapters.append(layer.self_attn.v_proj)
    x, t = noisy(1)
    network.velocity(x, t, network.condition(observed(sentence("qwen2_5_vl", WORDS)))).square().sum().backward()
    assert all(adapter.up.weight.grad.abs().sum() > 0 and adapter.down.weight.grad.abs().sum() > 0 for adapter in adapters)


@every_form
def test_exact_guidance_differentiates_through_the_cached_prefix(form):
    network = fused(form, "paligemma")
    observation = observed(sentence("paligemma", WORDS))
    x, t = noisy(1)
    with torch.no_grad():
        cache = network.condition(observation)
    error = torch.randn_like(x)
    at = x.clone().requires_grad_()
    (through,) = torch.autograd.grad(network.velocity(at, t, cache), at, error)
    # Against differences of velocities whose prefix is computed anew, along the direction of the product itself.
    along, step = through / through.norm(), 1e-2
    with torch.no_grad():
        ends = [network.velocity(x + s * step * along, t, network.condition(observation)) for s in (1, -1)]
    assert through.norm() > 0.05
    torch.testing.assert_close(((ends[0] - ends[1]) / (2 * step) * error).sum(), (through * along).sum(), rtol=2e-2, atol=1e-3)
    with torch.inference_mode():
        ahead = network.see(observation.prefix)  # as by a worker that knows nothing of guidance
    with torch.no_grad():
        cache = network.condition(dataclasses.replace(observation, prefix=ahead))
    guided = RealTimeGuidance(lambda x, t: network.velocity(x, t, cache), torch.randn(1, 5, 3), rtc_weights(5, 2, 2))
    with torch.no_grad():
        chunk = make_solver("euler").solve(guided, x, 5).x
        free = make_solver("euler").solve(lambda x, t: network.velocity(x, t, cache), x, 5).x
    assert torch.isfinite(chunk).all() and (chunk - free).abs().max() > 1e-2


@every_form
def test_a_network_is_its_description_and_its_weights(form):
    network = fused(form, "qwen3_vl")
    sizes = dataclasses.asdict(network_config(form, {"vlm": vlm_json("qwen3_vl")}))
    sizes |= {"width": 16, "hidden": 24} if form == "deep_expert" else {}
    again = make_network(form, network_config(form, sizes), SHAPE)
    again.load_state_dict(network.state_dict())
    observation, (x, t) = observed(sentence("qwen3_vl", WORDS)), noisy(1)
    with torch.no_grad():
        expected, given = (n.eval().velocity(x, t, n.condition(observation)) for n in (network, again))
    assert torch.equal(given, expected)


def test_an_untrained_network_stands_still():
    network = make_network("deep_expert", network_config("deep_expert", {"vlm": vlm_json("smolvlm")}), SHAPE)
    x, t = noisy(1)
    assert (network.velocity(x, t, network.condition(observed(sentence("smolvlm", WORDS)))) == 0).all()
