"""An object detector: image in, boxes out, bit-equal for equal images.

A detector is a folder: ``model.safetensors`` (half or single precision), ``architecture.yaml`` (an ultralytics model
description) and ``detector.json`` (model name, image size, class names, hash of the weights, how trained, measured
errors). The torch module is run directly; training is in ``vision.training``, features for a policy in
``vision.features``.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from flow_policy_ros.runtime.yaml_bounded import load_yaml
from flow_policy_ros.vision.architecture import check_architecture
from flow_policy_ros.vision.torchvision_ops import greedy_nms
from flow_policy_ros.vision.ultralytics_setup import import_ultralytics

PAD_GREY = 114
NMS_IOU = 0.7


class DetectorError(ValueError):
    """A detector that cannot be loaded or an image that it cannot take; the message names it and the remedy."""


@dataclass(frozen=True)
class Detections:
    """N boxes of one image, best first: ``boxes`` (N, 4) float32 xyxy in pixels, ``scores`` (N,), ``classes`` (N,)."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]


def check_image(image: NDArray[np.uint8]) -> None:
    """Raises ``DetectorError`` unless ``image`` is (H, W, 3) uint8."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        given = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise DetectorError(f"image is {given}, expected uint8 of shape (height, width, 3), RGB; convert it before detection.")


class Detector:
    """A loaded network. ``classes`` are its class names, ``image_size`` the side of its square input in pixels."""

    def __init__(
        self,
        network: Any,
        model: str,
        classes: tuple[str, ...],
        image_size: int,
        weights_sha256: str,
        confidence: float,
    ) -> None:
        self.classes = classes
        self.image_size = image_size
        self.confidence = confidence
        self._model = model
        self._weights_sha256 = weights_sha256
        self._network = network.float().eval().fuse(verbose=False).to(memory_format=torch.channels_last)
        self._network.requires_grad_(False)

    @property
    def network(self) -> Any:
        """The torch module, in eval mode, for those that look at its inner maps."""
        return self._network

    def identity(self) -> dict[str, Any]:
        """What made the detections: plain JSON types, equal for equal weights and classes."""
        return {
            "model": self._model,
            "weights_sha256": self._weights_sha256,
            "classes": list(self.classes),
            "image_size": self.image_size,
        }

    @torch.inference_mode()
    def detect(self, image: NDArray[np.uint8]) -> Detections:
        """Boxes in an RGB image (H, W, 3) uint8, in its own pixels. Raises ``DetectorError`` for anything else."""
        check_image(image)
        square, scale, left, top = letterbox(image, self.image_size)
        pixels = torch.from_numpy(square).permute(2, 0, 1)[None].float().div_(255.0)  # a channels-last view: no copy
        raw = self._network(pixels)
        rows = (raw[0] if isinstance(raw, tuple | list) else raw)[0].numpy()
        boxes, scores, classes = self._decode(rows)
        keep = []
        for c in np.unique(classes):
            of_class = np.flatnonzero(classes == c)
            keep.append(of_class[greedy_nms(boxes[of_class], scores[of_class], NMS_IOU)])
        best = np.concatenate(keep) if keep else np.zeros(0, dtype=np.int64)
        best = best[np.argsort(-scores[best], kind="stable")]
        height, width = image.shape[:2]
        found = (boxes[best] - np.array([left, top, left, top], dtype=np.float32)) / np.float32(scale)
        found = np.clip(found, 0, np.array([width, height, width, height], dtype=np.float32)).astype(np.float32)
        return Detections(found, scores[best], classes[best])

    def _decode(self, rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """Candidates above the confidence: boxes xyxy, scores, classes."""
        if getattr(self._network.model[-1], "end2end", False):  # rows are (x1, y1, x2, y2, score, class)
            rows = rows[rows[:, 4] > self.confidence]
            return rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64)
        table = rows[4 : 4 + len(self.classes)]  # (classes, anchors); rows[:4] are centre and size, keypoints come behind
        classes, anchors = np.nonzero(table > self.confidence)
        x, y, w, h = rows[:4, anchors]
        return np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1), table[classes, anchors], classes


def letterbox(image: NDArray[np.uint8], size: int) -> tuple[NDArray[np.uint8], float, int, int]:
    """An image (H, W, 3) scaled into a grey square (size, size, 3); with it scale, left and top margin in pixels."""
    height, width = image.shape[:2]
    if height == size and width == size:
        return np.ascontiguousarray(image), 1.0, 0, 0
    scale = size / max(height, width)
    inner_h, inner_w = max(1, round(height * scale)), max(1, round(width * scale))
    square = np.full((size, size, 3), PAD_GREY, dtype=np.uint8)
    top, left = (size - inner_h) // 2, (size - inner_w) // 2
    square[top : top + inner_h, left : left + inner_w] = cv2.resize(image, (inner_w, inner_h), interpolation=cv2.INTER_LINEAR)
    return square, scale, left, top


def build_network(architecture: dict[str, Any], classes: tuple[str, ...]) -> Any:
    """An untrained ultralytics detection network of this description, or pose network where it has ``kpt_shape``, made offline.

    Raises ``DetectorError`` for a description that names anything but layers.
    """
    import_ultralytics()
    from ultralytics.nn.tasks import DetectionModel, PoseModel

    try:
        check_architecture(architecture)
    except ValueError as error:
        raise DetectorError(str(error)) from error
    kind = PoseModel if "kpt_shape" in architecture else DetectionModel
    return kind(copy.deepcopy(architecture), nc=len(classes), verbose=False)


def load_detector(path: str | Path, allow_pickle: bool = False, confidence: float = 0.25, threads: int = 1) -> Detector:
    """Load a detector folder, or with ``allow_pickle`` an ultralytics ``.pt`` file.

    ``confidence`` drops detections below it; ``threads`` sets the tensor library's threads of this process. Raises
    ``DetectorError`` naming the file and the remedy.
    """
    path = Path(path)
    torch.set_num_threads(threads)
    if path.suffix == ".pt":
        return _load_pickle(path, allow_pickle, confidence)
    if not path.is_dir():
        raise DetectorError(
            f"no detector at {path}: expected a folder with model.safetensors, architecture.yaml and detector.json, as "
            "'flow_policy train-detector' writes it. Set the parameter perception.detector to it."
        )
    missing = [name for name in ("model.safetensors", "architecture.yaml", "detector.json") if not (path / name).is_file()]
    if missing:
        raise DetectorError(f"detector folder {path} lacks {', '.join(missing)}; make it anew with 'flow_policy train-detector'.")
    try:
        content = json.loads((path / "detector.json").read_text())
        classes, image_size = tuple(content["classes"]), int(content["image_size"])
        model, expected = str(content["model"]), str(content["weights_sha256"])
        architecture = load_yaml((path / "architecture.yaml").read_text())
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise DetectorError(
            f"detector folder {path} cannot be read ({error!r}); make it anew with 'flow_policy train-detector'."
        ) from error
    sha256 = file_sha256(path / "model.safetensors")
    if sha256 != expected:
        raise DetectorError(
            f"weights of detector {path} are not the ones that its detector.json describes (sha256 {sha256[:12]}…, "
            f"expected {expected[:12]}…); restore model.safetensors or train the detector again."
        )
    try:
        network = build_network(architecture, classes)
    except Exception as error:  # a foreign builder on a foreign description raises whatever it likes
        raise DetectorError(f"detector folder {path} cannot be built: {error} Make it anew, or copy it again.") from error
    try:
        weights = {name: t.float() for name, t in load_file(path / "model.safetensors").items()}
        wanted = {k for k in network.state_dict() if not k.endswith("num_batches_tracked")}
        if wanted != set(weights):
            raise RuntimeError(f"tensors {sorted(wanted ^ set(weights))[:4]} are on one side only")
        network.load_state_dict(weights, strict=False)
    except (SafetensorError, RuntimeError) as error:
        raise DetectorError(f"weights of detector {path} do not fit its architecture.yaml: {error}.") from error
    return Detector(network, model, classes, image_size, sha256, confidence)


@dataclass(frozen=True)
class Weights:
    """Tensors of a detector's network by name, as it was trained, and the hash of their file."""

    tensors: dict[str, torch.Tensor]
    sha256: str


def load_weights(path: str | Path, allow_pickle: bool = False) -> Weights:
    """The weights of a detector folder, or with ``allow_pickle`` of a ``.pt`` file, to train on from. Raises ``DetectorError``."""
    path = Path(path)
    if path.suffix == ".pt":
        network = _pickled_network(path, allow_pickle)
        return Weights({name: t.float() for name, t in network.state_dict().items()}, file_sha256(path))
    file = path / "model.safetensors"
    try:
        return Weights({name: t.float() for name, t in load_file(file).items()}, file_sha256(file))
    except (OSError, SafetensorError) as error:
        raise DetectorError(
            f"no weights to start from at {path} ({error}); give a folder that 'flow_policy train-detector' wrote, or a .pt file."
        ) from error


def _load_pickle(path: Path, allow_pickle: bool, confidence: float) -> Detector:
    network = _pickled_network(path, allow_pickle)
    size = network.args.get("imgsz", 640) if isinstance(network.args, dict) else 640
    classes = tuple(str(network.names[i]) for i in range(len(network.names)))
    return Detector(network, path.name, classes, int(size), file_sha256(path), confidence)


def _pickled_network(path: Path, allow_pickle: bool) -> Any:
    if not allow_pickle:
        raise DetectorError(
            f"{path} is a pickle, which runs code from the file when it is loaded. If you trust it, set the parameter "
            "perception.allow_pickle to true; better, use a detector folder (model.safetensors)."
        )
    if not path.is_file():
        raise DetectorError(f"no detector file at {path}; give the path of an existing .pt file.")
    ultralytics = import_ultralytics()
    try:
        return ultralytics.YOLO(str(path), task="detect").model
    except Exception as error:  # a foreign loader on a foreign file raises whatever it likes
        raise DetectorError(f"{path} cannot be loaded as an ultralytics detector: {error}.") from error


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
