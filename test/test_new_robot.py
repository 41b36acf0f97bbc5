"""Robot files made from URDFs and controller files: what stands in them, what is left open, what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from flow_policy_ros.cli.main import main
from flow_policy_ros.runtime.new_robot import Description, Draft, draft
from flow_policy_ros.runtime.new_robot_controllers import find_variables, read_controllers
from flow_policy_ros.runtime.new_robot_limits import inward, number
from flow_policy_ros.runtime.robot import Robot, RobotFileError, load_robot
from flow_policy_ros.runtime.urdf import read_urdf

LIMIT = '<limit lower="-1" upper="2" velocity="3" effort="4"/>'
TRAJECTORY = "joint_trajectory_controller/JointTrajectoryController"
FORWARD = "forward_command_controller/ForwardCommandController"
URDFS = ("allegro_hand_right", "inspire_hand_right", "kinova", "leap_hand_right", "panda_gepetto", "ur5e")
CONTROLLERS = {  # file: the controllers that can be commanded
    "allegro_v4_single": ["allegro_hand_position_controller"],
    "so101_legalaspro_follower": ["follower/trajectory_controller", "follower/forward_controller"],
    "ur_controllers": ["joint_trajectory_controller", "forward_position_controller"],
}


def joint(name: str, parent: str, child: str, inside: str = LIMIT, kind: str = "revolute") -> str:
    return f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>{inside}</joint>'


def chain(*names: str, base: str = "base", inside: str = LIMIT) -> list[str]:
    """Joints in a row; each link is called as its joint with _link behind it."""
    links = [base, *(f"{name}_link" for name in names)]
    return [joint(name, links[k], links[k + 1], inside) for k, name in enumerate(names)]


def urdf(folder: Path, *joints: str, name: str = "toy", file: str = "toy.urdf") -> Path:
    path = folder / file
    path.write_text(f'<?xml version="1.0"?><robot name="{name}">{"".join(joints)}</robot>')
    return path


def controllers(folder: Path, **nodes: dict[str, Any]) -> Path:
    """A controller file; ``type`` of each goes to the manager."""
    manager: dict[str, Any] = {"update_rate": 250}
    tree: dict[str, Any] = {"controller_manager": {"ros__parameters": manager}}
    for name, parameters in nodes.items():
        manager[name] = {"type": parameters["type"]}
        rest = {key: value for key, value in parameters.items() if key != "type"}
        if rest:
            tree[name] = {"ros__parameters": rest}
    path = folder / "controllers.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def blanks(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The places in a robot file that are TODO."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from blanks(value, (*path, key))
    elif tree == ["TODO", "TODO"] or str(tree).startswith("TODO"):
        yield path


def fill(tree: Any, path: tuple[str, ...]) -> None:
    for key in path[:-1]:
        tree = tree[key]
    meant = {"command_interface": "joint_state", "command_topic": "hand/commands", "position": [-1.0, 1.0]}
    tree[path[-1]] = meant.get(path[-1], 5.0)


def open_keys(made: Draft) -> list[tuple[str, ...]]:
    found = list(blanks(yaml.safe_load("\n".join(made.lines))))
    assert sorted(".".join(path[2:]) for path in found) == sorted(made.todo)
    return found


def written(made: Draft, folder: Path, left: tuple[str, ...] = ()) -> Path:
    """The robot file with every TODO filled in but the one that is ``left``."""
    file, tree = folder / "filled.yaml", yaml.safe_load("\n".join(made.lines))
    for path in open_keys(made):
        if path != left:
            fill(tree, path)
    file.write_text(yaml.safe_dump(tree))
    return file


def filled(made: Draft, folder: Path) -> Robot:
    """The robot once every TODO is filled in."""
    return load_robot(written(made, folder))


def refused_for_each_todo(made: Draft, folder: Path) -> None:
    """Each TODO alone keeps the file from being read."""
    for left in open_keys(made):
        with pytest.raises(RobotFileError) as caught:
            load_robot(written(made, folder, left))
        assert left[-1] in str(caught.value) and "TODO" in str(caught.value)
    if made.todo:
        file = folder / "open.yaml"
        file.write_text("\n".join(made.lines))
        with pytest.raises(RobotFileError) as caught:
            load_robot(file)
        assert all(name in str(caught.value) for name in made.todo)


@pytest.mark.parametrize("embed", [False, True])
@pytest.mark.parametrize("name", URDFS)
def test_every_shared_urdf_gives_a_file_refused_for_its_todos_alone(shared: Path, tmp_path: Path, name: str, embed: bool) -> None:
    path = shared / "urdf" / f"{name}.urdf"
    made = draft(Description(path, tmp_path, embed_limits=embed))
    refused_for_each_todo(made, tmp_path)
    robot, known = filled(made, tmp_path), read_urdf(path)
    assert robot.joints == known.actuated() == made.joints and made.mimics == tuple(known.mimics)
    assert (robot.urdf == "") == embed
    assert sorted(sum(robot.groups.values(), ())) == sorted(robot.joints)
    for k, joint_name in enumerate(robot.joints):
        own, limits = known.joints[joint_name], robot.limits
        assert own.position is not None and own.velocity is not None
        assert own.position[0] <= limits.lower[k] < limits.upper[k] <= own.position[1]
        assert 0.0 < limits.velocity[k] <= own.velocity and limits.effort[k] == own.effort
    origins = {joint_name: kinds["position"] for joint_name, kinds in robot.limits_origin.items()}
    if embed:
        assert set(origins.values()) == {"robot file"}
    else:
        assert all(origin == "urdf" or origin.startswith("mimic ") for origin in origins.values())


@pytest.mark.parametrize("name", URDFS)
def test_embedded_limits_are_those_of_the_urdf_and_its_mimics(shared: Path, tmp_path: Path, name: str) -> None:
    """With two thousandths of a thousandth off at most, so that a reader sees 3.141592 and not fourteen digits."""
    path = shared / "urdf" / f"{name}.urdf"
    apart, together = (filled(draft(Description(path, tmp_path, embed_limits=embed)), tmp_path).limits for embed in (False, True))
    assert np.array_equal(apart.continuous, together.continuous)
    for kind in ("lower", "upper", "velocity"):
        np.testing.assert_allclose(getattr(together, kind), getattr(apart, kind), rtol=0.0, atol=2e-6)
    assert (together.lower >= apart.lower).all() and (together.upper <= apart.upper).all()
    assert (together.velocity <= apart.velocity).all()


GROUPS = {
    "allegro_hand_right": {f"finger_{n + 1}": [f"joint_{k}.0" for k in range(4 * n, 4 * n + 4)] for n in range(4)},
    "inspire_hand_right": {
        "thumb": ["thumb_proximal_yaw_joint", "thumb_proximal_pitch_joint"],
        **{f"{name}_finger": [f"{'pinky' if name == 'little' else name}_proximal_joint"]
           for name in ("index", "middle", "ring", "little")},
    },
    "kinova": {"arm": [f"j2s6s200_joint_{k}" for k in range(1, 7)]},
    "leap_hand_right": {"index_finger": [*"1023"], "middle_finger": [*"5467"], "ring_finger": ["9", "8", "10", "11"],
                        "thumb": ["12", "13", "14", "15"]},
    "panda_gepetto": {"arm": [f"panda_joint{k}" for k in range(1, 8)], "gripper": ["panda_finger_joint1"]},
    "ur5e": {"arm": [f"{name}_joint" for name in ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")]},
}


@pytest.mark.parametrize("name", URDFS)
def test_groups_of_real_robots(shared: Path, tmp_path: Path, name: str) -> None:
    made = draft(Description(shared / "urdf" / f"{name}.urdf", tmp_path))
    assert {group: list(joints) for group, joints in made.groups.items()} == GROUPS[name]


def grouped(tmp_path: Path, *joints: str) -> dict[str, tuple[str, ...]]:
    return draft(Description(urdf(tmp_path, *joints), tmp_path)).groups


def test_a_shadow_hand_on_an_arm(tmp_path: Path) -> None:
    arm = chain(*(f"ra_{name}" for name in ("pan", "lift", "elbow", "w1", "w2", "w3")))
    fingers = {"index_finger": "FF", "middle_finger": "MF", "ring_finger": "RF", "little_finger": "LF", "thumb": "TH"}
    wrist = chain("rh_WRJ2", "rh_WRJ1", base="ra_w3_link")
    rest = [part for short in fingers.values() for part in chain(f"rh_{short}J3", f"rh_{short}J2", base="rh_WRJ1_link")]
    found = grouped(tmp_path, *arm, *wrist, *rest)
    assert found.pop("arm") == tuple(f"ra_{name}" for name in ("pan", "lift", "elbow", "w1", "w2", "w3"))
    assert found.pop("wrist") == ("rh_WRJ2", "rh_WRJ1")
    assert found == {name: (f"rh_{short}J3", f"rh_{short}J2") for name, short in fingers.items()}
    fixed = joint("tool", "base", "camera", "", "fixed")
    ends = [part for short in fingers.values() for part in chain(f"{short}J1", base="WRJ0_link")]
    alone = grouped(tmp_path, *chain("WRJ1", "WRJ0"), *ends, fixed)
    assert alone == {"wrist": ("WRJ1", "WRJ0"), **{name: (f"{short}J1",) for name, short in fingers.items()}}


def test_two_arms_are_told_apart_and_a_gripper_at_the_end_of_a_row(tmp_path: Path) -> None:
    names = ("pan", "lift", "elbow", "roll")
    both = [part for side in ("left", "right") for part in chain(*(f"{side}_{name}" for name in names), f"{side}_gripper")]
    assert grouped(tmp_path, *both) == {
        "left_arm": tuple(f"left_{name}" for name in names), "left_gripper": ("left_gripper",),
        "right_arm": tuple(f"right_{name}" for name in names), "right_gripper": ("right_gripper",),
    }


def test_words_within_words_and_bones_are_no_fingers(tmp_path: Path) -> None:
    """The middle bone of the index finger, and springs."""
    palm = [*chain("index_base", "index_middle"), *chain("spring_1", "spring_2"), *chain("thumb_1")]
    assert grouped(tmp_path, *palm) == {"index_finger": ("index_base", "index_middle"), "finger_1": ("spring_1", "spring_2"),
                                       "thumb": ("thumb_1",)}
    alike = [*chain("a_middle"), *chain("b_middle"), *chain("c_middle")]
    assert list(grouped(tmp_path, *alike)) == ["finger_1", "finger_2", "finger_3"]


def test_a_loop_is_in_no_group_and_a_joint_without_links_is_refused(tmp_path: Path) -> None:
    loop = [joint("x", "p", "q"), joint("y", "q", "p")]
    assert grouped(tmp_path, *chain("a", "b"), *loop) == {"arm": ("a", "b")}
    with pytest.raises(RobotFileError, match="'a' has no <child"):
        grouped(tmp_path, f'<joint name="a" type="revolute"><parent link="base"/>{LIMIT}</joint>')


def test_the_ur_driver_s_file(shared: Path, tmp_path: Path) -> None:
    """tf_prefix is the only value with which the controller's joints are the URDF's."""
    path = shared / "controllers" / "ur_controllers.yaml"
    given = Description(shared / "urdf" / "ur5e.urdf", tmp_path, path, "joint_trajectory_controller")
    made = draft(given)
    robot = filled(made, tmp_path)
    assert (robot.command_interface, robot.command_topic) == (
        "joint_trajectory_chunk", "joint_trajectory_controller/joint_trajectory")
    assert robot.command_joints == robot.joints == tuple(GROUPS["ur5e"]["arm"])
    assert any("speed slider" in check for check in made.checks) and any("tf_prefix" in check for check in made.checks)
    array = filled(draft(Description(given.urdf, tmp_path, path, "forward_position_controller", embed_limits=True)), tmp_path)
    assert (array.command_interface, array.command_topic) == ("float64_array", "forward_position_controller/commands")
    assert array.command_joints == robot.command_joints


@pytest.mark.parametrize("name", CONTROLLERS)
def test_shared_controller_files_with_every_shared_urdf(shared: Path, tmp_path: Path, name: str) -> None:
    """Each pair either makes a robot, or is refused with both sides named: never a file with the wrong joints."""
    path = shared / "controllers" / f"{name}.yaml"
    usable = [controller for controller in read_controllers(path) if not controller.unusable]
    assert [controller.name for controller in usable] == CONTROLLERS[name]
    made = 0
    for controller in usable:
        for other in URDFS:
            given = Description(shared / "urdf" / f"{other}.urdf", tmp_path, path, controller.name)
            try:
                robot = filled(draft(given), tmp_path)
            except RobotFileError as error:
                assert controller.name in str(error) and ("the URDF has" in str(error) or "--variables" in str(error))
            else:
                made += 1
                assert robot.command_interface == controller.interface and robot.command_topic == controller.topic
    assert made == (2 if name == "ur_controllers" else 0)  # the others are of robots whose URDF is not here


def test_an_so101_with_its_name_space(shared: Path, tmp_path: Path) -> None:
    names = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
    described = urdf(tmp_path, *chain(*names))
    path = shared / "controllers" / "so101_legalaspro_follower.yaml"
    made = draft(Description(described, tmp_path, path, "forward_controller"))
    robot = filled(made, tmp_path)
    assert robot.groups == {"arm": names[:5], "gripper": names[5:]} and robot.command_joints == names
    assert (robot.joint_state_topic, robot.command_topic) == ("follower/joint_states", "follower/forward_controller/commands")
    assert robot.parameters["command.rate_hz"] == 100.0


def test_the_controller_s_order_its_mimics_and_its_rate(tmp_path: Path) -> None:
    mimic = LIMIT + '<mimic joint="b" multiplier="-2" offset="0.5"/>'
    described = urdf(tmp_path, *chain("a", "b"), joint("c", "b_link", "c_link", mimic), *chain("d"))
    declared = controllers(tmp_path, hand={"type": FORWARD, "joints": ["c", "b", "a"], "interface_name": "position"})
    made = draft(Description(described, tmp_path, declared))
    robot = filled(made, tmp_path)
    assert (robot.joints, robot.command_joints, made.mimics) == (("b", "a"), ("c", "b", "a"), ("c",))
    assert robot.parameters["command.rate_hz"] == 250.0 and "# [d]" in "".join(made.lines)
    assert robot.limits_origin["b"]["velocity"] == "mimic c" and "narrowed for mimic c" in "".join(made.lines)
    with pytest.raises(RobotFileError, match="takes mimic joints too"):
        draft(Description(described, tmp_path, declared, embed_limits=True))


def test_what_the_urdf_lacks_is_todo_and_nothing_else(tmp_path: Path) -> None:
    lacking = '<limit lower="0" upper="0" velocity="0"/>'
    mimic = '<mimic joint="good"/>'
    described = urdf(
        tmp_path, joint("good", "base", "l1"), joint("bad", "l1", "l2", lacking), joint("slide", "l2", "l3", LIMIT, "prismatic"),
        joint("wheel", "l3", "l4", '<limit velocity="2"/>', "continuous"), joint("follows", "l1", "l5", mimic),
    )
    made = draft(Description(described, tmp_path))
    assert sorted(made.todo) == sorted([
        "robot.command_interface", "robot.command_topic", "robot.fallback.acceleration", "robot.fallback.jerk",
        "robot.limits.bad.position", "robot.limits.bad.velocity", "robot.limits.slide.acceleration", "robot.limits.slide.jerk",
        "robot.limits.follows.position", "robot.limits.follows.velocity",
    ])
    refused_for_each_todo(made, tmp_path)
    robot = filled(made, tmp_path)
    assert robot.limits.upper.tolist() == [1.0, 1.0, 2.0, math.inf]  # good is narrowed by what was filled in for its mimic
    assert "position: the URDF has lower 0 and upper 0; velocity: the URDF has 0" in "".join(made.lines)
    with pytest.raises(RobotFileError, match=r"mimic joint 'follows' narrows 'good' .*position: the URDF has none"):
        draft(Description(described, tmp_path, embed_limits=True))


def joint_limits(folder: Path, **joints: dict[str, Any]) -> Path:
    path = folder / "joint_limits.yaml"
    path.write_text(yaml.safe_dump({"default_velocity_scaling_factor": 0.1, "joint_limits": joints}))
    return path


def all_limits(velocity: float, acceleration: float, jerk: float) -> dict[str, Any]:
    values = {"velocity": velocity, "acceleration": acceleration, "jerk": jerk}
    return {f"has_{kind}_limits": True for kind in values} | {f"max_{kind}": value for kind, value in values.items()}


@pytest.mark.parametrize("embed", [False, True])
def test_a_joint_limits_file_makes_the_file_whole(tmp_path: Path, embed: bool) -> None:
    """Accelerations from it, and speeds and ranges where they are tighter than the URDF's; has_...: false counts for nothing."""
    described = urdf(tmp_path, *chain("a", "b"))
    b = all_limits(99.0, 8.0, 200.0) | {"has_position_limits": True, "min_position": -9.0, "max_position": 1.5}
    told = joint_limits(tmp_path, a=all_limits(2.5, 6.0, 100.0), b=b, stranger={})
    declared = controllers(tmp_path, arm={"type": TRAJECTORY, "joints": ["a", "b"], "command_interfaces": ["position"]})
    file = tmp_path / "whole.yaml"
    options = ["--urdf", str(described), "--controllers", str(declared), "--joint-limits", str(told), "--out", str(file)]
    assert main(["new-robot", *options, *(["--embed-limits"] if embed else [])]) == 0
    robot = load_robot(file)
    limits = robot.limits
    rates = [getattr(limits, kind).tolist() for kind in ("velocity", "acceleration", "jerk")]
    assert rates == [[2.5, 3.0], [6.0, 8.0], [100.0, 200.0]]
    assert (limits.lower.tolist(), limits.upper.tolist()) == ([-1.0, -1.0], [2.0, 1.5])
    assert "TODO" not in robot.limits_source and "joint_limits.yaml" in robot.limits_source
    off = joint_limits(tmp_path, a={**all_limits(2.5, 6.0, 100.0), "has_acceleration_limits": False})
    made = draft(Description(described, tmp_path, declared, joint_limits=off))
    assert "robot.fallback.acceleration" in made.todo and filled(made, tmp_path).limits.acceleration[0] == 5.0


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"has_velocity_limits": True}, "'max_velocity' is missing"),
        ({"has_jerk_limits": True, "max_jerk": 0}, "max_jerk is 0"),
        ({"has_acceleration_limits": True, "max_acceleration": math.inf}, "max_acceleration is inf"),
        ({"has_position_limits": True, "min_position": 1, "max_position": 1}, "min_position 1 and max_position 1"),
        ({"has_position_limits": True, "min_position": 3, "max_position": 4}, "nothing in common"),
        (3, "is 3, expected keys"),
    ],
)
def test_a_bad_joint_limits_file_is_refused(tmp_path: Path, entry: Any, words: str) -> None:
    described = urdf(tmp_path, *chain("a", "b"))
    with pytest.raises(RobotFileError, match=words):
        draft(Description(described, tmp_path, joint_limits=joint_limits(tmp_path, a=entry)))


def test_a_joint_limits_file_of_another_robot_is_refused(tmp_path: Path) -> None:
    described, other = urdf(tmp_path, *chain("a", "b")), joint_limits(tmp_path, c={})
    with pytest.raises(RobotFileError, match=r"limits for \['c'\] and for none of this robot's joints: \['a', 'b'\]"):
        draft(Description(described, tmp_path, joint_limits=other))
    other.write_text("a: 1")
    with pytest.raises(RobotFileError, match="no block 'joint_limits'"):
        draft(Description(described, tmp_path, joint_limits=other))


HAND = {"joints": ["a", "b"]}
REFUSED = {
    "two that could": ({"x": {"type": TRAJECTORY, **HAND}, "y": {"type": FORWARD, "interface_name": "position", **HAND}}, "",
                       "2 controllers that can be commanded: x, y. Choose with --controller"),
    "velocities": ({"x": {"type": FORWARD, "interface_name": "velocity", **HAND}}, "", "interface_name is velocity"),
    "no interface": ({"x": {"type": FORWARD, **HAND}}, "x", "interface_name is not given"),
    "another type": ({"x": {"type": "admittance_controller/AdmittanceController", **HAND}}, "x", "not a type that takes positions"),
    "from point to point": ({"x": {"type": TRAJECTORY, "interpolation_method": "none", **HAND}}, "x", "is not splines"),
    "no joints": ({"x": {"type": TRAJECTORY}}, "x", "no list of joints in this file"),
    "no such one": ({"x": {"type": TRAJECTORY, **HAND}}, "z", "no controller 'z'; it has x"),
    "no topic": ({"x-y": {"type": TRAJECTORY, **HAND}}, "", "its name makes no ROS topic"),
    "strangers": ({"x": {"type": TRAJECTORY, "joints": ["a", "q"]}}, "", r"does not: \['q'\]; the URDF has \['a', 'b'\]"),
    "fixed": ({"x": {"type": TRAJECTORY, "joints": ["a", "b", "still"]}}, "", r"do not move .*'still \(fixed\)'"),
    "a mimic alone": ({"x": {"type": TRAJECTORY, "joints": ["a", "tip"]}}, "", r"\['tip'\], which mimic \['b'\]"),
    "a joint twice": ({"x": {"type": TRAJECTORY, "joints": ["a", "a"]}}, "", "each once"),
    "a variable": ({"x": {"type": TRAJECTORY, "joints": ["$(var side)q"]}}, "", "--variables side:=VALUE"),
    "none": ({}, "", "declares no controllers"),
}


@pytest.mark.parametrize(("nodes", "wanted", "words"), REFUSED.values(), ids=REFUSED)
def test_controllers_that_cannot_be_used_are_refused_with_what_there_is(
    tmp_path: Path, nodes: dict[str, Any], wanted: str, words: str
) -> None:
    mimic = joint("tip", "b_link", "tip_link", LIMIT + '<mimic joint="b"/>')
    described = urdf(tmp_path, *chain("a", "b"), mimic, joint("still", "base", "frame", "", "fixed"))
    with pytest.raises(RobotFileError, match=words) as caught:
        draft(Description(described, tmp_path, controllers(tmp_path, **nodes), wanted))
    assert "controllers.yaml" in str(caught.value) or "x" in str(caught.value)


def test_variables_are_found_only_where_one_value_does(tmp_path: Path) -> None:
    names = {"l_a", "l_b", "r_a", "r_b", "only_c"}
    declared = controllers(tmp_path, x={"type": TRAJECTORY, "joints": ["$(var p)a", "$(var p)b"]},
                           y={"type": TRAJECTORY, "joints": ["$(var p)c"]}, z={"type": TRAJECTORY, "joints": ["$(var p)$(var q)"]})
    x, y, z = sorted((c for c in read_controllers(declared)), key=lambda c: c.name)
    assert find_variables(y, {}, names) == {"p": "only_"} and find_variables(x, {"p": "l_"}, names) == {"p": "l_"}
    for controller, given, words in ((x, {}, "--variables p:=VALUE"), (z, {}, "--variables p:=VALUE q:=VALUE"),
                                     (y, {"p": "", "w": "1"}, r"gives \['w'\].*uses \['p'\]")):
        with pytest.raises(RobotFileError, match=words):
            find_variables(controller, given, names)


def test_checks_of_a_trajectory_controller(tmp_path: Path) -> None:
    described = urdf(tmp_path, *chain("a", "b"))
    for more, words in (
        ({"command_interfaces": ["effort"]}, "follows positions over [effort] with gains that are tuned"),
        ({}, "has the command interface position, which its file does not say"),
        ({"command_interfaces": ["position"], "command_joints": ["a"]}, "every joint below moves"),
        ({"command_interfaces": ["position"], "speed_scaling": {"state_interface": "x"}}, "speed slider is at 100 %"),
    ):
        made = draft(Description(described, tmp_path, controllers(tmp_path, x={"type": TRAJECTORY, **HAND, **more})))
        assert any(words in check for check in made.checks)
        assert sum(name in " ".join(made.checks) for name in ("gains", "its file does not", "every joint below", "slider")) == 1


def test_wildcards_name_spaces_and_a_broadcaster_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "controllers.yaml"
    manager = {"states.type": "joint_state_broadcaster/JointStateBroadcaster", "hand.type": TRAJECTORY}
    path.write_text(yaml.safe_dump({
        "/**/controller_manager": {"ros__parameters": manager}, "/**/hand": {"ros__parameters": {**HAND}},
        "/**/states": {"ros__parameters": {"use_local_topics": True}},
    }))
    robot = filled(draft(Description(urdf(tmp_path, *chain("a", "b")), tmp_path, path)), tmp_path)
    assert (robot.joint_state_topic, robot.command_topic) == ("states/joint_states", "hand/joint_trajectory")


ODD = ("yes", "0", "a: {b", "x\n  limits: {}", "# c", "é", "\x85", "1e3", "{}", "'")


@pytest.mark.parametrize("embed", [False, True])
def test_names_in_a_urdf_cannot_write_the_robot_file(tmp_path: Path, embed: bool) -> None:
    escaped = ["".join(f"&#{ord(letter)};" for letter in name) for name in ODD]
    made = draft(Description(urdf(tmp_path, *chain(*escaped), name=escaped[3]), tmp_path, embed_limits=embed))
    robot = filled(made, tmp_path)
    assert robot.joints == ODD and all("\n" not in line and "\x85" not in line for line in made.lines)
    assert robot.groups == {"arm": ODD} and robot.name == " ".join(ODD[3].split())


def test_numbers_are_read_back_and_never_wider() -> None:
    generator = np.random.default_rng(3)
    for value in (*generator.normal(size=50), *10.0 ** generator.uniform(-20, 20, 50), 0.0, 1e16, 1e-7, -1e22):
        assert yaml.safe_load(number(value)) == value
    for lower, width in zip(generator.uniform(-7, 7, 500), 10.0 ** generator.uniform(-9, 1, 500), strict=True):
        low, high = inward(lower, lower + width)
        assert lower <= low < high <= lower + width and width - (high - low) <= 4e-6
        assert width < 1e-5 or (low, high) == (round(low, 6), round(high, 6))


@pytest.mark.parametrize("embed", [False, True])
def test_rclpy_reads_the_file_as_parameters(tmp_path: Path, embed: bool) -> None:
    """As every node is given it; the parser of rcl is stricter than YAML."""
    rclpy = pytest.importorskip("rclpy")
    made = draft(Description(urdf(tmp_path, *chain("0", "1"), *chain("thumb", inside='<limit lower="0" upper="1" velocity="1"/>')),
                             tmp_path, embed_limits=embed))
    file = tmp_path / "mine.yaml"
    text = "\n".join(made.lines).replace(": TODO", ": 5.0").replace("command_interface: 5.0", "command_interface: joint_state")
    file.write_text(text.replace('"TODO: where the driver takes commands"', "hand/commands"))
    assert load_robot(file).joints == ("0", "1", "thumb")
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        node = rclpy.create_node("reader", context=context, cli_args=["--ros-args", "--params-file", str(file)],
                                 automatically_declare_parameters_from_overrides=True)
        assert node.get_parameter("robot.joints").value == ["0", "1", "thumb"]
        assert node.get_parameter("robot.fallback.jerk").value == 5.0
        assert not embed or node.get_parameter("robot.limits.0.position").value == [-1.0, 2.0]
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)


def test_the_command_writes_the_file_and_says_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "description").mkdir()
    (tmp_path / "robots").mkdir()
    described, file = urdf(tmp_path / "description", *chain("a", "b")), tmp_path / "robots" / "mine.yaml"
    declared, figures = controllers(tmp_path, arm={"type": TRAJECTORY, **HAND}), tmp_path / "made.json"
    words = ["new-robot", "--urdf", str(described), "--controllers", str(declared), "--out", str(file), "--json", str(figures)]
    assert main([*words, "--name", "mine", "--groups", "lower=a", "upper=b"]) == 0
    said, content = capsys.readouterr().out, json.loads(figures.read_text())
    assert f"written to {file}: mine, 2 joints" in said and "TODO: robot.fallback.acceleration, robot.fallback.jerk" in said
    assert content["todo"] == ["robot.fallback.acceleration", "robot.fallback.jerk"] and content["controller"] == "arm"
    assert content["groups"] == {"lower": ["a"], "upper": ["b"]} and content["file"] == str(file) and content["check"]
    assert "urdf: ../description/toy.urdf" in file.read_text() and "file: ../controllers.yaml" in file.read_text()
    assert all(f"CHECK: {check}" in said for check in content["check"])
    with pytest.raises(RobotFileError, match="TODO"):
        load_robot(file)
    before = file.read_text()
    assert main(words) == 2 and file.read_text() == before and "left alone" in capsys.readouterr().err


def test_without_out_the_file_is_printed_and_the_rest_is_said_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new-robot", "--urdf", str(urdf(tmp_path, *chain("a", "b")))]) == 0
    out, err = capsys.readouterr()
    block = yaml.safe_load(out)["/**"]["ros__parameters"]["robot"]
    assert block["urdf"] == "toy.urdf" and block["joints"] == ["a", "b"] and "robot file printed: toy, 2 joints" in err


COMMAND_LINES = {
    "no URDF there": (["--urdf", "nowhere.urdf"], "--urdf nowhere.urdf is no file"),
    "controller alone": (["--controller", "x"], "Give it with --controllers"),
    "variables alone": (["--variables", "a:=b"], "Give it with --controllers"),
    "no pair": (["--controllers", "c", "--variables", "a"], "expected NAME:=VALUE"),
    "a group of strangers": (["--groups", "arm=a,q"], "--groups arm: ['q'] are no joints that are commanded"),
    "a joint twice": (["--groups", "arm=a,a"], "every joint once"),
    "an empty group": (["--groups", "arm="], "every joint once"),
    "a group twice": (["--groups", "arm=a", "arm=b"], "each name once"),
    "no controller file there": (["--controllers", "nowhere.yaml"], "nowhere.yaml cannot be read"),
    "out in no folder": (["--out", "nowhere/mine.yaml"], "the folder nowhere does not exist"),
}


@pytest.mark.parametrize(("words", "said"), COMMAND_LINES.values(), ids=COMMAND_LINES)
def test_bad_command_lines_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    urdf(tmp_path, *chain("a", "b"))
    assert main(["new-robot", *([] if "--urdf" in words else ["--urdf", "toy.urdf"]), *words]) == 2
    assert said in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["toy.urdf"]


@pytest.mark.parametrize(
    ("joints", "words"),
    [
        ([joint("${prefix}a", "base", "x")], "is a xacro file"),
        ([joint("a", "base", "x", "", "fixed")], "has no joint that moves"),
        ([joint("a", "base", "x"), joint("m", "x", "y", '<limit lower="5" upper="6" velocity="1"/><mimic joint="a"/>')],
         "its mimic 'm'"),
    ],
)
def test_descriptions_that_make_no_robot_are_refused(tmp_path: Path, joints: list[str], words: str) -> None:
    with pytest.raises(RobotFileError, match=words):
        draft(Description(urdf(tmp_path, *joints), tmp_path))
