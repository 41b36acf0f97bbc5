"""What a network puts out: both meanings describe one velocity field, and every solver, guide and mask works on either."""

from __future__ import annotations

import pytest
import torch
from models_support import SIZES

from flow_policy_ros.flow.paths import straight_path
from flow_policy_ros.flow.predictions import LEAST_REMAINING, PREDICTIONS, make_prediction
from flow_policy_ros.flow.prefix import CleanPrefix
from flow_policy_ros.flow.solvers import make_solver
from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.policy.flow_model import FlowConfig, FlowModel

SHAPE = NetworkShape(state=3, horizon=4, action=2, tokens=1, channels=2)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_model(predicts: str, **flow: object) -> FlowModel:
    torch.manual_seed(0)
    model = FlowModel("residual_mlp", SIZES["residual_mlp"], SHAPE, FlowConfig(predicts=predicts, **flow)).eval()
    for parameter in model.parameters():  # last layers begin at zero
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def observed(batch: int) -> Conditioning:
    return Conditioning.of(drawn(batch, SHAPE.state, seed=1), drawn(batch, SHAPE.tokens, SHAPE.channels, seed=2))


@pytest.mark.parametrize("name", list(PREDICTIONS))
@pytest.mark.parametrize("times", [torch.tensor([0.0, 0.3, 0.94]), torch.tensor([[0.0, 0.1, 0.2, 0.9]]).expand(3, 4)])
def test_what_is_learned_is_the_velocity_of_the_path(name: str, times: torch.Tensor) -> None:
    noise, actions = drawn(3, 4, 2), drawn(3, 4, 2, seed=1)
    x, velocity = straight_path(noise, actions, times)
    prediction = make_prediction(name)
    torch.testing.assert_close(prediction.velocity(prediction.target(noise, actions), x, times), velocity, atol=2e-5, rtol=1e-5)


def test_at_the_end_the_velocity_stays_finite() -> None:
    output, x = drawn(2, 4, 2), drawn(2, 4, 2, seed=1)
    velocity = make_prediction("chunk").velocity(output, x, torch.ones(2))
    torch.testing.assert_close(velocity, (output - x) / LEAST_REMAINING)


def test_one_step_from_noise_is_the_output_itself() -> None:
    model, noise = random_model("chunk"), drawn(5, 4, 2)
    with torch.inference_mode():
        inner, _ = model.condition(observed(5))
        output = model.network.velocity(noise, torch.zeros(5), inner)
        torch.testing.assert_close(model.sample(observed(5), 1, noise).x, output, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("solver", ["heun", "rk4", "rk45"])
def test_solvers_that_ask_where_no_way_remains_are_refused(solver: str) -> None:
    with pytest.raises(ValueError, match="only the solvers euler and midpoint"):
        random_model("chunk").sample(observed(1), 2, solver=make_solver(solver))
    with pytest.raises(ValueError, match="only the solvers euler and midpoint"):
        random_model("chunk", solver=solver)


@pytest.mark.parametrize("solver", ["euler", "midpoint"])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_constant_output_is_reached_by_the_others(solver: str, steps: int) -> None:
    """The paths of a network that always says the same chunk are straight lines to it."""
    model = random_model("chunk")
    torch.nn.init.zeros_(model.network.out.weight)
    goal = model.network.out.bias.detach().view(1, 4, 2).expand(5, 4, 2)
    found = model.sample(observed(5), steps, drawn(5, 4, 2), solver=make_solver(solver)).x.detach()
    torch.testing.assert_close(found, goal, atol=1e-5, rtol=0)


def test_the_loss_lies_half_way_between_chunk_and_velocity() -> None:
    model, actions, noise, t = random_model("chunk"), drawn(5, 4, 2), drawn(5, 4, 2, seed=1), torch.full((5,), 0.5)
    mask = torch.ones(5, 4, 2, dtype=torch.bool)
    x, velocity = straight_path(noise, actions, t)
    asked = model.velocity(x, t, model.condition(observed(5)))
    loss = model.pair_loss(noise, actions, t, observed(5), mask)
    torch.testing.assert_close(loss, 0.5 * (asked - velocity).square().mean())


def test_padded_dimensions_and_guidance() -> None:
    torch.manual_seed(0)
    flow = FlowConfig(predicts="chunk", condition_dropout=0.1)
    model = FlowModel("residual_mlp", SIZES["residual_mlp"], SHAPE, flow, (1,)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    with torch.inference_mode():
        chunk = model.sample(observed(3), 4, drawn(3, 4, 2), guidance_scale=1.5).x
    assert chunk[:, :, 1].eq(0).all() and chunk[:, :, 0].ne(0).all() and chunk.isfinite().all()


def test_a_committed_prefix_stays_as_it_is() -> None:
    model, committed = random_model("chunk", prefix=2), drawn(1, 4, 2, seed=5)
    with torch.inference_mode():
        chunk = model.sample(observed(1), 5, drawn(1, 4, 2), guide=lambda v: CleanPrefix(v, committed, 2)).x
    assert torch.equal(chunk[:, :2], committed[:, :2]) and chunk.isfinite().all()


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown prediction 'noise'; known: velocity, chunk"):
        FlowModel("residual_mlp", SIZES["residual_mlp"], SHAPE, FlowConfig(predicts="noise"))
