"""The shipped policies in closed loop: they succeed, runs repeat bit for bit, the guard acts, bad input is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flow_policy_ros.cli.main import main
from flow_policy_ros.evaluation.closed_loop import run_episode
from flow_policy_ros.evaluation.setup import load, select
from flow_policy_ros.runtime.latency import LatencyProfile
from flow_policy_ros.sim.robot import CONTROL_STEP_NS, AdroitRobot

PERIOD = CONTROL_STEP_NS * 1e-9


@pytest.fixture(scope="module")
def profile(tmp_path_factory) -> Path:
    """A fixed latency profile, so that results do not depend on how busy the machine is."""
    path = tmp_path_factory.mktemp("latency") / "profile.json"
    LatencyProfile({"perception": (25.0, 31.0, 44.0), "inference": (18.0, 22.0, 35.0)}, "a test").save(path)
    return path


def episodes(selection, latency, seeds, steps=200):
    loaded = load(selection, latency)
    robot = AdroitRobot(selection.task, loaded.robot)
    results = [run_episode(robot, loaded.stack, seed, i, steps) for i, seed in enumerate(seeds)]
    robot.close()
    return loaded, results


def breaches(commands, limits) -> int:
    """Set-points of one episode outside position, velocity or acceleration limits."""
    sent = commands[~np.isnan(commands).any(axis=1)]
    velocity = np.diff(sent, axis=0, prepend=sent[:1]) / PERIOD
    acceleration = np.diff(velocity, axis=0, prepend=0 * velocity[:1]) / PERIOD
    outside = (sent < limits.lower) | (sent > limits.upper)
    return int(outside.sum() + (np.abs(velocity) > limits.velocity * (1 + 1e-9) + 1e-12).sum()
               + (np.abs(acceleration) > limits.acceleration * (1 + 1e-9) + 1e-9).sum())


@pytest.mark.parametrize("observation", ["state", "camera"])
def test_the_door_opens_and_runs_repeat(observation, profile):
    selection = select("door", observation, None, None, None)
    loaded, first = episodes(selection, str(profile), [5000, 5001, 5002])
    assert sum(result.success for result in first) >= 2
    assert sum(breaches(result.commands, loaded.robot.limits) for result in first) == 0
    assert all(result.chunks >= 20 for result in first)
    _, second = episodes(selection, str(profile), [5000])
    assert second[0].sha256() == first[0].sha256()


@pytest.mark.parametrize("more", [[], ["--ros"]])
def test_an_instruction_that_nothing_reads_is_refused(capsys, more):
    command = ["evaluate", "--task", "door", "--observation", "state", "--episodes", "1", "--instruction", "open the door"]
    assert main([*command, *more]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "an instruction is given, but the checkpoint" in error and "reads none: it observes ['objects']" in error


def test_an_episode_does_not_depend_on_those_before_it(profile):
    selection = select("door", "state", None, None, None)
    loaded = load(selection, str(profile))
    robot = AdroitRobot("door", loaded.robot)
    run_episode(robot, loaded.stack, 5000, 0, 60)
    later = run_episode(robot, loaded.stack, 5001, 1, 60)
    fresh = load(selection, str(profile))
    alone = run_episode(AdroitRobot("door", fresh.robot), fresh.stack, 5001, 1, 60)
    assert later.sha256() == alone.sha256()


def test_the_seed_and_the_delay_matter(profile):
    selection = select("door", "state", None, None, None)
    _, (a,) = episodes(selection, str(profile), [5000], 60)
    _, (b,) = episodes(replace(selection, policy_seed=1), str(profile), [5000], 60)
    _, (c,) = episodes(selection, "none", [5000], 60)
    assert len({a.sha256(), b.sha256(), c.sha256()}) == 3


def test_at_half_the_limits_the_guard_acts_more_and_nothing_breaks_them(profile):
    selection = select("door", "state", None, None, None)
    counts = {}
    for scale in (0.5, 2.0):
        loaded, (result,) = episodes(replace(selection, limit_scale=scale), str(profile), [5001])
        assert breaches(result.commands, loaded.robot.limits.scaled(min(scale, 1.0))) == 0
        counts[scale] = sum(sum(c.values()) for k, c in result.statistics.interventions.items() if k != "position")
    assert counts[0.5] > 100 and counts[0.5] > 2 * counts[2.0]


def test_command_line_writes_the_figures(tmp_path, profile, capsys):
    out = tmp_path / "out.json"
    code = main(["evaluate", "--task", "door", "--observation", "state", "--episodes", "1", "--seed", "5000",
                 "--latency", str(profile), "--json", str(out)])
    figures = json.loads(out.read_text())
    assert code == 0
    assert figures["episodes"] == 1 and figures["seed"] == 5000 and figures["wall_s"] > 0
    assert figures["success_rate"] == figures["successes"]
    assert {"p50", "p99"} <= set(figures["latency_ms"]["inference"])
    assert set(figures["interventions"]) == {"position", "velocity", "acceleration", "jerk"}
    assert len(figures["trajectory_sha256"]) == 64


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--checkpoint", "/nowhere/ck"], "/nowhere/ck"),
        (["--task", "pen", "--checkpoint", "DOOR"], "joints"),
        (["--robot", "/nowhere/robot.yaml"], "/nowhere/robot.yaml"),
        (["--latency", "/nowhere/latency.json"], "/nowhere/latency.json"),
        (["--steps", "0"], "steps"),
        (["--limit-scale", "11"], "--limit-scale is 11.0, expected 0.01 to 10.0"),
        (["--limit-scale", "0.001"], "expected 0.01 to 1.0"),
        (["--limit-scale", "nan"], "--limit-scale is nan, expected 0.01 to 10.0"),
        (["--limit-scale", "2", "--ros"], "the nodes take no factor above 1"),
    ],
)
def test_bad_input_is_one_paragraph(arguments, words, capsys):
    from flow_policy_ros import resources

    arguments = [str(resources.checkpoint("adroit_door_state")) if a == "DOOR" else a for a in arguments]
    code = main(["evaluate", "--observation", "state", "--episodes", "1", *arguments])
    text = capsys.readouterr().err
    assert code == 2
    assert words in text and "Traceback" not in text and text.strip().count("\n") == 0


@pytest.mark.parametrize(("task", "least"), [("door", 4), ("pen", 1)])
def test_one_checkpoint_serves_two_robots(tmp_path, task, least):
    """The shipped policy with an embodiment for each; it opens the door, and turns some pens."""
    file = tmp_path / "figures.json"
    command = ["evaluate", "--task", task, "--observation", "state", "--checkpoint", "adroit_door_pen_state", "--episodes", "4",
               "--latency", "none", "--json", str(file)]  # fmt: skip
    assert main(command) == 0
    figures = json.loads(file.read_text())
    assert figures["successes"] >= least and figures["chunks"] == 200 and not figures["faults"]


def test_a_checkpoint_of_other_robots_is_refused(capsys):
    assert main(["evaluate", "--task", "hammer", "--observation", "state", "--checkpoint", "adroit_door_pen_state"]) == 2
    assert "'adroit_hammer' is none of the checkpoint's embodiments" in capsys.readouterr().err
