"""Where links are, against MuJoCo's and Pinocchio's kinematics of the same URDFs, and what is refused."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest

from flow_policy_ros.runtime import forward_kinematics
from flow_policy_ros.runtime.forward_kinematics import ForwardKinematics, load_kinematics
from flow_policy_ros.runtime.robot_yaml import RobotFileError
from flow_policy_ros.runtime.urdf import read_urdf

SHARED = sorted((Path(__file__).resolve().parents[2] / "shared" / "urdf").glob("*.urdf"))
STEM = attrgetter("stem")
TOLERANCE_M = 1e-9
SKEW = """<robot name="skew">
 <link name="base"/><link name="upper"/><link name="lower"/><link name="finger"/><link name="nail"/><link name="thumb"/><link name="plate"/>
 <joint name="turn" type="revolute"><parent link="base"/><child link="upper"/><origin xyz="0.1 -0.2 0.3" rpy="0.4 -1.1 2.5"/>
  <axis xyz="0 2 1"/><limit lower="-2" upper="2" velocity="1" effort="1"/></joint>
 <joint name="slide" type="prismatic"><parent link="upper"/><child link="lower"/><origin xyz="0 0.05 0" rpy="-0.3 0 0.7"/>
  <axis xyz="1 1 -1"/><limit lower="-0.5" upper="0.5" velocity="1" effort="1"/></joint>
 <joint name="spin" type="continuous"><parent link="lower"/><child link="finger"/><origin xyz="0.2 0 0"/><axis xyz="0 0 -1"/></joint>
 <joint name="glued" type="fixed"><parent link="finger"/><child link="nail"/><origin xyz="0.03 0.01 0" rpy="0 1 0"/></joint>
 <joint name="follow" type="revolute"><parent link="lower"/><child link="thumb"/><origin xyz="0 0.1 0.02"/><axis xyz="0 1 0"/>
  <limit lower="-2" upper="2" velocity="1" effort="1"/><mimic joint="turn" multiplier="-0.5" offset="0.2"/></joint>
 <joint name="bolted" type="fixed"><parent link="base"/><child link="plate"/></joint>
</robot>"""  # noqa: E501


@pytest.fixture(name="skew")
def skew_fixture(tmp_path: Path) -> Path:
    """A URDF with every kind of joint, skew axes, and a link that nothing moves."""
    path = tmp_path / "skew.urdf"
    path.write_text(SKEW)
    return path


def bare(path: Path, folder: Path) -> Path:
    """The URDF without shapes, whose meshes are not there."""
    tree = ET.parse(path)
    for link in tree.getroot().findall("link"):
        for tag in ("visual", "collision"):
            for part in link.findall(tag):
                link.remove(part)
    out = folder / "bare.urdf"
    tree.write(out)
    return out


def configurations(path: Path, kinematics: ForwardKinematics, count: int = 20) -> dict[str, np.ndarray]:
    """Random positions (count,) of each joint that counts."""
    joints, random = read_urdf(path).joints, np.random.default_rng(1)
    ranges = {name: joints[name].position or (-1.0, 1.0) for name in kinematics.needed}
    return {name: random.uniform(max(ends[0], -3.0), min(ends[1], 3.0), count) for name, ends in ranges.items()}


def by_pinocchio(path: Path, kinematics: ForwardKinematics, positions: dict[str, np.ndarray]) -> np.ndarray:
    """Origins (N, L, 3) as Pinocchio has them."""
    pin = pytest.importorskip("pinocchio")
    model = pin.buildModelFromUrdf(str(path), mimic=False)
    data, rows = model.createData(), []
    mimics = read_urdf(path).mimics
    for k in range(len(next(iter(positions.values())))):
        q = pin.neutral(model)
        for name in list(model.names)[1:]:
            value = positions[name][k] if name in positions else 0.0
            if name in mimics and mimics[name].master in positions:
                value = mimics[name].multiplier * positions[mimics[name].master][k] + mimics[name].offset
            joint = model.joints[model.getJointId(name)]
            q[joint.idx_q : joint.idx_q + joint.nq] = [value] if joint.nq == 1 else [np.cos(value), np.sin(value)]
        pin.framesForwardKinematics(model, data, q)
        rows.append([data.oMf[model.getFrameId(link)].translation.copy() for link in kinematics.links])
    return np.array(rows)


def by_mujoco(path: Path, kinematics: ForwardKinematics, positions: dict[str, np.ndarray], folder: Path) -> np.ndarray:
    """Origins (N, L, 3) as MuJoCo has them."""
    mujoco = pytest.importorskip("mujoco")
    tree = ET.parse(bare(path, folder))
    root = tree.getroot()
    for link in root.findall("link"):  # of bodies that move it wants to know a mass
        for part in link.findall("inertial"):
            link.remove(part)
        inertial = ET.SubElement(link, "inertial")
        ET.SubElement(inertial, "mass", value="1")
        ET.SubElement(inertial, "inertia", ixx="1", iyy="1", izz="1", ixy="0", ixz="0", iyz="0")
    ET.SubElement(ET.SubElement(root, "mujoco"), "compiler", fusestatic="false")
    model = mujoco.MjModel.from_xml_string(ET.tostring(root, encoding="unicode"))
    data, rows = mujoco.MjData(model), []
    mimics = read_urdf(path).mimics
    for k in range(len(next(iter(positions.values())))):
        for i in range(model.njnt):
            name = model.joint(i).name
            value = positions[name][k] if name in positions else 0.0
            if name in mimics and mimics[name].master in positions:
                value = mimics[name].multiplier * positions[mimics[name].master][k] + mimics[name].offset
            data.qpos[model.joint(i).qposadr[0]] = value
        mujoco.mj_kinematics(model, data)
        base = data.xpos[model.body(kinematics.root).id] if kinematics.root != "world" else np.zeros(3)
        rows.append([data.xpos[model.body(link).id] - base for link in kinematics.links])
    return np.array(rows)


@pytest.mark.parametrize("path", SHARED or [pytest.param(None, marks=pytest.mark.skip("no ../shared/urdf"), id="none")], ids=STEM)
def test_links_are_where_others_say(path: Path, tmp_path: Path) -> None:
    everything = [link.get("name", "") for link in ET.parse(path).getroot().findall("link")]
    kinematics = load_kinematics(path)
    assert kinematics.links and set(kinematics.links) <= set(everything)
    positions = configurations(path, kinematics)
    ours = kinematics.positions(positions)
    assert ours.shape == (20, len(kinematics.links), 3)
    assert np.ptp(ours, axis=0).max() > 0.01  # it moves at all
    np.testing.assert_allclose(ours, by_mujoco(path, kinematics, positions, tmp_path), atol=TOLERANCE_M)
    np.testing.assert_allclose(ours, by_pinocchio(bare(path, tmp_path), kinematics, positions), atol=TOLERANCE_M)


def test_every_kind_of_joint_is_where_others_say(skew: Path, tmp_path: Path) -> None:
    kinematics = load_kinematics(skew)
    assert kinematics.root == "base" and kinematics.links == ("nail", "thumb")
    assert set(kinematics.needed) == {"turn", "slide", "spin"}  # the mimic counts by its master
    positions = configurations(skew, kinematics)
    ours = kinematics.positions(positions)
    np.testing.assert_allclose(ours, by_mujoco(skew, kinematics, positions, tmp_path), atol=TOLERANCE_M)
    np.testing.assert_allclose(ours, by_pinocchio(skew, kinematics, positions), atol=TOLERANCE_M)


def test_a_planted_fault_is_seen(skew: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Roll, pitch and yaw in the wrong order are off by far more than the tolerance."""
    kinematics = load_kinematics(skew)
    positions = configurations(skew, kinematics)
    right = by_mujoco(skew, kinematics, positions, tmp_path)
    original = forward_kinematics._from_rpy
    monkeypatch.setattr(forward_kinematics, "_from_rpy", lambda rpy: original(rpy).T)
    assert np.abs(load_kinematics(skew).positions(positions) - right).max() > 0.01


def test_positions_of_one_configuration_and_of_none_given(skew: Path) -> None:
    kinematics = load_kinematics(skew, links=("finger",))
    assert kinematics.positions({}).shape == (1, 3)
    np.testing.assert_allclose(kinematics.positions({}), kinematics.positions({"turn": 0.0, "slide": 0.0, "spin": 1.0}))
    rows = kinematics.positions({"turn": np.zeros((2, 5)), "slide": 0.1})
    assert rows.shape == (2, 5, 1, 3)


def test_only_tips_that_the_robot_moves_are_shown(skew: Path) -> None:
    assert load_kinematics(skew, moved_by=("spin",)).links == ("nail",)
    with pytest.raises(RobotFileError, match=r"no joint of the robot moves \['plate'\]"):
        load_kinematics(skew, links=("plate",), moved_by=("spin",))
    with pytest.raises(RobotFileError, match="no joint of the robot moves any link"):
        load_kinematics(skew, moved_by=("knuckle",))
    with pytest.raises(RobotFileError, match=r"no links \['toe'\].*'finger'"):
        load_kinematics(skew, links=("toe",))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('<child link="upper"/>', '<child link="thumb"/>', "'thumb' has two parents"),
        ('<parent link="base"/><child link="upper"/>', '<parent link="nail"/><child link="upper"/>', "is its own ancestor"),
        ('<joint name="glued" type="fixed"><parent link="finger"/>', '<joint name="glued" type="fixed"><parent link="x"/>',
         r"without a parent: \['base', 'x'\]"),
        ('xyz="0 2 1"', 'xyz="0 0 0"', "joint 'turn' has the axis 0 0 0"),
        ('rpy="0.4 -1.1 2.5"', 'rpy="0.4 -1.1"', "joint 'turn' has rpy='0.4 -1.1'"),
        ('rpy="0.4 -1.1 2.5"', 'rpy="0.4 nan 1"', "joint 'turn' has rpy='0.4 nan 1'"),
        ('<child link="upper"/>', "", "joint 'turn' has no child"),
    ],
)  # fmt: skip
def test_what_is_no_tree_is_refused(skew: Path, before: str, after: str, words: str) -> None:
    assert before in SKEW
    skew.write_text(SKEW.replace(before, after, 1))
    with pytest.raises(RobotFileError, match=words):
        load_kinematics(skew)
