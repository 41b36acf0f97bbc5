"""``flow_policy featurize``: any kind of features for episodes and bags, of several cameras, with the instruction in force."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ultralytics")
pytest.importorskip("transformers")
import torch
from ros_support import write_robot
from vlm_folders import tiny

from flow_policy_ros.cli.main import main
from flow_policy_ros.data.bag_writer import jpeg
from flow_policy_ros.data.bags import messages
from flow_policy_ros.data.bags.rosbag2_writer import Rosbag2Writer
from flow_policy_ros.data.episodes import Episode
from flow_policy_ros.data.recording import read_recordings
from flow_policy_ros.runtime.types import Features
from flow_policy_ros.vision.backbone import convert
from flow_policy_ros.vision.mobile_networks import NETWORKS
from flow_policy_ros.vision.vlm import load_vlm

ROOT = Path(__file__).resolve().parents[1]
DETECTOR = ROOT / "checkpoints" / "adroit_door_detector"
MS = 1_000_000
START = 5_000 * MS
JOINTS = ("shoulder", "elbow")
CAMERAS = {
    "front": {"topic": "front/image_raw", "width": 64, "height": 48, "rate_hz": 10.0},
    "wrist": {"topic": "wrist/image_raw", "width": 48, "height": 48, "rate_hz": 10.0},
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


def write_bag(path: Path, told: dict[int, str] | None = None, said: list[dict[str, object]] | None = None) -> None:
    """20 joint states and commands at 100 Hz; at every fifth a picture of either camera, ever brighter; instructions by tick. With
    ``said`` points, too, and what is said of them."""
    path.parent.mkdir(exist_ok=True)
    bag = Rosbag2Writer(path)
    for identity in said or []:
        bag.put("/features/points/info", messages.STRING, START, messages.text(json.dumps(identity)))
    for k in range(20):
        stamp = START + 10 * k * MS
        if k in (told or {}):
            bag.put("/instruction", messages.STRING, stamp - MS, messages.text((told or {})[k]))
        position = np.full(2, 0.01 * k)
        bag.put("/joint_states", messages.JOINT_STATE, stamp, messages.joint_state(stamp, JOINTS, position))
        bag.put("/command/executed", messages.JOINT_STATE, stamp, messages.joint_state(stamp, JOINTS, position, position))
        if said is not None and k % 5 == 0:
            points = Features(stamp, "points", np.full((4, 4), k, np.float32))
            bag.put("/features/points", messages.IMAGE, stamp, messages.features(points))
        if k % 5 == 0:
            for name, camera in CAMERAS.items():
                data = jpeg(np.full((camera["height"], camera["width"], 3), 60 + 5 * k, np.uint8), 95)
                message = messages.compressed_image(stamp, name, data)
                bag.put(f"/{name}/image_raw/compressed", messages.COMPRESSED_IMAGE, stamp, message)
    bag.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("featurize")
    write_robot(root, cameras=CAMERAS)
    (root / "bags").mkdir()
    write_bag(root / "bags" / "one", {0: "open the door", 10: "move the cube"})
    return root


def command(root: Path, out: Path, *more: object) -> list[str]:
    robot = root / "two_joints.yaml"
    return ["featurize", "--episodes", str(root / "bags"), "--out", str(out), "--robot", str(robot), *map(str, more)]


def test_frames_of_several_cameras(root: Path, tmp_path: Path) -> None:
    assert main(command(root, tmp_path, "--extractor", "frames", "--camera", "front", "wrist", "--size", 12, 16)) == 0
    streams = read_recordings(tmp_path)[0].streams
    assert set(streams) == {"frames", "frames_wrist"}
    for stream in streams.values():
        assert stream.values.dtype == np.uint8 and stream.values.shape == (4, 12, 48)
        assert stream.stamps.tolist() == [START + 50 * k * MS for k in range(4)]
        assert stream.values.mean(axis=(1, 2)) == pytest.approx([60, 85, 110, 135], abs=3)
    identities = json.loads((tmp_path / "extractor.json").read_text())
    assert identities["frames_wrist"] == {"extractor": "frames", "camera": "wrist", "size": [12, 16]}


def test_recorded_points_are_kept_beside_with_what_made_them(root: Path, tmp_path: Path, capsys) -> None:
    made = {"extractor": "points", "frame": "", "grid": [2, 2], "needs": "depth", "mask_channel": 3}
    write_bag(tmp_path / "told" / "one", said=[{**made, "frame": "before"}, made])
    write_bag(tmp_path / "silent" / "one", said=[])
    more = ["--robot", str(root / "two_joints.yaml"), "--extractor", "frames", "--size", "12", "16", "--keep", "points"]
    assert main(["featurize", "--episodes", str(tmp_path / "told"), "--out", str(tmp_path / "out"), *more]) == 0
    streams = read_recordings(tmp_path / "out")[0].streams
    assert set(streams) == {"frames", "points"} and streams["points"].values[:, 0, 0].tolist() == [0, 5, 10, 15]
    assert json.loads((tmp_path / "out" / "extractor.json").read_text())["points"] == made
    assert main(["featurize", "--episodes", str(tmp_path / "silent"), "--out", str(tmp_path / "none"), *more]) == 2
    assert "does not say what made the stream 'points'" in " ".join(capsys.readouterr().err.split())


def test_a_vlm_reads_the_instruction_in_force(root: Path, tmp_path: Path) -> None:
    model = tiny("smolvlm", tmp_path / "smolvlm")
    rows = ["--set", "perception.language_tokens=24"]
    arguments = ["--extractor", "vlm", "--model", model, *rows, "--stream", "eyes", "--camera", "wrist"]
    assert main(command(root, tmp_path / "out", *arguments)) == 0
    stream = read_recordings(tmp_path / "out")[0].streams["eyes_wrist"]
    features = load_vlm(str(model), (48, 48), language_tokens=24)
    pictures = [np.full((48, 48, 3), 60 + 25 * k, np.uint8) for k in range(4)]
    for said, rows_of in (("open the door", (0, 1)), ("move the cube", (2, 3))):
        features.instruct(said)
        for k in rows_of:
            np.testing.assert_allclose(stream.values[k], features.extract(pictures[k], 0).values, atol=0.02)
    differ = np.abs(stream.values[1] - stream.values[2]).max()
    features.instruct("open the door")
    same = np.abs(features.extract(pictures[1], 0).values - features.extract(pictures[2], 0).values).max()
    assert differ > 2 * same  # the words, and not the brightness
    identity = json.loads((tmp_path / "out" / "extractor.json").read_text())["eyes_wrist"]
    assert identity["extractor"] == "vlm" and identity["camera"] == "wrist"


def test_a_refused_instruction_leaves_the_one_before(root: Path, tmp_path: Path, capsys) -> None:
    """As on the robot: no picture gets lost, and what was said before goes on."""
    model = tiny("smolvlm", tmp_path / "smolvlm")
    write_bag(tmp_path / "told" / "one", {0: "open the door", 10: "move <image> the cube"})
    write_bag(tmp_path / "told" / "two", {10: "move <image> the cube"})
    more = ["--extractor", "vlm", "--model", str(model), "--set", "perception.language_tokens=24", "--instruction", "wait"]
    robot = ["--robot", str(root / "two_joints.yaml")]
    assert main(["featurize", "--episodes", str(tmp_path / "told"), "--out", str(tmp_path / "out"), *robot, *more]) == 0
    features = load_vlm(str(model), (48, 64), language_tokens=24)
    for recording, said in zip(read_recordings(tmp_path / "out"), ("open the door", "wait"), strict=True):
        features.instruct(said)
        values = recording.streams["vlm"].values
        assert len(values) == 4
        for k in range(4):
            expected = features.extract(np.full((48, 64, 3), 60 + 25 * k, np.uint8), 0).values
            np.testing.assert_allclose(values[k], expected, atol=0.02)
    assert capsys.readouterr().err.count("an instruction was refused, the one before stays") == 2


def test_features_of_two_extractors_are_not_mixed_in_one_folder(root: Path, tmp_path: Path, capsys) -> None:
    out, frames = tmp_path / "out", ["--extractor", "frames", "--size"]
    assert main(command(root, out, *frames, 12, 16)) == 0
    said = (out / "extractor.json").read_text()
    write_bag(tmp_path / "more" / "two")
    other = command(root, out, *frames, 12, 16)
    other[other.index("--episodes") + 1] = str(tmp_path / "more")
    assert main([*other[:-2], "8", "16"]) == 2
    assert "features were made by something else; different: 'frames' (size)" in " ".join(capsys.readouterr().err.split())
    assert main([*other, "--stream", "eyes"]) == 2
    assert "different: 'eyes' (only now), 'frames' (only before)" in " ".join(capsys.readouterr().err.split())
    assert (out / "extractor.json").read_text() == said and len(read_recordings(out)) == 1
    assert main(other) == 0 and len(read_recordings(out)) == 2
    (out / "extractor.json").unlink()
    assert main(other) == 2
    assert "but no extractor.json that says what made" in " ".join(capsys.readouterr().err.split())


def test_streams_to_keep_were_made_by_the_same(root: Path, tmp_path: Path, capsys) -> None:
    made = {"extractor": "points", "frame": "", "grid": [2, 2], "needs": "depth", "mask_channel": 3}
    write_bag(tmp_path / "told" / "one", said=[made])
    write_bag(tmp_path / "told" / "two", said=[{**made, "frame": "base"}])
    more = ["--robot", str(root / "two_joints.yaml"), "--extractor", "frames", "--keep", "points"]
    assert main(["featurize", "--episodes", str(tmp_path / "told"), "--out", str(tmp_path / "out"), *more]) == 2
    assert "do not say the same" in (error := " ".join(capsys.readouterr().err.split())) and "'points' (frame)" in error


def test_frames_have_the_size_that_the_robot_file_says(root: Path, tmp_path: Path, capsys) -> None:
    write_robot(tmp_path, cameras={"front": {**CAMERAS["front"], "width": 32, "height": 24}})
    arguments = command(tmp_path, tmp_path / "out", "--extractor", "frames")
    arguments[arguments.index("--episodes") + 1] = str(root / "bags")
    assert main(arguments) == 2
    assert "image of 64 by 48 pixels, expected 32 by 24 of camera 'front'" in " ".join(capsys.readouterr().err.split())


def test_episodes_get_streams_beside_those_they_have(tmp_path: Path) -> None:
    if importlib.util.find_spec("mujoco") is None:  # importing it here would choose how it renders
        pytest.skip("needs mujoco")
    from flow_policy_ros.runtime.robot import load_robot
    from flow_policy_ros.sim.robot import AdroitRobot

    file = load_robot(ROOT / "config" / "robots" / "adroit_door.yaml")
    robot = AdroitRobot("door", file)
    robot.reset(5000, 0)
    state = robot.get_sim_state()
    picture = robot.render()  # and processes that are begun after it have to live without its graphics context
    stamps = START + 10 * MS * np.arange(5, dtype=np.int64)
    still = np.tile(robot.joint_state().position, (5, 1))
    sim = {name: np.stack([value] * 5) for name, value in state.items()}
    (tmp_path / "raw").mkdir()
    Episode("door", 5000, True, 10 * MS, stamps, file.joints, still, still, still, sim_state=sim).save(tmp_path / "raw" / "0.npz")
    slots = ["--extractor", "object_slots", "--detector", str(DETECTOR), "--set", "perception.class_map=hold=latch"]
    assert main(["featurize", "--episodes", str(tmp_path / "raw"), "--out", str(tmp_path / "a"), "--jobs", "2", *slots]) == 0
    torch.manual_seed(0)
    torch.save(NETWORKS["mobilenet_v2"]().state_dict(), tmp_path / "w.pth")
    backbone = convert("mobilenet_v2", tmp_path / "w.pth", tmp_path / "backbone", allow_pickle=True, image_size=96)
    more = ["--extractor", "backbone", "--model", str(backbone), "--set", "perception.grid=2x2"]
    assert main(["featurize", "--episodes", str(tmp_path / "a"), "--out", str(tmp_path / "b"), *more]) == 0
    frames = ["--extractor", "frames", "--size", "256", "256"]
    assert main(["featurize", "--episodes", str(tmp_path / "b"), "--out", str(tmp_path / "c"), *frames]) == 0
    episode = Episode.load(tmp_path / "c" / "0.npz")
    robot.close()
    assert {name: values.shape for name, (_, values) in episode.streams.items()} == {
        "object_slots": (3, 1, 6), "backbone": (3, 4, 1280), "frames": (3, 256, 768)
    }  # fmt: skip
    assert np.abs(episode.streams["frames"][1][1].reshape(256, 256, 3).astype(int) - picture).max() <= 2
    assert episode.streams["object_slots"][1][1, 0, 5] == 1  # the latch is in view
    identities = json.loads((tmp_path / "c" / "extractor.json").read_text())
    assert [identity["extractor"] for identity in identities.values()] == ["object_slots", "backbone", "frames"]
    assert identities["object_slots"]["class_map"] == {"hold": identities["object_slots"]["classes"].index("latch")}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--camera", "back"], "--camera back: robot file"),
        (["--extractor", "backbone"], "perception.model is not set"),
        (["--extractor", "backbone", "--detector", DETECTOR], "--detector is given, but the extractor 'backbone'"),
        (["--model", "x", "--detector", DETECTOR], "--model is given, but the extractor 'detections'"),
        (["--extractor", "object_slots", "--detector", DETECTOR, "--set", "perception.class_map=mug"], "lacks the classes mug"),
        (["--extractor", "frames", "--size", "0", "5"], "size of frames is (0, 5)"),
        (["--set", "perception.extractor=vlm"], "perception.extractor cannot be tuned in featurize: it is given with --extractor"),
        (["--set", "perception.points=2x2"], "perception.points cannot be tuned in featurize"),
    ],
)
def test_refused_by_name(root: Path, tmp_path: Path, capsys, more, said) -> None:
    assert main(command(root, tmp_path, *more)) == 2
    assert said in capsys.readouterr().err


def test_pictures_of_another_size_are_named(root: Path, tmp_path: Path, capsys) -> None:
    wrong = {"front": {**CAMERAS["front"], "width": 48, "height": 64}}
    write_robot(tmp_path, cameras=wrong)
    arguments = command(tmp_path, tmp_path / "out", "--detector", DETECTOR)
    arguments[arguments.index("--episodes") + 1] = str(root / "bags")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "holds no picture of the camera 'front' that can be used" in error
    assert "64 by 48 pixels, expected the proportions of 48 by 64" in error
