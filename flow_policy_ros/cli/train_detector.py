"""``flow_policy train-detector``: train a detector on simulated frames that label themselves, or on a YOLO dataset."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from numpy.random import Generator

    from flow_policy_ros.data.episodes import Episode
    from flow_policy_ros.vision.dataset import LabelledImages
    from flow_policy_ros.vision.yolo_findings import Finding

HELP = "train an object detector on simulated frames or on a YOLO dataset"


@dataclass(frozen=True)
class Arguments:
    """Train an object detector on simulated frames that label themselves, or on a YOLO dataset. Uses no network."""

    out: Path
    """Folder for the detector (model.safetensors, architecture.yaml, detector.json, README.md, preview.jpg, previews/)."""
    task: str = "door"
    """Simulated task whose objects are detected: door, hammer, pen or relocate."""
    episodes: Path | None = None
    """Folder of recorded episodes; frames are rendered again at random ticks of them."""
    dataset: Path | None = None
    """Instead of --episodes: folder of your own pictures in the YOLO layout (images/, labels/, data.yaml with names, train, val).
    It is looked through first; what is wrong with it is said, skipped or refused."""
    strict: bool = False
    """Refuse a data set of which pictures would be skipped (unreadable ones, malformed labels)."""
    check: bool = False
    """Only look through the data set."""
    robot: Path | None = None
    """Robot file with the camera, or the name of one that ships; default config/robots/adroit_<task>.yaml."""
    model: str = "yolo11n.yaml"
    """Any detection or pose architecture of ultralytics by name, e.g. yolo11n.yaml, yolo26n.yaml, yolo11n-pose.yaml (keypoints)."""
    start: Path | None = None
    """Detector folder whose weights to train on from (where names and shapes agree), or a .pt file; fewer pictures will do."""
    allow_pickle: bool = False
    """Load --start from a .pt file, which executes code from it. Only for files you trust."""
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
    resume: bool = False
    """Continue an interrupted training in --out exactly; begin anew when there is none."""
    seed: int = 0
    """Seed of weights, frames and augmentation."""
    device: str = ""
    """Where to train, e.g. cpu or cuda:0; empty for the accelerator where there is one."""
    threads: int = 1
    """Threads of the tensor library."""
    json: Path | None = None
    """File for the figures: steps, samples_per_s, loss, validation, checkpoint."""


def main(argv: list[str]) -> int:
    """Returns 0, or 1 when interrupted; bad input raises ``ValueError``- or ``SimError``-derived errors."""
    import tyro

    return run(tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy train-detector"), argv)


def run(arguments: Arguments, argv: list[str]) -> int:
    """Train, measure, save."""
    import numpy as np
    import torch

    from flow_policy_ros.cli.detector_report import print_remarks, print_table, write_readme
    from flow_policy_ros.cli.outputs import make_folder, require_file
    from flow_policy_ros.training.progress import InterruptFlag, ProgressBar
    from flow_policy_ros.vision.dataset import DatasetError
    from flow_policy_ros.vision.detector import DetectorError, load_detector, load_weights
    from flow_policy_ros.vision.detector_preview import write_previews
    from flow_policy_ros.vision.detector_quality import measure
    from flow_policy_ros.vision.training import (
        Progress,
        Schedule,
        TrainingStopped,
        add_metrics,
        architecture_of,
        save_detector,
        train,
        with_keypoints,
    )

    if (arguments.episodes is None) == (arguments.dataset is None):
        raise DatasetError("give either --episodes (a folder of recorded episodes) or --dataset (a YOLO folder), one of the two.")
    if arguments.image_size < 64 or arguments.image_size % 32:
        raise DetectorError(f"--image-size is {arguments.image_size}, expected a multiple of 32 from 64 up.")
    if min(arguments.images, arguments.epochs, arguments.batch, arguments.threads) < 1 or not arguments.learning_rate > 0:
        raise DetectorError("--images, --epochs, --batch, --threads and --learning-rate must be above zero.")
    if arguments.check and arguments.dataset is None:
        raise DatasetError("--check looks through a data set; give one with --dataset.")
    require_file("--json", arguments.json)
    torch.set_num_threads(arguments.threads)
    architecture = architecture_of(arguments.model)
    start = load_weights(arguments.start, arguments.allow_pickle) if arguments.start is not None else None
    findings: tuple[Finding, ...] = ()
    if arguments.dataset is not None:
        training, held_out, findings = _read(arguments, pose="kpt_shape" in architecture)
        if arguments.check:
            print(f"{len(training.images)} pictures to train on, {len(held_out.images)} to measure with")
            return 0
    elif "kpt_shape" in architecture:
        raise DetectorError(f"--model {arguments.model} is for keypoints, which the simulator does not label; take yolo11n.yaml.")
    else:
        training, held_out = _render(arguments)
    make_folder("--out", arguments.out)
    architecture = with_keypoints(architecture, training)
    schedule = Schedule(epochs=arguments.epochs, batch=arguments.batch, learning_rate=arguments.learning_rate)
    state = arguments.out / "training" / "state.safetensors"
    if not arguments.resume:
        state.unlink(missing_ok=True)
    losses: list[float] = []
    began = time.monotonic()
    steps = max(1, len(training.images) // arguments.batch) * arguments.epochs
    bar: ProgressBar | None = None

    def report(progress: Progress) -> None:
        nonlocal bar
        bar = bar or ProgressBar(steps, done=progress.step - 1)
        losses.append(progress.loss)
        bar.update(progress.step, f"loss {np.mean(losses[-50:]):.3f}")

    try:
        with InterruptFlag() as flag:
            network = train(
                training, architecture, arguments.image_size, schedule, arguments.seed, report,
                start=start, state=state, stop=lambda: flag.raised, device=arguments.device,
            )  # fmt: skip
    except TrainingStopped as stopped:
        print(f"interrupted after {stopped.step} of {steps} steps; the same command with --resume goes on")
        return 1
    finally:
        if bar is not None:
            bar.close()
    seconds = time.monotonic() - began
    loss = float(np.mean(losses[-50:])) if losses else None
    how = {
        "command": "flow_policy train-detector " + shlex.join(argv),
        "images": len(training.images),
        "steps": steps,
        "loss": loss,
        "wall_s": round(seconds, 1),
        "torch": torch.__version__,
        "start": str(arguments.start) if arguments.start is not None else None,
        "findings": [str(finding) for finding in findings],
    }
    save_detector(arguments.out, network, architecture, arguments.model, training.classes, arguments.image_size, how)
    detector = load_detector(arguments.out, threads=arguments.threads)  # what is measured is what was written
    metrics = measure(detector, held_out)
    add_metrics(arguments.out, metrics)
    write_readme(arguments.out)
    write_previews(detector, held_out, arguments.out)
    state.unlink(missing_ok=True)
    if state.parent.is_dir() and not any(state.parent.iterdir()):
        state.parent.rmdir()
    print_table(metrics)
    print_remarks(metrics)
    figures = {
        "steps": steps,
        "samples_per_s": len(losses) * arguments.batch / seconds,
        "loss": loss,
        "validation": metrics,
        "checkpoint": str(arguments.out),
        "findings": [asdict(finding) for finding in findings],
    }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


HELD_OUT = 0.17
"""Share of a data set that is measured with where its data.yaml sets none apart."""


def _read(arguments: Arguments, pose: bool) -> tuple[LabelledImages, LabelledImages, tuple[Finding, ...]]:
    """Training and held-out part of the data set, and what was found when looking through it, which is printed."""
    from flow_policy_ros.cli.detector_report import print_findings
    from flow_policy_ros.training.progress import ProgressBar
    from flow_policy_ros.vision.yolo_folder import read_yolo_folder

    assert arguments.dataset is not None
    bar: ProgressBar | None = None

    def report(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or ProgressBar(total, done=0, title="looking through", unit="pictures")
        bar.update(done, "")

    try:
        read = read_yolo_folder(arguments.dataset, pose, arguments.strict, report)
    finally:
        if bar is not None:
            bar.close()
    print_findings(read.findings)
    if read.val is not None:
        return read.train, read.val, read.findings
    return *read.train.split(HELD_OUT, arguments.seed), read.findings


def _render(arguments: Arguments) -> tuple[LabelledImages, LabelledImages]:
    """Frames for training and frames of other episodes for measuring."""
    import numpy as np

    from flow_policy_ros.data.episodes import EpisodeError, load_episodes
    from flow_policy_ros.resources import robot_file
    from flow_policy_ros.runtime.robot import load_robot
    from flow_policy_ros.sim.gl import SimError
    from flow_policy_ros.sim.robot import AdroitRobot

    assert arguments.episodes is not None
    robot = load_robot(robot_file(arguments.robot or f"adroit_{arguments.task}"))
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
