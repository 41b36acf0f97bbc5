"""The recorder's queue, disk guard and folders, without ROS: what a slow disk costs is counted, and nothing else is touched."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from flow_policy_ros.data.bags.definitions import message_type
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.nodes.recorder_episode import GB, DiskGuard, Episode, Source
from flow_policy_ros.nodes.recorder_session import Session
from flow_policy_ros.runtime.parameters import ParameterError, RecorderParameters

SOURCE = Source("/t", message_type("std_msgs/msg/String"), "")
OTHER = Source("/u", message_type("std_msgs/msg/String"), "")


class SlowDisk:
    """A guard that does not answer: the writer stands, as it does when the disk does not take anything."""

    def __init__(self) -> None:
        self.asked, self.released = threading.Event(), threading.Event()

    def __call__(self, size: int) -> str | None:
        self.asked.set()
        assert self.released.wait(60.0)
        return None


def test_what_a_slow_disk_costs_is_counted_and_memory_is_bounded(tmp_path: Path) -> None:
    disk = SlowDisk()
    episode = Episode(tmp_path / "bag", "none", {}, disk, queue_bytes=1000)
    episode.put(SOURCE, 0, bytes(400), None, 0)
    assert disk.asked.wait(60.0)
    for k in range(1, 6):
        episode.put(SOURCE, k, bytes([k]) * 400, None, k)
        assert episode.waiting <= 1000
    episode.put(OTHER, 9, bytes(100), None, 1)  # there is room for a small one
    disk.released.set()
    report = episode.stop({"/t": 2, "/u": None})
    assert (dict(report.counts), dict(report.overflow)) == ({"/t": 3, "/u": 1}, {"/t": 3})
    assert dict(report.lost) == {"/t": 2, "/u": None} and report.messages == 4 and not report.problem
    bag = open_bag(tmp_path / "bag")
    try:
        assert [(m.topic, m.received, len(m.data)) for m in bag.messages()] == \
            [("/t", 0, 400), ("/t", 1, 400), ("/t", 2, 400), ("/u", 9, 100)]  # fmt: skip
    finally:
        bag.close()
    text = (tmp_path / "bag" / "metadata.yaml").read_text()
    assert "messages_overflowed: '3'" in text and "messages_lost: unknown" in text


def test_the_guard_keeps_what_is_to_stay_free(tmp_path: Path) -> None:
    assert DiskGuard(0.0).problem(tmp_path, 10**15) is None
    assert "are to stay free (recorder.min_free_gb)" in str(DiskGuard(1e18).problem(tmp_path, 0))
    assert DiskGuard(0.0, 1 * GB).problem(tmp_path, 999_999_999) is None
    assert "recorder.max_gb allows (1)" in str(DiskGuard(0.0, 1 * GB).problem(tmp_path, 1_000_000_000))
    assert "is gone" in str(DiskGuard(0.0).problem(tmp_path / "unplugged", 0))


def test_an_episode_that_the_guard_ends_is_whole(tmp_path: Path) -> None:
    episode = Episode(tmp_path / "bag", "zstd", {}, lambda size: "full", queue_bytes=10**6)
    episode.put(SOURCE, 1, b"abcd", None, 0)
    while episode.running:
        pass
    episode.put(SOURCE, 2, b"abcd", None, 0)  # too late, and no error
    report = episode.stop({})
    assert (report.messages, report.problem) == (1, "full")
    bag = open_bag(tmp_path / "bag")
    try:
        assert [m.received for m in bag.messages()] == [1] and not bag.problems
    finally:
        bag.close()


def session(folder: Path, **parameters: object) -> Session:
    return Session(RecorderParameters(out=str(folder), **{"min_free_gb": 0.0, **parameters}), "hand")  # type: ignore[arg-type]


def test_discard_removes_its_own_files_only(tmp_path: Path) -> None:
    recorder = session(tmp_path)
    recorder.begin()
    recorder.end({})
    recorder.begin()
    recorder.end({})
    (tmp_path / "episode_0002" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"episode_0002 were removed, but not the folder \(Directory not empty\)"):
        recorder.discard()
    assert [p.name for p in (tmp_path / "episode_0002").iterdir()] == ["notes.txt"]
    assert sorted(p.name for p in (tmp_path / "episode_0001").iterdir()) == ["episode_0001_0.mcap", "metadata.yaml"]
    with pytest.raises(ValueError, match="nothing to discard"):
        recorder.discard()
    assert [report.path.name for report in recorder.reports] == ["episode_0001"]


def test_the_size_of_a_run_is_that_of_what_was_kept(tmp_path: Path) -> None:
    recorder = session(tmp_path, max_gb=0.0001, compression="none")  # 100 kB
    for kept in (False, True):
        episode = recorder.begin()
        episode.put(SOURCE, 0, bytes(90_000), None, 0)
        if kept:
            recorder.end({})
        else:
            recorder.discard()
    recorder.begin().put(SOURCE, 0, bytes(20_000), None, 0)
    recorder.end({})
    with pytest.raises(ValueError, match=r"recorder\.max_gb"):
        recorder.begin()


def test_parameters_change_from_the_next_episode_on(tmp_path: Path) -> None:
    recorder = session(tmp_path, compression="none")
    (tmp_path / "door_0006").mkdir()
    running = recorder.begin()
    given = {"out": str(tmp_path), "min_free_gb": 0.0, "compression": "none"}
    recorder.update(RecorderParameters(name="door", **given))  # type: ignore[arg-type]
    assert running.path.name == "episode_0001" and running.running
    recorder.end({})
    assert recorder.begin().path.name == "door_0007"
    recorder.discard()
    recorder.update(RecorderParameters(name="door", max_gb=1e-9, **given))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"recorder\.max_gb"):
        recorder.begin()
    recorder.update(RecorderParameters(name="door", **given))  # type: ignore[arg-type]
    assert recorder.begin().path.name == "door_0008"  # the number of one that was discarded does not come again
    recorder.discard()


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [({"out": ""}, r"recorder\.out is not set"), ({"out": "/dev/null/x"}, "cannot be made a folder"), ({"name": "a/b"}, "'a/b'")],
)
def test_folders_that_cannot_be(parameters: dict[str, str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=sentence):
        Session(RecorderParameters(**{"out": str(tmp_path), **parameters}), "hand")  # type: ignore[arg-type]
