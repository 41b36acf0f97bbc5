"""Where the files that ship with the package lie: robot files, checkpoints, launch files.

Works from the source tree, from a colcon install and from a pip install, without importing ROS. Reading the files is
the business of who asks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "flow_policy_ros"


class ResourceError(ValueError):
    """A shipped file that is not there; the message lists what is."""


def _candidates() -> Iterator[Path]:
    """Places where the shared files may lie. First of all those that belong to the very code that is running."""
    here = Path(__file__).resolve()
    yield here.parents[1]  # source tree, editable install
    if len(here.parents) > 4:
        yield here.parents[4] / "share" / PACKAGE  # PREFIX/lib/pythonX.Y/site-packages/flow_policy_ros/resources.py
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        if prefix:
            yield Path(prefix) / "share" / PACKAGE
    yield Path(sys.prefix) / "share" / PACKAGE


def share() -> Path:
    """The folder that holds ``config/``, ``checkpoints/`` and ``launch/``. Raises ``ResourceError``."""
    tried = []
    for folder in _candidates():
        if (folder / "package.xml").is_file() and (folder / "config").is_dir():
            return folder
        tried.append(str(folder))
    raise ResourceError(
        f"the files that ship with {PACKAGE} (package.xml, config/) were found in none of {', '.join(tried)}. "
        "Install the package with 'pip install .' or 'colcon build' and source its set-up file."
    )


def names(kind: str) -> tuple[str, ...]:
    """What ships of a ``kind``: ``robots`` or ``checkpoints``, sorted by name."""
    if kind == "robots":
        return tuple(sorted(p.stem for p in (share() / "config" / "robots").glob("*.yaml")))
    return tuple(sorted(p.name for p in (share() / "checkpoints").glob("*") if p.is_dir()))


def robot_file(name: str | Path) -> Path:
    """A robot file by the name of one that ships (``adroit_door``) or by its path. Raises ``ResourceError``."""
    return _find(name, share() / "config" / "robots" / f"{name}.yaml", "robot file", "robots")


def checkpoint(name: str | Path) -> Path:
    """A checkpoint's or detector's folder, by the name of one that ships or by its path. Raises ``ResourceError``."""
    return _find(name, share() / "checkpoints" / name, "checkpoint", "checkpoints")


def _find(name: str | Path, shipped: Path, what: str, kind: str) -> Path:
    if str(name) and shipped.exists():
        return shipped
    given = Path(name).expanduser()
    if str(name) and given.exists():
        return given.resolve()
    raise ResourceError(
        f"{what} '{name}' does not exist: it is neither a path nor the name of one that ships with {PACKAGE}. "
        f"Shipped are: {', '.join(names(kind)) or 'none'}."
    )
