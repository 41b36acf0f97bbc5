"""Bags, LeRobot folders and episodes as training data, through the command line: read, mixed, with a history, and as the robot."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from recording_support import robot_of, write_robot_file

from flow_policy_ros.cli.main import main
from flow_policy_ros.data.bag_recording import read_recording
from flow_policy_ros.data.bag_writer import BagWriter
from flow_policy_ros.data.episodes import Episode
from flow_policy_ros.data.recording import read_recordings
from flow_policy_ros.policy.checkpoint import load_checkpoint
from flow_policy_ros.policy.codec import network_shape, raw_observation
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.runtime.buffers import ObservationAssembler
from flow_policy_ros.runtime.contract import Contract, ContractError
from flow_policy_ros.runtime.types import Features, JointState, Observation
from flow_policy_ros.training.config import TrainConfig, TrainError
from flow_policy_ros.training.data import load_training_data
from flow_policy_ros.training.paths import check_deployment, raw_batch
from flow_policy_ros.training.throughput import window_throughput
from flow_policy_ros.training.trainer import train

MS = 1_000_000
JOINTS = ("wrist", "thumb")
JITTERED = 100  # first seed of the motions that only bags have
SMALL = ["--sizes", "width=32", "blocks=2", "expansion=2", "time_width=16", "observation_width=16"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


def motion(seed, ticks=60, jitter=0):
    """(stamps, positions, commands, marker): the joints go to where the marker is; stamps 10 ms apart, or about that."""
    generator = np.random.default_rng(seed)
    goal = generator.uniform(-1, 1, 2)
    stamps = 5_000 * MS + 10 * MS * np.arange(1, ticks + 1, dtype=np.int64) + generator.integers(0, jitter + 1, ticks) * MS
    commands = np.linspace(0, 1, ticks)[:, None] * goal
    return stamps, 0.9 * commands, commands, goal.astype(np.float32)[None]


def write_bag(path, seed, ticks=60, jitter=0, pictures=False):
    """The motion as a bag: a command at each joint state, features of every sixth one, or pictures instead."""
    stamps, position, commands, marker = motion(seed, ticks, jitter)
    with BagWriter(path) as bag:
        for k, stamp in enumerate(stamps.tolist()):
            bag.joint_state(JointState(stamp, JOINTS, position[k]))
            bag.command(stamp, JOINTS[::-1], commands[k, ::-1], np.zeros(2))
            if k % 6 == 0 and pictures:
                bag.image(stamp, np.full((48, 64, 3), 40 + k, dtype=np.uint8))
            elif k % 6 == 0:
                bag.features(Features(stamp, "marker", marker))
    return path


def write_episode(path, seed, ticks=60):
    stamps, position, commands, marker = motion(seed, ticks)
    streams = {"marker": (stamps[::6], np.tile(marker, (len(stamps[::6]), 1, 1)))}
    Episode("reach", seed, True, 10 * MS, stamps, JOINTS, position, commands, commands, streams, robot="hand").save(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight bags, the same motions as episodes, eight bags of other motions off any grid, and the robot file."""
    root = tmp_path_factory.mktemp("bag_training")
    for name in ("bags", "jittered", "episodes"):
        (root / name).mkdir()
    for seed in range(8):
        write_bag(root / "bags" / f"{seed}", seed)
        write_bag(root / "jittered" / f"{seed}", JITTERED + seed, jitter=4)
        write_episode(root / "episodes" / f"{seed}.npz", seed)
    write_robot_file(root)
    return root


def config(root, *data, **more):
    base = {"streams": ("marker",), "horizon": 4, "validation": 0.25, "robot": (root / "hand.yaml",)}
    return TrainConfig(data=tuple(root / name for name in data), out=root / "none", **(base | more))


def arguments(root, out, *data, **options):
    options = {"steps": 3, "batch": 32, "warmup": 2, "streams": "marker", "horizon": 4, "validation": 0.25,
               "robot": root / "hand.yaml"} | options  # fmt: skip
    words = [str(word) for name, value in options.items() if value is not None for word in (f"--{name.replace('_', '-')}", value)]
    return ["train", "--data", *(str(root / name) for name in data), "--out", str(out), *words, *SMALL]


def test_bags_give_the_samples_that_the_same_episodes_give(root):
    """Bit for bit: names reordered, CDR and streams in between; drawn delays included."""
    ours, theirs = (load_training_data(config(root, name, delay_max=0.05)) for name in ("bags", "episodes"))
    assert ours.codecs[0].contract == theirs.codecs[0].contract
    samples = [data.train.sources[0].samples(0, 1) for data in (ours, theirs)]
    assert len(samples[0].ticks) == len(samples[1].ticks) > 300
    for ours_part, theirs_part in zip(ours.train.batches(0, 0, 64), theirs.train.batches(0, 0, 64), strict=True):
        for (_, a), (_, b) in zip(ours_part, theirs_part, strict=True):
            for name in ("joint_position", "actions", "mask"):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
            np.testing.assert_array_equal(a.features["marker"], b.features["marker"])
    assert ours.summary["seconds"] == pytest.approx(theirs.summary["seconds"], abs=0.2)
    assert ours.summary["robots"] == ["hand"] and ours.summary["held_out"] == theirs.summary["held_out"] == 2


def test_a_policy_learns_from_jittered_bags(root, tmp_path):
    base = {"batch": 64, "warmup": 10, "lr": 3e-3, "ema_decay": 0.95,
            "sizes": ("width=64", "blocks=2", "observation_width=32", "time_width=16")}  # fmt: skip
    early = train(replace(config(root, "jittered", **base), out=tmp_path / "early", steps=5))
    late = train(replace(config(root, "jittered", **base), out=tmp_path / "late", steps=300))
    assert late.loss < 0.5 * early.loss
    assert late.validation["chunk_rmse"] < 0.7 * early.validation["chunk_rmse"]


def test_episodes_and_bags_are_mixed_as_asked(root, tmp_path, capsys):
    """One robot, one codec; of an epoch three in four from the bags."""
    out = tmp_path / "run"
    assert main(arguments(root, out, "episodes=1", "jittered=3", json=tmp_path / "figures.json")) == 0
    checkpoint = load_checkpoint(out)
    assert len(checkpoint.codecs) == 1 and checkpoint.training["data"]["episodes"] == 16
    assert checkpoint.training["data"]["held_out"] == 4 and np.isfinite(json.loads((tmp_path / "figures.json").read_text())["loss"])

    data = load_training_data(config(root, "episodes=1", "jittered=3"))
    assert data.train.embodiments == (0, 0) and data.train.weights == (1.0, 3.0)
    grid = {tuple(row) for row in data.train.sources[0].gather(data.train.sources[0].samples(0, 0)).actions[:, 0].tolist()}
    counts = np.zeros(2)
    for parts in data.train.batches(0, 0, 60):
        for number, batch in parts:
            assert number == 0
            counts[int(tuple(batch.actions[0, 0].tolist()) not in grid)] += len(batch.mask)
    share = counts[1] / counts.sum()
    total = sum(len(windows.samples(0, 0).ticks) for windows in data.train.sources)
    assert abs(share - 0.75) < 60 / total
    unweighted = load_training_data(config(root, "episodes", "jittered"))
    assert unweighted.train.weights == ()
    half = load_training_data(config(root, "episodes", "jittered=2"))
    assert half.train.weights == (1.0, 2.0)


def test_robots_of_bags_and_episodes_become_embodiments(root, tmp_path):
    """The arm has one joint: its samples are padded to the hand's."""
    (tmp_path / "arm").mkdir()
    arm = write_robot_file(tmp_path, ("thumb",), "arm")
    for seed in range(3):
        shutil.copytree(root / "bags" / f"{seed}", tmp_path / "arm" / f"{seed}")
    told = arguments(root, tmp_path / "run", "bags=2", tmp_path / "arm", "episodes")
    told[told.index("--robot") + 1 : told.index("--robot") + 2] = [str(root / "hand.yaml"), str(arm)]
    assert main(told) == 0
    checkpoint = load_checkpoint(tmp_path / "run")
    assert [codec.contract.robot for codec in checkpoint.codecs] == ["hand", "arm"]
    assert [codec.contract.joints for codec in checkpoint.codecs] == [JOINTS, ("thumb",)]
    chunk, _ = FlowPolicy.load(tmp_path / "run", robot="arm").sample(
        Observation(7, np.zeros(1), {"marker": np.zeros((1, 2), np.float32)}), 2, 0
    )
    assert chunk.shape == (4, 1)


def test_a_bag_that_was_cut_off_is_read_as_far_as_it_goes(root, tmp_path, capsys):
    bag = write_bag(tmp_path / "cut", 1, ticks=6000)  # more than one chunk of the file
    file = next(bag.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])
    (bag / "metadata.yaml").unlink()
    assert main(arguments(root, tmp_path / "run", bag)) == 0
    assert f"warning: {bag}: cut: " in capsys.readouterr().err
    (recording,) = read_recording(bag, robot_of(tmp_path), features=("marker",))
    assert 1000 < len(recording.stamps) < 6000 and recording.problems
    expected = motion(1, 6000)[1]
    np.testing.assert_array_equal(recording.position, expected[: len(recording.stamps)])


def test_a_useless_bag_is_left_out_among_others_and_refused_alone(root, tmp_path, capsys):
    folder = tmp_path / "bags"
    shutil.copytree(root / "bags", folder)
    with BagWriter(folder / "9") as bag:
        bag.joint_state(JointState(5, JOINTS, np.zeros(2)))
    assert main(arguments(root, tmp_path / "run", folder)) == 0
    assert f"warning: {folder}: 9: left out, because {folder / '9'} holds no commands" in capsys.readouterr().err
    assert load_checkpoint(tmp_path / "run").training["data"]["episodes"] == 8
    assert main(arguments(root, tmp_path / "alone", folder / "9")) == 2
    error = capsys.readouterr().err
    assert "holds no commands that can be used" in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (["bags"], {"robot": None}, "--robot has 0 robot files"),
        (["bags=0"], {}, "has the weight 0, expected a finite number above 0"),
        (["bags", "bags=2"], {}, "twice"),
        (["bags"], {"streams": "eye"}, "has no feature stream 'eye', only ['marker']"),
        (["bags"], {"features_max_age": "0.00001", "delay_min": "0.001", "delay_max": "0.001"}, "no tick of"),
        (["bags"], {"max_gap": "0"}, "--max-gap is 0.0"),
        (["bags"], {"history": "soon"}, "--history is ['soon'], expected seconds"),
        (["bags"], {"history": "0.04,3"}, "expected different numbers above 0, at most 2 s"),
        (["bags"], {"history": "0.04,-0.04"}, "expected different numbers above 0"),
        (["episodes"], {"chunk_dt": "0.015"}, "a multiple of the episodes' tick"),
        (["empty"], {}, "holds no episodes"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_a_paragraph(root, tmp_path, capsys, data, options, message):
    (root / "empty").mkdir(exist_ok=True)
    assert main(arguments(root, tmp_path / "run", *data, **options)) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert message in error and error.startswith("error: ")


def test_what_cannot_be_learned_is_said(root, tmp_path, capsys):
    """Commands pause from 0.3 s on and are resumed at 1.5 s; of two joints one moves, then none; nobody noted success."""
    bags = {}
    for name, moving in (("one", (1.0, 0.0)), ("none", (0.0, 0.0))):
        bags[name] = tmp_path / name
        with BagWriter(bags[name]) as bag:
            for k in range(200):
                stamp = 5_000 * MS + k * 10 * MS
                bag.joint_state(JointState(stamp, JOINTS, np.zeros(2)))
                if not 30 < k < 150 and 10 <= k < 190:
                    bag.command(stamp, JOINTS, k / 100 * np.array(moving), np.zeros(2))
    base = {"streams": None, "validation": "0"}
    assert main([*arguments(root, tmp_path / "run", bags["one"], **base), "--streams"]) == 0
    said = capsys.readouterr()
    assert (
        "61 samples from 200 joint states; 139 left out: 20 because they lie before the first command or after the "
        "last, 119 because commands pause longer than 0.5 s (--max-gap)\n"
    ) in said.out
    assert "the commands of thumb never change" in said.err
    readme = (tmp_path / "run" / "README.md").read_text()
    assert "success not noted; 2.0 s" in readme and "61 training samples, 0.6 s" in readme
    assert main([*arguments(root, tmp_path / "still", bags["none"], **base), "--streams"]) == 2
    assert "there is nothing to learn" in (error := capsys.readouterr().err) and "(wrist, thumb)" in error
    assert main([*arguments(root, tmp_path / "deaf", bags["one"], streams=None)]) == 2  # the default asks for detections
    error = capsys.readouterr().err
    assert "has no feature streams. Train on joint states alone with `--streams` (no names), or run `flow_policy featurize" in error
    assert f" --episodes {bags['one']} --robot {root / 'hand.yaml'} --out features`" in error


def test_chunks_of_bags_may_have_any_spacing(root):
    data = load_training_data(config(root, "jittered", chunk_dt=0.0133))
    batch = data.train.sources[0].gather(data.train.sources[0].samples(0, 0))
    spread = np.diff(batch.actions[batch.mask.all(axis=1)], axis=1)[..., 0]
    assert len(spread) > 200 and (np.sign(spread) == np.sign(spread[:, :1])).all()  # straight motions stay so


def test_ages_are_the_robot_files_unless_given(root, tmp_path):
    late = write_robot_file(tmp_path, features_max_age_s=0.02)
    counts = [
        load_training_data(config(root, "bags", delay_min=0.03, delay_max=0.03, robot=(file,), **more)).summary["samples"]
        for file, more in ((root / "hand.yaml", {}), (late, {"features_max_age": 0.5}), (late, {"features_max_age": 0.04}))
    ]
    assert counts[0] == counts[1] > counts[2] > 0
    with pytest.raises(TrainError, match="no tick of"):
        load_training_data(config(root, "bags", delay_min=0.03, delay_max=0.03, robot=(late,)))


def test_throughput_is_measured(root):
    chosen = config(root, "jittered", batch=64)
    rates = window_throughput(load_training_data(chosen), chosen, seconds=0.05)
    assert rates["windows_per_s"] > 0 and rates["tensors_per_s"] > 0


# A history of joint states, from the option to the robot.


def test_a_history_is_the_same_in_training_and_on_the_robot(root, tmp_path):
    """The robot's side: joint states and features through the assembler, contract and statistics from the checkpoint on disk."""
    out = tmp_path / "run"
    assert main(arguments(root, out, "jittered", history="0.02,0.045", validation="0")) == 0
    policy = FlowPolicy.load(out)
    contract = policy.contract
    assert contract.history_ns == (-45 * MS, -20 * MS) and policy.codec.shape.state == 6
    assert json.loads((out / "contract.json").read_text())["history_ns"] == [-45 * MS, -20 * MS]

    data = load_training_data(config(root, "jittered", history=("0.02,0.045",), validation=0.0))
    windows, first = data.train.sources[0], 0
    samples = windows.samples(0, 0)
    batch = windows.gather(samples)
    tensors = data.tensors([(0, batch)]).observation
    at = {tick: row for row, tick in enumerate(samples.ticks.tolist())}
    checked = 0
    for seed in range(3):
        stamps, position, _, marker = motion(JITTERED + seed, jitter=4)
        assembler = ObservationAssembler(contract, 0.1, 0.5)
        for k, stamp in enumerate(stamps.tolist()):
            if k % 6 == 0:
                assembler.on_features(Features(stamp, "marker", marker), stamp)
            assembler.on_joint_state(JointState(stamp, JOINTS, position[k]), stamp)
            seen = assembler.observe(stamp)
            if first + k in at:
                row = at[first + k]
                np.testing.assert_array_equal(seen.joint_history, batch.joint_history[row])
                assert torch.equal(policy.conditioning(seen).state, tensors.take(slice(row, row + 1)).state)
                checked += 1
        first += len(stamps)
    assert checked > 100
    gates = check_deployment(policy.model, (policy.codec,), out, raw_batch(data), "history")
    assert all(gate.passed for gate in gates), gates
    with pytest.raises(ContractError, match=r"joint_history has shape .* expected \(1, 2, 2\)"):
        policy.sample(Observation(5, np.zeros(2), {"marker": np.zeros((1, 2), np.float32)}), 1, 0)


def test_a_contract_without_history_is_what_it_was():
    contract = Contract("hand", JOINTS, JOINTS, 20 * MS, 4, ())
    content = contract.to_json()
    del content["history_ns"]
    assert Contract.from_json(content) == contract and network_shape([contract]).state == 2
    assert raw_observation(contract, torch.zeros(3, 2), {}).shape == (3, 2)
    assert Contract.from_json(replace(contract, history_ns=(-5, -2)).to_json()).history_ns == (-5, -2)
    for wrong in ((0,), (-2, -5), (-5, -5), (-3_000 * MS,)):
        with pytest.raises(ContractError, match="offsets"):
            replace(contract, history_ns=wrong)


# Pictures, and LeRobot folders.


def test_pictures_in_bags_become_recordings_to_train_on(root, tmp_path, capsys):
    """The shipped detector sees nothing in grey pictures: tokens of zeros, at the pictures' instants."""
    for seed in range(2):
        write_bag(tmp_path / "bags" / f"{seed}", seed, ticks=30, pictures=True)
    detector = ["--detector", "checkpoints/adroit_door_detector"]
    command = ["featurize", "--episodes", str(tmp_path / "bags"), "--out", str(tmp_path / "out"), *detector]
    assert main(command) == 2
    assert "give the robot file" in capsys.readouterr().err
    hand = ["--robot", str(root / "hand.yaml")]
    for name, words in (
        (["no_such"], "--detector no_such does not exist; give with --detector"),
        (["adroit_door_state"], "--detector adroit_door_state is no detector's folder"),
        ([], "no detector ships for robot 'hand'; give with --detector"),
    ):
        assert main([*command[:5], *(["--detector"] if name else []), *name, *hand]) == 2
        assert words in capsys.readouterr().err
    assert main([*command[:5], "--detector", "adroit_door_detector", *hand]) == 0
    assert "2 bags with features" in capsys.readouterr().out
    recordings = read_recordings(tmp_path / "out")
    assert [recording.robot for recording in recordings] == ["hand", "hand"]
    stamps, position, commands, _ = motion(0, 30)
    np.testing.assert_array_equal(recordings[0].streams["detections"].stamps, stamps[::6])
    np.testing.assert_array_equal(recordings[0].position, position)
    np.testing.assert_array_equal(recordings[0].commands, commands)
    assert main(arguments(root, tmp_path / "run", tmp_path / "out", streams="detections", robot=None)) == 0
    assert load_checkpoint(tmp_path / "run").codecs[0].contract.streams[0].extractor["extractor"] == "detections"
    assert main([*command, "--robot", str(root / "hand.yaml")]) == 0
    assert "0 bags with features" in capsys.readouterr().out


def test_a_lerobot_folder_trains_like_the_bags_it_was_made_of(root, tmp_path):
    converted = tmp_path / "dataset"
    assert main(["convert", str(root / "bags"), "--robot", str(root / "hand.yaml"), "--out", str(converted), "--fps", "100"]) == 0
    assert main(arguments(root, tmp_path / "run", converted, "episodes=2")) == 0
    assert load_checkpoint(tmp_path / "run").training["data"]["robots"] == ["hand"]
    ours, theirs = (load_training_data(config(root, name, validation=0.0)) for name in (converted, "bags"))
    ours_batch, theirs_batch = (d.train.sources[0].gather(d.train.sources[0].samples(0, 0)) for d in (ours, theirs))
    assert abs(len(ours_batch.mask) - len(theirs_batch.mask)) <= 16
    known = {tuple(row) for row in theirs_batch.actions[:, 0].astype(np.float32).tolist()}
    same = sum(tuple(row) in known for row in ours_batch.actions[:, 0].astype(np.float32).tolist())
    assert same > 0.9 * len(ours_batch.mask)
