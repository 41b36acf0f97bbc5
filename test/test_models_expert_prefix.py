"""Images and instruction through a vision-language model: what is taken from it is what the model itself computes."""

import dataclasses
import threading

import pytest
import torch
from vlm_support import FORMS, IMAGE, VLMS, fused, noisy, observed, randomised, sentence, vlm_json

from flow_policy_ros.models.prefix import VlmPrefix, vlm_config
from flow_policy_ros.models.prefix_inputs import PrefixInputs

every_vlm = pytest.mark.parametrize("vlm", list(VLMS))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def own_arguments(vlm, inputs):
    """The arguments that a processor and a user would give the model."""
    arguments = {"input_ids": inputs.input_ids, "attention_mask": inputs.mask.long()}
    if vlm.startswith("qwen"):
        kinds = (inputs.input_ids == IMAGE).int()
        return arguments | {"pixel_values": inputs.pixels[0], "image_grid_thw": inputs.grid[0], "mm_token_type_ids": kinds}
    if vlm == "paligemma":
        # Of itself it counts from 1; pi0 counts from 0. Only differences of positions matter.
        arguments["position_ids"] = torch.arange(inputs.mask.shape[1])[None]
        arguments["token_type_ids"] = torch.zeros_like(inputs.input_ids)
    return arguments | {"pixel_values": inputs.pixels if vlm == "smolvlm" else inputs.pixels[0]}


@every_vlm
def test_keys_and_values_are_the_models_own(vlm):
    prefix = randomised(VlmPrefix(vlm_json(vlm)))
    inputs = sentence(vlm, [3, 4, 6], images=2)
    with torch.no_grad():
        ours = prefix(inputs)
        theirs = prefix.vlm(**own_arguments(vlm, inputs), use_cache=True).past_key_values
        again = prefix(inputs)
    assert len(theirs.layers) == ours.keys_values.shape[1] == 3
    for mine, layer in zip(ours.cache().layers, theirs.layers, strict=True):
        torch.testing.assert_close(mine.keys, layer.keys, rtol=0, atol=1e-6)
        torch.testing.assert_close(mine.values, layer.values, rtol=0, atol=1e-6)
    assert torch.equal(again.keys_values, ours.keys_values)
    assert torch.equal(ours.image, inputs.input_ids == IMAGE)


@pytest.mark.parametrize("vlm", ["qwen2_5_vl", "qwen3_vl"])
def test_positions_go_on_as_the_models_own_would(vlm):
    """With M-RoPE an image takes fewer positions than tokens."""
    network = fused("deep_expert", vlm)
    inputs = sentence(vlm, [3, 4, 6], images=2)
    cache = network.condition(observed(inputs))
    longer = torch.cat((inputs.input_ids, torch.full((1, 6), 9)), dim=1)
    expected, _ = network.prefix.vlm.get_rope_index(longer, (longer == IMAGE).int(), image_grid_thw=inputs.grid[0])
    assert torch.equal(expected[:, 0, -6:], cache.positions.expand(3, -1))
    assert cache.positions[0, 0] < inputs.mask.shape[1]


@every_vlm
@pytest.mark.parametrize("form", FORMS)
def test_padding_changes_nothing(form, vlm):
    network = fused(form, vlm)
    inputs = sentence(vlm, [3, 4, 6])
    observation = observed(inputs)
    x, t = noisy(1)
    with torch.no_grad():
        expected = network.velocity(x, t, network.condition(observation))
        for left, right in ((3, 0), (0, 4), (2, 3)):
            padded = dataclasses.replace(sentence(vlm, [3, 4, 6], left, right), pixels=inputs.pixels)
            given = network.velocity(x, t, network.condition(dataclasses.replace(observation, prefix=padded)))
            torch.testing.assert_close(given, expected, rtol=0, atol=2e-6, msg=f"padded by {left} and {right}")


@every_vlm
@pytest.mark.parametrize("form", FORMS)
def test_two_instructions_at_once_are_two_one_by_one(form, vlm):
    network = fused(form, vlm)
    observations = [observed(sentence(vlm, [3, 4, 6, 7, 10])), observed(sentence(vlm, [11]))]
    x, t = noisy(2)
    with torch.no_grad():
        both = network.velocity(x, t, network.condition(type(observations[0]).cat(observations)))
        one_by_one = [network.velocity(x[[i]], t[[i]], network.condition(o)) for i, o in enumerate(observations)]
    assert (both[0] - both[1]).abs().max() > 1e-2
    torch.testing.assert_close(both, torch.cat(one_by_one), rtol=0, atol=2e-6)


@every_vlm
@pytest.mark.parametrize("form", FORMS)
def test_words_and_pixels_matter_unless_hidden(form, vlm):
    network = fused(form, vlm)
    inputs = sentence(vlm, [3, 4, 6])
    ids = inputs.input_ids.clone()
    ids[:, -2] = 12
    others = (dataclasses.replace(inputs, input_ids=ids), dataclasses.replace(inputs, pixels=inputs.pixels + torch.randn(())))
    observation = observed(inputs)
    x, t = noisy(1)

    def velocity(prefix):
        with torch.no_grad():
            return network.velocity(x, t, network.condition(dataclasses.replace(observation, prefix=prefix)))

    everything = torch.tensor([True])
    for other in others:
        assert (velocity(other) - velocity(inputs)).abs().max() > 1e-4
        torch.testing.assert_close(velocity(other.hide(everything)), velocity(inputs.hide(everything)), rtol=0, atol=0)


def test_hidden_samples_send_no_gradient_to_the_model_and_no_nan():
    network = fused("deep_expert", "smolvlm")
    x, t = noisy(2)
    inputs = PrefixInputs.cat([sentence("smolvlm", [3, 4, 6]), sentence("smolvlm", [3])]).hide(torch.tensor([True, False]))
    cache = network.condition(observed(inputs))
    network.velocity(x, t, cache)[:1].sum().backward()
    gradients = [p.grad for p in network.prefix.parameters() if p.grad is not None]
    assert gradients and all((gradient == 0).all() for gradient in gradients)


@every_vlm
@pytest.mark.parametrize("form", FORMS)
def test_positions_from_depth_reach_their_image_tokens(form, vlm):
    network = fused(form, vlm, geometry=8)
    inputs = sentence(vlm, [3, 4, 6], left=1, images=2)
    points = torch.randn(1, 8, 3)
    points[0, 5] = torch.nan  # depth knew nothing there
    placed = PrefixInputs.make(inputs.input_ids, inputs.mask, inputs.pixels, inputs.grid, points)
    assert placed.known.sum() == 7
    observation, (x, t) = observed(placed), noisy(1)
    with torch.no_grad():
        flat = fused(form, vlm)
        flat.load_state_dict({n: w for n, w in network.state_dict().items() if "geometry" not in n})
        bare, told = flat.prefix.embed(inputs), network.prefix.embed(placed)
        moved = (told.tokens - bare.tokens).abs().amax(dim=2) > 1e-3
        assert torch.equal(moved, told.image)
        features = bare.tokens[bare.image][None]
        expected = network.prefix.geometry(features, points, placed.known)
        assert torch.equal(told.tokens[told.image][None], expected)
        before = network.velocity(x, t, network.condition(observation))
        points[0, 2] += 0.3
        assert (network.velocity(x, t, network.condition(observation)) - before).abs().max() > 1e-5
    with pytest.raises(ValueError, match=r"0 image tokens have a position from depth, expected \[8\].*trained with depth"):
        network.condition(observed(inputs))
    with pytest.raises(ValueError, match="positions from depth, which this network was not made for"):
        flat.condition(observation)


def test_another_threads_prefix_does_not_disturb_action_tokens_in_the_same_layers():
    network = fused("deep_causal", "smolvlm")
    inputs = sentence("smolvlm", [3, 4, 6])
    x, t = noisy(1)
    cache = network.condition(observed(inputs))
    expected = network.velocity(x, t, cache)
    inside, go_on, seen = threading.Event(), threading.Event(), []

    def wait(*_):
        inside.set()
        assert go_on.wait(30)

    hook = network.prefix.vlm.vision_model.register_forward_hook(wait)
    thread = threading.Thread(target=lambda: seen.append(network.see(inputs)))
    thread.start()
    try:
        assert inside.wait(30)
        assert torch.equal(network.velocity(x, t, cache), expected)
    finally:
        go_on.set()
        thread.join()
        hook.remove()
    assert torch.equal(seen[0].keys_values, cache.seen.keys_values)


def test_a_processors_output_becomes_inputs():
    ids = torch.arange(6).view(2, 3)
    encoding = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(4, 3, 8, 8)}
    inputs = PrefixInputs.of(encoding)
    assert torch.equal(inputs.pixels[1, 0], encoding["pixel_values"][2]) and inputs.grid.shape == (2, 0, 3)
    patches = {"pixel_values": torch.randn(32, 96), "image_grid_thw": torch.tensor([[1, 4, 4]] * 2)}
    assert torch.equal(PrefixInputs.of(encoding | patches).pixels[1], patches["pixel_values"][16:])
    assert inputs.shown.tolist() == [True, True] and inputs.points.shape == (2, 0, 3)
    with pytest.raises(ValueError, match="lacks attention_mask, given"):
        PrefixInputs.of({"input_ids": ids})
    with pytest.raises(ValueError, match="5 images or patches do not divide among 2"):
        PrefixInputs.of(encoding | {"pixel_values": torch.randn(5, 3, 8, 8)})
    with pytest.raises(ValueError, match="images of different sizes in one batch"):
        PrefixInputs.of(encoding | patches | {"image_grid_thw": torch.tensor([[1, 4, 4], [1, 2, 8]])})


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("mask", torch.ones(1, 3, dtype=torch.bool), r"mask of the instruction has shape \(1, 3\), expected \(1, 9\)"),
        ("input_ids", torch.ones(1, 9, dtype=torch.int32), "input_ids has type torch.int32, expected torch.int64"),
        ("pixels", torch.randn(3, 16, 16), r"pixels has shape \(3, 16, 16\), expected \(1, images, 3, height, width\)"),
        ("pixels", torch.full((1, 1, 3, 16, 16), torch.nan), "pixels hold NaN or Inf"),
        ("mask", torch.zeros(1, 9, dtype=torch.bool), r"a sample has no token at all.*use hide\(\)"),
        ("known", torch.ones(1, 3, dtype=torch.bool), r"known has shape \(1, 3\), expected \(1, 0\)"),
        ("points", torch.zeros(1, 4, 3), r"known has shape \(1, 0\), expected \(1, 4\)"),
    ],
)
def test_inputs_that_do_not_fit_are_named(field, value, says):
    network = fused("deep_expert", "smolvlm")
    inputs = dataclasses.replace(sentence("smolvlm", [3, 4, 6]), **{field: value})
    with pytest.raises(ValueError, match=says):
        network.see(inputs)


def test_a_description_that_is_none_is_refused():
    for text in ("", "{}", "SmolVLM", '{"model_type": "no_such_model"}'):
        with pytest.raises(ValueError, match="expected the JSON text of a transformers configuration"):
            vlm_config(text)
    with pytest.raises(ValueError, match="type llama has no image token"):
        vlm_config('{"model_type": "llama"}')
