"""The collision check: true distances, slowing and stopping in time, and a way out from wherever the robot stands.

Distances are compared with formulas and with Pinocchio asked about every pair, without the culling that is tested.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from flow_policy_ros.runtime.robot import JointLimits, Mimic
from flow_policy_ros.safety.acceleration_limiter import AccelerationLimiter
from flow_policy_ros.safety.collision import CollisionMonitor, Workspace, workspace_from
from flow_policy_ros.safety.collision_model import CollisionError, Declared, Sphere, collision_from

HANDS = Path(__file__).resolve().parents[2] / "shared" / "urdf"
PERIOD, MARGIN = 0.01, 0.02
LENGTH, RADIUS, APART = 0.1, 0.01, 0.1  # m: of the fingers, of their tips, between their roots

try:
    import pinocchio as pin
except ImportError:
    pin = None
needs_pin = pytest.mark.skipif(pin is None, reason="needs Pinocchio: pip install pin")
needs_hands = pytest.mark.skipif(not HANDS.is_dir(), reason="needs the URDFs of real hands in ../shared/urdf")

TIP = f'<sphere radius="{RADIUS}"/>'


def finger(name: str, x: float, shape: str = TIP, kind: str = "revolute") -> str:
    """A link that swings about y at (x, 0, 0), with ``shape`` at its end; joint and link have one name."""
    end = f'<collision><origin xyz="0 0 {LENGTH}"/><geometry>{shape}</geometry></collision>' if shape else ""
    return (
        f'<link name="{name}"><visual><geometry>{TIP}</geometry></visual>{end}</link><joint name="{name}" type="{kind}">'
        f'<parent link="base"/><child link="{name}"/><origin xyz="{x} 0 0"/><axis xyz="0 1 0"/>'
        '<limit lower="-3" upper="3" effort="1" velocity="9"/></joint>'
    )


def urdf(folder: Path, *parts: str) -> Path:
    path = folder / "robot.urdf"
    path.write_text(f'<robot name="test"><link name="base"/>{"".join(parts)}</robot>')
    return path


def two_fingers(folder: Path, margin: float = MARGIN, **options) -> CollisionMonitor:
    path = urdf(folder, finger("left", -APART / 2), finger("right", APART / 2))
    return CollisionMonitor(path, ["left", "right"], margin, period_s=PERIOD, **options)


def tip_distance(left, right):
    """Of the two fingers' tips, by hand; angles in rad."""
    gap = APART + LENGTH * (np.sin(right) - np.sin(left))
    return np.hypot(gap, LENGTH * (np.cos(right) - np.cos(left))) - 2 * RADIUS


def closing(distance: float) -> float:
    """The angle at which both fingers, closed alike, leave ``distance``."""
    return float(np.arcsin((APART - 2 * RADIUS - distance) / (2 * LENGTH)))


@needs_pin
def test_two_spheres_are_as_far_apart_as_the_formula_says(tmp_path: Path) -> None:
    monitor = two_fingers(tmp_path)
    for left, right in np.random.default_rng(0).uniform(-1.5, 1.5, (200, 2)):
        found = monitor.distance([left, right])
        assert found.distance_m == pytest.approx(tip_distance(left, right), abs=1e-12)
        assert found.pair == ("left", "right")


@needs_pin
def test_a_mimic_moves_in_the_model(tmp_path: Path) -> None:
    path = urdf(tmp_path, finger("left", -APART / 2), finger("right", APART / 2))
    monitor = CollisionMonitor(path, ["left"], MARGIN, mimics=[Mimic("right", "left", -0.5, 0.1)])
    for angle in (-0.4, 0.0, 0.3):
        assert monitor.distance([angle]).distance_m == pytest.approx(tip_distance(angle, 0.1 - 0.5 * angle), abs=1e-12)


@needs_pin
def test_a_held_joint_and_one_without_stops(tmp_path: Path) -> None:
    path = urdf(tmp_path, finger("left", -APART / 2, kind="continuous"), finger("right", APART / 2))
    monitor = CollisionMonitor(path, ["left"], MARGIN, declared=Declared(held={"right": -0.2}))
    for angle in (0.3, 0.3 + 2 * np.pi, 0.3 - 8 * np.pi):
        assert monitor.distance([angle]).distance_m == pytest.approx(tip_distance(0.3, -0.2), abs=1e-9)


@needs_pin
def test_the_factor_falls_from_one_at_the_margin_to_zero_at_half(tmp_path: Path) -> None:
    monitor = two_fingers(tmp_path)
    factors = []
    for distance in np.linspace(1.2, 0.3, 19) * MARGIN:
        angle = closing(distance)
        factors.append(monitor.scale([angle, -angle], [1e-4, -1e-4]))
        assert factors[-1] == pytest.approx(np.clip(2 * distance / MARGIN - 1, 0, 1) if distance > 0.53 * MARGIN else 0.0, abs=1e-3)
    assert factors[0] == 1.0 and factors[-1] == 0.0 and (np.diff(factors) <= 0).all()


@needs_pin
@pytest.mark.parametrize("distance", [0.8 * MARGIN, 0.5 * MARGIN, 0.0, -0.5 * RADIUS])
def test_from_inside_the_margin_one_may_move_out_and_stand_but_not_in(tmp_path: Path, distance: float) -> None:
    monitor, angle = two_fingers(tmp_path), closing(distance)
    position = [angle, -angle]
    assert monitor.scale(position, [-1.0, 1.0]) == 1.0
    assert monitor.scale(position, [-1.0, 0.0]) == 1.0
    assert monitor.scale(position, [0.0, 0.0]) == 1.0
    braking = monitor.scale(position, [-1.0, 1.0], moving=[0.2, -0.2])  # still moving inwards: the plan leads out
    assert braking == 1.0
    inwards = monitor.approach(position, [1.0, -1.0])
    assert inwards.factor < 1.0 and inwards.clearance is not None
    assert inwards.clearance.distance_m == pytest.approx(distance, abs=1e-9)


@needs_pin
def test_who_moves_apart_hides_nobody_who_comes_nearer(tmp_path: Path) -> None:
    """The nearest pair opens; another, less near, closes."""
    apart = 0.06
    parts = [finger(name, x) for name, x in (("left", -apart), ("middle", 0.0), ("right", apart))]
    monitor = CollisionMonitor(urdf(tmp_path, *parts), ["left", "middle", "right"], MARGIN)
    angles = np.linspace(0.0, 0.5, 5001)  # of a finger that leans towards the middle one, which stands
    between = np.hypot(apart - LENGTH * np.sin(angles), LENGTH * (1 - np.cos(angles))) - 2 * RADIUS
    left, right = (angles[np.argmax(between < share * MARGIN)] for share in (0.1, 0.6))
    assert monitor.distance([left, 0.0, -right]).pair == ("left", "middle")
    answer = monitor.approach([left, 0.0, -right], [-1.0, 0.0, -0.01])
    assert answer.factor < 0.5 and answer.clearance is not None and answer.clearance.pair == ("middle", "right")


@needs_pin
def test_nothing_is_jumped_over_however_fast(tmp_path: Path) -> None:
    """The tips would be past each other one period on, and farther apart than now."""
    monitor = two_fingers(tmp_path)
    position, velocity = np.array([0.3, -0.3]), np.array([150.0, -150.0])
    assert tip_distance(*(position + PERIOD * velocity)) > tip_distance(*position) > MARGIN
    assert monitor.scale(position, velocity) == 0.0


def drive(monitor: CollisionMonitor | None, speed: float, acceleration: float) -> tuple[np.ndarray, bool]:
    """Close both fingers through each other along a plan: distances at every set-point, and whether the check stopped it."""
    one = np.ones(2)
    limits = JointLimits(("left", "right"), -3 * one, 3 * one, speed * one, acceleration * one, np.inf * one)
    limiter = AccelerationLimiter(limits, PERIOD)
    position, moving, stopped = limiter.start([-0.5, 0.5]).position, np.zeros(2), False
    planned, direction, distances = position.copy(), np.array([1.0, -1.0]), []
    for tick in range(int(4.0 / (speed * PERIOD))):
        plan = min(speed, 0.5 * acceleration * PERIOD * tick) * direction  # the plan itself keeps the limits
        factor = monitor.advance(position, position + PERIOD * plan, moving) if monitor else 1.0
        stopped = stopped or factor == 0.0
        planned = planned + factor * PERIOD * plan
        step = limiter.stop_step() if stopped else limiter.step(np.clip(planned, -3, 3))
        position, moving = step.position, step.velocity
        distances.append(tip_distance(*position))
    assert not stopped or not moving.any()
    return np.array(distances), stopped


@needs_pin
@pytest.mark.parametrize(("speed", "acceleration"), [(0.2, 5.0), (1.0, 20.0), (3.0, 40.0), (3.0, 10.0), (6.0, 400.0)])
def test_the_fingers_slow_then_stop_and_never_touch(tmp_path: Path, speed: float, acceleration: float) -> None:
    through, _ = drive(None, speed, acceleration)
    assert through.min() < 0.0  # the plan does lead through
    monitor = two_fingers(tmp_path, acceleration=acceleration)
    distances, stopped = drive(monitor, speed, acceleration)
    assert stopped
    assert distances.min() > 0.4 * MARGIN
    # It was not stopped long before, either: at most what one tick of speeding up and braking again would take.
    assert distances[-1] < 0.6 * MARGIN + 2 * LENGTH * min(2.0 * acceleration * PERIOD, speed) * PERIOD
    speeds = -np.diff(distances)
    assert speeds[-1] == 0.0 and speeds[np.flatnonzero(speeds)[-1]] < 0.2 * speeds.max()  # slowed on the way, not cut off
    assert monitor.problem is not None and "left and right" in monitor.problem


@needs_pin
def test_a_check_that_does_not_know_the_brakes_comes_too_late(tmp_path: Path) -> None:
    """So that the test above could fail: with a weak brake the margin alone is no protection."""
    distances, _ = drive(two_fingers(tmp_path), 3.0, 10.0)
    assert distances.min() < 0.0


@needs_pin
def test_the_problem_names_both_links_and_the_distance_and_goes_away(tmp_path: Path) -> None:
    monitor, angle = two_fingers(tmp_path), closing(0.4 * MARGIN)
    assert monitor.problem is None
    assert monitor.advance([angle, -angle], [angle + 0.01, -angle]) == 0.0
    assert re.match(r"left and right are 8\.0 mm apart", str(monitor.problem))
    assert monitor.advance([angle, -angle], [angle - 0.01, -angle]) == 1.0
    assert monitor.problem is None


@needs_pin
def test_lower_limits_mean_braking_earlier(tmp_path: Path) -> None:
    monitor, angle = two_fingers(tmp_path, acceleration=1000.0), closing(1.3 * MARGIN)
    question = ([angle, -angle], [1.0, -1.0])
    assert monitor.scale(*question) == 1.0
    monitor.change(10.0)
    assert monitor.scale(*question) < 1.0
    assert monitor.scale(*question, moving=[0.0, 0.0]) == 1.0  # a robot that stands has nothing to brake


@needs_pin
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_never_passes(tmp_path: Path, bad: float) -> None:
    monitor = two_fingers(tmp_path)
    good = [0.0, 0.0]
    for call in (
        lambda: monitor.distance([0.0, bad]),
        lambda: monitor.near([0.0, bad]),
        lambda: monitor.approach([bad, 0.0], good),
        lambda: monitor.approach(good, [0.0, bad]),
        lambda: monitor.approach(good, good, [bad, 0.0]),
        lambda: monitor.advance(good, [bad, 0.0]),
        lambda: monitor.distance([0.0]),
    ):
        with pytest.raises(ValueError, match="finite"):
            call()


@needs_pin
def test_the_workspace_slows_the_way_out_and_not_the_way_back(tmp_path: Path) -> None:
    path = urdf(tmp_path, finger("left", 0.0), '<link name="tip"/><joint name="end" type="fixed"><parent link="left"/>'
                f'<child link="tip"/><origin xyz="0 0 {LENGTH}"/></joint>')  # fmt: skip
    box = Workspace(("tip",), np.array([-1.0, -1.0, 0.0]), np.array([0.06, 1.0, 0.5]))
    monitor = CollisionMonitor(path, ["left"], MARGIN, workspace=box)
    for angle in (0.0, 0.3, 0.5, 0.7):
        found = monitor.distance([angle])
        inside = 0.06 - LENGTH * np.sin(angle)
        assert found.distance_m == pytest.approx(inside, abs=1e-12)
        assert found.pair == ("tip", "workspace upper x")
        assert monitor.scale([angle], [1e-4]) == pytest.approx(np.clip(2 * inside / MARGIN - 1, 0, 1), abs=1e-3)
        assert monitor.scale([angle], [-1e-4]) == 1.0


def brute_force(text: str, ignore: set[frozenset[str]]):
    """All distances of a URDF by Pinocchio itself: a function of the position, and the pairs of links, neighbours left out."""
    model = pin.buildModelFromXML(text)
    geometry = pin.buildGeomFromUrdfString(model, text, pin.GeometryType.COLLISION)
    shapes = list(geometry.geometryObjects)
    names = [model.frames[shape.parentFrame].name for shape in shapes]
    pairs = []
    for a, first in enumerate(shapes):
        for b, second in enumerate(shapes[:a]):
            i, j = first.parentJoint, second.parentJoint
            if i != j and i != model.parents[j] and j != model.parents[i] and frozenset((names[a], names[b])) not in ignore:
                geometry.addCollisionPair(pin.CollisionPair(b, a))
                pairs.append(frozenset((names[a], names[b])))
    data, geometry_data = model.createData(), geometry.createData()

    def distances(position: np.ndarray) -> np.ndarray:
        pin.computeDistances(model, data, geometry, geometry_data, position)
        return np.array([result.min_distance for result in geometry_data.distanceResults])

    return list(model.names)[1:], pairs, distances


@needs_pin
@needs_hands
@pytest.mark.parametrize(("hand", "mesh_links"), [
    ("allegro_hand_right", ["link_3.0_tip", "link_7.0_tip", "link_11.0_tip", "link_15.0_tip"]),
    ("leap_hand_right", ["fingertip", "fingertip_2", "fingertip_3", "thumb_fingertip"]),
])  # fmt: skip
def test_real_hands_agree_with_pinocchio_asked_about_every_pair(hand: str, mesh_links: list[str]) -> None:
    path, margin = HANDS / f"{hand}.urdf", 0.01
    spheres = tuple(Sphere(link, (0.0, 0.0, 0.01), 0.012) for link in mesh_links)
    root = ET.parse(path).getroot()  # the same shapes, put in by other means
    for link in root.findall("link"):
        if link.get("name") in mesh_links:
            for shape in link.findall("collision"):
                link.remove(shape)
            link.append(ET.fromstring(
                '<collision><origin xyz="0 0 0.01"/><geometry><sphere radius="0.012"/></geometry></collision>'
            ))  # fmt: skip
    joints, pairs, distances = brute_force(ET.tostring(root, encoding="unicode"), set())
    shuffled = joints[::-1]
    monitor = CollisionMonitor(path, shuffled, margin, declared=Declared(spheres=spheres), period_s=PERIOD)
    assert monitor.pair_count == len(pairs)
    rng, seen, slowed = np.random.default_rng(1), set(), 0
    for _ in range(60):
        position, velocity = rng.uniform(-0.2, 1.2, len(joints)), rng.normal(0.0, 0.3, len(joints))
        now, later = distances(position), distances(position + PERIOD * velocity)
        found = monitor.distance(position[::-1])
        assert found.distance_m == pytest.approx(now.min(), abs=1e-6)
        assert now[[k for k, pair in enumerate(pairs) if pair == set(found.pair)]].min() == pytest.approx(now.min(), abs=1e-6)
        close = {pairs[k] for k in np.flatnonzero(now < margin - 1e-6)}
        assert close <= {frozenset(c.pair) for c in monitor.near(position[::-1])}
        factors = np.where(later < now - 1e-9, np.clip(2 * later / margin - 1, 0, 1), 1.0)
        expected = factors.min() if factors.min() >= 0.05 else 0.0
        assert monitor.scale(position[::-1], velocity[::-1]) == pytest.approx(expected, abs=2e-3)
        seen.add(found.pair)
        slowed += 0.0 < expected < 1.0
    assert len(seen) > 3 and slowed > 3  # the postures were worth looking at


@needs_pin
@needs_hands
def test_a_hand_without_its_meshes_is_refused_with_the_links_and_the_remedy() -> None:
    path = HANDS / "allegro_hand_right.urdf"
    joints = [j.get("name", "") for j in ET.parse(path).getroot().findall("joint") if j.get("type") != "fixed"]
    with pytest.raises(CollisionError, match=r"link_tip\.obj \(link 'link_3\.0_tip'\).*robot\.collision\.spheres"):
        CollisionMonitor(path, joints, MARGIN)
    tips = tuple(f"link_{k}.0_tip" for k in (3, 7, 11, 15))
    monitor = CollisionMonitor(path, joints, MARGIN, declared=Declared(unchecked=tips))
    assert not set(tips) & set(monitor.links) and set(tips) <= set(monitor.shapeless)


CUBE = [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
FACES = [(1, 2, 4, 3), (5, 7, 8, 6), (1, 5, 6, 2), (3, 4, 8, 7), (1, 3, 7, 5), (2, 6, 8, 4)]


@needs_pin
@pytest.mark.parametrize("name", ["meshes/cube.obj", "package://some_hand/meshes/cube.obj"])
def test_a_mesh_counts_like_the_box_it_draws(tmp_path: Path, name: str) -> None:
    lines = [f"v {x} {y} {z}" for x, y, z in CUBE]
    lines += [f"f {' '.join(map(str, face))}" for a, b, c, d in FACES for face in ((a, b, c), (a, c, d))]
    for folder in ("some_hand/urdf", "some_hand/meshes", "some_hand/urdf/meshes"):
        (tmp_path / folder).mkdir(parents=True)
    place = "some_hand/meshes" if name.startswith("package") else "some_hand/urdf/meshes"
    (tmp_path / place / "cube.obj").write_text("\n".join(lines) + "\n")
    found = []
    for shape in (f'<mesh filename="{name}" scale="0.01 0.012 0.02"/>', '<box size="0.02 0.024 0.04"/>'):
        path = urdf(tmp_path / "some_hand" / "urdf", finger("left", -APART / 2, shape), finger("right", APART / 2))
        monitor = CollisionMonitor(path, ["left", "right"], MARGIN)
        postures = [(0.0, 0.0), (0.3, -0.1), (0.9, 0.4), (0.41, -0.41)]
        found.append([monitor.distance(posture).distance_m for posture in postures])
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert min(found[1]) < 0.0 < max(found[1])


@needs_pin
def test_ignored_pairs_and_neighbours_are_not_compared(tmp_path: Path) -> None:
    palm = '<link name="palm"><collision><geometry><sphere radius="0.2"/></geometry></collision></link>' \
           '<joint name="fix" type="fixed"><parent link="base"/><child link="palm"/></joint>'  # fmt: skip
    path = urdf(tmp_path, palm, *(finger(n, x) for n, x in (("left", -APART / 2), ("right", APART / 2), ("far", 1.0))))
    joints = ["left", "right", "far"]
    assert CollisionMonitor(path, joints, MARGIN).distance([0.5, -0.5, 0.0]).pair == ("left", "right")
    monitor = CollisionMonitor(path, joints, MARGIN, declared=Declared(ignore=(("right", "left"),)))
    assert monitor.pair_count == 2 and "far" in monitor.distance([0.5, -0.5, 0.0]).pair


@needs_pin
def test_declared_spheres_take_the_place_of_the_urdfs_shapes(tmp_path: Path) -> None:
    path = urdf(tmp_path, finger("left", -APART / 2, '<mesh filename="absent.stl"/>'), finger("right", APART / 2, ""))
    declared = Declared(spheres=(Sphere("left", (0, 0, LENGTH), RADIUS), Sphere("right", (0, 0, LENGTH), 2 * RADIUS)))
    found = CollisionMonitor(path, ["left", "right"], MARGIN, declared=declared).distance([0.2, -0.1])
    assert found.distance_m == pytest.approx(tip_distance(0.2, -0.1) - RADIUS, abs=1e-12)
    with pytest.raises(CollisionError, match="nothing to check"):
        CollisionMonitor(path, ["left", "right"], MARGIN, declared=Declared(unchecked=("left",)))


@needs_pin
@pytest.mark.parametrize(
    ("joints", "declared", "message"),
    [
        (["left"], Declared(), r"where its joints \['right'\] are.*robot\.collision\.held"),
        (["left", "right", "wrist"], Declared(), r"no moving joints \['wrist'\]"),
        (["left", "right"], Declared(ignore=(("left", "rihgt"),)), r"ignore names links \['rihgt'\].*base, left, right"),
        (["left", "right"], Declared(spheres=(Sphere("thumb", (0, 0, 0), 0.01),)), r"spheres names links \['thumb'\]"),
    ],
)
def test_a_disagreement_with_the_urdf_is_refused(tmp_path: Path, joints: list[str], declared: Declared, message: str) -> None:
    path = urdf(tmp_path, finger("left", 0.0), finger("right", APART))
    with pytest.raises(CollisionError, match=message):
        CollisionMonitor(path, joints, MARGIN, declared=declared)


@needs_pin
def test_other_refusals(tmp_path: Path) -> None:
    box = Workspace(("tip",), -np.ones(3), np.ones(3))
    with pytest.raises(CollisionError, match=r"robot\.workspace\.frames names \['tip'\]"):
        two_fingers(tmp_path, workspace=box)
    with pytest.raises(CollisionError, match="margin is nan m"):
        two_fingers(tmp_path, margin=np.nan)
    with pytest.raises(CollisionError, match=r"absent\.urdf cannot be read"):
        CollisionMonitor(tmp_path / "absent.urdf", ["left"], MARGIN)
    with pytest.raises(CollisionError, match=r"'thing'.*spheres"):
        CollisionMonitor(urdf(tmp_path, finger("left", 0.0, "<thing/>")), ["left"], MARGIN)
    with pytest.raises(CollisionError, match=r"'left'.*neither"):
        CollisionMonitor(urdf(tmp_path, finger("left", 0.0, kind="floating")), ["left"], MARGIN)


def test_without_pinocchio_the_check_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pinocchio", None)
    with pytest.raises(CollisionError, match=r"pip install pin.*collision_margin to 0"):
        two_fingers(tmp_path)


def test_the_robot_files_blocks_are_read() -> None:
    box = workspace_from({"frames": ["palm"], "lower": [-1, -1, 0], "upper": [1, 1.5, 2]})
    assert box.frames == ("palm",) and box.lower.tolist() == [-1, -1, 0] and box.upper.tolist() == [1, 1.5, 2]
    declared = collision_from(
        {
            "spheres": [{"link": "tip", "centre": [0, 0, 0.01], "radius": 0.012}],
            "ignore": [["palm", "thumb_2"]],
            "unchecked": ["camera"],
            "held": {"wrist": 0.3},
            "mesh_folders": ["meshes"],
        }
    )
    spheres, ignore = (Sphere("tip", (0, 0, 0.01), 0.012),), (("palm", "thumb_2"),)
    assert declared == Declared(spheres, ignore, ("camera",), {"wrist": 0.3}, ("meshes",))
    assert collision_from({}) == Declared()


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"sphere": []}, r"has \['sphere'\], expected keys among spheres"),
        ([], "expected keys among"),
        ({"spheres": [{"link": "a", "radius": 0}]}, r"spheres\[0\]\.radius is 0"),
        ({"spheres": [{"link": "a"}]}, r"spheres\[0\]\.radius"),
        ({"spheres": [{"link": "a", "radius": 1, "centre": [0, 0]}]}, r"spheres\[0\]\.centre.*3 finite numbers"),
        ({"spheres": {"a": 1}}, "expected a list"),
        ({"ignore": [["a"]]}, "expected pairs"),
        ({"held": {"a": float("nan")}}, r"held\.a"),
    ],
)
def test_a_bad_collision_block_is_refused(block, message: str) -> None:
    with pytest.raises(CollisionError, match=message):
        collision_from(block)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": []}, "frames is"),
        ({"lower": [0, 0, float("nan")]}, "lower is"),
        ({"upper": [1, 1, True]}, "upper is"),
        ({"lower": [0, 2, 0]}, "lower < upper"),
        ({"frame": "palm"}, "expected keys among"),
    ],
)
def test_a_bad_workspace_is_refused(change, message: str) -> None:
    with pytest.raises(CollisionError, match=message):
        workspace_from({"frames": ["palm"], "lower": [0, 0, 0], "upper": [1, 1, 1], **change})
