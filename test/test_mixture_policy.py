"""One policy for two robots of different joints and streams: trained through the command line, loaded per robot, padded."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_distill import in_small, short
from test_parity import HORIZON, SIZES, every_network, make_checkpoint, make_model, network_inputs

from flow_policy_ros.cli.main import main
from flow_policy_ros.data.episodes import Episode
from flow_policy_ros.policy.checkpoint import CheckpointError, load_checkpoint
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.runtime.contract import ContractError
from flow_policy_ros.runtime.types import Observation
from flow_policy_ros.training.config import TrainConfig
from flow_policy_ros.training.data import load_training_data
from flow_policy_ros.training.distill import distill
from flow_policy_ros.training.pairs import read_info, read_pairs

ROBOTS = {"hand": (("wrist", "thumb", "index"), (2, 3), 0.0), "arm": (("elbow", "wrist"), (1, 2), 2.0)}
"""Joints, (tokens, channels) of the marker, and where the joints are about, in rad."""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """48 episodes of six ticks per robot: the joints go to what the marker shows in the channels of its first token."""
    root = tmp_path_factory.mktemp("mixture")
    generator = np.random.default_rng(0)
    stamps = 10_000_000 * np.arange(1, 7, dtype=np.int64)
    for robot, (joints, (tokens, channels), about) in ROBOTS.items():
        (root / robot).mkdir()
        for seed in range(48):
            marker = generator.uniform(-1, 1, (tokens, channels)).astype(np.float32)
            label = np.tile(about + np.resize(marker[0], len(joints)), (6, 1))
            position = about + 0.01 * generator.standard_normal((6, len(joints)))
            episode = Episode("reach", seed, True, 10_000_000, stamps, joints, position, label, label,
                              {"marker": (stamps, np.tile(marker, (6, 1, 1)))}, robot=robot)  # fmt: skip
            episode.save(root / robot / f"{seed:02d}.npz")
    return [root / robot for robot in ROBOTS]


def arguments(folders, out, *more):
    return ["train", "--data", *map(str, folders), "--out", str(out), "--streams", "marker", "--horizon", "4",
            "--chunk-dt", "0.01", "--batch", "64", "--warmup", "10", "--validation", "0.125", "--ema-decay", "0.95",
            "--network", "embodiment_dit", "--sizes", *(f"{k}={v}" for k, v in SIZES["embodiment_dit"].items()), *more]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(folders):
    out = folders[0].parent / "both"
    assert main(arguments(folders, out, "--steps", "250", "--lr", "1e-2")) == 0
    return out


def observation(robot, marker=None, position=None):
    joints, shape, about = ROBOTS[robot]
    marker = np.zeros(shape, dtype=np.float32) if marker is None else marker
    return Observation(7, np.full(len(joints), about) if position is None else position, {"marker": marker})


def test_one_checkpoint_with_two_embodiments(checkpoint):
    entries = json.loads((checkpoint / "contract.json").read_text())["embodiments"]
    assert [(entry["robot"], tuple(entry["joints"])) for entry in entries] == [(n, joints) for n, (joints, *_) in ROBOTS.items()]
    assert [len(entry["normaliser"]["action"]["scale"]) for entry in entries] == [3, 2]
    shape = json.loads((checkpoint / "config.json").read_text())["shape"]
    assert shape == {"state": 3, "horizon": 4, "action": 3, "tokens": 2, "channels": 3, "embodiments": 2}
    training = load_checkpoint(checkpoint).training
    assert training["data"]["robots"] == ["hand", "arm"] and training["data"]["episodes"] == 96
    readme = (checkpoint / "README.md").read_text()
    assert "# Flow policy for hand, arm" in readme
    assert "Robot `hand`: observes 3 joint" in readme and "Robot `arm`: observes 2 joint" in readme


@pytest.mark.parametrize("robot", ROBOTS)
def test_each_robot_gets_chunks_of_its_own_joints(checkpoint, robot):
    """And they go to the marker: within half of what its channels deviate by, 0.46 rad."""
    joints, shape, about = ROBOTS[robot]
    policy = FlowPolicy.load(checkpoint, robot=robot)
    assert policy.contract.robot == robot and policy.contract.action_joints == joints
    generator = np.random.default_rng(1)
    errors = []
    for _ in range(40):
        marker = generator.uniform(-0.8, 0.8, shape).astype(np.float32)
        chunk, nfe = policy.sample(observation(robot, marker), 10, 0)
        assert chunk.shape == (4, len(joints)) and nfe == 10
        errors.append(chunk - about - np.resize(marker[0], len(joints)))
    assert np.sqrt(np.mean(np.square(errors))) < 0.23


def test_robots_are_told_apart(checkpoint):
    with pytest.raises(CheckpointError, match=r"robot 'leg' is none of the checkpoint's embodiments, \['hand', 'arm'\]"):
        FlowPolicy.load(checkpoint, robot="leg")
    with pytest.raises(CheckpointError, match=r"robot None is none of .* \['hand', 'arm'\].* Give the robot file of one of these"):
        FlowPolicy.load(checkpoint)
    hand = FlowPolicy.load(checkpoint, robot="hand")
    with pytest.raises(ContractError, match=r"joint_position has shape \(1, 2\), expected \(1, 3\)"):
        hand.sample(observation("arm"), 1, 0)
    with pytest.raises(ContractError, match=r"features 'marker' has shape \(1, 1, 2\), expected \(1, 2, 3\)"):
        hand.sample(replace(observation("hand"), features=observation("arm").features), 1, 0)


@pytest.mark.parametrize("robot", ROBOTS)
def test_statistics_are_each_robots_own_and_padding_is_zero(checkpoint, folders, robot):
    joints, (tokens, channels), about = ROBOTS[robot]
    codec = load_checkpoint(checkpoint).codec_of(robot)
    alone = load_training_data(
        TrainConfig(data=tuple(f for f in folders if f.name == robot), out=checkpoint, streams=("marker",), horizon=4,
                    chunk_dt=0.01, validation=0.125)
    ).codecs[0]  # fmt: skip
    for name in ("observation_normaliser", "action_normaliser"):
        ours, theirs = getattr(codec, name), getattr(alone, name)
        np.testing.assert_array_equal(ours.offset, theirs.offset)
        np.testing.assert_array_equal(ours.scale, theirs.scale)
    assert np.abs(codec.action_normaliser.offset - about).max() < 0.5

    policy = FlowPolicy.load(checkpoint, robot=robot)
    marker = np.full((tokens, channels), 0.7, dtype=np.float32)
    seen = policy.conditioning(observation(robot, marker, np.full(len(joints), about + 1)))
    assert seen.embodiment.tolist() == [list(ROBOTS).index(robot)]
    assert seen.token_mask.tolist() == [[k < tokens for k in range(2)]]
    assert (seen.state[0, : len(joints)] != 0).all() and (seen.state[0, len(joints) :] == 0).all()
    real = torch.zeros(1, 2, 3, dtype=torch.bool)
    real[:, :tokens, :channels] = True
    assert (seen.tokens[real] != 0).all() and (seen.tokens[~real] == 0).all()
    actions = codec.encode(torch.ones(5, 4, len(joints)), torch.zeros(5, len(joints)))
    assert actions.shape == (5, 4, 3) and (actions[..., len(joints) :] == 0).all()
    assert codec.decode(actions, torch.zeros(5, len(joints))).shape == (5, 4, len(joints))


def test_a_robots_loss_reaches_its_own_weights_alone(checkpoint, folders):
    """Neither the other robot's weights nor those of padded dimensions learn from the arm's samples."""
    model = load_checkpoint(checkpoint).model.train()
    config = TrainConfig(data=tuple(folders), out=checkpoint, streams=("marker",), horizon=4, chunk_dt=0.01, validation=0.125)
    data = load_training_data(config)
    parts = next(data.train.batches(0, 0, 64))
    assert [number for number, _ in parts] == [0, 1] and sum(len(part.mask) for _, part in parts) == 64
    batch = data.tensors(parts)
    arm = batch.observation.embodiment == 1
    assert 16 < arm.sum() < 48 and (batch.actions[arm][..., 2] == 0).all()
    model.compute_loss(batch.actions[arm], batch.observation.take(arm), batch.mask[arm]).backward()
    decoder, encoder = model.network.action_decoder.second.weight.grad, model.network.action_encoder.w1.weight.grad
    assert (decoder[0] == 0).all() and (encoder[0] == 0).all()
    assert (decoder[1, :, 2] == 0).all() and (decoder[1, :, :2] != 0).any()
    assert (encoder[1, 2] == 0).all() and (encoder[1, :2] != 0).any()


def test_batches_hold_each_sample_of_an_epoch_once(folders):
    config = TrainConfig(data=tuple(folders), out=folders[0], streams=("marker",), horizon=4, chunk_dt=0.01, validation=0.125)
    data = load_training_data(config)
    batches = list(data.train.batches(0, 0, 60))
    assert len(batches) == 2 * 42 * 6 // 60
    assert {number for parts in batches for number, _ in parts} == {0, 1}
    for number in (0, 1):
        positions = np.concatenate([part.joint_position for parts in batches for k, part in parts if k == number])
        assert len(np.unique(positions, axis=0)) == len(positions) and len(positions) > 42 * 6 - 60
    rest = list(data.train.batches(0, 0, 60, start=4))
    assert len(rest) == len(batches) - 4
    np.testing.assert_array_equal(rest[0][0][1].actions, batches[4][0][1].actions)
    other = next(data.train.batches(0, 1, 60))
    assert not np.array_equal(other[0][1].joint_position[:5], batches[0][0][1].joint_position[:5])


def test_resume_is_identical(folders, tmp_path):
    more = ["--steps", "12", "--joint-noise", "0.01", "--condition-dropout", "0.2", "--prefix", "2"]
    assert main(arguments(folders, tmp_path / "straight", *more)) == 0
    assert main(arguments(folders, tmp_path / "halves", *more, "--stop-at", "7")) == 0
    assert main(arguments(folders, tmp_path / "halves", *more, "--resume")) == 0
    for name in ("model.safetensors", "training/state.safetensors"):
        straight, halves = (load_file(tmp_path / run / name) for run in ("straight", "halves"))
        assert straight.keys() == halves.keys() and all(torch.equal(straight[k], halves[k]) for k in straight), name


def test_folders_that_do_not_go_together_are_refused(folders, tmp_path, capsys):
    assert main(arguments([folders[0], folders[0]], tmp_path / "run", "--steps", "1")) == 2
    assert f"--data names ['{folders[0]}'] twice" in capsys.readouterr().err
    assert main(arguments([folders[0], tmp_path], tmp_path / "run", "--steps", "1")) == 2
    assert f"{tmp_path} holds no episodes" in capsys.readouterr().err


def test_both_robots_are_distilled(checkpoint, tmp_path, monkeypatch):
    """Every part of a shard holds pairs of both, so also those held out and those that the gates make again."""
    in_small(monkeypatch)
    out = tmp_path / "student"
    assert distill(short(checkpoint, out, count=150)).finished
    pairs = read_pairs(out / "pairs", read_info(out / "pairs"))
    for part in (slice(15), slice(64), slice(128, 150)):
        assert 0.2 < (pairs.observation.embodiment[part] == 1).float().mean() < 0.8
    arm = pairs.take(pairs.observation.embodiment == 1)
    assert (arm.noise[..., 2] == 0).all() and (arm.chunk[..., 2] == 0).all()
    assert arm.noise[..., :2].abs().min() > 0 and (pairs.chunk[pairs.observation.embodiment == 0] != 0).all()
    for robot, (joints, *_) in ROBOTS.items():
        chunk, nfe = FlowPolicy.load(out, robot=robot).sample(observation(robot), 1, 0)
        assert chunk.shape == (4, len(joints)) and nfe == 1


# Padding, whatever the network.


@every_network
def test_nothing_moves_on_padded_dimensions(network):
    """Arm: two of three action dimensions. Noise, x and v are zero on the third on both paths, whatever it holds."""
    checkpoint = make_checkpoint(network)
    model = checkpoint.model
    x, t, seen = network_inputs(model)
    arm = seen.embodiment == 1
    padded = torch.zeros(len(seen), HORIZON, 3, dtype=torch.bool)
    padded[arm, :, 2] = True
    policy = FlowPolicy(checkpoint, robot="arm")
    assert (x[padded] == 0).all() and (policy.noise(0, 0)[..., 2] == 0).all()
    assert (x[arm][..., :2] != 0).all() and (policy.noise(0, 0)[..., :2] != 0).all()

    clean = model.velocity(x, t, model.condition(seen))
    dirty = model.velocity(torch.where(padded, math.nan, x), t, model.condition(seen))
    assert (clean[padded] == 0).all() and (clean[~padded] != 0).all() and torch.equal(dirty, clean)

    chunk = model.sample(seen, 4, x).x
    assert (chunk[padded] == 0).all()
    assert torch.equal(model.sample(seen, 4, torch.where(padded, 7.0, x)).x, chunk)
    fault = replace(seen, tokens=torch.where(seen.token_mask[:, :, None], seen.tokens, math.nan))
    assert not seen.token_mask[arm].all() and torch.equal(model.sample(fault, 4, x).x, chunk)


@every_network
def test_padded_dimensions_have_no_share_in_the_loss(network):
    model = make_model(network)
    noise, t, seen = network_inputs(model)
    actions = model.draw_noise(seen)
    mask = torch.ones(len(seen), HORIZON, dtype=torch.bool)
    mask[:, -1] = False
    real = model.real_mask(mask, seen)
    loss = model.pair_loss(noise, actions, t, seen, real)
    time = t[:, None, None]
    v = model.velocity((1 - time) * noise + time * actions, t, model.condition(seen))
    squares = [((v - (actions - noise))[row, :-1, :dims] ** 2).sum() for row, dims in enumerate([3] * 8 + [2] * 8)]
    torch.testing.assert_close(loss, sum(squares) / (8 * 5 * 3 + 8 * 5 * 2))
    other = torch.where(model.real_mask(torch.ones_like(mask), seen), actions, 9.0)
    assert torch.equal(model.pair_loss(noise, other, t, seen, real), loss)
    assert torch.equal(model.training_pairs(actions, seen, mask)[-1], real)


@every_network
def test_coupled_noise_has_the_padding_of_its_own_sample(network):
    """A row that moves to another robot must neither bring noise to padded dimensions nor zeros to real ones."""
    model = make_model(network, coupling="optimal_transport")
    _, _, seen = network_inputs(model, size=16)
    noise, *_ = model.training_pairs(model.draw_noise(seen), seen, torch.ones(32, HORIZON, dtype=torch.bool))
    real = model.real_mask(torch.ones(32, HORIZON), seen)
    assert (noise[~real] == 0).all() and (noise[real] != 0).all()


