"""The report: a page that opens offline, a video that players accept, data that are the records'."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from flow_policy_ros.evaluation.record import EpisodeRecord
from flow_policy_ros.evaluation.report import write_report
from flow_policy_ros.evaluation.video import STRIP, WIDTH, annotate, frame_rate, state_at, write_video
from flow_policy_ros.runtime.types import Chunk

JOINTS = ("wrist", "finger_a", "finger_b")
TICKS = 40
SUMMARY = {
    "task": "door",
    "observation": "camera",
    "success_rate": 0.5,
    "successes": 1,
    "episodes": 2,
    "strict_success_rate": 0.0,
    "strict_successes": 0,
    "strict_steps": 25,
    "seed": 7,
    "wall_s": 1.5,
    "realtime_factor": 0.53,
    "latency_ms": {"perception": {"p50": 12.0, "p99": 20.0}, "inference": {"p50": 8.0, "p99": 11.0}},
    "latency_profile": {"mode": "none"},
    "interventions": {"position": {}, "velocity": {"finger_a": 3}, "acceleration": {"finger_a": 2, "wrist": 9}},
    "intervention_rate": 0.25,
    "joint_intervention_rate": 0.05,
    "ticks": 80,
    "ticks_active": 76,
    "chunks": 10, "chunks_slowed": 0,
    "stale": 1,
    "faults": {},
    "rejections": {},
    "trajectory_sha256": "ab" * 32,
}


def record(seed: int, success: bool) -> EpisodeRecord:
    rng = np.random.default_rng(seed)
    stamps = 1_000_000_000 + 10_000_000 * np.arange(TICKS, dtype=np.int64)
    time = np.arange(TICKS)[:, None] * 0.01
    position = np.sin(6 * time + np.arange(3))
    command = position + 0.05
    command[0] = np.nan
    chunks = [
        Chunk(int(stamps[k]), 10_000_000, JOINTS[::-1], position[k : k + 16, ::-1] + 0.02 * rng.normal(size=(16, 3)))
        for k in range(0, 24, 8)
    ]
    frames = [(int(stamps[k]), rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)) for k in range(0, TICKS, 8)]
    states = ["starting"] + ["active"] * 29 + ["stopping"] * 5 + ["holding"] * 5
    groups = {"arm": ("wrist",), "fingers": ("finger_a", "finger_b")}
    solved = int(stamps[20]) if success else None
    return EpisodeRecord(
        seed, success, 12 * success, JOINTS, stamps, position, command, states, chunks, frames, groups, solved
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report")
    write_report(path, [record(7, True), record(8, False)], SUMMARY)
    return path


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_summary_is_written_as_given(folder: Path) -> None:
    assert json.loads((folder / "summary.json").read_text()) == SUMMARY


def test_page_needs_no_network(folder: Path) -> None:
    page = (folder / "index.html").read_text()
    own = page.replace(re.search(r"<script>(.*?)</script>", page, re.S)[1], "")  # plotly's own text names addresses
    assert "Plotly.newPlot" in own
    assert re.findall(r"(?:src|href)\s*=\s*[\"'](?!data:)", own) == []
    assert "http" not in re.sub(r"base64,[^\"]*", "", own)


def test_page_holds_the_records(folder: Path) -> None:
    data = data_of((folder / "index.html").read_text())
    first = record(7, True)
    episode = data["episodes"][0]
    assert [e["success"] for e in data["episodes"]] == [True, False]
    assert episode["time"][:3] == [0.0, 0.01, 0.02]
    assert episode["command"]["wrist"][0] is None  # NaN: nothing was sent
    assert episode["position"]["finger_b"] == pytest.approx(first.position[:, 2], abs=6e-5)
    # Columns of a chunk go by its own names, which here are in another order than the record's.
    assert episode["chunks"][1]["position"]["wrist"] == pytest.approx(first.chunks[1].positions[:, 2], abs=6e-5)
    assert episode["chunks"][1]["time"][0] == pytest.approx(0.08)
    assert data["groups"] == {"arm": ["wrist"], "fingers": ["finger_a", "finger_b"]}


def test_text_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    bad = "</script><script>alert(1)</script>"
    renamed = replace(record(7, True), joints=(bad, *JOINTS[1:]), groups={}, frames=[], chunks=[])
    page = write_report(tmp_path, [renamed], {**SUMMARY, "task": bad}).read_text()
    assert bad not in page
    assert bad in data_of(page)["groups"]["joints"]


def test_video_is_what_browsers_play(folder: Path) -> None:
    probe = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", folder / "video.mp4"], capture_output=True, text=True
    ).stderr
    assert "h264" in probe and "yuv420p" in probe
    height = round(64 * WIDTH / 96 / 2) * 2 + STRIP
    assert f"{WIDTH}x{height}" in probe
    count, _ = imageio_ffmpeg.count_frames_and_secs(str(folder / "video.mp4"))
    held = round(frame_rate([record(7, True)]))
    assert count == 2 * (5 + held)  # five frames an episode, the last one held


def test_without_an_encoder_a_gif_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_encoder(*args: object, **kwargs: object) -> None:
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(imageio_ffmpeg, "write_frames", no_encoder)
    page = write_report(tmp_path, [record(7, True)], SUMMARY)
    assert not (tmp_path / "video.mp4").exists()
    with Image.open(tmp_path / "video.gif") as film:
        assert film.is_animated
    assert "data:image/gif;base64," in page.read_text()


def test_without_frames_there_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"of an earlier run")
    page = write_report(tmp_path, [replace(record(7, True), frames=[])], SUMMARY).read_text()
    assert write_video(tmp_path, []) is None
    assert not (tmp_path / "video.mp4").exists()
    assert "No pictures were recorded" in page


def test_success_is_shown_from_its_instant_on() -> None:
    episode = record(7, True)
    frame = np.zeros((64, 96, 3), dtype=np.uint8)
    before = annotate(episode, 1, 2, int(episode.stamps[16]), frame)
    after = annotate(episode, 1, 2, int(episode.stamps[24]), frame)
    assert not before[:-STRIP].any()
    assert after[1, 1].tolist() == [0x43, 0xA0, 0x47]  # the frame around the picture


def test_state_of_an_instant_is_that_of_the_last_tick() -> None:
    episode = record(7, True)
    assert state_at(episode, int(episode.stamps[0])) == "starting"
    assert state_at(episode, int(episode.stamps[30]) + 5) == "stopping"
    assert state_at(episode, int(episode.stamps[0]) - 1) == "unknown"
