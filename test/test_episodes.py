"""Episode files: what is written comes back, and what is wrong is named."""

import json

import numpy as np
import pytest

from flow_policy_ros.data.episodes import Episode, EpisodeError, load_episodes, load_extractors


def make_episode(ticks: int = 7, **changes: object) -> Episode:
    generator = np.random.default_rng(3)
    stamps = 5_000_000_000 + 10_000_000 * np.arange(ticks, dtype=np.int64)
    content = {
        "task": "door",
        "seed": 11,
        "success": True,
        "dt_ns": 10_000_000,
        "stamps": stamps,
        "joints": ("wrist", "thumb"),
        "position": generator.standard_normal((ticks, 2)),
        "commands": generator.standard_normal((ticks, 2)),
        "label": generator.standard_normal((ticks, 2)),
        "streams": {"detector": (stamps[::3], generator.standard_normal((len(stamps[::3]), 4, 3)).astype(np.float32))},
        "sim_state": {"qpos": generator.standard_normal((ticks, 5))},
        "robot": "adroit_door",
        "instruction": "open the door",
    }
    return Episode(**(content | changes))


def test_round_trip_is_exact(tmp_path):
    episode = make_episode()
    episode.save(tmp_path / "episode.npz")
    back = load_episodes(tmp_path)
    assert len(back) == 1
    for name in ("task", "seed", "success", "dt_ns", "joints", "robot", "instruction"):
        assert getattr(back[0], name) == getattr(episode, name)
    for name in ("stamps", "position", "commands", "label"):
        np.testing.assert_array_equal(getattr(back[0], name), getattr(episode, name))
        assert getattr(back[0], name).dtype == getattr(episode, name).dtype
    for ours, theirs in zip(episode.streams["detector"], back[0].streams["detector"], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(back[0].sim_state["qpos"], episode.sim_state["qpos"])
    assert not list(tmp_path.glob("*.partial"))


def test_older_files_have_no_instruction(tmp_path):
    make_episode().save(tmp_path / "episode.npz")
    with np.load(tmp_path / "episode.npz") as archive:
        content = {name: archive[name] for name in archive.files if name != "instruction"}
    np.savez(tmp_path / "episode.npz", **content)
    assert Episode.load(tmp_path / "episode.npz").instruction == ""


@pytest.mark.parametrize("name", ["position", "commands", "label"])
def test_wrong_shape_and_nan_are_named(name):
    with pytest.raises(EpisodeError, match=rf"{name} has shape \(7, 3\), expected \(7, 2\)"):
        make_episode(**{name: np.zeros((7, 3))})
    with pytest.raises(EpisodeError, match=f"{name} holds NaN"):
        make_episode(**{name: np.full((7, 2), np.nan)})


def test_uneven_ticks_are_refused():
    with pytest.raises(EpisodeError, match="10000000 ns apart"):
        make_episode(stamps=np.array([0, 1, 2, 3, 4, 5, 6], dtype=np.int64))


def test_stream_that_does_not_ascend_is_refused():
    stamps = np.array([5, 5], dtype=np.int64)
    with pytest.raises(EpisodeError, match="stream 'detector'"):
        make_episode(streams={"detector": (stamps, np.zeros((2, 1, 1), dtype=np.float32))})


def test_bad_files_are_named(tmp_path):
    with pytest.raises(EpisodeError, match="holds no episodes"):
        load_episodes(tmp_path)
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(EpisodeError, match=r"torn\.npz"):
        load_episodes(tmp_path)
    np.savez(tmp_path / "torn.npz", format=1)
    with pytest.raises(EpisodeError, match=r"torn\.npz lacks the array"):
        load_episodes(tmp_path)
    np.savez(tmp_path / "torn.npz", format=1, task=np.array([{"code": 1}], dtype=object))
    with pytest.raises(EpisodeError, match=r"torn\.npz.*pickle"):
        load_episodes(tmp_path)


def test_extractors_are_optional_but_checked(tmp_path):
    assert load_extractors(tmp_path) == {}
    (tmp_path / "extractor.json").write_text(json.dumps({"detector": {"model": "yolo"}}))
    assert load_extractors(tmp_path)["detector"]["model"] == "yolo"
    (tmp_path / "extractor.json").write_text("[1]")
    with pytest.raises(EpisodeError, match="object per stream"):
        load_extractors(tmp_path)
