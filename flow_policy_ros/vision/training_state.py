"""What an interrupted training of a detector needs to go on exactly: one safetensors file, nothing pickled.

It holds the network, the averaged network, the optimiser's moments and, as JSON in the file's header, the step and what was being
trained. A file is replaced at once or not at all. No state of a random generator is here because none lives across steps.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from flow_policy_ros.vision.detector import DetectorError
from flow_policy_ros.vision.tensor_file import write_tensors


def save_state(
    path: Path, run: dict[str, Any], step: int, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write the state after ``step`` steps; ``run`` (JSON types) says what is trained."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"network/{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"average/{name}": value for name, value in average.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in slots.items()}
    whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_tensors(path, whole, {"step": str(step), "run": json.dumps(run)})


def load_state(
    path: Path, run: dict[str, Any], network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> int:
    """Put the saved numbers into place; returns the steps done, 0 where there is no file.

    Raises ``DetectorError`` for a file of another training, naming what differs, or one that is damaged.
    """
    if not path.is_file():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
            step, theirs = int(said["step"]), json.loads(said["run"])
            different = sorted(key for key in {*run, *theirs} if run.get(key) != theirs.get(key))
            if different:
                raise DetectorError(
                    f"the training state {path} is of another training: {', '.join(different)} differ. Give the data and options "
                    "that it began with, or begin anew without --resume."
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
        network.load_state_dict(_under(tensors, "network/"))
        average.load_state_dict(_under(tensors, "average/"))
        slots: dict[int, dict[str, Any]] = {}
        for name, value in _under(tensors, "optimizer/").items():
            index, slot = name.split("/")
            slots.setdefault(int(index), {})[slot] = value
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, DetectorError):
            raise
        raise DetectorError(
            f"the training state {path} cannot be read ({' '.join(str(error).split())[:200]}); begin anew without --resume."
        ) from error
    return step


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
