"""What a run needs to go on exactly where it stopped: safetensors for the numbers, JSON for the rest, nothing pickled.

No state of a random generator is here because none lives across steps: every draw is keyed by (seed, step).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from flow_policy_ros.policy.checkpoint import write_text
from flow_policy_ros.training.config import LoopConfig, TrainError, check_same_run
from flow_policy_ros.vision.tensor_file import write_tensors

STATE = "state.safetensors"
STATE_INFO = "state.json"


@dataclass(frozen=True)
class Progress:
    """``step`` optimiser steps are done; the next batch is number ``batch`` of ``epoch``."""

    step: int = 0
    epoch: int = 0
    batch: int = 0


def save_state(
    folder: Path, config: LoopConfig, progress: Progress, model: nn.Module, ema: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:  # fmt: skip
    """Write the state of a run into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    shared = {value.data_ptr() for value in model.state_dict().values() if value.numel()}  # frozen weights: saved once
    tensors |= {f"ema/{name}": value for name, value in ema.state_dict().items() if value.data_ptr() not in shared}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in slots.items()}
    step = {"step": torch.tensor(progress.step)}  # tells whether the two files belong together
    write_tensors(folder / STATE, {name: value.detach().cpu().contiguous() for name, value in (tensors | step).items()})
    write_text(folder / STATE_INFO, json.dumps({"config": config.to_json(), "progress": asdict(progress)}, indent=2))


def has_state(folder: Path) -> bool:
    """Whether there is a run to continue."""
    return (folder / STATE_INFO).is_file()


def load_state(
    folder: Path, config: LoopConfig, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer
) -> Progress:
    """Put the saved numbers into ``model``, ``ema`` and ``optimizer``. Raises ``TrainError``."""
    try:
        info = json.loads((folder / STATE_INFO).read_text())
        tensors = load_file(folder / STATE)
        progress = Progress(**info["progress"])
        check_same_run(info["config"], config)
        if int(tensors.pop("step")) != progress.step:
            raise TrainError(f"{STATE} and {STATE_INFO} are of different steps")
        model.load_state_dict(_under(tensors, "model/"))
        ema.load_state_dict(_under(tensors, "model/") | _under(tensors, "ema/"))
        slots: dict[int, dict[str, Any]] = {}
        for name, value in _under(tensors, "optimizer/").items():
            index, slot = name.split("/")
            slots.setdefault(int(index), {})[slot] = value
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    except TrainError:
        raise
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise TrainError(
            f"training state in {folder} cannot be used ({' '.join(str(error).split())[:300]}). Give the data and options that the "
            "run began with; or another --out to begin anew."
        ) from error
    return progress


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
