"""Training on what robots were told and saw: sentences and prompts made at load, images as bytes, tiny vision-language models."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("transformers")

from recording_support import write_robot_file
from safetensors.torch import load_file
from vlm_folders import tiny, tokenizer

from flow_policy_ros.cli.main import main
from flow_policy_ros.data.bag_writer import BagWriter
from flow_policy_ros.data.episodes import Episode
from flow_policy_ros.policy.checkpoint import load_checkpoint
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.runtime.types import JointState, Observation
from flow_policy_ros.training.config import TrainConfig, TrainError
from flow_policy_ros.training.data import load_training_data
from flow_policy_ros.training.gates import check_paths, require
from flow_policy_ros.training.language import keep_encoder
from flow_policy_ros.training.paths import check_deployment, deployed_path, raw_batch, training_path
from flow_policy_ros.training.trainer import FlowMatching
from flow_policy_ros.training.tuning import merged
from flow_policy_ros.vision.pretrained import import_transformers
from flow_policy_ros.vision.sentence import PACKAGES, SentenceEncoder

MS = 1_000_000
JOINTS = ("wrist", "thumb")
SIZE = (24, 40)
SMALL = ["--sizes", "width=16", "blocks=1", "expansion=2", "time_width=8", "observation_width=8"]
TOLD = ("move left", "move the red cube to the right goal")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentences")
    transformers = import_transformers()
    torch.manual_seed(0)
    sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=64)
    transformers.BertModel(transformers.BertConfig(**sizes, max_position_embeddings=20)).save_pretrained(folder)
    tokenizer(longest=20, ends=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vlms(tmp_path_factory):
    return {kind: tiny(kind, tmp_path_factory.mktemp(kind)) for kind in ("smolvlm", "paligemma", "qwen")}


def episode(seed, told, ticks=24):
    """Left or right, as it is told; the picture shows the number of the tick."""
    stamps = 10 * MS * np.arange(1, ticks + 1, dtype=np.int64)
    goal = -1.0 if "left" in told else 1.0
    command = np.linspace(0, 1, ticks)[:, None] * np.array([goal, 0.5])
    generator = np.random.default_rng(seed)
    pictures = generator.integers(0, 256, (ticks // 4, SIZE[0], 3 * SIZE[1]), dtype=np.uint8)
    marks = generator.standard_normal((ticks, 3, 3)).astype(np.float32)
    marks[:, :, 2] = generator.random((ticks, 3)) < 0.7  # the mask
    marks[marks[:, :, 2] == 0] = 0.0
    streams = {"frames": (stamps[::4], pictures), "marks": (stamps, marks)}
    return Episode("door", seed, True, 10 * MS, stamps, JOINTS, 0.9 * command, command, command, streams, instruction=told)


EXTRACTORS = {
    "frames": {"extractor": "frames", "camera": "front", "size": list(SIZE)},
    "marks": {"extractor": "marks", "mask_channel": 2},
}


def write(folder, told, first=0):
    folder.mkdir(exist_ok=True)
    for k, text in enumerate(told):
        episode(first + k, text).save(folder / f"{k}.npz")
    (folder / "extractor.json").write_text(json.dumps(EXTRACTORS))
    return folder


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "data", [TOLD[k % 2] for k in range(4)])


def arguments(data, out, *more):
    folders = [str(path) for path in (data if isinstance(data, list) else [data])]
    return ["train", "--data", *folders, "--out", str(out), "--horizon", "4", "--batch", "8", "--warmup", "2", "--validation",
            "0.25", *more]  # fmt: skip


def deep(network, vlm, *more):
    sizes = ["--sizes", "width=16", "hidden=24"] if network == "deep_expert" else []
    return ["--streams", "--network", network, "--vlm", str(vlm), "--frames", "front", *sizes, *more]


def deployed_gates(checkpoint_out):
    """The gates between what the checkpoint's options train and what a robot loads."""
    checkpoint = load_checkpoint(checkpoint_out)
    config = TrainConfig.from_json(checkpoint.training["config"])
    batches = raw_batch(load_training_data(config, checkpoint.codecs))
    batches = [replace(b, **{n: getattr(b, n)[:6] for n in ("joint_position", "actions")},
                       features={n: v[:6] for n, v in b.features.items()}) for b in batches]  # fmt: skip
    return checkpoint, batches, check_deployment(checkpoint.model, checkpoint.codecs, checkpoint_out, batches, "trained")


# Sentences.


def test_a_sentence_is_observed_as_it_is_told(data, sentences, tmp_path, monkeypatch):
    """Each distinct sentence is encoded once, at load; the robot's own reader makes the same of it."""
    read = []
    monkeypatch.setattr(SentenceEncoder, "_encode", counting(SentenceEncoder._encode, read))
    out = tmp_path / "run"
    assert main(arguments(data, out, "--streams", "marks", "--language", str(sentences), "--steps", "4", *SMALL)) == 0
    assert sorted(read) == sorted(TOLD)
    checkpoint, batches, gates = deployed_gates(out)
    require(gates)
    marks, told = checkpoint.codec_of().contract.streams
    assert (told.name, told.tokens, told.channels, told.moment, told.kind) == ("instruction", 1, 8, "standing", "sentence")
    assert (marks.mask_channel, checkpoint.model.shape.channels, checkpoint.model.shape.tokens) == (2, 8, 4)
    assert checkpoint.training["data"]["instructions"] == {"different": 2, "some": sorted(TOLD)}
    policy = FlowPolicy.load(out)
    (heard,) = policy.instruct(TOLD[0], 7)
    of_left = (batches[0].actions[:, -1, 0] < 0).nonzero()[0]
    assert torch.equal(batches[0].features["instruction"][of_left[0]], torch.from_numpy(heard.values))
    assert "instruction" in (out / "README.md").read_text()


def counting(method, calls):
    def counted(self, text):
        calls.append(text)
        return method(self, text)

    return counted


def test_masked_tokens_count_for_no_statistic(data, sentences, tmp_path):
    config = TrainConfig(data=(data,), out=tmp_path, streams=("marks",), language=str(sentences), horizon=4, validation=0.0)
    codec = load_training_data(config).codecs[0]
    values = np.concatenate([episode(seed, "left").streams["marks"][1] for seed in range(4)])
    real = [values[values[:, token, 2] > 0.5, token, :2] for token in range(3)]
    # Of the last tick of an episode there is no chunk left out here: all ticks are samples.
    expected = np.concatenate([rows.mean(axis=0) for rows in real])
    np.testing.assert_allclose(codec.observation_normaliser.offset[2:8], expected, atol=1e-6)
    np.testing.assert_allclose(codec.observation_normaliser.scale[2:8], np.concatenate([r.std(axis=0) for r in real]), rtol=1e-5)


def test_gates_see_a_mask_that_is_ignored_and_an_instruction_that_is_another(data, sentences, tmp_path):
    out = tmp_path / "run"
    assert main(arguments(data, out, "--streams", "marks", "--language", str(sentences), "--network", "dit_cross", "--sizes",
                          "width=16", "blocks=1", "--steps", "2")) == 0  # fmt: skip
    checkpoint, (batch,), gates = deployed_gates(out)
    require(gates)
    ours, theirs = training_path(checkpoint.model, checkpoint.codecs[0], "training"), deployed_path(FlowPolicy.load(out))
    def everything_real(*observed):
        made = theirs.observation(*observed)
        return replace(made, token_mask=torch.ones_like(made.token_mask))

    def another(position, features, history):
        return theirs.observation(position, features | {"instruction": features["instruction"].flip(0)}, history)

    for fault in (everything_real, another):
        failed = {gate.name for gate in check_paths(ours, replace(theirs, observation=fault), batch) if not gate.passed}
        assert "observation_transform" in failed


def test_who_was_not_told_is_named(sentences, tmp_path, capsys):
    told, silent = write(tmp_path / "told", TOLD), write(tmp_path / "silent", ["", ""], 10)
    more = ["--streams", "--language", str(sentences), "--steps", "2", *SMALL]
    assert main(arguments([told, silent], tmp_path / "a", *more)) == 2
    error = capsys.readouterr().err
    assert "2 of 4 recordings have no instruction" in error and "silent/0.npz" in error and "--instruction" in error
    assert main(arguments([told, silent], tmp_path / "a", *more, "--instruction", "move right")) == 0
    summary = load_checkpoint(tmp_path / "a").training["data"]
    assert summary["instructions"]["some"] == sorted([*TOLD, "move right"])
    assert main(arguments(told, tmp_path / "b", *more, "--instruction", "move right")) == 2
    assert "every recording says itself" in capsys.readouterr().err
    assert main(arguments(told, tmp_path / "b", "--streams", "--instruction", "left", "--steps", "2", *SMALL)) == 2
    assert "--instruction is given, but the policy does not observe one" in capsys.readouterr().err
    long = "move the red cube to the left goal and " * 5
    assert main(arguments(silent, tmp_path / "b", *more, "--instruction", long)) == 2
    found = capsys.readouterr().err
    assert "is left out, as a robot would refuse it" in found and "no instruction that can be read" in found


def test_noise_leaves_instructions_and_images_alone_and_masks_tell_what_was_dropped(data, vlms, sentences, tmp_path):
    from flow_policy_ros.training.augment import augment

    options = dict(data=(data,), out=tmp_path, horizon=4, joint_noise=0.1, feature_noise=0.5, feature_dropout=0.3)
    told = TrainConfig(**options, streams=("marks",), language=str(sentences))
    seen = TrainConfig(**options, streams=(), network="deep_expert", vlm=str(vlms["smolvlm"]), frames=("front",))
    for config in (told, seen):
        loaded = load_training_data(config)
        ((number, batch),) = next(loaded.train.batches(0, 0, 32))
        noisy = augment(batch, config, np.random.default_rng(0), loaded.contract(number))
        assert not np.array_equal(noisy.joint_position, batch.joint_position)
        for name in set(batch.features) - {"marks"}:
            assert noisy.features[name] is batch.features[name]
        if config is seen:
            assert batch.features["frames"].dtype == np.uint8 and set(batch.features) == {"frames", "prompt"}
            continue
        before, after = batch.features["marks"], noisy.features["marks"]
        real, kept = before[:, :, 2] > 0.5, after[:, :, 2] > 0.5
        assert set(np.unique(after[:, :, 2])) == {0.0, 1.0} and not (kept & ~real).any()
        assert not after[~kept].any() and (after[kept, :2] != before[kept, :2]).mean() > 0.9  # never zeros that count as seen
        assert 0.1 < 1 - kept.sum() / real.sum() < 0.5


# Images and prompts.


@pytest.mark.parametrize(
    ("network", "kind", "tuning"),
    [("deep_expert", "smolvlm", "frozen"), ("deep_expert", "qwen", "lora"), ("deep_causal", "paligemma", "lora"),
     ("deep_mutual", "smolvlm", "full")],
)  # fmt: skip
def test_deep_networks_train_resume_and_deploy(data, vlms, tmp_path, network, kind, tuning, capsys):
    """A resumed run is the uninterrupted one bit for bit; the robot's path is the training's; a frozen model stays the folder's."""
    more = deep(network, vlms[kind], "--vlm-tuning", tuning, "--lora-rank", "2", "--lr", "1e-2", "--joint-noise", "0.01", "--steps",
                "10")  # fmt: skip
    assert main(arguments(data, tmp_path / "straight", *more)) == 0
    assert "begins with its weights (sha256" in capsys.readouterr().out
    assert main(arguments(data, tmp_path / "halves", *more, "--stop-at", "6")) == 0
    assert main(arguments(data, tmp_path / "halves", *more, "--resume")) == 0
    for name in ("model.safetensors", "training/state.safetensors"):
        straight, halves = (load_file(tmp_path / run / name) for run in ("straight", "halves"))
        assert straight.keys() == halves.keys()
        assert all(torch.equal(straight[k], halves[k]) for k in straight), name

    checkpoint, batches, gates = deployed_gates(tmp_path / "straight")
    require(gates)
    frames, prompt = checkpoint.codec_of().contract.streams
    assert (frames.kind, frames.tokens, frames.channels, frames.dtype) == ("frames", SIZE[0], 3 * SIZE[1], "uint8")
    assert (prompt.kind, prompt.channels, prompt.moment) == ("prompt", 2, "standing")
    assert len(checkpoint.codec_of().observation_normaliser.offset) == 2  # joints alone
    begun = import_transformers().AutoModel.from_pretrained(vlms[kind]).state_dict()
    now = checkpoint.model.network.prefix.vlm.state_dict()
    assert begun.keys() == now.keys()
    changed = {name for name in begun if not torch.allclose(begun[name], now[name], atol=1e-7)}
    if tuning == "frozen":
        assert not changed
    elif tuning == "lora":
        assert changed and all(name.rsplit(".", 2)[1] in ("q_proj", "k_proj", "v_proj", "o_proj") for name in changed)
        assert not any("vision" in name for name in changed)
    else:
        assert any("vision" in name for name in changed)
    assert checkpoint.training["data"]["vlm"]["tuning"] == tuning

    policy = FlowPolicy.load(tmp_path / "straight")
    ours, theirs = training_path(checkpoint.model, checkpoint.codecs[0], "training"), deployed_path(policy)
    for stream in ("frames", "prompt"):

        def another(position, features, history, stream=stream):
            return theirs.observation(position, features | {stream: features[stream].flip(0)}, history)

        gates = check_paths(ours, replace(theirs, observation=another), batches[0])
        assert "observation_transform" in {gate.name for gate in gates if not gate.passed}, stream
    (told,) = policy.instruct(TOLD[0], 5)
    picture = batches[0].features["frames"][0].numpy()
    chunk, _ = policy.sample(Observation(7, np.zeros(2), {"frames": picture, "prompt": told.values}), steps=2, seed=1)
    assert chunk.shape == (4, 2) and np.isfinite(chunk).all()


def lesson(data, vlm, tmp_path, tuning, network="deep_expert"):
    config = TrainConfig(data=(data,), out=tmp_path / "run", streams=(), network=network, vlm=str(vlm), frames=("front",),
                         horizon=4, vlm_tuning=tuning, lora_rank=2, batch=8)  # fmt: skip
    return config, FlowMatching(config, "", load_training_data(config))


def test_frozen_parts_take_nothing(data, vlms, tmp_path):
    """No gradient, no optimiser state, no second copy, and no training mode; the rest of the network has all of them."""
    from flow_policy_ros.training.loop import Loop

    for tuning in ("frozen", "lora"):
        config, trained = lesson(data, vlms["smolvlm"], tmp_path, tuning)
        loop = Loop(config, trained)
        loop._step()
        vlm = trained.model.network.prefix.vlm
        inside = {id(p): name for name, p in vlm.named_parameters()}
        optimised = {id(p) for group in loop.raw_optimizer.param_groups for p in group["params"]}
        learned = {name for key, name in inside.items() if key in optimised}
        assert all("lora_" in name for name in learned) and bool(learned) == (tuning == "lora")
        assert all(p.grad is None for p in vlm.parameters() if id(p) not in optimised)
        assert not any(module.training for module in vlm.vision_model.modules()) and trained.model.network.tokens.training
        assert vlm.text_model.training == (tuning == "lora")
        averaged = dict(loop.ema.model.network.prefix.vlm.named_parameters())
        assert all((averaged[name] is p) == ("lora_" not in name) for name, p in vlm.named_parameters())


def test_lora_is_in_the_weights_of_a_checkpoint(data, vlms, tmp_path):
    """Merged, the network says what it said before, and has the tensors of one that never knew of it."""
    _, trained = lesson(data, vlms["paligemma"], tmp_path, "lora", "deep_causal")
    model = trained.model
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.3)
    torch.nn.init.normal_(model.network.tokens.out.weight)
    plain = merged(model.eval())
    _, fresh = lesson(data, vlms["paligemma"], tmp_path, "full", "deep_causal")
    assert plain.state_dict().keys() == fresh.model.state_dict().keys() != model.state_dict().keys()
    observation = trained.data.tensors(next(trained.data.train.batches(0, 0, 4))).observation
    x, t = torch.randn(4, 4, 2), torch.rand(4)
    with torch.no_grad():
        ours, theirs, without = (m.eval().velocity(x, t, m.condition(observation)) for m in (model, plain, fresh.model))
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(ours, without, atol=1e-2)
    assert any("lora_" in name for name, _ in model.named_parameters())  # what is trained goes on as it was


def test_a_folder_without_weights_begins_at_random_and_says_so(data, vlms, tmp_path, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in vlms["smolvlm"].iterdir():
        if path.suffix != ".safetensors":
            (bare / path.name).write_bytes(path.read_bytes())
    assert main(arguments(data, tmp_path / "run", *deep("deep_expert", bare, "--steps", "2"))) == 0
    assert "the folder has no weights, it begins at random" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "run").training["data"]["vlm"]["weights"] == "random"
    (bare / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    assert main(arguments(data, tmp_path / "other", *deep("deep_expert", bare, "--steps", "2"))) == 2
    assert "lacks the weights model-00001-of-00001.safetensors" in capsys.readouterr().err


def test_options_that_do_not_belong_together_are_named(data, vlms, tmp_path):
    vlm = str(vlms["smolvlm"])
    for wrong, words in (
        (dict(network="deep_expert", streams=()), "need a vision-language model and a camera"),
        (dict(vlm=vlm, frames=("front",)), "others take neither"),
        (dict(network="deep_expert", vlm=vlm, frames=("front",)), "no feature tokens"),
        (dict(network="deep_expert", vlm=vlm, frames=("front=12",), streams=()), "expected CAMERA or CAMERA=HEIGHTxWIDTH"),
        (dict(network="deep_expert", vlm=vlm, frames=("side",), streams=()), r"of camera 'side' to train on, only of \['front'\]"),
        (dict(network="deep_expert", vlm=vlm, frames=("front=8x8",), streams=()), r"are of the size \[24, 40\]"),
    ):  # fmt: skip
        with pytest.raises(TrainError, match=words):
            load_training_data(TrainConfig(data=(data,), out=tmp_path, horizon=4, **wrong))
    with pytest.raises(ValueError, match=r"makes .* tokens with its prompt, expected at most"):
        load_training_data(TrainConfig(data=(data,), out=tmp_path, horizon=4, network="deep_expert", vlm=vlm, frames=("front",),
                                       streams=(), prompt_length=2))  # fmt: skip


def test_a_teacher_that_reads_images_is_refused(data, vlms, tmp_path, capsys):
    assert main(arguments(data, tmp_path / "run", *deep("deep_expert", vlms["smolvlm"], "--steps", "2"))) == 0
    assert main(["distill", "--teacher", str(tmp_path / "run"), "--out", str(tmp_path / "student"), "--count", "8"]) == 2
    assert "reads images by a vision-language model (deep_expert)" in capsys.readouterr().err


def test_a_student_is_told_as_its_teacher(data, sentences, tmp_path):
    """The sentence model that was given as a folder goes with it."""
    copy = shutil.copytree(sentences, tmp_path / "model")
    assert main(arguments(data, tmp_path / "teacher", "--streams", "marks", "--language", str(copy), "--steps", "2", *SMALL)) == 0
    shutil.rmtree(copy)
    student = tmp_path / "student"
    assert main(["distill", "--teacher", str(tmp_path / "teacher"), "--out", str(student), "--count", "64", "--rectify", "2",
                 "--steps", "2", "--batch", "16", "--warmup", "1"]) == 0  # fmt: skip
    (heard,) = FlowPolicy.load(student).instruct(TOLD[0], 1)
    np.testing.assert_array_equal(heard.values, SentenceEncoder(str(sentences)).encode(TOLD[0])[None])


def test_another_sentence_model_takes_the_place_of_the_one_before(sentences, tmp_path):
    """A checkpoint's own copy is what the robot reads with: one left from another training would be refused there."""
    def of(model):
        return TrainConfig(data=(tmp_path,), out=tmp_path, language=str(model))

    other = shutil.copytree(sentences, tmp_path / "other")
    (other / "1_Pooling").mkdir()
    (other / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (out := tmp_path / "run").mkdir()
    kept = out / "sentence"
    for model in (sentences, other, sentences):
        keep_encoder(of(model), out)
        assert SentenceEncoder(str(kept)).identity() == {**SentenceEncoder(str(model)).identity(), "model": "sentence"}
    assert [path.name for path in out.iterdir()] == ["sentence"]
    keep_encoder(of(kept), out)  # as a student of its own teacher's folder
    assert SentenceEncoder(str(kept)).encode("left").shape == (8,)
    shutil.rmtree(kept)
    kept.symlink_to(sentences)
    before = kept.stat().st_ino
    keep_encoder(of(sentences), out)
    assert kept.is_symlink() and kept.stat().st_ino == before  # the same: stays as somebody put it there
    keep_encoder(of(other), out)
    assert not kept.is_symlink() and (kept / "1_Pooling").is_dir() and (sentences / "config.json").is_file()


def test_a_model_with_a_name_leaves_no_other_in_the_checkpoint(sentences, tmp_path, monkeypatch):
    (tmp_path / "packages" / "named_sentences").mkdir(parents=True)
    (tmp_path / "packages" / "named_sentences" / "__init__.py").touch()
    model = shutil.copytree(sentences, tmp_path / "packages" / "named_sentences" / "model")
    (model / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setitem(PACKAGES, "named", ("named_sentences", "named-sentences"))
    named, kept = TrainConfig(data=(tmp_path,), out=tmp_path, language="named"), tmp_path / "run" / "sentence"
    shutil.copytree(sentences, kept)
    keep_encoder(named, kept.parent)
    assert not kept.exists()
    shutil.copytree(model, kept)  # the same, put there for a robot without the package
    keep_encoder(named, kept.parent)
    assert kept.is_dir()


# Bags.


def write_bag(path, seed, told):
    with BagWriter(path) as bag:
        for stamp, text in told:
            bag.instruction(5_000 * MS + stamp, text)
        generator = np.random.default_rng(seed)
        for k in range(30):
            stamp = 5_000 * MS + 10 * MS * (k + 1)
            bag.joint_state(JointState(stamp, JOINTS, np.array([0.01 * k, 0.0])))
            bag.command(stamp, JOINTS, np.array([0.02 * k, 0.1]), np.zeros(2))
            if k % 5 == 0:
                bag.image(stamp, generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return path


def test_bags_carry_instructions_and_pictures(vlms, tmp_path):
    """An instruction holds from its receipt on; pictures are resized as the robot resizes them."""
    robot = write_robot_file(tmp_path, JOINTS)
    bag = write_bag(tmp_path / "bag", 0, [(0, TOLD[0]), (155 * MS, TOLD[1])])
    config = TrainConfig(data=(bag,), robot=(robot,), out=tmp_path, horizon=4, validation=0.0, streams=(), network="deep_expert",
                         vlm=str(vlms["smolvlm"]), frames=("front=24x40",), features_max_age=1.0)  # fmt: skip
    loaded = load_training_data(config)
    (windows,) = loaded.train.sources
    batch = windows.gather(samples := windows.samples(0, 0))
    assert batch.features["frames"].shape[1:] == (24, 120) and batch.features["frames"].dtype == np.uint8
    lengths = batch.features["prompt"][:, :, 1].sum(axis=1)
    later = batch.joint_position[:, 0] >= 0.145  # received at 160 ms or later
    assert samples.ticks.size == 30 and len(set(lengths[later])) == len(set(lengths[~later])) == 1
    assert lengths[later][0] > lengths[~later][0]
    silent = write_bag(tmp_path / "silent", 1, [])
    with pytest.raises(TrainError, match="1 of 1 recordings have no instruction"):
        load_training_data(replace(config, data=(silent,)))
    assert load_training_data(replace(config, data=(silent,), instruction=TOLD[0])).summary["samples"] == 30
    with pytest.raises(TrainError, match=r"to what size are the pictures of bags to be resized\? E\.g\. front=224x224"):
        load_training_data(replace(config, frames=("front",)))
    with pytest.raises(TrainError, match="names camera 'side', which robot file"):
        load_training_data(replace(config, frames=("side=8x8",)))


def test_a_camera_keeps_its_own_greatest_age_in_training(vlms, tmp_path):
    """As the policy node judges it: other samples than the robot would act on are none. A picture comes every 50 ms."""
    path = write_robot_file(tmp_path, JOINTS)
    bag = write_bag(tmp_path / "bag", 0, [(0, TOLD[0])])
    config = TrainConfig(data=(bag,), robot=(path,), out=tmp_path, horizon=4, validation=0.0, streams=(), network="deep_expert",
                         vlm=str(vlms["smolvlm"]), frames=("front=24x40",))  # fmt: skip
    assert load_training_data(config).summary["samples"] == 30
    content = yaml.safe_load(path.read_text())
    content["/**"]["ros__parameters"]["robot"]["cameras"]["front"]["max_age_s"] = 0.02
    path.write_text(yaml.safe_dump(content))
    loaded = load_training_data(config)
    (windows,) = loaded.train.sources
    assert (windows.samples(0, 0).ticks % 5 <= 2).all() and loaded.summary["samples"] == 18
    assert load_training_data(replace(config, features_max_age=1.0)).summary["samples"] == 30
