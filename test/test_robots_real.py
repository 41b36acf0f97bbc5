"""The robot files of real robots against their URDFs and the declarations of their controllers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from robots_support import DECLARED, ROOT, UR, robot_of

from flow_policy_ros.runtime.controller_file import controller_joints
from flow_policy_ros.runtime.robot import Robot, load_robot
from flow_policy_ros.safety.limiter import SetpointLimiter

SHARED = ROOT.parent / "shared"
YAMLS = {
    "allegro_right": ("allegro_v4_single.yaml", "allegro_hand_position_controller", {}),
    "so101": ("so101_legalaspro_follower.yaml", "follower/forward_controller", {}),
    "ur5e": ("ur_controllers.yaml", "joint_trajectory_controller", {"tf_prefix": ""}),
}
PANDA_ACCELERATION = (15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0)  # rad/s², Franka, "Limits for Panda"
PANDA_JERK = (7500.0, 3750.0, 5000.0, 6250.0, 7500.0, 10000.0, 10000.0)  # rad/s³


def allegro_in_urdf(joint: str) -> str:
    """The URDF counts index, middle, ring, thumb; the driver's names begin with the thumb."""
    finger, k = int(joint[-2]), int(joint[-1])
    return f"joint_{4 * ((finger - 1) % 4) + k}.0"


def shared(path: str) -> Path:
    if not (SHARED / path).exists():
        pytest.skip(f"{SHARED / path} is absent")
    return SHARED / path


def as_the_urdf_says(folder: Path, urdf: Path, joints: list[str]) -> Robot:
    """A robot with the URDF's limits alone, narrowed for the joints that follow these."""
    block = {"name": "urdf", "urdf": str(urdf), "joints": joints, "fallback": {"acceleration": 1e6}}
    path = folder / f"{urdf.stem}.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": {"robot": block}}}))
    return load_robot(path)


def wider(robot: Robot, joints: list[str], other: Robot) -> list[str]:
    """In what the limits of ``joints`` are wider than those of ``other``, whose joints are the same, under other names."""
    own, rows = robot.limits, [robot.joints.index(joint) for joint in joints]
    found = []
    for row, k in zip(rows, range(len(joints)), strict=True):
        kinds = {
            "lower": own.lower[row] < other.limits.lower[k],
            "upper": own.upper[row] > other.limits.upper[k],
            "velocity": own.velocity[row] > other.limits.velocity[k],
            "effort": own.effort[row] > other.limits.effort[k],
        }
        found += [f"{kind} of {joints[k]}" for kind, is_wider in kinds.items() if is_wider]
    return found


def urdf_parts(name: str) -> dict[str, dict[str, str]]:
    """By URDF: the robot file's joints that are in it, with their names there."""
    leap = {joint: joint.removeprefix("leap_") for joint in DECLARED[name] if name.endswith(("leap", "leap_right"))}
    return {
        "allegro_right": {"allegro_hand_right": {j: allegro_in_urdf(j) for j in DECLARED["allegro_right"]}},
        "leap_right": {"leap_hand_right": leap},
        "inspire_right": {"inspire_hand_right": {j: j for j in DECLARED["inspire_right"]}},
        "ur5e": {"ur5e": {j: j for j in UR}},
        "panda": {"panda_gepetto": {j: j for j in DECLARED["panda"]}},
        "ur5e_leap": {"ur5e": {j: j for j in UR}, "leap_hand_right": {j: k for j, k in leap.items() if j not in UR}},
    }[name]


@pytest.mark.parametrize("name", ["allegro_right", "leap_right", "inspire_right", "ur5e", "panda", "ur5e_leap"])
def test_no_limit_is_wider_than_the_urdfs(name: str, tmp_path: Path) -> None:
    robot = robot_of(name)
    seen: set[str] = set()
    for urdf, names in urdf_parts(name).items():
        reference = as_the_urdf_says(tmp_path, shared(f"urdf/{urdf}.urdf"), [*names.values()])
        assert wider(robot, [*names], reference) == []
        seen |= set(names)
        # The comparison sees each kind of limit, and the right joint.
        joint = [*names][-1]
        row = robot.joints.index(joint)
        for kind, step in (("lower", -10.0), ("upper", 10.0), ("velocity", 10.0), ("effort", 1000.0)):
            values = getattr(robot.limits, kind).copy()
            values[row] += step
            loose = replace(robot, limits=replace(robot.limits, **{kind: values}))
            assert wider(loose, [*names], reference) == [f"{kind} of {joint}"]
    assert seen == set(robot.joints)


def test_inspires_followers_narrow_the_file(tmp_path: Path) -> None:
    names = [*DECLARED["inspire_right"]]
    reference = as_the_urdf_says(tmp_path, shared("urdf/inspire_hand_right.urdf"), names)
    assert len(reference.mimics) == 6
    assert reference.limits_origin["thumb_proximal_pitch_joint"]["velocity"].startswith("mimic ")
    assert reference.limits.velocity[1] < 0.5  # a file with the URDF's own number would let the thumb's tip move too fast


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_what_every_file_says(name: str) -> None:
    robot = robot_of(name)
    limits = robot.limits
    assert robot.name == name and set(robot.joints) == set(DECLARED[name])
    assert robot.limits_source.count(":") + robot.limits_source.count("as ur5e") >= 1
    assert all(
        np.isfinite(getattr(limits, kind)).all() for kind in ("lower", "upper", "velocity", "acceleration", "jerk", "effort")
    )
    assert (limits.lower < limits.upper).all()
    grouped = [joint for members in robot.groups.values() for joint in members]
    assert sorted(grouped) == sorted(robot.joints)
    # Full acceleration needs at least 25 ms, a stop from full speed between a tenth of a second and 1.2 s.
    np.testing.assert_array_less(limits.jerk, limits.acceleration * 40.0 * (1 + 1e-9))
    stop = limits.velocity / limits.acceleration
    assert (stop > 0.1).all() and (stop < 1.2).all()
    if robot.command_interface != "joint_trajectory_chunk":  # taken by place
        assert robot.command_joints == DECLARED[name]


def test_the_panda_is_slower_than_franka_allows() -> None:
    limits = robot_of("panda").limits
    assert (limits.acceleration <= np.array(PANDA_ACCELERATION) / 4).all() and (limits.jerk <= np.array(PANDA_JERK) / 50).all()


@pytest.mark.parametrize("name", sorted(YAMLS))
def test_the_order_is_the_controllers(name: str) -> None:
    file, controller, variables = YAMLS[name]
    declared = controller_joints(shared(f"controllers/{file}"), controller, variables)
    assert declared == DECLARED[name] == robot_of(name).command_joints
    assert robot_of(name).command_topic.rpartition("/")[0] == controller.rpartition("/")[2]


def test_the_way_to_a_stop_is_as_the_checklist_says() -> None:
    rows = {}
    for line in (ROOT / "docs/first_motion.md").read_text().splitlines():
        cells = [cell.strip(" `") for cell in line.split("|")[1:-1]]
        if len(cells) == 5 and cells[0] in DECLARED:
            rows[cells[0]] = (cells[1], *map(float, cells[2:]))
    assert set(rows) == set(DECLARED)
    for name, (joint, time, way, slow) in rows.items():
        robot = robot_of(name)
        assert joint == robot.joints[int((robot.limits.velocity / robot.limits.acceleration).argmax())], name
        measured = stopped(robot, joint, 1.0)
        up = np.array([time, way, slow]) - [*measured, stopped(robot, joint, 0.1)[1]]
        assert (up > -1e-9).all() and (up < 0.0101).all(), (name, up)  # rounded up


def stopped(robot: Robot, joint: str, scale: float) -> tuple[float, float]:
    """(s, rad) that the limiter takes to stop ``joint`` from its full speed, with ``command.limit_scale`` at ``scale``."""
    period, limits, j = 1.0 / float(robot.parameters["command.rate_hz"]), robot.limits.scaled(scale), robot.joints.index(joint)
    limiter = SetpointLimiter(limits, period)
    before = limiter.start(limits.lower).position[j]
    full = (1.0 - 1e-6) * limits.velocity[j] * period
    while (now := limiter.step(limits.upper).position[j]) - before < full:
        before = now
    ticks, begin = 0, now
    while not limiter.at_rest:
        end, ticks = limiter.stop_step().position[j], ticks + 1
    return (ticks - 1) * period, end - begin


def test_every_robot_is_in_the_table_as_its_file_says() -> None:
    page = (ROOT / "docs/robots.md").read_text()
    for name in DECLARED:
        robot = robot_of(name)
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert f"| {len(robot.joints)} |" in row and f"`{robot.command_topic}`" in row


def test_the_pandas_gripper_follows_as_the_page_says(tmp_path: Path) -> None:
    page = (ROOT / "docs/robots.md").read_text()
    path = tmp_path / "panda_with_gripper.yaml"
    path.write_text(page.partition("```yaml\n")[2].partition("```")[0])
    (tmp_path / "panda.urdf").write_bytes(shared("urdf/panda_gepetto.urdf").read_bytes())
    robot = load_robot(path)
    assert [(m.joint, m.master) for m in robot.mimics] == [("panda_finger_joint2", "panda_finger_joint1")]
    finger = robot.joints.index("panda_finger_joint1")
    assert (robot.limits.lower[finger], robot.limits.upper[finger], robot.limits.velocity[finger]) == (0.0, 0.04, 0.1)
