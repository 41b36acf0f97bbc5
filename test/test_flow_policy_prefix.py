"""Images and words through a policy: the same chunk after a checkpoint's round trip, each image looked at once, by any thread."""

from __future__ import annotations

import shutil
import threading

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from vlm_policy_support import KINDS, folder_of, joint_state, make_checkpoint, observation, picture

from flow_policy_ros.policy.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from flow_policy_ros.policy.deployed import REPEATS, STEP_COUNTS, DeadlinePolicy, deploy, measure_cost
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.runtime.buffers import Stale
from flow_policy_ros.runtime.contract import ContractError
from flow_policy_ros.runtime.parameters import PolicyParameters
from flow_policy_ros.runtime.policy_loop import InstructedPolicy, PolicyLoop
from flow_policy_ros.runtime.types import Chunk, Continuation, Features
from flow_policy_ros.vision.pretrained import ExtractorError

MS = 1_000_000
RED, BLUE = "move the red cube to the goal", "move the blue cube to the goal"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoint folders by kind, form and cameras, each made when it is first wanted."""
    root = tmp_path_factory.mktemp("models")
    made = {}

    def folder(kind="paligemma", form="deep_expert", cameras=("front",)):
        torch.set_num_threads(1)
        key = (kind, form, cameras)
        if key not in made:
            made[key] = root / "-".join((kind, form, *cameras))
            save_checkpoint(made[key], make_checkpoint(folder_of(kind, root), form, cameras))
        return made[key]

    folder.root = root
    return folder


def looks(policy):
    """Counts passes of the vision tower from now on."""
    counted = []
    vlm = policy.model.network.prefix.vlm
    tower = getattr(vlm, "vision_tower", None) or getattr(vlm, "vision_model", None) or vlm.visual
    tower.register_forward_hook(lambda *a: counted.append(1))
    return counted


def told(policy, *pictures, instruction=RED, stamp=7):
    return observation(stamp, *pictures, *policy.instruct(instruction, 1))


def chunk(policy, *pictures, instruction=RED, stamp=7, steps=3):
    return policy.sample(told(policy, *pictures, instruction=instruction, stamp=stamp), steps, 0)[0]


@pytest.mark.parametrize("form", ["deep_expert", "deep_causal", "deep_mutual"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_checkpoint_gives_the_same_chunk_bit_for_bit(saved, kind, form):
    made = make_checkpoint(folder_of(kind, saved.root), form)
    loaded = FlowPolicy.load(saved(kind, form))
    assert isinstance(loaded, InstructedPolicy)
    given = told(loaded, picture(0))
    expected, nfe = FlowPolicy(made).sample(given, 3, 0)
    again, nfe_again = loaded.sample(given, 3, 0)
    np.testing.assert_array_equal(again, expected)
    assert nfe == nfe_again == 3 and np.isfinite(expected).all()
    # Both what is seen and what is said decide, each by itself.
    assert np.abs(chunk(loaded, picture(1)) - again).max() > 1e-4
    assert np.abs(chunk(loaded, picture(0), instruction=BLUE) - again).max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_kept_prefix_is_the_one_computed_anew_and_is_computed_once(saved, kind):
    kept, anew = FlowPolicy.load(saved(kind)), FlowPolicy.load(saved(kind))
    passes = looks(kept)
    (prompt,) = kept.instruct(RED, 1)
    kept.look({"frames_front": picture(0)}, prompt)
    kept.look({"frames_front": picture(0)}, prompt)
    chunks = [kept.sample(observation(stamp, picture(0), prompt), 10, 0)[0] for stamp in (7, 8, 9)]
    assert len(passes) == 1
    for stamp, given in zip((7, 8, 9), chunks, strict=True):
        anew.forget()
        np.testing.assert_array_equal(given, anew.sample(observation(stamp, picture(0), prompt), 10, 0)[0])
    assert not np.array_equal(chunks[0], chunks[1])  # the noise


def test_images_are_known_by_their_contents(saved):
    """In a new episode the stamps come again; a prefix of the old one's images would make the policy see the past."""
    policy, fresh = FlowPolicy.load(saved()), FlowPolicy.load(saved())
    passes = looks(policy)
    first = chunk(policy, picture(0, stamp=3))
    second = chunk(policy, picture(1, stamp=3))
    np.testing.assert_array_equal(second, chunk(fresh, picture(1, stamp=3)))
    assert len(passes) == 2 and not np.array_equal(first, second)
    np.testing.assert_array_equal(chunk(policy, picture(0, stamp=99)), first)  # the one before is still known
    assert len(passes) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_several_cameras_are_seen_in_the_contracts_order(saved, kind):
    policy = FlowPolicy.load(saved(kind, "deep_expert", ("front", "wrist")))
    both = chunk(policy, picture(0), picture(1, camera="wrist"))
    np.testing.assert_array_equal(both, chunk(policy, picture(1, camera="wrist"), picture(0)))
    assert np.abs(both - chunk(policy, picture(1), picture(0, camera="wrist"))).max() > 1e-5
    with pytest.raises(ContractError, match=r"features of the streams \['frames_wrist'\] are missing"):
        policy.look({"frames_front": picture(0)}, policy.instruct(RED, 1)[0])


@pytest.mark.parametrize("form", ["deep_expert", "deep_mutual"])
def test_chunks_of_a_batch_are_those_sampled_alone(saved, form):
    """Every image of the batch is looked at once, whatever it is shared by."""
    policy = FlowPolicy.load(saved("qwen", form))
    seen = [(0, RED), (1, RED), (0, RED), (0, BLUE), (1, RED)]
    batch = [told(policy, picture(k), instruction=text, stamp=n) for n, (k, text) in enumerate(seen)]
    alone = [policy.sample(one, 3, 0)[0] for one in batch]
    made = []
    see = policy._kept._see
    policy._kept._see = lambda inputs: made.append(len(inputs)) or see(inputs)
    np.testing.assert_allclose(policy.sample_batch(batch, 3, 0)[0], alone, atol=1e-5)
    assert made == [3]
    policy.forget()
    np.testing.assert_allclose(policy.sample_batch([batch[0], batch[2]], 3, 0)[0], [alone[0], alone[2]], atol=1e-5)
    assert made == [3, 1]


@pytest.mark.parametrize("form", ["deep_expert", "deep_causal", "deep_mutual"])
@pytest.mark.parametrize("method", ["rtc", "rtc_identity", "rtc_trained"])
def test_a_chunk_continues_another_over_a_kept_prefix(saved, form, method):
    """The exact method differentiates through what reads the prefix; it may have been looked at by whoever needed no gradient."""
    policy = FlowPolicy.load(saved("smolvlm", form))
    given = told(policy, picture(0))
    free, _ = policy.sample(given, 5, 0)
    passes = looks(policy)
    continuation = Continuation(method, free + 0.1, 1, 2)
    kept, _ = policy.sample(given, 5, 0, continuation)
    assert not passes and np.abs(kept[0] - free[0] - 0.1).max() < np.abs(kept[-1] - free[-1] - 0.1).max()
    policy.forget()
    np.testing.assert_array_equal(policy.sample(given, 5, 0, continuation)[0], kept)
    assert len(passes) == 1


def test_guidance_works_over_a_kept_prefix(saved):
    plain, guided = FlowPolicy.load(saved()), FlowPolicy.load(saved(), guidance_scale=1.5)
    passes = looks(guided)
    chunks = [chunk(guided, picture(0), instruction=text) for text in (RED, RED, BLUE)]
    np.testing.assert_array_equal(chunks[0], chunks[1])
    assert len(passes) == 2 and np.abs(chunks[0] - chunk(plain, picture(0))).max() > 1e-4


def test_a_sample_waits_for_the_look_at_its_own_images_only(saved):
    """A thread that looks ahead is not repeated where it is needed, and does not hold up what is known already."""
    policy = FlowPolicy.load(saved())
    (prompt,) = policy.instruct(RED, 1)
    policy.look({"frames_front": picture(0)}, prompt)
    looking, go_on = threading.Event(), threading.Event()
    see, made = policy._kept._see, []

    def slow(inputs):
        made.append(1)
        looking.set()
        assert go_on.wait(30)
        return see(inputs)

    policy._kept._see = slow
    ahead = threading.Thread(target=policy.look, args=({"frames_front": picture(1)}, prompt))
    ahead.start()
    assert looking.wait(30)
    known = policy.sample(observation(7, picture(0), prompt), 3, 0)[0]  # returns, although the look goes on
    results = []
    needs = threading.Thread(target=lambda: results.append(policy.sample(observation(8, picture(1), prompt), 3, 0)[0]))
    needs.start()
    needs.join(0.3)
    assert needs.is_alive() and not results
    go_on.set()
    ahead.join(30)
    needs.join(30)
    assert len(made) == 1 and policy._kept.passes == 2
    fresh = FlowPolicy.load(saved())
    np.testing.assert_array_equal(known, fresh.sample(observation(7, picture(0), prompt), 3, 0)[0])
    np.testing.assert_array_equal(results[0], fresh.sample(observation(8, picture(1), prompt), 3, 0)[0])


@pytest.mark.parametrize("form", ["deep_causal", "deep_mutual"])
def test_looking_while_sampling_changes_no_chunk(saved, form):
    """Both run the same decoder at the same time; the one is stopped before it, the other is not."""
    policy = FlowPolicy.load(saved("paligemma", form))
    (prompt,) = policy.instruct(RED, 1)
    given = [observation(n, picture(n % 3), prompt) for n in range(12)]
    expected = [policy.sample(one, 3, 0)[0] for one in given]
    ended, failed = threading.Event(), []

    def look():
        try:
            number = 0
            while not ended.is_set():
                number += 1
                policy.look({"frames_front": picture(100 + number)}, prompt)
        except Exception as error:
            failed.append(error)

    ahead = threading.Thread(target=look)
    ahead.start()
    try:
        for one, chunk_before in zip(given, expected, strict=True):
            np.testing.assert_array_equal(policy.sample(one, 3, 0)[0], chunk_before)
    finally:
        ended.set()
        ahead.join(30)
    assert not failed


def test_a_look_that_begins_or_ends_does_not_disturb_the_decoder(saved):
    """What stops it is for a moment known to torch without being known to take keywords; other threads then call it so."""
    policy = FlowPolicy.load(saved("paligemma", "deep_causal"))
    prefix = policy.model.network.prefix
    given = told(policy, picture(0))
    expected = policy.sample(given, 3, 0)[0]
    looking, go_on = threading.Event(), threading.Event()

    def pause(*args):
        if threading.current_thread() is ahead:
            looking.set()
            assert go_on.wait(30)

    prefix.vlm.vision_tower.register_forward_hook(pause)
    ahead = threading.Thread(target=lambda: chunk(policy, picture(1)))
    ahead.start()
    assert looking.wait(30)
    hooks = prefix.text._forward_pre_hooks_with_kwargs
    kept = dict(hooks)
    assert len(kept) == 1
    hooks.clear()
    try:
        np.testing.assert_array_equal(policy.sample(given, 3, 0)[0], expected)
    finally:
        hooks.update(kept)
        go_on.set()
        ahead.join(30)


def test_instructions_reach_the_chunk_through_the_loop(saved):
    """No chunk without one; a new one from the next chunk on; a bad one changes nothing; a reset keeps the order given."""
    policy = deploy(PolicyParameters(checkpoint=str(saved()), steps=2), "toy")
    loop = PolicyLoop(policy, PolicyParameters(steps=2))
    assert loop.listens and loop.instruction == ""

    def step(now):
        loop.on_joint_state(joint_state(now), now)
        loop.on_features(picture(0, stamp=now), now)
        return loop.step(now)

    silent = step(100 * MS)
    assert isinstance(silent, Stale) and "no instruction has been given" in silent.reason
    loop.instruct(RED, 150 * MS)
    red = step(200 * MS)
    assert isinstance(red, Chunk) and red.observation_stamps["prompt"] == 150 * MS
    loop.instruct(BLUE, 250 * MS)
    blue = step(300 * MS)
    with pytest.raises(ExtractorError, match="holds '<image>', which stands for an image"):
        loop.instruct("<image> open", 350 * MS)
    assert loop.instruction == BLUE and loop.rejections == {"instruction": 1}
    fresh = FlowPolicy.load(saved())
    for made, text, stamp in ((red, RED, 200 * MS), (blue, BLUE, 300 * MS)):
        expected, _ = fresh.sample(observation(stamp, picture(0), *fresh.instruct(text, 0)), 2, 0)
        np.testing.assert_array_equal(made.positions, expected)
    loop.reset()
    after = step(10 * MS)  # a simulation begins anew, clock and all
    assert isinstance(after, Chunk) and loop.instruction == BLUE


def test_a_deadline_counts_the_look_and_hands_on_what_is_said(saved):
    parameters = PolicyParameters(checkpoint=str(saved()), deadline_s=5.0, steps=3)
    policy = deploy(parameters, "toy")
    assert isinstance(policy, DeadlinePolicy) and isinstance(policy, InstructedPolicy)
    passes = looks(policy._policy)
    (prompt,) = policy.instruct(RED, 4)
    policy.look({"frames_front": picture(0)}, prompt)
    policy.sample(observation(7, picture(0), prompt), 3, 0)
    assert prompt.stamp == 4 and len(passes) == 1
    measure_cost(policy._policy)
    assert len(passes) == 1 + len(STEP_COUNTS) * REPEATS


def test_observations_that_do_not_fit_are_named(saved):
    policy = FlowPolicy.load(saved())
    (prompt,) = policy.instruct(RED, 1)
    with pytest.raises(ContractError, match=r"features of the streams \['prompt'\] are missing"):
        policy.sample(observation(7, picture(0)), 2, 0)
    small = Features(0, "frames_front", np.zeros((24, 93), np.uint8))
    with pytest.raises(ContractError, match=r"features 'frames_front' has shape \(1, 24, 93\), expected \(1, 24, 96\)"):
        policy.sample(observation(7, small, prompt), 2, 0)
    floats = Features(0, "frames_front", np.zeros((24, 96), np.float32))
    with pytest.raises(ContractError, match=r"images are torch\.float32"):
        policy.sample(observation(7, floats, prompt), 2, 0)
    fewer = Features(0, "prompt", np.where(prompt.values == 4, 3, prompt.values).astype(np.float32))
    with pytest.raises(ContractError, match="the observation does not fit the checkpoint"):
        policy.sample(observation(7, picture(0), fewer), 2, 0)
    mute = FlowPolicy(load_checkpoint(saved()))
    with pytest.raises(ExtractorError, match=r"nothing reads the instruction for \['prompt'\]; load it with FlowPolicy.load"):
        mute.instruct(RED, 0)


def test_a_checkpoint_whose_processor_is_not_its_own_is_refused(saved, tmp_path):
    def copy(name):
        return shutil.copytree(saved(), tmp_path / name)

    changed = copy("changed")
    with (changed / "vlm" / "processor_config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(CheckpointError, match=r"not the one that the stream 'prompt' was made with \(sha256 .*expected"):
        load_checkpoint(changed)
    missing = copy("missing")
    shutil.rmtree(missing / "vlm")
    with pytest.raises(CheckpointError, match="there is no folder vlm, which holds what reads the prompt"):
        load_checkpoint(missing)
    fewer = copy("fewer")
    (fewer / "vlm" / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError):
        load_checkpoint(fewer)
    more = copy("more")
    (more / "vlm" / "vocab.txt").write_text("door\n")
    with pytest.raises(CheckpointError, match="A file was changed, added or removed"):
        load_checkpoint(more)
    foreign = copy("foreign")
    (foreign / "vlm" / "weights.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"holds weights\.bin, which is no file of a processor"):
        load_checkpoint(foreign)
    whole = load_checkpoint(saved())
    whole.codecs[0].prompter = None
    with pytest.raises(CheckpointError, match="its codec has no processor to be saved too"):
        save_checkpoint(tmp_path / "none", whole)
    assert not (tmp_path / "none").exists()
