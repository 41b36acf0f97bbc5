"""The registry of feature extractors: from a kind, as parameters and contracts name it, to what makes these features of images.

Used by the perception node, replay, evaluation and ``featurize`` alike, so that a stream of one identity is made in one way. What
the kinds compute is in ``features``, ``yolo_tokens``, ``backbone`` and ``vlm``; points in space are ``positions``'.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from flow_policy_ros.runtime.parameters import EXTRACTORS, ParameterError, PerceptionParameters
from flow_policy_ros.runtime.robot_cameras import Camera
from flow_policy_ros.runtime.types import EncodedImage, Features
from flow_policy_ros.vision.backbone import BackboneFeatures
from flow_policy_ros.vision.decode import ImageError, decode
from flow_policy_ros.vision.detector import Detector, load_detector
from flow_policy_ros.vision.features import DetectionFeatures, FeatureExtractor
from flow_policy_ros.vision.pretrained import ExtractorError
from flow_policy_ros.vision.tracking import Tracking
from flow_policy_ros.vision.vlm import load_vlm
from flow_policy_ros.vision.yolo_tokens import DetectionSlots, NeckTokens, RegionFeatures
from flow_policy_ros.vision.yolo_view import Yolo, load_yolo

OF_A_DETECTOR = ("detections", "object_slots", "region_features", "yolo_tokens")
"""Kinds whose weights are a detector's."""
DISTANCES = ("16UC1", "32FC1")
"""Encodings of depth images. They can be shown as pictures, but no extractor here was trained on such."""
_GRID = re.compile(r"\s*(\d+)\s*[x×, ]\s*(\d+)\s*")


@runtime_checkable
class Instructed(Protocol):
    """An extractor that may read an instruction beside the image; ``speaks`` says whether it does."""

    @property
    def speaks(self) -> bool: ...

    @property
    def instruction(self) -> str: ...

    def instruct(self, instruction: str) -> None:
        """Look at the next images with this in mind. Raises ``ExtractorError`` and keeps the old one where it cannot be read."""


class Named:
    """Another extractor's features as the stream ``stream``, and of the camera ``camera`` where that is not the robot's first."""

    def __init__(self, whole: FeatureExtractor, stream: str, camera: str = "") -> None:
        self.whole = whole
        self.stream = stream
        self.tokens, self.channels = whole.tokens, whole.channels
        self._camera = camera

    def extract(self, image: NDArray[np.uint8], stamp: int) -> Features:
        """As in ``FeatureExtractor``; raises what the other raises."""
        return replace(self.whole.extract(image, stamp), stream=self.stream)

    def identity(self) -> dict[str, Any]:
        """The other's, with the camera."""
        return {**self.whole.identity(), **({"camera": self._camera} if self._camera else {})}


class NamedReader(Named):
    """The same of an extractor that may read an instruction."""

    whole: Any

    @property
    def speaks(self) -> bool:
        """Whether it does."""
        return bool(self.whole.speaks)

    @property
    def instruction(self) -> str:
        """What the features are made for."""
        return str(self.whole.instruction)

    def instruct(self, instruction: str) -> None:
        """As in ``Instructed``."""
        self.whole.instruct(instruction)


def load_extractor(kind: str, source: str | Path, camera: Camera, parameters: PerceptionParameters) -> FeatureExtractor:
    """What makes features of ``kind`` of the images of ``camera``. ``source`` has the weights: a detector's or a model's folder, or
    a model's hub name.

    Raises ``DetectorError`` or ``ExtractorError`` that names what is missing, does not fit, or what the detector lacks;
    ``ParameterError`` for parameters that cannot be read.
    """
    if kind not in _MAKERS:
        raise ExtractorError(f"nothing makes features of the kind '{kind}', expected one of {', '.join(EXTRACTORS)}.")
    if kind not in WITH_CLASS_MAP and parameters.class_map:
        raise ParameterError(
            f"the parameter perception.class_map is '{parameters.class_map}', but the kind '{kind}' has no use for it; leave it "
            f"empty, or take the extractor {' or '.join(WITH_CLASS_MAP)}."
        )
    if kind != "vlm" and parameters.instruction:
        raise ParameterError(
            f"the parameter perception.instruction is given, but the extractor '{kind}' reads none; leave it empty. A policy "
            "that obeys instructions has policy.instruction."
        )
    torch.set_num_threads(parameters.threads)
    return _MAKERS[kind](source, camera, parameters)


def of_camera(extractor: FeatureExtractor, camera: str, first: bool, stream: str = "") -> FeatureExtractor:
    """The extractor for one of several cameras: the first one's stream is ``stream`` (its own where that is empty), another's
    has the camera's name behind it, and in its identity."""
    base = stream or extractor.stream
    if first and base == extractor.stream:
        return extractor
    named = NamedReader if isinstance(extractor, Instructed) else Named
    return named(extractor, base) if first else named(extractor, f"{base}_{camera}", camera)


def inner(extractor: object) -> object:
    """The extractor itself, without the name that ``of_camera`` gave it."""
    return extractor.whole if isinstance(extractor, Named) else extractor


def source_of(parameters: PerceptionParameters) -> str:
    """Where the weights lie: ``perception.detector``, or ``perception.model``. Raises ``ParameterError`` where it is empty."""
    if parameters.extractor in OF_A_DETECTOR:
        if not parameters.detector:
            raise ParameterError("the parameter perception.detector is not set; give the path of a detector folder.")
        return parameters.detector
    if not parameters.model:
        raise ParameterError(
            f"the parameter perception.model is not set; the extractor '{parameters.extractor}' needs the folder of a model, or "
            "its hub name."
        )
    return parameters.model


def with_source(parameters: PerceptionParameters, source: str | Path) -> PerceptionParameters:
    """``parameters`` with the weights of ``source``."""
    if parameters.extractor in OF_A_DETECTOR:
        return replace(parameters, detector=str(source))
    return replace(parameters, model=str(source))


def parameters_for(identity: Mapping[str, Any], parameters: PerceptionParameters) -> PerceptionParameters:
    """``parameters`` changed so that features of this ``identity`` are made, given the same weights. Raises ``ExtractorError``."""
    kind = str(identity.get("extractor", EXTRACTORS[0]))
    if kind not in EXTRACTORS or identity.get("pooled"):
        what = f"{kind}, pooled" if identity.get("pooled") else kind
        raise ExtractorError(f"nothing here makes features of the kind '{what}' of images; expected {', '.join(EXTRACTORS)}.")
    chosen: dict[str, Any] = {"extractor": kind}
    try:
        if kind in WITH_CLASS_MAP:
            classes = identity["classes"]
            pairs = [(ours, str(classes[number])) for ours, number in identity["class_map"].items()]
            chosen["class_map"] = ", ".join(f"{ours}={theirs}" for ours, theirs in pairs)
            chosen |= {"slots": int(identity["slots"]), "confidence": float(identity["confidence"])}
            chosen["track"] = "tracking" in identity
        if "grid" in identity and kind in ("yolo_tokens", "backbone"):
            chosen["grid"] = "x".join(str(int(cells)) for cells in identity["grid"])
        if kind == "yolo_tokens":
            chosen["levels"] = " ".join(str(int(level)) for level in identity["levels"])
        if kind == "backbone":
            chosen["stride"] = int(identity["stride"])
        if kind == "vlm":
            chosen["language_tokens"] = max(1, int(identity["rows"]["language"]))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ExtractorError(
            f"the identity of a stream of the kind '{kind}' is incomplete ({error!r}); make the features and the checkpoint anew."
        ) from error
    return replace(parameters, **chosen)


def picture(image: EncodedImage) -> NDArray[np.uint8]:
    """RGB (H, W, 3) uint8 of what a camera sent. Raises ``ImageError`` where it cannot be decoded, or shows distances, not colours.

    Its size is for the extractor to check.
    """
    if image.encoding in DISTANCES:
        raise ImageError(
            f"image has encoding '{image.encoding}', a depth image, expected colours or grey such as rgb8, bgr8, mono8 or "
            "compressed. Name the camera's colour topic in the robot file."
        )
    return decode(image)


def class_map_of(text: str) -> dict[str, str]:
    """Our name of each class → the detector's, of 'cup, ball=sports ball'. Raises ``ParameterError``."""
    pairs = [entry.partition("=") for entry in text.split(",")]
    named = [(ours.strip(), (theirs if equals else ours).strip()) for ours, equals, theirs in pairs]
    if any(not ours or not theirs for ours, theirs in named) or len(dict(named)) != len(named):
        raise ParameterError(
            f"the parameter perception.class_map is '{text}', expected names with commas between them, each once, as 'cup, "
            "ball=sports ball'."
        )
    return dict(named)


def grid_of(text: str, name: str = "perception.grid") -> tuple[int, int]:
    """(rows, columns) of '5x5'. Raises ``ParameterError``."""
    found = _GRID.fullmatch(text)
    if found is None or not 0 < int(found[1]) <= 256 or not 0 < int(found[2]) <= 256:
        raise ParameterError(f"the parameter {name} is '{text}', expected rows and columns such as '5x5', each from 1 to 256.")
    return int(found[1]), int(found[2])


def set_confidence(extractor: FeatureExtractor, confidence: float) -> bool:
    """Detections below ``confidence`` are dropped from now on; False for an extractor that detects nothing."""
    detector = getattr(inner(extractor), "detector", None)
    if not isinstance(detector, Detector):
        return False
    detector.confidence = confidence
    return True


def _yolo(source: str | Path, parameters: PerceptionParameters) -> Yolo:
    return load_yolo(source, parameters.allow_pickle, parameters.confidence, parameters.threads)


def _classes(yolo: Yolo, parameters: PerceptionParameters) -> dict[str, str]:
    return class_map_of(parameters.class_map) if parameters.class_map else {name: name for name in yolo.classes}


def _detections(source: str | Path, camera: Camera, parameters: PerceptionParameters) -> FeatureExtractor:
    detector = load_detector(source, parameters.allow_pickle, parameters.confidence, parameters.threads)
    return DetectionFeatures(detector, (camera.height, camera.width))


def _object_slots(source: str | Path, camera: Camera, parameters: PerceptionParameters) -> FeatureExtractor:
    yolo = _yolo(source, parameters)
    size, tracking = (camera.height, camera.width), Tracking() if parameters.track else None
    return DetectionSlots(yolo, _classes(yolo, parameters), parameters.slots, size=size, tracking=tracking)


def _region_features(source: str | Path, camera: Camera, parameters: PerceptionParameters) -> FeatureExtractor:
    yolo = _yolo(source, parameters)
    size, tracking = (camera.height, camera.width), Tracking() if parameters.track else None
    return RegionFeatures(yolo, _classes(yolo, parameters), parameters.slots, size=size, tracking=tracking)


def _yolo_tokens(source: str | Path, camera: Camera, parameters: PerceptionParameters) -> FeatureExtractor:
    yolo = _yolo(source, parameters)
    try:
        levels = [int(word) for word in parameters.levels.replace(",", " ").split()] or list(range(len(yolo.widths)))
    except ValueError as error:
        raise ParameterError(f"the parameter perception.levels is '{parameters.levels}', expected numbers as '0 2'.") from error
    grid = grid_of(parameters.grid) if parameters.grid else (5, 5)
    return NeckTokens(yolo, (camera.height, camera.width), grid, levels)


def _backbone(source: str | Path, camera: Camera, parameters: PerceptionParameters) -> FeatureExtractor:
    grid = grid_of(parameters.grid) if parameters.grid else None
    return BackboneFeatures(source, (camera.height, camera.width), grid, parameters.stride)


def _vlm(source: str | Path, camera: Camera, parameters: PerceptionParameters) -> FeatureExtractor:
    size, rows = (camera.height, camera.width), parameters.language_tokens
    return load_vlm(str(source), size, parameters.instruction, language_tokens=rows)


WITH_CLASS_MAP = ("object_slots", "region_features")
_MAKERS: dict[str, Callable[[str | Path, Camera, PerceptionParameters], FeatureExtractor]] = {
    "detections": _detections,
    "object_slots": _object_slots,
    "region_features": _region_features,
    "yolo_tokens": _yolo_tokens,
    "backbone": _backbone,
    "vlm": _vlm,
}
