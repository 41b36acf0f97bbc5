"""Does the instruction decide? The same scenes under the instruction for every goal, and which goal was reached each time.

What drives the robot, a policy or an expert, in this process or through the nodes, is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import sqrt

from flow_policy_ros.sim.instructions import TRAINING, draw
from flow_policy_ros.sim.robot import AdroitRobot
from flow_policy_ros.sim.tasks.base import Goal

Drive = Callable[[AdroitRobot, int], object]
"""Resets the robot to the seed and runs one episode, doing as ``robot.instruction`` says."""

Reach = Callable[[str, int, int], str | None]
"""Runs an episode under an instruction, from the scene of a seed, with the number of an episode (which sets its stamps); gives the
name of the goal that was reached, None for none."""


@dataclass(frozen=True)
class Pairing:
    """One scene: ``reached[goal]`` is the goal reached when ``goal`` was asked for, None for none."""

    seed: int
    reached: dict[str, str | None]

    @property
    def flipped(self) -> bool:
        """Whether each goal was reached when it was asked for: another instruction, another goal."""
        return all(reached == asked for asked, reached in self.reached.items())


def run_paired(robot: AdroitRobot, drive: Drive, seeds: Iterable[int], templates: Sequence[str] = TRAINING) -> list[Pairing]:
    """Drive through the scene of every seed once per goal; within a seed the instructions differ in the goal's word alone.

    ``templates`` are phrasings (``sim.instructions``). Raises ``InstructionError`` for a task without goals to choose from, or a
    template that names none.
    """
    if not robot.task.goals:
        robot.instruct(templates[0])  # says that there is nothing to choose from

    def reach(instruction: str, seed: int, episode: int) -> str | None:
        robot.instruct(instruction)
        drive(robot, seed)
        return robot.goal_reached

    return [paired(robot.task.goals, reach, seed, templates) for seed in seeds]


def paired(goals: Sequence[Goal], reach: Reach, seed: int, templates: Sequence[str] = TRAINING) -> Pairing:
    """One scene under the instruction for every goal, in the phrasing whose turn it is.

    Every episode has a number of its own, which depends on the seed alone: a scene gives the same whatever was run before.
    """
    template = templates[seed % len(templates)]
    asked = [(goal.name, template.format(goal=goal.name)) for goal in goals]
    return Pairing(seed, {name: reach(sentence, seed, len(asked) * seed + k) for k, (name, sentence) in enumerate(asked)})


def ask(robot: AdroitRobot, instruction: str, seed: int) -> None:
    """Ask for what ``instruction`` says; where it is empty and there are goals to choose from, for what the simulator's node would
    draw by ``seed``. Raises ``InstructionError``."""
    if robot.task.goals:
        robot.instruct(instruction or draw(robot.task.goals, seed))


def scores(pairings: Sequence[Pairing]) -> dict[str, float]:
    """``flip_rate``: fraction of scenes in which the instruction decided; and fractions of all episodes: ``right`` the goal asked
    for was reached, ``wrong`` another one, ``none`` no goal. Raises ``ValueError`` for no scenes."""
    outcomes = [(asked, reached) for pairing in pairings for asked, reached in pairing.reached.items()]
    if not outcomes:
        raise ValueError("no scenes were run, expected at least one seed.")
    right = sum(reached == asked for asked, reached in outcomes)
    none = sum(reached is None for _, reached in outcomes)
    return {
        "flip_rate": sum(pairing.flipped for pairing in pairings) / len(pairings),
        "right": right / len(outcomes),
        "wrong": (len(outcomes) - right - none) / len(outcomes),
        "none": none / len(outcomes),
    }


def interval(count: int, total: int) -> tuple[float, float]:
    """Where the rate lies with a confidence of 95% when ``count`` of ``total`` were seen (Wilson 1927, the score interval)."""
    z2 = 1.959964**2
    centre = (count + z2 / 2) / (total + z2)
    half = sqrt(z2 * (count * (total - count) / total + z2 / 4)) / (total + z2)
    return max(0.0, centre - half), min(1.0, centre + half)
