"""``flow_policy bench sampling`` and ``bench scaling``: opponents compute what we compute, limits and exponents are right."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from flow_policy_ros.cli import bench_training
from flow_policy_ros.cli.bench_sampling import loaded, untrained
from flow_policy_ros.cli.bench_scaling import AXES, as_expected, exponent
from flow_policy_ros.cli.main import main
from flow_policy_ros.cli.sampling_limits import Machine, Work, counted, limits_ms
from flow_policy_ros.cli.sampling_opponents import lerobot_rows, torchdiffeq_chunk, torchdiffeq_ways
from flow_policy_ros.evaluation.scaling_plot import svg
from flow_policy_ros.flow.solvers import make_solver
from flow_policy_ros.policy.deployed import empty_observation
from flow_policy_ros.resources import checkpoint


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_torchdiffeq_integrates_the_same_velocity():
    pytest.importorskip("torchdiffeq", reason="torchdiffeq, the opponent, is not installed")
    torch.manual_seed(0)
    policy = untrained(("residual_mlp",))["residual_mlp"]
    network = policy.model.network
    with torch.no_grad():
        for parameter in network.parameters():  # the last layer begins at zero
            parameter.add_(0.02 * torch.randn_like(parameter))
    seen, noise = policy.conditioning(empty_observation(policy.contract)), torch.randn(1, 16, 28)
    cache = network.condition(seen)
    expected = make_solver("euler").solve(lambda x, t: network.velocity(x, t, cache), noise, 4).x
    assert (expected - noise).abs().max() > 0.1
    with torch.no_grad():
        fine = make_solver("rk4").solve(lambda x, t: network.velocity(x, t, cache), noise, 50).x
    ways = torchdiffeq_ways()
    for way in ways[:2]:
        given, nfe = torchdiffeq_chunk(way, network, seen, noise, 4)()
        assert nfe == 4
        torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)
    given, nfe = torchdiffeq_chunk(ways[2], network, seen, noise, 1)()
    assert nfe > 6
    assert (given - fine).abs().max() < 0.5 * (expected - fine).abs().max()


def test_the_whole_run_has_ours_theirs_and_limits(tmp_path, capsys):
    file = tmp_path / "f.json"
    command = ["bench", "sampling", "--networks", "residual_mlp", "--backends", "eager", "--steps", "1", "4", "--repeats", "3",
               "--threads", "1", "2", "--vlms", "none", "--json", str(file)]  # fmt: skip
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(file.read_text()) and found["left_out"] == {} and "deep_fusion" not in found
    assert [(row["threads"], row["steps"], row["nfe"]) for row in found["rows"]] == [(1, 1, 1), (1, 4, 4), (2, 1, 1), (2, 4, 4)]
    for row in found["rows"]:
        assert row["ms_p99"] >= row["ms_p50"] > 0 and row["over_eager"] == 1.0
        assert row["limit_ms"] == max(row["weights_ms"], row["operations_ms"]) > 0
        assert len(row["faster_than"]) == (5 if torchdiffeq_ways() else 0)
    assert set(found["machine"]) == {"1", "2"} and all(m["memory_gb_s"] > 0.1 for m in found["machine"].values())
    assert {row["network"] for row in found["opponents"]} <= {"residual_mlp"}


def test_a_backend_that_is_not_there_is_left_out_with_the_reason(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command = ["bench", "sampling", "--networks", "unet1d", "--backends", "compiled", "eager", "--steps", "1", "--repeats", "1",
               "--threads", "1", "--no-opponents", "--vlms", "none", "--lerobot", "nowhere"]  # fmt: skip
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["backend"] for row in found["rows"]] == ["eager"] and found["opponents"] == []
    assert "--lerobot nowhere: " in found["left_out"]["lerobot"]
    assert "no C++ compiler (no-such-compiler)" in found["left_out"]["unet1d, compiled"]


def test_work_is_the_weights_read_and_the_operations():
    first, second = torch.nn.Linear(8, 16), torch.nn.Linear(16, 4, bias=False)
    both, x = torch.nn.ModuleList([first, second]), torch.randn(2, 8)
    assert counted(both, lambda: first(x)) == Work(4 * (8 * 16 + 16), 2 * 2 * 8 * 16)
    assert counted(both, lambda: second(first(x))) == Work(4 * (8 * 16 + 16 + 16 * 4), 2 * 2 * (8 * 16 + 16 * 4))
    machine = Machine(memory_bytes_s=1e9, operations_s=1e9)
    limits = limits_ms(Work(1_000_000, 0), Work(2_000_000, 1_000_000), 10, machine, 2e9)
    assert limits == {"memory_ms": 21.0, "weights_ms": 10.5, "operations_ms": 10.0, "limit_ms": 10.5}


def test_an_environment_without_lerobot_is_named():
    with pytest.raises(ValueError, match=r"--lerobot .*No module named 'lerobot'; see benchmarks/lerobot_sampling.py"):
        lerobot_rows(Path(sys.executable), (1,), 1)
    with pytest.raises(ValueError, match=r"--lerobot nowhere: "):
        lerobot_rows(Path("nowhere"), (1,), 1)


@pytest.mark.slow
@pytest.mark.skipif("FLOW_POLICY_LEROBOT" not in os.environ, reason="FLOW_POLICY_LEROBOT=PYTHON, which has LeRobot, runs it")
def test_lerobot_itself_is_measured():
    rows = lerobot_rows(Path(os.environ["FLOW_POLICY_LEROBOT"]), (1,), 2)
    assert [(row["steps"], row["threads"]) for row in rows] == [(10, 1), (100, 1)]
    assert all(16e6 < row["parameters"] < 19e6 and row["ms_p50"] > 1 for row in rows)


def test_exponents_are_those_of_the_growth():
    sizes = np.array([16.0, 32.0, 64.0, 128.0])
    assert exponent(sizes, 3.0 * sizes) == pytest.approx(1.0)
    assert exponent(sizes, 0.1 * sizes**2) == pytest.approx(2.0)
    assert 0.0 < exponent(sizes, 50.0 + sizes) < 0.7
    assert as_expected(1.0, 1.0, True) and not as_expected(2.0, 2.0, True) and as_expected(2.0, 2.0, False)
    assert not as_expected(0.9, 1.6, True)  # a fixed cost hid it at first


def test_scaling_measures_and_draws(tmp_path, capsys):
    plot = tmp_path / "p.svg"
    command = ["bench", "scaling", "--axes", "horizon", "--repeats", "2", "--plot", str(plot)]
    assert main(command) in (0, 1)  # which one depends on what else the machine does
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["network"] for row in rows] == list(AXES["horizon"].networks)
    assert [row["linear"] for row in rows] == [True, True, False]
    assert all(row["sizes"] == [16, 32, 64, 128] and min(row["ms"]) > 0 for row in rows)
    assert plot.read_text().count("<circle") == 12 and "exponent" in plot.read_text()
    assert svg(rows, "a < b").count("&lt;") == 1


def test_checkpoints_that_ship_go_by_their_names(tmp_path):
    found = loaded((Path("adroit_door_state_h48"),))
    assert list(found) == ["adroit_door_state_h48"] and found["adroit_door_state_h48"].contract.horizon == 48
    assert loaded((checkpoint("adroit_door_state_h48"),)).keys() == {str(checkpoint("adroit_door_state_h48"))}
    options = bench_training.Arguments(tmp_path, checkpoints=(Path("adroit_door_state_h48"),))
    assert [row[:2] for row in bench_training.architectures(options)] == [("adroit_door_state_h48", "unet1d")]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["sampling", "--checkpoints", "adroit_dor"], "checkpoint 'adroit_dor' does not exist"),
        (["sampling", "--backends", "eager", "tensorrt"], "--backends names tensorrt, expected some of: eager, onnx, openvino"),
        (["sampling", "--networks", "rnn"], "--networks names rnn, expected some of"),
        (["sampling", "--threads", "0"], "--threads is 0, expected at least 1"),
        (["scaling", "--axes", "depth"], "--axes names depth, expected some of: horizon"),
        (["scaling", "--plot", "p.png"], "expected a file that ends in .svg"),
    ],
)
def test_what_cannot_be_is_named(command, message, capsys):
    assert main(["bench", *command]) == 2
    assert message in capsys.readouterr().err
