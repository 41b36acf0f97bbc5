"""``flow_policy demonstrate``: record expert episodes in the simulator, shaped by the robot file's limits."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

HELP = "record expert episodes in the simulator"


@dataclass(frozen=True)
class Arguments:
    """Record expert episodes in the simulator, shaped by the robot file's limits."""

    expert: Path
    """Folder with <task>_expert.npz (published DAPG expert weights); relocate_goals is driven by relocate's."""
    out: Path
    """Folder for the episodes, one .npz each."""
    bags: Path | None = None
    """Folder for a rosbag2 (MCAP) of each episode as well: joint states, executed commands, object state."""
    task: str = "door"
    """door, hammer, pen, relocate or relocate_goals."""
    instruction: str = ""
    """What to ask for where the task has several goals; empty: the goals in turn, in phrasings drawn by seed."""
    robot: str | None = None
    """Robot file, or the name of one that ships; default config/robots/adroit_<task>.yaml."""
    episodes: int = 100
    """Episodes to record; failed ones are dropped and not counted."""
    steps: int = 200
    """Control steps (10 ms) per episode."""
    seed: int = 0
    """Seed of the first episode."""
    noise: float = 0.0
    """Standard deviation of the disturbance on the executed command, as a fraction of the command range."""
    noisy_fraction: float = 0.7
    """Fraction of the episodes that are disturbed, with --noise above zero."""
    limit_scale: float = 1.0
    """Factor on the robot file's velocity, acceleration and jerk limits; the one that the robot will run with."""


def main(argv: list[str]) -> int:
    """Returns 0, or 2 when the input is bad."""
    import tyro

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy demonstrate")
    return record(arguments)


def record(arguments: Arguments) -> int:
    """Record the episodes; existing ones in the folder are kept and counted."""
    from rich.progress import track

    from flow_policy_ros.cli.outputs import make_folder
    from flow_policy_ros.evaluation.bag import write_demonstration
    from flow_policy_ros.evaluation.demonstrate import demonstrate
    from flow_policy_ros.evaluation.limit_scale import at_scale
    from flow_policy_ros.resources import robot_file
    from flow_policy_ros.runtime.robot import RobotFileError, load_robot
    from flow_policy_ros.sim.expert import Expert
    from flow_policy_ros.sim.gl import SimError
    from flow_policy_ros.sim.instructions import draw
    from flow_policy_ros.sim.robot import AdroitRobot

    try:
        robot = at_scale(load_robot(robot_file(arguments.robot or f"adroit_{arguments.task}")), arguments.limit_scale)
        simulated = AdroitRobot(arguments.task, robot)
        expert = Expert(arguments.expert, simulated.task.expert_name)
        if arguments.instruction:
            simulated.instruct(arguments.instruction)
    except (SimError, RobotFileError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    make_folder("--out", arguments.out)
    make_folder("--bags", arguments.bags)
    kept, seed = 0, arguments.seed
    for _ in track(range(arguments.episodes), description=f"recording {arguments.task}"):
        while True:
            if simulated.task.goals and not arguments.instruction:
                simulated.instruct(draw(simulated.task.goals, seed))
            noisy = (seed * 7919) % 1000 < 1000 * arguments.noisy_fraction
            recording = demonstrate(simulated, expert, seed, arguments.steps, arguments.noise if noisy else 0.0)
            seed += 1
            if recording.success:
                break
            if seed - arguments.seed > 20 + 10 * arguments.episodes:
                print("error: the expert fails nine of ten episodes at these limits; lower --noise.", file=sys.stderr)
                return 1
        episode = recording.episode(arguments.task, robot.name, robot.joints)
        episode.save(arguments.out / f"episode_{recording.seed:06d}.npz")
        if arguments.bags is not None:
            write_demonstration(arguments.bags / f"episode_{recording.seed:06d}", recording, arguments.task, robot)
        kept += 1
    print(f"{kept} episodes from {seed - arguments.seed} tries in {arguments.out}")
    return 0
