"""Where the parts of the Adroit table are kept, under which names: demonstrations, policies, results.

Names end with a hash of all that decides the content (recipe, expert, robot file, detector), so that another recipe has others and
what is complete is never made again. How the parts are made is ``bench_table_work``'s and ``bench_table_measure``'s; which cells
there are is ``evaluation.adroit_table``'s.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flow_policy_ros.evaluation.adroit_table import CONTROL_STEPS, EXPERT, LEROBOT, ROWS, STATE, Cell, Protocol, Row, digest

if TYPE_CHECKING:
    from flow_policy_ros.sim.robot import AdroitRobot

FINISHED = "finished.json"
"""In a checkpoint's folder: its training is complete, and how it went."""


@dataclass(frozen=True)
class Workplace:
    """Where everything is kept, what it is made of, and the protocol. ``expert`` is the folder with the experts' weights, ``human``
    the file with people's demonstrations, ``detectors`` those that were given, by task, ``lerobot`` an interpreter that has it."""

    out: Path
    protocol: Protocol
    expert: Path | None = None
    human: Path | None = None
    detectors: Mapping[str, Path] = field(default_factory=dict)
    lerobot: Path | None = None

    def detector(self, task: str) -> Path:
        """The one that was given for the task, or that ships. Raises ``ValueError``."""
        from flow_policy_ros import resources

        if task in self.detectors:
            return resources.checkpoint(self.detectors[task])
        try:
            return resources.checkpoint(f"adroit_{task}_detector")
        except resources.ResourceError as error:
            raise ValueError(
                f"no detector ships for task '{task}', which --observations camera needs: give --detector {task}=FOLDER (as "
                "flow_policy train-detector writes it), or leave the task or the camera out."
            ) from error

    def weights(self, task: str) -> Path:
        """The expert's. Raises ``ValueError``."""
        file = None if self.expert is None else self.expert / f"{task}_expert.npz"
        if file is None or not file.is_file():
            given = "is not given" if self.expert is None else f"{self.expert} has no {task}_expert.npz"
            raise ValueError(f"--expert {given}; give the folder with the published experts' weights for task '{task}'.")
        return file

    def shown(self, task: str, source: str) -> dict[str, str]:
        """What demonstrations come from: hashes, and how the expert is disturbed. Raises ``ValueError``."""
        from flow_policy_ros.resources import robot_file

        if source != EXPERT and (self.human is None or not self.human.is_file()):
            raise ValueError(f"--human {self.human} is no file; give door_human_demos.npz (hand_dapg), or leave it out.")
        file = self.weights(task) if source == EXPERT else self.human
        assert file is not None
        disturbance = self.protocol.recipes[task].disturbance if source == EXPERT else 0.0
        return {"source": _hash(file), "robot": _hash(robot_file(f"adroit_{task}")), "disturbance": f"{disturbance:g}"}

    def seen(self, cell: Cell) -> dict[str, str]:
        """Hash of what turns pictures into observations; nothing without a camera."""
        if cell.observation == STATE:
            return {}
        path = self.detector(cell.task)
        return {"detector": _hash(path / "model.safetensors" if path.is_dir() else path)}

    def decides(self, cell: Cell, row: Row) -> dict[str, Any]:
        """All that decides what a policy of the row is."""
        recipe = self.protocol.recipes[cell.task]
        own = row.objective != LEROBOT
        decides = recipe.decides(cell.observation, row.objective, row.student) if own else self.protocol.lerobot.decides(recipe)
        what = {"objective": row.objective, "student": row.student, "recipe": decides}
        return {**asdict(cell), **what, **self.shown(cell.task, cell.source), **self.seen(cell)}

    def checkpoint(self, cell: Cell, row: Row) -> Path:
        """Where the policy of the row is kept."""
        learner = f"{row.objective}_student" if row.student else row.objective
        return self.out / "policies" / f"{cell.name}_{learner}_{digest(self.decides(cell, row))}"

    def result(self, cell: Cell, name: str) -> Path:
        """Where the result of a trained row is kept."""
        measured = {"steps": ROWS[name].steps, **self._episodes(cell.control_steps)}
        return self.out / "results" / f"{cell.name}_{name}_{digest({**self.decides(cell, ROWS[name]), **measured})}.json"

    def expert_result(self, task: str) -> Path:
        """Where the expert's own result is kept."""
        decides = {**self.shown(task, EXPERT), **self._episodes(CONTROL_STEPS[EXPERT])}
        return self.out / "results" / f"{task}_{EXPERT}_{digest(decides)}.json"

    def _episodes(self, control_steps: int) -> dict[str, int]:
        return {"episodes": self.protocol.episodes, "first_seed": self.protocol.first_seed, "control_steps": control_steps}


@functools.cache
def _hash(file: Path) -> str:
    """Of what a file held when the run first looked."""
    from flow_policy_ros.policy.checkpoint import file_sha256

    return file_sha256(file)


def read(file: Path) -> dict[str, Any] | None:
    """A kept result, None when there is none."""
    if not file.is_file():
        return None
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def write(file: Path, content: Mapping[str, Any]) -> None:
    """Keep a result: whole or not at all."""
    from flow_policy_ros.policy.checkpoint import write_text

    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(content, indent=1) + "\n")


def simulated(task: str) -> AdroitRobot:
    """The simulated robot of a task, by the robot file that ships."""
    from flow_policy_ros.resources import robot_file
    from flow_policy_ros.runtime.robot import load_robot
    from flow_policy_ros.sim.robot import AdroitRobot

    return AdroitRobot(task, load_robot(robot_file(f"adroit_{task}")))
