"""Untrained checkpoints and detectors for tests of the demo: the hand moves, it does nothing useful."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from flow_policy_ros.policy.checkpoint import Checkpoint, save_checkpoint
from flow_policy_ros.policy.codec import Codec, network_shape, observation_dim
from flow_policy_ros.policy.flow_model import FlowModel
from flow_policy_ros.policy.normaliser import Normaliser
from flow_policy_ros.runtime.contract import Contract, StreamContract
from flow_policy_ros.runtime.robot import Robot

CLASSES = ("palm", "handle")
OBJECTS = StreamContract("objects", 1, 12, {})


def untrained_policy(folder: Path, robot: Robot, *streams: StreamContract, dt_ns: int = 10_000_000) -> Path:
    """Random weights in every layer, so that a chunk depends on every input; its points are ``dt_ns`` apart."""
    contract = Contract(robot.name, robot.joints, robot.joints, dt_ns, 16, streams)
    shape = network_shape([contract])
    model = FlowModel("residual_mlp", {"width": 32, "blocks": 1}, shape)
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        weight.data = 0.1 * torch.randn(weight.shape, generator=generator)

    def normaliser(size: int, scale: float) -> Normaliser:
        return Normaliser("mean_std", np.zeros(size), np.full(size, scale), ())

    codec = Codec(contract, normaliser(observation_dim(contract), 1.0), normaliser(shape.action, 0.2), "absolute")
    save_checkpoint(folder, Checkpoint(model, (codec,)))
    return folder


def untrained_detector(folder: Path) -> Path:
    """A nano detector that finds nothing worth a confidence of 0.25."""
    from flow_policy_ros.vision.detector import build_network
    from flow_policy_ros.vision.training import architecture_of, save_detector

    torch.manual_seed(0)
    architecture = architecture_of("yolo11n.yaml")
    return save_detector(folder, build_network(architecture, CLASSES), architecture, "yolo11n", CLASSES, 96, {})
