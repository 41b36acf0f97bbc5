"""Episodes of a simulated robot that follow each other, begun by the real ``lead_node``; robot and command node are played."""

from __future__ import annotations

from pathlib import Path

import pytest
from ros_support import Ears, Launcher, ears_fixture, launcher_fixture, until  # noqa: F401

pytest.importorskip("rclpy")
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_srvs.srv import Trigger

from flow_policy_ros.ros import qos
from flow_policy_ros.ros.processes import NodeSpec

CALLS = ("command/reset", "sim/reset")


class Played:
    """The services that are called, and what the simulation and the command node say of themselves."""

    def __init__(self, ears: Ears) -> None:
        self.called: list[str] = []
        self.faults = ""
        self.state = "idle"
        self.answers = True
        self._status = ears.speak(DiagnosticStatus, "sim/status", qos.LATCHED)
        self._diagnostics = ears.speak(DiagnosticArray, "/diagnostics")
        for name in CALLS:
            ears.node.create_service(Trigger, name, lambda _, response, name=name: self._answer(name, response))
        ears.node.create_timer(0.1, self._say)

    def _answer(self, name: str, response: Trigger.Response) -> Trigger.Response:
        self.called.append(name)
        if name == "sim/reset":
            self.state = "running"
        response.success = self.answers
        return response

    def _say(self) -> None:
        self._status.publish(DiagnosticStatus(name="sim", message=self.state))
        status = DiagnosticStatus(name="command", values=[KeyValue(key="faults", value=self.faults)])
        self._diagnostics.publish(DiagnosticArray(status=[status]))

    def begun(self) -> int:
        return self.called.count("sim/reset")


def test_an_episode_follows_the_other_but_no_fault_is_reset(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    played = Played(ears)
    lead = launcher._start(NodeSpec("lead_node", {}, {"__node": "begin"}, ("call", *CALLS, "--episodes")).command(), "begin")
    until(lambda: played.begun() == 1, "the first episode did not begin")
    played.state = "done"
    until(lambda: played.begun() == 2, "the second episode did not begin")
    assert played.called == [*CALLS, *CALLS]

    played.faults = "emergency_stop"
    played.state = "done"
    until(lambda: "waiting for a command node without a fault" in lead.output, "it does not say what it waits for")
    assert played.called == [*CALLS, *CALLS]  # nobody but a person resets a fault
    played.faults = ""
    until(lambda: played.begun() == 3, "no episode after the fault was left")
    assert lead.alive()
