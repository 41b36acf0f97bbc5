"""What a checkpoint may ask of the machine before anything is made of it: its weights say how large its network can be.

A robot's memory is shared by whatever stops it, so that a folder which claims more than it holds is refused before it is believed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.overrides import TorchFunctionMode

MOST_BYTES = 1 << 26
"""Of a JSON file. The largest there are hold a tokenizer's or a model's description."""
USUAL = 4096
"""Sizes up to this are believed before they are compared with the tensors."""
SPARE = 1 << 20
"""Numbers that a network may have beyond twice those of its weights: a tensor that is missing is named by whoever loads them."""

SHAPE_STAYS = frozenset({"normal_", "uniform_", "mul", "__mul__", "__rmul__", "div", "__truediv__", "true_divide"})
"""What networks do to the values of one tensor when they are made."""
_SHAPED = (torch.empty, torch.randn, torch.zeros, torch.ones)


def read_json_text(path: Path) -> str:
    """Text of a JSON file. Raises ``OSError`` for what is no file, and ``ValueError`` for one that is too large."""
    if path.exists() and not path.is_file():
        raise OSError(0, "it is not a regular file", str(path))
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it has {path.stat().st_size} bytes, expected at most {MOST_BYTES}")
    return path.read_text()


def parse_json(text: str) -> Any:
    """Raises ``ValueError``, also for brackets within brackets without end."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def check_sizes(weights: Path, *sizes: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for a whole number that no tensor of ``weights`` bears out: neither a dimension nor their number.

    Weights that cannot be read are left to whoever loads them.
    """
    shapes = _shapes(weights)
    if shapes is None:
        return
    most = max([USUAL, len(shapes), *(size for shape in shapes for size in shape)])
    for group in sizes:
        for name, value in group.items():
            if isinstance(value, int | float) and not value <= most:
                raise ValueError(f"the size '{name}' is {value:g}, expected at most {most} by the tensors in {weights.name}.")


def check_parameters(weights: Path, build: Callable[[], nn.Module]) -> None:
    """Raise ``ValueError`` when the network that ``build`` makes has far more numbers than ``weights`` holds.

    It is made without memory, on torch's device ``meta``; a network that cannot be made so is left to whoever makes it.
    """
    shapes = _shapes(weights)
    if shapes is None:
        return
    try:
        with _Unfilled():
            asked = sum(tensor.numel() for tensor in build().state_dict().values())
    except (RuntimeError, NotImplementedError):
        return
    held = sum(math.prod(shape) for shape in shapes)
    if asked > 2 * held + SPARE:
        raise ValueError(f"the network that is described has {asked} numbers, and {weights.name} holds {held}.")


class _Unfilled(TorchFunctionMode):
    """Tensors of any shape have no memory and are neither filled nor scaled; what counts up (``arange``, ``linspace``) is real.

    ``torch.device("meta")`` would draw, scale and count in Python, and import sympy for it: more than a second of a node's start.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func in _SHAPED:
            given.pop("generator", None)
            return torch.empty(*args, **{**given, "device": "meta"})
        tensors = [each for each in args if isinstance(each, torch.Tensor)]
        if len(tensors) == 1 and tensors[0].is_meta and getattr(func, "__name__", "") in SHAPE_STAYS:
            return tensors[0]
        return func(*args, **given)


def _shapes(weights: Path) -> list[tuple[int, ...]] | None:
    """Of all tensors, from the header alone; None where it cannot be read."""
    try:
        with safe_open(weights, "pt") as file:
            return [tuple(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118  # it is no mapping
    except (OSError, SafetensorError):
        return None
