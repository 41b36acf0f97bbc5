"""``flow_policy doctor``: what this machine has, and the exact command for what it lacks. ``--live`` is in ``doctor_live``.

What could hang, crash or print is tried in a process of its own, so that one broken library does not hide the rest.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, NamedTuple

SETUP = "make setup"
GL_INSTALL = "sudo apt-get install libegl1 libgl1-mesa-dri"
PROBE_TIMEOUT_S = 120.0
"""On a machine with little to do; one on which more processes want to run than it has cores gets as many times more."""
LONGEST_S = 600.0
ROS_PROBE = """
from flow_policy_ros.ros.started import started
print(started())
"""
TORCH_PROBE = """
import torch
(torch.ones(2, 2) @ torch.ones(2, 2)).sum().item()
gpu = f"GPU {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "no GPU"
print(f"{torch.__version__}, {torch.get_num_threads()} threads, {gpu}")
"""
DETECTOR_PROBE = """
from flow_policy_ros.vision.ultralytics_setup import import_ultralytics
print(import_ultralytics().__version__)
"""
RENDER_PROBE = """
from flow_policy_ros.sim.gl import choose_backend
backend = choose_backend()
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light pos='0 0 3'/><geom size='.1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    image = renderer.render()
assert image.max() > image.min(), "the image is empty"
print(backend)
"""


@dataclass(frozen=True)
class Check:
    """One line of the answer: what was looked for, whether it is all right, what was found, what to do if not."""

    name: str
    ok: bool
    required: bool
    found: str
    remedy: str = ""
    unknown: bool = False
    """Nothing was found out: what was asked did not answer in time."""


class Answer(NamedTuple):
    """Of a probe: whether it succeeded; the last line of its output or error; whether it did not end in time."""

    works: bool
    text: str
    late: bool = False


@dataclass(frozen=True)
class Arguments:
    """Say what was found on this machine, and what to do about what is missing.

    With --live, listen to a running robot instead: rates, stamps, clocks, quality of service, publishers that fight, DDS settings,
    governor, real-time priority; what each problem costs and what to change.
    Exit code 0: all that is needed is there; 1: something is missing, or a problem.
    """

    live: bool = False
    """Judge the nodes that run now, on this machine and in its network. Nothing is published."""
    robot: str | None = None
    """With --live: robot file, or the name of one that ships, whose topics, rates and ages are to hold; without it what is there
    is measured."""
    seconds: float = 5.0
    """With --live: how long to listen, s."""
    namespace: str = ""
    """With --live: name space of the robot's nodes."""
    json: Path | None = None
    """Write the answer to this file too."""


def main(argv: list[str]) -> int:
    """Returns 0 when everything required is there, else 1."""
    import tyro

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy doctor")
    if arguments.live:
        from flow_policy_ros.cli import doctor_live

        return doctor_live.main(arguments.robot, arguments.seconds, arguments.namespace, arguments.json)
    if arguments.robot is not None or arguments.namespace:
        raise ValueError("--robot and --namespace are about a robot that runs; add --live.")
    checks = examine()
    ok = all(check.ok for check in checks if check.required)
    show(checks)
    if arguments.json is not None:
        import json

        content = {"ok": ok, "checks": [asdict(check) for check in checks]}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if ok else 1


def examine() -> list[Check]:
    """All checks, the slow ones side by side."""
    looks = (python, ros, torch, torchvision, detector, mujoco, rendering, cores, memory, priority, checkpoints)
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return list(pool.map(lambda look: look(), looks))


def show(checks: list[Check], bad: str = "missing") -> None:
    """Print the table, in which what is required and not all right is called ``bad``, and below it the remedies."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("", "", "found")
    for check in checks:
        lack = f"[red]{'no answer' if check.unknown else bad}[/]" if check.required else "[yellow]note[/]"
        mark = "[green]ok[/]" if check.ok else lack
        table.add_row(check.name, mark, check.found)
    console.print(table)
    for check in checks:
        if not check.ok:
            console.print(f"{check.name}: {check.remedy}", soft_wrap=True, markup=False, highlight=False)


def probe(code: str, **environment: str) -> Answer:
    """Run Python code in a process of its own."""
    limit_s = patience_s()
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        return Answer(False, f"no answer within {limit_s:.3g} s, {busy()}", late=True)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return Answer(done.returncode == 0, lines[-1] if lines else f"exit code {done.returncode}")


def patience_s() -> float:
    """How long a probe may take now, s."""
    return min(LONGEST_S, PROBE_TIMEOUT_S * max(1.0, os.getloadavg()[0] / usable_cores()))


def busy() -> str:
    """How many processes want to run, for each core."""
    return f"with {os.getloadavg()[0]:.1f} processes on {usable_cores()} cores"


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def judged(name: str, answer: Answer, remedy: str) -> Check:
    """The check of something that is required and was probed; too late an answer says nothing of whether it is there."""
    if answer.late:
        remedy = f"whether it is there was not found out. Try again when the machine has less to do; if it hangs then too: {remedy}"
    return Check(name, answer.works, True, answer.text, remedy, answer.late)


def installed(package: str) -> str | None:
    """The installed version of a package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def python() -> Check:
    """The interpreter."""
    where = f"{platform.python_version()} in {sys.prefix}, {platform.system()} {platform.machine()}"
    return Check("Python", sys.version_info >= (3, 10), True, where, "install Python 3.10 or newer")


def ros() -> Check:
    """rclpy and a middleware that starts; from a sourced installation or from the wheels."""
    answer = probe(ROS_PROBE)
    if not answer.works:
        return judged("ROS 2", answer, f"source /opt/ros/<distribution>/setup.bash, or take the wheels: {SETUP}")
    rmw, _, path = answer.text.partition(" ")
    wheel = next((d for d in ("kilted", "jazzy") if installed(f"ros-{d}-rclpy")), None)
    from_venv = sys.prefix != sys.base_prefix and path.startswith(sys.prefix)
    origin = f"{wheel} (wheels)" if from_venv else f"{os.environ.get('ROS_DISTRO', 'unknown')} (sourced)"
    return Check("ROS 2", True, True, f"{origin}, rclpy {installed('rclpy') or '?'}, {rmw}")


def torch() -> Check:
    """torch computes."""
    return judged("torch", probe(TORCH_PROBE), SETUP)


def torchvision() -> Check:
    """torchvision, whose compiled operators need a torch of the same build; stand-ins serve otherwise."""
    number = installed("torchvision")
    if number is None:
        return Check("torchvision", False, True, "not installed", SETUP)
    own = probe("import torchvision")
    if own.late:
        return judged("torchvision", own, SETUP)
    operators = "its own operators" if own.works else "stand-ins for its operators"
    return Check("torchvision", True, True, f"{number}, {operators}")


def detector() -> Check:
    """ultralytics imports."""
    return judged("ultralytics", probe(DETECTOR_PROBE), SETUP)


def mujoco() -> Check:
    """MuJoCo and the Adroit tasks are installed."""
    found = {name: installed(name) for name in ("mujoco", "gymnasium-robotics")}
    text = ", ".join(f"{name} {number or 'missing'}" for name, number in found.items())
    return Check("MuJoCo", all(found.values()), True, text, SETUP)


def rendering() -> Check:
    """Whether the off-screen OpenGL library that would be chosen really renders."""
    answer = probe(RENDER_PROBE)
    if answer.works or answer.late:
        return judged("rendering", answer, GL_INSTALL)
    others = [name for name in ("egl", "osmesa") if probe(RENDER_PROBE, MUJOCO_GL=name).works]
    return Check("rendering", False, True, answer.text, f"export MUJOCO_GL={others[0]}" if others else GL_INSTALL)


def cores() -> Check:
    """Processor cores that this process may use."""
    count = usable_cores()
    return Check("cores", count >= 2, False, str(count), "one core is enough in lockstep, not in real time")


def memory() -> Check:
    """Physical memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Check("memory", total >= 4, False, f"{total:.1f} GiB", "the demo needs about 4 GiB; close other programs")


def priority() -> Check:
    """Whether a thread may ask for real-time priority."""
    if not hasattr(os, "sched_setscheduler"):
        return Check("real-time priority", False, False, "unknown on this system", "use Linux on the robot")
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)  # of this thread alone
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        os.sched_setscheduler(0, policy, parameters)
    except PermissionError:
        remedy = "echo \"$USER - rtprio 98\" | sudo tee /etc/security/limits.d/90-rtprio.conf, then log in again"
        return Check("real-time priority", False, False, "not permitted", remedy)
    return Check("real-time priority", True, False, "permitted")


def checkpoints() -> Check:
    """What ships: checkpoints and robot files."""
    from flow_policy_ros.resources import ResourceError, names, share

    try:
        found, robots = names("checkpoints"), names("robots")
    except ResourceError as error:
        return Check("checkpoints", False, True, "none", str(error))
    text = f"{', '.join(found) or 'none'}; robot files {', '.join(robots) or 'none'} in {share()}"
    remedy = "install the package again with its checkpoints/, or train one: flow_policy train --help"
    return Check("checkpoints", bool(found and robots), True, text, remedy)
