"""Training end to end on a small synthetic episode set, through the command line."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from objectives_support import ALL, OPPONENTS
from safetensors.torch import load_file
from test_parity import SIZES as FAMILY_SIZES

from flow_policy_ros.cli.train import main
from flow_policy_ros.data.episodes import Episode
from flow_policy_ros.data.windows import Batch
from flow_policy_ros.models.registry import NETWORKS
from flow_policy_ros.policy.checkpoint import load_checkpoint
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.runtime.types import Observation
from flow_policy_ros.training.augment import augment
from flow_policy_ros.training.config import DistillConfig, TrainConfig, TrainError
from flow_policy_ros.training.data import load_training_data
from flow_policy_ros.training.distill import distill
from flow_policy_ros.training.ema import Ema
from flow_policy_ros.training.loop import learning_rate
from flow_policy_ros.training.paths import check_deployment, raw_batch
from flow_policy_ros.training.trainer import train

SMALL = ["--sizes", "width=32", "blocks=2", "expansion=2", "time_width=16", "observation_width=16"]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def data(tmp_path):
    """Eight episodes of two joints that go to where a marker was seen."""
    folder = tmp_path / "data"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for seed in range(8):
        ticks = 60
        stamps = 10_000_000 * np.arange(1, ticks + 1, dtype=np.int64)
        goal = generator.uniform(-1, 1, 2)
        command = np.linspace(0, 1, ticks)[:, None] * goal
        marker = np.tile(goal.astype(np.float32), (ticks // 6, 1))[:, None, :]
        Episode("door", seed, True, 10_000_000, stamps, ("wrist", "thumb"), 0.9 * command, command, command,
                {"marker": (stamps[::6], marker)}).save(folder / f"{seed}.npz")  # fmt: skip
    (folder / "extractor.json").write_text(json.dumps({"marker": {"model": "test", "sha256": "ab"}}))
    return folder


def arguments(data, out, *more):
    return ["--data", str(data), "--out", str(out), "--streams", "marker", "--horizon", "4", "--batch", "32",
            "--warmup", "5", "--validation", "0.25", *SMALL, *more]  # fmt: skip


def test_end_to_end(data, tmp_path, capsys):
    out, figures = tmp_path / "run", tmp_path / "figures.json"
    assert main(arguments(data, out, "--steps", "60", "--delay-max", "0.05", "--json", str(figures))) == 0
    content = json.loads(figures.read_text())
    assert content["steps"] == 60 and content["samples_per_s"] > 0 and content["checkpoint"] == str(out)
    assert np.isfinite(content["loss"]) and content["validation"]["chunk_rmse"] < 1.0
    assert "trained 60 steps" in capsys.readouterr().out

    policy = FlowPolicy.load(out)
    assert policy.contract.robot == "adroit_door" and policy.contract.dt_ns == 20_000_000
    assert policy.contract.streams[0].extractor == {"model": "test", "sha256": "ab"}
    seen = {"marker": np.array([[0.5, -0.5]], dtype=np.float32)}
    chunk, nfe = policy.sample(Observation(7, np.zeros(2), seen), steps=4, seed=1)
    assert chunk.shape == (4, 2) and chunk.dtype == np.float64 and nfe == 4

    readme = (out / "README.md").read_text()
    assert "flow_policy train --data" in readme and "8 episodes of door (8 successful" in readme
    assert not [p for p in out.rglob("*") if p.suffix in (".pt", ".pkl", ".bin", ".partial")]
    assert list((out / "training" / "tensorboard").iterdir())


@pytest.fixture
def named(tmp_path):
    """Episodes whose detections are of three classes; the values of ``latch`` are the greatest."""
    folder = tmp_path / "named"
    folder.mkdir()
    generator = np.random.default_rng(0)
    stamps = 10_000_000 * np.arange(1, 41, dtype=np.int64)
    for seed in range(4):
        command = generator.standard_normal((40, 2)).cumsum(axis=0)
        values = generator.standard_normal((40, 3, 2)) + np.array([0, 50, 100])[:, None]
        Episode("door", seed, True, 10_000_000, stamps, ("wrist", "thumb"), command, command, command,
                {"detections": (stamps, values.astype(np.float32))}).save(folder / f"{seed}.npz")  # fmt: skip
    (folder / "extractor.json").write_text(json.dumps({"detections": {"classes": ["palm", "panel", "latch"]}}))
    return folder


def test_policy_observes_only_the_named_tokens(named, tmp_path, capsys):
    some = ["--streams", "detections", "--steps", "2"]
    assert main(arguments(named, tmp_path / "some", *some, "--tokens", "latch", "palm")) == 0
    codec = load_checkpoint(tmp_path / "some").codec_of()
    assert (codec.contract.streams[0].tokens, codec.contract.streams[0].use) == (3, (0, 2))
    assert "uses only palm, latch)" in (tmp_path / "some" / "README.md").read_text()
    # The statistics are those of the rows that the vector holds: joints, palm, latch.
    assert main(arguments(named, tmp_path / "all", *some)) == 0
    every = load_checkpoint(tmp_path / "all").codec_of().observation_normaliser
    kept = [0, 1, 2, 3, 6, 7]
    np.testing.assert_array_equal(codec.observation_normaliser.offset, every.offset[kept])
    np.testing.assert_array_equal(codec.observation_normaliser.scale, every.scale[kept])

    assert main(arguments(named, tmp_path / "none", *some, "--tokens", "latch", "door")) == 2
    assert "--tokens has ['door'], unknown" in (error := capsys.readouterr().err)
    assert "known: ['palm', 'panel', 'latch']" in error
    (named / "extractor.json").unlink()
    assert main(arguments(named, tmp_path / "none", *some, "--tokens", "latch")) == 2
    assert "expected 3, one per token, given []" in capsys.readouterr().err


def test_state_of_before_an_option_existed_is_continued(data, tmp_path, capsys):
    assert main(arguments(data, tmp_path / "run", "--steps", "2", "--stop-at", "1")) == 0
    state = tmp_path / "run" / "training" / "state.json"
    content = json.loads(state.read_text())
    del content["config"]["tokens"]
    state.write_text(json.dumps(content))
    assert main(arguments(data, tmp_path / "run", "--steps", "2", "--resume")) == 0


GUIDED = ["--condition-dropout", "0.2", "--prefix", "2", "--coupling", "optimal_transport", "--time-sampler", "beta"]


@pytest.mark.parametrize(
    ("network", "steps", "options"), [("residual_mlp", 200, []), ("dit", 20, []), ("residual_mlp", 20, GUIDED)]
)
def test_resume_is_identical(data, tmp_path, network, steps, options):
    """More than one epoch, so that the place in the data is restored too."""
    more = ["--network", network, "--steps", str(steps), "--joint-noise", "0.01", "--delay-max", "0.03", *options]
    assert main(arguments(data, tmp_path / "straight", *more)) == 0
    assert main(arguments(data, tmp_path / "halves", *more, "--stop-at", str(steps // 2))) == 0
    assert load_checkpoint(tmp_path / "halves").training["steps"] == steps // 2
    assert main(arguments(data, tmp_path / "halves", *more, "--resume")) == 0
    for name in ("model.safetensors", "training/state.safetensors"):
        straight, halves = (load_file(tmp_path / run / name) for run in ("straight", "halves"))
        assert straight.keys() == halves.keys()
        assert all(torch.equal(straight[k], halves[k]) for k in straight), name


@pytest.mark.parametrize("network", list(NETWORKS))
def test_a_family_is_one_option(data, tmp_path, network):
    """The same command otherwise, down to the chunk that the robot gets."""
    sizes = [f"{name}={value}" for name, value in FAMILY_SIZES[network].items()]
    command = arguments(data, tmp_path / "run", "--steps", "3", "--network", network)
    command[command.index("--sizes") + 1 : command.index("--sizes") + 1 + len(SMALL) - 1] = sizes
    assert main(command) == 0
    seen = {"marker": np.array([[0.5, -0.5]], dtype=np.float32)}
    chunk, nfe = FlowPolicy.load(tmp_path / "run").sample(Observation(7, np.zeros(2), seen), steps=2, seed=1)
    assert chunk.shape == (4, 2) and np.isfinite(chunk).all() and nfe == 2


@pytest.mark.parametrize("name", OPPONENTS)
def test_an_objective_is_one_option(data, tmp_path, name):
    """The same command otherwise, also to go on with it; and a README that says what was made."""
    command = arguments(data, tmp_path / "run", "--steps", "4", "--objective", name)
    assert main([*command, "--stop-at", "2"]) == 0 and main([*command, "--resume"]) == 0
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.model.objective == checkpoint.training["config"]["objective"] == name and checkpoint.training["steps"] == 4
    assert checkpoint.training["validation"].keys() == {"loss", "chunk_rmse"}
    assert all(np.isfinite(value) for value in checkpoint.training["validation"].values())
    readme = (tmp_path / "run" / "README.md").read_text()
    assert f"# {name.capitalize()} policy for adroit_door" in readme and "Flow: straight path" not in readme
    assert {"regression": "one pass of the network is the chunk", "diffusion": "sampled by DDIM"}[name] in readme
    seen = {"marker": np.array([[0.5, -0.5]], dtype=np.float32)}
    chunk, nfe = FlowPolicy.load(tmp_path / "run").sample(Observation(7, np.zeros(2), seen), steps=3, seed=1)
    assert chunk.shape == (4, 2) and np.isfinite(chunk).all() and nfe == {"regression": 1, "diffusion": 3}[name]


def test_a_run_is_not_continued_with_another_objective(data, tmp_path, capsys):
    assert main(arguments(data, tmp_path / "run", "--steps", "2", "--stop-at", "1")) == 0
    assert main(arguments(data, tmp_path / "run", "--steps", "2", "--objective", "regression", "--resume")) == 2
    assert "--objective was flow, now regression" in capsys.readouterr().err


@pytest.mark.parametrize("name", ALL)
def test_what_is_trained_is_what_is_deployed_whatever_the_objective(data, tmp_path, name):
    """By the gates that the objective has; those of distillation are a flow's affair."""
    config = TrainConfig(data=(data,), out=tmp_path / "run", streams=("marker",), sizes=("width=16",), steps=2, objective=name)
    train(config)
    checkpoint, batches = load_checkpoint(tmp_path / "run"), raw_batch(load_training_data(config))
    gates = check_deployment(checkpoint.model, checkpoint.codecs, tmp_path / "run", batches, name)
    assert {"velocity", "action_transform", "noise_padding"} <= {gate.name for gate in gates}
    assert not [gate for gate in gates if not gate.passed]
    if name == "flow":
        return
    with pytest.raises(TrainError, match=f"is a {name} policy, expected a flow: reflow straightens the paths of one"):
        distill(DistillConfig(teacher=tmp_path / "run", out=tmp_path / "student"))


def test_learns_the_goal(data, tmp_path):
    """The loss falls, and the held-out chunks come nearer, than after a handful of steps."""
    base = {"data": (data,), "streams": ("marker",), "horizon": 4, "batch": 64, "warmup": 10, "validation": 0.25,
            "sizes": ("width=64", "blocks=2", "observation_width=32", "time_width=16"), "lr": 3e-3,
            "ema_decay": 0.95}  # fmt: skip
    early = train(TrainConfig(out=tmp_path / "early", steps=5, **base))
    late = train(TrainConfig(out=tmp_path / "late", steps=400, **base))
    assert late.loss < 0.5 * early.loss
    assert late.validation["chunk_rmse"] < 0.7 * early.validation["chunk_rmse"]


def test_interruption_leaves_a_usable_checkpoint(data, tmp_path):
    """A real SIGINT after two steps; afterwards Ctrl-C means again what it meant before."""
    before = signal.getsignal(signal.SIGINT)

    def press_ctrl_c():
        if next(asked):
            os.kill(os.getpid(), signal.SIGINT)
        return False

    asked = iter([False, True, False])
    config = TrainConfig(data=(data,), out=tmp_path / "run", streams=("marker",), sizes=("width=16",), steps=50)
    result = train(config, interrupted=press_ctrl_c)
    assert result.steps == 2 and not result.finished
    assert load_checkpoint(tmp_path / "run").training["steps"] == 2
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "nowhere"], "nowhere holds no episodes"),
        (["--streams", "objects"], r"no feature stream 'objects', only ['marker']"),
        (["--tokens", "latch"], "--streams has only ['marker']"),
        (["--network", "transformer"], "unknown network 'transformer'; known: residual_mlp, unet1d, dit"),
        (["--sizes", "depth=3"], "has no size 'depth'"),
        (["--sizes", "width"], "expected name=number"),
        (["--chunk-dt", "0.015"], "a multiple of the episodes' tick"),
        (["--batch", "0"], "--batch is 0, expected at least 1"),
        (["--delay-min", "1"], "--delay-max is 0.0"),
        (["--objective", "regression", "--predicts", "chunk"], "objective regression has no flow, to which --predicts chunk would"),
        (["--delay-min", "9", "--delay-max", "9"], "features of every stream"),
    ],
)
def test_bad_input_is_refused_in_a_paragraph(data, tmp_path, capsys, more, message):
    assert main([*arguments(data, tmp_path / "run", "--steps", "1"), *more]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and error.count("\n") == 1
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_neither_overwrites_nor_continues_another_run(data, tmp_path, capsys):
    assert main(arguments(data, tmp_path / "run", "--steps", "1")) == 0
    assert main(arguments(data, tmp_path / "run", "--steps", "1")) == 2
    assert "already holds a checkpoint" in capsys.readouterr().err
    assert main(arguments(data, tmp_path / "run", "--steps", "1", "--lr", "0.1", "--resume")) == 2
    assert "--lr was 0.0005, now 0.1" in capsys.readouterr().err


def test_half_precision_weights(data, tmp_path):
    assert main(arguments(data, tmp_path / "run", "--steps", "2", "--store", "fp16", "--precision", "bf16")) == 0
    assert {w.dtype for w in load_file(tmp_path / "run" / "model.safetensors").values()} == {torch.float16}
    assert {p.dtype for p in load_checkpoint(tmp_path / "run").model.parameters()} == {torch.float32}


def test_learning_rate_warms_up_and_ends_at_zero():
    config = TrainConfig(data=(Path("x"),), out=Path("y"), lr=1.0, warmup=10, steps=110)
    rates = [learning_rate(config, step) for step in range(111)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    assert rates[60] == pytest.approx(0.5) and rates[110] == pytest.approx(0.0)


def test_ema_warms_up_to_its_decay():
    model = torch.nn.Linear(1, 1, bias=False)
    ema = Ema(model, 0.5)
    torch.nn.init.constant_(ema.model.weight, 0.0)
    torch.nn.init.constant_(model.weight, 1.0)
    ema.update(model, 1)
    assert ema.model.weight.item() == pytest.approx(1 - 2 / 11)
    ema.update(model, 1000)
    assert ema.model.weight.item() == pytest.approx(1 - 2 / 11 * 0.5)
    assert not ema.model.weight.requires_grad


def test_augmentation_keeps_what_was_not_seen():
    features = np.ones((200, 3, 5), dtype=np.float32)
    features[:, 1] = 0.0
    batch = Batch(np.zeros((200, 2)), {"d": features}, np.zeros((200, 4, 2)), np.ones((200, 4), dtype=bool))
    config = TrainConfig(data=(Path("x"),), out=Path("y"), joint_noise=0.1, feature_noise=0.2, feature_dropout=0.25)
    noisy = augment(batch, config, np.random.default_rng(0))
    assert (noisy.features["d"][:, 1] == 0).all() and (batch.features["d"][:, 0] == 1).all()
    dropped = (noisy.features["d"][:, [0, 2]] == 0).all(axis=2)
    assert 0.15 < dropped.mean() < 0.35
    assert noisy.features["d"][:, [0, 2]][~dropped].std() == pytest.approx(0.2, rel=0.1)
    assert noisy.joint_position.std() == pytest.approx(0.1, rel=0.2)
    assert augment(batch, TrainConfig(data=(Path("x"),), out=Path("y")), np.random.default_rng(0)).features["d"] is not None


def test_some_samples_hide_their_posture():
    position = np.random.default_rng(1).normal(size=(400, 3))
    history = np.repeat(position[:, None], 2, axis=1)
    batch = Batch(position, {}, np.zeros((400, 4, 2)), np.ones((400, 4), dtype=bool), joint_history=history)
    config = TrainConfig(data=(Path("x"),), out=Path("y"), state_dropout=0.4)
    shown = augment(batch, config, np.random.default_rng(0))
    hidden = (shown.joint_position != position).any(axis=1)
    assert 0.3 < hidden.mean() < 0.5
    assert np.allclose(shown.joint_position[hidden], position.mean(axis=0))
    assert shown.joint_history is not None and ((shown.joint_history != history).any(axis=(1, 2)) == hidden).all()
    assert (shown.joint_position[~hidden] == position[~hidden]).all()


def test_divergence_ends_the_run_and_saves_nothing(data, tmp_path, capsys):
    assert main(arguments(data, tmp_path / "run", "--steps", "20", "--lr", "1e30", "--warmup", "0")) == 1
    error = capsys.readouterr().err
    assert "the loss became NaN or Inf" in error and "lower --lr" in error and error.count("\n") == 1
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("option", ["--lr", "--joint-noise", "--delay-max", "--chunk-dt", "--weight-decay"])
def test_infinite_options_are_refused(data, tmp_path, capsys, option):
    assert main(arguments(data, tmp_path / "run", "--steps", "1", option, "inf")) == 2
    error = capsys.readouterr().err
    assert f"{option} is inf" in error and error.count("\n") == 1


def test_more_threads_than_sense_are_refused(data, tmp_path, capsys):
    assert main(arguments(data, tmp_path / "run", "--steps", "1", "--threads", "100000")) == 2
    assert "--threads is 100000, expected at most 256" in capsys.readouterr().err
