"""Projected boxes against what the simulator draws."""

import json
from pathlib import Path

import numpy as np
import pytest

from flow_policy_ros.cli import train_detector
from flow_policy_ros.data.episodes import Episode
from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.sim.gl import SimError, choose_backend
from flow_policy_ros.sim.labels import CLASSES, label_boxes, project
from flow_policy_ros.sim.parts import PARTS
from flow_policy_ros.sim.segmentation import Segmentation
from flow_policy_ros.sim.shapes import geom_id
from flow_policy_ros.vision.detector import load_detector

try:
    choose_backend()
except SimError as error:
    pytest.skip(str(error), allow_module_level=True)

from flow_policy_ros.sim.robot import AdroitRobot

ROBOTS = Path(__file__).parents[1] / "config" / "robots"
WIDTH = HEIGHT = 256


@pytest.fixture(scope="module", params=sorted(CLASSES))
def scene(request):
    robot = AdroitRobot(request.param, load_robot(ROBOTS / f"adroit_{request.param}.yaml"))
    robot.model.cam_fovy[robot.camera_id] = 50.0  # wide enough that every task's objects are in view
    return robot


@pytest.fixture(scope="module")
def segmentation(scene):
    renderer = Segmentation(scene.model, WIDTH, HEIGHT, scene.task.name)
    yield renderer
    renderer.close()


def stir(robot, seed, steps=25):
    """A state away from the start, by random commands."""
    robot.reset(seed, 0)
    generator = np.random.default_rng(seed)
    lower, upper = robot.command_range()
    target = generator.uniform(lower, upper) * 0.5
    for _ in range(steps):
        robot.step(target)


def drawn_box(robot, segmentation, name):
    """Extent of a class in a render that holds nothing else."""
    elements = [segmentation._element(part) for part in PARTS[robot.task.name][name]]
    renderer = segmentation._renderer
    renderer.update_scene(robot.data, robot.camera_id)
    for geom in renderer.scene.geoms[: renderer.scene.ngeom]:
        if (geom.objid, int(geom.objtype)) not in elements:
            geom.segid = -1
    ys, xs = np.nonzero(renderer.render()[..., 0] >= 0)
    return (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


@pytest.mark.parametrize("seed", [1, 2])
def test_boxes_fit_what_is_drawn(scene, segmentation, seed):
    stir(scene, seed)
    labels = label_boxes(scene.model, scene.data, scene.camera_id, WIDTH, HEIGHT, scene.task.name)
    errors = []
    for label in labels:
        parts = PARTS[scene.task.name][label.class_name]
        if all(part.span == (-1.0, 1.0) for part in parts):  # a cut part cannot be drawn alone
            errors.append(np.subtract(label.xyxy, drawn_box(scene, segmentation, label.class_name)))
            assert np.abs(errors[-1]).max() < 2.0, (label, errors[-1])  # slivers thinner than a pixel are not drawn
    assert len(errors) >= 6
    assert np.abs(errors).mean() < 0.6


def test_classes_come_in_order_and_start_in_view(scene):
    scene.reset(3, 0)
    labels = label_boxes(scene.model, scene.data, scene.camera_id, WIDTH, HEIGHT, scene.task.name)
    names = [label.class_name for label in labels]
    assert names == list(CLASSES[scene.task.name])  # nothing is out of view at the start
    for label in labels:
        x1, y1, x2, y2 = label.xyxy
        assert 0 <= x1 < x2 <= WIDTH and 0 <= y1 < y2 <= HEIGHT


def test_a_narrow_view_clips_and_drops(scene):
    scene.reset(3, 0)
    wide = scene.model.cam_fovy[scene.camera_id]
    scene.model.cam_fovy[scene.camera_id] = 4.0
    try:
        labels = label_boxes(scene.model, scene.data, scene.camera_id, WIDTH, HEIGHT, scene.task.name)
    finally:
        scene.model.cam_fovy[scene.camera_id] = wide
    assert len(labels) < len(CLASSES[scene.task.name])
    assert all(0 <= v <= WIDTH for label in labels for v in label.xyxy)


def test_hidden_objects_get_no_label(scene, segmentation):
    scene.reset(3, 0)
    here = (scene.model, scene.data, scene.camera_id, WIDTH, HEIGHT, scene.task.name)
    masks = segmentation.masks(scene.data, scene.camera_id)
    assert "palm" in {label.class_name for label in label_boxes(*here, visible=masks)}
    masks["palm"][:] = False
    names = {label.class_name for label in label_boxes(*here, visible=masks)}
    assert "palm" not in names and len(names) >= 4


def test_an_open_door_hides_its_front_handle():
    robot = AdroitRobot("door", load_robot(ROBOTS / "adroit_door.yaml"))
    segmentation = Segmentation(robot.model, WIDTH, HEIGHT, "door")
    shown = {}
    for angle in (0.0, 1.55):
        robot.reset(0, 0)
        state = robot.get_sim_state()
        state["qpos"][robot.model.joint("door_hinge").qposadr[0]] = angle
        robot.set_sim_state(state)
        masks = segmentation.masks(robot.data, robot.camera_id)
        labels = label_boxes(robot.model, robot.data, robot.camera_id, WIDTH, HEIGHT, "door", masks)
        shown[angle] = {label.class_name for label in labels}
    assert {"latch", "door_panel"} <= shown[0.0]
    assert "latch" not in shown[1.55] and "door_panel" in shown[1.55]
    segmentation.close()
    robot.close()


def test_each_end_of_the_pens_is_its_own_class():
    robot = AdroitRobot("pen", load_robot(ROBOTS / "adroit_pen.yaml"))
    robot.model.cam_fovy[robot.camera_id] = 50.0
    for seed in range(4):
        robot.reset(seed, 0)
        here = (robot.model, robot.data, robot.camera_id, WIDTH, HEIGHT)
        boxes = {label.class_name: np.array(label.xyxy) for label in label_boxes(*here, "pen")}
        for pen, geoms in (("pen", ("top", "bot")), ("target", ("t_top", "t_bot"))):
            ends = project(*here, np.stack([robot.data.geom_xpos[robot.model.geom(g).id] for g in geoms]))
            centres = np.stack([(boxes[f"{pen}_{e}"][:2] + boxes[f"{pen}_{e}"][2:]) / 2 for e in ("top", "bottom")])
            distance = np.linalg.norm(centres[:, None] - ends[None], axis=-1)
            assert distance[0, 0] < distance[0, 1] and distance[1, 1] < distance[1, 0]
    robot.close()


def test_what_is_seen_through_hides_nothing():
    """The goal of relocate is a translucent sphere; a ball inside it is still labelled."""
    robot = AdroitRobot("relocate", load_robot(ROBOTS / "adroit_relocate.yaml"))
    robot.reset(0, 0)
    robot.model.site_pos[robot.model.site("target").id] = robot.data.geom_xpos[geom_id(robot.model, PARTS["relocate"]["ball"][0])]
    robot.set_sim_state({"qpos": robot.data.qpos.copy(), **{k: v for k, v in robot.get_sim_state().items() if k != "qpos"}})
    segmentation = Segmentation(robot.model, WIDTH, HEIGHT, "relocate")
    masks = segmentation.masks(robot.data, robot.camera_id)
    assert masks["goal"].sum() > masks["ball"].sum() > 20
    segmentation.close()
    robot.close()


def test_the_command_labels_frames_of_recorded_episodes(tmp_path):
    robot = AdroitRobot("door", load_robot(ROBOTS / "adroit_door.yaml"))
    for seed in range(3):
        robot.reset(seed, seed)
        states = [robot.get_sim_state()]
        robot.step(None)
        states.append(robot.get_sim_state())
        position = np.zeros((2, len(robot.robot.joints)))
        Episode(
            task="door",
            seed=seed,
            success=True,
            dt_ns=10_000_000,
            stamps=np.array([0, 10_000_000]),
            joints=robot.robot.joints,
            position=position,
            commands=position,
            label=position,
            sim_state={name: np.stack([state[name] for state in states]) for name in states[0]},
        ).save(tmp_path / f"{seed}.npz")
    robot.close()
    arguments = ["--episodes", str(tmp_path), "--out", str(tmp_path / "out"), "--images", "5", "--epochs", "1"]
    arguments += ["--robot", str(ROBOTS / "adroit_door.yaml"), "--image-size", "64", "--batch", "5"]
    assert train_detector.main(arguments) == 0
    detector = load_detector(tmp_path / "out")
    assert detector.classes == CLASSES["door"]
    described = json.loads((tmp_path / "out" / "detector.json").read_text())
    assert described["metrics"]["classes"]["latch"]["labelled"] == described["metrics"]["images"] == 1
    with pytest.raises(ValueError, match="0 episodes of task 'pen'"):
        train_detector.main([*arguments, "--task", "pen"])


def test_frames_come_from_where_the_hand_moves():
    """Ten moving ticks, then ninety at rest: uniform sampling alone would take a tenth from the motion."""
    position = np.zeros((100, 1))
    position[:, 0] = np.minimum(np.arange(100), 10)
    stamps = np.arange(100) * 10
    episode = Episode("door", 0, True, 10, stamps, ("j",), position, position, position)
    generator = np.random.default_rng(0)
    ticks = np.array([train_detector._pick(episode, generator)[1] for _ in range(400)])
    assert 0.45 < (ticks <= 10).mean() < 0.65
    assert ticks.min() == 0 and ticks.max() == 99


def test_an_unknown_task_is_refused(scene):
    with pytest.raises(SimError, match="'juggle'"):
        label_boxes(scene.model, scene.data, scene.camera_id, WIDTH, HEIGHT, "juggle")


def test_points_behind_the_camera_have_no_image(scene):
    camera = scene.data.cam_xpos[scene.camera_id]
    forward = -scene.data.cam_xmat[scene.camera_id].reshape(3, 3)[:, 2]
    points = np.stack([camera + forward, camera - forward])
    at = project(scene.model, scene.data, scene.camera_id, WIDTH, HEIGHT, points)
    assert at[0] == pytest.approx([WIDTH / 2, HEIGHT / 2])
    assert np.isnan(at[1]).all()
