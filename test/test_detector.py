"""A small detector is trained on drawn squares, then loaded, run, refused and described."""

import json

import cv2
import numpy as np
import pytest
import torch

from flow_policy_ros.cli import train_detector
from flow_policy_ros.vision.dataset import LabelledImages, write_yolo_folder
from flow_policy_ros.vision.detector import DetectorError, build_network, file_sha256, load_detector
from flow_policy_ros.vision.detector_quality import measure
from flow_policy_ros.vision.features import DetectionFeatures
from flow_policy_ros.vision.training import Schedule, architecture_of, save_detector, train

SIZE = 64
CLASSES = ("absent", "square")


def drawn(seed, n):
    """Noisy images with one bright square each; class ``absent`` is in none."""
    generator = np.random.default_rng(seed)
    images, boxes = [], []
    for _ in range(n):
        image = generator.integers(0, 60, (SIZE, SIZE, 3)).astype(np.uint8)
        x, y, s = generator.integers(1, 40), generator.integers(1, 40), generator.integers(14, 22)
        image[y : y + s, x : x + s] = (240, 200, 40)
        images.append(image)
        boxes.append(np.array([[1, x, y, x + s, y + s]], dtype=np.float32))
    return LabelledImages(CLASSES, images, boxes)


def small_architecture():
    """yolo11 at half the width of its smallest published scale."""
    return {**architecture_of("yolo11n.yaml"), "scales": {"n": [0.33, 0.125, 1024]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    architecture = small_architecture()
    seen = []
    schedule = Schedule(epochs=18, batch=4, learning_rate=4e-3, average_decay=0.95)
    network = train(drawn(0, 64), architecture, SIZE, schedule, seed=0, report=seen.append)
    assert [p.step for p in seen] == list(range(1, 289)) and seen[-1].steps == 288
    assert np.mean([p.loss for p in seen[-20:]]) < 0.7 * max(p.loss for p in seen)
    path = tmp_path_factory.mktemp("detector")
    return save_detector(path, network, architecture, "yolo11", CLASSES, SIZE, {"images": 64})


@pytest.fixture(scope="module")
def detector(folder):
    return load_detector(folder)


def test_a_trained_detector_finds_unseen_objects(detector):
    quality = measure(detector, drawn(1, 40))
    assert quality["map50"] > 0.9
    entry = quality["classes"]["square"]
    assert entry["recall"] > 0.9 and entry["precision"] > 0.9
    assert entry["centre_error_px"]["median"] < 1.0
    assert quality["classes"]["absent"] == {"labelled": 0, "recall": None, "precision": None}


def test_repeated_calls_are_bit_equal_and_a_second_load_agrees(detector, folder):
    image = drawn(2, 1).images[0]
    first = detector.detect(image)
    assert len(first.scores) >= 1
    assert first.boxes.dtype == np.float32 and first.scores.dtype == np.float32
    for other in (detector.detect(image.copy()), load_detector(folder).detect(image)):
        assert np.array_equal(first.boxes, other.boxes)
        assert np.array_equal(first.scores, other.scores)
        assert np.array_equal(first.classes, other.classes)


def test_a_larger_image_gives_boxes_in_its_own_pixels(detector):
    data = drawn(3, 1)
    small = detector.detect(data.images[0])
    doubled = cv2.resize(data.images[0], (2 * SIZE, 2 * SIZE), interpolation=cv2.INTER_NEAREST)
    wide = np.full((2 * SIZE, 2 * SIZE + 20, 3), 30, dtype=np.uint8)
    wide[:, 10 : 10 + 2 * SIZE] = doubled
    large = detector.detect(wide)
    assert large.classes[0] == small.classes[0] == 1
    assert large.boxes[0] == pytest.approx(small.boxes[0] * 2 + [10, 0, 10, 0], abs=6)


def test_confidence_drops_detections(detector, folder):
    image = drawn(4, 1).images[0]
    strict = load_detector(folder, confidence=0.999)
    assert len(strict.detect(image).scores) == 0
    assert (detector.detect(image).scores > 0.25).all()


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((8, 8, 3), dtype=np.float32), r"float32 \(8, 8, 3\)"),
        (np.zeros((8, 8), dtype=np.uint8), r"uint8 \(8, 8\)"),
        (np.zeros((3, 8, 8), dtype=np.uint8), r"uint8 \(3, 8, 8\)"),
        (np.zeros((0, 8, 3), dtype=np.uint8), r"uint8 \(0, 8, 3\)"),
        ([[1, 2, 3]], "list"),
    ],
)
def test_images_of_another_kind_are_refused(detector, image, said):
    with pytest.raises(DetectorError, match=said):
        detector.detect(image)


def test_features_have_one_row_per_class(detector):
    extractor = DetectionFeatures(detector)
    data = drawn(5, 1)
    features = extractor.extract(data.images[0], stamp=123)
    assert (features.stamp, features.stream) == (123, "detections")
    assert features.values.shape == (extractor.tokens, extractor.channels) == (2, 5)
    assert (features.values[0] == 0).all()
    x1, y1, x2, y2 = data.boxes[0][0, 1:] / SIZE
    assert features.values[1, :4] == pytest.approx([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], abs=0.05)
    assert features.values[1, 4] == extractor.last.scores[0]
    nothing = extractor.extract(np.full((SIZE, SIZE, 3), 20, dtype=np.uint8), stamp=124)
    assert nothing.stamp == 124 and (nothing.values == 0).all()


def test_identity_names_weights_and_classes(detector, folder):
    assert detector.identity() == {
        "model": "yolo11",
        "weights_sha256": file_sha256(folder / "model.safetensors"),
        "classes": ["absent", "square"],
        "image_size": SIZE,
    }
    assert json.loads(json.dumps(DetectionFeatures(detector).identity()))["extractor"] == "detections"


def copy_of(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_damaged_folders_are_refused_with_the_reason(folder, tmp_path):
    with pytest.raises(DetectorError, match=r"perception\.detector"):
        load_detector(tmp_path / "nowhere")
    broken = copy_of(folder, tmp_path)
    (broken / "detector.json").unlink()
    with pytest.raises(DetectorError, match=r"lacks detector\.json"):
        load_detector(broken)
    content = json.loads((folder / "detector.json").read_text())
    (broken / "detector.json").write_text(json.dumps({**content, "weights_sha256": "0" * 64}))
    with pytest.raises(DetectorError, match="not the ones"):
        load_detector(broken)
    (broken / "detector.json").write_text(json.dumps({**content, "classes": ["absent", "square", "cone"]}))
    with pytest.raises(DetectorError, match=r"do not fit its architecture"):
        load_detector(broken)
    del content["classes"]
    (broken / "detector.json").write_text(json.dumps(content))
    with pytest.raises(DetectorError, match="classes"):
        load_detector(broken)


def test_a_pickle_needs_explicit_permission_and_then_detects_the_same(folder, detector, tmp_path):
    from safetensors.torch import load_file

    network = build_network(small_architecture(), CLASSES)
    network.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    network.names = dict(enumerate(CLASSES))
    network.args = {"imgsz": SIZE}
    network.task = "detect"
    path = tmp_path / "best.pt"
    torch.save({"model": network, "train_args": {"imgsz": SIZE, "task": "detect"}}, path)
    with pytest.raises(DetectorError, match=r"perception\.allow_pickle"):
        load_detector(path)
    pickled = load_detector(path, allow_pickle=True)
    assert pickled.classes == CLASSES
    image = drawn(6, 1).images[0]
    assert pickled.detect(image).boxes == pytest.approx(detector.detect(image).boxes, abs=1e-3)


def test_an_end_to_end_architecture_is_decoded(tmp_path):
    torch.manual_seed(0)
    architecture = architecture_of("yolo26n.yaml")
    path = save_detector(tmp_path, build_network(architecture, CLASSES), architecture, "yolo26n", CLASSES, SIZE, {})
    found = load_detector(path, confidence=0.0).detect(drawn(7, 1).images[0])
    assert len(found.scores) > 0
    assert (found.boxes >= 0).all() and (found.boxes <= SIZE).all()
    assert set(found.classes.tolist()) <= {0, 1}
    assert (np.diff(found.scores) <= 0).all()


def test_command_trains_on_a_yolo_folder(tmp_path, capsys):
    write_yolo_folder(drawn(8, 12), tmp_path / "data")
    arguments = ["--dataset", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--image-size", "64"]
    arguments += ["--epochs", "1", "--batch", "4", "--json", str(tmp_path / "figures.json")]
    assert train_detector.main(arguments) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {"steps", "samples_per_s", "loss", "validation", "checkpoint"} <= set(figures)
    assert figures["steps"] == 2
    assert load_detector(figures["checkpoint"]).classes == CLASSES
    described = json.loads((tmp_path / "out" / "detector.json").read_text())
    assert described["metrics"] == figures["validation"]
    assert "--dataset" in described["training"]["command"]
    assert "| square | " in (tmp_path / "out" / "README.md").read_text()
    assert (tmp_path / "out" / "preview.jpg").stat().st_size > 1000
    assert "mAP50" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either --episodes"),
        (["--dataset", "nowhere"], r"data\.yaml"),
        (["--dataset", "nowhere", "--model", "yolo99z"], "no model 'yolo99z'"),
        (["--dataset", "nowhere", "--image-size", "100"], "multiple of 32"),
        (["--dataset", "nowhere", "--epochs", "0"], "above zero"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, arguments, said):
    with pytest.raises(ValueError, match=said):
        train_detector.main(["--out", str(tmp_path), *arguments])
