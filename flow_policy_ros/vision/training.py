"""Training a detector: a plain loop over ultralytics' network and loss, in memory, without internet or side files.

``vision.dataset`` holds the images, ``vision.training_state`` what an interrupted training needs to go on,
``vision.detector_quality`` measures the result, ``cli.train_detector`` is the command. All randomness is keyed by (seed, epoch or
step), so that a training that was interrupted gives the weights that it would have given.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from flow_policy_ros.vision.dataset import BOX, LabelledImages, Squares, augment
from flow_policy_ros.vision.detector import DetectorError, Weights, build_network, file_sha256
from flow_policy_ros.vision.pretrained import default_device
from flow_policy_ros.vision.tensor_file import write_tensors
from flow_policy_ros.vision.training_state import load_state, save_state
from flow_policy_ros.vision.ultralytics_setup import import_ultralytics


@dataclass(frozen=True)
class Schedule:
    """How to train: passes over the images, images per step, AdamW's peak learning rate, averaging of the weights."""

    epochs: int = 25
    batch: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 5e-4
    warmup_fraction: float = 0.05
    average_decay: float = 0.995


@dataclass(frozen=True)
class Progress:
    """Where training stands: ``step`` of ``steps``; ``loss`` the sum of the box, class and other losses."""

    step: int
    steps: int
    loss: float


class TrainingStopped(Exception):
    """Training that was asked to stop after ``step`` steps; its state was written."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after {step} steps")
        self.step = step


def architecture_of(model: str) -> dict[str, Any]:
    """The description of an ultralytics model by name (``yolo11n.yaml``, ``yolo12n.yaml``, ``yolo11n-pose.yaml``, …) or of a file.

    Raises ``DetectorError`` for a name that ultralytics does not ship, or a model for neither boxes nor keypoints.
    """
    import_ultralytics()
    from ultralytics.nn.tasks import yaml_model_load

    name = model if model.endswith((".yaml", ".yml")) else f"{model}.yaml"
    try:
        architecture = dict(yaml_model_load(name))
        head = str(architecture["head"][-1][2])
    except (OSError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DetectorError(
            f"no model '{model}' in ultralytics ({error}); give a name such as yolo11n.yaml or yolo12n.yaml."
        ) from error
    if not head.endswith(("Detect", "Pose", "Pose26")):
        raise DetectorError(
            f"model '{model}' ends in {head}, expected Detect (boxes) or Pose (boxes with keypoints); give a name such as "
            "yolo11n.yaml or yolo11n-pose.yaml."
        )
    return architecture


def with_keypoints(architecture: dict[str, Any], data: LabelledImages) -> dict[str, Any]:
    """A pose model's description for the keypoints of ``data``; another's as it is."""
    return {**architecture, "kpt_shape": [data.keypoints, 3]} if "kpt_shape" in architecture else architecture


def train(
    data: LabelledImages,
    architecture: dict[str, Any],
    image_size: int,
    schedule: Schedule,
    seed: int,
    report: Callable[[Progress], None] = lambda progress: None,
    *,
    start: Weights | None = None,
    state: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
    device: str = "cpu",
) -> Any:
    """The trained network, on the CPU, its weights averaged over the last steps. Equal inputs, threads and versions: equal weights.

    ``start`` are another detector's weights, taken where names and shapes agree. ``state`` is a file: what it holds of the same
    training is gone on with, and it is written after every epoch and when ``stop`` becomes true, which raises
    ``TrainingStopped``. Raises ``DetectorError`` for a state of another training.
    """
    import_ultralytics()
    from ultralytics.cfg import get_cfg

    place = torch.device(default_device(device))
    torch.manual_seed(seed)
    network = build_network(architecture, data.classes)
    if start is not None:
        take_weights(network, start)
    else:
        begin_at_sizes(network, data, image_size)
    network = network.to(place, memory_format=torch.channels_last).train()
    network.args = get_cfg(overrides={"epochs": schedule.epochs})  # the loss reads its weights there
    average = copy.deepcopy(network).eval()
    network.criterion = network.init_criterion()
    squares = Squares(data, image_size)
    per_epoch = max(1, len(squares) // schedule.batch)
    steps = per_epoch * schedule.epochs
    optimizer = torch.optim.AdamW(_parameter_groups(network, schedule.weight_decay), lr=schedule.learning_rate)
    run = _identity(data, architecture, image_size, schedule, seed, start)
    done = load_state(state, run, network, average, optimizer) if state is not None else 0
    for _ in range(done // per_epoch):
        _epoch_is_over(network)
    for step in range(done, steps):
        if stop():
            if state is not None:
                save_state(state, run, step, network, average, optimizer)
            raise TrainingStopped(step)
        order = np.random.default_rng([seed, 2, step // per_epoch]).permutation(len(squares))
        generator = np.random.default_rng([seed, 3, step])
        first = (step % per_epoch) * schedule.batch
        chosen = [squares[int(i)] for i in order[first : first + schedule.batch]]
        batch = _batch([augment(image, rows, generator) for image, rows in chosen], image_size)
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * _rate(step / steps, schedule.warmup_fraction)
        total, parts = network({name: values.to(place) for name, values in batch.items()})
        loss = float(sum(float(v) for v in (parts.values() if isinstance(parts, dict) else parts)))
        if not np.isfinite(loss):
            raise DetectorError(f"the loss is {loss} at step {step + 1} of {steps}; lower --learning-rate.")
        optimizer.zero_grad(set_to_none=True)
        total.sum().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        _average_into(average, network, min(schedule.average_decay, (1 + step) / (10 + step)))
        if (step + 1) % per_epoch == 0:
            _epoch_is_over(network)
            if state is not None:
                save_state(state, run, step + 1, network, average, optimizer)
        report(Progress(step + 1, steps, loss))
    return average.to("cpu")


def take_weights(network: Any, start: Weights) -> int:
    """Copy what ``network`` has by name and shape too; returns how many tensors. Raises ``DetectorError`` for none at all."""
    own = network.state_dict()
    shared = {name: value for name, value in start.tensors.items() if name in own and own[name].shape == value.shape}
    if not shared:
        raise DetectorError("the detector to start from shares no weights with the model; give one of the same architecture.")
    network.load_state_dict(shared, strict=False)
    return len(shared)


def begin_at_sizes(network: Any, data: LabelledImages, image_size: int) -> None:
    """Let an untrained network's first boxes be as large as the labelled ones, the small ones at its finest level.

    Ultralytics' first boxes are 15 cells wide. Around a smaller object such a box counts as a miss; the object is then taught as
    background, and on few pictures a whole class may never be found. Heads that predict distances directly are left as they are.
    """
    head = network.model[-1]
    halves = [(rows[:, 3:5] - rows[:, 1:3]).mean(axis=1) / 2 * image_size / max(data.images[i].shape[:2]) for i, rows in _few(data)]
    sizes = np.concatenate(halves) if halves else np.zeros(0)
    if head.reg_max < 2 or not len(sizes):
        return
    bins = torch.arange(head.reg_max, dtype=torch.float32)
    for level, branch in enumerate(head.cv2):
        half = float(np.quantile(sizes, (level + 0.5) / len(head.cv2)))
        cells = min(max(half / float(head.stride[level]), 0.5), head.reg_max / 2)
        with torch.no_grad():
            branch[-1].bias.view(4, -1).copy_(-((bins - cells) ** 2) / 2)


def _few(data: LabelledImages) -> list[tuple[int, Any]]:
    """Up to a hundred labelled images, evenly over all: their numbers and rows."""
    labelled = [i for i, rows in enumerate(data.boxes) if len(rows)]
    return [(i, data.boxes[i]) for i in labelled[:: max(1, len(labelled) // 100)]]


def _epoch_is_over(network: Any) -> None:
    """Losses of end-to-end models shift their weights from epoch to epoch."""
    if hasattr(network.criterion, "update"):
        network.criterion.update()


def _identity(
    data: LabelledImages, architecture: dict[str, Any], image_size: int, schedule: Schedule, seed: int, start: Weights | None
) -> dict[str, Any]:
    """What must be equal for a training to be gone on with, in plain JSON types."""
    described = {key: value for key, value in architecture.items() if key not in ("nc", "yaml_file")}
    content: dict[str, Any] = {
        "architecture": described,
        "image_size": image_size,
        "schedule": asdict(schedule),
        "seed": seed,
        "start": start.sha256 if start is not None else None,
        "classes": list(data.classes),
        "images": len(data.images),
        "labels": [round(float(sum(np.abs(rows).sum() for rows in data.boxes)), 3), sum(len(rows) for rows in data.boxes)],
    }
    return dict(json.loads(json.dumps(content)))


def _rate(done: float, warmup: float) -> float:
    """Factor on the learning rate after a fraction ``done`` of the steps: a linear rise, then half a cosine to 1 %."""
    if done < warmup:
        return 0.01 + 0.99 * done / warmup
    return float(0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * (done - warmup) / (1 - warmup))))


def _batch(pairs: list[tuple[Any, Any]], size: int) -> dict[str, torch.Tensor]:
    """What ultralytics' loss takes: images (B, 3, S, S) in [0, 1]; boxes (K, 4) as centre and size, and keypoints (K, P, 3), in
    [0, 1]."""
    pixels = torch.from_numpy(np.stack([image for image, _ in pairs])).permute(0, 3, 1, 2).float().div_(255.0)
    rows = torch.from_numpy(np.concatenate([rows for _, rows in pairs]).astype(np.float32))
    corners = rows[:, BOX] / size
    keypoints = rows[:, 5:].reshape(len(rows), -1, 3) / torch.tensor([size, size, 1.0])
    return {
        "img": pixels,
        "cls": rows[:, :1],
        "bboxes": torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1),
        "batch_idx": torch.repeat_interleave(torch.arange(len(pairs)), torch.tensor([len(rows) for _, rows in pairs])).float(),
        "keypoints": keypoints,
    }


def _parameter_groups(network: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Decay acts on convolution weights alone, not on biases and norms."""
    decayed = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    free = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


@torch.no_grad()
def _average_into(average: Any, network: Any, decay: float) -> None:
    for kept, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if kept.dtype.is_floating_point:
            kept.lerp_(new, 1 - decay)


def save_detector(
    folder: str | Path,
    network: Any,
    architecture: dict[str, Any],
    model: str,
    classes: tuple[str, ...],
    image_size: int,
    training: dict[str, Any],
) -> Path:
    """Write a detector folder; weights in half precision. ``training`` says how it was made. Returns the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().half().contiguous()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    write_tensors(folder / "model.safetensors", weights)
    described = {key: value for key, value in architecture.items() if key not in ("nc", "yaml_file")}
    (folder / "architecture.yaml").write_text(yaml.safe_dump({"nc": len(classes), **described}, sort_keys=False))
    content = {
        "model": model,
        "image_size": image_size,
        "classes": list(classes),
        "weights_sha256": file_sha256(folder / "model.safetensors"),
        "metrics": {},
        "training": training,
    }
    (folder / "detector.json").write_text(json.dumps(content, indent=1) + "\n")
    return folder


def add_metrics(folder: str | Path, metrics: dict[str, Any]) -> None:
    """Put measured errors into a detector folder's ``detector.json``."""
    path = Path(folder) / "detector.json"
    content = json.loads(path.read_text())
    content["metrics"] = metrics
    path.write_text(json.dumps(content, indent=1) + "\n")
