"""``flow_policy view``: a robot at work, or a recording of it, in the browser or in Rerun. What is shown is ``viewing``'s."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    import tyro

    from flow_policy_ros.viewing.feed import Feed, Sink
    from flow_policy_ros.viewing.recorded import RecordedView

RATES = (0.5, 15.0)


@dataclass(frozen=True)
class Arguments:
    """Shows a robot at work, or a recording of it, as a page in the browser of this machine: camera with detections, predicted
    chunks against executed set-points, delays, guard and faults. Ctrl-C ends it.

    It only listens, with best effort and in a process of its own. Domain and discovery are the environment's. From another machine:
    ssh -L 8765:127.0.0.1:8765 ROBOT.
    """

    bag: tyro.conf.Positional[Path | None] = None
    """Recording to show instead of a live robot: a rosbag2 folder, or a .mcap, .db3 or .bag file."""
    robot: str = ""
    """Robot file, or the name of one that ships: joint groups, limits, camera, names of topics. Without it the usual topics are
    looked at, and joints are those that messages name."""
    namespace: str = ""
    """The robot's name space, such as left."""
    image: str = ""
    """Topic of the picture, such as perception/overlay; default: the robot file's first camera, else the first there is."""
    port: int = 8765
    """Of the page, on 127.0.0.1; 0 for a free one."""
    rate_hz: float = 15.0
    """How often the page is renewed, 0.5 to 15 Hz; a recording of more than 5 minutes is shown at a lower rate."""
    start: float = 0.0
    """Of a recording, seconds from its beginning that are left out."""
    seconds: float = 0.0
    """Of a recording, so many seconds are shown; 0 for all."""
    use_sim_time: bool = False
    """Ages are taken against /clock, for a live robot in a simulation."""
    rerun: bool = False
    """Show it in the Rerun viewer instead, which it starts; needs the package rerun-sdk."""
    rerun_out: Path | None = None
    """Write it to this file (.rrd) for the Rerun viewer instead; a recording ends the program when it is written."""
    json: Path | None = None
    """Write the page's address, and of a recording what is shown, to this file once all of it can be looked at."""


def main(argv: list[str]) -> int:
    """Returns 0; bad input raises ``ValueError``-derived errors with the remedy. For a live robot it becomes the view node."""
    global tyro  # where the annotations above are looked up
    import tyro

    from flow_policy_ros.cli.outputs import require_file

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy view")
    require_file("--json", arguments.json)
    require_file("--rerun-out", arguments.rerun_out)
    check(arguments)
    return live(arguments) if arguments.bag is None else recorded(arguments, arguments.bag)


def check(arguments: Arguments) -> None:
    """Raises ``ValueError`` for options that do not go together or lie out of bounds, and for Rerun where it is missing."""
    if not RATES[0] <= arguments.rate_hz <= RATES[1]:
        raise ValueError(f"--rate-hz is {arguments.rate_hz:g}, expected {RATES[0]:g} to {RATES[1]:g}.")
    if not 0 <= arguments.port <= 65535:
        raise ValueError(f"--port is {arguments.port}, expected 0 to 65535.")
    if not (0.0 <= arguments.start < float("inf") and 0.0 <= arguments.seconds < float("inf")):
        raise ValueError(f"--start is {arguments.start:g} and --seconds {arguments.seconds:g}, expected zero or more.")
    if arguments.bag is None and (arguments.start or arguments.seconds):
        raise ValueError("--start and --seconds choose a piece of a recording, and none is given. Give one, or leave them out.")
    if arguments.bag is not None and arguments.use_sim_time:
        raise ValueError("--use-sim-time is for live robots; a recording has its own time. Leave it out.")
    if arguments.rerun and arguments.rerun_out:
        raise ValueError("--rerun starts the viewer and --rerun-out writes a file for it; give one of them.")
    if arguments.rerun or arguments.rerun_out:
        from flow_policy_ros.viewing.rerun_log import require_rerun

        require_rerun()


def live(arguments: Arguments) -> int:
    """Becomes the view node: the same package, and the same process."""
    from flow_policy_ros import resources
    from flow_policy_ros.ros.processes import NodeSpec, become

    robot = str(resources.robot_file(arguments.robot)) if arguments.robot else ""
    space = {"__ns": "/" + arguments.namespace.strip("/")} if arguments.namespace.strip("/") else {}
    become(NodeSpec("view_node", parameters(arguments, robot), space))


def parameters(arguments: Arguments, robot: str) -> dict[str, Any]:
    """The node's, by full name; ``robot`` is the robot file, or ""."""
    return {
        "robot_file": robot,
        "use_sim_time": arguments.use_sim_time,
        "view.port": arguments.port,
        "view.rate_hz": arguments.rate_hz,
        "view.image": arguments.image,
        "view.rerun": arguments.rerun,
        "view.rerun_out": "" if arguments.rerun_out is None else str(arguments.rerun_out),
        "view.report": "" if arguments.json is None else str(arguments.json),
    }


def recorded(arguments: Arguments, bag: Path) -> int:
    """Show a recording: serve it until Ctrl-C, or give it to Rerun."""
    from flow_policy_ros import resources
    from flow_policy_ros.runtime.robot import load_robot
    from flow_policy_ros.viewing.feed import Feed
    from flow_policy_ros.viewing.recorded import RecordedView
    from flow_policy_ros.viewing.server import PageServer

    robot = load_robot(resources.robot_file(arguments.robot)) if arguments.robot else None
    shown = RecordedView(
        bag, robot, namespace=arguments.namespace, image=arguments.image, rate_hz=arguments.rate_hz, start_s=arguments.start,
        seconds=arguments.seconds,
    )  # fmt: skip
    try:
        if arguments.rerun or arguments.rerun_out:
            from flow_policy_ros.viewing.rerun_log import RerunLog

            with RerunLog(shown.shelf, arguments.rerun_out) as log:
                count = fill(shown, log)
            tell(arguments, shown, "", count)
            return 0
        feed = Feed(origin=shown.piece.start)
        with PageServer(feed, shown.shelf, arguments.port) as server:
            print(f"{server.url}  (Ctrl-C ends)", flush=True)
            fill(shown, feed)
            feed.end()
            tell(arguments, shown, server.url, feed.shown)
            serve()
    finally:
        shown.close()
    return 0


def fill(shown: RecordedView, sink: Feed | Sink) -> int:
    """Give every snapshot to ``sink``; how many there were."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    count = 0
    columns = (TextColumn("reading"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=1.0)
        for scene, shot in shown.snapshots(lambda share: progress.update(task, completed=share)):
            sink.show(scene, shot)
            count += 1
    return count


def tell(arguments: Arguments, shown: RecordedView, url: str, count: int) -> None:
    """Say what is wrong with the recording, and write the file of figures."""
    import json
    import sys

    for problem in shown.problems:
        print(f"note: {problem}", file=sys.stderr)
    if arguments.json is not None:
        figures = {
            "url": url, "snapshots": count, "seconds": shown.piece.length_ns / 1e9, "rate_hz": 1e9 / shown.piece.interval_ns,
            "topics": shown.topics, "problems": shown.problems,
        }  # fmt: skip
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def serve() -> None:
    """Until SIGINT or SIGTERM."""
    import signal
    import threading

    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: ended.set())
    while not ended.wait(0.5):
        pass
