"""A user's data set in the YOLO layout, looked through before anything is trained on it: every fault is named and counted.

``data.yaml`` holds ``names`` (a list, or numbers to names), ``train`` and ``val`` (a folder, a text file that lists pictures, or
several of them; from ``path`` where it is given), and ``kpt_shape`` for keypoints, as ultralytics documents it. The labels of
``images/a/b.jpg`` are in ``labels/a/b.txt`` (``vision.yolo_labels``). A picture without a label file shows none of the objects.

What would teach something wrong is refused: labels of unknown classes, no labels at all, most pictures unusable. A picture that
cannot be used is skipped whole, not only the faulty row: the object would else be taught as background.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flow_policy_ros.runtime.yaml_bounded import load_yaml
from flow_policy_ros.vision.dataset import DatasetError, FloatRows, LabelledImages, PictureFiles
from flow_policy_ros.vision.yolo_findings import (
    EMPTY,
    LEAST_SIDE,
    LEFT_KEYPOINTS,
    MOSTLY_UNUSABLE,
    NOT_LABELLED,
    ORPHANS,
    REFUSED,
    SHARED,
    SKIPPED,
    TINY,
    UNLABELLED,
    UNMEASURED,
    UNREADABLE,
    UNSEEN,
    Finding,
    Notes,
)
from flow_policy_ros.vision.yolo_labels import MALFORMED, Keypoints, LabelFault, parse

FORMATS = ("bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpeg2000", "jpg", "mpo", "png", "tif", "tiff", "webp")
MOST_SKIPPED = 0.5
"""Share of pictures that may be skipped; beyond, something is wrong with the data set as a whole."""


@dataclass(frozen=True)
class YoloFolder:
    """``train`` and ``val`` (None where data.yaml sets none apart), and what was found on the way."""

    train: LabelledImages
    val: LabelledImages | None
    findings: tuple[Finding, ...]


def read_yolo_folder(
    folder: str | Path,
    pose: bool = False,
    strict: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> YoloFolder:
    """Look through a data set: the folder with its ``data.yaml``, or that file itself. Pictures stay in their files.

    ``pose`` keeps keypoints, which the data set must then have; ``strict`` refuses what would be skipped. ``report`` is told how
    many pictures of how many are done. Raises ``DatasetError`` with every finding that is refused.
    """
    path, described = _description(Path(folder))
    classes = _classes(path, described)
    keypoints = _keypoints(path, described)
    if pose and not keypoints.count:
        raise DatasetError(
            f"{path} has no kpt_shape, but the model is one for keypoints; add it (e.g. kpt_shape: [4, 3]) with keypoints in the "
            "labels, or take a model for boxes, such as yolo11n.yaml."
        )
    notes = Notes()
    train = _pictures(path, described, "train")
    val = _pictures(path, described, "val") if described.get("val") else []
    if set(val) == set(train):
        val = []
    train = _without_shared(train, val, notes)
    total = len(train) + len(val)
    parts = []
    for paths, before in ((train, 0), (val, len(train))):
        parts.append(_part(paths, classes, keypoints, notes, lambda done, before=before: report(before + done, total)))  # type: ignore[misc]
    _orphans(train + val, notes)
    _judge(parts, classes, total, notes)
    if keypoints.count and not pose:
        notes.add(LEFT_KEYPOINTS, count=keypoints.count)
        parts = [LabelledImages(classes, p.images, [rows[:, :5] for rows in p.boxes]) for p in parts]
    findings = notes.findings()
    bad = [finding for finding in findings if finding.becomes == REFUSED or (strict and finding.becomes == SKIPPED)]
    if bad:
        raise DatasetError(f"{path.parent} cannot be trained on: " + ". ".join(str(finding) for finding in bad) + ".")
    return YoloFolder(parts[0], parts[1] if len(parts[1].images) else None, findings)


def _description(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The data set's YAML file and what it holds."""
    path = folder
    if folder.is_dir():
        files = sorted(folder.glob("*.yaml")) + sorted(folder.glob("*.yml"))
        path = files[0] if len(files) == 1 else folder / "data.yaml"
    try:
        content = load_yaml(path.read_text(encoding="utf-8-sig"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path} cannot be read ({str(error).strip()}); a YOLO data set has a data.yaml with names, train and val."
        ) from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path} holds {type(content).__name__}, expected names, train and val.")
    return path, content


def _classes(path: Path, described: dict[str, Any]) -> tuple[str, ...]:
    names = described.get("names")
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DatasetError(
            f"{path} must name the classes under 'names', as a list or as 0: first, 1: second without gaps; given: {names!r}."
        )
    classes = tuple(str(name) for name in names)
    twice = sorted(name for name, count in Counter(classes).items() if count > 1)
    if twice:
        raise DatasetError(f"{path} names {', '.join(twice)} more than once; give every class a name of its own.")
    if described.get("nc", len(classes)) != len(classes):
        raise DatasetError(f"{path} says nc: {described['nc']} but names {len(classes)} classes; make them agree.")
    return classes


def _keypoints(path: Path, described: dict[str, Any]) -> Keypoints:
    shape = described.get("kpt_shape")
    if shape is None:
        return Keypoints()
    whole = isinstance(shape, list) and len(shape) == 2 and all(type(n) is int for n in shape)
    if not (whole and shape[0] > 0 and shape[1] in (2, 3)):
        raise DatasetError(f"{path} has kpt_shape: {shape!r}, expected [number of keypoints, 2 or 3].")
    return Keypoints(*shape)


def _pictures(path: Path, described: dict[str, Any], split: str) -> list[Path]:
    """The files of a split, in the order of their names; ``images`` where a data.yaml names no split at all."""
    entries = described.get(split)
    if entries is None and split == "train" and not described.get("val"):
        entries = "images"
    entries = entries if isinstance(entries, list) else [entries]
    found: dict[Path, None] = {}
    for entry in entries:
        if not isinstance(entry, str):
            raise DatasetError(f"{path} has {split}: {entry!r}, expected a folder, or a text file that lists pictures.")
        place = _place(path, described.get("path"), entry, split)
        if place.is_dir():
            found |= dict.fromkeys(p for p in sorted(place.rglob("*")) if p.suffix[1:].lower() in FORMATS and p.is_file())
        else:
            lines = [line.strip() for line in place.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
            found |= dict.fromkeys(place.parent / line for line in lines)
    if not found:
        raise DatasetError(f"{path}: {split} ({', '.join(entries)}) holds no pictures ({', '.join(FORMATS)}).")
    return list(found)


def _place(path: Path, root: object, entry: str, split: str) -> Path:
    """Where ``entry`` is: from ``path:``, from the YAML's folder, or in it though it says ``../`` (exports of labelling tools)."""
    folder = path.parent
    roots = [folder / str(root)] if root else []
    tried = [base / entry for base in (*roots, folder)] + [folder / entry.removeprefix("../")]
    for place in tried:
        if place.exists():
            return place
    shown = ", ".join(str(place) for place in dict.fromkeys(tried))
    raise DatasetError(f"{path}: {split} is {entry}, which is at none of {shown}; correct path and {split}.")


def label_path(picture: Path) -> Path:
    """Where a picture's labels are: the last ``images`` of its path becomes ``labels``; beside it where there is none."""
    parts = list(picture.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _without_shared(train: list[Path], val: list[Path], notes: Notes) -> list[Path]:
    """The training pictures that are not in ``val``, by their bytes."""
    sizes: dict[int, set[str]] = {}
    for picture in val:
        if picture.is_file():
            sizes.setdefault(picture.stat().st_size, set()).add(_digest(picture))
    kept = []
    for picture in train:
        same = sizes.get(picture.stat().st_size) if sizes and picture.is_file() else None
        if same and _digest(picture) in same:
            notes.add(SHARED, str(picture))
        else:
            kept.append(picture)
    return kept


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _part(
    paths: list[Path], classes: tuple[str, ...], keypoints: Keypoints, notes: Notes, report: Callable[[int], None]
) -> LabelledImages:
    """The usable pictures among ``paths`` with their labels."""
    usable: list[Path] = []
    boxes: list[FloatRows] = []
    files = PictureFiles(paths)
    for i, picture in enumerate(paths):
        report(i + 1)
        try:
            height, width = files[i].shape[:2]
        except DatasetError:
            notes.add(UNREADABLE, str(picture))
            continue
        if min(height, width) < LEAST_SIDE:
            notes.add(TINY, str(picture))
            continue
        labels = label_path(picture)
        try:
            text = labels.read_text(encoding="utf-8") if labels.is_file() else ""
            parsed = parse(text, len(classes), keypoints, width, height)
        except UnicodeDecodeError:
            notes.add(MALFORMED, f"{labels}: is not text")
            continue
        except LabelFault as fault:
            notes.add(fault.kind, f"{labels}: {fault}")
            continue
        if not text.strip():
            notes.add(EMPTY if labels.is_file() else UNLABELLED, picture.name)
        for kind, count in parsed.mended.items():
            notes.add(kind, str(labels), count)
        usable.append(picture)
        boxes.append(parsed.rows)
    return LabelledImages(classes, PictureFiles(usable), boxes, keypoints.count)


def _orphans(pictures: list[Path], notes: Notes) -> None:
    """Label files in the folders of the pictures' labels that belong to no picture."""
    wanted = {label_path(picture) for picture in pictures}
    for folder in sorted({path.parent for path in wanted}):
        for path in sorted(folder.glob("*.txt")):
            if path not in wanted and path.name != "classes.txt" and any(part == "labels" for part in path.parts):
                notes.add(ORPHANS, str(path))


def _judge(parts: list[LabelledImages], classes: tuple[str, ...], total: int, notes: Notes) -> None:
    """What is wrong with the data set as a whole."""
    train, val = parts
    usable = len(train.images) + len(val.images)
    if total - usable > MOST_SKIPPED * total or usable < 2 or not train.images:
        notes.add(MOSTLY_UNUSABLE, f"{len(train.images)} of train and {len(val.images)} of val are usable, of {total}")
    if not any(len(rows) for rows in train.boxes):
        notes.add(NOT_LABELLED)
    for part, kind in ((train, UNSEEN), (val, UNMEASURED)):
        if part.images:
            for name in _unlabelled(part, classes):
                notes.add(kind, name)


def _unlabelled(part: LabelledImages, classes: tuple[str, ...]) -> Iterator[str]:
    there = {int(c) for rows in part.boxes for c in rows[:, 0]}
    return (name for c, name in enumerate(classes) if c not in there)
