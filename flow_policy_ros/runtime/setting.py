"""A name with a value, as every command is given it: NAME:=VALUE as ROS writes it, or NAME=VALUE.

What name and value mean is the affair of those who ask.
"""

from __future__ import annotations

import re

SETTING = re.compile(r"\s*(?P<name>[^\s:=][^:=]*?)\s*:?=(?P<value>.*)", re.DOTALL)


def setting(text: str) -> tuple[str, str] | None:
    """Name and value of ``text``; None where it is not of either form. The first := or = divides: later ones are the value's."""
    found = SETTING.fullmatch(text)
    return None if found is None else (found["name"], found["value"])
