"""The bags of the flight recorder, over DDS: whole or not seen, within the memory, few, and recordings like any other."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from ros_support import Ears, Launcher, ears_fixture, launcher_fixture, until, values  # noqa: F401

pytest.importorskip("rclpy")
from flight_support import SAVE, fly, listening, wait_bags
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image
from sensor_msgs.msg import JointState as JointStateMsg
from test_recorder import image, information, joint_state, read

from flow_policy_ros.cli.main import main
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.data.ring import Lanes
from flow_policy_ros.nodes.flight_bag import CUT, UNFINISHED, FlightBag, bags, name_of, prune, recover
from flow_policy_ros.nodes.flight_watch import Event
from flow_policy_ros.nodes.recorder_topics import message_class
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.diagnostics import WARN
from flow_policy_ros.ros.messages import to_time

ROOT = Path(__file__).resolve().parents[1]
DIES = """
import os, sys
sys.path.insert(0, "test")
from pathlib import Path
from test_flight_bags import flight
flight(Path(sys.argv[1]))
os._exit(9)
"""


def test_a_service_saves_what_happens_meanwhile_goes_into_the_same_bag_and_the_oldest_goes(
    launcher: Launcher, ears: Ears, tmp_path: Path
) -> None:
    place = tmp_path / "bags"
    (place / "episode_0001").mkdir(parents=True)
    (place / "flight_notes").mkdir()
    states = ears.speak(JointStateMsg, "joint_states", qos.RECORD)
    fly(launcher, tmp_path, flight__keep=2)
    ears.meet(SAVE)
    listening(ears, states)
    for k in range(200):
        states.publish(joint_state(k))
    time.sleep(0.3)
    names: list[str] = []
    for turn in range(3):
        one, two = ears.trigger(SAVE), ears.trigger(SAVE)
        assert one.success and two.success and "is being written" in two.message
        until(lambda known=set(names): {b.name for b in bags(place)} - known != set(), f"bag {turn} did not come")
        names += [b.name for b in bags(place) if b.name not in names]
        assert information(place / names[-1])["custom_data"]["detail"].count("was called") == 2
    until(lambda: [b.name for b in bags(place)] == names[1:], f"of {names} there is {bags(place)}")
    assert {p.name for p in place.iterdir()} == {*names[1:], "episode_0001", "flight_notes", UNFINISHED}
    last = read(place / names[-1])
    assert last["/joint_states"] == [joint_state(k) for k in range(200)], "a bag takes nothing away from the next"


def test_large_pictures_stay_within_the_memory_and_leave_joint_states_alone(
    launcher: Launcher, ears: Ears, tmp_path: Path
) -> None:
    heard = ears.diagnostics()
    states, pictures = ears.speak(JointStateMsg, "joint_states", qos.RECORD), ears.speak(Image, "camera/image_raw", qos.RECORD)
    fly(launcher, tmp_path, flight__memory_mb=8.0)
    ears.meet(SAVE)
    listening(ears, states, pictures)
    for k in range(40):
        states.publish(joint_state(k))
        pictures.publish(image(k, 640, 480))
        time.sleep(0.03)
    last = heard.wait_for(lambda s: s.name == "flight_recorder" and s.level == WARN, after=len(heard.messages))
    assert float(values(last)["memory_mb"]) <= 8.0
    assert "flight.memory_mb holds" in last.message and "pictures only" in last.message
    assert ears.trigger(SAVE).success
    (bag,) = wait_bags(tmp_path)
    found = read(bag)
    numbers = [int(m.position[0]) for m in found["/joint_states"]]
    assert numbers == list(range(40)), "joint states had to make room for pictures"
    assert 3 <= len(found["/camera/image_raw"]) <= 6
    assert found["/camera/image_raw"][-1] == image(39, 640, 480)


def test_a_recorder_that_dies_in_the_midst_of_a_bag_leaves_what_is_written(
    launcher: Launcher, ears: Ears, tmp_path: Path
) -> None:
    states = ears.speak(JointStateMsg, "joint_states", qos.RECORD)
    node = fly(launcher, tmp_path, flight__after_s=60.0)
    ears.meet(SAVE)
    listening(ears, states)
    for k in range(100):
        states.publish(joint_state(k))
    time.sleep(0.3)
    ears.trigger(SAVE)
    unfinished = tmp_path / "bags" / UNFINISHED
    until(lambda: any(f.stat().st_size > 3000 for f in unfinished.rglob("*.mcap")), "nothing is written")
    assert bags(tmp_path / "bags") == [], "a bag that is not whole is seen"
    node.send(signal.SIGKILL)
    node.wait()
    again = fly(launcher, tmp_path, flight__keep=1)
    until(lambda: "keeps the last" in again.output, "it did not start again")
    (bag,) = bags(tmp_path / "bags")
    assert "died in the midst" in again.output
    reader = open_bag(bag)
    count = sum(1 for message in reader.messages() if message.topic == "/joint_states")
    reader.close()
    assert count == 100
    assert ears.trigger(SAVE).success
    again.send(signal.SIGTERM)
    assert again.wait() == 0
    (newer,) = bags(tmp_path / "bags")
    assert newer != bag, "the cut bag is one of those kept"


def test_a_signal_ends_a_bag_at_once_and_whole(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    states = ears.speak(JointStateMsg, "joint_states", qos.RECORD)
    node = fly(launcher, tmp_path, flight__after_s=60.0)
    ears.meet(SAVE)
    listening(ears, states)
    states.publish(joint_state(1))
    time.sleep(0.3)
    ears.trigger(SAVE)
    node.send(signal.SIGTERM)
    assert node.wait() == 0
    (bag,) = wait_bags(tmp_path)
    assert read(bag)["/joint_states"] == [joint_state(1)]


def test_a_flight_over_a_real_recording_can_be_inspected_and_replayed(
    launcher: Launcher, ears: Ears, tmp_path: Path, root: Path
) -> None:
    """The messages of a sample are published anew, stamped with the present: what is saved of them is a recording like any."""
    pytest.importorskip("torch")
    robot = root / "config" / "robots" / "adroit_door.yaml"
    launcher.node("flight_recorder_node", robot, flight__out=tmp_path / "bags", flight__min_free_gb=0.0, flight__after_s=0.5)
    ears.meet(SAVE)
    sample = open_bag(root / "samples" / "adroit_door" / "seed_5000")
    kinds = {topic.name: message_class(topic.type) for topic in sample.topics.values()}
    ends = {name: ears.speak(kind, name, qos.RECORD) for name, kind in kinds.items()}
    listening(ears, *(end for name, end in ends.items() if name != "/instruction"))
    messages = [(m.topic, m.received, bytes(m.data)) for m in sample.messages()]
    sample.close()
    first, begun = messages[0][1], time.time_ns() + 10**8
    for topic, received, data in messages:
        message = deserialize_message(data, kinds[topic])
        if hasattr(message, "header"):
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            message.header.stamp = to_time(begun + stamp - first)
        time.sleep(max(0.0, (begun + received - first - time.time_ns()) / 1e9))
        ends[topic].publish(message)
    time.sleep(0.3)
    assert ears.trigger(SAVE).success
    (bag,) = wait_bags(tmp_path)
    assert information(bag)["custom_data"]["messages_missed"] == "0"
    assert main(["inspect", str(bag), "--robot", "adroit_door"]) == 0
    out = tmp_path / "replay"
    code = main(["replay", str(bag), "--robot", "adroit_door", "--checkpoint", str(root / "checkpoints" / "adroit_door_camera"),
                 "--out", str(out)])  # fmt: skip
    assert code == 0 and (out / "metrics.json").is_file(), "what was saved of a good run is a good run"


def test_bags_are_named_by_time_and_fault_and_only_they_are_removed(tmp_path: Path) -> None:
    assert name_of(Event("tracking_error", ""), 1_769_903_999 * 10**9) == "flight_20260131T235959Z_tracking_error"
    for k in range(4):
        bag = tmp_path / f"flight_2026010{k}T000000Z_stall"
        bag.mkdir()
        (bag / f"{bag.name}_0.mcap").write_bytes(b"x")
        (bag / "metadata.yaml").write_text(yaml.safe_dump({}))
    (tmp_path / "flight_20260100T000000Z_stall" / "my_notes.txt").write_text("keep me")
    assert [p.name[7:15] for p in prune(tmp_path, 2)] == ["20260101"]
    assert (tmp_path / "flight_20260100T000000Z_stall" / "my_notes.txt").is_file()


def test_without_room_on_the_disk_nothing_is_begun(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    fly(launcher, tmp_path, flight__min_free_gb=1e6)
    ears.meet(SAVE)
    answer = ears.trigger(SAVE)
    assert not answer.success and "flight.min_free_gb" in answer.message
    assert bags(tmp_path / "bags") == []


def flight(folder: Path) -> FlightBag:
    """A bag of nothing, which ends when it is told to."""
    later = time.monotonic_ns() + 3600 * 10**9
    return FlightBag(folder, Lanes(10**9, 10**6), Event("fault", ""), 0, later, 0, "none", "robot", lambda size: None)


def test_of_two_recorders_with_one_folder_each_has_its_own_bag(tmp_path: Path) -> None:
    """What another is still writing is no dead one's, nor is its name free; what a dead one left is recovered."""
    one = flight(tmp_path)
    assert recover(tmp_path) == [], "the bag of a recorder that lives was taken from it"
    other = flight(tmp_path)
    assert one.path != other.path
    dead = subprocess.run([sys.executable, "-c", DIES, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert dead.returncode == 9, dead.stderr
    (cut,) = recover(tmp_path)
    assert cut.name.endswith(CUT) and cut not in (one.path, other.path) and list(cut.glob("*.mcap"))
    for bag in (one, other):
        bag.until = time.monotonic_ns()
        saved = bag.finish()
        assert saved.problem == "" and (saved.path / "metadata.yaml").is_file(), saved
    assert not any((tmp_path / UNFINISHED).iterdir()) and len(bags(tmp_path)) == 3
    left = tmp_path / UNFINISHED / name_of(Event("older", ""), 0)
    left.mkdir()  # of a recorder that knew no locks
    assert [path.name for path in recover(tmp_path)] == [left.name + CUT] and not any((tmp_path / UNFINISHED).iterdir())
