"""The demo's nodes over DDS: equal to one process bit for bit, ended whatever happens, and plain words when they fail."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from demo_support import OBJECTS, untrained_detector, untrained_policy

pytest.importorskip("rclpy")
pytest.importorskip("ultralytics")

from flow_policy_ros.cli.main import main
from flow_policy_ros.cli.over_ros import node_specs
from flow_policy_ros.evaluation.closed_loop import run_episode
from flow_policy_ros.evaluation.record import Recorder
from flow_policy_ros.evaluation.setup import load, select
from flow_policy_ros.evaluation.summary import summarise
from flow_policy_ros.ros import conductor as conductor_module
from flow_policy_ros.ros.conductor import Conductor
from flow_policy_ros.ros.processes import NodeProblem
from flow_policy_ros.runtime.contract import StreamContract
from flow_policy_ros.runtime.latency import LatencyProfile
from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.sim.robot import AdroitRobot

EPISODES, STEPS, SEED = 2, 30, 11


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A folder with ``detector``, ``camera``, ``state`` and ``latency.json``."""
    from flow_policy_ros.vision.detector import load_detector
    from flow_policy_ros.vision.features import DetectionFeatures

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("demo")
    robot = load_robot(root / "config/robots/adroit_door.yaml")
    features = DetectionFeatures(load_detector(untrained_detector(folder / "detector")))
    seen = StreamContract("detections", features.tokens, features.channels, features.identity())
    untrained_policy(folder / "camera", robot, seen, OBJECTS)
    untrained_policy(folder / "state", robot, OBJECTS)
    LatencyProfile({"perception": (4.0, 23.0, 31.0), "inference": (2.0, 17.0)}).save(folder / "latency.json")
    return folder


def demo(files: Path, *more: str) -> int:
    given = ["--checkpoint", str(files / "camera"), "--detector", str(files / "detector"), "--steps", "2"]
    run = ["--episodes", str(EPISODES), "--control-steps", str(STEPS), "--seed", str(SEED)]
    return main(["demo", *given, *run, *more])


def test_lockstep_over_dds_is_lockstep_in_one_process(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, figures, profile = files / "out", files / "figures.json", str(files / "latency.json")
    code = demo(files, "--latency", profile, "--out", str(out), "--json", str(figures))
    over_dds = json.loads(figures.read_text())
    assert code == 1  # untrained: it ran, and no door was opened

    selection = select("door", "camera", files / "camera", files / "detector", None, steps=2, policy_seed=SEED)
    loaded = load(selection, profile)
    robot = AdroitRobot("door", loaded.robot)
    recorders = [Recorder(robot) for _ in range(EPISODES)]
    outcomes = [run_episode(robot, loaded.stack, SEED + i, i, STEPS, recorders[i]) for i in range(EPISODES)]
    expected = summarise(outcomes, loaded, 1.0, SEED)
    assert len({row.tobytes() for row in outcomes[0].commands}) > 15  # it moves: equality means something
    assert over_dds["per_episode"] == expected["per_episode"]
    rates = ("intervention_rate", "joint_intervention_rate")
    for key in ("trajectory_sha256", "chunks", "stale", "ticks", "ticks_active", "interventions", "faults", *rates):
        assert over_dds[key] == expected[key], key
    assert {"perception", "inference"} <= set(over_dds["latency_ms"])

    page = (out / "index.html").read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    for episode, recorder, outcome in zip(data["episodes"], recorders, outcomes, strict=True):
        record = recorder.record(outcome)
        assert episode["states"] == record.states
        assert [c["time"][0] for c in episode["chunks"]] == [(c.stamp - record.stamps[0]) / 1e9 for c in record.chunks]
        assert np.allclose(episode["command"]["ARTz"], record.command[:, 0], atol=6e-5)
    assert (out / "video.mp4").stat().st_size > 5000
    told = capsys.readouterr().out
    assert "episode 2 of 2, seed 12: failed" in told and "0 of 2" in told


def ended(pid: int) -> bool:
    """Whether the process is gone; a child that was not waited for would still be there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_silent_camera_and_a_dead_policy_are_told(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    selection = select("door", "camera", files / "camera", files / "detector", None)
    loaded = load(selection, "none")
    specs = [
        replace(spec, parameters={**spec.parameters, "lockstep.timeout_s": 0.5}) for spec in node_specs(selection, loaded, False)
    ]
    specs = [replace(s, remaps={"camera/image_raw": "elsewhere"} if s.name == "perception_node" else {}) for s in specs]
    with Conductor(loaded.robot, specs) as conductor:
        pids = [conductor.processes.pid(spec.name) for spec in specs]
        monkeypatch.setattr(conductor_module, "SILENCE_S", 1.0)
        with pytest.raises(NodeProblem, match=r"camera 'front' is silent.*'camera/image_raw'.*robot file"):
            conductor.run(SEED, 0, 2000)

        monkeypatch.undo()  # on a busy machine the camera's silence would be noticed before the kill

        def kill(*_: object) -> None:
            os.kill(conductor.processes.pid("policy_node"), signal.SIGKILL)

        with pytest.raises(NodeProblem, match="the node policy_node was ended by signal 9"):
            conductor.run(SEED, 1, 2000, progress=kill)
    assert all(ended(pid) for pid in pids)


def paragraph(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err.strip()
    assert "Traceback" not in text and text.startswith("error: ") and "\n" not in text
    return text


def test_a_wrong_checkpoint_path_is_refused(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo(files, "--checkpoint", "no/such/folder") == 2
    assert "no/such/folder" in paragraph(capsys)


def test_a_robot_that_is_not_the_checkpoints_is_refused(
    files: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo(files, "--robot", str(root / "config/robots/adroit_pen.yaml")) == 2
    text = paragraph(capsys)
    assert "ARTz" in text and "adroit_pen" in text


def test_missing_graphics_libraries_are_named(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    assert demo(files) == 2
    assert "apt-get install" in paragraph(capsys)


def test_a_node_that_refuses_is_quoted(files: Path, tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What only the node itself can find out: here that the simulated task is not the robot file's."""
    code = main(
        ["demo", "--task", "hammer", "--observation", "state", "--checkpoint", str(files / "state"), "--latency", "none",
         "--robot", str(root / "config/robots/adroit_door.yaml"), "--out", str(tmp_path)]
    )  # fmt: skip
    text = paragraph(capsys)
    assert code == 2
    assert "sim_node ended with exit code 2" in text and "adroit_hammer.yaml" in text
