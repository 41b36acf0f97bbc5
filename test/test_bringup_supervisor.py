"""A bring-up carried out with programs in place of nodes: they die, are deaf, talk too much. See ``test_bringup_nodes``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from bringup_support import PATIENCE_S, Heard

from flow_policy_ros.ros import course, supervisor
from flow_policy_ros.ros.bringup import Bringup, NodeDescription
from flow_policy_ros.ros.course import End
from flow_policy_ros.ros.processes import NodeSpec
from flow_policy_ros.ros.supervisor import Supervisor

ROOT = Path(__file__).resolve().parents[1]
READY = "import signal, sys, time\n{}\nprint('ready')\nwhile True: signal.pause()"
WILLING = READY.format("signal.signal(signal.SIGINT, lambda *a: sys.exit(0))")
DEAF = READY.format("[signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)]")
STOPPING = """
import signal, sys, time
got = []
[signal.signal(s, lambda number, frame: got.append(number)) for s in (signal.SIGINT, signal.SIGTERM)]
print('ready')
while not got: time.sleep(0.01)
print('stopping')
time.sleep(0.7)
print('signals', len(got))
"""
"""As a command node does: a while passes before the robot stands."""


@dataclass(frozen=True)
class Script(NodeSpec):
    """Any Python program in place of a node."""

    def command(self) -> list[str]:
        return [sys.executable, "-u", "-c", self.name]


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "spec_of", lambda node: Script(node.module, {}))


def run_while(runner: Supervisor, act: Callable[[], None]) -> End:
    """Run in this thread, which gets the signals, while another one acts; its failure ends the run."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            act()
        except BaseException as error:
            failures.append(error)
            os.kill(os.getpid(), signal.SIGINT)

    other = threading.Thread(target=guarded)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        other.start()
        end = runner.run()
    finally:
        other.join()
        signal.signal(signal.SIGINT, before)
    if failures:
        raise failures[0]
    return end


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_in_order_the_policy_again_and_never_the_command_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "PAUSES_S", (0.1, 0.2))
    command = NodeDescription(WILLING, "command_node")
    step = NodeDescription("print('configured')", "configure", after=("/command_node",), task=True)
    policy = NodeDescription(WILLING, "policy_node", after=("/configure",), respawn=True)
    heard = Heard()
    runner = Supervisor(Bringup("", (command, step, policy)), heard)

    def act() -> None:
        heard.wait_for("[policy_node] ready")
        heard.wait_for("[command_node] ready")
        first = runner.pid("/policy_node")
        os.kill(first, signal.SIGKILL)
        heard.wait_for("[policy_node] ready", times=2)
        assert runner.pid("/policy_node") != first and not gone(runner.pid("/command_node"))
        os.kill(runner.pid("/command_node"), signal.SIGKILL)

    end = run_while(runner, act)
    assert end.code == 1 and "/command_node was ended by signal 9" in end.reason and "It said last: ready" in end.reason
    assert runner.course.respawns == {"/policy_node": 1}
    assert all(gone(runner.pid(path)) for path in ("/command_node", "/policy_node"))
    lines = [line for line in heard.lines if line.startswith("[bringup] starting")]
    assert lines == [f"[bringup] starting /{name}" for name in ("command_node", "configure", "policy_node", "policy_node")]
    assert heard.lines.index("[configure] configured") < heard.lines.index("[bringup] starting /policy_node")


def test_one_that_keeps_dying_ends_all_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "PAUSES_S", (0.01, 0.01))
    policy = NodeDescription("import sys; sys.exit('no weights')", "policy_node", respawn=True)
    heard = Heard()
    end = Supervisor(Bringup("", (NodeDescription(WILLING, "command_node"), policy)), heard).run()
    assert end.code == 1 and "2 times in a row" in end.reason and end.reason.endswith("It said last: no weights")
    assert heard.lines.count("[policy_node] no weights") == 3


def test_an_onlooker_that_keeps_dying_is_left_out_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "PAUSES_S", (0.01, 0.01))
    looking = NodeDescription("import sys; sys.exit('no disk')", "flight_recorder_node", respawn=True, onlooker=True)
    heard = Heard()
    runner = Supervisor(Bringup("", (NodeDescription(WILLING, "command_node"), looking)), heard)

    def act() -> None:
        heard.wait_for("[command_node] ready")
        heard.wait_for("The others go on without it. It said last: no disk")
        assert not gone(runner.pid("/command_node"))
        os.kill(os.getpid(), signal.SIGINT)

    assert run_while(runner, act).code == 0
    assert heard.lines.count("[flight_recorder_node] no disk") == 3


LINGERING = """
import os, signal, sys
signal.signal(signal.SIGINT, lambda *a: sys.exit(print('asked after the others' if os.path.exists({!r}) else 'asked at once')))
print('ready')
while True: signal.pause()
"""


@pytest.mark.parametrize("died", [True, False])
def test_who_lingers_sees_what_follows_a_death(died: bool, tmp_path: Path) -> None:
    """The flight recorder has to notice it. At an end that was asked for there is nothing to wait for."""
    mark = tmp_path / "ended"
    ending = "import signal, sys, time\nsignal.signal(signal.SIGINT, lambda *a: (time.sleep(0.5), open({!r}, 'w'), sys.exit(0)))\n"
    policy = ending.format(str(mark)) + "print('ready')\nwhile True: signal.pause()"
    looking = NodeDescription(LINGERING.format(str(mark)), "flight_recorder_node", onlooker=True, respawn=True, linger_s=3.0)
    nodes = (NodeDescription(WILLING, "command_node"), NodeDescription(policy, "policy_node"), looking)
    heard = Heard()
    runner = Supervisor(Bringup("", nodes), heard)

    def act() -> None:
        heard.wait_for("ready", times=3)
        os.kill(runner.pid("/command_node") if died else os.getpid(), signal.SIGKILL if died else signal.SIGINT)

    assert run_while(runner, act).code == int(died)
    words = [line for line in heard.lines if line.startswith("[flight_recorder_node] asked")]
    assert words == [f"[flight_recorder_node] asked {'after the others' if died else 'at once'}"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_and_an_impatient_second_one_cuts_no_stop_short(number: int) -> None:
    heard = Heard()
    runner = Supervisor(Bringup("", (NodeDescription(STOPPING, "command_node", patience_s=10.0),)), heard)

    def act() -> None:
        heard.wait_for("ready")
        os.kill(os.getpid(), number)
        heard.wait_for("stopping")
        os.kill(os.getpid(), number)

    end = run_while(runner, act)
    assert end.code == 0 and signal.Signals(number).name in end.reason
    assert heard.lines[-1] == "[command_node] signals 1"


def test_the_deaf_are_killed_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "TERM_S", 0.2)
    heard = Heard()
    nodes = (NodeDescription(WILLING, "command_node"), NodeDescription(DEAF, "policy_node", patience_s=0.2))
    runner = Supervisor(Bringup("", nodes), heard)

    def act() -> None:
        heard.wait_for("ready", times=2)
        os.kill(os.getpid(), signal.SIGINT)

    end = run_while(runner, act)
    assert end.code == 1 and "Killed" in end.reason and "/policy_node" in end.reason and "/command_node" not in end.reason
    assert gone(runner.pid("/policy_node"))


def test_no_node_waits_for_a_terminal_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-S, or a pager: a command node that waited for it would let the robot go."""
    monkeypatch.setattr(supervisor, "DRAIN_S", 0.2)
    stuck = threading.Event()
    many = "for k in range(20000): print('a line of some length, of which there are many', k)"
    end = Supervisor(Bringup("", (NodeDescription(many, "command_node"),)), lambda line: stuck.wait(PATIENCE_S) or None).run()
    stuck.set()
    assert end.code == 0 and "/command_node ended with exit code 0" in end.reason


def test_a_terminal_that_has_gone_ends_nothing() -> None:
    def say(line: str) -> None:
        raise BrokenPipeError

    end = Supervisor(Bringup("", (NodeDescription("print('one'); print('two')", "recorder_node"),)), say).run()
    assert end.code == 0


KILLED = """
import sys
from flow_policy_ros.ros import supervisor
from flow_policy_ros.ros.bringup import Bringup, NodeDescription
from flow_policy_ros.ros.processes import NodeSpec
class Script(NodeSpec):
    def command(self): return [sys.executable, "-u", "-c", self.name]
supervisor.spec_of = lambda node: Script(node.module, {})
supervisor.Supervisor(Bringup("", (NodeDescription(sys.argv[1], "command_node"),)), lambda line: print(line, flush=True)).run()
"""
TALKING = """
import os, signal, sys, time
print('ready', flush=True)
while not os.path.exists({0!r}): time.sleep(0.01)
for k in range(3000): print('a line of some length, of which there are more than a pipe holds', k, flush=True)
open({1!r}, 'w').close()
signal.pause()
"""
TETHERED = """
import os, signal, sys
from flow_policy_ros.ros.processes import end_with_parent
def stop(*_):
    open(sys.argv[1] if len(sys.argv) > 1 else os.environ["STOPPED"], "w").write("stopped")
    os._exit(0)
signal.signal(signal.SIGINT, stop)
end_with_parent()
print("ready", os.getpid())
while True: signal.pause()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a process that its parent has died")
def test_a_bring_up_that_is_killed_leaves_no_robot_moving(tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STOPPED": str(stopped)}
    runner = subprocess.Popen([sys.executable, "-c", KILLED, TETHERED], stdout=subprocess.PIPE, text=True, env=environment)
    assert runner.stdout is not None
    words = next(line for line in runner.stdout if "ready" in line).split()
    runner.kill()
    runner.wait()
    deadline = time.monotonic() + PATIENCE_S
    while not gone(int(words[-1])) and time.monotonic() < deadline:
        time.sleep(0.02)
    runner.stdout.close()
    assert stopped.read_text() == "stopped"


@pytest.mark.parametrize("number", [signal.SIGTSTP, signal.SIGTTOU, signal.SIGTTIN])
def test_ctrl_z_freezes_no_node(number: int, tmp_path: Path) -> None:
    """A bring-up that is suspended reads no pipe, and a node that prints into a full one waits."""
    go, talked = tmp_path / "go", tmp_path / "talked"
    program = TALKING.format(str(go), str(talked))
    runner = subprocess.Popen(
        [sys.executable, "-c", KILLED, program], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: os.setpgid(0, 0),  # a job of its own, as a shell makes it: the kernel suspends no group without a shell
    )  # fmt: skip
    heard = Heard()
    assert runner.stdout is not None
    reader = threading.Thread(target=lambda: [heard(line) for line in runner.stdout or ()])
    reader.start()
    try:
        heard.wait_for("[command_node] ready")
        runner.send_signal(number)
        if number == signal.SIGTSTP:
            heard.wait_for("[bringup] is not suspended")
        go.touch()
        deadline = time.monotonic() + 30.0
        while not talked.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert talked.exists(), "the node waits for a bring-up that is suspended"
        runner.send_signal(signal.SIGINT)
        runner.wait(PATIENCE_S)
    finally:
        if runner.poll() is None:
            runner.kill()
            runner.wait()
        reader.join()
