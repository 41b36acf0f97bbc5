"""The demo's child processes and its domain: everything ends, and what was said last is known."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator

import pytest

pytest.importorskip("rclpy")

from flow_policy_ros.ros import processes
from flow_policy_ros.ros.domain import environment_variables, free_domain, own_domain
from flow_policy_ros.ros.processes import NodeProblem, NodeProcesses, NodeSpec


class Script(NodeSpec):
    """Any Python program in place of a node; prints ``ready`` when it is to be reckoned with."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", str(self.parameters["code"])]


READY = "import signal, sys, time\n{}\nprint('ready')\nsignal.pause()"
DEAF = READY.format("[signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)]")
WILLING = READY.format("signal.signal(signal.SIGINT, lambda *a: sys.exit(0))")


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored, which this process and its children inherit."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def wait_for(children: NodeProcesses, name: str, words: str) -> None:
    """Until the child has printed ``words`` or ended (a pipe would be an event, but what it prints goes to a file)."""
    while words not in children.last_words(name):
        children.check()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_deaf_are_killed_and_the_willing_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    short = tuple((number, 0.3 if number != signal.SIGKILL else 5.0) for number, _ in processes.PATIENCE_S)
    monkeypatch.setattr(processes, "PATIENCE_S", short)
    specs = [Script("deaf", {"code": DEAF}), Script("willing", {"code": WILLING})]
    with NodeProcesses(specs, {}) as children:
        for spec in specs:
            wait_for(children, spec.name, "ready")
        pids = [children.pid(spec.name) for spec in specs]
    codes = [children._children[spec.name].returncode for spec in specs]
    assert codes == [-signal.SIGKILL, 0]
    assert all(gone(pid) for pid in pids)


def test_an_interrupt_ends_them_too() -> None:
    with pytest.raises(KeyboardInterrupt), NodeProcesses([Script("willing", {"code": WILLING})], {}) as children:
        wait_for(children, "willing", "ready")
        signal.raise_signal(signal.SIGINT)
    assert gone(children.pid("willing"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # as it was before


def test_a_child_that_cannot_be_started_leaves_none_behind() -> None:
    class Nothing(NodeSpec):
        def command(self) -> list[str]:
            return ["/no/such/program"]

    children = NodeProcesses([Script("willing", {"code": WILLING}), Nothing("nothing", {})], {})
    with pytest.raises(FileNotFoundError), children:
        pass
    assert gone(children.pid("willing"))


def test_the_dead_are_quoted() -> None:
    code = "import sys; print('one'); sys.exit('the reason is\\n  this')"
    with NodeProcesses([Script("dead", {"code": code})], {}) as children, pytest.raises(NodeProblem) as problem:
        while True:
            children.check()
    assert str(problem.value) == "the node dead ended with exit code 1. It said last: one | the reason is | this"


def test_parameters_survive_the_command_line() -> None:
    line = NodeSpec("sim_node", {"a.path": "/x y/1", "b": True, "c": 3, "d": "12"}, {"topic": "other"}).command()
    assert line[3:] == [
        "--ros-args", "-p", 'a.path:="/x y/1"', "-p", "b:=true", "-p", "c:=3", "-p", 'd:="12"', "-r", "topic:=other",
    ]  # fmt: skip


def test_a_taken_domain_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_domain()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(("0.0.0.0", 7400 + 250 * first + 10))
        assert free_domain() != first  # the order of trying is the same within a process


def test_the_users_domain_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "77")
    monkeypatch.delenv("ROS_AUTOMATIC_DISCOVERY_RANGE", raising=False)
    variables = own_domain()
    assert variables["ROS_DOMAIN_ID"] == "77"
    assert variables["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    with environment_variables({"ROS_DOMAIN_ID": "5", "FLOW_POLICY_TEST": "1"}):
        assert os.environ["ROS_DOMAIN_ID"] == "5"
    assert os.environ["ROS_DOMAIN_ID"] == "77" and "FLOW_POLICY_TEST" not in os.environ
