"""``flow_policy bench scaling``: what a chunk costs as horizon, action, prefix and cameras grow, with the exponent of each.

Random weights: time depends on sizes alone. The drawing is ``evaluation.scaling_plot``'s.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from flow_policy_ros.models.conditioning import Conditioning
    from flow_policy_ros.models.network import VelocityNetwork

STATE, HORIZON, ACTION, TOKENS, CHANNELS, STEPS, WORDS = 28, 16, 28, 64, 384, 10, 20
LIMIT = 1.15
"""Greatest exponent of an algorithm that is linear: a clock on a machine with other work is no better than that."""
LAST_LIMIT = 1.3
"""The same between the last two sizes, where fixed costs hide least and noise shows most."""


@dataclass(frozen=True)
class Axis:
    """What grows, over which ``sizes``, of which ``networks``; those in ``quadratic`` let all of it see all of it."""

    sizes: tuple[int, ...]
    networks: tuple[str, ...]
    quadratic: tuple[str, ...] = ()


AXES = {
    "horizon": Axis((16, 32, 64, 128), ("residual_mlp", "unet1d", "dit"), ("dit",)),
    "action": Axis((7, 14, 28, 64), ("residual_mlp", "unet1d", "dit")),
    "prefix_tokens": Axis((16, 64, 256, 1024), ("dit_cross", "deep_features"), ("deep_features",)),
    "cameras": Axis((1, 2, 3, 4), ("deep_expert",), ("deep_expert",)),
}


@dataclass(frozen=True)
class Arguments:
    """Chunk time (10 steps, batch 1, conditioning included) over horizon, action dimensions, prefix tokens and cameras."""

    axes: tuple[str, ...] = tuple(AXES)
    """Which of: horizon, action, prefix_tokens, cameras."""
    repeats: int = 30
    """Chunks per size."""
    threads: int = 1
    """Threads of the tensor library."""
    json: Path | None = None
    """Write the figures to this file as well."""
    plot: Path | None = None
    """Draw them into this .svg file."""


def main(argv: list[str]) -> int:
    """Returns 0, or 1 where an algorithm that is linear in something grows by more than ``LIMIT``'s power of it."""
    import tyro

    from flow_policy_ros.cli.bench import require_positive
    from flow_policy_ros.cli.outputs import print_json, require_file
    from flow_policy_ros.evaluation.scaling_plot import svg

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy bench scaling")
    require_file("--json", arguments.json)
    require_file("--plot", arguments.plot)
    require_positive(("--repeats", arguments.repeats), ("--threads", arguments.threads))
    unknown = sorted(set(arguments.axes) - set(AXES))
    if unknown:
        raise ValueError(f"--axes names {', '.join(unknown)}, expected some of: {', '.join(AXES)}.")
    if arguments.plot is not None and arguments.plot.suffix != ".svg":
        raise ValueError(f"--plot {arguments.plot}: expected a file that ends in .svg.")
    figures = measure(arguments)
    if arguments.plot is not None:
        arguments.plot.write_text(svg(figures["rows"], "A chunk's time as its parts grow"), encoding="utf-8")
    print_json(figures, arguments.json)
    return 0 if all(row["as_expected"] for row in figures["rows"]) else 1


def measure(arguments: Arguments) -> dict[str, Any]:
    """``rows`` of axis, network, sizes, ms (medians), ``exponent`` fitted to all sizes, ``last_exponent`` between the last two,
    ``linear`` (whether the algorithm is), ``as_expected``; ``left_out`` with reasons."""
    import torch

    from flow_policy_ros.vision.pretrained import ExtractorError, import_transformers

    torch.set_num_threads(arguments.threads)
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    for name in arguments.axes:
        axis = AXES[name]
        if name == "cameras":
            try:
                import_transformers()
            except ExtractorError as error:
                left_out[name] = str(error)
                continue
        for network in axis.networks:
            calls = [chunk_of(*subject(network, name, size)) for size in axis.sizes]
            ms = medians_ms(calls, arguments.repeats)
            linear, whole, last = network not in axis.quadratic, exponent(axis.sizes, ms), exponent(axis.sizes[-2:], ms[-2:])
            rows.append({
                "axis": name, "network": network, "threads": arguments.threads, "steps": STEPS, "sizes": list(axis.sizes),
                "ms": [round(value, 3) for value in ms], "exponent": round(whole, 3),
                "last_exponent": round(last, 3), "linear": linear, "as_expected": as_expected(whole, last, linear),
            })  # fmt: skip
    return {"limit": LIMIT, "rows": rows, "left_out": left_out}


def as_expected(whole: float, last: float, linear: bool) -> bool:
    """Whether growth is no worse than linear, or than quadratic where the algorithm is."""
    power = 1 if linear else 2
    return whole <= power * LIMIT and last <= power * LAST_LIMIT


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """The slope of log time over log size by least squares: 1 for linear growth, 2 for quadratic, less where a fixed cost shows."""
    import numpy as np

    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def subject(name: str, axis: str, size: int) -> tuple[VelocityNetwork, Conditioning]:
    """The network at its default sizes but for ``size`` of ``axis``, and an observation for it."""
    import torch

    from flow_policy_ros.cli.bench_fusion import IMAGE_TOKEN, VLMS, WORD
    from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
    from flow_policy_ros.models.prefix_inputs import PrefixInputs
    from flow_policy_ros.models.registry import make_network, network_config

    torch.manual_seed(0)
    state, sizes = torch.randn(1, STATE), {"horizon": HORIZON, "action": ACTION}
    if axis == "cameras":
        vlm = VLMS["tiny"]
        ids = torch.tensor([[1, *[IMAGE_TOKEN] * (vlm.tokens * size), *range(WORD, WORD + WORDS)]])
        prefix = PrefixInputs.make(ids, torch.ones_like(ids, dtype=torch.bool), torch.randn(1, size, 3, vlm.image, vlm.image))
        config = network_config(name, {"vlm": vlm.config(), **vlm.expert})
        return make_network(name, config, NetworkShape(STATE, HORIZON, ACTION)).eval(), Conditioning.of(state, prefix=prefix)
    tokens = size if axis == "prefix_tokens" else 1
    if axis in sizes:
        sizes[axis] = size
    shape = NetworkShape(STATE, sizes["horizon"], sizes["action"], tokens, CHANNELS if axis == "prefix_tokens" else 35)
    network = make_network(name, network_config(name, {}), shape).eval()
    return network, Conditioning.of(state, torch.randn(1, shape.tokens, shape.channels))


def chunk_of(network: VelocityNetwork, observation: Conditioning) -> Callable[[], object]:
    """Makes a chunk of an observation never seen before."""
    import torch

    from flow_policy_ros.flow.solvers import make_solver

    noise, solver = torch.randn(1, network.shape.horizon, network.shape.action), make_solver("euler")

    def chunk() -> object:
        with torch.inference_mode():
            cache = network.condition(observation)
            return solver.solve(lambda x, t: network.velocity(x, t, cache), noise, STEPS)

    return chunk


def medians_ms(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Of each call; all take turns, so that all see the same load, after two rounds that do not count."""
    import statistics

    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(2 + repeats):
        for call, times in zip(calls, taken, strict=True):
            begin = time.perf_counter()
            call()
            times.append((time.perf_counter() - begin) * 1e3)
    medians = [statistics.median(times[2:]) for times in taken]
    assert all(math.isfinite(value) and value > 0 for value in medians)
    return medians
