"""Parity gates: each one's fault planted, and seen by its name; nothing is trained or written after one that failed."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from test_distill import in_small, short, teach, two_modes
from test_parity import make_checkpoint, raw_inputs
from torch import nn

from flow_policy_ros.cli.main import main
from flow_policy_ros.flow.solvers import make_solver
from flow_policy_ros.flow.time_samplers import make_time_sampler
from flow_policy_ros.models.conditioning import Conditioning
from flow_policy_ros.policy.checkpoint import write_tensors
from flow_policy_ros.policy.codec import Codec
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.training import distill as distill_module
from flow_policy_ros.training.distill import Reflow, distill
from flow_policy_ros.training.ema import Ema
from flow_policy_ros.training.gates import Batch, Gate, GateError, check_pairs, check_paths, check_times, require
from flow_policy_ros.training.loop import Loop
from flow_policy_ros.training.pairs import PairInfo, Pairs, sample_pairs
from flow_policy_ros.training.paths import deployed_path, training_path

CHECKPOINT = make_checkpoint("residual_mlp")
CODEC = CHECKPOINT.codec_of("arm")
"""Two of three action dimensions are real, one of three tokens."""


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def failed(gates):
    return {gate.name for gate in gates if not gate.passed}


def paths():
    policy = FlowPolicy(CHECKPOINT, robot="arm")
    return training_path(CHECKPOINT.model, CODEC), deployed_path(policy)


def batch():
    raw = raw_inputs(CODEC.contract, 32)
    features = {name: torch.from_numpy(values) for name, values in raw.features.items()}
    return Batch(torch.from_numpy(raw.joint_position), features, torch.from_numpy(raw.actions))


# Faults of one path. Each takes a sound path and returns one with the fault.


def through(layer):
    """The velocity goes through ``layer`` too, in train mode."""
    return lambda path: replace(
        path, module=nn.Sequential(path.module, layer).train(), velocity=lambda x, t, seen: layer(path.velocity(x, t, seen))
    )


class Channels(nn.BatchNorm1d):
    """Batch norm of the action dimensions of (B, H, A)."""

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def noise(change):
    return lambda path: replace(path, noise=lambda seen: change(path.noise(seen)))


def velocity(change):
    return lambda path: replace(path, velocity=lambda x, t, seen: change(path.velocity, x, t, seen))


def seen(change):
    return lambda path: replace(path, observation=lambda *raw: change(path.observation(*raw)))


def other_codec(**parts):
    """Encodes and decodes as another codec would."""
    codec = Codec(
        CODEC.contract,
        CODEC.observation_normaliser,
        parts.get("action_normaliser", CODEC.action_normaliser),
        parts.get("action_space", "relative"),
        CODEC.shape,
        CODEC.embodiment,
    )
    return lambda path: replace(path, encode=codec.encode, decode=codec.decode)


def of_model(change):
    """The velocities of a changed copy of the model."""
    model = copy.deepcopy(CHECKPOINT.model)
    with torch.no_grad():
        for parameter in model.parameters():
            change(parameter)
    return lambda path: replace(path, module=model, velocity=lambda x, t, o: model.velocity(x, t, model.condition(o)))


def averaged():
    """The weights of another optimiser step than the last."""
    ema = Ema(CHECKPOINT.model, 0.9)
    raw = copy.deepcopy(CHECKPOINT.model)
    with torch.no_grad():
        for parameter in raw.parameters():
            parameter.add_(0.01 * torch.sign(parameter))
    ema.update(raw, 1000)
    model = ema.model
    return lambda path: replace(path, module=model, velocity=lambda x, t, o: model.velocity(x, t, model.condition(o)))


SCALED = replace(CODEC.action_normaliser, scale=1.01 * CODEC.action_normaliser.scale)
PATH_FAULTS = {
    # Dropout and batch statistics also change the velocity that they are part of.
    "dropout in train mode": ("mode", through(nn.Dropout(0.1)), {"velocity"}),
    "dropout that this velocity does not pass": (
        "mode", lambda path: replace(path, module=nn.Sequential(path.module, nn.Dropout(0.1)).train()), set(),
    ),
    "batch norm in train mode": ("mode", through(Channels(3)), {"velocity"}),
    "noise in float64": ("noise_dtype", noise(lambda drawn: drawn.double()), set()),
    "noise drawn in half precision": ("noise_dtype", noise(lambda drawn: drawn.half().float()), set()),
    "noise drawn in bfloat16": ("noise_dtype", noise(lambda drawn: drawn.bfloat16().float()), set()),
    "noise of the padded width": ("noise_padding", noise(torch.randn_like), set()),
    "noise too wide": ("noise_distribution", noise(lambda drawn: 1.3 * drawn), set()),
    "noise off zero": ("noise_distribution", noise(lambda drawn: torch.where(drawn != 0, drawn + 0.5, 0.0)), set()),
    "uniform noise": ("noise_distribution", noise(lambda drawn: torch.where(drawn != 0, torch.rand_like(drawn), 0.0)), set()),
    "one noise for every sample": ("noise_distribution", noise(lambda drawn: drawn[:1].expand_as(drawn)), set()),
    "statistics of another training": ("normaliser", lambda path: replace(path, normaliser_sha256="0" * 64), set()),
    # What the network sees decides what it answers.
    "a scale on the state": ("observation_transform", seen(lambda o: replace(o, state=1.01 * o.state)), {"velocity"}),
    "tokens clipped": ("observation_transform", seen(lambda o: replace(o, tokens=o.tokens.clamp(-1, 1))), {"velocity"}),
    "absolute for relative actions": ("action_transform", other_codec(action_space="absolute"), set()),
    "a scale on the actions": ("action_transform", other_codec(action_normaliser=SCALED), set()),
    "weights that differ a little": ("velocity", of_model(lambda weights: weights.add_(1e-3)), set()),
    "averaged for raw weights": ("velocity", averaged(), set()),
    "half-precision weights": ("velocity", of_model(lambda weights: weights.copy_(weights.bfloat16().float())), set()),
    "time counted from data": ("velocity", velocity(lambda v, x, t, o: v(x, 1 - t, o)), set()),
    "time in thousandths": ("velocity", velocity(lambda v, x, t, o: v(x, 1000 * t, o)), set()),
    "the opposite velocity": ("velocity", velocity(lambda v, x, t, o: -v(x, t, o)), set()),
    "no observation": (
        "velocity", velocity(lambda v, x, t, o: v(x, t, replace(o, state=torch.zeros_like(o.state)))), set(),
    ),
    "NaN as velocity": ("velocity", velocity(lambda v, x, t, o: math.nan * v(x, t, o)), set()),
}  # fmt: skip


def test_without_a_fault_every_gate_passes():
    gates = check_paths(*paths(), batch())
    assert not failed(gates) and len(gates) == 9
    require(gates)


@pytest.mark.parametrize("fault", PATH_FAULTS)
@pytest.mark.parametrize("side", ["training", "deployed"])
def test_a_fault_on_one_path_is_named(fault, side):
    name, plant, follow = PATH_FAULTS[fault]
    training, deployed = paths()
    if side == "training":
        training = plant(training)
    else:
        deployed = plant(deployed)
        name = "mode_deployed" if name == "mode" else name
    gates = check_paths(training, deployed, batch())
    assert failed(gates) == {name} | follow
    with pytest.raises(GateError, match=f"^{1 + len(follow)} of 9 parity gates failed, nothing was trained .*'{name}': "):
        require(gates)


def test_another_embodiment_is_seen_otherwise_and_has_other_padding():
    training, deployed = paths()
    wrong = seen(lambda o: replace(o, embodiment=torch.zeros_like(o.embodiment)))(training)
    assert failed(check_paths(wrong, deployed, batch())) == {"observation_transform", "noise_padding", "velocity"}


def test_noise_that_is_no_number_is_no_standard_normal():
    training, deployed = paths()
    assert failed(check_paths(training, noise(lambda drawn: math.nan * drawn)(deployed), batch())) == {
        "noise_distribution", "noise_padding"}  # fmt: skip


def test_eval_mode_makes_dropout_and_batch_norm_harmless():
    training, deployed = paths()
    layers = nn.Sequential(nn.Dropout(0.5), Channels(3))
    assert not failed(check_paths(replace(training, module=layers.eval()), deployed, batch()))
    assert failed(check_paths(replace(training, module=layers.train()), deployed, batch())) == {"mode"}
    assert not failed(check_paths(replace(training, module=nn.Dropout(0.0).train()), deployed, batch()))


# Training times against the solver's grid.


class Drawn:
    """Times of ``draw``, said to be from ``support``."""

    def __init__(self, draw, support=(0.0, 1.0)):
        self.draw, self.support = draw, support

    def sample(self, batch, generator=None):
        return self.draw(torch.rand(batch, generator=generator))


TIME_FAULTS = {
    "pi0's beta for a solver that evaluates at 1": (make_time_sampler("beta"), "heun", (1,), r"from 0 to 0\.999 .* t = 1 of 1"),
    "beta near data for the first step": (Drawn(lambda u: u ** (1 / 6)), "euler", (1, 10), r"t = 0 of 1 steps \(0"),
    "never 0": (Drawn(lambda u: 0.05 + 0.95 * u, (0.05, 1.0)), "euler", (1,), r"from 0\.05 to 1 and hardly ever t = 0 of 1"),
    "never above 0.85": (Drawn(lambda u: 0.85 * u, (0.0, 0.85)), "euler", (1, 10), r"to 0\.85 and hardly ever t = 0\.9 of 10"),
    "never above 0.85, said to be": (Drawn(lambda u: 0.85 * u), "euler", (10,), r"t = 0\.9 of 10 steps \(0\.00% of the draws"),
    "one step for ten": (Drawn(lambda u: 0 * u, (0.0, 0.0)), "euler", (1, 10), r"t = 0\.1 of 10 .* t = 0\.4 of 10"),
    "noise too often": (
        Drawn(lambda u: torch.where(u < 0.95, 0.0, (u - 0.95) / 0.05)), "euler", (2,), r"t = 0\.5 of 2 steps \(1\.",
    ),
    "a grid of thirds": (Drawn(lambda u: torch.floor(3 * u) / 3), "euler", (3, 4), r"t = 0\.25 of 4 .* t = 0\.5 of 4"),
}  # fmt: skip


@pytest.mark.parametrize("fault", TIME_FAULTS)
def test_times_that_training_hardly_draws_are_named(fault):
    sampler, solver, steps, found = TIME_FAULTS[fault]
    gates = check_times(sampler, make_solver(solver), steps)
    assert failed(gates) == {"time_grid"}
    with pytest.raises(GateError, match=found):
        require(gates)


@pytest.mark.parametrize(
    ("sampler", "solver", "steps"),
    [(Drawn(lambda u: 0 * u, (0.0, 0.0)), "euler", (1,)), (Drawn(lambda u: torch.floor(4 * u) / 4), "euler", (1, 2, 4))]
    + [(make_time_sampler(name), "euler", (1, 2, 4, 10)) for name in ("uniform", "from_noise", "beta", "groot_n1", "groot_n16")]
    + [(make_time_sampler("uniform"), name, (1, 2, 4, 10)) for name in ("midpoint", "heun", "rk4")],
)  # fmt: skip
def test_times_that_training_draws_pass(sampler, solver, steps):
    """Also those of one step for one step, and of a grid for its solver."""
    assert not failed(check_times(sampler, make_solver(solver), steps))


# Stored pairs.

INFO = PairInfo("ab" * 32, ("cd" * 32, "ef" * 32), "euler", 4, 3, 32)


def pairs_of(info=INFO, solver="euler"):
    """The pairs that the teacher makes by ``info`` of both robots' observations."""
    raws = [(codec, raw_inputs(codec.contract, 16)) for codec in CHECKPOINT.codecs]
    seen = Conditioning.cat([
        codec.observation(torch.from_numpy(raw.joint_position), {k: torch.from_numpy(v) for k, v in raw.features.items()})
        for codec, raw in raws
    ])  # fmt: skip
    model = copy.copy(CHECKPOINT.model)
    model.solver = make_solver(solver)
    return sample_pairs(model, info, seen, 0)


def told(**change):
    return lambda info, pairs: (replace(info, **change), pairs)


def stored(change):
    return lambda info, pairs: (info, change(pairs))


PAIR_FAULTS = {
    "pairs of another teacher": ("teacher", told(weights_sha256="00" * 32), set()),
    "other statistics": ("normaliser_pairs", told(normaliser_sha256=("cd" * 32, "00" * 32)), set()),
    "embodiments in another order": ("normaliser_pairs", told(normaliser_sha256=("ef" * 32, "cd" * 32)), set()),
    "more steps": ("step_count", told(steps=5), set()),
    "another solver": ("step_count", told(solver="heun"), set()),
    "data to noise": ("direction", told(direction="data to noise"), set()),
    # Such chunks are not the teacher's either.
    "solved backwards": (
        "direction", stored(lambda pairs: replace(pairs, chunk=2 * pairs.noise - pairs.chunk)), {"regenerate"},
    ),
    "chunks that are no number": ("regenerate", stored(lambda p: replace(p, chunk=math.nan * p.chunk)), {"direction"}),
    "noise and chunk exchanged": ("swapped_pairs", stored(lambda p: replace(p, noise=p.chunk, chunk=p.noise)), set()),
    "noise of another seed": (
        "pair_noise", stored(lambda p: replace(p, noise=0.99 * p.noise + 0.1 * pairs_of(replace(INFO, seed=4)).noise)), set(),
    ),
    "noise in half precision": ("pair_noise", stored(lambda p: replace(p, noise=p.noise.half().float())), set()),
    "noise on padded dimensions": (
        "pair_noise", stored(lambda p: replace(p, noise=torch.where(p.noise == 0, 0.5, p.noise))), set(),
    ),
    "chunks of another row": ("regenerate", stored(lambda p: replace(p, chunk=turned(p))), set()),
    "chunks by more steps than told": ("regenerate", lambda info, pairs: (info, pairs_of(replace(info, steps=8))), set()),
    "chunks by another solver than told": ("regenerate", lambda info, pairs: (info, pairs_of(info, "midpoint")), set()),
    "observations of another row": ("regenerate", lambda info, pairs: (info, reobserved(pairs)), set()),
}  # fmt: skip


def turned(pairs):
    """Chunks turned by one row within each robot."""
    return torch.cat([half.roll(1, dims=0) for half in pairs.chunk.chunk(2)])


def reobserved(pairs):
    """What the teacher makes of the same noise where observations have been turned by one row within each robot."""
    order = torch.cat([torch.arange(16).roll(1), 16 + torch.arange(16).roll(1)])
    return sample_pairs(CHECKPOINT.model, INFO, pairs.observation.take(order), 0)


def test_pairs_that_are_the_teachers_pass():
    assert not failed(check_pairs(INFO, INFO, pairs_of(), pairs_of()))


@pytest.mark.parametrize("fault", PAIR_FAULTS)
def test_a_fault_of_stored_pairs_is_named(fault):
    name, plant, follow = PAIR_FAULTS[fault]
    made = pairs_of()
    info, pairs = plant(INFO, made)
    gates = check_pairs(info, INFO, pairs, made)
    assert failed(gates) == {name} | follow
    with pytest.raises(GateError, match=f"^{1 + len(follow)} of 7 .*'{name}': "):
        require(gates)


def test_every_gate_has_a_planted_fault():
    there = {gate.name for gate in check_paths(*paths(), batch()) + check_pairs(INFO, INFO, pairs_of(), pairs_of())}
    there |= {gate.name for gate in check_times(make_time_sampler("uniform"), make_solver("euler"), (1,))}
    planted = {name for name, _, _ in [*PATH_FAULTS.values(), *PAIR_FAULTS.values()]}
    assert there == planted | {"time_grid", "mode_deployed"}


def test_all_failures_are_told_and_no_other():
    with pytest.raises(GateError) as caught:
        require([Gate("a", False, "x"), Gate("b", True, "y"), Gate("c", False, "z")])
    assert "2 of 3 parity gates failed" in str(caught.value) and "'a': x; 'c': z." in str(caught.value)
    assert "y" not in str(caught.value).split(":", 1)[1] and isinstance(caught.value, ValueError)
    require([])


# Distillation refuses.


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("gates")
    return teach(two_modes(folder / "data"), folder / "teacher", 60)


def dropping(teacher, sampler):
    student = student_of(teacher, sampler)
    student.network.observe = nn.Sequential(student.network.observe, nn.Dropout(0.1))
    return student


student_of, conditioning, draw = distill_module.student_of, FlowPolicy.conditioning, FlowPolicy.noise


def plant_times(patch):
    patch.setattr(distill_module, "make_time_sampler", lambda name: Drawn(lambda u: 0.85 * u, (0.0, 0.85)))


def plant_noise(patch):
    patch.setattr(FlowPolicy, "noise", lambda self, stamp, seed: 2.0 * draw(self, stamp, seed))


def plant_observation(patch):
    def scaled(self, observation):
        return replace(right := conditioning(self, observation), state=1.01 * right.state)

    patch.setattr(FlowPolicy, "conditioning", scaled)


def plant_dropout(patch):
    patch.setattr(distill_module, "student_of", dropping)


BEFORE = {"time_grid": plant_times, "noise_distribution": plant_noise, "observation_transform": plant_observation}


def nothing_may_train(patch):
    def trained(*_):
        raise AssertionError("it trains")

    patch.setattr(Loop, "run", trained)


@pytest.mark.parametrize("name", BEFORE)
def test_distillation_refuses_before_anything_is_made(teacher, tmp_path, monkeypatch, name):
    in_small(monkeypatch)
    nothing_may_train(monkeypatch)
    BEFORE[name](monkeypatch)
    with pytest.raises(GateError, match=f"'{name}': "):
        distill(short(teacher, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_distillation_refuses_a_student_with_dropout_before_it_trains(teacher, tmp_path, monkeypatch):
    in_small(monkeypatch)
    nothing_may_train(monkeypatch)
    plant_dropout(monkeypatch)
    with pytest.raises(GateError, match=r"'mode': uniform student before: .* runs network\.observe\.1 \(Dropout\) in train mode"):
        distill(short(teacher, tmp_path / "run"))
    assert not (tmp_path / "run" / "rectified").exists()


def test_distillation_refuses_tampered_pairs(teacher, tmp_path, monkeypatch):
    """Pairs made in one run, noise and chunk exchanged on disk, found by the run that continues."""
    in_small(monkeypatch)
    calls = iter([False] * 3 + [True] * 2)
    assert not distill(short(teacher, tmp_path / "run"), interrupted=lambda: next(calls)).finished
    for path in (tmp_path / "run" / "pairs").glob("shard_*"):
        content = distill_module.read_shard(path.parent, int(path.stem[-5:]))
        exchanged = Pairs(content.chunk, content.noise, content.observation)
        seen = vars(exchanged.observation).items()
        fields = {f"observation/{name}": value for name, value in seen if value is not None}
        write_tensors(path, {"noise": exchanged.noise, "chunk": exchanged.chunk} | fields)
    nothing_may_train(monkeypatch)
    with pytest.raises(GateError, match=r"^1 of .*'swapped_pairs': noise and chunk have changed places"):
        distill(short(teacher, tmp_path / "run", resume=True))


def test_distillation_refuses_when_raw_weights_were_saved(teacher, tmp_path, monkeypatch):
    """After the first stage: what is deployed is not the average that was trained; the second stage does not begin."""
    in_small(monkeypatch)
    save = Reflow.save
    monkeypatch.setattr(Reflow, "save", lambda self, averaged, steps, validation: save(self, self.model, steps, validation))
    with pytest.raises(GateError, match=r"^1 of .*'velocity': uniform student: velocities differ by"):
        distill(short(teacher, tmp_path / "run", lr=0.01))
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_half_precision_weights_are_the_averaged_ones_as_stored(teacher, tmp_path, monkeypatch):
    in_small(monkeypatch)
    distilled = distill(short(teacher, tmp_path / "run", store="fp16"))
    assert distilled.finished and "velocity" in {gate.name for gate in distilled.gates}


@pytest.mark.parametrize(("name", "plant"), [("noise_distribution", plant_noise), ("mode", plant_dropout)])
def test_the_command_ends_with_1_and_the_gates_name(teacher, tmp_path, monkeypatch, capsys, name, plant):
    in_small(monkeypatch)
    nothing_may_train(monkeypatch)
    plant(monkeypatch)
    out = tmp_path / "run"
    command = ["distill", "--teacher", str(teacher), "--out", str(out), "--count", "64", "--json", str(tmp_path / "f.json")]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert f"'{name}': " in error and "parity gates failed" in error and error.count("\n") == 1
    assert not (tmp_path / "f.json").exists() and not list(out.rglob("model.safetensors"))
