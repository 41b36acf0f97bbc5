"""Reading YAML strictly: robot files and controller files; and writing a value of one. What the keys mean is the readers' affair.

Every error is a ``RobotFileError`` that names file, key and remedy, because a key that is silently misread moves a robot.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from flow_policy_ros.runtime.yaml_bounded import load_yaml

TOPIC = re.compile(r"(~/|/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")


class RobotFileError(ValueError):
    """A robot file, or a file that it names, that cannot be used; the message names file, key and remedy."""


class _Loader(yaml.SafeLoader):
    """Refuses a key given twice: of two limits for one joint YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        twice: set[str] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if isinstance(name, Hashable):  # what is not, the base class refuses
                if name in seen:
                    twice.add(str(name))
                seen.add(name)
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{sorted(twice)} given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def strictly(content: str) -> Any:
    """``content`` as ``read_yaml`` reads a file. Raises ``yaml.YAMLError``, also for a key given twice."""
    return load_yaml(content, _Loader)


def read_yaml(path: Path, what: str, example: str) -> Any:
    """The content of ``path``. ``what`` ("robot file") opens the messages, ``example`` is a file that would do."""
    try:
        return strictly(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RobotFileError(f"{what} {path} cannot be read: {error.strerror}. Give the path of a YAML file "
                             f"such as {example}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RobotFileError(f"{what} {path} is not YAML: {error}. Give a text file such as {example}.") from error


def need(tree: dict[str, Any], key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """``tree[key]``, which must be there and of ``kind`` (True is no number)."""
    if key not in tree:
        raise RobotFileError(f"{where}: '{key}' is missing; add it (see docs/robot_file.md).")
    if not isinstance(tree[key], kind) or (isinstance(tree[key], bool) and kind is not bool):
        expected = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise RobotFileError(f"{where}: '{key}' is {tree[key]!r}, expected {expected}.")
    return tree[key]


def known(tree: dict[str, Any], keys: tuple[str, ...], where: str) -> None:
    """Refuse other keys: a misspelt one would silently leave its default in force."""
    strangers = [key for key in tree if key not in keys]
    if strangers:
        raise RobotFileError(f"{where}: unknown keys {strangers}, expected {', '.join(keys)}. Correct or remove them.")


def blanks(tree: dict[Any, Any], above: str = "") -> Iterator[str]:
    """Dotted names of what is TODO in ``tree``, in its order: drafts of robot files leave what nobody told them so."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from blanks(value, f"{above}{key}.")
        elif value == ["TODO", "TODO"] or value == "TODO" or str(value).startswith("TODO: "):
            yield f"{above}{key}"


def names(values: list[Any], where: str) -> tuple[str, ...]:
    """``values`` as names, each once and at least one. YAML reads 0 and yes as something else: such names need quotes."""
    if not all(isinstance(value, str) for value in values) or len(set(values)) != len(values) or not values:
        raise RobotFileError(
            f"{where} must be names, each once and at least one (in quotes where they are digits); given: {values}."
        )
    return tuple(values)


def topic_name(tree: dict[str, Any], key: str, where: str) -> str:
    """``tree[key]``, which must be there and a name that ROS takes for a topic."""
    topic = str(need(tree, key, str, where))
    if not TOPIC.fullmatch(topic):
        raise RobotFileError(
            f"{where}: '{key}' is {topic!r}, which is no ROS topic name; expected letters, digits and _ in parts joined "
            "by /, no part beginning with a digit."
        )
    return topic


def finite(value: Any) -> bool:
    """Whether ``value`` is a number that a float can hold."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond the range of float
        return False


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested blocks as flat names (``policy.rate_hz``)."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def text(value: Any) -> str:
    """As YAML within a line, whatever the names of a recording or a description hold."""
    words = [*value, *value.values()] if isinstance(value, dict) else [value] if isinstance(value, str) else value
    odd = not all(str(word).isprintable() for word in words)
    value = list(value) if isinstance(value, tuple) else value
    dumped = yaml.safe_dump(
        [value], default_flow_style=True, default_style='"' if odd else None, width=10**9, sort_keys=False, allow_unicode=not odd
    )
    return dumped.strip()[1:-1]


def plain(words: str) -> str:
    """``words`` within a comment: a character that could end the line, or be seen as another, stands as its number."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in words)
