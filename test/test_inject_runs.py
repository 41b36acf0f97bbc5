"""Disturbances in closed loop: what gets lost is not followed, what is late is followed late, and runs repeat."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from demo_support import OBJECTS, untrained_policy

from flow_policy_ros.cli.main import main
from flow_policy_ros.evaluation.closed_loop import run_episode
from flow_policy_ros.evaluation.seams import SeamObserver
from flow_policy_ros.evaluation.setup import Selection, load, select
from flow_policy_ros.runtime.contract import Contract
from flow_policy_ros.runtime.inject import Disturbed, Injection
from flow_policy_ros.runtime.latency import NO_LATENCY
from flow_policy_ros.runtime.parameters import PolicyParameters
from flow_policy_ros.runtime.policy_loop import PolicyLoop
from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.runtime.types import Chunk, JointState, Observation
from flow_policy_ros.sim.robot import AdroitRobot

STEPS = 100


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Selection:
    robot = load_robot(root / "config/robots/adroit_door.yaml")
    folder = untrained_policy(tmp_path_factory.mktemp("policy") / "state", robot, OBJECTS, dt_ns=40_000_000)
    return select("door", "state", folder, None, None, steps=1)


def episode(selection: Selection, text: str):
    loaded = load(replace(selection, injection=Injection.parse(text)), "none")
    robot = AdroitRobot("door", loaded.robot)
    observer = SeamObserver()
    result = run_episode(robot, loaded.stack, 3, 0, STEPS, observer)
    robot.close()
    return result, observer


def test_a_delay_is_what_passes_until_a_chunk_is_followed(selection) -> None:
    result, observer = episode(selection, "delay=0.13")
    assert observer.delays and set(observer.delays) == {130_000_000}
    assert result.chunks == -(-STEPS // 13)  # the policy is busy for 130 ms each time


def test_jitter_and_spikes_are_met_and_runs_repeat(selection) -> None:
    first, observer = episode(selection, "delay=0.02..0.08,spike=0.2@0.3")
    delays = np.array(observer.delays)
    assert delays.min() >= 20_000_000 and delays.max() >= 220_000_000 and len(set(observer.delays)) > 2
    again, _ = episode(selection, "delay=0.02..0.08,spike=0.2@0.3")
    calm, _ = episode(selection, "")
    assert first.sha256() == again.sha256() != calm.sha256()


def test_lost_chunks_are_not_followed(selection) -> None:
    some, observer = episode(selection, "drop-chunks=0.5")
    assert 0 < len(observer.delays) < some.chunks
    none, observer = episode(selection, "drop-chunks=1")
    assert none.chunks > 5 and not observer.delays and "ACTIVE" not in none.states
    assert np.ptp(none.commands[1:], axis=0).max() == 0.0  # held where it started


def test_lost_frames_need_a_camera(selection, capsys) -> None:
    command = ["evaluate", "--observation", "state", "--episodes", "1", "--inject"]
    assert main([*command, "drop-frames=0.5"]) == 2
    assert "drop-frames loses camera images" in capsys.readouterr().err
    assert main([*command, "drop-frames=often"]) == 2
    assert "'drop-frames=often': 'often' is no number" in capsys.readouterr().err


def test_evaluate_says_what_was_injected(selection, tmp_path, capsys) -> None:
    file = tmp_path / "figures.json"
    command = ["evaluate", "--observation", "state", "--checkpoint", str(selection.checkpoint), "--episodes", "1", "--latency",
               "none", "--control-steps", "40", "--inject", "delay=0.1, drop-chunks=0.25", "--json", str(file)]  # fmt: skip
    assert main(command) == 0
    assert json.loads(file.read_text())["inject"] == "delay=0.1,drop-chunks=0.25"
    assert "disturbances" in capsys.readouterr().out


class Still:
    """Chunks that stay where the robot is, at no cost of time."""

    contract = Contract("r", ("a",), ("a",), 10_000_000, 8, ())

    def sample(self, observation: Observation, steps: int, seed: int) -> tuple[np.ndarray, int]:
        return np.repeat(observation.joint_position[None], 8, axis=0), 1


def live_chunks(text: str, wanted: int) -> list[tuple[int, Chunk]]:
    """Chunks with the instants at which the worker passed them on, from observations made when they were wanted."""
    pytest.importorskip("rclpy")
    from flow_policy_ros.nodes.policy_worker import PolicyWorker

    passed: list[tuple[int, Chunk]] = []
    enough = threading.Event()

    def done(product: object, duration_ms: float) -> None:
        assert isinstance(product, Chunk), product
        passed.append((time.monotonic_ns(), product))
        if len(passed) >= wanted:
            enough.set()

    loop = PolicyLoop(Still(), PolicyParameters(rate_hz=200.0, joint_state_max_age_s=10.0))
    worker = PolicyWorker(loop, time.monotonic_ns, done, Disturbed(NO_LATENCY, Injection.parse(text)))
    for _ in range(2000):
        now = time.monotonic_ns()
        worker.on_joint_state(JointState(now, ("a",), np.zeros(1)), now)
        worker.want()
        if enough.wait(0.005):
            break
    worker.close()
    return passed


def test_in_real_time_a_delayed_chunk_keeps_the_policy_busy() -> None:
    passed = live_chunks("delay=0.05", 4)
    assert len(passed) >= 4
    assert all(instant - chunk.stamp >= 50_000_000 for instant, chunk in passed)
    assert np.diff([instant for instant, _ in passed]).min() >= 50_000_000


def test_in_real_time_the_very_chunks_get_lost_that_are_drawn() -> None:
    injection = Injection.parse("drop-chunks=0.5")
    passed = live_chunks("drop-chunks=0.5", 6)
    assert len(passed) >= 6
    assert not any(injection.dropped("inference", chunk.stamp, 0) for _, chunk in passed)
