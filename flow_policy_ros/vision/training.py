"""Training a detector: a plain loop over ultralytics' network and loss, in memory, without internet or side files.

``vision.dataset`` holds the images, ``vision.detector_quality`` measures the result, ``cli.train_detector`` is the
command.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from flow_policy_ros.vision.dataset import LabelledImages, augment, fit
from flow_policy_ros.vision.detector import DetectorError, build_network, file_sha256
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
    """Where training stands: ``step`` of ``steps``; ``loss`` the sum of the box, class and distribution losses."""

    step: int
    steps: int
    loss: float


def architecture_of(model: str) -> dict[str, Any]:
    """The description of an ultralytics model by name (``yolo11n.yaml``, ``yolo12n.yaml``, …) or of a YAML file.

    Raises ``DetectorError`` for a name that ultralytics does not ship.
    """
    import_ultralytics()
    from ultralytics.nn.tasks import yaml_model_load

    name = model if model.endswith((".yaml", ".yml")) else f"{model}.yaml"
    try:
        return dict(yaml_model_load(name))
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise DetectorError(
            f"no model '{model}' in ultralytics ({error}); give a name such as yolo11n.yaml or yolo12n.yaml."
        ) from error


def train(
    data: LabelledImages,
    architecture: dict[str, Any],
    image_size: int,
    schedule: Schedule,
    seed: int,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Any:
    """The trained network, its weights averaged over the last steps. Equal inputs, threads and versions: equal weights."""
    import_ultralytics()
    from ultralytics.cfg import get_cfg

    torch.manual_seed(seed)
    generator = np.random.default_rng([seed, 2])
    network = build_network(architecture, data.classes).to(memory_format=torch.channels_last).train()
    network.args = get_cfg()  # the loss reads its weights there
    average = copy.deepcopy(network).eval()
    squares = [fit(image, rows, image_size) for image, rows in zip(data.images, data.boxes, strict=True)]
    per_epoch = max(1, len(squares) // schedule.batch)
    steps = per_epoch * schedule.epochs
    optimizer = torch.optim.AdamW(_parameter_groups(network, schedule.weight_decay), lr=schedule.learning_rate)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: _rate(k / steps, schedule.warmup_fraction))
    for step in range(steps):
        if step % per_epoch == 0:
            order = generator.permutation(len(squares))
        first = (step % per_epoch) * schedule.batch
        chosen = [squares[i] for i in order[first : first + schedule.batch]]
        batch = _batch([augment(image, rows, generator) for image, rows in chosen], image_size)
        total, parts = network(batch)
        optimizer.zero_grad(set_to_none=True)
        total.sum().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        rate.step()
        _average_into(average, network, min(schedule.average_decay, (1 + step) / (10 + step)))
        loss = float(sum(float(v) for v in (parts.values() if isinstance(parts, dict) else parts)))
        report(Progress(step + 1, steps, loss))
    return average


def _rate(done: float, warmup: float) -> float:
    """Factor on the learning rate after a fraction ``done`` of the steps: a linear rise, then half a cosine to 1 %."""
    if done < warmup:
        return 0.01 + 0.99 * done / warmup
    return float(0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * (done - warmup) / (1 - warmup))))


def _batch(pairs: list[tuple[Any, Any]], size: int) -> dict[str, torch.Tensor]:
    """What ultralytics' loss takes: images (B, 3, S, S) in [0, 1]; boxes (K, 4) as centre and size in [0, 1]."""
    pixels = torch.from_numpy(np.stack([image for image, _ in pairs])).permute(0, 3, 1, 2).float().div_(255.0)
    rows = torch.from_numpy(np.concatenate([rows for _, rows in pairs]).astype(np.float32))
    corners = rows[:, 1:] / size
    return {
        "img": pixels,
        "cls": rows[:, :1],
        "bboxes": torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1),
        "batch_idx": torch.repeat_interleave(torch.arange(len(pairs)), torch.tensor([len(rows) for _, rows in pairs])).float(),
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
    save_file(weights, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)  # save_file makes it readable for its owner alone
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
