"""What is read of a URDF: ranges, speeds, mimics; and what is kept as a reason or refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from flow_policy_ros.runtime.robot_yaml import RobotFileError
from flow_policy_ros.runtime.urdf import Urdf, read_urdf

LIMIT = '<limit lower="-1" upper="2" velocity="3" effort="4"/>'


def joint(name: str, inside: str = LIMIT, kind: str = "revolute") -> str:
    return f'<joint name="{name}" type="{kind}"><parent link="x"/><child link="{name}_link"/>{inside}</joint>'


def read(tmp_path: Path, *joints: str, soft_margin: float = 0.0) -> Urdf:
    path = tmp_path / "toy.urdf"
    path.write_text(f'<?xml version="1.0"?><robot name="toy">{"".join(joints)}</robot>')
    return read_urdf(path, soft_margin)


def test_joints_are_read_in_their_order(tmp_path) -> None:
    slide = '<limit upper="0.04" velocity="0.2"/>'
    urdf = read(tmp_path, joint("b"), joint("a", slide, "prismatic"), joint("base", "", "fixed"), joint("free", "", "floating"),
                joint("wheel", LIMIT, "continuous"), '<transmission name="t"><joint name="b"/></transmission>')
    assert urdf.actuated() == ("b", "a", "wheel")
    b, a, wheel = (urdf.joints[name] for name in urdf.actuated())
    assert (b.position, b.velocity, b.effort, b.reasons) == ((-1.0, 2.0), 3.0, 4.0, {})
    assert (a.position, a.velocity, a.effort) == ((0.0, 0.04), 0.2, None)  # an end that is left out is 0
    assert wheel.position == (-math.inf, math.inf) and wheel.velocity == 3.0


USELESS = {
    "no limit": ("", "position", "has none"),
    "no range": ('<limit velocity="1"/>', "position", "has none"),
    "reversed": ('<limit lower="2" upper="1"/>', "position", "lower 2 and upper 1"),
    "empty": ('<limit lower="0" upper="0"/>', "position", "lower 0 and upper 0"),
    "NaN": ('<limit lower="nan" upper="1"/>', "position", "nan as lower"),
    "endless": ('<limit lower="0" upper="inf"/>', "position", "inf as upper"),
    "too wide": ('<limit lower="-1e308" upper="1e308"/>', "position", "upper 1e+308"),
    "xacro": ('<limit lower="${-pi}" upper="1"/>', "position", "'${-pi}' as lower"),
    "soft limits are NaN": (LIMIT + '<safety_controller soft_lower_limit="nan"/>', "position", "nan as soft_lower_limit"),
    "soft limits leave nothing": (
        LIMIT + '<safety_controller soft_lower_limit="1" soft_upper_limit="1"/>', "position", "leave 1 to 1"),
    "no speed": ('<limit lower="0" upper="1"/>', "velocity", "has none"),
    "zero speed": ('<limit lower="0" upper="1" velocity="0.0"/>', "velocity", "has 0"),
    "negative speed": ('<limit lower="0" upper="1" velocity="-2"/>', "velocity", "has -2"),
    "NaN speed": ('<limit lower="0" upper="1" velocity="NaN"/>', "velocity", "has nan"),
    "endless speed": ('<limit lower="0" upper="1" velocity="inf"/>', "velocity", "has inf"),
    "zero effort": ('<limit lower="0" upper="1" effort="0"/>', "effort", "has 0"),
}


@pytest.mark.parametrize(("inside", "kind", "words"), USELESS.values(), ids=USELESS.keys())
def test_a_useless_number_is_kept_as_its_reason(tmp_path, inside, kind, words) -> None:
    found = read(tmp_path, joint("a", inside)).joints["a"]
    assert getattr(found, kind) is None and words in found.reasons[kind]


@pytest.mark.parametrize(
    ("safety", "expected"),
    [
        ("", (-0.9, 1.9)),
        ('<safety_controller soft_lower_limit="-0.5" soft_upper_limit="1.95"/>', (-0.5, 1.9)),
        ('<safety_controller soft_lower_limit="-2" soft_upper_limit="0.5" k_velocity="4"/>', (-0.9, 0.5)),
        ('<safety_controller soft_upper_limit="0.5"/>', (-0.9, 0.5)),
    ],
)
def test_margin_and_soft_limits_narrow_the_range(tmp_path, safety, expected) -> None:
    assert read(tmp_path, joint("a", LIMIT + safety), soft_margin=0.1).joints["a"].position == pytest.approx(expected, abs=1e-12)


def test_a_margin_that_leaves_nothing_is_a_reason(tmp_path) -> None:
    found = read(tmp_path, joint("a"), soft_margin=1.5).joints["a"]
    assert found.position is None and "soft_margin 1.5" in found.reasons["position"]


def test_a_mimic_of_a_mimic_follows_the_joint_that_moves(tmp_path) -> None:
    urdf = read(
        tmp_path,
        joint("tip", LIMIT + '<mimic joint="middle" multiplier="-0.5" offset="0.25"/>'),
        joint("middle", LIMIT + '<mimic joint="base" multiplier="2" offset="-1"/>'),
        joint("base"),
        joint("twin", LIMIT + '<mimic joint="base"/>'),
    )
    assert urdf.actuated() == ("base",)
    tip, twin = urdf.mimics["tip"], urdf.mimics["twin"]
    assert (tip.master, tip.multiplier, tip.offset) == ("base", -1.0, 0.75)
    assert tip.position(0.3) == pytest.approx(-0.5 * (2 * 0.3 - 1) + 0.25)
    assert (twin.master, twin.multiplier, twin.offset) == ("base", 1.0, 0.0)


def mimic(name: str, master: str, more: str = "") -> str:
    return joint(name, f'{LIMIT}<mimic joint="{master}" {more}/>')


BROKEN = {
    "ring": ((mimic("a", "b"), mimic("b", "c"), mimic("c", "b")), "ring: a -> b -> c -> b. "),
    "of itself": ((mimic("a", "a"),), "ring: a -> a. "),
    "unknown master": ((mimic("a", "toe"),), "'a' mimics 'toe', which is not there"),
    "fixed master": ((mimic("a", "base"), joint("base", "", "fixed")), "'a' mimics 'base', which is fixed"),
    "multiplier zero": ((mimic("a", "b", 'multiplier="0"'), joint("b")), "'a' mimics 'b' with multiplier 0"),
    "multiplier NaN": ((mimic("a", "b", 'multiplier="nan"'), joint("b")), "multiplier the URDF has nan"),
    "offset is a word": ((mimic("a", "b", 'offset="much"'), joint("b")), "offset the URDF has 'much'"),
    "joint twice": ((joint("a"), joint("a")), "'a' is there twice"),
    "joint without type": (('<joint name="a"/>',), "name 'a' and type ''"),
}


@pytest.mark.parametrize(("joints", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_what_no_robot_file_can_repair_is_refused(tmp_path, joints, words) -> None:
    with pytest.raises(RobotFileError) as caught:
        read(tmp_path, *joints)
    assert words in str(caught.value) and "toy.urdf" in str(caught.value)


BOMB = '<!DOCTYPE r [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><robot name="&b;"/>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "DOCTYPE"),
        ("<robot>", "no URDF"),
        ("", "no URDF"),
        ("<sdf/>", "root is <sdf>"),
        ('<?xml version="1.0" encoding="klingon"?><robot/>', "no URDF"),
    ],
)
def test_what_is_no_urdf_is_refused(tmp_path, text, words) -> None:
    path = tmp_path / "toy.urdf"
    path.write_text(text)
    with pytest.raises(RobotFileError) as caught:
        read_urdf(path)
    assert words in str(caught.value) and "toy.urdf" in str(caught.value)


def test_a_missing_urdf_is_refused(tmp_path) -> None:
    with pytest.raises(RobotFileError, match=r"nowhere\.urdf cannot be read"):
        read_urdf(tmp_path / "nowhere.urdf")


@pytest.mark.parametrize(
    ("name", "actuated", "mimics", "continuous"),
    [
        ("allegro_hand_right", 16, 0, 0),
        ("inspire_hand_right", 6, 6, 0),
        ("kinova", 6, 0, 3),
        ("leap_hand_right", 16, 0, 0),
        ("panda_gepetto", 8, 1, 0),
        ("ur5e", 6, 0, 0),
    ],
)
def test_real_robots_are_read(shared, name, actuated, mimics, continuous) -> None:
    urdf = read_urdf(shared / "urdf" / f"{name}.urdf")
    joints = [urdf.joints[joint] for joint in urdf.actuated()]
    assert (len(joints), len(urdf.mimics), sum(j.type == "continuous" for j in joints)) == (actuated, mimics, continuous)
    assert not any(urdf.joints[joint].reasons for joint in (*urdf.actuated(), *urdf.mimics))
