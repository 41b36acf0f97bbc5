"""How far a chunk is from the limit of the machine: what it has to read and compute, and what the processor does of it per second.

Both are measured here, by the same library and with the same threads as the chunk: reading weights by a product of a matrix with
a vector, computing by one of two matrices.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from flow_policy_ros.models.conditioning import Conditioning
    from flow_policy_ros.models.network import VelocityNetwork

LARGE = 256 * 2**20
"""Bytes that no cache holds."""
SIDE = 1024
SECONDS = 0.5


@dataclass(frozen=True)
class Work:
    """Bytes of weights read once, and floating-point operations."""

    weight_bytes: int
    operations: int


@dataclass(frozen=True)
class Machine:
    """Bytes per second from memory, and operations per second, float32."""

    memory_bytes_s: float
    operations_s: float

    @staticmethod
    def measure() -> Machine:
        """With as many threads as torch has now. About a second."""
        import torch

        side = torch.randn(SIDE, SIDE)
        fastest = _fastest(lambda: torch.mm(side, side))
        return Machine(read_bytes_s(LARGE), 2 * SIDE**3 / fastest)

    def best(self, other: Machine) -> Machine:
        """The better of both: what else runs on a machine can only make it look slower than it is."""
        return Machine(max(self.memory_bytes_s, other.memory_bytes_s), max(self.operations_s, other.operations_s))


def read_bytes_s(size: int) -> float:
    """Bytes per second at which ``size`` bytes are read again and again: from a cache where they fit into one."""
    import torch

    columns = 1024
    matrix, vector = torch.randn(max(1, size // (4 * columns)), columns), torch.randn(columns)
    return 4 * matrix.numel() / _fastest(lambda: torch.mv(matrix, vector))


def work_of(network: VelocityNetwork, observation: Conditioning) -> tuple[Work, Work]:
    """Of conditioning on ``observation`` and of one evaluation of the velocity."""
    import torch

    x, t = torch.randn(len(observation), network.shape.horizon, network.shape.action), torch.rand(len(observation))
    with torch.no_grad():
        cache = network.condition(observation)
        return (
            counted(network, lambda: network.condition(observation)),
            counted(network, lambda: network.velocity(x, t, cache)),
        )


def counted(module: torch.nn.Module, call: Callable[[], object]) -> Work:
    """The weights of ``module`` that ``call`` reads, and its operations, as torch counts those of products and convolutions."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import FlopCounterMode

    sizes = {p.untyped_storage().data_ptr(): p.numel() * p.element_size() for p in module.parameters()}
    read: set[int] = set()

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = tree_leaves((args, kwargs or {}))
            read.update(part.untyped_storage().data_ptr() for part in given if isinstance(part, torch.Tensor))
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), FlopCounterMode(display=False) as operations, Reads():
        call()
    return Work(sum(sizes[place] for place in read & set(sizes)), int(operations.get_total_flops()))


def limits_ms(condition: Work, velocity: Work, evaluations: int, machine: Machine, weights_bytes_s: float) -> dict[str, float]:
    """The least a chunk can take, in ms: ``memory`` where weights come from memory in each evaluation, ``weights`` where they are
    read at ``weights_bytes_s`` (see ``read_bytes_s``), ``operations`` at the processor's peak. ``limit`` is the greater one of the
    last two."""
    read = condition.weight_bytes + evaluations * velocity.weight_bytes
    weights, memory = read / weights_bytes_s, read / machine.memory_bytes_s
    computed = (condition.operations + evaluations * velocity.operations) / machine.operations_s
    found = {"memory": memory, "weights": weights, "operations": computed, "limit": max(weights, computed)}
    return {f"{name}_ms": round(1e3 * value, 4) for name, value in found.items()}


def _fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest of the calls that fit ``SECONDS``."""
    call()
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < SECONDS:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best
