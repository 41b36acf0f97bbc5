"""The processor of a vision-language model, without the model: the same inputs on the robot as in training, or a refusal."""

import json
import shutil

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from vlm_folders import tiny
from vlm_policy_support import KINDS, LENGTH, SIZE, folder_of

from flow_policy_ros.policy.instruction import PromptReader
from flow_policy_ros.policy.prompt import FILES, ORIGIN, Prompter
from flow_policy_ros.vision.pretrained import ExtractorError, import_transformers


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def saved(root, tmp_path):
    """As it lies in a checkpoint."""
    Prompter.load(folder_of("paligemma", root)).save(tmp_path / "vlm")
    return tmp_path / "vlm"


def images(batch=2, count=1, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 255, (batch, count, *SIZE, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_processor_reads_as_the_first_did(root, tmp_path, kind):
    """Its files are the same bytes, also when a copy is saved again; of the model's weights nothing is needed."""
    folder = folder_of(kind, root)
    first = Prompter.load(folder)
    first.save(tmp_path / "one")
    again = Prompter.load(tmp_path / "one")
    again.save(tmp_path / "one")
    again.save(tmp_path / "two")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert ORIGIN in names and set(names) <= {*FILES, ORIGIN} and "tokenizer.json" in names
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        assert name == ORIGIN or (tmp_path / "one" / name).read_bytes() == (folder / name).read_bytes()
    assert again.identity() == first.identity() and len(first.identity()["weights_sha256"]) == 64
    for ours, theirs in zip(again.ids("open the door", SIZE), first.ids("open the door", SIZE), strict=True):
        assert torch.equal(ours, theirs)
    for name, ours in again.pixels(images()).items():
        assert torch.equal(ours, first.pixels(images())[name])


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_what_the_models_own_processor_makes(root, kind):
    """Of two cameras, and of a prompt that was padded to be a stream."""
    prompter = Prompter.load(folder_of(kind, root))
    processor = import_transformers().AutoProcessor.from_pretrained(folder_of(kind, root))
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "open the door"}]
    text = processor.image_token * 2 + "open the door"
    if processor.chat_template:
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    frames = images(batch=1, count=2)
    expected = processor(images=[list(frames[0].numpy())], text=[text], return_tensors="pt")
    prompt = PromptReader(prompter, length=LENGTH, size=SIZE, images=2).read("open the door", 0).values
    given = prompter.inputs(frames, torch.from_numpy(prompt)[None])
    assert prompt.shape == (LENGTH, 2) and prompt.dtype == np.float32
    assert torch.equal(given.input_ids, expected["input_ids"]) and given.mask.all()
    assert torch.equal(given.pixels.flatten(), expected["pixel_values"].flatten())
    assert ("image_grid_thw" in expected) == bool(given.grid.shape[1])
    given.check(1)


def test_prompts_of_different_length_share_a_batch(root):
    """What all have too much is left out, what some have too much is masked."""
    prompter = Prompter.load(folder_of("paligemma", root))
    reader = PromptReader(prompter, length=LENGTH, size=SIZE)
    texts = ("open", "open the red door")
    both = torch.stack([torch.from_numpy(reader.read(text, 0).values) for text in texts])
    given = prompter.inputs(images(), both)
    lengths = [len(prompter.ids(text, SIZE)[0]) for text in texts]
    assert given.mask.sum(dim=1).tolist() == lengths and given.input_ids.shape[1] == max(lengths) < LENGTH


def test_points_of_depth_are_told_apart_from_unknown_ones(root):
    prompter = Prompter.load(folder_of("paligemma", root))
    prompt = torch.from_numpy(PromptReader(prompter, length=LENGTH, size=SIZE).read("open", 0).values)[None]
    points = torch.rand(1, 16, 4)
    points[:, :, 3] = torch.arange(16) % 2
    given = prompter.inputs(images(batch=1), prompt, points)
    assert torch.equal(given.points, points[:, :, :3]) and given.known.sum() == 8 and given.known[0, 1] and not given.known[0, 0]


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("settings", [{"rescale_factor": 1.0}, {"do_normalize": True, "do_rescale": False}])
def test_a_processor_that_scales_wrongly_is_refused_before_anything_is_read(root, tmp_path, settings):
    folder = shutil.copytree(folder_of("paligemma", root), tmp_path / "wrong")
    edit(folder / "processor_config.json", lambda c: c["image_processor"].update(settings))
    with pytest.raises(ExtractorError, match=r"expected .*: images are scaled or normalised twice, or not at all"):
        PromptReader(Prompter.load(folder), length=LENGTH, size=SIZE)


@pytest.mark.parametrize(
    ("frames", "prompt", "message"),
    [
        (images().float() / 255, None, r"images are torch.float32 .*, expected uint8 .* scaled and normalised here, once"),
        (images()[:, 0], None, r"expected uint8 \(samples, images, height, width, 3\)"),
        (images(), torch.full((2, 3, 2), 1e6), "numbers that are no tokens of model 'paligemma', which knows 64"),
        (images(), torch.full((2, 3, 2), 0.5), "numbers that are no tokens"),
        (images(), torch.full((2, 3, 2), -1.0), "numbers that are no tokens"),
        (images(), torch.zeros(2, 3, 2), "the prompt is padding alone"),
    ],
)
def test_inputs_that_are_none_are_named(root, frames, prompt, message):
    prompter = Prompter.load(folder_of("paligemma", root))
    if prompt is None:
        values = PromptReader(prompter, length=LENGTH, size=SIZE).read("open", 0).values
        prompt = torch.from_numpy(values).expand(2, -1, -1)
    with pytest.raises(ExtractorError, match=message):
        prompter.inputs(frames, prompt)


def test_folders_that_are_no_processor_are_named(root, saved, tmp_path):
    with pytest.raises(ExtractorError, match="neither a folder nor in this machine's cache"):
        Prompter.load("nobody/no-such-model")
    with pytest.raises(ExtractorError, match="no place for images in its prompt"):
        Prompter.load(tiny("siglip", tmp_path / "siglip"))
    (saved / "model.pkl").write_bytes(b"cos\nsystem\n")
    with pytest.raises(ExtractorError, match=r"holds model.pkl, which is no file of a processor; remove it"):
        Prompter.load(saved)
    (saved / "model.pkl").unlink()
    (saved / ORIGIN).write_text("{}")
    with pytest.raises(ExtractorError, match=r"origin.json cannot be read"):
        Prompter.load(saved)
    with pytest.raises(ExtractorError, match=r"lacks config.json or the processor's files"):
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "config.json").write_bytes((saved / "config.json").read_bytes())
        Prompter.load(tmp_path / "empty")


def test_code_that_comes_with_a_processor_is_never_run(root, tmp_path):
    folder = shutil.copytree(folder_of("paligemma", root), tmp_path / "foreign")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass P: pass\n")
    edit(folder / "processor_config.json", lambda c: c.update(processor_class="P", auto_map={"AutoProcessor": "own.P"}))
    edit(folder / "config.json", lambda c: c.update(auto_map={"AutoConfig": "own.P"}))
    try:
        Prompter.load(folder).save(tmp_path / "saved")
    except ExtractorError:
        pass
    else:
        assert not (tmp_path / "saved" / "own.py").exists()
    assert not (tmp_path / "ran").exists()


def test_files_that_changed_since_are_not_saved(root, tmp_path):
    folder = shutil.copytree(folder_of("paligemma", root), tmp_path / "mine")
    prompter = Prompter.load(folder)
    edit(folder / "processor_config.json", lambda c: c["image_processor"].update(resample=0))
    with pytest.raises(ExtractorError, match=r"mine have changed since they were loaded; load the model again"):
        prompter.save(tmp_path / "vlm")


@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model"])
def test_sentencepiece_tables_belong_to_the_processor(root, tmp_path, name):
    folder = shutil.copytree(folder_of("paligemma", root), tmp_path / "model")
    plain = Prompter.load(folder).sha256
    (folder / name).write_bytes(b"\x0a\x00table")
    with_table = Prompter.load(folder)
    assert with_table.sha256 != plain
    with_table.save(tmp_path / "vlm")
    assert (tmp_path / "vlm" / name).read_bytes() == b"\x0a\x00table"
    assert Prompter.load(tmp_path / "vlm").identity() == with_table.identity()


def test_a_model_without_weights_is_enough_to_train_one_from_nothing(root, tmp_path):
    folder = shutil.copytree(folder_of("paligemma", root), tmp_path / "bare")
    (folder / "model.safetensors").unlink()
    bare, whole = Prompter.load(folder), Prompter.load(folder_of("paligemma", root))
    assert bare.sha256 == whole.sha256 and bare.identity()["weights_sha256"] == ""
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ExtractorError, match="as a pickle only"):
        Prompter.load(folder)
