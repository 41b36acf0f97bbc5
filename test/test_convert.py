"""``flow_policy convert``: there and back without loss, resumed, in parallel, from damaged recordings, onto full disks."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from convert_support import JOINTS, MS, T0, make_bag, picture, robot_file
from numpy.typing import NDArray

from flow_policy_ros.cli.main import main
from flow_policy_ros.data.bag_events import BagEvents
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.data.episodes import Episode
from flow_policy_ros.data.lerobot import convert as conversion
from flow_policy_ros.data.lerobot.frames import Frame
from flow_policy_ros.data.lerobot.read import Dataset, open_dataset
from flow_policy_ros.data.lerobot.recordings import lerobot_recordings
from flow_policy_ros.data.lerobot.sources import Rules
from flow_policy_ros.data.lerobot.videos import VideoWriter
from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.runtime.types import EncodedImage
from flow_policy_ros.vision.decode import decode

BAGS = Path(__file__).resolve().parents[2] / "shared" / "bags"


def run(robot: Path, out: Path, *words: object) -> dict[str, Any]:
    """Convert; the figures. Fails when the command does."""
    assert main(["convert", "--robot", str(robot), "--out", str(out), "--json", str(out) + ".json", *map(str, words)]) == 0
    return dict(json.loads(Path(str(out) + ".json").read_text()))


def every_frame(dataset: Dataset) -> list[Frame]:
    return [frame for entry in dataset.episodes for frame in dataset.frames(entry, dataset.cameras)]


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9)))


@pytest.mark.parametrize("version", ["lerobot-v3", "lerobot-v2.1"])
def test_there_and_back_and_there_again(tmp_path: Path, version: str) -> None:
    robot = robot_file(tmp_path)
    make_bag(tmp_path / "one")
    make_bag(tmp_path / "two", 3.0, seed=1, gap=(1.0, 1.9))
    first = run(robot, tmp_path / "set", tmp_path / "one", tmp_path / "two", "--to", version, "--images", "png", "--max-gap", 0.5)
    assert [source["episodes"] for source in first["sources"]] == [1, 2] and first["problems"] == 0
    back = run(robot, tmp_path / "bags", tmp_path / "set", "--to", "bag")
    assert back["frames"] == first["frames"]
    run(robot, tmp_path / "again", tmp_path / "bags", "--to", version, "--images", "png", "--max-gap", 0.5)
    before, after = open_dataset(tmp_path / "set"), open_dataset(tmp_path / "again")
    assert [e.notes.success for e in after.episodes] == [True] * 3 and {e.notes.task for e in after.episodes} == {"push it"}
    frames = every_frame(before)
    assert len(frames) == first["frames"] > 90
    for a, b in zip(frames, every_frame(after), strict=True):
        assert a.stamp == b.stamp and a.ages == b.ages
        assert np.array_equal(a.state, b.state) and np.array_equal(a.action, b.action)
        assert np.array_equal(a.features["det"], b.features["det"])
        assert np.array_equal(decode(a.images["front"]), decode(b.images["front"]))


def test_frames_hold_what_the_bag_holds(tmp_path: Path) -> None:
    """Order by name, float32, the picture of the header stamp, the command of the instant."""
    run(robot_file(tmp_path), tmp_path / "set", make_bag(tmp_path / "one"), "--images", "png", "--fps", 25)
    dataset = open_dataset(tmp_path / "set")
    assert dataset.state_names == dataset.action_names == JOINTS
    for frame in every_frame(dataset):
        k = (frame.taken("joint_state") - T0) // (10 * MS)
        assert np.array_equal(frame.state, np.sin(k / 20 + np.arange(3)).astype(np.float32)) and frame.ages["joint_state"] >= 0
        told = (frame.stamp - T0) // (10 * MS)
        assert np.array_equal(frame.action, np.cos(told / 20 + np.arange(3)).astype(np.float32))
        shown = (frame.taken("front") - T0) // (50 * MS)
        assert np.array_equal(decode(frame.images["front"]), picture(shown)) and frame.ages["front"] > 0.02
        assert frame.features["det"][0, 0] == np.float32((frame.taken("det") - T0) // (50 * MS) / 3)


def test_video_keeps_pictures_to_32_db(tmp_path: Path) -> None:
    robot = robot_file(tmp_path)
    run(robot, tmp_path / "set", make_bag(tmp_path / "one"))
    run(robot, tmp_path / "bags", tmp_path / "set", "--to", "bag")
    bag = open_bag(tmp_path / "bags" / "set_000000")
    messages = [bag.decode(m) for m in bag.messages(["/camera/image_raw/compressed"])]
    assert len(messages) == len({(m.header.stamp.sec, m.header.stamp.nanosec) for m in messages}) > 30
    worst = np.inf
    for message in messages:
        k = (message.header.stamp.sec * 10**9 + message.header.stamp.nanosec - T0) // (50 * MS)
        pixels = decode(EncodedImage("compressed", 0, 0, 0, message.data.tobytes()))
        worst = min(worst, psnr(pixels, picture(k)))
    assert worst > 32
    assert len([m for m in bag.messages(["/command/executed"])]) == len(every_frame(open_dataset(tmp_path / "set")))
    bag.close()


def test_two_processes_make_what_one_makes(tmp_path: Path) -> None:
    robot = robot_file(tmp_path)
    for k in range(3):
        make_bag(tmp_path / "bags" / f"bag{k}", 1.0, seed=k)
    run(robot, tmp_path / "one", tmp_path / "bags")
    run(robot, tmp_path / "two", tmp_path / "bags", "--jobs", 2)
    for file in ("data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"):
        assert pq.read_table(tmp_path / "one" / file).equals(pq.read_table(tmp_path / "two" / file))
    for file in ("videos/observation.images.front/chunk-000/file-000.mp4", "meta/stats.json", "meta/info.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


_left = 0


def decode_until_interrupted(image: EncodedImage) -> NDArray[np.uint8]:
    global _left
    _left -= 1
    if _left == 0:
        raise KeyboardInterrupt
    return decode(image)


@pytest.mark.parametrize("to", ["lerobot-v3", "bag"])
def test_an_interrupted_conversion_goes_on(tmp_path: Path, to: conversion.Target) -> None:
    global _left
    robot = robot_file(tmp_path)
    units, fps = conversion.plan([make_bag(tmp_path / f"bag{k}", 1.0, seed=k) for k in range(3)], None)
    whole = conversion.convert(units, conversion.Conversion(robot, tmp_path / "whole", to, Rules(fps), "png"), decode)
    wanted = conversion.Conversion(robot, tmp_path / "set", to, Rules(fps), "png")
    _left = 30
    with pytest.raises(KeyboardInterrupt):
        if to == "bag":  # whose PNGs are not decoded: stop at the third bag instead
            def stop(read: float, everything: float) -> None:
                if read > 0.8 * everything:
                    raise KeyboardInterrupt

            conversion.convert(units, wanted, decode, stop)
        else:
            conversion.convert(units, wanted, decode_until_interrupted)
    finished = sorted((tmp_path / "set" / conversion.WORK).glob("*/unit.json"))
    stamps = [path.stat().st_mtime_ns for path in finished]
    assert len(finished) in (1, 2) and not (tmp_path / "set" / "meta").exists()
    with pytest.raises(conversion.DatasetError, match="unfinished conversion to"):
        other: conversion.Target = "episodes"
        conversion.convert(units, conversion.Conversion(robot, tmp_path / "set", other, Rules(fps)), decode)
    _left = -1
    seen: list[float] = []
    kept = []

    def watch(read: float, everything: float) -> None:
        seen.append(read)
        kept.append([path.stat().st_mtime_ns for path in finished if path.exists()])

    summary = conversion.convert(units, wanted, decode_until_interrupted, watch)
    assert kept[0] == stamps  # what was complete was not made again
    assert (summary["episodes"], summary["frames"]) == (whole["episodes"], whole["frames"])
    if to == "bag":
        assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["bag0", "bag1", "bag2", "conversion.json"]
    else:
        a, b = (pq.read_table(tmp_path / name / "data/chunk-000/file-000.parquet") for name in ("whole", "set"))
        assert a.equals(b)
    assert conversion.convert(units, wanted, decode)["already"]
    with pytest.raises(conversion.DatasetError, match="holds another conversion"):
        conversion.convert(units[:2], wanted, decode)


def test_damaged_recordings_give_what_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    robot = robot_file(tmp_path)
    cut = make_bag(tmp_path / "cut", 4.0)
    file = next(cut.glob("*.mcap"))
    (cut / "metadata.yaml").unlink()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    deaf = make_bag(tmp_path / "deaf", 1.0, commands=False)
    words = ["convert", str(cut), str(deaf), "--robot", str(robot), "--out", str(tmp_path / "set")]
    assert main([*words, "--json", str(tmp_path / "set.json")]) == 1
    said = capsys.readouterr()
    figures = json.loads((tmp_path / "set.json").read_text())
    assert said.out.startswith("1 episode, ") and said.out.count("\n") == 1
    assert figures["sources"][0]["episodes"] == 1 and figures["sources"][0]["problems"]
    assert 10 < figures["sources"][0]["frames"] < 110
    assert figures["sources"][1]["episodes"] == 0 and "no frames: nothing usable was received of command." in said.err
    assert main(["convert", str(deaf), "--robot", str(robot), "--out", str(tmp_path / "none")]) == 2
    assert "no episode could be made" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "is no recording"), (["one", "--fps", "0"], "expected 1 to 1000"),
        (["one", "--max-gap", "nan"], "above zero"), (["one", "--jobs", "0"], "1 to 256"),
        ([], "no source is given"), (["one", "--json", "no/where/x.json"], "does not exist"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_bag(tmp_path / "one", 0.5)
    robot_file(tmp_path)
    assert main(["convert", "--robot", "tiny.yaml", "--out", "set", *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    assert main(["convert", "one", "--robot", "tiny.yaml", "--out", "full"]) == 2
    assert (tmp_path / "full" / "thesis.txt").read_text() == "precious"


def no_room() -> None:
    """Files of at most 20 kB, as if the disk were full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


@pytest.mark.parametrize("images", ["png", "video"])
def test_a_full_disk_is_a_sentence_and_the_command_goes_on_later(tmp_path: Path, images: str) -> None:
    robot = robot_file(tmp_path)
    for k in range(2):
        make_bag(tmp_path / "bags" / f"bag{k}", 1.0 + 2 * k, seed=k)
    words = ["convert", str(tmp_path / "bags"), "--robot", str(robot), "--out", str(tmp_path / "set"), "--images", images]
    command = [sys.executable, "-m", "flow_policy_ros", *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), "PYTHONDONTWRITEBYTECODE": "1"}
    full = subprocess.run(command, capture_output=True, text=True, env=environment, preexec_fn=no_room)
    assert full.returncode == 2, full.stderr
    assert "the same command goes on where it stopped" in " ".join(full.stderr.split())
    assert not (tmp_path / "set" / "meta" / "info.json").exists()
    assert main(words) == 0
    assert len(open_dataset(tmp_path / "set").episodes) == 2


def test_a_killed_run_leaves_nobody_behind_and_can_be_taken_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    robot = robot_file(tmp_path)
    for k in range(3):
        make_bag(tmp_path / "bags" / f"bag{k}", 8.0 if k else 0.5, seed=k)
    words = ["convert", str(tmp_path / "bags"), "--robot", str(robot), "--out", str(tmp_path / "set"), "--fps", "200"]
    words += ["--jobs", "2"]
    command = [sys.executable, "-m", "flow_policy_ros", *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        wait_for(lambda: any((tmp_path / "set").glob(".conversion/*/.episode*")))
        assert main(words) == 2
        assert "another conversion is working in" in capsys.readouterr().err
        workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    finally:
        process.kill()
        process.wait()
    assert len(workers) >= 2
    wait_for(lambda: not any(alive(pid) for pid in workers))
    assert not (tmp_path / "set" / "meta").exists()
    assert main(words) == 0
    assert len(open_dataset(tmp_path / "set").episodes) == 3


def alive(pid: int) -> bool:
    """Not gone, nor only waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited for a minute")


def test_episodes_become_a_dataset_and_episodes_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    count, tick = 120, 20 * MS
    stamps = T0 + tick * np.arange(count, dtype=np.int64)
    position, label = rng.normal(size=(2, count, 3))
    seen = rng.normal(size=(30, 2, 4)).astype(np.float32)
    streams = {"det": (stamps[::4] - 5 * MS, seen)}
    made = Episode("push", 7, False, tick, stamps, JOINTS, position, label, label, streams, {}, "tiny")
    (tmp_path / "episodes").mkdir()
    made.save(tmp_path / "episodes" / "e.npz")
    robot = robot_file(tmp_path)
    figures = run(robot, tmp_path / "set", tmp_path / "episodes")
    assert (figures["fps"], figures["frames"]) == (50, count)
    run(robot, tmp_path / "back", tmp_path / "set", "--to", "episodes")
    back = Episode.load(tmp_path / "back" / "set_000000.npz")
    assert (back.task, back.seed, back.success, back.dt_ns, back.joints) == ("push", 7, False, tick, JOINTS)
    assert np.array_equal(back.stamps, stamps)
    assert np.array_equal(back.position, position.astype(np.float32)) and np.array_equal(back.label, label.astype(np.float32))
    assert np.array_equal(back.streams["det"][0], stamps[::4] - 5 * MS) and np.array_equal(back.streams["det"][1], seen)


def test_recordings_in_files_become_a_dataset(tmp_path: Path) -> None:
    robot = robot_file(tmp_path)
    run(robot, tmp_path / "set", make_bag(tmp_path / "one"), "--images", "png")
    (recording,) = lerobot_recordings(tmp_path / "set")
    (tmp_path / "files").mkdir()
    recording.save(tmp_path / "files" / "r.npz")
    run(robot, tmp_path / "again", tmp_path / "files")
    for a, b in zip(every_frame(open_dataset(tmp_path / "set")), every_frame(open_dataset(tmp_path / "again")), strict=True):
        assert a.stamp == b.stamp and np.array_equal(a.state, b.state) and np.array_equal(a.action, b.action)
        assert np.array_equal(a.features["det"], b.features["det"]) and a.ages["det"] == b.ages["det"]


def test_joints_are_matched_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """LeRobot's drivers write ``a.pos``; other names need a map, values without names an order."""
    run(robot_file(tmp_path), tmp_path / "set", make_bag(tmp_path / "one", 1.0, camera=False))
    info = tmp_path / "set/meta/info.json"
    text = info.read_text()
    content = json.loads(text)
    for name, names in (("observation.state", ["c.pos", "b.pos", "a.pos"]), ("action", {"motors": ["c", "b", "a"]})):
        content["features"][name]["names"] = names
    info.write_text(json.dumps(content))
    run(robot_file(tmp_path), tmp_path / "again", tmp_path / "set")
    for a, b in zip(every_frame(open_dataset(tmp_path / "set")), every_frame(open_dataset(tmp_path / "again")), strict=True):
        assert np.array_equal(a.state[::-1], b.state) and np.array_equal(a.action[::-1], b.action)
    content["features"]["observation.state"]["names"] = content["features"]["action"]["names"] = ["q0", "q1", "q2"]
    info.write_text(json.dumps(content))
    words = ["convert", str(tmp_path / "set"), "--robot", str(tmp_path / "tiny.yaml"), "--out"]
    assert main([*words, str(tmp_path / "third")]) == 2
    assert "named ['q0', 'q1', 'q2'], the robot file's joints ['a', 'b', 'c'] are not there" in capsys.readouterr().err
    robot_file(tmp_path, "joint_state_names: {q0: a, q1: b, q2: c}")
    assert main([*words, str(tmp_path / "fourth"), "--to", "bag"]) == 0
    bag = open_bag(tmp_path / "fourth" / "set_000000")
    states = next(iter(bag.messages(["/joint_states"])))
    assert list(bag.decode(states).name) == ["q0", "q1", "q2"]  # so that the robot file's map leads back
    bag.close()


def test_another_rate_is_made_of_a_dataset(tmp_path: Path) -> None:
    robot = robot_file(tmp_path)
    run(robot, tmp_path / "set", make_bag(tmp_path / "one"), "--images", "png", "--fps", 40)
    run(robot, tmp_path / "slow", tmp_path / "set", "--images", "png", "--fps", 10)
    fast, slow = (every_frame(open_dataset(tmp_path / name)) for name in ("set", "slow"))
    for a, b in zip(fast[::4], slow, strict=True):
        assert a.stamp == b.stamp and a.ages == b.ages and np.array_equal(a.action, b.action)
        assert np.array_equal(decode(a.images["front"]), decode(b.images["front"]))


def test_the_outcome_is_a_line_and_a_camera_that_never_was_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    robot, out = robot_file(tmp_path), tmp_path / "set"
    words = ["convert", str(make_bag(tmp_path / "one", 1.0)), "--robot", str(robot), "--out", str(out), "--fps", "20"]
    assert main(words) == 0
    assert re.fullmatch(
        rf"1 episode, \d+ frames at 20 Hz, 3 joints, camera front 96×64, in {re.escape(str(out))} \(\d\.\d MB\)\n",
        capsys.readouterr().out,
    )
    for name in ("two", "three", "four"):
        make_bag(tmp_path / "blind" / name, 1.0, camera=False)
    figures = run(robot, tmp_path / "other", tmp_path / "blind")
    assert figures["problems"] == 0 and figures["cameras"] == {} and figures["episodes"] == 3
    assert [line for line in capsys.readouterr().err.splitlines() if line] == [
        f"note: {tmp_path / 'blind' / 'four'} and 2 others: no images of camera 'front': its topic is not in the recording."
    ]


def test_features_are_offered_for_no_camera(tmp_path: Path) -> None:
    bag = open_bag(make_bag(tmp_path / "one", 1.0))
    robot = load_robot(robot_file(tmp_path))
    lost = replace(robot, cameras=(replace(robot.cameras[0], topic="nowhere"),))
    (problem,) = BagEvents(bag, lost).problems
    assert "/camera/image_raw/compressed" in problem and "features" not in problem
    bag.close()


def test_no_recording_takes_the_place_of_another(tmp_path: Path) -> None:
    """Names that are equal, that another was to get instead, and that are parts of another."""
    for k, name in enumerate(("x/a", "x/a-2", "y/a", "x/run_01", "y/run")):
        make_bag(tmp_path / name, 2.0 + k / 2, camera=False, gap=(0.8, 1.5) if name == "y/run" else (0.0, 0.0))
    bags = [tmp_path / name for name in ("x/a", "x/a-2", "y/a", "y/run", "x/run_01")]
    for to, order in (("episodes", bags), ("bag", bags), ("episodes", bags[::-1])):
        out = tmp_path / f"{to}{bags.index(order[0])}"
        figures = run(robot_file(tmp_path), out, *order, "--to", to, "--max-gap", 0.5)
        assert [source["episodes"] for source in figures["sources"]] == [1 + (path.name == "run") for path in order]
        assert len([path for path in out.iterdir() if path.name != conversion.SUMMARY]) == figures["episodes"] == 6
    names = {path.stem for path in (tmp_path / "episodes0").glob("*.npz")}
    assert names == {"a", "a-2", "a-3", "run", "run_01", "run_01-2"}


def test_what_is_there_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    robot, out = robot_file(tmp_path), tmp_path / "out"
    (out / conversion.WORK).mkdir(parents=True)
    (out / conversion.WORK / "target").write_text("episodes")  # of an unfinished conversion
    (out / "one.npz").write_text("precious")
    bag = make_bag(tmp_path / "one", 1.0, camera=False)
    assert main(["convert", str(bag), "--robot", str(robot), "--out", str(out), "--to", "episodes"]) == 2
    assert "is there already" in capsys.readouterr().err and (out / "one.npz").read_text() == "precious"


def test_recordings_that_differ_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    robot = robot_file(tmp_path)
    bags = [make_bag(tmp_path / "seeing", 1.0), make_bag(tmp_path / "blind", 1.0, camera=False)]
    words = ["convert", *map(str, bags), "--robot", str(robot), "--out", str(tmp_path / "set")]
    assert main([*words, "--json", str(tmp_path / "set.json")]) == 1
    figures = json.loads((tmp_path / "set.json").read_text())
    assert [source["episodes"] for source in figures["sources"]] == [1, 0]
    assert any("an episode is left out, for it has cameras {}" in text for text in figures["sources"][1]["problems"])


@pytest.mark.skipif(not BAGS.is_dir(), reason="the shared recordings are not here")
def test_a_recording_of_a_real_arm_with_a_camera(tmp_path: Path) -> None:
    robot = Path(__file__).parent / "robots_for_bags" / "so101.yaml"
    figures = run(robot, tmp_path / "set", BAGS / "so101-rebag" / "ep4", "--fps", 15)
    dataset = open_dataset(tmp_path / "set")
    assert figures["frames"] == sum(entry.frames for entry in dataset.episodes) > 20 and len(dataset.cameras) >= 1
    assert all(np.isfinite(frame.state).all() for frame in every_frame(dataset))


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="Linux's scheduling")
def test_encoding_leaves_the_scheduling_of_the_process_alone(tmp_path: Path) -> None:
    """The AV1 encoder takes real-time scheduling for every thread where it can."""
    others = set(os.listdir("/proc/self/task")) - {str(threading.get_native_id())}
    with VideoWriter(tmp_path / "a.mp4", 10, 64, 64) as video:
        for k in range(3):
            video.add(np.full((64, 64, 3), 40 * k, np.uint8))
            ours = set(os.listdir("/proc/self/task")) - others
            assert {os.SCHED_FIFO, os.SCHED_RR}.isdisjoint(os.sched_getscheduler(int(thread)) for thread in ours)
    assert os.sched_getscheduler(0) not in (os.SCHED_FIFO, os.SCHED_RR)
