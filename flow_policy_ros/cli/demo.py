"""``flow_policy demo``: the simulated hand at work, with the nodes as processes over DDS, to watch and to look at later."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress

    from flow_policy_ros.evaluation.closed_loop import EpisodeResult
    from flow_policy_ros.ros.collector import SimStatus

HELP = "watch the simulated hand at work: nodes as processes, over DDS"


@dataclass(frozen=True)
class Arguments:
    """Watch the simulated hand at work: simulator, perception, policy and command node as processes over DDS.

    Leaves a folder with a video, a page to open in a browser, and the figures. Exit code 0: most episodes succeeded;
    1: ran, and they did not; 2: refused.
    """

    task: Literal["door", "hammer", "pen", "relocate", "relocate_goals"] = "door"
    """Which Adroit task."""
    observation: Literal["camera", "state"] | None = None
    """camera: joint positions and detections; state: joint positions and the simulator's object state. Default: camera, for
    relocate_goals state."""
    instruction: str = ""
    """What the robot is to do, in words, for checkpoints that read an instruction. relocate_goals: which goal counts as success;
    empty: the goals in turn, in phrasings drawn by seed."""
    episodes: int = 5
    """How many episodes; episode i starts from the scene of seed + i."""
    seed: int = 0
    """Seed of the first episode, and of the policy's noise."""
    checkpoint: Path | None = None
    """Checkpoint folder; default: the shipped one for task and observation."""
    detector: Path | None = None
    """Detector folder; default: the shipped one for the task."""
    robot: Path | None = None
    """Robot file; default config/robots/adroit_<task>.yaml."""
    steps: int = 10
    """Solver steps per chunk."""
    mode: Literal["receding", "ensemble", "rtc", "rtc_identity", "rtc_trained"] = "receding"
    """How chunks follow each other: the newest replaces, predictions are averaged, or real-time chunking (exact, without
    gradients, or as trained with --prefix)."""
    realtime: bool = False
    """Keep to the wall clock, with the delays that there really are, instead of lockstep with injected ones."""
    latency: str = "measured"
    """Lockstep: injected perception and inference delay: measured (on this machine, once), none, or a profile's path."""
    inject: str = ""
    """Disturbances, separated by commas: delay=0.2 (s, of inference), delay=0.02..0.08 (evenly between), spike=0.3@0.05 (s at a
    probability), drop-chunks=0.1, drop-frames=0.2 (probabilities); drawn by seed, so that a run repeats."""
    limit_scale: float = 1.0
    """Factor on the robot file's velocity, acceleration and jerk limits, 0.01 to 1."""
    control_steps: int = 200
    """Control steps (10 ms) per episode."""
    out: Path = Path("runs/demo")
    """Folder for video, page and figures."""
    json: Path | None = None
    """Write the figures to this file, too."""


def main(argv: list[str]) -> int:
    """Returns the exit code; bad input raises ``ValueError``-derived errors with the remedy."""
    import tyro

    return demo(tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy demo"))


def demo(arguments: Arguments) -> int:
    """Run the episodes, show them as they go, write the folder."""
    import signal
    from dataclasses import replace

    from rich.console import Console

    from flow_policy_ros.cli.outputs import make_folder, require_file
    from flow_policy_ros.cli.over_ros import run_over_ros
    from flow_policy_ros.evaluation.limit_scale import refuse_on_a_robot
    from flow_policy_ros.evaluation.report import write_report
    from flow_policy_ros.evaluation.setup import default_observation, load, select
    from flow_policy_ros.evaluation.summary import print_summary, summarise
    from flow_policy_ros.ros.processes import handled
    from flow_policy_ros.runtime.inject import Injection
    from flow_policy_ros.runtime.parameters import ParameterError
    from flow_policy_ros.sim.gl import choose_backend
    from flow_policy_ros.sim.tasks import TASKS

    for name, number in (("--episodes", arguments.episodes), ("--control-steps", arguments.control_steps)):
        if number < 1:
            raise ParameterError(f"{name} is {number}, expected 1 or more.")
    require_file("--json", arguments.json)
    make_folder("--out", arguments.out)
    refuse_on_a_robot(arguments.limit_scale)
    console = Console()
    choose_backend()
    observation = arguments.observation or default_observation(arguments.task)
    selection = select(
        arguments.task, observation, arguments.checkpoint, arguments.detector, arguments.robot,
        steps=arguments.steps, policy_seed=arguments.seed, limit_scale=arguments.limit_scale,
    )  # fmt: skip
    injection = Injection.parse(arguments.inject)
    selection = replace(selection, mode=arguments.mode, injection=injection, instruction=arguments.instruction)
    with console.status("loading the policy; on a machine's first run also measuring how long it takes"):
        loaded = load(selection, "none" if arguments.realtime else arguments.latency)
    display = Display(console, arguments)
    start = time.monotonic()
    with handled(signal.SIGTERM, _interrupt), display:
        run = run_over_ros(
            selection, loaded, arguments.episodes, arguments.seed, arguments.control_steps, arguments.realtime,
            display.update,
        )  # fmt: skip
        display.finish(run.outcomes)
    if not console.is_terminal:
        console.line()  # the display leaves its last line open
    summary = {
        "task": arguments.task,
        "observation": observation,
        "steps": arguments.steps,
        "mode": arguments.mode,
        "inject": str(selection.injection),
        "limit_scale": arguments.limit_scale,
        "realtime": arguments.realtime,
        **summarise(
            run.outcomes, loaded, display.episodes_s or time.monotonic() - start, arguments.seed, arguments.realtime,
            run.reported, TASKS[arguments.task].strict_steps,
        ),
    }  # fmt: skip
    print_summary(console, summary)
    page = write_report(arguments.out, run.records, summary)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(summary, indent=1) + "\n")
    console.print(f"page with video: [bold]{page}[/bold]", highlight=False, soft_wrap=True)
    return 0 if 2 * summary["successes"] > summary["episodes"] else 1


def _interrupt(number: int, frame: object) -> None:
    """SIGTERM ends the nodes as Ctrl-C does."""
    raise KeyboardInterrupt


class Display:
    """What is seen in the terminal while the episodes run. ``episodes_s`` is wall time from the first step on, s."""

    def __init__(self, console: object, arguments: Arguments) -> None:
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._control_steps, self._episodes = arguments.control_steps, arguments.episodes
        columns = (TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
        self._bars: Progress = Progress(*columns, TimeRemainingColumn(), console=console)  # type: ignore[arg-type]
        self._total = self._bars.add_task("starting the nodes", total=arguments.episodes, note="")
        self._bar = self._bars.add_task("", total=arguments.control_steps, note="", visible=False)
        self._live = Live(self._render(), console=console, refresh_per_second=8)  # type: ignore[arg-type]
        self._console = self._live.console
        self._told = 0
        self._first: float | None = None
        self.episodes_s = 0.0

    def __enter__(self) -> Display:
        self._live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.__exit__(None, None, None)

    def _render(self) -> RenderableType:
        return self._bars

    def update(self, status: SimStatus, guard: str, outcomes: list[EpisodeResult]) -> None:
        """Show where the episode stands; tell of each that has ended."""
        now = time.monotonic()
        if self._first is None:
            self._first = now
        self.episodes_s = now - self._first
        steps = len(outcomes) * self._control_steps + status.step
        factor = steps * 0.01 / self.episodes_s if self.episodes_s else 0.0
        self._tell(outcomes)
        good = sum(o.success for o in outcomes)
        note = f"{good} succeeded, {factor:.2f} × real time"
        self._bars.update(self._total, description="episodes", completed=len(outcomes), note=note)
        mark = "[green]success[/green]" if status.success else ""
        description = f"episode {status.episode + 1}, seed {status.seed}"
        self._bars.update(self._bar, visible=True, completed=status.step, description=description, note=f"{guard} {mark}")

    def finish(self, outcomes: list[EpisodeResult]) -> None:
        """The last episode has ended."""
        self._tell(outcomes)
        self._bars.update(self._total, completed=len(outcomes), note=f"{sum(o.success for o in outcomes)} succeeded")
        self._bars.update(self._bar, visible=False)

    def _tell(self, outcomes: list[EpisodeResult]) -> None:
        for number, outcome in enumerate(outcomes[self._told :], start=self._told + 1):
            verdict = "[green]success[/green]" if outcome.success else "[red]failed[/red]"
            self._console.print(
                f"episode {number} of {self._episodes}, seed {outcome.seed}: {verdict}, goal held for "
                f"{outcome.success_steps} steps, {outcome.chunks} chunks",
                highlight=False,
            )
        self._told = len(outcomes)
