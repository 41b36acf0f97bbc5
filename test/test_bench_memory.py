"""``flow_policy bench memory`` and ``bench startup`` on real processes, and that a leak is seen."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from flow_policy_ros.cli.bench_memory import grown, most_resident_mb
from flow_policy_ros.cli.bench_startup import STAGES, Start, row
from flow_policy_ros.cli.main import main
from flow_policy_ros.policy.deployed import deploy
from flow_policy_ros.resources import checkpoint, robot_file
from flow_policy_ros.runtime.parameters import PolicyParameters
from flow_policy_ros.runtime.realtime import resident_mb
from flow_policy_ros.runtime.robot import load_robot

CHUNKS = 300
SLOW_IMPORTS = """
import sys
from flow_policy_ros.policy.deployed import deploy
from flow_policy_ros.runtime.parameters import PolicyParameters
import flow_policy_ros.vision.extractors
deploy(PolicyParameters(checkpoint=sys.argv[1]), "adroit_door")
print(sorted({"scipy", "sympy", "transformers", "matplotlib", "pandas"} & set(sys.modules)))
"""


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("leaking", [False, True])
def test_a_leak_is_seen_and_nothing_else(leaking) -> None:
    robot = load_robot(robot_file("adroit_door"))
    parameters = PolicyParameters(checkpoint=str(checkpoint("adroit_door_state")), steps=1)
    policy = deploy(parameters, robot.name)
    kept, sample = [], policy.sample

    def careless(*given):
        pages = mmap.mmap(-1, 200_000)  # of its own, and not from what the process has lying about
        pages.write(bytes(200_000))
        kept.append(pages)
        return sample(*given)

    if leaking:
        policy.sample = careless
    figures = grown(policy, parameters, robot, CHUNKS)
    assert figures["chunks"] == CHUNKS and figures["samples"] > CHUNKS / 2
    assert figures["grows"] is leaking, figures
    if leaking:
        assert 150.0 < figures["mb_per_1000_chunks"] < 250.0


def test_the_most_is_not_less_than_what_is() -> None:
    large = np.ones(4_000_000)
    before = resident_mb(os.getpid())
    del large
    assert most_resident_mb(os.getpid()) >= before - 1.0  # the kernel counts in batches, thread by thread


def test_memory_of_a_node_at_work(tmp_path, capfd) -> None:
    pytest.importorskip("rclpy")
    file = tmp_path / "f.json"
    command = ["bench", "memory", "--nodes", "command_node", "--seconds", "1", "--chunks", "60", "--steps", "1"]
    code = main([*command, "--json", str(file)])
    figures = json.loads(capfd.readouterr().out)
    assert figures == json.loads(file.read_text())
    (only,) = figures["rows"]
    assert only["node"] == "command_node" and only["products"] > 5 and only["met"] is True
    assert 20.0 < only["mb_end"] <= only["mb_most"] + 0.1 < only["target_mb"]
    assert figures["growth"]["chunks"] == 60 and code == int(figures["growth"]["grows"])


def test_startup_of_a_real_node_by_stage(tmp_path, capfd) -> None:
    pytest.importorskip("rclpy")
    file = tmp_path / "f.json"
    assert main(["bench", "startup", "--nodes", "policy_node", "--starts", "1", "--json", str(file)]) == 0
    figures = json.loads(capfd.readouterr().out)
    assert figures == json.loads(file.read_text())
    (only,) = figures["rows"]
    assert set(only["stages_s"]) == set(STAGES) and all(s >= 0.0 for s in only["stages_s"].values())
    assert sum(only["stages_s"].values()) == pytest.approx(only["ready_s"]["median"], abs=0.02)
    assert only["stages_s"]["torch"] > only["stages_s"]["init"] and only["heard_s"]["median"] > only["ready_s"]["median"]
    assert only["target_s"] == 6.0 and only["met"] == (only["ready_s"]["median"] < 6.0)


def test_a_policy_starts_without_what_it_does_not_need() -> None:
    """Each takes most of a second. Also continuing a chunk exactly, which ``deploy`` does once, needs none of them."""
    line = [sys.executable, "-c", SLOW_IMPORTS, str(checkpoint("adroit_door_state"))]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_what_no_stage_has_is_the_rest() -> None:
    starts = [Start(ready, ready + 0.5, 0.9 * ready, {"rclpy": 0.25, "build": ready / 2}) for ready in (1.0, 2.0, 1.2)]
    figures = row("command_node", starts)
    assert figures["ready_s"] == {"median": 1.2, "min": 1.0, "max": 2.0} and figures["heard_s"]["median"] == 1.7
    assert figures["stages_s"] == {"rclpy": 0.25, "build": 0.6, "rest": 0.35} and figures["met"] is True


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["startup", "--starts", "0"], "--starts is 0, expected at least 1"),
        (["startup", "--nodes", "sim_node"], "--nodes names sim_node, expected some of: command_node, policy_node"),
        (["memory", "--chunks", "0"], "--chunks is 0, expected at least 1"),
        (["memory", "--seconds", "0"], "--seconds is 0.0, expected more than 0"),
        (["memory", "--nodes", "sim_node"], "--nodes names sim_node, expected some of: policy_node"),
        (["memory", "--mode", "fast"], "policy.mode is 'fast', expected one of receding"),
    ],
)
def test_bad_input_is_refused(command, message, capfd) -> None:
    assert main(["bench", *command]) == 2
    assert message in capfd.readouterr().err
