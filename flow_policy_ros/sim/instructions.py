"""Sentences that ask for one of a task's goals, and which goal a sentence asks for.

What the simulator needs to keep score. A policy gets the sentence itself and must find out on its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from flow_policy_ros.sim.gl import SimError
from flow_policy_ros.sim.tasks.base import Goal

TRAINING = (
    "move the ball to the {goal} goal",
    "carry the ball to the {goal} sphere",
    "put the ball into the {goal} goal",
    "bring the ball over to the {goal} one",
    "the ball belongs in the {goal} goal",
    "pick up the ball and place it at the {goal} sphere",
    "take the ball to {goal}",
    "{goal} goal",
    "drop the ball off at the {goal} goal",
    "could you move the ball over to {goal}",
    "the {goal} sphere should get the ball",
    "{goal}, please",
    "let the ball end up in the {goal} goal",
    "bring it to {goal}",
    "take hold of the ball and move it into the {goal} sphere",
    "I would like to see the ball in the {goal} goal",
    "the ball has to go to the {goal} sphere",
    "set the ball down inside the {goal} goal",
    "choose the {goal} goal for the ball",
    "reach for the ball, then bring it to the {goal} marker",
    "please put it in the {goal} one",
    "make the ball arrive at the {goal} goal",
    "hand the ball over to the {goal} side",
    "transport the ball towards the {goal} sphere",
)
"""Phrasings that demonstrations are recorded with."""

HELD_OUT = (
    "please lift the ball and hold it in the {goal} sphere",
    "grab the ball and deliver it to the {goal} goal",
    "go to the {goal} target with the ball",
    "the {goal} place is where I want the ball to be",
)
"""Phrasings that no demonstration has, each with words that are in none of theirs, for tests of whether language was understood."""

_TURNED_ROUND = frozenset(("no", "not", "never", "dont", "don't", "avoid", "except", "without", "instead", "other"))


class InstructionError(SimError):
    """An instruction that asks for none of the task's goals, or for more than one."""


def phrasings(goal: Goal, templates: Sequence[str] = TRAINING) -> tuple[str, ...]:
    """Every sentence that asks for ``goal``."""
    return tuple(template.format(goal=goal.name) for template in templates)


def draw(goals: Sequence[Goal], seed: int, templates: Sequence[str] = TRAINING) -> str:
    """The instruction of the episode ``seed``: the goals in turn, the phrasing by chance."""
    sentences = phrasings(goals[seed % len(goals)], templates)
    return sentences[int(np.random.default_rng([seed, 13]).integers(len(sentences)))]


def goal_of(instruction: str, goals: Sequence[Goal]) -> Goal:
    """The goal that ``instruction`` names, whatever else it says. Raises ``InstructionError`` when that is not exactly one."""
    words = re.findall(r"[a-z']+", instruction.lower())
    named = [goal for goal in goals if goal.name in words]
    turned = sorted(_TURNED_ROUND.intersection(words))
    if len(named) == 1 and not turned:
        return named[0]
    found = f"names {' and '.join(goal.name for goal in named)}" if named else "names none of them"
    if turned:
        found = f"says '{turned[0]}', which is not understood here"
    raise InstructionError(
        f"instruction '{instruction}' must ask for exactly one goal of {', '.join(goal.name for goal in goals)}, but {found}; "
        f"say for example '{phrasings(goals[0])[0]}'."
    )
