"""``flow_policy doctor --live``: each fault is planted in a live graph, and is the one that is named; a sound robot has none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ros_support import UNHURRIED, Child, Ears, FakeRobot, Launcher, ears_fixture, launcher_fixture, write_robot  # noqa: F401

pytest.importorskip("rclpy")
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, Float64, String
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.cli import doctor_live_checks, doctor_machine
from flow_policy_ros.cli.doctor import Check
from flow_policy_ros.cli.main import main
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.images import image_to_message
from flow_policy_ros.ros.live_facts import Endpoint, Heard, LiveFacts, Said, TopicFacts
from flow_policy_ros.ros.live_look import look
from flow_policy_ros.ros.messages import to_time
from flow_policy_ros.runtime.robot import load_robot

RATE = 10.0
BEST_EFFORT = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
AHEAD = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t which, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(which, at);
    if (which == CLOCK_REALTIME && (at->tv_nsec += 400000000) >= 1000000000) { at->tv_nsec -= 1000000000; at->tv_sec += 1; }
    return result;
}
"""
TALKER = """
import time
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import JointState
rclpy.init()
node = Node("driver")
publisher = node.create_publisher(JointState, "joint_states", 10)
while rclpy.ok():
    message = JointState(name=["shoulder", "elbow"], position=[0.0, 0.0])
    message.header.stamp = node.get_clock().now().to_msg()
    publisher.publish(message)
    time.sleep(0.05)
"""


def robot_file(folder: Path, *cameras: str, **command: object) -> Path:
    """Two joints at 10 Hz and cameras at 10 Hz, whose pictures may be 1.5 s old."""
    entries = {name: {"topic": f"{name}/image", "width": 8, "height": 8, "rate_hz": RATE} for name in cameras}
    path = write_robot(folder, cameras=entries)
    tree = yaml.safe_load(path.read_text())
    tree["/**"]["ros__parameters"]["command"] = {"rate_hz": RATE, "joint_state_max_age_s": 2.0, **command}
    tree["/**"]["ros__parameters"]["policy"] = {"joint_state_max_age_s": 2.0, "features_max_age_s": 1.5}
    path.write_text(yaml.safe_dump(tree))
    return path


def judge(robot: Path, seconds: float = 1.5) -> list[Check]:
    rows = doctor_live_checks.expected(load_robot(robot))
    names = {row.topic for row in rows}
    return doctor_live_checks.examine(look(seconds, lambda topic, kind: topic in names), rows)


def problems(checks: list[Check]) -> dict[str, str]:
    """Name → what was found, of what has to be changed."""
    bad = [check for check in checks if check.required and not check.ok]
    assert len({check.name for check in bad}) == len(bad), f"one fault is told twice: {bad}"
    assert all(check.remedy and len(check.remedy.split(". ")) > 1 for check in bad), "what it costs, and what to change"
    return {check.name: check.found for check in bad}


def every(ears: Ears, say: Callable[[int], None], hz: float = RATE) -> None:
    """Call ``say`` with 0, 1, ... at a rate."""
    count = iter(range(10**9))
    ears.node.create_timer(1.0 / hz, lambda: say(next(count)))


def states(ears: Ears) -> None:
    """A sound robot's joint states."""
    robot = FakeRobot(ears)
    robot.paused = True
    every(ears, lambda _: robot.say(list(robot.position), list(robot.position.values())))


def test_a_sound_robot_has_no_problem(launcher: Launcher, ears: Ears, tmp_path: Path, capsys: Any) -> None:
    """With a real command node, whose commands somebody obeys; as the program tells it, and as it writes it."""
    robot = robot_file(tmp_path, "front")
    states(ears)
    pictures = ears.speak(Image, "front/image", qos.IMAGE)
    every(ears, lambda _: pictures.publish(stamped(ears)))
    obeys = Node("controller", context=ears._context)
    obeys.create_subscription(JointTrajectory, "joint_command", lambda message: None, qos.RELIABLE)
    diagnostics = ears.diagnostics()
    launcher.node("command_node", robot, **UNHURRIED | {"command__joint_state_max_age_s": 2.0})
    diagnostics.wait_for(lambda s: s.name == "command")
    code = main(["doctor", "--live", "--robot", str(robot), "--seconds", "2", "--json", str(tmp_path / "live.json")])
    content = json.loads((tmp_path / "live.json").read_text())
    bad = {check["name"]: check["found"] for check in content["checks"] if check["required"] and not check["ok"]}
    assert (code, content["ok"], bad) == (0, True, {})
    topics = {topic["name"]: topic for topic in content["topics"]}
    assert topics["/joint_states"]["publishers"] == ["/test"] and topics["/joint_states"]["rate_hz"] > 0.9 * RATE / 2
    assert 0 <= topics["/joint_states"]["age_ms"]["p50"] < 1000 and topics["/front/image"]["count"] > 1
    assert {"/command_node", "/controller"} <= set(content["nodes"])
    said = {check["name"]: check for check in content["checks"]}
    assert said["/joint_command"]["found"] == "obeyed by /controller"
    assert {"clocks", "QoS", "control period", "DDS domain", "receive buffers", "CPU governor", "real-time priority"} <= set(said)
    text = capsys.readouterr().out
    assert "/joint_states" in text and "control period" in text
    obeys.destroy_node()


def stamped(ears: Ears, offset_s: float = 0.0) -> Image:
    message = Image(width=8, height=8, encoding="rgb8", step=24, data=bytes(192))
    message.header.stamp = to_time(ears.now() + round(1e9 * offset_s))
    return message


def test_each_planted_fault_is_named_and_nothing_else(ears: Ears, tmp_path: Path) -> None:
    robot = robot_file(tmp_path, "sound", "slow", "future", "old", "zero", "frozen", "back", "gaps", "mute", "absent")
    states(ears)
    cameras = {name: ears.speak(Image, f"{name}/image", qos.RELIABLE)
               for name in ("sound", "slow", "future", "old", "zero", "frozen", "back", "gaps", "mute")}  # fmt: skip
    frozen = stamped(ears)
    zero = stamped(ears)
    zero.header.stamp = to_time(0)

    def say(k: int) -> None:
        cameras["sound"].publish(stamped(ears))
        cameras["future"].publish(stamped(ears, 0.3))
        cameras["old"].publish(stamped(ears, -1.8))
        cameras["zero"].publish(zero)
        cameras["back"].publish(stamped(ears, -0.2 * (k % 2)))
        frozen.header.stamp = to_time(ears.now()) if k % 5 == 0 else frozen.header.stamp
        cameras["frozen"].publish(frozen)
        if k % 4 == 0:
            cameras["slow"].publish(stamped(ears))
        if k % 25 < 8:  # 1.7 s of silence of each 2.5 s
            cameras["gaps"].publish(stamped(ears))

    every(ears, say)
    # who cannot hear whom
    ears.speak(String, "weak", BEST_EFFORT)
    ears.listen(String, "weak", qos.RELIABLE)
    ears.speak(String, "forgetful", qos.RELIABLE)
    ears.listen(String, "forgetful", qos.LATCHED)
    ears.speak(String, "twofold")
    context = rclpy.Context()  # within one context the middleware itself refuses another type
    context.init()
    stranger = Node("stranger", context=context)
    stranger.create_subscription(Float64, "twofold", lambda message: None, qos.RELIABLE)
    # who fights over the robot, and whom nobody obeys
    ears.speak(JointTrajectory, "joint_command")
    ears.speak(JointTrajectory, "joint_command")
    ears.speak(JointTrajectory, "policy/chunk")
    others = [Node(name, context=ears._context) for name in ("policy_node", "twin", "twin")]
    others[0].create_publisher(JointTrajectory, "policy/chunk", qos.RELIABLE)
    found = problems(judge(robot, 5.5))
    assert set(found) == {
        "/slow/image rate", "/future/image stamps", "/old/image stamps", "/zero/image stamps", "/frozen/image stamps",
        "/back/image stamps", "/gaps/image gaps", "/mute/image", "/absent/image", "/weak QoS", "/forgetful QoS", "/twofold type",
        "/joint_command publishers", "/joint_command", "/policy/chunk publishers", "/twin",
    } | ({"/gaps/image rate"} & set(found)), found  # fmt: skip
    assert "in the future" in found["/future/image stamps"] and "go back" in found["/back/image stamps"]
    assert "1500 ms allowed" in found["/old/image stamps"] and "repeat" in found["/frozen/image stamps"]
    assert "Best effort publisher and reliable subscri" in found["/weak QoS"] and "/test" in found["/weak QoS"]
    assert "/policy_node, /test" in found["/policy/chunk publishers"]
    for node in others:
        node.destroy_node()
    stranger.destroy_node()
    context.try_shutdown()


def test_a_fault_of_the_command_node_is_handed_on(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    robot = robot_file(tmp_path)
    states(ears)
    diagnostics = ears.diagnostics()
    stop = ears.speak(Bool, "command/emergency_stop")
    launcher.node("command_node", robot, **UNHURRIED)
    ears.connected(stop)
    with ears.insisting(lambda: stop.publish(Bool(data=True))):
        diagnostics.wait_for(lambda s: s.name == "command" and "emergency_stop" in s.message)
        found = problems(judge(robot, 3.0))
    assert "emergency_stop" in found["says command"] and found["/joint_command"] == "nobody obeys the commands"


def test_a_publisher_whose_clock_is_ahead_is_named(ears: Ears, tmp_path: Path) -> None:
    """A driver in a process whose clock is 0.4 s ahead, as on another machine. By as much the middleware's timed waits are late."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, to set the clock of one process ahead")
    (tmp_path / "ahead.c").write_text(AHEAD)
    library = tmp_path / "ahead.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "ahead.c", "-ldl"], check=True)
    driver = subprocess.Popen([sys.executable, "-c", TALKER], env={**os.environ, "LD_PRELOAD": str(library)})
    try:
        ears.listen(JointState, "joint_states").wait_count(3)
        checks = judge(robot_file(tmp_path), 4.0)
    finally:
        driver.terminate()
        driver.wait()
    found = problems(checks)
    assert set(found) == {"clocks", "/joint_states stamps"}
    remedy = next(check.remedy for check in checks if check.name == "clocks")
    assert "the clock of /driver is ahead of this machine's by about" in remedy
    milliseconds = float(found["clocks"].split("/driver ")[1].split(" ")[0])
    assert -401 < milliseconds < -200


def test_nobody_there_is_a_problem_and_bad_options_are_refused(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    from flow_policy_ros.ros.domain import free_domain

    monkeypatch.setenv("ROS_DOMAIN_ID", str(free_domain()))
    assert main(["doctor", "--live", "--seconds", "0.5"]) == 1
    assert "nobody is there" in capsys.readouterr().out
    assert main(["doctor", "--robot", "adroit_door"]) == 2 and "add --live" in capsys.readouterr().err
    assert main(["doctor", "--live", "--robot", "absent"]) == 2
    assert main(["doctor", "--live", "--seconds", "0"]) == 2 and "--seconds" in capsys.readouterr().err


def test_deadlines_that_are_missed_meanwhile_are_a_problem_and_old_ones_are_none(tmp_path: Path) -> None:
    rows = doctor_live_checks.expected(load_robot(robot_file(tmp_path)))
    before = {"missed_deadlines": "7", "period_error_ms.p99": "0.1", "realtime": "SCHED_FIFO 40"}

    def control(**after: str) -> Check:
        said = Said("command", 0, "following chunks", before, {**before, **after})
        facts = LiveFacts(1.0, ("/command_node",), {}, (said,))
        return next(c for c in doctor_live_checks.reported(facts, rows) if c.name == "control period")

    assert control().ok
    assert not control(missed_deadlines="9").ok and "2 deadlines" in control(missed_deadlines="9").found
    assert not control(**{"period_error_ms.p99": "51"}).ok, "half a period of 100 ms"
    warned = replace(Said("policy", 1, "no chunk", {}, {}), level=1)
    (check,) = doctor_live_checks.reported(LiveFacts(1.0, (), {}, (warned,)), rows)
    assert not check.ok and not check.required


def test_silence_after_the_last_message_is_a_gap(tmp_path: Path) -> None:
    """Of a driver that dies while one listens, and of one that says a single thing."""
    row = doctor_live_checks.expected(load_robot(robot_file(tmp_path)))[0]
    second = 10**9
    for count in (1, 20):
        heard = tuple(Heard(k * second // 10, k * second // 10, k * second // 10, None) for k in range(1, count + 1))
        topic = TopicFacts("/joint_states", ("sensor_msgs/msg/JointState",), (Endpoint("/driver"),), heard=heard)
        assert all(check.ok for check in doctor_live_checks.rates(row, topic))
        dead = replace(topic, until=heard[-1].received + 3 * second)
        assert [c.name for c in doctor_live_checks.rates(row, dead) if not c.ok] == ["/joint_states gaps"]


def test_a_clock_is_judged_where_no_message_says_who_sent_it() -> None:
    """As before Kilted: by the one that publishes the topic; of two, which one it was is not known."""
    heard = tuple(Heard(k, k, k, k - 900_000_000) for k in range(10**9, 2 * 10**9, 10**8))
    topic = TopicFacts("/joint_states", ("sensor_msgs/msg/JointState",), (Endpoint("/driver"),), heard=heard)
    check = doctor_live_checks.clocks(LiveFacts(1.0, (), {topic.name: topic}, ()))
    assert not check.ok and "/driver 900.0 ms" in check.found
    two = replace(topic, publishers=(Endpoint("/driver"), Endpoint("/other")))
    assert doctor_live_checks.clocks(LiveFacts(1.0, (), {topic.name: two}, ())).ok


def test_topics_are_looked_for_in_the_name_space(tmp_path: Path) -> None:
    rows = doctor_live_checks.expected(load_robot(robot_file(tmp_path, "front")), "/left")
    assert {row.topic for row in rows} >= {"/left/joint_states", "/left/front/image", "/left/policy/chunk", "/left/joint_command"}
    busy = {"missed_deadlines": "0", "period_error_ms.p99": "51"}  # half a period of 100 ms
    said = tuple(Said(name, 0, "following chunks", busy, busy) for name in ("left/command", "right/command"))
    checks = {check.name: check.ok for check in doctor_live_checks.reported(LiveFacts(1.0, (), {}, said), rows)}
    assert checks["control period of left"] is False and checks["control period of right"] is True, "of the other nothing is known"
    assert doctor_live_checks.absolute("/tf", "left") == "/tf" and doctor_live_checks.absolute("a/b", "") == "/a/b"


def machine(folder: Path, rmem: str = "67108864", governor: str = "performance", shm: bool = True) -> Path:
    """A tree such as that of a well set machine."""
    core, cpu = folder / "proc/sys/net/core", folder / "sys/devices/system/cpu/cpu0/cpufreq"
    core.mkdir(parents=True)
    cpu.mkdir(parents=True)
    (core / "rmem_max").write_text(f"{rmem}\n")
    (cpu / "scaling_governor").write_text(f"{governor}\n")
    if shm:
        (folder / "dev/shm").mkdir(parents=True)
    return folder


def test_settings_of_the_machine_are_read_and_each_bad_one_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    for name in (*doctor_machine.DISCOVERY, *doctor_machine.PROFILES, "ROS_DOMAIN_ID"):
        monkeypatch.delenv(name, raising=False)

    def bad(root: Path) -> set[str]:
        checks = doctor_machine.examine("rmw_fastrtps_cpp", root)
        assert all(check.ok or len(check.remedy.split(". ")) > 1 for check in checks)
        return {check.name for check in checks if not check.ok} - {"load", "real-time priority"}  # of this very machine

    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    assert bad(machine(tmp_path / "good")) == set()
    assert bad(machine(tmp_path / "small", rmem="212992")) == {"receive buffers"}
    assert bad(machine(tmp_path / "slow", governor="powersave")) == {"CPU governor"}
    assert bad(machine(tmp_path / "bare", shm=False)) == {"shared memory"}
    assert bad(tmp_path / "nothing") == {"shared memory"}, "what cannot be seen is not called bad"
    monkeypatch.delenv("ROS_DOMAIN_ID")
    assert bad(tmp_path / "good") == {"DDS domain"}
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    assert bad(tmp_path / "good") == set()
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", str(tmp_path / "absent.xml"))
    assert bad(tmp_path / "good") == {"DDS profile"}
    (tmp_path / "absent.xml").write_text("<dds/>")
    assert bad(tmp_path / "good") == set()


def test_pictures_larger_than_the_shared_memory_are_named(root: Path, monkeypatch: Any) -> None:
    for name in doctor_machine.PROFILES:
        monkeypatch.delenv(name, raising=False)
    heard = {"/joint_states": 900, "/camera/image_raw": 640 * 480 * 3 + 60}
    (check,) = doctor_machine.pictures("rmw_fastrtps_cpp", heard)
    assert not check.ok and not check.required and "0.9 MB on /camera/image_raw; shared memory of a process 0.5 MB" in check.found
    profile = root / "config" / "fastdds_pictures.xml"
    assert f"FASTDDS_DEFAULT_PROFILES_FILE={profile} " in check.remedy and profile.is_file()
    assert not doctor_machine.pictures("rmw_cyclonedds_cpp", heard) and not doctor_machine.pictures("rmw_fastrtps_cpp", {})
    (small,) = doctor_machine.pictures("rmw_fastrtps_cpp", {"/camera/image_raw/compressed": 60_000})
    assert small.ok
    for given, fits in ((root / "config" / "fastdds.xml", False), (profile, True)):
        monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", str(given))
        assert doctor_machine.pictures("rmw_fastrtps_cpp", heard)[0].ok == fits


def test_a_camera_of_large_pictures_is_noticed(ears: Ears, tmp_path: Path, capsys: Any) -> None:
    camera = ears.speak(Image, "camera/image_raw", qos.IMAGE)
    picture = image_to_message(np.zeros((480, 640, 3), np.uint8), 1)
    with ears.insisting(lambda: camera.publish(picture)):
        main(["doctor", "--live", "--seconds", "2", "--json", str(tmp_path / "live.json")])
    (check,) = [c for c in json.loads((tmp_path / "live.json").read_text())["checks"] if c["name"] == "large messages"]
    assert not check["ok"] and "0.9 MB on /camera/image_raw" in check["found"]
    capsys.readouterr()
