"""``flow_policy bench``: every benchmark runs in a small version and prints the JSON that it promises."""

import json

import numpy as np
import pytest
import torch

from flow_policy_ros.cli.main import main
from flow_policy_ros.data.episodes import Episode
from flow_policy_ros.models.registry import NETWORKS


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_sampling_measures_every_network(tmp_path, capsys):
    command = ["bench", "sampling", "--steps", "1", "4", "--repeats", "3", "--threads", "1", "--backends", "eager"]
    assert main([*command, "--no-opponents", "--json", str(tmp_path / "f.json")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "f.json").read_text())
    rows = printed["rows"]
    assert [(row["name"], row["nfe"]) for row in rows] == [(name, nfe) for name in NETWORKS for nfe in (1, 4)]
    assert all(row["ms_p50"] > 0 and row["ms_p99"] >= row["ms_p50"] and row["parameters"] > 1e5 for row in rows)
    assert all(row["over_least_steps"] == 1.0 if row["steps"] == 1 else row["over_least_steps"] > 1.3 for row in rows)
    assert printed["deep_fusion"]


def test_training_measures_on_the_given_episodes(tmp_path, capsys):
    stamps = 10_000_000 * np.arange(1, 101, dtype=np.int64)
    motion = np.random.default_rng(0).standard_normal((100, 2)).cumsum(axis=0)
    Episode("door", 0, True, 10_000_000, stamps, ("wrist", "thumb"), motion, motion, motion).save(tmp_path / "0.npz")
    command = ["bench", "training", "--data", str(tmp_path), "--networks", "residual_mlp", "unet1d", "--steps", "2",
               "--batch", "16", "--streams"]  # fmt: skip
    assert main(command) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["name"] for row in rows] == ["residual_mlp", "unet1d"]
    assert all(row["samples_per_s"] > 0 and row["batch"] == 16 for row in rows)


def test_adroit_counts_successes_and_keeps_the_rows_it_has(tmp_path, capsys):
    file = tmp_path / "f.json"
    command = ["bench", "adroit", "--checkpoints", "checkpoints/adroit_door_state", "--episodes", "1", "--latency", "none",
               "--json", str(file), "--steps"]  # fmt: skip
    assert main([*command, "1"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["successes"] == 1 and row["success_rate"] == 1.0 and row["network"] == "residual_mlp"
    file.write_text(json.dumps({"rows": [row | {"mark": "kept"}]}))
    assert main([*command, "1", "2"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[0]["mark"] == "kept" and [row["steps"] for row in rows] == [1, 2]


def test_flow_runs_beside_torchcfm(capsys):
    pytest.importorskip("torchcfm", reason="torchcfm, the opponent, is not installed")
    assert main(["bench", "flow", "--networks", "residual_mlp", "--steps", "30", "--seeds", "1", "--samples", "300"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["coupling"] for row in rows] == ["independent", "optimal_transport"]
    assert rows[0]["energy_ratio"] <= 1.05 and rows[0]["energy_ours"] > 0


def test_unknown_benchmark_is_refused(capsys):
    assert main(["bench", "cooking"]) == 2
    assert "known: sampling, training, adroit, instructed, latency, " in capsys.readouterr().err
    assert main(["bench", "--help"]) == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["sampling", "--repeats", "0"], "--repeats is 0, expected at least 1"),
        (["sampling", "--json", "nowhere/f.json"], "the folder nowhere does not exist"),
        (["training", "--data", "nowhere", "--batch", "0"], "--batch is 0, expected at least 1"),
        (["adroit", "--checkpoints", "checkpoints/adroit_door_state", "--episodes", "0"], "--episodes is 0, expected"),
        (["adroit", "--checkpoints", "nowhere", "--json", "package.xml"], "package.xml holds no rows of this benchmark"),
        (["flow", "--seeds", "0"], "--seeds is 0, expected at least 1"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(command, message, capsys):
    assert main(["bench", *command]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out
