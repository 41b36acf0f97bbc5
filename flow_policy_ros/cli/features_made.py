"""What made the features that are there already: as a bag's ``info`` topics say it, and as the folder of ``featurize`` does.

What makes features now is ``featurize``'s.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flow_policy_ros.runtime.robot import Robot


def require_same(out: Path, made: dict[str, dict[str, Any]]) -> None:
    """Raise ``EpisodeError`` where the folder ``out`` holds recordings with other features than those ``made`` now: the file that
    says what made them speaks for all."""
    from flow_policy_ros.data.episodes import EXTRACTOR_FILE, EpisodeError, load_extractors

    if next(out.glob("*.npz"), None) is None:
        return
    if not (out / EXTRACTOR_FILE).is_file():
        raise EpisodeError(
            f"{out} holds recordings, but no {EXTRACTOR_FILE} that says what made their features; give another --out."
        )
    before = load_extractors(out)
    if before != made:
        raise EpisodeError(
            f"{out} holds recordings whose features were made by something else; different: {differences(before, made)}. Give "
            "another --out, or what made them."
        )


def differences(before: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> str:
    """In which streams two sets of identities differ, and in what of each."""
    found = []
    for name in sorted({*before, *now}):
        one, other = before.get(name), now.get(name)
        if one is None or other is None:
            found.append(f"'{name}' (only {'now' if one is None else 'before'})")
        elif one != other:
            found.append(f"'{name}' ({', '.join(key for key in {**one, **other} if one.get(key) != other.get(key))})")
    return ", ".join(found)


def identities_in(path: Path, robot: Robot, streams: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """What made recorded ``streams``, as ``features/STREAM/info`` of a bag says. Raises ``EpisodeError`` for a bag without."""
    from dataclasses import replace

    from flow_policy_ros.data.bag_events import BagEvents
    from flow_policy_ros.data.bag_messages import TEXTS
    from flow_policy_ros.data.bags.open import open_bag
    from flow_policy_ros.data.episodes import EpisodeError

    found: dict[str, dict[str, Any]] = {}
    if not streams:
        return found
    bag = open_bag(path)
    try:
        topics = BagEvents(bag, replace(robot, cameras=()), features=streams).streams
        for stream in streams:
            info = bag.topics.get(f"{topics.get(stream)}/info")
            said = [bag.decode(message) for message in bag.messages([info.name])] if info and info.type in TEXTS else []
            try:
                found[stream] = dict(json.loads(TEXTS[info.type](said[-1]))) if info and said else {}
            except (ValueError, TypeError):
                found[stream] = {}
            if not found[stream]:
                raise EpisodeError(
                    f"{path} does not say what made the stream '{stream}' that is to be kept (--keep): features/{stream} and "
                    f"features/{stream}/info are not both in it. Leave it out, or record both topics."
                )
    finally:
        bag.close()
    return found
