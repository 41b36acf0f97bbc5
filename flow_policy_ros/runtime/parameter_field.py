"""What a tunable of a node is: a field of a frozen dataclass, with what may be said of it. ``runtime.parameters`` has them all."""

from __future__ import annotations

from dataclasses import field
from typing import Any


class ParameterError(ValueError):
    """A parameter outside its type, bounds or choices; the message names it and the remedy."""


def parameter(
    default: Any,
    description: str,
    unit: str = "",
    bounds: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    """A dataclass field that is a node parameter. ``bounds`` are inclusive; ``live`` may change while running."""
    return field(
        default=default,
        metadata={"description": description, "unit": unit, "bounds": bounds, "choices": choices, "live": live},
    )
