"""The task whose goal only the instruction tells: same scene, same picture, other instruction, other goal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flow_policy_ros.cli.demonstrate import main as demonstrate_command
from flow_policy_ros.data.bag_recording import read_recording
from flow_policy_ros.data.episodes import Episode, load_episodes
from flow_policy_ros.evaluation.demonstrate import demonstrate
from flow_policy_ros.evaluation.instructed import Pairing, run_paired, scores
from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.runtime.types import Features
from flow_policy_ros.sim.expert import Expert
from flow_policy_ros.sim.gl import SimError, choose_backend
from flow_policy_ros.sim.goals import HOLD_STEPS, GoalWatch
from flow_policy_ros.sim.instructions import HELD_OUT, TRAINING, InstructionError, draw, goal_of, phrasings
from flow_policy_ros.sim.tasks.relocate_goals import GOALS

try:
    choose_backend()
except SimError as error:
    pytest.skip(str(error), allow_module_level=True)

from flow_policy_ros.sim.robot import AdroitRobot
from flow_policy_ros.sim.segmentation import Segmentation

ROOT = Path(__file__).parent.parent
EXPERTS = ROOT.parent / "shared" / "adroit"
STEPS = 90


@pytest.fixture(scope="module")
def robot():
    simulated = AdroitRobot("relocate_goals", load_robot(ROOT / "config" / "robots" / "adroit_relocate_goals.yaml"))
    yield simulated
    simulated.close()


@pytest.fixture(scope="module")
def expert():
    if not EXPERTS.is_dir():
        pytest.skip("needs the published experts in ../shared/adroit")
    return Expert(EXPERTS, "relocate")


def test_instruction_changes_nothing_that_can_be_seen(robot):
    """Before and after some motion: state, picture, joint state and object features are the same, bit for bit."""
    seen = []
    for goal in GOALS:
        robot.instruct(phrasings(goal)[0])
        robot.reset(seed=4, episode=0)
        for k in range(6):
            robot.step(robot.action_to_position(0.3 * np.sin(0.2 * k + np.arange(30))))
        state = robot.get_sim_state()
        seen.append((robot.render(), *state.values(), robot.joint_state().position, robot.object_features().values))
    for green, red in zip(*seen, strict=True):
        np.testing.assert_array_equal(green, red)


def test_expert_sees_only_the_goal_asked_for(robot):
    """As the original environment would show it: joints, palm − ball, palm − goal, ball − goal (39,)."""
    robot.reset(seed=2, episode=0)
    everything = robot.environment_observation
    for number, goal in enumerate(GOALS):
        robot.instruct(phrasings(goal)[1])
        start = 33 + 6 * number
        shown = np.concatenate([everything[:33], everything[start : start + 6]])
        np.testing.assert_allclose(robot.expert_observation, shown, atol=1e-12)


def test_scenes(robot):
    """Ball and goals lie apart and in view, and either colour is on either side."""
    segmentation = Segmentation(robot.model, 256, 256, "relocate_goals")
    sides = set()
    for seed in range(20):
        robot.reset(seed, 0)
        state = robot.get_sim_state()
        green, red = (state[f"site_pos:{goal.site}"] for goal in GOALS)
        sides.add(bool(green[0] < red[0]))
        assert abs(green[0] - red[0]) >= 0.3
        assert min(np.linalg.norm(robot.data.xpos[robot.model.body("Object").id] - place) for place in (green, red)) > 0.1
        masks = segmentation.masks(robot.data, robot.camera_id)
        assert masks["green_goal"].sum() > 800 and masks["red_goal"].sum() > 800 and masks["ball"].sum() > 100
        image = robot.render().astype(int)
        for name, channel in (("red_goal", 0), ("green_goal", 1)):
            colour = image[masks[name]].mean(axis=0)
            assert colour[channel] > 1.3 * np.delete(colour, channel).max(), (name, colour)
    segmentation.close()
    assert sides == {True, False}


def test_instruction_decides_what_the_expert_does(robot, expert):
    pairings = run_paired(robot, lambda sim, seed: demonstrate(sim, expert, seed, STEPS, noise=0.0), range(300, 310))
    assert scores(pairings) == {"flip_rate": 1.0, "right": 1.0, "wrong": 0.0, "none": 0.0}


def test_a_drive_that_does_not_listen_never_flips(robot, expert):
    def deaf(sim, seed):
        asked = sim.goal.name
        sim._env.ask("red")
        demonstrate(sim, expert, seed, STEPS, noise=0.0)
        sim._env.ask(asked)

    assert scores(run_paired(robot, deaf, range(4))) == {"flip_rate": 0.0, "right": 0.5, "wrong": 0.5, "none": 0.0}


def test_other_goal_is_no_success(robot, expert):
    robot.instruct("green goal")
    robot._env.ask("red")  # the expert is lied to
    demonstrate(robot, expert, 5, STEPS, noise=0.0)
    assert robot.goal_reached == "red" and not robot.success
    robot.instruct("red goal")
    demonstrate(robot, expert, 5, STEPS, noise=0.0)
    assert robot.goal_reached == "red" and robot.success and robot.success_steps >= HOLD_STEPS


def test_instruction_in_the_midst_of_an_episode(robot, expert):
    """The expert turns round, and the score is about the new goal."""
    robot.instruct("take the ball to green")
    demonstrate(robot, expert, 7, STEPS, noise=0.0)
    assert robot.goal_reached == "green" and robot.success
    robot.instruct("red goal")
    assert robot.goal_reached is None and not robot.success
    for _ in range(STEPS):
        robot.step(robot.action_to_position(expert.action(robot.expert_observation)))
    assert robot.goal_reached == "red" and robot.success


def test_demonstration_carries_its_instruction(robot, expert, tmp_path):
    robot.instruct("bring the ball over to the red one")
    recording = demonstrate(robot, expert, 8, 20, noise=0.0)
    episode = recording.episode("relocate_goals", robot.robot.name, robot.robot.joints)
    episode.save(tmp_path / "episode.npz")
    assert Episode.load(tmp_path / "episode.npz").instruction == "bring the ball over to the red one"
    assert episode.streams["objects"][1].shape == (20, 1, 3 + 6 * len(GOALS))


def test_what_was_seen_keeps_its_name(robot, expert):
    seen = tuple(Features(k, "slots", np.full((2, 3), k, np.float32)) for k in (4, 9))
    recording = replace(demonstrate(robot, expert, 8, 5, noise=0.0), detections=seen)
    streams = recording.episode("relocate_goals", robot.robot.name, robot.robot.joints).streams
    assert set(streams) == {"objects", "slots"}
    assert streams["slots"][0].tolist() == [4, 9] and streams["slots"][1].shape == (2, 2, 3)


def test_command_line_records_every_goal_in_turn(robot, expert, tmp_path, capsys):
    arguments = ["--expert", str(EXPERTS), "--out", str(tmp_path), "--task", "relocate_goals", "--steps", str(STEPS)]
    assert demonstrate_command([*arguments, "--episodes", "2", "--bags", str(tmp_path / "bags")]) == 0
    assert demonstrate_command([*arguments, "--episodes", "1", "--seed", "2", "--instruction", "the ball belongs in red"]) == 0
    told = [episode.instruction for episode in load_episodes(tmp_path)]
    assert told == [draw(GOALS, 0), draw(GOALS, 1), "the ball belongs in red"]
    bags = sorted((tmp_path / "bags").iterdir())
    assert [read_recording(bag, robot.robot)[0].instruction for bag in bags] == told[:2]
    assert demonstrate_command([*arguments, "--episodes", "1", "--instruction", "juggle"]) == 2
    assert "instruction 'juggle' must ask for exactly one goal" in capsys.readouterr().err


def test_scene_is_put_back(robot):
    robot.reset(seed=5, episode=0)
    image, state = robot.render(), robot.get_sim_state()
    robot.reset(seed=6, episode=0)
    assert np.abs(robot.render().astype(int) - image).mean() > 0.5
    robot.set_sim_state(state)
    np.testing.assert_array_equal(robot.render(), image)


def test_phrasings_ask_for_their_goal():
    for goal in GOALS:
        for sentence in (*phrasings(goal), *phrasings(goal, HELD_OUT)):
            assert goal_of(sentence, GOALS) is goal
    assert not set(TRAINING) & set(HELD_OUT)
    assert goal_of("Would you carry it to the RED sphere?!", GOALS).name == "red"


def test_instructions_are_drawn_for_every_goal():
    drawn = {draw(GOALS, seed) for seed in range(600)}
    assert drawn == {sentence for goal in GOALS for sentence in phrasings(goal)}
    assert [goal_of(draw(GOALS, seed), GOALS).name for seed in range(4)] == ["green", "red", "green", "red"]


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("open the door", "names none of them"),
        ("", "names none of them"),
        ("move the ball to the reddish goal", "names none of them"),
        ("from the green to the red goal", "names green and red"),
        ("do not go to the red goal", "says 'not'"),
    ],
)
def test_unknown_instruction_is_named(robot, sentence, said):
    before = robot.instruction
    with pytest.raises(InstructionError, match=rf"'{sentence}' must ask for exactly one goal of green, red, but {said}"):
        robot.instruct(sentence)
    assert robot.instruction == before


def test_task_without_goals_refuses_an_instruction():
    door = AdroitRobot("door", load_robot(ROOT / "config" / "robots" / "adroit_door.yaml"))
    assert door.instruction == "" and door.goal_reached is None
    with pytest.raises(InstructionError, match="task 'door' takes no instruction"):
        door.instruct("open the door")
    with pytest.raises(InstructionError, match="task 'door' takes no instruction"):
        run_paired(door, lambda sim, seed: None, range(1))


def test_passing_by_is_not_reaching():
    watch = GoalWatch(["green", "red"])
    for _ in range(HOLD_STEPS - 1):
        watch.update({"green": True, "red": False})
    watch.update({"green": False, "red": False})
    watch.update({"green": True, "red": False})
    assert watch.reached is None  # stays that were broken off do not add up
    for _ in range(HOLD_STEPS):
        watch.update({"green": False, "red": True})
    for _ in range(HOLD_STEPS):
        watch.update({"green": True, "red": False})
    assert watch.reached == "red"


def test_scores():
    pairings = [
        Pairing(0, {"green": "green", "red": "red"}),
        Pairing(1, {"green": "red", "red": "red"}),
        Pairing(2, {"green": "red", "red": "green"}),
        Pairing(3, {"green": None, "red": "red"}),
    ]
    assert scores(pairings) == {"flip_rate": 0.25, "right": 0.5, "wrong": 0.375, "none": 0.125}
    with pytest.raises(ValueError, match="at least one seed"):
        scores([])
