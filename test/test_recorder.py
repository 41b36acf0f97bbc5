"""The recorder as a process, over DDS: what was published is what is read back, whatever happens to the process."""

from __future__ import annotations

import array
import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ros_support import Child, Ears, Launcher, ears_fixture, launcher_fixture, until, values, write_robot  # noqa: F401

pytest.importorskip("rclpy")
from mcap.exceptions import EndOfFile
from mcap.reader import make_reader
from mcap.records import Channel, Message
from mcap.stream_reader import StreamReader
from rclpy import subscription
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rosbags.rosbag2 import Reader
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import SetBool

from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.nodes.recorder_report import line
from flow_policy_ros.nodes.recorder_topics import selection
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.diagnostics import OK, WARN
from flow_policy_ros.ros.messages import to_time
from flow_policy_ros.runtime.robot import load_robot

# Before Kilted a message does not say which publisher sent it, without which nobody can count what is missing.
PUBLISHERS_ARE_TOLD = "publisher_gid" in getattr(getattr(subscription, "MessageInfo", None), "__annotations__", {})

BEST_EFFORT = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
TYPES = {"sensor_msgs/msg/JointState": JointStateMsg, "sensor_msgs/msg/Image": Image, "std_msgs/msg/String": String,
         "std_msgs/msg/Float64MultiArray": Float64MultiArray, "rosgraph_msgs/msg/Clock": Clock}  # fmt: skip
Read = dict[str, list[Any]]


def read(folder: Path) -> Read:
    """Messages by topic, decoded by ROS, from a bag with its end."""
    (file,) = folder.glob("*.mcap")
    found: Read = defaultdict(list)
    with file.open("rb") as stream:
        for schema, channel, message in make_reader(stream).iter_messages():
            assert schema is not None and (schema.encoding, channel.message_encoding) == ("ros2msg", "cdr")
            if schema.name in TYPES:
                found[channel.topic].append(deserialize_message(message.data, TYPES[schema.name]))
    return found


def information(folder: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((folder / "metadata.yaml").read_text())["rosbag2_bagfile_information"])


def joint_state(k: int) -> JointStateMsg:
    message = JointStateMsg(name=["shoulder", "elbow"], position=[float(k), -float(k)])
    message.header.stamp = to_time(k)
    return message


def image(k: int, width: int = 64, height: int = 48) -> Image:
    data = np.random.default_rng(k).integers(0, 256, 3 * width * height, dtype=np.uint8)
    message = Image(width=width, height=height, encoding="rgb8", step=3 * width, data=array.array("B", data.tobytes()))
    message.header.stamp = to_time(k)
    return message


def record(launcher: Launcher, folder: Path, ears: Ears | None = None, **parameters: object) -> Child:
    """The node, recording into ``folder / "bags"``; ``ears`` get to know its services, of which none may be asked twice."""
    given = {"recorder__out": folder / "bags", "recorder__min_free_gb": 0.0, **parameters}
    node = launcher.node("recorder_node", write_robot(folder), **given)
    if ears is not None:
        ears.meet("record/start", "record/stop", "record/discard")
        ears.meet("record/success", kind=SetBool)
        time.sleep(0.3)
    return node


def expect(ears: Ears, service: str) -> str:
    answer = ears.trigger(f"record/{service}")
    assert answer.success, answer.message
    return str(answer.message)


def refusal(ears: Ears, service: str) -> str:
    answer = ears.trigger(f"record/{service}")
    assert not answer.success, answer.message
    return str(answer.message)


def test_what_was_published_is_read_back(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    """Best effort at 500 Hz, large pictures, what was said before the recorder came, and a topic that comes late."""
    states = ears.speak(JointStateMsg, "joint_states", BEST_EFFORT)
    pictures = ears.speak(Image, "camera/image_raw", qos.RECORD)
    ears.speak(String, "features/objects/info", qos.LATCHED).publish(String(data="the task"))
    other = ears.speak(String, "not/recorded")
    record(launcher, tmp_path, ears)
    ears.connected(states)
    ears.connected(pictures)
    expect(ears, "start")
    sent_states = [joint_state(k) for k in range(1000)]
    sent_pictures = [image(k, 640, 480) for k in range(10)]
    begun = time.monotonic()
    for k, message in enumerate(sent_states):
        states.publish(message)
        other.publish(String(data="x"))
        if k % 100 == 0:
            pictures.publish(sent_pictures[k // 100])
        time.sleep(max(0.0, begun + (k + 1) / 500 - time.monotonic()))
    commands = ears.speak(Float64MultiArray, "joint_command")
    late = [Float64MultiArray(data=[float(k)]) for k in range(5)]
    ears.connected(commands)
    for command in late:
        commands.publish(command)
    bag = tmp_path / "bags" / "episode_0001"
    time.sleep(0.5)
    said = expect(ears, "stop")
    found = read(bag)
    numbers = [int(m.position[0]) for m in found["/joint_states"]]
    assert found["/joint_states"] == [sent_states[k] for k in numbers] and numbers == sorted(set(numbers))
    lost = 1000 - len(numbers)
    ends = numbers[0] + 999 - numbers[-1]  # before the first and after the last nobody can know of any
    told = information(bag)["custom_data"]["messages_lost"]
    if PUBLISHERS_ARE_TOLD:
        assert int(told) == lost - ends and f"{told} lost" in said
    else:
        assert told == "unknown"
    assert len(numbers) > 500, "hardly anything came"
    assert found["/camera/image_raw"] == sent_pictures
    assert found["/features/objects/info"] == [String(data="the task")]
    assert found["/joint_command"] == late
    assert "/not/recorded" not in found
    with Reader(bag) as reader:
        offered = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}  # type: ignore[union-attr]
        assert offered["/joint_states"].reliability.name == "BEST_EFFORT"
        assert offered["/features/objects/info"].durability.name == "TRANSIENT_LOCAL"
        assert reader.message_count == information(bag)["message_count"]


def test_episodes_are_begun_ended_labelled_and_discarded(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    ears.speak(String, "features/objects/info", qos.LATCHED).publish(String(data="the task"))
    states = ears.speak(JointStateMsg, "joint_states")
    bags = tmp_path / "bags"
    (bags / "episode_0004").mkdir(parents=True)  # of an earlier run
    record(launcher, tmp_path, ears)
    ears.connected(states)
    assert "nothing to stop" in refusal(ears, "stop")
    assert "nothing to discard" in refusal(ears, "discard")
    assert "episode_0005" in expect(ears, "start")
    assert "already" in refusal(ears, "start")
    time.sleep(0.5)
    states.publish(joint_state(1))
    time.sleep(0.5)
    expect(ears, "stop")
    assert ears.call(SetBool, "record/success", SetBool.Request(data=True)).success
    assert information(bags / "episode_0005")["custom_data"]["success"] == "true"
    assert information(bags / "episode_0005")["custom_data"]["robot"] == "two_joints"
    expect(ears, "start")
    assert ears.call(SetBool, "record/success", SetBool.Request(data=False)).success
    time.sleep(0.5)
    expect(ears, "stop")
    second = read(bags / "episode_0006")
    assert second["/features/objects/info"] == [String(data="the task")] and "/joint_states" not in second
    assert information(bags / "episode_0006")["custom_data"]["success"] == "false"
    assert "episode_0006" in expect(ears, "discard")
    assert "nothing to discard" in refusal(ears, "discard")  # the one before is out of reach
    expect(ears, "start")
    assert "episode_0007" in expect(ears, "discard")
    assert sorted(path.name for path in bags.iterdir()) == ["episode_0004", "episode_0005"]
    assert read(bags / "episode_0005")["/joint_states"] == [joint_state(1)]


def test_a_killed_recorder_leaves_a_bag_up_to_its_last_chunk(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    states, pictures = ears.speak(JointStateMsg, "joint_states", qos.RECORD), ears.speak(Image, "camera/image_raw", qos.RECORD)
    node = record(launcher, tmp_path, recorder__autostart=True)
    ears.connected(states)
    ears.connected(pictures)
    bag = tmp_path / "bags" / "episode_0001"
    (file,) = bag.glob("*.mcap")
    for k in range(200):
        states.publish(joint_state(k))
        if k % 10 == 0:
            pictures.publish(image(k))
        time.sleep(0.002)
    before = file.stat().st_size
    until(lambda: file.stat().st_size > before, "nothing reaches the file")
    time.sleep(1.5)  # whatever was received is in the file after a second
    states.publish(joint_state(200))
    node.send(signal.SIGKILL)
    assert node.wait() == -signal.SIGKILL
    assert not (bag / "metadata.yaml").exists()
    opened = open_bag(bag)
    try:
        rows = [(m.topic, deserialize_message(bytes(m.data), TYPES[opened.topics[m.topic].type]))
                for m in opened.messages(["/joint_states", "/camera/image_raw"])]  # fmt: skip
        decoded = [opened.decode(m).position[0] for m in opened.messages(["/joint_states"])]
    finally:
        opened.close()
    found = [message for topic, message in rows if topic == "/joint_states"]
    assert found[:200] == [joint_state(k) for k in range(200)] and len(found) <= 201
    assert decoded[:200] == list(range(200))
    assert [message for topic, message in rows if topic == "/camera/image_raw"] == [image(k) for k in range(0, 200, 10)]
    assert opened.problems, "a bag without an end is damaged, and says so"
    assert [k for topic, k in streamed(file) if topic == "/joint_states"][:200] == decoded[:200]


def streamed(file: Path) -> list[tuple[str, float]]:
    """Topic and first position (0 of others) of the messages of a file without an end, by the MCAP library."""
    topics: dict[int, str] = {}
    found = []
    with file.open("rb") as stream:
        try:
            for record in StreamReader(stream).records:
                if isinstance(record, Channel):
                    topics[record.id] = record.topic
                elif isinstance(record, Message):
                    joints = topics[record.channel_id] == "/joint_states"
                    found.append((topics[record.channel_id],
                                  deserialize_message(record.data, JointStateMsg).position[0] if joints else 0.0))  # fmt: skip
        except EndOfFile:
            pass
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_episode_orderly(number: int, launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    states = ears.speak(JointStateMsg, "joint_states", qos.RECORD)
    node = record(launcher, tmp_path, recorder__autostart=True, recorder__compression="lz4")
    ears.connected(states)
    for k in range(50):
        states.publish(joint_state(k))
    time.sleep(0.3)
    node.send(number)
    assert node.wait() == 0
    bag = tmp_path / "bags" / "episode_0001"
    assert read(bag)["/joint_states"] == [joint_state(k) for k in range(50)]
    assert information(bag)["custom_data"]["messages_lost"] == ("0" if PUBLISHERS_ARE_TOLD else "unknown")
    assert f"{information(bag)['message_count']} messages" in node.output


def test_a_full_disk_ends_the_episode_and_leaves_it_readable(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    """The limit on the size stands for the disk."""
    pictures = ears.speak(Image, "camera/image_raw", qos.RECORD)
    node = record(launcher, tmp_path, recorder__autostart=True, recorder__max_gb=0.002)
    ears.connected(pictures)
    sent = 0
    while node.alive():
        pictures.publish(image(sent, 320, 240))
        sent += 1
        time.sleep(0.02)
        assert sent < 5000, "it goes on"
    assert node.wait() == 1 and "recorder.max_gb" in node.output
    bag = tmp_path / "bags" / "episode_0001"
    found = read(bag)["/camera/image_raw"]
    assert found == [image(k, 320, 240) for k in range(len(found))] and len(found) * 230_400 > 2_000_000
    assert "recorder.max_gb" in information(bag)["custom_data"]["problem"]


def test_nothing_begins_without_room(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    record(launcher, tmp_path, ears, recorder__min_free_gb=1e6)
    assert "recorder.min_free_gb" in refusal(ears, "start")
    assert list((tmp_path / "bags").iterdir()) == []


def test_a_publisher_that_offers_less_is_met_as_well(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    """A reliable reader hears nothing from one who promises nothing: when such a one comes, the reader changes."""
    first = ears.speak(JointStateMsg, "joint_states", qos.RECORD)
    record(launcher, tmp_path, ears, recorder__autostart=True)
    ears.connected(first)
    second = ears.speak(JointStateMsg, "joint_states", BEST_EFFORT)
    ears.connected(second)
    second.publish(joint_state(7))
    first.publish(joint_state(8))
    time.sleep(0.5)
    expect(ears, "stop")
    found = read(tmp_path / "bags" / "episode_0001")["/joint_states"]
    assert joint_state(7) in found and joint_state(8) in found


def test_instants_are_those_of_the_simulated_clock(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    states, clock = ears.speak(JointStateMsg, "joint_states", qos.RECORD), ears.speak(Clock, "/clock")
    record(launcher, tmp_path, ears, use_sim_time=True)
    ears.connected(states)
    assert "nobody publishes /clock" in refusal(ears, "start")
    ears.connected(clock)
    said = Clock(clock=to_time(5_000_000_000))
    with ears.insisting(lambda: clock.publish(said)):
        until(lambda: ears.trigger("record/start").success, "there is no time")
        states.publish(joint_state(1))
        time.sleep(0.5)
        expect(ears, "stop")
    bag = open_bag(tmp_path / "bags" / "episode_0001")
    try:
        assert [m.received for m in bag.messages(["/joint_states"])] == [5_000_000_000]
    finally:
        bag.close()


def test_it_says_what_is_missing(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    diagnostics = ears.diagnostics()
    ears.speak(JointStateMsg, "joint_states")
    record(launcher, tmp_path, ears)
    report = diagnostics.wait_for(lambda s: "camera" in s.message)
    assert report.message.startswith("nobody publishes /camera/image_raw.") and values(report)["state"] == "idle"


NO_COMMANDS = "no commands yet on /command/executed or /joint_command: the bag cannot be trained on"
NO_STATES = "no joint states yet on /joint_states: nothing can be learnt from the bag, and nothing replayed"


def test_what_an_episode_lacks_is_said_once_and_at_the_end_without_a_terminal(
    launcher: Launcher, ears: Ears, tmp_path: Path
) -> None:
    diagnostics = ears.diagnostics()
    states, pictures = ears.speak(JointStateMsg, "joint_states", qos.RECORD), ears.speak(Image, "camera/image_raw", qos.RECORD)
    ears.speak(Float64MultiArray, "joint_command")  # who could command, and does not
    figures = tmp_path / "figures.json"
    node = record(launcher, tmp_path, recorder__autostart=True, recorder__report=figures)
    ears.connected(states)
    ears.connected(pictures)
    states.publish(joint_state(1))
    pictures.publish(image(1))
    report = diagnostics.wait_for(lambda s: s.message == NO_COMMANDS)
    assert report.level == b"\x01"
    time.sleep(2.5)
    node.send(signal.SIGTERM)
    assert node.wait() == 0  # it can still be looked at
    assert node.output.count(NO_COMMANDS) == 1, "said every second, or never"
    assert node.output.count("no commands on /command/executed or /joint_command: the bag cannot be trained on") == 1
    assert json.loads(figures.read_text())["episodes"][0]["missing"] == [NO_COMMANDS]


def test_an_episode_without_joint_states_is_a_failure(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    ears.speak(JointStateMsg, "joint_states")  # there, and silent
    node = record(launcher, tmp_path, ears, recorder__autostart=True)
    commands = ears.speak(Float64MultiArray, "joint_command")
    ears.connected(commands)
    commands.publish(Float64MultiArray(data=[0.0, 0.0]))
    until(lambda: NO_STATES in node.output, "it says nothing")
    time.sleep(0.5)
    node.send(signal.SIGINT)
    assert node.wait() == 1 and NO_STATES.replace(" yet", "") in node.output
    assert NO_COMMANDS.replace(" yet", "") not in node.output  # they came


def test_a_clock_that_never_comes_is_named(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    diagnostics = ears.diagnostics()
    ears.speak(Clock, "/clock")
    node = record(launcher, tmp_path, recorder__autostart=True, use_sim_time=True)
    sentence = "waiting for /clock (--use-sim-time), which has no message; the episode has not begun"
    assert diagnostics.wait_for(lambda s: s.message == sentence).level == b"\x02"
    node.send(signal.SIGTERM)
    assert node.wait() == 1 and node.output.count(sentence) == 2  # when it was missed, and at the end
    assert list((tmp_path / "bags").iterdir()) == []


@pytest.mark.parametrize(
    ("block", "heard", "lacks"),
    [
        ({}, {"/joint_states", "/command/executed", "/camera/image_raw/compressed"}, []),
        ({}, {"/joint_states", "/joint_command", "/camera/image_raw"}, []),
        ({}, {"/camera/image_raw"}, [NO_STATES, NO_COMMANDS]),
        ({}, {"/joint_states", "/joint_command"}, ["no pictures yet on /camera/image_raw"]),
        ({"recorded": {"command_topic": "servo/in"}}, {"/joint_states", "/joint_command", "/camera/image_raw"},
         ["no commands yet on /servo/in: the bag cannot be trained on"]),
    ],
)  # fmt: skip
def test_what_counts_as_missing(
    block: dict[str, Any], heard: set[str], lacks: list[str], ears: Ears, tmp_path: Path
) -> None:
    assert selection(ears.node, load_robot(write_robot(tmp_path, **block)), (), False).missing(heard) == lacks


def test_depth_and_its_camera_info_are_recorded(ears: Ears, tmp_path: Path) -> None:
    depth = {"topic": "camera/depth/image_raw", "camera_info": "camera/depth/info"}
    front = {"topic": "camera/image_raw", "width": 64, "height": 48, "rate_hz": 10.0}
    robots = [load_robot(write_robot(tmp_path, cameras={"front": {**front, **more}})) for more in ({}, {"depth": depth})]
    published = ["/camera/image_raw", "/camera/camera_info", "/camera/depth/image_raw", "/camera/depth/info", "/wrist/image_raw"]
    colour, both = (selection(ears.node, robot, (), False) for robot in robots)
    assert colour.wanted(published) == ["/camera/camera_info", "/camera/image_raw"]
    assert both.wanted(published) == sorted(published[:-1])
    assert both.cameras == ("/camera/image_raw",)  # a recording is of use without depth


def test_the_terminals_line_shows_keys_and_time_within_80_columns() -> None:
    values = {"state": "recording", "seconds": 3723.4, "messages": 123456, "size_mb": 1234.56, "free_gb": 12.3, "lost": 7}
    shown = line(values, OK, "recording")
    assert "q quit]" in shown[:79] and "recording 01:02:03 123456 msgs" in shown[:79] and "lost 7" in shown
    assert shown.count("recording") == 1 and "space stop" in shown
    assert line({**values, "state": "idle"}, WARN, "nobody publishes /x").endswith("  nobody publishes /x")


def test_the_program_takes_the_names_of_robots_that_ship(tmp_path: Path) -> None:
    """As a process, for it becomes the node; the node refuses the folder's name after it has read the robot file."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "flow_policy_ros", "record", "--out", str(tmp_path / "bags"), "--name", "../x", "--robot"]
    for robot, words in (("adroit_door", "recorder.name is '../x'"), ("no_such", "Shipped are: adroit_door")):
        done = subprocess.run([*command, robot], capture_output=True, text=True, env=environment, timeout=100)
        assert done.returncode == 2 and words in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [({"recorder__out": "/proc/absent"}, "cannot be made a folder"), ({"recorder__name": "../x"}, "recorder.name is '../x'"),
     ({"recorder__compression": "gzip"}, "expected one of zstd, lz4, none")],
)  # fmt: skip
def test_bad_parameters_are_refused(parameters: dict[str, Any], sentence: str, launcher: Launcher, tmp_path: Path) -> None:
    node = record(launcher, tmp_path, **parameters)
    assert node.wait() == 2 and sentence in " ".join(node.output.split())


def test_keys_on_the_terminal(ears: Ears, tmp_path: Path) -> None:
    """The program in a terminal of its own: space, space, s, space, d, q."""
    states = ears.speak(JointStateMsg, "joint_states", qos.RECORD)
    bags, figures = tmp_path / "bags", tmp_path / "figures.json"
    command = [sys.executable, "-m", "flow_policy_ros", "record", "--robot", str(write_robot(tmp_path)), "--out", str(bags),
               "--min-free-gb", "0", "--json", str(figures)]  # fmt: skip
    master, slave = os.openpty()

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    log = (tmp_path / "log").open("w")
    program = subprocess.Popen(command, stdin=slave, stdout=log, stderr=log, env=environment, preexec_fn=own_terminal)
    try:
        ears.connected(states)
        os.write(master, b" ")
        until((bags / "episode_0001").is_dir, "space does not start")
        states.publish(joint_state(3))
        time.sleep(0.5)
        os.write(master, b" s")
        until(lambda: success(bags / "episode_0001") == "true", "s does not label")
        os.write(master, b" ")
        until((bags / "episode_0002").is_dir, "space does not start again")
        os.write(master, b"d")
        until(lambda: not (bags / "episode_0002").exists(), "d does not discard")
        os.write(master, b"q")
        assert program.wait(timeout=100) == 0
    finally:
        if program.poll() is None:
            program.kill()
            program.wait()
        os.close(master)
        os.close(slave)
        log.close()
        print((tmp_path / "log").read_text())
    (report,) = json.loads(figures.read_text())["episodes"]
    assert report["path"] == str(bags / "episode_0001") and report["topics"]["/joint_states"] == 1 and not report["problem"]
    assert read(bags / "episode_0001")["/joint_states"] == [joint_state(3)]


def success(folder: Path) -> str:
    try:
        return str(information(folder)["custom_data"]["success"])
    except FileNotFoundError:
        return ""
