"""The registry of extractors: every kind by name, the way back from a checkpoint's identity, and what is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("ultralytics")
pytest.importorskip("transformers")
import cv2
from vlm_folders import tiny

from flow_policy_ros.evaluation.setup import load_perception, perception_parameters, seen_streams
from flow_policy_ros.runtime.contract import Contract, ContractError, StreamContract
from flow_policy_ros.runtime.parameters import EXTRACTORS, ParameterError, PerceptionParameters, check
from flow_policy_ros.runtime.robot import Camera
from flow_policy_ros.runtime.types import EncodedImage
from flow_policy_ros.vision.backbone import convert
from flow_policy_ros.vision.decode import ImageError
from flow_policy_ros.vision.extractors import (
    OF_A_DETECTOR,
    Instructed,
    class_map_of,
    inner,
    load_extractor,
    of_camera,
    parameters_for,
    picture,
    set_confidence,
    source_of,
    with_source,
)
from flow_policy_ros.vision.frames import FrameFeatures
from flow_policy_ros.vision.heat_map import draw_strength
from flow_policy_ros.vision.mobile_networks import NETWORKS
from flow_policy_ros.vision.overlay import draw_seen, token_norms
from flow_policy_ros.vision.pretrained import ExtractorError

DETECTOR = Path(__file__).resolve().parents[1] / "checkpoints" / "adroit_door_detector"
CAMERA = Camera("front", "camera/image_raw", 96, 64, 10.0)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Weights of every kind: the shipped detector, a random backbone, a tiny vision-language model."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    torch.save(NETWORKS["mobilenet_v2"]().state_dict(), root / "weights.pth")
    backbone = convert("mobilenet_v2", root / "weights.pth", root / "backbone", allow_pickle=True, image_size=96)
    return {**dict.fromkeys(OF_A_DETECTOR, DETECTOR), "backbone": backbone, "vlm": tiny("smolvlm", root / "smolvlm")}


@pytest.fixture(scope="module")
def scene():
    """A cut of the preview beside the detector, in which it finds things."""
    image = cv2.imread(str(DETECTOR / "preview.jpg"))[..., ::-1]
    return np.ascontiguousarray(image[:240, :240])


def chosen(kind: str, **more: object) -> PerceptionParameters:
    return replace(PerceptionParameters(), extractor=kind, **more)  # type: ignore[arg-type]


SETTINGS = {
    "detections": {},
    "object_slots": {"class_map": "hold=latch, door_panel", "slots": 2, "confidence": 0.4},
    "region_features": {"class_map": "latch", "track": True},
    "yolo_tokens": {"grid": "2x3", "levels": "0 1"},
    "backbone": {"grid": "2x3", "stride": 16},
    "vlm": {"language_tokens": 20},
}


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_every_kind_is_made_by_name_and_again_from_its_identity(kind, sources):
    assert set(SETTINGS) == set(EXTRACTORS)
    parameters = with_source(chosen(kind, **SETTINGS[kind]), sources[kind])
    made = load_extractor(kind, source_of(parameters), CAMERA, parameters)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    seen = made.extract(image, 7)
    assert (seen.stamp, seen.stream) == (7, kind) and seen.values.shape == (made.tokens, made.channels)
    assert seen.values.dtype == np.float32
    identity = json.loads(json.dumps(made.identity()))
    assert identity["extractor"] == kind
    again = parameters_for(identity, PerceptionParameters())
    other = load_extractor(again.extractor, sources[kind], CAMERA, again)
    assert json.loads(json.dumps(other.identity())) == identity
    np.testing.assert_array_equal(other.extract(image, 7).values, seen.values)
    for name, value in SETTINGS[kind].items():
        if name not in ("class_map", "grid"):
            assert getattr(again, name) == value
    with pytest.raises(ExtractorError, match=r"image has 64 by 96 pixels, expected (the proportions of )?96 by 64"):
        made.extract(image.transpose(1, 0, 2).copy(), 0)


def test_other_cameras_have_streams_and_identities_of_their_own(sources):
    first = load_extractor("detections", DETECTOR, CAMERA, chosen("detections"))
    assert of_camera(first, "front", True) is first and "camera" not in first.identity()
    wrist = of_camera(first, "wrist", False)
    assert wrist.stream == "detections_wrist" and wrist.extract(np.zeros((64, 96, 3), np.uint8), 3).stream == "detections_wrist"
    assert wrist.identity() == {**first.identity(), "camera": "wrist"}
    assert of_camera(first, "front", True, "seen").stream == "seen"
    assert of_camera(first, "wrist", False, "seen").stream == "seen_wrist"
    assert inner(wrist) is first and not isinstance(wrist, Instructed)
    assert set_confidence(wrist, 0.6) and first.detector.confidence == 0.6
    vlm = load_extractor("vlm", sources["vlm"], CAMERA, chosen("vlm"))
    named = of_camera(vlm, "wrist", False)
    assert isinstance(named, Instructed) and named.speaks and not set_confidence(named, 0.5)
    named.instruct("open the door")
    assert vlm.instruction == named.instruction == "open the door"


@pytest.mark.parametrize(
    ("kind", "settings", "error", "said"),
    [
        ("eyes", {}, ExtractorError, "features of the kind 'eyes', expected one of detections"),
        ("object_slots", {"class_map": "cup, door_pannel"}, ExtractorError, "lacks the classes cup, door_pannel; it has"),
        ("region_features", {"class_map": "hold=mug"}, ExtractorError, "lacks the classes mug"),
        ("object_slots", {"class_map": "latch,,"}, ParameterError, r"perception\.class_map is 'latch,,'"),
        ("object_slots", {"class_map": "a=latch, a=door_panel"}, ParameterError, "each once"),
        ("detections", {"class_map": "latch"}, ParameterError, "the kind 'detections' has no use for it"),
        ("yolo_tokens", {"grid": "5"}, ParameterError, r"perception\.grid is '5', expected rows and columns"),
        ("yolo_tokens", {"grid": "99x99"}, ExtractorError, "at most"),
        ("yolo_tokens", {"levels": "first"}, ParameterError, r"perception\.levels is 'first'"),
        ("yolo_tokens", {"levels": "7"}, ExtractorError, r"neck levels are \[7\]"),
        ("detections", {"instruction": "open the door"}, ParameterError, "the extractor 'detections' reads none"),
        ("backbone", {"stride": 3}, ExtractorError, "no map of stride 3"),
        ("vlm", {"language_tokens": 1}, ExtractorError, "expected at most 1"),
    ],
)
def test_what_does_not_fit_is_named(kind, settings, error, said, sources):
    with pytest.raises(error, match=said):
        load_extractor(kind, sources.get(kind, DETECTOR), CAMERA, chosen("detections", **settings))


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(ParameterError, match=r"perception\.detector is not set"):
        source_of(chosen("object_slots"))
    with pytest.raises(ParameterError, match=r"perception\.model is not set; the extractor 'vlm'"):
        source_of(chosen("vlm", detector="x"))
    with pytest.raises(ExtractorError, match=r"lacks model\.safetensors"):
        load_extractor("backbone", tmp_path, CAMERA, chosen("backbone"))
    with pytest.raises(ExtractorError, match="google/no-such-model"):
        load_extractor("vlm", "google/no-such-model", CAMERA, chosen("vlm"))
    with pytest.raises(ParameterError, match="expected one of detections"):
        check(PerceptionParameters, "extractor", "eyes", "perception.")


def test_identities_that_nothing_can_make_again_are_refused():
    for identity, said in (
        ({"extractor": "touch"}, "features of the kind 'touch'"),
        ({"extractor": "vlm", "pooled": "mean"}, "'vlm, pooled'"),
        ({"extractor": "object_slots", "classes": ["a"], "class_map": {"a": 3}, "slots": 1, "confidence": 0.1}, "is incomplete"),
        ({"extractor": "backbone"}, "is incomplete"),
    ):
        with pytest.raises(ExtractorError, match=said):
            parameters_for(identity, PerceptionParameters())
    assert parameters_for({"weights_sha256": "of before"}, PerceptionParameters()).extractor == "detections"


def test_names_of_classes_may_have_blanks():
    assert class_map_of("cup, ball = sports ball") == {"cup": "cup", "ball": "sports ball"}


def test_depth_images_are_no_pictures():
    grey = EncodedImage("mono8", 2, 3, 3, bytes(6))
    assert picture(grey).shape == (2, 3, 3)
    for encoding, size in (("16UC1", 2), ("32FC1", 4)):
        with pytest.raises(ImageError, match=f"encoding '{encoding}', a depth image"):
            picture(EncodedImage(encoding, 2, 3, 3 * size, bytes(6 * size)))


def test_a_checkpoints_streams_are_made_by_the_right_extractor(sources):
    """What evaluation and replay load: kind and settings are the stream's own, weights are compared."""
    parameters = with_source(chosen("backbone", grid="2x2"), sources["backbone"])
    trained = load_extractor("backbone", sources["backbone"], CAMERA, parameters).identity()
    stream = StreamContract("seen", 4, 1280, trained)
    others = (StreamContract("objects", 1, 12, {"task": "door"}), StreamContract("detections", 2, 5, {"weights_sha256": "x"}))
    contract = Contract("hand", ("a",), ("a",), 10_000_000, 4, (stream, *others))
    assert [s.name for s in seen_streams(contract)] == ["seen", "detections"]
    flat = {"perception.threads": 1}
    found = load_perception(perception_parameters(flat, sources["backbone"], trained), sources["backbone"], stream, CAMERA)
    assert found.extract(np.zeros((64, 96, 3), np.uint8), 0).stream == "seen" and found.identity() == trained
    foreign = replace(stream, extractor={**trained, "weights_sha256": "of others"})
    with pytest.raises(ContractError, match="weights_sha256 differ"):
        load_perception(perception_parameters(flat, sources["backbone"], trained), sources["backbone"], foreign, CAMERA)
    with pytest.raises(ContractError, match=r"observes 'seen', features of the kind 'backbone'.*with --detector"):
        load_perception(perception_parameters(flat, DETECTOR, trained), DETECTOR, stream, CAMERA)


def test_frames_are_the_picture_itself():
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    same = FrameFeatures((4, 6), "front").extract(image, 5)
    assert same.values.dtype == np.uint8 and same.values.shape == (4, 18) and same.stamp == 5
    np.testing.assert_array_equal(same.values.reshape(4, 6, 3), image)
    half = FrameFeatures((2, 3), "front").extract(image, 5).values.reshape(2, 3, 3)
    assert half[0, 0] == pytest.approx(image[:2, :2].mean(axis=(0, 1)), abs=0.51)
    image[:] = 0
    assert same.values.any()  # a copy
    with pytest.raises(ExtractorError, match="size of frames is"):
        FrameFeatures((0, 3), "front")


def test_the_overlay_shows_boxes_and_the_strength_of_tokens(scene):
    camera = Camera("front", "camera/image_raw", 240, 240, 10.0)
    slots = load_extractor("object_slots", DETECTOR, camera, chosen("object_slots"))
    seen = slots.extract(scene, 0)
    drawn = draw_seen(scene, slots, seen.values, seen.values.shape[1] - 1)
    left, top, _, bottom = np.round(slots.last.boxes[0]).astype(int)
    assert len(slots.last.boxes) and drawn.shape == scene.shape
    changed = (drawn != scene).any(axis=2)
    assert changed[top : bottom + 1, min(left, 239)].mean() > 0.9 and changed.mean() < 0.3
    neck = load_extractor("yolo_tokens", DETECTOR, camera, chosen("yolo_tokens", grid="4x4"))
    neck.detector.confidence = 1.0
    seen = neck.extract(scene, 0)
    mask = neck.identity()["mask_channel"]
    heat = draw_seen(scene, neck, seen.values, mask, scale=2)
    assert heat.shape == (480, 480, 3) and (heat[::2, ::2] != scene).any(axis=2).mean() > 0.9
    norms = token_norms(seen.values, (4, 4), 3, mask)
    levels = np.linalg.norm(np.delete(seen.values, mask, axis=1), axis=1).reshape(3, 4, 4)
    assert norms == pytest.approx(levels.mean(axis=0), rel=1e-5)
    assert draw_seen(scene, FrameFeatures((4, 4), "front"), seen.values) is None


def test_heat_lies_where_the_cells_are_and_nowhere_else():
    grey = np.full((40, 80, 3), 100, np.uint8)
    strength = np.array([[0.0, 0.0], [np.nan, 9.0]], np.float32)
    drawn = draw_strength(grey, strength, (0.0, 0.0, 40.0, 40.0)).astype(int)
    assert (drawn[:, 40:] == 100).all() and (drawn[20:, :20] == 100).all()  # beside the map; without a value
    assert (drawn[20:, 20:40] == drawn[20, 20]).all() and (drawn[:20, :40] == drawn[0, 0]).all()
    assert drawn[20, 20].sum() > drawn[0, 0].sum() + 50
    level = draw_strength(grey, np.full((2, 2), 3.0, np.float32))
    assert (level == level[0, 0]).all()
    masked = token_norms(np.array([[3, 4, 1], [0, 0, 0]], np.float32), (1, 2), 1, 2)
    assert masked[0, 0] == pytest.approx(5.0) and np.isnan(masked[0, 1])
