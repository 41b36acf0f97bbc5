"""The Adroit table as data: recipes, rows and cells, and the names under which what is made for them is kept.

How a cell is made is the command line's (``cli.bench_table``); how results become means, intervals and a table is
``adroit_table_summary``'s. Nothing here imports more than the standard library.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EXPERT, HUMAN = "expert", "human"
"""Whose demonstrations: the published expert's, or those of people (door only)."""
STATE, CAMERA = "state", "camera"
"""Observations: joint positions and the simulator's object state, or joint positions and the detector's boxes."""
FLOW = "flow"
"""The objective that the recipes' options on the flow belong to."""
LEROBOT = "lerobot"
"""In place of an objective: learned by LeRobot's own DiffusionPolicy, in an environment of its own."""
HUMAN_TASK = "door"
CONTROL_STEPS = {EXPERT: 200, HUMAN: 300}
"""Control steps (10 ms) per episode. People took 225 to 300 for a door, so that 200 would cut off what was shown."""
DEMONSTRATION_SEEDS = 10_000
"""First seed of the expert's episodes, and the distance between those of two training seeds; evaluation uses lower ones."""


@dataclass(frozen=True)
class Recipe:
    """How policies for one task are trained; all learners of a task share it, so that they differ in what they learn alone.

    ``disturbance``: standard deviation of what the expert is disturbed by while it demonstrates, as a fraction of the command
    range; what is learned is how it answers (Laskey et al. 2017). ``sizes`` of the ``network`` as name=number; ``chunk_dt`` in s,
    ``horizon`` in points; ``joint_noise`` in rad or m. ``tokens`` and ``first`` (the picture before the start instead of the
    newest) say what of the detections is observed, ``feature_noise`` is in fractions of the image. Of the student: ``pairs`` to
    make, ``rectify`` and ``student_steps`` optimiser steps of its two stages.
    """

    network: str = "residual_mlp"
    sizes: tuple[str, ...] = ("width=512", "blocks=4", "expansion=2", "observation_width=128")
    predicts: str = "chunk"
    chunk_dt: float = 0.02
    horizon: int = 16
    steps: int = 4000
    batch: int = 256
    precision: str = "bf16"
    disturbance: float = 0.0
    joint_noise: float = 0.005
    streams: tuple[str, ...] = ("objects",)
    tokens: tuple[str, ...] = ()
    first: bool = False
    feature_noise: float = 0.0015
    pairs: int = 50_000
    rectify: int = 1000
    student_steps: int = 2000

    def decides(self, observation: str, objective: str, student: bool) -> dict[str, Any]:
        """Of the fields, in plain JSON types, those that decide what is learned with that observation and objective, by a
        student or not."""
        without = set() if student else {"pairs", "rectify", "student_steps"}
        without |= set() if objective == FLOW else {"predicts"}
        without |= {"tokens", "first", "feature_noise"} if observation == STATE else {"streams"}
        content = json.loads(json.dumps(dataclasses.asdict(self)))
        return {name: value for name, value in content.items() if name not in without}


@dataclass(frozen=True)
class LeRobotRecipe:
    """How LeRobot's policy is trained for any task: for ``minutes`` of one core, to predict ``horizon`` points from so many
    ``observations``, all at the task's spacing; of the task's recipe it has what describes demonstrations and samples.
    ``batch`` is LeRobot's default, ``down_dims`` its network's size."""

    minutes: float = 10.0
    horizon: int = 16
    observations: int = 2
    batch: int = 8
    down_dims: tuple[int, ...] = (128, 256, 512)

    def decides(self, recipe: Recipe) -> dict[str, Any]:
        """All that decides what is learned for the task of ``recipe``, in plain JSON types."""
        shared = {name: getattr(recipe, name) for name in ("chunk_dt", "disturbance", "joint_noise", "streams")}
        content: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self) | shared))
        return content


RECIPES: Mapping[str, Recipe] = {
    "door": Recipe(tokens=("latch", "door_panel"), first=True),
    "hammer": Recipe(tokens=("hammer_head", "hammer_handle", "nail", "nail_board")),
    "pen": Recipe(
        chunk_dt=0.01, horizon=8, joint_noise=0.0, disturbance=0.06,
        tokens=("pen_top", "pen_bottom", "target_top", "target_bottom"),
    ),
    "relocate": Recipe(predicts="velocity", horizon=8, tokens=("ball", "goal")),
}
TASKS = tuple(RECIPES)


@dataclass(frozen=True)
class Row:
    """One policy of the table. ``objective`` is what ``flow_policy train --objective`` is told, "" for the expert itself, who is
    not trained, ``LEROBOT`` for what LeRobot trains; ``steps`` of the solver; ``student``: of the policy with that objective,
    distilled by reflow. ``needs`` is a Python package that must be there."""

    title: str
    objective: str
    steps: int
    student: bool = False
    needs: str = ""


ROWS: Mapping[str, Row] = {
    "expert": Row("expert", "", 0),
    "regression": Row("behaviour cloning", "regression", 1),
    "flow_10": Row("flow, 10 steps", FLOW, 10),
    "flow_2": Row("flow, 2 steps", FLOW, 2),
    "flow_1": Row("flow, 1 step", FLOW, 1),
    "reflow_1": Row("reflow student, 1 step", FLOW, 1, student=True),
    "diffusion_10": Row("diffusion, DDIM 10", "diffusion", 10, needs="diffusers"),
    "lerobot_10": Row("LeRobot's own DiffusionPolicy, DDIM 10", LEROBOT, 10),
}
OWN_ROWS = tuple(name for name, row in ROWS.items() if row.objective != LEROBOT)
"""Those that this package makes alone."""


@dataclass(frozen=True)
class Cell:
    """What all trained rows of one line share: ``demonstrations`` of ``source`` on a task, an observation, a training ``seed``.

    The seed draws the expert's demonstrations, too; those of people are always the same.
    """

    task: str
    demonstrations: int
    observation: str
    seed: int
    source: str = EXPERT

    @property
    def name(self) -> str:
        """As in names of files."""
        whose = "" if self.source == EXPERT else f"_{self.source}"
        return f"{self.task}{whose}_{self.demonstrations}_{self.observation}_s{self.seed}"

    @property
    def control_steps(self) -> int:
        """Per episode."""
        return CONTROL_STEPS[self.source]

    @property
    def line(self) -> dict[str, Any]:
        """The cell without its seed: what the table has one line for."""
        return {"task": self.task, "source": self.source, "demonstrations": self.demonstrations, "observation": self.observation}


@dataclass(frozen=True)
class Protocol:
    """Which cells and rows, and ``episodes`` per row from ``first_seed`` on. ``human``: that many demonstrations of people as
    well, 0 for none. ``minutes`` is the budget of one cell; ``recipes`` by task, and that of LeRobot's policy."""

    tasks: tuple[str, ...] = TASKS
    demonstrations: tuple[int, ...] = (10, 25, 50)
    observations: tuple[str, ...] = (STATE, CAMERA)
    rows: tuple[str, ...] = OWN_ROWS
    seeds: tuple[int, ...] = (0, 1, 2)
    episodes: int = 100
    first_seed: int = 500
    human: int = 0
    minutes: float = 60.0
    recipes: Mapping[str, Recipe] = field(default_factory=lambda: RECIPES)
    lerobot: LeRobotRecipe = LeRobotRecipe()

    def __post_init__(self) -> None:
        """Raises ``ValueError`` naming the first option outside its bounds."""
        for option, given, known in (
            ("--tasks", self.tasks, TASKS),
            ("--observations", self.observations, (STATE, CAMERA)),
            ("--rows", self.rows, tuple(ROWS)),
        ):
            strangers = [name for name in given if name not in known]
            if strangers:
                raise ValueError(f"{option} has {strangers}, expected some of {', '.join(known)}.")
        for option, numbers, least in (
            ("--demonstrations", self.demonstrations, 1),
            ("--seeds", self.seeds, 0),
            ("--episodes", (self.episodes,), 1),
            ("--first-seed", (self.first_seed,), 0),
        ):
            if any(number < least for number in numbers):
                raise ValueError(f"{option} is {' '.join(map(str, numbers))}, expected at least {least}.")
        if not 0 <= self.minutes < float("inf"):
            raise ValueError(f"--minutes is {self.minutes}, expected a finite number, at least 0.")
        if not 0 < self.lerobot.minutes < float("inf"):
            raise ValueError(f"--lerobot-minutes is {self.lerobot.minutes}, expected a finite number above 0.")
        if self.first_seed + self.episodes > DEMONSTRATION_SEEDS:
            raise ValueError(
                f"--first-seed {self.first_seed} and --episodes {self.episodes} reach the seeds of the demonstrations, from "
                f"{DEMONSTRATION_SEEDS} on; a policy must not be measured on what it was shown."
            )
        if not (self.tasks or self.human) or not self.rows or not self.observations or not self.seeds:
            raise ValueError("--tasks, --observations, --rows and --seeds leave nothing to run; name at least one of each.")

    def cells(self) -> tuple[Cell, ...]:
        """Every cell once, in the order in which they are run: the whole table with the first training seed comes first."""
        lines = [
            (task, count, observation, EXPERT)
            for observation, task, count in itertools.product(self.observations, self.tasks, self.demonstrations)
        ]
        if self.human:
            lines += [(HUMAN_TASK, self.human, observation, HUMAN) for observation in self.observations]
        found = [
            Cell(task, count, observation, seed, source)
            for seed, (task, count, observation, source) in itertools.product(self.seeds, lines)
        ]
        return tuple(dict.fromkeys(found))


def digest(content: object) -> str:
    """Ten hexadecimal digits that differ where plain JSON ``content`` does."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
