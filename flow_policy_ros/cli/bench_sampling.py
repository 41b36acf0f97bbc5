"""``flow_policy bench sampling``: how long a whole chunk takes, from observation to joint positions.

What deep fusion costs with and without its cache is ``bench_fusion``'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

if TYPE_CHECKING:
    from flow_policy_ros.policy.flow_policy import FlowPolicy


@dataclass(frozen=True)
class Arguments:
    """Time of a whole chunk (one observation to joint positions), of checkpoints, or of every network with random weights."""

    checkpoints: tuple[Path, ...] = ()
    """Checkpoint folders; without any: every network at its default size for 28 joints and 12 object features."""
    steps: tuple[int, ...] = (1, 2, 4, 10)
    """Solver steps."""
    repeats: int = 100
    """Chunks per row."""
    threads: int = 1
    """Threads of the tensor library."""
    vlms: tuple[str, ...] = ("tiny",)
    """Without checkpoints: deep fusion over vision-language models of these sizes, with and without its cache, at 10 steps: tiny,
    smolvlm_256m (minutes). Weights are random."""
    json: Path | None = None
    """Write the figures to this file as well."""


def main(argv: list[str]) -> int:
    """Returns 0; bad input raises ``ValueError``-derived errors."""
    import tyro

    from flow_policy_ros.cli.bench import require_positive
    from flow_policy_ros.cli.bench_fusion import VLMS
    from flow_policy_ros.cli.outputs import print_json, require_file

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy bench sampling")
    require_file("--json", arguments.json)
    require_positive(("--repeats", arguments.repeats), ("--threads", arguments.threads))
    unknown = sorted(set(arguments.vlms) - set(VLMS))
    if unknown:
        raise ValueError(f"--vlms names {', '.join(unknown)}, expected some of: {', '.join(VLMS)}.")
    print_json(measure(arguments), arguments.json)
    return 0


def measure(arguments: Arguments) -> dict[str, object]:
    """``rows`` of name, parameters, nfe, threads, backend, ms_p50, ms_p99, and ``ratios``: ms of each step count to one step;
    without checkpoints also ``deep_fusion``, see ``fusion_rows``.

    The step counts of a network take turns, so that all see the same load.
    """
    import time

    import numpy as np
    import torch

    from flow_policy_ros.cli.bench_fusion import fusion_rows
    from flow_policy_ros.policy.deployed import empty_observation

    torch.set_num_threads(arguments.threads)
    policies = loaded(arguments.checkpoints) or untrained()
    rows, ratios = [], {}
    for name, policy in policies.items():
        observation = empty_observation(policy.contract)
        taken: dict[int, list[float]] = {steps: [] for steps in arguments.steps}
        nfe: dict[int, int] = {}
        for k in range(arguments.repeats + 5):
            for steps, times in taken.items():
                begin = time.perf_counter()
                nfe[steps] = policy.sample(observation, steps, k)[1]
                times.append((time.perf_counter() - begin) * 1e3)
        p50 = {}
        for steps, times in taken.items():
            p50[steps], p99 = np.percentile(times[5:], (50, 99))
            rows.append(
                {
                    "name": name,
                    "parameters": sum(p.numel() for p in policy.model.parameters()),
                    "steps": steps,
                    "nfe": nfe[steps],
                    "threads": arguments.threads,
                    "backend": "torch fp32",
                    "ms_p50": round(float(p50[steps]), 3),
                    "ms_p99": round(float(p99), 3),
                }
            )
        ratios[name] = {str(steps): round(float(p50[steps] / p50[min(p50)]), 2) for steps in p50}
    fusion = {} if arguments.checkpoints else {"deep_fusion": fusion_rows(arguments.vlms, arguments.repeats, arguments.threads)}
    return {"rows": rows, "ratios": ratios, **fusion}


def loaded(paths: tuple[Path, ...]) -> dict[str, FlowPolicy]:
    """The policies of checkpoints, one per robot."""
    from flow_policy_ros.policy.checkpoint import load_checkpoint
    from flow_policy_ros.policy.flow_policy import FlowPolicy

    found = {}
    for path in paths:
        checkpoint = load_checkpoint(path)
        for codec in checkpoint.codecs:
            name = str(path) if len(checkpoint.codecs) == 1 else f"{path}, {codec.contract.robot}"
            found[name] = FlowPolicy(checkpoint, robot=codec.contract.robot)
    return found


def untrained() -> dict[str, FlowPolicy]:
    """Every network at its default size, random weights."""
    import numpy as np

    from flow_policy_ros.models.registry import NETWORKS
    from flow_policy_ros.policy.checkpoint import Checkpoint
    from flow_policy_ros.policy.codec import Codec, network_shape, observation_dim
    from flow_policy_ros.policy.flow_model import FlowModel
    from flow_policy_ros.policy.flow_policy import FlowPolicy
    from flow_policy_ros.policy.normaliser import Normaliser
    from flow_policy_ros.runtime.contract import Contract, StreamContract

    joints = tuple(f"joint_{k}" for k in range(28))
    contract = Contract("hand", joints, joints, 20_000_000, 16, (StreamContract("objects", 1, 12, {}),))
    unit = [Normaliser("mean_std", np.zeros(n), np.ones(n), ()) for n in (observation_dim(contract), len(joints))]
    codec = Codec(contract, unit[0], unit[1], "absolute")
    return {name: FlowPolicy(Checkpoint(FlowModel(name, {}, network_shape([contract])), (codec,))) for name in NETWORKS}
