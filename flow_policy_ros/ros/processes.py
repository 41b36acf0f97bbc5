"""Nodes as child processes: started, watched, and ended whatever happens. What they say to each other is not known here."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NoReturn

PATIENCE_S = ((signal.SIGINT, 4.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0))
"""How children are asked to end, and how long each way of asking is given."""
SUSPENDING = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
"""What a terminal suspends a job with: Ctrl-Z, and the use of a terminal that another job has. A bring-up that is suspended reads
no pipe any more, and a command node whose pipe is full waits, with the robot in motion, as does one that is suspended itself. So
neither is; only SIGSTOP, which nobody sends by accident, still does it."""
LAST_LINES = 6
PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when the thread ends that started it."""
CONSOLE = "RCUTILS_CONSOLE_OUTPUT_FORMAT"
"""Environment variable: how a node's log looks; by default with the seconds since 1970."""
TETHER = "FLOW_POLICY_TETHER"
"""Environment variable: the id of the process with which a node is to end."""


class NodeProblem(ValueError):
    """A node that did not come up, died, or is silent; one paragraph with what it said last."""


@dataclass(frozen=True)
class NodeSpec:
    """A node to start: ``name`` is its module in ``flow_policy_ros.nodes``.

    ``parameters`` are ROS parameters by full name; ``remaps`` other names for topics, and for the node itself (``__node``);
    ``arguments`` come before what is ROS's; ``enclave`` is SROS 2's.
    """

    name: str
    parameters: Mapping[str, str | int | float | bool]
    remaps: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    enclave: str = ""

    def command(self) -> list[str]:
        """The command line."""
        line = [sys.executable, "-m", f"flow_policy_ros.nodes.{self.name}", *self.arguments, "--ros-args"]
        for name, value in self.parameters.items():
            line += ["-p", f"{name}:={json.dumps(value)}"]  # JSON is YAML, and quotes what looks like a number
        for name, other in self.remaps.items():
            line += ["-r", f"{name}:={other}"]
        return line + (["--enclave", self.enclave] if self.enclave else [])


class NodeProcesses:
    """The children, as a context manager that ends them: SIGINT first, then SIGTERM, then SIGKILL, each by its id."""

    def __init__(self, specs: Sequence[NodeSpec], environment: Mapping[str, str]) -> None:
        self.specs = tuple(specs)
        self._environment = {**os.environ, **environment, "PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1"}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._output: dict[str, IO[bytes]] = {}

    def __enter__(self) -> NodeProcesses:
        try:
            for spec in self.specs:
                self._output[spec.name] = output = tempfile.TemporaryFile()  # closed in __exit__
                # A session of its own: Ctrl-C reaches this process alone, which then ends them in order.
                self._children[spec.name] = subprocess.Popen(
                    spec.command(), env=self._environment, stdin=subprocess.DEVNULL, stdout=output,
                    stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        with handled(signal.SIGINT, signal.SIG_IGN):  # an impatient second Ctrl-C must not leave orphans
            self._end()

    def _end(self) -> None:
        for number, patience_s in PATIENCE_S:
            running = [child for child in self._children.values() if child.poll() is None]
            for child in running:
                child.send_signal(number)
            deadline = time.monotonic() + patience_s
            for child in running:
                try:
                    child.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    break
        for output in self._output.values():
            output.close()

    def pid(self, name: str) -> int:
        """Process id of a node."""
        return self._children[name].pid

    def check(self) -> None:
        """Raises ``NodeProblem`` when a node has ended."""
        for name, child in self._children.items():
            code = child.poll()
            if code is not None:
                how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
                raise NodeProblem(f"the node {name} {how}. {self.last_words(name)}")

    def last_words(self, name: str) -> str:
        """The last lines that a node printed, as a sentence."""
        output = self._output[name]
        size = os.fstat(output.fileno()).st_size
        # pread leaves the position alone, which the child writes at: both share one open file
        text = os.pread(output.fileno(), 4000, max(0, size - 4000)).decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()][-LAST_LINES:]
        return f"It said last: {' | '.join(lines)}" if lines else "It printed nothing."


@contextmanager
def handled(number: signal.Signals, handler: Any) -> Iterator[None]:
    """Another handler for a signal, for a while. Only the main thread may set one; elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def never_suspended() -> None:
    """What would suspend this process is ignored from now on, by the processes that it starts, too. Nothing is done outside the
    main thread, which alone may."""
    if threading.current_thread() is threading.main_thread():
        for number in SUSPENDING:
            signal.signal(number, signal.SIG_IGN)


def end_with_parent() -> None:
    """Called by a node as it starts: where it is tethered, it is sent SIGINT when the process that started it dies, however that
    dies. Else a robot would go on moving with nobody to end it. Linux alone can do that."""
    parent = os.environ.get(TETHER, "")
    if not parent or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGINT))
    if os.getppid() != int(parent):  # it has died before
        signal.raise_signal(signal.SIGINT)


def become(spec: NodeSpec) -> NoReturn:
    """Turn this process into the node, whose log is for one who sits in front of it; who ends this program, or kills it, means the
    node. A SIGINT meanwhile waits until the node's package can take it (``nodes``)."""
    if find_spec("rclpy") is None:
        raise ModuleNotFoundError("No module named 'rclpy'", name="rclpy")
    command = spec.command()
    sys.stdout.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        os.execve(command[0], command, {CONSOLE: "{severity}: {message}", **os.environ, "PYTHONPATH": python_path()})
    finally:  # it could not
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    raise AssertionError("exec does not return")


def python_path() -> str:
    """Children find the very package that is running, installed or not."""
    package = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([package, inherited] if inherited else [package])
