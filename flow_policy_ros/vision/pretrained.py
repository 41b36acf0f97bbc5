"""A pretrained `transformers` model on this machine: found by name or folder, identified by its weights' hash, loaded offline.

Nothing here reaches the network, runs code that came with the weights, or opens a pickle: weights are safetensors of a class
that `transformers` itself has. What a model makes of images and words is for ``vision.vlm`` and ``vision.sentence``.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flow_policy_ros.vision.torchvision_ops import ensure_torchvision

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
_COMMIT = re.compile(r"[0-9a-f]{40}")


class ExtractorError(ValueError):
    """A feature extractor that cannot be made, or an input that it cannot take; the message names it and the remedy."""


@dataclass(frozen=True)
class Pretrained:
    """Where a model lies: ``name`` as it was asked for, ``revision`` (a commit, or ``local`` for a folder that was not
    downloaded), ``sha256`` of all its weights."""

    name: str
    folder: Path
    revision: str
    sha256: str

    def identity(self) -> dict[str, Any]:
        """Plain JSON types; equal for equal weights. The path is not part of it: the same weights may lie elsewhere."""
        return {"model": self.name, "revision": self.revision, "weights_sha256": self.sha256}


def import_transformers() -> Any:
    """The transformers module. Raises ``ExtractorError`` naming the package when it cannot be imported."""
    try:
        ensure_torchvision()
        import transformers
    except ImportError as error:
        raise ExtractorError(
            f"models by name need transformers, which cannot be imported ({error}). Install it: pip install transformers "
            "torchvision (everything else in this package works without it)."
        ) from error
    transformers.utils.logging.set_verbosity_error()  # what matters of its reports is raised as errors by ``load_network``
    transformers.utils.logging.disable_progress_bar()
    return transformers


def locate(name: str, revision: str | None = None) -> Pretrained:
    """Find a model: a folder of that path, else the hub's cache on this machine. The network is never asked.

    ``revision`` is a branch, tag or commit of a hub model. Raises ``ExtractorError`` that says what to download, or which
    weights are missing.
    """
    if not name:
        raise ExtractorError("no model is named; give a folder, or a hub name such as google/siglip2-base-patch16-224.")
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ExtractorError(f"model folder {folder} has no revisions, yet revision '{revision}' was asked for; leave it out.")
        shown = folder.resolve().name
    else:
        folder, shown = _cached(name, revision), name
    found = weight_files(folder)
    commit = folder.name if _COMMIT.fullmatch(folder.name) else "local"
    return Pretrained(shown, folder, commit, files_sha256(found))


def _cached(name: str, revision: str | None) -> Path:
    asked = f" --revision {revision}" if revision else ""
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ExtractorError(
            f"no model folder at {name}; expected one with config.json, the processor's files and *.safetensors. Give the path "
            "of an existing folder, or a hub name."
        )
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except ImportError as error:
        raise ExtractorError(f"'{name}' is no folder, and huggingface_hub, which knows the cache, is not installed.") from error
    except (OSError, ValueError) as error:  # the hub's "not cached" and "no such name" are both
        raise ExtractorError(
            f"model '{name}' is neither a folder nor in this machine's cache, and nothing is downloaded while a robot may be "
            f"running. On a machine with network: hf download {name}{asked} --include '*.json' '*.safetensors' '*.txt' "
            f"'*.model' '*.jinja' --local-dir DIR; then give DIR as the model's name. If it was downloaded here, check the "
            f"spelling{' and the revision' if revision else ''}."
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, in order. Raises ``ExtractorError`` when there are none, or a part is missing."""
    if not (folder / "config.json").is_file():
        raise ExtractorError(f"model folder {folder} lacks config.json; download the model anew.")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            parts = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ExtractorError(f"{index} cannot be read ({error!r}); download the model anew.") from error
        outside = [str(part) for part in parts if Path(str(part)).name != part]
        if outside:
            raise ExtractorError(f"{index} names {', '.join(outside)}, expected files of its own folder; download the model anew.")
        missing = [part for part in parts if not (folder / part).is_file()]
        if missing:
            raise ExtractorError(f"model folder {folder} lacks the weights {', '.join(missing)}; download them.")
        return [folder / part for part in parts]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    pickles = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if pickles:
        raise ExtractorError(
            f"model folder {folder} has its weights as a pickle only ({', '.join(pickles)}), which runs code from the file when it "
            "is loaded. Take a revision with *.safetensors, or convert it where you trust it."
        )
    raise ExtractorError(f"model folder {folder} has no weights; expected model.safetensors or its numbered parts.")


def files_sha256(files: list[Path]) -> str:
    """Hash of one file's bytes; of several, the hash of their hashes. Read piece by piece: weights may exceed memory."""
    digests = []
    for path in files:
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while piece := stream.read(1 << 22):
                digest.update(piece)
        digests.append(digest.hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def default_device(device: str = "") -> torch.device:
    """``device``, or where it is empty the accelerator if there is one. Raises ``ExtractorError`` for one that is not there."""
    if not device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ExtractorError(f"device '{device}' cannot be used: {error}") from error


def default_precision(device: torch.device, precision: str = "") -> torch.dtype:
    """``precision`` (``fp32`` or ``bf16``), or where it is empty bf16 on an accelerator that computes in it and fp32 elsewhere."""
    if not precision:
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    if precision not in PRECISIONS:
        raise ExtractorError(f"precision is '{precision}', expected one of {', '.join(PRECISIONS)} or nothing.")
    return PRECISIONS[precision]


def load_part(auto: Any, found: Pretrained, what: str) -> Any:
    """A tokenizer, processor or configuration from the folder, by its ``Auto…`` class. Raises ``ExtractorError``."""
    try:
        return auto.from_pretrained(str(found.folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a foreign loader on foreign files raises whatever it likes
        raise ExtractorError(
            f"the {what} of model '{found.name}' ({found.folder}) cannot be loaded by this transformers: {_first(error)} "
            "Download all of the model's *.json, *.txt and *.model files, or take a class that transformers has itself."
        ) from error


def load_network(auto: Any, found: Pretrained, device: torch.device, precision: torch.dtype) -> Any:
    """The frozen network in eval mode. Raises ``ExtractorError``, also where a tensor would have been left at random."""
    try:
        network, info = auto.from_pretrained(
            str(found.folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=precision,
            output_loading_info=True,
        )
    except Exception as error:  # as above
        raise ExtractorError(
            f"model '{found.name}' ({found.folder}) cannot be loaded by this transformers: {_first(error)} Take a model class "
            "that transformers has itself; code that comes with weights is never run."
        ) from error
    unset = sorted(info["missing_keys"]) + sorted(str(key[0]) for key in info.get("mismatched_keys", ()))
    if unset:
        raise ExtractorError(
            f"the weights of model '{found.name}' lack {len(unset)} tensors ({', '.join(unset[:3])}…), which would have been left "
            "at random; download the weights that belong to this config.json."
        )
    return network.to(device).eval().requires_grad_(False)


def _first(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 300 else text[:300] + "…"
