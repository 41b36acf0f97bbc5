"""A vision-language model's processor without the model: camera images and an instruction in, the inputs of a prefix out.

It is copied into the checkpoint's folder ``vlm``, byte for byte, so that the robot reads images and words as training did. The
model's weights are part of the policy's own network; what they make of the inputs is ``models.prefix``'s.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from flow_policy_ros.models.prefix_inputs import PrefixInputs
from flow_policy_ros.vision.pretrained import ExtractorError, Pretrained, files_sha256, import_transformers, load_part, locate
from flow_policy_ros.vision.processors import Layout, PromptWay

FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""What a processor is made of; text and tables all of it, so that nothing in it runs when it is read."""
FOLDER = "vlm"
"""Sub-folder of a checkpoint with them."""
ORIGIN = "origin.json"
"""Beside them in a checkpoint: whose processor it was, and the hash of that model's weights."""


class Prompter:
    """The processor of ``found``; ``sha256`` is the hash of its files, one after the other with their names.

    Made by ``load``. One thread may read instructions (``ids``) while another reads images (``inputs``).
    """

    def __init__(self, found: Pretrained, way: PromptWay, sha256: str) -> None:
        self.found = found
        self.sha256 = sha256
        self._way = way

    @staticmethod
    def load(model: str | Path, revision: str | None = None) -> Prompter:
        """Of a model's folder or hub name (found on this machine), or of a checkpoint's folder ``vlm``; weights may be missing.

        Raises ``ExtractorError`` naming the folder, what is missing or not understood, and the remedy.
        """
        found = _find(str(model), revision)
        sha256 = processor_sha256(found.folder)
        transformers = import_transformers()
        config = load_part(transformers.AutoConfig, found, "configuration")
        if getattr(config, "image_token_id", None) is None and getattr(config, "image_token_index", None) is None:
            raise ExtractorError(
                f"model '{found.name}' of the kind '{config.model_type}' has no place for images in its prompt; expected a "
                "vision-language model such as SmolVLM, PaliGemma or Qwen-VL."
            )
        processor = load_part(transformers.AutoProcessor, found, "processor")
        if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
            raise ExtractorError(
                f"the processor of model '{found.name}' ({found.folder}) is not one of images and text; download all of the "
                "model's *.json, *.txt and *.jinja files."
            )
        return Prompter(found, PromptWay(found.name, processor, config), sha256)

    def save(self, folder: str | Path) -> None:
        """Copy the processor's files. Raises ``ExtractorError`` where they have changed since they were loaded."""
        folder = Path(folder)
        if (folder / ORIGIN).is_file() and _files(folder) and processor_sha256(folder) == self.sha256:
            return  # saved here before, or loaded from here
        folder.mkdir(parents=True, exist_ok=True)
        if folder.resolve() != self.found.folder.resolve():
            for old in (*FILES, ORIGIN):
                (folder / old).unlink(missing_ok=True)
            for path in _files(self.found.folder):
                shutil.copyfile(path, folder / path.name)
            (folder / ORIGIN).write_text(json.dumps(self.found.identity(), indent=2) + "\n")
        if processor_sha256(folder) != self.sha256:
            raise ExtractorError(
                f"the processor's files in {self.found.folder} have changed since they were loaded; load the model again."
            )

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise ``ExtractorError`` unless images of ``size`` (height, width) are scaled and normalised exactly once."""
        self._way.check_once(size)

    def layout(self, size: tuple[int, int]) -> Layout:
        """Where the image tokens of an image of ``size`` (height, width) lie in it. Raises as ``check_size``."""
        return self._way.layout(size)

    def ids(self, instruction: str, size: tuple[int, int], images: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids (T,) int64 of the whole prompt, the places of so many images of ``size`` (height, width) among them, and their
        mask (T,) bool. Raises ``ExtractorError`` for more than the model takes, and for words that mean something else to it."""
        inputs = self._way.read(instruction, size, images).inputs
        return inputs["input_ids"][0], inputs["attention_mask"][0].bool()

    def pixels(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the model takes of images (B, N, H, W, 3) uint8, N of each sample. Raises ``ExtractorError`` for others."""
        if frames.dtype != torch.uint8 or frames.ndim != 5 or frames.shape[-1] != 3:
            raise ExtractorError(
                f"images are {frames.dtype} {tuple(frames.shape)}, expected uint8 (samples, images, height, width, 3): RGB as the "
                "camera gave it. They are scaled and normalised here, once."
            )
        return self._way.pixels([list(sample) for sample in frames.cpu().numpy()])

    def inputs(self, frames: torch.Tensor, prompt: torch.Tensor, points: torch.Tensor | None = None) -> PrefixInputs:
        """All that the model reads: images (B, N, H, W, 3) uint8; prompts (B, T, 2) of token ids and mask, as ``PromptReader``
        makes them; where depth is used, ``points`` (B, n, 4) of x, y, z in m and known or not, one for each image token.

        Padding that all samples have at the end is left out. Raises ``ExtractorError`` for what is none of it.
        """
        ids, mask = prompt[:, :, 0].long(), prompt[:, :, 1] > 0.5
        if not torch.equal(ids.to(prompt.dtype), prompt[:, :, 0]) or ids.min() < 0 or ids.max() >= self._way.vocabulary:
            raise ExtractorError(
                f"the prompt holds numbers that are no tokens of model '{self.found.name}', which knows {self._way.vocabulary}; "
                "read the instruction with the processor in the checkpoint's folder vlm."
            )
        used = torch.nonzero(mask.any(dim=0))
        if not len(used):
            raise ExtractorError("the prompt is padding alone; read an instruction first.")
        length = int(used[-1]) + 1
        encoding = {"input_ids": ids[:, :length], "attention_mask": mask[:, :length], **self.pixels(frames)}
        made = PrefixInputs.of(encoding)
        if points is None:
            return made
        known = points[:, :, 3] > 0.5
        return PrefixInputs.make(made.input_ids, made.mask, made.pixels, made.grid, points[:, :, :3], known)

    def identity(self) -> dict[str, Any]:
        """Whose processor it is, and the hash of its files, in plain JSON types."""
        return {**self.found.identity(), "processor_sha256": self.sha256}


def processor_sha256(folder: Path) -> str:
    """Hash of a processor's files and their names. Raises ``ExtractorError`` where there are none."""
    files = _files(folder)
    told = " ".join((*(path.name for path in files), files_sha256(files)))
    return hashlib.sha256(told.encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    found = [folder / name for name in FILES if (folder / name).is_file()]
    if (folder / "config.json") not in found or len(found) < 2:
        raise ExtractorError(
            f"{folder} lacks config.json or the processor's files; copy the whole folder again, or download the model's *.json, "
            "*.txt, *.model and *.jinja files."
        )
    return found


def _find(model: str, revision: str | None) -> Pretrained:
    """As ``locate``, also where there are no weights: in a checkpoint, and of a model that is to be trained from nothing."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return locate(model, revision)
    if (folder / ORIGIN).is_file():
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in (*FILES, ORIGIN))
        if foreign:
            raise ExtractorError(f"{folder} holds {', '.join(foreign)}, which is no file of a processor; remove it.")
        try:
            origin = json.loads((folder / ORIGIN).read_text())
            return Pretrained(str(origin["model"]), folder, str(origin["revision"]), str(origin["weights_sha256"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ExtractorError(f"{folder / ORIGIN} cannot be read ({error!r}); copy the whole folder again.") from error
    weights = any(path.suffix in (".safetensors", ".bin", ".pt", ".pth", ".ckpt") for path in folder.iterdir())
    return locate(model, revision) if weights else Pretrained(folder.resolve().name, folder, "local", "")
