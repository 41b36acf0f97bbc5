"""LeRobot datasets without LeRobot: what is written against what LeRobot itself writes, statistics, resampling, reading back."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from convert_support import JOINTS, MS, T0, picture, png_of

from flow_policy_ros.data.arrivals import Arrivals
from flow_policy_ros.data.bag_events import BagEvent, CommandEvent, ImageEvent, JointStateEvent
from flow_policy_ros.data.lerobot.frames import DatasetError, Frame, Notes, instant
from flow_policy_ros.data.lerobot.layout import V21, V30, Shape
from flow_policy_ros.data.lerobot.read import open_dataset
from flow_policy_ros.data.lerobot.recordings import lerobot_recordings
from flow_policy_ros.data.lerobot.resample import Wanted, resample
from flow_policy_ros.data.lerobot.sources import recording_events
from flow_policy_ros.data.lerobot.staging import EpisodeWriter, StagedEpisode
from flow_policy_ros.data.lerobot.statistics import ImageStatistics, VectorStatistics, restored
from flow_policy_ros.data.lerobot.videos import VideoWriter, join, read_video
from flow_policy_ros.data.lerobot.write import write_dataset
from flow_policy_ros.data.recording import Recording
from flow_policy_ros.data.windows import Windows
from flow_policy_ros.runtime.types import EncodedImage, JointState
from flow_policy_ros.vision.decode import decode

LAYOUT = json.loads((Path(__file__).parent / "lerobot_layout.json").read_text())
OURS = {"source", "success", "seed"}  # columns of episodes that LeRobot does not write, and leaves alone


def frames(count: int, seed: int, size: tuple[int, int] = (64, 96)) -> list[Frame]:
    rng = np.random.default_rng(seed)
    made = []
    for k in range(count):
        pixels = np.resize(picture(k + seed), (*size, 3)).astype(np.uint8)
        image = EncodedImage("rgb8", *size, 3 * size[1], pixels.tobytes())
        ages = {"joint_state": float(rng.uniform(0, 0.01)), "front": 0.02 + k / 1e3, "det": 0.04}
        state, action, det = (rng.normal(size=s).astype(np.float32) for s in (3, 3, (2, 4)))
        made.append(Frame(0, instant(T0, k, 10), state, action, {"front": image}, {"det": det}, ages))
    return made


def write(folder: Path, version: str, images: str, size: tuple[int, int] = (64, 96)) -> Path:
    """The dataset of benchmarks/lerobot_layout.py, by us: 7, 8 and 9 frames, two tasks."""
    shape = Shape(10, "tiny", JOINTS, {"front": size}, {"det": (2, 4)}, images)
    staged: list[StagedEpisode] = []
    for number, (length, task) in enumerate(((7, "open it"), (8, "open it"), (9, "close it"))):
        writer = EpisodeWriter(folder / f"staged{number}", shape, decode)
        for frame in frames(length, number, size):
            writer.add(frame)
        episode = writer.finish(Notes(f"bag{number}", task, success=[True, None, False][number]))
        assert episode is not None
        staged.append(episode)
    write_dataset(folder / "set", staged, version)
    return folder / "set"


@pytest.mark.parametrize("version", [V30, V21])
@pytest.mark.parametrize("images", ["video", "png"])
def test_the_layout_is_lerobots(tmp_path: Path, version: str, images: str) -> None:
    root = write(tmp_path, version, images, (96, 128))
    theirs = LAYOUT[f"{version} {'video' if images == 'video' else 'image'}"]
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert files == sorted({*theirs["files"], "meta/stats.json"})
    info = json.loads((root / "meta/info.json").read_text())
    video = info["features"]["observation.images.front"].get("info")
    assert info == theirs["info"], video
    schema = pq.read_schema(sorted((root / "data").rglob("*.parquet"))[0])
    assert [[field.name, str(field.type)] for field in schema] == theirs["data"]
    assert json.loads(schema.metadata[b"huggingface"])["info"]["features"] == theirs["datasets"]
    if version == V30:
        columns = [[field.name, str(field.type)] for field in pq.read_schema(root / "meta/episodes/chunk-000/file-000.parquet")]
        plain = [[name, kind] for name, kind in columns if name not in OURS]
        assert sorted(plain) == sorted(theirs["episodes"])
        tasks = pq.read_table(root / "meta/tasks.parquet")
        assert [name for name, _ in theirs["tasks"]] == tasks.schema.names
        assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["__index_level_0__"]
        assert tasks.to_pydict() == {"task_index": [0, 1], "__index_level_0__": ["open it", "close it"]}
        stats = json.loads((root / "meta/stats.json").read_text())
    else:
        for name, line in theirs["lines"].items():
            ours = json.loads((root / "meta" / name).read_text().splitlines()[1])
            assert {key: value for key, value in ours.items() if key not in OURS} == line
        stats = json.loads((root / "meta/episodes_stats.jsonl").read_text().splitlines()[1])["stats"]
        theirs["stats"].pop("observation.features.det")  # 0.3.3 keeps one for each token, 0.4.4 one for each channel
    for name, table in theirs["stats"].items():
        assert {key: list(np.shape(stats[name][key])) for key in table} == table, name


@pytest.mark.parametrize("version", [V30, V21])
@pytest.mark.parametrize("images", ["video", "png"])
def test_what_is_read_is_what_was_written(tmp_path: Path, version: str, images: str) -> None:
    dataset = open_dataset(write(tmp_path, version, images))
    assert (dataset.fps, dataset.robot, dataset.state_names, dataset.left_out) == (10, "tiny", JOINTS, ())
    assert [entry.notes for entry in dataset.episodes] == [
        Notes("bag0", "open it", True), Notes("bag1", "open it", None), Notes("bag2", "close it", False)
    ]  # fmt: skip
    worst = np.inf
    for entry, length in zip(dataset.episodes, (7, 8, 9), strict=True):
        read, written = list(dataset.frames(entry, dataset.cameras)), frames(length, entry.number)
        assert len(read) == length
        for ours, frame in zip(read, written, strict=True):
            assert ours.stamp == frame.stamp and ours.ages == frame.ages
            assert np.array_equal(ours.state, frame.state) and np.array_equal(ours.action, frame.action)
            assert np.array_equal(ours.features["det"], frame.features["det"])
            error = decode(ours.images["front"]).astype(float) - decode(frame.images["front"])
            worst = min(worst, 10 * np.log10(255**2 / max(np.mean(error**2), 1e-9)))
    assert worst > (30 if images == "video" else 130)  # dB; without loss it is the bound above


def test_statistics_are_those_of_all_rows_whatever_the_order_of_merging() -> None:
    rng = np.random.default_rng(0)
    rows = np.sort(rng.gamma(2.0, size=(60_000, 2)), axis=0).astype(np.float32)  # sorted: the worst for a stream
    rows[:, 1] = 0.25  # dead
    whole, parts = VectorStatistics(2), [VectorStatistics(2) for _ in range(7)]
    for k, batch in enumerate(np.array_split(rows, 90)):
        whole.update(batch)
        parts[k % 7].update(batch)
    for part in parts[1:]:
        restored_part = restored(part.arrays())
        assert isinstance(restored_part, VectorStatistics)
        parts[0].merge(restored_part)
    for result in (whole.result(), parts[0].result()):
        np.testing.assert_allclose(result["mean"], rows.astype(float).mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(result["std"], rows.astype(float).std(axis=0), rtol=1e-6, atol=1e-12)
        assert np.array_equal(result["min"], rows.min(axis=0)) and np.array_equal(result["max"], rows.max(axis=0))
        for name, fraction in (("q01", 0.01), ("q50", 0.5), ("q99", 0.99)):
            rank = np.searchsorted(rows[:, 0], result[name][0]) / len(rows)
            assert abs(rank - fraction) < 0.0003
            assert result[name][1] == 0.25
        assert result["count"] == [60_000]


def test_few_rows_have_exact_quantiles_and_images_an_exact_histogram() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(501, 3)).astype(np.float32)
    statistics = VectorStatistics(3)
    statistics.update(rows)
    np.testing.assert_allclose(statistics.result()["q10"], np.quantile(rows.astype(float), 0.1, axis=0), rtol=1e-6)
    images, seen = rng.integers(0, 256, size=(5, 20, 30, 3), dtype=np.uint8), ImageStatistics()
    for image in images:
        seen.update(image)
    result = seen.result()
    np.testing.assert_allclose(result["mean"].ravel(), images.mean(axis=(0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(result["std"].ravel(), images.std(axis=(0, 1, 2)) / 255, rtol=1e-12)
    expected = np.quantile(images.reshape(-1, 3), 0.9, axis=0, method="inverted_cdf") / 255
    np.testing.assert_allclose(result["q90"].ravel(), expected, rtol=1e-12)
    assert result["min"].shape == (3, 1, 1) and result["count"] == [5]


def late_events(seed: int, count: int = 300) -> list[BagEvent]:
    """Joint states and images that come late and out of order, commands about 4 ms after their stamp."""
    rng = np.random.default_rng(seed)
    made: list[BagEvent] = []
    for k in range(count):
        stamp = T0 + k * 10 * MS
        values = np.array([k, -k, k / 2], dtype=np.float64)
        made.append(JointStateEvent(stamp + int(rng.integers(0, 40 * MS)), JointState(stamp, JOINTS, values)))
        made.append(CommandEvent(stamp + int(rng.integers(0, 8 * MS)), stamp, JOINTS, values + 0.5))
        if k % 5 == 0:
            image = EncodedImage("mono8", 1, 1, 1, bytes([k // 5]))
            made.append(ImageEvent(stamp + int(rng.integers(20 * MS, 200 * MS)), stamp, "front", image))
    return sorted(made, key=lambda event: event.received)


@pytest.mark.parametrize("seed", range(3))
def test_a_frame_is_what_had_arrived(seed: int) -> None:
    """Held against ``data.arrivals``, which is held against the live buffers."""
    events, problems = late_events(seed), list[str]()
    found = list(resample(events, Wanted(JOINTS, ("front",)), 30, 1.0, problems))
    instants = np.array([frame.stamp for frame in found])
    assert problems == [] and {frame.episode for frame in found} == {0}
    assert instants.tolist() == [instant(int(instants[0]), k, 30) for k in range(len(found))]
    states = [event for event in events if isinstance(event, JointStateEvent)]
    images = [event for event in events if isinstance(event, ImageEvent)]
    told = {event.stamp: event.position for event in events if isinstance(event, CommandEvent)}
    rows = Arrivals(np.array([e.state.stamp for e in states]), np.array([e.received for e in states])).latest(instants)
    seen = Arrivals(np.array([e.stamp for e in images]), np.array([e.received for e in images])).latest(instants)
    for frame, row, shown in zip(found, rows, seen, strict=True):
        assert frame.state.tolist() == states[row].state.position.tolist() and frame.taken("joint_state") == states[row].state.stamp
        assert frame.images["front"] is images[shown].image and frame.taken("front") == images[shown].stamp
        assert frame.action.tolist() == told[max(stamp for stamp in told if stamp <= frame.stamp)].tolist()
    assert len(found) > 80


def test_a_gap_cuts_and_what_nobody_saw_is_left_out() -> None:
    events = [e for e in late_events(0) if not (isinstance(e, ImageEvent) and T0 + 800 * MS < e.received < T0 + 2000 * MS)]
    found = list(resample(events, Wanted(JOINTS, ("front",)), 50, 0.5, []))
    last = max(e.received for e in events if isinstance(e, ImageEvent) and e.received < T0 + 900 * MS)
    first = min(e.received for e in events if isinstance(e, ImageEvent) and e.received > T0 + 1900 * MS)
    by_number = [[frame.stamp for frame in found if frame.episode == k] for k in range(3)]
    assert last - 20 * MS < by_number[0][-1] <= last and by_number[1][0] == first and not by_number[2]
    assert len({frame.episode for frame in resample(events, Wanted(JOINTS, ("front",)), 50, 2.0, [])}) == 1


def test_what_is_missing_is_said() -> None:
    problems: list[str] = []
    events = [e for e in late_events(0) if not isinstance(e, CommandEvent)]
    assert list(resample(events, Wanted(JOINTS, ("front", "wrist")), 50, 1.0, problems)) == []
    assert problems == ["no frames: nothing usable was received of wrist, command."]
    problems.clear()
    bad = [CommandEvent(T0 + k, T0 + k, ("a", "b"), np.zeros(2)) for k in range(3)]
    list(resample([*bad, *late_events(0)], Wanted(JOINTS, ("front",)), 50, 1.0, problems))
    assert len(problems) == 1 and problems[0].startswith("commands: 3 messages not used") and "missing ['c']" in problems[0]


@pytest.mark.parametrize(("every", "made"), [(20, 2981), (100, 0)])
def test_little_is_held_while_it_streams(every: int, made: int) -> None:
    alive: weakref.WeakSet[EncodedImage] = weakref.WeakSet()
    most = 0

    def events() -> Iterator[BagEvent]:
        nonlocal most
        for k in range(3000):
            now = T0 + k * 20 * MS
            image = EncodedImage("mono8", 1, 1, 1, bytes(1))
            alive.add(image)
            yield JointStateEvent(now, JointState(now, JOINTS, np.zeros(3)))
            yield ImageEvent(now, now, "front", image)
            if k % every == 0:  # commands are rare: frames wait for them, but not forever
                yield CommandEvent(now, now, JOINTS, np.zeros(3))
            most = max(most, len(alive))

    count = sum(1 for _ in resample(events(), Wanted(JOINTS, ("front",)), 50, 1.0, []))
    assert count == made and most < 60


def test_joined_videos_hold_the_same_frames(tmp_path: Path) -> None:
    parts = []
    for number, length in enumerate((5, 8)):
        path = tmp_path / f"{number}.mp4"
        with VideoWriter(path, 25, 64, 96) as video:
            for k in range(length):
                video.add(picture(7 * k + number))
        parts.append((path, length))
    join(parts, tmp_path / "all.mp4", 25)
    alone = [frame for path, length in parts for frame in read_video(path, 0.0, 25, length)]
    assert all(np.array_equal(a, b) for a, b in zip(alone, read_video(tmp_path / "all.mp4", 0.0, 25, 13), strict=True))
    second = list(read_video(tmp_path / "all.mp4", 5 / 25, 25, 8))
    assert all(np.array_equal(a, b) for a, b in zip(alone[5:], second, strict=True))
    with pytest.raises(DatasetError, match="has 8 frames from"):
        list(read_video(tmp_path / "all.mp4", 5 / 25, 25, 9))


def test_recordings_of_a_dataset(tmp_path: Path) -> None:
    first, _, third = lerobot_recordings(write(tmp_path, V30, "png"))
    written = frames(7, 0)
    assert (first.joints, first.task, first.success, third.task, third.success) == (JOINTS, "open it", True, "close it", False)
    assert np.array_equal(first.received, [frame.stamp for frame in written])
    assert np.array_equal(first.stamps, [frame.taken("joint_state") for frame in written])
    assert np.array_equal(first.commands, [frame.action for frame in written])
    assert np.array_equal(first.streams["det"].values, [frame.features["det"] for frame in written])
    assert np.array_equal(first.streams["det"].stamps, [frame.taken("det") for frame in written])


def edit(root: Path, change: str) -> None:
    info = json.loads((root / "meta/info.json").read_text())
    if change == "version":
        info["codebase_version"] = "v1.6"
    elif change == "template":
        info["data_path"] = "../../{chunk_index}/{file_index}"
    elif change == "column":
        info["features"]["observation.features.more"] = {"dtype": "float32", "shape": [2, 2], "names": None}
    elif change == "truncated":
        data = root / "data/chunk-000/file-000.parquet"
        data.write_bytes(data.read_bytes()[:-100])
    elif change == "episodes":
        (root / "meta/episodes/chunk-000/file-000.parquet").unlink()
    elif change == "info":
        del info["fps"]
    (root / "meta/info.json").write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("version", "format 'v1.6', expected v3.0"), ("template", "leads out of it"), ("column", "no column"),
        ("truncated", "cannot be read"), ("episodes", "no meta/episodes"), ("info", "lack or misplace 'fps'"),
    ],
)  # fmt: skip
def test_damaged_datasets_are_refused_with_a_sentence(tmp_path: Path, change: str, words: str) -> None:
    root = write(tmp_path, V30, "png")
    edit(root, change)
    with pytest.raises(DatasetError, match=words):
        dataset = open_dataset(root)
        for entry in dataset.episodes:
            list(dataset.frames(entry, dataset.cameras))


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("data_path", "{chunk_index:0999999999d}", "cannot be filled in"),
        ("data_path", "{chunk_index.real}", "cannot be filled in"),
        ("data_path", "{chunk_index!r}", "cannot be filled in"), ("data_path", 7, "cannot be filled in"),
        ("data_path", "a\0{file_index}", "cannot be filled in"), ("fps", float("inf"), "from 1 to 1000"),
        ("fps", float("nan"), "from 1 to 1000"), ("fps", 2000, "from 1 to 1000"), ("fps", 29.97, "from 1 to 1000"),
        ("fps", "fast", "metadata lack"), ("action.shape", [0], "whole numbers above zero"),
        ("action.shape", [4], "3 values a frame"),
        ("action.shape", "3", "whole numbers above zero"), ("action.shape", [10**9], "whole numbers above zero"),
        ("action.dtype", ["float32"], "whole numbers above zero"), ("action", 3, "metadata lack"),
        ("observation.state.shape", [3, 1], "no vectors"), ("input_age.names", ["joint_state"], "a name for each value"),
    ],
)  # fmt: skip
def test_hostile_metadata_are_refused_with_a_sentence(tmp_path: Path, where: str, value: object, words: str) -> None:
    root = write(tmp_path, V30, "png")
    info = json.loads((root / "meta/info.json").read_text())
    feature, _, key = where.rpartition(".")
    if feature:
        info["features"][feature][key] = value
    elif where in info["features"]:
        info["features"][where] = value
    else:
        info[where] = value
    (root / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(DatasetError, match=words):
        dataset = open_dataset(root)
        for entry in dataset.episodes:
            list(dataset.frames(entry, dataset.cameras))


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("dataset_from_index", [0, 6, 15], "from row 6 to 15"), ("dataset_from_index", [7, 0, 15], "from row 7 to 7"),
        ("length", [0, 8, 9], "has length 0"), ("episode_index", [0, 2, 1], "are another's"),
    ],
)  # fmt: skip
def test_episodes_that_point_elsewhere_are_refused(tmp_path: Path, column: str, values: list[int], words: str) -> None:
    root = write(tmp_path, V30, "png")
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type)), path)
    with pytest.raises(DatasetError, match=words):
        dataset = open_dataset(root)
        for entry in dataset.episodes:
            list(dataset.frames(entry, dataset.cameras))


@pytest.mark.parametrize("fps", [100, 30])
def test_frames_are_where_training_has_samples(fps: int) -> None:
    """Commands from 0.2 s to 2 s and from 5 s to 6 s of 8; one alone at 4 s, which nothing follows soon enough."""
    stamps = T0 + 10 * MS * np.arange(800, dtype=np.int64)
    told = [T0 + k * 10 * MS for k in range(800) if 20 <= k <= 200 or k == 400 or 500 <= k <= 600]
    recording = Recording(JOINTS, stamps, stamps, np.zeros((800, 3)), np.array(told), np.zeros((len(told), 3)))
    problems: list[str] = []
    found = list(resample(recording_events(recording), Wanted(JOINTS), fps, 1.0, problems))
    assert {frame.episode for frame in found} == {0, 1}
    assert any("frames are left out: commands pause for longer than 0.5 s" in problem for problem in problems)
    windows = Windows([recording], (), 4, 10 * MS)
    usable = set(stamps[windows.samples(0, 0).ticks].tolist()) - {T0 + 4000 * MS}
    assert len(usable) == 181 + 101
    if fps == 100:
        assert {frame.stamp for frame in found} == usable
    for number, first, last in ((0, 200, 2000), (1, 5000, 6000)):
        part = [frame.stamp for frame in found if frame.episode == number]
        assert T0 + first * MS <= part[0] < T0 + first * MS + 3 * 10**9 // fps  # at thirds of a second the grid is in whole ns
        assert T0 + last * MS - 10**9 / fps < part[-1] <= T0 + last * MS
        assert part == [instant(part[0], k, fps) for k in range(len(part))]


def test_an_episode_is_whole_or_not_there(tmp_path: Path) -> None:
    shape = Shape(10, "tiny", JOINTS, {"front": (64, 96)}, {"det": (2, 4)}, "png")
    writer = EpisodeWriter(tmp_path / "one", shape, decode)
    good = frames(3, 0)
    writer.add(good[0])
    small = EncodedImage("rgb8", 2, 2, 6, bytes(12))
    broken = EncodedImage("compressed", 0, 0, 0, png_of(picture(0)).tobytes()[:60])
    for image in (small, broken):  # the image before it stays
        writer.add(Frame(0, T0, good[1].state, good[1].action, {"front": image}, good[1].features, good[1].ages))
    assert not (tmp_path / "one").exists() and len(writer.problems) == 2 and "(2, 2, 3), expected (64, 96, 3)" in writer.problems[0]
    writer.abandon()
    assert list(tmp_path.iterdir()) == []
    short = EpisodeWriter(tmp_path / "two", shape, decode)
    short.add(good[0])
    assert short.finish(Notes("x", "y")) is None and list(tmp_path.iterdir()) == []


def test_many_episodes_share_files_and_fill_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "alone", V30, "video")
    size = max(path.stat().st_size for path in (tmp_path / "alone").rglob("table.parquet")) / (1 << 20)
    monkeypatch.setattr("flow_policy_ros.data.lerobot.layout.DATA_FILE_MB", 2 * size)  # two episodes
    monkeypatch.setattr("flow_policy_ros.data.lerobot.layout.VIDEO_FILE_MB", 0.001)  # one
    monkeypatch.setattr("flow_policy_ros.data.lerobot.layout.CHUNK_FILES", 1)
    dataset = open_dataset(write(tmp_path, V30, "video"))
    assert len({entry.data for entry in dataset.episodes}) == 2
    assert {entry.data.parent.name for entry in dataset.episodes} == {"chunk-000", "chunk-001"}
    assert len({entry.videos["observation.images.front"][0] for entry in dataset.episodes}) == 3
    assert [entry.first for entry in dataset.episodes].count(0) == 2
    for entry, length in zip(dataset.episodes, (7, 8, 9), strict=True):
        for a, b in zip(dataset.frames(entry, dataset.cameras), frames(length, entry.number), strict=True):
            assert np.array_equal(a.state, b.state) and a.stamp == b.stamp
            error = decode(a.images["front"]).astype(float) - decode(b.images["front"])
            assert np.mean(error**2) < 70


def test_episodes_are_found_however_the_rows_are_grouped(tmp_path: Path) -> None:
    """LeRobot's converter writes one group for a whole file; others write groups that end within episodes."""
    root = write(tmp_path, V30, "png")
    data = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(data)
    for size in (1000, 5):
        pq.write_table(table, data, row_group_size=size)
        dataset = open_dataset(root)
        for entry, length in zip(dataset.episodes, (7, 8, 9), strict=True):
            read, written = list(dataset.frames(entry, dataset.cameras)), frames(length, entry.number)
            assert [frame.state.tolist() for frame in read] == [frame.state.tolist() for frame in written]


@pytest.mark.parametrize("version", [V30, V21])
def test_frames_are_counted_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr("flow_policy_ros.data.lerobot.staging.GROUP_ROWS", 4)  # an episode is written in several goes
    root = write(tmp_path, version, "png")
    tables = [pq.read_table(path).select(["index", "episode_index", "frame_index", "timestamp", "task_index"]).to_pydict()
              for path in sorted((root / "data").rglob("*.parquet"))]
    columns = {name: [value for table in tables for value in table[name]] for name in tables[0]}
    numbers = [k for length in (7, 8, 9) for k in range(length)]
    assert columns["index"] == list(range(24)) and columns["frame_index"] == numbers
    assert columns["episode_index"] == [0] * 7 + [1] * 8 + [2] * 9 and columns["task_index"] == [0] * 15 + [1] * 9
    assert np.array_equal(columns["timestamp"], (np.array(numbers) / 10).astype(np.float32))
    assert not list(tmp_path.rglob(".*"))
