"""Recordings as tables: files that come back, episodes, what had arrived by an instant, and bags' events split at pauses."""

import numpy as np
import pytest
from recording_support import robot_of

from flow_policy_ros.data.arrivals import Arrivals
from flow_policy_ros.data.bag_events import CommandEvent, FeaturesEvent, ImageEvent, JointStateEvent
from flow_policy_ros.data.bag_recording import Tables, bags_in, noted_success
from flow_policy_ros.data.episodes import Episode, EpisodeError
from flow_policy_ros.data.recording import Recording, Stream, read_recordings
from flow_policy_ros.runtime.buffers import StampedBuffer
from flow_policy_ros.runtime.types import EncodedImage, Features, JointState

MS = 1_000_000
JOINTS = ("wrist", "thumb")


def make_recording(**changes):
    generator = np.random.default_rng(3)
    received = np.cumsum(generator.integers(1, 20 * MS, 30))
    told = np.cumsum(generator.integers(1, 20 * MS, 20))
    seen = received[::5]
    content = {
        "joints": JOINTS,
        "stamps": received - generator.integers(0, 30 * MS, 30),
        "received": received,
        "position": generator.standard_normal((30, 2)),
        "command_stamps": told,
        "commands": generator.standard_normal((20, 2)),
        "streams": {"eye": Stream(seen - 5, seen, generator.standard_normal((6, 4, 3)).astype(np.float32))},
        "robot": "hand",
        "success": None,
        "source": "bags/one",
        "problems": ("the end is missing.",),
    }
    return Recording(**(content | changes))


def test_round_trip_is_exact(tmp_path):
    for number, success in enumerate((None, True, False)):
        make_recording(success=success).save(tmp_path / f"{number}.npz")
    back = read_recordings(tmp_path)
    assert [recording.success for recording in back] == [None, True, False]
    ours = make_recording()
    for name in ("joints", "robot", "task", "source", "tick_ns", "problems"):
        assert getattr(back[0], name) == getattr(ours, name)
    for name in ("stamps", "received", "position", "command_stamps", "commands"):
        np.testing.assert_array_equal(getattr(back[0], name), getattr(ours, name))
        assert getattr(back[0], name).dtype == getattr(ours, name).dtype
    for part, expected in zip(back[0].streams["eye"], ours.streams["eye"], strict=True):
        np.testing.assert_array_equal(part, expected)
        assert part.dtype == expected.dtype
    assert not list(tmp_path.glob("*.partial"))


def test_what_does_not_fit_is_named(tmp_path):
    with pytest.raises(EpisodeError, match="bags/one holds no joint states"):
        make_recording(stamps=np.zeros(0, np.int64), received=np.zeros(0, np.int64), position=np.zeros((0, 2)))
    with pytest.raises(EpisodeError, match=r"commands has shape \(20, 3\), expected \(20, 2\)"):
        make_recording(commands=np.zeros((20, 3)))
    with pytest.raises(EpisodeError, match="position holds NaN"):
        make_recording(position=np.full((30, 2), np.nan))
    with pytest.raises(EpisodeError, match="must ascend"):
        make_recording(received=np.arange(30)[::-1])
    with pytest.raises(EpisodeError, match="must ascend"):
        make_recording(command_stamps=np.zeros(20, np.int64))
    stamps = np.arange(6)
    with pytest.raises(EpisodeError, match="stream 'eye' has"):
        make_recording(streams={"eye": Stream(stamps, stamps[:5], np.zeros((6, 4, 3), np.float32))})
    with pytest.raises(EpisodeError, match="does not ascend"):
        make_recording(streams={"eye": Stream(stamps, stamps[::-1], np.zeros((6, 4, 3), np.float32))})
    make_recording().save(tmp_path / "a.npz")
    whole = dict(np.load(tmp_path / "a.npz"))
    np.savez(tmp_path / "a.npz", **{name: value for name, value in whole.items() if name != "received"})
    with pytest.raises(EpisodeError, match=r"a\.npz lacks the array 'received'"):
        read_recordings(tmp_path)
    np.savez(tmp_path / "a.npz", **(whole | {"recording_format": 7}))
    with pytest.raises(EpisodeError, match=r"a\.npz: its format is 7, expected 1"):
        read_recordings(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EpisodeError, match="holds no episodes"):
        read_recordings(tmp_path / "empty")


def test_an_episode_is_a_recording_on_a_grid(tmp_path):
    """Its label is what is learned, and everything is received when it is stamped."""
    stamps = 10 * MS * np.arange(1, 5, dtype=np.int64)
    rows = np.arange(8.0).reshape(4, 2)
    seen = np.array([0, 25 * MS])
    values = np.ones((2, 1, 3), dtype=np.float32)
    Episode("door", 7, False, 10 * MS, stamps, JOINTS, rows, rows + 10, rows + 20, {"eye": (seen, values)}).save(tmp_path / "0.npz")
    make_recording().save(tmp_path / "1.npz")
    recording, other = read_recordings(tmp_path)
    assert (recording.robot, recording.task, recording.success, recording.tick_ns) == ("adroit_door", "door", False, 10 * MS)
    assert recording.seconds == 0.04 and other.tick_ns == 0
    np.testing.assert_array_equal(recording.received, stamps)
    np.testing.assert_array_equal(recording.commands, rows + 20)
    np.testing.assert_array_equal(recording.streams["eye"].received, seen)


def test_arrivals_answer_as_the_stamped_buffer_does():
    """Late, reordered and equally stamped inputs, several at one instant; instants before the first as well."""
    generator = np.random.default_rng(0)
    overtaken = fallen_back = 0
    for _ in range(60):
        count = int(generator.integers(1, 30))
        received = np.sort(generator.integers(0, 40, count))
        stamps = received - generator.integers(-3, 15, count)
        buffer = StampedBuffer()
        for row in range(count):
            buffer.put(row, int(stamps[row]), int(received[row]))
        instants = generator.integers(-2, 45, 40)
        limits = generator.integers(-20, 45, 40)
        arrivals = Arrivals(stamps, received)
        answers = arrivals.latest(instants), arrivals.oldest(instants), arrivals.latest_stamped(instants, limits)
        for k, (now, limit) in enumerate(zip(instants.tolist(), limits.tolist(), strict=True)):
            visible = buffer.visible(now)
            entries = buffer.latest(now), visible[-1] if visible else None, buffer.latest_stamped(now, limit)
            expected = [-1 if entry is None else entry.item for entry in entries]
            assert [int(answer[k]) for answer in answers] == expected
            overtaken += int(expected[0] >= 0 and expected[0] != np.searchsorted(received, now, side="right") - 1)
            fallen_back += int(expected[2] >= 0 and stamps[expected[2]] > limit)
    assert overtaken > 100 and fallen_back > 50


# Bags' events, without a bag.


def state(received, stamp=None, position=(1.0, 2.0), names=JOINTS):
    return JointStateEvent(received, JointState(received if stamp is None else stamp, tuple(names), np.array(position)))


def command(received, value, stamp=None, names=JOINTS):
    return CommandEvent(received, received if stamp is None else stamp, tuple(names), np.full(len(names), value))


def features(received, value, stamp=None):
    values = np.full((1, 2), value, dtype=np.float32)
    return FeaturesEvent(received, Features(received if stamp is None else stamp, "eye", values))


def recordings(events, tmp_path, extract=None, **options):
    tables = Tables(robot_of(tmp_path, JOINTS))
    tables.take_all(events, extract)
    return tables.recordings("bags/one", **({"pause_s": 0.1, "success": True} | options))


def test_events_become_tables_by_name_in_the_order_of_receipt(tmp_path):
    events = [state(10, 7), command(12, 1.0, 20), state(20, 5, (4.0, 3.0), ("thumb", "wrist")), command(22, 2.0, 15)]
    events += [features(25, 9.0, 11)]
    (found,) = recordings(events, tmp_path)
    assert found.joints == JOINTS and found.success is True and found.source == "bags/one" and found.robot == "hand"
    np.testing.assert_array_equal(found.stamps, [7, 5])
    np.testing.assert_array_equal(found.received, [10, 20])
    np.testing.assert_array_equal(found.position, [[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(found.command_stamps, [15, 20])
    np.testing.assert_array_equal(found.commands[:, 0], [2.0, 1.0])
    assert [part.tolist() for part in found.streams["eye"]] == [[11], [25], [[[9.0, 9.0]]]]
    (twice,) = recordings([state(1), command(2, 1.0, 9), command(3, 2.0, 9)], tmp_path)
    np.testing.assert_array_equal(twice.commands, [[2.0, 2.0]])  # of two for one instant, what was said last


def test_a_pause_and_a_reset_begin_a_new_recording(tmp_path):
    """A command within the pause belongs to what was before, a picture to what comes; stamps that go back are a reset."""
    events = [
        features(1 * MS, 0.5), state(5 * MS), command(6 * MS, 1.0), state(50 * MS), command(60 * MS, 2.0),
        features(120 * MS, 1.5), command(130 * MS, 3.0), state(200 * MS), features(210 * MS, 2.5), command(220 * MS, 4.0),
        state(260 * MS), state(270 * MS, 3 * MS), command(275 * MS, 5.0, 4 * MS), state(280 * MS, 9 * MS),
    ]  # fmt: skip
    found = recordings(events, tmp_path)
    assert [r.received.tolist() for r in found] == [[5 * MS, 50 * MS], [200 * MS, 260 * MS], [270 * MS, 280 * MS]]
    assert [r.commands[:, 0].tolist() for r in found] == [[1.0, 2.0, 3.0], [4.0], [5.0]]
    assert [r.streams["eye"].values[:, 0, 0].tolist() for r in found] == [[0.5], [1.5, 2.5], []]
    assert len(recordings(events, tmp_path, pause_s=1.0)) == 1


def test_what_cannot_be_used_is_left_out_and_said(tmp_path):
    others = ("wrist", "elbow")
    events = [state(10), state(20, names=others), state(30, names=others), state(35, position=(np.nan, 1.0)), command(40, 1.0),
              command(41, 1.0, names=("wrist",)), features(50, 1.0),
              FeaturesEvent(60, Features(60, "eye", np.zeros((2, 2), np.float32)))]  # fmt: skip
    (found,) = recordings(events, tmp_path, problems=["damaged at the end."])
    assert len(found.stamps) == len(found.command_stamps) == len(found.streams["eye"].stamps) == 1
    said = "\n".join(found.problems)
    for words in ("damaged at the end.", "missing ['thumb']", "(2 times)", "NaN or Inf for ['wrist']", "features 'eye' are not"):
        assert words in said
    with pytest.raises(EpisodeError, match=r"bags/one holds no commands that can be used.*flow_policy inspect bags/one --robot"):
        recordings([state(10)], tmp_path)
    with pytest.raises(EpisodeError, match="holds no joint states that can be used: the bag ended"):
        recordings([command(10, 1.0)], tmp_path, problems=["the bag ended."])


def test_pictures_become_features_and_are_not_kept(tmp_path):
    def extract(event):
        if event.camera != "front":
            return None
        if not event.image.data:
            raise ValueError("the image is empty.")
        return Features(event.stamp, "eye", np.full((1, 1), event.image.data[0], dtype=np.float32))

    def picture(received, value, camera="front"):
        image = EncodedImage("mono8", 1, 1, 1, bytes([value]) if value is not None else b"")
        return ImageEvent(received, received - 3, camera, image)

    events = [state(10), command(11, 0.0), picture(20, 7), picture(21, 9, "side"), picture(30, None), picture(40, 8)]
    (found,) = recordings(events, tmp_path, extract)
    assert found.streams["eye"].values.ravel().tolist() == [7.0, 8.0]
    assert found.streams["eye"].stamps.tolist() == [17, 37] and found.streams["eye"].received.tolist() == [20, 40]
    assert found.problems == ("the image is empty. (1 times)",)
    (without,) = recordings(events, tmp_path)
    assert not without.streams and not without.problems


def test_bags_are_found_and_their_success_is_read(tmp_path):
    for name, noted in (("b", "success: 'true'"), ("a", "success: 'false'"), ("c", "other: x")):
        (tmp_path / "bags" / name).mkdir(parents=True)
        text = f"rosbag2_bagfile_information:\n  custom_data:\n    {noted}\n"
        (tmp_path / "bags" / name / "metadata.yaml").write_text(text)
    (tmp_path / "bags" / "notes.txt").write_text("no bag")
    (tmp_path / "bags" / "d.mcap.zst").write_bytes(b"")
    names = [bag.name for bag in bags_in(tmp_path / "bags")]
    assert names == ["a", "b", "c", "d.mcap.zst"]
    assert [noted_success(bag) for bag in bags_in(tmp_path / "bags")] == [False, True, None, None]
    assert bags_in(tmp_path / "bags" / "a") == [tmp_path / "bags" / "a"]
    (tmp_path / "none").mkdir()
    assert bags_in(tmp_path / "none") == [] and bags_in(tmp_path / "nowhere") == []
