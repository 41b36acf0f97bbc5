"""When the flight recorder saves, over DDS: what led to a fault is in a bag, and a node that ends in order leaves none."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_support import UNHURRIED, Ears, FakeRobot, Launcher, ears_fixture, launcher_fixture, until, values, write_robot  # noqa: F401

pytest.importorskip("rclpy")
from diagnostic_msgs.msg import DiagnosticArray
from flight_support import fly, listening, wait_bags
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from std_msgs.msg import Bool, String
from test_recorder import information, read

from flow_policy_ros.cli.main import main
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.nodes.flight_bag import UNFINISHED, bags
from flow_policy_ros.nodes.flight_watch import MOST_CALLS, SILENT, Event, FaultWatch
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.diagnostics import OK, Diagnostics, status


def found_diagnostics(bag: Path) -> list[DiagnosticArray]:
    reader = open_bag(bag)
    messages = [deserialize_message(bytes(m.data), DiagnosticArray) for m in reader.messages() if m.topic == "/diagnostics"]
    reader.close()
    return messages


def test_what_led_to_a_fault_and_what_followed_is_in_its_bag(launcher: Launcher, ears: Ears, tmp_path: Path, capsys: Any) -> None:
    """With a real command node. What was told once, long before the window, is in the bag too."""
    told = ears.speak(String, "features/objects/info", qos.LATCHED)
    told.publish(String(data="the task"))
    stop = ears.speak(Bool, "command/emergency_stop")
    diagnostics_of = ears.diagnostics()
    robot = FakeRobot(ears)
    node = fly(launcher, tmp_path, flight__seconds=2.0)
    listening(ears, robot.publisher, told)
    launcher.node("command_node", write_robot(tmp_path), **UNHURRIED)
    ears.connected(stop)
    time.sleep(3.0)  # longer than the window
    with ears.insisting(lambda: stop.publish(Bool(data=True))):
        (bag,) = wait_bags(tmp_path)
    assert bag.name.endswith("_emergency_stop") and not any((tmp_path / "bags" / UNFINISHED).iterdir())
    found, custom = read(bag), information(bag)["custom_data"]
    assert custom["events"] == "emergency_stop" and custom["robot"] == "two_joints" and custom["messages_missed"] == "0"
    assert found["/features/objects/info"] == [String(data="the task")]
    stamps = np.array([m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in found["/joint_states"]])
    fault = int(custom["instant"])
    assert 1.0 < (fault - stamps[0]) / 1e9 < 3.0 and (stamps[-1] - fault) / 1e9 > 0.3, (stamps - fault) / 1e9
    assert (np.diff(stamps) > 0).all() and any(s.name == "command" for m in found_diagnostics(bag) for s in m.status)
    seconds = information(bag)["duration"]["nanoseconds"] / 1e9
    assert 1.5 < seconds < 4.0, "what was told before the window does not lengthen the bag"
    assert main(["inspect", str(bag), "--robot", str(tmp_path / "two_joints.yaml")]) in (0, 1)
    assert "two_joints" in capsys.readouterr().out
    until(lambda: f"saved {bag}" in node.output, "the log does not say that it was saved")
    said = [s for s in diagnostics_of.messages if s.name == "flight_recorder"]
    assert values(said[-1])["state"] in ("saving", "watching") and int(values(said[-1])["topics"]) >= 4


def test_a_command_node_that_is_killed_is_a_fault_and_one_that_ends_is_none(
    launcher: Launcher, ears: Ears, tmp_path: Path
) -> None:
    heard = ears.diagnostics()
    robot = FakeRobot(ears)
    recorder = fly(launcher, tmp_path)
    listening(ears, robot.publisher)
    for number in (signal.SIGTERM, signal.SIGKILL):
        first = len(heard.messages)
        node = launcher.node("command_node", write_robot(tmp_path), **UNHURRIED)
        heard.wait_for(lambda s: s.name == "command" and values(s)["lifecycle"] == "active", after=first)
        heard.wait_for(lambda s: s.name == "command", after=len(heard.messages))
        time.sleep(4.0)  # the recorder hears it, too: an announcement that got lost comes again after 3 s
        node.send(number)
        node.wait()
        if number == signal.SIGKILL:
            until(lambda: SILENT in recorder.output, "the command node was killed, and nobody says so")
        else:
            time.sleep(4.0)
            assert SILENT not in recorder.output
    (bag,) = wait_bags(tmp_path)
    assert bag.name.endswith(SILENT) and "killed" in information(bag)["custom_data"]["detail"]


def test_only_the_command_node_of_its_own_name_space_counts(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flow_policy_ros.nodes.flight_recorder_node", "--ros-args", "-r", "__ns:=/left"]
    for name, value in (("robot_file", write_robot(tmp_path)), ("flight.out", tmp_path / "bags"), ("flight.min_free_gb", 0.0),
                        ("flight.after_s", 0.2)):  # fmt: skip
        command += ["-p", f"{name}:={value}"]
    launcher._start(command, "left")
    heard = ears.diagnostics()
    ends = {}
    for space in ("left", "right"):
        node = Node("command_node", namespace=space, context=ears._context)
        ears._executor.add_node(node)
        ends[space] = Diagnostics(node, "two_joints")
    heard.wait_for(lambda s: (s.name, s.hardware_id) == ("left/flight_recorder", "left/two_joints"))

    def say(space: str, faults: str) -> None:
        said = {"state": "fault", "state_since": ears.now(), "lifecycle": "active", "faults": faults}
        ends[space].publish(ears.now(), status("command", OK, f"{faults}: planted", said))

    listening(ears, *(end._publisher for end in ends.values()))
    for space in ends:
        say(space, "")
    time.sleep(0.5)
    say("right", "tracking_error")
    time.sleep(1.5)
    assert bags(tmp_path / "bags") == []
    say("left", "tracking_error")
    (bag,) = wait_bags(tmp_path)
    assert information(bag)["custom_data"]["detail"] == "tracking_error: planted"


def test_new_faults_are_told_from_known_ones() -> None:
    watch = FaultWatch(1000)

    def hear(faults: str, since: int = 2000, count: int = 1, lifecycle: str = "active", now: int = 0) -> list[str]:
        said = {"faults": faults, "state_since": str(since), "lifecycle": lifecycle}
        said |= {f"fault_count.{name}": str(count) for name in faults.split()}
        return [e.name for e in watch.hear(said, "", now)]

    assert hear("old", since=900) == [], "latched before there was a recorder"
    assert hear("old new") == ["new"]
    assert hear("old new") == []
    assert hear("new", count=2) == ["new"], "dropped and latched again between two reports"
    assert hear("") == [] and hear("new", count=3) == ["new"]
    both = FaultWatch(1000).hear({"faults": "a b", "state_since": "1000"}, "a: x; b: y", 0)
    assert both == [Event("a", "x; b: y"), Event("b", "y")]


@pytest.mark.parametrize("strange", [{"fault_count.x": "many"}, {"state_since": "no number"}, {"fault_count.x": "9" * 5000 + "."}])
def test_a_status_whose_numbers_are_none_changes_nothing(strange: dict[str, str]) -> None:
    watch, sound = FaultWatch(0), {"faults": "x", "fault_count.x": "1", "state_since": "1", "lifecycle": "active"}
    with pytest.raises(ValueError, match="expected a whole number"):
        watch.hear(sound | strange, "", 0)
    assert [e.name for e in watch.hear(sound, "", 0)] == ["x"], "the fault is news still"
    with pytest.raises(ValueError, match="expected a whole number"):
        watch.hear({**sound, "lifecycle": "inactive", **strange}, "", 0)
    assert any(watch.silent(10 * 10**9) for _ in range(MOST_CALLS)), "it has ended nobody's work"


def test_silence_is_told_once_and_not_of_a_node_that_has_ended() -> None:
    watch, second = FaultWatch(0), 10**9
    for lifecycle, told in (("active", 1), ("inactive", 0), ("active", 1)):
        watch.hear({"faults": "", "lifecycle": lifecycle}, "", 100 * second)
        assert [watch.silent(102 * second) for _ in range(9)] == [None] * 9
        events = [watch.silent(104 * second) for _ in range(9)]
        assert len([e for e in events if e is not None and e.name == SILENT]) == told
    watch.hear({"faults": "", "lifecycle": "active"}, "", 200 * second)
    assert [watch.silent(300 * second) for _ in range(MOST_CALLS - 1)] == [None] * (MOST_CALLS - 1), "it was held up itself"


def test_it_says_why_it_does_not_start(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    node = launcher.node("flight_recorder_node", write_robot(tmp_path), flight__out=tmp_path / "file" / "bags")
    assert node.wait() == 2 and "flight.out" in node.output and "Traceback" not in node.output
