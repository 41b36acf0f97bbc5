"""Features of tiny random `transformers` models: equal to the models' own way, preprocessed once, offline, and refused by name."""

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file
from vlm_folders import PROMPTED, TOWERS, VISION, VOCABULARY, tiny

from flow_policy_ros.vision.encoders import load_encoder
from flow_policy_ros.vision.features import FeatureExtractor
from flow_policy_ros.vision.preprocessing import Normalisation, check_once, covered
from flow_policy_ros.vision.pretrained import ExtractorError, import_transformers, locate
from flow_policy_ros.vision.vlm import VlmFeatures, load_vlm

SIZE = (48, 64)
KINDS = (*TOWERS, *PROMPTED)
SPEAKS = tuple(kind for kind in KINDS if not kind.startswith("dino"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Model folders by kind, each made when it is first wanted."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    made = {}

    def folder(kind):
        if kind not in made:
            pytest.importorskip("num2words") if kind.startswith("smolvlm") else None
            made[kind] = tiny(kind, root / kind)
        return made[kind]

    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"network used: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def picture(seed=0, size=SIZE):
    return np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)


def words_for(kind):
    return "open the red door" if kind in SPEAKS else ""


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_the_models_own(folders, kind):
    """What a user of transformers would get from processor and model, by the shortest way, for each class."""
    transformers = import_transformers()
    folder, image, said = folders(kind), picture(), words_for(kind)
    features: FeatureExtractor = load_vlm(str(folder), SIZE, said, precision="fp32")
    values = features.extract(image, 5).values
    tokens, mask = values[..., :-1], values[..., -1] > 0.5  # the last channel is the mask
    assert values.shape == (features.tokens, features.channels) and values.dtype == np.float32
    assert (tokens[~mask] == 0).all()
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        if kind in PROMPTED:
            processor = transformers.AutoProcessor.from_pretrained(folder)
            content = [{"type": "image"}, {"type": "text", "text": said}]
            template = processor.chat_template
            prompt = "<image>" + said
            if template:
                prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            inputs = processor(images=[[image]], text=[prompt], return_tensors="pt")
            inputs.pop("labels", None)
            hidden = model(**inputs).last_hidden_state[0].numpy()
            here = (inputs["input_ids"][0] == VOCABULARY["<|image_pad|>" if kind == "qwen" else "<image>"]).numpy()
            expected = np.concatenate([hidden[here], hidden[~here]])
        else:
            pixels = transformers.AutoImageProcessor.from_pretrained(folder)(images=image, return_tensors="pt")
            out = model(**pixels) if not words_for(kind) else model.get_image_features(**pixels)
            patches = features.identity()["rows"]["patches"]
            hidden = out.last_hidden_state[0]
            hidden = hidden[:patches] if kind == "siglip2" else hidden[-patches:]
            expected = [hidden, out.pooler_output]
            if said:
                tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
                padding = dict(padding="max_length", max_length=16) if "siglip" in kind else {}
                text = tokenizer(said, return_tensors="pt", **padding)
                given = {"input_ids": text["input_ids"]} if "siglip" in kind else dict(text)
                given.pop("token_type_ids", None)
                expected.append(model.get_text_features(**given).pooler_output)
            width = features.channels - 1
            expected = np.concatenate([np.pad(part.numpy(), ((0, 0), (0, width - part.shape[1]))) for part in expected])
    assert mask.sum() == len(expected)
    assert tokens[mask] == pytest.approx(expected, abs=2e-5)
    if kind == "smolvlm_split":
        assert features.grid is None  # parts and the whole: no one grid
    else:
        assert features.grid[0] * features.grid[1] == features.identity()["rows"]["patches"]


@pytest.mark.parametrize("kind", ["siglip", "dinov3", "paligemma"])
def test_pixels_are_scaled_and_normalised_once(folders, kind):
    """By hand: an image of the network's own size, so that no resizing comes between."""
    encoder = load_encoder(str(folders(kind)))
    image = picture(size=(32, 32))
    settings = encoder.preprocessing()
    mean, std = np.array(settings["image_mean"]), np.array(settings["image_std"])
    by_hand = ((image / 255 - mean) / std).transpose(2, 0, 1)
    given = encoder.pixels([[image]])["pixel_values"].reshape(3, 32, 32).numpy()
    assert given == pytest.approx(by_hand, abs=1e-5)
    twice = ((by_hand.transpose(1, 2, 0) / 255 - mean) / std).transpose(2, 0, 1)
    assert np.abs(given - twice).max() > 0.5


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda image: image.astype(np.float32) / 255, r"from 0(\.\d+)? to [01](\.\d+)?, which seems scaled to \[0, 1\] already"),
        (lambda image: (image.astype(np.float32) / 255 - 0.5) / 0.5, "which seems normalised already"),
        (lambda image: image.astype(np.float64), "unscaled floats"),
        (lambda image: image[..., 0], r"uint8 \(48, 64\), expected uint8 of shape"),
        (lambda image: image.transpose(2, 0, 1), r"\(3, 48, 64\)"),
        (lambda image: image[:40], "64 by 40 pixels, expected 64 by 48"),
        (lambda image: image.tolist(), "image is list"),
    ],
)
def test_images_that_would_be_normalised_twice_are_refused(folders, spoil, said):
    features = load_vlm(str(folders("siglip")), SIZE)
    with pytest.raises(ExtractorError, match=said):
        features.extract(spoil(picture()), 0)


@pytest.mark.parametrize("fault", [{"do_rescale": False}, {"rescale_factor": 1 / 255**2}, {"rescale_factor": 1.0}])
def test_a_processor_that_normalises_wrongly_is_measured(folders, tmp_path, fault):
    folder = tmp_path / "model"
    shutil.copytree(folders("siglip"), folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, **fault}))
    with pytest.raises(ExtractorError, match="scaled or normalised twice, or not at all"):
        load_vlm(str(folder), SIZE)


def test_normalising_in_front_of_the_processor_is_measured(folders):
    encoder = load_encoder(str(folders("siglip")))
    once = Normalisation((0.5,) * 3, (0.5,) * 3)
    check_once(encoder.picture, once, SIZE, "it")
    with pytest.raises(ExtractorError, match=r"of it makes .* of (black|white), expected"):
        check_once(lambda image: (encoder.picture(image) - 0.5) / 0.5 + 1, once, SIZE, "it")


def test_language_is_read_once_until_the_instruction_changes(folders):
    for kind, inner in (("clip", "text_model"), ("llava", None)):
        encoder = load_encoder(str(folders(kind)))
        reads, passes = [], []
        original = encoder.read
        encoder.read = lambda *a, original=original, reads=reads: reads.append(a[0]) or original(*a)
        if inner:
            getattr(encoder.network, inner).register_forward_hook(lambda *a, passes=passes: passes.append(1))
        features = VlmFeatures(encoder, SIZE, "open the door")
        made = len(reads), len(passes)
        first, *_ = [features.extract(picture(k), k).values for k in range(3)]
        features.instruct("open the door")
        assert (len(reads), len(passes)) == made
        features.instruct("move the red cube left")
        other = features.extract(picture(0), 0).values
        features.extract(picture(1), 1)
        assert len(reads) == made[0] + 1 and (not inner or len(passes) == made[1] + 1)
        assert np.abs(other - first).max() > 1e-3  # and language matters
        features.instruct("open the door")
        assert np.array_equal(features.extract(picture(0), 0).values, first)


def test_an_instruction_that_cannot_be_read_leaves_the_old_one(folders):
    features = load_vlm(str(folders("llava")), SIZE, "open the door", language_tokens=12)
    before = features.extract(picture(), 0).values
    with pytest.raises(ExtractorError, match="makes 34 tokens with its prompt, expected at most 12"):
        features.instruct("red " * 32)
    assert features.instruction == "open the door"
    assert np.array_equal(features.extract(picture(), 0).values, before)
    with pytest.raises(ExtractorError, match="expected at most 256, which model"):
        features.instruct("red " * 400)
    with pytest.raises(ExtractorError, match="stands for an image"):
        features.instruct("open <image> the door")
    for wordless in (" ", "\x00", "\u200b"):
        with pytest.raises(ExtractorError, match="the instruction"):
            features.instruct(wordless)
    with pytest.raises(ExtractorError, match="has 5000 characters, expected at most 2000"):
        features.instruct("door " * 1000)
    assert features.instruction == "open the door"
    pair = load_vlm(str(folders("clip")), SIZE)
    with pytest.raises(ExtractorError, match="makes 22 tokens, expected at most 16, which model 'clip' takes"):
        pair.instruct("red " * 20)
    with pytest.raises(ExtractorError, match="knows no language"):
        load_vlm(str(folders("dinov2")), SIZE, "open the door")


@pytest.mark.parametrize("kind", PROMPTED)
def test_a_prompt_of_two_images_is_what_the_processor_makes(folders, kind):
    """For policies whose prefix holds all cameras: the same encoding, with the language part made before."""
    transformers = import_transformers()
    encoder, images = load_encoder(str(folders(kind))), [picture(0), picture(1)]
    words = encoder.read("open the door", SIZE, images=2)
    given = encoder.encoding([images], words)
    processor = transformers.AutoProcessor.from_pretrained(folders(kind))
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "open the door"}]
    template = processor.chat_template
    prompt = (
        processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        if template
        else "<image><image>open the door"
    )
    expected = processor(images=[images], text=[prompt], return_tensors="pt")
    assert set(expected) - {"labels", "rows", "cols"} == set(given)
    assert all(torch.equal(given[k], expected[k]) for k in given)
    assert torch.isfinite(encoder.network(**given).last_hidden_state).all()


@pytest.mark.parametrize("kind", KINDS)
def test_cameras_in_one_batch_are_the_cameras_one_by_one(folders, kind):
    encoder = load_encoder(str(folders(kind)))
    features = VlmFeatures(encoder, SIZE, words_for(kind))
    images = [picture(k) for k in range(3)]
    passes = []
    tower = kind in TOWERS and kind in SPEAKS
    (encoder.network.vision_model if tower else encoder.network).register_forward_hook(lambda *a: passes.append(1))
    together = features.extract_batch(images, [10, 20, 30])
    assert len(passes) == 1
    assert [f.stamp for f in together] == [10, 20, 30]
    for image, found in zip(images, together, strict=True):
        assert found.values == pytest.approx(features.extract(image, 0).values, abs=2e-5)
    assert np.abs(together[0].values - together[1].values).max() > 1e-3
    with pytest.raises(ExtractorError, match="3 images come with 2 stamps"):
        features.extract_batch(images, [1, 2])


def test_patches_lie_where_the_processor_puts_them(folders):
    """CLIP cuts out the middle square; a bright corner of it shows in that patch first."""
    features = load_vlm(str(folders("clip")), SIZE)
    assert features.covered == pytest.approx((8.0, 0.0, 56.0, 48.0), abs=1.0)
    assert load_vlm(str(folders("dinov3")), SIZE).covered == pytest.approx((0, 0, 64, 48), abs=1.0)
    encoder = load_encoder(str(folders("clip")))
    image = np.zeros((*SIZE, 3), np.uint8)
    image[24:36, 8 + 12 : 8 + 24] = 255  # rows 2, column 1 of 4 by 4
    bright = encoder.picture(image)[0].reshape(4, 8, 4, 8).mean(axis=(1, 3))
    assert np.unravel_index(bright.argmax(), (4, 4)) == (2, 1)


def test_what_is_covered_is_measured_through_padding_too():
    def padded(image):  # 64 by 48 onto the middle of a grey square of 32
        import cv2

        square = np.full((32, 32, 3), 127, np.uint8)
        square[4:28] = cv2.resize(image, (32, 24), interpolation=cv2.INTER_AREA)
        return square.transpose(2, 0, 1) / 255.0

    assert covered(padded, SIZE) == pytest.approx((0, -8, 64, 56), abs=1.0)
    assert covered(lambda image: np.zeros((3, 32, 32)) + image.mean() / 255, SIZE) is None


def test_bf16_is_close_and_comes_out_as_float32(folders):
    exact = load_vlm(str(folders("siglip")), SIZE, "open the door", precision="fp32").extract(picture(), 0).values
    rough = load_vlm(str(folders("siglip")), SIZE, "open the door", precision="bf16").extract(picture(), 0).values
    assert rough.dtype == np.float32
    assert 1e-6 < np.abs(rough - exact).max() < 0.1
    with pytest.raises(ExtractorError, match="precision is 'fp8'"):
        load_vlm(str(folders("siglip")), SIZE, precision="fp8")
    with pytest.raises(ExtractorError, match="device 'abacus' cannot be used"):
        load_vlm(str(folders("siglip")), SIZE, device="abacus")


def test_identity_names_weights_and_preprocessing(folders, tmp_path):
    first = load_vlm(str(folders("siglip")), SIZE, "open the door").identity()
    assert json.loads(json.dumps(first)) == first
    assert first["model"] == "siglip" and first["revision"] == "local" and len(first["weights_sha256"]) == 64
    assert first["preprocessing"]["image_mean"] == [0.5, 0.5, 0.5]
    assert load_vlm(str(folders("siglip")), SIZE, "move left").identity() == first
    assert load_vlm(str(folders("siglip")), (64, 64)).identity() != first
    other = tmp_path / "siglip"
    shutil.copytree(folders("siglip"), other)
    assert load_vlm(str(other), SIZE).identity() == first
    weights = load_file(other / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1e-3}, other / "model.safetensors", {"format": "pt"})
    assert load_vlm(str(other), SIZE).identity()["weights_sha256"] != first["weights_sha256"]


def spoilt(folder, tmp_path, spoil):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    spoil(copy)
    return str(copy)


def pickle_only(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def without_a_tensor(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if "vision_model.encoder.layers.0" in name or "encoder.layers.0" in name))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def without_a_part(folder):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))


def own_code(folder):
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="mine", auto_map={"AutoConfig": "mine.MyConfig", "AutoModel": "mine.MyModel"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\nraise RuntimeError('code of the weights ran')\n")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (pickle_only, r"as a pickle only \(pytorch_model.bin\)"),
        (without_a_tensor, "lack 1 tensors"),
        (without_a_part, "lacks the weights model-00001-of-00002.safetensors"),
        (own_code, "the configuration of model 'model' .* cannot be loaded by this transformers"),
        (lambda f: (f / "config.json").unlink(), "lacks config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "has no weights"),
        (lambda f: (f / "model.safetensors").write_bytes(b"no"), "cannot be loaded"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "the image processor of model 'model' .* cannot be loaded"),
        (lambda f: [p.unlink() for p in f.glob("token*")], "the tokenizer of model 'model' .* cannot be loaded"),
    ],
)
def test_damaged_folders_are_refused_by_name(folders, tmp_path, spoil, said):
    with pytest.raises(ExtractorError, match=said):
        load_vlm(spoilt(folders("siglip"), tmp_path, spoil), SIZE)
    assert not (tmp_path / "model" / "ran").exists()


def test_unknown_names_say_what_to_download(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ExtractorError, match=r"hf download google/siglip2-nowhere --revision v2 --include"):
        locate("google/siglip2-nowhere", "v2")
    with pytest.raises(ExtractorError, match="no model folder at /nowhere/at/all"):
        locate("/nowhere/at/all")
    with pytest.raises(ExtractorError, match="check the spelling"):
        locate("not a name!")
    with pytest.raises(ExtractorError, match="no model is named"):
        locate("")
    with pytest.raises(ExtractorError, match="has no revisions"):
        locate(str(tmp_path), "main")


def test_a_downloaded_model_is_found_by_its_name(folders, tmp_path, monkeypatch):
    """As the hub's client lays it out; its commit goes into the identity."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny-dino"
    shutil.copytree(folders("dinov2"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    identity = load_vlm("someone/tiny-dino", SIZE).identity()
    assert (identity["model"], identity["revision"]) == ("someone/tiny-dino", commit)
    assert Path(locate("someone/tiny-dino", commit).folder).name == commit


def test_a_model_of_text_alone_is_refused(tmp_path):
    transformers = import_transformers()
    config = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=16)
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ExtractorError, match="of the kind 'bert', expected an image tower"):
        load_vlm(str(tmp_path), SIZE)


def test_a_network_without_a_token_for_each_patch_is_refused(tmp_path):
    """A Swin merges its patches, a ConvNeXt has none: their rows would be taken for others."""
    transformers = import_transformers()
    swin = transformers.SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4)
    convnext = transformers.ConvNextConfig(num_channels=3, patch_size=4, hidden_sizes=[4, 4, 8, 8], depths=[1, 1, 1, 1])
    for model in (transformers.SwinModel(swin), transformers.ConvNextModel(convnext)):
        model.save_pretrained(tmp_path)
        transformers.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
        with pytest.raises(ExtractorError, match="expected a token for each"):
            load_vlm(str(tmp_path), SIZE)


def test_an_image_tower_of_a_pair_is_a_model_too(tmp_path):
    transformers = import_transformers()
    transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**VISION)).save_pretrained(tmp_path)
    transformers.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    features = load_vlm(str(tmp_path), SIZE)
    assert features.grid == (4, 4) and features.identity()["rows"] == {"patches": 16, "summary": 1, "language": 0}
