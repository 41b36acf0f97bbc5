"""Parameters chosen by hand, as ``NAME:=VALUE``: checked as the nodes check them, and written as a file that the nodes load.

The file goes on top of the robot file's blocks: ``--ros-args --params-file FILE``. What a parameter does is ``parameters``'s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from flow_policy_ros.runtime.parameters import BLOCKS, ParameterError, check
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.setting import setting

TUNABLE = ("policy", "command", "perception")
"""Blocks that matter without the simulator and without a clock."""
_TRAINED_WITH = ("extractor", "cameras", "class_map", "slots", "track", "grid", "levels", "stride", "language_tokens")
ELSEWHERE = {
    "policy.checkpoint": "it is given with --checkpoint",
    "policy.threads": "a replay uses one thread for each process; use --jobs",
    "perception.detector": "it is given with --detector",
    "perception.model": "it is given with --detector, as a detector is",
    **{f"perception.{name}": "the checkpoint says how its features are made" for name in _TRAINED_WITH},
    "perception.instruction": "the recording says what the robot was told",
    "perception.points": "the points of a recording are used as they were recorded",
    "perception.threads": "a replay uses one thread for each process; use --jobs",
    "perception.allow_pickle": "a .pt file would execute code; give a detector folder",
    "perception.overlay": "the report shows the detections",
    "command.autostart": "a replay is always enabled",
    "command.deadman": "no recording says when the switch was held; a replay takes it as held",
    "command.deadman_button": "no recording says when the switch was held; a replay takes it as held",
    "command.deadman_max_age_s": "no recording says when the switch was held; a replay takes it as held",
    "command.realtime_priority": "a replay has a simulated clock",
    "command.lock_memory": "a replay has a simulated clock",
    "command.wake_ahead_s": "a replay has a simulated clock",
    "command.statistics_s": "a replay has a simulated clock",
}
"""Parameters that would change nothing in a replay, and why."""
SCALE = "safety.scale."
GROUP_SCALE = "command.group_scale"


def parse_settings(
    texts: Sequence[str], robot: Robot, elsewhere: Mapping[str, str] = ELSEWHERE, where: str = "in a replay"
) -> dict[str, Any]:
    """Flat parameters (``policy.mode``) of ``NAME:=VALUE`` texts, each checked against type, bounds and choices. Those that change
    nothing ``where`` they are given are in ``elsewhere``, with why.

    ``safety.scale.GROUP=x`` is the factor of one of the robot's groups in ``command.group_scale``; the other groups keep theirs, as
    in the robot file. Raises ``ParameterError`` in the words of the nodes, ``RobotFileError`` for an unknown group.
    """
    settings: dict[str, Any] = {}
    scales: dict[str, str] = {}
    given: set[str] = set()
    for text in texts:
        pair = setting(text)
        if pair is None:
            raise ParameterError(f"--set {text!r} has no value, expected NAME:=VALUE such as policy.mode:=rtc.")
        name, value = pair
        if name in given:
            raise ParameterError(f"--set {name} is given twice; leave one out.")
        given.add(name)
        if name.startswith(SCALE):
            scales[name[len(SCALE) :]] = value.strip()
        else:
            settings[name] = _checked(name, value.strip(), elsewhere, where)
    if scales:
        present = settings.get(GROUP_SCALE, robot.parameters.get(GROUP_SCALE, ""))
        words = dict(word.partition("=")[::2] for word in str(present).replace(",", " ").split())
        settings[GROUP_SCALE] = " ".join(f"{group}={factor}" for group, factor in {**words, **scales}.items())
    if GROUP_SCALE in settings:
        robot.group_scales(settings[GROUP_SCALE])
    return settings


def _checked(name: str, text: str, elsewhere: Mapping[str, str], where: str) -> Any:
    """The value of one text in its parameter's type."""
    block, dot, field = name.partition(".")
    if name in elsewhere:
        raise ParameterError(f"parameter {name} cannot be tuned {where}: {elsewhere[name]}.")
    if block not in TUNABLE or not dot:
        known = ", ".join(f"{b}.*" for b in TUNABLE)
        what = f"belongs to '{block}', which has no part in a replay" if block in BLOCKS and dot else "is unknown"
        raise ParameterError(f"parameter {name} {what}; tunable are {known}, {SCALE}GROUP ('flow_policy params' lists them).")
    kinds = {f.name: type(f.default) for f in dataclasses.fields(BLOCKS[block])}
    return check(BLOCKS[block], field, _value(text, kinds.get(field, str)), block + ".")


def _value(text: str, kind: type) -> Any:
    """``text`` as ``kind``; as text where it is not, which ``check`` then refuses in its own words."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind is str:
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def write_overlay(path: Path, settings: Mapping[str, Any], comment: str = "") -> None:
    """Write flat parameters as a ROS parameter file for every node, with a line of ``comment``."""
    blocks: dict[str, dict[str, Any]] = {}
    for name, value in sorted(settings.items()):
        block, _, field = name.partition(".")
        blocks.setdefault(block, {})[field] = value
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    body = yaml.safe_dump({"/**": {"ros__parameters": blocks}}, sort_keys=False, allow_unicode=True)
    path.write_text(head + body, encoding="utf-8")
