"""What a network can be trained for besides a flow: what it learns, how it is sampled, kept, deployed, and what it refuses."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import test_models_learning as gaussians
import torch
from models_support import SIZES
from objectives_support import ALL, DIFFUSION, OPPONENTS, needs_diffusers
from test_policy import CONTRACT, make_checkpoint, make_observation

from flow_policy_ros.flow.paths import straight_path
from flow_policy_ros.flow.solvers import make_solver
from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.policy.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from flow_policy_ros.policy.deployed import deploy
from flow_policy_ros.policy.flow_model import FlowConfig, FlowModel
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.policy.objectives import CLIP, LEVELS, OBJECTIVES, Diffusion, ObjectiveError, make_scheduler, objective_of
from flow_policy_ros.runtime.parameters import ParameterError, PolicyParameters
from flow_policy_ros.runtime.policy_loop import PolicyLoop
from flow_policy_ros.runtime.types import Continuation

SHAPE = NetworkShape(state=3, horizon=4, action=2, tokens=1, channels=2)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_model(name: str, action_dims: tuple[int, ...] = (), std: float = 0.2) -> FlowModel:
    torch.manual_seed(0)
    model = objective_of(name)("residual_mlp", SIZES["residual_mlp"], SHAPE, FlowConfig(), action_dims).eval()
    for parameter in model.parameters():  # last layers begin at zero
        torch.nn.init.normal_(parameter, std=std)
    return model


def observed(batch: int) -> Conditioning:
    return Conditioning.of(drawn(batch, SHAPE.state, seed=1), drawn(batch, SHAPE.tokens, SHAPE.channels, seed=2))


def checkpoint_of(name: str) -> Checkpoint:
    """With the weights of ``make_checkpoint``, trained for something else."""
    flow = make_checkpoint()
    given = flow.model
    model = objective_of(name)("residual_mlp", vars(given.network_config), given.shape, FlowConfig(), given.action_dims).eval()
    model.load_state_dict(given.state_dict())
    return Checkpoint(model, flow.codecs)


# What is learned.


def taught(name: str, steps: int) -> FlowModel:
    """Of chunks at eight points on a circle, four of which belong to each observation (see ``test_models_learning``)."""
    torch.manual_seed(0)
    shape = NetworkShape(state=1, horizon=gaussians.HORIZON, action=2, tokens=2, channels=1)
    model = objective_of(name)("residual_mlp", SIZES["residual_mlp"], shape)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, betas=(0.9, 0.99), fused=True)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min(1.0, (k + 1) / 50, 3.0 * (1.0 - k / steps)))
    generator, mask = torch.Generator().manual_seed(1), torch.ones(256, gaussians.HORIZON, dtype=torch.bool)
    for _ in range(steps):
        bit = torch.randint(0, 2, (256,), generator=generator)
        chunks = gaussians.demonstrated(bit, generator)
        optimizer.zero_grad()
        model.compute_loss(chunks, gaussians.observed(bit, generator), mask, generator).backward()
        optimizer.step()
        rate.step()
    return model.eval()


def points(model: FlowModel, half: int, count: int) -> torch.Tensor:
    """Where sampled chunks stay, (count, 2)."""
    generator = torch.Generator().manual_seed(2)
    with torch.inference_mode():
        observation = gaussians.observed(torch.full((count,), half), generator)
        return model.sample(observation, 10, generator=generator).x.mean(dim=1)


@needs_diffusers
def test_diffusion_learns_every_mode() -> None:
    model = taught("diffusion", 800)
    for half in (0, 1):
        distance, mode = torch.cdist(points(model, half, 800), gaussians.MODES[half::2]).min(dim=1)
        near = distance < 3.5 * gaussians.SIGMA
        assert near.float().mean() > 0.85, "samples lie near a mode of their own half"
        assert torch.bincount(mode[near], minlength=4).min() >= 80, "all four modes are covered"


def test_regression_learns_the_mean_which_nobody_demonstrated() -> None:
    model = taught("regression", 100)
    for half in (0, 1):
        found = points(model, half, 20)
        assert found.norm(dim=1).max() < 0.3 * gaussians.RADIUS, "the middle of the circle"
        assert torch.cdist(found, gaussians.MODES).min() > 4 * gaussians.SIGMA, "far from all that was shown"


# How it is sampled.


def test_regression_is_one_pass_whatever_is_asked() -> None:
    model = random_model("regression")
    with torch.inference_mode():
        inner, _ = model.condition(observed(5))
        expected = model.network.velocity(torch.zeros(5, 4, 2), torch.zeros(5), inner)
        for steps, noise in ((1, None), (10, drawn(5, 4, 2)), (50, drawn(5, 4, 2, seed=3))):
            found = model.sample(observed(5), steps, noise)
            assert torch.equal(found.x, expected) and found.nfe == 1
    assert not FlowPolicy(checkpoint_of("regression")).noise(5, 1).any(), "what is shown of a policy is of the same pass"


def test_the_velocity_of_regression_leads_to_its_chunk() -> None:
    model = random_model("regression")
    with torch.inference_mode():
        cache = model.condition(observed(5))
        end = make_solver("euler").solve(lambda x, t: model.velocity(x, t, cache), drawn(5, 4, 2), 7).x
        torch.testing.assert_close(end, model.sample(observed(5), 1).x, atol=1e-5, rtol=0)


def test_the_loss_of_regression_is_the_squared_error_of_its_chunk() -> None:
    model, actions = random_model("regression"), drawn(5, 4, 2)
    mask = torch.tensor([True, True, True, False]).expand(5, 4)
    found = model.compute_loss(actions, observed(5), mask, torch.Generator().manual_seed(0))
    expected = (model.sample(observed(5), 1).x - actions)[:, :3].square().mean()
    torch.testing.assert_close(found, expected)


@needs_diffusers
@pytest.mark.parametrize(
    ("steps", "levels"), [(10, range(90, -1, -10)), (4, (75, 50, 25, 0)), (1, (50, 0)), (1000, range(99, -1, -1))]
)
def test_diffusion_is_sampled_by_ddim(steps: int, levels: tuple[int, ...]) -> None:
    """Song et al. 2021, eq. 12 with eta = 0, on the cosine schedule, both written out."""
    bar = [np.cos((k / LEVELS + 0.008) / 1.008 * np.pi / 2) ** 2 for k in range(LEVELS + 1)]
    kept = np.cumprod([1.0 - min(1.0 - bar[k + 1] / bar[k], 0.999) for k in range(LEVELS)])
    model, noise = random_model("diffusion", std=0.1), drawn(5, 4, 2)
    with torch.inference_mode():
        inner, _ = model.condition(observed(5))
        x = noise
        for level, following in zip(levels, (*levels[1:], None), strict=True):
            a, b = kept[level], 1.0 if following is None else kept[following]
            t = a**0.5 / (a**0.5 + (1 - a) ** 0.5)
            epsilon = model.network.velocity(x, torch.full((5,), t), inner)
            chunk = ((x - (1 - a) ** 0.5 * epsilon) / a**0.5).clamp(-CLIP, CLIP)
            x = b**0.5 * chunk + (1 - b) ** 0.5 * epsilon
        found = model.sample(observed(5), steps, noise)
    torch.testing.assert_close(found.x, x.float(), atol=1e-5, rtol=1e-5)
    assert found.nfe == len(levels) and found.x.abs().max() > 0.1


@needs_diffusers
def test_diffusion_is_trained_at_the_points_that_sampling_visits() -> None:
    """The noised chunk is the scheduler's own, at each of its levels."""
    model, scheduler = random_model("diffusion"), make_scheduler()
    assert isinstance(model, Diffusion)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    inner = model.network.velocity

    def looked_at(x: torch.Tensor, t: torch.Tensor, cache: object) -> torch.Tensor:
        seen.append((x, t))
        return inner(x, t, cache)

    model.network.velocity = looked_at  # type: ignore[method-assign]
    noise, actions, level = drawn(LEVELS, 4, 2), drawn(LEVELS, 4, 2, seed=1), torch.arange(LEVELS)
    times = torch.unique(model.draw_times(5000, torch.Generator().manual_seed(0))).flip(0)
    assert len(times) == LEVELS and times[0] > 0.97 and times[-1] < 1e-3, "every level is drawn"
    model.pair_loss(noise, actions, times, observed(LEVELS), torch.ones(LEVELS, 4, 2, dtype=torch.bool))
    torch.testing.assert_close(seen[0][0], scheduler.add_noise(actions, noise, level), atol=1e-5, rtol=0)
    model.sample(observed(1), LEVELS)
    torch.testing.assert_close(torch.cat([t for _, t in seen[1:]]).flip(0), times)


@needs_diffusers
@pytest.mark.parametrize("times", [torch.tensor([0.05, 0.3, 0.94]), torch.tensor([[0.1, 0.2, 0.3, 0.9]]).expand(3, 4)])
def test_the_velocity_of_diffusion_is_that_of_the_straight_path(times: torch.Tensor) -> None:
    """Of a network that knows the noise, since it is always the same."""
    model = random_model("diffusion")
    torch.nn.init.zeros_(model.network.out.weight)
    noise, actions = model.network.out.bias.detach().view(1, 4, 2).expand(3, 4, 2), drawn(3, 4, 2)
    x, velocity = straight_path(noise, actions, times)
    found = model.velocity(x, times, model.condition(observed(3))).detach()
    torch.testing.assert_close(found, velocity, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", OPPONENTS)
def test_padded_dimensions_stay_zero(name: str) -> None:
    model = random_model(name, (1,))
    with torch.inference_mode():
        chunk = model.sample(observed(3), 4, drawn(3, 4, 2)).x
        velocity = model.velocity(drawn(3, 4, 2), torch.full((3,), 0.5), model.condition(observed(3)))
    assert chunk[:, :, 1].eq(0).all() and chunk[:, :, 0].ne(0).all() and velocity[:, :, 1].eq(0).all()


# How it is kept and deployed.


@pytest.mark.parametrize("name", ALL)
def test_a_checkpoint_says_what_it_was_trained_for(tmp_path: Path, name: str) -> None:
    checkpoint = checkpoint_of(name)
    save_checkpoint(tmp_path, checkpoint)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["objective"] == name and config["format"] == (2 if name == "flow" else 3)
    back = load_checkpoint(tmp_path)
    assert type(back.model) is OBJECTIVES[name]
    chunk, nfe = FlowPolicy(checkpoint).sample(make_observation(), 4, 1)
    again, nfe_again = FlowPolicy.load(tmp_path).sample(make_observation(), 4, 1)
    np.testing.assert_array_equal(again, chunk)
    assert nfe == nfe_again == (1 if name == "regression" else 4)
    others = [checkpoint_of("flow" if name != "flow" else "regression")]
    assert all(np.abs(FlowPolicy(other).sample(make_observation(), 4, 1)[0] - chunk).max() > 1e-3 for other in others)


def test_a_checkpoint_of_before_there_were_objectives_is_a_flow(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, make_checkpoint())
    config = json.loads((tmp_path / "config.json").read_text())
    del config["objective"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert type(load_checkpoint(tmp_path).model) is FlowModel
    (tmp_path / "config.json").write_text(json.dumps(config | {"objective": "gan"}))
    with pytest.raises(CheckpointError, match="unknown objective 'gan'; known: flow, regression, diffusion"):
        load_checkpoint(tmp_path)


@needs_diffusers
def test_without_diffusers_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, checkpoint_of("diffusion"))
    monkeypatch.setitem(sys.modules, "diffusers.schedulers.scheduling_ddim", None)
    with pytest.raises(CheckpointError, match=r"by diffusers, which cannot .*; pip install -r requirements/benchmarks.txt\.$"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", OPPONENTS)
def test_it_is_deployed_like_others(tmp_path: Path, name: str) -> None:
    save_checkpoint(tmp_path, checkpoint_of(name))
    parameters = PolicyParameters(checkpoint=str(tmp_path))
    policy = deploy(parameters, "hand")
    single = [policy.sample(make_observation(stamp, stamp), 10, 0)[0] for stamp in (1, 2)]
    batch, _ = FlowPolicy.load(tmp_path).sample_batch([make_observation(stamp, stamp) for stamp in (1, 2)], 10, 0)
    np.testing.assert_allclose(batch, np.stack(single), atol=1e-5)
    loop = PolicyLoop(policy, replace(parameters, mode="ensemble"))
    for mode in ("rtc", "rtc_identity", "rtc_trained"):
        with pytest.raises(ParameterError, match=f"policy.mode is '{mode}', but a {name} policy .* use receding or ensemble"):
            loop.require(replace(parameters, mode=mode))
    previous = np.zeros((CONTRACT.horizon, len(CONTRACT.action_joints)))
    with pytest.raises(ValueError, match=f"continuation by rtc: a {name} policy"):
        policy.sample(make_observation(), 10, 0, Continuation("rtc", previous, 1, 2))


@pytest.mark.parametrize("name", OPPONENTS)
def test_what_belongs_to_flows_is_refused(tmp_path: Path, name: str) -> None:
    model = random_model(name)
    with pytest.raises(ObjectiveError, match="which nothing can guide"):
        model.sample(observed(1), 10, guide=lambda velocity: velocity)
    with pytest.raises(ObjectiveError, match="no velocity field to guide"):
        model.sample(observed(1), 10, guidance_scale=2.0)
    with pytest.raises(ObjectiveError, match="no velocity field to solve"):
        model.sample(observed(1), 10, solver=make_solver("midpoint"))
    with pytest.raises(ValueError, match="steps is 0"):
        model.sample(observed(1), 0)
    flow = FlowConfig(predicts="chunk", condition_dropout=0.1)
    with pytest.raises(ObjectiveError, match=f"{name} has no flow, to which --condition-dropout 0.1, --predicts chunk would"):
        objective_of(name)("residual_mlp", SIZES["residual_mlp"], SHAPE, flow)

    save_checkpoint(tmp_path, checkpoint_of(name))
    for parameters in (PolicyParameters(solver="midpoint"), PolicyParameters(guidance_scale=2.0)):
        with pytest.raises(ObjectiveError, match=f"a {name} policy has no velocity field"):
            deploy(replace(parameters, checkpoint=str(tmp_path)), "hand")


@pytest.mark.parametrize("name", ["regression", DIFFUSION])
def test_a_deadline_needs_steps(tmp_path: Path, name: str) -> None:
    save_checkpoint(tmp_path, checkpoint_of(name))
    parameters = PolicyParameters(checkpoint=str(tmp_path), deadline_s=10.0)
    if name == "regression":
        with pytest.raises(ValueError, match=r"policy.deadline_s is 10, but a regression policy has no solver steps .*to 0"):
            deploy(parameters, "hand")
    else:
        assert deploy(parameters, "hand").sample(make_observation(), 10, 0)[1] == 10
