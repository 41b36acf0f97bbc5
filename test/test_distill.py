"""Distillation end to end on a flow with two modes: pairs, resumption, one-step error, straightness, modes, report."""

import itertools
import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flow_policy_ros.cli.main import main
from flow_policy_ros.data.episodes import Episode
from flow_policy_ros.policy.checkpoint import load_checkpoint
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.runtime.types import Observation
from flow_policy_ros.training import distill as distill_module
from flow_policy_ros.training import pairs as pairs_module
from flow_policy_ros.training import paths as paths_module
from flow_policy_ros.training.config import DistillConfig, TrainConfig, TrainError
from flow_policy_ros.training.distill import DEPLOYED_STEPS, Teacher, check_stored, distill
from flow_policy_ros.training.distill_report import coverage
from flow_policy_ros.training.pairs import make_pairs, read_info, read_pairs, read_shard
from flow_policy_ros.training.trainer import train

SIZES = ("width=64", "blocks=2", "expansion=2", "time_width=32", "observation_width=32")
LONG = ["--count", "5000", "--rectify", "300", "--steps", "300", "--batch", "128", "--lr", "2e-3", "--warmup", "20",
        "--ema-decay", "0.98"]  # fmt: skip


def two_modes(folder):
    """64 episodes of two joints held at plus or minus a size; the size is seen, the sign is not."""
    folder.mkdir()
    stamps = 10_000_000 * np.arange(1, 13, dtype=np.int64)
    generator = np.random.default_rng(0)
    for seed in range(64):
        sign, size = (1.0, -1.0)[seed % 2], (0.5, 1.0)[seed // 2 % 2]
        label = sign * size + 0.02 * generator.standard_normal((12, 2))
        position = 0.01 * generator.standard_normal((12, 2))
        marker = np.full((12, 1, 1), size, dtype=np.float32)
        Episode("door", seed, True, 10_000_000, stamps, ("wrist", "thumb"), position, label, label,
                {"marker": (stamps, marker)}).save(folder / f"{seed:02d}.npz")  # fmt: skip
    return folder


def teach(data, out, steps, **more):
    """A teacher of ``steps`` steps."""
    base = {"streams": ("marker",), "horizon": 4, "chunk_dt": 0.01, "batch": 128, "warmup": 20, "lr": 4e-3,
            "ema_decay": 0.98, "validation": 0.125, "sizes": SIZES}  # fmt: skip
    train(TrainConfig(data=(data,), out=out, steps=steps, **base | more))
    return out


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_modes")
    return teach(two_modes(folder / "data"), folder / "teacher", 300)


@pytest.fixture(scope="module")
def student(teacher):
    """The folder that the command line wrote; two shards of pairs, the second one short."""
    out = teacher.parent / "student"
    command = ["distill", "--teacher", str(teacher), "--out", str(out), "--json", str(teacher.parent / "figures.json")]
    assert main([*command, *LONG]) == 0
    return out


def in_small(patch):
    """Shards of 64 pairs, path gates on 8 samples."""
    for module in (pairs_module, distill_module):
        patch.setattr(module, "SHARD", 64)
    patch.setattr(paths_module, "SAMPLES", 8)


@pytest.fixture
def small(monkeypatch):
    in_small(monkeypatch)


def short(teacher, out, **more):
    """Four shards of 64 (with ``small``) and six optimiser steps in each stage."""
    return DistillConfig(
        teacher=teacher, out=out, **{"count": 200, "rectify": 6, "steps": 6, "batch": 32, "warmup": 2, "save_every": 2} | more
    )


def interrupt(call):
    """An ``interrupted`` that says yes at this call, counted from 0."""
    calls = itertools.count()
    return lambda: next(calls) == call


def held_out_pairs(student):
    info = read_info(student / "pairs")
    return read_pairs(student / "pairs", info).take(slice(info.count // 10))


@torch.inference_mode()
def chunk_error(model, pairs, steps):
    return (model.sample(pairs.observation, steps, pairs.noise).x - pairs.chunk).square().mean().sqrt().item()


# What a distilled student is.


def test_pairs_on_disk_are_the_teachers_own_chunks(teacher, student):
    info = read_info(student / "pairs")
    assert (info.count, info.shards, info.steps, info.solver, info.direction) == (5000, 2, 10, "euler", "noise to data")
    pairs = read_pairs(student / "pairs", info)
    assert pairs.noise.shape == pairs.chunk.shape == (5000, 4, 2) and pairs.noise.dtype == pairs.chunk.dtype == torch.float32
    assert abs(pairs.noise.mean()) < 0.03 and abs(pairs.noise.std() - 1) < 0.02
    assert len(pairs.noise.flatten(1).unique(dim=0)) == 5000, "each pair has its own noise"
    assert chunk_error(load_checkpoint(teacher).model, pairs.take(slice(4000, None)), 10) < 1e-5
    assert chunk_error(load_checkpoint(teacher).model, pairs.take(slice(4000, None)), 9) > 1e-2
    sizes = pairs.observation.tokens[:, 0, 0]
    assert 0.35 < (sizes > 0).float().mean() < 0.65, "of both observations"


def test_one_step_of_the_student_is_near_ten_of_the_teacher(teacher, student):
    validation = load_checkpoint(student).training["validation"]
    assert list(validation) == [f"chunk_error_{steps}" for steps in DEPLOYED_STEPS]
    pairs = held_out_pairs(student)
    own = chunk_error(load_checkpoint(teacher).model, pairs, 1)
    assert own > 0.4, "the teacher's flow is curved: one step of it is no sample"
    assert validation["chunk_error_1"] == pytest.approx(chunk_error(load_checkpoint(student).model, pairs, 1), rel=1e-3)
    assert validation["chunk_error_1"] < 0.4 * own
    first_stage = chunk_error(load_checkpoint(student / "rectified").model, pairs, 1)
    assert validation["chunk_error_1"] < 0.8 * first_stage < 0.8 * 0.6 * own


def test_the_flow_becomes_straight(student):
    bent = json.loads((student / "distillation.json").read_text())["report"]["straightness"]
    assert bent["teacher"] > 0.05 and bent["student"] < 0.2 * bent["teacher"]


@pytest.mark.parametrize("size", [0.5, 1.0])
def test_one_step_keeps_both_modes(student, size):
    """The deployed student, one Euler step, 400 stamps of one and the same observation."""
    policy = FlowPolicy.load(student)
    seen = {"marker": np.full((1, 1), size, dtype=np.float32)}
    sampled = [policy.sample(Observation(10_000_000 * k, np.zeros(2), seen), 1, 0) for k in range(400)]
    assert {nfe for _, nfe in sampled} == {1}
    chunks = np.stack([chunk for chunk, _ in sampled]) / size
    modes = [(np.abs(chunks - sign) < 0.35).all(axis=(1, 2)).mean() for sign in (1, -1)]
    assert sum(modes) > 0.7, "a sample is near one of the modes"
    assert all(0.3 < share / sum(modes) < 0.7 for share in modes)


def test_report_and_files(teacher, student):
    content = json.loads((student / "distillation.json").read_text())
    assert content == json.loads((teacher.parent / "figures.json").read_text())
    assert content["steps"] == 300 and content["finished"] and content["checkpoint"] == str(student)
    assert content["samples_per_s"] > 0 and np.isfinite(content["loss"])
    assert {gate["passed"] for gate in content["gates"]} == {True}
    assert {gate["name"] for gate in content["gates"]} >= {"time_grid", "velocity", "noise_padding", "regenerate", "swapped_pairs"}
    report, steps = content["report"], [str(count) for count in DEPLOYED_STEPS]
    assert set(report) == {"observations", "chunk_error", "straightness", "coverage", "latency_ms", "latency_ratio"}
    assert list(report["chunk_error"]) == steps and set(report["straightness"]) == {"teacher", "student"}
    assert list(report["coverage"]) == list(report["latency_ms"]) == ["teacher", *steps]
    assert report["observations"] == 96, "the held-out eighth of 64 episodes of 12 ticks"
    # In rad: the actions' deviation is about 0.8 of it.
    validation = content["validation"]["chunk_error_1"]
    assert 0.4 * validation < report["chunk_error"]["1"] < 1.2 * validation
    assert report["coverage"]["teacher"] > 0.9 > report["coverage"]["1"] > 0.2
    assert report["latency_ratio"] == pytest.approx(report["latency_ms"]["teacher"] / report["latency_ms"]["1"])

    readme = (student / "README.md").read_text()
    assert "One-step flow policy for adroit_door" in readme and f"flow_policy distill --teacher {teacher}" in readme
    assert "10 euler steps; 5000 pairs" in readme and "sample it with **1 solver step**" in readme
    training = json.loads((student / "config.json").read_text())["training"]
    taught = json.loads((teacher / "config.json").read_text())
    assert training["teacher"]["weights_sha256"] == taught["weights_sha256"] != ""
    assert training["teacher"]["training"] == taught["training"] and training["config"]["rectify"] == 300
    contracts = [json.loads((folder / "contract.json").read_text()) for folder in (teacher, student)]
    assert contracts[0] == contracts[1]
    assert not [p for p in student.rglob("*") if p.suffix in (".pt", ".pkl", ".bin", ".partial")]


def test_a_student_can_teach(student, small):
    """Reflow is repeated with the student as teacher: its observations are those of the first teacher."""
    again = distill(short(student, student.parent / "again"))
    assert again.finished and read_info(student.parent / "again" / "pairs").weights_sha256 != ""
    assert Teacher.load(student.parent / "again").config == Teacher.load(student.parent / "teacher").config


# Interruptions.


@pytest.fixture(scope="module")
def uninterrupted(teacher):
    with pytest.MonkeyPatch.context() as patch:
        in_small(patch)
        assert distill(short(teacher, teacher.parent / "straight")).finished
    return teacher.parent / "straight"


def require_equal(ours, theirs):
    """Every tensor that a run writes, bit for bit."""
    paths = sorted(path.relative_to(theirs) for path in theirs.rglob("*.safetensors"))
    assert paths == sorted(path.relative_to(ours) for path in ours.rglob("*.safetensors")) and len(paths) == 8
    for path in paths:
        mine, other = load_file(ours / path), load_file(theirs / path)
        assert mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine), path


@pytest.mark.parametrize(
    ("call", "shards", "rectified", "steps"),
    [(1, 2, None, None), (3 + 1, 4, 0, None), (4 + 3, 4, 3, None), (4 + 6 + 2, 4, 6, 2)],
    ids=["pairs", "begin of the first stage", "first stage", "second stage"],
)
def test_an_interrupted_run_goes_on_bit_for_bit(
    teacher, uninterrupted, tmp_path, small, call, shards, rectified, steps
):
    out = tmp_path / "halves"
    assert not distill(short(teacher, out), interrupted=interrupt(call)).finished
    assert len(list((out / "pairs").glob("shard_*"))) == shards
    for folder, expected in ((out / "rectified", rectified), (out, steps)):
        state = folder / "training" / "state.json"
        assert state.is_file() == (expected is not None)
        assert expected is None or json.loads(state.read_text())["progress"]["step"] == expected
    assert distill(short(teacher, out, resume=True)).finished
    require_equal(out, uninterrupted)


def test_stopping_in_the_first_stage_does_not_begin_the_second(teacher, uninterrupted, tmp_path, small):
    stopped = distill(short(teacher, tmp_path / "run", stop_at=4))
    assert not stopped.finished and stopped.result.steps == 4 and not (tmp_path / "run" / "model.safetensors").exists()
    assert distill(short(teacher, tmp_path / "run", resume=True)).finished
    require_equal(tmp_path / "run", uninterrupted)


def test_interrupted_pairs_are_those_of_an_uninterrupted_run(teacher, tmp_path, small):
    taught = Teacher.load(teacher)
    info = taught.pair_info(short(teacher, tmp_path))
    model = taught.checkpoint.model
    assert make_pairs(tmp_path / "a", info, model, taught.observations(0))
    for shard in range(3):
        assert not make_pairs(tmp_path / "b", info, model, taught.observations(0), interrupted=interrupt(shard))
        assert len(list((tmp_path / "b").glob("shard_*"))) == shard + 1
    (tmp_path / "b" / "shard_00001.safetensors").unlink()  # also one in the middle is made again
    assert make_pairs(tmp_path / "b", info, model, taught.observations(0))
    assert (tmp_path / "a" / "shard_00003.safetensors").is_file() and read_shard(tmp_path / "a", 3).noise.shape[0] == 8
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_ctrl_c_ends_the_command_and_resume_goes_on(teacher, tmp_path, small, monkeypatch, capsys):
    made, out = pairs_module.sample_pairs, tmp_path / "run"

    def pressed(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return made(*arguments)

    monkeypatch.setattr(pairs_module, "sample_pairs", pressed)
    command = ["distill", "--teacher", str(teacher), "--out", str(out), "--count", "200", "--rectify", "2", "--steps", "2",
               "--batch", "32", "--json", str(tmp_path / "figures.json")]  # fmt: skip
    assert main(command) == 1
    assert "--resume" in capsys.readouterr().err and len(list((out / "pairs").glob("shard_*"))) == 1
    assert "report" not in json.loads((tmp_path / "figures.json").read_text())
    monkeypatch.setattr(pairs_module, "sample_pairs", made)
    assert distill(short(teacher, out, rectify=2, steps=2, resume=True, warmup=500, save_every=2000)).finished


# Refusals.


@pytest.fixture(scope="module")
def stranger(teacher):
    """Another teacher of the same data."""
    return teach(teacher.parent / "data", teacher.parent / "stranger", 1, seed=1)


def test_pairs_of_another_teacher_or_other_steps_are_refused(teacher, stranger, uninterrupted, tmp_path, small):
    theirs = uninterrupted / "pairs"
    before = {path.name: path.read_bytes() for path in theirs.iterdir()}
    with pytest.raises(TrainError, match=r"holds pairs of another teacher or other settings \(weights_sha256: .* another --pairs"):
        distill(short(stranger, tmp_path / "run", pairs=theirs))
    with pytest.raises(TrainError, match=r"\(steps: 10 there, 9 now\)"):
        distill(short(teacher, tmp_path / "run", pairs=theirs, teacher_steps=9))
    assert {path.name: path.read_bytes() for path in theirs.iterdir()} == before
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_damaged_shard_is_named_and_made_again(teacher, uninterrupted, tmp_path, small):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    shard, info = out / "pairs" / "shard_00002.safetensors", read_info(out / "pairs")
    whole = shard.read_bytes()
    for damage in (whole[:1000], b"version https://git-lfs", b""):
        shard.write_bytes(damage)
        with pytest.raises(TrainError, match=r"shard_00002\.safetensors cannot be read .* Remove the file and run again"):
            read_pairs(out / "pairs", info)
    assert distill(short(teacher, out, resume=True)).finished
    assert shard.read_bytes() == whole
    shard.unlink()
    with pytest.raises(TrainError, match=r"shard_00002\.safetensors cannot be read"):
        read_pairs(out / "pairs", info)
    (out / "pairs" / "pairs.json").write_text("{}")
    with pytest.raises(TrainError, match=r"holds no readable pairs\.json"):
        read_info(out / "pairs")


def test_a_shard_of_another_teacher_is_noticed_wherever_it_is(teacher, stranger, uninterrupted, tmp_path, small):
    folder = tmp_path / "pairs"
    shutil.copytree(uninterrupted / "pairs", folder)
    taught, other = Teacher.load(teacher), Teacher.load(stranger)
    info = taught.pair_info(short(teacher, tmp_path))
    assert all(gate.passed for gate in check_stored(taught, folder, info))
    assert make_pairs(tmp_path / "other", other.pair_info(short(stranger, tmp_path)), other.checkpoint.model, other.observations(0))
    shutil.copy(tmp_path / "other" / "shard_00003.safetensors", folder / "shard_00003.safetensors")
    assert [gate.name for gate in check_stored(taught, folder, info) if not gate.passed] == ["regenerate"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--teacher", "nowhere"], "checkpoint nowhere is not a folder"),
        (["--data", "nowhere"], "nowhere holds no episodes"),
        (["--count", "0"], "--count is 0, expected at least 1"),
        (["--rectify", "0"], "--rectify is 0, expected at least 1"),
        (["--teacher-steps", "0"], "--teacher-steps is 0, expected at least 1"),
        (["--json", "nowhere/figures.json"], "the folder nowhere does not exist"),
        (["--task", "door", "--episodes", "0"], "--episodes is 0, expected at least 1"),
        (["--task", "door", "--first-seed", "-1"], "--first-seed is -1, expected at least 0"),
        (["--task", "door"], "does not fit robot file"),
        (["--task", "door", "--teacher", "checkpoints/adroit_door_camera"], "observes 'detections'; leave --task out"),
    ],
)
def test_bad_input_is_refused_in_a_paragraph(teacher, tmp_path, capsys, more, message):
    assert main(["distill", "--teacher", str(teacher), "--out", str(tmp_path / "run"), *more]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_neither_stage_is_overwritten_or_continued_with_other_options(teacher, tmp_path, small):
    assert not distill(short(teacher, tmp_path / "run"), interrupted=interrupt(4 + 3)).finished
    with pytest.raises(TrainError, match=r"rectified already holds a checkpoint\. Use --resume"):
        distill(short(teacher, tmp_path / "run"))
    with pytest.raises(TrainError, match=r"--lr was 0\.0003, now 0\.1"):
        distill(short(teacher, tmp_path / "run", resume=True, lr=0.1))


def test_refused_options_leave_the_pairs_as_they_were(teacher, tmp_path, small):
    assert not distill(short(teacher, tmp_path / "run"), interrupted=interrupt(4 + 3)).finished
    before = read_info(tmp_path / "run/pairs")
    with pytest.raises(TrainError, match=r"--count was \d+, now \d+"):
        distill(short(teacher, tmp_path / "run", resume=True, count=before.count + 1))
    assert read_info(tmp_path / "run/pairs") == before


def test_a_student_is_not_continued_with_another_teacher(teacher, stranger, tmp_path, small):
    assert not distill(short(teacher, tmp_path / "run"), interrupted=interrupt(4 + 3)).finished
    with pytest.raises(TrainError, match="its teacher's weights were"):
        distill(short(stranger, tmp_path / "run", resume=True, pairs=tmp_path / "other"))
    assert not (tmp_path / "other").exists()


# The coverage figure.


def modes(centres, count, generator, spread=0.1):
    """``count`` samples, evenly of normals around the ``centres``."""
    which = torch.arange(count) % len(centres)
    return torch.tensor(centres, dtype=torch.float32)[which, None] + spread * torch.randn(count, 3, generator=generator)


def test_coverage_of_the_same_distribution_and_of_a_lost_mode():
    generator = torch.Generator().manual_seed(0)
    real = modes((-1.0, 1.0), 200, generator)
    assert coverage(real, modes((-1.0, 1.0), 200, generator)) > 0.9
    assert coverage(real, modes((1.0,), 200, generator)) == pytest.approx(0.5, abs=0.05)
    assert coverage(real, modes((0.0,), 200, generator)) < 0.02, "the mean of the modes is no mode"
    assert coverage(real, modes((-1.0, 1.0, 5.0), 600, generator)) > 0.9, "what is drawn besides costs nothing"
    four = modes((-3.0, -1.0, 1.0, 3.0), 400, generator)
    assert coverage(four, modes((-3.0, 1.0, 3.0), 300, generator)) == pytest.approx(0.75, abs=0.05)


def test_coverage_sees_modes_that_are_narrow_and_far_from_zero():
    generator = torch.Generator().manual_seed(0)
    samples = [modes((99.0, 100.0), 128, generator, spread=1e-3) for _ in range(2)]
    assert coverage(*samples) > 0.9
    assert coverage(samples[0], modes((100.0,), 128, generator, spread=1e-3)) == pytest.approx(0.5, abs=0.05)
    assert coverage(samples[0], samples[1] + 0.01) < 0.02, "ten deviations beside the modes"
