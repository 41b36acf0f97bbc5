"""``flow_policy train-detector``: train a detector on simulated frames that label themselves, or on a YOLO dataset."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from numpy.random import Generator

    from flow_policy_ros.data.episodes import Episode
    from flow_policy_ros.vision.dataset import LabelledImages

HELP = "train an object detector on simulated frames or on a YOLO dataset"


@dataclass(frozen=True)
class Arguments:
    """Train an object detector on simulated frames that label themselves, or on a YOLO dataset. Uses no network."""

    out: Path
    """Folder for the detector (model.safetensors, architecture.yaml, detector.json, README.md, preview.jpg)."""
    task: str = "door"
    """Simulated task whose objects are detected: door, hammer, pen or relocate."""
    episodes: Path | None = None
    """Folder of recorded episodes; frames are rendered again at random ticks of them."""
    dataset: Path | None = None
    """Instead of --episodes: folder with images/, labels/ and data.yaml in the YOLO layout."""
    robot: Path | None = None
    """Robot file with the camera; default config/robots/adroit_<task>.yaml."""
    model: str = "yolo11n.yaml"
    """Any detection architecture of ultralytics by name, e.g. yolo11n.yaml, yolo12n.yaml, yolo26n.yaml."""
    image_size: int = 256
    """Side of the network's input, px; a multiple of 32."""
    images: int = 1000
    """Frames to render for training; a fifth as many are rendered from other episodes to measure the result."""
    epochs: int = 25
    """Passes over the training images."""
    batch: int = 8
    """Images per step."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW."""
    seed: int = 0
    """Seed of weights, frames and augmentation."""
    threads: int = 1
    """Threads of the tensor library."""
    json: Path | None = None
    """File for the figures: steps, samples_per_s, loss, validation, checkpoint."""


def main(argv: list[str]) -> int:
    """Returns 0; bad input raises ``ValueError``- or ``SimError``-derived errors."""
    import tyro

    return run(tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy train-detector"), argv)


def run(arguments: Arguments, argv: list[str]) -> int:
    """Train, measure, save."""
    import numpy as np
    import torch

    from flow_policy_ros.cli.outputs import make_folder, require_file
    from flow_policy_ros.training.progress import ProgressBar
    from flow_policy_ros.vision.dataset import DatasetError, read_yolo_folder
    from flow_policy_ros.vision.detector import DetectorError, load_detector
    from flow_policy_ros.vision.detector_quality import measure
    from flow_policy_ros.vision.training import Progress, Schedule, add_metrics, architecture_of, save_detector, train

    if (arguments.episodes is None) == (arguments.dataset is None):
        raise DatasetError("give either --episodes (a folder of recorded episodes) or --dataset (a YOLO folder), one of the two.")
    if arguments.image_size < 64 or arguments.image_size % 32:
        raise DetectorError(f"--image-size is {arguments.image_size}, expected a multiple of 32 from 64 up.")
    if min(arguments.images, arguments.epochs, arguments.batch, arguments.threads) < 1 or not arguments.learning_rate > 0:
        raise DetectorError("--images, --epochs, --batch, --threads and --learning-rate must be above zero.")
    require_file("--json", arguments.json)
    make_folder("--out", arguments.out)
    torch.set_num_threads(arguments.threads)
    architecture = architecture_of(arguments.model)
    if arguments.dataset is not None:
        training, held_out = read_yolo_folder(arguments.dataset).split(0.17, arguments.seed)
    else:
        training, held_out = _render(arguments)
    schedule = Schedule(epochs=arguments.epochs, batch=arguments.batch, learning_rate=arguments.learning_rate)
    losses: list[float] = []
    started = time.monotonic()
    bar = ProgressBar(max(1, len(training.images) // arguments.batch) * arguments.epochs, done=0)

    def report(progress: Progress) -> None:
        losses.append(progress.loss)
        bar.update(progress.step, f"loss {np.mean(losses[-50:]):.3f}")

    network = train(training, architecture, arguments.image_size, schedule, arguments.seed, report)
    bar.close()
    seconds = time.monotonic() - started
    loss = float(np.mean(losses[-50:]))
    how = {
        "command": "flow_policy train-detector " + shlex.join(argv),
        "images": len(training.images),
        "steps": len(losses),
        "loss": loss,
        "wall_s": round(seconds, 1),
        "torch": torch.__version__,
    }
    save_detector(arguments.out, network, architecture, arguments.model, training.classes, arguments.image_size, how)
    detector = load_detector(arguments.out, threads=arguments.threads)  # what is measured is what was written
    metrics = measure(detector, held_out)
    add_metrics(arguments.out, metrics)
    write_readme(arguments.out)
    _preview(detector, held_out, arguments.out / "preview.jpg")
    _print_table(metrics)
    figures = {
        "steps": len(losses),
        "samples_per_s": len(losses) * arguments.batch / seconds,
        "loss": loss,
        "validation": metrics,
        "checkpoint": str(arguments.out),
    }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def _render(arguments: Arguments) -> tuple[LabelledImages, LabelledImages]:
    """Frames for training and frames of other episodes for measuring."""
    import numpy as np

    from flow_policy_ros.data.episodes import EpisodeError, load_episodes
    from flow_policy_ros.resources import robot_file
    from flow_policy_ros.runtime.robot import load_robot
    from flow_policy_ros.sim.gl import SimError
    from flow_policy_ros.sim.robot import AdroitRobot

    assert arguments.episodes is not None
    robot = load_robot(arguments.robot or robot_file(f"adroit_{arguments.task}"))
    if not robot.cameras:
        raise SimError(f"robot file {robot.path} has no camera to render; add one under robot.cameras.")
    episodes = [e for e in load_episodes(arguments.episodes) if e.task == arguments.task and e.sim_state]
    if len(episodes) < 2:
        raise EpisodeError(
            f"{arguments.episodes} holds {len(episodes)} episodes of task '{arguments.task}' with simulator states, "
            "expected at least 2; record some with 'flow_policy demonstrate'."
        )
    generator = np.random.default_rng([arguments.seed, 3])
    order = generator.permutation(len(episodes))
    n_held_out = max(1, len(episodes) // 6)
    simulated = AdroitRobot(arguments.task, robot)
    parts = []
    for chosen, count, name in (
        (order[n_held_out:], arguments.images, "rendering"),
        (order[:n_held_out], max(1, arguments.images // 5), "rendering held-out"),
    ):
        picks = [_pick(episodes[int(generator.choice(chosen))], generator) for _ in range(count)]
        parts.append(_render_frames(simulated, picks, name))
    simulated.close()
    return parts[0], parts[1]


def _pick(episode: Episode, generator: Generator) -> tuple[Episode, int]:
    """A tick of an episode: half of them uniform in time, half uniform along the joints' path.

    A hand that has done its work rests for many ticks that look alike; the moving ones are those that matter.
    """
    import numpy as np

    path = np.cumsum(np.linalg.norm(np.diff(episode.position, axis=0, prepend=episode.position[:1]), axis=1))
    if generator.random() < 0.5 or path[-1] == 0:
        return episode, int(generator.integers(len(path)))
    return episode, int(np.searchsorted(path, generator.random() * path[-1]))


def _render_frames(simulated: Any, picks: list[tuple[Episode, int]], name: str) -> LabelledImages:
    import numpy as np
    from rich.progress import track

    from flow_policy_ros.sim.labels import CLASSES, label_boxes
    from flow_policy_ros.sim.segmentation import Segmentation
    from flow_policy_ros.vision.dataset import LabelledImages

    width, height, task = simulated.camera.width, simulated.camera.height, simulated.task.name
    classes = CLASSES[task]
    segmentation = Segmentation(simulated.model, width, height, task)
    images, boxes = [], []
    for episode, tick in track(picks, description=name):
        simulated.set_sim_state({field: values[tick] for field, values in episode.sim_state.items()})
        visible = segmentation.masks(simulated.data, simulated.camera_id)
        labels = label_boxes(simulated.model, simulated.data, simulated.camera_id, width, height, task, visible)
        rows = [(classes.index(label.class_name), *label.xyxy) for label in labels]
        images.append(simulated.render())
        boxes.append(np.array(rows, dtype=np.float32).reshape(-1, 5))
    segmentation.close()
    return LabelledImages(classes, images, boxes)


def _preview(detector: Any, data: LabelledImages, path: Path) -> None:
    """Detections on the first twelve held-out frames, side by side."""
    import cv2
    import numpy as np

    from flow_policy_ros.vision.overlay import draw

    tiles = [draw(image, detector.detect(image), detector.classes, scale=2) for image in data.images[:12]]
    tiles = [tile for tile in tiles if tile.shape == tiles[0].shape]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 4)
    sheet = np.concatenate([np.concatenate(tiles[i : i + 4], axis=1) for i in range(0, len(tiles), 4)])
    cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])


def write_readme(folder: Path) -> None:
    """How the detector in ``folder`` was made and how good it is, from its ``detector.json``."""
    content = json.loads((folder / "detector.json").read_text())
    made, metrics = content["training"], content["metrics"]
    lines = [
        f"# Detector: {content['model']} at {content['image_size']} px",
        "",
        f"Made by `{made['command']}`: {made['images']} images, {made['steps']} steps, {made['wall_s']:.0f} s. The",
        "architecture is ultralytics' (AGPL-3.0); the weights were trained from scratch. `preview.jpg` shows detections on",
        "held-out frames.",
        "",
        f"On {metrics['images']} held-out frames: mAP50 {metrics['map50']:.3f}, mAP50-95 {metrics['map50_95']:.3f}. Recall and",
        "precision are those of the best detection of each class; errors of its centre are in pixels.",
        "",
        "| class | labelled | recall | precision | median | mean | 95th percentile |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in _rows(metrics)]
    (folder / "README.md").write_text("\n".join(lines) + "\n")


def _rows(metrics: dict[str, Any]) -> list[list[str]]:
    """One row of text per class: name, labelled, recall, precision and the centre error's median, mean and p95."""
    rows = []
    for name, entry in metrics["classes"].items():
        error = entry.get("centre_error_px", {})
        numbers = [entry["recall"], entry["precision"], *(error.get(k) for k in ("median", "mean", "p95"))]
        rows.append([name, str(entry["labelled"]), *("–" if v is None else f"{v:.2f}" for v in numbers)])
    return rows


def _print_table(metrics: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{metrics['images']} held-out frames: mAP50 {metrics['map50']:.3f}, mAP50-95 {metrics['map50_95']:.3f}")
    for column in ("class", "labelled", "recall", "precision", "centre error px: median", "mean", "p95"):
        table.add_column(column)
    for row in _rows(metrics):
        table.add_row(*row)
    Console().print(table)
