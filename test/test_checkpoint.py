"""Checkpoint folders: exact round trip, and one paragraph for everything that can be wrong with one."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_policy import CONTRACT, make_checkpoint, make_observation

from flow_policy_ros.cli.bench_sampling import untrained
from flow_policy_ros.models.registry import NETWORKS
from flow_policy_ros.policy.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from flow_policy_ros.policy.checkpoint_bounds import _Unfilled
from flow_policy_ros.policy.flow_model import FlowModel
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.runtime.contract import StreamContract


@pytest.fixture
def folder(tmp_path):
    save_checkpoint(tmp_path / "c", make_checkpoint(action_space="relative"), "# text\n")
    return tmp_path / "c"


@pytest.mark.parametrize("network", ["residual_mlp", "dit"])
def test_round_trip_is_bit_equal(tmp_path, network):
    checkpoint = make_checkpoint(network=network, action_space="relative", solver="midpoint")
    save_checkpoint(tmp_path, checkpoint, "# text\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "README.md", "config.json", "contract.json", "model.safetensors"]  # fmt: skip
    back = load_checkpoint(tmp_path)
    ours, theirs = checkpoint.model.state_dict(), back.model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert back.codec_of().contract == checkpoint.codec_of().contract
    chunk, nfe = FlowPolicy(checkpoint).sample(make_observation(), 3, 1)
    again, nfe_again = FlowPolicy.load(tmp_path).sample(make_observation(), 3, 1)
    np.testing.assert_array_equal(again, chunk)
    assert nfe == nfe_again == 6


def test_every_file_has_the_mode_that_the_umask_gives(tmp_path):
    """safetensors writes for the owner alone, and whoever copies a policy to a robot gets one that its account cannot read."""
    before = os.umask(0o027)
    try:
        for _ in range(2):  # written anew, too
            save_checkpoint(tmp_path, make_checkpoint(), "# text\n")
            (tmp_path / "model.safetensors.partial").touch(0o600)  # what an interrupted run left
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if path.suffix != ".partial"}
    assert set(modes.values()) == {0o640} and "model.safetensors" in modes, modes


def test_half_precision_is_loaded_as_single(tmp_path):
    checkpoint = make_checkpoint()
    save_checkpoint(tmp_path, checkpoint, half=True)
    back = load_checkpoint(tmp_path).model.state_dict()
    for name, tensor in checkpoint.model.state_dict().items():
        assert torch.equal(back[name], tensor.half().float())


def test_use_of_tokens_is_kept_and_older_contracts_use_all(tmp_path):
    contract = replace(CONTRACT, streams=(StreamContract("boxes", 3, 3, {}, use=(0, 2)), CONTRACT.streams[1]))
    save_checkpoint(tmp_path / "some", make_checkpoint(contract))
    assert json.loads((tmp_path / "some" / "contract.json").read_text())["streams"][0]["use"] == [0, 2]
    assert load_checkpoint(tmp_path / "some").codec_of().contract == contract
    assert contract.to_json()["streams"][0]["use"] == [0, 2]

    save_checkpoint(tmp_path / "old", make_checkpoint())
    edit(tmp_path / "old", "contract.json", lambda c: [stream.pop("use") for stream in c["streams"]])
    assert load_checkpoint(tmp_path / "old").codec_of().contract == CONTRACT


def edit(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def without_a_tensor(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["network.out.bias"]
    save_file(weights, folder / "model.safetensors")


DAMAGES = {
    "no folder": (shutil.rmtree, "is not a folder"),
    "no config": (lambda f: (f / "config.json").unlink(), "no readable config.json"),
    "no contract": (lambda f: (f / "contract.json").unlink(), "no readable contract.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors cannot be read"),
    "torn weights": (lambda f: (f / "model.safetensors").write_bytes(b"version https://git"), "cannot be read"),
    "not json": (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
    "no object": (lambda f: (f / "contract.json").write_text("[]"), "holds no JSON object"),
    "other kind": (lambda f: edit(f, "config.json", lambda c: c.update(kind="act")), "of kind 'act'"),
    "edited statistics": (
        lambda f: edit(f, "contract.json", lambda c: c["normaliser"]["action"]["scale"].__setitem__(0, 2.0)),
        "do not match their hash",
    ),
    "unknown network": (
        lambda f: edit(f, "config.json", lambda c: c["network"].update(name="gru")),
        "unknown network 'gru'",
    ),
    "unknown size": (
        lambda f: edit(f, "config.json", lambda c: c["network"]["sizes"].update(depth=3)),
        "no size 'depth'",
    ),
    "other size": (
        lambda f: edit(f, "config.json", lambda c: c["network"]["sizes"].update(width=16)),
        "do not fit the network",
    ),
    "missing tensor": (without_a_tensor, "1 tensors differ, first network.out.bias: expected (8,), given None"),
    "no key": (lambda f: edit(f, "config.json", lambda c: c.pop("network")), "lacks 'network'"),
    "bad contract": (lambda f: edit(f, "contract.json", lambda c: c.pop("joints")), "contract.json is incomplete"),
    "impossible rows": (
        lambda f: edit(f, "contract.json", lambda c: c["streams"][0].update(use=[2])),
        "expected ascending rows of its 2 tokens",
    ),
    "other joints": (lambda f: edit(f, "contract.json", lambda c: c["joints"].pop()), "observation normaliser has 11"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_in_a_paragraph(folder, damage):
    harm, message = DAMAGES[damage]
    harm(folder)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    text = str(caught.value)
    assert message in text and str(folder) in text and "\n" not in text and len(text) > 60


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_is_counted_without_memory_whatever_it_is_made_of(network):
    """All that a checkpoint holds is counted, and nothing but a few numbers takes memory."""
    model = untrained((network,))[network].model
    with _Unfilled():
        counted = FlowModel(network, {}, model.network.shape).state_dict()
    expected = model.state_dict()
    assert {name: tensor.shape for name, tensor in counted.items()} == {name: tensor.shape for name, tensor in expected.items()}
    assert sum(tensor.numel() for tensor in counted.values() if not tensor.is_meta) < 100


def test_loading_does_not_import_what_it_does_not_need(tmp_path):
    """Symbolic mathematics takes a second of a node's start; networks of every kind are loaded in a process of their own."""
    for network, policy in untrained().items():
        save_checkpoint(tmp_path / network, Checkpoint(policy.model, (policy.codec,)))
    code = (
        "import sys\nfrom flow_policy_ros.policy.checkpoint import load_checkpoint\n"
        "for folder in sys.argv[1:]:\n    load_checkpoint(folder)\n    assert 'sympy' not in sys.modules, folder\n"
    )
    folders = [str(tmp_path / network) for network in NETWORKS]
    done = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
