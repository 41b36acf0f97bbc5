"""``flow_policy bench adroit --out`` for real and small: every row end to end, again without work, stopped, killed, continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flow_policy_ros.cli import bench_table
from flow_policy_ros.cli.bench_table_measure import evaluate
from flow_policy_ros.cli.bench_table_place import FINISHED, Workplace
from flow_policy_ros.cli.bench_table_work import demonstrations, trained
from flow_policy_ros.cli.main import main
from flow_policy_ros.data.episodes import Episode, EpisodeError
from flow_policy_ros.evaluation.adroit_table import RECIPES, ROWS, Cell, Protocol
from flow_policy_ros.evaluation.human_door import human_episodes
from flow_policy_ros.policy.checkpoint import load_checkpoint
from flow_policy_ros.resources import robot_file
from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.sim.expert import Expert
from flow_policy_ros.sim.robot import AdroitRobot
from flow_policy_ros.training.loop import Loop

SMALL = {"sizes": ("width=32", "blocks=1", "expansion=1", "observation_width=16"), "batch": 32, "precision": "fp32"}
TINY = {task: replace(recipe, **SMALL, steps=20, pairs=64, rectify=4, student_steps=4) for task, recipe in RECIPES.items()}
HUMAN = "adroit/door_human_demos.npz"


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_table, "RECIPES", TINY)
        yield patch


@pytest.fixture(scope="module")
def command(shared, tmp_path_factory, patch) -> list[str]:
    out = tmp_path_factory.mktemp("table")
    return ["bench", "adroit", "--out", str(out), "--expert", str(shared / "adroit"), "--tasks", "door", "--demonstrations", "2",
            "--observations", "state", "--seeds", "0", "--episodes", "1", "--rows", "expert", "regression", "flow_2", "flow_1",
            "reflow_1"]  # fmt: skip


@pytest.fixture(scope="module")
def table(command) -> dict:
    assert main(command) == 0
    return json.loads((Path(command[3]) / "table.json").read_text())


def files(out: Path) -> dict[str, tuple[int, int]]:
    """Of all but the table itself: when it was changed, and its number on the disk."""
    kept = [path for path in out.rglob("*") if path.is_file() and path.parent != out]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in kept}


def small(out: Path, shared: Path, steps: int = 400, **protocol) -> Workplace:
    recipes = {"door": replace(TINY["door"], steps=steps)}
    chosen = {"tasks": ("door",), "demonstrations": (1,), "observations": ("state",), "rows": ("regression",), "seeds": (0,),
              "episodes": 1, "recipes": recipes}  # fmt: skip
    return Workplace(out, Protocol(**(chosen | protocol)), shared / "adroit", shared / HUMAN)


def test_every_row_is_trained_and_measured(table, command) -> None:
    out = Path(command[3])
    assert [entry["row"] for entry in table["rows"]] == ["expert", "regression", "flow_2", "flow_1", "reflow_1"]
    expert = table["rows"][0]
    assert expert["any"]["mean"] == expert["strict"]["mean"] == 1.0
    assert table["unfinished"] == [] and table["recipes"]["door"]["steps"] == 20
    (cell,) = table["cells"]
    assert cell["name"] == "door_2_state_s0" and cell["budget_minutes"] == 60
    assert set(cell["rows_minutes"]) == {"regression", "flow_2", "flow_1", "reflow_1"} and cell["spent_minutes"] > 0
    kinds = sorted((out / "policies").iterdir())
    assert [path.name.rpartition("_")[0] for path in kinds] == [
        "door_2_state_s0_flow", "door_2_state_s0_flow_student", "door_2_state_s0_regression"
    ]  # fmt: skip
    assert [load_checkpoint(path).model.objective for path in kinds] == ["flow", "flow", "regression"]
    assert not any((path / left).exists() for path in kinds for left in ("training", "pairs", "rectified"))
    one = json.loads(next((out / "results").glob("door_2_state_s0_flow_1_*.json")).read_text())
    assert one["training"]["steps"] == 20 and one["per_episode"][0]["seed"] == 500 and len(one["trajectory_sha256"]) == 64
    assert "behaviour cloning" in (out / "table.md").read_text() and (out / "table.svg").read_text().startswith("<svg")


def test_the_second_run_makes_nothing_again(table, command) -> None:
    before = files(Path(command[3]))
    assert main(command) == 0
    assert files(Path(command[3])) == before
    assert json.loads((Path(command[3]) / "table.json").read_text()) == table
    (lost,) = (Path(command[3]) / "results").glob("door_2_state_s0_flow_1_*.json")
    (account,) = (Path(command[3]) / "cells").iterdir()
    lost.unlink()
    assert main(command) == 0
    after = files(Path(command[3]))
    assert {name for name in before if after[name] != before[name]} == {str(lost), str(account)} and set(after) == set(before)


def test_more_demonstrations_begin_with_the_same_ones(table, command, shared) -> None:
    place = Workplace(Path(command[3]), Protocol(recipes=TINY), shared / "adroit")
    two, three = (demonstrations(place, Cell("door", count, "state", 0)) for count in (2, 3))
    names = [[path.name for path in sorted(folder.glob("*.npz"))] for folder in (two, three)]
    assert [len(name) for name in names] == [2, 3] and names[1][:2] == names[0]
    assert all((two / name).read_bytes() == (three / name).read_bytes() for name in names[0])
    other = demonstrations(place, Cell("door", 1, "state", 1))
    assert next(other.glob("*.npz")).name not in names[1]


def test_no_budget_makes_nothing_and_says_so(command, tmp_path, patch) -> None:
    empty = [*command[:3], str(tmp_path / "other"), *command[4:], "--minutes", "0"]
    assert main(empty) == 1
    table = json.loads((tmp_path / "other" / "table.json").read_text())
    assert table["unfinished"] == ["door_2_state_s0", "door_expert"] and table["rows"] == []
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["table.json", "table.md", "table.svg"]


def steps_counted(monkeypatch) -> list[int]:
    """The optimiser steps that are done from now on."""
    done, step = [], Loop._step

    def counting(loop):
        done.append(loop.step)
        return step(loop)

    monkeypatch.setattr(Loop, "_step", counting)
    return done


def test_a_cell_whose_budget_ran_out_goes_on_when_given_more(tmp_path, shared, monkeypatch) -> None:
    place, done = small(tmp_path, shared), steps_counted(monkeypatch)
    (cell,) = place.protocol.cells()
    assert trained(place, cell, ROWS["regression"], lambda: 1.0 if len(done) < 30 else 0.0) is None
    first = len(done)
    assert 30 <= first < 400 and not (place.checkpoint(cell, ROWS["regression"]) / FINISHED).exists()
    assert trained(place, cell, ROWS["regression"], lambda: 1.0) == place.checkpoint(cell, ROWS["regression"])
    assert done[first] == first and len(done) == 400


def test_ctrl_c_ends_the_whole_and_not_one_cell(tmp_path, shared, monkeypatch) -> None:
    place, step = small(tmp_path, shared, seeds=(0, 1)), Loop._step

    def interrupted(loop):
        os.kill(os.getpid(), signal.SIGINT)
        return step(loop)

    monkeypatch.setattr(Loop, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench_table.run(place)
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["unfinished"] == ["door_1_state_s0", "door_1_state_s1"]
    assert [bool(cell["rows_minutes"]) for cell in table["cells"]] == [True, False]
    assert len(list((tmp_path / "policies").iterdir())) == 1


KILLED = """
import sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from test_bench_table import small
from flow_policy_ros.cli.bench_table import run
run(small(Path(sys.argv[1]), Path(sys.argv[2]), 800))
"""


def test_a_killed_run_continues(tmp_path, shared, monkeypatch) -> None:
    place = small(tmp_path, shared, 800)
    (cell,) = place.protocol.cells()
    state = place.checkpoint(cell, ROWS["regression"]) / "training" / "state.json"
    here = str(Path(__file__).parent)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), str(shared), here], stderr=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL)  # fmt: skip
    try:
        while not state.is_file():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert not (state.parents[1] / FINISHED).exists()
    reached = json.loads(state.read_text())["progress"]["step"]
    shown = files(tmp_path / "demonstrations")
    done = steps_counted(monkeypatch)
    table = bench_table.run(place)
    assert done == list(range(reached, 800)) and reached >= 200
    assert table["unfinished"] == [] and [entry["row"] for entry in table["rows"]] == ["regression"]
    assert files(tmp_path / "demonstrations") == shown


@pytest.mark.slow
def test_the_camera_sees_by_the_shipped_detector(tmp_path, shared) -> None:
    place = small(tmp_path, shared, 20, observations=("camera",))
    (cell,) = place.protocol.cells()
    checkpoint = trained(place, cell, ROWS["regression"], lambda: 1.0)
    (stream,) = load_checkpoint(checkpoint).codecs[0].contract.streams
    assert stream.name == "detections" and stream.moment == "first" and len(stream.use) == 2
    assert evaluate(place, cell, "regression", checkpoint)["episodes"] == 1


def test_what_people_showed_becomes_episodes(shared, root) -> None:
    robot = AdroitRobot("door", load_robot(robot_file("adroit_door")))
    episodes = human_episodes(shared / HUMAN, robot)
    assert len(episodes) == 25 and sum(episode.success for episode in episodes) == 7
    with np.load(shared / HUMAN) as content:
        for episode in (episodes[0], episodes[11]):
            observed, actions = content[f"obs_{episode.seed:02d}"], content[f"act_{episode.seed:02d}"]
            # The very state that was observed, joint by joint, and the palm where it was seen, to what it moves in a substep.
            for k in (0, 60, 150):
                robot.set_sim_state({name: values[k] for name, values in episode.sim_state.items()})
                shown = robot.environment_observation
                assert np.allclose(shown[:29], observed[k, :29], atol=1e-5)
                assert np.allclose(shown[29:32], observed[k, 29:32], atol=8e-3)
                assert np.array_equal(robot.joint_state().position, episode.position[k])
                asked = robot.action_to_position(actions[k])
                limits = robot.robot.limits
                assert np.array_equal(episode.commands[k], np.clip(asked, limits.lower, limits.upper))
            assert np.array_equal(episode.streams["objects"][1][:, 0], observed[:, 27:39])


def test_the_slide_is_found_from_the_palm_alone(shared, tmp_path) -> None:
    """Observations of an episode whose joint positions are known give these back; those of another robot are refused."""
    robot = AdroitRobot("door", load_robot(robot_file("adroit_door")))
    expert = Expert(shared / "adroit", "door")
    robot.reset(seed=3, episode=0)
    door = robot.get_sim_state()["body_pos:frame"]
    observed, position = [], []
    for _ in range(60):
        action = expert.action(robot.expert_observation)
        observed.append(robot.environment_observation)
        position.append(robot.joint_state().position)
        robot.step(robot.action_to_position(action))
    content = {"obs_00": np.array(observed), "act_00": np.zeros((60, 28)), "init_door_body_pos_00": door}
    np.savez(tmp_path / "h.npz", **content)
    (episode,) = human_episodes(tmp_path / "h.npz", robot)
    truth = np.array(position)
    assert np.ptp(truth[:, 0]) > 0.1 and np.abs(np.diff(truth[:, 0])).max() > 5e-3
    off = np.abs(episode.position[:, 0] - truth[:, 0])  # most in a contact, where the speed changes within a step
    assert np.percentile(off, 90) < 5e-4 and off.max() < 2e-3
    assert np.allclose(episode.position[:, 1:], truth[:, 1:], atol=1e-9)
    content["obs_00"][:, 31] += 0.01
    np.savez(tmp_path / "h.npz", **content)
    with pytest.raises(EpisodeError, match="not demonstrations of this robot"):
        human_episodes(tmp_path / "h.npz", robot)


def test_people_teach_like_the_expert(tmp_path, shared) -> None:
    place = small(tmp_path, shared, 20, tasks=(), human=25)
    (cell,) = place.protocol.cells()
    data = demonstrations(place, cell)
    assert len(list(data.glob("*.npz"))) == 25 and Episode.load(data / "episode_000000.npz").robot == "adroit_door"
    checkpoint = trained(place, cell, ROWS["regression"], lambda: 1.0)
    result = evaluate(place, cell, "regression", checkpoint)
    assert result["control_steps"] == 300 and result["line"]["source"] == "human"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tasks", "cooking"], "--tasks has ['cooking']"),
        (["--expert", "nowhere"], "--expert nowhere has no door_expert.npz"),
        (["--human", "nowhere.npz"], "--human nowhere.npz is no file"),
        (["--detector", "pen"], "--detector is pen, expected TASK=FOLDER"),
        (["--training-steps", "-1"], "--training-steps is -1"),
        (["--tasks", "pen", "--observations", "camera"], "no detector ships for task 'pen'"),
        (["--detector", "door=nowhere", "--observations", "camera"], "checkpoint 'nowhere' does not exist"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(more, message, command, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert main([*command[:3], str(out), *command[4:], *more]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and not printed.out
    assert not any(out.rglob("*"))


def test_a_row_that_lacks_its_package_is_refused(command, capsys, monkeypatch) -> None:
    monkeypatch.setitem(ROWS, "flow_1", replace(ROWS["flow_1"], needs="no_such_package"))
    assert main(command) == 2
    assert "row flow_1 needs the package 'no_such_package'" in capsys.readouterr().err


def test_given_checkpoints_are_still_measured(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "adroit", "--checkpoints", "--help"])
    assert "--latency" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["bench", "adroit", "--help"])
    assert "--demonstrations" in capsys.readouterr().out
