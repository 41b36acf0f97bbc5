"""Limits of a robot from URDF, robot file and fallback; mimics; the controller's order; group factors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from flow_policy_ros.runtime.robot import Robot, RobotFileError, load_robot

URDF = """<?xml version="1.0"?>
<robot name="toy">
  <joint name="base" type="continuous"><limit velocity="2" effort="40"/></joint>
  <joint name="lift" type="prismatic"><limit lower="0" upper="0.5" velocity="0.2" effort="90"/></joint>
  <joint name="knuckle" type="revolute"><limit lower="-0.2" upper="1.6" velocity="4" effort="1"/></joint>
  <joint name="tip" type="revolute"><limit lower="-1.0" upper="0.1" velocity="3"/>
    <mimic joint="knuckle" multiplier="-0.7" offset="0.03"/></joint>
  <joint name="slow" type="revolute"><limit lower="-1" upper="1" velocity="0"/></joint>
  <joint name="mute" type="revolute"><limit lower="-1" upper="1"/></joint>
  <joint name="mount" type="fixed"/>
  <joint name="world" type="floating"/>
</robot>
"""
JOINTS = ["knuckle", "base", "lift"]
FALLBACK = {"acceleration": 20.0, "jerk": 400.0}


def load(tmp_path: Path, **robot) -> Robot:
    """A robot of ``JOINTS`` with the URDF above; keys given as None are left out."""
    (tmp_path / "toy.urdf").write_text(URDF)
    block = {"name": "toy", "urdf": "toy.urdf", "joints": JOINTS, "fallback": FALLBACK, **robot}
    path = tmp_path / "toy.yaml"
    kept = {key: value for key, value in block.items() if value is not None}
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": {"robot": kept}}}))
    return load_robot(path)


def test_robot_file_before_urdf_before_fallback_and_each_value_says_so(tmp_path) -> None:
    robot = load(tmp_path, limits={"lift": {"velocity": 0.5, "jerk": 7.0, "tracking": 0.01}, "base": {"effort": 50}})
    limits, origin = robot.limits, robot.limits_origin
    base, lift = JOINTS.index("base"), JOINTS.index("lift")
    assert limits.velocity[[base, lift]].tolist() == [2.0, 0.5]
    assert limits.acceleration[lift] == 20.0 and limits.jerk[[base, lift]].tolist() == [400.0, 7.0]
    assert limits.effort.tolist() == [1.0, 50.0, 90.0]
    assert limits.tracking.tolist() == [np.inf, np.inf, 0.01]
    assert (limits.lower[lift], limits.upper[lift]) == (0.0, 0.5)
    assert origin["lift"] == {"position": "urdf", "velocity": "robot file", "acceleration": "fallback", "jerk": "robot file",
                              "tracking": "robot file", "effort": "urdf"}
    assert origin["base"]["effort"] == "robot file" and "tracking" not in origin["base"]
    assert robot.urdf == str(tmp_path / "toy.urdf")


def test_continuous_joints_have_no_ends_unless_they_are_given_some(tmp_path) -> None:
    limits = load(tmp_path).limits
    assert limits.continuous.tolist() == [False, True, False]
    assert (limits.lower[1], limits.upper[1]) == (-np.inf, np.inf)
    limits = load(tmp_path, limits={"base": {"position": [-3, 3]}}).limits
    assert not limits.continuous.any() and (limits.lower[1], limits.upper[1]) == (-3.0, 3.0)
    assert load(tmp_path, limits={"knuckle": {"continuous": True}, "tip": {"position": [-9.0, 9.0]}}).limits.lower[0] > -14


def test_without_a_urdf_the_robot_file_says_continuous_and_the_fallback_holds(tmp_path) -> None:
    robot = load(tmp_path, urdf=None, joints=["a", "b"], fallback={**FALLBACK, "velocity": 2},
                 limits={"a": {"continuous": True}, "b": {"position": [0, 1], "velocity": 3.0, "jerk": float("inf")}})
    assert robot.limits.continuous.tolist() == [True, False] and robot.limits.velocity.tolist() == [2.0, 3.0]
    assert robot.limits.jerk.tolist() == [400.0, np.inf] and robot.limits_origin["a"]["position"] == "robot file"
    assert (robot.urdf, robot.mimics, robot.command_joints) == ("", (), ("a", "b"))


def test_missing_and_zero_velocities_are_refused_by_joint_or_declared(tmp_path) -> None:
    joints = [*JOINTS, "slow", "mute"]
    with pytest.raises(RobotFileError) as caught:
        load(tmp_path, joints=joints)
    words = str(caught.value)
    assert "'velocity' is missing for slow (the URDF has 0); mute (the URDF has none)" in words
    assert "toy.yaml" in words and "toy.urdf" in words and "robot.limits.JOINT.velocity or robot.fallback.velocity" in words
    assert "lift" not in words
    robot = load(tmp_path, joints=joints, fallback={**FALLBACK, "velocity": 0.3}, limits={"mute": {"velocity": 0.4}})
    assert robot.limits.velocity[-3:].tolist() == [0.2, 0.3, 0.4]
    assert [robot.limits_origin[j]["velocity"] for j in joints[-3:]] == ["urdf", "fallback", "robot file"]


def test_every_missing_kind_is_named_at_once(tmp_path) -> None:
    with pytest.raises(RobotFileError) as caught:
        load(tmp_path, joints=["slow", "lift"], fallback=None)
    assert "'velocity' is missing for slow" in str(caught.value)
    assert "'acceleration' is missing for slow, lift (a URDF never has one)" in str(caught.value)


def test_masters_keep_their_mimics_within_their_own_limits(tmp_path) -> None:
    robot = load(tmp_path, joints="all", fallback={**FALLBACK, "velocity": 1.0},
                 limits={"tip": {"acceleration": 7.0, "jerk": 70.0, "velocity": 1.4}})
    assert robot.joints == ("base", "lift", "knuckle", "slow", "mute")
    k = robot.joints.index("knuckle")
    # -0.7 m + 0.03 in [-1, 0.1] allows m in [-0.1, 1.4714]
    assert (robot.limits.lower[k], robot.limits.upper[k]) == pytest.approx((-0.1, 1.03 / 0.7))
    assert (robot.limits.velocity[k], robot.limits.acceleration[k], robot.limits.jerk[k]) == pytest.approx((2.0, 10.0, 100.0))
    assert robot.limits_origin["knuckle"]["position"] == robot.limits_origin["knuckle"]["jerk"] == "mimic tip"
    assert robot.limits_origin["slow"] == {**robot.limits_origin["slow"], "position": "urdf", "velocity": "fallback"}


def test_at_the_masters_ends_no_mimic_is_outside_by_even_one_rounding(tmp_path) -> None:
    generator = np.random.default_rng(3)
    path = tmp_path / "many.urdf"
    parts, bounds = [], {}
    for k in range(400):
        multiplier, offset = generator.normal(scale=2), generator.normal()
        centre = multiplier * generator.uniform(-0.5, 0.5) + offset
        low, high = bounds[f"m{k}"] = (centre - generator.uniform(0.01, 1.0), centre + generator.uniform(0.01, 1.0))
        parts.append(
            f'<joint name="j{k}" type="revolute"><limit lower="-3" upper="3" velocity="1"/></joint>'
            f'<joint name="m{k}" type="revolute"><limit lower="{low!r}" upper="{high!r}" velocity="9"/>'
            f'<mimic joint="j{k}" multiplier="{multiplier!r}" offset="{offset!r}"/></joint>'
        )
    path.write_text(f"<robot>{''.join(parts)}</robot>")
    names = [f"m{k}" for k in range(400)]
    robot = load(tmp_path, urdf="many.urdf", joints="all", command_joints=[f"j{k}" for k in range(400)] + names)
    lower, upper = np.array([bounds[name] for name in names]).T
    for master in (robot.limits.lower, robot.limits.upper):
        sent = robot.command_positions(master)[400:]
        assert (sent >= lower).all() and (sent <= upper).all()
        nearest = np.minimum(np.minimum(sent - lower, upper - sent), np.minimum(master + 3, 3 - master))
        assert np.abs(nearest).max() < 1e-12  # nothing is given away either


def test_a_mimic_that_cannot_follow_its_master_is_refused(tmp_path) -> None:
    with pytest.raises(RobotFileError, match=r"'knuckle' has range \[1.48, 1.6\], but its mimic 'tip'"):
        load(tmp_path, limits={"knuckle": {"position": [1.48, 1.6]}})


def test_a_mimic_needs_no_acceleration_of_its_own(tmp_path) -> None:
    robot = load(tmp_path, joints=["knuckle"], fallback=None, limits={"knuckle": {"acceleration": 5.0}})
    assert robot.limits.acceleration.tolist() == [5.0] and robot.limits.jerk.tolist() == [np.inf]


def test_mimics_without_a_master_among_the_joints_play_no_part(tmp_path) -> None:
    robot = load(tmp_path, joints=["lift", "base"])
    assert robot.mimics == () and robot.command_joints == ("lift", "base")


def test_the_soft_margin_narrows_the_urdfs_ranges_alone(tmp_path) -> None:
    robot = load(tmp_path, soft_margin=0.05, limits={"knuckle": {"position": [0.0, 1.0]}})
    assert (robot.limits.lower[2], robot.limits.upper[2]) == pytest.approx((0.05, 0.45))
    # tip: -0.7 m + 0.03 in [-0.95, 0.05] allows m in [-0.0286, 1.4]
    assert (robot.limits.lower[0], robot.limits.upper[0]) == (0.0, 1.0)
    assert robot.limits.continuous[1]
    remedy = r"'position' is missing for lift \(soft_margin 0.3 .*: give robot.limits.JOINT.position\."
    with pytest.raises(RobotFileError, match=remedy):
        load(tmp_path, soft_margin=0.3)


REFUSED = {
    "a mimic": ({"joints": ["tip"]}, "'tip', which mimics 'knuckle'"),
    "a fixed joint": ({"joints": ["mount"]}, "'mount', which is fixed"),
    "a floating joint": ({"joints": ["world"]}, "'world', which is floating"),
    "a joint the URDF lacks": ({"joints": ["lift", "toe"]}, "names ['toe'], which"),
    "all without URDF": ({"joints": "all", "urdf": None, "limits": {}}, "'all', which needs a robot.urdf"),
    "margin without URDF": ({"soft_margin": 0.1, "urdf": None, "limits": {}}, "robot.soft_margin"),
    "negative margin": ({"soft_margin": -0.1}, "soft_margin is -0.1"),
    "margin is a word": ({"soft_margin": "much"}, "'soft_margin' is 'much'"),
    "no such URDF": ({"urdf": "toe.urdf"}, "toe.urdf cannot be read"),
    "limits of a stranger": ({"limits": {"slow": {"velocity": 1.0}}}, "unknown joints ['slow']"),
    "effort of a mimic": ({"limits": {"tip": {"effort": 1.0}}}, "limits.tip: unknown keys ['effort']"),
    "misspelt fallback": ({"fallback": {"accelaration": 1.0}}, "robot.fallback: unknown keys ['accelaration']"),
    "fallback of zero": ({"fallback": {"velocity": 0}}, "fallback.velocity is 0"),
    "endless acceleration": ({"fallback": {"acceleration": float("inf")}}, "fallback.acceleration is inf"),
    "a fallback alone": ({"urdf": None, "joints": ["a"], "limits": {"a": {}}, "fallback": {**FALLBACK, "velocity": 2.0}},
                         "'position' is missing for a (robot.limits has none): give robot.limits.JOINT.position"),
    "position as fallback": ({"fallback": {"position": [0, 1]}}, "unknown keys ['position']"),
    "negative jerk": ({"limits": {"lift": {"jerk": -1.0}}}, "limits.lift.jerk is -1.0"),
    "NaN tracking": ({"limits": {"lift": {"tracking": float("nan")}}}, "limits.lift.tracking is nan"),
    "continuous slide": ({"limits": {"lift": {"continuous": True}}}, "limits.lift.continuous"),
    "continuous with a range": ({"limits": {"base": {"continuous": True, "position": [0, 1]}}}, "Give one of them"),
    "continuous is a number": ({"limits": {"base": {"continuous": 1}}}, "'continuous' is 1"),
    "neither continuous nor a range": ({"limits": {"base": {"continuous": False}}}, "'position' is missing for base"),
    "too few command joints": ({"command_joints": ["lift", "base"]}, "only in robot.joints: ['knuckle']"),
    "strange command joint": ({"command_joints": [*JOINTS, "slow"]}, "no mimic of a joint: ['slow']"),
    "command joint twice": ({"command_joints": [*JOINTS, "lift"]}, "each once"),
    "two orders": ({"command_joints": JOINTS, "controller": {"file": "c.yaml", "name": "c"}}, "Give one of them"),
    "controller without name": ({"controller": {"file": "c.yaml"}}, "robot.controller: 'name' is missing"),
}


@pytest.mark.parametrize(("robot", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_robot_is_refused_by_path_and_key(tmp_path, robot, words) -> None:
    with pytest.raises(RobotFileError) as caught:
        load(tmp_path, **robot)
    assert words in str(caught.value) and ("toy.yaml" in str(caught.value) or "toe.urdf" in str(caught.value))


def test_the_controller_is_sent_its_own_order_with_mimics_computed(tmp_path) -> None:
    (tmp_path / "controllers.yaml").write_text(
        yaml.safe_dump({"hand": {"ros__parameters": {"joints": ["tip", "$(var side)lift", "knuckle", "base"]}}})
    )
    robot = load(tmp_path, controller={"file": "controllers.yaml", "name": "hand", "variables": {"side": ""}})
    assert robot.command_joints == ("tip", "lift", "knuckle", "base")
    position = np.array([0.5, -4.0, 0.25])  # knuckle, base, lift
    assert robot.command_positions(position).tolist() == [-0.7 * 0.5 + 0.03, 0.25, 0.5, -4.0]
    assert np.array_equal(robot.command_positions(np.stack([position, 2 * position]))[0], robot.command_positions(position))
    by_hand = load(tmp_path, command_joints=["lift", "base", "knuckle"])
    assert by_hand.command_positions(position).tolist() == [0.25, -4.0, 0.5]
    assert load(tmp_path).command_joints == tuple(JOINTS)


def test_a_controller_of_other_joints_is_refused_with_both_sides(tmp_path) -> None:
    (tmp_path / "controllers.yaml").write_text(yaml.safe_dump({"hand": {"ros__parameters": {"joints": ["lift", "toe"]}}}))
    with pytest.raises(RobotFileError) as caught:
        load(tmp_path, controller={"file": "controllers.yaml", "name": "hand"})
    assert "only in robot.joints: ['knuckle', 'base']" in str(caught.value) and "['toe']" in str(caught.value)
    assert "controllers.yaml" in str(caught.value)


GROUPS = {"arm": ["base", "lift"], "finger": ["knuckle"], "all": ["knuckle", "base"]}


def test_group_factors_scale_their_joints(tmp_path) -> None:
    robot = load(tmp_path, groups=GROUPS)
    assert robot.group_scales("").tolist() == [1.0, 1.0, 1.0]
    assert robot.group_scales(" finger=0.2 arm=0.5").tolist() == [0.2, 0.5, 0.5]
    limits = robot.limits.scaled(robot.group_scales("arm=0.5"))
    for kind in ("velocity", "acceleration", "jerk"):
        before, after = getattr(robot.limits, kind), getattr(limits, kind)
        assert np.array_equal(after, before * [1.0, 0.5, 0.5])
    assert np.array_equal(limits.effort, robot.limits.effort) and np.array_equal(limits.upper, robot.limits.upper)


@pytest.mark.parametrize(
    ("text", "words"),
    [("leg=0.5", "no group 'leg'"), ("arm", "factor is ''"), ("arm=0", "factor is '0'"), ("arm=1.1", "factor is '1.1'"),
     ("arm=nan", "factor is 'nan'"), ("arm=-1", "factor is '-1'"), ("arm=0.5 all=0.5", "'base' already has")],
)
def test_a_bad_group_factor_is_refused(tmp_path, text, words) -> None:
    with pytest.raises(RobotFileError) as caught:
        load(tmp_path, groups=GROUPS).group_scales(text)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["allegro_hand_right", "inspire_hand_right", "kinova", "leap_hand_right", "panda_gepetto", "ur5e"])
def test_real_robots_load_with_a_declared_fallback(tmp_path, shared, name) -> None:
    robot = load(tmp_path, urdf=str(shared / "urdf" / f"{name}.urdf"), joints="all", soft_margin=0.005)
    limits = robot.limits
    for values in (limits.velocity, limits.acceleration, limits.jerk, limits.effort):
        assert np.isfinite(values).all() and (values > 0).all()
    assert np.array_equal(limits.continuous, np.isinf(limits.upper)) and (limits.lower < limits.upper).all()
    assert not {mimic.joint for mimic in robot.mimics} & set(robot.joints)
    with pytest.raises(RobotFileError, match="'acceleration' is missing for"):
        load(tmp_path, urdf=robot.urdf, joints="all", fallback=None)


def test_the_inspire_hands_thumb_is_held_back_by_its_mimics(tmp_path, shared) -> None:
    """Its pitch joint may turn 0.6 rad, but the joint that follows by 1.334 only 0.8, and no faster than 0.5 rad/s."""
    robot = load(tmp_path, urdf=str(shared / "urdf" / "inspire_hand_right.urdf"), joints="all")
    pitch = robot.joints.index("thumb_proximal_pitch_joint")
    assert robot.limits.upper[pitch] == pytest.approx(0.8 / 1.334) and robot.limits.velocity[pitch] == pytest.approx(0.5 / 1.334)
    assert robot.limits_origin["thumb_proximal_pitch_joint"]["velocity"] == "mimic thumb_intermediate_joint"


def test_the_allegros_controller_has_other_names_than_its_urdf(tmp_path, shared) -> None:
    controller = {"file": str(shared / "controllers" / "allegro_v4_single.yaml"), "name": "allegro_hand_position_controller"}
    with pytest.raises(RobotFileError) as caught:
        load(tmp_path, urdf=str(shared / "urdf" / "allegro_hand_right.urdf"), joints="all", controller=controller)
    assert "'joint_0.0'" in str(caught.value) and "'ah_joint00'" in str(caught.value)


def test_the_urs_controller_gives_its_order(tmp_path, shared) -> None:
    controller = {"file": str(shared / "controllers" / "ur_controllers.yaml"), "name": "forward_position_controller",
                  "variables": {"tf_prefix": ""}}
    joints = ["wrist_3_joint", "elbow_joint", "shoulder_lift_joint", "wrist_1_joint", "shoulder_pan_joint", "wrist_2_joint"]
    robot = load(tmp_path, urdf=str(shared / "urdf" / "ur5e.urdf"), joints=joints, controller=controller)
    assert robot.command_joints[:3] == ("shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint")
    assert robot.command_positions(np.arange(6.0)).tolist() == [4.0, 2.0, 1.0, 3.0, 5.0, 0.0]
