"""YOLO features: slots, regions and map tokens on the trained door detector, keypoints on a random pose network."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from flow_policy_ros.vision.detector import Detector, load_detector
from flow_policy_ros.vision.features import best_per_class
from flow_policy_ros.vision.pretrained import ExtractorError
from flow_policy_ros.vision.tracking import SlotTracker, Tracking
from flow_policy_ros.vision.ultralytics_setup import import_ultralytics
from flow_policy_ros.vision.yolo_tokens import DetectionSlots, NeckTokens, RegionFeatures, box_mean, inside_image
from flow_policy_ros.vision.yolo_view import Yolo, YoloView, class_map, load_yolo

FOLDER = Path(__file__).resolve().parents[1] / "checkpoints" / "adroit_door_detector"


@pytest.fixture(scope="module")
def yolo():
    torch.set_num_threads(1)
    return load_yolo(FOLDER, confidence=0.25)


@pytest.fixture(scope="module")
def scene():
    """The preview that lies beside the detector: many simulated images, of which the first is cut out."""
    import cv2

    image = cv2.imread(str(FOLDER / "preview.jpg"))[..., ::-1]
    return np.ascontiguousarray(image[:240, :240])


@pytest.fixture(scope="module")
def pose():
    ultralytics = import_ultralytics()
    from ultralytics.nn.tasks import PoseModel

    path = Path(ultralytics.__file__).parent / "cfg" / "models" / "11" / "yolo11-pose.yaml"
    architecture = {**yaml.safe_load(path.read_text()), "scales": {"n": [0.33, 0.125, 1024]}, "scale": "n"}
    torch.manual_seed(0)
    network = PoseModel(architecture, nc=2, data_kpt_shape=(4, 3), verbose=False)
    return Yolo(Detector(network, "tiny-pose", ("cup", "hand"), 64, "0" * 64, confidence=1e-6))


def view(boxes, scores, classes, keypoints=0, maps=(), frame=(0.0, 0.0, 100.0, 50.0)):
    points = np.arange(len(boxes) * keypoints * 3, dtype=np.float32).reshape(len(boxes), keypoints, 3)
    at = np.array(boxes, np.float32).reshape(-1, 4)
    return YoloView(100, 50, at, np.array(scores, np.float32), np.array(classes, np.int64), points, maps, frame)


def test_the_pass_finds_what_the_detector_finds(yolo, scene):
    seen, found = yolo.look(scene), load_detector(FOLDER).detect(scene)
    assert len(found.scores) > 0
    assert np.array_equal(seen.boxes, found.boxes) and np.array_equal(seen.scores, found.scores)
    assert np.array_equal(seen.classes, found.classes)


def test_one_slot_per_class_is_the_older_extractor_with_a_mask(yolo, scene):
    slots = DetectionSlots(yolo, yolo.classes)
    values = slots.extract(scene, 7)
    old = best_per_class(load_detector(FOLDER).detect(scene), len(yolo.classes), 240, 240)
    assert values.stamp == 7 and values.values.shape == (slots.tokens, slots.channels)
    assert values.values[:, :5] == pytest.approx(old, abs=1e-6)
    assert np.array_equal(values.values[:, -1] > 0, old[:, 4] > 0)


def test_slots_hold_the_best_of_each_class_in_our_order(yolo):
    first, second = yolo.classes[:2]
    slots = DetectionSlots(yolo, {"ours_b": second, "ours_a": first}, slots=2)
    found = view([[0, 0, 20, 10], [10, 20, 30, 40], [50, 30, 60, 40], [0, 0, 4, 4]], [0.9, 0.8, 0.7, 0.6], [0, 0, 1, 0])
    values = slots.values(found)
    assert values[:, 4].tolist() == pytest.approx([0.7, 0.0, 0.9, 0.8])
    assert values[:, -1].tolist() == [1, 0, 1, 1]
    assert values[2, :4] == pytest.approx([0.1, 0.1, 0.2, 0.2])
    assert (values[1] == 0).all()
    assert slots.identity()["class_map"] == {"ours_b": 1, "ours_a": 0}


def test_lacking_classes_are_named_with_what_is_near():
    with pytest.raises(ExtractorError, match=r"the classes mug, sports bal; it has cup, sports ball\. Is 'sports ball' meant"):
        class_map(["mug", "cup", "sports bal"], ("cup", "sports ball"))
    assert class_map({"ball": "sports ball"}, ("cup", "sports ball")) == {"ball": 1}
    with pytest.raises(ExtractorError, match="each once"):
        class_map(["cup", "cup"], ("cup",))


def test_keypoints_come_in_the_images_pixels(pose):
    image = np.random.default_rng(0).integers(0, 255, (48, 96, 3), dtype=np.uint8)
    seen = pose.look(image)
    assert pose.keypoints == 4 and seen.keypoints.shape == (len(seen.scores), 4, 3) and len(seen.scores) > 1
    with torch.inference_mode():
        import cv2

        square = np.full((64, 64, 3), 114, np.uint8)
        square[16:48] = cv2.resize(image, (64, 32), interpolation=cv2.INTER_LINEAR)
        raw = pose.detector.network(torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255)[0][0].numpy()
    best = np.argmax(raw[4:6].max(axis=0))
    expected = raw[6:, best].reshape(4, 3)
    assert seen.scores[0] == pytest.approx(raw[4:6].max())
    assert seen.keypoints[0, :, 0] == pytest.approx(expected[:, 0] * 1.5, abs=1e-3)
    assert seen.keypoints[0, :, 1] == pytest.approx((expected[:, 1] - 16) * 1.5, abs=1e-3)
    assert seen.keypoints[0, :, 2] == pytest.approx(expected[:, 2])
    slots = DetectionSlots(pose, ["cup", "hand"], slots=2)
    values = slots.extract(image, 0).values
    assert slots.channels == 5 + 12 + 1 and values.shape == (4, 18)
    row = 0 if seen.classes[0] == 0 else 2
    assert values[row, 5:8] == pytest.approx(seen.keypoints[0, 0] / [96, 48, 1], abs=1e-6)


def test_maps_are_what_the_head_reads(yolo, scene):
    given = {}
    head = yolo.detector.network.model[-1]
    hook = head.register_forward_pre_hook(lambda module, arguments: given.update(maps=[m[0].clone() for m in arguments[0]]))
    maps = yolo.look(scene).maps
    hook.remove()
    assert len(maps) == 3 and all(torch.equal(a, b) for a, b in zip(maps, given["maps"], strict=True))
    assert not any(layer._forward_hooks for layer in yolo.detector.network.model)  # none left behind


def test_region_means_are_exact_for_known_maps():
    ramp = torch.arange(8.0).repeat(4, 1)[None]  # value = column, of 8 over 100 pixels: 12.5 each
    frame = (0.0, 0.0, 100.0, 50.0)
    assert box_mean(ramp, np.array([25, 0, 50, 50]), frame) == pytest.approx([2.5])
    assert box_mean(ramp, np.array([31.25, 10, 50, 20]), frame) == pytest.approx([(0.5 * 2 + 1 * 3) / 1.5])
    assert box_mean(ramp, np.array([99.0, 10, 99.0, 10]), frame) == pytest.approx([7.0])  # no area: the cell it lies in
    padded = (0.0, -25.0, 100.0, 75.0)
    rows = torch.arange(4.0)[:, None].repeat(1, 8)[None]
    assert box_mean(rows, np.array([0, 0, 100, 25.0]), padded) == pytest.approx([1.0])


def test_regions_follow_what_lies_in_the_box(yolo, scene):
    regions = RegionFeatures(yolo, yolo.classes, slots=1)
    values = regions.extract(scene, 0).values
    assert regions.channels == sum(yolo.widths) + 6 and (values[:, -1] == 1).any()
    seen = regions.last
    row = int(np.flatnonzero(values[:, -1])[0])
    detection = int(np.flatnonzero(seen.classes == row)[0])
    assert values[row, : yolo.widths[0]] == pytest.approx(box_mean(seen.maps[0], seen.boxes[detection], seen.frame))
    absent = RegionFeatures(yolo, yolo.classes).extract(np.zeros((240, 240, 3), np.uint8), 0).values
    assert (absent[absent[:, -1] == 0] == 0).all()


def test_neck_tokens_cover_the_image_and_mask_the_margin(yolo, scene):
    wide = np.ascontiguousarray(scene[60:180])
    neck = NeckTokens(yolo, (120, 240), grid=(4, 4), levels=(0, 2))
    values = neck.extract(wide, 0).values.reshape(2, 16, -1)
    assert neck.tokens == 32 and neck.channels == max(yolo.widths[0], yolo.widths[2]) + 2 + 1
    inside = np.array([0, 1, 1, 0]).repeat(4).astype(bool)  # the outer rows are grey margin
    assert np.array_equal(inside_image(neck.last, (4, 4)), inside)
    assert np.array_equal(values[0, :, -1] > 0, inside) and (values[:, ~inside] == 0).all()
    height = neck.last.maps[0].shape[1]
    cell = neck.last.maps[0][:, height // 4 : height // 2, : height // 4].mean(dim=(1, 2)).numpy()
    assert values[0, 4, : yolo.widths[0]] == pytest.approx(cell, abs=1e-5)
    assert values[1, 4, -3:].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda y: DetectionSlots(y, y.classes, slots=0), "at least 1"),
        (lambda y: NeckTokens(y, (240, 240), levels=(3,)), "neck levels"),
        (lambda y: NeckTokens(y, (240, 240), grid=(50, 50)), "at most"),
        (lambda y: NeckTokens(y, (240, 240)).extract(np.zeros((120, 240, 3), np.uint8), 0), "240 by 120 pixels"),
        (lambda y: y.look(np.zeros((240, 240, 3), np.float32)), r"scaled to \[0, 1\] already"),
    ],
)
def test_refused_by_name(yolo, make, said):
    with pytest.raises(ExtractorError, match=said):
        make(yolo)


def test_identities_tell_the_settings_apart(yolo):
    name = yolo.classes[0]
    kinds = [
        DetectionSlots(yolo, [name]),
        DetectionSlots(yolo, [name], slots=2),
        DetectionSlots(yolo, {"x": name}),
        RegionFeatures(yolo, [name]),
        NeckTokens(yolo, (240, 240)),
        NeckTokens(yolo, (240, 240), levels=(2,)),
    ]
    identities = [str(k.identity()) for k in kinds]
    assert len(set(identities)) == len(kinds)
    assert DetectionSlots(yolo, [name]).identity() == kinds[0].identity()


def seen_at(tracker, stamp_ms, *boxes):
    at = np.array(boxes, np.float32).reshape(-1, 4)
    return dict(tracker.assign(at, stamp_ms * 1_000_000))


def test_an_object_keeps_its_row_when_another_scores_higher():
    tracker = SlotTracker(2, Tracking())
    left, right = [0, 0, 10, 10], [50, 0, 60, 10]
    assert seen_at(tracker, 0, left, right) == {0: 0, 1: 1} and tracker.ids == [1, 2]
    moved = [[51, 0, 61, 10], [1, 1, 11, 11]]  # the right one is now found more clearly
    assert seen_at(tracker, 80, *moved) == {0: 1, 1: 0} and tracker.ids == [1, 2]
    assert seen_at(tracker, 160, [52, 0, 62, 10]) == {1: 0}  # the left one is hidden: its row stays empty
    assert seen_at(tracker, 240, [53, 0, 63, 10], [2, 2, 12, 12]) == {0: 1, 1: 0} and tracker.ids == [1, 2]


def test_a_new_object_takes_a_free_row_then_that_of_the_longest_unseen():
    tracker = SlotTracker(2, Tracking(patience_s=1.0))
    a, b, c, d = ([x, 0, x + 10, 10] for x in (0, 30, 60, 90))
    assert seen_at(tracker, 0, a) == {0: 0}
    assert seen_at(tracker, 100, b) == {1: 0} and tracker.ids == [1, 2]
    assert seen_at(tracker, 200, b, c) == {0: 1, 1: 0} and tracker.ids == [3, 2]
    assert seen_at(tracker, 300, b, c, d) == {0: 1, 1: 0}  # no place: both are there
    assert seen_at(tracker, 1400) == {} and tracker.ids == [0, 0]
    assert seen_at(tracker, 1500, c) == {0: 0} and tracker.ids == [4, 0]


def test_an_earlier_stamp_is_another_episode():
    tracker = SlotTracker(1, Tracking())
    seen_at(tracker, 500, [0, 0, 10, 10])
    assert seen_at(tracker, 0, [50, 0, 60, 10], [0, 0, 10, 10]) == {0: 0} and tracker.ids == [1]
    assert seen_at(tracker, 0, [0, 0, 10, 10], [50, 0, 60, 10]) == {0: 1}  # the same picture again: the same object


def test_the_greatest_overlap_wins_whatever_the_score():
    tracker = SlotTracker(2, Tracking(least_iou=0.1))
    seen_at(tracker, 0, [0, 0, 10, 10], [8, 0, 18, 10])
    assert seen_at(tracker, 80, [7, 0, 17, 10], [1, 0, 11, 10]) == {0: 1, 1: 0}
    assert seen_at(SlotTracker(2, Tracking()), 0) == {}


def test_slots_that_track(yolo):
    name = yolo.classes[0]
    tracked = DetectionSlots(yolo, [name], slots=2, tracking=Tracking())
    plain = DetectionSlots(yolo, [name], slots=2)
    boxes = [[0, 0, 20, 10], [50, 20, 70, 40]]
    first, swapped = view(boxes, [0.9, 0.8], [0, 0]), view(boxes[::-1], [0.95, 0.9], [0, 0])
    for slots, kept in ((tracked, True), (plain, False)):
        before, after = slots.values(first, 0), slots.values(swapped, 80_000_000)
        assert np.array_equal(before[:, 0], after[:, 0]) == kept
    assert tracked.ids.tolist() == [1, 2] and plain.ids.tolist() == [0, 0]
    assert tracked.identity()["tracking"] == {"least_iou": 0.2, "patience_s": 0.5} and "tracking" not in plain.identity()
    tracked.values(view([], [], []), 160_000_000)
    assert (tracked.values(view([], [], []), 160_000_000) == 0).all()


@pytest.mark.parametrize("values", [{"least_iou": 0.0}, {"least_iou": 1.5}, {"patience_s": 0.0}])
def test_tracking_that_makes_no_sense_is_refused(values):
    with pytest.raises(ExtractorError, match="expected an overlap above 0"):
        Tracking(**values)
