"""The deployed policy: normaliser, codec, determinism, and one forward pass for training and for the robot."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flow_policy_ros.data.episodes import Episode
from flow_policy_ros.data.statistics import VectorStatistics
from flow_policy_ros.data.windows import Windows
from flow_policy_ros.policy.checkpoint import Checkpoint
from flow_policy_ros.policy.codec import Codec, network_shape, observation_dim, raw_observation
from flow_policy_ros.policy.flow_model import FlowConfig, FlowModel
from flow_policy_ros.policy.flow_policy import FlowPolicy, keyed_noise
from flow_policy_ros.policy.normaliser import Normaliser, json_sha256
from flow_policy_ros.runtime.contract import Contract, ContractError, StreamContract
from flow_policy_ros.runtime.types import Observation
from flow_policy_ros.training.data import tensors_of

SIZES = {
    "residual_mlp": {"width": 32, "blocks": 2, "expansion": 2, "time_width": 16, "observation_width": 16},
    "dit": {"width": 16, "blocks": 2, "heads": 2, "expansion": 2, "time_width": 16, "observation_width": 16},
}
CONTRACT = Contract(
    robot="hand",
    joints=("wrist", "thumb", "index"),
    action_joints=("index", "wrist"),
    dt_ns=20_000_000,
    horizon=4,
    streams=(StreamContract("boxes", 2, 3, {}), StreamContract("depth", 1, 2, {})),
)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def normaliser(size, seed):
    rows = np.random.default_rng(seed).normal(0.3, 0.5, (200, size))
    return Normaliser.fit(VectorStatistics.of(rows))


def make_checkpoint(contract=CONTRACT, action_space="absolute", network="residual_mlp", solver="euler", condition_dropout=0.0):
    torch.manual_seed(0)
    actions = len(contract.action_joints)
    flow = FlowConfig(solver=solver, condition_dropout=condition_dropout)
    model = FlowModel(network, SIZES[network], network_shape([contract]), flow)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    codec = Codec(contract, normaliser(observation_dim(contract), 1), normaliser(actions, 2), action_space)
    return Checkpoint(model, (codec,))


def make_observation(stamp=5, seed=0):
    generator = np.random.default_rng(seed)
    features = {
        "depth": generator.standard_normal((1, 2)).astype(np.float32),
        "boxes": generator.standard_normal((2, 3)).astype(np.float32),
    }
    return Observation(stamp, generator.standard_normal(3), features)


@pytest.mark.parametrize("method", ["mean_std", "quantile"])
def test_normaliser_scales_and_inverts(method):
    rows = np.random.default_rng(0).normal([1.0, -20.0], [0.1, 7.0], (5000, 2))
    n = Normaliser.fit(VectorStatistics.of(rows), method)
    y = n.normalise(torch.from_numpy(rows))
    assert y.dtype == torch.float32
    if method == "mean_std":
        torch.testing.assert_close(y.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
        torch.testing.assert_close(y.std(0), torch.ones(2), atol=1e-3, rtol=0)
    else:
        low, high = torch.quantile(y, torch.tensor([0.01, 0.99]), dim=0)
        torch.testing.assert_close(low, -torch.ones(2), atol=1e-3, rtol=0)
        torch.testing.assert_close(high, torch.ones(2), atol=1e-3, rtol=0)
    np.testing.assert_allclose(n.denormalise(y).numpy(), rows, atol=1e-5)


@pytest.mark.parametrize("method", ["mean_std", "quantile"])
def test_dead_dimensions_cannot_explode(method):
    """A joint that never moved, one with encoder noise only, and one that moved in a few rows only."""
    rows = np.zeros((1000, 3))
    rows[:, 0] = 0.7
    rows[:, 1] = 0.2 + 1e-5 * np.random.default_rng(0).standard_normal(1000)
    rows[:5, 2] = 1.0
    n = Normaliser.fit(VectorStatistics.of(rows), method)
    assert set(n.dead) == ({0, 1, 2} if method == "quantile" else {0, 1})
    live = n.normalise(torch.tensor([[0.8, 0.3, 1.0]]))
    torch.testing.assert_close(live[0, :2], torch.tensor([0.1, 0.1]), atol=1e-4, rtol=0)
    assert live[0, 2].abs() < 20


def test_normaliser_json_is_exact_and_hashed():
    n = normaliser(3, 0)
    back = Normaliser.from_json(n.to_json())
    np.testing.assert_array_equal(back.scale, n.scale)
    np.testing.assert_array_equal(back.offset, n.offset)
    changed = n.to_json()
    assert json_sha256(changed) == json_sha256(dict(reversed(changed.items())))
    changed["offset"] = [*changed["offset"][:2], changed["offset"][2] + 1e-15]
    assert json_sha256(changed) != json_sha256(n.to_json())
    with pytest.raises(ValueError, match=r"normaliser input has shape \(2, 4\), expected \(2, 3\)"):
        n.normalise(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="unknown normalisation 'none'"):
        Normaliser.fit(VectorStatistics.of(np.zeros((3, 2))), "none")
    with pytest.raises(ValueError, match="scales above zero"):
        Normaliser("mean_std", np.zeros(2), np.zeros(2), ())


def test_observation_vector_follows_the_contract():
    observation = make_observation()
    features = {name: torch.from_numpy(values)[None] for name, values in observation.features.items()}
    vector = raw_observation(CONTRACT, torch.from_numpy(observation.joint_position)[None], features)
    parts = (observation.joint_position, observation.features["boxes"].ravel(), observation.features["depth"].ravel())
    np.testing.assert_array_equal(vector[0].numpy(), np.concatenate(parts))
    wild = make_checkpoint().codec_of().observation(torch.full((1, 3), 1e6, dtype=torch.float64), features).vector
    assert wild.abs().max() == 10.0


def test_only_used_tokens_reach_the_policy():
    """The stream still comes with all its tokens; those that are not used can hold anything."""
    contract = replace(CONTRACT, streams=(StreamContract("boxes", 3, 3, {}, use=(0, 2)), CONTRACT.streams[1]))
    policy = FlowPolicy(make_checkpoint(contract))
    plain = make_observation()
    boxes = np.random.default_rng(1).standard_normal((3, 3)).astype(np.float32)

    def chunk(values):
        return policy.sample(replace(plain, features={**plain.features, "boxes": values}), 2, 0)[0]

    def changed(row):
        values = boxes.copy()
        values[row] += 1
        return chunk(values)

    np.testing.assert_array_equal(changed(1), chunk(boxes))
    assert np.abs(changed(0) - chunk(boxes)).max() > 1e-3 and np.abs(changed(2) - chunk(boxes)).max() > 1e-3
    # Two tokens alone give the same chunk: the vector is made of nothing else.
    two = replace(plain, features={**plain.features, "boxes": boxes[[0, 2]]})
    np.testing.assert_array_equal(FlowPolicy(make_checkpoint()).sample(two, 2, 0)[0], chunk(boxes))
    with pytest.raises(ContractError, match=r"'boxes' has shape \(1, 2, 3\), expected \(1, 3, 3\)"):
        chunk(boxes[[0, 2]])


@pytest.mark.parametrize("use", [(3,), (-1,), (1, 0), (1, 1)])
def test_rows_that_a_stream_has_not_are_refused(use):
    with pytest.raises(ContractError, match="expected ascending rows of its 3 tokens"):
        StreamContract("boxes", 3, 3, {}, use)


@pytest.mark.parametrize("action_space", ["absolute", "relative"])
def test_action_space_round_trip(action_space):
    codec = make_checkpoint(action_space=action_space).codec_of()
    actions, position = torch.randn(2, 4, 2, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    torch.testing.assert_close(codec.decode(codec.encode(actions, position), position), actions, atol=1e-6, rtol=0)
    moved = codec.decode(codec.encode(actions, position), position + torch.tensor([1.0, 2.0, 3.0]))
    shift = {"absolute": [0.0, 0.0], "relative": [3.0, 1.0]}[action_space]  # index, wrist: by name
    torch.testing.assert_close(moved - actions, torch.tensor(shift).double().expand_as(actions), atol=1e-6, rtol=0)


def test_relative_actions_need_measured_joints():
    contract = Contract("hand", ("wrist",), ("thumb",), 1, 4, ())
    with pytest.raises(ValueError, match=r"\['thumb'\] have none"):
        Codec(contract, normaliser(1, 0), normaliser(1, 0), "relative")
    with pytest.raises(ValueError, match="unknown action space 'polar'"):
        Codec(contract, normaliser(1, 0), normaliser(1, 0), "polar")
    with pytest.raises(ValueError, match="observation normaliser has 2 dimensions, expected 1"):
        Codec(contract, normaliser(2, 0), normaliser(1, 0), "absolute")


def test_constant_action_is_commanded_constant():
    rows = np.random.default_rng(0).normal(0, 1, (100, 2))
    rows[:, 1] = 0.25
    codec = Codec(CONTRACT, normaliser(11, 1), Normaliser.fit(VectorStatistics.of(rows)), "absolute")
    decoded = codec.decode(torch.randn(1, 4, 2), torch.zeros(1, 3))
    assert (decoded[..., 1] == 0.25).all() and decoded[..., 0].std() > 0


@pytest.mark.parametrize("network", ["residual_mlp", "dit"])
def test_same_seed_and_stamp_same_chunk(network):
    policy = FlowPolicy(make_checkpoint(network=network, solver="midpoint"))
    chunk, nfe = policy.sample(make_observation(), 3, 7)
    assert chunk.shape == (4, 2) and chunk.dtype == np.float64 and nfe == 6
    policy.sample(make_observation(stamp=99), 3, 7)
    np.testing.assert_array_equal(policy.sample(make_observation(), 3, 7)[0], chunk)
    assert np.abs(policy.sample(make_observation(stamp=6), 3, 7)[0] - chunk).max() > 1e-3
    assert np.abs(policy.sample(make_observation(), 3, 8)[0] - chunk).max() > 1e-3
    assert np.abs(policy.sample(make_observation(seed=1), 3, 7)[0] - chunk).max() > 1e-3


def test_keyed_noise_is_standard_normal_over_stamps():
    noise = torch.stack([keyed_noise(0, stamp, (4, 2)) for stamp in range(0, 2_000 * 10**7, 10**7)])
    assert abs(noise.mean().item()) < 0.03 and abs(noise.std().item() - 1) < 0.03


def test_observation_that_does_not_fit_is_named():
    policy = FlowPolicy(make_checkpoint())
    good = make_observation()
    with pytest.raises(ContractError, match="stream 'boxes' are missing"):
        policy.sample(Observation(5, good.joint_position, {"depth": good.features["depth"]}), 1, 0)
    with pytest.raises(ContractError, match=r"features 'depth' has shape \(1, 2, 2\), expected \(1, 1, 2\)"):
        policy.sample(Observation(5, good.joint_position, {**good.features, "depth": np.zeros((2, 2))}), 1, 0)
    with pytest.raises(ContractError, match=r"joint_position has shape \(1, 2\), expected \(1, 3\)"):
        policy.sample(Observation(5, np.zeros(2), good.features), 1, 0)


@pytest.mark.parametrize("network", ["residual_mlp", "dit"])
@pytest.mark.parametrize("action_space", ["absolute", "relative"])
def test_training_and_robot_agree(network, action_space, monkeypatch):
    """Same recorded tick, same noise: the training path's velocity at t = 0 is what the robot's first step uses.

    The robot's side goes through ``FlowPolicy.sample`` with one Euler step, the training's side through windows, batch,
    codec and ``compute_loss``. Tolerance 1e-6 in rad.
    """
    joints = ("wrist", "thumb", "index")
    contract = Contract("hand", joints, joints, 20, 4, CONTRACT.streams)
    checkpoint = make_checkpoint(contract, action_space, network)
    generator = np.random.default_rng(5)
    position, label = generator.standard_normal((2, 6, 3))
    stamps = np.arange(6, dtype=np.int64) * 10
    shapes = {stream.name: (6, stream.tokens, stream.channels) for stream in contract.streams}
    features = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    streams = {name: (stamps, values) for name, values in features.items()}
    windows = Windows([Episode("t", 0, True, 10, stamps, joints, position, label, label, streams)],
                      ["depth", "boxes"], 4, 20)  # fmt: skip
    tick = 2
    batch = windows.gather(windows.samples(0, 0).take(slice(tick, tick + 1)))
    tensors = tensors_of(checkpoint.codec_of(), batch)
    actions, mask = tensors.actions, tensors.mask

    noise = keyed_noise(3, int(stamps[tick]), (1, 4, 3))
    velocities = []
    trained = checkpoint.model.network.velocity

    def watched(x, t, cache):
        velocities.append(trained(x, t, cache))
        return velocities[-1]

    monkeypatch.setattr(torch, "randn", lambda *a, **k: noise)
    monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.zeros(1))
    monkeypatch.setattr(checkpoint.model.network, "velocity", watched)
    loss = checkpoint.model.train().compute_loss(actions, tensors.observation, mask)
    monkeypatch.undo()
    velocity = velocities[0].detach()
    target = actions - noise
    assert loss.item() == pytest.approx((velocity - target)[mask].square().mean().item(), rel=1e-5)

    observation = Observation(int(stamps[tick]), position[tick], {name: v[tick] for name, v in features.items()})
    chunk, _ = FlowPolicy(checkpoint).sample(observation, 1, 3)
    expected = checkpoint.codec_of().decode(noise + velocity, torch.from_numpy(batch.joint_position))[0]
    np.testing.assert_allclose(chunk, expected.numpy(), atol=1e-6)
