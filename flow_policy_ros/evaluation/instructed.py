"""Does the instruction decide? The same scenes under the instruction for every goal, and which goal was reached each time.

What drives the robot, a policy or an expert, and how it learns of ``robot.instruction`` is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from flow_policy_ros.sim.instructions import TRAINING
from flow_policy_ros.sim.robot import AdroitRobot

Drive = Callable[[AdroitRobot, int], object]
"""Resets the robot to the seed and runs one episode, doing as ``robot.instruction`` says."""


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

    ``templates`` are phrasings (``sim.instructions``), taken in turn. Raises ``InstructionError`` for a task without goals to
    choose from, or a template that names none.
    """
    return [_paired(robot, drive, seed, templates[number % len(templates)]) for number, seed in enumerate(seeds)]


def _paired(robot: AdroitRobot, drive: Drive, seed: int, template: str) -> Pairing:
    if not robot.task.goals:
        robot.instruct(template)  # says that there is nothing to choose from
    reached = {}
    for goal in robot.task.goals:
        robot.instruct(template.format(goal=goal.name))
        drive(robot, seed)
        reached[goal.name] = robot.goal_reached
    return Pairing(seed, reached)


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
