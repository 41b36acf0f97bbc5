"""Whether the episodes of relocate that fail begin far from the demonstrations, of results in a folder of ``bench adroit``.

    python benchmarks/adroit_starts.py runs/adroit

A beginning is five numbers: palm − ball in the plane, and ball − goal. Distances are in standard deviations of the evaluated
beginnings. Printed per result: episodes inside the convex hull of the demonstrations' beginnings, and the mean distance to the
nearest demonstration of those that failed and of those that succeeded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from flow_policy_ros import resources
from flow_policy_ros.data.episodes import Episode
from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.sim.robot import AdroitRobot

TASK = "relocate"


def beginning(objects: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the stream ``objects`` (9,): palm − ball, palm − goal, ball − goal."""
    return np.concatenate([objects[:2], objects[6:9]])


def inside(point: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    """Whether ``point`` (5,) is a convex combination of ``others`` (N, 5)."""
    equal = np.vstack([others.T, np.ones(len(others))])
    return bool(linprog(np.zeros(len(others)), A_eq=equal, b_eq=[*point, 1.0], bounds=(0, None)).status == 0)


def main(folder: Path) -> None:
    """Print a line per result."""
    robot = AdroitRobot(TASK, load_robot(resources.robot_file(f"adroit_{TASK}")))
    for file in sorted((folder / "results").glob(f"{TASK}_*_state_s*.json")):
        result = json.loads(file.read_text())
        line, starts = result["line"], []
        for k, episode in enumerate(result["per_episode"]):
            robot.reset(seed=episode["seed"], episode=k)
            starts.append(beginning(np.asarray(robot.object_features().values, dtype=float).ravel()))
        evaluated = np.array(starts)
        (data,) = (folder / "data").glob(f"{TASK}_{line['demonstrations']}_state_s{result['seed']}_*")
        shown = np.array([beginning(Episode.load(path).streams["objects"][1][0, 0]) for path in sorted(data.glob("*.npz"))])
        nearest = np.linalg.norm((evaluated[:, None] - shown) / evaluated.std(0), axis=2).min(1)
        failed = np.array([not episode["success"] for episode in result["per_episode"]])
        print(
            f"{line['demonstrations']} demonstrations, {result['row']}: inside {sum(inside(e, shown) for e in evaluated)} of "
            f"{len(evaluated)}; failed {failed.sum()} at {nearest[failed].mean():.2f}; succeeded at {nearest[~failed].mean():.2f}"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
