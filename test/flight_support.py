"""What tests of the flight recorder share: the node, and the bags that it has put in their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ros_support import Child, Ears, Launcher, until, write_robot

from flow_policy_ros.nodes.flight_bag import bags

SAVE = "flight_recorder_node/save"


def fly(launcher: Launcher, folder: Path, **parameters: object) -> Child:
    """The node, keeping for ``folder / "bags"``."""
    given = {"flight__out": folder / "bags", "flight__min_free_gb": 0.0, "flight__seconds": 20.0, "flight__after_s": 0.5}
    given |= parameters
    return launcher.node("flight_recorder_node", write_robot(folder), **given)


def wait_bags(folder: Path, count: int = 1) -> list[Path]:
    """Bags that are in their place; such a bag is whole."""
    place = folder / "bags"
    until(lambda: place.is_dir() and len(bags(place)) >= count, f"{count} bags did not come")
    found = bags(place)
    assert all((bag / "metadata.yaml").is_file() for bag in found)
    return found


def listening(ears: Ears, *publishers: Any) -> None:
    for publisher in publishers:
        ears.connected(publisher)


