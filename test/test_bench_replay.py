"""``flow_policy bench replay`` and ``convert``, small; and what they are made of: long recordings, stopwatches, memory."""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path

import numpy as np
import pytest
from convert_support import make_bag
from replay_support import STREAM, recording, run, selection

from flow_policy_ros.cli.main import main
from flow_policy_ros.data import message_looks as looks
from flow_policy_ros.data.bags import messages
from flow_policy_ros.data.bags.bag import BagError
from flow_policy_ros.data.bags.definitions import standard_types
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.data.bags.repeat import later, repeat
from flow_policy_ros.evaluation.replay.cost import Stages, Stopwatch, TimedSink
from flow_policy_ros.evaluation.replay.engine import replay
from flow_policy_ros.evaluation.replay.records import ReplayMeta
from flow_policy_ros.evaluation.replay.stack import Sources, load_replay
from flow_policy_ros.evaluation.resident import Resident
from flow_policy_ros.runtime.types import Features


def test_a_recording_is_repeated_with_later_stamps(tmp_path: Path) -> None:
    short = open_bag(make_bag(tmp_path / "short", 0.5))
    long = open_bag(repeat(short, tmp_path / "long", seconds=1.7))
    one, many = list(short.messages()), list(long.messages())
    assert long.start == one[0].received and (many[-1].received - many[0].received) / 1e9 == pytest.approx(1.7, abs=0.05)
    assert [m.received for m in many] == sorted(m.received for m in many) and not long.problems
    shift = many[len(one)].received - many[0].received
    assert one[-1].received - one[0].received < shift < one[-1].received - one[0].received + 20_000_000
    for k, message in enumerate(many):
        before = one[k % len(one)]
        turn = k // len(one)
        assert message.topic == before.topic and message.received == before.received + turn * shift
        stamps = [looks.header_stamp(bag.decode(m)) or 0 for bag, m in ((long, message), (short, before))]
        assert stamps[0] == stamps[1] + turn * shift > 0 and bytes(message.data[12:]) == bytes(before.data[12:])


def test_a_recording_is_repeated_to_a_size(tmp_path: Path) -> None:
    short = open_bag(make_bag(tmp_path / "short", 0.5))
    path = repeat(short, tmp_path / "long", size=3_000_000, compression="none")
    assert 3_000_000 <= next(path.glob("*.mcap")).stat().st_size < 5_000_000
    with pytest.raises(ValueError, match="expected one of the two above zero"):
        repeat(short, tmp_path / "nothing")


def test_what_cannot_be_repeated_is_refused(tmp_path: Path) -> None:
    bags = Path(__file__).resolve().parents[2] / "shared" / "bags"
    if not bags.is_dir():
        pytest.skip("the shared recordings are not there")
    with pytest.raises(BagError, match="are not CDR"):
        repeat(open_bag(next((bags / "json-mcap").glob("*.mcap"))), tmp_path / "out", 1.0)
    with pytest.raises(BagError, match="has no messages"):
        repeat(open_bag(bags / "rosbag2-edges" / "sqlite3_empty_bag"), tmp_path / "out", 1.0)
    with pytest.raises(BagError, match="has no header"):
        later(b"\0\1", 1)


@pytest.mark.parametrize("stream", ["", "a", "abc", "abcd", "objects", "détections"])
def test_features_are_laid_out_as_the_serialiser_does(stream: str) -> None:
    rng = np.random.default_rng(0)
    for tokens in (0, 1, 3):
        for channels in (1, 2, 7):
            seen = Features(1_234_567_890_123_456_789, stream, rng.normal(size=(tokens, channels)).astype(np.float32))
            kind = standard_types().types[messages.IMAGE]
            message = kind(
                header=messages._header(seen.stamp, stream), height=tokens, width=channels, encoding="32FC1", is_bigendian=0,
                step=4 * channels, data=np.frombuffer(seen.values.tobytes(), dtype=np.uint8),
            )  # fmt: skip
            assert messages.features(seen) == messages._serialise(message)


def test_statuses_are_laid_out_as_the_serialiser_does() -> None:
    values: dict[str, object] = {"a": 1.5, "bc": "x", "": True, "défg": 3, "hijkl": ""}
    for count in range(len(values) + 1):
        given = ("n" * count, count % 3, "é" * count, dict(list(values.items())[:count]))
        assert messages.lone_status(*given) == messages._serialise(messages.status(*given))


def test_stopwatches_change_nothing_and_account_for_the_time(tmp_path: Path) -> None:
    loaded = load_replay(selection(tmp_path, STREAM))
    plain, _ = run(loaded, recording(60))
    stack, ahead = loaded.open(Sources(features=loaded.parts.streams))
    reading, stages, timed = Stopwatch(), Stages(), TimedSink(type(plain)())
    meta = ReplayMeta("made up", "hand", "c", loaded.robot.joints, 10_000_000)
    done = replay(reading.reading(recording(60)), stack, [timed, stages], meta, "front", ahead)
    assert timed._sink.sha256() == plain.sha256() and done.ticks == len(plain.ticks)  # type: ignore[attr-defined]
    parts = [reading.seconds, stages.policy, stages.safety, timed.watch.seconds]
    assert min(parts) > 0.0 and sum(parts) < done.wall_s and stages.perception == 0.0


def test_memory_that_grows_is_seen_to_grow() -> None:
    kept: list[mmap.mmap] = []  # an allocator may hand out pages that are resident already
    flat, growing = Resident(0.1), Resident(0.1)
    for k in range(1, 101):
        flat.at(k / 100)
    for k in range(1, 101):
        kept.append(mmap.mmap(-1, 1_000_000))
        kept[-1][:: mmap.PAGESIZE] = b"1" * len(range(0, 1_000_000, mmap.PAGESIZE))
        growing.at(k / 100)
    first, second = flat.result(), growing.result()
    assert first["samples"] > 50 and abs(first["mb_per_gb"]) < 50.0
    assert second["mb_per_gb"] == pytest.approx(1000.0, rel=0.2) and second["resident_mb_end"] - second["resident_mb_start"] > 70.0
    assert Resident(1.0).result()["mb_per_gb"] is None and len(kept) == 100


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_replay_is_measured(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "f.json"
    command = ["bench", "replay", "--seconds", "2", "--memory-gb", "0.002", "--json", str(file), "--rows", "states"]
    assert main(command) == 0
    printed = capsys.readouterr()
    figures = json.loads(printed.out)
    assert figures == json.loads(file.read_text())
    (row,) = figures["rows"]
    assert (row["name"], row["policy"], row["batch"], row["jobs"]) == ("states", "adroit_door_state", 64, 2)
    assert row["bag_s"] >= 3.9 and row["realtime_factor"] == pytest.approx(row["bag_s"] / row["wall_s"], rel=0.01)
    assert row["verdict"] == "good" and row["ticks"] >= 199 and len(row["commands_sha256"]) == 64
    assert set(row["stages"]) >= {"reading", "policy", "safety", "metrics", "traces", "replay_bag", "engine", "report"}
    assert all(seconds > 0 for name, seconds in row["stages"].items() if name != "perception")
    memory = [(one["name"], one["recording"]) for one in figures["memory"]]
    assert memory == [(name, kind) for kind in ("states", "images") for name in ("inspect", "convert", "replay")]
    assert all(one["gb"] >= 0.002 and one["resident_mb_max"] >= one["resident_mb_end"] > 50.0 for one in figures["memory"])
    assert printed.err.count("name replay") == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif("FLOW_POLICY_SLOW" not in os.environ, reason="takes a minute: FLOW_POLICY_SLOW=1 runs it; its parts are tested")
def test_conversion_is_measured(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "convert", "--seconds", "2", "--steps", "1", "--batch", "16"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert {(row["recording"], row["to"], row["images"]) for row in figures["rows"]} == {
        ("states", "lerobot-v3", ""), ("states", "episodes", ""), ("jpeg", "lerobot-v3", "video"), ("jpeg", "lerobot-v3", "png"),
        ("jpeg", "episodes", ""), ("raw", "lerobot-v3", "video"), ("raw", "lerobot-v3", "png"),
    }  # fmt: skip
    assert all(row["episodes"] == 1 and row["frames"] > 50 and row["mb_per_s"] > 0 for row in figures["rows"])
    assert [row["data"] for row in figures["training"]] == ["bags", "LeRobot v3", "episodes"]
    assert all(row["data_ratio"] > 1.0 and row["windows_per_s"] > 0 for row in figures["training"])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["replay", "--jobs", "0"], "--jobs is 0, expected at least 1"),
        (["replay", "--batch", "0"], "--batch is 0, expected at least 1"),
        (["replay", "--seconds", "nan"], "--seconds is nan, expected at least 1"),
        (["replay", "--memory-gb", "-1"], "--memory-gb is -1.0, expected 0 to 100"),
        (["replay", "--json", "nowhere/f.json"], "the folder nowhere does not exist"),
        (["convert", "--steps", "0"], "--steps is 0, expected at least 1"),
        (["convert", "--seconds", "0"], "--seconds is 0.0, expected at least 1"),
        (["convert", "--checkpoint", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_refused_at_once(command: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *command]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and not printed.out
