"""YAML whose aliases cannot stand for more than a file may hold: ten lines of them can mean a thousand million values.

What is in the files is for their readers.
"""

from __future__ import annotations

from typing import Any

import yaml

MOST_NODES = 1_000_000
"""Values, keys and containers, with every alias counted as what it stands for. The largest robot file has some hundreds."""


def load_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """As ``yaml.safe_load``, by the safe loader or one derived from it.

    Raises ``yaml.YAMLError``, also for more than ``MOST_NODES`` for an alias within itself, and for a value that
    is not what its form or tag says (2020-13-45).
    """
    reading = loader(text)
    try:
        node = reading.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > MOST_NODES:
            raise yaml.YAMLError(f"its aliases stand for more than {MOST_NODES} values; write out what they stand for")
        try:
            return reading.construct_document(node)
        except (ValueError, LookupError, AttributeError, TypeError) as error:  # 2020-13-45, !!int x, !!bool x, !!timestamp x
            raise yaml.YAMLError(f"a value in it is not what it looks like or its tag says: {error}") from error
    finally:
        reading.dispose()


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """The nodes below ``node`` and itself; ``known`` by identity, 0 while being counted."""
    if id(node) in known:
        if known[id(node)] == 0:
            raise yaml.YAMLError("an alias stands for what it is a part of; write it out")
        return known[id(node)]
    known[id(node)] = 0
    total = 1
    if isinstance(node, yaml.SequenceNode):
        total += sum(_count(child, known) for child in node.value)
    elif isinstance(node, yaml.MappingNode):
        total += sum(_count(key, known) + _count(value, known) for key, value in node.value)
    known[id(node)] = total
    return total
