"""What the view makes of messages: the same from a recording and from the middleware, thinned, bounded, and true."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from view_support import BOX, FAULT_AT, INSTRUCTION, JOINTS, LABEL, MS, START, position, write_view_bag

from flow_policy_ros.data.bags.bag import BagError
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.runtime.status_names import full_name, of_another, own_name
from flow_policy_ros.runtime.types import EncodedImage
from flow_policy_ros.viewing import feed as feeding
from flow_policy_ros.viewing.feed import Feed
from flow_policy_ros.viewing.health import Health
from flow_policy_ros.viewing.intake import LOOKED_AT, Intake, Taken, spread
from flow_policy_ros.viewing.pictures import RAW, SIDE, Kept, LiveShelf, encode
from flow_policy_ros.viewing.recorded import MOST, RecordedView
from flow_policy_ros.viewing.snapshot import Scene, Snapshot
from flow_policy_ros.viewing.topics import Selection
from flow_policy_ros.viewing.watch import JOINTS as MOST_JOINTS
from flow_policy_ros.viewing.watch import POINTS, Watch
from flow_policy_ros.viewing.wire import scene_json, snapshot_json


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_view_bag(tmp_path_factory.mktemp("view") / "run.mcap")


def shots_of(view: RecordedView) -> list[Snapshot]:
    shots = [shot for _, shot in view.snapshots()]
    view.close()
    return shots


def test_a_recording_is_shown_as_it_was(bag: Path) -> None:
    view = RecordedView(bag, None)
    scene, last = list(view.snapshots())[-1]
    view.close()
    shots = shots_of(RecordedView(bag, None))
    assert scene.joints == JOINTS and not view.problems
    for shot in shots:
        for row in shot.measured:
            np.testing.assert_array_equal(row.position, position(row.stamp))
        for row in shot.executed:
            np.testing.assert_array_equal(row.position, position(row.stamp) + 0.01)
        for row in (*shot.measured, *shot.executed):
            assert row.stamp <= shot.stamp  # nothing is shown before it came
    prediction = next(shot.prediction for shot in shots if shot.prediction is not None)
    assert len(prediction.positions) == POINTS and prediction.times_ns[0] == 0 and prediction.times_ns[-1] == 49 * 20 * MS
    for time, row in zip(prediction.times_ns, prediction.positions, strict=True):
        np.testing.assert_array_equal(row, position(prediction.stamp + time))
    assert last.delays.inference == 31.5 and last.delays.observation == 90.0 and last.delays.until_followed == 50.0
    assert last.instruction == INSTRUCTION
    assert last.rates["joint_state"] == pytest.approx(100, abs=3) and last.rates["chunk"] == pytest.approx(12.5, abs=1)
    assert last.figures["limited.elbow"] == 7 and last.figures["command.period_error_ms.p99"] == 0.25


def test_the_chunk_is_as_old_as_its_observation(bag: Path) -> None:
    for shot in shots_of(RecordedView(bag, None))[3:]:
        newest = max(START + 80 * k * MS for k in range(100) if START + (80 * k + 40) * MS <= shot.stamp)
        assert shot.delays.chunk == pytest.approx((shot.stamp - newest) / 1e6)


def test_an_input_that_stays_the_same_by_intent_is_not_called_old() -> None:
    """An instruction's stamp is the instant at which it was given; a picture's goes on."""
    watch = Watch(Scene("", True), LiveShelf())
    seen = []
    for k in range(40):
        stamp = START + 100 * k * MS
        given = {"stamp": stamp, "duration_ms": 5, "observation.prompt": START, "observation.front": stamp - 70 * MS}
        pairs = [SimpleNamespace(key=key, value=str(value)) for key, value in given.items()]
        watch.take(Taken("chunk_info", "policy/chunk_info", stamp, SimpleNamespace(values=pairs)))
        seen.append(watch.snapshot(stamp, {}).delays.observation)
    assert seen[5] == 500.0 and set(seen[10:]) == {70.0}


def test_faults_states_and_nodes_are_told_with_their_times(bag: Path) -> None:
    shots = shots_of(RecordedView(bag, None))
    events = [event for shot in shots for event in shot.events]
    kinds = {event.kind: event for event in events}
    assert kinds["fault"].stamp == FAULT_AT and kinds["fault"].text.startswith("tracking_error: elbow lies 0.3 rad")
    assert [e.text for e in events if e.kind == "state"] == ["first report → active", "active → fault"]
    assert "1 inputs refused; the last: chunk was received" in kinds["refused"].text
    assert kinds["warning"].text == "policy: no chunk: the joint state is too old"
    assert kinds["instruction"].text == INSTRUCTION
    guard = shots[-1].guard
    assert (guard.state, guard.since, guard.faults, guard.level) == ("fault", FAULT_AT, ("tracking_error",), 2)
    assert {node.name: node.level for node in shots[-1].nodes} == {"command": 2, "policy": 1}
    before = [shot.guard.state for shot in shots if shot.stamp < START + 490 * MS]
    assert set(before) == {""}  # nothing is claimed before the first report


def test_detections_lie_on_the_picture_that_they_were_found_in(bag: Path) -> None:
    for shot in shots_of(RecordedView(bag, None))[5:]:
        assert shot.picture is not None
        (found,) = shot.picture.detections  # the empty row is none
        assert found.label == LABEL and found.score == pytest.approx(BOX[4])
        assert found.box == pytest.approx(BOX[:4])
        assert shot.stamp - shot.picture.stamp >= 80 * MS  # not the newest picture, but the one that was looked at


def test_boxes_are_not_drawn_twice(tmp_path: Path) -> None:
    path = write_view_bag(tmp_path / "drawn.mcap", seconds=0.5, camera="perception/overlay")
    pictures = [shot.picture for shot in shots_of(RecordedView(path, None)) if shot.picture is not None]
    assert len(pictures) > 5 and all(picture.detections == () for picture in pictures)


def test_pictures_are_read_when_they_are_asked_for(bag: Path) -> None:
    view = RecordedView(bag, None)
    shots = [shot for _, shot in view.snapshots()]
    picture = shots[20].picture
    assert picture is not None
    data = view.shelf.get(picture.number)
    assert data is not None
    pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    number = (picture.stamp - START) // (80 * MS)
    assert pixels.shape == (48, 64, 3) and abs(float(pixels[..., 2].mean()) - 5 * number) < 4  # written with blue first
    assert view.shelf.get(10**6) is None
    view.close()


def test_middleware_and_recording_give_the_same(bag: Path) -> None:
    """The very bytes, opened by rclpy and by the recording's reader."""
    pytest.importorskip("rclpy")
    from rclpy.serialization import deserialize_message

    from flow_policy_ros.nodes.view_node import CLASSES

    recording = open_bag(bag)
    kinds = {topic.name: topic.type for topic in recording.topics.values()}
    roles = Selection().found(kinds)
    assert set(roles.values()) == {*LOOKED_AT} - {"status"}
    watches = [Watch(Scene("", True), LiveShelf()) for _ in range(2)]
    texts: list[list[str]] = [[], []]
    intake, due = Intake(), START + 66 * MS
    for message in recording.messages(roles):
        if message.received > due:
            for taken in intake.drain():
                raw: Any = taken.message
                opened = (recording.decode(raw), deserialize_message(bytes(raw.data), CLASSES[kinds[taken.topic]]))
                for watch, one in zip(watches, opened, strict=True):
                    watch.take(Taken(taken.role, taken.topic, taken.received, one))
            for text, watch in zip(texts, watches, strict=True):
                text += [scene_json(watch.scene, "", START), snapshot_json(watch.snapshot(due, intake.counts), START)]
            due += 66 * MS
        intake.put(roles[message.topic], message.topic, message.received, message)
    assert len(texts[0]) > 60 and texts[0] == texts[1]
    assert not watches[0].unusable and not watches[1].unusable


def test_of_many_messages_a_few_are_looked_at_and_the_newest_is_one() -> None:
    intake = Intake()
    for k in range(1000):
        intake.put("joint_state", "a", k, k)
        intake.put("joint_state", "b", k, -k)
    taken = intake.drain()
    assert intake.counts == {"joint_state": 2000} and intake.drain() == []
    assert len(taken) == 2 * LOOKED_AT["joint_state"]
    assert [one.received for one in taken] == sorted(one.received for one in taken)
    assert {one.message for one in taken} >= {999, -999}
    for most in (1, 3, 4):
        chosen = spread([Taken("chunk", "", k, k) for k in range(10)], most)
        assert len(chosen) == most and chosen[-1].message == 9 and len({one.message for one in chosen}) == most


def state(stamp: int, names: list[str], values: list[float]) -> SimpleNamespace:
    header = SimpleNamespace(stamp=SimpleNamespace(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id="")
    return SimpleNamespace(header=header, name=names, position=values, velocity=[], effort=[])


def test_what_cannot_be_used_is_left_out_and_counted() -> None:
    watch = Watch(Scene("", True), LiveShelf())
    for names, values in ((["a", "b"], [1.0]), ([], [1.0]), (["a"], [float("nan")]), (["a"], [1.0])):
        watch.take(Taken("joint_state", "joint_states", 5, state(7, names, values)))
    watch.take(Taken("chunk", "policy/chunk", 5, SimpleNamespace(header=state(1, [], []).header, joint_names=["a"], points=[])))
    watch.take(Taken("chunk_info", "policy/chunk_info", 5, SimpleNamespace(values=[])))
    watch.take(Taken("info", "features/detections/info", 5, SimpleNamespace(data="{")))
    watch.take(Taken("diagnostics", "/diagnostics", 5, SimpleNamespace(status=3)))
    assert watch.unusable == {
        "joint_states": 2, "policy/chunk": 1, "policy/chunk_info": 1, "features/detections/info": 1, "/diagnostics": 1,
    }  # fmt: skip
    shot = watch.snapshot(10, {})
    assert len(shot.measured) == 2
    rows = json.loads(snapshot_json(shot, 0))["measured"]
    assert [row[1] for row in rows] == [None, 1.0]  # NaN is nothing, and JSON has none


def test_joints_are_those_of_messages_where_no_robot_file_says_so() -> None:
    watch = Watch(Scene("", True), LiveShelf())
    watch.take(Taken("joint_state", "", 1, state(1, ["a"], [1.0])))
    watch.take(Taken("joint_state", "", 2, state(2, ["b", "a"], [2.0, 3.0])))
    shot = watch.snapshot(3, {})
    assert watch.scene.joints == ("a", "b")
    assert [row.position.tolist() for row in shot.measured] == [[1.0], [3.0, 2.0]]
    many = [f"j{k}" for k in range(500)]
    watch.take(Taken("joint_state", "", 4, state(4, many, [0.0] * 500)))
    assert len(watch.scene.joints) == MOST_JOINTS
    named = Watch(Scene("", True, ("b",)), LiveShelf())
    named.take(Taken("joint_state", "", 2, state(2, ["b", "a"], [2.0, 3.0])))
    assert named.scene.joints == ("b",) and named.snapshot(3, {}).measured[0].position.tolist() == [2.0]


def test_a_clock_that_goes_back_begins_anew() -> None:
    watch = Watch(Scene("", True), LiveShelf())
    watch.take(Taken("joint_state", "", 1, state(10**10, ["a"], [1.0])))
    assert watch.snapshot(10**10, {}).delays.joint_state == 0.0
    shot = watch.snapshot(10**9, {})
    assert [event.kind for event in shot.events] == ["reset"] and shot.delays.joint_state is None


def test_a_node_that_says_nothing_is_silent_and_not_well() -> None:
    health = Health()
    pair = SimpleNamespace(key="state", value="active")
    health.report(SimpleNamespace(name="command", level=b"\0", message="following chunks", values=[pair]), 10**9)
    assert health.guard(2 * 10**9).level == 0 and health.nodes(2 * 10**9)[0].level == 0
    late = health.guard(9 * 10**9)
    assert late.level == 3 and "8 s" in late.message and health.nodes(9 * 10**9)[0].level == 3


def test_of_two_robots_in_one_graph_each_is_shown_its_own() -> None:
    """Their nodes have the same names and report on one topic."""
    statuses = []
    for space, state in (("left", "active"), ("right", "fault")):
        pairs = [SimpleNamespace(key="state", value=state), SimpleNamespace(key="chunks", value=str(len(space)))]
        statuses.append(SimpleNamespace(name=full_name("command", f"/{space}"), level=0, message=state, values=pairs))
    for space, state in (("left", "active"), ("/right", "fault")):
        health = Health(space)
        for status in statuses:
            health.report(status, 10**9)
        assert health.guard(10**9).state == state and health.figures == {"command.chunks": len(space.strip("/"))}
        other = {"active": "right/command", "fault": "left/command"}[state]
        assert {node.name for node in health.nodes(10**9)} == {"command", other}
    found = [own_name(name, space) for name, space in (("leftmost/command", "left"), ("command", "left"), ("command", "/"))]
    assert found == ["leftmost/command", "/command", "command"]
    told = [of_another("right/command", "right/arm", space) for space in ("/left", "", "right")]
    assert told == [True, True, False] and not of_another("servo/7", "arm", "left")


def test_a_warning_whose_numbers_change_is_told_once() -> None:
    health = Health()
    for k in range(5):
        said = SimpleNamespace(name="policy", level=1, message=f"no chunk: the joint state is {k / 7:.3f} s old", values=[])
        health.report(said, k)
    health.report(SimpleNamespace(name="policy", level=0, message="sampling", values=[]), 9)
    assert [event.kind for event in health.drain()] == ["warning", "well"]


def test_pictures_are_kept_within_bounds() -> None:
    shelf = LiveShelf()
    raw = EncodedImage("rgb8", 2, 2, 6, bytes(12))
    numbers = [shelf.put("camera", k, raw) for k in range(100)]
    assert [shelf.get(number) is not None for number in numbers] == [False] * (100 - RAW) + [True] * RAW
    assert shelf.get(shelf.put("camera", 0, EncodedImage("rgb8", 2, 2, 6, bytes(3)))) is None  # broken: nothing is shown
    kept = Kept(limit=100)
    for k in range(9):
        kept.put(k, bytes(30))
    assert [k for k in range(9) if kept.get(k)] == [6, 7, 8]
    large = encode(np.zeros((100, 4 * SIDE, 3), dtype=np.uint8))
    assert cv2.imdecode(np.frombuffer(large, np.uint8), cv2.IMREAD_COLOR).shape == (25, SIDE, 3)


def test_the_feed_keeps_a_bounded_amount_and_always_the_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = Feed(entries=10)
    scene = Scene("robot", True, ("a",))
    for k in range(100):
        feed.show(scene, Snapshot(k * MS))
    entries, ended = feed.after(0, 0.0)
    assert len(entries) == 11 and not ended and entries[0].event == "scene" and entries[-1].number == feed.shown
    assert [entry.event for entry in entries[1:]] == ["snapshot"] * 10
    assert feed.after(entries[-1].number, 0.0) == ([], False)
    feed.end()
    assert feed.after(entries[-1].number, 60.0) == ([], True)
    monkeypatch.setattr(feeding, "BYTES", 2000)
    small = Feed(entries=1000)
    for k in range(100):
        small.show(scene, Snapshot(k * MS, instruction="x" * 100))
    assert sum(len(entry.text) for entry in small.after(1, 0.0)[0]) < 2500


def test_a_long_recording_is_shown_at_a_lower_rate(tmp_path: Path) -> None:
    from flow_policy_ros.data.bags import messages as m
    from flow_policy_ros.data.bags.mcap_writer import McapWriter

    with McapWriter(tmp_path / "hour.mcap", "none") as writer:
        for k in range(0, 3600, 60):
            stamp = START + k * 10**9
            writer.put("/joint_states", m.JOINT_STATE, stamp, m.joint_state(stamp, ("a",), np.zeros(1)))
    view = RecordedView(tmp_path / "hour.mcap", None)
    assert view.piece.interval_ns * MOST >= view.piece.length_ns > 3500 * 10**9
    assert len(shots_of(view)) <= MOST + 1
    piece = RecordedView(tmp_path / "hour.mcap", None, start_s=120.0, seconds=60.0)
    shots = shots_of(piece)
    assert len(shots) == pytest.approx(900, abs=2)
    assert [row.stamp - START for shot in shots for row in shot.measured] == [120 * 10**9, 180 * 10**9]


def test_a_recording_of_which_nothing_can_be_shown_is_refused(tmp_path: Path, bag: Path) -> None:
    from flow_policy_ros.data.bags import messages as m
    from flow_policy_ros.data.bags.mcap_writer import McapWriter

    with McapWriter(tmp_path / "words.mcap", "none") as writer:
        writer.put("/chatter", m.STRING, START, m.text("hello"))
    with pytest.raises(BagError, match=r"nothing to show.*It has /chatter"):
        RecordedView(tmp_path / "words.mcap", None)
    with pytest.raises(BagError, match="behind the end"):
        RecordedView(bag, None, start_s=99.0)
    with pytest.raises(BagError, match="does not exist"):
        RecordedView(tmp_path / "nowhere", None)


def test_a_name_space_chooses_one_of_two_robots(tmp_path: Path) -> None:
    path = write_view_bag(tmp_path / "left.mcap", seconds=1.0, space="/left")
    with pytest.raises(BagError, match="nothing to show"):
        RecordedView(path, None, namespace="right")
    view = RecordedView(path, None, namespace="left")
    assert view.topics["/left/joint_states"] == "joint_state" and view.topics["/diagnostics"] == "diagnostics"
    assert len(shots_of(view)) > 5


def test_the_picture_is_the_one_wanted() -> None:
    raw, packed = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
    topics = {"/front/image": raw, "/wrist/image/compressed": packed, "/perception/overlay": raw, "/features/detections": raw,
              "/a/depth/image": raw}  # fmt: skip
    assert Selection().picture(topics) == "/front/image"
    assert Selection(image="wrist/image").picture(topics) == "/wrist/image/compressed"
    assert Selection(image="perception/overlay").picture(topics) == "/perception/overlay"
    assert Selection(image="nowhere").picture(topics) == ""
    assert Selection(camera="wrist/image").picture(topics) == "/wrist/image/compressed"
    assert Selection(camera="nowhere").picture(topics) == "/front/image"
    assert Selection(camera="nowhere").picture({"/perception/overlay/compressed": packed}) == "/perception/overlay/compressed"
    assert Selection("left").picture(topics) == ""


def test_colours_of_states_are_those_of_the_reports() -> None:
    from importlib.resources import files

    from flow_policy_ros.evaluation.video import STATE_COLOURS
    from flow_policy_ros.safety.guard import GuardState

    style = files("flow_policy_ros.viewing").joinpath("templates/view.css").read_text()
    for name in GuardState:
        assert f"--state-{name.value}: {STATE_COLOURS[name.value]};" in style
