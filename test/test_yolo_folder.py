"""A user's data set in the YOLO layout: read as ultralytics documents it, and every planted fault is named and counted."""

from pathlib import Path
from zlib import crc32

import cv2
import numpy as np
import pytest
import yaml

from flow_policy_ros.vision.dataset import DatasetError, LabelledImages, Squares, augment, fit, write_yolo_folder
from flow_policy_ros.vision.yolo_findings import KEPT, MENDED, REFUSED, SKIPPED, TREATMENT
from flow_policy_ros.vision.yolo_folder import label_path, read_yolo_folder
from flow_policy_ros.vision.yolo_labels import Keypoints, LabelFault, parse

NAMES = ["cup", "ball"]


def picture(seed):
    return np.random.default_rng(seed).integers(0, 255, (30, 40, 3), dtype=np.uint8)


def add(folder, split, name, labels, image=None):
    path = folder / "images" / split / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture(crc32(f"{split}/{name}".encode())) if image is None else image)
    if labels is not None:
        text = folder / "labels" / split / f"{name}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(labels)
    return path


def described(folder, **more):
    (folder / "data.yaml").write_text(yaml.safe_dump({"train": "images/train", "val": "images/val", "names": NAMES, **more}))


@pytest.fixture
def folder(tmp_path):
    """Six pictures to train on and two to measure with, both classes in both, nothing wrong with any."""
    described(tmp_path)
    for i in range(6):
        add(tmp_path, "train", f"t{i}", f"{i % 2} 0.5 0.5 0.2 0.4\n")
    for i in range(2):
        add(tmp_path, "val", f"v{i}", f"{i} 0.25 0.5 0.1 0.2\n")
    return tmp_path


def found(folder, **options):
    return {finding.kind: finding for finding in read_yolo_folder(folder, **options).findings}


def test_boxes_come_in_pixels_from_their_splits(folder):
    read = read_yolo_folder(folder)
    assert read.findings == () and read.train.classes == ("cup", "ball")
    assert (len(read.train.images), len(read.val.images)) == (6, 2)
    assert read.train.boxes[1][0].tolist() == pytest.approx([1, 16, 9, 24, 21])
    assert read.train.images[0].shape == (30, 40, 3)
    on_disk = cv2.imread(str(folder / "images/train/t3.png"))[..., ::-1]
    assert np.array_equal(read.train.images[3], on_disk)
    first, second = read.train.split(0.34, 0)
    assert (len(first.images), len(second.images)) == (4, 2) and len(second.boxes) == 2


def test_what_it_writes_it_reads(tmp_path):
    rows = np.array([[1, 4, 5, 20, 25, 10, 12, 1, 0, 0, 0]], dtype=np.float32)
    data = LabelledImages(("a", "b"), [picture(0), picture(1)], [rows, rows[:0]], keypoints=2)
    write_yolo_folder(data, tmp_path)
    back = read_yolo_folder(tmp_path, pose=True)
    assert back.val is None and back.train.keypoints == 2  # train and val are the same folder: nothing is set apart
    assert back.train.boxes[0] == pytest.approx(rows, abs=1e-3) and back.train.boxes[1].shape == (0, 11)
    assert np.array_equal(back.train.images[1], picture(1))


@pytest.mark.parametrize(
    "change",
    [
        lambda f: described(f, names={0: "cup", 1: "ball"}),
        lambda f: described(f, path=str(f)),
        lambda f: described(f, path="../elsewhere", train="../images/train", val="../images/val"),  # as labelling tools export it
        lambda f: described(f, train=["images/train"], nc=2),
        lambda f: (f / "data.yaml").rename(f / "cups.yaml"),
        lambda f: (f / "data.yaml").write_text("\ufeff" + (f / "data.yaml").read_text(), encoding="utf-8"),
        lambda f: ((f / "t.txt").write_text("\n".join(f"./images/train/t{i}.png" for i in range(6))), described(f, train="t.txt")),
    ],
)
def test_the_ways_to_write_a_data_yaml(folder, change):
    change(folder)
    read = read_yolo_folder(folder)
    assert len(read.train.images) == 6 and len(read.val.images) == 2 and read.findings == ()


FAULTS = {
    "pictures that OpenCV cannot read": lambda f: (f / "images/train/t0.png").write_bytes(b""),
    "pictures smaller than 10 pixels": lambda f: add(f, "train", "t0", "0 0.5 0.5 0.1 0.1", np.zeros((9, 40, 3), np.uint8)),
    "pictures without a label file": lambda f: (f / "labels/train/t0.txt").unlink(),
    "pictures whose label file is empty": lambda f: (f / "labels/train/t0.txt").write_text(" \n"),
    "label files without a picture": lambda f: (f / "labels/train/lost.txt").write_text(""),
    "pictures that are both in train and in val": lambda f: add(f, "train", "t0", None, cv2.imread(str(f / "images/val/v0.png"))),
    "label files that are malformed": lambda f: (f / "labels/train/t0.txt").write_text("0 0.5 half 0.1 0.1"),
    "label files with a class that data.yaml does not name": lambda f: (f / "labels/train/t0.txt").write_text("2 0.5 0.5 0.1 0.1"),
    "label files with coordinates outside 0…1": lambda f: (f / "labels/train/t0.txt").write_text("0 16 15 8 12"),
    "boxes that reach beyond the image": lambda f: (f / "labels/train/t0.txt").write_text("0 0.9 0.5 0.4 0.1"),
    "boxes without area": lambda f: (f / "labels/train/t0.txt").write_text("0 0.5 0.5 0 0.1"),
    "labels that are there twice": lambda f: (f / "labels/train/t0.txt").write_text("0 0.5 0.5 0.1 0.1\n" * 2),
    "polygons": lambda f: (f / "labels/train/t0.txt").write_text("0 0.1 0.1 0.5 0.2 0.3 0.9"),
    "classes without a label in train": lambda f: described(f, names=[*NAMES, "hat"]),
    "classes without a label in val": lambda f: (f / "labels/val/v1.txt").write_text("0 0.5 0.5 0.1 0.1"),
    "data sets without any label": lambda f: [p.write_text("") for p in (f / "labels/train").iterdir()],
    "data sets of which most pictures cannot be used": lambda f: [p.write_bytes(b"") for p in (f / "images/train").iterdir()],
}


@pytest.mark.parametrize("kind", FAULTS)
def test_every_planted_fault_is_named_and_treated(folder, kind):
    FAULTS[kind](folder)
    becomes = TREATMENT[kind][0]
    if becomes == REFUSED:
        with pytest.raises(DatasetError, match=f"refused: 1 {kind}"):
            read_yolo_folder(folder)
        return
    read = read_yolo_folder(folder)
    finding = next(f for f in read.findings if f.kind == kind)
    assert finding.count == 1 and finding.becomes == becomes and becomes in str(finding)
    assert len(read.train.images) == (5 if becomes == SKIPPED else 6)
    if becomes == SKIPPED:
        with pytest.raises(DatasetError, match=f"skipped: 1 {kind}"):
            read_yolo_folder(folder, strict=True)
    else:
        assert becomes in (MENDED, KEPT) and len(read_yolo_folder(folder, strict=True).train.images) == 6


def test_there_is_a_planted_fault_for_every_finding():
    assert set(FAULTS) == set(TREATMENT) - {"keypoints"}


def test_findings_tell_where(folder):
    (folder / "labels/train/t1.txt").write_text("0 0.5 0.5 0.1 0.1\n0 16 15 8 12")
    example = found(folder)["label files with coordinates outside 0…1"].examples[0]
    assert example.endswith("t1.txt: line 2: 16, expected 0…1; are these pixels? Coordinates are fractions of the image")


def test_what_is_mended(folder):
    labels = folder / "labels/train/t0.txt"
    labels.write_text("0 0.9 0.5 0.4 0.2\n1 0.5 0.5 0 0.1\n0 0.1 0.1 0.5 0.2 0.3 0.9\n")
    rows = read_yolo_folder(folder).train.boxes[0]
    assert rows == pytest.approx(np.array([[0, 28, 12, 40, 18], [0, 4, 3, 20, 27]]), abs=1e-4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("names: [a, a]\ntrain: images/train", "names a more than once"),
        ("names: {0: a, 2: b}\ntrain: images/train", "without gaps"),
        ("train: images/train", "must name the classes"),
        ("names: [a]\nnc: 3\ntrain: images/train", "nc: 3 but names 1"),
        ("names: [a, b]\ntrain: images/nowhere\nval: images/val", "train is images/nowhere, which is at none of"),
        ("names: [a, b]\ntrain: 5\nval: images/val", "train: 5, expected a folder"),
        ("names: [a, b]\ntrain: labels/train\nval: images/val", "holds no pictures"),
        ("names: [a, b]\ntrain: images/train\nkpt_shape: [4]", r"expected \[number of keypoints, 2 or 3\]"),
        ("- a", "holds list"),
        ("names: [a", "cannot be read"),
    ],
)
def test_a_bad_data_yaml_is_refused_by_name(folder, content, said):
    (folder / "data.yaml").write_text(content)
    with pytest.raises(DatasetError, match=said):
        read_yolo_folder(folder)


def test_a_folder_without_data_yaml_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"data\.yaml cannot be read"):
        read_yolo_folder(tmp_path)


def test_labels_lie_where_ultralytics_looks_for_them():
    assert label_path(Path("/d/images/a/images/b.c.jpg")) == Path("/d/images/a/labels/b.c.txt")
    assert label_path(Path("/d/pictures/b.jpg")) == Path("/d/pictures/b.txt")


def test_keypoints():
    three = parse("1 0.5 0.5 0.2 0.2 0.25 0.5 2 0.75 0.5 0", 2, Keypoints(2, 3), 40, 20)
    assert three.rows[0].tolist() == pytest.approx([1, 16, 8, 24, 12, 10, 10, 1, 0, 0, 0])
    two = parse("1 0.5 0.5 0.2 0.2 0.25 0.5 0 0", 2, Keypoints(2, 2), 40, 20)
    assert np.array_equal(two.rows, three.rows)
    with pytest.raises(LabelFault, match="holds 5 numbers, expected 11: 'class cx cy w h' and 2 keypoints of 3"):
        parse("1 0.5 0.5 0.2 0.2", 2, Keypoints(2, 3), 40, 20)


def test_keypoints_and_models_must_agree(folder):
    with pytest.raises(DatasetError, match="has no kpt_shape, but the model is one for keypoints"):
        read_yolo_folder(folder, pose=True)
    described(folder, kpt_shape=[1, 2])
    for path in (folder / "labels").rglob("*.txt"):
        path.write_text(path.read_text().strip() + " 0.5 0.5\n")
    assert read_yolo_folder(folder, pose=True).train.boxes[0].shape == (1, 8)
    assert found(folder)["keypoints"].becomes == MENDED
    assert read_yolo_folder(folder).train.boxes[0].shape == (1, 5)


def test_keypoints_move_with_the_picture():
    """A bright dot is the keypoint: it stays on it when the picture is fitted and moved."""
    image = np.zeros((40, 80, 3), np.uint8)
    image[20:24, 48:52] = 255
    rows = np.array([[0, 30, 10, 70, 35, 50, 22, 1]], dtype=np.float32)
    square, fitted = fit(image, rows, 128)
    assert fitted[0].tolist() == pytest.approx([0, 48, 48, 112, 88, 80, 67.2, 1])
    generator = np.random.default_rng(0)
    for _ in range(20):
        moved, there = augment(square, fitted, generator)
        y, x = np.nonzero(moved.max(axis=2) > 200)
        assert there[0, 5:7] == pytest.approx([x.mean() + 0.5, y.mean() + 0.5], abs=0.6)
    edge = np.array([[0, 0, 0, 128, 128, 127.5, 64, 1]], dtype=np.float32)
    left = [augment(square, edge, generator)[1][0, 7] for _ in range(40)]
    assert 0 < np.mean(left) < 1  # beyond the square it is not labelled


def test_squares_beyond_the_memory_are_read_anew(folder):
    data = read_yolo_folder(folder).train
    roomy, tight = Squares(data, 32), Squares(data, 32, kept_bytes=2 * 3 * 32 * 32)
    assert all(np.array_equal(roomy[i][0], tight[i][0]) for i in (0, 1, 2, 3, 0, 3))
    (folder / "images/train/t0.png").unlink()
    assert tight[0][0].shape == (32, 32, 3)
    (folder / "images/train/t5.png").unlink()
    with pytest.raises(DatasetError, match=r"t5\.png is not an image"):
        tight[5]
