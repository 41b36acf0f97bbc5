"""Limits of a drafted robot file: the tightest of every source, whatever text the sources hold, and the draft's check of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from flow_policy_ros.runtime.new_robot import Description, Draft, draft
from flow_policy_ros.runtime.new_robot_check import check_draft
from flow_policy_ros.runtime.new_robot_joint_limits import Claim
from flow_policy_ros.runtime.new_robot_limits import limit_lines
from flow_policy_ros.runtime.robot_yaml import RobotFileError
from flow_policy_ros.runtime.urdf import read_urdf

INJECTED = "fast&#{};        j1: {{position: [-9.0, 9.0], velocity: 99.0}}  #"


def urdf(folder: Path, *limits: str, more: str = "", kind: str = "revolute") -> Path:
    """A row of joints j1, j2, … with these attributes of ``<limit>``."""
    joints = "".join(f'<joint name="j{n}" type="{kind}"><parent link="l{n}"/><child link="l{n + 1}"/><limit {limit}/></joint>'
                     for n, limit in enumerate(limits, 1))
    path = folder / "toy.urdf"
    path.write_text(f'<robot name="toy">{joints}{more}</robot>')
    return path


FULL = 'lower="-3" upper="3" velocity="6" effort="5"'


def ros2_control(joint: str = "j1", **interfaces: dict[str, Any]) -> str:
    inside = "".join(
        f'<command_interface name="{kind}">{"".join(f"""<param name="{key}">{value}</param>""" for key, value in ends.items())}'
        "</command_interface>" for kind, ends in interfaces.items()
    )
    return f'<ros2_control name="hw" type="system"><joint name="{joint}">{inside}</joint></ros2_control>'


def joint_limits(folder: Path, **joints: dict[str, Any]) -> Path:
    path = folder / "limits.yaml"
    path.write_text(yaml.safe_dump({"joint_limits": joints}))
    return path


def written(made: Draft) -> dict[str, Any]:
    """The block ``limits``."""
    found: dict[str, Any] = yaml.safe_load("\n".join(made.lines))["/**"]["ros__parameters"]["robot"].get("limits", {})
    return found


@pytest.mark.parametrize("letter", [0x0A, 0x0D, 0x85, 0x2028, 0x2029])
@pytest.mark.parametrize("key", ["velocity", "effort", "upper"])
def test_numbers_of_a_urdf_with_line_breaks_are_refused(tmp_path: Path, letter: int, key: str) -> None:
    values = {"lower": "-1", "upper": "1", "velocity": "1", "effort": "5"} | {key: INJECTED.format(letter)}
    path = urdf(tmp_path, 'lower="-0.1" upper="0.1" velocity="1" effort="5"', " ".join(f'{k}="{v}"' for k, v in values.items()))
    with pytest.raises(RobotFileError, match=f"joint 'j2': <limit> has {key} 'fast.*characters that no number has") as caught:
        draft(Description(path, tmp_path))
    assert str(caught.value).isprintable()


def test_a_reason_cannot_leave_its_comment(tmp_path: Path) -> None:
    """Also when the reader would let it through."""
    known = read_urdf(urdf(tmp_path, FULL, FULL))
    for letter in "\n\r\x85\u2028\u2029\x0b":
        odd = f"fast{letter}  j1: {{position: [-9.0, 9.0], velocity: 99.0}}  #"
        joints = known.joints | {"j2": replace(known.joints["j2"], velocity=None, reasons={"velocity": odd})}
        claim = Claim("j1", "velocity", odd, 2.0)
        made = limit_lines(replace(known, joints=joints), ("j1", "j2"), False, "here", [claim])
        assert all(line.isprintable() for line in made.lines)
        assert yaml.safe_load("\n".join(made.lines))["limits"] == {"j1": {"velocity": 2.0}, "j2": {"velocity": "TODO"}}


PLANTED = {
    "a line break": ("joints: [j1, j2]", "joints: [j1, j2]  # a\x85b", "break lines"),
    "a wider range": ("limits:", "limits:\n        j2: {position: [-9.0, 9.0]}", r"limits of \['j2'\] would be wider"),
    "a higher speed": ("limits:", "limits:\n        j2: {velocity: 99.0}", r"limits of \['j2'\] would be wider"),
    "no ends": ("limits:", "limits:\n        j2: {continuous: true}", r"limits of \['j2'\] would be wider"),
    "a joint twice": ("limits:", "limits:\n        j1: {velocity: 1.0}", "given twice"),
    "a stranger": ("limits:", "limits:\n        j9: {velocity: 1.0}", r"nobody meant: \['j9'\]"),
    "a key": ("joints: [j1, j2]", "joints: [j1, j2]\n      soft_margin: 0.0", r"nobody meant: \['soft_margin'\]"),
    "other joints": ("joints: [j1, j2]", "joints: [j1]", r"joints would be \['j1'\]"),
    "a TODO filled in": ("jerk: TODO}", "jerk: 5.0}", "TODO would be"),
}


@pytest.mark.parametrize(("old", "new", "words"), PLANTED.values(), ids=PLANTED)
def test_a_draft_that_is_not_what_was_meant_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = urdf(tmp_path, FULL, FULL)
    told = joint_limits(tmp_path, j1={"has_velocity_limits": True, "max_velocity": 2})
    made = draft(Description(path, tmp_path, joint_limits=told))
    lines = "\n".join(made.lines)
    check_draft(lines.split("\n"), read_urdf(path), made.joints, made.mimics, made.todo)
    assert old in lines
    with pytest.raises(RobotFileError, match=words):
        check_draft(lines.replace(old, new, 1).split("\n"), read_urdf(path), made.joints, made.mimics, made.todo)


def test_the_draft_checks_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import flow_policy_ros.runtime.new_robot as module

    monkeypatch.setattr(module, "_left_out", lambda urdf, joints: ["limits: {j1: {velocity: 99.0}}"])
    with pytest.raises(RobotFileError, match=r"limits of \['j1'\] would be wider"):
        draft(Description(urdf(tmp_path, FULL), tmp_path))


@pytest.mark.parametrize("embed", [False, True])
def test_every_source_narrows(tmp_path: Path, embed: bool) -> None:
    interfaces = ros2_control(position={"min": -1.0, "max": 2.0}, velocity={"min": -1.5, "max": 4}, effort={"min": -3, "max": 3})
    told = joint_limits(tmp_path, j1={
        "has_soft_limits": True, "soft_lower_limit": -2.0, "soft_upper_limit": 0.5, "k_position": 10.0,
        "has_acceleration_limits": True, "max_acceleration": 20.0, "has_deceleration_limits": True, "max_deceleration": 5.0,
        "has_effort_limits": True, "max_effort": 1.0, "has_position_limits": True, "min_position": -2.5, "max_position": 2.5,
    })
    made = draft(Description(urdf(tmp_path, FULL, FULL, more=interfaces), tmp_path, joint_limits=told, embed_limits=embed))
    assert written(made)["j1"] == {"position": [-1.0, 0.5], "velocity": 1.5, "effort": 1.0, "acceleration": 5.0}
    assert written(made).get("j2", {}).get("position") == ([-3.0, 3.0] if embed else None)
    line = next(line for line in made.lines if "        j1: {" in line)
    for note in ("position: the URDF's ros2_control and limits.yaml (soft limits)", "velocity: the URDF's ros2_control",
                 "effort: limits.yaml", "acceleration: limits.yaml (max_deceleration)"):
        assert note in line.replace("''", "'")


def test_what_is_wider_than_the_urdf_counts_for_nothing(tmp_path: Path) -> None:
    interfaces = ros2_control(position={"min": -9, "max": 9}, velocity={"min": 0, "max": 9}, effort={"max": 50}, other={"max": 0})
    told = joint_limits(tmp_path, j1={"has_effort_limits": True, "max_effort": 9.0, "has_soft_limits": False, "soft_lower_limit": 0,
                                      "soft_upper_limit": 1, "has_deceleration_limits": False, "max_deceleration": 1})
    assert written(draft(Description(urdf(tmp_path, FULL, more=interfaces), tmp_path, joint_limits=told))) == {}
    one_end = ros2_control(position={"max": 1}) + ros2_control(position={"min": -2, "max": ""})
    one_end += ros2_control("j9", position={"max": 0})
    assert written(draft(Description(urdf(tmp_path, FULL, more=one_end), tmp_path))) == {"j1": {"position": [-2.0, 1.0]}}


@pytest.mark.parametrize(
    ("interfaces", "words"),
    [
        ({"position": {"min": "low"}}, r"joint 'j1': command_interface position has min 'low', expected a number"),
        ({"velocity": {"max": "nan"}}, "max 'nan', expected a number"),
        ({"position": {"max": "-inf"}}, "max '-inf', expected a number"),
        ({"position": {"min": 1, "max": 1}}, "min 1 and max 1; expected the first below"),
        ({"position": {"min": 4, "max": 5}}, "nothing in common"),
    ],
)
def test_bad_command_interfaces_are_refused(tmp_path: Path, interfaces: dict[str, Any], words: str) -> None:
    with pytest.raises(RobotFileError, match=words):
        draft(Description(urdf(tmp_path, FULL, more=ros2_control(**interfaces)), tmp_path))


def test_half_a_range_is_no_range(tmp_path: Path) -> None:
    path = urdf(tmp_path, 'velocity="1"', more=ros2_control(position={"max": 2}), kind="continuous")
    with pytest.raises(RobotFileError, match="has one end of its range, -inf to 2"):
        draft(Description(path, tmp_path))
    path = urdf(tmp_path, 'velocity="1"', more=ros2_control(position={"min": -2, "max": 2}), kind="continuous")
    assert written(draft(Description(path, tmp_path))) == {"j1": {"position": [-2.0, 2.0]}}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"has_soft_limits": True, "soft_lower_limit": 1}, "'soft_upper_limit' is missing"),
        ({"has_soft_limits": True, "soft_lower_limit": 1, "soft_upper_limit": 0}, "soft_lower_limit 1 and soft_upper_limit 0"),
        ({"has_effort_limits": True, "max_effort": 0}, "max_effort is 0"),
        ({"has_deceleration_limits": True, "max_deceleration": 1}, "Add has_acceleration_limits: true"),
        ({"has_acceleration_limits": True, "max_acceleration": 1, "has_deceleration_limits": True},
         "'max_deceleration' is missing"),
    ],
)
def test_bad_entries_of_a_joint_limits_file_are_refused(tmp_path: Path, entry: dict[str, Any], words: str) -> None:
    with pytest.raises(RobotFileError, match=words):
        draft(Description(urdf(tmp_path, FULL), tmp_path, joint_limits=joint_limits(tmp_path, j1=entry)))


def test_degrees_are_doubted(tmp_path: Path) -> None:
    wide, edge = ('lower="-90" upper="0" velocity="6"', 'lower="-12.56" upper="12.56" velocity="6"')
    made = draft(Description(urdf(tmp_path, wide, edge, FULL), tmp_path))
    assert [check for check in made.checks if "degrees" in check] == ["a range beyond -4π or 4π rad looks like degrees: [j1]"]
    narrowed = ros2_control(position={"min": -1, "max": 0})
    for path in (urdf(tmp_path, wide, more=narrowed), urdf(tmp_path, wide, kind="prismatic")):
        assert "degrees" not in "".join(draft(Description(path, tmp_path)).lines)
