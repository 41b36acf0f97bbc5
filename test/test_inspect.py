"""``flow_policy inspect``: what it finds in recordings made by others, in recordings with planted faults, and in damaged ones."""

from __future__ import annotations

import json
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from flow_policy_ros import resources
from flow_policy_ros.cli.inspect_parts import show_robot
from flow_policy_ros.cli.main import main
from flow_policy_ros.data.bag_events import BadEvent, BagEvents, CommandEvent, JointStateEvent
from flow_policy_ros.data.bags import messages
from flow_policy_ros.data.bags.definitions import standard_types
from flow_policy_ros.data.bags.mcap_writer import McapWriter
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.data.inspection import inspect_bag
from flow_policy_ros.data.tallies import KEPT, Sample
from flow_policy_ros.runtime.joint_limits import Mimic
from flow_policy_ros.runtime.robot import RobotFileError, load_robot
from flow_policy_ros.vision.decode import decode

BAGS = Path(__file__).resolve().parents[2] / "shared" / "bags"
ROBOTS = Path(__file__).parent / "robots_for_bags"
STATE, IMAGE, COMPRESSED = "sensor_msgs/msg/JointState", "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
START = 1_700_000_000_000_000_000
JOINTS = ("shoulder", "elbow")
CAMERA = {"topic": "camera/image_raw", "width": 64, "height": 48, "rate_hz": 10.0}
ATS_SHORT, ATS_UNNAMED = "ats-mcap-short/ros2bag_ats_2025-12-02_12-44-28", "ats-emptynames-motion/ros2bag_static_ats_invz"
LBR, MARS, KR5 = "lbr-reordered/rosbag2_2023_02_01-11_21_54", "mars-arm-zstd/calibration_bag", "kr5-ros1/trajectory_data.bag"
JSON = "json-mcap/trajectory_20250527_003358_00m02s.mcap"
FOUND = {
    "so101-rebag/ep4": ["/follower/joint_states: no joint moves, every dimension is constant (shoulder_pan,"],
    "so101-rebag/ep5": ["/leader/joint_commands: no joint moves, every dimension is constant"],
    ATS_SHORT: ["/servo/out/state has q0, q1, q2, /controller/out/servo_positions has q1, q2, q3", "recorded.command_names"],
    ATS_UNNAMED: [
        "/servo/out/state: 3246 messages have 3 values and no joint names",
        "robot.joint_state_order",
        "/servo/in/references/joint_references: nothing for 63.521 s from 31.866 s on",
        "/servo/out/state: positions jump",
    ],
    LBR: ["in the order lbr_joint_1, lbr_joint_2, lbr_joint_3, lbr_joint_0, lbr_joint_4", "no joint moves"],
    MARS: [
        "/mars/arm/commands: 28698 messages have 6 values and no joint names",
        "robot.recorded.command_order",
        "its publishers offered different qualities of service",
    ],
    KR5: ["the recording is of ROS 1"],
    JSON: ["are JSON, not what ROS sends", "labelbox_robotics.Action", "between two messages lie 485647.6 h"],
    "rosbag2-edges/sqlite3_empty_bag": ["the recording has no messages", "no message on /parameter_events, /rosout"],
    "rosbag2-edges/compressed_bag_file_zstd": ["the recording has no messages"],
    "rosbag2-edges/mcap_wbag_split5": ["the recording has no joint values"],
    "rosbag2-edges/mcap_split3_nometa": ["has no metadata.yaml"],
    "rosbag2-edges/mcap_bag_with_topics_and_service_events": ["service events are on /test_service1/_service_event"],
    "rosbag2-edges/sqlite3_convert_a": ["a_empty: its publishers offered different qualities of service", "test_msgs/msg/Empty"],
}
FIGURES: dict[str, dict[str, Any]] = {
    "so101-rebag/ep4": {"messages": 270, "/follower/joint_states": (90, 30.0)},
    ATS_SHORT: {"messages": 6553, "/servo/out/state": (124, 15.63), "/controller/out/servo_positions": (63, 11.9)},
    ATS_UNNAMED: {"messages": 11321, "/servo/out/state": (3246, 25.0)},
    LBR: {"messages": 5683, "/joint_states": (2839, 400.3)},
    MARS: {"messages": 28770, "compression": "file, zstd", "/mars/arm/commands": (28698, 89.2)},
    KR5: {"messages": 562, "/arm_controller/state": (562, 25.0)},
    JSON: {"messages": 22},
    "rosbag2-edges/sqlite3_empty_bag": {"messages": 0, "duration_s": 0.0},
    "rosbag2-edges/compressed_bag_file_zstd": {"messages": 0, "compression": "file, zstd"},
    "rosbag2-edges/mcap_wbag_split5": {"messages": 6074},
    "rosbag2-edges/mcap_split3_nometa": {"messages": 3177},
}


def inspect(target: str | Path, tmp_path: Path, *options: str) -> dict[str, Any]:
    """What the command wrote as JSON; it has to succeed."""
    file = tmp_path / "found.json"
    assert main(["inspect", str(target), "--json", str(file), *options]) == 0
    content: dict[str, Any] = json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    return content


def shared(name: str) -> Path:
    if not BAGS.is_dir():
        pytest.skip("the shared recordings are not here")
    return BAGS / name


def compressed_image(stamp: int, picture: np.ndarray) -> bytes:
    return messages.compressed_image(stamp, "camera", cv2.imencode(".jpg", picture)[1].ravel())


def raw_image(stamp: int, picture: np.ndarray, encoding: str = "rgb8") -> bytes:
    kinds = standard_types().types
    time = kinds["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)
    height, width = picture.shape[:2]
    image = kinds[IMAGE](
        header=kinds["std_msgs/msg/Header"](stamp=time, frame_id=""), height=height, width=width, encoding=encoding,
        is_bigendian=0, step=3 * width, data=picture.ravel(),
    )  # fmt: skip
    return bytes(standard_types().serialize_cdr(image, IMAGE))


class Recorded:
    """A recording in the making: joint states and commands of two moving joints at 50 Hz, a camera at 10 Hz, as faults want it."""

    def __init__(self, path: Path, seconds: float = 3.0) -> None:
        self.path = path
        self.seconds = seconds
        self.names: tuple[str, ...] = JOINTS
        self.command_names: tuple[str, ...] = JOINTS
        self.delay_ns = 2_000_000
        self.amplitude = np.array([0.5, 0.3])
        self.picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        self.extra: list[tuple[str, str, int, bytes]] = []

    def stamp(self, received: int) -> int:
        return received - self.delay_ns

    def image(self, received: int, number: int) -> bytes:
        return compressed_image(self.stamp(received), np.roll(self.picture, number, axis=0))

    def state(self, received: int, position: np.ndarray) -> bytes:
        return messages.joint_state(self.stamp(received), self.names, position)

    def write(self) -> Path:
        entries = list(self.extra)
        for number in range(int(50 * self.seconds)):
            received = START + number * 20_000_000
            position = self.amplitude * np.sin(2.0 * number / 50)
            entries.append(("/joint_states", STATE, received, self.state(received, position)))
            command = messages.joint_state(self.stamp(received), self.command_names, position)
            entries.append(("/joint_command", STATE, received + 1, command))
            if number % 5 == 0:
                entries.append(("/camera/image_raw/compressed", COMPRESSED, received + 2, self.image(received, number)))
        with McapWriter(self.path) as writer:
            for topic, kind, received, data in sorted(entries, key=lambda entry: entry[2]):
                writer.put(topic, kind, received, data)
        return self.path


def robot_file(tmp_path: Path, **keys: Any) -> str:
    limits = {joint: {"position": [-1.0, 1.0], "velocity": 2.0, "acceleration": 20.0} for joint in JOINTS}
    block = {"name": "two_joints", "joints": list(JOINTS), "limits": limits, "cameras": {"front": CAMERA}, **keys}
    path = tmp_path / "two_joints.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": {"robot": block}}}))
    return str(path)


@pytest.mark.parametrize("name", FOUND)
def test_every_shared_recording_is_inspected_and_its_trap_found(name: str, tmp_path: Path) -> None:
    content = inspect(shared(name), tmp_path)
    said = "\n".join(content["problems"] + content["notes"])
    for words in FOUND[name]:
        assert words in said
    topics = {topic["name"]: topic for topic in content["topics"]}
    for key, expected in FIGURES.get(name, {}).items():
        if key in topics:
            assert topics[key]["count"] == expected[0] and topics[key]["rate_hz"] == pytest.approx(expected[1], abs=0.1)
        else:
            assert content[key] == expected
    assert sum(topic["count"] for topic in content["topics"]) == content["messages"]


def test_no_shared_recording_is_left_out() -> None:
    shared("")
    alone = (BAGS / KR5, BAGS / JSON)  # files; the others are folders
    found = {path for path in BAGS.rglob("*") if path.suffix in (".mcap", ".db3", ".bag", ".zstd")}
    assert {path if path in alone else path.parent for path in found} == {BAGS / name for name in FOUND}


@pytest.mark.parametrize(
    ("bag", "robot", "limits"),
    [
        ("so101-rebag/ep4", "so101", []),
        ("so101-rebag/ep5", "so101", []),
        (ATS_SHORT, "ats-mcap-short", ["/controller/out/servo_positions is at times faster", "pivot 4.491 (robot file: 1)"]),
        (ATS_UNNAMED, "ats-emptynames-motion", ["shoulder 38.03 (robot file: 1)"]),
        (LBR, "lbr-reordered", ["commands: the recording has none on command/executed and joint_command"]),
        (KR5, "kr5-ros1", []),
        (MARS, "mars-arm", ["joint5 from 0.5154 to 2.298 (robot file: -1.571 to 1.571)"]),
    ],
)
def test_recordings_can_be_replayed_with_their_robot_files(bag: str, robot: str, limits: list[str], tmp_path: Path) -> None:
    content = inspect(shared(bag), tmp_path, "--robot", str(ROBOTS / f"{robot}.yaml"))
    assert content["replay"]["possible"] and content["replay"]["missing"] == []
    assert bool(content["replay"]["limits"]) == bool(limits)
    assert all(any(words in sentence for sentence in content["replay"]["limits"]) for words in limits)
    assert not any("robot.joint_state_order" in sentence for sentence in content["problems"])
    assert len(content["joint_states"]) == 1 and len(content["commands"]) == (0 if robot == "lbr-reordered" else 1)
    opened = open_bag(BAGS / bag)  # what a replay reads with agrees
    events = [type(event) for event in BagEvents(opened, load_robot(ROBOTS / f"{robot}.yaml"))]
    opened.close()
    counts = {topic["name"]: topic["count"] for topic in content["topics"]}
    for kind, topics in ((JointStateEvent, content["joint_states"]), (CommandEvent, content["commands"])):
        assert events.count(kind) == sum(counts[topic.partition(" ")[0]] for topic in topics)
    assert BadEvent not in events


@pytest.mark.parametrize(
    ("bag", "robot", "missing"),
    [
        (ATS_UNNAMED, "ats-mcap-short", "/servo/out/state: joint state has 3 positions and no names"),
        (ATS_SHORT, "ats-emptynames-motion", "joints pivot, shoulder, elbow of the robot file are not in /servo/out/state; it has"),
        (LBR, "so101", "joint states: topic follower/joint_states of the robot file is not in the recording; joint values are on"),
        ("rosbag2-edges/sqlite3_empty_bag", "lbr-reordered", "no topic has joint values."),
    ],
)
def test_a_robot_file_that_does_not_fit_is_told_what_is_missing(bag: str, robot: str, missing: str, tmp_path: Path) -> None:
    content = inspect(shared(bag), tmp_path, "--robot", str(ROBOTS / f"{robot}.yaml"))
    assert not content["replay"]["possible"]
    assert any(missing in sentence for sentence in content["replay"]["missing"])
    assert any(missing in sentence for sentence in content["problems"])


def test_sketches_name_the_keys_that_are_needed(tmp_path: Path) -> None:
    short = lines(shared(ATS_SHORT), tmp_path)
    assert "joint_state_topic: servo/out/state" in short and "joints: [q0, q1, q2]" in short
    assert any(line.startswith("command_names: {q1: q0, q2: q1, q3: q2}") for line in short)
    unnamed = lines(shared(ATS_UNNAMED), tmp_path)
    assert any(line.startswith("joint_state_order: [q1, q2, q3]") for line in unnamed)
    camera = lines(shared("so101-rebag/ep4"), tmp_path)
    assert "cam_front: {topic: follower/cam_front/image_raw, width: 640, height: 360, rate_hz: 30.0}" in camera


def lines(path: Path, tmp_path: Path) -> list[str]:
    return [line.strip() for line in inspect(path, tmp_path)["sketch"]]


def test_the_sketch_is_a_whole_robot_file_that_is_refused_until_its_limits_are_filled_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, file = Recorded(tmp_path / "sound.mcap").write(), tmp_path / "mine.yaml"
    content = inspect(path, tmp_path, "--write-robot", str(file))
    assert file.read_text().splitlines() == content["sketch"] and f"is in {file}" in capsys.readouterr().out
    with pytest.raises(RobotFileError, match=r"robot.limits.shoulder.position, robot.limits.shoulder.velocity,"):
        load_robot(file)
    filled = file.read_text().replace("[TODO, TODO]", "[-1.0, 1.0]")
    file.write_text(filled.replace("velocity: TODO", "velocity: 2.0").replace("acceleration: TODO", "acceleration: 9"))
    robot = load_robot(file)
    assert (robot.joints, robot.command_interface, robot.joint_state_topic) == (JOINTS, "joint_state", "joint_states")
    assert robot.recorded is not None and robot.recorded.topic == robot.command_topic == "joint_command"
    judged = inspect(path, tmp_path, "--robot", str(file))
    assert judged["replay"]["possible"] and judged["problems"] == [] and judged["sketch"] == []
    before = file.read_text()
    assert main(["inspect", str(path), "--write-robot", str(file)]) == 2 and file.read_text() == before
    assert "exists already and is left alone" in capsys.readouterr().err
    assert main(["inspect", "adroit_door", "--write-robot", str(tmp_path / "other.yaml")]) == 2
    assert "adroit_door is a robot" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["yes", "0", "a: {b", "x\n  limits: {}", "# c", "é", "\x1b[2J"])
def test_names_in_recordings_cannot_write_the_robot_file(name: str, tmp_path: Path) -> None:
    bag = Recorded(tmp_path / "odd.mcap")
    bag.names = bag.command_names = (name, "elbow")
    content = inspect(bag.write(), tmp_path)
    block = yaml.safe_load("\n".join(content["sketch"]))["/**"]["ros__parameters"]["robot"]
    assert block["joints"] == [name, "elbow"] and list(block["limits"]) == [name, "elbow"] and "joint_state_order" not in block


def test_units_and_columns_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect(Recorded(tmp_path / "sound.mcap").write(), tmp_path)
    shown = capsys.readouterr().out
    assert "motion" in shown and "rad/s or m/s" in shown and "reported: the greatest among the velocities in the messages" in shown
    assert "joint states (guessed from the topics' names): /joint_states;" in shown


@pytest.mark.parametrize("kind", ["dataset", "episodes", "episode"])
def test_other_data_is_named_with_the_remedy(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text("{}") if kind == "dataset" else np.savez(tmp_path / "a.npz", x=1)
    assert main(["inspect", str(tmp_path / "a.npz" if kind == "episode" else tmp_path)]) == 2
    error = capsys.readouterr().err
    words = {"dataset": "is a LeRobot dataset", "episodes": "is a folder of episodes (.npz)", "episode": "is an episode (.npz)"}
    assert words[kind] in error and "--to bag --out DIR" in error


def test_a_sound_recording_has_no_problems_and_right_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Recorded(tmp_path / "sound.mcap").write()
    content = inspect(path, tmp_path, "--robot", robot_file(tmp_path))
    assert content["problems"] == [] and content["replay"]["possible"]
    assert content["replay"]["cameras"] == {"front": "/camera/image_raw/compressed"}
    states = next(topic for topic in content["topics"] if topic["name"] == "/joint_states")
    assert (states["count"], states["rate_hz"], states["max_gap_s"]) == (150, pytest.approx(50.0), pytest.approx(0.02))
    assert states["stamps"]["delay_p50_ms"] == states["stamps"]["delay_p99_ms"] == pytest.approx(2.0)
    shoulder = next(joint for joint in content["joints"] if joint["name"] == "shoulder" and joint["topic"] == "/joint_states")
    assert shoulder["high"] == pytest.approx(0.5, abs=1e-3) and shoulder["low"] == pytest.approx(-0.5, abs=1e-3)
    assert shoulder["velocity"] == pytest.approx(1.0, abs=2e-3) and not shoulder["still"]
    assert content["images"][0]["sizes"] == {"64x48": 1}  # of thirty one was decoded
    shown = capsys.readouterr().out
    assert "/camera/image_raw/compressed" in shown and "can be replayed" in shown and "problems" not in shown


def plant_zero(bag: Recorded) -> None:
    bag.stamp = lambda received: 0  # type: ignore[method-assign]


def plant_future(bag: Recorded) -> None:
    bag.delay_ns = -30_000_000


def plant_other_clock(bag: Recorded) -> None:
    bag.delay_ns = 5_000_000_000


def plant_back(bag: Recorded) -> None:
    bag.stamp = lambda received: received - (received // 20_000_000 % 2) * 50_000_000  # type: ignore[method-assign]


def plant_dead(bag: Recorded) -> None:
    bag.amplitude = np.array([0.5, 0.0005])


def plant_nan(bag: Recorded) -> None:
    bag.extra.append(("/joint_states", STATE, START + 5, messages.joint_state(START, JOINTS, np.array([np.nan, 0.0]))))


def plant_second_publisher(bag: Recorded) -> None:
    bag.extra.append(("/joint_states", STATE, START + 5, messages.joint_state(START, ("wheel",), np.zeros(1))))


def plant_uneven(bag: Recorded) -> None:
    bag.extra.append(("/joint_states", STATE, START + 5, messages.joint_state(START, JOINTS, np.zeros(3))))


def plant_pause(bag: Recorded) -> None:
    late = START + 20_000_000_000
    bag.extra.append(("/joint_states", STATE, late, messages.joint_state(late, JOINTS, np.zeros(2))))


def plant_frozen_camera(bag: Recorded) -> None:
    bag.image = lambda received, number: compressed_image(START, bag.picture)  # type: ignore[method-assign]


def plant_dark_camera(bag: Recorded) -> None:
    bag.picture = np.zeros((48, 64, 3), np.uint8)


def plant_broken_jpeg(bag: Recorded) -> None:
    bag.image = lambda received, number: messages.compressed_image(  # type: ignore[method-assign]
        received, "", np.full(100, number, np.uint8)
    )


def plant_sizes(bag: Recorded) -> None:
    for number in range(2):
        small = np.full((24 + number, 32, 3), 7, np.uint8)
        bag.extra.append(("/second/image_raw", IMAGE, START + number, raw_image(START, small)))


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (plant_zero, "/joint_states: 150 of 150 header stamps are zero"),
        (plant_future, "/joint_states: 150 of 150 header stamps are later than the receipt, by up to 30.000 ms"),
        (plant_other_clock, "/joint_states: header stamps lie 5.000 s before the receipt: another clock"),
        (plant_back, "/joint_states: 75 of 150 header stamps are older than one before them"),
        (plant_dead, "/joint_states: dead joints, which hold still in the whole recording: elbow"),
        (plant_nan, "/joint_states: 1 messages hold NaN or Inf"),
        (plant_second_publisher, "/joint_states: messages do not all name the same joints: (shoulder, elbow) 150 times; (wheel) 1"),
        (plant_uneven, "/joint_states: 1 messages have not one value per name"),
        (plant_pause, "/joint_states: nothing for 17.020 s from 2.980 s on, although it comes at 50.0 Hz"),
        (plant_frozen_camera, "/camera/image_raw/compressed: 29 of 30 images are the same as the one before"),
        (plant_dark_camera, "/camera/image_raw/compressed: every image looked at is of one colour"),
        (plant_broken_jpeg, "/camera/image_raw/compressed: 1 of 1 images looked at could not be decoded"),
        (plant_sizes, "/second/image_raw: images are not alike: sizes 32 × 24, 32 × 25"),
    ],
)
def test_planted_faults_are_found(plant: Any, words: str, tmp_path: Path) -> None:
    bag = Recorded(tmp_path / "planted.mcap")
    plant(bag)
    said = inspect(bag.write(), tmp_path)["problems"]
    assert any(sentence.startswith(words) for sentence in said), said


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"joints": ["ffj3", "elbow"]}, "joint ffj3 of the robot file is not in /joint_states; it has shoulder, elbow."),
        ({"joint_state_topic": "arm/states"}, "joint states: topic arm/states of the robot file is not in the recording"),
        ({"command_topic": "hand/cmd"}, "commands: the recording has none on command/executed and hand/cmd"),
        (
            {"recorded": {"command_names": {"q": "elbow"}}},
            "joint elbow of the robot file is not in /joint_command; it has shoulder, elbow. robot.recorded.command_names gives",
        ),
        ({"cameras": {"top": {**CAMERA, "topic": "top"}}}, "camera top: neither top nor top/compressed has images in the"),
        ({"cameras": {"c": {**CAMERA, "width": 640}}}, "camera c: images on /camera/image_raw/compressed have 64 × 48 pixels, the"),
        ({"cameras": {"c": {**CAMERA, "rate_hz": 30.0}}}, "camera c: images come at 10.0 Hz, the robot file says 30.0 Hz"),
    ],
)
def test_what_the_robot_file_and_the_recording_disagree_on(keys: dict[str, Any], words: str, tmp_path: Path) -> None:
    joints = keys.get("joints", JOINTS)
    limits = {joint: {"position": [-1.0, 1.0], "velocity": 2.0, "acceleration": 20.0} for joint in joints}
    path = Recorded(tmp_path / "sound.mcap").write()
    content = inspect(path, tmp_path, "--robot", robot_file(tmp_path, **{"limits": limits, **keys}))
    assert any(sentence.startswith(words) for sentence in content["problems"]), content["problems"]


def test_ranges_and_velocities_beyond_the_robot_files(tmp_path: Path) -> None:
    limits = {joint: {"position": [-0.4, 0.4], "velocity": 0.9, "acceleration": 20.0} for joint in JOINTS}
    content = inspect(Recorded(tmp_path / "sound.mcap").write(), tmp_path, "--robot", robot_file(tmp_path, limits=limits))
    said = "\n".join(content["replay"]["limits"])
    assert "/joint_command goes beyond the robot file's ranges: shoulder from -0.5 to 0.5 (robot file: -0.4 to 0.4)." in said
    assert "/joint_command is at times faster than the robot file's velocities: shoulder " in said
    assert "elbow" not in said and "/joint_states" not in said and "correct robot.limits" not in said


@pytest.mark.parametrize(
    ("scale", "limits", "notes"),
    [
        (1.0, "", ""),
        (1.24, "", "/joint_states: measured positions overshoot the command range by up to 0.11 rad (m), most of all shoulder;"),
        (57.3, "/joint_states lies far beyond the robot file's ranges: shoulder from -28.6", ""),
    ],
)
def test_a_servos_overshoot_is_no_problem_and_degrees_are(scale: float, limits: str, notes: str, tmp_path: Path) -> None:
    """Commands just at the limits; what is measured is ``scale`` times that."""

    class Servo(Recorded):
        def state(self, received: int, position: np.ndarray) -> bytes:
            return super().state(received, scale * position)

    bounds = {joint: {"position": [-0.505, 0.505], "velocity": 1.01, "acceleration": 20.0} for joint in JOINTS}
    content = inspect(Servo(tmp_path / "servo.mcap").write(), tmp_path, "--robot", robot_file(tmp_path, limits=bounds))
    said = "\n".join(content["replay"]["limits"])
    assert said.startswith(limits) and bool(said) == bool(limits) and bool(content["problems"]) == bool(limits)
    overshoots = [note for note in content["notes"] if "overshoot" in note]
    assert len(overshoots) == bool(notes) and all(note.startswith(notes) for note in overshoots)


@pytest.mark.parametrize(
    ("names", "alone", "judged"),
    [(("j1", "j2", "j3"), False, False), (("j3", "j2", "j1"), False, False), (("j2", "j3", "j1"), True, False)],
)
def test_an_order_of_joints_that_is_the_robot_files_is_no_news(
    names: tuple[str, ...], alone: bool, judged: bool, tmp_path: Path
) -> None:
    bag = Recorded(tmp_path / "ordered.mcap")
    bag.names, bag.command_names, bag.amplitude = names, names, np.array([0.5, 0.3, 0.4])
    limits = {joint: {"position": [-1.0, 1.0], "velocity": 2.0, "acceleration": 20.0} for joint in names}
    given = robot_file(tmp_path, joints=list(names), limits=limits)
    path = bag.write()
    for options, expected in (((), alone), (("--robot", given), judged)):
        notes = inspect(path, tmp_path, *options)["notes"]
        assert any("has its joints in the order" in note for note in notes) == expected
    other = robot_file(tmp_path, joints=sorted(names), limits=limits)
    assert any("in the order" in note for note in inspect(path, tmp_path, "--robot", other)["notes"]) == alone


def test_a_checkpoint_says_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Recorded(tmp_path / "sound.mcap").write()
    content = inspect(path, tmp_path, "--robot", "adroit_door", "--checkpoint", "adroit_door_camera")
    assert any(sentence.startswith("joints ARTz, ARRx") for sentence in content["replay"]["missing"])
    assert not any("detector" in sentence for sentence in content["replay"]["missing"])  # the camera is there
    content = inspect(path, tmp_path, "--robot", robot_file(tmp_path), "--checkpoint", "adroit_door_state")
    missing = "\n".join(content["replay"]["missing"])
    assert "does not fit robot file" in missing and "the checkpoint observes features 'objects'" in missing
    assert main(["inspect", str(path), "--checkpoint", "adroit_door_state"]) == 2
    assert "--checkpoint needs --robot" in capsys.readouterr().err


def test_checkpoints_robot_files_and_detectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = inspect("adroit_door_camera", tmp_path, "--robot", "adroit_door")
    assert policy["what"] == "checkpoint" and policy["problems"] == [] and policy["parameters"] > 1e6
    assert policy["embodiments"][0]["horizon"] == 16 and len(policy["joints"]) == 28
    stranger = inspect("adroit_door_state", tmp_path, "--robot", "adroit_pen")
    assert any("does not fit" in sentence for sentence in stranger["problems"])
    detector = inspect("adroit_door_detector", tmp_path)
    assert detector["what"] == "detector" and "latch" in detector["classes"]
    robot = inspect("adroit_door", tmp_path, "--checkpoint", "adroit_door_state")
    assert robot["what"] == "robot" and robot["problems"] == [] and robot["joints"][0]["velocity"] == 6.1
    named = inspect(ROBOTS / "ats-mcap-short.yaml", tmp_path)
    assert named["naming"]["names"] == {"q0": "pivot", "q1": "shoulder", "q2": "elbow"}
    shown = capsys.readouterr().out
    assert "it fits robot file" in shown and "q0 is pivot" in shown and "ARTz" in shown


def test_what_the_controller_is_sent_is_told_value_by_value(capsys: pytest.CaptureFixture[str]) -> None:
    """In the controller's order and with the type it takes; mimic joints with what they follow, whether they are sent or not."""
    robot = load_robot(resources.robot_file("leap_right"))
    first, second, *rest = robot.joints
    mimics = (Mimic("tip", second, 0.5, -0.1), Mimic("nail", first, 2.0, 0.0))
    robot = replace(
        robot, mimics=mimics, command_joints=(*rest, "tip", second, first), command_topic="hand/commands",
        command_interface="float64_array",
    )  # fmt: skip
    commands = show_robot(robot, None)["commands"]
    assert {key: commands[key] for key in ("topic", "interface", "type")} == {
        "topic": "hand/commands", "interface": "float64_array", "type": "std_msgs/msg/Float64MultiArray",
    }  # fmt: skip
    assert [(joint["joint"], joint["index"]) for joint in commands["joints"]] == [
        *((joint, k + 2) for k, joint in enumerate(rest)), ("tip", 1), (second, 1), (first, 0),
    ]  # fmt: skip
    position = np.linspace(0.0, 1.0, len(robot.joints))
    sent = [joint["multiplier"] * position[joint["index"]] + joint["offset"] for joint in commands["joints"]]
    np.testing.assert_allclose(np.array(sent), robot.command_positions(position))
    shown = capsys.readouterr().out
    assert "std_msgs/msg/Float64MultiArray on hand/commands (command_interface float64_array)" in shown
    row = [cell.strip() for cell in next(line for line in shown.splitlines() if "│ tip " in line).split("│")]
    assert row[1:-1] == [str(len(rest)), "tip", f"0.5 × {second} − 0.1 (joint 1)"]
    assert f"nail is not sent: the hardware has it follow 2 × {first}\n" in shown


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scramble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, scramble])
def test_a_damaged_recording_gives_what_is_readable_and_says_so(damage: Any, tmp_path: Path) -> None:
    bag = Recorded(tmp_path / "damaged.mcap", seconds=40.0)
    bag.picture = np.random.default_rng(1).integers(0, 255, (240, 320, 3), dtype=np.uint8)  # several chunks
    damage(bag.write())
    content = inspect(bag.path, tmp_path)
    assert 0 < content["messages"] < 40 * 110
    assert content["problems"]


@pytest.mark.parametrize(
    "content", [b"", b"not a recording", b"\x89MCAP0\r\n", b"SQLite format 3\0" + bytes(100), b"#ROSBAG V2.0\n" + bytes(50)]
)
def test_what_is_no_recording_is_refused_in_a_paragraph(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "hostile.mcap"
    path.write_bytes(content)
    code = main(["inspect", str(path), "--json", str(tmp_path / "out.json")])
    if code == 0:  # nothing in it, and that was said
        found = json.loads((tmp_path / "out.json").read_text())
        assert found["messages"] == 0 and any("no messages" in sentence for sentence in found["problems"])
    else:
        error = capsys.readouterr().err
        assert code == 2 and error.startswith("error: ") and error.count("\n") == 1 and "bug" not in error


def test_what_does_not_exist_is_refused_with_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "no_such_thing"]) == 2
    error = capsys.readouterr().err
    assert "neither a path that exists" in error and "adroit_door_state" in error
    assert main(["inspect", str(tmp_path)]) == 2
    assert "metadata.yaml" in capsys.readouterr().err


def test_hostile_texts_do_not_reach_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = Recorded(tmp_path / "hostile.mcap")
    bag.names = ("shoulder\x1b[2J[red]", "elbow")
    bag.extra.append(("/evil\x1b]0;x\x07", STATE, START + 1, messages.joint_state(START, JOINTS, np.zeros(2))))
    inspect(bag.write(), tmp_path)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\x07" not in shown and "[red]" in shown


def test_messages_that_claim_more_than_they_hold_are_counted(tmp_path: Path) -> None:
    bag = Recorded(tmp_path / "claims.mcap")
    sound = messages.joint_state(START, JOINTS, np.zeros(2))
    huge = sound[:20] + struct.pack("<I", 1 << 31) + sound[24:]  # joint names
    bag.extra += [("/joint_states", STATE, START + 3, huge), ("/joint_states", STATE, START + 4, b"\x00\x01")]
    said = "\n".join(inspect(bag.write(), tmp_path)["problems"])
    assert "/joint_states: 2 of 152 messages could not be used" in said


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    peaks = []
    for seconds in (20.0, 200.0):
        path = Recorded(tmp_path / f"{seconds}.mcap", seconds).write()
        bag = open_bag(path)
        tracemalloc.start()
        inspect_bag(bag, decode)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        bag.close()
    assert peaks[1] < peaks[0] + 4_000_000  # the messages themselves are ten times as many


def test_samples_keep_extremes_and_good_quantiles_of_many_values() -> None:
    sample = Sample()
    values = np.random.default_rng(0).permutation(10 * KEPT) / (10 * KEPT)
    for value in values:
        sample.add(float(value))
    assert (sample.count, sample.low, sample.high) == (10 * KEPT, values.min(), values.max())
    assert sample.quantile(0.5) == pytest.approx(0.5, abs=0.03) and sample.quantile(0.99) == pytest.approx(0.99, abs=0.01)
    assert len(sample._values) <= KEPT and Sample().quantile(0.5) is None
