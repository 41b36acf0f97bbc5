"""Groups of joints guessed from a robot's tree: a chain up to where the tree branches is an arm or a wrist, a branch is a finger.

The chains are facts of the URDF. Their names are guesses by the words in the names of joints and links, and are to be checked.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from xml.etree import ElementTree

from flow_policy_ros.runtime.robot_yaml import RobotFileError

FINGERS = {
    "thumb": "thumb",
    "index": "index_finger",
    "forefinger": "index_finger",
    "middle": "middle_finger",
    "ring": "ring_finger",
    "little": "little_finger",
    "pinky": "little_finger",
}
SHORT = {"th": "thumb", "ff": "index_finger", "mf": "middle_finger", "rf": "ring_finger", "lf": "little_finger", "wr": "wrist"}
"""How joints of Shadow-type hands begin: FFJ3, rh_THJ1."""
GRIPPERS = ("gripper", "jaw", "finger", "knuckle")
SHORT_JOINT = re.compile(r"(?:^|_)(th|ff|mf|rf|lf|wr)j\d+$")
SIDES = {"left": "left", "right": "right", "l": "left", "r": "right"}


@dataclass
class Chain:
    """Joints in a row, from the root outwards, with the links around them; ``above`` is the chain that it branches from."""

    above: Chain | None = None
    joints: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)


def guess_groups(root: ElementTree.Element, moving: Collection[str], joints: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Joints by group, each in one at most. ``root`` is the URDF, ``moving`` its joints that move, ``joints`` those to be grouped.

    Joints that do not hang on the tree's root (loops) are in no group. Raises ``RobotFileError`` for a joint without links.
    """
    found = chains(root, moving)
    for chain in found:
        chain.joints = [joint for joint in chain.joints if joint in joints]
    kept = [part for chain in found if chain.joints for part in _split(chain)]
    names = _unique([_name(chain, kept) for chain in kept], kept)
    return {name: tuple(chain.joints) for name, chain in zip(names, kept, strict=True)}


def chains(root: ElementTree.Element, moving: Collection[str]) -> list[Chain]:
    """The rows of ``moving`` joints between the places where the tree branches, from the root outwards."""
    edges: dict[str, list[tuple[str, str]]] = {}
    children = set()
    for element in root.findall("joint"):
        name, parent, child = element.get("name", ""), _link(element, "parent"), _link(element, "child")
        edges.setdefault(parent, []).append((name, child))
        children.add(child)
    bases = [link for link in edges if link not in children]
    order: list[tuple[str, str, str]] = []
    seen, rest = set(bases), list(bases)
    while rest:
        parent = rest.pop(0)
        for name, child in edges.get(parent, []):
            if child not in seen:
                seen.add(child)
                order.append((name, parent, child))
                rest.append(child)
    alive: set[str] = set()  # links at or above a joint that moves
    for name, parent, child in reversed(order):
        if name in moving or child in alive:
            alive.add(parent)
    live = {(parent, child): name in moving or child in alive for name, parent, child in order}
    forks = {link for link in seen if sum(of == link and moves for (of, _), moves in live.items()) > 1}
    of_link = {base: Chain() for base in bases}
    found = list(of_link.values())
    for name, parent, child in order:
        chain = of_link[parent]
        if parent in forks and live[parent, child]:
            chain = Chain(above=chain)
            found.append(chain)
        of_link[child] = chain
        chain.links.append(child)
        if name in moving:
            chain.joints.append(name)
    return found


def _link(element: ElementTree.Element, which: str) -> str:
    end = element.find(which)
    name = None if end is None else end.get("link")
    if name is None:
        raise RobotFileError(f"the URDF's joint '{element.get('name')}' has no <{which} link=...>. Give every joint both.")
    return name


def _split(chain: Chain) -> list[Chain]:
    """An arm that ends in a gripper or a hand's wrist without branching, by the last joints' names, as two; else the chain."""
    end = len(chain.joints)
    while end and (_has(chain.joints[end - 1], GRIPPERS) or _short(chain.joints[end - 1]) == "wrist"):
        end -= 1
    if end < 3 or end == len(chain.joints):
        return [chain]
    arm = Chain(chain.above, chain.joints[:end], chain.links)
    return [arm, Chain(arm, chain.joints[end:], [])]


def _name(chain: Chain, kept: list[Chain]) -> str:
    """A name by the words in it; "" for a finger that has none."""
    short = {_short(joint) for joint in chain.joints}
    if len(short) == 1 and "" not in short:
        return short.pop()
    if all(_has(joint, ("gripper", "jaw")) for joint in chain.joints):
        return "gripper"
    for names in (chain.joints, chain.links):
        fingers = {finger for word, finger in FINGERS.items() if any(_has(name, (word,)) for name in names)}
        if len(fingers) > 1:  # also the middle of another finger's three bones
            fingers.discard("middle_finger")
        if len(fingers) == 1:
            return fingers.pop()
    if all("wrist" in joint.lower() for joint in chain.joints):
        return "wrist"
    carries = any(_above(other, chain) for other in kept if other is not chain)
    if not carries and len(chain.joints) <= 2 and sum(_leaf(other, kept) for other in kept) == 1 and len(kept) > 1:
        return "gripper"
    if not carries and len(kept) > 1 and len(chain.joints) < 5:
        return ""
    return "arm" if len(chain.joints) > 3 or not carries else "base"


def _short(joint: str) -> str:
    match = SHORT_JOINT.search(joint.lower())
    return SHORT[match[1]] if match else ""


def _has(name: str, words: Collection[str]) -> bool:
    """Whether one of the words is in the name; ``ring`` and ``middle`` as words of their own, not as in spring."""
    parts = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
    return any(word in parts if word in ("ring", "jaw", "middle") else any(word in part for part in parts) for word in words)


def _above(chain: Chain | None, other: Chain) -> bool:
    """Whether ``chain`` hangs on ``other``."""
    while chain is not None:
        chain = chain.above
        if chain is other:
            return True
    return False


def _leaf(chain: Chain, kept: list[Chain]) -> bool:
    return not any(_above(other, chain) for other in kept if other is not chain)


def _unique(names: list[str], kept: list[Chain]) -> list[str]:
    """The names with left and right where a robot has both, and numbers for what is still alike or has no name."""
    sides = [_side(chain) for chain in kept]
    if {"left", "right"} <= set(sides):
        names = [f"{side}_{name}" if side and name else name for side, name in zip(sides, names, strict=True)]
    unsure = {name for name in names if names.count(name) > 1 and name.endswith("_finger")}
    names = ["" if name in unsure else name for name in names]
    done: list[str] = []
    for name in names:
        stem, number = name or "finger", 1
        numbered = not name or names.count(name) > 1
        while (label := f"{stem}_{number}" if numbered else stem) in done:
            number += 1
        done.append(label)
    return done


def _side(chain: Chain) -> str:
    found = {SIDES[part] for joint in chain.joints for part in re.findall(r"[a-z]+", joint.lower()) if part in SIDES}
    return found.pop() if len(found) == 1 else ""
