"""What becomes of an instruction: streams that hold until another comes, and a named refusal of words that cannot be read."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from test_sentence import folder  # noqa: F401 (a tiny sentence encoder)
from vlm_folders import VOCABULARY
from vlm_policy_support import KINDS, LENGTH, SIZE, folder_of

from flow_policy_ros.policy.instruction import PromptReader, SentenceReader, blank, reader_for
from flow_policy_ros.policy.prompt import Prompter
from flow_policy_ros.runtime.contract import StreamContract
from flow_policy_ros.vision.pretrained import ExtractorError
from flow_policy_ros.vision.sentence import SentenceEncoder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("models")


def prompt_reader(root, kind="paligemma", length=LENGTH):
    return PromptReader(Prompter.load(folder_of(kind, root)), length=length, size=SIZE)


def contract_of(reader):
    return StreamContract(reader.stream, reader.tokens, reader.channels, reader.identity(), moment="standing")


def test_a_sentence_is_one_token(folder):  # noqa: F811
    reader = SentenceReader(SentenceEncoder(str(folder)), "said")
    features = reader.read("open the door", 7)
    assert (features.stamp, features.stream, features.values.shape) == (7, "said", (1, 8))
    assert reader.identity()["extractor"] == "sentence" and (reader.tokens, reader.channels) == (1, 8)
    with pytest.raises(ExtractorError, match="the instruction is empty"):
        reader.read(" ", 7)
    with pytest.raises(ExtractorError, match="makes 32 tokens, expected at most 20"):
        reader.read("door " * 30, 7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_ids_and_a_mask(root, kind):
    reader = prompt_reader(root, kind)
    features = reader.read("open the door", 7)
    ids, mask = Prompter.load(folder_of(kind, root)).ids("open the door", SIZE)
    assert (features.stamp, features.stream, features.values.shape) == (7, "prompt", (LENGTH, 2))
    assert features.values[: len(ids), 0].tolist() == ids.tolist() and mask.all()
    assert features.values[:, 1].sum() == len(ids) and not features.values[len(ids) :].any()
    features.values[:] = 3  # a copy: what is kept stays
    assert reader.read("open the door", 8).values[-1, 0] == 0
    assert not np.array_equal(reader.read("move left", 8).values, reader.read("open the door", 8).values)


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("door " * 60, rf"makes 7\d tokens with its prompt, expected at most {LENGTH}, which the stream keeps. Shorten it"),
        ("door " * 300, "tokens, expected at most 256, which model 'paligemma' takes"),
        ("door " * 600, "has 3000 characters, expected at most 2000"),
        (" ", "the instruction is empty"),
        ("\u200b", "holds no word"),
        ("\x00", r"holds the control character '\\x00'"),
        ("open <image> door", "holds '<image>', which stands for an image; leave it out"),
        ("open <pad>", "holds '<pad>', which is no word but a sign to model 'paligemma'"),
        ("<eos> open", "holds '<eos>', which is no word"),
    ],
)
def test_words_that_cannot_be_read_are_refused_by_name(root, instruction, message):
    with pytest.raises(ExtractorError, match=message):
        prompt_reader(root).read(instruction, 0)


def test_a_stream_too_short_for_the_images_alone_is_refused_when_it_is_made(root):
    with pytest.raises(ExtractorError, match="makes 17 tokens with its prompt, expected at most 16"):
        prompt_reader(root, length=16)


@pytest.mark.parametrize("kind", KINDS)
def test_the_contract_tells_the_empty_prompt(root, kind):
    """So that a policy can be run before anyone has said anything."""
    reader = prompt_reader(root, kind)
    values, (ids, mask) = blank(contract_of(reader)), Prompter.load(folder_of(kind, root)).ids("", SIZE)
    assert values[: len(ids), 0].tolist() == ids.tolist() and values[: len(ids), 1].tolist() == mask.tolist()
    assert not values[len(ids) :].any()
    with pytest.raises(ExtractorError, match="the instruction is empty"):  # no order, though the contract knows its prompt
        reader.read("", 0)
    identity = {key: value for key, value in reader.identity().items() if key != "blank"}
    with pytest.raises(ExtractorError, match="stream 'prompt' lacks the prompt of an empty instruction"):
        blank(replace(contract_of(reader), extractor=identity))
    frames = StreamContract("eye", 4, 6, {"extractor": "frames", "size": [4, 2]})
    assert blank(frames).dtype == np.uint8 and blank(StreamContract("boxes", 2, 3, {})).dtype == np.float32


def test_readers_come_from_the_checkpoint_and_are_those_of_the_training(root, folder, tmp_path):  # noqa: F811
    Prompter.load(folder_of("paligemma", root)).save(tmp_path / "checkpoint" / "vlm")
    reader = prompt_reader(root)
    found = reader_for(contract_of(reader), tmp_path / "checkpoint")
    assert found is not None and found.identity() == reader.identity()
    np.testing.assert_array_equal(found.read("open", 0).values, reader.read("open", 0).values)
    other = {**reader.identity(), "processor_sha256": "0" * 64}
    with pytest.raises(ExtractorError, match=r"'prompt' is not what the checkpoint was trained with; different: processor_sha256"):
        reader_for(replace(contract_of(reader), extractor=other), tmp_path / "checkpoint")
    with pytest.raises(ExtractorError, match="lacks images and size of the prompt"):
        reader_for(replace(contract_of(reader), extractor={"extractor": "prompt"}), tmp_path / "checkpoint")

    sentence = SentenceReader(SentenceEncoder(str(folder)))
    trained = replace(contract_of(sentence), extractor={**sentence.identity(), "model": str(folder)})
    assert isinstance(reader_for(trained, tmp_path), SentenceReader)
    unknown = replace(trained, extractor={**trained.extractor, "model": "elsewhere"})
    with pytest.raises(ExtractorError, match="'elsewhere' is neither a folder nor in this machine's cache"):
        reader_for(unknown, tmp_path)
    (tmp_path / "sentence").symlink_to(folder)  # beside the checkpoint's files, whatever it is called
    assert isinstance(reader_for(unknown, tmp_path), SentenceReader)
    with pytest.raises(ExtractorError, match="different: weights_sha256"):
        reader_for(replace(trained, extractor={**trained.extractor, "weights_sha256": "0" * 64}), tmp_path)
    with pytest.raises(ExtractorError, match=r"makes \(1, 8\) of it, expected \(1, 9\)"):
        reader_for(replace(trained, channels=9), tmp_path)
    assert reader_for(StreamContract("boxes", 2, 3, {}), tmp_path) is None


def test_a_sentence_model_with_another_tokenizer_is_refused(folder, tmp_path):  # noqa: F811
    """Equal weights, other words: "left" would be read as "right". A contract from before tokenizers were told goes on."""
    trained = contract_of(SentenceReader(SentenceEncoder(str(folder))))
    own = shutil.copytree(folder, tmp_path / "run" / "sentence", ignore=shutil.ignore_patterns("run"))
    assert isinstance(reader_for(trained, tmp_path / "run"), SentenceReader)
    table = (own / "tokenizer.json").read_text()
    left, right = (f'"{word}": {VOCABULARY[word]}' for word in ("left", "right"))
    assert left in table and right in table
    table = table.replace(left, f'"left": {VOCABULARY["right"]}').replace(right, f'"right": {VOCABULARY["left"]}')
    (own / "tokenizer.json").write_text(table)
    with pytest.raises(ExtractorError, match="different: tokenizer_sha256"):
        reader_for(trained, tmp_path / "run")
    before = {key: value for key, value in trained.extractor.items() if key not in ("tokenizer_sha256", "settings_sha256")}
    assert isinstance(reader_for(replace(trained, extractor=before), tmp_path / "run"), SentenceReader)
    shutil.copyfile(folder / "tokenizer.json", own / "tokenizer.json")
    settings = (own / "config.json").read_text()
    (own / "config.json").write_text(settings.replace('"gelu"', '"relu"'))
    assert (own / "config.json").read_text() != settings
    with pytest.raises(ExtractorError, match="different: settings_sha256"):
        reader_for(trained, tmp_path / "run")
