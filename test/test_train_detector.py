"""``flow_policy train-detector`` on a user's own pictures: looked through, trained, resumed exactly, shown; keypoints too."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flow_policy_ros.cli import train_detector
from flow_policy_ros.vision.dataset import LabelledImages, write_yolo_folder
from flow_policy_ros.vision.detector import DetectorError, build_network, load_detector, load_weights
from flow_policy_ros.vision.detector_quality import measure
from flow_policy_ros.vision.training import (
    Schedule,
    TrainingStopped,
    architecture_of,
    begin_at_sizes,
    save_detector,
    take_weights,
    train,
    with_keypoints,
)
from flow_policy_ros.vision.training_state import load_state
from flow_policy_ros.vision.yolo_view import load_yolo

SHIPPED = Path(__file__).resolve().parents[1] / "checkpoints" / "adroit_door_detector"
SIZE = 64
CLASSES = ("disc", "square")
SCHEDULE = Schedule(epochs=2, batch=4, learning_rate=4e-3, average_decay=0.9)


def drawn(seed, n, keypoints=0):
    """A square of which the keypoint is the upper left corner, on noise."""
    generator = np.random.default_rng(seed)
    images, boxes = [], []
    for _ in range(n):
        image = generator.integers(0, 60, (SIZE, SIZE, 3)).astype(np.uint8)
        x, y, s = generator.integers(1, 40), generator.integers(1, 40), generator.integers(14, 22)
        image[y : y + s, x : x + s] = (240, 200, 40)
        images.append(image)
        boxes.append(np.array([[1, x, y, x + s, y + s, *([x, y, 1] if keypoints else [])]], dtype=np.float32))
    return LabelledImages(CLASSES, images, boxes, keypoints)


def small(model):
    """An architecture at half the width of its smallest published scale."""
    return {**architecture_of(model), "scales": {"n": [0.33, 0.125, 1024]}}


def stopping_after(steps):
    """Says stop when so many steps were begun."""
    left = iter(range(steps + 1))

    def stop():
        return next(left, steps) == steps

    return stop


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def test_first_boxes_are_as_large_as_the_labelled_ones(tmp_path):
    """Ultralytics' own first boxes are 120 pixels wide at the finest level."""
    architecture, network = small("yolo11n.yaml"), build_network(small("yolo11n.yaml"), CLASSES)
    data = drawn(0, 16)
    begin_at_sizes(network, data, SIZE)
    detector = load_detector(save_detector(tmp_path, network, architecture, "small", CLASSES, SIZE, {}), confidence=0.0)
    boxes = detector.detect(np.full((SIZE, SIZE, 3), 30, np.uint8)).boxes
    inside = boxes[(boxes > 0).all(axis=1) & (boxes < SIZE).all(axis=1)]  # those that the image's edges do not cut
    labelled = np.concatenate([rows[:, 3] - rows[:, 1] for rows in data.boxes])
    assert len(inside) > 10 and 0.6 * labelled.min() < np.median(inside[:, 2] - inside[:, 0]) < 1.4 * labelled.max()


@pytest.mark.parametrize("model", ["yolo11n.yaml", "yolo26n.yaml"])
def test_an_interrupted_training_gives_the_weights_it_would_have_given(tmp_path, model):
    data, architecture, state = drawn(0, 8), small(model), tmp_path / "training" / "state.safetensors"
    whole = train(data, architecture, SIZE, SCHEDULE, 0)
    with pytest.raises(TrainingStopped) as stopped:
        train(data, architecture, SIZE, SCHEDULE, 0, state=state, stop=stopping_after(3))
    assert stopped.value.step == 3
    seen = []
    parts = train(data, architecture, SIZE, SCHEDULE, 0, seen.append, state=state)
    assert [progress.step for progress in seen] == [4]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name


def test_a_state_of_another_training_is_refused_by_name(tmp_path):
    data, architecture, state = drawn(0, 4), small("yolo11n.yaml"), tmp_path / "state.safetensors"
    with pytest.raises(TrainingStopped):
        train(data, architecture, SIZE, SCHEDULE, 0, state=state, stop=lambda: True)
    with pytest.raises(DetectorError, match="of another training: labels, seed differ"):
        train(drawn(1, 4), architecture, SIZE, SCHEDULE, 1, state=state)
    state.write_bytes(state.read_bytes()[:1000])
    network = build_network(architecture, CLASSES)
    with pytest.raises(DetectorError, match="cannot be read"):
        load_state(state, {}, network, network, torch.optim.AdamW(network.parameters()))


def test_weights_of_another_detector_are_taken_where_they_fit(tmp_path):
    architecture = small("yolo11n.yaml")
    torch.manual_seed(1)
    before = build_network(architecture, ("only",))
    folder = save_detector(tmp_path, before, architecture, "small", ("only",), SIZE, {})
    weights = load_weights(folder)
    network = build_network(architecture, CLASSES)
    own = {name: value.clone() for name, value in network.state_dict().items()}
    taken = take_weights(network, weights)
    now, theirs = network.state_dict(), weights.tensors
    moved = [name for name in theirs if torch.equal(now[name], theirs[name])]
    classes = [name for name in theirs if own[name].shape != theirs[name].shape]
    assert taken == len(weights.tensors) - len(classes) and 0 < len(classes) < 10 and len(moved) == taken
    with pytest.raises(DetectorError, match="no weights to start from"):
        load_weights(tmp_path / "nowhere")
    other = {f"x.{name}": value for name, value in weights.tensors.items()}
    with pytest.raises(DetectorError, match="shares no weights"):
        take_weights(network, type(weights)(other, ""))


@pytest.mark.parametrize("model", ["yolo11n-pose.yaml", "yolo26n-pose.yaml"])
def test_a_pose_model_is_trained_written_and_read(tmp_path, model):
    data = drawn(0, 4, keypoints=1)
    architecture = with_keypoints(small(model), data)
    network = train(data, architecture, SIZE, Schedule(epochs=1, batch=4), 0)
    folder = save_detector(tmp_path, network, architecture, model, CLASSES, SIZE, {})
    yolo = load_yolo(folder, confidence=0.0)
    assert yolo.keypoints == 1
    view = yolo.look(data.images[0])
    found = load_detector(folder, confidence=0.0).detect(data.images[0])
    assert np.array_equal(view.boxes, found.boxes) and set(found.classes.tolist()) <= {0, 1}
    assert view.keypoints.shape == (len(view.scores), 1, 3)


def test_a_pose_model_learns_its_keypoint(tmp_path):
    architecture = with_keypoints(small("yolo11n-pose.yaml"), drawn(0, 1, 1))
    schedule = Schedule(epochs=14, batch=4, learning_rate=4e-3, average_decay=0.95)
    network = train(drawn(0, 48, 1), architecture, SIZE, schedule, 0)
    detector = load_detector(save_detector(tmp_path, network, architecture, "small", CLASSES, SIZE, {}))
    entry = measure(detector, drawn(1, 20, 1))["classes"]["square"]
    assert entry["recall"] > 0.8 and entry["keypoint_error_px"]["median"] < 3.0 < entry["centre_error_px"]["median"] + 3.0


def test_average_precision_does_not_depend_on_the_detectors_threshold():
    sheet = cv2.imread(str(SHIPPED / "preview.jpg"))[..., ::-1]
    scenes = [np.ascontiguousarray(sheet[:240, x : x + 240]) for x in (0, 512)]
    detector = load_detector(SHIPPED)
    found = [detector.detect(scene) for scene in scenes]
    labels = [np.concatenate([f.classes[:, None], f.boxes + 1], axis=1).astype(np.float32) for f in found]
    data = LabelledImages(detector.classes, scenes, labels)
    low, high = (measure(load_detector(SHIPPED, confidence=c), data) for c in (0.01, 0.95))
    assert low["map50"] == high["map50"] > 0.5
    recalls = [sum(entry["recall"] or 0 for entry in quality["classes"].values()) for quality in (low, high)]
    assert recalls[0] > recalls[1]


def command(tmp_path, *more, data="data"):
    arguments = ["--dataset", str(tmp_path / data), "--out", str(tmp_path / "out"), "--image-size", "64", "--device", "cpu"]
    return train_detector.main([*arguments, "--epochs", "1", "--batch", "4", "--json", str(tmp_path / "figures.json"), *more])


def test_the_command_says_what_it_skips_and_shows_what_it_finds(tmp_path, capsys):
    write_yolo_folder(drawn(2, 12), tmp_path / "data")
    (tmp_path / "data/labels/000003.txt").write_text("1 32 20 10 10")
    (tmp_path / "data/images/000005.png").write_bytes(b"not a picture")
    assert command(tmp_path) == 0
    said = capsys.readouterr()
    assert "skipped: 1 label files with coordinates outside" in said.err
    assert "skipped: 1 pictures that OpenCV cannot read" in said.err
    assert "kept: 1 classes without a label in train (will not be found): disc" in said.err
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {entry["becomes"] for entry in figures["findings"]} == {"skipped", "kept"}
    assert "'square' was found in 0% of the 2 pictures that show it" in said.err and "'disc'" not in said.err
    made = json.loads((tmp_path / "out/detector.json").read_text())
    assert made["training"]["images"] == 8 and made["metrics"]["images"] == 2 and len(made["training"]["findings"]) == 3
    assert set(made["metrics"]["classes"]["square"]) >= {"ap50", "ap50_95", "recall", "precision"}
    shown = sorted((tmp_path / "out/previews").iterdir())
    assert len(shown) == 2 and cv2.imread(str(shown[0])).shape[1] == 2 * 384
    assert not (tmp_path / "out/training").exists()  # done: nothing to go on with
    kinds = sorted(p.suffix for p in (tmp_path / "out").iterdir() if p.is_file())
    assert kinds == [".jpg", ".json", ".md", ".safetensors", ".yaml"]


def test_truth_is_drawn_beside_what_is_found(tmp_path):
    """The left half shows the label of every picture, also of a network that finds nothing."""
    from flow_policy_ros.vision.detector_preview import write_previews

    architecture = small("yolo11n.yaml")
    folder = save_detector(tmp_path / "d", build_network(architecture, CLASSES), architecture, "small", CLASSES, SIZE, {})
    detector = load_detector(folder, confidence=0.99)
    dark = LabelledImages(CLASSES, [np.zeros((SIZE, SIZE, 3), np.uint8)] * 5, [np.array([[1, 16, 16, 48, 48]], np.float32)] * 5)
    (tmp_path / "previews").mkdir()
    (tmp_path / "previews/old.jpg").write_text("of an earlier training")
    paths = write_previews(detector, dark, tmp_path, count=3)
    assert [p.name for p in paths] == ["000000.jpg", "000002.jpg", "000004.jpg", "preview.jpg"]
    assert not (tmp_path / "previews/old.jpg").exists()
    pair = cv2.imread(str(paths[0]))[30:].max(axis=2)  # without the titles
    assert (pair[:, :384] > 90).sum() > 500 and (pair[:, 384:] > 60).sum() == 0


def test_the_command_goes_on_where_it_was_stopped(tmp_path, capsys, monkeypatch):
    from flow_policy_ros.training import progress

    write_yolo_folder(drawn(3, 10), tmp_path / "data")
    options = ("--epochs", "2", "--seed", "5")
    assert command(tmp_path, *options) == 0
    whole = load_file(tmp_path / "out/model.safetensors")
    stop = stopping_after(2)
    monkeypatch.setattr(progress.InterruptFlag, "raised", property(lambda self: stop(), lambda self, value: None), raising=False)
    assert command(tmp_path, *options, "--resume") == 1
    assert "interrupted after 2 of 4 steps; the same command with --resume goes on" in capsys.readouterr().out
    monkeypatch.undo()
    assert command(tmp_path, *options, "--resume") == 0
    resumed = load_file(tmp_path / "out/model.safetensors")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert json.loads((tmp_path / "figures.json").read_text())["steps"] == 4


def test_a_look_at_the_data_set_alone_trains_nothing(tmp_path, capsys):
    write_yolo_folder(drawn(2, 6), tmp_path / "data")
    assert command(tmp_path, "--check") == 0
    assert "5 pictures to train on, 1 to measure with" in capsys.readouterr().out and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "yolo11n-pose.yaml"], "has no kpt_shape"),
        (["--model", "yolo11n-seg.yaml"], r"ends in Segment, expected Detect \(boxes\) or Pose"),
        (["--start", "nowhere"], "no weights to start from at nowhere"),
        (["--start", "nowhere.pt"], "is a pickle"),
        (["--strict"], "skipped: 1 label files that are malformed"),
    ],
)
def test_what_the_command_refuses(tmp_path, arguments, said):
    write_yolo_folder(drawn(2, 4), tmp_path / "data")
    (tmp_path / "data/labels/000000.txt").write_text("0 1")
    with pytest.raises(ValueError, match=said):
        command(tmp_path, *arguments)
    assert not (tmp_path / "out").exists()
