"""What a user, a file or another node may get wrong: refused in one paragraph, before any work is done."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file

from flow_policy_ros.cli import main as program
from flow_policy_ros.policy.checkpoint import CheckpointError, file_sha256, load_checkpoint
from flow_policy_ros.runtime.joint_order import BadInput
from flow_policy_ros.runtime.latency import LatencyProfile
from flow_policy_ros.runtime.parameters import CommandParameters
from flow_policy_ros.runtime.robot import RobotFileError, load_robot
from flow_policy_ros.runtime.timeline import MAX_FUTURE_NS, ChunkTimeline
from flow_policy_ros.runtime.types import Chunk, JointState
from flow_policy_ros.safety.command_loop import CommandLoop
from flow_policy_ros.safety.guard import GuardState
from flow_policy_ros.sim.gl import SimError, choose_backend

ROOT = Path(__file__).resolve().parents[1]
DOOR = ROOT / "config" / "robots" / "adroit_door.yaml"
CHECKPOINT = ROOT / "checkpoints" / "adroit_door_state"
MS = 1_000_000
START = 1_000_000 * MS
TICK = 10 * MS


def robot_file(folder: Path, **changes: object) -> Path:
    """The door's robot file with other entries in its ``robot`` block."""
    tree = yaml.safe_load(DOOR.read_text())
    tree["/**"]["ros__parameters"]["robot"].update(changes)
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"command_interfce": "float64_array"}, "command_interfce"),
        ({"command_topic": "my topic!"}, "no ROS topic name"),
        ({"joint_state_topic": 5}, "joint_state_topic"),
        ({"cameras": {"front": {"topic": "a b", "width": 64, "height": 64, "rate_hz": 10.0}}}, "no ROS topic name"),
        ({"cameras": {"front": {"topic": "a", "width": 0.5, "height": 64, "rate_hz": 10.0}}}, "whole pixels"),
    ],
)
def test_a_robot_files_misspelt_key_or_topic_is_named(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(RobotFileError, match=words):
        load_robot(robot_file(tmp_path, **changes))


@pytest.mark.parametrize("limit", [{"position": [0, 10**400]}, {"velocity": 10**400}, {"position": [-1e308, 1e308]},
                                   {"position": [False, True]}, {"velocty": 1.0}])  # fmt: skip
def test_numbers_beyond_float_and_unknown_limits_are_refused(tmp_path: Path, limit: dict) -> None:
    limits = yaml.safe_load(DOOR.read_text())["/**"]["ros__parameters"]["robot"]["limits"]
    limits["ARTz"].update(limit)
    with pytest.raises(RobotFileError, match="ARTz"):
        load_robot(robot_file(tmp_path, limits=limits))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x9d", b"[" * 100_000])
def test_a_file_that_is_no_text_or_nested_without_end_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "robot.yaml"
    path.write_bytes(content)
    with pytest.raises(RobotFileError, match=str(path)):
        load_robot(path)


def test_a_block_that_is_no_block_is_refused(tmp_path: Path) -> None:
    tree = yaml.safe_load(DOOR.read_text())
    tree["/**"]["ros__parameters"]["command"] = 5
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(RobotFileError, match="'command' is 5"):
        load_robot(path)


def chunk(names: tuple[str, ...], positions: np.ndarray, stamp: int) -> Chunk:
    return Chunk(stamp, 20 * MS, names, positions)


def test_finite_points_whose_difference_overflows_cannot_stop_the_command_loop() -> None:
    robot = load_robot(DOOR)
    lower, upper = robot.limits.lower, robot.limits.upper
    loop = CommandLoop(robot, CommandParameters())
    far = np.full((16, len(robot.joints)), 1e308)
    far[1::2] *= -1
    for k in range(20):
        now = START + k * TICK
        loop.on_joint_state(JointState(now, robot.joints, (lower + upper) / 2), now)
        if k == 3:
            loop.on_chunk(chunk(robot.joints, far, now), now)
        tick = loop.tick(now)
        assert tick.setpoint is not None
        assert (tick.setpoint.position >= lower).all() and (tick.setpoint.position <= upper).all()
    assert loop.rejections == {"chunk_range": 1}


def test_chunks_of_the_far_future_do_not_crowd_out_the_present() -> None:
    timeline = ChunkTimeline(("a",))
    ones = np.ones((16, 1))
    for k in range(20):
        with pytest.raises(BadInput, match="future"):
            timeline.add(chunk(("a",), ones, START + MAX_FUTURE_NS + 1 + k), START)
    timeline.add(chunk(("a",), ones, START), START)
    newest = timeline.newest(START)
    assert newest is not None and newest.stamp == START and np.array_equal(newest.positions, ones)


def test_an_inactive_loop_says_what_it_waits_for() -> None:
    robot = load_robot(DOOR)
    loop = CommandLoop(robot, CommandParameters())
    middle = (robot.limits.lower + robot.limits.upper) / 2
    assert "nothing received" in (loop.start_problem(START) or "")
    loop.on_joint_state(JointState(0, robot.joints, middle), START)
    assert "stale" in (loop.start_problem(START) or "")
    loop.on_joint_state(JointState(START, robot.joints, middle), START)
    assert loop.start_problem(START) is None
    loop.on_joint_state(JointState(START + 10**12, robot.joints, middle), START)
    assert "future" in (loop.start_problem(START) or "")
    assert loop.tick(START).state is GuardState.INACTIVE


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the shipped checkpoint, to be damaged."""
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))


def test_a_flipped_byte_in_the_weights_is_noticed(checkpoint: Path) -> None:
    load_checkpoint(checkpoint)
    path = checkpoint / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not the ones"):
        load_checkpoint(checkpoint)


def test_weights_that_hold_nan_are_refused(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    weights[min(weights)].view(-1)[0] = float("nan")
    save_file(weights, path)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"weights_sha256": file_sha256(path)}))
    with pytest.raises(CheckpointError, match="NaN"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "content", [b"{}", b"[1, 2]", b'{"samples_ms": [1]}', b"\xff\x00", b'{"samples_ms": {"inference": [NaN]}}']
)
def test_a_latency_profile_of_another_form_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=str(path)):
        LatencyProfile.load(path)


def test_an_unknown_gl_backend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    with pytest.raises(SimError, match="MUJOCO_GL"):
        choose_backend()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--episodes", "0"], "--episodes is 0"),
        (["--control-steps", "0"], "--control-steps is 0"),
        (["--control-steps", "9999999999"], "--control-steps is 9999999999"),
        (["--json", "absent/out.json"], "--json absent/out.json"),
        (["--json", "."], "--json . is a folder"),
        (["--out", "file/report"], "--out file/report"),
        (["--bag", "file"], "--bag file"),
    ],
)
def test_evaluate_refuses_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert program.main(["evaluate", "--observation", "state", "--latency", "none", "--episodes", "1", *options]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.out == ""  # nothing was run


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"robot_file": "robot.yaml"}, "no ROS topic name"),
        ({"robot_file": str(DOOR), "command.limit_scal": "0.5"}, "unknown parameter command.limit_scal"),
    ],
)
def test_a_node_refuses_in_one_paragraph(tmp_path: Path, parameters: dict[str, str], words: str) -> None:
    robot_file(tmp_path, command_topic="my topic!")
    given = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "flow_policy_ros.nodes.command_node", "--ros-args", *given],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_images_that_cannot_be_used_are_an_error_on_diagnostics() -> None:
    rclpy = pytest.importorskip("rclpy")
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
    from sensor_msgs.msg import Image

    from flow_policy_ros.nodes.perception_node import PerceptionNode

    detector = ROOT / "checkpoints" / "adroit_door_detector"
    rclpy.init(args=["--ros-args", "-p", f"robot_file:={DOOR}", "-p", f"perception.detector:={detector}"])
    node = PerceptionNode()
    try:
        camera = node.create_publisher(Image, "camera/image_raw", 10)
        heard: list[DiagnosticStatus] = []
        node.create_subscription(DiagnosticArray, "/diagnostics", lambda m: heard.extend(m.status), 10)
        node.create_timer(0.05, lambda: camera.publish(Image(encoding="12UC7", height=4, width=4, step=8, data=bytes(32))))
        deadline = time.monotonic() + 20.0
        while not any("12UC7" in status.message for status in heard) and time.monotonic() < deadline:
            rclpy.spin_once(node, timeout_sec=0.1)
        assert any(s.level == DiagnosticStatus.ERROR and "12UC7" in s.message for s in heard), heard
    finally:
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()
