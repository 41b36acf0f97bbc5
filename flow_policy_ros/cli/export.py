"""``flow_policy export``: a checkpoint's network as ONNX graphs, and proof that they give the same chunks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

TOLERANCE = 1e-4
"""Greatest difference of a chunk, rad or m."""


@dataclass(frozen=True)
class Arguments:
    """Write the graphs of a checkpoint into its sub-folder graphs/, and compare chunks with the network's. A policy node (or
    evaluate, replay) then runs them with policy.backend onnx or openvino."""

    checkpoint: str
    """Checkpoint folder, or the name of one that ships."""
    backends: tuple[str, ...] = ("onnx", "openvino")
    """What to compare with and to time."""
    steps: tuple[int, ...] = (1, 10)
    """Solver steps of the compared chunks."""
    samples: int = 20
    """Observations to compare at."""
    threads: int = 1
    """Threads of each."""
    json: Path | None = None
    """Write the figures to this file as well."""


def main(argv: list[str]) -> int:
    """Returns 0, or 1 when a chunk differs by more than ``TOLERANCE``; bad input raises ``ValueError``-derived errors."""
    import tyro

    from flow_policy_ros.cli.bench import require_positive
    from flow_policy_ros.cli.outputs import print_json, require_file

    kind = Annotated[Arguments, tyro.conf.arg(name="")]
    arguments = tyro.cli(kind, args=argv, prog="flow_policy export", config=(tyro.conf.PositionalRequiredArgs,))
    require_file("--json", arguments.json)
    require_positive(("--samples", arguments.samples), ("--threads", arguments.threads))
    figures = export(arguments)
    print_json(figures, arguments.json)
    return 0 if all(row["same"] for row in figures["rows"]) else 1


def export(arguments: Arguments) -> dict[str, Any]:
    """``rows`` of robot, backend, steps, ``max_difference`` of a chunk (rad or m) from the network's, ``same``, and the p50 of both
    in ms: they take turns."""
    import torch

    from flow_policy_ros import resources
    from flow_policy_ros.policy.checkpoint import load_checkpoint
    from flow_policy_ros.policy.exported import RUNNERS, ExportedNetwork
    from flow_policy_ros.policy.flow_policy import FlowPolicy
    from flow_policy_ros.policy.graphs import FOLDER, ExportError, write_graphs

    unknown = [name for name in arguments.backends if name not in RUNNERS]
    if unknown:
        raise ExportError(f"--backends has {unknown}, expected some of {', '.join(RUNNERS)}.")
    folder = resources.checkpoint(arguments.checkpoint)
    torch.set_num_threads(arguments.threads)
    write_graphs(folder)
    rows = []
    for codec in load_checkpoint(folder).codecs:
        ours = FlowPolicy.load(folder, robot=codec.contract.robot)
        for backend in arguments.backends:
            theirs = FlowPolicy.load(folder, robot=codec.contract.robot)
            theirs.model.network = ExportedNetwork.load(folder, theirs.model.shape, backend, arguments.threads)
            rows += [{"backend": backend} | compared(ours, theirs, steps, arguments.samples) for steps in arguments.steps]
    return {"graphs": str(folder / FOLDER), "threads": arguments.threads, "rows": rows}


def compared(ours: Any, theirs: Any, steps: int, samples: int) -> dict[str, Any]:
    """Chunks of two policies at random observations, within the range of what was trained."""
    import time

    import numpy as np

    generator = np.random.default_rng(0)
    worst, times = 0.0, np.empty((samples, 2))
    for k in range(samples):
        observation, chunks = random_observation(ours.codec, generator, k), []
        for column, policy in enumerate((ours, theirs)):
            begin = time.perf_counter()
            chunks.append(policy.sample(observation, steps, 0)[0])
            times[k, column] = (time.perf_counter() - begin) * 1e3
        worst = max(worst, float(np.abs(chunks[0] - chunks[1]).max()))
    torch_ms, ms = np.median(times, axis=0).round(3).tolist()
    return {"robot": ours.contract.robot, "steps": steps, "max_difference": worst, "same": worst <= TOLERANCE, "ms_p50": ms,
            "torch_ms_p50": torch_ms}  # fmt: skip


def random_observation(codec: Any, generator: Any, stamp: int) -> Any:
    """An observation as far from the training data's mean as those usually are, normally distributed."""
    import numpy as np
    import torch

    from flow_policy_ros.policy.codec import state_dim
    from flow_policy_ros.policy.deployed import empty_observation
    from flow_policy_ros.runtime.types import Observation

    contract, empty = codec.contract, empty_observation(codec.contract)
    drawn = torch.from_numpy(generator.standard_normal((1, len(codec.observation_normaliser.offset))))
    vector = codec.observation_normaliser.denormalise(drawn)[0].numpy()
    joints, column = len(contract.joints), state_dim(contract)
    history = vector[joints:column].reshape(empty.joint_history.shape)
    for stream in contract.streams:
        size = len(stream.rows) * stream.channels
        values = vector[column : column + size].reshape(len(stream.rows), stream.channels)
        empty.features[stream.name][list(stream.rows)] = values.astype(np.float32)
        column += size
    return Observation(stamp, vector[:joints], empty.features, {}, history)
