"""Exported graphs in the place of a network: the same ``condition`` and ``velocity``, by ONNX Runtime or OpenVINO.

What the graphs are and how they are made is ``graphs``'. Nothing here differentiates: exact real-time chunking needs the network
itself.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.models.network import VelocityNetwork
from flow_policy_ros.policy.graphs import CONDITION, FOLDER, OBSERVATION, VELOCITY, ExportError, Manifest

Array = NDArray[Any]


class Runner(Protocol):
    """One graph: arrays by name in, arrays in the graph's order out. ``inputs``: the names that it reads."""

    inputs: tuple[str, ...]

    def run(self, values: dict[str, Array]) -> list[Array]: ...


class OnnxRuntime:
    """``Runner`` by ONNX Runtime: TensorRT or CUDA where its build offers them, else the CPU."""

    def __init__(self, path: Path, threads: int) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else importing it numbers this machine and reports its use
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        wanted = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
        there = onnxruntime.get_available_providers()
        self._session = onnxruntime.InferenceSession(path, options, providers=[name for name in wanted if name in there])
        self.inputs = tuple(part.name for part in self._session.get_inputs())

    def run(self, values: dict[str, Array]) -> list[Array]:
        """See ``Runner``."""
        return list(self._session.run(None, {name: values[name] for name in self.inputs}))


class OpenVino:
    """``Runner`` by OpenVINO on the CPU, in float32 whatever shorter format the processor offers."""

    def __init__(self, path: Path, threads: int) -> None:
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        compiled = _openvino().compile_model(path, "CPU", settings)
        self._request = compiled.create_infer_request()
        self._outputs = compiled.outputs
        self.inputs = tuple(part.get_any_name() for part in compiled.inputs)

    def run(self, values: dict[str, Array]) -> list[Array]:
        """See ``Runner``."""
        found = self._request.infer({name: values[name] for name in self.inputs})
        return [np.array(found[part]) for part in self._outputs]  # a copy: the request reuses its memory


@functools.cache
def _openvino() -> Any:
    """One core, kept as long as the process lives. While one exists, signals of this thread run on a stack of its own; with it that
    stack goes, but the thread is not told: the next signal, such as the one that asks the process to end, then kills it."""
    import openvino

    return openvino.Core()


RUNNERS: dict[str, type[OnnxRuntime] | type[OpenVino]] = {"onnx": OnnxRuntime, "openvino": OpenVino}
BACKENDS = ("torch", *RUNNERS, "compiled")
"""What may evaluate a network: ``policy.backend``; the last is ``policy.compiled``."""


class ExportedNetwork(VelocityNetwork):
    """See the module. ``batches``: whether the graphs take batches of any size; else samples go through them one by one.

    The cache is a dictionary of arrays by name for each run of a graph.
    """

    differentiable = False
    time_per_step = False

    def __init__(self, shape: NetworkShape, condition: Runner, velocity: Runner, batches: bool) -> None:
        super().__init__(shape)
        self._first, self._then, self._batches = condition, velocity, batches

    @staticmethod
    def load(checkpoint: Path, shape: NetworkShape, backend: str, threads: int = 1) -> ExportedNetwork:
        """The graphs of a checkpoint folder. Raises ``ExportError`` for an unknown backend, one that is not installed, and graphs
        that are missing, damaged, or of other weights."""
        if backend not in RUNNERS:
            raise ExportError(f"backend is '{backend}', expected one of {', '.join(BACKENDS)}.")
        manifest, runner = Manifest.read(checkpoint), RUNNERS[backend]
        try:
            first, then = (runner(checkpoint / FOLDER / name, threads) for name in (CONDITION, VELOCITY))
            return ExportedNetwork(shape, first, then, manifest.batches)
        except ImportError as error:
            raise ExportError(f"{error.name} is not installed; pip install -r requirements/export.txt.") from error
        except (RuntimeError, OSError) as error:
            raise ExportError(f"{backend} cannot read the graphs in {checkpoint / FOLDER}: {error}. Export them again.") from error

    def _condition(self, observation: Conditioning) -> list[dict[str, Array]]:
        given = {name: getattr(observation, name).numpy() for name in OBSERVATION}
        caches = []
        for rows in self._runs(len(observation)):
            found = self._first.run({name: values[rows] for name, values in given.items()})
            caches.append({f"cache_{number}": array for number, array in enumerate(found)})
        return caches

    def _velocity(self, x: torch.Tensor, t: torch.Tensor, cache: list[dict[str, Array]]) -> torch.Tensor:
        if t.ndim == 2:
            raise ExportError("a time per step is not in the exported graphs (committed prefixes, rtc_trained); use backend torch.")
        if x.requires_grad:
            raise ExportError("exported graphs have no gradient (rtc); use mode rtc_identity, or backend torch.")
        given, times = x.numpy(), t.numpy()
        runs = zip(self._runs(len(x)), cache, strict=True)
        parts = [self._then.run({"x": given[rows], "t": times[rows], **own})[0] for rows, own in runs]
        return torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def _runs(self, batch: int) -> list[slice]:
        """The samples of each run of a graph."""
        return [slice(None)] if self._batches else [slice(k, k + 1) for k in range(batch)]
