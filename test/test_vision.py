"""Vision without a trained detector: suppression, offline set-up, features, data sets, overlay."""

import subprocess
import sys

import numpy as np
import pytest

from flow_policy_ros.vision.dataset import augment, fit
from flow_policy_ros.vision.detector import Detections
from flow_policy_ros.vision.detector_quality import average_precision, iou
from flow_policy_ros.vision.features import best_per_class
from flow_policy_ros.vision.overlay import draw
from flow_policy_ros.vision.torchvision_ops import greedy_nms


def random_boxes(generator, n, size=100.0):
    corner = generator.uniform(0, size * 0.7, (n, 2))
    return np.concatenate([corner, corner + generator.uniform(5, size * 0.3, (n, 2))], axis=1).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_suppression_keeps_what_no_better_kept_box_overlaps(seed):
    generator = np.random.default_rng(seed)
    boxes, scores = random_boxes(generator, 60), generator.permutation(60).astype(np.float32) / 60
    kept = greedy_nms(boxes, scores, 0.4)
    overlap = iou(boxes, boxes)
    expected = []
    for i in np.argsort(-scores):
        if all(overlap[i, j] <= 0.4 for j in expected):
            expected.append(i)
    assert kept.tolist() == expected
    assert 0 < len(kept) < 60


def test_iou_of_known_boxes():
    a = np.array([[0, 0, 10, 10]], dtype=np.float32)
    b = np.array([[5, 0, 15, 10], [0, 0, 10, 10], [20, 20, 30, 30]], dtype=np.float32)
    assert iou(a, b)[0] == pytest.approx([1 / 3, 1.0, 0.0])


OFFLINE = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError(f"network used: {args}")
socket.socket.connect = refuse
socket.create_connection = refuse
socket.getaddrinfo = refuse
import torch
from flow_policy_ros.vision.ultralytics_setup import import_ultralytics
ultralytics = import_ultralytics()
import torchvision
boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30]])
assert torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5).tolist() == [1, 2]
assert ultralytics.settings["sync"] is False
from flow_policy_ros.vision.detector import build_network
from flow_policy_ros.vision.training import architecture_of
for name in ("yolo11n.yaml", "yolo12n", "yolo26n.yaml"):
    assert build_network(architecture_of(name), ("a", "b")).model[-1].nc == 2
print("offline")
"""


def test_torchvision_and_three_model_families_load_without_network(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        capture_output=True,
        text=True,
        env={"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("offline\n")
    assert list(tmp_path.rglob("*.ttf")) == []


def test_features_hold_the_best_detection_of_each_class_and_zeros_for_the_absent():
    found = Detections(
        np.array([[0, 0, 20, 10], [10, 20, 30, 40], [50, 50, 60, 60]], dtype=np.float32),
        np.array([0.9, 0.8, 0.7], dtype=np.float32),
        np.array([2, 0, 2]),
    )
    values = best_per_class(found, tokens=3, width=100, height=50)
    assert values.dtype == np.float32
    assert values[0] == pytest.approx([0.2, 0.6, 0.2, 0.4, 0.8])
    assert (values[1] == 0).all()
    assert values[2] == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.9])


def test_overlay_draws_on_a_copy():
    image = np.full((40, 60, 3), 7, dtype=np.uint8)
    found = Detections(np.array([[10, 12, 30, 35]], dtype=np.float32), np.ones(1, dtype=np.float32), np.array([1]))
    drawn = draw(image, found, ("a", "b"), scale=2)
    assert drawn.shape == (80, 120, 3)
    assert (image == 7).all()
    assert (drawn[24:71, 20] != 14).any() and (drawn[30:60, 20] != 7).any()  # left edge of the box


def square_with_marker(size=64):
    image = np.full((size, size, 3), 30, dtype=np.uint8)
    image[20:32, 24:40] = 230
    return image, np.array([[0, 24, 20, 40, 32]], dtype=np.float32)


def test_augmented_boxes_stay_on_their_objects():
    generator = np.random.default_rng(0)
    moved = 0
    for _ in range(60):
        image, rows = augment(*square_with_marker(), generator)
        ys, xs = np.nonzero(image.mean(axis=2) > 128)
        assert rows[0, 1:] == pytest.approx([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], abs=1.0)
        moved += not np.allclose(rows[0, 1:], [24, 20, 40, 32])
    assert 10 < moved < 50


def test_fit_scales_boxes_with_the_image():
    image, rows = square_with_marker()
    wide = np.full((64, 128, 3), 30, dtype=np.uint8)
    wide[:, :64] = image
    square, moved = fit(wide, rows, 256)
    assert square.shape == (256, 256, 3)
    ys, xs = np.nonzero(square.mean(axis=2) > 160)
    assert moved[0, 1:] == pytest.approx([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], abs=1.5)


def test_average_precision_of_hits_and_misses():
    truth = [np.array([[0, 0, 10, 10]], dtype=np.float32), np.array([[0, 0, 10, 10]], dtype=np.float32)]

    def found(box, score):
        return Detections(np.array([box], dtype=np.float32), np.array([score], dtype=np.float32), np.zeros(1, dtype=np.int64))

    perfect = [found([0, 0, 10, 10], 0.9), found([0, 0, 10, 10], 0.8)]
    assert average_precision(perfect, truth, 0) == pytest.approx(np.ones(10))
    # The better score is the miss: precision 0, then 1/2 at recall 1/2.
    half = [found([50, 50, 60, 60], 0.9), found([0, 0, 10, 10], 0.8)]
    assert average_precision(half, truth, 0) == pytest.approx(np.full(10, 0.25))
    loose = [found([0, 0, 10, 8], 0.9), found([0, 0, 10, 8], 0.8)]  # IoU 0.8: right up to that level
    assert average_precision(loose, truth, 0) == pytest.approx([1] * 7 + [0] * 3)
