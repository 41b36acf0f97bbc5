"""What the tests of policies with images and instruction share: a small one of each kind of vision-language model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from vlm_folders import tiny
from vlm_support import randomised

from flow_policy_ros.data.statistics import VectorStatistics
from flow_policy_ros.policy.checkpoint import Checkpoint
from flow_policy_ros.policy.codec import Codec, network_shape, observation_dim
from flow_policy_ros.policy.flow_model import FlowConfig, FlowModel
from flow_policy_ros.policy.instruction import PromptReader
from flow_policy_ros.policy.normaliser import Normaliser
from flow_policy_ros.policy.prompt import Prompter
from flow_policy_ros.runtime.contract import Contract, StreamContract
from flow_policy_ros.runtime.types import Features, JointState, Observation

SIZE = (24, 32)
"""Of the camera's images: (height, width)."""
KINDS = ("smolvlm", "paligemma", "qwen")
LENGTH = 64


def folder_of(kind: str, root: Path) -> Path:
    """A model folder, made once."""
    if kind == "smolvlm":
        pytest.importorskip("num2words")
    return root / kind if (root / kind).is_dir() else tiny(kind, root / kind)


def normaliser(size: int, seed: int) -> Normaliser:
    return Normaliser.fit(VectorStatistics.of(np.random.default_rng(seed).normal(0.3, 0.5, (50, size))))


def frames_contract(camera: str = "front") -> StreamContract:
    extractor = {"extractor": "frames", "camera": camera, "size": list(SIZE)}
    return StreamContract(f"frames_{camera}", SIZE[0], 3 * SIZE[1], extractor)


def make_checkpoint(folder: Path, form: str = "deep_expert", cameras: tuple[str, ...] = ("front",)) -> Checkpoint:
    """Of two joints, the cameras' images and a prompt, with random weights."""
    torch.manual_seed(0)
    prompter = Prompter.load(folder)
    reader = PromptReader(prompter, length=LENGTH, size=SIZE, images=len(cameras))
    prompt = StreamContract("prompt", LENGTH, 2, reader.identity(), moment="standing")
    streams = (*(frames_contract(camera) for camera in cameras), prompt)
    contract = Contract("toy", ("a", "b"), ("b", "a"), 10_000_000, 4, streams)
    sizes = {"vlm": (folder / "config.json").read_text(), **({"width": 16, "hidden": 24} if form == "deep_expert" else {})}
    model = FlowModel(form, sizes, network_shape([contract]), FlowConfig(condition_dropout=0.1, prefix=1))
    randomised(model)
    codec = Codec(contract, normaliser(observation_dim(contract), 1), normaliser(2, 2), "absolute", prompter=prompter)
    return Checkpoint(model.eval(), (codec,))


def picture(seed: int, stamp: int = 0, camera: str = "front") -> Features:
    values = np.random.default_rng(seed).integers(0, 255, (SIZE[0], 3 * SIZE[1]), dtype=np.uint8)
    return Features(stamp, f"frames_{camera}", values)


def joint_state(stamp: int) -> JointState:
    return JointState(stamp, ("b", "a"), np.array([0.2, 0.1]))


def observation(stamp: int, *streams: Features) -> Observation:
    """At a stamp, of these features."""
    stamps = {"joint_state": stamp, **{features.stream: features.stamp for features in streams}}
    return Observation(stamp, np.array([0.1, 0.2]), {f.stream: f.values for f in streams}, stamps)
