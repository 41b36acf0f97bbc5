"""A network compiled for this machine, by torch's Inductor and the C++ compiler: ``policy.backend`` compiled.

Ahead of time (``torch.export``, then AOTInductor), not by ``torch.compile``: the weights become part of the program and can be
packed, nothing is guarded in each call, and nothing is ever compiled in the middle of a run (docs/benchmarks.md has the
difference). The program serves one sample with one time. Whatever else is asked for (batches, guidance, a time per step,
gradients) the network itself answers, from the same cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flow_policy_ros.models.conditioning import Conditioning
from flow_policy_ros.models.network import VelocityNetwork
from flow_policy_ros.models.suffix import DeepFusion
from flow_policy_ros.policy.graphs import OBSERVATION, ConditionModule, VelocityModule, example, tensors_of, with_tensors

TOLERANCE = 1e-4
"""Greatest difference of a velocity from the network's, as a share of the greatest velocity or of 1, whichever is more."""
PROGRAMS = ("condition", "velocity")
TIMES = (0.0, 0.3, 0.9)
"""At which the velocities are compared."""

Program = Callable[..., Any]


class CompileError(ValueError):
    """A network that cannot be compiled here, with the reason."""


@dataclass(frozen=True)
class Seen:
    """The tensors of the network's cache for one observation, as the compiled condition made them."""

    tensors: tuple[torch.Tensor, ...]


class CompiledNetwork(VelocityNetwork):
    """``network`` with its two programs: see the module. A cache is a ``Seen`` for one sample, else the network's own."""

    def __init__(self, network: VelocityNetwork, condition: Program, velocity: Program) -> None:
        super().__init__(network.shape)
        self.network = network
        self._first, self._then = condition, velocity
        with torch.no_grad():
            self._like = network.condition(example(network.shape))

    def _condition(self, observation: Conditioning) -> Any:
        given = [getattr(observation, name) for name in OBSERVATION]
        if len(observation) != 1 or observation.prefix is not None or observation.state.dtype != torch.float32:
            return self.network.condition(observation)
        # A program reads memory as it lay when it was compiled, and does not ask how it lies now.
        made = self._first(*(part.contiguous() for part in given))
        return Seen(tuple(tensor.contiguous() for tensor in made))

    def _velocity(self, x: torch.Tensor, t: torch.Tensor, cache: Any) -> torch.Tensor:
        if not isinstance(cache, Seen):
            return self.network.velocity(x, t, cache)
        if len(x) != 1 or t.ndim != 1 or x.requires_grad or not x.dtype == t.dtype == torch.float32:
            return self.network.velocity(x, t, with_tensors(self._like, iter(cache.tensors)))
        velocity: torch.Tensor = self._then(x.contiguous(), t.contiguous(), *cache.tensors)
        return velocity


def compiled_or_eager(network: VelocityNetwork) -> VelocityNetwork:
    """The compiled network; where there can be none, ``network`` itself and one ``RuntimeWarning`` that says why."""
    try:
        return compiled(network)
    except CompileError as error:
        warnings.warn(f"policy.backend compiled: {error} The policy runs uncompiled, in torch.", RuntimeWarning, stacklevel=2)
        return network


def compiled(network: VelocityNetwork, kept: Path | None = None) -> CompiledNetwork:
    """``network`` compiled, for as many threads as torch has now; from the folder ``kept`` where that was done before.

    It takes about a minute, else a second. Raises ``CompileError`` when it cannot be done, or when it gives other velocities.
    """
    if isinstance(network, DeepFusion):
        raise CompileError("it holds a vision-language model, which runs in torch only.")
    folder = (kept or kept_folder()) / _key(network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecated calls
        try:
            if not all((folder / f"{name}.pt2").is_file() for name in PROGRAMS):
                _build(network, folder)
            programs = [torch._inductor.aoti_load_package(str(folder / f"{name}.pt2")) for name in PROGRAMS]
            made = CompiledNetwork(network, *programs).eval()
            difference = parity(network, made)
        except CompileError:
            raise
        except Exception as error:  # export, code generator, compiler and loader raise whatever they raise
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise CompileError(f"it cannot be compiled ({type(error).__name__}: {reason}).") from error
    if not difference <= TOLERANCE:
        raise CompileError(f"the program in {folder} gives other velocities (by {difference:.2g} of {TOLERANCE:g}); remove it.")
    return made


def parity(network: VelocityNetwork, made: VelocityNetwork) -> float:
    """The greatest difference between the velocities of both at a random observation, as ``TOLERANCE`` means it. The random state
    stays as it is."""
    shape, generator = network.shape, torch.Generator().manual_seed(0)
    state = torch.randn(1, shape.state, generator=generator)
    observation = Conditioning.of(state, torch.randn(1, shape.tokens, shape.channels, generator=generator))
    x = torch.randn(1, shape.horizon, shape.action, generator=generator)
    worst = 0.0
    with torch.inference_mode():
        caches = network.condition(observation), made.condition(observation)
        for time in TIMES:
            t = torch.full((1,), time)
            expected, given = (n.velocity(x, t, cache) for n, cache in zip((network, made), caches, strict=True))
            difference = ((given - expected).abs().max() / expected.abs().max().clamp(min=1.0)).item()
            if not difference <= worst:  # NaN, too
                worst = difference
    return worst


def kept_folder() -> Path:
    """Where programs are kept: ``compiled`` in ``$XDG_CACHE_HOME/flow_policy_ros`` or ``~/.cache/flow_policy_ros``. They may be
    deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flow_policy_ros" / "compiled"


def _key(network: VelocityNetwork) -> str:
    """Everything that a program depends on: weights, code of the networks, sizes, torch, threads, processor."""
    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy())
    import flow_policy_ros.models as models

    for path in sorted(Path(next(iter(models.__path__))).glob("*.py")):
        found.update(path.read_bytes())
    facts = (type(network).__name__, network.shape, torch.__version__, torch.get_num_threads(), _processor())
    found.update(repr(facts).encode())
    return found.hexdigest()[:32]


def _processor() -> list[str]:
    """Name and abilities: a program made for another one may stop with an illegal instruction."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    import platform

    return [platform.machine(), platform.processor(), torch.backends.cpu.get_cpu_capability()]


def _build(network: VelocityNetwork, folder: Path) -> None:
    """Compile both programs into ``folder``, which appears when they are complete."""
    compiler = shlex.split(os.environ.get("CXX", "g++"))[0]
    if shutil.which(compiler) is None:
        raise CompileError(f"there is no C++ compiler ({compiler}); install g++ (apt-get install g++), or name one by CXX.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    observation, shape = example(network.shape), network.shape
    given = tuple(getattr(observation, name) for name in OBSERVATION)
    with tempfile.TemporaryDirectory(dir=folder.parent) as partial, torch.no_grad():
        cache = network.condition(observation)
        into = (torch.zeros(1, shape.horizon, shape.action), torch.zeros(1), *(part.contiguous() for part in tensors_of(cache)))
        modules = (ConditionModule(network).eval(), given), (VelocityModule(network, cache).eval(), into)
        (Path(partial) / "made").mkdir()
        for name, (module, inputs) in zip(PROGRAMS, modules, strict=True):
            program = torch.export.export(module, inputs)
            path = str(Path(partial) / "made" / f"{name}.pt2")
            torch._inductor.aoti_compile_and_package(program, package_path=path, inductor_configs={"freezing": True})
        with contextlib.suppress(OSError):  # another process was first
            (Path(partial) / "made").rename(folder)
    if not folder.is_dir():
        raise CompileError(f"{folder.parent} cannot be written; set XDG_CACHE_HOME to a folder where you may write.")
