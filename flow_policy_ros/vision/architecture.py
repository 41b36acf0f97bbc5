"""What a detector's ``architecture.yaml`` may name, looked at before ultralytics makes a network of it.

Ultralytics evaluates an activation and calls a layer by its name; which of its versions guard that is not for a robot to rely on.
Here only layers that are torch modules of ``torch.nn`` and ``ultralytics.nn.modules`` pass, and an activation that is one of them
with literal arguments.
"""

from __future__ import annotations

import ast
from typing import Any

import torch

FORBIDDEN = ("TorchVision",)
"""Layers that fetch weights from the network, by a name of torchvision's."""
MOST_LAYERS = 1000


def check_architecture(architecture: Any) -> None:
    """Raise ``ValueError``, one sentence with the remedy, for a description that names anything but layers."""
    if not isinstance(architecture, dict):
        raise ValueError(f"the architecture is a {type(architecture).__name__}, expected a description with backbone and head.")
    activation = architecture.get("activation")
    if activation and not _is_activation(activation):
        raise ValueError(
            f"the architecture has the activation {_short(activation)}, expected a layer of torch.nn with plain numbers, such as "
            "nn.SiLU(); anything else would be run as code."
        )
    layers = [layer for part in ("backbone", "head") for layer in _rows(architecture, part)]
    if len(layers) > MOST_LAYERS:
        raise ValueError(f"the architecture has {len(layers)} layers, expected at most {MOST_LAYERS}.")
    for _, repeats, name, _ in layers:
        if not isinstance(repeats, int) or not 0 < repeats <= MOST_LAYERS:
            raise ValueError(f"the architecture repeats {_short(name)} {_short(repeats)} times, expected 1 to {MOST_LAYERS}.")
        if not _is_layer(name):
            raise ValueError(
                f"the architecture names {_short(name)}, expected a layer of torch.nn (nn.Upsample) or of ultralytics (Conv); "
                "anything else would be called as code."
            )


def _rows(architecture: dict[str, Any], part: str) -> list[Any]:
    rows = architecture.get(part)
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == 4 for row in rows):
        raise ValueError(f"the architecture's {part} is {_short(rows)}, expected rows of source, repeats, layer and arguments.")
    return rows


def _is_layer(name: Any) -> bool:
    import ultralytics.nn.modules as layers

    if not isinstance(name, str) or name in FORBIDDEN:
        return False
    found = getattr(torch.nn, name[3:], None) if name.startswith("nn.") else vars(layers).get(name)
    return isinstance(found, type) and issubclass(found, torch.nn.Module)


def _is_activation(text: Any) -> bool:
    """``nn.Name(literals)`` or ``torch.nn.Name(literals)`` of a torch module."""
    try:
        call = ast.parse(str(text).strip(), mode="eval").body
        if not isinstance(call, ast.Call):
            return False
        path = ast.unparse(call.func).removeprefix("torch.")
        for argument in [*call.args, *(keyword.value for keyword in call.keywords)]:
            ast.literal_eval(argument)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    found = getattr(torch.nn, path[3:], None) if path.startswith("nn.") else None
    return isinstance(found, type) and issubclass(found, torch.nn.Module)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:80] + "…"
