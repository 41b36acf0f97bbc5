"""Exported graphs give the network's chunks, and graphs that are not a checkpoint's are refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from objectives_support import OPPONENTS

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
from flow_policy_ros.cli.export import random_observation
from flow_policy_ros.cli.main import main
from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.models.registry import NETWORKS, make_network, network_config
from flow_policy_ros.policy.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from flow_policy_ros.policy.deployed import deploy
from flow_policy_ros.policy.exported import RUNNERS, ExportedNetwork
from flow_policy_ros.policy.flow_model import FlowConfig, FlowModel
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.policy.graphs import (
    CONDITION,
    FOLDER,
    MANIFEST,
    VELOCITY,
    ExportError,
    tensors_of,
    with_tensors,
    write_graphs,
    write_network,
)
from flow_policy_ros.runtime.parameters import PolicyParameters
from flow_policy_ros.runtime.types import Continuation

SLOW = [pytest.mark.slow, pytest.mark.skipif("FLOW_POLICY_SLOW" not in os.environ, reason="FLOW_POLICY_SLOW=1 runs it")]
SMALL = {
    "residual_mlp": {"width": 32, "blocks": 2},
    "unet1d": {"width": 16},
    "dit": {"width": 32, "blocks": 1},
    "dit_cross": {"width": 32, "blocks": 1},
    "embodiment_dit": {"width": 32},
    "deep_features": {"width": 32, "layers": 1, "heads": 2, "hidden": 32, "prefix_width": 16, "prefix_hidden": 32},
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A copy of a shipped checkpoint with its graphs."""
    folder = tmp_path_factory.mktemp("exported") / "checkpoint"
    shutil.copytree(root / "checkpoints" / "adroit_door_state", folder)
    write_graphs(folder)
    return folder


def policy(folder: Path, backend: str = "torch", guidance_scale: float = 1.0) -> FlowPolicy:
    made = FlowPolicy.load(folder, guidance_scale=guidance_scale)
    if backend != "torch":
        made.model.network = ExportedNetwork.load(folder, made.model.shape, backend)
    return made


@pytest.mark.parametrize("backend", RUNNERS)
@pytest.mark.parametrize("steps", [1, 4])
def test_chunks_are_the_networks(exported: Path, backend: str, steps: int) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(backend, backend))
    ours, theirs = policy(exported), policy(exported, backend)
    generator, chunks = np.random.default_rng(1), []
    for stamp in range(3):
        observation = random_observation(ours.codec, generator, stamp)
        expected, nfe = ours.sample(observation, steps, 7)
        given, given_nfe = theirs.sample(observation, steps, 7)
        np.testing.assert_allclose(given, expected, atol=1e-4)
        assert nfe == given_nfe == steps
        chunks.append(given)
    assert np.ptp(np.stack(chunks), axis=0).max() > 0.01  # they do depend on the observation


def test_a_batch_is_its_chunks_one_by_one(exported: Path) -> None:
    theirs, generator = policy(exported, "onnx"), np.random.default_rng(2)
    observations = [random_observation(theirs.codec, generator, stamp) for stamp in range(3)]
    together, _ = theirs.sample_batch(observations, 2, 5)
    for observation, chunk in zip(observations, together, strict=True):
        np.testing.assert_allclose(theirs.sample(observation, 2, 5)[0], chunk, atol=1e-6)


def test_graphs_can_have_a_deadline(exported: Path) -> None:
    """What only the network itself can do is neither measured nor allowed."""
    hurried = deploy(PolicyParameters(checkpoint=str(exported), backend="onnx", deadline_s=10.0), "adroit_door")
    generator = np.random.default_rng(3)
    assert hurried.sample(random_observation(policy(exported).codec, generator, 0), 5, 1)[1] == 5
    refused = hurried.refusal("rtc", 10)
    assert refused is not None and "rtc_identity only" in refused and hurried.refusal("rtc_identity", 10) is None


@pytest.mark.parametrize("name", OPPONENTS)
def test_graphs_are_of_the_network_whatever_it_was_trained_for(exported: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "other"
    shutil.copytree(exported, folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"objective": name, "flow": {}}))
    theirs = deploy(PolicyParameters(checkpoint=str(folder), backend="onnx"), "adroit_door")
    for k in range(2):
        observation = random_observation(policy(folder).codec, np.random.default_rng(k), k)
        (ours, nfe), (given, nfe_given) = policy(folder).sample(observation, 10, 0), theirs.sample(observation, 10, 0)
        np.testing.assert_allclose(given, ours, atol=1e-4)
        assert nfe == nfe_given == (1 if name == "regression" else 10)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name == "dit" else SLOW) for name in SMALL])
def test_every_family_can_be_exported(tmp_path: Path, name: str, root: Path) -> None:
    """With embodiments, padded tokens, guidance (two samples at once) and each solver's times."""
    torch.manual_seed(0)
    shape = NetworkShape(state=5, horizon=8, action=3, tokens=2, channels=4, embodiments=2)
    model = FlowModel(name, SMALL[name], shape, FlowConfig(condition_dropout=0.1), (3, 2)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    source = load_checkpoint(root / "checkpoints" / "adroit_door_state")
    save_checkpoint(tmp_path, Checkpoint(model, source.codecs))  # whose codec does not matter to the graphs
    write_network(model.network, tmp_path)
    network = ExportedNetwork.load(tmp_path, shape, "onnx")
    mask = torch.tensor([[True, False]])
    observation = Conditioning.of(torch.randn(1, 5), torch.randn(1, 2, 4), mask, torch.tensor([1]))
    noise = torch.randn(1, 8, 3)
    with torch.inference_mode():
        expected = [model.sample(observation, 2, noise, guidance_scale=scale).x for scale in (1.0, 1.5)]
        model.network = network
        given = [model.sample(observation, 2, noise, guidance_scale=scale).x for scale in (1.0, 1.5)]
    for a, b in zip(expected, given, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 1e-4


def test_all_networks_are_among_those_tested() -> None:
    assert set(SMALL) == set(NETWORKS)


def test_caches_are_taken_apart_and_put_together() -> None:
    network = make_network("embodiment_dit", network_config("embodiment_dit", {"width": 32}), NetworkShape(5, 8, 3, 2, 4, 2))
    observation = Conditioning.of(torch.randn(1, 5), torch.randn(1, 2, 4))
    x, t = torch.randn(1, 8, 3), torch.rand(1)
    cache = network.condition(observation)
    again = with_tensors(cache, iter([tensor.clone() for tensor in tensors_of(cache)]))
    assert torch.equal(network.velocity(x, t, cache), network.velocity(x, t, again))
    with pytest.raises(ExportError, match="holds a dict"):
        tensors_of({"a": x})


def damage_weights(folder: Path) -> None:
    source = load_checkpoint(folder)
    with torch.no_grad():
        next(source.model.parameters()).add_(1.0)
    save_checkpoint(folder, source)


@pytest.mark.parametrize(
    "damage, message",
    [
        (damage_weights, "made of other weights"),
        (lambda folder: (folder / FOLDER / VELOCITY).write_bytes(b"x"), "not the file that was exported"),
        (lambda folder: (folder / FOLDER / CONDITION).unlink(), "is missing"),
        (lambda folder: (folder / FOLDER / MANIFEST).write_text("{}"), "cannot be used"),
        (lambda folder: shutil.rmtree(folder / FOLDER), "flow_policy export"),
    ],
)
def test_foreign_graphs_are_refused(exported: Path, tmp_path: Path, damage: object, message: str) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(exported, folder)
    damage(folder)  # type: ignore[operator]
    with pytest.raises(ExportError, match=message):
        policy(folder, "onnx")


def test_unknown_backend(exported: Path) -> None:
    with pytest.raises(ExportError, match="expected one of torch, onnx, openvino"):
        policy(exported, "tensorrt")


def test_command_line(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    arguments = [str(exported), "--backends", "onnx", "--steps", "1", "3", "--samples", "3", "--json", str(file)]
    assert main(["export", *arguments]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [(row["backend"], row["steps"], row["same"]) for row in rows] == [("onnx", 1, True), ("onnx", 3, True)]
    assert main(["export", str(exported), "--backends", "tensorrt"]) == 2
    assert "expected some of onnx, openvino" in capsys.readouterr().err


def test_deployed_by_parameter(exported: Path) -> None:
    """And what the graphs cannot do is said before anything is sampled."""
    given = {"checkpoint": str(exported), "steps": 5}
    torch_policy, graphs = (deploy(PolicyParameters(**given, backend=backend), "adroit_door") for backend in ("torch", "onnx"))
    observation = random_observation(policy(exported).codec, np.random.default_rng(3), 1)
    np.testing.assert_allclose(graphs.sample(observation, 5, 0)[0], torch_policy.sample(observation, 5, 0)[0], atol=1e-4)
    assert torch_policy.refusal("rtc", 5) is None
    assert "rtc_identity" in str(graphs.refusal("rtc", 5))
    previous = graphs.sample(observation, 5, 0)[0]
    chunks = [p.sample(observation, 5, 1, Continuation("rtc_identity", previous, 2, 4))[0] for p in (torch_policy, graphs)]
    np.testing.assert_allclose(*chunks, atol=1e-4)


@pytest.mark.parametrize("backend", RUNNERS)
def test_a_program_that_ran_graphs_still_ends_when_asked(exported: Path, backend: str) -> None:
    """A backend that leaves the thread a stack for signals which is gone with the policy would have the process killed instead."""
    code = (
        "import faulthandler, gc, signal, sys\n"
        "faulthandler.enable()\n"
        "from pathlib import Path\n"
        "from flow_policy_ros.models.conditioning import NetworkShape\n"
        "from flow_policy_ros.policy.exported import ExportedNetwork\n"
        f"shape = NetworkShape(**{load_checkpoint(exported).model.shape.__dict__!r})\n"
        f"network = ExportedNetwork.load(Path({str(exported)!r}), shape, {backend!r})\n"
        "del network\n"
        "gc.collect()\n"
        "try:\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    print('asked')\n"
    )
    signal_stays = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    done = subprocess.run([sys.executable, "-c", signal_stays + code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "asked\n"), done.stderr
