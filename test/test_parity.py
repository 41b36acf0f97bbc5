"""Training and deployed path of every network agree: mode, cache, batch size, averaged weights, padding, times, guidance."""

import math
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_distill import two_modes

from flow_policy_ros.data.statistics import VectorStatistics
from flow_policy_ros.data.windows import Batch
from flow_policy_ros.flow.prefix import CleanPrefix
from flow_policy_ros.flow.real_time_chunking import RealTimeGuidance, rtc_weights
from flow_policy_ros.flow.solvers import SOLVERS, make_solver
from flow_policy_ros.models.registry import NETWORKS
from flow_policy_ros.policy.checkpoint import Checkpoint, save_checkpoint
from flow_policy_ros.policy.codec import Codec, network_shape, observation_dim
from flow_policy_ros.policy.flow_model import FlowConfig, FlowModel
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.policy.normaliser import Normaliser
from flow_policy_ros.runtime.contract import Contract, StreamContract
from flow_policy_ros.runtime.types import Observation
from flow_policy_ros.training.config import TrainConfig
from flow_policy_ros.training.data import load_training_data, tensors_of
from flow_policy_ros.training.loop import Loop
from flow_policy_ros.training.trainer import FlowMatching

TRUNK = {"time_width": 16, "observation_width": 16}
SIZES = {
    "residual_mlp": {"width": 32, "blocks": 2, "expansion": 2, **TRUNK},
    "unet1d": {"width": 8, "levels": 2, "kernel": 3, "groups": 4, **TRUNK},
    "dit": {"width": 16, "blocks": 2, "heads": 2, "expansion": 2, **TRUNK},
    "dit_cross": {"width": 16, "blocks": 2, "heads": 2, "expansion": 2, "time_width": 16, "state_width": 16},
    "embodiment_dit": {"width": 16, "pairs": 1, "heads": 2, "expansion": 2, "future": 2, "time_width": 16},
    "deep_features": {"width": 16, "layers": 2, "heads": 2, "hidden": 32, "prefix_width": 16, "prefix_hidden": 32},
}
COMPILER = next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "c++", "clang++"))), None)
HORIZON = 6
HAND = Contract(
    robot="hand",
    joints=("wrist", "thumb", "index"),
    action_joints=("index", "wrist", "thumb"),
    dt_ns=20_000_000,
    horizon=HORIZON,
    streams=(StreamContract("boxes", 2, 3, {}), StreamContract("depth", 1, 2, {})),
)
ARM = replace(
    HAND, robot="arm", joints=("elbow", "wrist"), action_joints=("wrist", "elbow"), streams=(StreamContract("boxes", 1, 3, {}),)
)
BOTH = (HAND, ARM)
every_network = pytest.mark.parametrize("network", list(NETWORKS))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def normaliser(size, seed):
    return Normaliser.fit(VectorStatistics.of(np.random.default_rng(seed).normal(0.3, 0.5, (200, size))))


def make_model(network, contracts=BOTH, **flow):
    """A network whose zero-initialised layers have random weights; on several robots it is padded."""
    dims = tuple(len(contract.action_joints) for contract in contracts)
    model = FlowModel(network, SIZES[network], network_shape(contracts), FlowConfig(**flow), dims)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.15, generator=generator)
    return model.eval()


def make_checkpoint(network, contracts=BOTH, action_space="relative", **flow):
    codecs = tuple(
        Codec(
            contract,
            normaliser(observation_dim(contract), 2 * k),
            normaliser(len(contract.action_joints), 2 * k + 1),
            action_space,
            network_shape(contracts),
            k,
        )
        for k, contract in enumerate(contracts)
    )
    return Checkpoint(make_model(network, contracts, **flow), codecs)


def raw_inputs(contract, size, seed=0):
    """A batch as windows cut it from episodes, in rad and features' own units."""
    generator = np.random.default_rng(seed)
    features = {s.name: generator.normal(0.3, 0.5, (size, s.tokens, s.channels)).astype(np.float32) for s in contract.streams}
    position = generator.normal(0.3, 0.5, (size, len(contract.joints)))
    actions = generator.normal(0.3, 0.5, (size, contract.horizon, len(contract.action_joints)))
    return Batch(position, features, actions, np.ones((size, contract.horizon), dtype=bool))


def as_observation(batch, row, stamp=5):
    return Observation(stamp, batch.joint_position[row], {name: values[row] for name, values in batch.features.items()})


def network_inputs(model, contracts=BOTH, size=8):
    """Noise, times, and a conditioning that holds ``size`` samples of each robot."""
    checkpoint = make_checkpoint(model.network_name, contracts)
    parts = [tensors_of(codec, raw_inputs(codec.contract, size, k)) for k, codec in enumerate(checkpoint.codecs)]
    observation = type(parts[0].observation).cat([part.observation for part in parts])
    generator = torch.Generator().manual_seed(3)
    return model.draw_noise(observation, generator), torch.rand(len(observation), generator=generator), observation


@every_network
@pytest.mark.parametrize("contract", BOTH, ids=lambda contract: contract.robot)
def test_same_raw_batch_same_velocity_and_chunk(network, contract, tmp_path):
    """The trainer's tensors in a batch of 8 in train mode, and the reloaded policy one observation at a time."""
    checkpoint = make_checkpoint(network)
    save_checkpoint(tmp_path, checkpoint)
    policy = FlowPolicy.load(tmp_path, robot=contract.robot)
    codec, batch = checkpoint.codec_of(contract.robot), raw_inputs(contract, 8)
    seen = tensors_of(codec, batch).observation
    model = checkpoint.model.train()
    x, t = model.draw_noise(seen), torch.rand(8)
    trained = model.velocity(x, t, model.condition(seen))
    assert trained[..., : len(contract.action_joints)].abs().amax(dim=(1, 2)).min() > 1e-2
    for row in range(8):
        one = policy.conditioning(as_observation(batch, row))
        some = slice(row, row + 1)
        deployed = policy.model.velocity(x[some], t[some], policy.model.condition(one))
        torch.testing.assert_close(deployed, trained[some], rtol=0, atol=1e-5)

    # And end to end: what the robot does with one Euler step is noise + the velocity that training sees at t = 0.
    chunk, nfe = policy.sample(as_observation(batch, 2, stamp=7), 1, seed=3)
    noise = policy.noise(7, 3)
    velocity = model.velocity(noise, torch.zeros(1), model.condition(seen.take(slice(2, 3))))
    expected = codec.decode(noise + velocity, torch.from_numpy(batch.joint_position[2:3]))[0]
    assert nfe == 1 and chunk.shape == (HORIZON, len(contract.action_joints))
    np.testing.assert_allclose(chunk, expected.detach().numpy(), rtol=0, atol=1e-5)


@every_network
def test_train_and_eval_mode_are_one_function(network):
    model = make_model(network)
    x, t, seen = network_inputs(model)
    evaluated = model.eval().velocity(x, t, model.condition(seen))
    assert torch.equal(model.train().velocity(x, t, model.condition(seen)), evaluated)


@every_network
def test_a_cached_condition_is_the_condition(network):
    """One cache for all steps of a chunk, against a new one at each; the cache is not used up."""
    model = make_model(network)
    x, _, seen = network_inputs(model)
    cached = model.sample(seen, 5, x).x
    fresh = model.solver.solve(lambda x, t: model.velocity(x, t, model.condition(seen)), x, 5).x
    assert torch.equal(cached, fresh)


@every_network
def test_a_sample_does_not_depend_on_its_batch(network):
    model = make_model(network)
    x, t, seen = network_inputs(model, size=4)
    together = model.velocity(x, t, model.condition(seen))
    for row in range(8):
        one = slice(row, row + 1)
        alone = model.velocity(x[one], t[one], model.condition(seen.take(one)))
        torch.testing.assert_close(alone, together[one], rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return two_modes(tmp_path_factory.mktemp("parity") / "data")


@every_network
def test_what_is_saved_is_the_averaged_model(network, data, tmp_path):
    config = TrainConfig(
        data=(data,), out=tmp_path, streams=("marker",), horizon=4, chunk_dt=0.01, batch=32, warmup=1, lr=1e-2, steps=8,
        network=network, sizes=tuple(f"{name}={size}" for name, size in SIZES[network].items()),
    )  # fmt: skip
    loop = Loop(config, FlowMatching(config, "", load_training_data(config)))
    loop.run()
    policy = FlowPolicy.load(tmp_path)
    seen = policy.conditioning(Observation(0, np.zeros(2), {"marker": np.ones((1, 1), dtype=np.float32)}))
    x, t = policy.noise(0, 0), torch.tensor([0.3])
    deployed, averaged, raw = (m.velocity(x, t, m.condition(seen)) for m in (policy.model, loop.ema.model, loop.model))
    assert torch.equal(deployed, averaged)
    assert (deployed - raw).abs().max() > 1e-3, "the weights of the last step are others"


@every_network
@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "rk45"])
def test_times_of_the_solver_are_times_of_training(network, solver):
    """At each time that the solver asks, one time per chunk and one per step give the velocity of the trained path's point."""
    model = make_model(network)
    noise, _, seen = network_inputs(model, size=2)
    asked = []

    def velocity(x, t):
        asked.append((x, t))
        return model.velocity(x, t, cache)

    cache = model.condition(seen)
    make_solver(solver).solve(velocity, noise, 10)
    assert [t[0].item() for _, t in asked] == pytest.approx(make_solver(solver).times(10), abs=1e-7)
    for x, t in asked:
        assert t.shape == (4,) and t.dtype == torch.float32
        per_step = model.velocity(x, t[:, None].repeat(1, HORIZON), cache)
        torch.testing.assert_close(per_step, model.velocity(x, t, cache), rtol=0, atol=1e-5)


@every_network
def test_times_of_training_come_to_the_network_as_drawn(network, monkeypatch):
    model = make_model(network)
    noise, t, seen = network_inputs(model, size=2)
    inner, given = model.network.velocity, []
    monkeypatch.setattr(model.network, "velocity", lambda x, t, cache: given.append((x, t)) or inner(x, t, cache))
    actions = model.draw_noise(seen)
    model.pair_loss(noise, actions, t, seen, model.real_mask(torch.ones(4, HORIZON), seen))
    (x, times), = given
    assert torch.equal(times, t)
    torch.testing.assert_close(x, (1 - t[:, None, None]) * noise + t[:, None, None] * actions)


@every_network
def test_condition_dropout_trains_the_null_observation(network):
    model = make_model(network, condition_dropout=0.3)
    _, _, seen = network_inputs(model, size=500)
    trained = model.training_pairs(model.draw_noise(seen), seen, torch.ones(1000, HORIZON))[3]
    null = model.null(seen)
    dropped = (trained.state == null.state).all(dim=1)
    assert 0.25 < dropped.float().mean() < 0.35
    for name in ("state", "tokens", "token_mask", "embodiment"):
        ours, theirs = getattr(trained, name), getattr(seen, name)
        assert torch.equal(ours[~dropped], theirs[~dropped]), name
        assert torch.equal(ours[dropped], getattr(null, name)[dropped]), name
    assert torch.equal(trained.embodiment, seen.embodiment)


@every_network
@pytest.mark.parametrize("null", ["learned", "zeros"])
def test_guidance_is_one_call_and_free_at_scale_one(network, null, monkeypatch):
    model = make_model(network, condition_dropout=0.2, null=null)
    x, _, seen = network_inputs(model, size=2)
    inner, calls = model.network.velocity, []
    monkeypatch.setattr(model.network, "velocity", lambda x, t, cache: calls.append(len(x)) or inner(x, t, cache))

    plain = model.solver.solve(lambda x, t: model.velocity(x, t, model.condition(seen)), x, 3)
    assert calls == [4, 4, 4]
    calls.clear()
    at_one = model.sample(seen, 3, x, guidance_scale=1.0)
    assert torch.equal(at_one.x, plain.x) and at_one.nfe == plain.nfe == 3 and calls == [4, 4, 4]
    calls.clear()
    guided = model.sample(seen, 3, x, guidance_scale=2.0)
    assert guided.nfe == 3 and calls == [8, 8, 8]

    unknown = replace(
        seen,
        state=model.null_state.expand_as(seen.state) if null == "learned" else torch.zeros_like(seen.state),
        tokens=model.null_tokens.expand_as(seen.tokens) if null == "learned" else torch.zeros_like(seen.tokens),
        token_mask=torch.ones_like(seen.token_mask),
    )
    v_null, v = (model.velocity(x, torch.zeros(4), model.condition(o)) for o in (unknown, seen))
    assert (v - v_null).abs().max() > 1e-3
    one_step = model.sample(seen, 1, x, guidance_scale=2.0).x
    torch.testing.assert_close(one_step, x + v_null + 2 * (v - v_null), rtol=0, atol=1e-5)


@every_network
def test_guidance_reaches_the_robot_and_needs_a_trained_null(network, tmp_path):
    guidable = make_checkpoint(network, condition_dropout=0.2)
    save_checkpoint(tmp_path, guidable)
    observation = as_observation(raw_inputs(ARM, 1), 0)
    chunks = [FlowPolicy.load(tmp_path, robot="arm", guidance_scale=scale).sample(observation, 2, 0) for scale in (1.0, 3.0)]
    assert np.abs(chunks[0][0] - chunks[1][0]).max() > 1e-3 and chunks[0][1] == chunks[1][1] == 2

    plain = make_checkpoint(network)
    with pytest.raises(ValueError, match="guidance_scale is not 1, but the model has no trained null condition"):
        FlowPolicy(plain, robot="arm", guidance_scale=2.0)
    with pytest.raises(ValueError, match="guidance_scale is not 1, but the model has no trained null condition"):
        plain.model.sample(network_inputs(plain.model)[2], 1, guidance_scale=0.0)


@every_network
@pytest.mark.parametrize("solver", ["euler", "rk4"])
def test_a_clean_prefix_is_kept_exactly(network, solver):
    """Both robots; the steps after the prefix are still sampled, and depend on it."""
    model = make_model(network)
    noise, _, seen = network_inputs(model, size=2)
    previous = model.draw_noise(seen)

    def sample(previous):
        start = CleanPrefix(lambda x, t: x, previous, 2).start(noise)
        return model.sample(seen, 3, start, guide=lambda v: CleanPrefix(v, previous, 2), solver=make_solver(solver)).x

    chunk = sample(previous)
    assert torch.equal(chunk[:, :2], previous[:, :2])
    assert (chunk[:, 2:] != noise[:, 2:])[..., :2].all() and (chunk[2:, :, 2] == 0).all()
    moved = sample(torch.where(previous != 0, previous + 1.0, 0.0))
    assert (moved - chunk)[:, 2:].abs().amax(dim=(1, 2)).min() > 1e-4


@every_network
def test_real_time_guidance_holds_the_prefix_through_the_network(network):
    model = make_model(network)
    noise, _, seen = network_inputs(model, size=2)
    previous = model.sample(seen, 10, model.draw_noise(seen, torch.Generator().manual_seed(9))).x.detach()
    weights = rtc_weights(HORIZON, 2, 2)
    with torch.no_grad():
        free = model.sample(seen, 10, noise).x
        guided = model.sample(seen, 10, noise, guide=lambda v: RealTimeGuidance(v, previous, weights)).x
    away = [(chunk - previous)[:, :2].norm() for chunk in (guided, free)]
    assert away[0] < 0.35 * away[1]
    assert (guided[2:, :, 2] == 0).all()


@every_network
def test_training_with_a_prefix_has_loss_on_the_rest_alone(network):
    model = make_model(network, prefix=3)
    _, _, seen = network_inputs(model, size=100)
    recorded = model.draw_noise(seen)
    mask = torch.ones(200, HORIZON, dtype=torch.bool)
    mask[0] = False
    noise, actions, t, observation, counted = model.training_pairs(recorded, seen, mask)
    assert t.shape == (200, HORIZON) and torch.equal(actions, recorded)
    committed = (t == 1.0).sum(dim=1)
    assert committed.unique().tolist() == [0, 1, 2, 3]
    prefix = torch.arange(HORIZON) < committed[:, None]
    assert torch.equal(t == 1.0, prefix) and (t[:, -1:].expand_as(t)[~prefix] == t[~prefix]).all()
    assert torch.equal(counted, model.real_mask(mask, seen) & ~prefix[:, :, None])
    # At time 1 the point is the action: the noise of committed steps is nowhere in the loss.
    loss = model.pair_loss(noise, actions, t, observation, counted)
    elsewhere = torch.where(prefix[:, :, None], noise + 1.0, noise)
    torch.testing.assert_close(model.pair_loss(elsewhere, actions, t, observation, counted), loss, rtol=1e-5, atol=0)


@every_network
def test_coupled_noise_is_the_drawn_noise_paired_anew(network):
    model = make_model(network, (HAND,), coupling="optimal_transport")
    _, _, seen = network_inputs(model, (HAND,), 16)
    recorded, mask = torch.randn(16, HORIZON, 3), torch.ones(16, HORIZON, dtype=torch.bool)
    drawn = model.draw_noise(seen, torch.Generator().manual_seed(1))
    pairs = model.training_pairs(recorded, seen, mask, torch.Generator().manual_seed(1))
    order = torch.cdist(pairs[0].flatten(1), drawn.flatten(1)).argmin(dim=1)
    assert sorted(order.tolist()) == list(range(16)) and order.tolist() != list(range(16))
    assert torch.equal(pairs[0], drawn[order])
    assert (pairs[0] - recorded).square().sum() < (drawn - recorded).square().sum()
    loss = model.compute_loss(recorded, seen, mask, torch.Generator().manual_seed(1))
    assert torch.equal(loss, model.pair_loss(*pairs)) and loss > 0


BAD = {
    "horizon": (lambda m, a, o, k: m.compute_loss(a[:, :-1], o, k), r"actions has shape \(16, 5, 3\), expected \(16, 6, 3\)"),
    "width": (lambda m, a, o, k: m.compute_loss(a[:, :, :1], o, k), r"actions has shape \(16, 6, 1\), expected \(16, 6, 3\)"),
    "batch": (lambda m, a, o, k: m.compute_loss(a[:1], o, k), r"actions has shape \(1, 6, 3\), expected \(16, 6, 3\)"),
    "noise horizon": (lambda m, a, o, k: m.sample(o, 1, a[:, :-1]), r"noise has shape \(16, 5, 3\), expected \(16, 6, 3\)"),
    "mask": (lambda m, a, o, k: m.compute_loss(a, o, k[:, :1]), r"mask has shape \(16, 1\), expected \(16, 6\)"),
    "state": (lambda m, a, o, k: m.sample(narrow(o, "state"), 1, a), r"state has shape \(16, 2\), expected \(16, 3\)"),
    "tokens": (lambda m, a, o, k: m.sample(narrow(o, "tokens"), 1, a), r"tokens has shape \(16, 3, 2\), expected \(16, 3, 3\)"),
    "embodiment": (
        lambda m, a, o, k: m.sample(replace(o, embodiment=o.embodiment + 1), 1, a),
        r"embodiment is \[1, 2\], expected numbers from 0 to 1",
    ),
    "embodiment in training": (
        lambda m, a, o, k: m.compute_loss(a, replace(o, embodiment=5 + o.embodiment), k),
        r"embodiment is \[5, 6\], expected numbers from 0 to 1",
    ),
    "embodiment without noise": (
        lambda m, a, o, k: m.sample(replace(o, embodiment=o.embodiment - 3), 1),
        r"embodiment is \[-3, -2\], expected numbers from 0 to 1",
    ),
    "NaN in actions": (lambda m, a, o, k: m.compute_loss(broken(a), o, k), "actions holds NaN or Inf, expected finite"),
    "NaN in noise": (lambda m, a, o, k: m.sample(o, 1, broken(a)), "noise holds NaN or Inf, expected finite numbers"),
    "NaN in state": (
        lambda m, a, o, k: m.compute_loss(a, replace(o, state=broken(o.state)), k),
        "state of the observation holds NaN or Inf, expected finite numbers",
    ),
    "Inf in tokens": (
        lambda m, a, o, k: m.sample(replace(o, tokens=broken(o.tokens, math.inf)), 1, a),
        "tokens of the observation holds NaN or Inf, expected finite numbers",
    ),
    "no step": (lambda m, a, o, k: m.sample(o, 0, a), "steps is 0, expected at least 1"),
    "time": (
        lambda m, a, o, k: m.pair_loss(a, a, torch.zeros(1), o, k), r"time has shape \(1,\), expected \(16,\) or \(16, 6\)",
    ),
}  # fmt: skip
"""Of model, actions, observation and mask."""


def narrow(observation, field):
    """One column fewer."""
    return replace(observation, **{field: getattr(observation, field)[..., :-1]})


def broken(values, fault=math.nan):
    values = values.clone()
    values.view(-1)[0] = fault
    return values


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler; install g++")
def test_a_compiled_velocity_is_the_velocity():
    model = make_model("residual_mlp")
    x, _, seen = network_inputs(model)
    cache = model.condition(seen)
    with torch._inductor.config.patch(compile_threads=1), torch.no_grad():
        compiled = torch.compile(model.velocity, fullgraph=True)
        chunk = model.solver.solve(lambda x, t: compiled(x, t, cache), x, 4).x
    torch.testing.assert_close(chunk, model.sample(seen, 4, x).x.detach(), rtol=0, atol=1e-5)


@every_network
@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_named(network, bad):
    model = make_model(network)
    actions, _, seen = network_inputs(model)
    act, message = BAD[bad]
    with pytest.raises(ValueError, match=message):
        act(model, actions, seen, torch.ones(16, HORIZON, dtype=torch.bool))
