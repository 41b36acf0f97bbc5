"""``flow_policy bench sampling``: how long a whole chunk takes, from observation to joint positions, and against whom.

What deep fusion costs with and without its cache is ``bench_fusion``'s, the opponents are ``sampling_opponents``', the limits of
the machine ``sampling_limits``'.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from flow_policy_ros.cli.sampling_limits import Machine
    from flow_policy_ros.policy.flow_policy import FlowPolicy
    from flow_policy_ros.runtime.types import Observation

BACKENDS = ("eager", "onnx", "openvino", "compiled")
WARM = 5


@dataclass(frozen=True)
class Arguments:
    """Time of a whole chunk (one observation to joint positions), of checkpoints, or of every network with random weights, by each
    backend, beside others' samplers, and beside the least that the machine would need."""

    checkpoints: tuple[Path, ...] = ()
    """Checkpoint folders, or names of those that ship; without any: every network at its default size for 28 joints and 35 object
    features."""
    networks: tuple[str, ...] = ()
    """Without checkpoints: only these networks."""
    steps: tuple[int, ...] = (1, 2, 4, 10)
    """Solver steps."""
    repeats: int = 100
    """Chunks per row."""
    threads: tuple[int, ...] = (1, 2)
    """Threads of the tensor library, each setting in turn."""
    backends: tuple[str, ...] = BACKENDS
    """What evaluates the network: eager, onnx, openvino, compiled (which takes a minute per network for the first time). One that
    is not installed is left out, with a reason."""
    opponents: bool = True
    """Measure torchdiffeq on the same networks, as torchcfm's examples use it."""
    lerobot: Path | None = None
    """Interpreter of an environment with LeRobot: measure its DiffusionPolicy, too (see benchmarks/lerobot_sampling.py)."""
    vlms: tuple[str, ...] = ("tiny",)
    """Without checkpoints: deep fusion over vision-language models of these sizes, with and without its cache, at 10 steps: tiny,
    smolvlm_256m (minutes), or none. Weights are random."""
    json: Path | None = None
    """Write the figures to this file as well."""


def main(argv: list[str]) -> int:
    """Returns 0; bad input raises ``ValueError``-derived errors."""
    import tyro

    from flow_policy_ros.cli.bench import require_positive
    from flow_policy_ros.cli.bench_fusion import VLMS
    from flow_policy_ros.cli.outputs import print_json, require_file
    from flow_policy_ros.models.registry import NETWORKS

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy bench sampling")
    require_file("--json", arguments.json)
    require_positive(("--repeats", arguments.repeats), *(("--threads", n) for n in arguments.threads))
    require_positive(*(("--steps", n) for n in arguments.steps))
    for option, given, known in (
        ("--vlms", set(arguments.vlms) - {"none"}, tuple(VLMS)),
        ("--backends", set(arguments.backends), BACKENDS),
        ("--networks", set(arguments.networks), tuple(NETWORKS)),
    ):
        unknown = sorted(given - set(known))
        if unknown:
            raise ValueError(f"{option} names {', '.join(unknown)}, expected some of: {', '.join(known)}.")
    print_json(measure(arguments), arguments.json)
    return 0


def measure(arguments: Arguments) -> dict[str, object]:
    """``rows`` of this package, ``opponents``, ``machine`` per number of threads, ``left_out`` with reasons; without checkpoints
    also ``deep_fusion``, see ``fusion_rows``.

    A row has name, parameters, backend, steps, nfe, threads, ms_p50, ms_p99; ours also the limits in ms (see ``limits_ms``) and
    ``of_limit``, limit over p50; ``over_least_steps``, its p50 over that of the fewest steps; ``over_eager``, eager's over its; and
    ``faster_than``, each opponent's p50 over its. All that a network does takes turns, so that all see the same load.
    """
    import torch

    from flow_policy_ros.cli.bench_fusion import fusion_rows
    from flow_policy_ros.cli.sampling_limits import Machine
    from flow_policy_ros.cli.sampling_opponents import lerobot_rows

    policies = loaded(arguments.checkpoints) or untrained(arguments.networks)
    rows: list[dict[str, Any]] = []
    opponents: list[dict[str, Any]] = []
    machines: dict[int, Machine] = {}
    left_out: dict[str, str] = {}
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        machines[threads] = Machine.measure()
        for name, policy in policies.items():
            machines[threads] = machines[threads].best(Machine.measure())
            ours, theirs, missing = of_network(name, policy, threads, machines[threads], arguments)
            rows, opponents, left_out = [*rows, *ours], [*opponents, *theirs], left_out | missing
    if arguments.lerobot is not None:
        try:
            opponents += lerobot_rows(arguments.lerobot, arguments.threads, max(1, arguments.repeats // 5))
        except ValueError as error:  # the other figures took minutes
            left_out["lerobot"] = str(error)
            print(f"no rows of LeRobot: {error}", file=sys.stderr)
    for row in rows:
        row["faster_than"] = {
            label(other): round(other["ms_p50"] / row["ms_p50"], 2)
            for other in opponents
            if other["threads"] == row["threads"] and other.get("network", row["name"]) == row["name"]
        }
    fusion = {}
    vlms = tuple(vlm for vlm in arguments.vlms if vlm != "none")
    if vlms and not arguments.checkpoints:
        fusion = {"deep_fusion": fusion_rows(vlms, arguments.repeats, arguments.threads[0])}
    told = {
        str(n): {"memory_gb_s": round(m.memory_bytes_s / 1e9, 2), "operations_gflop_s": round(m.operations_s / 1e9, 1)}
        for n, m in machines.items()
    }
    return {"machine": told, "rows": rows, "opponents": opponents, "left_out": left_out, **fusion}


def label(opponent: dict[str, Any]) -> str:
    """What a row calls an opponent's; those on our own networks have several numbers of steps."""
    name = str(opponent["name"])
    return f"{name}, steps {opponent['steps'] or 'adaptive'}" if "network" in opponent else name


def of_network(
    name: str, policy: FlowPolicy, threads: int, machine: Machine, arguments: Arguments
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, str]]:
    """Rows of a policy by every backend, of torchdiffeq on its network, and what was left out with reasons."""
    from flow_policy_ros.cli.sampling_limits import limits_ms, read_bytes_s, work_of
    from flow_policy_ros.cli.sampling_opponents import torchdiffeq_chunk, torchdiffeq_ways
    from flow_policy_ros.policy.deployed import empty_observation

    observation, network = empty_observation(policy.contract), policy.model.network
    seen = policy.conditioning(observation)
    parameters = sum(p.numel() for p in policy.model.parameters())
    calls: dict[tuple[str, str, int], Callable[[], int]] = {}
    with forms(policy, threads, arguments.backends) as (found, left_out):
        for backend, form in found.items():
            for steps in arguments.steps:
                calls[("", backend, steps)] = partial(_ours, form, observation, steps)
        # torchdiffeq follows a velocity; what predicts the chunk has one that is infinite at its end
        comparable = arguments.opponents and seen.prefix is None and policy.model.flow.predicts == "velocity"
        for way in torchdiffeq_ways() if comparable else ():
            for steps in arguments.steps if way != "torchdiffeq dopri5" else (0,):
                chunk = torchdiffeq_chunk(way, network, seen, policy.noise(0, 0), max(1, steps))
                calls[(way, "eager", steps)] = partial(_theirs, chunk)
        times = taking_turns(calls, arguments.repeats)
    condition, velocity = work_of(network, seen)
    weights_bytes_s = read_bytes_s(max(velocity.weight_bytes, 4096))
    base = {"parameters": parameters, "threads": threads}
    p50 = {key: p50 for key, (p50, _, _) in times.items()}
    rows: list[dict[str, Any]] = []
    opponents: list[dict[str, Any]] = []
    for (way, backend, steps), (half, p99, nfe) in times.items():
        timing = {"steps": steps, "nfe": nfe, "ms_p50": round(half, 3), "ms_p99": round(p99, 3)}
        if way:
            opponents.append({"name": way, "network": name, **base, "backend": "torch fp32", **timing})
            continue
        limits = limits_ms(condition, velocity, nfe, machine, weights_bytes_s)
        row = {"name": name, **base, "backend": backend, **timing, **limits, "of_limit": round(limits["limit_ms"] / half, 3)}
        row["over_least_steps"] = round(half / p50[("", backend, min(arguments.steps))], 2)
        eager = p50.get(("", "eager", steps))
        row["over_eager"] = None if eager is None else round(eager / half, 2)
        rows.append(row)
    return rows, opponents, {f"{name}, {backend}": reason for backend, reason in left_out.items()}


def _ours(policy: FlowPolicy, observation: Observation, steps: int) -> int:
    return policy.sample(observation, steps, 0)[1]


def _theirs(chunk: Callable[[], tuple[Any, int]]) -> int:
    return chunk()[1]


@contextmanager
def forms(policy: FlowPolicy, threads: int, backends: tuple[str, ...]) -> Iterator[tuple[dict[str, FlowPolicy], dict[str, str]]]:
    """The policy by each backend that can be had, and why the others cannot. Graphs are written to a folder that goes away."""
    import copy
    import tempfile

    from flow_policy_ros.policy.checkpoint import Checkpoint, save_checkpoint
    from flow_policy_ros.policy.compiled import CompileError, compiled
    from flow_policy_ros.policy.exported import RUNNERS, ExportedNetwork
    from flow_policy_ros.policy.graphs import ExportError, write_graphs

    found, left_out = {}, {}
    network = policy.model.network
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "checkpoint"
        written = False
        for backend in backends:
            try:
                if backend in RUNNERS and not written:
                    save_checkpoint(folder, Checkpoint(policy.model, (policy.codec,)))
                    write_graphs(folder)
                    written = True
                form = copy.copy(policy)
                form.model = copy.copy(policy.model)
                form.model._modules = dict(policy.model._modules)  # the copy's network is not the original's
                if backend in RUNNERS:
                    form.model.network = ExportedNetwork.load(folder, network.shape, backend, threads)
                elif backend == "compiled":
                    form.model.network = compiled(network)
                found[backend] = form
            except (ExportError, CompileError) as error:
                left_out[backend] = str(error)
                print(f"no rows of {backend}: {error}", file=sys.stderr)
        yield found, left_out


def taking_turns(
    calls: dict[tuple[str, str, int], Callable[[], int]], repeats: int
) -> dict[tuple[str, str, int], tuple[float, float, int]]:
    """(p50 in ms, p99 in ms, evaluations) of each call: all of them once, then all again."""
    import time

    import numpy as np

    taken: dict[tuple[str, str, int], list[float]] = {key: [] for key in calls}
    nfe = {}
    for _ in range(WARM + repeats):
        for key, call in calls.items():
            begin = time.perf_counter()
            nfe[key] = call()
            taken[key].append((time.perf_counter() - begin) * 1e3)
    percentiles = {key: np.percentile(times[WARM:], (50, 99)) for key, times in taken.items()}
    return {key: (float(half), float(p99), nfe[key]) for key, (half, p99) in percentiles.items()}


def loaded(names: tuple[Path, ...]) -> dict[str, FlowPolicy]:
    """The policies of checkpoints, one per robot. Raises ``ResourceError``, ``CheckpointError``."""
    from flow_policy_ros.policy.checkpoint import load_checkpoint
    from flow_policy_ros.policy.flow_policy import FlowPolicy
    from flow_policy_ros.resources import checkpoint as folder_of

    found = {}
    for given in names:
        checkpoint = load_checkpoint(folder_of(given))
        for codec in checkpoint.codecs:
            name = str(given) if len(checkpoint.codecs) == 1 else f"{given}, {codec.contract.robot}"
            found[name] = FlowPolicy(checkpoint, robot=codec.contract.robot)
    return found


def untrained(networks: tuple[str, ...] = ()) -> dict[str, FlowPolicy]:
    """Every network (or those) at its default size, random weights; observations of 63 values, as the opponent's."""
    import numpy as np

    from flow_policy_ros.models.registry import NETWORKS
    from flow_policy_ros.policy.checkpoint import Checkpoint
    from flow_policy_ros.policy.codec import Codec, network_shape, observation_dim
    from flow_policy_ros.policy.flow_model import FlowModel
    from flow_policy_ros.policy.flow_policy import FlowPolicy
    from flow_policy_ros.policy.normaliser import Normaliser
    from flow_policy_ros.runtime.contract import Contract, StreamContract

    joints = tuple(f"joint_{k}" for k in range(28))
    contract = Contract("hand", joints, joints, 20_000_000, 16, (StreamContract("objects", 1, 35, {}),))
    unit = [Normaliser("mean_std", np.zeros(n), np.ones(n), ()) for n in (observation_dim(contract), len(joints))]
    codec = Codec(contract, unit[0], unit[1], "absolute")
    return {name: FlowPolicy(Checkpoint(FlowModel(name, {}, network_shape([contract])), (codec,))) for name in networks or NETWORKS}
